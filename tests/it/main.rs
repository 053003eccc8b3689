//! The integration tests, one binary.

mod api;
mod comet_api;
mod defaults;
mod documents;
mod ends;
mod link;
mod proto;
mod tidy;

// From outside, against the binary.
#[cfg(feature = "cli")]
mod admin;
#[cfg(feature = "cli")]
mod admission;
#[cfg(feature = "cli")]
mod check;
#[cfg(feature = "cli")]
mod cli;
#[cfg(all(feature = "cli", feature = "comet"))]
mod comet_device;
#[cfg(all(feature = "cli", feature = "comet"))]
mod comet_gateway;
#[cfg(feature = "cli")]
mod comet_peers;
#[cfg(feature = "cli")]
mod commands;
#[cfg(feature = "cli")]
mod config;
#[cfg(feature = "cli")]
mod demand;
#[cfg(feature = "cli")]
mod demand_device;
#[cfg(feature = "cli")]
mod device_wire;
#[cfg(feature = "cli")]
mod dialling;
#[cfg(feature = "cli")]
mod differential;
#[cfg(feature = "cli")]
mod drain;
#[cfg(all(feature = "cli", feature = "tls"))]
mod endings;
#[cfg(feature = "cli")]
mod faults;
#[cfg(feature = "cli")]
mod files;
#[cfg(feature = "cli")]
mod framing_first;
#[cfg(feature = "cli")]
mod gateway_wire;
#[cfg(feature = "cli")]
mod identity;
#[cfg(feature = "cli")]
mod logins;
#[cfg(all(feature = "cli", feature = "comet"))]
mod middleboxes;
#[cfg(feature = "cli")]
mod names;
#[cfg(all(feature = "cli", target_os = "linux"))]
mod netns;
#[cfg(feature = "cli")]
mod nonces;
#[cfg(feature = "cli")]
mod odd_servers;
#[cfg(feature = "cli")]
mod options;
#[cfg(feature = "cli")]
mod pages;
#[cfg(feature = "cli")]
mod peers;
#[cfg(feature = "cli")]
mod proxies;
#[cfg(feature = "cli")]
mod reach;
#[cfg(feature = "cli")]
mod relay_peers;
#[cfg(feature = "cli")]
mod reload;
#[cfg(feature = "cli")]
mod revocation;
#[cfg(feature = "cli")]
mod rolling;
#[cfg(feature = "cli")]
mod routes;
#[cfg(feature = "cli")]
mod scale;
#[cfg(feature = "cli")]
mod shares;
#[cfg(feature = "cli")]
mod storm;
#[cfg(feature = "cli")]
mod suite;
#[cfg(feature = "cli")]
mod supervised;
#[cfg(feature = "cli")]
mod support;
#[cfg(feature = "cli")]
mod survival;
#[cfg(feature = "cli")]
mod threats;
#[cfg(feature = "cli")]
mod threats_links;
#[cfg(feature = "cli")]
mod threats_visitors;
#[cfg(feature = "cli")]
mod tls;
#[cfg(feature = "cli")]
mod tokens;
#[cfg(feature = "cli")]
mod upgrades;
#[cfg(feature = "cli")]
mod visitors;
