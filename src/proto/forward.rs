//! How a relay rewrites a head for the next hop: hop-by-hop fields, `Via`, forwarding fields,
//! target and `Host`.
//!
//! Everything else keeps its bytes, its spelling and its order. The parts that are interpreted
//! (framing, `Host`, target, the forwarding fields) are generated, and the received ones are not
//! forwarded. So the next parser cannot read them differently (T1, T11, T12).
use std::borrow::Cow;

use crate::error::Refusal;
use crate::proto::authority::{Authority, authority, one_host};
use crate::proto::body::{Framing, content_length};
use crate::proto::digits::decimal;
use crate::proto::fields::{Field, Fields, begins, is_ambiguous, same_name, trim};
use crate::proto::head::{RequestHead, ResponseHead, is_dots, is_token};
use crate::proto::head_writer::{
    push_decimal, push_field, write_field, write_request_line, write_status_line,
};

use crate::proto::absolute::absolute_form;
use crate::proto::alias::Alias;
use crate::proto::edits::FieldEdits;
use crate::proto::framed::FramedRequest;
use crate::proto::hop_by_hop::{Named, TOO_MANY_NAMED};
use crate::proto::peer;
use crate::proto::upgrade::push_upgrade;

pub use crate::proto::forwarded::Forwarded;

/// Identifies a request in the logs of all hops that it passes.
pub const REQUEST_ID: &str = "X-Request-Id";

/// A visitor's token for the gateway, if `Authorization` is for the application. No hop forwards
/// it.
pub const GATEWAY_AUTHORIZATION: &str = "PTTH-Authorization";

/// How a request is forwarded.
///
/// ```
/// use reverse_http::Limits;
/// use reverse_http::proto::body::Framing;
/// use reverse_http::proto::forward::{self, RequestRules};
/// use reverse_http::proto::head::{self, LineEnds};
///
/// let head = b"GET /lamp/status HTTP/1.1\r\nHost: gw\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\n\r\n";
/// let head = head::request(head, &Limits::default(), LineEnds::Crlf)?.expect("it is whole");
/// let rules = RequestRules {
///     target: "/status",
///     host: "lamp",
///     prefix: Some("/lamp"),
///     forwarded: None,
///     via: None,
///     keep_underscore: false,
///     drop_authorization: false,
///     upgrade: false,
///     request_id: None,
///     edits: None,
///     alias: None,
///     own_cookie: None,
/// };
/// let mut out = Vec::new();
/// forward::request(&mut out, &head, Framing::Empty, &rules)?;
/// let out = String::from_utf8(out).unwrap();
/// assert!(out.starts_with("GET /status HTTP/1.1\r\nHost: lamp\r\n"));
/// assert!(out.contains("X-End: 2\r\n") && !out.contains("X-Hop"));
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RequestRules<'a> {
    /// Target of the forwarded request (path and query).
    pub target: &'a str,
    /// Value of the forwarded `Host`; it replaces the received one.
    pub host: &'a str,
    /// `X-Forwarded-Prefix`, if a path prefix was removed; it is appended to that of a trusted
    /// proxy.
    pub prefix: Option<&'a str>,
    /// `X-Forwarded-*` and `Forwarded` are generated from these; `None`: they are forwarded
    /// untouched (the device's forwarder, which trusts its gateway).
    pub forwarded: Option<Forwarded<'a>>,
    /// Pseudonym in `Via`, `ptth` by default; `None`: no `Via` added.
    pub via: Option<&'a str>,
    /// Keep fields whose name has a character besides letters, digits and `-`, such as `_`. Default:
    /// dropped.
    pub keep_underscore: bool,
    /// `Authorization` was for the gateway and is not forwarded.
    pub drop_authorization: bool,
    /// The request's offer of another protocol is forwarded: `Upgrade`, without `h2c`, and
    /// `Connection: Upgrade`. Default: both are removed.
    pub upgrade: bool,
    /// `X-Request-Id`, which replaces the received one; `None`: the received one is forwarded.
    pub request_id: Option<&'a str>,
    /// The fields that an operator sets and removes.
    pub edits: Option<&'a FieldEdits>,
    /// The names of the server, if its visitors use another than it gets.
    pub alias: Option<&'a Alias>,
    /// The name of a cookie that was for this hop, and is not forwarded.
    pub own_cookie: Option<&'a str>,
}

