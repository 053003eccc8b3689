//! A running gateway, as a program holds it, and one of its devices by name.

#[cfg(feature = "tls")]
use std::collections::HashSet;
use std::fmt;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use http::{Request, Response};

use crate::cancel::{Cancel, Watch};
use crate::close_reason::CloseCause;
use crate::error::{Error, Fault};
use crate::gateway::events;
use crate::gateway::events::GatewayEvent;
use crate::gateway::leases::{Lease, Leased};
use crate::gateway::ledger::DirectoryStatus;
use crate::gateway::listeners::{Side, bind};
use crate::gateway::loops::Loops;
use crate::gateway::offer::{Grant, Offer};
use crate::gateway::offers::granted_names;
use crate::gateway::peers::Cluster;
#[cfg(feature = "admin")]
use crate::gateway::questions::Question;
use crate::gateway::routes::{Routes, Table};
use crate::gateway::settings::InForce;
use crate::gateway::state::{Borrow, Command, EACH_ACCEPTS, Outdated};
use crate::gateway::stats::{GatewayStats, LinkCounts, Stats};
use crate::gateway::tokens::{Tokens, Whose};
#[cfg(feature = "admin")]
use crate::limits::EVENTS_CEILING;
use crate::limits::Limits;
use crate::link::{Asked, Done, GatewayLink, NothingArrived, Owned, Settlement, Switched, Whole};
use crate::message::Body;
#[cfg(feature = "admin")]
use crate::observe::records::ExchangeRecord;
use crate::proto::turn::{Name, Transport};
use crate::relay::{Wait, Waits};
use crate::setting::{ADVERTISE, VISITOR_TOKENS};
use crate::stream::{GatewayTls, Shared, Stream};
use crate::subscription::Subscription;
use crate::upgraded::{Upgraded, Upgrades};

