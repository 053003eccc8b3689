//! The device on its event loop: dials, offers, parks turned links, hands them to handlers, and
//! dials again.
//!
//! ```text
//!   Dial (connect ─► offer ─► verdict) ─► Link (idle ⇄ at a worker, or relayed to the local server) ─► gone ─► Dial
//!          └─ the gateway fell back ─► a poll slot keeps it (comet.rs)
//! ```

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::*};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, TrySendError};
use http::{Request, Response, StatusCode};

use crate::close_reason::{self, CloseCause, CloseReason};
use crate::device::answer::Past;
use crate::device::comet::{Reply, Slot};
use crate::device::demand::Demand;
use crate::device::dial::{
    Backoff, GatewayList, GatewayTarget, RETRY_AFTER_MAX, Url, random, retry_after,
};
use crate::device::forward::{self, Local, Target};
use crate::device::group::{LoopGroup, Standing};
use crate::device::locals::Locals;
use crate::device::proxy::Proxy;
use crate::device::race::{Racer, Races};
use crate::device::redirects::{Reach, RedirectHosts};
use crate::device::resolve::{Found, Lookups, Waiter};
use crate::device::upgrade::{self, Taker, Upgraded, Upgrades};
use crate::device::{DeviceEvent, DeviceEventKind, Handler, OnRefusal};
use crate::engine::Role;
use crate::engine::connections::{Connections, Fetched, Id};
use crate::engine::event_loop::Remote;
use crate::engine::slab::{Key, Slab};
use crate::engine::workers::Workers;
use crate::error::{Error, Fault};
use crate::limits::Limits;
use crate::link::{DeviceLink, Lingered, Next};
use crate::message::Body;
use crate::proto::body::{self, Framing};
use crate::proto::comet;
use crate::proto::forward::callers_waiting;
use crate::proto::framed::FramedRequest;
use crate::proto::head::{self, LineEnds, ResponseHead};
use crate::proto::heartbeat::{self, Heartbeat};
use crate::proto::turn::{self, Encoding, Fallback, OfferPlan, Transport, Verdict};
use crate::relay::{self, Exchange, Lingering, LocalAnswer, Relaying, Rules};
use crate::stream::{Channel, Connector, HandshakeError, Shared, Stream};

/// What the device keeps for a connection.
pub(crate) enum State {
    /// It connects to one of the addresses of a gateway, a proxy or the local server.
    Racing(Racer),
    Dial(Box<Dial>),
    Link(Link),
    /// This end of a virtual link, of the poll slot that it belongs to.
    Bridge(Key),
    Local(Local),
    Lingering(Lingering),
}

/// A connection on its way to be a link, or one that polls.
pub(crate) struct Dial {
    pub(super) url: Arc<Url>,
    /// The configured gateway that it began with.
    pub(super) home: Arc<GatewayTarget>,
    pub(super) redirects: usize,
    pub(super) stage: Stage,
    /// The poll slot whose connection it is.
    pub(super) slot: Option<Key>,
    /// Replies of nothing that came at once, in a row.
    pub(super) quick: usize,
    /// Nothing has been answered on this connection yet.
    pub(super) fresh: bool,
    /// When the connection was begun.
    pub(super) begun: Option<Instant>,
}

impl Dial {
    pub(super) fn new(
        url: Arc<Url>,
        home: Arc<GatewayTarget>,
        redirects: usize,
        slot: Option<Key>,
    ) -> Self {
        Dial {
            url,
            home,
            redirects,
            stage: Stage::Connecting,
            slot,
            quick: 0,
            fresh: true,
            begun: None,
        }
    }
}

pub(super) enum Stage {
    /// It has no connection yet.
    Connecting,
    /// A proxy was asked for a tunnel; so many 1xx came.
    Tunnelling { informational: usize },
    /// Its TLS handshake is in progress.
    Securing,
    /// The offer or poll was written then, with `Upgrade` or without; so many 1xx came.
    Offered { at: Instant, upgrade: bool, informational: usize },
    /// The body of a reply of the fallback is on its way.
    Reading(Box<Reply>),
    /// A gateway that answers at once that there is nothing is not asked again at once. `keep`:
    /// then on this connection.
    Pausing { keep: bool },
    /// Its slot works on an event; nothing is asked meanwhile.
    Resting,
}

/// What a reply's head says beside its verdict.
pub(super) struct ReplyHead {
    pub(super) status: u16,
    /// Another request may follow on the connection, once the body is read.
    pub(super) keep: bool,
    /// What it answers had gone out whole.
    pub(super) sent: bool,
    /// How the body of a reply of the fallback ends.
    pub(super) framing: Result<Framing, crate::error::Refusal>,
    pub(super) id: Result<Option<String>, crate::error::Refusal>,
    /// A short text in its body, where that came with the head.
    pub(super) said: String,
    /// It is the gateway's own word, not that of something on the way.
    pub(super) marked: bool,
    /// How its content is compressed.
    pub(super) coding: Option<String>,
    /// How long it asks to be left alone.
    pub(super) retry_after: Option<Duration>,
}

/// A turned connection in the loop.
#[derive(Clone, Copy)]
pub(crate) struct Link {
    pub(super) exchange: Option<Key>,
    /// It is the virtual link of this poll slot: no link of the gateway's, and not counted as one.
    pub(super) slot: Option<Key>,
    since: Instant,
    /// A heartbeat came on it while it was lent.
    beaten: bool,
    /// Some of a head is here.
    began: bool,
    /// A request came on it: it was of use.
    used: bool,
    /// Its offer was held: it was turned because somebody asked.
    held: bool,
    /// The local connection that its visitor is logged in on, idle.
    pub(super) bound: Option<Id>,
}

impl Link {
    pub(super) fn new(slot: Option<Key>, since: Instant) -> Self {
        Link {
            exchange: None,
            slot,
            since,
            beaten: false,
            began: false,
            used: false,
            held: false,
            bound: None,
        }
    }
}

/// Who answers what comes over the links.
#[derive(Clone)]
pub(crate) enum Service {
    Handler(Handler),
    /// `recv()`: exchanges wait in a channel.
    Receive(Sender<Lease>),
    /// `accept()`: links wait in a channel.
    Listen(Sender<Lease>),
    Forward(Target),
}

/// A link in the hands of program code.
pub(crate) struct Lease {
    pub(crate) stream: Arc<Stream>,
    pub(crate) unread: Vec<u8>,
    /// It carries a request, which may wait for `recv()` or a thread: no idle link.
    pub(crate) busy: Option<Busy>,
    pub(crate) ticket: Ticket,
}

/// Why a link ended that its gateway closed between two requests.
pub(crate) const CLOSED: CloseReason = CloseCause::Closed.because("by the gateway");
/// A refusal that no gateway of ours gave.
const UNMARKED: &str = "that is not the gateway's own word (Proxy-Status: ptth), but perhaps that of a balancer or proxy before it, or this is no gateway";
const STOPS: CloseReason = CloseCause::Drained.because("the device stops");

/// Gives a link, or word of its end, back to the loop.
pub(crate) struct Ticket {
    remote: Remote<Command>,
    number: u64,
    link: Link,
    /// What the end of the link is put down to, if it is not given back.
    why: CloseReason,
    pub(crate) shared: Arc<Counters>,
}

impl Ticket {
    /// The link is over, and not by the doing of its exchange.
    pub(crate) fn end(mut self, why: CloseReason) {
        self.why = why;
    }

    /// The same, after an error on it.
    pub(crate) fn failed(self, error: &Error) {
        let end = match () {
            () if error.is_timeout() => CloseCause::Late,
            () if error.is_closed() => CloseCause::Cut,
            () if error.fault() == Fault::Gateway => CloseCause::ProtocolError,
            () => CloseCause::Failed,
        };
        self.end(CloseReason::new(end, error.to_string()));
    }

    /// Something came on the link: its end is no failed dial.
    pub(crate) fn used(&mut self) {
        self.link.used = true;
    }

    /// The link may be watched by the loop again.
    pub(crate) fn give_back(
        mut self,
        stream: Option<Stream>,
        unread: Vec<u8>,
        seen_heartbeat: bool,
    ) {
        self.link.beaten |= seen_heartbeat;
        let back = stream.and_then(|stream| {
            stream.set_nonblocking(true).ok().map(|()| (stream, unread, self.link))
        });
        if let Some(back) = back {
            self.remote.send(Command::Back { number: self.number, back: Box::new(back) });
            self.number = 0;
        }
    }

    /// Its gateway tells the link to go, and will be answered when this returns: by then another
    /// one is dialled, where one is wanted.
    pub(crate) fn says_farewell(&mut self) {
        let (dialled, done) = crossbeam_channel::bounded(1);
        let number = std::mem::take(&mut self.number); // its end is counted now
        if number != 0 && self.remote.send(Command::Farewell { number, link: self.link, dialled }) {
            let _ = done.recv_timeout(PACE); // a loop that is late, or has ended, keeps no gateway waiting
        }
    }

    /// One link more is busy, until the guard is dropped.
    fn occupy(&self) -> Busy {
        if self.link.slot.is_some() {
            return Busy(None);
        }
        self.shared.link_is_busy();
        Busy(Some(self.shared.clone()))
    }

    /// The same. Asks for another link when too few idle ones are left.
    pub(crate) fn busy(&self) -> Busy {
        let busy = self.occupy();
        if self.link.slot.is_none()
            && self.shared.is_short()
            && !self.shared.asked.swap(true, Relaxed)
        {
            self.remote.send(Command::TopUp);
        }
        busy
    }

    /// The gateway says, in a head that the loop has not read, that so many callers wait.
    pub(crate) fn callers_wait(&self, callers: usize) {
        self.remote.send(Command::CallersWait(callers));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.number != 0 {
            self.remote.send(Command::Gone {
                number: self.number,
                link: self.link,
                why: self.why.clone(),
            });
        }
    }
}

/// A link's busy time; a virtual link's is not counted.
pub(crate) struct Busy(Option<Arc<Counters>>);

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.busy.fetch_sub(1, Relaxed);
        }
    }
}

/// What loop and workers both count.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) links: AtomicUsize,
    pub(crate) dialing: AtomicUsize,
    /// Links with a request in progress.
    pub(crate) busy: AtomicUsize,
    /// The most of them at once since the loop looked last.
    busy_peak: AtomicUsize,
    pub(crate) exchanges: AtomicUsize,
    /// Poll slots.
    pub(crate) polls: AtomicUsize,
    /// 0: none; else one more than its place in [`WAYS`].
    transport: AtomicU8,
    /// Idle links wanted, and links in all.
    pub(crate) wanted: RangeInclusive<usize>,
    asked: AtomicBool,
    /// Links that ended.
    pub(crate) ends: close_reason::Counters,
    pub(crate) stopping: AtomicBool,
    /// Streams behind a 101 that handlers hold.
    pub(crate) upgrades: Upgrades,
}

impl Counters {
    pub(crate) fn new(wanted: RangeInclusive<usize>) -> Self {
        Counters {
            links: AtomicUsize::default(),
            dialing: AtomicUsize::default(),
            busy: AtomicUsize::default(),
            busy_peak: AtomicUsize::default(),
            exchanges: AtomicUsize::default(),
            polls: AtomicUsize::default(),
            transport: AtomicU8::default(),
            wanted,
            asked: AtomicBool::default(),
            ends: close_reason::Counters::default(),
            stopping: AtomicBool::default(),
            upgrades: Upgrades::default(),
        }
    }

    /// Links in all.
    pub(crate) fn max(&self) -> usize {
        *self.wanted.end()
    }

    /// A request is in progress on one link more.
    fn link_is_busy(&self) {
        let busy = self.busy.fetch_add(1, Relaxed) + 1;
        self.busy_peak.fetch_max(busy, Relaxed);
    }

