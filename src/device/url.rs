//! A gateway's URL, and how far away an address is.

use std::net::{IpAddr, Ipv4Addr};

use crate::error::Error;
use crate::proto::authority::{bare, without_empty_port};
use crate::setting::{BEARER_TOKEN, PROXY_CREDENTIALS, REQUEST_FIELDS};

/// How far away an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    /// An address of this machine.
    Loopback,
    /// A link-local address, or that of a cloud's own services, which are as near.
    LinkLocal,
    Beyond,
}

impl Reach {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            // Linux dials itself by 0.0.0.0 and ::, too.
            address if address.is_loopback() || address.is_unspecified() => Reach::Loopback,
            IpAddr::V4(address) if address.is_link_local() => Reach::LinkLocal,
            IpAddr::V6(address) if address.is_unicast_link_local() => Reach::LinkLocal,
            address if serves_metadata(address) => Reach::LinkLocal,
            _ => Reach::Beyond,
        }
    }

    /// The distance of a host as written, without a lookup: a name counts as far, except
    /// `localhost` (RFC 6761 §6.3).
    pub(super) fn of_host(host: &str) -> Self {
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        match host.parse::<IpAddr>() {
            Ok(address) => Reach::of(address),
            Err(_) if name == "localhost" || name.ends_with(".localhost") => Reach::Loopback,
            Err(_) => Reach::Beyond,
        }
    }
}

/// Returns true for an address at which a cloud gives its machines credentials, and which is not
/// link-local: of the networks of AWS (`fd00:ec2::254` and others) and Google (`fd20:ce::254`), and
/// one each of Alibaba and Azure.
fn serves_metadata(address: IpAddr) -> bool {
    const ALIBABA: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
    const AZURE: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
    match address {
        IpAddr::V4(address) => [ALIBABA, AZURE].contains(&address),
        IpAddr::V6(address) => {
            matches!(address.segments(), [0xfd00, 0xec2, ..] | [0xfd20, 0xce, ..])
        }
    }
}

/// A parsed URL of a gateway.
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
    /// The URL as it was given.
    pub(crate) text: String,
    /// No address nearer than this is dialled, because a redirect from that distance led here.
    pub(crate) nearest: Reach,
}

impl Url {
    /// Reads `http://HOST[:PORT][/PATH][?QUERY]`, or the same with `https` (feature `tls`).
    pub(crate) fn parse(text: &str, whose: &str) -> Result<Self, Error> {
        let bad = |why: &str| Error::usage(format!("{whose} URL {}: {why}", shown(text)));
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(bad("it has to be visible ASCII; write anything else percent-encoded")); // it is logged, and may come from a redirect
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
            let remedy = match whose {
                "gateway" => format!("; give the token separately ({BEARER_TOKEN})"),
                "proxy" => format!("; give them separately ({PROXY_CREDENTIALS})"),
                "local server" => format!("; set a field that shows them ({REQUEST_FIELDS})"),
                _ => String::new(),
            };
            return Err(bad(&format!("a URL must not contain secrets{remedy}")));
        }
        let host = bare(authority.host()).to_owned();
        let named = without_empty_port(authority.as_str());
        let after_host = named.rsplit_once(']').map_or(named, |(_, rest)| rest);
        if host.is_empty() || (after_host.contains(':') && authority.port_u16().is_none()) {
            return Err(bad("its host or port is not valid"));
        }
        if authority.port_u16() == Some(0) {
            return Err(bad("nobody listens at port 0; write the gateway's port"));
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

    /// Why an address at this distance may not be dialled, if so.
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

/// A URL for an error text, without a possible password.
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
    #[cfg(not(feature = "tls"))]
    fn without_tls_https_is_refused_with_a_remedy() {
        let error = Url::parse("https://gw.example/", "gateway").unwrap_err().to_string();
        assert!(error.contains("TLS") && error.contains("http://"), "{error}");
    }
}
