//! The visitors' port: reads requests, begins those that go to a device, and answers the others.
//! Which device a request goes to is decided in [`request_routing`](super::request_routing).

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use crate::engine::connection::Fetched;
use crate::engine::connections::{Connections, Id};
use crate::error::Refusal;
use crate::gateway::bounds::Bound;
use crate::gateway::request_decision::{Decision, Forwarding, moved_too_often};
use crate::gateway::request_routing::Arrival;
use crate::gateway::sign_in::FORM_BYTES_MAX;
use crate::gateway::sign_in_requests::{FormBody, read_form};
use crate::gateway::state::{
    Asking, GatewayRole, SHORT_OF_MEMORY, Search, State, Visitor, VisitorSource,
};
use crate::gateway::tokens::CHALLENGES;
use crate::limits::MOVES_MAX;
use crate::observe::Visit;
use crate::observe::records::Seen;
use crate::proto::forward;
use crate::proto::forwarded::ProxyClaims;
use crate::proto::framed::FramedRequest;
use crate::proto::head::{self, LineEnds};
use crate::proto::peer::{HAS, MISS, Miss};
use crate::relay::{Exchange, LocalAnswer};
use crate::setting::DEVICES;

const HEAD_LATE: &str = "the request head was not whole within head_timeout";
/// The answer to another gateway's request for a device that is not connected here.
const NOT_HERE: LocalAnswer<'static> = LocalAnswer {
    error: Some("destination_unavailable"),
    ..LocalAnswer::new(404, "the device is not connected to this gateway")
};
/// The answer to a client at the peers' port that is not a gateway of this cluster.
const NOT_A_PEER: LocalAnswer<'static> = LocalAnswer {
    error: Some("http_request_denied"),
    ..LocalAnswer::new(
        403,
        "this port is for other gateways, which show the secret that they share",
    )
};
impl GatewayRole {
    pub(super) fn visitor_head(&mut self, cx: &mut Connections<State>, id: Id) {
        if !self.is_answered(cx, id) {
            return;
        }
        let decision = self.next_request(cx, id);
        if decision.is_admitted() {
            cx.seen(id); // a gateway, at the peers' port
        }
        match decision {
            Decision::NotYet => {}
            Decision::Closed => cx.close(id),
            Decision::Elsewhere(to) => self.send_visitor(cx, id, to),
            Decision::Refused { refusal, to_head, keep } => {
                log_names!(Debug, "a visitor's request was refused: {refusal}");
                let retry_after = (refusal.status == 503).then_some(1);
                let error = proxy_error(refusal.status);
                let fields = if refusal.status == 401 { &CHALLENGES[..] } else { &[] };
                let answer = LocalAnswer {
                    error,
                    retry_after,
                    fields,
                    to_head,
                    keep,
                    ..LocalAnswer::new(refusal.status, &refusal.reason)
                };
                self.answer_visitor(cx, id, &answer);
            }
            Decision::SignIn { answer, to_head, keep } => {
                self.answer_sign_in(cx, id, &answer, (to_head, keep));
            }
            Decision::TooMany { too_many, to_head, keep } => {
                let told = too_many.answer();
                self.answer_visitor(cx, id, &LocalAnswer { to_head, keep, ..told });
            }
            Decision::Reply { reply, to_head, keep } => {
                let location = reply.location.as_deref().map(|to| ("Location", to));
                let answer = LocalAnswer {
                    fields: location.as_slice(),
                    page: Some(&reply.page),
                    to_head,
                    keep,
                    ..LocalAnswer::new(reply.status, &reply.page.text)
                };
                self.answer_visitor(cx, id, &answer);
            }
            Decision::Health { allowed, to_head, keep } => {
                let (status, text) = self.health(allowed);
                let fields = [("Cache-Control", "no-store"), ("Allow", "GET, HEAD")];
                let fields = if allowed { &fields[..1] } else { &fields };
                let answer =
                    LocalAnswer { fields, to_head, keep, ..LocalAnswer::new(status, text) };
                self.answer_visitor(cx, id, &answer);
            }
            Decision::Server { has, keep } => {
                let text =
                    "this gateway answers OPTIONS * itself; ask for a path to reach a device";
                let has = has.map(|has| (HAS, has));
                let fields = has.as_slice();
                let answer = LocalAnswer { fields, keep, ..LocalAnswer::new(200, text) };
                self.answer_visitor(cx, id, &answer);
            }
            Decision::Missed { miss, of_device, to_head, keep } => {
                self.answer_peer(cx, id, (miss, of_device), (to_head, keep));
            }
            Decision::Forward(Forwarding { exchange, .. }) if self.is_short_of_memory(cx) => {
                self.refuse_for_memory(cx, id, *exchange)
            }
            Decision::Forward(forwarding) => self.begin(cx, id, forwarding),
        }
    }

