//! Reads request and response heads: our own strict pass over start line and line ends, and
//! httparse for the fields. The raw bytes are kept.
//!
//! ```text
//!   bytes ──► window of head_bytes_max ──► start line, by hand ──► line ends, by hand ──► fields, httparse
//!                                           (refuses at the first     (finds the empty      (names, values)
//!                                            byte that is wrong)      line, counts lines)
//! ```
//! This file does not interpret fields. Framing is in [`body`](super::body), `Host` and target are
//! in [`forward`](super::forward) and [`turn`](super::turn).
//!
//! httparse alone is not enough: it accepts a lone LF as a line end, any number of leading empty
//! lines, bytes above 0x7F in a target and statuses below 100. Hence the pass before it.

use crate::error::Refusal;
use crate::limits::Limits;
use crate::proto::fields::begins;
pub use crate::proto::fields::{Field, Fields};

/// How strictly line ends are read (protocol.md §3: a lone LF ends a line only in answers of a
/// device or a local server).
///
/// ```
/// use reverse_http::Limits;
/// use reverse_http::proto::head::{self, LineEnds};
///
/// let (bytes, limits) = (b"HTTP/1.1 204 No Content\n\n", Limits::default());
/// assert!(head::response(bytes, &limits, LineEnds::Crlf).is_err());
/// assert!(head::response(bytes, &limits, LineEnds::CrlfOrLf)?.is_some());
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEnds {
    /// CRLF and nothing else: requests.
    Crlf,
    /// CRLF or a lone LF: answers.
    CrlfOrLf,
}

/// Returns true if these bytes are line ends and nothing else: after a message, or before an
/// answer, they are ignored (some peers end a body with an uncounted CRLF).
pub(crate) fn are_line_ends(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
}

/// A request head. Borrowed from the bytes it was read from.
///
/// ```
/// use reverse_http::Limits;
/// use reverse_http::proto::head::{self, LineEnds};
///
/// let head = b"GET /status HTTP/1.1\r\nHost: lamp\r\n\r\n";
/// assert!(head::request(&head[..20], &Limits::default(), LineEnds::Crlf)?.is_none(), "not whole yet");
/// let head = head::request(head, &Limits::default(), LineEnds::Crlf)?.expect("it is whole");
/// assert_eq!((head.method, head.target, head.minor), ("GET", "/status", 1));
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RequestHead<'a> {
    /// Method as received; a token, case-sensitive.
    pub method: &'a str,
    /// Target as received.
    pub target: &'a str,
    /// 0 or 1: HTTP/1.0 or HTTP/1.1.
    pub minor: u8,
    /// The fields.
    pub fields: Fields<'a>,
    /// Bytes of the head, from the first given byte (a skipped empty line included) to the end of
    /// its empty line.
    pub len: usize,
}

/// A response head. Borrowed from the bytes it was read from.
///
/// ```
/// use reverse_http::Limits;
/// use reverse_http::proto::head::{self, LineEnds};
///
/// let head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\non";
/// let head = head::response(head, &Limits::default(), LineEnds::CrlfOrLf)?.expect("it is whole");
/// assert_eq!((head.status, head.reason, head.len), (200, b"OK".as_slice(), 38));
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResponseHead<'a> {
    /// 0 or 1: HTTP/1.0 or HTTP/1.1.
    pub minor: u8,
    /// 100 to 999.
    pub status: u16,
    /// The reason phrase as received; may be empty.
    pub reason: &'a [u8],
    /// The fields.
    pub fields: Fields<'a>,
    /// Bytes of the head to the end of its empty line.
    pub len: usize,
}

/// The kind of head, which decides the status that refuses it.
#[derive(Clone, Copy)]
pub(crate) enum Part {
    /// The head of a request: 400 and 431.
    Request,
    /// The head of a response: always 502.
    Response,
    /// The trailer section of a chunked body: always 400.
    Trailers,
}

