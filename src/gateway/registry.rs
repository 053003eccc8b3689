//! The connected devices: names, the sessions that hold them, their idle links and held polls, and
//! the callers that wait for one. Pure data, no socket.
//!
//! The rules of protocol.md §1.2 (*pools*), §1.5 (*take-over*) and §2.1 (*connected*) are
//! implemented only here.

mod claims;
mod entry;
mod last_link;
mod mailboxes;
mod names;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use self::claims::{Claimed, Denied, Surrendered, Unclaimed};
use self::entry::Entry;
pub(crate) use self::last_link::PERIODS_MAX;
pub(crate) use self::mailboxes::Gap;
use self::names::{Held, Names};
use crate::close_reason::CloseCause;
use crate::engine::budget::Part;
use crate::engine::connections::Id;
use crate::engine::departed::Departed;
use crate::engine::slab::Key;
use crate::gateway::name_owners::Home;
use crate::gateway::tokens::Digest;
use crate::limits::{Limits, PINNED_PART};
use crate::proto::turn::Transport;
use crate::stream::Shown;

/// 16 bytes that identify one run of a device.
pub(crate) type Session = [u8; 16];

/// The owner of a name. Two owners are equal if credential and session are, even if their tokens
/// differ.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    /// The identity, if there are credentials.
    pub(crate) credential: Option<Arc<str>>,
    /// `None` for the pool of all offers without a session.
    pub(crate) session: Option<Session>,
    /// The token that let it in.
    pub(crate) token: Option<Digest>,
    /// Its offer is an AirPlay sender's.
    pub(crate) airplay: bool,
    /// The certificate that let it in.
    pub(crate) certificate: Option<Arc<Shown>>,
}

impl PartialEq for Owner {
    fn eq(&self, other: &Self) -> bool {
        self.credential == other.credential && self.session == other.session
    }
}

/// The names and the owner of one or more links, which share it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Registration {
    /// Its names. Each has an epoch: a take-over starts a new one.
    names: Vec<Held>,
    /// Identifies it among the devices that share its names.
    session: Option<Session>,
    /// The token that let it in.
    token: Option<Digest>,
    /// It may answer as AirPlay senders do.
    airplay: bool,
    /// The certificate that let it in.
    certificate: Option<Arc<Shown>>,
}

impl Registration {
    /// The first name, for logs and events.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.names[0].name // `claim` never makes one without a name
    }
    /// Returns true if its answers may begin with `EVENT/1.0`.
    pub(crate) fn is_airplay(&self) -> bool {
        self.airplay
    }
    pub(crate) fn token(&self) -> Option<&Digest> {
        self.token.as_ref()
    }
    pub(crate) fn certificate(&self) -> Option<&Arc<Shown>> {
        self.certificate.as_ref()
    }
    pub(crate) fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }
    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.names.iter().map(|held| &held.name)
    }
}

/// The current connections and callers of a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) idle: usize,
    pub(crate) busy: usize,
    /// Polls that are held.
    pub(crate) polls: usize,
    /// Events in progress.
    pub(crate) events: usize,
    /// Waiting callers.
    pub(crate) waiting: usize,
}

/// A caller that waits for a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiter {
    /// A visitor's exchange.
    Exchange(Key),
    /// A program's `send()`, by its number.
    Caller(u64),
}

/// What the end of a link or of a mailbox changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Names that are no longer connected.
    pub(crate) down: Vec<Arc<str>>,
    /// Names whose last link ended while they poll.
    pub(crate) moved: Vec<(Arc<str>, Transport)>,
}

/// The names that one loop owns.
pub(crate) struct Registry {
    limits: Arc<Limits>,
    /// Sessions of one credential share a name instead of taking it over.
    shared: bool,
    /// This loop's number and the table of owners, which has an entry for each name here.
    home: Home,
    entries: Names,
    /// Names whose last link has ended.
    departed: Departed,
    /// The last epoch. Those of different loops differ, so a registration is of no use in another one.
    epochs: u64,
}

impl Drop for Registry {
    fn drop(&mut self) {
        // The loop has ended; other loops may own the names.
        for (name, entry) in self.entries.iter() {
            self.home.owners.disown(name);
            if entry.is_connected() {
                self.home.owners.disconnect();
            }
        }
        for _ in 0..self.departed.len() {
            self.home.owners.forget();
        }
    }
}

