//! Secrets, scale, and the end of a gateway.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::Kind::{Json, Text};
use super::{
    BOTH, Device, Event, answer_json, asks, fence, in_hand, latin1, offer_with, ok, poll, post,
    reply, session,
};
use crate::engine::scale::affordable;
use crate::support::process::get;
use crate::support::{DEADLINE, Gateway, RawPeer, say};

// ── Secrets, scale, the end ──

#[test]
fn no_credential_reaches_the_log() {
    // T23, at the level that says most.
    let mut gateway = Gateway::start_with_env(&["--wait-for-link", "9s"], &[("RUST_LOG", "trace")]);
    let secret = "Authorization: Bearer s3cret-of-the-device\r\nCookie: s3cret=1\r\n";
    for kind in BOTH {
        let mut device = Device::with(&gateway, "lamp", kind, &format!("{}{secret}", session()));
        device.poll();
        device.nothing();
        device.poll();
        let mut visitor = asks(
            &gateway,
            "GET /lamp/x HTTP/1.1\r\nHost: a\r\nAuthorization: Basic s3cret-of-the-visitor\r\nCookie: s3cret=2\r\n\r\n",
        );
        let event = device.event();
        assert_eq!(event.get("authorization"), Some("Basic s3cret-of-the-visitor"));
        for (content_type, body) in [
            ("application/json", "s3cret"),
            ("application/json", "{\"message-id\": \"x\", \"headers\": \"Set-Cookie: s3cret\"}"),
            ("application/json", "{\"message-id\": \"x\", \"status\": \"s3cret\"}"),
            ("text/html", "s3cret"),
            ("message/http", "HTTP/1.1 200 OK\r\nSet-Cookie: s3cret\r\n\r\ns3cret"),
        ] {
            let mut other = device.again();
            other.post(content_type, &format!("PTTH-Message-ID: {}\r\n", event.id), body);
            other.refused(&[400, 415]);
        }
        let mut page = gateway.dial();
        page.write(poll("lamp", &format!("{secret}Origin: https://evil.example\r\n")));
        page.read_answer("POST").expect_refusal(403);
        device.answer(&event, &reply(200, "OK", &[("Set-Cookie", "s3cret=3")], "s3cret"));
        visitor.read_answer("GET").expect_ok("s3cret");
        let mut new = Device::with(&gateway, "lamp", kind, &format!("{}{secret}", session()));
        new.poll();
        new.nothing();
        device.refused(&[409]);
    }
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit_code_within(Duration::from_secs(20)), 0);
    let said = gateway.process.stderr();
    assert!(!said.contains("s3cret"), "{said}");
    assert!(!said.is_empty(), "at this level it should have said something");
}

#[test]
fn held_polls_cost_no_thread_and_little_memory() {
    let wish = affordable(1_000);
    let gateway = Gateway::start(&["--poll-hold", "120s"]);
    let mut few: Vec<Device> =
        (0..3).map(|i| Device::polling(&gateway, &format!("few-{i}"), Json)).collect();
    few.iter_mut().for_each(|device| device.serves(&gateway, "warm"));
    let bare = |name: String| {
        let mut stream = TcpStream::connect(gateway.devices).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let fields = session();
        stream.write_all(poll(&name, &fields).as_bytes()).unwrap();
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n{}") {
            let mut byte = [0; 1024];
            let n = stream.read(&mut byte).unwrap_or_else(|e| panic!("poll of {name}: {e}"));
            assert!(n > 0, "poll of {name}: closed behind {}", latin1(&bytes));
            bytes.extend_from_slice(&byte[..n]);
        }
        stream.write_all(poll(&name, &fields).as_bytes()).unwrap();
        (stream, fields)
    };
    fence(&gateway);
    let (threads, memory) = (gateway.process.threads(), gateway.process.resident_kib());
    let held: Vec<(TcpStream, String)> = (0..wish).map(|i| bare(format!("many-{i}"))).collect();
    fence(&gateway);
    let with_polls = (gateway.process.threads(), gateway.process.resident_kib());
    assert_eq!(with_polls.0, threads, "threads with {wish} held polls, and with three");
    let each = (with_polls.1.saturating_sub(memory) * 1024) as f64 / wish as f64;
    say(&format!(
        "held polls: {wish} polls, {} threads (3 polls: {threads}), resident {} KiB (3 polls: {memory} KiB): {each:.0} bytes each",
        with_polls.0, with_polls.1
    ));
    assert!(each < 4096.0, "{each:.0} bytes of resident memory for each held poll");
    // Each of them is one that works.
    for i in [0, wish / 2, wish - 1] {
        let mut visitor = asks(&gateway, get(&format!("/many-{i}/x")));
        let (stream, fields) = &held[i];
        let mut peer = RawPeer::adopt(stream.try_clone().unwrap(), "device");
        let event = Event::of(peer.read_answer("POST"));
        assert_eq!(event.target, "/x");
        peer.write(post(
            &format!("many-{i}"),
            fields,
            "application/json",
            answer_json(&event, &ok("x")),
        ));
        visitor.read_answer("GET").expect_ok("x");
    }
    few.iter_mut().for_each(|device| device.serves(&gateway, "still"));
    drop(held);
}

