//! Drops cached answers about other gateways when the directory has changed.

use crate::engine::connections::Connections;
use crate::gateway::changes::Outdated;
use crate::gateway::state::{GatewayRole, State, States};

impl GatewayRole {
    /// Cached answers about other gateways may be wrong. Waiting requests look up their device
    /// again at once.
    pub(super) fn forget_peers(&mut self, cx: &mut Connections<State>) {
        let Some(peers) = &mut self.peers else { return };
        let mut woken = Vec::new();
        match peers.cluster.changes().take(self.number) {
            Outdated::All => {
                peers.forget_all(cx.now());
                woken = peers.take_line(None);
            }
            Outdated::Names(names) => {
                for (name, gateway) in names {
                    match gateway {
                        Some(gateway) => peers.forget_unless_at(&name, &gateway, cx.now()),
                        None => peers.forget(&name, cx.now()),
                    }
                    woken.append(&mut peers.take_line(Some(&name)));
                }
            }
        }
        for (id, key) in woken {
            let Some(asking) = cx.asking_mut(id).filter(|asking| asking.key == key) else {
                continue;
            };
            asking.search.is_lined_up = false;
            if !self.is_in_line(cx, id, key) {
                continue;
            }
            self.seek_again(cx, id, key);
            let name = cx.asking(id).map(|asking| asking.name.clone());
            if let Some(name) = name.filter(|_| self.is_in_line(cx, id, key)) {
                self.line_up(cx, &name, (id, key)); // it waits until the next change
            }
        }
    }
}
