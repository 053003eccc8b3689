//! TCP over an upgraded exchange (protocol.md §4): a visitor asks for one of the targets that a
//! device lists, and after the 101 bytes flow in both directions.

use crate::error::Refusal;
use crate::proto::forward;
use crate::proto::framed::FramedRequest;
use crate::proto::head::ResponseHead;
use crate::proto::head_writer::{write_field, write_request_line, write_status_line};
use crate::proto::upgrade;

/// The protocol that the exchange is upgraded to.
pub const TOKEN: &str = "ptth-tcp/1";

/// The name of the target that a request asks for, from its path: `GET /ssh` with `Upgrade:
/// ptth-tcp/1`. `None`: it is an ordinary request. The caller decides whether the upgrade is
/// allowed.
///
/// ```
/// use reverse_http::proto::{framed::FramedRequest, head, head::LineEnds, tcp};
/// let limits = reverse_http::Limits::default();
/// let asked = |text: &[u8]| {
///     let head = head::request(text, &limits, LineEnds::Crlf).unwrap().unwrap();
///     tcp::asked(&FramedRequest::of(head).unwrap()).map(str::to_owned)
/// };
/// let fields = "HTTP/1.1\r\nHost: gw\r\nConnection: Upgrade\r\nUpgrade:";
/// assert_eq!(asked(format!("GET /ssh {fields} ptth-tcp/1\r\n\r\n").as_bytes()).as_deref(), Some("ssh"));
/// assert_eq!(asked(format!("GET /ssh {fields} websocket\r\n\r\n").as_bytes()), None);
/// assert_eq!(asked(format!("GET /other/ssh {fields} ptth-tcp/1\r\n\r\n").as_bytes()), None);
/// ```
#[must_use]
pub fn asked<'a>(request: &FramedRequest<'a>) -> Option<&'a str> {
    let is_ours = |token: &[u8]| token.eq_ignore_ascii_case(TOKEN.as_bytes());
    if request.method != "GET" || !upgrade::protocols(&request.fields).any(is_ours) {
        return None;
    }
    let name = forward::origin_form(request).ok()?.strip_prefix('/')?;
    (!name.contains('/')).then_some(name)
}

/// Appends a visitor's request for a target: `path` is that of the gateway's route; `token` is for
/// gateways that require one.
///
/// # Errors
/// 400: one of them cannot be written.
pub fn write_request(
    out: &mut Vec<u8>,
    path: &str,
    host: &str,
    token: Option<&str>,
) -> Result<(), Refusal> {
    write_request_line(out, "GET", path)?;
    write_field(out, "Host", host.as_bytes())?;
    write_field(out, "Connection", b"Upgrade")?;
    write_field(out, "Upgrade", TOKEN.as_bytes())?;
    if let Some(token) = token {
        write_field(out, "Authorization", format!("Bearer {token}").as_bytes())?;
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// The 101 after which the bytes are the target's.
pub(crate) fn switch() -> Result<Vec<u8>, Refusal> {
    let mut out = Vec::new();
    write_status_line(&mut out, 101, b"Switching Protocols")?;
    write_field(&mut out, "Upgrade", TOKEN.as_bytes())?;
    write_field(&mut out, "Connection", b"Upgrade")?;
    out.extend_from_slice(b"\r\n");
    Ok(out)
}

/// Returns true if the bytes after a response are the target's.
#[must_use]
pub fn is_switched(response: &ResponseHead<'_>) -> bool {
    let is_ours = |token: &[u8]| token.eq_ignore_ascii_case(TOKEN.as_bytes());
    response.status == 101
        && response.minor > 0
        && upgrade::protocols(&response.fields).any(is_ours)
}
