//! The phases of an exchange, and its data in each.
//!
//! ```text
//!   Waiting ⇄ Collecting          no upstream connection
//!      │ ▲
//!      ▼ │ retry
//!   Sending ──► Receiving         the upstream connection is free when the response was read
//!      └──────► Tunnel
//! ```
//! With a response that comes whole, an exchange goes from `Waiting` to `Receiving` without an
//! upstream connection.

use std::time::Instant;

use crate::engine::budget::Held;
use crate::engine::connections::Id;
use crate::proto::body::{Decoder, Framing};
use crate::proto::interim::InterimCount;
use crate::relay::gathering::Gathering;
use crate::relay::tunnel::Tunnel;

pub(super) enum Phase {
    /// It has no upstream connection: none is free, its request is held back on a link, or it was
    /// sent as the reply to a poll.
    Waiting,
    /// Its request's body is read into memory.
    Collecting(Gathering),
    /// Its request is being sent, and no head of a response has arrived.
    Sending(Upstream),
    /// The head of its response has arrived.
    Receiving(Receiving),
    /// It was switched to another protocol.
    Tunnel { link: Id, tunnel: Tunnel },
}

/// The source of the response.
pub(super) enum Upstream {
    /// A connection that the request is written to.
    Link {
        id: Id,
        /// The position of the request in the output of this connection.
        mark: u64,
        /// Further bytes that wait there: the 101 of an offer that was held, lines for this
        /// connection only.
        before: usize,
    },
    /// A device's POST, whose body is the response.
    Post { id: Id, enclosing: Enclosing },
}

/// A message whose body is a response.
pub(super) struct Enclosing {
    pub(super) decoder: Decoder,
    /// Bytes of the response that were read before the exchange received the connection.
    pub(super) first: Vec<u8>,
}

/// A response whose head was read.
pub(super) struct Receiving {
    /// `None` if it was read to its end, or came whole.
    pub(super) from: Option<Upstream>,
    pub(super) body: Decoder,
    /// The framing of the rest of its body.
    pub(super) framing: Framing,
    /// Its head has been written to the downstream connection.
    pub(super) is_told: bool,
    /// All of it was written there. A problem with the rest of the request is then no failure.
    pub(super) is_delivered: bool,
    /// Why the upstream connection is not used again, if the head decides that.
    pub(super) link_ends: Option<&'static str>,
    /// The number of bytes that were dropped because its client has left.
    pub(super) drained: usize,
    /// Its share of the budget for whole messages.
    pub(super) held: Option<Held>,
}

/// The part of a response that has arrived before the end of its final head.
#[derive(Default)]
pub(super) struct Beginning {
    /// It may begin with `EVENT/1.0`.
    pub(super) takes_events: bool,
    /// A line end arrived before it.
    pub(super) has_strayed: bool,
    /// A byte of it has arrived.
    pub(super) has_begun: bool,
    /// Part of the request had not been written when the step began that read from the response.
    pub(super) is_early: bool,
    /// The time since which there is an incomplete head.
    pub(super) half_since: Option<Instant>,
    pub(super) interim: InterimCount,
}

impl Upstream {
    pub(super) fn id(&self) -> Id {
        match self {
            Upstream::Link { id, .. } | Upstream::Post { id, .. } => *id,
        }
    }

    /// Returns true if the message is complete.
    fn is_done(&self) -> bool {
        match self {
            Upstream::Link { .. } => true,
            Upstream::Post { enclosing, .. } => enclosing.is_done(),
        }
    }
}

impl Beginning {
    /// Skips one line end before a response, which belongs to the previous response. Returns its
    /// length.
    pub(super) fn take_stray(&mut self, bytes: &[u8]) -> usize {
        let stray = match bytes {
            _ if self.has_begun || self.has_strayed => 0,
            [b'\r', b'\n', ..] => 2,
            [b'\n', ..] => 1,
            _ => 0,
        };
        self.has_strayed |= stray > 0;
        stray
    }
}

impl Enclosing {
    pub(super) fn is_done(&self) -> bool {
        self.first.is_empty() && self.decoder.is_done()
    }
}

impl Receiving {
    pub(super) fn is_whole(&self) -> bool {
        self.body.is_done() && self.from.as_ref().is_none_or(Upstream::is_done)
    }
}

impl Phase {
    pub(super) fn upstream(&self) -> Option<&Upstream> {
        match self {
            Phase::Sending(upstream) => Some(upstream),
            Phase::Receiving(receiving) => receiving.from.as_ref(),
            Phase::Waiting | Phase::Collecting(_) | Phase::Tunnel { .. } => None,
        }
    }

    /// The upstream connection.
    pub(super) fn link(&self) -> Option<Id> {
        match self {
            Phase::Tunnel { link, .. } => Some(*link),
            phase => phase.upstream().map(Upstream::id),
        }
    }

    /// The number of bytes that waited on the upstream connection before the request.
    pub(super) fn before(&self) -> usize {
        match self.upstream() {
            Some(Upstream::Link { before, .. }) => *before,
            _ => 0,
        }
    }

    /// The POST whose body is the response.
    pub(super) fn enclosing(&mut self) -> Option<&mut Enclosing> {
        let upstream = match self {
            Phase::Sending(upstream) => Some(upstream),
            Phase::Receiving(receiving) => receiving.from.as_mut(),
            Phase::Waiting | Phase::Collecting(_) | Phase::Tunnel { .. } => None,
        };
        match upstream {
            Some(Upstream::Post { enclosing, .. }) => Some(enclosing),
            _ => None,
        }
    }

    pub(super) fn receiving(&self) -> Option<&Receiving> {
        match self {
            Phase::Receiving(receiving) => Some(receiving),
            _ => None,
        }
    }

    pub(super) fn receiving_mut(&mut self) -> Option<&mut Receiving> {
        match self {
            Phase::Receiving(receiving) => Some(receiving),
            _ => None,
        }
    }

    pub(super) fn tunnel(&self) -> Option<&Tunnel> {
        match self {
            Phase::Tunnel { tunnel, .. } => Some(tunnel),
            _ => None,
        }
    }

    pub(super) fn is_tunnel(&self) -> bool {
        self.tunnel().is_some()
    }

    /// Returns true if the head of a response was read.
    pub(super) fn has_head(&self) -> bool {
        matches!(self, Phase::Receiving(_) | Phase::Tunnel { .. })
    }

    /// Returns true if the whole response was read. Bytes after a 101 belong to no response.
    pub(super) fn is_whole(&self) -> bool {
        self.receiving().is_some_and(Receiving::is_whole)
    }

    /// The head of the response was read.
    pub(super) fn receive(&mut self, response: Receiving) {
        let from = match std::mem::replace(self, Phase::Waiting) {
            Phase::Sending(upstream) => Some(upstream),
            _ => None,
        };
        *self = Phase::Receiving(Receiving { from, ..response });
    }

    /// Removes the upstream connection, because it is free or lost.
    pub(super) fn detach(&mut self) -> Option<Id> {
        let link = self.link();
        match self {
            Phase::Receiving(receiving) => receiving.from = None,
            Phase::Sending(_) => *self = Phase::Waiting,
            Phase::Waiting | Phase::Collecting(_) | Phase::Tunnel { .. } => {}
        }
        link
    }
}