impl Part {
    fn malformed(self, reason: &'static str) -> Refusal {
        Refusal::new(if let Part::Response = self { 502 } else { 400 }, reason)
    }
    fn too_large(self, reason: &'static str) -> Refusal {
        let status = match self {
            Part::Request => 431,
            Part::Response => 502,
            Part::Trailers => 400,
        };
        Refusal::new(status, reason)
    }
    /// The refusal of a head or section that has reached its longest length without an end.
    fn endless(self) -> Refusal {
        self.too_large(
            "the message head, or the trailer section, is longer than head_bytes_max allows",
        )
    }
}

/// Longest method that is accepted: those in use have up to 17 bytes (`UPDATEREDIRECTREF`). Beyond:
/// 501 (RFC 9112 §3).
const METHOD_BYTES_MAX: usize = 64;

/// Reads a request head from the front of `bytes`. `Ok(None)`: it is not complete yet. One empty
/// line before it is skipped.
///
/// # Errors
/// 400, 414, 431, 501 or 505, as soon as the bytes cannot become a valid head.
pub fn request<'a>(
    bytes: &'a [u8],
    limits: &Limits,
    ends: LineEnds,
) -> Result<Option<RequestHead<'a>>, Refusal> {
    let window = &bytes[..bytes.len().min(limits.head_bytes_max)];
    match whole_request(window, limits, ends) {
        Ok(None) if window.len() == limits.head_bytes_max => Err(Part::Request.endless()),
        Err(refusal) => Err(name_foreign(bytes, refusal)),
        read => read,
    }
}

/// Returns true if bytes that are an incomplete or refused request still begin like one: with a
/// request line of HTTP/1, or the first part of it.
pub(crate) fn begins_request(bytes: &[u8]) -> bool {
    let line = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    let method = line.iter().position(|byte| !is_tchar(*byte)).unwrap_or(0);
    let Some(end) = find_lf(line) else { return method > 0 && line[method] == b' ' };
    method > 0
        && line[method] == b' '
        && [&b" HTTP/1.1"[..], b" HTTP/1.0"]
            .iter()
            .any(|version| line[..end].trim_ascii_end().ends_with(version))
}

fn whole_request<'a>(
    window: &'a [u8],
    limits: &Limits,
    ends: LineEnds,
) -> Result<Option<RequestHead<'a>>, Refusal> {
    // RFC 9112 §2.2: old clients append CRLF to a body. One is skipped; many of them are not HTTP.
    let skipped = match window {
        [b'\r', ..] => line_end(window, ends, Part::Request)?,
        [b'\n', ..] if ends == LineEnds::CrlfOrLf => Some(1),
        _ => Some(0),
    };
    let Some(skipped) = skipped else { return Ok(None) };
    let Some((line, line_len)) = request_line(&window[skipped..], limits, ends)? else {
        return Ok(None);
    };
    let start = skipped + line_len;
    let Some((fields, len)) = section(&window[start..], limits.fields_max, ends, Part::Request)?
    else {
        return Ok(None);
    };
    let RequestLine { method, target, minor } = line;
    Ok(Some(RequestHead { method, target, minor, fields, len: start + len }))
}

struct RequestLine<'a> {
    method: &'a str,
    target: &'a str,
    minor: u8,
}

