//! What a relay changes in a head on its way: hop-by-hop fields, `Via`, forwarding fields, target and `Host`.
use std::net::IpAddr;

use crate::error::Refusal;
use crate::proto::body::Framing;
use crate::proto::head::{RequestHead, ResponseHead};

/// How a request is forwarded.
#[derive(Clone, Copy, Debug)]
pub struct RequestRules<'a> {
    /// Target of the forwarded request (path and query).
    pub target: &'a str,
    /// Value of the forwarded `Host`; it replaces what came.
    pub host: &'a str,
    /// `X-Forwarded-Prefix`, where a path prefix was taken off.
    pub prefix: Option<&'a str>,
    /// `X-Forwarded-For`, `X-Forwarded-Proto`, `X-Forwarded-Host` are overwritten with these; `None`: they are forwarded untouched
    /// (the device's forwarder, which trusts its gateway).
    pub forwarded: Option<Forwarded<'a>>,
    /// Pseudonym in `Via`, `ptth` by default; `None`: no `Via` added.
    pub via: Option<&'a str>,
    /// Keep fields whose name has an underscore. Default: dropped.
    pub keep_underscore: bool,
}

/// Who asked, for the forwarding fields.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded<'a> {
    /// The visitor's address.
    pub peer: Option<IpAddr>,
    /// `http` or `https`.
    pub proto: &'a str,
    /// The `Host` the visitor sent.
    pub host: &'a str,
}

/// Appends the head of the request as it is forwarded, in HTTP/1.1. Order, spelling and octets of forwarded fields are kept.
/// Hop-by-hop fields and those named in `Connection` go, but never framing, `Host` or end-to-end ones that must survive (T12: content-length, host,
/// authorization, x-forwarded-*, via). Framing fields are written anew from `framing`; `Expect: 100-continue` is forwarded. `Upgrade`, `HTTP2-Settings`, `TE` (but `TE: trailers`) go.
///
/// # Errors
/// 400 where something cannot be written.
pub fn request(out: &mut Vec<u8>, head: &RequestHead<'_>, framing: Framing, rules: &RequestRules<'_>) -> Result<(), Refusal> {
    let _ = (out, head, framing, rules);
    todo!()
}

/// How a response is forwarded.
#[derive(Clone, Copy, Debug)]
pub struct ResponseRules<'a> {
    /// `Via` pseudonym; `None`: no `Via` added.
    pub via: Option<&'a str>,
    /// Add `Connection: close`.
    pub close: bool,
    /// Add `Connection: keep-alive` (to an HTTP/1.0 peer that asked for it).
    pub keep_alive: bool,
    /// `Date` to add (an IMF-fixdate) to a final response that has none; `None`: none is added. Never to 1xx.
    pub date: Option<&'a str>,
}

/// Appends the head of a response as it is forwarded, in HTTP/1.1, framed as `framing` says: `Length` keeps one `Content-Length`; `Chunked` writes
/// `Transfer-Encoding: chunked`; `UntilClose` writes neither. `Empty`: `Content-Length: 0` where the response has a body by its status; for HEAD, 204, 304 (no body) the
/// fields' `Content-Length` is kept as metadata (one, digits; not with 204 or 1xx). Never both. `method` is the request's.
///
/// # Errors
/// 502 where something cannot be written.
pub fn response(out: &mut Vec<u8>, head: &ResponseHead<'_>, framing: Framing, method: &str, rules: &ResponseRules<'_>) -> Result<(), Refusal> {
    let _ = (out, head, framing, method, rules);
    todo!()
}

/// Where a visitor wants to go: host and target of a request, normalised once (T11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination<'a> {
    /// Host without port, lower case, without a trailing dot. Empty in HTTP/1.0 without `Host`.
    pub host: String,
    /// Port, where given.
    pub port: Option<u16>,
    /// The authority as it is to be forwarded (from the absolute form where there is one, else `Host`).
    pub authority: &'a str,
    /// Path and query in origin form (or `*`).
    pub target: &'a str,
}

/// Reads host and target of a visitor's request: exactly one valid `Host` in HTTP/1.1; absolute form must agree with it (else 400); origin form, or `*` with OPTIONS.
///
/// # Errors
/// 400: no, several or invalid `Host`; userinfo; authority form; a target that is none of the forms; a `#` fragment; a path segment `..` or `.` (raw or
/// encoded `%2e`), a backslash. 405 for CONNECT.
pub fn destination<'a>(head: &RequestHead<'a>) -> Result<Destination<'a>, Refusal> {
    let _ = head;
    todo!()
}

/// The first path segment of an origin-form target and the rest: `/lamp/status?x` is `("lamp", Some("/status?x"))`, `/lamp?x` is `("lamp", None)` with the query in `.2`.
/// `/` is `("", …)`.
pub fn split_first_segment(target: &str) -> FirstSegment<'_> {
    let _ = target;
    todo!()
}

/// What [`split_first_segment`] finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstSegment<'a> {
    /// Without slashes; may be empty.
    pub segment: &'a str,
    /// From the second slash on, query included; empty when there is none.
    pub rest: &'a str,
    /// Query with its `?` when there is no second slash; else empty.
    pub query: &'a str,
}
