//! The life of a poll slot in the COMET fallback of a device (protocol.md §2).
//!
//! ```text
//!   gateway ◄─ POST, reply ─► connection ─ slot ─ bridge ◄═ socket pair ═► virtual link ─► handler, recv(), accept(), local server
//! ```
//! A slot outlives its connection while it has an event in progress or an answer that no reply has
//! acknowledged. Every poll is also an offer, and each reply decides for itself
//! ([`mode`](super::mode)).

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::device::backoff::random;
use crate::device::dial_stages::{PACE, QUICK_MAX, Stage};
use crate::device::findings::Parting;
use crate::device::follow_ups::FollowUp;
use crate::device::role::DeviceRole;
use crate::device::slots::Conn;
use crate::device::state::{State, States, dial_stage};
use crate::device::url::Url;
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::proto::dialect::Naming;

impl DeviceRole {
    /// Ends a slot with its connection and its virtual link. An event in progress is lost.
    pub(super) fn drop_slot(&mut self, cx: &mut Connections<State>, key: Key, why: &str) {
        self.close_connection(cx, key);
        self.close_bridge(cx, key);
        if self.slots.remove(key).is_some() {
            log_names!(Debug, "a poll ended: {why}");
            self.shared.polls.fetch_sub(1, Relaxed);
            if self.parting == Parting::Asks(key) {
                self.follow_ups.push_back(FollowUp::CloseIdle); // the gateway did not get the announcement
            }
            self.polls_ended(cx, why);
            self.doubt_links(cx); // links that have replaced it are doubted like others
        }
    }

    pub(super) fn close_connection(&mut self, cx: &mut Connections<State>, key: Key) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        match std::mem::replace(&mut slot.conn, Conn::None) {
            Conn::Open(id) => cx.close(id),
            Conn::Racing(race) => self.call_off_race(cx, race),
            Conn::None | Conn::Resolving => {}
        }
    }

    /// A redirect: the slot polls the new location from now on. An answer is sent only to the
    /// origin from which its event came.
    pub(super) fn goes_to(
        &mut self,
        cx: &mut Connections<State>,
        slot: Option<Key>,
        url: &Arc<Url>,
    ) {
        let Some(key) = slot else { return };
        let Some(slot) = self.slots.get_mut(key) else { return };
        (slot.url, slot.conn) = (url.clone(), Conn::Resolving);
        let Some(work) = &mut slot.work else { return };
        work.post = None;
        if work.again.lost || !work.from.same_origin(url) {
            self.give_up(cx, key, "the gateway that asked redirects to another one, or the answer was too long to be kept");
        }
    }

    /// Drops answers that could not be posted for `first_byte_timeout`: their callers no longer
    /// wait.
    pub(super) fn give_up_late_answers(&mut self, cx: &mut Connections<State>) {
        let (now, timeout) = (cx.now(), self.limits.first_byte_timeout);
        for key in self.slots.keys() {
            let Some(slot) = self.slots.get(key) else { continue };
            let since = slot.work.as_ref().and_then(|work| work.failing_since);
            if slot.conn == Conn::None
                && since.is_some_and(|since| now.saturating_duration_since(since) >= timeout)
            {
                self.give_up(cx, key, "it could not be posted within first_byte_timeout");
                self.drop_slot(cx, key, "its answer could not be posted");
            }
        }
    }
}

impl DeviceRole {
    /// The connection of a slot ended, or brought bytes, while there was no request on it.
    pub(super) fn lost_between(&mut self, cx: &mut Connections<State>, key: Key) {
        self.close_connection(cx, key);
        if !self.works(Some(key)) {
            self.redial_after(cx, key, PACE); // it was pausing
        }
    }

    /// A proxy's timeout is not a failure of the gateway. The poll is repeated after about a
    /// second.
    pub(super) fn pause_poll(&mut self, cx: &mut Connections<State>, key: Key) {
        log_names!(Debug, "a poll was ended by a proxy's timeout; it is repeated");
        self.close_connection(cx, key);
        if self.post_broke(cx, key) {
            self.give_up(
                cx,
                key,
                "a proxy on the way gave up its POST, and it was too long to be kept",
            );
        }
        if self.draining() && !self.works(Some(key)) {
            return self.drop_slot(cx, key, "the device stops");
        }
        self.redial_after(cx, key, PACE.mul_f64(0.5 + random()));
    }

    /// Ends slots without an event now, and the others when their answers are acknowledged.
    pub(super) fn drain_slots(&mut self, cx: &mut Connections<State>) {
        for key in self.slots.keys() {
            match self.works(Some(key)) {
                false => self.let_go(cx, key),
                true => self.set_post_deadline(cx, key),
            }
        }
    }

