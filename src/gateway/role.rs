//! The gateway on its event loop: state of every connection, commands from other threads, and the
//! two faces tied together.
//!
//! [`offers`](super::offers) has the devices' connections, [`mailbox`](super::mailbox) those that
//! poll, [`visitors`](super::visitors) the visitors'; here is what they share.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Sender;

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::Role;
use crate::engine::budget::{Budget, Held};
use crate::engine::connections::{Connections, Id};
use crate::engine::event_loop::Remote;
use crate::engine::permits::Permit;
use crate::engine::slab::{Key, Slab};
use crate::engine::workers::Workers;
use crate::error::{Error, Fault, Refusal};
use crate::gateway::admission::Admission;
use crate::gateway::events::{Event, EventKind, Subscribers};
use crate::gateway::mailbox::{Events, MessageId};
use crate::gateway::observation::Question;
use crate::gateway::offer::{Grant, Offer, Reject};
use crate::gateway::offers::{Device, UNTURNED, peer_flush};
use crate::gateway::registry::{Left, Registration, Registry, Waiter};
use crate::gateway::routes::Table;
use crate::gateway::settings::Settings;
use crate::gateway::stats::Stats;
use crate::gateway::tokens::{REVOKED, Tokens, Whose};
use crate::gateway::visitors::{Visitor, VisitorListener, program_error};
use crate::limits::Limits;
use crate::link::CutError;
use crate::observe::{Observed, Observer};
use crate::proto::comet::Answer;
use crate::proto::turn::Transport;
use crate::relay::{self, Exchange, Lingering, LocalAnswer, Relaying, Rules, Wait};
use crate::stream::{Channel, GatewayTls, HandshakeError, Shown, ShownKey, Stream};

/// What the gateway keeps for a connection.
pub(crate) enum State {
    /// Its TLS handshake is in progress; it came through this listener.
    Securing {
        listener: usize,
        from: SocketAddr,
    },
    Visitor(Visitor),
    Device(Device),
    /// Answered and being closed gently.
    Lingering(Lingering),
}

/// What other threads ask of the gateway's loop.
pub(crate) enum Command {
    /// A link for a program's `send()`.
    Borrow { name: String, wait: Wait, reply: Sender<Result<Lease, Error>> },
    /// The link comes back, or has ended.
    Return { ticket: u64, stream: Result<(Stream, Vec<u8>), CloseReason> },
    /// Tell when a name has a link.
    Wait { name: String, time: Duration, reply: Sender<Result<(), Error>> },
    /// How many links a name has (in all, and idle), and how it is connected.
    Links { name: String, reply: Sender<(usize, usize, Option<Transport>)> },
    /// A helper has read a long message in JSON.
    Parsed { id: Id, answer: Box<Result<Option<Answer>, Refusal>>, held: Held },
    /// A helper has written a long event in JSON for this poll.
    Encoded { poll: Id, event: MessageId, json: Result<(Vec<u8>, Held), Refusal> },
    /// `authorize` has decided.
    Decided { id: Id, offer: Box<Offer>, verdict: Result<Grant, Reject> },
    /// Another server did the 101.
    Adopt {
        stream: Stream,
        unread: Vec<u8>,
        offer: Box<Offer>,
        grant: Grant,
        reply: Sender<Result<(), Error>>,
    },
    /// A listener for visitors.
    Relay {
        listener: TcpListener,
        table: Box<Table>,
        tls: Option<GatewayTls>,
        reply: Sender<Result<(), Error>>,
    },
    /// Other certificates for the listener at this address, which has some.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    SetTls { at: SocketAddr, tls: GatewayTls, reply: Sender<Result<ShownAt, Error>> },
    /// These certificates, shown at this listener before it got others, are not taken any more.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    RefuseCertificates { listener: usize, refused: HashSet<ShownKey>, reply: Sender<()> },
    /// Other routes for the listener at this address. The old ones come back: to free a long table
    /// is not the loop's work.
    SetRoutes { at: SocketAddr, table: Box<Table>, reply: Sender<Result<Box<Table>, Error>> },
    /// Other tokens. The old ones come back, as routes do.
    SetTokens { whose: Whose, tokens: Box<Tokens>, reply: Sender<Result<Box<Tokens>, Error>> },
    /// A subscriber for events; the answer comes when it is on the list.
    Subscribe { subscriber: Sender<Event>, reply: Sender<()> },
    /// Say so for the time of notice; then nothing new, and what is in progress may finish for so
    /// long.
    Drain { notice: Duration, time: Duration },
    /// The visitor's connection that this link was pinned to is over.
    Unpin { link: Id },
    /// What an operator asks.
    #[allow(dead_code, reason = "nobody asks yet")]
    Observe(Question),
    /// Whether the loop turns.
    Ping { reply: Sender<()> },
}

/// A listener's number, and what those who are connected through it have shown, each certificate
/// once.
pub(crate) type ShownAt = (usize, Vec<Arc<Shown>>);

/// A link in the hands of program code. The loop keeps a weak handle, to end it when its session is
/// replaced.
pub(crate) struct Lease {
    pub(crate) stream: Arc<Stream>,
    pub(crate) unread: Vec<u8>,
    /// 0: one end of a socket pair, whose other end the loop serves like a visitor, for a device
    /// that polls.
    pub(crate) ticket: u64,
    /// Where the loop leaves why it ended the exchange.
    pub(crate) fate: CutError,
    /// Its device is an AirPlay sender.
    pub(crate) airplay: bool,
}

/// The ticket of what is not a link.
pub(crate) const NO_TICKET: u64 = 0;

/// What is left in the loop of a link that was lent.
pub(super) struct LeasedLink {
    pub(super) registration: Arc<Registration>,
    pub(super) handle: Handle,
    /// Where the program that has it reads why it was cut.
    pub(super) fate: CutError,
    pub(super) observed: Observed,
    /// Counted until it comes back or ends.
    pub(super) place: Option<Permit>,
}

pub(super) enum Handle {
    Weak(Weak<Stream>),
    Own(Stream),
    None,
}

/// A program's thread that waits for the loop.
struct Caller {
    name: String,
    want: Want,
    wait: Wait,
}

enum Want {
    Link(Sender<Result<Lease, Error>>),
    Name(Sender<Result<(), Error>>),
}

/// What an alarm is for.
pub(super) enum Alarm {
    /// A caller's time is up.
    Caller(u64),
    /// The grace of replaced links is over.
    Evict { links: Vec<Id>, leases: Vec<u64> },
    /// The grace of what visitors asked with revoked tokens is over.
    EvictVisitors(Vec<Key>),
    /// A certificate that let a device in may have expired.
    Expiry,
    /// A device that polls may have stayed away.
    PollGap(Arc<str>),
    /// Events were handed out long ago.
    Redeliver,
    /// Exchanges may have taken all the time that they may.
    Overdue,
    /// Time to forget old names.
    Tick,
    /// Links of this name that are pinned may be wanted by others.
    EasePins(Arc<str>),
    /// The notice of a drain is over: what is in progress may finish for so long.
    Drain(Duration),
    /// Devices that dialled again have heard of the other gateway.
    StopListening,
    /// The drain's time is up.
    Stop,
}

