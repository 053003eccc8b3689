//! Where to dial and when: the gateway's URL, redirects, and the pause between attempts.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::device::redirects::{Reach, RedirectHosts};
use crate::engine::random;
use crate::error::Error;
use crate::proto::head::{Fields, without_empty_port};
use crate::proto::turn;

/// A gateway's URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    /// Host as in the URL, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `https`: over TLS.
    pub(crate) secure: bool,
    /// `Host` of the offer.
    pub(crate) authority: String,
    /// Path and query.
    pub(crate) target: String,
    /// As given.
    pub(crate) text: String,
    /// No address nearer than this is dialled: a redirect led here from that far.
    pub(crate) nearest: Reach,
}

impl Url {
    /// Reads `http://HOST[:PORT][/PATH][?QUERY]`, or the same with `https` (feature `tls`).
    pub(crate) fn parse(text: &str, whose: &str) -> Result<Self, Error> {
        let bad = |why: &str| Error::usage(format!("{whose} URL {}: {why}", shown(text)));
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(bad("it has to be visible ASCII; write anything else percent-encoded")); // it goes into logs, and may come from a redirect
        }
        let uri: http::Uri = text
            .parse()
            .map_err(|_| bad("it is no URL; write it like http://gw.example:9999/lamp"))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") if cfg!(feature = "tls") => true,
            Some("https") => {
                return Err(bad(
                    "https needs TLS, which this build does not have; use http:// on a trusted network, or a TLS proxy on the way",
                ));
            }
            _ if cfg!(feature = "tls") => {
                return Err(bad("it has to begin with https:// or http://"));
            }
            _ => return Err(bad("it has to begin with http://")),
        };
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("secrets do not belong into a URL; give them by PTTH_TOKEN or a file"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let named = without_empty_port(authority.as_str());
        let after_host = named.rsplit_once(']').map_or(named, |(_, rest)| rest);
        if host.is_empty() || (after_host.contains(':') && authority.port_u16().is_none()) {
            return Err(bad("its host or port is not valid"));
        }
        let target = uri.path_and_query().map_or("/", |p| p.as_str());
        Ok(Url {
            host,
            port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            secure,
            authority: named.to_owned(),
            target: if target.is_empty() { "/".to_owned() } else { target.to_owned() },
            text: text.to_owned(),
            nearest: Reach::Loopback,
        })
    }

    /// A `Location` seen from here: absolute, or a path on the same host. `from` is how far away
    /// its sender is.
    pub(crate) fn follow(
        &self,
        location: &str,
        hosts: &RedirectHosts,
        from: Reach,
    ) -> Result<Self, Error> {
        let to = match location.starts_with('/') && !location.starts_with("//") {
            true => {
                let scheme = if self.secure { "https" } else { "http" };
                Url::parse(&format!("{scheme}://{}{location}", self.authority), "redirect")?
            }
            false => Url::parse(location, "redirect")?,
        };
        if self.secure && !to.secure {
            return Err(Error::usage(format!(
                "redirect URL {}: it leads out of TLS, from https:// to http://",
                to.text
            )));
        }
        if !self.same_origin(&to) {
            hosts.check(&to).map_err(|why| Error::usage(format!("redirect URL {why}")))?;
        }
        Ok(Url { nearest: self.nearest.max(from), ..to })
    }

    /// Why no address of it may be dialled that is as near as this.
    pub(crate) fn too_near(&self, reach: Reach) -> Option<String> {
        let where_to = match reach {
            Reach::Loopback => "this machine itself (loopback)",
            Reach::LinkLocal => "a link-local address",
            Reach::Beyond => "an address",
        };
        (reach < self.nearest).then(|| {
            format!("{} is {where_to}, where no redirect from farther away may lead", self.host)
        })
    }

    pub(crate) fn same_origin(&self, other: &Url) -> bool {
        self.secure == other.secure
            && self.port == other.port
            && self.host.eq_ignore_ascii_case(&other.host)
    }
}

/// A URL for an error text: without what may be a password.
fn shown(text: &str) -> String {
    let visible = match text.rfind('@') {
        Some(at) => {
            let scheme = text
                .find("://")
                .filter(|scheme| *scheme < at)
                .map_or("", |scheme| &text[..scheme + 3]);
            format!("{scheme}...{}", &text[at..])
        }
        None => text.to_owned(),
    };
    visible.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).take(200).collect()
}

/// A gateway as it was configured: where it is, and the name it knows this device by.
#[derive(Debug)]
pub(crate) struct GatewayTarget {
    pub(crate) url: Arc<Url>,
    pub(crate) name: String,
}

/// The gateways that one event loop may go to, one at a time, in their order: one, or with failover
/// all.
#[derive(Debug)]
pub(crate) struct GatewayList {
    list: Vec<Entry>,
    current: usize,
}

