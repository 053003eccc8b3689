//! Layer 4: one exchange from a downstream connection to an upstream one, streamed, in the event
//! loop.
//!
//! The same code carries a visitor's request to a device's link and, inside the device, a link's
//! request to a local server. It costs no thread, keeps both sockets registered, and reads from
//! neither side before the other has taken the previous bytes. It reads a little of a response
//! ahead, so that a slow visitor does not hold the link.
//!
//! ```text
//!   downstream ──head, body──► upstream   request.rs: nothing is read while upstream has bytes waiting
//!   downstream ◄──head, body── upstream   response.rs: up to read_ahead_bytes_max may wait for downstream
//! ```
//! For a device that polls (protocol.md §2) there is no upstream connection while the device works.
//! The request is *collected* into memory, and the role sends it as an event. The response comes
//! whole ([`deliver`]) or as the body of a POST, which then is the upstream connection
//! ([`attach_enclosed`]).
//!
//! A request that offers another protocol (WebSocket) and is answered with 101 becomes a *tunnel*:
//! bytes go both ways as they arrive, each direction ends separately, and the upstream connection
//! is not used again.
//!
//! Heads are rewritten by [`proto::forward`](crate::proto::forward), and bodies are decoded and
//! reframed: only parsed data is passed on.
//!
//! # Order of files
//! Each names only those above it.
//!
//! | file | contents |
//! |---|---|
//! | `timeouts.rs` | how long each phase may take, and the name of that wait |
//! | `local_answer.rs` | responses that this end writes itself |
//! | `lingering.rs` | how a connection is closed gently |
//! | `gathering.rs` | a message that is read whole into memory |
//! | `kept.rs` | the beginning of a body, kept in case another gateway has to be asked |
//! | `rules.rs` | differences between a gateway's relay and a device's |
//! | `failure.rs` | why an exchange fails, by the side whose fault it is |
//! | `clocks.rs` | the starting points of an exchange's waits |
//! | `caller.rs` | the downstream side: a client, the loop, or a client that has left |
//! | `request.rs` | the request: downstream to upstream, and the part kept for a retry |
//! | `tunnel.rs` | both directions after a 101 |
//! | `phase.rs` | the phases of an exchange, with their data |
//! | `exchange.rs` | one exchange: its beginning, and the queries of the roles |
//! | `collecting.rs` | reading a request's whole body into memory |
//! | `response.rs` | the response: upstream to downstream |
//! | `deadlines.rs` | deadlines, progress, the minimum rate |
//! | `step.rs` | one bounded step of both directions |
//! | `relaying.rs` | the role's part |
//! | `endings.rs` | every way in which an exchange ends |
//! | `driver.rs` | the entry points: `attach`, `deliver`, `advance` |
//! | `expiry.rs` | consequences of a deadline that passed |

mod caller;
mod clocks;
mod collecting;
mod deadlines;
mod driver;
mod endings;
mod exchange;
mod expiry;
mod failure;
mod gathering;
mod kept;
mod lingering;
mod local_answer;
mod phase;
mod relaying;
mod request;
mod response;
mod rules;
mod step;
#[cfg(test)]
mod tests;
mod timeouts;
mod tunnel;

pub(crate) use collecting::Collected;
pub(crate) use driver::{advance, attach, attach_enclosed, attach_tunnel, attach_with, deliver};
pub(crate) use endings::{abort, answer_instead};
pub(crate) use exchange::Exchange;
pub(crate) use expiry::expired;
pub(crate) use gathering::Gathering;
pub(crate) use lingering::{Lingering, hurry_lingering, linger, step_lingering};
pub(crate) use local_answer::{LocalAnswer, Page};
pub(crate) use relaying::Relaying;
pub(crate) use rules::Rules;
pub(crate) use timeouts::{Wait, Waits};
