//! The visitors' port: reads, plans and begins requests, and answers visitors if a device is not
//! available. Which device a request is for is decided in [`routes`](super::routes).

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use crate::engine::connection::Fetched;
use crate::engine::connections::{Connections, Id};
use crate::error::Refusal;
use crate::gateway::bounds::Bound;
use crate::gateway::credentials::VisitorToken;
use crate::gateway::request_decision::{Asked, Forwarding, moved_too_often};
use crate::gateway::routes::{Found, Reply, Terms, ToDevice};
use crate::gateway::sign_in::{self, FORM_BYTES_MAX, Scope};
use crate::gateway::sign_in_requests::{
    FormBody, SignInAnswer, VisitorContext, log_other_site, read_form,
};
use crate::gateway::state::{
    Asking, GatewayRole, SHORT_OF_MEMORY, Search, State, Visitor, VisitorSource,
};
use crate::gateway::tokens::{CHALLENGES, Digest};
use crate::gateway::trusted_requests::TOO_LONG_WITH_OURS;
use crate::gateway::waiting::for_visitors;
use crate::limits::MOVES_MAX;
use crate::observe::Visit;
use crate::observe::records::Seen;
use crate::proto::alias::Alias;
use crate::proto::body::Framing;
use crate::proto::forward::{self, Destination, Forwarded, RequestRules};
use crate::proto::forwarded::ProxyClaims;
use crate::proto::framed::FramedRequest;
use crate::proto::head::{self, LineEnds};
use crate::proto::peer::{HAS, MISS, Miss};
use crate::proto::prefixes::path_of;
use crate::proto::turn;
use crate::proto::upgrade;
use crate::relay::{Exchange, LocalAnswer};
use crate::setting::DEVICES;

const SEVERAL_TOKENS: &str = "there are several PTTH-Authorization fields; send one";
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
const LOOP: &str = "this request has already come through this gateway (Via): its device forwards to where it came from";

/// Properties of a visitor's connection.
#[derive(Clone, Copy)]
struct Arrival {
    listener: usize,
    from: IpAddr,
    /// Its forwarding fields are trusted.
    trusted: bool,
    /// It came over TLS.
    secure: bool,
}

impl Arrival {
    /// `None` if it is not a visitor's.
    fn of(source: &VisitorSource) -> Option<Self> {
        match source {
            VisitorSource::Visitors { listener, from, trusted, secure, .. } => {
                let (listener, from) = (*listener, *from);
                Some(Arrival { listener, from, trusted: *trusted, secure: *secure })
            }
            VisitorSource::Program { .. } | VisitorSource::Peer => None,
        }
    }

    fn context<'a>(self, claims: Option<&'a ProxyClaims<'a>>) -> VisitorContext<'a> {
        VisitorContext { from: self.from, claims, secure: self.secure }
    }
}

/// A request whose device is known.
struct Planned<'r> {
    to: Destination<'r>,
    device: ToDevice<'r>,
    token: Option<Digest>,
    /// `Authorization` was for this gateway.
    drop_authorization: bool,
    claims: Option<ProxyClaims<'r>>,
    /// The connection may be kept after a local answer.
    keep: bool,
}

