//! What a blocking link needs of a byte stream: reads, writes, and a deadline for each.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use socket2::SockRef;

/// What a blocking [`link`](crate::link) needs of a byte stream: `Read`, `Write`, and a deadline
/// for each.
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
    /// Longest time one `read` may block; `None`: for ever.
    ///
    /// # Errors
    /// The operating system refused.
    fn limit_read(&mut self, time: Option<Duration>) -> io::Result<()>;
    /// Longest time one `write` may block; `None`: for ever.
    ///
    /// # Errors
    /// The operating system refused.
    fn limit_write(&mut self, time: Option<Duration>) -> io::Result<()>;
    /// The time that the link's deadlines go by: the operating system's, unless the transport brings
    /// a clock of its own.
    fn now(&self) -> Instant {
        Instant::now()
    }
    /// The socket under it, where there is one: then a link can look without waiting, half-close,
    /// and reset.
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// Reads what has arrived, without waiting. `None`: nothing has, or the transport cannot tell.
    /// `Some(Ok(0))`: the peer closed. As it is, it reads from [`socket`](Self::socket); what
    /// stands between link and socket (TLS, say) has a way of its own, as for the next two.
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
    /// The peer, a gateway, has told this link to go (a heartbeat with `Connection: close`), and is
    /// answered when this returns: a device that dials links may dial another one first. Nothing,
    /// as it is.
    fn before_goaway(&mut self) {}
    /// The peer, a gateway, says that so many callers wait for this device while none of its links
    /// is free: a device that dials links may dial more. The default does nothing.
    fn callers_wait(&mut self, _callers: usize) {}
    /// Tells the peer that nothing more will come, while its own bytes can still be read. Returns
    /// true if that was possible.
    fn half_close(&self) -> bool {
        self.socket().is_some_and(|fd| SockRef::from(&fd).shutdown(Shutdown::Write).is_ok())
    }
    /// Makes the drop of the stream a reset (TCP): the end of a body that ends with the connection
    /// must not look clean.
    fn reset_when_dropped(&self) {
        let Some(fd) = self.socket() else { return };
        if let Err(error) = SockRef::from(&fd).set_linger(Some(Duration::ZERO)) {
            log::debug!("a connection will end with FIN instead of RST: {error}");
        }
    }
}

/// An empty socket has brought nothing.
pub(super) fn arrived(got: io::Result<usize>) -> Option<io::Result<usize>> {
    match got {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        got => Some(got),
    }
}

/// Any `Read + Write` as a [`TimedStream`] without deadlines: its reads and writes block as long as
/// they like.
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

/// Implements [`TimedStream`] for sockets that have the time-outs of the standard library's; what
/// stands in the braces replaces provided methods.
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
