//! The device that a visitor's request is routed to: the table of routes, then host suffixes, then
//! paths. Pure data; nothing here moves a byte.
//!
//! ```text
//!   health path ─► registered origins (visitors.rs) ─► table: exact host ─► *.suffix ─► any host ─► --route host=SUFFIX ─► --route path ─► 404
//!                                              └── of each, the longest path that matches, by whole segments
//! ```
//! A path is compared byte for byte ([`prefixes`](crate::proto::prefixes)).

mod reply;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use self::reply::Goal;
pub(super) use self::reply::{Offline, Reply};
use crate::engine::budget::{Budget, Held};
use crate::error::{Error, Refusal};
use crate::gateway::rates::{Paces, Rate, Rates};
use crate::limits::Limits;
use crate::proto::authority::authority;
use crate::proto::edits::{FieldEdits, is_written_by_gateways};
use crate::proto::forward::{self, Destination, FirstSegment};
use crate::proto::forwarded::path_prefix;
use crate::proto::prefixes::{Prefixes, path_of, without_prefix};
use crate::proto::turn::Name;
use crate::relay::{Wait, Waits};
use crate::setting::HEALTH_PATH;

/// How visitors' requests find their device. Origins that devices registered (IETF offers) come
/// first, then the table's routes, then host suffixes, then paths.
///
/// ```
/// use reverse_http::{Route, Routes};
/// let routes = Routes::path();                                    // /lamp/status → device lamp, /status
/// let routes = Routes::path().and_host("devices.example")?;       // also lamp.devices.example
/// let routes = routes.and_route(Route::new().path("/api")?.device("lamp")?)?; // also /api/status → device lamp, /status
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    path: bool,
    /// What devices say of paths is put below their names.
    rewrites_paths: bool,
    /// Visitors may sign in where no route of the table says so.
    signs_in: bool,
    /// Of requests that no route of the table takes.
    rates: Rates,
    suffixes: Vec<String>,
    table: BTreeMap<(Host, String), Route>,
    health: Option<String>,
}

impl Routes {
    /// By path: `/NAME/rest` reaches device NAME as `/rest`, with `X-Forwarded-Prefix: /NAME`.
    #[must_use]
    pub fn path() -> Self {
        Routes::default().and_path()
    }

    /// By host: `NAME.suffix` reaches device NAME, the request unchanged; case is ignored.
    ///
    /// # Errors
    /// `suffix` is no host name.
    pub fn host(suffix: &str) -> Result<Self, Error> {
        Routes::default().and_host(suffix)
    }

    /// By a table of routes alone.
    ///
    /// # Errors
    /// As [`and_route`](Self::and_route).
    pub fn table(routes: impl IntoIterator<Item = Route>) -> Result<Self, Error> {
        routes.into_iter().try_fold(Routes::default(), Routes::and_route)
    }

    /// Also by host.
    ///
    /// # Errors
    /// `suffix` is no host name.
    pub fn and_host(mut self, suffix: &str) -> Result<Self, Error> {
        let suffix = host_name(suffix.trim_start_matches('.')).ok_or_else(|| {
            Error::usage(format!(
                "host suffix {suffix:?} is no host name; give one like devices.example"
            ))
        })?;
        self.suffixes.push(format!(".{suffix}"));
        Ok(self)
    }

    /// Also by path.
    #[must_use]
    pub fn and_path(mut self) -> Self {
        self.path = true;
        self
    }

    /// Whether requests [by path](Self::path) have what devices say of paths put below their names,
    /// as [`Route::rewrite`] does. Default: it goes on as it is.
    #[must_use]
    pub fn rewrite_paths(mut self, rewrite: bool) -> Self {
        self.rewrites_paths = rewrite;
        self
    }

    /// How many requests one visitor's address may send that no route of the table takes: as
    /// [`Route::rate`] says of one route. Default: any.
    #[must_use]
    pub fn rate(mut self, rate: Rate) -> Self {
        self.rates.of_address = Some(rate);
        self
    }

    /// The same of one visitor's token. Default: any.
    #[must_use]
    pub fn rate_per_token(mut self, rate: Rate) -> Self {
        self.rates.of_token = Some(rate);
        self
    }

    /// How many of these requests at once. Default: the number of the rate.
    ///
    /// # Errors
    /// As [`Route::burst`].
    pub fn burst(mut self, requests: u32) -> Result<Self, Error> {
        self.rates.set_burst(requests)?;
        Ok(self)
    }

    /// Whether visitors sign in on a page of the gateway's for requests that no route of the table
    /// takes: as [`Route::sign_in`] says of one route. Default: no.
    #[must_use]
    pub fn sign_in(mut self, sign_in: bool) -> Self {
        self.signs_in = sign_in;
        self
    }

    /// What there is that counts visitors' tokens, for a gateway whose visitors have none.
    pub(super) fn needs_tokens(&self) -> Option<String> {
        let of_route = self
            .table
            .values()
            .find_map(|route| route.needs_tokens().map(|what| format!("route {route} has {what}")));
        let all = needs_tokens(&self.rates, self.signs_in);
        of_route.or(all.map(|what| format!("the routes have {what}")))
    }

