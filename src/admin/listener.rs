//! A running admin listener, and how a gateway starts one.

use std::sync::Arc;

use crate::admin::server::Server;
use crate::admin::settings::Admin;
use crate::admin::view::View;
use crate::error::Error;
use crate::gateway::Gateway;
use crate::gateway::Tokens;

/// A running admin listener. It ends when it is dropped, and when its gateway stops.
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
    /// The URL that it listens at: `http://127.0.0.1:9990`, or `unix:/run/ptth.sock`.
    pub fn url(&self) -> &str {
        self.server.url()
    }

    /// Ends the listener, as dropping it does.
    pub fn stop(&self) {
        self.server.stop();
    }

    /// Sets what its page and `/api/v1/status` say about the last reload of the program's
    /// configuration.
    pub fn configuration_read(&self, told: impl Into<String>) {
        self.server.configuration_read(told.into());
    }

    /// Replaces its [tokens](Admin::tokens), with effect from the next request on.
    ///
    /// # Errors
    /// It was started without tokens.
    pub fn set_tokens(&self, tokens: Tokens) -> Result<(), Error> {
        self.server.set_tokens(tokens)
    }
}

impl Gateway {
    /// Listens for operators on this address (`127.0.0.1:9990`; port 0: any free port) or Unix
    /// socket (`unix:/run/ptth.sock`, accessible to its owner only). The gateway has to be built
    /// with [`observe`](crate::gateway::GatewayBuilder::observe).
    ///
    /// # Errors
    /// The gateway was built without `observe`; the address is beyond loopback, and there are no
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
