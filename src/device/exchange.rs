//! One request that a program received, and the way to answer it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::{Request, Response, StatusCode};

use crate::body::Body;
use crate::device::lease::Busy;
use crate::device::lease::CLOSED;
use crate::device::lease::Lease;
use crate::device::lease::LeaseGuard;
use crate::device::upgrade::upgraded;
use crate::error::{Error, Fault};
use crate::limits::Limits;
use crate::link::DeviceLink;
use crate::stream::Shared;
use crate::upgraded::Upgraded;

/// A request to be answered. If it is dropped without an answer, its link is closed.
///
/// ```
/// use std::time::Duration;
/// use reverse_http::{Body, Device, Gateway};
///
/// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
/// let device = Device::builder(format!("http://{}/lamp", gateway.devices_addr())).build()?;
/// let asking = std::thread::spawn(move || {
///     let lamp = gateway.device("lamp");
///     lamp.wait_connected(Duration::from_secs(5)).unwrap();
///     let response = lamp.send(http::Request::get("/status").body(Body::empty()).unwrap());
///     response.unwrap().into_body().read_to_text(100).unwrap()
/// });
///
/// let exchange = device.recv()?; // the first call starts the device
/// assert_eq!(exchange.request().uri(), "/status");
/// exchange.respond(http::Response::new(Body::from("on")))?;
/// assert_eq!(asking.join().unwrap(), "on");
/// # Ok::<(), reverse_http::Error>(())
/// ```
pub struct Exchange {
    request: Request<Body>,
    link: DeviceLink<Shared>,
    _busy: Busy, // dropped before the guard: the loop counts when it learns of the link's end
    guard: LeaseGuard,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("method", self.request.method())
            .field("uri", self.request.uri())
            .finish_non_exhaustive()
    }
}

impl Exchange {
    pub(super) fn begin(lease: Lease, limits: &Arc<Limits>) -> Option<Self> {
        let Lease { stream, unread, busy, guard } = lease;
        let busy = busy.unwrap_or_else(|| guard.busy());
        let mut link = DeviceLink::within(Shared::new(stream), unread, limits.clone()).watched();
        match link.next_request() {
            Ok(Some(request)) => {
                guard.shared.exchanges.fetch_add(1, Relaxed);
                Some(Exchange { request, link, guard, _busy: busy })
            }
            Ok(None) => {
                drop(busy); // before the loop learns of the link's end
                guard.end(CLOSED);
                None
            }
            Err(e) => {
                drop(busy);
                guard.refused(link, &e);
                None
            }
        }
    }

    /// The request; its body is streamed from the link.
    pub fn request(&self) -> &Request<Body> {
        &self.request
    }

    /// The request, to read its body.
    pub fn request_mut(&mut self) -> &mut Request<Body> {
        &mut self.request
    }

    /// Answers a request that offers another protocol with this 101 (whose `Upgrade` names the
    /// protocol), and returns the stream.
    ///
    /// # Errors
    /// The request offered no upgrade, or the response is not a 101 with `Upgrade` (then nothing
    /// was sent, and the link is closed); the gateway is gone.
    pub fn upgrade(self, response: Response<Body>) -> Result<Upgraded, Error> {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::usage(format!(
                "switching protocols with the status {}: it takes 101",
                response.status()
            )));
        }
        let Exchange { request, mut link, guard, _busy } = self;
        let stopping = guard.shared.upgrades.add();
        link.respond(response)?;
        drop(request);
        upgraded(link, guard, _busy, stopping)
            .map_err(|e| Error::io(Fault::Network, "switching a link to another protocol", e))
    }

    /// Sends the response and gives the link back.
    ///
    /// # Errors
    /// The gateway is gone or accepted nothing for too long, or the body of the response failed.
    /// The link is then closed.
    pub fn respond(self, response: Response<Body>) -> Result<(), Error> {
        if response.status().is_informational() {
            return Err(Error::usage(format!(
                "responding with {}: an exchange takes one final response",
                response.status()
            )));
        }
        let Exchange { request, mut link, guard, _busy } = self;
        link.respond(response)?;
        drop(request);
        let (keeps, heartbeat) = (link.is_reusable(), link.has_seen_heartbeat());
        let (stream, unread) = link.into_parts();
        let stream = stream.into_inner();
        match keeps {
            true => guard.give_back(stream, unread, heartbeat),
            false => {
                drop(_busy); // before the loop learns of the link's end
                guard.close(stream, unread);
            }
        }
        Ok(())
    }
}
