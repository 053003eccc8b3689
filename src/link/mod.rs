//! One turned connection over anything that is `Read + Write`, blocking, without the event loop.
//!
//! [`GatewayLink`] sends requests, [`DeviceLink`] answers them; after the turn the two never change
//! roles. [`offer`] and [`accept`] perform the turn itself over a bare stream. A message's
//! [`Body`](crate::Body) is read from the same connection.
//!
//! ```text
//!   GatewayLink::ask ──request──►           ──► DeviceLink::next_request
//!                                 the wire
//!   Response<Body>  ◄──response──           ◄── DeviceLink::respond
//! ```
//! A link never starts a thread and never retries. Reading a `Body` after its exchange has ended is
//! an error.
//!
//! ```
//! use std::os::unix::net::UnixStream;
//! use std::sync::Arc;
//! use reverse_http::{Body, DeviceLink, GatewayLink, Limits};
//!
//! let (gateway_end, device_end) = UnixStream::pair()?;
//! let limits = Arc::new(Limits::default());
//! let mut device = DeviceLink::new(device_end, Vec::new(), limits.clone());
//! let device = std::thread::spawn(move || {
//!     while let Some(request) = device.next_request()? {
//!         device.respond(http::Response::new(Body::from(format!("you asked for {}", request.uri()))))?;
//!     }
//!     Ok::<(), reverse_http::Error>(())
//! });
//!
//! let mut gateway = GatewayLink::new(gateway_end, Vec::new(), limits);
//! let response = gateway.ask(http::Request::get("/status").body(Body::empty())?)?;
//! assert_eq!(response.into_body().read_to_text(100)?, "you asked for /status");
//! drop(gateway);
//! device.join().unwrap()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

// The order of files: each names only those above it.
//
// | file | contents |
// |---|---|
// | `deadlines.rs` | how long a step, and the whole exchange, may take |
// | `inbox.rs` | bytes that were read and not used yet |
// | `socket.rs` | queries and options of the socket under a stream |
// | `wire.rs` | the stream, its inbox, and why it may not carry another exchange |
// | `line.rs` | the wire, shared by a link and the body of its exchange |
// | `send.rs` | a message on its way out |
// | `upload.rs` | a request that is still written while its response comes |
// | `wire_body.rs` | the body of a message that comes in |
// | `device.rs` | the side that answers |
// | `gateway.rs` | the side that asks |
// | `turn.rs` | the turn itself, over a bare stream |

mod deadlines;
mod device;
mod gateway;
mod inbox;
mod line;
mod send;
mod socket;
#[cfg(test)]
mod tests;
mod turn;
mod upload;
mod wire;
mod wire_body;

pub(crate) use deadlines::Whole;
pub use device::DeviceLink;
pub(crate) use device::{Lingered, Next};
pub use gateway::GatewayLink;
pub(crate) use gateway::{BegunResponse, LinkedDevice, NothingArrived, Owned, Switched};
pub use turn::{Offered, Offering, accept, offer, receive};
pub(crate) use wire_body::{CutError, Done, Settlement};
