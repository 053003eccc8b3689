//! How exchanges and connections end: early answers, resets and half-closes at every phase, in both
//! roles. Nothing more is lost than has to be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Request, Response};
use reverse_http::{
    Body, CloseCause, Device, DeviceHandle, EventKind, Fallback, Gateway as LibGateway, Limits,
    Routes, upgrade,
};

use crate::support::pki::TlsPeer;
use crate::support::process::{get, offer};
use crate::support::{
    Authority, DEADLINE, Gateway, Ptth, RawGateway, RawPeer, SWITCH, each_row, eventually,
    eventually_within, pattern,
};
use crate::relay::upgrades::tunnel;

/// More than what the buffers of all sockets on the way take.
const LARGE: usize = 16 << 20;
const EARLY: &str =
    "HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo much";

/// A gateway of this process, and where its visitors come in.
fn library(change: impl FnOnce(&mut Limits)) -> (LibGateway, SocketAddr) {
    let mut limits = Limits::default();
    change(&mut limits);
    let gateway = LibGateway::builder().listen("127.0.0.1:0").limits(limits).start().unwrap();
    let visitors = gateway.relay("127.0.0.1:0", Routes::path()).unwrap();
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

// ── Early answers ──

#[test]
fn an_early_answer_is_delivered_though_its_link_was_reset_behind_it() {
    let gateway = Gateway::start(&[]);
    let body = pattern(LARGE);
    for chunked in [false, true] {
        for n in 0..40 {
            let mut link = gateway.link("lamp");
            let device = std::thread::spawn(move || {
                link.read_head();
                link.write(EARLY);
                link.reset();
            });
            let mut visitor = gateway.visitor();
            let head = if chunked {
                format!(
                    "POST /lamp/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{LARGE:x}\r\n"
                )
            } else {
                upload("/lamp/", LARGE)
            };
            visitor.write(head);
            visitor.write(&body);
            if chunked {
                visitor.write("\r\n0\r\n\r\n");
            }
            let answer = visitor.read_answer("POST");
            assert_eq!(
                (answer.status(), answer.text().as_str()),
                (413, "too much"),
                "try {n}: {}",
                answer.head.text()
            );
            device.join().unwrap();
        }
    }
}

#[test]
fn a_local_servers_early_answer_is_delivered_over_links_and_over_polls() {
    if cfg!(not(feature = "comet")) {
        return; // some of it polls in JSON
    }
    let local = answers_early(EARLY);
    let body = pattern(LARGE / 4); // within what a device that polls may be sent
    for fallback in ["never", "only"] {
        let gateway = Gateway::start(&[]);
        let url = gateway.device_url("lamp");
        let to = format!("http://{local}");
        let device = Ptth::start(&[
            "device",
            &url,
            "--backoff",
            "10ms..200ms",
            "--to",
            &to,
            "--fallback",
            fallback,
        ]);
        device.line_like("connected");
        for n in 0..40 {
            let mut visitor = gateway.visitor();
            visitor.write(upload("/lamp/", body.len()));
            visitor.write(&body);
            let answer = visitor.read_answer("POST");
            let text = answer.text();
            assert_eq!(
                (answer.status(), text.as_str()),
                (413, "too much"),
                "{fallback}, try {n}: {}",
                answer.head.text()
            );
        }
    }
}

#[test]
fn a_handlers_early_answer_is_delivered_over_tls_too() {
    let authority = Authority::new();
    let pair = authority.server("gateway");
    let files = [
        "--devices-cert",
        pair.certificate(),
        "--devices-key",
        pair.key(),
        "--visitors-cert",
        pair.certificate(),
    ];
    let gateway = Gateway::start(&[&files[..], &["--visitors-key", pair.key()]].concat());
    let url = format!("https://localhost:{}/lamp", gateway.devices.port());
    let device = Ptth::start(&[
        "device",
        &url,
        "--ca",
        authority.ca(),
        "--text",
        "x",
        "--backoff",
        "10ms..200ms",
    ]);
    device.line_like("connected");
    let client = Arc::new(authority.client(None));
    let body = pattern(LARGE / 2);
    for n in 0..20 {
        let mut visitor = TlsPeer::connect(gateway.visitors, client.clone());
        visitor.write(upload("/lamp/", body.len()));
        visitor.write(&body);
        let head = visitor.read_head();
        assert_eq!(head.status(), 200, "try {n}: {}", head.text());
    }
}

#[test]
fn a_program_gets_the_early_answer_to_its_own_upload() {
    let (gateway, _) = library(|_| ());
    for n in 0..40 {
        let mut link = link(&gateway, "lamp");
        let device = std::thread::spawn(move || {
            link.read_head();
            link.write(EARLY);
            link.reset();
        });
        let request = Request::post("/").body(Body::from(vec![7; LARGE])).unwrap();
        let mut response =
            gateway.device("lamp").send(request).unwrap_or_else(|e| panic!("try {n}: {e}"));
        assert_eq!(response.status(), 413, "try {n}");
        assert_eq!(response.body_mut().read_to_text(100).unwrap(), "too much", "try {n}");
        device.join().unwrap();
    }
}

#[test]
fn an_early_answer_that_a_reset_cut_short_is_not_taken_for_whole() {
    let gateway = Gateway::start(&[]);
    let body = pattern(LARGE);
    // With a length, in chunks, and to the end of the connection, where nothing but the reset
    // tells.
    for framing in [
        "Content-Length: 100\r\n\r\nshort",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        "\r\nshort",
    ] {
        for n in 0..10 {
            let mut link = gateway.link("lamp");
            let device = std::thread::spawn(move || {
                link.read_head();
                link.write(format!("HTTP/1.1 413 Content Too Large\r\n{framing}"));
                link.reset();
            });
            let mut visitor = gateway.visitor();
            visitor.write(upload("/lamp/", body.len()));
            let _ = visitor.try_write(&body); // it may be cut in the middle
            if let Ok(answer) = visitor.read_answer_or_cut("POST") {
                panic!("{framing:?}, try {n}: {}{}", answer.head.text(), answer.text());
            }
            device.join().unwrap();
        }
    }
}

#[test]
fn a_link_that_is_reset_without_an_answer_is_a_502_and_an_idempotent_request_without_body_is_sent_again()
 {
    let gateway = Gateway::start(&[]);
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(upload("/lamp/", LARGE));
    visitor.write(&pattern(LARGE)[..100_000]);
    link.read_head(); // a link that is reset while it idles would be none to the request
    link.reset();
    visitor.read_answer("POST").expect_refusal(502);
    let (first, mut second) = (gateway.link("lamp"), gateway.link("lamp"));
    first.reset();
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/again"));
    assert_eq!(second.read_head().target(), "/again");
    second.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    visitor.read_answer("GET").expect_ok("ok");
}

/// A visitor that stops in the middle of its upload because it has seen the answer.
#[test]
fn a_visitor_that_ends_its_upload_behind_an_early_answers_head_gets_the_rest() {
    let gateway = Gateway::start(&[]);
    let (mut link, mut visitor) = (gateway.link("lamp"), gateway.visitor());
    visitor.write(upload("/lamp/", 1000));
    visitor.write("some");
    link.read_head();
    assert_eq!(link.read_exact(4), b"some");
    link.write("HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\n\r\n");
    assert_eq!(visitor.read_head().status(), 413);
    visitor.finish_writing();
    link.expect_end(); // the device learns that no more will come
    link.write("too much");
    assert_eq!(visitor.read_to_end(), b"too much");
    // Without an answer, an upload that ends short ends its link.
    let (mut link, mut visitor) = (gateway.link("lamp"), gateway.visitor());
    visitor.write(upload("/lamp/", 1000));
    visitor.write("some");
    link.read_head();
    assert_eq!(link.read_exact(4), b"some");
    visitor.finish_writing();
    link.expect_closed();
    visitor.expect_closed();
}

#[test]
fn an_upload_that_was_sent_whole_arrives_though_its_visitor_reset_the_connection() {
    let gateway = Gateway::start(&[]);
    let body = pattern(50_000); // within the first window of a connection
    for n in 0..20 {
        let (mut link, mut visitor) = (gateway.link("lamp"), gateway.visitor());
        visitor.write(upload("/lamp/", body.len()));
        visitor.write(&body);
        // What it is answered on its way makes the gateway write to it.
        link.read_head();
        link.write("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        visitor.reset();
        link.write("HTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n");
        assert!(link.read_exact(body.len()) == body, "try {n}");
        // The exchange is over for nobody, and the link is saved.
        link.write("HTTP/1.1 204 No Content\r\n\r\n");
        let mut next = gateway.visitor();
        next.write(get("/lamp/next"));
        assert_eq!(link.read_head().target(), "/next", "try {n}");
        link.write("HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(next.read_answer("GET").status(), 204);
    }
}

// ── Lingering ──

/// Clients like Python's `http.client` write everything before they read anything.
#[test]
fn a_client_that_writes_fifty_megabytes_before_it_reads_gets_its_refusal() {
    let tokens = crate::support::TempDir::new("endings");
    let file = tokens.0.join("visitors");
    std::fs::write(&file, format!("{} *\n", "0".repeat(64))).unwrap();
    let open = Gateway::start(&[]);
    let closed = Gateway::start(&["--visitor-tokens", file.to_str().unwrap()]);
    let url = open.device_url("poll");
    let _poller = Ptth::start(&["device", &url, "--text", "x", "--fallback", "only"]);
    let _handler = Ptth::device(&open, "text", &["--text", "x"]);
    let local = answers_early(EARLY);
    let _forwarder = Ptth::device(&open, "to", &["--to", &format!("http://{local}")]);
    _poller.line_like("connected");
    let rows = [
        (&open, "/nobody/", 404),
        (&closed, "/text/", 401),
        (&open, "/poll/", 413),
        (&open, "/text/", 200),
        (&open, "/to/", 413),
        (&open, "/to/../x", 400),
    ];
    let body = pattern(50 << 20);
    each_row(
        &rows,
        |(_, target, status)| format!("{target} {status}"),
        |(gateway, target, status)| {
            let mut visitor = gateway.visitor();
            visitor.write(upload(target, body.len()));
            visitor.write(&body);
            assert_eq!(visitor.read_answer("POST").status(), *status);
            visitor.expect_end();
        },
    );
}

/// Writes now and then until that fails, or `time` is over; how long it went on.
fn until_reset(visitor: &mut RawPeer, byte_every: Duration, time: Duration) -> Option<Duration> {
    let began = Instant::now();
    while began.elapsed() < time {
        if visitor.try_write("x").is_err() {
            return Some(began.elapsed());
        }
        std::thread::sleep(byte_every); // the pace of a slow sender
    }
    None
}

/// A refused upload whose connection lingers at the gateway, its answer read.
fn lingering(visitors: SocketAddr) -> RawPeer {
    let mut visitor = RawPeer::connect(visitors);
    visitor.write(upload("/nobody/", 1 << 30));
    assert_eq!(visitor.read_answer("POST").status(), 404);
    visitor
}

#[test]
fn lingering_ends_with_silence_and_after_its_time_however_much_comes() {
    let second = Duration::from_secs(1);
    let (_gateway, visitors) = library(|limits| {
        (limits.linger_timeout, limits.linger_total_timeout) = (second / 2, 2 * second)
    });
    let mut silent = lingering(visitors);
    // The end of the last answer came; the connection itself goes within the silence.
    silent.expect_end();
    let began = Instant::now();
    eventually("a silent connection is closed", || silent.try_write("x").is_err().then_some(()));
    eprintln!("closed {:?} after its answer was read", began.elapsed());
    // Who sends on is read from longer than the silence, and no longer than in all.
    let mut busy = lingering(visitors);
    let went_on = until_reset(&mut busy, Duration::from_millis(20), DEADLINE)
        .expect("it is closed in the end");
    assert!(went_on > second && went_on < 3 * second, "{went_on:?}");
}

#[test]
fn of_too_many_lingering_connections_the_oldest_is_closed() {
    let (_gateway, visitors) = library(|limits| limits.lingering_max = 2);
    let mut first = lingering(visitors);
    let (mut second, mut third) = (lingering(visitors), lingering(visitors));
    eventually_within(Duration::from_secs(3), "the first is closed", || {
        first.try_write("x").is_err().then_some(())
    });
    for other in [&mut second, &mut third] {
        assert_eq!(until_reset(other, Duration::from_millis(5), Duration::from_millis(100)), None);
    }
}

// ── Least rates, and visitors that have left ──

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n: a\r\n";

fn asks(visitors: SocketAddr, target: &str) -> RawPeer {
    let mut visitor = RawPeer::connect(visitors);
    visitor.write(get(target));
    visitor
}

/// Serves the one request that waits on a fresh link.
#[track_caller]
fn serves(gateway: &LibGateway, waiting: &mut RawPeer, target: &str) {
    let mut fresh = link(gateway, "lamp");
    assert_eq!(fresh.read_head().target(), target);
    fresh.write(OK);
    waiting.read_answer("GET").expect_ok("ok");
}

const WINDOW: Duration = Duration::from_millis(300);

fn rated(limits: &mut Limits) {
    (limits.min_rate_window, limits.wait_for_link) = (WINDOW, DEADLINE);
}

/// Bytes that come now and then hold no link that others wait for.
#[test]
fn a_slow_upload_loses_its_link_to_those_who_wait() {
    let (gateway, visitors) = library(rated);
    let mut device = link(&gateway, "lamp");
    let mut slow = RawPeer::connect(visitors);
    slow.write(upload("/lamp/slow", 1_000_000));
    device.read_head();
    // While nobody waits it may take its time.
    let began = Instant::now();
    while began.elapsed() < 4 * WINDOW {
        slow.write("x");
        assert_eq!(device.read_byte(), b'x');
        assert!(!slow.stirs_within(Duration::from_millis(20)));
    }
    let mut waiting = asks(visitors, "/lamp/y");
    let began = Instant::now();
    while !slow.stirs_within(Duration::from_millis(20)) {
        slow.write("x");
    }
    eprintln!("ended {:?} after somebody waited", began.elapsed());
    let answer = slow.read_answer("POST");
    answer.expect_refusal(408);
    assert!(
        answer.text().contains("min_rate_bytes_per_s") && answer.head.closes(),
        "{}{}",
        answer.head.text(),
        answer.text()
    );
    device.expect_no_more();
    serves(&gateway, &mut waiting, "/y");
    eventually("the reason is counted", || {
        (gateway.stats().ends.of(CloseCause::SlowSender) == 1).then_some(())
    });
}

/// Who is kept waiting is not slow: by a device that takes nothing, or that has not said 100.
#[test]
fn an_upload_that_waits_for_its_device_is_not_called_slow() {
    let (gateway, visitors) = library(|limits| {
        rated(limits);
        limits.wait_for_link = 4 * WINDOW;
    });
    let mut device = link(&gateway, "lamp");
    let mut visitor = RawPeer::connect(visitors);
    visitor.write("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 16777216\r\nExpect: 100-continue\r\n\r\n");
    device.read_head();
    asks(visitors, "/lamp/y").read_answer("GET").expect_refusal(503);
    device.write("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(visitor.read_head().status(), 100);
    let (mut writes, body) = (visitor, pattern(LARGE));
    let writer = std::thread::spawn(move || {
        writes.write(&body);
        writes
    });
    asks(visitors, "/lamp/z").read_answer("GET").expect_refusal(503);
    device.read_through(LARGE as u64, |_| ());
    device.write(OK);
    writer.join().unwrap().read_answer("POST").expect_ok("ok");
}

#[test]
fn the_links_of_visitors_that_have_left_are_free_when_somebody_waits() {
    let (gateway, visitors) = library(|limits| limits.wait_for_link = DEADLINE);
    // Event streams and long polls, closed or half-closed by their visitors.
    for (answer, closes) in [(STREAM, true), (STREAM, false), ("", true), ("", false)] {
        let mut device = link(&gateway, "lamp");
        let mut left = asks(visitors, "/lamp/stream");
        device.read_head();
        device.write(answer);
        if !answer.is_empty() {
            assert_eq!(
                (left.read_head().status(), left.read_chunk().as_slice()),
                (200, &b": a"[..])
            );
        }
        left.finish_writing();
        let left = (!closes).then_some(left);
        let mut waiting = asks(visitors, "/lamp/y");
        let began = Instant::now();
        device.expect_closed();
        let took = began.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}, {closes}, {answer:?}");
        serves(&gateway, &mut waiting, "/y");
        // Who only half-closed is told.
        match left {
            Some(mut left) if answer.is_empty() => {
                let answer = left.read_answer("GET");
                answer.expect_refusal(503);
                assert!(answer.text().contains("half_close_timeout"), "{}", answer.text());
            }
            Some(mut left) => assert!(left.read_to_any_end().0.is_empty()),
            None => {}
        }
    }
}

/// RFC 9112 §9.6 allows it, and nobody is in the way.
#[test]
fn a_visitor_that_half_closes_is_served_while_nobody_waits_or_its_answer_moves() {
    let pause = Duration::from_millis(200);
    let (gateway, visitors) =
        library(|limits| (limits.half_close_timeout, limits.wait_for_link) = (pause, 10 * pause));
    let mut device = link(&gateway, "lamp");
    let mut visitor = asks(visitors, "/lamp/x");
    visitor.finish_writing();
    device.read_head();
    visitor.expect_quiet(5 * pause);
    device.write(STREAM);
    let waiting = asks(visitors, "/lamp/y");
    assert_eq!(visitor.read_head().status(), 200);
    assert_eq!(visitor.read_chunk(), b": a");
    let began = Instant::now();
    while began.elapsed() < 4 * pause {
        device.write("1\r\nx\r\n");
        assert_eq!(visitor.read_chunk(), b"x");
        std::thread::sleep(pause / 10); // the pace of a stream
    }
    device.write("0\r\n\r\n");
    assert!(visitor.read_chunk().is_empty());
    assert_eq!(device.read_head().target(), "/y");
    drop(waiting);
}

#[test]
fn the_option_half_close_keeps_it_whoever_waits() {
    for (options, status) in
        [(&["--wait-for-link", "3s"][..], 503), (&["--wait-for-link", "3s", "--half-close"], 200)]
    {
        let gateway = Gateway::start(options);
        let mut device = gateway.link("lamp");
        let mut visitor = gateway.visitor();
        visitor.write(get("/lamp/x"));
        visitor.finish_writing();
        device.read_head();
        let mut waiting = gateway.visitor();
        waiting.write(get("/lamp/y"));
        if status == 200 {
            visitor.expect_quiet(Duration::from_millis(1500));
            device.write(OK);
        }
        assert_eq!(visitor.read_answer("GET").status(), status);
    }
}

#[test]
fn over_tls_a_close_notify_is_enough_to_have_left() {
    let authority = Authority::new();
    let pair = authority.server("gateway");
    let gateway =
        Gateway::start(&["--visitors-cert", pair.certificate(), "--visitors-key", pair.key()]);
    let client = Arc::new(authority.client(None));
    let mut device = gateway.link("lamp");
    let mut left = TlsPeer::connect(gateway.visitors, client.clone());
    left.write(get("/lamp/stream"));
    device.read_head();
    left.0.conn.send_close_notify();
    left.0.flush().unwrap();
    let mut waiting = TlsPeer::connect(gateway.visitors, client);
    waiting.write(get("/lamp/y"));
    device.expect_closed();
    let mut fresh = gateway.link("lamp");
    assert_eq!(fresh.read_head().target(), "/y");
    fresh.write(OK);
    assert_eq!(waiting.read_head().status(), 200);
}

// ── Tunnels ──

#[test]
fn after_a_half_close_a_quiet_tunnel_has_its_time_from_there() {
    let gateway = Gateway::start(&["--body-silence", "1s"]);
    let (mut visitor, mut device) = tunnel(&gateway);
    visitor.expect_quiet(Duration::from_millis(1300));
    visitor.finish_writing();
    device.expect_end();
    visitor.expect_quiet(Duration::from_millis(300));
    device.write("the last word");
    assert_eq!(visitor.read_exact(13), b"the last word");
    // And no longer.
    let began = Instant::now();
    visitor.expect_no_more();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_tunnel_that_one_side_resets_is_reset_on_the_other() {
    let gateway = Gateway::start(&[]);
    let (visitor, mut device) = tunnel(&gateway);
    visitor.reset();
    assert_eq!(device.read_to_any_end(), (Vec::new(), true));
    let (mut visitor, device) = tunnel(&gateway);
    device.reset();
    assert_eq!(visitor.read_to_any_end(), (Vec::new(), true));
    // A clean end is one, on both sides.
    let (mut visitor, device) = tunnel(&gateway);
    drop(device);
    visitor.expect_end();
    // What the gateway cuts itself is no end either.
    let gateway = Gateway::start(&["--tunnel-silence", "300ms"]);
    let (mut visitor, mut device) = tunnel(&gateway);
    assert!(visitor.read_to_any_end().1 && device.read_to_any_end().1);
}

#[test]
fn through_a_forwarder_and_over_tls_a_reset_is_no_clean_end() {
    let authority = Authority::new();
    let pair = authority.server("gateway");
    let files = [
        "--devices-cert",
        pair.certificate(),
        "--devices-key",
        pair.key(),
        "--visitors-cert",
        pair.certificate(),
    ];
    let gateway = Gateway::start(&[&files[..], &["--visitors-key", pair.key()]].concat());
    let local = RawGateway::start(); // a listener
    let url = format!("https://localhost:{}/chat", gateway.devices.port());
    let to = format!("http://{}", local.addr);
    let device = Ptth::start(&[
        "device",
        &url,
        "--ca",
        authority.ca(),
        "--to",
        &to,
        "--backoff",
        "10ms..200ms",
    ]);
    device.line_like("connected");
    let client = Arc::new(authority.client(None));
    let opened = || {
        let mut visitor = TlsPeer::connect(gateway.visitors, client.clone());
        visitor.write(
            "GET /chat/x HTTP/1.1\r\nHost: a\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n",
        );
        let (mut server, _) = local.offer();
        server.write(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n",
        );
        assert_eq!(visitor.read_head().status(), 101);
        (visitor, server)
    };
    let (mut visitor, server) = opened();
    server.reset();
    let end = visitor.0.read(&mut [0; 10]);
    assert!(
        end.as_ref().is_err_and(|e| matches!(
            e.kind(),
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
        )),
        "{end:?}"
    );
    let (visitor, mut server) = opened();
    RawPeer::adopt(visitor.0.sock.try_clone().unwrap(), "visitor").reset();
    drop(visitor);
    assert_eq!(server.read_to_any_end(), (Vec::new(), true));
    let (mut visitor, server) = opened();
    drop(server);
    assert_eq!(visitor.0.read(&mut [0; 10]).unwrap(), 0, "a clean end is told by close_notify");
}

/// As after a WebSocket's close frame: whoever ends a tunnel says so, and does not wait for what
/// the other side is still writing.
#[test]
fn the_last_word_of_a_tunnel_arrives_though_the_other_side_was_still_writing() {
    let gateway = Gateway::start(&[]);
    for n in 0..20 {
        let (mut visitor, mut device) = tunnel(&gateway);
        visitor.write(vec![b'x'; 100_000]);
        device.write("goodbye");
        if n % 2 == 0 {
            device.finish_writing();
            drop(device);
        } else {
            device.reset();
        }
        let _ = visitor.try_write(vec![b'x'; 1_000_000]); // it may be cut in the middle
        let (last, _) = visitor.read_to_any_end();
        assert_eq!(String::from_utf8_lossy(&last), "goodbye", "try {n}");
    }
}

#[test]
fn a_tunnel_that_its_device_ended_does_not_hold_a_drain() {
    let mut gateway = Gateway::start(&["--drain-timeout", "60s"]);
    let (mut visitor, device) = tunnel(&gateway);
    drop(device);
    visitor.expect_end();
    let (mut other, late) = tunnel(&gateway); // ended during the drain
    let began = Instant::now();
    gateway.process.signal("TERM");
    gateway.process.expect_stderr("stopping");
    drop(late);
    other.expect_end();
    assert_eq!(
        gateway
            .process
            .exit_code_within(Limits::default().abandoned_timeout * 2 + Duration::from_secs(2)),
        0
    );
    eprintln!("it stopped {:?} after its signal", began.elapsed());
}

// ── A program's own exchanges ──

fn program_device(
    gateway: &LibGateway,
    polls: bool,
    handler: impl Fn() -> Response<Body> + Send + Sync + 'static,
) -> DeviceHandle {
    let url = format!("http://{}/lamp", gateway.devices_addr());
    let fallback = if polls { Fallback::Only } else { Fallback::Never };
    let device = Device::builder(url)
        .fallback(fallback)
        .backoff(Duration::from_millis(5)..Duration::from_millis(50))
        .build()
        .unwrap();
    let handle = device.spawn(move |_| handler()).unwrap();
    gateway.device("lamp").wait(DEADLINE).unwrap();
    handle
}

/// A body that comes byte by byte, for ever.
struct Drips(Duration);

impl Read for Drips {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        std::thread::sleep(self.0); // the pace of a slow handler
        buf[0] = b'x';
        Ok(1)
    }
}

const WHOLE: Duration = Duration::from_secs(2);

#[test]
fn the_exchange_timeout_holds_for_programs_and_their_bodies() {
    for polls in [false, true] {
        let (gateway, _) = library(|limits| limits.exchange_timeout = WHOLE);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = std::sync::Mutex::new(held);
        let device = program_device(&gateway, polls, move || {
            let _ = held.lock().unwrap().recv(); // until the test is over
            Response::new(Body::empty())
        });
        let began = Instant::now();
        let error = gateway
            .device("lamp")
            .send(Request::get("/").body(Body::empty()).unwrap())
            .unwrap_err();
        let took = began.elapsed();
        assert!(error.is_timeout() && error.to_string().contains("exchange_timeout"), "{error}");
        assert!(took >= WHOLE * 7 / 8 && took < WHOLE + Duration::from_secs(1), "{took:?}");
        drop(release);
        drop(device);
        let (gateway, _) = library(|limits| limits.exchange_timeout = WHOLE);
        let device = program_device(&gateway, polls, || {
            Response::new(Body::from_reader(Drips(Duration::from_millis(20))))
        });
        let began = Instant::now();
        let response =
            gateway.device("lamp").send(Request::get("/").body(Body::empty()).unwrap()).unwrap();
        let error = response.into_body().read_to_vec(1 << 20).unwrap_err();
        let took = began.elapsed();
        assert!(error.is_timeout() && error.to_string().contains("exchange_timeout"), "{error}");
        assert!(took >= WHOLE * 7 / 8 && took < WHOLE + Duration::from_secs(1), "{took:?}");
        drop(device);
        // What is over in time is not touched, nor is the next exchange on the same link.
        let (gateway, _) = library(|limits| limits.exchange_timeout = WHOLE);
        let _device = program_device(&gateway, polls, || Response::new(Body::from("quick")));
        let began = Instant::now();
        while began.elapsed() < WHOLE * 5 / 4 {
            let response = gateway
                .device("lamp")
                .send(Request::get("/").body(Body::empty()).unwrap())
                .unwrap();
            assert_eq!(response.into_body().read_to_text(10).unwrap(), "quick");
        }
    }
}

#[test]
fn a_wait_that_runs_out_in_a_programs_exchange_is_late_in_events_and_counters() {
    type Change = fn(&mut Limits);
    let rows: [(&str, &'static str, Change); 3] = [
        ("first_byte_timeout", "", |limits| limits.first_byte_timeout = WINDOW),
        ("body_silence_timeout", STREAM, |limits| limits.body_silence_timeout = WINDOW),
        ("exchange_timeout", STREAM, |limits| limits.exchange_timeout = WINDOW),
    ];
    each_row(
        &rows,
        |(name, ..)| (*name).to_owned(),
        |(name, answer, change)| {
            let (gateway, _) = library(change);
            let events = gateway.events();
            let (mut device, answer) = (link(&gateway, "lamp"), *answer);
            let answers = std::thread::spawn(move || {
                device.read_head();
                device.write(answer);
                device
            });
            let sent = gateway.device("lamp").send(Request::get("/").body(Body::empty()).unwrap());
            let error = sent
                .and_then(|response| response.into_body().read_to_vec(100).map(drop))
                .unwrap_err();
            assert!(error.is_timeout() && error.to_string().contains(name), "{error}");
            let ended = eventually("its end is told", || {
                events.try_iter().find(|event| event.kind == EventKind::Ended)
            });
            assert_eq!(ended.end, Some(CloseCause::Late), "{}", ended.reason);
            assert_eq!(ended.reason, error.to_string());
            assert_eq!(gateway.stats().ends.of(CloseCause::Late), 1);
            answers.join().unwrap().expect_no_more();
        },
    );
}

#[test]
fn a_gateway_that_stops_says_so_to_a_program_that_reads_a_body() {
    for polls in [false, true] {
        let (gateway, _) = library(|_| ());
        let _device = program_device(&gateway, polls, || {
            Response::new(Body::from_reader(Drips(Duration::from_millis(20))))
        });
        let response =
            gateway.device("lamp").send(Request::get("/").body(Body::empty()).unwrap()).unwrap();
        let reads = std::thread::spawn(move || response.into_body().read_to_vec(1 << 20));
        gateway.stop(Duration::from_millis(300));
        let error = reads.join().unwrap().unwrap_err();
        assert!(error.is_stopped(), "polls: {polls}: {error:?}");
    }
}

// ── Handlers behind a 101 ──

/// A device whose handler waits for the end of a tunnel, says `bye` when it is to be cut, and
/// leaves; or panics where it is told to.
fn chatting(gateway: &Gateway) -> DeviceHandle {
    let url = gateway.device_url("lamp");
    let device = Device::builder(url)
        .backoff(Duration::from_millis(5)..Duration::from_millis(50))
        .build()
        .unwrap();
    device
        .spawn(|request| {
            let panics = request.uri().path() == "/panics";
            let aborts = request.uri().path() == "/aborts";
            upgrade(HeaderValue::from_static("chat"), move |mut stream| {
                let (stopping, mut writer) = (stream.stopping(), stream.writer().unwrap());
                let waiter = std::thread::spawn(move || {
                    let stops = stopping.wait();
                    if stops {
                        let _ = writer.write_all(b"bye"); // the test looks
                    }
                    stops
                });
                let ended = stream.read(&mut [0; 10]);
                match () {
                    () if panics => panic!("as it was asked to"),
                    () if aborts => stream.abort(),
                    () => drop((stream, ended)),
                }
                let _ = waiter.join();
            })
        })
        .unwrap()
}

#[track_caller]
fn chat(gateway: &Gateway, target: &str) -> RawPeer {
    eventually("the device is there", || (gateway.get("/lamp/").status() == 500).then_some(()));
    let mut visitor = gateway.visitor();
    visitor.write(format!(
        "GET /lamp{target} HTTP/1.1\r\nHost: a\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n"
    ));
    assert_eq!(visitor.read_head().status(), 101);
    visitor
}

#[test]
fn a_handler_that_holds_a_tunnel_learns_that_its_device_stops() {
    let gateway = Gateway::start(&["--wait-for-link", "10s"]);
    let device = chatting(&gateway);
    let mut visitor = chat(&gateway, "/");
    let began = Instant::now();
    let stops = std::thread::spawn(move || device.drain(Duration::from_secs(60)));
    assert_eq!(visitor.read_exact(3), b"bye");
    visitor.finish_writing();
    visitor.expect_end();
    stops.join().unwrap();
    eprintln!("it stopped within {:?}", began.elapsed());
    assert!(began.elapsed() < DEADLINE);
}

#[test]
fn a_handler_that_holds_a_tunnel_learns_that_its_gateway_stops() {
    let mut gateway = Gateway::start(&["--wait-for-link", "10s", "--drain-timeout", "60s"]);
    let _device = chatting(&gateway);
    let mut visitor = chat(&gateway, "/");
    gateway.process.signal("TERM");
    assert_eq!(visitor.read_exact(3), b"bye");
    visitor.finish_writing();
    visitor.expect_end();
    drop(visitor);
    assert_eq!(gateway.process.exit_code(), 0);
}

#[test]
fn a_handler_that_panics_or_aborts_resets_its_tunnel_and_one_that_leaves_ends_it() {
    let gateway = Gateway::start(&["--wait-for-link", "10s"]);
    let _device = chatting(&gateway);
    for (target, reset) in [("/panics", true), ("/aborts", true), ("/", false)] {
        let mut visitor = chat(&gateway, target);
        visitor.write("x");
        assert_eq!(visitor.read_to_any_end(), (Vec::new(), reset), "{target}");
    }
}
