//! One query to a gateway's peers' port: whether it accepts this gateway, and whether it has a
//! device.

use std::time::{Duration, Instant};

use reverse_http::Limits;
use reverse_http::proto::head::{self, LineEnds};
use reverse_http::tls::DeviceTls;

use crate::addresses::{bare, with_port};
use crate::check::is_for_tls;
use crate::peers::Named;
use crate::wire::{Part, Wire, looked_up};

/// Longest answer of a gateway that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// How gateways are asked.
pub(super) struct Asking<'n> {
    pub(super) named: &'n Named,
    /// For each step.
    pub(super) timeout: Duration,
}

/// The answer of a gateway.
pub(super) struct Reply {
    /// The text that it accepts requests of this gateway.
    pub(super) taken: String,
    /// Whether it has the device that it was asked about; `None`: it does not tell.
    pub(super) has: Option<Has>,
    pub(super) took: Duration,
}

/// The state of a device at a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Has {
    Connected,
    /// It was connected there recently, or is expected there.
    Away,
    Unknown,
}

impl Has {
    const ALL: [(Has, &'static str); 3] =
        [(Has::Connected, "connected"), (Has::Away, "away"), (Has::Unknown, "unknown")];

    /// Reads the state. `None`: the value is unknown.
    fn read(value: &[u8]) -> Option<Self> {
        Has::ALL.into_iter().find(|(_, text)| text.as_bytes() == value).map(|(has, _)| has)
    }

    pub(super) fn as_str(self) -> &'static str {
        let found = Has::ALL.into_iter().find(|(has, _)| *has == self);
        found.map_or("unknown", |(_, text)| text)
    }
}

impl Asking<'_> {
    /// `is_own`: the URL is this gateway's. `device`: the one that it is asked about.
    ///
    /// # Errors
    /// It does not answer like a gateway that accepts this one; the text has the reason and the
    /// remedy.
    pub(super) fn ask(
        &self,
        url: &str,
        is_own: bool,
        device: Option<&str>,
    ) -> Result<Reply, String> {
        let Target { host, port, authority, is_secure } = target(url)?;
        let asked = (host.clone(), port);
        let until = Instant::now() + self.timeout;
        let found = looked_up(asked, until)
            .map_err(|e| format!("{host} has no address ({e}); check the name"))?;
        let wire = Wire::dial(&found, Instant::now() + self.timeout).map_err(|e| {
            format!(
                "no connection ({e}): does that gateway run, does a firewall let this one through?"
            )
        })?;
        let tls = || self.named.tls.clone().into_rustls().map_err(|e| e.to_string());
        let config = if is_secure { Some(tls()?) } else { None };
        let mut wire = match config {
            None => wire,
            Some(config) => wire
                .explained(DeviceTls::explained_between_gateways)
                .secure(config, &host)
                .map_err(|e| format!("no TLS: {e}"))?,
        };
        wire.extend(self.timeout);
        let secret = match &self.named.secret {
            Some(secret) => format!("PTTH-Peer-Secret: {secret}\r\n"),
            None => String::new(),
        };
        let about = device.map(|device| format!("PTTH-Peer-Device: {device}\r\n"));
        let request = format!(
            "OPTIONS * HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n{secret}{}\r\n",
            about.unwrap_or_default()
        );
        let began = Instant::now();
        let answered = wire.send(request.as_bytes()).and_then(|()| Answered::read(&mut wire));
        let answered = answered.map_err(|e| match (is_secure, e.contains("in time")) {
            (false, true) => format!(
                "it took the connection and said nothing for {:?}: it hangs, or speaks TLS (https://)",
                self.timeout
            ),
            (true, true) => format!("it did not answer for {:?}: it hangs", self.timeout),
            (false, false) => format!("{e}; does it speak TLS there (https://)?"),
            (true, false) if e.contains("--peers-c") => e,
            (true, false) => {
                format!("{e}; does it want a certificate (--peers-client-ca)? --peers-cert is shown")
            }
        })?;
        let tls = if is_secure { format!(", {}", wire.version()) } else { String::new() };
        let taken = answered.verdict(self.named.secret.is_some(), is_own)?;
        Ok(Reply { taken: format!("{taken}{tls}"), has: answered.has, took: began.elapsed() })
    }
}

struct Target {
    host: String,
    port: u16,
    authority: String,
    is_secure: bool,
}

