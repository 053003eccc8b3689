//! The COMET fallback of a device (protocol.md §2): poll slots, and the virtual links over which
//! their events reach whoever answers.
//!
//! ```text
//!   gateway ◄─ POST, reply ─► connection ─ slot ─ bridge ◄═ socket pair ═► virtual link ─► handler, recv(), accept(), local server
//! ```
//! An event is one request, its answer one response; the pair carries both as a turned link would,
//! so that everything above a link serves polls unchanged. A slot outlives its connection while it
//! has an event in progress or an answer that no reply has acknowledged. Every poll carries the
//! offer, and each reply decides for itself: there is no mode but the count of polls wanted.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::close_reason::{CloseCause, CloseReason};
use crate::device::answer::Work;
use crate::device::dial::{GatewayTarget, Url, random};
use crate::device::role::{
    DIAL, DeviceRole, Dial, Link, PACE, QUICK_MAX, ReplyHead, Service, Stage, State, dial_stage,
    flush,
};
use crate::engine::connections::{Connection, Connections, Fetched, Id};
use crate::engine::slab::Key;
use crate::error::Refusal;
use crate::limits::Limits;
use crate::proto::body::{self, Decoder, Piece};
use crate::proto::comet::{self, Event};
use crate::proto::head::{LineEnds, are_line_ends};
use crate::proto::turn::{Brought, Encoding, Fallback, Naming, Verdict};
use crate::stream::Stream;

/// One of the polls in parallel.
pub(crate) struct Slot {
    /// Where it polls: the configured gateway, or where that sent it.
    url: Arc<Url>,
    /// The configured gateway that led there.
    home: Arc<GatewayTarget>,
    conn: Conn,
    /// It wants a connection, not before this.
    redial: Option<Instant>,
    /// Its last attempt was answered by the fallback.
    connected: bool,
    /// It is there because nothing comes over the links: it offers no turn, and its failures are
    /// nobody's.
    beside: bool,
    /// Its next request goes without `Upgrade`, whatever the time says: the last one with it was
    /// not understood.
    plain: bool,
    /// Something on the way refused that one with this status, perhaps for its `Upgrade`: what
    /// answers the next tells.
    doubt: Option<u16>,
    /// Replies of nothing that came at once, in a row.
    quick: usize,
    /// Our end of its virtual link.
    bridge: Option<Id>,
    /// The event in its hand.
    work: Option<Box<Work>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conn {
    None,
    /// Its gateway's name is being looked up.
    Resolving,
    /// The addresses are tried.
    Racing(Key),
    Open(Id),
}

/// A reply of the fallback while its body arrives.
pub(super) struct Reply {
    decoder: Decoder,
    body: Vec<u8>,
    encoding: Option<Encoding>,
    id: Option<String>,
    keep: bool,
    quick: bool,
    /// Bytes came behind it.
    surplus: bool,
}

impl Reply {
    /// How many bytes were used; whole when the decoder is done.
    fn take(&mut self, bytes: &[u8], limits: &Limits) -> Result<usize, Refusal> {
        let mut used = 0;
        loop {
            let (n, piece) = self.decoder.decode(&bytes[used..])?;
            used += n;
            match piece {
                Piece::More | Piece::End => return Ok(used),
                Piece::Data(data) if self.body.len() + data.len() > limits.event_bytes_max() => {
                    return Err(Refusal::new(
                        502,
                        "it is longer than any event within message_bytes_max; raise that bound here to the gateway's",
                    ));
                }
                Piece::Data(data) => self.body.extend_from_slice(data),
            }
        }
    }

