//! Options, and pages of other origins (T46).

use serde_json::json;

use super::Kind::{Json, Text};
use super::{
    BOTH, Device, Event, MOMENT, answer_json, answer_text, asks, fence, is_nothing, is_refused,
    offer_with, ok, poll, post, session,
};
use crate::support::process::{get, offer};
use crate::support::{Answer, Gateway, Head, vector};

// ── Options ──

#[test]
fn fallback_never_wants_a_turn() {
    let gateway = Gateway::start(&["--fallback", "never"]);
    let fields = session();
    for bytes in [
        poll("lamp", "").into_bytes(),
        poll("lamp", &fields).into_bytes(),
        poll("lamp", "Accept: message/http\r\n").into_bytes(),
        post("lamp", &fields, "application/json", "{}"),
        post(
            "lamp",
            &fields,
            "application/json",
            json!({"message-id": "x", "status": 200}).to_string(),
        ),
        vector("comet-1-poll"),
    ] {
        let mut device = gateway.dial();
        device.write(bytes);
        let reply = device.read_answer("POST");
        reply.expect_refusal(426);
        assert_eq!(reply.head.get("upgrade"), Some("PTTH/1.0"), "{}", reply.head.text());
        assert!(
            reply.head.all("connection").iter().any(|v| v.to_lowercase().contains("upgrade")),
            "{}",
            reply.head.text()
        );
    }
    gateway.get("/lamp/").expect_refusal(404);
    let mut link = gateway.link("lamp");
    let mut visitor = asks(&gateway, get("/lamp/x"));
    assert_eq!(link.read_head().target(), "/x");
    link.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
}

#[test]
fn fallback_only_takes_an_offer_for_a_poll() {
    let gateway = Gateway::start(&["--fallback", "only"]);
    for kind in BOTH {
        let mut device = Device::with(&gateway, "lamp", kind, &session());
        let fields = device.fields.clone();
        device.peer.write(offer("lamp", &fields));
        device.nothing();
        device.peer.write(offer("lamp", &fields));
        device.quiet();
        let mut visitor = asks(&gateway, get("/lamp/x"));
        let event = device.event();
        assert_eq!(event.target, "/x");
        // An offer may bring the answer.
        let body = match kind {
            Json => answer_json(&event, &ok("x")),
            Text => answer_text(&ok("x"), false),
        };
        device.peer.write(offer_with(
            &device,
            kind.media_type(),
            &format!("PTTH-Message-ID: {}\r\n", event.id),
            body,
        ));
        visitor.read_answer("GET").expect_ok("x");
        device.serves(&gateway, "a-poll");
    }
    let mut seed = gateway.dial();
    seed.write(vector("seed-1-offer"));
    seed.expect_quiet(MOMENT); // held, since it has no session
}

#[test]
fn polls_and_offers_are_both_taken_by_default() {
    for options in [&[][..], &["--fallback", "auto"]] {
        let gateway = Gateway::start(options);
        Device::polling(&gateway, "lamp", Json).serves(&gateway, "poll");
        let mut link = gateway.link_with("lamp", &session());
        let mut visitor = asks(&gateway, get("/lamp/x"));
        assert_eq!(link.read_head().target(), "/x");
        link.write(vector("draft-4-response"));
        visitor.read_answer("GET").expect_ok("Good");
    }
}

// ── Pages (T46) ──

const APP: &str = "https://app.example";

fn preflight(name: &str, origin: &str) -> String {
    format!(
        "OPTIONS /{name} HTTP/1.1\r\nHost: gw.example\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization, content-type, ptth-message-id, ptth-session\r\n\r\n"
    )
}

/// Whether the comma list of this field has the token, case aside.
fn lists(head: &Head, name: &str, token: &str) -> bool {
    head.all(name)
        .iter()
        .flat_map(|value| value.split(','))
        .any(|member| member.trim().eq_ignore_ascii_case(token))
}

#[track_caller]
fn is_for(head: &Head, origin: &str) {
    assert_eq!(head.get("access-control-allow-origin"), Some(origin), "{}", head.text());
    assert!(lists(head, "vary", "Origin"), "{}", head.text());
}

#[test]
fn a_listed_origin_may_poll() {
    let gateway = Gateway::start(&[
        "--cors-origin",
        APP,
        "--cors-origin",
        "http://localhost:3000",
        "--wait-for-link",
        "9s",
    ]);
    preflights_are_answered(&gateway);
    // A preflight registers nothing.
    gateway.get("/lamp/").expect_refusal(404);
    for kind in BOTH {
        let mut page =
            Device::with(&gateway, "lamp", kind, &format!("{}Origin: {APP}\r\n", session()));
        let readable = |reply: &Answer| {
            is_for(&reply.head, APP);
            assert!(
                lists(&reply.head, "access-control-expose-headers", "PTTH-Message-ID"),
                "{}",
                reply.head.text()
            );
        };
        page.poll();
        let reply = page.peer.read_answer("POST");
        readable(&reply);
        is_nothing(&reply, kind);
        page.poll();
        let mut visitor = asks(&gateway, get("/lamp/x"));
        let reply = page.peer.read_answer("POST");
        readable(&reply);
        let event = Event::of(reply);
        assert!(
            event.all("origin").is_empty(),
            "that is the page's, not the visitor's: {:?}",
            event.fields
        );
        page.answer(&event, &ok("x"));
        let answer = visitor.read_answer("GET");
        answer.expect_ok("x");
        assert!(
            answer.head.all("access-control-allow-origin").is_empty(),
            "that is the device's to say: {}",
            answer.head.text()
        );
        // Refusals can be read too.
        for (content_type, body) in [("application/json", "hello"), ("text/html", "<p>")] {
            let mut other = page.again();
            other.post(content_type, "", body);
            let reply = other.refused(&[400, 415]);
            readable(&reply);
        }
        let mut new =
            Device::with(&gateway, "lamp", kind, &format!("{}Origin: {APP}\r\n", session()));
        new.poll();
        readable(&new.peer.read_answer("POST"));
        readable(&page.refused(&[409]));
    }
    // A device that is no page hears nothing of this.
    let mut device = gateway.dial();
    device.write(poll("lamp", &session()));
    let reply = device.read_answer("POST");
    is_nothing(&reply, Json);
    assert!(reply.head.all("access-control-allow-origin").is_empty(), "{}", reply.head.text());
}

