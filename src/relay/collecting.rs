//! Reads a request's whole body into memory, for a device that polls.

use std::sync::Arc;
use std::time::Instant;

use crate::engine::connection::{Connection, Fetched};
use crate::error::Refusal;
use crate::limits::Limits;
use crate::proto::body::{Decoder, Framing, Piece};
use crate::proto::comet;
use crate::proto::head::{self, LineEnds};
use crate::proto::interim::CONTINUE;
use crate::relay::exchange::Exchange;
use crate::relay::gathering::Gathering;
use crate::relay::phase::Phase;
use crate::relay::request::{Invitation, Text};

/// How much of a request's body has been collected.
#[derive(Debug)]
pub(crate) enum Collected {
    NotYet,
    /// The body is complete and follows the exchange's head: the request can be sent, or handed out
    /// as an event.
    Whole,
    /// The downstream side has left.
    Gone,
    Refused(Refusal),
}

impl Exchange {
    /// Begins to read the request's body into memory, and sends a 100 if the downstream side waits
    /// for one.
    ///
    /// # Errors
    /// 413: the announced length is above the limit.
    pub(crate) fn begin_collecting<T>(
        &mut self,
        downstream: &mut Connection<T>,
        gathering: Gathering,
        limits: &Limits,
    ) -> Result<(), Refusal> {
        let mut gathering = gathering;
        if self.announced().is_some_and(|length| length > limits.message_bytes_max as u64) {
            return Err(too_large());
        }
        if let Some(kept) = self.request.kept.take() {
            gathering.take(kept.bytes())?;
        }
        self.phase = Phase::Collecting(gathering);
        if self.request.invitation == Invitation::Awaited && downstream.kept() == 0 {
            downstream.output().extend_from_slice(CONTINUE);
        }
        Ok(())
    }

    /// Reads the part of the request's body that has arrived, at most `limits.message_bytes_max` in
    /// total.
    pub(crate) fn collect<T>(
        &mut self,
        downstream: &mut Connection<T>,
        scratch: &mut [u8],
        now: Instant,
        limits: &Limits,
    ) -> Collected {
        let Phase::Collecting(gathering) = &mut self.phase else { return Collected::NotYet };
        if self.request.body.is_done() {
            return self.enclosed(limits); // the whole body arrived while another gateway was asked
        }
        let most = self.request.readable(scratch);
        if downstream.is_broken() || downstream.flush().is_err() {
            return Collected::Gone;
        }
        let filled = match downstream.fetch(scratch, most) {
            Ok(Fetched::Bytes(n)) => n,
            Ok(Fetched::Nothing) => return Collected::NotYet,
            Ok(Fetched::End) | Err(_) => return Collected::Gone,
        };
        gathering.came(now);
        let mut used = 0;
        loop {
            let (n, piece) = match self.request.body.decode(&scratch[used..filled]) {
                Ok(decoded) => decoded,
                Err(refusal) => return Collected::Refused(refusal),
            };
            used += n;
            match piece {
                Piece::More => return Collected::NotYet,
                Piece::Data(data) if gathering.len() + data.len() > limits.message_bytes_max => {
                    return Collected::Refused(too_large());
                }
                Piece::Data(data) => {
                    self.observed.sent(data.len());
                    if let Err(refusal) = gathering.take(data) {
                        return Collected::Refused(refusal);
                    }
                }
                Piece::End => {
                    downstream.keep(&scratch[used..filled]);
                    return self.enclosed(limits);
                }
            }
        }
    }

    fn enclosed(&mut self, limits: &Limits) -> Collected {
        match self.enclose_request(limits) {
            Ok(()) => Collected::Whole,
            Err(refusal) => Collected::Refused(refusal),
        }
    }

    /// Joins the head and the collected body to one message with new framing.
    fn enclose_request(&mut self, limits: &Limits) -> Result<(), Refusal> {
        let Phase::Collecting(gathering) = std::mem::replace(&mut self.phase, Phase::Waiting)
        else {
            return Ok(());
        };
        self.request.drop_trailers();
        let (mut body, held) = gathering.finish();
        let own = limits.for_own_heads();
        let parsed = head::request(self.request.text.bytes(), &own, LineEnds::Crlf);
        let Ok(Some(request)) = parsed else {
            return Err(Refusal::new(400, "the request cannot be forwarded as it is"));
        };
        let mut text = Vec::with_capacity(request.len + 64);
        match self.request.body.trailers() {
            [] => comet::write_request_head(&mut text, &request, body.len())?,
            trailers => {
                text.reserve_exact(body.len() + 64 * trailers.len());
                comet::write_request(&mut text, &request, &std::mem::take(&mut body), trailers)?;
            }
        }
        if !body.is_empty() {
            // In place, because no budget would count a second buffer of this length.
            body.reserve_exact(text.len());
            body.splice(..0, text);
            text = body;
        }
        self.request.body = Decoder::new(Framing::Empty, limits);
        self.request.framing = Framing::Empty;
        self.request.text = Text::Whole { bytes: Arc::new(text), held };
        Ok(())
    }
}

fn too_large() -> Refusal {
    Refusal::new(
        413,
        "the device is reached by polling, and the body is longer than message_bytes_max allows for that",
    )
}
