//! Layer 4: one exchange from a downstream connection to an answering one, streamed, in the event
//! loop.
//!
//! The same code carries a visitor's request to a device's link and, inside the device, a link's
//! request to a local server. It costs no thread, keeps both sockets registered, and reads from
//! nobody while the other side has not taken what was read before; of an answer it reads a little
//! ahead, so that a slow visitor does not hold the link.
//!
//! ```text
//!   asking ──head, body──► answering        pump_request: nothing is read while the upstream side has bytes waiting
//!   asking ◄──head, body── answering        pump_response: up to read_ahead_bytes_max may wait for the downstream side
//! ```
//! A device that polls (protocol.md §2) has no upstream connection while it works: the request is
//! *collected* into memory and handed out by the role, and the answer comes whole ([`deliver`]) or
//! as the body of a POST, which then is the upstream connection ([`attach_enclosed`]).
//!
//! A request that offers another protocol (WebSocket) and is answered with 101 becomes a *tunnel*:
//! bytes go both ways as they come, each direction ends by itself, and the upstream connection is
//! never used for anything else.
//!
//! Heads are rewritten by [`proto::forward`](crate::proto::forward), bodies are decoded and framed
//! anew: what goes on is exactly what was understood.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::Role;
use crate::engine::connections::{Connection, Connections, Fetched, Id};
use crate::engine::slab::{Key, Slab};
use crate::error::Refusal;
use crate::limits::Limits;
use crate::message::{DateText, date_now};
use crate::proto::body::{self, Decoder, Framing, Piece};
use crate::proto::comet;
use crate::proto::forward::{self, Alias, ResponseRules};
use crate::proto::head::{self, LineEnds, RequestHead, ResponseHead};

/// What differs between the gateway's relay and the device's.
#[derive(Clone)]
pub(crate) struct Rules {
    pub(crate) limits: Arc<Limits>,
    /// For what the upstream side sends: a device adds fields of its own to what came within
    /// `limits`, a local server does not.
    pub(crate) answer_limits: Arc<Limits>,
    /// How line ends of the upstream side are read.
    pub(crate) ends: LineEnds,
    /// Pseudonym for `Via`.
    pub(crate) via: Option<Arc<str>>,
    /// Add `Date` to answers that lack one.
    pub(crate) add_date: bool,
    /// The upstream side in error texts: `the device`, `the local server`.
    pub(crate) upstream_name: &'static str,
    /// A downstream side that has ended its direction may still want its answer, however long that
    /// takes: a visitor may (RFC 9112 §9.6). Else only bytes that move within `abandoned_timeout`
    /// say so.
    pub(crate) downstream_may_half_close: bool,
}

/// What all exchanges of a loop may read at once without each being held to `read_ahead_bytes_max`:
/// a few fast ones move large pieces, thousands of slow ones keep little.
const READ_BUDGET: usize = 16 * 1024 * 1024;

/// Each exchange may read this much however little memory is left, so that what is in progress goes
/// on.
const READ_LEAST: usize = 4 * 1024;

/// Steps of one `advance` before the other connections of the loop get their turn.
const STEPS_MAX: usize = 4;

/// One exchange in progress.
pub(crate) struct Exchange {
    pub(crate) downstream: Option<Id>,
    pub(crate) upstream: Option<Id>,
    /// The head as forwarded: kept until the response begins, in case it has to be sent again.
    head: Vec<u8>,
    /// Where the request begins among all that goes out on the upstream connection.
    mark: Option<u64>,
    /// Bytes that waited there before it: the 101 of an offer that was held.
    before: usize,
    /// In place of the head, once its body is collected: both. A helper may be reading it.
    whole: Option<Arc<Vec<u8>>>,
    /// What its head takes of the memory that is counted.
    counted: Option<Held>,
    is_head: bool,
    pub(crate) idempotent: bool,
    downstream_minor: u8,
    downstream_keeps: bool,
    request: Decoder,
    request_chunked: bool,
    /// Bytes of the request's body went to the upstream side: it cannot be sent again.
    body_moved: bool,
    /// The upstream side takes no more of the request, or the downstream side sends no more of it;
    /// yet an answer may still come.
    request_cut: bool,
    /// The downstream side reads no more, yet what it sent may be a whole request.
    downstream_deaf: bool,
    response: Option<Decoder>,
    response_chunked: bool,
    response_until_close: bool,
    informational: usize,
    /// A line end came before the response.
    strayed: bool,
    /// The response may begin with `EVENT/1.0`.
    takes_events: bool,
    /// The downstream side was told `100 Continue`.
    continued: bool,
    /// A byte of a response arrived.
    began: bool,
    /// Some of a response's head is here, and not all of it; since when.
    half_head: bool,
    head_since: Option<Instant>,
    /// A response head is on its way to the downstream side.
    pub(crate) answered: bool,
    pub(crate) retried: bool,
    upstream_keeps: bool,
    progress: Instant,
    seen: u64,
    /// The window of the least rate at which the downstream side takes its answer: since when, and
    /// what it had taken then.
    rate_from: Option<(Instant, u64)>,
    /// The same for what it sends of its request.
    send_from: Option<(Instant, u64)>,
    drained: usize,
    /// Instead of all other deadlines: of a heartbeat, or of a small rest that is drained for
    /// nobody.
    whole_within: Option<Duration>,
    /// A request of the loop's own, which asks for a sign of life.
    is_probe: bool,
    /// The downstream side has ended its direction, and is most likely gone.
    downstream_ended: bool,
    /// The same where it may do so and still want its answer: since when, or since when callers
    /// were last looked for.
    half_closed: Option<Instant>,
    /// Its gateway or device stops: what is half ended is not waited for.
    hurried: bool,
    /// The limits' waits, or those of its route.
    pub(crate) waits: Waits,
    /// Its place among the requests that its route lets be in flight.
    pub(crate) place: Option<Held>,
    /// The request offers to switch to another protocol, and says so on its way.
    pub(crate) wants_upgrade: bool,
    /// It has been switched.
    tunnel: Option<Tunnel>,
    /// The downstream side waits for `100 Continue` before it sends its body.
    expects_continue: bool,
    /// The request's body so far, while it is collected.
    collected: Option<Gathering>,
    /// The response comes as the body of this message.
    enclosing: Option<Enclosing>,
    /// What its whole messages take of the budget.
    held: Option<Held>,
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
}

/// How long something is waited for, and how that wait is called; it shows as an error repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) time: Duration,
    pub(crate) name: &'static str,
}

impl Wait {
    /// Returns false where it may take as long as it takes.
    fn is_bounded(&self) -> bool {
        !self.time.is_zero()
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s ({})", self.time.as_secs_f32(), self.name)
    }
}

/// How long each phase of an exchange may take; a route may have some of its own. Zero: as long as
/// it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waits {
    pub(crate) link: Wait,
    /// For the upstream side to take what is written of the request.
    pub(crate) write: Wait,
    pub(crate) first_byte: Wait,
    pub(crate) body_silence: Wait,
    /// For something to move on a tunnel, and on one that has ended in one direction.
    pub(crate) tunnel: Wait,
    pub(crate) half_tunnel: Wait,
    /// The whole exchange.
    pub(crate) exchange: Wait,
}

impl Waits {
    pub(crate) fn of(limits: &Limits) -> Self {
        Waits {
            link: Wait { time: limits.wait_for_link, name: "wait_for_link" },
            write: Wait { time: limits.request_write_timeout, name: "request_write_timeout" },
            first_byte: Wait { time: limits.first_byte_timeout, name: "first_byte_timeout" },
            body_silence: Wait { time: limits.body_silence_timeout, name: "body_silence_timeout" },
            tunnel: Wait { time: limits.tunnel_silence_timeout, name: "tunnel_silence_timeout" },
            half_tunnel: Wait { time: limits.body_silence_timeout, name: "body_silence_timeout" },
            exchange: Wait { time: limits.exchange_timeout, name: "exchange_timeout" },
        }
    }
}

impl Waits {
    /// Of a device that forwards what comes over a link: how long anything may take is its
    /// gateway's word, which ends the link when it is over. A tunnel that has ended in one
    /// direction is the exception, since a gateway that half-closes a link and one that is gone
    /// look alike.
    pub(crate) fn of_forwarder(limits: &Limits) -> Self {
        let usual = Self::of(limits);
        let endless = |wait: Wait| Wait { time: Duration::ZERO, ..wait };
        Waits {
            link: usual.link,
            write: endless(usual.write),
            first_byte: Wait {
                time: limits.local_first_byte_timeout,
                name: "local_first_byte_timeout",
            },
            body_silence: endless(usual.body_silence),
            tunnel: endless(usual.tunnel),
            half_tunnel: usual.tunnel,
            exchange: endless(usual.exchange),
        }
    }

    /// Of a device that forwards what it polled for. It cannot notice that its gateway has given
    /// up, so its own waits hold.
    pub(crate) fn of_polling_forwarder(limits: &Limits) -> Self {
        let (usual, own) = (Self::of(limits), Self::of_forwarder(limits).first_byte);
        Waits { first_byte: if own.is_bounded() { own } else { usual.first_byte }, ..usual }
    }
}

/// A connection that was switched to another protocol.
#[derive(Default)]
struct Tunnel {
    to_downstream: Direction,
    to_upstream: Direction,
    /// Its half-close has been seen: from then on silence counts.
    half_seen: bool,
}

/// How one direction of a tunnel stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Direction {
    #[default]
    Open,
    /// The receiving side has been told its end.
    Shut,
    /// The receiving side takes nothing any more.
    Deaf,
}

/// The message that a response is the body of: a device's POST.
struct Enclosing {
    decoder: Decoder,
    /// Bytes of the response that were read before the exchange got the connection.
    first: Vec<u8>,
}

/// A bound on what many take together, clones share it: the bytes of whole messages in memory, the
/// requests of a route.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    taken: Arc<AtomicUsize>,
    most: usize,
    /// What one of those may take who are told apart.
    most_of_one: usize,
}

/// What one of many takes of a [`Budget`].
pub(crate) type Part = Arc<AtomicUsize>;

impl Budget {
    pub(crate) fn new(most: usize) -> Self {
        Budget { taken: Arc::default(), most, most_of_one: most }
    }

