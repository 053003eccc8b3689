//! The upstream side of a link.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};

use crate::body::Body;
use crate::error::{Error, Fault, Refusal};
use crate::limits::Limits;
use crate::link::deadlines::Timeout;
use crate::link::line::Line;
use crate::link::send::{SendFault, WriteBuffers};
use crate::link::wire::{Expectation, HeadFault, Side, Wire, header_map, is_timeout};
use crate::link::wire_body::WireBody;
use crate::message::{RequestFacts, check_switch, write_refusal, write_response_head};
use crate::proto::body::Framing;
use crate::proto::forward::{SAME_VISITOR, WAITING, callers_waiting, host_of};
use crate::proto::framed::FramedRequest;
use crate::proto::head::foreign_protocol;
use crate::proto::head::{self, LineEnds, RequestHead};
use crate::proto::heartbeat;
use crate::proto::upgrade::Offered;
use crate::stream::{Stream, TimedStream};

/// The device's side of a turned connection: it answers requests, one exchange at a time.
///
/// ```no_run
/// # fn serve(mut link: reverse_http::DeviceLink) -> Result<(), reverse_http::Error> {
/// while let Some(request) = link.next_request()? {
///     // The request's own body may go back as the response's: it is streamed.
///     link.respond(http::Response::new(request.into_body()))?;
/// }
/// # Ok(()) }
/// ```
pub struct DeviceLink<S: TimedStream + 'static = Stream> {
    line: Arc<Line<S>>,
    buffers: WriteBuffers,
    pending: Option<Pending>,
    seen_heartbeat: bool,
    /// How many callers wait for this device, according to the last head.
    waiting: Option<usize>,
    /// This side ends the link, and still has to half-close it and read for a moment.
    goaway: bool,
    /// Its owner closes it gently instead.
    is_watched: bool,
}

/// A request that waits for its response.
#[derive(Clone)]
struct Pending {
    asked: RequestFacts,
    /// The other protocols that it offers, to which a 101 may switch.
    offered: Option<Offered>,
}

/// The effect of an informational response.
enum Interim {
    /// The final response follows, now or later.
    Sent,
    /// The 101: nothing follows.
    Switched,
}

/// The result of [`DeviceLink::linger`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lingered {
    /// Bytes of the next request have arrived.
    Ready,
    /// No bytes arrived; the link can still be used.
    Quiet,
    /// The link has ended.
    Closed,
}

/// The result of [`DeviceLink::next_head`].
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it is used at once, and mostly a request")]
pub(crate) enum Next {
    /// A request, which waits for its response.
    Request(Request<Body>),
    /// A heartbeat; it was answered.
    Heartbeat,
    /// No further request will come.
    Closed,
}

/// The contents of a request's head, owned.
struct Question {
    request: Request<()>,
    framing: Framing,
    pending: Pending,
    expects_continue: bool,
    is_heartbeat: bool,
    /// How many callers wait for this device.
    waiting: Option<usize>,
}

