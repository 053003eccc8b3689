//! One name: its owner, its links and polls, and the callers that wait for it.

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};
use std::time::Instant;

use crate::close_reason::CloseCause;
use crate::engine::connections::Id;
use crate::engine::departed::Stamp;
use crate::engine::slab::Key;
use crate::gateway::registry::last_link::LastLink;
use crate::gateway::registry::{Owner, Registration, Session, Waiter};
use crate::limits::REPLACED_MAX;
use crate::proto::turn::{Encoding, Transport};

/// Links or polls that are free, newest last.
#[derive(Debug, Default)]
pub(super) struct Pool(pub(super) Vec<(Id, Option<Session>)>);

impl Pool {
    /// The newest one; or, if devices share a name, the newest one of the device whose turn it is,
    /// which is the next after `last` in the order of their sessions.
    pub(super) fn pick(
        &self,
        shared: bool,
        last: Option<Session>,
    ) -> Option<(Id, Option<Session>)> {
        if !shared {
            return self.0.last().copied();
        }
        let next = |after: &dyn Fn(Option<Session>) -> bool| {
            let theirs = self
                .0
                .iter()
                .filter(|(_, session)| after(*session))
                .map(|(_, session)| *session)
                .min()?;
            self.0.iter().rfind(|(_, session)| *session == theirs).copied()
        };
        next(&|session| session > last).or_else(|| next(&|_| true))
    }

    pub(super) fn ids(self) -> impl Iterator<Item = Id> {
        self.0.into_iter().map(|(id, _)| id)
    }

    /// Removes one, searching from the end, where the newest are.
    pub(super) fn take_out(&mut self, id: Id) -> bool {
        let Some(at) = self.0.iter().rposition(|(x, _)| *x == id) else { return false };
        self.0.remove(at);
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
        true
    }
}

/// A name's mailbox, which exists from its first poll until `poll_gap` after the last one.
pub(super) struct Mailbox {
    pub(super) encoding: Encoding,
    /// Held polls.
    pub(super) polls: Pool,
    /// When the last one ended.
    pub(super) left: Instant,
    /// The sessions whose first poll was answered at once: one, or those that share the name, the
    /// latest `links_per_device_max` of them.
    pub(super) greeted: VecDeque<Session>,
}

pub(super) struct Entry {
    pub(super) owner: Owner,
    /// The credential of its owner is no longer valid: any session may take the name.
    pub(super) revoked: bool,
    pub(super) epoch: u64,
    pub(super) registration: Option<Arc<Registration>>,
    /// Idle links.
    pub(super) idle: Pool,
    /// Links in the loop that are not idle.
    pub(super) busy: Vec<Id>,
    /// Idle links that serve one visitor's connection each, the longest idle first.
    pub(super) pinned: Vec<Id>,
    /// The role's alarm for those is set.
    pub(super) pin_alarm: bool,
    /// Links leased to program code, and reserved places.
    pub(super) leases: usize,
    /// Boxed, because most names have links.
    pub(super) mailbox: Option<Box<Mailbox>>,
    /// When a held offer was last answered with 204. The device should offer again, and counts as
    /// connected for `poll_gap`.
    pub(super) lapsed: Option<Instant>,
    /// The role's alarm for the mailbox's end is set. It belongs to the name and not to the
    /// mailbox, so repeated take-overs of the name add no second one.
    pub(super) gap_alarm: bool,
    pub(super) waiting: VecDeque<Waiter>,
    /// Whether the request that takes the last idle link is held back.
    pub(super) last_link: LastLink,
    /// Exchanges whose event was already sent to a session, and goes to the next poll of that
    /// session, and to no link.
    pub(super) again: VecDeque<(Key, Option<Session>)>,
    /// The number of unanswered events.
    pub(super) events: usize,
    /// The number of these whose device has not closed the connection on which they were sent.
    pub(super) present: usize,
    /// When the last of them has to be answered: until then all polls of the device may be busy
    /// with them.
    pub(super) events_until: Option<Instant>,
    /// The device, of those that share the name, that got the last request.
    pub(super) last: Option<Session>,
    /// The transport that was reported last.
    pub(super) transport: Transport,
    /// Since when it is connected or, if it is not, since when it is not.
    pub(super) since: Instant,
    /// Why it is no longer connected.
    pub(super) end: Option<CloseCause>,
    /// Its key among the disconnected names.
    pub(super) departed: Option<Stamp>,
    /// Sessions that were replaced, the latest last.
    pub(super) replaced: Vec<(Session, Instant)>,
    /// Its owner's part of the budget of whole messages, once it was used.
    pub(super) part: Weak<AtomicUsize>,
}

impl Entry {
    pub(super) fn new(owner: Owner, epoch: u64, transport: Transport, since: Instant) -> Self {
        Entry {
            owner,
            revoked: false,
            epoch,
            registration: None,
            idle: Pool::default(),
            busy: Vec::new(),
            pinned: Vec::new(),
            pin_alarm: false,
            leases: 0,
            mailbox: None,
            lapsed: None,
            gap_alarm: false,
            events: 0,
            present: 0,
            events_until: None,
            last: None,
            waiting: VecDeque::new(),
            last_link: LastLink::default(),
            again: VecDeque::new(),
            transport,
            since,
            end: None,
            departed: None,
            replaced: Vec::new(),
            part: Weak::new(),
        }
    }

    pub(super) fn links(&self) -> usize {
        self.idle.0.len() + self.busy.len() + self.pinned.len() + self.leases
    }

    /// Requests in flight, for the bound `in_flight_per_device_max`. A heartbeat counts while it
    /// lasts.
    pub(super) fn in_flight(&self) -> usize {
        self.busy.len() + self.leases + self.events
    }

    /// Records that another session has taken the name from this one.
    pub(super) fn note_replaced(&mut self, session: Session, now: Instant) {
        self.replaced.retain(|(known, _)| *known != session);
        if self.replaced.len() >= REPLACED_MAX {
            self.replaced.remove(0);
        }
        self.replaced.push((session, now));
    }

    /// Idle links and held polls.
    pub(super) fn free(&self) -> usize {
        self.idle.0.len() + self.mailbox.as_ref().map_or(0, |mailbox| mailbox.polls.0.len())
    }

    /// Callers that one more free link each would serve: a caller that waits only because so many
    /// requests are in flight has no use for it.
    pub(super) fn wants(&self, in_flight_max: usize) -> usize {
        self.waiting.len().min(in_flight_max.saturating_sub(self.in_flight()))
    }

    /// Returns true if the role has to set the alarm for `poll_gap`, as it is not set yet.
    pub(super) fn begins_gap(&mut self) -> bool {
        !std::mem::replace(&mut self.gap_alarm, true)
    }

    pub(super) fn is_awaited(&self) -> bool {
        !self.waiting.is_empty() || !self.again.is_empty()
    }

    /// The number that `links_per_device_max` bounds.
    pub(super) fn places(&self) -> usize {
        self.links() + self.mailbox.as_ref().map_or(0, |m| m.polls.0.len())
    }

    /// Returns true if this owner would take the name from another session or credential.
    pub(super) fn is_others(&self, owner: &Owner, shared: bool) -> bool {
        (!shared || self.revoked) && self.owner != *owner
    }

    pub(super) fn is_connected(&self) -> bool {
        self.links() > 0 || self.mailbox.is_some() || self.lapsed.is_some()
    }
}
