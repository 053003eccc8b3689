//! `ptth gateway`: the devices' port, the visitors' port, routes, tokens, admission.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on has failed

pub mod admission;
mod demand;
mod drain;
#[cfg(feature = "test-clock")]
mod held_back;
pub mod hostile_visitors;
mod identity;
mod last_day;
mod loops;
mod proxy_protocol;
mod revocation;
mod routes;
mod sign_in;
#[cfg(feature = "test-clock")]
mod slow_readers;
pub mod tokens;
mod visitor_tokens;
pub mod visitors;
pub mod wire;
