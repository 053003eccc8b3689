//! The gateway's side: devices connect to a [`Gateway`], and programs and visitors send requests to
//! them.
//!
//! Devices turn their connections, or poll where upgrades are blocked; callers do not notice the
//! difference.
//!
//! Each event loop has one thread; `send()` and `on_link` handlers are plain blocking code on the
//! caller's thread or on a worker's.

// The order of files: each names only those above it, and calls only their methods. Data and
// components come first, then the loop's steps, each an `impl` of the one role, and last what
// programs hold. A step that would call one further down leaves that call to be made when it has
// ended (`follow_ups.rs`).
//
// | file | contents |
// |---|---|
// | `secrets.rs` | secrets that an operator gives, several at once |
// | `tokens.rs` | credentials bound to names: the table, and the reading of `Authorization` |
// | `directory.rs` | which loop holds a name; counters of all loops |
// | `registry.rs` | the connected devices: names, sessions, idle links, held polls, waiting callers |
// | `rates.rs` | how many requests somebody may send in a time |
// | `sign_in.rs` | cookies and pages of the sign-in |
// | `routes.rs` | which device a visitor's request is for; `routes/route.rs`: one route, `routes/table.rs`: how a request finds its own, `routes/reply.rs`: answers of routes themselves |
// | `lifecycle.rs` | serving, notice, draining, stopped |
// | `events.rs` | what happens to names, for subscribers |
// | `stats.rs` | counters |
// | `exchange_deadlines.rs` | when exchanges have to be over |
// | `admission.rs` | allowed networks, permits for each address and side |
// | `listeners.rs` | listeners, with their certificates and routes |
// | `offer.rs` | an offer as `authorize` sees it, and its possible answers |
// | `certificates.rs` | the names that a device's certificate allows |
// | `credentials.rs` | checks tokens by the tables in force; certificates that are no longer accepted |
// | `changes.rs` | what the loops have yet to hear of changes in the directory of gateways |
// | `claims.rs` | claims of names in a table that several gateways share |
// | `redis.rs` | such a table in Redis (feature `redis`); `redis/examine.rs`: how its server does |
// | `ledger.rs` | this gateway's claims, renewed and released on threads of their own |
// | `resolving.rs` | what waits until the hosts of other gateways are resolved |
// | `mismatches.rs` | why another gateway cannot be asked, in words |
// | `setbacks.rs` | other gateways that were asked in vain lately |
// | `look_ups.rs` | names that the directory of gateways is to be asked for, in turn |
// | `peers.rs` | what a gateway is told of others, and how it asks which of them has a device |
// | `settings.rs` | what a gateway is started with |
// | `device_head.rs` | the head of a request on the devices' port |
// | `leases.rs` | links in the hands of program code |
// | `loops.rs` | the ways to all event loops of the gateway |
// | `peer_table.rs` | other gateways as one loop knows them, and the connections to them |
// | `alarms.rs` | what the loop is to wake the gateway for |
// | `callers.rs` | programs' threads that wait |
// | `questions.rs` | what an operator may ask |
// | `device_info.rs` | a connected device as a program sees it |
// | `polls/deliveries.rs` | events on their way |
// | `polls/posted.rs` | a POST that brings an answer |
// | `polls/reply.rs` | what a poll is answered |
// | `follow_ups.rs` | what a step leaves to be done when it is over |
// | `state.rs` | the state of each connection, and the components above together: `GatewayRole` |
// | `publishing.rs` | names and links that come and go, told to log, subscribers and counters (by close cause) |
// | `observed.rs` | what the observer is told of visitors, offers and leases |
// | `known.rs` | which names are worth waiting for, and which loop has them |
// | `exchanges.rs` | any exchange: its memory, its deadline, its end before its time |
// | `refusals.rs` | refused upgrades and polls |
// | `room.rs` | room for one connection more |
// | `polls/holding.rs` | a held poll leaves the line |
// | `links.rs` | a link's life: given out, heartbeat and its timeout, goaway, end |
// | `pins.rs` | links that serve one visitor's connection alone |
// | `answering.rs` | answers of the gateway's own to visitors, and what follows on their connections |
// | `polls/replying.rs` | answers polls |
// | `polls/handing.rs` | hands requests out as events |
// | `leasing.rs` | links and polls for programs |
// | `waiting.rs` | requests in line, and what they are told in vain |
// | `peer_lines.rs` | what other gateways are told of a request |
// | `peering.rs` | requests for devices that are connected to other gateways |
// | `forgetting.rs` | the directory of gateways has changed: what was heard of others counts no more |
// | `peer_pulse.rs` | other gateways that hang: asked for a sign of life, and given up |
// | `polls/collecting.rs` | reads a request whole before it is handed out |
// | `serving.rs` | which request a free link gets, and which link or poll a request |
// | `polls/feeding.rs` | a poll takes what waits, or is held |
// | `polls/following.rs` | events in devices' hands: answered, late, repeated, forgotten |
// | `admitted.rs` | what an admitted connection becomes: a link, a held offer or poll |
// | `polls/reading.rs` | reads a POST's answer |
// | `moves.rs` | connections that leave for another loop |
// | `sign_in_requests.rs` | requests of the sign-in form |
// | `asked.rs` | the outcome of reading a visitor's request |
// | `insiders.rs` | requests of programs and of other gateways |
// | `visitors.rs` | a visitor's request: read, planned, begun |
// | `revocation.rs` | connections whose credential was revoked or replaced |
// | `regrouping.rs` | an offer for names that several loops have |
// | `claiming.rs` | names are claimed before a device is let in, and lost to other gateways |
// | `offers.rs` | an offer or a poll: read, decided, admitted |
// | `arrivals.rs` | new connections, their TLS handshakes, and those that come from another loop |
// | `draining.rs` | how a gateway stops |
// | `observation.rs` | answers to what operators and programs ask about devices |
// | `role.rs` | the gateway on its event loop: each event goes to the file whose business it is |
// | `handle.rs` | a running gateway as a program holds it |
// | `device_ref.rs` | one device, by name |
// | `listing.rs` | the list of connected devices |
// | `agent.rs` | a ureq agent whose requests go to devices (feature `ureq`) |
// | `builder.rs` | how a gateway is set up and started |
// | `simulated.rs` | a gateway without sockets, for the simulation |