/// When exchanges have to be over. It holds about as many entries as there are exchanges: those
/// that ended earlier are swept out as it grows, and an alarm is set only for what no earlier one
/// finds, so that a busy connection with a long bound leaves nothing behind for each of its
/// requests.
#[derive(Default)]
struct Ends {
    at: BTreeSet<(Instant, Key)>,
    alarms: BTreeSet<Instant>,
}

impl Ends {
    fn add(&mut self, key: Key, at: Instant, living: &Slab<Exchange>) {
        const SPARE: usize = 64;
        if self.at.len() > 2 * living.len() + SPARE {
            self.at.retain(|(_, key)| living.get(*key).is_some());
        }
        self.at.insert((at, key));
    }

    /// Takes out one that is due.
    fn pop_due(&mut self, now: Instant) -> Option<Key> {
        self.at.first().filter(|(at, _)| *at <= now)?;
        self.at.pop_first().map(|(_, key)| key)
    }

    /// The alarm to set, where none goes off early enough.
    fn next_alarm(&mut self, now: Instant, living: &Slab<Exchange>) -> Option<Instant> {
        self.alarms.retain(|alarm| *alarm > now);
        while self.at.first().is_some_and(|(_, key)| living.get(*key).is_none()) {
            self.at.pop_first();
        }
        let (first, _) = *self.at.first()?;
        let covered = self.alarms.first().is_some_and(|alarm| *alarm <= first);
        (!covered && self.alarms.insert(first)).then_some(first)
    }
}

struct Listening {
    at: Option<SocketAddr>,
    /// Who comes in speaks TLS.
    tls: Option<GatewayTls>,
    /// Visitors' routes; `None`: devices come in here.
    table: Option<Box<Table>>,
}

pub(crate) struct GatewayRole {
    pub(super) settings: Settings,
    /// For heads that were written here.
    pub(super) own_limits: Limits,
    /// Certificates of those who are connected whose CA was replaced.
    pub(super) refused: HashSet<ShownKey>,
    /// No certificate that let a device in expires before.
    pub(super) next_expiry: Option<SystemTime>,
    pub(super) admission: Admission,
    pub(super) helpers: Workers,
    /// Read and write long JSON. Of their own, so that offers wait for no device's messages.
    pub(super) json_workers: Workers,
    pub(super) link_workers: Workers,
    pub(super) remote: Remote<Command>,
    pub(super) stats: Arc<Stats>,
    pub(super) observer: Observer,
    rules: Arc<Rules>,
    listeners: Vec<Listening>,
    pub(super) exchanges: Slab<Exchange>,
    ends: Ends,
    pub(super) registry: Registry,
    pub(super) events: Events,
    /// For whole messages in memory.
    pub(super) budget: Budget,
    /// Counts the heads of requests in progress, of which each has a bound.
    pub(super) heads: Budget,
    /// Some link is registered under an origin: visitors' hosts are looked up.
    pub(super) origins: bool,
    pub(super) leases: HashMap<u64, LeasedLink>,
    callers: HashMap<u64, Caller>,
    alarms: HashMap<u64, Alarm>,
    numbers: u64,
    subscribers: Subscribers,
    /// It is known that this gateway stops: when the notice ends. From then on answers end their
    /// visitors' connections, and new devices are sent away.
    pub(super) notice: Option<Instant>,
    /// The notice is over, too: nothing new is taken.
    pub(super) draining: bool,
    stopped: bool,
}

/// The alarm that `new` puts into the table; whoever starts the loop sets it.
pub(super) const FIRST_ALARM: u64 = 0;
pub(super) const SHORT_OF_MEMORY: &str =
    "this gateway has taken nine tenths of memory_bytes_max; try again later";
const STOPPED: &str = "this gateway stopped";
/// Threads that read and write long JSON at once. Each may take some times a message's length
/// meanwhile, which is counted nowhere; they are few.
const JSON_THREADS: usize = 2;
/// How often old names are forgotten.
pub(super) const TICK: Duration = Duration::from_secs(30);

