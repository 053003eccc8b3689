//! The announcements of gateways in a directory that they share: that they are running, how many
//! names their devices have, and how long their claims last.

#![cfg_attr(not(feature = "redis"), allow(dead_code, reason = "no table is shared"))]

use std::collections::BTreeSet;
use std::time::Duration;

/// Longest URL of a gateway: a host of 255 bytes, a scheme and a port.
const URL_BYTES_MAX: usize = 300;
/// Gateways that are named at most in one line of the log.
const NAMED_MAX: usize = 8;

/// A gateway that has announced itself in the shared directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterGateway {
    /// The URL of its peers' listener.
    pub url: String,
    /// It is this gateway.
    pub is_own: bool,
    /// How long ago it announced itself, which it does several times in each claim time. One that
    /// has not for longer was killed, or does not reach the directory; it is listed for a day.
    pub announced: Duration,
    /// It had announced itself within a claim time when this gateway last asked, which it does
    /// every 0.1 s for each gateway there is, but not more often than it announces itself.
    pub lives: bool,
    /// How many names its connected devices had then; `None`: it did not say.
    pub names: Option<usize>,
    /// How long its claims last; `None`: it did not say. It must be the same for all gateways.
    pub claim_time: Option<Duration>,
}

impl ClusterGateway {
    /// `told`: the number of names and the claim time in milliseconds, as a gateway has written them.
    /// `None`: the URL is not a gateway's: any client of the table can write to it.
    pub(crate) fn read(url: String, is_own: bool, announced: Duration, told: &str) -> Option<Self> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b":/.-_[]".contains(&byte);
        if url.len() > URL_BYTES_MAX || !url.starts_with("http") || !url.bytes().all(fits) {
            return None;
        }
        let words = told.split_once(' ');
        let names = words.and_then(|(names, _)| names.parse().ok());
        let time = words.and_then(|(_, time)| time.parse().ok()).map(Duration::from_millis);
        Some(ClusterGateway { url, is_own, announced, lives: true, names, claim_time: time })
    }

    /// Returns true if it announces itself as often as a gateway does.
    pub(crate) fn is_alive(&self, claim_time: Duration) -> bool {
        self.announced <= self.claim_time.unwrap_or(claim_time).max(claim_time)
    }
}

/// What a gateway hears when it announces itself.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    /// Another gateway announces itself by the same URL.
    pub(crate) url_is_shared: bool,
    /// The directory did not know this gateway.
    pub(crate) is_new: bool,
    /// All gateways, this one included; `None`: they were not asked for.
    pub(crate) gateways: Option<Vec<ClusterGateway>>,
}

/// Which gateways were found to have another claim time, so that each is told once.
#[derive(Debug, Default)]
pub(crate) struct OtherTimes(BTreeSet<String>);

impl OtherTimes {
    /// What is to be told of gateways that have been found now; `None`: nothing.
    pub(crate) fn found(&mut self, all: &[ClusterGateway], own: Duration) -> Option<String> {
        let differs = |gateway: &&ClusterGateway| {
            !gateway.is_own
                && gateway.is_alive(own)
                && gateway.claim_time.is_some_and(|time| time != own)
        };
        let now: Vec<&ClusterGateway> = all.iter().filter(differs).collect();
        let new: Vec<String> = now
            .iter()
            .filter(|gateway| !self.0.contains(&gateway.url))
            .map(|gateway| {
                format!("{} ({:?})", gateway.url, gateway.claim_time.unwrap_or_default())
            })
            .collect();
        self.0 = now.into_iter().map(|gateway| gateway.url.clone()).collect();
        let more = new.len().saturating_sub(NAMED_MAX);
        let named = new[..new.len() - more].join(", ");
        match (new.is_empty(), more) {
            (true, _) => None,
            (false, 0) => Some(named),
            (false, more) => Some(format!("{named} and {more} more")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn gateway(url: &str, announced: u64, told: &str) -> ClusterGateway {
        ClusterGateway::read(url.to_owned(), false, Duration::from_secs(announced), told).unwrap()
    }

    #[test]
    fn what_a_gateway_says_of_itself_is_read_as_far_as_it_says_it() {
        let read = gateway("http://a:1", 0, "7 30000");
        assert_eq!((read.names, read.claim_time), (Some(7), Some(Duration::from_secs(30))));
        for told in ["-", "", "7", "x y"] {
            let read = gateway("http://a:1", 0, told);
            assert_eq!((read.names, read.claim_time), (None, None), "{told}");
        }
        for url in ["", "ftp://a:1", "http://a\"} 1", "http://<b>", &format!("http://{:0300}:1", 1)]
        {
            let read = ClusterGateway::read(url.to_owned(), false, Duration::ZERO, "7 30000");
            assert_eq!(read, None, "{url}");
        }
    }

    #[test]
    fn a_gateway_with_another_claim_time_is_told_once_while_it_is_there() {
        let own = Duration::from_secs(30);
        let mut times = OtherTimes::default();
        let same = gateway("http://a:1", 0, "7 30000");
        let other = gateway("http://b:1", 0, "7 5000");
        let killed = gateway("http://c:1", 40, "7 5000");
        let older = gateway("http://d:1", 0, "-");
        let all = [same.clone(), other.clone(), killed, older];
        assert_eq!(times.found(&all, own).as_deref(), Some("http://b:1 (5s)"));
        assert_eq!(times.found(&all, own), None);
        assert_eq!(times.found(&[same], own), None, "it is gone");
        assert_eq!(times.found(&[other], own).as_deref(), Some("http://b:1 (5s)"));
        let many: Vec<_> =
            (0..10).map(|n| gateway(&format!("http://x{n}:1"), 0, "0 5000")).collect();
        assert!(times.found(&many, own).is_some_and(|told| told.ends_with(" and 2 more")));
    }
}
