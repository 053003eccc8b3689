//! What a gateway or a device tells a program, as it happens.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{RecvError, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam_channel as channel;

/// Events or records, from the moment on at which a program subscribed to them. The method that
/// returned the subscription says how many may wait to be read; further ones are dropped. After the
/// last one, the subscription ends when its gateway or device was stopped or drained.
///
/// Clones share the events: each goes to one of them.
///
/// ```
/// use std::time::Duration;
/// use reverse_http::{Body, Device, GatewayEventKind, Gateway};
///
/// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
/// let events = gateway.events();
/// let lamp = Device::builder(format!("http://{}/lamp", gateway.devices_addr())).build()?;
/// let running = lamp.spawn(|_| http::Response::new(Body::empty()))?;
/// assert_eq!(events.recv_timeout(Duration::from_secs(5))?.kind, GatewayEventKind::Up);
///
/// running.stop();
/// gateway.stop();
/// drop(gateway);
/// assert!(events.iter().any(|event| event.kind == GatewayEventKind::Down)); // to the last one
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "what happens before the first read waits here, and is dropped with it"]
pub struct Subscription<T> {
    from: Source<T>,
    /// Lets the sender see whether there are readers: a channel would keep events that nobody can
    /// read any more.
    reader: Arc<()>,
}

enum Source<T> {
    Plain(channel::Receiver<T>),
    Charged(channel::Receiver<Charged<T>>),
}

/// Bytes that are counted until this is dropped.
pub(crate) struct Charge {
    bytes: usize,
    of: Arc<AtomicUsize>,
}

impl Charge {
    pub(crate) fn new(bytes: usize, of: &Arc<AtomicUsize>) -> Self {
        of.fetch_add(bytes, Relaxed);
        Charge { bytes, of: of.clone() }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Relaxed);
    }
}

/// A value whose bytes are counted until it is read, or until no reader is left.
pub(crate) struct Charged<T> {
    item: T,
    _charge: Charge,
}

impl<T> Charged<T> {
    pub(crate) fn new(item: T, charge: Charge) -> Self {
        Charged { item, _charge: charge }
    }

    pub(crate) fn into_item(self) -> T {
        self.item
    }
}

impl<T> Subscription<T> {
    pub(crate) fn new(receiver: channel::Receiver<T>) -> Self {
        Source::Plain(receiver).into()
    }

    #[cfg_attr(not(feature = "admin"), allow(dead_code))]
    pub(crate) fn charged(receiver: channel::Receiver<Charged<T>>) -> Self {
        Source::Charged(receiver).into()
    }

    /// Lets the sender see whether there are readers.
    pub(crate) fn readers(&self) -> Weak<()> {
        Arc::downgrade(&self.reader)
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// The gateway or device has ended, and all events were read.
    pub fn recv(&self) -> Result<T, RecvError> {
        let received = match &self.from {
            Source::Plain(from) => from.recv(),
            Source::Charged(from) => from.recv().map(Charged::into_item),
        };
        received.map_err(|_| RecvError)
    }

    /// Waits for the next event, at most for `time`.
    ///
    /// # Errors
    /// None came within `time`; the gateway or device has ended, and all events were read.
    pub fn recv_timeout(&self, time: Duration) -> Result<T, RecvTimeoutError> {
        let received = match &self.from {
            Source::Plain(from) => from.recv_timeout(time),
            Source::Charged(from) => from.recv_timeout(time).map(Charged::into_item),
        };
        received.map_err(|e| match e {
            channel::RecvTimeoutError::Timeout => RecvTimeoutError::Timeout,
            channel::RecvTimeoutError::Disconnected => RecvTimeoutError::Disconnected,
        })
    }

    /// Returns the next event, without waiting.
    ///
    /// # Errors
    /// There is none; the gateway or device has ended, and all events were read.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        let received = match &self.from {
            Source::Plain(from) => from.try_recv(),
            Source::Charged(from) => from.try_recv().map(Charged::into_item),
        };
        received.map_err(|e| match e {
            channel::TryRecvError::Empty => TryRecvError::Empty,
            channel::TryRecvError::Disconnected => TryRecvError::Disconnected,
        })
    }

    /// Iterates over all events until the gateway or device has ended; each step waits.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(|| self.recv().ok())
    }

    /// Iterates over the events that are there, without waiting.
    pub fn try_iter(&self) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(|| self.try_recv().ok())
    }

    fn waiting(&self) -> usize {
        match &self.from {
            Source::Plain(from) => from.len(),
            Source::Charged(from) => from.len(),
        }
    }
}

impl<T> From<Source<T>> for Subscription<T> {
    fn from(from: Source<T>) -> Self {
        Subscription { from, reader: Arc::new(()) }
    }
}

impl<T> Clone for Subscription<T> {
    fn clone(&self) -> Self {
        let from = match &self.from {
            Source::Plain(from) => Source::Plain(from.clone()),
            Source::Charged(from) => Source::Charged(from.clone()),
        };
        Subscription { from, reader: self.reader.clone() }
    }
}

impl<T> fmt::Debug for Subscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("waiting", &self.waiting()).finish()
    }
}

impl<T> IntoIterator for Subscription<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        IntoIter(self)
    }
}

/// Iterates over all events of a [`Subscription`] until the gateway or device has ended; each step
/// waits.
///
/// ```
/// let gateway = reverse_http::Gateway::builder().listen("127.0.0.1:0").start()?;
/// let events = gateway.events();
/// gateway.stop();
/// drop(gateway);
/// assert_eq!(events.into_iter().count(), 0); // no device came
/// # Ok::<(), reverse_http::Error>(())
/// ```
pub struct IntoIter<T>(Subscription<T>);

impl<T> fmt::Debug for IntoIter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntoIter").finish_non_exhaustive()
    }
}

impl<T> Iterator for IntoIter<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.recv().ok()
    }
}
