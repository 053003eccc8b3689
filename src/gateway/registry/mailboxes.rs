//! Names whose devices poll: held polls, the gap between two polls, unanswered events, and requests
//! that have to be delivered to the same session again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::connections::Id;
use crate::engine::slab::Key;
use crate::gateway::registry::entry::{Entry, Mailbox, Pool};
use crate::gateway::registry::names::Held;
use crate::gateway::registry::{Left, Registration, Registry, Session};
use crate::proto::turn::Encoding;

/// The next step for a mailbox that may have ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    /// Check again after this time.
    In(Duration),
    /// A poll is held, or the mailbox has ended already.
    None,
    /// It has ended now; the device had this many events.
    Over(Left, usize),
}

impl Registry {
    /// Turns a reservation into a held poll. Returns true if it is the first poll of its session,
    /// which has to be answered at once.
    pub(crate) fn park(
        &mut self,
        registration: &Registration,
        id: Id,
        encoding: Encoding,
        session: Option<Session>,
        now: Instant,
    ) -> bool {
        let (mut first, most) = (false, self.limits.links_per_device());
        self.each(registration, |entry| {
            entry.leases = entry.leases.saturating_sub(1);
            let mailbox = entry.mailbox.get_or_insert_with(|| {
                Box::new(Mailbox {
                    encoding,
                    polls: Pool::default(),
                    left: now,
                    greeted: VecDeque::new(),
                })
            });
            mailbox.encoding = encoding;
            mailbox.polls.0.push((id, registration.session));
            if let Some(session) = session.filter(|session| !mailbox.greeted.contains(session)) {
                first = true;
                mailbox.greeted.truncate(most.saturating_sub(1));
                mailbox.greeted.push_front(session);
            }
        });
        first
    }

    /// A held poll was answered or has ended. Returns the names whose `poll_gap` the role has to
    /// watch from now on.
    pub(crate) fn unpark(
        &mut self,
        registration: &Registration,
        id: Id,
        now: Instant,
    ) -> Vec<Arc<str>> {
        self.begin_gaps(registration, |entry| {
            let Some(mailbox) = &mut entry.mailbox else { return false };
            mailbox.polls.take_out(id);
            mailbox.left = now;
            mailbox.polls.0.is_empty()
        })
    }

    /// A held offer was answered without a request. Returns the names whose `poll_gap` the role has
    /// to watch from now on.
    pub(crate) fn lapse(
        &mut self,
        registration: &Registration,
        id: Id,
        now: Instant,
    ) -> Vec<Arc<str>> {
        self.begin_gaps(registration, |entry| {
            entry.idle.take_out(id);
            entry.lapsed = Some(now);
            true
        })
    }

    /// The names whose gap begins now: those for which `note` returns true and whose gap has not
    /// begun.
    fn begin_gaps(
        &mut self,
        registration: &Registration,
        mut note: impl FnMut(&mut Entry) -> bool,
    ) -> Vec<Arc<str>> {
        let mut alarms = Vec::new();
        for held in &registration.names {
            let entry = self.entries.held_mut(held);
            if entry.is_some_and(|entry| note(entry) && entry.begins_gap()) {
                alarms.push(held.name.clone());
            }
        }
        alarms
    }

    /// Whether a mailbox has been without a poll, or a device without an offer, for `poll_gap`;
    /// then it ends. While its events may still be answered, all its polls may be busy, and it is
    /// kept, at most as long as a caller waits for one of the events.
    pub(crate) fn poll_gap(&mut self, name: &Arc<str>, now: Instant) -> Gap {
        let gap = self.limits.poll_gap;
        let Some(place) = self.entries.place(name) else { return Gap::None };
        let Some(entry) = self.entries.get_mut(name) else { return Gap::None };
        let polled = entry
            .mailbox
            .as_ref()
            .filter(|mailbox| mailbox.polls.0.is_empty())
            .map(|mailbox| mailbox.left);
        let left = polled.max(entry.lapsed);
        let rest = left
            .map_or(Duration::ZERO, |left| gap.saturating_sub(now.saturating_duration_since(left)));
        if !rest.is_zero() {
            return Gap::In(rest);
        }
        let works = entry
            .events_until
            .filter(|until| polled.is_some() && entry.present > 0 && *until > now);
        if let Some(until) = works {
            return Gap::In(
                until.saturating_duration_since(now).min(gap.max(Duration::from_secs(1))),
            );
        }
        entry.gap_alarm = false;
        if left.is_none() {
            return Gap::None;
        }
        entry.lapsed = None;
        if polled.is_some() {
            entry.mailbox = None;
        }
        let in_hand = entry.events;
        let registration = Registration {
            names: vec![Held { name: name.clone(), place, epoch: entry.epoch }],
            session: None,
            token: None,
            certificate: None,
            airplay: false,
        };
        Gap::Over(self.departures(&registration, now), in_hand)
    }

