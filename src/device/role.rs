//! The device on its event loop: dials, offers, parks turned links, hands them to handlers, and dials again.
//!
//! ```text
//!   Dial (connect ─► offer ─► verdict) ─► Link (idle ⇄ at a worker, or relayed to the local server) ─► gone ─► Dial
//! ```

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, TrySendError};
use http::{Request, Response};

use crate::device::dial::{Backoff, Url, random};
use crate::device::forward::{self, Local, Target};
use crate::device::{DeviceEvent, DeviceEventKind, Handler, OnRefusal};
use crate::engine::Role;
use crate::engine::event_loop::Remote;
use crate::engine::peers::{Fetched, Id, Peers};
use crate::engine::slab::{Key, Slab};
use crate::engine::workers::Workers;
use crate::error::{Error, Fault};
use crate::limits::Limits;
use crate::link::{DeviceLink, Lingered, Next};
use crate::message::Body;
use crate::proto::head::{self, LineEnds};
use crate::proto::heartbeat;
use crate::proto::turn::{self, OfferPlan, Verdict};
use crate::relay::{self, Exchange, Lingering, LocalAnswer, Relaying, Rules};
use crate::stream::{Shared, Stream};

/// What the device keeps for a connection.
pub(crate) enum State {
    Dial(Box<Dial>),
    Link(Link),
    Local(Local),
    Lingering(Lingering),
}

/// A connection on its way to be a link.
pub(crate) struct Dial {
    url: Arc<Url>,
    redirects: usize,
    /// Addresses not tried yet.
    addresses: Vec<SocketAddr>,
    stage: Stage,
}

enum Stage {
    Connecting,
    /// The offer was written then; so many 1xx came, so many quick 204.
    Offered {
        at: Instant,
        informational: usize,
        quick: usize,
    },
    /// A gateway that answers 204 at once is not asked again at once.
    Pausing {
        quick: usize,
    },
}

/// A turned connection in the loop.
#[derive(Clone, Copy)]
pub(crate) struct Link {
    pub(super) exchange: Option<Key>,
    since: Instant,
    /// A heartbeat came on it: silence is watched from then on.
    watched: bool,
    /// Some of a head is here.
    began: bool,
    /// A request came on it: it was of use.
    used: bool,
}

/// Who answers what comes over the links.
pub(crate) enum Service {
    Handler(Handler),
    /// `recv()`: exchanges wait in a channel.
    Receive(Sender<Loan>),
    /// `accept()`: links wait in a channel.
    Listen(Sender<Loan>),
    Forward(Target),
}

/// A link in the hands of program code.
pub(crate) struct Loan {
    pub(crate) stream: Arc<Stream>,
    pub(crate) unread: Vec<u8>,
    /// It carries a request that waits for `recv()`: no idle link.
    pub(crate) busy: Option<Busy>,
    pub(crate) ticket: Ticket,
}

/// Gives a link, or word of its end, back to the loop.
pub(crate) struct Ticket {
    remote: Remote<Command>,
    number: u64,
    link: Link,
    pub(crate) shared: Arc<Counters>,
}

impl Ticket {
    /// The link may be watched by the loop again.
    pub(crate) fn give_back(mut self, stream: Option<Stream>, unread: Vec<u8>, seen_heartbeat: bool) {
        self.link.watched |= seen_heartbeat;
        let back = stream.and_then(|stream| stream.set_nonblocking(true).ok().map(|()| (stream, unread, self.link)));
        if let Some(back) = back {
            self.remote.send(Command::Back { number: self.number, back: Box::new(back) });
            self.number = 0;
        }
    }

    /// One link more is busy, until the guard is dropped. Asks for another link when too few idle ones are left.
    pub(crate) fn busy(&self) -> Busy {
        self.shared.busy.fetch_add(1, Relaxed);
        if self.shared.is_short() && !self.shared.asked.swap(true, Relaxed) {
            self.remote.send(Command::TopUp);
        }
        Busy(self.shared.clone())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.number != 0 {
            self.remote.send(Command::Gone { number: self.number, link: self.link });
        }
    }
}

pub(crate) struct Busy(Arc<Counters>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Relaxed);
    }
}

/// What loop and workers both count.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) links: AtomicUsize,
    pub(crate) dialing: AtomicUsize,
    /// Links with a request in progress.
    pub(crate) busy: AtomicUsize,
    pub(crate) exchanges: AtomicUsize,
    pub(crate) min: usize,
    pub(crate) max: usize,
    asked: AtomicBool,
    pub(crate) stopping: AtomicBool,
}

impl Counters {
    pub(crate) fn new(min: usize, max: usize) -> Self {
        Counters { min, max, ..Counters::default() }
    }

    /// Whether another link is to be dialled: fewer idle ones (and ones on the way) than MIN, fewer in all than MAX.
    fn is_short(&self) -> bool {
        let (links, dialing, busy) = (self.links.load(Relaxed), self.dialing.load(Relaxed), self.busy.load(Relaxed));
        links + dialing < self.max && links.saturating_sub(busy) + dialing < self.min
    }
}

