//! An offer for names that different loops own. It visits these loops twice. First each of them
//! says whether the offer may have its names, so that a refused offer ends no link. Then all except
//! the one with the lowest number give theirs up, as in a take-over.

use std::sync::Arc;

use crate::close_reason::CloseCause;
use crate::engine::connections::{Connections, Id};
use crate::gateway::credentials::REVOKED;
use crate::gateway::loops::MOVED_TOO_OFTEN;
use crate::gateway::offer::{Grant, Offer};
use crate::gateway::registry::{Denied, Owner, Surrendered, Waiter};
use crate::gateway::state::{GatewayRole, Journey, State, States};
use crate::limits::MOVES_MAX;

const REGROUPED: &str = "its device registers it together with names of another event loop";

impl GatewayRole {
    /// Handles an offer for names of which another loop owns some. `Some` if it has to be decided
    /// again, here.
    pub(super) fn regroup(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        (offer, grant): (Offer, Grant),
        names: &[String],
        mut journey: Journey,
    ) -> Option<(Offer, Grant, Journey)> {
        let own = names.iter().any(|name| self.registry.knows(name));
        let mut others: Vec<usize> =
            names.iter().filter_map(|name| self.registry.elsewhere(name)).collect();
        others.sort_unstable();
        let (Some(first), Some(last)) = (others.first().copied(), others.last().copied()) else {
            // The other loop owned it a moment ago.
            journey.moves += 1;
            if journey.moves <= MOVES_MAX {
                return Some((offer, grant, journey));
            }
            self.deny_device(cx, id, 503, MOVED_TOO_OFTEN, Some(1));
            return None;
        };
        // `admit` has found nothing here against the offer.
        journey.agreed |= 1 << self.number;
        let unasked = others.iter().find(|number| journey.agreed >> **number & 1 == 0).copied();
        if unasked.is_none() && own && self.number > first {
            let owner = match self.owner_of(&offer, &grant, names) {
                Ok(owner) => owner,
                Err(denied) => {
                    self.deny_offer(cx, id, &offer, &denied);
                    return None;
                }
            };
            for name in names {
                let given_up = self.registry.give_up(name, Some(&owner), cx.now());
                let Some(surrendered) = given_up else { continue };
                let replaced = surrendered.replaced.iter();
                journey
                    .replaced
                    .extend(replaced.map(|(session, at)| (name.as_str().into(), *session, *at)));
                self.surrendered(cx, name, surrendered, REGROUPED);
            }
        }
        // The highest number first, so that each loop is visited once more.
        self.send_offer(cx, id, unasked.unwrap_or(last), (offer, grant), journey);
        None
    }

    /// This loop no longer owns a name: its connections end as in a take-over.
    pub(super) fn surrendered(
        &mut self,
        cx: &mut Connections<State>,
        name: &str,
        was: Surrendered,
        why: &'static str,
    ) {
        if was.was_connected {
            self.tell_down(name, &CloseCause::Replaced.because(why));
        }
        self.fail_events_of_name(cx, name, CloseCause::Replaced, why);
        for id in was.free {
            let registration = cx.registration(id);
            if registration.is_some_and(|registration| !self.registry.in_force(&registration)) {
                self.part(cx, id);
            }
        }
        let registry = &self.registry;
        let leases = self.leases.ids(|registration| !registry.in_force(registration));
        self.evict_later(cx, was.busy, leases);
        for waiter in was.waiting {
            match waiter {
                Waiter::Exchange(key) => self.give_up_moved(cx, key),
                Waiter::Caller(number) => self.caller_moved(number),
            }
        }
    }

    /// The owner that this offer would register for these names.
    pub(super) fn owner_of(
        &self,
        offer: &Offer,
        grant: &Grant,
        names: &[String],
    ) -> Result<Owner, Denied> {
        if offer.certificate.as_ref().is_some_and(|shown| self.credentials.is_void(shown)) {
            return Err(Denied::new(401, REVOKED, None));
        }
        let by_token = self.credentials.identity(offer, names)?;
        let credential = grant.credential.as_deref().map(Arc::from).or(by_token);
        Ok(Owner {
            credential,
            session: offer.wire.session,
            token: offer.token,
            certificate: offer.certificate.clone(),
            airplay: offer.wire.is_airplay(),
        })
    }
}
