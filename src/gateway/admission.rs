//! Who may come in at all, before a word is said: allowed networks, places for each address and
//! each side, how many may stand in the door, and who gives way.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::engine::connections::{Connections, Id};
use crate::engine::permits::{Permit, Permits};
use crate::gateway::tokens::Whose;
use crate::limits::Limits;
use crate::proto::forwarded::Network;

/// The two doors, and what they count.
pub(crate) struct Admission {
    pub(super) devices_allow: Vec<Network>,
    pub(super) visitors_allow: Vec<Network>,
    pub(super) places: Permits,
    /// Devices' connections in the order they came; those that were let in since, or are gone, are
    /// skipped when their turn comes.
    pub(super) unseen: VecDeque<Id>,
    /// Visitors' connections that idled when they were last looked for, the first to give way in
    /// front, each with its deadline then: one that moved since was not idle all the time.
    pub(super) idle: VecDeque<(Instant, Id)>,
    /// When there were few of them.
    pub(super) few: Option<Instant>,
}

impl Admission {
    pub(super) fn new(devices_allow: Vec<Network>, visitors_allow: Vec<Network>) -> Self {
        Admission {
            devices_allow,
            visitors_allow,
            places: Permits::default(),
            unseen: VecDeque::new(),
            idle: VecDeque::new(),
            few: None,
        }
    }

    pub(super) fn allows(&self, side: Whose, from: IpAddr) -> bool {
        let networks = match side {
            Whose::Devices => &self.devices_allow,
            Whose::Visitors => &self.visitors_allow,
        };
        networks.is_empty() || networks.iter().any(|network| network.contains(from))
    }

    /// The place of a connection from this address; `None`: it is to be closed.
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
                "a connection from {from} to the devices' port was closed: no allowed network has its address (--devices-allow)"
            );
            return None;
        }
        let most = if trusted { usize::MAX } else { limits.connections_per_address() };
        let place = self.places.take(from.ip(), side as usize, most);
        if place.is_none() {
            log_names!(
                Warn,
                "a connection from {from} was closed: its address has as many as connections_per_address_max allows ({most})"
            );
        }
        place.map(
            |place| if matches!(side, Whose::Devices) { place.unseen(&self.places) } else { place },
        )
    }

    /// The oldest of those in the devices' door, where there are too many.
    pub(super) fn oldest<T>(&mut self, cx: &Connections<T>, most: usize) -> Option<Id> {
        if self.places.unseen() <= most {
            return None;
        }
        std::iter::from_fn(|| self.unseen.pop_front()).find(|id| cx.is_unseen(*id))
    }
}