    /// The same, of which nobody takes more than this.
    pub(crate) fn of_parts(most: usize, most_of_one: usize) -> Self {
        Budget { most_of_one, ..Budget::new(most) }
    }

    /// A share of nothing yet.
    pub(crate) fn share(&self) -> Held {
        Held { budget: self.clone(), part: None, bytes: 0 }
    }

    /// The same, for one of many.
    pub(crate) fn share_of(&self, part: Part) -> Held {
        Held { budget: self.clone(), part: Some(part), bytes: 0 }
    }

    /// What is taken of it now.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    /// One of what is counted, where that is no bytes. `None`: the budget has no more.
    pub(crate) fn one(&self) -> Option<Held> {
        let mut held = self.share();
        held.grow(1).then_some(held)
    }

    /// Goes on with what is taken of another one, under the own bound.
    pub(crate) fn succeed(&mut self, other: &Budget) {
        self.taken = other.taken.clone();
    }
}

/// A share of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    budget: Budget,
    part: Option<Part>,
    bytes: usize,
}

impl Held {
    /// Takes more. False: the budget has no more, and nothing was taken.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let within =
            |most: usize| move |taken: usize| taken.checked_add(bytes).filter(|sum| *sum <= most);
        let Budget { taken, most, most_of_one } = &self.budget;
        if self
            .part
            .as_ref()
            .is_some_and(|part| part.fetch_update(Relaxed, Relaxed, within(*most_of_one)).is_err())
        {
            return false;
        }
        let grown = taken.fetch_update(Relaxed, Relaxed, within(*most)).is_ok();
        if grown {
            self.bytes += bytes;
        } else if let Some(part) = &self.part {
            part.fetch_sub(bytes, Relaxed);
        }
        grown
    }

    /// The same for bytes of a whole message, which takes `beside` already.
    ///
    /// # Errors
    /// 413: nobody may take so many. 503: the budget, or the part of it that is one's own, has no
    /// more now.
    pub(crate) fn take(&mut self, bytes: usize, beside: usize) -> Result<(), Refusal> {
        if self.grow(bytes) {
            return Ok(());
        }
        if bytes.saturating_add(beside) > self.budget.most_of_one {
            return Err(Refusal::new(
                413,
                "the message is longer, as the device takes it, than the share of messages_bytes_max that one device has",
            ));
        }
        Err(Refusal::new(
            503,
            "this gateway holds as many bytes of whole messages as messages_bytes_max allows, or its share for this device; try again later",
        ))
    }

    /// Takes what is there already, whatever the bound says.
    fn force(&mut self, bytes: usize) {
        self.budget.taken.fetch_add(bytes, Relaxed);
        self.bytes += bytes;
    }

    /// Whether it is of use to others that it is given back soon: more than half of the budget is
    /// taken.
    fn is_wanted(&self) -> bool {
        self.bytes > 0 && self.budget.taken.load(Relaxed) > self.budget.most / 2
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Relaxed);
        if let Some(part) = &self.part {
            part.fetch_sub(self.bytes, Relaxed);
        }
    }
}

/// A message that is read whole into memory: its bytes, what they take of the budget, and how they
/// come.
pub(crate) struct Gathering {
    bytes: Vec<u8>,
    held: Held,
    /// How long it says that it is.
    announced: Option<u64>,
    /// When the last byte came, of the message or of its framing.
    progress: Instant,
    /// The window of the least rate: since when, and how much there was then.
    window: (Instant, usize),
}

