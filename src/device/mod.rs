//! The device's side: a [`Device`] dials a gateway, upgrades the connection, and answers requests.
//!
//! It has one event loop, with one thread, for each gateway; handlers are plain blocking code on worker
//! threads, which exist only while there is work.

// The order of files: each names only those above it, and calls only their methods. Files down to
// `plan.rs` have their own data and rules; from `role.rs` on, each file has the methods of the event
// loop's state for its subject. If a step needs a file further down, it defers that call until it has
// ended (`follow_ups.rs`).
//
// | file | contents |
// |---|---|
// | `backoff.rs` | pauses between attempts, `Retry-After` |
// | `burst.rs` | the number of dials that may wait for their answers |
// | `demand.rs` | the number of links and polls that are needed beyond MIN |
// | `doubt.rs` | whether links carry bytes on this network path |
// | `events.rs` | events for the program |
// | `files.rs` | a directory's files (`files/beneath.rs` opens them) |
// | `link.rs` | the loop's state of a link |
// | `mode.rs` | links or polls, with or without the offer of an upgrade |
// | `no_proxy.rs` | hosts that are dialled without a proxy |
// | `local_pool.rs` | pools of connections to local servers |
// | `reply.rs` | a reply of the fallback, while its body arrives |
// | `notices.rs` | log lines that a program may replace by its own messages |
// | `url.rs` | the URL of a gateway, and how far away an address is |
// | `answer.rs` | an event in progress and its answer |
// | `counters.rs` | counters of loop and workers |
// | `gateways.rs` | the gateways in their order |
// | `redirects.rs` | where a gateway may redirect the device |
// | `sessions.rs` | the session id for each gateway |
// | `target.rs` | one local server, and why it cannot be reached |
// | `servers.rs` | local servers by path, and requests for them |
// | `tcp_target.rs` | TCP targets by name |
// | `dial_stages.rs` | a connection that is to become a link, or that polls: its stages |
// | `findings.rs` | findings from the latest attempts |
// | `slots.rs` | the state of one poll |
// | `lookups.rs` | names that are being looked up |
// | `command.rs` | commands of other threads |
// | `address_race.rs` | the addresses of a name in the order in which they are tried |
// | `group.rs` | how several loops end together |
// | `lease.rs` | a link that program code uses |
// | `state.rs` | the state of a connection |
// | `proxy.rs` | the CONNECT to a proxy and its answer |
// | `upgrade.rs` | a handler's code after a 101 |
// | `worker.rs` | answers requests with a handler |
// | `plan.rs` | the settings of a loop |
// | `follow_ups.rs` | work that a step defers until it has ended |
// | `role.rs` | the loop's state, and its events |
// | `poll_queries.rs` | queries on polls: which there are, and whether they are wanted rather than links |
// | `attempts.rs` | results of attempts, and the time of the next one |
// | `transport.rs` | how the device is connected, and reports of changes |
// | `connecting.rs` | connects to one of several addresses (Happy Eyeballs) |
// | `resolve.rs` | lookups of names |
// | `doubtful_links.rs` | polls beside links that never carried a byte |
// | `posts.rs` | POSTs that carry the answer to an event |
// | `offering.rs` | writes offers and polls |
// | `polls.rs` | the life of a poll |
// | `dialing.rs` | number and times of dials; failures |
// | `local_connections.rs` | local connections and the requests that wait for one |
// | `links.rs` | the life of a link |
// | `heartbeats.rs` | heartbeats and goaways on idle links |
// | `forward.rs` | requests to the local server |
// | `tcp.rs` | requests for TCP targets |
// | `requests.rs` | messages that arrive on a link |
// | `stopping.rs` | how a stopping device ends its links |
// | `blocked_upgrades.rs` | signs that an intermediary does not let an `Upgrade` pass |
// | `event_answers.rs` | events, and the virtual links that answer them |
// | `poll_replies.rs` | replies to polls, and their events |
// | `verdicts.rs` | the verdict on an offer, and its consequences |
// | `proxy_tunnel.rs` | CONNECT as a stage of a dial |
// | `event_loop.rs` | dispatches events, deadlines and commands |
// | `simulated.rs` | a device for the simulation |
// | `handle.rs` | the handle on a running device |
// | `exchange.rs` | a request that a program received, and its answer |
// | `listener.rs` | accepts links in a program |
// | `setup.rs` | a configured device, and how it is started |
// | `builder.rs` | the builder, which validates its settings |

mod address_race;
mod answer;
mod attempts;
mod backoff;
mod blocked_upgrades;
mod builder;
mod burst;
mod command;
mod connecting;
mod counters;
mod demand;
mod dial_stages;
mod dialing;
mod doubt;
mod doubtful_links;
mod event_answers;
mod event_loop;
mod events;
mod exchange;
#[cfg(feature = "files")]
mod files;
mod findings;
mod follow_ups;
mod forward;
mod gateways;
mod group;
mod handle;
mod heartbeats;
mod lease;
mod link;
mod links;
mod listener;
mod local_connections;
mod local_pool;
mod lookups;
mod mode;
mod no_proxy;
mod notices;
mod offering;
mod plan;
mod poll_queries;
mod poll_replies;
mod polls;
mod posts;
mod proxy;
mod proxy_tunnel;
mod redirects;
mod reply;
mod requests;
mod resolve;
mod role;
mod servers;
mod sessions;
mod setup;
#[cfg(test)]
pub(crate) mod simulated;
mod slots;
mod state;
mod stopping;
mod target;
mod tcp;
mod tcp_target;
mod transport;
mod upgrade;
mod url;
mod verdicts;
mod worker;

pub use crate::upgraded::{Stopping, Upgraded};
pub use builder::{DeviceBuilder, goes_without_proxy};
pub use events::{DeviceEvent, DeviceEventKind};
pub use exchange::Exchange;
pub use handle::{DeviceHandle, DeviceStats};
pub use listener::{Accepted, Listener};
pub use plan::OnRefusal;
pub use servers::{LocalServer, LocalServers};
pub use setup::Device;
pub use upgrade::upgrade;
pub(crate) use worker::{Handler, ask_handler};
