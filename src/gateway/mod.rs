//! Layer 5, the downstream side: devices connect to a [`Gateway`], programs and visitors ask them.
//!
//! Devices turn their connections, or poll where that does not get through; whoever asks does not
//! notice.
//!
//! One thread runs the event loop; `send()` and `on_link` handlers are plain blocking code on the
//! caller's or a worker's thread.

mod admission;
mod certificates;
mod departed;
mod mailbox;
mod offers;
mod pins;
mod registry;
mod role;
mod routes;
#[cfg(test)]
pub(crate) mod simulated;
mod tokens;
mod visitors;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use http::{Request, Response};

use crate::close_reason::{CloseCause, CloseReason, Counters, EndCounts};
use crate::engine::event_loop::{EventLoop, Remote};
use crate::error::{Error, Fault, Refusal};
use crate::gateway::role::{Command, GatewayRole, Lease, NO_TICKET, Settings};
use crate::gateway::routes::Table;
use crate::gateway::tokens::{Digest, Whose};
use crate::limits::Limits;
use crate::link::{GatewayLink, NothingArrived, Owned, Whole};
use crate::message::Body;
use crate::proto::forwarded::Network;
use crate::proto::head::authority;
use crate::proto::turn::{self, Dialect, Fallback, Name, OfferRules, Transport};
use crate::relay::{Wait, Waits};
use crate::stream::{GatewayTls, Shared, Shown, Stream};

pub use routes::{Route, Routes};
pub use tokens::Tokens;

/// Our pseudonym in `Via` (RFC 9110 §7.6.3) and `Proxy-Status`.
/// Longest pseudonym in `Via`, in bytes; the room that a hop has for its fields is for all of them.
const VIA_BYTES_MAX: usize = 64;

type Authorize = Arc<dyn Fn(&Offer) -> Result<Grant, Reject> + Send + Sync>;
type OnLink = Arc<dyn Fn(GatewayLink) + Send + Sync>;

/// A device's offer, or a poll of the fallback, as the program's `authorize` sees it. Its `Debug`
/// shows no secret.
#[derive(Clone, Debug)]
pub struct Offer {
    wire: turn::Offer,
    peer: Option<IpAddr>,
    /// Its token, where the gateway has a table of them and this is one of it.
    token: Option<Digest>,
    certificate: Option<Arc<Shown>>,
}

impl Offer {
    fn new(wire: turn::Offer, peer: Option<IpAddr>, certificate: Option<Arc<Shown>>) -> Self {
        Offer { wire, peer, token: None, certificate }
    }

    /// An offer that another server has read; for [`Gateway::adopt`].
    pub fn from_wire(wire: turn::Offer, peer: Option<IpAddr>) -> Self {
        Offer { wire, peer, token: None, certificate: None }
    }

    /// The names it wants to register: device names, or origins for an IETF offer. At least one.
    pub fn names(&self) -> &[Name] {
        &self.wire.names
    }
    /// The upgrade token as offered: `PTTH/1.0`, `PTTH/0.9`, `ptth`. Empty for a poll.
    pub fn token(&self) -> &str {
        &self.wire.token
    }
    /// Whether it is a poll of the fallback. Each poll of a device is decided anew; `authorize` had
    /// better be quick.
    pub fn is_poll(&self) -> bool {
        self.wire.is_poll()
    }
    /// Path and query of the offer.
    pub fn target(&self) -> &str {
        &self.wire.target
    }
    /// Address of the device, or of the proxy before this gateway; `None` over a Unix socket.
    pub fn peer(&self) -> Option<IpAddr> {
        self.peer
    }
    /// The DNS names of the certificate that the device showed and that a CA of this gateway has
    /// issued (feature `tls`), sorted; they allow the names of the offer, or it would not be asked
    /// about here. `None`: the device showed none.
    pub fn certificate_names(&self) -> Option<&[String]> {
        self.certificate.as_deref().map(Shown::names)
    }
    /// Value of the first field of this name, compared without case.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.wire
            .fields
            .0
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_slice())
    }
    /// The token of `Authorization: Bearer …` (RFC 6750 §2.1).
    pub fn bearer_token(&self) -> Option<&str> {
        let value = std::str::from_utf8(self.field("Authorization")?).ok()?;
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }
    fn label(&self) -> String {
        self.wire.names.iter().map(Name::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// What `authorize` grants.
#[derive(Clone, Debug, Default)]
pub struct Grant {
    names: Option<Vec<String>>,
    credential: Option<String>,
}

impl Grant {
    /// The names that were offered, for nobody in particular.
    pub fn offered() -> Self {
        Grant::default()
    }
    /// Other names than those offered (device names, or origins).
    ///
    /// # Errors
    /// One of them is neither.
    pub fn names<I: IntoIterator<Item = S>, S: AsRef<str>>(names: I) -> Result<Self, Error> {
        let checked: Result<Vec<String>, Error> = names
            .into_iter()
            .map(|name| {
                let name = name.as_ref();
                let parsed =
                    if name.contains("://") { Name::origin(name) } else { Name::label(name) };
                parsed
                    .map(|n| n.to_string())
                    .map_err(|e| Error::usage(format!("granting the name {name:?}: {}", e.reason)))
            })
            .collect();
        Ok(Grant { names: Some(checked?), credential: None })
    }
    /// Who it is: an opaque identity. Only the same identity may join or take over a name while it
    /// is held; another gets 409. Where this is not said, a certificate that the device showed says
    /// it.
    pub fn to(mut self, credential: impl Into<String>) -> Self {
        self.credential = Some(credential.into());
        self
    }
}

/// Why `authorize` says no: what the device is answered.
#[derive(Clone, Debug)]
pub struct Reject {
    status: u16,
    reason: String,
    retry_after: Option<u64>,
    location: Option<String>,
}

impl Reject {
    /// A refusal with this status (401 no or wrong credential, 403 not for this name, 404, 410,
    /// 429, 503 …) and one line of reason. A status outside 400 to 599 is answered as 403.
    pub fn new(status: u16, reason: impl Into<String>) -> Self {
        let status = if (400..600).contains(&status) { status } else { 403 };
        Reject { status, reason: reason.into(), retry_after: None, location: None }
    }
    /// Another gateway has this device: 307 with this `Location`.
    pub fn elsewhere(location: impl Into<String>) -> Self {
        Reject {
            status: 307,
            reason: "another gateway has this device".to_owned(),
            retry_after: None,
            location: Some(location.into()),
        }
    }
    /// Asks the device to stay away for so long (whole seconds).
    pub fn retry_after(mut self, time: Duration) -> Self {
        self.retry_after = Some(time.as_secs());
        self
    }
}

/// What an [`Event`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// The name is connected: its first link, or its first poll.
    Up,
    /// The name is connected no longer: its last link is gone, and it has not polled for
    /// `poll_gap`.
    Down,
    /// The name is connected in another way than before: from polls to links, or back.
    Moved,
    /// A newer session took the name over.
    Replaced,
    /// One of its links ended. With the last one the name goes, too: `Down` follows.
    Ended,
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EventKind::Up => "up",
            EventKind::Down => "down",
            EventKind::Moved => "moved",
            EventKind::Replaced => "replaced",
            EventKind::Ended => "ended",
        })
    }
}

