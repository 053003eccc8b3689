//! Holds back the last idle link of a far device for a moment.
//!
//! A device learns how many callers wait from the requests that it gets (protocol.md §1.6). The
//! request that takes the last idle link knows of nobody who comes a moment later, and nothing can be
//! said to the device until a link is free again: a whole round trip. So this request waits for
//! those behind it, for a small part of the round trip, and tells the device about all of them.

use std::time::{Duration, Instant};

/// The period for which the link is held is this part of the shortest time in which the device has
/// answered.
const PART: u32 = 16;
/// A shorter period is not worth an alarm: the device is near.
const PERIOD_MIN: Duration = Duration::from_millis(1);
const PERIOD_MAX: Duration = Duration::from_millis(4);
/// While further callers come, it is held for so many periods at most.
const PERIODS_MAX: u32 = 4;
/// After nobody has come, it is not held for this time.
const REST: Duration = Duration::from_secs(1);

/// The longest time for which a link is held.
pub(crate) const HOLD_MAX: Duration = PERIOD_MAX.saturating_mul(PERIODS_MAX);

/// What a name's last idle link is held for.
#[derive(Debug, Default)]
pub(super) struct LastLink {
    /// The shortest time in which the device has answered, which no round trip exceeds.
    fastest: Option<Duration>,
    held: Option<Held>,
    rests_until: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    periods_left: u32,
    /// The number of callers that waited when the period began.
    waiting: usize,
}

impl LastLink {
    /// The device has answered after this time.
    pub(super) fn answered_in(&mut self, time: Duration) {
        self.fastest = Some(self.fastest.map_or(time, |fastest| fastest.min(time)));
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// The first caller wants the link. Returns the time after which to [`look`](Self::look), if the
    /// link is held from now on.
    pub(super) fn hold(&mut self, now: Instant) -> Option<Duration> {
        let period = self.period().filter(|_| self.rests_until.is_none_or(|until| until <= now))?;
        self.held = Some(Held { periods_left: PERIODS_MAX - 1, waiting: 1 });
        Some(period)
    }

    /// A period is over, and so many callers wait. Returns the time after which to look again, or
    /// `None` if the link is free from now on.
    pub(super) fn look(&mut self, waiting: usize, now: Instant) -> Option<Duration> {
        let held = self.held.take()?;
        if waiting > held.waiting && held.periods_left > 0 {
            self.held = Some(Held { periods_left: held.periods_left - 1, waiting });
            return self.period();
        }
        if waiting <= 1 {
            self.rests_until = Some(now + REST);
        }
        None
    }

    fn period(&self) -> Option<Duration> {
        let period = (self.fastest? / PART).min(PERIOD_MAX);
        (period >= PERIOD_MIN).then_some(period)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn far() -> LastLink {
        let mut link = LastLink::default();
        link.answered_in(48 * MS);
        link
    }

    #[test]
    fn a_link_is_held_for_a_part_of_the_fastest_answer() {
        let now = Instant::now();
        let period = |answers: &[Duration]| {
            let mut link = LastLink::default();
            answers.iter().for_each(|time| link.answered_in(*time));
            link.hold(now)
        };
        assert_eq!(period(&[]), None, "how far the device is, is unknown");
        assert_eq!(period(&[15 * MS]), None, "near");
        assert_eq!(period(&[16 * MS]), Some(MS));
        assert_eq!(period(&[90 * MS, 48 * MS, 64 * MS]), Some(3 * MS));
        assert_eq!(period(&[10_000 * MS]), Some(PERIOD_MAX));
    }

    #[test]
    fn it_is_held_while_callers_come() {
        let now = Instant::now();
        let mut link = far();
        assert_eq!(link.hold(now), Some(3 * MS));
        assert_eq!(link.look(20, now), Some(3 * MS));
        assert!(link.is_held());
        assert_eq!(link.look(20, now), None, "nobody else has come");
        assert!(!link.is_held());
        assert_eq!(link.hold(now), Some(3 * MS), "it was of use");
    }

    #[test]
    fn it_is_not_held_for_ever() {
        let now = Instant::now();
        let mut link = far();
        assert!(link.hold(now).is_some());
        let periods = (2..).take_while(|waiting| link.look(*waiting, now).is_some()).count();
        assert_eq!(periods, 3, "with the first one four");
        assert_eq!(HOLD_MAX, 4 * PERIOD_MAX);
    }

    #[test]
    fn after_nobody_has_come_it_is_not_held_for_a_second() {
        let now = Instant::now();
        let mut link = far();
        assert!(link.hold(now).is_some());
        assert_eq!(link.look(1, now), None);
        assert_eq!(link.hold(now + REST - MS), None);
        assert!(link.hold(now + REST).is_some());
        assert_eq!(link.look(0, now + REST), None, "the caller has left");
        assert_eq!(link.hold(now + REST), None);
    }

    #[test]
    fn looking_without_a_hold_frees_nothing() {
        assert_eq!(far().look(5, Instant::now()), None);
    }
}
