//! The visitors' port of `ptth gateway`, and its links with hostile devices: what is forwarded and
//! how, what is refused, what a visitor is told.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::gateway::wire::{FOREIGN, VERSIONS, WRONG_CODINGS, WRONG_LENGTHS};
use crate::support::local::routes;
use crate::support::process::get;
use crate::support::{
    Answer, DEADLINE, Gateway, Hash, Head, LocalServer, Ptth, RawPeer, each_row, eventually,
    eventually_within, fill_pattern, vector,
};

/// The head that the device saw, from an answer of `/echo`.
#[track_caller]
fn echoed(answer: &Answer) -> Head {
    assert_eq!(answer.status(), 200, "{}{}", answer.head.text(), answer.text());
    Head::split(&answer.body).0
}

/// Fails unless the answer says in RFC 9209's way what went wrong.
#[track_caller]
fn has_proxy_status(answer: &Answer) {
    let value = answer
        .head
        .get("proxy-status")
        .unwrap_or_else(|| panic!("no Proxy-Status in {}", answer.head.text()));
    assert!(value.contains("; error=") || value.contains(";error="), "RFC 9209 §2.1.1: {value}");
}

// ── Routes ──

#[test]
fn a_path_route_takes_the_name_off_and_says_so() {
    let gateway = Gateway::start(&[]);
    let device = LocalServer::device(&gateway, "lamp", 1, routes);
    for (target, seen) in [
        ("/lamp/echo", "/echo"),
        ("/lamp/echo/a/b?c=d&e", "/echo/a/b?c=d&e"),
        ("/lamp/echo//x/", "/echo//x/"),
        ("/lamp/echo/a%2Fb", "/echo/a%2Fb"),
        ("/lamp/echo/%C3%A4?q=%00", "/echo/%C3%A4?q=%00"),
        ("/lamp/echo/lamp/", "/echo/lamp/"),
    ] {
        let head = echoed(&gateway.get(target));
        assert_eq!(head.start, format!("GET {seen} HTTP/1.1"));
        assert_eq!(head.get("x-forwarded-prefix"), Some("/lamp"));
        assert_eq!(head.get("host"), Some("visitors.example"));
    }
    let head =
        echoed(&gateway.visitor().ask(
            "GET http://visitors.example/lamp/echo?x HTTP/1.1\r\nHost: visitors.example\r\n\r\n",
        ));
    assert_eq!(
        (head.target(), head.get("host")),
        ("/echo?x", Some("visitors.example")),
        "absolute form"
    );
    assert_eq!(device.count(), 7);
}

