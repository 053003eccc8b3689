//! Layer 5, the upstream side: a [`Device`] dials a gateway, turns the connection, and answers what
//! comes.
//!
//! One thread runs the event loop; handlers are plain blocking code on worker threads, which exist
//! only while there is work.
//!
//! # Order of files
//! Each names only those above it. Up to `plan.rs` files have data and rules of their own; from
//! `role.rs` on each adds the part of the event loop's state that it is named for.
//!
//! | file | what it has |
//! |---|---|
//! | `backoff.rs` | pauses between attempts, `Retry-After` |
//! | `burst.rs` | how many dials may wait for their answers |
//! | `demand.rs` | how many links and polls beyond MIN are wanted |
//! | `doubt.rs` | whether turned connections carry anything |
//! | `events.rs` | what a device tells its program |
//! | `files.rs` | a directory's files (`files/beneath.rs` opens them) |
//! | `link.rs` | a turned connection, as the loop knows it |
//! | `mode.rs` | links or polls, with or without the offer of an upgrade |
//! | `no_proxy.rs` | hosts that are dialled without a proxy |
//! | `pool.rs` | connections to the local server |
//! | `reply.rs` | a reply of the fallback, while its body arrives |
//! | `stopping.rs` | how the holder of an upgraded stream hears of its end |
//! | `url.rs` | the URL of a gateway, and how far away an address is |
//! | `answer.rs` | an event in hand and its answer |
//! | `counters.rs` | what loop and workers count |
//! | `gateways.rs` | the gateways in their order |
//! | `redirects.rs` | where a gateway may send the device |
//! | `target.rs` | the local server, and requests for it |
//! | `dial.rs` | a connection on its way to be a link, or one that polls |
//! | `slots.rs` | the state of one poll |
//! | `lookups.rs` | names that are being looked up |
//! | `command.rs` | what other threads ask of the loop |
//! | `races.rs` | one connection out of several addresses |
//! | `group.rs` | how several loops end together |
//! | `lease.rs` | a link in the hands of program code |
//! | `state.rs` | what the device keeps for a connection |
//! | `proxy.rs` | the CONNECT of a proxy and its answer |
//! | `upgrade.rs` | what a handler does behind a 101 |
//! | `worker.rs` | answers with a handler |
//! | `plan.rs` | what a loop goes by |
//! | `role.rs` | the loop's state, and what it tells |
//! | `dialing.rs` | what is dialled and when; failures |
//! | `doubts.rs` | polls beside links that never carried anything |
//! | `forward.rs` | requests to the local server |
//! | `links.rs` | the life of a link |
//! | `locals.rs` | who gets which local connection |
//! | `offers.rs` | an offer, its verdict, and what follows |
//! | `race.rs` | connecting |
//! | `resolve.rs` | look-ups |
//! | `simulated.rs` | a device for the simulation |
//! | `tunnel.rs` | CONNECT as a stage of the dial |
//! | `answers.rs` | events, the virtual links and the POSTs of their answers |
//! | `event_loop.rs` | what the loop's events, deadlines and commands lead to |
//! | `suspicions.rs` | signs that an `Upgrade` does not get through |
//! | `polls.rs` | which polls there are, and what their replies mean |

mod answer;
mod answers;
mod backoff;
mod burst;
mod command;
mod counters;
mod demand;
mod dial;
mod dialing;
mod doubt;
mod doubts;
mod event_loop;
mod events;
#[cfg(feature = "files")]
mod files;
mod forward;
mod gateways;
mod group;
mod lease;
mod link;
mod links;
mod locals;
mod lookups;
mod mode;
mod no_proxy;
mod offers;
mod plan;
mod polls;
mod pool;
mod proxy;
mod race;
mod races;
mod redirects;
mod reply;
mod resolve;
mod role;
#[cfg(test)]
pub(crate) mod simulated;
mod slots;
mod state;
mod stopping;
mod suspicions;
mod target;
mod tunnel;
mod upgrade;
mod url;
mod worker;

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::ops::{Range, RangeInclusive};
use std::os::fd::{AsFd, BorrowedFd};
#[cfg(feature = "files")]
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use http::{Request, Response, StatusCode};

use crate::close_reason::EndCounts;
use crate::device::command::Command;
use crate::device::counters::Counters;
use crate::device::gateways::{GatewayList, GatewayTarget};
use crate::device::group::LoopGroup;
use crate::device::lease::{Busy, CLOSED, Lease, Ticket};
use crate::device::plan::{Plan, Service};
use crate::device::polls::can_poll;
use crate::device::proxy::Proxy;
use crate::device::redirects::RedirectHosts;
use crate::device::role::DeviceRole;
use crate::device::target::Target;
use crate::device::url::Url;
use crate::engine::event_loop::EventLoop;
use crate::engine::random;
use crate::error::{Error, Fault};
use crate::limits::Limits;
use crate::link::DeviceLink;
use crate::message::Body;
use crate::proto::template;
use crate::proto::turn::{self, Dialect, Encoding, Fallback, Name, Naming, OfferPlan, Transport};
use crate::stream::{Shared, Stream, TimedStream};
#[cfg(feature = "tls")]
use crate::tls::{DeviceTls, LocalTls};

pub use events::{DeviceEvent, DeviceEventKind};
pub use plan::OnRefusal;
pub use stopping::Stopping;
pub use upgrade::{Upgraded, upgrade};

/// Counters of a device, over all its gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceStats {
    /// How the first of its gateways that reaches the device does so now; `None`: none does.
    pub transport: Option<Transport>,
    /// Turned connections now.
    pub links: usize,
    /// Polls of the fallback now, those with a request in progress included.
    pub polls: usize,
    /// Links with a request in progress.
    pub busy: usize,
    /// Connections on their way to be links.
    pub dialing: usize,
    /// Requests taken since the start.
    pub exchanges: usize,
    /// Links that ended since the start, by reason.
    pub ends: EndCounts,
}