impl<S: TimedStream + 'static> DeviceLink<S> {
    /// Returns true if the other side is known, without waiting, to have ended the connection.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.line.lock().fill_arrived(), Some(Ok(0) | Err(_)))
    }

    /// A link over a stream that has already turned. `unread`: bytes that were read after the 101;
    /// they belong to the first request (RFC 9931).
    pub fn new(stream: S, unread: Vec<u8>, limits: Arc<Limits>) -> Self {
        Self::within(stream, unread, Arc::new(limits.with_room()))
    }

    /// The same with limits that already have room for the fields that a gateway adds.
    pub(crate) fn within(stream: S, unread: Vec<u8>, limits: Arc<Limits>) -> Self {
        let line = Line::new(Wire::new(stream, unread, limits, Side::Device));
        DeviceLink {
            line,
            buffers: WriteBuffers::default(),
            pending: None,
            seen_heartbeat: false,
            waiting: None,
            goaway: false,
            is_watched: false,
        }
    }

    /// After a refusal that ends it, it stays open: its owner closes it gently if it [is
    /// leaving](Self::is_leaving).
    pub(crate) fn watched(self) -> Self {
        DeviceLink { is_watched: true, ..self }
    }

    /// Returns true if its last message was written, and it has to be closed gently.
    pub(crate) fn is_leaving(&self) -> bool {
        self.goaway
    }

    /// Waits for the next request. `None`: the gateway closed the link between two requests, or the
    /// last exchange ended it ([`why_not_reusable`](Self::why_not_reusable)).
    ///
    /// Heartbeats (`OPTIONS *`) are answered here with 204, and are never returned. A missing or
    /// empty `Host` is accepted. With `Expect: 100-continue`, the 100 is sent at the first read of
    /// the body. The wait for the first byte is unlimited until there was a heartbeat, and limited
    /// by `silence` from then on.
    ///
    /// # Errors
    /// The last request was not answered yet (`is_usage()`); the request is malformed (it was
    /// answered with a status and a short reason, and the link is closed); the connection failed or
    /// was too slow.
    pub fn next_request(&mut self) -> Result<Option<Request<Body>>, Error> {
        loop {
            match self.next_head()? {
                Next::Request(request) => return Ok(Some(request)),
                Next::Heartbeat => {}
                Next::Closed => return Ok(None),
            }
        }
    }

    /// Like [`next_request`](Self::next_request), but also returns after a heartbeat, so that a
    /// worker need not wait for a request that may come much later.
    pub(crate) fn next_head(&mut self) -> Result<Next, Error> {
        if self.pending.is_some() {
            return Err(Error::usage(
                "waiting for a request while one is unanswered; call respond() first",
            ));
        }
        if self.line.lock().is_spoilt() {
            self.take_leave();
            return Ok(Next::Closed);
        }
        let Some(question) = self.read_question()? else { return Ok(Next::Closed) };
        let is_heartbeat = question.is_heartbeat;
        self.waiting = question.waiting;
        if let Some(callers) = self.waiting {
            self.line.lock().callers_wait(callers);
        }
        let request = self.begin(question);
        if !is_heartbeat {
            return Ok(Next::Request(request));
        }
        self.seen_heartbeat = true;
        drop(request);
        if self.pending.as_ref().is_some_and(|pending| pending.asked.close) {
            self.line.lock().before_goaway();
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        self.respond(response)?;
        Ok(Next::Heartbeat)
    }

    /// Answers the request that [`next_request`](Self::next_request) returned last.
    ///
    /// The link determines the framing: `Content-Length`, `Transfer-Encoding` and `Connection`
    /// (except its `close`) of the response are replaced. `Date` is added if it is missing. With
    /// 204, 205 and 304, and to HEAD, no body is sent. A 1xx other than 101 is sent as it is, and
    /// must be followed by the final response. A 101 is for requests that offered an `Upgrade`; the
    /// response's own `Upgrade` field names protocols that were offered, and no others. Afterwards
    /// [`into_parts`](Self::into_parts) returns the stream.
    ///
    /// The rest of the request's body is read and discarded, up to `drain_bytes_max`; if that is
    /// not enough, the response says `Connection: close` and the link ends.
    ///
    /// # Errors
    /// There is no request to answer (`is_usage()`); the response cannot be written as HTTP (the
    /// gateway got a 500); its body could not be read (the connection is cut so that the gateway
    /// cannot mistake the response for complete); the gateway does not read it. After all but the
    /// first, the link has ended.
    pub fn respond(&mut self, response: Response<Body>) -> Result<(), Error> {
        let Some(pending) = self.pending.take() else {
            return Err(Error::usage(
                "responding although no request waits for a response; call next_request() first",
            ));
        };
        if !response.status().is_informational() {
            return self.respond_finally(&pending, response);
        }
        let sent = self.respond_informational(&pending, response);
        if !matches!(sent, Ok(Interim::Switched)) {
            self.pending = Some(pending); // the final response follows
        }
        sent.map(drop)
    }

    /// Returns true if another request may follow.
    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.why_not_reusable().is_empty()
    }

    /// Why this link may not carry another exchange; empty if it may. An exchange in progress is
    /// not a reason; an unread body is one, until it has been read.
    #[must_use]
    pub fn why_not_reusable(&self) -> Vec<&'static str> {
        self.line.lock().reasons()
    }

    /// Returns the stream, and the bytes that were read from it but not used, for a program that
    /// uses another protocol on it (after a 101, say). A request's body that still exists is cut
    /// off; its unread part is in the stream or among the bytes.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn into_parts(self) -> (S, Vec<u8>) {
        self.line.take_apart()
    }

    /// Closes the link so that the last response is not lost to a reset: half-closes it (sockets
    /// only), then reads until nothing has come for `linger_timeout`, for at most
    /// `linger_total_timeout`. Dropping the link closes it at once.
    pub fn close(self) {
        self.line.end_exchange();
        self.line.lock().finish();
    }

    /// Waits up to `time` for the first bytes of the next request, and keeps them.
    pub(crate) fn linger(&mut self, time: Duration) -> Lingered {
        let mut wire = self.line.lock();
        if wire.is_spoilt() || self.pending.is_some() {
            return Lingered::Closed;
        }
        if !wire.inbox.is_blank() {
            return Lingered::Ready;
        }
        match wire.fill(Some(time), 8 * 1024) {
            Ok(0) => {
                wire.spoil("the peer closed the connection");
                Lingered::Closed
            }
            Ok(_) if wire.inbox.is_blank() => Lingered::Quiet,
            Ok(_) => Lingered::Ready,
            Err(error) if is_timeout(&error) => Lingered::Quiet,
            Err(error) => {
                log::debug!("a link failed while it was idle: {error}");
                wire.spoil("reading from the connection failed");
                Lingered::Closed
            }
        }
    }

    /// Returns true if the next request begins like a heartbeat: then the loop reads it. This
    /// decides nothing about the message.
    pub(crate) fn heartbeat_waits(&self) -> bool {
        self.line.lock().inbox.bytes().trim_ascii_start().starts_with(b"OPTIONS * ")
    }

    /// How many callers wait for this device, according to the head that was read last.
    pub(crate) fn callers_waiting(&self) -> Option<usize> {
        self.waiting
    }

    /// Returns true if this link has carried a heartbeat, so that silence is suspicious from now
    /// on.
    pub(crate) fn has_seen_heartbeat(&self) -> bool {
        self.seen_heartbeat
    }

    /// Reads a head; answers malformed ones.
    fn read_question(&mut self) -> Result<Option<Question>, Error> {
        let mut wire = self.line.lock();
        let silence = wire.limits.silence;
        let timeout = Timeout {
            name: "silence",
            time: (self.seen_heartbeat && !silence.is_zero()).then_some(silence),
        };
        let (error, refusal) = match wire.read_head(timeout, read_request) {
            Ok(Some(question)) => return Ok(Some(question)),
            Ok(None) => {
                wire.spoil("the peer closed the connection");
                return Ok(None);
            }
            Err(HeadFault::Failed(error)) => return Err(error),
            Err(HeadFault::Late(error)) => {
                (error, Refusal::new(408, "the request's head did not arrive in time"))
            }
            Err(HeadFault::Refused(refusal)) => {
                wire.spoil("a request was malformed");
                if let Some(what) = foreign_protocol(wire.inbox.bytes()) {
                    return Err(Error::malformed(
                        Fault::Gateway,
                        400,
                        format!("reading a request's head: this is not HTTP/1, but {what}"),
                    ));
                }
                (refusal.clone().into_error(Fault::Gateway, "reading a request's head"), refusal)
            }
        };
        drop(wire);
        self.refuse(&refusal);
        Err(error)
    }

    /// Starts the exchange: its body, and the facts that the response depends on.
    fn begin(&mut self, question: Question) -> Request<Body> {
        self.pending = Some(question.pending);
        let mut wire = self.line.lock();
        let body = match wire.begin_body(question.framing) {
            Some(bytes) => bytes.into(),
            None => {
                wire.expectation = if question.expects_continue {
                    Expectation::Waiting
                } else {
                    Expectation::None
                };
                Body::from_streamed(WireBody::new(&self.line, &wire, None))
            }
        };
        question.request.map(|()| body)
    }

    fn respond_informational(
        &mut self,
        pending: &Pending,
        response: Response<Body>,
    ) -> Result<Interim, Error> {
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let offered = pending.offered.as_ref();
        let is_right = || offered.is_some_and(|it| check_switch(it, response.headers()).is_ok());
        if switches && !is_right() {
            return Err(Error::usage(
                "responding with 101: it needs a request that offers an Upgrade, and an Upgrade field that names one of its protocols, and no other",
            ));
        }
        // HTTP/1.0 has no 1xx (RFC 9110 §15.2).
        if pending.asked.minor == 0 {
            return Ok(Interim::Sent);
        }
        let (parts, body) = response.into_parts();
        self.buffers.out.clear();
        write_response_head(&mut self.buffers.out, &parts, &body, &pending.asked).map_err(
            |refusal| {
                Error::usage(format!(
                    "writing a 1xx response: {}; nothing was sent",
                    refusal.reason
                ))
            },
        )?;
        let mut wire = self.line.lock();
        if parts.status == StatusCode::CONTINUE {
            wire.expectation = Expectation::None;
        }
        wire.write_all(&self.buffers.out, &[])
            .map_err(|e| wire.write_failed("writing a 1xx response", e))?;
        if switches {
            wire.spoil("the link was switched to another protocol");
            return Ok(Interim::Switched);
        }
        Ok(Interim::Sent)
    }

    fn respond_finally(
        &mut self,
        pending: &Pending,
        response: Response<Body>,
    ) -> Result<(), Error> {
        let (parts, mut body) = response.into_parts();
        let (close, read_first) = self.plan_for_unread_body(body.in_memory().is_none());
        let asked = RequestFacts { close: pending.asked.close || close, ..pending.asked };
        self.buffers.out.clear();
        let written = write_response_head(&mut self.buffers.out, &parts, &body, &asked);
        let fits =
            fits_the_gateway(&self.buffers.out, parts.headers.len(), &self.line.lock().limits);
        let sending = match written.and_then(|sending| fits.map(|()| sending)) {
            Ok(sending) => sending,
            Err(refusal) => {
                self.refuse(&Refusal::new(500, "the device's answer cannot be written as HTTP"));
                return Err(Error::usage(format!(
                    "writing a response's head: {}; a 500 was sent instead",
                    refusal.reason
                )));
            }
        };
        let sent = self.buffers.send(&self.line, &mut body, sending.framing, read_first);
        if let Err(SendFault::Body(error)) = sent {
            self.line.lock().abort(sending.framing);
            self.line.end_exchange();
            return Err(error);
        }
        // The response's body may be the request's own, so it is dropped before the rest of that is
        // drained.
        drop(body);
        self.line.end_exchange();
        if let Err(SendFault::Wire(error)) = sent {
            return Err(error);
        }
        self.end_of_response(sending.close);
        Ok(())
    }

    /// Decides before the response's head is written how an unread request body is handled (T4):
    /// whether the head needs `Connection: close`, and whether the response's body has to be read
    /// before the head is sent. `streams` means that the response's body is not in memory.
    fn plan_for_unread_body(&mut self, streams: bool) -> (bool, bool) {
        let mut wire = self.line.lock();
        if !wire.is_body_unread() {
            return (wire.is_spoilt(), false);
        }
        if self.line.is_held() && streams {
            // The response itself may read it. Then its first read has to send the 100, which must
            // not follow the head.
            return (wire.is_spoilt(), wire.expectation == Expectation::Waiting);
        }
        let mut left = wire.limits.drain_bytes_max;
        // Another holder of the body may be reading it.
        let drained = !self.line.is_held() && wire.drain_inbox(&mut left).unwrap_or(false);
        // After `Expect: 100-continue` and a final response, it is unknown whether the gateway
        // sends the body.
        let drainable = wire.expectation == Expectation::None
            && wire.body_remaining().is_some_and(|n| n <= left as u64);
        if !drained && !drainable {
            wire.spoil("the request's body was not read");
            wire.more_may_come = true;
        }
        (wire.is_spoilt(), false)
    }

    fn end_of_response(&mut self, close: bool) {
        let mut wire = self.line.lock();
        if close {
            wire.spoil("the exchange was the last by its Connection: close or by its version");
        } else if wire.is_body_unread() && wire.expectation != Expectation::None {
            wire.spoil("the request's body was not asked for");
            wire.more_may_come = true;
        } else if let Err(error) = wire.drain() {
            log::debug!("a link ends after its response: {error}");
        }
        self.goaway |= wire.is_spoilt();
    }

    /// Answers with a status and a short reason, and ends the link. A failed write changes nothing.
    fn refuse(&mut self, refusal: &Refusal) {
        self.buffers.out.clear();
        write_refusal(&mut self.buffers.out, refusal, &[]);
        self.line.end_exchange();
        let mut wire = self.line.lock();
        wire.spoil("a message was refused");
        wire.more_may_come = true;
        if let Err(error) = wire.write_all(&self.buffers.out, &[]) {
            log::debug!("a refusal could not be written: {error}");
        }
        drop(wire);
        self.goaway = true;
        self.take_leave();
    }

    fn take_leave(&mut self) {
        if !self.is_watched && std::mem::take(&mut self.goaway) {
            self.line.lock().finish();
        }
    }
}

