//! Several events at once, waiting, and events that are written again (T43).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Kind::{Json, Text};
use super::{BOTH, BOUND, Device, Event, asks, fence, in_hand, latin1, ok};
use crate::support::process::get;
use crate::support::{Gateway, RawPeer};

// ── Several at once, and waiting ──

#[test]
fn several_polls_are_several_exchanges_and_answers_come_in_any_order() {
    const MANY: usize = 16;
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    for kind in BOTH {
        let first = Device::known(&gateway, "lamp", kind);
        let mut devices: Vec<Device> = (0..MANY).map(|_| first.again()).collect();
        devices.iter_mut().for_each(Device::poll);
        let mut visitors: Vec<RawPeer> =
            (0..MANY).map(|i| asks(&gateway, get(&format!("/lamp/{i}")))).collect();
        let mut events: Vec<Event> = devices.iter_mut().map(Device::event).collect();
        let targets: BTreeSet<String> = events.iter().map(|event| event.target.clone()).collect();
        let ids: BTreeSet<&str> = events.iter().map(|event| event.id.as_str()).collect();
        assert_eq!(
            (targets.len(), ids.len()),
            (MANY, MANY),
            "each poll takes one event: {targets:?}"
        );
        // A shuffle, each on another connection than it came on.
        for round in 0..MANY {
            let event = events.remove(round * 7 % events.len());
            devices[(round * 5 + 3) % MANY].answer(&event, &ok(&event.target));
            let number: usize = event.target[1..].parse().unwrap();
            visitors[number].read_answer("GET").expect_ok(format!("/{number}"));
        }
    }
}

#[test]
fn events_go_out_in_the_order_in_which_they_came() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    for kind in BOTH {
        let mut device = Device::known(&gateway, "lamp", kind);
        let mut visitors: Vec<RawPeer> = (0..8)
            .map(|i| {
                let visitor = asks(&gateway, get(&format!("/lamp/{i}")));
                fence(&gateway);
                visitor
            })
            .collect();
        // Any poll takes the oldest; one connection may have several events in hand.
        let mut other = device.again();
        let mut events = Vec::new();
        for i in 0..8 {
            let poller = if i % 3 == 0 { &mut other } else { &mut device };
            poller.poll();
            let event = poller.event();
            assert_eq!(event.target, format!("/{i}"), "{kind:?}");
            events.push(event);
        }
        let mut posts = Vec::new();
        for (event, visitor) in events.iter().zip(&mut visitors).rev() {
            let mut post = device.again();
            post.answer(event, &ok(&event.target));
            visitor.read_answer("GET").expect_ok(&event.target);
            posts.push(post);
        }
    }
}

#[test]
fn nobody_knows_this_device_404_and_a_known_one_that_does_not_poll_503() {
    let gateway = Gateway::start(&["--wait-for-link", "300ms"]);
    gateway.get("/lamp/x").expect_refusal(404);
    for kind in BOTH {
        drop(Device::known(&gateway, "lamp", kind));
        let then = Instant::now();
        let answer = gateway.get("/lamp/x");
        answer.expect_refusal(503);
        assert!(then.elapsed() >= Duration::from_millis(250), "it was not waited for");
        assert_eq!(answer.head.get("retry-after"), Some("1"), "{}", answer.head.text());
        // What was given up is not handed out later.
        let mut device = Device::known(&gateway, "lamp", kind);
        device.poll();
        device.quiet();
        device.serves(&gateway, "later");
    }
    gateway.get("/desk/x").expect_refusal(404);
}

#[test]
fn a_device_that_stopped_polling_is_known_and_not_connected() {
    // Presence ends 5 s after the last poll. Before and behind, nobody hangs and nobody hears 404.
    let gateway = Gateway::start(&["--wait-for-link", "100ms", "--poll-hold", "100ms"]);
    let device = Device::polling(&gateway, "lamp", Json);
    drop(device);
    let then = Instant::now();
    while then.elapsed() < Duration::from_millis(6_500) {
        let answer = gateway.get("/lamp/x");
        answer.expect_refusal(503);
        assert!(answer.head.get("retry-after").is_some(), "{}", answer.head.text());
    }
    Device::known(&gateway, "lamp", Json); // it may come back
}

