//! The devices' face: offers and polls are read and decided, links are parked, watched and given
//! out.
//!
//! ```text
//!   Head ─► Deciding ─┬─► (Posting: its body is an answer) ─┬─► Link (idle ⇄ busy) ─► closed          an offer, --turn now
//!     ▲               └─────────────────────────────────────┼─► Held (204 after poll_hold) ─► Link     an offer, --turn on-demand
//!     └── Telling ◄─────────────────────────────────────────┴─► Held (nothing after poll_hold)         a poll: mailbox.rs
//! ```

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::connections::{Connections, Fetched, Id};
use crate::engine::slab::Key;
use crate::error::{Error, Refusal};
use crate::gateway::alarms::Alarm;
use crate::gateway::credentials::REVOKED;
use crate::gateway::events::EventKind;
use crate::gateway::leases::{Handle, LeasedLink, Ticket};
use crate::gateway::mailbox::{DeviceHead, PostedAnswer};
use crate::gateway::offer::{Grant, Offer, Reject};
use crate::gateway::registry::{Denied, Holder, Registration, Waiter};
use crate::gateway::state::{Command, Device, GatewayRole, Hold, State, States};
use crate::link::{CutError, GatewayLink};
use crate::observe::Observed;
use crate::proto::forward::waiting_line;
use crate::proto::framed::FramedRequest;
use crate::proto::head::{self, LineEnds};
use crate::proto::heartbeat;
use crate::proto::turn::{self, Decision, Fallback, Name, Transport};
use crate::relay::{self, Exchange, LocalAnswer};
use crate::stream::Stream;

/// Who was let in.
pub(crate) struct Admitted {
    pub(super) registration: Arc<Registration>,
    pub(super) owner: Holder,
    /// Nobody knew its name before.
    pub(super) fresh: bool,
}

const HEAD: State = State::Device(Device::Head { began: false, polled: false, told: None });

pub(super) const STOPPING: &str = "this gateway is stopping; dial again";
/// Why a link never came to be.
pub(super) const UNTURNED: CloseReason =
    CloseCause::Cut.because("it was closed before the 101 was written");
const EARLY: &str = "bytes came after the offer or poll and before its answer; wait for the answer";
const UNASKED: &str = "bytes came that nobody asked for";
pub(super) const REPLACED: &str = "a newer session of this device holds the name";

const PORT_PURPOSE: &str =
    "devices connect here to be reached (reverse HTTP); visitors use another port";

/// What came on the devices' port.
enum Arrived {
    NotYet,
    Closed,
    DeviceHead(Box<turn::Offer>, Box<DeviceHead>),
    /// A page asks whether it may post (CORS). `keep`: another request may follow.
    Preflight {
        origin: String,
        keep: bool,
    },
    /// With the page's origin, where the operator lists it.
    Refused(Refusal, Option<String>),
}

impl GatewayRole {
    pub(super) fn device_head(&mut self, cx: &mut Connections<State>, id: Id) {
        let mut scratch = cx.take_scratch();
        let arrived = self.read_offer(cx, id, &mut scratch);
        cx.put_scratch(scratch);
        match arrived {
            Arrived::NotYet => {}
            Arrived::Closed => {
                if let Some(Device::Head { told: Some(event), .. }) = cx.device(id) {
                    self.event_deserted(event);
                }
                cx.close(id);
            }
            Arrived::Refused(refusal, origin) => {
                self.refuse_offer(cx, id, &refusal, origin.as_deref())
            }
            Arrived::Preflight { origin, keep } => self.answer_preflight(cx, id, &origin, keep),
            Arrived::DeviceHead(offer, knock) => self.consider(cx, id, *offer, knock),
        }
    }

