//! Queries on polls: which there are, and whether links or polls are wanted. They step no
//! connection.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::device::dial_stages::{DIAL, Dial, PACE, Stage};
use crate::device::follow_ups::FollowUp;
use crate::device::gateways::GatewayTarget;
use crate::device::proxy::Proxy;
use crate::device::role::DeviceRole;
use crate::device::slots::{Conn, Slot};
use crate::device::state::{State, States};
use crate::device::url::Url;
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::proto::turn::Encoding;

impl DeviceRole {
    /// The proxy through which this gateway is dialled, if any.
    pub(super) fn proxy_to(&self, url: &Url) -> Option<&Proxy> {
        self.plan.proxy.as_ref().filter(|proxy| proxy.serves(url))
    }

    /// Returns true if requests for this gateway go to its proxy in absolute form (RFC 9112
    /// §3.2.2), because the proxy does not open tunnels to its port.
    pub(super) fn polls_through_proxy(&self, url: &Url, now: Instant) -> bool {
        !url.secure
            && self.no_tunnel_until.is_some_and(|until| now < until)
            && self.proxy_to(url).is_some()
    }

    /// The target of a request that goes through a proxy without a tunnel, and the field for the
    /// proxy's credentials.
    pub(super) fn through_proxy(&self, url: &Url) -> (String, Option<(String, String)>) {
        let authorization = self.proxy_to(url).and_then(|proxy| proxy.authorization.clone());
        (
            format!("http://{}{}", url.authority, url.target),
            authorization.map(|value| ("Proxy-Authorization".to_owned(), value)),
        )
    }

    /// Returns true if polls are wanted rather than links.
    pub(super) fn is_polling(&self, now: Instant) -> bool {
        self.mode.polls(now) || self.polls_through_proxy(&self.plan.gateways.current().url, now)
    }

    /// Returns true if the next request offers the upgrade.
    pub(super) fn offers_turn(&self, slot: Option<Key>, now: Instant) -> bool {
        let plain =
            slot.and_then(|key| self.slots.get(key)).is_some_and(|slot| slot.plain || slot.beside);
        !plain && self.mode.offers_upgrade(now)
    }

    /// The number of attempts in progress, without those of polls that were answered before.
    pub(super) fn attempts(&self) -> usize {
        let polls = self.slots.keys().into_iter().filter_map(|key| self.slots.get(key));
        self.shared.dialing.load(Relaxed)
            + polls.filter(|slot| !slot.connected && slot.conn != Conn::None).count()
    }

    /// The encoding in which polls are answered, if there are any.
    pub(super) fn polls_with(&self) -> Option<Encoding> {
        let any = self
            .slots
            .keys()
            .into_iter()
            .filter_map(|key| self.slots.get(key))
            .any(|slot| slot.connected);
        any.then(|| self.encoding.unwrap_or(self.plan.encoding))
    }

    /// Returns true if this slot polls beside links.
    pub(super) fn is_beside(&self, key: Key) -> bool {
        self.slots.get(key).is_some_and(|slot| slot.beside)
    }

    /// Returns true if a mailbox answers a poll beside the links.
    pub(super) fn polls_beside(&self) -> bool {
        self.slots
            .keys()
            .into_iter()
            .filter_map(|key| self.slots.get(key))
            .any(|slot| slot.beside && slot.connected)
    }

    /// The links are given up: the polls beside them replace them.
    pub(super) fn poll_alone(&mut self) {
        for key in self.slots.keys() {
            if let Some(slot) = self.slots.get_mut(key) {
                slot.beside = false;
            }
        }
    }

    /// Returns true if this slot has an event in progress.
    pub(super) fn works(&self, slot: Option<Key>) -> bool {
        slot.and_then(|key| self.slots.get(key)).is_some_and(|slot| slot.work.is_some())
    }

    /// The number of polls with an event in progress.
    pub(super) fn working(&self) -> usize {
        self.slots.keys().into_iter().filter(|key| self.works(Some(*key))).count()
    }

    /// Records how many polls have an event in progress.
    pub(super) fn note_working(&mut self, now: Instant) {
        self.demand.note_polls(now, self.working());
    }

    /// Returns true if there are more polls than the last minute needed.
    pub(super) fn has_surplus_poll(&mut self, now: Instant) -> bool {
        self.note_working(now);
        self.demand.has_surplus_poll(self.slots.len(), &self.plan.polls)
    }

    /// A slot that needs a connection now; those with answers first.
    pub(super) fn slot_to_dial(&self, now: Instant) -> Option<Key> {
        let due = |slot: &Slot| slot.conn == Conn::None && slot.redial.is_some_and(|at| at <= now);
        let keys = self.slots.keys();
        let mut due = keys
            .into_iter()
            .filter_map(|key| self.slots.get(key).filter(|slot| due(slot)).map(|slot| (key, slot)));
        let first = due.next()?;
        if first.1.work.is_some() {
            return Some(first.0);
        }
        Some(due.find(|(_, slot)| slot.work.is_some()).unwrap_or(first).0)
    }