    /// Answers another gateway, or a client that mistakes this port for another one, if the request
    /// goes to no device.
    fn answer_peer(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        (miss, of_device): (Miss, bool),
        (to_head, keep): (bool, bool),
    ) {
        if miss == Miss::Stranger {
            self.log_stranger(cx, id);
        }
        let fields = [(MISS, miss.as_str())];
        let answer = if miss == Miss::Stranger { NOT_A_PEER } else { NOT_HERE };
        let hint = format!("{}; devices connect to the devices' port ({DEVICES})", answer.reason);
        // As at the visitors' port: 403 would say that its token is known.
        let (status, reason) =
            if of_device { (404, &*hint) } else { (answer.status, answer.reason) };
        let answer = LocalAnswer { fields: &fields, to_head, keep, ..answer };
        let answer = LocalAnswer { status, reason, ..answer };
        self.answer_visitor(cx, id, &answer);
    }

    fn refuse_for_memory(&mut self, cx: &mut Connections<State>, id: Id, mut exchange: Exchange) {
        self.stats.reached(Bound::Memory);
        exchange.observed.failed("short-of-memory", 503);
        let (to_head, keep) = (exchange.is_head(), exchange.may_keep_caller());
        let answer = LocalAnswer {
            error: Some("connection_limit_reached"),
            retry_after: Some(1),
            to_head,
            keep,
            ..LocalAnswer::new(503, SHORT_OF_MEMORY)
        };
        self.answer_visitor(cx, id, &answer);
    }

    /// The answer of the health path. `allowed` means that the method is GET or HEAD.
    fn health(&self, allowed: bool) -> (u16, &'static str) {
        match (allowed, self.lifecycle.is_ending()) {
            (false, _) => (405, "this path tells whether the gateway serves; ask with GET or HEAD"),
            (true, false) => (200, "ok"),
            (true, true) => (503, "this gateway is stopping"),
        }
    }

    /// A certificate that is no longer valid admits no further request.
    fn next_request(&mut self, cx: &mut Connections<State>, id: Id) -> Decision {
        if self.is_void_visitor(cx, id) {
            return Decision::Closed;
        }
        let mut scratch = cx.take_scratch();
        let decision = self.read_request(cx, id, &mut scratch);
        cx.put_scratch(scratch);
        decision
    }

    /// Returns true if this is a connection of another gateway or of a visitor, and its certificate
    /// has expired, or its CA was replaced.
    pub(super) fn is_void_visitor(&self, cx: &Connections<State>, id: Id) -> bool {
        let Some(connection) = cx.get(id) else { return false };
        matches!(connection.state, State::Visitor(_))
            && connection
                .stream()
                .certificate()
                .is_some_and(|shown| self.credentials.is_void(&shown))
    }

