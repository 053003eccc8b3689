//! Who is connected: names, the sessions that hold them, their idle links and held polls, and who
//! waits for one. Pure data, no socket.
//!
//! The rules of protocol.md §1.2 (*who belongs together*), §1.5 (*take-over*) and §2.1
//! (*connected*) are here and nowhere else.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::close_reason::CloseCause;
use crate::engine::budget::Part;
use crate::engine::connections::Id;
use crate::engine::departed::{Departed, Stamp};
use crate::engine::slab::Key;
use crate::gateway::directory::Home;
use crate::gateway::tokens::Digest;
use crate::limits::{Limits, PINNED_PART, REPLACED_MAX};
use crate::proto::turn::{Encoding, Transport};
use crate::stream::Shown;

/// 16 bytes that name one run of a device.
pub(crate) type Session = [u8; 16];

/// Who holds a name. Two are the same by credential and session, by whichever token they came in.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    /// Identity that the operator's `authorize` gave; `None`: nobody asked for one.
    pub(crate) credential: Option<Arc<str>>,
    /// `None`: the group of all offers without a session.
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

/// What one or more links are registered under. Shared by all links of one registration.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Registration {
    /// Names, each with the epoch of its owner: a take-over starts a new one.
    names: Vec<(Arc<str>, u64)>,
    /// Which of the devices that share its names it is.
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
        &self.names[0].0 // `claim` makes none without a name
    }
    /// Whether its answers may begin with `EVENT/1.0`.
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
        self.names.iter().map(|(name, _)| name)
    }
}

/// What a name has and wants at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) idle: usize,
    pub(crate) busy: usize,
    /// Polls that are held.
    pub(crate) polls: usize,
    /// Events in its hands.
    pub(crate) events: usize,
    /// Callers in line.
    pub(crate) waiting: usize,
}

/// Who waits for a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiter {
    /// A visitor's exchange.
    Exchange(Key),
    /// A program's `send()`, by its number.
    Caller(u64),
}

/// Links or polls that are free, newest last.
#[derive(Debug, Default)]
struct Pool(Vec<(Id, Option<Session>)>);

impl Pool {
    /// The newest; or, where devices share a name, the newest of the device whose turn it is: the
    /// next one behind `last`, in the order of their sessions.
    fn pick(&self, shared: bool, last: Option<Session>) -> Option<(Id, Option<Session>)> {
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

    fn ids(self) -> impl Iterator<Item = Id> {
        self.0.into_iter().map(|(id, _)| id)
    }

    /// Removes one, looking from the end, where the newest are.
    fn take_out(&mut self, id: Id) -> bool {
        let Some(at) = self.0.iter().rposition(|(x, _)| *x == id) else { return false };
        self.0.remove(at);
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
        true
    }
}

/// A name's mailbox: there from its first poll until `poll_gap` after the last one.
struct Mailbox {
    encoding: Encoding,
    /// Held polls.
    polls: Pool,
    /// When the last one ended.
    left: Instant,
    /// The sessions whose first poll was answered at once: one, or those that share the name, the
    /// latest `links_per_device_max` of them.
    greeted: VecDeque<Session>,
}

struct Entry {
    owner: Owner,
    /// The credential of its owner is no longer valid: any session may take the name.
    revoked: bool,
    epoch: u64,
    registration: Option<Arc<Registration>>,
    /// Idle links.
    idle: Pool,
    /// Links in the loop that are not idle.
    busy: Vec<Id>,
    /// Idle links that serve one visitor's connection each, the longest idle first.
    pinned: Vec<Id>,
    /// The role's alarm for those is set.
    pin_alarm: bool,
    /// Links that program code has, outside the loop, and places reserved.
    leases: usize,
    /// Boxed, since most names have links.
    mailbox: Option<Box<Mailbox>>,
    /// A held offer was answered that there is nothing, then, and the device is to offer again: it
    /// counts as connected for `poll_gap`, too.
    lapsed: Option<Instant>,
    /// The role's alarm for the mailbox's end is set. Of the name, not of the mailbox: whoever
    /// takes the name over again and again gets no second one.
    gap_alarm: bool,
    waiting: VecDeque<Waiter>,
    /// Exchanges whose event goes to the next poll of the session that was given it before, and to
    /// no link.
    again: VecDeque<(Key, Option<Session>)>,
    /// Events that were handed out and are not answered yet.
    events: usize,
    /// Those of them whose device has not closed the connection that brought them.
    present: usize,
    /// When the last of them has to be answered: until then the device may be at work on it, with
    /// all its polls.
    events_until: Option<Instant>,
    /// Which of the devices that share the name was asked last.
    last: Option<Session>,
    /// How it was last told to be connected.
    transport: Transport,
    /// When it was connected first, or not any more.
    since: Instant,
    /// Why it is not any more.
    end: Option<CloseCause>,
    /// Its place among those that are not connected.
    departed: Option<Stamp>,
    /// Sessions that were replaced, the latest last.
    replaced: Vec<(Session, Instant)>,
    /// What its owner takes of the budget of whole messages, once that was asked for.
    part: Weak<AtomicUsize>,
}

impl Entry {
    fn new(owner: Owner, epoch: u64, transport: Transport, since: Instant) -> Self {
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
            again: VecDeque::new(),
            transport,
            since,
            end: None,
            departed: None,
            replaced: Vec::new(),
            part: Weak::new(),
        }
    }

