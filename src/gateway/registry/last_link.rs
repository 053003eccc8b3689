//! When the request that takes the last idle link of a far device is held back for a moment.
//!
//! A device learns how many callers wait from the requests that it gets (protocol.md §1.6). The
//! request that takes the last idle link knows of nobody who comes a moment later, and nothing can be
//! said to the device until a link is free again: a whole round trip. So this request is sent a little
//! later, by a small part of the round trip, and tells the device about all who came meanwhile.

use std::time::{Duration, Instant};

/// The request is held for this part of the shortest time in which the device has answered.
const PART: u32 = 16;
/// The loop's alarms are too coarse for less. The device is near.
const PERIOD_MIN: Duration = Duration::from_millis(2);
const PERIOD_MAX: Duration = Duration::from_millis(4);
/// While further callers come, the request is held for so many periods at most.
pub(crate) const PERIODS_MAX: u32 = 4;
/// After nobody has come, no request is held for this time.
const REST: Duration = Duration::from_secs(1);
/// Answers older than twice this time do not count: the device may have moved.
const WINDOW: Duration = Duration::from_secs(60);

/// How far a device is, and whether a request for it may be held.
#[derive(Debug, Default)]
pub(super) struct LastLink {
    /// The shortest times in which the device has answered, in the present window and in the one
    /// before.
    fastest: Option<Duration>,
    fastest_before: Option<Duration>,
    /// When the present window began.
    since: Option<Instant>,
    rests_until: Option<Instant>,
}

impl LastLink {
    /// The device has answered a request after this time.
    pub(super) fn answered_in(&mut self, time: Duration, now: Instant) {
        let since = *self.since.get_or_insert(now);
        if since + WINDOW <= now {
            let is_next = now < since + 2 * WINDOW;
            self.fastest_before = self.fastest.take().filter(|_| is_next);
            self.since = Some(now);
        }
        self.fastest = Some(self.fastest.map_or(time, |fastest| fastest.min(time)));
    }

    /// The time for which to hold the request that takes the last idle link now, if at all.
    pub(super) fn period(&self, now: Instant) -> Option<Duration> {
        let is_old = self.since.is_none_or(|since| since + 2 * WINDOW <= now);
        if is_old || self.rests_until.is_some_and(|until| now < until) {
            return None;
        }
        let fastest = self.fastest.into_iter().chain(self.fastest_before).min()?;
        let period = (fastest / PART).min(PERIOD_MAX);
        (period >= PERIOD_MIN).then_some(period)
    }

    /// A request was held in vain.
    pub(super) fn rest(&mut self, now: Instant) {
        self.rests_until = Some(now + REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn after(answers: &[(u64, u64)]) -> (LastLink, Instant) {
        let (mut link, start) = (LastLink::default(), Instant::now());
        for (second, took) in answers {
            link.answered_in(*took as u32 * MS, start + Duration::from_secs(*second));
        }
        (link, start)
    }

    #[test]
    fn a_request_is_held_for_a_part_of_the_fastest_answer() {
        let period = |answers: &[(u64, u64)]| {
            let (link, start) = after(answers);
            link.period(start)
        };
        assert_eq!(period(&[]), None, "how far the device is, is unknown");
        assert_eq!(period(&[(0, 31)]), None, "near");
        assert_eq!(period(&[(0, 32)]), Some(2 * MS));
        assert_eq!(period(&[(0, 90), (1, 48), (2, 64)]), Some(3 * MS));
        assert_eq!(period(&[(0, 10_000)]), Some(PERIOD_MAX));
        assert_eq!(period(&[(0, 48), (1, 0)]), None, "it was near once");
    }

    #[test]
    fn old_answers_do_not_count() {
        let period = |answers: &[(u64, u64)]| {
            let (link, start) = after(answers);
            link.period(start + Duration::from_secs(120))
        };
        assert_eq!(period(&[(0, 48)]), None, "nothing later is known");
        assert_eq!(period(&[(0, 1), (59, 48)]), None);
        assert_eq!(period(&[(0, 1), (60, 48)]), None, "the window before");
        assert_eq!(period(&[(0, 48), (60, 64)]), Some(3 * MS));
        assert_eq!(period(&[(0, 1), (60, 48), (120, 48)]), Some(3 * MS));
        assert_eq!(period(&[(0, 1), (120, 48)]), Some(3 * MS), "nothing in the window before");
    }

    #[test]
    fn after_a_request_was_held_in_vain_none_is_held_for_a_second() {
        let (mut link, start) = after(&[(0, 48)]);
        link.rest(start);
        assert_eq!(link.period(start + REST - MS), None);
        assert_eq!(link.period(start + REST), Some(3 * MS));
    }
}