/// Reads the request line, and its length with the line end.
fn request_line<'a>(
    bytes: &'a [u8],
    limits: &Limits,
    ends: LineEnds,
) -> Result<Option<(RequestLine<'a>, usize)>, Refusal> {
    const PART: Part = Part::Request;
    let method_end = bytes.iter().position(|&byte| !is_tchar(byte));
    if method_end.unwrap_or(bytes.len()) > METHOD_BYTES_MAX {
        return Err(Refusal::new(501, "the method is longer than any that is known"));
    }
    let Some(method_end) = method_end else { return Ok(None) };
    if method_end == 0 || bytes[method_end] != b' ' {
        return Err(PART.malformed("what came does not begin like an HTTP request: a method of token characters, then one space"));
    }
    let rest = &bytes[method_end + 1..];
    let target_end = rest.iter().position(|byte| !matches!(byte, 0x21..=0x7E));
    if target_end.unwrap_or(rest.len()) > limits.target_bytes_max {
        return Err(Refusal::new(414, "the request target is longer than target_bytes_max allows"));
    }
    let Some(target_end) = target_end else { return Ok(None) };
    match rest[target_end] {
        b' ' if target_end > 0 => {}
        b' ' => {
            return Err(PART.malformed(
                "the request line has more than one space before its target, or no target",
            ));
        }
        b'\r' | b'\n' => {
            return Err(PART.malformed(
                "the request line has no HTTP version; only HTTP/1.1 and HTTP/1.0 are spoken here",
            ));
        }
        _ => {
            return Err(PART.malformed(
                "the request target has a control byte or one above 0x7E; percent-encode it",
            ));
        }
    }
    let version_at = method_end + 1 + target_end + 1;
    let Some(minor) = version(&bytes[version_at..], PART)? else { return Ok(None) };
    let Some(end_len) = line_end(&bytes[version_at + VERSION_LEN..], ends, PART)? else {
        return Ok(None);
    };
    let method = text(&bytes[..method_end], PART)?;
    let target = text(&rest[..target_end], PART)?;
    Ok(Some((RequestLine { method, target, minor }, version_at + VERSION_LEN + end_len)))
}

/// Reads a response head from the front of `bytes`. `Ok(None)`: it is not complete yet.
///
/// # Errors
/// As soon as the bytes cannot become a valid head; the status is 502.
pub fn response<'a>(
    bytes: &'a [u8],
    limits: &Limits,
    ends: LineEnds,
) -> Result<Option<ResponseHead<'a>>, Refusal> {
    response_of(bytes, limits, ends, version)
}

/// The same for an AirPlay sender, which may write `EVENT/1.0` in place of `HTTP/1.1`.
///
/// # Errors
/// As [`response`].
pub(crate) fn event_response<'a>(
    bytes: &'a [u8],
    limits: &Limits,
    ends: LineEnds,
) -> Result<Option<ResponseHead<'a>>, Refusal> {
    const EVENT: &[u8] = b"EVENT/1.0";
    if bytes.starts_with(EVENT) {
        let shift = EVENT.len() - VERSION_LEN; // so that the rest after the version is at the same position as in HTTP
        let read = response_of(&bytes[shift..], limits, ends, |_, _| Ok(Some(1)))?;
        return Ok(read.map(|head| ResponseHead { len: head.len + shift, ..head }));
    }
    if EVENT.starts_with(bytes) { Ok(None) } else { response(bytes, limits, ends) }
}

type ReadVersion = fn(&[u8], Part) -> Result<Option<u8>, Refusal>;

fn response_of<'a>(
    bytes: &'a [u8],
    limits: &Limits,
    ends: LineEnds,
    version: ReadVersion,
) -> Result<Option<ResponseHead<'a>>, Refusal> {
    let window = &bytes[..bytes.len().min(limits.head_bytes_max)];
    match whole_response(window, limits, ends, version) {
        Ok(None) if window.len() == limits.head_bytes_max => Err(Part::Response.endless()),
        Err(refusal) => Err(name_foreign(bytes, refusal)),
        read => read,
    }
}

fn whole_response<'a>(
    window: &'a [u8],
    limits: &Limits,
    ends: LineEnds,
    version: ReadVersion,
) -> Result<Option<ResponseHead<'a>>, Refusal> {
    let Some((line, start)) = status_line(window, ends, version)? else { return Ok(None) };
    let Some((fields, len)) = section(&window[start..], limits.fields_max, ends, Part::Response)?
    else {
        return Ok(None);
    };
    let StatusLine { minor, status, reason } = line;
    Ok(Some(ResponseHead { minor, status, reason, fields, len: start + len }))
}

struct StatusLine<'a> {
    minor: u8,
    status: u16,
    reason: &'a [u8],
}

