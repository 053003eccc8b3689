//! A gateway's counters.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::close_reason::{Counters, EndCounts};

#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(super) devices: AtomicUsize,
    pub(super) polls: AtomicUsize,
    pub(super) turns: AtomicU64,
    pub(super) events: AtomicU64,
    pub(super) exchanges: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) ends: Counters,
}

/// Counters of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatewayStats {
    /// Names connected now.
    pub devices: usize,
    /// Polls held now.
    pub polls: usize,
    /// Offers turned since the start.
    pub turns: u64,
    /// Requests handed out as events of the fallback since the start; one that was handed out again
    /// counts once.
    pub events: u64,
    /// Requests begun since the start, visitors' and programs'.
    pub exchanges: u64,
    /// Requests and offers answered by the gateway itself, refusals mostly.
    pub refused: u64,
    /// Links that ended since the start, by reason.
    pub ends: EndCounts,
}

impl Stats {
    pub(crate) fn read(&self) -> GatewayStats {
        GatewayStats {
            devices: self.devices.load(Relaxed),
            polls: self.polls.load(Relaxed),
            turns: self.turns.load(Relaxed),
            events: self.events.load(Relaxed),
            exchanges: self.exchanges.load(Relaxed),
            refused: self.refused.load(Relaxed),
            ends: self.ends.read(),
        }
    }
}
