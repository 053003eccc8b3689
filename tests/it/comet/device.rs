//! A device on the COMET fallback (protocol.md §2) against raw gateways, byte by byte: polls,
//! events, answers, and how it chooses.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use http::Response;
use reverse_http::device::DeviceBuilder;
use reverse_http::proto::turn::Dialect;
use reverse_http::{Body, Device, DeviceEventKind, Encoding, Fallback, Limits, Transport};

use crate::support::process::{Process, get};
use crate::support::raw::find;
use crate::support::{
    DEADLINE, Hash, Head, LocalServer, Ptth, RawGateway, RawPeer, SWITCH, each_row, eventually,
    pattern, vector,
};

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

// ── Events and answers ──

#[test]
fn the_seeds_gateway_is_served() {
    let raw = RawGateway::start();
    let local = LocalServer::with(|c| {
        c.raw(
            "HTTP/1.1 200 OK\r\nContent-type: text/plain\r\nDate: Tue, 13 May 2008 20:14:45 GMT\r\nContent-Length: 13\r\n\r\n!dlrow ,olleH",
        );
    });
    let device = forwarder(&raw, &local, &["--fallback", "only", "--comet", "json"]);
    let (mut peer, head) = raw.offer();
    assert_eq!(
        (head.start.as_str(), head.get("accept"), head.get("upgrade")),
        ("POST /lamp HTTP/1.1", Some("application/json"), None)
    );
    peer.write(vector("comet-2-event"));
    let (head, body) = read_post(&mut peer);
    assert_eq!(head.get("content-type"), Some("application/json"));
    assert_eq!(
        (head.get("content-length"), head.get("ptth-message-id")),
        (Some("193"), Some("xxx"))
    );
    let (_, seeds) = Head::split(&vector("comet-3-answer")).clone().into_parts();
    assert_eq!(String::from_utf8_lossy(&body), String::from_utf8_lossy(&seeds));
    let asked = local.last();
    assert_eq!(asked.start, "GET / HTTP/1.1");
    assert_eq!(
        (asked.get("host"), asked.get("accept")),
        (Some("127.0.0.1:65331"), Some("text/plain;q=1,*/*;q=0"))
    );
    peer.write(vector("comet-4-nothing"));
    assert_eq!(peer.read_head().get("content-length"), Some("0"));
    assert_eq!(device.line(), format!("connected lamp via {} (COMET json)", raw.url("lamp")));
}

/// A head and the body behind it, owned.
trait IntoParts {
    fn into_parts(self) -> (Head, Vec<u8>);
}

impl IntoParts for (Head, &[u8]) {
    fn into_parts(self) -> (Head, Vec<u8>) {
        (self.0, self.1.to_vec())
    }
}

#[test]
fn message_http_is_byte_for_byte() {
    let raw = RawGateway::start();
    let answers: &[u8] =
        b"HTTP/1.1 299 As It Is\r\nDate: Tue, 13 May 2008 20:14:45 GMT\r\nx-ODD:  \xE9 \r\nContent-Length: 5\r\nx-odd: b\r\n\r\n\x00\xff\r\n!";
    let local = LocalServer::with(move |c| c.raw(answers));
    let device = forwarder(&raw, &local, &[]);
    let mut peer = fall_back(&raw);
    for id in ["first", "!~second~!"] {
        peer.write(event(id, "PUT /a%2Fb?c HTTP/1.1\r\nHost: v.example\r\nx-Odd: 1\r\nX-ODD: 2\r\nContent-Length: 3\r\n\r\n\x00\r\n"));
        let (head, text) = read_post(&mut peer);
        assert_eq!(
            (head.get("content-type"), head.get("ptth-message-id")),
            (Some("message/http"), Some(id))
        );
        assert_eq!(
            head.get("content-length"),
            Some(text.len().to_string().as_str()),
            "what is whole at once has a length"
        );
        assert_eq!(head.get("upgrade"), Some("PTTH/1.0"), "the answer's POST is the next offer");
        let (inner, body) = Head::split(&text);
        assert_eq!(inner.start, "HTTP/1.1 299 As It Is");
        assert_eq!(inner.all("x-odd"), ["\u{e9}", "b"]);
        assert_eq!(body, b"\x00\xff\r\n!");
        let asked = local.last();
        assert_eq!(
            (asked.start.as_str(), asked.all("x-odd")),
            ("PUT /a%2Fb?c HTTP/1.1", vec!["1", "2"])
        );
    }
    peer.write(NOTHING_204);
    expect_poll(&mut peer);
    assert_eq!(device.line(), format!("connected lamp via {} (COMET json)", raw.url("lamp")));
    assert_eq!(
        device.line(),
        format!("connected lamp via {} (COMET message/http)", raw.url("lamp")),
        "another way in"
    );
}

#[test]
fn text_plain_with_an_id_is_the_seeds_message() {
    let raw = RawGateway::start();
    let device = text_device(&raw, &[]);
    let (mut peer, _) = raw.offer();
    peer.write(reply("text/plain", "PTTH-Message-ID: x\r\n", "GET / HTTP/1.0\r\n\r\n"));
    expect_answer(&mut peer, "x", TEXT);
    assert!(device.line().ends_with(" (COMET message/http)"));
}

