//! The list of TCP servers to which visitors may connect by name (protocol.md §4).
//!
//! A visitor gives only a name: no address comes from outside (T25).

use std::path::PathBuf;

use crate::device::target::Endpoint;
use crate::device::target::Unreached;
use crate::error::Error;
use crate::proto::authority::{authority, bare};
use crate::proto::turn::Name;
use crate::relay::LocalAnswer;

/// The most targets; more are probably a mistake.
const TARGETS_CEILING: usize = 64;

#[derive(Clone, Debug)]
pub(crate) struct TcpTarget {
    pub(super) name: String,
    pub(super) endpoint: Endpoint,
    pub(super) text: String,
}

impl TcpTarget {
    /// Reads a name and `HOST:PORT`, or `unix:/path`.
    fn parse(name: &str, text: &str) -> Result<Self, Error> {
        Name::label(name).map_err(|_| {
            Error::usage(format!(
                "TCP target {name:?}: write a name of a to z, 0 to 9 and hyphens, like ssh"
            ))
        })?;
        let wrong = |what: &str| Error::usage(format!("TCP target {name}, {text:?}: {what}"));
        let endpoint = match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Endpoint::Unix(PathBuf::from(path)),
            Some(_) => return Err(wrong("write an absolute path, like unix:/run/app.sock")),
            None => {
                let host = || wrong("write HOST:PORT, like 127.0.0.1:22");
                let authority = authority(text.as_bytes()).map_err(|_| host())?;
                let port = authority.port.filter(|port| *port > 0).ok_or_else(host)?;
                let host = bare(authority.host);
                Endpoint::Tcp(host.to_owned(), port)
            }
        };
        Ok(TcpTarget { name: name.to_owned(), endpoint, text: text.to_owned() })
    }

    /// Reads all targets of a device.
    pub(super) fn parse_all(given: &[(String, String)]) -> Result<Vec<Self>, Error> {
        let mut targets: Vec<Self> = Vec::new();
        for (name, text) in given {
            let target = Self::parse(name, text)?;
            if targets.iter().any(|known| known.name == target.name) {
                return Err(Error::usage(format!("TCP target {name}: it is given twice")));
            }
            targets.push(target);
        }
        match targets.len() {
            0..=TARGETS_CEILING => Ok(targets),
            many => {
                Err(Error::usage(format!("{many} TCP targets: it takes {TARGETS_CEILING} at most")))
            }
        }
    }
}

/// The answer to a request for a name that is not listed.
pub(super) const NO_TARGET: LocalAnswer<'_> = LocalAnswer {
    error: Some("destination_not_found"),
    keep: true,
    ..LocalAnswer::new(404, "this device has no TCP target of this name")
};

/// The answer if the request came over a poll.
pub(super) const POLLED: LocalAnswer<'_> = LocalAnswer {
    error: Some("http_upgrade_failed"),
    keep: true,
    ..LocalAnswer::new(
        501,
        "the device is reached by polling, and no other protocol can pass there (Upgrade)",
    )
};

/// The answer if the target cannot be reached.
pub(super) fn unreached(why: &Unreached) -> LocalAnswer<'static> {
    let reason = match why.error {
        "dns_error" => "the device cannot look up the name of this TCP target",
        "connection_refused" => "this TCP target of the device refuses connections",
        "connection_timeout" => "this TCP target of the device did not accept a connection in time",
        "connection_limit_reached" => {
            "the device has nothing left for another connection to this TCP target; try again later"
        }
        _ => "the device cannot reach this TCP target",
    };
    let retry_after = why.retry_after();
    LocalAnswer { status: why.status, reason, error: Some(why.error), retry_after, ..NO_TARGET }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_name_and_one_place() {
        for text in ["127.0.0.1:22", "[::1]:22", "nas.internal:22", "unix:/run/docker.sock"] {
            assert!(TcpTarget::parse("ssh", text).is_ok(), "{text}");
        }
        let Endpoint::Tcp(host, 22) = TcpTarget::parse("ssh", "[::1]:22").unwrap().endpoint else {
            panic!("no address");
        };
        assert_eq!(host, "::1");
        for text in ["", "22", "127.0.0.1", "a:0", "a:65536", "a:b", "http://a:1", "unix:x", "a:1/"]
        {
            assert!(TcpTarget::parse("ssh", text).unwrap_err().is_usage(), "{text}");
        }
        for name in ["", "SSH", "a/b", "a b", "-a", "é"] {
            assert!(TcpTarget::parse(name, "a:1").unwrap_err().is_usage(), "{name}");
        }
        let given =
            |n: usize| -> Vec<_> { (0..n).map(|n| (format!("t{n}"), "a:1".to_owned())).collect() };
        assert!(TcpTarget::parse_all(&given(64)).is_ok());
        assert!(TcpTarget::parse_all(&given(65)).unwrap_err().is_usage());
        let twice = [given(1), given(1)].concat();
        assert!(TcpTarget::parse_all(&twice).unwrap_err().to_string().contains("twice"));
    }
}
