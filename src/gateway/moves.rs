//! Connections that came in by one event loop and belong to another one: they are moved there, whole.
//!
//! ```text
//!   visitor: head read ─► its device's loop is another ─► taken out, its head put back ─► put in there, its head read again
//!   offer, poll: decided ─► its names' loop is another ─► taken out ─► put in there, and admitted or refused
//! ```
//! A visitor's connection stays where it was moved to until it asks for a device of another loop, a
//! link for its whole life. So both sides of an exchange are always in one loop, and nothing here is
//! needed while a request is relayed. Where the owner has changed meanwhile the connection is moved
//! on, up to [`MOVES_MAX`] times.
//!
//! An offer may have names that different loops own. It goes round: each loop gives up those that
//! the offer may have, as in a take-over, until one owns all of them.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use crate::close_reason::CloseCause;
use crate::engine::connections::{Connections, Id, Parcel};
use crate::gateway::loops::UNSETTLED;
use crate::gateway::offer::{Grant, Offer};
use crate::gateway::registry::{Surrendered, Waiter};
use crate::gateway::state::{
    Command, Errand, GatewayRole, Journey, State, States, Visitor, VisitorListener,
};
use crate::limits::MOVES_MAX;

const REGROUPED: &str = "its device registers it together with names of another event loop";

impl GatewayRole {
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

    /// Moves a visitor's connection, whose request lies in it unread.
    pub(super) fn send_visitor(&mut self, cx: &mut Connections<State>, id: Id, to: usize) {
        // The link that was its own is this loop's.
        if let Some(VisitorListener::Visitors { pin, .. }) =
            cx.visitor_mut(id).map(Visitor::face_mut)
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
            return self.deny_device(cx, id, 503, UNSETTLED, Some(1));
        }
        if let Some(parcel) = cx.take_out(id) {
            self.stats.moved.fetch_add(1, Relaxed);
            journey.moves += 1;
            let errand = Errand::Register { offer: Box::new(offer), grant, journey };
            self.loops.send(to, Command::Moved { parcel: Box::new(parcel), errand });
        }
    }

    /// A connection that another loop has taken out.
    pub(super) fn moved_in(
        &mut self,
        cx: &mut Connections<State>,
        parcel: Parcel<State>,
        errand: Errand,
    ) {
        let id = match cx.put_in(parcel) {
            Ok(id) => id,
            Err(e) => return log_names!(Warn, "a connection was lost between event loops: {e}"),
        };
        let at = cx.after(self.settings.limits.head_timeout);
        cx.set_deadline(id, Some(at));
        match errand {
            Errand::Ask => self.visitor_head(cx, id),
            Errand::Register { offer, grant, journey } => {
                self.decided(cx, id, *offer, Ok(grant), journey)
            }
        }
        cx.resume(id);
        cx.tally(id);
        // What came meanwhile no event tells of again.
        cx.again(id);
    }

    /// Whether an offer for these names is another loop's. It is moved there.
    pub(super) fn belongs_elsewhere(&mut self, names: &[String]) -> Option<usize> {
        if names.iter().any(|name| self.registry.knows(name)) {
            return None;
        }
        names.iter().find_map(|name| self.registry.elsewhere(name))
    }

    /// An offer for names of which another loop owns some.
    pub(super) fn regroup(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        (offer, grant): (Offer, Grant),
        names: &[String],
        mut journey: Journey,
    ) {
        let own = names.iter().any(|name| self.registry.knows(name));
        let mut others: Vec<usize> =
            names.iter().filter_map(|name| self.registry.elsewhere(name)).collect();
        others.sort_unstable();
        let (Some(first), Some(last)) = (others.first().copied(), others.last().copied()) else {
            // It was the other loop's a moment ago.
            journey.moves += 1;
            return match journey.moves <= MOVES_MAX {
                true => self.decided(cx, id, offer, Ok(grant), journey),
                false => self.deny_device(cx, id, 503, UNSETTLED, Some(1)),
            };
        };
        if own && self.number > first {
            let holder = match self.holder(&offer, &grant, names) {
                Ok(holder) => holder,
                Err(denied) => return self.deny_offer(cx, id, &offer, &denied),
            };
            for name in names {
                match self.registry.surrender(name, &holder, cx.now()) {
                    Ok(None) => {}
                    Ok(Some(surrendered)) => {
                        let replaced = surrendered.replaced.iter();
                        journey.replaced.extend(
                            replaced.map(|(session, at)| (name.as_str().into(), *session, *at)),
                        );
                        self.surrendered(cx, name, surrendered);
                    }
                    Err(denied) => return self.deny_offer(cx, id, &offer, &denied),
                }
            }
            return self.send_offer(cx, id, first, (offer, grant), journey);
        }
        // The loop with the lowest number keeps its names; the others give theirs up.
        let to = if own { last } else { first };
        self.send_offer(cx, id, to, (offer, grant), journey);
    }

    /// A name is this loop's no longer: what there was of it ends as in a take-over.
    fn surrendered(&mut self, cx: &mut Connections<State>, name: &str, was: Surrendered) {
        let why = CloseCause::Replaced.because(REGROUPED);
        if was.was_connected {
            self.tell_down(name, &why);
        }
        self.fail_events_of_name(cx, name, CloseCause::Replaced, REGROUPED);
        for id in was.free {
            let registration = cx.registration(id);
            if registration.is_some_and(|registration| !self.registry.in_force(&registration)) {
                self.part(cx, id);
            }
        }
        let registry = &self.registry;
        let leases = self.leases.tickets(|registration| !registry.in_force(registration));
        self.evict_later(cx, was.busy, leases);
        for waiter in was.waiting {
            match waiter {
                Waiter::Exchange(key) => self.give_up_unsettled(cx, key),
                Waiter::Caller(number) => self.caller_unsettled(number),
            }
        }
    }
}
