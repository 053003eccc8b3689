//! The options of a gateway's admin listener.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use clap::Args;
use reverse_http::admin::{Admin, AdminListener};
use reverse_http::{Gateway, Tokens};

use crate::addresses::{address_or_socket, is_loopback};
use crate::files::Reading;
use crate::reload::{read_tokens, reload_tokens};
use crate::{Failure, log_levels, usage};

#[derive(Args, Clone)]
pub(crate) struct AdminArgs {
    /// The address for operators: a status page, JSON, /metrics and actions; on loopback or a Unix
    /// socket, elsewhere with --admin-tokens (default: none)
    #[arg(long, value_name = "ADDR|unix:PATH", value_parser = address_or_socket, env = "PTTH_ADMIN")]
    admin: Option<String>,
    /// A file like that of --tokens with tokens for --admin; their names do not matter; read again
    /// on SIGHUP
    #[arg(long, value_name = "FILE", env = "PTTH_ADMIN_TOKENS")]
    admin_tokens: Option<PathBuf>,
    /// Devices with series of their own in /metrics of --admin
    #[arg(long, value_name = "N", default_value_t = 0, env = "PTTH_METRICS_PER_DEVICE")]
    metrics_per_device: usize,
}

impl AdminArgs {
    pub(crate) fn is_on(&self) -> bool {
        self.admin.is_some()
    }

    /// Returns true if it has a file that SIGHUP reads again.
    pub(crate) fn reads_files(&self) -> bool {
        self.admin_tokens.is_some()
    }

    /// Reports errors before anything is bound.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let Some(address) = &self.admin else {
            return match (&self.admin_tokens, self.metrics_per_device) {
                (None, 0) => Ok(()),
                (Some(_), _) => Err(usage("--admin-tokens goes with --admin")),
                (None, _) => Err(usage("--metrics-per-device goes with --admin")),
            };
        };
        if address.starts_with("unix:")
            || self.admin_tokens.is_some()
            || is_loopback(("--admin", address))?
        {
            return Ok(());
        }
        Err(usage(format!(
            "--admin {address}: beyond loopback whoever reached it could disconnect devices. Listen on loopback (127.0.0.1:9990) or a Unix socket \
             (unix:/run/ptth.sock), or say who may with --admin-tokens FILE (ptth token '*' makes its lines)"
        )))
    }

    /// Listens, if the option is given.
    pub(crate) fn listen(&self, gateway: &Gateway) -> Result<Option<AdminListener>, Failure> {
        let Some(address) = &self.admin else { return Ok(None) };
        let mut admin =
            Admin::new().metrics_per_device(self.metrics_per_device).on_log_level(log_levels::set);
        if let Some(tokens) = self.tokens(Reading::First)? {
            admin = admin.tokens(tokens);
        }
        Ok(Some(gateway.admin(address, admin)?))
    }

    /// The table of operators' tokens.
    pub(crate) fn tokens(&self, reading: Reading) -> Result<Option<Tokens>, Failure> {
        let read = self.admin_tokens.as_ref();
        let read = read.map(|file| read_tokens("--admin-tokens", file, reading));
        read.transpose().map_err(usage)
    }

    pub(crate) fn address(&self) -> Option<&str> {
        self.admin.as_deref()
    }

    /// Reads its file again.
    pub(crate) fn read_again(&self, listener: &Mutex<Option<AdminListener>>) {
        reload_tokens("--admin-tokens", &self.admin_tokens, None, |tokens| {
            let listener = listener.lock().unwrap_or_else(PoisonError::into_inner);
            listener.as_ref().map_or(Ok(()), |listener| listener.set_tokens(tokens))
        });
    }
}