impl Gathering {
    pub(crate) fn new(held: Held, announced: Option<u64>, now: Instant) -> Self {
        Gathering { bytes: Vec::new(), held, announced, progress: now, window: (now, 0) }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Something came.
    pub(crate) fn came(&mut self, now: Instant) {
        self.progress = now;
    }

    /// Takes more of the message.
    ///
    /// # Errors
    /// 413 and 503, as [`Held::take`] says.
    pub(crate) fn take(&mut self, data: &[u8]) -> Result<(), Refusal> {
        let (length, room) = (self.bytes.len() + data.len(), self.bytes.capacity());
        if length > room {
            // By a quarter, not by doubling: what the buffer has in reserve is memory, too, and
            // counts.
            let announced = self
                .announced
                .and_then(|length| usize::try_from(length).ok())
                .unwrap_or(usize::MAX);
            let wanted = length.max((room + room / 4).min(announced));
            let grown = if self.held.grow(wanted - room) {
                wanted
            } else {
                self.held.take(length - room, 0)?;
                length
            };
            self.bytes.reserve_exact(grown - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    pub(crate) fn finish(self) -> (Vec<u8>, Held) {
        (self.bytes, self.held)
    }

    /// When it is next to be looked at, if nothing comes before: `silence` is counted from the last
    /// byte, the window of the least rate is fixed.
    pub(crate) fn left(&self, now: Instant, silence: Duration, limits: &Limits) -> Duration {
        let silent = silence.saturating_sub(now.saturating_duration_since(self.progress));
        if limits.min_rate_bytes_per_s == 0 {
            return silent;
        }
        silent.min(
            limits.min_rate_window.saturating_sub(now.saturating_duration_since(self.window.0)),
        )
    }

    /// Why `what` is waited for no longer, where that is so: silence, or, while others want its
    /// room, a sender below the least rate over a whole window. Begins the next window.
    pub(crate) fn overdue(
        &mut self,
        what: &str,
        now: Instant,
        silence: Wait,
        limits: &Limits,
    ) -> Option<String> {
        if now.saturating_duration_since(self.progress) >= silence.time {
            return Some(format!("nothing of {what} arrived for {silence}"));
        }
        let (from, had) = self.window;
        let window = now.saturating_duration_since(from);
        if window < limits.min_rate_window {
            return None;
        }
        self.window = (now, self.bytes.len());
        let slow = ((self.bytes.len() - had) as f64)
            < limits.min_rate_bytes_per_s as f64 * window.as_secs_f64();
        (slow && self.held.is_wanted()).then(|| {
            format!("{what} came slower than min_rate_bytes_per_s while others want the memory that it takes; send it faster, or later")
        })
    }
}

/// How far a request's body is collected.
pub(crate) enum Collected {
    NotYet,
    /// Whole: the exchange's head has the body behind it now, and can be sent or handed out.
    Whole,
    /// The downstream side is gone.
    Gone,
    Refused(Refusal),
}

/// How a step left an exchange.
enum Step {
    /// It waits for one of its connections.
    Pending,
    /// It could go on; others first.
    Again,
    /// The response was read to its end; `Err` says why the upstream connection cannot be used
    /// again.
    LinkDone(Result<(), CloseReason>),
    /// The downstream side has everything.
    Finished,
    /// A tunnel has ended, in both directions or by a failure.
    TunnelEnds(CloseReason),
}

/// Why an exchange failed.
enum ExchangeError {
    /// The downstream side is gone, or cut its request short.
    Asker,
    /// The downstream side's bytes are malformed.
    Refused(Refusal),
    /// The upstream side failed; nothing of a response had arrived.
    Silent(CloseReason),
    /// The upstream side failed or broke the protocol.
    HandshakeError(CloseReason),
}

/// What is told goes to visitors, and what the system says is not theirs to know (T58): it goes to
/// the log.
fn lost_by(error: &std::io::Error, told: &'static str) -> CloseReason {
    log_names!(Debug, "an upstream connection failed: {error}");
    CloseReason::new(CloseCause::of_io(error), told)
}

/// What the upstream side sent cannot be read, or not be passed on.
fn malformed(refusal: Refusal) -> ExchangeError {
    ExchangeError::HandshakeError(CloseReason::new(
        CloseCause::ProtocolError,
        format!("sent a malformed response: {}", refusal.reason),
    ))
}

/// What a role adds so that exchanges can be driven on its loop.
pub(crate) trait Relaying: Role {
    fn exchanges(&mut self) -> &mut Slab<Exchange>;
    fn rules(&self) -> Arc<Rules>;
    /// The upstream connection is free: at a message boundary and fit for reuse, or (`Err`, why) to
    /// be closed.
    fn free(
        &mut self,
        cx: &mut Connections<Self::State>,
        link: Id,
        reusable: Result<(), CloseReason>,
    );
    /// Find another upstream connection: nothing of a response came and the request may be sent
    /// again.
    fn retry(&mut self, cx: &mut Connections<Self::State>, key: Key);
    /// The exchange is over and gone: the downstream connection is at a message boundary (`keep`)
    /// or is to be closed gently.
    fn next(&mut self, cx: &mut Connections<Self::State>, downstream: Id, keep: bool);
    /// The exchange failed before its response began; tell the downstream side, and end its
    /// connection unless the answer keeps it.
    fn answer(
        &mut self,
        cx: &mut Connections<Self::State>,
        downstream: Id,
        answer: &LocalAnswer<'_>,
    );
    /// The exchange cannot end well for the downstream connection: close it, with a reset where its
    /// end has to be seen as a failure.
    fn downstream_gone(&mut self, cx: &mut Connections<Self::State>, downstream: Id, reset: bool);
    /// Whether callers wait for a connection like this exchange's.
    fn callers_wait(&self, cx: &Connections<Self::State>, link: Id) -> bool;
    /// Bytes of the memory that may be held which are not taken.
    fn memory_left(&self, cx: &Connections<Self::State>) -> usize;
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
        }
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

    /// Begins to read the request's body into memory; a downstream side that waits for a 100 gets
    /// it from here.
    ///
    /// # Errors
    /// 413: it is announced to be longer than is collected.
    pub(crate) fn begin_collecting<T>(
        &mut self,
        downstream: &mut Connection<T>,
        gathering: Gathering,
        limits: &Limits,
    ) -> Result<(), Refusal> {
        if self.request.remaining().is_some_and(|length| length > limits.message_bytes_max as u64) {
            return Err(too_large());
        }
        self.collected = Some(gathering);
        if self.expects_continue && downstream.kept() == 0 {
            downstream.output().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        Ok(())
    }

    /// The request's body as far as it is collected.
    pub(crate) fn gathering(&mut self) -> Option<&mut Gathering> {
        self.collected.as_mut()
    }

    /// Reads what has come of the request's body, at most `limits.message_bytes_max` in all.
    pub(crate) fn collect<T>(
        &mut self,
        downstream: &mut Connection<T>,
        scratch: &mut [u8],
        now: Instant,
        limits: &Limits,
    ) -> Collected {
        let Some(body) = &mut self.collected else { return Collected::NotYet };
        let most = self
            .request
            .remaining()
            .map_or(scratch.len(), |left| left.min(scratch.len() as u64) as usize);
        if downstream.is_broken() || downstream.flush().is_err() {
            return Collected::Gone;
        }
        let filled = match downstream.fetch(scratch, most) {
            Ok(Fetched::Bytes(n)) => n,
            Ok(Fetched::Nothing) => return Collected::NotYet,
            Ok(Fetched::End) | Err(_) => return Collected::Gone,
        };
        body.came(now);
        let mut used = 0;
        loop {
            let (n, piece) = match self.request.decode(&scratch[used..filled]) {
                Ok(decoded) => decoded,
                Err(refusal) => return Collected::Refused(refusal),
            };
            used += n;
            match piece {
                Piece::More => return Collected::NotYet,
                Piece::Data(data) if body.len() + data.len() > limits.message_bytes_max => {
                    return Collected::Refused(too_large());
                }
                Piece::Data(data) => {
                    if let Err(refusal) = body.take(data) {
                        return Collected::Refused(refusal);
                    }
                }
                Piece::End => {
                    downstream.keep(&scratch[used..filled]);
                    return self.enclose_request(limits);
                }
            }
        }
    }

    /// The collected request as one message, framed by us.
    fn enclose_request(&mut self, limits: &Limits) -> Collected {
        let Some((mut body, held)) = self.collected.take().map(Gathering::finish) else {
            return Collected::NotYet;
        };
        let own = limits.for_own_heads();
        let parsed = head::request(&self.head, &own, LineEnds::Crlf);
        let Ok(Some(request)) = parsed else {
            return Collected::Refused(Refusal::new(
                400,
                "the request cannot be forwarded as it is",
            ));
        };
        let mut text = Vec::with_capacity(request.len + 64);
        let written = match self.request.trailers() {
            [] => comet::write_request_head(&mut text, &request, body.len()),
            trailers => {
                text.reserve_exact(body.len() + 64 * trailers.len());
                comet::write_request(&mut text, &request, &std::mem::take(&mut body), trailers)
            }
        };
        if let Err(refusal) = written {
            return Collected::Refused(refusal);
        }
        if !body.is_empty() {
            // In place: a second buffer of its length would be counted nowhere.
            body.reserve_exact(text.len());
            body.splice(..0, text);
            text = body;
        }
        self.request = Decoder::new(Framing::Empty, limits);
        (self.head, self.whole, self.held, self.request_chunked) =
            (Vec::new(), Some(Arc::new(text)), Some(held), false);
        Collected::Whole
    }

    /// Whether it may be sent on another connection: protocol.md §3, *retry on a fresh link*.
    fn may_retry(&self) -> bool {
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
    fn forget_request(&mut self) {
        (self.head, self.whole, self.counted, self.held, self.retried) =
            (Vec::new(), None, None, None, true);
    }

    fn method(&self) -> &'static str {
        if self.is_head { "HEAD" } else { "GET" } // all that framing wants to know of a method
    }

    fn response_is_whole(&self) -> bool {
        self.response.as_ref().is_some_and(Decoder::is_done)
            && self.enclosing.as_ref().is_none_or(Enclosing::is_done)
    }

    fn step<T>(
        &mut self,
        mut downstream: Option<&mut Connection<T>>,
        mut upstream: Option<&mut Connection<T>>,
        scratch: &mut [u8],
        rules: &Rules,
        date: &str,
    ) -> Result<Step, ExchangeError> {
        for _ in 0..STEPS_MAX {
            let mut moved = false;
            if let (Some(tunnel), Some(downstream), Some(link)) =
                (&mut self.tunnel, downstream.as_deref_mut(), upstream.as_deref_mut())
            {
                match tunnel.step(downstream, link, scratch, rules) {
                    Ok(true) if downstream.has_paused() || link.has_paused() => {
                        return Ok(Step::Again);
                    }
                    Ok(true) => continue,
                    Ok(false) => return Ok(tunnel.end().map_or(Step::Pending, Step::TunnelEnds)),
                    Err(why) => return Ok(Step::TunnelEnds(why)),
                }
            }
            if let Some(link) = upstream.as_deref_mut() {
                match downstream.as_deref_mut() {
                    Some(downstream) => moved |= self.pump_request(downstream, link, scratch)?,
                    None if link.flush().is_err() => self.cut_request(link),
                    None => {}
                }
                let reader = downstream.as_deref_mut().filter(|_| !self.downstream_deaf);
                moved |= self.pump_response(reader, link, scratch, rules, date)?;
            }
            if let Some(downstream) = downstream.as_deref_mut() {
                let written = downstream.written();
                if downstream.is_broken() || downstream.flush().is_err() {
                    self.asker_is_deaf(downstream)?;
                }
                moved |= downstream.written() != written;
            }
            if self.tunnel.is_some() {
                continue;
            }
            if self.response_is_whole() {
                let sends_rest = self.awaits_rest() && self.upstream_keeps && !self.request_cut;
                match (upstream.as_deref(), downstream.as_deref_mut()) {
                    (Some(link), _) if !sends_rest => {
                        return Ok(Step::LinkDone(self.reusable(link)));
                    }
                    (None, Some(downstream)) if self.awaits_rest() => {
                        moved |= self.drop_rest(downstream, scratch)
                    }
                    _ => {}
                }
                match moved {
                    _ if !self.awaits_rest() && upstream.is_none() => {}
                    true => continue,
                    false => return Ok(Step::Pending),
                }
                if downstream.is_none_or(|downstream| downstream.pending() == 0) {
                    return Ok(Step::Finished);
                }
                return Ok(Step::Pending);
            }
            if !moved {
                return Ok(Step::Pending);
            }
            if [&downstream, &upstream].into_iter().flatten().any(|peer| peer.has_paused()) {
                break;
            }
        }
        Ok(Step::Again)
    }

    fn reusable<T>(&self, link: &Connection<T>) -> Result<(), CloseReason> {
        if self.enclosing.is_some() {
            return Ok(()); // the POST is whole; what its connection is good for is said in its own head
        }
        if !self.upstream_keeps {
            Err(CloseCause::LastMessage.because("its response said so"))
        } else if !self.request.is_done() || self.request_cut {
            Err(CloseCause::LastMessage.because("it answered before it had the whole request"))
        } else if link.at_end_of_stream() || link.is_broken() || link.has_failed() {
            Err(CloseCause::Closed.because("behind its response"))
        } else if link.kept() > 0 {
            Err(CloseCause::ProtocolError.because("bytes came after a complete response"))
        } else if link.pending() > 0 {
            Err(CloseCause::LastMessage
                .because("it answered before it had taken the whole request"))
        } else {
            Ok(())
        }
    }

    /// Returns true while a short rest of a request is read whose response is whole: its response
    /// did not say that its connection ends.
    fn awaits_rest(&self) -> bool {
        self.downstream_keeps
            && self.downstream.is_some()
            && self.tunnel.is_none()
            && !self.request.is_done()
            && self.response_is_whole()
    }

    /// Reads and drops such a rest where the upstream connection takes none of it. Returns true if
    /// something moved.
    fn drop_rest<T>(&mut self, downstream: &mut Connection<T>, scratch: &mut [u8]) -> bool {
        let most =
            self.request.remaining().map_or(0, |left| left.min(scratch.len() as u64) as usize);
        let filled = match downstream.fetch(scratch, most) {
            Ok(Fetched::Bytes(n)) => n,
            Ok(Fetched::Nothing) => return false,
            Ok(Fetched::End) | Err(_) => {
                self.downstream_keeps = false;
                return true;
            }
        };
        self.request_cut = true;
        let dropped = self.request.decode(&scratch[..filled]).map_or(filled, |(used, _)| used); // of known length, so one piece
        downstream.keep(&scratch[dropped..filled]);
        true
    }

    fn pump_request<T>(
        &mut self,
        downstream: &mut Connection<T>,
        link: &mut Connection<T>,
        scratch: &mut [u8],
    ) -> Result<bool, ExchangeError> {
        let written = link.written();
        let mut moved = false;
        let takes = self.request_cut || link.pending() <= self.before + self.request().len();
        if !self.request.is_done() && takes && downstream.has_input() {
            // What is pipelined behind a body of known length stays in the socket, where it is
            // bounded.
            let most = self
                .request
                .remaining()
                .map_or(scratch.len(), |left| left.min(scratch.len() as u64) as usize);
            let filled = match downstream.fetch(scratch, most) {
                Ok(Fetched::Bytes(n)) => n,
                Ok(Fetched::Nothing) => 0,
                Ok(Fetched::End) => return self.asker_stops(link),
                Err(_) => return Err(ExchangeError::Asker),
            };
            moved = filled > 0;
            let used = self.take_request(&scratch[..filled], link)?;
            downstream.keep(&scratch[used..filled]);
            if downstream.is_over() && !self.request.is_done() {
                // Before its beginning goes out: it will never be whole.
                return if downstream.has_failed() {
                    Err(ExchangeError::Asker)
                } else {
                    self.asker_stops(link)
                };
            }
        }
        if link.flush().is_err() {
            self.cut_request(link);
        }
        Ok(moved || link.written() != written)
    }

    /// The upstream side takes no more. It may have answered already (a 413, then close), so its
    /// socket is read to the end before anything is given up; and the rest of the request is read
    /// and dropped, for there are clients that read nothing before they have written everything.
    fn cut_request<T>(&mut self, link: &mut Connection<T>) {
        self.request_cut = true;
        link.drop_output();
        link.look_again();
    }

    /// The downstream side ends in the middle of its request. Where the answer has begun, it is
    /// what made it stop, and is still wanted; the answering side is told that no more will come.
    fn asker_stops<T>(&mut self, link: &mut Connection<T>) -> Result<bool, ExchangeError> {
        if !self.answered {
            return Err(ExchangeError::Asker);
        }
        if !std::mem::replace(&mut self.request_cut, true) {
            link.drop_output();
            let _ = link.end_output(); // where it cannot be told, the end of the exchange tells it
        }
        Ok(false)
    }

    /// The downstream side takes nothing any more. What it has sent may be a whole request, and
    /// then goes on.
    fn asker_is_deaf<T>(&mut self, downstream: &mut Connection<T>) -> Result<(), ExchangeError> {
        downstream.drop_output();
        if self.upstream.is_none()
            || self.request.is_done()
            || self.request_cut
            || downstream.is_over()
        {
            return Err(ExchangeError::Asker);
        }
        if !std::mem::replace(&mut self.downstream_deaf, true) {
            downstream.look_again();
        }
        Ok(())
    }

    fn take_request<T>(
        &mut self,
        bytes: &[u8],
        link: &mut Connection<T>,
    ) -> Result<usize, ExchangeError> {
        let mut used = 0;
        loop {
            let (n, piece) = self.request.decode(&bytes[used..]).map_err(ExchangeError::Refused)?;
            used += n;
            let sent = match piece {
                Piece::More => return Ok(used),
                Piece::Data(_) if self.request_cut => continue,
                Piece::Data(data) => {
                    self.body_moved = true;
                    send_piece(link, data, self.request_chunked)
                }
                Piece::End => {
                    if self.request_chunked && !self.request_cut {
                        self.body_moved = true;
                        body::last_chunk(link.output(), self.request.trailers())
                            .map_err(ExchangeError::Refused)?;
                    }
                    return Ok(used);
                }
            };
            if sent.is_err() {
                self.cut_request(link);
            }
        }
    }

    fn pump_response<T>(
        &mut self,
        downstream: Option<&mut Connection<T>>,
        link: &mut Connection<T>,
        scratch: &mut [u8],
        rules: &Rules,
        date: &str,
    ) -> Result<bool, ExchangeError> {
        let ahead = downstream.as_deref().map_or(0, Connection::pending);
        if self.response_is_whole() || ahead >= rules.limits.read_ahead_bytes_max.min(scratch.len())
        {
            return Ok(false);
        }
        if let Some(mut enclosing) = self.enclosing.take() {
            let pumped = self.pump_enclosed(&mut enclosing, downstream, link, scratch, rules, date);
            self.enclosing = Some(enclosing);
            return pumped;
        }
        if !link.has_input() {
            return Ok(false);
        }
        let kept = link.kept();
        let filled = match link.fetch(scratch, scratch.len()) {
            Ok(Fetched::Bytes(n)) if n > kept => n,
            Ok(Fetched::Bytes(n)) => {
                link.keep(&scratch[..n]);
                return match (link.at_end_of_stream(), link.has_failed()) {
                    (true, _) => self.response_ended(downstream).map(|()| true),
                    (_, true) => Err(self.lost(CloseCause::Reset.because("reset the connection"))),
                    _ => Ok(false),
                };
            }
            Ok(Fetched::Nothing) => return Ok(false),
            Ok(Fetched::End) => return self.response_ended(downstream).map(|()| true),
            Err(e) => return Err(self.lost(lost_by(&e, "lost the connection"))),
        };
        let stray = self.take_stray(&scratch[..filled]);
        if stray == filled || (stray == 0 && !self.began && scratch[..filled] == *b"\r") {
            link.keep(&scratch[stray..filled]); // a CR may have its LF yet
            return Ok(true);
        }
        self.began = true;
        let used = stray + self.take_response(&scratch[stray..filled], downstream, rules, date)?;
        if !(self.tunnel.is_none()
            && self.response_is_whole()
            && head::are_line_ends(&scratch[used..filled]))
        {
            link.keep(&scratch[used..filled]);
        }
        Ok(true)
    }

    /// One line end before a response is nothing: it belongs to the one before it, and came late.
    fn take_stray(&mut self, bytes: &[u8]) -> usize {
        let stray = match bytes {
            _ if self.began || self.strayed => 0,
            [b'\r', b'\n', ..] => 2,
            [b'\n', ..] => 1,
            _ => 0,
        };
        self.strayed |= stray > 0;
        stray
    }

    /// The same for a response that is the body of a POST: its framing comes off first.
    fn pump_enclosed<T>(
        &mut self,
        enclosing: &mut Enclosing,
        mut downstream: Option<&mut Connection<T>>,
        link: &mut Connection<T>,
        scratch: &mut [u8],
        rules: &Rules,
        date: &str,
    ) -> Result<bool, ExchangeError> {
        self.began = true;
        if !enclosing.first.is_empty() {
            let first = std::mem::take(&mut enclosing.first);
            self.take_enclosed(&first, downstream, rules, date)?;
            return self.ends_with(enclosing).map(|()| true);
        }
        if !link.has_input() {
            return Ok(false);
        }
        let filled = match link.fetch(scratch, scratch.len()) {
            Ok(Fetched::Bytes(n)) => n,
            Ok(Fetched::Nothing) => return Ok(false),
            Ok(Fetched::End) => {
                return Err(ExchangeError::HandshakeError(
                    CloseCause::Cut.because("closed the connection in the middle of its answer"),
                ));
            }
            Err(e) => {
                return Err(ExchangeError::HandshakeError(lost_by(
                    &e,
                    "lost the connection in the middle of its answer",
                )));
            }
        };
        let mut used = 0;
        loop {
            let (n, piece) = enclosing.decoder.decode(&scratch[used..filled]).map_err(malformed)?;
            used += n;
            match piece {
                Piece::Data(data) => {
                    self.take_enclosed(data, downstream.as_deref_mut(), rules, date)?
                }
                Piece::More => return Ok(true),
                Piece::End => {
                    let behind = &scratch[used..filled];
                    if !head::are_line_ends(behind) {
                        link.keep(behind);
                    }
                    return self.ends_with(enclosing).map(|()| true);
                }
            }
        }
    }

    fn take_enclosed<T>(
        &mut self,
        bytes: &[u8],
        downstream: Option<&mut Connection<T>>,
        rules: &Rules,
        date: &str,
    ) -> Result<(), ExchangeError> {
        match self.take_response(bytes, downstream, rules, date)? {
            used if used == bytes.len() => Ok(()),
            _ => Err(ExchangeError::HandshakeError(
                CloseCause::ProtocolError.because("posted more bytes than its response has"),
            )),
        }
    }

    /// A POST that is whole has brought a whole response.
    fn ends_with(&self, enclosing: &Enclosing) -> Result<(), ExchangeError> {
        match enclosing.is_done() && !self.response.as_ref().is_some_and(Decoder::is_done) {
            true => Err(ExchangeError::HandshakeError(
                CloseCause::ProtocolError.because("posted fewer bytes than its response has"),
            )),
            false => Ok(()),
        }
    }

    fn lost(&self, why: CloseReason) -> ExchangeError {
        match (self.began, self.request_cut) {
            (true, _) => ExchangeError::HandshakeError(why),
            (false, true) => ExchangeError::Silent(
                CloseCause::Cut.because("closed the connection while the request was written"),
            ),
            (false, false) => ExchangeError::Silent(why),
        }
    }

    fn response_ended<T>(
        &mut self,
        downstream: Option<&mut Connection<T>>,
    ) -> Result<(), ExchangeError> {
        let Some(decoder) = &mut self.response else {
            return Err(
                self.lost(CloseCause::Cut.because("closed the connection before it answered"))
            );
        };
        decoder.finish_at_eof().map_err(|_| {
            ExchangeError::HandshakeError(
                CloseCause::Cut.because("closed the connection in the middle of its response"),
            )
        })?;
        match downstream {
            Some(downstream) if self.response_chunked => {
                body::last_chunk(downstream.output(), &[]).map_err(malformed)
            }
            _ => Ok(()),
        }
    }

    fn take_response<T>(
        &mut self,
        bytes: &[u8],
        mut downstream: Option<&mut Connection<T>>,
        rules: &Rules,
        date: &str,
    ) -> Result<usize, ExchangeError> {
        let mut used = 0;
        while self.response.is_none() {
            let read = if self.takes_events { head::event_response } else { head::response };
            let parsed =
                read(&bytes[used..], &rules.answer_limits, rules.ends).map_err(malformed)?;
            let Some(response) = parsed else {
                self.half_head = used < bytes.len();
                return Ok(used);
            };
            (self.half_head, self.head_since) = (false, None);
            used += response.len;
            self.take_head(&response, downstream.as_deref_mut(), rules, date)?;
        }
        if self.tunnel.is_some() {
            return Ok(used); // what follows is another protocol's
        }
        let Some(decoder) = &mut self.response else { return Ok(used) };
        loop {
            let (n, piece) = decoder.decode(&bytes[used..]).map_err(malformed)?;
            used += n;
            match (piece, downstream.as_deref_mut()) {
                (Piece::More, _) => return Ok(used),
                (Piece::Data(data), Some(downstream)) => {
                    send_piece(downstream, data, self.response_chunked)
                        .map_err(|_| ExchangeError::Asker)?
                }
                (Piece::Data(data), None) => {
                    self.drained += data.len();
                    if self.drained > rules.limits.drain_bytes_max {
                        return Err(ExchangeError::HandshakeError(
                            CloseCause::AskerGone
                                .because("had more of an abandoned response than is drained"),
                        ));
                    }
                }
                (Piece::End, downstream) => {
                    if let (true, Some(downstream)) = (self.response_chunked, downstream) {
                        let trailers = decoder.trailers();
                        body::last_chunk(downstream.output(), trailers).map_err(malformed)?;
                    }
                    return Ok(used);
                }
            }
        }
    }

    fn take_head<T>(
        &mut self,
        response: &ResponseHead<'_>,
        downstream: Option<&mut Connection<T>>,
        rules: &Rules,
        date: &str,
    ) -> Result<(), ExchangeError> {
        if response.status == 101 {
            return self.switch(response, downstream, rules);
        }
        let interim = response.status < 200;
        if interim {
            self.informational += 1;
            if self.informational > rules.limits.informational_max {
                return Err(ExchangeError::HandshakeError(
                    CloseCause::ProtocolError
                        .because("sent more interim responses than informational_max"),
                ));
            }
        }
        let framing = body::of_response(response, self.method()).map_err(malformed)?;
        let old_asker = self.downstream_minor == 0;
        self.continued |= response.status == 100;
        if interim && (old_asker || downstream.is_none()) {
            return Ok(()); // RFC 9110 §15.2: an HTTP/1.0 client is never sent a 1xx
        }
        let outgoing = match framing {
            Framing::Chunked | Framing::UntilClose if old_asker => Framing::UntilClose,
            Framing::UntilClose => Framing::Chunked,
            other => other,
        };
        if !interim {
            self.challenged = head::has_bound_login(&response.fields);
            // An HTTP/1.0 answer ends the link, whatever it says (protocol.md §3).
            self.upstream_keeps = response.minor > 0
                && head::keeps_alive(response.minor, &response.fields)
                && framing != Framing::UntilClose;
            self.downstream_keeps &=
                outgoing != Framing::UntilClose && self.rest_is_short(&rules.limits);
            self.response_chunked = outgoing == Framing::Chunked;
            self.response_until_close = outgoing == Framing::UntilClose;
            self.response = Some(Decoder::new(framing, &rules.answer_limits).line_ends(rules.ends));
        }
        let Some(downstream) = downstream else { return Ok(()) };
        let location =
            self.alias.as_ref().and_then(|alias| alias.undo(response.fields.get("location")?));
        let renamed =
            location.as_ref().map(|location| response.with_value("location", location.as_bytes()));
        let response = renamed.as_ref().unwrap_or(response);
        let rules = ResponseRules {
            via: rules.via.as_deref(),
            close: !interim && !self.downstream_keeps,
            keep_alive: !interim && old_asker && self.downstream_keeps,
            date: Some(date).filter(|date| !interim && !date.is_empty()),
            upgrade: false,
        };
        forward::response(downstream.output(), response, outgoing, self.method(), &rules)
            .map_err(malformed)?;
        self.answered |= !interim;
        Ok(())
    }

    /// Returns true if what is still to come of the request can be read though its response is
    /// here; else the response says that the connection ends (RFC 9110 §10.1.1, RFC 9112 §9.6).
    /// Whether who waits for a 100 will send its body, nobody can tell.
    fn rest_is_short(&self, limits: &Limits) -> bool {
        let invited = !self.expects_continue || self.continued || self.body_moved;
        self.request.is_done()
            || (invited
                && self
                    .request
                    .remaining()
                    .is_some_and(|left| left <= limits.drain_bytes_max as u64))
    }

    /// 101: from here on the bytes are another protocol's, both ways.
    fn switch<T>(
        &mut self,
        response: &ResponseHead<'_>,
        downstream: Option<&mut Connection<T>>,
        rules: &Rules,
    ) -> Result<(), ExchangeError> {
        let Some(downstream) =
            downstream.filter(|_| self.wants_upgrade && self.enclosing.is_none())
        else {
            return Err(ExchangeError::HandshakeError(
                CloseCause::ProtocolError.because("switched protocols without being asked"),
            ));
        };
        if response.minor == 0 || response.fields.get("Upgrade").is_none() {
            return Err(ExchangeError::HandshakeError(
                CloseCause::ProtocolError.because("switched protocols without saying to which"),
            ));
        }
        let rules = ResponseRules {
            via: rules.via.as_deref(),
            close: false,
            keep_alive: false,
            date: None,
            upgrade: true,
        };
        forward::response(downstream.output(), response, Framing::Empty, self.method(), &rules)
            .map_err(malformed)?;
        (self.answered, self.tunnel) = (true, Some(Tunnel::default()));
        self.response = Some(Decoder::new(Framing::Empty, &Limits::default()));
        self.forget_request();
        Ok(())
    }

    /// Whether something has moved since the last look. What is read of a request only to be
    /// dropped does not count.
    fn note_progress<T>(&mut self, cx: &Connections<T>) {
        let traffic = |id: Option<Id>| id.and_then(|id| cx.get(id)).map_or(0, Connection::traffic);
        let downstream = match self.downstream.and_then(|id| cx.get(id)) {
            Some(downstream) if self.request_cut => downstream.written(),
            _ => traffic(self.downstream),
        };
        let moved = downstream + traffic(self.upstream);
        if self.seen != moved && self.whole_within.is_none() {
            (self.seen, self.progress) = (moved, cx.now());
        }
    }

    /// When this exchange is next to be looked at, if nothing happens before. Counted from the last
    /// progress, not from the last event: events that move nothing postpone nothing.
    fn left(
        &self,
        now: Instant,
        limits: &Limits,
        writing: bool,
        answer_waits: bool,
    ) -> Option<Duration> {
        let left = |from, time: Duration| time.saturating_sub(now.saturating_duration_since(from));
        let patience = self.patience(limits, writing, answer_waits);
        let silent = patience.is_bounded().then(|| left(self.progress, patience.time));
        let head = self.head_since.map(|from| left(from, self.head_wait(limits).time));
        let look =
            self.half_closed.map(|from| left(from.max(self.progress), limits.half_close_timeout));
        let windows = [self.rate_from, self.send_from]
            .map(|window| window.map(|(from, _)| left(from, limits.min_rate_window)));
        [silent, head, look].into_iter().chain(windows).flatten().min()
    }

    /// How long a response's head may take, from its first byte to its last: one that drips in must
    /// not hold a connection for longer than silence may.
    fn head_wait(&self, limits: &Limits) -> Wait {
        let whole = Wait { time: limits.head_timeout, name: "head_timeout" };
        Some(self.waits.first_byte)
            .filter(|first| first.is_bounded() && first.time < whole.time)
            .unwrap_or(whole)
    }

    /// Why the head of its response is waited for no longer, where that is so.
    fn late_head(&self, now: Instant, rules: &Rules) -> Option<String> {
        let wait = self.head_wait(&rules.limits);
        let late = now.saturating_duration_since(self.head_since?) >= wait.time;
        late.then(|| {
            format!(
                "{} began its response, and its head was not whole within {wait}",
                rules.upstream_name
            )
        })
    }

    /// Notes what the next deadline depends on: who keeps whom waiting, and who has left.
    /// `downstream`: the downstream connection; `writing`: the answering side has not taken all
    /// that there is of the request.
    fn note_turns<T>(
        &mut self,
        downstream: Option<&mut Connection<T>>,
        writing: bool,
        now: Instant,
        rules: &Rules,
    ) {
        let limits = &rules.limits;
        if let Some(tunnel) =
            self.tunnel.as_mut().filter(|tunnel| tunnel.is_half_ended() && !tunnel.half_seen)
        {
            (tunnel.half_seen, self.progress) = (true, now);
        }
        let Some(downstream) = downstream else { return };
        if self.request.is_done() && self.tunnel.is_none() {
            downstream.look_for_end();
        }
        match downstream.is_ending() {
            true if !rules.downstream_may_half_close && !self.downstream_ended => {
                (self.downstream_ended, self.progress) = (true, now)
            }
            true if rules.downstream_may_half_close
                && self.tunnel.is_none()
                && !limits.half_close_timeout.is_zero() =>
            {
                self.half_closed.get_or_insert(now);
            }
            _ => {}
        }
        let rated = limits.min_rate_bytes_per_s > 0 && self.tunnel.is_none();
        let holds = self.upstream.is_some();
        let reads = rated && downstream.pending() > 0 && (holds || self.held.is_some());
        self.rate_from = reads.then(|| self.rate_from.unwrap_or((now, downstream.written())));
        // Who waits for a 100 is not slow, nor is who sends what the upstream side does not take.
        let invited = !self.expects_continue || self.informational > 0 || self.body_moved;
        let sends =
            rated && holds && !writing && invited && !self.request.is_done() && !self.request_cut;
        self.send_from = sends.then(|| self.send_from.unwrap_or((now, downstream.received())));
    }

    /// Whether the downstream side sent too little over a whole window of the least rate; begins
    /// the next window. `received`: in all.
    fn is_slow_to_send(&mut self, received: u64, now: Instant, limits: &Limits) -> bool {
        let Some((from, had)) = self.send_from else { return false };
        let window = now.saturating_duration_since(from);
        if window < limits.min_rate_window {
            return false;
        }
        self.send_from = Some((now, received));
        ((received - had) as f64) < limits.min_rate_bytes_per_s as f64 * window.as_secs_f64()
    }

    /// Whether the downstream side has ended its direction, or is gone, and nothing has moved for
    /// so long that it does not count while callers wait. It is asked again as much later.
    fn has_left(&mut self, now: Instant, limits: &Limits) -> bool {
        let Some(looked) = self.half_closed else { return false };
        let due =
            now.saturating_duration_since(looked.max(self.progress)) >= limits.half_close_timeout;
        if due {
            self.half_closed = Some(now);
        }
        due
    }

    /// Its gateway or device stops: what is half ended is not waited for any longer.
    pub(crate) fn hurry(&mut self) {
        self.hurried = true;
    }

    /// Whether the downstream side, which has `unread` bytes waiting for it, took too little over a
    /// whole window of the minimum rate. The next window begins when all has been written that can
    /// be: what its socket had room for is no sign of reading.
    fn is_slow(&mut self, written: u64, unread: bool, now: Instant, limits: &Limits) -> bool {
        let Some((from, taken)) = self.rate_from else { return false };
        let window = now.saturating_duration_since(from);
        if window < limits.min_rate_window {
            return false;
        }
        self.rate_from = None;
        unread
            && ((written - taken) as f64)
                < limits.min_rate_bytes_per_s as f64 * window.as_secs_f64()
    }

    /// No other request follows on the downstream connection; its answer says so where it has not
    /// begun.
    pub(crate) fn last_of_asker(&mut self) {
        self.downstream_keeps &= self.answered;
    }

    /// `writing`: the upstream side has not taken all that there is of the request. `answer_waits`:
    /// the downstream side has not taken all that there is of the response; however long a gateway
    /// lets a local server be silent, it takes what it asked for, or its link ends.
    fn patience(&self, limits: &Limits, writing: bool, answer_waits: bool) -> Wait {
        if let Some(time) = self.whole_within {
            return Wait {
                time,
                name: if self.is_probe { "heartbeat_timeout" } else { "abandoned_timeout" },
            };
        }
        let wait = match &self.tunnel {
            Some(tunnel) if tunnel.is_half_ended() && self.hurried => {
                return Wait { time: limits.abandoned_timeout, name: "abandoned_timeout" };
            }
            Some(tunnel) if tunnel.is_half_ended() => return self.waits.half_tunnel,
            Some(_) => return self.waits.tunnel,
            None if writing => self.waits.write,
            None if answer_waits && !self.waits.body_silence.is_bounded() => {
                Wait { time: limits.body_silence_timeout, name: "body_silence_timeout" }
            }
            None if self.request.is_done() && self.response.is_none() => self.waits.first_byte,
            None => self.waits.body_silence,
        };
        let shorter = !wait.is_bounded() || limits.abandoned_timeout < wait.time;
        if self.downstream_ended && shorter {
            Wait { time: limits.abandoned_timeout, name: "abandoned_timeout" }
        } else {
            wait
        }
    }
}

impl Tunnel {
    /// Moves what has come, both ways. False: nothing moved.
    fn step<T>(
        &mut self,
        downstream: &mut Connection<T>,
        link: &mut Connection<T>,
        scratch: &mut [u8],
        rules: &Rules,
    ) -> Result<bool, CloseReason> {
        let moved = pour(downstream, link, &mut self.to_upstream, scratch, rules)?
            | pour(link, downstream, &mut self.to_downstream, scratch, rules)?;
        if !moved {
            downstream.settle();
            link.settle();
        }
        Ok(moved)
    }

    fn is_half_ended(&self) -> bool {
        self.to_downstream != Direction::Open || self.to_upstream != Direction::Open
    }

    /// Why it is over, where it is: both sides were told an end, or one was, and takes no more.
    fn end(&self) -> Option<CloseReason> {
        match (self.to_downstream, self.to_upstream) {
            (Direction::Open, _) | (_, Direction::Open) => None,
            (Direction::Deaf, Direction::Deaf) => {
                Some(CloseCause::Reset.because("its tunnel broke"))
            }
            _ => Some(CloseCause::Tunnel.because("its tunnel ended in both directions")),
        }
    }
}

/// One direction of a tunnel. Where the receiving side takes no more, what it sent before is still
/// passed on: the other direction goes on to its end.
fn pour<T>(
    from: &mut Connection<T>,
    to: &mut Connection<T>,
    direction: &mut Direction,
    scratch: &mut [u8],
    rules: &Rules,
) -> Result<bool, CloseReason> {
    if *direction == Direction::Deaf {
        return Ok(false);
    }
    let written = to.written();
    let mut moved = false;
    let mut taken = Ok(true);
    if to.pending() < rules.limits.read_ahead_bytes_max && from.has_input() {
        match from.fetch(scratch, scratch.len()) {
            Ok(Fetched::Bytes(n)) => {
                taken = to.send(&scratch[..n]).map(|()| true);
                moved = true;
            }
            Ok(Fetched::Nothing | Fetched::End) => {}
            Err(_) => return Err(CloseCause::Reset.because("its tunnel broke")),
        }
    }
    taken = taken.and_then(|_| to.flush());
    if matches!(taken, Ok(true))
        && from.at_end_of_stream()
        && from.kept() == 0
        && *direction == Direction::Open
    {
        // A direction that ends leaves the other one open.
        taken = to.end_output().inspect(|told| {
            if *told {
                (*direction, moved) = (Direction::Shut, true);
            }
        });
    }
    if taken.is_err() || (to.is_broken() && *direction == Direction::Open) {
        to.drop_output();
        to.look_again();
        (*direction, moved) = (Direction::Deaf, true);
    }
    Ok(moved || to.written() != written)
}

impl Enclosing {
    fn is_done(&self) -> bool {
        self.first.is_empty() && self.decoder.is_done()
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

fn too_large() -> Refusal {
    Refusal::new(
        413,
        "the device is reached by polling, and the body is longer than message_bytes_max allows for that",
    )
}

/// Writes one piece of a body, as a chunk where the message is chunked.
fn send_piece<T>(to: &mut Connection<T>, data: &[u8], chunked: bool) -> std::io::Result<()> {
    if !chunked {
        return to.send(data);
    }
    body::open_chunk(to.output(), data.len());
    to.send(data)?;
    to.output().extend_from_slice(b"\r\n");
    Ok(())
}

/// Gives an exchange its upstream connection and sends the request's head on it.
pub(crate) fn attach<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    link: Id,
) {
    attach_with(role, cx, key, link, b"");
}

/// The same, with one line more in the head, which is for this connection alone: should the request
/// be sent again on another one, it goes without.
pub(crate) fn attach_with<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    link: Id,
    line: &[u8],
) {
    let now = cx.now();
    let Some(exchange) = role.exchanges().get_mut(key) else { return };
    exchange.upstream = Some(link);
    exchange.progress = now;
    if let Some(peer) = cx.get_mut(link) {
        (exchange.mark, exchange.before) = (Some(peer.mark()), peer.pending());
        let request = exchange.request();
        let start = request
            .windows(2)
            .position(|end| end == b"\r\n")
            .filter(|_| !line.is_empty())
            .map_or(0, |end| end + 2);
        let (first, rest) = request.split_at(start);
        let out = peer.output();
        [first, line, rest].iter().for_each(|part| out.extend_from_slice(part));
    }
    advance(role, cx, key);
}

/// Gives an exchange the connection whose POST brings its response. `decoder`: of the POST's body;
/// `first`: what was taken out of it already, from the final response's first byte on, its whole
/// head included.
pub(crate) fn attach_enclosed<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    post: Id,
    decoder: Decoder,
    first: Vec<u8>,
) {
    let now = cx.now();
    let Some(exchange) = role.exchanges().get_mut(key) else { return };
    exchange.upstream = Some(post);
    exchange.enclosing = Some(Enclosing { decoder, first });
    exchange.progress = now;
    exchange.forget_request();
    cx.set_deadline(post, None); // the exchange keeps the time
    advance(role, cx, key);
}

/// Gives an exchange its whole response, which no connection holds any more. `held`: its share of
/// the budget, until the downstream side has taken it.
pub(crate) fn deliver<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    text: &[u8],
    held: Held,
) {
    let rules = role.rules();
    let date = date_now().filter(|_| rules.add_date);
    let date = date.as_ref().map_or("", DateText::as_str);
    let now = cx.now();
    let Some(exchange) = role.exchanges().get_mut(key) else { return };
    exchange.forget_request();
    (exchange.held, exchange.began, exchange.progress) = (Some(held), true, now);
    let downstream = exchange.downstream.and_then(|downstream| cx.get_mut(downstream));
    let taken = match exchange.take_response(text, downstream, &rules, date) {
        Ok(_) if exchange.response_is_whole() => Ok(()),
        Ok(_) => Err(ExchangeError::HandshakeError(
            CloseCause::ProtocolError.because("gave an answer that is not whole"),
        )),
        Err(lost) => Err(lost),
    };
    match taken {
        Ok(()) => advance(role, cx, key),
        Err(lost) => drop(fail(role, cx, key, lost)),
    }
}

/// Moves an exchange as far as its connections allow.
pub(crate) fn advance<R: Relaying>(role: &mut R, cx: &mut Connections<R::State>, key: Key) {
    loop {
        let rules = role.rules();
        let in_progress = role.exchanges().len().max(1);
        // Together they read no more than there is memory left: exchanges that were begun while
        // there was plenty may all be answered at once.
        let left = role.memory_left(cx) / in_progress;
        let Some(exchange) = role.exchanges().get_mut(key) else { return };
        let now = date_now().filter(|_| rules.add_date);
        let date = now.as_ref().map_or("", DateText::as_str);
        let mut buffer = cx.take_scratch();
        let piece = (READ_BUDGET / in_progress)
            .clamp(rules.limits.read_ahead_bytes_max.min(buffer.len()), buffer.len());
        let least = if exchange.response.is_none() {
            rules.limits.head_bytes_max + READ_LEAST
        } else {
            READ_LEAST
        }; // a head is read in one piece
        let piece = piece.min(left.max(least));
        let scratch = &mut buffer[..piece];
        let step = match (exchange.downstream, exchange.upstream) {
            (Some(a), Some(l)) => match cx.pair_mut(a, l) {
                Some((a, l)) => exchange.step(Some(a), Some(l), scratch, &rules, date),
                None => Err(ExchangeError::HandshakeError(CloseCause::Failed.because("is gone"))),
            },
            (Some(a), None) => exchange.step(cx.get_mut(a), None, scratch, &rules, date),
            (None, Some(l)) => exchange.step(None, cx.get_mut(l), scratch, &rules, date),
            (None, None) => Ok(Step::Finished),
        };
        cx.put_scratch(buffer);
        let both = [exchange.downstream, exchange.upstream];
        both.into_iter().flatten().for_each(|id| cx.resume(id));
        match step {
            Ok(Step::Pending) => return wait(role, cx, key, &rules),
            Ok(Step::Again) => {
                if let Some(id) = exchange.downstream.or(exchange.upstream) {
                    cx.again(id);
                }
                return wait(role, cx, key, &rules);
            }
            Ok(Step::LinkDone(reusable)) => {
                if let Some(link) = exchange.upstream.take() {
                    cx.set_deadline(link, None);
                    role.free(cx, link, reusable);
                }
            }
            Ok(Step::Finished) => return finish(role, cx, key),
            Ok(Step::TunnelEnds(why)) => return abort(role, cx, key, why),
            Err(lost) => {
                if !fail(role, cx, key, lost) {
                    return;
                }
            }
        }
    }
}

fn wait<R: Relaying>(role: &mut R, cx: &mut Connections<R::State>, key: Key, rules: &Rules) {
    let Some(exchange) = role.exchanges().get_mut(key) else { return };
    [exchange.downstream, exchange.upstream].into_iter().flatten().for_each(|id| cx.tally(id)); // a step of one moves bytes to the other
    let now = cx.now();
    if exchange.downstream.is_some() && exchange.is_waiting() {
        return; // it waits for a connection; the role has set that deadline
    }
    let (downstream, upstream) = (exchange.downstream, exchange.upstream);
    exchange.note_progress(cx);
    let writing = upstream.and_then(|l| cx.get(l)).is_some_and(|l| l.pending() > 0);
    exchange.note_turns(downstream.and_then(|a| cx.get_mut(a)), writing, now, rules);
    if exchange.awaits_rest() && exchange.whole_within.is_none() {
        (exchange.whole_within, exchange.progress) = (Some(rules.limits.abandoned_timeout), now);
    }
    exchange.head_since = if exchange.half_head { exchange.head_since.or(Some(now)) } else { None };
    let answer_waits = downstream.and_then(|a| cx.get(a)).is_some_and(|a| a.pending() > 0);
    let at = exchange.left(now, &rules.limits, writing, answer_waits).map(|left| cx.after(left));
    if let Some(owner) = downstream.or(upstream) {
        cx.set_deadline(owner, at);
    }
}

/// The deadline of an exchange's connection passed.
pub(crate) fn expired<R: Relaying>(role: &mut R, cx: &mut Connections<R::State>, key: Key) {
    let rules = role.rules();
    let now = cx.now();
    let Some(exchange) = role.exchanges().get_mut(key) else { return };
    let (downstream, upstream) = (exchange.downstream, exchange.upstream);
    // A socket says that it has room only when a third of its buffer is free: before anybody is
    // called slow, it is tried.
    for id in [downstream, upstream].into_iter().flatten() {
        if let Some(peer) = cx.get_mut(id).filter(|p| p.pending() > 0) {
            peer.try_to_write();
            let _ = peer.flush(); // a failure shows in the step below
        }
    }
    exchange.note_progress(cx);
    let unread = upstream.and_then(|l| cx.get(l)).is_some_and(|l| l.pending() > 0);
    let answer_waits = downstream.and_then(|a| cx.get(a)).is_some_and(|a| a.pending() > 0);
    let patience = exchange.patience(&rules.limits, unread, answer_waits);
    let silent =
        patience.is_bounded() && now.saturating_duration_since(exchange.progress) >= patience.time;
    let late_head = exchange.late_head(now, &rules).filter(|_| downstream.is_some());
    if let (false, Some(reason)) = (silent, late_head) {
        let answer = LocalAnswer {
            error: Some("http_response_timeout"),
            keep: true,
            ..LocalAnswer::new(504, &reason)
        };
        return answer_instead(
            role,
            cx,
            key,
            CloseReason::new(CloseCause::Late, reason.clone()),
            &answer,
        );
    }
    if !silent {
        return match judge(role, cx, key) {
            Some(answer) => end_for_others(role, cx, key, answer),
            None => advance(role, cx, key),
        };
    }
    if exchange.awaits_rest() {
        exchange.downstream_keeps = false; // what was answered stays so; its connection ends gently
        return advance(role, cx, key);
    }
    if exchange.downstream_ended {
        return abort(role, cx, key, CloseCause::AskerGone.because("who asked has gone"));
    }
    let whole = exchange.request.is_done();
    let (answered, heartbeat, tunnel) =
        (exchange.answered, exchange.whole_within.is_some(), exchange.is_tunnel());
    if downstream.is_none() && heartbeat {
        let what =
            if exchange.is_probe { CloseCause::HeartbeatMissed } else { CloseCause::AskerGone };
        return abort(
            role,
            cx,
            key,
            CloseReason::new(what, format!("the answer was not whole within {patience}")),
        );
    }
    if downstream.is_none() || answered {
        let what = if tunnel { "nothing moved on its tunnel for" } else { "nothing moved for" };
        log_names!(Info, "an exchange was cut: {what} {patience}");
        return abort(
            role,
            cx,
            key,
            CloseReason::new(CloseCause::Late, format!("{what} {patience}")),
        );
    }
    let (status, error, reason) = if whole && !unread {
        (
            504,
            "http_response_timeout",
            format!("{} did not begin its response within {patience}", rules.upstream_name),
        )
    } else if unread {
        (
            504,
            "connection_timeout",
            format!("{} took nothing of the request for {patience}", rules.upstream_name),
        )
    } else {
        (408, "http_request_error", format!("nothing of the request's body arrived for {patience}"))
    };
    let end = if status == 408 { CloseCause::AskerGone } else { CloseCause::Late };
    let answer =
        LocalAnswer { error: Some(error), keep: true, ..LocalAnswer::new(status, &reason) };
    answer_instead(role, cx, key, CloseReason::new(end, reason.clone()), &answer);
}

/// Why an exchange is ended for the sake of those who wait for what it holds.
enum Unfair {
    SlowReader,
    SlowSender,
    HasLeft,
}

/// Whether an exchange is to be ended because others wait for what it holds, and its downstream
/// side makes no use of it.
fn judge<R: Relaying>(role: &mut R, cx: &Connections<R::State>, key: Key) -> Option<Unfair> {
    let (now, rules) = (cx.now(), role.rules());
    let exchange = role.exchanges().get_mut(key)?;
    let downstream = exchange.downstream.and_then(|a| cx.get(a));
    let (written, received, left) =
        downstream.map_or((0, 0, false), |a| (a.written(), a.received(), a.pending() > 0));
    let slow = exchange.is_slow(written, left, now, &rules.limits);
    let slow_to_send = exchange.is_slow_to_send(received, now, &rules.limits);
    let has_left = exchange.has_left(now, &rules.limits);
    let fills = exchange.held.as_ref().is_some_and(Held::is_wanted);
    let link = exchange.upstream;
    if !(slow || slow_to_send || has_left) {
        return None;
    }
    let wanted = link.is_some_and(|link| role.callers_wait(cx, link));
    match () {
        () if slow && (fills || wanted) => Some(Unfair::SlowReader),
        () if slow_to_send && wanted => Some(Unfair::SlowSender),
        () if has_left && wanted => Some(Unfair::HasLeft),
        () => None,
    }
}

fn end_for_others<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    unfair: Unfair,
) {
    let (why, status, reason) = match unfair {
        Unfair::SlowReader => {
            log_names!(
                Info,
                "an answer was ended: its reader takes less than min_rate_bytes_per_s while others wait for what it holds"
            );
            return abort(
                role,
                cx,
                key,
                CloseCause::SlowReader
                    .because("slower than min_rate_bytes_per_s while callers waited"),
            );
        }
        Unfair::SlowSender => {
            log_names!(
                Info,
                "an upload was ended: it comes slower than min_rate_bytes_per_s while others wait for its device"
            );
            let reason = "the request's body came slower than min_rate_bytes_per_s while others waited for the device; send it faster, or later";
            (
                CloseCause::SlowSender
                    .because("slower than min_rate_bytes_per_s while callers waited"),
                408,
                reason,
            )
        }
        Unfair::HasLeft => {
            let reason = "others waited for the device, and the visitor had ended its direction of the connection (half_close_timeout)";
            (
                CloseCause::AskerGone
                    .because("its visitor had ended its direction, and callers waited"),
                503,
                reason,
            )
        }
    };
    if role
        .exchanges()
        .get(key)
        .is_some_and(|exchange| exchange.answered || exchange.downstream.is_none())
    {
        return abort(role, cx, key, why);
    }
    let error = if status == 408 { "http_request_error" } else { "connection_limit_reached" };
    let retry_after = (status == 503).then_some(1);
    answer_instead(
        role,
        cx,
        key,
        why,
        &LocalAnswer { error: Some(error), retry_after, ..LocalAnswer::new(status, reason) },
    );
}

/// Ends an exchange whose response has not begun: its link is freed, the downstream side told.
/// `answer.keep`: where the downstream side may go on, it does.
pub(crate) fn answer_instead<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    why: CloseReason,
    answer: &LocalAnswer<'_>,
) {
    let Some(exchange) = role.exchanges().remove(key) else { return };
    let (to_head, keep) = (exchange.is_head, answer.keep && exchange.may_keep_asker());
    let_go(role, cx, &exchange, why);
    if let Some(downstream) = exchange.downstream {
        role.answer(cx, downstream, &LocalAnswer { to_head, keep, ..answer.clone() });
    }
}

