//! The visitors' face: whom a request is for, and what a visitor is told when it cannot be had.

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use crate::engine::peers::{Fetched, Id, Peers};
use crate::engine::slab::Key;
use crate::error::{Error, Fault, Refusal};
use crate::gateway::mailbox::MessageId;
use crate::gateway::role::{Fate, GatewayRole, State};
use crate::gateway::roster::Waiter;
use crate::proto::body::{self, Framing};
use crate::proto::forward::{self, Destination, FirstSegment, Forwarded, RequestRules};
use crate::proto::head::{self, LineEnds, RequestHead};
use crate::proto::turn::Name;
use crate::relay::{self, Exchange, LocalAnswer};

/// How visitors' requests find their device. Origins that devices registered (IETF offers) come first, then host suffixes, then paths.
///
/// ```
/// use reverse_http::Routes;
/// let routes = Routes::path();                                    // /lamp/status → device lamp, /status
/// let routes = Routes::path().and_host("devices.example")?;       // also lamp.devices.example
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    path: bool,
    suffixes: Vec<String>,
}

impl Routes {
    /// By path: `/NAME/rest` reaches device NAME as `/rest`, with `X-Forwarded-Prefix: /NAME`.
    pub fn path() -> Self {
        Routes { path: true, suffixes: Vec::new() }
    }

    /// By host: `NAME.suffix` reaches device NAME, the request unchanged; case is ignored.
    ///
    /// # Errors
    /// `suffix` is no host name.
    pub fn host(suffix: &str) -> Result<Self, Error> {
        Routes::default().and_host(suffix)
    }

    /// Also by host.
    ///
    /// # Errors
    /// `suffix` is no host name.
    pub fn and_host(mut self, suffix: &str) -> Result<Self, Error> {
        let suffix = suffix.trim_start_matches('.').trim_end_matches('.').to_ascii_lowercase();
        let label = |l: &str| !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if suffix.is_empty() || suffix.len() > 253 || !suffix.split('.').all(label) {
            return Err(Error::usage(format!("host suffix {suffix:?} is no host name; give one like devices.example")));
        }
        self.suffixes.push(format!(".{suffix}"));
        Ok(self)
    }

    /// Also by path.
    pub fn and_path(mut self) -> Self {
        self.path = true;
        self
    }
}

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
enum Route<'a> {
    Device {
        name: String,
        target: std::borrow::Cow<'a, str>,
        prefix: Option<String>,
    },
    /// `/NAME` alone, asked with GET or HEAD.
    AddSlash(String),
}

impl Routes {
    fn route<'a>(&self, method: &str, to: &Destination<'a>) -> Result<Route<'a>, Refusal> {
        for suffix in &self.suffixes {
            if let Some(label) = to.host.strip_suffix(suffix.as_str()) {
                let name = Name::label(label).map_err(|e| Refusal::new(404, e.reason))?;
                return Ok(Route::Device { name: name.to_string(), target: to.target.into(), prefix: None });
            }
        }
        if !self.path {
            return Err(Refusal::new(404, "no route: no device has this host"));
        }
        let FirstSegment { segment, rest, query } = forward::split_first_segment(to.target);
        if segment.is_empty() || to.target == "*" {
            return Err(Refusal::new(404, "no route: ask for /NAME/…, NAME being a device's"));
        }
        let name = Name::label(segment)?.to_string();
        if !rest.is_empty() {
            return Ok(Route::Device { prefix: Some(format!("/{name}")), name, target: rest.into() });
        }
        if matches!(method, "GET" | "HEAD") {
            return Ok(Route::AddSlash(format!("/{name}/{query}")));
        }
        Ok(Route::Device { prefix: Some(format!("/{name}")), name, target: format!("/{query}").into() })
    }
}

/// Where a visitor's connection stands.
pub(crate) enum Visitor {
    /// A request head is awaited (`began`: some of it is here).
    Head { began: bool, first: bool, face: Face },
    /// A request for the device of this name is being served, or waits for a link or a poll. `event`: under which id a poll took it.
    Exchange { key: Key, name: Box<str>, event: Option<MessageId>, face: Face },
}

