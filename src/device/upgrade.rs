//! What a program does behind a 101: the stream is its own, plain and blocking.
//!
//! A handler returns [`upgrade`]'s response; when the 101 is written, its closure gets the stream,
//! on a thread of its own. Whether the connection is about to be cut, because this device or
//! the gateway stops, it learns from [`Stopping`](crate::Stopping).

use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use http::HeaderValue;
use http::Response;
use http::StatusCode;
use http::header;

use crate::body::Body;
use crate::device::lease::Busy;
use crate::device::lease::LeaseGuard;
use crate::link::CutError;
use crate::link::DeviceLink;
use crate::stream::Shared;
use crate::upgraded::Stopping;
use crate::upgraded::Upgraded;

/// The stream behind a 101 on this link. `stopping`: from before that was sent, since the gateway
/// may stop as soon as its visitor has it.
pub(super) fn upgraded(
    link: DeviceLink<Shared>,
    guard: LeaseGuard,
    busy: Busy,
    stopping: Stopping,
) -> io::Result<Upgraded> {
    let (stream, unread) = link.into_parts();
    // The loop counts when it hears of the link's end; where it cuts the link, `stopping` has told.
    Upgraded::new(stream, unread, stopping, CutError::default(), (busy, guard))
}

pub(super) type Taker = Box<dyn FnOnce(Upgraded) + Send>;

/// In a response's extensions: what to do behind its 101. They want it to be `Clone` and `Sync`.
#[derive(Clone)]
struct Behind(Arc<Mutex<Option<Taker>>>);

/// A handler's answer to a request that offers `protocol` in `Upgrade` (a WebSocket, say): a 101,
/// after which `take` gets the stream. Add the fields that the protocol needs
/// (`Sec-WebSocket-Accept`) to the response. Check the request's `Upgrade` first: a request without
/// it gets 500, and the log says why; so does a `protocol` that no field can contain. A device that
/// polls is never offered an upgrade.
///
/// ```
/// use std::io::{BufRead, BufReader, Write};
/// use http::{Request, Response};
/// use reverse_http::{Body, upgrade};
///
/// fn handler(request: Request<Body>) -> Response<Body> {
///     if request.headers().get("upgrade").is_none_or(|protocol| protocol != "lines") {
///         return Response::new(Body::from("speak lines with me"));
///     }
///     upgrade("lines", |mut stream| {
///         let mut writer = stream.writer();
///         for line in BufReader::new(&mut stream).lines().map_while(Result::ok) {
///             if writeln!(writer, "you said {line}").is_err() {
///                 return;
///             }
///         }
///     })
/// }
/// ```
pub fn upgrade(
    protocol: impl TryInto<HeaderValue>,
    take: impl FnOnce(Upgraded) + Send + 'static,
) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    if let Ok(protocol) = protocol.try_into() {
        response.headers_mut().insert(header::UPGRADE, protocol); // else it is refused where it is sent
    }
    response.extensions_mut().insert(Behind(Arc::new(Mutex::new(Some(Box::new(take))))));
    response
}

/// What a handler's response wants done behind its 101.
pub(super) fn taker(response: &mut Response<Body>) -> Option<Taker> {
    let behind = response.extensions_mut().remove::<Behind>()?;
    behind.0.lock().unwrap_or_else(PoisonError::into_inner).take()
}
