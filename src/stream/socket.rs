//! A connected socket of one of the kinds that a gateway or a device can own.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::clock::{Clock, Exists};

#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// One end of a connection within this process, on a test's clock.
    Within(Within),
    #[cfg(test)]
    Sim(crate::sim::net::Socket),
}

/// One end of a connection within this process, on a test's clock. Without such a clock, there are
/// none.
#[derive(Debug)]
pub(super) struct Within {
    pub(super) end: Arc<End>,
    exists: Exists,
}

#[derive(Debug)]
pub(crate) struct End {
    socket: UnixStream,
    pub(super) clock: Clock,
    /// If set, bytes that are written here are lost. Both sockets are then kept open, so that their
    /// ends are lost, too.
    lost: Arc<OnceLock<[UnixStream; 2]>>,
}

impl Within {
    #[cfg(feature = "test-clock")]
    pub(super) fn pair(clock: &Clock) -> io::Result<[Self; 2]> {
        let lost = Arc::<OnceLock<_>>::default();
        let (one, other) = UnixStream::pair()?;
        Ok([one, other].map(|socket| {
            let (clock, lost) = (clock.clone(), Arc::clone(&lost));
            Within { end: Arc::new(End { socket, clock, lost }), exists: Exists }
        }))
    }

    fn again(&self) -> Socket {
        Socket::Within(Within { end: Arc::clone(&self.end), exists: self.exists })
    }

    fn is_stalled(&self) -> bool {
        self.end.lost.get().is_some()
    }
}

#[cfg(feature = "test-clock")]
impl End {
    /// Ends the connection while it may be in use. `ends` are its two ends.
    pub(crate) fn break_off(ends: [&Self; 2]) {
        if let Err(e) = ends[0].socket.shutdown(Shutdown::Both) {
            log::debug!("a connection within this process was over already: {e}");
        }
    }

    /// Loses all further bytes, and the ends of both sides.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn stall(ends: [&Self; 2]) -> io::Result<()> {
        let held = [ends[0].socket.try_clone()?, ends[1].socket.try_clone()?];
        ends[0].lost.get_or_init(|| held);
        Ok(())
    }
}

/// Dispatches to a socket of either kind, or a simulated one.
macro_rules! either {
    ($socket:expr, $s:ident => $real:expr, simulated: $simulated:expr) => {
        match $socket {
            Socket::Tcp($s) => $real,
            Socket::Unix($s) => $real,
            Socket::Within(within) => {
                let $s = &within.end.socket;
                $real
            }
            #[cfg(test)]
            Socket::Sim($s) => $simulated,
        }
    };
}

impl Socket {
    pub(super) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        either!(self, s => s.set_nonblocking(nonblocking), simulated: s.set_nonblocking())
    }
    pub(super) fn set_read_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        either!(self, s => s.set_read_timeout(time), simulated: s.descriptor())
    }
    pub(super) fn set_write_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        either!(self, s => s.set_write_timeout(time), simulated: s.descriptor())
    }
    #[cfg(feature = "tls")]
    pub(super) fn read_timeout(&self) -> io::Result<Option<Duration>> {
        either!(self, s => s.read_timeout(), simulated: s.descriptor())
    }
    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let how = match (self, how) {
            (Socket::Within(s), Shutdown::Write) if s.is_stalled() => return Ok(()),
            (Socket::Within(s), _) if s.is_stalled() => Shutdown::Read, // only for its own threads
            _ => how,
        };
        either!(self, s => s.shutdown(how), simulated: s.shutdown(how))
    }
    pub(super) fn try_clone(&self) -> io::Result<Socket> {
        Ok(match self {
            Socket::Tcp(s) => Socket::Tcp(s.try_clone()?),
            Socket::Unix(s) => Socket::Unix(s.try_clone()?),
            Socket::Within(s) => s.again(),
            #[cfg(test)]
            Socket::Sim(s) => Socket::Sim(s.try_clone()),
        })
    }
    pub(super) fn take_error(&self) -> io::Result<Option<io::Error>> {
        either!(self, s => s.take_error(), simulated: Ok(s.take_error()))
    }
    /// [`Stream::tune`](crate::stream::Stream::tune).
    pub(super) fn tune(&self) -> io::Result<()> {
        let Socket::Tcp(stream) = self else { return Ok(()) };
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(30));
        #[cfg(any(
            target_os = "linux",
            target_os = "android",
            target_os = "freebsd",
            target_os = "netbsd",
            target_vendor = "apple"
        ))]
        let keepalive = keepalive.with_interval(Duration::from_secs(10)).with_retries(3);
        socket.set_tcp_keepalive(&keepalive)?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        socket.set_tcp_user_timeout(Some(Duration::from_secs(60)))?;
        Ok(())
    }

    /// With the last handle the connection ends with a reset (TCP).
    pub(super) fn reset_when_closed(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(s) => SockRef::from(s).set_linger(Some(Duration::ZERO)),
            Socket::Unix(_) | Socket::Within(_) => Ok(()),
            #[cfg(test)]
            Socket::Sim(s) => s.abort(),
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        either!(self, s => s.as_raw_fd(), simulated: s.descriptor())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        either!(self, s => s.as_fd(), simulated: s.descriptor())
    }
}

impl Read for &Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        either!(self, s => (&*s).read(buf), simulated: s.read(buf))
    }
}

/// Returns true if the system had no descriptor, memory or port left for a connection. It may have
/// one later.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    const NOTHING_LEFT: [libc::c_int; 5] =
        [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| NOTHING_LEFT.contains(&code))
}

/// A write to a connection that the other end has closed is an error, and causes no SIGPIPE: a
/// program that does not begin in Rust (capi/) may not ignore that signal.
const NO_SIGNAL: libc::c_int = {
    let flags = 0; // without such a flag, the standard library has set SO_NOSIGPIPE
    #[cfg(any(
        target_os = "linux",
        target_os = "android",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd"
    ))]
    let flags = flags | libc::MSG_NOSIGNAL;
    flags
};

impl Write for &Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(s) => (&*s).write(buf), // it causes no signal, as below
            Socket::Unix(s) => SockRef::from(s).send_with_flags(buf, NO_SIGNAL),
            Socket::Within(s) if s.is_stalled() => Ok(buf.len()),
            Socket::Within(s) => SockRef::from(&s.end.socket).send_with_flags(buf, NO_SIGNAL),
            #[cfg(test)]
            Socket::Sim(s) => s.write(buf),
        }
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Within(s) if s.is_stalled() => return Ok(bufs.iter().map(|b| b.len()).sum()),
            _ => {}
        }
        either!(
            self,
            s => SockRef::from(s).send_vectored_with_flags(bufs, NO_SIGNAL),
            simulated: s.write_vectored(bufs)
        )
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