#[test]
fn every_way_to_say_nothing_is_understood() {
    let rows: &[(&str, &str)] = &[
        ("{}", NOTHING),
        (
            "null",
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\nnull",
        ),
        (
            "with a charset",
            "HTTP/1.1 200 OK\r\nContent-Type: Application/JSON; charset=utf-8\r\nContent-Length: 2\r\n\r\n{}",
        ),
        (
            "no JSON at all",
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "chunked",
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        ),
        ("an empty 200", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (
            "an empty message",
            "HTTP/1.1 200 OK\r\nContent-Type: message/http\r\nContent-Length: 0\r\n\r\n",
        ),
        ("204 of message/http", NOTHING_204),
        (
            "interim replies first",
            "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ),
    ];
    each_row(
        rows,
        |r| r.0.to_owned(),
        |(_, nothing)| {
            let raw = RawGateway::start();
            let device = text_device(&raw, &[]);
            let (mut peer, _) = raw.offer();
            for byte in nothing.as_bytes() {
                peer.write([*byte]);
            }
            expect_poll(&mut peer); // on the same connection
            assert!(device.line().starts_with("connected lamp via "));
            peer.write(event("e", get("/")));
            expect_answer(&mut peer, "e", TEXT);
        },
    );
}

#[test]
fn an_event_is_read_wherever_it_is_cut() {
    let raw = RawGateway::start();
    let _device = text_device(&raw, &[]);
    let mut peer = fall_back(&raw);
    let whole = event("ID", get("/"));
    for at in 1..whole.len() {
        let bytes = event(&format!("{at:02x}")[..2], get("/"));
        peer.write(&bytes[..at]);
        peer.write(&bytes[at..]);
        expect_answer(&mut peer, &format!("{at:02x}")[..2], TEXT);
    }
}

#[test]
fn bodies_that_are_no_text_travel_as_base64() {
    let raw = RawGateway::start();
    let local = LocalServer::with(|c| {
        let body = c.body();
        c.answer("200 OK", "Date: x\r\n", [b"\xff\x00", body.as_slice()].concat());
    });
    let _device = forwarder(&raw, &local, &[]);
    let mut peer = fall_back(&raw);
    peer.write(json_event("b", "POST", "/", ", \"body\": \"AP/+\", \"body-encoding\": \"base64\""));
    let (_, body) = read_post(&mut peer);
    assert_eq!(
        String::from_utf8_lossy(&body),
        "{\"message-id\": \"b\", \"http-version\": \"PTTH/1.0\", \"status\": 200, \"reason\": \"OK\", \"headers\": [[\"Date\", \"x\"]], \
         \"body\": \"/wAA//4=\", \"body-encoding\": \"base64\"}"
    );
    assert_eq!(local.last().get("content-length"), Some("3"));
}

#[test]
fn answers_without_a_body_have_none() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let _device = forwarder(&raw, &local, &[]);
    let mut peer = fall_back(&raw);
    peer.write(event("head", "HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n"));
    let (_, text) = read_post(&mut peer);
    let (inner, body) = Head::split(&text);
    assert_eq!((inner.status(), inner.get("content-length"), body), (200, Some("6"), &b""[..]));
    for status in [204, 304] {
        peer.write(event(&status.to_string(), get(&format!("/status/{status}"))));
        let (start, body) = answer(&mut peer, &status.to_string());
        assert_eq!((start, body.len()), (format!("HTTP/1.1 {status} As Asked"), 0));
    }
    peer.write(json_event("head2", "HEAD", "/x", ""));
    let (_, json) = read_post(&mut peer);
    let json = String::from_utf8(json).unwrap();
    assert!(
        json.contains("[\"Content-Length\", \"6\"]") && json.ends_with("\"body\": \"\"}"),
        "{json}"
    );
}

#[test]
fn bodies_reach_the_device_whole() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let _device = forwarder(&raw, &local, &[]);
    let mut peer = fall_back(&raw);
    let body = pattern(3_000_000);
    let head = format!("POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    peer.write(event("long", [head.as_bytes(), &body].concat()));
    expect_answer(&mut peer, "long", Hash::of(&body));
    peer.write(event("chunks", "POST /hash HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"));
    expect_answer(&mut peer, "chunks", Hash::of(b"hello"));
    peer.write(json_event("json", "POST", "/hash", ", \"body\": \"h\\u00e9llo\""));
    let (_, json) = read_post(&mut peer);
    assert!(String::from_utf8(json).unwrap().contains(&Hash::of("h\u{e9}llo".as_bytes())));
    // An echo: nobody may wait for the other.
    let head = format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    peer.write(event("echo", [head.as_bytes(), &body].concat()));
    let (_, text) = read_post(&mut peer);
    assert!(text.ends_with(&body));
}

#[test]
fn a_long_answer_streams_as_it_is_made() {
    let raw = RawGateway::start();
    let (said, saying) = mpsc::channel::<&'static str>();
    let saying = Mutex::new(saying);
    let local = LocalServer::with(move |c| {
        c.raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        let saying = saying.lock().unwrap();
        while let Ok(line) = saying.recv_timeout(DEADLINE) {
            c.raw(format!("{:x}\r\n{line}\r\n", line.len()));
            if line == "last" {
                break;
            }
        }
        c.raw("0\r\n\r\n");
    });
    let _device = forwarder(&raw, &local, &[]);
    let mut peer = fall_back(&raw);
    peer.write(event("s", get("/")));
    let head = peer.read_head();
    assert_eq!(
        (head.get("transfer-encoding"), head.get("ptth-message-id")),
        (Some("chunked"), Some("s"))
    );
    let mut text = peer.read_chunk();
    assert!(text.starts_with(b"HTTP/1.1 200 OK\r\n"), "the head comes before there is a body");
    for line in ["data: 1\n\n", "data: 2\n\n", "last"] {
        said.send(line).unwrap();
        while find(&text, format!("{line}\r\n").as_bytes()).is_none() {
            text.extend(peer.read_chunk()); // each arrives before the next is said
        }
    }
    while !text.ends_with(b"\r\n0\r\n\r\n") {
        text.extend(peer.read_chunk());
    }
    assert!(peer.read_chunk().is_empty(), "the outer body ends, too");
    peer.write(NOTHING);
    expect_poll(&mut peer);
}

#[test]
fn an_answer_of_any_length_arrives_whole_and_is_not_hoarded() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let device = forwarder(&raw, &local, &[]);
    let mut peer = fall_back(&raw);
    peer.write(event("warm", get("/x")));
    expect_answer(&mut peer, "warm", "hello\n");
    let before = device.resident_kib();
    peer.write(event("big", get("/big?n=50000000")));
    let head = peer.read_head();
    assert_eq!(head.get("transfer-encoding"), Some("chunked"));
    // The gateway is slow: the device waits with it.
    let first = peer.read_chunk();
    eventually("the local server is asked", || (local.count() == 2).then_some(()));
    let (inner, body) = Head::split(&first).into_parts();
    assert_eq!(inner.get("content-length"), Some("50000000"));
    let mut hash = Hash::default();
    hash.update(&body);
    loop {
        let data = peer.read_chunk();
        if data.is_empty() {
            break;
        }
        hash.update(&data);
    }
    assert_eq!(hash.finish(), Hash::of_pattern(50_000_000));
    let grown = device.resident_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "it grew by {grown} KiB");
    peer.write(NOTHING);
    expect_poll(&mut peer);
}

#[test]
fn polls_in_parallel_take_an_event_each_and_answer_in_any_order() {
    let raw = RawGateway::start();
    type Gate = (String, mpsc::Sender<()>);
    let gates: Arc<Mutex<Vec<Gate>>> = Arc::default();
    let local = LocalServer::with({
        let gates = gates.clone();
        move |c| {
            let (open, gate) = mpsc::channel();
            gates.lock().unwrap().push((c.head.target().to_owned(), open));
            let _ = gate.recv_timeout(DEADLINE);
            let target = c.head.target().to_owned();
            c.text(target);
        }
    });
    let _device = Ptth::start(
        &[&["device", &raw.url("lamp"), "--to", &local.url(), "--polls", "3"], QUICK].concat(),
    );
    let mut peers = vec![fall_back(&raw)];
    for _ in 0..2 {
        let (peer, head) = raw.offer();
        is_poll(&head, true);
        peers.push(peer);
    }
    for (n, peer) in peers.iter_mut().enumerate() {
        peer.write(event(&format!("id{n}"), get(&format!("/{n}"))));
    }
    eventually("all three are in the local server's hands", || {
        (gates.lock().unwrap().len() == 3).then_some(())
    });
    assert!(raw.try_accept().is_none(), "a fourth poll");
    for n in [1, 2, 0] {
        let gates = gates.lock().unwrap();
        gates.iter().find(|(target, _)| *target == format!("/{n}")).unwrap().1.send(()).unwrap();
        expect_answer(&mut peers[n], &format!("id{n}"), format!("/{n}"));
        peers[n].write(NOTHING);
        expect_poll(&mut peers[n]);
    }
}

