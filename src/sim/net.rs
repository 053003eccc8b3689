//! The simulated network: sockets in memory that behave like TCP without blocking, a clock, and a
//! list of coming events.
//!
//! Nothing here knows of HTTP. Delays, splits and failures are drawn from one stream of random
//! numbers, so that a seed decides everything.

mod jobs;
mod socket;
mod story;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

pub(crate) use self::jobs::submit;
use self::jobs::{Job, Jobs};
pub(crate) use self::socket::Socket;
use crate::engine::connection::Readiness;
use crate::sim::rng::Rng;

/// Virtual time since the start of the run.
pub(crate) type Micros = u64;
pub(crate) const MILLI: Micros = 1_000;
pub(crate) const SECOND: Micros = 1_000_000;

thread_local!(static NET: RefCell<Option<Net>> = const { RefCell::new(None) });

/// Installs a network in this thread, or removes it.
pub(crate) fn install(net: Option<Net>) -> Option<Net> {
    NET.with(|cell| std::mem::replace(&mut *cell.borrow_mut(), net))
}

/// Accesses this thread's network.
pub(crate) fn with<T>(work: impl FnOnce(&mut Net) -> T) -> T {
    NET.with(|cell| work(cell.borrow_mut().as_mut().expect("no simulated network on this thread")))
}

fn if_any<T>(work: impl FnOnce(&mut Net) -> T) -> Option<T> {
    NET.try_with(|cell| cell.try_borrow_mut().ok().and_then(|mut net| net.as_mut().map(work)))
        .ok()
        .flatten()
}

/// Random bytes, if a network is installed.
pub(crate) fn fill_random(bytes: &mut [u8]) -> bool {
    if_any(|net| bytes.iter_mut().for_each(|byte| *byte = net.rng.next() as u8)).is_some()
}

/// The time of day, if a network is installed: it stands still.
pub(crate) fn second() -> Option<u64> {
    if_any(|_| 1_790_000_000)
}

/// The time, if a network is installed.
pub(crate) fn instant() -> Option<Instant> {
    if_any(|net| net.instant(net.now))
}

/// Begins a connection, if a network is installed.
pub(crate) fn connect(to: SocketAddr) -> Option<Socket> {
    if_any(|net| net.connect(to))
}

/// The two ends of a connection within one process, if a network is installed.
pub(crate) fn pair() -> Option<(Socket, Socket)> {
    if_any(Net::pair)
}

/// Appends a line to the story of this run, if it is recorded.
pub(crate) fn tell(line: impl FnOnce() -> String) {
    if_any(|net| net.tell(line));
}

/// The failures and delays of the network.
#[derive(Clone, Debug)]
pub(crate) struct Conditions {
    /// Connections in a thousand that are cut at some byte.
    pub(crate) cuts: u64,
    /// Connection attempts in a thousand that are refused, or never answered.
    pub(crate) refusals: u64,
    /// The longest delay of a segment.
    pub(crate) delay: Micros,
    /// Bytes of one write may arrive in several segments.
    pub(crate) splits: bool,
    /// Connections in a thousand with a buffer of a few hundred bytes.
    pub(crate) narrow: u64,
    /// The longest time until a job is done.
    pub(crate) work: Micros,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// Both ends are reset.
    Reset,
    /// Both ends see an end; later writes are answered with a reset.
    End,
    /// The receiving end sees an end; the bytes that the other one continues to write are lost.
    HalfEnd,
    /// Nothing is delivered for a while.
    Hole(Micros),
    /// Nothing is delivered any longer; both ends get an error after a while.
    Dead(Micros),
}

#[derive(Clone, Copy, Debug)]
struct Cut {
    /// The direction, by the side that reads.
    to: usize,
    at: u64,
    how: Failure,
}

/// Which directions have ended at one end of a connection.
#[derive(Debug, Default)]
struct Over {
    /// The other side's end was delivered.
    fin: bool,
    /// Both directions have failed.
    dead: bool,
    /// Its own direction was shut down.
    shut: bool,
    /// It is closed with a reset.
    aborts: bool,
}

#[derive(Debug, Default)]
struct End {
    over: Over,
    /// Bytes that were delivered and not read.
    rx: VecDeque<u8>,
    error: Option<ErrorKind>,
    handles: usize,
    opened: bool,
    connected: bool,
    /// Bytes in transit to this end, and bytes delivered here in total.
    on_way: usize,
    delivered: u64,
    last_at: Micros,
    /// Its owner has filled the buffer, and waits until it is writable again.
    starved: bool,
    watch: Option<(usize, usize)>,
    queued: bool,
}