/// What other threads ask of the device's loop.
pub(crate) enum Command {
    Resolved {
        dial: Box<Dial>,
        found: io::Result<Vec<SocketAddr>>,
    },
    Back {
        number: u64,
        back: Box<(Stream, Vec<u8>, Link)>,
    },
    Gone {
        number: u64,
        link: Link,
    },
    TopUp,
    /// Dial now, whatever the back-off says.
    Retry,
    /// Nothing new; what is in progress may finish for so long.
    Drain(Duration),
}

pub(crate) struct Plan {
    pub(crate) url: Url,
    pub(crate) offer: OfferPlan,
    /// Fields that go only to the configured gateway's origin.
    pub(crate) secrets: Vec<(String, String)>,
    pub(crate) name: String,
    pub(crate) on_refusal: OnRefusal,
}

pub(crate) struct DeviceRole {
    pub(super) limits: Arc<Limits>,
    plan: Plan,
    home: Arc<Url>,
    service: Service,
    remote: Remote<Command>,
    shared: Arc<Counters>,
    workers: Workers,
    resolvers: Workers,
    rules: Arc<Rules>,
    pub(super) exchanges: Slab<Exchange>,
    /// Idle connections to the local server, newest last.
    pub(super) pool: Vec<Id>,
    lent: HashMap<u64, Weak<Stream>>,
    numbers: u64,
    backoff: Backoff,
    /// No dial before this.
    not_before: Option<Instant>,
    /// An offer was turned, or held, some time.
    welcomed: bool,
    waiting: bool,
    connected: bool,
    events: Sender<DeviceEvent>,
    draining: bool,
    stopped: bool,
    outcome: Arc<Mutex<Option<Error>>>,
}

/// Alarms of the device.
const DIAL: u64 = 1;
const STOP: u64 = 2;

/// A link that lived shorter than this counts as a failed attempt: a gateway that turns and closes is not dialled in a circle.
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// 204 answers that may come at once before the next offer is paced.
const QUICK_MAX: usize = 3;
const PACE: Duration = Duration::from_secs(1);

impl DeviceRole {
    pub(super) fn new(
        limits: Arc<Limits>,
        plan: Plan,
        service: Service,
        remote: Remote<Command>,
        shared: Arc<Counters>,
        events: Sender<DeviceEvent>,
        outcome: Arc<Mutex<Option<Error>>>,
    ) -> Self {
        let rules =
            Rules { limits: limits.clone(), ends: LineEnds::Crlf, via: None, add_date: true, answerer: "the device's local server" };
        let idle = limits.worker_idle_timeout;
        DeviceRole {
            home: Arc::new(plan.url.clone()),
            workers: Workers::new("ptth-handler", shared.max, shared.max, idle),
            resolvers: Workers::new("ptth-resolve", 1, shared.max, idle),
            rules: Arc::new(rules),
            backoff: Backoff::new(limits.backoff_min, limits.backoff_max),
            limits,
            plan,
            service,
            remote,
            shared,
            exchanges: Slab::new(),
            pool: Vec::new(),
            lent: HashMap::new(),
            numbers: 0,
            not_before: None,
            welcomed: false,
            waiting: false,
            connected: false,
            events,
            draining: false,
            stopped: false,
            outcome,
        }
    }

    pub(super) fn draining(&self) -> bool {
        self.draining
    }

    pub(super) fn target(&self) -> Option<&Target> {
        match &self.service {
            Service::Forward(target) => Some(target),
            _ => None,
        }
    }