    fn read_request(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        scratch: &mut [u8],
    ) -> Decision {
        let now = cx.now();
        let Some(conn) = cx.get_mut(id) else { return Decision::NotYet };
        let State::Visitor(Visitor::Head { began, first, source, moves }) = &mut conn.state else {
            return Decision::NotYet;
        };
        let (had_begun, first, source) = (std::mem::replace(began, true), *first, source.clone());
        let may_move = *moves < MOVES_MAX;
        // Another gateway has added fields of its own.
        let limits = match source {
            VisitorSource::Peer => &self.settings.link_limits,
            _ => &self.settings.limits,
        };
        let most = limits.head_bytes_max + 2 * FORM_BYTES_MAX;
        let filled = match conn.fetch(scratch, most) {
            Ok(Fetched::Bytes(n)) => n,
            Ok(Fetched::Nothing) => {
                if let State::Visitor(Visitor::Head { began, .. }) = &mut conn.state {
                    *began = had_begun;
                }
                return if conn.is_broken() { Decision::Closed } else { Decision::NotYet };
            }
            Ok(Fetched::End) | Err(_) => return Decision::Closed,
        };
        let bytes = &scratch[..filled];
        match head::request(bytes, limits, LineEnds::Crlf) {
            Err(refusal) => {
                self.observe_malformed(bytes, &source, &refusal);
                Decision::Refused { refusal, to_head: false, keep: false }
            }
            Ok(None) if conn.is_over() => Decision::Closed,
            Ok(None) => {
                conn.keep(bytes);
                if !had_begun && !first {
                    cx.set_deadline(id, Some(cx.after(self.settings.limits.head_timeout))); // for the whole head, from its first byte
                }
                Decision::NotYet
            }
            Ok(Some(request)) => {
                let (to_head, length) = (request.method == "HEAD", request.len);
                match FramedRequest::of(request) {
                    Ok(request) => {
                        let behind = &bytes[length..];
                        let (mut decision, mut used);
                        match self.form(&request, behind, &source, now) {
                            None => {
                                (decision, used) = (self.decide(id, &request, &source, now), length)
                            }
                            Some((form, of_body)) => (decision, used) = (form, length + of_body),
                        }
                        match decision {
                            Decision::NotYet if conn.is_over() => return Decision::Closed,
                            Decision::NotYet => used = 0,
                            Decision::Elsewhere(_) if may_move => used = 0,
                            Decision::Elsewhere(_) => decision = moved_too_often(to_head),
                            _ => {}
                        }
                        conn.keep(&bytes[used..]);
                        if matches!(decision, Decision::NotYet) && !had_begun && !first {
                            cx.set_deadline(id, Some(cx.after(self.settings.limits.head_timeout)));
                        }
                        self.observe_unforwarded(&request, &source, &decision);
                        decision
                    }
                    Err(refusal) => {
                        conn.keep(&bytes[length..]);
                        self.observe_malformed(bytes, &source, &refusal);
                        Decision::Refused { refusal, to_head, keep: false }
                    }
                }
            }
        }
    }

    /// The result of a form for signing in or out, and how many of the bytes after its head belong
    /// to it. `None`: it is not such a form.
    fn form(
        &self,
        request: &FramedRequest<'_>,
        behind: &[u8],
        source: &VisitorSource,
        now: Instant,
    ) -> Option<(Decision, usize)> {
        let arrival = Arrival::of(source)?;
        if request.method != "POST" || !self.listeners.sign_in() {
            return None;
        }
        let to = forward::destination(request).ok()?;
        let claims = arrival.trusted.then(|| ProxyClaims::read(&request.fields));
        let context = arrival.context(claims.as_ref());
        let scope = self.sign_in_scope(&to, arrival.listener, context)?;
        if !self.is_form(&scope, request, &to) {
            return None;
        }
        Some(match read_form(request, behind, &self.settings.limits) {
            FormBody::NotYet => (Decision::NotYet, 0),
            FormBody::Refused(refusal) => {
                (Decision::Refused { refusal, to_head: false, keep: false }, 0)
            }
            FormBody::Whole(body, used) => {
                let keep = head::keeps_alive(request.minor, &request.fields)
                    && request.minor > 0
                    && !self.lifecycle.is_ending();
                let answer = self.take_form((request, &to), &scope, &body, context, now);
                (Decision::SignIn { answer: answer.into(), to_head: false, keep }, used)
            }
        })
    }

