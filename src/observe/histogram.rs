//! Histograms of durations with bounded memory: one per device for percentiles, three per process
//! for `/metrics`.
//!
//! [`Recent`] is an HDR histogram with one significant digit, so a percentile is at most 7 % off (8
//! µs where that is more); every five minutes its counts are halved, so that it covers the last
//! minutes. [`Fixed`] has the bounds that monitoring systems aggregate over many gateways.

use std::time::Duration;

#[cfg(feature = "admin")]
pub(crate) use self::recent::Recent;
#[cfg(not(feature = "admin"))]
pub(crate) use self::unasked::Recent;

#[cfg(feature = "admin")]
mod recent {
    use std::mem::size_of;
    use std::time::{Duration, Instant};

    use hdrhistogram::Histogram;

    /// The resolution at the lower end, in microseconds.
    const LOWEST: u64 = 16;
    /// Two hours; longer times count as that.
    const HIGHEST: u64 = 7_200_000_000;
    /// How often the counts are halved.
    pub(super) const HALVING: Duration = Duration::from_secs(300);

    /// Percentiles of the last minutes, in microseconds: 1.8 KiB at most, none while there are no
    /// exchanges.
    pub(crate) struct Recent {
        counts: Option<Box<Histogram<u32>>>,
        /// When the counts are halved next.
        due: Instant,
    }

    /// As small as possible; it grows with larger values.
    fn empty() -> Option<Histogram<u32>> {
        let mut counts = Histogram::new_with_bounds(LOWEST, 2 * LOWEST, 1).ok()?;
        counts.auto(true);
        Some(counts)
    }

    impl Recent {
        pub(crate) fn new(now: Instant) -> Self {
            Recent { counts: None, due: now + HALVING }
        }

        pub(crate) fn bytes(&self) -> usize {
            let of = |counts: &Histogram<u32>| counts.distinct_values() * size_of::<u32>();
            self.counts.as_deref().map_or(0, |counts| size_of::<Histogram<u32>>() + of(counts))
        }

        pub(crate) fn add(&mut self, time: Duration, now: Instant) {
            self.age(now);
            if self.counts.is_none() {
                self.counts = empty().map(Box::new);
            }
            let micros = u64::try_from(time.as_micros()).unwrap_or(HIGHEST).min(HIGHEST);
            if let Some(counts) = &mut self.counts {
                let grown = counts.record(micros);
                debug_assert!(grown.is_ok(), "it grows up to HIGHEST");
            }
        }

        /// Halves the counts as often as is due by now.
        pub(crate) fn age(&mut self, now: Instant) {
            if now < self.due {
                return;
            }
            let late = now.saturating_duration_since(self.due);
            let periods = 1 + late.as_secs() / HALVING.as_secs();
            self.due = now + HALVING;
            let Some(old) = self.counts.take() else { return };
            let halvings = u32::try_from(periods).unwrap_or(u32::MAX);
            let Some(mut counts) = empty() else { return };
            for step in old.iter_recorded() {
                let left = step.count_at_value().checked_shr(halvings).unwrap_or(0);
                if left > 0 {
                    let grown = counts.record_n(step.value_iterated_to(), left);
                    debug_assert!(grown.is_ok(), "it grows as the old one did");
                }
            }
            if !counts.is_empty() {
                self.counts = Some(Box::new(counts));
            }
        }

        /// The time within which this share of the exchanges was finished. `None` without exchanges
        /// in the last minutes.
        pub(crate) fn percentile(&self, share: f64) -> Option<Duration> {
            let counts = self.counts.as_ref()?;
            let found = counts.value_at_quantile(share); // the upper end of its bucket
            Some(Duration::from_micros(counts.median_equivalent(found)))
        }
    }
}

/// Without the feature `admin` nobody can ask.
#[cfg(not(feature = "admin"))]
mod unasked {
    use std::time::{Duration, Instant};

    pub(crate) struct Recent;

    impl Recent {
        pub(crate) fn new(_: Instant) -> Self {
            Recent
        }
        pub(crate) fn bytes(&self) -> usize {
            0
        }
        pub(crate) fn add(&mut self, _: Duration, _: Instant) {}
        pub(crate) fn age(&mut self, _: Instant) {}
        pub(crate) fn percentile(&self, _: f64) -> Option<Duration> {
            None
        }
    }
}