/// # Errors
/// It is not the URL of a gateway: it was not written by one.
fn target(url: &str) -> Result<Target, String> {
    let wrong = || "this is no URL of a gateway (http://HOST:PORT)".to_owned();
    let uri: http::Uri = url.parse().map_err(|_| wrong())?;
    let is_secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(wrong()),
    };
    let named = uri.authority().filter(|at| !at.as_str().contains('@')).ok_or_else(wrong)?;
    let host = bare(named.host()).to_owned();
    let port = named.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
    Ok(Target { host, port, authority: named.to_string(), is_secure })
}

/// A gateway's URL as the directory has it.
pub(super) fn spelt(url: &str) -> String {
    let Ok(Target { host, port, is_secure, .. }) = target(url) else { return url.to_owned() };
    let scheme = if is_secure { "https" } else { "http" };
    format!("{scheme}://{}", with_port(&host.to_ascii_lowercase(), port))
}

/// The received answer.
#[derive(Default)]
struct Answered {
    status: u16,
    /// It comes from a gateway's peers' port.
    is_served: bool,
    is_stranger: bool,
    /// It comes from a gateway of this project, on any port.
    is_marked: bool,
    has: Option<Has>,
    text: String,
}

impl Answered {
    fn read(wire: &mut Wire) -> Result<Self, String> {
        let mut answered = Answered::default();
        let status = wire.answer("OPTIONS", ANSWER_BYTES_MAX, |_, part| {
            match part {
                Part::Head(bytes) => answered.take_head(bytes),
                Part::Body(bytes) => answered.text.push_str(&String::from_utf8_lossy(bytes)),
            }
            Ok(())
        });
        let status = status.map_err(|failure| failure.text)?;
        Ok(Answered { status, ..answered })
    }

    fn take_head(&mut self, bytes: &[u8]) {
        let Ok(Some(head)) = head::response(bytes, &Limits::default(), LineEnds::CrlfOrLf) else {
            return;
        };
        let is = |name, value: &[u8]| head.fields.get(name).is_some_and(|found| found == value);
        self.is_served = is("PTTH-Peer-Served", b"1");
        self.is_stranger = is("PTTH-Peer-Miss", b"stranger");
        self.has = head.fields.get("PTTH-Peer-Has").and_then(Has::read);
        self.is_marked = reverse_http::proto::turn::is_marked(&head.fields);
    }

    fn verdict(&self, has_secret: bool, is_own: bool) -> Result<&'static str, String> {
        let status = self.status;
        let remedy = match is_own {
            true => "correct --advertise",
            false => "correct the directory, or its --advertise",
        };
        match (self.is_served, status) {
            (true, 200) if has_secret => Ok("it takes the secret"),
            (true, 200) => Ok("it takes requests of this gateway"),
            (true, _) if self.is_stranger && has_secret => Err(
                "it does not take this one's secret; give both the same in the first line of --peer-secret".to_owned(),
            ),
            (true, _) if self.is_stranger => {
                Err("it wants a secret, and this one shows none; give --peer-secret".to_owned())
            }
            (true, _) => Err(format!("{status}: it does not serve now; see its log")),
            (false, _) if is_for_tls(status, &self.text) => {
                Err("this port speaks TLS; write https:// in the URL".to_owned())
            }
            (false, _) => Err(match self.place() {
                Some(place) => format!("{status}: this is {place}, not its --peers; {remedy}"),
                None => format!("what answers there ({status}) is no gateway; {remedy}"),
            }),
        }
    }

    /// The gateway's port that has answered, if it is another one than the peers' port.
    fn place(&self) -> Option<&'static str> {
        match &self.text {
            text if text.contains("admin listener") => Some("a gateway's --admin"),
            text if text.contains("answers OPTIONS * itself") => Some("a gateway's --visitors"),
            _ if self.is_marked => Some("a gateway's --devices"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_has_written_may_be_no_url() {
        for wrong in ["", "10.0.0.1:7000", "ftp://a", "http://a:b@c", "http://a b", "http://"] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
        let found = target("https://[::1]").ok().map(|found| (found.host, found.port));
        assert_eq!(found, Some(("::1".to_owned(), 443)));
        assert_eq!(spelt("https://[::1]/"), "https://[::1]:443");
        assert_eq!((&*spelt("http://GW"), &*spelt("nothing")), ("http://gw:80", "nothing"));
    }
}
