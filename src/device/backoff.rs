//! The back-off: the pause between two attempts, and `Retry-After`.

use std::time::Duration;
use std::time::SystemTime;

use crate::engine::random;
use crate::proto::head::Fields;
use crate::proto::verdict;

/// Exponential back-off with full jitter: the n-th pause is random between nothing and MIN·2ⁿ, at
/// most MAX, so that devices that lost their gateway together do not all return at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    pub(super) min: Duration,
    pub(super) max: Duration,
    pub(super) failures: u32,
}

/// Longest `Retry-After` that is honoured (protocol.md §1.4).
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Backoff { min, max, failures: 0 }
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    pub(crate) fn succeed(&mut self) {
        self.failures = 0;
    }

    /// The pause after a further failure. `random` is in 0..1; `at_least` is the pause that the
    /// gateway requested.
    pub(crate) fn fail(&mut self, random: f64, at_least: Option<Duration>) -> Duration {
        let ceiling = self.min.saturating_mul(1 << self.failures.min(20)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        let pause = ceiling.mul_f64(random.clamp(0.0, 1.0));
        match at_least {
            Some(asked) => self.after_retry_after(random, asked).max(pause),
            None => pause,
        }
    }

    /// The gateway's `Retry-After` plus a random time: devices with the same value should not all
    /// return at once.
    pub(crate) fn after_retry_after(&self, random: f64, asked: Duration) -> Duration {
        asked.min(RETRY_AFTER_MAX) + self.min.mul_f64(random.clamp(0.0, 1.0))
    }

    /// The pause after a refusal that will probably not change soon.
    pub(crate) fn fail_for_long(&mut self, random: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.long(random)
    }

    /// About the longest pause.
    pub(crate) fn long(&self, random: f64) -> Duration {
        self.max.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }
}

/// The pause of `Retry-After`: seconds, or a date in any of its three forms (RFC 9110 §5.6.7),
/// which counts from the answer's own `Date`, or without one from our clock. At most
/// [`RETRY_AFTER_MAX`].
pub(crate) fn retry_after(fields: &Fields<'_>) -> Option<Duration> {
    let date = |name: &str| {
        fields
            .get(name)
            .and_then(|value| std::str::from_utf8(value).ok())
            .and_then(|text| httpdate::parse_http_date(text).ok())
    };
    verdict::retry_after(fields).or_else(|| {
        let at = date("retry-after")?;
        let now = date("date").unwrap_or_else(SystemTime::now);
        Some(at.duration_since(now).unwrap_or_default().min(RETRY_AFTER_MAX))
    })
}

/// A random number in 0..1.
pub(crate) fn random() -> f64 {
    let mut bytes = [0; 4];
    match random::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5, // without entropy at boot, a fixed jitter is better than a failure
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// Devices that lost their gateway together: the times of their attempts, in seconds since
    /// then.
    #[test]
    fn two_hundred_devices_do_not_come_back_together() {
        let mut came = Vec::new();
        let mut pauses = vec![Vec::new(); 7];
        for _ in 0..200 {
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
            let mut at = 0.0;
            for pauses in &mut pauses {
                let pause = backoff.fail(random(), None).as_secs_f64();
                pauses.push(pause);
                at += pause;
                came.push(at);
            }
        }
        for (n, pauses) in pauses.iter().enumerate() {
            let ceiling = 60f64.min(f64::from(1 << n));
            let mean = pauses.iter().sum::<f64>() / 200.0;
            let (least, most) = pauses
                .iter()
                .fold((f64::MAX, 0f64), |(a, b), pause| (a.min(*pause), b.max(*pause)));
            println!("pause {n}: {least:.2} to {most:.2} s, mean {mean:.2} of {ceiling}");
            // Full jitter is uniform from zero to the ceiling. Each bound fails by chance less than
            // once in 10^7 runs.
            assert!(most <= ceiling && most > 0.9 * ceiling && least < 0.1 * ceiling, "{n}");
            assert!((0.38..0.62).contains(&(mean / ceiling)), "{n}");
        }
        let busiest = |width: f64| {
            (0..200)
                .map(|n| came.iter().filter(|at| (**at / width) as i32 == n).count())
                .max()
                .unwrap()
        };
        println!("busiest tenth of a second: {} of 200", busiest(0.1));
        assert!(busiest(0.1) < 80);
    }

    #[test]
    fn devices_that_were_told_the_same_time_do_not_come_at_the_same_time() {
        let asked = Duration::from_secs(30);
        let pauses: Vec<f64> = (0..200)
            .map(|_| {
                Backoff::new(Duration::from_secs(1), Duration::from_secs(60))
                    .fail(random(), Some(asked))
                    .as_secs_f64()
            })
            .collect();
        assert!(pauses.iter().all(|pause| (30.0..=31.0).contains(pause)));
        assert!(
            pauses.iter().any(|pause| *pause < 30.2) && pauses.iter().any(|pause| *pause > 30.8)
        );
    }

    #[test]
    fn pauses_double_up_to_the_cap_with_full_jitter() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let pauses: Vec<u64> = (0..8).map(|_| backoff.fail(1.0, None).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.fail(0.0, None), Duration::ZERO);
        assert_eq!(backoff.fail(0.5, Some(Duration::from_secs(7200))).as_secs(), 3600);
        backoff.succeed();
        assert_eq!(backoff.fail(1.0, None).as_secs(), 1);
        assert_eq!(backoff.fail_for_long(0.0).as_secs(), 30);
    }
}