/// Appends the head of the request as it is forwarded, in HTTP/1.1. Order, spelling and bytes of
/// forwarded fields are kept. Hop-by-hop fields and those named in `Connection` are removed, but
/// never framing, `Host` or end-to-end ones that must survive (T12: content-length, host,
/// authorization, x-forwarded-*, via). Framing fields are generated from `framing`; `Expect:
/// 100-continue` is forwarded. `Upgrade` (unless [`RequestRules::upgrade`] is set),
/// `HTTP2-Settings` and `TE` (except `TE: trailers`) are removed.
///
/// With [`RequestRules::forwarded`] every received `X-Forwarded-*` and `Forwarded` is removed,
/// except for the parts that are in [`Forwarded::claims`]; `X-Real-IP` is not one of our forwarding
/// fields, and is kept.
///
/// # Errors
/// 400: a part cannot be written, `OPTIONS *` has a body, or `Connection` names too many fields.
/// Nothing is appended then.
pub fn request(
    out: &mut Vec<u8>,
    head: &RequestHead<'_>,
    framing: Framing,
    rules: &RequestRules<'_>,
) -> Result<(), Refusal> {
    let start = out.len();
    request_lines(out, head, framing, rules).inspect_err(|_| out.truncate(start))
}

/// Adds `Connection: close` to a head that was just written, so that a server that does not read
/// the body does not take it for another request.
pub(crate) fn ask_to_close(head: &mut Vec<u8>) {
    head.truncate(head.len().saturating_sub(2)); // the empty line
    push_field(head, "Connection", b"close");
    head.extend_from_slice(b"\r\n");
}

fn request_lines(
    out: &mut Vec<u8>,
    head: &RequestHead<'_>,
    framing: Framing,
    rules: &RequestRules<'_>,
) -> Result<(), Refusal> {
    if rules.target == "*" && framing != Framing::Empty {
        return Err(Refusal::new(400, SERVER_BODY));
    }
    let named =
        Named::by_connection(&head.fields).ok_or_else(|| Refusal::new(400, TOO_MANY_NAMED))?;
    write_request_line(out, head.method, rules.target)?;
    write_field(out, "Host", rules.host.as_bytes())?;
    let (mut had_length, mut takes_trailers) = (false, false);
    for field in &head.fields {
        match action(field, &named) {
            FieldAction::Stays => {}
            FieldAction::Forwarding if rules.forwarded.is_none() => {}
            FieldAction::Length => {
                had_length = true;
                continue;
            }
            FieldAction::Te => {
                takes_trailers = true;
                continue;
            }
            FieldAction::Forwarding | FieldAction::Host | FieldAction::Goes => continue,
        }
        if rules.prefix.is_some() && same_name(field.name, "x-forwarded-prefix") {
            continue;
        }
        if rules.request_id.is_some() && same_name(field.name, REQUEST_ID) {
            continue;
        }
        if rules.drop_authorization && same_name(field.name, "authorization") {
            continue;
        }
        if rules.edits.is_some_and(|edits| edits.covers(field.name)) {
            continue;
        }
        if rules.keep_underscore || !is_ambiguous(field.name) {
            push_forwarded(out, field, rules);
        }
    }
    if let Some(id) = rules.request_id {
        write_field(out, REQUEST_ID, id.as_bytes())?;
    }
    rules.edits.into_iter().for_each(|edits| edits.push(out));
    if takes_trailers && head.fields.lists("te", "trailers") {
        push_field(out, "TE", b"trailers");
    }
    if rules.upgrade {
        push_upgrade(out, &head.fields);
    }
    match framing {
        // RFC 9110 §8.6: a method that usually has content says that it has none; some old servers
        // insist (411).
        Framing::Empty if had_length || matches!(head.method, "POST" | "PUT" | "PATCH") => {
            push_length(out, 0)
        }
        Framing::Empty | Framing::UntilClose => {}
        Framing::Length(length) => push_length(out, length),
        Framing::Chunked => push_field(out, "Transfer-Encoding", b"chunked"),
    }
    match (rules.forwarded, rules.prefix) {
        (Some(forwarded), prefix) => forwarded.write(out, prefix)?,
        (None, Some(prefix)) => write_field(out, "X-Forwarded-Prefix", prefix.as_bytes())?,
        (None, None) => {}
    }
    end_head(out, head.minor, rules.via)
}

