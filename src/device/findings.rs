//! Findings from the latest attempts, and about the current gateway.

use std::time::Instant;

use crate::engine::slab::Key;

/// The results of the latest attempts to get a link.
#[derive(Debug, Default)]
pub(super) struct Tries {
    /// Consecutive failed attempts.
    pub(super) failed: u32,
    /// An offer was accepted since the last failure, so further dials need not be made one by one.
    pub(super) answered: bool,
    /// The last failure was a link that ended right after its 101, so another 101 proves nothing.
    pub(super) doubtful: bool,
    /// The last refusal said that the gateway is stopping.
    pub(super) stopping: bool,
    /// Consecutive links that the gateway ended after a short time.
    pub(super) brief: usize,
    /// Consecutive goaways on links that were younger than a second.
    pub(super) quick_goaways: usize,
    /// When the last of these arrived. Goaways on older links belong to the same event.
    pub(super) last_goaway: Option<Instant>,
    /// Consecutive links that ended unused right after their 101.
    pub(super) quick_ends: u32,
    /// Consecutive links on which the gateway violated the protocol right after the 101.
    pub(super) quick_faults: usize,
}

/// Findings about the current gateway.
#[derive(Debug, Default)]
pub(super) struct Signs {
    /// The gateway holds offers until there is a request, so a pending or held offer counts as
    /// connected.
    pub(super) holds: bool,
    /// The gateway has accepted or held an offer, or answered with the fallback, at some time.
    pub(super) welcomed: bool,
    pub(super) waiting: bool,
    /// A heartbeat arrived on any link: from then on all links are watched for silence, because a
    /// link may be lost before its first heartbeat.
    pub(super) beaten: bool,
}

/// The progress of a stopping device with its idle links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parting {
    /// The links are closed by the device itself.
    No,
    /// The POST of this slot asks the gateway for goaways.
    Asks(Key),
    /// The gateway has taken the POST.
    Heard,
}
