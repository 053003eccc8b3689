//! The handle on a running gateway.

#[cfg(feature = "tls")]
use std::collections::HashSet;
use std::fmt;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::clock::Clock;
use crate::engine::loop_threads::LoopThreads;
use crate::error::{Error, Fault};
use crate::gateway::changes::Outdated;
use crate::gateway::events;
use crate::gateway::events::GatewayEvent;
use crate::gateway::ledger::DirectoryStatus;
use crate::gateway::listeners::{Side, bind};
use crate::gateway::loops::Loops;
use crate::gateway::offer::{Grant, Offer};
use crate::gateway::offers::granted_names;
use crate::gateway::peers::Cluster;
#[cfg(feature = "admin")]
use crate::gateway::questions::Question;
#[cfg(feature = "redis")]
use crate::gateway::redis::RedisDirectory;
use crate::gateway::routes::{Routes, Table};
use crate::gateway::secrets;
use crate::gateway::settings::InForce;
use crate::gateway::sign_in::{self, SignIns};
use crate::gateway::state::{Command, EACH_ACCEPTS};
use crate::gateway::stats::{GatewayStats, Stats};
use crate::gateway::tokens::{Tokens, Whose};
#[cfg(feature = "admin")]
use crate::limits::EVENTS_CEILING;
use crate::limits::Limits;
#[cfg(feature = "admin")]
use crate::observe::records::ExchangeRecord;
use crate::setting::{ADVERTISE, VISITOR_TOKENS};
use crate::stream::{GatewayTls, Stream};
use crate::subscription::Subscription;
use crate::upgraded::Upgrades;

/// A handle on a running gateway. Clones refer to the same gateway; when the last of them and the
/// last [`DeviceRef`](crate::DeviceRef) are dropped, the gateway stops at once.
/// [`drain`](Gateway::drain) lets exchanges in progress finish.
///
/// ```
/// use reverse_http::{Body, Device, Gateway};
/// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
/// let url = format!("http://{}/lamp", gateway.devices_addr());
/// let device = Device::builder(&url).build()?.spawn(|_request| http::Response::new(Body::from("on")))?;
/// gateway.device("lamp").wait_connected(std::time::Duration::from_secs(5))?;
/// let mut response = gateway.device("lamp").send(http::Request::get("/status").body(Body::empty()).unwrap())?;
/// assert_eq!(response.body_mut().read_to_text(100)?, "on");
/// device.stop();
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "a gateway ends when the last of its handles is dropped"]
pub struct Gateway(pub(super) Arc<Running>);

