//! Whether turned connections carry anything here.

use std::time::Instant;

/// Whether turned connections carry anything here. No single sign decides: a foreign gateway that
/// never asks, and sends no heartbeats, looks like a box that lets the 101 pass and swallows the
/// rest, until a poll beside the links brings what should have come over them.
#[derive(Default)]
pub(super) struct Doubt {
    /// A link was turned then, and none has carried anything since; or, with `tries`, when the last
    /// poll beside the links came to nothing.
    pub(super) since: Option<Instant>,
    /// Polls beside the links that came to nothing, in a row: the next one waits twice as long.
    pub(super) tries: u32,
    /// When the alarm that is set goes off.
    pub(super) alarm: Option<Instant>,
    /// They carried nothing before, in this run: the next links are doubted at once.
    pub(super) again: bool,
}