    /// Also by this route.
    ///
    /// # Errors
    /// It has neither host nor path; it names no device, and has no `*.suffix` to take one from, and
    /// no answer of its own; it has both, or what only a device's route has beside an answer, or a
    /// status that does not go with it; its redirect leads to its own path; it rewrites, and takes
    /// no path off; it has a burst and no rate, or a sign-in and a semicolon; its host and path are those of another route.
    pub fn and_route(mut self, route: Route) -> Result<Self, Error> {
        if route.host == Host::Any && route.path.is_none() {
            return Err(Error::usage(
                "a route has a host, a path, or both; the path / takes every request",
            ));
        }
        route.check_goal()?;
        let needs_device = route.goal.is_none() && !matches!(route.host, Host::Wildcard(_));
        if route.device.is_none() && needs_device {
            return Err(Error::usage(format!(
                "route {route} names no device; only a host like *.devices.example names one by itself"
            )));
        }
        if route.rewrites && (route.keeps_prefix || route.path.as_deref().unwrap_or("").is_empty())
        {
            return Err(Error::usage(format!(
                "route {route} takes no path off, so there is nothing to rewrite; rewrite goes with a path, and without strip = false"
            )));
        }
        if route.rates.are_none() && route.rates.burst.is_some() {
            return Err(Error::usage(format!(
                "route {route} has a burst and no rate; give it a rate or a rate_per_token"
            )));
        }
        if route.signs_in && route.path.as_deref().unwrap_or_default().contains(';') {
            return Err(Error::usage(format!(
                "route {route} has a semicolon, which no path of a cookie can have; sign_in needs a path without"
            )));
        }
        let key = (route.host.clone(), route.path.clone().unwrap_or_default());
        if self.table.contains_key(&key) {
            return Err(Error::usage(format!(
                "there is another route {route}; a host and path go to one device"
            )));
        }
        self.table.insert(key, route);
        Ok(self)
    }

    /// Answers GET and HEAD of exactly this path (a query aside, whatever the host) from the
    /// gateway itself, before any route: 200 while it serves, 503 from the first moment of a
    /// [`drain`](crate::Gateway::drain) on. For load balancers. Default: none.
    ///
    /// # Errors
    /// No path could match: it does not begin with `/`, has an empty segment, one of dots, a query,
    /// a fragment.
    pub fn health_path(mut self, path: &str) -> Result<Self, Error> {
        path_prefix(path).map_err(|why| {
            Error::usage(format!(
                "health path {path:?} ({HEALTH_PATH}): {why}; write it like /health"
            ))
        })?;
        self.health = Some(path.to_owned());
        Ok(self)
    }

    /// How many routes its table has.
    #[must_use]
    pub fn table_len(&self) -> usize {
        self.table.len()
    }
}

/// Labels of letters, digits and hyphens, in lower case, without a dot at the end.
fn host_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label = |l: &str| {
        !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    (name.len() <= 253 && name.split('.').all(label)).then_some(name)
}

/// The hosts that a route is for; the order is that of [`BTreeMap`] alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Host {
    #[default]
    Any,
    /// What stands behind the first label and its dot.
    Wildcard(String),
    Exact(String),
}

/// One route of a table: a host, a path prefix or both, and the device that such requests are for.
///
/// An exact host wins over `*.suffix`, that over no host, and a longer path over a shorter one. A
/// device that a route names is *known*: a request waits for it ([`Limits::wait_for_link`]) and
/// then gets 503, also where it was never connected.
///
/// ```
/// use std::time::Duration;
/// use reverse_http::{Route, Routes};
/// let routes = Routes::table([
///     Route::new().host("lamp.example")?.path("/api")?.device("lamp")?.first_byte(Duration::from_secs(120))?.in_flight(64)?,
///     Route::new().host("*.devices.example")?, // desk.devices.example → device desk
/// ])?;
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    host: Host,
    /// Without a slash at its end: `/` is empty.
    path: Option<String>,
    device: Option<String>,
    /// Instead of a device.
    goal: Option<Goal>,
    status: Option<u16>,
    content_type: Option<Arc<str>>,
    offline: Option<Arc<Offline>>,
    keeps_prefix: bool,
    frees_preflights: bool,
    rewrites: bool,
    signs_in: bool,
    edits: Edits,
    rates: Rates,
    wait_for_link: Option<Duration>,
    first_byte: Option<Duration>,
    body_silence: Option<Duration>,
    exchange: Option<Duration>,
    in_flight: Option<usize>,
}

/// Fields that a route sets and removes, of requests to its device and of what that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Edits {
    pub(super) request: Option<Arc<FieldEdits>>,
    pub(super) response: Option<Arc<FieldEdits>>,
}

impl Route {
    /// A route without anything.
    #[must_use]
    pub fn new() -> Self {
        Route::default()
    }