/// Sets a [`Device`] up.
pub struct DeviceBuilder {
    url: String,
    others: Vec<String>,
    failover: bool,
    proxy: Option<String>,
    proxy_credentials: Option<(String, String)>,
    no_proxy: String,
    redirect_hosts: Vec<String>,
    max_retries: Option<u32>,
    links: RangeInclusive<usize>,
    dialect: Dialect,
    origins: Vec<String>,
    limits: Limits,
    token: Option<String>,
    fields: Vec<(String, String)>,
    on_refusal: OnRefusal,
    host_header: Option<String>,
    whole_target: bool,
    fallback: Fallback,
    polls: RangeInclusive<usize>,
    comet: Option<Encoding>,
    #[cfg(feature = "tls")]
    tls: Option<DeviceTls>,
    #[cfg(feature = "tls")]
    local_tls: Option<LocalTls>,
}

impl fmt::Debug for DeviceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceBuilder")
            .field("links", &self.links)
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}

impl DeviceBuilder {
    /// Sends `Authorization: Bearer TOKEN` with the offer, to the gateways' own origins only.
    pub fn bearer_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }
    /// Another gateway, where this device is reached, too: it has links to all of them at once,
    /// MIN..MAX to each, with a back-off and a fallback for each. May be called several times; 16
    /// gateways at most. The token and the fields go to each of them.
    pub fn gateway(mut self, url: impl Into<String>) -> Self {
        self.others.push(url.into());
        self
    }
    /// Several gateways one at a time, in their order, instead of all at once: the next when an
    /// attempt at the current one fails, after the last one a pause, and when the way in is lost
    /// the first again. Default off.
    pub fn failover(mut self, failover: bool) -> Self {
        self.failover = failover;
        self
    }
    /// A proxy that everything is dialled through, by CONNECT: `http://HOST:PORT` (1080 unless
    /// given). Default none; the environment is not read.
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.proxy = Some(url.into());
        self
    }
    /// User and password for the proxy (`Proxy-Authorization: Basic`). They are never logged.
    pub fn proxy_credentials(
        mut self,
        user: impl Into<String>,
        password: impl Into<String>,
    ) -> Self {
        self.proxy_credentials = Some((user.into(), password.into()));
        self
    }
    /// Hosts that are dialled without the proxy, as curl reads `no_proxy`: names, with all names
    /// below them, addresses and networks, separated by commas; `*` for all. An entry that ends in
    /// `:PORT` is for that port alone.
    pub fn no_proxy(mut self, hosts: impl Into<String>) -> Self {
        self.no_proxy = hosts.into();
        self
    }
    /// A host that a gateway may redirect this device to (307 and 308), beside those of its own
    /// gateways: `gw2.example`, `*.gw.example` for all names below it, an address, a network like
    /// `10.0.0.0/8`, or `*` for any; in its default port or one above 1023, or with `:PORT` in that
    /// one. May be called several times. Never does a redirect lead to a loopback or link-local
    /// address from a gateway that is farther away.
    pub fn redirect_host(mut self, host: impl Into<String>) -> Self {
        self.redirect_hosts.push(host.into());
        self
    }
    /// Ends the device ([`Error::is_not_connected`]) after so many failed attempts in a row without
    /// a way in; with several gateways, when that is so at each of them. A link that ended within a
    /// second, unused, is a failed attempt, too. Default: it never gives up.
    pub fn max_retries(mut self, attempts: u32) -> Self {
        self.max_retries = Some(attempts);
        self
    }
    /// Idle links wanted, and links in all, pending dials counted. Default `1..=128`. A link carries
    /// one request at a time; more are dialled when links get busy, and as many at once as the
    /// gateway says that callers wait. What the last minute did not need goes back
    /// ([`Limits::demand_window`]).
    pub fn links(mut self, links: RangeInclusive<usize>) -> Self {
        self.links = links;
        self
    }
    /// Whether to poll where no connection turns (the COMET fallback). Default [`Fallback::Auto`]:
    /// each reply of the gateway decides, at no cost where connections turn. An IETF offer
    /// ([`Dialect::ietf`]) cannot poll: with it `Auto` counts as `Never`.
    pub fn fallback(mut self, fallback: Fallback) -> Self {
        self.fallback = fallback;
        self
    }
    /// Polls in parallel where the gateway falls back, and polls in all where it says that callers
    /// wait; each takes one request at a time. Within 1 to 64, default `2..=64`.
    pub fn polls(mut self, polls: RangeInclusive<usize>) -> Self {
        self.polls = polls;
        self
    }
    /// The one encoding of the fallback that is asked for. Default: both, `message/http` before
    /// JSON (feature `comet`).
    pub fn comet(mut self, encoding: Encoding) -> Self {
        self.comet = Some(encoding);
        self
    }
    /// The dialect of the offer. Default [`Dialect::classic`], `PTTH/1.0`.
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }
    /// An origin to register with an IETF offer ([`Dialect::ietf`]), like `https://lamp.example`.
    /// May be called several times. Offers go to `/.well-known/ptth/{serialized_origin}/`, or where
    /// the gateway's URL says by a template of RFC 6570:
    /// `https://gw.example/ptth{?serialized_origin}`.
    pub fn origin(mut self, origin: impl Into<String>) -> Self {
        self.origins.push(origin.into());
        self
    }
    /// Another field of the offer, sent to the gateways' own origins only.
    pub fn field(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }
    /// How the gateway of an `https` URL is known, and what is shown to it (feature `tls`).
    /// Default: by the system's roots, nothing is shown.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: DeviceTls) -> Self {
        self.tls = Some(tls);
        self
    }
    /// For [`Device::forward_to`] a server at `https://`: how that is known (feature `tls`).
    /// Default: by the system's roots.
    #[cfg(feature = "tls")]
    pub fn local_tls(mut self, tls: LocalTls) -> Self {
        self.local_tls = Some(tls);
        self
    }
    /// Bounds and timeouts, the back-off among them.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
    /// Pauses between attempts: the first, and the longest. Default 1 s to 60 s, with full jitter.
    pub fn backoff(mut self, pauses: Range<Duration>) -> Self {
        (self.limits.backoff_min, self.limits.backoff_max) = (pauses.start, pauses.end);
        self
    }
    /// What a refusal of the first offer ever does. Default: come back later.
    pub fn on_refusal(mut self, what: OnRefusal) -> Self {
        self.on_refusal = what;
        self
    }
    /// For [`Device::forward_to`]: this `Host` instead of the visitor's.
    pub fn host_header(mut self, host: impl Into<String>) -> Self {
        self.host_header = Some(host.into());
        self
    }

    /// Takes gateway URLs with more than a name, like `http://gw.example/message-queue?id=iamsam`:
    /// path and query go into the offer as they are, and the first segment is the device's name.
    /// Gateways of other makes may know devices by them; ours goes by the first segment alone.
    /// Default off: such a URL is mostly a mistake, and is refused.
    pub fn whole_target(mut self, take: bool) -> Self {
        self.whole_target = take;
        self
    }

    /// Checks everything; dials nothing yet.
    ///
    /// # Errors
    /// A URL that is not `http://HOST[:PORT][/NAME]` (or `https`, with the feature `tls`) or holds
    /// a secret, one that is given twice or more than 16, a system without root certificates, a
    /// name that is no DNS label, links or polls that are not `1 <= MIN <= MAX`, more than 64 polls,
    /// a limit or field that cannot work, an IETF offer without an origin or with
    /// [`Fallback::Only`], JSON in a build without the feature `comet`; credentials without a
    /// proxy, a redirect host that is invalid, no retries at all; settings of TLS where no URL is
    /// `https`.
    pub fn build(self) -> Result<Device, Error> {
        self.limits.check()?;
        let (min, max) = (*self.links.start(), *self.links.end());
        if min == 0 || min > max || max > LINKS_CEILING {
            return Err(Error::usage(format!(
                "links {min}..{max}: it takes 1 <= MIN <= MAX <= {LINKS_CEILING}"
            )));
        }
        if self.max_retries == Some(0) {
            return Err(Error::usage(
                "max retries 0: the device would never dial; omit it, or give 1 or more",
            ));
        }
        let fallback = self.check_fallback()?;
        let (proxy, homes) = (self.check_proxy()?, self.check_gateways()?);
        let redirects =
            RedirectHosts::new(homes.iter().map(|home| &*home.url), &self.redirect_hosts)?;
        #[cfg(feature = "tls")]
        let tls = match (homes.iter().any(|home| home.url.secure), self.tls) {
            (true, tls) => Some(Arc::new(tls.unwrap_or_default().connector()?)),
            (false, None) => None,
            (false, Some(_)) => {
                return Err(Error::usage(
                    "TLS settings are given, and no gateway's URL begins with https://; write https:// or omit them",
                ));
            }
        };
        #[cfg(not(feature = "tls"))]
        let tls = None;
        let mut session = [0; 16];
        random::fill(&mut session).map_err(|e| {
            Error::io(Fault::Network, "drawing a session id", io::Error::other(e.to_string()))
        })?;
        let first = homes.first().map_or(("", ""), |home| (&home.url.authority, &home.url.target));
        let mut offer = OfferPlan::new(first.0, first.1, self.dialect);
        offer.session = Some(session);
        offer.upgrade = fallback != Fallback::Only;
        offer.accept = accepted(fallback, self.comet).map(Into::into);
        let mut secrets = self.fields;
        if let Some(token) = self.token {
            secrets.push(("Authorization".to_owned(), format!("Bearer {token}")));
        }
        let mut whole = offer.clone();
        whole.fields.extend(secrets.iter().cloned());
        turn::write_offer(&mut Vec::new(), &whole)
            .map_err(|e| Error::usage(format!("the offer cannot be written: {}", e.reason)))?;
        let plan = |homes: GatewayList| Plan {
            homes,
            tls: tls.clone(),
            offer: offer.clone(),
            secrets: secrets.clone(),
            on_refusal: self.on_refusal,
            redirects: redirects.clone(),
            proxy: proxy.clone(),
            max_retries: self.max_retries,
            fallback,
            polls: self.polls.clone(),
            encoding: self.comet.unwrap_or(Encoding::Message),
        };
        let groups = if self.failover {
            vec![homes]
        } else {
            homes.into_iter().map(|home| vec![home]).collect()
        };
        let members = groups
            .into_iter()
            .filter_map(GatewayList::new)
            .map(|homes| (plan(homes), Arc::new(Counters::new(self.links.clone()))))
            .collect();
        let (events, events_out) = bounded(self.limits.events_max);
        let parts = Parts {
            members,
            events,
            host_header: self.host_header,
            #[cfg(feature = "tls")]
            local_tls: self.local_tls,
        };
        Ok(Device {
            link_limits: Arc::new(self.limits.with_room()),
            limits: Arc::new(self.limits),
            parts: Mutex::new(Some(parts)),
            events: events_out,
            queue: OnceLock::new(),
            starting: Mutex::new(()),
        })
    }

    /// The gateways' URLs, each with the name that it will know this device by.
    fn check_gateways(&self) -> Result<Vec<GatewayTarget>, Error> {
        let mut homes: Vec<GatewayTarget> = Vec::new();
        for text in std::iter::once(&self.url).chain(&self.others) {
            let mut url = Url::parse(text, "gateway")?;
            let name = match self.dialect.naming {
                Naming::Origins => self.register_origins(&mut url)?,
                _ => path_name(&url, self.whole_target)?,
            };
            if homes.iter().any(|home| home.url.same_origin(&url) && home.url.target == url.target)
            {
                return Err(Error::usage(format!("gateway URL {}: it is given twice", url.text)));
            }
            homes.push(GatewayTarget { url: Arc::new(url), name: name.to_string() });
        }
        if homes.len() > GATEWAYS_CEILING {
            return Err(Error::usage(format!(
                "{} gateways: it takes {GATEWAYS_CEILING} at most",
                homes.len()
            )));
        }
        Ok(homes)
    }

    /// Sets an IETF offer's path; the first origin.
    fn register_origins(&self, url: &mut Url) -> Result<Name, Error> {
        let mut names = Vec::new();
        for origin in &self.origins {
            names.push(
                Name::origin(origin)
                    .map_err(|e| Error::usage(format!("origin {origin}: {}", e.reason)))?,
            );
        }
        let needed = || {
            Error::usage(
                "an IETF offer registers origins: name at least one (--origin), like https://lamp.example",
            )
        };
        let own = turn::origins_of_path(&url.target).ok();
        if names.is_empty() {
            names = own.clone().ok_or_else(needed)?;
        }
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        let wrong = |why: &str| Error::usage(format!("gateway URL {}: {why}", url.text));
        let target = match own {
            _ if url.target == "/" => turn::ietf_target(&names),
            _ if template::is_template(&url.target) => {
                template::expand(&url.target, &names).map_err(|e| wrong(&e.reason))?
            }
            Some(own) if own == sorted => url.target.clone(),
            Some(_) => {
                return Err(wrong(
                    "its path registers other origins than those that are given beside it (--origin)",
                ));
            }
            None => {
                return Err(wrong(
                    "with an IETF offer (--dialect ptth) its path has to say where the origins go, as in /ptth{?serialized_origin}; \
                     without a path they go to /.well-known/ptth/{serialized_origin}/",
                ));
            }
        };
        url.target = target;
        names.into_iter().next().ok_or_else(needed)
    }

    fn check_proxy(&self) -> Result<Option<Proxy>, Error> {
        match &self.proxy {
            Some(url) => Proxy::new(url, self.proxy_credentials.as_ref(), &self.no_proxy).map(Some),
            None if self.proxy_credentials.is_some() => {
                Err(Error::usage("credentials for a proxy, but there is no proxy"))
            }
            None => Ok(None),
        }
    }

    /// How this device may fall back, if its offers can be polls at all.
    fn check_fallback(&self) -> Result<Fallback, Error> {
        let (min, max) = (*self.polls.start(), *self.polls.end());
        if min == 0 || min > max || max > POLLS_CEILING {
            return Err(Error::usage(format!(
                "polls {min}..{max}: it takes 1 <= MIN <= MAX <= {POLLS_CEILING}"
            )));
        }
        if self.comet == Some(Encoding::Json) && !HAS_JSON {
            return Err(Error::usage(
                "this build has no JSON (feature comet); poll in message/http",
            ));
        }
        match self.fallback {
            fallback if can_poll(&self.dialect) => Ok(fallback),
            Fallback::Only => Err(Error::usage(
                "a device with this protocol cannot poll (fallback only); choose PTTH/1.0, or let its connections turn",
            )),
            _ => Ok(Fallback::Never),
        }
    }
}