    /// Requests that reach no device are counted, too, and written to the access log, except those
    /// of load balancers.
    fn observe_unforwarded(
        &self,
        request: &FramedRequest<'_>,
        source: &VisitorSource,
        decision: &Decision,
    ) {
        let VisitorSource::Visitors { from, trusted, .. } = source else { return };
        let (status, failure) = match decision {
            Decision::Refused { refusal, .. } => (refusal.status, proxy_error(refusal.status)),
            Decision::TooMany { .. } => (429, proxy_error(429)),
            Decision::SignIn { answer, .. } => (answer.status, answer.error()),
            Decision::Reply { reply, .. } => (reply.status, None),
            Decision::Server { .. } => (200, None),
            _ => return,
        };
        if self.observer.is_on() {
            let claims = trusted.then(|| ProxyClaims::read(&request.fields));
            let mut visit = self.visit(&request.fields, *from, claims.as_ref());
            if self.observer.records() {
                let most = self.settings.limits.token_bytes_max;
                let shown = self.credentials.label_shown(&request.fields, most);
                visit.token = shown.or_else(|| self.label_of_cookie(request, source));
            }
            self.observer.answered(&Seen::from(&**request), &visit, status, failure);
        }
    }

    /// The operator's label of the token with which a visitor has signed in.
    fn label_of_cookie(
        &self,
        request: &FramedRequest<'_>,
        source: &VisitorSource,
    ) -> Option<Box<str>> {
        let arrival = Arrival::of(source)?;
        let to = forward::destination(request).ok()?;
        let claims = arrival.trusted.then(|| ProxyClaims::read(&request.fields));
        let scope = self.scope_of(&to, arrival, claims.as_ref())?;
        let digest = self.cookie_token(&scope, &request.fields)?;
        self.credentials.visitor_label(&digest)
    }

    /// The same for a head that is malformed or incomplete: nothing in it is trusted.
    fn observe_malformed(&self, bytes: &[u8], source: &VisitorSource, refusal: &Refusal) {
        let VisitorSource::Visitors { from, .. } = source else { return };
        if self.observer.is_on() {
            let visit = Visit { from: Some(*from), ..Visit::default() };
            let failure = proxy_error(refusal.status);
            self.observer.answered(&Seen::first_line(bytes), &visit, refusal.status, failure);
        }
    }

    fn begin(&mut self, cx: &mut Connections<State>, id: Id, forwarding: Forwarding) {
        let Forwarding { mut exchange, name, token, visitor } = forwarding;
        exchange.count(&self.heads);
        self.stats.exchanges.fetch_add(1, Relaxed);
        let whole = exchange.waits.exchange.time;
        let key = self.exchanges.insert(exchange);
        if !whole.is_zero() {
            let at = cx.after(whole);
            self.ends_by(cx, key, at);
        }
        let Some(conn) = cx.get_mut(id) else { return };
        if let State::Visitor(Visitor::Head { source, .. }) = &conn.state {
            let source = source.clone();
            conn.state = State::Visitor(Visitor::Asking(Asking {
                key,
                name,
                event: None,
                token: token.map(Box::new),
                visitor,
                search: Search::default(),
                source,
            }));
        }
        self.find_link(cx, id, key);
    }

    pub(super) fn visitor_head_expired(&mut self, cx: &mut Connections<State>, id: Id) {
        // A client that did not read its last answer has not been asked for the rest of its request.
        let Some(conn) = cx.get(id).filter(|conn| conn.kept() > 0 && conn.pending() == 0) else {
            return cx.close(id);
        };
        let refusal = Refusal::new(408, HEAD_LATE);
        if let State::Visitor(visitor) = &conn.state {
            self.observe_malformed(conn.kept_bytes(), visitor.source(), &refusal);
        }
        self.refuse(cx, id, &LocalAnswer::new(refusal.status, &refusal.reason));
    }
}

fn proxy_error(status: u16) -> Option<&'static str> {
    match status {
        401 | 403 | 429 => Some("http_request_denied"),
        404 => Some("destination_not_found"),
        503 => Some("connection_limit_reached"), // the bound of a route
        508 => Some("proxy_loop_detected"),
        _ => Some("http_request_error"),
    }
}
