//! The COMET fallback at the gateway (protocol.md §2): polls are held, requests handed out as
//! events, answers given to who asked.
//!
//! ```text
//!   visitor ─► exchange ─► collected ─┬─► a held poll: Telling ─► handed out ─► answered by a POST ─► visitor
//!                                     └─► in line, until a poll (or a link) comes      │
//!                                         ▲── written half-way, or 10 s of silence ◄───┘ the same id
//! ```
//! An event is the exchange's own request as it would go over a link; its answer is read by the
//! code that reads a link. A held poll is a parked connection: no thread, no buffer.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::budget::Held;
use crate::engine::connections::{Connections, Fetched, Id};
use crate::engine::random;
use crate::engine::slab::Key;
use crate::error::Refusal;
use crate::gateway::alarms::Alarm;
use crate::gateway::credentials::REVOKED;
use crate::gateway::offers::{Admitted, REPLACED, STOPPING};
use crate::gateway::registry::{Gap, Holder, Registration, Waiter};
use crate::gateway::state::{Asking, Command, Device, GatewayRole, Hold, State, States};
use crate::limits::Limits;
use crate::proto::body::{Decoder, Framing, Piece};
use crate::proto::comet::{self, Answer};
use crate::proto::forward::{self, waiting_line};
use crate::proto::framed::FramedRequest;
use crate::proto::head::{self, reason_phrase, write_field, write_status_line};
use crate::proto::turn::{self, Encoding, MESSAGE_ID, Transport, hex};
use crate::relay::{self, Collected, Exchange, Gathering, LocalAnswer, Waits};

/// Names an event: 16 random bytes, in hex on the wire.
pub(crate) type MessageId = [u8; 16];

/// Messages in JSON longer than this are read and written on a helper's thread: the loop has others
/// to serve.
const JSON_INLINE_MAX: usize = 128 * 1024;

/// What the head of a device's request said: an offer or a poll.
pub(crate) struct DeviceHead {
    /// It is to be turned.
    pub(super) turns: bool,
    framing: Framing,
    /// What an event goes out in.
    accepts: Encoding,
    /// What its own body is in.
    content: Option<Encoding>,
    /// The event that it answers, where a field says so.
    id: Option<String>,
    /// It brought the answer to an event of its mailbox: it knows where it stands.
    knows: bool,
    minor: u8,
    keep: bool,
    /// The page it comes from.
    origin: Option<String>,
    /// Where it was sent, for a redirect.
    target: Box<str>,
}

impl DeviceHead {
    pub(super) fn read(
        request: &FramedRequest<'_>,
        turns: bool,
        origin: Option<String>,
    ) -> Result<Self, Refusal> {
        let framing = request.framing();
        let id = comet::id_of(&request.fields)?.map(str::to_owned);
        if request.fields.all("Content-Type").count() > 1 {
            return Err(Refusal::new(400, "there is more than one Content-Type"));
        }
        // protocol.md §1.3: whatever is wrong with the body of an offer, it is 400.
        let wrong_type = || {
            let status = if turns { 400 } else { 415 };
            Refusal::new(
                status,
                "an answer is application/json or message/http; its Content-Type says something else",
            )
        };
        if framing != Framing::Empty && head::coding(&request.fields).is_some() {
            let status = if turns { 400 } else { 415 };
            return Err(Refusal::new(
                status,
                "an answer has no Content-Encoding; this one is compressed",
            ));
        }
        let content = match request.fields.get("Content-Type").filter(|_| framing != Framing::Empty)
        {
            None => None,
            Some(content_type) => Some(Encoding::of_type(content_type).ok_or_else(wrong_type)?),
        };
        if content == Some(Encoding::Message) && id.is_none() {
            return Err(Refusal::new(
                400,
                "an answer in message/http names its event in PTTH-Message-ID; this one does not",
            ));
        }
        if framing == Framing::Empty && id.is_some() {
            return Err(Refusal::new(400, "there is a PTTH-Message-ID, but no answer in the body"));
        }
        let accepts = Encoding::accepted(&request.fields);
        if accepts == Encoding::Json && !cfg!(feature = "comet") && !turns {
            return Err(Refusal::new(
                406,
                "this gateway has no JSON (feature comet); send Accept: message/http",
            ));
        }
        let keep = head::keeps_alive(request.minor, &request.fields);
        Ok(DeviceHead {
            turns,
            framing,
            accepts,
            content,
            id,
            knows: false,
            minor: request.minor,
            keep,
            origin,
            target: request.target.into(),
        })
    }

    pub(super) fn transport(&self) -> Transport {
        if self.turns { Transport::Turn } else { Transport::Comet(self.accepts) }
    }

    pub(super) fn has_body(&self) -> bool {
        self.framing != Framing::Empty
    }
}

/// A request on the devices' port whose sender is known and registered, while the answer that it
/// brings is read.
pub(crate) struct PostedAnswer {
    knock: DeviceHead,
    registration: Arc<Registration>,
    owner: Holder,
    /// It brought its name in.
    fresh: bool,
    /// The bytes that turn the connection.
    switch: Option<Vec<u8>>,
    decoder: Decoder,
    reading: Reading,
}

enum Reading {
    /// JSON, or nothing that has a type: whole.
    Whole(Gathering),
    /// The response's head.
    Head(Vec<u8>),
    /// A helper reads the JSON.
    Elsewhere,
    /// The exchange that it answers has the connection.
    Exchange(Key),
    /// Nobody wants it; so many bytes were dropped.
    Dropped(usize),
}

impl PostedAnswer {
    /// Whose POST it is.
    pub(super) fn registration(&self) -> &Registration {
        &self.registration
    }

    /// The exchange that its answer streams to.
    pub(super) fn exchange(&self) -> Option<Key> {
        match self.reading {
            Reading::Exchange(key) => Some(key),
            _ => None,
        }
    }

    pub(super) fn new(
        knock: DeviceHead,
        admitted: Admitted,
        switch: Option<Vec<u8>>,
        limits: &Limits,
    ) -> Box<Self> {
        let Admitted { registration, owner, fresh } = admitted;
        let decoder = Decoder::new(knock.framing, limits);
        Box::new(PostedAnswer {
            knock,
            registration,
            owner,
            fresh,
            switch,
            decoder,
            reading: Reading::Dropped(0),
        })
    }
}

/// A poll that is held.
pub(crate) struct Parked {
    knock: DeviceHead,
    owner: Holder,
}

/// The reply to a poll while it is being written.
pub(crate) struct PollReply {
    /// The event in it.
    event: Option<MessageId>,
    keep: bool,
    /// What the connection had written before.
    written: u64,
    /// A helper writes the event's JSON; nothing of the reply is written before.
    later: Option<Box<DeviceHead>>,
    /// What a long event takes of the budget.
    _held: Option<Held>,
}

