//! The integration tests, one binary. Its folders are those of `src/`.

#![allow(unreachable_pub, reason = "what a folder of tests shares is public in its module")]

extern crate ptth_test_support as support;

mod api;
mod documents;
mod link;
mod proto;

// From outside, against the binary.
#[cfg(feature = "cli")]
mod admin;
#[cfg(feature = "cli")]
mod cli;
#[cfg(all(feature = "cli", feature = "comet"))]
mod cluster;
#[cfg(all(feature = "cli", feature = "comet"))]
mod comet;
#[cfg(feature = "cli")]
mod device;
#[cfg(feature = "cli")]
mod engine;
#[cfg(feature = "cli")]
mod gateway;
#[cfg(feature = "cli")]
mod outages;
#[cfg(feature = "cli")]
mod relay;
#[cfg(feature = "cli")]
mod tls;
