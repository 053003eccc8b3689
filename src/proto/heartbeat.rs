//! The sign of life on an idle link (protocol.md §1.5): `OPTIONS *`, answered by the device itself and never shown to a handler.

use crate::proto::head::RequestHead;

/// What a gateway asks an idle link after some silence. Any complete answer proves life.
pub const REQUEST: &[u8] = b"OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n";

/// What a gateway tells an idle link that is to go: its session was replaced, or the gateway stops.
pub const FAREWELL: &[u8] = b"OPTIONS * HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n";

/// Whether a request is a heartbeat.
pub fn is_heartbeat(request: &RequestHead<'_>) -> bool {
    request.method == "OPTIONS" && request.target == "*"
}

/// Appends our device's answer: 204, with `Connection: close` where the link goes. `date` is an IMF-fixdate.
pub fn write_answer(out: &mut Vec<u8>, date: &str, close: bool) {
    out.extend_from_slice(b"HTTP/1.1 204 No Content\r\nDate: ");
    out.extend_from_slice(date.as_bytes());
    out.extend_from_slice(if close { b"\r\nConnection: close\r\n\r\n".as_slice() } else { b"\r\n\r\n" });
}