impl GatewayRole {
    pub(super) fn visitor_head(&mut self, cx: &mut Connections<State>, id: Id) {
        let asked = self.next_request(cx, id);
        if asked.is_admitted() {
            cx.seen(id); // a gateway, at the peers' port
        }
        match asked {
            Asked::NotYet => {}
            Asked::Closed => cx.close(id),
            Asked::Elsewhere(to) => self.send_visitor(cx, id, to),
            Asked::Refused { refusal, to_head, keep } => {
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
            Asked::SignIn { answer, to_head, keep } => {
                self.answer_sign_in(cx, id, &answer, (to_head, keep));
            }
            Asked::TooMany { too_many, to_head, keep } => {
                let told = too_many.answer();
                self.answer_visitor(cx, id, &LocalAnswer { to_head, keep, ..told });
            }
            Asked::Reply { reply, to_head, keep } => {
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
            Asked::Health { allowed, to_head, keep } => {
                let (status, text) = self.health(allowed);
                let fields = [("Cache-Control", "no-store"), ("Allow", "GET, HEAD")];
                let fields = if allowed { &fields[..1] } else { &fields };
                let answer =
                    LocalAnswer { fields, to_head, keep, ..LocalAnswer::new(status, text) };
                self.answer_visitor(cx, id, &answer);
            }
            Asked::Server { has, keep } => {
                let text =
                    "this gateway answers OPTIONS * itself; ask for a path to reach a device";
                let has = has.map(|has| (HAS, has));
                let fields = has.as_slice();
                let answer = LocalAnswer { fields, keep, ..LocalAnswer::new(200, text) };
                self.answer_visitor(cx, id, &answer);
            }
            Asked::Missed { miss, of_device, to_head, keep } => {
                self.answer_peer(cx, id, (miss, of_device), (to_head, keep));
            }
            Asked::Forward(Forwarding { exchange, .. }) if self.is_short_of_memory(cx) => {
                self.refuse_for_memory(cx, id, *exchange)
            }
            Asked::Forward(forwarding) => self.begin(cx, id, forwarding),
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
    fn next_request(&mut self, cx: &mut Connections<State>, id: Id) -> Asked {
        if self.is_void_visitor(cx, id) {
            return Asked::Closed;
        }
        let mut scratch = cx.take_scratch();
        let asked = self.read_request(cx, id, &mut scratch);
        cx.put_scratch(scratch);
        asked
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

    fn read_request(&mut self, cx: &mut Connections<State>, id: Id, scratch: &mut [u8]) -> Asked {
        let now = cx.now();
        let Some(conn) = cx.get_mut(id) else { return Asked::NotYet };
        let State::Visitor(Visitor::Head { began, first, source, moves }) = &mut conn.state else {
            return Asked::NotYet;
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
                return if conn.is_broken() { Asked::Closed } else { Asked::NotYet };
            }
            Ok(Fetched::End) | Err(_) => return Asked::Closed,
        };
        let bytes = &scratch[..filled];
        match head::request(bytes, limits, LineEnds::Crlf) {
            Err(refusal) => {
                self.observe_malformed(bytes, &source, &refusal);
                Asked::Refused { refusal, to_head: false, keep: false }
            }
            Ok(None) if conn.is_over() => Asked::Closed,
            Ok(None) => {
                conn.keep(bytes);
                if !had_begun && !first {
                    cx.set_deadline(id, Some(cx.after(self.settings.limits.head_timeout))); // for the whole head, from its first byte
                }
                Asked::NotYet
            }
            Ok(Some(request)) => {
                let (to_head, length) = (request.method == "HEAD", request.len);
                match FramedRequest::of(request) {
                    Ok(request) => {
                        let behind = &bytes[length..];
                        let (mut asked, mut used);
                        match self.form(&request, behind, &source, now) {
                            None => (asked, used) = (self.plan(id, &request, &source, now), length),
                            Some((form, of_body)) => (asked, used) = (form, length + of_body),
                        }
                        match asked {
                            Asked::NotYet if conn.is_over() => return Asked::Closed,
                            Asked::NotYet => used = 0,
                            Asked::Elsewhere(_) if may_move => used = 0,
                            Asked::Elsewhere(_) => asked = moved_too_often(to_head),
                            _ => {}
                        }
                        conn.keep(&bytes[used..]);
                        if matches!(asked, Asked::NotYet) && !had_begun && !first {
                            cx.set_deadline(id, Some(cx.after(self.settings.limits.head_timeout)));
                        }
                        self.observe_unforwarded(&request, &source, &asked);
                        asked
                    }
                    Err(refusal) => {
                        conn.keep(&bytes[length..]);
                        self.observe_malformed(bytes, &source, &refusal);
                        Asked::Refused { refusal, to_head, keep: false }
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
    ) -> Option<(Asked, usize)> {
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
            FormBody::NotYet => (Asked::NotYet, 0),
            FormBody::Refused(refusal) => {
                (Asked::Refused { refusal, to_head: false, keep: false }, 0)
            }
            FormBody::Whole(body, used) => {
                let keep = head::keeps_alive(request.minor, &request.fields)
                    && request.minor > 0
                    && !self.lifecycle.is_ending();
                let answer = self.take_form((request, &to), &scope, &body, context, now);
                (Asked::SignIn { answer: answer.into(), to_head: false, keep }, used)
            }
        })
    }

    /// Requests that reach no device are counted, too, and written to the access log, except those
    /// of load balancers.
    fn observe_unforwarded(
        &self,
        request: &FramedRequest<'_>,
        source: &VisitorSource,
        asked: &Asked,
    ) {
        let VisitorSource::Visitors { from, trusted, .. } = source else { return };
        let (status, failure) = match asked {
            Asked::Refused { refusal, .. } => (refusal.status, proxy_error(refusal.status)),
            Asked::TooMany { .. } => (429, proxy_error(429)),
            Asked::SignIn { answer, .. } => (answer.status, answer.error()),
            Asked::Reply { reply, .. } => (reply.status, None),
            Asked::Server { .. } => (200, None),
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

    fn plan(
        &mut self,
        id: Id,
        request: &FramedRequest<'_>,
        source: &VisitorSource,
        now: Instant,
    ) -> Asked {
        let Some(arrival) = Arrival::of(source) else {
            return match source {
                VisitorSource::Program { name, .. } => match self.elsewhere(name, now) {
                    Some(to) => Asked::Elsewhere(to),
                    None => self.plan_for_program(id, request, name, now),
                },
                _ => self.plan_for_peer(id, request, now),
            };
        };
        match self.find_device(request, arrival) {
            Ok(planned) if planned.device.names_itself() && self.is_of_device(request) => {
                // A device has mistaken this port for that of devices. Its token must not reach a
                // local server.
                let name = &planned.device.name;
                let why = format!("and a device's offer is not a request for {name}");
                let refusal = Refusal::new(404, for_visitors(&why));
                Asked::Refused { refusal, to_head: request.method == "HEAD", keep: planned.keep }
            }
            Ok(planned) => match self.elsewhere(&planned.device.name, now) {
                Some(to) => Asked::Elsewhere(to),
                None => match self.too_many(request, arrival, &planned, now) {
                    Some(asked) => asked,
                    None => self.forward(id, request, arrival, planned, now),
                },
            },
            Err(asked) => self.hint_at_devices_port(request, asked),
        }
    }

    fn is_of_device(&self, request: &FramedRequest<'_>) -> bool {
        turn::is_of_device(request, &self.settings.offer_rules.dialects)
    }

    /// The answer to a device that mistakes this port for that of devices.
    fn hint_at_devices_port(&self, request: &FramedRequest<'_>, asked: Asked) -> Asked {
        let why = match &asked {
            Asked::Refused { refusal, .. } if refusal.status == 401 => "who show a token",
            Asked::Refused { refusal, .. } if refusal.status == 404 => "and has no such route",
            _ => return asked,
        };
        match asked {
            Asked::Refused { refusal, to_head, keep } if self.is_of_device(request) => {
                let refusal = Refusal::new(refusal.status, for_visitors(why));
                Asked::Refused { refusal, to_head, keep }
            }
            asked => asked,
        }
    }

    /// The device a request is for, or a response in its place.
    fn find_device<'r>(
        &self,
        request: &'r FramedRequest<'_>,
        arrival: Arrival,
    ) -> Result<Planned<'r>, Asked> {
        let to_head = request.method == "HEAD";
        // For HTTP/1.0 only a relayed answer has `keep-alive`; without it the connection ends (RFC
        // 9112 appendix C.2.2).
        let keep = request.framing() == Framing::Empty
            && request.minor > 0
            && head::keeps_alive(request.minor, &request.fields)
            && !self.lifecycle.is_ending();
        let refused = |refusal, keep| Err(Asked::Refused { refusal, to_head, keep });
        let destination = forward::destination(request);
        // Before tokens: a load balancer has none, and learns only whether this gateway serves.
        let is_health = |to: &Destination<'_>| {
            self.listeners.visitors(arrival.listener).is_some_and(|(table, _)| table.is_health(to))
        };
        if matches!(request.method, "GET" | "HEAD") && destination.as_ref().is_ok_and(is_health) {
            return Err(Asked::Health { allowed: true, to_head, keep });
        }
        // Before the routes: a client without a token must not learn which devices exist.
        let most = self.settings.limits.token_bytes_max;
        let shown = self.credentials.of_visitor(&request.fields, most);
        let claims = arrival.trusted.then(|| ProxyClaims::read(&request.fields));
        let scope =
            destination.as_ref().ok().and_then(|to| self.scope_of(to, arrival, claims.as_ref()));
        let shown = match (&destination, &scope) {
            (Ok(to), Some(scope)) => self
                .signed_in(request, to, scope, claims.as_ref(), shown)
                .map_err(|answer| Asked::SignIn { answer, to_head, keep })?,
            _ => shown,
        };
        let is_free =
            |to: &Destination<'_>| self.is_free_preflight(request, to, arrival, claims.as_ref());
        let token = match shown {
            VisitorToken::Known(digest, _) => Some(digest),
            VisitorToken::NotNeeded => None,
            VisitorToken::Unknown(_) if destination.as_ref().is_ok_and(is_free) => None,
            VisitorToken::Several => return refused(Refusal::new(400, SEVERAL_TOKENS), keep),
            VisitorToken::Unknown(why) => return refused(Refusal::new(401, why), keep),
        };
        if forward::came_through(&request.fields, &self.settings.via) {
            return refused(Refusal::new(508, LOOP), keep);
        }
        let to = match destination {
            Ok(to) if to.target == "*" => return Err(Asked::Server { has: None, keep }),
            Ok(to) => to,
            Err(refusal) => return refused(refusal, false),
        };
        let device = match self.route(request.method, &to, arrival, claims.as_ref()) {
            Ok(Found::Device(device)) => device,
            Ok(Found::AddSlash(location)) => {
                let text = "add a slash after the device's name";
                let reply = Reply::redirect(308, location, text);
                return Err(Asked::Reply { reply, to_head, keep });
            }
            Ok(Found::Reply(reply)) => return Err(Asked::Reply { reply, to_head, keep }),
            Ok(Found::Health) => {
                let allowed = matches!(request.method, "GET" | "HEAD");
                return Err(Asked::Health { allowed, to_head, keep });
            }
            Err(refusal) => {
                if refusal.status == 503 {
                    self.stats.reached(Bound::InFlight);
                }
                let keep = keep && matches!(refusal.status, 404 | 503);
                return refused(refusal, keep);
            }
        };
        if token.is_some_and(|digest| !self.credentials.visitor_may(&digest, &device.name)) {
            if let Some(scope) = scope.filter(|_| wants_page(request)) {
                let answer = self.sign_in_page(&scope, to.target, true).into();
                return Err(Asked::SignIn { answer, to_head, keep });
            }
            return refused(Refusal::new(403, "this token is not for this device"), keep);
        }
        let drop_authorization = shown.takes_authorization();
        Ok(Planned { to, device, token, drop_authorization, claims, keep })
    }

    /// The scope in which the visitor of a request may sign in.
    fn scope_of(
        &self,
        to: &Destination<'_>,
        arrival: Arrival,
        claims: Option<&ProxyClaims<'_>>,
    ) -> Option<Box<Scope>> {
        if !self.listeners.sign_in() {
            return None;
        }
        self.sign_in_scope(to, arrival.listener, arrival.context(claims)).map(Box::new)
    }

    /// The token of a request where visitors sign in, which may be in a cookie.
    ///
    /// # Errors
    /// The gateway answers with its own page.
    #[cold]
    fn signed_in(
        &self,
        request: &FramedRequest<'_>,
        to: &Destination<'_>,
        scope: &Scope,
        claims: Option<&ProxyClaims<'_>>,
        shown: VisitorToken,
    ) -> Result<VisitorToken, Box<SignInAnswer>> {
        let by_cookie = match shown {
            VisitorToken::Unknown(_) => self.cookie_token(scope, &request.fields),
            _ => None,
        };
        let most = self.settings.limits.token_bytes_max;
        let shown = match by_cookie {
            Some(digest) => self.credentials.signed_in(digest, &request.fields, most),
            None => shown,
        };
        let digest = match &shown {
            VisitorToken::Known(digest, _) => Some(digest),
            _ => None,
        };
        if let Some(answer) = self.own_page(scope, request, to, digest) {
            return Err(answer.into());
        }
        let is_offer = upgrade::is_offer(request, request.framing());
        if by_cookie.is_some() && is_offer && !self.is_same_origin(&request.fields, to, claims) {
            log_other_site(&request.fields, to, claims);
            return Err(SignInAnswer::of_another_site().into());
        }
        match shown {
            VisitorToken::Unknown(_) if wants_page(request) => {
                Err(self.sign_in_page(scope, to.target, false).into())
            }
            shown => Ok(shown),
        }
    }

    /// Returns true for a CORS preflight to a route of the table that lets those through without a
    /// token. A request with something that a browser's preflight never has (Fetch §4.8:
    /// credentials, an upgrade, an expectation) is not one.
    fn is_free_preflight(
        &self,
        request: &FramedRequest<'_>,
        to: &Destination<'_>,
        arrival: Arrival,
        claims: Option<&ProxyClaims<'_>>,
    ) -> bool {
        let count = |name| request.fields.all(name).count();
        let is_preflight = request.method == "OPTIONS"
            && request.framing() == Framing::Empty
            && count("Origin") == 1
            && count("Access-Control-Request-Method") == 1
            && NEVER_IN_A_PREFLIGHT.iter().all(|name| count(name) == 0);
        let Some((table, port)) = self.listeners.visitors(arrival.listener) else { return false };
        let scheme = arrival.context(claims).scheme();
        is_preflight && table.frees_preflights(to) && self.origin(to, port, scheme).is_none()
    }

    /// The response to a request that exceeds its rate. Checked here, so that a request that is
    /// moved to the loop of its device counts once.
    fn too_many(
        &self,
        request: &FramedRequest<'_>,
        arrival: Arrival,
        planned: &Planned<'_>,
        now: Instant,
    ) -> Option<Asked> {
        let Planned { to, device, token, claims, keep, .. } = planned;
        let paces = device.paces.as_deref()?;
        if self.is_free_preflight(request, to, arrival, claims.as_ref()) {
            return None;
        }
        let address = self.address_of(arrival.from, claims.as_ref());
        let too_many = self.rates.take(now, paces, address, token.as_ref()).err()?;
        self.stats.reached(Bound::Rate);
        Some(Asked::TooMany { too_many, to_head: request.method == "HEAD", keep: *keep })
    }

    /// The exchange of a request whose device is known.
    fn forward(
        &self,
        id: Id,
        request: &FramedRequest<'_>,
        arrival: Arrival,
        planned: Planned<'_>,
        now: Instant,
    ) -> Asked {
        let Planned { to, device, token, drop_authorization, claims, keep } = planned;
        let (to_head, framing) = (request.method == "HEAD", request.framing());
        let ToDevice { name, target, prefix, rewrites, terms, .. } = device;
        let edits = terms.as_ref().and_then(|terms| terms.edits.request.clone());
        let forwarded = Forwarded {
            remote_ip: Some(arrival.from),
            proto: if arrival.secure { "https" } else { "http" },
            host: to.authority,
            claims: claims.as_ref(),
            element: self.settings.forwarded_element,
        };
        let mut visit = self.visit(&request.fields, arrival.from, claims.as_ref());
        if self.observer.records() {
            visit.token = token.and_then(|digest| self.credentials.visitor_label(&digest));
        }
        let own_cookie = self.listeners.sign_in().then_some(sign_in::COOKIE);
        let rules = RequestRules {
            target: &target,
            host: to.authority,
            prefix: prefix.as_deref(),
            forwarded: Some(forwarded),
            via: Some(&self.settings.via),
            keep_underscore: self.settings.keep_underscore,
            drop_authorization,
            upgrade: upgrade::is_offer(request, framing),
            request_id: visit.request_id.as_deref(),
            edits: edits.as_deref(),
            alias: None,
            own_cookie,
        };
        let mut head = Vec::with_capacity(request.len + 192);
        match forward::request(&mut head, request, framing, &rules) {
            Err(refusal) => return Asked::Refused { refusal, to_head, keep: false },
            Ok(()) if !self.fits_a_link(&head) => {
                let refusal = Refusal::new(431, TOO_LONG_WITH_OURS);
                return Asked::Refused { refusal, to_head, keep };
            }
            Ok(()) => {}
        }
        let limits = &self.settings.limits;
        let mut exchange = Box::new(Exchange::new(id, request, framing, head, limits, now));
        exchange.observed = self.observer.request(&name, request, &visit);
        exchange.own_cookie = own_cookie;
        exchange.is_of_device = self.is_of_device(request);
        exchange.edit_trailers(edits);
        if let Some(prefix) = prefix.as_deref().filter(|_| rewrites) {
            let is_bare = path_of(to.target).len() == prefix.len();
            // The prefix that the proxy removed is part of the path that its client knows.
            let prefix = [claims.as_ref().map_or("", ProxyClaims::prefix), prefix].concat();
            exchange.alias = Some(Box::new(Alias::of_route(to.authority, prefix, is_bare)));
        }
        let visitor = visit.from;
        if let Some(Terms { waits, in_flight, offline, edits }) = terms {
            (exchange.waits, exchange.in_flight) = (waits, Some(in_flight));
            exchange.edits = edits.response;
            exchange.offline = offline.and_then(|offline| offline.page(&request.fields).cloned());
        }
        if self.lifecycle.is_ending() {
            exchange.last_of_caller();
        }
        if self.lifecycle.is_draining() {
            exchange.hurry();
        }
        Asked::Forward(Forwarding { exchange, name, token, visitor })
    }

    /// The health path first, then registered origins, then the listener's routes.
    fn route<'a>(
        &self,
        method: &str,
        to: &Destination<'a>,
        arrival: Arrival,
        claims: Option<&ProxyClaims<'_>>,
    ) -> Result<Found<'a>, Refusal> {
        let Some((table, port)) = self.listeners.visitors(arrival.listener) else {
            return Err(Refusal::new(404, "no route: this listener has none"));
        };
        if table.is_health(to) {
            return Ok(Found::Health);
        }
        let scheme = arrival.context(claims).scheme();
        if let Some(name) = self.origin(to, port, scheme) {
            return Ok(Found::Device(table.whole(name, to)));
        }
        Ok(match table.find(method, to, &self.settings.limits)? {
            // The prefix that the proxy removed is part of the path that its client knows.
            Found::AddSlash(location) => {
                Found::AddSlash([claims.map_or("", ProxyClaims::prefix), &location].concat())
            }
            found => found,
        })
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
                name: name.into(),
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
        let Some(conn) = cx.get(id).filter(|conn| conn.kept() > 0) else {
            return cx.close(id);
        };
        let refusal = Refusal::new(408, HEAD_LATE);
        if let State::Visitor(visitor) = &conn.state {
            self.observe_malformed(conn.kept_bytes(), visitor.source(), &refusal);
        }
        self.refuse(cx, id, &LocalAnswer::new(refusal.status, &refusal.reason));
    }
}

/// Returns true if a browser asks for a page.
fn wants_page(request: &FramedRequest<'_>) -> bool {
    matches!(request.method, "GET" | "HEAD") && sign_in::wants_page(&request.fields)
}

const NEVER_IN_A_PREFLIGHT: [&str; 6] =
    ["Upgrade", "Expect", "Cookie", "Authorization", "Proxy-Authorization", "PTTH-Authorization"];

fn proxy_error(status: u16) -> Option<&'static str> {
    match status {
        401 | 403 | 429 => Some("http_request_denied"),
        404 => Some("destination_not_found"),
        503 => Some("connection_limit_reached"), // the bound of a route
        508 => Some("proxy_loop_detected"),
        _ => Some("http_request_error"),
    }
}
