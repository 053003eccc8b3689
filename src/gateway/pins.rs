//! Links that serve one visitor's connection alone, because a login that belongs to its connection
//! (NTLM, Negotiate) went over them.
//!
//! ```text
//!   idle ─► busy: a request or an answer is part of such a login ─► pinned ⇄ busy ─► closed with the visitor's connection
//!                                                                     └─ gets a goaway when others wait for it, or they are too many
//! ```
//! A pinned link is never used for another visitor, because the server behind it has logged its
//! visitor in. The gateway marks requests to a device with a session if they come from the same
//! visitor's connection as the previous one ([`SAME_VISITOR`]), so that the device can keep its
//! local connection just as long. Requests over polls cannot be separated in this way: there the
//! device uses no local connection twice.
//!
//! A challenge alone (401 with `WWW-Authenticate: NTLM`) does not pin a link: it is no login, and a
//! client that repeats its request without a login would otherwise hold links.

use std::sync::Arc;
use std::time::Duration;

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::gateway::alarms::Alarm;
use crate::gateway::follow_ups::FollowUp;
use crate::gateway::state::{Asking, GatewayRole, Pin, State, States, VisitorSource};
use crate::limits::PINNED_GRACE;
use crate::proto::digits::hex;
use crate::proto::forward::SAME_VISITOR;

const ITS_VISITOR: CloseReason = CloseCause::LastMessage.because(
    "a login that is bound to its connection went over it, and its visitor's connection has ended",
);

impl GatewayRole {
    /// The link that is pinned to this visitor's connection.
    fn own_link(&self, cx: &Connections<State>, visitor: Id) -> Option<Id> {
        let at = cx.visitor(visitor)?;
        let VisitorSource::Visitors { pin: Some(pin), .. } = at.source() else { return None };
        (self.pinned_to(cx, pin.link) == Some(visitor)).then_some(pin.link)
    }

    /// Returns true if this visitor has an idle pinned link to the device of its current request.
    pub(super) fn has_idle_pin(&self, cx: &Connections<State>, visitor: Id) -> bool {
        let Some(Asking { name, .. }) = cx.asking(visitor) else {
            return false;
        };
        let Some(id) = self.own_link(cx, visitor) else { return false };
        let Some(link) = cx.link(id) else {
            return false;
        };
        link.exchange.is_none()
            && !link.leaving
            && link.registration.names().any(|known| **known == **name)
    }

    /// The visitor's connection to which a link is pinned.
    fn pinned_to(&self, cx: &Connections<State>, id: Id) -> Option<Id> {
        cx.link(id)?.pinned
    }

    /// Gives an exchange the link that is pinned to its visitor, if there is one for this device.
    /// Returns false if the exchange can use any link.
    pub(super) fn asks_own_link(
        &mut self,
        cx: &mut Connections<State>,
        visitor: Id,
        key: Key,
        name: &str,
    ) -> bool {
        let Some(id) = self.own_link(cx, visitor) else { return false };
        let Some(link) = cx.link_mut(id) else {
            return false;
        };
        if link.leaving || !link.registration.names().any(|known| **known == *name) {
            return false;
        }
        if link.exchange.is_some() {
            // A heartbeat is in progress on it; `keep_for` or `drop_link` continues.
            link.wanted = Some(key);
            let at = cx.after(self.waits(key).link.time);
            cx.set_deadline(visitor, Some(at));
            return true;
        }
        let registration = link.registration.clone();
        if !self.registry.may_ask(name) {
            return false;
        }
        let (idempotent, retried) =
            self.exchanges.get(key).map_or((false, false), |e| (e.is_idempotent(), e.is_retried()));
        self.registry.set_busy(&registration, id);
        cx.set_deadline(id, None);
        if (!idempotent || retried) && !self.is_alive(cx, id) {
            return false; // it has ended
        }
        let line = registration.session().map(|session| {
            [SAME_VISITOR.as_bytes(), b": ", hex(session).as_bytes(), b"\r\n"].concat()
        });
        self.assign_with(cx, key, id, &line.unwrap_or_default());
        true
    }

    /// A busy link that carried such a login is free: it waits for the next request of its
    /// visitor's connection, or ends with that connection.
    pub(super) fn keep_for(&mut self, cx: &mut Connections<State>, id: Id, downstream: Option<Id>) {
        let Some(link) = cx.link(id) else { return };
        let (registration, pinned) = (link.registration.clone(), link.pinned);
        let is_kept = match (pinned, downstream) {
            (Some(visitor), _) => self.own_link(cx, visitor) == Some(id),
            (None, Some(visitor)) => self.pin(cx, id, visitor),
            (None, None) => false,
        };
        if !is_kept {
            return self.drop_link(cx, id, ITS_VISITOR);
        }
        if self.lifecycle.is_draining() {
            return self.part(cx, id);
        }
        self.registry.set_pinned(&registration, id);
        self.watch_idle(cx, id);
        if let Some((visitor, key)) = self.take_wanted(cx, id) {
            return self.follow_ups.push_back(FollowUp::FindLink { visitor, key });
        }
        for name in registration.names() {
            self.ease_pins_after(cx, name, PINNED_GRACE);
        }
        self.follow_ups.push_back(FollowUp::ServeInLine(registration));
    }

    /// Pins a link to a visitor's connection. Returns false if the connection belongs to a program.
    fn pin(&mut self, cx: &mut Connections<State>, id: Id, visitor: Id) -> bool {
        let pin = Arc::new(Pin { remote: self.remote.clone(), link: id });
        let Some(at) = cx.visitor_mut(visitor) else {
            return false;
        };
        let VisitorSource::Visitors { pin: place, .. } = at.source_mut() else { return false };
        *place = Some(pin); // this drops its previous one
        if let Some(link) = cx.link_mut(id) {
            link.pinned = Some(visitor);
        }
        true
    }

    /// The visitor's connection has ended, or has another link.
    pub(super) fn unpin(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(link) = cx.link_mut(id) else {
            return;
        };
        match link.exchange {
            Some(_) => link.leaving = true, // a response is drained, or a heartbeat is in progress
            None => self.drop_link(cx, id, ITS_VISITOR),
        }
    }

    /// Checks at latest after this time whether other callers need pinned links of a name.
    pub(super) fn ease_pins_after(
        &mut self,
        cx: &mut Connections<State>,
        name: &str,
        time: Duration,
    ) {
        if self.registry.wants_pin_alarm(name) {
            let at = cx.after(time.min(PINNED_GRACE));
            self.set_alarm(cx, at, Alarm::EasePins(name.into()));
        }
    }

    /// Sends a goaway on as many pinned links as callers wait, or as there are too many. The device
    /// dials other links, and its visitors log in again.
    pub(super) fn ease_pins(&mut self, cx: &mut Connections<State>, name: &Arc<str>) {
        self.registry.pin_alarm_over(name);
        let (surplus, _) = self.registry.surplus_pins(name);
        for _ in 0..surplus {
            if let (_, Some(id)) = self.registry.surplus_pins(name) {
                self.part(cx, id);
            }
        }
        self.ease_pins_after(cx, name, PINNED_GRACE);
    }
}
