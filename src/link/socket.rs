//! An operation of links over sockets: ending both directions at once.
//!
//! Best effort: over other transports it does nothing.

use std::net::Shutdown;

use socket2::SockRef;

use crate::stream::TimedStream;

/// Ends both directions now, so that the other end notices it in the middle of a message, before
/// the stream is dropped.
pub(super) fn cut<S: TimedStream>(stream: &S) {
    // An error means that the connection has ended already.
    let _ = stream.socket().map(|fd| SockRef::from(&fd).shutdown(Shutdown::Both));
}
