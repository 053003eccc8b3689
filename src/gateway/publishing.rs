//! What happens to names and links, told to the log, to subscribers and to the counters.

use std::sync::PoisonError;
use std::time::SystemTime;

use crate::close_reason::{CloseCause, CloseReason};
use crate::gateway::events::{Event, EventKind};
use crate::gateway::registry::{Left, Registration};
use crate::gateway::state::GatewayRole;
use crate::proto::turn::Transport;

impl GatewayRole {
    pub(super) fn tell(
        &mut self,
        kind: EventKind,
        name: &str,
        reason: &str,
        transport: Option<Transport>,
    ) {
        log_names!(Info of [name], "{name}: {kind}{}{reason}", if reason.is_empty() { "" } else { ": " });
        self.publish(kind, name, reason, transport, None);
    }

    fn publish(
        &mut self,
        kind: EventKind,
        name: &str,
        reason: &str,
        transport: Option<Transport>,
        end: Option<CloseCause>,
    ) {
        self.observer.changed(name, kind.as_str(), reason, transport, end);
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.publish(&Event {
            kind,
            name: name.to_owned(),
            at: SystemTime::now(),
            reason: reason.to_owned(),
            transport,
            end,
            missed: 0,
        });
    }

    /// A link has ended: its reason goes into one line of the log, into the events, and into the
    /// counters.
    pub(super) fn link_ended(
        &mut self,
        registration: &Registration,
        left: &Left,
        why: &CloseReason,
    ) {
        self.stats.ends.count(why.end);
        let (name, last) = (registration.name(), !left.down.is_empty());
        match (last, why.end.is_usual()) {
            (true, _) => {} // the line of its name says it
            (false, true) => log_names!(Debug of [name], "{name}: a link ended: {why}"),
            (false, false) => log_names!(Info of [name], "{name}: a link ended: {why}"),
        }
        self.publish(
            EventKind::Ended,
            name,
            &why.text,
            self.registry.transport(name),
            Some(why.end),
        );
        self.gone(left, why);
    }

    pub(super) fn tell_down(&mut self, name: &str, why: &CloseReason) {
        log_names!(Info of [name], "{name}: {}: {why}", EventKind::Down);
        self.publish(EventKind::Down, name, &why.text, None, Some(why.end));
    }

    pub(super) fn gone(&mut self, left: &Left, why: &CloseReason) {
        for name in &left.down {
            self.registry.note_end(name, why.end);
            self.tell_down(name, why);
        }
        for (name, transport) in &left.moved {
            self.tell(EventKind::Moved, name, &transport.to_string(), Some(*transport));
        }
    }
}