impl Registry {
    /// The registry of the loop with this number.
    pub(crate) fn new(limits: Arc<Limits>, shared: bool, home: Home) -> Self {
        let epochs = (home.number as u64) << 48;
        Registry {
            limits,
            shared,
            home,
            entries: Names::default(),
            departed: Departed::default(),
            epochs,
        }
    }

    /// Replaces the bounds, with effect from now on.
    pub(crate) fn set_limits(&mut self, limits: Arc<Limits>) {
        self.limits = limits;
    }

    /// The registry of a single loop.
    #[cfg(test)]
    pub(crate) fn alone(limits: Arc<Limits>, shared: bool) -> Self {
        Registry::new(limits, shared, Home::alone())
    }

    /// The names of this loop that are connected.
    pub(crate) fn connected_names(&self) -> Vec<Arc<str>> {
        let connected = self.entries.iter().filter(|(_, entry)| entry.is_connected());
        connected.map(|(name, _)| name.clone()).collect()
    }

    /// Names that are connected, of all loops.
    #[cfg(test)]
    pub(crate) fn connected(&self) -> usize {
        self.home.owners.connected()
    }

    /// The other loop that owns this name.
    pub(crate) fn elsewhere(&self, name: &str) -> Option<usize> {
        if self.entries.contains(name) {
            return None;
        }
        self.home.owners.owner(name).filter(|owner| *owner != self.home.number)
    }

    /// Returns true if any loop knows this name, connected or not.
    pub(crate) fn is_known_anywhere(&self, name: &str) -> bool {
        self.entries.contains(name) || self.home.owners.owner(name).is_some()
    }

    /// Returns true if a device of this name is connected to any loop.
    pub(crate) fn is_connected_anywhere(&self, name: &str) -> bool {
        match self.entries.get(name) {
            Some(entry) => entry.is_connected(),
            None => self.home.owners.is_connected(name),
        }
    }

    /// Returns true if a device of this name has a link here, or is connected to another loop.
    pub(crate) fn is_linked_anywhere(&self, name: &str) -> bool {
        match self.entries.get(name) {
            Some(entry) => entry.links() > 0,
            None => self.home.owners.is_connected(name),
        }
    }

    /// Names that are connected or remembered.
    #[cfg(test)]
    pub(crate) fn known(&self) -> usize {
        self.entries.len()
    }

    /// Links of a name: in all, and idle.
    pub(crate) fn links(&self, name: &str) -> (usize, usize) {
        self.entries.get(name).map_or((0, 0), |e| (e.links(), e.idle.0.len()))
    }

    /// How many connections a name has, and how many wait for one.
    pub(crate) fn load(&self, name: &str) -> Load {
        self.entries.get(name).map_or_else(Load::default, |entry| Load {
            idle: entry.idle.0.len() + entry.pinned.len(),
            busy: entry.busy.len() + entry.leases,
            polls: entry.mailbox.as_ref().map_or(0, |mailbox| mailbox.polls.0.len()),
            events: entry.events,
            waiting: entry.waiting.len() + entry.again.len(),
        })
    }

    /// Since when a name has been connected, with which token, and one of its connections in the
    /// loop.
    pub(crate) fn presence(&self, name: &str) -> Option<(Instant, Option<&Digest>, Option<Id>)> {
        let entry = self.entries.get(name).filter(|e| e.is_connected())?;
        let links = entry.idle.0.iter().map(|(id, _)| id).chain(&entry.busy).chain(&entry.pinned);
        let polls = entry.mailbox.iter().flat_map(|m| m.polls.0.iter().map(|(id, _)| id));
        Some((entry.since, entry.owner.token.as_ref(), links.chain(polls).next().copied()))
    }

    /// How a name is connected.
    pub(crate) fn transport(&self, name: &str) -> Option<Transport> {
        let entry = self.entries.get(name).filter(|e| e.is_connected())?;
        match &entry.mailbox {
            Some(mailbox) if entry.links() == 0 => Some(Transport::Comet(mailbox.encoding)),
            _ => Some(entry.transport),
        }
    }

