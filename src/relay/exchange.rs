//! One exchange: its beginning, and the queries of the roles.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::budget::{Budget, Held};
use crate::engine::connections::Id;
use crate::limits::Limits;
use crate::observe::Observed;
use crate::proto::alias::Alias;
use crate::proto::body::Framing;
use crate::proto::edits::FieldEdits;
use crate::proto::head::{self, RequestHead};
use crate::proto::peer::Miss;
use crate::relay::caller::{Caller, Client};
use crate::relay::clocks::Clocks;
use crate::relay::gathering::Gathering;
use crate::relay::local_answer::Page;
use crate::relay::phase::{Beginning, Phase, Receiving};
use crate::relay::request::{Request, Retry, Text};
use crate::relay::rules::Rules;
use crate::relay::timeouts::{Wait, Waits};

/// One exchange in progress.
pub(crate) struct Exchange {
    pub(super) caller: Caller,
    pub(super) request: Request,
    pub(super) phase: Phase,
    pub(super) beginning: Beginning,
    pub(super) clocks: Clocks,
    /// Its timeouts: those of the limits, or of its route.
    pub(crate) waits: Waits,
    /// Counts it among the requests of its route that are in flight.
    pub(crate) in_flight: Option<Held>,
    /// The index of its server, if the role has a list of servers.
    pub(crate) server: Option<usize>,
    /// The page that its visitor gets instead of the reason if the device is not connected.
    pub(crate) offline: Option<Page>,
    /// The name that the upstream side uses for itself, if the downstream side uses another one.
    pub(crate) alias: Option<Box<Alias>>,
    /// Edits of an operator to the fields of its response.
    pub(crate) edits: Option<Arc<FieldEdits>>,
    /// The name of a cookie that only its role sets.
    pub(crate) own_cookie: Option<&'static str>,
    /// It looks like a device's offer or poll, but came to a visitors' port.
    pub(crate) is_of_device: bool,
    /// Its response asks for a login that belongs to the connection
    /// ([NTLM](crate::proto::bound_login)). The challenge alone is no login.
    pub(super) is_challenged: bool,
    /// The upstream side, a device of this crate, reads each request to its end even after it has
    /// answered. Other servers may take the rest of a body for their next request.
    pub(super) upstream_reads_on: bool,
    /// The upstream side has received the whole body of the request but may not have read it,
    /// because such a request usually has none, or because it refused the request. It would take an
    /// unread rest for the next visitor's request.
    pub(super) may_leave_body: bool,
    /// The state of a hop to another gateway, and the number of failed ones.
    pub(super) hop: Hop,
    /// Reports to the operator of the gateway, when it is dropped.
    pub(crate) observed: Observed,
}

/// A hop to another gateway.
#[derive(Debug, Default)]
pub(super) struct Hop {
    /// The previous value of `first_byte`, if the upstream side is another gateway.
    pub(super) first_byte: Option<Wait>,
    /// The number of gateways that did not have the device.
    pub(super) misses: u8,
    /// The hint about the device from the gateway that was asked last, if it did not have the
    /// device.
    pub(super) missed: Option<Miss>,
    /// The text with which it refused this gateway's certificate, if it did.
    pub(super) alert: Box<str>,
    /// The other gateway was told that the client has ended its direction.
    pub(super) is_ended: bool,
}

impl Exchange {
    /// An exchange for a request whose forwarded head is `head`. The downstream connection keeps
    /// the bytes after its own head.
    pub(crate) fn new(
        downstream: Id,
        request: &RequestHead<'_>,
        framing: Framing,
        head: Vec<u8>,
        limits: &Limits,
        now: Instant,
    ) -> Self {
        let keeps = head::keeps_alive(request.minor, &request.fields);
        let caller = Caller::Client(Client::new(downstream, request.minor, keeps));
        let request = Request::new(request, framing, head, limits);
        Self::of(caller, request, Clocks::new(now, None), limits)
    }

    /// Sets the operator's edits to fields of the request; its head has already been edited.
    pub(crate) fn edit_trailers(&mut self, edits: Option<Arc<FieldEdits>>) {
        self.request.edits = edits;
    }

    /// A heartbeat: a request of the loop itself, without a body and without a client. Any response
    /// is accepted; it has to be complete within `deadline`.
    pub(crate) fn heartbeat(
        head: Vec<u8>,
        deadline: Duration,
        limits: &Limits,
        now: Instant,
    ) -> Self {
        let within = Wait { time: deadline, name: "heartbeat_timeout" };
        let clocks = Clocks::new(now, Some(within));
        Self::of(Caller::Probe, Request::bare(head, limits), clocks, limits)
    }

