//! Claims names in a table that several gateways share, before a device is admitted, and handles
//! names that another gateway has taken over.

use std::sync::Arc;
use std::time::Instant;

use crate::engine::connections::{Connections, Id};
use crate::gateway::claims::Claimant;
use crate::gateway::follow_ups::FollowUp;
use crate::gateway::ledger::{ClaimGuard, Ledger, Rival};
use crate::gateway::peers::OtherOwner;
use crate::gateway::refusals::REPLACED;
use crate::gateway::registry::{Denied, Owner, Registration, Waiter};
use crate::gateway::state::{Claim, Command, GatewayRole, Granted, State, States};

const HELD_ELSEWHERE: &str = "another credential holds this name, at another gateway";
const TAKEN_OVER: &str = "a newer session of the device took the name over, at another gateway";

impl GatewayRole {
    fn ledger(&self) -> Option<&Arc<Ledger>> {
        self.peers.as_ref()?.cluster.ledger()
    }

    /// Begins to claim the names of an offer before the decision goes on. Returns `None` if it
    /// continues with `Command::Claimed`.
    pub(super) fn claim_first(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        mut granted: Granted,
        names: &[String],
    ) -> Option<Granted> {
        let Granted { offer, grant, journey } = &mut granted;
        let is_last = cx.deciding(id).is_some_and(|head| head.last);
        if self.ledger().is_none() || is_last || !matches!(journey.claim, Claim::None) {
            return Some(granted);
        }
        // Errors of the offer are reported later.
        let Ok(owner) = self.owner_of(offer, grant, names) else { return Some(granted) };
        if !self.has_to_claim(names, &owner, cx.now()) {
            return Some(granted);
        }
        journey.claim = Claim::Later;
        self.claims += 1;
        let (remote, number) = (self.remote.clone(), self.claims);
        let tell = move |claimed| {
            remote.send(Command::Claimed { id, number, claimed });
        };
        let cluster = self.peers.as_ref().map(|peers| peers.cluster.clone());
        let begun = cluster
            .is_some_and(|cluster| cluster.claim(names.to_vec(), Claimant::of(&owner), tell));
        if !begun {
            return Some(granted);
        }
        // A table that answers byte by byte could take for ever.
        let at = cx.after(self.settings.limits.directory_timeout);
        cx.set_deadline(id, Some(at));
        self.claiming.insert(id, (number, Box::new(granted)));
        None
    }

    /// Returns true if other gateways have to hear of this offer before it gets its names.
    pub(super) fn has_to_claim(&self, names: &[String], owner: &Owner, now: Instant) -> bool {
        let is_new = !names.is_empty() && !self.registry.needs_no_claim(names, owner, now);
        is_new && self.ledger().is_some()
    }

    /// The table's verdict on the names of an offer. `None` if it did not answer in time; then they
    /// are claimed later.
    pub(super) fn claimed(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        claimed: Option<Result<ClaimGuard, OtherOwner>>,
    ) -> Option<Granted> {
        let mut granted = *self.claiming.remove(&id)?.1;
        match claimed {
            None => {}
            Some(Ok(guard)) => granted.journey.claim = Claim::Made(guard),
            Some(Err(OtherOwner { rival, at })) => {
                let reason = match rival {
                    Rival::Session => REPLACED,
                    Rival::Credential => HELD_ELSEWHERE,
                };
                let denied = Denied::new(409, reason, Some(60));
                if cx.deciding(id).is_some() {
                    let owner = at.map(|url| format!("it is at {url}"));
                    self.deny_held(cx, id, &granted.offer, &denied, owner);
                }
                return None;
            }
        }
        Some(granted)
    }

    /// A device was admitted: this gateway holds its names, as far as they were claimed.
    pub(super) fn hold_names(&self, registration: &Registration, owner: &Owner, claim: Claim) {
        let Some(ledger) = self.ledger() else { return };
        let epoch = match claim {
            Claim::None => return,
            Claim::Later => 0,
            Claim::Made(guard) => guard.epoch(),
        };
        let claimant = Claimant::of(owner);
        registration.names().for_each(|name| ledger.hold(name, epoch, &claimant));
    }

    /// Another gateway has taken a name: its connections here end, as in a take-over. Waiting
    /// requests, including those of programs, look for the device again.
    pub(super) fn lost_name(
        &mut self,
        cx: &mut Connections<State>,
        name: &str,
        epoch: u64,
        to: Rival,
    ) {
        if !self.registry.knows(name) || !self.ledger().is_some_and(|l| l.is_lost(name, epoch)) {
            return; // another loop has it, or the device has returned meanwhile
        }
        let Some(mut was) = self.registry.give_up(name, None, cx.now()) else { return };
        for waiter in std::mem::take(&mut was.waiting) {
            match waiter {
                Waiter::Caller(number) => self.lease_mailbox(cx, number),
                Waiter::Exchange(key) => {
                    let visitor =
                        self.exchanges.get(key).and_then(|exchange| exchange.downstream());
                    self.follow_ups
                        .extend(visitor.map(|visitor| FollowUp::FindLink { visitor, key }));
                }
            }
        }
        let why = match to {
            Rival::Session => TAKEN_OVER,
            Rival::Credential => HELD_ELSEWHERE,
        };
        self.surrendered(cx, name, was, why);
    }
}
