//! One local server of a forwarder, and the reasons why it cannot be reached.
//!
//! The server is fixed: neither `Host` nor an absolute-form target selects another one (T25).

use std::path::PathBuf;
use std::sync::Arc;

use crate::device::url::Url;
use crate::error::Error;
use crate::proto::authority::authority;
use crate::proto::edits::FieldEdits;
use crate::stream::{Connector, HandshakeError, is_exhausted};
use std::io;

/// A local server.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(super) endpoint: Endpoint,
    /// `Host` if the gateway's request has none.
    pub(super) authority: String,
    /// `Host` to send instead of the visitor's.
    pub(super) host_header: Option<String>,
    /// With `host_header`: maps visitors' `Origin` and `Referer` to it, too.
    pub(super) maps_origin: bool,
    /// The verification of a server at `https`.
    pub(super) tls: Option<Arc<Connector>>,
    pub(super) edits: Edits,
    /// The prefix that is removed from the paths of requests.
    pub(super) stripped: Option<String>,
    /// The most connections at once; 0 means as many as there are requests.
    pub(super) connections_max: usize,
    pub(super) text: String,
}

/// Edits to fields of requests to the local server, and of its responses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edits {
    pub(super) request: Option<Arc<FieldEdits>>,
    pub(super) response: Option<Arc<FieldEdits>>,
}

impl Edits {
    pub(super) fn are_none(&self) -> bool {
        self.request.is_none() && self.response.is_none()
    }
}

#[derive(Clone, Debug)]
pub(super) enum Endpoint {
    /// The host is looked up for every connection.
    Tcp(String, u16),
    Unix(PathBuf),
}

impl Target {
    /// Reads `http://HOST[:PORT]`, the same with `https`, or `unix:/path`.
    pub(crate) fn parse(
        text: &str,
        host_header: Option<String>,
        connector: impl FnOnce() -> Result<Arc<Connector>, Error>,
    ) -> Result<Self, Error> {
        let host_header = match &host_header {
            None => None,
            Some(host) => match authority(host.as_bytes()) {
                Ok(authority) => Some(authority.whole.to_owned()),
                Err(_) => {
                    return Err(Error::usage(format!(
                        "host header {host:?} is no host; write it like app.example or app.example:8080"
                    )));
                }
            },
        };
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') {
                return Err(Error::usage(format!(
                    "local server {text}: write an absolute path, like unix:/run/app.sock"
                )));
            }
            return Ok(Target {
                endpoint: Endpoint::Unix(path.into()),
                authority: "localhost".to_owned(),
                host_header,
                tls: None,
                maps_origin: false,
                edits: Edits::default(),
                stripped: None,
                connections_max: 0,
                text: text.to_owned(),
            });
        }
        let url = Url::parse(text, "local server")?;
        if url.target != "/" {
            return Err(Error::usage(format!(
                "local server {text}: omit the path {}; requests keep their own",
                url.target
            )));
        }
        Ok(Target {
            tls: url.secure.then(connector).transpose()?,
            endpoint: Endpoint::Tcp(url.host, url.port),
            authority: url.authority,
            host_header,
            maps_origin: false,
            edits: Edits::default(),
            stripped: None,
            connections_max: 0,
            text: text.to_owned(),
        })
    }

    /// The port that the server listens on.
    pub(super) fn port(&self) -> Option<u16> {
        match self.endpoint {
            Endpoint::Tcp(_, port) => Some(port),
            Endpoint::Unix(_) => None,
        }
    }

    /// The host for which the certificate must be valid, unless another one is given.
    pub(super) fn host(&self) -> &str {
        match &self.endpoint {
            Endpoint::Tcp(host, _) => host,
            Endpoint::Unix(_) => "localhost",
        }
    }
}

/// Why the local server cannot be reached: the answer to visitors, with the error types of RFC
/// 9209, and the text for the device's log.
pub(super) struct Unreached {
    pub(super) status: u16,
    pub(super) error: &'static str,
    pub(super) told: &'static str,
    pub(super) why: String,
    /// What the operator of the device can do about it, after a semicolon.
    pub(super) remedy: &'static str,
}

