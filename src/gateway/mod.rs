//! The gateway's side: devices connect to a [`Gateway`], and programs and visitors send requests to
//! them.
//!
//! Devices turn their connections, or poll where upgrades are blocked; callers do not notice the
//! difference.
//!
//! Each event loop has one thread; `send()` and `on_link` handlers are plain blocking code on the
//! caller's thread or on a worker's.

// The order of files: each names only those above it, and calls only their methods. Data and
// components come first, then the loop's steps, each an `impl` of the role, and last the handles of
// programs. If a step needs a file further down, it defers that call until it has ended
// (`follow_ups.rs`).
//
// | file | contents |
// |---|---|
// | `bounds.rs` | the bounds that keep something out, and how often each was reached |
// | `secrets.rs` | secrets that an operator gives, several at once |
// | `tokens.rs` | credentials bound to names: the table, and the parsing of `Authorization` |
// | `name_owners.rs` | which loop owns a name; counters of all loops |
// | `registry.rs` | the connected devices: names, sessions, idle links, held polls, waiting callers; `registry/names.rs`: the entries by name and by place; `registry/last_link.rs`: when a request is held back on the last idle link |
// | `rates.rs` | limits of the rate of requests |
// | `sign_in.rs` | cookies and pages of the sign-in |
// | `routes.rs` | which device a visitor's request is for; `routes/route.rs`: one route, `routes/table.rs`: how a request finds its own, `routes/reply.rs`: answers of routes themselves |
// | `lifecycle.rs` | serving, notice, draining, stopped |
// | `events.rs` | events of names, for subscribers |
// | `stats.rs` | counters |
// | `exchange_deadlines.rs` | deadlines of whole exchanges |
// | `admission.rs` | allowed networks, permits for each address and side |
// | `listeners.rs` | listeners, with their certificates and routes |
// | `offer.rs` | an offer as `authorize` sees it, and the possible decisions |
// | `certificates.rs` | the names that a device's certificate allows |
// | `credentials.rs` | checks tokens with the current tables; certificates that are no longer accepted |
// | `changes.rs` | changes in the directory of gateways that the loops have not processed yet |
// | `announced.rs` | how gateways announce themselves in a shared table |
// | `claims.rs` | claims of names in a table that several gateways share |
// | `redis.rs` | such a table in Redis (feature `redis`); `redis/examine.rs`: a report about its server; `redis/name_report.rs`: a report about one name |
// | `restoring.rs` | names to claim again after the table has lost its data |
// | `ledger.rs` | this gateway's claims, renewed and released on separate threads |
// | `resolving.rs` | requests that wait until the hosts of other gateways are resolved |
// | `mismatches.rs` | texts about other gateways that cannot be used |
// | `setbacks.rs` | other gateways that recently failed to serve a request |
// | `lookups.rs` | the queue of names to look up in the directory of gateways |
// | `peer_url.rs` | the URL of another gateway |
// | `peers.rs` | settings for other gateways, and lookups of the one that has a device |
// | `settings.rs` | the settings of a gateway |
// | `device_head.rs` | the head of a request on the devices' port |
// | `leases.rs` | links that program code uses |
// | `loops.rs` | the senders to all event loops of the gateway |
// | `peer_table.rs` | other gateways as one loop knows them, and the connections to them |
// | `alarms.rs` | reasons for alarms |
// | `callers.rs` | programs' threads that wait |
// | `questions.rs` | operators' questions |
// | `device_info.rs` | a connected device in a program's list |
// | `polls/deliveries.rs` | events in delivery |
// | `polls/posted.rs` | a POST that contains an answer |
// | `polls/reply.rs` | a reply to a poll |
// | `follow_ups.rs` | work that a step defers until it has ended |
// | `state.rs` | the state of each connection, and the components above together: `GatewayRole` |
// | `publishing.rs` | reports changes of names and links to log, subscribers and counters (by close cause) |
// | `observed.rs` | reports visitors, offers and leases to the observer |
// | `known_names.rs` | which names are known, and which loop has them |
// | `exchanges.rs` | any exchange: its memory, its deadline, its early end |
// | `refusals.rs` | refused offers and polls |
// | `making_room.rs` | makes room for a new connection by closing another one |
// | `polls/holding.rs` | held polls that are used or end |
// | `links.rs` | a link's life: assigned to an exchange, checked, ended |
// | `heartbeats.rs` | heartbeats and goaways on idle links |
// | `pins.rs` | links that are reserved for one visitor's connection |
// | `local_answers.rs` | local answers to visitors and programs, and the next request |
// | `polls/replying.rs` | writes replies to polls |
// | `polls/handing.rs` | hands requests out as events |
// | `leasing.rs` | leases links and polls to programs |
// | `waiting.rs` | requests that wait for a link or a poll, and the answer if none comes |
// | `peer_lines.rs` | the fields of a request for other gateways |
// | `peering.rs` | requests for devices that are connected to other gateways |
// | `forgetting.rs` | forgets cached locations after changes in the directory of gateways |
// | `peer_pulse.rs` | probes of other gateways; requests to those that hang are given up |
// | `polls/collecting.rs` | reads a whole request before it is handed out |
// | `link_assignment.rs` | which caller gets a free link, and which link or poll a request gets |
// | `polls/feeding.rs` | a poll takes a waiting request, or is held |
// | `polls/following.rs` | events that devices have: answered, late, sent again, forgotten |
// | `admitted.rs` | the next state of an admitted connection: a link, a held offer or poll |
// | `polls/reading.rs` | reads the answer in a POST |
// | `moves.rs` | moves connections to another loop |
// | `sign_in_requests.rs` | requests of the sign-in form |
// | `request_decision.rs` | what happens to a visitor's request |
// | `trusted_requests.rs` | requests of programs and of other gateways |
// | `request_routing.rs` | finds the device of a visitor's request: health path, token, routes, rates |
// | `visitors.rs` | reads visitors' requests, begins them, and answers those that go to no device |
// | `revocation.rs` | connections whose credential was revoked or replaced |
// | `regrouping.rs` | an offer for names that several loops own |
// | `claiming.rs` | claims names before a device is admitted; names lost to other gateways |
// | `offers.rs` | an offer or a poll: read, decided, admitted |
// | `new_connections.rs` | new connections, their TLS handshakes, and those from another loop |
// | `draining.rs` | how a gateway stops |
// | `observation.rs` | answers operators' questions |
// | `role.rs` | dispatches events, deadlines and commands |
// | `handle.rs` | the handle on a running gateway |
// | `device_ref.rs` | one device, by name |
// | `listing.rs` | the list of connected devices |
// | `agent.rs` | a ureq agent whose requests go to devices (feature `ureq`) |
// | `builder.rs` | builds and starts a gateway |
// | `simulated.rs` | a gateway without sockets, for the simulation |

