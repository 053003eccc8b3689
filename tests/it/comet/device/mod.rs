//! A device on the COMET fallback (protocol.md §2) against raw gateways, byte by byte: polls,
//! events, answers, and how it chooses.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod again;
mod choosing;
mod ending;
mod exchanges;
mod programs;

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use reverse_http::Device;
use reverse_http::device::DeviceBuilder;

use crate::support::process::Process;
use crate::support::{DEADLINE, Head, LocalServer, Ptth, RawGateway, RawPeer};

const TEXT: &str = "!dlrow ,olleH\r\n";

const QUICK: &[&str] = &["--backoff", "5ms..20ms", "--links", "1..1"];

/// Nothing, as the fallback says it.
const NOTHING: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
const NOTHING_204: &str = "HTTP/1.1 204 No Content\r\nContent-Type: message/http\r\n\r\n";
const BUSY: &str =
    "HTTP/1.1 503 Service Unavailable\r\nProxy-Status: ptth\r\nContent-Length: 0\r\n\r\n";

/// A device with `--text` and one poll.
#[track_caller]
fn text_device(raw: &RawGateway, more: &[&str]) -> Process {
    Ptth::start(
        &[&["device", &raw.url("lamp"), "--text", TEXT, "--polls", "1"], QUICK, more].concat(),
    )
}

/// The same with pauses of up to an hour, which would show.
#[track_caller]
fn patient_device(raw: &RawGateway) -> Process {
    Ptth::start(&[
        "device",
        &raw.url("lamp"),
        "--text",
        TEXT,
        "--polls",
        "1",
        "--links",
        "1..1",
        "--backoff",
        "60m..60m",
    ])
}

/// A device before a local server, with one poll.
#[track_caller]
fn forwarder(raw: &RawGateway, local: &LocalServer, more: &[&str]) -> Process {
    Ptth::start(
        &[&["device", &raw.url("lamp"), "--to", &local.url(), "--polls", "1"], QUICK, more]
            .concat(),
    )
}

/// A POST of the device: its head, and its body by whichever framing.
#[track_caller]
fn read_post(peer: &mut RawPeer) -> (Head, Vec<u8>) {
    let head = peer.read_head();
    let body = read_body(peer, &head);
    (head, body)
}

#[track_caller]
fn read_body(peer: &mut RawPeer, head: &Head) -> Vec<u8> {
    assert!(head.start.starts_with("POST /"), "{}", head.text());
    if head.get("transfer-encoding").is_none() {
        let length = head
            .get("content-length")
            .unwrap_or_else(|| panic!("no framing in {}", head.text()))
            .parse()
            .unwrap();
        return peer.read_exact(length);
    }
    assert_eq!(
        (head.get("transfer-encoding"), head.get("content-length")),
        (Some("chunked"), None),
        "{}",
        head.text()
    );
    let mut body = Vec::new();
    loop {
        match peer.read_chunk() {
            last if last.is_empty() => return body,
            data => body.extend_from_slice(&data),
        }
    }
}

/// Fails unless it is a poll that brings nothing.
#[track_caller]
fn is_poll(head: &Head, upgrade: bool) {
    assert_eq!(head.start, "POST /lamp HTTP/1.1");
    assert_eq!(head.get("content-length"), Some("0"), "{}", head.text());
    assert_eq!(head.get("upgrade"), upgrade.then_some("PTTH/1.0"), "{}", head.text());
    assert_eq!(head.get("connection"), upgrade.then_some("Upgrade"), "{}", head.text());
    assert_eq!(head.get("accept"), Some("message/http, application/json"), "{}", head.text());
    assert_eq!(head.get("ptth-session").map(str::len), Some(32), "{}", head.text());
    for name in ["content-type", "ptth-message-id", "transfer-encoding"] {
        assert_eq!(head.get(name), None, "{}", head.text());
    }
}

#[track_caller]
fn expect_poll(peer: &mut RawPeer) {
    is_poll(&peer.read_head(), true);
}

/// The first connection, told that the gateway falls back, with its second poll read.
#[track_caller]
fn fall_back(raw: &RawGateway) -> RawPeer {
    let (mut peer, head) = raw.offer();
    is_poll(&head, true);
    peer.write(NOTHING);
    expect_poll(&mut peer);
    peer
}

fn reply(kind: &str, fields: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{fields}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// An event in `message/http`.
fn event(id: &str, text: impl AsRef<[u8]>) -> Vec<u8> {
    reply("message/http", &format!("PTTH-Message-ID: {id}\r\n"), text)
}

/// An event in JSON; `more` are further members.
fn json_event(id: &str, method: &str, target: &str, more: &str) -> Vec<u8> {
    let members = format!(
        "\"message-id\": \"{id}\", \"method\": \"{method}\", \"request-uri\": \"{target}\", \"http-version\": \"PTTH/1.0\""
    );
    reply("application/json", "", format!("{{{members}, \"headers\": [[\"Host\", \"a\"]]{more}}}"))
}

/// Fails unless the next POST answers this event in `message/http`; the status line and the body of
/// the answer.
#[track_caller]
fn answer(peer: &mut RawPeer, id: &str) -> (String, Vec<u8>) {
    let (head, text) = read_post(peer);
    assert_eq!(head.get("content-type"), Some("message/http"), "{}", head.text());
    assert_eq!(head.get("ptth-message-id"), Some(id), "{}", head.text());
    let (inner, body) = Head::split(&text);
    (inner.start, body.to_vec())
}

#[track_caller]
fn expect_answer(peer: &mut RawPeer, id: &str, body: impl AsRef<[u8]>) {
    let (start, bytes) = answer(peer, id);
    assert_eq!(
        (start.as_str(), String::from_utf8_lossy(&bytes)),
        ("HTTP/1.1 200 OK", String::from_utf8_lossy(body.as_ref()))
    );
}

/// A local server that counts what it is asked, and answers when `release` is told to.
fn held_server() -> (LocalServer, mpsc::Sender<&'static str>) {
    let (release, hold) = mpsc::channel();
    let hold = Mutex::new(hold);
    let local = LocalServer::with(move |c| {
        let text = hold.lock().unwrap().recv_timeout(DEADLINE).unwrap_or("never released");
        c.text(text);
    });
    (local, release)
}

// ── In a program ──

fn quick(raw: &RawGateway) -> DeviceBuilder {
    Device::builder(raw.url("lamp"))
        .links(1..=1)
        .polls(1..=1)
        .backoff(Duration::from_millis(5)..Duration::from_millis(20))
}
