//! The downstream side of a link.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Method, Request, Response, StatusCode, Version};

use crate::body::Body;
use crate::close_reason::CloseReason;
use crate::error::{Error, Fault, Refusal};
use crate::limits::{Limits, instant_after};
use crate::link::deadlines::{Timeout, Whole};
use crate::link::line::Line;
use crate::link::send::{COPY_MAX, SendFault, WriteBuffers};
use crate::link::upload::{EARLY, Step, Upload};
use crate::link::wire::{HeadFault, Side, Wire, header_map};
use crate::link::wire_body::{CutError, Done, Settlement, WireBody};
use crate::message::{check_switch, write_request_head};
use crate::proto::body::{self, Framing};
use crate::proto::bound_login;
use crate::proto::forward;
use crate::proto::head::foreign_protocol;
use crate::proto::head::{self, LineEnds, ResponseHead};
use crate::proto::interim::InterimCount;
use crate::proto::turn::Transport;
use crate::stream::{Stream, TimedStream};

/// The gateway's side of a turned connection: it sends requests, one exchange at a time.
///
/// It blocks: [`ask`](Self::ask) returns when the head of the response has arrived, and the
/// response's [`Body`] is read from the connection as the program reads it. If the device answers
/// before it has read the whole request (an echo, say), the rest of the request is written while
/// the response is read; that needs a transport with timeouts. Every wait has a timeout from
/// [`Limits`], named in its error (if the [`TimedStream`] supports timeouts).
///
/// ```
/// use std::os::unix::net::UnixStream;
/// use std::sync::Arc;
/// use reverse_http::{Body, DeviceLink, GatewayLink, Limits};
///
/// let (gateway_end, device_end) = UnixStream::pair()?;
/// let limits = Arc::new(Limits::default());
/// let mut device = DeviceLink::new(device_end, Vec::new(), limits.clone());
/// std::thread::spawn(move || {
///     let request = device.next_request()?;
///     assert!(request.is_some_and(|request| request.uri() == "/status"));
///     device.respond(http::Response::new(Body::from("on")))
/// });
/// let mut gateway = GatewayLink::new(gateway_end, Vec::new(), limits);
/// let response = gateway.ask(http::Request::get("/status").body(Body::empty())?)?;
/// assert_eq!(response.into_body().read_to_text(100)?, "on");
/// assert!(gateway.is_reusable());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct GatewayLink<S: TimedStream + 'static = Stream> {
    line: Arc<Line<S>>,
    buffers: WriteBuffers,
    device: Option<Box<LinkedDevice>>,
}

/// A gateway's description of a link's device.
#[derive(Clone, Debug)]
pub(crate) struct LinkedDevice {
    /// The (first) name under which it is registered.
    pub(crate) name: Arc<str>,
    pub(crate) remote_ip: Option<IpAddr>,
    pub(crate) transport: Transport,
    /// The label of the token that admitted it.
    pub(crate) token: Option<Box<str>>,
}

/// For a failed exchange: no byte of the response had arrived, so that another link may be tried if
/// the request allows that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NothingArrived(pub(crate) bool);

/// The settings of an exchange that owns its link.
pub(crate) struct Owned<S> {
    /// The deadline for the response's first byte. `None` for `first_byte_timeout`.
    pub(crate) first: Option<Instant>,
    /// The number of callers that wait for the same device, which is told (protocol.md §1.6).
    pub(crate) waiting: usize,
    /// The deadline of the whole exchange, including the response's body.
    pub(crate) whole: Option<Whole>,
    /// The slot for the reason why this side cuts the connection; it is then the exchange's error.
    pub(crate) cut_error: CutError,
    /// Takes the stream back.
    pub(crate) done: Done<S>,
}

/// The result of an owned exchange whose response has begun.
pub(crate) struct BegunResponse<S> {
    pub(crate) response: Response<Body>,
    /// The connection, if the response is the requested 101.
    pub(crate) switched: Option<Switched<S>>,
}

