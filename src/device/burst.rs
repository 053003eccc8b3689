//! How many dials may wait for their answers at a time.

use std::time::Duration;
use std::time::Instant;

/// At most so many dials wait for their answers at a time. A gateway's accept queue has 4,096
/// places and often fewer, and devices with a thousand links each that come back together would
/// overflow it; connections that overflow hang for seconds. Those that were not answered in time do
/// not count any more: a gateway may hold offers.
pub(super) struct Burst {
    pub(super) ends: Instant,
    pub(super) dials: usize,
    /// An alarm is set for its end.
    pub(super) alarmed: bool,
}

impl Burst {
    const DIALS: usize = 64;
    const TIME: Duration = Duration::from_secs(1);

    pub(super) fn until(ends: Instant) -> Self {
        Burst { ends, dials: 0, alarmed: false }
    }

    /// Returns true if one more may be dialled now, or only after an answer, or when the burst
    /// [`ends`](Self::ends).
    pub(super) fn takes(&mut self, now: Instant) -> bool {
        if self.ends <= now {
            *self = Burst::until(now + Self::TIME);
        }
        let takes = self.dials < Self::DIALS;
        self.dials += usize::from(takes);
        takes
    }

    pub(super) fn answered(&mut self) {
        self.dials = self.dials.saturating_sub(1);
    }
}
