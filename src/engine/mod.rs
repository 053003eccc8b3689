//! Layer 3: the event loop, its table of connections, its timers, and the elastic pool of worker
//! threads.
//!
//! One thread runs the loop and owns every socket that no program code is using. What it drives
//! upwards (visitors, offers, relays) it reaches through one statically dispatched [`Role`]; it
//! never runs a user's code and never blocks.
//!
//! ```text
//! mio events ─► Connections (slots, flags, buffers) ─► Role::ready / expired / alarm / command
//!                  ▲                                   │
//!                  └── insert, send, close, deadline ──┘        remove() ─► a worker, blocking
//! ```

pub(crate) mod budget;
pub(crate) mod connection;
pub(crate) mod connections;
pub(crate) mod departed;
pub(crate) mod event_loop;
pub(crate) mod group;
mod handshakes;
pub(crate) mod permits;
pub(crate) mod random;
#[cfg(test)]
pub(crate) mod simulated;
pub(crate) mod slab;
pub(crate) mod timers;
pub(crate) mod workers;

use std::net::SocketAddr;

use crate::engine::connections::{Connections, Id};
use crate::stream::{HandshakeError, Stream};

/// Why accepting waits.
pub(crate) const FULL: &str = "the event loop holds as many connections as connections_max allows";

/// What a gateway or a device does with what happens on its loop. Every method is one short,
/// bounded step.
pub(crate) trait Role: Sized {
    /// What the role keeps for each connection.
    type State;
    /// What other threads ask of the loop.
    type Command: Send + 'static;

    /// A listener (numbered as it was given to the loop) accepted a connection.
    fn accepted(
        &mut self,
        cx: &mut Connections<Self::State>,
        listener: usize,
        stream: Stream,
        from: SocketAddr,
    );
    /// Whether another connection may come in by this listener. `Err`: why accepting there has to
    /// wait until a connection closes.
    fn admits(
        &mut self,
        cx: &mut Connections<Self::State>,
        _listener: usize,
    ) -> Result<(), &'static str> {
        if cx.is_full() { Err(FULL) } else { Ok(()) }
    }
    /// A connection waits at this listener and is not admitted.
    fn crowded(&mut self, _cx: &mut Connections<Self::State>, _listener: usize) {}
    /// Descriptors have run out: closes a connection that can be spared. Returns false if there is
    /// none.
    fn spares(&mut self, _cx: &mut Connections<Self::State>) -> bool {
        false
    }
    /// A handshake that [`Connections::secure`] began is over: what is read and written from here
    /// on goes through its session, or there is none.
    fn secured(
        &mut self,
        cx: &mut Connections<Self::State>,
        id: Id,
        outcome: Result<(), HandshakeError>,
    );
    /// A connection may be read or written, or [`Connections::again`] asked for another step.
    fn ready(&mut self, cx: &mut Connections<Self::State>, id: Id);
    /// A connection's deadline passed; it is unset now.
    fn expired(&mut self, cx: &mut Connections<Self::State>, id: Id);
    /// An alarm that [`Connections::alarm`] set.
    fn alarm(&mut self, cx: &mut Connections<Self::State>, key: u64);
    /// Another thread asked for something.
    fn command(&mut self, cx: &mut Connections<Self::State>, command: Self::Command);
    /// Returns true if the loop may end (asked after every turn of it).
    fn finished(&self, cx: &Connections<Self::State>) -> bool;
    /// The loop has ended, as it may: nothing comes any more.
    fn ended(&mut self) {}
}
