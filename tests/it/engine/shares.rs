//! Tables, queues and buffers that many share: no peer, address, name or credential takes one for
//! all (T51, T53), and what is held is counted (T54).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::gateway::admission::with_files;
use crate::support::pki::TlsPeer;
use crate::support::process::{Process, get, offer};
use crate::support::{
    Authority, Gateway, LocalServer, Ptth, RawGateway, RawPeer, each_row, eventually, say,
};

// ── Who writes and does not read (T51) ──

const HEARTBEAT: &str = "OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n";

/// Bytes that each of them writes, if it may.
const FLOOD: usize = 24_000_000;

/// Writes `message` again and again and reads nothing, until the other side takes no more of it or
/// [`FLOOD`] bytes are written. Bytes written.
fn flood(peer: &mut RawPeer, message: &str) -> usize {
    let piece = message.repeat(64 * 1024 / message.len());
    peer.deadline = Duration::from_secs(1); // without a single byte taken
    let mut written = 0;
    while written < FLOOD && peer.try_write(&piece).is_ok() {
        written += piece.len();
    }
    written
}

/// Floods `process`, which has to take no memory for that. Returns the number of whole messages that
/// were written.
#[track_caller]
fn takes_no_memory(what: &str, process: &Process, peer: &mut RawPeer, message: &str) -> usize {
    let before = process.resident_kib();
    let written = flood(peer, message);
    let grown = process.resident_kib().saturating_sub(before) * 1024;
    say(&format!(
        "{what}: {} KB written and nothing read, memory grows by {} KB",
        written / 1000,
        grown / 1000
    ));
    assert!(grown < FLAT, "{what}: memory grows by {grown} bytes");
    assert!(written > 0, "{what}: nothing was written");
    written / message.len()
}

/// A client that continues to read gets further answers: here to what was written whole, as far as
/// these go, and the rest is served after them.
#[track_caller]
fn reads_on(peer: &mut RawPeer, method: &str, status: u16, whole: usize) {
    peer.deadline = Duration::from_secs(10);
    for _ in 0..whole.min(10_000) {
        assert_eq!(peer.read_answer(method).status(), status);
    }
}

/// What is answered at once takes at most this much more memory: buffers of one connection, and
/// what the allocator keeps.
const FLAT: u64 = 6_000_000;

#[test]
fn a_gateway_that_does_not_read_the_answers_to_its_heartbeats_is_not_read_from() {
    let local = LocalServer::start();
    each_row(
        &[vec!["--to", &local.url()], vec!["--text", "on"]],
        |options| options[0].to_owned(),
        |options| {
            let raw = RawGateway::start();
            let device = Ptth::start(
                &[&["device", &raw.url("lamp"), "--links", "1..1"], &options[..]].concat(),
            );
            let mut link = raw.turn();
            link.write(HEARTBEAT);
            assert_eq!(link.read_head().status(), 204);
            let what = format!("heartbeats, {}", options[0]);
            let whole = takes_no_memory(&what, &device, &mut link, HEARTBEAT);
            reads_on(&mut link, "OPTIONS", 204, whole);
        },
    );
}

#[test]
fn a_peer_that_does_not_read_what_is_answered_locally_takes_no_memory() {
    let gateway =
        Gateway::start(&["--health-path", "/health", "--cors-origin", "https://app.example"]);
    let _link = gateway.link("lamp");
    let preflight = "OPTIONS /lamp HTTP/1.1\r\nHost: a\r\nOrigin: https://app.example\r\nAccess-Control-Request-Method: POST\r\n\r\n";
    let poll = "POST /lamp HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    each_row(
        &[
            ("no such device", Some(404), get("/nobody/")),
            ("a redirect", Some(308), get("/lamp")),
            ("the health path", Some(200), get("/health")),
            ("a preflight", None, preflight.to_owned()),
            ("a method that is not allowed", None, get("/lamp")),
            ("a poll", None, poll.to_owned()),
        ],
        |(name, ..)| (*name).to_owned(),
        |(what, status, message)| match status {
            Some(status) => {
                let mut visitor = gateway.visitor();
                let whole = takes_no_memory(what, &gateway.process, &mut visitor, message);
                reads_on(&mut visitor, "GET", *status, whole);
            }
            None => {
                takes_no_memory(what, &gateway.process, &mut gateway.dial(), message);
            }
        },
    );
    gateway.get("/health").expect_ok("ok\n");
}

// ── Descriptors: one address, one port (T53) ──

