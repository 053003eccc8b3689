//! The operators' listener: a status page, JSON, events and metrics (docs/admin.md).
//!
//! Its threads are separate from the gateway's event loops, which they query in small pieces. It is
//! not reachable on the ports of devices and visitors, and never shows a secret.

//   server.rs  connections, heads ─► answers.rs  paths ────────────────────────────┬─► api.rs      JSON
//     permits.rs    which connection gives way                                     │
//     operators.rs  access                                                         │
//   view.rs    the gateway at one moment, asked twice a second at most ◄───────────┼─► metrics.rs  Prometheus
//   feed.rs    the events with their numbers                          ◄───────────┴─► page.rs     HTML
//
// The order of files: each names only those above it.
//
// | file | contents |
// |---|---|
// | `log_level.rs` | how much is logged |
// | `settings.rs` | how a listener behaves |
// | `reply.rs` | a response, and how it is written |
// | `operators.rs` | access: tokens, host names, what the log says |
// | `request.rs` | a request of an operator, and the parameters in its query |
// | `permits.rs` | which connection gives way to a new one |
// | `event.rs` | an event in JSON |
// | `feed.rs` | the latest events, with numbers |
// | `view.rs` | the gateway at one moment |
// | `metrics.rs` | Prometheus |
// | `api.rs` | JSON |
// | `page.rs` | HTML |
// | `context.rs` | what all connections share |
// | `answers.rs` | paths and their answers |
// | `server.rs` | connections, heads, admission |
// | `listener.rs` | a running listener |

mod answers;
mod api;
mod context;
mod event;
mod feed;
mod listener;
mod log_level;
mod metrics;
mod operators;
mod page;
mod permits;
mod reply;
mod request;
mod server;
mod settings;
mod view;

pub use listener::AdminListener;
pub use log_level::LogLevel;
pub use settings::Admin;
