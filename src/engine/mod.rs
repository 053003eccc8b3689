//! Layer 3: the event loop, its table of connections, its timers, and the elastic pool of worker
//! threads.
//!
//! One thread runs the loop and owns every socket that no program code is using. It reaches the
//! code above it (visitors, offers, relays) through one statically dispatched [`Role`]. It never
//! runs a user's code and never blocks.
//!
//! ```text
//! mio events ─► Connections (slots, flags, buffers) ─► Role::ready / expired / alarm / command
//!                  ▲                                   │
//!                  └── insert, send, close, deadline ──┘        remove() ─► a worker, blocking
//! ```
//!
//! # Order of files
//! Each names only those above it.
//!
//! | file | contents |
//! |---|---|
//! | `random.rs` | random bytes of the operating system |
//! | `time.rs` | the time for what has no event loop |
//! | `slab.rs` | a table whose keys have a generation |
//! | `timers.rs` | the heap of deadlines and alarms |
//! | `permits.rs` | shares of a bound on connections |
//! | `budget.rs` | quotas on memory and requests |
//! | `departed.rs` | names that are remembered after their last link |
//! | `workers.rs` | the elastic pool of worker threads |
//! | `loop_threads.rs` | the threads of event loops, and waiting for their ends |
//! | `group.rs` | counts and bounds that several loops share |
//! | `handshakes.rs` | TLS handshakes, which workers compute |
//! | `connection.rs` | one connection: socket, flags, buffers |
//! | `connections.rs` | the table of connections, with their deadlines |
//! | `pair_network.rs` | connections from within the process, for tests (feature `test-clock`) |
//! | `no_pair_network.rs` | its replacement without the feature |
//! | `role.rs` | the trait that gateway and device implement |
//! | `event_loop.rs` | the loop: events, accepts, commands, deadlines |
//! | `simulated.rs` | the loop without an operating system, for the simulation |

pub(crate) mod budget;
pub(crate) mod connection;
pub(crate) mod connections;
pub(crate) mod departed;
pub(crate) mod event_loop;
pub(crate) mod group;
mod handshakes;
pub(crate) mod loop_threads;
#[cfg_attr(not(feature = "test-clock"), path = "no_pair_network.rs")]
pub(crate) mod pair_network;
pub(crate) mod permits;
pub(crate) mod random;
mod role;
#[cfg(test)]
pub(crate) mod simulated;
pub(crate) mod slab;
pub(crate) mod time;
pub(crate) mod timers;
pub(crate) mod workers;

pub(crate) use role::Role;