/// A running gateway. Clones are handles on the same one; when the last of them is dropped, with
/// every [`DeviceRef`], the gateway ends at once. [`drain`](Gateway::drain) lets exchanges in progress
/// finish.
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
    #[cfg_attr(not(feature = "admin"), allow(dead_code))]
    pub(super) observes: bool,
    /// Events since the start of a gateway that observes, for its first admin listener.
    #[cfg(feature = "admin")]
    pub(super) first_events: Mutex<Option<Subscription<GatewayEvent>>>,
    /// Connections in the hands of its programs that were switched to another protocol.
    pub(super) upgrades: Arc<Upgrades>,
    /// Its knowledge of other gateways.
    pub(super) cluster: Option<Arc<Cluster>>,
    pub(super) threads: Mutex<Vec<JoinHandle<()>>>,
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
    /// Where devices connect: the first address.
    ///
    /// # Panics
    /// When the builder was given no address to listen on.
    #[must_use]
    pub fn devices_addr(&self) -> SocketAddr {
        self.0.addresses[0]
    }

    /// Lets visitors in over plain HTTP on this address; the address that was bound.
    ///
    /// # Errors
    /// It cannot be bound; the gateway has `on_link`; it was stopped.
    pub fn listen_visitors(&self, address: &str, routes: Routes) -> Result<SocketAddr, Error> {
        self.listen_visitors_with(address, routes, None)
    }

    /// Lets visitors in over TLS on this address (feature `tls`); the address that was bound.
    /// Devices are told `X-Forwarded-Proto: https`.
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

    /// Replaces what a listener shows and wants in TLS, devices' or visitors' (feature `tls`), at
    /// the address that it was bound to. It counts from the next handshake on; sessions that began
    /// before are not resumed. Connections stay as they are, but for those of devices, of other
    /// gateways and of visitors whose certificates the new
    /// [`client_ca`](GatewayTls::client_ca) does not take: they are ended as those of a
    /// [token](Self::set_tokens) that is gone.
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
            number = Some(listener); // the same in every loop
            // To check thousands of chains is not the loop's work.
            let not_taken = shown.iter().filter(|shown| !tls.accepts(shown));
            refused.extend(not_taken.map(|shown| shown.key()));
        }
        let Some(listener) = number else { return Err(stopped()) };
        let refuse = |reply| {
            let refused = refused.clone();
            Command::RefuseCertificates { listener, refused, reply }
        };
        self.ask(refuse).map(drop)
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

    /// For each loop a socket, where the system shares connections out.
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

    /// Lets other gateways in on this address, with their visitors' requests for devices of this one;
    /// the address that was bound. Other gateways reach it by that, unless
    /// [`Peers::advertise`](crate::Peers::advertise) says something else.
    ///
    /// Requests on this port are trusted: they name their visitors as a trusted proxy would. So it
    /// is for gateways alone, which show their shared [secret](crate::Peers::secrets); only on
    /// loopback they may have none.
    ///
    /// # Errors
    /// The gateway was built without [`peers`](crate::GatewayBuilder::peers), or without a secret,
    /// and the address is not on loopback; it stands for all addresses of the machine, gateways share a
    /// directory, and no URL is [advertised](crate::Peers::advertise); it cannot be bound; the gateway has `on_link`; it was
    /// stopped.
    pub fn listen_peers(&self, address: &str) -> Result<SocketAddr, Error> {
        self.listen_peers_with(address, None)
    }

    /// The same over TLS (feature `tls`). Gateways that show a certificate which its
    /// [`client_ca`](GatewayTls::client_ca) takes need no secret; where there is one, they need
    /// both. Its names do not count.
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
    /// They count visitors' tokens, and visitors have none.
    fn check_routes(&self, routes: &Routes) -> Result<(), Error> {
        match routes.needs_tokens().filter(|_| !self.0.knows_visitors) {
            None => Ok(()),
            Some(what) => Err(Error::usage(format!(
                "{what}, and this gateway was started without tokens of visitors ({VISITOR_TOKENS})"
            ))),
        }
    }

    /// Replaces the [secrets](crate::Peers::secrets) that gateways share, for the next request.
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

    /// The directory of gateways has changed: forgets its answers for one device, or for all.
    /// Without this a gateway that does not have the device says so itself, and a device that
    /// nobody had is asked for again within a second.
    pub fn forget_peers(&self, device: Option<&str>) {
        let all = self.0.loops.len();
        let what = device.map_or(Outdated::All, |name| Outdated::Name(name.into()));
        self.0.loops.send_others(all, || Command::ForgetPeers { what: what.clone() });
    }

    /// What this gateway has noted in a directory that gateways share, and whether that answers; `None`:
    /// there is none ([`Peers::shared_in`](crate::Peers), feature `redis`).
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

    /// Lets devices in on another address, too; the address that was bound.
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

    /// Takes no more connections at this address, of devices or of visitors, and frees it. Those
    /// that came in there stay, and [`set_routes`](Self::set_routes) is for them, too.
    ///
    /// # Errors
    /// The gateway does not listen there, or was stopped.
    pub fn unlisten(&self, at: SocketAddr) -> Result<(), Error> {
        let _one_at_a_time = self.tables();
        self.ask_each(|reply| Command::Unlisten { at, reply })
    }

    /// Replaces the [limits](crate::GatewayBuilder::limits) while it runs. Nothing is ended: new
    /// bounds and timeouts are for what comes from now on, the next wait of a connection included.
    /// Bounds of threads and queues (`helpers_max`, `authorize_queue_max`, `on_link_max`,
    /// `events_max` of earlier subscribers, `worker_idle_timeout`) and `spin` stay as they were.
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
    /// A limit that cannot work; the gateway was stopped.
    pub fn set_limits(&self, limits: Limits) -> Result<(), Error> {
        limits.check()?;
        let _one_at_a_time = self.tables();
        self.ask(|reply| Command::SetLimits { limits: Box::new(limits.clone()), reply })?;
        self.0.limits.set(Arc::new(limits));
        Ok(())
    }

    /// Replaces the routes of a visitors' listener, at the address that
    /// [`listen_visitors`](Self::listen_visitors) returned. Connections stay; requests in progress
    /// keep the device and the waits that they began with, and the next request of every connection
    /// finds the new routes. Requests in flight by a route keep counting if the new one has the
    /// same host and path.
    ///
    /// # Errors
    /// Visitors do not come in at this address; the routes count visitors' tokens, and visitors have
    /// none; the gateway was stopped.
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

    /// Replaces the devices' [tokens](crate::GatewayBuilder::tokens), for the next offer and the next
    /// poll. Links and polls that came in with a token that is gone, or has lost one of their
    /// names, are ended: at once where they idle (polls with 401), else behind what they have in
    /// hand, and in any case after [`Limits::take_over_grace`].
    ///
    /// # Errors
    /// The gateway was started without tokens, or was stopped.
    pub fn set_tokens(&self, tokens: Tokens) -> Result<(), Error> {
        self.replace_tokens(Whose::Devices, tokens)
    }

    /// Replaces the visitors' [tokens](crate::GatewayBuilder::visitor_tokens), for the next request. What
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
        let _one_at_a_time = self.tables();
        let tokens = Arc::new(tokens);
        self.ask_each(|reply| Command::SetTokens { whose, tokens: tokens.clone(), reply })
    }

    /// A device by its name (or by an origin it registered). It need not be connected.
    #[must_use]
    pub fn device(&self, name: &str) -> DeviceRef {
        DeviceRef { gateway: self.clone(), name: name.to_owned(), timeout: None, cancel: None }
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
        let home =
            granted_names(&offer, &grant).first().map_or(0, |name| self.0.loops.home_of(name));
        let (reply, answer) = bounded(1);
        let offer = Box::new(offer);
        self.command(home, Command::Adopt { stream, unread, offer, grant, reply })?;
        answer.recv().map_err(|_| stopped())?
    }

    /// What happens to names from now on. At most [`Limits::events_max`] wait to be read. Together
    /// with [`devices`](Self::devices), called after this, nothing falls between; more are dropped,
    /// and the next event says how many ([`missed`](GatewayEvent::missed)). It ends when the gateway
    /// was stopped or drained, and all was read.
    pub fn events(&self) -> Subscription<GatewayEvent> {
        let (subscriber, events) = events::subscription(&self.0.limits.get());
        let (reply, subscribed) = bounded(1);
        // The loops have one list of subscribers. A gateway that was stopped has no events; then
        // the receiver says at once that it is disconnected.
        let _ = self.0.loops.send(0, Command::Subscribe { subscriber, reply })
            && subscribed.recv().is_ok();
        events
    }

    /// The events since the start, for the first subscriber; for others those from now on.
    #[cfg(feature = "admin")]
    pub(crate) fn events_since_start(&self) -> Subscription<GatewayEvent> {
        let first = self.0.first_events.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.unwrap_or_else(|| self.events())
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> GatewayStats {
        self.0.stats.read()
    }

    /// Ends the gateway now: exchanges in progress are cut. Returns when its connections are over.
    pub fn stop(&self) {
        self.drain(Duration::ZERO);
    }

    /// Takes nothing new, closes idle links and visitors, lets exchanges in progress finish within
    /// `time`, then ends. Returns when its connections are over.
    pub fn drain(&self, time: Duration) {
        self.drain_with_notice(Duration::ZERO, time);
    }

    /// Drains so that a load balancer, or another gateway's devices, can be ahead of it. Returns
    /// when its connections are over.
    ///
    /// For the time of `notice` everything is served as ever, but the [health
    /// path](Routes::health_path) says 503, every answer ends its visitor's connection, and devices
    /// that come are sent away ([`drain_to`](crate::GatewayBuilder::drain_to)); one that polls here
    /// goes on. Then nothing new comes in, idle links and visitors are closed, devices that poll
    /// are let go, and exchanges in progress may finish within `time`; the rest is ended then: 502
    /// where no answer has begun, else the answer is cut, and so are tunnels. Called again (from
    /// another thread), the earlier deadlines hold.
    pub fn drain_with_notice(&self, notice: Duration, time: Duration) {
        self.0.drain(notice, time);
    }

    /// Waits until every event loop has made a turn: for supervisors.
    ///
    /// # Errors
    /// One has not within `time`; the gateway was stopped.
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

    /// Returns true if its event loops still run. False after [`stop`](Self::stop), or when the
    /// operating system failed one of them.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let threads = match self.0.threads.try_lock() {
            Ok(threads) => threads,
            Err(TryLockError::Poisoned(e)) => e.into_inner(),
            Err(TryLockError::WouldBlock) => return true, // `drain` waits until they have ended
        };
        !threads.is_empty() && threads.iter().all(|thread| !thread.is_finished())
    }

    /// A record of each request that is over, from now on, for an access log. At most `most` wait
    /// to be read, within a 64th of [`Limits::memory_bytes_max`]; then they are lost, and the next
    /// one says how many, as does [`GatewayStats::records_lost`]. Requests get an `X-Request-Id`
    /// from then on. Called again, the earlier receiver ends.
    ///
    /// # Errors
    /// The gateway does not [observe](crate::GatewayBuilder::observe), or was stopped.
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
        self.command(0, Command::Observe(Question::Records { to, readers }))?; // the loops observe together
        Ok(records)
    }

    /// Returns true if it was started to [observe](crate::GatewayBuilder::observe).
    #[cfg(feature = "admin")]
    pub(crate) fn observes(&self) -> bool {
        self.0.observes
    }

    /// What an admin listener reaches of it.
    #[cfg(feature = "admin")]
    pub(crate) fn parts(&self) -> (Loops<Command>, Arc<Stats>, InForce) {
        (self.0.loops.clone(), self.0.stats.clone(), self.0.limits.clone())
    }

    /// What it has in common with other gateways, where it knows some.
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

    /// What every loop answers.
    fn ask<T>(&self, command: impl FnMut(Sender<T>) -> Command) -> Result<Vec<T>, Error> {
        let answers = self.0.loops.ask(command).ok_or_else(stopped)?;
        let answers: Vec<T> = answers.iter().collect();
        if answers.len() == self.0.loops.len() { Ok(answers) } else { Err(stopped()) }
    }

    /// Has every loop do what may fail, and drops here what comes back.
    fn ask_each<T>(
        &self,
        command: impl FnMut(Sender<Result<T, Error>>) -> Command,
    ) -> Result<(), Error> {
        self.ask(command)?.into_iter().try_for_each(|answer| answer.map(drop))
    }
}