/// Something happened to a device name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// To whom.
    pub name: String,
    /// Why, in words; for `Up` and `Moved` the token that was turned with, or the encoding of the
    /// polls.
    pub reason: String,
    /// How the name is connected; `None` where it is no more.
    pub transport: Option<Transport>,
    /// The reason as one of a closed list, with `Ended` and `Down`.
    pub end: Option<CloseCause>,
    /// Events this subscriber lost before this one because it did not read them in time.
    pub missed: u64,
}

#[derive(Debug, Default)]
struct Stats {
    devices: AtomicUsize,
    polls: AtomicUsize,
    turns: AtomicU64,
    events: AtomicU64,
    exchanges: AtomicU64,
    refused: AtomicU64,
    ends: Counters,
}

/// Counters of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatewayStats {
    /// Names connected now.
    pub devices: usize,
    /// Polls held now.
    pub polls: usize,
    /// Offers turned since the start.
    pub turns: u64,
    /// Requests handed out as events of the fallback since the start; one that was handed out again
    /// counts once.
    pub events: u64,
    /// Requests begun since the start, visitors' and programs'.
    pub exchanges: u64,
    /// Requests and offers answered by the gateway itself, refusals mostly.
    pub refused: u64,
    /// Links that ended since the start, by reason.
    pub ends: EndCounts,
}

/// When a gateway answers an offer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum TurnMode {
    /// At once: the link idles until somebody asks.
    #[default]
    Now,
    /// When there is a request: 101 and request go out in one write; 204 after
    /// [`Limits::poll_hold`] without one.
    OnDemand,
}

/// Whose offers are answered when.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turns {
    others: TurnMode,
    own: HashMap<String, TurnMode>,
}

impl Turns {
    /// Whether an offer under these names is held until somebody asks.
    pub(crate) fn hold<'n>(&self, mut names: impl Iterator<Item = &'n Arc<str>>) -> bool {
        let own =
            if self.own.is_empty() { None } else { names.find_map(|name| self.own.get(&**name)) };
        *own.unwrap_or(&self.others) == TurnMode::OnDemand
    }

    fn ever_hold(&self) -> bool {
        self.others == TurnMode::OnDemand
            || self.own.values().any(|mode| *mode == TurnMode::OnDemand)
    }
}

/// Sets a [`Gateway`] up.
pub struct GatewayBuilder {
    addresses: Vec<(String, Option<GatewayTls>)>,
    limits: Limits,
    offer_rules: OfferRules,
    turns: Turns,
    fallback: Fallback,
    cors_origins: Vec<String>,
    shared_names: bool,
    keep_underscore: bool,
    trusted: Vec<Network>,
    forwarded: bool,
    via: Option<Arc<str>>,
    drain_to: Option<String>,
    tokens: Option<Box<Tokens>>,
    visitor_tokens: Option<Box<Tokens>>,
    devices_allow: Vec<Network>,
    visitors_allow: Vec<Network>,
    authorize: Option<Authorize>,
    on_link: Option<OnLink>,
}