    /// The most links that were busy at once since this was called last.
    fn take_peak(&self) -> usize {
        self.busy_peak.swap(self.busy.load(Relaxed), Relaxed)
    }

    /// Links that may be dialled beside those that there are, or that are on their way.
    fn room(&self) -> usize {
        self.max().saturating_sub(self.links.load(Relaxed) + self.dialing.load(Relaxed))
    }

    /// Whether another link is to be dialled: fewer idle ones (and ones on the way) than MIN, fewer
    /// in all than MAX.
    fn is_short(&self) -> bool {
        self.is_short_with(self.dialing.load(Relaxed))
    }

    /// The same with so many on the way.
    pub(super) fn is_short_with(&self, dialing: usize) -> bool {
        let (links, busy) = (self.links.load(Relaxed), self.busy.load(Relaxed));
        links + dialing < self.max() && links.saturating_sub(busy) + dialing < *self.wanted.start()
    }

    /// How the gateway reaches this device now.
    pub(crate) fn transport(&self) -> Option<Transport> {
        usize::from(self.transport.load(Relaxed))
            .checked_sub(1)
            .and_then(|place| WAYS.get(place).copied())
    }
}

const WAYS: [Transport; 3] =
    [Transport::Turn, Transport::Comet(Encoding::Json), Transport::Comet(Encoding::Message)];

/// What other threads ask of the device's loop.
pub(crate) enum Command {
    Resolved {
        number: u64,
        found: Found,
    },
    Back {
        number: u64,
        back: Box<(Stream, Vec<u8>, Link)>,
    },
    Gone {
        number: u64,
        link: Link,
        why: CloseReason,
    },
    /// A lent link is told to go, and its answer waits until another one is dialled.
    Farewell {
        number: u64,
        link: Link,
        dialled: Sender<()>,
    },
    TopUp,
    /// The gateway said to a worker, or to a program, that so many callers wait.
    CallersWait(usize),
    /// Dial now, whatever the back-off says.
    Retry,
    /// What the next dials go by.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    SetTls(Arc<Connector>),
    /// Nothing new; what is in progress may finish for so long.
    Drain(Duration),
    /// Whether the loop turns.
    Ping(crossbeam_channel::Sender<()>),
}

/// What one event loop goes by.
pub(crate) struct Plan {
    /// The gateway; with failover all of them.
    pub(crate) homes: GatewayList,
    /// For URLs with `https`.
    pub(crate) tls: Option<Arc<Connector>>,
    pub(crate) offer: OfferPlan,
    /// Fields that go only to a configured gateway's origin.
    pub(crate) secrets: Vec<(String, String)>,
    pub(crate) on_refusal: OnRefusal,
    /// Where gateways may send the device.
    pub(crate) redirects: RedirectHosts,
    pub(crate) proxy: Option<Proxy>,
    /// Failed attempts in a row, without a way in, after which the device ends.
    pub(crate) max_retries: Option<u32>,
    pub(crate) fallback: Fallback,
    /// Poll slots wanted while the gateway falls back, and poll slots in all.
    pub(crate) polls: RangeInclusive<usize>,
    /// The encoding of the fallback that is asked for first.
    pub(crate) encoding: Encoding,
}

pub(crate) struct DeviceRole {
    pub(super) limits: Arc<Limits>,
    /// For what the gateway sends of its visitors.
    pub(super) link_limits: Arc<Limits>,
    pub(super) plan: Plan,
    pub(super) service: Service,
    remote: Remote<Command>,
    pub(super) shared: Arc<Counters>,
    workers: Workers,
    pub(super) lookups: Lookups,
    pub(super) races: Races,
    rules: Arc<Rules>,
    pub(super) exchanges: Slab<Exchange>,
    pub(super) locals: Locals,
    leases: HashMap<u64, Weak<Stream>>,
    numbers: u64,
    backoff: Backoff,
    /// Attempts that failed since the last that did not.
    failed: u32,
    /// An offer was turned since the last failure: what else is wanted need not wait for its turn.
    answered: bool,
    /// The last failure was a link that ended as soon as it was turned: another 101 proves nothing.
    doubtful: bool,
    /// The gateway holds offers until somebody asks: one that is on its way, or waits there, is a
    /// way in.
    holds: bool,
    /// Links in a row that the gateway ended after a short while.
    brief: usize,
    /// Goaways in a row on links that had hardly begun.
    quick_farewells: usize,
    /// Links in a row that ended unused as soon as they were turned.
    quick_ends: u32,
    /// Links in a row that brought as soon as they were turned what no gateway may send.
    quick_faults: usize,
    /// No dial before this.
    not_before: Option<Instant>,
    burst: Burst,
    pub(super) demand: Demand,
    /// An offer was turned, or held, or answered by the fallback, some time.
    pub(super) welcomed: bool,
    waiting: bool,
    /// A heartbeat came, on whichever link: from then on silence is watched on all, for a link may
    /// be lost before its first.
    beaten: bool,
    /// It was said that dialling waits for the clock.
    waits_for_clock: bool,
    transport: Option<Transport>,
    pub(super) slots: Slab<Slot>,
    pub(super) past: Past,
    /// The latest decisive reply was the fallback's, not a 101.
    pub(super) fell_back: bool,
    /// The encoding that the fallback's replies showed.
    pub(super) encoding: Option<Encoding>,
    /// Polls go without `Upgrade` until then: something on the way does not stand it.
    pub(super) plain_until: Option<Instant>,
    /// When an offer was last ended without a byte of an answer, with no answer to any since.
    pub(super) hung_up: Option<Instant>,
    /// The proxy does not open tunnels to where the gateway is; until then it gets polls in
    /// absolute form.
    pub(super) no_tunnel_until: Option<Instant>,
    /// How often, since the last 101, an offer was refused by something on the way that let the
    /// poll behind it pass.
    pub(super) troubled: u32,
    pub(super) doubt: Doubt,
    events: Sender<DeviceEvent>,
    draining: bool,
    stopped: bool,
    group: Arc<LoopGroup>,
    /// Its number in the fleet.
    member: usize,
}

/// Alarms of the device.
pub(super) const DIAL: u64 = 1;
const STOP: u64 = 2;
pub(super) const LOOKUP: u64 = 3;
const DOUBT: u64 = 4;
pub(super) const LOCALS: u64 = 5;

/// A link that lived shorter than this counts as a failed attempt: a gateway that turns and closes
/// is not dialled in a circle.
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// Links that live shorter than this are brief, and so many of them in a row make it a habit of
/// their gateway's.
const BRIEF_LIFE: Duration = Duration::from_secs(10);
const BRIEF_MAX: usize = 10;
/// 204 answers, or goaways, that may come at once before the next offer is paced.
pub(super) const QUICK_MAX: usize = 3;
pub(super) const PACE: Duration = Duration::from_secs(1);
/// How often a device without a clock looks whether it has one.
const CLOCK_LOOK: Duration = Duration::from_secs(2);

/// At most so many dials wait for their answers at a time. A gateway's accept queue has 4,096
/// places and often fewer, and devices with a thousand links each that come back together would
/// overflow it; connections that overflow hang for seconds. Those that were not answered in time do
/// not count any more: a gateway may hold offers.
struct Burst {
    ends: Instant,
    dials: usize,
    /// An alarm is set for its end.
    alarmed: bool,
}

/// Whether turned connections carry anything here. No single sign decides: a foreign gateway that
/// never asks, and sends no heartbeats, looks like a box that lets the 101 pass and swallows the
/// rest, until a poll beside the links brings what should have come over them.
#[derive(Default)]
pub(super) struct Doubt {
    /// A link was turned then, and none has carried anything since.
    pub(super) since: Option<Instant>,
    /// Polls beside the links that came to nothing, in a row: the next one waits twice as long.
    pub(super) tries: u32,
    alarmed: bool,
    /// They carry nothing: polls go without `Upgrade` until the way in is lost.
    pub(super) swallowed: bool,
    /// That was so before, in this run: the next links are doubted at once.
    again: bool,
}

impl Burst {
    const DIALS: usize = 64;
    const TIME: Duration = Duration::from_secs(1);

    fn until(ends: Instant) -> Self {
        Burst { ends, dials: 0, alarmed: false }
    }

    /// Whether one more may be dialled now, or only after an answer, or when the burst
    /// [`ends`](Self::ends).
    fn takes(&mut self, now: Instant) -> bool {
        if self.ends <= now {
            *self = Burst::until(now + Self::TIME);
        }
        let takes = self.dials < Self::DIALS;
        self.dials += usize::from(takes);
        takes
    }

    fn answered(&mut self) {
        self.dials = self.dials.saturating_sub(1);
    }
}

impl DeviceRole {
    pub(super) fn new(
        [limits, link_limits]: [Arc<Limits>; 2],
        plan: Plan,
        service: Service,
        remote: Remote<Command>,
        shared: Arc<Counters>,
        events: Sender<DeviceEvent>,
        (group, member): (Arc<LoopGroup>, usize),
    ) -> Self {
        let rules = Rules {
            limits: limits.clone(),
            answer_limits: limits.clone(),
            ends: LineEnds::CrlfOrLf,
            via: None,
            add_date: true,
            upstream_name: "the device's local server",
            // A gateway that closes a link gives its request up; the link, and the local
            // connection, are wanted for others.
            downstream_may_half_close: false,
        };
        let idle = limits.worker_idle_timeout;
        DeviceRole {
            // A link is one job at most, so the queue takes all that there can be.
            workers: Workers::new(
                "ptth-handler",
                limits.handlers_max.min(shared.max() + plan.polls.end()),
                2 * shared.max() + plan.polls.end(),
                idle,
            ),
            demand: Demand::new(limits.demand_window),
            lookups: Lookups::new(&limits),
            races: Races::new(),
            rules: Arc::new(rules),
            backoff: Backoff::new(limits.backoff_min, limits.backoff_max),
            failed: 0,
            answered: false,
            doubtful: false,
            holds: false,
            brief: 0,
            quick_farewells: 0,
            quick_ends: 0,
            quick_faults: 0,
            limits,
            link_limits,
            plan,
            service,
            remote,
            shared,
            exchanges: Slab::new(),
            locals: Locals::default(),
            leases: HashMap::new(),
            numbers: 0,
            not_before: None,
            burst: Burst::until(Instant::now()),
            welcomed: false,
            waiting: false,
            beaten: false,
            waits_for_clock: false,
            transport: None,
            slots: Slab::new(),
            past: Past::default(),
            fell_back: false,
            encoding: None,
            plain_until: None,
            hung_up: None,
            no_tunnel_until: None,
            troubled: 0,
            doubt: Doubt::default(),
            events,
            draining: false,
            stopped: false,
            group,
            member,
        }
    }

    pub(super) fn draining(&self) -> bool {
        self.draining
    }

    pub(super) fn remote(&self) -> Remote<Command> {
        self.remote.clone()
    }

    /// The gateway that is dialled now.
    pub(super) fn home(&self) -> Arc<GatewayTarget> {
        self.plan.homes.current().clone()
    }

    pub(super) fn target(&self) -> Option<&Target> {
        match &self.service {
            Service::Forward(target) => Some(target),
            _ => None,
        }
    }

    /// `url`: where `home` has led to.
    fn tell(&self, kind: DeviceEventKind, home: &GatewayTarget, url: &str, detail: String) {
        self.publish(kind, home, url, detail, None);
    }