/// Appends a field, in the form for the next hop.
fn push_forwarded(out: &mut Vec<u8>, field: &Field<'_>, rules: &RequestRules<'_>) {
    if let Some(name) = rules.own_cookie.filter(|_| same_name(field.name, "cookie")) {
        let cookies = cookies_without(name, field.value);
        return cookies.into_iter().for_each(|cookies| push_field(out, field.name, &cookies));
    }
    match rules.alias.and_then(|alias| alias.meant(field.name, field.value)) {
        Some(meant) => push_field(out, field.name, &meant),
        None => push_field(out, field.name, field.value),
    }
}

/// The name in a cookie's pair, as it is compared: with case (RFC 6265 §5.3).
fn cookie_name(pair: &[u8]) -> &[u8] {
    trim(pair.split(|byte| *byte == b'=').next().unwrap_or_default())
}

/// A value of `Cookie` without this cookie. `None`: nothing else was in it.
fn cookies_without<'v>(name: &str, value: &'v [u8]) -> Option<Cow<'v, [u8]>> {
    let pairs = || value.split(|byte| *byte == b';');
    let is_it = |pair: &[u8]| cookie_name(pair) == name.as_bytes();
    if !pairs().any(is_it) {
        return Some(value.into());
    }
    let rest: Vec<&[u8]> =
        pairs().filter(|pair| !is_it(pair)).map(trim).filter(|pair| !pair.is_empty()).collect();
    (!rest.is_empty()).then(|| rest.join(&b"; "[..]).into())
}

/// Returns true if a field of a response sets the cookie of this name, or a cookie without a name
/// whose value reads like it: browsers send only the value of such a cookie (RFC 6265bis §5.8.3).
fn sets_cookie(field: &Field<'_>, name: &str) -> bool {
    let pair = || trim(field.value.split(|byte| *byte == b';').next().unwrap_or_default());
    let sent =
        |pair: &[u8]| cookie_name(pair.strip_prefix(b"=").unwrap_or(pair)) == name.as_bytes();
    same_name(field.name, "set-cookie") && sent(pair())
}

/// Returns true if `Via` names this pseudonym (RFC 9110 §7.6.3): each member has a protocol, then
/// the name of the receiver.
#[must_use]
pub fn came_through(fields: &Fields<'_>, pseudonym: &str) -> bool {
    fields.list("via").any(|member| was_received_by(member, pseudonym))
}

/// The same, without the last member.
pub(crate) fn came_through_before(fields: &Fields<'_>, pseudonym: &str) -> bool {
    let mut last = None;
    fields
        .list("via")
        .any(|member| last.replace(member).is_some_and(|before| was_received_by(before, pseudonym)))
}

fn was_received_by(member: &[u8], pseudonym: &str) -> bool {
    let mut words =
        member.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    words.nth(1).is_some_and(|name| name.eq_ignore_ascii_case(pseudonym.as_bytes()))
}

/// Appends `Via`, then the empty line. RFC 9110 §7.6.3: the protocol in `Via` is that of the
/// received message.
fn end_head(out: &mut Vec<u8>, minor: u8, via: Option<&str>) -> Result<(), Refusal> {
    if let Some(via) = via {
        if !is_token(via.as_bytes()) {
            return Err(Refusal::new(400, "the pseudonym for Via is no token"));
        }
        out.extend_from_slice(if minor == 0 { b"Via: 1.0 " } else { b"Via: 1.1 " });
        out.extend_from_slice(via.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

fn push_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"Content-Length: ");
    push_decimal(out, length);
    out.extend_from_slice(b"\r\n");
}

/// How a field is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldAction {
    /// Forwarded unchanged.
    Stays,
    /// Hop-by-hop, or named in `Connection`.
    Goes,
    Host,
    /// `Content-Length`: generated.
    Length,
    /// `TE`: only `trailers` is forwarded.
    Te,
    /// `Forwarded` and `X-Forwarded-*`.
    Forwarding,
}

