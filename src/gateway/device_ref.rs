//! One device of a gateway, by name: programs send requests to it, and wait for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use http::{Request, Response};

use crate::body::Body;
use crate::cancel::{Cancel, Watch};
use crate::clock;
use crate::close_reason::CloseCause;
use crate::error::{Error, Fault};
use crate::gateway::handle::{Gateway, stopped};
use crate::gateway::leases::{Lease, Leased};
use crate::gateway::loops::Loops;
use crate::gateway::state::{Borrow, Command};
use crate::gateway::stats::LinkCounts;
#[cfg(doc)]
use crate::limits::Limits;
use crate::link::{
    BegunResponse, Done, GatewayLink, NothingArrived, Owned, Settlement, Switched, Whole,
};
use crate::proto::turn::{Name, Transport};
use crate::relay::{Wait, Waits};
use crate::stream::Shared;
use crate::upgraded::Upgraded;

/// A handle on one device of a gateway, by name. It also keeps the gateway running.
///
/// ```
/// use std::time::Duration;
/// use reverse_http::{Body, Device, Gateway, Transport};
///
/// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
/// let lamp = gateway.device("lamp");
/// let device = Device::builder(format!("http://{}/lamp", gateway.devices_addr())).build()?;
/// let running = device.spawn(|_| http::Response::new(Body::from("on")))?;
/// lamp.wait_connected(Duration::from_secs(5))?;
/// assert_eq!(lamp.transport()?, Some(Transport::Turn));
/// let response = lamp.send(http::Request::get("/status").body(Body::empty()).unwrap())?;
/// assert_eq!(response.into_body().read_to_text(100)?, "on");
/// # running.stop();
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct DeviceRef {
    gateway: Gateway,
    name: String,
    timeout: Option<Duration>,
    cancel: Option<Cancel>,
}

impl Gateway {
    /// A device by its name (or by an origin that it registered). It need not be connected.
    #[must_use]
    pub fn device(&self, name: &str) -> DeviceRef {
        DeviceRef { gateway: self.clone(), name: name.to_owned(), timeout: None, cancel: None }
    }
}