    fn tell(&self, kind: DeviceEventKind, url: &str, detail: String) {
        let event = DeviceEvent { kind, name: self.plan.name.clone(), url: url.to_owned(), detail };
        if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
            log::debug!("nobody reads the device's events; dropped: {event:?}");
        }
    }

    // --- dialling ---

    /// Dials as many links as are wanted; one at a time while the gateway does not answer.
    fn top_up(&mut self, cx: &mut Peers<State>) {
        self.shared.asked.store(false, Relaxed);
        if self.draining || self.not_before.is_some_and(|at| at > cx.now()) {
            return;
        }
        self.not_before = None;
        // A dial may fail at once (no route): then `not_before` is set again, and the rest waits.
        while self.not_before.is_none()
            && self.shared.is_short()
            && (self.backoff.failures() == 0 || self.shared.dialing.load(Relaxed) == 0)
        {
            self.shared.dialing.fetch_add(1, Relaxed);
            let dial = Dial { url: self.home.clone(), redirects: 0, addresses: Vec::new(), stage: Stage::Connecting };
            self.resolve(cx, Box::new(dial));
        }
    }

    fn resolve(&mut self, cx: &mut Peers<State>, mut dial: Box<Dial>) {
        if let Some(address) = dial.url.literal() {
            dial.addresses = vec![address];
            return self.connect(cx, *dial, None);
        }
        let remote = self.remote.clone();
        let submitted = self.resolvers.submit(move || {
            let found = (dial.url.host.as_str(), dial.url.port).to_socket_addrs().map(Iterator::collect);
            remote.send(Command::Resolved { dial, found });
        });
        if !submitted {
            self.dial_failed(cx, "no thread to look up its name", None);
        }
    }

    fn connect(&mut self, cx: &mut Peers<State>, mut dial: Dial, mut failed: Option<io::Error>) {
        let url = dial.url.clone();
        while !dial.addresses.is_empty() {
            let address = dial.addresses.remove(0);
            let state = State::Dial(Box::new(Dial {
                url: url.clone(),
                redirects: dial.redirects,
                addresses: std::mem::take(&mut dial.addresses),
                stage: Stage::Connecting,
            }));
            match Stream::connect_tcp(address) {
                Ok(stream) => match cx.insert_connecting(stream, state) {
                    Ok(id) => {
                        let at = cx.after(self.limits.connect_timeout);
                        return cx.set_deadline(id, Some(at));
                    }
                    Err(e) => failed = Some(e),
                },
                Err(e) => {
                    failed = Some(e);
                    if let State::Dial(rest) = state {
                        dial = *rest;
                    }
                }
            }
        }
        let why = failed.map_or_else(|| "its name has no address".to_owned(), |e| e.to_string());
        self.dial_failed(cx, &format!("gateway {} cannot be reached: {why}", url.text), None);
    }

    fn dial_ready(&mut self, cx: &mut Peers<State>, id: Id) {
        let Some(peer) = cx.get_mut(id) else { return };
        let State::Dial(dial) = &mut peer.state else { return };
        match dial.stage {
            Stage::Connecting => match peer.stream().connected() {
                Ok(false) => {}
                Ok(true) => self.offer(cx, id, 0),
                Err(e) => self.next_address(cx, id, e),
            },
            Stage::Offered { .. } => self.read_verdict(cx, id),
            Stage::Pausing { .. } => {
                // The gateway speaks or ends although nothing was asked: either way this connection is of no use.
                self.end_dial(cx, id, "the gateway ended the connection while the offer was paused", None);
            }
        }
    }

    fn next_address(&mut self, cx: &mut Peers<State>, id: Id, failed: io::Error) {
        if let Some((_, _, State::Dial(dial))) = cx.remove(id) {
            self.connect(cx, *dial, Some(failed));
        }
    }

    /// Writes the offer. Secrets go to the configured origin only.
    fn offer(&mut self, cx: &mut Peers<State>, id: Id, quick: usize) {
        let now = cx.now();
        let Some(peer) = cx.get_mut(id) else { return };
        let State::Dial(dial) = &mut peer.state else { return };
        dial.stage = Stage::Offered { at: now, informational: 0, quick };
        let mut offer = self.plan.offer.clone();
        offer.authority.clone_from(&dial.url.authority);
        offer.target.clone_from(&dial.url.target);
        if dial.url.same_origin(&self.home) {
            offer.fields.extend(self.plan.secrets.iter().cloned());
        }
        if let Err(refusal) = turn::write_offer(peer.output(), &offer) {
            return self.end_dial(cx, id, &format!("the offer cannot be written: {}", refusal.reason), None);
        }
        match peer.flush() {
            Err(e) => self.end_dial(cx, id, &format!("the gateway closed the connection while the offer was written: {e}"), None),
            Ok(_) => {
                let at = now + self.limits.offer_timeout;
                cx.set_deadline(id, Some(at));
            }
        }
    }

    fn read_verdict(&mut self, cx: &mut Peers<State>, id: Id) {
        let mut scratch = cx.take_scratch();
        let verdict = self.next_verdict(cx, id, &mut scratch);
        cx.put_scratch(scratch);
        match verdict {
            Ok(None) => {}
            Ok(Some(verdict)) => self.obey(cx, id, verdict),
            Err(why) => self.end_dial(cx, id, &why, None),
        }
    }

    /// `Ok(None)`: not here yet. Octets behind the answer are kept: behind a 101 they are the first request.
    fn next_verdict(&mut self, cx: &mut Peers<State>, id: Id, scratch: &mut [u8]) -> Result<Option<Verdict>, String> {
        let Some(peer) = cx.get_mut(id) else { return Ok(None) };
        let _ = peer.flush(); // a failure shows in the next read
        let filled = match peer.fetch(scratch, self.limits.head_bytes_max + 1024) {
            Ok(Fetched::Octets(n)) => n,
            Ok(Fetched::Nothing) => return Ok(None),
            Ok(Fetched::End) => return Err("the gateway closed the connection instead of answering the offer".to_owned()),
            Err(e) => return Err(format!("the connection to the gateway broke before the offer was answered: {e}")),
        };
        let octets = &scratch[..filled];
        let mut used = 0;
        loop {
            let parsed = head::response(&octets[used..], &self.limits, LineEnds::CrlfOrLf)
                .map_err(|e| format!("this is not a gateway's answer: {}", e.reason))?;
            let Some(response) = parsed else {
                if peer.at_end_of_stream() {
                    return Err("the gateway closed the connection in the middle of its answer to the offer".to_owned());
                }
                peer.keep(&octets[used..]);
                return Ok(None);
            };
            used += response.len;
            match turn::check(&response, &self.plan.offer.dialect.token) {
                Verdict::Informational => {
                    let State::Dial(dial) = &mut peer.state else { return Ok(None) };
                    let Stage::Offered { informational, .. } = &mut dial.stage else { return Ok(None) };
                    *informational += 1;
                    if *informational > self.limits.informational_max {
                        return Err("the gateway sent more interim responses than informational_max".to_owned());
                    }
                }
                verdict => {
                    peer.keep(&octets[used..]);
                    return Ok(Some(verdict));
                }
            }
        }
    }

    fn obey(&mut self, cx: &mut Peers<State>, id: Id, verdict: Verdict) {
        match verdict {
            Verdict::Turned { warning } => {
                if let Some(warning) = warning {
                    log::warn!("the gateway's 101 is tolerated: {warning}");
                }
                self.turned(cx, id);
            }
            Verdict::Nothing => self.nothing_yet(cx, id),
            Verdict::Redirect(location) => self.redirected(cx, id, &location),
            Verdict::Refused(status) => self.refused(cx, id, status),
            Verdict::Later { status, retry_after } => {
                let hint = match status {
                    400 => "it takes this offer for malformed; check the URL",
                    409 => "another device, or a newer run of this one, holds the name; stop it or choose another name",
                    426 => "it does not turn this protocol; choose another with --protocol",
                    429 | 503 => "it is full or stopping",
                    _ => "it cannot take devices just now",
                };
                self.end_dial(cx, id, &format!("the gateway answered the offer with {status}: {hint}"), retry_after);
            }
            Verdict::FellBack(_) => self.end_dial(cx, id, "the gateway, or a proxy on the way, does not turn connections: it fell back to polling, which this device does not speak yet", None),
            Verdict::NoTurn(status) => {
                self.end_dial(cx, id, &format!("no gateway that turns connections answers here: status {status}; check the URL, port included"), None);
            }
            Verdict::Wrong(why) => self.end_dial(cx, id, &why, None),
            Verdict::Informational => {}
        }
    }

    fn nothing_yet(&mut self, cx: &mut Peers<State>, id: Id) {
        let now = cx.now();
        let Some(peer) = cx.get_mut(id) else { return };
        let State::Dial(dial) = &mut peer.state else { return };
        let Stage::Offered { at, quick, .. } = dial.stage else { return };
        let url = dial.url.clone();
        let is_quick = now.saturating_duration_since(at) < PACE;
        let quick = if is_quick { quick + 1 } else { 0 };
        self.welcomed = true;
        self.backoff.succeed();
        if !self.waiting && !self.connected {
            self.waiting = true;
            self.tell(DeviceEventKind::Waiting, &url.text, String::new());
        }
        if self.draining {
            return self.end_dial(cx, id, "the device stops", None);
        }
        self.top_up(cx); // after an outage the other offers are wanted, too
        if quick > QUICK_MAX {
            dial_stage(cx, id, Stage::Pausing { quick });
            return cx.set_deadline(id, Some(now + PACE));
        }
        self.offer(cx, id, quick);
    }

    fn redirected(&mut self, cx: &mut Peers<State>, id: Id, location: &str) {
        let Some((_, _, State::Dial(dial))) = cx.remove(id) else { return };
        if dial.redirects >= self.limits.redirects_max {
            return self.dial_failed(cx, &format!("gateway {} redirects in a circle: {} times", self.home.text, dial.redirects), None);
        }
        match dial.url.follow(location) {
            Err(e) => self.dial_failed(cx, &format!("gateway {} redirects to where this device cannot go: {e}", dial.url.text), None),
            Ok(url) => {
                log::info!("gateway {} redirects to {}", dial.url.text, url.text);
                let dial = Dial { url: Arc::new(url), redirects: dial.redirects + 1, addresses: Vec::new(), stage: Stage::Connecting };
                self.resolve(cx, Box::new(dial));
            }
        }
    }

    /// 401, 403, 404, 410: final for the first offer ever where the user wants that; weather after a success.
    fn refused(&mut self, cx: &mut Peers<State>, id: Id, status: u16) {
        let why = match status {
            401 => "401: no or a wrong credential; check the token",
            403 => "403: the credential is not for this name",
            404 => "404: it knows no such name, or this is the port of its visitors; devices use another (9999 unless changed)",
            _ => "410: the name is gone for good",
        };
        let asked = match cx.get(id).map(|p| &p.state) {
            Some(State::Dial(dial)) => dial.url.text.clone(),
            _ => return,
        };
        let text = format!("gateway {asked} refused the offer with {why}");
        cx.close(id);
        self.undialed();
        self.tell(DeviceEventKind::Refused { status }, &self.home.text, text.clone());
        if !self.welcomed && self.plan.on_refusal == OnRefusal::Stop {
            self.end_with(Error::refused(Fault::Gateway, status, text, None));
            return;
        }
        let pause = self.backoff.fail_for_long(random());
        log::warn!("{text}; next attempt in {:.0} s", pause.as_secs_f32());
        self.dial_later(cx, pause);
    }

    fn end_with(&mut self, error: Error) {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.stopped = true;
    }

    fn end_dial(&mut self, cx: &mut Peers<State>, id: Id, why: &str, retry_after: Option<Duration>) {
        let url = match cx.get(id).map(|p| &p.state) {
            Some(State::Dial(dial)) => dial.url.text.clone(),
            _ => return,
        };
        cx.close(id);
        self.dial_failed(cx, &format!("{url}: {why}"), retry_after);
    }

    fn dial_failed(&mut self, cx: &mut Peers<State>, why: &str, retry_after: Option<Duration>) {
        self.undialed();
        if self.draining {
            return;
        }
        let pause = self.backoff.fail(random(), retry_after);
        log::warn!("{why}; next attempt in {:.1} s", pause.as_secs_f32());
        self.tell(DeviceEventKind::Failed, &self.home.text, why.to_owned());
        self.dial_later(cx, pause);
    }

    /// A dial is over without a link; with the last one goes what a held offer had told.
    fn undialed(&mut self) {
        if self.shared.dialing.fetch_sub(1, Relaxed) == 1 {
            self.waiting = false;
        }
    }

    fn dial_later(&mut self, cx: &mut Peers<State>, pause: Duration) {
        let at = cx.after(pause);
        if self.not_before.is_none_or(|before| before < at) {
            self.not_before = Some(at);
            cx.alarm(at, DIAL);
        }
    }

    // --- links ---

    fn turned(&mut self, cx: &mut Peers<State>, id: Id) {
        let now = cx.now();
        let Some(peer) = cx.get_mut(id) else { return };
        let State::Dial(dial) = &peer.state else { return };
        let url = dial.url.clone();
        let link = Link { exchange: None, since: now, watched: false, began: false, used: false };
        peer.state = State::Link(link);
        cx.set_deadline(id, None);
        self.shared.dialing.fetch_sub(1, Relaxed);
        self.shared.links.fetch_add(1, Relaxed);
        (self.welcomed, self.waiting) = (true, false);
        if !self.connected {
            self.connected = true;
            self.tell(DeviceEventKind::Connected, &url.text, format!("{} turn", self.plan.offer.dialect.token));
        }
        self.top_up(cx);
        if self.draining {
            return self.link_gone(cx, id, "the device stops");
        }
        match &self.service {
            Service::Listen(_) => self.lend(cx, id, &[]),
            _ => self.link_idle(cx, id),
        }
    }

    /// The loop watches the link; what is there already is read.
    fn link_idle(&mut self, cx: &mut Peers<State>, id: Id) {
        let now = cx.now();
        let Some(peer) = cx.get_mut(id) else { return };
        let State::Link(link) = &mut peer.state else { return };
        (link.exchange, link.began) = (None, false);
        let silence = self.limits.silence;
        let at = (link.watched && !silence.is_zero()).then(|| now + silence);
        peer.settle();
        let more = peer.has_input();
        cx.set_deadline(id, at);
        if more {
            cx.again(id);
        }
    }

    fn link_gone(&mut self, cx: &mut Peers<State>, id: Id, why: &str) {
        let Some((_, _, State::Link(link))) = cx.remove(id) else { return };
        self.count_out(cx, &link, why);
    }

    fn count_out(&mut self, cx: &mut Peers<State>, link: &Link, why: &str) {
        log::debug!("a link ended: {why}");
        let left = self.shared.links.fetch_sub(1, Relaxed) - 1;
        if left == 0 && self.connected {
            self.connected = false;
            self.tell(DeviceEventKind::Disconnected, &self.home.text, why.to_owned());
        }
        let short = !link.used && cx.now().saturating_duration_since(link.since) < SHORT_LIFE;
        if !short {
            self.backoff.succeed();
        }
        if self.draining {
            return;
        }
        if short {
            let pause = self.backoff.fail(random(), None);
            self.dial_later(cx, pause);
        }
        self.top_up(cx);
    }

    fn link_ready(&mut self, cx: &mut Peers<State>, id: Id) {
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
            None | Some(Came::Request(_) | Came::NotYet) => {}
            Some(Came::Gone(why)) => self.link_gone(cx, id, &why),
            Some(Came::Heartbeat { close }) => self.answer_heartbeat(cx, id, close),
            Some(Came::Refused(refusal)) => {
                self.answer_link(cx, id, &LocalAnswer::new(refusal.status, &refusal.reason));
            }
            Some(Came::Forward(exchange)) => self.begin_forward(cx, id, *exchange),
        }
    }

    fn read_request(&mut self, cx: &mut Peers<State>, id: Id, scratch: &mut [u8]) -> Came {
        let now = cx.now();
        let Some(peer) = cx.get_mut(id) else { return Came::NotYet };
        let filled = match peer.fetch(scratch, self.limits.head_bytes_max + 1024) {
            Ok(Fetched::Octets(n)) => n,
            Ok(Fetched::Nothing) if peer.is_broken() => return Came::Gone("reset".into()),
            Ok(Fetched::Nothing) => return Came::NotYet,
            Ok(Fetched::End) => return Came::Gone("closed by the gateway".into()),
            Err(e) => return Came::Gone(format!("broken: {e}")),
        };
        let octets = &scratch[..filled];
        if octets == b"\r\n" {
            return Came::NotYet; // a stray line end behind an earlier message
        }
        match head::request(octets, &self.limits, LineEnds::Crlf) {
            Err(refusal) => {
                log::warn!("the gateway sent what is no request: {refusal}");
                Came::Refused(refusal)
            }
            Ok(None) if peer.at_end_of_stream() => Came::Gone("closed by the gateway in the middle of a request".into()),
            Ok(None) => {
                peer.keep(octets);
                let State::Link(link) = &mut peer.state else { return Came::NotYet };
                if !std::mem::replace(&mut link.began, true) {
                    cx.set_deadline(id, Some(cx.after(self.limits.head_timeout)));
                }
                Came::NotYet
            }
            Ok(Some(request)) => {
                if heartbeat::is_heartbeat(&request) {
                    peer.keep(&octets[request.len..]);
                    let close = !head::keeps_alive(request.minor, &request.fields);
                    return Came::Heartbeat { close };
                }
                let Service::Forward(target) = &self.service else { return Came::Request(filled) };
                match forward::plan(id, &request, target, &self.limits, now) {
                    Ok(exchange) => {
                        peer.keep(&octets[request.len..]);
                        Came::Forward(Box::new(exchange))
                    }
                    Err(refusal) => Came::Refused(refusal),
                }
            }
        }
    }

    fn answer_heartbeat(&mut self, cx: &mut Peers<State>, id: Id, close: bool) {
        let date = cx.date().to_owned();
        let Some(peer) = cx.get_mut(id) else { return };
        heartbeat::write_answer(peer.output(), &date, close);
        let sent = peer.flush().is_ok();
        if let State::Link(link) = &mut peer.state {
            link.watched = true;
        }
        if close || !sent {
            return self.link_ends(cx, id, "the gateway told it to go");
        }
        self.link_idle(cx, id);
    }

    /// Closes a link gently; another may be dialled at once.
    fn link_ends(&mut self, cx: &mut Peers<State>, id: Id, why: &str) {
        let Some(peer) = cx.get_mut(id) else { return };
        let State::Link(link) = peer.state else { return };
        peer.state = State::Lingering(Lingering::default());
        let at = cx.after(self.limits.linger_timeout);
        cx.set_deadline(id, Some(at));
        self.step_lingering(cx, id);
        self.count_out(cx, &link, why);
    }

    pub(super) fn answer_link(&mut self, cx: &mut Peers<State>, id: Id, answer: &LocalAnswer<'_>) {
        let date = cx.date().to_owned();
        let Some(peer) = cx.get_mut(id) else { return };
        answer.write(peer.output(), &date);
        let sent = peer.flush();
        match (answer.keep, sent) {
            (true, Ok(true)) => self.next(cx, id, true),
            _ => {
                self.relayed(cx, id);
                self.link_ends(cx, id, "after an answer that closes it");
            }
        }
    }

    /// An exchange that this loop relayed is over.
    fn relayed(&mut self, cx: &mut Peers<State>, id: Id) {
        let Some(State::Link(link)) = cx.get_mut(id).map(|p| &mut p.state) else { return };
        if link.exchange.take().is_some() {
            self.shared.busy.fetch_sub(1, Relaxed);
        }
    }

    pub(super) fn relaying(&mut self, cx: &mut Peers<State>, id: Id, key: Key) {
        if let Some(State::Link(link)) = cx.get_mut(id).map(|p| &mut p.state) {
            (link.exchange, link.used) = (Some(key), true);
            self.backoff.succeed();
            self.shared.busy.fetch_add(1, Relaxed);
            self.shared.exchanges.fetch_add(1, Relaxed);
        }
        if self.shared.is_short() {
            self.top_up(cx);
        }
    }

    /// Hands a link to program code: a handler on a worker, or a queue that the program reads.
    fn lend(&mut self, cx: &mut Peers<State>, id: Id, octets: &[u8]) {
        let Some((stream, kept, State::Link(mut link))) = cx.remove(id) else { return };
        if !octets.is_empty() {
            link.used = true;
            self.backoff.succeed(); // the gateway not only turns, it asks
        }
        if let Err(e) = stream.set_nonblocking(false) {
            return self.count_out(cx, &link, &format!("it cannot be made blocking: {e}"));
        }
        self.numbers += 1;
        let stream = Arc::new(stream);
        self.lent.insert(self.numbers, Arc::downgrade(&stream));
        let ticket = Ticket { remote: self.remote.clone(), number: self.numbers, link, shared: self.shared.clone() };
        let unread = if octets.is_empty() { kept } else { octets.to_vec() };
        let busy = matches!(self.service, Service::Receive(_)).then(|| ticket.busy());
        let loan = Loan { stream, unread, busy, ticket };
        // What cannot be handed over is dropped: its ticket tells the loop.
        match &self.service {
            Service::Handler(handler) => {
                let (handler, limits, workers) = (handler.clone(), self.limits.clone(), self.workers.clone());
                if !self.workers.submit(move || answer_with(&handler, loan, &limits, &workers)) {
                    log::error!("no worker thread could be started; a link is closed");
                }
            }
            Service::Receive(queue) | Service::Listen(queue) => {
                match queue.try_send(loan) {
                    Ok(()) => {}
                    Err(TrySendError::Full(_)) => log::error!("more links than MAX; one is closed"),
                    Err(TrySendError::Disconnected(_)) => self.stopped = true, // the program has dropped the device
                }
            }
            Service::Forward(_) => {}
        }
    }

    fn back(&mut self, cx: &mut Peers<State>, number: u64, stream: Stream, unread: &[u8], link: Link) {
        self.lent.remove(&number);
        if self.draining {
            return self.count_out(cx, &link, "the device stops");
        }
        match cx.insert(stream, unread, State::Link(link)) {
            Ok(id) => self.link_idle(cx, id),
            Err(e) => self.count_out(cx, &link, &format!("it could not come back to the event loop: {e}")),
        }
    }

    fn drain(&mut self, cx: &mut Peers<State>, time: Duration) {
        self.draining = true;
        self.shared.stopping.store(true, Relaxed);
        let at = cx.after(time);
        cx.alarm(at, STOP);
        for id in cx.ids() {
            match cx.get(id).map(|p| &p.state) {
                Some(State::Dial(_)) => {
                    cx.close(id);
                    self.shared.dialing.fetch_sub(1, Relaxed);
                }
                Some(State::Link(Link { exchange: None, .. })) => self.link_gone(cx, id, "the device stops"),
                Some(State::Local(Local::Idle)) => cx.close(id),
                _ => {}
            }
        }
    }

    fn stop(&mut self, cx: &mut Peers<State>) {
        self.stopped = true;
        for stream in self.lent.values().filter_map(Weak::upgrade) {
            if let Err(e) = stream.shutdown(std::net::Shutdown::Both) {
                log::debug!("a lent link was already closed: {e}");
            }
        }
        for id in cx.ids() {
            cx.close(id);
        }
    }

    fn step_lingering(&mut self, cx: &mut Peers<State>, id: Id) {
        relay::step_lingering(cx, id, &self.limits, |state| match state {
            State::Lingering(lingering) => Some(lingering),
            _ => None,
        });
    }
}

