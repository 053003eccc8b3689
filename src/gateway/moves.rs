//! Moves connections that one event loop has accepted, and that belong to another one.
//!
//! ```text
//!   visitor: head read ─► its device's loop is another ─► taken out, its head put back ─► put in there, its head read again
//!   offer, poll: decided ─► its names' loop is another ─► taken out ─► put in there, and admitted or refused
//! ```
//! A visitor's connection stays in its new loop until it requests a device of another one; a link
//! stays for its whole life. So both sides of an exchange are always in one loop, and a relay needs
//! no coordination. If the owner has changed meanwhile, the connection is moved again, up to
//! [`MOVES_MAX`] times.

use std::sync::atomic::Ordering::Relaxed;

use crate::engine::connections::{Connections, Id};
use crate::gateway::loops::MOVED_TOO_OFTEN;
use crate::gateway::offer::{Grant, Offer};
use crate::gateway::state::{
    Command, Errand, GatewayRole, Granted, Journey, State, States, Visitor, VisitorSource,
};
use crate::limits::MOVES_MAX;

impl GatewayRole {
    /// Moves a visitor's connection with its unread request.
    pub(super) fn send_visitor(&mut self, cx: &mut Connections<State>, id: Id, to: usize) {
        // The link that was pinned to it belongs to this loop.
        if let Some(VisitorSource::Visitors { pin, .. }) =
            cx.visitor_mut(id).map(Visitor::source_mut)
        {
            *pin = None;
        }
        if let Some(Visitor::Head { moves, .. }) = cx.visitor_mut(id) {
            *moves += 1;
        }
        if let Some(parcel) = cx.take_out(id) {
            self.stats.moved.fetch_add(1, Relaxed);
            self.loops.send(to, Command::Moved { parcel: Box::new(parcel), errand: Errand::Ask });
        }
    }

    /// Moves the connection of an offer or a poll.
    pub(super) fn send_offer(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        to: usize,
        (offer, grant): (Offer, Grant),
        mut journey: Journey,
    ) {
        if journey.moves >= MOVES_MAX {
            return self.deny_device(cx, id, 503, MOVED_TOO_OFTEN, Some(1));
        }
        if let Some(parcel) = cx.take_out(id) {
            self.stats.moved.fetch_add(1, Relaxed);
            journey.moves += 1;
            let errand = Errand::Register(Box::new(Granted { offer, grant, journey }));
            self.loops.send(to, Command::Moved { parcel: Box::new(parcel), errand });
        }
    }
}