#[derive(Debug)]
struct Conn {
    ends: [End; 2],
    window: usize,
    delay: (Micros, Micros),
    splits: bool,
    cut: Option<Cut>,
    hole_until: Micros,
    /// An intermediary drops all further bytes.
    severed: bool,
    /// Within one process: no delay, no failure.
    local: bool,
    from: SocketAddr,
    to: SocketAddr,
}

/// An event at a time.
#[derive(Debug)]
pub(crate) enum Event {
    Segment {
        conn: usize,
        to: usize,
        bytes: Vec<u8>,
    },
    Fin {
        conn: usize,
        to: usize,
    },
    Reset {
        conn: usize,
        to: usize,
        kind: ErrorKind,
    },
    Room {
        conn: usize,
        side: usize,
    },
    /// A segment or an end that was held back.
    Held(Box<Event>),
    Syn {
        conn: usize,
    },
    Refuse {
        conn: usize,
    },
    /// A node handles its pending events.
    Turn(usize),
    /// A node's wake-up, with a word that the node has chosen.
    Wake(usize, u64),
    /// A node's job is done.
    Job(u64),
}

#[derive(Debug, Default)]
struct Node {
    label: String,
    address: Option<IpAddr>,
    ready: Vec<(usize, usize)>,
    backlog: VecDeque<(usize, usize)>,
    turn: bool,
}

#[derive(Debug)]
pub(crate) struct Net {
    began: Instant,
    pub(crate) now: Micros,
    pub(crate) rng: Rng,
    pub(crate) conditions: Conditions,
    conns: Vec<Conn>,
    queue: BTreeMap<(Micros, u64), Event>,
    happened: u64,
    nodes: Vec<Node>,
    listeners: BTreeMap<SocketAddr, (usize, usize)>,
    jobs: Jobs,
    /// The loop that runs now; it owns new connections.
    pub(crate) current: usize,
    /// `None`: the story is not recorded.
    pub(crate) story: Option<Vec<String>>,
    /// The fingerprint of all events in their order.
    pub(crate) fingerprint: u64,
}

impl Net {
    pub(crate) fn new(rng: Rng, conditions: Conditions, told: bool) -> Self {
        Net {
            began: Instant::now(),
            now: 0,
            rng,
            conditions,
            conns: Vec::new(),
            queue: BTreeMap::new(),
            happened: 0,
            nodes: Vec::new(),
            listeners: BTreeMap::new(),
            jobs: Jobs::default(),
            current: 0,
            story: told.then(Vec::new),
            fingerprint: 0xCBF2_9CE4_8422_2325,
        }
    }

    pub(crate) fn add_node(&mut self, label: impl Into<String>, address: Option<IpAddr>) -> usize {
        self.nodes.push(Node { label: label.into(), address, ..Node::default() });
        self.nodes.len() - 1
    }

    pub(crate) fn label(&self, node: usize) -> &str {
        &self.nodes[node].label
    }

    pub(crate) fn listen(&mut self, at: SocketAddr, node: usize, listener: usize) {
        self.listeners.insert(at, (node, listener));
    }

    /// Stops injecting failures.
    pub(crate) fn calm(&mut self) {
        (self.conditions.cuts, self.conditions.refusals) = (0, 0);
        self.conns.iter_mut().for_each(|conn| conn.cut = None);
        self.tell(|| "--- the network is calm from here on ---".to_owned());
    }

    // --- time ---

    pub(crate) fn instant(&self, at: Micros) -> Instant {
        self.began + Duration::from_micros(at)
    }

    /// The virtual time of an instant.
    pub(crate) fn micros(&self, at: Instant) -> Micros {
        at.saturating_duration_since(self.began).as_nanos().div_ceil(1000) as Micros
    }

    pub(crate) fn at(&mut self, when: Micros, what: Event) {
        self.happened += 1;
        self.queue.insert((when.max(self.now), self.happened), what);
    }

    pub(crate) fn next_at(&self) -> Option<Micros> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// Schedules a turn of a node.
    pub(crate) fn wants_turn(&mut self, node: usize) {
        if !std::mem::replace(&mut self.nodes[node].turn, true) {
            let latency = if self.rng.permille(50) {
                self.rng.range(1, 3 * MILLI)
            } else {
                self.rng.range(1, 40)
            };
            self.at(self.now + latency, Event::Turn(node));
        }
    }

