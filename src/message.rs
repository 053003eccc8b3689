//! A message as a program sees it: the body ([`Body`]) and the way from `http` types to heads on
//! the wire.
//!
//! Framing is decided here and nowhere else: what a program says in `Content-Length`,
//! `Transfer-Encoding` or `Connection` (but its `close`) is never written as given (T20). Every
//! line goes through `proto::head::write_*` (T10). Never touches a socket.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::error::{Error, Fault, Refusal};
use crate::proto::body::{Framing, may_trail};
use crate::proto::digits::decimal;
use crate::proto::forward;
use crate::proto::head_writer;
use crate::proto::hop_by_hop::is_of_connection;

/// The body of a request or a response: a [`Read`] that may know its length and may end with
/// trailers.
///
/// A body that came from a link shares that link's connection: it is read from the socket as it is
/// read here, and reading it when the exchange is over is an error, never somebody else's bytes. It
/// may be moved to another thread, and a device's handler may return the request's own body as its
/// answer's. Dropping it never blocks.
///
/// ```
/// use std::io::Read;
/// use reverse_http::Body;
///
/// let mut text = String::new();
/// Body::from("on").read_to_string(&mut text)?;
/// assert_eq!(text, "on");
/// assert_eq!(Body::from("on").length(), Some(2));
/// assert_eq!(Body::from_reader(std::io::empty()).length(), None); // goes out chunked
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Default)]
pub struct Body {
    source: Source,
    /// What [`Body::with_trailers`] gave; a body from a link keeps its own.
    trailers: Option<HeaderMap>,
    /// What [`Body::with_progress`] gave.
    meters: Vec<Meter>,
}

/// How far a body is: [`Body::with_progress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes read so far, not counting those before it was watched.
    pub bytes: u64,
    /// Bytes that it has in all, counted in the same way; `None` for a chunked body that has not
    /// ended.
    pub total: Option<u64>,
}

impl Progress {
    /// Returns true if the body was read to its end.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.total == Some(self.bytes)
    }
}

type Tell = Box<dyn FnMut(Progress) + Send>;

/// Counts the bytes of a body, and tells the program.
struct Meter {
    bytes: u64,
    /// The last call said that the body is complete.
    has_ended: bool,
    /// Behind a lock that is never taken: it makes the body `Sync`.
    tell: Mutex<Tell>,
}

impl Meter {
    fn count(&mut self, n: usize, left: Option<u64>) {
        if self.has_ended {
            return;
        }
        self.bytes += n as u64;
        let left = if n == 0 { Some(0) } else { left };
        let total = left.map(|left| self.bytes + left);
        let progress = Progress { bytes: self.bytes, total };
        self.has_ended = progress.is_complete();
        unlocked(&mut self.tell)(progress);
    }
}

#[derive(Default)]
enum Source {
    #[default]
    Empty,
    Static(&'static [u8]),
    Bytes {
        bytes: Vec<u8>,
        at: usize,
    },
    Reader {
        /// Behind a lock that is never taken: it makes the body `Sync`.
        reader: Mutex<Box<dyn Read + Send>>,
        /// Bytes still to come, where the program said how many.
        left: Option<u64>,
        ended: bool,
    },
    Streamed(Mutex<Box<dyn Streamed>>),
}

/// A body that is read from a connection: what [`link`](crate::link) puts into a [`Body`].
pub(crate) trait Streamed: Send {
    /// As [`Read::read`]; 0 only at the message's own end.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize>;
    /// Bytes still to come, where the framing tells.
    fn remaining(&self) -> Option<u64>;
    /// Trailers, after the end.
    fn trailers(&self) -> Option<HeaderMap>;
    /// Returns true if the next read may have to wait for the peer.
    fn may_wait(&self) -> bool;
    /// The peer whose bytes these are.
    fn fault(&self) -> Fault;
}

impl Body {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Body::default()
    }

