//! Reads the contents of a POST: a complete message, a response that streams to its visitor, or an
//! answer that no exchange waits for.

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::budget::Held;
use crate::engine::connection::Fetched;
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::error::Refusal;
use crate::gateway::bounds::Bound;
use crate::gateway::polls::deliveries::{MessageId, read_id};
use crate::gateway::polls::posted::{JSON_INLINE_MAX, PostedAnswer, Reading, disagrees, too_long};
use crate::gateway::state::{BETWEEN_POLLS, Command, Device, GatewayRole, State, States};
use crate::proto::body::{Decoder, Framing, Piece};
use crate::proto::comet::{self, Answer};
use crate::proto::head;
use crate::proto::interim::CONTINUE;
use crate::proto::turn::Encoding;
use crate::relay::{self, Gathering, LocalAnswer, Waits};

/// The contents of a POST so far.
enum Came {
    NotYet,
    More,
    Closed,
    Refused(Refusal),
    Whole(Vec<u8>, Held),
    /// The head of a response to this event, and the bytes after it.
    Response {
        event: MessageId,
        key: Key,
        first: Vec<u8>,
    },
    /// An unwanted answer was read to its end.
    Dropped,
}

/// The answer is complete, but the helpers are busy.
fn helpers_are_busy() -> Refusal {
    Refusal::new(503, "too many long answers are being read; post it again")
}

fn log_dropped(id: &str, name: &str) {
    log_names!(
        Info,
        "{name}: an answer was dropped: no event of this device with the id {id} waits for one"
    );
}

impl GatewayRole {
    /// Begins to read the contents of a POST.
    pub(in crate::gateway) fn begin_posting(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        mut posted: Box<PostedAnswer>,
        expects_continue: bool,
    ) {
        let (now, held) = (cx.now(), self.messages_of(posted.admitted.registration.name()));
        let Some(conn) = cx.get_mut(id) else { return };
        let announced = posted.decoder.remaining().unwrap_or(0);
        if posted.head.content != Some(Encoding::Message)
            && announced > self.settings.limits.message_bytes_max as u64
        {
            conn.state = State::Device(Device::PostedAnswer(posted));
            return self.refuse_post(cx, id, &too_long());
        }
        if expects_continue && conn.kept() == 0 {
            conn.output().extend_from_slice(CONTINUE);
        }
        posted.reading = match posted.head.content {
            Some(Encoding::Message) => Reading::Head(Vec::new()),
            _ => Reading::Whole(Gathering::new(held, posted.decoder.remaining(), now)),
        };
        conn.state = State::Device(Device::PostedAnswer(posted));
        self.await_post(cx, id);
        self.post_ready(cx, id);
    }

    /// Sets the deadline for the next bytes of a POST.
    fn await_post(&self, cx: &mut Connections<State>, id: Id) {
        let (now, mut wait) = (cx.now(), self.settings.limits.body_silence_timeout);
        if let Some(posted) = cx.posted(id) {
            if let Reading::Whole(message) = &posted.reading {
                wait = message.left(now, wait, &self.settings.limits);
            }
        }
        let at = cx.after(wait);
        cx.set_deadline(id, Some(at));
    }

    /// Reads further bytes, and acts on them: a complete message, the head of a response, or a
    /// message to drop.
    pub(in crate::gateway) fn post_ready(&mut self, cx: &mut Connections<State>, id: Id) {
        if let Some(posted) = cx.posted(id) {
            if let Reading::Exchange(key) = posted.reading {
                return relay::advance(self, cx, key);
            }
        }
        let mut scratch = cx.take_scratch();
        let came = self.read_post(cx, id, &mut scratch);
        cx.put_scratch(scratch);
        match came {
            Came::NotYet => {}
            Came::More => {
                self.await_post(cx, id);
                if cx.get(id).is_some_and(|p| p.has_input()) {
                    cx.reschedule(id);
                }
            }
            Came::Closed => self.post_gone(cx, id),
            Came::Refused(refusal) => self.refuse_post(cx, id, &refusal),
            Came::Whole(bytes, held) => self.read_message(cx, id, bytes, held),
            Came::Response { event, key, first } => self.stream_answer(cx, id, event, key, first),
            Came::Dropped => self.post_done(cx, id),
        }
    }

