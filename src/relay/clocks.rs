//! The starting points of an exchange's waits: the last progress, and windows of the minimum rate.

use std::time::{Duration, Instant};

use crate::limits::Limits;
use crate::relay::timeouts::Wait;

pub(super) struct Clocks {
    /// When a byte last moved.
    pub(super) progress: Instant,
    /// The number of bytes that had moved by then.
    pub(super) seen: u64,
    /// The window in which the downstream side takes its response.
    pub(super) taking: Option<Window>,
    /// The window in which the downstream side sends its request.
    pub(super) sending: Option<Window>,
    /// Replaces all other deadlines, for a heartbeat, or for a short rest of a response that is
    /// drained after its client has left.
    pub(super) whole_within: Option<Wait>,
    /// The gateway or device is stopping, so a half-ended exchange is not waited for.
    pub(super) is_hurried: bool,
}

impl Clocks {
    pub(super) fn new(now: Instant, whole_within: Option<Wait>) -> Self {
        Clocks {
            progress: now,
            seen: 0,
            taking: None,
            sending: None,
            whole_within,
            is_hurried: false,
        }
    }

    /// From now on `wait` is the only deadline.
    pub(super) fn restart_within(&mut self, wait: Wait, now: Instant) {
        (self.whole_within, self.progress) = (Some(wait), now);
    }

    /// From now on the usual deadlines apply again.
    pub(super) fn go_on(&mut self, now: Instant) {
        (self.whole_within, self.progress) = (None, now);
    }
}

/// A window of the minimum rate: its beginning, and how many bytes had moved by then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    from: Instant,
    had: u64,
}

impl Window {
    pub(super) fn new(from: Instant, had: u64) -> Self {
        Window { from, had }
    }

    pub(super) fn left(&self, now: Instant, limits: &Limits) -> Duration {
        left(self.from, limits.min_rate_window, now)
    }

    pub(super) fn is_over(&self, now: Instant, limits: &Limits) -> bool {
        self.left(now, limits).is_zero()
    }

    /// Returns true if too few bytes have moved so far.
    pub(super) fn is_slow(&self, has: u64, now: Instant, limits: &Limits) -> bool {
        let seconds = now.saturating_duration_since(self.from).as_secs_f64();
        (has.saturating_sub(self.had) as f64) < limits.min_rate_bytes_per_s as f64 * seconds
    }
}

/// The rest of a time that began at `from`.
pub(super) fn left(from: Instant, time: Duration, now: Instant) -> Duration {
    time.saturating_sub(now.saturating_duration_since(from))
}
