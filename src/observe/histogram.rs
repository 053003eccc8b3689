//! Histograms of durations with bounded memory: one per device for percentiles, three per process
//! for `/metrics`.
//!
//! [`Recent`] has eight buckets in each power of two from 16 µs to two hours, so a percentile is at
//! most 7 % off; every five minutes its counts are halved, so that it speaks of the last minutes.
//! [`Fixed`] has the bounds that monitoring systems aggregate over many gateways.

use std::time::{Duration, Instant};

/// The resolution at the lower end.
const UNIT: Duration = Duration::from_micros(16);
const BUCKETS: usize = 208;
/// How often the counts of [`Recent`] are halved.
const HALVING: Duration = Duration::from_secs(300);

/// Percentiles of the last minutes, in 848 bytes.
pub(crate) struct Recent {
    counts: [u32; BUCKETS],
    halved: Instant,
}

impl Recent {
    pub(crate) fn new(now: Instant) -> Self {
        Recent { counts: [0; BUCKETS], halved: now }
    }

    pub(crate) fn add(&mut self, time: Duration, now: Instant) {
        self.age(now);
        let count = &mut self.counts[bucket(time)];
        *count = count.saturating_add(1);
    }

    fn age(&mut self, now: Instant) {
        let halvings = self.halvings(now);
        if halvings > 0 {
            self.halved = now;
            for count in &mut self.counts {
                *count = count.checked_shr(halvings).unwrap_or(0);
            }
        }
    }

    /// How often the counts are to be halved by now.
    fn halvings(&self, now: Instant) -> u32 {
        let periods = now.saturating_duration_since(self.halved).as_secs() / HALVING.as_secs();
        u32::try_from(periods).unwrap_or(u32::MAX)
    }

    /// The time within which this share of the exchanges was over; `None` without any in the last
    /// minutes.
    pub(crate) fn percentile(&self, share: f64, now: Instant) -> Option<Duration> {
        let halvings = self.halvings(now);
        let counts = self.counts.map(|count| count.checked_shr(halvings).unwrap_or(0));
        let total: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        if total == 0 {
            return None;
        }
        let rank = ((total as f64 * share).ceil() as u64).clamp(1, total);
        let mut seen = 0;
        let found = counts.iter().position(|count| {
            seen += u64::from(*count);
            seen >= rank
        });
        found.map(middle)
    }
}

fn bucket(time: Duration) -> usize {
    let units = u64::try_from(time.as_micros() / UNIT.as_micros()).unwrap_or(u64::MAX);
    if units < 8 {
        return units as usize;
    }
    let exponent = 63 - units.leading_zeros() as usize;
    let step = (units >> (exponent - 3)) as usize & 7;
    ((exponent - 2) * 8 + step).min(BUCKETS - 1)
}

/// The middle of a bucket.
fn middle(bucket: usize) -> Duration {
    let (from, width) = match bucket {
        0..8 => (bucket as u32, 1),
        _ => {
            let exponent = bucket / 8 + 2;
            let width = 1u32 << (exponent - 3);
            ((8 + bucket as u32 % 8) * width, width)
        }
    };
    UNIT * from + UNIT * width / 2
}

/// Upper bounds of [`Fixed`], in milliseconds; one bucket more is without a bound.
pub(crate) const BOUNDS_MS: [u64; 13] =
    [1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 60_000];

/// Durations since the start, in buckets with fixed bounds.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Fixed {
    /// How many fell into each bucket alone.
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_at_most_seven_percent_off() {
        for micros in [130, 1_000, 4_321, 50_000, 999_999, 60_000_000, 3_600_000_000_u64] {
            let (now, time) = (Instant::now(), Duration::from_micros(micros));
            let mut recent = Recent::new(now);
            recent.add(time, now);
            let found = recent.percentile(0.5, now).unwrap();
            let off = (found.as_secs_f64() / time.as_secs_f64() - 1.0).abs();
            assert!(off < 0.07, "{time:?} was read as {found:?}");
        }
    }

    #[test]
    fn every_time_has_a_bucket_and_buckets_are_in_order() {
        assert!((1..BUCKETS).all(|n| middle(n - 1) < middle(n) && bucket(middle(n)) == n));
        assert_eq!((bucket(Duration::ZERO), bucket(Duration::MAX)), (0, BUCKETS - 1));
    }

    #[test]
    fn the_median_and_the_tail_are_told_apart() {
        let now = Instant::now();
        let mut recent = Recent::new(now);
        assert_eq!(recent.percentile(0.5, now), None);
        for n in 0..100 {
            recent.add(Duration::from_millis(if n < 98 { 10 } else { 1_000 }), now);
        }
        let (median, tail) =
            (recent.percentile(0.5, now).unwrap(), recent.percentile(0.99, now).unwrap());
        assert!(median < Duration::from_millis(11) && tail > Duration::from_millis(930));
    }

    #[test]
    fn old_counts_fade_away() {
        let now = Instant::now();
        let mut recent = Recent::new(now);
        (0..16).for_each(|_| recent.add(Duration::from_secs(1), now));
        let later = now + 5 * HALVING;
        recent.add(Duration::from_millis(1), later);
        assert!(recent.percentile(0.99, later).unwrap() < Duration::from_millis(2));
    }

    #[test]
    fn counts_fade_also_where_nothing_is_added() {
        let now = Instant::now();
        let mut recent = Recent::new(now);
        (0..4).for_each(|_| recent.add(Duration::from_secs(1), now));
        for (halvings, is_known) in [(0, true), (2, true), (3, false), (31, false), (40, false)] {
            let found = recent.percentile(0.5, now + halvings * HALVING);
            assert_eq!(found.is_some(), is_known, "after {halvings} halvings");
        }
        assert!(recent.percentile(0.5, now).is_some(), "reading changes nothing");
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
