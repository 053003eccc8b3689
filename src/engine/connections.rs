//! The loop's table of connections, with its clock, one deadline for each connection, and the list
//! of connections that need another step.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::engine::connection::{Connection, Fetched, Readiness, STRAYS_MAX};
use crate::engine::group::Group;
use crate::engine::handshakes::{Handshake, Handshakes};
use crate::engine::permits::Permit;
use crate::engine::slab::{Key, Slab};
use crate::engine::timers::{Timer, Timers};
use crate::http_date::second_now;
use crate::limits::instant_after;
use crate::stream::{HandshakeError, Shaken, Stream, TlsSession};

/// The reason why accepting pauses.
pub(crate) const FULL: &str = "the event loop holds as many connections as connections_max allows";

/// The key of a connection of the loop.
pub(crate) type Id = Key;

/// Size of the loop's read buffer, which all connections share.
pub(crate) const SCRATCH: usize = 256 * 1024;

/// The most listeners of one loop.
pub(super) const LISTENERS_MAX: usize = 64;

/// The source of readiness events of a loop.
pub(super) enum Watcher {
    /// The operating system.
    System(Registry),
    /// The simulated network, for the loop of this node.
    #[cfg(test)]
    Simulated(usize),
}

impl Watcher {
    fn watch(&self, stream: &Stream, id: Id) -> io::Result<()> {
        match self {
            Watcher::System(registry) => registry.register(
                &mut SourceFd(&stream.as_raw_fd()),
                Token(id.bits()),
                Interest::READABLE | Interest::WRITABLE,
            ),
            #[cfg(test)]
            Watcher::Simulated(node) => stream.simulated().watch(Some((*node, id.bits()))),
        }
    }

    fn forget(&self, stream: &Stream) -> io::Result<()> {
        match self {
            Watcher::System(registry) => registry.deregister(&mut SourceFd(&stream.as_raw_fd())),
            #[cfg(test)]
            Watcher::Simulated(_) => stream.simulated().watch(None),
        }
    }
}

/// A connection on its way from one loop of a group to another: its socket with its TLS session,
/// its unused input, its pending output, and its permit. Dropping it closes the connection.
pub(crate) struct Parcel<T> {
    connection: Option<Connection<T>>,
    group: Arc<Group>,
}

impl<T> Drop for Parcel<T> {
    fn drop(&mut self) {
        if self.connection.is_some() {
            self.group.leave(1);
        }
    }
}

/// All connections of one loop, its clock, timers and list of connections that need another step.
pub(crate) struct Connections<T> {
    slab: Slab<Connection<T>>,
    group: Arc<Group>,
    /// This loop's number in its group.
    number: usize,
    watcher: Watcher,
    pub(super) timers: Timers,
    pub(super) again: VecDeque<Id>,
    /// Connections that have used up their share of a turn and could go on.
    pub(super) yielded: VecDeque<Id>,
    began: Instant,
    now: Instant,
    /// The time for which the loop was stopped (SIGSTOP, suspend); its clock excludes it.
    away: Duration,
    scratch: Vec<u8>,
    connections_max: usize,
    /// The number of leased connections, which will be returned, or end there.
    leases: usize,
    /// Bytes of all connections' buffers, as of their last steps.
    buffered: usize,
    pub(super) closed_some: bool,
    /// Listeners to be added, by number; `None`: to be removed.
    pub(super) listener_changes: Vec<(usize, Option<TcpListener>)>,
    listeners: usize,
    pub(super) listening: bool,
    /// The listeners are closed.
    closed: bool,
    date: (u64, String),
    pub(super) handshakes: Handshakes,
    /// Connections that are being closed gently, the oldest first.
    lingering: BTreeMap<u64, Id>,
    lingered: u64,
}

