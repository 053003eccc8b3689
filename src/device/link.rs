//! A turned connection, as the event loop knows it.

use std::time::Instant;

use crate::engine::connections::Id;
use crate::engine::slab::Key;

/// A turned connection in the loop.
#[derive(Clone, Copy)]
pub(crate) struct Link {
    pub(super) exchange: Option<Key>,
    /// It is the virtual link of this poll slot: no link of the gateway's, and not counted as one.
    pub(super) slot: Option<Key>,
    pub(super) since: Instant,
    /// A heartbeat came on it while it was leased.
    pub(super) beaten: bool,
    /// Some of a head is here.
    pub(super) began: bool,
    /// A request came on it: it was of use.
    pub(super) used: bool,
    /// Its offer was held: it was turned because somebody asked.
    pub(super) held: bool,
    /// The local connection that its visitor is logged in on, idle.
    pub(super) bound: Option<Id>,
}

impl Link {
    pub(super) fn new(slot: Option<Key>, since: Instant) -> Self {
        Link {
            exchange: None,
            slot,
            since,
            beaten: false,
            began: false,
            used: false,
            held: false,
            bound: None,
        }
    }
}
