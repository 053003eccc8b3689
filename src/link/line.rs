//! The state that a link and its bodies share: the wire, and, outside its lock, the owner of the
//! current exchange.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::atomic::AtomicU64;
use crate::link::wire::Wire;
use crate::stream::TimedStream;

/// The state that a link and its bodies share.
pub(super) struct Line<S> {
    wire: Mutex<Wire<S>>,
    /// The number of the exchange in progress; a body of an earlier one is cut off.
    exchange: AtomicU64,
    /// The exchange whose body still exists, or 0.
    held: AtomicU64,
}

impl<S> Line<S> {
    pub(super) fn new(wire: Wire<S>) -> Arc<Self> {
        Arc::new(Line {
            wire: Mutex::new(wire),
            exchange: AtomicU64::new(1),
            held: AtomicU64::new(0),
        })
    }

    /// A panic of a thread that held the lock leaves the wire as consistent as an IO error does.
    pub(super) fn lock(&self) -> MutexGuard<'_, Wire<S>> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, Wire<S>>> {
        self.wire.try_lock().ok()
    }

    pub(super) fn exchange(&self) -> u64 {
        self.exchange.load(Ordering::Acquire)
    }

    /// Ends the exchange for the owner of its body.
    pub(super) fn end_exchange(&self) {
        self.exchange.fetch_add(1, Ordering::AcqRel);
        self.held.store(0, Ordering::Release);
    }

    /// Ends the exchange, and returns the stream and the unused bytes, for methods that take the
    /// link by value.
    pub(super) fn take_apart(&self) -> (S, Vec<u8>)
    where
        S: TimedStream + 'static,
    {
        self.end_exchange();
        #[allow(
            clippy::expect_used,
            reason = "only the methods that take the link by value take the stream out"
        )]
        self.lock().take().expect("a link has its stream until it is taken apart")
    }

    pub(super) fn hold(&self) -> u64 {
        let exchange = self.exchange();
        self.held.store(exchange, Ordering::Release);
        exchange
    }

    pub(super) fn release(&self, exchange: u64) {
        // An Err means that the exchange was over before its body was dropped.
        let _ = self.held.compare_exchange(exchange, 0, Ordering::AcqRel, Ordering::Relaxed);
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire) != 0
    }
}