fn action(field: &Field<'_>, named: &Named<'_>) -> FieldAction {
    let name = field.name;
    // By length first, since most names differ in it, and this runs for every field of every
    // message.
    let is = |other: &str| same_name(name, other);
    match name.len() {
        2 if is("te") => FieldAction::Te,
        4 if is("host") => FieldAction::Host,
        5 if is("proxy") => FieldAction::Goes, // CGI makes HTTP_PROXY of it (CVE-2016-5385)
        7 if is("upgrade") => FieldAction::Goes,
        9 if is("forwarded") => FieldAction::Forwarding,
        10 if is("connection") || is("keep-alive") => FieldAction::Goes,
        14 if is("content-length") => FieldAction::Length,
        14 if is("http2-settings") => FieldAction::Goes,
        16 if is("proxy-connection") => FieldAction::Goes,
        18 if is(GATEWAY_AUTHORIZATION) => FieldAction::Goes,
        17 if is("transfer-encoding") || is(SAME_VISITOR) => FieldAction::Goes,
        12 if is(WAITING) => FieldAction::Goes,
        12.. if begins(name, "x-forwarded-") => FieldAction::Forwarding,
        12.. if begins(name, peer::PREFIX) => FieldAction::Goes,
        _ if named.drops(name) => FieldAction::Goes,
        _ => FieldAction::Stays,
    }
}

/// A device takes `OPTIONS *` for a heartbeat, and an old device would read its body as the next
/// request.
const SERVER_BODY: &str = "OPTIONS * goes without a body to a device";

/// The field by which a gateway tells a device with a session that a request comes from the same
/// visitor's connection as the previous one on this link. Its value is the session, which no
/// visitor knows, so that no visitor can forge it, through whatever gateway.
pub(crate) const SAME_VISITOR: &str = "ptth-same-visitor";

/// The field by which a gateway tells a device with a session how many callers wait for its name
/// while no link or poll is free (protocol.md §1.6). It is between gateway and device: neither
/// forwards one.
pub(crate) const WAITING: &str = "ptth-waiting";

/// The line with the number of waiting callers; empty if none waits.
pub(crate) fn waiting_line(callers: usize) -> Vec<u8> {
    const MOST: usize = 9_999; // four digits
    match callers {
        0 => Vec::new(),
        callers => format!("PTTH-Waiting: {}\r\n", callers.min(MOST)).into_bytes(),
    }
}

/// The position at which a line may be inserted into a request: after its first line.
pub(crate) fn behind_first_line(request: &[u8]) -> usize {
    request.windows(2).position(|end| end == b"\r\n").map_or(0, |end| end + 2)
}

/// Returns how many callers wait, according to the head of a request, event or heartbeat. A value
/// that is not one line of one to four digits is ignored.
pub(crate) fn callers_waiting(fields: &Fields<'_>) -> Option<usize> {
    let mut lines = fields.all(WAITING);
    let (value, None) = (lines.next()?, lines.next()) else { return None };
    decimal(value).filter(|_| value.len() <= 4)?.try_into().ok()
}

/// How a response is forwarded.
///
/// ```
/// use reverse_http::Limits;
/// use reverse_http::proto::body::Framing;
/// use reverse_http::proto::forward::{self, ResponseRules};
/// use reverse_http::proto::head::{self, LineEnds};
///
/// let head = b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\n";
/// let head = head::response(head, &Limits::default(), LineEnds::CrlfOrLf)?.expect("it is whole");
/// let rules = ResponseRules {
///     via: None,
///     close: true,
///     keep_alive: false,
///     date: None,
///     upgrade: false,
///     edits: None,
///     alias: None,
///     own_cookie: None,
/// };
/// let mut out = Vec::new();
/// forward::response(&mut out, &head, Framing::Length(2), "GET", &rules)?;
/// assert_eq!(out, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n");
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ResponseRules<'a> {
    /// `Via` pseudonym; `None`: no `Via` added.
    pub via: Option<&'a str>,
    /// Add `Connection: close`.
    pub close: bool,
    /// Add `Connection: keep-alive` (to an HTTP/1.0 peer that asked for it).
    pub keep_alive: bool,
    /// `Date` to add (an IMF-fixdate) to a final response that has none; `None`: none is added.
    /// Never to 1xx.
    pub date: Option<&'a str>,
    /// It is a 101 that the request asked for: `Upgrade` and `Connection: Upgrade` are forwarded.
    pub upgrade: bool,
    /// The fields that an operator sets and removes.
    pub edits: Option<&'a FieldEdits>,
    /// The names of the server, if its visitors use another than it gets.
    pub alias: Option<&'a Alias>,
    /// The name of a cookie that only this hop may set: it is removed from responses.
    pub own_cookie: Option<&'a str>,
}

