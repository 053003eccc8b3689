//! Where to dial and when: the gateway's URL, redirects, and the pause between attempts.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::error::Error;

/// A gateway's URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    /// Host as in the URL, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `Host` of the offer.
    pub(crate) authority: String,
    /// Path and query.
    pub(crate) target: String,
    /// As given.
    pub(crate) text: String,
}

impl Url {
    /// Reads `http://HOST[:PORT][/PATH][?QUERY]`.
    pub(crate) fn parse(text: &str, whose: &str) -> Result<Self, Error> {
        let bad = |why: &str| Error::usage(format!("{whose} URL {}: {why}", shown(text)));
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(bad("it has to be visible ASCII; write anything else percent-encoded")); // it goes into logs, and may come from a redirect
        }
        let uri: http::Uri = text.parse().map_err(|_| bad("it is no URL; write it like http://gw.example:9999/lamp"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(bad(
                    "https needs TLS, which this build does not have; use http:// on a trusted network, or a TLS proxy on the way",
                ));
            }
            _ => return Err(bad("it has to begin with http://")),
        }
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("secrets do not belong into a URL; give them by PTTH_TOKEN or a file"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let after_host = authority.as_str().rsplit_once(']').map_or(authority.as_str(), |(_, rest)| rest);
        if host.is_empty() || (after_host.contains(':') && authority.port_u16().is_none()) {
            return Err(bad("its host or port is not valid"));
        }
        let target = uri.path_and_query().map_or("/", |p| p.as_str());
        Ok(Url {
            host,
            port: authority.port_u16().unwrap_or(80),
            authority: authority.as_str().to_owned(),
            target: if target.is_empty() { "/".to_owned() } else { target.to_owned() },
            text: text.to_owned(),
        })
    }

    /// A `Location` seen from here: absolute, or a path on the same host.
    pub(crate) fn follow(&self, location: &str) -> Result<Self, Error> {
        if location.starts_with('/') && !location.starts_with("//") {
            return Url::parse(&format!("http://{}{location}", self.authority), "redirect");
        }
        Url::parse(location, "redirect")
    }

    pub(crate) fn same_origin(&self, other: &Url) -> bool {
        self.port == other.port && self.host.eq_ignore_ascii_case(&other.host)
    }

    /// The address, where the host is one and need not be looked up.
    pub(crate) fn literal(&self) -> Option<SocketAddr> {
        self.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.port))
    }
}

/// A URL for an error text: without what may be a password.
fn shown(text: &str) -> String {
    let visible = match text.rfind('@') {
        Some(at) => {
            let scheme = text.find("://").filter(|scheme| *scheme < at).map_or("", |scheme| &text[..scheme + 3]);
            format!("{scheme}...{}", &text[at..])
        }
        None => text.to_owned(),
    };
    visible.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).take(200).collect()
}

/// Exponential back-off with full jitter: the n-th pause is random between nothing and MIN·2ⁿ, at most MAX, so that a
/// fleet that lost its gateway together does not come back together.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    failures: u32,
}

/// Longest `Retry-After` that is obeyed (protocol.md §1.4).
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

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

    /// The pause after one more failure. `random` is in 0..1; `at_least` what the gateway asked for.
    pub(crate) fn fail(&mut self, random: f64, at_least: Option<Duration>) -> Duration {
        let ceiling = self.min.saturating_mul(1 << self.failures.min(20)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        let pause = ceiling.mul_f64(random.clamp(0.0, 1.0));
        match at_least {
            Some(asked) => self.obey(random, asked).max(pause),
            None => pause,
        }
    }

    /// What the gateway asked for, and some more: those who were told the same time should not come at the same time.
    pub(crate) fn obey(&self, random: f64, asked: Duration) -> Duration {
        asked.min(RETRY_AFTER_MAX) + self.min.mul_f64(random.clamp(0.0, 1.0))
    }

    /// The pause after a refusal that will hardly change soon: about the longest.
    pub(crate) fn fail_for_long(&mut self, random: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.max.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }
}

/// A random number in 0..1.
pub(crate) fn random() -> f64 {
    let mut octets = [0; 4];
    match getrandom::fill(&mut octets) {
        Ok(()) => f64::from(u32::from_le_bytes(octets)) / f64::from(u32::MAX),
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
        assert_eq!(Url::parse("http://[::1]:99/x", "gateway").unwrap().literal().unwrap().to_string(), "[::1]:99");
        for (text, part) in [
            ("gw.example/lamp", "http://"),
            ("ftp://gw.example/", "http://"),
            ("https://gw.example/", "TLS"),
            ("http://me:hunter2@gw.example/", "PTTH_TOKEN"),
            ("me:hunter2@gw.example", "http://"),
            ("http://a@\u{9b}31m", "ASCII"),
            ("http://gw.example:99999/", "port"),
            ("http:// /", "ASCII"),
            ("http://gw.example/\u{9b}31m", "ASCII"),
            ("http://", "no URL"),
        ] {
            let error = Url::parse(text, "gateway").unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("hunter2") && error.is_ascii(), "{text}: {error}");
        }
    }

    #[test]
    fn redirects_may_be_relative_and_change_the_origin() {
        let url = Url::parse("http://gw.example:9999/lamp", "gateway").unwrap();
        let near = url.follow("/other").unwrap();
        assert!(near.same_origin(&url) && near.target == "/other");
        assert!(!url.follow("http://gw2.example:9999/lamp").unwrap().same_origin(&url));
        assert!(url.follow("https://gw2.example/").is_err());
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
