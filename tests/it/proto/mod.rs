//! Layer 1, bytes in and verdicts out: no socket, no clock, no thread. Tables of (bytes, verdict),
//! every refusal beside its acceptance.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on has failed

mod body;
mod comet;
mod forward;
mod forwarded;
mod head;
mod proxy_header;
mod turn;

use reverse_http::proto::framed::FramedRequest;
use reverse_http::proto::head::{LineEnds, RequestHead, ResponseHead, request, response};
use reverse_http::{Limits, Refusal};

/// The sample messages of the dialects (tests/vectors), by name.
macro_rules! vector {
    ($name:literal) => {
        include_bytes!(concat!("../../vectors/", $name, ".http")).as_slice()
    };
}

const REQUESTS: [(&str, &[u8]); 9] = [
    ("airplay-1-offer", vector!("airplay-1-offer")),
    ("comet-1-poll", vector!("comet-1-poll")),
    ("comet-3-answer", vector!("comet-3-answer")),
    ("draft-1-offer", vector!("draft-1-offer")),
    ("draft-3-request", vector!("draft-3-request")),
    ("ietf-1-offer", vector!("ietf-1-offer")),
    ("ietf-x-offer-without-http11", vector!("ietf-x-offer-without-http11")),
    ("seed-1-offer", vector!("seed-1-offer")),
    ("seed-3-request", vector!("seed-3-request")),
];

const RESPONSES: [(&str, &[u8]); 8] = [
    ("comet-2-event", vector!("comet-2-event")),
    ("comet-4-nothing", vector!("comet-4-nothing")),
    ("draft-2-switch", vector!("draft-2-switch")),
    ("draft-4-response", vector!("draft-4-response")),
    ("ietf-2-switch", vector!("ietf-2-switch")),
    ("seed-2-switch", vector!("seed-2-switch")),
    ("seed-4-response", vector!("seed-4-response")),
    ("yaler-2-switch", vector!("yaler-2-switch")),
];

fn sample(name: &str) -> &'static [u8] {
    REQUESTS
        .iter()
        .chain(&RESPONSES)
        .find(|(n, _)| *n == name)
        .unwrap_or_else(|| panic!("no sample {name}"))
        .1
}

fn limits() -> Limits {
    Limits::default()
}

/// Small bounds, so that n-1, n, n+1 are readable.
fn small(head_bytes_max: usize, fields_max: usize, target_bytes_max: usize) -> Limits {
    let mut limits = Limits::default();
    limits.head_bytes_max = head_bytes_max;
    limits.fields_max = fields_max;
    limits.target_bytes_max = target_bytes_max;
    limits
}

/// A whole and right request head.
#[track_caller]
fn asked<O: AsRef<[u8]> + ?Sized>(bytes: &O) -> RequestHead<'_> {
    match request(bytes.as_ref(), &limits(), LineEnds::Crlf) {
        Ok(Some(head)) => head,
        other => panic!("{}: {other:?}", show(bytes.as_ref())),
    }
}

/// A whole and right request head whose framing is right, too.
#[track_caller]
fn framed<O: AsRef<[u8]> + ?Sized>(bytes: &O) -> FramedRequest<'_> {
    FramedRequest::of(asked(bytes)).unwrap()
}

/// A whole and right response head.
#[track_caller]
fn answered<O: AsRef<[u8]> + ?Sized>(bytes: &O) -> ResponseHead<'_> {
    match response(bytes.as_ref(), &limits(), LineEnds::Crlf) {
        Ok(Some(head)) => head,
        other => panic!("{}: {other:?}", show(bytes.as_ref())),
    }
}

/// `GET / HTTP/1.1` with these field lines (each with its CRLF) and the empty line.
fn get(lines: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\n{lines}\r\n").into_bytes()
}

fn status<T>(result: Result<T, Refusal>) -> Result<T, u16> {
    result.map_err(|refusal| refusal.status)
}

fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
