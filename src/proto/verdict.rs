//! How the device interprets the reply to an offer or a poll: a turn, an event, a redirect, a
//! refusal.

use std::time::Duration;

use crate::proto::dialect::Dialect;
use crate::proto::dialect::name_and_version;
use crate::proto::digits::decimal;
use crate::proto::fields::{Fields, trim};
use crate::proto::head::ResponseHead;
use crate::proto::turn::{Encoding, MESSAGE_ID, is_http_1_1};
use crate::text::spelled_out;

/// The meaning of one response to a device's offer (protocol.md §1.4).
///
/// ```
/// use reverse_http::Limits;
/// use reverse_http::proto::head::{self, LineEnds};
/// use reverse_http::proto::verdict::{self, Verdict};
///
/// let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n";
/// let head = head::response(answer, &Limits::default(), LineEnds::Crlf)?.expect("it is whole");
/// assert_eq!(verdict::check(&head, "PTTH/1.0"), Verdict::Turned { warning: None });
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The connection is turned. `warning`: a tolerated fault (missing `Connection`, other
    /// version).
    Turned {
        /// A tolerated fault of the answer.
        warning: Option<&'static str>,
    },
    /// A 1xx before the final answer: read on.
    Informational,
    /// 204: nothing yet; offer again on this connection.
    Nothing,
    /// 200 whose type is `application/json` or `message/http`, an empty 200, or a 204 with one of
    /// these types: the gateway fell back (section 2). The encoding, if the type tells it.
    FellBack(Option<Encoding>),
    /// 307 or 308: offer there. The `Location` as received.
    Redirect(String),
    /// 401, 403, 404, 410: stop, if it was the first offer.
    Refused(u16),
    /// 409, 400, 426, 408, 429, 5xx: try again later, after this time at least.
    Later {
        /// The status.
        status: u16,
        /// `Retry-After` in seconds (delta form only, since this module has no clock; capped at one
        /// hour).
        retry_after: Option<Duration>,
    },
    /// 405, 501, any other 2xx or 4xx: this gateway does not turn connections; polls without
    /// `Upgrade` are tried next.
    NoTurn(u16),
    /// A valid HTTP message that is wrong here: 101 without or with another `Upgrade`, 301/302/303,
    /// any other 3xx, a page of HTML, 511. The text says what to do.
    Wrong(String),
}

/// Interprets the response to an offer of `token`.
#[must_use]
pub fn check(head: &ResponseHead<'_>, token: &str) -> Verdict {
    let status = head.status;
    match status {
        101 => check_switch(head, token),
        100..=199 => Verdict::Informational,
        200..=299 if is_page(&head.fields) && head.fields.get("content-length") != Some(b"0") => {
            Verdict::Wrong(format!(
                "a page of HTML came with status {status}: perhaps a captive portal that wants a log-in, or a web server and no gateway; check the URL"
            ))
        }
        200 | 204 => match fallback(&head.fields) {
            Some(encoding) => Verdict::FellBack(Some(encoding)),
            None if status == 204 => Verdict::Nothing,
            None if head.fields.get("content-length") == Some(b"0") => Verdict::FellBack(None),
            None => Verdict::NoTurn(status),
        },
        307 | 308 => redirect(head),
        // 301 to 303 change the method, the others have no meaning here.
        300..=399 => Verdict::Wrong(format!(
            "status {status} came: perhaps of a captive portal that wants a log-in; a gateway's redirect has to be 307 or 308"
        )),
        511 => Verdict::Wrong(
            "status 511 came: the network on the way wants a log-in (captive portal)".to_owned(),
        ),
        401 | 403 | 404 | 410 => Verdict::Refused(status),
        // RFC 9110 §15: a status from 600 on counts as 5xx.
        400 | 408 | 409 | 426 | 429 | 500 | 502.. => {
            Verdict::Later { status, retry_after: retry_after(&head.fields) }
        }
        _ => Verdict::NoTurn(status),
    }
}

fn check_switch(head: &ResponseHead<'_>, token: &str) -> Verdict {
    let fields = &head.fields;
    let name = |token: &[u8]| {
        token.split(|&byte| byte == b'/').next().unwrap_or_default().to_ascii_lowercase()
    };
    let Some(answered) =
        fields.list("upgrade").find(|answered| name(answered) == name(token.as_bytes()))
    else {
        return Verdict::Wrong(match fields.get("upgrade") {
            None => "the gateway answered 101 without Upgrade: something on the way removed it, or this is no PTTH gateway".to_owned(),
            Some(other) => {
                format!("the gateway answered 101 for {} where {token} was offered", spelled_out(&String::from_utf8_lossy(other)))
            }
        });
    };
    if head.minor == 0 {
        return Verdict::Wrong(
            "the gateway answered 101 in HTTP/1.0, which has no upgrade".to_owned(),
        );
    }
    let mut protocols = fields.list("alpn").chain(fields.list("selected-alpn")).peekable();
    let alpn_missing = protocols.peek().is_none();
    if !alpn_missing && !protocols.all(is_http_1_1) {
        return Verdict::Wrong(
            "the gateway chose another protocol than the offered http/1.1 (ALPN)".to_owned(),
        );
    }
    let other_version =
        name_and_version(&String::from_utf8_lossy(answered)).1 != name_and_version(token).1;
    let warning = if other_version {
        Some("the 101 names another version of PTTH than was offered")
    } else if !fields.lists("connection", "upgrade") {
        Some("the 101 has no Connection: Upgrade")
    } else if alpn_missing
        && [Dialect::ietf(), Dialect::h2o()].iter().any(|dialect| dialect.is_offered_by(token))
    {
        Some("the 101 does not name the protocol after it (ALPN); http/1.1 is assumed")
    } else {
        None
    };
    Verdict::Turned { warning }
}

/// The encoding of the fallback that the type names. `text/plain` without an id may come from any
/// web server; with an id it is a seed-style event.
fn fallback(fields: &Fields<'_>) -> Option<Encoding> {
    let content_type = fields.get("content-type")?;
    let plain = trim(content_type.split(|&byte| byte == b';').next().unwrap_or_default())
        .eq_ignore_ascii_case(b"text/plain");
    Encoding::of_type(content_type).filter(|_| !plain || fields.get(MESSAGE_ID).is_some())
}

/// Returns true for a page of HTML.
pub(crate) fn is_page(fields: &Fields<'_>) -> bool {
    let media_type = fields
        .get("content-type")
        .map(|value| trim(value.split(|&byte| byte == b';').next().unwrap_or_default()));
    media_type.is_some_and(|media_type| {
        [&b"text/html"[..], b"application/xhtml+xml"]
            .iter()
            .any(|page| media_type.eq_ignore_ascii_case(page))
    })
}

fn redirect(head: &ResponseHead<'_>) -> Verdict {
    let mut locations = head.fields.all("location");
    match (locations.next().map(std::str::from_utf8), locations.next()) {
        (Some(Ok(location)), None) if !location.is_empty() => {
            Verdict::Redirect(location.to_owned())
        }
        _ => Verdict::Wrong(format!(
            "the gateway answered {} without one Location to go to",
            head.status
        )),
    }
}

/// Longest `Retry-After` that is honoured.
const RETRY_AFTER_MAX_S: u64 = 3600;

pub(crate) fn retry_after(fields: &Fields<'_>) -> Option<Duration> {
    let value = fields.get("retry-after")?;
    decimal(value).map(|seconds| Duration::from_secs(seconds.min(RETRY_AFTER_MAX_S)))
}
