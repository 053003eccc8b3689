//! A gateway's settings for other gateways: how it finds the one that has a device, and under which
//! URL they reach this one; and the state about them that all loops share.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::engine::time;
use crate::engine::workers::Workers;
use crate::error::Error;
use crate::gateway::changes::Changes;
use crate::gateway::claims::{Claimant, Failed};
use crate::gateway::ledger::{ClaimGuard, DirectoryStatus, Ledger, Rival, Told};
use crate::gateway::lookups::{Lookups, Pushed};
use crate::gateway::peer_url::{Location, PeerUrl};
#[cfg(feature = "redis")]
use crate::gateway::redis::{RedisDirectory, RedisTable};
use crate::gateway::resolving::Resolving;
use crate::gateway::secrets::{Kind, checked};
use crate::gateway::setbacks::{Setback, Setbacks};
use crate::limits::Limits;
use crate::stream::Connector;

/// Shortest and longest secret, in bytes.
const SECRETS: Kind = Kind { noun: "secret", of: "gateways", bytes: 16..=256 };

/// Names in one query to a shared table.
const LOOKUPS_AT_ONCE: usize = 64;
const PANICKED: &str = "it panicked";

type Find = Arc<dyn Fn(&str) -> Result<Option<String>, Failed> + Send + Sync>;

/// How the gateway that has a device is found.
#[derive(Clone)]
enum Source {
    /// By a function of the program.
    Function(Find),
    /// In a table that gateways share.
    #[cfg(feature = "redis")]
    Redis(RedisDirectory),
    #[cfg(test)]
    Simulated(Arc<dyn crate::gateway::claims::SharedTable>),
}

/// Other gateways: this one sends them requests for devices that are connected there, and serves
/// their requests for its own devices.
///
/// A directory tells which gateway has a device. It is a function of the program, or a table in
/// Redis. The function is called with the device's name, on a separate thread, when a visitor
/// requests a device that is not connected here. It may block, but after
/// [`Limits::directory_timeout`] its answer is ignored. The answer is a hint: if the gateway does
/// not have the device, it answers so, and the directory is asked again. Until then the answer is
/// cached; the answer that no gateway has a device is cached for a second
/// ([`Gateway::forget_peers`](crate::Gateway::forget_peers) clears the cache). A program that fills
/// its directory itself learns from [`Gateway::events`](crate::Gateway::events) which names connect
/// and disconnect.
///
/// A request takes at most one hop: a request from another gateway is never forwarded to a third.
///
/// ```
/// use std::collections::HashMap;
/// use reverse_http::{Gateway, Peers, Routes};
///
/// let table = HashMap::from([("lamp".to_owned(), "http://10.0.0.2:7000".to_owned())]);
/// let peers = Peers::found_by(move |name| Ok(table.get(name).cloned()))
///     .secrets(["correct horse battery staple".replace(' ', "-")])?
///     .advertise("http://10.0.0.1:7000")?;
/// let gateway = Gateway::builder().listen("127.0.0.1:0").peers(peers).start()?;
/// gateway.listen_visitors("127.0.0.1:0", Routes::path())?;
/// gateway.listen_peers("127.0.0.1:0")?;
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "it is given to GatewayBuilder::peers"]
pub struct Peers {
    source: Source,
    secrets: Vec<String>,
    advertised: Option<PeerUrl>,
    connector: Option<Arc<Connector>>,
    kind: &'static str,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("advertised", &self.advertised).finish_non_exhaustive()
    }
}

impl Peers {
    /// Other gateways, with a function as the directory. It returns the URL of the peers' listener
    /// (`http://HOST:PORT`, or the same with `https`) of the gateway that has the device, or none.
    /// An error is logged, and visitors get 503.
    pub fn found_by(
        find: impl Fn(&str) -> Result<Option<String>, Box<dyn std::error::Error + Send + Sync>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Peers::of(Source::Function(Arc::new(find)), "program")
    }

