//! The COMET fallback of a device (protocol.md §2): which polls there are, where they go, and what
//! their replies mean.
//!
//! ```text
//!   gateway ◄─ POST, reply ─► connection ─ slot ─ bridge ◄═ socket pair ═► virtual link ─► handler, recv(), accept(), local server
//! ```
//! A slot outlives its connection while it has an event in progress or an answer that no reply has
//! acknowledged. Every poll carries the offer, and each reply decides for itself
//! ([`mode`](super::mode)).

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

use crate::close_reason::CloseCause;
use crate::close_reason::CloseReason;
use crate::device::answers::STEPS_MAX;
use crate::device::backoff::random;
use crate::device::dial::DIAL;
use crate::device::dial::Dial;
use crate::device::dial::PACE;
use crate::device::dial::QUICK_MAX;
use crate::device::dial::Stage;
use crate::device::gateways::GatewayTarget;
use crate::device::offers::ReplyHead;
use crate::device::reply::Reply;
use crate::device::role::DeviceRole;
use crate::device::slots::Conn;
use crate::device::slots::Slot;
use crate::device::state::State;
use crate::device::state::dial_stage;
use crate::device::url::Url;
use crate::engine::connection::Connection;
use crate::engine::connection::Fetched;
use crate::engine::connections::Connections;
use crate::engine::connections::Id;
use crate::engine::slab::Key;
use crate::proto::body::Decoder;
use crate::proto::dialect::Naming;
use crate::proto::head::LineEnds;
use crate::proto::head::are_line_ends;
use crate::proto::turn::Encoding;

impl DeviceRole {
    /// Whether polls are wanted rather than links.
    pub(super) fn is_polling(&self, now: Instant) -> bool {
        self.mode.polls(now) || self.polls_through_proxy(&self.plan.homes.current().url, now)
    }

    /// Whether the next request offers the turn.
    pub(super) fn offers_turn(&self, slot: Option<Key>, now: Instant) -> bool {
        let plain =
            slot.and_then(|key| self.slots.get(key)).is_some_and(|slot| slot.plain || slot.beside);
        !plain && self.mode.offers_upgrade(now)
    }

    /// Attempts on their way whose end is not known, those of polls that were answered before
    /// aside.
    pub(super) fn attempts(&self) -> usize {
        let polls = self.slots.keys().into_iter().filter_map(|key| self.slots.get(key));
        self.shared.dialing.load(Relaxed)
            + polls.filter(|slot| !slot.connected && slot.conn != Conn::None).count()
    }

    /// The encoding in which polls are answered, while there are any.
    pub(super) fn polls_with(&self) -> Option<Encoding> {
        let any = self
            .slots
            .keys()
            .into_iter()
            .filter_map(|key| self.slots.get(key))
            .any(|slot| slot.connected);
        any.then(|| self.encoding.unwrap_or(self.plan.encoding))
    }

    /// Whether this slot polls beside links.
    pub(super) fn is_beside(&self, key: Key) -> bool {
        self.slots.get(key).is_some_and(|slot| slot.beside)
    }

    /// Whether a poll beside the links is answered by a mailbox.
    pub(super) fn polls_beside(&self) -> bool {
        self.slots
            .keys()
            .into_iter()
            .filter_map(|key| self.slots.get(key))
            .any(|slot| slot.beside && slot.connected)
    }

    /// The links are given up: what polled beside them polls in their place.
    pub(super) fn poll_alone(&mut self) {
        for key in self.slots.keys() {
            if let Some(slot) = self.slots.get_mut(key) {
                slot.beside = false;
            }
        }
    }

    /// Whether this slot has an event in its hand.
    pub(super) fn works(&self, slot: Option<Key>) -> bool {
        slot.and_then(|key| self.slots.get(key)).is_some_and(|slot| slot.work.is_some())
    }

    /// Whether there are more polls than the last minute needed.
    pub(super) fn has_surplus_poll(&mut self, now: Instant) -> bool {
        self.note_working(now);
        self.demand.has_surplus_poll(self.slots.len(), &self.plan.polls)
    }

    /// Notes how many polls have an event in hand.
    pub(super) fn note_working(&mut self, now: Instant) {
        self.demand.note_polls(now, self.working());
    }

    /// Polls that have an event in hand.
    pub(super) fn working(&self) -> usize {
        self.slots.keys().into_iter().filter(|key| self.works(Some(*key))).count()
    }

