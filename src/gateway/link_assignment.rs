//! Which caller gets a free link, and which link or poll a request gets.

use std::time::Duration;

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::gateway::alarms::{Alarm, HeldBack};
use crate::gateway::links::UNASKED;
use crate::gateway::links::UNTURNED;
use crate::gateway::links::peer_flush;
use crate::gateway::registry::{PERIODS_MAX, Registration, Waiter};
use crate::gateway::state::{Asking, Device, GatewayRole, Link, State, States};

/// A request that is held back has its link, and is given up after this time at the earliest.
const HELD_LEAST: Duration = Duration::from_secs(1);

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
                    if let Some(name) = self.callers.name_for_link(number) {
                        self.registry.enqueue(name, waiter); // it waits again
                    }
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
        // A request that was withdrawn before it was sent was not answered.
        let asked = link.asked.take().filter(|_| exchange.is_some());
        let bound = link.pinned.is_some() || exchange.is_some_and(|exchange| exchange.is_bound());
        let is_counted = exchange.is_some_and(|exchange| exchange.observed.is_on());
        let downstream = exchange.and_then(|exchange| exchange.downstream());
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
        let now = cx.now();
        let took = asked.map(|asked| (now.saturating_duration_since(asked), now));
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
            let now = cx.now();
            let next = registration.names().find_map(|name| self.registry.next_idle(name, now));
            let Some((id, _)) = next else { return };
            let Some(waiter) = self.registry.next_waiter(registration, true) else { return };
            let Some(registration) = cx.registration(id) else { return };
            self.registry.set_busy(&registration, id);
            self.switch_held(cx, id);
            self.serve(cx, id, waiter);
        }
    }

    /// Sends a request a little later on the busy link that it has got, so that it can report who came
    /// behind it (`registry/last_link.rs`). Until then the link counts as busy with it.
    fn hold_back(
        &mut self,
        cx: &mut Connections<State>,
        (visitor, exchange): (Id, Key),
        link: Id,
        period: Duration,
    ) {
        let Some(held) = cx.link_mut(link) else { return self.assign(cx, exchange, link) };
        held.exchange = Some(exchange);
        let wait = self.waits(exchange).link.time.max(HELD_LEAST);
        let wait = cx.after(wait);
        cx.set_deadline(visitor, Some(wait));
        let periods_left = PERIODS_MAX - 1;
        let held = HeldBack { exchange, link, period, periods_left, waiting: 0 };
        let at = cx.after(period);
        self.set_alarm(cx, at, Alarm::HeldBack(held));
    }

    /// Sends a request that was held back, unless further callers came in the last period.
    pub(super) fn look_at_held_back(&mut self, cx: &mut Connections<State>, held: HeldBack) {
        let HeldBack { exchange, link, period, periods_left, .. } = held;
        let is_held = |link: &&mut Link| link.exchange == Some(exchange) && link.asked.is_none();
        let of_link = cx.link_mut(link).filter(is_held);
        let Some(of_link) = of_link else { return self.find_another(cx, exchange) };
        let registration = of_link.registration.clone();
        let waiting = self.registry.demand(&registration, 0);
        let is_wanted = self.exchanges.get(exchange).is_some_and(|held| held.is_waiting());
        if is_wanted && waiting > held.waiting && periods_left > 0 {
            let at = cx.after(period);
            let held = HeldBack { periods_left: periods_left - 1, waiting, ..held };
            return self.set_alarm(cx, at, Alarm::HeldBack(held));
        }
        if waiting == 0 && held.waiting == 0 {
            self.registry.held_in_vain(&registration, cx.now());
        }
        if let Some(link) = cx.link_mut(link) {
            link.exchange = None;
        }
        if self.credentials.is_revoked(&registration) || !self.registry.in_force(&registration) {
            // Nothing was sent on it, and nothing new is.
            self.link_free(cx, link, Ok(()));
            return self.find_another(cx, exchange);
        }
        // Nobody looked at it meanwhile: unrequested bytes must not become the answer.
        if is_wanted && !self.is_alive(cx, link) {
            return self.find_another(cx, exchange);
        }
        self.serve(cx, link, Waiter::Exchange(exchange));
    }

    /// The link on which a request was held back has ended, or is of no use.
    fn find_another(&mut self, cx: &mut Connections<State>, key: Key) {
        let waiting = self.exchanges.get(key).filter(|exchange| exchange.is_waiting());
        let Some(visitor) = waiting.and_then(|exchange| exchange.downstream()) else { return };
        if let Some(Asking { name, .. }) = cx.asking(visitor) {
            self.registry.cancel_wait(name, Waiter::Exchange(key));
            self.find_link(cx, visitor, key);
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
        while let Some((link, hold)) = self.take_link(cx, &name) {
            if (idempotent && !retried) || self.is_alive(cx, link) {
                return match hold {
                    Some(period) => self.hold_back(cx, (id, key), link, period),
                    None => self.assign(cx, key, link),
                };
            }
        }
        if self.registry.is_polling(&name) && !self.lifecycle.is_draining() {
            self.by_mailbox(cx, id, key);
        } else {
            self.seek(cx, id, key);
        }
    }
}
