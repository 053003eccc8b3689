//! The devices' port of `ptth gateway`, played by raw devices: the vectors, every rule of
//! protocol.md 1.2, 1.3 and 1.5, and what has to be refused.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod links;
mod offers;
mod on_demand;
mod take_overs;
mod vectors;

use crate::support::process::get;
use crate::support::{Gateway, Head, RawPeer, vector};

const SESSION_A: &str = "PTTH-Session: 0123456789abcdef0123456789abcdef\r\n";

const SESSION_B: &str = "PTTH-Session: fedcba9876543210fedcba9876543210\r\n";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads a 101 and fails where it has a field that it must not have.
#[track_caller]
fn read_switch(device: &mut RawPeer, token: &str) -> Head {
    let head = device.read_head();
    assert_eq!(head.status(), 101, "{}", head.text());
    assert_eq!(head.start, "HTTP/1.1 101 Switching Protocols");
    assert_eq!(head.get("upgrade"), Some(token), "{}", head.text());
    assert_eq!(head.get("connection"), Some("Upgrade"), "{}", head.text());
    head
}

/// T2, as a value of `Transfer-Encoding`.
pub const WRONG_CODINGS: &[&str] = &[
    "xchunked",
    "chunked, gzip",
    "gzip, chunked",
    "gzip",
    "identity",
    "\"chunked\"",
    "'chunked'",
    "chunked\x0b",
    "\x0cchunked",
    "\tchunked",
    "chunked\t",
    "chunked,",
    ", chunked",
    "chunked chunked",
    "chunked;q=1",
    "chunked, chunked",
    "chunked,identity",
    "",
    " ",
    "chun ked",
];

/// T3, as a value of `Content-Length`.
pub const WRONG_LENGTHS: &[&str] = &[
    "+0",
    "+5",
    "-1",
    "0x0",
    "0x5",
    "0,5",
    "5,6",
    "0 0",
    "0,",
    ",0",
    "\t0",
    "0\t",
    "1_0",
    "",
    " ",
    "00000000000000000000000000000000000000a",
    "9223372036854775808",
    "18446744073709551616",
    "99999999999999999999",
    "0;",
    "0.0",
    "٠",
];

/// T13: what is no HTTP/1 at all.
pub const FOREIGN: &[(&str, &[u8])] = &[
    ("HTTP/0.9", b"GET /lamp\r\n"),
    ("an HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
    (
        "a TLS hello",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\0\x01\x02\x03\x04\x05\x06\x07\r\n\r\n",
    ),
    ("an SSH banner", b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"),
    ("garbage", b"\x00\xff\x01\xfe\r\n\r\n"),
    ("words", b"hello gateway, how are you\r\n\r\n"),
];

/// T13: version words, and what they get.
pub const VERSIONS: &[(&str, &[u16])] = &[
    ("HTTP/1.2", &[505]),
    ("HTTP/1.9", &[505]),
    ("HTTP/2.0", &[505, 400]),
    ("HTTP/3", &[505, 400]),
    ("HTTP/01.1", &[400, 505]),
    ("HTTP/1.10", &[400, 505]),
    ("HTTP/1.", &[400]),
    ("http/1.1", &[400]),
    ("HTTPS/1.1", &[400]),
    ("PTTH/1.0", &[400]),
    ("HTTP/1.1 x", &[400]),
];

// ── Two devices, one name ──

/// Asks for /NAME/x, and fails unless `device` is asked and its answer arrives.
#[track_caller]
fn answers(gateway: &Gateway, name: &str, device: &mut RawPeer) {
    let mut visitor = gateway.visitor();
    visitor.write(get(&format!("/{name}/x")));
    assert_eq!(device.read_head().target(), "/x");
    device.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
}