/// What a visitor's connection came through.
#[derive(Clone)]
pub(crate) enum Face {
    /// A listener.
    Visitors { routes: Arc<Routes>, port: u16, from: IpAddr },
    /// A program of this process, for one device; its errors are left at `fate`.
    Program { name: Arc<str>, fate: Fate },
}

impl Face {
    pub(super) fn visitors(routes: Arc<Routes>, port: u16, from: IpAddr) -> Self {
        Face::Visitors { routes, port, from: from.to_canonical() }
    }
    pub(super) fn program(name: &str, fate: Fate) -> Self {
        Face::Program { name: name.into(), fate }
    }
}

impl Visitor {
    pub(super) fn fresh(face: Face) -> Self {
        Visitor::Head { began: false, first: true, face }
    }
    fn face(&self) -> &Face {
        match self {
            Visitor::Head { face, .. } | Visitor::Exchange { face, .. } => face,
        }
    }
}

/// What came from a visitor.
enum Asked {
    NotYet,
    Closed,
    Refused { refusal: Refusal, to_head: bool, keep: bool },
    Redirect { location: String, to_head: bool, keep: bool },
    Forward { exchange: Box<Exchange>, name: String },
}

impl GatewayRole {
    pub(super) fn visitor_head(&mut self, cx: &mut Peers<State>, id: Id) {
        let mut scratch = cx.take_scratch();
        let asked = self.read_request(cx, id, &mut scratch);
        cx.put_scratch(scratch);
        match asked {
            Asked::NotYet => {}
            Asked::Closed => cx.close(id),
            Asked::Refused { refusal, to_head, keep } => {
                log::debug!("a visitor's request was refused: {refusal}");
                let answer =
                    LocalAnswer { error: proxy_error(refusal.status), to_head, keep, ..LocalAnswer::new(refusal.status, &refusal.reason) };
                self.answer_visitor(cx, id, &answer);
            }
            Asked::Redirect { location, to_head, keep } => {
                let fields = [("Location", location.as_str())];
                self.answer_visitor(
                    cx,
                    id,
                    &LocalAnswer { fields: &fields, to_head, keep, ..LocalAnswer::new(308, "add a slash behind the device's name") },
                );
            }
            Asked::Forward { exchange, name } => self.begin(cx, id, *exchange, &name),
        }
    }

    fn read_request(&mut self, cx: &mut Peers<State>, id: Id, scratch: &mut [u8]) -> Asked {
        let now = cx.now();
        let Some(peer) = cx.get_mut(id) else { return Asked::NotYet };
        let State::Visitor(Visitor::Head { began, first, face }) = &mut peer.state else { return Asked::NotYet };
        let (had_begun, first, face) = (std::mem::replace(began, true), *first, face.clone());
        let filled = match peer.fetch(scratch, self.limits.head_bytes_max + 1024) {
            Ok(Fetched::Octets(n)) => n,
            Ok(Fetched::Nothing) => {
                if let State::Visitor(Visitor::Head { began, .. }) = &mut peer.state {
                    *began = had_begun;
                }
                return if peer.is_broken() { Asked::Closed } else { Asked::NotYet };
            }
            Ok(Fetched::End) | Err(_) => return Asked::Closed,
        };
        let octets = &scratch[..filled];
        match head::request(octets, &self.limits, LineEnds::Crlf) {
            Err(refusal) => Asked::Refused { refusal, to_head: false, keep: false },
            Ok(None) if peer.is_over() => Asked::Closed,
            Ok(None) => {
                peer.keep(octets);
                if !had_begun && !first {
                    cx.set_deadline(id, Some(cx.after(self.limits.head_timeout))); // in all, from the first octet on
                }
                Asked::NotYet
            }
            Ok(Some(request)) => {
                peer.keep(&octets[request.len..]);
                self.plan(id, &request, &face, now)
            }
        }
    }

