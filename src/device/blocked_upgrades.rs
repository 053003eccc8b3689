//! Signs that an intermediary does not let an `Upgrade` pass (protocol.md §1.7).

use crate::device::dial_stages::Stage;
use crate::device::reply::ReplyHead;
use crate::device::role::DeviceRole;
use crate::device::state::{State, States};
use crate::engine::connections::Connections;
use crate::engine::connections::Id;
use crate::engine::slab::Key;
use crate::proto::turn::Fallback;

impl DeviceRole {
    /// Returns true if the device should poll because connections end without an answer to their
    /// offers: two in a row, the second begun after the first had ended.
    pub(super) fn dislikes_upgrade(&mut self, cx: &mut Connections<State>, id: Id) -> bool {
        let now = cx.now();
        let Some(dial) = cx.dial(id) else { return false };
        let (Stage::Offered { upgrade: true, .. }, Some(begun)) = (&dial.stage, dial.begun) else {
            return false;
        };
        if self.plan.fallback != Fallback::Auto || !dial.fresh || self.draining() {
            return false; // a connection on which a poll was answered has ended for another reason
        }
        match self.hung_up {
            // The beginning of the connection counts, not that of the offer: a gateway that dies
            // ends several pending connections at once.
            Some(before) if begun > before => {
                self.hung_up = None;
                true
            }
            Some(_) => false, // parallel offers, and one cause
            None => {
                self.hung_up = Some(now);
                false
            }
        }
    }

    /// Forgets the hang-ups: their cause may have been fixed.
    pub(super) fn trusts_upgrades_again(&mut self) {
        self.mode.end_plain();
        (self.hung_up, self.troubled) = (None, 0);
    }

    /// An intermediary rejects offers: polls without `Upgrade`, the first one at once.
    pub(super) fn poll_instead(&mut self, cx: &mut Connections<State>, id: Id, why: &str) {
        let now = cx.now();
        if !self.mode.is_plain(now) {
            log_names!(
                Info,
                "{why}: polling without Upgrade for {} s (turn_retry)",
                self.limits.turn_retry.as_secs_f32()
            );
        }
        self.mode.go_plain(cx.after(self.limits.turn_retry));
        self.ask_without_upgrade(cx, id, None);
    }

    /// Returns true if an answer to an offer may come from an intermediary that rejects `Upgrade`
    /// (protocol.md §1.7). A refusal with `Retry-After` has another cause, and so has a proxy's
    /// timeout (`waited`).
    pub(super) fn upgrade_may_trouble(&self, reply: &ReplyHead, waited: bool) -> bool {
        let of_a_box = match reply.status {
            502 | 504 => !waited,
            400 | 403 | 404 | 500 | 503 | 505..=510 | 512.. => true,
            _ => false,
        };
        of_a_box
            && !reply.marked
            && reply.retry_after.is_none()
            && self.plan.fallback == Fallback::Auto
            && !self.draining()
    }

    /// Repeats the request at once without `Upgrade`; the answer to that counts.
    pub(super) fn poll_once(&mut self, cx: &mut Connections<State>, id: Id, status: u16) {
        log_names!(
            Debug,
            "status {status} answers an offer without the gateway's mark: polling once without Upgrade"
        );
        self.ask_without_upgrade(cx, id, Some(status));
    }

    pub(super) fn ask_without_upgrade(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        doubt: Option<u16>,
    ) {
        let Some(key) = self.adopt(cx, id, false) else { return };
        if self.post_broke(cx, key) {
            self.give_up(cx, key, "its POST was not understood, and it was too long to be kept");
        }
        self.close_connection(cx, key);
        if let Some(slot) = self.slots.get_mut(key) {
            (slot.plain, slot.doubt) = (true, doubt);
        }
        self.dial_slot(key);
    }

    /// A poll without `Upgrade` passed after an offer did not. Only the second time counts: the
    /// first time, the gateway may have started between the two.
    pub(super) fn confirm_doubt(&mut self, cx: &mut Connections<State>, key: Key) {
        const TIMES: u32 = 2;
        let Some(status) = self.slots.get_mut(key).and_then(|slot| slot.doubt.take()) else {
            return;
        };
        self.troubled = self.troubled.saturating_add(1);
        if self.troubled >= TIMES {
            let time = self.limits.turn_retry;
            log_names!(
                Info,
                "an intermediary refuses offers with {status}: polling without Upgrade for {} s (turn_retry)",
                time.as_secs_f32()
            );
            self.mode.go_plain(cx.after(time));
        }
    }
}