    fn links(&self) -> usize {
        self.idle.0.len() + self.busy.len() + self.pinned.len() + self.leases
    }

    /// Requests in flight, as `in_flight_per_device_max` bounds them. A heartbeat counts while it
    /// lasts.
    fn in_flight(&self) -> usize {
        self.busy.len() + self.leases + self.events
    }

    /// Another session has taken the name from this one.
    fn note_replaced(&mut self, session: Session, now: Instant) {
        self.replaced.retain(|(known, _)| *known != session);
        if self.replaced.len() >= REPLACED_MAX {
            self.replaced.remove(0);
        }
        self.replaced.push((session, now));
    }

    /// Idle links and held polls.
    fn free(&self) -> usize {
        self.idle.0.len() + self.mailbox.as_ref().map_or(0, |mailbox| mailbox.polls.0.len())
    }

    /// Returns true if the role has to set the alarm for `poll_gap`: it is not set already.
    fn begins_gap(&mut self) -> bool {
        !std::mem::replace(&mut self.gap_alarm, true)
    }

    fn is_awaited(&self) -> bool {
        !self.waiting.is_empty() || !self.again.is_empty()
    }

    /// What `links_per_device_max` bounds.
    fn places(&self) -> usize {
        self.links() + self.mailbox.as_ref().map_or(0, |m| m.polls.0.len())
    }

    /// Whether this owner would take the name from another session or credential.
    fn is_others(&self, owner: &Owner, shared: bool) -> bool {
        (!shared || self.revoked) && self.owner != *owner
    }

    fn is_connected(&self) -> bool {
        self.links() > 0 || self.mailbox.is_some() || self.lapsed.is_some()
    }
}

/// What a successful claim brought.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) registration: Arc<Registration>,
    /// Names that were not connected before.
    pub(crate) up: Vec<Arc<str>>,
    /// None of the names was known before.
    pub(crate) fresh: bool,
    /// Names that were connected, in another way.
    pub(crate) moved: Vec<Arc<str>>,
    /// Names taken over from another session.
    pub(crate) replaced: Vec<Arc<str>>,
    /// Names that another session or credential had before, connected still or not: what that one
    /// has in hand has failed.
    pub(crate) inherited: Vec<Arc<str>>,
    /// Idle links of replaced sessions: to be told and closed.
    pub(crate) idle: Vec<Id>,
    /// Busy ones: to be closed when their grace is over.
    pub(crate) busy: Vec<Id>,
    /// Held polls of replaced sessions: to be refused.
    pub(crate) polls: Vec<Id>,
}

/// What the end of a link or of a mailbox changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Names that are not connected any more.
    pub(crate) down: Vec<Arc<str>>,
    /// Names whose last link went while they poll.
    pub(crate) moved: Vec<(Arc<str>, Transport)>,
}

/// What is to be done about a mailbox that may have ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    /// Look again after so long.
    In(Duration),
    /// Nothing: a poll is held, or the mailbox is gone already.
    None,
    /// It has ended now; the device had so many events in hand.
    Over(Left, usize),
}

/// Why a claim failed: what to answer the offer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(crate) status: u16,
    pub(crate) reason: &'static str,
    pub(crate) retry_after: Option<u64>,
}

/// What there was of a name that another loop gets.
#[derive(Debug)]
pub(crate) struct Surrendered {
    pub(crate) was_connected: bool,
    /// Idle links and held polls.
    pub(crate) free: Vec<Id>,
    pub(crate) busy: Vec<Id>,
    pub(crate) waiting: VecDeque<Waiter>,
    /// Sessions that were replaced, now or before.
    pub(crate) replaced: Vec<(Session, Instant)>,
}