impl Running {
    /// Waits for the event loops, but for one that runs this: a program's function may own a
    /// handle, and is dropped by a loop.
    fn drain(&self, notice: Duration, time: Duration) {
        self.loops.send_others(self.loops.len(), || Command::Drain { notice, time });
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in std::mem::take(&mut *threads) {
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                log::error!("the gateway's event loop had panicked");
            }
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

/// One device of a gateway, by name. It is a handle on its gateway, too.
///
/// ```
/// use std::time::Duration;
/// use reverse_http::{Body, Device, Gateway, Transport};
///
/// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
/// let lamp = gateway.device("lamp");
/// let device = Device::builder(format!("http://{}/lamp", gateway.devices_addr())).build()?;
/// let running = device.spawn(|_| http::Response::new(Body::from("on")))?;
/// lamp.wait_connected(Duration::from_secs(5))?;
/// assert_eq!(lamp.transport()?, Some(Transport::Turn));
/// let response = lamp.send(http::Request::get("/status").body(Body::empty()).unwrap())?;
/// assert_eq!(response.into_body().read_to_text(100)?, "on");
/// # running.stop();
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct DeviceRef {
    gateway: Gateway,
    name: String,
    timeout: Option<Duration>,
    cancel: Option<Cancel>,
}

impl DeviceRef {
    /// The same device, with a deadline for each exchange of this handle: from [`send`](Self::send)
    /// to the last byte of the response's body. The shorter of this and
    /// [`Limits::exchange_timeout`] holds. Reads and writes after it has passed fail with
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout), and the link is closed. Where the time is
    /// over before there is a link, the error says why there is none:
    /// [`Away`](crate::ErrorKind::Away) or [`Busy`](crate::ErrorKind::Busy). Default, and for a
    /// time of zero: the limit alone.
    ///
    /// ```
    /// use std::time::Duration;
    /// use reverse_http::{Body, ErrorKind, Gateway};
    ///
    /// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    /// let sensor = gateway.device("sensor").timeout(Duration::from_millis(20));
    /// let request = http::Request::get("/temperature").body(Body::empty()).unwrap();
    /// assert_eq!(sensor.send(request).unwrap_err().kind(), ErrorKind::Unknown);
    /// # Ok::<(), reverse_http::Error>(())
    /// ```
    #[must_use]
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = Some(time);
        self
    }

