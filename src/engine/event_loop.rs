//! The loop itself. Each turn waits, reads flags, steps connections, accepts, handles commands and
//! expires deadlines, in this order.
//!
//! It blocks only in `poll`, and never runs a user's code. A pause of more than a second (SIGSTOP,
//! suspend) is subtracted from its clock, so that deadlines shift by it, and bytes that have
//! arrived are read before any deadline expires.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::clock::{Clock, Ticker};
use crate::engine::connection::Connection;
use crate::engine::connections::{Connections, Id, LISTENERS_MAX, Watcher};
use crate::engine::group::Group;
use crate::engine::handshakes::Handshakes;
use crate::engine::pair_network::PairListener;
use crate::engine::role::Role;
use crate::engine::time;
use crate::engine::timers::Timer;
use crate::limits::Limits;
use crate::stream::{Stream, is_exhausted};

const WAKER: Token = Token(usize::MAX);
/// Listeners count down from here; connection keys stay below (`Slab::CEILING`).
const LISTENERS: usize = usize::MAX - 1;
const ACCEPTS_PER_TURN: usize = 64;
const COMMANDS_PER_TURN: usize = 1024;
/// The bytes that one connection may move in a turn of the loop before others have theirs: some 30
/// µs.
pub(crate) const SHARE: usize = 128 * 1024;
/// The bytes that all connections that have used up their share may move in a turn with one event.
const STREAMS_PER_TURN: usize = 2 * SHARE;
/// Further bytes for each event: they take about as long as an event.
const STREAMS_PER_EVENT: usize = 16 * 1024;
/// The minimum number of bytes for which a step counts.
const STEP_LEAST: usize = 4 * 1024;
/// How long accepting pauses when descriptors or permits have run out, unless a connection closes
/// before.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Longer pauses are subtracted from the loop's clock.
const AWAY: Duration = Duration::from_secs(1);
/// The longest sleep. If a process is stopped during a sleep and an event wakes it, it notices the
/// pause only if the sleep should have ended before.
const SLEEP_MAX: Duration = Duration::from_secs(5);

/// Sends commands of other threads to a loop. Clones share it.
///
/// The queue needs no separate bound: the sender of a command waits for its answer, returns
/// something that was handed out, or has only one command in the queue. So there are never more
/// commands than callers, links and jobs, which are bounded.
pub(crate) struct Remote<C> {
    sender: Sender<C>,
    /// `None` in the simulation, which checks the commands of every loop itself.
    waker: Option<Arc<Waker>>,
    awake: Arc<AtomicBool>,
}

impl<C> Clone for Remote<C> {
    fn clone(&self) -> Self {
        Remote { sender: self.sender.clone(), waker: self.waker.clone(), awake: self.awake.clone() }
    }
}

impl<C> Remote<C> {
    /// Sends a command. Returns false if the loop has ended.
    pub(crate) fn send(&self, command: C) -> bool {
        if self.sender.send(command).is_err() {
            return false;
        }
        self.wake();
        true
    }

    /// Makes the loop take a turn, in which it notices changes made elsewhere.
    pub(crate) fn wake(&self) {
        if !self.awake.swap(true, Ordering::AcqRel) {
            if let Some(Err(e)) = self.waker.as_ref().map(|waker| waker.wake()) {
                log::error!("the event loop could not be woken: {e}");
            }
        }
    }

    /// The sender and receiver for a loop that is driven by hand.
    #[cfg(test)]
    pub(crate) fn simulated() -> (Self, Receiver<C>) {
        let (sender, commands) = unbounded();
        (Remote { sender, waker: None, awake: Arc::default() }, commands)
    }
}

/// Polls for events instead of sleeping, as long as that pays.
struct Spinning {
    time: Duration,
    misses: u32,
    /// The number of sleeps before the next attempt.
    skip: u32,
}

impl Spinning {
    fn new(time: Duration) -> Self {
        Spinning { time, misses: 0, skip: 0 }
    }