/// `Accept` of offers and polls.
fn accepted(fallback: Fallback, only: Option<Encoding>) -> Option<&'static str> {
    match only {
        _ if fallback == Fallback::Never => None,
        Some(encoding) => Some(encoding.media_type()),
        None if HAS_JSON => Some("message/http, application/json"),
        None => Some(Encoding::Message.media_type()),
    }
}

/// More links than this no device needs, and no gateway's default takes.
const LINKS_CEILING: usize = 1024;
/// More gateways than this are a mistake.
const GATEWAYS_CEILING: usize = 16;
/// More polls in parallel than this are no fallback any more.
const POLLS_CEILING: usize = 64;
const HAS_JSON: bool = cfg!(feature = "comet");

fn path_name(url: &Url, whole_target: bool) -> Result<Name, Error> {
    let path = url.target.split('?').next().unwrap_or("/");
    if !whole_target && (path.len() < url.target.len() || path.matches('/').count() > 1) {
        return Err(Error::usage(format!(
            "gateway URL {}: its path is the device's name alone, as in http://gw.example/lamp; a gateway that wants more is given it with whole_target",
            url.text
        )));
    }
    let segment = path.strip_prefix('/').unwrap_or(path).split('/').next().unwrap_or("");
    let name = if path == "/" { "default" } else { segment };
    Name::label(name).map_err(|e| {
        Error::usage(format!("gateway URL {}: the device's name {name:?}: {}", url.text, e.reason))
    })
}

