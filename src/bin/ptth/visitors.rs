//! A gateway's visitors' port, for `ptth call` and `ptth connect`: its URL, and connections to it,
//! through a proxy if there is one.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::Instant;

use reverse_http::tls::DeviceTls;

use crate::addresses::{bare, with_port};
use crate::certificates::DeviceFiles;
use crate::files::Reading;
use crate::proxy::ProxyServer;
use crate::wire::{Wire, looked_up};
use crate::{Failure, failed, usage};

/// The URL for visitors.
pub(crate) struct Visitors {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `Host`.
    pub(crate) authority: String,
    /// Without a slash at its end.
    pub(crate) path: String,
    /// `None` without TLS.
    pub(crate) tls: Option<DeviceTls>,
}

impl Visitors {
    /// Reads a URL; error messages contain `named` and the correct form `like`.
    pub(crate) fn of(
        url: &str,
        files: &DeviceFiles,
        named: &str,
        like: &str,
    ) -> Result<Self, Failure> {
        let wrong = || usage(format!("{named}{}: write a URL like {like}", without_user_info(url)));
        let uri: http::Uri = url.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(wrong());
        }
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong()),
        };
        let files = files.tls(Reading::First).map_err(usage)?;
        if files.is_some() && !secure {
            return Err(usage("--ca, --pin, --cert, --key and --clock-floor go with https://"));
        }
        Ok(Visitors {
            host: bare(authority.host()).to_owned(),
            port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            authority: authority.to_string(),
            path: uri.path().trim_end_matches('/').to_owned(),
            tls: secure.then(|| files.unwrap_or_default()),
        })
    }

    /// Connects to the gateway, with TLS if the URL requires it.
    pub(crate) fn connect(&self, until: Instant) -> Result<Wire, Failure> {
        let wire = dial(&self.host, self.port, until)?;
        let Some(tls) = &self.tls else { return Ok(wire) };
        wire.secure(tls.clone().into_rustls()?, &self.host).map_err(failed)
    }

    /// Connects to the gateway, through a proxy if there is one, without TLS.
    pub(crate) fn reach(
        &self,
        proxy: Option<&ProxyServer>,
        until: Instant,
    ) -> Result<TcpStream, Failure> {
        let Some(proxy) = proxy else {
            return dial(&self.host, self.port, until)?.into_socket().map_err(failed);
        };
        let mut wire = dial(&proxy.host, proxy.port, until)?;
        let to = with_port(&self.host, self.port);
        let broken = |why: String| failed(format_args!("the proxy {}: {why}", proxy.authority()));
        let told = wire.send(proxy.connect(&to).as_bytes()).and_then(|()| wire.reply());
        let reply = told.map_err(broken)?;
        match reply.status {
            200..=299 => wire.into_socket().map_err(broken),
            407 => Err(broken(
                "407: it wants credentials: http://USER:PASSWORD@HOST:PORT in the environment (PTTH_PROXY)"
                    .to_owned(),
            )),
            status => Err(broken(format!("{status} {}: it opens no tunnel to {to}", reply.reason))),
        }
    }
}

fn dial(host: &str, port: u16, until: Instant) -> Result<Wire, Failure> {
    let found = looked_up((host.to_owned(), port), until);
    let found = found.map_err(|e| failed(format_args!("{host}: {e}")))?;
    let at = with_port(host, port);
    Wire::dial(&found, until).map_err(|e| {
        let hint = match e.kind() {
            ErrorKind::ConnectionRefused => {
                "; does a gateway run there, and is this where its visitors come in (--visitors)?"
            }
            ErrorKind::TimedOut => "; no answer came in time: does a firewall drop the packets?",
            _ => "",
        };
        failed(format_args!("connecting to {at}: {e}{hint}"))
    })
}

/// A URL for messages, without a password.
fn without_user_info(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((before, host)) => {
            let scheme = before.split_once("://").map_or("", |(scheme, _)| scheme);
            format!("{scheme}://...@{host}")
        }
        None => url.to_owned(),
    }
}