#[derive(Debug)]
struct Entry {
    home: Arc<GatewayTarget>,
    /// It asked to be left alone until then.
    not_before: Option<Instant>,
    /// It refused the device for good.
    refused: bool,
}

impl GatewayList {
    /// `homes` has at least one.
    pub(crate) fn new(homes: Vec<GatewayTarget>) -> Option<Self> {
        let list: Vec<Entry> = homes
            .into_iter()
            .map(|home| Entry { home: Arc::new(home), not_before: None, refused: false })
            .collect();
        (!list.is_empty()).then_some(GatewayList { list, current: 0 })
    }

    pub(crate) fn current(&self) -> &Arc<GatewayTarget> {
        &self.list[self.current].home
    }

    pub(crate) fn is_current(&self, home: &Arc<GatewayTarget>) -> bool {
        Arc::ptr_eq(self.current(), home)
    }

    pub(crate) fn any_has_origin(&self, url: &Url) -> bool {
        self.list.iter().any(|entry| entry.home.url.same_origin(url))
    }

    pub(crate) fn is_list(&self) -> bool {
        self.list.len() > 1
    }

    /// The way in goes through this one.
    pub(crate) fn settle_on(&mut self, home: &Arc<GatewayTarget>) {
        self.current = self.place(home).unwrap_or(self.current);
    }

    /// Nobody is asked to wait any more.
    pub(crate) fn hurry(&mut self) {
        self.list.iter_mut().for_each(|entry| entry.not_before = None);
    }

    /// It will not be dialled before `at`; nor ever, where it `refused` for good.
    pub(crate) fn rest(&mut self, home: &Arc<GatewayTarget>, at: Option<Instant>, refused: bool) {
        if let Some(place) = self.place(home) {
            let entry = &mut self.list[place];
            entry.not_before = at.max(entry.not_before);
            entry.refused |= refused;
        }
    }

    pub(crate) fn all_refused(&self) -> bool {
        self.list.iter().all(|entry| entry.refused)
    }

    /// Goes on to the next that may be dialled at `now`. False: there is none behind the current
    /// one.
    pub(crate) fn advance(&mut self, now: Instant) -> bool {
        match (self.current + 1..self.list.len()).find(|place| self.list[*place].may(now)) {
            Some(place) => self.current = place,
            None => return false,
        }
        true
    }

    /// Begins again: the first that may be dialled at `at`, or whichever may be dialled soonest.
    /// When that is.
    pub(crate) fn start_over(&mut self, at: Instant) -> Instant {
        let first = (0..self.list.len()).find(|place| self.list[*place].may(at));
        let soonest = || {
            (0..self.list.len())
                .filter(|place| !self.list[*place].refused)
                .min_by_key(|place| self.list[*place].not_before)
        };
        self.current = first.or_else(soonest).unwrap_or(self.current);
        self.list[self.current].not_before.map_or(at, |not_before| not_before.max(at))
    }

    fn place(&self, home: &Arc<GatewayTarget>) -> Option<usize> {
        self.list.iter().position(|entry| Arc::ptr_eq(&entry.home, home))
    }
}

impl Entry {
    fn may(&self, at: Instant) -> bool {
        !self.refused && self.not_before.is_none_or(|not_before| not_before <= at)
    }
}

/// Exponential back-off with full jitter: the n-th pause is random between nothing and MIN·2ⁿ, at
/// most MAX, so that a fleet that lost its gateway together does not come back together.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

/// Longest `Retry-After` that is obeyed (protocol.md §1.4).
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Backoff { min, max, failures: 0 }
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    pub(crate) fn succeed(&mut self) {
        self.failures = 0;
    }

    /// The pause after one more failure. `random` is in 0..1; `at_least` what the gateway asked
    /// for.
    pub(crate) fn fail(&mut self, random: f64, at_least: Option<Duration>) -> Duration {
        let ceiling = self.min.saturating_mul(1 << self.failures.min(20)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        let pause = ceiling.mul_f64(random.clamp(0.0, 1.0));
        match at_least {
            Some(asked) => self.obey(random, asked).max(pause),
            None => pause,
        }
    }

    /// What the gateway asked for, and some more: those who were told the same time should not come
    /// at the same time.
    pub(crate) fn obey(&self, random: f64, asked: Duration) -> Duration {
        asked.min(RETRY_AFTER_MAX) + self.min.mul_f64(random.clamp(0.0, 1.0))
    }

    /// The pause after a refusal that will hardly change soon.
    pub(crate) fn fail_for_long(&mut self, random: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.long(random)
    }

    /// About the longest pause.
    pub(crate) fn long(&self, random: f64) -> Duration {
        self.max.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }
}