    /// The rest of a file, from its position to its end as it is now; the length is known. Anything
    /// but a regular file (a pipe, a device) is read until it ends.
    ///
    /// A short one is read at once: files of the kernel (/proc, /sys) have no length, or that of a
    /// page.
    ///
    /// # Errors
    /// It is a directory; the operating system would not tell its size or position, or read it.
    pub fn from_file(mut file: File) -> io::Result<Body> {
        let data = file.metadata()?;
        if data.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if !data.is_file() {
            return Ok(Body::from_reader(file));
        }
        let length = data.len().saturating_sub(file.stream_position()?);
        if length > STEP as u64 {
            return Ok(Body::from_reader_with_length(file, length));
        }
        let (mut bytes, most) = (Vec::new(), if length == 0 { STEP as u64 } else { length });
        (&mut file).take(most).read_to_end(&mut bytes)?;
        if length == 0 && bytes.len() == STEP {
            return Ok(Body::from_reader(io::Cursor::new(bytes).chain(file)));
        }
        Ok(bytes.into())
    }

    /// Whatever a reader gives until it ends; no length is known, so it goes out chunked (to an
    /// HTTP/1.0 peer: until close). Each read of the reader is written and flushed at once.
    pub fn from_reader(reader: impl Read + Send + 'static) -> Body {
        Body::of_reader(Box::new(reader), None)
    }

    /// Exactly `length` bytes of a reader. More are left in it; fewer are an error that aborts the
    /// message.
    pub fn from_reader_with_length(reader: impl Read + Send + 'static, length: u64) -> Body {
        Body::of_reader(Box::new(reader), Some(length))
    }

    fn of_reader(reader: Box<dyn Read + Send>, left: Option<u64>) -> Body {
        Source::Reader { reader: Mutex::new(reader), left, ended: false }.into()
    }

    /// The same body with trailer fields behind it (RFC 9110 §6.5). They need the chunked coding,
    /// so the length is not announced; an HTTP/1.0 peer gets none, and framing and routing fields
    /// among them are left out.
    #[must_use]
    pub fn with_trailers(mut self, trailers: HeaderMap) -> Body {
        self.trailers = Some(trailers);
        self
    }