/// Whether this URL's host is one of those that `no_proxy` names, in [`DeviceBuilder::no_proxy`]'s
/// reading: it is dialled without a proxy. A text that is no URL is not.
///
/// ```
/// assert!(reverse_http::device::goes_without_proxy("http://gw.example:9999/lamp", "localhost,.example"));
/// ```
pub fn goes_without_proxy(url: &str, no_proxy: &str) -> bool {
    Url::parse(url, "gateway")
        .is_ok_and(|url| no_proxy::Exceptions::parse(no_proxy).has(&url.host, url.port))
}

struct Parts {
    /// One event loop each.
    members: Vec<(Plan, Arc<Counters>)>,
    events: Sender<DeviceEvent>,
    host_header: Option<String>,
    #[cfg(feature = "tls")]
    local_tls: Option<LocalTls>,
}

impl Parts {
    /// The local server at this URL.
    fn target(&self, url: &str) -> Result<Target, Error> {
        #[cfg(feature = "tls")]
        let knowing = (self.local_tls.is_some(), &|| {
            self.local_tls.clone().unwrap_or_default().connector().map(Arc::new)
        });
        #[cfg(not(feature = "tls"))]
        let knowing = (false, &|| Err(Error::usage("this build has no TLS (feature tls)")));
        Target::parse(url, self.host_header.clone(), (knowing.0, knowing.1))
    }
}