    /// For this host (`lamp.example`), or for every host with one label before a suffix
    /// (`*.devices.example`). Case is ignored, and so is the port.
    ///
    /// # Errors
    /// It is neither.
    pub fn host(mut self, host: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::usage(format!(
                "host {host:?}: write a host like lamp.example, or *.devices.example, without scheme, port or path"
            ))
        };
        self.host = match host.strip_prefix("*.") {
            Some(suffix) => Host::Wildcard(host_name(suffix).ok_or_else(wrong)?),
            None => {
                let parsed = authority(host.as_bytes())
                    .ok()
                    .filter(|authority| authority.port.is_none())
                    .ok_or_else(wrong)?;
                Host::Exact(parsed.host.to_ascii_lowercase())
            }
        };
        Ok(self)
    }

    /// For paths that begin with these segments: `/api` is for `/api`, `/api/` and `/api/x`, not
    /// for `/apix`. `/` is for all. It is compared byte for byte: with case, and percent-encoded
    /// bytes as they stand.
    ///
    /// # Errors
    /// No path could match: it does not begin with `/`, has an empty segment, one of dots, a query,
    /// a fragment.
    pub fn path(mut self, path: &str) -> Result<Self, Error> {
        let prefix = path_prefix(path)
            .map_err(|why| Error::usage(format!("path {path:?}: {why}; write it like /api")))?;
        self.path = Some(prefix.to_owned());
        Ok(self)
    }

    /// The device's name, or an origin that it registers. Left out with `*.suffix`: the label
    /// before the suffix is the name.
    ///
    /// # Errors
    /// It is neither.
    pub fn device(mut self, name: &str) -> Result<Self, Error> {
        let parsed = if name.contains("://") { Name::origin(name) } else { Name::label(name) };
        self.device = Some(
            parsed.map_err(|e| Error::usage(format!("device {name:?}: {}", e.reason)))?.to_string(),
        );
        Ok(self)
    }

    /// Instead of a device: answers with a redirect, 308 unless [`status`](Self::status) says
    /// otherwise. To a URL (`https://new.example/page`), or a path of the same host (`/page`). With
    /// `/*` at its end the request's path comes behind it, without the route's own, and the query:
    /// `https://new.example/*`.
    ///
    /// ```
    /// # use reverse_http::{Route, Routes};
    /// let routes = Routes::path()
    ///     .and_route(Route::new().host("old.example")?.redirect("https://new.example/*")?)?
    ///     .and_route(Route::new().path("/robots.txt")?.answer("User-agent: *\nDisallow: /")?)?;
    /// # Ok::<(), reverse_http::Error>(())
    /// ```
    ///
    /// # Errors
    /// It is neither; the route has an answer.
    pub fn redirect(self, to: &str) -> Result<Self, Error> {
        self.with_goal(Goal::redirect(to)?)
    }

    /// Instead of a device: answers every request with this text, 200 unless
    /// [`status`](Self::status) says otherwise. It has one line end behind it.
    ///
    /// # Errors
    /// It is longer than 64 KiB; the route has a redirect.
    pub fn answer(self, text: &str) -> Result<Self, Error> {
        self.with_goal(Goal::text(text)?)
    }

    fn with_goal(mut self, goal: Goal) -> Result<Self, Error> {
        let is_other = |had: &Goal| mem::discriminant(had) != mem::discriminant(&goal);
        if self.goal.as_ref().is_some_and(is_other) {
            return Err(Error::usage("a route has a redirect or an answer; leave one out"));
        }
        self.goal = Some(goal);
        Ok(self)
    }

    /// The status of [`redirect`](Self::redirect) (301, 302, 303, 307, 308) or of
    /// [`answer`](Self::answer) (200 to 203, 400 to 599 but 401 and 407).
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// The type of [`answer`](Self::answer). Default: `text/plain; charset=utf-8`.
    ///
    /// # Errors
    /// It is no media type.
    pub fn content_type(mut self, value: &str) -> Result<Self, Error> {
        self.content_type = Some(reply::content_type(value)?);
        Ok(self)
    }

    /// What visitors are shown where the device is away, instead of the reason, as `text/html`. The
    /// status stays as it is (503, or 404 of a device that no route names), and so do `Retry-After`
    /// and `Proxy-Status`.
    ///
    /// # Errors
    /// It is longer than 64 KiB.
    pub fn offline_html(mut self, page: &str) -> Result<Self, Error> {
        Arc::make_mut(self.offline.get_or_insert_default()).set_html(page)?;
        Ok(self)
    }

    /// The same as `application/json`, beside [`offline_html`](Self::offline_html) or alone. Of both
    /// a visitor gets this one whose `Accept` names JSON and not HTML.
    ///
    /// # Errors
    /// It is longer than 64 KiB.
    pub fn offline_json(mut self, page: &str) -> Result<Self, Error> {
        Arc::make_mut(self.offline.get_or_insert_default()).set_json(page)?;
        Ok(self)
    }

    /// What goes with a device does not go with an answer, nor the other way round.
    fn check_goal(&self) -> Result<(), Error> {
        let wrong = |what: &str| Err(Error::usage(format!("route {self} has {what}")));
        let Some(goal) = &self.goal else {
            return match (self.status, &self.content_type) {
                (None, None) => Ok(()),
                _ => wrong("a status or content_type, which go with an answer of its own"),
            };
        };
        let times = [self.wait_for_link, self.first_byte, self.body_silence, self.exchange];
        let is_text = matches!(goal, Goal::Text(_));
        match self.status {
            _ if self.device.is_some() && is_text => {
                wrong("a device and an answer of its own; leave one out")
            }
            _ if self.device.is_some() => wrong("a device and a redirect; leave one out"),
            _ if times.iter().any(Option::is_some) || self.in_flight.is_some() => {
                wrong("times or in_flight, which go with a device")
            }
            _ if self.offline.is_some() => wrong("an offline page, which goes with a device"),
            _ if self.rates != Rates::default() => wrong("a rate, which goes with a device"),
            _ if self.edits != Edits::default() => {
                wrong("fields to set or remove, which go with a device")
            }
            _ if self.frees_preflights || self.rewrites || (is_text && self.keeps_prefix) => {
                wrong("free_preflights, rewrite or strip, which go with a device")
            }
            _ if goal.leads_back(self.path.as_deref().unwrap_or_default(), self.keeps_prefix) => {
                wrong("a redirect to itself, which would never end")
            }
            _ if !is_text && self.content_type.is_some() => {
                wrong("a content_type, which goes with an answer and not with a redirect")
            }
            Some(status) if !goal.takes(status) => wrong(&format!(
                "status {status}; a redirect has 301, 302, 303, 307 or 308, an answer 200 to 203 or 400 to 599 but 401 and 407"
            )),
            _ => Ok(()),
        }
    }

    /// Whether the path goes on whole. Default: the route's prefix is taken off and told in
    /// `X-Forwarded-Prefix`.
    #[must_use]
    pub fn keep_prefix(mut self, keep: bool) -> Self {
        self.keeps_prefix = keep;
        self
    }

    /// Whether CORS preflights (`OPTIONS` with `Origin` and `Access-Control-Request-Method`) reach
    /// the device without a visitor's token, which browsers never send with them. Default: 401, as
    /// for every request without a token where visitors need one.
    #[must_use]
    pub fn free_preflights(mut self, free: bool) -> Self {
        self.frees_preflights = free;
        self
    }

    /// Whether paths in the device's responses get back the prefix that the route takes off:
    /// `Location`, `Content-Location` and `Refresh`, where they name a path, or a URL of the
    /// visitor's host; and cookies, which are scoped to paths below the prefix, whatever `Path` and
    /// `Domain` they ask for. Bodies stay as they are. Default: no.
    #[must_use]
    pub fn rewrite(mut self, rewrite: bool) -> Self {
        self.rewrites = rewrite;
        self
    }

    /// Sets this field in requests to the device, instead of those of its name. It goes on even
    /// where [`keep_underscore`](crate::GatewayBuilder::keep_underscore) drops others like it.
    /// Several of one name are several fields.
    ///
    /// ```
    /// # use reverse_http::Route;
    /// let route = Route::new().path("/api")?.device("lamp")?
    ///     .set_field("X-Site", "porch")?
    ///     .remove_field("Accept-Encoding")?
    ///     .set_response_field("Strict-Transport-Security", "max-age=31536000")?
    ///     .remove_response_field("Server")?;
    /// assert!(route.clone().set_field("X-Forwarded-For", "192.0.2.1").is_err()); // the gateway's own
    /// assert!(route.set_response_field("Content-Length", "5").is_err()); // framing
    /// # Ok::<(), reverse_http::Error>(())
    /// ```
    ///
    /// # Errors
    /// What [`FieldEdits::set`] refuses; a field that the gateway writes itself (`X-Forwarded-*`,
    /// `Forwarded`, `X-Request-Id`).
    pub fn set_field(mut self, name: &str, value: &str) -> Result<Self, Error> {
        not_written_here(name)?;
        edit(&mut self.edits.request, |edits| edits.set(name, value))?;
        Ok(self)
    }

    /// Removes all fields of this name from requests to the device.
    ///
    /// # Errors
    /// As [`set_field`](Self::set_field).
    pub fn remove_field(mut self, name: &str) -> Result<Self, Error> {
        not_written_here(name)?;
        edit(&mut self.edits.request, |edits| edits.remove(name))?;
        Ok(self)
    }

    /// Sets this field in the device's responses, instead of those of its name. The gateway's own
    /// answers (502, 503, 504) do not get it.
    ///
    /// # Errors
    /// What [`FieldEdits::set`] refuses.
    pub fn set_response_field(mut self, name: &str, value: &str) -> Result<Self, Error> {
        edit(&mut self.edits.response, |edits| edits.set(name, value))?;
        Ok(self)
    }

    /// Removes all fields of this name from the device's responses.
    ///
    /// # Errors
    /// As [`set_response_field`](Self::set_response_field).
    pub fn remove_response_field(mut self, name: &str) -> Result<Self, Error> {
        edit(&mut self.edits.response, |edits| edits.remove(name))?;
        Ok(self)
    }

    /// How many requests one visitor's address (IPv6: one /64) may send by this route: the address
    /// that a [trusted proxy](crate::GatewayBuilder::trusted_proxies) or a
    /// [PROXY header](crate::GatewayBuilder::visitors_proxy_protocol) tells, else that of the connection. Beyond:
    /// 429 with `Retry-After`, and the device hears nothing of it. It is counted for all listeners
    /// and event loops together, and goes on over [`set_routes`](crate::Gateway::set_routes).
    /// The health path and [free preflights](Self::free_preflights) do not count. Default: any.
    ///
    /// ```
    /// # use reverse_http::{Route, Routes};
    /// let route = Route::new().path("/api")?.device("lamp")?.rate("20/s".parse()?).burst(40)?;
    /// let routes = Routes::path().rate("100/m".parse()?).and_route(route)?;
    /// # Ok::<(), reverse_http::Error>(())
    /// ```
    #[must_use]
    pub fn rate(mut self, rate: Rate) -> Self {
        self.rates.of_address = Some(rate);
        self
    }

    /// The same of one visitor's token, beside [`rate`](Self::rate) or alone. Both have to let a
    /// request through, and one that is refused counts for neither. Default: any.
    #[must_use]
    pub fn rate_per_token(mut self, rate: Rate) -> Self {
        self.rates.of_token = Some(rate);
        self
    }

    /// How many requests at once, of an address and of a token; then they are let through evenly.
    /// Default: the number of the rate.
    ///
    /// # Errors
    /// It is zero, or more than a million.
    pub fn burst(mut self, requests: u32) -> Result<Self, Error> {
        self.rates.set_burst(requests)?;
        Ok(self)
    }

    /// Whether a browser without a visitor's token is shown a page that asks for one, instead of a
    /// plain 401. The form goes to `/.ptth/sign-in` below the route's path, which no device gets,
    /// and a valid token becomes a cookie of the gateway's own for paths below that path, for
    /// [`Limits::sign_in_timeout`]. The device never sees it, and sets none of its name. Programs
    /// (no `text/html` in `Accept`) get the 401 as ever. Default: no.
    ///
    /// ```
    /// # use reverse_http::{Gateway, Route, Routes, Tokens};
    /// # let tokens = Tokens::default();
    /// let gateway = Gateway::builder().listen("127.0.0.1:0").visitor_tokens(tokens).start()?;
    /// let route = Route::new().path("/api")?.device("lamp")?; // 401 as ever
    /// gateway.listen_visitors("127.0.0.1:0", Routes::path().sign_in(true).and_route(route)?)?;
    /// # Ok::<(), reverse_http::Error>(())
    /// ```
    #[must_use]
    pub fn sign_in(mut self, sign_in: bool) -> Self {
        self.signs_in = sign_in;
        self
    }

    /// Returns true if something of it (its rate for tokens, a sign-in) needs visitors' tokens, so that a gateway whose visitors
    /// have none refuses it.
    #[must_use]
    pub fn needs_visitor_tokens(&self) -> bool {
        self.needs_tokens().is_some()
    }

    fn needs_tokens(&self) -> Option<&'static str> {
        needs_tokens(&self.rates, self.signs_in)
    }

    /// Instead of [`Limits::wait_for_link`]; zero: a request does not wait.
    #[must_use]
    pub fn wait_for_link(mut self, time: Duration) -> Self {
        self.wait_for_link = Some(time);
        self
    }

    /// Instead of [`Limits::first_byte_timeout`].
    ///
    /// # Errors
    /// It is zero.
    pub fn first_byte(mut self, time: Duration) -> Result<Self, Error> {
        self.first_byte = Some(some_time("first_byte", time)?);
        Ok(self)
    }

    /// Instead of [`Limits::body_silence_timeout`].
    ///
    /// # Errors
    /// It is zero.
    pub fn body_silence(mut self, time: Duration) -> Result<Self, Error> {
        self.body_silence = Some(some_time("body_silence", time)?);
        Ok(self)
    }

    /// Instead of [`Limits::exchange_timeout`]; zero: no such bound.
    #[must_use]
    pub fn exchange(mut self, time: Duration) -> Self {
        self.exchange = Some(time);
        self
    }

    /// Most requests of this route at once, those that wait for a link included, at one listener.
    /// Default: no bound of its own. Beyond: 503 with `Retry-After: 1`.
    ///
    /// # Errors
    /// It is zero.
    pub fn in_flight(mut self, most: usize) -> Result<Self, Error> {
        if most == 0 {
            return Err(Error::usage("in_flight is 0; the least that lets a request through is 1"));
        }
        self.in_flight = Some(most);
        Ok(self)
    }

    /// Its effects beyond naming a device, for operators: ` (sets X-Site; removes Server)`.
    #[cfg_attr(not(feature = "admin"), allow(dead_code))]
    fn notes(&self) -> String {
        let of = |whose: &str, edits: &Option<Arc<FieldEdits>>| {
            edits.as_ref().map(|edits| format!("{whose} {edits}"))
        };
        let notes = [
            self.signs_in.then(|| "sign-in".to_owned()),
            self.rewrites.then(|| "paths rewritten".to_owned()),
            (!self.rates.are_none()).then(|| self.rates.to_string()),
            of("requests:", &self.edits.request),
            of("responses:", &self.edits.response),
        ];
        let notes: Vec<String> = notes.into_iter().flatten().collect();
        if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) }
    }

    fn waits(&self, limits: &Limits) -> Waits {
        let own =
            |time: Option<Duration>, name, usual| time.map_or(usual, |time| Wait { time, name });
        let usual = Waits::of(limits);
        let body_silence = own(self.body_silence, "body_silence of its route", usual.body_silence);
        Waits {
            link: own(self.wait_for_link, "wait_for_link of its route", usual.link),
            first_byte: own(self.first_byte, "first_byte of its route", usual.first_byte),
            body_silence,
            response_silence: body_silence,
            half_tunnel: body_silence,
            exchange: own(self.exchange, "exchange of its route", usual.exchange),
            ..usual
        }
    }
}

