//! What a program does behind a 101: the stream is its own, plain and blocking.
//!
//! A handler returns [`upgrade`]'s response; when the 101 is written, its closure gets the stream,
//! on a thread of its own. Whether the connection is about to be cut, because this device or
//! the gateway stops, it learns from [`Stopping`].

use std::fmt;
use std::io;
use std::io::IoSlice;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use http::HeaderValue;
use http::Response;
use http::StatusCode;
use http::header;

use crate::device::lease::Busy;
use crate::device::lease::Ticket;
use crate::device::stopping::Phase;
use crate::device::stopping::Stopping;
use crate::link::DeviceLink;
use crate::message::Body;
use crate::stream::Shared;

/// A connection that was switched to another protocol: what is written goes to whoever asked, and
/// the other way round. No deadlines but those that are set here. Dropping it ends the connection.
pub struct Upgraded {
    pub(super) stream: Shared,
    /// Read behind the request, before the switch.
    pub(super) unread: io::Cursor<Vec<u8>>,
    pub(super) stopping: Stopping,
    pub(super) _busy: Busy, // before the ticket: the loop counts when it hears of the link's end
    _ticket: Ticket,
}

impl fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgraded").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Upgraded {
    pub(super) fn new(link: DeviceLink<Shared>, ticket: Ticket, busy: Busy) -> io::Result<Self> {
        let (stream, unread) = link.into_parts();
        let socket = stream.stream();
        socket.set_read_timeout(None)?;
        socket.set_write_timeout(None)?;
        let stopping = ticket.shared.upgrades.add();
        Ok(Upgraded {
            stream,
            unread: io::Cursor::new(unread),
            stopping,
            _busy: busy,
            _ticket: ticket,
        })
    }

    /// Tells when this connection is about to be cut: the device stops
    /// ([`DeviceHandle::stop`](crate::DeviceHandle::stop), or SIGTERM at the command), or its
    /// gateway has told it to go. A WebSocket says 1001 then, and ends. From another thread, beside
    /// a blocked read:
    ///
    /// ```no_run
    /// # fn handle(mut stream: reverse_http::Upgraded) -> std::io::Result<()> {
    /// use std::io::{Read, Write};
    /// let (stopping, mut writer) = (stream.stopping(), stream.writer()?);
    /// let waiter = std::thread::spawn(move || {
    ///     if stopping.wait() {
    ///         let _ = writer.write_all(b"\x88\x02\x03\xe9"); // a close frame with 1001
    ///     }
    /// });
    /// std::io::copy(&mut stream, &mut std::io::sink())?; // until the other side ends it
    /// drop(stream); // ends the wait
    /// let _ = waiter.join();
    /// # Ok(()) }
    /// ```
    pub fn stopping(&self) -> Stopping {
        self.stopping.clone()
    }

    /// Ends the connection with a reset: whoever asked sees that what it has is not whole. Dropping
    /// is a clean end, unless the thread panics.
    pub fn abort(self) {
        self.stream.stream().will_reset();
    }

    /// Longest time one `read` may block; `None`, the default: for ever.
    ///
    /// # Errors
    /// A time of zero, or the operating system refused.
    pub fn set_read_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        self.stream.stream().set_read_timeout(time)
    }

    /// Longest time one `write` may block; `None`, the default: for ever.
    ///
    /// # Errors
    /// A time of zero, or the operating system refused.
    pub fn set_write_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        self.stream.stream().set_write_timeout(time)
    }

    /// A second handle, to write from another thread while this one reads.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn writer(&self) -> io::Result<impl Write + Send + Sync + fmt::Debug + 'static> {
        self.stream.stream().try_clone()
    }

    /// Ends one or both directions; a thread that is blocked on the stream wakes up.
    ///
    /// # Errors
    /// It was not connected any more.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how == Shutdown::Both {
            let _ = self.stream.stream().shutdown(Shutdown::Write); // the end is meant; where it cannot be told, it is seen
        }
        self.stream.stream().shutdown(how)
    }
}

impl Drop for Upgraded {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.stream.stream().will_reset();
        }
        self.stopping.set(Phase::Over);
    }
}

impl Read for Upgraded {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.unread.read(buf)? {
            0 => self.stream.read(buf),
            n => Ok(n),
        }
    }
}

impl Write for Upgraded {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.write(buf)
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.stream.write_vectored(bufs)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) type Taker = Box<dyn FnOnce(Upgraded) + Send>;

/// In a response's extensions: what to do behind its 101. They want it to be `Clone` and `Sync`.
#[derive(Clone)]
struct Behind(Arc<Mutex<Option<Taker>>>);

/// A handler's answer to a request that offers `protocol` in `Upgrade` (a WebSocket, say): 101, and
/// then the stream is `take`'s. Fields that the protocol wants (`Sec-WebSocket-Accept`) are to be
/// added to the response. Where the request offered no upgrade, it is answered 500; a device that
/// polls is never offered one.
///
/// ```
/// use std::io::{BufRead, BufReader, Write};
/// use http::{HeaderValue, Request, Response};
/// use reverse_http::{Body, upgrade};
///
/// fn handler(request: Request<Body>) -> Response<Body> {
///     if request.headers().get("upgrade").is_none_or(|protocol| protocol != "lines") {
///         return Response::new(Body::from("speak lines with me"));
///     }
///     upgrade(HeaderValue::from_static("lines"), |mut stream| {
///         let Ok(mut writer) = stream.writer() else { return };
///         for line in BufReader::new(&mut stream).lines().map_while(Result::ok) {
///             if writeln!(writer, "you said {line}").is_err() {
///                 return;
///             }
///         }
///     })
/// }
/// ```
pub fn upgrade(
    protocol: HeaderValue,
    take: impl FnOnce(Upgraded) + Send + 'static,
) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::UPGRADE, protocol);
    response.extensions_mut().insert(Behind(Arc::new(Mutex::new(Some(Box::new(take))))));
    response
}

/// What a handler's response wants done behind its 101.
pub(super) fn taker(response: &mut Response<Body>) -> Option<Taker> {
    let behind = response.extensions_mut().remove::<Behind>()?;
    behind.0.lock().unwrap_or_else(PoisonError::into_inner).take()
}
