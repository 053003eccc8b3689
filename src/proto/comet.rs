//! The COMET fallback's messages (protocol.md §2): events and answers, in `message/http` and in
//! JSON, as pure functions.
//!
//! ```text
//!   gateway   event_to_json  ──► event_from_json    device
//!             (its text)     ──► event_from_text
//!             answer_from_json ◄── answer_to_json
//!             answer_start     ◄── (its text)
//! ```
//! Both ends hold a message as *text*: one whole HTTP/1.1 message, which `message/http` carries
//! unchanged. So the same code reads messages from links, and events and answers in either
//! encoding. JSON is converted to and from that text (feature `comet`).

#[cfg(feature = "comet")]
mod json;
#[cfg(feature = "comet")]
pub(crate) use json::write_event;
#[cfg(feature = "comet")]
pub use json::{
    answer_from_json, answer_to_json, event_from_json, event_json_length, event_to_json,
};
#[cfg(not(feature = "comet"))]
mod no_json;
mod text;
#[cfg(not(feature = "comet"))]
pub(crate) use no_json::write_event;
#[cfg(not(feature = "comet"))]
pub use no_json::{
    answer_from_json, answer_to_json, event_from_json, event_json_length, event_to_json,
};
pub use text::{
    Answer, Event, ID_BYTES_MAX, PROTOCOL, answer_length, answer_start, check_id, event_from_text,
    id_of, write_request, write_request_head,
};
