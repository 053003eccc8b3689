//! One exchange in progress: its state, how it begins, and what others may ask of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::budget::{Budget, Held};
use crate::engine::connections::Id;
use crate::limits::Limits;
use crate::observe::Observed;
use crate::proto::body::{Decoder, Framing};
use crate::proto::forward::{self, Alias};
use crate::proto::head::{self, RequestHead};
use crate::relay::gathering::Gathering;
use crate::relay::tunnel::Tunnel;
use crate::relay::waits::Waits;

/// One exchange in progress.
pub(crate) struct Exchange {
    pub(crate) downstream: Option<Id>,
    pub(crate) upstream: Option<Id>,
    /// The head as forwarded: kept until the response begins, in case it has to be sent again.
    pub(super) head: Vec<u8>,
    /// Where the request begins among all that goes out on the upstream connection.
    pub(super) mark: Option<u64>,
    /// Bytes that waited there before it: the 101 of an offer that was held.
    pub(super) before: usize,
    /// In place of the head, once its body is collected: both. A helper may be reading it.
    pub(super) whole: Option<Arc<Vec<u8>>>,
    /// What its head takes of the memory that is counted.
    pub(super) counted: Option<Held>,
    pub(super) is_head: bool,
    pub(crate) idempotent: bool,
    pub(super) downstream_minor: u8,
    pub(super) downstream_keeps: bool,
    pub(super) request: Decoder,
    pub(super) request_chunked: bool,
    /// Bytes of the request's body went to the upstream side: it cannot be sent again.
    pub(super) body_moved: bool,
    /// The upstream side takes no more of the request, or the downstream side sends no more of it;
    /// yet an answer may still come.
    pub(super) request_cut: bool,
    /// The downstream side reads no more, yet what it sent may be a whole request.
    pub(super) downstream_deaf: bool,
    pub(super) response: Option<Decoder>,
    pub(super) response_chunked: bool,
    pub(super) response_until_close: bool,
    pub(super) informational: usize,
    /// A line end came before the response.
    pub(super) strayed: bool,
    /// The response may begin with `EVENT/1.0`.
    pub(super) takes_events: bool,
    /// The downstream side was told `100 Continue`.
    pub(super) continued: bool,
    /// A byte of a response arrived.
    pub(super) began: bool,
    /// Some of a response's head is here, and not all of it; since when.
    pub(super) half_head: bool,
    pub(super) head_since: Option<Instant>,
    /// A response head is on its way to the downstream side.
    pub(crate) answered: bool,
    pub(crate) retried: bool,
    pub(super) upstream_keeps: bool,
    /// The upstream side reads each request to its end, whatever it has answered: a device of this
    /// crate. Other servers may take the rest of a body for their next request.
    pub(super) upstream_reads_on: bool,
    /// Part of the request was not written when the step began that reads of the response.
    pub(super) unsent: bool,
    pub(super) progress: Instant,
    pub(super) seen: u64,
    /// The window of the least rate at which the downstream side takes its answer: since when, and
    /// what it had taken then.
    pub(super) rate_from: Option<(Instant, u64)>,
    /// The same for what it sends of its request.
    pub(super) send_from: Option<(Instant, u64)>,
    pub(super) drained: usize,
    /// Instead of all other deadlines: of a heartbeat, or of a small rest that is drained for
    /// nobody.
    pub(super) whole_within: Option<Duration>,
    /// A request of the loop's own, which asks for a sign of life.
    pub(super) is_probe: bool,
    /// The downstream side has ended its direction, and is most likely gone.
    pub(super) downstream_ended: bool,
    /// The same where it may do so and still want its answer: since when, or since when callers
    /// were last looked for.
    pub(super) half_closed: Option<Instant>,
    /// Its gateway or device stops: what is half ended is not waited for.
    pub(super) hurried: bool,
    /// The limits' waits, or those of its route.
    pub(crate) waits: Waits,
    /// Its place among the requests that its route lets be in flight.
    pub(crate) place: Option<Held>,
    /// The request offers to switch to another protocol, and says so on its way.
    pub(crate) wants_upgrade: bool,
    /// It has been switched.
    pub(super) tunnel: Option<Tunnel>,
    /// The downstream side waits for `100 Continue` before it sends its body.
    pub(super) expects_continue: bool,
    /// The request's body so far, while it is collected.
    pub(super) collected: Option<Gathering>,
    /// The response comes as the body of this message.
    pub(super) enclosing: Option<Enclosing>,
    /// What its whole messages take of the budget.
    pub(super) held: Option<Held>,
    /// Its request is part of a login that belongs to the connection ([`head::is_bound_login`]):
    /// who answers it serves this visitor alone.
    pub(crate) bound: bool,
    /// Its answer asks for such a login. Nobody is logged in by that.
    pub(crate) challenged: bool,
    /// What the upstream side takes itself for, where that is not what the downstream side called
    /// it.
    pub(crate) alias: Option<Box<Alias>>,
    /// Its request says that it comes from the same visitor's connection as the one before it
    /// ([`forward::SAME_VISITOR`]), in the words that a device's gateway uses.
    pub(crate) same_visitor: Option<Box<[u8]>>,
    /// Reports to whoever operates the gateway, when it is dropped.
    pub(crate) observed: Observed,
}