impl DeviceRef {
    /// The same device, with a deadline for each exchange of this handle, from [`send`](Self::send)
    /// to the last byte of the response's body. The shorter of this and
    /// [`Limits::exchange_timeout`] applies. When it has passed, reads and writes fail with
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout), and the link is closed. If it passes
    /// before there is a link, the error says why there is none: [`Away`](crate::ErrorKind::Away)
    /// or [`Busy`](crate::ErrorKind::Busy). Default, and with a time of zero: only the limit
    /// applies.
    ///
    /// ```
    /// use std::time::Duration;
    /// use reverse_http::{Body, ErrorKind, Gateway};
    ///
    /// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    /// let sensor = gateway.device("sensor").timeout(Duration::from_millis(20));
    /// let request = http::Request::get("/temperature").body(Body::empty()).unwrap();
    /// assert_eq!(sensor.send(request).unwrap_err().kind(), ErrorKind::Unknown);
    /// # Ok::<(), reverse_http::Error>(())
    /// ```
    #[must_use]
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = Some(time);
        self
    }

    /// The same device, with requests that end when this is cancelled, from any thread:
    /// [`send`](Self::send), [`wait_connected`](Self::wait_connected), and reads of response bodies
    /// fail at once with [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled). The link in use is
    /// closed, which tells the device; the answer of a device that polls, and has already received
    /// the request, is discarded. An exchange that is complete by then is not affected, and its
    /// link is used again. If reading the request's body blocks, the cancellation takes effect only
    /// afterwards.
    ///
    /// ```
    /// use std::time::Duration;
    /// use reverse_http::{Body, Cancel, Device, ErrorKind, Gateway};
    ///
    /// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    /// let url = format!("http://{}/lamp", gateway.devices_addr());
    /// let device = Device::builder(url).build()?.spawn(|_| {
    ///     std::thread::sleep(Duration::from_secs(1));
    ///     "on"
    /// })?;
    /// gateway.device("lamp").wait_connected(Duration::from_secs(5))?;
    ///
    /// let cancel = Cancel::new();
    /// let lamp = gateway.device("lamp").cancel_with(&cancel);
    /// let asking = std::thread::spawn(move || {
    ///     lamp.send(http::Request::get("/").body(Body::empty()).unwrap())
    /// });
    /// cancel.cancel();
    /// assert_eq!(asking.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    /// # device.stop();
    /// # Ok::<(), reverse_http::Error>(())
    /// ```
    #[must_use]
    pub fn cancel_with(mut self, cancel: &Cancel) -> Self {
        self.cancel = Some(cancel.clone());
        self
    }

    /// The deadline of an exchange that begins now, if there is one.
    fn whole(&self) -> Option<Whole> {
        let (limit, now) = (self.gateway.0.limits.get().exchange_timeout, self.gateway.0.now());
        match self.timeout {
            Some(own) if !own.is_zero() && (limit.is_zero() || own < limit) => {
                Whole::new("DeviceRef::timeout", own, now)
            }
            _ => Whole::new("exchange_timeout", limit, now),
        }
    }

    /// Sends a request to the device, over a link, or through its mailbox if it polls. Blocks until
    /// the head of the response has arrived; the body is streamed.
    ///
    /// Waits up to [`Limits::wait_for_link`] for a link if none is idle. A request without a body
    /// and with an idempotent method is sent once more, on another link, if the first was closed
    /// before a byte of the response arrived (RFC 9110 §9.2.2); other requests are never repeated.
    /// A request to a device that polls is sent as a whole: its body is read into memory first, up
    /// to [`Limits::message_bytes_max`].
    ///
    /// A device that is connected to another gateway is reached over one hop, if this gateway knows
    /// others ([`GatewayBuilder::peers`](crate::GatewayBuilder::peers)). What the other gateway
    /// answers in place of the device (503, 504) is then returned as a response with
    /// `Proxy-Status`, and not as an error.
    ///
    /// A request with `Upgrade` and without a body offers an upgrade (to a WebSocket, say); if the
    /// device answers 101, [`Upgraded::from_response`](crate::Upgraded::from_response) returns the
    /// connection. Its link is not used for other requests again. A request with a body offers
    /// nothing: it is sent without its `Upgrade`.
    ///
    /// # Errors
    /// The device is unknown (404), away or busy (503); the gateway is full; a timeout expired
    /// (504); the device closed the connection or violated the protocol (502); the request's own
    /// body failed; the request was cancelled; the gateway was stopped; for a device that polls:
    /// the body is too long (413), or the request offers an upgrade (501). [`Error::kind`] tells
    /// them apart.
    pub fn send(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        match &self.gateway.0.clock {
            None => self.send_counted(request),
            Some(clock) => clock.work().run(|| self.send_counted(request)),
        }
    }

    fn send_counted(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        self.gateway.refuse_on_link("send()")?;
        self.check_name()?;
        let (parts, body) = request.into_parts();
        let whole = self.whole();
        let again = (body.length() == Some(0)
            && crate::proto::head::is_idempotent(parts.method.as_str()))
        .then(|| parts.clone());
        match (self.send_once(Request::from_parts(parts, body), whole), again) {
            (Err((e, true)), Some(parts)) if e.is_closed() => {
                self.send_once(Request::from_parts(parts, Body::empty()), whole).map_err(|(e, _)| e)
            }
            (other, _) => other.map_err(|(e, _)| e),
        }
    }

    /// With an error it also returns whether no byte of a response had arrived.
    fn send_once(
        &self,
        request: Request<Body>,
        whole: Option<Whole>,
    ) -> Result<Response<Body>, (Error, bool)> {
        let lease = self.borrow(whole).map_err(|e| (e, false))?;
        let watch = match self.cancel.as_ref().map(|cancel| watch_lease(cancel, &lease)) {
            Some(None) => return Err((self.give_back(lease), false)),
            Some(watch) => watch,
            None => None,
        };
        let Lease { stream, unread, of, cut_error, airplay, waiting } = lease;
        let done = returning(self.gateway.0.loops.clone(), of, watch);
        if let Err(e) = stream.set_nonblocking(false) {
            done(Err(None));
            return Err((Error::io(Fault::Network, "making a link blocking", e), false));
        }
        let link = GatewayLink::within(
            Shared::new(stream),
            unread,
            Arc::new(self.gateway.0.limits.get().with_room()),
        )
        .taking_events(airplay);
        let owned = Owned { first: None, waiting, whole, cut_error: cut_error.clone(), done };
        // For a mailbox, the loop has already tried again if that was allowed.
        let asked = link.ask_owned(request, owned);
        let BegunResponse { mut response, switched } =
            asked.map_err(|(e, NothingArrived(nothing))| (e, nothing && of != Leased::Pair))?;
        if let Some(Switched { stream, unread, settlement }) = switched {
            let over = Over(Mutex::new(Some(settlement)));
            let stopping = self.gateway.0.upgrades.add();
            let upgraded = Upgraded::new(stream, unread, stopping, cut_error, over);
            let failed = |e| Error::io(Fault::Network, "switching a link to another protocol", e);
            upgraded.map_err(|e| (failed(e), false))?.put_into(&mut response);
        }
        Ok(response)
    }

    /// Rejects a name that no device can have.
    pub(super) fn check_name(&self) -> Result<(), Error> {
        let read = if self.name.contains("://") {
            Name::origin(&self.name)
        } else {
            Name::label(&self.name)
        };
        read.map(drop)
            .map_err(|e| Error::usage(format!("device name {:?}: {}", self.name, e.reason)))
    }

    /// Returns a lease that arrived after the request was cancelled, and makes the error for that.
    fn give_back(&self, lease: Lease) -> Error {
        let Lease { stream, unread, of, .. } = lease;
        if let Leased::Link(lease) = of {
            let stream = Arc::into_inner(stream).map(|stream| (stream, unread));
            let stream = stream.ok_or(CloseCause::Program.because(CANCELLED));
            self.gateway.0.loops.send(lease.home(), Command::Return { lease, stream });
        }
        Error::cancelled()
    }

    /// Tells the loops if this is cancelled while a thread waits for them.
    fn watch_wait(&self) -> Result<Option<Watch>, Error> {
        let Some(cancel) = &self.cancel else { return Ok(None) };
        let loops = self.gateway.0.loops.clone();
        let watch = cancel.watch(move || loops.send_others(loops.len(), || Command::Cancelled));
        watch.map(Some).ok_or_else(Error::cancelled)
    }

    fn borrow(&self, whole: Option<Whole>) -> Result<Lease, Error> {
        let _watch = self.watch_wait()?;
        let (reply, answer) = bounded(1);
        let waits = Waits::of(&self.gateway.0.limits.get());
        let left = whole.map_or(waits.link.time, |whole| whole.left(self.gateway.0.now()));
        let wait = if left < waits.link.time {
            Wait { time: left, name: whole.map_or(waits.exchange.name, |whole| whole.name()) }
        } else {
            waits.link
        };
        let (name, cancel) = (self.name.clone(), self.cancel.clone());
        let wanted = Borrow { name, wait, moves: 0, cancel, reply };
        self.gateway.command(self.home(), Command::Borrow(wanted))?;
        clock::outside(|| answer.recv()).map_err(|_| stopped())?
    }

    /// The loop that has the device, or will get it.
    pub(super) fn home(&self) -> usize {
        self.gateway.0.loops.home_of(&self.name)
    }

    /// Waits until the device is connected to this gateway, by links or by polls. A device that is
    /// connected to another gateway ([`Peers`](crate::Peers)) does not count, although
    /// [`send`](Self::send) reaches it.
    ///
    /// # Errors
    /// It did not connect within `time` ([`Error::is_not_connected`]: `Away`, or `Unknown` if no
    /// token or route names it and it was not connected recently); the name is invalid; the wait was
    /// cancelled; the gateway was stopped.
    pub fn wait_connected(&self, time: Duration) -> Result<(), Error> {
        self.check_name()?;
        let (reply, answer) = bounded(1);
        let _watch = self.watch_wait()?;
        let (name, cancel) = (self.name.clone(), self.cancel.clone());
        self.gateway.command(self.home(), Command::Wait { name, time, cancel, reply })?;
        let most = time.saturating_add(Duration::from_secs(5)); // if a loop hangs
        match clock::outside(|| answer.recv_timeout(most)) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => {
                Err(Error::timeout(Fault::Gateway, "the gateway's event loop did not answer"))
            }
            Err(RecvTimeoutError::Disconnected) => Err(stopped()),
        }
    }

    /// The current number of links of the device.
    ///
    /// # Errors
    /// The gateway was stopped.
    pub fn links(&self) -> Result<LinkCounts, Error> {
        self.connection().map(|(links, _)| links)
    }

    /// How the device is connected: by links, or by polls in one of two encodings; `None`: it is
    /// not connected.
    ///
    /// # Errors
    /// The gateway was stopped.
    pub fn transport(&self) -> Result<Option<Transport>, Error> {
        self.connection().map(|(_, transport)| transport)
    }

    fn connection(&self) -> Result<(LinkCounts, Option<Transport>), Error> {
        let (reply, answer) = bounded(1);
        self.gateway.command(self.home(), Command::Links { name: self.name.clone(), reply })?;
        answer.recv().map_err(|_| stopped())
    }
}

