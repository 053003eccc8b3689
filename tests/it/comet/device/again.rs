//! What is cut, lost, malformed, or comes again (T43).

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use http::Response;
use reverse_http::{Body, Limits};

use super::BUSY;
use super::{
    NOTHING, QUICK, answer, event, expect_answer, expect_poll, fall_back, forwarder, held_server,
    is_poll, json_event, patient_device, quick, read_body, read_post, reply,
};
use crate::support::process::get;
use crate::support::{DEADLINE, Hash, Head, LocalServer, Ptth, RawGateway, each_row, eventually};

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
    let text = String::from_utf8(read_post(&mut peer).1).unwrap();
    assert!(text.contains("\"status\": 502"), "{text}");
    // The gateway passes on what the device says of it.
    assert!(text.contains("[\"Proxy-Status\", \"ptth; error=connection_terminated;"), "{text}");
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

fn malformed_events() -> Vec<(&'static str, Vec<u8>)> {
    let id = "PTTH-Message-ID: e\r\n";
    vec![
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
    ]
}

#[test]
fn a_malformed_event_costs_one_attempt() {
    let rows = malformed_events();
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
