//! The settings of an admin listener.

use std::fmt;
use std::sync::Arc;

use crate::admin::log_level::LogLevel;
#[cfg(doc)]
use crate::gateway::Gateway;
use crate::gateway::Tokens;

/// The settings of a gateway's [admin listener](Gateway::admin).
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
    pub(super) tokens: Option<Tokens>,
    pub(super) metrics_per_device: usize,
    pub(super) set_log_level: Option<SetLogLevel>,
}

pub(super) type SetLogLevel = Arc<dyn Fn(LogLevel) + Send + Sync>;

impl Admin {
    /// A listener on loopback or a Unix socket, open to every local client.
    #[must_use]
    pub fn new() -> Self {
        Admin::default()
    }
    /// Requires one of these tokens, as `Authorization: Bearer TOKEN` or as the password of
    /// `Basic`, whichever device names it is bound to. A listener beyond loopback needs them.
    #[must_use]
    pub fn tokens(mut self, tokens: Tokens) -> Self {
        self.tokens = Some(tokens);
        self
    }
    /// The number of devices with separate series in `/metrics`; these are the devices that
    /// connected first. Default: none, as each device adds several series to the monitoring.
    #[must_use]
    pub fn metrics_per_device(mut self, most: usize) -> Self {
        self.metrics_per_device = most;
        self
    }
    /// What the action *log level* does. Default: [`log::set_max_level`], which cannot raise the
    /// level above that of a logger's own filter.
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