/// How long an answer asks to be left alone: seconds, or a date in any of its three forms (RFC 9110
/// §5.6.7), which counts from the answer's own `Date`, or without one from our clock. At most
/// [`RETRY_AFTER_MAX`].
pub(crate) fn retry_after(fields: &Fields<'_>) -> Option<Duration> {
    let date = |name: &str| {
        fields
            .get(name)
            .and_then(|value| std::str::from_utf8(value).ok())
            .and_then(|text| httpdate::parse_http_date(text).ok())
    };
    turn::retry_after(fields).or_else(|| {
        let at = date("retry-after")?;
        let now = date("date").unwrap_or_else(SystemTime::now);
        Some(at.duration_since(now).unwrap_or_default().min(RETRY_AFTER_MAX))
    })
}

/// A random number in 0..1.
pub(crate) fn random() -> f64 {
    let mut bytes = [0; 4];
    match random::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5, // without entropy at boot a fixed jitter is better than no device
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart_or_refused_with_a_remedy() {
        let url = Url::parse("http://gw.example:9999/lamp?x=1", "gateway").unwrap();
        assert_eq!(
            (url.host.as_str(), url.port, url.authority.as_str(), url.target.as_str()),
            ("gw.example", 9999, "gw.example:9999", "/lamp?x=1")
        );
        assert_eq!(Url::parse("http://gw.example", "gateway").unwrap().target, "/");
        assert_eq!(Url::parse("http://[::1]:99/x", "gateway").unwrap().host, "::1");
        for (text, part) in [
            ("gw.example/lamp", "http://"),
            ("ftp://gw.example/", "http://"),
            ("http://me:hunter2@gw.example/", "PTTH_TOKEN"),
            ("me:hunter2@gw.example", "http://"),
            ("http://a@\u{9b}31m", "ASCII"),
            ("http://gw.example:99999/", "port"),
            ("http:// /", "ASCII"),
            ("http://gw.example/\u{9b}31m", "ASCII"),
            ("http://", "no URL"),
        ] {
            let error = Url::parse(text, "gateway").unwrap_err().to_string();
            assert!(
                error.contains(part) && !error.contains("hunter2") && error.is_ascii(),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn redirects_may_be_relative_and_change_the_origin() {
        let url = Url::parse("http://gw.example:9999/lamp", "gateway").unwrap();
        let near = follow(&url, "/other").unwrap();
        assert!(near.same_origin(&url) && near.target == "/other");
        assert!(!follow(&url, "http://gw2.example:9999/lamp").unwrap().same_origin(&url));
        assert!(follow(&url, "ftp://gw2.example/").is_err());
    }

    fn follow(url: &Url, location: &str) -> Result<Url, Error> {
        url.follow(
            location,
            &RedirectHosts::new(std::iter::once(url), &["*".to_owned()]).unwrap(),
            Reach::Loopback,
        )
    }

    #[test]
    fn a_redirect_leads_no_nearer_than_where_any_of_a_row_came_from() {
        let url = Url::parse("http://gw.example/lamp", "gateway").unwrap();
        assert_eq!(
            url.too_near(Reach::Loopback),
            None,
            "what is configured is dialled wherever it is"
        );
        let hosts = RedirectHosts::new(std::iter::once(&url), &["*".to_owned()]).unwrap();
        let far = url.follow("/other", &hosts, Reach::Beyond).unwrap();
        assert!(
            far.too_near(Reach::Loopback).is_some()
                && far.too_near(Reach::LinkLocal).is_some()
                && far.too_near(Reach::Beyond).is_none()
        );
        let again = far.follow("/more", &hosts, Reach::Loopback).unwrap();
        assert!(again.too_near(Reach::LinkLocal).is_some());
        let near = url.follow("/other", &hosts, Reach::LinkLocal).unwrap();
        assert!(
            near.too_near(Reach::Loopback).is_some() && near.too_near(Reach::LinkLocal).is_none()
        );
    }

    #[test]
    #[cfg(not(feature = "tls"))]
    fn without_tls_https_is_refused_with_a_remedy() {
        let error = Url::parse("https://gw.example/", "gateway").unwrap_err().to_string();
        assert!(error.contains("TLS") && error.contains("http://"), "{error}");
    }

    #[test]
    #[cfg(feature = "tls")]
    fn https_has_its_own_port_and_is_not_left_by_a_redirect() {
        let url = Url::parse("https://gw.example/lamp", "gateway").unwrap();
        assert!(url.secure && url.port == 443);
        assert!(follow(&url, "/other").unwrap().secure);
        assert!(!url.same_origin(&Url::parse("http://gw.example:443/lamp", "gateway").unwrap()));
        let error = follow(&url, "http://gw.example/lamp").unwrap_err().to_string();
        assert!(error.contains("https"), "{error}");
        assert!(
            follow(&Url::parse("http://gw.example/", "gateway").unwrap(), "https://gw2.example/")
                .unwrap()
                .secure
        );
    }

    fn homes(n: usize) -> (GatewayList, Vec<Arc<GatewayTarget>>) {
        let home = |n: usize| GatewayTarget {
            url: Arc::new(Url::parse(&format!("http://gw{n}/lamp"), "gateway").unwrap()),
            name: "lamp".to_owned(),
        };
        let homes = GatewayList::new((0..n).map(home).collect()).unwrap();
        let list = homes.list.iter().map(|entry| entry.home.clone()).collect();
        (homes, list)
    }

    #[test]
    fn a_failovers_list_is_gone_through_in_order_and_begins_again_with_its_first() {
        let now = Instant::now();
        let (mut homes, list) = homes(3);
        assert!(
            homes.is_current(&list[0])
                && homes.advance(now)
                && homes.is_current(&list[1])
                && homes.advance(now)
        );
        assert!(homes.is_current(&list[2]) && !homes.advance(now) && homes.is_current(&list[2]));
        assert_eq!(homes.start_over(now), now);
        assert!(homes.is_current(&list[0]));
        // One that asked to be left alone is left alone.
        let later = now + Duration::from_secs(60);
        homes.rest(&list[0], Some(later), false);
        homes.rest(&list[1], Some(now + Duration::from_secs(90)), false);
        assert_eq!(homes.start_over(now), now);
        assert!(homes.is_current(&list[2]));
        homes.rest(&list[2], Some(now + Duration::from_secs(61)), false);
        assert_eq!(homes.start_over(now), later);
        assert!(homes.is_current(&list[0]) && !homes.advance(now));
        // One that refused for good is not dialled again.
        homes.rest(&list[0], None, true);
        assert_eq!(homes.start_over(now), now + Duration::from_secs(61));
        assert!(homes.is_current(&list[2]) && !homes.all_refused());
        homes.hurry();
        assert_eq!(homes.start_over(now), now);
        assert!(homes.is_current(&list[1]));
    }

    /// A fleet that lost its gateway together, each device on its own clock: when they come, in
    /// seconds since then.
    #[test]
    fn two_hundred_devices_do_not_come_back_together() {
        let mut came = Vec::new();
        let mut pauses = vec![Vec::new(); 7];
        for _ in 0..200 {
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
            let mut at = 0.0;
            for pauses in &mut pauses {
                let pause = backoff.fail(random(), None).as_secs_f64();
                pauses.push(pause);
                at += pause;
                came.push(at);
            }
        }
        for (n, pauses) in pauses.iter().enumerate() {
            let ceiling = 60f64.min(f64::from(1 << n));
            let mean = pauses.iter().sum::<f64>() / 200.0;
            let (least, most) = pauses
                .iter()
                .fold((f64::MAX, 0f64), |(a, b), pause| (a.min(*pause), b.max(*pause)));
            println!("pause {n}: {least:.2} to {most:.2} s, mean {mean:.2} of {ceiling}");
            // Full jitter: uniform from nothing to the ceiling. Each bound fails by chance less
            // than once in 10^7 runs.
            assert!(most <= ceiling && most > 0.9 * ceiling && least < 0.1 * ceiling, "{n}");
            assert!((0.38..0.62).contains(&(mean / ceiling)), "{n}");
        }
        let busiest = |width: f64| {
            (0..200)
                .map(|n| came.iter().filter(|at| (**at / width) as i32 == n).count())
                .max()
                .unwrap()
        };
        println!("busiest tenth of a second: {} of 200", busiest(0.1));
        assert!(busiest(0.1) < 80);
    }

    #[test]
    fn devices_that_were_told_the_same_time_do_not_come_at_the_same_time() {
        let asked = Duration::from_secs(30);
        let pauses: Vec<f64> = (0..200)
            .map(|_| {
                Backoff::new(Duration::from_secs(1), Duration::from_secs(60))
                    .fail(random(), Some(asked))
                    .as_secs_f64()
            })
            .collect();
        assert!(pauses.iter().all(|pause| (30.0..=31.0).contains(pause)));
        assert!(
            pauses.iter().any(|pause| *pause < 30.2) && pauses.iter().any(|pause| *pause > 30.8)
        );
    }

    #[test]
    fn pauses_double_up_to_the_cap_with_full_jitter() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let pauses: Vec<u64> = (0..8).map(|_| backoff.fail(1.0, None).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.fail(0.0, None), Duration::ZERO);
        assert_eq!(backoff.fail(0.5, Some(Duration::from_secs(7200))).as_secs(), 3600);
        backoff.succeed();
        assert_eq!(backoff.fail(1.0, None).as_secs(), 1);
        assert_eq!(backoff.fail_for_long(0.0).as_secs(), 30);
    }
}
