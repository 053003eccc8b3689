//! The observations of one exchange.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use crate::observe::records::{Detail, ExchangeRecord};

/// The observations of one exchange. Its times are those of the loop's turns
/// ([`time::of_turn`](crate::engine::time::of_turn)).
pub(super) struct Exchanged {
    /// Its device's row and that row's generation. `None` if no such device was ever connected
    /// here.
    pub(super) device: Option<(usize, u64)>,
    pub(super) method: Cow<'static, str>,
    pub(super) path: String,
    pub(super) from: Option<IpAddr>,
    pub(super) began: Instant,
    pub(super) attached: Option<Instant>,
    pub(super) first_byte: Option<Instant>,
    pub(super) status: u16,
    pub(super) to_device: u64,
    pub(super) from_device: u64,
    pub(super) failure: Option<&'static str>,
    pub(super) detail: Option<Box<Detail>>,
}

impl Exchanged {
    /// A request that begins at this time.
    pub(super) fn at(began: Instant) -> Self {
        Exchanged {
            device: None,
            method: Cow::Borrowed(""),
            path: String::new(),
            from: None,
            began,
            attached: None,
            first_byte: None,
            status: 0,
            to_device: 0,
            from_device: 0,
            failure: None,
            detail: None,
        }
    }

    /// Makes a finished exchange another one, which begins at this time; its path, now empty, keeps
    /// its memory.
    pub(super) fn reset(&mut self, began: Instant) {
        let mut path = std::mem::take(&mut self.path);
        path.clear();
        *self = Exchanged { path, ..Exchanged::at(began) };
    }

    /// How long it took until its end, how long it waited for a link or a poll, and from then until
    /// the head of the response.
    pub(super) fn times(&self, end: Instant) -> (Duration, Duration, Option<Duration>) {
        let attached = self.attached.unwrap_or(end);
        let first = self.first_byte.map(|at| between(self.attached.unwrap_or(self.began), at));
        (between(self.began, end), between(self.began, attached), first)
    }

    pub(super) fn complete(
        &self,
        record: ExchangeRecord,
        (took, waited, first_byte): (Duration, Duration, Option<Duration>),
    ) -> ExchangeRecord {
        ExchangeRecord {
            at: SystemTime::now(),
            status: self.status,
            to_device: self.to_device,
            from_device: self.from_device,
            waited,
            first_byte,
            took,
            failure: self.failure,
            ..record
        }
    }

    pub(super) fn is_error(&self) -> bool {
        is_error(self.status, self.failure)
    }
}

/// Most requests find an idle link in the turn in which they begin.
fn between(from: Instant, to: Instant) -> Duration {
    if from == to { Duration::ZERO } else { to.saturating_duration_since(from) }
}

/// Returns true if it counts as an error. An answered mistake of a visitor does not.
pub(super) fn is_error(status: u16, failure: Option<&'static str>) -> bool {
    status >= 500 || (failure.is_some() && !(400..500).contains(&status))
}
