//! A reply to a poll as data, with or without an event, and the progress of writing it.

use std::borrow::Cow;

use crate::engine::budget::Held;
use crate::error::Refusal;
use crate::gateway::device_head::DeviceHead;
use crate::gateway::polls::deliveries::MessageId;
use crate::gateway::registry::Owner;
use crate::limits::Limits;
use crate::proto::comet;
use crate::proto::forward;
use crate::proto::head_writer::{reason_phrase, write_field, write_status_line};
use crate::proto::turn::{self, Encoding, MESSAGE_ID};

/// A poll that is held.
pub(crate) struct Parked {
    pub(crate) head: DeviceHead,
    pub(crate) owner: Owner,
}

/// The reply to a poll while it is being written.
pub(crate) struct PollReply {
    /// The event in it.
    pub(crate) event: Option<MessageId>,
    pub(crate) keep: bool,
    /// The bytes that the connection had written before.
    pub(crate) written: u64,
    /// Bytes that were written when its deadline was set; `None` before that.
    seen: Option<u64>,
    /// Set while a helper writes the event's JSON; no byte of the reply is written before.
    pub(crate) later: Option<Box<DeviceHead>>,
    /// A long event's share of the budget.
    pub(crate) _held: Option<Held>,
}

impl PollReply {
    /// Returns true while a helper writes its event.
    pub(crate) fn is_unwritten(&self) -> bool {
        self.later.is_some()
    }

    /// Returns true on the first call, or if more of it was written since the last call: a deadline
    /// counts from there.
    pub(crate) fn has_moved(&mut self, written: u64) -> bool {
        self.seen.replace(written) != Some(written)
    }

    /// A reply without an event, or another small one.
    pub(crate) fn small(keep: bool, written: u64) -> Box<Self> {
        Box::new(PollReply { event: None, keep, written, seen: None, later: None, _held: None })
    }

    pub(crate) fn with_event(event: MessageId, keep: bool, written: u64, held: Held) -> Box<Self> {
        Box::new(PollReply {
            event: Some(event),
            keep,
            written,
            seen: None,
            later: None,
            _held: Some(held),
        })
    }

    /// A reply whose event a helper writes.
    pub(crate) fn later(event: MessageId, head: DeviceHead, written: u64) -> Box<Self> {
        let (keep, later) = (head.keep, Some(Box::new(head)));
        Box::new(PollReply { event: Some(event), keep, written, seen: None, later, _held: None })
    }
}

/// Writes a request as an event. If it has a body, its length is computed and taken from the budget
/// before.
pub(crate) fn write_event(
    out: &mut Vec<u8>,
    id: &str,
    text: &[u8],
    held: Option<&mut Held>,
    limits: &Limits,
) -> Result<(), Refusal> {
    comet::write_event(out, id, text, limits, |length| match held {
        Some(held) => held.take(length, text.len()),
        None => Ok(()),
    })
}

/// A request with a line of ours after its request line.
pub(crate) fn with_line<'t>(text: &'t [u8], line: &[u8]) -> Cow<'t, [u8]> {
    if line.is_empty() {
        return text.into();
    }
    let (first, rest) = text.split_at(forward::behind_first_line(text));
    [first, line, rest].concat().into()
}

/// Fields that let a listed page read its response (Fetch standard, *CORS protocol*).
pub(crate) fn cors_fields(origin: Option<&str>) -> Vec<(&'static str, &str)> {
    match origin {
        None => Vec::new(),
        Some(origin) => vec![
            ("Access-Control-Allow-Origin", origin),
            ("Vary", "Origin"),
            ("Access-Control-Expose-Headers", "PTTH-Message-ID, Retry-After"),
        ],
    }
}

/// Appends the head of a reply to a poll, with an event (the length of its message, and its id) or
/// without one.
pub(crate) fn write_reply(
    out: &mut Vec<u8>,
    head: &DeviceHead,
    event: Option<(usize, &str)>,
    date: &str,
) {
    let streams = head.accepts == Encoding::Message;
    let status = if event.is_none() && streams { 204 } else { 200 };
    let length = match event {
        Some((length, _)) => Some(length),
        None if streams => None,
        None => Some(2),
    };
    let length = length.map(|length| length.to_string());
    let id = event.filter(|_| streams).map(|(_, id)| id);
    let connection = match (head.minor, head.keep) {
        (_, false) => Some("close"),
        (0, true) => Some("keep-alive"),
        _ => None,
    };
    let mut fields = vec![
        ("Date", date),
        ("Content-Type", head.accepts.media_type()),
        ("Cache-Control", "no-store, no-transform"), // devices cannot decompress, so intermediaries must not compress
        turn::MARK,
    ];
    fields.extend(id.map(|id| (MESSAGE_ID, id)));
    fields.extend(length.as_deref().map(|length| ("Content-Length", length)));
    fields.extend(cors_fields(head.origin.as_deref()));
    fields.extend(connection.map(|connection| ("Connection", connection)));
    write_head(out, status, &fields);
    if event.is_none() && !streams {
        out.extend_from_slice(b"{}");
    }
}

pub(crate) fn write_head(out: &mut Vec<u8>, status: u16, fields: &[(&str, &str)]) {
    let written = write_status_line(out, status, reason_phrase(status).as_bytes()).and_then(|()| {
        fields.iter().try_for_each(|(name, value)| write_field(out, name, value.as_bytes()))
    });
    if let Err(refusal) = written {
        log::error!("a line of a reply was left out: {refusal}"); // all lines are ours, and the operator's origins were checked
    }
    out.extend_from_slice(b"\r\n");
}
