//! What an operator sees and does: a status page, JSON, events and metrics on a listener of its own
//! (docs/admin.md).
//!
//! Its threads are apart from the gateway's event loop, which they ask in small pieces. Nothing of
//! it is reachable on the ports of devices and visitors, and nothing of it shows a secret.
//!
//! ```text
//!   server.rs  connections, heads ─► answers.rs  which path is what ───────────────┬─► api.rs      JSON
//!     places.rs     which connection gives way                                     │
//!     operators.rs  who may ask                                                    │
//!   view.rs    the gateway at one moment, asked twice a second at most ◄───────────┼─► metrics.rs  Prometheus
//!   feed.rs    the events with their numbers                          ◄───────────┴─► page.rs     HTML
//! ```

mod answers;
mod api;
mod feed;
mod metrics;
mod operators;
mod page;
mod places;
mod server;
mod view;

use std::fmt;
use std::sync::Arc;

use crate::admin::server::Server;
use crate::admin::view::View;
use crate::error::Error;
use crate::gateway::Gateway;
use crate::gateway::Tokens;

/// How a gateway's [admin listener](Gateway::admin) behaves.
///
/// ```
/// use reverse_http::{Gateway, admin::{Admin, LogLevel}};
///
/// let gateway = Gateway::builder().listen("127.0.0.1:0").observe(true).start()?;
/// let admin = Admin::new().metrics_per_device(100).on_log_level(|level: LogLevel| println!("{level}"));
/// let listener = gateway.admin("127.0.0.1:0", admin)?;
/// println!("the status page is at {}", listener.url());
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Admin {
    tokens: Option<Tokens>,
    metrics_per_device: usize,
    set_log_level: Option<SetLogLevel>,
}

type SetLogLevel = Arc<dyn Fn(LogLevel) + Send + Sync>;

/// How much is logged, from nothing to everything; [`Admin::on_log_level`] is told one.
///
/// ```
/// use reverse_http::admin::LogLevel;
/// assert!(LogLevel::Info < LogLevel::Debug);
/// assert_eq!(LogLevel::Debug.to_string(), "debug");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What failed, and needs somebody to look.
    Error,
    /// What somebody may want to look at.
    Warn,
    /// What happens to devices.
    Info,
    /// Also what is usual.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    const ALL: [LogLevel; 6] = [
        LogLevel::Off,
        LogLevel::Error,
        LogLevel::Warn,
        LogLevel::Info,
        LogLevel::Debug,
        LogLevel::Trace,
    ];

    /// Its name in small letters: `off`, `error`, `warn`, `info`, `debug`, `trace`. The crate `log`
    /// reads it, too.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Off => "off",
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }

    /// Reads a name, in letters of any case.
    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str().eq_ignore_ascii_case(name))
    }

    fn filter(self) -> log::LevelFilter {
        match self {
            LogLevel::Off => log::LevelFilter::Off,
            LogLevel::Error => log::LevelFilter::Error,
            LogLevel::Warn => log::LevelFilter::Warn,
            LogLevel::Info => log::LevelFilter::Info,
            LogLevel::Debug => log::LevelFilter::Debug,
            LogLevel::Trace => log::LevelFilter::Trace,
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Admin {
    /// On loopback or a Unix socket, for anybody who can connect there.
    #[must_use]
    pub fn new() -> Self {
        Admin::default()
    }
    /// Answers only those who show one of these tokens, as `Authorization: Bearer TOKEN` or as the
    /// password of `Basic`, whatever names it is for. A listener beyond loopback needs them.
    #[must_use]
    pub fn tokens(mut self, tokens: Tokens) -> Self {
        self.tokens = Some(tokens);
        self
    }
    /// Gives so many devices series of their own in `/metrics`, those that were connected first.
    /// Default: none, since each device costs its monitoring some series.
    #[must_use]
    pub fn metrics_per_device(mut self, most: usize) -> Self {
        self.metrics_per_device = most;
        self
    }
    /// What the action *log level* does. Default: [`log::set_max_level`], which a logger with a
    /// filter of its own may not follow upwards.
    pub fn on_log_level(mut self, set: impl Fn(LogLevel) + Send + Sync + 'static) -> Self {
        self.set_log_level = Some(Arc::new(set));
        self
    }
}

/// Shows no token.
impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("tokens", &self.tokens)
            .field("metrics_per_device", &self.metrics_per_device)
            .finish_non_exhaustive()
    }
}

/// A running admin listener. Dropping it ends it, and so does the end of its gateway.
///
/// ```
/// use reverse_http::{Gateway, admin::Admin};
///
/// let gateway = Gateway::builder().listen("127.0.0.1:0").observe(true).start()?;
/// let listener = gateway.admin("127.0.0.1:0", Admin::new())?;
/// assert!(listener.url().starts_with("http://127.0.0.1:"));
/// listener.stop();
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "an admin listener ends when it is dropped"]
pub struct AdminListener {
    server: Server,
}

impl AdminListener {
    /// Where it listens: `http://127.0.0.1:9990`, or `unix:/run/ptth.sock`.
    pub fn url(&self) -> &str {
        self.server.url()
    }

    /// Ends it, as dropping does.
    pub fn stop(&self) {
        self.server.stop();
    }

    /// Says on its page, and in `/api/v1/status`, what became of the program's configuration when it
    /// was read last.
    pub fn configuration_read(&self, told: impl Into<String>) {
        self.server.configuration_read(told.into());
    }

    /// Replaces its [tokens](Admin::tokens), for the next request.
    ///
    /// # Errors
    /// It was started without tokens.
    pub fn set_tokens(&self, tokens: Tokens) -> Result<(), Error> {
        self.server.set_tokens(tokens)
    }
}

impl Gateway {
    /// Listens for operators on this address (`127.0.0.1:9990`; port 0: any free one) or Unix socket
    /// (`unix:/run/ptth.sock`, for its owner alone). The gateway has to be one that
    /// [observes](crate::gateway::GatewayBuilder::observe).
    ///
    /// # Errors
    /// The gateway does not observe; the address is beyond loopback, and there are no
    /// [tokens](Admin::tokens); it cannot be bound.
    pub fn admin(&self, address: &str, admin: Admin) -> Result<AdminListener, Error> {
        if !self.observes() {
            return Err(Error::usage(
                "admin() on a gateway that does not observe its devices; say GatewayBuilder::observe(true)",
            ));
        }
        let view = Arc::new(View::of(self, admin.metrics_per_device));
        Ok(AdminListener { server: Server::start(address, view, admin)? })
    }
}