    fn read_offer(&mut self, cx: &mut Connections<State>, id: Id, scratch: &mut [u8]) -> Arrived {
        let Some(peer) = cx.get_mut(id) else { return Arrived::NotYet };
        match peer.flush() {
            Ok(true) => {}
            Ok(false) => return Arrived::NotYet, // who does not take the 204 to its last offer makes no other
            Err(_) => return Arrived::Closed,
        }
        let filled = match peer.fetch(scratch, self.settings.limits.head_bytes_max + 1024) {
            Ok(Fetched::Bytes(n)) => n,
            Ok(Fetched::Nothing) if peer.is_broken() => return Arrived::Closed,
            Ok(Fetched::Nothing) => return Arrived::NotYet,
            Ok(Fetched::End) | Err(_) => return Arrived::Closed,
        };
        let bytes = &scratch[..filled];
        match head::request(bytes, &self.settings.limits, LineEnds::Crlf) {
            Err(refusal) => Arrived::Refused(refusal, None),
            Ok(None) if peer.is_over() => Arrived::Closed,
            Ok(None) => {
                peer.keep(bytes);
                if let State::Device(Device::Head { began, polled: true, .. }) = &mut peer.state {
                    if !std::mem::replace(began, true) {
                        cx.set_deadline(id, Some(cx.after(self.settings.limits.head_timeout))); // in all, from its first byte on
                    }
                }
                Arrived::NotYet
            }
            Ok(Some(request)) => {
                let behind = &bytes[request.len..];
                peer.keep(behind);
                match self.page(&request.fields) {
                    Ok(origin) => self.recognise(request, behind, origin),
                    Err(refusal) => Arrived::Refused(refusal, None),
                }
            }
        }
    }

    /// The page that sent a request, where the operator lists it. A refusal of any other ends the
    /// connection, whatever its request is.
    fn page(&self, fields: &head::Fields<'_>) -> Result<Option<String>, Refusal> {
        let mut origins = fields.all("Origin");
        let origin = match (origins.next(), origins.next()) {
            (None, _) => None,
            (Some(origin), None) => {
                self.settings.cors_origins.iter().find(|listed| listed.as_bytes() == origin)
            }
            _ => None,
        };
        if origin.is_none() && fields.get("Origin").is_some() {
            return Err(Refusal::new(
                403,
                "a web page may not use this port: its Origin is not listed by the operator (--cors-origin)",
            ));
        }
        Ok(origin.cloned())
    }

    /// protocol.md §1.3, in this order: its framing, what the request is, its body, what came
    /// behind it.
    fn recognise(
        &self,
        request: head::RequestHead<'_>,
        behind: &[u8],
        origin: Option<String>,
    ) -> Arrived {
        let request = match FramedRequest::of(request) {
            Ok(request) => request,
            Err(refusal) => return Arrived::Refused(refusal, origin),
        };
        match origin {
            Some(origin)
                if request.method == "OPTIONS"
                    && request.fields.get("Access-Control-Request-Method").is_some() =>
            {
                match request.has_body() {
                    false => Arrived::Preflight {
                        origin,
                        keep: head::keeps_alive(request.minor, &request.fields),
                    },
                    // Nobody reads it, so its bytes would be taken for the next request.
                    true => Arrived::Refused(
                        Refusal::new(400, "a preflight request (OPTIONS) has no body"),
                        Some(origin),
                    ),
                }
            }
            origin => match self.judge(&request, behind, origin.clone()) {
                Ok((offer, knock)) => Arrived::DeviceHead(offer, Box::new(knock)),
                Err(refusal) => Arrived::Refused(refusal, origin),
            },
        }
    }

    fn judge(
        &self,
        request: &FramedRequest<'_>,
        behind: &[u8],
        origin: Option<String>,
    ) -> Result<(Box<turn::Offer>, DeviceHead), Refusal> {
        let decided = turn::decide(request, &self.settings.offer_rules)?;
        let (offer, turns) = match decided {
            Decision::Turn(offer) => (offer, self.settings.fallback != Fallback::Only),
            Decision::Poll(offer) => (offer, false),
        };
        if self.settings.fallback == Fallback::Never {
            if !turns {
                return Err(Refusal::new(
                    426,
                    "this gateway only takes devices that turn their connection: send Upgrade: PTTH/1.0 and Connection: Upgrade with HTTP/1.1",
                ));
            }
            if request.has_body() {
                return Err(Refusal::new(
                    400,
                    "an offer has to come without a body; send Content-Length: 0",
                ));
            }
        }
        // A line end too many is nothing (RFC 9112 §2.2), but before a turn every byte counts.
        if !request.has_body() && !behind.is_empty() && (turns || !head::are_line_ends(behind)) {
            return Err(Refusal::new(400, EARLY));
        }
        let knock = DeviceHead::read(request, turns, origin)?;
        Ok((offer, knock))
    }

