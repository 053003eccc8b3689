//! Which caller gets a free link, and which link or poll a request gets.

use std::sync::Arc;

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::gateway::alarms::Alarm;
use crate::gateway::links::{Taken, UNASKED, UNTURNED, peer_flush};
use crate::gateway::registry::{NextIdle, Registration, Waiter};
use crate::gateway::state::{Asking, Device, GatewayRole, State, States};

impl GatewayRole {
    /// Gives a busy link to a caller that waited.
    pub(super) fn serve(&mut self, cx: &mut Connections<State>, id: Id, waiter: Waiter) {
        match waiter {
            Waiter::Exchange(key) => match self
                .exchanges
                .get(key)
                .filter(|e| e.is_waiting())
                .map(|e| (e.downstream(), e.is_idempotent()))
            {
                None => self.link_free(cx, id, Ok(())), // its visitor has left
                Some((Some(downstream), _)) if self.has_idle_pin(cx, downstream) => {
                    // It only waited for a free slot among its device's requests in flight.
                    if !peer_flush(cx, id) {
                        self.drop_link(cx, id, UNTURNED);
                    } else if let Some(registration) = cx.registration(id) {
                        self.registry.set_idle(&registration, id, None);
                        self.watch_idle(cx, id);
                    }
                    self.find_link(cx, downstream, key);
                }
                Some((_, true)) => self.assign(cx, key, id),
                Some((_, false)) if self.is_alive(cx, id) => self.assign(cx, key, id),
                Some((Some(downstream), false)) => self.find_link(cx, downstream, key), // the link has ended; it waits again
                Some((None, false)) => {}
            },
            Waiter::Caller(number) => {
                if !peer_flush(cx, id) {
                    self.drop_link(cx, id, UNTURNED);
                } else if !self.lease(cx, number, id) {
                    self.link_free(cx, id, Ok(()));
                }
            }
        }
    }

    pub(super) fn link_free(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        reusable: Result<(), CloseReason>,
    ) {
        let Some(conn) = cx.get_mut(id) else { return };
        let State::Device(Device::Link(link)) = &mut conn.state else { return };
        let exchange = link.exchange.take().and_then(|key| self.exchanges.get(key));
        let bound = link.pinned.is_some() || exchange.is_some_and(|exchange| exchange.is_bound());
        let is_counted = exchange.is_some_and(|exchange| exchange.observed.is_on());
        let downstream = exchange.and_then(|exchange| exchange.downstream());
        let asked = link.asked.take();
        let (registration, leaving) = (link.registration.clone(), link.leaving);
        if leaving {
            let end = match () {
                () if self.credentials.is_revoked(&registration) => CloseCause::Revoked,
                () if self.registry.in_force(&registration) => CloseCause::Drained,
                () => CloseCause::Replaced,
            };
            return self.drop_link(cx, id, end.because("the gateway sent a goaway"));
        }
        if let Err(why) = reusable {
            return self.drop_link(cx, id, why);
        }
        // The 101 of a held offer may still be unsent, if the request that should follow it was
        // withdrawn.
        if conn.pending() > 0 && !peer_flush(cx, id) {
            return self.drop_link(cx, id, UNTURNED);
        }
        if !is_counted {
            self.observer.seen(registration.name()); // a heartbeat was answered
        }
        if !self.registry.in_force(&registration) {
            return self.part(cx, id);
        }
        // Unrequested bytes must not become the next caller's answer.
        if cx.get(id).is_some_and(|p| p.has_input()) {
            let quiet = self.is_quiet(cx, id);
            if quiet.is_err() || cx.get(id).is_some_and(|p| p.has_input()) {
                return self.drop_link(
                    cx,
                    id,
                    quiet.err().unwrap_or(CloseCause::ProtocolError.because(UNASKED)),
                );
            }
        }
        if bound {
            return self.keep_for(cx, id, downstream);
        }
        if let Some(waiter) = self.registry.next_waiter(&registration, false) {
            return self.serve(cx, id, waiter);
        }
        if self.lifecycle.is_draining() {
            return self.part(cx, id);
        }
        let took = asked.map(|asked| cx.now().saturating_duration_since(asked));
        self.registry.set_idle(&registration, id, took);
        self.watch_idle(cx, id);
    }

    /// Gives idle links to callers that waited because the limit of requests in flight was reached.
    pub(super) fn serve_by_idle(
        &mut self,
        cx: &mut Connections<State>,
        registration: &Registration,
    ) {
        for _ in 0..self.settings.limits.waiting_per_device_max {
            if !self.registry.callers_wait(registration) {
                return;
            }
            let idle = |name: &Arc<str>| match self.registry.next_idle(name, None) {
                NextIdle::Link(id) => Some(id),
                NextIdle::Held(_) | NextIdle::Nothing => None,
            };
            let Some(id) = registration.names().find_map(idle) else { return };
            let Some(waiter) = self.registry.next_waiter(registration, true) else { return };
            let Some(registration) = cx.registration(id) else { return };
            self.registry.set_busy(&registration, id);
            self.switch_held(cx, id);
            self.serve(cx, id, waiter);
        }
    }

    /// Looks again at the last idle link of a name, which is held back: it goes to the caller that
    /// waits, unless others keep coming.
    pub(super) fn look_at_last_link(&mut self, cx: &mut Connections<State>, name: &Arc<str>) {
        match self.registry.look_at_last_link(name, cx.now()) {
            Ok(time) => {
                let at = cx.after(time);
                self.set_alarm(cx, at, Alarm::LastLink(name.clone()));
            }
            Err(idle) => {
                if let Some(registration) = idle.and_then(|link| cx.registration(link)) {
                    self.serve_by_idle(cx, &registration);
                }
            }
        }
    }

    /// Gives the exchange an idle link of its device, or else a poll, or lets it wait for whichever
    /// comes first.
    pub(super) fn find_link(&mut self, cx: &mut Connections<State>, id: Id, key: Key) {
        let Some(Asking { name, .. }) = cx.asking(id) else {
            return;
        };
        let name = name.clone();
        if self.asks_own_link(cx, id, key, &name) {
            return;
        }
        let (idempotent, retried) =
            self.exchanges.get(key).map_or((false, false), |e| (e.is_idempotent(), e.is_retried()));
        let wait = self.waits(key).link.time;
        loop {
            match self.take_link(cx, &name, wait) {
                Taken::Link(link) => {
                    if (idempotent && !retried) || self.is_alive(cx, link) {
                        return self.assign(cx, key, link);
                    }
                }
                Taken::Held => return self.wait_in_line(cx, id, key),
                Taken::Nothing => break,
            }
        }
        if self.registry.is_polling(&name) && !self.lifecycle.is_draining() {
            self.by_mailbox(cx, id, key);
        } else {
            self.seek(cx, id, key);
        }
    }
}
