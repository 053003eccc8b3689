//! Two devices, one name.

use std::time::{Duration, Instant};

use super::{SESSION_A, SESSION_B, answers};
use crate::support::process::{get, offer};
use crate::support::{Gateway, RawPeer, eventually, vector};

/// Fails unless `device` gets a goaway: `OPTIONS *` with `Connection: close`, then the close.
#[track_caller]
fn is_told_to_go(device: &mut RawPeer) {
    let head = device.read_head();
    assert_eq!(head.start, "OPTIONS * HTTP/1.1");
    assert!(head.closes(), "{}", head.text());
    assert!(head.get("host").is_some(), "a reversed request always has a Host: {}", head.text());
    device.write("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    device.expect_closed();
}

#[track_caller]
fn is_conflict(gateway: &Gateway, fields: &str) {
    let mut late = gateway.dial();
    late.write(offer("lamp", fields));
    let answer = late.read_answer("POST");
    answer.expect_refusal(409);
    assert_eq!(answer.head.get("retry-after"), Some("60"), "{}", answer.head.text());
}

#[test]
fn the_newest_session_takes_the_name_over_and_the_replaced_one_does_not_get_it_back() {
    let gateway = Gateway::start(&["--wait-for-link", "100ms"]);
    let mut old = gateway.link_with("lamp", SESSION_A);
    answers(&gateway, "lamp", &mut old);
    let mut new = gateway.link_with("lamp", SESSION_B);
    is_told_to_go(&mut old);
    answers(&gateway, "lamp", &mut new);
    for _ in 0..3 {
        is_conflict(&gateway, SESSION_A);
    }
    answers(&gateway, "lamp", &mut new);
    // Another name is another matter.
    let mut other = gateway.link_with("desk", SESSION_A);
    answers(&gateway, "desk", &mut other);
    // When the successor has gone, the old session may come back.
    drop(new);
    let mut back = eventually("the old session gets the name again", || {
        let mut device = gateway.dial();
        device.write(offer("lamp", SESSION_A));
        (device.read_head().status() == 101).then_some(device)
    });
    answers(&gateway, "lamp", &mut back);
}

/// A run of a device that has ended left an offer, or a poll, which the gateway reads only after
/// those of the next run.
#[test]
fn an_offer_whose_device_has_left_takes_no_name_over() {
    let gateway = Gateway::start(&[]);
    let mut new = gateway.link_with("lamp", SESSION_B);
    answers(&gateway, "lamp", &mut new);
    let poll = format!("POST /lamp HTTP/1.1\r\nHost: gw\r\nContent-Length: 0\r\n{SESSION_A}\r\n");
    for late in [offer("lamp", SESSION_A), poll.clone()] {
        for resets in [false, true] {
            gateway.process.signal("STOP");
            let mut old = gateway.dial();
            old.write(&late);
            match resets {
                true => old.reset(),
                false => drop(old),
            }
            gateway.process.signal("CONT");
            gateway.get("/nobody/").expect_refusal(404); // what was written before has been read
            answers(&gateway, "lamp", &mut new);
        }
    }
    // Whoever takes nothing over may end its direction.
    let mut half = gateway.dial();
    half.write(poll.replace("lamp", "desk"));
    half.finish_writing();
    let mut visitor = gateway.visitor();
    visitor.write(get("/desk/x"));
    assert_eq!(half.read_answer("POST").status(), 200);
    assert!(!gateway.process.stderr().contains("replaced"), "{}", gateway.process.stderr());
}

#[test]
fn links_of_one_session_join_one_pool() {
    let gateway = Gateway::start(&[]);
    let (mut one, mut two) =
        (gateway.link_with("lamp", SESSION_A), gateway.link_with("lamp", SESSION_A));
    let (mut first, mut second) = (gateway.visitor(), gateway.visitor());
    first.write(get("/lamp/x"));
    second.write(get("/lamp/x"));
    for device in [&mut one, &mut two] {
        assert_eq!(device.read_head().target(), "/x");
    }
    one.write(vector("draft-4-response"));
    two.write(vector("draft-4-response"));
    first.read_answer("GET").expect_ok("Good");
    second.read_answer("GET").expect_ok("Good");
}

#[test]
fn a_busy_link_of_a_replaced_session_finishes_its_answer() {
    let gateway = Gateway::start(&[]);
    let mut old = gateway.link_with("lamp", SESSION_A);
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/slow"));
    assert_eq!(old.read_head().target(), "/slow");
    let mut new = gateway.link_with("lamp", SESSION_B);
    answers(&gateway, "lamp", &mut new);
    old.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
    // Now it is idle, and has to go.
    is_told_to_go_or_closed(&mut old);
    answers(&gateway, "lamp", &mut new);
}

#[track_caller]
fn is_told_to_go_or_closed(device: &mut RawPeer) {
    if let Some(head) = device.try_read_head() {
        assert_eq!(head.start, "OPTIONS * HTTP/1.1");
        assert!(head.closes(), "{}", head.text());
        device.write("HTTP/1.1 204 No Content\r\n\r\n");
    }
    device.expect_closed();
}

#[test]
fn a_busy_link_of_a_replaced_session_that_never_answers_ends_in_502_after_the_grace() {
    let gateway = Gateway::start(&[]);
    let mut old = gateway.link_with("lamp", SESSION_A);
    let mut visitor = gateway.visitor();
    visitor.deadline = Duration::from_secs(20);
    visitor.write(get("/lamp/slow"));
    assert_eq!(old.read_head().target(), "/slow");
    let then = Instant::now();
    let _new = gateway.link_with("lamp", SESSION_B);
    visitor.read_answer("GET").expect_refusal(502);
    let took = then.elapsed();
    assert!(
        took > Duration::from_secs(8) && took < Duration::from_secs(15),
        "the grace is 10 s, not {took:?}"
    );
    old.expect_closed();
}

#[test]
fn devices_without_a_session_form_one_group_asked_newest_first() {
    let gateway = Gateway::start(&[]);
    let mut links: Vec<RawPeer> = (0..3).map(|_| gateway.link("lamp")).collect();
    // All three serve at once, the newest first.
    let mut visitors: Vec<RawPeer> = Vec::new();
    for device in links.iter_mut().rev() {
        let mut visitor = gateway.visitor();
        visitor.write(get("/lamp/x"));
        assert_eq!(device.read_head().target(), "/x", "the newest idle link is asked");
        visitors.push(visitor);
    }
    for (device, visitor) in links.iter_mut().rev().zip(&mut visitors) {
        device.write(vector("draft-4-response"));
        visitor.read_answer("GET").expect_ok("Good");
    }
}

#[test]
fn a_session_replaces_a_group_and_a_group_replaces_a_session() {
    let gateway = Gateway::start(&[]);
    let (mut one, mut two) = (gateway.link("lamp"), gateway.link("lamp"));
    let mut sessioned = gateway.link_with("lamp", SESSION_A);
    is_told_to_go(&mut one);
    is_told_to_go(&mut two);
    answers(&gateway, "lamp", &mut sessioned);
    let mut foreign = gateway.link("lamp");
    is_told_to_go(&mut sessioned);
    answers(&gateway, "lamp", &mut foreign);
    is_conflict(&gateway, SESSION_A);
    answers(&gateway, "lamp", &mut foreign);
}

#[test]
fn a_held_offer_of_a_replaced_session_gets_409() {
    let gateway = Gateway::start(&["--turn", "on-demand"]);
    let mut old = gateway.dial();
    old.write(offer("lamp", SESSION_A));
    old.expect_quiet(Duration::from_millis(50));
    let mut new = gateway.dial();
    new.write(offer("lamp", SESSION_B));
    let answer = old.read_answer("POST");
    answer.expect_refusal(409);
    assert_eq!(answer.head.get("retry-after"), Some("60"));
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    assert_eq!(new.read_head().status(), 101);
    assert_eq!(new.read_head().target(), "/x");
}

#[test]
fn a_thousand_take_overs_leave_one_link_that_answers() {
    let gateway = Gateway::start(&[]);
    let take_over = |number: usize| {
        drop(gateway.link_with("lamp", &format!("PTTH-Session: {number:032x}\r\n")))
    };
    (0..100).for_each(take_over);
    let threads = gateway.process.threads(); // not before: one of them starts after the line that says where it listens
    (100..1000).for_each(take_over);
    let mut last = gateway.link_with("lamp", SESSION_A);
    answers(&gateway, "lamp", &mut last);
    assert_eq!(gateway.process.threads(), threads);
}
