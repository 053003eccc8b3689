//! On-demand turns.

use std::time::{Duration, Instant};

use super::text;
use crate::support::process::{get, offer};
use crate::support::raw::find;
use crate::support::{Gateway, Head, SWITCH, eventually, vector};

// ── On-demand turn ──

#[test]
fn on_demand_holds_the_offer_and_turns_it_with_the_request_in_one_write() {
    let gateway = Gateway::start(&["--turn", "on-demand"]);
    let mut device = gateway.dial();
    device.write(offer("lamp", ""));
    device.expect_quiet(Duration::from_millis(150));
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/now"));
    let both = device.read_once();
    assert!(both.starts_with(SWITCH), "{:?}", text(&both));
    let request = Head::parse(&both[SWITCH.len()..]);
    assert_eq!(request.start, "GET /now HTTP/1.1", "101 and request come in one segment");
    device.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
    // A turned link is a link like any other.
    visitor.write(get("/lamp/again"));
    assert_eq!(device.read_head().target(), "/again");
    device.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
}

#[test]
fn on_demand_answers_204_when_nobody_asked_and_the_device_offers_again_on_the_same_connection() {
    let gateway = Gateway::start(&["--turn", "on-demand", "--poll-hold", "300ms"]);
    let mut device = gateway.dial();
    for _ in 0..3 {
        let then = Instant::now();
        device.write(offer("lamp", ""));
        let head = device.read_head();
        assert_eq!(head.status(), 204, "{}", head.text());
        assert_eq!(
            (head.get("content-length"), head.get("transfer-encoding")),
            (None, None),
            "{}",
            head.text()
        );
        assert!(!head.closes(), "{}", head.text());
        assert!(then.elapsed() >= Duration::from_millis(250), "it was not held");
    }
    device.write(offer("lamp", ""));
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/now"));
    // The visitor may have come before the offer or after a further 204: both are right, once.
    let mut head = device.read_head();
    if head.status() == 204 {
        device.write(offer("lamp", ""));
        head = device.read_head();
    }
    assert_eq!(head.status(), 101);
    assert_eq!(device.read_head().target(), "/now");
    device.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
    // An operator reads once that it came, and once that it went.
    let said = |what: &str| gateway.process.stderr().matches(what).count();
    gateway.process.expect_stderr("lamp: up");
    assert_eq!((said("lamp: up"), said("lamp: down")), (1, 0), "{}", gateway.process.stderr());
    drop(device);
    gateway.process.expect_stderr("lamp: down: closed: ");
}

#[test]
fn on_demand_serves_a_visitor_who_came_first() {
    let gateway =
        Gateway::start(&["--turn", "on-demand", "--poll-hold", "200ms", "--wait-for-link", "8s"]);
    let mut device = gateway.dial();
    device.write(offer("lamp", ""));
    assert_eq!(device.read_head().status(), 204);
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/first"));
    visitor.expect_quiet(Duration::from_millis(100));
    device.write(offer("lamp", ""));
    let both = device.read_once();
    assert!(
        both.starts_with(SWITCH) && find(&both, b"GET /first HTTP/1.1\r\n").is_some(),
        "{:?}",
        text(&both)
    );
    device.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
}

#[test]
fn bytes_behind_a_held_offer_are_refused() {
    let gateway = Gateway::start(&["--turn", "on-demand", "--wait-for-link", "50ms"]);
    for late in ["X", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", &offer("lamp", "")] {
        let mut device = gateway.dial();
        device.write(offer("lamp", ""));
        device.expect_quiet(Duration::from_millis(50));
        device.write(late);
        device.read_answer("POST").expect_refusal(400);
        device.expect_closed();
        gateway.get("/lamp/").expect_refusal(503);
    }
}

#[test]
fn a_device_that_leaves_while_its_offer_is_held_is_not_asked() {
    let gateway = Gateway::start(&["--turn", "on-demand", "--wait-for-link", "100ms"]);
    let mut device = gateway.dial();
    device.write(offer("lamp", ""));
    device.expect_quiet(Duration::from_millis(50));
    drop(device);
    eventually("the gateway noticed", || (gateway.get("/lamp/").status() == 503).then_some(()));
    // Nor is one that leaves where it should offer again.
    let gateway = Gateway::start(&[
        "--turn",
        "on-demand",
        "--poll-hold",
        "100ms",
        "--wait-for-link",
        "100ms",
    ]);
    let mut device = gateway.dial();
    device.write(offer("lamp", ""));
    assert_eq!(device.read_head().status(), 204);
    drop(device);
    gateway.process.expect_stderr("lamp: down: absent: ");
}
