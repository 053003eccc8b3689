//! [`Routes`] as a listener uses them: indexed for lookups, with the number of requests in flight
//! for each route.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::engine::budget::{Budget, Held};
use crate::error::Refusal;
use crate::gateway::rates::{Paces, Rates};
use crate::gateway::routes::Routes;
use crate::gateway::routes::reply::{Goal, Offline, Reply};
use crate::gateway::routes::route::{Edits, Host, Route};
use crate::limits::Limits;
use crate::proto::forward::{self, Destination, FirstSegment};
use crate::proto::prefixes::{Prefixes, path_of, without_prefix};
use crate::proto::turn::Name;
use crate::relay::Waits;

/// The destination of a request.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it is used at once, and mostly a device")]
pub(in crate::gateway) enum Found<'a> {
    Device(ToDevice<'a>),
    /// The health check of the gateway itself.
    Health,
    /// `/NAME` without a slash, with GET or HEAD.
    AddSlash(String),
    /// A local answer of the route.
    Reply(Reply),
}

/// A device, and the request as it is forwarded.
#[derive(Debug)]
pub(in crate::gateway) struct ToDevice<'a> {
    pub(in crate::gateway) name: Arc<str>,
    pub(in crate::gateway) target: Cow<'a, str>,
    /// The prefix that was removed from the path.
    pub(in crate::gateway) prefix: Option<Cow<'a, str>>,
    /// The prefix is put back into paths in the device's responses.
    pub(in crate::gateway) rewrites: bool,
    /// The rates for its requests.
    pub(in crate::gateway) paces: Option<Arc<Paces>>,
    /// The terms of a route of the table.
    pub(in crate::gateway) terms: Option<Terms>,
}

impl<'a> ToDevice<'a> {
    /// Returns true if the path contains only the device's name, as in a device's offer. A further
    /// segment may be the name of a device at a gateway behind this one.
    pub(in crate::gateway) fn names_itself(&self) -> bool {
        let path = path_of(&self.target).trim_matches('/');
        path.is_empty() || path == &*self.name
    }

    /// The request unchanged.
    fn whole(name: Arc<str>, to: &Destination<'a>, paces: Option<Arc<Paces>>) -> Self {
        let target = to.target.into();
        ToDevice { name, target, prefix: None, rewrites: false, paces, terms: None }
    }
}

/// Where a visitor signs in.
#[derive(Debug)]
pub(in crate::gateway) struct SignInAt<'a> {
    pub(in crate::gateway) prefix: &'a str,
    /// `None` if the route has a local answer.
    pub(in crate::gateway) device: Option<String>,
}

/// The terms of a route of the table for a request.
#[derive(Debug)]
pub(in crate::gateway) struct Terms {
    pub(in crate::gateway) waits: Waits,
    /// Counts it among the requests of its route.
    pub(in crate::gateway) in_flight: Held,
    /// The page that is shown while the device is away.
    pub(in crate::gateway) offline: Option<Arc<Offline>>,
    pub(in crate::gateway) edits: Edits,
}

/// [`Routes`] as a listener has them: indexed for lookups, with the counts of requests in flight.
#[derive(Debug)]
pub(crate) struct Table {
    path: bool,
    rewrites_paths: bool,
    /// Visitors may sign in for requests without a row.
    signs_in: bool,
    signs_in_anywhere: bool,
    rates: Rates,
    /// The rates of requests without a row.
    paces: Option<Arc<Paces>>,
    suffixes: Vec<String>,
    exact: HashMap<String, Paths>,
    /// By the suffix after the host's first label and its dot.
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
    in_flight: Budget,
}

/// Requests in flight by a route of another table count in the route of the same path here.
fn succeed(paths: &mut Paths, old: &Paths) {
    for (path, row) in paths.iter_mut() {
        if let Some(old) = old.get(path) {
            row.in_flight.succeed(&old.in_flight);
        }
    }
}