impl GatewayBuilder {
    /// Listens for devices on this address (`127.0.0.1:9999`; port 0: any free one). May be called
    /// several times.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.addresses.push((address.into(), None));
        self
    }
    /// Listens for devices on this address, over TLS (feature `tls`). May be called several times,
    /// beside [`listen`](Self::listen).
    #[cfg(feature = "tls")]
    pub fn listen_tls(mut self, address: impl Into<String>, tls: GatewayTls) -> Self {
        self.addresses.push((address.into(), Some(tls)));
        self
    }
    /// Bounds and timeouts.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
    /// Adds a row to the dialect table (protocol.md §1.2).
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.offer_rules.dialects.push(dialect);
        self
    }
    /// Takes offers without `Host` (AirPlay senders). Default: 400.
    pub fn missing_host(mut self, take: bool) -> Self {
        self.offer_rules.missing_host = take;
        self
    }
    /// Insists on `Connection: upgrade`. Default: the seed's own form, which omits it, is taken
    /// where nothing shows an intermediary.
    pub fn strict_connection(mut self, strict: bool) -> Self {
        self.offer_rules.strict_connection = strict;
        self
    }
    /// When offers are answered. Default: at once.
    pub fn turn(mut self, mode: TurnMode) -> Self {
        self.turns.others = mode;
        self
    }
    /// The same for one device name or origin, whatever [`turn`](Self::turn) says of the others:
    /// some devices of other makes open a link for every 101, and want it when there is a request;
    /// others do not know what a 204 is.
    ///
    /// # Errors
    /// What is no device's name.
    pub fn turn_of(mut self, name: &str, mode: TurnMode) -> Result<Self, Error> {
        let parsed = if name.contains("://") { Name::origin(name) } else { Name::label(name) };
        let name =
            parsed.map_err(|e| Error::usage(format!("when {name} is turned: {}", e.reason)))?;
        self.turns.own.insert(name.to_string(), mode);
        Ok(self)
    }
    /// Whether devices may poll where no upgrade gets through (protocol.md §2). Default:
    /// [`Fallback::Auto`].
    pub fn fallback(mut self, fallback: Fallback) -> Self {
        self.fallback = fallback;
        self
    }
    /// Lets pages of this origin (`https://app.example`, as browsers write it in `Origin`) use the
    /// devices' port, so that a browser's tab can be a device. May be called several times.
    /// Default: none; a request with another `Origin` gets 403.
    pub fn cors_origin(mut self, origin: impl Into<String>) -> Self {
        self.cors_origins.push(origin.into());
        self
    }
    /// Lets several devices with the same credential have one name at the same time: requests go
    /// round robin over those that are connected. Default: a new device takes the name over.
    pub fn shared_names(mut self, shared: bool) -> Self {
        self.shared_names = shared;
        self
    }
    /// Forwards visitors' fields whose names have an underscore. Default: dropped, since many
    /// servers take `_` for `-`.
    pub fn keep_underscore(mut self, keep: bool) -> Self {
        self.keep_underscore = keep;
        self
    }
    /// Takes the word of visitors' peers in these networks (addresses, or CIDR blocks such as
    /// `10.0.0.0/8`): they are proxies that asked for somebody else. What they say in
    /// `X-Forwarded-For`, `-Proto`, `-Host`, `-Port`, `-Prefix` and `Forwarded` goes on, written
    /// anew, with what this gateway adds behind it; and `X-Forwarded-Proto` is the scheme that an
    /// IETF origin is compared with. May be called several times. Default: nobody; what comes in
    /// these fields is overwritten.
    ///
    /// # Errors
    /// One of them is no network.
    pub fn trusted_proxies<I: IntoIterator<Item = S>, S: AsRef<str>>(
        mut self,
        networks: I,
    ) -> Result<Self, Error> {
        read_networks("trusted proxies", networks, &mut self.trusted)?;
        Ok(self)
    }
    /// The pseudonym of this gateway in `Via`. A request that names it already has come round in a
    /// circle, and is answered 508. Give several gateways the same one where they stand side by
    /// side, never where one forwards to the other. Default: `ptth-` and a random number, another
    /// one for each gateway and each start.
    ///
    /// # Errors
    /// It is no token (RFC 9110 §5.6.2), or longer than 64 bytes.
    pub fn via(mut self, pseudonym: &str) -> Result<Self, Error> {
        if pseudonym.len() > VIA_BYTES_MAX || !crate::proto::head::is_token(pseudonym.as_bytes()) {
            return Err(Error::usage(format!(
                "via {pseudonym:?} is no pseudonym: it has 1 to {VIA_BYTES_MAX} letters, digits, and marks such as - . _, without blanks"
            )));
        }
        self.via = Some(pseudonym.into());
        Ok(self)
    }
    /// Tells devices in `Forwarded` (RFC 7239), too, who asked: `for=…;host=…;proto=…`. A visitor's
    /// own field is replaced, a trusted proxy's gets one more element. Default: only
    /// `X-Forwarded-*` is written.
    pub fn forwarded(mut self, write: bool) -> Self {
        self.forwarded = write;
        self
    }
    /// Where a gateway that stops sends the devices that come to it: the origin of another gateway
    /// (`http://b.example:9999`). New ones get 307 with it and their own path from the first moment
    /// of a [`drain`](Gateway::drain) on; those that were connected, and dial again, for
    /// [`Limits::abandoned_timeout`] after its notice. Default: none, they get 503 with
    /// `Retry-After`.
    ///
    /// # Errors
    /// It is no origin of an `http` or `https` URL.
    pub fn drain_to(mut self, origin: &str) -> Result<Self, Error> {
        let bare = origin.strip_suffix('/').unwrap_or(origin);
        let scheme = ["http://", "https://"].into_iter().find(|scheme| bare.starts_with(scheme));
        let named = scheme.and_then(|scheme| {
            authority(&bare.as_bytes()[scheme.len()..])
                .ok()
                .map(|host| format!("{scheme}{}", host.whole))
        });
        let Some(named) = named else {
            return Err(Error::usage(format!(
                "drain to {origin:?}: write another gateway like http://b.example:9999, without a path"
            )));
        };
        self.drain_to = Some(named);
        Ok(self)
    }
    /// Lets in only devices that show one of these tokens on every offer and poll, as
    /// `Authorization: Bearer TOKEN` or as the password of `Basic`, whose user is not looked at;
    /// and only under names that the token is for. Without a known one: 401; with one for other
    /// names: 403, whoever else there is. The token is also who the device is: another token gets
    /// 409 while the name is held. With [`authorize`](Self::authorize), which is asked after this,
    /// both have to agree, also about names that it grants; an identity that it gives
    /// ([`Grant::to`]) stands in the token's place. A connection that is [adopted](Gateway::adopt)
    /// is its program's to check. Default: no token is asked for.
    pub fn tokens(mut self, tokens: Tokens) -> Self {
        self.tokens = Some(Box::new(tokens));
        self
    }
    /// Lets visitors ask only with one of these tokens, shown as devices show theirs, and only
    /// devices that it is for. Without a known one: 401, whatever was asked for; with one for other
    /// devices: 403. That `Authorization` is this gateway's and does not go on to the device.
    /// Default: whoever reaches the address may ask.
    pub fn visitor_tokens(mut self, tokens: Tokens) -> Self {
        self.visitor_tokens = Some(Box::new(tokens));
        self
    }
    /// Takes connections of devices only from these networks (addresses, or CIDR blocks); others
    /// are closed at once. What counts is the address of the connection, a proxy's where there is
    /// one. May be called several times. Default: from everywhere.
    ///
    /// # Errors
    /// One of them is no network.
    pub fn devices_allow<I: IntoIterator<Item = S>, S: AsRef<str>>(
        mut self,
        networks: I,
    ) -> Result<Self, Error> {
        read_networks("networks of devices", networks, &mut self.devices_allow)?;
        Ok(self)
    }
    /// Takes connections of visitors only from these networks; others get 403 and are closed. The
    /// rest as with [`devices_allow`](Self::devices_allow).
    ///
    /// # Errors
    /// One of them is no network.
    pub fn visitors_allow<I: IntoIterator<Item = S>, S: AsRef<str>>(
        mut self,
        networks: I,
    ) -> Result<Self, Error> {
        read_networks("networks of visitors", networks, &mut self.visitors_allow)?;
        Ok(self)
    }
    /// Decides about each offer, on a worker thread, before the 101. Without it everybody may
    /// register.
    pub fn authorize(
        mut self,
        decide: impl Fn(&Offer) -> Result<Grant, Reject> + Send + Sync + 'static,
    ) -> Self {
        self.authorize = Some(Arc::new(decide));
        self
    }
    /// Hands each turned connection to this handler, on a worker thread that it then holds: plain
    /// blocking code. Such a gateway serves nothing else: `send()`, `relay()` and `adopt()` are
    /// refused.
    pub fn on_link(mut self, handler: impl Fn(GatewayLink) + Send + Sync + 'static) -> Self {
        self.on_link = Some(Arc::new(handler));
        self
    }

    /// Binds, and starts the event loop on a thread of its own.
    ///
    /// # Errors
    /// A limit that cannot work; `on_link` together with on-demand turns or a fallback that is
    /// always used; an origin that is none; an address that cannot be bound (taken, not ours).
    pub fn start(self) -> Result<Gateway, Error> {
        self.limits.check()?;
        for origin in &self.cors_origins {
            check_origin(origin)?;
        }
        if self.on_link.is_some() && self.fallback == Fallback::Only {
            return Err(Error::usage(
                "on_link and a fallback that is always used exclude each other: a device that polls has no link",
            ));
        }
        if self.on_link.is_some() && self.turns.ever_hold() {
            return Err(Error::usage(
                "on_link and on-demand turns exclude each other: a held offer waits for a request, and on_link has none",
            ));
        }
        let limits = Arc::new(self.limits);
        let link_limits = Arc::new(limits.with_room());
        let failed =
            |e: io::Error| Error::io(Fault::Network, "starting the gateway's event loop", e);
        let (mut event_loop, remote) = EventLoop::<GatewayRole>::new(&limits).map_err(failed)?;
        let mut addresses = Vec::new();
        let mut devices = Vec::new();
        for (address, tls) in self.addresses {
            let (listener, at) = bind(&address, "devices")?;
            if !event_loop.listen(listener) {
                return Err(Error::usage(
                    "a gateway listens on as many addresses as one event loop takes",
                ));
            }
            addresses.push(at);
            devices.push((at, tls));
        }
        event_loop.alarm(role::TICK, role::FIRST_ALARM);
        let stats = Arc::new(Stats::default());
        let only_links = self.on_link.is_some();
        let settings = Settings {
            limits: limits.clone(),
            link_limits: link_limits.clone(),
            offer_rules: self.offer_rules,
            turns: self.turns,
            shared_names: self.shared_names,
            // Such a gateway asks nothing itself, so a poll would wait for nothing.
            fallback: if only_links { Fallback::Never } else { self.fallback },
            cors_origins: self.cors_origins,
            keep_underscore: self.keep_underscore,
            trusted: self.trusted,
            forwarded_element: self.forwarded,
            via: self.via.unwrap_or_else(random_via),
            drain_to: self.drain_to,
            tokens: self.tokens,
            visitor_tokens: self.visitor_tokens,
            devices_allow: self.devices_allow,
            visitors_allow: self.visitors_allow,
            authorize: self.authorize,
            on_link: self.on_link,
        };
        let role = GatewayRole::new(settings, remote.clone(), stats.clone(), devices);
        let thread = std::thread::Builder::new()
            .name("ptth-gateway".to_owned())
            .spawn(move || {
                if let Err(e) = event_loop.run(role) {
                    log::error!("the gateway's event loop ended: {e}");
                }
            })
            .map_err(failed)?;
        let (thread, certificates) = (Mutex::new(Some(thread)), Mutex::default());
        Ok(Gateway {
            remote,
            limits,
            link_limits,
            stats,
            addresses,
            only_links,
            thread,
            certificates,
        })
    }
}