    /// The same body, which calls `tell` with its [`Progress`] after each piece that was read of it, of
    /// at most 64 KiB where it is sent, and with [`Progress::is_complete`] once it has ended. A body
    /// that fails has no such end; an empty one may not be read at all. A second call adds another
    /// `tell`.
    ///
    /// It works in both directions, at a gateway and at a device. Sent bytes count when they are
    /// handed to the connection, so the count may be ahead of the other side by the sockets'
    /// buffers; received bytes count when the program reads them. A request to a device that polls
    /// is complete before the device gets it, as the gateway holds it whole.
    ///
    /// `tell` runs on the thread that reads the body: the caller's of
    /// [`send`](crate::DeviceRef::send), or the worker's. While it runs, nothing is transferred.
    ///
    /// ```
    /// use reverse_http::{Body, Progress};
    ///
    /// let (told, progress) = std::sync::mpsc::channel();
    /// let body = Body::from("firmware").with_progress(move |now| {
    ///     let _ = told.send(now);
    /// });
    /// assert_eq!(body.length(), Some(8));
    /// let request = http::Request::put("/image").body(body)?; // and send it
    /// # request.into_body().read_to_vec(8)?;
    /// let last: Progress = progress.iter().last().unwrap();
    /// assert_eq!((last.bytes, last.total), (8, Some(8)));
    /// assert!(last.is_complete());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_progress(mut self, tell: impl FnMut(Progress) + Send + 'static) -> Body {
        let tell: Tell = Box::new(tell);
        self.meters.push(Meter { bytes: 0, has_ended: false, tell: Mutex::new(tell) });
        self
    }

    /// Trailer fields, once the body was read to its end; `None` before, and where there are none.
    pub fn trailers(&self) -> Option<HeaderMap> {
        let own = || self.trailers.clone().filter(|map| !map.is_empty());
        match &self.source {
            Source::Streamed(streamed) => {
                let streamed = lock(streamed);
                streamed.trailers().or_else(|| own().filter(|_| streamed.remaining() == Some(0)))
            }
            _ if self.is_at_end() => own(),
            _ => None,
        }
    }

    /// Bytes still to come, where that is known; before the first read that is the whole length.
    pub fn length(&self) -> Option<u64> {
        match &self.source {
            Source::Empty => Some(0),
            Source::Static(bytes) => Some(bytes.len() as u64),
            Source::Bytes { bytes, at } => Some((bytes.len() - at) as u64),
            Source::Reader { ended: true, .. } => Some(0),
            Source::Reader { left, .. } => *left,
            Source::Streamed(streamed) => lock(streamed).remaining(),
        }
    }

    /// Reads to the end, at most `max` bytes.
    ///
    /// # Errors
    /// More than `max` bytes come, or the body could not be read to its end.
    pub fn read_to_vec(&mut self, max: usize) -> Result<Vec<u8>, Error> {
        let fault = self.fault();
        let too_long = || {
            let status = if fault == Fault::Device { 502 } else { 413 };
            Error::too_large(
                fault,
                status,
                format!(
                    "reading a body: it is longer than the {max} bytes that were allowed; allow more, or stream it"
                ),
            )
        };
        let known = self.length();
        if known.is_some_and(|length| length > max as u64) {
            return Err(too_long());
        }
        // Sized by our own step, not by what the peer announced.
        let room = known.map_or(STEP, |length| (length as usize).min(STEP));
        let mut bytes = Vec::with_capacity(room);
        let bound = (max as u64).saturating_add(1);
        self.by_ref()
            .take(bound)
            .read_to_end(&mut bytes)
            .map_err(|e| from_io(fault, "reading a body", e))?;
        if bytes.len() > max {
            return Err(too_long());
        }
        Ok(bytes)
    }

    /// Reads to the end as UTF-8 text, at most `max` bytes. (`read_to_string` is [`Read`]'s.)
    ///
    /// # Errors
    /// As [`read_to_vec`](Self::read_to_vec), and when the bytes are not UTF-8.
    pub fn read_to_text(&mut self, max: usize) -> Result<String, Error> {
        let fault = self.fault();
        String::from_utf8(self.read_to_vec(max)?).map_err(|e| {
            let status = if fault == Fault::Device { 502 } else { 400 };
            Error::malformed(
                fault,
                status,
                format!(
                    "reading a body as text: it is not UTF-8 ({}); read it as bytes",
                    e.utf8_error()
                ),
            )
        })
    }

    /// A body that is read from a connection.
    pub(crate) fn from_streamed(streamed: impl Streamed + 'static) -> Body {
        Source::Streamed(Mutex::new(Box::new(streamed))).into()
    }

    /// All that is still to come, where it lies in memory and may be taken at once.
    pub(crate) fn in_memory(&self) -> Option<&[u8]> {
        match &self.source {
            _ if !self.meters.is_empty() => None, // read in pieces, so that each is told of
            Source::Empty => Some(&[]),
            Source::Static(bytes) => Some(bytes),
            Source::Bytes { bytes, at } => Some(&bytes[*at..]),
            Source::Reader { .. } | Source::Streamed(_) => None,
        }
    }

    /// Returns true if the first read may take long, so that the head had better go out before it
    /// (a stream of events).
    pub(crate) fn may_wait(&self) -> bool {
        match &self.source {
            Source::Reader { left, .. } => left.is_none(),
            Source::Streamed(streamed) => lock(streamed).may_wait(),
            _ => false,
        }
    }

    /// Returns true if trailers were given to go out behind it.
    fn brings_trailers(&self) -> bool {
        self.trailers.as_ref().is_some_and(|map| !map.is_empty())
    }

    fn is_at_end(&self) -> bool {
        self.length() == Some(0)
    }

    fn fault(&self) -> Fault {
        match &self.source {
            Source::Streamed(streamed) => lock(streamed).fault(),
            _ => Fault::Caller,
        }
    }
}

