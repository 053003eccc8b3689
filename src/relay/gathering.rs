//! A message that is read whole into memory, its share of the quota, and the deadline of its
//! sender.

use std::time::{Duration, Instant};

use crate::engine::budget::Held;
use crate::error::Refusal;
use crate::limits::Limits;
use crate::relay::timeouts::Wait;

/// A message that is read whole into memory: its bytes, what they take of the budget, and how they
/// come.
pub(crate) struct Gathering {
    bytes: Vec<u8>,
    held: Held,
    /// How long it says that it is.
    announced: Option<u64>,
    /// When the last byte came, of the message or of its framing.
    progress: Instant,
    /// The window of the least rate: since when, and how much there was then.
    window: (Instant, usize),
}

impl Gathering {
    pub(crate) fn new(held: Held, announced: Option<u64>, now: Instant) -> Self {
        Gathering { bytes: Vec::new(), held, announced, progress: now, window: (now, 0) }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Something came.
    pub(crate) fn came(&mut self, now: Instant) {
        self.progress = now;
    }

    /// Takes more of the message.
    ///
    /// # Errors
    /// 413 and 503, as [`Held::take`] says.
    pub(crate) fn take(&mut self, data: &[u8]) -> Result<(), Refusal> {
        let (length, room) = (self.bytes.len() + data.len(), self.bytes.capacity());
        if length > room {
            // By a quarter, not by doubling: what the buffer has in reserve is memory, too, and
            // counts.
            let announced = self
                .announced
                .and_then(|length| usize::try_from(length).ok())
                .unwrap_or(usize::MAX);
            let wanted = length.max((room + room / 4).min(announced));
            let grown = if self.held.grow(wanted - room) {
                wanted
            } else {
                self.held.take(length - room, 0)?;
                length
            };
            self.bytes.reserve_exact(grown - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    pub(crate) fn finish(self) -> (Vec<u8>, Held) {
        (self.bytes, self.held)
    }

    /// When it is next to be looked at, if nothing comes before: `silence` is counted from the last
    /// byte, the window of the least rate is fixed.
    pub(crate) fn left(&self, now: Instant, silence: Duration, limits: &Limits) -> Duration {
        let silent = silence.saturating_sub(now.saturating_duration_since(self.progress));
        if limits.min_rate_bytes_per_s == 0 {
            return silent;
        }
        silent.min(
            limits.min_rate_window.saturating_sub(now.saturating_duration_since(self.window.0)),
        )
    }

    /// Why `what` is no longer waited for, where that is so: silence, or, while others want its
    /// room, a sender below the least rate over a whole window. Begins the next window.
    pub(crate) fn overdue(
        &mut self,
        what: &str,
        now: Instant,
        silence: Wait,
        limits: &Limits,
    ) -> Option<String> {
        if now.saturating_duration_since(self.progress) >= silence.time {
            return Some(format!("nothing of {what} arrived for {silence}"));
        }
        let (from, had) = self.window;
        let window = now.saturating_duration_since(from);
        if window < limits.min_rate_window {
            return None;
        }
        self.window = (now, self.bytes.len());
        let slow = ((self.bytes.len() - had) as f64)
            < limits.min_rate_bytes_per_s as f64 * window.as_secs_f64();
        (slow && self.held.is_wanted()).then(|| {
            format!("{what} came slower than min_rate_bytes_per_s while others want the memory that it takes; send it faster, or later")
        })
    }
}