/// A pseudonym that no other gateway has: two in a row must not take each other's requests for
/// their own.
fn random_via() -> Arc<str> {
    let mut bytes = [0; 4];
    if let Err(e) = crate::engine::random::fill(&mut bytes) {
        log::warn!("no random number for Via ({e}); the process's number stands in its place");
        bytes = std::process::id().to_be_bytes();
    }
    format!("ptth-{:08x}", u32::from_be_bytes(bytes)).into()
}

/// A running gateway. Dropping it ends it at once; [`stop`](Gateway::stop) lets exchanges in
/// progress finish.
///
/// ```
/// use reverse_http::{Body, Device, Gateway};
/// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
/// let url = format!("http://{}/lamp", gateway.devices_addr());
/// let device = Device::builder(&url).build()?.spawn(|_request| http::Response::new(Body::from("on")))?;
/// gateway.device("lamp").wait(std::time::Duration::from_secs(5))?;
/// let mut response = gateway.device("lamp").send(http::Request::get("/status").body(Body::empty()).unwrap())?;
/// assert_eq!(response.body_mut().read_to_text(100)?, "on");
/// device.stop();
/// # Ok::<(), reverse_http::Error>(())
/// ```
pub struct Gateway {
    remote: Remote<Command>,
    limits: Arc<Limits>,
    link_limits: Arc<Limits>,
    stats: Arc<Stats>,
    addresses: Vec<SocketAddr>,
    only_links: bool,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Held while certificates are replaced, which takes two commands.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    certificates: Mutex<()>,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("addresses", &self.addresses)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Gateway {
    /// A builder with every default.
    pub fn builder() -> GatewayBuilder {
        GatewayBuilder {
            addresses: Vec::new(),
            limits: Limits::default(),
            offer_rules: OfferRules::default(),
            turns: Turns::default(),
            fallback: Fallback::Auto,
            cors_origins: Vec::new(),
            shared_names: false,
            keep_underscore: false,
            trusted: Vec::new(),
            forwarded: false,
            via: None,
            drain_to: None,
            tokens: None,
            visitor_tokens: None,
            devices_allow: Vec::new(),
            visitors_allow: Vec::new(),
            authorize: None,
            on_link: None,
        }
    }

    /// Where devices connect: the first address.
    ///
    /// # Panics
    /// When the builder was given no address to listen on.
    pub fn devices_addr(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Lets visitors in over plain HTTP on this address; the address that was bound.
    ///
    /// # Errors
    /// It cannot be bound; the gateway has `on_link`; it was stopped.
    pub fn relay(&self, address: &str, routes: Routes) -> Result<SocketAddr, Error> {
        self.relay_with(address, routes, None)
    }

    /// Lets visitors in over TLS on this address (feature `tls`); the address that was bound.
    /// Devices are told `X-Forwarded-Proto: https`.
    ///
    /// # Errors
    /// Those of [`relay`](Self::relay).
    #[cfg(feature = "tls")]
    pub fn relay_tls(
        &self,
        address: &str,
        routes: Routes,
        tls: GatewayTls,
    ) -> Result<SocketAddr, Error> {
        self.relay_with(address, routes, Some(tls))
    }

    /// Replaces what a listener shows and wants in TLS, devices' or visitors' (feature `tls`), at
    /// the address that it was bound to. It counts from the next handshake on; sessions that began
    /// before are not resumed. Connections stay as they are, but for those of devices whose
    /// certificates the new [`client_ca`](GatewayTls::client_ca) does not take: they are ended as
    /// those of a [token](Self::set_tokens) that is gone.
    ///
    /// # Errors
    /// The gateway does not speak TLS at this address, or was stopped.
    #[cfg(feature = "tls")]
    pub fn set_tls(&self, at: SocketAddr, tls: GatewayTls) -> Result<(), Error> {
        let _one_at_a_time = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        let (reply, answer) = bounded(1);
        self.command(Command::SetTls { at, tls: tls.clone(), reply })?;
        let (listener, shown) = answer.recv().map_err(|_| stopped())??;
        // To check thousands of chains is not the loop's work.
        let refused =
            shown.iter().filter(|shown| !tls.accepts(shown)).map(|shown| shown.key()).collect();
        let (reply, answer) = bounded(1);
        self.command(Command::RefuseCertificates { listener, refused, reply })?;
        answer.recv().map_err(|_| stopped())
    }

    fn relay_with(
        &self,
        address: &str,
        routes: Routes,
        tls: Option<GatewayTls>,
    ) -> Result<SocketAddr, Error> {
        self.refuse_on_link("relay()")?;
        let (listener, at) = bind(address, "visitors")?;
        let (reply, answer) = bounded(1);
        self.command(Command::Relay { listener, table: Box::new(Table::new(routes)), tls, reply })?;
        answer.recv().map_err(|_| stopped())??;
        Ok(at)
    }

    /// Replaces the routes of a visitors' listener, at the address that [`relay`](Self::relay)
    /// returned. Connections stay; requests in progress keep the device and the waits that they
    /// began with, and the next request of every connection finds the new routes. What is in flight
    /// by a route counts on where the new one has the same host and path.
    ///
    /// # Errors
    /// Visitors do not come in at this address; the gateway was stopped.
    pub fn set_routes(&self, visitors: SocketAddr, routes: Routes) -> Result<(), Error> {
        let (reply, answer) = bounded(1);
        self.command(Command::SetRoutes {
            at: visitors,
            table: Box::new(Table::new(routes)),
            reply,
        })?;
        answer.recv().map_err(|_| stopped())?.map(drop)
    }

    /// Replaces the devices' [tokens](GatewayBuilder::tokens), for the next offer and the next
    /// poll. Links and polls that came in with a token that is gone, or has lost one of their
    /// names, are ended: at once where they idle (polls with 401), else behind what they have in
    /// hand, and in any case after [`Limits::take_over_grace`].
    ///
    /// # Errors
    /// The gateway was started without tokens, or was stopped.
    pub fn set_tokens(&self, tokens: Tokens) -> Result<(), Error> {
        self.replace_tokens(Whose::Devices, tokens)
    }

    /// Replaces the visitors' [tokens](GatewayBuilder::visitor_tokens), for the next request. What
    /// is in progress with a token that is gone, or is not for that device any more, goes on for
    /// [`Limits::take_over_grace`]; then it is ended: 401 where no answer has begun, else cut, and
    /// so are tunnels.
    ///
    /// # Errors
    /// The gateway was started without visitors' tokens, or was stopped.
    pub fn set_visitor_tokens(&self, tokens: Tokens) -> Result<(), Error> {
        self.replace_tokens(Whose::Visitors, tokens)
    }

    fn replace_tokens(&self, whose: Whose, tokens: Tokens) -> Result<(), Error> {
        let (reply, answer) = bounded(1);
        self.command(Command::SetTokens { whose, tokens: Box::new(tokens), reply })?;
        answer.recv().map_err(|_| stopped())?.map(drop)
    }

    /// A device by its name (or by an origin it registered). It need not be connected.
    pub fn device<'g>(&'g self, name: &str) -> DeviceRef<'g> {
        DeviceRef { gateway: self, name: name.to_owned() }
    }