    /// The next event for a node, at or before `until`.
    pub(crate) fn step(&mut self, until: Micros) -> Option<Event> {
        while self.next_at().is_some_and(|at| at <= until) {
            let ((at, _), what) = self.queue.pop_first()?;
            self.now = at;
            let Some(what) = self.past_holes(what) else { continue };
            self.note(&what);
            match what {
                Event::Segment { conn, to, bytes } => self.arrive(conn, to, bytes),
                Event::Fin { conn, to } => self.arrive_fin(conn, to),
                Event::Reset { conn, to, kind } => self.arrive_reset(conn, to, kind),
                Event::Room { conn, side } => self.notify(conn, side),
                Event::Syn { conn } => self.arrive_syn(conn),
                Event::Refuse { conn } => self.arrive_reset(conn, 0, ErrorKind::ConnectionRefused),
                Event::Turn(node) => {
                    self.nodes[node].turn = false;
                    return Some(Event::Turn(node));
                }
                done @ (Event::Wake(..) | Event::Job(_)) => return Some(done),
                Event::Held(_) => {}
            }
        }
        None
    }

    /// Holds back what arrives during a stall until its end, in order. `None`: it is held back.
    fn past_holes(&mut self, what: Event) -> Option<Event> {
        let (what, held) = match what {
            Event::Held(what) => (*what, true),
            what => (what, false),
        };
        let (Event::Segment { conn, .. } | Event::Fin { conn, .. }) = &what else {
            return Some(what);
        };
        let hole = self.conns[*conn].hole_until;
        // At the last instant of the stall, too: held bytes go before those that arrive just then.
        if hole == 0 || hole < self.now || (held && hole == self.now) {
            return Some(what);
        }
        self.at(hole, Event::Held(Box::new(what)));
        None
    }

    // --- what nodes see ---

    fn notify(&mut self, conn: usize, side: usize) {
        let end = &mut self.conns[conn].ends[side];
        let Some((node, _)) = end.watch else { return };
        if !std::mem::replace(&mut end.queued, true) {
            self.nodes[node].ready.push((conn, side));
        }
        self.wants_turn(node);
    }

    fn readiness(&self, conn: usize, side: usize) -> Readiness {
        let (end, other) = (&self.conns[conn].ends[side], &self.conns[conn].ends[1 - side]);
        let room = self.conns[conn].window.saturating_sub(other.rx.len() + other.on_way);
        let (over, error) = (&end.over, end.error.is_some());
        Readiness {
            readable: !end.rx.is_empty() || over.fin || over.dead || error,
            writable: over.dead
                || (end.connected && room > 0 && room >= self.conns[conn].window / 3)
                || error,
            closing: over.fin || over.dead || error,
            broken: over.dead || (over.fin && over.shut) || error,
        }
    }

    /// The sockets of a node that have become ready since its last call, as one wait on epoll would
    /// report them.
    pub(crate) fn take_ready(&mut self, node: usize) -> Vec<(usize, Readiness)> {
        let mut ready = std::mem::take(&mut self.nodes[node].ready);
        if ready.len() > 1 && self.rng.permille(100) {
            let at = self.rng.size(0, ready.len() - 1);
            ready.rotate_left(at);
        }
        let mut found = Vec::with_capacity(ready.len());
        for (conn, side) in ready {
            self.conns[conn].ends[side].queued = false;
            let current = self.readiness(conn, side);
            match self.conns[conn].ends[side].watch {
                _ if current == Readiness::default() => {}
                Some((of, token)) if of == node => found.push((token, current)),
                Some(_) => self.notify(conn, side), // it has moved to another loop in the meantime
                None => {}
            }
        }
        found
    }

    /// Accepts a connection: the listener's number, the socket, the client's address.
    pub(crate) fn accept(&mut self, node: usize) -> Option<(usize, Socket, SocketAddr)> {
        let (listener, conn) = self.nodes[node].backlog.pop_front()?;
        let end = &mut self.conns[conn].ends[1];
        (end.handles, end.opened) = (1, true);
        Some((listener, Socket { conn, side: 1 }, self.conns[conn].from))
    }

    /// Removes a node with its listeners and pending connections. Returns its unfinished jobs, which
    /// may only be dropped when the network is not borrowed.
    pub(crate) fn lose_node(&mut self, node: usize) -> Vec<Job> {
        self.listeners.retain(|_, (owner, _)| *owner != node);
        while let Some((_, conn)) = self.nodes[node].backlog.pop_front() {
            self.conns[conn].ends[1].opened = true;
            self.reset_other(conn, 1);
        }
        self.jobs.lose(node)
    }