/// Reads the status line, and its length with the line end. The reason phrase may be missing, with
/// or without its space (Yaler's relays).
fn status_line(
    bytes: &[u8],
    ends: LineEnds,
    version: ReadVersion,
) -> Result<Option<(StatusLine<'_>, usize)>, Refusal> {
    const PART: Part = Part::Response;
    const REASON_AT: usize = VERSION_LEN + 4;
    let Some(minor) = version(bytes, PART)? else { return Ok(None) };
    for (i, &byte) in bytes[VERSION_LEN..].iter().take(4).enumerate() {
        let right = match i {
            0 => byte == b' ',
            1 => matches!(byte, b'1'..=b'9'),
            _ => byte.is_ascii_digit(),
        };
        if !right {
            return Err(
                PART.malformed("the status line has no status from 100 to 999 after one space")
            );
        }
    }
    let Some((code, rest)) = bytes.get(VERSION_LEN + 1..REASON_AT).zip(bytes.get(REASON_AT..))
    else {
        return Ok(None);
    };
    let status = code.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    let reason = match rest.first() {
        None => return Ok(None),
        Some(b' ') => &rest[1..],
        Some(b'\r' | b'\n') => rest,
        Some(_) => {
            return Err(
                PART.malformed("the status has more than three digits, or no space after it")
            );
        }
    };
    let Some(reason_len) = reason.iter().position(|&byte| !is_text(byte)) else { return Ok(None) };
    let Some(end_len) = line_end(&reason[reason_len..], ends, PART)? else { return Ok(None) };
    let len = bytes.len() - reason.len() + reason_len + end_len;
    Ok(Some((StatusLine { minor, status, reason: &reason[..reason_len] }, len)))
}

const VERSION_LEN: usize = 8;

/// Reads the minor version of the `HTTP/1.x` at the front. The first wrong byte decides, so the
/// result does not depend on how the bytes were split.
fn version(bytes: &[u8], part: Part) -> Result<Option<u8>, Refusal> {
    let other = || {
        let status = if let Part::Response = part { 502 } else { 505 };
        Refusal::new(
            status,
            "this is another version of HTTP; only HTTP/1.1 and HTTP/1.0 are spoken here",
        )
    };
    let wrong = || part.malformed("where HTTP/1.1 or HTTP/1.0 has to stand is something else");
    for (&byte, (i, &expected)) in bytes.iter().zip(b"HTTP/1.".iter().enumerate()) {
        if byte != expected && i == 5 && byte.is_ascii_digit() {
            // RFC 9112 §2.3: one digit on each side of the dot. `HTTP/2.0` is another version,
            // `HTTP/01.1` is invalid.
            return match bytes.get(i + 1) {
                None => Ok(None),
                Some(b'.') => Err(other()),
                Some(_) => Err(wrong()),
            };
        }
        if byte != expected {
            return Err(wrong());
        }
    }
    match bytes.get(VERSION_LEN - 1) {
        None => Ok(None),
        Some(b'0') => Ok(Some(0)),
        Some(b'1') => Ok(Some(1)),
        Some(b'2'..=b'9') => Err(other()),
        Some(_) => Err(wrong()),
    }
}

/// Length of the line end that has to be at the front.
fn line_end(bytes: &[u8], ends: LineEnds, part: Part) -> Result<Option<usize>, Refusal> {
    match bytes {
        [] | [b'\r'] => Ok(None),
        [b'\r', b'\n', ..] => Ok(Some(2)),
        [b'\n', ..] if ends == LineEnds::CrlfOrLf => Ok(Some(1)),
        [b'\r', ..] => Err(part.malformed("a CR is not followed by an LF")),
        [b'\n', ..] => Err(part.malformed("an LF has no CR before it; lines end with CRLF")),
        _ => Err(part.malformed(
            "the first line of the message has something after its end, or a control byte",
        )),
    }
}

