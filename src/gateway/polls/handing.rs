//! Hands requests out to held polls, as events.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::engine::budget::Held;
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::error::Refusal;
use crate::gateway::bounds::Bound;
use crate::gateway::polls::deliveries::{Given, Handed, Outgoing, id_text};
use crate::gateway::polls::posted::JSON_INLINE_MAX;
use crate::gateway::polls::reply::{Parked, PollReply, with_line, write_event, write_reply};
use crate::gateway::registry::{Owner, Registration};
use crate::gateway::state::{Asking, Command, Device, GatewayRole, Hold, State, States};
use crate::proto::forward::{self, waiting_line};
use crate::proto::turn::Encoding;
use crate::relay::LocalAnswer;

/// A request as an event.
enum EventText {
    /// The request unchanged (`message/http`).
    Request,
    Json(Vec<u8>),
    /// Long JSON, which a helper writes from this.
    Later(Arc<Vec<u8>>),
}

/// An event for a helper: the whole request, an additional line, and its share of the budget.
struct LaterEvent {
    whole: Arc<Vec<u8>>,
    line: Vec<u8>,
    held: Held,
}

impl GatewayRole {
    /// Hands a complete request to a held poll of its device. Returns false if there is none, or if
    /// its caller no longer waits.
    pub(in crate::gateway) fn hand_out(&mut self, cx: &mut Connections<State>, key: Key) -> bool {
        loop {
            let Some(downstream) =
                self.exchanges.get(key).filter(|e| e.is_waiting()).and_then(|e| e.downstream())
            else {
                return false;
            };
            let Some(Asking { name, event, .. }) = cx.asking(downstream) else {
                return false;
            };
            let (name, event) = (name.clone(), *event);
            let given_to =
                event.and_then(|event| self.events.get(&event)).map(|handed| handed.owner.session);
            let poll = match given_to {
                Some(session) => self.registry.poll_again(&name, session),
                None => self.registry.next_poll(&name),
            };
            let Some(poll) = poll else {
                if let Some(session) = given_to {
                    self.registry.requeue(&name, key, session);
                }
                return false;
            };
            let Some(event) = event.or_else(|| self.events.draw_id()) else { return false };
            if self.is_held_still(cx, poll)
                && self.tell_event(cx, poll, &Outgoing { event, key, downstream, name: &name })
            {
                return true;
            }
        }
    }

    /// Checks that a held poll still exists: if an event is written to one that has ended, this is
    /// noticed only after `redeliver_after`.
    fn is_held_still(&mut self, cx: &mut Connections<State>, poll: Id) -> bool {
        if let Some(conn) = cx.get_mut(poll) {
            conn.look_again();
        }
        self.early_bytes(cx, poll);
        matches!(cx.device(poll), Some(Device::Held { .. }))
    }

    /// Writes an event to a held poll. Returns false if the poll has ended, or cannot carry it, or
    /// there is no room for the event.
    fn tell_event(
        &mut self,
        cx: &mut Connections<State>,
        poll: Id,
        outgoing: &Outgoing<'_>,
    ) -> bool {
        let Some(Device::Held { registration, hold: Hold::Poll(parked) }) = cx.device(poll) else {
            return false;
        };
        let (registration, accepts) = (registration.clone(), parked.head.accepts);
        let line = waiting_line(self.registry.demand(&registration, 1));
        let mut held = self.messages_of(outgoing.name);
        let written = match self.event_text(outgoing, accepts, &line, &mut held) {
            None => return false,
            Some(Ok(EventText::Later(whole))) => {
                return self.tell_later(cx, poll, outgoing, LaterEvent { whole, line, held });
            }
            Some(Err(refusal)) if matches!(refusal.status, 413 | 503) => {
                self.no_room_for_event(cx, outgoing, &refusal);
                return false;
            }
            Some(written) => written,
        };
        let Some(parked) = self.take_poll(cx, poll) else { return false };
        let Parked { head, owner } = *parked;
        let text = match written {
            Ok(text) => text,
            Err(refusal) => {
                let name = outgoing.name;
                log_names!(Warn, "{name}: a request cannot be written as an event: {refusal}");
                let answer = LocalAnswer::new(406, &refusal.reason);
                self.deny(cx, poll, head.origin.as_deref(), &answer);
                return false;
            }
        };
        self.note_handed(cx, outgoing, owner, registration);
        let (date, id) = (cx.date().to_owned(), id_text(&outgoing.event));
        let exchange = self.exchanges.get(outgoing.key);
        let (Some(conn), Some(exchange)) = (cx.get_mut(poll), exchange) else { return false };
        let before = conn.written();
        let sent = match &text {
            EventText::Json(json) => {
                write_reply(conn.output(), &head, Some((json.len(), &id)), &date);
                conn.send(json)
            }
            EventText::Request | EventText::Later(_) => {
                let request = exchange.request();
                let (first, rest) = request.split_at(forward::behind_first_line(request));
                let length = request.len() + line.len();
                write_reply(conn.output(), &head, Some((length, &id)), &date);
                conn.output().extend_from_slice(&[first, &line].concat());
                conn.send(rest)
            }
        };
        let sent = sent.and_then(|()| conn.flush());
        conn.state = State::Device(Device::PollReply(PollReply::with_event(
            outgoing.event,
            head.keep,
            before,
            held,
        )));
        self.told(cx, poll, sent);
        true
    }

