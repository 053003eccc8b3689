//! The device's forwarder: sends requests from a link to a local HTTP server, in the event loop,
//! over that server's pool of connections.

use std::sync::Arc;

use crate::device::local_pool::{Local, Made, ServerId};
use crate::device::lookups::{Found, Waiter};
use crate::device::plan::Service;
use crate::device::role::DeviceRole;
use crate::device::servers::NO_SERVER;
use crate::device::state::{State, States};
use crate::device::target::Unreached;
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::relay;
use crate::relay::{Exchange, LocalAnswer, Waits};
use crate::stream::{Connector, HandshakeError, TlsSession};

impl DeviceRole {
    /// The lookup of the local server has ended.
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

    /// The connection to the local server is established; with `https` the handshake begins.
    pub(super) fn local_reached(&mut self, cx: &mut Connections<State>, key: Key, id: Id) {
        let secure = self.server_of(key).and_then(|server| {
            let target = self.server(server)?;
            let connector = target.tls.as_ref()?;
            Some((server, TlsSession::to_server(connector, target.host())))
        });
        let Some((server, channel)) = secure else { return self.local_opened(cx, key, id) };
        let why = match channel {
            Ok(channel) => {
                if let Some(conn) = cx.get_mut(id) {
                    let made = Made { server, known: self.locals.pool(server).known };
                    conn.state = State::Local(Local::Securing { key, made });
                }
                let at = cx.after(self.limits.handshake_timeout);
                cx.set_deadline(id, Some(at));
                if cx.secure(id, channel, false) {
                    return;
                }
                Unreached::handshakes_are_many()
            }
            Err(e) => Unreached::insecure(HandshakeError::new(e.to_string())),
        };
        cx.close(id);
        self.local_failed(cx, key, &why);
    }

    /// The handshake with the local server has ended.
    pub(super) fn local_secured(
        &mut self,
        cx: &mut Connections<State>,
        (key, id): (Key, Id),
        outcome: Result<(), HandshakeError>,
    ) {
        match outcome {
            Ok(()) => self.local_opened(cx, key, id),
            Err(broken) => {
                cx.close(id);
                self.local_failed(cx, key, &Unreached::insecure(broken));
            }
        }
    }

    /// Sets another verification of local servers at `https`. Older connections are not used for
    /// further requests.
    pub(super) fn know_local(&mut self, cx: &mut Connections<State>, connector: &Arc<Connector>) {
        let Service::Forward(servers) = &mut self.service else { return };
        let known = servers.know(connector);
        for server in &known {
            let pool = self.locals.pool(*server);
            pool.known = pool.known.wrapping_add(1);
        }
        for id in cx.ids() {
            match cx.state(id) {
                Some(State::Local(Local::Idle { server } | Local::Bound { server, .. }))
                    if known.contains(server) =>
                {
                    self.close_local(cx, id);
                }
                _ => {}
            }
        }
    }

    /// Checks whether the link of a new exchange has ended after its request; no further event
    /// would report that.
    pub(super) fn look_for_caller(&mut self, cx: &mut Connections<State>, key: Key) {
        if self.exchanges.get(key).is_some_and(|exchange| exchange.is_waiting()) {
            relay::advance(self, cx, key);
        }
    }

    /// The link of an exchange has ended: ends the connection attempt for it.
    pub(super) fn stop_connecting(&mut self, cx: &mut Connections<State>, key: Key) {
        self.call_off_races_for(cx, key);
        let place = self.locals.opened(key);
        if place.is_some() {
            for id in cx.ids() {
                if cx.is_securing(id, key) {
                    cx.close(id);
                }
            }
            drop(place);
            self.wake_locals(cx);
        }
    }

    pub(super) fn local_failed(
        &mut self,
        cx: &mut Connections<State>,
        key: Key,
        unreached: &Unreached,
    ) {
        self.locals.opened(key);
        let text = self.server_of(key).map_or("", |server| self.server_text(server));
        // The local server's address and the system's error are for the operator of this device,
        // not for visitors (T58).
        log_names!(
            Warn,
            "the local server {text} cannot be reached: {}{}",
            unreached.why,
            unreached.remedy
        );
        let answer = LocalAnswer {
            error: Some(unreached.error),
            retry_after: unreached.retry_after(),
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
        let (to_head, keep) = (exchange.is_head(), exchange.may_keep_caller());
        self.answer_link(cx, downstream, &LocalAnswer { to_head, keep, ..answer.clone() });
    }

    pub(super) fn local_ready(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(conn) = cx.get_mut(id) else { return };
        let State::Local(local) = &conn.state else { return };
        match local {
            Local::Busy { key, .. } | Local::Tunnel { key } => {
                let key = *key;
                relay::advance(self, cx, key);
            }
            Local::Securing { .. } => {} // the loop handles the handshake's events
            Local::Idle { .. } | Local::Bound { .. } => {
                if !cx.is_quiet(id, false) {
                    self.close_local(cx, id);
                }
            }
        }
    }

    /// Plans the request of a link. `None` if it was refused and answered.
    pub(super) fn begin_forward(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        mut exchange: Box<Exchange>,
    ) {
        let polled = cx.link(id).is_some_and(|link| link.slot.is_some());
        exchange.waits = if polled {
            Waits::of_polling_forwarder(&self.limits)
        } else {
            Waits::of_forwarder(&self.limits)
        };
        let server = exchange.server;
        let key = self.exchanges.insert(exchange);
        self.relaying(cx, id, key);
        match server {
            Some(_) => {
                self.find_local(cx, key);
                self.look_for_caller(cx, key);
            }
            None => self.answer_waiting(cx, key, &NO_SERVER),
        }
    }

    /// The local server of an exchange, while the exchange exists.
    fn server_of(&self, key: Key) -> Option<ServerId> {
        self.exchanges.get(key)?.server
    }

    /// Refuses a request that has waited for too long, if it still waits.
    pub(super) fn local_queue_waited(&mut self, cx: &mut Connections<State>, key: Key) {
        let Some(server) = self.exchanges.get(key).and_then(|exchange| exchange.server) else {
            return;
        };
        let pool = self.locals.pool(server);
        let Some(at) = pool.waiting.iter().position(|waiting| *waiting == key) else { return };
        pool.waiting.remove(at);
        let busy = pool.open.unseen();
        let time = self.limits.local_wait_timeout.as_secs_f32();
        log_names!(
            Warn,
            "a request had no connection to the local server {} within {time} s (local_wait_timeout): all {busy} are busy",
            self.server_text(server)
        );
        let reason = "the device's local server is busy with as many requests as it may have at once; try again later";
        let answer = LocalAnswer {
            error: Some("connection_limit_reached"),
            retry_after: Some(1),
            ..LocalAnswer::new(503, reason)
        };
        self.answer_waiting(cx, key, &answer);
    }
}
