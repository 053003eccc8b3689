//! Builds and starts a gateway.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;

use crate::clock::Clock;
use crate::engine::event_loop::EventLoop;
use crate::engine::group::Group;
use crate::engine::loop_threads::LoopThreads;
use crate::engine::pair_network::PairListener;
use crate::error::{Error, Fault, Refusal};
use crate::gateway::alarms::FIRST_ALARM;
use crate::gateway::changes::Outdated;
use crate::gateway::handle::{Gateway, Running};
use crate::gateway::ledger::Told;
use crate::gateway::listeners::bind;
use crate::gateway::loops::Loops;
use crate::gateway::offer::{Grant, Offer, Reject};
use crate::gateway::peers::{Cluster, Peers};
use crate::gateway::secrets;
use crate::gateway::settings::{InForce, Settings, TurnMode};
use crate::gateway::sign_in;
use crate::gateway::state::{Command, Common, EACH_ACCEPTS, GatewayRole, TICK};
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
    DEVICES_ALLOW, DEVICES_PROXY_PROTOCOL, DRAIN_TO, TRUSTED_PROXIES, VIA, VISITOR_TOKENS,
    VISITORS_ALLOW, VISITORS_PROXY_PROTOCOL,
};
use crate::stream::GatewayTls;

/// The longest pseudonym in `Via`, in bytes: it has to fit into the room that a hop has for its
/// fields.
const VIA_BYTES_MAX: usize = 64;

/// Builds a [`Gateway`].
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
    /// The error of the first invalid option; [`check`](Self::check) returns it.
    invalid: Option<String>,
    pub(super) settings: Settings,
}

