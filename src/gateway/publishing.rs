//! Reports changes of names and links to the log, to subscribers and to the counters. Each closed
//! link is counted here, by its cause (`drained`, `replaced` …).

use std::sync::PoisonError;
use std::time::SystemTime;

use crate::close_reason::{CloseCause, CloseReason};
use crate::gateway::events::{GatewayEvent, GatewayEventKind};
use crate::gateway::registry::{Left, Registration};
use crate::gateway::state::GatewayRole;
use crate::proto::turn::Transport;

impl GatewayRole {
    pub(super) fn tell(
        &mut self,
        kind: GatewayEventKind,
        name: &str,
        detail: &str,
        transport: Option<Transport>,
    ) {
        log_names!(Info of [name], "{name}: {kind}{}{detail}", if detail.is_empty() { "" } else { ": " });
        self.publish(kind, name, detail, transport, None);
    }

    fn publish(
        &mut self,
        kind: GatewayEventKind,
        name: &str,
        detail: &str,
        transport: Option<Transport>,
        cause: Option<CloseCause>,
    ) {
        self.observer.changed(name, kind.as_str(), detail, transport, cause);
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.publish(&GatewayEvent {
            kind,
            name: name.to_owned(),
            at: SystemTime::now(),
            detail: detail.to_owned(),
            transport,
            cause,
            missed: 0,
        });
    }

    /// A link has ended: its reason is logged in one line, reported as an event, and counted.
    pub(super) fn link_ended(
        &mut self,
        registration: &Registration,
        left: &Left,
        why: &CloseReason,
    ) {
        self.stats.closed.count(why.cause);
        let (name, last) = (registration.name(), !left.down.is_empty());
        match (last, why.cause.is_usual()) {
            (true, _) => {} // the line about its name reports it
            (false, true) => log_names!(Debug of [name], "{name}: a link ended: {why}"),
            (false, false) => log_names!(Info of [name], "{name}: a link ended: {why}"),
        }
        self.publish(
            GatewayEventKind::Ended,
            name,
            &why.text,
            self.registry.transport(name),
            Some(why.cause),
        );
        self.gone(left, why);
    }

    pub(super) fn tell_down(&mut self, name: &str, why: &CloseReason) {
        log_names!(Info of [name], "{name}: {}: {why}", GatewayEventKind::Down);
        self.publish(GatewayEventKind::Down, name, &why.text, None, Some(why.cause));
        if let Some(ledger) = self.peers.as_ref().and_then(|peers| peers.cluster.ledger()) {
            ledger.let_go(name);
        }
    }

    pub(super) fn gone(&mut self, left: &Left, why: &CloseReason) {
        for name in &left.down {
            self.registry.note_end(name, why.cause);
            self.tell_down(name, why);
        }
        for (name, transport) in &left.moved {
            self.tell(GatewayEventKind::Moved, name, &transport.to_string(), Some(*transport));
        }
    }
}
