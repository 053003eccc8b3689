//! The inside of a link: the stream, the bytes read but not used, the body in progress, and why it
//! may not be reused.
//!
//! A [`Body`](crate::Body) and its link share one wire. The lock is held for one read or one write
//! (or the reading of one head). State that has to be read without waiting (the owner of the
//! exchange, whether its body still exists) is outside of it.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::body::STEP;
use crate::close_reason::{CloseCause, CloseReason};
use crate::error::{Error, Fault, Refusal};
use crate::limits::{Limits, instant_after};
use crate::link::deadlines::{Timeout, Whole};
use crate::link::inbox::Inbox;
use crate::link::socket;
use crate::proto::body::{Decoder, Framing, Piece};
use crate::proto::head::{Fields, LineEnds};
use crate::proto::interim::CONTINUE;
use crate::proto::upgrade::Offered;
use crate::stream::TimedStream;

/// Which end of the link this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Gateway,
    Device,
}

impl Side {
    pub(super) fn peer(self) -> Fault {
        match self {
            Side::Gateway => Fault::Device,
            Side::Device => Fault::Gateway,
        }
    }

    pub(super) fn peer_name(self) -> &'static str {
        match self {
            Side::Gateway => "the device",
            Side::Device => "the gateway",
        }
    }

    /// The line ends that are accepted from the other end: answers are read more leniently than
    /// requests.
    fn line_ends(self) -> LineEnds {
        match self {
            Side::Gateway => LineEnds::CrlfOrLf,
            Side::Device => LineEnds::Crlf,
        }
    }

    /// The kind of message that the other end sends.
    pub(super) fn message(self) -> &'static str {
        match self {
            Side::Gateway => "response",
            Side::Device => "request",
        }
    }
}

/// Why a head could not be read.
pub(super) enum HeadFault {
    /// The bytes are not a valid head; they are still in the inbox.
    Refused(Refusal),
    /// The head did not arrive in time, although it had begun.
    Late(Error),
    /// The connection failed, or no byte arrived in time.
    Failed(Error),
}

pub(super) struct Wire<S> {
    /// `None` once it was taken: a body that is still held is cut off.
    stream: Option<S>,
    pub(super) inbox: Inbox,
    pub(super) limits: Arc<Limits>,
    pub(super) side: Side,
    reasons: Vec<&'static str>,
    /// The limits that were last set at the transport, if any.
    read_limit: Option<Option<Duration>>,
    write_limit: Option<Duration>,
    /// The deadline of the whole exchange.
    pub(super) whole: Option<Whole>,
    incoming: Option<Incoming>,
    /// The state of an `Expect: 100-continue` of the other end.
    pub(super) expectation: Expectation,
    /// The other end may be sending bytes that will not be read: closing at once would cause a
    /// reset, which could destroy our last answer.
    pub(super) more_may_come: bool,
    /// A byte arrived since [`Wire::forget_arrivals`].
    pub(super) arrived: bool,
    /// Responses may begin with `EVENT/1.0`.
    pub(super) takes_events: bool,
    /// The other protocols that the request in progress offers.
    pub(super) offered: Option<Offered>,
}

/// The state of an `Expect: 100-continue` (RFC 9110 §10.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expectation {
    /// There was none, it was answered, or the body is complete.
    None,
    /// The other end waits for `100 Continue` before it sends its body.
    Waiting,
    /// The final response began without it: whether the other end sends its body is unknown.
    Disappointed,
}

/// The body that is being read from the wire.
struct Incoming {
    decoder: Decoder,
    /// The bytes on the wire are the body's own: they can be read straight into the caller's
    /// buffer.
    plain: bool,
}

/// The size of a read for a head; the buffer grows to [`STEP`] for bodies.
const HEAD_STEP: usize = 8 * 1024;
/// Below this, reading straight into the caller's buffer would cost more system calls than it saves
/// copying.
const PLAIN_MIN: usize = 4 * 1024;