impl GatewayRole {
    pub(super) fn new(
        mut settings: Settings,
        remote: Remote<Command>,
        stats: Arc<Stats>,
        devices: Vec<(SocketAddr, Option<GatewayTls>)>,
    ) -> Self {
        let limits = settings.limits.clone();
        let idle = limits.worker_idle_timeout;
        let rules = Rules {
            limits: limits.clone(),
            answer_limits: settings.link_limits.clone(),
            ends: crate::proto::head::LineEnds::CrlfOrLf,
            via: Some(settings.via.clone()),
            add_date: true, // RFC 9110 §6.6.1: whoever forwards a response without one
            upstream_name: "the device",
            downstream_may_half_close: true,
        };
        let mut alarms = HashMap::new();
        alarms.insert(FIRST_ALARM, Alarm::Tick);
        GatewayRole {
            helpers: Workers::new(
                "ptth-authorize",
                limits.helpers_max,
                limits.authorize_queue_max,
                idle,
            ),
            json_workers: Workers::new("ptth-json", JSON_THREADS, limits.authorize_queue_max, idle),
            link_workers: Workers::new("ptth-link", limits.on_link_max, limits.on_link_max, idle),
            rules: Arc::new(rules),
            registry: Registry::new(limits.clone(), settings.shared_names),
            listeners: devices
                .into_iter()
                .map(|(at, tls)| Listening { at: Some(at), tls, table: None })
                .collect(),
            events: Events::default(),
            budget: Budget::of_parts(limits.messages_bytes_max, limits.messages_of_device()),
            heads: Budget::new(usize::MAX),
            own_limits: limits.for_own_heads(),
            origins: settings.tokens.as_ref().is_some_and(|tokens| tokens.have_origins()),
            refused: HashSet::new(),
            next_expiry: None,
            admission: Admission::new(
                std::mem::take(&mut settings.devices_allow),
                std::mem::take(&mut settings.visitors_allow),
            ),
            remote,
            stats,
            observer: settings.observer.clone(),
            exchanges: Slab::new(),
            ends: Ends::default(),
            leases: HashMap::new(),
            callers: HashMap::new(),
            alarms,
            numbers: 0,
            subscribers: Subscribers::default(),
            notice: None,
            draining: false,
            stopped: false,
            settings,
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn set_alarm(&mut self, cx: &mut Connections<State>, at: Instant, alarm: Alarm) {
        let number = self.number();
        self.alarms.insert(number, alarm);
        cx.alarm(at, number);
    }

    pub(super) fn evict_later(
        &mut self,
        cx: &mut Connections<State>,
        links: Vec<Id>,
        leases: Vec<u64>,
    ) {
        if !links.is_empty() || !leases.is_empty() {
            let at = cx.after(self.settings.limits.take_over_grace);
            self.set_alarm(cx, at, Alarm::Evict { links, leases });
        }
    }

    pub(super) fn tell(
        &mut self,
        kind: EventKind,
        name: &str,
        reason: &str,
        transport: Option<Transport>,
    ) {
        log_names!(Info of [name], "{name}: {kind}{}{reason}", if reason.is_empty() { "" } else { ": " });
        self.publish(kind, name, reason, transport, None);
    }

    fn publish(
        &mut self,
        kind: EventKind,
        name: &str,
        reason: &str,
        transport: Option<Transport>,
        end: Option<CloseCause>,
    ) {
        self.observer.changed(name, kind.as_str(), reason, transport, end);
        self.subscribers.publish(&Event {
            kind,
            name: name.to_owned(),
            reason: reason.to_owned(),
            transport,
            end,
            missed: 0,
        });
    }

    /// Wakes the callers of `wait()` that asked for one of these names.
    pub(super) fn announce(&mut self, names: &[Arc<str>]) {
        let found: Vec<u64> = self
            .callers
            .iter()
            .filter(|(_, c)| {
                matches!(c.want, Want::Name(_)) && names.iter().any(|n| **n == *c.name)
            })
            .map(|(number, _)| *number)
            .collect();
        for number in found {
            if let Some(Caller { want: Want::Name(reply), .. }) = self.callers.remove(&number) {
                let _ = reply.send(Ok(())); // the caller may have gone
            }
        }
    }

    /// Hands a busy link to a program's thread. False: that thread has gone, the link is free.
    pub(super) fn lend(&mut self, cx: &mut Connections<State>, caller: u64, id: Id) -> bool {
        let Some(Caller { want: Want::Link(reply), .. }) = self.callers.remove(&caller) else {
            return false;
        };
        self.lend_to(cx, &reply, id)
    }

    fn lend_to(
        &mut self,
        cx: &mut Connections<State>,
        reply: &Sender<Result<Lease, Error>>,
        id: Id,
    ) -> bool {
        let Some(registration) = self.registration(cx, id) else { return true };
        let place = cx.unseat(id);
        let Some((stream, unread, _)) = cx.remove(id) else { return true };
        let (stream, ticket) = (Arc::new(stream), self.number());
        let airplay = registration.is_airplay();
        let observed = self.observe_lease(&registration);
        self.registry.lend(&registration, id);
        let fate = CutError::default();
        self.leases.insert(
            ticket,
            LeasedLink {
                registration,
                handle: Handle::Weak(Arc::downgrade(&stream)),
                fate: fate.clone(),
                observed,
                place,
            },
        );
        cx.set_lent(self.leases.len());
        self.stats.exchanges.fetch_add(1, Relaxed);
        if let Err(unsent) = reply.send(Ok(Lease { stream, unread, ticket, fate, airplay })) {
            let Ok(Lease { stream, unread, ticket, .. }) = unsent.0 else { return true };
            let stream = Arc::into_inner(stream).map(|stream| (stream, unread));
            self.take_back(
                cx,
                ticket,
                stream.ok_or(CloseCause::Failed.because("its caller went while it was lent")),
            );
        }
        true
    }

    /// Gives a program's thread, whose device polls, a socket of which the loop has the other end:
    /// what is asked there goes the way of a visitor's request.
    pub(super) fn lend_mailbox(&mut self, cx: &mut Connections<State>, caller: u64) {
        if let Some(Caller { name, want: Want::Link(reply), .. }) = self.callers.remove(&caller) {
            self.lend_mailbox_to(cx, &name, &reply);
        }
    }

    fn lend_mailbox_to(
        &mut self,
        cx: &mut Connections<State>,
        name: &str,
        reply: &Sender<Result<Lease, Error>>,
    ) {
        let fate = CutError::default();
        let opened = Stream::pair().and_then(|(ours, theirs)| {
            ours.set_nonblocking(true)?;
            let id = cx.insert(
                ours,
                &[],
                State::Visitor(Visitor::fresh(VisitorListener::program(name, fate.clone()))),
            )?;
            Ok((id, theirs))
        });
        let answer = match opened {
            Ok((id, theirs)) => {
                let at = cx.after(self.settings.limits.head_timeout);
                cx.set_deadline(id, Some(at));
                Ok(Lease {
                    stream: Arc::new(theirs),
                    unread: Vec::new(),
                    ticket: NO_TICKET,
                    fate,
                    airplay: false,
                })
            }
            Err(e) => Err(Error::io(
                crate::Fault::Gateway,
                format_args!("opening a way to device {name}, which polls"),
                e,
            )),
        };
        let _ = reply.send(answer); // where the caller has gone, its end is dropped here, and the loop sees that
    }

    fn take_back(
        &mut self,
        cx: &mut Connections<State>,
        ticket: u64,
        stream: Result<(Stream, Vec<u8>), CloseReason>,
    ) {
        let Some(LeasedLink { registration, place, mut observed, .. }) =
            self.leases.remove(&ticket)
        else {
            return;
        };
        if let Some(why) = stream.as_ref().err().filter(|why| !why.end.is_usual()) {
            observed.failed(why.end.as_str(), 0);
        }
        drop(observed);
        cx.set_lent(self.leases.len());
        let device = Device::link(registration.clone());
        let inserted = stream.and_then(|(stream, unread)| {
            let inserted = cx.insert(stream, &unread, State::Device(device));
            inserted.map_err(|e| {
                CloseReason::new(
                    CloseCause::Failed,
                    format!("it could not come back to the event loop: {e}"),
                )
            })
        });
        match inserted {
            Ok(id) => {
                cx.seat(id, place);
                self.registry.place(&registration, id);
                let revoked = if self.is_revoked(&registration) {
                    Err(CloseCause::Revoked.because(REVOKED))
                } else {
                    Ok(())
                };
                self.free(cx, id, revoked);
            }
            Err(why) => self.lent_ended(cx, &registration, &why),
        }
    }

    /// A link that was lent, or whose place was reserved, is gone.
    pub(super) fn lent_ended(
        &mut self,
        cx: &Connections<State>,
        registration: &Registration,
        why: &CloseReason,
    ) {
        let left = self.registry.lend_ends(registration, cx.now());
        self.link_ended(registration, &left, why);
    }

    /// A link has ended: its reason goes into one line of the log, into the events, and into the
    /// counters.
    pub(super) fn link_ended(
        &mut self,
        registration: &Registration,
        left: &Left,
        why: &CloseReason,
    ) {
        self.stats.ends.count(why.end);
        let (name, last) = (registration.name(), !left.down.is_empty());
        match (last, why.end.is_usual()) {
            (true, _) => {} // the line of its name says it
            (false, true) => log_names!(Debug of [name], "{name}: a link ended: {why}"),
            (false, false) => log_names!(Info of [name], "{name}: a link ended: {why}"),
        }
        self.publish(
            EventKind::Ended,
            name,
            &why.text,
            self.registry.transport(name),
            Some(why.end),
        );
        self.gone(left, why);
    }

    pub(super) fn gone(&mut self, left: &Left, why: &CloseReason) {
        for name in &left.down {
            log_names!(Info of [name], "{name}: {}: {why}", EventKind::Down);
            self.registry.note_end(name, why.end);
            self.publish(EventKind::Down, name, &why.text, None, Some(why.end));
        }
        for (name, transport) in &left.moved {
            self.tell(EventKind::Moved, name, &transport.to_string(), Some(*transport));
        }
        self.stats.devices.store(self.registry.connected(), Relaxed);
    }

    fn borrow(
        &mut self,
        cx: &mut Connections<State>,
        name: String,
        wait: Wait,
        reply: Sender<Result<Lease, Error>>,
    ) {
        if self.draining {
            let _ =
                reply.send(Err(Error::stopped("this gateway is stopping; nothing new is sent")));
            return;
        }
        if self.is_short_of_memory(cx) {
            let _ = reply.send(Err(Error::full(SHORT_OF_MEMORY)));
            return;
        }
        while let Some(link) = self.take_link(cx, &name) {
            if !self.is_alive(cx, link) {
                continue;
            }
            if !peer_flush(cx, link) {
                self.drop_link(cx, link, UNTURNED);
                continue;
            }
            self.lend_to(cx, &reply, link);
            return;
        }
        if self.registry.is_polling(&name) {
            return self.lend_mailbox_to(cx, &name, &reply);
        }
        if !self.is_known(cx, &name) {
            let _ = reply.send(Err(Error::not_connected(
                404,
                format!("no device {name} is or was lately connected to this gateway"),
            )));
            return;
        }
        let number = self.number();
        if !self.registry.enqueue(&name, Waiter::Caller(number)) {
            let _ = reply.send(Err(Error::full(format!(
                "as many callers wait for {name} as waiting_per_device_max allows; try again later"
            ))));
            return;
        }
        self.ease_pins_after(cx, &name, wait.time / 2);
        self.callers.insert(number, Caller { name, want: Want::Link(reply), wait });
        let at = cx.after(wait.time);
        self.set_alarm(cx, at, Alarm::Caller(number));
    }

    fn await_name(
        &mut self,
        cx: &mut Connections<State>,
        name: String,
        time: Duration,
        reply: Sender<Result<(), Error>>,
    ) {
        if self.registry.transport(&name).is_some() {
            let _ = reply.send(Ok(()));
            return;
        }
        let number = self.number();
        self.callers.insert(
            number,
            Caller { name, want: Want::Name(reply), wait: Wait { time, name: "the time given" } },
        );
        let at = cx.after(time);
        self.set_alarm(cx, at, Alarm::Caller(number));
    }

    fn caller_expired(&mut self, number: u64, now: Instant) {
        let Some(Caller { name, want, wait }) = self.callers.remove(&number) else { return };
        match want {
            Want::Link(reply) => {
                self.registry.cancel_wait(&name, Waiter::Caller(number));
                let text = self.waited_in_vain(&name, wait, now);
                let _ = reply.send(Err(Error::not_connected(503, text)));
            }
            Want::Name(reply) => {
                let _ = reply.send(Err(Error::not_connected(
                    503,
                    format!("device {name} did not connect in the time given"),
                )));
            }
        }
    }

    /// Why nobody answers who has waited for a link or a poll of `name`: who asks reads the same as
    /// the log said.
    pub(super) fn waited_in_vain(&self, name: &str, wait: Wait, now: Instant) -> String {
        let (links, _) = self.registry.links(name);
        if links > 0 {
            return format!(
                "all {links} links of device {name} stayed busy for {wait}; let it dial more links or ask later"
            );
        }
        if self.registry.is_polling(name) {
            return format!("device {name} polls, and did not come for this request within {wait}");
        }
        match self.registry.last_end(name) {
            Some((end, at)) => {
                let ago = now.saturating_duration_since(at).as_secs();
                format!(
                    "device {name} is not connected; its last connection ended {ago} s ago ({end}), and it did not come within {wait}"
                )
            }
            None => format!(
                "device {name} is not connected, and was not lately; it did not come within {wait}"
            ),
        }
    }

    fn evict(&mut self, cx: &mut Connections<State>, links: Vec<Id>, leases: Vec<u64>) {
        for id in links {
            let Some(State::Device(device)) = cx.get(id).map(|p| &p.state) else { continue };
            let exchange = match device {
                Device::Link(link) => link.exchange,
                Device::PostedAnswer(posted) => posted.exchange(),
                _ => continue,
            };
            let Some(registration) = device.registration() else { continue };
            let (revoked, in_force) =
                (self.is_revoked(registration), self.registry.in_force(registration));
            match exchange {
                _ if in_force && !revoked => {}
                Some(key) if revoked => self.end_exchange(
                    cx,
                    key,
                    CloseCause::Revoked,
                    "the device's token or certificate became invalid, and take_over_grace is over",
                ),
                Some(key) => {
                    self.end_exchange(
                        cx,
                        key,
                        CloseCause::Replaced,
                        "the device's session was replaced and take_over_grace is over",
                    );
                }
                None => {
                    let end = if revoked { CloseCause::Revoked } else { CloseCause::Replaced };
                    self.drop_link(cx, id, end.because("take_over_grace is over"));
                }
            }
        }
        for ticket in leases {
            let why = "the device's session was replaced, or its token revoked, and take_over_grace is over";
            self.cut_lent(ticket, Error::closed(Fault::Device, why));
        }
    }

    /// Wakes a program's thread that is blocked on a lent link: its next read or write fails, with
    /// this error.
    pub(super) fn cut_lent(&mut self, ticket: u64, why: Error) {
        let Some(leases) = self.leases.get(&ticket) else { return };
        leases.fate.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
        let cut = match &leases.handle {
            Handle::Weak(stream) => stream.upgrade().map(|s| s.shutdown(std::net::Shutdown::Both)),
            Handle::Own(stream) => Some(stream.shutdown(std::net::Shutdown::Both)),
            Handle::None => None,
        };
        if let Some(Err(e)) = cut {
            log_names!(Debug, "a lent link was already closed: {e}");
        }
    }

    fn add_visitors(
        &mut self,
        cx: &mut Connections<State>,
        listener: TcpListener,
        table: Box<Table>,
        tls: Option<GatewayTls>,
    ) -> Result<(), Error> {
        if self.draining {
            return Err(Error::stopped("this gateway is stopping; nothing new is listened on"));
        }
        let at = listener.local_addr().ok();
        if cx.listen(listener).is_none() {
            return Err(Error::usage(
                "this gateway listens on as many addresses as one event loop takes",
            ));
        }
        self.listeners.push(Listening { at, tls, table: Some(table) });
        Ok(())
    }

    /// From the next handshake on. Those whose handshake is in progress have to come again: they
    /// might be let in by the old one.
    fn set_tls(
        &mut self,
        cx: &mut Connections<State>,
        at: SocketAddr,
        new: GatewayTls,
    ) -> Result<ShownAt, Error> {
        let mut listeners =
            self.listeners.iter_mut().enumerate().filter(|(_, listening)| listening.at == Some(at));
        let found = listeners.find_map(|(number, listening)| {
            Some((number, listening.table.is_none(), listening.tls.as_mut()?))
        });
        let Some((number, devices, tls)) = found else {
            return Err(Error::usage(format!(
                "this gateway does not speak TLS at {at}; give the address of a listener that was begun with TLS"
            )));
        };
        *tls = new;
        let mut shown: HashMap<ShownKey, Arc<Shown>> = HashMap::new();
        for id in cx.ids() {
            let Some(peer) = cx.get(id) else { continue };
            match &peer.state {
                State::Securing { listener, .. } if devices && *listener == number => cx.close(id),
                _ => shown.extend(peer.stream().certificate().map(|shown| (shown.key(), shown))),
            }
        }
        let leases = self.leases.values().filter_map(|leases| leases.registration.certificate());
        shown.extend(leases.map(|shown| (shown.key(), shown.clone())));
        Ok((number, shown.into_values().filter(|shown| shown.key().0 == number).collect()))
    }

    fn set_routes(&mut self, at: SocketAddr, mut new: Box<Table>) -> Result<Box<Table>, Error> {
        let found = self
            .listeners
            .iter_mut()
            .filter(|listening| listening.at == Some(at))
            .find_map(|listening| listening.table.as_mut());
        let Some(table) = found else {
            return Err(Error::usage(format!(
                "this gateway does not let visitors in at {at}; give the address that relay() returned"
            )));
        };
        new.succeed(table);
        Ok(std::mem::replace(table, new))
    }

    /// What the visitors' listeners' routes say, each line behind its listener's address.
    #[cfg_attr(not(feature = "admin"), allow(dead_code))]
    pub(super) fn route_rows(&self, most: usize) -> Vec<String> {
        let of = |listening: &Listening| {
            let at = listening.at.map_or_else(String::new, |at| at.to_string());
            let routes = listening.table.as_ref().map(|table| table.told(most)).unwrap_or_default();
            routes.into_iter().map(move |route| format!("{at} {route}"))
        };
        self.listeners.iter().flat_map(of).take(most).collect()
    }

    /// The routes and the port of a visitors' listener.
    pub(super) fn visitors_listener(&self, listener: usize) -> Option<(&Table, u16)> {
        let Listening { at, table, .. } = self.listeners.get(listener)?;
        Some((table.as_deref()?, at.map_or(0, |at| at.port())))
    }

    /// Whether a request for this device is worth waiting: it is connected, or was lately, or a
    /// route or a token names it.
    pub(super) fn is_known(&mut self, cx: &Connections<State>, name: &str) -> bool {
        let named =
            |listening: &Listening| listening.table.as_ref().is_some_and(|table| table.names(name));
        if !self.registry.knows(name) && (self.has_token(name) || self.listeners.iter().any(named))
        {
            self.registry.expect(name, cx.now());
        }
        self.registry.knows(name)
    }

    /// What a new connection is, by the listener that it came through.
    fn face(&self, listener: usize, from: SocketAddr, secure: bool) -> State {
        match self.listeners.get(listener) {
            Some(Listening { table: Some(_), .. }) => {
                let face = VisitorListener::Visitors {
                    listener,
                    from: from.ip().to_canonical(),
                    trusted: self.is_trusted(from.ip()),
                    secure,
                    pin: None,
                };
                State::Visitor(Visitor::fresh(face))
            }
            _ => State::Device(Device::Head { began: false, polled: false, told: None }),
        }
    }

    fn is_trusted(&self, from: IpAddr) -> bool {
        self.settings.trusted.iter().any(|network| network.contains(from))
    }

    /// The first half of a drain: everything is served as ever, and everybody is told that it ends.
    fn give_notice(&mut self, cx: &mut Connections<State>, notice: Duration, time: Duration) {
        let ends = cx.after(notice);
        self.notice = Some(self.notice.map_or(ends, |earlier| earlier.min(ends)));
        if notice.is_zero() {
            return self.drain(cx, time);
        }
        self.set_alarm(cx, ends, Alarm::Drain(time)); // of several, the earliest holds
        for id in cx.ids() {
            if let Some(State::Visitor(Visitor::Exchange { key, .. })) =
                cx.get(id).map(|p| &p.state)
            {
                let key = *key;
                if let Some(exchange) = self.exchanges.get_mut(key) {
                    exchange.last_of_asker();
                }
            }
        }
    }

    /// No listener takes anything any more, and whoever has connected and not asked is let go.
    fn stop_listening(&mut self, cx: &mut Connections<State>) {
        cx.stop_listening();
        self.close_idle_devices(cx);
    }

    fn drain(&mut self, cx: &mut Connections<State>, time: Duration) {
        let at = cx.after(time);
        self.set_alarm(cx, at, Alarm::Stop); // of several, the earliest holds
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        match self.settings.drain_to {
            None => cx.stop_listening(),
            // A device hears where to go when it dials again, which it does as soon as its link has
            // gone.
            Some(_) => {
                let at = cx.after(time.min(self.settings.limits.abandoned_timeout));
                self.set_alarm(cx, at, Alarm::StopListening);
            }
        }
        for id in cx.ids() {
            let Some(peer) = cx.get(id) else { continue };
            match &peer.state {
                State::Securing { .. } => cx.close(id),
                // What has arrived is still served; what has not begun ends here.
                State::Visitor(Visitor::Head { .. }) => {
                    self.visitor_head(cx, id);
                    if matches!(
                        cx.get(id).map(|p| &p.state),
                        Some(State::Visitor(Visitor::Head { began: false, .. }))
                    ) {
                        cx.close(id);
                    }
                }
                State::Visitor(Visitor::Exchange { key, .. }) => {
                    let key = *key;
                    if let Some(exchange) = self.exchanges.get_mut(key) {
                        exchange.last_of_asker();
                        exchange.hurry();
                    }
                    cx.again(id); // its deadline may be nearer now
                }
                State::Lingering(_) => {
                    relay::hurry_lingering(cx, id, &self.settings.limits, find_lingering)
                }
                State::Device(Device::Link(link)) if link.exchange.is_none() => self.part(cx, id),
                State::Device(Device::Held { .. }) => self.part(cx, id),
                // What is in hand may still be answered on a connection that is kept.
                State::Device(Device::Head { polled, .. })
                    if self.settings.drain_to.is_none()
                        && (!polled || !self.events.are_in_hand()) =>
                {
                    cx.close(id)
                }
                _ => {}
            }
        }
    }

    fn stop(&mut self, cx: &mut Connections<State>) {
        self.stopped = true;
        for id in cx.ids() {
            if let Some(State::Visitor(visitor @ Visitor::Exchange { key, .. })) =
                cx.get(id).map(|p| &p.state)
            {
                visitor.leave_fate(|| Error::stopped(STOPPED));
                let key = *key;
                self.end_exchange(cx, key, CloseCause::Stopped, STOPPED);
            }
        }
        let leases: Vec<u64> = self.leases.keys().copied().collect();
        for ticket in leases {
            self.cut_lent(ticket, Error::stopped(STOPPED));
        }
        for id in cx.ids() {
            cx.close(id);
        }
    }

    /// Answers on a connection that then closes gently.
    pub(super) fn refuse(&mut self, cx: &mut Connections<State>, id: Id, answer: &LocalAnswer<'_>) {
        let date = cx.date().to_owned();
        self.stats.refused.fetch_add(1, Relaxed);
        let Some(peer) = cx.get_mut(id) else { return };
        let mark = match &peer.state {
            State::Device(_) => true,
            State::Securing { listener, .. } => {
                self.listeners.get(*listener).is_none_or(|listening| listening.table.is_none())
            }
            _ => false,
        };
        LocalAnswer { mark, ..answer.clone() }.write(peer.output(), &date);
        self.linger(cx, id);
    }

    pub(super) fn linger(&mut self, cx: &mut Connections<State>, id: Id) {
        relay::linger(cx, id, &self.settings.limits, self.draining, State::Lingering);
        self.step_lingering(cx, id);
    }

    fn step_lingering(&mut self, cx: &mut Connections<State>, id: Id) {
        relay::step_lingering(cx, id, find_lingering);
    }

    pub(super) fn registration(
        &self,
        cx: &Connections<State>,
        id: Id,
    ) -> Option<Arc<Registration>> {
        match &cx.get(id)?.state {
            State::Device(Device::Link(link)) => Some(link.registration.clone()),
            State::Device(Device::Held { registration, .. }) => Some(registration.clone()),
            _ => None,
        }
    }

    /// Ends an exchange: with a 502 where its visitor has heard nothing yet, else by cutting the
    /// answer.
    pub(super) fn end_exchange(
        &mut self,
        cx: &mut Connections<State>,
        key: Key,
        end: CloseCause,
        why: &'static str,
    ) {
        let answer =
            LocalAnswer { error: Some("connection_terminated"), ..LocalAnswer::new(502, why) };
        self.end_exchange_with(cx, key, end.because(why), &answer);
    }

    pub(super) fn end_exchange_with(
        &mut self,
        cx: &mut Connections<State>,
        key: Key,
        why: CloseReason,
        answer: &LocalAnswer<'_>,
    ) {
        let Some(exchange) = self.exchanges.get(key) else { return };
        match (exchange.downstream, exchange.answered) {
            (Some(downstream), false) => {
                if let Some(State::Visitor(Visitor::Exchange { name, .. })) =
                    cx.get(downstream).map(|p| &p.state)
                {
                    self.registry.cancel_wait(name, Waiter::Exchange(key));
                }
                relay::answer_instead(self, cx, key, why, answer);
            }
            (Some(downstream), true) => {
                if let Some(State::Visitor(visitor)) = cx.get(downstream).map(|p| &p.state) {
                    visitor.leave_fate(|| program_error(answer));
                }
                relay::abort(self, cx, key, why);
            }
            (None, _) => relay::abort(self, cx, key, why),
        }
    }

    /// Bytes of memory that are held: connections with their buffers and sessions, heads of
    /// requests, whole messages.
    pub(super) fn memory(&self, cx: &Connections<State>) -> usize {
        cx.held() + self.heads.taken() + self.budget.taken()
    }

    /// Whether so much memory is taken that nothing new is begun.
    pub(super) fn is_short_of_memory(&self, cx: &Connections<State>) -> bool {
        self.memory(cx) > self.settings.limits.memory_bytes_max / 10 * 9
    }

    /// Whether all of it is taken, so that no visitor comes in but in the place of another.
    pub(super) fn is_out_of_memory(&self, cx: &Connections<State>) -> bool {
        self.memory(cx) > self.settings.limits.memory_bytes_max
    }

    /// A share of the budget of whole messages for one that comes from, or goes to, the device of
    /// this name.
    pub(super) fn messages_of(&mut self, name: &str) -> Held {
        self.budget.share_of(self.registry.messages(name))
    }

    /// This exchange has to be over by then.
    pub(super) fn ends_by(&mut self, cx: &mut Connections<State>, key: Key, at: Instant) {
        self.ends.add(key, at, &self.exchanges);
        self.set_ends_alarm(cx);
    }

    fn end_overdue(&mut self, cx: &mut Connections<State>) {
        while let Some(key) = self.ends.pop_due(cx.now()) {
            self.overdue(cx, key);
        }
        self.set_ends_alarm(cx);
    }

    fn set_ends_alarm(&mut self, cx: &mut Connections<State>) {
        if let Some(alarm) = self.ends.next_alarm(cx.now(), &self.exchanges) {
            self.set_alarm(cx, alarm, Alarm::Overdue);
        }
    }

    /// An exchange has taken all the time that it may. A tunnel is none any more.
    fn overdue(&mut self, cx: &mut Connections<State>, key: Key) {
        if self.exchanges.get(key).is_none_or(Exchange::is_tunnel) {
            return;
        }
        let reason = format!("the exchange was not over within {}", self.waits(key).exchange);
        let answer = LocalAnswer {
            error: Some("http_response_timeout"),
            keep: true,
            ..LocalAnswer::new(504, &reason)
        };
        self.end_exchange_with(
            cx,
            key,
            CloseReason::new(CloseCause::Late, reason.clone()),
            &answer,
        );
    }
}

fn find_lingering(state: &mut State) -> Option<&mut Lingering> {
    if let State::Lingering(lingering) = state { Some(lingering) } else { None }
}

impl Role for GatewayRole {
    type State = State;
    type Command = Command;

    fn admits(&mut self, cx: &mut Connections<State>, listener: usize) -> Result<(), &'static str> {
        let visitors =
            self.listeners.get(listener).is_some_and(|listening| listening.table.is_some());
        self.has_room(cx, if visitors { Whose::Visitors } else { Whose::Devices })
    }

    fn spares(&mut self, cx: &mut Connections<State>) -> bool {
        self.spare_idle(cx)
    }

    fn accepted(
        &mut self,
        cx: &mut Connections<State>,
        listener: usize,
        stream: Stream,
        from: SocketAddr,
    ) {
        let trusted = self.is_trusted(from.ip());
        let Some(listening) = self.listeners.get(listener) else { return };
        let side = if listening.table.is_some() { Whose::Visitors } else { Whose::Devices };
        if self.draining && side == Whose::Visitors {
            return;
        }
        let channel =
            match listening.tls.as_ref().map(|tls| Channel::to_peer(tls, listener)).transpose() {
                Ok(channel) => channel,
                Err(e) => return log_names!(Warn, "a connection from {from} was dropped: {e}"),
            };
        let Some(place) = self.admission.open(side, from, trusted, &self.settings.limits) else {
            return;
        };
        if !self.make_room(cx, side) {
            return log_names!(
                Warn,
                "a connection from {from} was closed: there is no room for it (connections_max)"
            );
        }
        let state = if channel.is_some() {
            State::Securing { listener, from }
        } else {
            self.face(listener, from, false)
        };
        let time = if channel.is_some() {
            self.settings.limits.handshake_timeout
        } else {
            self.settings.limits.head_timeout
        };
        match cx.insert(stream, &[], state) {
            Ok(id) => {
                if !self.come_in(cx, id, side, from, channel.is_some(), place) {
                    return;
                }
                let at = cx.after(time);
                cx.set_deadline(id, Some(at));
                match channel {
                    None => self.ready(cx, id), // the request often is there already
                    Some(channel) if cx.secure(id, channel.clone(), side == Whose::Visitors) => {}
                    Some(_) => {
                        log_names!(
                            Warn,
                            "a connection from {from} was closed: as many TLS handshakes are in progress as handshakes_max allows"
                        );
                        cx.close(id);
                    }
                }
            }
            Err(e) => log_names!(Warn, "a connection from {from} was dropped: {e}"),
        }
    }

    fn secured(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        outcome: Result<(), HandshakeError>,
    ) {
        let Some(State::Securing { listener, from }) = cx.get(id).map(|p| &p.state) else { return };
        let (listener, from) = (*listener, *from);
        match outcome {
            Ok(()) => {
                let state = self.face(listener, from, true);
                if let Some(peer) = cx.get_mut(id) {
                    peer.state = state;
                }
                let at = cx.after(self.settings.limits.head_timeout);
                cx.set_deadline(id, Some(at));
                self.ready(cx, id);
            }
            Err(broken) => {
                match broken.silent {
                    true => log_names!(Debug, "{from} connected for TLS and closed without a byte"),
                    false => {
                        log_names!(Info, "the TLS handshake with {from} failed: {}", broken.text)
                    }
                }
                match broken.plain {
                    true => self.refuse(
                        cx,
                        id,
                        &LocalAnswer::new(400, "this port speaks TLS; write https:// in the URL"),
                    ),
                    false => cx.close(id),
                }
            }
        }
    }

    fn ready(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(peer) = cx.get(id) else { return };
        match &peer.state {
            State::Securing { .. } => {}
            State::Visitor(Visitor::Head { .. }) => self.visitor_head(cx, id),
            State::Visitor(Visitor::Exchange { key, .. }) => {
                let key = *key;
                match self.exchanges.get(key).is_some_and(Exchange::is_collecting) {
                    true => self.collect(cx, id, key),
                    false => relay::advance(self, cx, key),
                }
            }
            State::Device(Device::Link(link)) => match link.exchange {
                Some(key) => relay::advance(self, cx, key),
                None => self.idle_ready(cx, id),
            },
            State::Device(Device::Head { .. }) => self.device_head(cx, id),
            State::Device(Device::Deciding(_) | Device::Held { .. }) => self.early_bytes(cx, id),
            State::Device(Device::PostedAnswer(_)) => self.post_ready(cx, id),
            State::Device(Device::PollReply(_)) => self.tell_ready(cx, id),
            State::Lingering(_) => self.step_lingering(cx, id),
        }
    }

    fn expired(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(peer) = cx.get(id) else { return };
        match &peer.state {
            State::Securing { from, .. } => {
                log::debug!("the TLS handshake with {from} was not over within handshake_timeout");
                cx.close(id);
            }
            State::Visitor(Visitor::Head { .. }) => self.visitor_head_expired(cx, id),
            State::Visitor(Visitor::Exchange { key, event, .. }) => {
                let (key, event) = (*key, *event);
                match (self.exchanges.get(key), event) {
                    (Some(exchange), _) if exchange.is_collecting() => {
                        self.collect_expired(cx, id, key)
                    }
                    (Some(exchange), None) if exchange.is_waiting() => {
                        self.visitor_waited(cx, id, key)
                    }
                    (Some(exchange), Some(event)) if exchange.is_waiting() => {
                        self.event_expired(cx, id, key, event)
                    }
                    _ => relay::expired(self, cx, key),
                }
            }
            State::Device(Device::Link(link)) => match link.exchange {
                Some(key) => relay::expired(self, cx, key),
                None => self.beat(cx, id),
            },
            State::Device(Device::Head { .. }) => self.device_head_expired(cx, id),
            State::Device(Device::Deciding(_)) => {
                self.deny_knock(cx, id, 503, "the offer was not decided in time", Some(10))
            }
            State::Device(Device::Held { .. }) => self.hold_expired(cx, id),
            State::Device(Device::PostedAnswer(_)) => self.post_expired(cx, id),
            State::Device(Device::PollReply(_)) => self.tell_expired(cx, id),
            State::Lingering(_) => cx.close(id),
        }
    }

    fn alarm(&mut self, cx: &mut Connections<State>, number: u64) {
        match self.alarms.remove(&number) {
            None => {}
            Some(Alarm::Caller(caller)) => self.caller_expired(caller, cx.now()),
            Some(Alarm::Evict { links, leases }) => self.evict(cx, links, leases),
            Some(Alarm::EvictVisitors(exchanges)) => self.evict_visitors(cx, exchanges),
            Some(Alarm::Expiry) => self.end_expired(cx),
            Some(Alarm::PollGap(name)) => self.poll_gap(cx, name),
            Some(Alarm::Redeliver) => self.redeliver(cx),
            Some(Alarm::Overdue) => self.end_overdue(cx),
            Some(Alarm::EasePins(name)) => self.ease_pins(cx, &name),
            Some(Alarm::Drain(time)) => self.drain(cx, time),
            Some(Alarm::StopListening) => self.stop_listening(cx),
            Some(Alarm::Stop) => self.stop(cx),
            Some(Alarm::Tick) => {
                self.registry.tick(cx.now());
                self.end_expired(cx);
                crate::logs::settle();
                let at = cx.after(TICK);
                self.set_alarm(cx, at, Alarm::Tick);
            }
        }
    }

    fn command(&mut self, cx: &mut Connections<State>, command: Command) {
        match command {
            Command::Borrow { name, wait, reply } => self.borrow(cx, name, wait, reply),
            Command::Return { ticket, stream } => self.take_back(cx, ticket, stream),
            Command::Wait { name, time, reply } => self.await_name(cx, name, time, reply),
            Command::Links { name, reply } => {
                let (all, idle) = self.registry.links(&name);
                let _ = reply.send((all, idle, self.registry.transport(&name)));
            }
            Command::Parsed { id, answer, held } => self.parsed(cx, id, *answer, held),
            Command::Encoded { poll, event, json } => self.encoded(cx, poll, event, json),
            Command::Decided { id, offer, verdict } => self.decided(cx, id, *offer, verdict),
            Command::Adopt { stream, unread, offer, grant, reply } => {
                let adopted = self.adopt(cx, stream, &unread, &offer, &grant);
                let _ = reply.send(adopted);
            }
            Command::Relay { listener, table, tls, reply } => {
                let _ = reply.send(self.add_visitors(cx, listener, table, tls));
            }
            Command::SetTls { at, tls, reply } => {
                let _ = reply.send(self.set_tls(cx, at, tls));
            }
            Command::RefuseCertificates { listener, refused, reply } => {
                self.refuse_certificates(cx, listener, refused);
                let _ = reply.send(());
            }
            Command::SetRoutes { at, table, reply } => {
                let _ = reply.send(self.set_routes(at, table));
            }
            Command::SetTokens { whose, tokens, reply } => {
                let _ = reply.send(self.set_tokens(cx, whose, tokens));
            }
            Command::Subscribe { subscriber, reply } => {
                self.subscribers.add(subscriber);
                let _ = reply.send(());
            }
            Command::Observe(question) => self.observe(cx, question),
            Command::Unpin { link } => self.unpin(cx, link),
            Command::Drain { notice, time } => self.give_notice(cx, notice, time),
            Command::Ping { reply } => drop(reply.send(())), // whoever asked may have given up
        }
    }

    fn finished(&self, cx: &Connections<State>) -> bool {
        self.stopped
            || (self.draining && !cx.is_listening() && cx.len() == 0 && self.leases.is_empty())
    }
}

impl Relaying for GatewayRole {
    fn exchanges(&mut self) -> &mut Slab<Exchange> {
        &mut self.exchanges
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.clone()
    }