fn detach<R: Relaying>(role: &mut R, key: Key) -> Option<Id> {
    role.exchanges().get_mut(key).and_then(|exchange| exchange.upstream.take())
}

/// Ends an exchange at once, both ways: what the downstream side has of its answer is seen to be
/// incomplete. Of a tunnel each side that was not told a clean end sees a reset, and no
/// close_notify, for nothing else tells it from an end.
pub(crate) fn abort<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    why: CloseReason,
) {
    let Some(exchange) = role.exchanges().remove(key) else { return };
    let cut = |direction: fn(&Tunnel) -> Direction| {
        exchange.tunnel.as_ref().is_some_and(|tunnel| {
            why.end != CloseCause::Tunnel && direction(tunnel) != Direction::Shut
        })
    };
    let (cut_asking, cut_answering) =
        (cut(|tunnel| tunnel.to_downstream), cut(|tunnel| tunnel.to_upstream));
    if let Some(peer) =
        exchange.upstream.filter(|_| exchange.tunnel.is_some()).and_then(|link| cx.get_mut(link))
    {
        let _ = peer.flush(); // as below
    }
    if let Some(downstream) = exchange.downstream {
        let _ = cx.get_mut(downstream).map(Connection::flush); // what was read of the answer goes out before its cut is seen
        // A plain end would look like the end of the body.
        role.downstream_gone(cx, downstream, exchange.response_until_close || cut_asking);
    }
    if let Some(peer) = exchange.upstream.filter(|_| cut_answering).and_then(|link| cx.get(link)) {
        peer.stream().will_reset();
    }
    let_go(role, cx, &exchange, why);
}

