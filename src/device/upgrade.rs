//! A handler's code after a 101: it owns the stream, which is plain and blocking.
//!
//! A handler returns [`upgrade`]'s response. When the 101 has been written, its closure gets the
//! stream, on a separate thread. [`Stopping`](crate::Stopping) tells it that the connection will be
//! cut because this device or the gateway stops.

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

/// The stream after a 101 on this link. `stopping` was made before the 101 was sent, because the
/// gateway may stop as soon as its visitor has it.
pub(super) fn upgraded(
    link: DeviceLink<Shared>,
    guard: LeaseGuard,
    busy: Busy,
    stopping: Stopping,
) -> io::Result<Upgraded> {
    let (stream, unread) = link.into_parts();
    // The loop counts when it learns of the link's end; if it cuts the link, `stopping` has
    // reported it.
    Upgraded::new(stream, unread, stopping, CutError::default(), (busy, guard))
}

pub(super) type Taker = Box<dyn FnOnce(Upgraded) + Send>;

/// The code to run after the 101, in the response's extensions, which require `Clone` and `Sync`.
#[derive(Clone)]
struct Behind(Arc<Mutex<Option<Taker>>>);

/// A handler's answer to a request that offers `protocol` in `Upgrade` (a WebSocket, say): a 101,
/// after which `take` gets the stream. Add the fields that the protocol needs
/// (`Sec-WebSocket-Accept`) to the response. Check the request's `Upgrade` first: a request that
/// does not offer `protocol` gets 500, and the log says why; so does a `protocol` that no field can
/// contain. A device that
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
        response.headers_mut().insert(header::UPGRADE, protocol); // if it is invalid, the response is refused when it is sent
    }
    response.extensions_mut().insert(Behind(Arc::new(Mutex::new(Some(Box::new(take))))));
    response
}

/// The code that a handler's response wants to run after its 101.
pub(super) fn taker(response: &mut Response<Body>) -> Option<Taker> {
    let behind = response.extensions_mut().remove::<Behind>()?;
    behind.0.lock().unwrap_or_else(PoisonError::into_inner).take()
}
