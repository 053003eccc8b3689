//! How exchanges and connections end: early answers, resets and half-closes at every phase, in both
//! roles. Nothing more is lost than has to be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod early;
mod lingering;
mod programs;
mod tunnels;

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use reverse_http::{Gateway as LibGateway, GatewayBuilder, Limits, Routes};

use crate::support::process::offer;
use crate::support::{RawPeer, SWITCH};

/// More than what the buffers of all sockets on the way take.
const LARGE: usize = 16 << 20;

const EARLY: &str =
    "HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo much";

/// A gateway of this process, and where its visitors come in.
fn library(change: impl FnOnce(&mut Limits)) -> (LibGateway, SocketAddr) {
    let mut limits = Limits::default();
    change(&mut limits);
    started(crate::support::gateway().limits(limits))
}

/// Where one loop accepts all connections: it alone knows which of them is the oldest.
fn library_of_one_loop(change: impl FnOnce(&mut Limits)) -> (LibGateway, SocketAddr) {
    let mut limits = Limits::default();
    change(&mut limits);
    started(crate::support::gateway().limits(limits).loops(1))
}

fn started(builder: GatewayBuilder) -> (LibGateway, SocketAddr) {
    let gateway = builder.listen("127.0.0.1:0").start().unwrap();
    let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
    (gateway, visitors)
}

/// A turned link at a gateway of this process.
#[track_caller]
fn link(gateway: &LibGateway, name: &str) -> RawPeer {
    let mut link = RawPeer::connect(gateway.devices_addr());
    link.write(offer(name, ""));
    assert_eq!(link.read_exact(SWITCH.len()), SWITCH);
    link
}

fn upload(target: &str, length: usize) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
}

/// A server that reads each request's head, answers, and ends the connection with a reset, most of
/// the body unread.
fn answers_early(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut peer = RawPeer::adopt(stream, "early server");
                if peer.try_read_head().is_some() {
                    peer.write(answer);
                    peer.reset();
                }
            });
        }
    });
    at
}

// ── Least rates, and visitors that have left ──

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n: a\r\n";

const WINDOW: Duration = Duration::from_millis(300);
