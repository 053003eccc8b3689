//! Layer 3: the event loop, its table of connections, its timers, and the elastic pool of worker
//! threads.
//!
//! One thread runs the loop and owns every socket that no program code is using. What it drives
//! upwards (visitors, offers, relays) it reaches through one statically dispatched [`Role`]; it
//! never runs a user's code and never blocks.
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
//! | `slab.rs` | a table whose keys have a generation |
//! | `timers.rs` | the heap of deadlines and alarms |
//! | `permits.rs` | shares of a bound on connections |
//! | `budget.rs` | memory that is promised, counted and bounded |
//! | `departed.rs` | names and credentials of connections that have gone |
//! | `workers.rs` | the elastic pool of worker threads |
//! | `group.rs` | what several loops share |
//! | `handshakes.rs` | TLS handshakes whose arithmetic workers do |
//! | `connection.rs` | one connection: socket, flags, buffers |
//! | `connections.rs` | the table of connections, with their deadlines |
//! | `door.rs` | connections from within the process, for tests (feature `test-clock`) |
//! | `no_door.rs` | in its place without that |
//! | `role.rs` | what the loop drives: the trait of gateway and device |
//! | `event_loop.rs` | the loop: events, accepts, commands, deadlines |
//! | `simulated.rs` | the loop without an operating system, for the simulation |

pub(crate) mod budget;
pub(crate) mod connection;
pub(crate) mod connections;
pub(crate) mod departed;
#[cfg_attr(not(feature = "test-clock"), path = "no_door.rs")]
pub(crate) mod door;
pub(crate) mod event_loop;
pub(crate) mod group;
mod handshakes;
pub(crate) mod permits;
pub(crate) mod random;
mod role;
#[cfg(test)]
pub(crate) mod simulated;
pub(crate) mod slab;
pub(crate) mod timers;
pub(crate) mod workers;

pub(crate) use role::Role;
