//! The guide: a page for each subject, with code that runs.
//!
//! - [`handshake`]: offers, names, the right to register
//! - [`links`]: one connection, one exchange; how many there are
//! - [`polls`]: what happens where upgrades are blocked
//! - [`deadlines`]: limits, errors, and what to do about them
//! - [`credentials`]: TLS and tokens
//! - [`gateways`]: several gateways that share the devices
//! - [`embedded`]: small devices, other transports
//! - [`running`]: logs, events, stopping
//! - [`testing`]: a handler without sockets
//!
//! These modules contain text only. Pages for operators are in the repository's `docs/`.

#[doc = include_str!("docs/handshake.md")]
pub mod handshake {}

#[doc = include_str!("docs/links.md")]
pub mod links {}

#[doc = include_str!("docs/polls.md")]
pub mod polls {}

#[doc = include_str!("docs/deadlines.md")]
pub mod deadlines {}

/// TLS and tokens (the page needs the feature `tls`).
#[cfg_attr(feature = "tls", doc = "")]
#[cfg_attr(feature = "tls", doc = include_str!("docs/credentials.md"))]
pub mod credentials {}

#[doc = include_str!("docs/gateways.md")]
pub mod gateways {}

#[doc = include_str!("docs/embedded.md")]
pub mod embedded {}

#[doc = include_str!("docs/running.md")]
pub mod running {}

#[doc = include_str!("docs/testing.md")]
#[cfg_attr(feature = "test-clock", doc = include_str!("docs/testing_clock.md"))]
pub mod testing {}