    fn read_post(&mut self, cx: &mut Connections<State>, id: Id, scratch: &mut [u8]) -> Came {
        let (limits, now) = (self.settings.limits.clone(), cx.now());
        let Some(conn) = cx.get_mut(id) else { return Came::NotYet };
        if conn.flush().is_err() {
            return Came::Closed;
        }
        if matches!(&conn.state, State::Device(Device::PostedAnswer(posted)) if matches!(posted.reading, Reading::Elsewhere))
        {
            return if conn.is_broken() { Came::Closed } else { Came::NotYet };
        }
        let filled = match conn.fetch(scratch, scratch.len()) {
            Ok(Fetched::Bytes(n)) => n,
            Ok(Fetched::Nothing) => return Came::NotYet,
            Ok(Fetched::End) | Err(_) => return Came::Closed,
        };
        let State::Device(Device::PostedAnswer(posted)) = &mut conn.state else {
            return Came::NotYet;
        };
        if let Reading::Whole(message) = &mut posted.reading {
            message.came(now);
        }
        let mut used = 0;
        let ended = loop {
            let (n, piece) = match posted.decoder.decode(&scratch[used..filled]) {
                Ok(decoded) => decoded,
                Err(refusal) => return Came::Refused(refusal),
            };
            used += n;
            let taken = match piece {
                Piece::More => break false,
                Piece::End => break true,
                Piece::Data(data) => posted.reading.take(data, &limits),
            };
            if let Err(refusal) = taken {
                return Came::Refused(refusal);
            }
        };
        let rest = scratch[used..filled].to_vec();
        let came = self.judge_post(cx, id, ended);
        if !(ended && head::are_line_ends(&rest)) {
            cx.get_mut(id).into_iter().for_each(|conn| conn.keep(&rest));
        }
        came
    }

    /// The result of the bytes so far.
    fn judge_post(&mut self, cx: &mut Connections<State>, id: Id, ended: bool) -> Came {
        let Some(posted) = cx.posted_mut(id) else {
            return Came::NotYet;
        };
        let (bytes, text) = match (&mut posted.reading, posted.head.id.as_deref()) {
            (Reading::Dropped(_), _) => return if ended { Came::Dropped } else { Came::More },
            (Reading::Whole(_), _) if ended => {
                let Reading::Whole(message) =
                    std::mem::replace(&mut posted.reading, Reading::Elsewhere)
                else {
                    return Came::More;
                };
                let (bytes, held) = message.finish();
                return Came::Whole(bytes, held);
            }
            (Reading::Head(bytes), Some(text)) => (bytes, text),
            _ => return Came::More,
        };
        let known = read_id(text).filter(|event| {
            self.events.is_for(event, &posted.admitted.registration, &posted.admitted.owner)
        });
        let live = known.and_then(|event| Some((event, self.events.get(&event)?.key)));
        let found = live.and_then(|(event, key)| {
            Some((event, key, self.exchanges.get(key).filter(|e| e.is_waiting())?.is_head()))
        });
        let Some((event, key, is_head)) = found else {
            log_dropped(text, posted.admitted.registration.name());
            posted.reading = Reading::Dropped(bytes.len());
            return if ended { Came::Dropped } else { Came::More };
        };
        match comet::answer_start(bytes, is_head, &self.settings.link_limits) {
            Ok(Some(start)) => {
                // The lengths known by then have to agree, so that no part of an inconsistent
                // message is passed on.
                let here = bytes.len() - start;
                let whole = posted.decoder.remaining().map(|left| here as u64 + left);
                let stated =
                    comet::answer_length(&bytes[start..], is_head, &self.settings.link_limits);
                match (stated, whole) {
                    (Some(stated), Some(whole)) if stated != whole => Came::Refused(disagrees()),
                    (Some(stated), None) if stated < here as u64 => Came::Refused(disagrees()),
                    _ => Came::Response { event, key, first: bytes.split_off(start) },
                }
            }
            Ok(None) if ended => {
                Came::Refused(Refusal::new(400, "the answer ends within the head of its response"))
            }
            Ok(None) => Came::More,
            Err(refusal) => Came::Refused(refusal),
        }
    }