/// More kept-alive connections from one address than there are descriptors: another address is
/// served, and devices come and go.
#[test]
fn one_address_takes_neither_all_connections_nor_the_devices_places() {
    let gateway = Gateway::of(with_files(256, ""));
    drop(gateway.link("lamp"));
    let mut hogs = Vec::new();
    for _ in 0..300 {
        let mut hog = gateway.visitor();
        let kept = hog.try_write(get("/nobody/")).is_ok()
            && hog.try_read_head().is_some_and(|head| head.status() == 404);
        hogs.extend(kept.then_some(hog));
    }
    say(&format!("one address keeps {} connections of 192", hogs.len()));
    assert_eq!(hogs.len(), 48, "a quarter");
    RawPeer::connect_from([127, 0, 0, 2], gateway.visitors)
        .ask(&get("/nobody/"))
        .expect_refusal(404);
    drop(gateway.link("lamp"));
    // Many addresses take all that visitors may have; each next one is served, the device comes
    // back.
    let many: Vec<RawPeer> =
        (2..200).map(|n| RawPeer::connect_from([127, 0, 0, n], gateway.visitors)).collect();
    for (n, mut peer) in many.into_iter().enumerate() {
        if n % 40 == 0 {
            drop(gateway.link("lamp"));
        }
        let _ = peer.try_write(get("/nobody/")); // those before may have given way
        hogs.push(peer);
    }
    RawPeer::connect_from([127, 0, 1, 1], gateway.visitors)
        .ask(&get("/nobody/"))
        .expect_refusal(404);
    drop(gateway.link("lamp"));
    assert!(!gateway.process.stderr().contains("(os error 24)"), "{}", gateway.process.stderr());
}

/// A program that uses the library may have fewer descriptors than it says: idle visitors give way
/// then, too.
#[test]
fn idle_visitors_give_way_when_descriptors_run_out_whatever_the_bound_says() {
    let process = Ptth::command(&[
        "gateway",
        "--devices",
        "127.0.0.1:0",
        "--visitors",
        "127.0.0.1:0",
        "--trusted-proxies",
        "127.0.0.0/8",
    ]);
    let gateway = Gateway::of(Process::start(&mut { process }));
    let open = gateway.process.descriptors();
    let mut visitors: Vec<RawPeer> = (0..20).map(|_| gateway.visitor()).collect();
    visitors.iter_mut().for_each(|visitor| visitor.ask(&get("/nobody/")).expect_refusal(404));
    gateway.process.limit_descriptors(open + 20);
    for _ in 0..10 {
        drop(gateway.link("lamp"));
        let mut next = gateway.visitor();
        next.ask(&get("/nobody/")).expect_refusal(404);
        visitors.push(next);
    }
    visitors[0].expect_end();
    gateway.process.expect_stderr("idle connection was closed");
}

// ── Memory of names, and lines of the log (T53) ──

#[test]
fn sessions_that_fight_for_a_name_fill_neither_the_log_nor_the_memory_of_others() {
    let (gateway, began) = (Gateway::start(&["--heartbeat", "0s"]), Instant::now());
    let session = |n: u32| format!("PTTH-Session: {n:032x}\r\n");
    let replaced = gateway.link_with("door", &session(1));
    let holds = gateway.link_with("door", &session(2));
    let mut fighters = Vec::new();
    for n in 0..600 {
        fighters.push(gateway.link_with("lamp", &session(n)));
    }
    fighters.drain(..).for_each(RawPeer::reset);
    for n in 0..400 {
        drop(gateway.link_with(&format!("flaps-{}", n % 4), &session(n)));
    }
    let mut back = gateway.dial();
    back.write(offer("door", &session(1)));
    assert_eq!(back.read_head().status(), 409, "that it was replaced is known still");
    let lines = |name: &str| {
        gateway.process.stderr().lines().filter(|line| line.contains(&format!(" {name}: "))).count()
    };
    eventually("the end of the flapping is logged or counted", || {
        (lines("flaps-3") > 1).then_some(())
    });
    let (lamp, flaps) = (lines("lamp"), lines("flaps-0"));
    say(&format!(
        "600 take-overs of a name are {lamp} lines of log, 100 comings and goings {flaps}"
    ));
    // Ten of each kind (up, down, replaced, moved, two of a link's end) in 10 s.
    let most = 6 * 10 * (began.elapsed().as_secs() as usize / 10 + 2);
    assert!(lamp < most && flaps < most, "{most} at most: {}", gateway.process.stderr());
    assert!(lines("door") >= 2, "{}", gateway.process.stderr());
    drop((replaced, holds));
}

// ── What is held is counted where it is held (T54) ──

