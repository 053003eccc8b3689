//! Replies to polls: reads them to their end, and handles their events.

use std::sync::atomic::Ordering::Relaxed;

use crate::device::dial_stages::{STEPS_MAX, Stage};
use crate::device::reply::{Reply, ReplyHead};
use crate::device::role::DeviceRole;
use crate::device::state::{State, States, dial_stage};
use crate::engine::connection::{Connection, Fetched};
use crate::engine::connections::{Connections, Id};
use crate::proto::body::Decoder;
use crate::proto::head::{LineEnds, are_line_ends};
use crate::proto::turn::Encoding;

impl DeviceRole {
    /// A reply of the fallback has begun: reads its body to the end.
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
                "the reply is compressed (Content-Encoding: {coding}), which was not requested: an intermediary changes messages; configure it to leave POSTs to this URL unchanged, or use https"
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
        let is_last = cx.dial(id).is_some_and(|dial| dial.last);
        let reply = Reply {
            decoder,
            body: Vec::new(),
            encoding,
            id: message,
            keep: reply.keep && !is_last,
            quick,
            surplus: false,
            held: self.messages.share(),
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
            if read != Ok(false) || cx.get(id).is_none_or(|conn| !conn.has_input()) {
                break;
            }
        }
        cx.put_scratch(scratch);
        match read {
            Ok(true) => self.replied(cx, id),
            Ok(false) if cx.get(id).is_some_and(Connection::has_input) => cx.reschedule(id),
            Ok(false) => {}
            Err(why) => {
                self.end_dial(cx, id, &format!("the gateway's reply cannot be read: {why}"), None)
            }
        }
    }

    /// Reads once. Returns true if the body is complete. If there are bytes after it, the
    /// connection is not used again.
    fn read_body(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        scratch: &mut [u8],
    ) -> Result<bool, String> {
        let at = cx.after(self.limits.body_silence_timeout);
        let Some(conn) = cx.get_mut(id) else { return Ok(false) };
        let fetched = conn.fetch(scratch, scratch.len());
        let ended = conn.at_end_of_stream() || conn.is_broken();
        let State::Dial(dial) = &mut conn.state else { return Ok(false) };
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
            cx.set_deadline(id, Some(at)); // an event without bytes does not postpone it
        }
        Ok(whole)
    }

    /// A reply of the fallback is complete.
    fn replied(&mut self, cx: &mut Connections<State>, id: Id) {
        let now = cx.now();
        let Some(dial) = cx.dial_mut(id) else { return };
        let (url, gateway, slot) = (dial.url.clone(), dial.gateway.clone(), dial.slot);
        let Stage::Reading(reply) = std::mem::replace(&mut dial.stage, Stage::Resting) else {
            return;
        };
        dial.redirects = 0;
        cx.set_deadline(id, None);
        let Reply { encoding, keep, quick, surplus, .. } = *reply;
        let event = match reply.into_event(&self.limits.for_own_heads()) {
            Ok(None) if surplus => {
                return self.end_dial(cx, id, "bytes came after the gateway's reply", None);
            }
            Ok(event) => event,
            Err(refusal) => {
                return self.end_dial(
                    cx,
                    id,
                    &format!("the gateway sent an invalid event: {}", refusal.reason),
                    None,
                );
            }
        };
        self.goodbye_heard(slot);
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
        let wanted = wanted && self.takes(&gateway) && !self.draining();
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
        self.confirm_doubt(cx, key);
        self.encoding = encoding.or(self.encoding);
        self.update_transport(cx, &url.text, None);
        match event {
            Some(event) => self.take_event(cx, key, event, encoding, (keep, quick)),
            None => self.nothing(cx, key, keep, quick),
        }
        self.top_up(cx);
    }

    /// There was no reply in time, or the gateway took no byte of an answer.
    pub(super) fn reply_is_late(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(dial) = cx.dial(id) else { return };
        let Some(key) = dial.slot.filter(|key| self.works(Some(*key))) else {
            if self.was_let_go(cx, id) {
                return;
            }
            return self.end_dial(
                cx,
                id,
                "the gateway did not answer the offer within offer_timeout",
                None,
            );
        };
        let Some(conn) = cx.get_mut(id) else { return };
        if conn.pending() == 0 && self.draining() {
            self.acknowledge(cx, key); // it was written completely, and its reply may be held for long
            return self.let_go(cx, key);
        }
        let (waiting, written) = (conn.pending(), conn.written());
        conn.try_to_write(); // a socket has room long before it reports it
        let _ = conn.flush(); // a failure shows in the next read
        match (waiting, conn.written() > written) {
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
}
