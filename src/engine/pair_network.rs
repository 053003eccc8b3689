//! Brings connections that are made within this process into an event loop, and has the device's
//! end of them, for `testing::pair`.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use mio::Waker;

use crate::clock::Clock;
use crate::stream::{End, Stream};

/// The queue in which a loop finds connections that do not come from a listener.
pub(crate) struct PairListener {
    waker: Arc<Waker>,
    waiting: Mutex<VecDeque<Stream>>,
}

impl PairListener {
    pub(super) fn new(waker: Arc<Waker>) -> Option<Arc<Self>> {
        Some(Arc::new(PairListener { waker, waiting: Mutex::default() }))
    }

    fn put(&self, stream: Stream) -> io::Result<()> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(stream);
        self.waker.wake()
    }

    pub(super) fn take(&self) -> Option<Stream> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// The device's end: connects to the gateway without a network. Clones share it.
#[derive(Clone)]
pub(crate) struct PairNetwork {
    pair_listener: Weak<PairListener>,
    /// The clock of both.
    pub(crate) clock: Clock,
    state: Arc<State>,
}

struct State {
    is_open: AtomicBool,
    connections: Mutex<Vec<[Weak<End>; 2]>>,
}

impl PairNetwork {
    pub(crate) fn new(pair_listener: Weak<PairListener>, clock: Clock) -> Self {
        let state = State { is_open: AtomicBool::new(true), connections: Mutex::default() };
        PairNetwork { pair_listener, clock, state: Arc::new(state) }
    }

    /// Sets whether connections can be made.
    pub(crate) fn set_open(&self, is_open: bool) {
        self.state.is_open.store(is_open, Relaxed);
    }

    fn connections(&self) -> MutexGuard<'_, Vec<[Weak<End>; 2]>> {
        self.state.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Breaks all existing connections.
    pub(crate) fn break_off(&self) {
        self.for_each(End::break_off);
    }

    /// Stops all existing connections from carrying bytes; neither end is told.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn stall(&self) -> io::Result<()> {
        let mut stalled = Ok(());
        self.for_each(|ends| {
            let ended = End::stall(ends);
            if stalled.is_ok() {
                stalled = ended;
            }
        });
        stalled
    }

    fn for_each(&self, mut of: impl FnMut([&End; 2])) {
        for [one, other] in std::mem::take(&mut *self.connections()) {
            if let (Some(one), Some(other)) = (one.upgrade(), other.upgrade()) {
                of([&one, &other]);
            }
        }
    }

    /// A non-blocking connection to the gateway.
    ///
    /// # Errors
    /// The gateway has ended, or cannot be reached now; no descriptor is left.
    pub(crate) fn connect(&self) -> io::Result<Stream> {
        let pair_listener =
            self.pair_listener.upgrade().filter(|_| self.state.is_open.load(Relaxed));
        let pair_listener = pair_listener.ok_or(io::ErrorKind::ConnectionRefused)?;
        let [(here, one), (there, other)] = Stream::pair_on(&self.clock)?;
        let mut connections = self.connections();
        connections.retain(|ends| ends.iter().all(|end| end.strong_count() > 0));
        connections.push([one, other]);
        drop(connections);
        here.set_nonblocking(true)?;
        there.set_nonblocking(true)?;
        pair_listener.put(there)?;
        Ok(here)
    }
}