impl<S: TimedStream + 'static> Wire<S> {
    pub(super) fn new(stream: S, unread: Vec<u8>, limits: Arc<Limits>, side: Side) -> Self {
        Wire {
            stream: Some(stream),
            inbox: Inbox::new(unread),
            limits,
            side,
            reasons: Vec::new(),
            read_limit: None,
            write_limit: None,
            whole: None,
            incoming: None,
            expectation: Expectation::None,
            more_may_come: false,
            arrived: false,
            takes_events: false,
            offered: None,
        }
    }

    /// Takes the stream and unread bytes out. `None` if that was done before.
    pub(super) fn take(&mut self) -> Option<(S, Vec<u8>)> {
        Some((self.stream.take()?, self.inbox.take()))
    }

    /// The same if another exchange may follow. Otherwise the stream is dropped here, so that the
    /// descriptor is closed before its end is reported; returns the reason of the end if the
    /// message in progress is complete and was the last one.
    pub(super) fn take_reusable(&mut self) -> Result<(S, Vec<u8>), Option<CloseReason>> {
        let (is_spoilt, is_whole) = (self.is_spoilt(), !self.is_body_unread());
        let stream = self.take().filter(|_| !is_spoilt && is_whole);
        stream.ok_or_else(|| {
            (is_spoilt && is_whole)
                .then(|| CloseReason::new(CloseCause::LastMessage, self.reasons.join("; ")))
        })
    }

    /// Adds a reason why this connection may not carry another exchange.
    pub(super) fn spoil(&mut self, reason: &'static str) {
        if !self.reasons.contains(&reason) {
            log::debug!("a link to {} will be closed: {reason}", self.side.peer_name());
            self.reasons.push(reason);
        }
    }

    /// Removes a reason that no longer holds.
    pub(super) fn forgive(&mut self, reason: &'static str) {
        self.reasons.retain(|known| *known != reason);
    }

    pub(super) fn is_spoilt(&self) -> bool {
        !self.reasons.is_empty()
    }

    pub(super) fn reasons(&self) -> Vec<&'static str> {
        let mut reasons = self.reasons.clone();
        if self.is_body_unread() {
            reasons.push("the body of the message in progress was not read to its end");
        }
        reasons
    }

    pub(super) fn forget_arrivals(&mut self) {
        self.arrived = !self.inbox.is_empty();
    }

    // --- reading ---

    /// Reads once into the inbox. `Ok(0)` means that the other end closed.
    pub(super) fn fill(&mut self, limit: Option<Duration>, step: usize) -> io::Result<usize> {
        self.limit_read(limit)?;
        let stream = self.stream.as_mut().ok_or_else(taken)?;
        let n = retry(|| stream.read(self.inbox.room(step)))?;
        self.inbox.filled(n);
        self.arrived |= n > 0;
        Ok(n)
    }

    /// Reads bytes that have arrived, if the transport can do so without waiting.
    pub(super) fn fill_arrived(&mut self) -> Option<io::Result<usize>> {
        let got = self.stream.as_mut()?.read_arrived(self.inbox.room(HEAD_STEP))?;
        if let Ok(n) = got {
            self.inbox.filled(n);
        }
        Some(got)
    }

    /// Reads until `parse` has found a complete head. `first` is the time for its first byte; blank
    /// lines before it do not extend it. The rest has `head_timeout`, at a gateway at most `first`.
    /// `Ok(None)` means that the other end closed before a head began.
    pub(super) fn read_head<T>(
        &mut self,
        first: Timeout,
        parse: impl Fn(&[u8], &Limits) -> Result<Option<(T, usize)>, Refusal>,
    ) -> Result<Option<T>, HeadFault> {
        let waits_since = self.now();
        let whole = self.limits.head_timeout;
        let whole = first
            .time
            .filter(|_| self.side == Side::Gateway)
            .map_or(whole, |first| first.min(whole));
        let mut deadline = None;
        let mut worth_parsing = !self.inbox.is_blank();
        loop {
            if worth_parsing {
                if let Some((head, len)) =
                    parse(self.inbox.bytes(), &self.limits).map_err(HeadFault::Refused)?
                {
                    self.inbox.consume(len);
                    return Ok(Some(head));
                }
                if self.inbox.len() > self.limits.head_bytes_max + 2 {
                    return Err(HeadFault::Refused(Refusal::new(
                        431,
                        "the head is longer than head_bytes_max allows",
                    )));
                }
            }
            let seen = self.inbox.len();
            let begun = !self.inbox.is_blank();
            let n = if begun {
                self.fill_rest_of_head(&mut deadline, whole)?
            } else {
                let doing = if self.side == Side::Gateway {
                    "waiting for the response"
                } else {
                    "waiting for a request"
                };
                let left = if seen == 0 {
                    first.time
                } else {
                    first.time.map(|time| {
                        time.saturating_sub(self.now().saturating_duration_since(waits_since))
                    })
                };
                let late = left == Some(Duration::ZERO) && seen > 0;
                let filled = if late {
                    Err(io::ErrorKind::TimedOut.into())
                } else {
                    self.fill(left, HEAD_STEP)
                };
                filled.map_err(|e| HeadFault::Failed(self.read_failed(doing, first, e)))?
            };
            if n == 0 {
                return if begun { Err(HeadFault::Failed(self.ended_in_head())) } else { Ok(None) };
            }
            // A head that arrives slowly must not be parsed once per byte.
            let new = &self.inbox.bytes()[seen..];
            worth_parsing =
                !begun || new.contains(&b'\n') || self.inbox.len() >= self.limits.head_bytes_max;
        }
    }

    fn fill_rest_of_head(
        &mut self,
        deadline: &mut Option<Instant>,
        whole: Duration,
    ) -> Result<usize, HeadFault> {
        let now = self.now();
        let left = deadline.get_or_insert(now + whole).saturating_duration_since(now);
        let late = |wire: &mut Self, error| {
            let error = wire.read_failed(
                &format!("reading a {}'s head", wire.side.message()),
                Timeout::new("head_timeout", whole),
                error,
            );
            if error.is_timeout() { HeadFault::Late(error) } else { HeadFault::Failed(error) }
        };
        if left.is_zero() {
            return Err(late(self, io::ErrorKind::TimedOut.into()));
        }
        self.fill(Some(left), HEAD_STEP).map_err(|e| late(self, e))
    }

    fn ended_in_head(&mut self) -> Error {
        self.spoil("the peer closed within a head");
        let text = format!(
            "reading a {}'s head: {} closed the connection after {} bytes of it",
            self.side.message(),
            self.side.peer_name(),
            self.inbox.len()
        );
        Error::closed(self.side.peer(), text)
    }

    /// The error of a read, with the deadline's name if it timed out.
    pub(super) fn read_failed(&mut self, doing: &str, timeout: Timeout, error: io::Error) -> Error {
        if !is_timeout(&error) {
            self.spoil("reading from the connection failed");
            return Error::io(Fault::Network, doing, error);
        }
        self.spoil("a deadline passed");
        if let Some(whole) = self.whole.filter(|whole| whole.is_over(self.now())) {
            return whole.error(self.side.peer(), doing);
        }
        let time = timeout.time.unwrap_or_default();
        let text = format!(
            "{doing}: {} sent nothing more within {} ({time:?})",
            self.side.peer_name(),
            timeout.name
        );
        Error::timeout(self.side.peer(), text)
    }

    // --- the body that comes in ---

    /// Starts a body. Returns it if it is short, has a known length, and has arrived completely.
    pub(super) fn begin_body(&mut self, framing: Framing) -> Option<Vec<u8>> {
        self.incoming = None;
        if framing == Framing::Empty {
            self.body_ended();
            return Some(Vec::new());
        }
        if let Framing::Length(length) = framing {
            if length <= self.inbox.len() as u64 {
                // It is bounded by the inbox, which is in memory already.
                let bytes = self.inbox.bytes()[..length as usize].to_vec();
                self.inbox.consume(bytes.len());
                self.body_ended();
                return Some(bytes);
            }
        }
        let decoder = Decoder::new(framing, &self.limits).line_ends(self.side.line_ends());
        self.incoming = Some(Incoming { decoder, plain: framing != Framing::Chunked });
        None
    }

    pub(super) fn is_body_unread(&self) -> bool {
        self.incoming.is_some()
    }

    pub(super) fn body_remaining(&self) -> Option<u64> {
        self.incoming.as_ref().map_or(Some(0), |incoming| incoming.decoder.remaining())
    }

    /// Reads bytes of the body into `buf` (not empty). `Ok(0)` means that it is complete, and
    /// `trailers` was filled.
    pub(super) fn read_body(
        &mut self,
        buf: &mut [u8],
        trailers: &mut Option<HeaderMap>,
    ) -> Result<usize, Error> {
        if self.expectation == Expectation::Waiting {
            self.expectation = Expectation::None;
            // If the body is already arriving, the other end does not wait (RFC 9110 §10.1.1).
            if self.inbox.is_empty() {
                self.write_all(CONTINUE, &[]).map_err(|e| {
                    self.body_failed(|wire| wire.write_failed("writing 100 Continue", e))
                })?;
            }
        }
        loop {
            if self.incoming.is_none() {
                return Ok(0);
            }
            if !self.inbox.is_empty() {
                let copied = self.decode_into(buf, trailers)?;
                if copied > 0 || self.incoming.is_none() {
                    return Ok(copied);
                }
                continue;
            }
            let timeout = Timeout::new("body_silence_timeout", self.limits.body_silence_timeout);
            if let Some(n) = self.read_plain(buf, timeout)? {
                return Ok(n);
            }
            let doing = self.reading_body();
            match self.fill(timeout.time, STEP) {
                Ok(0) => return self.eof_in_body().map(|()| 0),
                Ok(_) => {}
                Err(error) => {
                    return Err(self.body_failed(|wire| wire.read_failed(doing, timeout, error)));
                }
            }
        }
    }

    /// Reads directly from the stream into a large buffer, if no decoding is needed. `None` if that
    /// is not possible now.
    fn read_plain(&mut self, buf: &mut [u8], timeout: Timeout) -> Result<Option<usize>, Error> {
        let Some(incoming) =
            self.incoming.as_ref().filter(|incoming| incoming.plain && buf.len() >= PLAIN_MIN)
        else {
            return Ok(None);
        };
        let left = incoming
            .decoder
            .remaining()
            .map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
        let room = buf.len().min(left);
        let doing = self.reading_body();
        let got = self.limit_read(timeout.time).and_then(|()| {
            let stream = self.stream.as_mut().ok_or_else(taken)?;
            retry(|| stream.read(&mut buf[..room]))
        });
        match got {
            Ok(0) => self.eof_in_body().map(|()| Some(0)),
            Ok(n) => {
                self.arrived = true;
                self.count_plain(n.min(room));
                Ok(Some(n.min(room)))
            }
            Err(error) => Err(self.body_failed(|wire| wire.read_failed(doing, timeout, error))),
        }
    }

    fn count_plain(&mut self, n: usize) {
        let Some(incoming) = &mut self.incoming else { return };
        incoming.decoder.advance(n as u64);
        if incoming.decoder.is_done() {
            self.body_ended();
        }
    }

    /// Moves bytes from the inbox through the decoder into `buf`.
    pub(super) fn decode_into(
        &mut self,
        buf: &mut [u8],
        trailers: &mut Option<HeaderMap>,
    ) -> Result<usize, Error> {
        let mut copied = 0;
        while copied < buf.len() && !self.inbox.is_empty() {
            let Some(incoming) = &mut self.incoming else { break };
            // It always fits: a decoder's output is part of its input.
            let bytes = self.inbox.bytes();
            let window = &bytes[..bytes.len().min(buf.len() - copied)];
            let consumed = match incoming.decoder.decode(window) {
                Ok((consumed, Piece::Data(data))) => {
                    buf[copied..copied + data.len()].copy_from_slice(data);
                    copied += data.len();
                    consumed
                }
                Ok((consumed, Piece::More | Piece::End)) => consumed,
                Err(refusal) => {
                    let doing = self.reading_body();
                    return Err(self.body_failed(|wire| {
                        wire.spoil("a body was malformed");
                        refusal.into_error(wire.side.peer(), doing)
                    }));
                }
            };
            let done = incoming.decoder.is_done();
            if done && trailers.is_none() {
                *trailers = trailer_map(incoming.decoder.trailers());
            }
            self.inbox.consume(consumed);
            if done {
                self.body_ended();
            }
        }
        Ok(copied)
    }

    pub(super) fn eof_in_body(&mut self) -> Result<(), Error> {
        let doing = self.reading_body();
        let Some(incoming) = &mut self.incoming else { return Ok(()) };
        match incoming.decoder.finish_at_eof() {
            Ok(()) => {
                self.spoil("the peer closed the connection");
                self.body_ended();
                Ok(())
            }
            Err(refusal) => Err(self.body_failed(|wire| {
                wire.spoil("the peer closed within a body");
                Error::closed(
                    wire.side.peer(),
                    format!(
                        "{doing}: {} closed the connection too early: {}",
                        wire.side.peer_name(),
                        refusal.reason
                    ),
                )
            })),
        }
    }

    fn body_failed(&mut self, error: impl FnOnce(&mut Self) -> Error) -> Error {
        let error = error(self);
        // Further bytes belong neither to this body nor to another message.
        self.incoming = None;
        self.spoil("a body was not read to its end");
        error
    }

    fn body_ended(&mut self) {
        self.incoming = None;
        self.expectation = Expectation::None;
        // A request may follow a request; nothing may follow a response (T16).
        if self.side == Side::Gateway && !self.inbox.is_blank() {
            self.spoil("bytes came after the response's end");
        }
    }

    fn reading_body(&self) -> &'static str {
        match self.side {
            Side::Gateway => "reading the response's body",
            Side::Device => "reading the request's body",
        }
    }

    /// Drops the inbox's bytes of an abandoned body, at most `max`. Returns true if the body is
    /// complete now.
    pub(super) fn drain_inbox(&mut self, max: &mut usize) -> Result<bool, Error> {
        let mut scratch = [0; 2048];
        let mut none = Some(HeaderMap::new());
        while *max > 0 && self.incoming.is_some() && !self.inbox.is_empty() {
            let before = self.inbox.len();
            self.decode_into(&mut scratch, &mut none)?;
            *max = max.saturating_sub(before - self.inbox.len());
        }
        Ok(self.incoming.is_none())
    }

    /// Reads an abandoned body to its end, within `drain_bytes_max` and, in all,
    /// `body_silence_timeout`. If that is not enough, the wire is spoilt.
    pub(super) fn drain(&mut self) -> Result<(), Error> {
        let timeout = Timeout::new("body_silence_timeout", self.limits.body_silence_timeout);
        let deadline = instant_after(self.now(), self.limits.body_silence_timeout);
        let mut left = self.limits.drain_bytes_max;
        while !self.drain_inbox(&mut left)? {
            let time = deadline.saturating_duration_since(self.now());
            if left == 0 || self.body_remaining().is_some_and(|n| n > left as u64) {
                let text = format!(
                    "dropping the rest of an unread {} body: it is longer than drain_bytes_max allows",
                    self.side.message()
                );
                return Err(self.body_failed(|wire| Error::closed(wire.side.peer(), text)));
            }
            let got = if time.is_zero() {
                Err(io::ErrorKind::TimedOut.into())
            } else {
                self.fill(Some(time), STEP)
            };
            match got {
                Ok(0) => self.eof_in_body()?,
                Ok(_) => {}
                Err(error) => {
                    return Err(self.body_failed(|wire| {
                        wire.read_failed("dropping the rest of an unread body", timeout, error)
                    }));
                }
            }
        }
        Ok(())
    }

    // --- writing ---

    /// Writes both slices with as few calls as the transport allows, and flushes.
    pub(super) fn write_all(&mut self, mut first: &[u8], mut second: &[u8]) -> io::Result<()> {
        while !first.is_empty() || !second.is_empty() {
            let n = self.write_some(first, second, self.limits.body_silence_timeout)?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            let of_first = n.min(first.len());
            first = &first[of_first..];
            second = &second[(n - of_first).min(second.len())..];
        }
        Ok(())
    }

    /// One write, of at most both slices, and a flush.
    pub(super) fn write_some(
        &mut self,
        first: &[u8],
        second: &[u8],
        limit: Duration,
    ) -> io::Result<usize> {
        let limit = self.within_whole(Some(limit))?.unwrap_or(limit);
        let stream = self.stream.as_mut().ok_or_else(taken)?;
        if self.write_limit != Some(limit) {
            stream.limit_write(Some(limit.max(Duration::from_millis(1))))?;
            self.write_limit = Some(limit);
        }
        let n = retry(|| match (first, second) {
            (bytes, []) | ([], bytes) => stream.write(bytes),
            _ => stream.write_vectored(&[IoSlice::new(first), IoSlice::new(second)]),
        })?;
        retry(|| stream.flush())?;
        Ok(n)
    }

    /// The error of a write, with the deadline's name if it timed out.
    pub(super) fn write_failed(&mut self, doing: &str, error: io::Error) -> Error {
        self.spoil("writing to the connection failed");
        if is_timeout(&error) {
            if let Some(whole) = self.whole.filter(|whole| whole.is_over(self.now())) {
                return whole.error(self.side.peer(), doing);
            }
            let time = self.limits.body_silence_timeout;
            let text = format!(
                "{doing}: {} took nothing within body_silence_timeout ({time:?})",
                self.side.peer_name()
            );
            return Error::timeout(self.side.peer(), text);
        }
        Error::io(Fault::Network, doing, error)
    }

    // --- ending ---

    /// The link will end with the answer that comes next.
    pub(super) fn before_goaway(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.before_goaway();
        }
    }

    /// The other end reported this number of waiting callers.
    pub(super) fn callers_wait(&mut self, callers: usize) {
        if let Some(stream) = &mut self.stream {
            stream.callers_wait(callers);
        }
    }

    /// Half-closes and continues to read for a bounded time, so that a reset does not destroy the
    /// last answer. Over a transport that cannot half-close, it reads only if more bytes may come,
    /// because the other end could be waiting for an end that only the drop causes.
    pub(super) fn finish(&mut self) {
        let closed = self.stream.as_ref().is_some_and(TimedStream::half_close);
        if !closed && !self.more_may_come {
            return;
        }
        let ends = instant_after(self.now(), self.limits.linger_total_timeout);
        loop {
            self.inbox.clear();
            let time = ends.saturating_duration_since(self.now()).min(self.limits.linger_timeout);
            if time.is_zero() || !matches!(self.fill(Some(time), STEP), Ok(1..)) {
                return self.inbox.clear();
            }
        }
    }

    /// Ends the connection in the middle of a message, so that the other end cannot take it for the
    /// message's end (T17).
    pub(super) fn abort(&mut self, framing: Framing) {
        self.spoil("a message was cut short");
        match self.stream.as_ref() {
            Some(stream) if framing == Framing::UntilClose => stream.reset_when_dropped(),
            Some(stream) => socket::cut(stream),
            None => {}
        }
    }

    /// The current time for deadlines.
    pub(super) fn now(&self) -> Instant {
        self.stream.as_ref().map_or_else(Instant::now, TimedStream::now)
    }

    /// A wait, limited by the deadline of the whole exchange.
    fn within_whole(&self, wait: Option<Duration>) -> io::Result<Option<Duration>> {
        let Some(left) = self.whole.map(|whole| whole.left(self.now())) else { return Ok(wait) };
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(Some(wait.map_or(left, |wait| wait.min(left))))
    }

    /// Returns true if the deadline of the whole exchange has passed.
    pub(super) fn is_overdue(&self) -> bool {
        self.whole.is_some_and(|whole| whole.left(self.now()).is_zero())
    }

    /// Sets the transport's limit for reads, but only if it differs by more than a tenth from the
    /// current one.
    fn limit_read(&mut self, wanted: Option<Duration>) -> io::Result<()> {
        let wanted = self.within_whole(wanted)?;
        let near = match (self.read_limit, wanted) {
            (Some(None), None) => true,
            (Some(Some(set)), Some(wanted)) => set.abs_diff(wanted) <= wanted / 10,
            _ => false,
        };
        if near {
            return Ok(());
        }
        let stream = self.stream.as_mut().ok_or_else(taken)?;
        // A socket does not accept zero.
        stream.limit_read(wanted.map(|time| time.max(Duration::from_millis(1))))?;
        self.read_limit = Some(wanted);
        Ok(())
    }
}

pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn taken() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the stream was taken out of this link")
}

/// A signal is not an error (T41).
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The fields of a head as a program sees them.
pub(super) fn header_map(fields: &Fields<'_>, status: u16) -> Result<HeaderMap, Refusal> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(field.value)) else {
            return Err(Refusal::new(
                status,
                "a field whose name or value is not one (RFC 9110 §5)",
            ));
        };
        map.append(name, value);
    }
    Ok(map)
}

fn trailer_map(trailers: &[(String, Vec<u8>)]) -> Option<HeaderMap> {
    let fields = trailers.iter().filter_map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_bytes(value).ok()?))
    });
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(name, value);
    }
    (!map.is_empty()).then_some(map)
}
