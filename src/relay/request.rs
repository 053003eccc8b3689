//! The request on its way from the downstream to the upstream connection.

use std::sync::Arc;

use crate::engine::budget::{Budget, Held};
use crate::engine::connection::{Connection, Fetched};
use crate::error::Refusal;
use crate::limits::{Limits, PEER_BODY_KEPT_MAX};
use crate::proto::body::{self, Decoder, Framing, Piece};
use crate::proto::bound_login;
use crate::proto::edits::FieldEdits;
use crate::proto::forward;
use crate::proto::head::{self, RequestHead};
use crate::proto::upgrade::Offered;
use crate::relay::failure::ExchangeError;
use crate::relay::kept::Kept;

pub(super) struct Request {
    pub(super) text: Text,
    /// Decodes its body.
    pub(super) body: Decoder,
    /// The number of bytes of its body that were passed on.
    pub(super) passed: usize,
    /// The bytes of its body that were sent to another gateway and can be sent again.
    pub(super) kept: Option<Box<Kept>>,
    /// The framing with which its body is passed on.
    pub(super) framing: Framing,
    pub(super) content: Content,
    pub(super) upload: Upload,
    pub(super) invitation: Invitation,
    pub(super) retry: Retry,
    pub(super) is_head: bool,
    pub(super) is_idempotent: bool,
    /// The other protocols that it offers, and the forwarded head, too.
    pub(super) offered: Option<Offered>,
    /// It is part of a login that belongs to the connection ([`bound_login::is_bound_login`]): its
    /// upstream connection serves only this visitor.
    pub(super) is_bound: bool,
    /// The mark of a device's gateway that this request comes from the same visitor's connection as
    /// the previous one ([`forward::SAME_VISITOR`]).
    pub(super) same_visitor: Option<Box<[u8]>>,
    /// An operator's edits to fields: already made in the head, still to be made in the trailers.
    pub(super) edits: Option<Arc<FieldEdits>>,
}

/// The bytes that precede the rest of the body: kept until the response begins, in case they have
/// to be sent again.
pub(super) enum Text {
    /// The head as forwarded. `counted`: its share of the memory budget.
    Head { bytes: Vec<u8>, counted: Option<Held> },
    /// Head and collected body. Another thread may be reading them.
    Whole { bytes: Arc<Vec<u8>>, held: Held },
    /// The request will not be sent again.
    Forgotten,
}

/// Whether a server expects the body of a request. A server that does not read it takes it for its
/// next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Absent,
    Expected,
    /// A body has no meaning with its method (RFC 9110 §9.3).
    Unexpected,
}

impl Content {
    fn of(request: &RequestHead<'_>, framing: Framing) -> Self {
        match framing {
            Framing::Empty => Content::Absent,
            _ if head::expects_content(request.method) => Content::Expected,
            _ => Content::Unexpected,
        }
    }
}

/// The state of the body's transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upload {
    Forwarded,
    /// The upstream side takes no more of it, or the downstream side sends no more; a response may
    /// still arrive.
    Cut,
}

/// Whether the downstream side waits for `100 Continue` before it sends the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Invitation {
    NotAwaited,
    Awaited,
    /// A 100 was sent, or the downstream side did not wait.
    Over,
}

/// Whether the request may be sent again on another connection: protocol.md §3, *retry on a fresh
/// link*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Retry {
    Allowed,
    /// It was already repeated.
    Spent,
    /// It must not be repeated, except if the upstream has not begun to serve it.
    Unsafe,
    /// Bytes of it were sent and not kept.
    Forbidden,
}

impl Text {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Text::Head { bytes, .. } => bytes,
            Text::Whole { bytes, .. } => bytes,
            Text::Forgotten => &[],
        }
    }

    /// The share of its body in the budget for whole messages.
    pub(super) fn held(&self) -> Option<&Held> {
        match self {
            Text::Whole { held, .. } => Some(held),
            Text::Head { .. } | Text::Forgotten => None,
        }
    }
}

impl Request {
    /// The client's request, whose forwarded head is `text`.
    pub(super) fn new(
        request: &RequestHead<'_>,
        framing: Framing,
        text: Vec<u8>,
        limits: &Limits,
    ) -> Self {
        let is_idempotent = head::is_idempotent(request.method);
        let expects = request.minor > 0 && request.fields.lists("Expect", "100-continue");
        Request {
            text: Text::Head { bytes: text, counted: None },
            body: Decoder::new(framing, limits),
            passed: 0,
            kept: None,
            framing,
            content: Content::of(request, framing),
            upload: Upload::Forwarded,
            invitation: if expects { Invitation::Awaited } else { Invitation::NotAwaited },
            retry: if is_idempotent { Retry::Allowed } else { Retry::Unsafe },
            is_head: request.method == "HEAD",
            is_idempotent,
            offered: Offered::by(request, framing),
            is_bound: bound_login::has_bound_login(&request.fields),
            same_visitor: request.fields.get(forward::SAME_VISITOR).map(Into::into),
            edits: None,
        }
    }

