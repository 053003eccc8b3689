//! A gateway's and a device's side in memory: handlers and links are tested without a socket.
//!
//! A handler is a function, and most tests just call it (see
//! [`guide::testing`](crate::guide::testing)). This module adds the wire: the handler's response is
//! written as HTTP and read again, with framing, trailers, streaming, and the errors of both sides.
//!
//! ```
//! use http::{Request, StatusCode};
//! use reverse_http::Body;
//! use reverse_http::testing::TestDevice;
//!
//! fn echo(request: Request<Body>) -> Result<Body, StatusCode> {
//!     match request.uri().path() {
//!         "/echo" => Ok(request.into_body()),
//!         _ => Err(StatusCode::NOT_FOUND),
//!     }
//! }
//!
//! let device = TestDevice::new(echo);
//! let request = Request::post("/echo").body(Body::from_reader(&b"streamed"[..]))?;
//! assert_eq!(device.send(request)?.into_body().read_to_text(100)?, "streamed");
//! let request = Request::get("/else").body(Body::empty())?;
//! assert_eq!(device.send(request)?.status(), StatusCode::NOT_FOUND);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode};

use crate::body::Body;
use crate::device::{Handler, ask_handler};
use crate::error::{Error, Fault};
use crate::limits::Limits;
use crate::link::{DeviceLink, GatewayLink};
use crate::response::IntoResponse;
use crate::stream::TimedStream;

#[cfg(feature = "test-clock")]
mod pair;

#[cfg(feature = "test-clock")]
pub use pair::{Pair, pair};

/// Bytes that one direction of a [`Pipe`] holds before its writer waits.
const PIPE_BYTES_MAX: usize = 64 * 1024;

/// A handler behind the wire protocol: each request goes over a separate link in memory, and is
/// answered on a separate thread, as at a device.
///
/// If the handler panics, the answer is 500. Upgrades need a socket, and get 501: test them with a
/// gateway and a device on loopback.
///
/// ```
/// use http::Request;
/// use reverse_http::{Body, testing::TestDevice};
///
/// let device = TestDevice::new(|request: Request<Body>| format!("you asked for {}", request.uri()));
/// let response = device.send(Request::get("/status").body(Body::empty())?)?;
/// assert_eq!(response.into_body().read_to_text(100)?, "you asked for /status");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct TestDevice {
    handler: Handler,
    limits: Arc<Limits>,
}

impl TestDevice {
    /// A device that answers with this handler, with the usual limits.
    pub fn new<R: IntoResponse>(
        handler: impl Fn(Request<Body>) -> R + Send + Sync + 'static,
    ) -> Self {
        let handler: Handler = Arc::new(move |request| handler(request).into_response());
        TestDevice { handler, limits: Arc::default() }
    }

    /// The same with other bounds and timeouts, for both sides.
    ///
    /// # Errors
    /// A limit cannot work.
    pub fn limits(self, limits: Limits) -> Result<Self, Error> {
        limits.check()?;
        Ok(TestDevice { limits: Arc::new(limits), ..self })
    }

    /// Sends a request, as [`DeviceRef::send`](crate::DeviceRef::send) does: returns when the head
    /// of the response has arrived; the body is streamed.
    ///
    /// # Errors
    /// Those of [`GatewayLink::ask`]; there is no thread for the handler.
    pub fn send(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let (mut gateway, mut device) = links_within(&self.limits);
        let handler = self.handler.clone();
        let serve = move || {
            while let Ok(Some(request)) = device.next_request() {
                let answer = match ask_handler(&handler, request) {
                    (_, Some(_)) => no_upgrade(),
                    (response, None) => response,
                };
                if let Err(e) = device.respond(answer) {
                    return log::debug!("a test's request was not answered: {e}");
                }
            }
        };
        let thread = std::thread::Builder::new().name("ptth-test-device".to_owned()).spawn(serve);
        thread.map_err(|e| Error::io(Fault::Network, "starting a test's device", e))?;
        gateway.ask(request)
    }
}

impl fmt::Debug for TestDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestDevice").finish_non_exhaustive()
    }
}

fn no_upgrade() -> Response<Body> {
    (StatusCode::NOT_IMPLEMENTED, "a TestDevice has no upgrades; test them on loopback\n")
        .into_response()
}

