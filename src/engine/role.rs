//! The trait through which the event loop drives a gateway or a device.

use std::net::SocketAddr;

use crate::engine::connections::{Connections, FULL, Id};
use crate::stream::{HandshakeError, Stream};

/// The handlers of a gateway or a device for the events of its loop. Every method is one short,
/// bounded step.
pub(crate) trait Role: Sized {
    /// The role's state of each connection.
    type State;
    /// A request of another thread to the loop.
    type Command: Send + 'static;

    /// A listener accepted a connection; listeners are numbered in the order in which the loop got
    /// them.
    fn accepted(
        &mut self,
        cx: &mut Connections<Self::State>,
        listener: usize,
        stream: Stream,
        from: SocketAddr,
    );
    /// Whether another connection may be accepted at this listener. `Err` is the reason why
    /// accepting has to wait until a connection closes.
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
    /// A handshake that [`Connections::secure`] began has ended: it failed, or reads and writes go
    /// through its session from here on.
    fn secured(
        &mut self,
        cx: &mut Connections<Self::State>,
        id: Id,
        outcome: Result<(), HandshakeError>,
    );
    /// A connection can be read or written, or [`Connections::reschedule`] requested another step.
    fn ready(&mut self, cx: &mut Connections<Self::State>, id: Id);
    /// A connection's deadline passed; it is unset now.
    fn expired(&mut self, cx: &mut Connections<Self::State>, id: Id);
    /// An alarm that [`Connections::alarm`] set.
    fn alarm(&mut self, cx: &mut Connections<Self::State>, key: u64);
    /// Another thread sent a command.
    fn command(&mut self, cx: &mut Connections<Self::State>, command: Self::Command);
    /// Returns true if the loop may end. It is called after every turn.
    fn finished(&self, cx: &Connections<Self::State>) -> bool;
    /// The loop has ended after [`finished`](Self::finished): no other method is called any more.
    fn ended(&mut self) {}
}