fn needs_tokens(rates: &Rates, signs_in: bool) -> Option<&'static str> {
    let rate = rates.of_token.map(|_| "a rate_per_token");
    rate.or(signs_in.then_some("a sign-in"))
}

fn edit(
    edits: &mut Option<Arc<FieldEdits>>,
    with: impl FnOnce(FieldEdits) -> Result<FieldEdits, Refusal>,
) -> Result<(), Error> {
    let had = edits.as_deref().cloned().unwrap_or_default();
    *edits = Some(Arc::new(with(had).map_err(|e| Error::usage(e.reason))?));
    Ok(())
}

/// # Errors
/// The gateway writes this field of a request itself.
fn not_written_here(name: &str) -> Result<(), Error> {
    match is_written_by_gateways(name) {
        true => Err(Error::usage(
            "the gateway writes this field itself, so that a device can trust what it says; it cannot be edited",
        )),
        false => Ok(()),
    }
}

fn some_time(name: &str, time: Duration) -> Result<Duration, Error> {
    if time.is_zero() {
        Err(Error::usage(format!("{name} is zero; it must be greater than zero")))
    } else {
        Ok(time)
    }
}

/// The requests it matches: `lamp.example/api`, `*.devices.example`, `/api`.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Any => {}
            Host::Wildcard(suffix) => write!(f, "*.{suffix}")?,
            Host::Exact(host) => f.write_str(host)?,
        }
        match self.path.as_deref() {
            None => Ok(()),
            Some("") => f.write_str("/"),
            Some(path) => f.write_str(path),
        }
    }
}