    /// Other gateways, with a table in Redis that all of them share as the directory (feature
    /// `redis`). This gateway registers its devices there ([`RedisDirectory`]), and a device's name
    /// belongs to one credential and one session across all gateways. Devices are registered as
    /// soon as this gateway's own URL is known, that is, from
    /// [`listen_peers`](crate::Gateway::listen_peers) on.
    #[cfg(feature = "redis")]
    pub fn shared_in(directory: RedisDirectory) -> Self {
        Peers::of(Source::Redis(directory), "redis")
    }

    #[cfg(test)]
    pub(super) fn simulated(table: Arc<dyn crate::gateway::claims::SharedTable>) -> Self {
        Peers::of(Source::Simulated(table), "simulated")
    }

    fn of(source: Source, kind: &'static str) -> Self {
        Peers { source, secrets: Vec::new(), advertised: None, connector: None, kind }
    }

    /// The kind of the directory, as shown to operators. Default: `program`, or `redis`.
    pub fn directory_kind(mut self, kind: &'static str) -> Self {
        self.kind = kind;
        self
    }

    /// The secrets that the gateways of a cluster share. The first one is sent to others, and each
    /// is accepted from others, so that a new one can be distributed before it is used. Secrets are
    /// sent unencrypted over plain HTTP, which is acceptable on private networks only.
    ///
    /// # Errors
    /// There is none, or there are more than 8; one is not 16 to 256 visible ASCII characters.
    pub fn secrets<S: AsRef<str>>(
        mut self,
        secrets: impl IntoIterator<Item = S>,
    ) -> Result<Self, Error> {
        self.secrets = checked(&SECRETS, secrets)?;
        Ok(self)
    }

    /// How others reach the peers' listener of this gateway, if not by the address that it listens
    /// on (`http://HOST:PORT`). By this URL the gateway recognises itself in the directory.
    ///
    /// # Errors
    /// It is not such a URL.
    pub fn advertise(mut self, url: &str) -> Result<Self, Error> {
        self.advertised = Some(PeerUrl::parse(url)?);
        Ok(self)
    }

    /// How the certificates of gateways at `https://` are verified, and the certificate that is
    /// presented to them (feature `tls`).
    ///
    /// # Errors
    /// The system has no root certificates, and no others were given.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: crate::tls::DeviceTls) -> Result<Self, Error> {
        self.connector = Some(Arc::new(tls.connector()?.of_gateway()));
        Ok(self)
    }
}

/// `Ok(None)`: no other gateway has it.
pub(crate) type Located = Result<Option<Location>, NotLocated>;

/// Why it is unknown which gateway has a device.
#[derive(Clone, Debug)]
pub(crate) enum NotLocated {
    /// It was not looked up, because too many lookups wait.
    Busy,
    Failed(String),
}

/// A name to look up in the directory, and the callback for the answer.
struct Wanted {
    name: Box<str>,
    tell: Box<dyn FnOnce(Located) + Send>,
}

/// The directory as an operator sees it.
#[cfg(feature = "admin")]
#[derive(Clone, Debug)]
pub(crate) struct DirectoryRow {
    pub(crate) kind: &'static str,
    /// Why it does not answer, and for how long.
    pub(crate) away: Option<(String, std::time::Duration)>,
    /// The claims of this gateway in it, if it is a shared table.
    pub(crate) claims: Option<DirectoryStatus>,
}

/// Returns the URLs of the gateways that have a device.
trait FindAll: Fn(&str) -> Result<Vec<String>, Failed> + Send + Sync {}

impl<F: Fn(&str) -> Result<Vec<String>, Failed> + Send + Sync> FindAll for F {}

/// The state about other gateways that all loops of a gateway share.
pub(crate) struct Cluster {
    /// Calls the program's function; unused if there is a ledger.
    find: Box<dyn FindAll>,
    lookups: Lookups<Wanted>,
    /// Looks up the addresses of a gateway.
    addresses: fn(&PeerUrl) -> Result<Vec<SocketAddr>, String>,
    resolving: Mutex<Resolving<Wanted>>,
    resolvers: Workers,
    /// This gateway's claims in a shared table.
    ledger: Option<Arc<Ledger>>,
    /// That table, if it is in Redis.
    #[cfg(feature = "redis")]
    redis: Option<Arc<RedisTable>>,
    secrets: RwLock<Arc<[Secret]>>,
    own: RwLock<Option<PeerUrl>>,
    setbacks: Mutex<Setbacks>,
    changes: Changes,
    pub(super) connector: Option<Arc<Connector>>,
    #[cfg_attr(not(feature = "admin"), allow(dead_code, reason = "nobody asks"))]
    kind: &'static str,
    /// Why a function does not answer, and since when; a ledger has its own state for that.
    away: Mutex<Option<(String, Instant)>>,
    threads: Workers,
    /// Separate threads, so that no device waits for visitors' lookups.
    claimers: Workers,
    /// How long a stop waits for a table that does not answer: for a connection, a query and a
    /// second one on a new connection.
    patience: Duration,
}

