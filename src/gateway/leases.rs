//! Links that are leased to programs. The loop keeps the registration of each, and a handle for
//! cutting it.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, Weak};

use crate::engine::permits::Permit;
use crate::error::Error;
use crate::gateway::registry::Registration;
use crate::link::CutError;
use crate::observe::Observed;
use crate::stream::Stream;

/// Identifies a leased link: the number of the loop that leased it, and a number of its own there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LeaseId(u64);

/// The number of bits for the number within a loop.
const NUMBER: u32 = 48;

impl LeaseId {
    /// Its number, for lists.
    pub(super) fn number(self) -> u64 {
        self.0
    }

    /// The number of the loop to which it is returned.
    pub(super) fn home(self) -> usize {
        (self.0 >> NUMBER) as usize
    }
}

/// A link or mailbox that a program's `send()` uses.
pub(crate) struct Lease {
    pub(crate) stream: Arc<Stream>,
    pub(crate) unread: Vec<u8>,
    pub(crate) of: Leased,
    /// The loop's reason for ending the exchange.
    pub(crate) cut_error: CutError,
    /// The device is an AirPlay sender.
    pub(crate) airplay: bool,
    /// The number of waiting callers, for the request to the device.
    pub(crate) waiting: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leased {
    /// A device's link, which is returned under this identifier.
    Link(LeaseId),
    /// One end of a socket pair, for a device that polls. The loop serves the other end like a
    /// visitor's; dropping this one ends it.
    Pair,
}

/// The loop's part of a leased link.
pub(super) struct LeasedLink {
    pub(super) registration: Arc<Registration>,
    pub(super) handle: Handle,
    /// Tells the program why the link was cut.
    pub(super) cut_error: CutError,
    pub(super) observed: Observed,
    /// Counts the connection until it is returned or ends.
    pub(super) permit: Option<Permit>,
}

pub(super) enum Handle {
    Weak(Weak<Stream>),
    Own(Stream),
    None,
}

pub(super) struct Leases {
    links: BTreeMap<LeaseId, LeasedLink>,
    latest: u64,
}

impl Leases {
    /// The leases of the loop with this number.
    pub(super) fn numbered(number: usize) -> Self {
        Leases { links: BTreeMap::new(), latest: (number as u64) << NUMBER }
    }

    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    pub(super) fn add(&mut self, link: LeasedLink) -> LeaseId {
        self.latest += 1;
        self.links.insert(LeaseId(self.latest), link);
        LeaseId(self.latest)
    }

    /// Removes a lease whose link is returned or has ended.
    pub(super) fn take(&mut self, lease: LeaseId) -> Option<LeasedLink> {
        self.links.remove(&lease)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (LeaseId, &LeasedLink)> {
        self.links.iter().map(|(lease, link)| (*lease, link))
    }

    pub(super) fn registrations(&self) -> impl Iterator<Item = &Registration> {
        self.links.values().map(|link| &*link.registration)
    }

    /// The leases whose registration matches.
    pub(super) fn ids(&self, of: impl Fn(&Registration) -> bool) -> Vec<LeaseId> {
        let found = self.links.iter().filter(|(_, link)| of(&link.registration));
        found.map(|(lease, _)| *lease).collect()
    }

    /// Wakes a program's thread that is blocked on a leased link: its next read or write fails with
    /// this error.
    pub(super) fn cut(&self, lease: LeaseId, why: Error) {
        let Some(link) = self.links.get(&lease) else { return };
        link.cut_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        let cut = match &link.handle {
            Handle::Weak(stream) => stream.upgrade().map(|stream| stream.cut()),
            Handle::Own(stream) => Some(stream.cut()),
            Handle::None => None,
        };
        if let Some(Err(e)) = cut {
            log_names!(Debug, "a leased link was already closed: {e}");
        }
    }
}
