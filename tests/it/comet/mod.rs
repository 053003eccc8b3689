//! The COMET fallback (protocol.md §2) at both ends, and what stands between them.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on has failed

mod device;
mod gateway;
mod middleboxes;
pub mod peers;
mod slow;
mod stopping;