/// Why a claim failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unclaimed {
    Denied(Denied),
    /// The loop of this number owns one of the names.
    Elsewhere(usize),
}

#[cfg(test)]
impl Unclaimed {
    fn status(&self) -> u16 {
        match self {
            Unclaimed::Denied(denied) => denied.status,
            Unclaimed::Elsewhere(_) => 0,
        }
    }
}

impl From<Denied> for Unclaimed {
    fn from(denied: Denied) -> Self {
        Unclaimed::Denied(denied)
    }
}

/// The names that one loop owns.
pub(crate) struct Registry {
    limits: Arc<Limits>,
    /// Sessions of one credential share a name instead of taking it over.
    shared: bool,
    /// What the loops know of each other's names: an entry there for each one here.
    home: Home,
    entries: HashMap<Arc<str>, Entry>,
    /// Names whose last link went.
    departed: Departed,
    epochs: u64,
}

impl Drop for Registry {
    fn drop(&mut self) {
        // The loop has ended; others may have the names.
        for (name, entry) in &self.entries {
            self.home.directory.disown(name);
            if entry.is_connected() {
                self.home.directory.disconnect();
            }
        }
        for _ in 0..self.departed.len() {
            self.home.directory.forget();
        }
    }
}

impl Registry {
    /// The registry of the loop that is at home there.
    pub(crate) fn new(limits: Arc<Limits>, shared: bool, home: Home) -> Self {
        Registry {
            limits,
            shared,
            home,
            entries: HashMap::new(),
            departed: Departed::default(),
            epochs: 0,
        }
    }

    /// Other bounds, for what comes from now on.
    pub(crate) fn set_limits(&mut self, limits: Arc<Limits>) {
        self.limits = limits;
    }

