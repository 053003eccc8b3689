//! The phases of a gateway: serving, notice, draining, stopped.

use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Lifecycle {
    #[default]
    Serving,
    /// The gateway is about to stop; the notice ends at this time. Everything is still served, but
    /// responses close their visitors' connections, and new devices are refused.
    Notice(Instant),
    /// No new request is taken; exchanges in progress may finish.
    Draining,
    /// The remaining exchanges have been ended.
    Stopped,
}

impl Lifecycle {
    /// Returns true since the beginning of the notice.
    pub(super) fn is_ending(self) -> bool {
        self != Lifecycle::Serving
    }

    /// Returns true if no new requests are taken.
    pub(super) fn is_draining(self) -> bool {
        matches!(self, Lifecycle::Draining | Lifecycle::Stopped)
    }

    pub(super) fn is_stopped(self) -> bool {
        self == Lifecycle::Stopped
    }

    /// Gives notice until this time; of several notices the earliest end counts.
    pub(super) fn give_notice(&mut self, ends: Instant) {
        match self {
            Lifecycle::Serving => *self = Lifecycle::Notice(ends),
            Lifecycle::Notice(earlier) => *earlier = ends.min(*earlier),
            Lifecycle::Draining | Lifecycle::Stopped => {}
        }
    }

    /// Ends the notice. Returns false if that was done before.
    pub(super) fn drain(&mut self) -> bool {
        let first = !self.is_draining();
        if first {
            *self = Lifecycle::Draining;
        }
        first
    }

    pub(super) fn stop(&mut self) {
        *self = Lifecycle::Stopped;
    }

    /// The remaining time of the notice.
    pub(super) fn notice_left(self, now: Instant) -> Duration {
        match self {
            Lifecycle::Notice(ends) => ends.saturating_duration_since(now),
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_goes_one_way() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut life = Lifecycle::default();
        assert!(!life.is_ending() && life.notice_left(now).is_zero());
        life.give_notice(at(5));
        life.give_notice(at(9));
        assert!(life.is_ending() && !life.is_draining());
        assert_eq!(life.notice_left(now), Duration::from_secs(5));
        assert!(life.drain() && !life.drain());
        life.give_notice(at(1));
        assert!(life.is_draining() && !life.is_stopped());
        life.stop();
        assert!(!life.drain() && life.is_stopped() && life.is_draining());
    }
}
