//! How a program ends its own requests from another thread.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Cancels requests in flight, from any thread; see
/// [`DeviceRef::cancel_with`](crate::DeviceRef::cancel_with). Clones refer to the same one.
/// Cancelling is permanent: later requests fail at once.
///
/// ```
/// use reverse_http::{Body, Cancel, ErrorKind, Gateway};
///
/// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
/// let cancel = Cancel::new();
/// let lamp = gateway.device("lamp").cancel_with(&cancel);
/// let other = std::thread::spawn({
///     let cancel = cancel.clone();
///     move || cancel.cancel()
/// });
/// other.join().unwrap();
/// let request = http::Request::get("/").body(Body::empty()).unwrap();
/// assert_eq!(lamp.send(request).unwrap_err().kind(), ErrorKind::Cancelled);
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Cancel(Arc<Shared>);

#[derive(Default)]
struct Shared {
    is_cancelled: AtomicBool,
    watchers: Mutex<Watchers>,
}

/// Operations in progress, and how to end each.
#[derive(Default)]
struct Watchers {
    wakes: BTreeMap<u64, Box<dyn FnOnce() + Send>>,
    latest: u64,
}

impl Cancel {
    /// A new handle, not cancelled.
    #[must_use]
    pub fn new() -> Self {
        Cancel::default()
    }

    /// Ends all operations that use it. Returns when every waiting thread was woken, without
    /// waiting for them to finish. A second call has no effect.
    pub fn cancel(&self) {
        // Under the lock, so that a watcher that ends its watch meanwhile waits and then sees that
        // it was woken.
        let mut watchers = self.watchers();
        self.0.is_cancelled.store(true, SeqCst);
        for (_, wake) in std::mem::take(&mut watchers.wakes) {
            wake();
        }
    }

    /// Returns true if it was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.load(SeqCst)
    }

    /// Has `wake` called when this is cancelled, unless the watch has ended by then. `None`: it is
    /// cancelled already. `wake` must not wait, nor use this handle.
    pub(crate) fn watch(&self, wake: impl FnOnce() + Send + 'static) -> Option<Watch> {
        let mut watchers = self.watchers();
        if self.is_cancelled() {
            return None;
        }
        watchers.latest += 1;
        let number = watchers.latest;
        watchers.wakes.insert(number, Box::new(wake));
        Some(Watch { cancel: self.clone(), number })
    }

    fn watchers(&self) -> MutexGuard<'_, Watchers> {
        self.0.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancel").field("is_cancelled", &self.is_cancelled()).finish()
    }
}

/// One request in progress.
pub(crate) struct Watch {
    cancel: Cancel,
    number: u64,
}

impl Watch {
    /// Ends the watch: the request is not cancelled from now on. Returns true if it was not
    /// cancelled before.
    pub(crate) fn end(self) -> bool {
        self.take()
    }

    fn take(&self) -> bool {
        self.cancel.watchers().wakes.remove(&self.number).is_some()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    #[allow(clippy::unwrap_used)]
    fn each_watch_is_woken_once_unless_it_has_ended() {
        let (cancel, woken) = (Cancel::new(), Arc::new(AtomicUsize::new(0)));
        let watch = || {
            let woken = woken.clone();
            cancel.watch(move || {
                woken.fetch_add(1, SeqCst);
            })
        };
        let (ended, dropped, kept) = (watch().unwrap(), watch().unwrap(), watch().unwrap());
        assert!(ended.end());
        drop(dropped);
        assert!(!cancel.is_cancelled());
        cancel.clone().cancel();
        cancel.cancel();
        assert_eq!(woken.load(SeqCst), 1);
        assert!(!kept.end() && cancel.is_cancelled() && watch().is_none());
        assert!(cancel.watchers().wakes.is_empty());
    }
}
