//! The handshake: an offer or a poll is read, decided and admitted; then its connection is upgraded, or
//! goes to [`polls`](super::polls).
//!
//! ```text
//!   Head ─► Deciding ─┬─► (PostedAnswer: its body is one) ─┬─► Link (idle ⇄ busy) ─► closed         an offer, --turn now: links.rs
//!     ▲               └────────────────────────────────────┼─► Held (204 after poll_hold) ─► Link    an offer, --turn on-demand
//!     └── PollReply ◄──────────────────────────────────────┴─► Held (nothing after poll_hold)        a poll: polls/
//! ```

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

use crate::close_reason::CloseCause;
use crate::engine::connection::{Connection, Fetched};
use crate::engine::connections::{Connections, Id};
use crate::error::{Error, Refusal};
use crate::gateway::bounds::Bound;
use crate::gateway::credentials::REVOKED;
use crate::gateway::device_head::{Admitted, DeviceHead};
use crate::gateway::events::GatewayEventKind;
use crate::gateway::ledger::ClaimGuard;
use crate::gateway::loops::MOVED_TOO_OFTEN;
use crate::gateway::offer::{Grant, Offer, Reject};
use crate::gateway::peers::OtherOwner;
use crate::gateway::polls::posted::PostedAnswer;
use crate::gateway::refusals::EARLY;
use crate::gateway::refusals::REPLACED;
use crate::gateway::registry::{Claimed, Denied, Owner, Unclaimed};
use crate::gateway::state::{
    Claim, Command, Device, GatewayRole, Granted, HEAD, Journey, State, States,
};
use crate::proto::framed::FramedRequest;
use crate::proto::head::{self, LineEnds};
use crate::proto::interim::CONTINUE;
use crate::proto::turn::{self, Decision, Fallback, Name, Transport};
use crate::relay::LocalAnswer;
use crate::setting::CORS_ORIGIN;
use crate::stream::Stream;

const PORT_PURPOSE: &str =
    "devices connect here to be reached (reverse HTTP); visitors use another port";

