//! One opaque [`Error`] for the whole crate, and [`Refusal`], which the pure protocol functions
//! return for bad bytes.
//!
//! An error names the operation, the side, the fault, and the remedy. [`ErrorKind`] may get more
//! variants; there are predicates for the usual ones.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::time::Duration;

/// The side at fault for an [`Error`].
///
/// ```
/// use reverse_http::{Body, Fault, Gateway};
/// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
/// let wrong = gateway.device("no name").send(http::Request::new(Body::empty())).unwrap_err();
/// assert_eq!(wrong.fault(), Fault::Caller);
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The caller of this library, or the visitor whose request it was.
    Caller,
    /// The device: its message was faulty, late or missing.
    Device,
    /// The gateway: its message was faulty, late or missing, or it refused.
    Gateway,
    /// The network between, or the operating system.
    Network,
}

/// The kind of failure of an [`Error`]; see [`Error::kind`].
///
/// ```
/// use reverse_http::{Body, ErrorKind, Gateway};
///
/// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
/// let request = http::Request::get("/").body(Body::empty()).unwrap();
/// match gateway.device("lamp").send(request) {
///     Ok(response) => println!("{}", response.status()),
///     Err(e) => match e.kind() {
///         ErrorKind::Unknown => println!("no such device: {e}"),
///         ErrorKind::Away | ErrorKind::Busy | ErrorKind::Full => println!("ask again later: {e}"),
///         ErrorKind::Timeout | ErrorKind::Closed => println!("it may have run: {e}"),
///         _ => return Err(e),
///     },
/// }
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The library was used in a way that cannot work: the program or its configuration has to be
    /// fixed.
    Usage,
    /// A peer violated the protocol.
    Malformed,
    /// A deadline passed; the text names it.
    Timeout,
    /// The connection ended before the exchange did.
    Closed,
    /// The other side refused; [`Error::status_hint`] is its status.
    Refused,
    /// A limit of this process was reached; trying again later may work.
    Full,
    /// A message is longer than a limit; sending it again does not help.
    TooLarge,
    /// No device of this name is connected to the gateway, or was recently.
    Unknown,
    /// The device is known but not connected, and did not connect in time.
    Away,
    /// The device is connected, but all its links stayed busy; or it did not poll in time; or as
    /// many requests already wait for it as are allowed.
    Busy,
    /// The body that the program provided failed, or was shorter than its length. The message was
    /// aborted.
    Body,
    /// The program cancelled the request with a [`Cancel`](crate::Cancel).
    Cancelled,
    /// The gateway or device was stopped.
    Stopped,
    /// The operating system failed; `source()` is its error.
    Io,
}

/// An error. Its text names the operation, what happened instead, and the remedy.
///
/// ```
/// let error = reverse_http::Device::builder("ftp://gw.example/lamp").build().unwrap_err();
/// assert!(error.is_usage());
/// assert!(error.to_string().contains("http://"));
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    fault: Fault,
    status: Option<u16>,
    text: Cow<'static, str>,
    retry_after: Option<Duration>,
    source: Option<io::Error>,
}

impl Error {
    fn new(
        kind: ErrorKind,
        fault: Fault,
        status: Option<u16>,
        text: impl Into<Cow<'static, str>>,
    ) -> Self {
        Error(Box::new(Inner {
            kind,
            fault,
            status,
            text: text.into(),
            retry_after: None,
            source: None,
        }))
    }