impl Unreached {
    /// In seconds, if it may be reached soon.
    pub(super) fn retry_after(&self) -> Option<u64> {
        (self.status == 503).then_some(1)
    }

    /// Its name has no address.
    pub(super) fn unknown(why: String) -> Self {
        Unreached {
            status: 502,
            error: "dns_error",
            told: "the device cannot look up the name of its local server",
            why,
            remedy: "; is its name right?",
        }
    }

    /// The TLS handshake failed.
    pub(super) fn insecure(broken: HandshakeError) -> Self {
        let (error, told) = match broken.untrusted {
            true => (
                "tls_certificate_error",
                "the device does not accept the certificate of its local server",
            ),
            false => ("tls_protocol_error", "the device has no TLS with its local server"),
        };
        let why = format!("no TLS with it: {}", broken.text);
        Unreached { status: 502, error, told, why, remedy: "" }
    }

    /// The TLS handshake took too long.
    pub(super) fn handshake_is_late() -> Self {
        Unreached {
            status: 504,
            error: "connection_timeout",
            told: "the device's local server did not finish a TLS handshake in time",
            why: "the TLS handshake was not over within handshake_timeout".to_owned(),
            remedy: "",
        }
    }

    /// Too many handshakes are in progress.
    pub(super) fn handshakes_are_many() -> Self {
        Unreached {
            status: 503,
            error: "connection_limit_reached",
            told: "the device begins too many TLS sessions with its local server at once; try again later",
            why: "as many TLS handshakes are in progress as handshakes_max allows".to_owned(),
            remedy: "",
        }
    }
}

impl From<io::Error> for Unreached {
    fn from(error: io::Error) -> Self {
        if is_exhausted(&error) {
            return Unreached {
                status: 503,
                error: "connection_limit_reached",
                told: "the device has nothing left for another connection to its local server; try again later",
                why: error.to_string(),
                remedy: "; this device is out of descriptors, memory or ports: raise its limits, or let it have fewer links",
            };
        }
        let (status, name, told) = match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                (502, "connection_refused", "the device's local server refuses connections")
            }
            io::ErrorKind::TimedOut => (
                504,
                "connection_timeout",
                "the device's local server did not accept a connection in time",
            ),
            _ => (502, "destination_unavailable", "the device cannot reach its local server"),
        };
        let (why, remedy) = (error.to_string(), "; is it running?");
        Unreached { status, error: name, told, why, remedy }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn what_the_device_lacks_is_not_the_servers_fault() {
        let exhausted = Unreached::from(io::Error::from_raw_os_error(libc::EMFILE));
        assert_eq!((exhausted.status, exhausted.retry_after()), (503, Some(1)));
        assert!(exhausted.remedy.contains("descriptors"));
        let refused = Unreached::from(io::Error::from_raw_os_error(libc::ECONNREFUSED));
        assert_eq!((refused.status, refused.retry_after()), (502, None));
        assert!(refused.remedy.contains("running"));
    }

    fn parse(text: &str) -> Result<Target, Error> {
        Target::parse(text, None, || Err(Error::usage("this connector is never asked")))
    }

    #[test]
    fn a_target_is_a_server_and_nothing_else() {
        assert!(parse("http://127.0.0.1:3000").is_ok());
        assert!(parse("http://127.0.0.1:3000/").is_ok());
        assert!(parse("http://nowhere.invalid:3000").is_ok(), "it is looked up when it is wanted");
        assert!(parse("unix:/run/app.sock").is_ok());
        for text in ["unix:app.sock", "http://127.0.0.1:3000/app", "127.0.0.1:3000"] {
            assert!(parse(text).unwrap_err().is_usage(), "{text}");
        }
    }

    #[test]
    #[cfg(feature = "tls")]
    fn how_a_server_is_known_is_asked_where_it_is_https() {
        let error = parse("https://127.0.0.1/").unwrap_err();
        assert!(error.to_string().contains("never asked"), "{error}");
        let known = || crate::tls::LocalTls::new().insecure().connector().map(Arc::new);
        let target = Target::parse("https://nas.internal", None, known).unwrap();
        assert!(target.tls.is_some() && target.host() == "nas.internal");
        assert!(matches!(target.endpoint, Endpoint::Tcp(_, 443)));
    }
}
