//! How a gateway is set up and started.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use crate::clock::Clock;
use crate::engine::door::Door;
use crate::engine::event_loop::EventLoop;
use crate::engine::group::Group;
use crate::error::{Error, Fault, Refusal};
use crate::gateway::alarms::FIRST_ALARM;
use crate::gateway::handle::{Gateway, Running};
use crate::gateway::ledger::Told;
use crate::gateway::listeners::bind;
use crate::gateway::loops::Loops;
use crate::gateway::offer::{Grant, Offer, Reject};
use crate::gateway::peers::Peers;
use crate::gateway::settings::{InForce, Settings, TurnMode};
use crate::gateway::state::{Command, Common, EACH_ACCEPTS, GatewayRole, Outdated, TICK};
use crate::gateway::tokens::Tokens;
use crate::limits::{LOOPS_MAX, Limits};
use crate::link::GatewayLink;
use crate::observe::Observer;
use crate::observe::table::Bounds;
use crate::proto::authority::authority;
use crate::proto::dialect::Dialect;
use crate::proto::forwarded::Network;
use crate::proto::turn::{Fallback, Name};
use crate::setting::{
    DEVICES_ALLOW, DEVICES_PROXY_PROTOCOL, DRAIN_TO, TRUSTED_PROXIES, VIA, VISITORS_ALLOW,
    VISITORS_PROXY_PROTOCOL,
};
use crate::stream::GatewayTls;

/// Longest pseudonym in `Via`, in bytes; the room that a hop has for its fields is for all of them.
const VIA_BYTES_MAX: usize = 64;

/// Sets a [`Gateway`] up.
///
/// ```
/// use std::time::Duration;
/// use reverse_http::{Gateway, Limits};
///
/// let mut limits = Limits::default();
/// limits.first_byte_timeout = Duration::from_secs(20);
/// let gateway = Gateway::builder().listen("127.0.0.1:0").limits(limits).start()?;
/// assert_ne!(gateway.devices_addr().port(), 0); // where devices connect
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[must_use = "a gateway runs from start() on"]
pub struct GatewayBuilder {
    addresses: Vec<(String, Option<GatewayTls>)>,
    via: Option<Arc<str>>,
    loops: Option<usize>,
    #[cfg_attr(not(feature = "admin"), allow(dead_code))]
    observe: bool,
    /// The fault of the first invalid option; [`check`](Self::check) returns it.
    invalid: Option<String>,
    pub(super) settings: Settings,
}

/// Shows no certificate and no token.
impl fmt::Debug for GatewayBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<&str> = self.addresses.iter().map(|(address, _)| &**address).collect();
        f.debug_struct("GatewayBuilder").field("listen", &addresses).finish_non_exhaustive()
    }
}

