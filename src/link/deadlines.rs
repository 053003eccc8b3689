//! Deadlines of a link: of one wait, and of a whole exchange.

use std::time::{Duration, Instant};

use crate::error::{Error, Fault};

/// One deadline: its name in [`Limits`](crate::Limits) and its length, for the error. `None` for no
/// limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeout {
    pub(super) name: &'static str,
    pub(super) time: Option<Duration>,
}

impl Timeout {
    pub(super) fn new(name: &'static str, time: Duration) -> Self {
        Timeout { name, time: Some(time) }
    }
}

/// The deadline of a whole exchange, and its name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole {
    ends: Instant,
    time: Duration,
    name: &'static str,
}

impl Whole {
    /// A deadline after this time from now. `None` if the time is zero, which means no limit.
    pub(crate) fn new(name: &'static str, time: Duration, now: Instant) -> Option<Self> {
        let ends = now.checked_add(time)?;
        (!time.is_zero()).then_some(Whole { ends, time, name })
    }

    /// Its name for programs.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// The remaining time.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        self.ends.saturating_duration_since(now)
    }

    /// Returns true if it has passed, within the accuracy of socket timeouts.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.left(now) <= self.time / 8
    }

    /// The error for the caller that was waiting.
    pub(crate) fn error(&self, peer: Fault, doing: &str) -> Error {
        Error::timeout(
            peer,
            format!("{doing}: the exchange did not end within {} ({:?})", self.name, self.time),
        )
    }
}
