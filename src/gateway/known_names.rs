//! Which names are known, which loop has them, and which of them is the origin in a visitor's
//! `Host`.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::engine::connections::Connections;
use crate::gateway::state::{GatewayRole, State};
use crate::proto::forward::Destination;

impl GatewayRole {
    /// Returns true if a request for this device may wait: the device is connected, or was
    /// recently, here or at another gateway, or a route or a token names it.
    pub(super) fn is_known(&mut self, cx: &Connections<State>, name: &str) -> bool {
        let now = cx.now();
        let is_awaited = || self.is_expected(name) || self.last_elsewhere(name, now).is_some();
        self.registry.knows(name) || (is_awaited() && self.registry.expect(name, now).is_ok())
    }

    /// How long ago another gateway was known to have this device, if within `remember`.
    pub(super) fn last_elsewhere(&self, name: &str, now: Instant) -> Option<Duration> {
        self.peers.as_ref()?.last(name, now, self.settings.limits.remember)
    }

    /// Returns true if a route or a token names this device.
    pub(super) fn is_expected(&self, name: &str) -> bool {
        self.credentials.have_token_for(name) || self.listeners.name(name)
    }

    /// The loop of this device, if it is another one. If a name is expected and has no loop, this
    /// loop becomes its owner.
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

    /// The loop to which an offer for these names has to be moved, if it is another one.
    pub(super) fn belongs_elsewhere(&mut self, names: &[String]) -> Option<usize> {
        if names.iter().any(|name| self.registry.knows(name)) {
            return None;
        }
        names.iter().find_map(|name| self.registry.elsewhere(name))
    }

    /// The registered origin that a visitor's host names. `scheme` comes from a trusted proxy, or
    /// is `https` over TLS. On a plain listener it is unknown, because a proxy that terminates TLS
    /// need not name it: the host decides. The port may be absent, the scheme's, or the listener's
    /// own (proxies send `Host` with that).
    pub(super) fn origin(
        &self,
        to: &Destination<'_>,
        listener: u16,
        scheme: Option<&str>,
    ) -> Option<String> {
        if !self.origins.load(Relaxed) || to.host.is_empty() {
            return None;
        }
        let usual = to.port.is_none_or(|port| match (port, scheme) {
            (443, Some("https") | None) | (80, Some("http") | None) => true,
            (port, _) => port == listener,
        });
        let schemes = ["https", "http"]
            .into_iter()
            .filter(|candidate| scheme.is_none_or(|scheme| scheme == *candidate));
        let candidates = schemes.flat_map(|scheme| {
            let bare = usual.then(|| format!("{scheme}://{}", to.host));
            let exact = to.port.map(|p| format!("{scheme}://{}:{p}", to.host));
            [bare, exact].into_iter().flatten()
        });
        let known: Vec<String> = candidates
            .filter(|name| {
                self.registry.is_known_anywhere(name) || self.credentials.have_token_for(name)
            })
            .collect();
        known.iter().find(|name| self.registry.is_linked_anywhere(name)).or(known.first()).cloned()
    }
}
