//! Events and answers, byte by byte.

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use super::NOTHING_204;
use super::text_device;
use super::{
    NOTHING, QUICK, TEXT, answer, event, expect_answer, expect_poll, fall_back, forwarder, is_poll,
    json_event, read_body, read_post, reply,
};
use crate::support::process::get;
use crate::support::raw::find;
use crate::support::{
    DEADLINE, Hash, Head, LocalServer, Ptth, RawGateway, each_row, eventually, pattern, vector,
};

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

/// A head and the body after it, owned.
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