    /// An answer in `message/http` begins: it streams to the caller.
    fn stream_answer(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        event: MessageId,
        key: Key,
        first: Vec<u8>,
    ) {
        self.answered(cx, &event);
        let Some(posted) = cx.posted_mut(id) else {
            return;
        };
        (posted.reading, posted.head.knows) = (Reading::Exchange(key), true);
        let decoder = std::mem::replace(
            &mut posted.decoder,
            Decoder::new(Framing::Empty, &self.settings.limits),
        );
        relay::attach_enclosed(self, cx, key, id, decoder, first);
    }

    /// A whole message that is JSON, or has no type.
    fn read_message(&mut self, cx: &mut Connections<State>, id: Id, bytes: Vec<u8>, held: Held) {
        let Some(posted) = cx.posted_mut(id) else {
            return;
        };
        if posted.head.content.is_none() && !matches!(bytes.trim_ascii(), b"" | b"{}" | b"null") {
            let refusal = Refusal::new(
                400,
                "an answer has the Content-Type application/json or message/http; this body has none",
            );
            return self.refuse_post(cx, id, &refusal);
        }
        let field = posted.head.id.clone();
        if bytes.len() <= JSON_INLINE_MAX {
            let answer =
                comet::answer_from_json(&bytes, field.as_deref(), &self.settings.link_limits);
            return self.parsed(cx, id, answer, held);
        }
        let (limits, remote) = (self.settings.link_limits.clone(), self.remote.clone());
        let at = cx.after(self.settings.limits.body_silence_timeout);
        cx.set_deadline(id, Some(at));
        let submitted = self.json_workers.submit(move || {
            let answer = comet::answer_from_json(&bytes, field.as_deref(), &limits);
            drop(bytes);
            remote.send(Command::Parsed { id, answer: Box::new(answer), held });
        });
        if !submitted {
            self.refuse_post(cx, id, &helpers_are_busy());
        }
    }

    /// A message in JSON has been read.
    pub(in crate::gateway) fn parsed(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        answer: Result<Option<Answer>, Refusal>,
        held: Held,
    ) {
        let Some(posted) = cx.posted(id) else {
            return;
        }; // the connection is gone
        if !matches!(posted.reading, Reading::Elsewhere) {
            return;
        }
        let answer = match answer {
            Ok(None) => return self.post_done(cx, id),
            Ok(Some(answer)) => answer,
            Err(refusal) => return self.refuse_post(cx, id, &refusal),
        };
        let registration = posted.admitted.registration.clone();
        let event = read_id(&answer.id)
            .filter(|event| self.events.is_for(event, &registration, &posted.admitted.owner));
        match event.and_then(|event| self.answered(cx, &event)) {
            None => log_dropped(&answer.id, registration.name()),
            Some(key) => {
                if let Some(posted) = cx.posted_mut(id) {
                    posted.head.knows = true;
                }
                let is_head = self.exchanges.get(key).is_some_and(|exchange| exchange.is_head());
                relay::deliver(self, cx, key, &answer.into_text(is_head), held);
            }
        }
        self.post_done(cx, id);
    }

    /// An exchange no longer needs the connection of its POST.
    pub(in crate::gateway) fn post_free(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        whole: Result<(), CloseReason>,
    ) {
        match whole {
            Ok(()) => self.post_done(cx, id),
            Err(why) => self.refuse_post(
                cx,
                id,
                &Refusal::new(400, format!("the answer was not taken to its end: {}", why.text)),
            ),
        }
    }

