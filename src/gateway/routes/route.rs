//! One route of a table: which requests it matches, and what happens to them.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Refusal};
use crate::gateway::rates::{Rate, Rates};
use crate::gateway::routes::reply::{self, Goal, Offline};
use crate::limits::Limits;
use crate::proto::authority::authority;
use crate::proto::edits::{FieldEdits, is_written_by_gateways};
use crate::proto::forwarded::path_prefix;
use crate::proto::turn::Name;
use crate::relay::{Wait, Waits};

/// The hosts of a route. The order is only for [`BTreeMap`].
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Host {
    #[default]
    Any,
    /// The suffix after the first label and its dot.
    Wildcard(String),
    Exact(String),
}

/// One route of a table: a host, a path prefix, or both, and the device that such requests go to.
///
/// An exact host takes precedence over `*.suffix`, that over no host, and a longer path over a
/// shorter one. A device that a route names is *known*: a request waits for it
/// ([`Limits::wait_for_link`]) and then gets 503, even if it was never connected.
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
    pub(super) host: Host,
    /// Without a slash at its end: `/` is empty.
    pub(super) path: Option<String>,
    pub(super) device: Option<String>,
    /// A local answer instead of a device.
    pub(super) goal: Option<Goal>,
    pub(super) status: Option<u16>,
    pub(super) content_type: Option<Arc<str>>,
    pub(super) offline: Option<Arc<Offline>>,
    pub(super) keeps_prefix: bool,
    pub(super) frees_preflights: bool,
    pub(super) rewrites: bool,
    pub(super) signs_in: bool,
    pub(super) edits: Edits,
    pub(super) rates: Rates,
    pub(super) wait_for_link: Option<Duration>,
    pub(super) first_byte: Option<Duration>,
    pub(super) body_silence: Option<Duration>,
    pub(super) exchange: Option<Duration>,
    pub(super) in_flight: Option<usize>,
}

/// Edits of a route to fields of requests to its device, and of the responses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::gateway) struct Edits {
    pub(in crate::gateway) request: Option<Arc<FieldEdits>>,
    pub(in crate::gateway) response: Option<Arc<FieldEdits>>,
}

impl Route {
    /// An empty route.
    #[must_use]
    pub fn new() -> Self {
        Route::default()
    }

    /// Matches this host (`lamp.example`), or every host with one label before a suffix
    /// (`*.devices.example`). Case and port are ignored.
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

    /// Matches paths that begin with these segments: `/api` matches `/api`, `/api/` and `/api/x`,
    /// but not `/apix`; `/` matches all. Paths are compared byte for byte, without decoding, and
    /// case matters.
    ///
    /// # Errors
    /// No path can match: it does not begin with `/`, or has an empty segment, a segment of dots, a
    /// query or a fragment.
    pub fn path(mut self, path: &str) -> Result<Self, Error> {
        let prefix = path_prefix(path)
            .map_err(|why| Error::usage(format!("path {path:?}: {why}; write it like /api")))?;
        self.path = Some(prefix.to_owned());
        Ok(self)
    }

    /// The device: its name, or an origin that it registers. It may be omitted with `*.suffix`: the
    /// label before the suffix is then the name.
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

    /// Instead of a device: answers with a redirect to a URL (`https://new.example/page`), or to a
    /// path of the same host (`/page`), with status 308 unless [`status`](Self::status) sets
    /// another. If it ends with `/*` (`https://new.example/*`), the rest of the request's path
    /// after the route's own, and the query, are appended.
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
    /// It is neither; the route already has an answer.
    pub fn redirect(self, to: &str) -> Result<Self, Error> {
        self.with_goal(Goal::redirect(to)?)
    }

    /// Instead of a device: answers every request with this text and a line end, with status 200
    /// unless [`status`](Self::status) sets another.
    ///
    /// # Errors
    /// It is longer than 64 KiB; the route already has a redirect.
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
    /// It is not a media type.
    pub fn content_type(mut self, value: &str) -> Result<Self, Error> {
        self.content_type = Some(reply::content_type(value)?);
        Ok(self)
    }

    /// The page (`text/html`) that visitors are shown instead of the reason when the device is
    /// away. The status is not changed (503, or 404 for a device that no route names), nor are
    /// `Retry-After` and `Proxy-Status`.
    ///
    /// # Errors
    /// It is longer than 64 KiB.
    pub fn offline_html(mut self, page: &str) -> Result<Self, Error> {
        Arc::make_mut(self.offline.get_or_insert_default()).set_html(page)?;
        Ok(self)
    }

    /// The same in `application/json`, alone or in addition to
    /// [`offline_html`](Self::offline_html). If there are both, visitors get this one if their
    /// `Accept` names JSON and not HTML.
    ///
    /// # Errors
    /// It is longer than 64 KiB.
    pub fn offline_json(mut self, page: &str) -> Result<Self, Error> {
        Arc::make_mut(self.offline.get_or_insert_default()).set_json(page)?;
        Ok(self)
    }