/// Frees the upstream connection of an exchange that failed. Where the downstream side failed
/// before a byte of its request went out, the connection is as good as before: one visitor's fault
/// must not cost others a link (T48).
fn let_go<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    exchange: &Exchange,
    why: CloseReason,
) {
    let Some(link) = exchange.upstream else { return };
    let untouched = matches!(why.end, CloseCause::AskerGone | CloseCause::SlowSender)
        && !exchange.request_cut
        && cx.get_mut(link).zip(exchange.mark).is_some_and(|(peer, mark)| {
            !peer.is_over() && !peer.is_broken() && peer.take_back(mark)
        });
    role.free(cx, link, if untouched { Ok(()) } else { Err(why) });
}

fn finish<R: Relaying>(role: &mut R, cx: &mut Connections<R::State>, key: Key) {
    let Some(exchange) = role.exchanges().remove(key) else { return };
    if let Some(downstream) = exchange.downstream {
        cx.set_deadline(downstream, None);
        role.next(cx, downstream, exchange.downstream_keeps && exchange.request.is_done());
    }
}

/// True: the exchange goes on (its asker is gone, the rest of a small response is drained).
fn fail<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    lost: ExchangeError,
) -> bool {
    let rules = role.rules();
    let Some(exchange) = role.exchanges().get_mut(key) else { return false };
    let why = match lost {
        ExchangeError::Asker => return asker_left(role, cx, key),
        ExchangeError::Refused(refusal) => {
            let why = CloseCause::AskerGone.because("its request broke the protocol half-way");
            match exchange.answered {
                true => abort(role, cx, key, why),
                false => answer_instead(
                    role,
                    cx,
                    key,
                    why,
                    &LocalAnswer::new(refusal.status, &refusal.reason),
                ),
            }
            return false;
        }
        ExchangeError::Silent(why) if exchange.may_retry() => {
            exchange.retried = true;
            exchange.request_cut = false;
            log_names!(
                Debug,
                "{} {}; the request is sent on another connection",
                rules.upstream_name,
                why.text
            );
            if let Some(link) = detach(role, key) {
                role.free(cx, link, Err(why));
            }
            role.retry(cx, key);
            return false;
        }
        ExchangeError::Silent(why) | ExchangeError::HandshakeError(why) => why,
    };
    let text = format!("{} {}", rules.upstream_name, why.text);
    log_names!(Info, "an exchange failed: {text}");
    if exchange.downstream.is_none() || exchange.answered {
        abort(role, cx, key, why);
        return false;
    }
    let error = if exchange.began { "http_protocol_error" } else { "connection_terminated" };
    answer_instead(
        role,
        cx,
        key,
        why,
        &LocalAnswer { error: Some(error), keep: true, ..LocalAnswer::new(502, &text) },
    );
    false
}

