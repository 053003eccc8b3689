//! POSTs that carry the answer to an event, and answers that are dropped.

use crate::device::dial_stages::DIAL;
use crate::device::role::DeviceRole;
use crate::device::slots::Conn;
use crate::device::state::{State, flush};
use crate::engine::connection::Connection;
use crate::engine::connections::Connections;
use crate::engine::slab::Key;
use crate::proto::body;
use crate::proto::turn::Brought;

impl DeviceRole {
    /// The properties of the answer in this slot's next POST, if it carries one.
    pub(super) fn brought(&self, slot: Option<Key>) -> Option<Brought<'_>> {
        let work = self.slots.get(slot?)?.work.as_ref()?;
        work.is_ready().then(|| work.brought())
    }

    /// Returns true if this connection has taken the whole answer.
    pub(super) fn has_posted(&self, conn: &Connection<State>) -> bool {
        let State::Dial(dial) = &conn.state else { return true };
        let work =
            dial.slot.and_then(|key| self.slots.get(key)).and_then(|slot| slot.work.as_ref());
        work.and_then(|work| work.post.as_ref()).is_none_or(|post| post.ended)
    }

    /// The head of the POST was written; writes the part of the answer that is there.
    pub(super) fn begin_post(&mut self, cx: &mut Connections<State>, key: Key) {
        if let Some(work) = self.slots.get_mut(key).and_then(|slot| slot.work.as_mut()) {
            work.begin_post();
        }
        self.feed(cx, key);
        if let Some(id) = self.slots.get(key).and_then(|slot| slot.bridge) {
            cx.reschedule(id); // there may be more bytes
        }
        self.set_post_deadline(cx, key);
    }

    pub(super) fn feed(&mut self, cx: &mut Connections<State>, key: Key) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let (Some(work), Conn::Open(id)) = (&mut slot.work, slot.conn) else { return };
        let Some(conn) = cx.get_mut(id) else { return };
        let fresh = work.fresh();
        let chunked = work.post.as_ref().is_some_and(|post| post.chunked && !post.ended);
        if chunked && !fresh.is_empty() {
            body::open_chunk(conn.output(), fresh.len());
        }
        let sent = conn.send(fresh); // a failure shows in the next read
        if chunked && !fresh.is_empty() {
            conn.output().extend_from_slice(b"\r\n");
        }
        if chunked && work.is_read() {
            conn.output().extend_from_slice(b"0\r\n\r\n");
        }
        work.given(&self.limits);
        if sent.is_err() {
            conn.look_again();
            cx.reschedule(id);
        }
        flush(cx, id);
    }

    /// While bytes wait for the gateway, the deadline is `body_silence_timeout`. While the handler
    /// works, there is none. After the last byte, it is that of any reply.
    pub(super) fn set_post_deadline(&mut self, cx: &mut Connections<State>, key: Key) {
        let drains = self.draining();
        let Some(slot) = self.slots.get_mut(key) else { return };
        let (Some(work), Conn::Open(id)) = (&mut slot.work, slot.conn) else { return };
        let Some(post) = &mut work.post else { return };
        let Some(conn) = cx.get(id) else { return };
        let now = (conn.written(), conn.pending() > 0, post.ended, drains);
        if post.seen.replace(now) == Some(now) {
            return; // an event without progress does not postpone it
        }
        let time = match (conn.pending() > 0, post.ended) {
            (true, _) => Some(self.limits.body_silence_timeout),
            (false, false) => None,
            // Its reply may be held like any poll's. By this time the answer should have arrived.
            (false, true) if drains => {
                let written_at = *post.written_at.get_or_insert(cx.now());
                Some(
                    self.limits
                        .abandoned_timeout
                        .saturating_sub(cx.now().saturating_duration_since(written_at)),
                )
            }
            (false, true) => {
                post.written_at.get_or_insert(cx.now());
                Some(self.limits.offer_timeout)
            }
        };
        let at = time.map(|time| cx.after(time));
        cx.set_deadline(id, at);
    }

    /// A POST ended without an acknowledgement. Returns true if its answer cannot be posted again.
    pub(super) fn post_broke(&mut self, cx: &mut Connections<State>, key: Key) -> bool {
        let Some(work) = self.slots.get_mut(key).and_then(|slot| slot.work.as_mut()) else {
            return false;
        };
        let (had_post, lost) = (work.post.take().is_some(), work.again.lost);
        if had_post {
            self.answer_fails(cx, key);
        }
        lost
    }

    /// An answer could not be posted. It is posted again as long as its caller may wait, counted
    /// from the first failure.
    pub(super) fn answer_fails(&mut self, cx: &mut Connections<State>, key: Key) {
        let (now, at) = (cx.now(), cx.after(self.limits.first_byte_timeout));
        let Some(work) = self.slots.get_mut(key).and_then(|slot| slot.work.as_mut()) else {
            return;
        };
        if work.failing_since.is_none() {
            work.failing_since = Some(now);
            cx.alarm(at, DIAL);
        }
    }

    /// Drops an answer. Its event is remembered: if it arrives again, it is answered with 502 and
    /// not run a second time.
    pub(super) fn give_up(&mut self, cx: &mut Connections<State>, key: Key, why: &str) {
        let Some(work) = self.slots.get_mut(key).and_then(|slot| slot.work.take()) else { return };
        log_names!(Warn, "the answer to event {} is dropped: {why}", work.id);
        if !work.keeps_link() {
            self.close_bridge(cx, key);
        }
        self.past.remember(*work, false, &self.limits);
    }
}