/// Shows neither certificates nor tokens.
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

    /// Listens for devices on this address, such as `127.0.0.1:9999` (port 0: any free port). May
    /// be called several times.
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
    /// Accepts offers without `Host`, as AirPlay senders make them. Default: they get 400.
    pub fn missing_host(mut self, take: bool) -> Self {
        self.settings.offer_rules.missing_host = take;
        self
    }
    /// Requires `Connection: upgrade` of offers. Default: an offer without it, as the original
    /// protocol's description has it, is accepted unless something reveals an intermediary.
    pub fn strict_connection(mut self, strict: bool) -> Self {
        self.settings.offer_rules.strict_connection = strict;
        self
    }
    /// When offers are answered. Default: at once.
    pub fn turn(mut self, mode: TurnMode) -> Self {
        self.settings.turns.others = mode;
        self
    }
    /// The same for one device name or origin, which takes precedence over [`turn`](Self::turn):
    /// some third-party devices open a new link after every 101, so they should get one only when
    /// there is a request; others do not understand a 204.
    pub fn turn_of(mut self, name: &str, mode: TurnMode) -> Self {
        let parsed = if name.contains("://") { Name::origin(name) } else { Name::label(name) };
        match parsed {
            Ok(name) => drop(self.settings.turns.own.insert(name.to_string(), mode)),
            Err(e) => self.note_invalid(format!("when {name} is turned: {}", e.reason)),
        }
        self
    }
    /// Whether devices may poll where upgrades are blocked (protocol.md §2). Default:
    /// [`Fallback::Auto`].
    pub fn fallback(mut self, fallback: Fallback) -> Self {
        self.settings.fallback = fallback;
        self
    }
    /// Lets web pages of this origin (`https://app.example`, as browsers write it in `Origin`) use
    /// the devices' port, so that a browser tab can be a device. May be called several times.
    /// Default: none; a request with another `Origin` gets 403.
    pub fn cors_origin(mut self, origin: impl Into<String>) -> Self {
        self.settings.cors_origins.push(origin.into());
        self
    }
    /// Lets several devices with the same credential share a name: requests are distributed over
    /// the connected ones in turn. Default: a new device takes the name over.
    pub fn shared_names(mut self, shared: bool) -> Self {
        self.settings.shared_names = shared;
        self
    }
    /// Forwards visitors' fields whose names contain an underscore, or another character besides
    /// letters, digits and `-`. Default: they are dropped, since many servers treat `_` as `-`, and
    /// some treat all of them so.
    pub fn keep_underscore(mut self, keep: bool) -> Self {
        self.settings.keep_underscore = keep;
        self
    }
    /// Trusts the proxies in these networks (addresses, or CIDR blocks such as `10.0.0.0/8`),
    /// through which visitors come. What they say in `X-Forwarded-For`, `-Proto`, `-Host`, `-Port`,
    /// `-Prefix` and `Forwarded` is rewritten and passed on, followed by what this gateway adds;
    /// and `X-Forwarded-Proto` is the scheme that an IETF origin is compared with. May be called
    /// several times. Default: none; these fields are overwritten.
    pub fn trusted_proxies<I: IntoIterator<Item = S>, S: AsRef<str>>(self, networks: I) -> Self {
        self.read_networks(("trusted proxies", TRUSTED_PROXIES), networks, |settings| {
            &mut settings.trusted
        })
    }
    /// The pseudonym of this gateway in `Via`, a token (RFC 9110 §5.6.2) of at most 64 bytes. A
    /// request that already names it has gone through a loop, and is answered with 508. Gateways
    /// that stand side by side should share a pseudonym, but never gateways of which one forwards to
    /// the other. Default: `ptth-` and a random number, different for each gateway and each start.
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
    /// visitor's own field is replaced; that of a trusted proxy gets one more element. Default:
    /// only `X-Forwarded-*` is written.
    pub fn forwarded(mut self, write: bool) -> Self {
        self.settings.forwarded_element = write;
        self
    }
    /// Where devices are sent while this gateway stops: the origin of another gateway
    /// (`http://b.example:9999`). New devices are redirected there with 307, to their own path,
    /// from the first moment of a [`drain`](Gateway::drain) on; devices that were connected and
    /// dial again, for [`Limits::abandoned_timeout`] after its notice. Default: none; they get 503
    /// with `Retry-After`.
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
    /// Admits only devices that present one of these tokens with every offer and poll, as
    /// `Authorization: Bearer TOKEN` or as the password of `Basic` (the user is ignored), and only
    /// under names that the token is bound to. Without a known token a device gets 401; with a
    /// token for other names it gets 403, whether or not the name is in use. The token also
    /// identifies the device: a device with another token gets 409 while the name is in use. With
    /// [`authorize`](Self::authorize), which is called afterwards, both have to agree, also on
    /// names that it grants; an identity that it returns ([`Grant::to`]) replaces the token's.
    /// [Adopted](Gateway::adopt) connections are not checked; that is up to the program. Default:
    /// no token is needed.
    pub fn tokens(mut self, tokens: Tokens) -> Self {
        self.settings.tokens = Some(Arc::new(tokens));
        self
    }
    /// Admits only visitors that present one of these tokens, in the same way as devices, and only
    /// to devices that the token is bound to. Without a known token a visitor gets 401, whatever it
    /// asks for; with a token for other devices, 403. That `Authorization` is for this gateway and
    /// is not passed on to the device. If the application needs `Authorization` for itself, the
    /// token goes into `PTTH-Authorization`, which is then the only one considered, and is never
    /// passed on. Default: every client that reaches the address is admitted.
    pub fn visitor_tokens(mut self, tokens: Tokens) -> Self {
        self.settings.visitor_tokens = Some(Arc::new(tokens));
        self
    }
    /// The keys of visitors' [sign-ins](crate::Routes::sign_in), for gateways that share them, and so
    /// that sign-ins outlast a restart: the first one signs, a sign-in by any of them counts. Write
    /// the same ones at all gateways, like what `openssl rand -base64 32` says. Default: one that
    /// is drawn at the start.
    ///
    /// 1 to 8 keys, each of 32 to 256 visible ASCII characters; with
    /// [`visitor_tokens`](Self::visitor_tokens).
    pub fn sign_in_keys<S: AsRef<str>>(mut self, keys: impl IntoIterator<Item = S>) -> Self {
        let keys = keys.into_iter().map(|key| key.as_ref().to_owned());
        self.settings.sign_in_keys = Some(keys.collect());
        self
    }
    /// Accepts connections of devices only from these networks (addresses, or CIDR blocks); others
    /// are closed at once. This is about the address of the connection, so about that of a proxy if
    /// there is one. May be called several times. Default: all networks.
    pub fn devices_allow<I: IntoIterator<Item = S>, S: AsRef<str>>(self, networks: I) -> Self {
        self.read_networks(("networks of devices", DEVICES_ALLOW), networks, |settings| {
            &mut settings.devices.allow
        })
    }
    /// Accepts connections of visitors only from these networks; others get 403 and are closed.
    /// Otherwise the same as [`devices_allow`](Self::devices_allow).
    pub fn visitors_allow<I: IntoIterator<Item = S>, S: AsRef<str>>(self, networks: I) -> Self {
        self.read_networks(("networks of visitors", VISITORS_ALLOW), networks, |settings| {
            &mut settings.visitors.allow
        })
    }
    /// Declares that connections of devices from these networks (addresses, or CIDR blocks) come
    /// through a TCP balancer, which begins each with a PROXY header of version 1 or 2 (HAProxy's
    /// `send-proxy` and `send-proxy-v2`, nginx's `proxy_protocol on`). The address in the header is
    /// used wherever an address matters: for allowed networks, limits for each address, logs, and
    /// [`Offer::remote_ip`](crate::Offer::remote_ip). If it names none (LOCAL, UNKNOWN), the
    /// balancer's own address is used. The header precedes TLS and must arrive within
    /// [`Limits::handshake_timeout`]; a connection without a complete and valid one is closed. On
    /// connections from other addresses it is never looked for. May be called several times.
    /// Default: no networks.
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
    /// The same for connections of visitors. The address in the header is also the one in
    /// `X-Forwarded-For` and `Forwarded`, and the one that is compared with
    /// [`trusted_proxies`](Self::trusted_proxies).
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
    /// Other gateways. Requests for devices that are connected there are sent to them; their
    /// requests are served if [`listen_peers`](Gateway::listen_peers) admits them. Default: a
    /// device that is not connected here is away.
    pub fn peers(mut self, peers: Peers) -> Self {
        self.settings.peers = Some(peers);
        self
    }
    /// How many event loops the gateway has, 1 to 64, each on its own thread. Each device, with all
    /// its visitors, is served by one of them, so several loops use several cores if there are
    /// several devices. Default: 1.
    pub fn loops(mut self, loops: usize) -> Self {
        self.loops = Some(loops);
        self
    }
    /// Decides about each offer, on a worker thread, before the 101. Default: everybody may
    /// register.
    pub fn authorize(
        mut self,
        decide: impl Fn(&Offer) -> Result<Grant, Reject> + Send + Sync + 'static,
    ) -> Self {
        self.settings.authorize = Some(Arc::new(decide));
        self
    }
    /// Whether to record what each device does and how its requests end, for
    /// [`Gateway::admin`](crate::Gateway::admin) (feature `admin`). This covers as many names as
    /// [`Limits::devices_max`] and [`Limits::remembered_max`] together allow. It takes about 1 KiB
    /// of memory for an idle device and less than 16 KiB for a busy one; it counts towards
    /// [`Limits::memory_bytes_max`] and takes at most an eighth of that. Default: no.
    #[cfg(feature = "admin")]
    pub fn observe(mut self, observe: bool) -> Self {
        self.observe = observe;
        self
    }
    /// Hands each turned connection to this handler, plain blocking code that occupies a worker
    /// thread while it runs. Such a gateway serves nothing else: `send()`, `listen_visitors()` and
    /// `adopt()` are refused.
    pub fn on_link(mut self, handler: impl Fn(GatewayLink) + Send + Sync + 'static) -> Self {
        self.settings.on_link = Some(Arc::new(handler));
        self
    }

    /// Of several invalid options the first one is reported.
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
    /// Those of [`start`](Self::start) that are not about an address.
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
        if let Some(keys) = &settings.sign_in_keys {
            secrets::checked(&sign_in::KEYS, keys)?;
            if settings.visitor_tokens.is_none() {
                return Err(Error::usage(format!(
                    "keys of sign-ins go with tokens of visitors ({VISITOR_TOKENS})"
                )));
            }
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

    /// Binds the addresses, and starts each event loop on its own thread.
    ///
    /// # Errors
    /// A limit cannot work; two of `on_link`, on-demand turns and a fallback that is always used
    /// are combined, or `on_link` and peers; an origin, network, device name or pseudonym is
    /// invalid; an address cannot be bound (it is taken, or not of this machine).
    pub fn start(self) -> Result<Gateway, Error> {
        self.start_on(None).map(|(gateway, _)| gateway)
    }

    /// Like [`start`](Self::start), on a test's clock, and with connections for devices within this
    /// process.
    pub(crate) fn start_on(
        self,
        clock: Option<Clock>,
    ) -> Result<(Gateway, Option<Weak<PairListener>>), Error> {
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
        // A listener has the same number in all loops, so each has the queue, and the first is used.
        let open = event_loops.iter_mut().zip(&remotes).filter(|_| clock.is_some());
        let queues: Vec<_> = open.map(|(event_loop, remote)| event_loop.open(remote)).collect();
        let pair_listener = queues.into_iter().next().flatten();
        devices.extend(pair_listener.as_ref().map(|_| (WITHIN, None)));
        let knows_visitors = settings.visitor_tokens.is_some();
        let (only_links, observes) = (settings.on_link.is_some(), self.observe);
        if only_links {
            settings.fallback = Fallback::Never; // it sends no requests, so polls would wait in vain
        }
        if observes {
            settings.observer = Observer::on(Bounds::of(&settings.limits));
        }
        settings.via = self.via.unwrap_or_else(random_via);
        let limits = InForce::new(settings.limits.clone());
        let common = Common::new(settings);
        let stats = common.stats();
        let loops = Loops::new(remotes, common.name_owners());
        let mut running = Running {
            #[cfg(feature = "admin")]
            first_events: Mutex::new(observes.then(|| common.subscribe())),
            loops: loops.clone(),
            limits,
            stats,
            addresses,
            only_links,
            knows_visitors,
            sign_ins: common.sign_ins(),
            observes,
            upgrades: common.upgrades(),
            cluster: common.peers(),
            threads: LoopThreads::default(),
            clock,
            tables: Mutex::default(),
        };
        if let Some(cluster) = &running.cluster {
            cluster.start(tell_loops(Arc::downgrade(cluster), loops.clone()))?;
        }
        for (number, event_loop) in event_loops.into_iter().enumerate() {
            let place = (loops.clone(), number);
            let role = GatewayRole::new(&common, place, devices.clone());
            // If this fails, the gateway is dropped, which ends the loops that run.
            let thread = run(event_loop, role, loops.clone(), number).map_err(failed)?;
            running.threads.push(thread);
        }
        match number_of_loops {
            1 => log::info!("the gateway has 1 event loop"),
            _ => log::info!("the gateway has {number_of_loops} event loops"),
        }
        Ok((Gateway(Arc::new(running)), pair_listener))
    }
}