    /// Returns true if it found events. After each failed attempt, twice as many sleeps go by
    /// before the next one, up to 255: an idle or slow loop does not spin, and a busy one goes on
    /// at once.
    fn find(&mut self, poll: &mut Poll, events: &mut Events) -> io::Result<bool> {
        if self.time.is_zero() || self.skip > 0 {
            self.skip = self.skip.saturating_sub(1);
            return Ok(false);
        }
        let end = Instant::now() + self.time;
        loop {
            // First, so that peers on the same processors add more events for one call of `poll`.
            std::thread::yield_now();
            match poll.poll(events, Some(Duration::ZERO)) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
                _ => {}
            }
            if !events.is_empty() {
                self.misses = 0;
                return Ok(true);
            }
            if Instant::now() >= end {
                break;
            }
        }
        self.misses = (self.misses + 1).min(8);
        self.skip = (1 << self.misses) - 1;
        Ok(false)
    }
}

struct Listening {
    listener: TcpListener,
    pending: bool,
    waiting: Waiting,
    /// No connection is accepted here before this time, unless another one closes.
    paused_until: Option<Instant>,
    pause_logged: bool,
}

/// Whether a connection waits to be accepted although there is no room for it. An event alone does
/// not show that, because several loops get an event for the same connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Unknown,
    /// The operating system was asked: if a connection waits, an event of the next turn reports it.
    Asked,
    Yes,
}

/// A loop that is not running yet.
pub(crate) struct EventLoop<R: Role> {
    poll: Poll,
    connections: Connections<R::State>,
    /// By number; `None` if closed.
    listeners: Vec<Option<Listening>>,
    spinning: Spinning,
    commands: Receiver<R::Command>,
    awake: Arc<AtomicBool>,
    /// Its clock, if a test drives it.
    ticker: Option<Ticker>,
    /// The queue of connections from within this process, which count as accepted by the listener
    /// of this number.
    pair_listener: Option<(Arc<PairListener>, usize)>,
}

impl<R: Role> EventLoop<R> {
    /// A single loop without listeners, and the sender of its commands.
    pub(crate) fn new(limits: &Limits) -> io::Result<(Self, Remote<R::Command>)> {
        Self::of_group(limits, Group::new(1, limits), 0)
    }

