//! A gateway's counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::atomic::AtomicU64;
use crate::close_reason::{CloseCounts, Counters};
use crate::gateway::bounds::{Bound, BoundCounters, BoundCounts};
use crate::gateway::name_owners::NameOwners;
use crate::observe::records::Taken;

#[derive(Debug, Default)]
pub(crate) struct Stats {
    /// It counts the connected names.
    pub(super) owners: Arc<NameOwners>,
    pub(super) polls: AtomicUsize,
    pub(super) turns: AtomicU64,
    pub(super) events: AtomicU64,
    pub(super) exchanges: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) proxy_headers_refused: AtomicU64,
    pub(super) moved: AtomicU64,
    pub(super) hops: AtomicU64,
    pub(super) hops_served: AtomicU64,
    pub(super) closed: Counters,
    pub(super) bounds: BoundCounters,
    pub(super) records: Taken,
}

/// Counters of a gateway.
///
/// ```
/// let gateway = reverse_http::Gateway::builder().listen("127.0.0.1:0").start()?;
/// let stats = gateway.stats();
/// assert_eq!((stats.devices, stats.exchanges), (0, 0));
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatewayStats {
    /// Names connected now.
    pub devices: usize,
    /// Polls held now.
    pub polls: usize,
    /// Offers turned since the start.
    pub turns: u64,
    /// Requests delivered as events of the fallback since the start; one that was delivered twice
    /// counts once.
    pub events: u64,
    /// Requests begun since the start, of visitors and of programs.
    pub exchanges: u64,
    /// Requests and offers that the gateway answered itself, mostly with refusals.
    pub refused: u64,
    /// Connections of balancers that were closed since the start because they did not begin with a
    /// valid PROXY header.
    pub proxy_headers_refused: u64,
    /// How often a connection was moved from one event loop to another, since the start.
    pub moved: u64,
    /// Requests that were sent to other gateways since the start; one that was sent twice counts
    /// twice.
    pub hops: u64,
    /// Requests from other gateways that were begun here since the start.
    pub hops_served: u64,
    /// Links that were closed since the start, by cause.
    pub closed: CloseCounts,
    /// How often each bound has kept something out since the start.
    pub bounds_reached: BoundCounts,
    /// Records of requests (`Gateway::records`) that were lost since the start because they were
    /// not read in time.
    pub records_lost: u64,
}

/// How many links a device has, idle and busy.
///
/// ```
/// let gateway = reverse_http::Gateway::builder().listen("127.0.0.1:0").start()?;
/// let links = gateway.device("lamp").links()?; // it is not connected
/// assert_eq!((links.idle, links.busy, links.total()), (0, 0, 0));
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkCounts {
    /// Links that can take a request now.
    pub idle: usize,
    /// Links with an exchange in progress, and links reserved for one visitor's connection.
    pub busy: usize,
}

impl LinkCounts {
    pub(super) fn new(total: usize, idle: usize) -> Self {
        LinkCounts { idle, busy: total.saturating_sub(idle) }
    }

    /// All links.
    #[must_use]
    pub fn total(&self) -> usize {
        self.idle + self.busy
    }
}

impl Stats {
    pub(super) fn of(owners: Arc<NameOwners>, records: Taken) -> Self {
        Stats { owners, records, ..Stats::default() }
    }

    /// A bound has kept a connection, an offer or a request out.
    pub(super) fn reached(&self, bound: Bound) {
        self.bounds.count(bound);
    }

    pub(crate) fn read(&self) -> GatewayStats {
        GatewayStats {
            devices: self.owners.connected(),
            polls: self.polls.load(Relaxed),
            turns: self.turns.load(Relaxed),
            events: self.events.load(Relaxed),
            exchanges: self.exchanges.load(Relaxed),
            refused: self.refused.load(Relaxed),
            proxy_headers_refused: self.proxy_headers_refused.load(Relaxed),
            moved: self.moved.load(Relaxed),
            hops: self.hops.load(Relaxed),
            hops_served: self.hops_served.load(Relaxed),
            closed: self.closed.read(),
            bounds_reached: self.bounds.read(),
            records_lost: self.records.lost(),
        }
    }
}
