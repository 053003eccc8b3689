//! Keep-alive, versions, methods, framing.

use std::time::Duration;

use super::echoed;
use crate::support::local::routes;
use crate::support::process::get;
use crate::support::{Gateway, Hash, Head, LocalServer, vector};

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
    let go = visitor.read_head(); // ureq takes a 100 with a field for a refusal
    assert_eq!((go.start.as_str(), go.fields.len()), ("HTTP/1.1 100 Continue", 0));
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
