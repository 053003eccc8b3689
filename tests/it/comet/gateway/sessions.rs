//! Sessions, groups and links, and offers that bring an answer.

use std::time::Duration;

use serde_json::json;

use super::Kind::{Json, Text};
use super::{
    BOTH, Device, MOMENT, answer_json, answer_text, asks, fence, in_hand, latin1, offer_with, ok,
    session,
};
use crate::support::process::get;
use crate::support::{Gateway, SWITCH, vector};

// ── Sessions, groups, links ──

#[test]
fn a_new_session_replaces_the_old_one() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    for kind in BOTH {
        let mut old = Device::polling(&gateway, "lamp", kind);
        let (mut visitor, event) = in_hand(&gateway, &mut old);
        let mut held = old.again();
        held.poll();
        held.quiet();
        let mut new = Device::known(&gateway, "lamp", kind);
        let reply = held.refused(&[409]);
        assert_eq!(reply.head.get("retry-after"), Some("60"), "{}", reply.head.text());
        visitor.read_answer("GET").expect_refusal(502);
        // Neither its answers nor its polls count while the new one is there.
        old.answer(&event, &ok("too late"));
        assert_eq!(old.refused(&[409]).head.get("retry-after"), Some("60"));
        let mut third = old.again();
        third.poll();
        third.refused(&[409]);
        new.poll();
        new.serves(&gateway, "the-new-one");
        // Another name is another matter.
        let mut desk =
            Device::with(&gateway, "desk", kind, old.fields.split_once("\r\n").unwrap().1);
        desk.poll();
        desk.nothing();
    }
}

/// A run that stops leaves: where its gateway was restarted and another run has come since, its
/// last POST takes nothing from that one.
#[test]
fn a_device_that_says_its_last_takes_no_name_over() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        let (mut visitor, event) = in_hand(&gateway, &mut device);
        let mut held = device.again();
        held.poll();
        held.quiet();
        let fields = session();
        for answers in [false, true] {
            let last = format!("{fields}PTTH-Last: 1\r\n");
            let mut stops = Device::with(&gateway, "lamp", kind, &last);
            match answers {
                false => stops.poll(),
                true => stops.answer(&event, &ok("of another run")),
            }
            stops.refused(&[409]);
        }
        held.quiet();
        device.answer(&event, &ok("its own"));
        visitor.read_answer("GET").expect_ok("its own");
        // Without the field it is a newer run.
        let mut newer = Device::with(&gateway, "lamp", kind, &fields);
        newer.poll();
        newer.nothing();
        held.refused(&[409]);
        device.refused(&[409]);
    }
}

/// The old one need not be connected still when the new one comes: its request was handed out, and
/// may have been obeyed.
#[test]
fn what_an_old_session_had_in_hand_goes_to_no_other_one_after_it_has_gone() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let mut old = Device::polling(&gateway, "lamp", Json);
    let mut visitor =
        asks(&gateway, "POST /lamp/order HTTP/1.1\r\nHost: v\r\nContent-Length: 3\r\n\r\none");
    old.event();
    drop(old);
    gateway.process.expect_stderr("lamp: down");
    let mut new = Device::polling(&gateway, "lamp", Json);
    visitor.read_answer("POST").expect_refusal(502);
    new.serves(&gateway, "the-new-one");
}

#[test]
fn a_device_that_leaves_behind_a_long_answer_is_gone_after_poll_gap() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let mut device = Device::polling(&gateway, "lamp", Json);
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    let body = vec![b'x'; 4_000_000]; // parsed on another thread, while the end of the connection comes
    device.answer(&event, &ok(&body));
    drop(device);
    visitor.read_answer("GET").expect_ok(&body);
    gateway.process.expect_stderr("lamp: down"); // 5 s later, not poll_hold and 5 s
}

#[test]
fn what_was_never_handed_out_goes_to_the_new_session() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let _old = Device::known(&gateway, "lamp", Json);
    let mut visitor = asks(&gateway, get("/lamp/x"));
    fence(&gateway);
    let mut new = Device::with(&gateway, "lamp", Json, &session());
    new.poll();
    let event = new.event();
    new.answer(&event, &ok("new"));
    visitor.read_answer("GET").expect_ok("new");
}

