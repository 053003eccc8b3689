//! Reasons for alarms. The loop knows an alarm by its number alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::connections::Id;
use crate::engine::slab::Key;
use crate::gateway::leases::LeaseId;
use crate::gateway::peer_table::PeerId;

/// The reason of an alarm.
pub(super) enum Alarm {
    /// A caller has waited for too long.
    Caller(u64),
    /// The grace period of replaced links has expired.
    Evict { links: Vec<Id>, leases: Vec<LeaseId> },
    /// The grace period of requests with revoked visitor tokens has expired.
    EvictVisitors(Vec<Key>),
    /// A certificate that let a device in may have expired.
    Expiry,
    /// A device that polls may have stayed away.
    PollGap(Arc<str>),
    /// Events may have to be sent again.
    Redeliver,
    /// Exchanges may have exceeded `exchange_timeout`.
    Overdue,
    /// Time to forget old names.
    Tick,
    /// Pinned links of this name may be needed by other callers.
    EasePins(Arc<str>),
    /// A request was held back for long enough, unless others keep coming.
    HeldBack(HeldBack),
    /// A gateway that requests were sent to may hang.
    CheckPeer(PeerId),
    /// The notice of a drain has expired: exchanges in progress may finish within this time.
    Drain(Duration),
    /// The listeners of all loops may be closed.
    DrainOn,
    /// Devices have had time to dial again and be redirected.
    StopListening,
    /// The drain's time is up.
    Stop,
}

/// A request that has taken the last idle link of its device, and was not sent yet.
#[derive(Clone, Copy)]
pub(super) struct HeldBack {
    pub(super) exchange: Key,
    pub(super) link: Id,
    pub(super) period: Duration,
    pub(super) periods_left: u32,
    /// The number of callers that waited when the period began.
    pub(super) waiting: usize,
}

/// The first alarm, which is set by the code that starts the loop.
pub(super) const FIRST_ALARM: u64 = 0;

pub(super) struct Alarms {
    set: HashMap<u64, Alarm>,
    latest: u64,
}

impl Default for Alarms {
    fn default() -> Self {
        Alarms { set: HashMap::from([(FIRST_ALARM, Alarm::Tick)]), latest: FIRST_ALARM }
    }
}

impl Alarms {
    /// Stores the reason of an alarm; returns the number for the loop.
    pub(super) fn add(&mut self, alarm: Alarm) -> u64 {
        self.latest += 1;
        self.set.insert(self.latest, alarm);
        self.latest
    }

    /// An alarm went off.
    pub(super) fn take(&mut self, number: u64) -> Option<Alarm> {
        self.set.remove(&number)
    }

    /// The number of alarms, without the one that is always set.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.set.values().filter(|alarm| !matches!(alarm, Alarm::Tick)).count()
    }
}