    /// Rejects options for devices together with a local answer, and the reverse.
    pub(super) fn check_goal(&self) -> Result<(), Error> {
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

    /// Whether the path is passed on unchanged. Default: the route's prefix is removed, and sent in
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

    /// Whether the prefix that the route removes is put back into the device's responses: into
    /// `Location`, `Content-Location` and `Refresh`, if they contain a path or a URL of the
    /// visitor's host; and into cookies, which are restricted to paths below the prefix, whatever
    /// `Path` and `Domain` they ask for. Bodies are not changed. Default: no.
    #[must_use]
    pub fn rewrite(mut self, rewrite: bool) -> Self {
        self.rewrites = rewrite;
        self
    }

    /// Sets this field in requests to the device, replacing fields of the same name. It is sent
    /// even if it has an underscore ([`keep_underscore`](crate::GatewayBuilder::keep_underscore)).
    /// Several calls with the same name set several fields.
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
    /// [`FieldEdits::set`] refuses the field; the gateway writes the field itself (`X-Forwarded-*`,
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

    /// Sets this field in the device's responses, replacing fields of the same name. The gateway's
    /// own answers (502, 503, 504) do not get it.
    ///
    /// # Errors
    /// [`FieldEdits::set`] refuses the field.
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

    /// How many requests one visitor's address (IPv6: one /64) may send by this route. It is the
    /// address given by a [trusted proxy](crate::GatewayBuilder::trusted_proxies) or a [PROXY
    /// header](crate::GatewayBuilder::visitors_proxy_protocol), or else that of the connection.
    /// Further requests get 429 with `Retry-After`, and do not reach the device. Requests are
    /// counted for all listeners and event loops together, and the count survives
    /// [`set_routes`](crate::Gateway::set_routes). The health path and [free
    /// preflights](Self::free_preflights) do not count. Default: any number.
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

    /// The same for one visitor's token, alone or in addition to [`rate`](Self::rate). A request
    /// has to pass both; one that is refused counts for neither. Default: any number.
    #[must_use]
    pub fn rate_per_token(mut self, rate: Rate) -> Self {
        self.rates.of_token = Some(rate);
        self
    }

    /// How many requests of an address, or of a token, may come at once; further ones are admitted
    /// at even intervals. Default: the number of the rate.
    ///
    /// # Errors
    /// It is zero, or more than a million.
    pub fn burst(mut self, requests: u32) -> Result<Self, Error> {
        self.rates.set_burst(requests)?;
        Ok(self)
    }

    /// Whether a browser without a visitor's token is shown a page that asks for one, instead of a
    /// plain 401. The form is sent to `/.ptth/sign-in` below the route's path, which never reaches
    /// a device. A valid token becomes a cookie of the gateway for paths below the route's path,
    /// valid for [`Limits::sign_in_timeout`]. The device never sees this cookie, and cannot set it.
    /// Programs (without `text/html` in `Accept`) get the plain 401. Default: no.
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

    /// Returns true if the route needs visitors' tokens (for a rate per token, or a sign-in), so
    /// that a gateway without them refuses it.
    #[must_use]
    pub fn needs_visitor_tokens(&self) -> bool {
        self.needs_tokens().is_some()
    }

    pub(super) fn needs_tokens(&self) -> Option<&'static str> {
        needs_tokens(&self.rates, self.signs_in)
    }

    /// Replaces [`Limits::wait_for_link`] for this route; zero: a request does not wait.
    #[must_use]
    pub fn wait_for_link(mut self, time: Duration) -> Self {
        self.wait_for_link = Some(time);
        self
    }

    /// Replaces [`Limits::first_byte_timeout`] for this route.
    ///
    /// # Errors
    /// It is zero.
    pub fn first_byte(mut self, time: Duration) -> Result<Self, Error> {
        self.first_byte = Some(some_time("first_byte", time)?);
        Ok(self)
    }

    /// Replaces [`Limits::body_silence_timeout`] for this route.
    ///
    /// # Errors
    /// It is zero.
    pub fn body_silence(mut self, time: Duration) -> Result<Self, Error> {
        self.body_silence = Some(some_time("body_silence", time)?);
        Ok(self)
    }

    /// Replaces [`Limits::exchange_timeout`] for this route; zero: no such timeout.
    #[must_use]
    pub fn exchange(mut self, time: Duration) -> Self {
        self.exchange = Some(time);
        self
    }

    /// The maximum number of requests of this route at once at one listener, including those that
    /// wait for a link. Further ones get 503 with `Retry-After: 1`. Default: no separate maximum.
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
    pub(super) fn notes(&self) -> String {
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

    pub(super) fn waits(&self, limits: &Limits) -> Waits {
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

/// Labels of letters, digits and hyphens, in lower case, without a dot at the end.
pub(super) fn host_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label = |l: &str| {
        !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    (name.len() <= 253 && name.split('.').all(label)).then_some(name)
}

pub(super) fn needs_tokens(rates: &Rates, signs_in: bool) -> Option<&'static str> {
    let rate = rates.of_token.map(|_| "a rate_per_token");
    rate.or(signs_in.then_some("a sign-in"))
}