    fn free(&mut self, cx: &mut Connections<State>, link: Id, reusable: Result<(), CloseReason>) {
        match cx.get(link).map(|p| &p.state) {
            Some(State::Device(Device::PostedAnswer(_))) => self.post_free(cx, link, reusable),
            _ => self.link_free(cx, link, reusable),
        }
    }

    fn retry(&mut self, cx: &mut Connections<State>, key: Key) {
        let Some(downstream) = self.exchanges.get(key).and_then(|e| e.downstream) else { return };
        self.find_link(cx, downstream, key);
    }

    fn next(&mut self, cx: &mut Connections<State>, downstream: Id, keep: bool) {
        self.visitor_next(cx, downstream, keep);
    }

    fn answer(&mut self, cx: &mut Connections<State>, downstream: Id, answer: &LocalAnswer<'_>) {
        self.forget_event(cx, downstream);
        self.answer_visitor(cx, downstream, answer);
    }

    fn downstream_gone(&mut self, cx: &mut Connections<State>, downstream: Id, reset: bool) {
        self.forget_event(cx, downstream);
        if let Some(State::Visitor(Visitor::Exchange { key, name, .. })) =
            cx.get(downstream).map(|p| &p.state)
        {
            self.registry.cancel_wait(name, Waiter::Exchange(*key)); // it may have gone while it waited in line
        }
        match reset {
            true => cx.reset(downstream),
            false => cx.close(downstream),
        }
    }

