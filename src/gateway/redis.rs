//! The table that gateways share, in Redis or Valkey: the location of its server, and the queries.
//! Each rule of [`claims`](super::claims) is one script, which the server runs atomically.

mod connecting;
mod error_text;
mod examine;
mod frame;
mod name_report;
mod replacing;
mod wire;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use redis::{RedisError, Script, Value};

use self::connecting::Server;
pub use self::examine::DirectoryReport;
pub use self::name_report::{NameClaim, NameReport};
use self::wire::Wire;
use crate::engine::random;
use crate::error::Error;
use crate::gateway::announced::{Announced, ClusterGateway};
use crate::gateway::claims::{Change, Claimant, Failed, Renewal, Renewed, SharedTable, Verdict};
use crate::limits::Limits;
use crate::proto::authority::{authority, bare};
use crate::setting::{DIRECTORY_PASSWORD, DIRECTORY_USER};

const DEFAULT_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
/// Most servers in one URL.
const SERVERS_MAX: usize = 16;
/// Highest number of a database in a URL; a server has 16 by default.
const DATABASE_MAX: i64 = 65_535;
/// Idle connections that are kept.
const IDLE_MAX: usize = 8;
/// How long one wait for a change lasts, before the thread checks whether it has to stop.
const LISTEN: Duration = Duration::from_millis(200);
/// A connection for changes is tested after a silence of this time.
const QUIET: Duration = Duration::from_secs(3);

const RULES: &str = include_str!("redis/rules.lua");
const FIND: &str = include_str!("redis/find.lua");
const CLAIM: &str = include_str!("redis/claim.lua");
const RENEW: &str = include_str!("redis/renew.lua");
const RELEASE: &str = include_str!("redis/release.lua");
const ANNOUNCE: &str = include_str!("redis/announce.lua");

/// A table in Redis (or Valkey) that gateways share: each registers its connected devices there,
/// and looks up which gateway has others (feature `redis`). For
/// [`Peers::shared_in`](crate::Peers::shared_in).
///
/// A gateway claims the names of a device before it admits it, by the same rules as within one
/// gateway: a name belongs to one credential, and the newest session gets it. A claim expires after
/// [`claim_time`](Self::claim_time) unless the gateway renews it, which it does after about a third
/// of that. If the server does not answer, devices are still admitted, and claimed later; only
/// devices of other gateways cannot be found (503).
///
/// The server needs version 5 or later. A user needs the commands that
/// [docs/cluster.md](https://docs.rs/crate/reverse-http/latest/source/docs/cluster.md) lists, on keys
/// and the channel that begin with the [prefix](Self::prefix). Redis Cluster does not work, as one
/// script concerns several keys.
///
/// ```no_run
/// use reverse_http::{Gateway, Peers, RedisDirectory, Routes};
///
/// let directory = RedisDirectory::new("redis://10.0.0.5:6379,10.0.0.6:6379")?.password("secret");
/// let peers = Peers::shared_in(directory).secrets(["a-secret-of-16-bytes"])?;
/// let gateway = Gateway::builder().listen("0.0.0.0:9999").peers(peers).start()?;
/// gateway.listen_visitors("0.0.0.0:8080", Routes::path())?;
/// gateway.listen_peers("10.0.0.1:7000")?;
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[must_use = "it is given to Peers::shared_in"]
pub struct RedisDirectory {
    servers: Servers,
    is_secure: bool,
    database: i64,
    user: Option<String>,
    password: Option<String>,
    prefix: String,
    claim_time: Duration,
    #[cfg(feature = "tls")]
    roots: Option<Vec<u8>>,
}

impl fmt::Debug for RedisDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisDirectory").field("servers", &self.servers).finish_non_exhaustive()
    }
}

/// The location of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Servers {
    /// The first one that answers and accepts writes.
    Listed(Vec<(String, u16)>),
    Socket(PathBuf),
    /// The server that the sentinels call the master of this name.
    Sentinels {
        at: Vec<(String, u16)>,
        master: String,
    },
}