    /// The same for the loop of this number in a group.
    pub(crate) fn of_group(
        limits: &Limits,
        group: Arc<Group>,
        number: usize,
    ) -> io::Result<(Self, Remote<R::Command>)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (sender, commands) = unbounded();
        let awake = Arc::new(AtomicBool::new(false));
        let handshakes = Handshakes::new(limits, Some(waker.clone()), awake.clone(), group.clone());
        let connections = Connections::new(
            Watcher::System(poll.registry().try_clone()?),
            limits.connections_max,
            handshakes,
            (group, number),
        );
        let remote = Remote { sender, waker: Some(waker), awake: awake.clone() };
        Ok((
            EventLoop {
                poll,
                connections,
                listeners: Vec::new(),
                spinning: Spinning::new(limits.spin),
                commands,
                awake,
                ticker: None,
                pair_listener: None,
            },
            remote,
        ))
    }

    /// Adds a bound listener before the loop runs. Returns false if it has the most listeners
    /// already.
    pub(crate) fn listen(&mut self, listener: TcpListener) -> bool {
        self.connections.listen(listener).is_some()
    }

    /// Uses a test's clock.
    pub(crate) fn follow(&mut self, clock: &Clock, remote: &Remote<R::Command>) {
        self.ticker = remote.waker.clone().map(|waker| clock.join(waker));
        self.connections.begin_at(clock.now());
    }

    /// Adds a queue for connections from within this process, before the loop runs; it counts as a
    /// listener.
    pub(crate) fn open(&mut self, remote: &Remote<R::Command>) -> Option<Weak<PairListener>> {
        let pair_listener = PairListener::new(remote.waker.clone()?)?;
        let number = self.connections.reserve_listener()?;
        let opened = Arc::downgrade(&pair_listener);
        self.pair_listener = Some((pair_listener, number));
        Some(opened)
    }

    /// Sets an alarm before the loop runs.
    pub(crate) fn alarm(&mut self, after: Duration, key: u64) {
        let at = self.connections.after(after);
        self.connections.alarm(at, key);
    }

    /// Runs until the role is finished.
    ///
    /// # Errors
    /// The operating system's poll failed for another reason than a signal.
    pub(crate) fn run(mut self, mut role: R) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut last = Instant::now();
        while !role.finished(&self.connections) {
            self.change_listeners();
            let mut is_quiet = false;
            if self.ticker.is_none() {
                last = self.wait(&mut events, last)?;
            } else {
                is_quiet = self.wait_for_ticks(&mut events)?;
            }
            step_ready(&mut self.connections, &mut role, events.iter().count());
            for event in &events {
                self.note(&mut role, event);
            }
            self.accept(&mut role);
            self.awake.store(false, Ordering::Release);
            handle_commands(&mut self.connections, &mut role, &self.commands);
            expire(&mut self.connections, &mut role);
            if let Some(ticker) = &self.ticker {
                ticker.end(is_quiet, self.connections.timers.next());
            }
        }
        time::set_turn(None);
        role.ended();
        Ok(())
    }

    /// Waits until there is something to do, sets the clock, and returns the time. `last` is the
    /// previous such time.
    fn wait(&mut self, events: &mut Events, last: Instant) -> io::Result<Instant> {
        let mut timeout = Some(self.timeout().map_or(SLEEP_MAX, |time| time.min(SLEEP_MAX)));
        let before = Instant::now();
        let found =
            timeout != Some(Duration::ZERO) && self.spinning.find(&mut self.poll, events)?;
        if found {
            timeout = Some(Duration::ZERO);
        } else {
            self.sleep(events, timeout)?;
        }
        let now = Instant::now();
        time::set_turn(Some(now));
        self.set_clock(last, before, now, timeout);
        Ok(now)
    }

    fn sleep(&mut self, events: &mut Events, mut wait: Option<Duration>) -> io::Result<()> {
        loop {
            match self.poll.poll(events, wait) {
                // A signal is not an event; poll once more for events that have arrived meanwhile.
                Err(e) if e.kind() == io::ErrorKind::Interrupted => wait = Some(Duration::ZERO),
                other => return other,
            }
        }
    }

    /// The same on a test's clock, which another thread moves. Returns false if there is something to do.
    fn wait_for_ticks(&mut self, events: &mut Events) -> io::Result<bool> {
        let Some(mut ticker) = self.ticker.take() else { return Ok(false) };
        let is_awaited = ticker.begin();
        let has_work = |this: &Self| {
            let is_due = this.connections.timers.next().is_some_and(|at| at <= ticker.now());
            let has_arrivals = this
                .pair_listener
                .as_ref()
                .is_some_and(|(pair_listener, _)| !pair_listener.is_empty());
            is_due || has_arrivals || this.timeout() == Some(Duration::ZERO)
        };
        let is_busy = has_work(self);
        let sleeps = !is_awaited && !is_busy;
        self.sleep(events, (!sleeps).then_some(Duration::ZERO))?;
        self.connections.set_clock(ticker.now(), Duration::ZERO);
        let is_quiet =
            !is_busy && !has_work(self) && events.iter().all(|event| event.token() == WAKER);
        self.ticker = Some(ticker);
        Ok(is_quiet)
    }

    /// How long `poll` may wait; `None` means until an event.
    fn timeout(&self) -> Option<Duration> {
        if self.connections.is_eager()
            || !self.commands.is_empty()
            || !self.connections.handshakes.computed.is_empty()
        {
            return Some(Duration::ZERO);
        }
        let mut at = self.connections.timers.next();
        for listening in self.listeners.iter().flatten().filter(|l| l.pending) {
            match listening.paused_until {
                Some(paused) if !self.connections.closed_some => {
                    at = Some(at.map_or(paused, |at| at.min(paused)))
                }
                _ => return Some(Duration::ZERO),
            }
        }
        // `poll` counts in milliseconds; without rounding up, it would return before the deadline.
        at.map(|at| at.saturating_duration_since(self.connections.now()) + Duration::from_millis(1))
    }

    fn change_listeners(&mut self) {
        for (number, change) in std::mem::take(&mut self.connections.listener_changes) {
            if self.listeners.len() <= number {
                self.listeners.resize_with(number + 1, || None);
            }
            self.listeners[number] = None; // closing a descriptor removes it from epoll and kqueue
            let Some(listener) = change else { continue };
            let token = Token(LISTENERS - number);
            let watched = listener.set_nonblocking(true).and_then(|()| {
                self.poll.registry().register(
                    &mut SourceFd(&listener.as_raw_fd()),
                    token,
                    Interest::READABLE,
                )
            });
            if let Err(e) = watched {
                log::error!("a listener cannot be watched, nothing will be accepted on it: {e}");
            }
            self.listeners[number] = Some(Listening {
                listener,
                pending: true,
                waiting: Waiting::Unknown,
                paused_until: None,
                pause_logged: false,
            });
        }
        if !self.connections.listening {
            self.listeners.clear();
            self.connections.listeners_closed();
        }
    }

    fn set_clock(
        &mut self,
        last: Instant,
        before: Instant,
        now: Instant,
        timeout: Option<Duration>,
    ) {
        let mut away = Duration::ZERO;
        let worked = before - last;
        if worked > AWAY {
            away += worked;
        }
        if let Some(timeout) = timeout {
            let overslept = (now - before).saturating_sub(timeout);
            if overslept > AWAY {
                away += overslept;
            }
        }
        if !away.is_zero() {
            log::warn!(
                "the event loop stood still for {:.1} s (the process was stopped, or the machine busy); deadlines shift by that time, and the other side may have given up meanwhile",
                away.as_secs_f64()
            );
        }
        self.connections.set_clock(now, away);
    }

    fn note(&mut self, role: &mut R, event: &mio::event::Event) {
        let token = event.token();
        if token == WAKER {
            return; // its commands are handled below, every turn
        }
        if token.0 > LISTENERS - LISTENERS_MAX {
            if let Some(Some(listening)) = self.listeners.get_mut(LISTENERS - token.0) {
                listening.pending = true;
                if listening.waiting == Waiting::Asked {
                    listening.waiting = Waiting::Yes;
                }
            }
            return;
        }
        let id = Id::from_bits(token.0);
        if self.connections.note(id, event.into()) {
            ready(&mut self.connections, role, id);
        }
    }

    fn accept(&mut self, role: &mut R) {
        let (closed_some, now) =
            (std::mem::take(&mut self.connections.closed_some), self.connections.now());
        for n in 0..self.listeners.len() {
            let Some(listening) = &mut self.listeners[n] else { continue };
            if listening.paused_until.is_some_and(|until| until > now && !closed_some) {
                continue;
            }
            listening.paused_until = None;
            if listening.waiting == Waiting::Asked {
                listening.waiting = Waiting::Unknown; // no connection waits: there was no event
                listening.pause_logged = false; // the next pause is logged again
            }
            for _ in 0..ACCEPTS_PER_TURN {
                let is_pending = self.listeners[n].as_ref().is_some_and(|l| l.pending);
                if !is_pending || !self.accept_one(role, n) {
                    break;
                }
            }
        }
        if self.pair_listener.is_some() {
            self.accept_within(role);
        }
    }

    /// Accepts connections from within this process. If one is not admitted, it is closed: there is
    /// no backlog to leave it in.
    fn accept_within(&mut self, role: &mut R) {
        const FROM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        let Some((pair_listener, number)) = self.pair_listener.clone() else { return };
        while let Some(stream) = pair_listener.take() {
            let is_admitted = self.connections.listening;
            if is_admitted && role.admits(&mut self.connections, number).is_ok() {
                role.accepted(&mut self.connections, number, stream, FROM);
            }
        }
    }

    /// Returns false if there is no connection to accept here now.
    fn accept_one(&mut self, role: &mut R, n: usize) -> bool {
        if let Err(why) = role.admits(&mut self.connections, n) {
            if self.is_kept_waiting(n) {
                role.crowded(&mut self.connections, n);
                self.pause_accepting(n, why);
            }
            return false;
        }
        let Some(listening) = &mut self.listeners[n] else { return false };
        listening.waiting = Waiting::Unknown; // this may be the connection that waited
        let accepted: io::Result<(Stream, SocketAddr)> =
            listening.listener.accept().and_then(|(stream, from)| {
                stream.set_nonblocking(true)?;
                let stream = Stream::from(stream);
                stream.tune()?;
                Ok((stream, from))
            });
        match accepted {
            Ok((stream, from)) => {
                role.accepted(&mut self.connections, n, stream, from);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                listening.pending = false;
                listening.pause_logged = false;
            }
            // Wait until something closes instead of spinning on a listener that stays ready.
            Err(e) if is_exhausted(&e) => {
                if !role.spares(&mut self.connections) {
                    self.pause_accepting(n, &e.to_string());
                }
            }
            Err(e) => log::debug!("accepting a connection failed: {e}"), // it was aborted before it was accepted; the next one may work
        }
        self.listeners[n].as_ref().is_some_and(|l| l.pending && l.paused_until.is_none())
    }

    /// Returns true if a connection certainly waits at this listener. If that is unknown, the
    /// operating system is asked by registering the listener again.
    fn is_kept_waiting(&mut self, n: usize) -> bool {
        let Some(listening) = &mut self.listeners[n] else { return false };
        if listening.waiting == Waiting::Yes {
            listening.waiting = Waiting::Unknown; // until the end of the pause
            return true;
        }
        let asked = self.poll.registry().reregister(
            &mut SourceFd(&listening.listener.as_raw_fd()),
            Token(LISTENERS - n),
            Interest::READABLE,
        );
        if asked.is_ok() {
            listening.waiting = Waiting::Asked;
            listening.pending = false;
        }
        asked.is_err()
    }

    fn pause_accepting(&mut self, n: usize, why: &str) {
        let Some(Listening { listener, pause_logged, paused_until, .. }) = &mut self.listeners[n]
        else {
            return;
        };
        if !std::mem::replace(pause_logged, true) {
            let at =
                listener.local_addr().map_or_else(|_| "a listener".to_owned(), |at| at.to_string());
            log_names!(Warn, "accepting at {at} pauses until a connection closes: {why}");
        }
        *paused_until = Some(self.connections.now() + ACCEPT_PAUSE);
    }
}