fn dial_stage(cx: &mut Peers<State>, id: Id, stage: Stage) {
    if let Some(State::Dial(dial)) = cx.get_mut(id).map(|p| &mut p.state) {
        dial.stage = stage;
    }
}

/// What an idle link brought.
enum Came {
    NotYet,
    Gone(String),
    Heartbeat {
        close: bool,
    },
    Refused(crate::error::Refusal),
    /// A whole head (so many octets of the scratch buffer) for program code.
    Request(usize),
    Forward(Box<Exchange>),
}

/// A worker's part: plain blocking code. It lingers on the link while nobody else needs the thread.
fn answer_with(handler: &Handler, loan: Loan, limits: &Arc<Limits>, workers: &Workers) {
    let Loan { stream, unread, ticket, .. } = loan;
    let mut link = DeviceLink::new(Shared::new(stream), unread, limits.clone());
    loop {
        let busy = ticket.busy();
        match link.next_head() {
            Ok(Next::Heartbeat) => {}
            Ok(Next::Closed) => return,
            Err(e) => return log::info!("a link ended: {e}"),
            Ok(Next::Request(request)) => {
                ticket.shared.exchanges.fetch_add(1, Relaxed);
                if let Err(e) = link.respond(ask_handler(handler, request)) {
                    return log::info!("a response could not be sent: {e}");
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
            Lingered::Ready => {}
            Lingered::Quiet => break,
            Lingered::Closed => return,
        }
    }
    let seen = link.has_seen_heartbeat();
    let (stream, unread) = link.into_parts();
    ticket.give_back(stream.into_inner(), unread, seen);
}

/// A panic costs this exchange: it is answered 500.
fn ask_handler(handler: &Handler, request: Request<Body>) -> Response<Body> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handler(request))) {
        Ok(response) if response.status().is_informational() => {
            log::error!("a handler returned the interim status {}; its request is answered with 500", response.status());
            super::internal_error()
        }
        Ok(response) => response,
        Err(_) => {
            log::error!("a handler panicked; its request is answered with 500");
            super::internal_error()
        }
    }
}