/// Appends the head of a response as it is forwarded, in HTTP/1.1, framed as `framing` says:
/// `Length` keeps one `Content-Length`; `Chunked` writes `Transfer-Encoding: chunked`; `UntilClose`
/// writes neither. `Empty`: `Content-Length: 0` if a response of this status has a body; for HEAD,
/// 204, 304 (no body) the fields' `Content-Length` is kept as metadata (one, digits; not with 204
/// or 1xx). Never both. `method` is the request's. A 100 gets no `Via`: there are clients (ureq)
/// that take a 100 with fields for a refusal.
///
/// # Errors
/// 502: a part cannot be written, or `Connection` names too many fields. Nothing is appended then.
pub fn response(
    out: &mut Vec<u8>,
    head: &ResponseHead<'_>,
    framing: Framing,
    method: &str,
    rules: &ResponseRules<'_>,
) -> Result<(), Refusal> {
    let start = out.len();
    response_lines(out, head, framing, method, rules).map_err(|refusal| {
        out.truncate(start);
        Refusal { status: 502, ..refusal }
    })
}

fn response_lines(
    out: &mut Vec<u8>,
    head: &ResponseHead<'_>,
    framing: Framing,
    method: &str,
    rules: &ResponseRules<'_>,
) -> Result<(), Refusal> {
    let named =
        Named::by_connection(&head.fields).ok_or_else(|| Refusal::new(502, TOO_MANY_NAMED))?;
    write_status_line(out, head.status, head.reason)?;
    let mut dated = false;
    for field in &head.fields {
        match action(field, &named) {
            FieldAction::Stays | FieldAction::Forwarding | FieldAction::Host => {}
            FieldAction::Goes | FieldAction::Length | FieldAction::Te => continue,
        }
        if rules.edits.is_some_and(|edits| edits.covers(field.name)) {
            continue;
        }
        if rules.own_cookie.is_some_and(|name| sets_cookie(field, name)) {
            continue;
        }
        dated |= same_name(field.name, "date");
        match rules.alias.and_then(|alias| alias.seen(field.name, field.value)) {
            Some(seen) => push_field(out, field.name, &seen),
            None => push_field(out, field.name, field.value),
        }
    }
    if let Some(edits) = rules.edits {
        edits.push(out);
        dated |= edits.covers("date");
    }
    match framing {
        Framing::Length(length) => push_length(out, length),
        Framing::Chunked => push_field(out, "Transfer-Encoding", b"chunked"),
        Framing::UntilClose => {}
        // RFC 9110 §8.6: never in a 1xx or a 204.
        Framing::Empty if matches!(head.status, 100..=199 | 204) => {}
        Framing::Empty if method == "HEAD" || head.status == 304 => {
            if let Some(length) = content_length(&head.fields)? {
                push_length(out, length);
            }
        }
        Framing::Empty => push_length(out, 0),
    }
    let interim = head.status < 200;
    if let Some(date) = rules.date.filter(|_| !dated && !interim) {
        write_field(out, "Date", date.as_bytes())?;
    }
    if rules.upgrade {
        push_upgrade(out, &head.fields);
    } else if rules.close {
        push_field(out, "Connection", b"close");
    } else if rules.keep_alive {
        push_field(out, "Connection", b"keep-alive");
    }
    end_head(out, head.minor, rules.via.filter(|_| head.status != 100))
}

/// The destination of a visitor's request: its host and target, normalised once (T11).
///
/// ```
/// use reverse_http::Limits;
/// use reverse_http::proto::forward;
/// use reverse_http::proto::framed::FramedRequest;
/// use reverse_http::proto::head::{self, LineEnds};
///
/// let head = b"GET http://Lamp.example:8080/status HTTP/1.1\r\nHost: lamp.example:8080\r\n\r\n";
/// let head = head::request(head, &Limits::default(), LineEnds::Crlf)?.expect("it is whole");
/// let request = FramedRequest::of(head)?;
/// let destination = forward::destination(&request)?;
/// assert_eq!((&*destination.host, destination.port), ("lamp.example", Some(8080)));
/// assert_eq!(destination.target, "/status");
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination<'a> {
    /// Host without port, lower case, without a trailing dot. Empty in HTTP/1.0 without `Host`.
    pub host: String,
    /// The port, if there is one.
    pub port: Option<u16>,
    /// The authority to be forwarded (from the absolute form if there is one, else from `Host`).
    pub authority: &'a str,
    /// Path and query in origin form (or `*`).
    pub target: &'a str,
}

