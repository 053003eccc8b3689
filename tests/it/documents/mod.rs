//! The documents and the sources hold what they say of themselves, and the suite does, too.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on has failed

mod defaults;
mod pages;
#[cfg(feature = "cli")]
mod suite;
#[cfg(feature = "cli")]
mod threats;
mod tidy;
