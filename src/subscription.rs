//! What a gateway or a device tells a program, as it happens.

use std::fmt;
use std::sync::mpsc::{RecvError, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use crossbeam_channel as channel;

/// Events or records from the moment on at which a program subscribed to them. So many wait to be
/// read as the method that gave it out says; beyond, they are dropped. It ends with the gateway or
/// device that it came from.
///
/// Clones share what comes: each event goes to one of them.
///
/// ```
/// use std::time::Duration;
/// use reverse_http::{Body, Device, EventKind, Gateway};
///
/// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
/// let events = gateway.events();
/// let lamp = Device::builder(format!("http://{}/lamp", gateway.devices_addr())).build()?;
/// let running = lamp.spawn(|_| http::Response::new(Body::empty()))?;
/// assert_eq!(events.recv_timeout(Duration::from_secs(5))?.kind, EventKind::Up);
///
/// running.stop();
/// gateway.stop(Duration::ZERO);
/// drop(gateway);
/// assert!(events.iter().any(|event| event.kind == EventKind::Down)); // to the last one
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "what happens before the first read waits here, and is dropped with it"]
pub struct Subscription<T>(channel::Receiver<T>);

impl<T> Subscription<T> {
    pub(crate) fn new(receiver: channel::Receiver<T>) -> Self {
        Subscription(receiver)
    }

    /// Waits for the next one.
    ///
    /// # Errors
    /// The gateway or device has ended, and all was read.
    pub fn recv(&self) -> Result<T, RecvError> {
        self.0.recv().map_err(|_| RecvError)
    }

    /// Waits for the next one, at most for `time`.
    ///
    /// # Errors
    /// None came within `time`; the gateway or device has ended, and all was read.
    pub fn recv_timeout(&self, time: Duration) -> Result<T, RecvTimeoutError> {
        self.0.recv_timeout(time).map_err(|e| match e {
            channel::RecvTimeoutError::Timeout => RecvTimeoutError::Timeout,
            channel::RecvTimeoutError::Disconnected => RecvTimeoutError::Disconnected,
        })
    }

    /// The next one, if it is there.
    ///
    /// # Errors
    /// None waits; the gateway or device has ended, and all was read.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        self.0.try_recv().map_err(|e| match e {
            channel::TryRecvError::Empty => TryRecvError::Empty,
            channel::TryRecvError::Disconnected => TryRecvError::Disconnected,
        })
    }

    /// All that come, until the gateway or device has ended; each step waits.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        self.0.iter()
    }

    /// Those that are there; never waits.
    pub fn try_iter(&self) -> impl Iterator<Item = T> + '_ {
        self.0.try_iter()
    }
}

impl<T> Clone for Subscription<T> {
    fn clone(&self) -> Self {
        Subscription(self.0.clone())
    }
}

impl<T> fmt::Debug for Subscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("waiting", &self.0.len()).finish()
    }
}

impl<T> IntoIterator for Subscription<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        IntoIter(self.0.into_iter())
    }
}

/// All that come to a [`Subscription`], until the gateway or device has ended; each step waits.
pub struct IntoIter<T>(channel::IntoIter<T>);

impl<T> fmt::Debug for IntoIter<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntoIter").finish_non_exhaustive()
    }
}

impl<T> Iterator for IntoIter<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.next()
    }
}
