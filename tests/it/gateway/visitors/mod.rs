//! The visitors' port of `ptth gateway`, and its links with hostile devices: what is forwarded and
//! how, what is refused, what a visitor is told.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod devices;
mod fields;
mod framing;
mod refused;
mod routing;
mod streaming;

use crate::support::{Answer, Head};

/// The head that the device saw, from an answer of `/echo`.
#[track_caller]
fn echoed(answer: &Answer) -> Head {
    assert_eq!(answer.status(), 200, "{}{}", answer.head.text(), answer.text());
    Head::split(&answer.body).0
}

/// Fails unless the answer says in RFC 9209's way what went wrong.
#[track_caller]
fn has_proxy_status(answer: &Answer) {
    let value = answer
        .head
        .get("proxy-status")
        .unwrap_or_else(|| panic!("no Proxy-Status in {}", answer.head.text()));
    assert!(value.contains("; error=") || value.contains(";error="), "RFC 9209 §2.1.1: {value}");
}

// ── Bad input, face V ──

/// T10: field lines, each refused wherever lines end with CRLF.
pub const WRONG_LINES: &[(&str, &str)] = &[
    ("NUL in a value", "X: a\0b\r\n"),
    ("CR in a value", "X: a\rb\r\n"),
    ("control byte in a value", "X: a\x01b\r\n"),
    ("DEL in a value", "X: a\x7fb\r\n"),
    ("a lone LF", "X: a\nY: b\r\n"),
    ("space before the colon", "X : a\r\n"),
    ("tab before the colon", "X\t: a\r\n"),
    ("an empty name", ": a\r\n"),
    ("a name that is no token", "X(Y): a\r\n"),
    ("NUL in a name", "X\0: a\r\n"),
    ("obs-text in a name", "X\u{e4}: a\r\n"),
    ("a line without a colon", "no colon\r\n"),
    ("obs-fold", "X: a\r\n b\r\n"),
    ("obs-fold with a tab", "X: a\r\n\tb\r\n"),
];

/// T5: chunked bodies that are none. LONG stands for more bytes than a head may have, END for the
/// end of the stream.
pub const WRONG_CHUNKS: &[(&str, &str)] = &[
    ("0x before a size", "0x2\r\nab\r\n0\r\n\r\n"),
    ("LF after an extension", "2;\nab\r\n0\r\n\r\n"),
    ("space before a size", " 2\r\nab\r\n0\r\n\r\n"),
    ("space behind a size", "2 \r\nab\r\n0\r\n\r\n"),
    ("a sign", "-2\r\nab\r\n0\r\n\r\n"),
    ("17 hex digits", "00000000000000002\r\nab\r\n0\r\n\r\n"),
    ("2^64-1", "ffffffffffffffff\r\nab\r\n0\r\n\r\n"),
    ("an empty size", "\r\nab\r\n0\r\n\r\n"),
    ("no CRLF behind the data", "2\r\nabX0\r\n\r\n"),
    ("more data than its size", "2\r\nabc\r\n0\r\n\r\n"),
    ("lone LFs", "2\nab\n0\n\n"),
    ("bare CR in the size line", "2\rab\r\n0\r\n\r\n"),
    ("a trailer that is no field", "2\r\nab\r\n0\r\nno colon\r\n\r\n"),
    ("trailers without end", "2\r\nab\r\n0\r\nX: LONG"),
    ("an extension without end", "2;x=LONG"),
    ("a size without end", "LONG0"),
    ("no last chunk", "2\r\nab\r\nEND"),
    ("half a chunk", "5\r\nabEND"),
];