    /// Returns true if a registration is still valid for at least one of its names.
    pub(crate) fn in_force(&self, registration: &Registration) -> bool {
        let mut entries = registration.names.iter().filter_map(|held| self.entries.held(held));
        entries.any(Entry::is_connected)
    }

    fn each(&mut self, registration: &Registration, mut f: impl FnMut(&mut Entry)) {
        registration
            .names
            .iter()
            .for_each(|held| self.entries.held_mut(held).into_iter().for_each(&mut f));
    }

    /// A reserved or leased link comes (back) into the loop, busy.
    pub(crate) fn place(&mut self, registration: &Registration, id: Id) {
        self.each(registration, |entry| {
            entry.leases = entry.leases.saturating_sub(1);
            entry.busy.push(id);
        });
    }

    /// A busy link is idle. `took`: the time in which its device has answered, and when.
    pub(crate) fn set_idle(
        &mut self,
        registration: &Registration,
        id: Id,
        took: Option<(Duration, Instant)>,
    ) {
        self.each(registration, |entry| {
            if let Some((took, now)) = took {
                entry.last_link.answered_in(took, now);
            }
            take_out(&mut entry.busy, id);
            entry.idle.0.push((id, registration.session));
        });
    }

    /// An idle link is busy.
    pub(crate) fn set_busy(&mut self, registration: &Registration, id: Id) {
        self.each(registration, |entry| {
            if entry.idle.take_out(id) || take_out(&mut entry.pinned, id) {
                entry.busy.push(id);
            }
        });
    }

    /// A busy link is idle, and reserved for one visitor's connection.
    pub(crate) fn set_pinned(&mut self, registration: &Registration, id: Id) {
        self.each(registration, |entry| {
            take_out(&mut entry.busy, id);
            entry.pinned.push(id);
        });
    }

    /// Returns true if a further request may be in flight to this name.
    pub(crate) fn may_ask(&self, name: &str) -> bool {
        self.entries.get(name).is_some_and(|e| e.in_flight() < self.limits.in_flight_per_device_max)
    }

    /// How many pinned links of a name should end (as many as callers lack, or as exceed the share
    /// of pinned links), and the one that was idle longest.
    pub(crate) fn surplus_pins(&self, name: &str) -> (usize, Option<Id>) {
        self.entries.get(name).map_or((0, None), |entry| {
            let most = (entry.links() - entry.links().div_ceil(PINNED_PART)).max(1);
            let wanted = entry.wants(self.limits.in_flight_per_device_max);
            let lacking = wanted.saturating_sub(entry.idle.0.len());
            let surplus = lacking.max(entry.pinned.len().saturating_sub(most));
            (surplus.min(entry.pinned.len()), entry.pinned.first().copied())
        })
    }

    /// Returns true if the role has to set the alarm for a name's pinned links, which then counts
    /// as set: callers may lack a link by then.
    pub(crate) fn wants_pin_alarm(&mut self, name: &str) -> bool {
        let has_surplus = self.surplus_pins(name).0 > 0;
        self.entries.get_mut(name).is_some_and(|entry| {
            let may_be_wanted = !entry.pinned.is_empty() && !entry.waiting.is_empty();
            (has_surplus || may_be_wanted) && !std::mem::replace(&mut entry.pin_alarm, true)
        })
    }

    /// That alarm went off.
    pub(crate) fn pin_alarm_over(&mut self, name: &str) {
        self.entries.get_mut(name).into_iter().for_each(|entry| entry.pin_alarm = false);
    }

    /// A busy link leaves the loop for program code.
    pub(crate) fn lease(&mut self, registration: &Registration, id: Id) {
        self.each(registration, |entry| {
            take_out(&mut entry.busy, id);
            entry.leases += 1;
        });
    }

    /// A leased link, or a reserved place, has ended.
    pub(crate) fn lease_ends(&mut self, registration: &Registration, now: Instant) -> Left {
        self.each(registration, |entry| entry.leases = entry.leases.saturating_sub(1));
        self.departures(registration, now)
    }

    /// A link of the loop has ended.
    pub(crate) fn leave(&mut self, registration: &Registration, id: Id, now: Instant) -> Left {
        self.each(registration, |entry| {
            if !entry.idle.take_out(id) && !take_out(&mut entry.pinned, id) {
                take_out(&mut entry.busy, id);
            }
        });
        self.departures(registration, now)
    }