pub(super) struct Running {
    pub(super) loops: Loops<Command>,
    pub(super) limits: InForce,
    pub(super) stats: Arc<Stats>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) only_links: bool,
    /// Visitors need a token.
    pub(super) knows_visitors: bool,
    pub(super) sign_ins: Arc<SignIns>,
    #[cfg_attr(not(feature = "admin"), allow(dead_code))]
    pub(super) observes: bool,
    /// Events since the start of a gateway that observes, for its first admin listener.
    #[cfg(feature = "admin")]
    pub(super) first_events: Mutex<Option<Subscription<GatewayEvent>>>,
    /// Upgraded connections that programs hold.
    pub(super) upgrades: Arc<Upgrades>,
    /// Its knowledge of other gateways.
    pub(super) cluster: Option<Arc<Cluster>>,
    pub(super) threads: LoopThreads,
    /// A test's clock, if there is one.
    pub(super) clock: Option<Clock>,
    /// The routes of visitors' listeners. Held while listeners, routes or certificates are changed,
    /// so that every loop sees the changes in one order.
    pub(super) tables: Mutex<Vec<(SocketAddr, Arc<Table>)>>,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("addresses", &self.0.addresses)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Gateway {
    /// The first address that devices connect to.
    ///
    /// # Panics
    /// If the builder was given no address to listen on.
    #[must_use]
    pub fn devices_addr(&self) -> SocketAddr {
        self.0.addresses[0]
    }

    /// Listens for visitors on this address, over plain HTTP. Returns the address that was bound.
    ///
    /// # Errors
    /// It cannot be bound; the gateway has `on_link`; it was stopped.
    pub fn listen_visitors(&self, address: &str, routes: Routes) -> Result<SocketAddr, Error> {
        self.listen_visitors_with(address, routes, None)
    }

    /// Listens for visitors on this address, over TLS (feature `tls`). Returns the address that was
    /// bound. Devices receive `X-Forwarded-Proto: https`.
    ///
    /// # Errors
    /// Those of [`listen_visitors`](Self::listen_visitors).
    #[cfg(feature = "tls")]
    pub fn listen_visitors_tls(
        &self,
        address: &str,
        routes: Routes,
        tls: GatewayTls,
    ) -> Result<SocketAddr, Error> {
        self.listen_visitors_with(address, routes, Some(tls))
    }

    /// Replaces the TLS settings of the listener that was bound to this address (feature `tls`).
    /// This takes effect at the next handshake; sessions that began before are not resumed.
    /// Connections stay, except those whose client certificate the new
    /// [`client_ca`](GatewayTls::client_ca) does not accept: they end like those with a
    /// [token](Self::set_tokens) that was removed.
    ///
    /// # Errors
    /// The gateway does not speak TLS at this address, or was stopped.
    #[cfg(feature = "tls")]
    pub fn set_tls(&self, at: SocketAddr, tls: GatewayTls) -> Result<(), Error> {
        let _one_at_a_time = self.tables();
        let mut refused = HashSet::new();
        let mut number = None;
        for answer in self.ask(|reply| Command::SetTls { at, tls: tls.clone(), reply })? {
            let (listener, shown) = answer?;
            number = Some(listener); // it is the same in every loop
            // The loop must not be blocked by checks of thousands of chains.
            let not_taken = shown.iter().filter(|shown| !tls.accepts(shown));
            refused.extend(not_taken.map(|shown| shown.key()));
        }
        let Some(listener) = number else { return Err(stopped()) };
        // Connections that were between two loops are known only now. Later ones have come from a
        // loop that was asked while they were there.
        let refuse = |refused: &HashSet<_>| {
            self.ask(|reply| Command::RefuseCertificates {
                listener,
                refused: refused.clone(),
                reply,
            })
        };
        let arrived = refuse(&refused)?.into_iter().flatten().filter(|shown| !tls.accepts(shown));
        let (before, late) = (refused.len(), arrived.map(|shown| shown.key()).collect::<Vec<_>>());
        refused.extend(late);
        if refused.len() > before {
            refuse(&refused)?;
        }
        Ok(())
    }

    fn listen_visitors_with(
        &self,
        address: &str,
        routes: Routes,
        tls: Option<GatewayTls>,
    ) -> Result<SocketAddr, Error> {
        self.refuse_on_link("listen_visitors()")?;
        self.check_routes(&routes)?;
        let mut tables = self.tables();
        let (listeners, at) = self.bind(address, "visitors")?;
        let mut table = Table::new(routes);
        let place = tables.iter().position(|(of, _)| *of == at);
        // Requests in flight by the routes of a closed listener keep counting.
        place.into_iter().for_each(|place| table.succeed(&tables[place].1));
        let table = Arc::new(table);
        self.listen_as(listeners, at, (&Side::Visitors(table.clone()), tls))?;
        place.into_iter().for_each(|place| drop(tables.swap_remove(place)));
        tables.push((at, table));
        Ok(at)
    }

    /// Devices, or other gateways.
    fn listen_with(
        &self,
        address: &str,
        (side, whose): (&Side, &str),
        tls: Option<GatewayTls>,
    ) -> Result<SocketAddr, Error> {
        let _one_at_a_time = self.tables();
        let (listeners, at) = self.bind(address, whose)?;
        self.listen_as(listeners, at, (side, tls)).map(|()| at)
    }

    /// Binds a socket for each loop, if the system distributes connections.
    fn bind(&self, address: &str, whose: &str) -> Result<(Vec<TcpListener>, SocketAddr), Error> {
        let sockets = if EACH_ACCEPTS { self.0.loops.len() } else { 1 };
        bind(address, whose, sockets)
    }

    fn listen_as(
        &self,
        listeners: Vec<TcpListener>,
        at: SocketAddr,
        (side, tls): (&Side, Option<GatewayTls>),
    ) -> Result<(), Error> {
        let mut listeners = listeners.into_iter();
        self.ask_each(|reply| {
            let (listener, tls) = (listeners.next(), tls.clone().map(Box::new));
            Command::Listen { listener, at, side: side.clone(), tls, reply }
        })
    }

    /// Listens for other gateways on this address, which send requests of their visitors for
    /// devices of this gateway. Returns the address that was bound. Other gateways use it, unless
    /// [`Peers::advertise`](crate::Peers::advertise) says otherwise.
    ///
    /// Requests on this port are trusted: they name their visitors as a trusted proxy would. So it
    /// is for gateways only, which present their shared [secret](crate::Peers::secrets); it may be
    /// omitted only on loopback.
    ///
    /// # Errors
    /// The gateway was built without [`peers`](crate::GatewayBuilder::peers), or without a secret
    /// although the address is not on loopback; the address stands for all addresses of the
    /// machine, gateways share a directory, and no URL is [advertised](crate::Peers::advertise);
    /// the address cannot be bound; the gateway has `on_link`, or was stopped.
    pub fn listen_peers(&self, address: &str) -> Result<SocketAddr, Error> {
        self.listen_peers_with(address, None)
    }

    /// The same over TLS (feature `tls`). Gateways whose certificate its
    /// [`client_ca`](GatewayTls::client_ca) accepts need no secret; if there is one, they need
    /// both. The names in the certificate are ignored.
    ///
    /// # Errors
    /// Those of [`listen_peers`](Self::listen_peers).
    #[cfg(feature = "tls")]
    pub fn listen_peers_tls(&self, address: &str, tls: GatewayTls) -> Result<SocketAddr, Error> {
        self.listen_peers_with(address, Some(tls))
    }

    fn listen_peers_with(
        &self,
        address: &str,
        tls: Option<GatewayTls>,
    ) -> Result<SocketAddr, Error> {
        self.refuse_on_link("listen_peers()")?;
        let cluster = self.cluster()?;
        let is_secure = tls.is_some();
        let knows_them = cluster.has_secret() || tls.as_ref().is_some_and(GatewayTls::needs_client);
        let far = |at: &SocketAddr| !at.ip().to_canonical().is_loopback();
        let any = |at: &SocketAddr| at.ip().to_canonical().is_unspecified();
        if cluster.has_no_name()
            && address.to_socket_addrs().is_ok_and(|mut all| all.any(|at| any(&at)))
        {
            return Err(Error::usage(format!(
                "{address} for other gateways: the directory could not tell them where this gateway is, and nobody would find its devices; say how they reach it ({ADVERTISE})"
            )));
        }
        if !knows_them && address.to_socket_addrs().is_ok_and(|mut all| all.any(|at| far(&at))) {
            return Err(Error::usage(format!(
                "{address} for other gateways: beyond loopback whoever reached it could ask any device, as any visitor; give them a secret (Peers::secrets), or take certificates of a CA (listen_peers_tls with client_ca)"
            )));
        }
        let at = self.listen_with(address, (&Side::Peers, "other gateways"), tls)?;
        cluster.listens_at(at, is_secure);
        Ok(at)
    }

    /// # Errors
    /// Rejects routes that need visitors' tokens if there are none.
    fn check_routes(&self, routes: &Routes) -> Result<(), Error> {
        match routes.needs_tokens().filter(|_| !self.0.knows_visitors) {
            None => Ok(()),
            Some(what) => Err(Error::usage(format!(
                "{what}, and this gateway was started without tokens of visitors ({VISITOR_TOKENS})"
            ))),
        }
    }

    /// Replaces the [secrets](crate::Peers::secrets) that gateways share, with effect from the next
    /// request on.
    ///
    /// # Errors
    /// Those of [`Peers::secrets`](crate::Peers::secrets); the gateway was built without
    /// [`peers`](crate::GatewayBuilder::peers), or without a secret.
    pub fn set_peer_secrets<S: AsRef<str>>(
        &self,
        secrets: impl IntoIterator<Item = S>,
    ) -> Result<(), Error> {
        let cluster = self.cluster()?;
        if !cluster.has_secret() {
            return Err(Error::usage("this gateway was started without a secret for others"));
        }
        cluster.set_secrets(secrets)
    }

    /// Replaces the servers and the credentials of the [directory in Redis](RedisDirectory), with its
    /// TLS, while the gateway runs. They are tried first: a name is claimed and released, and the
    /// channel is subscribed to, which blocks for some three times
    /// [`directory_timeout`](crate::Limits::directory_timeout) at most, for each server. New
    /// connections use them from then on. Returns true if they differ from those in force.
    ///
    /// # Errors
    /// They do not work: those in force stay, and the new ones are tried again as soon as those fail
    /// (so it does not matter whether a password is changed here or at the server first). The prefix
    /// or the claim time differs; the gateway was built without such a directory.
    #[cfg(feature = "redis")]
    pub fn set_directory(&self, directory: RedisDirectory) -> Result<bool, Error> {
        self.cluster()?.set_directory(directory)
    }

    /// Tells the gateway that the directory has changed: its cached answers are dropped, for one
    /// device or for all. This is never required: a gateway that does not have a device says so,
    /// and the answer that no gateway has a device is cached for only a second.
    pub fn forget_peers(&self, device: Option<&str>) {
        let what = device.map_or(Outdated::All, Outdated::name);
        if let Some(cluster) = &self.0.cluster {
            self.0.loops.send_once(cluster.changes(), &what, || Command::ForgetPeers);
        }
    }

    /// What this gateway has registered in a shared directory, and whether the directory answers;
    /// `None`: there is none ([`Peers::shared_in`](crate::Peers), feature `redis`).
    #[must_use]
    pub fn directory_status(&self) -> Option<DirectoryStatus> {
        self.0.cluster.as_ref()?.status()
    }

    fn cluster(&self) -> Result<&Arc<Cluster>, Error> {
        let none = || Error::usage("this gateway knows no others; give GatewayBuilder::peers");
        self.0.cluster.as_ref().ok_or_else(none)
    }

    fn tables(&self) -> MutexGuard<'_, Vec<(SocketAddr, Arc<Table>)>> {
        self.0.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens for devices on another address. Returns the address that was bound.
    ///
    /// # Errors
    /// It cannot be bound; the gateway was stopped.
    pub fn listen(&self, address: &str) -> Result<SocketAddr, Error> {
        self.listen_with(address, (&Side::Devices, "devices"), None)
    }

    /// The same over TLS (feature `tls`).
    ///
    /// # Errors
    /// Those of [`listen`](Self::listen).
    #[cfg(feature = "tls")]
    pub fn listen_tls(&self, address: &str, tls: GatewayTls) -> Result<SocketAddr, Error> {
        self.listen_with(address, (&Side::Devices, "devices"), Some(tls))
    }

    /// Stops listening at this address, for devices or for visitors, and frees it. Existing
    /// connections stay, and [`set_routes`](Self::set_routes) still applies to them.
    ///
    /// # Errors
    /// The gateway does not listen there, or was stopped.
    pub fn unlisten(&self, at: SocketAddr) -> Result<(), Error> {
        let _one_at_a_time = self.tables();
        self.ask_each(|reply| Command::Unlisten { at, reply })
    }

    /// Replaces the [limits](crate::GatewayBuilder::limits) of the running gateway. Nothing is
    /// ended: new bounds and timeouts apply from now on, including the next wait of an existing
    /// connection. Bounds of threads and queues (`helpers_max`, `authorize_queue_max`,
    /// `on_link_max`, `events_max` of earlier subscribers, `worker_idle_timeout`) and `spin` stay
    /// as they were.
    ///
    /// ```
    /// # let gateway = reverse_http::Gateway::builder().listen("127.0.0.1:0").start()?;
    /// let mut limits = reverse_http::Limits::default();
    /// limits.first_byte_timeout = std::time::Duration::from_secs(20);
    /// gateway.set_limits(limits)?;
    /// # Ok::<(), reverse_http::Error>(())
    /// ```
    ///
    /// # Errors
    /// A limit cannot work; the gateway was stopped.
    pub fn set_limits(&self, limits: Limits) -> Result<(), Error> {
        limits.check()?;
        let _one_at_a_time = self.tables();
        self.ask(|reply| Command::SetLimits { limits: Box::new(limits.clone()), reply })?;
        self.0.limits.set(Arc::new(limits));
        Ok(())
    }

    /// Replaces the routes of a visitors' listener, at the address that
    /// [`listen_visitors`](Self::listen_visitors) returned. Connections stay; requests in progress
    /// keep their device and timeouts, and the next request of every connection uses the new
    /// routes. Requests in flight still count towards the limit of a route if the new one has the
    /// same host and path.
    ///
    /// # Errors
    /// There is no listener for visitors at this address; the routes need visitors' tokens, and the
    /// gateway has none; the gateway was stopped.
    pub fn set_routes(&self, visitors: SocketAddr, routes: Routes) -> Result<(), Error> {
        self.check_routes(&routes)?;
        let (mut tables, mut new) = (self.tables(), Table::new(routes));
        let mut old = tables.iter_mut().filter(|(at, _)| *at == visitors).map(|(_, table)| table);
        let mut old = old.next();
        if let Some(old) = &old {
            new.succeed(old);
        }
        let new = Arc::new(new);
        self.ask_each(|reply| Command::SetRoutes { at: visitors, table: new.clone(), reply })?;
        if let Some(old) = &mut old {
            **old = new;
        }
        Ok(())
    }

    /// Replaces the devices' [tokens](crate::GatewayBuilder::tokens), with effect from the next
    /// offer or poll on. Links and polls whose token was removed, or is no longer bound to one of
    /// their names, are ended: at once if they are idle (polls with 401), otherwise after their
    /// exchange, and in any case after [`Limits::take_over_grace`].
    ///
    /// # Errors
    /// The gateway was started without tokens, or was stopped.
    pub fn set_tokens(&self, tokens: Tokens) -> Result<(), Error> {
        self.replace_tokens(Whose::Devices, tokens)
    }

    /// Replaces the visitors' [tokens](crate::GatewayBuilder::visitor_tokens), with effect from the
    /// next request on. Requests in progress whose token was removed, or is no longer valid for the
    /// device, may continue for [`Limits::take_over_grace`]; then they get 401 if no response has
    /// begun, and are cut otherwise, as are tunnels.
    ///
    /// # Errors
    /// The gateway was started without visitors' tokens, or was stopped.
    pub fn set_visitor_tokens(&self, tokens: Tokens) -> Result<(), Error> {
        self.replace_tokens(Whose::Visitors, tokens)
    }

    /// Replaces the keys of visitors' [sign-ins](crate::GatewayBuilder::sign_in_keys), for the next
    /// request. A visitor whose cookie was signed with a removed key has to sign in again.
    ///
    /// # Errors
    /// Those of [`sign_in_keys`](crate::GatewayBuilder::sign_in_keys), as
    /// [`GatewayBuilder::check`](crate::GatewayBuilder::check) tells them; the gateway was started
    /// without visitors' tokens.
    pub fn set_sign_in_keys<S: AsRef<str>>(
        &self,
        keys: impl IntoIterator<Item = S>,
    ) -> Result<(), Error> {
        let keys = secrets::checked(&sign_in::KEYS, keys)?;
        if !self.0.knows_visitors {
            return Err(Error::usage("this gateway was started without tokens of visitors"));
        }
        self.0.sign_ins.set_keys(&keys);
        Ok(())
    }

    fn replace_tokens(&self, whose: Whose, tokens: Tokens) -> Result<(), Error> {
        let _one_at_a_time = self.tables();
        let tokens = Arc::new(tokens);
        self.ask_each(|reply| Command::SetTokens { whose, tokens: tokens.clone(), reply })
    }

    /// Takes over a connection that another server has already turned (it read the offer and wrote
    /// the 101). `unread`: bytes that it read beyond the offer (there are none, from a correct
    /// device).
    ///
    /// # Errors
    /// The name is in use with another credential, or has as many links as it may; the gateway has
    /// `on_link` or was stopped. The connection is then closed.
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
        let home =
            granted_names(&offer, &grant).first().map_or(0, |name| self.0.loops.home_of(name));
        let (reply, answer) = bounded(1);
        let offer = Box::new(offer);
        self.command(home, Command::Adopt { stream, unread, offer, grant, reply })?;
        answer.recv().map_err(|_| stopped())?
    }

    /// Subscribes to what happens to names from now on. At most [`Limits::events_max`] events wait
    /// to be read; more are dropped, and the next event says how many
    /// ([`missed`](GatewayEvent::missed)). If [`devices`](Self::devices) is called after this,
    /// nothing is missed between the two. The subscription ends when the gateway was stopped or
    /// drained, and all events were read.
    pub fn events(&self) -> Subscription<GatewayEvent> {
        let (subscriber, events) = events::subscription(&self.0.limits.get());
        let (reply, subscribed) = bounded(1);
        // The loops have one list of subscribers. A gateway that was stopped has no events; then
        // the receiver says at once that it is disconnected.
        let _ = self.0.loops.send(0, Command::Subscribe { subscriber, reply })
            && subscribed.recv().is_ok();
        events
    }

    /// For the first subscriber, the events since the start; for others, the events from now on.
    #[cfg(feature = "admin")]
    pub(crate) fn events_since_start(&self) -> Subscription<GatewayEvent> {
        let first = self.0.first_events.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(|| self.events())
    }

    /// Counters of the gateway.
    #[must_use]
    pub fn stats(&self) -> GatewayStats {
        self.0.stats.read()
    }

    /// Stops the gateway at once and cuts exchanges in progress. Returns when its connections have
    /// ended.
    pub fn stop(&self) {
        self.drain(Duration::ZERO);
    }

    /// Accepts nothing new, closes idle connections of devices and visitors, lets exchanges in
    /// progress finish within `time`, then stops. Returns when its connections have ended.
    pub fn drain(&self, time: Duration) {
        self.drain_with_notice(Duration::ZERO, time);
    }

    /// Drains after a notice, during which a load balancer and the devices can move to another
    /// gateway. Returns when its connections have ended.
    ///
    /// During `notice` everything is still served, but the [health path](Routes::health_path)
    /// answers 503, each response closes its visitor's connection, and new devices are sent away
    /// ([`drain_to`](crate::GatewayBuilder::drain_to)); devices that already poll here may
    /// continue. After that nothing new is accepted, idle connections of devices and visitors are
    /// closed, devices that poll are released, and exchanges in progress may finish within `time`.
    /// What is left then ends: with 502 if no response has begun; otherwise the response is cut, as
    /// are tunnels. If this is called again (from another thread), the earlier deadlines win.
    pub fn drain_with_notice(&self, notice: Duration, time: Duration) {
        self.0.drain(notice, time);
    }

    /// Waits until every event loop has completed a turn. This is for supervisors.
    ///
    /// # Errors
    /// An event loop has not within `time`; the gateway was stopped.
    pub fn ping(&self, time: Duration) -> Result<(), Error> {
        let until = Instant::now().checked_add(time);
        let answers = self.0.loops.ask(|reply| Command::Ping { reply }).ok_or_else(stopped)?;
        for _ in 0..self.0.loops.len() {
            let left = until.map_or(time, |until| until.saturating_duration_since(Instant::now()));
            answers.recv_timeout(left).map_err(|e| match e {
                RecvTimeoutError::Timeout => Error::timeout(
                    Fault::Gateway,
                    format!("the gateway's event loop made no turn within {time:?}"),
                ),
                RecvTimeoutError::Disconnected => stopped(),
            })?;
        }
        Ok(())
    }

    /// How many event loops it has.
    #[must_use]
    pub fn loops(&self) -> usize {
        self.0.loops.len()
    }

    /// Returns true if its event loops still run; false after [`stop`](Self::stop), or if an error
    /// of the operating system ended one of them.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.0.threads.all_run()
    }

    /// Subscribes to records of completed requests, for an access log. At most `most` records wait
    /// to be read, in at most a 64th of [`Limits::memory_bytes_max`]; further ones are lost, and
    /// the next record says how many, as does [`GatewayStats::records_lost`]. From now on requests
    /// get an `X-Request-Id`. If this is called again, the earlier subscription ends.
    ///
    /// # Errors
    /// The gateway was built without [`observe`](crate::GatewayBuilder::observe), or was stopped.
    #[cfg(feature = "admin")]
    pub fn records(&self, most: usize) -> Result<Subscription<ExchangeRecord>, Error> {
        if !self.0.observes {
            return Err(Error::usage(
                "records() of a gateway that does not observe; say GatewayBuilder::observe(true)",
            ));
        }
        let (to, records) = bounded(most.clamp(1, EVENTS_CEILING));
        let records = Subscription::charged(records);
        let readers = records.readers();
        self.command(0, Command::Observe(Question::Records { to, readers }))?; // the loops share the observer
        Ok(records)
    }

    /// Returns true if it was started to [observe](crate::GatewayBuilder::observe).
    #[cfg(feature = "admin")]
    pub(crate) fn observes(&self) -> bool {
        self.0.observes
    }

    /// The parts that an admin listener uses.
    #[cfg(feature = "admin")]
    pub(crate) fn parts(&self) -> (Loops<Command>, Arc<Stats>, InForce) {
        (self.0.loops.clone(), self.0.stats.clone(), self.0.limits.clone())
    }

    /// The state for other gateways, if it knows some.
    #[cfg(feature = "admin")]
    pub(crate) fn shared(&self) -> Option<Arc<Cluster>> {
        self.0.cluster.clone()
    }

    pub(super) fn refuse_on_link(&self, what: &str) -> Result<(), Error> {
        if self.0.only_links {
            return Err(Error::usage(format!(
                "{what} on a gateway with on_link: its links belong to that handler; start another gateway"
            )));
        }
        Ok(())
    }

    pub(super) fn command(&self, number: usize, command: Command) -> Result<(), Error> {
        if self.0.loops.send(number, command) { Ok(()) } else { Err(stopped()) }
    }

    /// Sends a command to every loop, and returns the answers.
    fn ask<T>(&self, command: impl FnMut(Sender<T>) -> Command) -> Result<Vec<T>, Error> {
        let answers = self.0.loops.ask(command).ok_or_else(stopped)?;
        let answers: Vec<T> = answers.iter().collect();
        if answers.len() == self.0.loops.len() { Ok(answers) } else { Err(stopped()) }
    }

    /// Sends a command that may fail to every loop, and drops the results.
    fn ask_each<T>(
        &self,
        command: impl FnMut(Sender<Result<T, Error>>) -> Command,
    ) -> Result<(), Error> {
        self.ask(command)?.into_iter().try_for_each(|answer| answer.map(drop))
    }
}

impl Running {
    pub(super) fn now(&self) -> Instant {
        self.clock.as_ref().map_or_else(Instant::now, Clock::now)
    }

    /// Waits for the event loops, unless this runs on one of their threads.
    fn drain(&self, notice: Duration, time: Duration) {
        self.loops.send_others(self.loops.len(), || Command::Drain { notice, time });
        if !self.threads.join() {
            log::error!("the gateway's event loop had panicked");
        }
        self.cluster.iter().for_each(|cluster| cluster.stop());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.drain(Duration::ZERO, Duration::ZERO);
    }
}

pub(super) fn stopped() -> Error {
    Error::stopped("this gateway was stopped")
}
