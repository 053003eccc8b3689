//! A report about the table in Redis, for `ptth cluster check` and similar uses.

use std::time::{Duration, Instant, SystemTime};

use crate::engine::random;
use crate::error::{Error, Fault};
use crate::gateway::announced::ClusterGateway;
use crate::gateway::claims::{Claimant, Failed, SharedTable, Verdict};
use crate::gateway::redis::connecting::Server;
use crate::gateway::redis::{RedisDirectory, RedisTable, Servers};
use crate::limits::Limits;

/// Most gateways in a report.
const GATEWAYS_MAX: usize = 1024;
/// The URL with which a test claims a name, and releases it.
const BY: &str = "http://check.invalid:80";

/// The state of the server of a [`RedisDirectory`], as reported by [`RedisDirectory::examine`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DirectoryReport {
    /// Where the server is: `HOST:PORT`, or a path.
    pub server: String,
    /// Why a gateway skips others to get there: servers that do not answer, replicas, sentinels.
    pub passed_over: Vec<String>,
    /// The number of the database in the server.
    pub database: i64,
    /// The prefix of keys and of the channel ([`RedisDirectory::prefix`]).
    pub prefix: String,
    /// Its name and version (`redis 7.2.4`); `None`: the user has no permission to ask.
    pub version: Option<String>,
    /// `master`, or `slave` for a replica; `None`: the user has no permission to ask.
    pub role: Option<String>,
    /// How long it took to answer.
    pub round_trip: Duration,
    /// Whether a gateway's claim succeeds, or why not.
    pub claims: Result<(), String>,
    /// Whether changes can be subscribed to, or why not.
    pub changes: Result<(), String>,
    /// What it does when its memory is full (`noeviction`), if its memory is limited; `None`: it is
    /// not, or the user has no permission to ask.
    pub memory_policy: Option<String>,
    /// By how much its clock and this machine's differ; `None`: the user has no permission to ask.
    pub clock_difference: Option<Duration>,
    /// The URLs of gateways that have announced themselves within a day, and how long ago, by the
    /// server's clock (or this machine's, if the user has no permission to ask); 1,024 at most.
    pub gateways: Vec<(String, Duration)>,
    /// Those of these URLs that several gateways announce.
    pub shared_urls: Vec<String>,
    /// The URLs of gateways that announced themselves recently with another
    /// [`claim_time`](RedisDirectory::claim_time), and that.
    pub other_claim_times: Vec<(String, Duration)>,
}

impl RedisDirectory {
    /// Tests the server in the same way as a gateway uses it: an unused name is claimed and
    /// released. Each of some ten steps takes at most `timeout`; looking up the server's name may
    /// take as long as the system's resolver does.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// let directory = reverse_http::RedisDirectory::new("redis://10.0.0.5:6379")?;
    /// let report = directory.examine(Duration::from_secs(2))?;
    /// println!("{} answers within {:?}", report.server, report.round_trip);
    /// # Ok::<(), reverse_http::Error>(())
    /// ```
    ///
    /// # Errors
    /// No server was found, or it does not answer.
    pub fn examine(&self, timeout: Duration) -> Result<DirectoryReport, Error> {
        let limits = Limits { directory_timeout: timeout.saturating_mul(2), ..Limits::default() };
        let look = || self.clone().into_table(&limits, false).examine();
        look().map_err(failed)
    }
}

/// The error of a failed report.
pub(super) fn failed(e: Failed) -> Error {
    Error::io(Fault::Gateway, "asking the directory", std::io::Error::other(e.to_string()))
}