/// A connection that was switched to another protocol. Its exchange ends with `settlement`.
pub(crate) struct Switched<S> {
    pub(crate) stream: S,
    /// Bytes that were read after the head.
    pub(crate) unread: Vec<u8>,
    pub(crate) settlement: Settlement<S>,
}

/// The contents of a response's head, owned.
struct Answer {
    response: Response<()>,
    framing: Framing,
    /// Why its connection ends, if the head says so.
    last: Option<&'static str>,
}

impl<S: TimedStream + 'static> GatewayLink<S> {
    /// A link over a stream that has already turned. `unread`: bytes that were read after the
    /// offer. There should be none, as a device only answers; any but a stray line end make the
    /// first [`ask`](Self::ask) fail.
    pub fn new(stream: S, unread: Vec<u8>, limits: Arc<Limits>) -> Self {
        Self::within(stream, unread, Arc::new(limits.with_room()))
    }

    /// The same with limits that already have room for the fields that a device adds.
    pub(crate) fn within(stream: S, unread: Vec<u8>, limits: Arc<Limits>) -> Self {
        GatewayLink {
            line: Line::new(Wire::new(stream, unread, limits, Side::Gateway)),
            buffers: WriteBuffers::default(),
            device: None,
        }
    }

    /// The same, for this device.
    pub(crate) fn of_device(self, device: LinkedDevice) -> Self {
        GatewayLink { device: Some(Box::new(device)), ..self }
    }

    /// The name that its device is registered under, the first of several: for links that a
    /// [`Gateway`](crate::Gateway) gives to [`on_link`](crate::GatewayBuilder::on_link). `None`:
    /// the link was made with [`new`](Self::new).
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.device.as_deref().map(|device| &*device.name)
    }

    /// The IP address of the device, or of the proxy before the gateway. `None` over a Unix socket, or
    /// for the same reason as [`name`](Self::name).
    #[must_use]
    pub fn remote_ip(&self) -> Option<IpAddr> {
        self.device.as_deref()?.remote_ip
    }

    /// How the device is connected: by a turned connection. `None` for the same reason as
    /// [`name`](Self::name).
    #[must_use]
    pub fn transport(&self) -> Option<Transport> {
        Some(self.device.as_deref()?.transport)
    }

    /// The label of the [token](crate::GatewayBuilder::tokens) that admitted the device (`line 7`
    /// for one without). `None`: no token was needed, or for the same reason as
    /// [`name`](Self::name).
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.device.as_deref()?.token.as_deref()
    }

    /// The same, for a device whose answers may begin with `EVENT/1.0` (AirPlay senders).
    pub(crate) fn taking_events(self, events: bool) -> Self {
        self.line.lock().takes_events = events;
        self
    }

    /// Sends a request, and waits for the head of the final response; up to `informational_max` 1xx
    /// responses before it are skipped.
    ///
    /// The request gets a `Host` (its own, or its URI's authority, or an empty one), and the link
    /// determines its framing: a body of known length has `Content-Length`, any other is chunked.
    /// An `Upgrade` is offered if there is no body; after a 101, [`into_parts`](Self::into_parts)
    /// returns the stream, and the link carries no other request. If an earlier response's body was
    /// dropped before its end, its rest is first read and discarded, up to `drain_bytes_max`. If it
    /// still exists, it is cut off.
    ///
    /// # Errors
    /// The link may not carry another exchange ([`why_not_reusable`](Self::why_not_reusable));
    /// there were unexpected bytes; the request cannot be written as HTTP; its body could not be
    /// read; the response was malformed, late, or cut off. The link is then closed, except after a
    /// request that cannot be written (`is_usage()`), or whose head is longer than a device accepts
    /// (431, `is_refused()`): these leave the link as it was.
    pub fn ask(&mut self, request: Request<Body>) -> Result<Response<Body>, Error> {
        self.make_ready()?;
        let (answer, upload) = self.exchange(request, None, 0)?;
        let mut wire = self.line.lock();
        let body = match begin(&mut wire, &answer) {
            None => Body::from_streamed(WireBody::new(&self.line, &wire, None).with_upload(upload)),
            Some(bytes) => {
                // The answer is complete before the request was sent: the device is told that no
                // more bytes follow.
                if upload.is_some() {
                    wire.abort(Framing::Chunked);
                }
                bytes.into()
            }
        };
        Ok(answer.response.map(|()| body))
    }

    /// Like [`ask`](Self::ask), for a link that belongs to this one exchange. `done` is called
    /// exactly once: with the stream and its unread bytes if the exchange ended at a message
    /// boundary and the stream can be reused (before this returns, if the response is complete by
    /// then); else with the error that ended it, if there was one. Dropping the response's body
    /// never blocks.
    pub(crate) fn ask_owned(
        mut self,
        request: Request<Body>,
        owned: Owned<S>,
    ) -> Result<BegunResponse<S>, (Error, NothingArrived)> {
        let settlement = Settlement::new(owned.done, owned.cut_error);
        self.line.lock().whole = owned.whole;
        if has_bound_login(request.headers()) {
            self.line
                .lock()
                .spoil("a login that belongs to its connection goes over it (NTLM, Negotiate)"); // it must not be used for others after this
        }
        let (answer, upload) = match self.exchange(request, owned.first, owned.waiting) {
            Ok(exchanged) => exchanged,
            Err(error) => {
                let nothing = NothingArrived(!self.response_began());
                let error = settlement.cut_error().unwrap_or(error);
                let stream = self.line.lock().take_reusable();
                settlement.settle(stream.map_err(|_| Some(CloseReason::of_exchange(&error))));
                return Err((error, nothing));
            }
        };
        let mut wire = self.line.lock();
        if answer.response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let switched =
                wire.take().map(|(stream, unread)| Switched { stream, unread, settlement });
            return Ok(BegunResponse {
                response: answer.response.map(|()| Body::empty()),
                switched,
            });
        }
        let body = match begin(&mut wire, &answer) {
            None => Body::from_streamed(
                WireBody::new(&self.line, &wire, Some(settlement)).with_upload(upload),
            ),
            Some(bytes) => {
                wire.whole = None;
                let stream = wire.take_reusable();
                drop(wire);
                settlement.settle(stream);
                bytes.into()
            }
        };
        Ok(BegunResponse { response: answer.response.map(|()| body), switched: None })
    }

    /// Returns true if a byte of a response to the last request has arrived. If the request failed
    /// and no byte has, it may be sent again on another link if it is idempotent.
    #[must_use]
    pub fn response_began(&self) -> bool {
        self.line.lock().arrived
    }

    /// Returns true if another request may be sent: the last response's body was read to its end,
    /// and there is no other obstacle.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.why_not_reusable().is_empty()
    }

    /// Why this link may not carry another request; empty if it may. An unread body is such a
    /// reason, until it has been read.
    #[must_use]
    pub fn why_not_reusable(&self) -> Vec<&'static str> {
        self.line.lock().reasons()
    }

    /// Returns the stream, and the bytes that were read from it but not used, for a program that
    /// uses another protocol on it. A response's body that still exists is cut off; its unread part
    /// is in the stream or among the bytes.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn into_parts(self) -> (S, Vec<u8>) {
        self.line.take_apart()
    }

    /// Brings the wire to a message boundary, or returns why that is impossible.
    fn make_ready(&mut self) -> Result<(), Error> {
        self.line.end_exchange();
        let mut wire = self.line.lock();
        wire.drain()?;
        if !wire.is_spoilt() {
            look_for_unasked(&mut wire)?;
        }
        if wire.is_spoilt() {
            let reasons = wire.reasons().join("; ");
            return Err(Error::closed(
                Fault::Network,
                format!("asking on a link that is to be closed ({reasons}); ask on another one"),
            ));
        }
        Ok(())
    }

    fn exchange(
        &mut self,
        request: Request<Body>,
        deadline: Option<Instant>,
        waiting: usize,
    ) -> Result<Exchanged, Error> {
        refuse_unasked(&mut self.line.lock())?;
        let (parts, body) = request.into_parts();
        self.buffers.out.clear();
        let sending =
            write_request_head(&mut self.buffers.out, &parts, &body).map_err(|refusal| {
                Error::usage(format!(
                    "writing a request's head: {}; nothing was sent",
                    refusal.reason
                ))
            })?;
        refuse_long_head(&self.buffers.out, parts.headers.len(), &self.line.lock().limits)?;
        self.tell_waiting(waiting, parts.headers.len());
        let mut wire = self.line.lock();
        wire.forget_arrivals();
        wire.offered = sending.offered;
        drop(wire);
        let exchanged = match self.send(body, sending.framing, &parts.method, deadline) {
            Ok(Some(early)) => early?,
            Ok(None) => (self.read_answer(&parts.method, deadline)?, None),
            Err(SendFault::Body(error)) => {
                self.line.lock().abort(sending.framing);
                return Err(error);
            }
            // A device may answer (for example with 413) and close before it has read the whole
            // request: such an answer may have arrived.
            Err(SendFault::Wire(error)) => {
                let wire = self.line.lock();
                let soon = instant_after(wire.now(), wire.limits.linger_timeout);
                drop(wire);
                (self.read_answer(&parts.method, Some(soon)).map_err(|_| error)?, None)
            }
        };
        if sending.close {
            self.line.lock().spoil("the request said Connection: close");
        }
        Ok(exchanged)
    }

    /// Adds the number of waiting callers to the request's head, if there is room.
    fn tell_waiting(&mut self, waiting: usize, fields: usize) {
        const FIELDS_OF_OURS: usize = 2; // Host and framing
        let line = forward::waiting_line(waiting);
        let (head, limits) = (&mut self.buffers.out, &self.line.lock().limits);
        let fits = head.len() + line.len() <= limits.head_bytes_max
            && fields + FIELDS_OF_OURS < limits.fields_max;
        if !line.is_empty() && fits {
            let place = forward::behind_first_line(head);
            head.splice(place..place, line);
        }
    }

    /// Writes the request. If the device answers before it has read all of it, returns the
    /// response's head and the rest of the request.
    fn send(
        &mut self,
        mut body: Body,
        framing: Framing,
        method: &Method,
        deadline: Option<Instant>,
    ) -> Result<Option<Result<Exchanged, Error>>, SendFault> {
        if framing == Framing::Empty
            || body
                .in_memory()
                .is_some_and(|bytes| bytes.len() <= COPY_MAX && framing != Framing::Chunked)
        {
            return self.buffers.send(&self.line, &mut body, framing, false).map(|()| None);
        }
        let mut interim = InterimCount::default();
        let mut upload = Upload::new(std::mem::take(&mut self.buffers), body, framing);
        while upload.load()? {
            let mut wire = self.line.lock();
            if upload.write(&mut wire)? == Step::Moved {
                continue;
            }
            match if wire.inbox.is_blank() { upload.look(&mut wire)? } else { Step::Moved } {
                Step::Moved => {}
                Step::Nothing => continue,
                Step::End => return Ok(Some(Err(ended_before_response(&mut wire)))),
            }
            match read_one_answer(&mut wire, method, deadline, &mut interim) {
                Ok(None) => {}
                Ok(Some(answer)) => {
                    wire.spoil(EARLY);
                    upload.take_turns();
                    return Ok(Some(Ok((answer, Some(Box::new(upload))))));
                }
                Err(error) => return Ok(Some(Err(error))),
            }
        }
        self.buffers = upload.into_buffers();
        Ok(None)
    }

    fn read_answer(&mut self, method: &Method, deadline: Option<Instant>) -> Result<Answer, Error> {
        let mut wire = self.line.lock();
        let mut interim = InterimCount::default();
        loop {
            if let Some(answer) = read_one_answer(&mut wire, method, deadline, &mut interim)? {
                return Ok(answer);
            }
        }
    }
}