/// First allocation of a body that is collected, and size of the pieces in which bodies are moved.
pub(crate) const STEP: usize = 64 * 1024;

impl Read for Body {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let n = self.source.read(buf)?;
        if !self.meters.is_empty() {
            let left = self.length();
            self.meters.iter_mut().for_each(|meter| meter.count(n, left));
        }
        Ok(n)
    }
}

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::Empty => Ok(0),
            Source::Static(bytes) => bytes.read(buf),
            Source::Bytes { bytes, at } => {
                let n = (&bytes[*at..]).read(buf)?;
                *at += n;
                Ok(n)
            }
            Source::Reader { reader, left, ended } => {
                read_reader(unlocked(reader), left, ended, buf)
            }
            Source::Streamed(streamed) => unlocked(streamed).read(buf),
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unlocked<T>(of: &mut Mutex<T>) -> &mut T {
    of.get_mut().unwrap_or_else(PoisonError::into_inner)
}

fn read_reader(
    reader: &mut Box<dyn Read + Send>,
    left: &mut Option<u64>,
    ended: &mut bool,
    buf: &mut [u8],
) -> io::Result<usize> {
    if *ended || *left == Some(0) {
        return Ok(0);
    }
    let room =
        left.map_or(buf.len(), |left| buf.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
    // A reader that claims more than it was given room for is somebody's defect, but not a reason
    // to panic here.
    let n = reader.read(&mut buf[..room])?.min(room);
    match left {
        Some(left) if n == 0 => {
            // The program's own mistake: no kind of the system's says so.
            return Err(io::Error::from(Error::usage(format!(
                "the body's reader ended {left} bytes before the length it was given with"
            ))));
        }
        Some(left) => *left -= n as u64,
        None => *ended = n == 0,
    }
    Ok(n)
}

impl fmt::Debug for Body {
    /// Shows the length, never the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("length", &self.length()).finish_non_exhaustive()
    }
}

impl From<Source> for Body {
    fn from(source: Source) -> Self {
        Body { source, trailers: None, meters: Vec::new() }
    }
}

impl From<&'static [u8]> for Body {
    fn from(bytes: &'static [u8]) -> Self {
        Source::Static(bytes).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Source::Static(text.as_bytes()).into()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Source::Bytes { bytes, at: 0 }.into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

/// An [`io::Error`] as ours: the one inside where it is ours already.
pub(crate) fn from_io(fault: Fault, what: &str, error: io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(|error| Error::io(fault, what, error))
}

/// What a request's head said that its response has to heed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// The method was HEAD.
    pub(crate) is_head: bool,
    /// 0 or 1: HTTP/1.0 or HTTP/1.1.
    pub(crate) minor: u8,
    /// The connection ends after this exchange, whatever the response says.
    pub(crate) close: bool,
}

/// How the message whose head was written goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sending {
    /// How the body goes out.
    pub(crate) framing: Framing,
    /// The head says (or the framing means) that the connection ends after this.
    pub(crate) close: bool,
    /// The head offers another protocol.
    pub(crate) upgrade: bool,
}