/// A poll whose event comes in JSON.
fn poll(name: &str) -> String {
    format!("POST /{name} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
}

fn upload(name: &str, body: &[u8]) -> Vec<u8> {
    let head =
        format!("POST /{name}/ HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// The event that a poll is answered with, in JSON.
fn read_event(poll: &mut RawPeer) -> serde_json::Value {
    serde_json::from_slice(&poll.read_answer("POST").body).unwrap()
}

/// Control characters have six bytes each in JSON: a device that does not read its events takes its
/// share of the memory, and nobody else's.
#[cfg(feature = "comet")]
#[test]
fn events_count_as_long_as_they_are_in_json_and_each_device_has_its_share() {
    let gateway = Gateway::start_with_env(
        &["--memory", "16777216", "--first-byte", "600s", "--poll-hold", "600s"],
        &[("MALLOC_ARENA_MAX", "1")],
    );
    let before = gateway.process.resident_kib();
    let control = vec![1; 768 << 10]; // 4.5 MiB as an event, of the 6 MiB that one device has
    let mut poller = RawPeer::connect_narrow(gateway.devices);
    poller.write(poll("lamp"));
    let mut first = gateway.visitor();
    first.deadline = Duration::from_secs(60);
    first.write(upload("lamp", &control));
    poller.deadline = Duration::from_secs(60);
    assert!(poller.stirs_within(Duration::from_secs(60))); // its event is there, and the rest it does not read
    let mut next = gateway.dial();
    next.write(poll("lamp"));
    let asks = |name: &str, length: usize| {
        let mut visitor = gateway.visitor();
        visitor.deadline = Duration::from_secs(60);
        visitor.write(upload(name, &vec![1; length]));
        visitor.read_answer("POST")
    };
    let refused = asks("lamp", 512 << 10);
    refused.expect_refusal(503);
    assert!(
        refused.text().contains("its share") && refused.head.get("retry-after") == Some("1"),
        "{}",
        refused.text()
    );
    next.read_answer("POST").expect_ok("{}"); // the poll that it would have gone to is told that there is nothing
    next.write(poll("lamp"));
    let mut never = gateway.dial();
    never.write(poll("big"));
    asks("big", 1 << 20).expect_refusal(413);
    never.read_answer("POST").expect_ok("{}");
    let grown = gateway.process.resident_kib().saturating_sub(before) * 1024;
    say(&format!(
        "memory: 768 KiB of control characters for a poll that is not read take {} KB of 16,777 KB",
        grown / 1000
    ));
    // Another device has its own share.
    let mut other = gateway.dial();
    other.deadline = Duration::from_secs(60);
    other.write(poll("door"));
    let mut visitor = gateway.visitor();
    visitor.write(upload("door", &vec![b'x'; 512 << 10]));
    assert_eq!(read_event(&mut other)["body"].as_str().unwrap().len(), 512 << 10);
    // The event is whole, though it came late; with its answer the share is free.
    let event =
        serde_json::from_slice::<serde_json::Value>(&poller.read_answer("POST").body).unwrap();
    assert!(event["body"].as_str().unwrap().bytes().eq(control.iter().copied()));
    let answer = format!("{{\"message-id\": {}, \"body\": \"taken\"}}", event["message-id"]);
    let fields = format!("Content-Type: application/json\r\nContent-Length: {}", answer.len());
    poller.write(format!("POST /lamp HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{answer}"));
    first.read_answer("POST").expect_ok("taken");
    let mut second = gateway.visitor();
    second.write(upload("lamp", &control));
    // The answer's POST asks for the next event, and the newest poll is given it.
    assert_eq!(read_event(&mut poller)["body"].as_str().unwrap().len(), control.len());
}

/// TLS sessions are memory, too: where it is taken, a visitor comes in only in the place of one
/// that idles.
#[cfg(feature = "tls")]
#[test]
fn idle_tls_sessions_take_what_is_counted_for_them() {
    const ALLOWED: usize = 2 << 20;
    let authority = Authority::new();
    let (pair, client) = (authority.server("gw"), Arc::new(authority.client(None)));
    let files = [
        "--visitors-cert",
        pair.certificate(),
        "--visitors-key",
        pair.key(),
        "--trusted-proxies",
        "127.0.0.1",
    ];
    let gateway = Gateway::start_with_env(
        &[&files[..], &["--memory", &ALLOWED.to_string()]].concat(),
        &[("MALLOC_ARENA_MAX", "1")],
    );
    let (open, before) = (gateway.process.descriptors(), gateway.process.resident_kib());
    let mut visitors = Vec::new();
    for _ in 0..300 {
        let mut visitor = TlsPeer::connect(gateway.visitors, client.clone());
        let status = visitor.ask(&get("/nobody/")).0.status();
        assert!(matches!(status, 404 | 503), "{status}"); // 503 from nine tenths on
        visitors.push(visitor);
    }
    let (kept, grown) = (
        gateway.process.descriptors() - open,
        gateway.process.resident_kib().saturating_sub(before),
    );
    say(&format!(
        "memory: {kept} idle TLS visitors take {grown} KiB of {} KiB, {} bytes each",
        ALLOWED >> 10,
        grown * 1024 / kept as u64
    ));
    assert!((100..=ALLOWED / (10 << 10)).contains(&kept), "{kept} are kept of 300");
}
