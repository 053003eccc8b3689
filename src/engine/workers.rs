//! The elastic pool: threads for programs' code, which are started when needed and end when idle.
//!
//! A job never waits while a thread may still be started. At the bound it is queued; at the queue's
//! bound it is returned.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

type Job = Box<dyn FnOnce() + Send>;

/// A handle on the pool; clones share it. Threads end after `idle_timeout` without a job.
#[derive(Clone)]
pub(crate) struct Workers(Arc<Shared>);

struct Shared {
    name: String,
    threads_max: usize,
    queue_max: usize,
    idle_timeout: Duration,
    state: Mutex<State>,
    wake: Condvar,
    /// Simulates an operating system that cannot start a thread.
    #[cfg(test)]
    refuses_threads: std::sync::atomic::AtomicBool,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// Threads that wait for a job, or were started and have not checked the queue yet.
    waiting: usize,
    threads: usize,
}

impl Workers {
    pub(crate) fn new(
        name: &str,
        threads_max: usize,
        queue_max: usize,
        idle_timeout: Duration,
    ) -> Self {
        Workers(Arc::new(Shared {
            name: name.to_owned(),
            threads_max,
            queue_max,
            idle_timeout,
            state: Mutex::default(),
            wake: Condvar::new(),
            #[cfg(test)]
            refuses_threads: Default::default(),
        }))
    }

    /// Runs `job` on a thread of the pool. Returns false, and does not run it, if pool and queue
    /// are full, or if no thread could be started and none exists that could take it later.
    pub(crate) fn submit(&self, job: impl FnOnce() + Send + 'static) -> bool {
        let job: Job = Box::new(job);
        #[cfg(test)]
        let job = match crate::sim::net::submit(job) {
            None => return true,
            Some(job) => job,
        };
        let mut state = self.0.lock();
        if state.waiting > state.queue.len() {
            state.queue.push_back(job);
            self.0.wake.notify_one();
            return true;
        }
        let started = state.threads < self.0.threads_max && self.start_thread();
        if started {
            (state.threads, state.waiting) = (state.threads + 1, state.waiting + 1);
        } else if state.threads == 0 || state.queue.len() - state.waiting >= self.0.queue_max {
            return false;
        }
        state.queue.push_back(job);
        true
    }

    /// Starts a thread, which checks the queue as soon as the caller releases the lock. Returns
    /// false if the operating system cannot start one.
    fn start_thread(&self) -> bool {
        #[cfg(test)]
        if self.0.refuses_threads.load(std::sync::atomic::Ordering::Relaxed) {
            return false;
        }
        let shared = self.0.clone();
        let thread = std::thread::Builder::new().name(self.0.name.clone());
        thread.spawn(move || shared.work()).is_ok()
    }

    /// The number of threads.
    #[cfg(test)]
    pub(crate) fn threads(&self) -> usize {
        self.0.lock().threads
    }

    /// Returns true if jobs wait for a thread: then no worker lingers.
    pub(crate) fn is_pressed(&self) -> bool {
        let state = self.0.lock();
        state.queue.len() > state.waiting
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        state.waiting -= 1;
        loop {
            while let Some(job) = state.queue.pop_front() {
                drop(state);
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    log::error!("a worker's job panicked; the thread goes on");
                }
                state = self.lock();
            }
            state.waiting += 1;
            let (guard, waited) = self
                .wake
                .wait_timeout(state, self.idle_timeout)
                .unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.waiting -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crossbeam_channel::{bounded, unbounded};

    #[test]
    fn grows_to_its_bound_then_queues_then_refuses() {
        let workers = Workers::new("test", 2, 1, Duration::from_secs(5));
        let (release, gate) = bounded::<()>(0);
        let (done, finished) = unbounded();
        for n in 0..3 {
            let (gate, done) = (gate.clone(), done.clone());
            assert!(workers.submit(move || {
                let _ = gate.recv();
                let _ = done.send(n);
            }));
        }
        assert_eq!(workers.threads(), 2);
        assert!(!workers.submit(|| ()), "the queue holds one");
        assert!(workers.is_pressed());
        drop(release);
        let mut ran: Vec<i32> = finished.iter().take(3).collect();
        ran.sort_unstable();
        assert_eq!(ran, [0, 1, 2]);
    }

    #[test]
    fn without_another_thread_the_queue_keeps_its_bound() {
        let workers = Workers::new("test", 4, 1, Duration::from_secs(5));
        let refuse = |refuses| {
            workers.0.refuses_threads.store(refuses, std::sync::atomic::Ordering::Relaxed);
        };
        refuse(true);
        assert!(!workers.submit(|| ()), "there is no thread that could take it later");
        refuse(false);
        let (release, gate) = bounded::<()>(0);
        let (done, finished) = unbounded();
        let job = |n: i32| {
            let (gate, done) = (gate.clone(), done.clone());
            move || {
                let _ = gate.recv();
                let _ = done.send(n);
            }
        };
        assert!(workers.submit(job(0)));
        refuse(true);
        assert!(workers.submit(job(1)), "the thread that lives takes it later");
        assert!(!workers.submit(job(2)), "the queue holds one");
        assert_eq!(workers.threads(), 1);
        drop(release);
        assert_eq!(finished.iter().take(2).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn a_panic_costs_one_job() {
        let workers = Workers::new("test", 1, 8, Duration::from_secs(5));
        let (done, finished) = unbounded();
        assert!(workers.submit(|| panic!("on purpose")));
        assert!(workers.submit(move || {
            let _ = done.send(());
        }));
        assert!(finished.recv_timeout(Duration::from_secs(10)).is_ok());
    }

    #[test]
    fn idle_threads_end() {
        let workers = Workers::new("test", 4, 4, Duration::from_millis(10));
        let (done, finished) = unbounded();
        assert!(workers.submit(move || {
            let _ = done.send(());
        }));
        assert!(finished.recv_timeout(Duration::from_secs(10)).is_ok());
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while workers.threads() > 0 {
            assert!(std::time::Instant::now() < deadline, "the thread is still there");
            std::thread::yield_now();
        }
    }
}
