//! The threats as tables on an established link: hostile devices (face L), hostile gateways (face
//! l) and local servers, handlers that misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod devices;
mod gateways;
mod handlers;

use std::time::Duration;

use http::{Request, Response};
use reverse_http::{Body, Device, DeviceHandle};

use crate::gateway::hostile_visitors::ONE_BYTE_CHUNKS;
use crate::support::process::Process;
use crate::support::{LocalServer, Ptth, RawGateway, say};

// ── Face L: what a hostile device may not say ──

/// An answer with these lines (each with its CRLF) and this body.
fn answer(lines: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n{lines}\r\n{body}").into_bytes()
}

/// What WRONG_CHUNKS stand for: the bytes, and whether the stream ends behind them.
fn chunks(body: &str) -> (String, bool) {
    let body = body.replace("LONG", &"1".repeat(40_000));
    body.strip_suffix("END").map_or((body.clone(), false), |b| (b.to_owned(), true))
}

/// What a process has spent so far: CPU time in hundredths of a second, and its resident memory in
/// KiB.
pub fn spent(process: &Process) -> (u64, u64) {
    (process.cpu_ticks(), process.resident_kib())
}

/// Fails unless chunks of one byte cost a bounded time each, whatever else this machine is doing,
/// and no memory.
#[track_caller]
pub fn is_cheap(what: &str, process: &Process, before: (u64, u64)) {
    let now = spent(process);
    let (ticks, grown) = (now.0 - before.0, now.1.saturating_sub(before.1));
    say(&format!(
        "{ONE_BYTE_CHUNKS} chunks of one byte in {what}: {ticks} hundredths of CPU seconds, {grown} KiB more resident memory"
    ));
    assert!(
        ticks < 2_000 && grown < 8 * 1024,
        "{what}: {ticks} hundredths of CPU seconds, {grown} KiB"
    );
}

// ── T17: cut at every byte ──

const WHOLE: [&str; 3] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n5;x=y\r\n56789\r\n0\r\nX-T: 1\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789",
];

// ── Face l: what a hostile gateway may not say ──

#[track_caller]
fn forwarder(raw: &RawGateway, local: &LocalServer, more: &[&str]) -> Process {
    Ptth::start(
        &[&["device", &raw.url("lamp"), "--to", &local.url(), "--backoff", "5ms..20ms"], more]
            .concat(),
    )
}

/// A device with a handler in this process, at a gateway played by the test.
fn handler(
    raw: &RawGateway,
    handle: impl Fn(Request<Body>) -> Response<Body> + Send + Sync + 'static,
) -> DeviceHandle {
    let backoff = Duration::from_millis(5)..Duration::from_millis(20);
    Device::builder(raw.url("lamp"))
        .links(2..=8)
        .backoff(backoff)
        .build()
        .unwrap()
        .spawn(handle)
        .unwrap()
}
