//! What a link can do more when there is a socket under it: look without waiting, half-close, reset.
//!
//! Everything here is best effort: over any other transport a link does without.

use std::io::{self, Read};
use std::net::Shutdown;
use std::time::Duration;

use socket2::SockRef;

use crate::stream::Transport;

/// Reads what has arrived, without waiting. `None`: nothing has, or the transport cannot tell. `Some(Ok(0))`: the peer closed.
pub(super) fn read_arrived<S: Transport>(stream: &S, buf: &mut [u8]) -> Option<io::Result<usize>> {
    let fd = stream.socket()?;
    let socket = SockRef::from(&fd);
    if let Err(error) = socket.set_nonblocking(true) {
        return Some(Err(error));
    }
    let got = (&*socket).read(buf);
    if let Err(error) = socket.set_nonblocking(false) {
        return Some(Err(error));
    }
    match got {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        got => Some(got),
    }
}

/// Tells the peer that nothing more will come, while what it still sends can be read. Whether that was possible.
pub(super) fn half_close<S: Transport>(stream: &S) -> bool {
    stream.socket().is_some_and(|fd| SockRef::from(&fd).shutdown(Shutdown::Write).is_ok())
}

/// Ends both directions now, so that a peer in the middle of a message notices before the stream is dropped.
pub(super) fn cut<S: Transport>(stream: &S) {
    // An error here means that the connection is gone already.
    let _ = stream.socket().map(|fd| SockRef::from(&fd).shutdown(Shutdown::Both));
}

/// Makes the drop of the stream a reset (TCP): the end of a body that ends with the connection must not look clean.
pub(super) fn reset_when_dropped<S: Transport>(stream: &S) {
    let Some(fd) = stream.socket() else { return };
    if let Err(error) = SockRef::from(&fd).set_linger(Some(Duration::ZERO)) {
        log::debug!("a connection will end with FIN instead of RST: {error}");
    }
}