impl<T> Connections<T> {
    /// The table of this loop (`number`) of a group.
    pub(super) fn new(
        watcher: Watcher,
        connections_max: usize,
        handshakes: Handshakes,
        (group, number): (Arc<Group>, usize),
    ) -> Self {
        let began = Instant::now();
        Connections {
            slab: Slab::numbered(number),
            group,
            number,
            watcher,
            timers: Timers::default(),
            again: VecDeque::new(),
            yielded: VecDeque::new(),
            began,
            now: began,
            away: Duration::ZERO,
            scratch: vec![0; SCRATCH],
            connections_max: connections_max.min(Slab::<T>::CEILING),
            leases: 0,
            buffered: 0,
            closed_some: false,
            listener_changes: Vec::new(),
            listeners: 0,
            listening: true,
            closed: false,
            date: (u64::MAX, String::new()),
            handshakes,
            lingering: BTreeMap::new(),
            lingered: 0,
        }
    }

    pub(super) fn begin_at(&mut self, now: Instant) {
        (self.began, self.now) = (now, now);
    }

    /// The loop's clock: monotonic, read once per turn, without the time for which the loop was
    /// stopped.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// The instant after this time from now.
    pub(crate) fn after(&self, time: Duration) -> Instant {
        instant_after(self.now, time)
    }

    /// The same, up to a 256th later (100 ms in 25 s): deadlines of many connections fall together,
    /// and cost one wake-up of the loop, not one each.
    pub(crate) fn after_about(&self, time: Duration) -> Instant {
        let (at, grain) = (self.after(time), (time / 256).as_nanos());
        let over =
            at.saturating_duration_since(self.began).as_nanos().checked_rem(grain).unwrap_or(0);
        let rest = if over == 0 { 0 } else { grain - over };
        at + Duration::from_nanos(rest.try_into().unwrap_or(0)) // below a 256th of what fits an Instant
    }

    pub(super) fn set_clock(&mut self, real: Instant, away: Duration) {
        self.away += away;
        self.now = real.checked_sub(self.away).unwrap_or(real);
    }

    /// Adds a bound listener to the loop and returns its number. `None` if the loop has the most
    /// listeners already.
    pub(crate) fn listen(&mut self, listener: TcpListener) -> Option<usize> {
        let number = self.reserve_listener()?;
        self.listener_changes.push((number, Some(listener)));
        Some(number)
    }

    /// The number of a listener without a socket. `None` if the loop has the most listeners
    /// already.
    pub(super) fn reserve_listener(&mut self) -> Option<usize> {
        if self.listeners == LISTENERS_MAX {
            return None;
        }
        self.listeners += 1;
        Some(self.listeners - 1)
    }

    /// Closes a listener; its number stays reserved, and its connections stay open.
    pub(crate) fn unlisten(&mut self, number: usize) {
        self.listener_changes.push((number, None));
    }

    /// Listens again under the number of a listener that was closed.
    pub(crate) fn listen_again(&mut self, number: usize, listener: TcpListener) {
        self.listener_changes.push((number, Some(listener)));
    }

    /// Sets another bound; existing connections stay open.
    pub(crate) fn set_connections_max(&mut self, most: usize) {
        self.connections_max = most.min(Slab::<T>::CEILING);
    }

    /// Closes all listeners of this loop: it accepts no more connections.
    pub(crate) fn stop_listening(&mut self) {
        if std::mem::take(&mut self.listening) {
            self.group.stop_listening();
        }
    }

    /// The listeners are closed, as [`stop_listening`](Self::stop_listening) asked for.
    pub(super) fn listeners_closed(&mut self) {
        if !std::mem::replace(&mut self.closed, true) {
            self.group.close();
        }
    }

    /// Returns true if a loop of the group has a listener that is not closed yet, so that a new
    /// client may be accepted.
    pub(crate) fn is_group_open(&self) -> bool {
        self.group.is_open()
    }

    /// Returns true if this loop may still accept connections.
    pub(crate) fn is_listening(&self) -> bool {
        self.listening
    }

    /// Returns true if the loops of the group have no connection (here, in another loop, between
    /// two or leased), and no listener.
    pub(crate) fn is_group_idle(&self) -> bool {
        !self.group.is_listening() && self.group.connections() == 0 && self.group.leased() == 0
    }

