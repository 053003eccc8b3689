//! Which names are worth waiting for, and which loop has them.

use std::time::Instant;

use crate::engine::connections::Connections;
use crate::gateway::state::{GatewayRole, State};

impl GatewayRole {
    /// Whether a request for this device is worth waiting: it is connected, or was lately, or a
    /// route or a token names it.
    pub(super) fn is_known(&mut self, cx: &Connections<State>, name: &str) -> bool {
        self.registry.knows(name)
            || (self.is_expected(name) && self.registry.expect(name, cx.now()).is_ok())
    }

    /// Whether a route or a token names this device.
    pub(super) fn is_expected(&self, name: &str) -> bool {
        self.credentials.have_token_for(name) || self.listeners.name(name)
    }

    /// The loop of a request for this device, where that is another one. A name that is expected and
    /// nobody's becomes this loop's.
    pub(super) fn elsewhere(&mut self, name: &str, now: Instant) -> Option<usize> {
        if !self.loops.are_several() || self.registry.knows(name) {
            return None;
        }
        let owner = self.registry.elsewhere(name);
        if owner.is_none() && self.is_expected(name) {
            return self.registry.expect(name, now).err();
        }
        owner
    }

    /// Whether an offer for these names is another loop's. It is moved there.
    pub(super) fn belongs_elsewhere(&mut self, names: &[String]) -> Option<usize> {
        if names.iter().any(|name| self.registry.knows(name)) {
            return None;
        }
        names.iter().find_map(|name| self.registry.elsewhere(name))
    }
}
