//! Ends connections whose token or certificate is no longer valid.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use crate::close_reason::CloseCause;
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::error::{Error, Fault, Refusal};
use crate::gateway::alarms::Alarm;
use crate::gateway::credentials::REVOKED;
use crate::gateway::leases::LeaseId;
use crate::gateway::refusals::REPLACED;
use crate::gateway::registry::Registration;
use crate::gateway::state::{Device, GatewayRole, State, States, TICK};
use crate::gateway::tokens::{CHALLENGES, Tokens, Whose};
use crate::relay::LocalAnswer;
use crate::stream::{Shown, ShownKey};

const VOID: &str = "the certificate that was shown has expired, or its CA was replaced";

impl GatewayRole {
    /// Replaces a table, and returns the old one.
    ///
    /// # Errors
    /// The gateway was started without such a table: connected devices have no token that could be
    /// checked now.
    pub(super) fn set_tokens(
        &mut self,
        cx: &mut Connections<State>,
        whose: Whose,
        new: Arc<Tokens>,
    ) -> Result<Arc<Tokens>, Error> {
        let old = self.credentials.replace(whose, new)?;
        if let Whose::Devices = whose {
            if self.credentials.have_origins() {
                self.origins.store(true, Relaxed);
            }
            self.end_revoked(cx);
        } else {
            self.end_revoked_visitors(cx);
        }
        Ok(old)
    }

    /// Visitors' exchanges with a token that is no longer valid, above all tunnels, end after
    /// `take_over_grace`. Their next request is refused anyway.
    fn end_revoked_visitors(&mut self, cx: &mut Connections<State>) {
        let mut ended = Vec::new();
        for id in cx.ids() {
            if let Some(visitor) = cx.visitor(id) {
                ended.extend(
                    visitor
                        .token()
                        .filter(|(_, name, digest)| !self.credentials.visitor_may(digest, name))
                        .map(|(key, ..)| key),
                );
            }
        }
        if !ended.is_empty() {
            log::info!(
                "requests and tunnels are ended, for the visitor's token is no longer valid: {}",
                ended.len()
            );
            let at = cx.after(self.settings.limits.take_over_grace);
            self.set_alarm(cx, at, Alarm::EvictVisitors(ended));
        }
    }

    /// The grace period of visitors' revoked tokens and certificates has expired.
    pub(super) fn evict_visitors(&mut self, cx: &mut Connections<State>, exchanges: Vec<Key>) {
        const WHY: &str = "the token of its request was revoked, and take_over_grace has expired";
        for key in exchanges {
            let downstream = self.exchanges.get(key).and_then(|exchange| exchange.downstream());
            let Some((id, visitor)) = downstream.and_then(|id| Some((id, cx.visitor(id)?))) else {
                continue;
            };
            if self.is_void_visitor(cx, id) {
                let error = Some("http_request_denied");
                let answer = LocalAnswer { error, ..LocalAnswer::new(403, VOID) };
                self.end_exchange_with(cx, key, CloseCause::CallerGone.because(VOID), &answer);
                continue;
            }
            if visitor
                .token()
                .is_some_and(|(_, name, digest)| !self.credentials.visitor_may(digest, name))
            {
                let answer = LocalAnswer {
                    error: Some("http_request_denied"),
                    fields: &CHALLENGES,
                    ..LocalAnswer::new(401, WHY)
                };
                self.end_exchange_with(cx, key, CloseCause::CallerGone.because(WHY), &answer);
            }
        }
    }

    /// Records the certificates at a listener that its new CA does not accept, and returns those of
    /// connections that were on their way to this loop when it was asked for what it has.
    pub(super) fn refuse_certificates(
        &mut self,
        cx: &mut Connections<State>,
        listener: usize,
        refused: HashSet<ShownKey>,
    ) -> Vec<Arc<Shown>> {
        let arrived = self.credentials.refuse(listener, refused);
        self.end_revoked(cx);
        self.end_void_visitors(cx);
        arrived
    }

    /// Ends connections of other gateways and visitors whose certificate is no longer valid: at
    /// once if nothing is in progress, else after `take_over_grace`.
    fn end_void_visitors(&mut self, cx: &mut Connections<State>) {
        let (mut busy, mut idle) = (Vec::new(), Vec::new());
        for id in cx.ids() {
            if self.is_void_visitor(cx, id) {
                match cx.asking(id) {
                    Some(asking) => busy.push(asking.key),
                    None => idle.push(id),
                }
            }
        }
        if busy.is_empty() && idle.is_empty() {
            return;
        }
        log::info!(
            "{} connections of other gateways or visitors are ended: {VOID}",
            busy.len() + idle.len()
        );
        idle.into_iter().for_each(|id| cx.close(id));
        for key in &busy {
            self.exchanges.get_mut(*key).into_iter().for_each(|exchange| exchange.last_of_caller());
        }
        if !busy.is_empty() {
            let at = cx.after(self.settings.limits.take_over_grace);
            self.set_alarm(cx, at, Alarm::EvictVisitors(busy));
        }
    }