fn preflights_are_answered(gateway: &Gateway) {
    for origin in [APP, "http://localhost:3000"] {
        let mut page = gateway.dial();
        page.write(preflight("lamp", origin));
        let answer = page.read_answer("OPTIONS");
        assert_eq!(answer.status(), 204, "{}{}", answer.head.text(), answer.text());
        is_for(&answer.head, origin);
        assert!(
            lists(&answer.head, "access-control-allow-methods", "POST"),
            "{}",
            answer.head.text()
        );
        for name in ["authorization", "content-type", "ptth-message-id", "ptth-session"] {
            assert!(
                lists(&answer.head, "access-control-allow-headers", name),
                "{name} in {}",
                answer.head.text()
            );
        }
    }
}

#[test]
fn an_origin_that_is_not_listed_touches_no_mailbox() {
    for options in
        [&["--wait-for-link", "9s"][..], &["--wait-for-link", "9s", "--cors-origin", APP]]
    {
        let gateway = Gateway::start(options);
        let mut device = Device::known(&gateway, "lamp", Json);
        let mut visitor = asks(&gateway, get("/lamp/x"));
        fence(&gateway);
        let known = device.fields.clone();
        for origin in [
            "https://evil.example",
            "null",
            "",
            "https://app.example.evil.example",
            "https://evil-app.example",
            "http://app.example",
            "https://app.example:8443",
            "https://app.example/",
            "https://app.example https://evil.example",
            "*",
        ] {
            for bytes in [
                poll("lamp", &format!("{known}Origin: {origin}\r\n")).into_bytes(),
                poll("lamp", &format!("{}Origin: {origin}\r\n", session())).into_bytes(),
                post("lamp", &format!("Origin: {origin}\r\n"), "text/plain", "{}"),
                preflight("lamp", origin).into_bytes(),
                offer("lamp", &format!("{}Origin: {origin}\r\n", session())).into_bytes(),
            ] {
                let mut page = gateway.dial();
                page.write(&bytes);
                let reply = page.read_answer("POST");
                reply.expect_refusal(403);
                assert!(
                    reply.head.all("access-control-allow-origin").is_empty(),
                    "{}",
                    reply.head.text()
                );
            }
        }
        // Nor does a second Origin beside a listed one.
        let mut page = gateway.dial();
        page.write(poll(
            "lamp",
            &format!("{known}Origin: {APP}\r\nOrigin: https://evil.example\r\n"),
        ));
        page.read_answer("POST").expect_refusal_among(&[400, 403]);
        // The event is there still, and the session was not replaced.
        device.poll();
        let event = device.event();
        assert_eq!(event.target, "/x");
        device.answer(&event, &ok("untouched"));
        visitor.read_answer("GET").expect_ok("untouched");
        gateway.get("/default/").expect_refusal(404);
    }
}

#[test]
fn a_preflight_with_a_body_is_refused_and_its_body_is_no_request() {
    let gateway = Gateway::start(&["--cors-origin", APP]);
    let inner = poll("smuggled", &session());
    let chunked = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    for (framing, body) in [
        (format!("Content-Length: {}\r\n", inner.len()), inner.as_str()),
        ("Transfer-Encoding: chunked\r\n".to_owned(), &chunked),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n".to_owned(), &inner),
    ] {
        let mut page = gateway.dial();
        page.write(preflight("lamp", APP).replacen("\r\n", &format!("\r\n{framing}"), 1) + body);
        let reply = page.read_answer("OPTIONS");
        is_refused(&reply, &[400]);
        is_for(&reply.head, APP);
        page.expect_end();
    }
    gateway.get("/smuggled/").expect_refusal(404);
    // A connection ends where its request says so.
    for (of, is) in
        [("HTTP/1.1\r\n", "HTTP/1.1\r\nConnection: close\r\n"), ("HTTP/1.1\r\n", "HTTP/1.0\r\n")]
    {
        let mut page = gateway.dial();
        page.write(preflight("lamp", APP).replacen(of, is, 1));
        let answer = page.read_answer("OPTIONS");
        assert_eq!((answer.status(), answer.head.closes()), (204, true), "{}", answer.head.text());
        page.expect_end();
    }
}

#[test]
fn other_methods_are_405() {
    let gateway = Gateway::start(&["--cors-origin", APP]);
    for (method, fields) in [
        ("OPTIONS", ""),
        ("GET", ""),
        ("PUT", ""),
        ("DELETE", ""),
        ("GET", "Origin: https://app.example\r\n"),
    ] {
        let mut device = gateway.dial();
        device.write(format!("{method} /lamp HTTP/1.1\r\nHost: gw\r\n{fields}\r\n"));
        let answer = device.read_answer(method);
        answer.expect_refusal(405);
        assert!(lists(&answer.head, "allow", "POST"), "{}", answer.head.text());
    }
    gateway.get("/lamp/").expect_refusal(404);
}
