//! Framing before meaning (T47): whatever is known by its head alone (`OPTIONS *`, a heartbeat) and
//! carries a body. The body is never a message.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use reverse_http::{Body, Device, DeviceLink, Gateway as Library, Limits};

use crate::support::local::routes;
use crate::support::process::get;
use crate::support::{Gateway, LocalServer, Ptth, RawGateway, RawPeer, each_row};

/// What an attacker would have the next visitor's request begin with: it is not finished.
const CHOSEN: &str = "GET /chosen HTTP/1.1\r\nHost: lamp.devices.example\r\nX: ";

/// A head without its empty line, with a body in each framing.
fn with_bodies(head: &str) -> Vec<(String, String)> {
    let (n, chunks) = (CHOSEN.len(), format!("{:x}\r\n{CHOSEN}\r\n0\r\n\r\n", CHOSEN.len()));
    [
        ("length", format!("Content-Length: {n}\r\n\r\n{CHOSEN}")),
        ("length twice", format!("Content-Length: {n}\r\nContent-Length: {n}\r\n\r\n{CHOSEN}")),
        ("chunked", format!("Transfer-Encoding: chunked\r\n\r\n{chunks}")),
        ("length, Expect", format!("Expect: 100-continue\r\nContent-Length: {n}\r\n\r\n{CHOSEN}")),
        ("length, a part of it", format!("Content-Length: {}\r\n\r\n{CHOSEN}", n + 1000)),
    ]
    .map(|(what, rest)| (what.to_owned(), format!("{head}{rest}")))
    .to_vec()
}

#[test]
fn options_of_the_server_is_answered_here_and_its_body_is_never_a_request() {
    let gateway = Gateway::start(&["--route", "host=devices.example", "--route", "path"]);
    let device = LocalServer::device(&gateway, "lamp", 1, routes);
    let fence = || {
        let mut visitor = gateway.visitor();
        visitor
            .write("GET /fence HTTP/1.1\r\nHost: lamp.devices.example\r\nCookie: secret\r\n\r\n");
        visitor.read_answer("GET").expect_ok("hello\n");
    };
    let forms = [
        "OPTIONS * HTTP/1.1\r\nHost: lamp.devices.example\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: elsewhere\r\n",
        "OPTIONS http://lamp.devices.example HTTP/1.1\r\nHost: lamp.devices.example\r\n",
        "OPTIONS https://lamp.devices.example:443 HTTP/1.1\r\nHost: lamp.devices.example:443\r\n",
    ];
    each_row(
        &forms,
        |form| form.to_string(),
        |form| {
            let before = device.count();
            let mut visitor = gateway.visitor();
            for _ in 0..2 {
                let answer = visitor.ask(&format!("{form}\r\n"));
                assert_eq!(
                    (answer.status(), answer.head.closes()),
                    (200, false),
                    "{}",
                    answer.head.text()
                );
            }
            for (what, bytes) in with_bodies(form) {
                let mut visitor = gateway.visitor();
                visitor.write(bytes);
                let answer = visitor.read_answer("OPTIONS");
                assert_eq!(answer.status(), 200, "{what}: {}", answer.head.text());
                assert!(
                    answer.head.closes(),
                    "{what}: the body was not read, yet the connection goes on: {}",
                    answer.head.text()
                );
                visitor.finish_writing();
                visitor.expect_end();
                fence();
            }
            let seen = device.requests();
            let asked: Vec<_> = seen[before..].iter().map(|head| head.start.as_str()).collect();
            assert_eq!(asked, vec!["GET /fence HTTP/1.1"; 5], "the device got something else");
        },
    );
}