/// Reads field lines up to and including the empty line, and their length. `bytes` begins at the
/// start of a line.
pub(crate) fn section<'a>(
    bytes: &'a [u8],
    fields_max: usize,
    ends: LineEnds,
    part: Part,
) -> Result<Option<(Fields<'a>, usize)>, Refusal> {
    let (lines, end) = lines(bytes, fields_max, ends, part)?;
    let Some(end) = end else {
        // Not complete: the first part is parsed nevertheless, so that an error is reported now and
        // not at the deadline.
        let mut fields = vec![httparse::EMPTY_HEADER; lines + 1];
        return match httparse::parse_headers(bytes, &mut fields) {
            Ok(httparse::Status::Partial) => Ok(None),
            Ok(httparse::Status::Complete(_)) => {
                Err(part.malformed("the head ends in a way that is no empty line"))
            }
            Err(e) => Err(part.malformed(fields_reason(e))),
        };
    };
    if lines == 0 {
        return Ok(Some((Fields::default(), end)));
    }
    let mut fields = vec![httparse::EMPTY_HEADER; lines];
    match httparse::parse_headers(&bytes[..end], &mut fields) {
        Ok(httparse::Status::Complete((len, parsed))) if len == end && parsed.len() == lines => {
            // Both types have the same layout, so the vector is converted in place.
            let own = |field: httparse::Header<'a>| Field { name: field.name, value: field.value };
            Ok(Some((Fields(fields.into_iter().map(own).collect()), end)))
        }
        Ok(_) => Err(part.malformed("the lines of the head are not one field each")),
        Err(e) => Err(part.malformed(fields_reason(e))),
    }
}

/// The number of complete field lines, and the end of the section after its empty line, if that has
/// arrived.
fn lines(
    bytes: &[u8],
    fields_max: usize,
    ends: LineEnds,
    part: Part,
) -> Result<(usize, Option<usize>), Refusal> {
    let (mut lines, mut at) = (0, 0);
    while let Some(len) = find_lf(&bytes[at..]) {
        let line = match &bytes[at..at + len] {
            [line @ .., b'\r'] => line,
            line if ends == LineEnds::CrlfOrLf => line,
            _ => return Err(part.malformed("an LF has no CR before it; lines end with CRLF")),
        };
        at += len + 1;
        if line.is_empty() {
            return Ok((lines, Some(at)));
        }
        lines += 1;
        if lines > fields_max {
            return Err(part.too_large("there are more fields than fields_max allows"));
        }
        if hides_framing(line) {
            return Err(part.malformed("Content-Length or Transfer-Encoding contains a tab"));
        }
    }
    Ok((lines, None))
}

/// Returns true if a tab is next to the value of a framing field. It is legal white space, but
/// often used for smuggling, since some parsers do not trim it (T2).
fn hides_framing(line: &[u8]) -> bool {
    let name: &[u8] = match line.first() {
        Some(b'c' | b'C') => b"content-length:",
        Some(b't' | b'T') => b"transfer-encoding:",
        _ => return false,
    };
    line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
        && line.contains(&b'\t')
}

fn fields_reason(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => {
            "a field name is empty or no token, has white space before its colon, or a line is folded"
        }
        httparse::Error::HeaderValue => {
            "a field value has a CR, an LF, a NUL or another control byte"
        }
        httparse::Error::NewLine => "a CR is not followed by an LF",
        _ => "the fields of the head are malformed",
    }
}

/// Position of the first LF, eight bytes at a time: heads are short lines, and this runs for each
/// of them.
fn find_lf(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let mut rest = bytes;
    while let Some((word, tail)) = rest.split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*word) ^ (ONES * b'\n' as u64); // LF is now 0
        let zero = word.wrapping_sub(ONES) & !word & (ONES << 7); // its lowest bit marks the first 0
        if zero != 0 {
            return Some(bytes.len() - rest.len() + zero.trailing_zeros() as usize / 8);
        }
        rest = tail;
    }
    rest.iter().position(|&byte| byte == b'\n').map(|i| bytes.len() - rest.len() + i)
}