mod admission;
mod admitted;
#[cfg(feature = "ureq")]
mod agent;
mod alarms;
mod announced;
mod bounds;
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
mod draining;
mod events;
mod exchange_deadlines;
mod exchanges;
mod follow_ups;
mod forgetting;
mod handle;
mod heartbeats;
mod known_names;
mod leases;
mod leasing;
mod ledger;
mod lifecycle;
mod link_assignment;
mod links;
pub(crate) mod listeners;
mod listing;
mod local_answers;
mod lookups;
pub(crate) mod loops;
mod making_room;
mod mismatches;
mod moves;
mod name_owners;
mod new_connections;
pub(crate) mod observation;
mod observed;
mod offer;
mod offers;
mod peer_lines;
mod peer_pulse;
pub(crate) mod peer_table;
mod peer_url;
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
mod request_decision;
mod request_routing;
mod resolving;
mod restoring;
mod revocation;
mod role;
mod routes;
mod secrets;
mod setbacks;
pub(crate) mod settings;
mod sign_in;
mod sign_in_requests;
#[cfg(test)]
pub(crate) mod simulated;
pub(crate) mod state;
pub(crate) mod stats;
pub(crate) mod tokens;
mod trusted_requests;
mod visitors;
mod waiting;

#[cfg(feature = "admin")]
pub use crate::observe::records::ExchangeRecord;
pub use announced::ClusterGateway;
pub use bounds::{Bound, BoundCounts};
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
pub use redis::{DirectoryReport, NameClaim, NameReport, RedisDirectory};
pub use routes::{Route, Routes};
pub use settings::TurnMode;
pub use stats::{GatewayStats, LinkCounts};
pub use tokens::Tokens;