    fn refuse_offer(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        refusal: &Refusal,
        origin: Option<&str>,
    ) {
        if let Some(peer) = cx.get(id) {
            log_names!(
                Info,
                "an offer or poll from {} was refused: {refusal}",
                peer.stream().peer_label()
            );
        }
        let purpose = format!("{}; {PORT_PURPOSE}", refusal.reason);
        let (reason, fields): (&str, &[(&str, &str)]) = match refusal.status {
            405 => (&purpose, &[("Allow", "POST")]),
            426 => (&refusal.reason, &[("Upgrade", "PTTH/1.0")]),
            _ => (&refusal.reason, &[]),
        };
        self.deny(
            cx,
            id,
            origin,
            &LocalAnswer { fields, ..LocalAnswer::new(refusal.status, reason) },
        );
    }

    pub(super) fn device_head_expired(&mut self, cx: &mut Connections<State>, id: Id) {
        let began = cx.get(id).is_some_and(|p| p.kept() > 0);
        match began {
            true => self.refuse(
                cx,
                id,
                &LocalAnswer::new(408, "the offer was not whole within head_timeout"),
            ),
            false => cx.close(id),
        }
    }

    /// Asks `authorize`, on a thread of its own, or nobody.
    fn consider(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        wire: turn::Offer,
        knock: Box<DeviceHead>,
    ) {
        let Some(peer) = cx.get_mut(id) else { return };
        let peer_ip: Option<IpAddr> = peer.stream().peer_ip();
        let certificate = peer.stream().certificate();
        peer.state = State::Device(Device::Deciding(knock));
        let mut offer = Offer::new(wire, peer_ip, certificate);
        // A certificate says who the device is as well as a token does; whoever shows one needs no
        // other.
        let checked = match &offer.certificate {
            Some(shown) if self.credentials.is_void(shown) => Err(Reject::new(401, REVOKED)),
            Some(_) => offer.check_certificate(),
            None => self.credentials.check(&mut offer, self.settings.limits.token_bytes_max),
        };
        if let Err(reject) = checked {
            return self.rejected(cx, id, &offer, &reject);
        }
        let Some(authorize) = self.settings.authorize.clone() else {
            return self.decided(cx, id, offer, Ok(Grant::offered()));
        };
        let at = cx.after(self.settings.limits.head_timeout);
        cx.set_deadline(id, Some(at));
        let remote = self.remote.clone();
        let submitted = self.helpers.submit(move || {
            let judged =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| authorize(&offer)));
            let verdict = judged.unwrap_or_else(|_| {
                log::error!("authorize panicked; the offer is refused");
                Err(Reject::new(500, "the gateway could not decide about this offer"))
            });
            remote.send(Command::Decided { id, offer: Box::new(offer), verdict });
        });
        if !submitted {
            self.deny_knock(cx, id, 503, "too many offers wait to be decided", Some(5));
        }
    }

    pub(super) fn decided(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        offer: Offer,
        verdict: Result<Grant, Reject>,
    ) {
        let Some(knock) = cx.deciding(id) else {
            return;
        }; // it was closed meanwhile
        let (turns, transport, answers) = (knock.turns, knock.transport(), knock.has_body());
        if self.settings.on_link.is_some() && self.leases.len() >= self.settings.limits.on_link_max
        {
            return self.deny_knock(
                cx,
                id,
                503,
                "as many links are served as on_link_max allows",
                Some(10),
            );
        }
        let grant = match verdict {
            Ok(grant) => offer.identified(grant),
            Err(reject) => return self.rejected(cx, id, &offer, &reject),
        };
        // What is in hand may still be answered; nobody new is taken. A device that polls here does
        // so as long as links serve.
        let polls_here = || {
            !turns
                && granted_names(&offer, &grant).iter().all(|name| self.registry.is_polling(name))
        };
        if self.lifecycle.is_ending() && !answers && (self.lifecycle.is_draining() || !polls_here())
        {
            return self.send_away(cx, id);
        }
        let admitted = match self.admit(cx, &offer, &grant, transport) {
            Ok(admitted) => admitted,
            Err(denied) => {
                log_names!(
                    Info,
                    "an offer for {} was refused: {} {}",
                    offer.label(),
                    denied.status,
                    denied.reason
                );
                let origin = self.origin_of(cx, id);
                let answer = LocalAnswer {
                    retry_after: denied.retry_after,
                    ..LocalAnswer::new(denied.status, denied.reason)
                };
                return self.deny_credential(cx, id, origin.as_deref(), &answer);
            }
        };
        cx.seen(id);
        let switch = turns.then(|| self.switch(&offer, !answers));
        let Some(State::Device(Device::Deciding(knock))) =
            cx.state_mut(id).map(|state| std::mem::replace(state, HEAD))
        else {
            return;
        };
        let posted = PostedAnswer::new(*knock, admitted, switch, &self.settings.limits);
        if answers {
            self.begin_posting(cx, id, posted, offer.wire.expects_continue)
        } else {
            self.settle(cx, id, posted)
        }
    }

    fn rejected(&mut self, cx: &mut Connections<State>, id: Id, offer: &Offer, reject: &Reject) {
        log_names!(
            Info,
            "an offer for {} was rejected: {} {}",
            offer.label(),
            reject.status,
            reject.reason
        );
        let location = reject.location.as_deref().map(|l| [("Location", l)]);
        let fields: &[_] = location.as_ref().map_or(&[], |location| location);
        let origin = self.origin_of(cx, id);
        let answer = LocalAnswer {
            fields,
            retry_after: reject.retry_after,
            ..LocalAnswer::new(reject.status, &reject.reason)
        };
        self.deny_credential(cx, id, origin.as_deref(), &answer);
    }

    /// Reserves the place in the registry, tells who was replaced, and closes their links.
    fn admit(
        &mut self,
        cx: &mut Connections<State>,
        offer: &Offer,
        grant: &Grant,
        transport: Transport,
    ) -> Result<Admitted, Denied> {
        let names = granted_names(offer, grant);
        if names.is_empty() {
            return Err(Denied {
                status: 403,
                reason: "the credential is not for this name",
                retry_after: None,
            });
        }
        if offer.certificate.as_ref().is_some_and(|shown| self.credentials.is_void(shown)) {
            return Err(Denied { status: 401, reason: REVOKED, retry_after: None });
        }
        let by_token = self.credentials.identity(offer, &names)?;
        let credential = grant.credential.as_deref().map(Arc::from).or(by_token);
        let (token, certificate) = (offer.token, offer.certificate.clone());
        let owner = Holder {
            credential,
            session: offer.wire.session,
            token,
            certificate,
            airplay: offer.wire.is_airplay(),
        };
        let claimed = self.registry.claim(&names, &owner, transport, cx.now())?;
        self.origins |= names.iter().any(|n| n.contains("://"));
        if let Some(shown) = &offer.certificate {
            self.note_expiry(cx, shown);
        }
        let by = match transport {
            Transport::Turn => offer.token().to_owned(),
            transport => transport.to_string(),
        };
        for name in &claimed.replaced {
            self.tell(
                EventKind::Replaced,
                name,
                "a newer session of the device took the name over",
                Some(transport),
            );
        }
        for name in &claimed.up {
            self.tell(EventKind::Up, name, &by, Some(transport));
        }
        for name in &claimed.moved {
            self.tell(EventKind::Moved, name, &by, Some(transport));
        }
        self.observe_offer(offer, &claimed.registration);
        if !claimed.inherited.is_empty() {
            self.fail_events_of(cx, &claimed.inherited, &owner);
        }
        if !claimed.replaced.is_empty() {
            let registry = &self.registry;
            let replaced_leases =
                self.leases.tickets(|registration| !registry.in_force(registration));
            for id in claimed.idle.into_iter().chain(claimed.polls) {
                // A link with several names stays while one of them is its own.
                if cx
                    .registration(id)
                    .is_some_and(|registration| !self.registry.in_force(&registration))
                {
                    self.part(cx, id);
                }
            }
            self.evict_later(cx, claimed.busy, replaced_leases);
        }
        self.stats.devices.store(self.registry.connected(), Relaxed);
        self.callers.announce(&claimed.up);
        Ok(Admitted { registration: claimed.registration, owner, fresh: claimed.fresh })
    }

    /// The bytes that turn a connection. `may_continue`: a 100 that was asked for has not gone out
    /// yet.
    fn switch(&self, offer: &Offer, may_continue: bool) -> Vec<u8> {
        let mut switch = Vec::with_capacity(96);
        if offer.wire.expects_continue && may_continue {
            switch.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n"); // RFC 9110 §7.8: before the 101
        }
        turn::write_switch(
            &mut switch,
            &offer.wire.token,
            &self.settings.offer_rules.dialects[offer.wire.dialect],
        );
        switch
    }

    pub(super) fn turn(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        switch: Vec<u8>,
        registration: Arc<Registration>,
    ) {
        self.stats.turns.fetch_add(1, Relaxed);
        if self.settings.on_link.is_some() {
            return self.hand_to_worker(cx, id, registration, &switch);
        }
        let Some(peer) = cx.get_mut(id) else { return };
        if self.settings.turns.hold(registration.names()) {
            peer.state = State::Device(Device::Held {
                registration: registration.clone(),
                hold: Hold::Offer(switch),
            });
            self.registry.place(&registration, id);
            let at = cx.after(self.settings.limits.poll_hold);
            match self.registry.next_waiter(&registration, false) {
                Some(waiter) => {
                    self.switch_held(cx, id);
                    self.serve(cx, id, waiter);
                }
                None => {
                    self.registry.set_idle(&registration, id);
                    cx.set_deadline(id, Some(at));
                }
            }
            return;
        }
        peer.output().extend_from_slice(&switch);
        peer.state = State::Device(Device::link(registration.clone()));
        self.registry.place(&registration, id);
        // A waiting request follows in the same write; with none the 101 goes out alone.
        match self.registry.next_waiter(&registration, false) {
            Some(waiter) => self.serve(cx, id, waiter),
            None if peer_flush(cx, id) => self.link_free(cx, id, Ok(())),
            None => self.drop_link(cx, id, UNTURNED),
        }
    }

    /// `on_link`: the worker was reserved by the count of lent links; the link is its own until the
    /// handler returns.
    fn hand_to_worker(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        registration: Arc<Registration>,
        switch: &[u8],
    ) {
        let Some(handler) = self.settings.on_link.clone() else { return };
        let give_up = |role: &mut Self, cx: &mut Connections<State>| {
            role.lent_ended(
                cx,
                &registration,
                &CloseCause::Limit.because("no worker for its link"),
            );
        };
        if self.leases.len() >= self.settings.limits.on_link_max {
            give_up(self, cx);
            return self.refuse(
                cx,
                id,
                &LocalAnswer {
                    retry_after: Some(10),
                    ..LocalAnswer::new(503, "as many links are served as on_link_max allows")
                },
            );
        }
        if let Some(peer) = cx.get_mut(id) {
            peer.output().extend_from_slice(switch);
        }
        let turned = peer_flush(cx, id);
        let place = cx.unseat(id);
        let Some((stream, unread, _)) = cx.remove(id).filter(|_| turned) else {
            return give_up(self, cx);
        };
        let handle = stream.try_clone().map_or(Handle::None, Handle::Own);
        let ticket = self.leases.add(LeasedLink {
            registration: registration.clone(),
            handle,
            fate: CutError::default(),
            observed: Observed::default(),
            place,
        });
        cx.set_lent(self.leases.len());
        let (limits, remote, registered_airplay) =
            (self.settings.link_limits.clone(), self.remote.clone(), registration.is_airplay());
        let submitted = self.link_workers.submit(move || {
            let _back = Returning { remote, ticket };
            match stream.set_nonblocking(false) {
                Ok(()) => handler(
                    GatewayLink::within(stream, unread, limits).taking_events(registered_airplay),
                ),
                Err(e) => log::error!("a turned connection cannot be made blocking: {e}"),
            }
        });
        if !submitted {
            self.leases.take(ticket);
            cx.set_lent(self.leases.len());
            give_up(self, cx);
        }
    }

    /// Gives the idle link of `name` out whose turn it is, busy; a held offer is turned with it.
    pub(super) fn take_link(&mut self, cx: &mut Connections<State>, name: &str) -> Option<Id> {
        let id = self.registry.next_idle(name)?;
        let registration = cx.registration(id)?;
        self.registry.set_busy(&registration, id);
        self.switch_held(cx, id);
        Some(id)
    }

    pub(super) fn switch_held(&mut self, cx: &mut Connections<State>, id: Id) {
        cx.set_deadline(id, None);
        let Some(peer) = cx.get_mut(id) else { return };
        if let State::Device(Device::Held { registration, hold: Hold::Offer(switch) }) =
            &mut peer.state
        {
            let (registration, switch) = (registration.clone(), std::mem::take(switch));
            peer.state = State::Device(Device::link(registration));
            peer.output().extend_from_slice(&switch);
        }
    }

    /// Gives a busy link to whoever waited.
    pub(super) fn serve(&mut self, cx: &mut Connections<State>, id: Id, waiter: Waiter) {
        match waiter {
            Waiter::Exchange(key) => match self
                .exchanges
                .get(key)
                .filter(|e| e.is_waiting())
                .map(|e| (e.downstream(), e.is_idempotent()))
            {
                None => self.link_free(cx, id, Ok(())), // its visitor has gone
                Some((Some(downstream), _)) if self.has_idle_pin(cx, downstream) => {
                    // It was in line for its turn alone.
                    if !peer_flush(cx, id) {
                        self.drop_link(cx, id, UNTURNED);
                    } else if let Some(registration) = cx.registration(id) {
                        self.registry.set_idle(&registration, id);
                        self.watch_idle(cx, id);
                    }
                    self.find_link(cx, downstream, key);
                }
                Some((_, true)) => self.assign(cx, key, id),
                Some((_, false)) if self.is_alive(cx, id) => self.assign(cx, key, id),
                Some((Some(downstream), false)) => self.find_link(cx, downstream, key), // the link is gone; it lines up again
                Some((None, false)) => {}
            },
            Waiter::Caller(number) => {
                if !peer_flush(cx, id) {
                    self.drop_link(cx, id, UNTURNED);
                } else if !self.lend(cx, number, id) {
                    self.link_free(cx, id, Ok(()));
                }
            }
        }
    }

    /// Ties a busy link to an exchange.
    pub(super) fn assign(&mut self, cx: &mut Connections<State>, key: Key, id: Id) {
        self.assign_with(cx, key, id, b"");
    }

    /// The same, with one line more in the request's head.
    pub(super) fn assign_with(
        &mut self,
        cx: &mut Connections<State>,
        key: Key,
        id: Id,
        line: &[u8],
    ) {
        if let Some(link) = cx.link_mut(id) {
            link.exchange = Some(key);
            if let Some(exchange) = self.exchanges.get_mut(key) {
                // A session is what devices of this crate have, and they frame strictly.
                exchange.upstream_reads_on(link.registration.session().is_some());
                if link.registration.is_airplay() {
                    exchange.takes_event_version();
                }
            }
        }
        let demand = cx.registration(id).map_or(0, |link| self.registry.demand(&link, 0));
        let lines = [line, &waiting_line(demand)].concat();
        relay::attach_with(self, cx, key, id, &lines);
    }

    pub(super) fn link_free(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        reusable: Result<(), CloseReason>,
    ) {
        let Some(peer) = cx.get_mut(id) else { return };
        let State::Device(Device::Link(link)) = &mut peer.state else { return };
        let exchange = link.exchange.take().and_then(|key| self.exchanges.get(key));
        let bound = link.pinned.is_some() || exchange.is_some_and(|exchange| exchange.is_bound());
        let downstream = exchange.and_then(|exchange| exchange.downstream());
        let (registration, leaving) = (link.registration.clone(), link.leaving);
        if leaving {
            let end = match () {
                () if self.credentials.is_revoked(&registration) => CloseCause::Revoked,
                () if self.registry.in_force(&registration) => CloseCause::Drained,
                () => CloseCause::Replaced,
            };
            return self.drop_link(cx, id, end.because("it was told to go"));
        }
        if let Err(why) = reusable {
            return self.drop_link(cx, id, why);
        }
        // The 101 of a held offer may still wait, where the request that was to follow it was taken
        // back.
        if peer.pending() > 0 && !peer_flush(cx, id) {
            return self.drop_link(cx, id, UNTURNED);
        }
        self.observer.seen(registration.name());
        if !self.registry.in_force(&registration) {
            return self.part(cx, id);
        }
        // Bytes sent before they were asked for must not become the next caller's answer.
        if cx.get(id).is_some_and(|p| p.has_input()) {
            let quiet = self.is_quiet(cx, id);
            if quiet.is_err() || cx.get(id).is_some_and(|p| p.has_input()) {
                return self.drop_link(
                    cx,
                    id,
                    quiet.err().unwrap_or(CloseCause::ProtocolError.because(UNASKED)),
                );
            }
        }
        if bound {
            return self.keep_for(cx, id, downstream);
        }
        if let Some(waiter) = self.registry.next_waiter(&registration, false) {
            return self.serve(cx, id, waiter);
        }
        if self.lifecycle.is_draining() {
            return self.part(cx, id);
        }
        self.registry.set_idle(&registration, id);
        self.watch_idle(cx, id);
    }

    /// An idle link has its next heartbeat, and no buffers.
    pub(super) fn watch_idle(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(peer) = cx.get_mut(id) else { return };
        peer.settle();
        let heartbeat = self.settings.limits.heartbeat;
        let at = (!heartbeat.is_zero()).then(|| cx.after_about(heartbeat));
        cx.set_deadline(id, at);
    }

    /// Something happened on an idle link: its end, stray line ends, or bytes nobody asked for.
    pub(super) fn idle_ready(&mut self, cx: &mut Connections<State>, id: Id) {
        if let Err(why) = self.is_quiet(cx, id) {
            self.drop_link(cx, id, why);
        }
    }

    fn is_quiet(&mut self, cx: &mut Connections<State>, id: Id) -> Result<(), CloseReason> {
        let mut scratch = cx.take_scratch();
        let quiet = cx.get_mut(id).map_or(Ok(()), |peer| match peer.fetch(&mut scratch, 64) {
            Ok(Fetched::Nothing) if peer.is_broken() => {
                Err(CloseCause::Reset.because("while it idled"))
            }
            Ok(Fetched::Nothing) => Ok(()),
            Ok(Fetched::Bytes(n)) if head::are_line_ends(&scratch[..n]) => Ok(()),
            Ok(Fetched::Bytes(_)) => Err(CloseCause::ProtocolError.because(UNASKED)),
            Ok(Fetched::End) => Err(CloseCause::Closed.because("by the device, while it idled")),
            Err(e) => Err(CloseReason::new(CloseCause::of_io(&e), format!("while it idled: {e}"))),
        });
        cx.put_scratch(scratch);
        if quiet.is_ok() && cx.get(id).is_some_and(|p| p.has_input()) {
            cx.again(id);
        }
        quiet
    }

    /// Looks once more whether a link that is to carry an unsafe request is still there: such a
    /// request is not sent twice.
    pub(super) fn is_alive(&mut self, cx: &mut Connections<State>, id: Id) -> bool {
        if let Some(peer) = cx.get_mut(id) {
            peer.look_again();
        }
        match self.is_quiet(cx, id) {
            Ok(()) => true,
            Err(why) => {
                self.drop_link(cx, id, why);
                false
            }
        }
    }

    /// The idle time of a link is over: ask for a sign of life (protocol.md §1.5).
    pub(super) fn beat(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(registration) = cx.registration(id) else { return };
        self.registry.set_busy(&registration, id);
        self.ask_options(cx, id, heartbeat::REQUEST);
    }

    /// Tells a link to go: replaced, or the gateway stops. An offer that is held is refused.
    pub(super) fn part(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(registration) = cx.registration(id) else { return };
        let Some(peer) = cx.get_mut(id) else { return };
        match &mut peer.state {
            State::Device(Device::Link(link)) if link.leaving || link.exchange.is_some() => {}
            State::Device(Device::Link(link)) => {
                link.leaving = true;
                self.registry.set_busy(&registration, id);
                self.ask_options(cx, id, heartbeat::FAREWELL);
            }
            State::Device(Device::Held { .. }) => {
                let (end, reason) = if self.lifecycle.is_draining() {
                    (CloseCause::Drained, STOPPING)
                } else {
                    (CloseCause::Replaced, REPLACED)
                };
                self.unhold(cx, id, &end.because(reason));
                match self.lifecycle.is_draining() {
                    true => self.send_away(cx, id),
                    false => self.deny_knock(cx, id, 409, REPLACED, Some(60)),
                }
            }
            _ => {}
        }
    }

    fn ask_options(&mut self, cx: &mut Connections<State>, id: Id, request: &'static [u8]) {
        let Some(registration) = cx.registration(id) else { return };
        let demand = self.registry.demand(&registration, 0);
        let exchange = Exchange::heartbeat(
            request.to_vec(),
            self.settings.limits.heartbeat_timeout,
            &self.settings.limits,
            cx.now(),
        );
        let key = self.exchanges.insert(exchange);
        if let Some(link) = cx.link_mut(id) {
            link.exchange = Some(key);
        }
        relay::attach_with(self, cx, key, id, &waiting_line(demand));
    }

    pub(super) fn drop_link(&mut self, cx: &mut Connections<State>, id: Id, why: CloseReason) {
        let Some(registration) = cx.registration(id) else { return };
        let left = self.registry.leave(&registration, id, cx.now());
        let wanted = self.take_wanted(cx, id);
        cx.close(id);
        self.link_ended(&registration, &left, &why);
        if let Some((visitor, key)) = wanted {
            self.find_link(cx, visitor, key);
        }
        self.serve_by_idle(cx, &registration);
    }

    /// A held connection is held no longer.
    pub(super) fn unhold(&mut self, cx: &mut Connections<State>, id: Id, why: &CloseReason) {
        match cx.device(id) {
            Some(Device::Held { registration, hold: Hold::Offer(_) }) => {
                let left = self.registry.leave(&registration.clone(), id, cx.now());
                self.gone(&left, why);
            }
            Some(Device::Held { registration, hold: Hold::Poll(_) }) => {
                self.unpark(cx, id, &registration.clone())
            }
            _ => {}
        }
    }

    /// Bytes, or the end, where neither may be: while the offer is decided, or it or a poll is
    /// held.
    pub(super) fn early_bytes(&mut self, cx: &mut Connections<State>, id: Id) {
        // What a POST brings stays where it is until its sender is known.
        if let Some(peer) = cx.get(id) {
            if matches!(&peer.state, State::Device(Device::Deciding(knock)) if knock.has_body()) {
                if peer.is_broken() {
                    cx.close(id);
                }
                return;
            }
        }
        let Err(why) = self.is_quiet(cx, id) else { return };
        self.unhold(cx, id, &why);
        match why.end {
            CloseCause::Closed | CloseCause::Reset | CloseCause::Unreachable => cx.close(id),
            _ => self.deny_knock(cx, id, 400, EARLY, None),
        }
    }

    /// Nobody asked for a held offer: 204, and the device offers again on the same connection.
    pub(super) fn hold_expired(&mut self, cx: &mut Connections<State>, id: Id) {
        if cx.parked(id).is_some() {
            return self.poll_expired(cx, id);
        }
        if let Some(registration) = cx.registration(id) {
            for name in self.registry.lapse(&registration, id, cx.now()) {
                let at = cx.after(self.settings.limits.poll_gap);
                self.set_alarm(cx, at, Alarm::PollGap(name));
            }
        }
        let Some(peer) = cx.get_mut(id) else { return };
        peer.output().extend_from_slice(b"HTTP/1.1 204 No Content\r\nProxy-Status: ptth\r\n\r\n");
        peer.state = HEAD;
        let sent = peer.flush().is_ok();
        let at = cx.after(self.settings.limits.head_timeout);
        cx.set_deadline(id, Some(at));
        if !sent {
            cx.close(id);
        }
    }

    pub(super) fn adopt(
        &mut self,
        cx: &mut Connections<State>,
        stream: Stream,
        unread: &[u8],
        offer: &Offer,
        grant: &Grant,
    ) -> Result<(), Error> {
        if self.lifecycle.is_draining() {
            return Err(Error::stopped("this gateway is stopping; the connection is not adopted"));
        }
        let Admitted { registration, .. } =
            self.admit(cx, offer, grant, Transport::Turn).map_err(|d| {
                Error::refused(
                    crate::Fault::Gateway,
                    d.status,
                    format!("adopting a connection: {}", d.reason),
                    None,
                )
            })?;
        match cx.insert(stream, unread, State::Device(Device::link(registration.clone()))) {
            Ok(id) => {
                self.registry.place(&registration, id);
                self.link_free(cx, id, Ok(()));
                Ok(())
            }
            Err(e) => {
                self.lent_ended(
                    cx,
                    &registration,
                    &CloseCause::Failed.because("it could not be adopted"),
                );
                Err(Error::io(crate::Fault::Gateway, "adopting a connection", e))
            }
        }
    }
}

fn granted_names(offer: &Offer, grant: &Grant) -> Vec<String> {
    match &grant.names {
        Some(names) => names.clone(),
        None => offer.wire.names.iter().map(Name::to_string).collect(),
    }
}

pub(super) fn peer_flush(cx: &mut Connections<State>, id: Id) -> bool {
    cx.get_mut(id).is_some_and(|peer| matches!(peer.flush(), Ok(true)))
}

/// Tells the loop, also when the handler panics, that an `on_link` worker is done.
struct Returning {
    remote: crate::engine::event_loop::Remote<Command>,
    ticket: Ticket,
}

impl Drop for Returning {
    fn drop(&mut self) {
        self.remote.send(Command::Return {
            ticket: self.ticket,
            stream: Err(CloseCause::Program.because("its handler is done with it")),
        });
    }
}
