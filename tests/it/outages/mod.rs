//! What fails around a gateway and its devices: processes, machines, networks.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on has failed

#[cfg(target_os = "linux")]
mod netns;
pub mod rolling;
mod storm;
mod survival;