mod admission;
mod admitted;
#[cfg(feature = "ureq")]
mod agent;
mod alarms;
mod answering;
mod arrivals;
mod asked;
mod builder;
mod callers;
mod certificates;
mod changes;
mod claiming;
mod claims;
mod credentials;
mod device_head;
mod device_info;
mod device_ref;
mod directory;
mod draining;
mod events;
mod exchange_deadlines;
mod exchanges;
mod follow_ups;
mod forgetting;
mod handle;
mod insiders;
mod known;
mod leases;
mod leasing;
mod ledger;
mod lifecycle;
mod links;
pub(crate) mod listeners;
mod listing;
mod look_ups;
pub(crate) mod loops;
mod mismatches;
mod moves;
pub(crate) mod observation;
mod observed;
mod offer;
mod offers;
mod peer_lines;
mod peer_pulse;
pub(crate) mod peer_table;
mod peering;
pub(crate) mod peers;
mod pins;
mod polls;
mod publishing;
pub(crate) mod questions;
mod rates;
#[cfg(feature = "redis")]
mod redis;
mod refusals;
mod registry;
mod regrouping;
mod resolving;
mod revocation;
mod role;
mod room;
mod routes;
mod secrets;
mod serving;
mod setbacks;
pub(crate) mod settings;
mod sign_in;
mod sign_in_requests;
#[cfg(test)]
pub(crate) mod simulated;
pub(crate) mod state;
pub(crate) mod stats;
pub(crate) mod tokens;
mod visitors;
mod waiting;

#[cfg(feature = "admin")]
pub use crate::observe::records::ExchangeRecord;
pub use builder::GatewayBuilder;
pub use device_info::DeviceInfo;
pub use device_ref::DeviceRef;
pub use events::{GatewayEvent, GatewayEventKind};
pub use handle::Gateway;
pub use ledger::DirectoryStatus;
pub use offer::{Grant, Offer, Reject};
pub use peers::Peers;
pub use rates::Rate;
#[cfg(feature = "redis")]
pub use redis::{DirectoryReport, RedisDirectory};
pub use routes::{Route, Routes};
pub use settings::TurnMode;
pub use stats::{GatewayStats, LinkCounts};
pub use tokens::Tokens;
