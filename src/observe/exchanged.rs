//! The observations of one exchange.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use crate::observe::records::{Detail, ExchangeRecord};

/// The observations of one exchange.
pub(super) struct Exchanged {
    /// Its device's row and that row's generation. `None` if no such device was ever connected
    /// here.
    pub(super) device: Option<(usize, u64)>,
    pub(super) method: Cow<'static, str>,
    pub(super) path: Box<str>,
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
    pub(super) fn complete(
        &self,
        record: ExchangeRecord,
        took: Duration,
        waited: Duration,
    ) -> ExchangeRecord {
        let attached = self.attached.unwrap_or(self.began);
        ExchangeRecord {
            at: SystemTime::now(),
            status: self.status,
            to_device: self.to_device,
            from_device: self.from_device,
            waited,
            first_byte: self.first_byte.map(|first| first.saturating_duration_since(attached)),
            took,
            failure: self.failure,
            ..record
        }
    }

    pub(super) fn is_error(&self) -> bool {
        is_error(self.status, self.failure)
    }
}

/// Returns true if it counts as an error. An answered mistake of a visitor does not.
pub(super) fn is_error(status: u16, failure: Option<&'static str>) -> bool {
    status >= 500 || (failure.is_some() && !(400..500).contains(&status))
}