#[test]
fn handed_out_and_unanswered_is_504_and_a_late_answer_is_dropped() {
    let gateway = Gateway::start(&["--first-byte", "1s", "--wait-for-link", "9s"]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        let (mut visitor, event) = in_hand(&gateway, &mut device);
        let then = Instant::now();
        visitor.read_answer("GET").expect_refusal(504);
        assert!(
            then.elapsed() >= Duration::from_millis(900) && then.elapsed() < Duration::from_secs(8)
        );
        device.answer(&event, &ok("late"));
        device.quiet();
        // It is nobody's answer.
        let mut visitor = asks(&gateway, get("/lamp/next"));
        let next = device.event();
        assert_ne!(next.id, event.id);
        device.answer(&next, &ok("next"));
        visitor.read_answer("GET").expect_ok("next");
        device.serves(&gateway, "goes-on");
    }
}

#[test]
fn a_visitor_who_leaves_shifts_nobodys_answer() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        for round in 0..5 {
            let (visitor, event) = in_hand(&gateway, &mut device);
            drop(visitor);
            fence(&gateway);
            device.answer(&event, &ok("for nobody"));
            device.serves(&gateway, &format!("for-somebody-{round}"));
        }
        // Gone before it was handed out: it is not, or its answer goes nowhere.
        let mut device = Device::known(&gateway, "lamp", kind);
        drop(asks(&gateway, get("/lamp/gone")));
        fence(&gateway);
        let mut visitor = asks(&gateway, get("/lamp/there"));
        device.poll();
        let mut event = device.event();
        if event.target == "/gone" {
            device.answer(&event, &ok("for nobody"));
            event = device.event();
        }
        assert_eq!(event.target, "/there");
        device.answer(&event, &ok("there"));
        visitor.read_answer("GET").expect_ok("there");
    }
}

// ── Re-delivery (T43) ──

#[test]
fn a_poll_that_dies_before_the_event_loses_none() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        device.quiet();
        let mut next = device.again();
        drop(device);
        fence(&gateway);
        let mut visitor = asks(&gateway, get("/lamp/x"));
        next.poll();
        let event = next.event();
        assert_eq!(event.target, "/x");
        next.answer(&event, &ok("x"));
        visitor.read_answer("GET").expect_ok("x");
    }
}

/// A visitor's upload of 8 MiB, of whose event the device reads only the start before its
/// connection dies. The event's id.
#[track_caller]
fn cut_within_an_event(gateway: &Gateway, device: &Device, method: &str) -> (RawPeer, String) {
    let mut poller = device.again();
    poller.peer = RawPeer::connect_narrow(device.at);
    poller.poll();
    let mut visitor = asks(
        gateway,
        format!(
            "{method} /{}/x HTTP/1.1\r\nHost: a\r\nContent-Length: {BOUND}\r\n\r\n",
            device.name
        ),
    );
    visitor.deadline = Duration::from_secs(60);
    visitor.write(vec![b'x'; BOUND]);
    poller.peer.deadline = Duration::from_secs(60);
    let head = poller.peer.read_head();
    assert_eq!(head.status(), 200, "{}", head.text());
    let id = match device.kind {
        Text => head.get("ptth-message-id").unwrap().to_owned(),
        Json => latin1(&poller.peer.read_exact(64)).split('"').nth(3).unwrap().to_owned(),
    };
    (visitor, id)
}

