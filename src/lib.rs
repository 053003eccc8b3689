//! Reverse HTTP (PTTH): a device behind NAT or a firewall dials out to a gateway and offers
//! `Upgrade: PTTH/1.0`; the gateway answers 101, and the connection turns around: now the gateway
//! sends requests, and the device answers them.
//!
//! It is synchronous, without an async runtime. A mio event loop owns the sockets, reads heads and
//! moves bytes; the code of programs (handlers, callers of `send()`) is plain blocking `Read`/`Write`
//! code on worker threads or on the caller's.
//!
//! ```
//! use std::time::Duration;
//! use reverse_http::{Body, Device, Gateway};
//!
//! let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
//!
//! // On the device, behind NAT:
//! let device = Device::builder(format!("http://{}/lamp", gateway.devices_addr())).build()?;
//! let running = device.spawn(|_request| http::Response::new(Body::from("on")))?;
//!
//! // At the gateway, a program sends a request:
//! let lamp = gateway.device("lamp");
//! lamp.wait_connected(Duration::from_secs(5))?;
//! let response = lamp.send(http::Request::get("/status").body(Body::empty())?)?;
//! assert_eq!(response.into_body().read_to_text(100)?, "on");
//! # running.stop();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The layers can be used separately: [`proto`] (the protocol as pure functions), [`link`] (one
//! turned connection over anything that is `Read + Write`), and [`Gateway`] and [`Device`]. The
//! feature `cli` adds the command `ptth`.
//!
//! The [`guide`] has a page for each subject: links, polls, deadlines, TLS, embedded devices, testing.
//!
//! Do not use it for many concurrent requests over one connection (HTTP/2 has streams; here each
//! request takes a link of its own), or for much traffic that is not HTTP: each connection to a TCP
//! server behind a device ([`DeviceBuilder::tcp`], `ptth connect`) takes a link, too.

#[cfg(not(unix))]
compile_error!("reverse-http works on Unix only: its event loop registers raw descriptors");

#[macro_use]
mod logs;

#[cfg(feature = "admin")]
pub mod admin;
mod atomic;
pub mod body;
pub mod calendar;
mod cancel;
#[cfg_attr(not(feature = "test-clock"), path = "no_clock.rs")]
mod clock;
pub mod close_reason;
pub mod device;
mod engine;
pub mod error;
pub mod gateway;
pub mod guide;
mod http_date;
pub mod limits;
pub mod link;
mod message;
mod observe;
pub mod proto;
mod relay;
pub mod response;
mod setting;
#[cfg(test)]
mod sim;
pub mod stream;
pub mod subscription;
pub mod testing;
pub mod text;
#[cfg(feature = "tls")]
pub mod tls;
mod upgraded;

pub use body::{Body, Progress};
pub use cancel::Cancel;
pub use close_reason::{CloseCause, CloseCounts};
pub use device::{
    Device, DeviceBuilder, DeviceEvent, DeviceEventKind, DeviceHandle, DeviceStats, Exchange,
    Listener, OnRefusal, upgrade,
};
pub use error::{Error, ErrorKind, Fault, Refusal};
pub use gateway::{
    Bound, BoundCounts, ClusterGateway, DeviceInfo, DeviceRef, DirectoryStatus, Gateway,
    GatewayBuilder, GatewayEvent, GatewayEventKind, GatewayStats, Grant, LinkCounts, Offer, Peers,
    Rate, Reject, Route, Routes, Tokens, TurnMode,
};
#[cfg(feature = "redis")]
pub use gateway::{DirectoryReport, NameClaim, NameReport, RedisDirectory};
pub use limits::Limits;
pub use link::{DeviceLink, GatewayLink};
pub use proto::turn::{Encoding, Fallback, Transport};
pub use response::IntoResponse;
pub use subscription::Subscription;
pub use upgraded::{Stopping, Upgraded};

/// The Rust in these documents is compiled as doc tests.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/in-a-program.md")]
    struct InAProgram;
    #[cfg(feature = "tls")]
    #[doc = include_str!("../docs/tls-and-tokens.md")]
    struct TlsAndTokens;
}
