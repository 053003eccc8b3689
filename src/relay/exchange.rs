//! One exchange: how it begins, and what the roles may query.

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
    /// The limits' waits, or those of its route.
    pub(crate) waits: Waits,
    /// Counts it among the requests of its route that are in flight.
    pub(crate) in_flight: Option<Held>,
    /// Index of the server that it is for, where its role has a list of servers.
    pub(crate) server: Option<usize>,
    /// The page that its visitor is shown instead of the reason if the device is away.
    pub(crate) offline: Option<Page>,
    /// The name of the upstream side for itself, if the downstream side uses another one.
    pub(crate) alias: Option<Box<Alias>>,
    /// Fields that an operator sets and removes in its response.
    pub(crate) edits: Option<Arc<FieldEdits>>,
    /// The name of a cookie that its role alone sets.
    pub(crate) own_cookie: Option<&'static str>,
    /// It looks like a device's offer or poll, at a port of visitors.
    pub(crate) is_of_device: bool,
    /// Its response asks for a login that belongs to the connection
    /// ([NTLM](crate::proto::bound_login)). That alone logs nobody in.
    pub(super) is_challenged: bool,
    /// The upstream side reads each request to its end, whatever it has answered: a device of this
    /// crate. Other servers may take the rest of a body for their next request.
    pub(super) upstream_reads_on: bool,
    /// The upstream side may not have read the request's body, though it has it whole: one that such
    /// a request does not usually have, or of a request that it refused. What is left of it would be
    /// its next request, of whichever visitor comes next.
    pub(super) may_leave_body: bool,
    /// The state of a hop to another gateway, and the number of vain ones.
    pub(super) hop: Hop,
    /// Reports to the operator of the gateway, when it is dropped.
    pub(crate) observed: Observed,
}

/// A hop to another gateway.
#[derive(Debug, Default)]
pub(super) struct Hop {
    /// Set if the upstream side is another gateway: the value of `first_byte` before.
    pub(super) first_byte: Option<Wait>,
    /// Gateways that did not have the device.
    pub(super) misses: u8,
    /// The latest of them, if it was the last to be asked: its hint about the device.
    pub(super) missed: Option<Miss>,
    /// The words in which it refused this gateway's certificate, if it did.
    pub(super) alert: Box<str>,
    /// The other gateway was told that the client has ended its direction.
    pub(super) is_ended: bool,
}

impl Exchange {
    /// An exchange for a request whose forwarded head is `head`. The downstream connection keeps
    /// the bytes behind its own head.
    pub(crate) fn new(
        downstream: Id,
        request: &RequestHead<'_>,
        framing: Framing,
        head: Vec<u8>,
        limits: &Limits,
        now: Instant,
    ) -> Self {
        let keeps = head::keeps_alive(request.minor, &request.fields);
        Exchange {
            caller: Caller::Client(Client::new(downstream, request.minor, keeps)),
            request: Request::new(request, framing, head, limits),
            clocks: Clocks::new(now, None),
            ..Self::heartbeat(Vec::new(), Duration::ZERO, limits, now)
        }
    }

    /// Fields that an operator sets and removes in the request, whose head has already been edited.
    pub(crate) fn edit_trailers(&mut self, edits: Option<Arc<FieldEdits>>) {
        self.request.edits = edits;
    }

