//! What a link can do more when its stream is a socket it knows: look without waiting, half-close, reset.
//!
//! Everything here is best effort: over any other transport a link does without.

use std::any::Any;
use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;

use socket2::SockRef;

use crate::stream::Stream;

/// A stream that turned out to be one of these.
enum Known<'a> {
    Ours(&'a Stream),
    Tcp(&'a TcpStream),
    Unix(&'a UnixStream),
}

fn known<S: 'static>(stream: &S) -> Option<Known<'_>> {
    let any = stream as &dyn Any;
    let ours = any.downcast_ref().map(Known::Ours);
    ours.or_else(|| any.downcast_ref().map(Known::Tcp)).or_else(|| any.downcast_ref().map(Known::Unix))
}

impl Known<'_> {
    fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        match self {
            Known::Ours(s) => s.set_nonblocking(on),
            Known::Tcp(s) => s.set_nonblocking(on),
            Known::Unix(s) => s.set_nonblocking(on),
        }
    }

    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Known::Ours(s) => (&mut &**s).read(buf),
            Known::Tcp(s) => (&mut &**s).read(buf),
            Known::Unix(s) => (&mut &**s).read(buf),
        }
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Known::Ours(s) => s.shutdown(how),
            Known::Tcp(s) => s.shutdown(how),
            Known::Unix(s) => s.shutdown(how),
        }
    }
}

/// Reads what has arrived, without waiting. `None`: nothing has, or the transport cannot tell. `Some(Ok(0))`: the peer closed.
pub(super) fn read_arrived<S: 'static>(stream: &S, buf: &mut [u8]) -> Option<io::Result<usize>> {
    let socket = known(stream)?;
    if let Err(error) = socket.set_nonblocking(true) {
        return Some(Err(error));
    }
    let got = socket.read(buf);
    if let Err(error) = socket.set_nonblocking(false) {
        return Some(Err(error));
    }
    match got {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        got => Some(got),
    }
}

/// Tells the peer that nothing more will come, while what it still sends can be read. Whether that was possible.
pub(super) fn half_close<S: 'static>(stream: &S) -> bool {
    known(stream).is_some_and(|socket| socket.shutdown(Shutdown::Write).is_ok())
}

/// Ends both directions now, so that a peer in the middle of a message notices before the stream is dropped.
pub(super) fn cut<S: 'static>(stream: &S) {
    // An error here means that the connection is gone already.
    let _ = known(stream).map(|socket| socket.shutdown(Shutdown::Both));
}

/// Makes the drop of the stream a reset (TCP): the end of a body that ends with the connection must not look clean.
pub(super) fn reset_when_dropped<S: 'static>(stream: &S) {
    let linger = match known(stream) {
        // The option belongs to the socket, not to the handle: a second handle sets it.
        Some(Known::Ours(s)) => s.try_clone().and_then(Stream::abort),
        Some(Known::Tcp(s)) => SockRef::from(s).set_linger(Some(std::time::Duration::ZERO)),
        Some(Known::Unix(_)) | None => Ok(()),
    };
    if let Err(error) = linger {
        log::debug!("a connection will end with FIN instead of RST: {error}");
    }
}