    fn plan(&self, id: Id, request: &RequestHead<'_>, face: &Face, now: std::time::Instant) -> Asked {
        let to_head = request.method == "HEAD";
        let framing = match body::of_request(request) {
            Ok(framing) => framing,
            Err(refusal) => return Asked::Refused { refusal, to_head, keep: false },
        };
        let (routes, port, from) = match face {
            Face::Visitors { routes, port, from } => (routes, *port, *from),
            Face::Program { name, .. } => return self.plan_for_program(id, request, framing, name, now),
        };
        // For HTTP/1.0 only a relayed answer says `keep-alive`; without that word it ends the connection (RFC 9112 appendix C.2.2).
        let keep = framing == Framing::Empty && request.minor > 0 && head::keeps_alive(request.minor, &request.fields) && !self.draining;
        let planned = forward::destination(request).map_err(|r| (r, false)).and_then(|to| {
            let route = match self.origin(&to, port) {
                Some(name) => Ok(Route::Device { name, target: to.target.into(), prefix: None }),
                None => routes.route(request.method, &to),
            };
            Ok((route.map_err(|r| (r, keep))?, to))
        });
        let (name, target, prefix, to) = match planned {
            Err((refusal, keep)) => return Asked::Refused { keep: keep && refusal.status == 404, refusal, to_head },
            Ok((Route::AddSlash(location), _)) => return Asked::Redirect { location, to_head, keep },
            Ok((Route::Device { name, target, prefix }, to)) => (name, target, prefix, to),
        };
        let rules = RequestRules {
            target: &target,
            host: to.authority,
            prefix: prefix.as_deref(),
            forwarded: Some(Forwarded { peer: Some(from), proto: "http", host: to.authority }),
            via: Some(super::VIA),
            keep_underscore: self.keep_underscore,
            upgrade: relay::wants_upgrade(request, framing),
        };
        let mut head = Vec::with_capacity(request.len + 192);
        match forward::request(&mut head, request, framing, &rules) {
            Err(refusal) => Asked::Refused { refusal, to_head, keep: false },
            Ok(()) => Asked::Forward { exchange: Box::new(Exchange::new(id, request, framing, head, &self.limits, now)), name },
        }
    }

    /// A program's own request: it goes on as it was written.
    fn plan_for_program(&self, id: Id, request: &RequestHead<'_>, framing: Framing, name: &str, now: std::time::Instant) -> Asked {
        let host = request.fields.get("Host").and_then(|host| std::str::from_utf8(host).ok()).unwrap_or_default();
        let mut head = Vec::with_capacity(request.len + 16);
        let planned = forward::origin_form(request).and_then(|target| {
            let rules = RequestRules { target, host, prefix: None, forwarded: None, via: None, keep_underscore: true, upgrade: false };
            forward::request(&mut head, request, framing, &rules)
        });
        match planned {
            Err(refusal) => Asked::Refused { refusal, to_head: false, keep: false },
            Ok(()) => {
                Asked::Forward { exchange: Box::new(Exchange::new(id, request, framing, head, &self.limits, now)), name: name.to_owned() }
            }
        }
    }

    /// The registered origin that a visitor's host names. On a plain listener the scheme is not known: the host decides, with
    /// the port absent, 80, 443 or the listener's own.
    fn origin(&self, to: &Destination<'_>, listener: u16) -> Option<String> {
        if !self.origins || to.host.is_empty() {
            return None;
        }
        let usual = to.port.is_none_or(|p| p == 80 || p == 443 || p == listener);
        let schemes = ["https", "http"].into_iter();
        let candidates = schemes.flat_map(|scheme| {
            let bare = usual.then(|| format!("{scheme}://{}", to.host));
            let exact = to.port.map(|p| format!("{scheme}://{}:{p}", to.host));
            [bare, exact].into_iter().flatten()
        });
        let known: Vec<String> = candidates.filter(|name| self.roster.knows(name)).collect();
        known.iter().find(|name| self.roster.links(name).0 > 0).or(known.first()).cloned()
    }

    fn begin(&mut self, cx: &mut Peers<State>, id: Id, exchange: Exchange, name: &str) {
        self.stats.exchanges.fetch_add(1, Relaxed);
        let key = self.exchanges.insert(exchange);
        let Some(peer) = cx.get_mut(id) else { return };
        if let State::Visitor(Visitor::Head { face, .. }) = &peer.state {
            let face = face.clone();
            peer.state = State::Visitor(Visitor::Exchange { key, name: name.into(), event: None, face });
        }
        self.find_link(cx, id, key);
    }

