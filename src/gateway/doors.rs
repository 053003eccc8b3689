//! Who may come in at all, before a word is said: allowed networks, places for each address, and how many may stand in the door.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use crate::engine::peers::{Id, Peers};
use crate::engine::places::{Place, Places};
use crate::gateway::role::{GatewayRole, State};
use crate::gateway::tokens::Whose;
use crate::limits::Limits;
use crate::proto::forwarded::Network;
use crate::relay::LocalAnswer;

/// The two doors, and what they count.
pub(crate) struct Doors {
    devices_allow: Vec<Network>,
    visitors_allow: Vec<Network>,
    places: Places,
    /// Devices' connections in the order they came; those that were let in since, or are gone, are skipped when their turn comes.
    unseen: VecDeque<Id>,
}

impl Doors {
    pub(super) fn new(devices_allow: Vec<Network>, visitors_allow: Vec<Network>) -> Self {
        Doors { devices_allow, visitors_allow, places: Places::default(), unseen: VecDeque::new() }
    }

    fn allows(&self, side: Whose, from: IpAddr) -> bool {
        let networks = match side {
            Whose::Devices => &self.devices_allow,
            Whose::Visitors => &self.visitors_allow,
        };
        networks.is_empty() || networks.iter().any(|network| network.contains(from))
    }

    /// The place of a connection from this address; `None`: it is to be closed.
    pub(super) fn open(&self, side: Whose, from: SocketAddr, trusted: bool, limits: &Limits) -> Option<Place> {
        if matches!(side, Whose::Devices) && !self.allows(side, from.ip()) {
            log_peers!(
                Info,
                "a connection from {from} to the devices' port was closed: no allowed network has its address (--devices-allow)"
            );
            return None;
        }
        let most = if trusted { usize::MAX } else { limits.connections_per_address_max };
        let place = self.places.take(from.ip(), most);
        if place.is_none() {
            log_peers!(Warn, "a connection from {from} was closed: its address has as many as connections_per_address_max allows ({most})");
        }
        place.map(|place| if matches!(side, Whose::Devices) { place.unseen(&self.places) } else { place })
    }

    /// The oldest of those in the devices' door, where there are too many.
    fn oldest(&mut self, cx: &Peers<State>, most: usize) -> Option<Id> {
        if self.places.unseen() <= most {
            return None;
        }
        std::iter::from_fn(|| self.unseen.pop_front()).find(|id| cx.is_unseen(*id))
    }
}

impl GatewayRole {
    /// Seats a new connection. False: it is being closed.
    pub(super) fn come_in(&mut self, cx: &mut Peers<State>, id: Id, side: Whose, from: SocketAddr, secure: bool, place: Place) -> bool {
        cx.seat(id, Some(place));
        match side {
            Whose::Visitors if !self.doors.allows(side, from.ip()) && secure => {
                log_peers!(Info, "a visitor from {from} was closed: no allowed network has its address (--visitors-allow)");
                cx.close(id); // before the handshake there is no way to tell it
                return false;
            }
            Whose::Visitors if !self.doors.allows(side, from.ip()) => {
                log_peers!(Info, "a visitor from {from} got 403: no allowed network has its address (--visitors-allow)");
                let answer = LocalAnswer::new(403, "this address may not ask here (--visitors-allow)");
                self.refuse(cx, id, &LocalAnswer { error: Some("http_request_denied"), ..answer });
                return false;
            }
            Whose::Visitors => {}
            Whose::Devices => {
                let most = self.limits.unauthenticated_max;
                self.doors.unseen.push_back(id);
                if self.doors.unseen.len() > most.saturating_mul(2) {
                    self.doors.unseen.retain(|id| cx.is_unseen(*id)); // at most `most` and this one stay, so it is not done again soon
                }
                while let Some(oldest) = self.doors.oldest(cx, most) {
                    log_peers!(Warn, "a connection to the devices' port was closed: unauthenticated_max ({most}) others wait behind it");
                    cx.close(oldest);
                }
            }
        }
        true
    }
}