// The parts of a turn that need no operating system. The simulation uses them, too.

/// A step of a connection, or of its TLS handshake.
pub(super) fn ready<R: Role>(connections: &mut Connections<R::State>, role: &mut R, id: Id) {
    if !connections.is_shaking(id) {
        role.ready(connections, id);
    } else if let Some(outcome) = connections.shake(id) {
        role.secured(connections, id, outcome);
    }
    connections.resume(id);
    connections.tally(id);
}

/// Steps of the connections that requested them: all that moved few bytes, and as many streams as
/// take about as long as the turn's `events`. So a stream's share of the loop is bounded by bytes,
/// small requests wait for a few shares and not for all streams, and a flood of small requests
/// leaves streams half of the loop.
pub(super) fn step_ready<R: Role>(
    connections: &mut Connections<R::State>,
    role: &mut R,
    events: usize,
) {
    for _ in 0..connections.again.len() {
        let Some(id) = connections.again.pop_front() else { break };
        if connections.unqueue(id) {
            ready(connections, role, id);
        }
    }
    let moved = |connections: &Connections<R::State>, id| {
        connections.get(id).map_or(0, Connection::traffic)
    };
    let mut left = STREAMS_PER_TURN.saturating_add(events.saturating_mul(STREAMS_PER_EVENT));
    for _ in 0..connections.yielded.len() {
        let Some(id) = connections.yielded.pop_front() else { break };
        if connections.unqueue(id) {
            let before = moved(connections, id);
            ready(connections, role, id);
            let moved = moved(connections, id).saturating_sub(before);
            left = left.saturating_sub(usize::try_from(moved).unwrap_or(left).max(STEP_LEAST));
        }
        if left == 0 {
            break;
        }
    }
}

pub(super) fn handle_commands<R: Role>(
    connections: &mut Connections<R::State>,
    role: &mut R,
    commands: &Receiver<R::Command>,
) {
    for _ in 0..COMMANDS_PER_TURN {
        let Some(id) = connections.next_computed() else { break };
        ready(connections, role, id);
    }
    for command in commands.try_iter().take(COMMANDS_PER_TURN) {
        role.command(connections, command);
    }
}

pub(super) fn expire<R: Role>(connections: &mut Connections<R::State>, role: &mut R) {
    // A timer that is due again at once is handled after all others.
    for _ in 0..connections.timers.len() {
        let Some((at, timer)) = connections.timers.pop_due(connections.now()) else { break };
        match timer {
            Timer::Connection(bits) => {
                let id = Id::from_bits(bits);
                if connections.due(id, at) {
                    role.expired(connections, id);
                    connections.tally(id);
                }
            }
            Timer::Alarm(key) => role.alarm(connections, key),
        }
    }
}

#[cfg(test)]
mod tests;