/// A final response's head, and the rest of the request if it was not written whole by then.
type Exchanged = (Answer, Option<Box<Upload>>);

impl<S: TimedStream + 'static> std::fmt::Debug for GatewayLink<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatewayLink").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// Starts the response's body, and records whether its head ends the connection. Returns the body
/// if it is complete already.
fn begin<S: TimedStream + 'static>(wire: &mut Wire<S>, answer: &Answer) -> Option<Vec<u8>> {
    if let Some(reason) = answer.last {
        wire.spoil(reason);
    }
    wire.begin_body(answer.framing)
}

/// Reads one head. `None` if it was a 1xx, which `interim` counts.
fn read_one_answer<S: TimedStream + 'static>(
    wire: &mut Wire<S>,
    method: &Method,
    deadline: Option<Instant>,
    interim: &mut InterimCount,
) -> Result<Option<Answer>, Error> {
    let first = first_byte(wire, deadline);
    let events = wire.takes_events;
    let answer =
        match wire.read_head(first, |bytes, limits| read_response(bytes, limits, method, events)) {
            Ok(Some(answer)) => answer,
            Ok(None) => return Err(ended_before_response(wire)),
            Err(HeadFault::Refused(refusal)) => return Err(refused(wire, refusal)),
            Err(HeadFault::Late(error) | HeadFault::Failed(error)) => return Err(error),
        };
    if answer.response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(text) = why_no_switch(wire, &answer.response) else { return Ok(Some(answer)) };
        wire.spoil("the device switched protocols unasked");
        return Err(Error::malformed(
            Fault::Device,
            502,
            format!("reading a response: the device {text}"),
        ));
    }
    if !answer.response.status().is_informational() {
        return Ok(Some(answer));
    }
    interim.count(&wire.limits).map(|()| None).map_err(|e| {
        wire.spoil("too many 1xx responses");
        let text = format!("reading a response: the device {}", e.reason);
        Error::malformed(Fault::Device, 502, text)
    })
}