    fn publish(
        &self,
        kind: DeviceEventKind,
        home: &GatewayTarget,
        url: &str,
        detail: String,
        end: Option<CloseCause>,
    ) {
        let transport = self.transport.filter(|_| kind == DeviceEventKind::Connected);
        let event = DeviceEvent {
            kind,
            name: home.name.clone(),
            url: url.to_owned(),
            detail,
            transport,
            end,
        };
        if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
            log_names!(Debug, "nobody reads the device's events; dropped: {event:?}");
        }
    }

    // --- dialling ---

    /// Dials as many links or polls as are wanted; one at a time until the gateway answers. Answers
    /// that wait to be posted come first.
    pub(super) fn top_up(&mut self, cx: &mut Connections<State>) {
        self.shared.asked.store(false, Relaxed);
        self.give_up_late_answers(cx);
        let now = cx.now();
        if self.not_before.is_some_and(|at| at > now) {
            return;
        }
        self.not_before = None;
        if !self.has_time(cx) {
            return;
        }
        // A dial may fail at once (no route): then `not_before` is set again, and the rest waits.
        while self.not_before.is_none()
            && (!self.is_failing() || self.answered || self.attempts() == 0)
        {
            if let Some(key) = self.slot_to_dial(now) {
                self.dial_slot(cx, key);
            } else if self.draining {
                return;
            } else if self.is_polling(now) {
                let polls = self.slots.len() + self.shared.dialing.load(Relaxed);
                let wanted = polls < *self.plan.polls.start()
                    || (polls < *self.plan.polls.end() && self.demand.is_pending());
                if !wanted {
                    return self.demand.forget();
                }
                self.demand.dialled();
                let home = self.home();
                let key = self.new_slot(home.url.clone(), home, false);
                self.dial_slot(cx, key);
            } else if self.shared.is_short() || (self.shared.room() > 0 && self.demand.is_pending())
            {
                if !self.burst.takes(now) {
                    if !std::mem::replace(&mut self.burst.alarmed, true) {
                        cx.alarm(self.burst.ends, DIAL);
                    }
                    return;
                }
                self.demand.dialled();
                self.shared.dialing.fetch_add(1, Relaxed);
                let home = self.home();
                self.resolve(cx, Box::new(Dial::new(home.url.clone(), home, 0, None)));
            } else {
                return self.demand.forget();
            }
        }
    }

    /// The gateway says that so many callers wait while none of this device's links is free. The
    /// next [`top_up`](Self::top_up) dials.
    pub(super) fn callers_wait(&mut self, now: Instant, callers: usize) {
        if self.draining || callers == 0 {
            return;
        }
        let room = match self.is_polling(now) {
            true => {
                self.demand.note_polls(now, self.working() + callers);
                let polls = self.slots.len() + self.shared.dialing.load(Relaxed);
                self.plan.polls.end().saturating_sub(polls)
            }
            false => {
                self.demand.note_links(now, self.shared.take_peak() + callers);
                self.shared.room()
            }
        };
        self.demand.callers_wait(callers, room);
    }

    /// Returns true if another link or poll is to be dialled.
    fn is_wanting(&self) -> bool {
        self.demand.is_pending() || self.shared.is_short()
    }

    /// Finds the addresses of the gateway, or of the proxy on the way to it, and dials them one by
    /// one.
    pub(super) fn resolve(&mut self, cx: &mut Connections<State>, mut dial: Box<Dial>) {
        if let Some(why) = dial.url.too_near(Reach::of_host(&dial.url.host)) {
            return self.cannot_reach(cx, &dial, &why);
        }
        let (host, port) = match self.proxy_to(&dial.url) {
            Some(proxy) => (proxy.host.clone(), proxy.port),
            None => (dial.url.host.clone(), dial.url.port),
        };
        dial.begun = Some(cx.now());
        match host.parse::<IpAddr>() {
            Ok(ip) => self.race(cx, Waiter::Dial(dial), &host, vec![SocketAddr::new(ip, port)]),
            Err(_) => self.look_up(cx, &host, port, Waiter::Dial(dial)),
        }
    }

    /// The addresses of a dial are found, or there are none.
    pub(super) fn dial_found(
        &mut self,
        cx: &mut Connections<State>,
        mut dial: Box<Dial>,
        host: &str,
        found: Found,
    ) {
        match found {
            _ if self.draining && dial.slot.is_none() => self.undialed(),
            _ if dial.slot.is_some_and(|key| self.slots.get(key).is_none()) => {} // given up meanwhile
            Ok(mut addresses) => {
                let nearest = addresses.iter().map(|address| Reach::of(address.ip())).min();
                if self.proxy_to(&dial.url).is_none() {
                    addresses.retain(|address| Reach::of(address.ip()) >= dial.url.nearest); // whatever the name server says
                }
                if let (true, Some(why)) =
                    (addresses.is_empty(), nearest.and_then(|nearest| dial.url.too_near(nearest)))
                {
                    return self.cannot_reach(cx, &dial, &why);
                }
                dial.begun = Some(cx.now());
                self.race(cx, Waiter::Dial(dial), host, addresses);
            }
            Err(why) => self.cannot_reach(cx, &dial, &why),
        }
    }

    pub(super) fn cannot_reach(&mut self, cx: &mut Connections<State>, dial: &Dial, why: &str) {
        let why = match self.proxy_to(&dial.url) {
            Some(proxy) => format!(
                "proxy {} on the way to gateway {} cannot be reached: {why}",
                proxy.text, dial.url.text
            ),
            None => format!("gateway {} cannot be reached: {why}", dial.url.text),
        };
        self.dial_failed(cx, &dial.home, dial.slot, &why, None);
    }

    fn dial_ready(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(peer) = cx.get_mut(id) else { return };
        let State::Dial(dial) = &peer.state else { return };
        match dial.stage {
            Stage::Tunnelling { .. } => self.read_tunnel(cx, id),
            Stage::Connecting | Stage::Securing => {}
            Stage::Offered { .. } => {
                if let Some(key) = dial.slot {
                    flush(cx, id); // then there may be room for more of an answer
                    self.pump(cx, key);
                }
                self.read_verdict(cx, id);
            }
            Stage::Reading(_) => self.read_reply(cx, id),
            Stage::Pausing { .. } | Stage::Resting => {
                if !cx.is_quiet(id, false) {
                    self.spoke_unasked(cx, id);
                }
            }
        }
    }

    /// The gateway speaks or ends although nothing was asked: either way this connection is of no
    /// use.
    fn spoke_unasked(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(State::Dial(dial)) = cx.get(id).map(|p| &p.state) else { return };
        match dial.slot {
            Some(key) => self.lost_between(cx, key),
            None => dial_stage(cx, id, Stage::Pausing { keep: false }), // its pause goes on
        }
    }

    /// The pause of an offer is over.
    fn paused(&mut self, cx: &mut Connections<State>, id: Id, keep: bool) {
        if keep {
            return self.offer(cx, id);
        }
        let Some((_, _, State::Dial(dial))) = cx.remove(id) else { return };
        let next =
            Dial { quick: dial.quick, ..Dial::new(dial.url, dial.home, dial.redirects, None) };
        self.resolve(cx, Box::new(next));
    }

    /// The way to the gateway stands: its TLS handshake begins, or the offer is written.
    pub(super) fn reached(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(State::Dial(dial)) = cx.get(id).map(|p| &p.state) else { return };
        if !dial.url.secure {
            return self.offer(cx, id);
        }
        let begun = match &self.plan.tls {
            Some(connector) => Channel::to_gateway(connector, &dial.url.host).map_err(|e| e.to_string()),
            None => {
                Err("it was redirected to from http://, where anybody could have said so; give this device the https:// URL itself"
                    .to_owned())
            }
        };
        let why = match begun {
            Ok(channel) => {
                dial_stage(cx, id, Stage::Securing);
                let at = cx.after(self.limits.handshake_timeout);
                cx.set_deadline(id, Some(at));
                if cx.secure(id, channel, false) {
                    return;
                }
                "as many TLS handshakes are in progress as handshakes_max allows".to_owned()
            }
            Err(why) => why,
        };
        self.end_dial(cx, id, &why, None);
    }

    /// Whether the gateway's certificate can be checked now. A device that has no clock yet looks
    /// again, and says so once.
    fn has_time(&mut self, cx: &mut Connections<State>) -> bool {
        let has_time = self.plan.tls.as_ref().is_none_or(|connector| connector.has_time());
        if !has_time {
            if !std::mem::replace(&mut self.waits_for_clock, true) {
                let why = "the clock shows a time before 2026, with which no certificate can be checked; waiting for a right one \
                           (set the clock, or give --clock-floor)";
                log::warn!("{why}");
                let home = self.home();
                self.tell(DeviceEventKind::Failed, &home, &home.url.text, why.to_owned());
            }
            self.dial_later(cx, CLOCK_LOOK);
        } else if std::mem::take(&mut self.waits_for_clock) {
            log::info!("the clock is set; dialling");
        }
        has_time
    }

    /// Writes the offer, or the poll, and begins the answer that it brings. Secrets go to
    /// configured origins only.
    pub(super) fn offer(&mut self, cx: &mut Connections<State>, id: Id) {
        let now = cx.now();
        let Some(State::Dial(dial)) = cx.get(id).map(|p| &p.state) else { return };
        let (url, mut slot) = (dial.url.clone(), dial.slot);
        let through = self.polls_through_proxy(&url, now).then(|| self.through_proxy(&url));
        let upgrade = through.is_none() && self.offers_turn(slot, now);
        if !upgrade && slot.is_none() {
            slot = self.adopt(cx, id, false);
            if slot.is_none() {
                return; // others poll already
            }
        }
        let mut plan = self.plan.offer.clone();
        plan.upgrade = upgrade;
        plan.authority.clone_from(&url.authority);
        plan.target.clone_from(&url.target);
        if let Some((target, authorization)) = through {
            plan.target = target;
            plan.fields.extend(authorization);
        }
        if self.plan.homes.any_has_origin(&url) {
            plan.fields.extend(self.plan.secrets.iter().cloned());
        }
        let brought = self.brought(slot);
        let Some(peer) = cx.get_mut(id) else { return };
        let written = turn::write_post(peer.output(), &plan, brought.as_ref());
        let posts = brought.is_some();
        if let State::Dial(dial) = &mut peer.state {
            dial.stage = Stage::Offered { at: now, upgrade, informational: 0 };
        }
        if let Err(refusal) = written {
            return self.end_dial(
                cx,
                id,
                &format!("the offer cannot be written: {}", refusal.reason),
                None,
            );
        }
        match slot {
            Some(key) if posts => self.begin_post(cx, key),
            _ => {
                flush(cx, id);
                let at = cx.after(self.limits.offer_timeout);
                cx.set_deadline(id, Some(at));
            }
        }
    }

    fn read_verdict(&mut self, cx: &mut Connections<State>, id: Id) {
        let mut scratch = cx.take_scratch();
        let verdict = self.next_verdict(cx, id, &mut scratch);
        cx.put_scratch(scratch);
        match verdict {
            Ok(None) => {}
            Ok(Some((verdict, reply))) => self.obey(cx, id, verdict, reply),
            Err(Unanswered { silent: true, .. }) if self.was_held(cx, id) => {
                if let Some(key) = cx.get(id).and_then(|peer| {
                    if let State::Dial(dial) = &peer.state { dial.slot } else { None }
                }) {
                    self.pause_poll(cx, key);
                }
            }
            Err(Unanswered { silent: true, .. }) if self.dislikes_upgrade(cx, id) => {
                self.poll_instead(cx, id, "offers of a turn are hung up on");
            }
            Err(Unanswered { why, .. }) => self.end_dial(cx, id, &why, None),
        }
    }

    /// `Ok(None)`: not here yet. Bytes behind the answer are kept: behind a 101 they are the first
    /// request.
    fn next_verdict(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        scratch: &mut [u8],
    ) -> Result<Option<(Verdict, ReplyHead)>, Unanswered> {
        let Some(peer) = cx.get_mut(id) else { return Ok(None) };
        let State::Dial(dial) = &peer.state else { return Ok(None) };
        let Stage::Offered { mut informational, .. } = dial.stage else { return Ok(None) };
        let _ = peer.flush(); // a failure shows in the next read
        let fetched = peer.fetch(scratch, self.limits.head_bytes_max + 1024);
        let silent = informational == 0;
        let filled = match fetched {
            Ok(Fetched::Bytes(n)) => n,
            Ok(Fetched::Nothing) => return Ok(None),
            Ok(Fetched::End) => {
                return Err(Unanswered {
                    silent,
                    why: "the gateway closed the connection instead of answering the offer"
                        .to_owned(),
                });
            }
            Err(e) => {
                return Err(Unanswered {
                    silent,
                    why: format!(
                        "the connection to the gateway broke before the offer was answered: {e}"
                    ),
                });
            }
        };
        let bytes = &scratch[..filled];
        let mut used = 0;
        loop {
            let parsed =
                head::response(&bytes[used..], &self.limits, LineEnds::CrlfOrLf).map_err(|e| {
                    Unanswered::from(format!("this is not a gateway's answer: {}", e.reason))
                })?;
            let Some(response) = parsed else {
                if peer.is_over() {
                    return Err("the gateway closed the connection in the middle of its answer to the offer".to_owned().into());
                }
                peer.keep(&bytes[used..]);
                return Ok(None);
            };
            used += response.len;
            let verdict = turn::check(&response, &self.plan.offer.dialect.token);
            if verdict != Verdict::Informational {
                peer.keep(&bytes[used..]);
                let sent = peer.pending() == 0 && self.has_posted(peer);
                return Ok(Some((verdict, reply_head(&response, sent, &bytes[used..]))));
            }
            informational += 1;
            if informational > self.limits.informational_max {
                return Err("the gateway sent more interim responses than informational_max"
                    .to_owned()
                    .into());
            }
            let State::Dial(dial) = &mut peer.state else { return Ok(None) };
            if let Stage::Offered { informational: counted, .. } = &mut dial.stage {
                *counted = informational;
            }
        }
    }

    fn obey(&mut self, cx: &mut Connections<State>, id: Id, verdict: Verdict, reply: ReplyHead) {
        let now = cx.now();
        let Some(State::Dial(dial)) = cx.get_mut(id).map(|p| &mut p.state) else { return };
        let Stage::Offered { at, upgrade, .. } = dial.stage else { return };
        dial.fresh = false;
        let (slot, took) = (dial.slot, now.saturating_duration_since(at));
        if upgrade {
            self.hung_up = None;
        }
        let verdict = match verdict {
            Verdict::Turned { .. } if !upgrade => {
                Verdict::Wrong("the gateway answered 101 to a poll that offered no turn".to_owned())
            }
            other => other,
        };
        if upgrade && self.upgrade_may_trouble(&reply, slot.is_some() && took > PACE) {
            return self.poll_once(cx, id, reply.status);
        }
        let Some(verdict) = self.settle_answer(cx, id, verdict, &reply) else { return };
        let may_poll = self.plan.fallback != Fallback::Never;
        match (verdict, slot) {
            (Verdict::Turned { warning }, _) => {
                if let Some(warning) = warning {
                    log_names!(Warn, "the gateway's 101 is tolerated: {warning}");
                }
                self.turned(cx, id, took >= PACE);
            }
            (Verdict::Nothing, Some(_)) if !upgrade => {
                self.fell_back(cx, id, None, reply, took < PACE)
            }
            (Verdict::Nothing, Some(key)) => {
                self.welcomed = true;
                self.succeeded();
                self.nothing(cx, key, reply.keep, took < PACE);
            }
            (Verdict::Nothing, None) => self.nothing_yet(cx, id, reply.keep, took < PACE),
            (Verdict::FellBack(encoding), _) if may_poll => {
                self.fell_back(cx, id, encoding, reply, took < PACE)
            }
            (Verdict::FellBack(_), _) => {
                let why = "the gateway, or a proxy on the way, does not turn connections: it fell back to polling, \
                           and this device may not poll (fallback never)";
                self.end_dial(cx, id, why, None);
            }
            (
                Verdict::Refused(status) | Verdict::Later { status, .. } | Verdict::NoTurn(status),
                Some(key),
            ) if self.is_beside(key) => {
                self.end_dial(cx, id, &format!("it was answered with {status}"), None);
            }
            (Verdict::Redirect(location), _) => self.redirected(cx, id, &location),
            (Verdict::Refused(status), _) => self.refused(cx, id, status, reply.marked),
            (Verdict::Later { status: 502 | 504, .. }, Some(key)) if took > PACE => {
                self.pause_poll(cx, key)
            }
            (Verdict::Later { status, .. }, _) => {
                if status == 426 && !upgrade {
                    self.plain_until = None; // it takes offers alone: what hung up on them was something else
                }
                self.later(cx, id, status, reply.retry_after);
            }
            (Verdict::NoTurn(407), _) => {
                self.end_dial(cx, id, "a proxy on the way wants credentials: status 407", None)
            }
            (Verdict::NoTurn(status), _) if upgrade && may_poll => {
                self.poll_instead(cx, id, &format!("status {status} answers an offer of a turn"));
            }
            (Verdict::NoTurn(status), _) => {
                let what =
                    if may_poll { "no gateway" } else { "no gateway that turns connections" };
                self.end_dial(
                    cx,
                    id,
                    &format!("{what} answers here: status {status}; check the URL, port included"),
                    None,
                );
            }
            (Verdict::Wrong(why), _) => self.end_dial(cx, id, &why, None),
            (Verdict::Informational, _) => {}
        }
    }

    fn later(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        status: u16,
        retry_after: Option<Duration>,
    ) {
        let hint = match status {
            400 => "it takes this offer for malformed; check the URL",
            409 => {
                "another device, or a newer run of this one, holds the name; stop it or choose another name"
            }
            426 if self.plan.fallback == Fallback::Only => {
                "it takes no polls, only devices that turn; allow it with --fallback auto"
            }
            426 => "it does not turn this protocol; choose another with --protocol",
            429 | 503 => "it is full or stopping",
            _ => "it cannot take devices just now",
        };
        self.end_dial(
            cx,
            id,
            &format!("the gateway answered the offer with {status}: {hint}"),
            retry_after,
        );
    }

    /// 204: the gateway holds offers until somebody asks.
    fn nothing_yet(&mut self, cx: &mut Connections<State>, id: Id, keep: bool, quick: bool) {
        let now = cx.now();
        let Some(peer) = cx.get_mut(id) else { return };
        let State::Dial(dial) = &mut peer.state else { return };
        let (url, home) = (dial.url.clone(), dial.home.clone());
        dial.quick = if quick { dial.quick + 1 } else { 0 };
        let pauses = dial.quick > QUICK_MAX;
        (self.welcomed, self.holds) = (true, true);
        self.succeeded();
        if !self.waiting && self.transport.is_none() {
            self.waiting = true;
            self.tell(DeviceEventKind::Waiting, &home, &url.text, String::new());
        }
        if self.draining {
            return self.end_dial(cx, id, "the device stops", None);
        }
        self.top_up(cx); // after an outage the other offers are wanted, too
        match (keep, pauses) {
            (_, true) => {
                dial_stage(cx, id, Stage::Pausing { keep });
                cx.set_deadline(id, Some(now + PACE));
            }
            (_, false) => self.paused(cx, id, keep),
        }
    }

    fn redirected(&mut self, cx: &mut Connections<State>, id: Id, location: &str) {
        let Some((stream, _, State::Dial(dial))) = cx.remove(id) else { return };
        self.has_no_connection(dial.slot);
        // Through a proxy only the URL tells how far its gateway is.
        let from = match (self.proxy_to(&dial.url), stream.peer_ip()) {
            (None, Some(address)) => Reach::of(address),
            _ => Reach::of_host(&dial.url.host),
        };
        if dial.redirects >= self.limits.redirects_max {
            let why = format!(
                "gateway {} redirects in a circle: {} times",
                dial.home.url.text, dial.redirects
            );
            return self.dial_failed(cx, &dial.home, dial.slot, &why, None);
        }
        match dial.url.follow(location, &self.plan.redirects, from) {
            Err(e) => {
                let why = format!(
                    "gateway {} redirects to where this device cannot go: {e}",
                    dial.url.text
                );
                self.dial_failed(cx, &dial.home, dial.slot, &why, None);
            }
            Ok(url) => {
                log_names!(Info, "gateway {} redirects to {}", dial.url.text, url.text);
                let url = Arc::new(url);
                self.goes_to(cx, dial.slot, &url);
                self.resolve(
                    cx,
                    Box::new(Dial::new(url, dial.home, dial.redirects + 1, dial.slot)),
                );
            }
        }
    }

    /// 401, 403, 404, 410: final for the first offer ever where the user wants that; weather after
    /// a success, or where it is not the gateway's own word.
    fn refused(&mut self, cx: &mut Connections<State>, id: Id, status: u16, marked: bool) {
        let why = match status {
            _ if !marked => UNMARKED,
            401 => "401: no or a wrong credential; check the token",
            403 => "403: the credential is not for this name",
            404 => {
                "404: it knows no such name, or this is the port of its visitors; devices use another (9999 unless changed)"
            }
            _ => "410: the name is gone for good",
        };
        let Some(State::Dial(dial)) = cx.get(id).map(|p| &p.state) else { return };
        let (slot, home) = (dial.slot, dial.home.clone());
        let text = match marked {
            true => format!("gateway {} refused the offer with {why}", dial.url.text),
            false => {
                format!("gateway {}: the offer was refused with {status}: {why}", dial.url.text)
            }
        };
        cx.close(id);
        self.attempt_over(cx, slot, &text);
        self.tell(DeviceEventKind::Refused { status }, &home, &home.url.text, text.clone());
        let for_good = !self.welcomed
            && match self.plan.on_refusal {
                OnRefusal::Retry => false,
                OnRefusal::Stop => marked,
                OnRefusal::StopOnAny => true,
            };
        if for_good {
            self.plan.homes.rest(&home, None, true);
        }
        if for_good && self.plan.homes.all_refused() {
            log::warn!("{text}");
            self.group.report(
                self.member,
                Standing::Refused,
                Error::refused(Fault::Gateway, status, text, None),
            );
            self.stopped = true;
            return;
        }
        if !marked {
            return self.failed_at(cx, &home, &text, None); // a balancer that is not ready yet will be soon
        }
        if self.may_go_on(&home) {
            let long = self.backoff.long(random());
            return self.failed_at(cx, &home, &text, Some(long));
        }
        self.answered = false;
        if self.gives_up(&text) {
            return;
        }
        let pause = self.backoff.fail_for_long(random());
        log_names!(Warn, "{text}; next attempt in {:.0} s", pause.as_secs_f32());
        self.dial_later(cx, pause);
    }

    pub(super) fn end_dial(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        why: &str,
        retry_after: Option<Duration>,
    ) {
        let Some(State::Dial(dial)) = cx.get(id).map(|p| &p.state) else { return };
        let (url, home, slot) = (dial.url.clone(), dial.home.clone(), dial.slot);
        cx.close(id);
        self.dial_failed(cx, &home, slot, &format!("{}: {why}", url.text), retry_after);
    }

    /// An attempt to offer or poll at `home` failed, and its connection is closed.
    pub(super) fn dial_failed(
        &mut self,
        cx: &mut Connections<State>,
        home: &Arc<GatewayTarget>,
        slot: Option<Key>,
        why: &str,
        retry_after: Option<Duration>,
    ) {
        if let Some(key) = slot.filter(|key| self.is_beside(*key)) {
            return self.doubt_refused(cx, key, why);
        }
        self.attempt_over(cx, slot, why);
        if self.draining && self.slots.len() == 0 {
            return;
        }
        self.tell(DeviceEventKind::Failed, home, &home.url.text, why.to_owned());
        self.failed_at(cx, home, why, retry_after);
    }

    /// Whether a failure at `home` moves a failover's list on: it is the one whose turn it is, and
    /// there is no way in.
    fn may_go_on(&self, home: &Arc<GatewayTarget>) -> bool {
        self.plan.homes.is_list() && self.transport.is_none() && self.plan.homes.is_current(home)
    }

    /// Sets the next attempt after one that failed: with failover at the next gateway at once, else
    /// here, or at the first again, after a pause.
    fn failed_at(
        &mut self,
        cx: &mut Connections<State>,
        home: &Arc<GatewayTarget>,
        why: &str,
        asked: Option<Duration>,
    ) {
        let asked = asked.map(|asked| asked.min(RETRY_AFTER_MAX));
        let together = self.not_before.is_some_and(|at| at > cx.now());
        self.answered = false;
        self.demand.forget();
        if !together && self.gives_up(why) {
            return; // the device's error says it all
        }
        if self.may_go_on(home) {
            self.plan.homes.rest(home, asked.map(|asked| cx.after(asked)), false);
            if self.plan.homes.advance(cx.now()) {
                log_names!(Warn, "{why}; next is {}", self.home().url.text);
                self.dial_later(cx, Duration::ZERO);
            } else {
                let pause = self.backoff.fail(random(), None);
                let at = self.plan.homes.start_over(cx.after(pause));
                log_names!(
                    Warn,
                    "{why}; next attempt in {:.1} s",
                    at.saturating_duration_since(cx.now()).as_secs_f32()
                );
                self.dial_at(cx, at);
            }
            self.forget_mode();
        } else {
            let pause = self.back_off(cx, asked);
            log_names!(Warn, "{why}; next attempt in {:.1} s", pause.as_secs_f32());
        }
    }

    /// One failed attempt more; with as many as may be, and no way in, this gateway is given up,
    /// and with the last one the device (true).
    fn gives_up(&mut self, why: &str) -> bool {
        self.failed = self.failed.saturating_add(1);
        let Some(max) =
            self.plan.max_retries.filter(|max| self.failed >= *max && self.transport.is_none())
        else {
            return false;
        };
        let text = match max {
            1 => format!("gave up after 1 failed attempt (max_retries): {why}"),
            _ => format!(
                "gave up after {max} failed attempts in a row (max_retries); the last one: {why}"
            ),
        };
        self.stopped |= self.group.report(self.member, Standing::GaveUp, Error::gave_up(text));
        self.stopped
    }

    /// An attempt came to something, or a link was of use.
    pub(super) fn succeeded(&mut self) {
        self.backoff.succeed();
        self.doubtful = false;
        if std::mem::take(&mut self.failed) > 0 {
            self.group.hopes(self.member);
        }
    }

    pub(super) fn is_failing(&self) -> bool {
        self.backoff.failures() > 0
    }

    /// What was found out about one gateway says nothing of the next.
    fn forget_mode(&mut self) {
        (self.fell_back, self.encoding, self.plain_until, self.hung_up, self.beaten) =
            (false, None, None, None, false);
        (self.troubled, self.no_tunnel_until) = (0, None);
        (self.holds, self.brief, self.doubt.since, self.doubt.swallowed, self.doubt.again) =
            (false, 0, None, false, false);
    }

    /// How long nothing is dialled after a failure. Attempts that fail together are one failure,
    /// else a device that lost many links at once would wait for the longest of as many pauses:
    /// about the cap, and at the same time as every other such device.
    fn back_off(&mut self, cx: &mut Connections<State>, retry_after: Option<Duration>) -> Duration {
        let left =
            self.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(cx.now()));
        let pause = match retry_after {
            _ if left.is_zero() => self.backoff.fail(random(), retry_after),
            Some(asked) if asked > left => self.backoff.obey(random(), asked),
            _ => return left,
        };
        self.dial_later(cx, pause);
        pause
    }

    fn attempt_over(&mut self, cx: &mut Connections<State>, slot: Option<Key>, why: &str) {
        match slot {
            Some(key) => self.poll_failed(cx, key, why),
            None => {
                self.undialed();
                self.settle_transport(
                    cx,
                    "",
                    Some(&CloseReason::new(CloseCause::Cut, why.to_owned())),
                ); // it may have been the last offer that was held
            }
        }
    }

    /// A dial is over without a link; with the last one goes what a held offer had told.
    pub(super) fn undialed(&mut self) {
        if self.shared.dialing.fetch_sub(1, Relaxed) == 1 {
            self.waiting = false;
        }
    }

    fn dial_later(&mut self, cx: &mut Connections<State>, pause: Duration) {
        let at = cx.after(pause);
        self.dial_at(cx, at);
    }

    fn dial_at(&mut self, cx: &mut Connections<State>, at: Instant) {
        if self.not_before.is_none_or(|before| before < at) {
            self.not_before = Some(at);
            cx.alarm(at, DIAL);
        }
    }

    /// Tells when the way in changed: there is none any more (`why`), or there is one, or another,
    /// through the gateway at `url`.
    pub(super) fn settle_transport(
        &mut self,
        cx: &mut Connections<State>,
        url: &str,
        why: Option<&CloseReason>,
    ) {
        let is_held = self.comes_and_goes()
            && self.transport == Some(Transport::Turn)
            && self.shared.dialing.load(Relaxed) > 0;
        let transport = match (self.shared.links.load(Relaxed), self.polls_with()) {
            (0, None) if is_held => Some(Transport::Turn),
            (0, None) => None,
            (0, Some(encoding)) => Some(Transport::Comet(encoding)),
            _ => Some(Transport::Turn),
        };
        if transport == self.transport {
            return;
        }
        self.transport = transport;
        let place =
            transport.and_then(|transport| WAYS.iter().position(|known| *known == transport));
        self.shared.transport.store(place.map_or(0, |place| place as u8 + 1), Relaxed); // below WAYS.len()
        let home = self.home();
        let url = if url.is_empty() { &home.url.text } else { url };
        match transport {
            None => {
                let text = why.map_or(String::new(), |why| why.text.to_string());
                let because = why.map_or(String::new(), |why| format!(": {why}"));
                log_names!(Info, "disconnected {} from {}{because}", home.name, home.url.text);
                self.publish(
                    DeviceEventKind::Disconnected,
                    &home,
                    &home.url.text,
                    text,
                    why.map(|why| why.end),
                );
                self.doubt.swallowed = false; // the next way may be another
                self.begin_again(cx);
            }
            Some(Transport::Turn) => self.tell(
                DeviceEventKind::Connected,
                &home,
                url,
                format!("{} turn", self.plan.offer.dialect.token),
            ),
            Some(transport) => {
                self.tell(DeviceEventKind::Connected, &home, url, transport.to_string())
            }
        }
    }

    /// The way in is lost: a failover's list begins again with its first.
    fn begin_again(&mut self, cx: &mut Connections<State>) {
        if self.plan.homes.is_list() && !self.draining {
            let now = cx.now();
            let at = self.plan.homes.start_over(now);
            self.forget_mode();
            if at > now {
                self.dial_at(cx, at);
            }
        }
    }

    /// Whether what came through `home` may be the way in: there is none, or that is the one.
    pub(super) fn takes(&mut self, home: &Arc<GatewayTarget>) -> bool {
        if self.transport.is_none() {
            self.plan.homes.settle_on(home);
        }
        self.plan.homes.is_current(home)
    }

    // --- links ---

    /// `held`: the offer was not answered at once.
    fn turned(&mut self, cx: &mut Connections<State>, id: Id, held: bool) {
        let now = cx.now();
        let Some(peer) = cx.get_mut(id) else { return };
        let State::Dial(dial) = &peer.state else { return };
        let (url, home, slot) = (dial.url.clone(), dial.home.clone(), dial.slot);
        let asked = peer.kept() > 0; // a 101 that comes at once, and alone, is from a gateway that holds nothing
        if !self.takes(&home) {
            let Some(key) = slot else {
                cx.close(id);
                return self.undialed();
            };
            return self.drop_slot(cx, key, "the way in leads through another gateway of the list");
        }
        if let (Some(key), true) = (slot, self.shared.links.load(Relaxed) >= self.shared.max()) {
            self.fell_back = false;
            return self.drop_slot(
                cx,
                key,
                "its connection turned, and there are as many links as may be",
            ); // closes it, too
        }
        self.holds = held || (self.holds && asked);
        peer.state = State::Link(Link { held, ..Link::new(None, now) });
        cx.set_deadline(id, None);
        self.shared.links.fetch_add(1, Relaxed);
        (self.welcomed, self.fell_back, self.answered, self.troubled) =
            (true, false, !self.doubtful, 0);
        if !matches!(self.service, Service::Listen(_)) {
            self.doubt.since.get_or_insert(now); // what `listen()` gives out the loop does not see
        }
        self.settle_transport(cx, &url.text, None);
        match slot {
            None => {
                self.shared.dialing.fetch_sub(1, Relaxed);
                self.burst.answered();
            }
            Some(key) => {
                self.has_no_connection(slot); // it is the link's now
                self.drop_slot(cx, key, "its connection turned");
            }
        }
        self.waiting = false;
        self.doubt_links(cx);
        self.top_up(cx);
        if self.draining {
            return self.link_gone(cx, id, STOPS);
        }
        match &self.service {
            Service::Listen(_) => self.lend(cx, id, &[]),
            _ => self.link_idle(cx, id),
        }
    }

    /// Whether links end as soon as they were of use, and the next ones are on their way: that the
    /// last one ended is no news then.
    fn comes_and_goes(&self) -> bool {
        self.holds || self.brief > BRIEF_MAX
    }

    /// A gateway that ends its links behind a request or two would fill every log with the way in
    /// that comes and goes.
    fn note_brief(&mut self, cx: &Connections<State>, link: &Link, why: &CloseReason) {
        let as_wanted = why.end.is_usual()
            || matches!(why.end, CloseCause::Closed | CloseCause::Reset | CloseCause::Drained);
        if !as_wanted || cx.now().saturating_duration_since(link.since) >= BRIEF_LIFE {
            self.brief = 0;
            return;
        }
        self.brief = self.brief.saturating_add(1);
        if self.brief == BRIEF_MAX + 1 && !self.holds {
            let url = &self.home().url.text;
            log_names!(
                Info,
                "{url} ends its links after a few seconds or requests; from now on it is told only when no other one comes"
            );
        }
    }

    /// Turned connections carry something: a request or a heartbeat came over one.
    fn carries(&mut self) {
        (self.doubt.since, self.doubt.tries, self.doubt.again) = (None, 0, false);
    }

    /// Polls beside links that have not carried anything for `doubt_after`.
    pub(super) fn doubt_links(&mut self, cx: &mut Connections<State>) {
        let (now, patience) = (cx.now(), self.limits.doubt_after);
        let Some(since) = self
            .doubt
            .since
            .filter(|_| !patience.is_zero() && self.plan.fallback == Fallback::Auto)
        else {
            return;
        };
        if self.draining
            || self.slots.len() > 0
            || self.is_polling(now)
            || self.shared.links.load(Relaxed) == 0
        {
            return;
        }
        let patience =
            if self.doubt.again && self.doubt.tries == 0 { Duration::ZERO } else { patience };
        let left = patience
            .saturating_mul(1 << self.doubt.tries.min(6))
            .saturating_sub(now.saturating_duration_since(since));
        if !left.is_zero() {
            if !std::mem::replace(&mut self.doubt.alarmed, true) {
                let at = cx.after(left);
                cx.alarm(at, DOUBT);
            }
            return;
        }
        let home = self.home();
        if self.doubt.tries == 0 {
            log_names!(
                Info,
                "nothing has come over the links to {} yet; polling beside them, in case it is swallowed on the way",
                home.url.text
            );
        }
        let key = self.new_slot(home.url.clone(), home, true);
        self.dial_slot(cx, key);
    }

    /// A poll beside the links came to nothing: whoever answers there takes none, and the links
    /// stay as they are.
    pub(super) fn doubt_refused(&mut self, cx: &mut Connections<State>, key: Key, why: &str) {
        log_names!(Debug, "a poll beside the links came to nothing: {why}");
        self.doubt.tries = self.doubt.tries.saturating_add(1);
        self.drop_slot(cx, key, why);
    }

    /// What polls bring, or that links end without use where polls are answered, says that turned
    /// connections carry nothing: they are given up.
    pub(super) fn give_up_links(&mut self, cx: &mut Connections<State>) {
        const WHY: CloseReason =
            CloseCause::Silent.because("nothing ever came over it, where polls are answered");
        (self.doubt.since, self.doubt.tries, self.doubt.swallowed, self.doubt.again) =
            (None, 0, true, true);
        self.fell_back = true;
        self.poll_alone();
        let url = self.home().url.clone();
        log_names!(
            Warn,
            "connections to {} turn, and nothing comes over them: polling without Upgrade until the way in is lost",
            url.text
        );
        for id in cx.ids() {
            match cx.get_mut(id).map(|p| &mut p.state) {
                Some(State::Link(link)) if link.slot.is_none() && link.exchange.is_none() => {
                    link.used = true; // that it ends is no failure to dial
                    self.link_gone(cx, id, WHY);
                }
                Some(State::Dial(dial)) if dial.slot.is_none() => {
                    cx.close(id);
                    self.undialed();
                }
                _ => {}
            }
        }
    }

    /// The loop watches the link; what is there already is read.
    pub(super) fn link_idle(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(peer) = cx.get_mut(id) else { return };
        let State::Link(link) = &mut peer.state else { return };
        (link.exchange, link.began) = (None, false);
        let silence = self.limits.silence;
        let watched = self.beaten && link.slot.is_none() && !silence.is_zero();
        peer.settle();
        let (more, waits) = (peer.has_input(), peer.pending() > 0);
        let at = match waits {
            true => Some(cx.after(self.limits.body_silence_timeout)),
            false => watched.then(|| cx.after(silence)),
        };
        cx.set_deadline(id, at);
        if more {
            cx.again(id);
        }
    }

    fn link_gone(&mut self, cx: &mut Connections<State>, id: Id, why: CloseReason) {
        let Some((_, _, State::Link(link))) = cx.remove(id) else { return };
        self.count_out(cx, &link, why);
    }

    /// A link has ended: its reason goes into one line of the log, into the events, and into the
    /// counters.
    fn count_out(&mut self, cx: &mut Connections<State>, link: &Link, why: CloseReason) {
        self.end_bound(cx, link);
        if link.slot.is_some() {
            return log_names!(Debug, "a virtual link ended: {why}"); // its slot sees the end at the bridge
        }
        let home = self.home();
        let last = self.shared.links.fetch_sub(1, Relaxed) == 1 && self.polls_with().is_none();
        self.note_brief(cx, link, &why);
        let quiet = self.comes_and_goes();
        match (last, why.end.is_usual() || quiet) {
            (true, _) if !quiet => {} // the line of the way in says it
            (_, true) => log_names!(Debug, "a link to {} ended: {why}", home.url.text),
            (_, false) => log_names!(Info, "a link to {} ended: {why}", home.url.text),
        }
        self.shared.ends.count(why.end);
        self.publish(
            DeviceEventKind::Ended,
            &home,
            &home.url.text,
            why.text.to_string(),
            Some(why.end),
        );
        let in_vain = !link.used
            && !link.beaten
            && self.doubt.since.is_some()
            && !self.draining
            && self.polls_beside();
        if in_vain {
            self.give_up_links(cx);
        }
        let short = !link.used
            && !link.held
            && !in_vain
            && cx.now().saturating_duration_since(link.since) < SHORT_LIFE;
        if quiet && !short && !self.draining {
            self.top_up(cx); // the next offer is as good as a link
        }
        self.settle_transport(cx, "", Some(&why));
        if !short {
            self.quick_ends = 0;
            self.succeeded();
        }
        if self.draining {
            return;
        }
        // Gateways have closed links because a visitor's request failed, with nothing written to
        // them (T48). Where other links live, that is forgiven, but not for ever.
        self.quick_ends += u32::from(short);
        let faulty = why.end == CloseCause::ProtocolError
            && cx.now().saturating_duration_since(link.since) < SHORT_LIFE;
        self.quick_faults = if faulty { self.quick_faults.saturating_add(1) } else { 0 };
        if self.quick_faults > BRIEF_MAX && last {
            self.dial_later(cx, PACE.mul_f64(0.5 + random())); // no failed attempt, but no circle either
        }
        let forgiven =
            self.transport == Some(Transport::Turn) && self.quick_ends <= QUICK_MAX as u32;
        if short && !forgiven {
            if self.transport.is_none() {
                self.plan.homes.settle_on(&home);
            }
            self.doubtful = true;
            self.failed_at(
                cx,
                &home,
                &format!("{}: a link ended as soon as it was turned: {why}", home.url.text),
                None,
            );
        }
        self.top_up(cx);
    }

    /// Whether what this device answered by itself (a heartbeat) is written. Nothing is read
    /// before: a gateway that does not take its answers would fill the memory with them.
    fn answers_are_out(&mut self, cx: &mut Connections<State>, id: Id) -> bool {
        let Some(peer) = cx.get_mut(id) else { return false };
        let waits = peer.pending();
        if waits == 0 {
            return true;
        }
        match peer.flush() {
            Ok(true) => self.link_idle(cx, id), // which asks for the step that reads on
            Ok(false) if peer.is_broken() => {
                self.link_gone(cx, id, CloseCause::Reset.because("it broke under a heartbeat"))
            }
            Ok(false) if peer.pending() < waits => {
                let at = cx.after(self.limits.body_silence_timeout);
                cx.set_deadline(id, Some(at));
            }
            Ok(false) => {}
            Err(e) => self.link_gone(
                cx,
                id,
                CloseReason::new(CloseCause::of_io(&e), format!("it broke under a heartbeat: {e}")),
            ),
        }
        false
    }

    /// The gateway has taken nothing of an answer for `body_silence_timeout`, unless its socket has
    /// room and did not say so.
    fn answer_expired(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(peer) = cx.get_mut(id) else { return };
        let waits = peer.pending();
        peer.try_to_write();
        if !self.answers_are_out(cx, id) && cx.get(id).is_some_and(|peer| peer.pending() == waits) {
            self.link_gone(
                cx,
                id,
                CloseCause::Late
                    .because("the gateway took nothing of an answer for body_silence_timeout"),
            );
        }
    }

    fn link_ready(&mut self, cx: &mut Connections<State>, id: Id) {
        if !self.answers_are_out(cx, id) {
            return;
        }
        let mut scratch = cx.take_scratch();
        let came = self.read_request(cx, id, &mut scratch);
        let step = match came {
            Came::Request(filled) => {
                self.lend(cx, id, &scratch[..filled]);
                None
            }
            other => Some(other),
        };
        cx.put_scratch(scratch);
        match step {
            None | Some(Came::Request(_)) => {
                if self.is_wanting() {
                    self.top_up(cx);
                }
            }
            Some(Came::NotYet) => {}
            Some(Came::Gone(why)) => self.link_gone(cx, id, why),
            Some(Came::Heartbeat { heartbeat, callers }) => {
                self.heartbeat(cx, id, heartbeat, callers)
            }
            Some(Came::Refused(refusal)) => {
                self.answer_link(cx, id, &LocalAnswer::new(refusal.status, &refusal.reason));
            }
            Some(Came::Forward(exchange)) => self.begin_forward(cx, id, *exchange),
        }
    }

    fn read_request(&mut self, cx: &mut Connections<State>, id: Id, scratch: &mut [u8]) -> Came {
        let now = cx.now();
        let Some(peer) = cx.get_mut(id) else { return Came::NotYet };
        let filled = match peer.fetch(scratch, self.link_limits.head_bytes_max + 1024) {
            Ok(Fetched::Bytes(n)) => n,
            Ok(Fetched::Nothing) if peer.is_broken() => {
                return Came::Gone(CloseCause::Reset.because("while it idled"));
            }
            Ok(Fetched::Nothing) => return Came::NotYet,
            Ok(Fetched::End) => return Came::Gone(CLOSED),
            Err(e) => {
                return Came::Gone(CloseReason::new(
                    CloseCause::of_io(&e),
                    format!("while it idled: {e}"),
                ));
            }
        };
        let bytes = &scratch[..filled];
        if bytes == b"\r\n" {
            return Came::NotYet; // a stray line end behind an earlier message
        }
        let read = head::request(bytes, &self.link_limits, LineEnds::Crlf);
        if let (State::Link(link), true) = (&mut peer.state, head::begins_request(bytes)) {
            link.used |= !bytes.starts_with(b"OPTIONS * "); // whatever becomes of it: the fault may be a visitor's, and dialling is all right (T48)
        }
        match read {
            Err(refusal) => Came::Refused(refusal),
            Ok(None) if peer.is_over() => Came::Gone(
                CloseCause::Cut.because("closed by the gateway in the middle of a request"),
            ),
            Ok(None) => {
                peer.keep(bytes);
                let State::Link(link) = &mut peer.state else { return Came::NotYet };
                if !std::mem::replace(&mut link.began, true) {
                    cx.set_deadline(id, Some(cx.after(self.limits.head_timeout)));
                }
                Came::NotYet
            }
            Ok(Some(head)) => {
                let request = match FramedRequest::of(head) {
                    Ok(request) => request,
                    Err(refusal) => return Came::Refused(refusal),
                };
                let callers = callers_waiting(&request.fields).unwrap_or_default();
                self.callers_wait(now, callers);
                match heartbeat::recognise(&request) {
                    Err(refusal) => return Came::Refused(refusal),
                    Ok(Some(heartbeat)) => {
                        peer.keep(&bytes[request.len..]);
                        return Came::Heartbeat { heartbeat, callers };
                    }
                    Ok(None) => {}
                }
                let Service::Forward(target) = &self.service else { return Came::Request(filled) };
                match forward::plan(id, &request, target, &self.link_limits, now) {
                    Ok(exchange) => {
                        peer.keep(&bytes[request.len..]);
                        Came::Forward(Box::new(exchange))
                    }
                    Err(refusal) => Came::Refused(refusal),
                }
            }
        }
    }

    /// Dials what is wanted, then answers. A link that the last minute did not need ends with its
    /// answer: the gateway sends nothing on it until then, so nothing can be lost.
    fn heartbeat(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        heartbeat: Heartbeat,
        callers: usize,
    ) {
        if self.demand.is_pending() {
            self.top_up(cx);
        }
        match heartbeat {
            Heartbeat::Farewell => self.goaway(cx, id),
            Heartbeat::Alive if callers == 0 && self.is_surplus(cx, id) => self.end_surplus(cx, id),
            Heartbeat::Alive => self.answer_heartbeat(cx, id),
        }
    }

    /// Whether this idle link is more than the last minute needed. While dials are in progress none
    /// is: they were wanted just now.
    fn is_surplus(&mut self, cx: &Connections<State>, id: Id) -> bool {
        let Some(State::Link(link)) = cx.get(id).map(|p| &p.state) else { return false };
        let is_real = link.slot.is_none();
        self.note_busy(cx.now());
        let (links, dialing) = (self.shared.links.load(Relaxed), self.shared.dialing.load(Relaxed));
        is_real && dialing == 0 && self.demand.has_surplus_link(links, &self.shared.wanted)
    }

    fn end_surplus(&mut self, cx: &mut Connections<State>, id: Id) {
        const WHY: CloseReason =
            CloseCause::Surplus.because("more links than the last minute needed");
        let date = cx.date().to_owned();
        let Some(peer) = cx.get_mut(id) else { return };
        let State::Link(link) = &mut peer.state else { return };
        link.beaten = true;
        heartbeat::write_answer(peer.output(), &date, true);
        let _ = peer.flush(); // what is left goes out while it lingers
        self.beaten = true;
        self.carries();
        self.link_ends(cx, id, WHY);
    }

    /// Notes how many links were busy at once.
    fn note_busy(&mut self, now: Instant) {
        self.demand.note_links(now, self.shared.take_peak());
    }

    fn answer_heartbeat(&mut self, cx: &mut Connections<State>, id: Id) {
        let date = cx.date().to_owned();
        let Some(peer) = cx.get_mut(id) else { return };
        heartbeat::write_answer(peer.output(), &date, false);
        let sent = peer.flush().is_ok();
        if let State::Link(link) = &mut peer.state {
            link.beaten = true;
        }
        self.beaten = true;
        self.carries();
        match sent {
            true => self.link_idle(cx, id),
            false => {
                self.link_ends(cx, id, CloseCause::Reset.because("it broke under a heartbeat"))
            }
        }
    }

    /// The gateway tells a link to go: its replacement is dialled first, then it is answered and
    /// closed. That is no failed attempt, but a gateway that says so on every new link is not
    /// dialled in a circle.
    fn goaway(&mut self, cx: &mut Connections<State>, id: Id) {
        let date = cx.date().to_owned();
        let Some(State::Link(link)) = cx.get(id).map(|p| &p.state) else { return };
        self.replace(cx, *link);
        let Some(peer) = cx.get_mut(id) else { return };
        heartbeat::write_answer(peer.output(), &date, true);
        let _ = peer.flush(); // what is left goes out while it lingers
        self.linger(cx, id);
    }

    /// A link was told to go: it is counted out, and another one is dialled.
    fn replace(&mut self, cx: &mut Connections<State>, mut link: Link) {
        const WHY: CloseReason = CloseCause::Drained.because("the gateway told it to go");
        link.used = true;
        self.shared.upgrades.stop(false); // its tunnels have a grace as well
        self.carries();
        let old = cx.now().saturating_duration_since(link.since) >= SHORT_LIFE;
        self.quick_farewells = if old { 0 } else { self.quick_farewells + 1 };
        if self.quick_farewells > QUICK_MAX {
            self.dial_later(cx, PACE.mul_f64(0.5 + random()));
        }
        self.count_out(cx, &link, WHY);
    }

    /// Closes a link gently; another may be dialled at once.
    fn link_ends(&mut self, cx: &mut Connections<State>, id: Id, why: CloseReason) {
        let Some(peer) = cx.get_mut(id) else { return };
        let State::Link(link) = peer.state else { return };
        self.linger(cx, id);
        self.count_out(cx, &link, why);
    }

    fn linger(&mut self, cx: &mut Connections<State>, id: Id) {
        relay::linger(cx, id, &self.limits, self.draining, State::Lingering);
        self.step_lingering(cx, id);
    }

    pub(super) fn answer_link(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        answer: &LocalAnswer<'_>,
    ) {
        let date = cx.date().to_owned();
        let Some(peer) = cx.get_mut(id) else { return };
        answer.write(peer.output(), &date);
        let sent = peer.flush();
        match (answer.keep, sent) {
            (true, Ok(true)) => self.next(cx, id, true),
            _ => {
                self.relayed(cx, id);
                let end = if matches!(answer.status, 400..=499 | 501 | 505) {
                    CloseCause::ProtocolError
                } else {
                    CloseCause::LastMessage
                };
                let text = format!(
                    "its request was answered {} by this device, which closes it: {}",
                    answer.status, answer.reason
                );
                self.link_ends(cx, id, CloseReason::new(end, text));
            }
        }
    }

    /// An exchange that this loop relayed is over.
    fn relayed(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(State::Link(link)) = cx.get_mut(id).map(|p| &mut p.state) else { return };
        if link.exchange.take().is_some() && link.slot.is_none() {
            self.shared.busy.fetch_sub(1, Relaxed);
            self.note_busy(cx.now());
        }
    }

    pub(super) fn relaying(&mut self, cx: &mut Connections<State>, id: Id, key: Key) {
        if let Some(State::Link(link)) = cx.get_mut(id).map(|p| &mut p.state) {
            (link.exchange, link.used) = (Some(key), true);
            let is_real = link.slot.is_none();
            self.succeeded();
            if is_real {
                self.shared.link_is_busy();
                self.carries();
            }
            self.shared.exchanges.fetch_add(1, Relaxed);
        }
        if self.is_wanting() {
            self.top_up(cx);
        }
    }

    /// Hands a link to program code: a handler on a worker, or a queue that the program reads.
    pub(super) fn lend(&mut self, cx: &mut Connections<State>, id: Id, bytes: &[u8]) {
        let Some((stream, kept, State::Link(mut link))) = cx.remove(id) else { return };
        if !bytes.is_empty() {
            link.used = true;
            self.succeeded(); // the gateway not only turns, it asks
            if link.slot.is_none() {
                self.carries();
            }
        }
        if let Err(e) = stream.set_nonblocking(false) {
            return self.count_out(
                cx,
                &link,
                CloseReason::new(CloseCause::Failed, format!("it cannot be made blocking: {e}")),
            );
        }
        self.numbers += 1;
        let stream = Arc::new(stream);
        self.leases.insert(self.numbers, Arc::downgrade(&stream));
        let (why, shared) =
            (CloseCause::Program.because("its exchange ended it"), self.shared.clone());
        let ticket =
            Ticket { remote: self.remote.clone(), number: self.numbers, link, why, shared };
        let unread = if bytes.is_empty() { kept } else { bytes.to_vec() };
        let busy = (!matches!(self.service, Service::Listen(_))).then(|| ticket.occupy());
        let lease = Lease { stream, unread, busy, ticket };
        // What cannot be handed over is dropped: its ticket tells the loop.
        match &self.service {
            Service::Handler(handler) => {
                let (handler, limits, workers) =
                    (handler.clone(), self.link_limits.clone(), self.workers.clone());
                if !self.workers.submit(move || answer_with(&handler, lease, &limits, &workers)) {
                    log::error!("no worker thread could be started; a link is closed");
                }
            }
            Service::Receive(queue) | Service::Listen(queue) => {
                match queue.try_send(lease) {
                    Ok(()) => {}
                    Err(TrySendError::Full(_)) => log::error!("more links than MAX; one is closed"),
                    Err(TrySendError::Disconnected(_)) => self.stopped = true, // the program has dropped the device
                }
            }
            Service::Forward(_) => {}
        }
    }

    fn back(
        &mut self,
        cx: &mut Connections<State>,
        number: u64,
        stream: Stream,
        unread: &[u8],
        link: Link,
    ) {
        self.leases.remove(&number);
        self.note_busy(cx.now());
        self.beaten |= link.beaten;
        if link.beaten && link.slot.is_none() {
            self.carries();
        }
        if self.draining {
            return self.count_out(cx, &link, STOPS);
        }
        match cx.insert(stream, unread, State::Link(link)) {
            Ok(id) => self.link_idle(cx, id),
            Err(e) => self.count_out(
                cx,
                &link,
                CloseReason::new(
                    CloseCause::Failed,
                    format!("it could not come back to the event loop: {e}"),
                ),
            ),
        }
    }

    fn drain(&mut self, cx: &mut Connections<State>, time: Duration) {
        self.draining = true;
        self.shared.stopping.store(true, Relaxed);
        self.shared.upgrades.stop(true);
        let at = cx.after(time);
        cx.alarm(at, STOP);
        self.drain_slots(cx);
        let dials = self.call_off_dials(cx);
        self.shared.dialing.fetch_sub(dials, Relaxed);
        for id in cx.ids() {
            match cx.get(id).map(|p| &p.state) {
                Some(State::Dial(dial)) if dial.slot.is_none() => {
                    cx.close(id);
                    self.shared.dialing.fetch_sub(1, Relaxed);
                }
                Some(State::Link(Link { exchange: None, slot, .. })) if !self.works(*slot) => {
                    self.link_gone(cx, id, STOPS)
                }
                Some(State::Local(Local::Idle)) => cx.close(id),
                Some(State::Lingering(_)) => {
                    relay::hurry_lingering(cx, id, &self.limits, find_lingering)
                }
                Some(State::Link(Link { exchange: Some(key), .. })) => {
                    if let Some(exchange) = self.exchanges.get_mut(*key) {
                        exchange.hurry();
                    }
                    cx.again(id); // its deadline may be nearer now
                }
                _ => {}
            }
        }
        self.settle_transport(cx, "", Some(&STOPS));
        self.top_up(cx); // an answer may have waited for a dial that has just ended
    }

    fn stop(&mut self, cx: &mut Connections<State>) {
        self.stopped = true;
        for key in self.slots.keys() {
            self.drop_slot(cx, key, "the device stops");
        }
        for stream in self.leases.values().filter_map(Weak::upgrade) {
            if let Err(e) = stream.shutdown(std::net::Shutdown::Both) {
                log_names!(Debug, "a lent link was already closed: {e}");
            }
        }
        for id in cx.ids() {
            cx.close(id);
        }
    }

    fn step_lingering(&mut self, cx: &mut Connections<State>, id: Id) {
        relay::step_lingering(cx, id, find_lingering);
    }
}