/// A link that has turned: the gateway's side, which sends requests, and the device's side, which
/// answers them.
///
/// ```
/// use http::{Request, Response};
/// use reverse_http::{Body, testing};
///
/// let (mut gateway, mut device) = testing::links();
/// let serving = std::thread::spawn(move || -> Result<(), reverse_http::Error> {
///     while let Some(request) = device.next_request()? {
///         device.respond(Response::new(Body::from(request.uri().path().to_owned())))?;
///     }
///     Ok(())
/// });
/// let response = gateway.ask(Request::get("/status").body(Body::empty())?)?;
/// assert_eq!(response.into_body().read_to_text(100)?, "/status");
/// drop(gateway); // the device sees the end
/// serving.join().unwrap()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn links() -> (GatewayLink<Pipe>, DeviceLink<Pipe>) {
    links_within(&Arc::default())
}

fn links_within(limits: &Arc<Limits>) -> (GatewayLink<Pipe>, DeviceLink<Pipe>) {
    let (gateway, device) = pipe();
    (
        GatewayLink::new(gateway, Vec::new(), limits.clone()),
        DeviceLink::new(device, Vec::new(), limits.clone()),
    )
}

/// The two ends of a connection in memory. Each direction holds up to 64 KiB.
///
/// ```
/// use std::io::{Read, Write};
/// use reverse_http::testing::pipe;
///
/// let (mut one, mut other) = pipe();
/// one.write_all(b"on")?;
/// drop(one);
/// let mut text = String::new();
/// other.read_to_string(&mut text)?;
/// assert_eq!(text, "on");
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use]
pub fn pipe() -> (Pipe, Pipe) {
    let (there, back) = (Arc::<Direction>::default(), Arc::<Direction>::default());
    let end = |reads: &Arc<Direction>, writes: &Arc<Direction>| Pipe {
        reads: reads.clone(),
        writes: writes.clone(),
        read_limit: None,
        write_limit: None,
    };
    (end(&back, &there), end(&there, &back))
}

/// One end of a connection in memory, made by [`pipe`]. Dropping it ends both directions: the other
/// end reads the bytes that were written, and then the end.
pub struct Pipe {
    reads: Arc<Direction>,
    writes: Arc<Direction>,
    read_limit: Option<Duration>,
    write_limit: Option<Duration>,
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe").field("arrived", &self.reads.lock().bytes.len()).finish()
    }
}

#[derive(Default)]
struct Direction {
    held: Mutex<Held>,
    changed: Condvar,
}

#[derive(Default)]
struct Held {
    bytes: VecDeque<u8>,
    /// Nothing more is written.
    ended: bool,
    /// Nobody reads any more.
    deserted: bool,
}

impl Direction {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Held)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `ready`, at most for `limit`.
    ///
    /// # Errors
    /// `limit` has passed.
    fn wait(
        &self,
        limit: Option<Duration>,
        ready: impl Fn(&Held) -> bool,
    ) -> io::Result<MutexGuard<'_, Held>> {
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut held = self.lock();
        while !ready(&held) {
            held = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return Err(io::ErrorKind::TimedOut.into()),
                Some(left) => {
                    let waited = self.changed.wait_timeout(held, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(held).unwrap_or_else(PoisonError::into_inner),
            };
        }
        Ok(held)
    }
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let ready = |held: &Held| !held.bytes.is_empty() || held.ended;
        let mut held = self.reads.wait(self.read_limit, ready)?;
        let n = held.bytes.read(buf)?;
        drop(held);
        self.reads.changed.notify_all();
        Ok(n)
    }
}

impl Write for Pipe {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let ready = |held: &Held| held.bytes.len() < PIPE_BYTES_MAX || held.deserted || held.ended;
        let mut held = self.writes.wait(self.write_limit, ready)?;
        if held.deserted || held.ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = buf.len().min(PIPE_BYTES_MAX - held.bytes.len());
        held.bytes.extend(&buf[..n]);
        drop(held);
        self.writes.changed.notify_all();
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TimedStream for Pipe {
    fn limit_read(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.read_limit = time;
        Ok(())
    }

    fn limit_write(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.write_limit = time;
        Ok(())
    }

    fn read_arrived(&mut self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        let held = self.reads.lock();
        let is_nothing = held.bytes.is_empty() && !held.ended;
        drop(held);
        (!is_nothing).then(|| self.read(buf)) // nobody else reads here
    }

    fn half_close(&self) -> bool {
        self.writes.change(|held| held.ended = true);
        true
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.writes.change(|held| held.ended = true);
        self.reads.change(|held| {
            held.deserted = true;
            held.bytes = VecDeque::new();
        });
    }
}
