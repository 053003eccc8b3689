//! The operators' listener and the access log.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on has failed

mod listener;
