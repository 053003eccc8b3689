//! The local server of a forwarder, and what a gateway's request becomes for it.
//!
//! The target is fixed: neither `Host` nor an absolute-form target chooses another server (T25).

use std::path::PathBuf;

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
    pub(super) text: String,
}

#[derive(Clone, Debug)]
pub(super) enum Place {
    /// The host is looked up for every connection.
    Tcp(String, u16),
    Unix(PathBuf),
}

impl Target {
    /// Reads `http://HOST[:PORT]` or `unix:/path`.
    pub(crate) fn parse(text: &str, host_header: Option<String>) -> Result<Self, Error> {
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
                place: Place::Unix(path.into()),
                authority: "localhost".to_owned(),
                host_header,
                text: text.to_owned(),
            });
        }
        let url = Url::parse(text, "local server")?;
        if url.secure {
            return Err(Error::usage(format!(
                "local server {text}: it is asked in plain HTTP; write http://HOST:PORT, or unix:PATH"
            )));
        }
        if url.target != "/" {
            return Err(Error::usage(format!(
                "local server {text}: leave the path {} away; requests keep their own",
                url.target
            )));
        }
        Ok(Target {
            place: Place::Tcp(url.host, url.port),
            authority: url.authority,
            host_header,
            text: text.to_owned(),
        })
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

    #[test]
    fn a_target_is_a_server_and_nothing_else() {
        assert!(Target::parse("http://127.0.0.1:3000", None).is_ok());
        assert!(Target::parse("http://127.0.0.1:3000/", None).is_ok());
        assert!(
            Target::parse("http://nowhere.invalid:3000", None).is_ok(),
            "it is looked up when it is wanted"
        );
        assert!(Target::parse("unix:/run/app.sock", None).is_ok());
        for text in
            ["unix:app.sock", "http://127.0.0.1:3000/app", "https://127.0.0.1/", "127.0.0.1:3000"]
        {
            assert!(Target::parse(text, None).unwrap_err().is_usage(), "{text}");
        }
    }
}