    /// The open sockets, by connection.
    pub(crate) fn open(&self) -> Vec<String> {
        let any = |conn: &Conn| conn.ends.iter().any(|end| end.handles > 0);
        self.conns
            .iter()
            .enumerate()
            .filter(|(_, conn)| any(conn))
            .map(|(n, _)| self.transport(n, 1))
            .collect()
    }

    /// Applies a failure to every connection of an address.
    pub(crate) fn strike(&mut self, address: IpAddr, hole: Option<Micros>) {
        for n in 0..self.conns.len() {
            let conn = &mut self.conns[n];
            if conn.local
                || (conn.from.ip() != address && conn.to.ip() != address)
                || conn.ends.iter().all(|end| end.handles == 0)
            {
                continue;
            }
            match hole {
                Some(time) => conn.hole_until = conn.hole_until.max(self.now + time),
                None => [0, 1].into_iter().for_each(|to| {
                    self.at(
                        self.now,
                        Event::Reset { conn: n, to, kind: ErrorKind::ConnectionReset },
                    )
                }),
            }
        }
    }

    // --- connections ---

    fn push(&mut self, conn: Conn) -> usize {
        self.conns.push(conn);
        self.conns.len() - 1
    }

    fn connect(&mut self, to: SocketAddr) -> Socket {
        let n = self.conns.len();
        let from = SocketAddr::new(
            self.nodes[self.current].address.unwrap_or(IpAddr::from([127, 0, 0, 1])),
            10_000 + (n % 50_000) as u16,
        );
        let near = from.ip() == to.ip(); // the same machine
        let (conditions, rng) = (&self.conditions, &mut self.rng);
        let base = if near { 20 } else { rng.range(50, conditions.delay.max(50)) };
        let window = if rng.permille(conditions.narrow) {
            rng.size(40, 600)
        } else {
            rng.size(4 * 1024, 64 * 1024)
        };
        let cuts = if near { conditions.cuts / 4 } else { conditions.cuts };
        let cut = rng.permille(cuts).then(|| {
            let how = match rng.range(0, 9) {
                0..=2 => Failure::Reset,
                3..=5 => Failure::End,
                6 => Failure::HalfEnd,
                7 => Failure::Dead(rng.range(1, 70) * SECOND),
                _ => Failure::Hole(rng.range(1, 15 * SECOND)),
            };
            Cut { to: rng.size(0, 1), at: rng.skewed(8 * 1024), how }
        });
        let refusals = if near { conditions.refusals / 4 } else { conditions.refusals };
        let (refused, lost) = (rng.permille(refusals), rng.permille(refusals / 3));
        let conn = Conn {
            ends: [End { handles: 1, opened: true, ..End::default() }, End::default()],
            window,
            delay: (base, base + rng.range(0, base)),
            splits: conditions.splits && !near,
            cut,
            hole_until: 0,
            severed: false,
            local: false,
            from,
            to,
        };
        let conn = self.push(conn);
        let at = self.now + base;
        match (lost, refused) {
            (true, _) => {
                self.tell(|| format!("#{conn}: its connect is lost"));
                self.at(at + 130 * SECOND, Event::Reset { conn, to: 0, kind: ErrorKind::TimedOut }); // Linux, six retries
            }
            (_, true) => self.at(at, Event::Refuse { conn }),
            _ => self.at(at, Event::Syn { conn }),
        }
        Socket { conn, side: 0 }
    }

    fn pair(&mut self) -> (Socket, Socket) {
        let end = || End { handles: 1, opened: true, connected: true, ..End::default() };
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let window = if self.rng.permille(self.conditions.narrow) {
            self.rng.size(100, 2000)
        } else {
            64 * 1024
        };
        let (ends, delay) = ([end(), end()], (0, 0));
        let conn = self.push(Conn {
            ends,
            window,
            delay,
            splits: false,
            cut: None,
            hole_until: 0,
            severed: false,
            local: true,
            from: nowhere,
            to: nowhere,
        });
        (Socket { conn, side: 0 }, Socket { conn, side: 1 })
    }