/// For the simulation.
#[cfg(test)]
impl DeviceRole {
    /// What is left though all is over: `connections` of the loop, and whatever the tables hold.
    pub(super) fn leftovers(&self, connections: usize) -> Vec<String> {
        let Counters { links, dialing, busy, polls, .. } = &*self.shared;
        let counted =
            [("links", links), ("dials", dialing), ("busy links", busy), ("polls", polls)];
        let tables = [
            ("connections", connections),
            ("exchanges", self.exchanges.len()),
            ("slots", self.slots.len()),
            ("lent", self.leases.len()),
            ("races", self.races.len()),
        ];
        let counted = counted.iter().map(|(what, n)| (*what, n.load(Relaxed)));
        let left =
            counted.chain(tables).filter(|(_, n)| *n > 0).map(|(what, n)| format!("{what}: {n}"));
        left.chain(self.slots_told()).collect()
    }
}

/// Writes what waits. Where that fails the next read says why.
pub(super) fn flush(cx: &mut Connections<State>, id: Id) {
    let Some(peer) = cx.get_mut(id) else { return };
    if peer.flush().is_err() {
        peer.look_again();
        cx.again(id);
    }
}

/// An offer that got no answer. `silent`: not one byte of it.
struct Unanswered {
    silent: bool,
    why: String,
}

