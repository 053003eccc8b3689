//! Other settings for the server, while the gateway runs: they are tried before they count, and those
//! that do not work are tried again when the old ones fail.

use std::sync::{Arc, PoisonError};

use crate::error::Error;
use crate::gateway::claims::Failed;
use crate::gateway::redis::examine::failed;
use crate::gateway::redis::{RedisDirectory, RedisTable};

impl RedisTable {
    /// Takes other settings, where a gateway can work with them. Returns true if they differ.
    ///
    /// # Errors
    /// It is another table. Or a gateway cannot work with them: the old ones stay in force, and
    /// these are tried again when those fail.
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

    /// The settings in force have failed: those that wait are tried. Returns true if they work.
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

    /// New connections are made with these; the thread that listens for changes makes one.
    fn take(&self, new: RedisDirectory) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        self.set_waiting(None);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether a gateway could work with these: claims, and hears of changes.
    fn try_out(&self, new: &RedisDirectory) -> Result<(), Failed> {
        let table = new.clone().table(self.wait, self.remember, self.shares);
        table.try_claim()?;
        table.try_changes()
    }
}