/// Converts bytes that were found to be ASCII to text.
fn text(bytes: &[u8], part: Part) -> Result<&str, Refusal> {
    std::str::from_utf8(bytes)
        .map_err(|_| part.malformed("the first line of the message is not ASCII"))
}

/// Names the protocol of the first bytes if it is not HTTP/1: "an HTTP/2 preface", "a TLS hello",
/// "an SSH banner"; `None` if they may be HTTP/1.
#[must_use]
pub fn foreign_protocol(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x16] | [0x16, 0x03, ..] => Some("a TLS hello"),
        [0x15, 0x03, ..] => Some("a TLS alert"),
        // A frame of type SETTINGS on stream 0, the first that an HTTP/2 server sends: a length
        // below 64 Ki in three bytes.
        [0, _, _, 4, _, 0, 0, 0, 0, ..] => Some("HTTP/2 frames"),
        [b'P', b'R', b'I', b' ', b'*', b' ', b'H', b'T', b'T', b'P', b'/', b'2', ..] => {
            Some("an HTTP/2 preface")
        }
        [b'S', b'S', b'H', b'-', b'1' | b'2', ..] => Some("an SSH banner"),
        [b'R', b'T', b'S', b'P', b'/', ..] => Some("an RTSP response"),
        [b'P', b'R', b'O', b'X', b'Y', b' ', ..]
        | [b'\r', b'\n', b'\r', b'\n', 0, b'\r', b'\n', ..] => Some(
            "what looks like the PROXY protocol (a load balancer sends it; switch it off there, or have the balancer add X-Forwarded-For)",
        ),
        _ => None,
    }
}

/// Adds the name of a foreign protocol to a refusal, if it is recognised, so that the log says, for
/// example, that TLS was used on a plain port.
#[cold]
fn name_foreign(bytes: &[u8], refusal: Refusal) -> Refusal {
    match foreign_protocol(bytes) {
        Some(what) => {
            let remedy = match bytes[0] {
                0x16 => {
                    ": this port has no TLS; write http:// in the URL, or give it a certificate"
                }
                _ => "",
            };
            Refusal::new(refusal.status, format!("{what} came where HTTP/1.1 is spoken{remedy}"))
        }
        None => refusal,
    }
}

/// Returns true if, according to its head, the connection may carry another exchange after this
/// message (RFC 9112 §9.3): HTTP/1.1 without `Connection: close`, or HTTP/1.0 with `keep-alive`.
#[must_use]
pub fn keeps_alive(minor: u8, fields: &Fields<'_>) -> bool {
    !fields.lists("connection", "close") && (minor >= 1 || fields.lists("connection", "keep-alive"))
}

/// Returns true if a request of this method may be repeated automatically (RFC 9110 §9.2.2).
#[must_use]
pub fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

/// Returns true if the content of a request of this method has a meaning. Servers often do not read
/// the content of other requests, and then take it for the next request (RFC 9110 §9.3.1).
#[must_use]
pub(crate) fn expects_content(method: &str) -> bool {
    !matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "DELETE")
}

/// Returns true if every byte is a `tchar` and there is at least one (RFC 9110 §5.6.2).
#[must_use]
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| is_tchar(byte))
}

const fn is_tchar(byte: u8) -> bool {
    const TABLE: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            table[byte] = matches!(byte as u8, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z'
                | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~');
            byte += 1;
        }
        table
    };
    TABLE[byte as usize]
}

/// Returns true for the bytes of values and reason phrases: HTAB, SP, visible bytes and those above
/// 0x7F (RFC 9110 §5.5).
pub(crate) const fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= 0x20 && byte != 0x7F)
}

/// Returns true if a path segment is `.` or `..`, each dot raw or encoded.
pub(crate) fn is_dots(segment: &str) -> bool {
    let mut rest = segment;
    let mut dots = 0;
    while let Some(tail) =
        rest.strip_prefix('.').or_else(|| begins(rest, "%2e").then(|| &rest[3..]))
    {
        rest = tail;
        dots += 1;
    }
    rest.is_empty() && (1..=2).contains(&dots)
}
