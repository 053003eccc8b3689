//! A clock that a test drives: the time of event loops and of blocking links, which stands still until
//! it is moved. [`testing::pair`](crate::testing::pair) is its only user; without one everything goes
//! by the operating system's clock.
//!
//! It is moved from one deadline to the next. Before each step everything comes to rest: no loop
//! has anything to do, and every thread that runs the library's code is blocked. So the effects of
//! a deadline are complete before the next one passes, however fast the machine is. The clock does
//! not wait for a program's own code (a handler, a body's reader).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mio::Waker;

/// How long a blocked read or write sleeps before it looks at the clock.
pub(crate) const SLICE: Duration = Duration::from_millis(5);
/// Rounds in which a step has to come to rest; an endless stream never does.
const ROUNDS_MAX: usize = 1_000;
/// The same limit in the operating system's time, for a thread that hangs unexpectedly.
const REST_MAX: Duration = Duration::from_secs(10);

thread_local! {
    /// The clock that counts this thread as working.
    static COUNTED_BY: RefCell<Option<Clock>> = const { RefCell::new(None) };
    /// Dropped when this thread waits for the first time.
    static ANNOUNCED: RefCell<Option<Sender<()>>> = const { RefCell::new(None) };
}

/// Proof that there is such a clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exists;

/// A clock that stands still until it is moved. Clones are the same clock.
#[derive(Clone)]
pub(crate) struct Clock(Arc<Shared>);

struct Shared {
    began: Instant,
    /// Held while it is moved.
    moving: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    elapsed: Duration,
    loops: Vec<Turns>,
    /// Threads that run the library's code and are not blocked.
    working: usize,
    /// When each blocked read or write times out, by its number.
    waits: BTreeMap<u64, Option<Instant>>,
    numbers: u64,
    /// Grows with every event: a turn that did something, work or a wait that begins or ends.
    changes: u64,
}

/// One event loop as the clock sees it.
struct Turns {
    waker: Arc<Waker>,
    /// Turns that were requested, and the last of them that was taken.
    wanted: u64,
    taken: u64,
    next_timer: Option<Instant>,
    ended: bool,
}

impl State {
    fn is_late(&self, now: Instant) -> bool {
        self.waits.values().flatten().any(|ends| *ends <= now)
    }

    fn owes_turns(&self) -> bool {
        self.loops.iter().any(|turns| !turns.ended && turns.taken < turns.wanted)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("elapsed", &self.lock().elapsed).finish_non_exhaustive()
    }
}