    /// The time of day as an IMF-fixdate.
    pub(crate) fn date(&mut self) -> &str {
        let second = second_now().unwrap_or(0);
        if self.date.0 != second {
            self.date = (
                second,
                httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(second)),
            );
        }
        &self.date.1
    }

    /// The buffer into which heads and bodies are read; the caller has to put it back.
    pub(crate) fn take_scratch(&mut self) -> Vec<u8> {
        let mut scratch = std::mem::take(&mut self.scratch);
        if scratch.len() < SCRATCH {
            scratch.resize(SCRATCH, 0); // only if a step did not put it back
        }
        scratch
    }
    pub(crate) fn put_scratch(&mut self, scratch: Vec<u8>) {
        self.scratch = scratch;
    }

    /// Returns true if an idle connection is silent and open: unrequested bytes (except stray line
    /// ends), or its end, make it useless. With `look` the operating system is asked even without
    /// an event.
    pub(crate) fn is_quiet(&mut self, id: Id, look: bool) -> bool {
        let most = usize::from(STRAYS_MAX) + 1;
        let mut scratch = self.take_scratch();
        let quiet = self.get_mut(id).is_some_and(|conn| {
            if look {
                conn.look_again();
            }
            let mut fetched = conn.fetch(&mut scratch, most);
            if matches!(fetched, Ok(Fetched::Bytes(n)) if conn.ignores(&scratch[..n])) {
                fetched = conn.fetch(&mut scratch, most); // the end of the stream may follow them
            }
            matches!(fetched, Ok(Fetched::Nothing)) && !conn.is_broken()
        });
        self.put_scratch(scratch);
        self.resume(id);
        quiet
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }
    /// Returns true if the loops of the group have as many connections as they may.
    pub(crate) fn is_full(&self) -> bool {
        self.group.is_full(self.connections_max)
    }
    /// The number of connections that the loops of the group have leased out.
    pub(crate) fn leased(&self) -> usize {
        self.group.leased()
    }
    /// Sets the number of leased connections. They count in `connections_max`, because their
    /// descriptors are open.
    pub(crate) fn set_leases(&mut self, leases: usize) {
        self.closed_some |= leases < self.leases;
        self.group.set_leased(self.leases, leases);
        self.leases = leases;
    }
    /// Gives a connection its permit.
    pub(crate) fn set_permit(&mut self, id: Id, permit: Option<Permit>) {
        if let Some(conn) = self.slab.get_mut(id) {
            conn.permit = permit;
        }
    }
    /// Takes the permit, before the connection leaves the loop.
    pub(crate) fn take_permit(&mut self, id: Id) -> Option<Permit> {
        self.slab.get_mut(id)?.permit.take()
    }
    /// Marks the connection as authenticated.
    pub(crate) fn seen(&mut self, id: Id) {
        if let Some(permit) = self.slab.get_mut(id).and_then(|conn| conn.permit.as_mut()) {
            permit.seen();
        }
    }
    pub(crate) fn is_unseen(&self, id: Id) -> bool {
        self.slab.get(id).and_then(|conn| conn.permit.as_ref()).is_some_and(Permit::is_unseen)
    }
    pub(crate) fn ids(&self) -> Vec<Id> {
        self.slab.keys()
    }

    /// Adds a connection to the loop. It must not be blocking. `unread` bytes count as kept.
    ///
    /// # Errors
    /// The loop is full, or the operating system will not watch the socket; the stream is dropped,
    /// which closes it.
    pub(crate) fn insert(&mut self, stream: Stream, unread: &[u8], state: T) -> io::Result<Id> {
        if !self.group.enter(self.connections_max) {
            return Err(io::Error::other(FULL));
        }
        let mut conn = Connection::new(stream, state);
        conn.input.extend_from_slice(unread);
        self.add(conn)
    }

    /// Adds a connection that the group has counted already.
    fn add(&mut self, conn: Connection<T>) -> io::Result<Id> {
        let id = self.slab.insert(conn);
        let watched = self.slab.get(id).map_or(Ok(()), |conn| self.watcher.watch(&conn.stream, id));
        if let Err(e) = watched {
            self.slab.remove(id);
            self.group.leave(1);
            return Err(e);
        }
        self.group.set_held(self.number, self.held());
        Ok(id)
    }

    /// Takes a whole connection out for another loop of the group. It keeps its permit and stays
    /// counted.
    pub(crate) fn take_out(&mut self, id: Id) -> Option<Parcel<T>> {
        let mut conn = self.detach(id)?;
        (conn.queued, conn.charged, conn.lingers) = (false, 0, None);
        (conn.deadline, conn.wake_up, conn.handshake) = (None, None, None);
        Some(Parcel { connection: Some(conn), group: self.group.clone() })
    }

    /// Adds a connection that another loop of the group has taken out. It has no deadline, and
    /// needs a step, because events that the other loop has seen are not repeated.
    ///
    /// # Errors
    /// The operating system will not watch the socket; it is closed.
    pub(crate) fn put_in(&mut self, mut parcel: Parcel<T>) -> io::Result<Id> {
        let Some(mut conn) = parcel.connection.take() else {
            return Err(io::ErrorKind::NotFound.into()); // only this function takes it
        };
        (conn.readable, conn.writable) = (!conn.ending.ended, true);
        self.add(conn)
    }

    /// Adds a socket whose connect is still in progress: it is not used before its first event.
    ///
    /// # Errors
    /// Those of [`insert`](Self::insert).
    pub(crate) fn insert_connecting(&mut self, stream: Stream, state: T) -> io::Result<Id> {
        let id = self.insert(stream, &[], state)?;
        if let Some(conn) = self.slab.get_mut(id) {
            (conn.readable, conn.writable) = (false, false);
        }
        Ok(id)
    }

    /// The only hand-over: removes the connection from the loop, and returns its stream, which is
    /// still non-blocking, and the kept bytes.
    pub(crate) fn remove(&mut self, id: Id) -> Option<(Stream, Vec<u8>, T)> {
        let conn = self.detach(id)?;
        self.group.leave(1);
        self.closed_some = true;
        Some((conn.stream, conn.input, conn.state))
    }

    fn detach(&mut self, id: Id) -> Option<Connection<T>> {
        let conn = self.slab.remove(id)?;
        if let Err(e) = self.watcher.forget(&conn.stream) {
            log::warn!("a connection could not be taken off the event loop: {e}");
        }
        self.buffered -= conn.charged;
        if conn.handshake.is_some() {
            self.handshakes.end();
        }
        if let Some(number) = conn.lingers {
            self.unlinger(number);
        }
        self.group.set_held(self.number, self.held());
        Some(conn)
    }

    fn unlinger(&mut self, number: u64) {
        if self.lingering.remove(&number).is_some() {
            self.group.lingered();
        }
    }

    /// Recounts a connection's buffers after a step.
    pub(crate) fn tally(&mut self, id: Id) {
        let Some(conn) = self.slab.get_mut(id) else { return };
        let session = conn
            .handshake
            .as_ref()
            .map_or_else(|| conn.stream.held(), |handshake| handshake.channel.held());
        let held = conn.input.capacity() + conn.output.capacity() + session;
        if held != conn.charged {
            self.buffered = self.buffered - conn.charged + held;
            conn.charged = held;
            self.group.set_held(self.number, self.held());
        }
    }

    /// Bytes of memory of all connections: entries of this table, buffers and TLS sessions.
    pub(crate) fn held(&self) -> usize {
        self.buffered + self.slab.len() * size_of::<Connection<T>>()
    }

    /// The same of all loops of the group.
    pub(crate) fn held_by_all(&self) -> usize {
        self.held() + self.group.held_by_others(self.number)
    }

    /// The connection is being closed gently from now on. If there are more than `most` of these in
    /// the group, the oldest one of this loop is closed.
    pub(crate) fn lingers(&mut self, id: Id, most: usize) {
        let Some(conn) = self.slab.get_mut(id).filter(|conn| conn.lingers.is_none()) else {
            return;
        };
        self.lingered += 1;
        conn.lingers = Some(self.lingered);
        self.lingering.insert(self.lingered, id);
        if self.group.lingers() > most {
            if let Some(oldest) = self.lingering.values().next().copied() {
                self.close(oldest);
            }
        }
    }

    /// Closes a connection. Pending output is lost.
    pub(crate) fn close(&mut self, id: Id) {
        drop(self.remove(id)); // closes the descriptor; it is deregistered first, because a worker may hold a second handle on it
    }

    /// Closes a connection with a reset: the other side sees that the message is incomplete.
    pub(crate) fn reset(&mut self, id: Id) {
        let Some((stream, _, _)) = self.remove(id) else { return };
        if let Err(e) = stream.abort() {
            log::debug!("a connection could not be reset: {e}");
        }
    }

    pub(crate) fn get(&self, id: Id) -> Option<&Connection<T>> {
        self.slab.get(id)
    }
    pub(crate) fn get_mut(&mut self, id: Id) -> Option<&mut Connection<T>> {
        self.slab.get_mut(id)
    }
    pub(crate) fn pair_mut(
        &mut self,
        a: Id,
        b: Id,
    ) -> Option<(&mut Connection<T>, &mut Connection<T>)> {
        self.slab.pair_mut(a, b)
    }

    /// Begins a TLS handshake on a connection; [`Role::secured`](super::Role::secured) reports its
    /// end. Until then only the connection's deadline is handled. With `spares` a quarter of the
    /// handshakes is left to others. Returns false if there are as many handshakes as
    /// handshakes_max allows.
    pub(crate) fn secure(&mut self, id: Id, channel: Arc<TlsSession>, spares: bool) -> bool {
        let Some(conn) = self.slab.get_mut(id) else { return true };
        if !self.handshakes.begin(spares) {
            return false;
        }
        let computing = channel.speaks_first() && self.handshakes.compute(id, &channel);
        conn.handshake = Some(Handshake { channel, computing });
        self.reschedule(id);
        true
    }

    pub(super) fn is_shaking(&self, id: Id) -> bool {
        self.slab.get(id).is_some_and(|conn| conn.handshake.is_some())
    }

    /// A connection whose step a worker has computed.
    pub(super) fn next_computed(&mut self) -> Option<Id> {
        let id = self.handshakes.computed.try_recv().ok()?;
        if let Some(handshake) = self.slab.get_mut(id).and_then(|conn| conn.handshake.as_mut()) {
            handshake.computing = false;
        }
        Some(id)
    }

    /// One step of a handshake. Returns its result if it has ended.
    pub(super) fn shake(&mut self, id: Id) -> Option<Result<(), HandshakeError>> {
        let conn = self.slab.get_mut(id)?;
        let handshake = conn.handshake.as_mut().filter(|handshake| !handshake.computing)?;
        let outcome = match conn.stream.shake(&handshake.channel) {
            Shaken::Waiting => return None,
            Shaken::Compute => {
                if self.handshakes.compute(id, &handshake.channel) {
                    handshake.computing = true;
                    return None;
                }
                Err(HandshakeError::new("no thread is available for its computation"))
            }
            Shaken::Done => Ok(()),
            Shaken::Failed(broken) => Err(broken),
        };
        self.handshakes.end();
        if let (Some(Handshake { channel, .. }), Ok(())) = (conn.handshake.take(), &outcome) {
            conn.stream.secure(channel);
            (conn.readable, conn.writable) = (true, true); // bytes after the handshake may be in the session already
        }
        Some(outcome)
    }

    /// A connection's deadline.
    pub(crate) fn deadline(&self, id: Id) -> Option<Instant> {
        self.slab.get(id)?.deadline
    }

    /// Sets or unsets a connection's one deadline; the role knows its meaning.
    pub(crate) fn set_deadline(&mut self, id: Id, at: Option<Instant>) {
        let Some(conn) = self.slab.get_mut(id) else { return };
        conn.deadline = at;
        let Some(at) = at else { return };
        if conn.wake_up.is_none_or(|wake_up| at < wake_up) {
            conn.wake_up = Some(at);
            self.timers.push(at, Timer::Connection(id.bits()));
        }
    }

    /// Calls [`Role::alarm`](super::Role::alarm) with `key` at `at`. Alarms cannot be cancelled:
    /// the role ignores those that it no longer needs.
    pub(crate) fn alarm(&mut self, at: Instant, key: u64) {
        self.timers.push(at, Timer::Alarm(key));
    }

    /// Requests another step of this connection in the next turn of the loop.
    pub(crate) fn reschedule(&mut self, id: Id) {
        if let Some(conn) = self.slab.get_mut(id).filter(|conn| !conn.queued) {
            conn.queued = true;
            self.again.push_back(id);
        }
    }

    /// Requests another step of this connection, which has used up its share of a turn, after those
    /// that did so before.
    pub(crate) fn yields(&mut self, id: Id) {
        if let Some(conn) = self.slab.get_mut(id).filter(|conn| !conn.queued) {
            conn.queued = true;
            self.yielded.push_back(id);
        }
    }

    /// Returns true if a connection needs a step without an event.
    pub(super) fn is_eager(&self) -> bool {
        !self.again.is_empty() || !self.yielded.is_empty()
    }

    /// Requests another step if the last fetch stopped before the end of the input.
    pub(crate) fn resume(&mut self, id: Id) {
        if self.slab.get_mut(id).is_some_and(|conn| std::mem::take(&mut conn.paused)) {
            self.reschedule(id);
        }
    }

    pub(super) fn unqueue(&mut self, id: Id) -> bool {
        self.slab.get_mut(id).map(|conn| conn.queued = false).is_some()
    }

    /// Records the readiness that an event reports. Returns false if the connection is gone, or is
    /// already in the list of connections that need a step.
    pub(super) fn note(&mut self, id: Id, news: Readiness) -> bool {
        let Some(conn) = self.slab.get_mut(id) else { return false };
        conn.readable |= news.readable;
        conn.writable |= news.writable;
        conn.ending.closing |= news.closing;
        conn.ending.broken |= news.broken;
        !conn.queued
    }

    /// Returns true if a timer's connection is really due; moves the timer if its deadline has
    /// moved.
    pub(super) fn due(&mut self, id: Id, fired: Instant) -> bool {
        let now = self.now;
        let Some(conn) = self.slab.get_mut(id) else { return false };
        if conn.wake_up != Some(fired) {
            return false; // an earlier entry of the same connection replaced this one
        }
        conn.wake_up = None;
        match conn.deadline {
            Some(at) if at <= now => {
                conn.deadline = None;
                true
            }
            Some(at) => {
                conn.wake_up = Some(at);
                self.timers.push(at, Timer::Connection(id.bits()));
                false
            }
            None => false,
        }
    }
}