impl Role for DeviceRole {
    type State = State;
    type Command = Command;

    fn accepted(&mut self, _: &mut Peers<State>, _: usize, _: Stream, from: SocketAddr) {
        log::error!("a device has no listener, yet {from} was accepted"); // cannot be: it is given none
    }

    fn ready(&mut self, cx: &mut Peers<State>, id: Id) {
        let Some(peer) = cx.get(id) else { return };
        match &peer.state {
            State::Dial(_) => self.dial_ready(cx, id),
            State::Link(Link { exchange: Some(key), .. }) => {
                let key = *key;
                relay::advance(self, cx, key);
            }
            State::Link(_) => self.link_ready(cx, id),
            State::Local(_) => self.local_ready(cx, id),
            State::Lingering(_) => self.step_lingering(cx, id),
        }
    }

    fn expired(&mut self, cx: &mut Peers<State>, id: Id) {
        let Some(peer) = cx.get(id) else { return };
        match &peer.state {
            State::Dial(dial) => match dial.stage {
                Stage::Connecting => self.next_address(cx, id, io::ErrorKind::TimedOut.into()),
                Stage::Offered { .. } => self.end_dial(cx, id, "the gateway did not answer the offer within offer_timeout", None),
                Stage::Pausing { quick } => self.offer(cx, id, quick),
            },
            State::Link(Link { exchange: Some(key), .. }) => {
                let key = *key;
                match self.exchanges.get(key).is_some_and(Exchange::is_waiting) {
                    true => self.local_waited(cx, key),
                    false => relay::expired(self, cx, key),
                }
            }
            State::Link(Link { began: true, .. }) => {
                self.answer_link(cx, id, &LocalAnswer::new(408, "the request head was not whole within head_timeout"))
            }
            State::Link(_) => self.link_gone(cx, id, "nothing came for as long as silence allows"),
            State::Local(_) | State::Lingering(_) => cx.close(id),
        }
    }