impl Clock {
    pub(crate) fn new() -> Self {
        Clock(Arc::new(Shared {
            began: Instant::now(),
            moving: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        state.changes += 1;
        drop(state);
        self.0.changed.notify_all();
    }

    pub(crate) fn now(&self) -> Instant {
        self.0.began + self.elapsed()
    }

    /// How far it has been moved since its start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.lock().elapsed
    }

    /// Moves it, from deadline to deadline.
    pub(crate) fn advance(&self, time: Duration) {
        let _one_at_a_time = self.0.moving.lock().unwrap_or_else(PoisonError::into_inner);
        let target = self.elapsed().saturating_add(time);
        loop {
            self.rest();
            let mut state = self.lock();
            let timers = state.loops.iter().filter_map(|turns| turns.next_timer);
            let deadlines = timers.chain(state.waits.values().copied().flatten());
            let after_now = deadlines
                .map(|at| at.saturating_duration_since(self.0.began))
                .filter(|at| *at > state.elapsed);
            let next = after_now.min().filter(|at| *at < target).unwrap_or(target);
            state.elapsed = next;
            drop(state);
            if next == target {
                return self.rest();
            }
        }
    }

    /// Waits until there is nothing left to do at this time.
    pub(crate) fn rest(&self) {
        let now = self.now();
        let give_up = Instant::now() + REST_MAX;
        for _ in 0..ROUNDS_MAX {
            let mut state = self.lock();
            let before = state.changes;
            for turns in state.loops.iter_mut().filter(|turns| !turns.ended) {
                turns.wanted += 1;
                if let Err(e) = turns.waker.wake() {
                    log::error!("an event loop on a test's clock could not be woken: {e}");
                }
            }
            while state.owes_turns() || state.working > 0 || state.is_late(now) {
                let left = give_up.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return log::warn!("a test's clock goes on although something is busy");
                }
                let waited = self.0.changed.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            if state.changes == before {
                return;
            }
        }
        log::debug!("a test's clock goes on although a stream does not end");
    }

    /// Registers a loop that takes its time from this clock.
    pub(crate) fn join(&self, waker: Arc<Waker>) -> Ticker {
        let mut state = self.lock();
        let number = state.loops.len();
        let turns = Turns { waker, wanted: 0, taken: 0, next_timer: None, ended: false };
        state.loops.push(turns);
        drop(state);
        Ticker { clock: self.clone(), number, turn: 0 }
    }

    /// Counts work from now on, which another thread will do.
    pub(crate) fn work(&self) -> Work {
        self.change(|state| state.working += 1);
        Work(self.clone())
    }

    /// Repeats a read or write, each of which blocks for [`SLICE`], until one succeeds or `limit`
    /// has passed on this clock.
    pub(crate) fn block<T>(
        &self,
        limit: Option<Duration>,
        mut call: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        let ends = limit.and_then(|limit| self.now().checked_add(limit));
        let mut waits = None;
        loop {
            match call() {
                Err(e)
                    if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
                {
                    waits.get_or_insert_with(|| {
                        let waits = Waits::new(self, ends);
                        (Outside::step(), waits) // dropped in this order: it is counted throughout
                    });
                    if ends.is_some_and(|ends| ends <= self.now()) {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                done => return done,
            }
        }
    }
}

/// How a loop on such a clock reports its turns.
pub(crate) struct Ticker {
    clock: Clock,
    number: usize,
    turn: u64,
}

impl Ticker {
    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// A turn begins. Returns true if a caller waits for it: the loop must not sleep.
    pub(crate) fn begin(&mut self) -> bool {
        let state = self.clock.lock();
        let Some(turns) = state.loops.get(self.number) else { return false };
        self.turn = turns.wanted;
        turns.wanted > turns.taken
    }

    /// Notes the end of a turn; `is_quiet`: it had nothing to do.
    pub(crate) fn end(&self, is_quiet: bool, next_timer: Option<Instant>) {
        let mut state = self.clock.lock();
        if let Some(turns) = state.loops.get_mut(self.number) {
            (turns.taken, turns.next_timer) = (self.turn, next_timer);
        }
        state.changes += u64::from(!is_quiet);
        drop(state);
        self.clock.0.changed.notify_all();
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.clock.change(|state| {
            if let Some(turns) = state.loops.get_mut(self.number) {
                (turns.ended, turns.next_timer) = (true, None);
            }
        });
    }
}

/// Work that a clock counts until this is dropped.
pub(crate) struct Work(Clock);

impl Work {
    /// Does the work, on this thread.
    pub(crate) fn run<T>(self, work: impl FnOnce() -> T) -> T {
        /// Removes the thread's mark, even if the work panics.
        struct Unmark(Option<Clock>);
        impl Drop for Unmark {
            fn drop(&mut self) {
                COUNTED_BY.set(self.0.take());
            }
        }
        let _unmark = Unmark(COUNTED_BY.replace(Some(self.0.clone())));
        work()
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.change(|state| state.working -= 1);
    }
}

/// Runs a program's own code, or waits for another thread; no clock waits for it.
pub(crate) fn outside<T>(run: impl FnOnce() -> T) -> T {
    let _outside = Outside::step();
    run()
}

/// Drops the sender when this thread waits for the first time, or ends.
pub(crate) fn announce(waits: Sender<()>) {
    ANNOUNCED.set(Some(waits));
}

/// This thread is not counted until this is dropped.
struct Outside(Option<Clock>);

impl Outside {
    fn step() -> Self {
        drop(ANNOUNCED.take());
        let clock = COUNTED_BY.take();
        if let Some(clock) = &clock {
            clock.change(|state| state.working -= 1);
        }
        Outside(clock)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let Some(clock) = self.0.take() else { return };
        clock.change(|state| state.working += 1);
        COUNTED_BY.set(Some(clock));
    }
}

/// Counts a blocked read or write until it is dropped.
struct Waits<'c> {
    clock: &'c Clock,
    number: u64,
}

impl<'c> Waits<'c> {
    fn new(clock: &'c Clock, ends: Option<Instant>) -> Self {
        let mut number = 0;
        clock.change(|state| {
            state.numbers += 1;
            number = state.numbers;
            state.waits.insert(number, ends);
        });
        Waits { clock, number }
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.clock.change(|state| {
            state.waits.remove(&self.number);
        });
    }
}
