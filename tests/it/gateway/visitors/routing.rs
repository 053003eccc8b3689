//! Routes, and what a visitor is told.

use std::time::{Duration, Instant};

use super::{echoed, has_proxy_status};
use crate::support::local::routes;
use crate::support::process::get;
use crate::support::{Gateway, LocalServer, RawPeer, eventually, vector};

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
