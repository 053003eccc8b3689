//! The trait of byte streams for blocking links: reads and writes, each with a deadline.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use socket2::SockRef;

/// A byte stream for a blocking [`link`](crate::link): `Read` and `Write`, each with a timeout.
///
/// Implemented for [`Stream`](crate::stream::Stream), `TcpStream` and `UnixStream`; wrap anything
/// else (a serial line, a test pipe) in [`Untimed`].
///
/// ```
/// use std::io::{self, Read, Write};
/// use std::time::Duration;
/// use reverse_http::stream::TimedStream;
///
/// /// A serial line, whose driver has deadlines of its own kind.
/// # struct Serial;
/// # impl Serial { fn deadline(&mut self, _: Option<Duration>) -> io::Result<()> { Ok(()) } }
/// # impl Read for Serial { fn read(&mut self, _: &mut [u8]) -> io::Result<usize> { Ok(0) } }
/// # impl Write for Serial {
/// #     fn write(&mut self, bytes: &[u8]) -> io::Result<usize> { Ok(bytes.len()) }
/// #     fn flush(&mut self) -> io::Result<()> { Ok(()) }
/// # }
/// impl TimedStream for Serial {
///     fn limit_read(&mut self, time: Option<Duration>) -> io::Result<()> {
///         self.deadline(time)
///     }
///     fn limit_write(&mut self, time: Option<Duration>) -> io::Result<()> {
///         self.deadline(time)
///     }
/// }
/// ```
pub trait TimedStream: Read + Write + Send {
    /// The longest time that one `read` may block; `None`: without limit.
    ///
    /// # Errors
    /// The operating system refused.
    fn limit_read(&mut self, time: Option<Duration>) -> io::Result<()>;
    /// The longest time that one `write` may block; `None`: without limit.
    ///
    /// # Errors
    /// The operating system refused.
    fn limit_write(&mut self, time: Option<Duration>) -> io::Result<()>;
    /// The current time for the link's deadlines: that of the operating system, unless the
    /// transport has a clock of its own.
    fn now(&self) -> Instant {
        Instant::now()
    }
    /// The socket below it, if there is one: then a link can check for data without waiting,
    /// half-close, and reset.
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// Reads what has arrived, without waiting. `None`: nothing has, or the transport cannot tell.
    /// `Some(Ok(0))`: the peer closed. The default reads from [`socket`](Self::socket); a layer
    /// between link and socket (TLS, say) has to override this and the next two methods.
    fn read_arrived(&mut self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        let fd = self.socket()?;
        let socket = SockRef::from(&fd);
        if let Err(error) = socket.set_nonblocking(true) {
            return Some(Err(error));
        }
        let got = (&*socket).read(buf);
        if let Err(error) = socket.set_nonblocking(false) {
            return Some(Err(error));
        }
        arrived(got)
    }
    /// Called when the gateway has asked this link to leave (a heartbeat with `Connection: close`).
    /// The gateway is answered when this returns, so a device may first dial another link. The
    /// default does nothing.
    fn before_goaway(&mut self) {}
    /// Called when the gateway reports how many callers wait for this device while none of its
    /// links is free, so that a device may dial more. The default does nothing.
    fn callers_wait(&mut self, _callers: usize) {}
    /// Tells the peer that nothing more will be sent, while data from it can still be read. Returns
    /// true if that was possible.
    fn half_close(&self) -> bool {
        self.socket().is_some_and(|fd| SockRef::from(&fd).shutdown(Shutdown::Write).is_ok())
    }
    /// Makes dropping the stream a reset (TCP), so that the end of a body that lasts until the
    /// connection ends does not look clean.
    fn reset_when_dropped(&self) {
        let Some(fd) = self.socket() else { return };
        if let Err(error) = SockRef::from(&fd).set_linger(Some(Duration::ZERO)) {
            log::debug!("a connection will end with FIN instead of RST: {error}");
        }
    }
}

/// An empty socket counts as no result.
pub(super) fn arrived(got: io::Result<usize>) -> Option<io::Result<usize>> {
    match got {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        got => Some(got),
    }
}

/// Makes a [`TimedStream`] without timeouts of any `Read + Write`; its reads and writes may block
/// without limit.
///
/// ```
/// use std::sync::Arc;
/// use reverse_http::{DeviceLink, Limits, stream::Untimed};
///
/// let bytes = std::io::Cursor::new(b"GET /status HTTP/1.1\r\nHost: lamp\r\n\r\n".to_vec());
/// let mut link = DeviceLink::new(Untimed(bytes), Vec::new(), Arc::new(Limits::default()));
/// assert!(link.next_request()?.is_some_and(|request| request.uri() == "/status"));
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Debug)]
pub struct Untimed<T>(pub T);

impl<T: Read> Read for Untimed<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<T: Write> Write for Untimed<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(bufs)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<T: Read + Write + Send> TimedStream for Untimed<T> {
    fn limit_read(&mut self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
    fn limit_write(&mut self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
}

/// Implements [`TimedStream`] for sockets with the timeouts of the standard library; the methods in
/// braces replace provided ones.
macro_rules! timed_transport {
    ($type:ty { $($provided:tt)* }) => {
        impl TimedStream for $type {
            fn limit_read(&mut self, time: Option<Duration>) -> io::Result<()> {
                self.set_read_timeout(time)
            }
            fn limit_write(&mut self, time: Option<Duration>) -> io::Result<()> {
                self.set_write_timeout(time)
            }
            fn socket(&self) -> Option<BorrowedFd<'_>> {
                Some(self.as_fd())
            }
            $($provided)*
        }
    };
}
pub(super) use timed_transport;

timed_transport! { TcpStream {} }
timed_transport! { UnixStream {} }