    /// Gives the exchange an idle link of its device, else a poll, or lines it up for whichever comes first.
    pub(super) fn find_link(&mut self, cx: &mut Peers<State>, id: Id, key: Key) {
        let Some(State::Visitor(Visitor::Exchange { name, .. })) = cx.get(id).map(|p| &p.state) else { return };
        let name = name.clone();
        let (idempotent, retried) = self.exchanges.get(key).map_or((false, false), |e| (e.idempotent, e.retried));
        while let Some(link) = self.take_link(cx, &name) {
            if (idempotent && !retried) || self.is_alive(cx, link) {
                return self.assign(cx, key, link);
            }
        }
        if self.roster.is_polling(&name) && !self.draining {
            self.by_mailbox(cx, id, key);
        } else {
            self.wait_in_line(cx, id, key);
        }
    }

    /// Lines a request up for a link or a poll of its device, where it may.
    pub(super) fn wait_in_line(&mut self, cx: &mut Peers<State>, id: Id, key: Key) {
        let Some(State::Visitor(Visitor::Exchange { name, .. })) = cx.get(id).map(|p| &p.state) else { return };
        let name = name.clone();
        let refusal = if !self.roster.knows(&name) {
            Some((404, format!("no device {name} is or was lately connected to this gateway"), "destination_not_found", None))
        } else if self.draining {
            Some((503, "this gateway is stopping".to_owned(), "destination_unavailable", Some(1)))
        } else if !self.roster.line_up(&name, Waiter::Exchange(key)) {
            let reason = format!("as many requests wait for {name} as waiting_per_device_max allows");
            Some((503, reason, "connection_limit_reached", Some(1)))
        } else {
            None
        };
        match refusal {
            None => {
                let at = cx.after(self.limits.wait_for_link);
                cx.set_deadline(id, Some(at));
            }
            Some((status, reason, error, retry_after)) => {
                self.give_up(cx, id, key, &LocalAnswer { error: Some(error), retry_after, ..LocalAnswer::new(status, &reason) })
            }
        }
    }

    /// Ends an exchange that never had a link.
    pub(super) fn give_up(&mut self, cx: &mut Peers<State>, id: Id, key: Key, answer: &LocalAnswer<'_>) {
        self.forget_event(cx, id);
        let Some(exchange) = self.exchanges.remove(key) else { return };
        let answer = LocalAnswer { to_head: exchange.is_head(), keep: exchange.may_keep_asker() && !self.draining, ..answer.clone() };
        self.answer_visitor(cx, id, &answer);
    }

    pub(super) fn visitor_waited(&mut self, cx: &mut Peers<State>, id: Id, key: Key) {
        let Some(State::Visitor(Visitor::Exchange { name, .. })) = cx.get(id).map(|p| &p.state) else { return };
        let name = name.clone();
        self.roster.step_out(&name, Waiter::Exchange(key));
        let (links, _) = self.roster.links(&name);
        let waited = self.limits.wait_for_link.as_secs_f32();
        let (reason, error) = if links == 0 && self.roster.is_polling(&name) {
            let reason = format!("device {name} polls, and did not come for this request within {waited} s (wait_for_link)");
            (reason, "connection_limit_reached")
        } else if links == 0 {
            (format!("device {name} is not connected; it did not come back within {waited} s (wait_for_link)"), "destination_unavailable")
        } else {
            (format!("all {links} links of device {name} stayed busy for {waited} s (wait_for_link)"), "connection_limit_reached")
        };
        self.give_up(cx, id, key, &LocalAnswer { error: Some(error), retry_after: Some(1), ..LocalAnswer::new(503, &reason) });
    }

    pub(super) fn visitor_next(&mut self, cx: &mut Peers<State>, id: Id, keep: bool) {
        let Some(peer) = cx.get_mut(id) else { return };
        let State::Visitor(visitor) = &peer.state else { return };
        let face = visitor.face().clone();
        if !keep || self.draining {
            return self.linger(cx, id);
        }
        peer.state = State::Visitor(Visitor::Head { began: false, first: false, face });
        peer.settle();
        let more = peer.has_input();
        let at = cx.after(self.limits.idle_visitor_timeout);
        cx.set_deadline(id, Some(at));
        if more {
            cx.again(id);
        }
    }