impl RedisDirectory {
    /// The table at this URL:
    ///
    /// - `redis://HOST[:PORT][,HOST[:PORT]…][/DATABASE]`: the first of these servers (16 at most)
    ///   that answers and accepts writes; port 6379, database 0
    /// - `redis+unix:///PATH`: a Unix socket
    /// - `redis+sentinel://HOST[:PORT][,…]/MASTER[/DATABASE]`: the server that these sentinels call the
    ///   master of that name; port 26379, asked without a password
    ///
    /// With `rediss` instead of `redis`, except for a Unix socket: over TLS (feature `tls`).
    ///
    /// # Errors
    /// It is not such a URL, or contains a user or password: secrets in URLs end up in logs.
    pub fn new(url: &str) -> Result<Self, Error> {
        let wrong = |why: &str| {
            let shown: String = url.chars().filter(|c| c.is_ascii_graphic()).take(200).collect();
            Error::usage(format!(
                "directory URL {shown}: {why}; write it like redis://10.0.0.5:6379, or redis+sentinel://10.0.0.5:26379/MASTER"
            ))
        };
        if url.contains('@') {
            return Err(Error::usage(format!(
                "the directory's URL has a user or a password in it; give them apart ({DIRECTORY_USER}; {DIRECTORY_PASSWORD})"
            )));
        }
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("there is no scheme"))?;
        let (kind, is_secure) = match scheme {
            "redis" | "redis+sentinel" => (scheme, false),
            "rediss" => ("redis", true),
            "rediss+sentinel" => ("redis+sentinel", true),
            "redis+unix" => (scheme, false),
            _ => return Err(wrong("the scheme is not redis or rediss")),
        };
        if is_secure && cfg!(not(feature = "tls")) {
            return Err(Error::usage(format!("a directory at {scheme}:// needs the feature tls")));
        }
        let mut parts = rest.split('/');
        let hosts = parts.next().unwrap_or_default();
        let (servers, database) = match kind {
            "redis+unix" if rest.starts_with('/') && rest.len() > 1 => {
                (Servers::Socket(rest.into()), None)
            }
            "redis+unix" => return Err(wrong("there is no path")),
            "redis" => {
                let at = hosts_of(hosts, DEFAULT_PORT).map_err(|e| wrong(&e))?;
                let database = parts.next();
                if parts.next().is_some() {
                    return Err(wrong("there is something after the database"));
                }
                (Servers::Listed(at), database)
            }
            _ => {
                let at = hosts_of(hosts, SENTINEL_PORT).map_err(|e| wrong(&e))?;
                let master = parts.next().filter(|master| !master.is_empty());
                let master =
                    master.ok_or_else(|| wrong("there is no name of a master"))?.to_owned();
                let database = parts.next();
                if parts.next().is_some() {
                    return Err(wrong("there is something after the database"));
                }
                (Servers::Sentinels { at, master }, database)
            }
        };
        let database = match database.filter(|text| !text.is_empty()) {
            None => 0,
            Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text
                .parse()
                .ok()
                .filter(|n| (0..=DATABASE_MAX).contains(n))
                .ok_or_else(|| wrong(&format!("the database is above {DATABASE_MAX}")))?,
            Some(_) => return Err(wrong("the database is no number")),
        };
        Ok(RedisDirectory {
            servers,
            is_secure,
            database,
            user: None,
            password: None,
            prefix: "ptth".to_owned(),
            claim_time: Duration::from_secs(30),
            #[cfg(feature = "tls")]
            roots: None,
        })
    }

    /// The user (ACL) for the server. Default: the server's default user.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The password for the server. Default: none.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// The prefix of keys and of the channel, so that clusters can share a server. Default: `ptth`.
    ///
    /// # Errors
    /// It is not 1 to 64 letters, digits, `-`, `_`, `.` or `:`.
    pub fn prefix(mut self, prefix: &str) -> Result<Self, Error> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        if !(1..=64).contains(&prefix.len()) || !prefix.bytes().all(fits) {
            return Err(Error::usage(
                "the prefix of a directory's keys has 1 to 64 letters, digits, `-`, `_`, `.` or `:`",
            ));
        }
        prefix.clone_into(&mut self.prefix);
        Ok(self)
    }

    /// How long a claim lasts if it is not renewed: for this long a killed gateway is still asked
    /// for the devices that it had. It must be the same for all gateways. Default: 30 s.
    ///
    /// # Errors
    /// It is not between 3 s and one hour.
    pub fn claim_time(mut self, time: Duration) -> Result<Self, Error> {
        if !(Duration::from_secs(3)..=Duration::from_secs(3600)).contains(&time) {
            return Err(Error::usage("a claim in the directory lasts between 3 s and one hour"));
        }
        self.claim_time = time;
        Ok(self)
    }

    /// The CA certificates (PEM) that the server's certificate is verified with, instead of the
    /// system's (feature `tls`).
    ///
    /// # Errors
    /// The URL does not use TLS; the PEM contains no certificate.
    #[cfg(feature = "tls")]
    pub fn ca(mut self, pem: impl Into<Vec<u8>>) -> Result<Self, Error> {
        let pem = pem.into();
        if !self.is_secure {
            return Err(Error::usage("a CA for the directory goes with rediss:// in its URL"));
        }
        crate::tls::DeviceTls::new().ca(&pem)?; // that it has certificates
        self.roots = Some(pem);
        Ok(self)
    }

    #[cfg(feature = "tls")]
    fn ca_given(&self) -> Option<&[u8]> {
        self.roots.as_deref()
    }

    #[cfg(not(feature = "tls"))]
    fn ca_given(&self) -> Option<&[u8]> {
        None
    }

    /// `shares`: sessions of one credential share names.
    pub(crate) fn into_table(self, limits: &Limits, shares: bool) -> RedisTable {
        // The time is for a connection and for an answer, one after the other.
        let wait = (limits.directory_timeout / 2).max(Duration::from_millis(1));
        self.table(wait, limits.remember, shares)
    }

    fn table(self, wait: Duration, remember: Duration, shares: bool) -> RedisTable {
        let script = |text: &str| Script::new(&format!("{RULES}{text}"));
        RedisTable {
            wait,
            remember,
            shares,
            find: script(FIND),
            claim: script(CLAIM),
            renew: script(RENEW),
            release: Script::new(RELEASE),
            announce: script(ANNOUNCE),
            counter: format!("{}:epoch", self.prefix),
            names: format!("{}:n:", self.prefix),
            gateways: format!("{}:gateways", self.prefix),
            processes: format!("{}:processes", self.prefix),
            process: process_id(),
            other: Mutex::default(),
            channel: format!("{}:changes", self.prefix),
            claim_time: self.claim_time,
            settings: RwLock::new(Arc::new(self)),
            waiting: Mutex::default(),
            idle: Mutex::default(),
            turn: AtomicUsize::new(0),
        }
    }
}

