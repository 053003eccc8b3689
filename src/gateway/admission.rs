//! Admission before any byte is read: allowed networks, permits for each address and each side, a
//! bound on unauthenticated connections, and the connections that give way.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::engine::connections::{Connections, Id};
use crate::engine::permits::{Permit, Permits};
use crate::gateway::tokens::Whose;
use crate::limits::Limits;
use crate::proto::forwarded::Network;
use crate::setting::DEVICES_ALLOW;

/// Connections in the devices' door.
pub(super) type Unseen = Arc<Mutex<VecDeque<(usize, Id)>>>;

/// Where one side's connections come from.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    /// Networks that are let in; none: all.
    pub(super) allow: Vec<Network>,
    /// Balancers, whose connections begin with a PROXY header that names the peer.
    pub(super) balancers: Vec<Network>,
}

/// The two doors, and what they count.
pub(crate) struct Admission {
    devices: Sources,
    visitors: Sources,
    pub(super) permits: Permits,
    /// Devices' connections of all loops in the order they came, each with its loop; those that were
    /// let in since, or are gone, are skipped when their turn comes.
    unseen: Unseen,
    /// Entries of this loop there, at most.
    noted: usize,
    number: usize,
    /// Visitors' connections that idled when they were last looked for, the first to give way in
    /// front, each with its deadline then: one that moved since was not idle all the time.
    pub(super) idle: VecDeque<(Instant, Id)>,
    /// When there were few of them.
    pub(super) few: Option<Instant>,
}

impl Admission {
    /// The doors of the loop of this number. Places are counted for all loops.
    pub(super) fn new(
        devices: Sources,
        visitors: Sources,
        (permits, unseen): (Permits, Unseen),
        number: usize,
    ) -> Self {
        Admission {
            devices,
            visitors,
            permits,
            unseen,
            noted: 0,
            number,
            idle: VecDeque::new(),
            few: None,
        }
    }

    fn sources(&self, side: Whose) -> &Sources {
        match side {
            Whose::Devices => &self.devices,
            Whose::Visitors => &self.visitors,
        }
    }

    pub(super) fn allows(&self, side: Whose, from: IpAddr) -> bool {
        let networks = &self.sources(side).allow;
        networks.is_empty() || networks.iter().any(|network| network.contains(from))
    }

    /// Returns true if connections from this address begin with a PROXY header.
    pub(super) fn is_balancer(&self, side: Whose, from: IpAddr) -> bool {
        self.sources(side).balancers.iter().any(|network| network.contains(from))
    }

    /// The permit of a balancer's connection whose peer is not known yet: it counts for its side
    /// alone, and among the unauthenticated ones of devices.
    pub(super) fn open_unnamed(&self, side: Whose, from: SocketAddr) -> Option<Permit> {
        let permit = self.permits.take(from.ip(), side as usize, usize::MAX);
        permit.map(|permit| self.counted(permit, side))
    }

    /// The permit of a connection from this address; `None`: it is to be closed.
    pub(super) fn open(
        &self,
        side: Whose,
        from: SocketAddr,
        trusted: bool,
        limits: &Limits,
    ) -> Option<Permit> {
        if matches!(side, Whose::Devices) && !self.allows(side, from.ip()) {
            log_names!(
                Info,
                "a connection from {from} to the devices' port was closed: no allowed network has its address ({DEVICES_ALLOW})"
            );
            return None;
        }
        let most = if trusted { usize::MAX } else { limits.connections_per_address() };
        let permit = self.permits.take(from.ip(), side as usize, most);
        if permit.is_none() {
            log_names!(
                Warn,
                "a connection from {from} was closed: its address has as many as connections_per_address_max allows ({most})"
            );
        }
        permit.map(|permit| self.counted(permit, side))
    }

    fn counted(&self, permit: Permit, side: Whose) -> Permit {
        match side {
            Whose::Devices => permit.unseen(&self.permits),
            Whose::Visitors => permit,
        }
    }

    fn unseen(&self) -> MutexGuard<'_, VecDeque<(usize, Id)>> {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A device's connection is new. At most twice `most` entries of each loop stay, and this one.
    pub(super) fn note_unseen<T>(&mut self, cx: &Connections<T>, id: Id, most: usize) {
        let (number, mut noted) = (self.number, self.noted + 1);
        let mut unseen = self.unseen();
        unseen.push_back((number, id));
        if noted > most.saturating_mul(2) {
            unseen.retain(|(of, id)| *of != number || cx.is_unseen(*id));
            noted = unseen.iter().filter(|(of, _)| *of == number).count(); // about `most`, so it is not done again soon
        }
        drop(unseen);
        self.noted = noted;
    }

    /// The oldest of those in the devices' door, with the number of its loop, where there are too
    /// many. Another loop's may have been let in meanwhile.
    pub(super) fn oldest<T>(&self, cx: &Connections<T>, most: usize) -> Option<(usize, Id)> {
        if self.permits.unseen() <= most {
            return None;
        }
        let mut unseen = self.unseen();
        std::iter::from_fn(|| unseen.pop_front())
            .find(|(of, id)| *of != self.number || cx.is_unseen(*id))
    }

    /// Returns true if one of those in the devices' door is this loop's.
    pub(super) fn has_unseen<T>(&self, cx: &Connections<T>) -> bool {
        let is_here = |(of, id): &(usize, Id)| *of == self.number && cx.is_unseen(*id);
        self.permits.unseen() > 0 && self.unseen().iter().any(is_here)
    }

    /// The oldest of them that is this loop's.
    pub(super) fn oldest_here<T>(&self, cx: &Connections<T>) -> Option<Id> {
        let mut unseen = self.unseen();
        let is_here = |(of, id): &(usize, Id)| *of == self.number && cx.is_unseen(*id);
        let at = unseen.iter().position(is_here)?;
        unseen.remove(at).map(|(_, id)| id)
    }
}