impl PollReply {
    /// Returns true while a helper writes the event that it brings.
    fn is_unwritten(&self) -> bool {
        self.later.is_some()
    }

    fn state(event: Option<MessageId>, keep: bool, written: u64) -> State {
        State::Device(Device::PollReply(Box::new(PollReply {
            event,
            keep,
            written,
            later: None,
            _held: None,
        })))
    }
}

/// Writes the event that a request is. One with a body takes its room in the budget before, as long
/// as it will be.
fn write_event(
    out: &mut Vec<u8>,
    id: &str,
    text: &[u8],
    held: Option<&mut Held>,
    limits: &Limits,
) -> Result<(), Refusal> {
    if let Some(held) = held {
        held.take(comet::event_json_length(id, text, limits)?, text.len())?;
    }
    comet::event_to_json(out, id, text, limits)
}

/// A request with a line of ours behind its first one.
fn with_line<'t>(text: &'t [u8], line: &[u8]) -> Cow<'t, [u8]> {
    if line.is_empty() {
        return text.into();
    }
    let (first, rest) = text.split_at(forward::behind_first_line(text));
    [first, line, rest].concat().into()
}

/// An event that a device has, or is being given.
pub(super) struct Handed {
    key: Key,
    downstream: Id,
    name: Box<str>,
    /// Whom it was given to last.
    owner: Holder,
    registration: Arc<Registration>,
    /// When it has to be answered.
    until: Instant,
    /// It was written whole at least once: the device may be at work.
    told: bool,
    /// It was handed out once more after a silence.
    repeated: bool,
    /// Whoever has it counts as connected.
    present: bool,
}

/// What the gateway knows of events on their way.
#[derive(Default)]
pub(super) struct Events {
    handed: HashMap<MessageId, Handed>,
    /// When each was written whole, oldest first; those that were answered are skipped.
    unanswered: VecDeque<(Instant, MessageId)>,
    alarm: bool,
    random: Vec<u8>,
}

impl Events {
    pub(super) fn are_in_hand(&self) -> bool {
        !self.handed.is_empty()
    }

    #[cfg(test)]
    pub(super) fn in_hand(&self) -> usize {
        self.handed.len()
    }

    /// Whether this event was given to whoever is registered like this (protocol.md §2.1,
    /// *identity*).
    fn is_for(&self, event: &MessageId, registration: &Registration, owner: &Holder) -> bool {
        let mine = |handed: &Handed| {
            handed.owner == *owner && registration.names().any(|name| **name == *handed.name)
        };
        self.handed.get(event).is_some_and(mine)
    }

    fn draw_id(&mut self) -> Option<MessageId> {
        if self.random.is_empty() {
            let mut bytes = vec![0; 1024];
            if let Err(e) = random::fill(&mut bytes) {
                log::error!("no message id can be drawn: {e}");
                return None;
            }
            self.random = bytes;
        }
        let id = *self.random.last_chunk::<16>()?;
        self.random.truncate(self.random.len() - 16);
        Some(id)
    }
}

/// An id of ours as it stands on the wire.
fn read_id(text: &str) -> Option<MessageId> {
    let mut id = [0; 16];
    if text.len() != 32 {
        return None;
    }
    for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        for digit in digits {
            let digit = char::from(*digit).to_digit(16).filter(|_| !digit.is_ascii_uppercase())?;
            *byte = *byte << 4 | digit as u8; // below 16
        }
    }
    Some(id)
}

/// What a POST has brought so far.
enum Came {
    NotYet,
    More,
    Closed,
    Refused(Refusal),
    Whole(Vec<u8>, Held),
    /// The head of a response to this event, and what came behind it.
    Response {
        event: MessageId,
        key: Key,
        first: Vec<u8>,
    },
    /// All of what nobody wants.
    Dropped,
}

impl Reading {
    fn take(&mut self, data: &[u8], limits: &Limits) -> Result<(), Refusal> {
        match self {
            Reading::Whole(message) if message.len() + data.len() > limits.message_bytes_max => {
                return Err(too_long());
            }
            Reading::Whole(message) => return message.take(data),
            Reading::Head(bytes) => bytes.extend_from_slice(data),
            Reading::Dropped(dropped) if *dropped + data.len() > limits.message_bytes_max => {
                return Err(too_long());
            }
            Reading::Dropped(dropped) => *dropped += data.len(),
            Reading::Elsewhere | Reading::Exchange(_) => {}
        }
        Ok(())
    }
}

fn disagrees() -> Refusal {
    Refusal::new(400, "the response in the answer is shorter or longer than the answer's body")
}

fn too_long() -> Refusal {
    Refusal::new(
        413,
        "the answer is longer than message_bytes_max allows; in message/http it could stream",
    )
}

fn log_dropped(id: &str, name: &str) {
    log_names!(
        Info,
        "{name}: an answer was dropped: no event of this device with the id {id} waits for one"
    );
}

/// A device's connection between two requests.
fn idle() -> State {
    State::Device(Device::Head { began: false, polled: true, told: None })
}

/// Fields that let a listed page read what it is told (Fetch standard, *CORS protocol*).
fn cors_fields(origin: Option<&str>) -> Vec<(&'static str, &str)> {
    match origin {
        None => Vec::new(),
        Some(origin) => vec![
            ("Access-Control-Allow-Origin", origin),
            ("Vary", "Origin"),
            ("Access-Control-Expose-Headers", "PTTH-Message-ID, Retry-After"),
        ],
    }
}

/// Appends the head of a reply to a poll: an event (length of its message, and its id), or nothing.
fn write_reply(out: &mut Vec<u8>, knock: &DeviceHead, event: Option<(usize, &str)>, date: &str) {
    let streams = knock.accepts == Encoding::Message;
    let status = if event.is_none() && streams { 204 } else { 200 };
    let length = match event {
        Some((length, _)) => Some(length),
        None if streams => None,
        None => Some(2),
    };
    let length = length.map(|length| length.to_string());
    let id = event.filter(|_| streams).map(|(_, id)| id);
    let connection = match (knock.minor, knock.keep) {
        (_, false) => Some("close"),
        (0, true) => Some("keep-alive"),
        _ => None,
    };
    let mut fields = vec![
        ("Date", date),
        ("Content-Type", knock.accepts.media_type()),
        ("Cache-Control", "no-store, no-transform"), // a middlebox that compresses would have devices decompress
        turn::MARK,
    ];
    fields.extend(id.map(|id| (MESSAGE_ID, id)));
    fields.extend(length.as_deref().map(|length| ("Content-Length", length)));
    fields.extend(cors_fields(knock.origin.as_deref()));
    fields.extend(connection.map(|connection| ("Connection", connection)));
    write_head(out, status, &fields);
    if event.is_none() && !streams {
        out.extend_from_slice(b"{}");
    }
}

