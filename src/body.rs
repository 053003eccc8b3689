//! The body of a message as a program sees it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::HeaderMap;

use crate::clock;
use crate::error::{Error, Fault};

/// The body of a request or a response: a [`Read`] that may know its length and may end with
/// trailers.
///
/// Besides the conversions from text and bytes, [`from_file`](Self::from_file) sends a file, and
/// [`from_reader`](Self::from_reader) anything that can be read.
///
/// A body that was received over a link is read from the link's socket while it is read here.
/// Reading it after the exchange has ended is an error, and never returns bytes of another message.
/// It may be moved to another thread, and a device's handler may return the request's own body as
/// that of its response. Dropping it never blocks.
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
    /// The trailers of [`Body::with_trailers`]; a body from a link keeps its own.
    trailers: Option<HeaderMap>,
    /// The callbacks of [`Body::with_progress`].
    meters: Vec<Meter>,
}

/// How much of a body has been transferred; see [`Body::with_progress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes read so far, since progress is reported.
    pub bytes: u64,
    /// Bytes in total, counted in the same way; `None` for a chunked body that has not ended.
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
    /// The last call reported that the body is complete.
    has_ended: bool,
    /// The lock is never taken: it makes the body `Sync`.
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
        /// The lock is never taken: it makes the body `Sync`.
        reader: Mutex<Box<dyn Read + Send>>,
        /// Bytes still to come, if the program gave a length.
        left: Option<u64>,
        ended: bool,
    },
    Streamed(Mutex<Box<dyn Streamed>>),
}

/// A body that is read from a connection: what [`link`](crate::link) puts into a [`Body`].
pub(crate) trait Streamed: Send {
    /// As [`Read::read`]; 0 only at the end of the message.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize>;
    /// Bytes still to come, if the framing gives a length.
    fn remaining(&self) -> Option<u64>;
    /// Trailers, after the end.
    fn trailers(&self) -> Option<HeaderMap>;
    /// Returns true if the next read may have to wait for the peer.
    fn may_wait(&self) -> bool;
    /// The peer that sends these bytes.
    fn fault(&self) -> Fault;
}

impl Body {
    /// An empty body.
    #[must_use]
    pub fn empty() -> Self {
        Body::default()
    }

    /// The rest of a file, from its position to its current end; the length is known. A file that
    /// is not regular (a pipe, a device) is read until it ends.
    ///
    /// A short file is read at once, since the kernel's files (/proc, /sys) report a length of
    /// zero, or of a page.
    ///
    /// # Errors
    /// It is a directory; the operating system cannot read it, or does not know its size or
    /// position.
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

    /// The bytes of a reader until its end. As the length is unknown, it is sent chunked (to an
    /// HTTP/1.0 peer: until close). The bytes of each read are written and flushed at once.
    pub fn from_reader(reader: impl Read + Send + 'static) -> Body {
        Body::of_reader(Box::new(reader), None)
    }

    /// Exactly `length` bytes of a reader. If it has more, they are left in it; if it has fewer,
    /// the message is aborted with an error.
    pub fn from_reader_with_length(reader: impl Read + Send + 'static, length: u64) -> Body {
        Body::of_reader(Box::new(reader), Some(length))
    }

    fn of_reader(reader: Box<dyn Read + Send>, left: Option<u64>) -> Body {
        Source::Reader { reader: Mutex::new(reader), left, ended: false }.into()
    }

    /// The same body, followed by trailer fields (RFC 9110 §6.5). They need the chunked coding, so
    /// the length is not announced. An HTTP/1.0 peer gets no trailers, and fields for framing and
    /// routing are left out.
    #[must_use]
    pub fn with_trailers(mut self, trailers: HeaderMap) -> Body {
        self.trailers = Some(trailers);
        self
    }

    /// The same body, which calls `tell` with its [`Progress`] after each piece that was read (of
    /// at most 64 KiB if it is sent), and finally with [`Progress::is_complete`]. There is no final
    /// call if the body fails; an empty one may not be read at all. A second call adds another
    /// `tell`.
    ///
    /// It works in both directions, at a gateway and at a device. Sent bytes are counted when they
    /// are handed to the connection, so the count may be ahead of the other side by the size of the
    /// sockets' buffers; received bytes are counted when the program reads them. A request to a
    /// device that polls is complete before the device gets it, as the gateway holds it in memory.
    ///
    /// `tell` runs on the thread that reads the body: that of the caller of
    /// [`send`](crate::DeviceRef::send), or a worker thread. While it runs, nothing is transferred.
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

    /// The trailer fields, once the body was read to its end; `None` before that, or if there are
    /// none.
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

    /// The number of bytes still to come, if it is known. Before the first read this is the whole
    /// length.
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
    /// There are more than `max` bytes, or the body could not be read to its end.
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
        // Allocated in our own steps, not by the length that the peer announced.
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
    /// Those of [`read_to_vec`](Self::read_to_vec); the bytes are not UTF-8.
    #[doc(alias("read_to_string", "text"))]
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

    /// All bytes still to come, if they are in memory and may be taken at once.
    pub(crate) fn in_memory(&self) -> Option<&[u8]> {
        match &self.source {
            _ if !self.meters.is_empty() => None, // read in pieces, so that each is reported
            Source::Empty => Some(&[]),
            Source::Static(bytes) => Some(bytes),
            Source::Bytes { bytes, at } => Some(&bytes[*at..]),
            Source::Reader { .. } | Source::Streamed(_) => None,
        }
    }

    /// Returns true if the first read may take long (a stream of events), so that the head should
    /// be sent before it.
    pub(crate) fn may_wait(&self) -> bool {
        match &self.source {
            Source::Reader { left, .. } => left.is_none(),
            Source::Streamed(streamed) => lock(streamed).may_wait(),
            _ => false,
        }
    }

    /// Returns true if trailers are to be sent after it.
    pub(crate) fn brings_trailers(&self) -> bool {
        self.trailers.as_ref().is_some_and(|map| !map.is_empty())
    }

    pub(crate) fn is_at_end(&self) -> bool {
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
    // A reader that returns more than the length of its buffer is defective, but that is no reason
    // to panic here.
    let n = clock::outside(|| reader.read(&mut buf[..room]))?.min(room);
    match left {
        Some(left) if n == 0 => {
            // It is the program's own mistake, for which `io::ErrorKind` has no kind.
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

/// Converts an [`io::Error`]: to the [`Error`] inside, if there is one.
pub(crate) fn from_io(fault: Fault, what: &str, error: io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(|error| Error::io(fault, what, error))
}
