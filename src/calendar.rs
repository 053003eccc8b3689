//! Dates as people write them in options and files, in UTC.

use std::time::{Duration, SystemTime};

use crate::error::Error;

/// The first second of a day, written like `2026-01-31`, in UTC.
///
/// # Errors
/// It is not a date from 1970 on.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// let day = reverse_http::calendar::day("1970-01-02")?;
/// assert_eq!(day, SystemTime::UNIX_EPOCH + Duration::from_secs(86_400));
/// # Ok::<(), reverse_http::Error>(())
/// ```
pub fn day(text: &str) -> Result<SystemTime, Error> {
    civil_day(text).map_err(Error::usage)
}

fn civil_day(text: &str) -> Result<SystemTime, &'static str> {
    const WRONG: &str = "write a date like 2026-01-31";
    let mut parts = text.split('-');
    let mut part = |length: usize| {
        let part = parts
            .next()
            .filter(|part| part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit()));
        part.and_then(|part| part.parse::<i64>().ok()).ok_or(WRONG)
    };
    let (year, month, day) = (part(4)?, part(2)?, part(2)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let length = usize::try_from(month - 1).ok().and_then(|month| lengths.get(month).copied());
    if parts.next().is_some() || year < 1970 || length.is_none_or(|length| day < 1 || day > length)
    {
        return Err(WRONG);
    }
    // Days from the civil date, with March as the first month, so that a leap day is the last of
    // its year.
    let (shifted, from_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = shifted * 365 + shifted / 4 - shifted / 100
        + shifted / 400
        + (153 * from_march + 2) / 5
        + day
        - 1
        - 719_468;
    let seconds = u64::try_from(days * 86_400).map_err(|_| WRONG)?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn dates_are_counted_from_1970() {
        let seconds =
            |text| day(text).unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(
            (seconds("1970-01-01"), seconds("2000-02-29"), seconds("2026-01-01")),
            (0, 951_782_400, 1_767_225_600)
        );
        assert_eq!((seconds("2024-12-31"), seconds("2038-01-19")), (1_735_603_200, 2_147_472_000));
        for wrong in [
            "",
            "2026",
            "2026-1-1",
            "2026-13-01",
            "2026-02-29",
            "2026-00-10",
            "1969-12-31",
            "2026-01-01-01",
            "2026-01-32",
            "+026-01-01",
        ] {
            assert!(day(wrong).is_err(), "{wrong}");
        }
    }
}
