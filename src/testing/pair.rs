//! A gateway and a device in one process, on a clock that the test drives.

use std::fmt;
use std::sync::mpsc::channel;
use std::time::Duration;

use http::Request;

use crate::body::Body;
use crate::clock::{self, Clock};
use crate::device::{Device, DeviceHandle};
use crate::engine::pair_network::PairNetwork;
use crate::error::{Error, Fault};
use crate::gateway::{Gateway, GatewayBuilder};
use crate::response::IntoResponse;

/// A gateway and a device in this process (feature `test-clock`), without a network, on a clock
/// that stands still until [`advance`](Pair::advance) moves it. So a test sees heartbeats,
/// back-offs and timeouts without waiting for them, and only those that it has caused, however slow
/// the machine is.
///
/// The device is the given one, with its links, polls, limits and events; its URL's path is its
/// name, and its URL may have any host. It is connected when this returns, if it can be. The
/// gateway needs no address to listen on; other connections (visitors, a local server) use real
/// sockets.
///
/// ```
/// use std::time::Duration;
/// use http::Request;
/// use reverse_http::{Body, Device, Gateway, testing};
///
/// let device = Device::builder("http://gateway/lamp").build()?;
/// let pair = testing::pair(Gateway::builder(), &device, |_: Request<Body>| "on")?;
/// let lamp = pair.gateway.device("lamp");
/// let ask = || lamp.send(Request::get("/").body(Body::empty()).unwrap());
/// assert!(ask()?.status().is_success());
///
/// pair.advance(Duration::from_secs(3600)); // it has heartbeats meanwhile
/// assert!(ask()?.status().is_success());
/// # Ok::<(), reverse_http::Error>(())
/// ```
///
/// # Errors
/// Those of [`GatewayBuilder::start`] and [`Device::spawn`].
pub fn pair<R: IntoResponse>(
    gateway: GatewayBuilder,
    device: &Device,
    handler: impl Fn(Request<Body>) -> R + Send + Sync + 'static,
) -> Result<Pair, Error> {
    let clock = Clock::new();
    let (gateway, pair_listener) = gateway.start_on(Some(clock.clone()))?;
    let pair_listener =
        pair_listener.ok_or_else(|| Error::usage("a gateway listens on too many addresses"))?;
    let network = PairNetwork::new(pair_listener, clock.clone());
    device.connect_by(&network)?;
    let device = device.spawn(handler)?;
    clock.rest();
    Ok(Pair { gateway, device, network })
}

/// The result of [`pair`]. When it is dropped, both end, unless there are other handles on them.
///
/// Both sides use the clock: heartbeats, back-offs, polls, and every timeout of
/// [`Limits`](crate::Limits), of [`DeviceRef::timeout`](crate::DeviceRef::timeout) and of
/// [`wait_connected`](crate::DeviceRef::wait_connected). So a call that runs into such a timeout
/// returns when another thread moves the clock ([`advance_while`](Pair::advance_while)), and hangs
/// if none does.
///
/// The operating system's clock applies to waits of the program itself (`recv_timeout` of events, a
/// `sleep` in a handler), the expiry of tokens and certificates, an [`Upgraded`](crate::Upgraded)'s
/// timeouts, and the times in events, counters and logs. Pauses between a device's attempts are
/// random; a test advances by the longest
/// ([`DeviceBuilder::backoff`](crate::device::DeviceBuilder::backoff)).
pub struct Pair {
    /// The gateway. [`DeviceRef::send`](crate::DeviceRef::send) sends requests to the device.
    pub gateway: Gateway,
    /// The device.
    pub device: DeviceHandle,
    network: PairNetwork,
}