/// The address that devices within this process have.
const WITHIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Tells the loops of changes in a table that several gateways share.
pub(super) fn tell_loops(cluster: Weak<Cluster>, loops: Loops<Command>) -> impl Fn(Told) {
    move |told| match told {
        Told::Changed(change) => {
            let what = change.map_or(Outdated::All, |change| {
                Outdated::Names(BTreeMap::from([(change.name, Some(change.gateway))]))
            });
            if let Some(cluster) = cluster.upgrade() {
                loops.send_once(cluster.changes(), &what, || Command::ForgetPeers);
            }
        }
        Told::Lost { name, epoch, to } => {
            loops.send_others(loops.len(), || Command::LostName { name: name.clone(), epoch, to });
        }
    }
}

/// Binds the addresses, with a socket for each loop if the system distributes connections.
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
        loops.wake_all(); // they end when no loop has a connection left
    })
}

impl Gateway {
    /// A builder with every default.
    pub fn builder() -> GatewayBuilder {
        GatewayBuilder::new()
    }
}

/// A unique pseudonym: two gateways in a row must not take each other's requests for loops.
fn random_via() -> Arc<str> {
    let mut bytes = [0; 4];
    if let Err(e) = crate::engine::random::fill(&mut bytes) {
        log::warn!("no random number for Via ({e}); the process's number is used instead");
        bytes = std::process::id().to_be_bytes();
    }
    format!("ptth-{:08x}", u32::from_be_bytes(bytes)).into()
}

/// Checks an origin in the form of browsers (RFC 6454 §6.2). Any scheme is allowed, because origins
/// are only compared.
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