impl GatewayBuilder {
    pub(super) fn new() -> Self {
        GatewayBuilder {
            addresses: Vec::new(),
            via: None,
            loops: None,
            observe: false,
            invalid: None,
            settings: Settings::default(),
        }
    }

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
        self.settings.set_limits(limits);
        self
    }
    /// Adds a row to the dialect table (protocol.md §1.2).
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.settings.offer_rules.dialects.push(dialect);
        self
    }
    /// Takes offers without `Host` (AirPlay senders). Default: 400.
    pub fn missing_host(mut self, take: bool) -> Self {
        self.settings.offer_rules.missing_host = take;
        self
    }
    /// Insists on `Connection: upgrade`. Default: the seed's own form, which omits it, is taken
    /// where nothing shows an intermediary.
    pub fn strict_connection(mut self, strict: bool) -> Self {
        self.settings.offer_rules.strict_connection = strict;
        self
    }
    /// When offers are answered. Default: at once.
    pub fn turn(mut self, mode: TurnMode) -> Self {
        self.settings.turns.others = mode;
        self
    }
    /// The same for one device name or origin, whatever [`turn`](Self::turn) says of the others:
    /// some devices of other makes open a link for every 101, and want it when there is a request;
    /// others do not know what a 204 is.
    pub fn turn_of(mut self, name: &str, mode: TurnMode) -> Self {
        let parsed = if name.contains("://") { Name::origin(name) } else { Name::label(name) };
        match parsed {
            Ok(name) => drop(self.settings.turns.own.insert(name.to_string(), mode)),
            Err(e) => self.note_invalid(format!("when {name} is turned: {}", e.reason)),
        }
        self
    }
    /// Whether devices may poll where no upgrade gets through (protocol.md §2). Default:
    /// [`Fallback::Auto`].
    pub fn fallback(mut self, fallback: Fallback) -> Self {
        self.settings.fallback = fallback;
        self
    }
    /// Lets pages of this origin (`https://app.example`, as browsers write it in `Origin`) use the
    /// devices' port, so that a browser's tab can be a device. May be called several times.
    /// Default: none; a request with another `Origin` gets 403.
    pub fn cors_origin(mut self, origin: impl Into<String>) -> Self {
        self.settings.cors_origins.push(origin.into());
        self
    }
    /// Lets several devices with the same credential have one name at the same time: requests go
    /// round robin over those that are connected. Default: a new device takes the name over.
    pub fn shared_names(mut self, shared: bool) -> Self {
        self.settings.shared_names = shared;
        self
    }
    /// Forwards visitors' fields whose names have an underscore. Default: dropped, since many
    /// servers take `_` for `-`.
    pub fn keep_underscore(mut self, keep: bool) -> Self {
        self.settings.keep_underscore = keep;
        self
    }
    /// Takes the word of visitors' peers in these networks (addresses, or CIDR blocks such as
    /// `10.0.0.0/8`): they are proxies that asked for somebody else. What they say in
    /// `X-Forwarded-For`, `-Proto`, `-Host`, `-Port`, `-Prefix` and `Forwarded` goes on, written
    /// anew, with what this gateway adds behind it; and `X-Forwarded-Proto` is the scheme that an
    /// IETF origin is compared with. May be called several times. Default: nobody; what comes in
    /// these fields is overwritten.
    pub fn trusted_proxies<I: IntoIterator<Item = S>, S: AsRef<str>>(self, networks: I) -> Self {
        self.read_networks(("trusted proxies", TRUSTED_PROXIES), networks, |settings| {
            &mut settings.trusted
        })
    }
    /// The pseudonym of this gateway in `Via`. A request that names it already has come round in a
    /// circle, and is answered 508. Give several gateways the same one where they stand side by
    /// side, never where one forwards to the other. Default: `ptth-` and a random number, another
    /// one for each gateway and each start.
    /// It is a token (RFC 9110 §5.6.2) of at most 64 bytes.
    pub fn via(mut self, pseudonym: &str) -> Self {
        if pseudonym.len() > VIA_BYTES_MAX || !crate::proto::head::is_token(pseudonym.as_bytes()) {
            self.note_invalid(format!(
                "via {pseudonym:?} ({VIA}) is no pseudonym: it has 1 to {VIA_BYTES_MAX} letters, digits, and marks such as - . _, without blanks"
            ));
        }
        self.via = Some(pseudonym.into());
        self
    }
    /// Also names the visitor to devices in `Forwarded` (RFC 7239): `for=…;host=…;proto=…`. A
    /// visitor's own field is replaced, a trusted proxy's gets one more element. Default: only
    /// `X-Forwarded-*` is written.
    pub fn forwarded(mut self, write: bool) -> Self {
        self.settings.forwarded_element = write;
        self
    }
    /// Where a gateway that stops sends the devices that come to it: the origin of another gateway
    /// (`http://b.example:9999`). New ones get 307 with it and their own path from the first moment
    /// of a [`drain`](Gateway::drain) on; those that were connected, and dial again, for
    /// [`Limits::abandoned_timeout`] after its notice. Default: none, they get 503 with
    /// `Retry-After`.
    pub fn drain_to(mut self, origin: &str) -> Self {
        let bare = origin.strip_suffix('/').unwrap_or(origin);
        let scheme = ["http://", "https://"].into_iter().find(|scheme| bare.starts_with(scheme));
        let named = scheme.and_then(|scheme| {
            authority(&bare.as_bytes()[scheme.len()..])
                .ok()
                .map(|host| format!("{scheme}{}", host.whole))
        });
        if named.is_none() {
            self.note_invalid(format!(
                "drain to {origin:?} ({DRAIN_TO}): write another gateway like http://b.example:9999, without a path"
            ));
        }
        self.settings.drain_to = named;
        self
    }
    /// Lets in only devices that show one of these tokens on every offer and poll, as
    /// `Authorization: Bearer TOKEN` or as the password of `Basic`, whose user is not looked at;
    /// and only under names that the token is for. Without a known one: 401; with one for other
    /// names: 403, whether the name is held or not. The token also identifies the device: another
    /// token gets 409 while the name is held. With [`authorize`](Self::authorize), which is asked
    /// after this, both have to agree, also about names that it grants; an identity that it gives
    /// ([`Grant::to`]) stands in the token's place. A connection that is [adopted](Gateway::adopt)
    /// is its program's to check. Default: no token is asked for.
    pub fn tokens(mut self, tokens: Tokens) -> Self {
        self.settings.tokens = Some(Arc::new(tokens));
        self
    }
    /// Lets visitors ask only with one of these tokens, shown as devices show theirs, and only
    /// devices that it is for. Without a known one: 401, whatever was asked for; with one for other
    /// devices: 403. That `Authorization` is this gateway's and does not go on to the device; where
    /// the application needs it for itself the token comes as `PTTH-Authorization`, which then
    /// counts alone, and never goes on. Default: every client that reaches the address may ask.
    pub fn visitor_tokens(mut self, tokens: Tokens) -> Self {
        self.settings.visitor_tokens = Some(Arc::new(tokens));
        self
    }
    /// Takes connections of devices only from these networks (addresses, or CIDR blocks); others
    /// are closed at once. What counts is the address of the connection, a proxy's where there is
    /// one. May be called several times. Default: from everywhere.
    pub fn devices_allow<I: IntoIterator<Item = S>, S: AsRef<str>>(self, networks: I) -> Self {
        self.read_networks(("networks of devices", DEVICES_ALLOW), networks, |settings| {
            &mut settings.devices.allow
        })
    }
    /// Takes connections of visitors only from these networks; others get 403 and are closed. The
    /// rest as with [`devices_allow`](Self::devices_allow).
    pub fn visitors_allow<I: IntoIterator<Item = S>, S: AsRef<str>>(self, networks: I) -> Self {
        self.read_networks(("networks of visitors", VISITORS_ALLOW), networks, |settings| {
            &mut settings.visitors.allow
        })
    }
    /// Connections of devices from these networks (addresses, or CIDR blocks) come through a TCP
    /// balancer, which sends a PROXY header before them, of version 1 or 2: HAProxy's `send-proxy`
    /// and `send-proxy-v2`, nginx's `proxy_protocol on`. The peer that it names counts wherever an
    /// address does: for allowed networks, bounds for each address, logs, and
    /// [`Offer::peer`](crate::Offer::peer). Where it names none (LOCAL, UNKNOWN) the balancer's own
    /// address counts. The header comes before TLS, within
    /// [`Limits::handshake_timeout`]; a connection without a
    /// whole and valid one is closed. From all other addresses it is never looked for. May be
    /// called several times. Default: from nowhere.
    ///
    /// ```
    /// # use reverse_http::{Gateway, Routes};
    /// let gateway = Gateway::builder()
    ///     .listen("127.0.0.1:0")
    ///     .visitors_proxy_protocol(["10.0.0.7", "fd00::/8"])
    ///     .start()?;
    /// gateway.listen_visitors("127.0.0.1:0", Routes::path())?;
    /// # Ok::<(), reverse_http::Error>(())
    /// ```
    pub fn devices_proxy_protocol<I: IntoIterator<Item = S>, S: AsRef<str>>(
        self,
        networks: I,
    ) -> Self {
        self.read_networks(
            ("balancers before the devices' port", DEVICES_PROXY_PROTOCOL),
            networks,
            |settings| &mut settings.devices.balancers,
        )
    }
    /// The same for visitors' connections; the peer that the header names is also the one in
    /// `X-Forwarded-For` and `Forwarded`, and that [`trusted_proxies`](Self::trusted_proxies) are
    /// looked for.
    pub fn visitors_proxy_protocol<I: IntoIterator<Item = S>, S: AsRef<str>>(
        self,
        networks: I,
    ) -> Self {
        self.read_networks(
            ("balancers before the visitors' port", VISITORS_PROXY_PROTOCOL),
            networks,
            |settings| &mut settings.visitors.balancers,
        )
    }
    /// Other gateways: requests for devices that are connected there are sent to them, and theirs
    /// are taken where [`listen_peers`](Gateway::listen_peers) lets them in. Default: a device that
    /// is not connected here is away.
    pub fn peers(mut self, peers: Peers) -> Self {
        self.settings.peers = Some(peers);
        self
    }
    /// How many event loops the gateway has, 1 to 64, each on a thread of its own. Every device is
    /// served by one of them, with all its visitors; several use several cores when there are
    /// several devices. Default: 1.
    pub fn loops(mut self, loops: usize) -> Self {
        self.loops = Some(loops);
        self
    }
    /// Decides about each offer, on a worker thread, before the 101. Without it everybody may
    /// register.
    pub fn authorize(
        mut self,
        decide: impl Fn(&Offer) -> Result<Grant, Reject> + Send + Sync + 'static,
    ) -> Self {
        self.settings.authorize = Some(Arc::new(decide));
        self
    }
    /// Counts for operators what each device does and how its requests end, for
    /// [`Gateway::admin`](crate::Gateway::admin) (feature `admin`); of as many names as
    /// [`Limits::devices_max`] and [`Limits::remembered_max`] together allow. It takes about 1 KiB
    /// of memory for a device that nobody asks, and less than 16 KiB for a busy one, all of it
    /// counted in [`Limits::memory_bytes_max`], of which it may be an eighth. Default: no.
    #[cfg(feature = "admin")]
    pub fn observe(mut self, observe: bool) -> Self {
        self.observe = observe;
        self
    }
    /// Hands each turned connection to this handler, on a worker thread that it then holds: plain
    /// blocking code. Such a gateway serves nothing else: `send()`, `listen_visitors()` and `adopt()` are
    /// refused.
    pub fn on_link(mut self, handler: impl Fn(GatewayLink) + Send + Sync + 'static) -> Self {
        self.settings.on_link = Some(Arc::new(handler));
        self
    }

    /// Of several invalid options the first one is told.
    fn note_invalid(&mut self, why: String) {
        self.invalid.get_or_insert(why);
    }

    fn read_networks<I: IntoIterator<Item = S>, S: AsRef<str>>(
        mut self,
        (whose, setting): (&str, &str),
        networks: I,
        into: fn(&mut Settings) -> &mut Vec<Network>,
    ) -> Self {
        for network in networks {
            match network.as_ref().parse() {
                Ok(network) => into(&mut self.settings).push(network),
                Err(Refusal { reason, .. }) => {
                    self.note_invalid(format!("{whose} ({setting}): {reason}"));
                }
            }
        }
        self
    }

    /// Validates everything that can be validated without binding an address.
    ///
    /// # Errors
    /// Those of [`start`](Self::start) that no address causes.
    pub fn check(&self) -> Result<(), Error> {
        let settings = &self.settings;
        if let Some(invalid) = &self.invalid {
            return Err(Error::usage(invalid.clone()));
        }
        settings.limits.check()?;
        if self.loops.is_some_and(|loops| !(1..=LOOPS_MAX).contains(&loops)) {
            return Err(Error::usage(format!("a gateway has 1 to {LOOPS_MAX} event loops")));
        }
        for origin in &settings.cors_origins {
            check_origin(origin)?;
        }
        if settings.on_link.is_some() && settings.fallback == Fallback::Only {
            return Err(Error::usage(
                "on_link and a fallback that is always used exclude each other: a device that polls has no link",
            ));
        }
        if settings.fallback == Fallback::Only && settings.turns.ever_hold() {
            return Err(Error::usage(
                "on-demand turns and a fallback that is always used exclude each other: no offer is upgraded, so none is held",
            ));
        }
        if settings.on_link.is_some() && settings.peers.is_some() {
            return Err(Error::usage(
                "on_link and peers exclude each other: a gateway with on_link serves no requests",
            ));
        }
        if settings.on_link.is_some() && settings.turns.ever_hold() {
            return Err(Error::usage(
                "on_link and on-demand turns exclude each other: a held offer waits for a request, and on_link has none",
            ));
        }
        Ok(())
    }

    /// Binds, and starts each event loop on a thread of its own.
    ///
    /// # Errors
    /// A limit that cannot work; two of `on_link`, on-demand turns and a fallback that is always
    /// used; `on_link` and peers; an invalid origin, network, device name or pseudonym; an address that cannot be bound
    /// (taken, not ours).
    pub fn start(self) -> Result<Gateway, Error> {
        self.start_on(None).map(|(gateway, _)| gateway)
    }

    /// The same on a test's clock, with a door for devices within this process.
    pub(crate) fn start_on(
        self,
        clock: Option<Clock>,
    ) -> Result<(Gateway, Option<Weak<Door>>), Error> {
        self.check()?;
        let mut settings = self.settings;
        let failed =
            |e: io::Error| Error::io(Fault::Network, "starting the gateway's event loop", e);
        let number_of_loops = self.loops.unwrap_or(1);
        let group = Group::new(number_of_loops, &settings.limits);
        let (mut event_loops, mut remotes) = (Vec::new(), Vec::new());
        for number in 0..number_of_loops {
            let made = EventLoop::<GatewayRole>::of_group(&settings.limits, group.clone(), number);
            let (mut event_loop, remote) = made.map_err(failed)?;
            clock.iter().for_each(|clock| event_loop.follow(clock, &remote));
            event_loop.alarm(TICK, FIRST_ALARM);
            event_loops.push(event_loop);
            remotes.push(remote);
        }
        let mut devices = listen_for_devices(self.addresses, &mut event_loops)?;
        let addresses = devices.iter().map(|(at, _)| *at).collect();
        let door = clock.as_ref().and_then(|_| event_loops[0].open(&remotes[0]));
        devices.extend(door.as_ref().map(|_| (WITHIN, None)));
        let knows_visitors = settings.visitor_tokens.is_some();
        let (only_links, observes) = (settings.on_link.is_some(), self.observe);
        if only_links {
            settings.fallback = Fallback::Never; // it asks nothing itself, so a poll would wait for nothing
        }
        if observes {
            settings.observer = Observer::on(Bounds::of(&settings.limits));
        }
        settings.via = self.via.unwrap_or_else(random_via);
        let limits = InForce::new(settings.limits.clone());
        let common = Common::new(settings);
        let stats = common.stats();
        let loops = Loops::new(remotes, common.directory());
        let mut running = Running {
            #[cfg(feature = "admin")]
            first_events: Mutex::new(observes.then(|| common.subscribe())),
            loops: loops.clone(),
            limits,
            stats,
            addresses,
            only_links,
            knows_visitors,
            observes,
            upgrades: common.upgrades(),
            cluster: common.peers(),
            threads: Mutex::default(),
            clock,
            tables: Mutex::default(),
        };
        if let Some(cluster) = &running.cluster {
            cluster.start(tell_loops(loops.clone()))?;
        }
        for (number, event_loop) in event_loops.into_iter().enumerate() {
            let place = (loops.clone(), number);
            let role = GatewayRole::new(&common, place, devices.clone());
            // Where this fails the gateway is dropped, which ends those that run.
            let thread = run(event_loop, role, loops.clone(), number).map_err(failed)?;
            running.threads.get_mut().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        match number_of_loops {
            1 => log::info!("the gateway has 1 event loop"),
            _ => log::info!("the gateway has {number_of_loops} event loops"),
        }
        Ok((Gateway(Arc::new(running)), door))
    }
}