impl Table {
    pub(in crate::gateway) fn new(routes: Routes) -> Self {
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
            let in_flight = Budget::new(route.in_flight.unwrap_or(usize::MAX));
            let paces = route.rates.paces(&format!("route {route}"));
            paths.insert(path, Row { route, paces, in_flight });
        }
        table
    }

    /// Replaces another table: requests in flight of a route with the same host and path are
    /// counted here.
    pub(in crate::gateway) fn succeed(&mut self, old: &Table) {
        succeed(&mut self.any, &old.any);
        for (paths, old) in [(&mut self.exact, &old.exact), (&mut self.wildcard, &old.wildcard)] {
            for (host, paths) in paths {
                old.get(host).into_iter().for_each(|old| succeed(paths, old));
            }
        }
    }

    /// Its routes, as they are written, at most `most` of them.
    #[cfg_attr(not(feature = "admin"), allow(dead_code))]
    pub(in crate::gateway) fn told(&self, most: usize) -> Vec<String> {
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
    pub(in crate::gateway) fn names(&self, device: &str) -> bool {
        self.devices.contains(device)
    }

    /// Returns true if a request asks for the gateway's own state.
    pub(in crate::gateway) fn is_health(&self, to: &Destination<'_>) -> bool {
        self.health.as_deref().is_some_and(|path| path == path_of(to.target))
    }

    /// Returns true if the request's route lets preflights through without a token.
    pub(in crate::gateway) fn frees_preflights(&self, to: &Destination<'_>) -> bool {
        to.target != "*" && self.row(to).is_some_and(|row| row.route.frees_preflights)
    }

    /// Returns true if visitors sign in somewhere here.
    pub(in crate::gateway) fn signs_in_anywhere(&self) -> bool {
        self.signs_in_anywhere
    }

    /// The place at which the visitor of a request may sign in, if any.
    pub(in crate::gateway) fn sign_in<'a>(&'a self, to: &Destination<'a>) -> Option<SignInAt<'a>> {
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

    /// The same for a device with its own host and no row.
    pub(in crate::gateway) fn sign_in_of_others(
        &self,
        device: String,
    ) -> Option<SignInAt<'static>> {
        self.signs_in.then_some(SignInAt { prefix: "", device: Some(device) })
    }

    fn row(&self, to: &Destination<'_>) -> Option<&Row> {
        let path = path_of(to.target);
        let wildcard = match self.wildcard.is_empty() {
            true => None,
            false => to.host.split_once('.').and_then(|(_, suffix)| self.wildcard.get(suffix)),
        };
        [self.exact.get(&to.host), wildcard, Some(&self.any)]
            .into_iter()
            .flatten()
            .find_map(|paths| paths.find(path))
    }

    /// Finds the destination of a request.
    ///
    /// # Errors
    /// 404 no route, or a label that can be no device's; 400 a first segment that can be none; 503
    /// as many are in flight as the route allows.
    pub(in crate::gateway) fn find<'a>(
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
                return Ok(Found::Device(self.whole(name.to_string().into(), to)));
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

    /// A device without a row: the request is forwarded unchanged.
    pub(in crate::gateway) fn whole<'a>(
        &self,
        name: Arc<str>,
        to: &Destination<'a>,
    ) -> ToDevice<'a> {
        ToDevice::whole(name, to, self.paces.clone())
    }

    /// `/NAME/rest`.
    fn by_path<'a>(&self, method: &str, to: &Destination<'a>) -> Result<Found<'a>, Refusal> {
        let FirstSegment { segment, rest, query } = forward::split_first_segment(to.target);
        if segment.is_empty() {
            return Err(Refusal::new(404, "no route: ask for /NAME/..., NAME being a device's"));
        }
        Name::label(segment)?; // without decoding
        if rest.is_empty() && matches!(method, "GET" | "HEAD") {
            return Ok(Found::AddSlash(format!("/{segment}/{query}")));
        }
        let target = if rest.is_empty() { format!("/{query}").into() } else { rest.into() };
        let (name, prefix) = (segment.into(), Some(to.target[..segment.len() + 1].into()));
        let (rewrites, paces) = (self.rewrites_paths, self.paces.clone());
        Ok(Found::Device(ToDevice { prefix, rewrites, name, target, paces, terms: None }))
    }
}

impl Row {
    /// The local answer of the route, if it has one.
    fn reply(&self, to: &Destination<'_>) -> Option<Reply> {
        let route = &self.route;
        let goal = route.goal.as_ref()?;
        let path = route.path.as_deref().filter(|_| !route.keeps_prefix);
        let rest = path.and_then(|path| to.target.strip_prefix(path)).unwrap_or(to.target);
        Some(goal.reply(route.status, route.content_type.as_ref(), rest))
    }

    fn admit<'a>(&self, to: &Destination<'a>, limits: &Limits) -> Result<ToDevice<'a>, Refusal> {
        let Row { route, paces, in_flight } = self;
        let name = match &route.device {
            Some(name) => name.clone(),
            None => Name::label(to.host.split('.').next().unwrap_or_default())
                .map_err(|e| Refusal::new(404, e.reason))?
                .to_string(),
        };
        let in_flight = in_flight.one().ok_or_else(|| {
            let most = route.in_flight.unwrap_or(usize::MAX);
            Refusal::new(503, format!("as many requests of route {route} are in flight as its in_flight allows: {most}"))
        })?;
        let (offline, edits) = (route.offline.clone(), route.edits.clone());
        let terms = Some(Terms { waits: route.waits(limits), in_flight, offline, edits });
        let path = route.path.as_deref().filter(|path| !path.is_empty() && !route.keeps_prefix);
        let target = without_prefix(to.target, path.unwrap_or_default());
        let (rewrites, paces) = (route.rewrites, paces.clone());
        let prefix = path.map(|path| path.to_owned().into());
        Ok(ToDevice { name: name.into(), target, prefix, rewrites, paces, terms })
    }
}
