//! The device that a visitor's request is routed to: the table of routes, then host suffixes, then
//! paths. Pure data; nothing here moves a byte.
//!
//! ```text
//!   health path ─► registered origins (request_routing.rs) ─► table: exact host ─► *.suffix ─► any host ─► --route host=SUFFIX ─► --route path ─► 404
//!                                              └── of each, the longest path that matches, by whole segments
//! ```
//! A path is compared byte for byte ([`prefixes`](crate::proto::prefixes)).

mod reply;
mod route;
mod table;

use std::collections::BTreeMap;

pub(super) use self::reply::Reply;
pub use self::route::Route;
use self::route::{Host, host_name, needs_tokens};
pub(crate) use self::table::Table;
pub(super) use self::table::{Found, SignInAt, Terms, ToDevice};
use crate::error::Error;
use crate::gateway::rates::{Rate, Rates};
use crate::proto::forwarded::path_prefix;
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
    /// Paths in devices' responses are put below their names.
    rewrites_paths: bool,
    /// Visitors may sign in for requests without a route of the table.
    signs_in: bool,
    /// The rates of requests without a route of the table.
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
    /// `suffix` is not a host name.
    pub fn host(suffix: &str) -> Result<Self, Error> {
        Routes::default().and_host(suffix)
    }

    /// By a table of routes only.
    ///
    /// # Errors
    /// As [`and_route`](Self::and_route).
    pub fn table(routes: impl IntoIterator<Item = Route>) -> Result<Self, Error> {
        routes.into_iter().try_fold(Routes::default(), Routes::and_route)
    }

    /// Also by host; see [`host`](Self::host).
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

    /// Also by path; see [`path`](Self::path).
    #[must_use]
    pub fn and_path(mut self) -> Self {
        self.path = true;
        self
    }

    /// Whether paths in responses to requests [by path](Self::path) are put below the device's
    /// name, as [`Route::rewrite`] does. Default: responses are passed on unchanged.
    #[must_use]
    pub fn rewrite_paths(mut self, rewrite: bool) -> Self {
        self.rewrites_paths = rewrite;
        self
    }

    /// How many requests one visitor's address may send that match no route of the table; see
    /// [`Route::rate`]. Default: any number.
    #[must_use]
    pub fn rate(mut self, rate: Rate) -> Self {
        self.rates.of_address = Some(rate);
        self
    }

    /// The same for one visitor's token. Default: any number.
    #[must_use]
    pub fn rate_per_token(mut self, rate: Rate) -> Self {
        self.rates.of_token = Some(rate);
        self
    }

    /// How many of these requests may come at once. Default: the number of the rate.
    ///
    /// # Errors
    /// As [`Route::burst`].
    pub fn burst(mut self, requests: u32) -> Result<Self, Error> {
        self.rates.set_burst(requests)?;
        Ok(self)
    }

    /// Whether visitors sign in on a page of the gateway for requests that match no route of the
    /// table; see [`Route::sign_in`]. Default: no.
    #[must_use]
    pub fn sign_in(mut self, sign_in: bool) -> Self {
        self.signs_in = sign_in;
        self
    }

    /// A description of the first feature that needs visitors' tokens, if there is one.
    pub(super) fn needs_tokens(&self) -> Option<String> {
        let of_route = self
            .table
            .values()
            .find_map(|route| route.needs_tokens().map(|what| format!("route {route} has {what}")));
        let all = needs_tokens(&self.rates, self.signs_in);
        of_route.or(all.map(|what| format!("the routes have {what}")))
    }

    /// Adds a route.
    ///
    /// # Errors
    /// It has neither a host nor a path; it has no device, no `*.suffix` to take one from, and no
    /// answer of its own; it has a device and an answer, or an answer and an option for devices, or
    /// a status that does not match; its redirect leads to its own path; it rewrites paths but
    /// removes no prefix; it has a burst without a rate, or a sign-in and a path with a semicolon;
    /// another route has the same host and path.
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

    /// A path at which the gateway itself answers GET and HEAD, for load balancers: 200 while it
    /// serves, and 503 from the first moment of a [`drain`](crate::Gateway::drain) on. It takes
    /// precedence over routes, and is compared exactly, ignoring the query and the host. Default:
    /// none.
    ///
    /// # Errors
    /// No path can match: it does not begin with `/`, or has an empty segment, a segment of dots, a
    /// query or a fragment.
    pub fn health_path(mut self, path: &str) -> Result<Self, Error> {
        path_prefix(path).map_err(|why| {
            Error::usage(format!(
                "health path {path:?} ({HEALTH_PATH}): {why}; write it like /health"
            ))
        })?;
        self.health = Some(path.to_owned());
        Ok(self)
    }

    /// The number of routes in the table.
    #[must_use]
    pub fn table_len(&self) -> usize {
        self.table.len()
    }
}

#[cfg(test)]
mod tests;