/// The downstream side is gone. A whole request's answer is drained, within bounds, to save the
/// link; else the link ends.
fn asker_left<R: Relaying>(role: &mut R, cx: &mut Connections<R::State>, key: Key) -> bool {
    let rules = role.rules();
    let Some(exchange) = role.exchanges().get_mut(key) else { return false };
    let downstream = exchange.downstream.take();
    let unsent = exchange.upstream.and_then(|l| cx.get(l)).is_none_or(|l| l.pending() > 0);
    let too_long = exchange.response.as_ref().is_some_and(|r| {
        r.remaining().is_some_and(|left| left > rules.limits.drain_bytes_max as u64)
            || exchange.response_until_close
    });
    let drains = exchange.upstream.is_some()
        && exchange.request.is_done()
        && !exchange.request_cut
        && !unsent
        && !too_long;
    if let Some(downstream) = downstream {
        role.downstream_gone(cx, downstream, false);
    }
    if !drains {
        abort(role, cx, key, CloseCause::AskerGone.because("its caller gave up half-way"));
    } else if let Some(exchange) = role.exchanges().get_mut(key) {
        // A stream that trickles on must not hold the link for nobody.
        (exchange.whole_within, exchange.progress, exchange.rate_from) =
            (Some(rules.limits.abandoned_timeout), cx.now(), None);
        exchange.half_closed = (!rules.limits.half_close_timeout.is_zero()).then(|| cx.now());
    }
    drains
}