    /// The head has its bounds where the event is asked as a request: who breaks them gets a 431,
    /// as on a link.
    fn into_event(self, limits: &Limits) -> Result<Option<Event>, Refusal> {
        match (self.encoding, self.id.as_deref()) {
            (Some(Encoding::Json), id) => comet::event_from_json(&self.body, id, limits),
            (_, None) if self.body.is_empty() => Ok(None),
            (_, Some(id)) => comet::event_from_text(id, self.body, limits).map(Some),
            (_, None) => Err(Refusal::new(
                400,
                "it is message/http and names no event: PTTH-Message-ID is missing",
            )),
        }
    }
}

/// Steps of one event loop's turn for one connection or virtual link.
const STEPS_MAX: usize = 4;
/// Bytes of one read from a virtual link.
const PIECE: usize = 64 * 1024;

// --- which polls there are, and where they go ---

impl DeviceRole {
    /// Whether polls are wanted rather than links.
    pub(super) fn is_polling(&self, now: Instant) -> bool {
        self.fell_back
            || self.doubt.swallowed
            || self.plan.fallback == Fallback::Only
            || self.plain_until.is_some_and(|until| now < until)
            || self.polls_through_proxy(&self.plan.homes.current().url, now)
    }

    /// Whether the next request offers the turn.
    pub(super) fn offers_turn(&self, slot: Option<Key>, now: Instant) -> bool {
        let plain =
            slot.and_then(|key| self.slots.get(key)).is_some_and(|slot| slot.plain || slot.beside);
        !plain
            && !self.doubt.swallowed
            && self.plan.fallback != Fallback::Only
            && self.plain_until.is_none_or(|until| now >= until)
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
    fn has_surplus_poll(&mut self, now: Instant) -> bool {
        self.note_working(now);
        self.demand.has_surplus_poll(self.slots.len(), &self.plan.polls)
    }

    /// Notes how many polls have an event in hand.
    fn note_working(&mut self, now: Instant) {
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

    fn close_connection(&mut self, cx: &mut Connections<State>, key: Key) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        match std::mem::replace(&mut slot.conn, Conn::None) {
            Conn::Open(id) => cx.close(id),
            Conn::Racing(race) => self.call_off_race(cx, race),
            Conn::None | Conn::Resolving => {}
        }
    }

    fn close_bridge(&mut self, cx: &mut Connections<State>, key: Key) {
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
        if work.lost || !work.from.same_origin(url) {
            self.give_up(cx, key, "the gateway that asked redirects to another one, or the answer was too long to be kept");
        }
    }
}

// --- attempts that bring nothing, or fail ---

impl DeviceRole {
    /// Whether offers that are hung up on should become polls: the second in a row, the later one's
    /// connection begun after the earlier one had ended.
    pub(super) fn dislikes_upgrade(&mut self, cx: &mut Connections<State>, id: Id) -> bool {
        let now = cx.now();
        let Some(State::Dial(dial)) = cx.get(id).map(|p| &p.state) else { return false };
        let (Stage::Offered { upgrade: true, .. }, Some(begun)) = (&dial.stage, dial.begun) else {
            return false;
        };
        if self.plan.fallback != Fallback::Auto || !dial.fresh || self.draining() {
            return false; // a connection on which a poll was answered before ended for another reason
        }
        match self.hung_up {
            // Not when it was offered: a connection may have been on its way while a gateway died,
            // and ended the others.
            Some(before) if begun > before => {
                self.hung_up = None;
                true
            }
            Some(_) => false, // offers in parallel, and one cause
            None => {
                self.hung_up = Some(now);
                false
            }
        }
    }

    /// What is on the way does not stand an offer: polls without one are next, the first of them at
    /// once.
    pub(super) fn poll_instead(&mut self, cx: &mut Connections<State>, id: Id, why: &str) {
        let now = cx.now();
        if self.plain_until.is_none_or(|until| now >= until) {
            log_names!(
                Info,
                "{why}: polling without Upgrade for {} s (turn_retry)",
                self.limits.turn_retry.as_secs_f32()
            );
        }
        self.plain_until = Some(cx.after(self.limits.turn_retry));
        self.ask_without_upgrade(cx, id, None);
    }

    /// Whether an answer to an offer may be that of a middlebox which an `Upgrade` troubles
    /// (protocol.md §1.7). Who asks to be left alone has another trouble, and a proxy's time-out
    /// (`waited`) is one.
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