/// Reads host and target of a visitor's request: exactly one valid `Host` in HTTP/1.1; absolute
/// form must agree with it (else 400); origin form, or `*` with OPTIONS.
///
/// # Errors
/// 400: no, several or invalid `Host`; userinfo; authority form; an invalid target; a `#` fragment;
/// a path segment `..` or `.` (raw or encoded `%2e`), a backslash, a `%` without two hex digits,
/// `%00`. 501 for CONNECT.
pub fn destination<'a>(head: &FramedRequest<'a>) -> Result<Destination<'a>, Refusal> {
    let (named, target) = split_target(head)?;
    let host = match one_host(&head.fields)? {
        Some(host) if head.minor == 1 || !host.is_empty() => Some(authority(host)?),
        None if head.minor == 1 => return Err(Refusal::new(400, "there is no Host field")),
        _ => None,
    };
    if let (Some((scheme_port, named)), Some(host)) = (named, host) {
        let port = |authority: Authority<'_>| authority.port.unwrap_or(scheme_port);
        if !named.host.eq_ignore_ascii_case(host.host) || port(named) != port(host) {
            return Err(Refusal::new(400, "the absolute target and Host name different hosts"));
        }
    }
    Ok(match named.map(|(_, named)| named).or(host) {
        Some(Authority { whole, host, port }) => {
            Destination { host: host.to_ascii_lowercase(), port, authority: whole, target }
        }
        None => Destination { host: String::new(), port: None, authority: "", target },
    })
}

/// The target of a request in origin form (or `*` with OPTIONS), whatever host an absolute form
/// names. It is for a proxy with a single upstream, which no request may change (T25).
///
/// # Errors
/// As [`destination`], except for `Host`.
pub fn origin_form<'a>(head: &FramedRequest<'a>) -> Result<&'a str, Refusal> {
    split_target(head).map(|(_, target)| target)
}

/// The host that a request on a link is for: that of an absolute form, which wins over `Host` (RFC
/// 9112 §3.2.2), else that of `Host`. `None`: neither names one, which a device tolerates.
///
/// # Errors
/// 400: more than one `Host`, or an invalid one, whatever the target names (RFC 9112 §3.2).
pub fn host_of<'a>(head: &RequestHead<'a>) -> Result<Option<&'a str>, Refusal> {
    let named = absolute_form(head.target)?;
    let host =
        one_host(&head.fields)?.filter(|host| !host.is_empty()).map(host_value).transpose()?;
    Ok(named.map(|(_, named, _)| named.whole).or(host))
}

/// The host of a valid `Host`. Its port is not used here, so any digits are accepted (RFC 3986
/// §3.2.3).
fn host_value(value: &[u8]) -> Result<&str, Refusal> {
    match authority(value) {
        Ok(authority) => Ok(authority.whole),
        Err(refusal) => {
            let digits = value.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
            let host = value[..value.len() - digits].strip_suffix(b":").filter(|_| digits > 0);
            let valid = host.is_some_and(|host| {
                authority(host).is_ok_and(|host| host.port.is_none()) && !host.ends_with(b":")
            });
            std::str::from_utf8(value).ok().filter(|_| valid).ok_or(refusal)
        }
    }
}

/// The scheme's port and the authority of an absolute form, and the origin form.
type Split<'a> = (Option<(u16, Authority<'a>)>, &'a str);

fn split_target<'a>(head: &RequestHead<'a>) -> Result<Split<'a>, Refusal> {
    let wrong = |reason| Err(Refusal::new(400, reason));
    let target = head.target;
    if head.method == "CONNECT" {
        return Err(Refusal::new(501, "CONNECT is not served: this is no forward proxy"));
    }
    if target.starts_with('/') {
        check_path(target)?;
        return Ok((None, target));
    }
    if target == "*" {
        return if head.method == "OPTIONS" {
            Ok((None, target))
        } else {
            wrong("the target * goes with OPTIONS only")
        };
    }
    let Some((scheme_port, named, path)) = absolute_form(target)? else {
        return wrong("the target is neither a path nor an http or https URL");
    };
    let path = match path {
        "" if head.method == "OPTIONS" => "*", // RFC 9112 §3.2.4
        "" => "/",
        path if path.starts_with('/') => path,
        _ => return wrong("the absolute target has no path; write / before ?"),
    };
    if path != "*" {
        check_path(path)?;
    }
    Ok((Some((scheme_port, named)), path))
}

