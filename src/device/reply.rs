//! A reply of the fallback while its body arrives, and the event in it.

use std::time::Duration;

use crate::engine::budget::Held;
use crate::error::Refusal;
use crate::limits::Limits;
use crate::proto::body::{Decoder, Framing, Piece};
use crate::proto::comet;
use crate::proto::comet::Event;
use crate::proto::turn::Encoding;

/// The contents of a reply's head, except its verdict.
pub(super) struct ReplyHead {
    pub(super) status: u16,
    /// Another request may follow on the connection, after the body was read.
    pub(super) keep: bool,
    /// The POST that it answers had been written completely.
    pub(super) sent: bool,
    /// The framing of a fallback reply's body.
    pub(super) framing: Result<Framing, crate::error::Refusal>,
    pub(super) id: Result<Option<String>, crate::error::Refusal>,
    /// A short text in its body, if it arrived with the head.
    pub(super) said: String,
    /// It has the gateway's mark, so it does not come from an intermediary.
    pub(super) marked: bool,
    /// The gateway's explanation, if it has the mark.
    pub(super) details: Option<String>,
    /// The coding with which its content is compressed.
    pub(super) coding: Option<String>,
    /// The pause of its `Retry-After`.
    pub(super) retry_after: Option<Duration>,
}

/// A reply of the fallback while its body arrives.
pub(super) struct Reply {
    pub(super) decoder: Decoder,
    pub(super) body: Vec<u8>,
    pub(super) encoding: Option<Encoding>,
    pub(super) id: Option<String>,
    pub(super) keep: bool,
    pub(super) quick: bool,
    /// There were bytes after it.
    pub(super) surplus: bool,
    /// Counts the bytes of its body in the budget of all polls.
    pub(super) held: Held,
}

impl Reply {
    /// Takes bytes and returns how many it used. The body is complete when the decoder is done.
    pub(super) fn take(&mut self, bytes: &[u8], limits: &Limits) -> Result<usize, Refusal> {
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
                Piece::Data(data) if !self.held.grow(data.len()) => {
                    return Err(Refusal::new(
                        502,
                        "this device holds as many bytes of events as messages_bytes_max allows; raise that bound here to the gateway's",
                    ));
                }
                Piece::Data(data) => self.body.extend_from_slice(data),
            }
        }
    }

    /// The event, and its share of the budget. Limits on the head are enforced later, when the
    /// event is parsed as a request: above them, it is answered with 431, as on a link.
    pub(super) fn into_event(self, limits: &Limits) -> Result<Option<(Event, Held)>, Refusal> {
        let event = match (self.encoding, self.id.as_deref()) {
            (Some(Encoding::Json), id) => comet::event_from_json(&self.body, id, limits),
            (_, None) if self.body.is_empty() => Ok(None),
            (_, Some(id)) => comet::event_from_text(id, self.body, limits).map(Some),
            (_, None) => Err(Refusal::new(
                400,
                "it is message/http and names no event: PTTH-Message-ID is missing",
            )),
        };
        Ok(event?.map(|event| (event, self.held)))
    }
}
