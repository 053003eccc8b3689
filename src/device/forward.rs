//! The device's forwarder: requests from a link go to one local HTTP server, in the event loop, over a keep-alive pool.
//!
//! The target is fixed: neither `Host` nor an absolute-form target chooses another server (T25).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::device::dial::Url;
use crate::device::resolve::{Found, Waiter};
use crate::device::role::{DeviceRole, State};
use crate::ends::Why;
use crate::engine::peers::{Id, Peers};
use crate::engine::slab::Key;
use crate::error::Error;
use crate::error::Refusal;
use crate::limits::Limits;
use crate::proto::forward::{self, RequestRules};
use crate::proto::framed::FramedRequest;
use crate::proto::head::authority;
use crate::relay::{self, Exchange, LocalAnswer, Waits};
use std::time::Instant;

/// Connections that idle for the next request; more are closed when they become free.
const POOL_MAX: usize = 256;

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
                    return Err(Error::usage(format!("host header {host:?} is no host; write it like app.example or app.example:8080")));
                }
            },
        };
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') {
                return Err(Error::usage(format!("local server {text}: write an absolute path, like unix:/run/app.sock")));
            }
            return Ok(Target { place: Place::Unix(path.into()), authority: "localhost".to_owned(), host_header, text: text.to_owned() });
        }
        let url = Url::parse(text, "local server")?;
        if url.secure {
            return Err(Error::usage(format!("local server {text}: it is asked in plain HTTP; write http://HOST:PORT, or unix:PATH")));
        }
        if url.target != "/" {
            return Err(Error::usage(format!("local server {text}: leave the path {} away; requests keep their own", url.target)));
        }
        Ok(Target { place: Place::Tcp(url.host, url.port), authority: url.authority, host_header, text: text.to_owned() })
    }
}

/// A connection to the local server.
pub(crate) enum Local {
    Busy(Key),
    Idle,
}

/// What a gateway's request becomes for the local server.
pub(super) fn plan(asking: Id, request: &FramedRequest<'_>, target: &Target, limits: &Limits, now: Instant) -> Result<Exchange, Refusal> {
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
    Ok(Exchange::new(asking, request, framing, text, limits, now))
}

impl DeviceRole {
    /// Gives an exchange a connection to the local server: an idle one, or a new one.
    pub(super) fn find_local(&mut self, cx: &mut Peers<State>, key: Key) {
        let unsafe_twice = self.exchanges.get(key).is_some_and(|e| !e.idempotent);
        while let Some(id) = self.pool.pop() {
            // What is unsafe to repeat must not go to a server that has hung up.
            if cx.is_quiet(id, unsafe_twice) {
                if let Some(peer) = cx.get_mut(id) {
                    peer.state = State::Local(Local::Busy(key));
                }
                return relay::attach(self, cx, key, id);
            }
            cx.close(id);
        }
        if let Some(asking) = self.exchanges.get(key).and_then(|e| e.asking) {
            cx.set_deadline(asking, None); // look-up and race have their own
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
    pub(super) fn local_found(&mut self, cx: &mut Peers<State>, key: Key, host: &str, found: Found) {
        if self.exchanges.get(key).is_none_or(|e| e.asking.is_none()) {
            self.exchanges.remove(key); // its link is gone
            return;
        }
        match found {
            Ok(addresses) => self.race(cx, Waiter::Local(key), host, addresses),
            Err(why) => self.local_failed(cx, key, &why),
        }
    }

    pub(super) fn local_failed(&mut self, cx: &mut Peers<State>, key: Key, why: &str) {
        let text = self.target().map_or(String::new(), |t| t.text.clone());
        let reason = format!("the device cannot reach its local server {text}: {why}; is it running?");
        log_peers!(Warn, "{reason}");
        let Some(exchange) = self.exchanges.remove(key) else { return };
        let Some(asking) = exchange.asking else { return };
        let answer = LocalAnswer {
            error: Some("connection_refused"),
            to_head: exchange.is_head(),
            keep: exchange.may_keep_asker(),
            ..LocalAnswer::new(502, &reason)
        };
        self.answer_link(cx, asking, &answer);
    }

    pub(super) fn local_ready(&mut self, cx: &mut Peers<State>, id: Id) {
        let Some(peer) = cx.get_mut(id) else { return };
        let State::Local(local) = &peer.state else { return };
        match local {
            Local::Busy(key) => {
                let key = *key;
                relay::advance(self, cx, key);
            }
            Local::Idle => {
                if !cx.is_quiet(id, false) {
                    self.pool.retain(|x| *x != id);
                    cx.close(id);
                }
            }
        }
    }

    pub(super) fn local_free(&mut self, cx: &mut Peers<State>, id: Id, reusable: Result<(), Why>) {
        if reusable.is_err() || self.pool.len() >= POOL_MAX || self.draining() {
            return cx.close(id);
        }
        let Some(peer) = cx.get_mut(id) else { return };
        peer.state = State::Local(Local::Idle);
        peer.settle();
        self.pool.push(id);
        cx.set_deadline(id, None);
    }

    /// The asking link's request is planned; `None`: it was refused and answered.
    pub(super) fn begin_forward(&mut self, cx: &mut Peers<State>, id: Id, mut exchange: Exchange) {
        let polled = matches!(cx.get(id).map(|p| &p.state), Some(State::Link(link)) if link.slot.is_some());
        exchange.waits = if polled { Waits::of_polling_forwarder(&self.limits) } else { Waits::of_forwarder(&self.limits) };
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
        assert!(Target::parse("http://nowhere.invalid:3000", None).is_ok(), "it is looked up when it is wanted");
        assert!(Target::parse("unix:/run/app.sock", None).is_ok());
        for text in ["unix:app.sock", "http://127.0.0.1:3000/app", "https://127.0.0.1/", "127.0.0.1:3000"] {
            assert!(Target::parse(text, None).unwrap_err().is_usage(), "{text}");
        }
    }
}