/// Why a name cannot be claimed.
pub(crate) struct OtherOwner {
    pub(crate) rival: Rival,
    /// The gateway that has it, if the table names one.
    pub(crate) at: Option<Arc<str>>,
}

impl OtherOwner {
    fn of(rival: Rival, ledger: &Ledger, names: &[String], own: &PeerUrl) -> Self {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let found = ledger.find(&names).unwrap_or_default().into_iter().flatten();
        let urls = found.filter_map(|url| PeerUrl::parse(&url).ok());
        let at = urls.map(|url| url.text).find(|url| *url != own.text);
        OtherOwner { rival, at }
    }
}

/// A secret, and its digest for comparisons.
struct Secret {
    text: String,
    digest: [u8; 32],
}

impl Secret {
    fn all(texts: Vec<String>) -> Arc<[Secret]> {
        let secret = |text: String| Secret { digest: Sha256::digest(&text).into(), text };
        texts.into_iter().map(secret).collect()
    }
}

impl Cluster {
    /// `shares_names`: sessions of one credential share a name.
    pub(super) fn new(peers: Peers, limits: &Limits, shares_names: bool) -> Self {
        let (threads, queue) = (limits.helpers_max, limits.authorize_queue_max);
        let mut cluster = Cluster {
            find: Box::new(|_| Ok(Vec::new())),
            lookups: Lookups::new(queue, threads),
            addresses: PeerUrl::addresses,
            resolving: Mutex::default(),
            resolvers: Workers::new("ptth-resolver", threads, queue, limits.worker_idle_timeout),
            ledger: None,
            #[cfg(feature = "redis")]
            redis: None,
            secrets: RwLock::new(Secret::all(peers.secrets)),
            own: RwLock::new(peers.advertised),
            setbacks: Mutex::default(),
            changes: Changes::default(),
            connector: peers.connector,
            kind: peers.kind,
            away: Mutex::default(),
            threads: Workers::new("ptth-directory", threads, queue, limits.worker_idle_timeout),
            claimers: Workers::new("ptth-claim", threads, queue, limits.worker_idle_timeout),
            patience: 3 * limits.directory_timeout,
        };
        match peers.source {
            Source::Function(find) => {
                cluster.find =
                    Box::new(move |name| find(name).map(|url| url.into_iter().collect()));
            }
            #[cfg(feature = "redis")]
            Source::Redis(directory) => {
                let table = Arc::new(directory.into_table(limits, shares_names));
                cluster.ledger = Some(Arc::new(Ledger::new(table.clone())));
                cluster.redis = Some(table);
            }
            #[cfg(test)]
            Source::Simulated(table) => cluster.ledger = Some(Arc::new(Ledger::new(table))),
        }
        let _ = shares_names; // unused without a table
        cluster
    }

    /// Changes the settings of the directory in Redis. Returns true if they differ.
    #[cfg(feature = "redis")]
    pub(super) fn set_directory(&self, directory: RedisDirectory) -> Result<bool, Error> {
        let none = || Error::usage("this gateway was started without a directory in Redis");
        self.redis.as_ref().ok_or_else(none)?.replace(directory)
    }