    /// Asks the same once more without `Upgrade`, at once; that answer counts.
    pub(super) fn poll_once(&mut self, cx: &mut Connections<State>, id: Id, status: u16) {
        log_names!(
            Debug,
            "status {status} answers an offer of a turn, and not in the gateway's name: polling once without Upgrade"
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
        self.dial_slot(cx, key);
    }

    /// A poll without `Upgrade` passed where an offer did not. The second time this is no chance (a
    /// gateway that starts between the two, say).
    fn settle_doubt(&mut self, cx: &mut Connections<State>, key: Key) {
        const TIMES: u32 = 2;
        let Some(status) = self.slots.get_mut(key).and_then(|slot| slot.doubt.take()) else {
            return;
        };
        self.troubled = self.troubled.saturating_add(1);
        if self.troubled >= TIMES {
            let time = self.limits.turn_retry;
            log_names!(
                Info,
                "something on the way refuses offers of a turn with {status}: polling without Upgrade for {} s (turn_retry)",
                time.as_secs_f32()
            );
            self.plain_until = Some(cx.after(time));
        }
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

    /// A poll slot ended, or has no connection: perhaps the device had no other way in.
    fn settle_polls(&mut self, cx: &mut Connections<State>, why: &str) {
        let end = if self.draining() { CloseCause::Drained } else { CloseCause::Cut };
        self.settle_transport(cx, "", Some(&CloseReason::new(end, why.to_owned())));
    }

    /// A POST ended without an acknowledgement. True: its answer cannot be posted again.
    fn post_broke(&mut self, cx: &mut Connections<State>, key: Key) -> bool {
        let Some(work) = self.slots.get_mut(key).and_then(|slot| slot.work.as_mut()) else {
            return false;
        };
        let (had_post, lost) = (work.post.take().is_some(), work.lost);
        if had_post {
            self.answer_fails(cx, key);
        }
        lost
    }

    /// An answer could not be posted: it is tried again for so long as somebody may wait for it,
    /// counted from the first failure.
    fn answer_fails(&mut self, cx: &mut Connections<State>, key: Key) {
        let (now, at) = (cx.now(), cx.after(self.limits.first_byte_timeout));
        let Some(work) = self.slots.get_mut(key).and_then(|slot| slot.work.as_mut()) else {
            return;
        };
        if work.failing_since.is_none() {
            work.failing_since = Some(now);
            cx.alarm(at, DIAL);
        }
    }

    /// Lets go of answers that could not be posted for `first_byte_timeout`: nobody waits for them
    /// any more.
    pub(super) fn give_up_late_answers(&mut self, cx: &mut Connections<State>) {
        let (now, patience) = (cx.now(), self.limits.first_byte_timeout);
        for key in self.slots.keys() {
            let Some(slot) = self.slots.get(key) else { continue };
            let since = slot.work.as_ref().and_then(|work| work.failing_since);
            if slot.conn == Conn::None
                && since.is_some_and(|since| now.saturating_duration_since(since) >= patience)
            {
                self.give_up(cx, key, "it could not be posted within first_byte_timeout");
                self.drop_slot(cx, key, "its answer could not be posted");
            }
        }
    }

    /// An answer is dropped. Its event is remembered: should it come again, it gets a 502 and no
    /// second run.
    fn give_up(&mut self, cx: &mut Connections<State>, key: Key, why: &str) {
        let Some(work) = self.slots.get_mut(key).and_then(|slot| slot.work.take()) else { return };
        log_names!(Warn, "the answer to event {} is dropped: {why}", work.id);
        if !work.keeps_link() {
            self.close_bridge(cx, key);
        }
        self.past.remember(*work, false, &self.limits);
    }

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

    /// No reply within its time; or the gateway took nothing of an answer.
    pub(super) fn reply_is_late(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(peer) = cx.get_mut(id) else { return };
        let State::Dial(dial) = &peer.state else { return };
        let Some(key) = dial.slot.filter(|key| self.works(Some(*key))) else {
            return self.end_dial(
                cx,
                id,
                "the gateway did not answer the offer within offer_timeout",
                None,
            );
        };
        if peer.pending() == 0 && self.draining() {
            self.acknowledge(cx, key); // it was written whole, and its reply may be held for long
            return self.drop_slot(cx, key, "the device stops");
        }
        let (waiting, written) = (peer.pending(), peer.written());
        peer.try_to_write(); // a socket has room long before it says so
        let _ = peer.flush(); // a failure shows in the next read
        match (waiting, peer.written() > written) {
            (0, _) => self.end_dial(
                cx,
                id,
                "the gateway did not answer a POST within offer_timeout",
                None,
            ),
            (_, true) => self.pump(cx, key),
            (_, false) => self.end_dial(
                cx,
                id,
                "the gateway took nothing of an answer for body_silence_timeout",
                None,
            ),
        }
    }

    /// Nothing new: slots without an event end now, the others when their answers are acknowledged.
    pub(super) fn drain_slots(&mut self, cx: &mut Connections<State>) {
        for key in self.slots.keys() {
            match self.works(Some(key)) {
                false => self.drop_slot(cx, key, "the device stops"),
                true => self.set_post_deadline(cx, key),
            }
        }
    }
}

// --- replies ---

impl DeviceRole {
    /// What a reply means for the answer that its POST brought. `None`: all is done; else the
    /// verdict goes on to be obeyed.
    pub(super) fn settle_answer(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        verdict: Verdict,
        reply: &ReplyHead,
    ) -> Option<Verdict> {
        let Some(State::Dial(dial)) = cx.get(id).map(|p| &p.state) else { return None };
        let Some(key) = dial.slot else { return Some(verdict) };
        let Some(work) = self.slots.get(key).and_then(|slot| slot.work.as_ref()) else {
            return Some(verdict);
        };
        let Some(chunked) = work.post.as_ref().map(|post| post.chunked) else {
            return Some(verdict);
        };
        let said =
            if reply.said.is_empty() { String::new() } else { format!(": {}", reply.said.trim()) };
        match verdict {
            Verdict::Turned { .. } | Verdict::Nothing | Verdict::FellBack(_) => {
                self.acknowledge(cx, key);
                if matches!(verdict, Verdict::Turned { .. }) && !reply.sent {
                    return Some(Verdict::Wrong(
                        "the gateway answered 101 before it had the whole answer of an event"
                            .to_owned(),
                    ));
                }
                Some(verdict)
            }
            Verdict::NoTurn(413) if !work.replaced => {
                self.answer_otherwise(cx, key, "the device's answer is too large for the gateway, or for a proxy before it (413)");
                None
            }
            Verdict::NoTurn(411) if chunked && !work.lost => {
                self.wait_for_length(cx, key);
                None
            }
            Verdict::NoTurn(411) if !work.replaced => {
                self.answer_otherwise(cx, key, "the device's answer is too long for a proxy that wants to know its length first (411)");
                None
            }
            Verdict::Later { status: 409 | 426, .. } | Verdict::Refused(_) => {
                self.give_up(cx, key, &format!("the gateway answered {}{said}", reply.status));
                Some(verdict)
            }
            // 405 and 501 are about the Upgrade, if there was one; 2xx of another type is no
            // gateway's.
            Verdict::NoTurn(405 | 501 | 200..=299) => Some(verdict),
            Verdict::Later { status: 400, .. } | Verdict::NoTurn(_) => {
                self.give_up(cx, key, &format!("the gateway answered {}{said}", reply.status));
                self.nothing(cx, key, false, true); // not in a circle: the gateway may hand the event out again
                None
            }
            other => Some(other), // it is not taken: a redirect, 408, 429, 5xx
        }
    }

    /// A reply acknowledged the answer. It is remembered, in case its event comes again.
    fn acknowledge(&mut self, cx: &mut Connections<State>, key: Key) {
        let Some(work) = self.slots.get_mut(key).and_then(|slot| slot.work.take()) else { return };
        if !work.is_read() {
            self.close_bridge(cx, key); // nobody wants the rest
        }
        self.past.remember(*work, true, &self.limits);
    }

    /// Posts a 502 for the same event instead, on a new connection: the reply's body was not read.
    fn answer_otherwise(&mut self, cx: &mut Connections<State>, key: Key, reason: &str) {
        log_names!(Warn, "{reason}; a 502 is posted instead");
        self.close_connection(cx, key);
        self.answer_502(cx, key, reason);
    }

    fn answer_502(&mut self, cx: &mut Connections<State>, key: Key, reason: &str) {
        let date = cx.date().to_owned();
        let Some(work) = self.slots.get_mut(key).and_then(|slot| slot.work.as_mut()) else {
            return;
        };
        let link_ends = !work.keeps_link();
        work.replace(reason, &date, &self.limits);
        if link_ends {
            self.close_bridge(cx, key);
        }
        self.deliver(cx, key);
    }

    fn wait_for_length(&mut self, cx: &mut Connections<State>, key: Key) {
        self.close_connection(cx, key);
        if let Some(work) = self.slots.get_mut(key).and_then(|slot| slot.work.as_mut()) {
            (work.post, work.needs_length) = (None, true);
            if work.is_ready() {
                return self.deliver(cx, key);
            }
        }
        self.pump(cx, key);
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
        let reply = Reply {
            decoder,
            body: Vec::new(),
            encoding,
            id: message,
            keep: reply.keep,
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
        self.welcomed = true;
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
        self.fell_back |= wanted && !beside;
        if event.is_none() && !wanted {
            self.doubt.tries += u32::from(beside && self.doubt.since.is_some()); // not at once again
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
    fn poll_on(&mut self, cx: &mut Connections<State>, key: Key, keep: bool) {
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
    fn dial_at_once(&mut self, cx: &mut Connections<State>, key: Key) {
        if !self.is_failing() {
            return self.dial_slot(cx, key);
        }
        self.redial_after(cx, key, Duration::ZERO);
        self.top_up(cx);
    }
}

// --- events and answers ---

impl DeviceRole {
    /// An event came. One that is in progress is a copy; one that was answered is not run again.
    fn take_event(
        &mut self,
        cx: &mut Connections<State>,
        key: Key,
        event: Event,
        encoding: Option<Encoding>,
        (keep, quick): (bool, bool),
    ) {
        let Some(from) = self.slots.get(key).map(|slot| slot.url.clone()) else { return };
        if self.is_beside(key) && self.doubt.since.is_some() {
            self.give_up_links(cx); // a gateway asks an idle link first, where it has one
        }
        if self.draining() {
            log_names!(Info, "event {} came while the device stops; it is not taken", event.id);
            return self.drop_slot(cx, key, "the device stops");
        }
        let is_copy = |work: &Work| work.id == event.id && work.from.same_origin(&from);
        if self.slots.keys().into_iter().any(|key| {
            self.slots
                .get(key)
                .and_then(|slot| slot.work.as_ref())
                .is_some_and(|work| is_copy(work))
        }) {
            log_names!(Debug, "event {} came again while it is in progress", event.id);
            return self.nothing(cx, key, keep, quick);
        }
        if !keep {
            self.close_connection(cx, key);
        }
        let encoding = encoding.unwrap_or(Encoding::Message);
        let past = self.past.recall(&event.id, &from, encoding);
        let (is_new, is_kept) = (past.is_none(), past.is_some_and(|text| text.is_some()));
        let work = match past.flatten() {
            Some(text) => Work::again(&event, encoding, from, text.to_vec()),
            None => Work::new(&event, encoding, from),
        };
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.work = Some(Box::new(work));
        if is_new {
            slot.quick = 0;
        }
        self.note_working(cx.now());
        match (is_new, is_kept) {
            (false, true) => self.deliver(cx, key),
            (false, false) => self.answer_502(
                cx,
                key,
                "the device answered this event before, and did not keep its answer",
            ),
            (true, _) => self.hand_over(cx, key, event.text),
        }
    }

    /// Writes the request into the virtual link; makes one where there is none.
    fn hand_over(&mut self, cx: &mut Connections<State>, key: Key, mut text: Vec<u8>) {
        speak_1_1(&mut text);
        let bridge = self.slots.get(key).and_then(|slot| slot.bridge);
        if let Some(id) = bridge.filter(|id| cx.is_quiet(*id, true)) {
            if let Some(peer) = cx.get_mut(id) {
                peer.output().extend_from_slice(&text);
            }
            return flush(cx, id);
        }
        self.close_bridge(cx, key);
        if let Err(e) = self.bridge_over(cx, key, &text) {
            self.answer_502(cx, key, &format!("the device has no room for another request: {e}"));
        }
    }

    fn bridge_over(
        &mut self,
        cx: &mut Connections<State>,
        key: Key,
        text: &[u8],
    ) -> std::io::Result<()> {
        let (near, far) = Stream::pair()?;
        near.set_nonblocking(true)?;
        far.set_nonblocking(true)?;
        let id = cx.insert(near, &[], State::Bridge(key))?;
        if let Some(slot) = self.slots.get_mut(key) {
            slot.bridge = Some(id);
        }
        if let Some(peer) = cx.get_mut(id) {
            peer.output().extend_from_slice(text);
        }
        flush(cx, id);
        let link = cx.insert(far, &[], State::Link(Link::new(Some(key), cx.now())))?;
        match &self.service {
            Service::Listen(_) => self.lend(cx, link, &[]),
            _ => self.link_idle(cx, link),
        }
        Ok(())
    }

    pub(super) fn bridge_ready(&mut self, cx: &mut Connections<State>, key: Key, id: Id) {
        if self.works(Some(key)) {
            flush(cx, id);
            return self.pump(cx, key);
        }
        if !cx.is_quiet(id, false) {
            self.close_bridge(cx, key); // the link ended between two events; the next one gets a new pair
        }
    }

    /// Moves what came of the response towards the gateway, as far as it takes it.
    pub(super) fn pump(&mut self, cx: &mut Connections<State>, key: Key) {
        let mut scratch = cx.take_scratch();
        let mut moved = Ok(true);
        for _ in 0..STEPS_MAX {
            moved = self.read_response(cx, key, &mut scratch);
            if moved != Ok(true) {
                break;
            }
            self.pass_on(cx, key, &mut scratch);
        }
        cx.put_scratch(scratch);
        match moved {
            Ok(true) => {
                if let Some(id) = self.slots.get(key).and_then(|slot| slot.bridge) {
                    cx.again(id); // others first
                }
            }
            Ok(false) => {}
            Err(why) => self.response_broke(cx, key, &why),
        }
        self.set_post_deadline(cx, key);
    }

    /// Whether something of the response was read.
    fn read_response(
        &mut self,
        cx: &mut Connections<State>,
        key: Key,
        scratch: &mut [u8],
    ) -> Result<bool, String> {
        let Some(slot) = self.slots.get_mut(key) else { return Ok(false) };
        let (Some(work), Some(bridge)) = (&mut slot.work, slot.bridge) else { return Ok(false) };
        let waiting = match slot.conn {
            Conn::Open(id) if work.post.is_some() => cx.get(id).map_or(0, Connection::pending),
            _ => 0,
        };
        let room = match work.post {
            Some(_) if waiting > self.limits.read_ahead_bytes_max => 0,
            Some(_) => PIECE,
            None => work.room(&self.limits).min(PIECE),
        };
        if work.is_read() {
            return Ok(false);
        }
        if room == 0 && work.needs_length {
            return Err("answered more than is kept, and a proxy on the way wants to know the length first (411)".to_owned());
        }
        let Some(peer) = cx.get_mut(bridge).filter(|peer| room > 0 && peer.has_input()) else {
            return Ok(false);
        };
        let kept = peer.kept();
        let filled = match peer.fetch(scratch, kept + room) {
            Ok(Fetched::Nothing) => return Ok(false),
            Ok(Fetched::Bytes(n)) if n > kept => n,
            Ok(Fetched::Bytes(n)) => {
                peer.keep(&scratch[..n]);
                return if peer.is_over() {
                    Err("closed its link in the middle of its answer".to_owned())
                } else {
                    Ok(false)
                };
            }
            Ok(Fetched::End) | Err(_) => {
                return Err("closed its link without a whole answer".to_owned());
            }
        };
        let used =
            work.take(&scratch[..filled], &self.link_limits).map_err(|e| e.reason.into_owned())?;
        peer.keep(&scratch[used..filled]);
        if work.is_read() {
            peer.settle(); // an idle pair has no buffer
            if !work.keeps_link() || used < filled || peer.pending() > 0 {
                self.close_bridge(cx, key);
            }
        }
        Ok(true)
    }

    /// What was read goes on at once: into the POST that is under way, or into one that begins.
    fn pass_on(&mut self, cx: &mut Connections<State>, key: Key, scratch: &mut Vec<u8>) {
        let Some(work) = self.slots.get(key).and_then(|slot| slot.work.as_ref()) else { return };
        if work.post.is_some() {
            self.feed(cx, key);
        } else if work.is_ready() {
            cx.put_scratch(std::mem::take(scratch)); // a step of the connection needs it
            self.deliver(cx, key);
            *scratch = cx.take_scratch();
        }
    }

    /// The response will never be whole.
    fn response_broke(&mut self, cx: &mut Connections<State>, key: Key, why: &str) {
        let Some(slot) = self.slots.get(key) else { return };
        let Some(work) = &slot.work else { return };
        if work.post.is_none() {
            log_names!(Info, "an event is answered with 502: the device {why}");
            return self.answer_502(cx, key, &format!("the device {why}"));
        }
        // The gateway has some of it: it has to see that there is no more, as on a link.
        if let Conn::Open(id) = slot.conn {
            cx.reset(id);
            self.has_no_connection(Some(key));
        }
        self.give_up(cx, key, why);
        self.poll_on(cx, key, false);
    }

    /// An answer is ready: it is posted on the slot's connection if that is still good, else on a
    /// new one, at once.
    fn deliver(&mut self, cx: &mut Connections<State>, key: Key) {
        let Some(slot) = self.slots.get(key) else { return };
        match slot.conn {
            _ if slot.redial.is_some() => {} // it failed before and waits for its time
            Conn::Resolving | Conn::Racing(_) => {}
            Conn::None => self.dial_at_once(cx, key),
            Conn::Open(id) => {
                let resting = matches!(cx.get(id).map(|p| &p.state), Some(State::Dial(dial)) if matches!(dial.stage, Stage::Resting));
                if !resting {
                    return; // still connecting
                }
                if cx.is_quiet(id, true) {
                    return self.offer(cx, id);
                }
                self.close_connection(cx, key);
                self.dial_at_once(cx, key);
            }
        }
    }

    /// What the head of this slot's next POST says of an answer.
    pub(super) fn brought(&self, slot: Option<Key>) -> Option<Brought<'_>> {
        let work = self.slots.get(slot?)?.work.as_ref()?;
        work.is_ready().then(|| work.brought())
    }

    /// Whether the answer on this connection was given to it whole.
    pub(super) fn has_posted(&self, peer: &Connection<State>) -> bool {
        let State::Dial(dial) = &peer.state else { return true };
        let work =
            dial.slot.and_then(|key| self.slots.get(key)).and_then(|slot| slot.work.as_ref());
        work.and_then(|work| work.post.as_ref()).is_none_or(|post| post.ended)
    }

    /// The head of the POST is written; the answer follows, as far as it is here.
    pub(super) fn begin_post(&mut self, cx: &mut Connections<State>, key: Key) {
        if let Some(work) = self.slots.get_mut(key).and_then(|slot| slot.work.as_mut()) {
            work.begin_post();
        }
        self.feed(cx, key);
        if let Some(id) = self.slots.get(key).and_then(|slot| slot.bridge) {
            cx.again(id); // there may be more
        }
        self.set_post_deadline(cx, key);
    }

    fn feed(&mut self, cx: &mut Connections<State>, key: Key) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let (Some(work), Conn::Open(id)) = (&mut slot.work, slot.conn) else { return };
        let Some(peer) = cx.get_mut(id) else { return };
        let fresh = work.fresh();
        let chunked = work.post.as_ref().is_some_and(|post| post.chunked && !post.ended);
        if chunked && !fresh.is_empty() {
            body::open_chunk(peer.output(), fresh.len());
        }
        let sent = peer.send(fresh); // a failure shows in the next read
        if chunked && !fresh.is_empty() {
            peer.output().extend_from_slice(b"\r\n");
        }
        if chunked && work.is_read() {
            peer.output().extend_from_slice(b"0\r\n\r\n");
        }
        work.given(&self.limits);
        if sent.is_err() {
            peer.look_again();
            cx.again(id);
        }
        flush(cx, id);
    }

    /// While the gateway has something to take: `body_silence_timeout`. While the handler is at
    /// work: none. Behind the last byte: that of any reply.
    fn set_post_deadline(&mut self, cx: &mut Connections<State>, key: Key) {
        let drains = self.draining();
        let Some(slot) = self.slots.get_mut(key) else { return };
        let (Some(work), Conn::Open(id)) = (&mut slot.work, slot.conn) else { return };
        let Some(post) = &mut work.post else { return };
        let Some(peer) = cx.get(id) else { return };
        let now = (peer.written(), peer.pending() > 0, post.ended, drains);
        if post.seen.replace(now) == Some(now) {
            return; // an event that moved nothing postpones nothing
        }
        let time = match (peer.pending() > 0, post.ended) {
            (true, _) => Some(self.limits.body_silence_timeout),
            (false, false) => None,
            // What was written has arrived, if it ever does; the reply may be held as any poll's.
            (false, true) if drains => Some(self.limits.abandoned_timeout),
            (false, true) => Some(self.limits.offer_timeout),
        };
        let at = time.map(|time| cx.after(time));
        cx.set_deadline(id, at);
    }
}

/// For the simulation.
#[cfg(test)]
impl DeviceRole {
    /// Where the slots stand, in words.
    pub(super) fn slots_told(&self) -> Vec<String> {
        let slots = self.slots.keys().into_iter().filter_map(|key| self.slots.get(key));
        let told = |slot: &Slot| {
            let work = slot
                .work
                .as_ref()
                .map(|work| (work.is_read(), work.is_ready(), work.post.is_some(), work.lost));
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

/// An event's request reaches the virtual link as HTTP/1.1, so that its response can be framed
/// whatever it is.
fn speak_1_1(text: &mut [u8]) {
    let line = text.iter().position(|&byte| byte == b'\r').unwrap_or(0);
    if let Some(minor @ b'0') = text[..line].last_mut() {
        *minor = b'1';
    }
}

/// Whether offers of this kind can be polls, too: POST to a path that names the device.
pub(super) fn can_poll(dialect: &crate::proto::turn::Dialect) -> bool {
    dialect.naming == Naming::PathSegment
        && dialect.method.as_deref().is_none_or(|method| method == "POST")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn requests_reach_the_link_as_http_1_1() {
        for (text, is) in [
            ("GET / HTTP/1.0\r\nA: HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nA: HTTP/1.0\r\n\r\n"),
            ("GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"),
        ] {
            let mut bytes = text.as_bytes().to_vec();
            speak_1_1(&mut bytes);
            assert_eq!(bytes, is.as_bytes());
        }
    }
}