    /// Takes a connection that another server has already turned (it read the offer and wrote the
    /// 101). `unread`: bytes it read beyond the offer (none, from a right device).
    ///
    /// # Errors
    /// The name is held by another credential, or full; the gateway has `on_link` or was stopped.
    /// The connection is closed then.
    pub fn adopt(
        &self,
        stream: impl Into<Stream>,
        unread: Vec<u8>,
        offer: Offer,
        grant: Grant,
    ) -> Result<(), Error> {
        self.refuse_on_link("adopt()")?;
        let stream = stream.into();
        let failed = |e| Error::io(Fault::Network, "adopting a connection", e);
        stream.tune().map_err(failed)?;
        stream.set_nonblocking(true).map_err(failed)?;
        let (reply, answer) = bounded(1);
        self.command(Command::Adopt { stream, unread, offer: Box::new(offer), grant, reply })?;
        answer.recv().map_err(|_| stopped())?
    }

    /// What happens to names from now on. At most [`Limits::events_max`] wait to be read.
    pub fn events(&self) -> Receiver<Event> {
        let (subscriber, events) = role::subscription(&self.limits);
        let (reply, subscribed) = bounded(1);
        // A gateway that was stopped has no events; then the receiver says at once that it is
        // disconnected.
        let _ =
            self.remote.send(Command::Subscribe { subscriber, reply }) && subscribed.recv().is_ok();
        events
    }