    /// The registry of a loop that is alone.
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
        self.home.directory.connected()
    }

    /// The other loop that owns this name.
    pub(crate) fn elsewhere(&self, name: &str) -> Option<usize> {
        if self.entries.contains_key(name) {
            return None;
        }
        self.home.directory.owner(name).filter(|owner| *owner != self.home.number)
    }

    /// Whether any loop knows this name; whether its device is connected.
    pub(crate) fn is_known_anywhere(&self, name: &str) -> bool {
        self.entries.contains_key(name) || self.home.directory.owner(name).is_some()
    }

    /// Whether a device of this name is connected, to whichever loop.
    pub(crate) fn is_connected_anywhere(&self, name: &str) -> bool {
        match self.entries.get(name) {
            Some(entry) => entry.is_connected(),
            None => self.home.directory.is_connected(name),
        }
    }

    /// Whether a device of this name has a link here, or is connected to another loop.
    pub(crate) fn is_linked_anywhere(&self, name: &str) -> bool {
        match self.entries.get(name) {
            Some(entry) => entry.links() > 0,
            None => self.home.directory.is_connected(name),
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

    /// Reserves a place for one link or poll under all `names`, or says what to answer. The place
    /// counts as leased until [`place`](Self::place), [`park`](Self::park) or
    /// [`lend_ends`](Self::lend_ends).
    pub(crate) fn claim(
        &mut self,
        names: &[String],
        owner: &Owner,
        transport: Transport,
        now: Instant,
    ) -> Result<Claimed, Unclaimed> {
        self.forget(now);
        // A program may grant one name twice.
        let mut seen = HashSet::new();
        let names: Vec<&String> = names.iter().filter(|name| seen.insert(*name)).collect();
        for name in &names {
            self.may_claim(name, owner, now)?;
        }
        let fresh = names.iter().all(|name| !self.entries.contains_key(name.as_str()));
        let names = self.reserve(&names)?;
        let mut claimed = Claimed {
            registration: Arc::new(Registration {
                names: Vec::new(),
                session: None,
                token: None,
                certificate: None,
                airplay: false,
            }),
            up: Vec::new(),
            fresh,
            moved: Vec::new(),
            replaced: Vec::new(),
            inherited: Vec::new(),
            idle: Vec::new(),
            busy: Vec::new(),
            polls: Vec::new(),
        };
        let mut registration = Vec::with_capacity(names.len());
        for name in names {
            let epoch = self.take(&name, owner, transport, now, &mut claimed);
            registration.push((name, epoch));
        }
        let (session, token, certificate, airplay) =
            (owner.session, owner.token, owner.certificate.clone(), owner.airplay);
        claimed.registration =
            self.share(Registration { names: registration, session, token, certificate, airplay });
        for (name, _) in &claimed.registration.names {
            if let Some(entry) = self.entries.get_mut(name) {
                entry.leases += 1;
                entry.lapsed = None;
            }
        }
        Ok(claimed)
    }

    /// Whether this owner would take a name over from another session that is connected.
    pub(crate) fn would_replace(&self, names: &[String], owner: &Owner) -> bool {
        names.iter().filter_map(|name| self.entries.get(name.as_str())).any(|entry| {
            entry.is_connected()
                && entry.owner.credential == owner.credential
                && entry.is_others(owner, self.shared)
        })
    }

    /// Makes this loop the owner of names that it may have, and counts those that are not connected
    /// yet: all of them, or none.
    fn reserve(&self, names: &[&String]) -> Result<Vec<Arc<str>>, Unclaimed> {
        let Home { directory, number } = &self.home;
        let (mut reserved, mut own): (Vec<Arc<str>>, Vec<Arc<str>>) = (Vec::new(), Vec::new());
        let mut refused = None;
        for name in names {
            if let Some((known, _)) = self.entries.get_key_value(name.as_str()) {
                reserved.push(known.clone());
                continue;
            }
            let name: Arc<str> = name.as_str().into();
            match directory.own(&name, *number) {
                Ok(_) => own.push(name.clone()),
                Err(owner) => {
                    refused = Some(Unclaimed::Elsewhere(owner));
                    break;
                }
            }
            reserved.push(name);
        }
        let is_new =
            |name: &&Arc<str>| self.entries.get(*name).is_none_or(|entry| !entry.is_connected());
        let new = reserved.iter().filter(is_new).count();
        if refused.is_none() && !directory.connect(new, self.limits.devices_max) {
            refused = Some(Unclaimed::Denied(Denied {
                status: 503,
                reason: "this gateway holds as many device names as devices_max allows",
                retry_after: Some(30),
            }));
        }
        match refused {
            None => Ok(reserved),
            Some(refused) => {
                own.iter().for_each(|name| directory.disown(name));
                Err(refused)
            }
        }
    }

    fn may_claim(&self, name: &str, owner: &Owner, now: Instant) -> Result<(), Denied> {
        let Some(entry) = self.entries.get(name).filter(|e| e.is_connected()) else {
            return Ok(());
        };
        if entry.revoked && entry.owner != *owner {
            return Ok(());
        }
        if entry.owner.credential != owner.credential {
            return Err(Denied {
                status: 409,
                reason: "another credential holds this name",
                retry_after: Some(60),
            });
        }
        if !self.shared && entry.owner.session != owner.session {
            let lately = |at: Instant| now.saturating_duration_since(at) < self.limits.remember;
            if entry
                .replaced
                .iter()
                .any(|(session, at)| Some(*session) == owner.session && lately(*at))
            {
                return Err(Denied {
                    status: 409,
                    reason: "a newer session of this device holds the name",
                    retry_after: Some(60),
                });
            }
        } else if entry.places() >= self.limits.links_per_device() {
            return Err(Denied {
                status: 503,
                reason: "this device has as many links and polls as links_per_device_max allows",
                retry_after: Some(10),
            });
        }
        Ok(())
    }

    fn take(
        &mut self,
        name: &Arc<str>,
        owner: &Owner,
        transport: Transport,
        now: Instant,
        claimed: &mut Claimed,
    ) -> u64 {
        self.epochs += 1;
        let fresh = self.epochs;
        let entry = self
            .entries
            .entry(name.clone())
            .or_insert_with(|| Entry::new(owner.clone(), fresh, transport, now));
        let other_owner = entry.is_others(owner, self.shared);
        if other_owner {
            claimed.inherited.push(name.clone());
        }
        if !entry.is_connected() {
            self.home.directory.set_connected(name, true);
            entry.since = now;
            entry.epoch = fresh;
            entry.registration = None;
            entry.owner = owner.clone();
            entry.part = Weak::new();
            entry.transport = transport;
            if let Some(stamp) = entry.departed.take() {
                self.departed.remove(stamp);
                self.home.directory.forget();
            }
            claimed.up.push(name.clone());
        } else if other_owner {
            entry.epoch = fresh;
            entry.registration = None;
            claimed.replaced.push(name.clone());
            claimed.idle.extend(std::mem::take(&mut entry.idle).ids());
            claimed.idle.append(&mut entry.pinned);
            claimed.busy.append(&mut entry.busy);
            claimed.polls.extend(entry.mailbox.take().into_iter().flat_map(|m| m.polls.ids()));
            (entry.leases, entry.lapsed) = (0, None);
            entry.transport = transport;
            let old = std::mem::replace(&mut entry.owner, owner.clone());
            entry.part = Weak::new();
            if let Some(session) = old.session {
                entry.note_replaced(session, now);
            }
        } else if entry.transport != transport
            && (transport == Transport::Turn || entry.links() == 0)
        {
            entry.transport = transport;
            claimed.moved.push(name.clone());
        }
        if std::mem::take(&mut entry.revoked) {
            entry.owner.token = owner.token;
        }
        entry.owner.certificate.clone_from(&owner.certificate); // a renewed one takes the old one's place
        if let Some(holds) = owner.session {
            entry.replaced.retain(|(session, _)| *session != holds);
        }
        entry.epoch
    }

    /// Lets go of the names whose owners' credentials are no longer valid. What they have is
    /// the role's to end; nobody has to wait for that.
    pub(crate) fn revoke(&mut self, revoked: impl Fn(&str, &Owner) -> bool) {
        for (name, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.is_connected()) {
            entry.revoked |= revoked(name, &entry.owner);
        }
    }

    /// One `Registration` for all links that are registered alike.
    fn share(&mut self, registration: Registration) -> Arc<Registration> {
        let Some(entry) = self.entries.get_mut(registration.name()) else {
            return Arc::new(registration);
        };
        match &entry.registration {
            Some(known) if **known == registration => known.clone(),
            _ => entry.registration.insert(Arc::new(registration)).clone(),
        }
    }

    /// Whether a registration is still in force under at least one of its names.
    pub(crate) fn in_force(&self, registration: &Registration) -> bool {
        registration.names.iter().any(|(name, epoch)| {
            self.entries.get(name).is_some_and(|e| e.epoch == *epoch && e.is_connected())
        })
    }

    fn each(&mut self, registration: &Registration, mut f: impl FnMut(&mut Entry)) {
        for (name, epoch) in &registration.names {
            if let Some(entry) = self.entries.get_mut(name).filter(|e| e.epoch == *epoch) {
                f(entry);
            }
        }
    }

    /// A reserved or leased link comes (back) into the loop, busy.
    pub(crate) fn place(&mut self, registration: &Registration, id: Id) {
        self.each(registration, |entry| {
            entry.leases = entry.leases.saturating_sub(1);
            entry.busy.push(id);
        });
    }

    /// A busy link is idle.
    pub(crate) fn set_idle(&mut self, registration: &Registration, id: Id) {
        self.each(registration, |entry| {
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

    /// A busy link is idle, and serves one visitor's connection alone: it is nobody else's.
    pub(crate) fn set_pinned(&mut self, registration: &Registration, id: Id) {
        self.each(registration, |entry| {
            take_out(&mut entry.busy, id);
            entry.pinned.push(id);
        });
    }

    /// Whether one request more may be in flight to this name.
    pub(crate) fn may_ask(&self, name: &str) -> bool {
        self.entries.get(name).is_some_and(|e| e.in_flight() < self.limits.in_flight_per_device_max)
    }

    /// How many pinned links of a name should go, and the one that was idle longest: as many as
    /// callers wait, or as are more than its share.
    pub(crate) fn surplus_pins(&self, name: &str) -> (usize, Option<Id>) {
        self.entries.get(name).map_or((0, None), |entry| {
            let most = (entry.links() - entry.links().div_ceil(PINNED_PART)).max(1);
            let surplus = entry.waiting.len().max(entry.pinned.len().saturating_sub(most));
            (surplus.min(entry.pinned.len()), entry.pinned.first().copied())
        })
    }

    /// Whether the role has to set the alarm that looks at a name's pinned links; then it counts as
    /// set.
    pub(crate) fn wants_pin_alarm(&mut self, name: &str) -> bool {
        let wants = self.surplus_pins(name).0 > 0;
        self.entries
            .get_mut(name)
            .is_some_and(|entry| wants && !std::mem::replace(&mut entry.pin_alarm, true))
    }

    /// That alarm went off.
    pub(crate) fn pin_alarm_over(&mut self, name: &str) {
        self.entries.get_mut(name).into_iter().for_each(|entry| entry.pin_alarm = false);
    }

    /// A busy link leaves the loop for program code.
    pub(crate) fn lend(&mut self, registration: &Registration, id: Id) {
        self.each(registration, |entry| {
            take_out(&mut entry.busy, id);
            entry.leases += 1;
        });
    }

    /// A reserved place is a held poll's now. True: it is the first poll of its session, which is
    /// to be answered at once.
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

    /// A held poll is answered or gone. The names for which the role has to look at `poll_gap` from
    /// now.
    pub(crate) fn unpark(
        &mut self,
        registration: &Registration,
        id: Id,
        now: Instant,
    ) -> Vec<Arc<str>> {
        let mut alarms = Vec::new();
        for (name, epoch) in &registration.names {
            let Some(entry) = self.entries.get_mut(name).filter(|e| e.epoch == *epoch) else {
                continue;
            };
            let Some(mailbox) = &mut entry.mailbox else { continue };
            mailbox.polls.take_out(id);
            mailbox.left = now;
            if mailbox.polls.0.is_empty() && entry.begins_gap() {
                alarms.push(name.clone());
            }
        }
        alarms
    }

    /// A held offer was answered that there is nothing. The names for which the role has to look at
    /// `poll_gap` from now.
    pub(crate) fn lapse(
        &mut self,
        registration: &Registration,
        id: Id,
        now: Instant,
    ) -> Vec<Arc<str>> {
        let mut alarms = Vec::new();
        for (name, epoch) in &registration.names {
            let Some(entry) = self.entries.get_mut(name).filter(|e| e.epoch == *epoch) else {
                continue;
            };
            entry.idle.take_out(id);
            entry.lapsed = Some(now);
            if entry.begins_gap() {
                alarms.push(name.clone());
            }
        }
        alarms
    }

    /// Whether a mailbox has been without a poll, or a device without an offer, for `poll_gap`;
    /// then it ends. While events that it was given may be answered still, all its polls may be at
    /// work, and it stays: at most as long as somebody waits for one of them.
    pub(crate) fn poll_gap(&mut self, name: &Arc<str>, now: Instant) -> Gap {
        let gap = self.limits.poll_gap;
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
            names: vec![(name.clone(), entry.epoch)],
            session: None,
            token: None,
            certificate: None,
            airplay: false,
        };
        Gap::Over(self.departures(&registration, now), in_hand)
    }

    /// The held poll of a name that is next to be answered, where another request may be in flight
    /// there.
    pub(crate) fn next_poll(&mut self, name: &str) -> Option<Id> {
        let (shared, most) = (self.shared, self.limits.in_flight_per_device_max);
        let entry = self.entries.get_mut(name).filter(|e| e.in_flight() < most)?;
        let (id, session) = entry.mailbox.as_ref()?.polls.pick(shared, entry.last)?;
        entry.last = session;
        Some(id)
    }

    /// The newest held poll of the session that was given an event before: devices that share a
    /// name know nothing of each other's. The event is in flight already, so the bound is not
    /// asked.
    pub(crate) fn poll_again(&self, name: &str, session: Option<Session>) -> Option<Id> {
        let polls = &self.entries.get(name)?.mailbox.as_ref()?.polls.0;
        polls.iter().rfind(|(_, theirs)| *theirs == session).map(|(id, _)| *id)
    }

    /// Whether a poll is held under one of the names.
    pub(crate) fn holds_poll(&self, registration: &Registration) -> bool {
        registration.names.iter().any(|(name, epoch)| {
            let entry = self.entries.get(name).filter(|e| e.epoch == *epoch);
            entry
                .and_then(|e| e.mailbox.as_ref())
                .is_some_and(|mailbox| !mailbox.polls.0.is_empty())
        })
    }

    /// An event was handed out under this name, and has to be answered by then.
    pub(crate) fn event_begins(&mut self, name: &str, until: Instant) {
        if let Some(entry) = self.entries.get_mut(name) {
            (entry.events, entry.present) = (entry.events + 1, entry.present + 1);
            entry.events_until = entry.events_until.max(Some(until));
        }
    }

    /// The device closed the connection that brought the event: that it has one in hand does not
    /// show any more that it is there.
    pub(crate) fn event_deserted(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.present = entry.present.saturating_sub(1);
        }
    }

    /// An event like that was handed out once more.
    pub(crate) fn event_is_back(&mut self, name: &str) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.present += 1;
        }
    }

    /// It is answered, or given up; `present`: unless deserted before. True: callers may have
    /// waited for just that.
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

    /// Whether a name has a mailbox: a poll is held, or was less than `poll_gap` ago.
    pub(crate) fn is_polling(&self, name: &str) -> bool {
        self.entries.get(name).is_some_and(|e| e.mailbox.is_some())
    }

    /// An event that was handed out before goes to the next poll of that session.
    pub(crate) fn requeue(&mut self, name: &str, key: Key, session: Option<Session>) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.again.push_back((key, session));
        }
    }

    /// The event that has waited longest to be handed out once more to this session, under one of
    /// the names.
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

    /// A leased link, or a reserved place, is gone.
    pub(crate) fn lend_ends(&mut self, registration: &Registration, now: Instant) -> Left {
        self.each(registration, |entry| entry.leases = entry.leases.saturating_sub(1));
        self.departures(registration, now)
    }

    /// Forgets names at once that are not connected and for which nobody waits.
    pub(crate) fn forget_names(&mut self, registration: &Registration) {
        for name in registration.names() {
            if self.entries.get(name).is_some_and(|e| !e.is_connected() && !e.is_awaited()) {
                let stamp = self.entries.remove(name).and_then(|entry| entry.departed);
                self.home.directory.disown(name);
                if stamp.and_then(|stamp| self.departed.remove(stamp)).is_some() {
                    self.home.directory.forget();
                }
            }
        }
    }

    /// Gives up a name that is to be another loop's, with what there is of it; `None`: it is not
    /// here.
    ///
    /// # Errors
    /// This holder may not have it.
    pub(crate) fn surrender(
        &mut self,
        name: &str,
        to: &Owner,
        now: Instant,
    ) -> Result<Option<Surrendered>, Denied> {
        self.may_claim(name, to, now)?;
        let Some(mut entry) = self.entries.remove(name) else { return Ok(None) };
        self.home.directory.disown(name);
        let was_connected = entry.is_connected();
        if was_connected {
            self.home.directory.disconnect();
        }
        if entry.departed.and_then(|stamp| self.departed.remove(stamp)).is_some() {
            self.home.directory.forget();
        }
        if let Some(session) = entry.owner.session.filter(|_| was_connected && entry.owner != *to) {
            entry.note_replaced(session, now);
        }
        let Entry { idle, pinned, busy, waiting, mailbox, replaced, .. } = entry;
        let polls = mailbox.into_iter().flat_map(|mailbox| mailbox.polls.ids());
        let free = idle.ids().chain(pinned).chain(polls).collect();
        Ok(Some(Surrendered { was_connected, free, busy, waiting, replaced }))
    }

    /// Another loop had this name, and there this session was replaced.
    pub(crate) fn note_replaced(&mut self, name: &str, session: Session, at: Instant) {
        let entry = self.entries.get_mut(name);
        if let Some(entry) = entry.filter(|entry| entry.owner.session != Some(session)) {
            entry.note_replaced(session, at);
        }
    }

    /// A link of the loop is gone.
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
        for (name, epoch) in &registration.names {
            let there = |e: &&mut Entry| e.epoch == *epoch && e.links() == 0 && e.lapsed.is_none();
            let Some(entry) = self.entries.get_mut(name).filter(there) else { continue };
            if let Some(mailbox) = &entry.mailbox {
                let transport = Transport::Comet(mailbox.encoding);
                if std::mem::replace(&mut entry.transport, transport) != transport {
                    left.moved.push((name.clone(), transport));
                }
                continue;
            }
            // The epoch ends with its last link, so that nothing of it is counted twice.
            self.epochs += 1;
            entry.epoch = self.epochs;
            entry.since = now;
            self.home.directory.disconnect();
            self.home.directory.set_connected(name, false);
            self.home.directory.remember();
            entry.departed = Some(self.departed.insert(name.clone(), &entry.owner.credential, now));
            left.down.push(name.clone());
        }
        left
    }

    /// Why a name is not connected any more.
    pub(crate) fn note_end(&mut self, name: &str, end: CloseCause) {
        if let Some(entry) = self.entries.get_mut(name).filter(|e| !e.is_connected()) {
            entry.end = Some(end);
        }
    }

    /// Why, and since when, a name that was connected is not any more.
    pub(crate) fn last_end(&self, name: &str) -> Option<(CloseCause, Instant)> {
        let entry = self.entries.get(name).filter(|e| !e.is_connected())?;
        Some((entry.end?, entry.since))
    }

    /// The idle link of a name that is next to be asked, where another request may be in flight
    /// there; the caller makes it busy.
    pub(crate) fn next_idle(&mut self, name: &str) -> Option<Id> {
        let (shared, most) = (self.shared, self.limits.in_flight_per_device_max);
        let entry = self.entries.get_mut(name).filter(|e| e.in_flight() < most)?;
        let (id, session) = entry.idle.pick(shared, entry.last)?;
        entry.last = session;
        Some(id)
    }

    /// Whether the name has, or within the last `remember` had, a link, or was expected to have
    /// one.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Makes a name known that was not: as if it had been connected until now.
    ///
    /// # Errors
    /// The loop of this number owns it.
    pub(crate) fn expect(&mut self, name: &str, now: Instant) -> Result<(), usize> {
        let name: Arc<str> = name.into();
        self.home.directory.own(&name, self.home.number)?;
        self.home.directory.remember();
        self.epochs += 1;
        let mut entry = Entry::new(
            Owner {
                credential: None,
                session: None,
                token: None,
                certificate: None,
                airplay: false,
            },
            self.epochs,
            Transport::Turn,
            now,
        );
        entry.departed = Some(self.departed.insert(name.clone(), &None, now));
        self.entries.insert(name, entry);
        Ok(())
    }

    /// Lines up for a link. False: as many wait as `waiting_per_device_max` allows, or nobody knows
    /// the name.
    pub(crate) fn enqueue(&mut self, name: &str, waiter: Waiter) -> bool {
        let most = self.limits.waiting_per_device_max;
        let Some(entry) = self.entries.get_mut(name).filter(|e| e.waiting.len() < most) else {
            return false;
        };
        entry.waiting.push_back(waiter);
        true
    }

    /// What the device of this name takes of the budget of whole messages, together with all that
    /// its credential let in: more names are no larger share.
    pub(crate) fn messages(&mut self, name: &str) -> Part {
        let entry = self.entries.get_mut(name);
        if let Some(part) = entry.as_ref().and_then(|entry| entry.part.upgrade()) {
            return part;
        }
        let credential = entry.as_ref().and_then(|entry| entry.owner.credential.as_deref());
        let key = credential.map_or_else(|| format!("name {name}"), |c| format!("credential {c}"));
        let part = self.home.directory.part(&key);
        entry.into_iter().for_each(|entry| entry.part = Arc::downgrade(&part));
        part
    }

    /// Whoever waits longest under one of the names for what has just become free: a link, which
    /// still counts as busy, or (`poll`) a poll, which does not.
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
    /// polls is free: it can dial as many (protocol.md §1.6). `taken`: polls that still count as
    /// held and are about to be answered.
    pub(crate) fn demand(&self, registration: &Registration, taken: usize) -> usize {
        if registration.session.is_none() {
            return 0;
        }
        let entries = registration.names.iter().filter_map(|(name, epoch)| {
            self.entries.get(name).filter(|entry| entry.epoch == *epoch)
        });
        let wanting = entries.filter(|entry| !entry.waiting.is_empty() && entry.free() <= taken);
        wanting.map(|entry| entry.waiting.len()).sum()
    }

    pub(crate) fn callers_wait(&self, registration: &Registration) -> bool {
        registration
            .names()
            .any(|name| self.entries.get(name).is_some_and(|e| !e.waiting.is_empty()))
    }

    /// A waiter waits no longer.
    pub(crate) fn cancel_wait(&mut self, name: &str, waiter: Waiter) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.waiting.retain(|w| *w != waiter);
            if let Waiter::Exchange(key) = waiter {
                entry.again.retain(|(again, _)| *again != key);
            }
        }
    }

    /// Drops what is older than `remember`, and what is beyond `remembered_max`. Names that
    /// somebody waits for are looked at again later.
    fn forget(&mut self, now: Instant) {
        let mut awaited = Vec::new();
        loop {
            let too_many = self.home.directory.remembered() > self.limits.remembered_max;
            let stamp =
                if too_many { self.departed.first_of_most() } else { self.departed.first() };
            let Some(stamp) = stamp else { break };
            if !too_many && now.saturating_duration_since(stamp.at()) < self.limits.remember {
                break;
            }
            let Some(name) = self.departed.remove(stamp) else { break };
            self.home.directory.forget();
            match self.entries.get(&name).map(|entry| !entry.is_awaited()) {
                Some(true) => {
                    self.entries.remove(&name);
                    self.home.directory.disown(&name);
                }
                Some(false) => awaited.push(name),
                None => {}
            }
        }
        for name in awaited {
            if let Some(entry) = self.entries.get_mut(&name) {
                self.home.directory.remember();
                entry.departed = Some(self.departed.insert(name, &entry.owner.credential, now));
            }
        }
    }

    /// Called now and then so that a quiet gateway forgets, too.
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

#[cfg(test)]
mod tests;
