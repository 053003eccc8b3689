//! The local server of a forwarder, and what a gateway's request becomes for it.
//!
//! The target is fixed: neither `Host` nor an absolute-form target chooses another server (T25).

use std::path::PathBuf;
use std::sync::Arc;

use crate::device::url::Url;
use crate::engine::connections::Id;
use crate::error::Error;
use crate::error::Refusal;
use crate::limits::Limits;
use crate::proto::forward;
use crate::proto::forward::RequestRules;
use crate::proto::framed::FramedRequest;
use crate::proto::head::authority;
use crate::relay;
use crate::relay::Exchange;
use crate::stream::Connector;
use crate::stream::HandshakeError;
use std::io;
use std::time::Instant;

/// A local server.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(super) place: Place,
    /// `Host` where the gateway's request has none.
    pub(super) authority: String,
    /// `Host` to send instead of the visitor's.
    pub(super) host_header: Option<String>,
    /// `https`: how the server is known.
    pub(super) tls: Option<Arc<Connector>>,
    pub(super) text: String,
}

/// How a server at `https` is known; reading the system's roots takes a moment and may fail, so it
/// is asked only where it is needed. False: nothing is said of it.
pub(crate) type Knowing<'a> = (bool, &'a dyn Fn() -> Result<Arc<Connector>, Error>);

#[derive(Clone, Debug)]
pub(super) enum Place {
    /// The host is looked up for every connection.
    Tcp(String, u16),
    Unix(PathBuf),
}

impl Target {
    /// Reads `http://HOST[:PORT]`, the same with `https`, or `unix:/path`.
    pub(crate) fn parse(
        text: &str,
        host_header: Option<String>,
        (knows, connector): Knowing<'_>,
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
        if knows && !text.starts_with("https:") {
            return Err(Error::usage(format!(
                "settings of TLS are given for the local server {text}, and its URL does not begin with https://; write https:// or omit them"
            )));
        }
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') {
                return Err(Error::usage(format!(
                    "local server {text}: write an absolute path, like unix:/run/app.sock"
                )));
            }
            return Ok(Target {
                place: Place::Unix(path.into()),
                authority: "localhost".to_owned(),
                host_header,
                tls: None,
                text: text.to_owned(),
            });
        }
        let url = Url::parse(text, "local server")?;
        if url.target != "/" {
            return Err(Error::usage(format!(
                "local server {text}: leave the path {} away; requests keep their own",
                url.target
            )));
        }
        Ok(Target {
            tls: url.secure.then(connector).transpose()?,
            place: Place::Tcp(url.host, url.port),
            authority: url.authority,
            host_header,
            text: text.to_owned(),
        })
    }

    /// The host that a certificate has to be for, unless another one is given.
    pub(super) fn host(&self) -> &str {
        match &self.place {
            Place::Tcp(host, _) => host,
            Place::Unix(_) => "localhost",
        }
    }
}

/// What a gateway's request becomes for the local server.
pub(super) fn plan_exchange(
    downstream: Id,
    request: &FramedRequest<'_>,
    target: &Target,
    limits: &Limits,
    now: Instant,
) -> Result<Exchange, Refusal> {
    let framing = request.framing();
    let came = forward::host_of(request)?;
    let host = target.host_header.as_deref().or(came).unwrap_or(&target.authority);
    let rules = RequestRules {
        target: forward::origin_form(request)?,
        host,
        prefix: None,
        forwarded: None,
        via: None,
        keep_underscore: true,
        drop_authorization: false, // the gateway has dropped what it does not trust
        upgrade: relay::wants_upgrade(request, framing),
        request_id: None,
    };
    let mut text = Vec::with_capacity(request.len + 64);
    forward::request(&mut text, request, framing, &rules)?;
    let mut exchange = Exchange::new(downstream, request, framing, text, limits, now);
    exchange.alias =
        target.host_header.as_deref().map(|host| Box::new(forward::Alias::new(host, request)));
    Ok(exchange)
}

/// Why the local server cannot be asked: what visitors are told, with the names of RFC 9209, and
/// what the device's log says.
pub(super) struct Unreached {
    pub(super) status: u16,
    pub(super) error: &'static str,
    pub(super) told: &'static str,
    pub(super) why: String,
}

impl Unreached {
    /// Its name has no address.
    pub(super) fn unknown(why: String) -> Self {
        Unreached {
            status: 502,
            error: "dns_error",
            told: "the device cannot look up the name of its local server",
            why,
        }
    }

    /// There is no TLS with it.
    pub(super) fn insecure(broken: HandshakeError) -> Self {
        let (error, told) = match broken.untrusted {
            true => (
                "tls_certificate_error",
                "the device does not accept the certificate of its local server",
            ),
            false => ("tls_protocol_error", "the device has no TLS with its local server"),
        };
        let why = format!("no TLS with it: {}", broken.text);
        Unreached { status: 502, error, told, why }
    }

    /// Its handshake was not over in time.
    pub(super) fn handshake_is_late() -> Self {
        Unreached {
            status: 504,
            error: "connection_timeout",
            told: "the device's local server did not finish a TLS handshake in time",
            why: "the TLS handshake was not over within handshake_timeout".to_owned(),
        }
    }

    /// As many handshakes are in progress as may be.
    pub(super) fn handshakes_are_many() -> Self {
        Unreached {
            status: 503,
            error: "connection_limit_reached",
            told: "the device begins too many TLS sessions with its local server at once; try again later",
            why: "as many TLS handshakes are in progress as handshakes_max allows".to_owned(),
        }
    }
}

impl From<io::Error> for Unreached {
    fn from(error: io::Error) -> Self {
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
        Unreached { status, error: name, told, why: error.to_string() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn parse(text: &str, knows: bool) -> Result<Target, Error> {
        Target::parse(text, None, (knows, &|| Err(Error::usage("this connector is never asked"))))
    }

    #[test]
    fn a_target_is_a_server_and_nothing_else() {
        assert!(parse("http://127.0.0.1:3000", false).is_ok());
        assert!(parse("http://127.0.0.1:3000/", false).is_ok());
        assert!(
            parse("http://nowhere.invalid:3000", false).is_ok(),
            "it is looked up when it is wanted"
        );
        assert!(parse("unix:/run/app.sock", false).is_ok());
        for text in ["unix:app.sock", "http://127.0.0.1:3000/app", "127.0.0.1:3000"] {
            assert!(parse(text, false).unwrap_err().is_usage(), "{text}");
        }
        for text in ["unix:/run/app.sock", "http://127.0.0.1:3000"] {
            assert!(parse(text, true).unwrap_err().to_string().contains("https://"), "{text}");
        }
    }

    #[test]
    #[cfg(feature = "tls")]
    fn how_a_server_is_known_is_asked_where_it_is_https() {
        let error = parse("https://127.0.0.1/", false).unwrap_err();
        assert!(error.to_string().contains("never asked"), "{error}");
        let known = || crate::tls::LocalTls::new().insecure().connector().map(Arc::new);
        let target = Target::parse("https://nas.internal", None, (true, &known)).unwrap();
        assert!(target.tls.is_some() && target.host() == "nas.internal");
        assert!(matches!(target.place, Place::Tcp(_, 443)));
    }
}
