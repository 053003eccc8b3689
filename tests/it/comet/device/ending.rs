//! Bad weather, and the end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Response;
use reverse_http::Body;

use super::text_device;
use super::{QUICK, TEXT, event, expect_answer, fall_back, held_server, quick, read_body};
use crate::support::process::get;
use crate::support::{Hash, Head, Ptth, RawGateway, RawPeer, eventually, pattern};

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
