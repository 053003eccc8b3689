//! What is forwarded.

use super::echoed;
use crate::support::local::routes;
use crate::support::process::get;
use crate::support::{Gateway, Head, LocalServer};

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
fn names_that_may_pass_for_others_are_dropped_unless_they_are_to_be_kept() {
    let request = "GET /lamp/echo HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 6.6.6.6\r\nX.Forwarded.For: 6.6.6.6\r\nProxy: evil:1\r\nMy_Field: 1\r\nMy-Field: 2\r\n\r\n";
    for (options, kept) in [(&[][..], false), (&["--keep-underscore"][..], true)] {
        let gateway = Gateway::start(options);
        let _device = LocalServer::device(&gateway, "lamp", 1, routes);
        let head = echoed(&gateway.visitor().ask(request));
        assert_eq!(head.get("my_field"), kept.then_some("1"), "{}", head.text());
        assert_eq!(head.get("x_forwarded_for").is_some(), kept, "{}", head.text());
        assert_eq!(head.get("x.forwarded.for").is_some(), kept, "{}", head.text());
        assert_eq!(head.get("proxy"), None, "{}", head.text());
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