#[test]
fn an_event_that_was_not_written_whole_goes_to_the_next_poll_with_its_id() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    for kind in BOTH {
        // With a session any method, without one those that are idempotent.
        for (name, method) in [("lamp", "POST"), ("lamp", "PUT"), ("desk", "PUT")] {
            let mut device = if name == "lamp" {
                Device::known(&gateway, name, kind)
            } else {
                Device::nameless(&gateway, name, kind)
            };
            if name == "desk" {
                // Its poll goes with its connection.
                let fresh = device.again();
                drop(std::mem::replace(&mut device, fresh));
                fence(&gateway);
            }
            let (mut visitor, id) = cut_within_an_event(&gateway, &device, method);
            device.peer.deadline = Duration::from_secs(60);
            device.poll();
            let event = device.event();
            assert_eq!(
                (event.id.as_str(), event.method.as_str(), event.body.len()),
                (id.as_str(), method, BOUND),
                "{kind:?} {name}"
            );
            device.answer(&event, &ok("once"));
            visitor.read_answer(method).expect_ok("once");
            device.quiet(); // and not a third time
        }
    }
}

#[test]
fn an_unsafe_event_of_a_device_without_a_session_is_not_written_twice() {
    let gateway = Gateway::start(&["--wait-for-link", "9s", "--head", "60s"]);
    for kind in BOTH {
        let device = Device::nameless(&gateway, "lamp", kind);
        let mut next = device.again();
        drop(device);
        fence(&gateway);
        let (mut visitor, id) = cut_within_an_event(&gateway, &next, "POST");
        next.poll();
        visitor.read_answer("POST").expect_refusal(502);
        next.quiet();
        let mut visitor = asks(&gateway, get("/lamp/next"));
        let event = next.event();
        assert_eq!(event.target, "/next");
        assert_ne!(event.id, id);
        next.answer(&event, &ok("next"));
        visitor.read_answer("GET").expect_ok("next");
    }
}

#[test]
fn an_event_without_an_answer_comes_once_more_after_ten_seconds() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    // Name, session, request.
    let upload = |name: &str| {
        format!("POST /{name}/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
    };
    let mut rows: Vec<(Device, RawPeer, Event, bool)> = Vec::new();
    for (name, kind, has_session, request, again) in [
        ("a", Json, true, get("/a/x"), true),
        ("b", Text, true, upload("b"), true),
        ("c", Json, true, upload("c"), true),
        ("e", Text, false, upload("e"), false),
    ] {
        let mut device = if has_session {
            Device::polling(&gateway, name, kind)
        } else {
            Device::nameless(&gateway, name, kind)
        };
        let mut visitor = asks(&gateway, request);
        visitor.deadline = Duration::from_secs(20);
        let event = device.event();
        device.peer.deadline = Duration::from_secs(20);
        rows.push((device, visitor, event, again));
    }
    let then = Instant::now();
    for (device, ..) in &mut rows {
        device.poll();
    }
    for (device, visitor, event, again) in &mut rows {
        if !*again {
            device.peer.expect_quiet(Duration::from_millis(500));
            // Its visitor still waits, or was told; the answer that comes now is not lost where
            // somebody waits for it.
            if visitor.stirs_within(Duration::from_millis(1)) {
                visitor.read_answer("POST").expect_refusal(502);
            } else {
                let mut other = device.again();
                other.answer(event, &ok("late, and whole"));
                visitor.read_answer("POST").expect_ok("late, and whole");
            }
            continue;
        }
        let copy = device.event();
        let took = then.elapsed();
        assert!(
            took > Duration::from_secs(8) && took < Duration::from_secs(13),
            "{}: it came again after {took:?}",
            device.name
        );
        assert_eq!(
            (&copy.id, &copy.target, latin1(&copy.body)),
            (&event.id, &event.target, latin1(&event.body))
        );
        device.answer(event, &ok("once"));
        visitor.read_answer(&event.method).expect_ok("once");
    }
    // Answered: none of them comes a third time.
    for (device, ..) in rows.iter_mut().filter(|row| row.3) {
        device.quiet();
        device.serves(&gateway, "the-next");
    }
}
