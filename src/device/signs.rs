//! What the latest attempts and the gateway itself have shown.

use std::time::Instant;

use crate::engine::slab::Key;

/// How the latest attempts to get a link went.
#[derive(Debug, Default)]
pub(super) struct Tries {
    /// Attempts that failed since the last that did not.
    pub(super) failed: u32,
    /// An offer was turned since the last failure: what else is wanted need not wait for its turn.
    pub(super) answered: bool,
    /// The last failure was a link that ended as soon as it was turned: another 101 proves nothing.
    pub(super) doubtful: bool,
    /// The last refusal said that the gateway stops.
    pub(super) stopping: bool,
    /// Links in a row that the gateway ended after a short while.
    pub(super) brief: usize,
    /// Goaways in a row on links that had hardly begun.
    pub(super) quick_goaways: usize,
    /// When the last of those came. Links that turned before it are told to go by the same event.
    pub(super) last_goaway: Option<Instant>,
    /// Links in a row that ended unused as soon as they were turned.
    pub(super) quick_ends: u32,
    /// Links in a row that brought as soon as they were turned what no gateway may send.
    pub(super) quick_faults: usize,
}

/// What the current gateway has shown of itself.
#[derive(Debug, Default)]
pub(super) struct Signs {
    /// The gateway holds offers until somebody asks: one that is on its way, or waits there, is a
    /// way in.
    pub(super) holds: bool,
    /// An offer was turned, or held, or answered by the fallback, some time.
    pub(super) welcomed: bool,
    pub(super) waiting: bool,
    /// A heartbeat came, on whichever link: from then on silence is watched on all, for a link may
    /// be lost before its first.
    pub(super) beaten: bool,
}

/// How far a device that stops has come with its idle links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parting {
    /// They are closed.
    No,
    /// The POST of this slot asks the gateway to let them go.
    Asks(Key),
    /// The gateway has heard it.
    Heard,
}
