//! A reply of the fallback while its body arrives, and the event in it.

use std::time::Duration;

use crate::engine::budget::Held;
use crate::error::Refusal;
use crate::limits::Limits;
use crate::proto::body::{Decoder, Framing, Piece};
use crate::proto::comet;
use crate::proto::comet::Event;
use crate::proto::turn::Encoding;

/// What a reply's head says beside its verdict.
pub(super) struct ReplyHead {
    pub(super) status: u16,
    /// Another request may follow on the connection, once the body is read.
    pub(super) keep: bool,
    /// The POST that it answers had gone out whole.
    pub(super) sent: bool,
    /// How the body of a reply of the fallback ends.
    pub(super) framing: Result<Framing, crate::error::Refusal>,
    pub(super) id: Result<Option<String>, crate::error::Refusal>,
    /// A short text in its body, where that came with the head.
    pub(super) said: String,
    /// It is the gateway's own word, not that of something on the way.
    pub(super) marked: bool,
    /// What the gateway says of it, where it is its own word.
    pub(super) details: Option<String>,
    /// How its content is compressed.
    pub(super) coding: Option<String>,
    /// How long it asks to be left alone.
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
    /// Bytes came behind it.
    pub(super) surplus: bool,
    /// The bytes of its body, of those that all polls may hold.
    pub(super) held: Held,
}

impl Reply {
    /// How many bytes were used; whole when the decoder is done.
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

    /// The event, and what it takes of the bytes of all. The head has its bounds where the event is
    /// asked as a request: who breaks them gets a 431, as on a link.
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
