//! What a link can do more when there is a socket under it: end both directions at once.
//!
//! Best effort: over any other transport a link does without.

use std::net::Shutdown;

use socket2::SockRef;

use crate::stream::TimedStream;

/// Ends both directions now, so that a peer in the middle of a message notices before the stream is
/// dropped.
pub(super) fn cut<S: TimedStream>(stream: &S) {
    // An error here means that the connection is gone already.
    let _ = stream.socket().map(|fd| SockRef::from(&fd).shutdown(Shutdown::Both));
}
