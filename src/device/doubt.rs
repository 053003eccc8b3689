//! Whether turned connections carry anything here.

use std::time::Instant;

/// Whether links carry bytes on this network path. No single sign decides: a foreign gateway that
/// sends neither requests nor heartbeats looks like an intermediary that lets the 101 pass and
/// drops the rest, until a poll beside the links brings an event that should have come over them.
#[derive(Default)]
pub(super) struct Doubt {
    /// The time of the first link, if no link has carried a byte since; or, with `tries`, the time
    /// at which the last poll beside the links brought no event.
    pub(super) since: Option<Instant>,
    /// Consecutive polls beside the links without an event: the next one waits twice as long.
    pub(super) tries: u32,
    /// The time for which the alarm is set.
    pub(super) alarm: Option<Instant>,
    /// Links were given up before in this run: new links are doubted at once.
    pub(super) again: bool,
}
