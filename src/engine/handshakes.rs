//! TLS handshakes in progress. The loop moves their bytes; worker threads, one fewer than there are
//! cores, do the computation. So ten thousand devices that reconnect at once do not stop the
//! exchanges of others.
//!
//! A waiting handshake costs a slot in the table and no thread. Each has at most one job in the
//! pool, so the pool's queue is bounded by their number.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};
use mio::Waker;

use crate::engine::group::Group;
use crate::engine::slab::Key;
use crate::limits::Limits;
use crate::stream::TlsSession;

/// The handshake of a connection.
pub(super) struct Handshake {
    pub(super) channel: Arc<TlsSession>,
    /// A worker is computing a step; the loop does not touch it.
    pub(super) computing: bool,
}

pub(super) struct Handshakes {
    group: Arc<Group>,
    done: Sender<Key>,
    /// Connections whose step was computed.
    pub(super) computed: Receiver<Key>,
    /// `None` in the simulation, which has no handshakes.
    waker: Option<Arc<Waker>>,
    awake: Arc<AtomicBool>,
    /// Of this loop.
    in_progress: usize,
    /// Of all loops.
    most: usize,
}

impl Handshakes {
    pub(super) fn new(
        limits: &Limits,
        waker: Option<Arc<Waker>>,
        awake: Arc<AtomicBool>,
        group: Arc<Group>,
    ) -> Self {
        let (done, computed) = unbounded(); // bounded by the number of handshakes
        Handshakes {
            group,
            done,
            computed,
            waker,
            awake,
            in_progress: 0,
            most: limits.handshakes(),
        }
    }

    /// Counts a further handshake. With `spares` a quarter is left to others. Returns false at the
    /// bound.
    pub(super) fn begin(&mut self, spares: bool) -> bool {
        let most = if spares { self.most - self.most / 4 } else { self.most };
        let may = self.group.begin_handshake(most);
        self.in_progress += usize::from(may);
        may
    }

    pub(super) fn end(&mut self) {
        if self.in_progress > 0 {
            self.in_progress -= 1;
            self.group.end_handshake();
        }
    }

    /// Lets a worker compute the next step of this connection's handshake. Returns false if there
    /// is no thread for it.
    pub(super) fn compute(&self, id: Key, channel: &Arc<TlsSession>) -> bool {
        let (done, waker, awake) = (self.done.clone(), self.waker.clone(), self.awake.clone());
        let channel = Arc::downgrade(channel);
        self.group.handshake_workers.submit(move || {
            // The loop has dropped it meanwhile: its client has left, or its deadline has passed.
            let Some(channel) = channel.upgrade() else { return };
            let _told = Told { id, done, waker, awake };
            channel.compute();
        })
    }
}

impl Drop for Handshakes {
    fn drop(&mut self) {
        while self.in_progress > 0 {
            self.end();
        }
    }
}

/// Notifies the loop, even if the computation panics: then the next step fails.
struct Told {
    id: Key,
    done: Sender<Key>,
    waker: Option<Arc<Waker>>,
    awake: Arc<AtomicBool>,
}

impl Drop for Told {
    fn drop(&mut self) {
        if self.done.send(self.id).is_ok() && !self.awake.swap(true, Ordering::AcqRel) {
            if let Some(Err(e)) = self.waker.as_ref().map(|waker| waker.wake()) {
                log::error!("the event loop could not be woken: {e}");
            }
        }
    }
}