    /// Answers a visitor from here; the connection goes on where the answer says so. A program is told by an error.
    pub(super) fn answer_visitor(&mut self, cx: &mut Peers<State>, id: Id, answer: &LocalAnswer<'_>) {
        if let Some(State::Visitor(visitor)) = cx.get(id).map(|p| &p.state) {
            if let Face::Program { fate, .. } = visitor.face() {
                *fate.lock().unwrap_or_else(PoisonError::into_inner) = Some(program_error(answer));
                return cx.close(id);
            }
        }
        if !answer.keep {
            return self.refuse(cx, id, answer);
        }
        self.stats.refused.fetch_add(1, Relaxed);
        let date = cx.date().to_owned();
        let Some(peer) = cx.get_mut(id) else { return };
        answer.write(peer.output(), &date);
        match peer.flush() {
            Ok(true) => self.visitor_next(cx, id, true),
            Ok(false) => self.linger(cx, id), // it does not even read this much; no reason to wait for more of it
            Err(_) => cx.close(id),
        }
    }

    pub(super) fn visitor_head_expired(&mut self, cx: &mut Peers<State>, id: Id) {
        match cx.get(id).is_some_and(|p| p.kept() > 0) {
            true => self.refuse(cx, id, &LocalAnswer::new(408, "the request head was not whole within head_timeout")),
            false => cx.close(id),
        }
    }
}

/// What a visitor would be answered, as `send()` returns it.
fn program_error(answer: &LocalAnswer<'_>) -> Error {
    let text = answer.reason.to_owned();
    match answer.status {
        503 if answer.error == Some("destination_unavailable") => Error::not_connected(503, text),
        503 => Error::full(text),
        504 => Error::timeout(Fault::Device, text),
        404 => Error::not_connected(404, text),
        408 => Error::timeout(Fault::Caller, text),
        502 if answer.error == Some("connection_terminated") => Error::closed(Fault::Device, text),
        502 => Error::malformed(Fault::Device, 502, text),
        status => Error::refused(Fault::Gateway, status, text, None),
    }
}

fn proxy_error(status: u16) -> Option<&'static str> {
    match status {
        404 => Some("destination_not_found"),
        _ => Some("http_request_error"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn to<'a>(host: &str, target: &'a str) -> Destination<'a> {
        Destination { host: host.to_owned(), port: None, authority: "x", target }
    }
    fn device<'a>(name: &str, target: &'a str, prefix: Option<&str>) -> Route<'a> {
        Route::Device { name: name.to_owned(), target: target.into(), prefix: prefix.map(str::to_owned) }
    }

    #[test]
    fn a_path_names_its_device() {
        let routes = Routes::path();
        let route = |method, target| routes.route(method, &to("gw.example", target)).map_err(|r| r.status);
        assert_eq!(route("GET", "/lamp/status?x=1"), Ok(device("lamp", "/status?x=1", Some("/lamp"))));
        assert_eq!(route("GET", "/lamp/"), Ok(device("lamp", "/", Some("/lamp"))));
        assert_eq!(route("GET", "/lamp?x"), Ok(Route::AddSlash("/lamp/?x".to_owned())));
        assert_eq!(route("HEAD", "/lamp"), Ok(Route::AddSlash("/lamp/".to_owned())));
        assert_eq!(route("POST", "/lamp?x"), Ok(device("lamp", "/?x", Some("/lamp"))));
        for (target, status) in
            [("/", 404), ("/?x", 404), ("*", 404), ("/Lamp/", 400), ("/l%61mp/", 400), ("/-lamp/", 400), ("//lamp/", 404)]
        {
            assert_eq!(route("GET", target), Err(status), "{target}");
        }
    }

    #[test]
    fn a_host_names_its_device_before_any_path() {
        let routes = Routes::path().and_host("Devices.Example.").unwrap();
        assert_eq!(routes.route("GET", &to("lamp.devices.example", "/door/x")), Ok(device("lamp", "/door/x", None)));
        assert_eq!(routes.route("GET", &to("devices.example", "/door/x")), Ok(device("door", "/x", Some("/door"))));
        assert_eq!(routes.route("GET", &to("a.lamp.devices.example", "/")).unwrap_err().status, 404);
        assert_eq!(Routes::host("devices.example").unwrap().route("GET", &to("gw.example", "/lamp/")).unwrap_err().status, 404);
        assert!(Routes::host("").is_err() && Routes::host("a b").is_err());
    }
}