impl From<String> for Unanswered {
    fn from(why: String) -> Self {
        Unanswered { silent: false, why }
    }
}

/// `sent`: the request went out whole. `behind`: the bytes that came with the head.
fn reply_head(response: &ResponseHead<'_>, sent: bool, behind: &[u8]) -> ReplyHead {
    const SAID_MAX: u64 = 200;
    let framing = body::of_response(response, "POST");
    let said = match framing {
        Ok(Framing::Length(n)) if n <= SAID_MAX && behind.len() as u64 >= n => {
            &behind[..n as usize]
        }
        _ => &[],
    };
    let keep = sent
        && framing != Ok(Framing::UntilClose)
        && head::keeps_alive(response.minor, &response.fields);
    let fields = &response.fields;
    let wants_token = response.status == 401
        && fields.list("www-authenticate").any(|challenge| first_word(challenge, b"Bearer"));
    ReplyHead {
        marked: turn::is_marked(fields) || wants_token,
        coding: head::coding(fields).map(printable),
        retry_after: retry_after(fields),
        status: response.status,
        keep,
        sent,
        framing,
        id: comet::id_of(&response.fields).map(|id| id.map(str::to_owned)),
        said: printable(said),
    }
}

/// What a peer said, for a log line.
pub(super) fn printable(text: &[u8]) -> String {
    text.iter()
        .map(|&byte| if matches!(byte, b' '..=b'~') { char::from(byte) } else { ' ' })
        .collect()
}