    /// The same device, whose requests end when this is cancelled, from any thread:
    /// [`send`](Self::send), [`wait_connected`](Self::wait_connected), and the reading of
    /// responses' bodies fail at once with [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
    /// The link that was in use is closed, by which its device learns of it; a device that polls
    /// and has the request already answers in vain. An exchange that is over by then stays as it
    /// is, and its link is used again. A request body that blocks while it is read is waited for.
    ///
    /// ```
    /// use std::time::Duration;
    /// use reverse_http::{Body, Cancel, Device, ErrorKind, Gateway};
    ///
    /// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    /// let url = format!("http://{}/lamp", gateway.devices_addr());
    /// let device = Device::builder(url).build()?.spawn(|_| {
    ///     std::thread::sleep(Duration::from_secs(1));
    ///     "on"
    /// })?;
    /// gateway.device("lamp").wait_connected(Duration::from_secs(5))?;
    ///
    /// let cancel = Cancel::new();
    /// let lamp = gateway.device("lamp").cancel_with(&cancel);
    /// let asking = std::thread::spawn(move || {
    ///     lamp.send(http::Request::get("/").body(Body::empty()).unwrap())
    /// });
    /// cancel.cancel();
    /// assert_eq!(asking.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    /// # device.stop();
    /// # Ok::<(), reverse_http::Error>(())
    /// ```
    #[must_use]
    pub fn cancel_with(mut self, cancel: &Cancel) -> Self {
        self.cancel = Some(cancel.clone());
        self
    }

