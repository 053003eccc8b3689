//! The table that simulated gateways share, by the rules of [`claims`](crate::gateway::claims), on the
//! simulation's clock. It loses its data and fails when the simulation says so.

#[cfg(feature = "redis")]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::gateway::simulated::{
    Announced, Change, Claimant, Failed, Renewal, Renewed, SharedTable, Verdict,
};
use crate::sim::net::{self, Micros};

/// Sessions of a name that are known to be replaced.
const REPLACED_MAX: usize = 8;

#[derive(Clone, Debug)]
struct Claim {
    epoch: u64,
    expires: Micros,
    claimant: Claimant,
}

/// The data of a name.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Claims by the URLs of their gateways.
    claims: BTreeMap<String, Claim>,
    /// Replaced sessions, and until when they may not return.
    replaced: BTreeMap<Arc<str>, Micros>,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<String, Known>,
    last_epoch: u64,
    gateways: BTreeSet<String>,
    changes: Vec<Change>,
    away_until: Micros,
}

/// A table. Clones share its state.
#[derive(Clone, Debug)]
pub(super) struct Table {
    state: Arc<Mutex<State>>,
    shares: bool,
    claim_time: Micros,
    remember: Micros,
}

fn micros(time: Duration) -> Micros {
    time.as_micros() as Micros
}

fn now() -> Micros {
    net::with(|net| net.now)
}

impl Table {
    pub(super) fn new(shares: bool, claim_time: Duration, remember: Duration) -> Self {
        let (claim_time, remember) = (micros(claim_time), micros(remember));
        Table { state: Arc::default(), shares, claim_time, remember }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the changes that were not reported to the gateways yet.
    pub(super) fn take_changes(&self) -> Vec<Change> {
        std::mem::take(&mut self.lock().changes)
    }

    /// Makes it unavailable for this time.
    pub(super) fn go_away(&self, time: Micros) {
        let until = now() + time;
        let mut state = self.lock();
        state.away_until = state.away_until.max(until);
    }

    pub(super) fn come_back(&self) {
        self.lock().away_until = 0;
    }

    /// Restarts it without its data.
    pub(super) fn forget_all(&self) {
        let mut state = self.lock();
        *state = State { away_until: state.away_until, ..State::default() };
    }

    /// The gateways that have claims, each with a name.
    pub(super) fn claims(&self) -> Vec<(String, String)> {
        let mut state = self.lock();
        state.drop_expired(now());
        let of = |(name, known): (&String, &Known)| {
            known.claims.keys().map(|url| (url.clone(), name.clone())).collect::<Vec<_>>()
        };
        state.names.iter().flat_map(of).collect()
    }

    /// The state, if the table is available.
    fn ask(&self) -> Result<MutexGuard<'_, State>, Failed> {
        let (now, mut state) = (now(), self.lock());
        if state.away_until > now {
            return Err("the simulated table is away".into());
        }
        state.drop_expired(now);
        Ok(state)
    }
}

impl State {
    fn drop_expired(&mut self, now: Micros) {
        self.names.values_mut().for_each(|known| {
            known.claims.retain(|_, claim| claim.expires > now);
            known.replaced.retain(|_, until| *until > now);
        });
    }

    fn next_epoch(&mut self) -> u64 {
        // Larger than all earlier ones, also after a loss of data.
        self.last_epoch = (self.last_epoch + 1).max(now());
        self.last_epoch
    }

    fn publish(&mut self, name: &str, epoch: u64, gateway: &str, session: &str) {
        self.changes.push(Change {
            name: name.into(),
            epoch,
            gateway: gateway.into(),
            session: session.into(),
        });
    }
}

impl Known {
    /// Notes that a session has lost the name to a newer one.
    fn bar(&mut self, session: &Arc<str>, until: Micros) {
        if session.is_empty() {
            return;
        }
        if self.replaced.len() >= REPLACED_MAX && !self.replaced.contains_key(session) {
            let oldest = self.replaced.iter().min_by_key(|(_, at)| **at).map(|(s, _)| s.clone());
            oldest.and_then(|oldest| self.replaced.remove(&oldest));
        }
        self.replaced.insert(session.clone(), until);
    }

    /// Other sessions give way to this one. Returns true if there were any at the gateways that
    /// `counts` names.
    fn replace(
        &mut self,
        (by, claimant): (&str, &Claimant),
        until: Micros,
        counts: impl Fn(&str) -> bool,
    ) -> bool {
        let others: Vec<(String, Arc<str>)> = self
            .claims
            .iter()
            .filter(|(_, claim)| claim.claimant.session != claimant.session)
            .map(|(url, claim)| (url.clone(), claim.claimant.session.clone()))
            .collect();
        let mut changes = false;
        for (url, session) in others {
            self.bar(&session, until);
            changes |= counts(&url);
            if url != by {
                self.claims.remove(&url);
            }
        }
        changes
    }
}