#[test]
fn a_name_alone_gets_its_slash() {
    let gateway = Gateway::start(&[]);
    let device = LocalServer::device(&gateway, "lamp", 1, |c| {
        let target = c.head.target().to_owned();
        c.text(target);
    });
    for (method, target, location) in [
        ("GET", "/lamp", "/lamp/"),
        ("HEAD", "/lamp", "/lamp/"),
        ("GET", "/lamp?a=b/c", "/lamp/?a=b/c"),
    ] {
        let answer =
            gateway.visitor().ask(&format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(
            (answer.status(), answer.head.get("location")),
            (308, Some(location)),
            "{method} {target}"
        );
    }
    assert_eq!(device.count(), 0);
    for (method, target, seen) in
        [("POST", "/lamp", "/"), ("PUT", "/lamp?x=y", "/?x=y"), ("OPTIONS", "/lamp", "/")]
    {
        gateway
            .visitor()
            .ask(&format!("{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"))
            .expect_ok(seen);
    }
    gateway.get("/lamp/").expect_ok("/");
    gateway.get("/lamp/?q").expect_ok("/?q");
}

#[test]
fn a_host_route_forwards_the_request_as_it_is() {
    let gateway = Gateway::start(&["--route", "host=devices.example"]);
    let device = LocalServer::device(&gateway, "lamp", 1, routes);
    for host in [
        "lamp.devices.example",
        "LAMP.Devices.Example",
        "lamp.devices.example:8080",
        "lamp.devices.example.",
    ] {
        let head = echoed(
            &gateway.visitor().ask(&format!("GET /echo/x?y HTTP/1.1\r\nHost: {host}\r\n\r\n")),
        );
        assert_eq!(
            (head.target(), head.get("host"), head.get("x-forwarded-prefix")),
            ("/echo/x?y", Some(host), None)
        );
    }
    let asked = device.count();
    for host in [
        "other.example",
        "devices.example",
        "a.lamp.devices.example",
        "lampdevices.example",
        "lamp.devices.example.evil.example",
        "desk.devices.example",
    ] {
        gateway
            .visitor()
            .ask(&format!("GET /lamp/x HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .expect_refusal(404);
    }
    assert_eq!(device.count(), asked, "only the host route was asked for");
}

#[test]
fn both_kinds_of_route_work_beside_each_other() {
    let gateway = Gateway::start(&[
        "--route",
        "path",
        "--route",
        "host=devices.example",
        "--route",
        "host=other.example",
    ]);
    let _device = LocalServer::device(&gateway, "lamp", 1, routes);
    let ask = |target: &str, host: &str| {
        echoed(&gateway.visitor().ask(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")))
    };
    assert_eq!(ask("/lamp/echo", "visitors.example").target(), "/echo");
    assert_eq!(ask("/echo/lamp", "lamp.devices.example").target(), "/echo/lamp");
    assert_eq!(ask("/echo/lamp", "lamp.other.example").target(), "/echo/lamp");
}

// ── What a visitor is told ──

#[test]
fn nobody_knows_this_device_404_at_once() {
    let gateway = Gateway::start(&["--wait-for-link", "30s"]);
    let mut visitor = gateway.visitor();
    for target in ["/desk/", "/desk/x", "/", "/?x"] {
        let answer = visitor.ask(&get(target));
        answer.expect_refusal(404);
        assert!(!answer.head.closes(), "a 404 is no reason to close: {}", answer.head.text());
    }
    has_proxy_status(&gateway.get("/desk/x"));
    let answer = visitor.ask("HEAD /desk/x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((answer.status(), answer.body.len()), (404, 0));
}

#[test]
fn a_known_device_without_a_link_is_waited_for() {
    let gateway = Gateway::start(&["--wait-for-link", "400ms"]);
    drop(gateway.link("lamp"));
    eventually("the gateway noticed", || (gateway.get("/lamp/").status() == 503).then_some(()));
    let then = Instant::now();
    let answer = gateway.get("/lamp/x");
    answer.expect_refusal(503);
    assert!(then.elapsed() >= Duration::from_millis(350), "it did not wait");
    assert_eq!(answer.head.get("retry-after"), Some("1"));
    has_proxy_status(&answer);
    assert!(answer.text().contains("lamp"), "the reason names the device: {}", answer.text());
}

#[test]
fn a_link_that_comes_while_a_visitor_waits_is_used() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    drop(gateway.link("lamp"));
    let mut visitors: Vec<RawPeer> = (0..3).map(|_| gateway.visitor()).collect();
    visitors[0].write("POST /lamp/0 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    visitors[0].expect_quiet(Duration::from_millis(100));
    visitors[1].write(get("/lamp/1"));
    visitors[1].expect_quiet(Duration::from_millis(100));
    visitors[2].write(get("/lamp/2"));
    let _device = LocalServer::device(&gateway, "lamp", 1, |c| {
        let body = c.body();
        let target = c.head.target().to_owned();
        c.text([target.as_bytes(), &body].concat());
    });
    for (visitor, seen) in visitors.iter_mut().zip(["/0hello", "/1", "/2"]) {
        visitor.read_answer("GET").expect_ok(seen);
    }
}

#[test]
fn all_links_busy_is_503_too_and_says_so() {
    let gateway = Gateway::start(&["--wait-for-link", "200ms"]);
    let mut device = gateway.link("lamp");
    let mut first = gateway.visitor();
    first.write(get("/lamp/slow"));
    device.read_head();
    let answer = gateway.get("/lamp/x");
    answer.expect_refusal(503);
    assert_eq!(answer.head.get("retry-after"), Some("1"));
    assert!(answer.text().contains("busy"), "{}", answer.text());
    device.write(vector("draft-4-response"));
    first.read_answer("GET").expect_ok("Good");
}

#[test]
fn a_device_that_does_not_answer_in_time_is_504_and_loses_its_link() {
    let gateway = Gateway::start(&["--first-byte", "300ms", "--wait-for-link", "50ms"]);
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    device.read_head();
    let answer = visitor.read_answer("GET");
    answer.expect_refusal(504);
    has_proxy_status(&answer);
    device.expect_closed();
    // T16: an answer after the deadline is nobody's.
    let _ = device.try_write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate");
    gateway.get("/lamp/x").expect_refusal(503);
}

#[test]
fn a_device_that_hangs_up_is_502_and_an_unsafe_request_is_never_asked_twice() {
    let gateway = Gateway::start(&["--wait-for-link", "100ms"]);
    for (method, body) in [
        ("POST", "Content-Length: 2\r\n\r\nhi"),
        ("PATCH", "Content-Length: 0\r\n\r\n"),
        ("POST", "\r\n"),
    ] {
        let (mut other, mut first) = (gateway.link("lamp"), gateway.link("lamp"));
        let mut visitor = gateway.visitor();
        visitor.write(format!("{method} /lamp/x HTTP/1.1\r\nHost: a\r\n{body}"));
        first.read_head();
        drop(first);
        let answer = visitor.read_answer(method);
        answer.expect_refusal(502);
        has_proxy_status(&answer);
        other.expect_quiet(Duration::from_millis(100));
    }
}

#[test]
fn a_safe_request_is_tried_once_more_on_a_fresh_link() {
    let gateway = Gateway::start(&["--wait-for-link", "100ms"]);
    let (mut second, mut first) = (gateway.link("lamp"), gateway.link("lamp"));
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    first.read_head();
    drop(first);
    assert_eq!(second.read_head().target(), "/x");
    second.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
    // Once, not for ever; and not after a byte of the answer.
    let mut links: Vec<RawPeer> = (0..3).map(|_| gateway.link("lamp")).collect();
    visitor.write(get("/lamp/y"));
    for _ in 0..2 {
        let mut link = links.pop().unwrap();
        assert_eq!(link.read_head().target(), "/y");
    }
    visitor.read_answer("GET").expect_refusal(502);
    links[0].expect_quiet(Duration::from_millis(100));
    let mut first = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/z"));
    first.read_head();
    first.write("HTTP/1.1 2");
    drop(first);
    visitor.read_answer("GET").expect_refusal(502);
    links[0].expect_quiet(Duration::from_millis(100));
}

// ── Keep-alive, versions, methods, framing ──

#[test]
fn both_legs_are_kept_alive() {
    let gateway = Gateway::start(&[]);
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    for i in 0..20 {
        visitor.write(get(&format!("/lamp/{i}")));
        assert_eq!(device.read_head().target(), format!("/{i}"));
        device.write(vector("draft-4-response"));
        let answer = visitor.read_answer("GET");
        answer.expect_ok("Good");
        assert!(!answer.head.closes(), "{}", answer.head.text());
    }
    visitor.write("GET /lamp/last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let head = device.read_head();
    assert!(!head.closes(), "the visitor's Connection is not the link's: {}", head.text());
    device.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
    visitor.expect_closed();
    gateway.visitor().write(get("/lamp/fence"));
    assert_eq!(device.read_head().target(), "/fence");
}

#[test]
fn pipelined_visitors_get_their_answers_in_order() {
    let gateway = Gateway::start(&[]);
    let device = LocalServer::device(&gateway, "lamp", 3, |c| {
        let target = c.head.target().to_owned();
        c.text(target);
    });
    let mut visitor = gateway.visitor();
    visitor.write((0..10).map(|i| get(&format!("/lamp/{i}"))).collect::<String>());
    for i in 0..10 {
        visitor.read_answer("GET").expect_ok(format!("/{i}"));
    }
    assert_eq!(device.count(), 10);
}

#[test]
fn http_1_0_visitors_are_served_without_chunks() {
    let gateway = Gateway::start(&[]);
    let _device = LocalServer::device(&gateway, "lamp", 1, routes);
    let mut visitor = gateway.visitor();
    visitor.write("GET /lamp/x HTTP/1.0\r\n\r\n");
    let bytes = visitor.read_to_end();
    let (head, body) = Head::split(&bytes);
    assert_eq!((head.status(), body), (200, b"hello\n".as_slice()));
    let mut visitor = gateway.visitor();
    visitor.write("GET /lamp/chunked?n=100000 HTTP/1.0\r\nHost: a\r\n\r\n");
    let bytes = visitor.read_to_end();
    let (head, body) = Head::split(&bytes);
    assert_eq!(head.get("transfer-encoding"), None, "{}", head.text());
    assert_eq!(Hash::of(body), Hash::of_pattern(100_000));
    let mut visitor = gateway.visitor();
    for _ in 0..2 {
        visitor.write("GET /lamp/x HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
        let answer = visitor.read_answer("GET");
        answer.expect_ok("hello\n");
        assert_eq!(
            answer.head.get("connection").map(str::to_lowercase).as_deref(),
            Some("keep-alive"),
            "{}",
            answer.head.text()
        );
    }
    let head = echoed(&gateway.visitor().ask("GET /lamp/echo HTTP/1.0\r\nHost: a\r\n\r\n"));
    assert_eq!(head.start, "GET /echo HTTP/1.1", "the link speaks HTTP/1.1");
    // A 1xx is not for HTTP/1.0.
    let mut device = gateway.link("desk");
    let mut visitor = gateway.visitor();
    visitor.write("GET /desk/x HTTP/1.0\r\nHost: a\r\n\r\n");
    device.read_head();
    device.write("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let answer = visitor.read_answer("GET");
    answer.expect_ok("ok");
    assert!(answer.interim.is_empty());
}

#[test]
fn the_gateways_own_answer_ends_a_connection_of_http_1_0() {
    // It does not say keep-alive, so an HTTP/1.0 visitor takes it as the last (RFC 9112 appendix
    // C.2.2).
    let gateway = Gateway::start(&[]);
    let mut link = gateway.link("lamp");
    for (target, status) in [("/nobody/x", 404), ("/lamp", 308), ("/lamp/broken", 502)] {
        let mut visitor = gateway.visitor();
        visitor.write(format!("GET {target} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").repeat(2));
        if status == 502 {
            link.read_head();
            link.write("no HTTP\r\n\r\n");
        }
        let bytes = visitor.read_to_end();
        let (head, body) = Head::split(&bytes);
        assert_eq!(
            (head.status(), head.get("connection")),
            (status, Some("close")),
            "{}",
            head.text()
        );
        assert_eq!(
            head.get("content-length"),
            Some(body.len().to_string().as_str()),
            "one answer, then the end"
        );
    }
}

#[test]
fn every_framing_arrives_whole_and_leaves_the_link_usable() {
    let gateway = Gateway::start(&[]);
    let _device = LocalServer::device(&gateway, "lamp", 2, routes);
    let mut visitor = gateway.visitor();
    let expected = Hash::of_pattern(200_000);
    for (target, framing) in [
        ("/lamp/big?n=200000", "content-length"),
        ("/lamp/chunked?n=200000", "transfer-encoding"),
        ("/lamp/until-close?n=200000", "transfer-encoding"),
    ] {
        let answer = visitor.ask(&get(target));
        assert_eq!((answer.status(), Hash::of(&answer.body)), (200, expected.clone()), "{target}");
        assert!(answer.head.get(framing).is_some(), "{}", answer.head.text());
        assert!(!answer.head.closes(), "{}", answer.head.text());
    }
    for status in [204, 304] {
        let answer = visitor.ask(&get(&format!("/lamp/status/{status}")));
        assert_eq!((answer.status(), answer.body.len()), (status, 0));
    }
    let answer = visitor.ask("HEAD /lamp/x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        (answer.status(), answer.head.get("content-length"), answer.body.len()),
        (200, Some("6"), 0)
    );
    for (framing, body) in [
        ("Content-Length: 5", "hello"),
        ("Transfer-Encoding: chunked", "2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n"),
        ("Transfer-Encoding: Chunked", "5\r\nhello\r\n0\r\n\r\n"),
    ] {
        visitor.write(format!("POST /lamp/hash HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}"));
        visitor.read_answer("POST").expect_ok(Hash::of(b"hello"));
    }
    visitor.write("POST /lamp/hash HTTP/1.1\r\nHost: a\r\n\r\n"); // neither length nor coding: no body
    visitor.read_answer("POST").expect_ok(Hash::of(b""));
}

#[test]
fn a_head_answer_keeps_the_length_it_speaks_of() {
    let gateway = Gateway::start(&[]);
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    for (bytes, length) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 123456\r\n\r\n", Some("123456")),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nETag: \"x\"\r\n\r\n", Some("7")),
        ("HTTP/1.1 200 OK\r\n\r\n", None),
    ] {
        visitor.write("HEAD /lamp/x HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(device.read_head().method(), "HEAD");
        device.write(bytes);
        assert_eq!(visitor.read_answer("HEAD").head.get("content-length"), length);
    }
    visitor.write(get("/lamp/y"));
    assert_eq!(device.read_head().target(), "/y");
}

#[test]
fn any_method_is_forwarded() {
    let gateway = Gateway::start(&[]);
    let device = LocalServer::device(&gateway, "lamp", 1, routes);
    let mut visitor = gateway.visitor();
    for method in ["PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "M-SEARCH", "get", "QUERY"] {
        visitor.ask(&format!("{method} /lamp/x HTTP/1.1\r\nHost: a\r\n\r\n")).expect_ok("hello\n");
        assert_eq!(device.last().method(), method);
    }
}

#[test]
fn expect_100_continue_goes_to_the_device_and_its_100_comes_back() {
    let gateway = Gateway::start(&[]);
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(
        "POST /lamp/x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    );
    let head = device.read_head();
    assert_eq!(head.get("expect"), Some("100-continue"));
    device.expect_quiet(Duration::from_millis(50));
    device.write("HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(visitor.read_head().status(), 100);
    visitor.write("hello");
    assert_eq!(device.read_exact(5), b"hello");
    device.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    visitor.read_answer("POST").expect_ok("ok");
    // Refused without a 100: the body never comes, and the visitor hears why.
    visitor.write(
        "POST /lamp/x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    );
    device.read_head();
    device.write(
        "HTTP/1.1 417 Expectation Failed\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno",
    );
    let answer = visitor.read_answer("POST");
    assert_eq!((answer.status(), answer.interim.len()), (417, 0));
}

#[test]
fn informational_answers_are_forwarded_up_to_their_bound() {
    let gateway = Gateway::start(&[]);
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    device.read_head();
    device.write("HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n");
    let head = visitor.read_head();
    assert_eq!(
        (head.status(), head.get("link")),
        (103, Some("</style.css>; rel=preload")),
        "at once, before the final answer"
    );
    assert_eq!((head.get("content-length"), head.get("transfer-encoding")), (None, None));
    device.write("HTTP/1.1 102 Processing\r\n\r\n".repeat(7));
    device.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let answer = visitor.read_answer("GET");
    answer.expect_ok("ok");
    assert_eq!(answer.interim.len(), 7);
}

// ── What is forwarded ──

#[test]
fn hop_by_hop_fields_stay_on_their_hop_and_the_others_survive() {
    let gateway = Gateway::start(&[]);
    let _device = LocalServer::device(&gateway, "lamp", 1, routes);
    // T12, T9
    let mut visitor = gateway.visitor();
    visitor.write(
        "POST /lamp/echo HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, X-Hop, content-length, host, authorization, x-forwarded-for, via, cookie\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nAuthorization: Bearer visitor\r\nCookie: a=b\r\nX-First: 1\r\nx-second: 2\r\nX-FIRST: 3\r\nContent-Length: 5\r\n\r\nhello",
    );
    let answer = visitor.read_answer("POST");
    let (head, body) = Head::split(&answer.body);
    for name in ["x-hop", "keep-alive", "proxy-connection", "upgrade", "http2-settings", "te"] {
        assert_eq!(head.all(name).len(), 0, "{name} was forwarded: {}", head.text());
    }
    assert!(!head.closes() && !head.text().contains("h2c"), "{}", head.text());
    assert_eq!(body, b"hello");
    assert_eq!(head.get("host"), Some("a.example"));
    assert_eq!(head.get("authorization"), Some("Bearer visitor"));
    assert_eq!(head.all("x-first"), ["1", "3"]);
    let spelled: Vec<&str> = head
        .fields
        .iter()
        .map(|(n, _)| n.as_str())
        .filter(|n| n.to_lowercase().starts_with("x-first") || *n == "x-second")
        .collect();
    assert_eq!(spelled, ["X-First", "x-second", "X-FIRST"], "order and spelling are kept");
    // And back.
    let mut device = gateway.link("desk");
    let mut visitor = gateway.visitor();
    visitor.write(get("/desk/x"));
    device.read_head();
    device.write("HTTP/1.1 200 Fine\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nServer: it\r\nContent-Length: 2\r\n\r\nok");
    let answer = visitor.read_answer("GET");
    assert_eq!(answer.head.start, "HTTP/1.1 200 Fine");
    assert_eq!(answer.head.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(answer.head.get("server"), Some("it"));
    for name in ["x-hop", "keep-alive", "proxy-connection", "upgrade"] {
        assert_eq!(answer.head.all(name).len(), 0, "{name} was forwarded: {}", answer.head.text());
    }
}

#[test]
fn forwarding_fields_are_the_gateways_own_word() {
    let gateway = Gateway::start(&[]);
    let _device = LocalServer::device(&gateway, "lamp", 1, routes);
    let head = echoed(&gateway.visitor().ask(
        "GET /lamp/echo HTTP/1.1\r\nHost: a.example:8080\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\nX-Forwarded-Proto: gopher\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Prefix: /evil\r\nForwarded: for=6.6.6.6;host=evil.example\r\n\r\n",
    ));
    assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"), "{}", head.text());
    assert_eq!(head.get("x-forwarded-proto"), Some("http"));
    assert_eq!(head.get("x-forwarded-host"), Some("a.example:8080"));
    assert_eq!(head.get("x-forwarded-prefix"), Some("/lamp"));
    assert!(!head.text().contains("6.6.6.6") && !head.text().contains("evil"), "{}", head.text());
    assert!(head.all("via").iter().any(|v| v.contains("ptth")), "{}", head.text());
    let head = echoed(&gateway.get("/lamp/echo"));
    assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"));
}

#[test]
fn names_with_an_underscore_are_dropped_unless_they_are_to_be_kept() {
    let request = "GET /lamp/echo HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 6.6.6.6\r\nMy_Field: 1\r\nMy-Field: 2\r\n\r\n";
    for (options, kept) in [(&[][..], false), (&["--keep-underscore"][..], true)] {
        let gateway = Gateway::start(options);
        let _device = LocalServer::device(&gateway, "lamp", 1, routes);
        let head = echoed(&gateway.visitor().ask(request));
        assert_eq!(head.get("my_field"), kept.then_some("1"), "{}", head.text());
        assert_eq!(head.get("x_forwarded_for").is_some(), kept, "{}", head.text());
        assert_eq!(head.get("my-field"), Some("2"));
    }
}

#[test]
fn the_answers_status_line_and_fields_are_kept() {
    let gateway = Gateway::start(&[]);
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    for (bytes, start) in [
        ("HTTP/1.1 299 Rather Unusual\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 299 Rather Unusual"),
        ("HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 500 "),
        ("HTTP/1.1 404 OK\nContent-Length: 0\n\r\n", "HTTP/1.1 404 OK"), // an old gem's line ends
        (
            "HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/x\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 301 Moved",
        ),
    ] {
        visitor.write(get("/lamp/x"));
        device.read_head();
        device.write(bytes);
        assert_eq!(visitor.read_answer("GET").head.start, start);
    }
}

#[test]
fn more_informational_answers_than_the_bound_are_502_and_end_the_link() {
    // T18: the device goes on, with more of them or with a final answer.
    let gateway = Gateway::start(&["--wait-for-link", "20ms"]);
    for (number, end) in
        [(9, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), (9, ""), (5_000, "")]
    {
        let mut device = gateway.link("lamp");
        let mut visitor = gateway.visitor();
        visitor.write(get("/lamp/x"));
        device.read_head();
        let _ = device.try_write("HTTP/1.1 102 Processing\r\n\r\n".repeat(number) + end); // closed in the middle of it
        let answer = visitor.read_answer("GET");
        answer.expect_refusal(502);
        assert!(answer.interim.len() <= 8, "{} of them were passed on", answer.interim.len());
        device.expect_closed();
        gateway.get("/lamp/y").expect_refusal(503);
    }
}

// ── Bad input, face V ──

/// T10: field lines, each refused wherever lines end with CRLF.
pub const WRONG_LINES: &[(&str, &str)] = &[
    ("NUL in a value", "X: a\0b\r\n"),
    ("CR in a value", "X: a\rb\r\n"),
    ("control byte in a value", "X: a\x01b\r\n"),
    ("DEL in a value", "X: a\x7fb\r\n"),
    ("a lone LF", "X: a\nY: b\r\n"),
    ("space before the colon", "X : a\r\n"),
    ("tab before the colon", "X\t: a\r\n"),
    ("an empty name", ": a\r\n"),
    ("a name that is no token", "X(Y): a\r\n"),
    ("NUL in a name", "X\0: a\r\n"),
    ("obs-text in a name", "X\u{e4}: a\r\n"),
    ("a line without a colon", "no colon\r\n"),
    ("obs-fold", "X: a\r\n b\r\n"),
    ("obs-fold with a tab", "X: a\r\n\tb\r\n"),
];

/// T5: chunked bodies that are none. LONG stands for more bytes than a head may have, END for the
/// end of the stream.
pub const WRONG_CHUNKS: &[(&str, &str)] = &[
    ("0x before a size", "0x2\r\nab\r\n0\r\n\r\n"),
    ("LF after an extension", "2;\nab\r\n0\r\n\r\n"),
    ("space before a size", " 2\r\nab\r\n0\r\n\r\n"),
    ("space behind a size", "2 \r\nab\r\n0\r\n\r\n"),
    ("a sign", "-2\r\nab\r\n0\r\n\r\n"),
    ("17 hex digits", "00000000000000002\r\nab\r\n0\r\n\r\n"),
    ("2^64-1", "ffffffffffffffff\r\nab\r\n0\r\n\r\n"),
    ("an empty size", "\r\nab\r\n0\r\n\r\n"),
    ("no CRLF behind the data", "2\r\nabX0\r\n\r\n"),
    ("more data than its size", "2\r\nabc\r\n0\r\n\r\n"),
    ("lone LFs", "2\nab\n0\n\n"),
    ("bare CR in the size line", "2\rab\r\n0\r\n\r\n"),
    ("a trailer that is no field", "2\r\nab\r\n0\r\nno colon\r\n\r\n"),
    ("trailers without end", "2\r\nab\r\n0\r\nX: LONG"),
    ("an extension without end", "2;x=LONG"),
    ("a size without end", "LONG0"),
    ("no last chunk", "2\r\nab\r\nEND"),
    ("half a chunk", "5\r\nabEND"),
];

struct Row {
    name: String,
    bytes: Vec<u8>,
    statuses: &'static [u16],
}

fn bad_requests() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |name: String, bytes: Vec<u8>, statuses: &'static [u16]| {
        rows.push(Row { name, bytes, statuses })
    };
    let with = |lines: &str| format!("POST /lamp/x HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    add(
        "T1 length, then coding".into(),
        (with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n").into(),
        &[400],
    );
    add(
        "T1 coding, then length".into(),
        (with("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n") + "0\r\n\r\n").into(),
        &[400],
    );
    for value in WRONG_CODINGS {
        add(
            format!("T2 {value:?}"),
            (with(&format!("Transfer-Encoding: {value}\r\n")) + "0\r\n\r\n").into(),
            &[400, 501],
        );
    }
    add(
        "T2 gzip gets 501".into(),
        (with("Transfer-Encoding: gzip\r\n") + "0\r\n\r\n").into(),
        &[501],
    );
    add(
        "T2 two lines".into(),
        (with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n").into(),
        &[400, 501],
    );
    add(
        "T2 two lines, one unknown".into(),
        (with("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n").into(),
        &[400, 501],
    );
    add(
        "T2 obs-text".into(),
        b"POST /lamp/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\xA0\r\n\r\n0\r\n\r\n"
            .to_vec(),
        &[400, 501],
    );
    add(
        "T2 on HTTP/1.0".into(),
        "POST /lamp/x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        &[400],
    );
    for value in WRONG_LENGTHS {
        add(format!("T3 {value:?}"), with(&format!("Content-Length: {value}\r\n")).into(), &[400]);
    }
    add(
        "T3 two lengths".into(),
        (with("Content-Length: 2\r\nContent-Length: 5\r\n") + "hello").into(),
        &[400],
    );
    add(
        "T3 a list of two lengths".into(),
        (with("Content-Length: 2, 5\r\n") + "hello").into(),
        &[400],
    );
    for (name, line) in WRONG_LINES {
        add(format!("T10 {name}"), with(line).into(), &[400]);
    }
    add("T10 lone LFs".into(), "GET /lamp/x HTTP/1.1\nHost: a\n\n".into(), &[400]);
    add(
        "T10 a lone LF after the request line".into(),
        "GET /lamp/x HTTP/1.1\nHost: a\r\n\r\n".into(),
        &[400],
    );
    add(
        "T10 space before the first field".into(),
        "GET /lamp/x HTTP/1.1\r\n Host: a\r\n\r\n".into(),
        &[400],
    );
    for (name, target) in [
        ("a control byte", "/lamp/\x01"),
        ("NUL", "/lamp/\0"),
        ("CR", "/lamp/\rx"),
        ("bytes above 0x7F", "/lamp/\u{e4}"),
        ("a tab", "/lamp/\tx"),
        ("a space", "/lamp/x y"),
        ("a fragment", "/lamp/x#y"),
        ("no slash", "lamp/x"),
        ("*", "*"),
        ("another scheme", "ftp://a/lamp/x"),
        ("nothing", ""),
    ] {
        add(
            format!("T10 target with {name}"),
            format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").into(),
            &[400],
        );
    }
    // T11
    for (name, target, hosts) in [
        ("no Host", "/lamp/x", ""),
        ("an empty Host", "/lamp/x", "Host:\r\n"),
        ("two Hosts", "/lamp/x", "Host: a\r\nHost: a\r\n"),
        ("Host list", "/lamp/x", "Host: a, b\r\n"),
        ("Host with userinfo", "/lamp/x", "Host: u@a\r\n"),
        ("Host with a path", "/lamp/x", "Host: a/b\r\n"),
        ("Host with a space", "/lamp/x", "Host: a b\r\n"),
        ("Host with a bad port", "/lamp/x", "Host: a:b\r\n"),
        ("Host with a port too large", "/lamp/x", "Host: a:65536\r\n"),
        ("Host with an open bracket", "/lamp/x", "Host: [::1\r\n"),
        ("absolute form that disagrees", "http://b/lamp/x", "Host: a\r\n"),
        ("absolute form with userinfo", "http://u@a/lamp/x", "Host: a\r\n"),
        ("..", "/lamp/../x", "Host: a\r\n"),
        ("encoded ..", "/lamp/%2e%2E/x", "Host: a\r\n"),
        (".. before the name", "/../lamp/x", "Host: a\r\n"),
        (".. at the end", "/lamp/..", "Host: a\r\n"),
        ("a dot segment", "/lamp/./x", "Host: a\r\n"),
        ("a backslash", "/lamp/x\\y", "Host: a\r\n"),
        ("upper case name", "/Lamp/x", "Host: a\r\n"),
        ("encoded name", "/%6camp/x", "Host: a\r\n"),
        ("encoded slash behind the name", "/lamp%2fx", "Host: a\r\n"),
        ("name with a dot", "/la.mp/x", "Host: a\r\n"),
        (
            "name of 64 bytes",
            "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/x",
            "Host: a\r\n",
        ),
    ] {
        add(format!("T11 {name}"), format!("GET {target} HTTP/1.1\r\n{hosts}\r\n").into(), &[400]);
    }
    add("T11 an empty first segment".into(), get("//lamp/x").into(), &[400, 404]);
    // T9
    add(
        "T9 CONNECT".into(),
        "CONNECT lamp:80 HTTP/1.1\r\nHost: lamp:80\r\n\r\n".into(),
        &[400, 405, 501],
    );
    add(
        "T9 CONNECT with a path".into(),
        "CONNECT /lamp/x HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        &[400, 405, 501],
    );
    // T13
    for (version, statuses) in VERSIONS {
        add(
            format!("T13 {version}"),
            format!("GET /lamp/x {version}\r\nHost: a\r\n\r\n").into(),
            statuses,
        );
    }
    add(
        "T13 a method that is no token".into(),
        "GE(T /lamp/x HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        &[400],
    );
    add("T13 two spaces".into(), "GET  /lamp/x HTTP/1.1\r\nHost: a\r\n\r\n".into(), &[400]);
    add("T13 a leading space".into(), " GET /lamp/x HTTP/1.1\r\nHost: a\r\n\r\n".into(), &[400]);
    add(
        "T13 two empty lines before it".into(),
        format!("\r\n\r\n{}", get("/lamp/x")).into(),
        &[400],
    );
    // Limits
    add("101 fields".into(), with(&"X: y\r\n".repeat(100)).into(), &[431]);
    add("a head of 20 KiB".into(), with(&format!("X: {}\r\n", "y".repeat(20_000))).into(), &[431]);
    add(
        "a head of 1 MiB without end".into(),
        with(&format!("X: {}", "y".repeat(1 << 20))).into(),
        &[431],
    );
    add(
        "a target of 8,001 bytes".into(),
        get(&format!("/lamp/{}", "y".repeat(7_995))).into(),
        &[414],
    );
    add(
        "a request line without end".into(),
        format!("GET /lamp/{}", "y".repeat(30_000)).into(),
        &[414, 431],
    );
    rows
}

#[test]
fn bad_requests_of_visitors_are_refused_and_never_reach_the_device() {
    let gateway = Gateway::start(&["--wait-for-link", "100ms"]);
    let device = LocalServer::device(&gateway, "lamp", 1, routes);
    let rows = bad_requests();
    let mut fences = 0;
    each_row(
        &rows,
        |r| r.name.clone(),
        |row| {
            let before = device.count();
            let mut visitor = gateway.visitor();
            let _ = visitor.try_write(&row.bytes); // it may be refused before all is written
            let answer = visitor.read_answer("GET");
            answer.expect_refusal_among(row.statuses);
            if answer.status() != 404 {
                assert!(answer.head.closes(), "no Connection: close in {}", answer.head.text());
                match row.bytes.len() {
                    ..60_000 => visitor.expect_end(),
                    _ => visitor.expect_closed(),
                }
            }
            // The device has one link: had it been asked, it would have been before this.
            gateway.get("/lamp/fence").expect_ok("hello\n");
            fences += 1;
            assert_eq!(
                device.count(),
                before + 1,
                "the device was asked: {}",
                device.requests()[before].text()
            );
        },
    );
    assert_eq!(fences, rows.len());
}

#[test]
fn foreign_protocols_on_the_visitors_port_are_closed() {
    let gateway = Gateway::start(&[]);
    let device = LocalServer::device(&gateway, "lamp", 1, routes);
    each_row(
        FOREIGN,
        |r| r.0.to_owned(),
        |(_, bytes)| {
            let mut visitor = gateway.visitor();
            visitor.write(bytes);
            if let Some(head) = visitor.try_read_head() {
                assert!(matches!(head.status(), 400 | 501 | 505), "{}", head.text());
                assert!(head.closes(), "{}", head.text());
                let length = head.get("content-length").unwrap().parse().unwrap();
                visitor.read_exact(length);
            }
            visitor.expect_closed();
        },
    );
    gateway.get("/lamp/x").expect_ok("hello\n");
    assert_eq!(device.count(), 1);
}

#[test]
fn requests_at_their_limits_are_served() {
    let gateway = Gateway::start(&[]);
    let _device = LocalServer::device(&gateway, "lamp", 1, routes);
    let mut visitor = gateway.visitor();
    visitor.ask(&format!("\r\n{}", get("/lamp/x"))[2..]).expect_ok("hello\n");
    visitor.write(format!("\r\n{}", get("/lamp/x"))); // one empty line before it
    visitor.read_answer("GET").expect_ok("hello\n");
    visitor
        .ask(&format!("GET /lamp/{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(7_994)))
        .expect_ok("hello\n");
    visitor
        .ask(&format!("GET /lamp/x HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(99)))
        .expect_ok("hello\n");
    let head = "GET /lamp/x HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";
    visitor
        .ask(&head.replace("X: ", &format!("X: {}", "y".repeat(16 * 1024 - head.len()))))
        .expect_ok("hello\n");
    for host in ["a", "A.Example", "a:80", "127.0.0.1:8080", "[::1]:8080", "a-b_c.example"] {
        visitor.ask(&format!("GET /lamp/x HTTP/1.1\r\nHost: {host}\r\n\r\n")).expect_ok("hello\n");
    }
    visitor.write("POST /lamp/hash HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello");
    visitor.read_answer("POST").expect_ok(Hash::of(b"hello"));
    visitor.write("POST /lamp/hash HTTP/1.1\r\nHost: a\r\nContent-Length: 0005\r\n\r\nhello");
    visitor.read_answer("POST").expect_ok(Hash::of(b"hello"));
}

#[test]
fn malformed_chunks_of_a_visitor_never_make_a_whole_body() {
    // T5: the head was right, so the device may have been asked; what it reads must not end well.
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let whole = Arc::new(AtomicUsize::new(0));
    let counted = whole.clone();
    let device = LocalServer::device(&gateway, "lamp", 0, move |c| {
        let body = c.body();
        counted.fetch_add(1, Ordering::SeqCst);
        c.text(Hash::of(&body));
    });
    each_row(
        WRONG_CHUNKS,
        |r| r.0.to_owned(),
        |(_, body)| {
            device.answer_on(gateway.link("lamp"));
            let mut visitor = gateway.visitor();
            let body = body.replace("LONG", &"1".repeat(40_000));
            let (body, ends) =
                body.strip_suffix("END").map_or((body.as_str(), false), |b| (b, true));
            let _ = visitor.try_write(format!(
                "POST /lamp/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
            ));
            if ends {
                visitor.finish_writing();
            }
            if let Some(head) = visitor.try_read_head() {
                assert!(matches!(head.status(), 400 | 408 | 431 | 502), "{}", head.text());
            }
            assert_eq!(whole.load(Ordering::SeqCst), 0, "the device got it as a whole body");
        },
    );
    device.answer_on(gateway.link("lamp"));
    let mut visitor = gateway.visitor();
    visitor.write("POST /lamp/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0002;ext=\"a;b\"\r\nab\r\n0\r\n\r\n");
    visitor.read_answer("POST").expect_ok(Hash::of(b"ab"));
}

#[test]
fn a_request_cut_short_is_never_whole() {
    let gateway = Gateway::start(&["--wait-for-link", "100ms"]);
    for (framing, body, seen) in [
        ("Content-Length: 10", "hello", "hello"),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n", "5\r\nhello\r\n"),
    ] {
        for vanish in [false, true] {
            let mut device = gateway.link("lamp");
            let mut visitor = gateway.visitor();
            visitor.write(format!("POST /lamp/x HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}"));
            device.read_head();
            assert_eq!(device.read_exact(seen.len()), seen.as_bytes());
            if vanish {
                drop(visitor);
            } else {
                visitor.finish_writing();
            }
            device.expect_closed(); // without another byte: it cannot take the body for whole
            gateway.get("/lamp/next").expect_refusal(503);
        }
    }
}

#[test]
fn a_refusal_in_the_middle_of_a_body_has_none_itself_when_it_answers_head() {
    let gateway = Gateway::start(&[]);
    let _link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor
        .write("HEAD /lamp/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n");
    let bytes = visitor.read_to_end();
    let (head, body) = Head::split(&bytes);
    assert_eq!((head.status(), body), (400, b"".as_slice()), "RFC 9110 §9.3.2");
}

#[test]
fn trailers_with_framing_or_routing_fields_do_not_arrive() {
    let gateway = Gateway::start(&[]);
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write("POST /lamp/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nContent-Length: 7\r\nTransfer-Encoding: gzip\r\nHost: evil\r\nAuthorization: x\r\nX-Check: 1\r\n\r\n");
    let head = device.read_head();
    assert_eq!(head.get("transfer-encoding"), Some("chunked"));
    assert_eq!(device.read_chunk(), b"ab");
    let mut rest = Vec::new();
    while !rest.ends_with(b"\r\n\r\n") {
        rest.extend(device.read_exact(1));
    }
    let rest = String::from_utf8_lossy(&rest).to_lowercase();
    assert!(
        !rest.contains("content-length")
            && !rest.contains("gzip")
            && !rest.contains("evil")
            && !rest.contains("authorization"),
        "{rest}"
    );
    device.write(vector("draft-4-response"));
    visitor.read_answer("POST").expect_ok("Good");
    visitor.write(get("/lamp/y"));
    assert_eq!(device.read_head().target(), "/y");
}

// ── Bad input, face L: hostile devices ──

/// What the visitor of a hostile device gets.
enum Told {
    /// 502 with a reason.
    BadGateway,
    /// The head of 200, and a message that ends before its end (or 502, where it was known early
    /// enough).
    Cut,
    /// The answer is right and whole; what came behind it is nobody's.
    Whole(&'static str),
}

#[test]
fn hostile_devices_are_502_or_cut_and_lose_their_link() {
    use Told::{BadGateway, Cut, Whole};
    let mut rows: Vec<(String, &str, Vec<u8>, Told)> = Vec::new();
    let with =
        |lines: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n{body}").into_bytes();
    for (name, bytes) in [
        ("T1 length, then coding", with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        ("T1 coding, then length", with("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n")),
        ("T2 two lines", with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        ("T2 on HTTP/1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec()),
        ("T3 two lengths", with("Content-Length: 2\r\nContent-Length: 5\r\n", "hello")),
        ("T10 NUL in a value", with("X: a\0b\r\nContent-Length: 0\r\n", "")),
        ("T10 CR in a value", with("X: a\rb\r\nContent-Length: 0\r\n", "")),
        ("T10 space before a colon", with("Content-Length : 0\r\n", "")),
        ("T10 obs-fold", with("X: a\r\n b\r\nContent-Length: 0\r\n", "")),
        ("T10 an empty name", with(": a\r\nContent-Length: 0\r\n", "")),
        ("T10 a line without a colon", with("no colon\r\nContent-Length: 0\r\n", "")),
        ("T10 a name that is no token", with("X Y: a\r\nContent-Length: 0\r\n", "")),
        ("T10 NUL in the reason", b"HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("T13 HTTP/2.0", b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("T13 EVENT/1.0", b"EVENT/1.0 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("T13 status 99", b"HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("T13 status 1000", b"HTTP/1.1 1000 Odd\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("T13 status of two digits", b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("T13 status with a letter", b"HTTP/1.1 2oo OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("T13 a truncated status line", b"HTTP/1.1 400 Bad Request".to_vec()),
        ("T13 garbage", b"<3<3<3\r\n\r\n".to_vec()),
        ("T13 a request", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("more fields than a device may add to a hundred", with(&"X: y\r\n".repeat(120), "")),
        ("a head of more than 20 KiB", with(&format!("X: {}\r\n", "y".repeat(21_000)), "")),
        ("T18 nine 1xx", "HTTP/1.1 102 Processing\r\n\r\n".repeat(9).into_bytes()),
        ("T18 1xx without end", "HTTP/1.1 102 Processing\r\n\r\n".repeat(5_000).into_bytes()),
        ("a switch nobody asked for", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n".to_vec()),
        ("a head cut in the middle", b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
    ] {
        rows.push((name.into(), "POST", bytes, BadGateway));
    }
    for value in WRONG_CODINGS {
        rows.push((
            format!("T2 {value:?}"),
            "POST",
            with(&format!("Transfer-Encoding: {value}\r\n"), "0\r\n\r\n"),
            BadGateway,
        ));
    }
    for value in WRONG_LENGTHS {
        rows.push((
            format!("T3 {value:?}"),
            "POST",
            with(&format!("Content-Length: {value}\r\n"), "hello"),
            BadGateway,
        ));
    }
    for (name, body) in [
        ("0x before a size", "0x2\r\nab\r\n0\r\n\r\n"),
        ("LF after an extension", "2;\nab\r\n0\r\n\r\n"),
        ("space before a size", " 2\r\nab\r\n0\r\n\r\n"),
        ("17 hex digits", "00000000000000002\r\nab\r\n0\r\n\r\n"),
        ("an empty size", "\r\nab\r\n0\r\n\r\n"),
        ("no CRLF behind the data", "2\r\nabX0\r\n\r\n"),
        ("a trailer that is no field", "2\r\nab\r\n0\r\nno colon\r\n\r\n"),
        ("no last chunk", "2\r\nab\r\n"),
        ("half a chunk", "5\r\nab"),
    ] {
        rows.push((format!("T5 {name}"), "GET", with("Transfer-Encoding: chunked\r\n", body), Cut));
    }
    rows.push(("T17 short by length".into(), "GET", with("Content-Length: 10\r\n", "hello"), Cut));
    rows.push((
        "T16 two answers".into(),
        "GET",
        [with("Content-Length: 2\r\n", "ok"), with("Content-Length: 6\r\n", "forged")].concat(),
        Whole("ok"),
    ));
    rows.push((
        "T16 bytes behind a chunked answer".into(),
        "GET",
        with("Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\nX"),
        Whole("ok"),
    ));
    rows.push((
        "T19 a body after HEAD".into(),
        "HEAD",
        with("Content-Length: 6\r\n", "forged"),
        Whole(""),
    ));
    rows.push((
        "T19 a body after 204".into(),
        "GET",
        b"HTTP/1.1 204 No Content\r\n\r\nforged".to_vec(),
        Whole(""),
    ));
    rows.push((
        "T19 a body after 304".into(),
        "GET",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\nforged".to_vec(),
        Whole(""),
    ));
    rows.push((
        "an answer in HTTP/1.0".into(),
        "GET",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(),
        Whole("ok"),
    ));

    let gateway = Gateway::start(&["--wait-for-link", "20ms"]);
    each_row(
        &rows,
        |r| r.0.clone(),
        |(_, method, bytes, told)| {
            let mut device = gateway.link("lamp");
            let mut visitor = gateway.visitor();
            let body = if *method == "POST" { "Content-Length: 0\r\n" } else { "" };
            visitor.write(format!("{method} /lamp/x HTTP/1.1\r\nHost: a\r\n{body}\r\n"));
            device.read_head();
            let _ = device.try_write(bytes); // its link may be closed in the middle of it
            device.finish_writing();
            match told {
                BadGateway => {
                    let answer = visitor.read_answer(method);
                    answer.expect_refusal(502);
                    has_proxy_status(&answer);
                }
                Cut => match visitor.read_answer_or_cut(method) {
                    Ok(answer) => answer.expect_refusal(502),
                    Err(cut) => {
                        assert!(cut.body.len() <= 5, "{:?}", cut.body);
                        assert!(
                            cut.head.is_some(),
                            "closed without a byte: neither what came of the answer nor a 502"
                        );
                    }
                },
                Whole(said) => assert_eq!(visitor.read_answer(method).text(), *said),
            }
            device.expect_no_more();
            let late = gateway.get("/lamp/next");
            late.expect_refusal(503);
        },
    );
}

#[test]
fn a_link_with_bytes_behind_its_answer_is_closed_by_the_gateway() {
    // As above, but the device keeps its end open.
    let gateway = Gateway::start(&["--wait-for-link", "100ms"]);
    for (method, bytes) in [
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged",
        ),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\nforged"),
        ("GET", "HTTP/1.1 304 Not Modified\r\n\r\nforged"),
        ("GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ] {
        let mut device = gateway.link("lamp");
        let mut visitor = gateway.visitor();
        visitor.write(format!("{method} /lamp/x HTTP/1.1\r\nHost: a\r\n\r\n"));
        device.read_head();
        device.write(bytes);
        visitor.read_answer(method);
        device.expect_closed();
        gateway.get("/lamp/next").expect_refusal(503);
    }
}

#[test]
fn an_answer_before_the_whole_request_ends_well_for_both() {
    // T4: the device refuses an upload early.
    let gateway = Gateway::start(&["--wait-for-link", "100ms"]);
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\nsome");
    device.read_head();
    assert_eq!(device.read_exact(4), b"some");
    device.write(
        "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbig\n",
    );
    let answer = visitor.read_answer("POST");
    assert_eq!((answer.status(), answer.text().as_str()), (413, "big\n"));
    // The rest of the upload is never the next request.
    for _ in 0..3 {
        if visitor.try_write(get("/lamp/smuggled").repeat(50)).is_err() {
            break;
        }
    }
    device.expect_no_more();
    let mut next = gateway.link("lamp");
    let mut fresh = gateway.visitor();
    fresh.write(get("/lamp/fence"));
    assert_eq!(next.read_head().target(), "/fence");
}

#[test]
fn a_request_body_nobody_reads_is_never_the_next_request() {
    // T4 with a small body: the visitor's connection goes on, or says that it does not.
    let gateway = Gateway::start(&["--wait-for-link", "50ms"]);
    let _known = gateway.link("lamp");
    drop(_known);
    eventually("the gateway noticed", || (gateway.get("/lamp/").status() == 503).then_some(()));
    let mut visitor = gateway.visitor();
    let smuggled = get("/lamp/smuggled");
    visitor.write(format!(
        "POST /desk/x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{smuggled}",
        smuggled.len()
    ));
    let answer = visitor.read_answer("POST");
    answer.expect_refusal(404);
    if answer.head.closes() {
        visitor.expect_closed();
    } else {
        visitor.expect_quiet(Duration::from_millis(100));
    }
}

// ── Callers between each other ──

#[test]
fn visitors_who_vanish_do_not_shift_anybodys_answer() {
    // T15: 100 that vanish after k bytes of their answer, between 100 that check a nonce.
    let gateway = Gateway::start(&["--wait-for-link", "20s"]);
    let local = LocalServer::with(|c| {
        let nonce = c.head.get("x-nonce").unwrap_or_default().repeat(200);
        c.text(nonce);
    });
    let _device = Ptth::device(&gateway, "lamp", &["--to", &local.url(), "--links", "2..8"]);
    let visitors = gateway.visitors;
    let threads: Vec<_> = (0..4)
        .map(|worker| {
            std::thread::spawn(move || {
                for i in 0..25 {
                    let request = |nonce: &str| {
                        format!("GET /lamp/x HTTP/1.1\r\nHost: a\r\nX-Nonce: {nonce}\r\n\r\n")
                    };
                    let mut vanishing = RawPeer::connect(visitors);
                    vanishing.write(request("vanishing"));
                    if i % 3 > 0 {
                        vanishing.read_exact(1 + i * 20);
                    }
                    drop(vanishing);
                    let nonce = format!("{worker}-{i}-");
                    let mut checking = RawPeer::connect(visitors);
                    checking.deadline = Duration::from_secs(20);
                    for _ in 0..2 {
                        checking.ask(&request(&nonce)).expect_ok(nonce.repeat(200));
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
}

#[test]
fn a_reset_in_the_middle_of_a_head_is_noticed_at_once_on_both_ports() {
    let gateway = Gateway::start(&[]);
    let before = gateway.process.descriptors();
    let half = [
        ("GET /lamp/x HTTP/1.1\r\nHo", gateway.visitors),
        ("POST /lamp HTTP/1.1\r\nUpgra", gateway.devices),
    ];
    for (bytes, port) in half.repeat(10) {
        let mut peer = RawPeer::connect(port);
        peer.write(bytes);
        peer.reset();
    }
    // Much sooner than the 10 s of head_timeout.
    eventually_within(Duration::from_secs(3), "their descriptors are back", || {
        (gateway.process.descriptors() <= before).then_some(())
    });
}

#[test]
fn a_visitor_who_leaves_before_the_answer_frees_the_device() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let device = LocalServer::device(&gateway, "lamp", 0, |c| {
        c.peer.deadline = Duration::from_secs(20);
        routes(c);
    });
    device.answer_on(gateway.link("lamp"));
    let mut gone = gateway.visitor();
    gone.write(get("/lamp/big?n=30000000"));
    gone.read_head();
    drop(gone);
    // The old link is closed (too much to drain) and a new one takes over; nothing of the old
    // answer is left.
    device.answer_on(gateway.link("lamp"));
    gateway.get("/lamp/x").expect_ok("hello\n");
}

#[test]
fn an_endless_answer_that_nobody_wants_any_more_ends_its_link() {
    let gateway = Gateway::start(&[]);
    for (framing, piece) in [
        ("Transfer-Encoding: chunked", "1000\r\n"),
        ("Content-Length: 4000000000", ""),
        ("X: to the end of the stream", ""),
    ] {
        let mut device = gateway.link("lamp");
        let mut visitor = gateway.visitor();
        visitor.write(get("/lamp/x"));
        device.read_head();
        device.write(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
        visitor.read_head();
        drop(visitor);
        let piece =
            [piece.as_bytes(), &[b'x'; 0x1000], if piece.is_empty() { b"" } else { b"\r\n" }]
                .concat();
        let taken = (0..50_000).take_while(|_| device.try_write(&piece).is_ok()).count();
        assert!(
            taken < 10_000,
            "{framing}: {} bytes were taken for a visitor who has gone",
            taken * 0x1000
        );
    }
}

// ── Streaming ──

#[test]
fn bytes_are_passed_on_as_they_come_in_both_directions() {
    let gateway = Gateway::start(&[]);
    // Only a device with a session keeps a link behind an answer that began early.
    let mut device =
        gateway.link_with("lamp", "PTTH-Session: 000102030405060708090a0b0c0d0e0f\r\n");
    let mut visitor = gateway.visitor();
    visitor.write("POST /lamp/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(device.read_head().get("transfer-encoding"), Some("chunked"));
    for piece in ["one", "two", "three"] {
        visitor.write(format!("{:x}\r\n{piece}\r\n", piece.len()));
        assert_eq!(device.read_chunk(), piece.as_bytes(), "it arrives before the next is sent");
    }
    // The answer may begin before the request ends.
    device.write(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    let head = visitor.read_head();
    assert_eq!(head.get("content-type"), Some("text/event-stream"));
    assert!(
        head.closes(),
        "how much of the request is still to come nobody knows (RFC 9112 §9.6): {}",
        head.text()
    );
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        device.write(format!("{:x}\r\n{event}\r\n", event.len()));
        assert_eq!(visitor.read_chunk(), event.as_bytes(), "it arrives before the next is sent");
    }
    visitor.write("0\r\n\r\n");
    assert!(device.read_chunk().is_empty());
    device.write("0\r\n\r\n");
    assert!(visitor.read_chunk().is_empty());
    visitor.finish_writing();
    visitor.expect_end();
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/y"));
    assert_eq!(device.read_head().target(), "/y", "both messages were whole, so the link goes on");
    // By length, byte by byte.
    device.write("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n");
    visitor.read_head();
    for byte in ["a", "b", "c"] {
        device.write(byte);
        assert_eq!(visitor.read_exact(1), byte.as_bytes());
    }
}

#[test]
fn an_answer_to_the_end_of_the_stream_is_passed_on_as_it_comes() {
    let gateway = Gateway::start(&[]);
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    device.read_head();
    device.write("HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(visitor.read_head().get("transfer-encoding"), Some("chunked"));
    for piece in ["one", "two"] {
        device.write(piece);
        assert_eq!(visitor.read_chunk(), piece.as_bytes());
    }
    drop(device);
    assert!(visitor.read_chunk().is_empty(), "the end of the stream is the end of the message");
}

const LARGE: u64 = 64 << 20;

fn large_setup() -> (Gateway, LocalServer, crate::support::Process) {
    let gateway = Gateway::start(&[]);
    let local = LocalServer::start();
    let device = Ptth::device(&gateway, "lamp", &["--to", &local.url()]);
    (gateway, local, device)
}

#[test]
fn a_large_answer_arrives_whole_through_both_ends_with_flat_memory() {
    let (gateway, _local, device) = large_setup();
    let expected = Hash::of_pattern(LARGE);
    let before = (gateway.process.resident_kib(), device.resident_kib());
    let mut visitor = gateway.visitor();
    visitor.write(get(&format!("/lamp/big?n={LARGE}")));
    assert_eq!(visitor.read_head().get("content-length"), Some(LARGE.to_string().as_str()));
    let mut hash = Hash::default();
    visitor.read_through(LARGE, |piece| hash.update(piece));
    assert_eq!(hash.finish(), expected);
    visitor.write(get(&format!("/lamp/chunked?n={}", LARGE / 4)));
    let answer = visitor.read_answer("GET");
    assert_eq!(Hash::of(&answer.body), Hash::of_pattern(LARGE / 4));
    memory_is_flat(before, &gateway, &device);
}

#[test]
fn a_large_upload_arrives_whole_through_both_ends_with_flat_memory() {
    let (gateway, _local, device) = large_setup();
    let expected = Hash::of_pattern(LARGE);
    let before = (gateway.process.resident_kib(), device.resident_kib());
    let mut visitor = gateway.visitor();
    visitor.deadline = Duration::from_secs(30);
    visitor
        .write(format!("POST /lamp/hash HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"));
    let mut block = vec![0; 1 << 16];
    for i in 0..LARGE >> 16 {
        fill_pattern(i << 16, &mut block);
        visitor.write(&block);
    }
    visitor.read_answer("POST").expect_ok(expected);
    memory_is_flat(before, &gateway, &device);
}

#[track_caller]
fn memory_is_flat(before: (u64, u64), gateway: &Gateway, device: &crate::support::Process) {
    let after = (gateway.process.resident_kib(), device.resident_kib());
    assert!(
        after.0 < before.0 + 8 * 1024 && after.1 < before.1 + 8 * 1024,
        "resident memory in KiB, gateway and device: {before:?}, then {after:?}"
    );
}

#[test]
fn a_visitor_who_does_not_read_stops_the_device_from_writing() {
    let gateway = Gateway::start(&[]);
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    device.read_head();
    let before = gateway.process.resident_kib();
    let written = Arc::new(AtomicUsize::new(0));
    let counter = written.clone();
    let writer = std::thread::spawn(move || {
        device.deadline = Duration::from_secs(60);
        device.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"));
        let mut block = vec![0; 1 << 16];
        for i in 0..LARGE >> 16 {
            fill_pattern(i << 16, &mut block);
            device.write(&block);
            counter.fetch_add(block.len(), Ordering::SeqCst);
        }
        device
    });
    // The sockets' own buffers fill up, then nothing moves.
    let mut last = (usize::MAX, Instant::now());
    let stuck = eventually("the device's writes stop", || {
        let now = written.load(Ordering::SeqCst);
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > Duration::from_millis(400)).then_some(now)
    });
    assert!(
        (stuck as u64) < LARGE / 2,
        "{stuck} bytes were taken from the device for a visitor who reads nothing"
    );
    let grown = gateway.process.resident_kib().saturating_sub(before);
    assert!(grown < 4 * 1024, "the gateway grew by {grown} KiB");
    visitor.deadline = Duration::from_secs(30);
    visitor.read_head();
    let mut hash = Hash::default();
    visitor.read_through(LARGE, |piece| hash.update(piece));
    assert_eq!(hash.finish(), Hash::of_pattern(LARGE));
    let _device = writer.join().unwrap();
}

#[test]
fn a_device_that_does_not_read_stops_the_visitor_from_writing() {
    let gateway = Gateway::start(&[]);
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    let before = gateway.process.resident_kib();
    visitor.write(format!("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"));
    visitor.deadline = Duration::from_millis(500);
    let block = vec![0; 1 << 16];
    let taken = (0..LARGE >> 16).take_while(|_| visitor.try_write(&block).is_ok()).count() as u64
        * (1 << 16);
    assert!(taken < LARGE / 2, "{taken} bytes were taken for a device that reads nothing");
    let grown = gateway.process.resident_kib().saturating_sub(before);
    assert!(grown < 4 * 1024, "the gateway grew by {grown} KiB");
    assert_eq!(device.read_head().target(), "/x");
}

#[test]
fn slow_visitors_of_small_answers_do_not_hold_the_link() {
    let gateway = Gateway::start(&["--wait-for-link", "3s"]);
    let device = LocalServer::device(&gateway, "lamp", 1, routes);
    let mut slow: Vec<RawPeer> =
        (0..20).map(|_| RawPeer::connect_narrow(gateway.visitors)).collect();
    for visitor in &mut slow {
        visitor.write(get("/lamp/big?n=30000"));
        assert_eq!(visitor.read_byte(), b'H');
    }
    gateway.get("/lamp/x").expect_ok("hello\n");
    assert_eq!(device.count(), 21);
    for visitor in &mut slow {
        assert_eq!(visitor.read_head_after("H").status(), 200);
        assert_eq!(Hash::of(&visitor.read_exact(30_000)), Hash::of_pattern(30_000));
    }
}

/// A visitor who reads the head of an endless answer and no more, and the end of the device's
/// writing when its link is closed.
fn stalled_exchange(gateway: &Gateway) -> (RawPeer, Receiver<Instant>) {
    let mut device = gateway.link("lamp");
    let mut slow = RawPeer::connect_narrow(gateway.visitors);
    slow.write(get("/lamp/x"));
    device.read_head();
    device.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", u32::MAX));
    let (ended, end) = channel();
    std::thread::spawn(move || {
        device.deadline = Duration::from_secs(40);
        while device.try_write([0; 1 << 14]).is_ok() {}
        let _ = ended.send(Instant::now()); // the test may be over
    });
    assert_eq!(slow.read_byte(), b'H');
    (slow, end)
}

#[test]
fn a_visitor_below_the_least_rate_loses_a_link_that_others_wait_for() {
    let gateway = Gateway::start(&["--min-rate", "1024", "--wait-for-link", "28s"]);
    let then = Instant::now();
    let (_slow, end) = stalled_exchange(&gateway);
    let mut waiting = gateway.visitor();
    waiting.deadline = Duration::from_secs(20);
    waiting.write(get("/lamp/y"));
    let ended = end.recv_timeout(Duration::from_secs(25)).expect("the stalled exchange is ended");
    let took = ended - then;
    assert!(
        took > Duration::from_secs(8),
        "the rate is taken over 10 s, and it was ended after {took:?}"
    );
    let mut fresh = gateway.link("lamp");
    assert_eq!(fresh.read_head().target(), "/y");
    fresh.write(vector("draft-4-response"));
    waiting.read_answer("GET").expect_ok("Good");
}

#[test]
fn a_slow_visitor_whom_nobody_waits_for_or_without_a_least_rate_keeps_its_link() {
    let free = Gateway::start(&["--min-rate", "0", "--wait-for-link", "13s"]);
    let alone = Gateway::start(&["--min-rate", "1024"]);
    let (_slow, end) = stalled_exchange(&free);
    let (_quiet, alone_end) = stalled_exchange(&alone);
    let mut waiting = free.visitor();
    waiting.deadline = Duration::from_secs(20);
    waiting.ask(&get("/lamp/y")).expect_refusal(503);
    assert!(end.try_recv().is_err(), "--min-rate 0 turns the rule off");
    assert!(alone_end.try_recv().is_err(), "nobody waits for that link");
}

#[test]
fn a_hundred_visitors_at_once_are_all_served() {
    let gateway = Gateway::start(&["--wait-for-link", "20s"]);
    let local = LocalServer::start();
    let _device = Ptth::device(&gateway, "lamp", &["--to", &local.url(), "--links", "2..16"]);
    let (done, results): (_, Receiver<u16>) = channel();
    let done = Arc::new(Mutex::new(done));
    for _ in 0..4 {
        let (visitors, done) = (gateway.visitors, done.lock().unwrap().clone());
        std::thread::spawn(move || {
            let mut peers: Vec<RawPeer> = (0..25).map(|_| RawPeer::connect(visitors)).collect();
            for _ in 0..4 {
                peers.iter_mut().for_each(|p| p.write(get("/lamp/x")));
                for peer in &mut peers {
                    peer.deadline = Duration::from_secs(20);
                    done.send(peer.read_answer("GET").status()).unwrap();
                }
            }
        });
    }
    let statuses: Vec<u16> =
        (0..400).map(|_| results.recv_timeout(DEADLINE * 3).unwrap()).collect();
    assert!(statuses.iter().all(|s| *s == 200), "{statuses:?}");
    assert_eq!(local.count(), 400);
}