    /// The contents of a POST were handled; now it is a poll for the next event, or an offer.
    fn post_done(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(conn) = cx.get_mut(id) else { return };
        let State::Device(Device::PostedAnswer(posted)) = &mut conn.state else { return };
        posted.head.framing = Framing::Empty;
        if conn.kept() > 0 {
            let refusal = Refusal::new(
                400,
                "bytes came after the answer and before its reply; wait for the reply",
            );
            return self.refuse_post(cx, id, &refusal);
        }
        let Some(State::Device(Device::PostedAnswer(posted))) =
            cx.state_mut(id).map(|state| std::mem::replace(state, BETWEEN_POLLS))
        else {
            return;
        };
        let PostedAnswer { head, admitted, switch, .. } = *posted;
        self.begin_admitted(cx, id, head, admitted, switch);
    }

    pub(in crate::gateway) fn refuse_post(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        refusal: &Refusal,
    ) {
        let Some(posted) = cx.posted(id) else {
            return;
        };
        let (registration, fresh, origin) = (
            posted.admitted.registration.clone(),
            posted.admitted.fresh,
            posted.head.origin.clone(),
        );
        log_names!(Info, "{}: an answer was refused: {refusal}", registration.name());
        if refusal.status == 413 {
            self.answer_is_too_large(cx, id);
        }
        let left = self.registry.lease_ends(&registration, cx.now());
        let cause = match refusal.status {
            401 => CloseCause::Revoked,
            409 => CloseCause::Replaced,
            503 => CloseCause::Limit,
            _ => CloseCause::ProtocolError,
        };
        self.gone(&left, &CloseReason::new(cause, format!("its answer was refused: {refusal}")));
        if fresh && refusal.status != 503 {
            self.registry.forget_names(&registration); // the names were unknown before, and nothing valid has arrived
        }
        let retry_after = (refusal.status == 503).then_some(1);
        if retry_after.is_some() {
            self.stats.reached(Bound::Messages);
        }
        self.deny_credential(
            cx,
            id,
            origin.as_deref(),
            &LocalAnswer { retry_after, ..LocalAnswer::new(refusal.status, &refusal.reason) },
        );
    }

    /// If a field names the event of an answer that is too large, its caller gets an error at once.
    fn answer_is_too_large(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(posted) = cx.posted(id) else {
            return;
        };
        let event = posted.head.id.as_deref().and_then(read_id);
        let event = event.filter(|event| {
            self.events.is_for(event, &posted.admitted.registration, &posted.admitted.owner)
        });
        if let Some(key) = event.and_then(|event| self.answered(cx, &event)) {
            self.end_exchange(
                cx,
                key,
                CloseCause::Limit,
                "the device's answer is longer than message_bytes_max allows for one in JSON",
            );
        }
    }

    fn post_gone(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(posted) = cx.posted(id) else {
            return;
        };
        let registration = posted.admitted.registration.clone();
        cx.close(id);
        let left = self.registry.lease_ends(&registration, cx.now());
        self.gone(&left, &CloseCause::Cut.because("in the middle of an answer"));
    }

    pub(in crate::gateway) fn post_expired(&mut self, cx: &mut Connections<State>, id: Id) {
        let (now, silence) = (cx.now(), Waits::of(&self.settings.limits).body_silence);
        let Some(posted) = cx.posted_mut(id) else {
            return;
        };
        let why = match &mut posted.reading {
            &mut Reading::Exchange(key) => return relay::expired(self, cx, key), // its visitor has left, so the deadline of the exchange is on this connection
            Reading::Whole(message) => {
                message.overdue("the answer", now, silence, &self.settings.limits)
            }
            Reading::Elsewhere => return self.refuse_post(cx, id, &helpers_are_busy()),
            _ => Some(format!("nothing of the answer arrived for {silence}")),
        };
        match why {
            Some(why) => self.refuse_post(cx, id, &Refusal::new(408, why)),
            None => self.await_post(cx, id),
        }
    }
}
