//! Layer 1: the protocol as pure functions and small state machines over bytes. No socket, no
//! clock, no thread; a test reads the sources of this folder and proves it.
//!
//! A parser here answers *done, not yet, wrong*: `Ok(Some(..))`, `Ok(None)`, `Err(Refusal)`. The
//! caller keeps bytes and socket.

pub(crate) mod absolute;
pub mod alias;
pub(crate) mod authority;
pub(crate) mod authorization;
pub mod body;
pub mod comet;
pub mod dialect;
pub mod digits;
pub mod edits;
pub mod forward;
pub mod forwarded;
pub mod framed;
pub mod head;
pub mod head_writer;
pub mod heartbeat;
pub mod interim;
pub(crate) mod named;
pub(crate) mod peer;
pub(crate) mod prefixes;
pub mod proxy_header;
pub mod rebinding;
pub mod tcp;
pub(crate) mod template;
pub mod turn;
pub mod verdict;