    fn arrive_syn(&mut self, conn: usize) {
        let Conn { to, delay, .. } = self.conns[conn];
        let Some((node, listener)) = self.listeners.get(&to).copied() else {
            return self.at(self.now + delay.0, Event::Refuse { conn });
        };
        if self.conns[conn].ends[0].handles == 0 {
            return; // the client has closed it
        }
        self.conns[conn].ends[1].connected = true;
        self.nodes[node].backlog.push_back((listener, conn));
        self.wants_turn(node);
        // The SYN-ACK opens the other side; nothing from there arrives earlier.
        self.conns[conn].ends[0].last_at = self.now + delay.0;
        self.at(self.now + delay.0, Event::Segment { conn, to: 0, bytes: Vec::new() });
    }

    fn delay(&mut self, conn: usize) -> Micros {
        let (from, to) = self.conns[conn].delay;
        self.rng.range(from, to)
    }

    /// Sends bytes, in one or more segments.
    fn dispatch(&mut self, conn: usize, to: usize, bytes: &[u8], whole: bool) {
        self.conns[conn].ends[to].on_way += bytes.len();
        if self.conns[conn].local {
            return self.arrive(conn, to, bytes.to_vec());
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let cut = match rest.len() {
                1 => 1,
                n if self.conns[conn].splits && !whole && self.rng.permille(250) => {
                    self.rng.size(1, n)
                }
                n => n,
            };
            let at = (self.now + self.delay(conn)).max(self.conns[conn].ends[to].last_at);
            self.conns[conn].ends[to].last_at = at;
            self.at(at, Event::Segment { conn, to, bytes: rest[..cut].to_vec() });
            rest = &rest[cut..];
        }
    }

    fn arrive(&mut self, conn: usize, to: usize, mut bytes: Vec<u8>) {
        let severed = self.conns[conn].severed;
        let end = &mut self.conns[conn].ends[to];
        end.on_way -= bytes.len();
        if bytes.is_empty() {
            end.connected = true; // the SYN-ACK
            return self.notify(conn, to);
        }
        if severed || (end.opened && end.handles == 0) {
            return self.reset_other(conn, to); // the receiver has closed
        }
        if end.over.dead || end.over.fin {
            return; // after an end that an intermediary has made
        }
        let cut = self.conns[conn].cut.filter(|cut| cut.to == to);
        let end = &mut self.conns[conn].ends[to];
        let due = cut.filter(|cut| end.delivered + bytes.len() as u64 >= cut.at);
        if let Some(cut) = due {
            let kept = cut.at.saturating_sub(end.delivered) as usize;
            let rest = bytes.split_off(kept);
            end.delivered += kept as u64;
            end.rx.extend(&bytes);
            return self.fail(conn, cut, rest);
        }
        end.delivered += bytes.len() as u64;
        end.rx.extend(&bytes);
        self.notify(conn, to);
    }

    fn fail(&mut self, conn: usize, cut: Cut, rest: Vec<u8>) {
        let Cut { to, how, at } = cut;
        self.conns[conn].cut = None;
        let transport = self.transport(conn, to);
        self.tell(|| format!("{transport}: CUT at {at}: {how:?}"));
        let (now, delay) = (self.now, self.delay(conn));
        let kind = ErrorKind::ConnectionReset;
        match how {
            Failure::Reset => {
                self.arrive_reset(conn, to, kind);
                self.at(now + delay, Event::Reset { conn, to: 1 - to, kind });
            }
            Failure::End | Failure::HalfEnd => {
                self.conns[conn].severed = how == Failure::End;
                self.arrive_fin(conn, to);
                match how {
                    Failure::End => self.at(now + delay, Event::Fin { conn, to: 1 - to }),
                    // Lost bytes are answered with a reset in the end.
                    _ => {
                        self.at(now + delay + 20 * SECOND, Event::Reset { conn, to: 1 - to, kind })
                    }
                }
            }
            Failure::Hole(time) => {
                self.notify(conn, to);
                self.conns[conn].hole_until = self.conns[conn].hole_until.max(now + time);
                self.conns[conn].ends[to].on_way += rest.len();
                if !rest.is_empty() {
                    self.at(
                        now + time,
                        Event::Held(Box::new(Event::Segment { conn, to, bytes: rest })),
                    );
                }
            }
            Failure::Dead(time) => {
                self.notify(conn, to);
                self.conns[conn].hole_until = Micros::MAX / 2;
                for to in [0, 1] {
                    self.at(now + time, Event::Reset { conn, to, kind: ErrorKind::TimedOut });
                }
            }
        }
    }

    fn arrive_fin(&mut self, conn: usize, to: usize) {
        let end = &mut self.conns[conn].ends[to];
        if !end.over.dead {
            end.over.fin = true;
            self.notify(conn, to);
        }
    }

