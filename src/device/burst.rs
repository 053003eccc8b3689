//! The number of dials that may wait for their answers at a time.

use std::time::Duration;
use std::time::Instant;

/// Limits the dials that wait for their answers. A gateway's accept queue has at most 4,096
/// entries. Devices with a thousand links each that return together would overflow it, and
/// connections beyond it hang for seconds. Dials that were not answered in time no longer count,
/// because a gateway may hold offers. Dials that the gateway requested for waiting callers have a
/// wider bound, because each round of dials costs these callers two round trips.
pub(super) struct Burst {
    pub(super) ends: Instant,
    pub(super) dials: usize,
    /// An alarm is set for its end.
    pub(super) alarmed: bool,
}

impl Burst {
    const DIALS: usize = 64;
    const DIALS_ASKED_FOR: usize = 256;
    const TIME: Duration = Duration::from_secs(1);

    pub(super) fn until(ends: Instant) -> Self {
        Burst { ends, dials: 0, alarmed: false }
    }

    /// Returns true if one more may be dialled now. If not, it may be dialled after an answer, or
    /// when the burst [`ends`](Self::ends).
    pub(super) fn takes(&mut self, now: Instant, is_asked_for: bool) -> bool {
        if self.ends <= now {
            *self = Burst::until(now + Self::TIME);
        }
        let takes = self.dials < if is_asked_for { Self::DIALS_ASKED_FOR } else { Self::DIALS };
        self.dials += usize::from(takes);
        takes
    }

    pub(super) fn answered(&mut self) {
        self.dials = self.dials.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dials_that_a_gateway_asks_for_have_a_wider_bound() {
        let start = Instant::now();
        let mut burst = Burst::until(start + Burst::TIME);
        let taken =
            |burst: &mut Burst, now, asked| (0..999).filter(|_| burst.takes(now, asked)).count();
        assert_eq!(taken(&mut burst, start, false), 64);
        assert_eq!(taken(&mut burst, start, true), 192, "those before count");
        (0..193).for_each(|_| burst.answered());
        assert_eq!(taken(&mut burst, start, false), 1);
        let later = start + Burst::TIME;
        assert_eq!(taken(&mut burst, later, false), 64, "unanswered dials are forgotten");
    }
}
