//! Callers between each other, and streaming.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::local::routes;
use crate::support::process::get;
use crate::support::{
    DEADLINE, Gateway, Hash, LocalServer, Ptth, RawPeer, eventually, eventually_within,
    fill_pattern, vector,
};

// ── Callers between each other ──

#[test]
fn visitors_who_vanish_do_not_shift_anybodys_answer() {
    // T15: 100 that vanish after k bytes of their answer, between 100 that check a nonce.
    let gateway = Gateway::start(&["--wait-for-link", "20s"]);
    let local = LocalServer::with(|c| {
        let nonce = c.head.get("x-nonce").unwrap_or_default().repeat(200);
        c.text(nonce);
    });
    let _device = Ptth::device(&gateway, "lamp", &["--to", &local.url(), "--links", "2..8"]);
    let visitors = gateway.visitors;
    let threads: Vec<_> = (0..4)
        .map(|worker| {
            std::thread::spawn(move || {
                for i in 0..25 {
                    let request = |nonce: &str| {
                        format!("GET /lamp/x HTTP/1.1\r\nHost: a\r\nX-Nonce: {nonce}\r\n\r\n")
                    };
                    let mut vanishing = RawPeer::connect(visitors);
                    vanishing.write(request("vanishing"));
                    if i % 3 > 0 {
                        vanishing.read_exact(1 + i * 20);
                    }
                    drop(vanishing);
                    let nonce = format!("{worker}-{i}-");
                    let mut checking = RawPeer::connect(visitors);
                    checking.deadline = Duration::from_secs(20);
                    for _ in 0..2 {
                        checking.ask(&request(&nonce)).expect_ok(nonce.repeat(200));
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
}

#[test]
fn a_reset_in_the_middle_of_a_head_is_noticed_at_once_on_both_ports() {
    let gateway = Gateway::start(&[]);
    let before = gateway.process.descriptors();
    let half = [
        ("GET /lamp/x HTTP/1.1\r\nHo", gateway.visitors),
        ("POST /lamp HTTP/1.1\r\nUpgra", gateway.devices),
    ];
    for (bytes, port) in half.repeat(10) {
        let mut peer = RawPeer::connect(port);
        peer.write(bytes);
        peer.reset();
    }
    // Much sooner than the 10 s of head_timeout.
    eventually_within(Duration::from_secs(3), "their descriptors are back", || {
        (gateway.process.descriptors() <= before).then_some(())
    });
}

#[test]
fn a_visitor_who_leaves_before_the_answer_frees_the_device() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let device = LocalServer::device(&gateway, "lamp", 0, |c| {
        c.peer.deadline = Duration::from_secs(20);
        routes(c);
    });
    device.answer_on(gateway.link("lamp"));
    let mut gone = gateway.visitor();
    gone.write(get("/lamp/big?n=30000000"));
    gone.read_head();
    drop(gone);
    // The old link is closed (too much to drain) and a new one takes over; nothing of the old
    // answer is left.
    device.answer_on(gateway.link("lamp"));
    gateway.get("/lamp/x").expect_ok("hello\n");
}

#[test]
fn an_endless_answer_that_nobody_wants_any_more_ends_its_link() {
    let gateway = Gateway::start(&[]);
    for (framing, piece) in [
        ("Transfer-Encoding: chunked", "1000\r\n"),
        ("Content-Length: 4000000000", ""),
        ("X: to the end of the stream", ""),
    ] {
        let mut device = gateway.link("lamp");
        let mut visitor = gateway.visitor();
        visitor.write(get("/lamp/x"));
        device.read_head();
        device.write(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
        visitor.read_head();
        drop(visitor);
        let piece =
            [piece.as_bytes(), &[b'x'; 0x1000], if piece.is_empty() { b"" } else { b"\r\n" }]
                .concat();
        let taken = (0..50_000).take_while(|_| device.try_write(&piece).is_ok()).count();
        assert!(
            taken < 10_000,
            "{framing}: {} bytes were taken for a visitor who has gone",
            taken * 0x1000
        );
    }
}

// ── Streaming ──

#[test]
fn bytes_are_passed_on_as_they_come_in_both_directions() {
    let gateway = Gateway::start(&[]);
    // Only a device with a session keeps a link after an answer that began early.
    let mut device =
        gateway.link_with("lamp", "PTTH-Session: 000102030405060708090a0b0c0d0e0f\r\n");
    let mut visitor = gateway.visitor();
    visitor.write("POST /lamp/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(device.read_head().get("transfer-encoding"), Some("chunked"));
    for piece in ["one", "two", "three"] {
        visitor.write(format!("{:x}\r\n{piece}\r\n", piece.len()));
        assert_eq!(device.read_chunk(), piece.as_bytes(), "it arrives before the next is sent");
    }
    // The answer may begin before the request ends.
    device.write(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    let head = visitor.read_head();
    assert_eq!(head.get("content-type"), Some("text/event-stream"));
    assert!(
        head.closes(),
        "how much of the request is still to come nobody knows (RFC 9112 §9.6): {}",
        head.text()
    );
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        device.write(format!("{:x}\r\n{event}\r\n", event.len()));
        assert_eq!(visitor.read_chunk(), event.as_bytes(), "it arrives before the next is sent");
    }
    visitor.write("0\r\n\r\n");
    assert!(device.read_chunk().is_empty());
    device.write("0\r\n\r\n");
    assert!(visitor.read_chunk().is_empty());
    visitor.finish_writing();
    visitor.expect_end();
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/y"));
    assert_eq!(device.read_head().target(), "/y", "both messages were whole, so the link goes on");
    // By length, byte by byte.
    device.write("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n");
    visitor.read_head();
    for byte in ["a", "b", "c"] {
        device.write(byte);
        assert_eq!(visitor.read_exact(1), byte.as_bytes());
    }
}

#[test]
fn an_answer_to_the_end_of_the_stream_is_passed_on_as_it_comes() {
    let gateway = Gateway::start(&[]);
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    device.read_head();
    device.write("HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(visitor.read_head().get("transfer-encoding"), Some("chunked"));
    for piece in ["one", "two"] {
        device.write(piece);
        assert_eq!(visitor.read_chunk(), piece.as_bytes());
    }
    drop(device);
    assert!(visitor.read_chunk().is_empty(), "the end of the stream is the end of the message");
}

const LARGE: u64 = 64 << 20;

fn large_setup() -> (Gateway, LocalServer, crate::support::Process) {
    let gateway = Gateway::start(&[]);
    let local = LocalServer::start();
    let device = Ptth::device(&gateway, "lamp", &["--to", &local.url()]);
    (gateway, local, device)
}

#[test]
fn a_large_answer_arrives_whole_through_both_ends_with_flat_memory() {
    let (gateway, _local, device) = large_setup();
    let expected = Hash::of_pattern(LARGE);
    let before = (gateway.process.resident_kib(), device.resident_kib());
    let mut visitor = gateway.visitor();
    visitor.write(get(&format!("/lamp/big?n={LARGE}")));
    assert_eq!(visitor.read_head().get("content-length"), Some(LARGE.to_string().as_str()));
    let mut hash = Hash::default();
    visitor.read_through(LARGE, |piece| hash.update(piece));
    assert_eq!(hash.finish(), expected);
    visitor.write(get(&format!("/lamp/chunked?n={}", LARGE / 4)));
    let answer = visitor.read_answer("GET");
    assert_eq!(Hash::of(&answer.body), Hash::of_pattern(LARGE / 4));
    memory_is_flat(before, &gateway, &device);
}

#[test]
fn a_large_upload_arrives_whole_through_both_ends_with_flat_memory() {
    let (gateway, _local, device) = large_setup();
    let expected = Hash::of_pattern(LARGE);
    let before = (gateway.process.resident_kib(), device.resident_kib());
    let mut visitor = gateway.visitor();
    visitor.deadline = Duration::from_secs(30);
    visitor
        .write(format!("POST /lamp/hash HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"));
    let mut block = vec![0; 1 << 16];
    for i in 0..LARGE >> 16 {
        fill_pattern(i << 16, &mut block);
        visitor.write(&block);
    }
    visitor.read_answer("POST").expect_ok(expected);
    memory_is_flat(before, &gateway, &device);
}

#[track_caller]
fn memory_is_flat(before: (u64, u64), gateway: &Gateway, device: &crate::support::Process) {
    let after = (gateway.process.resident_kib(), device.resident_kib());
    assert!(
        after.0 < before.0 + 8 * 1024 && after.1 < before.1 + 8 * 1024,
        "resident memory in KiB, gateway and device: {before:?}, then {after:?}"
    );
}

#[test]
fn a_visitor_who_does_not_read_stops_the_device_from_writing() {
    let gateway = Gateway::start(&[]);
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    device.read_head();
    let before = gateway.process.resident_kib();
    let written = Arc::new(AtomicUsize::new(0));
    let counter = written.clone();
    let writer = std::thread::spawn(move || {
        device.deadline = Duration::from_secs(60);
        device.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"));
        let mut block = vec![0; 1 << 16];
        for i in 0..LARGE >> 16 {
            fill_pattern(i << 16, &mut block);
            device.write(&block);
            counter.fetch_add(block.len(), Ordering::SeqCst);
        }
        device
    });
    // The sockets' own buffers fill up, then nothing moves.
    let mut last = (usize::MAX, Instant::now());
    let stuck = eventually("the device's writes stop", || {
        let now = written.load(Ordering::SeqCst);
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > Duration::from_millis(400)).then_some(now)
    });
    assert!(
        (stuck as u64) < LARGE / 2,
        "{stuck} bytes were taken from the device for a visitor who reads nothing"
    );
    let grown = gateway.process.resident_kib().saturating_sub(before);
    assert!(grown < 4 * 1024, "the gateway grew by {grown} KiB");
    visitor.deadline = Duration::from_secs(30);
    visitor.read_head();
    let mut hash = Hash::default();
    visitor.read_through(LARGE, |piece| hash.update(piece));
    assert_eq!(hash.finish(), Hash::of_pattern(LARGE));
    let _device = writer.join().unwrap();
}

#[test]
fn a_device_that_does_not_read_stops_the_visitor_from_writing() {
    let gateway = Gateway::start(&[]);
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    let before = gateway.process.resident_kib();
    visitor.write(format!("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"));
    visitor.deadline = Duration::from_millis(500);
    let block = vec![0; 1 << 16];
    let taken = (0..LARGE >> 16).take_while(|_| visitor.try_write(&block).is_ok()).count() as u64
        * (1 << 16);
    assert!(taken < LARGE / 2, "{taken} bytes were taken for a device that reads nothing");
    let grown = gateway.process.resident_kib().saturating_sub(before);
    assert!(grown < 4 * 1024, "the gateway grew by {grown} KiB");
    assert_eq!(device.read_head().target(), "/x");
}

#[test]
fn slow_visitors_of_small_answers_do_not_hold_the_link() {
    let gateway = Gateway::start(&["--wait-for-link", "3s"]);
    let device = LocalServer::device(&gateway, "lamp", 1, routes);
    let mut slow: Vec<RawPeer> =
        (0..20).map(|_| RawPeer::connect_narrow(gateway.visitors)).collect();
    for visitor in &mut slow {
        visitor.write(get("/lamp/big?n=30000"));
        assert_eq!(visitor.read_byte(), b'H');
    }
    gateway.get("/lamp/x").expect_ok("hello\n");
    assert_eq!(device.count(), 21);
    for visitor in &mut slow {
        assert_eq!(visitor.read_head_after("H").status(), 200);
        assert_eq!(Hash::of(&visitor.read_exact(30_000)), Hash::of_pattern(30_000));
    }
}

/// A visitor who reads the head of an endless answer and no more, and the end of the device's
/// writing when its link is closed.
fn stalled_exchange(gateway: &Gateway) -> (RawPeer, Receiver<Instant>) {
    let mut device = gateway.link("lamp");
    let mut slow = RawPeer::connect_narrow(gateway.visitors);
    slow.write(get("/lamp/x"));
    device.read_head();
    device.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", u32::MAX));
    let (ended, end) = channel();
    std::thread::spawn(move || {
        device.deadline = Duration::from_secs(40);
        while device.try_write([0; 1 << 14]).is_ok() {}
        let _ = ended.send(Instant::now()); // the test may be over
    });
    assert_eq!(slow.read_byte(), b'H');
    (slow, end)
}

#[test]
fn a_visitor_below_the_least_rate_loses_a_link_that_others_wait_for() {
    let gateway = Gateway::start(&["--min-rate", "1024", "--wait-for-link", "28s"]);
    let then = Instant::now();
    let (_slow, end) = stalled_exchange(&gateway);
    let mut waiting = gateway.visitor();
    waiting.deadline = Duration::from_secs(20);
    waiting.write(get("/lamp/y"));
    let ended = end.recv_timeout(Duration::from_secs(25)).expect("the stalled exchange is ended");
    let took = ended - then;
    assert!(
        took > Duration::from_secs(8),
        "the rate is taken over 10 s, and it was ended after {took:?}"
    );
    let mut fresh = gateway.link("lamp");
    assert_eq!(fresh.read_head().target(), "/y");
    fresh.write(vector("draft-4-response"));
    waiting.read_answer("GET").expect_ok("Good");
}

#[test]
fn a_slow_visitor_whom_nobody_waits_for_or_without_a_least_rate_keeps_its_link() {
    let free = Gateway::start(&["--min-rate", "0", "--wait-for-link", "13s"]);
    let alone = Gateway::start(&["--min-rate", "1024"]);
    let (_slow, end) = stalled_exchange(&free);
    let (_quiet, alone_end) = stalled_exchange(&alone);
    let mut waiting = free.visitor();
    waiting.deadline = Duration::from_secs(20);
    waiting.ask(&get("/lamp/y")).expect_refusal(503);
    assert!(end.try_recv().is_err(), "--min-rate 0 turns the rule off");
    assert!(alone_end.try_recv().is_err(), "nobody waits for that link");
}

#[test]
fn a_hundred_visitors_at_once_are_all_served() {
    let gateway = Gateway::start(&["--wait-for-link", "20s"]);
    let local = LocalServer::start();
    let _device = Ptth::device(&gateway, "lamp", &["--to", &local.url(), "--links", "2..16"]);
    let (done, results): (_, Receiver<u16>) = channel();
    let done = Arc::new(Mutex::new(done));
    for _ in 0..4 {
        let (visitors, done) = (gateway.visitors, done.lock().unwrap().clone());
        std::thread::spawn(move || {
            let mut peers: Vec<RawPeer> = (0..25).map(|_| RawPeer::connect(visitors)).collect();
            for _ in 0..4 {
                peers.iter_mut().for_each(|p| p.write(get("/lamp/x")));
                for peer in &mut peers {
                    peer.deadline = Duration::from_secs(20);
                    done.send(peer.read_answer("GET").status()).unwrap();
                }
            }
        });
    }
    let statuses: Vec<u16> =
        (0..400).map(|_| results.recv_timeout(DEADLINE * 3).unwrap()).collect();
    assert!(statuses.iter().all(|s| *s == 200), "{statuses:?}");
    assert_eq!(local.count(), 400);
}