/// Why a 101 is invalid, if so.
fn why_no_switch<S: TimedStream + 'static>(
    wire: &Wire<S>,
    response: &Response<()>,
) -> Option<&'static str> {
    let Some(offered) = &wire.offered else {
        return Some("sent 101 to a request that offered no protocol");
    };
    if response.version() == Version::HTTP_10 {
        return Some("switched protocols in HTTP/1.0");
    }
    check_switch(offered, response.headers()).err()
}

/// Returns true if a head is part of a login that belongs to its connection, which others must not
/// use.
fn has_bound_login(fields: &HeaderMap) -> bool {
    fields.iter().any(|(name, value)| bound_login::is_bound_login(name.as_str(), value.as_bytes()))
}

fn first_byte<S: TimedStream + 'static>(wire: &Wire<S>, deadline: Option<Instant>) -> Timeout {
    match deadline {
        None => Timeout::new("first_byte_timeout", wire.limits.first_byte_timeout),
        Some(deadline) => Timeout::new(
            "the deadline for the first byte",
            deadline.saturating_duration_since(wire.now()),
        ),
    }
}

fn read_response(
    bytes: &[u8],
    limits: &Limits,
    method: &Method,
    events: bool,
) -> Result<Option<(Answer, usize)>, Refusal> {
    // An extra line end after the last response (RFC 9112 §2.2 mentions it for requests) is not the
    // beginning of this one.
    let stray = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    let read = if events { head::event_response } else { head::response };
    let Some(head) = read(&bytes[stray..], limits, LineEnds::CrlfOrLf)? else { return Ok(None) };
    let len = head.len + stray;
    Ok(Some((answer(&head, method)?, len)))
}

