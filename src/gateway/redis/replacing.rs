//! Changes the settings for the server while the gateway runs: new settings are tried before they
//! are used, and those that do not work are tried again when the old ones fail.

use std::sync::{Arc, PoisonError};

use crate::error::Error;
use crate::gateway::claims::Failed;
use crate::gateway::redis::examine::failed;
use crate::gateway::redis::{RedisDirectory, RedisTable};

impl RedisTable {
    /// Changes the settings, if a gateway can work with the new ones. Returns true if they differ.
    ///
    /// # Errors
    /// It is another table. Or a gateway cannot work with them: then the old settings stay in use,
    /// and the new ones are tried again when the old ones fail.
    pub(crate) fn replace(&self, new: RedisDirectory) -> Result<bool, Error> {
        let now = self.settings();
        if (&now.prefix, now.claim_time) != (&new.prefix, new.claim_time) {
            return Err(Error::usage(
                "the prefix and the claim time of the directory do not change while the gateway runs",
            ));
        }
        if *now == new {
            self.set_waiting(None);
            return Ok(false);
        }
        match self.try_out(&new) {
            Ok(()) => {
                self.take(new);
                Ok(true)
            }
            Err(e) => {
                self.set_waiting(Some(new));
                Err(failed(e))
            }
        }
    }

    /// The current settings have failed: the waiting ones are tried. Returns true if they work.
    pub(super) fn try_waiting(&self) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(new) = waiting else { return false };
        match self.try_out(&new) {
            Ok(()) => {
                self.take(new);
                log::info!(
                    "the directory of gateways is used with the settings that were read last, as the old ones do not work any more"
                );
                true
            }
            Err(e) => {
                log::debug!("nor with the settings that were read last: {e}");
                false
            }
        }
    }

    fn set_waiting(&self, new: Option<RedisDirectory>) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = new;
    }

    /// Uses these settings for new connections; the thread that receives changes makes one.
    fn take(&self, new: RedisDirectory) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        self.set_waiting(None);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Tests whether a gateway can work with these: whether it can claim names and receive changes.
    fn try_out(&self, new: &RedisDirectory) -> Result<(), Failed> {
        let table = new.clone().table(self.wait, self.remember, self.shares);
        table.try_claim()?;
        table.try_changes()
    }
}