const CANCELLED: &str = "a program cancelled its request";

/// Cuts the leased link when this is cancelled. `None` if it is cancelled already.
fn watch_lease(cancel: &Cancel, lease: &Lease) -> Option<Watch> {
    let (stream, cut_error) = (Arc::downgrade(&lease.stream), lease.cut_error.clone());
    cancel.watch(move || {
        let Some(stream) = stream.upgrade() else { return };
        let mut error = cut_error.lock().unwrap_or_else(PoisonError::into_inner);
        error.get_or_insert_with(Error::cancelled);
        drop(error);
        let _ = stream.cut(); // if this fails, the connection has ended already
    })
}

/// Returns a lease when its exchange has ended.
fn returning(loops: Loops<Command>, of: Leased, watch: Option<Watch>) -> Done<Shared> {
    Box::new(move |link| {
        let is_whole = watch.is_none_or(Watch::end); // before another caller gets the link
        let Leased::Link(lease) = of else { return }; // dropping a pair's end ends it
        let back = |(stream, unread): (Shared, Vec<u8>)| {
            let stream = stream.into_inner()?;
            stream.set_nonblocking(true).ok()?;
            Some((stream, unread))
        };
        let unfinished = || {
            CloseCause::Program
                .because("a program's exchange on it ended without a message boundary")
        };
        let stream = match link {
            Ok(_) if !is_whole => Err(CloseCause::Program.because(CANCELLED)),
            Ok(link) => back(link).ok_or_else(unfinished),
            Err(why) => Err(why.unwrap_or_else(unfinished)),
        };
        loops.send(lease.home(), Command::Return { lease, stream });
    })
}

/// Tells the loop, when dropped, that a link that was switched to another protocol has ended.
struct Over(Mutex<Option<Settlement<Shared>>>);

impl Drop for Over {
    fn drop(&mut self) {
        let settlement = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(settlement) = settlement {
            let why = CloseCause::Tunnel.because("a program's upgraded connection has ended");
            settlement.settle(Err(Some(why)));
        }
    }
}
