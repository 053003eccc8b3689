//! Heads on the wire, written from the `http` types of a program.
//!
//! Framing is decided here and nowhere else: a program's `Content-Length`, `Transfer-Encoding` and
//! `Connection` (except `close`) are never written as given (T20). Every line goes through
//! `proto::head_writer` (T10). It does no input or output.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::body::Body;
use crate::error::Refusal;
use crate::http_date::date_now;
use crate::proto::body::{Framing, may_trail};
use crate::proto::digits::decimal;
use crate::proto::fields::members;
use crate::proto::head_writer;
use crate::proto::hop_by_hop::is_of_connection;
use crate::proto::upgrade::{self, Offered};

/// The properties of a request that its response depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestFacts {
    /// The method was HEAD.
    pub(crate) is_head: bool,
    /// 0 or 1: HTTP/1.0 or HTTP/1.1.
    pub(crate) minor: u8,
    /// The connection ends after this exchange, whatever the response says.
    pub(crate) close: bool,
}

/// How a message continues after its head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sending {
    /// How the body goes out.
    pub(crate) framing: Framing,
    /// The head says (or the framing means) that the connection ends after this.
    pub(crate) close: bool,
    /// The other protocols that the head offers.
    pub(crate) offered: Option<Offered>,
}

/// Appends the head of a request (protocol.md §1.1): always a `Host` (the request's own, else its
/// URI's authority, else empty), the target in origin form or `*`, our own framing. A body without
/// content has `Content-Length: 0` with POST, PUT and PATCH only. `Upgrade` is offered where there is
/// no body.
///
/// # Errors
/// CONNECT, or a field that cannot be written in one line. The appended bytes have to be dropped.
pub(crate) fn write_request_head(
    out: &mut Vec<u8>,
    parts: &http::request::Parts,
    body: &Body,
) -> Result<Sending, Refusal> {
    if parts.method == Method::CONNECT {
        return Err(Refusal::new(405, "CONNECT cannot be asked of a device: it opens no tunnels"));
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    // `http` accepts `?x` as a path and query; on the wire it has to start with a slash (RFC 9112
    // §3.2.1).
    let target = match path {
        "" => "/".into(),
        "*" if parts.method != Method::OPTIONS => {
            return Err(Refusal::new(400, "the target * is for OPTIONS only"));
        }
        path if path.starts_with('?') => format!("/{path}").into(),
        path => std::borrow::Cow::Borrowed(path),
    };
    head_writer::write_request_line(out, parts.method.as_str(), &target)?;
    let authority = || parts.uri.authority().map_or("", without_userinfo).as_bytes();
    head_writer::write_field(
        out,
        "Host",
        parts.headers.get(header::HOST).map_or_else(authority, HeaderValue::as_bytes),
    )?;
    write_fields(out, &parts.headers, |name| *name == header::HOST || is_ours(name))?;
    let framing = match body.length() {
        _ if body.brings_trailers() => Framing::Chunked,
        None => Framing::Chunked,
        Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
    };
    if target == "*" && framing != Framing::Empty {
        return Err(Refusal::new(
            400,
            "OPTIONS * has no body: a device takes it for a heartbeat, and an old one reads the body as its next request",
        ));
    }
    let announces_empty = matches!(parts.method, Method::POST | Method::PUT | Method::PATCH);
    write_framing(out, framing, announces_empty.then_some(0))?;
    let close = lists_close(&parts.headers);
    // An offer with a body does not count (T9).
    let offered = if framing == Framing::Empty && !close {
        offer_protocols(out, &parts.headers)
    } else {
        None
    };
    finish_head(out, close)?;
    Ok(Sending { framing, close, offered })
}

/// Writes the protocols that a program's `Upgrade` names, and returns them.
fn offer_protocols(out: &mut Vec<u8>, headers: &HeaderMap) -> Option<Offered> {
    let lines = headers.get_all(header::UPGRADE);
    let protocols = || lines.iter().flat_map(|line| upgrade::protocols_of(line.as_bytes()));
    upgrade::push_protocols(out, protocols());
    Offered::of(protocols())
}

/// Checks the `Upgrade` of a 101, whose request has offered these protocols.
pub(crate) fn check_switch(offered: &Offered, headers: &HeaderMap) -> Result<(), &'static str> {
    let lines = headers.get_all(header::UPGRADE).iter();
    offered.check_switch(lines.flat_map(|line| members(line.as_bytes())))
}

