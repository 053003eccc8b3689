//! The time for what runs on threads of its own. The simulation puts its clock in its place, so that
//! a seed tells all; an event loop has the time from its connections.

use std::time::{Duration, Instant};

pub(crate) fn now() -> Instant {
    #[cfg(test)]
    if let Some(now) = crate::sim::net::instant() {
        return now;
    }
    Instant::now()
}

/// How long ago `at` was.
pub(crate) fn since(at: Instant) -> Duration {
    now().saturating_duration_since(at)
}
