//! How a gateway stops: a notice, then no new requests and a goaway on each link, then the end of
//! the remaining exchanges.

use std::time::Duration;

use crate::close_reason::CloseCause;
use crate::engine::connections::Connections;
use crate::error::Error;
use crate::gateway::alarms::Alarm;
use crate::gateway::exchanges::find_lingering;
use crate::gateway::state::{
    Asking, Device, GatewayRole, STOPPED, State, States, Visitor, VisitorSource,
};
use crate::limits::PEER_PARTING;
use crate::relay;

/// The interval for checking whether the other loops have closed their listeners.
const CLOSING: Duration = Duration::from_millis(1);

impl GatewayRole {
    /// The first phase of a drain: everything is still served, and clients learn that the gateway
    /// is about to stop.
    pub(super) fn give_notice(
        &mut self,
        cx: &mut Connections<State>,
        notice: Duration,
        time: Duration,
    ) {
        let ends = cx.after(notice);
        self.lifecycle.give_notice(ends);
        if notice.is_zero() {
            return self.drain(cx, time);
        }
        self.set_alarm(cx, ends, Alarm::Drain(time)); // of several, the earliest holds
        for id in cx.ids() {
            if let Some(Asking { key, .. }) = cx.asking(id) {
                let key = *key;
                if let Some(exchange) = self.exchanges.get_mut(key) {
                    exchange.last_of_caller();
                }
            }
        }
    }

    /// Closes the listeners, and connections without a request.
    pub(super) fn stop_listening(&mut self, cx: &mut Connections<State>) {
        cx.stop_listening();
        self.close_idle_devices(cx);
    }

    pub(super) fn drain(&mut self, cx: &mut Connections<State>, time: Duration) {
        let at = cx.after(time);
        self.set_alarm(cx, at, Alarm::Stop); // of several, the earliest holds
        if self.lifecycle.is_draining() {
            return;
        }
        match self.settings.drain_to {
            None => cx.stop_listening(),
            // A device is redirected when it dials again, which it does as soon as its link has
            // ended.
            Some(_) => {
                let at = cx.after(time.min(self.settings.limits.abandoned_timeout));
                self.set_alarm(cx, at, Alarm::StopListening);
            }
        }
        self.drain_on(cx);
    }

    /// Closes connections, when no loop accepts new ones: otherwise a device that dials again could
    /// reach a loop that does not know of the drain yet, and be refused.
    pub(super) fn drain_on(&mut self, cx: &mut Connections<State>) {
        if !cx.is_listening() && self.loops.are_several() && cx.is_group_open() {
            let at = cx.after(CLOSING);
            return self.set_alarm(cx, at, Alarm::DrainOn);
        }
        if !self.lifecycle.drain() {
            return;
        }
        self.upgrades.stop(true);
        self.close_idle_peers(cx);
        for id in cx.ids() {
            let Some(state) = cx.state(id) else { continue };
            match state {
                State::Unnamed { .. } | State::Securing { .. } => cx.close(id),
                // Requests that have begun are still served; other connections end here.
                State::Visitor(Visitor::Head { .. }) => {
                    self.visitor_head(cx, id);
                    match cx.visitor(id) {
                        // Another gateway may have sent a request that has not arrived yet: it will
                        // be told that the device has left, and will look it up again.
                        Some(Visitor::Head {
                            began: false, source: VisitorSource::Peer, ..
                        }) => {
                            cx.set_deadline(id, Some(cx.after(PEER_PARTING)));
                        }
                        Some(Visitor::Head { began: false, .. }) => cx.close(id),
                        _ => {}
                    }
                }
                State::Visitor(Visitor::Asking(Asking { key, .. })) => {
                    let key = *key;
                    if let Some(exchange) = self.exchanges.get_mut(key) {
                        exchange.last_of_caller();
                        exchange.hurry();
                    }
                    cx.reschedule(id); // its deadline may be nearer now
                }
                State::Lingering(_) => {
                    relay::hurry_lingering(cx, id, &self.settings.limits, find_lingering)
                }
                State::Device(Device::Link(link)) if link.exchange.is_none() => self.part(cx, id),
                State::Device(Device::Held { .. }) => self.part(cx, id),
                // Events in progress may still be answered on this connection.
                State::Device(Device::Head { polled, .. })
                    if self.settings.drain_to.is_none()
                        && (!polled || !self.events.are_in_hand()) =>
                {
                    cx.close(id)
                }
                _ => {}
            }
        }
    }

    pub(super) fn stop(&mut self, cx: &mut Connections<State>) {
        self.lifecycle.stop();
        for id in cx.ids() {
            if let Some(Asking { key, source, .. }) = cx.asking(id) {
                source.leave_error(|| Error::stopped(STOPPED));
                let key = *key;
                self.end_exchange(cx, key, CloseCause::Stopped, STOPPED);
            }
        }
        for lease in self.leases.ids(|_| true) {
            self.leases.cut(lease, Error::stopped(STOPPED));
        }
        for id in cx.ids() {
            cx.close(id);
        }
    }
}