    fn memory_left(&self, cx: &Connections<State>) -> usize {
        self.settings.limits.memory_bytes_max.saturating_sub(self.memory(cx))
    }

    fn callers_wait(&self, cx: &Connections<State>, link: Id) -> bool {
        match cx.get(link).map(|p| &p.state) {
            // The device polls with it again only behind its answer.
            Some(State::Device(Device::PostedAnswer(posted))) => {
                self.registry.callers_wait(posted.registration())
            }
            _ => self
                .registration(cx, link)
                .is_some_and(|registration| self.registry.callers_wait(&registration)),
        }
    }
}

/// For the simulation.
#[cfg(test)]
impl GatewayRole {
    /// A listener for visitors that no socket is behind.
    pub(super) fn listen_simulated(&mut self, table: Box<Table>, at: SocketAddr) {
        self.listeners.push(Listening { table: Some(table), at: Some(at), tls: None });
    }

    /// What is left in the tables, now that nobody is connected.
    pub(super) fn leftovers(&self, drained: bool) -> Vec<String> {
        let mut left = Vec::new();
        let mut none = |what: &str, n: usize| {
            if n > 0 {
                left.push(format!("{what}: {n}"));
            }
        };
        none("exchanges", self.exchanges.len());
        none("events handed out", self.events.in_hand());
        none("bytes of the budget", self.budget.taken());
        none("bytes of heads", self.heads.taken());
        none("links lent", self.leases.len());
        none("callers", self.callers.len());
        let observed = self.observer.table().map_or(0, |table| table.totals.in_progress);
        none("exchanges observed", observed as usize);
        none("polls counted", self.stats.polls.load(Relaxed));
        if !drained {
            none("names connected", self.registry.connected()); // a mailbox that was drained has poll_gap yet
            // Names are forgotten by now, and no alarm is set but the one that forgets.
            none("names known", self.registry.known());
            none(
                "alarms",
                self.alarms.values().filter(|alarm| !matches!(alarm, Alarm::Tick)).count(),
            );
            none(
                "ends of exchanges",
                self.ends.at.iter().filter(|(_, key)| self.exchanges.get(*key).is_some()).count(),
            );
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(now: Instant) -> Exchange {
        Exchange::heartbeat(Vec::new(), Duration::ZERO, &Limits::default(), now)
    }

    #[test]
    fn a_hundred_thousand_short_exchanges_leave_few_ends_and_one_alarm() {
        let (mut ends, mut living, now) = (Ends::default(), Slab::new(), Instant::now());
        let (mut most, mut alarms) = (0, 0);
        for n in 0..100_000 {
            let key = living.insert(exchange(now));
            ends.add(key, now + Duration::from_secs(60) + Duration::from_micros(n), &living);
            alarms += usize::from(ends.next_alarm(now, &living).is_some());
            living.remove(key);
            most = most.max(ends.at.len());
        }
        assert!(most <= 70 && alarms == 1, "{most} entries, {alarms} alarms");
    }

    #[test]
    fn every_exchange_is_found_when_its_time_is_up_whatever_the_order() {
        let (mut ends, mut living, now) = (Ends::default(), Slab::new(), Instant::now());
        let at = |second| now + Duration::from_secs(second);
        let mut alarms = BTreeSet::new();
        for second in [10, 3, 7, 3, 20, 1] {
            let key = living.insert(exchange(now));
            ends.add(key, at(second), &living);
            alarms.extend(ends.next_alarm(now, &living));
        }
        let mut found = Vec::new();
        while let Some(alarm) = alarms.pop_first() {
            while let Some(key) = ends.pop_due(alarm) {
                living.remove(key);
                found.push(alarm);
            }
            alarms.extend(ends.next_alarm(alarm, &living));
        }
        assert_eq!(found, [1, 3, 3, 7, 10, 20].map(at));
        assert!(ends.alarms.is_empty() && ends.at.is_empty());
    }
}
