//! Tells a program with an upgraded stream that it is about to be cut.

use std::fmt;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::Weak;
use std::time::Duration;

/// Reports that the connection of an [`Upgraded`](crate::Upgraded) is about to be cut. Clones
/// report the same.
///
/// ```
/// # fn read_on(stream: &reverse_http::Upgraded) {}
/// fn until_it_stops(stream: &reverse_http::Upgraded) {
///     let stopping = stream.stopping();
///     while !stopping.is_stopping() {
///         read_on(stream);
///     }
/// }
/// ```
#[derive(Clone)]
pub struct Stopping(Arc<(Mutex<Phase>, Condvar)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    Stopping,
    /// The stream was dropped.
    Over,
}

impl Stopping {
    fn new(phase: Phase) -> Self {
        Stopping(Arc::new((Mutex::new(phase), Condvar::new())))
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, phase: Phase) {
        let mut now = self.phase();
        if *now != Phase::Over {
            *now = phase;
        }
        drop(now);
        self.0.1.notify_all();
    }

    /// Returns true if the connection is about to be cut.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        *self.phase() == Phase::Stopping
    }

    /// Blocks until the connection is about to be cut, and returns true; returns false if its
    /// stream was dropped.
    pub fn wait(&self) -> bool {
        let waited = self.0.1.wait_while(self.phase(), |phase| *phase == Phase::Open);
        *waited.unwrap_or_else(PoisonError::into_inner) == Phase::Stopping
    }

    /// The same, but also returns false after this time.
    pub fn wait_for(&self, time: Duration) -> bool {
        let waited = self.0.1.wait_timeout_while(self.phase(), time, |phase| *phase == Phase::Open);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == Phase::Stopping
    }
}

impl fmt::Debug for Stopping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stopping").field(&*self.phase()).finish()
    }
}

/// The upgraded streams that programs hold of one loop of a device, or of one gateway.
#[derive(Debug, Default)]
pub(crate) struct Upgrades(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// Dropped ones are removed when it grows.
    streams: Vec<Weak<(Mutex<Phase>, Condvar)>>,
    swept: usize,
    /// Set if it stops for good: later streams are told at once.
    for_good: bool,
}

impl Upgrades {
    pub(crate) fn add(&self) -> Stopping {
        const SPARE: usize = 64;
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stopping = Stopping::new(if held.for_good { Phase::Stopping } else { Phase::Open });
        if held.streams.len() > 2 * held.swept + SPARE {
            held.streams.retain(|stream| stream.strong_count() > 0);
            held.swept = held.streams.len();
        }
        held.streams.push(Arc::downgrade(&stopping.0));
        stopping
    }

    /// Tells all existing streams, and also later ones if the device or gateway stops `for_good`.
    pub(crate) fn stop(&self, for_good: bool) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.for_good |= for_good;
        held.swept = 0;
        for stream in std::mem::take(&mut held.streams).iter().filter_map(Weak::upgrade) {
            Stopping(stream).set(Phase::Stopping);
        }
    }
}
