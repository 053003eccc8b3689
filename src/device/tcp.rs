//! Requests for TCP targets (protocol.md §4): the event loop opens a connection to the target, and
//! after the 101 moves bytes both ways.
//!
//! The 101 is sent when the connection is established, so that a visitor learns why there is none.

use std::time::Instant;

use crate::device::local_pool::Local;
use crate::device::lookups::Found;
use crate::device::lookups::Waiter;
use crate::device::role::DeviceRole;
use crate::device::state::{State, States};
use crate::device::target::Unreached;
use crate::device::tcp_target;
use crate::engine::connections::Connections;
use crate::engine::connections::Id;
use crate::engine::slab::Key;
use crate::error::Refusal;
use crate::proto::forward;
use crate::proto::framed::FramedRequest;
use crate::proto::tcp;
use crate::proto::upgrade;
use crate::relay;
use crate::relay::Exchange;
use crate::relay::Waits;

/// A request for a TCP target.
pub(super) struct AskedTcp {
    exchange: Exchange,
    /// The target's index in the list, if it is listed.
    target: Option<usize>,
}

impl DeviceRole {
    /// Recognises a request for a TCP target. `None` if the request is for the device's handler or
    /// local server.
    pub(super) fn asked_tcp(
        &self,
        id: Id,
        request: &FramedRequest<'_>,
        now: Instant,
    ) -> Result<Option<AskedTcp>, Refusal> {
        if self.plan.tcp.is_empty() || !upgrade::is_offer(request, request.framing()) {
            return Ok(None);
        }
        let Some(name) = tcp::asked(request) else { return Ok(None) };
        forward::host_of(request)?;
        let target = self.plan.tcp.iter().position(|target| target.name == name);
        let framing = request.framing();
        let exchange = Exchange::new(id, request, framing, Vec::new(), &self.link_limits, now);
        Ok(Some(AskedTcp { exchange, target }))
    }

    pub(super) fn begin_tcp(&mut self, cx: &mut Connections<State>, id: Id, asked: AskedTcp) {
        let AskedTcp { mut exchange, target } = asked;
        let polled = cx.link(id).is_some_and(|link| link.slot.is_some());
        exchange.waits = Waits::of_forwarder(&self.limits);
        let key = self.exchanges.insert(Box::new(exchange));
        self.relaying(cx, id, key);
        cx.set_deadline(id, None); // lookup and race have their own deadlines
        let endpoint =
            target.and_then(|at| self.plan.tcp.get(at)).map(|target| target.endpoint.clone());
        match (endpoint, target) {
            _ if polled => self.answer_waiting(cx, key, &tcp_target::POLLED),
            (Some(endpoint), Some(target)) => {
                self.connect_to(cx, endpoint, Waiter::Tcp { key, target });
                self.look_for_caller(cx, key);
            }
            _ => self.answer_waiting(cx, key, &tcp_target::NO_TARGET),
        }
    }

    /// The lookup of a target has ended.
    pub(super) fn tcp_found(
        &mut self,
        cx: &mut Connections<State>,
        (key, target): (Key, usize),
        host: &str,
        found: Found,
    ) {
        match found {
            _ if self.is_abandoned(key) => {}
            Ok(addresses) => self.race(cx, Waiter::Tcp { key, target }, host, addresses),
            Err(why) => self.tcp_failed(cx, (key, target), &Unreached::unknown(why)),
        }
    }

    /// The connection to a target is established. It is closed if it is no longer needed.
    pub(super) fn tcp_opened(&mut self, cx: &mut Connections<State>, key: Key, id: Id) {
        if self.is_abandoned(key) {
            return cx.close(id);
        }
        match tcp::switch() {
            Ok(head) => {
                if let Some(conn) = cx.get_mut(id) {
                    conn.state = State::Local(Local::Tunnel { key });
                }
                relay::attach_tunnel(self, cx, key, id, &head);
            }
            Err(refusal) => {
                log::error!("a 101 cannot be written: {refusal}"); // cannot happen: it is constant
                cx.close(id);
            }
        }
    }

    pub(super) fn tcp_failed(
        &mut self,
        cx: &mut Connections<State>,
        (key, target): (Key, usize),
        why: &Unreached,
    ) {
        // The target's address and the system's error are for the operator of this device, not for
        // visitors (T58).
        if let Some(target) = self.plan.tcp.get(target) {
            log_names!(
                Warn,
                "the TCP target {} ({}) cannot be reached: {}{}",
                target.name,
                target.text,
                why.why,
                why.remedy
            );
        }
        self.answer_waiting(cx, key, &tcp_target::unreached(why));
    }

    /// Returns true, and removes the exchange, if its link has ended.
    fn is_abandoned(&mut self, key: Key) -> bool {
        let abandoned = self.exchanges.get(key).is_none_or(|e| e.downstream().is_none());
        if abandoned {
            self.exchanges.remove(key);
        }
        abandoned
    }
}