/// Upper bounds of [`Fixed`], in milliseconds; a further bucket has no bound.
pub(crate) const BOUNDS_MS: [u64; 13] =
    [1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 60_000];

/// Durations since the start, in buckets with fixed bounds.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Fixed {
    /// The number of values in each bucket.
    pub(crate) counts: [u64; BOUNDS_MS.len() + 1],
    pub(crate) sum: Duration,
}

impl Fixed {
    pub(crate) fn add(&mut self, time: Duration) {
        let at = BOUNDS_MS.iter().position(|bound| time <= Duration::from_millis(*bound));
        self.counts[at.unwrap_or(BOUNDS_MS.len())] += 1;
        self.sum = self.sum.saturating_add(time);
    }
}

#[cfg(all(test, feature = "admin"))]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::observe::histogram::recent::HALVING;

    #[test]
    fn a_percentile_is_at_most_seven_percent_off() {
        for micros in [130, 1_000, 4_321, 50_000, 999_999, 60_000_000, 3_600_000_000_u64] {
            let (now, time) = (Instant::now(), Duration::from_micros(micros));
            let mut recent = Recent::new(now);
            recent.add(time, now);
            let found = recent.percentile(0.5).unwrap();
            let off = (found.as_secs_f64() / time.as_secs_f64() - 1.0).abs();
            assert!(off < 0.07, "{time:?} was read as {found:?}");
        }
    }

    #[test]
    fn the_median_and_the_tail_are_told_apart() {
        let now = Instant::now();
        let mut recent = Recent::new(now);
        assert_eq!(recent.percentile(0.5), None);
        for n in 0..100 {
            recent.add(Duration::from_millis(if n < 98 { 10 } else { 1_000 }), now);
        }
        let (median, tail) = (recent.percentile(0.5).unwrap(), recent.percentile(0.99).unwrap());
        assert!(median < Duration::from_millis(11) && tail > Duration::from_millis(930));
    }

    #[test]
    fn old_counts_fade_away() {
        let now = Instant::now();
        let mut recent = Recent::new(now);
        (0..16).for_each(|_| recent.add(Duration::from_secs(1), now));
        let later = now + 5 * HALVING;
        recent.add(Duration::from_millis(1), later);
        assert!(recent.percentile(0.99).unwrap() < Duration::from_millis(2));
    }

    #[test]
    fn counts_fade_also_where_nothing_is_added() {
        let now = Instant::now();
        for (halvings, is_known) in [(0, true), (2, true), (3, false), (31, false), (40, false)] {
            let mut recent = Recent::new(now);
            (0..4).for_each(|_| recent.add(Duration::from_secs(1), now));
            recent.age(now + halvings * HALVING);
            let (found, bytes) = (recent.percentile(0.5), recent.bytes());
            assert_eq!((found.is_some(), bytes > 0), (is_known, is_known), "{halvings} halvings");
        }
    }

    #[test]
    fn a_histogram_is_as_large_as_what_it_was_told() {
        let now = Instant::now();
        let mut recent = Recent::new(now);
        assert_eq!((recent.percentile(0.5), recent.bytes()), (None, 0));
        recent.add(Duration::ZERO, now);
        let least = recent.bytes();
        assert!(least < 512, "{least}");
        recent.add(Duration::MAX, now);
        let most = recent.bytes();
        assert!(most > least && most <= 1_848, "{most}");
        let longest = recent.percentile(1.0).unwrap().as_secs();
        assert!((6_900..7_500).contains(&longest), "{longest}");
    }

    #[test]
    fn fixed_bounds_are_inclusive() {
        let mut fixed = Fixed::default();
        for millis in [0, 1, 2, 60_000, 60_001] {
            fixed.add(Duration::from_millis(millis));
        }
        assert_eq!(
            (fixed.counts[0], fixed.counts[1], fixed.counts[12], fixed.counts[13]),
            (2, 1, 1, 1)
        );
    }
}
