//! Limits the rate of requests: buckets for visitors' addresses and tokens, in one table for all
//! loops.
//!
//! ```text
//!   rate 20/s, burst 40:   40 requests at once, then one each 50 ms; beyond: 429 with Retry-After
//!
//!   key ─► one of many sets ─► its own entry ──────────► how far ahead of its rate it is, in time
//!                          └─► none: the entry that is least ahead, which it takes over as it is
//! ```
//! An entry whose time has passed counts as free, so the table contains only clients that are ahead
//! of their rate. Each set has its own lock, which is held for a few comparisons. A client without
//! an entry in a full set takes over an entry together with the used part of its burst (as in
//! Metwally's *Space-Saving*). So a client cannot reset its count by having its entry replaced, and
//! a set never admits more requests than its entries allow. Keys are hashed with a secret, so a
//! client cannot choose its set (T53).

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::permits::household;
use crate::engine::random;
use crate::error::Error;
use crate::gateway::tokens::Digest;
use crate::limits::{RATES_MAX, RATES_PART};
use crate::proto::digits::number;
use crate::relay::LocalAnswer;

/// A number of requests per second, minute or hour, evenly spread: `20/s`, `100/m`, `1000/h`.
///
/// ```
/// use reverse_http::gateway::Rate;
/// let rate: Rate = "20/s".parse()?;
/// assert_eq!(rate.to_string(), "20/s");
/// assert!("0/s".parse::<Rate>().is_err() && "20".parse::<Rate>().is_err());
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    requests: u32,
    per: Period,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Period {
    Second,
    Minute,
    Hour,
}

impl Rate {
    /// The largest number of requests of a rate, or of a burst.
    pub const REQUESTS_MAX: u32 = 1_000_000;
}

impl Period {
    fn nanos(self) -> u64 {
        let seconds: u64 = match self {
            Period::Second => 1,
            Period::Minute => 60,
            Period::Hour => 3_600,
        };
        seconds * 1_000_000_000
    }
}

impl Rate {
    /// This many requests per minute.
    pub(super) fn per_minute(requests: u32) -> Self {
        Rate { requests, per: Period::Minute }
    }

    /// The time between two requests, in nanoseconds.
    fn interval(self) -> u64 {
        self.per.nanos() / u64::from(self.requests)
    }
}

impl FromStr for Rate {
    type Err = Error;

    /// # Errors
    /// It is not a whole number from 1 to 1,000,000 followed by `/s`, `/m` or `/h`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::usage(format!(
                "rate {text:?}: write requests and a time, from 1 to {}: 20/s, 100/m or 1000/h",
                Rate::REQUESTS_MAX
            ))
        };
        let (digits, unit) = text.split_once('/').ok_or_else(wrong)?;
        let per = match unit {
            "s" => Period::Second,
            "m" => Period::Minute,
            "h" => Period::Hour,
            _ => return Err(wrong()),
        };
        let requests = number(digits).filter(|n| (1..=Rate::REQUESTS_MAX).contains(n));
        Ok(Rate { requests: requests.ok_or_else(wrong)?, per })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per {
            Period::Second => "s",
            Period::Minute => "m",
            Period::Hour => "h",
        };
        write!(f, "{}/{unit}", self.requests)
    }
}

/// The rates of a route, or of all requests without a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rates {
    pub(super) of_address: Option<Rate>,
    pub(super) of_token: Option<Rate>,
    pub(super) burst: Option<u32>,
}

impl Rates {
    /// # Errors
    /// It is zero, or more than a million.
    pub(super) fn set_burst(&mut self, requests: u32) -> Result<(), Error> {
        if !(1..=Rate::REQUESTS_MAX).contains(&requests) {
            return Err(Error::usage(format!(
                "burst is {requests}; it takes from 1 to {} requests",
                Rate::REQUESTS_MAX
            )));
        }
        self.burst = Some(requests);
        Ok(())
    }

    /// Returns true if there are no rates.
    pub(super) fn are_none(&self) -> bool {
        self.of_address.is_none() && self.of_token.is_none()
    }

    /// The rates for a table of routes; `whose` is the route. `None` if there are none.
    pub(super) fn paces(&self, whose: &str) -> Option<Arc<Paces>> {
        let pace = |rate| Pace::of(rate, self.burst);
        let (of_address, of_token) = (self.of_address.map(pace), self.of_token.map(pace));
        let whose = whose.to_owned();
        (!self.are_none()).then(|| Arc::new(Paces { whose, of_address, of_token }))
    }
}

