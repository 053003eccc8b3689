//! The phases of an exchange, and its data in each.
//!
//! ```text
//!   Waiting ⇄ Collecting          no upstream connection
//!      │ ▲
//!      ▼ │ retry
//!   Sending ──► Receiving         the upstream connection is free when the response was read
//!      └──────► Tunnel
//! ```
//! A response that comes whole goes from `Waiting` to `Receiving` without an upstream connection.

use std::time::Instant;

use crate::engine::budget::Held;
use crate::engine::connections::Id;
use crate::proto::body::{Decoder, Framing};
use crate::proto::interim::InterimCount;
use crate::relay::gathering::Gathering;
use crate::relay::tunnel::Tunnel;

pub(super) enum Phase {
    /// It has no upstream connection: none is free, or a poll has taken its request.
    Waiting,
    /// Its request's body is read into memory.
    Collecting(Gathering),
    /// Its request is on its way, and no head of a response has come.
    Sending(Upstream),
    /// The head of its response is here.
    Receiving(Receiving),
    /// It was switched to another protocol.
    Tunnel { link: Id, tunnel: Tunnel },
}

/// Where the response comes from.
pub(super) enum Upstream {
    /// A connection that the request is written to.
    Link {
        id: Id,
        /// Where the request begins among all that goes out on it.
        mark: u64,
        /// Bytes that wait there beside it: the 101 of an offer that was held, lines for this
        /// connection alone.
        before: usize,
    },
    /// A device's POST, whose body the response is.
    Post { id: Id, enclosing: Enclosing },
}

/// The message that a response is the body of.
pub(super) struct Enclosing {
    pub(super) decoder: Decoder,
    /// Bytes of the response that were read before the exchange got the connection.
    pub(super) first: Vec<u8>,
}

/// A response whose head was read.
pub(super) struct Receiving {
    /// `None`: it was read to its end, or came whole.
    pub(super) from: Option<Upstream>,
    pub(super) body: Decoder,
    /// How its body goes on.
    pub(super) framing: Framing,
    /// Its head is on its way to the downstream side.
    pub(super) is_told: bool,
    /// All of it was written there. What befalls the rest of the request then is no failure.
    pub(super) is_delivered: bool,
    /// Why the upstream connection is not used again, as far as the head tells.
    pub(super) link_ends: Option<&'static str>,
    /// Bytes of it that were dropped, since nobody wants them.
    pub(super) drained: usize,
    /// Its share of the budget for whole messages.
    pub(super) held: Option<Held>,
}

/// What has come of a response before the end of its final head.
#[derive(Default)]
pub(super) struct Beginning {
    /// It may begin with `EVENT/1.0`.
    pub(super) takes_events: bool,
    /// A line end came before it.
    pub(super) has_strayed: bool,
    /// A byte of it arrived.
    pub(super) has_begun: bool,
    /// Part of the request was not written when the step began that read of it.
    pub(super) is_early: bool,
    /// Since when some of a head is here, and not all of it.
    pub(super) half_since: Option<Instant>,
    pub(super) interim: InterimCount,
}

impl Upstream {
    pub(super) fn id(&self) -> Id {
        match self {
            Upstream::Link { id, .. } | Upstream::Post { id, .. } => *id,
        }
    }

    /// Returns true if the message is whole.
    fn is_done(&self) -> bool {
        match self {
            Upstream::Link { .. } => true,
            Upstream::Post { enclosing, .. } => enclosing.is_done(),
        }
    }
}

impl Beginning {
    /// One line end before a response is nothing: it belongs to the one before it, and came late.
    /// Returns its length.
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

    /// Bytes that waited on the upstream connection before the request.
    pub(super) fn before(&self) -> usize {
        match self.upstream() {
            Some(Upstream::Link { before, .. }) => *before,
            _ => 0,
        }
    }

    /// The POST that the response is the body of.
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

    /// Returns true if the whole response was read. What follows a 101 is no response.
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

    /// Takes the upstream connection away: it is free, or lost.
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
