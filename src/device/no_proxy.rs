//! Hosts that are dialled without a proxy, in the syntax of curl's `no_proxy`; addresses and
//! networks in lists.

use std::net::IpAddr;

use crate::proto::authority::bare;
use crate::proto::digits::number;

/// Hosts that are dialled without the proxy, as curl reads `no_proxy`: names with all names below
/// them, addresses, networks, or `*` for all. In addition to curl's rules, an entry may end in
/// `:PORT` and then applies only to that port.
#[derive(Clone, Default)]
pub(super) struct Exceptions {
    pub(super) all: bool,
    pub(super) list: Vec<(Except, Option<u16>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Except {
    /// In lower case, without dots at its ends.
    Name(String),
    Network(IpAddr, u32),
}

impl Exceptions {
    /// An entry that can never match is ignored, as in curl.
    pub(super) fn parse(text: &str) -> Self {
        if text.trim() == "*" {
            return Exceptions { all: true, list: Vec::new() };
        }
        let entries = text.split([',', ' ', '\t']).filter(|entry| !entry.is_empty());
        Exceptions { all: false, list: entries.filter_map(Exceptions::entry).collect() }
    }

    fn entry(text: &str) -> Option<(Except, Option<u16>)> {
        if let Some(network) = network(text) {
            return Some((network, None));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(number(port)?)),
            None => (text, None),
        };
        let name = host.trim_matches('.').to_ascii_lowercase();
        let entry = network(host).or_else(|| (!name.is_empty()).then_some(Except::Name(name)))?;
        Some((entry, port))
    }

    pub(super) fn has(&self, host: &str, port: u16) -> bool {
        let address: Option<IpAddr> = host.parse().ok();
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        self.all
            || self.list.iter().filter(|(_, only)| only.is_none_or(|only| only == port)).any(
                |(entry, _)| match (entry, address) {
                    (Except::Network(..), Some(address)) => entry.holds(address),
                    (Except::Name(below), None) => name
                        .strip_suffix(below.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
                    _ => false,
                },
            )
    }
}

impl Except {
    /// Returns true if it is a network that contains this address.
    pub(super) fn holds(&self, address: IpAddr) -> bool {
        match self {
            Except::Network(base, prefix) => {
                common_bits(*base, address).is_some_and(|bits| bits >= *prefix)
            }
            Except::Name(_) => false,
        }
    }
}

/// `10.0.0.0/8`, `::1`, `[::1]`. Bits after the prefix do not count.
pub(super) fn network(text: &str) -> Option<Except> {
    let (address, prefix) =
        text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let address: IpAddr = bare(address).parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.map_or(Some(most), |digits| number(digits).filter(|n| *n <= most))?;
    Some(Except::Network(address, prefix))
}

/// The number of common leading bits of two addresses of one family.
fn common_bits(a: IpAddr, b: IpAddr) -> Option<u32> {
    match (a, b.to_canonical()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => Some((u32::from(a) ^ u32::from(b)).leading_zeros()),
        (IpAddr::V6(a), IpAddr::V6(b)) => Some((u128::from(a) ^ u128::from(b)).leading_zeros()),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_is_read_as_curl_reads_it() {
        for (list, host, is) in [
            ("*", "gw.example", true),
            (" * ", "10.0.0.1", true),
            ("example", "gw.example", true),
            (".example", "gw.example", true),
            (".gw.example", "gw.example", true),
            ("GW.Example.", "gw.eXample", true),
            ("gw.example", "gw.example.", true),
            ("example", "gwexample", false),
            ("gw.example", "example", false),
            ("a.example,b.example", "b.example", true),
            ("a.example b.example", "b.example", true),
            ("*.example", "gw.example", false), // curl knows no patterns
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.9.9.9/8", "10.1.2.3", true), // bits after the prefix do not count
            ("10.0.0.0/8", "11.1.2.3", false),
            ("0.0.0.0/0", "11.1.2.3", true),
            ("10.0.0.0/33", "10.0.0.0", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("0.0.1", "127.0.0.1", false), // an address has no names above it
            ("::1", "::1", true),
            ("[::1]", "::1", true),
            ("fe80::/10", "fe81::1", true),
            ("fe80::/10", "2001:db8::1", false),
            ("gw.example:9999", "gw.example", true),
            ("gw.example:80", "gw.example", false),
            ("127.0.0.1:9999", "127.0.0.1", true),
            ("[::1]:9999", "::1", true),
            ("[::1]:80", "::1", false),
            ("gw.example:port", "gw.example", false),
            ("gw.example:+9999", "gw.example", false),
            ("10.0.0.0/+8", "10.1.2.3", false),
            ("", "gw.example", false),
            (",. ,", "gw.example", false),
        ] {
            assert_eq!(Exceptions::parse(list).has(host, 9999), is, "{list:?} {host}");
        }
    }
}
