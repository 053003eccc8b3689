//! Bad weather, and the end.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use http::Response;
use reverse_http::Body;

use super::text_device;
use super::{
    NOTHING, NOTHING_204, QUICK, TEXT, event, expect_answer, fall_back, held_server, json_event,
    quick, read_body, read_post,
};
use crate::support::process::get;
use crate::support::{DEADLINE, Hash, Head, Ptth, RawGateway, RawPeer, eventually, pattern};

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
    expect_last(&mut busy, "e", "HTTP/1.1 200 OK");
    for late in ["late", "later"] {
        busy.write(event(late, get("/")));
        expect_last(&mut busy, late, "HTTP/1.1 503 Service Unavailable");
    }
    busy.write(NOTHING_204);
    busy.expect_closed();
    assert_eq!(device.exit_code(), 0, "{}", device.stderr());
    assert_eq!(local.count(), 1);
}

/// The answer to an event with this status line, in a POST that says that it is the last one.
#[track_caller]
fn expect_last(peer: &mut RawPeer, id: &str, start: &str) -> Head {
    let (head, text) = read_post(peer);
    assert_eq!(
        (head.get("ptth-message-id"), head.get("ptth-last"), head.get("upgrade")),
        (Some(id), Some("1"), None),
        "{}",
        head.text()
    );
    let inner = Head::split(&text).0;
    assert_eq!(inner.start, start);
    inner
}

/// The answer may be on its way when the device is told to stop, and its reply bring the next
/// event; and a poll that is held may be answered just then. Nothing of that runs, and its visitors
/// hear of it.
#[test]
fn what_comes_while_the_device_stops_is_given_back() {
    let raw = RawGateway::start();
    let (local, release) = held_server();
    let mut device = Ptth::start(
        &[&["device", &raw.url("lamp"), "--to", &local.url(), "--polls", "2"], QUICK].concat(),
    );
    let mut posted = fall_back(&raw);
    let (mut held, _) = raw.offer();
    posted.write(event("e", get("/")));
    release.send("done").unwrap();
    expect_answer(&mut posted, "e", "done");
    device.signal("TERM");
    held.expect_closed(); // its poll has not been replied to
    held.write(event("held", get("/")));
    let mut again = raw.accept();
    let given_back = expect_last(&mut again, "held", "HTTP/1.1 503 Service Unavailable");
    assert!(given_back.get("retry-after").is_some(), "{}", given_back.text());
    again.write(NOTHING_204);
    posted.write(json_event("with-the-reply", "GET", "/", ""));
    let (head, text) = read_post(&mut posted);
    assert_eq!(head.get("ptth-last"), Some("1"), "{}", head.text());
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains("\"message-id\": \"with-the-reply\"") && text.contains("\"status\": 503"),
        "{text}"
    );
    posted.write(NOTHING);
    assert_eq!(device.exit_code(), 0, "{}", device.stderr());
    assert_eq!(local.count(), 1);
}

/// What is at work when the time is over will not be answered any more.
#[test]
fn a_device_that_ends_with_an_event_in_hand_says_so() {
    for json in [false, true] {
        let raw = RawGateway::start();
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let ended = Mutex::new(ended);
        let device = quick(&raw).build().unwrap();
        let running = device
            .spawn(move |_| {
                tell.send(()).unwrap();
                let _ = ended.lock().unwrap().recv_timeout(DEADLINE);
                Response::new(Body::from("too late"))
            })
            .unwrap();
        let mut peer = fall_back(&raw);
        peer.write(match json {
            true => json_event("e", "GET", "/", ""),
            false => event("e", get("/")),
        });
        told.recv_timeout(DEADLINE).unwrap();
        running.stop();
        let (head, text) = read_post(&mut peer);
        assert_eq!(head.get("ptth-message-id"), Some("e"), "{}", head.text());
        let text = String::from_utf8(text).unwrap();
        let status = if json { "\"status\": 502" } else { "HTTP/1.1 502 Bad Gateway" };
        assert!(text.contains(status), "{text}");
        peer.expect_closed();
        drop(end);
    }
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