fn answer(head: &ResponseHead<'_>, method: &Method) -> Result<Answer, Refusal> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status)
        .map_err(|_| Refusal::new(502, "a status outside 100 to 999"))?;
    *response.version_mut() = if head.minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        *response.headers_mut() = header_map(&head.fields, 502)?;
        let last = Some("the device has switched the link to another protocol");
        return Ok(Answer { response, framing: Framing::Empty, last });
    }
    if response.status().is_informational() {
        *response.headers_mut() = HeaderMap::new();
        return Ok(Answer { response, framing: Framing::Empty, last: None });
    }
    *response.headers_mut() = header_map(&head.fields, 502)?;
    let framing = body::of_response(head, method.as_str())?;
    let last = match framing {
        Framing::UntilClose => Some("the response's body ends with the connection"),
        _ if head.minor == 0 => Some("the device answered in HTTP/1.0"),
        _ if !head::keeps_alive(head.minor, &head.fields) => {
            Some("the response said Connection: close")
        }
        _ => None,
    };
    Ok(Answer { response, framing, last })
}

/// Checks the socket before a request for an end, or for bytes that must not become its answer
/// (T16).
fn look_for_unasked<S: TimedStream + 'static>(wire: &mut Wire<S>) -> Result<(), Error> {
    if !wire.inbox.is_blank() {
        return refuse_unasked(wire);
    }
    wire.inbox.clear();
    match wire.fill_arrived() {
        None => Ok(()),
        Some(Ok(0)) => {
            wire.spoil("the peer closed the connection");
            Err(Error::closed(
                Fault::Device,
                "asking on an idle link: the device has closed it; nothing was sent, ask on another one",
            ))
        }
        Some(Ok(_)) => refuse_unasked(wire),
        Some(Err(error)) => Err(wire.read_failed(
            "looking at an idle link",
            Timeout { name: "", time: None },
            error,
        )),
    }
}