    /// The library was called in a way that cannot work (a bad URL, a bad name, a limit out of
    /// range).
    pub(crate) fn usage(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Usage, Fault::Caller, None, text)
    }

    /// A peer's bytes break the protocol. `status` is what a gateway would tell its visitor.
    pub(crate) fn malformed(fault: Fault, status: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Malformed, fault, Some(status), text)
    }

    /// A deadline passed; `text` names it.
    pub(crate) fn timeout(fault: Fault, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(
            ErrorKind::Timeout,
            fault,
            Some(if fault == Fault::Caller { 408 } else { 504 }),
            text,
        )
    }

    /// The connection ended before the exchange did.
    pub(crate) fn closed(fault: Fault, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Closed, fault, Some(502), text)
    }

    /// The other side refused, with this status.
    pub(crate) fn refused(
        fault: Fault,
        status: u16,
        text: impl Into<Cow<'static, str>>,
        retry_after: Option<Duration>,
    ) -> Self {
        let mut error = Self::new(ErrorKind::Refused, fault, Some(status), text);
        error.0.retry_after = retry_after;
        error
    }

    /// A bound was reached; trying again later may work.
    pub(crate) fn full(text: impl Into<Cow<'static, str>>) -> Self {
        Self::later(ErrorKind::Full, Fault::Gateway, text)
    }

    /// A message is longer than a bound; sending it again does not help.
    pub(crate) fn too_large(fault: Fault, status: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::TooLarge, fault, Some(status), text)
    }

    /// No device of this name is connected to this gateway, or was recently.
    pub(crate) fn unknown(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unknown, Fault::Device, Some(404), text)
    }

    /// The device has no connection to this gateway.
    pub(crate) fn away(text: impl Into<Cow<'static, str>>) -> Self {
        Self::later(ErrorKind::Away, Fault::Device, text)
    }

    /// The device is connected, but no link or poll of it was free in time.
    pub(crate) fn busy(text: impl Into<Cow<'static, str>>) -> Self {
        Self::later(ErrorKind::Busy, Fault::Device, text)
    }

    /// The body of a message that was being sent has failed. It was the program's own, or it came
    /// from a peer whose message is passed on; then it is that peer's fault.
    pub(crate) fn of_body(mut self) -> Self {
        if self.0.fault == Fault::Caller {
            self.0.kind = ErrorKind::Body;
        }
        self
    }

    /// Trying again in a second may work.
    fn later(kind: ErrorKind, fault: Fault, text: impl Into<Cow<'static, str>>) -> Self {
        let mut error = Self::new(kind, fault, Some(503), text);
        error.0.retry_after = Some(Duration::from_secs(1));
        error
    }

    /// A device gives up after as many failed attempts as it may make.
    pub(crate) fn gave_up(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Away, Fault::Network, None, text)
    }

    /// The program has cancelled the exchange.
    pub(crate) fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, Fault::Caller, None, "the program cancelled its request")
    }

    /// This gateway or device was stopped.
    pub(crate) fn stopped(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Stopped, Fault::Caller, Some(503), text)
    }

    /// An input/output error while doing `what`.
    pub(crate) fn io(fault: Fault, what: impl fmt::Display, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ErrorKind::Timeout,
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted => ErrorKind::Closed,
            _ => ErrorKind::Io,
        };
        let status = if kind == ErrorKind::Timeout { 504 } else { 502 };
        let mut error = Self::new(kind, fault, Some(status), format!("{what}: {source}"));
        error.0.source = Some(source);
        error
    }

    /// The same error for another thread. An error of the system keeps its number.
    pub(crate) fn copy(&self) -> Error {
        let source = self.0.source.as_ref().map(|e| match e.raw_os_error() {
            Some(number) => io::Error::from_raw_os_error(number),
            None => io::Error::new(e.kind(), e.to_string()),
        });
        let Inner { kind, fault, status, ref text, retry_after, .. } = *self.0;
        Error(Box::new(Inner { kind, fault, status, text: text.clone(), retry_after, source }))
    }

    /// The kind of failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
    /// Returns true if the library was used in a way that cannot work: the program or its
    /// configuration has to be fixed.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        self.0.kind == ErrorKind::Usage
    }
    /// Returns true if a peer violated the protocol.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        self.0.kind == ErrorKind::Malformed
    }
    /// Returns true if a deadline passed; the text names it.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.0.kind == ErrorKind::Timeout
    }
    /// Returns true if the connection ended before the exchange did.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.kind == ErrorKind::Closed
    }
    /// Returns true if the other side refused; [`status_hint`](Self::status_hint) is its status.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.0.kind == ErrorKind::Refused
    }
    /// Returns true if a limit of this process was reached; trying again later may work.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.kind == ErrorKind::Full
    }
    /// Returns true if a message is longer than a limit; sending it again does not help.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.0.kind == ErrorKind::TooLarge
    }
    /// Returns true if the device is not connected: [`ErrorKind::Unknown`] or [`ErrorKind::Away`].
    #[must_use]
    pub fn is_not_connected(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Unknown | ErrorKind::Away)
    }
    /// Returns true if the device is connected, but had no free link or poll in time.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.0.kind == ErrorKind::Busy
    }
    /// Returns true if the gateway or device was stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.kind == ErrorKind::Stopped
    }
    /// The side at fault.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.0.fault
    }
    /// The status that a gateway would send its visitor for this (400 to 599), or the one that the
    /// peer refused with. `None` for usage errors and cancellations.
    #[must_use]
    pub fn status_hint(&self) -> Option<u16> {
        self.0.status
    }
    /// How long to wait before trying again, as asked by the side that refused.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, fault, status, text, .. } = &*self.0;
        f.debug_struct("Error")
            .field("kind", kind)
            .field("fault", fault)
            .field("status", status)
            .field("text", text)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|e| e as _)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match error.0.kind {
            ErrorKind::Usage => io::ErrorKind::InvalidInput,
            ErrorKind::Malformed => io::ErrorKind::InvalidData,
            ErrorKind::Timeout => io::ErrorKind::TimedOut,
            ErrorKind::Closed => io::ErrorKind::UnexpectedEof,
            ErrorKind::Refused => io::ErrorKind::ConnectionRefused,
            ErrorKind::Unknown | ErrorKind::Away => io::ErrorKind::NotConnected,
            ErrorKind::TooLarge => io::ErrorKind::InvalidData,
            ErrorKind::Full
            | ErrorKind::Busy
            | ErrorKind::Body
            | ErrorKind::Cancelled
            | ErrorKind::Stopped
            | ErrorKind::Io => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// Why bytes were rejected: the status to answer them with, and one short reason. The pure
/// functions of [`proto`](crate::proto) return this.
///
/// ```
/// use reverse_http::{Limits, proto::head};
/// let refusal = head::request(b"GET  / HTTP/1.1\r\n", &Limits::default(), head::LineEnds::Crlf).unwrap_err();
/// assert_eq!(refusal.status, 400);
/// assert!(refusal.to_string().starts_with("400 "));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 4xx or 5xx: the status to answer with, if an answer is possible.
    pub status: u16,
    /// One sentence without a line end, suitable for a `text/plain` body: what was received, and
    /// what would have been correct.
    pub reason: Cow<'static, str>,
}

impl Refusal {
    /// A refusal with this status and reason.
    pub fn new(status: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        Refusal { status, reason: reason.into() }
    }
    /// Converts it into an [`Error`]. `fault`: the sender of the bytes; `doing`: the operation.
    pub(crate) fn into_error(self, fault: Fault, doing: &str) -> Error {
        let status = if fault == Fault::Caller { self.status } else { 502 };
        Error::malformed(fault, status, format!("{doing}: {}", self.reason))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.reason)
    }
}

impl std::error::Error for Refusal {}
