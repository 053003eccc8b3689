//! The heartbeat on an idle link (protocol.md §1.5): `OPTIONS *`, which the device answers itself,
//! without its handler.

use crate::error::Refusal;
use crate::proto::framed::FramedRequest;
use crate::proto::head;

/// The request that a gateway sends over an idle link after some silence. Any complete answer
/// proves that the device is alive.
pub const REQUEST: &[u8] = b"OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n";

/// The request that a gateway sends over an idle link that is to end: its session was replaced, or
/// the gateway stops.
pub const GOAWAY: &[u8] = b"OPTIONS * HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n";

/// The kind of a heartbeat.
///
/// ```
/// use reverse_http::Limits;
/// use reverse_http::proto::framed::FramedRequest;
/// use reverse_http::proto::head::{self, LineEnds};
/// use reverse_http::proto::heartbeat::{self, Heartbeat};
///
/// let read = |bytes| head::request(bytes, &Limits::default(), LineEnds::Crlf);
/// let head = read(b"OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n")?.expect("it is whole");
/// assert_eq!(heartbeat::recognise(&FramedRequest::of(head)?)?, Some(Heartbeat::Alive));
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heartbeat {
    /// The device has to answer, to show that it is alive.
    Alive,
    /// The link ends after the answer.
    Goaway,
}

/// Returns true for a request that concerns the server as a whole (RFC 9110 §9.3.7). On a link it
/// is a heartbeat, so a gateway never forwards one.
#[must_use]
pub fn asks_server(request: &FramedRequest<'_>) -> bool {
    request.method == "OPTIONS" && request.target == "*"
}

/// Recognises a heartbeat; `None`: the request is not one.
///
/// # Errors
/// 400: it is a heartbeat with a body. That body would not be read, so its bytes would be taken for
/// the next request; the link has to end.
pub fn recognise(request: &FramedRequest<'_>) -> Result<Option<Heartbeat>, Refusal> {
    if !asks_server(request) {
        return Ok(None);
    }
    if request.has_body() {
        return Err(Refusal::new(
            400,
            "a heartbeat (OPTIONS *) has no body; this one announces one",
        ));
    }
    let keeps = head::keeps_alive(request.minor, &request.fields);
    Ok(Some(if keeps { Heartbeat::Alive } else { Heartbeat::Goaway }))
}

/// Appends our device's answer: 204, with `Connection: close` if the link ends. `date` is an
/// IMF-fixdate.
pub fn write_answer(out: &mut Vec<u8>, date: &str, close: bool) {
    out.extend_from_slice(b"HTTP/1.1 204 No Content\r\nDate: ");
    out.extend_from_slice(date.as_bytes());
    out.extend_from_slice(if close {
        b"\r\nConnection: close\r\n\r\n".as_slice()
    } else {
        b"\r\n\r\n"
    });
}
