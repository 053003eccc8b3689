//! Reads a request for a device that polls completely before it is handed out.

use crate::close_reason::CloseCause;
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::gateway::bounds::Bound;
use crate::gateway::follow_ups::FollowUp;
use crate::gateway::state::{Asking, GatewayRole, State, States};
use crate::relay::{Collected, Gathering, LocalAnswer};

impl GatewayRole {
    /// A request for a device that polls. Returns true if a poll took it; else it is being collected,
    /// waits in the queue, or was refused.
    pub(in crate::gateway) fn by_mailbox(
        &mut self,
        cx: &mut Connections<State>,
        downstream: Id,
        key: Key,
    ) -> bool {
        let Some(Asking { name, .. }) = cx.asking(downstream) else {
            return false;
        };
        let held = self.uploads_of(&name.clone());
        let Some(exchange) = self.exchanges.get_mut(key) else { return false };
        if exchange.wants_upgrade() {
            let reason =
                "the device is reached by polling, and no other protocol can pass there (Upgrade)";
            self.give_up(
                cx,
                downstream,
                key,
                &LocalAnswer {
                    error: Some("http_upgrade_failed"),
                    ..LocalAnswer::new(501, reason)
                },
            );
            return false;
        }
        if !exchange.is_enclosed() {
            if !exchange.is_collecting() {
                let gathering = Gathering::new(held, exchange.announced(), cx.now());
                let begun = cx.get_mut(downstream).map_or(Ok(()), |conn| {
                    exchange.begin_collecting(conn, gathering, &self.settings.limits)
                });
                if let Err(refusal) = begun {
                    self.give_up(
                        cx,
                        downstream,
                        key,
                        &LocalAnswer::new(refusal.status, &refusal.reason),
                    );
                    return false;
                }
                self.await_body(cx, downstream, key);
            }
            cx.reschedule(downstream);
            return false;
        }
        if self.hand_out(cx, key) {
            return true;
        }
        self.wait_in_line(cx, downstream, key);
        false
    }

    /// Continues to collect a request; when it is complete, it looks for its device again.
    pub(in crate::gateway) fn collect(&mut self, cx: &mut Connections<State>, id: Id, key: Key) {
        let (limits, now) = (self.settings.limits.clone(), cx.now());
        let mut scratch = cx.take_scratch();
        let collected = match (self.exchanges.get_mut(key), cx.get_mut(id)) {
            (Some(exchange), Some(conn)) => exchange.collect(conn, &mut scratch, now, &limits),
            _ => Collected::NotYet,
        };
        cx.put_scratch(scratch);
        let answer = match collected {
            Collected::NotYet => {
                self.await_body(cx, id, key);
                if cx.get(id).is_some_and(|p| p.has_input()) {
                    cx.reschedule(id);
                }
                return;
            }
            Collected::Whole => {
                return self.follow_ups.push_back(FollowUp::FindLink { visitor: id, key });
            }
            Collected::Gone => {
                if let Some(mut exchange) = self.exchanges.remove(key) {
                    exchange.observed.failed(CloseCause::CallerGone.as_str(), 0);
                }
                return cx.close(id);
            }
            Collected::Refused(refusal) => refusal,
        };
        let retry_after = (answer.status == 503).then_some(1);
        if retry_after.is_some() {
            self.stats.reached(Bound::Messages);
        }
        self.give_up(
            cx,
            id,
            key,
            &LocalAnswer { retry_after, ..LocalAnswer::new(answer.status, &answer.reason) },
        );
    }

    /// Sets the deadline for the next bytes of a body that is being collected.
    fn await_body(&mut self, cx: &mut Connections<State>, id: Id, key: Key) {
        let (now, silence) = (cx.now(), self.waits(key).body_silence.time);
        let Some(body) = self.exchanges.get_mut(key).and_then(|exchange| exchange.gathering())
        else {
            return;
        };
        let at = cx.after(body.left(now, silence, &self.settings.limits));
        cx.set_deadline(id, Some(at));
    }

    pub(in crate::gateway) fn collect_expired(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        key: Key,
    ) {
        let (now, silence) = (cx.now(), self.waits(key).body_silence);
        let body = self.exchanges.get_mut(key).and_then(|exchange| exchange.gathering());
        match body.and_then(|body| {
            body.overdue("the request's body", now, silence, &self.settings.limits)
        }) {
            Some(why) => self.give_up(cx, id, key, &LocalAnswer::new(408, &why)),
            None => self.await_body(cx, id, key),
        }
    }
}
