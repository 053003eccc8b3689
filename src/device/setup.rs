//! A configured device: how it is started, and the code that answers its requests.

use std::fmt;
use std::io;
#[cfg(feature = "files")]
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use http::Request;

use crate::body::Body;
use crate::device::command::Command;
use crate::device::counters::Counters;
use crate::device::events::DeviceEvent;
use crate::device::exchange::Exchange;
#[cfg(feature = "files")]
use crate::device::files::Files;
use crate::device::group::LoopGroup;
use crate::device::handle::DeviceHandle;
use crate::device::handle::Running;
use crate::device::handle::StopOnDrop;
use crate::device::lease::Lease;
use crate::device::listener::Listener;
use crate::device::plan::Plan;
use crate::device::plan::Service;
use crate::device::role::DeviceRole;
use crate::device::servers::Common;
use crate::device::servers::LocalServers;
use crate::device::servers::Servers;
use crate::device::target::Edits;
use crate::engine::event_loop::EventLoop;
use crate::engine::loop_threads::LoopThreads;
#[cfg(feature = "test-clock")]
use crate::engine::pair_network::PairNetwork;
use crate::error::{Error, Fault};
use crate::limits::Limits;
use crate::response::IntoResponse;
use crate::subscription::Subscription;
#[cfg(feature = "tls")]
use crate::tls::LocalTls;

/// A configured device, which is not connected yet. One of [`serve`](Device::serve),
/// [`spawn`](Device::spawn), [`recv`](Device::recv), [`listen`](Device::listen),
/// [`forward_to`](Device::forward_to) and (feature `files`) `serve_dir` starts it.
///
/// ```no_run
/// use reverse_http::{Body, Device};
/// let device = Device::builder("http://gw.example:9999/lamp").links(1..=8).build()?;
/// device.serve(|request| http::Response::new(Body::from(format!("you asked for {}\n", request.uri()))))?; // blocks
/// # Ok::<(), reverse_http::Error>(())
/// ```
pub struct Device {
    pub(super) limits: Arc<Limits>,
    pub(super) link_limits: Arc<Limits>,
    pub(super) parts: Mutex<Option<Parts>>,
    pub(super) events: Receiver<DeviceEvent>,
    pub(super) queue: OnceLock<Queue>,
    pub(super) starting: Mutex<()>,
}

pub(super) struct Parts {
    /// One event loop each.
    pub(super) members: Vec<(Plan, Arc<Counters>)>,
    pub(super) events: Sender<DeviceEvent>,
    pub(super) host_header: Option<String>,
    pub(super) maps_origin: bool,
    pub(super) edits: Edits,
    #[cfg(feature = "tls")]
    pub(super) local_tls: Option<LocalTls>,
}

impl Parts {
    /// The local servers that are given.
    fn servers(&self, given: LocalServers, limits: &Limits) -> Result<Servers, Error> {
        #[cfg(feature = "tls")]
        let (has_tls, connector) = (self.local_tls.is_some(), || {
            self.local_tls.clone().unwrap_or_default().connector().map(Arc::new)
        });
        #[cfg(not(feature = "tls"))]
        let (has_tls, connector) =
            (false, || Err(Error::usage("this build has no TLS (feature tls)")));
        let common = Common {
            host_header: self.host_header.as_deref(),
            maps_origin: self.maps_origin,
            edits: &self.edits,
            connections_max: limits.local_connections_max,
            has_tls,
            connector: &connector,
        };
        Servers::new(given, &common)
    }
}

/// # Errors
/// Rejects TCP targets with `listen()`, whose program would get their requests, and field edits
/// without a local server.
fn check_parts(parts: &Parts, service: &Service) -> Result<(), Error> {
    if !parts.edits.are_none() && !matches!(service, Service::Forward(_)) {
        return Err(Error::usage(
            "fields are edited for a local server, and this device forwards to none",
        ));
    }
    let has_tcp = parts.members.iter().any(|(plan, _)| !plan.tcp.is_empty());
    match has_tcp && matches!(service, Service::Listen(_)) {
        true => Err(Error::usage(
            "TCP targets are given, and listen() gives whole links to the program; use one or the other",
        )),
        false => Ok(()),
    }
}

fn started() -> Error {
    Error::usage("this device was started already; build a second one")
}