/// Where a request goes.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it is looked at once, and mostly a device")]
pub(super) enum Found<'a> {
    Device(ToDevice<'a>),
    /// The gateway itself: whether it serves.
    Health,
    /// `/NAME` alone, asked with GET or HEAD.
    AddSlash(String),
    /// The route answers by itself.
    Reply(Reply),
}

/// A device, and the request as it goes there.
#[derive(Debug)]
pub(super) struct ToDevice<'a> {
    pub(super) name: String,
    pub(super) target: Cow<'a, str>,
    /// The prefix that was removed from the path.
    pub(super) prefix: Option<String>,
    /// What the device says of paths gets that back.
    pub(super) rewrites: bool,
    /// How often it may be asked for.
    pub(super) paces: Option<Arc<Paces>>,
    /// Of a route of the table.
    pub(super) terms: Option<Terms>,
}

impl<'a> ToDevice<'a> {
    /// Returns true if this is all that the request's path says, as the path of a device's offer does.
    /// What follows may be the name of a device at a gateway behind this one.
    pub(super) fn names_itself(&self) -> bool {
        let path = path_of(&self.target).trim_matches('/');
        path.is_empty() || path == self.name
    }

    /// The request unchanged.
    fn whole(name: String, to: &Destination<'a>, paces: Option<Arc<Paces>>) -> Self {
        let target = to.target.into();
        ToDevice { name, target, prefix: None, rewrites: false, paces, terms: None }
    }
}

