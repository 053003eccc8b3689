//! The life of a link.

use std::time::Duration;

use super::answers;
use crate::support::process::get;
use crate::support::{Gateway, LocalServer, eventually, vector};

// ── The life of a link ──

#[test]
fn an_idle_link_gets_a_heartbeat_and_any_complete_answer_proves_life() {
    let gateway = Gateway::start(&["--heartbeat", "150ms", "--heartbeat-timeout", "5s"]);
    let mut device = gateway.link("lamp");
    for answer in [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n",
        "HTTP/1.1 501 Not Implemented\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    ] {
        let head = device.read_head();
        assert_eq!(head.start, "OPTIONS * HTTP/1.1");
        assert!(head.get("host").is_some(), "{}", head.text());
        assert!(!head.closes(), "{}", head.text());
        assert_eq!(head.get("content-length").unwrap_or("0"), "0");
        device.write(answer);
    }
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    let mut head = device.read_head();
    if head.method() == "OPTIONS" {
        device.write("HTTP/1.1 204 No Content\r\n\r\n");
        head = device.read_head();
    }
    assert_eq!(head.target(), "/x");
    device.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
}

#[test]
fn a_heartbeat_without_an_answer_closes_the_link() {
    let gateway = Gateway::start(&[
        "--heartbeat",
        "100ms",
        "--heartbeat-timeout",
        "200ms",
        "--wait-for-link",
        "50ms",
    ]);
    let mut silent = gateway.link("lamp");
    assert_eq!(silent.read_head().method(), "OPTIONS");
    silent.expect_closed();
    gateway.get("/lamp/").expect_refusal(503);
    // An answer that is not whole is none.
    let mut half = gateway.link("lamp");
    assert_eq!(half.read_head().method(), "OPTIONS");
    half.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel");
    half.expect_closed();
}

#[test]
fn heartbeats_can_be_turned_off() {
    let gateway = Gateway::start(&["--heartbeat", "0s"]);
    gateway.link("lamp").expect_quiet(Duration::from_millis(500));
}

#[test]
fn unasked_bytes_on_an_idle_link_close_it_and_are_never_an_answer() {
    let gateway = Gateway::start(&["--wait-for-link", "100ms"]);
    let forged = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";
    for bytes in [forged, "X", "<3", "\r\nHTTP/1.1 200 OK\r\n\r\n", "\0"] {
        let mut device = gateway.link("lamp");
        device.write(bytes);
        device.expect_closed();
        gateway.get("/lamp/").expect_refusal(503);
    }
    // A stray line end is tolerated (RFC 9112 §9.2).
    let mut device = gateway.link("lamp");
    for _ in 0..3 {
        device.write("\r\n");
        answers(&gateway, "lamp", &mut device);
    }
}

#[test]
fn empty_lines_between_two_messages_are_bounded() {
    let gateway = Gateway::start(&["--heartbeat", "0s", "--wait-for-link", "100ms"]);
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    // As many as are ignored, before each of several requests: the count begins anew. They come at
    // once, and a POST after a look at what has come.
    for _ in 0..3 {
        device.write("\r\n".repeat(32));
        visitor.write("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(device.read_head().target(), "/x");
        device.write(vector("draft-4-response"));
        visitor.read_answer("POST").expect_ok("Good");
    }
    // A byte more, at once and one by one.
    for pieces in [vec!["\n".repeat(65)], vec!["\n".to_owned(); 65]] {
        let mut device = gateway.link("lamp");
        for piece in pieces {
            let _ = device.try_write(piece); // it may be closed meanwhile
        }
        device.expect_closed();
    }
    gateway.process.expect_stderr("more than 64 bytes of empty lines came between two messages");
    device.write("\r\n".repeat(33));
    device.expect_closed();
    visitor.ask(&get("/lamp/x")).expect_refusal(503);
}

#[test]
fn connection_close_in_an_answer_ends_the_link_after_it() {
    let gateway = Gateway::start(&["--wait-for-link", "50ms"]);
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    device.read_head();
    device.write("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    let answer = visitor.read_answer("GET");
    answer.expect_ok("ok");
    assert!(
        !answer.head.closes(),
        "the device's Connection is the link's own, not the visitor's: {}",
        answer.head.text()
    );
    device.expect_closed();
    visitor.ask(&get("/lamp/y")).expect_refusal(503);
}

#[test]
fn a_link_that_the_device_closes_is_known_to_be_gone() {
    let gateway = Gateway::start(&["--wait-for-link", "50ms"]);
    let device = gateway.link("lamp");
    drop(device);
    eventually("the gateway noticed", || (gateway.get("/lamp/").status() == 503).then_some(()));
    let device = gateway.link("lamp");
    device.finish_writing();
    eventually("the gateway noticed the half-close", || {
        (gateway.get("/lamp/").status() == 503).then_some(())
    });
}

#[test]
fn many_devices_beside_each_other_are_not_confused() {
    let gateway = Gateway::start(&[]);
    let devices: Vec<(String, LocalServer)> = (0..30)
        .map(|i| {
            let name = format!("d{i}");
            let said = name.clone();
            (name.clone(), LocalServer::device(&gateway, &name, 2, move |c| c.text(&said)))
        })
        .collect();
    let mut visitor = gateway.visitor();
    for round in 0..3 {
        for (name, _) in &devices {
            visitor.ask(&get(&format!("/{name}/{round}"))).expect_ok(name);
        }
    }
    assert!(devices.iter().all(|(_, d)| d.count() == 3));
}
