//! Tables, queues and buffers that many share: no peer, address, name or credential takes one for all (T51, T53), and what is held is counted (T54).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use crate::support::process::{Process, get};
use crate::support::{Gateway, LocalServer, Ptth, RawGateway, RawPeer, each_row, say};

// ── Who writes and does not read (T51) ──

const HEARTBEAT: &str = "OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n";

/// Bytes that each of them writes, if it may.
const FLOOD: usize = 24_000_000;

/// Writes `message` again and again and reads nothing, until the other side takes no more of it or [`FLOOD`] bytes are written. Bytes written.
fn flood(peer: &mut RawPeer, message: &str) -> usize {
    let piece = message.repeat(64 * 1024 / message.len());
    peer.deadline = Duration::from_secs(1); // without a single byte taken
    let mut written = 0;
    while written < FLOOD && peer.try_write(&piece).is_ok() {
        written += piece.len();
    }
    written
}

/// What `process` takes more than before once `peer` has flooded it, in bytes.
fn grows(what: &str, process: &Process, peer: &mut RawPeer, message: &str) -> u64 {
    let before = process.resident_kib();
    let written = flood(peer, message);
    let grown = process.resident_kib().saturating_sub(before) * 1024;
    say(&format!("{what}: {} KB written and nothing read, memory grows by {} KB", written / 1000, grown / 1000));
    grown
}

/// What is answered at once takes at most this much more memory: buffers of one connection, and what the allocator keeps.
const FLAT: u64 = 6_000_000;

#[test]
fn a_gateway_that_does_not_read_the_answers_to_its_heartbeats_is_not_read_from() {
    let local = LocalServer::start();
    each_row(
        &[vec!["--to", &local.url()], vec!["--text", "on"]],
        |options| options[0].to_owned(),
        |options| {
            let raw = RawGateway::start();
            let device = Ptth::start(&[&["device", &raw.url("lamp"), "--links", "1..1"], &options[..]].concat());
            let mut link = raw.turn();
            link.write(HEARTBEAT);
            assert_eq!(link.read_head().status(), 204);
            assert!(grows(&format!("heartbeats, {}", options[0]), &device, &mut link, HEARTBEAT) < FLAT);
            // Whoever reads on is answered on: here what was written whole, and the rest is served behind it.
            link.deadline = Duration::from_secs(10);
            for _ in 0..10_000 {
                assert_eq!(link.read_head().status(), 204);
            }
        },
    );
}

#[test]
fn a_peer_that_does_not_read_what_is_answered_locally_takes_no_memory() {
    let gateway = Gateway::start(&["--health-path", "/health", "--cors-origin", "https://app.example"]);
    let _link = gateway.link("lamp");
    let preflight = "OPTIONS /lamp HTTP/1.1\r\nHost: a\r\nOrigin: https://app.example\r\nAccess-Control-Request-Method: POST\r\n\r\n";
    let poll = "POST /lamp HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    each_row(
        &[
            ("no such device", false, get("/nobody/")),
            ("a redirect", false, get("/lamp")),
            ("the health path", false, get("/health")),
            ("a preflight", true, preflight.to_owned()),
            ("a method that is not allowed", true, get("/lamp")),
            ("a poll", true, poll.to_owned()),
        ],
        |(name, ..)| (*name).to_owned(),
        |(what, devices, message)| {
            let mut peer = if *devices { gateway.dial() } else { gateway.visitor() };
            assert!(grows(what, &gateway.process, &mut peer, message) < FLAT);
        },
    );
    gateway.get("/health").expect_ok("ok\n");
}
