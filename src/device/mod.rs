//! Layer 5, the upstream side: a [`Device`] dials a gateway, turns the connection, and answers what
//! comes.
//!
//! One thread runs the event loop; handlers are plain blocking code on worker threads, which exist
//! only while there is work.
//!
//! # Order of files
//! Each names only those above it, and calls only their methods. Up to `plan.rs` files have data and
//! rules of their own; from `role.rs` on each adds the part of the event loop's state that it is named
//! for. A step that would call one further down leaves it to be done when it is over
//! (`follow_ups.rs`).
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
//! | `notices.rs` | lines of the log that a program may rather tell itself |
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
//! | `follow_ups.rs` | what a step leaves to be done when it is over |
//! | `role.rs` | the loop's state, and what it tells |
//! | `polling.rs` | which polls there are, and whether they are wanted rather than links |
//! | `attempts.rs` | attempts that came to something or failed, and when the next is due |
//! | `transport.rs` | how the device is connected, and telling when that changes |
//! | `race.rs` | connecting |
//! | `resolve.rs` | look-ups |
//! | `doubts.rs` | polls beside links that never carried anything |
//! | `posts.rs` | the answer to an event on its way in a POST |
//! | `offering.rs` | an offer or a poll is written |
//! | `polls.rs` | the life of a poll |
//! | `dialing.rs` | what is dialled and when; failures |
//! | `locals.rs` | who gets which local connection |
//! | `links.rs` | the life of a link |
//! | `forward.rs` | requests to the local server |
//! | `tcp.rs` | requests for TCP targets |
//! | `requests.rs` | what comes over a link |
//! | `parting.rs` | how a device that stops lets its links go |
//! | `suspicions.rs` | signs that an `Upgrade` does not get through |
//! | `answers.rs` | events, and the virtual links that answer them |
//! | `replies.rs` | replies to polls, and what they bring |
//! | `offers.rs` | the verdict on an offer, and what follows |
//! | `tunnel.rs` | CONNECT as a stage of the dial |
//! | `event_loop.rs` | what the loop's events, deadlines and commands lead to |
//! | `simulated.rs` | a device for the simulation |
//! | `handle.rs` | a running device: how it is asked, ended and waited for |
//! | `exchange.rs` | a request that a program received, and the way to answer it |
//! | `listener.rs` | turned connections as a program accepts them |
//! | `setup.rs` | a device that is set up, and how it is started |
//! | `builder.rs` | what it is set up with, checked |

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
