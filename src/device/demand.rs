//! The number of links or polls that a device needs beyond its MIN, from the waiting callers that
//! its gateway reports (protocol.md §1.6) and the use in the last minute.
//!
//! This file uses no socket: the caller passes the time and the counts.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// A dial that takes longer is not expected to serve a caller that waits now, because it is
/// probably lost.
const OVERDUE: Duration = Duration::from_secs(10);

/// Demand at one gateway.
pub(super) struct Demand {
    /// Dials that the gateway requested and that have not begun.
    pending: usize,
    /// The times at which dials began, the oldest first, whatever their result.
    begun: VecDeque<Instant>,
    /// The peak of busy links and of callers that waited for more.
    links: Peak,
    /// The peak of polls with an event in progress.
    polls: Peak,
}

impl Demand {
    /// `window` is the time for which a peak counts; zero means for ever.
    pub(super) fn new(window: Duration) -> Self {
        Demand {
            pending: 0,
            begun: VecDeque::new(),
            links: Peak::new(window),
            polls: Peak::new(window),
        }
    }

    /// This number of callers waits, and there is room for this number of further links or polls.
    /// `in_progress` is the number of dials that the gateway had not seen when it counted the
    /// callers, each of which will serve one of them. These are all dials without an answer: the
    /// gateway's count would have arrived after their 101.
    pub(super) fn callers_wait(
        &mut self,
        now: Instant,
        callers: usize,
        in_progress: usize,
        room: usize,
    ) {
        self.forget_overdue(now);
        let expected = in_progress.min(self.begun.len());
        self.pending = self.pending.max(callers.saturating_sub(expected)).min(room);
    }

    fn forget_overdue(&mut self, now: Instant) {
        let is_overdue = |at: &Instant| now.saturating_duration_since(*at) > OVERDUE;
        while self.begun.front().is_some_and(is_overdue) {
            self.begun.pop_front();
        }
    }

    /// Returns true if another dial was requested.
    pub(super) fn is_pending(&self) -> bool {
        self.pending > 0
    }

    /// A dial begins, for any reason.
    pub(super) fn dialled(&mut self, now: Instant) {
        self.forget_overdue(now);
        self.begun.push_back(now);
        self.pending = self.pending.saturating_sub(1);
    }

    /// Drops requested dials after a failure, or if no more are needed: the gateway will report
    /// callers that still wait.
    pub(super) fn forget(&mut self) {
        self.pending = 0;
    }

    /// Records the most links that were needed at once since the last call.
    pub(super) fn note_links(&mut self, now: Instant, busy: usize) {
        self.links.note(now, busy);
    }

    /// Records the number of polls that are needed.
    pub(super) fn note_polls(&mut self, now: Instant, busy: usize) {
        self.polls.note(now, busy);
    }

    /// Returns true if, of this number of links, the last minute did not need an idle one.
    pub(super) fn has_surplus_link(&self, links: usize, wanted: &RangeInclusive<usize>) -> bool {
        self.links.needs(wanted).is_some_and(|needed| links > needed)
    }

    /// The same for polls.
    pub(super) fn has_surplus_poll(&self, polls: usize, wanted: &RangeInclusive<usize>) -> bool {
        self.polls.needs(wanted).is_some_and(|needed| polls > needed)
    }
}

/// The maximum of a count within a window, which is divided into parts.
struct Peak {
    part: Duration,
    /// The current part is first.
    parts: [usize; Peak::PARTS + 1],
    begun: Option<Instant>,
}

impl Peak {
    const PARTS: usize = 6;

    fn new(window: Duration) -> Self {
        Peak { part: window / Self::PARTS as u32, parts: [0; Self::PARTS + 1], begun: None }
    }

    fn note(&mut self, now: Instant, count: usize) {
        if self.part.is_zero() {
            return;
        }
        let begun = *self.begun.get_or_insert(now);
        let parts = now.saturating_duration_since(begun).as_nanos() / self.part.as_nanos();
        if parts > 0 {
            // `count` is the maximum since the last call, so it applies to the whole time in
            // between.
            let all = self.parts.len();
            let gone = usize::try_from(parts).unwrap_or(usize::MAX).min(all);
            self.parts.rotate_right(gone % all);
            self.parts[..gone].fill(0);
            let on = self.part.saturating_mul(u32::try_from(parts).unwrap_or(u32::MAX));
            self.begun = Some(begun.checked_add(on).map_or(now, |begun| begun.min(now)));
        }
        self.parts[0] = self.parts[0].max(count);
    }

