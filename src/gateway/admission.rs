//! Admission before any byte is read: allowed networks, permits for each address and each side, a
//! bound on unauthenticated connections, and the connections that are closed when there is no room.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::engine::connections::{Connections, Id};
use crate::engine::permits::{Permit, Permits};
use crate::gateway::bounds::Bound;
use crate::gateway::tokens::Whose;
use crate::limits::Limits;
use crate::proto::forwarded::Network;
use crate::setting::DEVICES_ALLOW;

/// A port whose clients have to authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Devices,
    /// The port for other gateways.
    Peers,
}

/// Unauthenticated connections of all loops to one port.
#[derive(Clone, Default)]
pub(super) struct Unseen {
    /// Counts them.
    permits: Permits,
    /// In order of arrival, each with its loop. Connections that were authenticated since, or have
    /// ended, are skipped later.
    queue: Arc<Mutex<VecDeque<(usize, Id)>>>,
}

impl Unseen {
    /// Those of devices, which are counted by the permits of all connections.
    fn of_devices(permits: &Permits) -> Self {
        Unseen { permits: permits.clone(), queue: Arc::default() }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<(usize, Id)>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part that all loops share: permits and unauthenticated connections.
#[derive(Clone)]
pub(super) struct SharedAdmission {
    permits: Permits,
    devices: Unseen,
    peers: Unseen,
}

impl SharedAdmission {
    pub(super) fn new() -> Self {
        let permits = Permits::default();
        SharedAdmission { devices: Unseen::of_devices(&permits), peers: Unseen::default(), permits }
    }
}

/// One loop's part in a queue of unauthenticated connections.
struct Newcomers {
    all: Unseen,
    /// An upper bound on this loop's entries in the queue.
    noted: usize,
    number: usize,
}

impl Newcomers {
    fn of(all: Unseen, number: usize) -> Self {
        Newcomers { all, noted: 0, number }
    }

    /// Adds a connection. At most twice `most` entries of each loop are kept, and this one.
    fn note<T>(&mut self, cx: &Connections<T>, id: Id, most: usize) {
        let (number, mut noted) = (self.number, self.noted + 1);
        let mut queue = self.all.queue();
        queue.push_back((number, id));
        if noted > most.saturating_mul(2) {
            queue.retain(|(of, id)| *of != number || cx.is_unseen(*id));
            noted = queue.iter().filter(|(of, _)| *of == number).count(); // about `most`, so the next sweep is far away
        }
        drop(queue);
        self.noted = noted;
    }

    /// The oldest one, with the number of its loop, if there are too many. One of another loop may
    /// have been authenticated meanwhile.
    fn oldest<T>(&self, cx: &Connections<T>, most: usize) -> Option<(usize, Id)> {
        if self.all.permits.unseen() <= most {
            return None;
        }
        let mut queue = self.all.queue();
        std::iter::from_fn(|| queue.pop_front())
            .find(|(of, id)| *of != self.number || cx.is_unseen(*id))
    }

    fn is_here<T>(&self, cx: &Connections<T>, (of, id): &(usize, Id)) -> bool {
        *of == self.number && cx.is_unseen(*id)
    }

    /// Returns true if one of them is this loop's.
    fn are_here<T>(&self, cx: &Connections<T>) -> bool {
        self.all.permits.unseen() > 0
            && self.all.queue().iter().any(|entry| self.is_here(cx, entry))
    }

    /// The oldest of them that is this loop's.
    fn oldest_here<T>(&self, cx: &Connections<T>) -> Option<Id> {
        if self.all.permits.unseen() == 0 {
            return None;
        }
        let mut queue = self.all.queue();
        let at = queue.iter().position(|entry| self.is_here(cx, entry))?;
        queue.remove(at).map(|(_, id)| id)
    }
}

/// The networks from which one side's connections come.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    /// The allowed networks; all if empty.
    pub(super) allow: Vec<Network>,
    /// Load balancers, whose connections begin with a PROXY header that names the client.
    pub(super) balancers: Vec<Network>,
}

/// The rules and counters of both sides.
pub(crate) struct Admission {
    devices: Sources,
    visitors: Sources,
    pub(super) permits: Permits,
    new_devices: Newcomers,
    new_peers: Newcomers,
    /// Visitors' connections that were idle in the last search, the first to be closed in front.
    /// Each has its deadline of that time: if the deadline has changed, the connection was not idle
    /// all the time.
    pub(super) idle: VecDeque<(Instant, Id)>,
    /// The time at which the search found few of them.
    pub(super) few: Option<Instant>,
}

impl Admission {
    /// The admission of the loop of this number. Permits are counted for all loops.
    pub(super) fn new(
        devices: Sources,
        visitors: Sources,
        shared: SharedAdmission,
        number: usize,
    ) -> Self {
        Admission {
            devices,
            visitors,
            permits: shared.permits,
            new_devices: Newcomers::of(shared.devices, number),
            new_peers: Newcomers::of(shared.peers, number),
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

    /// Returns true if connections from this address have to begin with a PROXY header.
    pub(super) fn is_balancer(&self, side: Whose, from: IpAddr) -> bool {
        self.sources(side).balancers.iter().any(|network| network.contains(from))
    }

    /// The permit of a load balancer's connection whose client is still unknown: it counts only for
    /// its side, and for devices among the unauthenticated ones.
    pub(super) fn open_unnamed(
        &self,
        side: Whose,
        from: SocketAddr,
    ) -> Result<Permit, Option<Bound>> {
        let permit = self.permits.take(from.ip(), side as usize, usize::MAX).ok_or(None)?;
        Ok(self.counted(permit, side))
    }

    /// The permit of a connection from this address.
    ///
    /// # Errors
    /// It has to be closed; with the bound that was reached, if it is one.
    pub(super) fn open(
        &self,
        side: Whose,
        from: SocketAddr,
        trusted: bool,
        limits: &Limits,
    ) -> Result<Permit, Option<Bound>> {
        if matches!(side, Whose::Devices) && !self.allows(side, from.ip()) {
            log_names!(
                Info,
                "a connection from {from} to the devices' port was closed: no allowed network has its address ({DEVICES_ALLOW})"
            );
            return Err(None);
        }
        let most = if trusted { usize::MAX } else { limits.connections_per_address() };
        let permit = self.permits.take(from.ip(), side as usize, most);
        if permit.is_none() {
            log_names!(
                Warn,
                "a connection from {from} was closed: its address has as many as connections_per_address_max allows ({most})"
            );
        }
        let permit = permit.ok_or(Some(Bound::ConnectionsPerAddress))?;
        Ok(self.counted(permit, side))
    }

    fn counted(&self, permit: Permit, side: Whose) -> Permit {
        match side {
            Whose::Devices => permit.unseen(&self.permits),
            Whose::Visitors => permit,
        }
    }

    /// The permit of a connection at the peers' port. All visitors of another gateway come from one
    /// address, so only unauthenticated connections are counted for it.
    pub(super) fn open_peer(
        &self,
        from: SocketAddr,
        limits: &Limits,
    ) -> Result<Permit, Option<Bound>> {
        let most = limits.strangers_per_address();
        let permit = self.permits.take_any(Whose::Visitors as usize);
        let permit = permit.unseen_of(&self.new_peers.all.permits, from.ip(), most);
        if permit.is_none() {
            log_names!(
                Warn,
                "a connection from {from} to the peers' port was closed: its address has as many unauthenticated ones as are allowed ({most}, half of unauthenticated_max)"
            );
        }
        permit.ok_or(Some(Bound::Unauthenticated))
    }

    fn newcomers(&self, port: Port) -> &Newcomers {
        match port {
            Port::Devices => &self.new_devices,
            Port::Peers => &self.new_peers,
        }
    }

    /// Notes a new connection to this port. At most twice `most` entries of each loop are kept, and
    /// this one.
    pub(super) fn note_unseen<T>(
        &mut self,
        cx: &Connections<T>,
        (port, id): (Port, Id),
        most: usize,
    ) {
        match port {
            Port::Devices => self.new_devices.note(cx, id, most),
            Port::Peers => self.new_peers.note(cx, id, most),
        }
    }

    /// The oldest unauthenticated connection to this port, with the number of its loop, if there
    /// are too many. One of another loop may have been authenticated meanwhile.
    pub(super) fn oldest<T>(
        &self,
        cx: &Connections<T>,
        port: Port,
        most: usize,
    ) -> Option<(usize, Id)> {
        self.newcomers(port).oldest(cx, most)
    }

    /// Returns true if this loop has an unauthenticated connection to this port.
    pub(super) fn has_unseen<T>(&self, cx: &Connections<T>, port: Port) -> bool {
        self.newcomers(port).are_here(cx)
    }

    /// The oldest of them that is this loop's.
    pub(super) fn oldest_here<T>(&self, cx: &Connections<T>, port: Port) -> Option<Id> {
        self.newcomers(port).oldest_here(cx)
    }
}