    /// Counters.
    pub fn stats(&self) -> GatewayStats {
        GatewayStats {
            devices: self.stats.devices.load(Relaxed),
            polls: self.stats.polls.load(Relaxed),
            turns: self.stats.turns.load(Relaxed),
            events: self.stats.events.load(Relaxed),
            exchanges: self.stats.exchanges.load(Relaxed),
            refused: self.stats.refused.load(Relaxed),
            ends: self.stats.ends.read(),
        }
    }

    /// Stops: nothing new comes in, idle links and visitors are closed, exchanges in progress may
    /// finish within `time`. Returns when all is over. It is a [`drain`](Self::drain) without
    /// notice.
    pub fn stop(&self, time: Duration) {
        self.drain(Duration::ZERO, time);
    }

    /// Stops so that a load balancer, or another gateway's devices, can be ahead of it. Returns
    /// when all is over.
    ///
    /// For the time of `notice` everything is served as ever, but the [health
    /// path](Routes::health_path) says 503, every answer ends its visitor's connection, and devices
    /// that come are sent away ([`GatewayBuilder::drain_to`]); one that polls here goes on. Then
    /// nothing new comes in, idle links and visitors are closed, devices that poll are let go, and
    /// exchanges in progress may finish within `time`; what is left then is ended: 502 where no
    /// answer has begun, else it is cut, and so are tunnels. Called again (from another thread),
    /// the earlier ends hold.
    pub fn drain(&self, notice: Duration, time: Duration) {
        self.remote.send(Command::Drain { notice, time });
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!("the gateway's event loop had panicked");
        }
    }

    /// Waits until the event loop has made a turn: for supervisors.
    ///
    /// # Errors
    /// It has not within `time`; the gateway was stopped.
    pub fn ping(&self, time: Duration) -> Result<(), Error> {
        let (reply, answer) = bounded(1);
        self.command(Command::Ping { reply })?;
        answer.recv_timeout(time).map_err(|e| match e {
            RecvTimeoutError::Timeout => Error::timeout(
                Fault::Gateway,
                format!("the gateway's event loop made no turn within {time:?}"),
            ),
            RecvTimeoutError::Disconnected => stopped(),
        })
    }

    /// Whether its event loop still runs. False after [`stop`](Self::stop), or when the operating
    /// system failed it.
    pub fn is_running(&self) -> bool {
        self.thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    fn refuse_on_link(&self, what: &str) -> Result<(), Error> {
        if self.only_links {
            return Err(Error::usage(format!(
                "{what} on a gateway with on_link: its links belong to that handler; start another gateway"
            )));
        }
        Ok(())
    }

    fn command(&self, command: Command) -> Result<(), Error> {
        if self.remote.send(command) { Ok(()) } else { Err(stopped()) }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

fn stopped() -> Error {
    Error::stopped("this gateway was stopped")
}

/// One device of a gateway, by name.
#[derive(Clone, Debug)]
pub struct DeviceRef<'g> {
    gateway: &'g Gateway,
    name: String,
}

impl DeviceRef<'_> {
    /// Asks the device, over a turned link, or by mailbox where it polls. Blocks until the
    /// response's head is here; its body streams.
    ///
    /// Waits up to [`Limits::wait_for_link`] for a link when none is idle. A request without a body
    /// and with an idempotent method is sent once more on a fresh link when the first was closed
    /// before a byte of the response came (RFC 9110 §9.2.2); others never. To a device that polls a
    /// request goes whole: its body is read into memory first, up to [`Limits::message_bytes_max`].
    ///
    /// # Errors
    /// Not connected (404 never seen, 503 no link in time), full, timed out (504), closed or broken
    /// by the device (502), stopped; for a device that polls also refused (413 the body is too
    /// long, 501 the request offers an upgrade).
    pub fn send(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        self.gateway.refuse_on_link("send()")?;
        let (parts, body) = request.into_parts();
        let whole = Whole::new("exchange_timeout", self.gateway.limits.exchange_timeout);
        let again = (body.length() == Some(0)
            && crate::proto::head::is_idempotent(parts.method.as_str()))
        .then(|| parts.clone());
        match (self.send_once(Request::from_parts(parts, body), whole), again) {
            (Err((e, true)), Some(parts)) if e.is_closed() => {
                self.send_once(Request::from_parts(parts, Body::empty()), whole).map_err(|(e, _)| e)
            }
            (other, _) => other.map_err(|(e, _)| e),
        }
    }

    /// The error comes with whether nothing of a response had arrived.
    fn send_once(
        &self,
        request: Request<Body>,
        whole: Option<Whole>,
    ) -> Result<Response<Body>, (Error, bool)> {
        let Lease { stream, unread, ticket, fate, airplay } =
            self.borrow(whole).map_err(|e| (e, false))?;
        let remote = self.gateway.remote.clone();
        let done = move |link: Result<(Shared, Vec<u8>), Option<CloseReason>>| {
            if ticket == NO_TICKET {
                return; // dropping it ends it
            }
            let back = |(stream, unread): (Shared, Vec<u8>)| {
                let stream = stream.into_inner()?;
                stream.set_nonblocking(true).ok()?;
                Some((stream, unread))
            };
            let unfinished = || {
                CloseCause::Program
                    .because("a program's exchange on it ended without a message boundary")
            };
            let stream = match link {
                Ok(link) => back(link).ok_or_else(unfinished),
                Err(why) => Err(why.unwrap_or_else(unfinished)),
            };
            remote.send(Command::Return { ticket, stream });
        };
        if let Err(e) = stream.set_nonblocking(false) {
            done(Err(None));
            return Err((Error::io(Fault::Network, "making a link blocking", e), false));
        }
        let link =
            GatewayLink::within(Shared::new(stream), unread, self.gateway.link_limits.clone())
                .taking_events(airplay);
        let owned = Owned { first: None, whole, fate, done: Box::new(done) };
        // By mailbox the loop has tried again where that was allowed.
        link.ask_owned(request, owned)
            .map_err(|(e, NothingArrived(nothing))| (e, nothing && ticket != NO_TICKET))
    }

    fn borrow(&self, whole: Option<Whole>) -> Result<Lease, Error> {
        let (reply, answer) = bounded(1);
        let waits = Waits::of(&self.gateway.limits);
        let left = whole.map_or(waits.link.time, |whole| whole.left());
        let wait =
            if left < waits.link.time { Wait { time: left, ..waits.exchange } } else { waits.link };
        self.gateway.command(Command::Borrow { name: self.name.clone(), wait, reply })?;
        answer.recv().map_err(|_| stopped())?
    }

    /// Waits until the device is connected: it has a link, or polls.
    ///
    /// # Errors
    /// It is not within `time`; the gateway was stopped.
    pub fn wait(&self, time: Duration) -> Result<(), Error> {
        let (reply, answer) = bounded(1);
        self.gateway.command(Command::Wait { name: self.name.clone(), time, reply })?;
        match answer.recv_timeout(time.saturating_add(Duration::from_secs(5))) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => {
                Err(Error::timeout(Fault::Gateway, "the gateway's event loop did not answer"))
            }
            Err(RecvTimeoutError::Disconnected) => Err(stopped()),
        }
    }

    /// How many links the device has: in all, and idle.
    ///
    /// # Errors
    /// The gateway was stopped.
    pub fn links(&self) -> Result<(usize, usize), Error> {
        self.connection().map(|(all, idle, _)| (all, idle))
    }

    /// How the device is connected: over links, or by polls in one of two encodings; `None`: it is
    /// not.
    ///
    /// # Errors
    /// The gateway was stopped.
    pub fn transport(&self) -> Result<Option<Transport>, Error> {
        self.connection().map(|(_, _, transport)| transport)
    }

    fn connection(&self) -> Result<(usize, usize, Option<Transport>), Error> {
        let (reply, answer) = bounded(1);
        self.gateway.command(Command::Links { name: self.name.clone(), reply })?;
        answer.recv().map_err(|_| stopped())
    }
}