/// Where a visitor signs in.
#[derive(Debug)]
pub(super) struct SignInAt<'a> {
    pub(super) prefix: &'a str,
    /// `None`: the route answers by itself.
    pub(super) device: Option<String>,
}

/// What a route of the table grants a request.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) waits: Waits,
    pub(super) place: Held,
    /// The page that is shown while the device is away.
    pub(super) offline: Option<Arc<Offline>>,
    pub(super) edits: Edits,
}

/// [`Routes`] as a listener has them: indexed for lookups, with the counts of requests in flight.
#[derive(Debug)]
pub(crate) struct Table {
    path: bool,
    rewrites_paths: bool,
    /// Visitors may sign in where no row says so; and anywhere.
    signs_in: bool,
    signs_in_anywhere: bool,
    rates: Rates,
    /// Of requests that no row takes.
    paces: Option<Arc<Paces>>,
    suffixes: Vec<String>,
    exact: HashMap<String, Paths>,
    /// By what stands behind the host's first label and its dot.
    wildcard: HashMap<String, Paths>,
    any: Paths,
    /// Devices that routes name.
    devices: HashSet<String>,
    health: Option<String>,
}

/// The routes of one host, by their paths.
type Paths = Prefixes<Row>;

#[derive(Debug)]
struct Row {
    route: Route,
    paces: Option<Arc<Paces>>,
    /// Requests in flight.
    places: Budget,
}

