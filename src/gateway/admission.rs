//! Admission before any byte is read: allowed networks, permits for each address and each side, a
//! bound on unauthenticated connections, and the connections that give way.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::engine::connections::{Connections, Id};
use crate::engine::permits::{Permit, Permits};
use crate::gateway::tokens::Whose;
use crate::limits::Limits;
use crate::proto::forwarded::Network;

/// What is counted before connections are let in.
pub(crate) struct Admission {
    pub(super) devices_allow: Vec<Network>,
    pub(super) visitors_allow: Vec<Network>,
    pub(super) permits: Permits,
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
            permits: Permits::default(),
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
                "a connection from {from} to the devices' port was closed: no allowed network has its address (--devices-allow)"
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
        permit.map(|permit| match side {
            Whose::Devices => permit.unseen(&self.permits),
            Whose::Visitors => permit,
        })
    }

    /// The oldest unauthenticated connection of a device, where there are too many.
    pub(super) fn oldest<T>(&mut self, cx: &Connections<T>, most: usize) -> Option<Id> {
        if self.permits.unseen() <= most {
            return None;
        }
        std::iter::from_fn(|| self.unseen.pop_front()).find(|id| cx.is_unseen(*id))
    }
}
