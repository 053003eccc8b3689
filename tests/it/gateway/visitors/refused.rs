//! Bad input, face V.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{WRONG_CHUNKS, WRONG_LINES};
use crate::gateway::wire::{FOREIGN, VERSIONS, WRONG_CODINGS, WRONG_LENGTHS};
use crate::support::local::routes;
use crate::support::process::get;
use crate::support::{Gateway, Hash, Head, LocalServer, each_row, vector};

struct Row {
    name: String,
    bytes: Vec<u8>,
    statuses: &'static [u16],
}

/// Takes a row: its name, the bytes, and the statuses of which one is right.
type Add<'a> = &'a mut dyn FnMut(String, Vec<u8>, &'static [u16]);

fn bad_requests() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |name: String, bytes: Vec<u8>, statuses: &'static [u16]| {
        rows.push(Row { name, bytes, statuses })
    };
    bad_framing(&mut add);
    bad_lines(&mut add);
    bad_destinations(&mut add);
    bad_versions_and_sizes(&mut add);
    rows
}

fn with(lines: &str) -> String {
    format!("POST /lamp/x HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
}

fn bad_framing(add: Add<'_>) {
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
}

fn bad_lines(add: Add<'_>) {
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
}

fn bad_destinations(add: Add<'_>) {
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
}

fn bad_versions_and_sizes(add: Add<'_>) {
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
