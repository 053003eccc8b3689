//! Finds the device of a visitor's request: the health path, the visitor's token, the routes, the rate
//! limits. The result is a [`Decision`]: an exchange with the device, or a response in its place.
//! Which device a host or a path belongs to is in [`routes`](super::routes).

use std::net::IpAddr;
use std::time::Instant;

use crate::engine::connections::Id;
use crate::error::Refusal;
use crate::gateway::bounds::Bound;
use crate::gateway::credentials::VisitorToken;
use crate::gateway::request_decision::{Decision, Forwarding};
use crate::gateway::routes::{Found, Reply, Terms, ToDevice};
use crate::gateway::sign_in::{self, Scope};
use crate::gateway::sign_in_requests::{SignInAnswer, VisitorContext, log_other_site};
use crate::gateway::state::{GatewayRole, VisitorSource};
use crate::gateway::tokens::Digest;
use crate::gateway::trusted_requests::TOO_LONG_WITH_OURS;
use crate::gateway::waiting::for_visitors;
use crate::proto::alias::Alias;
use crate::proto::body::Framing;
use crate::proto::forward::{self, Destination, Forwarded, RequestRules};
use crate::proto::forwarded::ProxyClaims;
use crate::proto::framed::FramedRequest;
use crate::proto::head;
use crate::proto::prefixes::path_of;
use crate::proto::turn;
use crate::proto::upgrade;
use crate::relay::Exchange;

const SEVERAL_TOKENS: &str = "there are several PTTH-Authorization fields; send one";
const LOOP: &str = "this request has already come through this gateway (Via): its device forwards to where it came from";
const NEVER_IN_A_PREFLIGHT: [&str; 6] =
    ["Upgrade", "Expect", "Cookie", "Authorization", "Proxy-Authorization", "PTTH-Authorization"];

/// Properties of a visitor's connection.
#[derive(Clone, Copy)]
pub(super) struct Arrival {
    pub(super) listener: usize,
    from: IpAddr,
    /// Its forwarding fields are trusted.
    pub(super) trusted: bool,
    /// It came over TLS.
    secure: bool,
}

impl Arrival {
    /// `None` if it is not a visitor's.
    pub(super) fn of(source: &VisitorSource) -> Option<Self> {
        match source {
            VisitorSource::Visitors { listener, from, trusted, secure, .. } => {
                let (listener, from) = (*listener, *from);
                Some(Arrival { listener, from, trusted: *trusted, secure: *secure })
            }
            VisitorSource::Program { .. } | VisitorSource::Peer => None,
        }
    }