#[test]
fn polls_without_a_session_form_one_group_that_replaces_and_is_replaced() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let mut one = Device::nameless(&gateway, "lamp", Json);
    let mut two = one.again();
    two.poll();
    two.quiet();
    one.quiet(); // it was not replaced
    let mut sessioned = Device::polling(&gateway, "lamp", Json);
    one.refused(&[409]);
    two.refused(&[409]);
    sessioned.serves(&gateway, "a-session");
    let mut foreign = Device::with(&gateway, "lamp", Json, "");
    foreign.poll();
    assert_eq!(sessioned.refused(&[409]).head.get("retry-after"), Some("60"));
    foreign.serves(&gateway, "a-group");
}

#[test]
fn polls_and_links_of_one_session_belong_together_and_others_replace_them() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let (ours, others) = (session(), session());
    let mut link = gateway.link_with("lamp", &ours);
    let mut mailbox = Device::with(&gateway, "lamp", Json, &ours);
    mailbox.poll();
    // Its link made the session known; the first poll may be held or answered at once.
    if mailbox.peer.stirs_within(MOMENT) {
        mailbox.nothing();
        mailbox.poll();
    }
    // The idle link is preferred.
    for _ in 0..3 {
        let mut visitor = asks(&gateway, get("/lamp/link"));
        assert_eq!(link.read_head().target(), "/link");
        link.write(vector("draft-4-response"));
        visitor.read_answer("GET").expect_ok("Good");
    }
    // With the link busy the poll is used.
    let mut busy = asks(&gateway, get("/lamp/busy"));
    assert_eq!(link.read_head().target(), "/busy");
    mailbox.serves(&gateway, "poll");
    mailbox.serves(&gateway, "poll-again");
    link.write(vector("draft-4-response"));
    busy.read_answer("GET").expect_ok("Good");
    let mut visitor = asks(&gateway, get("/lamp/link"));
    assert_eq!(link.read_head().target(), "/link");
    link.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
    // A poll of another session replaces both.
    let mut new = Device::with(&gateway, "lamp", Json, &others);
    new.poll();
    new.nothing();
    mailbox.refused(&[409]);
    let head = link.read_head();
    assert_eq!(head.start, "OPTIONS * HTTP/1.1");
    assert!(head.closes(), "{}", head.text());
    link.write("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    link.expect_closed();
    new.poll();
    new.serves(&gateway, "the-new-one");
    // And a link of yet another session replaces polls.
    let mut link = gateway.link_with("lamp", &session());
    new.refused(&[409]);
    let mut visitor = asks(&gateway, get("/lamp/link"));
    assert_eq!(link.read_head().target(), "/link");
    link.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
}

#[test]
fn a_visitor_who_waits_takes_whatever_comes_first() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let ours = session();
    let mut device = Device::with(&gateway, "lamp", Json, &ours);
    device.poll();
    device.nothing();
    // A link comes.
    let mut visitor = asks(&gateway, get("/lamp/x"));
    fence(&gateway);
    let mut link = gateway.link_with("lamp", &ours);
    assert_eq!(link.read_head().target(), "/x");
    // It is busy, and a poll comes.
    let mut second = asks(&gateway, get("/lamp/y"));
    fence(&gateway);
    device.poll();
    let event = device.event();
    assert_eq!(event.target, "/y");
    device.answer(&event, &ok("y"));
    second.read_answer("GET").expect_ok("y");
    link.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
}

#[test]
fn an_offer_that_brings_an_answer_is_handled_and_then_turns() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    for kind in BOTH {
        for expects in [false, true] {
            let mut device = Device::polling(&gateway, "lamp", kind);
            let (mut visitor, event) = in_hand(&gateway, &mut device);
            let body = match kind {
                Json => answer_json(&event, &ok("brought")),
                Text => answer_text(&ok("brought"), false),
            };
            let expect = if expects { "Expect: 100-continue\r\n" } else { "" };
            let fields = format!("PTTH-Message-ID: {}\r\n{expect}", event.id);
            let whole = offer_with(&device, kind.media_type(), &fields, &body);
            let (head, body) = whole.split_at(whole.len() - body.len());
            device.peer.write(head);
            if expects {
                assert_eq!(device.peer.read_head().start, "HTTP/1.1 100 Continue");
            }
            device.peer.write(body);
            assert_eq!(latin1(&device.peer.read_exact(SWITCH.len())), latin1(SWITCH), "{kind:?}");
            visitor.read_answer("GET").expect_ok("brought");
            // It is a link now.
            let mut visitor = asks(&gateway, get("/lamp/link"));
            assert_eq!(device.peer.read_head().target(), "/link");
            device.peer.write(vector("draft-4-response"));
            visitor.read_answer("GET").expect_ok("Good");
        }
    }
}