/// As in lists of routes: `20/s, 5/s of a token, burst 40`.
impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = [
            self.of_address.map(|rate| format!("{rate} of an address")),
            self.of_token.map(|rate| format!("{rate} of a token")),
            self.burst.map(|burst| format!("burst {burst}")),
        ];
        f.write_str(&told.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// [`Rates`] as they are counted.
#[derive(Debug)]
pub(super) struct Paces {
    /// The route. Counts of a route with the same host and path continue in another table.
    whose: String,
    of_address: Option<Pace>,
    of_token: Option<Pace>,
}

impl Paces {
    /// A rate for addresses only, with the rate's own burst.
    pub(super) fn of_address(whose: &str, rate: Rate) -> Self {
        Paces { whose: whose.to_owned(), of_address: Some(Pace::of(rate, None)), of_token: None }
    }
}

/// A rate and its burst.
#[derive(Clone, Copy, Debug)]
struct Pace {
    rate: Rate,
    interval: u64,
    /// How far ahead of its rate a client may be, in nanoseconds.
    window: u64,
}

impl Pace {
    fn of(rate: Rate, burst: Option<u32>) -> Self {
        let (interval, burst) = (rate.interval(), burst.unwrap_or(rate.requests));
        Pace { rate, interval, window: interval * u64::from(burst) }
    }
}

/// A request that exceeds its rate.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooMany {
    pub(super) reason: String,
    /// The seconds until it would be admitted, at least one.
    pub(super) seconds: u64,
}

impl TooMany {
    /// The answer to the visitor.
    pub(super) fn answer(&self) -> LocalAnswer<'_> {
        LocalAnswer {
            error: Some("http_request_denied"),
            retry_after: Some(self.seconds),
            ..LocalAnswer::new(429, &self.reason)
        }
    }
}

/// An entry of the table: its client, and the time until which its requests so far would have taken
/// at its rate.
#[derive(Clone, Copy, Default)]
struct Entry {
    key: u64,
    until: u64,
    window: u64,
}

impl Entry {
    /// How far ahead of its rate it is.
    fn ahead(&self, now: u64) -> u64 {
        self.until.saturating_sub(now)
    }

    /// The used part of a window, scaled to another window.
    fn ahead_in(&self, now: u64, window: u64) -> u64 {
        let part = u128::from(self.ahead(now)) * u128::from(window);
        let scaled = part / u128::from(self.window.max(1));
        u64::try_from(scaled).map_or(window, |scaled| scaled.min(window))
    }
}

/// The number of entries of a set.
const WAYS: usize = 8;

type Set = Mutex<[Entry; WAYS]>;

/// The table of all loops. Its memory is allocated with the first counted request.
pub(super) struct RateTable {
    sets: OnceLock<(Box<[Set]>, [u8; 16])>,
    began: Instant,
    number_of_sets: usize,
}

impl RateTable {
    /// A table that uses its share of this memory.
    pub(super) fn new(memory_bytes_max: usize) -> Self {
        let most = memory_bytes_max / RATES_PART / size_of::<Set>();
        RateTable {
            sets: OnceLock::new(),
            began: Instant::now(),
            number_of_sets: most.clamp(1, RATES_MAX / WAYS),
        }
    }

    /// Counts a request of this visitor.
    ///
    /// # Errors
    /// The request exceeds its rate; then it is not counted.
    pub(super) fn take(
        &self,
        now: Instant,
        paces: &Paces,
        address: IpAddr,
        token: Option<&Digest>,
    ) -> Result<(), TooMany> {
        let now = self.nanos(now);
        let of_address = paces.of_address.map(|pace| {
            (pace, self.key(&("address", &paces.whose, household(address))), "this address")
        });
        let of_token = paces
            .of_token
            .zip(token)
            .map(|(pace, token)| (pace, self.key(&("token", &paces.whose, token)), "this token"));
        for (pace, key, what) in of_address.iter().chain(&of_token) {
            if let Err(wait) = self.count(*key, pace, now) {
                if let Some((pace, key, _)) = of_address.filter(|(_, counted, _)| counted != key) {
                    self.give_back(key, &pace);
                }
                let reason = format!(
                    "{what} has sent more requests than {} allows: {}",
                    paces.whose, pace.rate
                );
                return Err(TooMany { reason, seconds: wait.div_ceil(1_000_000_000).max(1) });
            }
        }
        Ok(())
    }

