//! What the event loop and the workers of one gateway both count.

use std::ops::RangeInclusive;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use crate::atomic::AtomicU64;
use crate::close_reason;
use crate::proto::turn::Encoding;
use crate::proto::turn::Transport;
use crate::upgraded::Upgrades;

/// The counters that loop and workers share.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) links: AtomicUsize,
    pub(crate) dialing: AtomicUsize,
    /// Links with a request in progress.
    pub(crate) busy: AtomicUsize,
    /// The most busy links at once since the loop's last look.
    busy_peak: AtomicUsize,
    pub(crate) exchanges: AtomicU64,
    /// Poll slots.
    pub(crate) polls: AtomicUsize,
    /// 0 for none, else its index in [`TRANSPORTS`] plus one.
    pub(super) transport: AtomicU8,
    /// The wanted number of idle links, and the most links in all.
    pub(crate) wanted: RangeInclusive<usize>,
    pub(super) asked: AtomicBool,
    /// Links that ended.
    pub(crate) closed: close_reason::Counters,
    pub(crate) stopping: AtomicBool,
    /// The device has stopped: requests that still wait for a thread are not begun.
    pub(crate) stopped: AtomicBool,
    /// Upgraded streams that handlers hold.
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

    /// The most links.
    pub(crate) fn max(&self) -> usize {
        *self.wanted.end()
    }

    /// Counts a further link with a request in progress.
    pub(super) fn link_is_busy(&self) {
        let busy = self.busy.fetch_add(1, Relaxed) + 1;
        self.busy_peak.fetch_max(busy, Relaxed);
    }

    /// The most links that were busy at once since the last call.
    pub(super) fn take_peak(&self) -> usize {
        self.busy_peak.swap(self.busy.load(Relaxed), Relaxed)
    }

    /// The number of links that may be dialled in addition to existing and pending ones.
    pub(super) fn room(&self) -> usize {
        self.max().saturating_sub(self.links.load(Relaxed) + self.dialing.load(Relaxed))
    }

    /// Returns true if another link should be dialled: there are fewer idle (and pending) links
    /// than MIN, and fewer links than MAX.
    pub(super) fn is_short(&self) -> bool {
        self.is_short_with(self.dialing.load(Relaxed))
    }

    /// The same with this number of pending dials.
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
