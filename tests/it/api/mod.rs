//! Gateway and device as a program uses them: both ends in this process.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on has failed

#[cfg(feature = "ureq")]
mod agent;
mod cancel;
#[cfg(feature = "test-clock")]
mod clock;
mod close_reasons;
mod comet;
mod devices;
mod in_memory;
mod limits;
mod links;
mod programs;
mod progress;
mod upgrades;