    fn nanos(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.began);
        // Time begins at one second, so that unused entries count as free.
        u64::try_from((since + Duration::from_secs(1)).as_nanos()).unwrap_or(u64::MAX / 2)
    }

    fn sets(&self) -> &(Box<[Set]>, [u8; 16]) {
        self.sets.get_or_init(|| {
            let mut secret = [0; 16];
            if let Err(e) = random::fill(&mut secret) {
                log::warn!(
                    "no random number for the table of rates ({e}); its order can be guessed"
                );
            }
            ((0..self.number_of_sets).map(|_| Set::default()).collect(), secret)
        })
    }

    fn key(&self, of: &impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.sets().1.hash(&mut hasher);
        of.hash(&mut hasher);
        hasher.finish().max(1) // 0 marks a free entry
    }

    fn set(&self, key: u64) -> &Set {
        let sets = &self.sets().0;
        let at = usize::try_from(key >> 32).unwrap_or(0) % sets.len();
        &sets[at]
    }

    /// Counts a request. `Err` is the time until it would be admitted, in nanoseconds.
    fn count(&self, key: u64, pace: &Pace, now: u64) -> Result<(), u64> {
        let mut set = self.set(key).lock().unwrap_or_else(PoisonError::into_inner);
        let own = set.iter().position(|entry| entry.key == key);
        let parts = set.iter().map(|entry| entry.ahead_in(now, u64::from(u32::MAX)));
        let least = parts.enumerate().min_by_key(|(_, part)| *part).map_or(0, |(at, _)| at);
        let entry = &mut set[own.unwrap_or(least)];
        let ahead = match own {
            Some(_) => {
                entry.until = entry.until.min(now.saturating_add(pace.window)); // a reload may have made it smaller
                entry.ahead(now)
            }
            None => entry.ahead_in(now, pace.window),
        };
        let ahead = ahead + pace.interval;
        if ahead > pace.window {
            return Err(ahead - pace.window);
        }
        *entry = Entry { key, until: now.saturating_add(ahead), window: pace.window };
        Ok(())
    }

    /// Uncounts a request.
    fn give_back(&self, key: u64, pace: &Pace) {
        let mut set = self.set(key).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = set.iter_mut().find(|entry| entry.key == key) {
            entry.until = entry.until.saturating_sub(pace.interval);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::gateway::tokens::digest;

    fn rates(address: &str, burst: Option<u32>) -> Rates {
        Rates { of_address: Some(address.parse().unwrap()), of_token: None, burst }
    }

    fn address(n: u32) -> IpAddr {
        IpAddr::V4((0x0A00_0000 + n).into())
    }

    /// How many of `attempts` requests at once are admitted.
    fn passed(table: &RateTable, now: Instant, paces: &Paces, from: IpAddr, attempts: u32) -> u32 {
        (0..attempts).map(|_| u32::from(table.take(now, paces, from, None).is_ok())).sum()
    }

    #[test]
    fn rates_are_read_and_shown_as_they_are_written() {
        for text in ["1/s", "20/s", "100/m", "1000000/h"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for wrong in [
            "",
            "20",
            "20/",
            "/s",
            "0/s",
            "1000001/s",
            "+5/s",
            "-1/s",
            "1.5/s",
            "20/d",
            "20 /s",
            "20/s ",
            "1/s/s",
        ] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
        let mut rates = rates("20/s", None);
        assert!(rates.set_burst(0).is_err() && rates.set_burst(1_000_001).is_err());
        rates.set_burst(40).unwrap();
        assert_eq!(rates.to_string(), "20/s of an address, burst 40");
        assert!(Rates { burst: Some(1), ..Rates::default() }.paces("x").is_none());
    }

    #[test]
    fn a_burst_passes_at_once_and_then_one_in_its_time() {
        let table = RateTable::new(1 << 30);
        let paces = rates("20/s", Some(40)).paces("route /a").unwrap();
        let (now, ms) = (Instant::now() + Duration::from_secs(9), Duration::from_millis);
        assert_eq!(passed(&table, now, &paces, address(1), 50), 40);
        let refused = table.take(now, &paces, address(1), None).unwrap_err();
        assert_eq!(refused.seconds, 1);
        assert_eq!(
            refused.reason,
            "this address has sent more requests than route /a allows: 20/s"
        );
        assert_eq!(passed(&table, now + ms(49), &paces, address(1), 2), 0);
        assert_eq!(passed(&table, now + ms(50), &paces, address(1), 2), 1);
        assert_eq!(passed(&table, now + ms(150), &paces, address(1), 5), 2);
        assert_eq!(passed(&table, now + ms(9_000), &paces, address(1), 50), 40);
        // Other addresses and other routes have separate buckets.
        assert_eq!(passed(&table, now, &paces, address(2), 50), 40);
        let other = rates("20/s", None).paces("route /b").unwrap();
        assert_eq!(passed(&table, now, &other, address(1), 50), 20, "the rate's own number");
        // After a reload the counts continue, and a smaller burst is used up.
        let smaller = rates("20/s", Some(2)).paces("route /b").unwrap();
        assert_eq!(passed(&table, now, &smaller, address(1), 1), 0);
        assert_eq!(passed(&table, now + ms(100), &smaller, address(1), 3), 2);
        let slow = rates("1/h", None).paces("route /c").unwrap();
        assert_eq!(passed(&table, now, &slow, address(1), 2), 1);
        assert_eq!(table.take(now, &slow, address(1), None).unwrap_err().seconds, 3_600);
        assert_eq!(
            table.take(now + ms(3_599_500), &slow, address(1), None).unwrap_err().seconds,
            1
        );
        assert_eq!(passed(&table, now + ms(3_600_000), &slow, address(1), 2), 1);
    }

    #[test]
    fn the_addresses_of_a_house_count_as_one() {
        let table = RateTable::new(1 << 30);
        let (now, paces) = (Instant::now(), rates("1/h", Some(2)).paces("x").unwrap());
        let v6 = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(passed(&table, now, &paces, v6("2001:db8:1:2::1"), 1), 1);
        assert_eq!(passed(&table, now, &paces, v6("2001:db8:1:2:ffff::9"), 2), 1);
        assert_eq!(passed(&table, now, &paces, v6("2001:db8:1:3::1"), 2), 2);
    }

    #[test]
    fn a_token_has_a_rate_of_its_own_and_what_it_refuses_counts_for_no_address() {
        let table = RateTable::new(1 << 30);
        let now = Instant::now();
        let both = Rates {
            of_address: Some("3/h".parse().unwrap()),
            of_token: Some("2/h".parse().unwrap()),
            burst: None,
        };
        let paces = both.paces("x").unwrap();
        let (mine, other) = (digest(b"mine"), digest(b"other"));
        let ask = |from, token| table.take(now, &paces, address(from), token);
        assert!(ask(1, Some(&mine)).is_ok() && ask(2, Some(&mine)).is_ok());
        let refused = ask(1, Some(&mine)).unwrap_err();
        assert_eq!(refused.reason, "this token has sent more requests than x allows: 2/h");
        assert!(ask(1, Some(&mine)).is_err() && ask(1, Some(&mine)).is_err());
        assert!(ask(1, Some(&other)).is_ok() && ask(1, None).is_ok(), "three of the address");
        let refused = ask(1, None).unwrap_err();
        assert_eq!(refused.reason, "this address has sent more requests than x allows: 3/h");
    }

    /// T53: in a table with one set, eight clients may be ahead, and any number of others gets no
    /// more than these entries allow.
    #[test]
    fn nobody_gets_rid_of_what_he_has_used_by_having_his_entry_taken() {
        let table = RateTable::new(0);
        let (now, paces) =
            (Instant::now() + Duration::from_secs(9), rates("1/h", Some(10)).paces("x").unwrap());
        let all: u32 = (0..200).map(|n| passed(&table, now, &paces, address(n), 30)).sum();
        assert_eq!(all, 8 * 10);
        // Two clients that take the same entry from each other share its rest.
        let again: u32 = (0..50).map(|n| passed(&table, now, &paces, address(n % 2), 1)).sum();
        assert_eq!(again, 0);
        // A client that has used much keeps its entry before one that has used little.
        let table = RateTable::new(0);
        assert_eq!(passed(&table, now, &paces, address(0), 10), 10);
        (1..=100).for_each(|n| drop(table.take(now, &paces, address(n), None)));
        assert_eq!(passed(&table, now, &paces, address(0), 1), 0);
        // Another rate takes over the used part, not the time.
        let table = RateTable::new(0);
        (0..8).for_each(|n| assert_eq!(passed(&table, now, &paces, address(n), 5), 5));
        let fast = rates("10/s", None).paces("y").unwrap();
        assert_eq!(passed(&table, now, &fast, address(9), 20), 5);
        let later = now + Duration::from_secs(1);
        assert_eq!(passed(&table, later, &fast, address(9), 20), 10);
    }

    #[test]
    fn loops_that_count_at_once_let_no_more_through() {
        let table = RateTable::new(1 << 30);
        let (now, paces) = (Instant::now(), rates("1/h", Some(1_000)).paces("x").unwrap());
        let all: u32 = std::thread::scope(|scope| {
            let one = || passed(&table, now, &paces, address(7), 1_000);
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(all, 1_000);
    }
}