    /// Counts the memory of the head, for as long as it is kept.
    pub(super) fn count(&mut self, memory: &Budget) {
        let offered = self.offered.as_ref().map_or(0, Offered::size);
        if let Text::Head { bytes, counted } = &mut self.text {
            let mut share = memory.share();
            share.force(bytes.capacity() + offered);
            *counted = Some(share);
        }
    }

    /// A request of the loop itself: only a head, sent once.
    pub(super) fn bare(text: Vec<u8>, limits: &Limits) -> Self {
        Request {
            text: Text::Head { bytes: text, counted: None },
            body: Decoder::new(Framing::Empty, limits),
            passed: 0,
            kept: None,
            framing: Framing::Empty,
            content: Content::Absent,
            upload: Upload::Forwarded,
            invitation: Invitation::NotAwaited,
            retry: Retry::Forbidden,
            is_head: false,
            is_idempotent: false,
            offered: None,
            is_bound: false,
            same_visitor: None,
            edits: None,
        }
    }

    /// Drops the trailers that an operator edits, once the body has ended.
    pub(super) fn drop_trailers(&mut self) {
        self.edits.iter().for_each(|edits| edits.drop_trailers(&mut self.body));
    }

    pub(super) fn is_cut(&self) -> bool {
        self.upload == Upload::Cut
    }

