//! A report about one name in the table in Redis, for `ptth cluster find` and similar uses.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::gateway::claims::Failed;
use crate::gateway::redis::examine::{failed, now};
use crate::gateway::redis::{RedisDirectory, RedisTable};
use crate::limits::Limits;

/// The directory's entries for a device's name, as reported by [`RedisDirectory::look_up`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NameReport {
    /// The place of the server: `HOST:PORT`, or a path.
    pub server: String,
    /// How long it took to answer.
    pub round_trip: Duration,
    /// The claims of gateways, the newest first. A shared name has several.
    pub claims: Vec<NameClaim>,
    /// How many sessions of the device a newer one has replaced recently: they cannot return while
    /// that one is connected.
    pub replaced: usize,
    /// How many entries were not written by a gateway. They are ignored.
    pub invalid: usize,
    /// The URLs of gateways that have announced themselves within a day, and how long ago; 1,024 at
    /// most.
    pub gateways: Vec<(String, Duration)>,
}

/// A gateway's claim to a name, by the server's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NameClaim {
    /// The URL of the gateway's peers' listener.
    pub gateway: String,
    /// The number of the claim: a newer one has a larger number.
    pub epoch: u64,
    /// How long ago the name was claimed; `None`: unknown, because the server's clock was set
    /// since.
    pub claimed: Option<Duration>,
    /// For how long the claim is valid if it is not renewed; `None`: it has expired, and no request
    /// is sent there.
    pub valid_for: Option<Duration>,
    /// The device has presented a credential.
    pub has_credential: bool,
}

impl RedisDirectory {
    /// Looks a device's name up as the gateways do, with the age and the expiry of each claim.
    /// Nothing is changed. Each of some five steps takes at most `timeout`.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// let directory = reverse_http::RedisDirectory::new("redis://10.0.0.5:6379")?;
    /// let report = directory.look_up("lamp", Duration::from_secs(2))?;
    /// for claim in report.claims {
    ///     println!("{} for {:?}", claim.gateway, claim.valid_for);
    /// }
    /// # Ok::<(), reverse_http::Error>(())
    /// ```
    ///
    /// # Errors
    /// No server was found, or it does not answer.
    pub fn look_up(&self, name: &str, timeout: Duration) -> Result<NameReport, Error> {
        let limits = Limits { directory_timeout: timeout.saturating_mul(2), ..Limits::default() };
        self.clone().into_table(&limits, false).report_on(name).map_err(failed)
    }
}

/// The fields of a hash, as bytes: they may have been written by anyone.
type Entries = Vec<(Vec<u8>, Vec<u8>)>;

impl RedisTable {
    fn report_on(&self, name: &str) -> Result<NameReport, Failed> {
        let (mut server, _) = self.connect_telling()?;
        let asked = Instant::now();
        let clock: Option<(u64, u64)> = server.ask(&redis::cmd("TIME")).ok();
        let round_trip = asked.elapsed();
        let mut entries = redis::cmd("HGETALL");
        let found = entries.arg(self.name_key(name)).query::<Entries>(&mut server.connection);
        let (claims, replaced, invalid) = match found {
            Ok(entries) => read(&entries, now(clock)),
            Err(e) if e.code() == Some("WRONGTYPE") => (Vec::new(), 0, 1),
            Err(e) => return Err(server.failed(&e)),
        };
        let gateways = self.announced(&mut server, clock)?;
        Ok(NameReport { server: server.at, round_trip, claims, replaced, invalid, gateways })
    }
}

/// Reads the claims, the number of replaced sessions, and the number of invalid entries.
fn read(entries: &Entries, now: Duration) -> (Vec<NameClaim>, usize, usize) {
    let (mut claims, mut replaced, mut invalid) = (Vec::new(), 0, 0);
    for (field, value) in entries {
        match (std::str::from_utf8(field), std::str::from_utf8(value)) {
            (Ok(field), Ok(value)) if field.starts_with('~') => {
                let until = value.parse().map(Duration::from_millis);
                replaced += usize::from(until.is_ok_and(|until| until > now));
            }
            (Ok(gateway), Ok(value)) => match claim(gateway, value, now) {
                Some(claim) => claims.push(claim),
                None => invalid += 1,
            },
            _ => invalid += 1,
        }
    }
    claims.sort_by_key(|claim: &NameClaim| std::cmp::Reverse(claim.epoch));
    (claims, replaced, invalid)
}

/// Reads `EPOCH EXPIRY CREDENTIAL SESSION`, as rules.lua writes it. An epoch is the microsecond of
/// the claim, unless the server has lost its data or its clock was set.
fn claim(gateway: &str, value: &str, now: Duration) -> Option<NameClaim> {
    let mut words = value.split(' ');
    let (epoch, expiry) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (credential, _session, None) = (words.next()?, words.next()?, words.next()) else {
        return None;
    };
    let valid_for = Duration::from_millis(expiry).checked_sub(now);
    Some(NameClaim {
        gateway: gateway.to_owned(),
        epoch,
        claimed: now.checked_sub(Duration::from_micros(epoch)),
        valid_for: valid_for.filter(|left| !left.is_zero()),
        has_credential: credential != "-",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_read_with_their_age_and_what_is_none_of_ours_is_counted() {
        let now = Duration::from_secs(1_000);
        let entry = |field: &str, value: &str| (field.into(), value.into());
        let entries = vec![
            entry("http://a:1", "990000000 1020000 - -"),
            entry("http://b:1", "995000000 999000 0f 0e"),
            entry("http://c:1", "1001000000 1030000 0f 0e"),
            entry("~0d", "1000001"),
            entry("~0c", "999999"),
            entry("http://d:1", "1 2 3"),
            entry("http://e:1", "x 1020000 - -"),
            entry("http://f:1", "1 1020000 - - more"),
            (vec![0xff], b"1 1020000 - -".to_vec()),
        ];
        let (claims, replaced, invalid) = read(&entries, now);
        assert_eq!((replaced, invalid), (1, 4));
        let told: Vec<_> = claims
            .iter()
            .map(|claim| (&*claim.gateway, claim.claimed, claim.valid_for, claim.has_credential))
            .collect();
        let seconds = Duration::from_secs;
        assert_eq!(
            told,
            [
                ("http://c:1", None, Some(seconds(30)), true),
                ("http://b:1", Some(seconds(5)), None, true),
                ("http://a:1", Some(seconds(10)), Some(seconds(20)), false),
            ]
        );
    }
}
