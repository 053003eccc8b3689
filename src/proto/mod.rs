//! The protocol as pure functions and small state machines over bytes, without sockets, clocks or
//! threads.
//!
//! A parser returns `Ok(Some(..))` when it is done, `Ok(None)` when it needs more bytes, and
//! `Err(Refusal)` when the bytes are wrong. The caller keeps the bytes and the socket.

// The order of files: each names only those above it.
//
// | file | contents |
// |---|---|
// | `digits.rs` | decimal and hexadecimal digits, percent-encoding |
// | `fields.rs` | the fields of a head |
// | `head.rs` | request and response heads, read |
// | `bound_login.rs` | logins that belong to a connection |
// | `head_writer.rs` | start lines and fields, written |
// | `authority.rs` | host and port |
// | `interim.rs` | a count of 1xx responses |
// | `authorization.rs` | `Authorization: Bearer` |
// | `hop_by_hop.rs` | hop-by-hop fields, which are stripped |
// | `rebinding.rs` | local hosts, against DNS rebinding |
// | `body.rs` | framing, the decoder of bodies, chunks |
// | `framed.rs` | a request whose framing is decided |
// | `upgrade.rs` | offers of other protocols, and the 101 that accepts one |
// | `dialect.rs` | the spellings of the upgrade offer |
// | `turn.rs` | the offer: read and written; names of devices |
// | `verdict.rs` | a gateway's answer to an offer: 101, COMET, `Retry-After` |
// | `template.rs` | the URL template that an IETF offer goes to |
// | `comet/text.rs` | events and answers as text |
// | `comet/json.rs` | events and answers in JSON |
// | `comet/no_json.rs` | in its place without the feature `comet` |
// | `comet.rs` | the fallback's messages |
// | `edits.rs` | fields that routes add and remove |
// | `forwarded.rs` | `Forwarded` and `X-Forwarded-*`, trusted networks |
// | `prefixes.rs` | which of several path prefixes fits best |
// | `absolute.rs` | targets in absolute form |
// | `alias.rs` | paths and locations of a server behind a prefix |
// | `peer.rs` | the fields between gateways |
// | `forward.rs` | heads rewritten for the next hop |
// | `heartbeat.rs` | `OPTIONS *`, asked and answered |
// | `tcp.rs` | CONNECT for TCP targets |
// | `proxy_header.rs` | the PROXY protocol's header |

pub(crate) mod absolute;
pub mod alias;
pub(crate) mod authority;
pub(crate) mod authorization;
pub mod body;
pub(crate) mod bound_login;
pub mod comet;
pub mod dialect;
pub mod digits;
pub mod edits;
pub(crate) mod fields;
pub mod forward;
pub mod forwarded;
pub mod framed;
pub mod head;
pub mod head_writer;
pub mod heartbeat;
pub(crate) mod hop_by_hop;
pub mod interim;
pub(crate) mod peer;
pub(crate) mod prefixes;
pub mod proxy_header;
pub mod rebinding;
pub mod tcp;
pub(crate) mod template;
pub mod turn;
pub(crate) mod upgrade;
pub mod verdict;
