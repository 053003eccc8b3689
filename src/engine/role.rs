//! What the event loop drives: a gateway's or a device's part of it.

use std::net::SocketAddr;

use crate::engine::connections::{Connections, FULL, Id};
use crate::stream::{HandshakeError, Stream};

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
    /// A handshake that [`Connections::secure`] began is over: reads and writes go through its
    /// session from here on, or there is none.
    fn secured(
        &mut self,
        cx: &mut Connections<Self::State>,
        id: Id,
        outcome: Result<(), HandshakeError>,
    );
    /// A connection may be read or written, or [`Connections::reschedule`] asked for another step.
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