impl SharedTable for Table {
    fn find(&self, names: &[&str]) -> Result<Vec<Vec<String>>, Failed> {
        let state = self.ask()?;
        let of = |name: &&str| {
            let known = state.names.get(*name);
            known.map(|known| known.claims.keys().cloned().collect()).unwrap_or_default()
        };
        Ok(names.iter().map(of).collect())
    }

    fn claim(&self, by: &str, names: &[String], claimant: &Claimant) -> Result<Verdict, Failed> {
        let (now, mut state) = (now(), self.ask()?);
        for known in names.iter().filter_map(|name| state.names.get(name)) {
            for (url, claim) in &known.claims {
                let is_other = claim.claimant.session != claimant.session;
                if url != by && claim.claimant.credential != claimant.credential {
                    return Ok(Verdict::Held);
                }
                if !self.shares && is_other && known.replaced.contains_key(&claimant.session) {
                    return Ok(Verdict::Newer);
                }
            }
        }
        let epoch = state.next_epoch();
        for name in names {
            let known = state.names.entry(name.clone()).or_default();
            let mut changes = !known.claims.contains_key(by);
            if !self.shares {
                changes |= known.replace((by, claimant), now + self.remember, |_| true);
            }
            known.replaced.remove(&claimant.session);
            let expires = now + self.claim_time;
            known.claims.insert(by.into(), Claim { epoch, expires, claimant: claimant.clone() });
            if changes {
                state.publish(name, epoch, by, &claimant.session);
            }
        }
        Ok(Verdict::Granted { epoch })
    }

    fn renew(&self, by: &str, claims: &[Renewal]) -> Result<Vec<Renewed>, Failed> {
        let (now, mut state) = (now(), self.ask()?);
        let renewed = claims.iter().map(|Renewal { name, epoch, claimant }| {
            let known = state.names.entry(name.to_string()).or_default();
            let own = known.claims.get(by).map(|claim| claim.epoch);
            let others = known.claims.iter().filter(|(url, _)| *url != by);
            let is_newer = |claim: &Claim| match epoch {
                0 => known.replaced.contains_key(&claimant.session),
                _ => claim.epoch > *epoch,
            };
            let verdicts = others.filter_map(|(_, claim)| {
                if claim.claimant.credential != claimant.credential {
                    return Some(Renewed::Held);
                }
                let is_other = claim.claimant.session != claimant.session;
                (!self.shares && is_other && is_newer(claim)).then_some(Renewed::Newer)
            });
            let verdict = verdicts.max_by_key(|verdict| *verdict == Renewed::Held);
            if let Some(verdict) = verdict {
                if own.is_some_and(|own| own <= *epoch) {
                    known.claims.remove(by);
                }
                if verdict == Renewed::Newer {
                    known.bar(&claimant.session, now + self.remember);
                }
                return verdict;
            }
            if let Some(own) = own.filter(|own| *own > *epoch && *epoch > 0) {
                return Renewed::Kept { epoch: own };
            }
            let mut changes = own.is_none() && *epoch == 0;
            let epoch = match epoch {
                0 => state.next_epoch(),
                epoch => {
                    if own.is_none() {
                        state.last_epoch = state.last_epoch.max(*epoch);
                    }
                    *epoch
                }
            };
            let known = state.names.entry(name.to_string()).or_default();
            if !self.shares {
                let until = now + self.remember;
                changes |= known.replace((by, claimant), until, |url| url != by);
            }
            let expires = now + self.claim_time;
            known.claims.insert(by.into(), Claim { epoch, expires, claimant: claimant.clone() });
            if changes {
                state.publish(name, epoch, by, &claimant.session);
            }
            Renewed::Kept { epoch }
        });
        Ok(renewed.collect())
    }

    fn release(&self, by: &str, claims: &[(Arc<str>, u64)]) -> Result<(), Failed> {
        let mut state = self.ask()?;
        for (name, epoch) in claims {
            let Some(known) = state.names.get_mut(&**name) else { continue };
            if known.claims.get(by).is_some_and(|claim| claim.epoch == *epoch) {
                known.claims.remove(by);
            }
        }
        Ok(())
    }

    fn announce(&self, by: &str, names: Option<usize>, _: bool) -> Result<Announced, Failed> {
        let mut state = self.ask()?;
        let is_new = match names {
            Some(_) => state.gateways.insert(by.to_owned()),
            None => {
                state.gateways.remove(by);
                false
            }
        };
        Ok(Announced { is_new, ..Announced::default() })
    }

    /// Not called: the simulation reports changes itself.
    fn listen(&self, _: &mut dyn FnMut(Option<Change>) -> bool) -> Result<(), Failed> {
        Err("the simulated table tells of changes by itself".into())
    }

    fn claim_time(&self) -> Duration {
        Duration::from_micros(self.claim_time)
    }
}