    fn alarm(&mut self, cx: &mut Peers<State>, key: u64) {
        match key {
            DIAL => self.top_up(cx),
            _ => self.stop(cx),
        }
    }

    fn command(&mut self, cx: &mut Peers<State>, command: Command) {
        match command {
            Command::TopUp => self.top_up(cx),
            Command::Retry => {
                self.not_before = None;
                self.backoff.succeed();
                self.top_up(cx);
            }
            Command::Resolved { mut dial, found } => match found {
                _ if self.draining => {}
                Ok(addresses) => {
                    dial.addresses = addresses;
                    self.connect(cx, *dial, None);
                }
                Err(e) => self.dial_failed(cx, &format!("the host of {} cannot be looked up: {e}", dial.url.text), None),
            },
            Command::Back { number, back } => {
                let (stream, unread, link) = *back;
                self.back(cx, number, stream, &unread, link);
            }
            Command::Gone { number, link } => {
                if self.lent.remove(&number).is_some() {
                    self.count_out(cx, &link, "its exchange ended it");
                }
            }
            Command::Drain(time) if !self.draining => self.drain(cx, time),
            Command::Drain(time) => {
                let at = cx.after(time); // the earlier end holds
                cx.alarm(at, STOP);
            }
        }
    }

    fn finished(&self, cx: &Peers<State>) -> bool {
        self.stopped || (self.draining && cx.len() == 0 && self.lent.is_empty())
    }
}