/// An answer that no peer gave: a refusal or a failure, told by this end.
#[derive(Clone, Debug)]
pub(crate) struct LocalAnswer<'a> {
    pub(crate) status: u16,
    pub(crate) reason: &'a str,
    /// `Proxy-Status` error type (RFC 9209 §2.3).
    pub(crate) error: Option<&'static str>,
    /// `Proxy-Status` also without an error type: a device has to know this gateway's answer from a
    /// middlebox's.
    pub(crate) mark: bool,
    pub(crate) retry_after: Option<u64>,
    pub(crate) fields: &'a [(&'a str, &'a str)],
    /// The answer is to a HEAD request: no body.
    pub(crate) to_head: bool,
    /// The connection goes on.
    pub(crate) keep: bool,
}

impl<'a> LocalAnswer<'a> {
    /// An answer with this status and reason that closes the connection.
    pub(crate) fn new(status: u16, reason: &'a str) -> Self {
        LocalAnswer {
            status,
            reason,
            error: None,
            mark: false,
            retry_after: None,
            fields: &[],
            to_head: false,
            keep: false,
        }
    }

    /// Appends it: head and a `text/plain` body of one line.
    pub(crate) fn write(&self, out: &mut Vec<u8>, date: &str) {
        let length = (self.reason.len() + 1).to_string();
        let retry_after = self.retry_after.map(|s| s.to_string());
        let proxy_status = match (self.error, self.mark) {
            (Some(error), _) => {
                Some(format!("ptth; error={error}; details=\"{}\"", quoted(self.reason)))
            }
            (None, true) => Some(format!("ptth; details=\"{}\"", quoted(self.reason))),
            (None, false) => None,
        };
        let upgrades = self.fields.iter().any(|(name, _)| *name == "Upgrade"); // RFC 9110 §7.8: then `Connection` has to list it
        let connection = match (self.keep, upgrades) {
            (true, true) => Some("Upgrade"),
            (true, false) => None,
            (false, true) => Some("close, Upgrade"),
            (false, false) => Some("close"),
        };
        let fields = [
            ("Date", Some(date)),
            ("Content-Type", Some("text/plain; charset=utf-8")),
            ("Content-Length", Some(&length)),
        ];
        let more = [
            ("Retry-After", retry_after.as_deref()),
            ("Proxy-Status", proxy_status.as_deref()),
            ("Connection", connection),
        ];
        let built =
            fields.iter().chain(&more).filter_map(|(name, value)| value.map(|v| (*name, v)));
        if head::write_status_line(out, self.status, head::reason_phrase(self.status).as_bytes())
            .is_err()
        {
            return;
        }
        for (name, value) in built.chain(self.fields.iter().copied()) {
            if let Err(refusal) = head::write_field(out, name, value.as_bytes()) {
                log::error!("field {name} of an answer was left out: {refusal}");
            }
        }
        out.extend_from_slice(b"\r\n");
        if !self.to_head {
            out.extend_from_slice(self.reason.as_bytes());
            out.push(b'\n');
        }
    }
}