    /// Ends a slot of a stopping device. A gateway that holds its poll sees the half-close, and
    /// sends no event. An event that is already on its way is read and refused, because its visitor
    /// would otherwise wait in vain.
    pub(super) fn let_go(&mut self, cx: &mut Connections<State>, key: Key) {
        let at = cx.after(self.limits.abandoned_timeout);
        let held = self.slots.get(key).and_then(|slot| match slot.conn {
            Conn::Open(id) => Some(id),
            Conn::None | Conn::Resolving | Conn::Racing(_) => None,
        });
        let waits = held.and_then(|id| cx.get_mut(id)).is_some_and(|conn| {
            let is_written = conn.pending() == 0;
            let State::Dial(dial) = &mut conn.state else { return false };
            dial.last = matches!(dial.stage, Stage::Offered { .. });
            match dial.last {
                true => is_written && conn.end_output().is_ok(),
                false => matches!(dial.stage, Stage::Reading(_)),
            }
        });
        match held.filter(|_| waits) {
            Some(id) => cx.set_deadline(id, Some(at)),
            None => self.drop_slot(cx, key, "the device stops"),
        }
    }

    /// Returns true, and ends the slot, if this was a poll without an event of a stopping device.
    pub(super) fn was_let_go(&mut self, cx: &mut Connections<State>, id: Id) -> bool {
        let Some(dial) = cx.dial(id) else { return false };
        let idle = dial.slot.filter(|key| self.draining() && !self.works(Some(*key)));
        idle.into_iter().for_each(|key| self.drop_slot(cx, key, "the device stops"));
        idle.is_some()
    }

    /// A reply without an event: polls again, but not in a fast loop.
    pub(super) fn nothing(
        &mut self,
        cx: &mut Connections<State>,
        key: Key,
        keep: bool,
        quick: bool,
    ) {
        let at = cx.after(PACE);
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.quick = if quick { slot.quick + 1 } else { 0 };
        match slot.conn {
            _ if slot.quick <= QUICK_MAX => self.poll_on(cx, key, keep),
            Conn::Open(id) if keep => {
                dial_stage(cx, id, Stage::Pausing { keep });
                cx.set_deadline(id, Some(at));
            }
            _ => {
                self.close_connection(cx, key);
                self.redial_after(cx, key, PACE);
            }
        }
    }

    /// The slot has no event in progress: it polls again, on the same connection if that can be
    /// kept.
    pub(super) fn poll_on(&mut self, cx: &mut Connections<State>, key: Key, keep: bool) {
        if !keep {
            self.close_connection(cx, key);
        }
        if self.draining() {
            return self.drop_slot(cx, key, "the device stops");
        }
        match self.slots.get(key).map(|slot| slot.conn) {
            Some(Conn::Open(id)) => self.offer(cx, id),
            Some(Conn::None) => self.dial_at_once(cx, key),
            _ => {}
        }
    }

    /// Dials for this slot at once, or in its turn if the gateway does not answer.
    pub(super) fn dial_at_once(&mut self, cx: &mut Connections<State>, key: Key) {
        if !self.is_failing() {
            return self.dial_slot(key);
        }
        self.redial_after(cx, key, Duration::ZERO);
        self.follow_ups.push_back(FollowUp::TopUp);
    }

    /// An attempt of this slot failed, and its connection is closed. A slot with an event is kept;
    /// another one ends.
    pub(super) fn poll_failed(&mut self, cx: &mut Connections<State>, key: Key, why: &str) {
        let now = cx.now();
        let Some(slot) = self.slots.get_mut(key) else { return };
        (slot.conn, slot.connected, slot.plain, slot.doubt) = (Conn::None, false, false, None);
        if self.post_broke(cx, key) {
            self.give_up(cx, key, "its POST broke, and it was too long to be kept");
        }
        let Some(slot) = self.slots.get_mut(key) else { return };
        let Some(work) = &mut slot.work else { return self.drop_slot(cx, key, why) };
        if work.is_ready() {
            slot.redial = Some(now);
            self.answer_fails(cx, key); // its POST may not even have had a connection
        }
        self.polls_ended(cx, why);
    }
}

/// Returns true if offers of this dialect can be polls, too: POST to a path that names the device.
pub(super) fn can_poll(dialect: &crate::proto::dialect::Dialect) -> bool {
    dialect.naming == Naming::PathSegment
        && dialect.method.as_deref().is_none_or(|method| method == "POST")
}