impl Relaying for DeviceRole {
    fn exchanges(&mut self) -> &mut Slab<Exchange> {
        &mut self.exchanges
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.clone()
    }

    fn free(&mut self, cx: &mut Peers<State>, link: Id, reusable: Result<(), &'static str>) {
        self.local_free(cx, link, reusable);
    }

    fn retry(&mut self, cx: &mut Peers<State>, key: Key) {
        self.find_local(cx, key);
    }

    fn next(&mut self, cx: &mut Peers<State>, asking: Id, keep: bool) {
        self.relayed(cx, asking);
        match keep && !self.draining {
            true => self.link_idle(cx, asking),
            false => self.link_ends(cx, asking, "its last message said so"),
        }
    }

    fn answer(&mut self, cx: &mut Peers<State>, asking: Id, answer: &LocalAnswer<'_>) {
        self.answer_link(cx, asking, answer);
    }

    fn asker_gone(&mut self, cx: &mut Peers<State>, asking: Id, reset: bool) {
        self.relayed(cx, asking);
        let Some(State::Link(link)) = cx.get(asking).map(|p| &p.state) else { return };
        let link = *link;
        match reset {
            true => cx.reset(asking),
            false => cx.close(asking),
        }
        self.count_out(cx, &link, "an exchange on it failed half-way");
    }

    fn callers_wait(&self, _: &Peers<State>, _: Id) -> bool {
        false // the pool of local connections has no queue
    }
}
