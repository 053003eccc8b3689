//! The time for what runs on threads of its own. The simulation puts its clock in its place, so that
//! a seed tells all; an event loop has the time from its connections.

use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    /// When the current turn of this thread's event loop began.
    static TURN: Cell<Option<Instant>> = const { Cell::new(None) };
}

pub(crate) fn now() -> Instant {
    #[cfg(test)]
    if let Some(now) = crate::sim::net::instant() {
        return now;
    }
    Instant::now()
}

/// The time at which the current turn of this thread's event loop began, and the time now on other
/// threads. Unlike the clock of the loop's connections it includes the time for which the process
/// was stopped, so it may be compared with that of other threads. It costs no call of the operating
/// system.
pub(crate) fn of_turn() -> Instant {
    TURN.get().unwrap_or_else(now)
}

/// A turn of this thread's event loop begins; `None`: its last one has ended.
pub(super) fn set_turn(began: Option<Instant>) {
    TURN.set(began);
}

/// How long ago `at` was.
pub(crate) fn since(at: Instant) -> Duration {
    now().saturating_duration_since(at)
}