    fn secrets(&self) -> Arc<[Secret]> {
        self.secrets.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the secrets, from the next request on.
    pub(super) fn set_secrets<S: AsRef<str>>(
        &self,
        secrets: impl IntoIterator<Item = S>,
    ) -> Result<(), Error> {
        let secrets = Secret::all(checked(&SECRETS, secrets)?);
        *self.secrets.write().unwrap_or_else(PoisonError::into_inner) = secrets;
        Ok(())
    }

    pub(super) fn has_secret(&self) -> bool {
        !self.secrets().is_empty()
    }

    /// Calls `write` with the secret that is sent to other gateways.
    pub(super) fn write_to<T>(&self, write: impl FnOnce(Option<&str>) -> T) -> T {
        write(self.secrets().first().map(|secret| secret.text.as_str()))
    }

    /// Returns true if this secret of another gateway is accepted. The time of the comparison does
    /// not depend on how much of it is right.
    pub(super) fn admits(&self, shown: Option<&[u8]>) -> bool {
        let secrets = self.secrets();
        if secrets.is_empty() {
            return true; // its listener is on loopback, or authenticates others by their certificates
        }
        let Some(shown) = shown else { return false };
        let digest: [u8; 32] = Sha256::digest(shown).into();
        let differs = |secret: &Secret| {
            secret.digest.iter().zip(&digest).fold(0, |all, (one, other)| all | (one ^ other))
        };
        secrets.iter().fold(false, |found, secret| found | (differs(secret) == 0))
    }

    /// The listener is bound: unless another URL was set, others reach it at this address.
    pub(super) fn listens_at(&self, at: SocketAddr, is_secure: bool) {
        let scheme = if is_secure { "https" } else { "http" };
        let mut own = self.own.write().unwrap_or_else(PoisonError::into_inner);
        if own.is_none() && !at.ip().is_unspecified() {
            *own = PeerUrl::parse(&format!("{scheme}://{at}")).ok();
        }
    }

    /// Returns true if this gateway claims names in a directory, but its own URL is unknown.
    pub(super) fn has_no_name(&self) -> bool {
        self.ledger.is_some() && self.own().is_none()
    }

    /// This gateway's own URL, if it is known.
    pub(crate) fn own(&self) -> Option<PeerUrl> {
        self.own.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the directory on another thread, for a visitor with this address; `tell` is called
    /// there. Returns false if too many lookups wait.
    pub(super) fn locate(
        self: &Arc<Self>,
        name: &str,
        from: Option<IpAddr>,
        tell: impl FnOnce(Located) + Send + 'static,
    ) -> bool {
        match self.lookups.push(from, Wanted { name: name.into(), tell: Box::new(tell) }) {
            Pushed::Waits { asker: false } => true,
            Pushed::Waits { asker: true } => {
                let cluster = self.clone();
                if !self.threads.submit(move || cluster.ask_some()) {
                    let unasked = self.lookups.lacks_asker().into_iter();
                    unasked.for_each(|wanted| (wanted.tell)(Err(NotLocated::Busy)));
                }
                true
            }
            Pushed::InPlaceOf(other) => {
                (other.tell)(Err(NotLocated::Busy));
                true
            }
            Pushed::Refused(_) => false,
        }
    }

    /// The thread that asks the directory, until no name is left.
    fn ask_some(self: Arc<Self>) {
        let most = if self.ledger.is_some() { LOOKUPS_AT_ONCE } else { 1 };
        loop {
            let wanted = self.lookups.take(most);
            if wanted.is_empty() {
                return;
            }
            self.ask(wanted);
            // So that operators get their turn, too.
            let cluster = self.clone();
            if self.threads.is_pressed() && self.threads.submit(move || cluster.ask_some()) {
                return;
            }
        }
    }

    fn ask(self: &Arc<Self>, wanted: Vec<Wanted>) {
        let names: Vec<&str> = wanted.iter().map(|wanted| &*wanted.name).collect();
        let found = catch_unwind(AssertUnwindSafe(|| self.find_all(&names)));
        let found = found.unwrap_or_else(|_| Err(PANICKED.into())).map_err(|e| e.to_string());
        self.note(found.as_ref().err().map(String::as_str));
        let found = match found {
            Ok(found) => found,
            Err(why) => {
                let failed = || Err(NotLocated::Failed(why.clone()));
                return wanted.into_iter().for_each(|wanted| (wanted.tell)(failed()));
            }
        };
        for (wanted, found) in wanted.into_iter().zip(found) {
            match self.choose(&wanted.name, &found) {
                Err(why) => (wanted.tell)(Err(NotLocated::Failed(why))),
                Ok(None) => (wanted.tell)(Ok(None)),
                Ok(Some(url)) if url.needs_resolver() => self.resolve(url, wanted),
                Ok(Some(url)) => (wanted.tell)(self.located(&url)),
            }
        }
    }

    /// Looks a gateway's host up, on a separate thread: a name server that hangs must not delay
    /// lookups of devices whose gateways are known by address. Each host is looked up once for all
    /// requests that wait for it.
    fn resolve(self: &Arc<Self>, url: PeerUrl, wanted: Wanted) {
        let host = url.text.clone();
        match self.resolving().add(&host, wanted, self.lookups.most()) {
            Ok(false) => return,
            Ok(true) => {}
            Err(wanted) => return (wanted.tell)(Err(NotLocated::Busy)),
        }
        let (cluster, of) = (self.clone(), host.clone());
        let begun = self.resolvers.submit(move || {
            let located = catch_unwind(AssertUnwindSafe(|| cluster.located(&url)));
            let located = located.unwrap_or_else(|_| Err(NotLocated::Failed(PANICKED.into())));
            cluster.resolved(&of, &located);
        });
        if !begun {
            self.resolved(&host, &Err(NotLocated::Busy));
        }
    }

    fn resolved(&self, host: &str, located: &Located) {
        let waited = self.resolving().take(host);
        waited.into_iter().for_each(|wanted| (wanted.tell)(located.clone()));
    }

    fn resolving(&self) -> MutexGuard<'_, Resolving<Wanted>> {
        self.resolving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The location of a gateway. May take as long as the system's resolver.
    fn located(&self, url: &PeerUrl) -> Located {
        match (self.addresses)(url) {
            Ok(addresses) => Ok(Some(Location { url: url.clone(), addresses })),
            Err(why) => Err(NotLocated::Failed(format!("{}: {why}", url.text))),
        }
    }

    /// The changes that the loops have not processed yet.
    pub(super) fn changes(&self) -> &Changes {
        &self.changes
    }

    /// A gateway did not serve a request: if others have the device, too, they are preferred for a
    /// while.
    pub(super) fn note_setback(&self, url: &PeerUrl, setback: Setback) {
        let mut setbacks = self.setbacks.lock().unwrap_or_else(PoisonError::into_inner);
        setbacks.note(&url.text, setback, time::now());
    }

    /// Starts the threads for a shared table; they call `tell`.
    pub(super) fn start(
        self: &Arc<Self>,
        tell: impl Fn(Told) + Send + Sync + 'static,
    ) -> Result<(), Error> {
        let Some(ledger) = &self.ledger else { return Ok(()) };
        let cluster = Arc::downgrade(self);
        let own = move || Some(cluster.upgrade()?.own()?.text);
        ledger
            .start(own, tell)
            .map_err(|e| Error::io(crate::Fault::Gateway, "starting threads for the directory", e))
    }

    /// Releases all claims. This may take as long as the table takes to answer.
    pub(super) fn stop(&self) {
        self.ledger.iter().for_each(|ledger| ledger.stop(self.patience));
    }

    pub(super) fn ledger(&self) -> Option<&Arc<Ledger>> {
        self.ledger.as_ref()
    }

    /// Claims names on another thread, if there is a table; `tell` is called there, with `None` if
    /// the table does not answer. Returns false if too many claims wait, or if there is no table.
    pub(super) fn claim(
        &self,
        names: Vec<String>,
        claimant: Claimant,
        tell: impl FnOnce(Option<Result<ClaimGuard, OtherOwner>>) + Send + 'static,
    ) -> bool {
        let (Some(ledger), Some(own)) = (self.ledger.clone(), self.own()) else { return false };
        self.claimers.submit(move || {
            let claim = || {
                let claimed = ledger.claim(&own.text, &names, &claimant)?;
                Some(claimed.map_err(|rival| OtherOwner::of(rival, &ledger, &names, &own)))
            };
            tell(catch_unwind(AssertUnwindSafe(claim)).unwrap_or_default());
        })
    }

    /// The state of the shared table; `None`: there is none.
    pub(super) fn status(&self) -> Option<DirectoryStatus> {
        self.ledger.as_ref().map(|ledger| ledger.status())
    }

    /// The directory, for an operator.
    #[cfg(feature = "admin")]
    pub(crate) fn directory(&self) -> DirectoryRow {
        let claims = self.status();
        let away = match &claims {
            Some(status) => status.away.clone(),
            None => {
                let away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
                away.as_ref().map(|(why, since)| (why.clone(), time::since(*since)))
            }
        };
        DirectoryRow { kind: self.kind, away, claims }
    }

    /// The gateways that the directory names for a device, for an operator. Waits at most for
    /// `within`.
    #[cfg(feature = "admin")]
    pub(crate) fn whereabouts(
        self: &Arc<Self>,
        name: &str,
        within: Duration,
    ) -> Result<Vec<String>, String> {
        let (cluster, of) = (self.clone(), name.to_owned());
        let (tell, told) = crossbeam_channel::bounded(1);
        let begun = self.threads.submit(move || {
            let found = catch_unwind(AssertUnwindSafe(|| cluster.find_all(&[&*of])));
            let found = found.unwrap_or_else(|_| Err(PANICKED.into()));
            let found = found.map(|found| found.into_iter().flatten().collect::<Vec<_>>());
            let _ = tell.send(found.map_err(|e| e.to_string())); // the caller may have given up
        });
        if !begun {
            return Err("too many requests wait for it".to_owned());
        }
        let found = told.recv_timeout(within);
        let found = found.unwrap_or_else(|_| Err("it did not answer in time".to_owned()))?;
        let urls = found.iter().map(|url| PeerUrl::parse(url).map_err(|e| e.to_string()));
        urls.map(|url| url.map(|url| url.text.to_string())).collect()
    }

    /// Notes whether a program's function answers. A loop may call it, because the lock is never
    /// held for long.
    pub(super) fn note(&self, failure: Option<&str>) {
        if self.ledger.is_some() {
            return;
        }
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        match (failure, &mut *away) {
            (None, away) => *away = None,
            (Some(why), Some((text, _))) => why.clone_into(text),
            (Some(why), away) => *away = Some((why.to_owned(), time::now())),
        }
    }

    /// For each of these names, the URLs of the gateways that have it.
    fn find_all(&self, names: &[&str]) -> Result<Vec<Vec<String>>, Failed> {
        match &self.ledger {
            Some(ledger) => ledger.find(names),
            None => names.iter().map(|name| (self.find)(name)).collect(),
        }
    }

    /// Chooses one of the gateways that have a device, except this one.
    fn choose(&self, name: &str, found: &[String]) -> Result<Option<PeerUrl>, String> {
        let parsed = found.iter().map(|url| PeerUrl::parse(url).map_err(|e| e.to_string()));
        let mut others = parsed.collect::<Result<Vec<PeerUrl>, String>>()?;
        if let Some(own) = self.own() {
            others.retain(|url| *url != own);
        }
        if others.len() > 1 {
            let setbacks = self.setbacks.lock().unwrap_or_else(PoisonError::into_inner);
            let has_setback = |url: &PeerUrl| setbacks.has(&url.text, name, time::now());
            if !others.iter().all(has_setback) {
                others.retain(|url| !has_setback(url));
            }
        }
        let Some(place) = by_chance(others.len()) else { return Ok(None) };
        let url = others.swap_remove(place);
        if url.is_secure && self.connector.is_none() {
            return Err(format!("{} needs TLS, and it is not said how it is known", url.text));
        }
        Ok(Some(url))
    }
}

/// A random index below `places`; `None`: there is none.
fn by_chance(places: usize) -> Option<usize> {
    let mut byte = [0];
    let chance = if places > 1 { crate::engine::random::fill(&mut byte).ok() } else { None };
    chance.map_or(0, |()| usize::from(byte[0])).checked_rem(places)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_is_known_is_taken_and_the_first_is_shown() {
        let peers = || Peers::found_by(|_| Ok(None));
        let secrets = ["0123456789abcdef", "fedcba9876543210"];
        let cluster = Cluster::new(peers().secrets(secrets).unwrap(), &Limits::default(), false);
        assert!(cluster.has_secret());
        for secret in secrets {
            assert!(cluster.admits(Some(secret.as_bytes())));
        }
        assert!(!cluster.admits(None) && !cluster.admits(Some(b"0123456789abcdee")));
        cluster.write_to(|shown| assert_eq!(shown, Some(secrets[0])));
        cluster.set_secrets(&secrets[1..]).unwrap();
        assert!(!cluster.admits(Some(secrets[0].as_bytes())));
        for wrong in
            ["short", "with a blank in it", "\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}"]
        {
            assert!(peers().secrets([wrong]).unwrap_err().is_usage());
        }
        assert!(
            peers().secrets::<&str>([]).is_err() && !format!("{:?}", peers()).contains("secret")
        );
        let open = Cluster::new(peers(), &Limits::default(), false);
        assert!(open.admits(None) && !open.has_secret());
    }

    #[test]
    fn a_host_that_is_not_resolved_keeps_nobody_waiting_whose_gateway_has_an_address() {
        let hosts = ["http://hangs:1", "http://127.0.0.1:1"];
        let peers =
            Peers::found_by(move |name| Ok(Some(hosts[usize::from(name == "lamp")].to_owned())));
        let limits = Limits { helpers_max: 2, ..Limits::default() };
        let mut cluster = Cluster::new(peers, &limits, false);
        cluster.addresses = |url| {
            if url.host() == "hangs" {
                loop {
                    std::thread::park();
                }
            }
            url.addresses()
        };
        let cluster = Arc::new(cluster);
        let (tell, told) = crossbeam_channel::unbounded();
        // More names than there are threads.
        for name in ["a", "b", "c", "lamp"] {
            let tell = tell.clone();
            let heard = move |found: Located| {
                let _ = tell.send((name, found.is_ok())); // the test may be over
            };
            assert!(cluster.locate(name, None, heard));
        }
        assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(("lamp", true)));
        assert!(told.try_recv().is_err(), "the others wait");
    }

    #[test]
    fn so_many_wait_for_a_host_that_is_not_resolved_and_no_more() {
        let peers = Peers::found_by(|_| Ok(Some("http://hangs:1".to_owned())));
        let limits = Limits { helpers_max: 2, authorize_queue_max: 3, ..Limits::default() };
        let mut cluster = Cluster::new(peers, &limits, false);
        let (release, released) = crossbeam_channel::unbounded::<()>();
        static RELEASED: Mutex<Option<crossbeam_channel::Receiver<()>>> = Mutex::new(None);
        *RELEASED.lock().unwrap() = Some(released);
        cluster.addresses = |_| {
            let released = RELEASED.lock().unwrap().take();
            let _ = released.map(|released| released.recv()); // it ends with the sender
            Ok(Vec::new())
        };
        let cluster = Arc::new(cluster);
        let (tell, told) = crossbeam_channel::unbounded();
        for _ in 0..6 {
            loop {
                let tell = tell.clone();
                let heard = move |found: Located| {
                    let _ = tell.send(found.map(drop)); // the test may be over
                };
                if cluster.locate("lamp", None, heard) {
                    break;
                }
                std::thread::yield_now(); // as many wait to be asked for as may
            }
        }
        let next = || told.recv_timeout(Duration::from_secs(20)).unwrap();
        for _ in 0..3 {
            assert!(matches!(next(), Err(NotLocated::Busy)));
        }
        assert!(told.try_recv().is_err(), "the others wait");
        drop(release);
        for _ in 0..3 {
            assert!(next().is_ok());
        }
        assert_eq!(cluster.resolving().len(), 0);
    }

    #[test]
    fn a_gateway_does_not_find_itself() {
        let peers = Peers::found_by(|name| Ok(Some(format!("http://127.0.0.1:{name}"))));
        let cluster = Cluster::new(peers, &Limits::default(), false);
        cluster.listens_at("127.0.0.1:7000".parse().unwrap(), false);
        let find = |name: &str| cluster.choose(name, &cluster.find_all(&[name]).unwrap()[0]);
        assert!(find("7000").unwrap().is_none());
        assert_eq!(find("7001").unwrap().unwrap().addresses().unwrap().len(), 1);
        assert!(find("x").is_err());
    }
}
