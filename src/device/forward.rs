//! The device's forwarder: requests from a link go to one local HTTP server, in the event loop,
//! over a keep-alive pool.
//!
//! The target is fixed: neither `Host` nor an absolute-form target chooses another server (T25).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::device::dial::Url;
use crate::device::resolve::{Found, Waiter};
use crate::device::role::{DeviceRole, State};
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::error::Error;
use crate::error::Refusal;
use crate::limits::Limits;
use crate::proto::forward::{self, RequestRules};
use crate::proto::framed::FramedRequest;
use crate::proto::head::authority;
use crate::relay::{self, Exchange, LocalAnswer, Waits};
use std::time::Instant;

/// A local server.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    place: Place,
    /// `Host` where the gateway's request has none.
    authority: String,
    /// `Host` to send instead of the visitor's.
    host_header: Option<String>,
    text: String,
}

#[derive(Clone, Debug)]
enum Place {
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

/// A connection to the local server.
pub(crate) enum Local {
    /// `bound`: a login that belongs to this connection went over it (NTLM, Negotiate).
    Busy { key: Key, bound: bool },
    /// Anybody's.
    Idle,
    /// Idle, and this link's alone, since then.
    Bound { link: Id, since: Instant },
}

/// What a gateway's request becomes for the local server.
pub(super) fn plan(
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
    status: u16,
    error: &'static str,
    told: &'static str,
    why: String,
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

impl DeviceRole {
    /// Opens a connection to the local server for an exchange.
    pub(super) fn open_local(&mut self, cx: &mut Connections<State>, key: Key) {
        if let Some(downstream) = self.exchanges.get(key).and_then(|e| e.downstream()) {
            cx.set_deadline(downstream, None); // look-up and race have their own
        }
        let Some(target) = self.target() else { return };
        match target.place.clone() {
            Place::Unix(path) => self.race_to(cx, Waiter::Local(key), &path),
            Place::Tcp(host, port) => match host.parse::<IpAddr>() {
                Ok(ip) => self.race(cx, Waiter::Local(key), &host, vec![SocketAddr::new(ip, port)]),
                Err(_) => self.look_up(cx, &host, port, Waiter::Local(key)),
            },
        }
    }

    /// The addresses of the local server are found, or there are none.
    pub(super) fn local_found(
        &mut self,
        cx: &mut Connections<State>,
        key: Key,
        host: &str,
        found: Found,
    ) {
        if self.exchanges.get(key).is_none_or(|e| e.downstream().is_none()) {
            self.exchanges.remove(key); // its link is gone
            self.locals.opened(key);
            return self.wake_locals(cx);
        }
        match found {
            Ok(addresses) => self.race(cx, Waiter::Local(key), host, addresses),
            Err(why) => self.local_failed(cx, key, &Unreached::unknown(why)),
        }
    }

    pub(super) fn local_failed(
        &mut self,
        cx: &mut Connections<State>,
        key: Key,
        unreached: &Unreached,
    ) {
        self.locals.opened(key);
        let text = self.target().map_or(String::new(), |t| t.text.clone());
        // Where the local server is, and what the system says of it, is for whoever runs this
        // device, not for visitors (T58).
        log_names!(
            Warn,
            "the local server {text} cannot be reached: {}; is it running?",
            unreached.why
        );
        let answer = LocalAnswer {
            error: Some(unreached.error),
            ..LocalAnswer::new(unreached.status, unreached.told)
        };
        self.answer_waiting(cx, key, &answer);
        self.wake_locals(cx);
    }

    /// Answers a request that has no local connection.
    pub(super) fn answer_waiting(
        &mut self,
        cx: &mut Connections<State>,
        key: Key,
        answer: &LocalAnswer<'_>,
    ) {
        let Some(exchange) = self.exchanges.remove(key) else { return };
        let Some(downstream) = exchange.downstream() else { return };
        let (to_head, keep) = (exchange.is_head(), exchange.may_keep_asker());
        self.answer_link(cx, downstream, &LocalAnswer { to_head, keep, ..answer.clone() });
    }

    pub(super) fn local_ready(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(peer) = cx.get_mut(id) else { return };
        let State::Local(local) = &peer.state else { return };
        match local {
            Local::Busy { key, .. } => {
                let key = *key;
                relay::advance(self, cx, key);
            }
            Local::Idle | Local::Bound { .. } => {
                if !cx.is_quiet(id, false) {
                    self.close_local(cx, id);
                }
            }
        }
    }

    /// The asking link's request is planned; `None`: it was refused and answered.
    pub(super) fn begin_forward(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        mut exchange: Exchange,
    ) {
        let polled =
            matches!(cx.get(id).map(|p| &p.state), Some(State::Link(link)) if link.slot.is_some());
        exchange.waits = if polled {
            Waits::of_polling_forwarder(&self.limits)
        } else {
            Waits::of_forwarder(&self.limits)
        };
        let key = self.exchanges.insert(exchange);
        self.relaying(cx, id, key);
        self.find_local(cx, key);
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
