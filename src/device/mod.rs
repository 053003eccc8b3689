//! The device's side: a [`Device`] dials a gateway, turns the connection, and answers requests.
//!
//! It has one event loop, with one thread, for each gateway; handlers are plain blocking code on worker
//! threads, which exist only while there is work.

// The order of files: each names only those above it, and calls only their methods. Up to `plan.rs`
// files have data and rules of their own; from `role.rs` on each adds the part of the event loop's
// state that it is named for. A step that would call one further down leaves that call to be made
// when it has ended (`follow_ups.rs`).
//
// | file | contents |
// |---|---|
// | `backoff.rs` | pauses between attempts, `Retry-After` |
// | `burst.rs` | how many dials may wait for their answers |
// | `demand.rs` | how many links and polls beyond MIN are wanted |
// | `doubt.rs` | whether turned connections carry anything |
// | `events.rs` | events for the program |
// | `files.rs` | a directory's files (`files/beneath.rs` opens them) |
// | `link.rs` | a turned connection, as the loop knows it |
// | `mode.rs` | links or polls, with or without the offer of an upgrade |
// | `no_proxy.rs` | hosts that are dialled without a proxy |
// | `pool.rs` | connections to local servers |
// | `reply.rs` | a reply of the fallback, while its body arrives |
// | `notices.rs` | lines of the log that a program may rather tell itself |
// | `url.rs` | the URL of a gateway, and how far away an address is |
// | `answer.rs` | an event in hand and its answer |
// | `counters.rs` | counters of loop and workers |
// | `gateways.rs` | the gateways in their order |
// | `redirects.rs` | where a gateway may send the device |
// | `sessions.rs` | which session id each gateway gets |
// | `target.rs` | one local server, and why it cannot be asked |
// | `servers.rs` | local servers by path, and requests for them |
// | `tcp_target.rs` | TCP targets by name |
// | `dial.rs` | a connection on its way to be a link, or one that polls |
// | `signs.rs` | findings of the latest attempts |
// | `slots.rs` | the state of one poll |
// | `lookups.rs` | names that are being looked up |
// | `command.rs` | commands of other threads |
// | `races.rs` | one connection out of several addresses |
// | `group.rs` | how several loops end together |
// | `lease.rs` | a link in the hands of program code |
// | `state.rs` | the state of a connection |
// | `proxy.rs` | the CONNECT of a proxy and its answer |
// | `upgrade.rs` | a handler's code behind a 101 |
// | `worker.rs` | answers with a handler |
// | `plan.rs` | the settings of a loop |
// | `follow_ups.rs` | tasks that a step leaves for its end |
// | `role.rs` | the loop's state, and its events |
// | `polling.rs` | which polls there are, and whether they are wanted rather than links |
// | `attempts.rs` | attempts that came to something or failed, and when the next is due |
// | `transport.rs` | how the device is connected, and reports of changes |
// | `race.rs` | connecting |
// | `resolve.rs` | look-ups |
// | `doubts.rs` | polls beside links that never carried anything |
// | `posts.rs` | the answer to an event on its way in a POST |
// | `offering.rs` | an offer or a poll is written |
// | `polls.rs` | the life of a poll |
// | `dialing.rs` | number and times of dials; failures |
// | `locals.rs` | local connections and the requests that wait for one |
// | `links.rs` | the life of a link |
// | `forward.rs` | requests to the local server |
// | `tcp.rs` | requests for TCP targets |
// | `requests.rs` | requests that come over a link |
// | `parting.rs` | how a device that stops lets its links go |
// | `suspicions.rs` | signs that an `Upgrade` does not get through |
// | `answers.rs` | events, and the virtual links that answer them |
// | `replies.rs` | replies to polls, and their events |
// | `offers.rs` | the verdict on an offer, and what follows |
// | `tunnel.rs` | CONNECT as a stage of the dial |
// | `event_loop.rs` | the loop's events, deadlines and commands, dispatched |
// | `simulated.rs` | a device for the simulation |
// | `handle.rs` | a running device: how it is asked, ended and waited for |
// | `exchange.rs` | a request that a program received, and the way to answer it |
// | `listener.rs` | turned connections as a program accepts them |
// | `setup.rs` | a device that is set up, and how it is started |
// | `builder.rs` | the builder, whose settings are checked |

mod answer;
mod answers;
mod attempts;
mod backoff;
mod builder;
mod burst;
mod command;
mod counters;
mod demand;
mod dial;
mod dialing;
mod doubt;
mod doubts;
mod event_loop;
mod events;
mod exchange;
#[cfg(feature = "files")]
mod files;
mod follow_ups;
mod forward;
mod gateways;
mod group;
mod handle;
mod lease;
mod link;
mod links;
mod listener;
mod locals;
mod lookups;
mod mode;
mod no_proxy;
mod notices;
mod offering;
mod offers;
mod parting;
mod plan;
mod polling;
mod polls;
mod pool;
mod posts;
mod proxy;
mod race;
mod races;
mod redirects;
mod replies;
mod reply;
mod requests;
mod resolve;
mod role;
mod servers;
mod sessions;
mod setup;
mod signs;
#[cfg(test)]
pub(crate) mod simulated;
mod slots;
mod state;
mod suspicions;
mod target;
mod tcp;
mod tcp_target;
mod transport;
mod tunnel;
mod upgrade;
mod url;
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
