//! The event loop's state of a link.

use std::time::Instant;

use crate::engine::connections::Id;
use crate::engine::slab::Key;

/// A link in the event loop.
#[derive(Clone, Copy)]
pub(crate) struct Link {
    pub(super) exchange: Option<Key>,
    /// It is the virtual link of this poll slot, and does not count as a link.
    pub(super) slot: Option<Key>,
    pub(super) since: Instant,
    /// A heartbeat arrived on it while it was leased.
    pub(super) beaten: bool,
    /// It has an incomplete head.
    pub(super) began: bool,
    /// It has carried a request.
    pub(super) used: bool,
    /// Its offer was held, and accepted because there was a request.
    pub(super) held: bool,
    /// The idle local connection on which its visitor is logged in.
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
