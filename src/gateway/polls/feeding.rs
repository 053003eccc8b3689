//! A poll comes: it takes what waits, or is held.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::engine::connections::{Connections, Id};
use crate::gateway::device_head::{Admitted, DeviceHead};
use crate::gateway::polls::reply::Parked;
use crate::gateway::registry::{Registration, Waiter};
use crate::gateway::state::{Device, GatewayRole, Hold, State};

impl GatewayRole {
    /// A poll takes a waiting request, or is held.
    pub(in crate::gateway) fn park(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        admitted: Admitted,
        head: DeviceHead,
    ) {
        let Admitted { registration, owner, .. } = admitted;
        let (encoding, session, knows, now) = (head.accepts, owner.session, head.knows, cx.now());
        let Some(conn) = cx.get_mut(id) else { return };
        conn.free_buffers();
        conn.state = State::Device(Device::Held {
            registration: registration.clone(),
            hold: Hold::Poll(Box::new(Parked { head, owner })),
        });
        self.observer.seen(registration.name());
        let first = self.registry.park(&registration, id, encoding, session, now);
        self.stats.polls.fetch_add(1, Relaxed);
        let at = cx.after(self.settings.limits.poll_hold);
        cx.set_deadline(id, Some(at));
        match self.feed(cx, &registration) {
            // A poll without a request ends: no further request will come.
            _ if self.lifecycle.is_draining() => self.part(cx, id),
            false if first && !knows => self.poll_expired(cx, id),
            _ => {}
        }
        // Input that arrived while the answer was parsed, above all its end, was not read, and
        // there is no second event for it.
        if cx.get(id).is_some_and(|p| p.has_input()) {
            cx.reschedule(id);
        }
    }

    /// Gives held polls to the callers that have waited longest. Returns true if one was taken.
    pub(super) fn feed(
        &mut self,
        cx: &mut Connections<State>,
        registration: &Arc<Registration>,
    ) -> bool {
        if let Some(key) = self.registry.next_again(registration) {
            if self.hand_out(cx, key) {
                return true;
            }
        }
        // If a caller cannot be served yet (its body is collected first), the next one is tried.
        for _ in 0..self.settings.limits.waiting_per_device_max {
            let waiter = self
                .registry
                .holds_poll(registration)
                .then(|| self.registry.next_waiter(registration, true))
                .flatten();
            match waiter {
                None => return false,
                Some(Waiter::Caller(number)) => self.lease_mailbox(cx, number),
                Some(Waiter::Exchange(key)) => {
                    let downstream = self
                        .exchanges
                        .get(key)
                        .filter(|e| e.is_waiting())
                        .and_then(|e| e.downstream());
                    if downstream.is_some_and(|downstream| self.by_mailbox(cx, downstream, key)) {
                        return true;
                    }
                }
            }
        }
        false
    }
}