#[test]
fn a_connection_that_carries_nothing_else_is_kept_and_one_that_may_not_is_dialled_anew() {
    let raw = RawGateway::start();
    let _device = text_device(&raw, &[]);
    let closing = |bytes: &str| bytes.replace("HTTP/1.1", "HTTP/1.0");
    let (mut peer, _) = raw.offer();
    peer.write(closing(NOTHING));
    peer.expect_closed();
    // Until close, as an HTTP/1.0 server without a length answers.
    let (mut peer, head) = raw.offer();
    is_poll(&head, true);
    peer.write("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n");
    peer.write(json_event("e", "GET", "/", "").split(|o| *o == b'\n').next_back().unwrap());
    drop(peer);
    let (mut peer, head) = raw.offer();
    assert!(
        String::from_utf8(read_body(&mut peer, &head)).unwrap().contains("\"message-id\": \"e\"")
    );
    peer.write(NOTHING.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
    peer.expect_closed();
    let (mut peer, head) = raw.offer();
    is_poll(&head, true);
    peer.write(
        NOTHING
            .replace("HTTP/1.1", "HTTP/1.0")
            .replace("\r\n\r\n", "\r\nConnection: keep-alive\r\n\r\n"),
    );
    expect_poll(&mut peer);
}

#[test]
fn a_gateway_with_a_name_is_looked_up_for_each_connection() {
    let raw = RawGateway::at_localhost();
    let url = format!("http://localhost:{}/lamp", raw.addr.port());
    let _device = Ptth::start(&[&["device", &url, "--text", TEXT, "--polls", "1"], QUICK].concat());
    for _ in 0..2 {
        let (mut peer, head) = raw.offer();
        is_poll(&head, true);
        peer.write(NOTHING.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
    }
    let (mut peer, _) = raw.offer();
    peer.write(event("e", get("/")));
    peer.finish_writing(); // the answer needs another connection
    let (mut peer, head) = raw.offer();
    assert_eq!(head.get("ptth-message-id"), Some("e"));
    assert!(read_body(&mut peer, &head).ends_with(TEXT.as_bytes()));
}

#[test]
fn nothing_at_once_again_and_again_is_paced() {
    let raw = RawGateway::start();
    let _device = text_device(&raw, &[]);
    let (mut peer, _) = raw.offer();
    let then = Instant::now();
    for _ in 0..5 {
        peer.write(NOTHING);
        expect_poll(&mut peer);
    }
    let took = then.elapsed();
    assert!(took >= Duration::from_millis(1900), "five polls in {took:?}");
}

// ── What is cut, lost, or comes again (T43) ──

#[test]
fn a_poll_that_is_cut_is_polled_again() {
    let raw = RawGateway::start();
    let (local, release) = held_server();
    let _device = forwarder(&raw, &local, &[]);
    drop(fall_back(&raw)); // before the event
    let (mut peer, head) = raw.offer();
    is_poll(&head, true);
    let whole = event("e", get("/"));
    peer.write(&whole[..40]); // within the head
    drop(peer);
    let (mut peer, head) = raw.offer();
    is_poll(&head, true);
    peer.write(&whole[..whole.len() - 1]); // within the event
    drop(peer);
    let (mut peer, head) = raw.offer();
    is_poll(&head, true);
    assert_eq!(local.count(), 0, "a part of an event is none");
    peer.write(&whole); // after it, while the handler is at work
    eventually("the local server is asked", || (local.count() == 1).then_some(()));
    drop(peer);
    release.send("done").unwrap();
    let (mut peer, head) = raw.offer();
    assert_eq!(
        head.get("ptth-message-id"),
        Some("e"),
        "the answer comes on a new connection, at once"
    );
    assert!(read_body(&mut peer, &head).ends_with(b"done"));
    peer.write(NOTHING);
    expect_poll(&mut peer);
    assert_eq!(local.count(), 1);
}

#[test]
fn an_answer_whose_reply_is_lost_is_posted_again_and_run_once() {
    let rows: &[(&str, Option<&str>)] = &[
        ("closed", None),
        ("408", Some("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")),
        ("429", Some("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n")),
        ("500", Some("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")),
        (
            "502 of a proxy",
            Some(
                "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
            ),
        ),
        ("503", Some(BUSY)),
        ("half a reply", Some("HTTP/1.1 200 O")),
        ("no HTTP", Some("hello\r\n\r\n")),
    ];
    each_row(
        rows,
        |r| r.0.to_owned(),
        |(_, answered)| {
            for json in [false, true] {
                let raw = RawGateway::start();
                let local = LocalServer::start();
                let _device = forwarder(&raw, &local, &[]);
                let mut peer = fall_back(&raw);
                peer.write(if json {
                    json_event("e", "GET", "/x", "")
                } else {
                    event("e", get("/x"))
                });
                let (_, first) = read_post(&mut peer);
                answered.iter().for_each(|bytes| peer.write(bytes));
                peer.finish_writing();
                let (mut peer, head) = raw.offer();
                assert_eq!(head.get("ptth-message-id"), Some("e"));
                assert_eq!(read_body(&mut peer, &head), first, "the same answer");
                peer.write(NOTHING);
                expect_poll(&mut peer);
                assert_eq!(local.count(), 1);
            }
        },
    );
}

#[test]
fn an_answer_that_streamed_when_its_post_broke_comes_again_from_its_start() {
    let raw = RawGateway::start();
    let (said, saying) = mpsc::channel::<&'static str>();
    let saying = Mutex::new(saying);
    let local = LocalServer::with(move |c| {
        c.raw("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n");
        for _ in 0..2 {
            let text = saying.lock().unwrap().recv_timeout(DEADLINE).unwrap();
            c.raw(text);
        }
    });
    let _device = forwarder(&raw, &local, &[]);
    let mut peer = fall_back(&raw);
    peer.write(event("e", get("/x")));
    assert_eq!(peer.read_head().get("transfer-encoding"), Some("chunked"));
    said.send("half").unwrap();
    let mut text = peer.read_chunk();
    while !text.ends_with(b"half") {
        text.extend(peer.read_chunk());
    }
    drop(peer);
    let (mut peer, head) = raw.offer();
    assert_eq!(head.get("ptth-message-id"), Some("e"));
    said.send("half").unwrap();
    let text = read_body(&mut peer, &head);
    assert!(
        text.starts_with(b"HTTP/1.1 200 OK\r\n") && text.ends_with(b"halfhalf"),
        "{}",
        String::from_utf8_lossy(&text)
    );
    assert_eq!(local.count(), 1);
}

#[test]
fn an_event_that_comes_again_is_not_run_again() {
    let raw = RawGateway::start();
    let (local, release) = held_server();
    let _device = Ptth::start(
        &[&["device", &raw.url("lamp"), "--to", &local.url(), "--polls", "2"], QUICK].concat(),
    );
    let mut first = fall_back(&raw);
    let (mut second, _) = raw.offer();
    first.write(event("e", get("/")));
    eventually("the local server is asked", || (local.count() == 1).then_some(()));
    second.write(event("e", get("/"))); // in progress: the copy is ignored
    expect_poll(&mut second);
    release.send("done").unwrap();
    let (_, text) = read_post(&mut first);
    second.write(event("e", get("/"))); // answered, and not acknowledged: still in progress
    expect_poll(&mut second);
    first.write(NOTHING);
    expect_poll(&mut first);
    for peer in [&mut second, &mut first] {
        peer.write(event("e", get("/"))); // done: answered from what is kept
        assert_eq!(read_post(peer).1, text);
        peer.write(NOTHING);
        expect_poll(peer);
    }
    assert_eq!(local.count(), 1, "the handler ran once");
    first.write(event("f", get("/")));
    release.send("next").unwrap();
    expect_answer(&mut first, "f", "next");
}

#[test]
fn an_answer_too_long_to_be_kept_is_not_posted_again() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let device = forwarder(&raw, &local, &[]);
    let mut peer = fall_back(&raw);
    peer.write(event("big", get("/big?n=30000000")));
    let head = peer.read_head();
    assert_eq!(head.get("ptth-message-id"), Some("big"));
    peer.read_through(5_000_000, |_| {});
    drop(peer);
    let (mut peer, head) = raw.offer();
    is_poll(&head, true);
    device.expect_stderr("the answer to event big is dropped");
    peer.write(event("big", get("/big?n=30000000")));
    let (start, body) = answer(&mut peer, "big");
    assert_eq!(start, "HTTP/1.1 502 Bad Gateway");
    assert!(
        String::from_utf8_lossy(&body).contains("did not keep its answer"),
        "{}",
        String::from_utf8_lossy(&body)
    );
    // One that went through is remembered without its text.
    peer.write(event("whole", get("/big?n=2000000")));
    assert_eq!(Head::split(&read_post(&mut peer).1).1.len(), 2_000_000);
    peer.write(event("whole", get("/big?n=2000000")));
    assert_eq!(answer(&mut peer, "whole").0, "HTTP/1.1 502 Bad Gateway");
    peer.write(event("fine", get("/x")));
    expect_answer(&mut peer, "fine", "hello\n");
    assert_eq!(local.count(), 3);
}

#[test]
fn a_reply_before_the_answer_was_whole_ends_it() {
    // As when its visitor left: the event is over, and nobody wants the rest.
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let _device = forwarder(&raw, &local, &[]);
    let mut peer = fall_back(&raw);
    peer.write(event("big", get("/big?n=50000000")));
    peer.read_head();
    peer.write(NOTHING);
    let (mut next, head) = raw.offer();
    is_poll(&head, true);
    next.write(event("fine", get("/x")));
    expect_answer(&mut next, "fine", "hello\n");
}

#[test]
fn a_response_that_breaks_is_a_502_or_a_cut_post() {
    let early: &[(&str, &str)] = &[
        ("nothing", ""),
        ("no HTTP", "hello\r\n\r\n"),
        (
            "both framing fields",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "a switch",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        ),
    ];
    each_row(
        early,
        |r| r.0.to_owned(),
        |(_, bytes)| {
            let raw = RawGateway::start();
            let bytes = (*bytes).to_owned();
            let local = LocalServer::with(move |c| {
                c.raw(&bytes);
                c.close = true;
            });
            let _device = forwarder(&raw, &local, &[]);
            let mut peer = fall_back(&raw);
            peer.write(event("e", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"));
            assert_eq!(answer(&mut peer, "e").0, "HTTP/1.1 502 Bad Gateway");
            peer.write(NOTHING);
            expect_poll(&mut peer);
        },
    );
    let raw = RawGateway::start();
    let local = LocalServer::with(|c| {
        c.raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
        c.close = true;
    });
    let _device = forwarder(&raw, &local, &[]);
    let mut peer = fall_back(&raw);
    peer.write(event("cut", get("/")));
    let head = peer.read_head();
    if head.get("transfer-encoding").is_some() {
        peer.expect_no_more(); // and no last chunk: it is seen not to be whole
        let (mut next, head) = raw.offer();
        is_poll(&head, true);
        next.write(event("cut", get("/")));
        assert_eq!(answer(&mut next, "cut").0, "HTTP/1.1 502 Bad Gateway");
        peer = next;
    } else {
        let text = read_body(&mut peer, &head);
        assert!(text.starts_with(b"HTTP/1.1 502 "), "{}", String::from_utf8_lossy(&text));
    }
    // In JSON nothing was begun yet.
    peer.write(json_event("cut2", "GET", "/", ""));
    assert!(String::from_utf8(read_post(&mut peer).1).unwrap().contains("\"status\": 502"));
}

#[test]
fn a_gateway_that_takes_no_answer_is_not_pestered_for_ever() {
    let raw = RawGateway::start();
    let mut limits = Limits::default();
    limits.first_byte_timeout = Duration::from_millis(300);
    let ran = Arc::new(AtomicUsize::new(0));
    let counted = ran.clone();
    let device = quick(&raw)
        .polls(1..=1)
        .limits(limits)
        .backoff(Duration::from_millis(5)..Duration::from_millis(20))
        .build()
        .unwrap();
    let running = device
        .spawn(move |_| {
            counted.fetch_add(1, SeqCst);
            Response::new(Body::from("x"))
        })
        .unwrap();
    let mut peer = fall_back(&raw);
    peer.write(event("e", get("/")));
    read_post(&mut peer);
    peer.write(BUSY);
    let again = eventually("the answer is given up", || {
        let (mut peer, head) = raw.offer();
        read_body(&mut peer, &head);
        if head.get("ptth-message-id").is_none() {
            return Some((peer, head));
        }
        peer.write(BUSY);
        None
    });
    is_poll(&again.1, true);
    let mut peer = again.0;
    peer.write(event("e", get("/")));
    assert_eq!(answer(&mut peer, "e").0, "HTTP/1.1 502 Bad Gateway");
    assert_eq!(ran.load(SeqCst), 1);
    running.stop();
}

#[test]
fn refusals_of_an_answer() {
    // Status, what the next POST is: the answer again, a 502 in its place, or a poll.
    #[derive(Debug, PartialEq)]
    enum Next {
        Poll,
        Failure,
    }
    let rows = [
        (400, "Bad Request", Next::Poll),
        (415, "Unsupported Media Type", Next::Poll),
        (422, "Unprocessable Content", Next::Poll),
        (413, "Content Too Large", Next::Failure),
    ];
    each_row(
        &rows,
        |r| r.0.to_string(),
        |(status, reason, next)| {
            let raw = RawGateway::start();
            let local = LocalServer::start();
            let device = forwarder(&raw, &local, &[]);
            let mut peer = fall_back(&raw);
            peer.write(event("e", get("/x")));
            read_post(&mut peer);
            peer.write(format!(
                "HTTP/1.1 {status} {reason}\r\nProxy-Status: ptth\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nbecause.\n"
            ));
            let (mut peer, head) = raw.offer();
            if *next == Next::Failure {
                assert_eq!(head.get("ptth-message-id"), Some("e"));
                let text = String::from_utf8(read_body(&mut peer, &head)).unwrap();
                assert!(
                    text.starts_with("HTTP/1.1 502 Bad Gateway\r\n") && text.contains("413"),
                    "{text}"
                );
                peer.write(format!("HTTP/1.1 {status} {reason}\r\nContent-Length: 0\r\n\r\n")); // not even that
                peer = raw.accept();
                expect_poll(&mut peer);
            } else {
                is_poll(&head, true);
                device.expect_stderr(&format!("{status}: because."));
            }
            peer.write(event("f", get("/x")));
            expect_answer(&mut peer, "f", "hello\n");
            peer.write(event("e", get("/x")));
            assert_eq!(answer(&mut peer, "e").0, "HTTP/1.1 502 Bad Gateway", "it is not run again");
            assert_eq!(local.count(), 2);
        },
    );
}

#[test]
fn a_proxy_that_wants_lengths_gets_them() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let _device = forwarder(&raw, &local, &[]);
    let mut peer = fall_back(&raw);
    peer.write(event("e", get("/big?n=300000")));
    assert_eq!(peer.read_head().get("transfer-encoding"), Some("chunked"));
    peer.write("HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\n\r\n");
    let (mut peer, head) = raw.offer();
    assert!(head.get("content-length").is_some(), "{}", head.text());
    let text = read_body(&mut peer, &head);
    assert_eq!(Hash::of(Head::split(&text).1), Hash::of_pattern(300_000));
    peer.write(event("big", get("/big?n=9000000")));
    peer.read_head();
    peer.write("HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\n\r\n");
    let (mut peer, head) = raw.offer();
    let text = String::from_utf8(read_body(&mut peer, &head)).unwrap();
    assert!(text.starts_with("HTTP/1.1 502 ") && text.contains("411"), "{text}");
    peer.write(NOTHING);
    expect_poll(&mut peer);
}

#[test]
fn what_comes_unasked_during_an_event_ends_the_connection_and_not_the_event() {
    let raw = RawGateway::start();
    let (local, release) = held_server();
    let _device = forwarder(&raw, &local, &[]);
    let mut peer = fall_back(&raw);
    peer.write(event("e", get("/")));
    eventually("the local server is asked", || (local.count() == 1).then_some(()));
    peer.write(NOTHING);
    peer.expect_closed();
    release.send("done").unwrap();
    let (mut peer, head) = raw.offer();
    assert_eq!(head.get("ptth-message-id"), Some("e"));
    assert!(read_body(&mut peer, &head).ends_with(b"done"));
}

/// What a gateway lets through with its own fields may be more than the device takes: the visitor
/// is told so, as on a link, and the device neither hangs up nor pauses.
#[test]
fn a_request_beyond_the_devices_bounds_is_refused_and_not_the_gateway() {
    let raw = RawGateway::start();
    let _device = patient_device(&raw);
    let mut peer = fall_back(&raw);
    let fields =
        |n: usize, value: &str| (0..n).map(|i| format!("x-{i}: {value}\r\n")).collect::<String>();
    for (number, fields) in
        [fields(115, "v"), fields(116, "v"), fields(200, "v"), fields(3, &"v".repeat(8000))]
            .iter()
            .enumerate()
    {
        let members: Vec<_> = fields
            .lines()
            .map(|line| line.split_once(": ").unwrap())
            .map(|(n, v)| format!("[\"{n}\", \"{v}\"]"))
            .collect();
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let json = format!(
            "{{\"message-id\": \"j{number}\", \"method\": \"GET\", \"request-uri\": \"/\", \"headers\": [[\"Host\", \"a\"], {}]}}",
            members.join(", ")
        );
        let expected = if number == 0 { "200" } else { "431" };
        peer.write(event(&format!("m{number}"), text));
        let (start, _) = answer(&mut peer, &format!("m{number}"));
        assert_eq!(start.split(' ').nth(1), Some(expected), "{number}: {start}");
        if cfg!(feature = "comet") {
            peer.write(reply("application/json", "", json));
            let (head, body) = read_post(&mut peer);
            assert_eq!(head.get("content-type"), Some("application/json"), "{}", head.text());
            assert!(
                String::from_utf8_lossy(&body).contains(&format!("\"status\": {expected}")),
                "{number}: {}",
                String::from_utf8_lossy(&body)
            );
        }
    }
    peer.write(NOTHING);
    expect_poll(&mut peer);
}

#[test]
fn a_malformed_event_costs_one_attempt() {
    let id = "PTTH-Message-ID: e\r\n";
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("no JSON", reply("application/json", "", "{'message-id': 'xxx'}")),
        ("JSON cut short", reply("application/json", "", "{\"message-id\": \"e\"")),
        ("two messages", reply("application/json", "", "{}{}")),
        ("no id", reply("application/json", "", "{\"method\": \"GET\", \"request-uri\": \"/\"}")),
        ("no method", reply("application/json", "", "{\"message-id\": \"e\", \"request-uri\": \"/\"}")),
        (
            "ids that differ",
            reply("application/json", "PTTH-Message-ID: f\r\n", "{\"message-id\": \"e\", \"method\": \"GET\", \"request-uri\": \"/\"}"),
        ),
        ("an id twice", reply("message/http", &format!("{id}{id}"), get("/"))),
        ("an id with a space", reply("message/http", "PTTH-Message-ID: e f\r\n", get("/"))),
        (
            "a member twice",
            reply("application/json", "", "{\"message-id\": \"e\", \"message-id\": \"e\", \"method\": \"GET\", \"request-uri\": \"/\"}"),
        ),
        ("a split line", json_event("e", "GET", "/", ", \"trailers\": [[\"X\", \"a\\r\\nb\"]]")),
        ("a target with a space", json_event("e", "GET", "/ HTTP/1.1\\r\\nX: y", "")),
        ("deep", reply("application/json", "", "[".repeat(10_000))),
        (
            "a protocol tag that nobody could send back",
            reply(
                "application/json",
                "",
                format!(
                    "{{\"message-id\": \"e\", \"method\": \"GET\", \"request-uri\": \"/\", \"http-version\": \"{}\"}}",
                    "x".repeat(257)
                ),
            ),
        ),
        ("message without id", reply("message/http", "", get("/"))),
        ("no request", reply("message/http", id, "hello")),
        ("a head without end", reply("message/http", id, "GET / HTTP/1.1\r\nHost: a\r\n")),
        ("longer than its request", reply("message/http", id, format!("{}more", get("/")))),
        ("shorter", reply("message/http", id, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell")),
        (
            "both framing fields inside",
            reply("message/http", id, "POST / HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ),
        (
            "both framing fields outside",
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}".to_vec(),
        ),
        (
            "a chunk that is none",
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n".to_vec(),
        ),
        ("bytes behind nothing", format!("{NOTHING}HTTP/1.1 200 OK\r\n\r\n").into_bytes()),
    ];
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let mut device = forwarder(&raw, &local, &[]);
    let mut peer = fall_back(&raw);
    each_row(
        &rows,
        |r| r.0.to_owned(),
        |(_, bytes)| {
            let asked = local.count();
            let _ = peer.try_write(bytes);
            peer.finish_writing();
            let (mut next, head) = raw.offer();
            is_poll(&head, true);
            assert_eq!(local.count(), asked, "it was run");
            next.write(event(&format!("right{asked}"), get("/x")));
            expect_answer(&mut next, &format!("right{asked}"), "hello\n");
            next.write(NOTHING);
            expect_poll(&mut next);
            std::mem::swap(&mut peer, &mut next);
        },
    );
    assert!(!device.has_ended() && !device.stderr().contains("panicked"), "{}", device.stderr());
}

// ── Choosing (§1.4, §2.3) ──

#[test]
fn what_does_not_turn_is_polled_without_upgrade_and_at_once() {
    let rows: &[(&str, &str)] = &[
        ("405", "HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\nContent-Length: 0\r\n\r\n"),
        ("501", "HTTP/1.1 501 Not Implemented\r\nConnection: close\r\n\r\n"),
        (
            "200 of a web server",
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n",
        ),
        ("202", "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"),
        ("417", "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n"),
    ];
    each_row(
        rows,
        |r| r.0.to_owned(),
        |(_, answered)| {
            let raw = RawGateway::start();
            let device = patient_device(&raw);
            let (mut peer, head) = raw.offer();
            is_poll(&head, true);
            peer.write(answered);
            let (mut peer, head) = raw.offer();
            is_poll(&head, false);
            peer.write("HTTP/1.1 204 No Content\r\n\r\n"); // plain: here it is the fallback's nothing
            is_poll(&peer.read_head(), false);
            assert_eq!(
                device.line(),
                format!("connected lamp via {} (COMET message/http)", raw.url("lamp"))
            );
            peer.write(event("e", get("/")));
            let (head, _) = read_post(&mut peer);
            assert_eq!((head.get("ptth-message-id"), head.get("upgrade")), (Some("e"), None));
            device.expect_stderr("without Upgrade");
        },
    );
}

#[test]
fn offers_that_are_hung_up_on_twice_become_polls() {
    for reset in [false, true] {
        let raw = RawGateway::start();
        let device = text_device(&raw, &[]);
        for _ in 0..2 {
            let (peer, head) = raw.offer();
            is_poll(&head, true);
            if reset {
                peer.reset();
            }
        }
        let (mut peer, head) = raw.offer();
        is_poll(&head, false);
        peer.write(NOTHING);
        is_poll(&peer.read_head(), false);
        assert!(device.line().ends_with(" (COMET json)"));
    }
    // A gateway that takes no polls says so: it had hung up for another reason.
    let raw = RawGateway::start();
    let _device = text_device(&raw, &[]);
    (0..2).for_each(|_| is_poll(&raw.offer().1, true));
    let (mut peer, head) = raw.offer();
    is_poll(&head, false);
    peer.write("HTTP/1.1 426 Upgrade Required\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n");
    is_poll(&raw.offer().1, true);
    // An answer between them, of whatever kind, breaks the row; so does a 1xx.
    let raw = RawGateway::start();
    let _device = text_device(&raw, &[]);
    for answered in ["", BUSY, "", "HTTP/1.1 102 Processing\r\n\r\n", "HTTP/1.1 5"] {
        let (mut peer, head) = raw.offer();
        is_poll(&head, true);
        peer.write(answered);
    }
    is_poll(&raw.offer().1, true);
}

#[test]
fn the_turn_is_offered_again_after_turn_retry() {
    let raw = RawGateway::start();
    let device = text_device(&raw, &["--turn-retry", "300ms"]);
    let (mut peer, _) = raw.offer();
    let then = Instant::now();
    peer.write("HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n");
    let (mut peer, head) = raw.offer();
    is_poll(&head, false);
    eventually("turn_retry goes by", || {
        (then.elapsed() >= Duration::from_millis(310)).then_some(())
    });
    peer.write(NOTHING);
    expect_poll(&mut peer);
    peer.write(SWITCH);
    peer.ask(&get("/")).expect_ok(TEXT);
    assert!(device.line().ends_with(" (COMET json)"));
    assert!(device.line().ends_with(" (PTTH/1.0 turn)"));
    // Zero: one poll, then the turn again.
    let raw = RawGateway::start();
    let _device = text_device(&raw, &["--turn-retry", "0s"]);
    for _ in 0..2 {
        let (mut peer, head) = raw.offer();
        is_poll(&head, true);
        peer.write("HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\n\r\n");
        let (mut peer, head) = raw.offer();
        is_poll(&head, false);
        peer.write(NOTHING.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
    }
}

#[test]
fn where_no_gateway_is_polls_back_off() {
    let raw = RawGateway::start();
    let device = text_device(&raw, &[]);
    let (mut peer, _) = raw.offer();
    peer.write("HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n");
    for _ in 0..3 {
        let (mut peer, head) = raw.offer();
        is_poll(&head, false);
        peer.write("HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n");
    }
    device.expect_stderr("no gateway answers here: status 405; check the URL");
    assert_eq!(device.line_within(Duration::ZERO), None);
}

#[test]
fn a_101_turns_a_poll_and_an_answers_post() {
    let raw = RawGateway::start();
    let device = text_device(&raw, &[]);
    let mut peer = fall_back(&raw);
    peer.write([SWITCH, get("/").as_bytes()].concat());
    peer.read_answer("GET").expect_ok(TEXT);
    peer.ask(&get("/")).expect_ok(TEXT);
    assert_eq!(device.line(), format!("connected lamp via {} (COMET json)", raw.url("lamp")));
    assert_eq!(device.line(), format!("connected lamp via {} (PTTH/1.0 turn)", raw.url("lamp")));
    assert!(raw.try_accept().is_none(), "one link is enough");
    drop(peer); // the link ends: an offer comes, whatever answers it
    let mut peer = fall_back(&raw);
    assert_eq!(device.line(), format!("connected lamp via {} (COMET json)", raw.url("lamp")));
    peer.write(event("e", get("/")));
    expect_answer(&mut peer, "e", TEXT);
    assert_eq!(
        device.line(),
        format!("connected lamp via {} (COMET message/http)", raw.url("lamp"))
    );
    peer.write(SWITCH);
    peer.ask(&get("/")).expect_ok(TEXT);
    assert_eq!(device.line(), format!("connected lamp via {} (PTTH/1.0 turn)", raw.url("lamp")));
}

#[test]
fn polls_end_when_links_are_there_and_never_more_than_max_turn() {
    let raw = RawGateway::start();
    let device = Ptth::start(
        &[&["device", &raw.url("lamp"), "--text", TEXT, "--polls", "3"], QUICK].concat(),
    );
    let mut first = fall_back(&raw);
    let (mut second, _) = raw.offer();
    let (mut third, _) = raw.offer();
    first.write(SWITCH);
    first.ask(&get("/")).expect_ok(TEXT);
    second.write(SWITCH); // a second link, and one is the most
    second.expect_closed();
    third.write(NOTHING);
    third.expect_closed();
    first.ask(&get("/")).expect_ok(TEXT);
    assert!(raw.try_accept().is_none());
    assert!(device.line().ends_with(" (COMET json)"));
    assert!(device.line().ends_with(" (PTTH/1.0 turn)"));
    assert_eq!(device.line_within(Duration::from_millis(50)), None);
}

#[test]
fn an_event_on_an_offer_beyond_the_polls_is_served_all_the_same() {
    let raw = RawGateway::start();
    let _device = Ptth::start(&[
        "device",
        &raw.url("lamp"),
        "--text",
        TEXT,
        "--polls",
        "1",
        "--links",
        "3..3",
        "--backoff",
        "5ms..20ms",
    ]);
    let mut offers: Vec<RawPeer> = (0..3).map(|_| raw.offer().0).collect();
    offers[0].write(NOTHING);
    expect_poll(&mut offers[0]);
    offers[1].write(event("e", get("/")));
    expect_answer(&mut offers[1], "e", TEXT);
    offers[1].write(NOTHING);
    offers[1].expect_closed();
    offers[2].write(NOTHING);
    offers[2].expect_closed();
    assert!(raw.try_accept().is_none(), "one poll is wanted");
    offers[0].write(event("f", get("/")));
    expect_answer(&mut offers[0], "f", TEXT);
}

#[test]
fn time_outs_of_proxies_are_no_failures() {
    let raw = RawGateway::start();
    let device = patient_device(&raw);
    let mut peer = fall_back(&raw);
    for status in ["504 Gateway Time-out", "502 Bad Gateway"] {
        let then = Instant::now();
        eventually("a proxy's time goes by", || {
            (then.elapsed() > Duration::from_millis(1100)).then_some(())
        });
        peer.write(format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"
        ));
        let head;
        (peer, head) = raw.offer(); // after about a second
        is_poll(&head, true);
    }
    assert!(device.line().ends_with(" (COMET json)"));
    assert_eq!(device.line_within(Duration::ZERO), None, "it stayed connected");
    assert!(!device.stderr().contains("disconnected"), "{}", device.stderr());
    peer.write(NOTHING);
    expect_poll(&mut peer);
    let away = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"; // at once
    peer.write(away);
    let (mut peer, head) = raw.offer();
    is_poll(&head, false); // perhaps it was the Upgrade
    peer.write(away);
    device.expect_stderr("disconnected");
}

#[test]
fn polls_that_something_cuts_after_a_while_come_again_and_are_no_failures() {
    let raw = RawGateway::start();
    let device = patient_device(&raw);
    let mut peer = fall_back(&raw);
    for reset in [false, true, false] {
        let then = Instant::now();
        eventually("an impatient box's time goes by", || {
            (then.elapsed() > Duration::from_millis(1100)).then_some(())
        });
        if reset {
            peer.reset()
        } else {
            drop(peer)
        }
        let head;
        (peer, head) = raw.offer(); // after about a second
        is_poll(&head, true);
    }
    peer.write(event("e", get("/")));
    expect_answer(&mut peer, "e", TEXT);
    assert!(device.line().ends_with(" (COMET json)"));
    assert!(
        !device.stderr().contains("disconnected") && !device.stderr().contains("next attempt"),
        "{}",
        device.stderr()
    );
    // One that is cut at once tells of a gateway that is away.
    peer.write(NOTHING);
    expect_poll(&mut peer);
    drop(peer);
    device.expect_stderr("disconnected");
}

#[test]
fn refusals_are_for_polls_what_they_are_for_offers() {
    for status in [401, 403, 404, 410] {
        let raw = RawGateway::start();
        let mut device = text_device(&raw, &["--fallback", "only"]);
        let (mut peer, head) = raw.offer();
        is_poll(&head, false);
        peer.write(format!(
            "HTTP/1.1 {status} No\r\nProxy-Status: ptth\r\nContent-Length: 0\r\n\r\n"
        ));
        assert_eq!(device.exit_code(), 3, "{}", device.stderr());
    }
    // After a success they are weather.
    let raw = RawGateway::start();
    let mut device = text_device(&raw, &[]);
    let mut peer = fall_back(&raw);
    peer.write("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
    let _peer = fall_back(&raw);
    assert!(!device.has_ended());
}

#[test]
fn the_fallback_option_decides_what_is_asked() {
    let raw = RawGateway::start();
    let device = text_device(&raw, &["--fallback", "never"]);
    for _ in 0..2 {
        let (mut peer, head) = raw.offer();
        assert_eq!(
            (head.get("upgrade"), head.get("accept")),
            (Some("PTTH/1.0"), None),
            "{}",
            head.text()
        );
        peer.write(NOTHING);
    }
    device.expect_stderr("fallback never");
    let (mut peer, head) = raw.offer();
    assert_eq!(head.get("upgrade"), Some("PTTH/1.0"));
    peer.write("HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(raw.offer().1.get("upgrade"), Some("PTTH/1.0"));
    assert_eq!(device.line_within(Duration::ZERO), None);

    let raw = RawGateway::start();
    let device = text_device(&raw, &["--fallback", "only"]);
    let (mut peer, head) = raw.offer();
    is_poll(&head, false);
    peer.write(NOTHING);
    is_poll(&peer.read_head(), false);
    peer.write(SWITCH); // nobody asked for that
    let (mut peer, head) = raw.offer();
    is_poll(&head, false);
    peer.write("HTTP/1.1 426 Upgrade Required\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n");
    device.expect_stderr("--fallback auto");
}

#[test]
fn the_comet_option_changes_accept() {
    for (option, accept) in [("json", "application/json"), ("message", "message/http")] {
        let raw = RawGateway::start();
        let device = text_device(&raw, &["--comet", option]);
        let (mut peer, head) = raw.offer();
        assert_eq!(head.get("accept"), Some(accept));
        peer.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(peer.read_head().get("accept"), Some(accept));
        assert!(
            device
                .line()
                .ends_with(&format!(" (COMET {})", if option == "json" { "json" } else { accept }))
        );
    }
}

#[test]
fn options_come_from_the_environment_and_wrong_ones_are_named() {
    let raw = RawGateway::start();
    let mut command = Ptth::command(&["device", &raw.url("lamp"), "--text", "x"]);
    command.envs([
        ("PTTH_FALLBACK", "only"),
        ("PTTH_COMET", "json"),
        ("PTTH_POLLS", "3"),
        ("PTTH_TURN_RETRY", "5s"),
    ]);
    let _device = Process::start(&mut command);
    for _ in 0..3 {
        let (_, head) = raw.offer();
        assert_eq!((head.get("upgrade"), head.get("accept")), (None, Some("application/json")));
    }
    for wrong in [
        &["--polls", "0"][..],
        &["--polls", "65"],
        &["--fallback", "sometimes"],
        &["--comet", "xml"],
        &["--turn-retry", "soon"],
    ] {
        let (code, _, stderr) =
            Ptth::run(&[&["device", "http://127.0.0.1:1/lamp", "--text", "x"], wrong].concat());
        assert!(code == 2 && stderr.contains(wrong[1]), "{wrong:?}: {code} {stderr}");
    }
    let ietf = [
        "device",
        "http://127.0.0.1:1",
        "--dialect",
        "ptth",
        "--origin",
        "https://a.example",
        "--text",
        "x",
        "--fallback",
        "only",
    ];
    let (code, _, stderr) = Ptth::run(&ietf);
    assert!(code == 2 && stderr.contains("cannot poll"), "{code} {stderr}");
}

#[test]
fn an_ietf_offer_asks_for_no_fallback() {
    let raw = RawGateway::start();
    let url = format!("http://{}", raw.addr);
    let device = Ptth::start(&[
        "device",
        &url,
        "--dialect",
        "ptth",
        "--origin",
        "https://a.example",
        "--text",
        "x",
        "--backoff",
        "5ms..20ms",
    ]);
    for answered in [NOTHING, "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n"] {
        let (mut peer, head) = raw.offer();
        assert_eq!(
            (head.method(), head.get("upgrade"), head.get("accept")),
            ("GET", Some("ptth"), None)
        );
        peer.write(answered);
    }
    assert_eq!(raw.offer().1.method(), "GET");
    device.expect_stderr("may not poll");
}

#[test]
fn secrets_and_answers_stay_with_their_origin() {
    let (raw, there) = (RawGateway::at_localhost(), RawGateway::at_localhost());
    let local = LocalServer::start();
    let url = raw.url("lamp");
    let mut command =
        Ptth::command(&[&["device", &url, "--to", &local.url(), "--polls", "1"], QUICK].concat());
    let device = Process::start(command.env("PTTH_TOKEN", "hunter2"));
    let (mut peer, head) = raw.offer();
    assert_eq!(head.get("authorization"), Some("Bearer hunter2"));
    peer.write(event("e", get("/x")));
    let (head, first) = read_post(&mut peer);
    assert_eq!(head.get("authorization"), Some("Bearer hunter2"), "every poll has it");
    // To the same origin the answer comes along.
    peer.write("HTTP/1.1 307 Temporary Redirect\r\nLocation: /lamp/2\r\nContent-Length: 0\r\n\r\n");
    let (mut peer, head) = raw.offer();
    assert_eq!((head.target(), head.get("ptth-message-id")), ("/lamp/2", Some("e")));
    assert_eq!(read_body(&mut peer, &head), first);
    // To another it does not, and neither does the secret.
    peer.write(format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n",
        there.url("lamp")
    ));
    let (mut peer, head) = there.offer();
    is_poll(&head, true);
    assert_eq!(head.get("authorization"), None);
    device.expect_stderr("the answer to event e is dropped");
    peer.write(event("f", get("/x")));
    assert_eq!(read_post(&mut peer).0.get("authorization"), None);
    // The other gateway asks for what the first one got: it is run for it.
    let asked = local.count();
    peer.write(event("e", get("/x")));
    expect_answer(&mut peer, "e", "hello\n");
    assert_eq!(local.count(), asked + 1);
    assert!(!device.stderr().contains("hunter2"));
}

#[test]
fn retry_after_is_obeyed_for_answers_too() {
    let raw = RawGateway::start();
    let _device = text_device(&raw, &[]);
    let mut peer = fall_back(&raw);
    peer.write(event("e", get("/")));
    read_post(&mut peer);
    let then = Instant::now();
    peer.write("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n");
    let (mut peer, head) = raw.offer();
    assert!(then.elapsed() >= Duration::from_millis(990), "{:?}", then.elapsed());
    assert_eq!(head.get("ptth-message-id"), Some("e"));
    read_body(&mut peer, &head);
}

#[test]
fn a_gateway_that_goes_and_comes_is_told_apart() {
    let raw = RawGateway::start();
    let device = text_device(&raw, &[]);
    drop(fall_back(&raw));
    device.expect_stderr("disconnected");
    let mut peer = fall_back(&raw);
    peer.write(NOTHING);
    expect_poll(&mut peer);
    let line = format!("connected lamp via {} (COMET json)", raw.url("lamp"));
    assert_eq!((device.line(), device.line()), (line.clone(), line));
    assert_eq!(device.line_within(Duration::ZERO), None);
}

#[test]
fn every_wait_has_its_end_but_the_handlers() {
    let raw = RawGateway::start();
    let mut limits = Limits::default();
    (limits.offer_timeout, limits.body_silence_timeout) =
        (Duration::from_millis(200), Duration::from_millis(200));
    let device = quick(&raw).limits(limits).build().unwrap();
    let running = device
        .spawn(|request| match request.uri().path() {
            "/late" => {
                std::thread::sleep(Duration::from_millis(600)); // the work of a handler
                Response::new(Body::from("late"))
            }
            _ => Response::new(Body::from(pattern(30_000_000))),
        })
        .unwrap();
    let mut unanswered = fall_back(&raw);
    let (mut stuck, head) = raw.offer(); // no reply within offer_timeout
    is_poll(&head, true);
    unanswered.expect_closed();
    stuck.write(&event("e", get("/"))[..100]);
    let (mut peer, head) = raw.offer(); // no end of the reply within body_silence_timeout
    is_poll(&head, true);
    stuck.expect_closed();
    peer.write(event("late", get("/late")));
    expect_answer(&mut peer, "late", "late");
    peer.write(event("big", get("/big")));
    peer.read_head();
    peer.read_through(2 << 20, |_| {}); // more than is kept to be posted again, however little a socket holds
    let (mut again, head) = raw.offer(); // nobody took the answer for body_silence_timeout
    is_poll(&head, true);
    again.write(event("big", get("/big")));
    assert_eq!(answer(&mut again, "big").0, "HTTP/1.1 502 Bad Gateway");
    running.stop();
}

#[test]
fn through_bad_weather_every_event_runs_once_and_is_answered() {
    const EVENTS: usize = 150;
    let raw = RawGateway::start();
    let runs: Arc<Mutex<Vec<usize>>> = Arc::new(Mutex::new(vec![0; EVENTS]));
    let counted = runs.clone();
    let device = quick(&raw)
        .polls(3..=3)
        .backoff(Duration::from_millis(1)..Duration::from_millis(3))
        .build()
        .unwrap();
    let running = device
        .spawn(move |request| {
            let n: usize = request.uri().path()[1..].parse().unwrap();
            counted.lock().unwrap()[n] += 1;
            Response::new(Body::from(pattern(n * 300))) // some at once, some streamed; all are kept
        })
        .unwrap();
    let (mut answered, mut next, mut dice) = (vec![false; EVENTS], 0, 1u32);
    let mut conns: Vec<RawPeer> = Vec::new();
    while !answered.iter().all(|done| *done) {
        dice = dice.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        let roll = dice >> 16;
        while let Some(peer) = raw.try_accept() {
            conns.push(peer);
        }
        if conns.is_empty() {
            conns.push(raw.accept());
        }
        let at = roll as usize % conns.len();
        let peer = &mut conns[at];
        if !peer.stirs_within(Duration::from_millis(20)) {
            continue;
        }
        let Some(head) = peer.try_read_head() else {
            conns.remove(at);
            continue;
        };
        if roll % 11 == 0 {
            conns.remove(at); // within a POST, or before its reply
            continue;
        }
        let text = read_body(peer, &head);
        if let Some(id) = head.get("ptth-message-id") {
            let n: usize = id.parse().unwrap();
            assert_eq!(
                Hash::of(Head::split(&text).1),
                Hash::of_pattern(n as u64 * 300),
                "event {n}"
            );
            answered[n] = true;
        }
        match roll % 5 {
            0 => drop(conns.remove(at)), // the reply is lost
            1 if next > 0 => {
                // One that was handed out before, answered or not.
                let n = roll as usize / 7 % next;
                peer.write(event(&n.to_string(), get(&format!("/{n}"))));
            }
            _ if next < EVENTS => {
                peer.write(event(&next.to_string(), get(&format!("/{next}"))));
                next += 1;
            }
            _ => {
                let n = answered.iter().position(|done| !done).unwrap_or(0);
                peer.write(event(&n.to_string(), get(&format!("/{n}"))));
            }
        }
    }
    assert!(runs.lock().unwrap().iter().all(|runs| *runs == 1), "{:?}", runs.lock().unwrap());
    running.stop();
}

// ── The end ──

#[test]
fn draining_lets_an_event_finish_and_takes_no_other() {
    let raw = RawGateway::start();
    let (local, release) = held_server();
    let mut device = Ptth::start(
        &[&["device", &raw.url("lamp"), "--to", &local.url(), "--polls", "2"], QUICK].concat(),
    );
    let mut busy = fall_back(&raw);
    let (mut idle, _) = raw.offer();
    busy.write(event("e", get("/")));
    eventually("the local server is asked", || (local.count() == 1).then_some(()));
    device.signal("TERM");
    idle.expect_closed();
    release.send("done").unwrap();
    expect_answer(&mut busy, "e", "done");
    busy.write(event("late", get("/")));
    assert_eq!(device.exit_code(), 0, "{}", device.stderr());
    assert_eq!(local.count(), 1);
}

#[test]
fn draining_does_not_wait_for_a_poll_that_is_held() {
    let raw = RawGateway::start();
    let mut device = text_device(&raw, &["--drain-timeout", "60s"]);
    let mut peer = fall_back(&raw);
    peer.write(event("e", get("/")));
    expect_answer(&mut peer, "e", TEXT);
    device.signal("TERM"); // the answer is here, and its reply may be held for long
    assert_eq!(device.exit_code(), 0, "{}", device.stderr());
    let raw = RawGateway::start();
    let mut device = text_device(&raw, &[]);
    let _peer = fall_back(&raw);
    device.signal("TERM");
    assert_eq!(device.exit_code(), 0, "{}", device.stderr());
}

// ── In a program ──

fn quick(raw: &RawGateway) -> DeviceBuilder {
    Device::builder(raw.url("lamp"))
        .links(1..=1)
        .polls(1..=1)
        .backoff(Duration::from_millis(5)..Duration::from_millis(20))
}

/// Three events over one poll, each answered with its own target.
#[track_caller]
fn ask_three(peer: &mut RawPeer) {
    for n in 0..3 {
        peer.write(event(&format!("id{n}"), get(&format!("/{n}"))));
        expect_answer(peer, &format!("id{n}"), format!("/{n}"));
    }
    peer.write(NOTHING);
    expect_poll(peer);
}

#[test]
fn handlers_serve_polls_as_they_serve_links() {
    let raw = RawGateway::start();
    let device = quick(&raw).build().unwrap();
    let events = device.events();
    let running = device
        .spawn(|request| match request.uri().path() {
            "/panic" => panic!("on purpose"),
            "/stop" => Response::builder()
                .header("Connection", "close")
                .body(Body::from("closed"))
                .unwrap(),
            path => Response::new(Body::from(path.to_owned())),
        })
        .unwrap();
    let mut peer = fall_back(&raw);
    ask_three(&mut peer);
    let stats = running.stats();
    assert_eq!(
        (stats.links, stats.busy, stats.dialing, stats.polls, stats.exchanges),
        (0, 0, 0, 1, 3)
    );
    assert_eq!(stats.transport, Some(Transport::Comet(Encoding::Json)), "as the last reply");
    peer.write(event("panic", get("/panic")));
    assert_eq!(answer(&mut peer, "panic").0, "HTTP/1.1 500 Internal Server Error");
    for id in ["closing", "closing2"] {
        peer.write(event(id, get("/stop"))); // ends the virtual link; the next event gets another
        expect_answer(&mut peer, id, "closed");
    }
    peer.write(event("after", get("/after")));
    expect_answer(&mut peer, "after", "/after");
    peer.write(event(
        "expect",
        "POST /e HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    ));
    expect_answer(&mut peer, "expect", "/e");
    peer.write(event("beat", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(answer(&mut peer, "beat").0, "HTTP/1.1 204 No Content");
    running.stop();
    let ways: Vec<_> = events
        .try_iter()
        .filter(|e| e.kind == DeviceEventKind::Connected)
        .map(|e| (e.transport, e.detail))
        .collect();
    let comet = |encoding: Encoding| (Some(Transport::Comet(encoding)), encoding.to_string());
    assert_eq!(
        ways,
        [Encoding::Json, Encoding::Message, Encoding::Json, Encoding::Message].map(comet)
    );
    assert_eq!((running.stats().polls, running.stats().transport), (0, None));
}

#[test]
fn an_event_that_is_a_heartbeat_with_a_body_is_refused_whole() {
    let raw = RawGateway::start();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let paths = seen.clone();
    let device = quick(&raw).build().unwrap();
    let running = device
        .spawn(move |request| {
            paths.lock().unwrap().push(request.uri().path().to_owned());
            Response::new(Body::from("yes"))
        })
        .unwrap();
    let mut peer = fall_back(&raw);
    let body = "GET /chosen HTTP/1.1\r\nHost: a\r\nX: ";
    let bytes =
        format!("OPTIONS * HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    peer.write(event("beat", bytes));
    assert_eq!(answer(&mut peer, "beat").0, "HTTP/1.1 400 Bad Request");
    peer.write(event("after", get("/after")));
    assert_eq!(answer(&mut peer, "after").1, b"yes");
    running.stop();
    assert_eq!(*seen.lock().unwrap(), ["/after"], "nothing of the body was a request");
}

#[test]
fn a_program_receives_events_itself() {
    let raw = RawGateway::start();
    let device = quick(&raw).build().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3 {
                let exchange = device.recv().unwrap();
                let path = exchange.request().uri().path().to_owned();
                exchange.respond(Response::new(Body::from(path))).unwrap();
            }
            drop(device.recv().unwrap()); // dropped unanswered
        });
        let mut peer = fall_back(&raw);
        ask_three(&mut peer);
        peer.write(event("dropped", get("/")));
        assert_eq!(answer(&mut peer, "dropped").0, "HTTP/1.1 502 Bad Gateway");
    });
}

#[test]
fn a_program_accepts_virtual_links() {
    let raw = RawGateway::start();
    let device = quick(&raw).build().unwrap();
    let listener = device.listen().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for requests in [3, 1] {
                let mut link = listener.accept().unwrap();
                for _ in 0..requests {
                    let request = link.next_request().unwrap().unwrap();
                    link.respond(Response::new(Body::from(request.uri().path().to_owned())))
                        .unwrap();
                }
            }
        });
        let mut peer = fall_back(&raw);
        ask_three(&mut peer);
        peer.write(event("second", get("/second"))); // over another link
        expect_answer(&mut peer, "second", "/second");
    });
}

#[test]
fn a_local_server_is_forwarded_to() {
    let raw = RawGateway::start();
    let local = LocalServer::with(|c| {
        let target = c.head.target().to_owned();
        c.text(target);
    });
    let device = quick(&raw).build().unwrap();
    let running = device.spawn_forward(&local.url()).unwrap();
    let mut peer = fall_back(&raw);
    ask_three(&mut peer);
    assert_eq!(local.count(), 3);
    running.stop();
}

#[test]
fn an_answer_in_json_has_a_bound() {
    let raw = RawGateway::start();
    let mut limits = Limits::default();
    limits.message_bytes_max = 100_000;
    let device = quick(&raw).limits(limits).comet(Encoding::Json).build().unwrap();
    let running = device
        .spawn(|request| {
            Response::new(Body::from("x".repeat(request.uri().path()[1..].parse().unwrap())))
        })
        .unwrap();
    let (mut peer, _) = raw.offer();
    for (length, status) in [(90_000, 200), (100_000, 502), (5_000_000, 502), (10, 200)] {
        peer.write(json_event(&length.to_string(), "GET", &format!("/{length}"), ""));
        let (head, body) = read_post(&mut peer);
        assert_eq!(head.get("ptth-message-id"), Some(length.to_string().as_str()));
        let body = String::from_utf8(body).unwrap();
        assert!(
            body.contains(&format!("\"status\": {status}")),
            "{length}: {}",
            &body[..200.min(body.len())]
        );
    }
    let long = reply("application/json", "", format!("{{\"x\": \"{}\"}}", "x".repeat(100_000)));
    let _ = peer.try_write(long);
    peer.expect_closed(); // an event beyond the bound is none
    running.stop();
}

#[test]
fn what_cannot_work_is_a_usage_error() {
    let build = |change: fn(DeviceBuilder) -> DeviceBuilder| {
        change(Device::builder("http://gw.example/lamp")).build()
    };
    for polls in [0, 65] {
        assert!(
            Device::builder("http://gw.example/lamp")
                .polls(polls..=polls)
                .build()
                .unwrap_err()
                .is_usage()
        );
    }
    let ietf = || {
        Device::builder("http://gw.example").dialect(Dialect::ietf()).origin("https://a.example")
    };
    assert!(ietf().fallback(Fallback::Only).build().unwrap_err().is_usage());
    assert!(ietf().build().is_ok());
    assert!(
        build(|b| b.field("Accept", "text/html")).unwrap_err().is_usage(),
        "it would ask for no fallback"
    );
    assert!(build(|b| b.field("Accept", "text/html").fallback(Fallback::Never)).is_ok());
    assert!(build(|b| b.comet(Encoding::Message).fallback(Fallback::Only)).is_ok());
    assert_eq!(
        (Transport::Turn.to_string(), Transport::Comet(Encoding::Json).to_string()),
        ("turn".to_owned(), "COMET json".to_owned())
    );
}