/// Appends the head of a request (protocol.md §1.1): always a `Host` (the request's own, else its
/// URI's authority, else empty), the target in origin form or `*`, our own framing. A body without
/// content has `Content-Length: 0` with POST, PUT and PATCH only. `Upgrade` is offered where there is
/// no body.
///
/// # Errors
/// CONNECT, or a line that would not be one. The appended bytes have to be dropped.
pub(crate) fn write_request_head(
    out: &mut Vec<u8>,
    parts: &http::request::Parts,
    body: &Body,
) -> Result<Sending, Refusal> {
    if parts.method == Method::CONNECT {
        return Err(Refusal::new(405, "CONNECT cannot be asked of a device: it opens no tunnels"));
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    // `http` takes `?x` for a path and query; on the wire it has to start with a slash (RFC 9112
    // §3.2.1).
    let target = match path {
        "" => "/".into(),
        "*" if parts.method != Method::OPTIONS => {
            return Err(Refusal::new(400, "the target * is for OPTIONS only"));
        }
        path if path.starts_with('?') => format!("/{path}").into(),
        path => std::borrow::Cow::Borrowed(path),
    };
    head_writer::write_request_line(out, parts.method.as_str(), &target)?;
    let authority = || parts.uri.authority().map_or("", without_userinfo).as_bytes();
    head_writer::write_field(
        out,
        "Host",
        parts.headers.get(header::HOST).map_or_else(authority, HeaderValue::as_bytes),
    )?;
    write_fields(out, &parts.headers, |name| *name == header::HOST || is_ours(name))?;
    let framing = match body.length() {
        _ if body.brings_trailers() => Framing::Chunked,
        None => Framing::Chunked,
        Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
    };
    if target == "*" && framing != Framing::Empty {
        return Err(Refusal::new(
            400,
            "OPTIONS * has no body: a device takes it for a heartbeat, and an old one reads the body as its next request",
        ));
    }
    let announces_empty = matches!(parts.method, Method::POST | Method::PUT | Method::PATCH);
    write_framing(out, framing, announces_empty.then_some(0))?;
    let close = lists_close(&parts.headers);
    // An offer with a body does not count (T9).
    let upgrade = framing == Framing::Empty && !close && offer_protocols(out, &parts.headers);
    finish_head(out, close)?;
    Ok(Sending { framing, close, upgrade })
}

/// Writes the protocols that a program's `Upgrade` names. Returns true if there are any.
fn offer_protocols(out: &mut Vec<u8>, headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::UPGRADE).iter();
    forward::push_protocols(out, lines.flat_map(|line| forward::protocols_of(line.as_bytes())))
}

/// Returns true if `Upgrade` names a protocol that may pass.
pub(crate) fn names_protocol(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::UPGRADE).iter();
    lines.any(|line| forward::protocols_of(line.as_bytes()).next().is_some())
}

/// Appends the head of a response to a request, framed by us (protocol.md §3): `Date` where there
/// is none; nothing that frames with 1xx, 204 and 304; for HEAD the length as metadata only; an
/// unknown length is chunked, or until close to an HTTP/1.0 peer. A body that must not be sent
/// (204, 205, 304) is logged; the caller of this drops it, as `framing` says.
///
/// # Errors
/// A line that would not be one. The appended bytes have to be dropped.
pub(crate) fn write_response_head(
    out: &mut Vec<u8>,
    parts: &http::response::Parts,
    body: &Body,
    asked: &Asked,
) -> Result<Sending, Refusal> {
    let status = parts.status.as_u16();
    head_writer::write_status_line(out, status, head_writer::reason_phrase(status).as_bytes())?;
    let switches = parts.status == StatusCode::SWITCHING_PROTOCOLS;
    write_fields(out, &parts.headers, |name| {
        is_ours(name) && !(switches && *name == header::UPGRADE)
    })?;
    if parts.status.is_informational() {
        if switches {
            head_writer::write_field(out, "Connection", b"Upgrade")?;
        }
        out.extend_from_slice(b"\r\n");
        return Ok(Sending { framing: Framing::Empty, close: false, upgrade: false });
    }
    if !parts.headers.contains_key(header::DATE) {
        write_date(out)?;
    }
    let framing = response_framing(parts, body, asked);
    let empty_length = match parts.status {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => None,
        StatusCode::RESET_CONTENT => Some(0),
        _ if asked.is_head => head_metadata(&parts.headers, body),
        _ => Some(0),
    };
    write_framing(out, framing, empty_length)?;
    let close = asked.close
        || asked.minor == 0
        || framing == Framing::UntilClose
        || lists_close(&parts.headers);
    finish_head(out, close)?;
    Ok(Sending { framing, close, upgrade: false })
}

