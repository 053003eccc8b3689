//! The COMET fallback at the gateway (protocol.md §2): polls are held, requests handed out as
//! events, answers given to their callers.
//!
//! ```text
//!   visitor ─► exchange ─► collected ─┬─► a held poll: PollReply ─► handed out ─► answered by a POST ─► visitor
//!                                     └─► in line, until a poll (or a link) comes      │
//!                                         ▲── written half-way, or 10 s of silence ◄───┘ the same id
//! ```
//! An event is the exchange's own request as it would go over a link; its answer is read by the
//! code that reads a link. A held poll is a parked connection: no thread, no buffer.
//!
//! The data types stand above `state.rs`: [`deliveries`], [`posted`], [`reply`]. Below it stand the
//! loop's steps: a poll is held and fed ([`feeding`]), or leaves the line ([`holding`]); a request
//! is read whole ([`collecting`]) and handed out ([`handing`]); what became of it ([`following`]);
//! a POST's answer ([`reading`]); replies ([`replying`]).

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