/// Requests in flight by a route of another table count in the route of the same path here.
fn succeed(paths: &mut Paths, old: &Paths) {
    for (path, row) in paths.iter_mut() {
        if let Some(old) = old.get(path) {
            row.places.succeed(&old.places);
        }
    }
}

impl Table {
    pub(super) fn new(routes: Routes) -> Self {
        let mut table = Table {
            path: routes.path,
            rewrites_paths: routes.rewrites_paths,
            signs_in: routes.signs_in,
            signs_in_anywhere: routes.signs_in || routes.table.values().any(|route| route.signs_in),
            rates: routes.rates,
            paces: routes.rates.paces("this gateway"),
            suffixes: routes.suffixes,
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            any: Paths::default(),
            devices: routes.table.values().filter_map(|route| route.device.clone()).collect(),
            health: routes.health,
        };
        for ((host, path), route) in routes.table {
            let paths = match host {
                Host::Any => &mut table.any,
                Host::Wildcard(suffix) => table.wildcard.entry(suffix).or_default(),
                Host::Exact(host) => table.exact.entry(host).or_default(),
            };
            let places = Budget::new(route.in_flight.unwrap_or(usize::MAX));
            let paces = route.rates.paces(&format!("route {route}"));
            paths.insert(path, Row { route, paces, places });
        }
        table
    }

    /// Takes the place of another table: requests in flight there by a route of the same host and
    /// path count here.
    pub(super) fn succeed(&mut self, old: &Table) {
        succeed(&mut self.any, &old.any);
        for (paths, old) in [(&mut self.exact, &old.exact), (&mut self.wildcard, &old.wildcard)] {
            for (host, paths) in paths {
                old.get(host).into_iter().for_each(|old| succeed(paths, old));
            }
        }
    }

    /// Its routes, as they are written, at most so many.
    #[cfg_attr(not(feature = "admin"), allow(dead_code))]
    pub(super) fn told(&self, most: usize) -> Vec<String> {
        let tables = self.exact.values().chain(self.wildcard.values()).chain([&self.any]);
        let rows = tables.flat_map(Paths::values).map(|row| {
            let by_label = || "(by the host's first label)".to_owned();
            let told = row.route.goal.as_ref().map(Goal::to_string);
            let told = told.or_else(|| row.route.device.clone()).unwrap_or_else(by_label);
            format!("{} -> {told}{}", row.route, row.route.notes())
        });
        let hosts = self.suffixes.iter().map(|suffix| format!("*{suffix} -> (by the host)"));
        let notes = if self.rewrites_paths { " (paths rewritten)" } else { "" };
        let path = self.path.then(|| format!("/NAME/ -> (by the path){notes}"));
        let others = [
            self.signs_in.then(|| "sign-in".to_owned()),
            (!self.rates.are_none()).then(|| self.rates.to_string()),
        ];
        let others: Vec<String> = others.into_iter().flatten().collect();
        let others = (!others.is_empty()).then(|| format!("all others: {}", others.join("; ")));
        rows.chain(hosts).chain(path).chain(others).take(most).collect()
    }

    /// Returns true if a route names this device.
    pub(super) fn names(&self, device: &str) -> bool {
        self.devices.contains(device)
    }

    /// Returns true if a request asks for the gateway's own state.
    pub(super) fn is_health(&self, to: &Destination<'_>) -> bool {
        self.health.as_deref().is_some_and(|path| path == path_of(to.target))
    }

    /// Returns true if the request's route lets preflights through without a token.
    pub(super) fn frees_preflights(&self, to: &Destination<'_>) -> bool {
        to.target != "*" && self.row(to).is_some_and(|row| row.route.frees_preflights)
    }

    /// Returns true if visitors sign in somewhere here.
    pub(super) fn signs_in_anywhere(&self) -> bool {
        self.signs_in_anywhere
    }

    /// Where the visitor of a request may sign in. `None`: nowhere.
    pub(super) fn sign_in<'a>(&'a self, to: &Destination<'a>) -> Option<SignInAt<'a>> {
        if let Some(Row { route, .. }) = self.row(to) {
            let by_label = || to.host.split('.').next().map(str::to_owned);
            let device = match route.goal {
                Some(_) => None,
                None => route.device.clone().or_else(by_label),
            };
            let prefix = route.path.as_deref().unwrap_or_default();
            return route.signs_in.then_some(SignInAt { prefix, device });
        }
        let suffix = self.suffixes.iter().find_map(|suffix| to.host.strip_suffix(suffix.as_str()));
        if let Some(label) = suffix {
            return self.sign_in_of_others(label.to_owned());
        }
        let FirstSegment { segment, .. } = forward::split_first_segment(to.target);
        let prefix = &path_of(to.target)[..segment.len() + 1];
        let is_device = self.path && Name::label(segment).is_ok();
        (is_device && self.signs_in).then(|| SignInAt { prefix, device: Some(segment.to_owned()) })
    }

