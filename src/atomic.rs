//! A 64-bit integer that threads share. Some 32-bit processors (MIPS, PowerPC) have no atomic one:
//! there it is behind a lock.

#[cfg(not(target_has_atomic = "64"))]
pub(crate) use locked::AtomicU64;
#[cfg(target_has_atomic = "64")]
pub(crate) use std::sync::atomic::AtomicU64;

/// Built for tests on every processor.
#[cfg(any(test, not(target_has_atomic = "64")))]
mod locked {
    use std::sync::atomic::Ordering;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// The methods of [`std::sync::atomic::AtomicU64`] that this crate calls. A lock orders at least
    /// as strictly as every `Ordering` but `SeqCst`, which nothing here uses.
    #[derive(Debug, Default)]
    pub(crate) struct AtomicU64(Mutex<u64>);

    impl AtomicU64 {
        pub(crate) fn new(value: u64) -> Self {
            AtomicU64(Mutex::new(value))
        }

        pub(crate) fn load(&self, _: Ordering) -> u64 {
            *self.value()
        }

        pub(crate) fn store(&self, value: u64, _: Ordering) {
            *self.value() = value;
        }

        /// Returns the former value. The sum wraps around.
        pub(crate) fn fetch_add(&self, more: u64, _: Ordering) -> u64 {
            let mut value = self.value();
            let sum = value.wrapping_add(more);
            std::mem::replace(&mut *value, sum)
        }

        /// Stores `new` if the value is `current`. Returns the former value, as an error if it was
        /// another.
        pub(crate) fn compare_exchange(
            &self,
            current: u64,
            new: u64,
            _: Ordering,
            _: Ordering,
        ) -> Result<u64, u64> {
            let mut value = self.value();
            match *value == current {
                true => Ok(std::mem::replace(&mut *value, new)),
                false => Err(*value),
            }
        }

        fn value(&self) -> MutexGuard<'_, u64> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{self, Ordering::Relaxed};

    use super::locked::AtomicU64;

    #[test]
    fn the_locked_integer_does_what_the_atomic_one_does() {
        let (ours, theirs) = (AtomicU64::new(7), atomic::AtomicU64::new(7));
        for n in [0, 1, u64::MAX, 1 << 40] {
            assert_eq!(ours.fetch_add(n, Relaxed), theirs.fetch_add(n, Relaxed), "{n}");
            assert_eq!(ours.load(Relaxed), theirs.load(Relaxed), "{n}");
        }
        let now = theirs.load(Relaxed);
        for current in [now, now, now ^ 1] {
            assert_eq!(
                ours.compare_exchange(current, 3, Relaxed, Relaxed),
                theirs.compare_exchange(current, 3, Relaxed, Relaxed)
            );
        }
        ours.store(u64::MAX, Relaxed);
        assert_eq!(ours.load(Relaxed), u64::MAX);
    }

    #[test]
    fn no_addition_of_another_thread_is_lost() {
        let sum = AtomicU64::default();
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..1000 {
                        sum.fetch_add(1, Relaxed);
                    }
                });
            }
        });
        assert_eq!(sum.load(Relaxed), 4000);
    }
}