    pub(super) fn context<'a>(self, claims: Option<&'a ProxyClaims<'a>>) -> VisitorContext<'a> {
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
    /// Decides what happens to a request: it goes to a device, is answered here, or belongs to another
    /// event loop.
    pub(super) fn decide(
        &mut self,
        id: Id,
        request: &FramedRequest<'_>,
        source: &VisitorSource,
        now: Instant,
    ) -> Decision {
        let Some(arrival) = Arrival::of(source) else {
            return match source {
                VisitorSource::Program { name, .. } => match self.elsewhere(name, now) {
                    Some(to) => Decision::Elsewhere(to),
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
                Decision::Refused { refusal, to_head: request.method == "HEAD", keep: planned.keep }
            }
            Ok(planned) => match self.elsewhere(&planned.device.name, now) {
                Some(to) => Decision::Elsewhere(to),
                None => match self.too_many(request, arrival, &planned, now) {
                    Some(decision) => decision,
                    None => self.forward(id, request, arrival, planned, now),
                },
            },
            Err(decision) => self.hint_at_devices_port(request, decision),
        }
    }

    fn is_of_device(&self, request: &FramedRequest<'_>) -> bool {
        turn::is_of_device(request, &self.settings.offer_rules.dialects)
    }

    /// The answer to a device that mistakes this port for that of devices.
    fn hint_at_devices_port(&self, request: &FramedRequest<'_>, decision: Decision) -> Decision {
        let why = match &decision {
            Decision::Refused { refusal, .. } if refusal.status == 401 => "who show a token",
            Decision::Refused { refusal, .. } if refusal.status == 404 => "and has no such route",
            _ => return decision,
        };
        match decision {
            Decision::Refused { refusal, to_head, keep } if self.is_of_device(request) => {
                let refusal = Refusal::new(refusal.status, for_visitors(why));
                Decision::Refused { refusal, to_head, keep }
            }
            decision => decision,
        }
    }

    /// The device a request is for, or a response in its place.
    fn find_device<'r>(
        &self,
        request: &'r FramedRequest<'_>,
        arrival: Arrival,
    ) -> Result<Planned<'r>, Decision> {
        let to_head = request.method == "HEAD";
        // For HTTP/1.0 only a relayed answer has `keep-alive`; without it the connection ends (RFC
        // 9112 appendix C.2.2).
        let keep = request.framing() == Framing::Empty
            && request.minor > 0
            && head::keeps_alive(request.minor, &request.fields)
            && !self.lifecycle.is_ending();
        let refused = |refusal, keep| Err(Decision::Refused { refusal, to_head, keep });
        let destination = forward::destination(request);
        // Before tokens: a load balancer has none, and learns only whether this gateway serves.
        let is_health = |to: &Destination<'_>| {
            self.listeners.visitors(arrival.listener).is_some_and(|(table, _)| table.is_health(to))
        };
        if matches!(request.method, "GET" | "HEAD") && destination.as_ref().is_ok_and(is_health) {
            return Err(Decision::Health { allowed: true, to_head, keep });
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
                .map_err(|answer| Decision::SignIn { answer, to_head, keep })?,
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
            Ok(to) if to.target == "*" => return Err(Decision::Server { has: None, keep }),
            Ok(to) => to,
            Err(refusal) => return refused(refusal, false),
        };
        let device = match self.route(request.method, &to, arrival, claims.as_ref()) {
            Ok(Found::Device(device)) => device,
            Ok(Found::AddSlash(location)) => {
                let text = "add a slash after the device's name";
                let reply = Reply::redirect(308, location, text);
                return Err(Decision::Reply { reply, to_head, keep });
            }
            Ok(Found::Reply(reply)) => return Err(Decision::Reply { reply, to_head, keep }),
            Ok(Found::Health) => {
                let allowed = matches!(request.method, "GET" | "HEAD");
                return Err(Decision::Health { allowed, to_head, keep });
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
                return Err(Decision::SignIn { answer, to_head, keep });
            }
            return refused(Refusal::new(403, "this token is not for this device"), keep);
        }
        let drop_authorization = shown.takes_authorization();
        Ok(Planned { to, device, token, drop_authorization, claims, keep })
    }

    /// The scope in which the visitor of a request may sign in.
    pub(super) fn scope_of(
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
    ) -> Option<Decision> {
        let Planned { to, device, token, claims, keep, .. } = planned;
        let paces = device.paces.as_deref()?;
        if self.is_free_preflight(request, to, arrival, claims.as_ref()) {
            return None;
        }
        let address = self.address_of(arrival.from, claims.as_ref());
        let too_many = self.rates.take(now, paces, address, token.as_ref()).err()?;
        self.stats.reached(Bound::Rate);
        Some(Decision::TooMany { too_many, to_head: request.method == "HEAD", keep: *keep })
    }

    /// The exchange of a request whose device is known.
    fn forward(
        &self,
        id: Id,
        request: &FramedRequest<'_>,
        arrival: Arrival,
        planned: Planned<'_>,
        now: Instant,
    ) -> Decision {
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
            Err(refusal) => return Decision::Refused { refusal, to_head, keep: false },
            Ok(()) if !self.fits_a_link(&head) => {
                let refusal = Refusal::new(431, TOO_LONG_WITH_OURS);
                return Decision::Refused { refusal, to_head, keep };
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
        Decision::Forward(Forwarding { exchange, name, token, visitor })
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
            return Ok(Found::Device(table.whole(name.into(), to)));
        }
        Ok(match table.find(method, to, &self.settings.limits)? {
            // The prefix that the proxy removed is part of the path that its client knows.
            Found::AddSlash(location) => {
                Found::AddSlash([claims.map_or("", ProxyClaims::prefix), &location].concat())
            }
            found => found,
        })
    }
}

/// Returns true if a browser asks for a page.
fn wants_page(request: &FramedRequest<'_>) -> bool {
    matches!(request.method, "GET" | "HEAD") && sign_in::wants_page(&request.fields)
}