/// A link of a device, of each kind of service, and the requests that it was seen to serve.
fn a_heartbeat_is_alone(mut turn: impl FnMut() -> RawPeer, served: impl Fn() -> Vec<String>) {
    for close in ["", "Connection: close\r\n"] {
        for (what, bytes) in with_bodies(&format!("OPTIONS * HTTP/1.1\r\nHost:\r\n{close}")) {
            for busy_before in [false, true] {
                let mut link = turn();
                let before = served().len();
                if busy_before {
                    link.ask("GET /before HTTP/1.1\r\nHost: a\r\n\r\n").expect_ok("yes"); // a worker may linger on the link
                }
                link.write(format!("{bytes}{}", get("/behind")));
                let answer = link.read_answer("OPTIONS");
                answer.expect_refusal(400);
                assert!(answer.head.closes(), "{what}: {}", answer.head.text());
                link.finish_writing();
                link.expect_end();
                let expected = if busy_before { vec!["/before".to_owned()] } else { vec![] };
                assert_eq!(
                    served()[before..],
                    expected,
                    "{what}: the body, or what is behind it, was served"
                );
            }
        }
    }
    let mut link = turn();
    assert_eq!(
        link.ask("OPTIONS * HTTP/1.1\r\nHost:\r\nContent-Length: 0\r\n\r\n").status(),
        204,
        "a length of 0 is no body"
    );
    link.ask("GET /after HTTP/1.1\r\nHost: a\r\n\r\n").expect_ok("yes");
}

#[test]
fn a_heartbeat_with_a_body_ends_the_link_and_its_body_is_never_a_request() {
    // A forwarder.
    let raw = RawGateway::start();
    let local = LocalServer::with(|c| c.text("yes"));
    let _forwarder = Ptth::start(&[
        "device",
        &raw.url("lamp"),
        "--to",
        &local.url(),
        "--backoff",
        "5ms..20ms",
        "--links",
        "1..2",
    ]);
    let targets = || local.requests().iter().map(|head| head.target().to_owned()).collect();
    a_heartbeat_is_alone(|| raw.turn(), targets);

    // Handlers on workers.
    let raw = RawGateway::start();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let paths = seen.clone();
    let quick = Duration::from_millis(5)..Duration::from_millis(20);
    let device = Device::builder(raw.url("lamp")).backoff(quick).links(1..=2).build().unwrap();
    let running = device
        .spawn(move |request: Request<Body>| {
            paths.lock().unwrap().push(request.uri().path().to_owned());
            Response::new(Body::from("yes"))
        })
        .unwrap();
    a_heartbeat_is_alone(|| raw.turn(), || seen.lock().unwrap().clone());
    running.stop();

    // A link without a loop.
    for (what, bytes) in with_bodies("OPTIONS * HTTP/1.1\r\nHost:\r\n") {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut link = DeviceLink::new(theirs, bytes.into_bytes(), Arc::new(Limits::default()));
        drop(ours);
        let error = link.next_request().unwrap_err();
        assert!(error.to_string().contains("heartbeat"), "{what}: {error}");
        assert!(link.next_request().unwrap().is_none(), "{what}: the link is over");
    }
}

#[test]
fn a_program_cannot_ask_the_server_with_a_body() {
    let gateway = Library::builder().listen("127.0.0.1:0").start().unwrap();
    let device =
        Device::builder(format!("http://{}/lamp", gateway.devices_addr())).build().unwrap();
    let running = device.spawn(|_: Request<Body>| Response::new(Body::from("yes"))).unwrap();
    let lamp = gateway.device("lamp");
    lamp.wait_connected(Duration::from_secs(20)).unwrap();
    let ask = |body: Body| {
        lamp.send(Request::builder().method(Method::OPTIONS).uri("*").body(body).unwrap())
    };
    for body in [Body::from("x"), Body::from_reader(std::io::empty())] {
        let error = ask(body).unwrap_err();
        assert!(error.is_usage(), "{error}");
    }
    assert_eq!(
        ask(Body::empty()).unwrap().status(),
        StatusCode::NO_CONTENT,
        "the device answers itself"
    );
    running.stop();
}

