//! One exchange between visitor, device and local server: what is passed on, and how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on has failed

mod differential;
mod endings;
mod faults;
mod framing_first;
pub mod hostile;
mod logins;
mod nonces;
mod odd_servers;
mod options;
mod peers;
pub mod upgrades;