impl RedisTable {
    fn examine(&self) -> Result<DirectoryReport, Failed> {
        let (mut server, passed_over) = self.connect_telling()?;
        let asked = (Instant::now(), SystemTime::now());
        let clock: Option<(u64, u64)> = server.ask(&redis::cmd("TIME")).ok();
        let round_trip = asked.0.elapsed();
        let info = self.info(&mut server);
        let of = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim).filter(|value| !value.is_empty())
        };
        let version = match (of("valkey_version"), of("redis_version")) {
            (Some(version), _) => Some(format!("valkey {version}")),
            (None, version) => version.map(|version| format!("redis {version}")),
        };
        let has_bound = of("maxmemory").is_some_and(|bytes| bytes != "0");
        let gateways = self.announced(&mut server, clock)?;
        let shared_urls = self.shared_urls(&mut server, clock, &gateways);
        let other_claim_times = self.other_claim_times(&mut server, &gateways);
        Ok(DirectoryReport {
            shared_urls,
            other_claim_times,
            server: server.at.clone(),
            passed_over,
            database: server.settings.database,
            prefix: server.settings.prefix.clone(),
            version,
            role: of("role").map(str::to_owned),
            round_trip,
            memory_policy: of("maxmemory_policy").filter(|_| has_bound).map(str::to_owned),
            clock_difference: clock.map(|clock| apart(asked.1 + round_trip / 2, clock)),
            claims: self.try_claim().map_err(|e| e.to_string()),
            changes: self.try_changes().map_err(|e| e.to_string()),
            gateways,
        })
    }

    /// A connection to the server that accepts writes, found in the same way as by a gateway that
    /// retries; and the failures of servers that were skipped.
    ///
    /// # Errors
    /// There is none; the failures of all servers.
    pub(super) fn connect_telling(&self) -> Result<(Server, Vec<String>), Failed> {
        let tries = match &self.settings().servers {
            Servers::Socket(_) => 1,
            Servers::Listed(at) | Servers::Sentinels { at, .. } => at.len(),
        };
        let (mut noted, mut all) = (Vec::new(), Vec::<String>::new());
        for _ in 0..tries {
            let found = self.connect_noting(&mut noted);
            let last = found.as_ref().err().map(ToString::to_string);
            for told in noted.drain(..).chain(last) {
                if !all.contains(&told) {
                    all.push(told);
                }
            }
            if let Ok(server) = found {
                return Ok((server, all));
            }
        }
        Err(all.join("; ").into())
    }

    /// The server's `INFO`; empty if the user has no permission to ask.
    fn info(&self, server: &mut Server) -> String {
        let sections = ["server", "replication", "memory"].map(|section| {
            let mut asked = redis::cmd("INFO");
            server.ask::<String>(asked.arg(section)).unwrap_or_default()
        });
        sections.join("\n")
    }

    pub(super) fn try_claim(&self) -> Result<(), Failed> {
        let mut chance = [0; 8];
        random::fill(&mut chance)?;
        let name = format!("check-{:016x}", u64::from_ne_bytes(chance));
        let claimant = Claimant { credential: "".into(), session: "".into() };
        match self.claim(BY, std::slice::from_ref(&name), &claimant)? {
            Verdict::Granted { epoch } => self.release(BY, &[(name.as_str().into(), epoch)]),
            _ => Err("it says that another gateway has a name that nobody has".into()),
        }
    }

    pub(super) fn try_changes(&self) -> Result<(), Failed> {
        let mut is_told = false;
        self.listen(&mut |_| {
            is_told = true;
            false
        })?;
        if is_told { Ok(()) } else { Err("it does not answer".into()) }
    }

    pub(super) fn announced(
        &self,
        server: &mut Server,
        clock: Option<(u64, u64)>,
    ) -> Result<Vec<(String, Duration)>, Failed> {
        let mut asked = redis::cmd("ZRANGE");
        asked.arg(&self.gateways).arg(0).arg(GATEWAYS_MAX - 1).arg("WITHSCORES");
        let listed: Vec<(String, u64)> = server.ask(&asked)?;
        let now = now(clock);
        let ago = |at| now.saturating_sub(Duration::from_millis(at));
        Ok(listed.into_iter().map(|(url, at)| (url, ago(at))).collect())
    }

    /// The shared URLs that the gateways have found themselves; empty if the user has no permission
    /// to ask.
    fn shared_urls(
        &self,
        server: &mut Server,
        clock: Option<(u64, u64)>,
        gateways: &[(String, Duration)],
    ) -> Vec<String> {
        let now = now(clock);
        let mut is_shared = |url: &&String| {
            let mut asked = redis::cmd("HGET");
            asked.arg(&self.processes).arg(format!("!{url}"));
            let found = server.ask::<Option<u64>>(&asked).ok().flatten();
            found.is_some_and(|at| now.saturating_sub(Duration::from_millis(at)) < self.claim_time)
        };
        gateways.iter().map(|(url, _)| url).filter(&mut is_shared).cloned().collect()
    }

    /// The claim times that the gateways have announced; empty if the user has no permission to
    /// ask.
    fn other_claim_times(
        &self,
        server: &mut Server,
        gateways: &[(String, Duration)],
    ) -> Vec<(String, Duration)> {
        let own = self.claim_time;
        let mut other = |(url, ago): &(String, Duration)| {
            let mut asked = redis::cmd("HGET");
            asked.arg(&self.processes).arg(telling_of(url));
            let told = server.ask::<Option<String>>(&asked).ok().flatten()?;
            let gateway = ClusterGateway::read(url.clone(), false, *ago, &told)?;
            let time = gateway.claim_time.filter(|time| *time != own && gateway.is_alive(own))?;
            Some((url.clone(), time))
        };
        gateways.iter().filter_map(&mut other).collect()
    }
}

/// The field of a gateway in the hash of processes, as announce.lua writes it.
fn telling_of(url: &str) -> String {
    format!("#{url}")
}

/// Now, by the server's clock, or by this machine's if the user has no permission to ask.
pub(super) fn now(clock: Option<(u64, u64)>) -> Duration {
    let here = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    clock.map_or_else(here, since_epoch)
}

/// A server's clock, given in seconds and microseconds.
fn since_epoch((seconds, micros): (u64, u64)) -> Duration {
    Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros))
}

/// The difference between this machine's clock and the server's.
fn apart(here: SystemTime, clock: (u64, u64)) -> Duration {
    let here = here.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    here.abs_diff(since_epoch(clock))
}
