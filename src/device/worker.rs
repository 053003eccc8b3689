//! A worker's part: blocking code that answers requests of a leased link with a handler.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use http::Request;
use http::Response;
use http::StatusCode;
use http::header::CONNECTION;
use http::header::HeaderValue;

use crate::body::Body;
use crate::clock;
use crate::device::lease::Busy;
use crate::device::lease::CLOSED;
use crate::device::lease::Lease;
use crate::device::lease::LeaseGuard;
use crate::device::upgrade::Taker;
use crate::device::upgrade::taker;
use crate::device::upgrade::upgraded;
use crate::engine::workers::Workers;
use crate::error::Error;
use crate::limits::Limits;
use crate::link::DeviceLink;
use crate::link::Lingered;
use crate::link::Next;
use crate::stream::Shared;
use crate::upgraded::Stopping;

/// A program's handler: blocking code that answers requests.
pub(crate) type Handler = Arc<dyn Fn(Request<Body>) -> Response<Body> + Send + Sync>;

/// Answers requests of a leased link. With `lingers` it waits for further requests on the link
/// while no other job needs the thread; without it, the loop has to see each request.
pub(super) fn answer_with(
    handler: &Handler,
    lease: Lease,
    limits: &Arc<Limits>,
    workers: &Workers,
    lingers: bool,
    since: Instant,
) {
    /// If a job begins later than this, its caller may have left meanwhile.
    const SOON: Duration = Duration::from_secs(1);
    let Lease { stream, unread, busy: mut first, guard } = lease;
    let mut waited = since.elapsed() > SOON;
    let mut link = DeviceLink::within(Shared::new(stream), unread, limits.clone()).watched();
    loop {
        let is_new = first.is_none(); // the loop has read the head of the first request
        let busy = first.take().unwrap_or_else(|| guard.busy());
        let next = link.next_head();
        if let Some(callers) = link.callers_waiting().filter(|callers| is_new && *callers > 0) {
            guard.callers_wait(callers);
        }
        match next {
            Ok(Next::Heartbeat) => {}
            Ok(Next::Closed) => {
                drop(busy); // before the loop learns of the link's end
                return guard.end(CLOSED);
            }
            Err(e) => {
                drop(busy);
                return guard.refused(link, &e);
            }
            // Its caller has left, or the device has stopped.
            Ok(Next::Request(_))
                if guard.shared.stopped.load(Relaxed)
                    || (std::mem::take(&mut waited) && link.has_ended()) =>
            {
                drop(busy);
                return guard.end(CLOSED);
            }
            Ok(Next::Request(request)) => match answer(handler, request, &mut link, &guard) {
                Ok(None) => {}
                Ok(Some(behind)) => return hand_over(link, guard, busy, behind),
                Err(e) => {
                    drop(busy);
                    return guard.failed(&e);
                }
            },
        }
        if !link.is_reusable() || guard.shared.stopping.load(Relaxed) {
            let (stream, unread) = link.into_parts();
            drop(busy);
            return guard.close(stream.into_inner(), unread);
        }
        drop(busy);
        if !lingers || workers.is_pressed() {
            break;
        }
        match link.linger(limits.worker_linger) {
            // The loop handles it: a goaway's replacement is dialled before the answer.
            Lingered::Ready if link.heartbeat_waits() => break,
            Lingered::Ready => {}
            Lingered::Quiet => break,
            Lingered::Closed => return guard.end(CLOSED),
        }
    }
    let seen = link.has_seen_heartbeat();
    let (stream, unread) = link.into_parts();
    guard.give_back(stream.into_inner(), unread, seen);
}

/// The code to run after a 101, and its notice of a stop, which was made before the 101 is sent,
/// because the gateway may stop as soon as its visitor has it.
type Behind = (Taker, Stopping);

/// Answers one request. Returns `Some` if the answer was a 101.
fn answer(
    handler: &Handler,
    request: Request<Body>,
    link: &mut DeviceLink<Shared>,
    guard: &LeaseGuard,
) -> Result<Option<Behind>, Error> {
    let shared = &guard.shared;
    shared.exchanges.fetch_add(1, Relaxed);
    let (mut response, taker) = ask_handler(handler, request);
    if shared.stopping.load(Relaxed) && taker.is_none() {
        // The gateway must send no further request.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let behind = taker.map(|taker| (taker, shared.upgrades.add()));
    match link.respond(response) {
        Ok(()) => Ok(behind),
        Err(e) if e.is_usage() && behind.is_some() => {
            log::error!(
                "a handler answered with an upgrade (101), and the request has no Upgrade field, or the response names no protocol in its own, or one that was not offered: the request is answered with 500; look for the field before upgrade()"
            );
            link.respond(internal_error())?;
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// After a 101 the handler owns the stream for any time. It runs on a separate thread, so that the
/// threads of `handlers_max` stay available for requests. The number of links bounds these threads.
fn hand_over(link: DeviceLink<Shared>, guard: LeaseGuard, busy: Busy, behind: Behind) {
    let run = move || take_over(link, guard, busy, behind);
    if let Err(e) = std::thread::Builder::new().name("ptth-upgraded".to_owned()).spawn(run) {
        log_names!(Warn, "there is no thread for an upgraded connection, which is closed: {e}");
    }
}

fn take_over(link: DeviceLink<Shared>, guard: LeaseGuard, busy: Busy, (taker, stopping): Behind) {
    match upgraded(link, guard, busy, stopping) {
        Ok(upgraded) => taker(upgraded),
        Err(e) => log_names!(Info, "a link that was switched to another protocol ended: {e}"),
    }
}

/// The handler's response, and the code that runs after its 101. If it panics, the request is
/// answered with 500.
pub(crate) fn ask_handler(
    handler: &Handler,
    request: Request<Body>,
) -> (Response<Body>, Option<Taker>) {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        clock::outside(|| handler(request))
    })) {
        Ok(mut response) => {
            let taker = taker(&mut response)
                .filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS);
            if response.status().is_informational() && taker.is_none() {
                log::error!(
                    "a handler returned the interim status {}; its request is answered with 500",
                    response.status()
                );
                return (internal_error(), None);
            }
            (response, taker)
        }
        Err(_) => {
            log::error!("a handler panicked; its request is answered with 500");
            (internal_error(), None)
        }
    }
}

/// The answer after a handler's panic.
fn internal_error() -> Response<Body> {
    let mut response = Response::new(Body::from("the device's handler failed\n"));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