    /// The deadline of an exchange that begins now.
    fn whole(&self) -> Option<Whole> {
        let limit = self.gateway.0.limits.get().exchange_timeout;
        match self.timeout {
            Some(own) if !own.is_zero() && (limit.is_zero() || own < limit) => {
                Whole::new("DeviceRef::timeout", own)
            }
            _ => Whole::new("exchange_timeout", limit),
        }
    }

    /// Asks the device, over a turned link, or by mailbox where it polls. Blocks until the
    /// response's head is here; its body streams.
    ///
    /// Waits up to [`Limits::wait_for_link`] for a link when none is idle. A request without a body
    /// and with an idempotent method is sent once more on a fresh link when the first was closed
    /// before a byte of the response came (RFC 9110 §9.2.2); others never. To a device that polls a
    /// request goes whole: its body is read into memory first, up to [`Limits::message_bytes_max`].
    ///
    /// A device that is connected to another gateway is asked over one hop, where this one knows
    /// others ([`GatewayBuilder::peers`](crate::GatewayBuilder::peers)). What that gateway says in
    /// the device's place (503, 504) then comes as a response, with `Proxy-Status`, and not as an
    /// error.
    ///
    /// A request with `Upgrade` and without a body offers these protocols (a WebSocket, say); where
    /// the device answers 101, [`Upgraded::from_response`](crate::Upgraded::from_response) takes the
    /// connection. Its link is no other caller's again. With a body nothing is offered: the request
    /// goes out without its `Upgrade`.
    ///
    /// # Errors
    /// Unknown (404), away or busy (503), full, timed out (504), closed or broken by the device
    /// (502), the request's own body, cancelled, stopped; for a device that polls also refused (413 the body is
    /// too long, 501 the request offers an upgrade). [`Error::kind`] tells which.
    pub fn send(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        self.gateway.refuse_on_link("send()")?;
        self.check_name()?;
        let (parts, body) = request.into_parts();
        let whole = self.whole();
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
        let lease = self.borrow(whole).map_err(|e| (e, false))?;
        let watch = match self.cancel.as_ref().map(|cancel| watch_lease(cancel, &lease)) {
            Some(None) => return Err((self.give_back(lease), false)),
            Some(watch) => watch,
            None => None,
        };
        let Lease { stream, unread, of, cut_error, airplay, waiting } = lease;
        let done = returning(self.gateway.0.loops.clone(), of, watch);
        if let Err(e) = stream.set_nonblocking(false) {
            done(Err(None));
            return Err((Error::io(Fault::Network, "making a link blocking", e), false));
        }
        let link = GatewayLink::within(
            Shared::new(stream),
            unread,
            Arc::new(self.gateway.0.limits.get().with_room()),
        )
        .taking_events(airplay);
        let owned = Owned { first: None, waiting, whole, cut_error: cut_error.clone(), done };
        // By mailbox the loop has tried again where that was allowed.
        let asked = link.ask_owned(request, owned);
        let Asked { mut response, switched } =
            asked.map_err(|(e, NothingArrived(nothing))| (e, nothing && of != Leased::Pair))?;
        if let Some(Switched { stream, unread, settlement }) = switched {
            let over = Over(Mutex::new(Some(settlement)));
            let stopping = self.gateway.0.upgrades.add();
            let upgraded = Upgraded::new(stream, unread, stopping, cut_error, over);
            let failed = |e| Error::io(Fault::Network, "switching a link to another protocol", e);
            upgraded.map_err(|e| (failed(e), false))?.put_into(&mut response);
        }
        Ok(response)
    }