/// Appends the head of a response to a request, framed by us (protocol.md §3): `Date` where there
/// is none; nothing that frames with 1xx, 204 and 304; for HEAD the length as metadata only; an
/// unknown length is chunked, or until close to an HTTP/1.0 peer. A body that must not be sent
/// (204, 205, 304) is logged; the caller of this drops it, as `framing` says.
///
/// # Errors
/// A field that cannot be written in one line. The appended bytes have to be dropped.
pub(crate) fn write_response_head(
    out: &mut Vec<u8>,
    parts: &http::response::Parts,
    body: &Body,
    asked: &RequestFacts,
) -> Result<Sending, Refusal> {
    let status = parts.status.as_u16();
    head_writer::write_status_line(out, status, head_writer::reason_phrase(status).as_bytes())?;
    let switches = parts.status == StatusCode::SWITCHING_PROTOCOLS;
    write_fields(out, &parts.headers, |name| {
        is_ours(name) && !(switches && *name == header::UPGRADE)
    })?;
    if parts.status.is_informational() {
        if switches {
            head_writer::write_field(out, "Connection", b"Upgrade")?;
        }
        out.extend_from_slice(b"\r\n");
        return Ok(Sending { framing: Framing::Empty, close: false, offered: None });
    }
    if !parts.headers.contains_key(header::DATE) {
        write_date(out)?;
    }
    let framing = response_framing(parts, body, asked);
    let empty_length = match parts.status {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => None,
        StatusCode::RESET_CONTENT => Some(0),
        _ if asked.is_head => head_metadata(&parts.headers, body),
        _ => Some(0),
    };
    write_framing(out, framing, empty_length)?;
    let close = asked.close
        || asked.minor == 0
        || framing == Framing::UntilClose
        || lists_close(&parts.headers);
    finish_head(out, close)?;
    Ok(Sending { framing, close, offered: None })
}

/// How a final response's body goes out.
fn response_framing(parts: &http::response::Parts, body: &Body, asked: &RequestFacts) -> Framing {
    if matches!(
        parts.status,
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
    ) {
        if !body.is_at_end() && !asked.is_head {
            log_names!(
                Warn,
                "a response with status {} cannot have a body (RFC 9110 §6.4.1); the handler's is dropped",
                parts.status.as_u16()
            );
        }
        return Framing::Empty;
    }
    if asked.is_head {
        return Framing::Empty;
    }
    let open_ended = if asked.minor == 0 { Framing::UntilClose } else { Framing::Chunked };
    match body.length() {
        _ if body.brings_trailers() && asked.minor > 0 => Framing::Chunked,
        None => open_ended,
        Some(0) => Framing::Empty,
        Some(length) => Framing::Length(length),
    }
}

/// `Content-Length` of the answer to HEAD: the length of the body that is not sent. A handler
/// without a body may set it itself (when it passes on another server's answer to HEAD): the number
/// frames nothing here.
fn head_metadata(headers: &HeaderMap, body: &Body) -> Option<u64> {
    match body.length() {
        Some(0) => Some(single_length(headers).unwrap_or(0)),
        known => known,
    }
}

fn single_length(headers: &HeaderMap) -> Option<u64> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let digits = value.as_bytes();
    decimal(digits).filter(|length| *length < u64::MAX) // what does not fit is no length
}