/// Whether a challenge is of this scheme.
fn first_word(challenge: &[u8], scheme: &[u8]) -> bool {
    challenge
        .split(|&byte| byte == b' ')
        .next()
        .is_some_and(|word| word.eq_ignore_ascii_case(scheme))
}

pub(super) fn dial_stage(cx: &mut Connections<State>, id: Id, stage: Stage) {
    if let Some(State::Dial(dial)) = cx.get_mut(id).map(|p| &mut p.state) {
        dial.stage = stage;
    }
}

/// What an idle link brought.
enum Came {
    NotYet,
    Gone(CloseReason),
    /// So many callers wait meanwhile.
    Heartbeat {
        heartbeat: Heartbeat,
        callers: usize,
    },
    Refused(crate::error::Refusal),
    /// A whole head (so many bytes of the scratch buffer) for program code.
    Request(usize),
    Forward(Box<Exchange>),
}

/// A worker's part: plain blocking code. It lingers on the link while nobody else needs the thread.
fn answer_with(handler: &Handler, lease: Lease, limits: &Arc<Limits>, workers: &Workers) {
    let Lease { stream, unread, busy: mut first, ticket } = lease;
    let mut link = DeviceLink::within(Shared::new(stream), unread, limits.clone());
    loop {
        let is_new = first.is_none(); // the loop has read the head of the first request
        let busy = first.take().unwrap_or_else(|| ticket.busy());
        let next = link.next_head();
        if let Some(callers) = link.callers_waiting().filter(|callers| is_new && *callers > 0) {
            ticket.callers_wait(callers);
        }
        match next {
            Ok(Next::Heartbeat) => {}
            Ok(Next::Closed) => return ticket.end(CLOSED),
            Err(e) => return ticket.failed(&e),
            Ok(Next::Request(request)) => {
                ticket.shared.exchanges.fetch_add(1, Relaxed);
                let (response, taker) = ask_handler(handler, request);
                let sent = match link.respond(response) {
                    Err(e) if e.is_usage() && taker.is_some() => {
                        log::error!(
                            "a handler returned 101, which was not asked for; its request is answered with 500"
                        );
                        link.respond(super::internal_error())
                    }
                    Ok(()) if taker.is_some() => return take_over(link, ticket, busy, taker),
                    sent => sent,
                };
                if let Err(e) = sent {
                    return ticket.failed(&e);
                }
            }
        }
        if !link.is_reusable() || ticket.shared.stopping.load(Relaxed) {
            return link.close(); // still busy: it takes a moment, and is no idle link meanwhile
        }
        drop(busy);
        if workers.is_pressed() {
            break;
        }
        match link.linger(limits.worker_linger) {
            // The loop's: a goaway's replacement is dialled before it is answered.
            Lingered::Ready if link.heartbeat_waits() => break,
            Lingered::Ready => {}
            Lingered::Quiet => break,
            Lingered::Closed => return ticket.end(CLOSED),
        }
    }
    let seen = link.has_seen_heartbeat();
    let (stream, unread) = link.into_parts();
    ticket.give_back(stream.into_inner(), unread, seen);
}