/// Text fit for a quoted string of a structured field (RFC 9651 §3.3.3): visible ASCII, escapes for
/// `"` and `\`. The body has the whole of it; a program's long reason must not push a head over its
/// limit.
fn quoted(text: &str) -> String {
    const CHARS_MAX: usize = 500;
    text.chars()
        .take(CHARS_MAX)
        .flat_map(|c| match c {
            '"' | '\\' => vec!['\\', c],
            ' '..='~' => vec![c],
            _ => vec!['?'],
        })
        .collect()
}

/// Bytes that one step reads from a connection that is being closed.
const LINGER_READ: usize = 64 * 1024;

/// Ends a connection gently: what waits is written, the sending direction closed, and what still
/// comes read and dropped, so that the last answer is not lost to a reset (RFC 9112 §9.6): clients
/// that write everything before they read are met, however much they write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lingering {
    /// When it ends at the latest.
    ends: Instant,
    /// And when nothing comes for so long.
    silence: Duration,
    shut: bool,
}

/// How a step left a connection that is being closed.
enum Lingered {
    Over,
    Waits,
    /// Something came, and more may be there.
    Came,
}

impl Lingering {
    fn step<T>(&mut self, peer: &mut Connection<T>, scratch: &mut [u8]) -> Lingered {
        let waits =
            |peer: &Connection<T>| if peer.is_broken() { Lingered::Over } else { Lingered::Waits };
        match peer.flush() {
            Err(_) => return Lingered::Over,
            Ok(false) => return waits(peer),
            Ok(true) => {}
        }
        if !self.shut {
            match peer.end_output() {
                Ok(true) => self.shut = true,
                Ok(false) => return waits(peer),
                Err(_) => return Lingered::Over,
            }
        }
        match peer.fetch(scratch, LINGER_READ) {
            Ok(Fetched::Bytes(_)) => Lingered::Came,
            Ok(Fetched::Nothing) => Lingered::Waits,
            Ok(Fetched::End) | Err(_) => Lingered::Over,
        }
    }
}

/// Begins to close a connection gently; `begin` makes its state. `hurried`: this side stops, and
/// waits less for a silent peer.
pub(crate) fn linger<T>(
    cx: &mut Connections<T>,
    id: Id,
    limits: &Limits,
    hurried: bool,
    begin: impl FnOnce(Lingering) -> T,
) {
    let silence = if hurried {
        limits.linger_timeout.min(limits.abandoned_timeout)
    } else {
        limits.linger_timeout
    };
    let (silent, ends) = (cx.after(silence), cx.after(limits.linger_total_timeout));
    let Some(peer) = cx.get_mut(id) else { return };
    peer.state = begin(Lingering { ends, silence, shut: false });
    cx.set_deadline(id, Some(silent.min(ends)));
    cx.lingers(id, limits.lingering_max);
}

/// This side stops: a connection that is being closed is not waited for as long as before.
pub(crate) fn hurry_lingering<T>(
    cx: &mut Connections<T>,
    id: Id,
    limits: &Limits,
    find: fn(&mut T) -> Option<&mut Lingering>,
) {
    let silence = limits.linger_timeout.min(limits.abandoned_timeout);
    let at = cx.after(silence);
    let Some(lingering) = cx.get_mut(id).and_then(|peer| find(&mut peer.state)) else { return };
    lingering.silence = silence;
    let at = at.min(lingering.ends);
    cx.set_deadline(id, Some(at));
}

/// One step of a connection that is being closed gently; closes it when that is over. `find`: where
/// its state keeps the rest.
pub(crate) fn step_lingering<T>(
    cx: &mut Connections<T>,
    id: Id,
    find: fn(&mut T) -> Option<&mut Lingering>,
) {
    let mut scratch = cx.take_scratch();
    let stepped = cx.get_mut(id).and_then(|peer| {
        let mut lingering = *find(&mut peer.state)?;
        let step = lingering.step(peer, &mut scratch);
        *find(&mut peer.state)? = lingering;
        Some((step, lingering))
    });
    cx.put_scratch(scratch);
    match stepped {
        Some((Lingered::Over, _)) => cx.close(id),
        Some((Lingered::Came, Lingering { ends, silence, .. })) => {
            let at = cx.after(silence).min(ends);
            cx.set_deadline(id, Some(at));
            if cx.get(id).is_some_and(Connection::has_input) {
                cx.again(id); // a bounded piece in each turn of the loop
            }
        }
        Some((Lingered::Waits, _)) | None => {}
    }
}