/// Distinguishes this process from others with the same URL.
fn process_id() -> String {
    let mut chance = [0; 8];
    // Without a random number, the process number is used.
    let id = random::fill(&mut chance).map(|()| u64::from_ne_bytes(chance));
    format!("{:016x}", id.unwrap_or(u64::from(std::process::id())))
}

fn hosts_of(text: &str, port: u16) -> Result<Vec<(String, u16)>, String> {
    let hosts: Vec<&str> = text.split(',').collect();
    if hosts.len() > SERVERS_MAX {
        return Err(format!("there are more than {SERVERS_MAX} servers"));
    }
    let host = |text: &str| {
        let named = authority(text.as_bytes()).map_err(|refusal| refusal.reason.to_string())?;
        let host = bare(named.host).to_owned();
        Ok((host, named.port.unwrap_or(port)))
    };
    hosts.into_iter().map(host).collect()
}

/// Another process that has announced itself by this gateway's URL.
#[derive(Default)]
struct OtherProcess {
    /// When it last did so, by the server's clock; 0: never.
    at: u64,
    /// It has announced itself again.
    lives: bool,
}

/// The table.
pub(crate) struct RedisTable {
    /// The location of the server, and the credentials.
    settings: RwLock<Arc<RedisDirectory>>,
    /// New settings that could not be used yet.
    waiting: Mutex<Option<RedisDirectory>>,
    claim_time: Duration,
    wait: Duration,
    remember: Duration,
    shares: bool,
    find: Script,
    claim: Script,
    renew: Script,
    release: Script,
    announce: Script,
    /// Names of keys; for the keys of device names, their prefix.
    counter: String,
    names: String,
    gateways: String,
    processes: String,
    channel: String,
    /// The random id of this process.
    process: String,
    other: Mutex<OtherProcess>,
    idle: Mutex<Vec<Server>>,
    /// The index of the server or sentinel that is asked first.
    turn: AtomicUsize,
}