    /// A request of the loop's own, without a body and with no client: a heartbeat. Any response
    /// will do; it has to be complete within `deadline`.
    pub(crate) fn heartbeat(
        head: Vec<u8>,
        deadline: Duration,
        limits: &Limits,
        now: Instant,
    ) -> Self {
        let within = Wait { time: deadline, name: "heartbeat_timeout" };
        Exchange {
            caller: Caller::Probe,
            request: Request::bare(head, limits),
            phase: Phase::Waiting,
            beginning: Beginning::default(),
            clocks: Clocks::new(now, Some(within)),
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

    /// The connection that its response comes on.
    pub(super) fn upstream(&self) -> Option<Id> {
        self.phase.link()
    }

    /// Sets whether the next upstream reads each request to its end, whatever it has answered.
    pub(crate) fn upstream_reads_on(&mut self, reads_on: bool) {
        self.upstream_reads_on = reads_on;
    }

    /// Another gateway is asked next, which waits for a link itself, and begins its answer at the
    /// latest when the device could have begun its own; `grace` later it is given up.
    /// `kept`: a share of nothing yet, for the beginning of the request's body.
    pub(crate) fn begins_hop(&mut self, grace: Duration, kept: Held) {
        self.request.keep_body(kept);
        let first_byte = self.waits.first_byte;
        self.hop.first_byte = Some(first_byte);
        if first_byte.is_bounded() {
            self.waits.first_byte.time = first_byte.time + self.waits.link.time + grace;
        }
        self.upstream_reads_on = true; // it drains an unwanted rest, or says that it closes
    }

    /// The next upstream is one of this gateway.
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

    /// Gateways that were asked and did not have the device.
    pub(crate) fn misses(&self) -> u8 {
        self.hop.misses
    }

    /// What the gateway that was asked knows of a device that it does not have.
    pub(crate) fn miss(&self) -> Option<Miss> {
        self.hop.missed
    }

    /// In which words it refused this gateway's certificate; else empty.
    pub(crate) fn alert(&self) -> &str {
        &self.hop.alert
    }

    /// The same as [`miss`](Self::miss), told once.
    pub(crate) fn take_miss(&mut self) -> Option<Miss> {
        self.hop.missed.take()
    }

    /// The upstream side in error texts.
    pub(super) fn upstream_name(&self, rules: &Rules) -> &'static str {
        if self.is_hop() { "the gateway that has the device" } else { rules.upstream_name }
    }

    /// Its response may come as AirPlay senders write it.
    pub(crate) fn takes_event_version(&mut self) {
        self.beginning.takes_events = true;
    }

    /// The request as it is sent: its head, and its body where that was collected.
    pub(crate) fn request(&self) -> &[u8] {
        self.request.text.bytes()
    }

    /// The same where a body was collected, to be read on another thread.
    pub(crate) fn collected(&self) -> Option<Arc<Vec<u8>>> {
        match &self.request.text {
            Text::Whole { bytes, .. } => Some(bytes.clone()),
            Text::Head { .. } | Text::Forgotten => None,
        }
    }

    /// Counts the memory that its head takes, for as long as it is kept.
    pub(crate) fn count(&mut self, memory: &Budget) {
        self.request.text.count(memory);
    }

    /// Returns true if the loop itself asks.
    pub(crate) fn is_probe(&self) -> bool {
        matches!(self.caller, Caller::Probe)
    }

    /// Since when nothing has moved, where the request was sent whole and nothing of a final response
    /// has come.
    pub(crate) fn owed_since(&self) -> Option<Instant> {
        let is_owed = self.is_whole() && !self.is_answered() && !self.is_waiting();
        is_owed.then_some(self.clocks.progress)
    }

    /// Returns true if the request is whole in memory.
    pub(crate) fn is_whole(&self) -> bool {
        self.request.body.is_done()
    }

    /// Returns true if the request can be handed out whole: it has no body, or that was collected.
    pub(crate) fn is_enclosed(&self) -> bool {
        self.is_whole() && self.request.kept.is_none()
    }

    /// What its request's body says of its length.
    pub(crate) fn announced(&self) -> Option<u64> {
        let kept = self.request.kept.as_ref().map_or(0, |kept| kept.bytes().len());
        self.request.body.remaining().map(|left| left + kept as u64)
    }

    /// Returns true if its request's body is being collected.
    pub(crate) fn is_collecting(&self) -> bool {
        matches!(self.phase, Phase::Collecting(_))
    }

    /// The request's body as far as it is collected.
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

    /// Returns true if the whole response was written to the downstream side.
    pub(super) fn is_delivered(&self) -> bool {
        self.phase.receiving().is_some_and(|response| response.is_delivered)
    }

    /// Returns true if the head of a response is on its way to the downstream side.
    pub(crate) fn is_answered(&self) -> bool {
        self.phase.is_tunnel() || self.phase.receiving().is_some_and(|response| response.is_told)
    }

    /// Returns true if the downstream connection can be used again if the exchange ends here,
    /// before its response. Not in HTTP/1.0, which would have to be told `keep-alive`.
    pub(crate) fn may_keep_caller(&self) -> bool {
        self.caller.client().is_some_and(|client| client.keeps && client.minor > 0)
            && self.request.body.is_done()
    }

    /// No other request follows on the downstream connection; its response says so where it has
    /// not begun.
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

    /// Its gateway or device stops: a half-ended exchange is not waited for any longer.
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

    /// Returns true if the request offers to switch to another protocol, and says so on its way.
    pub(crate) fn wants_upgrade(&self) -> bool {
        self.request.wants_upgrade
    }

    /// Returns true if the request was sent once, in vain, and is to be sent again.
    pub(crate) fn is_retried(&self) -> bool {
        self.request.retry == Retry::Spent
    }

    /// Returns true if the request is part of a login that belongs to the connection: its upstream
    /// serves this visitor alone.
    pub(crate) fn is_bound(&self) -> bool {
        self.request.is_bound
    }

    /// Returns true if the upstream side may have left the request's body unread, so that its
    /// connection is for nobody else.
    pub(crate) fn may_leave_body(&self) -> bool {
        self.may_leave_body
    }

    /// Returns true if the response asks for such a login. Nobody is logged in by that.
    pub(crate) fn is_challenged(&self) -> bool {
        self.is_challenged
    }

    /// How a device's gateway names the visitor's connection that this request and the one before
    /// it come from.
    pub(crate) fn same_visitor(&self) -> Option<&[u8]> {
        self.request.same_visitor.as_deref()
    }

    /// Returns true if no byte of the request's body is gone: it can be sent to another upstream.
    pub(crate) fn is_unspent(&self) -> bool {
        self.request.is_unspent()
    }

    /// Returns true if it may be sent on another connection.
    pub(super) fn may_retry(&self) -> bool {
        self.request.retry == Retry::Allowed
            && !self.beginning.has_begun
            && self.caller.client().is_some()
    }

    /// Returns true while a short rest of a request is read whose response is whole: its response
    /// did not say that its connection ends.
    pub(super) fn awaits_rest(&self) -> bool {
        self.caller.client().is_some_and(|client| client.keeps)
            && !self.request.body.is_done()
            && self.phase.is_whole()
    }

    /// What its whole messages take of the budget.
    pub(super) fn held(&self) -> Option<&Held> {
        let of_response = self.phase.receiving().and_then(|response| response.held.as_ref());
        of_response.or(self.request.text.held())
    }

    /// Returns true if its response's body ends with the downstream connection.
    pub(super) fn ends_with_connection(&self) -> bool {
        self.phase
            .receiving()
            .is_some_and(|Receiving { framing, .. }| *framing == Framing::UntilClose)
    }
}