    fn departures(&mut self, registration: &Registration, now: Instant) -> Left {
        let mut left = Left::default();
        for held in &registration.names {
            let name = &held.name;
            let there = |e: &&mut Entry| e.links() == 0 && e.lapsed.is_none();
            let Some(entry) = self.entries.held_mut(held).filter(there) else { continue };
            if let Some(mailbox) = &entry.mailbox {
                let transport = Transport::Comet(mailbox.encoding);
                if std::mem::replace(&mut entry.transport, transport) != transport {
                    left.moved.push((name.clone(), transport));
                }
                continue;
            }
            // The epoch ends with its last link, so that no link of it is counted twice.
            self.epochs += 1;
            entry.epoch = self.epochs;
            entry.since = now;
            self.home.owners.disconnect();
            self.home.owners.set_connected(name, false);
            self.home.owners.remember();
            entry.departed = Some(self.departed.insert(name.clone(), &entry.owner.credential, now));
            left.down.push(name.clone());
        }
        left
    }

    /// Records why a name is no longer connected.
    pub(crate) fn note_end(&mut self, name: &str, end: CloseCause) {
        if let Some(entry) = self.entries.get_mut(name).filter(|e| !e.is_connected()) {
            entry.end = Some(end);
        }
    }

    /// Why, and since when, a name is no longer connected.
    pub(crate) fn last_end(&self, name: &str) -> Option<(CloseCause, Instant)> {
        let entry = self.entries.get(name).filter(|e| !e.is_connected())?;
        Some((entry.end?, entry.since))
    }

    /// The idle links, and offers that are held, of this registration's session.
    pub(crate) fn idle_links(&self, registration: &Registration) -> Vec<Id> {
        let entries = registration.names.iter().filter_map(|held| self.entries.held(held));
        let theirs = |(id, session): &(Id, Option<Session>)| {
            (*session == registration.session).then_some(*id)
        };
        entries.flat_map(|entry| entry.idle.0.iter().filter_map(theirs)).collect()
    }

    /// The idle link of a name for the next request, if another request may be in flight there. The
    /// caller makes it busy. The time, if there is one, is how long to hold the request back, because
    /// this is the last idle link.
    pub(crate) fn next_idle(&mut self, name: &str, now: Instant) -> Option<(Id, Option<Duration>)> {
        let (shared, most) = (self.shared, self.limits.in_flight_per_device_max);
        let entry = self.entries.get_mut(name).filter(|e| e.in_flight() < most)?;
        let (id, session) = entry.idle.pick(shared, entry.last)?;
        entry.last = session;
        // Only a device with a session is told who waits; and another link must be admitted, and used.
        let may_grow = entry.in_flight() + 1 < most
            && entry.places() < self.limits.links_per_device()
            && session.is_some();
        let is_last = entry.idle.0.len() == 1 && entry.mailbox.is_none();
        let hold = if is_last && may_grow { entry.last_link.period(now) } else { None };
        Some((id, hold))
    }

    /// A request for one of these names was held back, and nobody else came.
    pub(crate) fn held_in_vain(&mut self, registration: &Registration, now: Instant) {
        self.each(registration, |entry| entry.last_link.rest(now));
    }