impl<T> Drop for Connections<T> {
    fn drop(&mut self) {
        // The loop has ended early; the others go on.
        self.stop_listening();
        self.listeners_closed();
        self.group.leave(self.slab.len());
        self.group.set_leased(self.leases, 0);
        self.group.set_held(self.number, 0);
        for _ in 0..self.lingering.len() {
            self.group.lingered();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_at_about_the_same_time_falls_together_and_never_early() {
        let poll = mio::Poll::new().unwrap();
        let limits = crate::limits::Limits::default();
        let group = Group::new(1, &limits);
        let handshakes = Handshakes::new(&limits, None, Arc::default(), group.clone());
        let mut connections = Connections::<()>::new(
            Watcher::System(poll.registry().try_clone().unwrap()),
            1,
            handshakes,
            (group, 0),
        );
        let (began, wait) = (connections.now(), Duration::from_millis(25_600));
        let mut instants = Vec::new();
        for ms in 0..1_000 {
            connections.set_clock(began + Duration::from_millis(ms), Duration::ZERO);
            let (exact, about) = (connections.after(wait), connections.after_about(wait));
            assert!(about >= exact && about < exact + wait / 256, "{:?}", about - exact);
            instants.push(about);
        }
        instants.dedup();
        assert_eq!(
            instants.len(),
            11,
            "a thousand waits, begun within a second, end at eleven instants"
        );
        assert_eq!(connections.after_about(Duration::ZERO), connections.now());
    }
}
