//! A gateway's counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::close_reason::{Counters, EndCounts};
use crate::gateway::directory::Directory;
use crate::observe::records::Taken;

#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// Knows how many names are connected.
    pub(super) directory: Arc<Directory>,
    pub(super) polls: AtomicUsize,
    pub(super) turns: AtomicU64,
    pub(super) events: AtomicU64,
    pub(super) exchanges: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) proxy_headers_refused: AtomicU64,
    pub(super) moved: AtomicU64,
    pub(super) ends: Counters,
    pub(super) records: Taken,
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
    /// Connections of balancers that were closed since the start because they did not begin with a
    /// valid PROXY header.
    pub proxy_headers_refused: u64,
    /// How often a connection was moved from one event loop to another, since the start.
    pub moved: u64,
    /// Links that ended since the start, by reason.
    pub ends: EndCounts,
    /// [Records](crate::Gateway::records) of requests that were lost since the start, because nobody
    /// read them in time.
    pub records_lost: u64,
}

impl Stats {
    pub(super) fn of(directory: Arc<Directory>, records: Taken) -> Self {
        Stats { directory, records, ..Stats::default() }
    }

    pub(crate) fn read(&self) -> GatewayStats {
        GatewayStats {
            devices: self.directory.connected(),
            polls: self.polls.load(Relaxed),
            turns: self.turns.load(Relaxed),
            events: self.events.load(Relaxed),
            exchanges: self.exchanges.load(Relaxed),
            refused: self.refused.load(Relaxed),
            proxy_headers_refused: self.proxy_headers_refused.load(Relaxed),
            moved: self.moved.load(Relaxed),
            ends: self.ends.read(),
            records_lost: self.records.lost(),
        }
    }
}