    /// Returns true if the name is connected, or was connected or expected within the last
    /// `remember`.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.entries.contains(name)
    }

    /// Makes a name known that was not: as if it had been connected until now.
    ///
    /// # Errors
    /// The loop of this number owns it.
    pub(crate) fn expect(&mut self, name: &str, now: Instant) -> Result<(), usize> {
        let name: Arc<str> = name.into();
        self.home.owners.own(&name, self.home.number)?;
        self.home.owners.remember();
        self.epochs += 1;
        let nobody = Owner {
            credential: None,
            session: None,
            token: None,
            certificate: None,
            airplay: false,
        };
        let mut entry = Entry::new(nobody, self.epochs, Transport::Turn, now);
        entry.departed = Some(self.departed.insert(name.clone(), &None, now));
        self.entries.get_or_insert(&name, || entry);
        Ok(())
    }

    /// Enqueues a caller that waits for a link. Returns false if as many wait as
    /// `waiting_per_device_max` allows, or if the name is unknown.
    pub(crate) fn enqueue(&mut self, name: &str, waiter: Waiter) -> bool {
        let most = self.limits.waiting_per_device_max;
        let Some(entry) = self.entries.get_mut(name).filter(|e| e.waiting.len() < most) else {
            return false;
        };
        entry.waiting.push_back(waiter);
        true
    }

    /// The part of the budget of whole messages for the device of this name. All names of a
    /// credential share it, so more names get no larger share.
    pub(crate) fn messages(&mut self, name: &str) -> Part {
        let entry = self.entries.get_mut(name);
        if let Some(part) = entry.as_ref().and_then(|entry| entry.part.upgrade()) {
            return part;
        }
        let credential = entry.as_ref().and_then(|entry| entry.owner.credential.as_deref());
        let key = credential.map_or_else(|| format!("name {name}"), |c| format!("credential {c}"));
        let part = self.home.owners.part(&key);
        entry.into_iter().for_each(|entry| entry.part = Arc::downgrade(&part));
        part
    }

    /// The caller that has waited longest under one of the names, for a link that has just become
    /// free and still counts as busy, or (`poll`) a poll, which does not.
    pub(crate) fn next_waiter(
        &mut self,
        registration: &Registration,
        poll: bool,
    ) -> Option<Waiter> {
        let most = self.limits.in_flight_per_device_max;
        let mut found = None;
        self.each(registration, |entry| {
            if found.is_none() && entry.in_flight() + usize::from(poll) <= most {
                found = entry.waiting.pop_front();
            }
        });
        found
    }

    /// How many callers wait for a name of a device with a session, while none of its links and
    /// polls is free: the device can dial as many (protocol.md §1.6). `taken` is the number of
    /// polls that still count as held and are about to be answered.
    pub(crate) fn demand(&self, registration: &Registration, taken: usize) -> usize {
        if registration.session.is_none() {
            return 0;
        }
        let entries = registration.names.iter().filter_map(|held| self.entries.held(held));
        let lacking = entries.filter(|entry| entry.free() <= taken);
        lacking.map(|entry| entry.wants(self.limits.in_flight_per_device_max)).sum()
    }

    pub(crate) fn callers_wait(&self, registration: &Registration) -> bool {
        registration
            .names()
            .any(|name| self.entries.get(name).is_some_and(|e| !e.waiting.is_empty()))
    }

    /// Removes a waiter.
    pub(crate) fn cancel_wait(&mut self, name: &str, waiter: Waiter) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.waiting.retain(|w| *w != waiter);
            if let Waiter::Exchange(key) = waiter {
                entry.again.retain(|(again, _)| *again != key);
            }
        }
    }

    /// Drops entries older than `remember`, and those beyond `remembered_max`. Names with waiting
    /// callers are checked again later.
    fn forget(&mut self, now: Instant) {
        let mut awaited = Vec::new();
        loop {
            let too_many = self.home.owners.remembered() > self.limits.remembered_max;
            let stamp =
                if too_many { self.departed.first_of_most() } else { self.departed.first() };
            let Some(stamp) = stamp else { break };
            if !too_many && now.saturating_duration_since(stamp.at()) < self.limits.remember {
                break;
            }
            let Some(name) = self.departed.remove(stamp) else { break };
            self.home.owners.forget();
            match self.entries.get(&name).map(|entry| !entry.is_awaited()) {
                Some(true) => {
                    self.entries.remove(&name);
                    self.home.owners.disown(&name);
                }
                Some(false) => awaited.push(name),
                None => {}
            }
        }
        for name in awaited {
            if let Some(entry) = self.entries.get_mut(&name) {
                self.home.owners.remember();
                entry.departed = Some(self.departed.insert(name, &entry.owner.credential, now));
            }
        }
    }

    /// Called regularly, so that a gateway without traffic forgets names, too.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.forget(now);
    }
}

/// Removes an element, looking from the end, where the newest are.
fn take_out(list: &mut Vec<Id>, id: Id) -> bool {
    let Some(at) = list.iter().rposition(|x| *x == id) else { return false };
    list.remove(at);
    if list.is_empty() {
        *list = Vec::new();
    }
    true
}