    fn of(caller: Caller, request: Request, clocks: Clocks, limits: &Limits) -> Self {
        Exchange {
            caller,
            request,
            phase: Phase::Waiting,
            beginning: Beginning::default(),
            clocks,
            waits: Waits::of(limits),
            in_flight: None,
            server: None,
            offline: None,
            alias: None,
            edits: None,
            own_cookie: None,
            is_of_device: false,
            is_challenged: false,
            upstream_reads_on: false,
            may_leave_body: false,
            hop: Hop::default(),
            observed: Observed::default(),
        }
    }

    /// The connection that its request came from, while its client wants the response.
    pub(crate) fn downstream(&self) -> Option<Id> {
        self.caller.client().map(|client| client.id)
    }

    /// The connection from which its response comes.
    pub(super) fn upstream(&self) -> Option<Id> {
        self.phase.link()
    }

    /// Sets whether the next upstream reads each request to its end even after it has answered.
    pub(crate) fn upstream_reads_on(&mut self, reads_on: bool) {
        self.upstream_reads_on = reads_on;
    }

    /// Another gateway is asked next. It waits for a link itself, and has to begin its answer by
    /// the time at which the device would have to; `grace` later it is given up. `kept` is an empty
    /// share of the budget, for the beginning of the request's body.
    pub(crate) fn begins_hop(&mut self, grace: Duration, kept: Held) {
        self.request.keep_body(kept);
        let first_byte = self.waits.first_byte;
        self.hop.first_byte = Some(first_byte);
        if first_byte.is_bounded() {
            self.waits.first_byte.time = first_byte.time + self.waits.link.time + grace;
        }
        self.upstream_reads_on = true; // it drains an unwanted rest, or announces that it closes
    }

    /// The next upstream is one of this gateway's devices.
    pub(super) fn ends_hop(&mut self) {
        if let Some(first_byte) = self.hop.first_byte.take() {
            self.waits.first_byte = first_byte;
        }
        self.hop.is_ended = false;
    }

    /// Returns true if the upstream side is another gateway.
    pub(super) fn is_hop(&self) -> bool {
        self.hop.first_byte.is_some()
    }

    /// The number of gateways that were asked and did not have the device.
    pub(crate) fn misses(&self) -> u8 {
        self.hop.misses
    }

    /// The hint about the device from the gateway that was asked and does not have it.
    pub(crate) fn miss(&self) -> Option<Miss> {
        self.hop.missed
    }

    /// The text with which it refused this gateway's certificate; empty if it did not.
    pub(crate) fn alert(&self) -> &str {
        &self.hop.alert
    }

    /// Like [`miss`](Self::miss), but returns it only once.
    pub(crate) fn take_miss(&mut self) -> Option<Miss> {
        self.hop.missed.take()
    }