    /// The held poll of a name for the next request, if another request may be in flight there.
    pub(crate) fn next_poll(&mut self, name: &str) -> Option<Id> {
        let (shared, most) = (self.shared, self.limits.in_flight_per_device_max);
        let entry = self.entries.get_mut(name).filter(|e| e.in_flight() < most)?;
        let (id, session) = entry.mailbox.as_ref()?.polls.pick(shared, entry.last)?;
        entry.last = session;
        Some(id)
    }

    /// The newest held poll of the session that has received an event before: devices that share a
    /// name do not know each other's events. The event is in flight already, so the bound does not
    /// apply.
    pub(crate) fn poll_again(&self, name: &str, session: Option<Session>) -> Option<Id> {
        let polls = &self.entries.get(name)?.mailbox.as_ref()?.polls.0;
        polls.iter().rfind(|(_, theirs)| *theirs == session).map(|(id, _)| *id)
    }

    /// Returns true if a poll is held under one of the names.
    pub(crate) fn holds_poll(&self, registration: &Registration) -> bool {
        registration
            .names
            .iter()
            .filter_map(|held| self.entries.held(held)?.mailbox.as_ref())
            .any(|mailbox| !mailbox.polls.0.is_empty())
    }

    /// An event was delivered under this name, and has to be answered by `until`.
    pub(crate) fn event_begins(&mut self, name: &str, until: Instant) {
        if let Some(entry) = self.entries.get_mut(name) {
            (entry.events, entry.present) = (entry.events + 1, entry.present + 1);
            entry.events_until = entry.events_until.max(Some(until));
        }
    }

    /// The device closed the connection that delivered the event, so having an event no longer
    /// shows that the device is there.
    pub(crate) fn event_deserted(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.present = entry.present.saturating_sub(1);
        }
    }

    /// Such an event was sent again.
    pub(crate) fn event_is_back(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.present += 1;
        }
    }

    /// An event was answered or given up. `present` means that the device had not closed its
    /// connection. Returns true if callers may have waited for this.
    pub(crate) fn event_ends(&mut self, name: &str, present: bool) -> bool {
        let Some(entry) = self.entries.get_mut(name) else { return false };
        let was_full = entry.in_flight() >= self.limits.in_flight_per_device_max;
        entry.events = entry.events.saturating_sub(1);
        entry.present = entry.present.saturating_sub(usize::from(present));
        if entry.events == 0 {
            entry.events_until = None;
        }
        was_full && !entry.waiting.is_empty()
    }

    /// Returns true if a name has a mailbox: a poll is held, or was less than `poll_gap` ago.
    pub(crate) fn is_polling(&self, name: &str) -> bool {
        self.entries.get(name).is_some_and(|e| e.mailbox.is_some())
    }

    /// Enqueues an event that was sent before for the next poll of that session.
    pub(crate) fn requeue(&mut self, name: &str, key: Key, session: Option<Session>) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.again.push_back((key, session));
        }
    }

    /// The event that has waited longest to be sent again to this session, under one of the names.
    pub(crate) fn next_again(&mut self, registration: &Registration) -> Option<Key> {
        let mut found = None;
        self.each(registration, |entry| {
            if found.is_none() {
                let at =
                    entry.again.iter().position(|(_, session)| *session == registration.session);
                found = at.and_then(|at| entry.again.remove(at)).map(|(key, _)| key);
            }
        });
        found
    }
}