/// A device that is set up. One of [`serve`](Device::serve), [`spawn`](Device::spawn),
/// [`recv`](Device::recv), [`listen`](Device::listen), [`forward_to`](Device::forward_to) and
/// (feature `files`) `serve_dir` starts it.
///
/// ```no_run
/// use reverse_http::{Body, Device};
/// let device = Device::builder("http://gw.example:9999/lamp").links(1..=8).build()?;
/// device.serve(|request| http::Response::new(Body::from(format!("you asked for {}\n", request.uri()))))?; // blocks
/// # Ok::<(), reverse_http::Error>(())
/// ```
pub struct Device {
    limits: Arc<Limits>,
    link_limits: Arc<Limits>,
    parts: Mutex<Option<Parts>>,
    events: Receiver<DeviceEvent>,
    queue: OnceLock<Queue>,
    starting: Mutex<()>,
}

fn started() -> Error {
    Error::usage("this device was started already; build a second one")
}

/// What `recv()` and `listen()` share: links that wait for the program.
struct Queue {
    kind: Kind,
    links: Receiver<Lease>,
    running: Arc<StopOnDrop>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Receive,
    Listen,
}

/// Ends the device when nobody is left who could take its requests.
#[derive(Debug)]
struct StopOnDrop(DeviceHandle);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.0.group.send(|| Command::Drain(Duration::ZERO));
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("started", &self.lock().is_none()).finish_non_exhaustive()
    }
}

