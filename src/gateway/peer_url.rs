//! The location of another gateway: the normalised URL of its peers' listener, and its addresses.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use crate::error::Error;
use crate::limits::PEER_ADDRESSES_MAX;
use crate::proto::authority::{authority, bare as bare_host};

/// The URL of a gateway's peers' listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerUrl {
    /// The normalised text.
    pub(crate) text: Arc<str>,
    host: String,
    port: u16,
    pub(crate) is_secure: bool,
}

impl PeerUrl {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |why: &str| {
            let shown: String = text.chars().filter(|c| c.is_ascii_graphic()).take(200).collect();
            Error::usage(format!("gateway URL {shown}: {why}; write it like http://10.0.0.2:7000"))
        };
        let bare = text.strip_suffix('/').unwrap_or(text);
        let (is_secure, bare) = match (bare.strip_prefix("http://"), bare.strip_prefix("https://"))
        {
            (Some(bare), _) => (false, bare),
            (_, Some(bare)) => (true, bare),
            _ => return Err(wrong("it begins with neither http:// nor https://")),
        };
        if is_secure && cfg!(not(feature = "tls")) {
            return Err(wrong("this build has no TLS"));
        }
        let named = authority(bare.as_bytes()).map_err(|refusal| wrong(&refusal.reason))?;
        let port = named.port.unwrap_or(if is_secure { 443 } else { 80 });
        if port == 0 {
            return Err(wrong("nobody listens at port 0"));
        }
        let host = named.host.to_ascii_lowercase();
        let scheme = if is_secure { "https" } else { "http" };
        let text = format!("{scheme}://{host}:{port}").into();
        let host = bare_host(&host).to_owned();
        Ok(PeerUrl { text, host, port, is_secure })
    }

    /// The host, without a trailing dot, without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn needs_resolver(&self) -> bool {
        self.host.parse::<IpAddr>().is_err()
    }

    /// Looks the host up. May take as long as the system's resolver.
    pub(super) fn addresses(&self) -> Result<Vec<SocketAddr>, String> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, self.port)]);
        }
        let found = (self.host.as_str(), self.port).to_socket_addrs();
        let found: Vec<SocketAddr> =
            found.map_err(|e| e.to_string())?.take(PEER_ADDRESSES_MAX).collect();
        if found.is_empty() { Err("it has no address".to_owned()) } else { Ok(found) }
    }
}

/// A gateway that has a device.
#[derive(Clone, Debug)]
pub(crate) struct Location {
    pub(crate) url: PeerUrl,
    pub(crate) addresses: Vec<SocketAddr>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_has_one_spelling_of_its_url() {
        for (text, spelt) in [
            ("http://10.0.0.2:7000", "http://10.0.0.2:7000"),
            ("http://GW.example./", "http://gw.example:80"),
            ("http://[::1]:7000", "http://[::1]:7000"),
        ] {
            assert_eq!(&*PeerUrl::parse(text).unwrap().text, spelt);
        }
        for text in [
            "10.0.0.2:7000",
            "ftp://a",
            "http://a/b",
            "http://a:b@c",
            "http://",
            "http://a b",
            "http://a:0",
        ] {
            assert!(PeerUrl::parse(text).unwrap_err().is_usage(), "{text}");
        }
        assert_eq!(PeerUrl::parse("http://[::1]:7").unwrap().addresses().unwrap().len(), 1);
    }
}