impl Pair {
    /// Moves the clock, from one deadline to the next. Before each, and before this returns, both
    /// sides have finished all pending work, and threads of handlers and of
    /// [`send`](crate::DeviceRef::send) wait again. It does not wait for a handler's own code, or
    /// for a body's reader: a test that depends on their progress needs a signal from them, for
    /// example over a channel.
    ///
    /// ```
    /// use std::sync::mpsc::channel;
    /// use std::time::Duration;
    /// use http::Request;
    /// use reverse_http::{Body, Device, ErrorKind, Gateway, testing};
    ///
    /// let (begun, begins) = channel();
    /// let (release, released) = channel();
    /// let (begun, released) = (std::sync::Mutex::new(begun), std::sync::Mutex::new(released));
    /// let hangs = move |_: Request<Body>| {
    ///     begun.lock().unwrap().send(()).unwrap();
    ///     released.lock().unwrap().recv().unwrap();
    /// # ""
    /// };
    /// let device = Device::builder("http://gateway/lamp").build()?;
    /// let pair = testing::pair(Gateway::builder(), &device, hangs)?;
    ///
    /// let lamp = pair.gateway.device("lamp").timeout(Duration::from_secs(30));
    /// let asking =
    ///     std::thread::spawn(move || lamp.send(Request::get("/").body(Body::empty()).unwrap()));
    /// begins.recv()?; // the handler has the request
    /// pair.advance(Duration::from_secs(29));
    /// assert!(!asking.is_finished());
    /// pair.advance(Duration::from_secs(1));
    /// assert_eq!(asking.join().unwrap().unwrap_err().kind(), ErrorKind::Timeout);
    /// release.send(())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn advance(&self, time: Duration) {
        self.network.clock.advance(time);
    }

    /// Runs a call that may wait for the clock on another thread, and moves the clock by `step`
    /// repeatedly until it returns.
    ///
    /// ```
    /// use std::time::Duration;
    /// use http::Request;
    /// use reverse_http::{Body, Device, ErrorKind, Gateway, testing};
    ///
    /// let device = Device::builder("http://gateway/lamp").build()?;
    /// let pair = testing::pair(Gateway::builder(), &device, |_: Request<Body>| "on")?;
    /// pair.set_reachable(false);
    /// pair.disconnect();
    /// let lamp = pair.gateway.device("lamp");
    /// let ask = || lamp.send(Request::get("/").body(Body::empty()).unwrap());
    /// // It waits for the device to come back, which takes `Limits::wait_for_link`.
    /// let away = pair.advance_while(Duration::from_secs(1), ask).unwrap_err();
    /// assert_eq!(away.kind(), ErrorKind::Away);
    /// # Ok::<(), reverse_http::Error>(())
    /// ```
    ///
    /// # Panics
    /// If the call panics.
    pub fn advance_while<T: Send>(&self, step: Duration, call: impl FnOnce() -> T + Send) -> T {
        let (waits, first_wait) = channel();
        std::thread::scope(|scope| {
            let calling = scope.spawn(move || {
                clock::announce(waits);
                call()
            });
            // A call that waits for something else does not delay this.
            let _ = first_wait.recv_timeout(Duration::from_secs(1));
            while !calling.is_finished() {
                self.advance(step);
                std::thread::yield_now();
            }
            calling.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// How far the clock has been moved.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.network.clock.elapsed()
    }

    /// Sets whether the device can connect to its gateway. While it cannot, each attempt fails at
    /// once, and is repeated after a pause. Existing connections stay open.
    ///
    /// ```
    /// use std::time::Duration;
    /// use http::Request;
    /// use reverse_http::{Body, Device, DeviceEventKind, Gateway, testing};
    ///
    /// let seconds = Duration::from_secs;
    /// let device = Device::builder("http://gateway/lamp").backoff(seconds(1)..seconds(30)).build()?;
    /// let events = device.events();
    /// let pair = testing::pair(Gateway::builder(), &device, |_: Request<Body>| "on")?;
    /// assert_eq!(events.recv_timeout(seconds(5))?.kind, DeviceEventKind::Connected);
    ///
    /// pair.set_reachable(false);
    /// pair.disconnect();
    /// assert!(pair.gateway.devices()?.is_empty());
    /// pair.advance(seconds(300));
    /// assert!(events.try_iter().filter(|e| e.kind == DeviceEventKind::Failed).count() > 5);
    ///
    /// pair.set_reachable(true);
    /// pair.advance(seconds(30));
    /// assert_eq!(pair.gateway.devices()?.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_reachable(&self, is_reachable: bool) {
        self.network.set_open(is_reachable);
    }

    /// Ends every connection between the two, so that both sides notice it. Returns when they have.
    pub fn disconnect(&self) {
        self.network.break_off();
        self.network.clock.rest();
    }

    /// From now on, loses all bytes on existing connections, and their ends, without telling either
    /// side, like a router that has forgotten them. New connections work normally.
    ///
    /// ```
    /// use std::time::Duration;
    /// use http::Request;
    /// use reverse_http::{Body, CloseCause, Device, Gateway, testing};
    ///
    /// let device = Device::builder("http://gateway/lamp").links(1..=1).build()?;
    /// let pair = testing::pair(Gateway::builder(), &device, |_: Request<Body>| "on")?;
    /// pair.advance(Duration::from_secs(26)); // the first heartbeat
    /// pair.stall()?;
    /// pair.advance(Duration::from_secs(36)); // the next one has no answer
    /// let stats = pair.gateway.stats();
    /// assert_eq!((stats.devices, stats.closed.of(CloseCause::HeartbeatMissed)), (0, 1));
    ///
    /// // In its time the device gives the link up, too, and dials another.
    /// pair.advance(Duration::from_secs(120));
    /// assert_eq!(pair.gateway.stats().devices, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn stall(&self) -> Result<(), Error> {
        self.network.stall().map_err(|e| Error::io(Fault::Caller, "holding stalled connections", e))
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("elapsed", &self.elapsed()).finish_non_exhaustive()
    }
}
