//! A connection that was switched to another protocol, as a blocking stream for a program: a
//! device's handler, or a caller at the gateway.

mod stopping;

use std::any::Any;
use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use http::Response;

use crate::body::Body;
use crate::link::CutError;
use crate::stream::{Shared, Stream};
use stopping::Phase;
pub use stopping::Stopping;
pub(crate) use stopping::Upgrades;

/// A connection that was switched to another protocol: a plain stream of bytes to and from the
/// other side of the link. Only the timeouts set here apply. Dropping it ends the connection, also
/// for its [`writer`](Self::writer)s.
///
/// If this gateway cuts the connection (because of a [`Cancel`](crate::Cancel) or a stop), reads
/// and writes fail with an [`Error`](crate::Error) that says so. A read that returns the end of the
/// stream means that the other side has ended it.
///
/// A device's handler gets one after its 101 ([`upgrade`](crate::upgrade)); a program at the
/// gateway takes it from a response ([`from_response`](Self::from_response)). While it is open, it
/// counts as an exchange in progress: a drain waits for it as long as it may
/// ([`stopping`](Self::stopping)).
#[must_use = "the connection ends when it is dropped"]
pub struct Upgraded {
    stream: Shared,
    /// Bytes that were read after the head, before the switch.
    unread: io::Cursor<Vec<u8>>,
    stopping: Stopping,
    /// The slot for the reason why this side cuts the connection.
    cut_error: CutError,
    is_cut: bool,
    /// Tells the loop, when dropped, that the connection has ended.
    _hold: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgraded").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Upgraded {
    pub(crate) fn new(
        stream: Shared,
        unread: Vec<u8>,
        stopping: Stopping,
        cut_error: CutError,
        hold: impl Any + Send + Sync,
    ) -> io::Result<Self> {
        stream.stream().set_read_timeout(None)?;
        stream.stream().set_write_timeout(None)?;
        let unread = io::Cursor::new(unread);
        let hold = Box::new(hold);
        Ok(Upgraded { stream, unread, stopping, cut_error, is_cut: false, _hold: hold })
    }

    /// The connection after a 101, which [`DeviceRef::send`](crate::DeviceRef::send) returns for a
    /// request with `Upgrade` (a WebSocket, say). `None`: the device did not switch, or the
    /// connection was already taken. If it is never taken, it ends when the response is dropped.
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use std::time::Duration;
    /// use http::{Request, header};
    /// use reverse_http::{Body, Device, Gateway, Upgraded, upgrade};
    ///
    /// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    /// let url = format!("http://{}/echo", gateway.devices_addr());
    /// let device = Device::builder(url).build()?.spawn(|_request| {
    ///     upgrade("echo", |mut stream| {
    ///         let mut word = [0; 5];
    ///         let _ = stream.read_exact(&mut word).and_then(|()| stream.write_all(&word));
    ///     })
    /// })?;
    /// let echo = gateway.device("echo");
    /// echo.wait_connected(Duration::from_secs(5))?;
    ///
    /// let request = Request::get("/").header(header::UPGRADE, "echo").body(Body::empty())?;
    /// let mut response = echo.send(request)?;
    /// let mut stream = Upgraded::from_response(&mut response).expect("it answered 101");
    /// stream.write_all(b"hello")?;
    /// let mut text = String::new();
    /// stream.read_to_string(&mut text)?; // until the device ends it
    /// assert_eq!(text, "hello");
    /// # device.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_response(response: &mut Response<Body>) -> Option<Upgraded> {
        let behind = response.extensions_mut().remove::<Behind>()?;
        behind.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Puts this into the response, from which a program can take it.
    pub(crate) fn put_into(self, response: &mut Response<Body>) {
        response.extensions_mut().insert(Behind(Arc::new(Mutex::new(Some(self)))));
    }

    /// Returns a handle that reports when this connection is about to be cut: because this device
    /// or gateway stops ([`DeviceHandle::stop`](crate::DeviceHandle::stop),
    /// [`Gateway::drain`](crate::Gateway::drain), or SIGTERM at the command), or because the
    /// gateway has asked the device to leave. A WebSocket should then send 1001 and end. It can be
    /// used from another thread, beside a blocked read:
    ///
    /// ```no_run
    /// # fn handle(mut stream: reverse_http::Upgraded) -> std::io::Result<()> {
    /// use std::io::{Read, Write};
    /// let (stopping, mut writer) = (stream.stopping(), stream.writer());
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
    #[must_use]
    pub fn stopping(&self) -> Stopping {
        self.stopping.clone()
    }

    /// Ends the connection with a reset, which tells the other side that the data is incomplete.
    /// Dropping it is a clean end, unless the thread panics.
    pub fn abort(self) {
        self.stream.stream().will_reset();
    }

    /// The longest time that one `read` may block; `None`, the default: without limit.
    ///
    /// # Errors
    /// A time of zero, or the operating system refused.
    pub fn set_read_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        self.stream.stream().set_read_timeout(time)
    }

    /// The longest time that one `write` may block; `None`, the default: without limit.
    ///
    /// # Errors
    /// A time of zero, or the operating system refused.
    pub fn set_write_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        self.stream.stream().set_write_timeout(time)
    }

    /// Returns a second handle, to write from another thread while this one reads. It does not keep
    /// the connection open: when this is dropped, its writes fail
    /// ([`BrokenPipe`](io::ErrorKind::BrokenPipe)).
    #[must_use]
    pub fn writer(&self) -> impl Write + Send + Sync + fmt::Debug + 'static {
        Writer(self.stream.downgrade())
    }

    /// Ends one or both directions; a thread that is blocked on the stream wakes up.
    ///
    /// # Errors
    /// It was no longer connected.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match how {
            Shutdown::Both => self.stream.stream().finish(),
            how => self.stream.stream().shutdown(how),
        }
    }

    /// Why this side has cut the connection, if it did.
    fn cut(&mut self) -> Option<io::Error> {
        let cut = self.cut_error.lock().unwrap_or_else(PoisonError::into_inner).take();
        let was_cut = self.is_cut;
        self.is_cut |= cut.is_some();
        let again = || was_cut.then(|| io::ErrorKind::ConnectionAborted.into());
        cut.map(io::Error::from).or_else(again)
    }

    fn failed(&mut self, error: io::Error) -> io::Error {
        self.cut().unwrap_or(error)
    }
}

impl Drop for Upgraded {
    fn drop(&mut self) {
        let stream = self.stream.stream();
        if std::thread::panicking() {
            stream.will_reset();
        }
        if self.stream.is_in_use() {
            let _ = stream.finish(); // it may be closed already
        }
        self.stopping.set(Phase::Over);
    }
}

impl Read for Upgraded {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.unread.read(buf)? {
            0 if buf.is_empty() => Ok(0),
            0 => match self.stream.read(buf) {
                Ok(0) => self.cut().map_or(Ok(0), Err),
                read => read.map_err(|e| self.failed(e)),
            },
            n => Ok(n),
        }
    }
}

impl Write for Upgraded {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.write(buf).map_err(|e| self.failed(e))
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.stream.write_vectored(bufs).map_err(|e| self.failed(e))
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The result of [`Upgraded::writer`].
#[derive(Debug)]
struct Writer(Weak<Stream>);

impl Writer {
    fn stream(&self) -> io::Result<Arc<Stream>> {
        self.0.upgrade().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Writer {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self.stream()?).write(buf)
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self.stream()?).write_vectored(bufs)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The connection after a 101, in the response's extensions, which require `Clone`.
#[derive(Clone)]
struct Behind(Arc<Mutex<Option<Upgraded>>>);