    /// The upstream side in error texts.
    pub(super) fn upstream_name(&self, rules: &Rules) -> &'static str {
        if self.is_hop() { "the gateway that has the device" } else { rules.upstream_name }
    }

    /// Accepts a response in the form that AirPlay senders use.
    pub(crate) fn takes_event_version(&mut self) {
        self.beginning.takes_events = true;
    }

    /// The request as it is sent: its head, and its body if that was collected.
    pub(crate) fn request(&self) -> &[u8] {
        self.request.text.bytes()
    }

    /// The same if a body was collected, to be read on another thread.
    pub(crate) fn collected(&self) -> Option<Arc<Vec<u8>>> {
        match &self.request.text {
            Text::Whole { bytes, .. } => Some(bytes.clone()),
            Text::Head { .. } | Text::Forgotten => None,
        }
    }

    /// Counts the memory of its head, for as long as it is kept.
    pub(crate) fn count(&mut self, memory: &Budget) {
        self.request.count(memory);
    }

    /// Returns true if this is a heartbeat of the loop itself.
    pub(crate) fn is_probe(&self) -> bool {
        matches!(self.caller, Caller::Probe)
    }

    /// The time since which no byte has moved, if the request was sent completely and no byte of a
    /// final response has arrived.
    pub(crate) fn owed_since(&self) -> Option<Instant> {
        let is_owed = self.is_whole() && !self.is_answered() && !self.is_waiting();
        is_owed.then_some(self.clocks.progress)
    }

    /// Returns true if the whole request is in memory.
    pub(crate) fn is_whole(&self) -> bool {
        self.request.body.is_done()
    }

    /// Returns true if the request can be handed out as an event: it has no body, or its body was
    /// collected.
    pub(crate) fn is_enclosed(&self) -> bool {
        self.is_whole() && self.request.kept.is_none()
    }

    /// The announced length of its request's body.
    pub(crate) fn announced(&self) -> Option<u64> {
        let kept = self.request.kept.as_ref().map_or(0, |kept| kept.bytes().len());
        self.request.body.remaining().map(|left| left + kept as u64)
    }

    /// Returns true if its request's body is being collected.
    pub(crate) fn is_collecting(&self) -> bool {
        matches!(self.phase, Phase::Collecting(_))
    }

    /// The part of the request's body that has been collected.
    pub(crate) fn gathering(&mut self) -> Option<&mut Gathering> {
        match &mut self.phase {
            Phase::Collecting(gathering) => Some(gathering),
            _ => None,
        }
    }

    /// Returns true if it was switched to another protocol.
    pub(crate) fn is_tunnel(&self) -> bool {
        self.phase.is_tunnel()
    }

    /// Returns true if it has no upstream connection yet.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Waiting | Phase::Collecting(_))
    }

    /// Returns true if the whole response has been written to the downstream side.
    pub(super) fn is_delivered(&self) -> bool {
        self.phase.receiving().is_some_and(|response| response.is_delivered)
    }

    /// Returns true if the head of a response is on its way to the downstream side.
    pub(crate) fn is_answered(&self) -> bool {
        self.phase.is_tunnel() || self.phase.receiving().is_some_and(|response| response.is_told)
    }

    /// Returns true if the downstream connection can be used again if the exchange ends here,
    /// before its response. Not with HTTP/1.0, which would need `keep-alive` in the response.
    pub(crate) fn may_keep_caller(&self) -> bool {
        self.caller.client().is_some_and(|client| client.keeps && client.minor > 0)
            && self.request.body.is_done()
    }

    /// No other request follows on the downstream connection. The response says so if it has not
    /// begun.
    pub(crate) fn last_of_caller(&mut self) {
        let answered = self.is_answered();
        if let Some(client) = self.caller.client_mut() {
            client.keeps &= answered;
        }
    }

    /// Returns true if the downstream side has ended its direction, and is most likely gone.
    pub(crate) fn has_lost_caller(&self) -> bool {
        self.caller.has_ended()
    }

    /// The gateway or device is stopping: a half-ended exchange is no longer waited for.
    pub(crate) fn hurry(&mut self) {
        self.clocks.is_hurried = true;
    }

    /// Returns true if the request is HEAD.
    pub(crate) fn is_head(&self) -> bool {
        self.request.is_head
    }

    /// Returns true if the request's method is idempotent.
    pub(crate) fn is_idempotent(&self) -> bool {
        self.request.is_idempotent
    }

    /// Returns true if the request offers to switch to another protocol, and the forwarded head
    /// does, too.
    pub(crate) fn wants_upgrade(&self) -> bool {
        self.request.offered.is_some()
    }

    /// Returns true if the request was sent once without success, and is to be sent again.
    pub(crate) fn is_retried(&self) -> bool {
        self.request.retry == Retry::Spent
    }

    /// Returns true if the request is part of a login that belongs to the connection: its upstream
    /// connection serves only this visitor.
    pub(crate) fn is_bound(&self) -> bool {
        self.request.is_bound
    }

    /// Returns true if the upstream side may have left the request's body unread, so that no other
    /// visitor may use its connection.
    pub(crate) fn may_leave_body(&self) -> bool {
        self.may_leave_body
    }

    /// Returns true if the response asks for such a login. The challenge alone is no login.
    pub(crate) fn is_challenged(&self) -> bool {
        self.is_challenged
    }

    /// The name that a device's gateway gives to the visitor's connection from which this request
    /// and the previous one come.
    pub(crate) fn same_visitor(&self) -> Option<&[u8]> {
        self.request.same_visitor.as_deref()
    }

    /// Returns true if no byte of the request's body has been lost, so that it can be sent to
    /// another upstream.
    pub(crate) fn is_unspent(&self) -> bool {
        self.request.is_unspent()
    }

    /// Returns true if the request may be sent again on another connection.
    pub(super) fn may_retry(&self) -> bool {
        self.request.retry == Retry::Allowed
            && !self.beginning.has_begun
            && self.caller.client().is_some()
    }

    /// Returns true while a short rest of the request is read although the response is complete,
    /// because the response did not announce the end of the connection.
    pub(super) fn awaits_rest(&self) -> bool {
        self.caller.client().is_some_and(|client| client.keeps)
            && !self.request.body.is_done()
            && self.phase.is_whole()
    }

    /// The share of the budget that its whole messages use.
    pub(super) fn held(&self) -> Option<&Held> {
        let of_response = self.phase.receiving().and_then(|response| response.held.as_ref());
        of_response.or(self.request.text.held())
    }

    /// Returns true if the end of the downstream connection is the end of its response's body.
    pub(super) fn ends_with_connection(&self) -> bool {
        self.phase
            .receiving()
            .is_some_and(|Receiving { framing, .. }| *framing == Framing::UntilClose)
    }
}