fn write_head(out: &mut Vec<u8>, status: u16, fields: &[(&str, &str)]) {
    let written = write_status_line(out, status, reason_phrase(status).as_bytes()).and_then(|()| {
        fields.iter().try_for_each(|(name, value)| write_field(out, name, value.as_bytes()))
    });
    if let Err(refusal) = written {
        log::error!("a line of a reply was left out: {refusal}"); // ours all, and the operator's origins were checked
    }
    out.extend_from_slice(b"\r\n");
}

fn id_text(id: &MessageId) -> String {
    String::from_utf8_lossy(&hex(id)).into_owned()
}

impl GatewayRole {
    // --- answers that come in ---

    /// Begins to read what a POST brings.
    pub(super) fn begin_posting(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        mut posted: Box<PostedAnswer>,
        expects_continue: bool,
    ) {
        let (now, held) = (cx.now(), self.messages_of(posted.registration.name()));
        let Some(peer) = cx.get_mut(id) else { return };
        let announced = posted.decoder.remaining().unwrap_or(0);
        if posted.knock.content != Some(Encoding::Message)
            && announced > self.settings.limits.message_bytes_max as u64
        {
            peer.state = State::Device(Device::PostedAnswer(posted));
            return self.refuse_post(cx, id, &too_long());
        }
        if expects_continue && peer.kept() == 0 {
            peer.output().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        posted.reading = match posted.knock.content {
            Some(Encoding::Message) => Reading::Head(Vec::new()),
            _ => Reading::Whole(Gathering::new(held, posted.decoder.remaining(), now)),
        };
        peer.state = State::Device(Device::PostedAnswer(posted));
        self.await_post(cx, id);
        self.post_ready(cx, id);
    }

    /// When the next bytes of a POST have to be there.
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

    /// Reads on. What came decides: a whole message, the head of a response, or what is dropped.
    pub(super) fn post_ready(&mut self, cx: &mut Connections<State>, id: Id) {
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
                    cx.again(id);
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
        let Some(peer) = cx.get_mut(id) else { return Came::NotYet };
        if peer.flush().is_err() {
            return Came::Closed;
        }
        if matches!(&peer.state, State::Device(Device::PostedAnswer(posted)) if matches!(posted.reading, Reading::Elsewhere))
        {
            return if peer.is_broken() { Came::Closed } else { Came::NotYet };
        }
        let filled = match peer.fetch(scratch, scratch.len()) {
            Ok(Fetched::Bytes(n)) => n,
            Ok(Fetched::Nothing) => return Came::NotYet,
            Ok(Fetched::End) | Err(_) => return Came::Closed,
        };
        let State::Device(Device::PostedAnswer(posted)) = &mut peer.state else {
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
            cx.get_mut(id).into_iter().for_each(|peer| peer.keep(&rest));
        }
        came
    }

    /// What has come so far, and whether that decides.
    fn judge_post(&mut self, cx: &mut Connections<State>, id: Id, ended: bool) -> Came {
        let Some(posted) = cx.posted_mut(id) else {
            return Came::NotYet;
        };
        let (bytes, text) = match (&mut posted.reading, posted.knock.id.as_deref()) {
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
        let known = read_id(text)
            .filter(|event| self.events.is_for(event, &posted.registration, &posted.owner));
        let live = known.and_then(|event| Some((event, self.events.handed.get(&event)?.key)));
        let found = live.and_then(|(event, key)| {
            Some((event, key, self.exchanges.get(key).filter(|e| e.is_waiting())?.is_head()))
        });
        let Some((event, key, is_head)) = found else {
            log_dropped(text, posted.registration.name());
            posted.reading = Reading::Dropped(bytes.len());
            return if ended { Came::Dropped } else { Came::More };
        };
        match comet::answer_start(bytes, is_head, &self.settings.link_limits) {
            Ok(Some(start)) => {
                // What is told by then has to agree, so that nothing of a message that does not is
                // passed on.
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

    /// An answer in `message/http` begins: it streams to whoever asked.
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
        (posted.reading, posted.knock.knows) = (Reading::Exchange(key), true);
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
        if posted.knock.content.is_none() && !matches!(bytes.trim_ascii(), b"" | b"{}" | b"null") {
            let refusal = Refusal::new(
                400,
                "an answer has the Content-Type application/json or message/http; this body has none",
            );
            return self.refuse_post(cx, id, &refusal);
        }
        let field = posted.knock.id.clone();
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
            self.refuse_post(
                cx,
                id,
                &Refusal::new(503, "too many long answers are being read; post it again"),
            );
        }
    }

    /// A message in JSON has been read.
    pub(super) fn parsed(
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
        let registration = posted.registration.clone();
        let event = read_id(&answer.id)
            .filter(|event| self.events.is_for(event, &registration, &posted.owner));
        match event.and_then(|event| self.answered(cx, &event)) {
            None => log_dropped(&answer.id, registration.name()),
            Some(key) => {
                if let Some(posted) = cx.posted_mut(id) {
                    posted.knock.knows = true;
                }
                let is_head = self.exchanges.get(key).is_some_and(Exchange::is_head);
                relay::deliver(self, cx, key, &answer.into_text(is_head), held);
            }
        }
        self.post_done(cx, id);
    }

    /// An event's answer is here: nothing of the event is left. The exchange that asked, where it
    /// still waits.
    fn answered(&mut self, cx: &mut Connections<State>, event: &MessageId) -> Option<Key> {
        let Handed { key, downstream, name, registration, present, .. } =
            self.events.handed.remove(event)?;
        while self
            .events
            .unanswered
            .front()
            .is_some_and(|(_, id)| !self.events.handed.contains_key(id))
        {
            self.events.unanswered.pop_front();
        }
        self.registry.cancel_wait(&name, Waiter::Exchange(key));
        if let Some(Asking { event, .. }) = cx.asking_mut(downstream) {
            *event = None;
        }
        if self.registry.event_ends(&name, present) {
            self.feed(cx, &registration);
        }
        self.close_idle_devices(cx);
        self.exchanges.get(key).filter(|e| e.is_waiting()).map(|_| key)
    }

    /// The exchange that had the connection of a POST is done with it.
    pub(super) fn post_free(
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

    /// What a POST brought is dealt with; now it asks for the next event, or is turned.
    fn post_done(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(peer) = cx.get_mut(id) else { return };
        let State::Device(Device::PostedAnswer(posted)) = &mut peer.state else { return };
        posted.knock.framing = Framing::Empty;
        if peer.kept() > 0 {
            let refusal = Refusal::new(
                400,
                "bytes came after the answer and before its reply; wait for the reply",
            );
            return self.refuse_post(cx, id, &refusal);
        }
        let Some(State::Device(Device::PostedAnswer(posted))) =
            cx.state_mut(id).map(|state| std::mem::replace(state, idle()))
        else {
            return;
        };
        self.settle(cx, id, posted);
    }

    /// Turns a connection, or takes it for a poll.
    pub(super) fn settle(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        posted: Box<PostedAnswer>,
    ) {
        let PostedAnswer { knock, registration, owner, switch, .. } = *posted;
        match switch {
            _ if self.credentials.is_revoked(&registration) => {
                let left = self.registry.lend_ends(&registration, cx.now());
                self.gone(&left, &CloseCause::Revoked.because(REVOKED));
                self.deny_credential(
                    cx,
                    id,
                    knock.origin.as_deref(),
                    &LocalAnswer::new(401, REVOKED),
                );
            }
            _ if self.lifecycle.is_draining() => {
                let left = self.registry.lend_ends(&registration, cx.now());
                self.gone(&left, &CloseCause::Drained.because("this gateway stops"));
                let origin = knock.origin.as_deref();
                self.deny(
                    cx,
                    id,
                    origin,
                    &LocalAnswer { retry_after: Some(5), ..LocalAnswer::new(503, STOPPING) },
                );
            }
            Some(switch) => self.turn(cx, id, switch, registration),
            // Its session was replaced while its answer was read.
            None if !self.registry.in_force(&registration) => {
                let origin = knock.origin.as_deref();
                self.deny(
                    cx,
                    id,
                    origin,
                    &LocalAnswer { retry_after: Some(60), ..LocalAnswer::new(409, REPLACED) },
                );
            }
            None => self.park(cx, id, registration, owner, knock),
        }
    }

    fn refuse_post(&mut self, cx: &mut Connections<State>, id: Id, refusal: &Refusal) {
        let Some(posted) = cx.posted(id) else {
            return;
        };
        let (registration, fresh, origin) =
            (posted.registration.clone(), posted.fresh, posted.knock.origin.clone());
        log_names!(Info, "{}: an answer was refused: {refusal}", registration.name());
        if refusal.status == 413 {
            self.answer_is_too_large(cx, id);
        }
        let left = self.registry.lend_ends(&registration, cx.now());
        self.gone(
            &left,
            &CloseReason::new(
                CloseCause::ProtocolError,
                format!("its answer was refused: {refusal}"),
            ),
        );
        if fresh && refusal.status != 503 {
            self.registry.forget_names(&registration); // nobody knew them before, and nothing right has come
        }
        let retry_after = (refusal.status == 503).then_some(1);
        self.deny(
            cx,
            id,
            origin.as_deref(),
            &LocalAnswer { retry_after, ..LocalAnswer::new(refusal.status, &refusal.reason) },
        );
    }

    /// Where a field names the event of an answer that is too large to be read, who asked need not
    /// wait.
    fn answer_is_too_large(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(posted) = cx.posted(id) else {
            return;
        };
        let event = posted.knock.id.as_deref().and_then(read_id);
        let event =
            event.filter(|event| self.events.is_for(event, &posted.registration, &posted.owner));
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
        let registration = posted.registration.clone();
        cx.close(id);
        let left = self.registry.lend_ends(&registration, cx.now());
        self.gone(&left, &CloseCause::Cut.because("in the middle of an answer"));
    }

    pub(super) fn post_expired(&mut self, cx: &mut Connections<State>, id: Id) {
        let (now, silence) = (cx.now(), Waits::of(&self.settings.limits).body_silence);
        let Some(posted) = cx.posted_mut(id) else {
            return;
        };
        let why = match &mut posted.reading {
            &mut Reading::Exchange(key) => return relay::expired(self, cx, key), // its visitor has gone, so the exchange keeps its time here
            Reading::Whole(message) => {
                message.overdue("the answer", now, silence, &self.settings.limits)
            }
            _ => Some(format!("nothing of the answer arrived for {silence}")),
        };
        match why {
            Some(why) => self.refuse_post(cx, id, &Refusal::new(408, why)),
            None => self.await_post(cx, id),
        }
    }

    // --- polls ---

    /// A poll takes what waits, or is held.
    fn park(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        registration: Arc<Registration>,
        owner: Holder,
        knock: DeviceHead,
    ) {
        let (encoding, session, knows, now) = (knock.accepts, owner.session, knock.knows, cx.now());
        let Some(peer) = cx.get_mut(id) else { return };
        peer.settle();
        peer.state = State::Device(Device::Held {
            registration: registration.clone(),
            hold: Hold::Poll(Box::new(Parked { knock, owner })),
        });
        self.observer.seen(registration.name());
        let first = self.registry.park(&registration, id, encoding, session, now);
        self.stats.polls.fetch_add(1, Relaxed);
        let at = cx.after(self.settings.limits.poll_hold);
        cx.set_deadline(id, Some(at));
        if !self.feed(cx, &registration) && first && !knows {
            self.poll_expired(cx, id);
        }
        // What came while the answer was parsed, its end above all, was not looked at, and no event
        // tells of it again.
        if cx.get(id).is_some_and(|p| p.has_input()) {
            cx.again(id);
        }
    }

    /// Gives held polls to whoever waits longest. True: somebody took one.
    fn feed(&mut self, cx: &mut Connections<State>, registration: &Arc<Registration>) -> bool {
        if let Some(key) = self.registry.next_again(registration) {
            if self.hand_out(cx, key) {
                return true;
            }
        }
        // Whoever cannot be served yet (a body is to be collected first) makes room for the next
        // one.
        for _ in 0..self.settings.limits.waiting_per_device_max {
            let waiter = self
                .registry
                .holds_poll(registration)
                .then(|| self.registry.next_waiter(registration, true))
                .flatten();
            match waiter {
                None => return false,
                Some(Waiter::Caller(number)) => self.lend_mailbox(cx, number),
                Some(Waiter::Exchange(key)) => {
                    let downstream = self
                        .exchanges
                        .get(key)
                        .filter(|e| e.is_waiting())
                        .and_then(|e| e.downstream());
                    if downstream.is_some_and(|downstream| self.by_mailbox(cx, downstream, key)) {
                        return true;
                    }
                }
            }
        }
        false
    }

    /// A request for a device that polls. True: a poll took it. Else it is being collected, lined
    /// up, or refused.
    pub(super) fn by_mailbox(
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
        if !exchange.is_whole() {
            if !exchange.is_collecting() {
                let gathering = Gathering::new(held, exchange.announced(), cx.now());
                let begun = cx.get_mut(downstream).map_or(Ok(()), |peer| {
                    exchange.begin_collecting(peer, gathering, &self.settings.limits)
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
            cx.again(downstream);
            return false;
        }
        if self.hand_out(cx, key) {
            return true;
        }
        self.wait_in_line(cx, downstream, key);
        false
    }

    /// Reads on of a request that is collected; when it is whole it looks for its device anew.
    pub(super) fn collect(&mut self, cx: &mut Connections<State>, id: Id, key: Key) {
        let (limits, now) = (self.settings.limits.clone(), cx.now());
        let mut scratch = cx.take_scratch();
        let collected = match (self.exchanges.get_mut(key), cx.get_mut(id)) {
            (Some(exchange), Some(peer)) => exchange.collect(peer, &mut scratch, now, &limits),
            _ => Collected::NotYet,
        };
        cx.put_scratch(scratch);
        let answer = match collected {
            Collected::NotYet => {
                self.await_body(cx, id, key);
                if cx.get(id).is_some_and(|p| p.has_input()) {
                    cx.again(id);
                }
                return;
            }
            Collected::Whole => return self.find_link(cx, id, key),
            Collected::Gone => {
                if let Some(mut exchange) = self.exchanges.remove(key) {
                    exchange.observed.failed(CloseCause::AskerGone.as_str(), 0);
                }
                return cx.close(id);
            }
            Collected::Refused(refusal) => refusal,
        };
        let retry_after = (answer.status == 503).then_some(1);
        self.give_up(
            cx,
            id,
            key,
            &LocalAnswer { retry_after, ..LocalAnswer::new(answer.status, &answer.reason) },
        );
    }

    /// When the next bytes of a body that is collected have to be there.
    fn await_body(&mut self, cx: &mut Connections<State>, id: Id, key: Key) {
        let (now, silence) = (cx.now(), self.waits(key).body_silence.time);
        let Some(body) = self.exchanges.get_mut(key).and_then(Exchange::gathering) else { return };
        let at = cx.after(body.left(now, silence, &self.settings.limits));
        cx.set_deadline(id, Some(at));
    }

    pub(super) fn collect_expired(&mut self, cx: &mut Connections<State>, id: Id, key: Key) {
        let (now, silence) = (cx.now(), self.waits(key).body_silence);
        let body = self.exchanges.get_mut(key).and_then(Exchange::gathering);
        match body.and_then(|body| {
            body.overdue("the request's body", now, silence, &self.settings.limits)
        }) {
            Some(why) => self.give_up(cx, id, key, &LocalAnswer::new(408, &why)),
            None => self.await_body(cx, id, key),
        }
    }

    /// Hands a whole request to a held poll of its device. False: there is none, or nobody asks any
    /// more.
    fn hand_out(&mut self, cx: &mut Connections<State>, key: Key) -> bool {
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
            let given_to = event
                .and_then(|event| self.events.handed.get(&event))
                .map(|handed| handed.owner.session);
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
                && self.tell_event(cx, poll, event, key, downstream, &name)
            {
                return true;
            }
        }
    }

    /// Looks once more whether a held poll is there: an event that is written to one that has gone
    /// is missed only after `redeliver_after`.
    fn is_held_still(&mut self, cx: &mut Connections<State>, poll: Id) -> bool {
        if let Some(peer) = cx.get_mut(poll) {
            peer.look_again();
        }
        self.early_bytes(cx, poll);
        matches!(cx.device(poll), Some(Device::Held { .. }))
    }

    /// Writes an event to a held poll. False: the poll is gone, or cannot carry it, or there is no
    /// room for the event.
    fn tell_event(
        &mut self,
        cx: &mut Connections<State>,
        poll: Id,
        event: MessageId,
        key: Key,
        downstream: Id,
        name: &str,
    ) -> bool {
        let Some(Device::Held { registration, hold: Hold::Poll(parked) }) = cx.device(poll) else {
            return false;
        };
        let (registration, accepts) = (registration.clone(), parked.knock.accepts);
        let mut held = self.messages_of(name);
        let Some(exchange) = self.exchanges.get(key) else { return false };
        let (collected, text) = (exchange.collected(), id_text(&event));
        let line = waiting_line(self.registry.demand(&registration, 1));
        let (mut json, mut written) = (Vec::new(), Ok(()));
        match (accepts, &collected) {
            (Encoding::Message, _) => {}
            (Encoding::Json, Some(whole)) if whole.len() > JSON_INLINE_MAX => {
                return self.tell_later(
                    cx,
                    poll,
                    (event, key, downstream, name),
                    whole.clone(),
                    held,
                    line,
                );
            }
            (Encoding::Json, whole) => {
                let held = whole.as_ref().map(|_| &mut held); // a head alone is bounded, and counted in the buffer that it is written to
                let request = with_line(exchange.request(), &line);
                written = write_event(&mut json, &text, &request, held, &self.own_limits);
            }
        }
        if let Err(refusal) = &written {
            if matches!(refusal.status, 413 | 503) {
                self.no_room_for_event(cx, downstream, key, refusal);
                return false;
            }
        }
        let Some(parked) = self.take_poll(cx, poll) else { return false };
        let Parked { knock, owner } = *parked;
        if let Err(refusal) = written {
            log_names!(Warn, "{name}: a request cannot be written as an event: {refusal}");
            self.deny(cx, poll, knock.origin.as_deref(), &LocalAnswer::new(406, &refusal.reason));
            return false;
        }
        self.note_handed(cx, (event, key, downstream, name), owner, registration);
        let date = cx.date().to_owned();
        let (Some(peer), Some(exchange)) = (cx.get_mut(poll), self.exchanges.get(key)) else {
            return false;
        };
        let before = peer.written();
        let sent = match accepts {
            Encoding::Json => {
                write_reply(peer.output(), &knock, Some((json.len(), &text)), &date);
                peer.send(&json)
            }
            Encoding::Message => {
                let request = exchange.request();
                let (first, rest) = request.split_at(forward::behind_first_line(request));
                let length = request.len() + line.len();
                write_reply(peer.output(), &knock, Some((length, &text)), &date);
                peer.output().extend_from_slice(&[first, &line].concat());
                peer.send(rest)
            }
        };
        let sent = sent.and_then(|()| peer.flush());
        let telling = PollReply {
            event: Some(event),
            keep: knock.keep,
            written: before,
            later: None,
            _held: Some(held),
        };
        peer.state = State::Device(Device::PollReply(Box::new(telling)));
        self.told(cx, poll, sent);
        true
    }

    /// Has a helper write a long event in JSON. The poll waits for it, and the request counts as
    /// handed out.
    fn tell_later(
        &mut self,
        cx: &mut Connections<State>,
        poll: Id,
        (event, key, downstream, name): (MessageId, Key, Id, &str),
        whole: Arc<Vec<u8>>,
        mut held: Held,
        line: Vec<u8>,
    ) -> bool {
        let (remote, limits) = (self.remote.clone(), self.own_limits.clone());
        let submitted = self.json_workers.submit(move || {
            let mut json = Vec::new();
            let written = write_event(
                &mut json,
                &id_text(&event),
                &with_line(&whole, &line),
                Some(&mut held),
                &limits,
            );
            drop(whole);
            remote.send(Command::Encoded { poll, event, json: written.map(|()| (json, held)) });
        });
        if !submitted {
            self.no_room_for_event(
                cx,
                downstream,
                key,
                &Refusal::new(
                    503,
                    "too many long messages are being written as JSON; try again later",
                ),
            );
            return false;
        }
        let Some(registration) = cx.registration(poll) else { return false };
        let Some(parked) = self.take_poll(cx, poll) else { return false };
        let Parked { knock, owner } = *parked;
        self.note_handed(cx, (event, key, downstream, name), owner, registration);
        if let Some(peer) = cx.get_mut(poll) {
            let (keep, written) = (knock.keep, peer.written());
            let telling = PollReply {
                event: Some(event),
                keep,
                written,
                later: Some(Box::new(knock)),
                _held: None,
            };
            peer.state = State::Device(Device::PollReply(Box::new(telling)));
        }
        let at = cx.after(self.settings.limits.body_silence_timeout);
        cx.set_deadline(poll, Some(at));
        true
    }

    /// A helper has written an event.
    pub(super) fn encoded(
        &mut self,
        cx: &mut Connections<State>,
        poll: Id,
        event: MessageId,
        json: Result<(Vec<u8>, Held), Refusal>,
    ) {
        let Some(telling) = cx.poll_reply_mut(poll) else {
            return;
        }; // the poll is gone
        if telling.event != Some(event) {
            return;
        }
        let Some(knock) = telling.later.take() else { return };
        let (json, held) = match json {
            Ok(written) if self.events.handed.contains_key(&event) => written,
            Ok(_) => return self.tell_nothing(cx, poll, &knock), // nobody asks any more
            Err(refusal) => {
                self.tell_nothing(cx, poll, &knock);
                let downstream = self.events.handed.get(&event).map(|handed| handed.downstream);
                if let (Some(downstream), Some(key)) = (downstream, self.answered(cx, &event)) {
                    self.no_room_for_event(cx, downstream, key, &refusal);
                }
                return;
            }
        };
        let date = cx.date().to_owned();
        let Some(peer) = cx.get_mut(poll) else { return };
        let written = peer.written();
        write_reply(peer.output(), &knock, Some((json.len(), &id_text(&event))), &date);
        let sent = peer.send_whole(json).and_then(|()| peer.flush());
        let telling = PollReply {
            event: Some(event),
            keep: knock.keep,
            written,
            later: None,
            _held: Some(held),
        };
        peer.state = State::Device(Device::PollReply(Box::new(telling)));
        self.told(cx, poll, sent);
    }

    /// There is no memory to write a request as an event, now (503) or ever (413).
    fn no_room_for_event(
        &mut self,
        cx: &mut Connections<State>,
        downstream: Id,
        key: Key,
        refusal: &Refusal,
    ) {
        let retry_after = (refusal.status == 503).then_some(1);
        self.give_up(
            cx,
            downstream,
            key,
            &LocalAnswer { retry_after, ..LocalAnswer::new(refusal.status, &refusal.reason) },
        );
    }

    /// An event is in the hand of whoever polled.
    fn note_handed(
        &mut self,
        cx: &mut Connections<State>,
        (event, key, downstream, name): (MessageId, Key, Id, &str),
        owner: Holder,
        registration: Arc<Registration>,
    ) {
        let until = cx.after(self.waits(key).first_byte.time);
        self.exchanges.get_mut(key).into_iter().for_each(|exchange| exchange.observed.attached());
        if !self.events.handed.contains_key(&event) {
            self.stats.events.fetch_add(1, Relaxed);
            self.registry.event_begins(name, until);
        }
        let handed = self.events.handed.entry(event).or_insert_with(|| Handed {
            key,
            downstream,
            name: name.into(),
            owner: owner.clone(),
            registration: registration.clone(),
            until,
            told: false,
            repeated: false,
            present: true,
        });
        if !std::mem::replace(&mut handed.present, true) {
            self.registry.event_is_back(name);
        }
        (handed.owner, handed.registration) = (owner, registration);
        let until = handed.until;
        if let Some(Asking { event: place, .. }) = cx.asking_mut(downstream) {
            *place = Some(event);
        }
        cx.set_deadline(downstream, Some(until));
    }

    /// Takes a held poll out of line; whoever takes it answers it.
    fn take_poll(&mut self, cx: &mut Connections<State>, id: Id) -> Option<Box<Parked>> {
        let peer = cx.get_mut(id)?;
        let registration = match &peer.state {
            State::Device(Device::Held { registration, hold: Hold::Poll(_) }) => {
                registration.clone()
            }
            _ => return None,
        };
        let taken = std::mem::replace(&mut peer.state, idle());
        self.unpark(cx, id, &registration);
        match taken {
            State::Device(Device::Held { hold: Hold::Poll(parked), .. }) => Some(parked),
            _ => None,
        }
    }

    pub(super) fn unpark(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        registration: &Registration,
    ) {
        self.stats.polls.fetch_sub(1, Relaxed);
        for name in self.registry.unpark(registration, id, cx.now()) {
            let at = cx.after(self.settings.limits.poll_gap);
            self.set_alarm(cx, at, Alarm::PollGap(name));
        }
    }

    /// A mailbox may have been without a poll for too long.
    pub(super) fn poll_gap(&mut self, cx: &mut Connections<State>, name: Arc<str>) {
        match self.registry.poll_gap(&name, cx.now()) {
            Gap::None => {}
            Gap::In(rest) => {
                let at = cx.after(rest);
                self.set_alarm(cx, at, Alarm::PollGap(name));
            }
            Gap::Over(left, 0) => self
                .gone(&left, &CloseCause::Absent.because("it did not come again within poll_gap")),
            // All its polls may be at work for longer than anybody waits; whoever reads the log
            // wants to know.
            Gap::Over(left, n) => {
                let text =
                    format!("it did not come again within poll_gap; requests in its hand: {n}");
                self.gone(&left, &CloseReason::new(CloseCause::Absent, text));
            }
        }
    }

    /// Nothing came for as long as a poll is held.
    pub(super) fn poll_expired(&mut self, cx: &mut Connections<State>, id: Id) {
        if let Some(parked) = self.take_poll(cx, id) {
            self.tell_nothing(cx, id, &parked.knock);
        }
    }

    fn tell_nothing(&mut self, cx: &mut Connections<State>, id: Id, knock: &DeviceHead) {
        let date = cx.date().to_owned();
        let Some(peer) = cx.get_mut(id) else { return };
        let written = peer.written();
        write_reply(peer.output(), knock, None, &date);
        peer.state = PollReply::state(None, knock.keep, written);
        let sent = peer.flush();
        self.told(cx, id, sent);
    }

    /// A page that the operator lists asks whether it may post.
    pub(super) fn answer_preflight(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        origin: &str,
        keep: bool,
    ) {
        let date = cx.date().to_owned();
        let Some(peer) = cx.get_mut(id) else { return };
        let written = peer.written();
        let mut fields = vec![
            ("Date", date.as_str()),
            ("Access-Control-Allow-Methods", "POST"),
            (
                "Access-Control-Allow-Headers",
                "Accept, Authorization, Content-Type, PTTH-Message-ID, PTTH-Session",
            ),
            ("Access-Control-Allow-Private-Network", "true"),
            ("Access-Control-Max-Age", "600"),
            ("Cache-Control", "no-store"),
            turn::MARK,
        ];
        fields.extend(cors_fields(Some(origin)));
        fields.extend((!keep).then_some(("Connection", "close")));
        write_head(peer.output(), 204, &fields);
        peer.state = PollReply::state(None, keep, written);
        let sent = peer.flush();
        self.told(cx, id, sent);
    }

    /// Goes on writing a reply.
    pub(super) fn tell_ready(&mut self, cx: &mut Connections<State>, id: Id) {
        let is_unwritten = cx.poll_reply(id).is_some_and(PollReply::is_unwritten);
        let Some(peer) = cx.get_mut(id) else { return };
        let sent = match peer.is_broken() {
            true => Err(std::io::ErrorKind::BrokenPipe.into()),
            false if is_unwritten => return, // there is nothing to write yet
            false => peer.flush(),
        };
        self.told(cx, id, sent);
    }

    pub(super) fn tell_expired(&mut self, cx: &mut Connections<State>, id: Id) {
        if cx.poll_reply(id).is_some_and(PollReply::is_unwritten) {
            return self.told(cx, id, Err(std::io::ErrorKind::TimedOut.into()));
        }
        let Some(peer) = cx.get_mut(id) else { return };
        peer.try_to_write(); // a socket says only late that it has room
        match peer.flush() {
            Ok(false) => self.told(cx, id, Err(std::io::ErrorKind::TimedOut.into())),
            sent => self.told(cx, id, sent),
        }
    }

    /// How far a reply is written.
    fn told(&mut self, cx: &mut Connections<State>, id: Id, sent: std::io::Result<bool>) {
        let Some(peer) = cx.get_mut(id) else { return };
        let written = peer.written();
        let Some(reply) = cx.poll_reply(id) else { return };
        let (event, keep, began) = (reply.event, reply.keep, written > reply.written);
        match sent {
            Ok(false) => {
                let at = cx.after(self.settings.limits.body_silence_timeout);
                cx.set_deadline(id, Some(at));
            }
            Ok(true) => {
                self.go_on(cx, id, keep);
                if let Some(Device::Head { told, .. }) = cx.device_mut(id) {
                    *told = event;
                }
                if let Some(event) = event {
                    self.event_told(cx, event);
                }
            }
            Err(e) => {
                log_names!(Debug, "a poll could not be answered: {e}");
                cx.close(id);
                if let Some(event) = event {
                    self.event_not_told(cx, event, began);
                }
            }
        }
    }

    /// A device's connection after a reply.
    fn go_on(&mut self, cx: &mut Connections<State>, id: Id, keep: bool) {
        if !keep || (self.lifecycle.is_draining() && !self.events.are_in_hand()) {
            return self.linger(cx, id);
        }
        let Some(peer) = cx.get_mut(id) else { return };
        peer.state = idle();
        peer.settle();
        let more = peer.has_input();
        let at = cx.after(self.settings.limits.idle_visitor_timeout);
        cx.set_deadline(id, Some(at));
        if more {
            cx.again(id);
        }
    }

    /// The device closed the connection that brought it this event, and was to keep it: it has
    /// hardly the event in its hand still.
    pub(super) fn event_deserted(&mut self, event: &MessageId) {
        let Some(handed) = self.events.handed.get_mut(event) else { return };
        if std::mem::take(&mut handed.present) {
            self.registry.event_deserted(&handed.name);
        }
    }

    fn event_told(&mut self, cx: &mut Connections<State>, event: MessageId) {
        let Some(handed) = self.events.handed.get_mut(&event) else { return };
        handed.told = true;
        let after = self.settings.limits.redeliver_after;
        if after.is_zero() {
            return;
        }
        let now = cx.now();
        self.events.unanswered.push_back((now, event));
        if !std::mem::replace(&mut self.events.alarm, true) {
            let at = cx.after(after);
            self.set_alarm(cx, at, Alarm::Redeliver);
        }
    }

    /// An event did not reach its poll whole. `began`: some of it may have.
    fn event_not_told(&mut self, cx: &mut Connections<State>, event: MessageId, began: bool) {
        let Some(handed) = self.events.handed.get(&event) else { return };
        let (key, downstream, told, until) =
            (handed.key, handed.downstream, handed.told, handed.until);
        if began && !self.may_repeat(handed) {
            self.answered(cx, &event);
            return self.end_exchange(
                cx,
                key,
                CloseCause::Cut,
                "the device's connection ended while the request was written, and it may not be sent twice",
            );
        }
        if !self.hand_out(cx, key) && !told {
            let at = cx.after(self.waits(key).link.time).min(until);
            cx.set_deadline(downstream, Some(at));
        }
    }

    /// Whether an event may be handed out again: a device with a session knows its id, else the
    /// method has to allow it.
    fn may_repeat(&self, handed: &Handed) -> bool {
        handed.owner.session.is_some()
            || self.exchanges.get(handed.key).is_some_and(|e| e.is_idempotent())
    }

    /// Events that were handed out `redeliver_after` ago and are not answered go to the next poll
    /// once more.
    pub(super) fn redeliver(&mut self, cx: &mut Connections<State>) {
        let (now, after) = (cx.now(), self.settings.limits.redeliver_after);
        self.events.alarm = false;
        while let Some((at, event)) = self.events.unanswered.front().copied() {
            let rest = after.saturating_sub(now.saturating_duration_since(at));
            if !rest.is_zero() {
                self.events.alarm = true;
                let at = cx.after(rest);
                return self.set_alarm(cx, at, Alarm::Redeliver);
            }
            self.events.unanswered.pop_front();
            let Some(handed) = self
                .events
                .handed
                .get(&event)
                .filter(|handed| !handed.repeated && self.may_repeat(handed))
            else {
                continue;
            };
            let (key, name) = (handed.key, handed.name.clone());
            log_names!(
                Debug,
                "{name}: an event is handed out once more, after {} s without an answer",
                after.as_secs_f32()
            );
            if let Some(handed) = self.events.handed.get_mut(&event) {
                handed.repeated = true;
            }
            self.hand_out(cx, key);
        }
    }

    /// Nobody asks for an event's answer any more.
    pub(super) fn forget_event(&mut self, cx: &mut Connections<State>, downstream: Id) {
        let Some(Asking { event: Some(event), .. }) = cx.asking(downstream) else {
            return;
        };
        let event = *event;
        self.answered(cx, &event);
    }

    /// Connections that a stopping gateway kept for the answers to what was in hand, when nothing
    /// is any more.
    pub(super) fn close_idle_devices(&mut self, cx: &mut Connections<State>) {
        if !self.lifecycle.is_draining() || cx.is_listening() || self.events.are_in_hand() {
            return;
        }
        for id in cx.ids() {
            if matches!(cx.device(id), Some(Device::Head { .. })) {
                cx.close(id);
            }
        }
    }

    /// An event was not answered in time.
    pub(super) fn event_expired(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        key: Key,
        event: MessageId,
    ) {
        let told = self.events.handed.get(&event).is_some_and(|handed| handed.told);
        let (status, error, reason) = match told {
            true => {
                let wait = self.waits(key).first_byte;
                (
                    504,
                    "http_response_timeout",
                    format!("the device took the request and did not answer it within {wait}"),
                )
            }
            false => (
                503,
                "destination_unavailable",
                "the device did not poll again in time to take the request".to_owned(),
            ),
        };
        let retry_after = (status == 503).then_some(1);
        self.give_up(
            cx,
            id,
            key,
            &LocalAnswer { error: Some(error), retry_after, ..LocalAnswer::new(status, &reason) },
        );
    }

    /// What the old session of these names had in hand has failed.
    pub(super) fn fail_events_of(
        &mut self,
        cx: &mut Connections<State>,
        names: &[Arc<str>],
        now_held_by: &Holder,
    ) {
        let replaced = |handed: &Handed| {
            handed.owner != *now_held_by && names.iter().any(|name| **name == *handed.name)
        };
        let failed: Vec<MessageId> = self
            .events
            .handed
            .iter()
            .filter(|(_, handed)| replaced(handed))
            .map(|(id, _)| *id)
            .collect();
        self.fail_events(
            cx,
            failed,
            CloseCause::Replaced,
            "the device's session was replaced before it answered",
        );
    }

    /// Fails what devices have in hand whose token was revoked: nobody will take their answers.
    pub(super) fn fail_events_of_revoked(&mut self, cx: &mut Connections<State>) {
        let handed = self.events.handed.iter();
        let failed: Vec<MessageId> = handed
            .filter(|(_, handed)| self.credentials.is_revoked(&handed.registration))
            .map(|(id, _)| *id)
            .collect();
        self.fail_events(
            cx,
            failed,
            CloseCause::Revoked,
            "the device's token or certificate became invalid before it answered",
        );
    }

    fn fail_events(
        &mut self,
        cx: &mut Connections<State>,
        mut failed: Vec<MessageId>,
        end: CloseCause,
        why: &'static str,
    ) {
        failed.sort_unstable(); // not in a table's order, so that a simulated run can be repeated
        for event in failed {
            if let Some(key) = self.answered(cx, &event) {
                self.end_exchange(cx, key, end, why);
            }
        }
    }

    // --- refusals on the devices' port ---

    /// Refuses, in a way that a listed page may read, and that nobody keeps.
    pub(super) fn deny(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        origin: Option<&str>,
        answer: &LocalAnswer<'_>,
    ) {
        let mut fields = answer.fields.to_vec();
        fields.push(("Cache-Control", "no-store"));
        fields.extend(cors_fields(origin));
        self.refuse(cx, id, &LocalAnswer { fields: &fields, ..answer.clone() });
    }

    /// Refuses what was read as an offer or a poll.
    pub(super) fn deny_knock(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        status: u16,
        reason: &str,
        retry_after: Option<u64>,
    ) {
        let origin = self.origin_of(cx, id);
        self.deny(
            cx,
            id,
            origin.as_deref(),
            &LocalAnswer { retry_after, ..LocalAnswer::new(status, reason) },
        );
    }

    pub(super) fn origin_of(&self, cx: &Connections<State>, id: Id) -> Option<String> {
        match &cx.get(id)?.state {
            State::Device(Device::Deciding(knock)) => knock.origin.clone(),
            State::Device(Device::Held { hold: Hold::Poll(parked), .. }) => {
                parked.knock.origin.clone()
            }
            State::Device(Device::PostedAnswer(posted)) => posted.knock.origin.clone(),
            _ => None,
        }
    }

    /// A device that cannot stay, since this gateway stops: to the gateway that the operator named,
    /// or for later.
    pub(super) fn send_away(&mut self, cx: &mut Connections<State>, id: Id) {
        // Of an offer that was held only its 101 is kept.
        let head = cx.deciding(id).or(cx.parked(id).map(|parked| &parked.knock));
        let target = head.map(|head| &head.target);
        let Some(location) = self
            .settings
            .drain_to
            .as_ref()
            .zip(target)
            .map(|(origin, target)| format!("{origin}{target}"))
        else {
            return self.deny_knock(cx, id, 503, STOPPING, Some(self.away_for(cx.now())));
        };
        let origin = self.origin_of(cx, id);
        let fields = [("Location", location.as_str())];
        let answer = LocalAnswer {
            fields: &fields,
            ..LocalAnswer::new(307, "this gateway is stopping; another one takes this device")
        };
        self.deny(cx, id, origin.as_deref(), &answer);
    }

    /// Whole seconds in which it is no use to dial a gateway that stops: while it gives notice, and
    /// then some for its successor to start.
    fn away_for(&self, now: Instant) -> u64 {
        let left = self.lifecycle.notice_left(now);
        if left.is_zero() { 5 } else { left.as_secs() + 1 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn only_ids_of_our_own_form_are_read() {
        let id = [0x0F; 16];
        assert_eq!(read_id(&id_text(&id)), Some(id));
        for text in [
            "",
            "xxx",
            &"0F".repeat(16),
            &"0f".repeat(15),
            &"0f".repeat(17),
            &"0g".repeat(16),
            &"é".repeat(16),
        ] {
            assert_eq!(read_id(text), None, "{text}");
        }
    }

    #[test]
    fn ids_differ() {
        let mut events = Events::default();
        let ids: std::collections::HashSet<MessageId> =
            (0..1000).map(|_| events.draw_id().unwrap()).collect();
        assert_eq!(ids.len(), 1000);
    }
}
