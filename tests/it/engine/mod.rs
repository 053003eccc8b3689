//! The loop, its tables and its bounds, from outside: what many share, and what waits.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on has failed

pub mod scale;
mod shares;