    /// The request as an event in this encoding. `None` if the exchange has ended.
    fn event_text(
        &self,
        outgoing: &Outgoing<'_>,
        accepts: Encoding,
        line: &[u8],
        held: &mut Held,
    ) -> Option<Result<EventText, Refusal>> {
        let exchange = self.exchanges.get(outgoing.key)?;
        if accepts == Encoding::Message {
            return Some(Ok(EventText::Request));
        }
        let collected = exchange.collected();
        if let Some(whole) = collected.as_ref().filter(|whole| whole.len() > JSON_INLINE_MAX) {
            return Some(Ok(EventText::Later(whole.clone())));
        }
        // A head alone is bounded, and counted in the connection's buffer.
        let held = collected.is_some().then_some(held);
        let (mut json, id) = (Vec::new(), id_text(&outgoing.event));
        let request = with_line(exchange.request(), line);
        let written = write_event(&mut json, &id, &request, held, &self.own_limits);
        Some(written.map(|()| EventText::Json(json)))
    }

    /// Lets a helper write a long event in JSON. The poll waits for it, and the request counts as
    /// handed out.
    fn tell_later(
        &mut self,
        cx: &mut Connections<State>,
        poll: Id,
        outgoing: &Outgoing<'_>,
        later: LaterEvent,
    ) -> bool {
        let (remote, limits, event) =
            (self.remote.clone(), self.own_limits.clone(), outgoing.event);
        let submitted = self.json_workers.submit(move || {
            let LaterEvent { whole, line, mut held } = later;
            let (mut json, id) = (Vec::new(), id_text(&event));
            let request = with_line(&whole, &line);
            let written = write_event(&mut json, &id, &request, Some(&mut held), &limits);
            drop(request);
            drop(whole);
            remote.send(Command::Encoded { poll, event, json: written.map(|()| (json, held)) });
        });
        if !submitted {
            let why = "too many long messages are being written as JSON; try again later";
            self.no_room_for_event(cx, outgoing, &Refusal::new(503, why));
            return false;
        }
        let Some(registration) = cx.registration(poll) else { return false };
        let Some(parked) = self.take_poll(cx, poll) else { return false };
        let Parked { head, owner } = *parked;
        self.note_handed(cx, outgoing, owner, registration);
        if let Some(conn) = cx.get_mut(poll) {
            conn.state =
                State::Device(Device::PollReply(PollReply::later(event, head, conn.written())));
        }
        let at = cx.after(self.settings.limits.body_silence_timeout);
        cx.set_deadline(poll, Some(at));
        true
    }

    /// There is not enough memory to write a request as an event, now (503) or ever (413).
    pub(super) fn no_room_for_event(
        &mut self,
        cx: &mut Connections<State>,
        outgoing: &Outgoing<'_>,
        refusal: &Refusal,
    ) {
        let retry_after = (refusal.status == 503).then_some(1);
        if retry_after.is_some() {
            self.stats.reached(Bound::Messages);
        }
        self.give_up(
            cx,
            outgoing.downstream,
            outgoing.key,
            &LocalAnswer { retry_after, ..LocalAnswer::new(refusal.status, &refusal.reason) },
        );
    }

    /// An event was handed to a poll.
    fn note_handed(
        &mut self,
        cx: &mut Connections<State>,
        outgoing: &Outgoing<'_>,
        owner: Owner,
        registration: Arc<Registration>,
    ) {
        let Outgoing { event, key, downstream, name } = *outgoing;
        let until = cx.after(self.waits(key).first_byte.time);
        self.exchanges
            .get_mut(key)
            .into_iter()
            .for_each(|exchange| exchange.observed.attached(None));
        let handed = Handed {
            key,
            downstream,
            name: name.into(),
            owner,
            registration,
            until,
            told: false,
            repeated: false,
            present: true,
        };
        match self.events.hand(event, handed) {
            Given::First => {
                self.stats.events.fetch_add(1, Relaxed);
                self.registry.event_begins(name, until);
            }
            Given::Back => self.registry.event_is_back(name),
            Given::Again => {}
        }
        if let Some(Asking { event: place, .. }) = cx.asking_mut(downstream) {
            *place = Some(event);
        }
        let until = self.events.get(&event).map(|handed| handed.until); // of the first delivery
        cx.set_deadline(downstream, until);
    }
}