/// Stands for the address of devices within this process.
const WITHIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// How the loops hear of a table that several gateways share.
fn tell_loops(loops: Loops<Command>) -> impl Fn(Told) {
    move |told| match told {
        Told::Changed(change) => {
            let what = change.map_or(Outdated::All, |change| Outdated::Moved(Arc::new(change)));
            loops.send_others(loops.len(), || Command::ForgetPeers { what: what.clone() });
        }
        Told::Lost { name, epoch, to } => {
            loops.send_others(loops.len(), || Command::LostName { name: name.clone(), epoch, to });
        }
    }
}

/// Binds the addresses, for each loop a socket where the system shares connections out.
fn listen_for_devices(
    addresses: Vec<(String, Option<GatewayTls>)>,
    event_loops: &mut [EventLoop<GatewayRole>],
) -> Result<Vec<(SocketAddr, Option<GatewayTls>)>, Error> {
    let sockets = if EACH_ACCEPTS { event_loops.len() } else { 1 };
    let mut devices = Vec::new();
    for (address, tls) in addresses {
        let (listeners, at) = bind(&address, "devices", sockets)?;
        for (listener, event_loop) in listeners.into_iter().zip(event_loops.iter_mut()) {
            if !event_loop.listen(listener) {
                return Err(Error::usage(
                    "a gateway listens on as many addresses as one event loop takes",
                ));
            }
        }
        devices.push((at, tls));
    }
    Ok(devices)
}

/// Runs a loop on a thread of its own.
fn run(
    event_loop: EventLoop<GatewayRole>,
    role: GatewayRole,
    loops: Loops<Command>,
    number: usize,
) -> io::Result<JoinHandle<()>> {
    let name = match number {
        0 => "ptth-gateway".to_owned(),
        number => format!("ptth-gateway.{number}"),
    };
    std::thread::Builder::new().name(name).spawn(move || {
        if let Err(e) = event_loop.run(role) {
            log::error!("the gateway's event loop ended: {e}");
        }
        loops.wake_all(); // they end when there is nothing left anywhere
    })
}

impl Gateway {
    /// A builder with every default.
    pub fn builder() -> GatewayBuilder {
        GatewayBuilder::new()
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