/// Refuses targets that servers after us read in different ways. `//` and `%2f` are data and are
/// kept; so is a backslash in a query, which browsers send.
fn check_path(target: &str) -> Result<(), Refusal> {
    let wrong = |reason| Err(Refusal::new(400, reason));
    // One pass over the bytes recognises the usual target.
    if !target.bytes().any(|byte| matches!(byte, b'.' | b'%' | b'\\' | b'#')) {
        return Ok(());
    }
    if target.contains('#') {
        return wrong("the target has a fragment");
    }
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    if !path.bytes().any(|byte| matches!(byte, b'.' | b'%' | b'\\')) {
        return Ok(()); // the usual path has none of these
    }
    if path.contains('\\') {
        return wrong("the path has a backslash");
    }
    for (at, _) in path.match_indices('%') {
        match path.as_bytes().get(at + 1..at + 3) {
            Some(b"00") => return wrong("the path has an encoded NUL"),
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => {}
            _ => return wrong("the path has a % without two hex digits"),
        }
    }
    if path.split('/').any(is_dots) {
        return wrong("the path has a segment . or .., which a client has to resolve itself");
    }
    Ok(())
}

/// The first path segment of an origin-form target and the rest: `/lamp/status?x` is `("lamp",
/// Some("/status?x"))`, `/lamp?x` is `("lamp", None)` with the query in `.2`. `/` is `("", …)`.
#[must_use]
pub fn split_first_segment(target: &str) -> FirstSegment<'_> {
    // Byte by byte: targets are short, and a search by words takes longer to begin.
    let find = |text: &str, wanted| text.bytes().position(|byte| byte == wanted);
    let (path, query) = target.split_at(find(target, b'?').unwrap_or(target.len()));
    let Some(inner) = path.strip_prefix('/') else {
        return FirstSegment { segment: "", rest: "", query };
    };
    match find(inner, b'/') {
        Some(end) => FirstSegment { segment: &inner[..end], rest: &target[1 + end..], query: "" },
        None => FirstSegment { segment: inner, rest: "", query },
    }
}

/// The result of [`split_first_segment`].
///
/// ```
/// use reverse_http::proto::forward::split_first_segment;
/// let split = split_first_segment("/lamp/status?x");
/// assert_eq!((split.segment, split.rest, split.query), ("lamp", "/status?x", ""));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstSegment<'a> {
    /// Without slashes; may be empty.
    pub segment: &'a str,
    /// From the second slash on, query included; empty when there is none.
    pub rest: &'a str,
    /// Query with its `?` when there is no second slash; else empty.
    pub query: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_of_this_hop_is_taken_out_of_its_field() {
        for (value, left) in [
            ("a=1", Some("a=1")),
            ("own=x", None),
            ("a=1; own=x", Some("a=1")),
            ("own=x;b=2", Some("b=2")),
            ("a=1;  own =x; b=\"2\";own=y; Own=z", Some("a=1; b=\"2\"; Own=z")),
            ("own", None),
            ("owner=1; a=own", Some("owner=1; a=own")),
            ("; own=x; ", None),
            ("", Some("")),
        ] {
            let cookies = cookies_without("own", value.as_bytes());
            assert_eq!(cookies.as_deref(), left.map(str::as_bytes), "{value}");
        }
        for (name, value, sets) in [
            ("Set-Cookie", "own=x; Path=/", true),
            ("set-cookie", " own = x", true),
            ("Set-Cookie", "a=own=x; own=y", false),
            ("Set-Cookie", "owner=x", false),
            ("Set-Cookie", "=own=x", true),
            ("Set-Cookie", " = own=x; Path=/", true),
            ("Set-Cookie", "==own=x", false),
            ("Set-Cookie", "=owner=x", false),
            ("Cookie", "own=x", false),
        ] {
            assert_eq!(
                sets_cookie(&Field { name, value: value.as_bytes() }, "own"),
                sets,
                "{value}"
            );
        }
    }

    #[test]
    fn waiting_callers_have_a_line_of_at_most_four_digits() {
        assert_eq!(waiting_line(0), b"");
        assert_eq!(waiting_line(7), b"PTTH-Waiting: 7\r\n");
        assert_eq!(waiting_line(10_000), b"PTTH-Waiting: 9999\r\n");
        assert_eq!(behind_first_line(b"GET / HTTP/1.1\r\nHost:\r\n\r\n"), 16);
    }
}
