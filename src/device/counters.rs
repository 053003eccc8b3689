//! What the event loop and the workers of one gateway both count.

use std::ops::RangeInclusive;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use crate::close_reason;
use crate::proto::turn::Encoding;
use crate::proto::turn::Transport;
use crate::upgraded::Upgrades;

/// What loop and workers both count.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) links: AtomicUsize,
    pub(crate) dialing: AtomicUsize,
    /// Links with a request in progress.
    pub(crate) busy: AtomicUsize,
    /// The most of them at once since the loop looked last.
    busy_peak: AtomicUsize,
    pub(crate) exchanges: AtomicU64,
    /// Poll slots.
    pub(crate) polls: AtomicUsize,
    /// 0: none; else one more than its place in [`TRANSPORTS`].
    pub(super) transport: AtomicU8,
    /// Idle links wanted, and links in all.
    pub(crate) wanted: RangeInclusive<usize>,
    pub(super) asked: AtomicBool,
    /// Links that ended.
    pub(crate) closed: close_reason::Counters,
    pub(crate) stopping: AtomicBool,
    /// It has stopped: what still waits for a thread is not begun.
    pub(crate) stopped: AtomicBool,
    /// Streams behind a 101 that handlers hold.
    pub(crate) upgrades: Upgrades,
}

impl Counters {
    pub(crate) fn new(wanted: RangeInclusive<usize>) -> Self {
        Counters {
            links: AtomicUsize::default(),
            dialing: AtomicUsize::default(),
            busy: AtomicUsize::default(),
            busy_peak: AtomicUsize::default(),
            exchanges: AtomicU64::default(),
            polls: AtomicUsize::default(),
            transport: AtomicU8::default(),
            wanted,
            asked: AtomicBool::default(),
            closed: close_reason::Counters::default(),
            stopping: AtomicBool::default(),
            stopped: AtomicBool::default(),
            upgrades: Upgrades::default(),
        }
    }

    /// Links in all.
    pub(crate) fn max(&self) -> usize {
        *self.wanted.end()
    }

    /// A request is in progress on one link more.
    pub(super) fn link_is_busy(&self) {
        let busy = self.busy.fetch_add(1, Relaxed) + 1;
        self.busy_peak.fetch_max(busy, Relaxed);
    }

    /// The most links that were busy at once since this was called last.
    pub(super) fn take_peak(&self) -> usize {
        self.busy_peak.swap(self.busy.load(Relaxed), Relaxed)
    }

    /// Links that may be dialled beside those that there are, or that are on their way.
    pub(super) fn room(&self) -> usize {
        self.max().saturating_sub(self.links.load(Relaxed) + self.dialing.load(Relaxed))
    }

    /// Returns true if another link is to be dialled: fewer idle ones (and ones on the way) than
    /// MIN, fewer in all than MAX.
    pub(super) fn is_short(&self) -> bool {
        self.is_short_with(self.dialing.load(Relaxed))
    }

    /// The same with so many on the way.
    pub(super) fn is_short_with(&self, dialing: usize) -> bool {
        let (links, busy) = (self.links.load(Relaxed), self.busy.load(Relaxed));
        links + dialing < self.max() && links.saturating_sub(busy) + dialing < *self.wanted.start()
    }

    /// How the gateway reaches this device now.
    pub(crate) fn transport(&self) -> Option<Transport> {
        usize::from(self.transport.load(Relaxed))
            .checked_sub(1)
            .and_then(|place| TRANSPORTS.get(place).copied())
    }
}

pub(super) const TRANSPORTS: [Transport; 3] =
    [Transport::Turn, Transport::Comet(Encoding::Json), Transport::Comet(Encoding::Message)];
