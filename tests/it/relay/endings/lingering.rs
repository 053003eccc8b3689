//! Lingering, least rates, and visitors that have left.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reverse_http::{CloseCause, Gateway as LibGateway, Limits};

use super::library;
use super::library_of_one_loop;
use super::{EARLY, LARGE, OK, STREAM, WINDOW, answers_early, link, upload};
use crate::support::pki::TlsPeer;
use crate::support::process::get;
use crate::support::{
    Authority, DEADLINE, Gateway, Ptth, RawPeer, each_row, eventually, eventually_within, pattern,
    slack,
};

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
    let (_gateway, visitors) = library_of_one_loop(|limits| limits.lingering_max = 2);
    let mut first = lingering(visitors);
    let (mut second, mut third) = (lingering(visitors), lingering(visitors));
    eventually_within(Duration::from_secs(3), "the first is closed", || {
        first.try_write("x").is_err().then_some(())
    });
    for other in [&mut second, &mut third] {
        assert_eq!(until_reset(other, Duration::from_millis(5), Duration::from_millis(100)), None);
    }
}

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
        (gateway.stats().closed.of(CloseCause::SlowSender) == 1).then_some(())
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
        assert!(took < Duration::from_secs(1) + slack(), "{took:?}, {closes}, {answer:?}");
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
