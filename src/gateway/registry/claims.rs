//! Claims of names: a claim reserves a name, takes it over, or is denied; and how a name is given
//! up.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Instant;

use crate::engine::connections::Id;
use crate::gateway::bounds::Bound;
use crate::gateway::name_owners::Home;
use crate::gateway::registry::entry::Entry;
use crate::gateway::registry::last_link::LastLink;
use crate::gateway::registry::names::Held;
use crate::gateway::registry::{Owner, Registration, Registry, Session, Waiter};
use crate::proto::turn::Transport;

/// The result of a successful claim.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) registration: Arc<Registration>,
    /// Names that were not connected before.
    pub(crate) up: Vec<Arc<str>>,
    /// None of the names was known before.
    pub(crate) fresh: bool,
    /// Names whose transport has changed.
    pub(crate) moved: Vec<Arc<str>>,
    /// Names taken over from another session.
    pub(crate) replaced: Vec<Arc<str>>,
    /// Names that another session or credential had before, still connected or not: its events have
    /// failed.
    pub(crate) inherited: Vec<Arc<str>>,
    /// Idle links of replaced sessions: they get a goaway and are closed.
    pub(crate) idle: Vec<Id>,
    /// Their busy links, which are closed after the grace period.
    pub(crate) busy: Vec<Id>,
    /// Held polls of replaced sessions, which are refused.
    pub(crate) polls: Vec<Id>,
}

/// Why a claim failed, with the answer to the offer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(crate) status: u16,
    pub(crate) reason: &'static str,
    pub(crate) retry_after: Option<u64>,
    /// The bound that was reached, if it is one.
    pub(crate) bound: Option<Bound>,
}

impl Denied {
    pub(crate) fn new(status: u16, reason: &'static str, retry_after: Option<u64>) -> Self {
        Denied { status, reason, retry_after, bound: None }
    }

    fn by(bound: Bound, reason: &'static str, retry_after: u64) -> Self {
        Denied { bound: Some(bound), ..Denied::new(503, reason, Some(retry_after)) }
    }
}

