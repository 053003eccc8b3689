//! The COMET fallback at the gateway (protocol.md §2): polls are held, requests handed out as
//! events, answers given to their callers.
//!
//! ```text
//!   visitor ─► exchange ─► collected ─┬─► a held poll: PollReply ─► handed out ─► answered by a POST ─► visitor
//!                                     └─► in line, until a poll (or a link) comes      │
//!                                         ▲── written half-way, or 10 s of silence ◄───┘ the same id
//! ```
//! An event is the request that would be sent over a link, and the code for links parses its
//! answer. A held poll is a parked connection: it costs no thread and no buffer.
//!
//! The data types stand above `state.rs`: [`deliveries`], [`posted`], [`reply`]. The loop's steps
//! are below it: a poll is held or gets a request ([`feeding`]), or ends ([`holding`]); a request
//! is collected ([`collecting`]) and handed out as an event ([`handing`]), which is tracked until
//! its answer ([`following`]); a POST's answer is read ([`reading`]), and polls are answered
//! ([`replying`]).

pub(super) mod deliveries;
pub(super) mod posted;
pub(super) mod reply;

mod collecting;
mod feeding;
mod following;
mod handing;
mod holding;
mod reading;
mod replying;
