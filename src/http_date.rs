//! `Date`: the time of a response, and of a file, as HTTP writes it.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An IMF-fixdate (RFC 9110 §5.6.7), always 29 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DateText([u8; 29]);

impl DateText {
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Now, formatted once per second and thread. `None` where the clock is before 1970 or after 9999:
/// a device without a clock must not send `Date` (RFC 9110 §6.6.1).
pub(crate) fn date_now() -> Option<DateText> {
    thread_local!(static CACHED: Cell<(u64, DateText)> = const { Cell::new((u64::MAX, DateText([b' '; 29]))) });
    let second = second_now()?;
    let (cached_second, cached) = CACHED.get();
    if cached_second == second {
        return Some(cached);
    }
    let date = date_of(second)?;
    CACHED.set((second, date));
    Some(date)
}

/// Seconds since 1970 by the system's clock; `None` before that. Always the same in the simulation,
/// so that its runs can be repeated.
pub(crate) fn second_now() -> Option<u64> {
    #[cfg(test)]
    if let Some(second) = crate::sim::net::second() {
        return Some(second);
    }
    SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// This second since 1970, formatted. `None` after 9999, where the formatter would panic.
pub(crate) fn date_of(second: u64) -> Option<DateText> {
    const YEAR_10000: u64 = 253_402_300_800;
    if second >= YEAR_10000 {
        return None;
    }
    Some(DateText(
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second))
            .into_bytes()
            .try_into()
            .ok()?,
    ))
}