impl RedisTable {
    fn settings(&self) -> Arc<RedisDirectory> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns true if the settings have not changed since it was connected.
    fn is_in_force(&self, server: &Server) -> bool {
        Arc::ptr_eq(&server.settings, &self.settings())
    }

    fn take_idle(&self) -> Option<Server> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Sends a query over an idle connection, or a new one. A query that the server has not
    /// executed, because the idle connection was closed meanwhile, is repeated.
    fn with<T>(&self, ask: impl Fn(&mut Wire) -> Result<T, RedisError>) -> Result<T, Failed> {
        let (mut server, was_idle) = match self.take_idle() {
            Some(idle) => (idle, true),
            None => (self.connect()?, false),
        };
        let mut answer = ask(&mut server.connection);
        if was_idle && answer.as_ref().is_err_and(|e| e.is_connection_dropped() || is_of_replica(e))
        {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
            server = self.connect()?;
            answer = ask(&mut server.connection);
        }
        match answer {
            Ok(answer) => {
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                if idle.len() < IDLE_MAX && self.is_in_force(&server) {
                    idle.push(server);
                }
                Ok(answer)
            }
            Err(e) => Err(server.failed(&e)),
        }
    }

    fn name_key(&self, name: &str) -> String {
        format!("{}{name}", self.names)
    }

    fn time(&self, time: Duration) -> String {
        time.as_millis().to_string()
    }
}

