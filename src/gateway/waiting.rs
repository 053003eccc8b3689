//! Requests that wait for a link or a poll: the duration, and the answer if none comes.

use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::gateway::bounds::Bound;
use crate::gateway::loops::MOVED_TOO_OFTEN;
use crate::gateway::polls::deliveries::MessageId;
use crate::gateway::registry::Waiter;
use crate::gateway::state::{Asking, GatewayRole, State, States};
use crate::relay::LocalAnswer;
use crate::setting::DEVICES;

impl GatewayRole {
    /// Enqueues a request for a link or a poll of its device, if it may wait.
    pub(super) fn wait_in_line(&mut self, cx: &mut Connections<State>, id: Id, key: Key) {
        let Some(Asking { name, .. }) = cx.asking(id) else {
            return;
        };
        let name = name.clone();
        let is_known = self.is_known(cx, &name);
        if !is_known && self.registry.elsewhere(&name).is_some() {
            return self.give_up_moved(cx, key); // it has begun here, where the queue was
        }
        let refusal = if !is_known {
            Some((404, self.unknown_everywhere(cx, id, key, &name), "destination_not_found", None))
        } else if self.lifecycle.is_draining() {
            Some((503, "this gateway is stopping".to_owned(), "destination_unavailable", Some(1)))
        } else if !self.registry.enqueue(&name, Waiter::Exchange(key)) {
            self.stats.reached(Bound::WaitingPerDevice);
            let reason =
                format!("as many requests wait for {name} as waiting_per_device_max allows");
            Some((503, reason, "connection_limit_reached", Some(1)))
        } else {
            None
        };
        match refusal {
            None => {
                let wait = self.waits(key).link.time;
                let at = cx.after(wait);
                cx.set_deadline(id, Some(at));
                self.ease_pins_after(cx, &name, wait / 2);
            }
            Some((status, reason, error, retry_after)) => self.give_up(
                cx,
                id,
                key,
                &LocalAnswer {
                    error: Some(error),
                    retry_after,
                    ..LocalAnswer::new(status, &reason)
                },
            ),
        }
    }

    /// Returns true if this request came from a device that mistakes the visitors' port for that of
    /// devices.
    fn has_come_from_device(&self, key: Key) -> bool {
        self.exchanges.get(key).is_some_and(|exchange| exchange.is_of_device)
    }

    /// The text for a device that is unknown everywhere, and where it was looked for.
    fn unknown_everywhere(&self, cx: &Connections<State>, id: Id, key: Key, name: &str) -> String {
        if self.has_come_from_device(key) {
            return for_visitors(&format!("and no device {name} is connected"));
        }
        let asked = self.exchanges.get(key).is_some_and(|exchange| exchange.misses() > 0);
        let of_peer = cx.asking(id).is_some_and(|asking| asking.source.is_peer());
        let elsewhere = match asked {
            true => ", nor to the one that the directory of gateways names",
            false if self.peers.is_some() && !of_peer => {
                ", and the directory of gateways knows none that has it"
            }
            false => "",
        };
        format!("no device {name} is connected, or was recently, to this gateway{elsewhere}")
    }

    pub(super) fn visitor_waited(&mut self, cx: &mut Connections<State>, id: Id, key: Key) {
        let Some(Asking { name, .. }) = cx.asking(id) else {
            return;
        };
        let name = name.clone();
        self.registry.cancel_wait(&name, Waiter::Exchange(key));
        let reason =
            match self.has_come_from_device(key) && !self.registry.is_connected_anywhere(&name) {
                true => for_visitors(&format!("and no device {name} is connected")),
                false => self.waited_in_vain(&name, self.waits(key).link, cx.now()),
            };
        let error = if self.registry.transport(&name).is_some() {
            "connection_limit_reached"
        } else {
            "destination_unavailable"
        };
        self.give_up(
            cx,
            id,
            key,
            &LocalAnswer {
                error: Some(error),
                retry_after: Some(1),
                ..LocalAnswer::new(503, &reason)
            },
        );
    }

    /// Ends an exchange whose device has connected to another loop.
    pub(super) fn give_up_moved(&mut self, cx: &mut Connections<State>, key: Key) {
        let waiting = self.exchanges.get(key).filter(|exchange| exchange.is_waiting());
        let Some(downstream) = waiting.and_then(|exchange| exchange.downstream()) else { return };
        let answer = LocalAnswer { retry_after: Some(1), ..LocalAnswer::new(503, MOVED_TOO_OFTEN) };
        let error = Some("destination_unavailable");
        self.give_up(cx, downstream, key, &LocalAnswer { error, ..answer });
    }

    /// An event was not answered in time.
    pub(super) fn event_expired(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        key: Key,
        event: MessageId,
    ) {
        let told = self.events.get(&event).is_some_and(|handed| handed.told);
        let (status, error, reason) = match told {
            true => {
                let wait = self.waits(key).first_byte;
                (
                    504,
                    "http_response_timeout",
                    format!("the device took the request and did not answer it within {wait}"),
                )
            }
            false => (
                503,
                "destination_unavailable",
                "the device did not poll again in time to take the request".to_owned(),
            ),
        };
        let retry_after = (status == 503).then_some(1);
        self.give_up(
            cx,
            id,
            key,
            &LocalAnswer { error: Some(error), retry_after, ..LocalAnswer::new(status, &reason) },
        );
    }
}

/// The answer to a device at the visitors' port.
pub(super) fn for_visitors(why: &str) -> String {
    format!("this port is for visitors, {why}; devices connect to the devices' port ({DEVICES})")
}