/// The connections of a name that another loop gets.
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
    pub(super) fn status(&self) -> u16 {
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

impl Registry {
    /// Reserves a place for one link or poll under all `names`, or returns the answer to a refused
    /// offer. The place counts as leased until [`place`](Self::place), [`park`](Self::park) or
    /// [`lease_ends`](Self::lease_ends).
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
        let fresh = names.iter().all(|name| !self.entries.contains(name));
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
            let (place, epoch) = self.take(&name, owner, transport, now, &mut claimed);
            registration.push(Held { name, place, epoch });
        }
        let (session, token, certificate, airplay) =
            (owner.session, owner.token, owner.certificate.clone(), owner.airplay);
        claimed.registration =
            self.share(Registration { names: registration, session, token, certificate, airplay });
        self.each(&claimed.registration, |entry| {
            entry.leases += 1;
            entry.lapsed = None;
        });
        Ok(claimed)
    }

    /// Returns true if this owner would take a name over from another connected session.
    pub(crate) fn would_replace(&self, names: &[String], owner: &Owner) -> bool {
        names.iter().filter_map(|name| self.entries.get(name.as_str())).any(|entry| {
            entry.is_connected()
                && entry.owner.credential == owner.credential
                && entry.is_others(owner, self.shared)
        })
    }

    /// Returns true if an offer of this owner needs no claim in a table of several gateways: it has
    /// all of these names already, or gets none of them.
    pub(crate) fn needs_no_claim(&self, names: &[String], owner: &Owner, now: Instant) -> bool {
        let has = |name: &String| {
            let entry = self.entries.get(name.as_str()).filter(|entry| entry.is_connected());
            entry.is_some_and(|entry| entry.owner == *owner && !entry.revoked)
        };
        names.iter().all(has) || names.iter().any(|name| self.may_claim(name, owner, now).is_err())
    }

    /// Makes this loop the owner of names that it may have, and counts those that are not connected
    /// yet: all of them, or none.
    fn reserve(&self, names: &[&String]) -> Result<Vec<Arc<str>>, Unclaimed> {
        let Home { owners, number } = &self.home;
        let (mut reserved, mut own): (Vec<Arc<str>>, Vec<Arc<str>>) = (Vec::new(), Vec::new());
        let mut refused = None;
        for name in names {
            if let Some(known) = self.entries.known(name) {
                reserved.push(known.clone());
                continue;
            }
            let name: Arc<str> = name.as_str().into();
            match owners.own(&name, *number) {
                Ok(_) => own.push(name.clone()),
                Err(owner) => {
                    refused = Some(Unclaimed::Elsewhere(owner));
                    break;
                }
            }
            reserved.push(name);
        }
        let is_new =
            |name: &&Arc<str>| self.entries.get(name).is_none_or(|entry| !entry.is_connected());
        let new = reserved.iter().filter(is_new).count();
        if refused.is_none() && !owners.connect(new, self.limits.devices_max) {
            refused = Some(Unclaimed::Denied(Denied::by(
                Bound::Devices,
                "this gateway holds as many device names as devices_max allows",
                30,
            )));
        }
        match refused {
            None => Ok(reserved),
            Some(refused) => {
                own.iter().for_each(|name| owners.disown(name));
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
            return Err(Denied::new(409, "another credential holds this name", Some(60)));
        }
        if !self.shared && entry.owner.session != owner.session {
            let lately = |at: Instant| now.saturating_duration_since(at) < self.limits.remember;
            if entry
                .replaced
                .iter()
                .any(|(session, at)| Some(*session) == owner.session && lately(*at))
            {
                return Err(Denied::new(
                    409,
                    "a newer session of this device holds the name",
                    Some(60),
                ));
            }
        } else if entry.places() >= self.limits.links_per_device() {
            return Err(Denied::by(
                Bound::LinksPerDevice,
                "this device has as many links and polls as links_per_device_max allows",
                10,
            ));
        }
        Ok(())
    }

    /// Gives a name to an owner that may have it, and returns its place and its epoch.
    fn take(
        &mut self,
        name: &Arc<str>,
        owner: &Owner,
        transport: Transport,
        now: Instant,
        claimed: &mut Claimed,
    ) -> (usize, u64) {
        self.epochs += 1;
        let fresh = self.epochs;
        let new = || Entry::new(owner.clone(), fresh, transport, now);
        let (place, entry) = self.entries.get_or_insert(name, new);
        let other_owner = entry.is_others(owner, self.shared);
        if other_owner {
            claimed.inherited.push(name.clone());
        }
        if !entry.is_connected() {
            self.home.owners.set_connected(name, true);
            entry.since = now;
            entry.epoch = fresh;
            entry.registration = None;
            entry.owner = owner.clone();
            entry.part = Weak::new();
            entry.last_link = LastLink::default();
            entry.transport = transport;
            if let Some(stamp) = entry.departed.take() {
                self.departed.remove(stamp);
                self.home.owners.forget();
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
            entry.last_link = LastLink::default();
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
        entry.owner.certificate.clone_from(&owner.certificate); // a renewed one replaces the old one
        if let Some(holds) = owner.session {
            entry.replaced.retain(|(session, _)| *session != holds);
        }
        (place, entry.epoch)
    }

    /// Frees the names whose owners' credentials are no longer valid. The role ends their
    /// connections; a new owner need not wait for that.
    pub(crate) fn revoke(&mut self, revoked: impl Fn(&str, &Owner) -> bool) {
        self.entries.for_each_mut(|name, entry| {
            entry.revoked |= entry.is_connected() && revoked(name, &entry.owner);
        });
    }

    /// One `Registration` for all links with the same registration.
    fn share(&mut self, registration: Registration) -> Arc<Registration> {
        let Some(entry) = self.entries.get_mut(registration.name()) else {
            return Arc::new(registration);
        };
        match &entry.registration {
            Some(known) if **known == registration => known.clone(),
            _ => entry.registration.insert(Arc::new(registration)).clone(),
        }
    }

    /// Forgets names at once that are not connected and have no waiting callers.
    pub(crate) fn forget_names(&mut self, registration: &Registration) {
        for name in registration.names() {
            if self.entries.get(name).is_some_and(|e| !e.is_connected() && !e.is_awaited()) {
                let stamp = self.entries.remove(name).and_then(|entry| entry.departed);
                self.home.owners.disown(name);
                if stamp.and_then(|stamp| self.departed.remove(stamp)).is_some() {
                    self.home.owners.forget();
                }
            }
        }
    }

    /// Gives up a name that another owner has elsewhere, or will have in another loop (`to`, if
    /// known), and returns its connections. `None` if it is not here.
    pub(crate) fn give_up(
        &mut self,
        name: &str,
        to: Option<&Owner>,
        now: Instant,
    ) -> Option<Surrendered> {
        let mut entry = self.entries.remove(name)?;
        self.home.owners.disown(name);
        let was_connected = entry.is_connected();
        if was_connected {
            self.home.owners.disconnect();
        }
        if entry.departed.and_then(|stamp| self.departed.remove(stamp)).is_some() {
            self.home.owners.forget();
        }
        let is_replaced = was_connected && to.is_none_or(|to| entry.owner != *to);
        if let Some(session) = entry.owner.session.filter(|_| is_replaced) {
            entry.note_replaced(session, now);
        }
        let Entry { idle, pinned, busy, waiting, mailbox, replaced, .. } = entry;
        let polls = mailbox.into_iter().flat_map(|mailbox| mailbox.polls.ids());
        let free = idle.ids().chain(pinned).chain(polls).collect();
        Some(Surrendered { was_connected, free, busy, waiting, replaced })
    }

    /// Records that this session was replaced while another loop had this name.
    pub(crate) fn note_replaced(&mut self, name: &str, session: Session, at: Instant) {
        let entry = self.entries.get_mut(name);
        if let Some(entry) = entry.filter(|entry| entry.owner.session != Some(session)) {
            entry.note_replaced(session, at);
        }
    }
}