    /// A name that no device can have is a mistake of the program.
    pub(super) fn check_name(&self) -> Result<(), Error> {
        let read = if self.name.contains("://") {
            Name::origin(&self.name)
        } else {
            Name::label(&self.name)
        };
        read.map(drop)
            .map_err(|e| Error::usage(format!("device name {:?}: {}", self.name, e.reason)))
    }

    /// Gives back what came after the request was cancelled; the error of that.
    fn give_back(&self, lease: Lease) -> Error {
        let Lease { stream, unread, of, .. } = lease;
        if let Leased::Link(ticket) = of {
            let stream = Arc::into_inner(stream).map(|stream| (stream, unread));
            let stream = stream.ok_or(CloseCause::Program.because(CANCELLED));
            self.gateway.0.loops.send(ticket.home(), Command::Return { ticket, stream });
        }
        Error::cancelled()
    }

    /// Has the loops told when this is cancelled while a thread waits for them.
    fn watch_wait(&self) -> Result<Option<Watch>, Error> {
        let Some(cancel) = &self.cancel else { return Ok(None) };
        let loops = self.gateway.0.loops.clone();
        let watch = cancel.watch(move || loops.send_others(loops.len(), || Command::Cancelled));
        watch.map(Some).ok_or_else(Error::cancelled)
    }

    fn borrow(&self, whole: Option<Whole>) -> Result<Lease, Error> {
        let _watch = self.watch_wait()?;
        let (reply, answer) = bounded(1);
        let waits = Waits::of(&self.gateway.0.limits.get());
        let left = whole.map_or(waits.link.time, |whole| whole.left());
        let wait = if left < waits.link.time {
            Wait { time: left, name: whole.map_or(waits.exchange.name, |whole| whole.name()) }
        } else {
            waits.link
        };
        let (name, cancel) = (self.name.clone(), self.cancel.clone());
        let wanted = Borrow { name, wait, moves: 0, cancel, reply };
        self.gateway.command(self.home(), Command::Borrow(wanted))?;
        answer.recv().map_err(|_| stopped())?
    }

