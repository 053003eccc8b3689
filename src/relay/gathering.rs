//! A message that is read whole into memory, its share of the quota, and the deadline of its
//! sender.

use std::time::{Duration, Instant};

use crate::engine::budget::Held;
use crate::error::Refusal;
use crate::limits::Limits;
use crate::relay::timeouts::Wait;

/// A message that is read whole into memory: its bytes, their share of the budget, and the rate at
/// which they arrive.
pub(crate) struct Gathering {
    bytes: Vec<u8>,
    held: Held,
    /// The announced length.
    announced: Option<u64>,
    /// When the last byte arrived, of the message or of its framing.
    progress: Instant,
    /// The window of the minimum rate: its beginning, and the number of bytes by then.
    window: (Instant, usize),
}

impl Gathering {
    pub(crate) fn new(held: Held, announced: Option<u64>, now: Instant) -> Self {
        Gathering { bytes: Vec::new(), held, announced, progress: now, window: (now, 0) }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes have arrived.
    pub(crate) fn came(&mut self, now: Instant) {
        self.progress = now;
    }

    /// Appends bytes of the message.
    ///
    /// # Errors
    /// 413 and 503: see [`Held::take`].
    pub(crate) fn take(&mut self, data: &[u8]) -> Result<(), Refusal> {
        let (length, room) = (self.bytes.len() + data.len(), self.bytes.capacity());
        if length > room {
            // It grows by a quarter and does not double: the buffer's spare capacity counts as
            // memory, too.
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

    /// The time until the next check, if no byte arrives before. `silence` is counted from the last
    /// byte; the window of the minimum rate is fixed.
    pub(crate) fn left(&self, now: Instant, silence: Duration, limits: &Limits) -> Duration {
        let silent = silence.saturating_sub(now.saturating_duration_since(self.progress));
        if limits.min_rate_bytes_per_s == 0 {
            return silent;
        }
        silent.min(
            limits.min_rate_window.saturating_sub(now.saturating_duration_since(self.window.0)),
        )
    }

    /// The reason to stop waiting for `what`, if there is one: silence, or, while others need its
    /// memory, a sender below the minimum rate during a whole window. Begins the next window.
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
