//! Layer 5, the upstream side: a [`Device`] dials a gateway, turns the connection, and answers what
//! comes.
//!
//! One thread runs the event loop; handlers are plain blocking code on worker threads, which exist
//! only while there is work.
//!
//! # Order of files
//! Each names only those above it. Up to `plan.rs` files have data and rules of their own; from
//! `role.rs` on each adds the part of the event loop's state that it is named for.
//!
//! | file | what it has |
//! |---|---|
//! | `backoff.rs` | pauses between attempts, `Retry-After` |
//! | `burst.rs` | how many dials may wait for their answers |
//! | `demand.rs` | how many links and polls beyond MIN are wanted |
//! | `doubt.rs` | whether turned connections carry anything |
//! | `events.rs` | what a device tells its program |
//! | `files.rs` | a directory's files (`files/beneath.rs` opens them) |
//! | `link.rs` | a turned connection, as the loop knows it |
//! | `mode.rs` | links or polls, with or without the offer of an upgrade |
//! | `no_proxy.rs` | hosts that are dialled without a proxy |
//! | `pool.rs` | connections to local servers |
//! | `reply.rs` | a reply of the fallback, while its body arrives |
//! | `url.rs` | the URL of a gateway, and how far away an address is |
//! | `answer.rs` | an event in hand and its answer |
//! | `counters.rs` | what loop and workers count |
//! | `gateways.rs` | the gateways in their order |
//! | `redirects.rs` | where a gateway may send the device |
//! | `sessions.rs` | which session is shown to whom |
//! | `target.rs` | one local server, and why it cannot be asked |
//! | `servers.rs` | local servers by path, and requests for them |
//! | `tcp_target.rs` | TCP targets by name |
//! | `dial.rs` | a connection on its way to be a link, or one that polls |
//! | `signs.rs` | what the latest attempts and the gateway have shown |
//! | `slots.rs` | the state of one poll |
//! | `lookups.rs` | names that are being looked up |
//! | `command.rs` | what other threads ask of the loop |
//! | `races.rs` | one connection out of several addresses |
//! | `group.rs` | how several loops end together |
//! | `lease.rs` | a link in the hands of program code |
//! | `state.rs` | what the device keeps for a connection |
//! | `proxy.rs` | the CONNECT of a proxy and its answer |
//! | `upgrade.rs` | what a handler does behind a 101 |
//! | `worker.rs` | answers with a handler |
//! | `plan.rs` | what a loop goes by |
//! | `role.rs` | the loop's state, and what it tells |
//! | `dialing.rs` | what is dialled and when; failures |
//! | `doubts.rs` | polls beside links that never carried anything |
//! | `forward.rs` | requests to the local server |
//! | `tcp.rs` | requests for TCP targets |
//! | `links.rs` | the life of a link |
//! | `locals.rs` | who gets which local connection |
//! | `offers.rs` | an offer, its verdict, and what follows |
//! | `race.rs` | connecting |
//! | `resolve.rs` | look-ups |
//! | `simulated.rs` | a device for the simulation |
//! | `tunnel.rs` | CONNECT as a stage of the dial |
//! | `answers.rs` | events, the virtual links and the POSTs of their answers |
//! | `event_loop.rs` | what the loop's events, deadlines and commands lead to |
//! | `suspicions.rs` | signs that an `Upgrade` does not get through |
//! | `polls.rs` | which polls there are, and what their replies mean |
//! | `handle.rs` | a running device: how it is asked, ended and waited for |
//! | `exchange.rs` | a request that a program received, and the way to answer it |
//! | `listener.rs` | turned connections as a program accepts them |
//! | `setup.rs` | a device that is set up, and how it is started |
//! | `builder.rs` | what it is set up with, checked |

mod answer;
mod answers;
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
mod offers;
mod plan;
mod polls;
mod pool;
mod proxy;
mod race;
mod races;
mod redirects;
mod reply;
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