    /// The method, as far as framing depends on it.
    pub(super) fn method(&self) -> &'static str {
        if self.is_head { "HEAD" } else { "GET" }
    }

    /// Drops the kept bytes: a request that was sent completely and is being answered is not sent
    /// again.
    pub(super) fn forget(&mut self) {
        (self.text, self.retry, self.offered) = (Text::Forgotten, Retry::Forbidden, None);
    }

    /// Returns true if the rest of the request can be read although the response has arrived; else
    /// the response says that the connection ends (RFC 9110 §10.1.1, RFC 9112 §9.6). Whether a
    /// client that waits for a 100 will send its body is unknown.
    pub(super) fn rest_is_short(&self, limits: &Limits) -> bool {
        let left = self.body.remaining();
        self.body.is_done()
            || (self.invitation != Invitation::Awaited
                && left.is_some_and(|left| left <= limits.drain_bytes_max as u64))
    }

    /// How much may be read. Bytes that are pipelined after a body of known length stay in the
    /// socket, where they are bounded.
    pub(super) fn readable(&self, scratch: &[u8]) -> usize {
        let most = |left: u64| left.min(scratch.len() as u64) as usize;
        self.body.remaining().map_or(scratch.len(), most)
    }

    /// Moves the part of the body that has arrived. `before` is the number of bytes that waited on
    /// the upstream connection before this request; `answered` means that the downstream side has
    /// the response's head. Returns true if bytes moved.
    pub(super) fn pump<T>(
        &mut self,
        downstream: &mut Connection<T>,
        link: &mut Connection<T>,
        scratch: &mut [u8],
        before: usize,
        answered: bool,
    ) -> Result<bool, ExchangeError> {
        let written = link.written();
        let mut moved = false;
        let takes = self.is_cut() || link.pending() <= before + self.text.bytes().len();
        if !self.body.is_done() && takes && downstream.has_input() {
            let most = self.readable(scratch);
            let filled = match downstream.fetch(scratch, most) {
                Ok(Fetched::Bytes(n)) => n,
                Ok(Fetched::Nothing) => 0,
                Ok(Fetched::End) => return self.client_stops(link, answered),
                Err(_) => return Err(ExchangeError::ClientGone),
            };
            moved = filled > 0;
            let used = self.forward(&scratch[..filled], link)?;
            downstream.keep(&scratch[used..filled]);
            if downstream.is_over() && !self.body.is_done() {
                // Before its beginning is sent, because the body will never be complete.
                return if downstream.has_failed() {
                    Err(ExchangeError::ClientGone)
                } else {
                    self.client_stops(link, answered)
                };
            }
        }
        if link.flush().is_err() {
            self.cut(link);
        }
        Ok(moved || link.written() != written)
    }

    /// The upstream side takes no more bytes. It may have answered already (a 413, then close), so
    /// its socket is read to the end before the exchange is given up. The rest of the request is
    /// read and dropped, because some clients read nothing before they have written everything.
    pub(super) fn cut<T>(&mut self, link: &mut Connection<T>) {
        self.upload = Upload::Cut;
        link.drop_output();
        link.look_again();
    }

    /// The client ends in the middle of its request. If the response has begun, the client probably
    /// stopped because of it, and still wants it; the upstream side is told that no more bytes
    /// follow.
    fn client_stops<T>(
        &mut self,
        link: &mut Connection<T>,
        answered: bool,
    ) -> Result<bool, ExchangeError> {
        if !answered {
            return Err(ExchangeError::ClientGone);
        }
        if std::mem::replace(&mut self.upload, Upload::Cut) == Upload::Forwarded {
            link.drop_output();
            let _ = link.end_output(); // if that fails, the end of the exchange shows it
        }
        Ok(false)
    }

    /// Passes on the part of the body in `bytes`, reframed. Returns how many of the bytes belong
    /// to the body.
    fn forward<T>(
        &mut self,
        bytes: &[u8],
        link: &mut Connection<T>,
    ) -> Result<usize, ExchangeError> {
        let mut used = 0;
        loop {
            let (n, piece) = self.body.decode(&bytes[used..]).map_err(ExchangeError::Refused)?;
            used += n;
            let sent = match piece {
                Piece::More => return Ok(used),
                Piece::Data(data) => {
                    self.keep(data);
                    self.body_moves();
                    if self.is_cut() {
                        continue;
                    }
                    self.passed += data.len();
                    send_piece(link, data, self.framing)
                }
                Piece::End => {
                    if self.framing == Framing::Chunked && !self.is_cut() {
                        self.body_moves();
                        self.drop_trailers();
                        body::last_chunk(link.output(), self.body.trailers())
                            .map_err(ExchangeError::Refused)?;
                    }
                    return Ok(used);
                }
            };
            if sent.is_err() {
                self.cut(link);
            }
        }
    }

    /// Keeps the beginning of the body while it is passed on, because the next upstream may not
    /// serve the request.
    pub(super) fn keep_body(&mut self, held: Held) {
        let is_long =
            self.body.remaining().is_some_and(|length| length > PEER_BODY_KEPT_MAX as u64);
        let is_new = self.kept.is_none() && self.is_unspent() && !self.body.is_done();
        if is_new && !is_long {
            self.kept = Some(Box::new(Kept::new(held)));
        }
    }

    fn keep(&mut self, data: &[u8]) {
        if self.kept.as_mut().is_some_and(|kept| !kept.keep(data)) {
            self.kept = None;
        }
    }

    /// Returns true if no byte of the body has been lost, so that it can be sent to another
    /// upstream.
    pub(super) fn is_unspent(&self) -> bool {
        self.retry != Retry::Forbidden && (self.kept.is_some() || !self.is_cut())
    }

    /// The part of the body that was read so far, framed for the next upstream after others did not
    /// serve the request. With `is_hop` the next one may not serve it either.
    pub(super) fn body_so_far(&mut self, is_hop: bool) -> Result<Vec<u8>, Refusal> {
        let mut out = Vec::new();
        match self.kept.as_ref().map_or(&[][..], |kept| kept.bytes()) {
            [] => {}
            kept if self.framing == Framing::Chunked => {
                body::open_chunk(&mut out, kept.len());
                out.extend_from_slice(kept);
                out.extend_from_slice(b"\r\n");
            }
            kept => out.extend_from_slice(kept),
        }
        if self.framing == Framing::Chunked && self.body.is_done() {
            body::last_chunk(&mut out, self.body.trailers())?;
        }
        if !is_hop {
            self.kept = None;
            if !out.is_empty() {
                self.retry = Retry::Forbidden;
            }
        }
        Ok(out)
    }

    /// Notes that bytes of the body are being sent. Unless they are kept, the request cannot be
    /// sent again.
    fn body_moves(&mut self) {
        if self.kept.is_none() {
            self.retry = Retry::Forbidden;
        }
        if self.invitation == Invitation::Awaited {
            self.invitation = Invitation::Over;
        }
    }
}

/// Writes one piece of a body, as a chunk where the message is chunked.
pub(super) fn send_piece<T>(
    to: &mut Connection<T>,
    data: &[u8],
    framing: Framing,
) -> std::io::Result<()> {
    if framing != Framing::Chunked {
        return to.send(data);
    }
    body::open_chunk(to.output(), data.len());
    to.send(data)?;
    to.output().extend_from_slice(b"\r\n");
    Ok(())
}