    /// A slot that wants a connection now; those with answers first.
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
        home: Arc<GatewayTarget>,
        beside: bool,
    ) -> Key {
        self.shared.polls.fetch_add(1, Relaxed);
        let conn = Conn::None;
        self.slots.insert(Slot {
            url,
            home,
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

    pub(super) fn dial_slot(&mut self, cx: &mut Connections<State>, key: Key) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        (slot.conn, slot.redial) = (Conn::Resolving, None);
        let dial = Dial::new(slot.url.clone(), slot.home.clone(), 0, Some(key));
        self.resolve(cx, Box::new(dial));
    }

    /// The slot of a connection: its own, or a new one, unless (without `force`) there are enough;
    /// then the connection is closed.
    pub(super) fn adopt(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        force: bool,
    ) -> Option<Key> {
        let Some(State::Dial(dial)) = cx.get(id).map(|p| &p.state) else { return None };
        if dial.slot.is_some() {
            return dial.slot;
        }
        let (url, home) = (dial.url.clone(), dial.home.clone());
        self.undialed();
        if !force && self.slots.len() >= *self.plan.polls.start() {
            cx.close(id);
            self.settle_polls(cx, "there are as many polls as may be");
            return None;
        }
        let key = self.new_slot(url, home, false);
        self.has_connection(Some(key), id);
        if let Some(State::Dial(dial)) = cx.get_mut(id).map(|p| &mut p.state) {
            dial.slot = Some(key);
        }
        Some(key)
    }

    /// Ends a slot with its connection and its virtual link. An event in its hand is lost.
    pub(super) fn drop_slot(&mut self, cx: &mut Connections<State>, key: Key, why: &str) {
        self.close_connection(cx, key);
        self.close_bridge(cx, key);
        if self.slots.remove(key).is_some() {
            log_names!(Debug, "a poll ended: {why}");
            self.shared.polls.fetch_sub(1, Relaxed);
            self.settle_polls(cx, why);
            self.doubt_links(cx); // links that came to its place are doubted as all are
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

    pub(super) fn close_connection(&mut self, cx: &mut Connections<State>, key: Key) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        match std::mem::replace(&mut slot.conn, Conn::None) {
            Conn::Open(id) => cx.close(id),
            Conn::Racing(race) => self.call_off_race(cx, race),
            Conn::None | Conn::Resolving => {}
        }
    }

    pub(super) fn close_bridge(&mut self, cx: &mut Connections<State>, key: Key) {
        if let Some(id) = self.slots.get_mut(key).and_then(|slot| slot.bridge.take()) {
            cx.close(id); // the other end sees that, and its link ends
        }
    }

    /// A redirect: the slot polls there from now on. An answer goes to no other origin than its
    /// event came from.
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
}

impl DeviceRole {
    /// The connection of a slot ended, or spoke, while nothing was asked on it.
    pub(super) fn lost_between(&mut self, cx: &mut Connections<State>, key: Key) {
        self.close_connection(cx, key);
        if !self.works(Some(key)) {
            self.redial_after(cx, key, PACE); // it was pausing
        }
    }

    fn redial_after(&mut self, cx: &mut Connections<State>, key: Key, pause: Duration) {
        let at = cx.after(pause);
        if let Some(slot) = self.slots.get_mut(key) {
            slot.redial = Some(at);
            cx.alarm(at, DIAL);
        }
    }

    /// Whether this is a poll with nothing in hand that was held for a while, on a way that has
    /// carried replies: something on it that waits less long than the gateway cuts such polls, one
    /// after the other.
    pub(super) fn was_held(&self, cx: &Connections<State>, id: Id) -> bool {
        let Some(State::Dial(dial)) = cx.get(id).map(|p| &p.state) else { return false };
        let Stage::Offered { at, .. } = dial.stage else { return false };
        let waits = dial
            .slot
            .and_then(|key| self.slots.get(key))
            .is_some_and(|slot| slot.connected && slot.work.is_none());
        waits && cx.now().saturating_duration_since(at) > PACE
    }

    /// A proxy's time-out: no failure of the gateway's. The poll comes again after about a second.
    pub(super) fn pause_poll(&mut self, cx: &mut Connections<State>, key: Key) {
        log_names!(Debug, "a poll was ended by a proxy's time-out; it comes again");
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

    /// Nothing new: slots without an event are let go, the others when their answers are
    /// acknowledged.
    pub(super) fn drain_slots(&mut self, cx: &mut Connections<State>) {
        for key in self.slots.keys() {
            match self.works(Some(key)) {
                false => self.let_go(cx, key),
                true => self.set_post_deadline(cx, key),
            }
        }
    }

    /// Ends a slot of a device that stops. A gateway that holds its poll sees the end of what the
    /// device sends, and hands it nothing; an event that is on its way already is read and given
    /// back, for its visitor would wait for it in vain.
    pub(super) fn let_go(&mut self, cx: &mut Connections<State>, key: Key) {
        let at = cx.after(self.limits.abandoned_timeout);
        let held = self.slots.get(key).and_then(|slot| match slot.conn {
            Conn::Open(id) => Some(id),
            Conn::None | Conn::Resolving | Conn::Racing(_) => None,
        });
        let waits = held.and_then(|id| cx.get_mut(id)).is_some_and(|peer| {
            let is_written = peer.pending() == 0;
            let State::Dial(dial) = &mut peer.state else { return false };
            dial.last = matches!(dial.stage, Stage::Offered { .. });
            match dial.last {
                true => is_written && peer.end_output().is_ok(),
                false => matches!(dial.stage, Stage::Reading(_)),
            }
        });
        match held.filter(|_| waits) {
            Some(id) => cx.set_deadline(id, Some(at)),
            None => self.drop_slot(cx, key, "the device stops"),
        }
    }

    /// Whether this was a poll of a device that stops, with nothing in hand; it is over then.
    pub(super) fn was_let_go(&mut self, cx: &mut Connections<State>, id: Id) -> bool {
        let Some(State::Dial(dial)) = cx.get(id).map(|p| &p.state) else { return false };
        let idle = dial.slot.filter(|key| self.draining() && !self.works(Some(*key)));
        idle.into_iter().for_each(|key| self.drop_slot(cx, key, "the device stops"));
        idle.is_some()
    }

    /// A reply brought nothing: poll again, but not in a circle.
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

    /// The slot has nothing in hand: it polls again, on the same connection where that may be kept.
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

    /// Dials for this slot; where the gateway does not answer, in its turn.
    pub(super) fn dial_at_once(&mut self, cx: &mut Connections<State>, key: Key) {
        if !self.is_failing() {
            return self.dial_slot(cx, key);
        }
        self.redial_after(cx, key, Duration::ZERO);
        self.top_up(cx);
    }

    /// A poll slot ended, or has no connection: perhaps the device had no other way in.
    fn settle_polls(&mut self, cx: &mut Connections<State>, why: &str) {
        let stops = self.draining() || self.tries.stopping;
        let end = if stops { CloseCause::Drained } else { CloseCause::Cut };
        self.settle_transport(cx, "", Some(&CloseReason::new(end, why.to_owned())));
    }

    /// An attempt of this slot failed, and its connection is closed. What it has in hand survives;
    /// without anything it ends.
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
            self.answer_fails(cx, key); // its POST may not even have found a connection
        }
        self.settle_polls(cx, why);
    }

    /// A reply of the fallback: its body is read to the end.
    pub(super) fn fell_back(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        encoding: Option<Encoding>,
        reply: ReplyHead,
        quick: bool,
    ) {
        if let Some(coding) = &reply.coding {
            let why = format!(
                "the reply is compressed (Content-Encoding: {coding}), which nobody asked for: something on the way changes what passes; \
                 have it leave POSTs to this URL alone, or use https"
            );
            return self.end_dial(cx, id, &why, None);
        }
        let (framing, message) = match (reply.framing, reply.id) {
            (Ok(framing), Ok(message)) => (framing, message),
            (Err(refusal), _) | (_, Err(refusal)) => {
                return self.end_dial(
                    cx,
                    id,
                    &format!("the gateway's reply cannot be read: {}", refusal.reason),
                    None,
                );
            }
        };
        let decoder = Decoder::new(framing, &self.limits).line_ends(LineEnds::CrlfOrLf);
        let is_last = matches!(cx.get(id).map(|p| &p.state), Some(State::Dial(dial)) if dial.last);
        let reply = Reply {
            decoder,
            body: Vec::new(),
            encoding,
            id: message,
            keep: reply.keep && !is_last,
            quick,
            surplus: false,
        };
        dial_stage(cx, id, Stage::Reading(Box::new(reply)));
        let at = cx.after(self.limits.body_silence_timeout);
        cx.set_deadline(id, Some(at));
        self.read_reply(cx, id);
    }

    pub(super) fn read_reply(&mut self, cx: &mut Connections<State>, id: Id) {
        let mut scratch = cx.take_scratch();
        let mut read = Ok(false);
        for _ in 0..STEPS_MAX {
            read = self.read_body(cx, id, &mut scratch);
            if read != Ok(false) || cx.get(id).is_none_or(|peer| !peer.has_input()) {
                break;
            }
        }
        cx.put_scratch(scratch);
        match read {
            Ok(true) => self.replied(cx, id),
            Ok(false) if cx.get(id).is_some_and(Connection::has_input) => cx.again(id),
            Ok(false) => {}
            Err(why) => {
                self.end_dial(cx, id, &format!("the gateway's reply cannot be read: {why}"), None)
            }
        }
    }

    /// One read; whether the body is whole. Bytes behind it were not asked for: the connection is
    /// not used again.
    fn read_body(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        scratch: &mut [u8],
    ) -> Result<bool, String> {
        let at = cx.after(self.limits.body_silence_timeout);
        let Some(peer) = cx.get_mut(id) else { return Ok(false) };
        let fetched = peer.fetch(scratch, scratch.len());
        let ended = peer.at_end_of_stream() || peer.is_broken();
        let State::Dial(dial) = &mut peer.state else { return Ok(false) };
        let Stage::Reading(reply) = &mut dial.stage else { return Ok(false) };
        match fetched {
            Ok(Fetched::Bytes(n)) => {
                let used =
                    reply.take(&scratch[..n], &self.limits).map_err(|e| e.reason.into_owned())?;
                reply.surplus |= !are_line_ends(&scratch[used..n]);
            }
            Ok(Fetched::Nothing) => {}
            Ok(Fetched::End) => reply.decoder.finish_at_eof().map_err(|e| e.reason.into_owned())?,
            Err(_) if reply.decoder.is_done() => {}
            Err(e) => return Err(e.to_string()),
        }
        reply.keep &= !ended && !reply.surplus;
        let whole = reply.decoder.is_done();
        if matches!(fetched, Ok(Fetched::Bytes(_))) {
            cx.set_deadline(id, Some(at)); // an event that brought nothing postpones nothing
        }
        Ok(whole)
    }

    /// A reply of the fallback is whole.
    fn replied(&mut self, cx: &mut Connections<State>, id: Id) {
        let now = cx.now();
        let Some(State::Dial(dial)) = cx.get_mut(id).map(|p| &mut p.state) else { return };
        let (url, home, slot) = (dial.url.clone(), dial.home.clone(), dial.slot);
        let Stage::Reading(reply) = std::mem::replace(&mut dial.stage, Stage::Resting) else {
            return;
        };
        dial.redirects = 0;
        cx.set_deadline(id, None);
        let Reply { encoding, keep, quick, surplus, .. } = *reply;
        let event = match reply.into_event(&self.limits.for_own_heads()) {
            Ok(None) if surplus => {
                return self.end_dial(cx, id, "bytes came behind the gateway's reply", None);
            }
            Ok(event) => event,
            Err(refusal) => {
                return self.end_dial(
                    cx,
                    id,
                    &format!("the gateway sent what is no event: {}", refusal.reason),
                    None,
                );
            }
        };
        self.signs.welcomed = true;
        self.succeeded();
        let own = usize::from(slot.is_none());
        let short =
            self.shared.is_short_with(self.shared.dialing.load(Relaxed).saturating_sub(own));
        let beside = slot.is_some_and(|key| self.is_beside(key));
        let has_room = match slot {
            Some(_) if event.is_none() && self.has_surplus_poll(now) => false,
            Some(_) => self.slots.len() <= *self.plan.polls.end(),
            None => self.slots.len() < *self.plan.polls.start(),
        };
        let wanted =
            (self.is_polling(now) || short || (beside && self.doubt.since.is_some())) && has_room;
        let wanted = wanted && self.takes(&home) && !self.draining();
        if wanted && !beside {
            self.mode.decide(true);
        }
        if event.is_none() && !wanted {
            if beside {
                self.doubt_later(now); // not at once again
            }
            match slot {
                Some(key) => self.drop_slot(cx, key, "it is not wanted: links are there instead, or the last minute did not need as many polls"),
                None => {
                    cx.close(id);
                    self.undialed();
                }
            }
            return self.top_up(cx);
        }
        let Some(key) = self.adopt(cx, id, true) else { return };
        let Some(slot) = self.slots.get_mut(key) else { return };
        (slot.connected, slot.plain, slot.url) = (true, false, url.clone());
        self.settle_doubt(cx, key);
        self.encoding = encoding.or(self.encoding);
        self.settle_transport(cx, &url.text, None);
        match event {
            Some(event) => self.take_event(cx, key, event, encoding, (keep, quick)),
            None => self.nothing(cx, key, keep, quick),
        }
        self.top_up(cx);
    }
}

/// For the simulation.
#[cfg(test)]
impl DeviceRole {
    /// Where the slots stand, in words.
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

/// Whether offers of this kind can be polls, too: POST to a path that names the device.
pub(super) fn can_poll(dialect: &crate::proto::dialect::Dialect) -> bool {
    dialect.naming == Naming::PathSegment
        && dialect.method.as_deref().is_none_or(|method| method == "POST")
}