/// Python's `http.server` among others: it answers a POST at its head and takes the body for the
/// next request. What comes after such an answer is nobody's request, and nobody gets its answer.
#[test]
fn the_rest_of_a_body_never_becomes_a_request_for_a_server_that_reads_no_bodies() {
    const SMUGGLED: &str = "GET /stolen HTTP/1.1\r\nHost: a\r\n\r\n";
    let local = LocalServer::with(|c| {
        let target = c.head.target().to_owned();
        if c.head.method() == "POST" {
            c.forget_body();
            return c.peer.write("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        }
        c.text(target);
    });
    let gateway = Gateway::start(&[]);
    let _device = Ptth::device(&gateway, "lamp", &["--to", &local.url(), "--links", "1..1"]);
    for fields in ["", "Expect: 100-continue\r\n"] {
        let mut visitor = gateway.visitor();
        visitor.write(format!(
            "POST /lamp/p HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: {}\r\n\r\n",
            3 * SMUGGLED.len()
        ));
        assert_eq!(visitor.read_answer("POST").status(), 403);
        let _ = visitor.try_write(SMUGGLED.repeat(3));
        for n in 0..4 {
            let path = format!("/right{n}");
            gateway.get(&format!("/lamp{path}")).expect_ok(&path);
        }
    }
    assert!(local.requests().iter().all(|head| !head.target().contains("stolen")));
}

/// The same where the body is all there, as an attacker's short one always is: what such a server
/// leaves unread would be the beginning of the next visitor's request.
#[test]
fn a_body_that_a_server_left_unread_never_begins_the_next_visitors_request() {
    let local = LocalServer::with(|c| {
        let method = c.head.method().to_owned();
        if c.head.target() != "/unread" {
            let at = c.peer.peer_addr();
            return c.text(at.to_string());
        }
        c.forget_body();
        c.peer.write(match &*method {
            "POST" => "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
            "HEAD" => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
        });
    });
    let gateway = Gateway::start(&[]);
    let _device = Ptth::device(&gateway, "lamp", &["--to", &local.url(), "--links", "1..1"]);
    let ask = |method: &str, path: &str, body: &str| {
        let length = body.len();
        let head = format!("{method} /lamp{path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}");
        let mut visitor = gateway.visitor();
        visitor.write(format!("{head}\r\n\r\n{body}"));
        visitor.read_answer(method).text()
    };
    for method in ["GET", "HEAD", "OPTIONS", "DELETE", "POST"] {
        ask(method, "/unread", CHOSEN);
        let told = local.last();
        let closes = (method != "POST").then_some("close");
        assert_eq!(told.get("connection"), closes, "{}", told.text());
        ask("GET", "/right", "");
        assert_eq!(local.last().target(), "/right", "{method}");
    }
    assert!(local.requests().iter().all(|head| head.target() != "/chosen"));
    // Beside it, what a server is likely to have read keeps its connection.
    let first = ask("GET", "/right", "");
    assert_eq!((ask("POST", "/right", "x"), ask("GET", "/right", "")), (first.clone(), first));
}

/// The same for a link: only a device of this crate, which has a session, is known to frame as the
/// gateway does.
#[test]
fn a_link_without_a_session_ends_behind_an_answer_to_half_a_request() {
    let gateway = Gateway::start(&[]);
    for (name, fields, kept) in
        [("lamp", "", false), ("desk", "PTTH-Session: 000102030405060708090a0b0c0d0e0f\r\n", true)]
    {
        let (mut link, mut visitor) = (gateway.link_with(name, fields), gateway.visitor());
        visitor.write(format!("POST /{name}/p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"));
        link.read_head();
        link.write("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        visitor.read_answer("POST");
        visitor.write("hello");
        if kept {
            assert_eq!(link.read_exact(5), b"hello");
            visitor.write(format!("GET /{name}/next HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert_eq!(link.read_head().target(), "/next");
        } else {
            link.expect_end();
        }
        if kept {
            continue;
        }
        let (mut link, mut visitor) = (gateway.link_with(name, fields), gateway.visitor());
        visitor
            .write(format!("GET /{name}/p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"));
        link.read_head();
        assert_eq!(link.read_exact(5), b"hello");
        link.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno");
        visitor.read_answer("GET").expect_ok("no");
        link.expect_end(); // it may not have read a body that it did not expect
    }
}