    fn arrive_reset(&mut self, conn: usize, to: usize, kind: ErrorKind) {
        if self.conns[conn].hole_until > self.now && kind == ErrorKind::ConnectionReset {
            let hole = self.conns[conn].hole_until;
            return self.at(hole, Event::Reset { conn, to, kind });
        }
        let end = &mut self.conns[conn].ends[to];
        if end.over.dead || (end.opened && end.handles == 0) {
            return;
        }
        (end.over.dead, end.error) = (true, Some(kind));
        self.notify(conn, to);
    }

    /// Answers bytes from the other side with a reset.
    fn reset_other(&mut self, conn: usize, side: usize) {
        let at = self.now + self.delay(conn);
        self.at(at, Event::Reset { conn, to: 1 - side, kind: ErrorKind::ConnectionReset });
    }

    /// Sends the end of a direction after all its bytes.
    fn end_direction(&mut self, conn: usize, side: usize) {
        let to = 1 - side;
        if std::mem::replace(&mut self.conns[conn].ends[side].over.shut, true)
            || self.conns[conn].ends[side].over.dead
        {
            return;
        }
        if self.conns[conn].local {
            return self.arrive_fin(conn, to);
        }
        let at = (self.now + self.delay(conn)).max(self.conns[conn].ends[to].last_at);
        self.conns[conn].ends[to].last_at = at;
        self.at(at, Event::Fin { conn, to });
    }

    fn read(&mut self, conn: usize, side: usize, buf: &mut [u8]) -> io::Result<usize> {
        let end = &mut self.conns[conn].ends[side];
        if !end.rx.is_empty() {
            let n = end.rx.len().min(buf.len());
            for (place, byte) in buf.iter_mut().zip(end.rx.drain(..n)) {
                *place = byte;
            }
            self.make_room(conn, side);
            return Ok(n);
        }
        match end.error.take() {
            Some(kind) => Err(kind.into()),
            None if end.over.fin || end.over.dead => Ok(0),
            None => Err(ErrorKind::WouldBlock.into()),
        }
    }

    /// Notifies the other side, if it waits for the room that a read has made.
    fn make_room(&mut self, conn: usize, side: usize) {
        let Conn { ends, window, local, .. } = &mut self.conns[conn];
        let taken = ends[side].rx.len() + ends[side].on_way;
        let room = window.saturating_sub(taken);
        if !ends[1 - side].starved || room == 0 || room < *window / 3 {
            return;
        }
        ends[1 - side].starved = false;
        let at = if *local { self.now } else { self.now + self.delay(conn) };
        self.at(at, Event::Room { conn, side: 1 - side });
    }

    fn write(
        &mut self,
        conn: usize,
        side: usize,
        slices: &[&[u8]],
        whole: bool,
    ) -> io::Result<usize> {
        let local_end = self.conns[conn].local && self.conns[conn].ends[1 - side].handles == 0;
        let Conn { ends, window, .. } = &mut self.conns[conn];
        let taken = ends[1 - side].rx.len() + ends[1 - side].on_way;
        let end = &mut ends[side];
        if let Some(kind) = end.error.take() {
            return Err(kind.into());
        }
        if end.over.dead || end.over.shut || local_end {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let room = if end.connected { window.saturating_sub(taken) } else { 0 };
        let bytes: Vec<u8> =
            slices.iter().flat_map(|slice| slice.iter().copied()).take(room).collect();
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        end.starved |= bytes.len() < wanted;
        if bytes.is_empty() && wanted > 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.dispatch(conn, 1 - side, &bytes, whole);
        Ok(bytes.len())
    }

    fn close(&mut self, conn: usize, side: usize) {
        let end = &mut self.conns[conn].ends[side];
        end.handles -= 1;
        if end.handles > 0 {
            return;
        }
        end.watch = None;
        let (unread, aborts) = (!end.rx.is_empty(), end.over.aborts);
        end.rx = VecDeque::new();
        if unread || aborts {
            match self.conns[conn].local {
                true => self.arrive_reset(conn, 1 - side, ErrorKind::ConnectionReset),
                false => self.reset_other(conn, side),
            }
            self.conns[conn].ends[side].over.dead = true;
            return;
        }
        self.end_direction(conn, side);
        self.conns[conn].ends[side].over.dead = true;
    }
}

fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 160;
    let text: String = bytes
        .iter()
        .take(MOST)
        .flat_map(|byte| std::ascii::escape_default(*byte))
        .map(char::from)
        .collect();
    if bytes.len() > MOST { format!("{text}…") } else { text }
}