fn refuse_unasked<S: TimedStream + 'static>(wire: &mut Wire<S>) -> Result<(), Error> {
    if wire.inbox.is_blank() {
        wire.inbox.clear();
        return Ok(());
    }
    wire.spoil("unrequested bytes arrived");
    Err(Error::malformed(
        Fault::Device,
        502,
        "asking on an idle link: unrequested bytes arrived; nothing was sent, ask on another one",
    ))
}

/// Refuses a head that a device would refuse, which would close the link. `fields` is the number of
/// the program's fields; ours are few.
fn refuse_long_head(head: &[u8], fields: usize, limits: &Limits) -> Result<(), Error> {
    const OURS: usize = 3; // Host, framing, Connection
    if head.len() <= limits.head_bytes_max && fields + OURS <= limits.fields_max {
        return Ok(());
    }
    let text = format!(
        "writing a request's head: {} bytes and {fields} fields are more than a device takes (head_bytes_max, fields_max); nothing was sent",
        head.len()
    );
    Err(Error::refused(Fault::Caller, 431, text, None))
}

fn ended_before_response<S: TimedStream + 'static>(wire: &mut Wire<S>) -> Error {
    wire.spoil("the peer closed the connection");
    let source = io::Error::from(io::ErrorKind::UnexpectedEof);
    Error::io(Fault::Device, "waiting for the response: the device closed the connection", source)
}

fn refused<S: TimedStream + 'static>(wire: &mut Wire<S>, refusal: Refusal) -> Error {
    wire.spoil("a response was malformed");
    match foreign_protocol(wire.inbox.bytes()) {
        Some(what) => Error::malformed(
            Fault::Device,
            502,
            format!("reading the response's head: this is not HTTP/1, but {what}"),
        ),
        None => refusal.into_error(Fault::Device, "reading the response's head"),
    }
}