/// How a final response's body goes out.
fn response_framing(parts: &http::response::Parts, body: &Body, asked: &Asked) -> Framing {
    if matches!(
        parts.status,
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
    ) {
        if !body.is_at_end() && !asked.is_head {
            log_names!(
                Warn,
                "a response with status {} cannot have a body (RFC 9110 §6.4.1); the handler's is dropped",
                parts.status.as_u16()
            );
        }
        return Framing::Empty;
    }
    if asked.is_head {
        return Framing::Empty;
    }
    let open_ended = if asked.minor == 0 { Framing::UntilClose } else { Framing::Chunked };
    match body.length() {
        _ if body.brings_trailers() && asked.minor > 0 => Framing::Chunked,
        None => open_ended,
        Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
    }
}

/// `Content-Length` of the answer to HEAD: what the body that is not sent would have had. A handler
/// without a body may say it itself (it passes on somebody's answer to HEAD): the number frames
/// nothing here.
fn head_metadata(headers: &HeaderMap, body: &Body) -> Option<u64> {
    match body.length() {
        Some(0) => Some(single_length(headers).unwrap_or(0)),
        known => known,
    }
}

fn single_length(headers: &HeaderMap) -> Option<u64> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let digits = value.as_bytes();
    decimal(digits).filter(|length| *length < u64::MAX) // what does not fit is no length
}

/// Appends a whole answer that refuses: status, a `text/plain` body with the reason, `Connection:
/// close`, and further fields (name in its final spelling, value).
pub(crate) fn write_refusal(out: &mut Vec<u8>, refusal: &Refusal, fields: &[(&str, &str)]) {
    let start = out.len();
    if try_refusal(out, refusal, fields).is_err() {
        // Only a defect of ours brings this about; the peer still gets an answer that is one.
        out.truncate(start);
        out.extend_from_slice(
            b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    }
}

fn try_refusal(
    out: &mut Vec<u8>,
    refusal: &Refusal,
    fields: &[(&str, &str)],
) -> Result<(), Refusal> {
    head_writer::write_status_line(
        out,
        refusal.status,
        head_writer::reason_phrase(refusal.status).as_bytes(),
    )?;
    for (name, value) in fields {
        head_writer::write_field(out, name, value.as_bytes())?;
    }
    head_writer::write_field(out, "Content-Type", b"text/plain; charset=utf-8")?;
    write_date(out)?;
    write_number(out, "Content-Length", refusal.reason.len() as u64 + 1)?;
    finish_head(out, true)?;
    out.extend_from_slice(refusal.reason.as_bytes());
    out.push(b'\n');
    Ok(())
}

/// Trailers in the form that [`last_chunk`](crate::proto::body::last_chunk) writes: Title-Case,
/// without what must not come behind a body (RFC 9110 §6.5.1).
pub(crate) fn trailers_to_send(trailers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut kept = Vec::with_capacity(trailers.len());
    for (name, value) in trailers {
        if !may_trail(name.as_str()) {
            log_names!(
                Warn,
                "the trailer field {name} is left out: it frames, routes or authenticates, and has to stand in the head"
            );
            continue;
        }
        let mut spelled = Vec::new();
        head_writer::title_case(name.as_str(), &mut spelled);
        kept.push((String::from_utf8_lossy(&spelled).into_owned(), value.as_bytes().to_vec()));
    }
    kept
}

/// Fields that belong to the connection or frame the message: written by us or not at all.
fn is_ours(name: &HeaderName) -> bool {
    let name = name.as_str();
    is_of_connection(name)
        || matches!(
            name,
            "content-length" | "transfer-encoding" | "trailer" | crate::proto::forward::WAITING
        )
}

fn write_fields(
    out: &mut Vec<u8>,
    headers: &HeaderMap,
    skip: impl Fn(&HeaderName) -> bool,
) -> Result<(), Refusal> {
    let mut spelled = Vec::new();
    for (name, value) in headers {
        if skip(name) {
            continue;
        }
        spelled.clear();
        head_writer::title_case(name.as_str(), &mut spelled);
        let spelled = std::str::from_utf8(&spelled).unwrap_or(name.as_str());
        head_writer::write_field(out, spelled, value.as_bytes())?;
    }
    Ok(())
}

/// The one framing field of a head, or none. `empty_length`: what to announce when there is no body
/// to send.
fn write_framing(
    out: &mut Vec<u8>,
    framing: Framing,
    empty_length: Option<u64>,
) -> Result<(), Refusal> {
    match (framing, empty_length) {
        (Framing::Length(length), _) | (Framing::Empty, Some(length)) => {
            write_number(out, "Content-Length", length)
        }
        (Framing::Chunked, _) => head_writer::write_field(out, "Transfer-Encoding", b"chunked"),
        (Framing::UntilClose, _) | (Framing::Empty, None) => Ok(()),
    }
}

/// A field with a decimal number, without an allocation.
fn write_number(out: &mut Vec<u8>, name: &str, number: u64) -> Result<(), Refusal> {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            return head_writer::write_field(out, name, &digits[at..]);
        }
    }
}