#[test]
fn an_offer_that_brings_nothing_or_an_answer_to_nothing_turns() {
    let gateway = Gateway::start(&[]);
    let unknown = json!({"message-id": "0".repeat(32), "status": 200, "body": "x"}).to_string();
    for (number, body) in ["{}", "null", &unknown].into_iter().enumerate() {
        let mut device = Device::with(&gateway, &format!("d{number}"), Json, &session());
        device.peer.write(offer_with(&device, "application/json", "", body));
        assert_eq!(latin1(&device.peer.read_exact(SWITCH.len())), latin1(SWITCH), "{body}");
        let mut visitor = asks(&gateway, get(&format!("/d{number}/x")));
        assert_eq!(device.peer.read_head().target(), "/x");
        device.peer.write(vector("draft-4-response"));
        visitor.read_answer("GET").expect_ok("Good");
    }
}

/// A gateway that was started again gets the answer that the previous one had asked for; the device
/// must not wait a hold long to learn that it is connected again.
#[test]
fn a_first_post_with_an_old_answer_is_told_at_once_and_the_next_poll_is_held() {
    let gateway = Gateway::start(&[]);
    let mut device = Device::with(&gateway, "lamp", Json, &session());
    let old = json!({"message-id": "0".repeat(32), "status": 200, "body": "x"}).to_string();
    device.post("application/json", "", old);
    device.nothing();
    device.poll();
    device.peer.expect_quiet(Duration::from_millis(50));
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    device.post("application/json", "", latin1(&answer_json(&event, &ok("right"))));
    visitor.read_answer("GET").expect_ok("right");
    device.peer.expect_quiet(Duration::from_millis(50));
}

#[test]
fn an_offer_that_brings_anything_else_does_not_turn() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let mut device = Device::polling(&gateway, "lamp", Json);
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    let right = latin1(&answer_json(&event, &ok("right")));
    for (content_type, body, behind) in [
        ("text/html", "<p>", ""),
        ("application/x-www-form-urlencoded", "a=b", ""),
        ("application/json", "hello", ""),
        ("application/json", "[]", ""),
        ("application/json", "{\"status\": 200}", ""),
        ("application/json", "{\"message-id\": \"x\", \"message-id\": \"x\"}", ""),
        ("text/plain", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
        // T6: what comes after the body and before the 101.
        ("application/json", "{}", "X"),
        ("application/json", "{}", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let mut other = device.again();
        other.peer.write([offer_with(&device, content_type, "", body), behind.into()].concat());
        other.refused(&[400, 415]);
        other.peer.expect_closed();
    }
    visitor.expect_quiet(Duration::from_millis(20));
    device.peer.write(offer_with(&device, "application/json", "", right));
    assert_eq!(latin1(&device.peer.read_exact(SWITCH.len())), latin1(SWITCH));
    visitor.read_answer("GET").expect_ok("right");
}

#[test]
fn on_demand_an_answer_that_an_offer_brings_is_handled_before_it_is_held() {
    let gateway = Gateway::start(&["--turn", "on-demand", "--wait-for-link", "9s"]);
    let mut device = Device::polling(&gateway, "lamp", Json);
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    device.peer.write(offer_with(
        &device,
        "application/json",
        "",
        answer_json(&event, &ok("brought")),
    ));
    visitor.read_answer("GET").expect_ok("brought");
    device.quiet();
    let mut visitor = asks(&gateway, get("/lamp/now"));
    let both = device.peer.read_exact(SWITCH.len());
    assert_eq!(latin1(&both), latin1(SWITCH));
    assert_eq!(device.peer.read_head().target(), "/now");
    device.peer.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
}

#[test]
fn a_visitors_upgrade_does_not_go_through_a_mailbox() {
    let gateway = Gateway::start(&[]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        let mut visitor = asks(
            &gateway,
            "GET /lamp/socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        visitor.read_answer("GET").expect_refusal(501);
        device.quiet();
        device.serves(&gateway, "plain");
    }
}