/// The links that wait for the program, for `recv()` and `listen()`.
pub(super) struct Queue {
    kind: Kind,
    links: Receiver<Lease>,
    running: Arc<StopOnDrop>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Receive,
    Listen,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("started", &self.lock().is_none()).finish_non_exhaustive()
    }
}

impl Device {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Parts>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the device reach its gateways only through this in-process connection.
    ///
    /// # Errors
    /// It was started already.
    #[cfg(feature = "test-clock")]
    pub(crate) fn connect_by(&self, network: &PairNetwork) -> Result<(), Error> {
        let mut slot = self.lock();
        let parts = slot.as_mut().ok_or_else(started)?;
        parts.members.iter_mut().for_each(|(plan, _)| plan.network = Some(network.clone()));
        Ok(())
    }

    fn start(
        &self,
        service: impl FnOnce(&Parts) -> Result<Service, Error>,
    ) -> Result<DeviceHandle, Error> {
        let mut slot = self.lock();
        let parts = slot.as_ref().ok_or_else(started)?;
        let service = service(parts)?;
        check_parts(parts, &service)?;
        let local_secure = matches!(&service, Service::Forward(servers) if servers.iter().any(|target| target.tls.is_some()));
        #[cfg(feature = "tls")]
        if parts.local_tls.is_some() && !local_secure {
            return Err(Error::usage(
                "settings of TLS are given for a local server, and this device forwards to none",
            ));
        }
        let failed =
            |e: io::Error| Error::io(Fault::Network, "starting the device's event loop", e);
        let loops = parts
            .members
            .iter()
            .map(|(plan, _)| {
                let (mut event_loop, remote) = EventLoop::<DeviceRole>::new(&self.limits)?;
                plan.network.iter().for_each(|network| event_loop.follow(&network.clock, &remote));
                Ok((event_loop, remote))
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        let Some(parts) = slot.take() else {
            return Err(Error::usage("this device was started already"));
        };
        let secure = parts.members.iter().any(|(plan, _)| plan.tls.is_some());
        let group = Arc::new(LoopGroup::default());
        let (mut shared, mut threads) = (Vec::new(), LoopThreads::default());
        let mut waiting = Vec::new();
        for ((plan, counters), (event_loop, remote)) in parts.members.into_iter().zip(loops) {
            let place = (group.clone(), group.join(remote.clone()));
            let (limits, service, events) = (
                [&self.limits, &self.link_limits].map(Arc::clone),
                service.clone(),
                parts.events.clone(),
            );
            shared.push(counters.clone());
            waiting.push((
                event_loop,
                DeviceRole::new(limits, (plan, counters), service, remote, events, place),
            ));
        }
        // All loops join the group before the first of them can give up.
        for (event_loop, role) in waiting {
            let failure = group.clone();
            let run = move || {
                if let Err(e) = event_loop.run(role) {
                    failure.fail(Error::io(Fault::Network, "running the device's event loop", e));
                }
            };
            match std::thread::Builder::new().name("ptth-device".to_owned()).spawn(run) {
                Ok(thread) => threads.push(thread),
                Err(e) => {
                    group.send(|| Command::Drain(Duration::ZERO));
                    return Err(failed(e));
                }
            }
        }
        group.send(|| Command::TopUp);
        Ok(DeviceHandle(Arc::new(Running { group, shared, threads, secure, local_secure })))
    }

    /// Answers requests with `handler`, until the process ends or the gateway refuses
    /// ([`OnRefusal::Stop`](crate::OnRefusal::Stop)). The handler returns a response or anything
    /// that [converts into one](IntoResponse), and runs on worker threads, up to
    /// [`handlers_max`](Limits::handlers_max) at once for each gateway; further requests wait for a
    /// thread. If it panics, only that request is lost; it is answered with 500.
    ///
    /// # Errors
    /// The device was started before; there is no thread or descriptor; the gateway refused the
    /// device.
    pub fn serve<R: IntoResponse>(
        &self,
        handler: impl Fn(Request<Body>) -> R + Send + Sync + 'static,
    ) -> Result<(), Error> {
        self.spawn(handler)?.wait()
    }

    /// Like [`serve`](Self::serve), in the background, until the last clone of the handle is
    /// dropped.
    ///
    /// # Errors
    /// The device was started before; there is no thread or descriptor.
    pub fn spawn<R: IntoResponse>(
        &self,
        handler: impl Fn(Request<Body>) -> R + Send + Sync + 'static,
    ) -> Result<DeviceHandle, Error> {
        let handler = move |request| handler(request).into_response();
        self.start(|_| Ok(Service::Handler(Arc::new(handler))))
    }

    /// Forwards requests to a local HTTP server, `http://127.0.0.1:3000`, `https://nas.internal`
    /// (feature `tls`; `DeviceBuilder::local_tls`) or `unix:/run/app.sock`, or to several by their
    /// paths ([`LocalServer`](crate::device::LocalServer)), until the process ends or the gateway
    /// refuses. No request occupies a thread, however slow it is. Each server has its own
    /// connections. Requests for paths without a server get 404.
    ///
    /// # Errors
    /// A server is invalid; two have the same path; there are more than 64; a server at `https://`
    /// cannot be verified, as the system has no root certificates; those of [`serve`](Self::serve).
    pub fn forward_to(&self, servers: impl Into<LocalServers>) -> Result<(), Error> {
        self.spawn_forward(servers)?.wait()
    }

    /// Like [`forward_to`](Self::forward_to), in the background.
    ///
    /// # Errors
    /// Those of [`forward_to`](Self::forward_to) that occur at the start.
    pub fn spawn_forward(&self, servers: impl Into<LocalServers>) -> Result<DeviceHandle, Error> {
        self.start(|parts| Ok(Service::Forward(parts.servers(servers.into(), &self.limits)?)))
    }

    /// Serves the files of a directory, until the process ends or the gateway refuses (feature
    /// `files`).
    ///
    /// It answers GET and HEAD, with validators, conditional requests and single ranges (RFC 9110).
    /// For a folder it serves `index.html`; there are no listings. Symbolic links are followed as
    /// long as they stay inside. Anything outside, names that begin with a dot (except
    /// `/.well-known`), and anything that is not a regular file get 404. A file that may not be
    /// read gets 403. The directory is opened once, at the call: if it is replaced later, the old
    /// one is still served. Its contents may change at any time.
    ///
    /// ```no_run
    /// use reverse_http::Device;
    /// Device::builder("http://gw.example:9999/lamp").build()?.serve_dir("/srv/lamp")?; // blocks
    /// # Ok::<(), reverse_http::Error>(())
    /// ```
    ///
    /// # Errors
    /// The path is not a directory, or may not be entered (`is_usage()`); those of
    /// [`serve`](Self::serve).
    #[cfg(feature = "files")]
    pub fn serve_dir(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.spawn_dir(path)?.wait()
    }

    /// Like [`serve_dir`](Self::serve_dir), in the background.
    ///
    /// # Errors
    /// The path is not a directory, or may not be entered (`is_usage()`); those of
    /// [`spawn`](Self::spawn).
    #[cfg(feature = "files")]
    pub fn spawn_dir(&self, path: impl AsRef<Path>) -> Result<DeviceHandle, Error> {
        let files = Files::open(path.as_ref())?;
        self.spawn(move |request| files.answer(&request))
    }

    /// Validates local servers as [`forward_to`](Self::forward_to) does, without
    /// connecting to them or to a gateway.
    ///
    /// # Errors
    /// They are invalid, or the device was started already (`is_usage()`).
    pub fn check_forward(&self, servers: impl Into<LocalServers>) -> Result<(), Error> {
        match &*self.lock() {
            Some(parts) => parts.servers(servers.into(), &self.limits).map(drop),
            None => Err(started()),
        }
    }

    /// Validates a directory as [`serve_dir`](Self::serve_dir) does, without connecting to a
    /// gateway.
    ///
    /// # Errors
    /// It is not a directory, or may not be entered (`is_usage()`).
    #[cfg(feature = "files")]
    pub fn check_dir(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        Files::open(path.as_ref()).map(drop)
    }

    /// Subscribes to what happens between this device and its gateways. At most
    /// [`Limits::events_max`] events wait to be read; more are dropped. The subscription ends when
    /// the device was stopped or drained, or has failed, and all events were read.
    pub fn events(&self) -> Subscription<DeviceEvent> {
        Subscription::new(self.events.clone())
    }

    /// A handle on the device that [`recv`](Self::recv) or [`listen`](Self::listen) has started, to
    /// read its counters, to drain it, or to stop it from another thread. `None` before their first
    /// call. The device ends when its `Device` or [`Listener`] is dropped, even if such a handle
    /// still exists.
    ///
    /// ```
    /// use std::time::Duration;
    /// use reverse_http::{Device, Gateway};
    ///
    /// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    /// let device = Device::builder(format!("http://{}/lamp", gateway.devices_addr())).build()?;
    /// assert!(device.handle().is_none());
    /// assert!(device.recv_timeout(Duration::ZERO)?.is_none()); // no request yet
    /// let handle = device.handle().expect("it runs");
    /// std::thread::spawn(move || handle.stop());
    /// assert!(device.recv().is_err_and(|e| e.is_stopped()));
    /// # Ok::<(), reverse_http::Error>(())
    /// ```
    pub fn handle(&self) -> Option<DeviceHandle> {
        self.queue.get().map(|queue| queue.running.0.clone())
    }

    fn queue(&self, kind: Kind) -> Result<&Queue, Error> {
        let _one_starts = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = self.queue.get() {
            return match queue.kind == kind {
                true => Ok(queue),
                false => Err(Error::usage(
                    "this device is used with recv() and with listen(); build one for each",
                )),
            };
        }
        let mut incoming = None;
        let handle = self.start(|parts| {
            // Offers that were pending when the gateway fell back may be polls beyond the wanted
            // number, for one event each.
            let (sender, receiver) = bounded(
                parts
                    .members
                    .iter()
                    .map(|(plan, shared)| 2 * shared.max() + plan.polls.end())
                    .sum(),
            );
            incoming = Some(receiver);
            Ok(match kind {
                Kind::Receive => Service::Receive(sender),
                Kind::Listen => Service::Listen(sender),
            })
        })?;
        let Some(links) = incoming else {
            return Err(Error::usage("this device was started already"));
        };
        Ok(self.queue.get_or_init(|| Queue { kind, links, running: Arc::new(StopOnDrop(handle)) }))
    }

    /// Waits for the next request, for programs that have a loop of their own, on one thread or on
    /// several. The first call starts the device; dropping the `Device` ends it and cuts exchanges
    /// in progress.
    ///
    /// # Errors
    /// The device was started in another way, was refused by the gateway, or was stopped.
    pub fn recv(&self) -> Result<Exchange, Error> {
        loop {
            let queue = self.queue(Kind::Receive)?;
            let lease = queue.links.recv().map_err(|_| queue.running.0.ended())?;
            if let Some(exchange) = Exchange::begin(lease, &self.link_limits) {
                return Ok(exchange);
            }
        }
    }

    /// Waits for the next request; `None`: there was none within `time`.
    ///
    /// # Errors
    /// Those of [`recv`](Self::recv).
    pub fn recv_timeout(&self, time: Duration) -> Result<Option<Exchange>, Error> {
        let Some(end) = std::time::Instant::now().checked_add(time) else {
            return self.recv().map(Some);
        };
        loop {
            let queue = self.queue(Kind::Receive)?;
            match queue.links.recv_deadline(end) {
                Ok(lease) => {
                    if let Some(exchange) = Exchange::begin(lease, &self.link_limits) {
                        return Ok(Some(exchange));
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => return Err(queue.running.0.ended()),
            }
        }
    }

    /// Returns turned connections one by one, as `std::net` returns TCP connections: MIN wait in a
    /// queue, at most MAX exist at once. The gateway may send a request over a link that waits here
    /// at any time, so accept in a loop and serve each link on its own thread. A program that
    /// serves one at a time should set `links(1..=1)`.
    ///
    /// Where the device falls back, each poll delivers its requests over a separate link, made when
    /// the first one arrives; a program that serves one at a time should also set `polls(1..=1)`.
    ///
    /// # Errors
    /// The device was started in another way; there is no thread or descriptor.
    pub fn listen(&self) -> Result<Listener, Error> {
        let queue = self.queue(Kind::Listen)?;
        Ok(Listener {
            queue: queue.links.clone(),
            running: queue.running.clone(),
            limits: self.link_limits.clone(),
        })
    }
}