    /// Ends connections whose token or certificate has expired, and schedules the expiry of the
    /// next certificate. Tokens have a last day, so their expiry need not be exact to the second.
    pub(super) fn end_expired(&mut self, cx: &mut Connections<State>) {
        let now = SystemTime::now();
        if self.credentials.have_expired(now) {
            self.end_revoked(cx);
            self.end_revoked_visitors(cx);
        }
        if self.next_expiry.is_some_and(|at| at <= now) {
            self.end_revoked(cx);
            self.end_void_visitors(cx);
            let connected = cx.ids().into_iter().filter_map(|id| match &cx.get(id)?.state {
                State::Device(device) => Some(device.registration()?.certificate()?.expires()),
                State::Visitor(_) => Some(cx.get(id)?.stream().certificate()?.expires()),
                _ => None,
            });
            let leases = self
                .leases
                .registrations()
                .filter_map(|registration| Some(registration.certificate()?.expires()));
            self.next_expiry = connected.chain(leases).filter(|at| *at > now).min();
        }
        // For times beyond the next tick, the wall clock may be changed meanwhile.
        let soon = self
            .next_expiry
            .and_then(|at| at.duration_since(now).ok())
            .filter(|wait| *wait <= TICK);
        if let Some(wait) = soon {
            let at = cx.after(wait);
            self.set_alarm(cx, at, Alarm::Expiry);
        }
    }

    /// A device was admitted with a certificate.
    pub(super) fn note_expiry(&mut self, cx: &mut Connections<State>, shown: &Shown) {
        if self.next_expiry.is_none_or(|at| shown.expires() < at) {
            self.next_expiry = Some(shown.expires());
            self.end_expired(cx);
        }
    }

    /// A connection of a visitor or of another gateway has come to this loop.
    pub(super) fn note_visitors_expiry(&mut self, cx: &mut Connections<State>, id: Id) {
        let visitors = cx.get(id).filter(|conn| matches!(conn.state, State::Visitor(_)));
        if let Some(shown) = visitors.and_then(|conn| conn.stream().certificate()) {
            self.note_expiry(cx, &shown);
        }
    }

    /// Ends connections whose token or certificate is no longer valid: at once if nothing is in
    /// progress, else after `take_over_grace`.
    fn end_revoked(&mut self, cx: &mut Connections<State>) {
        let (mut busy, mut idle) = (Vec::new(), Vec::new());
        let mut kept: HashSet<Arc<str>> = HashSet::new(); // names under which others, with an identity from `authorize`, may stay
        for id in cx.ids() {
            let Some(device) = cx.device_mut(id) else { continue };
            let revoked = device
                .registration()
                .is_some_and(|registration| self.credentials.is_revoked(registration));
            match device {
                device if !revoked => kept.extend(
                    device.registration().into_iter().flat_map(Registration::names).cloned(),
                ),
                Device::Link(link) if link.exchange.is_some() => {
                    link.leaving = true;
                    busy.push(id);
                }
                Device::PostedAnswer(_) => busy.push(id),
                _ => idle.push(id),
            }
        }
        let credentials = &self.credentials;
        let leases = self.leases.ids(|registration| credentials.is_revoked(registration));
        let staying = self.leases.registrations().filter(|r| !credentials.is_revoked(r));
        kept.extend(staying.flat_map(Registration::names).cloned());
        self.registry.revoke(|name, owner| {
            credentials.is_owner_revoked(name, owner) && !kept.contains(name)
        });
        let ended = busy.len() + idle.len() + leases.len();
        if ended > 0 {
            log::info!("links and polls are ended, {ended} in all: {REVOKED}");
        }
        for id in idle {
            self.end_idle_revoked(cx, id);
        }
        self.fail_events_of_revoked(cx);
        self.evict_later(cx, busy, leases);
    }

    fn end_idle_revoked(&mut self, cx: &mut Connections<State>, id: Id) {
        match cx.device(id) {
            Some(Device::Held { .. }) => {
                let origin = self.origin_of(cx, id);
                self.unhold(cx, id, &CloseCause::Revoked.because(REVOKED));
                self.deny_credential(cx, id, origin.as_deref(), &LocalAnswer::new(401, REVOKED));
            }
            _ => self.part(cx, id),
        }
    }

    pub(super) fn evict_later(
        &mut self,
        cx: &mut Connections<State>,
        links: Vec<Id>,
        leases: Vec<LeaseId>,
    ) {
        if !links.is_empty() || !leases.is_empty() {
            let at = cx.after(self.settings.limits.take_over_grace);
            self.set_alarm(cx, at, Alarm::Evict { links, leases });
        }
    }

    pub(super) fn evict(
        &mut self,
        cx: &mut Connections<State>,
        links: Vec<Id>,
        leases: Vec<LeaseId>,
    ) {
        for id in links {
            let Some(device) = cx.device(id) else { continue };
            let (exchange, posts) = match device {
                Device::Link(link) => (link.exchange, false),
                Device::PostedAnswer(posted) => (posted.exchange(), true),
                _ => continue,
            };
            let Some(registration) = device.registration() else { continue };
            let (revoked, in_force) =
                (self.credentials.is_revoked(registration), self.registry.in_force(registration));
            match exchange {
                _ if in_force && !revoked => {}
                Some(key) if revoked => self.end_exchange(
                    cx,
                    key,
                    CloseCause::Revoked,
                    "the device's token or certificate became invalid, and take_over_grace has expired",
                ),
                Some(key) => {
                    self.end_exchange(
                        cx,
                        key,
                        CloseCause::Replaced,
                        "the device's session was replaced and take_over_grace has expired",
                    );
                }
                None if posts && revoked => {
                    self.refuse_post(cx, id, &Refusal::new(401, REVOKED));
                }
                None if posts => self.refuse_post(cx, id, &Refusal::new(409, REPLACED)),
                None => {
                    let end = if revoked { CloseCause::Revoked } else { CloseCause::Replaced };
                    self.drop_link(cx, id, end.because("take_over_grace has expired"));
                }
            }
        }
        for lease in leases {
            let why = "the device's session was replaced, or its token revoked, and take_over_grace has expired";
            self.leases.cut(lease, Error::closed(Fault::Device, why));
        }
    }
}