    /// The sufficient number: as many as were busy, and MIN idle ones. At least one counts as busy,
    /// because the next request occupies one. `None` if there is no window.
    fn needs(&self, wanted: &RangeInclusive<usize>) -> Option<usize> {
        let busy = self.parts.iter().copied().max().unwrap_or_default().max(1);
        (!self.part.is_zero()).then(|| (busy + wanted.start()).min(*wanted.end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demand_is_bounded_by_room_and_used_up_by_dials() {
        let (mut demand, now) = (Demand::new(Duration::from_secs(60)), Instant::now());
        demand.callers_wait(now, 5, 0, 3);
        for _ in 0..3 {
            assert!(demand.is_pending());
            demand.dialled(now);
        }
        assert!(!demand.is_pending());
        demand.callers_wait(now, 9_999, 0, 0);
        assert!(!demand.is_pending(), "there is no room");
        demand.callers_wait(now, 2, 0, 8);
        demand.forget();
        assert!(!demand.is_pending());
    }

    /// Begins the requested dials.
    fn dial(demand: &mut Demand, now: Instant) -> usize {
        let mut dials = 0;
        while demand.is_pending() {
            demand.dialled(now);
            dials += 1;
        }
        dials
    }

    #[test]
    fn a_caller_is_dialled_for_once_however_often_it_is_counted() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut demand = Demand::new(Duration::from_secs(60));
        demand.callers_wait(at(0), 31, 1, 127);
        assert_eq!(dial(&mut demand, at(0)), 31, "the one in progress was dialled by nobody here");
        // Each new link brings a caller's request, and the number of callers that still wait.
        for turned in 1..=31 {
            demand.callers_wait(at(100), 31 - turned, 31 - turned, 127 - turned);
            assert_eq!(dial(&mut demand, at(100)), 0, "{turned} have turned");
        }
        // Ten more callers arrive while five links are being dialled.
        demand.callers_wait(at(200), 5, 0, 96);
        assert_eq!(dial(&mut demand, at(200)), 5);
        demand.callers_wait(at(210), 15, 5, 91);
        assert_eq!(dial(&mut demand, at(210)), 10);
    }

    #[test]
    fn a_dial_that_hangs_serves_nobody() {
        let start = Instant::now();
        let mut demand = Demand::new(Duration::from_secs(60));
        demand.callers_wait(start, 3, 0, 8);
        assert_eq!(dial(&mut demand, start), 3);
        demand.callers_wait(start + OVERDUE, 3, 3, 5);
        assert_eq!(dial(&mut demand, start + OVERDUE), 0);
        let later = start + OVERDUE + Duration::from_millis(1);
        demand.callers_wait(later, 3, 3, 5);
        assert_eq!(dial(&mut demand, later), 3);
    }

    #[test]
    fn a_link_is_surplus_when_the_last_minute_did_not_need_it() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut demand = Demand::new(Duration::from_secs(60));
        demand.note_links(at(0), 7);
        demand.note_links(at(1), 0);
        // Seven were busy, and one should be idle.
        for (second, needed) in [(1, 8), (30, 8), (59, 8), (71, 2), (7_000, 2)] {
            demand.note_links(at(second), 0);
            assert!(!demand.has_surplus_link(needed, &(1..=128)), "after {second} s");
            assert!(demand.has_surplus_link(needed + 1, &(1..=128)), "after {second} s");
        }
        demand.note_links(at(7_001), 9);
        assert!(!demand.has_surplus_link(4, &(1..=4)), "MAX is never surplus");
        assert!(!demand.has_surplus_link(1, &(1..=1)));
    }

    #[test]
    fn a_peak_moves_through_the_whole_window() {
        let start = Instant::now();
        let mut peak = Peak::new(Duration::from_secs(6));
        for second in 0..100_u64 {
            peak.note(start + Duration::from_secs(second), usize::from(second % 20 == 0) * 5);
            let since = second % 20;
            let needed = peak.needs(&(1..=10));
            assert!(since > 6 || needed == Some(6), "{second}: {needed:?}");
            assert!(since < 8 || needed == Some(2), "{second}: {needed:?}");
        }
    }

    #[test]
    fn without_a_window_nothing_is_surplus() {
        let mut demand = Demand::new(Duration::ZERO);
        demand.note_links(Instant::now(), 1);
        assert!(!demand.has_surplus_link(1_000, &(1..=2_000)));
        assert!(!demand.has_surplus_poll(64, &(1..=64)));
    }
}