#[test]
fn sigterm_ends_held_polls_and_lets_exchanges_finish() {
    let mut gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let mut held = Vec::new();
    for (name, kind) in [("a", Json), ("b", Text)] {
        let mut device = Device::polling(&gateway, name, kind);
        device.serves(&gateway, "before");
        held.push(device);
    }
    let mut busy = Vec::new();
    for (name, kind) in [("c", Json), ("d", Text)] {
        let mut device = Device::polling(&gateway, name, kind);
        let (visitor, event) = in_hand(&gateway, &mut device);
        busy.push((device, visitor, event));
    }
    gateway.process.signal("TERM");
    for device in &mut held {
        let reply = device.refused(&[503]);
        assert!(reply.head.get("retry-after").is_some(), "{}", reply.head.text());
    }
    // What is in hand is answered on the connection that is there.
    for (device, visitor, event) in &mut busy {
        device.answer(event, &ok("the last one"));
        visitor.read_answer("GET").expect_ok("the last one");
        let reply = device.refused(&[503]);
        assert!(reply.head.get("retry-after").is_some(), "{}", reply.head.text());
    }
    assert_eq!(gateway.process.exit_code_within(Duration::from_secs(15)), 0);
}

/// Who waited for a poll when the gateway was told to stop is served like who waits for a link:
/// by the next answer's poll, and only then is its device sent away.
#[test]
fn sigterm_leaves_nobody_in_line() {
    let mut gateway = Gateway::start(&["--wait-for-link", "60s", "--drain-timeout", "60s"]);
    let mut busy = Vec::new();
    for (name, kind) in [("a", Json), ("b", Text)] {
        let mut device = Device::polling(&gateway, name, kind);
        let (visitor, event) = in_hand(&gateway, &mut device);
        let next = asks(&gateway, get(&format!("/{name}/next")));
        let upload = format!("POST /{name}/up HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n");
        busy.push((device, visitor, event, next, asks(&gateway, upload)));
    }
    fence(&gateway);
    gateway.process.signal("TERM");
    gateway.process.expect_stderr("stopping");
    for (device, visitor, event, next, upload) in &mut busy {
        device.answer(event, &ok("in hand"));
        visitor.read_answer("GET").expect_ok("in hand");
        let event = device.event();
        assert_eq!(event.target, "/next");
        // A poll cannot wait for a body that has not come.
        device.answer(&event, &ok("in line"));
        next.read_answer("GET").expect_ok("in line");
        device.refused(&[503]);
        upload.write("hi");
        upload.read_answer("POST").expect_refusal(503);
    }
    assert_eq!(gateway.process.exit_code_within(Duration::from_secs(15)), 0);
}

/// A device that stops says so with the answer that it brings last: it is handed nothing, and
/// need not wait until its poll would have been held.
#[test]
fn a_device_that_says_its_last_is_handed_nothing_and_answered_at_once() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        let (mut visitor, event) = in_hand(&gateway, &mut device);
        let mut next = asks(&gateway, get("/lamp/next"));
        fence(&gateway);
        let mut other = device.again();
        let fields = device.fields.clone();
        device.fields += "PTTH-Last: 1\r\n";
        device.answer(&event, &ok("bye"));
        visitor.read_answer("GET").expect_ok("bye");
        device.nothing();
        device.peer.expect_closed();
        other.fields = fields;
        other.poll();
        let event = other.event();
        assert_eq!(event.target, "/next");
        other.answer(&event, &ok("served"));
        next.read_answer("GET").expect_ok("served");
    }
    // It is not upgraded either.
    let mut device = Device::with(&gateway, "desk", Json, &session());
    device.peer.write(offer_with(&device, "application/json", "PTTH-Last: 1\r\n", "{}"));
    device.nothing();
    device.peer.expect_closed();
}

/// Its idle links are sent home, and no other session's.
#[test]
fn a_device_that_says_its_last_has_its_idle_links_sent_home() {
    let gateway = Gateway::start(&["--wait-for-link", "9s", "--shared-names"]);
    let (leaves, stays) = (session(), session());
    let mut links = [gateway.link_with("lamp", &leaves), gateway.link_with("lamp", &leaves)];
    let mut other = gateway.link_with("lamp", &stays);
    let last = format!("{leaves}PTTH-Last: 1\r\n");
    let mut device = Device::with(&gateway, "lamp", Json, &last);
    device.poll();
    device.nothing();
    for link in &mut links {
        let head = link.read_head();
        assert_eq!(
            (head.target(), head.get("connection")),
            ("*", Some("close")),
            "{}",
            head.text()
        );
        link.write("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
        link.expect_closed();
    }
    let mut visitor = asks(&gateway, get("/lamp/x"));
    assert_eq!(other.read_head().target(), "/x");
    other.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    visitor.read_answer("GET").expect_ok("ok");
}

/// However the last event in hand ends: connections that were kept for answers are waited for no
/// longer.
#[test]
fn sigterm_waits_for_no_answer_that_nobody_wants() {
    let mut gateway = Gateway::start(&["--wait-for-link", "9s", "--drain-timeout", "30s"]);
    let mut one = Device::polling(&gateway, "lamp", Json);
    let (mut visitor, event) = in_hand(&gateway, &mut one);
    let mut other = one.again();
    other.poll();
    let (left, _) = in_hand(&gateway, &mut other);
    gateway.process.signal("TERM");
    gateway.process.expect_stderr("stopping");
    left.reset();
    // The other answer is too long to be taken, so its visitor is told, and nothing is in hand any
    // more.
    one.peer.write(format!(
        "POST /lamp HTTP/1.1\r\nHost: gw\r\nContent-Type: application/json\r\nPTTH-Message-ID: {}\r\nContent-Length: 9000000\r\n{}\r\n",
        event.id, one.fields
    ));
    visitor.read_answer("GET").expect_refusal(502);
    one.refused(&[413]);
    other.peer.expect_end();
    assert_eq!(gateway.process.exit_code_within(Duration::from_secs(8)), 0);
}