/// The message that a response is the body of: a device's POST.
pub(super) struct Enclosing {
    pub(super) decoder: Decoder,
    /// Bytes of the response that were read before the exchange got the connection.
    pub(super) first: Vec<u8>,
}

impl Enclosing {
    pub(super) fn is_done(&self) -> bool {
        self.first.is_empty() && self.decoder.is_done()
    }
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
        Exchange {
            downstream: Some(downstream),
            is_head: request.method == "HEAD",
            idempotent: head::is_idempotent(request.method),
            downstream_minor: request.minor,
            downstream_keeps: head::keeps_alive(request.minor, &request.fields),
            request: Decoder::new(framing, limits),
            request_chunked: framing == Framing::Chunked,
            retried: false,
            whole_within: None,
            is_probe: false,
            wants_upgrade: wants_upgrade(request, framing),
            expects_continue: request.minor > 0 && request.fields.lists("Expect", "100-continue"),
            bound: head::has_bound_login(&request.fields),
            same_visitor: request.fields.get(forward::SAME_VISITOR).map(Into::into),
            ..Self::heartbeat(head, Duration::ZERO, limits, now)
        }
    }

    /// A request of the loop's own, without a body and with nobody who wants the answer: a
    /// heartbeat. Its answer has to be whole within `deadline`; any will do.
    pub(crate) fn heartbeat(
        head: Vec<u8>,
        deadline: Duration,
        limits: &Limits,
        now: Instant,
    ) -> Self {
        Exchange {
            downstream: None,
            upstream: None,
            head,
            mark: None,
            before: 0,
            whole: None,
            counted: None,
            is_head: false,
            idempotent: false,
            downstream_minor: 1,
            downstream_keeps: true,
            request: Decoder::new(Framing::Empty, limits),
            request_chunked: false,
            body_moved: false,
            request_cut: false,
            downstream_deaf: false,
            response: None,
            response_chunked: false,
            response_until_close: false,
            informational: 0,
            strayed: false,
            takes_events: false,
            continued: false,
            began: false,
            half_head: false,
            head_since: None,
            answered: false,
            retried: true,
            upstream_keeps: false,
            upstream_reads_on: false,
            unsent: false,
            progress: now,
            seen: 0,
            rate_from: None,
            send_from: None,
            drained: 0,
            whole_within: Some(deadline),
            is_probe: true,
            downstream_ended: false,
            half_closed: None,
            hurried: false,
            waits: Waits::of(limits),
            place: None,
            wants_upgrade: false,
            tunnel: None,
            expects_continue: false,
            collected: None,
            enclosing: None,
            held: None,
            bound: false,
            challenged: false,
            alias: None,
            same_visitor: None,
            observed: Observed::default(),
        }
    }

    /// Says whether who is asked next reads each request to its end, whatever it has answered.
    pub(crate) fn upstream_reads_on(&mut self, reads_on: bool) {
        self.upstream_reads_on = reads_on;
    }

    /// Its answer may come as AirPlay senders write it.
    pub(crate) fn takes_event_version(&mut self) {
        self.takes_events = true;
    }

    /// The request as it is sent: its head, and its body where that was collected.
    pub(crate) fn request(&self) -> &[u8] {
        self.whole.as_ref().map_or(&self.head, |whole| whole)
    }

    /// The same where a body was collected, to be read on another thread.
    pub(crate) fn collected(&self) -> Option<Arc<Vec<u8>>> {
        self.whole.clone()
    }

    /// Counts the memory that its head takes, for as long as it is kept.
    pub(crate) fn count(&mut self, memory: &Budget) {
        let mut counted = memory.share();
        counted.force(self.head.capacity());
        self.counted = Some(counted);
    }

    /// Whether the request is whole in memory.
    pub(crate) fn is_whole(&self) -> bool {
        self.request.is_done()
    }

    /// What its request's body says of its length.
    pub(crate) fn announced(&self) -> Option<u64> {
        self.request.remaining()
    }

    /// Whether its request's body is being collected.
    pub(crate) fn is_collecting(&self) -> bool {
        self.collected.is_some()
    }

    /// The request's body as far as it is collected.
    pub(crate) fn gathering(&mut self) -> Option<&mut Gathering> {
        self.collected.as_mut()
    }

    /// Whether it may be sent on another connection: protocol.md §3, *retry on a fresh link*.
    pub(super) fn may_retry(&self) -> bool {
        !self.began
            && !self.retried
            && !self.body_moved
            && self.idempotent
            && self.downstream.is_some()
    }

    /// Whether it was switched to another protocol.
    pub(crate) fn is_tunnel(&self) -> bool {
        self.tunnel.is_some()
    }

    /// Whether it has no upstream connection yet.
    pub(crate) fn is_waiting(&self) -> bool {
        self.upstream.is_none() && self.response.is_none()
    }

    /// Whether the downstream connection can be used again if the exchange ends here, before its
    /// response. Not in HTTP/1.0, which would have to be told `keep-alive`.
    pub(crate) fn may_keep_asker(&self) -> bool {
        self.downstream_keeps && self.downstream_minor > 0 && self.request.is_done()
    }

    /// Whether the request is HEAD.
    pub(crate) fn is_head(&self) -> bool {
        self.is_head
    }

    /// A request that was handed out whole, and is being answered, is not sent again.
    pub(super) fn forget_request(&mut self) {
        (self.head, self.whole, self.counted, self.held, self.retried) =
            (Vec::new(), None, None, None, true);
    }

    pub(super) fn method(&self) -> &'static str {
        if self.is_head { "HEAD" } else { "GET" } // all that framing wants to know of a method
    }

    pub(super) fn response_is_whole(&self) -> bool {
        self.response.as_ref().is_some_and(Decoder::is_done)
            && self.enclosing.as_ref().is_none_or(Enclosing::is_done)
    }

    /// Its gateway or device stops: what is half ended is not waited for any longer.
    pub(crate) fn hurry(&mut self) {
        self.hurried = true;
    }

    /// No other request follows on the downstream connection; its answer says so where it has not
    /// begun.
    pub(crate) fn last_of_asker(&mut self) {
        self.downstream_keeps &= self.answered;
    }
}

/// Whether a request offers another protocol that may pass. `h2c` does not count: it is never
/// honoured and never forwarded, as if it were absent. Nor does an offer with a body (T9): where
/// the body ends and the other protocol begins, two parsers may see differently.
pub(crate) fn wants_upgrade(request: &RequestHead<'_>, framing: Framing) -> bool {
    if framing != Framing::Empty {
        return false;
    }
    let offers = request.fields.list("Upgrade").any(|token| !token.eq_ignore_ascii_case(b"h2c"));
    request.minor > 0 && offers && request.fields.lists("Connection", "upgrade")
}
