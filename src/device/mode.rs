//! Whether a device dials links or polls, and whether its requests offer the upgrade
//! (protocol.md §2.3).
//!
//! Each reply of the gateway decides for itself; the mode is the result of the last decisive one.

use std::time::Instant;

use crate::proto::turn::Fallback;

/// How a device reaches its gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Links are dialled: there was no reply yet, or the last decisive one was a 101.
    Links,
    /// Polls are sent, and each offers the upgrade: the last decisive reply was one of the
    /// fallback.
    Polls,
    /// Polls are sent without `Upgrade` until this time, because an intermediary rejects it. The
    /// next mode is [`Polls`](Mode::Polls) if `polled`, else [`Links`](Mode::Links).
    Plain { until: Instant, polled: bool },
    /// Upgraded connections carry no bytes: polls are sent without `Upgrade` until the device is
    /// disconnected. The next mode is as above.
    Swallowed { polled: bool },
    /// The user wants only polls.
    PollsAlone,
}

impl Mode {
    pub(super) fn new(fallback: Fallback) -> Self {
        if fallback == Fallback::Only { Mode::PollsAlone } else { Mode::Links }
    }

    /// Returns true if polls are wanted rather than links.
    pub(super) fn polls(self, now: Instant) -> bool {
        match self {
            Mode::Links => false,
            Mode::Polls | Mode::Swallowed { .. } | Mode::PollsAlone => true,
            Mode::Plain { until, polled } => polled || now < until,
        }
    }

    /// Returns true if requests offer the upgrade.
    pub(super) fn offers_upgrade(self, now: Instant) -> bool {
        match self {
            Mode::Links | Mode::Polls => true,
            Mode::Plain { until, .. } => now >= until,
            Mode::Swallowed { .. } | Mode::PollsAlone => false,
        }
    }

    /// Returns true if requests are sent without `Upgrade` because an intermediary rejects it.
    pub(super) fn is_plain(self, now: Instant) -> bool {
        matches!(self, Mode::Plain { until, .. } if now < until)
    }

    /// Records a decisive reply: one of the fallback (`polled`), or a 101.
    pub(super) fn decide(&mut self, polled: bool) {
        let told = polled;
        match self {
            Mode::Links | Mode::Polls => *self = Mode::of(polled),
            Mode::Plain { polled, .. } | Mode::Swallowed { polled } => *polled = told,
            Mode::PollsAlone => {}
        }
    }

    /// An intermediary rejects `Upgrade`.
    pub(super) fn go_plain(&mut self, until: Instant) {
        match self {
            Mode::Links | Mode::Polls | Mode::Plain { .. } => {
                *self = Mode::Plain { until, polled: self.has_polled() };
            }
            Mode::Swallowed { .. } | Mode::PollsAlone => {}
        }
    }

    /// The gateway accepts only offers, so the rejection had another cause.
    pub(super) fn end_plain(&mut self) {
        if let Mode::Plain { polled, .. } = self {
            *self = Mode::of(*polled);
        }
    }

    /// Upgraded connections carry no bytes, while polls are answered.
    pub(super) fn swallow(&mut self) {
        if *self != Mode::PollsAlone {
            *self = Mode::Swallowed { polled: true };
        }
    }

    /// The device is disconnected, or links should be tried again: the next network path may be
    /// another.
    pub(super) fn end_swallowed(&mut self) {
        if let Mode::Swallowed { polled } = self {
            *self = Mode::of(*polled);
        }
    }

    /// Forgets the findings about one gateway, which do not apply to the next.
    pub(super) fn reset(&mut self) {
        if *self != Mode::PollsAlone {
            *self = Mode::Links;
        }
    }

    fn of(polled: bool) -> Self {
        if polled { Mode::Polls } else { Mode::Links }
    }

    fn has_polled(self) -> bool {
        match self {
            Mode::Links => false,
            Mode::Polls | Mode::PollsAlone => true,
            Mode::Plain { polled, .. } | Mode::Swallowed { polled } => polled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_last_decisive_reply_says_what_is_dialled() {
        let now = Instant::now();
        let mut mode = Mode::new(Fallback::Auto);
        for (polled, polls) in [(false, false), (true, true), (true, true), (false, false)] {
            mode.decide(polled);
            assert_eq!((mode.polls(now), mode.offers_upgrade(now)), (polls, true));
        }
    }

    #[test]
    fn without_upgrade_for_a_while_then_as_the_replies_meanwhile_say() {
        let now = Instant::now();
        let later = now + Duration::from_secs(600);
        for polled in [false, true] {
            let mut mode = Mode::new(Fallback::Auto);
            mode.go_plain(later);
            mode.decide(polled);
            assert!(mode.polls(now) && !mode.offers_upgrade(now) && mode.is_plain(now));
            assert_eq!((mode.polls(later), mode.offers_upgrade(later)), (polled, true));
            mode.end_plain();
            assert_eq!((mode.polls(now), mode.offers_upgrade(now)), (polled, true));
        }
    }

    #[test]
    fn swallowed_connections_are_not_offered_until_the_way_in_is_lost() {
        let now = Instant::now();
        let mut mode = Mode::new(Fallback::Auto);
        mode.swallow();
        mode.go_plain(now);
        assert!(mode.polls(now) && !mode.offers_upgrade(now));
        mode.end_swallowed();
        assert_eq!(mode, Mode::Polls);
        mode.reset();
        assert_eq!(mode, Mode::Links);
    }

    #[test]
    fn who_wants_polls_alone_gets_nothing_else() {
        let now = Instant::now();
        let mut mode = Mode::new(Fallback::Only);
        mode.decide(false);
        mode.end_plain();
        mode.reset();
        assert!(mode.polls(now) && !mode.offers_upgrade(now));
    }
}