/// Behind a 101 the stream is the handler's, on this thread.
fn take_over(link: DeviceLink<Shared>, ticket: Ticket, busy: Busy, taker: Option<Taker>) {
    match (Upgraded::new(link, ticket, busy), taker) {
        (Ok(upgraded), Some(taker)) => taker(upgraded),
        (Err(e), _) => log_names!(Info, "a link that was switched to another protocol ended: {e}"),
        (Ok(_), None) => {}
    }
}

/// The response, and what is to be done behind its 101. A panic costs this exchange: it is answered
/// 500.
fn ask_handler(handler: &Handler, request: Request<Body>) -> (Response<Body>, Option<Taker>) {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handler(request))) {
        Ok(mut response) => {
            let taker = upgrade::taker(&mut response)
                .filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS);
            if response.status().is_informational() && taker.is_none() {
                log::error!(
                    "a handler returned the interim status {}; its request is answered with 500",
                    response.status()
                );
                return (super::internal_error(), None);
            }
            (response, taker)
        }
        Err(_) => {
            log::error!("a handler panicked; its request is answered with 500");
            (super::internal_error(), None)
        }
    }
}

fn find_lingering(state: &mut State) -> Option<&mut Lingering> {
    if let State::Lingering(lingering) = state { Some(lingering) } else { None }
}