fn finish_head(out: &mut Vec<u8>, close: bool) -> Result<(), Refusal> {
    if close {
        head_writer::write_field(out, "Connection", b"close")?;
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

fn write_date(out: &mut Vec<u8>) -> Result<(), Refusal> {
    date_now()
        .map_or(Ok(()), |date| head_writer::write_field(out, "Date", date.as_str().as_bytes()))
}

/// A program's `Connection: close`, in whatever list it stands.
pub(crate) fn lists_close(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION);
    values.iter().any(|value| {
        value
            .as_bytes()
            .split(|&byte| byte == b',')
            .any(|member| member.trim_ascii().eq_ignore_ascii_case(b"close"))
    })
}

/// The authority without a `user:password@`, which must not go into `Host` (RFC 9110 §4.2.4).
fn without_userinfo(authority: &http::uri::Authority) -> &str {
    let text = authority.as_str();
    text.rsplit_once('@').map_or(text, |(_, host)| host)
}

/// An IMF-fixdate (RFC 9110 §5.6.7), always 29 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DateText([u8; 29]);

impl DateText {
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Now, formatted once per second and thread. `None` where the clock is before 1970 or after 9999:
/// a device without a clock must not send `Date` (RFC 9110 §6.6.1).
pub(crate) fn date_now() -> Option<DateText> {
    thread_local!(static CACHED: Cell<(u64, DateText)> = const { Cell::new((u64::MAX, DateText([b' '; 29]))) });
    let second = second_now()?;
    let (cached_second, cached) = CACHED.get();
    if cached_second == second {
        return Some(cached);
    }
    let date = date_of(second)?;
    CACHED.set((second, date));
    Some(date)
}

/// Seconds since 1970 by the system's clock; `None` before that. Always the same in the simulation,
/// whose stories would differ else.
pub(crate) fn second_now() -> Option<u64> {
    #[cfg(test)]
    if let Some(second) = crate::sim::net::second() {
        return Some(second);
    }
    SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// This second since 1970, formatted. `None` after 9999, where the formatter would panic.
pub(crate) fn date_of(second: u64) -> Option<DateText> {
    const YEAR_10000: u64 = 253_402_300_800;
    if second >= YEAR_10000 {
        return None;
    }
    Some(DateText(
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second))
            .into_bytes()
            .try_into()
            .ok()?,
    ))
}