    pub(super) fn hurry_slots(&mut self, now: Instant) {
        for key in self.slots.keys() {
            if let Some(redial) = self.slots.get_mut(key).and_then(|slot| slot.redial.as_mut()) {
                *redial = now;
            }
        }
    }

    pub(super) fn new_slot(
        &mut self,
        url: Arc<Url>,
        gateway: Arc<GatewayTarget>,
        beside: bool,
    ) -> Key {
        self.shared.polls.fetch_add(1, Relaxed);
        let conn = Conn::None;
        self.slots.insert(Slot {
            url,
            gateway,
            conn,
            redial: None,
            connected: false,
            beside,
            plain: false,
            doubt: None,
            quick: 0,
            bridge: None,
            work: None,
        })
    }

    /// Begins a dial for the slot.
    pub(super) fn begin_dial(&mut self, key: Key) -> Option<Box<Dial>> {
        let slot = self.slots.get_mut(key)?;
        (slot.conn, slot.redial) = (Conn::Resolving, None);
        Some(Box::new(Dial::new(slot.url.clone(), slot.gateway.clone(), 0, Some(key))))
    }

    /// The same, after the current step.
    pub(super) fn dial_slot(&mut self, key: Key) {
        if let Some(dial) = self.begin_dial(key) {
            self.follow_ups.push_back(FollowUp::Resolve(dial));
        }
    }

    pub(super) fn has_connection(&mut self, slot: Option<Key>, id: Id) {
        if let Some(slot) = slot.and_then(|key| self.slots.get_mut(key)) {
            slot.conn = Conn::Open(id);
        }
    }

    pub(super) fn is_racing(&mut self, slot: Option<Key>, race: Key) {
        if let Some(slot) = slot.and_then(|key| self.slots.get_mut(key)) {
            slot.conn = Conn::Racing(race);
        }
    }

    pub(super) fn has_no_connection(&mut self, slot: Option<Key>) {
        if let Some(slot) = slot.and_then(|key| self.slots.get_mut(key)) {
            slot.conn = Conn::None;
        }
    }

    pub(super) fn close_bridge(&mut self, cx: &mut Connections<State>, key: Key) {
        if let Some(id) = self.slots.get_mut(key).and_then(|slot| slot.bridge.take()) {
            cx.close(id); // the other end notices it, and its link ends
        }
    }

    /// Returns true if this is a poll without an event that was held for a while, on a path that
    /// has carried replies. An intermediary with a shorter timeout than the gateway cuts such polls
    /// one after the other.
    pub(super) fn was_held(&self, cx: &Connections<State>, id: Id) -> bool {
        let Some(dial) = cx.dial(id) else { return false };
        let Stage::Offered { at, .. } = dial.stage else { return false };
        let waits = dial
            .slot
            .and_then(|key| self.slots.get(key))
            .is_some_and(|slot| slot.connected && slot.work.is_none());
        waits && cx.now().saturating_duration_since(at) > PACE
    }

    pub(super) fn redial_after(&mut self, cx: &mut Connections<State>, key: Key, pause: Duration) {
        let at = cx.after(pause);
        if let Some(slot) = self.slots.get_mut(key) {
            slot.redial = Some(at);
            cx.alarm(at, DIAL);
        }
    }

    /// The gateway reported this number of waiting callers, for which none of this device's links
    /// is free. The next [`top_up`](Self::top_up) dials.
    pub(super) fn note_callers(&mut self, now: Instant, callers: usize) {
        let pauses = self.not_before.is_some_and(|at| at > now);
        if self.draining || callers == 0 || pauses {
            return;
        }
        let dialing = self.shared.dialing.load(Relaxed);
        let (in_progress, room) = match self.is_polling(now) {
            true => {
                self.demand.note_polls(now, self.working() + callers);
                let room = self.plan.polls.end().saturating_sub(self.slots.len() + dialing);
                (self.attempts(), room)
            }
            false => {
                self.demand.note_links(now, self.shared.take_peak() + callers);
                (dialing, self.shared.room())
            }
        };
        self.demand.callers_wait(now, callers, in_progress, room);
    }
}

/// For the simulation.
#[cfg(test)]
impl DeviceRole {
    /// The states of the slots, in words.
    pub(super) fn slots_told(&self) -> Vec<String> {
        let slots = self.slots.keys().into_iter().filter_map(|key| self.slots.get(key));
        let told = |slot: &Slot| {
            let work = slot.work.as_ref().map(|work| {
                (work.is_read(), work.is_ready(), work.post.is_some(), work.again.lost)
            });
            format!(
                "a slot: {:?}, dials again {}, bridge {:?}, work {work:?}",
                slot.conn,
                slot.redial.is_some(),
                slot.bridge
            )
        };
        slots.map(told).collect()
    }
}
