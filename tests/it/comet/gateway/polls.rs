//! The seed's transcript, and what polls are answered.

use std::time::{Duration, Instant};

use super::Kind::{Json, Text};
use super::{
    BOTH, Device, Event, MOMENT, answer_json, asks, fence, in_hand, is_nothing, latin1, ok, poll,
    session,
};
use crate::support::process::get;
use crate::support::{Gateway, Head, each_row, slack, vector};

// ── The seed's transcript ──

#[test]
fn the_seeds_device_is_served_as_its_transcript_prints_it() {
    let gateway = Gateway::start(&["--poll-hold", "1s", "--wait-for-link", "9s"]);
    let mut device = gateway.dial();
    // comet-1: held, since it has no session; then comet-4.
    let then = Instant::now();
    device.write(vector("comet-1-poll"));
    let nothing = device.read_answer("POST");
    assert!(then.elapsed() >= Duration::from_millis(900), "it was not held");
    let comet_4 = vector("comet-4-nothing");
    assert_eq!(nothing.body, Head::split(&comet_4).1);
    assert_eq!(
        (nothing.head.get("content-type"), nothing.head.get("content-length")),
        (Some("application/json"), Some("2"))
    );
    is_nothing(&nothing, Json);
    // comet-2: what a visitor asked.
    let mut visitor = asks(
        &gateway,
        "GET /default/ HTTP/1.1\r\nHost: 127.0.0.1:65331\r\nAccept-Encoding: identity\r\nAccept: text/plain;q=1,*/*;q=0\r\n\r\n",
    );
    device.write(vector("comet-1-poll"));
    let event = Event::of(device.read_answer("POST"));
    assert_eq!(
        (event.kind, event.method.as_str(), event.target.as_str(), event.body.as_slice()),
        (Json, "GET", "/", &b""[..])
    );
    assert_eq!(event.get("host"), Some("127.0.0.1:65331"));
    assert_eq!(event.get("accept-encoding"), Some("identity"));
    assert_eq!(event.get("accept"), Some("text/plain;q=1,*/*;q=0"));
    let opening = format!(
        "{{\"message-id\": \"{}\", \"method\": \"GET\", \"request-uri\": \"/\", \"http-version\": \"PTTH/1.0\", \"headers\": [[\"Host\", \"127.0.0.1:65331\"], ",
        event.id
    );
    assert!(
        event.bytes.starts_with(opening.as_bytes()),
        "the seed's order and spacing: {}",
        latin1(&event.bytes)
    );
    // comet-3, with the id that it was given, on the same connection.
    device.write(seeds_answer(&event.id));
    let answer = visitor.read_answer("GET");
    answer.expect_ok("!dlrow ,olleH");
    assert_eq!(answer.head.start, "HTTP/1.1 200 OK");
    assert_eq!(answer.head.get("content-type"), Some("text/plain"));
    assert_eq!(answer.head.get("date"), Some("Tue, 13 May 2008 20:14:45 GMT"));
    assert_eq!(answer.head.get("content-length"), Some("13"));
    // comet-4 once more: nothing came.
    is_nothing(&device.read_answer("POST"), Json);
}

/// comet-3 with this id in place of `xxx`.
fn seeds_answer(id: &str) -> Vec<u8> {
    let (head, body) = (vector("comet-3-answer"), vector("comet-3-answer"));
    let (head, body) = (
        Head::split(&head).0.text(),
        latin1(Head::split(&body).1).replace("\"xxx\"", &format!("\"{id}\"")),
    );
    (head.replace("Content-length: 193", &format!("Content-length: {}", body.len())) + &body)
        .into_bytes()
}

#[test]
fn the_seeds_device_is_served_by_other_polls_and_connections_too() {
    let gateway = Gateway::start(&[]);
    let mut device = Device::nameless(&gateway, "default", Json);
    for _ in 0..3 {
        let mut visitor = asks(&gateway, get("/default/x"));
        let event = device.event();
        let mut other = gateway.dial();
        other.write(seeds_answer(&event.id));
        visitor.read_answer("GET").expect_ok("!dlrow ,olleH");
        // The answer is a poll; that one is used up here, so that the next event comes to the
        // device.
        let mut visitor = asks(&gateway, get("/default/y"));
        let event = Event::of(other.read_answer("POST"));
        assert_eq!(event.target, "/y");
        device.answer(&event, &ok("y"));
        visitor.read_answer("GET").expect_ok("y");
    }
}

// ── Polls and what they are answered ──

#[test]
fn the_first_poll_of_a_session_is_answered_at_once_and_the_next_is_held() {
    let gateway = Gateway::start(&[]);
    for kind in BOTH {
        let mut device = Device::with(&gateway, "lamp", kind, &session());
        let then = Instant::now();
        device.poll();
        device.nothing();
        assert!(then.elapsed() < Duration::from_secs(4) + slack(), "it was held");
        device.poll();
        device.quiet();
        device.serves(&gateway, "held");
        device.quiet();
        // Another connection of the same session is no new session.
        let mut other = device.again();
        other.poll();
        other.quiet();
        // Without a session it is held from the first one on.
        let mut nameless = Device::with(&gateway, "desk", kind, "");
        nameless.poll();
        nameless.quiet();
    }
}