impl<S: TimedStream + 'static> std::fmt::Debug for DeviceLink<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceLink")
            .field("pending", &self.pending.is_some())
            .field("seen_heartbeat", &self.seen_heartbeat)
            .finish_non_exhaustive()
    }
}

/// A gateway would refuse a longer head and close the link. `fields` is the number of the program's
/// fields; ours are few.
fn fits_the_gateway(head: &[u8], fields: usize, limits: &Limits) -> Result<(), Refusal> {
    const OURS: usize = 3; // Date, framing, Connection
    match head.len() <= limits.head_bytes_max && fields + OURS <= limits.fields_max {
        true => Ok(()),
        false => Err(Refusal::new(
            500,
            "it has more bytes or fields than a gateway takes (head_bytes_max, fields_max)",
        )),
    }
}

fn read_request(bytes: &[u8], limits: &Limits) -> Result<Option<(Question, usize)>, Refusal> {
    let Some(head) = head::request(bytes, limits, LineEnds::Crlf)? else { return Ok(None) };
    let len = head.len;
    Ok(Some((question(&FramedRequest::of(head)?)?, len)))
}

fn question(head: &FramedRequest<'_>) -> Result<Question, Refusal> {
    let host = host_of(head)?;
    let is_heartbeat = heartbeat::recognise(head)?.is_some();
    let mut request = Request::new(());
    *request.method_mut() = method(head.method)?;
    *request.uri_mut() = uri(head)?;
    *request.version_mut() = if head.minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    *request.headers_mut() =
        if head.fields.is_empty() { HeaderMap::new() } else { header_map(&head.fields, 400)? };
    request.headers_mut().remove(SAME_VISITOR); // between gateway and forwarder
    request.headers_mut().remove(WAITING); // between gateway and dialler
    // With an absolute form, code that reads only `Host` must not see another host than code that
    // reads the URL.
    if let Some(host) = host.filter(|_| !head.target.starts_with('/')) {
        let host = HeaderValue::from_str(host)
            .map_err(|_| Refusal::new(400, "the host is no value of a field"))?;
        request.headers_mut().insert(header::HOST, host);
    }
    let asked = RequestFacts {
        is_head: head.method == "HEAD",
        minor: head.minor,
        close: head.minor == 0 || !head::keeps_alive(head.minor, &head.fields),
    };
    let expects_continue = head.minor > 0 && head.fields.lists("expect", "100-continue");
    let framing = head.framing();
    let pending = Pending { asked, offered: Offered::by(head, framing) };
    let waiting = callers_waiting(&head.fields);
    Ok(Question { request, framing, pending, expects_continue, is_heartbeat, waiting })
}

fn method(text: &str) -> Result<Method, Refusal> {
    match Method::from_bytes(text.as_bytes()) {
        // Its answer would have different framing (RFC 9110 §9.3.6), and a device is not a proxy.
        Ok(Method::CONNECT) => {
            Err(Refusal::new(501, "a device opens no tunnels: CONNECT is not for it"))
        }
        Ok(method) => Ok(method),
        Err(_) => Err(Refusal::new(400, "the method is not a token")),
    }
}

fn uri(head: &RequestHead<'_>) -> Result<Uri, Refusal> {
    let target = head.target;
    let is_form = target.starts_with('/')
        || (target == "*" && head.method == "OPTIONS")
        || target.contains("://");
    // `Uri` would silently drop a fragment; no client sends one (RFC 9112 §3.2).
    if !is_form || target.contains('#') {
        return Err(Refusal::new(
            400,
            "the request's target is no path, no http URL and not the * of OPTIONS",
        ));
    }
    target.parse().map_err(|_| {
        Refusal::new(400, "the request's target has characters that a URL cannot have")
    })
}