/// The result of reading from the devices' port.
enum Arrived {
    NotYet,
    Closed,
    DeviceHead(Box<turn::Offer>, Box<DeviceHead>),
    /// A CORS preflight of a web page. `keep`: another request may follow.
    Preflight {
        origin: String,
        keep: bool,
    },
    /// With the origin of the page, if the operator lists it.
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
            Arrived::DeviceHead(offer, head) => self.consider(cx, id, *offer, head),
        }
    }

    fn read_offer(&mut self, cx: &mut Connections<State>, id: Id, scratch: &mut [u8]) -> Arrived {
        let Some(conn) = cx.get_mut(id) else { return Arrived::NotYet };
        match conn.flush() {
            Ok(true) => {}
            Ok(false) => return Arrived::NotYet, // a device that has not read the 204 to its last offer cannot make another
            Err(_) => return Arrived::Closed,
        }
        let filled = match conn.fetch(scratch, self.settings.limits.head_bytes_max + 1024) {
            Ok(Fetched::Bytes(n)) => n,
            Ok(Fetched::Nothing) if conn.is_broken() => return Arrived::Closed,
            Ok(Fetched::Nothing) => return Arrived::NotYet,
            Ok(Fetched::End) | Err(_) => return Arrived::Closed,
        };
        let bytes = &scratch[..filled];
        match head::request(bytes, &self.settings.limits, LineEnds::Crlf) {
            Err(refusal) => Arrived::Refused(refusal, None),
            Ok(None) if conn.is_over() => Arrived::Closed,
            Ok(None) => {
                conn.keep(bytes);
                if let State::Device(Device::Head { began, polled: true, .. }) = &mut conn.state {
                    if !std::mem::replace(began, true) {
                        cx.set_deadline(id, Some(cx.after(self.settings.limits.head_timeout))); // for the whole head, from its first byte
                    }
                }
                Arrived::NotYet
            }
            Ok(Some(request)) => {
                let behind = &bytes[request.len..];
                conn.keep(behind);
                match self.page(&request.fields) {
                    Ok(origin) => self.recognise(request, behind, origin),
                    Err(refusal) => Arrived::Refused(refusal, None),
                }
            }
        }
    }

    /// The origin of the page that sent a request, if the operator lists it. Requests of other
    /// origins are refused, and the connection ends.
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
                format!(
                    "a web page may not use this port: its Origin is not listed by the operator ({CORS_ORIGIN})"
                ),
            ));
        }
        Ok(origin.cloned())
    }

    /// protocol.md §1.3, in this order: the framing, the meaning of the request, its body, the
    /// bytes after it.
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
                    // The body is not read, so its bytes would be taken for the next request.
                    true => Arrived::Refused(
                        Refusal::new(400, "a preflight request (OPTIONS) has no body"),
                        Some(origin),
                    ),
                }
            }
            origin => match self.judge(&request, behind, origin.clone()) {
                Ok((offer, head)) => Arrived::DeviceHead(offer, Box::new(head)),
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
        // An extra line end is ignored (RFC 9112 §2.2), but before a turn every byte counts.
        if !request.has_body() && !behind.is_empty() && (turns || !head::are_line_ends(behind)) {
            return Err(Refusal::new(400, EARLY));
        }
        let head = DeviceHead::read(request, turns, origin)?;
        Ok((offer, head))
    }

    fn refuse_offer(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        refusal: &Refusal,
        origin: Option<&str>,
    ) {
        if let Some(conn) = cx.get(id) {
            log_names!(
                Info,
                "an offer or poll from {} was refused: {refusal}",
                conn.stream().remote_label()
            );
            let from = conn.stream().remote_ip();
            self.observe_refusal(None, from, (refusal.status, &refusal.reason));
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

    /// Calls `authorize` on a worker thread, if there is one.
    fn consider(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        wire: turn::Offer,
        head: Box<DeviceHead>,
    ) {
        let Some(conn) = cx.get_mut(id) else { return };
        let remote_ip: Option<IpAddr> = conn.stream().remote_ip();
        let (certificate, secure) = (conn.stream().certificate(), conn.stream().is_secure());
        conn.state = State::Device(Device::Deciding(head));
        let mut offer = Offer::new(wire, remote_ip, certificate);
        offer.secure = secure;
        // A certificate identifies the device as well as a token does; a device that presents one
        // needs no token.
        let checked = match &offer.certificate {
            Some(shown) if self.credentials.is_void(shown) => Err(Reject::new(401, REVOKED)),
            Some(_) => offer.check_certificate(),
            None => self.credentials.check(&mut offer, self.settings.limits.token_bytes_max),
        };
        if let Err(reject) = checked {
            return self.rejected(cx, id, &offer, &reject);
        }
        let Some(authorize) = self.settings.authorize.clone() else {
            return self.decided(cx, id, offer, Ok(Grant::offered()), Journey::default());
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
            self.stats.reached(Bound::AuthorizeQueue);
            self.deny_device(cx, id, 503, "too many offers wait to be decided", Some(5));
        }
    }

    pub(super) fn decided(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        offer: Offer,
        verdict: Result<Grant, Reject>,
        journey: Journey,
    ) {
        let may_move = self.loops.are_several() && cx.deciding(id).is_some();
        if let (Ok(grant), true) = (&verdict, may_move) {
            if let Some(to) = self.belongs_elsewhere(&granted_names(&offer, grant)) {
                return self.send_offer(cx, id, to, (offer, grant.clone()), journey);
            }
        }
        let Some(head) = cx.deciding(id) else {
            return;
        }; // it was closed meanwhile
        let (turns, transport, answers) = (head.turns, head.transport(), head.has_body());
        let last = head.last;
        if self.settings.on_link.is_some() && cx.leased() >= self.settings.limits.on_link_max {
            self.stats.reached(Bound::OnLink);
            return self.deny_device(
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
        // Events in progress may still be answered; no other device is accepted. A device that
        // polls here may do so as long as links are served.
        let polls_here = || {
            !turns
                && granted_names(&offer, &grant).iter().all(|name| self.registry.is_polling(name))
        };
        if self.lifecycle.is_ending() && !answers && (self.lifecycle.is_draining() || !polls_here())
        {
            return self.send_away(cx, id);
        }
        let names = granted_names(&offer, &grant);
        if self.comes_too_late(cx, id, turns, (&offer, &grant)) {
            return cx.close(id);
        }
        let granted = Granted { offer, grant, journey };
        let Some(granted) = self.claim_first(cx, id, granted, &names) else { return };
        let Granted { offer, grant, mut journey } = granted;
        let admitted = match self.admit(cx, &offer, &grant, transport, last) {
            Ok(admitted) => admitted,
            Err(Unclaimed::Denied(denied)) => return self.deny_offer(cx, id, &offer, &denied),
            Err(Unclaimed::Elsewhere(_)) => {
                let again = self.regroup(cx, id, (offer, grant), &names, journey);
                if let Some((offer, grant, journey)) = again {
                    self.decided(cx, id, offer, Ok(grant), journey);
                }
                return;
            }
        };
        let claim = std::mem::take(&mut journey.claim);
        self.hold_names(&admitted.registration, &admitted.owner, claim);
        for (name, session, at) in journey.replaced {
            self.registry.note_replaced(&name, session, at);
        }
        cx.seen(id);
        let switch = turns.then(|| self.switch(&offer, !answers));
        let Some(State::Device(Device::Deciding(head))) =
            cx.state_mut(id).map(|state| std::mem::replace(state, HEAD))
        else {
            return;
        };
        if answers {
            let posted = PostedAnswer::new(*head, admitted, switch, &self.settings.limits);
            self.begin_posting(cx, id, posted, offer.wire.expects_continue)
        } else {
            self.begin_admitted(cx, id, *head, admitted, switch)
        }
    }

    /// Returns true if the device has closed the connection since: a run of it that has ended must
    /// not take its names from the next one, whose offer was read earlier. A poll that takes nothing
    /// over may have ended its direction.
    fn comes_too_late(
        &self,
        cx: &mut Connections<State>,
        id: Id,
        turns: bool,
        (offer, grant): (&Offer, &Grant),
    ) -> bool {
        let names = granted_names(offer, grant);
        let takes_over = |owner: &Owner| {
            self.registry.would_replace(&names, owner) || self.has_to_claim(&names, owner, cx.now())
        };
        let matters = turns || self.owner_of(offer, grant, &names).is_ok_and(|o| takes_over(&o));
        let has_left = matters && cx.get_mut(id).is_some_and(Connection::has_left_by_now);
        if has_left {
            let whose = offer.whose();
            log_names!(
                Debug,
                "an offer for {whose} was dropped: its device has closed the connection"
            );
        }
        has_left
    }

    /// The table has answered the claim with this number. If it took too long, the device is
    /// admitted already, and another claim may be pending on its connection.
    pub(super) fn claim_answered(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        number: u64,
        claimed: Option<Result<ClaimGuard, OtherOwner>>,
    ) {
        if self.claiming.get(&id).is_some_and(|(waits, _)| *waits == number) {
            self.offer_claimed(cx, id, claimed);
        }
    }

    /// The result of claiming the names of an offer.
    pub(super) fn offer_claimed(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        claimed: Option<Result<ClaimGuard, OtherOwner>>,
    ) {
        if let Some(Granted { offer, grant, journey }) = self.claimed(cx, id, claimed) {
            self.decided(cx, id, offer, Ok(grant), journey);
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
        let Admitted { registration, owner, .. } =
            self.admit(cx, offer, grant, Transport::Turn, false).map_err(|why| {
                let (status, reason) = match why {
                    Unclaimed::Denied(denied) => (denied.status, denied.reason),
                    Unclaimed::Elsewhere(_) => (503, MOVED_TOO_OFTEN),
                };
                let text = format!("adopting a connection: {reason}");
                Error::refused(crate::Fault::Gateway, status, text, None)
            })?;
        match cx.insert(stream, unread, State::Device(Device::link(registration.clone()))) {
            Ok(id) => {
                self.hold_names(&registration, &owner, Claim::Later);
                self.registry.place(&registration, id);
                self.link_free(cx, id, Ok(()));
                Ok(())
            }
            Err(e) => {
                self.lease_ended(
                    cx,
                    &registration,
                    &CloseCause::Failed.because("it could not be adopted"),
                );
                Err(Error::io(crate::Fault::Gateway, "adopting a connection", e))
            }
        }
    }

    fn rejected(&mut self, cx: &mut Connections<State>, id: Id, offer: &Offer, reject: &Reject) {
        let (status, reason) = (reject.status, &*reject.reason);
        log_names!(Info, "an offer for {} was refused: {status} {reason}", offer.whose());
        self.observe_refusal(Some(offer), offer.remote_ip(), (status, reason));
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

    /// Reserves a place in the registry, reports replaced devices, and closes their links. A device
    /// with its `last` POST takes no name over, as it is leaving.
    fn admit(
        &mut self,
        cx: &mut Connections<State>,
        offer: &Offer,
        grant: &Grant,
        transport: Transport,
        last: bool,
    ) -> Result<Admitted, Unclaimed> {
        let names = granted_names(offer, grant);
        if names.is_empty() {
            let reason = "the credential is not for this name";
            return Err(Denied::new(403, reason, None).into());
        }
        let owner = self.owner_of(offer, grant, &names)?;
        if last && self.registry.would_replace(&names, &owner) {
            return Err(Denied::new(409, REPLACED, None).into());
        }
        let claimed = self.registry.claim(&names, &owner, transport, cx.now())?;
        if names.iter().any(|name| name.contains("://")) {
            self.origins.store(true, Relaxed);
        }
        if let Some(shown) = &offer.certificate {
            self.note_expiry(cx, shown);
        }
        self.tell_claimed(offer, &claimed, transport);
        self.observe_offer(offer, &claimed.registration, &owner);
        if !claimed.inherited.is_empty() {
            self.fail_events_of(cx, &claimed.inherited, &owner);
        }
        if !claimed.replaced.is_empty() {
            let registry = &self.registry;
            let replaced_leases = self.leases.ids(|registration| !registry.in_force(registration));
            for id in claimed.idle.into_iter().chain(claimed.polls) {
                // A link with several names is kept while it still has one of them.
                if cx
                    .registration(id)
                    .is_some_and(|registration| !self.registry.in_force(&registration))
                {
                    self.part(cx, id);
                }
            }
            self.evict_later(cx, claimed.busy, replaced_leases);
        }
        self.announce(&claimed.up);
        Ok(Admitted { registration: claimed.registration, owner, fresh: claimed.fresh })
    }

    /// Reports devices that were replaced, connected, or changed their transport.
    fn tell_claimed(&mut self, offer: &Offer, claimed: &Claimed, transport: Transport) {
        let by = match transport {
            Transport::Turn => offer.upgrade_token().to_owned(),
            transport => transport.to_string(),
        };
        for name in &claimed.replaced {
            self.tell(
                GatewayEventKind::Replaced,
                name,
                "a newer session of the device took the name over",
                Some(transport),
            );
        }
        for name in &claimed.up {
            self.tell(GatewayEventKind::Up, name, &by, Some(transport));
        }
        for name in &claimed.moved {
            self.tell(GatewayEventKind::Moved, name, &by, Some(transport));
        }
    }

    /// The bytes that turn a connection. `may_continue`: the requested 100 has not been sent yet.
    fn switch(&self, offer: &Offer, may_continue: bool) -> Vec<u8> {
        let mut switch = Vec::with_capacity(96);
        if offer.wire.expects_continue && may_continue {
            switch.extend_from_slice(CONTINUE); // RFC 9110 §7.8: before the 101
        }
        turn::write_switch(
            &mut switch,
            &offer.wire.token,
            &self.settings.offer_rules.dialects[offer.wire.dialect],
        );
        switch
    }
}

pub(super) fn granted_names(offer: &Offer, grant: &Grant) -> Vec<String> {
    match &grant.names {
        Some(names) => names.clone(),
        None => offer.wire.names.iter().map(Name::to_string).collect(),
    }
}
