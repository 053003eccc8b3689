//! The threads of the event loops of one gateway or device, and waiting for their ends.

use std::sync::{Mutex, PoisonError, TryLockError};
use std::thread::{JoinHandle, ThreadId};

use crate::clock;

/// The threads of the event loops of one gateway or device.
#[derive(Default)]
pub(crate) struct LoopThreads {
    ids: Vec<ThreadId>,
    /// Locked while one thread waits for their ends, so that all others wait, too.
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    threads: Vec<JoinHandle<()>>,
    /// One of those that have ended panicked.
    has_panicked: bool,
}

impl LoopThreads {
    pub(crate) fn push(&mut self, thread: JoinHandle<()>) {
        self.ids.push(thread.thread().id());
        self.running.get_mut().unwrap_or_else(PoisonError::into_inner).threads.push(thread);
    }

    /// Waits until they have ended. Returns false, to each caller, if one of them panicked.
    ///
    /// On one of these threads it returns at once. A loop drops a program's handler, and what that
    /// owns may stop or drop a handle, while another thread waits here for this loop.
    pub(crate) fn join(&self) -> bool {
        if self.ids.contains(&std::thread::current().id()) {
            return true;
        }
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = running.threads.drain(..).map(|thread| clock::outside(|| thread.join()));
        let panics = ends.filter(Result::is_err).count();
        running.has_panicked |= panics > 0;
        !running.has_panicked
    }

    /// Returns true if none of them has ended, or if a thread still waits for their ends.
    pub(crate) fn all_run(&self) -> bool {
        let running = match self.running.try_lock() {
            Ok(running) => running,
            Err(TryLockError::Poisoned(running)) => running.into_inner(),
            Err(TryLockError::WouldBlock) => return true,
        };
        let threads = &running.threads;
        !threads.is_empty() && threads.iter().all(|thread| !thread.is_finished())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(20);

    /// Another thread waits for this loop: it must not wait for that thread in turn.
    #[test]
    fn a_loop_does_not_wait_while_another_thread_waits_for_it() {
        let (give, take) = crossbeam_channel::bounded::<Arc<LoopThreads>>(1);
        let mut threads = LoopThreads::default();
        threads.push(std::thread::spawn(move || {
            let threads = take.recv().unwrap();
            while threads.running.try_lock().is_ok() {
                std::thread::yield_now();
            }
            assert!(threads.all_run() && threads.join());
        }));
        let (threads, (done, ended)) = (Arc::new(threads), crossbeam_channel::bounded(1));
        give.send(threads.clone()).unwrap();
        std::thread::spawn(move || done.send((threads.join(), threads.all_run())));
        assert_eq!(ended.recv_timeout(LONG), Ok((true, false)));
    }

    #[test]
    fn all_are_waited_for_though_the_first_panicked() {
        let (done, ended) = crossbeam_channel::bounded::<()>(0);
        let mut threads = LoopThreads::default();
        threads.push(std::thread::spawn(|| panic!("on purpose")));
        threads.push(std::thread::spawn(move || assert!(ended.recv().is_err())));
        assert!(threads.ids.len() == 2 && !threads.ids.contains(&std::thread::current().id()));
        drop(done);
        assert!(!threads.join() && !threads.join());
        assert!(threads.running.lock().unwrap().threads.is_empty() && !threads.all_run());
    }
}