    /// The same of a device that has its host for itself, and is in no row.
    pub(super) fn sign_in_of_others(&self, device: String) -> Option<SignInAt<'static>> {
        self.signs_in.then_some(SignInAt { prefix: "", device: Some(device) })
    }

    fn row(&self, to: &Destination<'_>) -> Option<&Row> {
        let path = path_of(to.target);
        let suffix = to.host.split_once('.').map(|(_, suffix)| suffix);
        let wildcard = suffix.and_then(|suffix| self.wildcard.get(suffix));
        [self.exact.get(&to.host), wildcard, Some(&self.any)]
            .into_iter()
            .flatten()
            .find_map(|paths| paths.find(path))
    }

    /// Where a request goes.
    ///
    /// # Errors
    /// 404 no route, or a label that can be no device's; 400 a first segment that can be none; 503
    /// as many are in flight as the route allows.
    pub(super) fn find<'a>(
        &self,
        method: &str,
        to: &Destination<'a>,
        limits: &Limits,
    ) -> Result<Found<'a>, Refusal> {
        if let Some(row) = self.row(to) {
            return match row.reply(to) {
                Some(reply) => Ok(Found::Reply(reply)),
                None => row.admit(to, limits).map(Found::Device),
            };
        }
        for suffix in &self.suffixes {
            if let Some(label) = to.host.strip_suffix(suffix.as_str()) {
                let name = Name::label(label).map_err(|e| Refusal::new(404, e.reason))?;
                return Ok(Found::Device(self.whole(name.to_string(), to)));
            }
        }
        match self.path {
            true => self.by_path(method, to),
            false if self.devices.is_empty() && self.wildcard.is_empty() => {
                Err(Refusal::new(404, "no route: no device has this host"))
            }
            false => Err(Refusal::new(404, "no route has this host and path")),
        }
    }

    /// A device that no row names: the request goes on unchanged.
    pub(super) fn whole<'a>(&self, name: String, to: &Destination<'a>) -> ToDevice<'a> {
        ToDevice::whole(name, to, self.paces.clone())
    }

    /// `/NAME/rest`.
    fn by_path<'a>(&self, method: &str, to: &Destination<'a>) -> Result<Found<'a>, Refusal> {
        let FirstSegment { segment, rest, query } = forward::split_first_segment(to.target);
        if segment.is_empty() {
            return Err(Refusal::new(404, "no route: ask for /NAME/..., NAME being a device's"));
        }
        Name::label(segment)?; // as it is written
        if rest.is_empty() && matches!(method, "GET" | "HEAD") {
            return Ok(Found::AddSlash(format!("/{segment}/{query}")));
        }
        let target = if rest.is_empty() { format!("/{query}").into() } else { rest.into() };
        let (name, prefix) = (segment.to_owned(), Some(["/", segment].concat()));
        let (rewrites, paces) = (self.rewrites_paths, self.paces.clone());
        Ok(Found::Device(ToDevice { prefix, rewrites, name, target, paces, terms: None }))
    }
}

impl Row {
    /// What the route answers by itself, where it does.
    fn reply(&self, to: &Destination<'_>) -> Option<Reply> {
        let route = &self.route;
        let goal = route.goal.as_ref()?;
        let path = route.path.as_deref().filter(|_| !route.keeps_prefix);
        let rest = path.and_then(|path| to.target.strip_prefix(path)).unwrap_or(to.target);
        Some(goal.reply(route.status, route.content_type.as_ref(), rest))
    }

    fn admit<'a>(&self, to: &Destination<'a>, limits: &Limits) -> Result<ToDevice<'a>, Refusal> {
        let Row { route, paces, places } = self;
        let name = match &route.device {
            Some(name) => name.clone(),
            None => Name::label(to.host.split('.').next().unwrap_or_default())
                .map_err(|e| Refusal::new(404, e.reason))?
                .to_string(),
        };
        let place = places.one().ok_or_else(|| {
            let most = route.in_flight.unwrap_or(usize::MAX);
            Refusal::new(503, format!("as many requests of route {route} are in flight as its in_flight allows: {most}"))
        })?;
        let (offline, edits) = (route.offline.clone(), route.edits.clone());
        let terms = Some(Terms { waits: route.waits(limits), place, offline, edits });
        let path = route.path.as_deref().filter(|path| !path.is_empty() && !route.keeps_prefix);
        let target = without_prefix(to.target, path.unwrap_or_default());
        let (rewrites, paces) = (route.rewrites, paces.clone());
        Ok(ToDevice { name, target, prefix: path.map(str::to_owned), rewrites, paces, terms })
    }
}

#[cfg(test)]
mod tests;