#[test]
fn a_visitor_who_waits_already_is_the_answer_to_a_sessions_first_poll() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    for kind in BOTH {
        drop(Device::known(&gateway, "lamp", kind));
        let mut visitor = asks(&gateway, get("/lamp/early"));
        fence(&gateway);
        let mut device = Device::with(&gateway, "lamp", kind, &session());
        device.poll();
        let event = device.event();
        assert_eq!(event.target, "/early");
        device.answer(&event, &ok("at last"));
        visitor.read_answer("GET").expect_ok("at last");
    }
}

#[test]
fn a_poll_is_held_for_its_time_and_the_next_comes_on_the_same_connection() {
    let gateway = Gateway::start(&["--poll-hold", "300ms"]);
    for kind in BOTH {
        let mut device = Device::known(&gateway, "lamp", kind);
        for _ in 0..3 {
            let then = Instant::now();
            device.poll();
            let reply = device.peer.read_answer("POST");
            is_nothing(&reply, kind);
            assert!(!reply.head.closes(), "{}", reply.head.text());
            let held = then.elapsed();
            assert!(
                held >= Duration::from_millis(250) && held < Duration::from_secs(5),
                "it was held for {held:?}"
            );
        }
        device.peer.write(poll("lamp", &format!("{}Connection: close\r\n", device.fields)));
        let reply = device.peer.read_answer("POST");
        is_nothing(&reply, kind);
        assert!(reply.head.closes(), "{}", reply.head.text());
        device.peer.expect_closed();
    }
}

#[test]
fn pollers_of_http_1_0_are_served() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let upgrade = "Upgrade: PTTH/1.0\r\nConnection: Upgrade\r\n";
    for (number, fields) in ["", upgrade, "Connection: close\r\n"].into_iter().enumerate() {
        let name = format!("v{number}");
        // Known, and not polling: it has an event in hand.
        let mut known = Device::nameless(&gateway, &name, Json);
        let (mut first, first_event) = in_hand(&gateway, &mut known);
        let mut curl = gateway.dial();
        curl.write(format!(
            "POST /{name} HTTP/1.0\r\nHost: 127.0.0.1:9999\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 0\r\n{fields}\r\n"
        ));
        let mut visitor = asks(&gateway, get(&format!("/{name}/x")));
        let event = Event::of(curl.read_answer("POST"));
        assert_eq!((event.kind, event.target.as_str()), (Json, "/x"));
        curl.expect_closed();
        // The answer, in HTTP/1.0 too, is the next poll.
        let body = answer_json(&event, &ok("done"));
        let head = format!(
            "POST /{name} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut curl = gateway.dial();
        curl.write([head.as_bytes(), &body].concat());
        visitor.read_answer("GET").expect_ok("done");
        curl.expect_quiet(MOMENT);
        let mut visitor = asks(&gateway, get(&format!("/{name}/y")));
        let event = Event::of(curl.read_answer("POST"));
        curl.expect_closed();
        known.answer(&event, &ok("y"));
        visitor.read_answer("GET").expect_ok("y");
        let mut other = known.again();
        other.answer(&first_event, &ok("first"));
        first.read_answer("GET").expect_ok("first");
    }
    // Kept where that was asked for.
    let gateway = Gateway::start(&["--poll-hold", "100ms"]);
    let mut device = gateway.dial();
    for _ in 0..3 {
        device.write("POST /lamp HTTP/1.0\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n");
        let reply = device.read_answer("POST");
        is_nothing(&reply, Json);
        assert_eq!(
            reply.head.get("connection").map(str::to_lowercase).as_deref(),
            Some("keep-alive"),
            "{}",
            reply.head.text()
        );
    }
}

#[test]
fn accept_chooses_the_encoding() {
    let gateway = Gateway::start(&[]);
    let rows = [
        ("", Json),
        ("Accept: */*\r\n", Json),
        ("Accept: application/json\r\n", Json),
        ("Accept: message/http\r\n", Text),
        ("Accept: message/http, application/json\r\n", Text),
        ("Accept: application/json, message/http\r\n", Json),
        ("Accept: message/http;q=0.1, application/json;q=1\r\n", Text),
        ("Accept: message/http;q=0, application/json\r\n", Json),
        ("Accept: application/json;q=0, message/http\r\n", Text),
        ("Accept: message/http;q=0\r\n", Json),
        ("Accept: text/html, */*;q=0.8\r\nAccept: MESSAGE/HTTP\r\n", Text),
        ("Accept: text/plain\r\n", Json),
    ];
    each_row(
        &rows,
        |(fields, _)| (*fields).to_owned(),
        |(fields, kind)| {
            let mut device = gateway.dial();
            device.write(poll("lamp", &format!("{fields}{}", session())));
            is_nothing(&device.read_answer("POST"), *kind);
        },
    );
    // The encoding is each poll's own.
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let mut device = Device::polling(&gateway, "lamp", Json);
    for kind in [Text, Json, Text] {
        let (mut visitor, event) = in_hand(&gateway, &mut device);
        let mut other = device.again();
        other.kind = kind;
        other.fields = other.fields.replace(device.kind.media_type(), kind.media_type());
        other.answer(&event, &ok("x"));
        visitor.read_answer("GET").expect_ok("x");
        device = other;
    }
}