fn read_networks<I: IntoIterator<Item = S>, S: AsRef<str>>(
    whose: &str,
    networks: I,
    into: &mut Vec<Network>,
) -> Result<(), Error> {
    for network in networks {
        into.push(
            network
                .as_ref()
                .parse()
                .map_err(|e: Refusal| Error::usage(format!("{whose}: {}", e.reason)))?,
        );
    }
    Ok(())
}

/// An origin as browsers write it (RFC 6454 §6.2), of any scheme: it is only compared.
fn check_origin(origin: &str) -> Result<(), Error> {
    let serialised = origin.split_once("://").is_some_and(|(scheme, rest)| {
        !scheme.is_empty() && !rest.is_empty() && !rest.contains('/')
    });
    if serialised
        && origin
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'*' && !byte.is_ascii_uppercase())
    {
        return Ok(());
    }
    Err(Error::usage(format!(
        "CORS origin {origin:?}: write one origin as browsers do, like https://app.example or http://127.0.0.1:8080, without a path"
    )))
}

/// Binds with a real backlog (std and mio fix 128: a fleet that comes back at once overflows that).
fn bind(address: &str, whose: &str) -> Result<(TcpListener, SocketAddr), Error> {
    let doing = |e: io::Error| {
        let hint = match e.kind() {
            io::ErrorKind::AddrInUse => {
                "; another program has this port: stop it or choose another port"
            }
            io::ErrorKind::PermissionDenied => {
                "; ports below 1024 need privileges: choose another port"
            }
            io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
            _ => "",
        };
        Error::io(Fault::Network, format_args!("listening for {whose} on {address}{hint}"), e)
    };
    let candidates: Vec<SocketAddr> = address.to_socket_addrs().map_err(doing)?.collect();
    let Some(at) = candidates.first() else {
        return Err(Error::usage(format!("listening for {whose}: {address} names no address")));
    };
    let socket =
        socket2::Socket::new(socket2::Domain::for_address(*at), socket2::Type::STREAM, None)
            .map_err(doing)?;
    socket.set_reuse_address(true).map_err(doing)?;
    socket.bind(&(*at).into()).map_err(doing)?;
    socket.listen(BACKLOG).map_err(doing)?;
    let listener = TcpListener::from(socket);
    let at = listener.local_addr().map_err(doing)?;
    Ok((listener, at))
}

/// The kernel cuts it to `net.core.somaxconn` (4,096 on Linux since 5.4).
const BACKLOG: i32 = 4096;