    /// The loop that has the device, or would get it.
    pub(super) fn home(&self) -> usize {
        self.gateway.0.loops.home_of(&self.name)
    }

    /// Waits until the device is connected to this gateway: it has a link, or polls. One that is
    /// connected to another gateway ([`Peers`](crate::Peers)) does not count, and
    /// [`send`](Self::send) reaches it all the same.
    ///
    /// # Errors
    /// It was not connected within `time` ([`Error::is_not_connected`]: `Away`, or `Unknown` where
    /// nothing names it and it was not here lately); the name is invalid; the wait was cancelled; the
    /// gateway was stopped.
    pub fn wait_connected(&self, time: Duration) -> Result<(), Error> {
        self.check_name()?;
        let (reply, answer) = bounded(1);
        let _watch = self.watch_wait()?;
        let (name, cancel) = (self.name.clone(), self.cancel.clone());
        self.gateway.command(self.home(), Command::Wait { name, time, cancel, reply })?;
        match answer.recv_timeout(time.saturating_add(Duration::from_secs(5))) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => {
                Err(Error::timeout(Fault::Gateway, "the gateway's event loop did not answer"))
            }
            Err(RecvTimeoutError::Disconnected) => Err(stopped()),
        }
    }

    /// How many links the device has now.
    ///
    /// # Errors
    /// The gateway was stopped.
    pub fn links(&self) -> Result<LinkCounts, Error> {
        self.connection().map(|(links, _)| links)
    }

    /// How the device is connected: over links, or by polls in one of two encodings; `None`: it is
    /// not.
    ///
    /// # Errors
    /// The gateway was stopped.
    pub fn transport(&self) -> Result<Option<Transport>, Error> {
        self.connection().map(|(_, transport)| transport)
    }

    fn connection(&self) -> Result<(LinkCounts, Option<Transport>), Error> {
        let (reply, answer) = bounded(1);
        self.gateway.command(self.home(), Command::Links { name: self.name.clone(), reply })?;
        answer.recv().map_err(|_| stopped())
    }
}

const CANCELLED: &str = "a program cancelled its request";

/// Cuts the leased link when this is cancelled. `None`: it is already.
fn watch_lease(cancel: &Cancel, lease: &Lease) -> Option<Watch> {
    let (stream, cut_error) = (Arc::downgrade(&lease.stream), lease.cut_error.clone());
    cancel.watch(move || {
        let Some(stream) = stream.upgrade() else { return };
        let mut error = cut_error.lock().unwrap_or_else(PoisonError::into_inner);
        error.get_or_insert_with(Error::cancelled);
        drop(error);
        let _ = stream.cut(); // where it failed the connection is gone already
    })
}

/// What becomes of a lease when its exchange is over.
fn returning(loops: Loops<Command>, of: Leased, watch: Option<Watch>) -> Done<Shared> {
    Box::new(move |link| {
        let is_whole = watch.is_none_or(Watch::end); // before anybody else has the link
        let Leased::Link(ticket) = of else { return }; // dropping a pair's end ends it
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
            Ok(_) if !is_whole => Err(CloseCause::Program.because(CANCELLED)),
            Ok(link) => back(link).ok_or_else(unfinished),
            Err(why) => Err(why.unwrap_or_else(unfinished)),
        };
        loops.send(ticket.home(), Command::Return { ticket, stream });
    })
}

/// Tells the loop, when it is dropped, that a link that was switched to another protocol is over.
struct Over(Mutex<Option<Settlement<Shared>>>);

impl Drop for Over {
    fn drop(&mut self) {
        let settlement = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(settlement) = settlement {
            let why = CloseCause::Tunnel.because("a program's upgraded connection is over");
            settlement.settle(Err(Some(why)));
        }
    }
}
