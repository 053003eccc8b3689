//! Refused offers and polls: the responses instead of a 101 or an event.

use std::time::Instant;

use crate::engine::connections::{Connections, Id};
use crate::gateway::offer::Offer;
use crate::gateway::polls::reply::cors_fields;
use crate::gateway::registry::Denied;
use crate::gateway::state::{Device, GatewayRole, Hold, State, States};
use crate::proto::turn::{Name, STOPPING};
use crate::relay::LocalAnswer;

pub(super) const EARLY: &str =
    "bytes came after the offer or poll and before its answer; wait for the answer";
pub(super) const REPLACED: &str = "a newer session of this device holds the name";

impl GatewayRole {
    /// Refuses with a response that a listed page may read, and that is not cached.
    pub(super) fn deny(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        origin: Option<&str>,
        answer: &LocalAnswer<'_>,
    ) {
        let mut fields = answer.fields.to_vec();
        fields.push(("Cache-Control", "no-store"));
        fields.extend(cors_fields(origin));
        self.refuse(cx, id, &LocalAnswer { fields: &fields, ..answer.clone() });
    }

    /// Refuses an offer or a poll.
    pub(super) fn deny_device(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        status: u16,
        reason: &str,
        retry_after: Option<u64>,
    ) {
        let origin = self.origin_of(cx, id);
        self.deny(
            cx,
            id,
            origin.as_deref(),
            &LocalAnswer { retry_after, ..LocalAnswer::new(status, reason) },
        );
    }

    pub(super) fn origin_of(&self, cx: &Connections<State>, id: Id) -> Option<String> {
        match &cx.get(id)?.state {
            State::Device(Device::Deciding(head)) => head.origin.clone(),
            State::Device(Device::Held { hold: Hold::Poll(parked), .. }) => {
                parked.head.origin.clone()
            }
            State::Device(Device::PostedAnswer(posted)) => posted.head.origin.clone(),
            _ => None,
        }
    }

    /// Refuses a device because this gateway stops: redirects it to the gateway of `drain_to`, or
    /// asks it to come later.
    pub(super) fn send_away(&mut self, cx: &mut Connections<State>, id: Id) {
        // A held offer has only its 101, and no head.
        let head = cx.deciding(id).or(cx.parked(id).map(|parked| &parked.head));
        let target = head.map(|head| &head.target);
        let Some(location) = self
            .settings
            .drain_to
            .as_ref()
            .zip(target)
            .map(|(origin, target)| format!("{origin}{target}"))
        else {
            return self.deny_device(cx, id, 503, STOPPING, Some(self.away_for(cx.now())));
        };
        let origin = self.origin_of(cx, id);
        let fields = [("Location", location.as_str())];
        let answer = LocalAnswer {
            fields: &fields,
            ..LocalAnswer::new(307, "this gateway is stopping; another one takes this device")
        };
        self.deny(cx, id, origin.as_deref(), &answer);
    }

    /// The `Retry-After` of a stopping gateway: the rest of its notice, and some time for its
    /// successor to start.
    fn away_for(&self, now: Instant) -> u64 {
        let left = self.lifecycle.notice_left(now);
        if left.is_zero() { 5 } else { left.as_secs() + 1 }
    }

    /// Refuses a device's credential; a 401 contains a challenge.
    pub(super) fn deny_credential(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        origin: Option<&str>,
        answer: &LocalAnswer<'_>,
    ) {
        let fields = if answer.status == 401 {
            &[("WWW-Authenticate", "Bearer")][..]
        } else {
            answer.fields
        };
        self.deny(cx, id, origin, &LocalAnswer { fields, ..answer.clone() });
    }

    pub(super) fn deny_offer(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        offer: &Offer,
        denied: &Denied,
    ) {
        let owner = if denied.status == 409 { self.owner_here(cx, offer) } else { None };
        self.deny_held(cx, id, offer, denied, owner);
    }

    /// The address of the device that holds a name of this offer, and how long it has been
    /// connected.
    fn owner_here(&self, cx: &Connections<State>, offer: &Offer) -> Option<String> {
        let names = offer.names().iter().map(Name::to_string);
        names.into_iter().find_map(|name| {
            let (since, _, connection) = self.registry.presence(&name)?;
            let from = cx.get(connection?)?.stream().remote_ip()?;
            let seconds = cx.now().saturating_duration_since(since).as_secs();
            Some(format!("{name} is connected from {from}, for {seconds} s"))
        })
    }

    /// The same with the owner of the name, for the log.
    pub(super) fn deny_held(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        offer: &Offer,
        denied: &Denied,
        owner: Option<String>,
    ) {
        let (status, reason) = (denied.status, denied.reason);
        denied.bound.into_iter().for_each(|bound| self.stats.reached(bound));
        let owner = owner.map(|owner| format!(" ({owner})")).unwrap_or_default();
        log_names!(Info, "an offer for {} was refused: {status} {reason}{owner}", offer.whose());
        self.observe_refusal(Some(offer), offer.remote_ip(), (status, &format!("{reason}{owner}")));
        let origin = self.origin_of(cx, id);
        let answer =
            LocalAnswer { retry_after: denied.retry_after, ..LocalAnswer::new(status, reason) };
        self.deny_credential(cx, id, origin.as_deref(), &answer);
    }
}