impl Role for DeviceRole {
    type State = State;
    type Command = Command;

    fn accepted(&mut self, _: &mut Connections<State>, _: usize, _: Stream, from: SocketAddr) {
        log::error!("a device has no listener, yet {from} was accepted"); // cannot be: it is given none
    }

    fn secured(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        outcome: Result<(), HandshakeError>,
    ) {
        match outcome {
            Ok(()) => self.offer(cx, id),
            Err(broken) => {
                self.end_dial(cx, id, &format!("no TLS with the gateway: {}", broken.text), None)
            }
        }
    }

    fn ready(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(peer) = cx.get(id) else { return };
        match &peer.state {
            State::Racing(_) => self.racer_ready(cx, id),
            State::Dial(_) => self.dial_ready(cx, id),
            State::Link(Link { exchange: Some(key), .. }) => {
                let key = *key;
                if self.has_local_line() {
                    self.serve_locals(cx);
                }
                relay::advance(self, cx, key);
            }
            State::Link(_) => self.link_ready(cx, id),
            State::Bridge(slot) => self.bridge_ready(cx, *slot, id),
            State::Local(_) => self.local_ready(cx, id),
            State::Lingering(_) => self.step_lingering(cx, id),
        }
    }

    fn expired(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(peer) = cx.get(id) else { return };
        match &peer.state {
            State::Racing(_) => self.racer_expired(cx, id),
            State::Dial(dial) => match dial.stage {
                Stage::Connecting => self.end_dial(cx, id, "nothing was written to it", None), // cannot be: whoever takes it writes
                Stage::Tunnelling { .. } => self.tunnel_is_late(cx, id),
                Stage::Securing => self.end_dial(
                    cx,
                    id,
                    "the TLS handshake was not over within handshake_timeout",
                    None,
                ),
                Stage::Offered { .. } => self.reply_is_late(cx, id),
                Stage::Reading(_) => self.end_dial(
                    cx,
                    id,
                    "the gateway's reply stopped half-way for body_silence_timeout",
                    None,
                ),
                Stage::Pausing { keep } => self.paused(cx, id, keep),
                Stage::Resting => {}
            },
            State::Link(Link { exchange: Some(key), .. }) => {
                let key = *key;
                match self.exchanges.get(key).is_some_and(Exchange::is_waiting) {
                    true => self.local_queue_waited(cx, key), // a race for its connection keeps the time itself
                    false => relay::expired(self, cx, key),
                }
            }
            State::Link(Link { began: true, .. }) => self.answer_link(
                cx,
                id,
                &LocalAnswer::new(408, "the request head was not whole within head_timeout"),
            ),
            State::Link(_) if peer.pending() > 0 => self.answer_expired(cx, id),
            State::Link(_) => self.link_gone(
                cx,
                id,
                CloseCause::Silent.because("nothing came for as long as silence allows"),
            ),
            State::Bridge(_) => {}
            // Whoever asked has gone, so the exchange keeps its time here.
            State::Local(Local::Busy { key, .. }) => {
                let key = *key;
                relay::expired(self, cx, key);
            }
            State::Local(_) => self.close_local(cx, id),
            State::Lingering(_) => cx.close(id),
        }
    }

    fn alarm(&mut self, cx: &mut Connections<State>, key: u64) {
        match key {
            DIAL => self.top_up(cx),
            LOOKUP => self.lookups_are_late(cx),
            DOUBT => {
                self.doubt.alarmed = false;
                self.doubt_links(cx);
            }
            LOCALS => self.locals_are_late(cx),
            _ => self.stop(cx),
        }
    }

    fn command(&mut self, cx: &mut Connections<State>, command: Command) {
        match command {
            Command::TopUp => self.top_up(cx),
            Command::CallersWait(callers) => {
                self.callers_wait(cx.now(), callers);
                self.top_up(cx);
            }
            Command::Retry => {
                self.not_before = None;
                (self.doubt.swallowed, self.doubt.again) = (false, false);
                self.succeeded();
                self.plan.homes.hurry();
                self.hurry_slots(cx.now());
                self.top_up(cx);
            }
            Command::SetTls(connector) => self.plan.tls = Some(connector),
            Command::Resolved { number, found } => self.resolved(cx, number, &found),
            Command::Back { number, back } => {
                let (stream, unread, link) = *back;
                self.back(cx, number, stream, &unread, link);
            }
            Command::Gone { number, link, why } => {
                if self.leases.remove(&number).is_some() {
                    self.count_out(cx, &link, why);
                }
            }
            Command::Farewell { number, link, dialled } => {
                if self.leases.remove(&number).is_some() {
                    self.replace(cx, link);
                }
                let _ = dialled.send(()); // whoever waits may have gone on
            }
            Command::Ping(reply) => drop(reply.send(())), // whoever asked may have given up
            Command::Drain(time) if !self.draining => self.drain(cx, time),
            Command::Drain(time) => {
                let at = cx.after(time); // the earlier end holds
                cx.alarm(at, STOP);
            }
        }
    }

    fn finished(&self, cx: &Connections<State>) -> bool {
        self.stopped
            || (self.draining && cx.len() == 0 && self.slots.len() == 0 && self.leases.is_empty())
    }
}

impl Relaying for DeviceRole {
    fn exchanges(&mut self) -> &mut Slab<Exchange> {
        &mut self.exchanges
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.clone()
    }

    fn free(&mut self, cx: &mut Connections<State>, link: Id, reusable: Result<(), CloseReason>) {
        self.local_free(cx, link, reusable);
    }

    fn retry(&mut self, cx: &mut Connections<State>, key: Key) {
        self.find_local(cx, key);
    }

    fn next(&mut self, cx: &mut Connections<State>, downstream: Id, keep: bool) {
        self.relayed(cx, downstream);
        match keep && !self.draining {
            true => self.link_idle(cx, downstream),
            false => self.link_ends(
                cx,
                downstream,
                CloseCause::LastMessage.because("its last message said so"),
            ),
        }
    }

    fn answer(&mut self, cx: &mut Connections<State>, downstream: Id, answer: &LocalAnswer<'_>) {
        self.answer_link(cx, downstream, answer);
    }

    fn downstream_gone(&mut self, cx: &mut Connections<State>, downstream: Id, reset: bool) {
        self.relayed(cx, downstream);
        let Some(State::Link(link)) = cx.get(downstream).map(|p| &p.state) else { return };
        let link = *link;
        match reset {
            true => cx.reset(downstream),
            false => cx.close(downstream),
        }
        self.count_out(cx, &link, CloseCause::Cut.because("an exchange on it failed half-way"));
    }

    fn memory_left(&self, cx: &Connections<State>) -> usize {
        self.limits.memory_bytes_max.saturating_sub(cx.held())
    }

    fn callers_wait(&self, _: &Connections<State>, _: Id) -> bool {
        false // the pool of local connections has no queue
    }
}