/// Appends a whole answer that refuses: status, a `text/plain` body with the reason, `Connection:
/// close`, and further fields (name in its final spelling, value).
pub(crate) fn write_refusal(out: &mut Vec<u8>, refusal: &Refusal, fields: &[(&str, &str)]) {
    let start = out.len();
    if try_refusal(out, refusal, fields).is_err() {
        // Only a defect of ours leads here; the peer still gets a valid answer.
        out.truncate(start);
        out.extend_from_slice(
            b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    }
}

fn try_refusal(
    out: &mut Vec<u8>,
    refusal: &Refusal,
    fields: &[(&str, &str)],
) -> Result<(), Refusal> {
    head_writer::write_status_line(
        out,
        refusal.status,
        head_writer::reason_phrase(refusal.status).as_bytes(),
    )?;
    for (name, value) in fields {
        head_writer::write_field(out, name, value.as_bytes())?;
    }
    head_writer::write_field(out, "Content-Type", b"text/plain; charset=utf-8")?;
    write_date(out)?;
    write_number(out, "Content-Length", refusal.reason.len() as u64 + 1)?;
    finish_head(out, true)?;
    out.extend_from_slice(refusal.reason.as_bytes());
    out.push(b'\n');
    Ok(())
}

/// Trailers in the form that [`last_chunk`](crate::proto::body::last_chunk) writes: Title-Case,
/// without fields that are forbidden in trailers (RFC 9110 §6.5.1).
pub(crate) fn trailers_to_send(trailers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let mut kept = Vec::with_capacity(trailers.len());
    for (name, value) in trailers {
        if !may_trail(name.as_str()) {
            log_names!(
                Warn,
                "the trailer field {name} is left out: it frames, routes or authenticates, and has to stand in the head"
            );
            continue;
        }
        let mut spelled = Vec::new();
        head_writer::title_case(name.as_str(), &mut spelled);
        kept.push((String::from_utf8_lossy(&spelled).into_owned(), value.as_bytes().to_vec()));
    }
    kept
}

/// Fields that belong to the connection or frame the message: only we write them.
fn is_ours(name: &HeaderName) -> bool {
    let name = name.as_str();
    is_of_connection(name)
        || matches!(
            name,
            "content-length" | "transfer-encoding" | "trailer" | crate::proto::forward::WAITING
        )
}

fn write_fields(
    out: &mut Vec<u8>,
    headers: &HeaderMap,
    skip: impl Fn(&HeaderName) -> bool,
) -> Result<(), Refusal> {
    let mut spelled = Vec::new();
    for (name, value) in headers {
        if skip(name) {
            continue;
        }
        spelled.clear();
        head_writer::title_case(name.as_str(), &mut spelled);
        let spelled = std::str::from_utf8(&spelled).unwrap_or(name.as_str());
        head_writer::write_field(out, spelled, value.as_bytes())?;
    }
    Ok(())
}

/// Writes the one framing field of a head, or none. `empty_length`: what to announce when there is
/// no body to send.
fn write_framing(
    out: &mut Vec<u8>,
    framing: Framing,
    empty_length: Option<u64>,
) -> Result<(), Refusal> {
    match (framing, empty_length) {
        (Framing::Length(length), _) | (Framing::Empty, Some(length)) => {
            write_number(out, "Content-Length", length)
        }
        (Framing::Chunked, _) => head_writer::write_field(out, "Transfer-Encoding", b"chunked"),
        (Framing::UntilClose, _) | (Framing::Empty, None) => Ok(()),
    }
}

/// A field with a decimal number, without an allocation.
fn write_number(out: &mut Vec<u8>, name: &str, number: u64) -> Result<(), Refusal> {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            return head_writer::write_field(out, name, &digits[at..]);
        }
    }
}

fn finish_head(out: &mut Vec<u8>, close: bool) -> Result<(), Refusal> {
    if close {
        head_writer::write_field(out, "Connection", b"close")?;
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

fn write_date(out: &mut Vec<u8>) -> Result<(), Refusal> {
    date_now()
        .map_or(Ok(()), |date| head_writer::write_field(out, "Date", date.as_str().as_bytes()))
}

/// Returns true if a program's `Connection` fields list `close`.
pub(crate) fn lists_close(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION);
    values.iter().any(|value| {
        value
            .as_bytes()
            .split(|&byte| byte == b',')
            .any(|member| member.trim_ascii().eq_ignore_ascii_case(b"close"))
    })
}

/// The authority without a `user:password@`, which must not go into `Host` (RFC 9110 §4.2.4).
fn without_userinfo(authority: &http::uri::Authority) -> &str {
    let text = authority.as_str();
    text.rsplit_once('@').map_or(text, |(_, host)| host)
}
