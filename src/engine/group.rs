//! Counts and bounds that the loops of one role share: connections, their memory, handshakes in
//! progress, and the threads that compute them. All bounds hold for the group.
//!
//! Values that change with every request are counted by each loop on its own cache line, and added
//! up by the caller.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::engine::workers::Workers;
use crate::limits::Limits;

/// A counter that one loop writes; it shares its cache line with no other.
#[repr(align(128))]
#[derive(Default)]
struct OfLoop(AtomicUsize);

/// The loops of one role.
pub(crate) struct Group {
    /// Connections of all loops, including those between two loops.
    connections: AtomicUsize,
    /// Leased connections.
    leased: AtomicUsize,
    lingering: AtomicUsize,
    handshakes: AtomicUsize,
    /// Loops that may still accept connections.
    listening: AtomicUsize,
    /// Loops whose listeners are not closed yet.
    open: AtomicUsize,
    held: Box<[OfLoop]>,
    pub(super) handshake_workers: Workers,
}

impl Group {
    /// A group of this many loops, at least one.
    pub(crate) fn new(loops: usize, limits: &Limits) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Group {
            connections: AtomicUsize::new(0),
            leased: AtomicUsize::new(0),
            lingering: AtomicUsize::new(0),
            handshakes: AtomicUsize::new(0),
            listening: AtomicUsize::new(loops.max(1)),
            open: AtomicUsize::new(loops.max(1)),
            held: (0..loops.max(1)).map(|_| OfLoop::default()).collect(),
            handshake_workers: Workers::new(
                "ptth-handshake",
                cores.saturating_sub(1).max(1),
                limits.handshakes(),
                limits.worker_idle_timeout,
            ),
        })
    }

    /// Connections of all loops.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    /// Connections that all loops have leased out.
    pub(super) fn leased(&self) -> usize {
        self.leased.load(Relaxed)
    }

    pub(super) fn is_full(&self, most: usize) -> bool {
        self.connections() + self.leased() >= most
    }

    /// Counts a further connection. Returns false if there are `most` already.
    pub(super) fn enter(&self, most: usize) -> bool {
        let most = most.saturating_sub(self.leased());
        let one_more = |count: usize| (count < most).then_some(count + 1);
        self.connections.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    pub(super) fn leave(&self, connections: usize) {
        self.connections.fetch_sub(connections, Relaxed);
    }

    /// Changes the number of connections that a loop has leased out.
    pub(super) fn set_leased(&self, before: usize, now: usize) {
        self.leased.fetch_add(now, Relaxed);
        self.leased.fetch_sub(before, Relaxed);
    }

    /// Counts a further connection that is being closed gently. Returns how many there are.
    pub(super) fn lingers(&self) -> usize {
        self.lingering.fetch_add(1, Relaxed) + 1
    }

    pub(super) fn lingered(&self) {
        self.lingering.fetch_sub(1, Relaxed);
    }

    /// Counts a further handshake. Returns false if there are `most` already.
    pub(super) fn begin_handshake(&self, most: usize) -> bool {
        let one_more = |count: usize| (count < most).then_some(count + 1);
        self.handshakes.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    pub(super) fn end_handshake(&self) {
        self.handshakes.fetch_sub(1, Relaxed);
    }

    /// A loop accepts no more connections.
    pub(super) fn stop_listening(&self) {
        self.listening.fetch_sub(1, Relaxed);
    }

    pub(super) fn is_listening(&self) -> bool {
        self.listening.load(Relaxed) > 0
    }

    /// The listeners of a loop are closed.
    pub(super) fn close(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Relaxed) > 0
    }

    /// Sets the memory of a loop's connections.
    pub(super) fn set_held(&self, number: usize, bytes: usize) {
        if let Some(of) = self.held.get(number) {
            of.0.store(bytes, Relaxed);
        }
    }

    /// The memory of the connections of all other loops.
    pub(super) fn held_by_others(&self, number: usize) -> usize {
        let others = self.held.iter().enumerate().filter(|(other, _)| *other != number);
        others.map(|(_, of)| of.0.load(Relaxed)).sum()
    }
}
