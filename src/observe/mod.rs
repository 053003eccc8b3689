//! Observations of a gateway's devices and exchanges, for its operator: counters, histograms, the
//! last requests, the last ups and downs.
//!
//! Only the event loop's thread writes and reads here, so the lock is never waited for; other
//! threads ask the loop. An exchange owns an [`Observed`], which reports when it is dropped, so
//! that no end is forgotten. Unless a gateway was started with it, it is off, and every call is one
//! test of an `Option`.
//!
//! Memory of one device is bounded: 1.8 KiB of histogram, 60 minutes of 24 bytes,
//! [`RECENT_MAX`](row::RECENT_MAX) requests of at most 232 bytes, [`CHANGES_MAX`](row::CHANGES_MAX)
//! changes of at most 230 bytes and 600 bytes of its offer: less than 16 KiB, and about 1 KiB for
//! an idle device. All of it is counted, and has a bound
//! ([`OBSERVED_PART`](crate::limits::OBSERVED_PART)). Exchanges in progress count as the gateway's,
//! and the memory of the last 64 finished ones is used again.
//!
//! The times are those of the loop's turns, so that an exchange costs no reading of the clock. They
//! are exact to a turn: a few microseconds in an idle loop, and under a millisecond in a busy one.
//!
//! # Order of files
//! Each names only those above it.
//!
//! | file | contents |
//! |---|---|
//! | `texts.rs` | texts of peers, cut to a bounded length |
//! | `refusals.rs` | offers that were refused, the last ones |
//! | `histogram.rs` | counts of durations by their size |
//! | `records.rs` | a record of each request, for an access log |
//! | `exchanged.rs` | the observations of one exchange |
//! | `row.rs` | the counters and history of one device name |
//! | `table.rs` | the rows of all names, in bounded memory |
//! | `observed.rs` | an exchange that is watched until it is dropped |
//! | `observer.rs` | the handle of a gateway's loop |

#![cfg_attr(not(feature = "admin"), allow(dead_code, reason = "nobody turns it on"))]

mod exchanged;
pub(crate) mod histogram;
mod observed;
mod observer;
pub(crate) mod records;
pub(crate) mod refusals;
pub(crate) mod row;
pub(crate) mod table;
#[cfg(test)]
mod tests;
mod texts;

pub(crate) use observed::{InProgress, Observed};
pub(crate) use observer::Observer;
pub(crate) use records::Visit;
pub(crate) use texts::{OFFER_TEXT_MAX, cut};