/// Returns true for the error of a replica: the master has changed.
fn is_of_replica(e: &RedisError) -> bool {
    matches!(e.code(), Some("READONLY" | "MASTERDOWN" | "LOADING"))
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

impl SharedTable for RedisTable {
    fn find(&self, names: &[&str]) -> Result<Vec<Vec<String>>, Failed> {
        let mut asked = self.find.prepare_invoke();
        for name in names {
            asked.key(self.name_key(name));
        }
        let found: Vec<Vec<String>> = self.with(|connection| asked.invoke(connection))?;
        match found.len() == names.len() {
            true => Ok(found),
            false => Err("Redis: its answer to a lookup is none of ours".into()),
        }
    }

    fn claim(&self, by: &str, names: &[String], claimant: &Claimant) -> Result<Verdict, Failed> {
        let mut asked = self.claim.prepare_invoke();
        asked.key(&self.counter);
        for name in names {
            asked.key(self.name_key(name));
        }
        asked.arg(by).arg(or_none(&claimant.credential)).arg(or_none(&claimant.session));
        asked.arg(u8::from(self.shares)).arg(self.time(self.claim_time));
        asked.arg(self.time(self.remember)).arg(&self.channel).arg(names);
        let answer: Vec<String> = self.with(|connection| asked.invoke(connection))?;
        match (answer.first().map(String::as_str), answer.get(1)) {
            (Some("held"), _) => Ok(Verdict::Held),
            (Some("newer"), _) => Ok(Verdict::Newer),
            (Some("granted"), Some(epoch)) => Ok(Verdict::Granted { epoch: epoch.parse()? }),
            _ => Err("Redis: its answer to a claim is none of ours".into()),
        }
    }

    fn renew(&self, by: &str, claims: &[Renewal]) -> Result<Vec<Renewed>, Failed> {
        let mut asked = self.renew.prepare_invoke();
        asked.key(&self.counter);
        for claim in claims {
            asked.key(self.name_key(&claim.name));
        }
        asked.arg(by).arg(u8::from(self.shares)).arg(self.time(self.claim_time));
        asked.arg(self.time(self.remember)).arg(&self.channel);
        for Renewal { name, epoch, claimant } in claims {
            asked.arg(epoch).arg(or_none(&claimant.credential)).arg(or_none(&claimant.session));
            asked.arg(&**name);
        }
        let answer: Vec<String> = self.with(|connection| asked.invoke(connection))?;
        let renewed = answer.iter().map(|verdict| match verdict.as_str() {
            "held" => Ok(Renewed::Held),
            "newer" => Ok(Renewed::Newer),
            epoch => Ok(Renewed::Kept { epoch: epoch.parse()? }),
        });
        let renewed: Vec<Renewed> = renewed.collect::<Result<_, Failed>>()?;
        match renewed.len() == claims.len() {
            true => Ok(renewed),
            false => Err("Redis: its answer to a renewal is none of ours".into()),
        }
    }

    fn release(&self, by: &str, claims: &[(Arc<str>, u64)]) -> Result<(), Failed> {
        let mut asked = self.release.prepare_invoke();
        for (name, _) in claims {
            asked.key(self.name_key(name));
        }
        asked.arg(by);
        for (_, epoch) in claims {
            asked.arg(epoch);
        }
        self.with(|connection| asked.invoke(connection))
    }

    fn announce(&self, by: &str, names: Option<usize>, lists: bool) -> Result<Announced, Failed> {
        let mut other = self.other.lock().unwrap_or_else(PoisonError::into_inner);
        let mut asked = self.announce.prepare_invoke();
        asked.key(&self.gateways).key(&self.processes).arg(by).arg(u8::from(names.is_some()));
        asked.arg(&self.process).arg(self.time(self.claim_time));
        asked.arg(u8::from(other.lives)).arg(names.unwrap_or_default());
        asked.arg(u8::from(lists));
        let announce = || self.with(|connection| asked.invoke(connection));
        let told = announce().or_else(|e| if self.try_waiting() { announce() } else { Err(e) })?;
        let (at, is_new, known): (u64, u64, Vec<String>) = told;
        // One that was killed a moment ago does not announce itself again.
        *other = OtherProcess { lives: other.at > 0 && at > other.at, at };
        let gateway = |row: &[String]| {
            let [url, ago, told] = row else { return None };
            let ago = Duration::from_millis(ago.parse().ok()?);
            ClusterGateway::read(url.clone(), url == by, ago, told)
        };
        let gateways = lists.then(|| known.chunks(3).filter_map(gateway).collect());
        Ok(Announced { url_is_shared: other.lives, is_new: is_new == 1, gateways })
    }

    fn listen(&self, tell: &mut dyn FnMut(Option<Change>) -> bool) -> Result<(), Failed> {
        let mut server = self.connect()?;
        let _: Value = server.ask(redis::cmd("SUBSCRIBE").arg(&self.channel))?;
        // When the server last sent anything, and when it was last tested.
        let (mut heard, mut tried) = (Instant::now(), None::<Instant>);
        let mut goes_on = tell(None);
        while goes_on {
            let told = match server.connection.next(LISTEN) {
                Ok(None) => None,
                Ok(Some(said)) => {
                    (heard, tried) = (Instant::now(), None);
                    message(said.extract_error().map_err(|e| server.failed(&e))?)
                }
                Err(e) => return Err(server.failed(&e)),
            };
            match tried {
                None if heard.elapsed() >= QUIET => {
                    let ping = redis::cmd("PING").get_packed_command();
                    server.connection.send(&ping).map_err(|e| server.failed(&e))?;
                    tried = Some(Instant::now());
                }
                Some(at) if at.elapsed() >= self.wait => {
                    let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
                    return Err(server.failed(&late.into()));
                }
                _ => {}
            }
            goes_on = tell(told.as_deref().and_then(change)) && self.is_in_force(&server);
        }
        Ok(())
    }

    fn claim_time(&self) -> Duration {
        self.claim_time
    }
}

/// The content of a published message; `None`: it is an answer.
fn message(said: Value) -> Option<Vec<u8>> {
    let Value::Array(parts) = said else { return None };
    match <[Value; 3]>::try_from(parts) {
        Ok([Value::BulkString(kind), _, Value::BulkString(published)]) if kind == b"message" => {
            Some(published)
        }
        _ => None,
    }
}

/// The meaning of a message on the channel; `None`: it is not one of ours.
fn change(message: &[u8]) -> Option<Change> {
    let mut words = std::str::from_utf8(message).ok()?.split(' ');
    let (epoch, gateway) = (words.next()?.parse().ok()?, words.next()?.into());
    let session = match words.next()? {
        "-" => "",
        session => session,
    };
    let (name, None) = (words.next()?, words.next()) else { return None };
    Some(Change { name: name.into(), epoch, gateway, session: session.into() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_the_servers_are() {
        let shown = |url: &str| format!("{:?}", RedisDirectory::new(url).unwrap().servers);
        assert_eq!(shown("redis://a"), r#"Listed([("a", 6379)])"#);
        assert_eq!(shown("redis://a:1,[::1]:2/3"), r#"Listed([("a", 1), ("::1", 2)])"#);
        assert_eq!(shown("redis+unix:///run/redis"), r#"Socket("/run/redis")"#);
        assert_eq!(
            shown("redis+sentinel://a,b:7/main/2"),
            r#"Sentinels { at: [("a", 26379), ("b", 7)], master: "main" }"#
        );
        assert_eq!(RedisDirectory::new("redis://a/7").unwrap().database, 7);
        for wrong in [
            "a:6379",
            "http://a",
            "redis://",
            "redis://a/x",
            "redis://a/1/2",
            "redis://a b",
            "redis://user:secret@a",
            "redis+unix://",
            "redis+sentinel://a",
            "redis://a,,b",
            "redis://a/-1",
            "redis://a/65536",
        ] {
            let error = RedisDirectory::new(wrong).unwrap_err();
            assert!(error.is_usage() && !error.to_string().contains("secret@"), "{wrong}: {error}");
        }
        let told = |url| RedisDirectory::new(url).unwrap_err().to_string();
        assert!(told("redis://a/99999").contains("above 65535"), "{}", told("redis://a/99999"));
        assert!(told("redis://a/x").contains("no number"));
        let directory = RedisDirectory::new("redis://a").unwrap().password("hush");
        assert!(!format!("{directory:?}").contains("hush"));
        let directory = directory.prefix("one.two:x-y_z").unwrap();
        assert!(directory.clone().prefix("").is_err() && directory.clone().prefix("a b").is_err());
        assert!(directory.clone().claim_time(Duration::from_secs(2)).is_err());
        assert!(directory.claim_time(Duration::from_secs(3)).is_ok());
    }

    #[test]
    fn a_change_is_read_whole_or_not_at_all() {
        let whole = "7 http://a:1 0f lamp";
        let read = change(whole.as_bytes()).unwrap();
        assert_eq!(
            (&*read.name, read.epoch, &*read.gateway, &*read.session),
            ("lamp", 7, "http://a:1", "0f")
        );
        assert_eq!(&*change(b"7 http://a:1 - lamp").unwrap().session, "");
        let names = ["x http://a:1 0f lamp", "7 http://a:1 0f lamp more", "", "7", "7 a 0f"];
        assert!(names.iter().all(|wrong| change(wrong.as_bytes()).is_none()));
    }
}