impl Device {
    /// A builder for a device of the gateway at this URL: `http://gw.example:9999/lamp` registers
    /// the name `lamp`; without a path it is `default`.
    pub fn builder(url: impl Into<String>) -> DeviceBuilder {
        DeviceBuilder {
            url: url.into(),
            others: Vec::new(),
            failover: false,
            proxy: None,
            proxy_credentials: None,
            no_proxy: String::new(),
            redirect_hosts: Vec::new(),
            max_retries: None,
            links: 1..=128,
            dialect: Dialect::classic(),
            origins: Vec::new(),
            limits: Limits::default(),
            token: None,
            fields: Vec::new(),
            on_refusal: OnRefusal::default(),
            host_header: None,
            whole_target: false,
            fallback: Fallback::default(),
            polls: 2..=64,
            comet: None,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            local_tls: None,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Parts>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(
        &self,
        service: impl FnOnce(&Parts) -> Result<Service, Error>,
    ) -> Result<DeviceHandle, Error> {
        let mut slot = self.lock();
        let parts = slot.as_ref().ok_or_else(started)?;
        let service = service(parts)?;
        let local_secure = matches!(&service, Service::Forward(target) if target.tls.is_some());
        #[cfg(feature = "tls")]
        if parts.local_tls.is_some() && !local_secure {
            return Err(Error::usage(
                "settings of TLS are given for a local server, and this device forwards to none",
            ));
        }
        let failed =
            |e: io::Error| Error::io(Fault::Network, "starting the device's event loop", e);
        let loops = parts
            .members
            .iter()
            .map(|_| EventLoop::<DeviceRole>::new(&self.limits).map_err(failed))
            .collect::<Result<Vec<_>, _>>()?;
        let Some(parts) = slot.take() else {
            return Err(Error::usage("this device was started already"));
        };
        let secure = parts.members.iter().any(|(plan, _)| plan.tls.is_some());
        let group = Arc::new(LoopGroup::default());
        let (mut shared, mut threads) = (Vec::new(), Vec::new());
        let mut waiting = Vec::new();
        for ((plan, counters), (event_loop, remote)) in parts.members.into_iter().zip(loops) {
            let place = (group.clone(), group.join(remote.clone()));
            let (limits, service, events) = (
                [&self.limits, &self.link_limits].map(Arc::clone),
                service.clone(),
                parts.events.clone(),
            );
            shared.push(counters.clone());
            waiting.push((
                event_loop,
                DeviceRole::new(limits, plan, service, remote, counters, events, place),
            ));
        }
        // All are of the fleet before the first of them can give up.
        for (event_loop, role) in waiting {
            let failure = group.clone();
            let run = move || {
                if let Err(e) = event_loop.run(role) {
                    failure.fail(Error::io(Fault::Network, "running the device's event loop", e));
                }
            };
            match std::thread::Builder::new().name("ptth-device".to_owned()).spawn(run) {
                Ok(thread) => threads.push(thread),
                Err(e) => {
                    group.send(|| Command::Drain(Duration::ZERO));
                    return Err(failed(e));
                }
            }
        }
        group.send(|| Command::TopUp);
        let threads = Mutex::new(threads);
        Ok(DeviceHandle(Arc::new(Running { group, shared, threads, secure, local_secure })))
    }

    /// Answers requests with `handler`, on worker threads, up to
    /// [`handlers_max`](Limits::handlers_max) at once at each gateway (more requests wait for a
    /// thread), until the process ends or the gateway refuses ([`OnRefusal::Stop`]). A handler that panics
    /// costs one exchange: it is answered 500.
    ///
    /// # Errors
    /// Started before; no thread or descriptor; refused.
    pub fn serve(
        &self,
        handler: impl Fn(Request<Body>) -> Response<Body> + Send + Sync + 'static,
    ) -> Result<(), Error> {
        self.spawn(handler)?.wait()
    }

    /// Like [`serve`](Self::serve), in the background. Dropping the handle does not stop the
    /// device; [`DeviceHandle::stop`] does.
    ///
    /// # Errors
    /// Started before; no thread or descriptor.
    pub fn spawn(
        &self,
        handler: impl Fn(Request<Body>) -> Response<Body> + Send + Sync + 'static,
    ) -> Result<DeviceHandle, Error> {
        self.start(|_| Ok(Service::Handler(Arc::new(handler))))
    }

    /// Forwards requests to a local HTTP server, `http://127.0.0.1:3000`, `https://nas.internal`
    /// (feature `tls`; [`DeviceBuilder::local_tls`]) or `unix:/run/app.sock`, until the process ends
    /// or the gateway refuses. No thread per request, however slow.
    ///
    /// # Errors
    /// A target that is none, or one at `https://` that cannot be checked (a system without root
    /// certificates); those of [`serve`](Self::serve).
    pub fn forward_to(&self, target: &str) -> Result<(), Error> {
        self.spawn_forward(target)?.wait()
    }

    /// Like [`forward_to`](Self::forward_to), in the background.
    ///
    /// # Errors
    /// A target that is none; those of [`spawn`](Self::spawn).
    pub fn spawn_forward(&self, target: &str) -> Result<DeviceHandle, Error> {
        self.start(|parts| Ok(Service::Forward(parts.target(target)?)))
    }

    /// Serves the files of a directory, until the process ends or the gateway refuses (feature
    /// `files`).
    ///
    /// GET and HEAD, with validators, conditional requests and single ranges (RFC 9110). A folder
    /// is its `index.html`; there are no listings. Symbolic links are followed as long as they stay
    /// inside; nothing outside is reachable, nor a name that begins with a dot (but
    /// `/.well-known`), nor what is no regular file: all of it is 404. A file that may not be read
    /// is 403. The directory is opened once, here: one that is put in its place later is another.
    /// What stands in it may change at any time.
    ///
    /// ```no_run
    /// use reverse_http::Device;
    /// Device::builder("http://gw.example:9999/lamp").build()?.serve_dir("/srv/lamp")?; // blocks
    /// # Ok::<(), reverse_http::Error>(())
    /// ```
    ///
    /// # Errors
    /// A path that is no directory, or one that cannot be opened (`is_usage()`); those of
    /// [`serve`](Self::serve).
    #[cfg(feature = "files")]
    pub fn serve_dir(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.spawn_dir(path)?.wait()
    }

    /// Like [`serve_dir`](Self::serve_dir), in the background.
    ///
    /// # Errors
    /// A path that is no directory, or one that cannot be opened (`is_usage()`); those of
    /// [`spawn`](Self::spawn).
    #[cfg(feature = "files")]
    pub fn spawn_dir(&self, path: impl AsRef<Path>) -> Result<DeviceHandle, Error> {
        let files = files::Files::open(path.as_ref())?;
        self.spawn(move |request| files.answer(&request))
    }

    /// Validates the address of a local server as [`forward_to`](Self::forward_to) does, without
    /// connecting to it or to a gateway.
    ///
    /// # Errors
    /// It is invalid, or the device was started already (`is_usage()`).
    pub fn check_forward(&self, target: &str) -> Result<(), Error> {
        match &*self.lock() {
            Some(parts) => parts.target(target).map(drop),
            None => Err(started()),
        }
    }

    /// Validates a directory as [`serve_dir`](Self::serve_dir) does, without connecting to a
    /// gateway.
    ///
    /// # Errors
    /// It is no directory, or cannot be opened (`is_usage()`).
    #[cfg(feature = "files")]
    pub fn check_dir(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        files::Files::open(path.as_ref()).map(drop)
    }

    /// What happens between this device and its gateway. At most [`Limits::events_max`] wait to be
    /// read; more are dropped.
    pub fn events(&self) -> Receiver<DeviceEvent> {
        self.events.clone()
    }

    fn queue(&self, kind: Kind) -> Result<&Queue, Error> {
        let _one_starts = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = self.queue.get() {
            return match queue.kind == kind {
                true => Ok(queue),
                false => Err(Error::usage(
                    "this device is used with recv() and with listen(); build one for each",
                )),
            };
        }
        let mut incoming = None;
        let handle = self.start(|parts| {
            // Offers that were on their way when the gateway fell back may be polls beyond those
            // wanted, for one event each.
            let (sender, receiver) = bounded(
                parts
                    .members
                    .iter()
                    .map(|(plan, shared)| 2 * shared.max() + plan.polls.end())
                    .sum(),
            );
            incoming = Some(receiver);
            Ok(match kind {
                Kind::Receive => Service::Receive(sender),
                Kind::Listen => Service::Listen(sender),
            })
        })?;
        let Some(links) = incoming else {
            return Err(Error::usage("this device was started already"));
        };
        Ok(self.queue.get_or_init(|| Queue { kind, links, running: Arc::new(StopOnDrop(handle)) }))
    }

    /// The next request, for programs that keep the loop themselves, on one thread or on several.
    /// The first call starts the device, dropping the `Device` ends it: exchanges in hand are cut.
    ///
    /// # Errors
    /// Started in another way; refused by the gateway; stopped.
    pub fn recv(&self) -> Result<Exchange, Error> {
        loop {
            let queue = self.queue(Kind::Receive)?;
            let lease = queue.links.recv().map_err(|_| queue.running.0.ended())?;
            if let Some(exchange) = Exchange::begin(lease, &self.link_limits) {
                return Ok(exchange);
            }
        }
    }

    /// The next request, or `None` when there is none within `time`.
    ///
    /// # Errors
    /// Those of [`recv`](Self::recv).
    pub fn recv_timeout(&self, time: Duration) -> Result<Option<Exchange>, Error> {
        let end = std::time::Instant::now() + time;
        loop {
            let queue = self.queue(Kind::Receive)?;
            let left = end.saturating_duration_since(std::time::Instant::now());
            match queue.links.recv_timeout(left) {
                Ok(lease) => {
                    if let Some(exchange) = Exchange::begin(lease, &self.link_limits) {
                        return Ok(Some(exchange));
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => return Err(queue.running.0.ended()),
            }
        }
    }

    /// Turned connections one by one, as `std::net` gives TCP connections: MIN wait in a queue, MAX
    /// exist at once. The gateway may use a link that waits here at once, so accept in a loop and
    /// serve each link on a thread of its own; a program that serves one at a time sets
    /// `links(1..=1)`.
    ///
    /// Where the gateway falls back, each poll brings its requests over a link of its own, made
    /// when the first one comes; such a program sets `polls(1..=1)`, too.
    ///
    /// # Errors
    /// Started in another way; no thread or descriptor.
    pub fn listen(&self) -> Result<Listener, Error> {
        let queue = self.queue(Kind::Listen)?;
        Ok(Listener {
            queue: queue.links.clone(),
            running: queue.running.clone(),
            limits: self.link_limits.clone(),
        })
    }
}

/// A running device. Clones are handles on the same one.
#[derive(Clone)]
pub struct DeviceHandle(Arc<Running>);

struct Running {
    group: Arc<LoopGroup>,
    shared: Vec<Arc<Counters>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Some gateway is dialled over TLS.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    secure: bool,
    /// The local server is asked over TLS.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    local_secure: bool,
}

impl fmt::Debug for DeviceHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceHandle").field("stats", &self.stats()).finish()
    }
}

impl DeviceHandle {
    /// Ends the device now: requests in progress are cut. Returns when its connections are over.
    ///
    /// A handler that runs is not interrupted: it may still be at work when this returns, and its
    /// response is dropped. A handler whose end matters tells its own code that it has ended.
    pub fn stop(&self) {
        self.drain(Duration::ZERO);
    }

    /// Takes nothing new, lets requests in progress finish within `time`, then ends. Returns when
    /// its connections are over; handlers that took longer run on, as with [`stop`](Self::stop).
    pub fn drain(&self, time: Duration) {
        self.0.group.send(|| Command::Drain(time));
        self.join();
    }

    /// Waits until every event loop of the device (one for each gateway) has made a turn: for
    /// supervisors.
    ///
    /// # Errors
    /// One has not within `time`; the device has ended.
    pub fn ping(&self, time: Duration) -> Result<(), Error> {
        let (reply, answers) = crossbeam_channel::unbounded();
        let asked = self.0.group.send(|| Command::Ping(reply.clone()));
        drop(reply);
        if asked == 0 {
            return Err(Error::stopped("this device has ended"));
        }
        let end = std::time::Instant::now().checked_add(time);
        for _ in 0..asked {
            let answer = match end {
                Some(end) => answers.recv_deadline(end),
                None => answers.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match answer {
                Ok(()) => {}
                Err(RecvTimeoutError::Disconnected) => break, // a loop that ended meanwhile
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Error::timeout(
                        Fault::Device,
                        format!("the device's event loop made no turn within {time:?}"),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Replaces how the gateways are known and what is shown to them (feature `tls`): a renewed
    /// certificate, another CA. It counts from the next dial on; what is connected stays, and
    /// sessions that began before are not resumed.
    ///
    /// # Errors
    /// No gateway of this device is at `https://`; a system without root certificates; the device
    /// has ended.
    #[cfg(feature = "tls")]
    pub fn set_tls(&self, tls: DeviceTls) -> Result<(), Error> {
        if !self.0.secure {
            return Err(Error::usage(
                "this device has no gateway at https://, so there is no TLS to replace",
            ));
        }
        let connector = Arc::new(tls.connector()?);
        match self.0.group.send(|| Command::SetTls(connector.clone())) {
            0 => Err(Error::stopped("this device has ended")),
            _ => Ok(()),
        }
    }

    /// Replaces how the local server is known (feature `tls`). It counts from the next connection
    /// to it on: what is in progress goes on, and what was connected before takes no other request.
    ///
    /// # Errors
    /// This device does not forward to a server at `https://`; settings that cannot work; a system
    /// without root certificates; the device has ended.
    #[cfg(feature = "tls")]
    pub fn set_local_tls(&self, tls: LocalTls) -> Result<(), Error> {
        if !self.0.local_secure {
            return Err(Error::usage(
                "this device forwards to no server at https://, so there is no TLS to replace",
            ));
        }
        let connector = Arc::new(tls.connector()?);
        match self.0.group.send(|| Command::SetLocalTls(connector.clone())) {
            0 => Err(Error::stopped("this device has ended")),
            _ => Ok(()),
        }
    }

    /// Dials now, whatever the back-off or a gateway's `Retry-After` says.
    pub fn retry_now(&self) {
        self.0.group.send(|| Command::Retry);
    }

    /// Waits until the device has ended: stopped, or refused, or out of retries.
    ///
    /// # Errors
    /// The gateway, or each of them, refused the first offer ([`OnRefusal::Stop`]);
    /// [`max_retries`](DeviceBuilder::max_retries) attempts failed.
    pub fn wait(&self) -> Result<(), Error> {
        self.join();
        self.0.group.take_outcome().map_or(Ok(()), Err)
    }

    /// Counters.
    pub fn stats(&self) -> DeviceStats {
        let sum =
            |count: fn(&Counters) -> usize| self.0.shared.iter().map(|shared| count(shared)).sum();
        DeviceStats {
            transport: self.0.shared.iter().find_map(|shared| shared.transport()),
            links: sum(|shared| shared.links.load(Relaxed)),
            polls: sum(|shared| shared.polls.load(Relaxed)),
            busy: sum(|shared| shared.busy.load(Relaxed)),
            dialing: sum(|shared| shared.dialing.load(Relaxed)),
            exchanges: sum(|shared| shared.exchanges.load(Relaxed)),
            ends: EndCounts::sum(self.0.shared.iter().map(|shared| shared.ends.read())),
        }
    }

    fn join(&self) {
        let mut threads = self.0.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                self.0
                    .group
                    .fail(Error::stopped("the device's event loop panicked; please report it"));
            }
        }
    }

    fn ended(&self) -> Error {
        self.0.group.take_outcome().unwrap_or_else(|| Error::stopped("this device was stopped"))
    }
}

/// One request and the way to answer it. Dropped unanswered, it closes its link.
pub struct Exchange {
    request: Request<Body>,
    link: DeviceLink<Shared>,
    _busy: Busy, // before the ticket: the loop counts when it hears of the link's end
    ticket: Ticket,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("method", self.request.method())
            .field("uri", self.request.uri())
            .finish_non_exhaustive()
    }
}

impl Exchange {
    fn begin(lease: Lease, limits: &Arc<Limits>) -> Option<Self> {
        let Lease { stream, unread, busy, ticket } = lease;
        let busy = busy.unwrap_or_else(|| ticket.busy());
        let mut link = DeviceLink::within(Shared::new(stream), unread, limits.clone());
        match link.next_request() {
            Ok(Some(request)) => {
                ticket.shared.exchanges.fetch_add(1, Relaxed);
                Some(Exchange { request, link, ticket, _busy: busy })
            }
            Ok(None) => {
                drop(busy); // before the loop hears of the link's end
                ticket.end(CLOSED);
                None
            }
            Err(e) => {
                drop(busy);
                ticket.failed(&e);
                None
            }
        }
    }

    /// The request; its body streams from the link.
    pub fn request(&self) -> &Request<Body> {
        &self.request
    }

    /// The request, to read its body.
    pub fn request_mut(&mut self) -> &mut Request<Body> {
        &mut self.request
    }

    /// Answers a request that offers another protocol with this 101 (its `Upgrade` names the
    /// protocol), and gives the stream out.
    ///
    /// # Errors
    /// The request offered none, or the response is no 101 with `Upgrade` (then nothing was sent,
    /// and the link is closed); the gateway is gone.
    pub fn upgrade(self, response: Response<Body>) -> Result<Upgraded, Error> {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::usage(format!(
                "switching protocols with the status {}: it takes 101",
                response.status()
            )));
        }
        let Exchange { request, mut link, ticket, _busy } = self;
        link.respond(response)?;
        drop(request);
        Upgraded::new(link, ticket, _busy)
            .map_err(|e| Error::io(Fault::Network, "switching a link to another protocol", e))
    }

    /// Sends the response and gives the link back.
    ///
    /// # Errors
    /// The gateway is gone or took nothing for too long, or the response's own body failed; the
    /// link is closed then.
    pub fn respond(self, response: Response<Body>) -> Result<(), Error> {
        if response.status().is_informational() {
            return Err(Error::usage(format!(
                "responding with {}: an exchange takes one final response",
                response.status()
            )));
        }
        let Exchange { request, mut link, ticket, _busy } = self;
        link.respond(response)?;
        drop(request);
        if !link.is_reusable() {
            link.close();
            return Ok(());
        }
        let heartbeat = link.has_seen_heartbeat();
        let (stream, unread) = link.into_parts();
        ticket.give_back(stream.into_inner(), unread, heartbeat);
        Ok(())
    }
}

/// Gives out turned connections; see [`Device::listen`].
#[derive(Debug)]
pub struct Listener {
    queue: Receiver<Lease>,
    running: Arc<StopOnDrop>,
    limits: Arc<Limits>,
}

impl Listener {
    /// The next turned connection. When it is dropped the device dials another in its place, if it
    /// is needed.
    ///
    /// # Errors
    /// Refused by the gateway; stopped.
    pub fn accept(&self) -> Result<DeviceLink<Accepted>, Error> {
        let Lease { stream, unread, mut ticket, .. } =
            self.queue.recv().map_err(|_| self.running.0.ended())?;
        if !unread.is_empty() {
            ticket.used();
        }
        let busy = ticket.busy();
        Ok(DeviceLink::within(
            Accepted { stream, ticket, _busy: busy },
            unread,
            self.limits.clone(),
        ))
    }

    /// Ends the device and with it all its links.
    pub fn stop(&self) {
        self.running.0.stop();
    }
}

/// The stream under a link that [`Listener::accept`] gave out.
pub struct Accepted {
    stream: Arc<Stream>,
    _busy: Busy, // before the ticket: the loop counts when it hears of the link's end
    ticket: Ticket,
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Accepted").field(&self.stream).finish()
    }
}

impl Read for Accepted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = (&*self.stream).read(buf)?;
        if n > 0 {
            self.ticket.used();
        }
        Ok(n)
    }
}

impl Write for Accepted {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self.stream).write(buf)
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self.stream).write_vectored(bufs)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TimedStream for Accepted {
    fn limit_read(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(time)
    }
    fn limit_write(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.stream.set_write_timeout(time)
    }
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.stream.as_fd())
    }
    fn read_arrived(&mut self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        let read = self.stream.read_what_arrived(buf);
        if matches!(read, Some(Ok(1..))) {
            self.ticket.used();
        }
        read
    }
    fn before_farewell(&mut self) {
        self.ticket.says_farewell();
    }
    fn callers_wait(&mut self, callers: usize) {
        self.ticket.callers_wait(callers);
    }
    fn half_close(&self) -> bool {
        self.stream.shutdown(Shutdown::Write).is_ok()
    }
    fn reset_when_dropped(&self) {
        self.stream.will_reset();
    }
}
