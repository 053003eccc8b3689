//! Answering on a turned link, and what a hostile gateway gets.

use std::time::{Duration, Instant};

use super::{SEED_TEXT, forwarder, text_device};
use crate::gateway::wire::{WRONG_CODINGS, WRONG_LENGTHS};
use crate::support::process::get;
use crate::support::{Hash, Head, LocalServer, RawGateway, each_row};

// ── Answering on a turned link ──

#[test]
fn text_is_the_answer_to_every_method_and_path() {
    let raw = RawGateway::start();
    let _device = text_device(&raw, &[]);
    let mut link = raw.turn();
    for (method, target) in
        [("GET", "/"), ("DELETE", "/a/b?c=d"), ("BREW", "/pot"), ("OPTIONS", "/"), ("PATCH", "/x")]
    {
        let answer = link.ask(&format!("{method} {target} HTTP/1.1\r\nHost:\r\n\r\n"));
        answer.expect_ok(SEED_TEXT);
        assert!(answer.head.get("date").is_some(), "{}", answer.head.text());
    }
    let answer = link.ask("HEAD / HTTP/1.1\r\nHost:\r\n\r\n");
    assert_eq!(
        (answer.status(), answer.head.get("content-length"), answer.body.len()),
        (200, Some("15"), 0)
    );
    link.write("POST / HTTP/1.1\r\nHost:\r\nContent-Length: 5\r\n\r\nhello");
    link.read_answer("POST").expect_ok(SEED_TEXT);
    link.write("POST / HTTP/1.1\r\nHost:\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nX: y\r\n\r\n");
    link.read_answer("POST").expect_ok(SEED_TEXT);
    link.ask("GET / HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n").expect_ok(SEED_TEXT);
    link.expect_closed();
    let mut link = raw.turn();
    link.ask("GET / HTTP/1.0\r\n\r\n").expect_ok(SEED_TEXT);
    link.expect_closed();
}

#[test]
fn host_is_data_on_a_turned_link() {
    let raw = RawGateway::start();
    let _device = text_device(&raw, &[]);
    let mut link = raw.turn();
    for host in
        ["", "Host:\r\n", "Host: \r\n", "Host: anything.example:99999\r\n", "Host: 127.0.0.1\r\n"]
    {
        link.ask(&format!("GET / HTTP/1.1\r\n{host}\r\n")).expect_ok(SEED_TEXT);
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let _device = forwarder(&raw, &local, &[]);
    let mut link = raw.turn();
    link.write((0..5).map(|i| get(&format!("/echo/{i}"))).collect::<String>());
    for i in 0..5 {
        let answer = link.read_answer("GET");
        assert_eq!(Head::split(&answer.body).0.target(), format!("/echo/{i}"));
    }
    assert_eq!(local.count(), 5);
}

#[test]
fn the_device_answers_heartbeats_itself() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let _forwarder = forwarder(&raw, &local, &["--links", "1..1"]);
    let mut link = raw.turn();
    for host in ["Host:\r\n", "Host: gw.example\r\n", ""] {
        let answer = link.ask(&format!("OPTIONS * HTTP/1.1\r\n{host}\r\n"));
        assert_eq!(answer.status(), 204, "{}", answer.head.text());
    }
    link.ask(&get("/x")).expect_ok("hello\n");
    assert_eq!(local.count(), 1, "the local server never sees a heartbeat");
    let answer = link.ask("OPTIONS * HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n");
    assert_eq!(answer.status(), 204);
    link.expect_closed();

    let raw = RawGateway::start();
    let _text = text_device(&raw, &["--links", "1..1"]);
    assert_eq!(raw.turn().ask("OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n").status(), 204);
}

#[test]
fn a_link_that_fell_silent_after_a_heartbeat_is_given_up() {
    let raw = RawGateway::start();
    let _device = text_device(&raw, &["--links", "1..1", "--silence", "300ms"]);
    let mut link = raw.turn();
    // Without a heartbeat it stays: gateways that never ask exist.
    link.expect_quiet(Duration::from_millis(700));
    assert_eq!(link.ask("OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n").status(), 204);
    let then = Instant::now();
    link.expect_closed();
    assert!(then.elapsed() >= Duration::from_millis(250), "it was closed at once");
    let mut next = raw.turn();
    next.ask(&get("/")).expect_ok(SEED_TEXT);
    // This gateway is known to ask: a link that is lost before its first heartbeat is given up,
    // too.
    let then = Instant::now();
    next.expect_closed();
    assert!(then.elapsed() >= Duration::from_millis(250), "it was closed at once");
}

#[test]
fn first_bytes_that_are_not_http_close_the_link_with_a_word_about_them() {
    let rows: &[(&str, &[u8], &str)] = &[
        ("an HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", "HTTP/2"),
        ("a TLS hello", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", "TLS"),
        ("an SSH banner", b"SSH-2.0-OpenSSH_9.2p1\r\n", "SSH"),
    ];
    each_row(
        rows,
        |r| r.0.to_owned(),
        |(_, bytes, word)| {
            let raw = RawGateway::start();
            let local = LocalServer::start();
            let device = forwarder(&raw, &local, &["--links", "1..1"]);
            let mut link = raw.turn();
            link.write(bytes);
            if let Some(head) = link.try_read_head() {
                assert!(head.status() >= 400, "{}", head.text());
            }
            device.expect_stderr(word);
            let _again = raw.offer();
            assert_eq!(local.count(), 0);
        },
    );
}

// ── What a hostile gateway gets (face l of the threats) ──

/// Its name, the request, and the statuses of which one is right.
type Malformed = (String, Vec<u8>, &'static [u16]);

fn with(lines: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost:\r\n{lines}\r\n")
}

fn malformed_framing() -> Vec<Malformed> {
    let mut rows: Vec<Malformed> = Vec::new();
    rows.push((
        "T1 length, then coding".into(),
        (with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n").into(),
        &[400],
    ));
    rows.push((
        "T1 coding, then length".into(),
        (with("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n") + "0\r\n\r\n").into(),
        &[400],
    ));
    for value in WRONG_CODINGS {
        rows.push((
            format!("T2 {value:?}"),
            (with(&format!("Transfer-Encoding: {value}\r\n")) + "0\r\n\r\n").into(),
            &[400, 501],
        ));
    }
    rows.push((
        "T2 two lines".into(),
        (with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n").into(),
        &[400, 501],
    ));
    rows.push((
        "T2 on HTTP/1.0".into(),
        "POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        &[400],
    ));
    for value in WRONG_LENGTHS {
        rows.push((
            format!("T3 {value:?}"),
            with(&format!("Content-Length: {value}\r\n")).into(),
            &[400],
        ));
    }
    rows.push((
        "T3 two lengths".into(),
        with("Content-Length: 0\r\nContent-Length: 5\r\n").into(),
        &[400],
    ));
    rows
}

fn malformed_heads() -> Vec<Malformed> {
    let mut rows: Vec<Malformed> = Vec::new();
    for (name, line) in [
        ("NUL in a value", "X: a\0b\r\n"),
        ("CR in a value", "X: a\rb\r\n"),
        ("space before the colon", "X : a\r\n"),
        ("an empty name", ": a\r\n"),
        ("a line without a colon", "no colon\r\n"),
        ("obs-fold", "X: a\r\n b\r\n"),
        ("a lone LF", "X: a\nY: b\r\n"),
    ] {
        rows.push((format!("T10 {name}"), with(line).into(), &[400]));
    }
    rows.push((
        "control byte in the target".into(),
        "GET /\x01 HTTP/1.1\r\nHost:\r\n\r\n".into(),
        &[400],
    ));
    rows.push((
        "bytes above 0x7F in the target".into(),
        b"GET /\xe4 HTTP/1.1\r\nHost:\r\n\r\n".to_vec(),
        &[400],
    ));
    rows.push(("* with GET".into(), "GET * HTTP/1.1\r\nHost:\r\n\r\n".into(), &[400]));
    rows.push((
        "CONNECT".into(),
        "CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n".into(),
        &[400, 405, 501],
    ));
    rows.push(("117 fields".into(), with(&"X: y\r\n".repeat(116)).into(), &[431]));
    rows.push((
        "a head of 21 KiB".into(),
        with(&format!("X: {}\r\n", "y".repeat(21_000))).into(),
        &[431],
    ));
    rows.push((
        "a target of 8,001 bytes".into(),
        get(&format!("/{}", "y".repeat(8_000))).into(),
        &[414],
    ));
    rows.push(("T13 HTTP/1.2".into(), "GET / HTTP/1.2\r\nHost:\r\n\r\n".into(), &[505]));
    rows.push(("T13 HTTP/2.0".into(), "GET / HTTP/2.0\r\nHost:\r\n\r\n".into(), &[400, 505]));
    rows.push(("T13 HTTP/01.1".into(), "GET / HTTP/01.1\r\nHost:\r\n\r\n".into(), &[400, 505]));
    rows.push((
        "T13 a response".into(),
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into(),
        &[400],
    ));
    rows.push(("T13 words".into(), "hello device, how are you\r\n\r\n".into(), &[400]));
    rows
}

#[test]
fn malformed_requests_on_a_link_are_refused_and_reach_no_local_server() {
    let rows = [malformed_framing(), malformed_heads()].concat();
    for what in ["--to", "--text"] {
        let raw = RawGateway::start();
        let local = LocalServer::start();
        let _device = if what == "--to" {
            forwarder(&raw, &local, &["--links", "2..8"])
        } else {
            text_device(&raw, &["--links", "2..8"])
        };
        each_row(
            &rows,
            |r| format!("{what}: {}", r.0),
            |(_, bytes, statuses)| {
                let asked = local.count();
                let mut link = raw.turn();
                let _ = link.try_write(bytes); // it may be refused before all is written
                let answer = link.read_answer("POST");
                answer.expect_refusal_among(statuses);
                assert!(answer.head.closes(), "{}", answer.head.text());
                link.expect_closed();
                assert_eq!(local.count(), asked, "the local server was asked");
            },
        );
        raw.turn().ask(&get("/")).expect_ok(if what == "--to" { "hello\n" } else { SEED_TEXT });
    }
}

#[test]
fn chunked_bodies_that_are_malformed_are_never_whole() {
    // T5. The head was right, so the local server may have been asked; a body it reads must not end
    // well.
    let rows: &[(&str, &str)] = &[
        ("0x before a size", "0x2\r\nab\r\n0\r\n\r\n"),
        ("LF after an extension", "2;\nab\r\n0\r\n\r\n"),
        ("space before a size", " 2\r\nab\r\n0\r\n\r\n"),
        ("space behind a size", "2 \r\nab\r\n0\r\n\r\n"),
        ("a sign", "+2\r\nab\r\n0\r\n\r\n"),
        ("17 hex digits", "00000000000000002\r\nab\r\n0\r\n\r\n"),
        ("2^64-1", "ffffffffffffffff\r\nab\r\n0\r\n\r\n"),
        ("an empty size", "\r\nab\r\n0\r\n\r\n"),
        ("no CRLF behind the data", "2\r\nabX0\r\n\r\n"),
        ("more data than its size", "2\r\nabc\r\n0\r\n\r\n"),
        ("lone LFs", "2\nab\n0\n\n"),
        ("bare CR in the size line", "2\rab\r\n0\r\n\r\n"),
        ("a trailer that is no field", "2\r\nab\r\n0\r\nno colon\r\n\r\n"),
        ("trailers without end", "2\r\nab\r\n0\r\nX: TRAILERS"),
    ];
    let raw = RawGateway::start();
    let whole = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = whole.clone();
    let local = LocalServer::with(move |c| {
        let body = c.body(); // a body that is cut ends this thread
        counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        c.text(Hash::of(&body));
    });
    let _device = forwarder(&raw, &local, &["--links", "2..8"]);
    each_row(
        rows,
        |r| r.0.to_owned(),
        |(_, body)| {
            let mut link = raw.turn();
            let body = body.replace("TRAILERS", &"x".repeat(40_000));
            let _ = link.try_write(format!(
                "POST /x HTTP/1.1\r\nHost:\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
            ));
            if let Some(head) = link.try_read_head() {
                assert!(matches!(head.status(), 400 | 431 | 502), "{}", head.text());
            }
            assert_eq!(
                whole.load(std::sync::atomic::Ordering::SeqCst),
                0,
                "the local server got it as a whole body"
            );
        },
    );
    let mut link = raw.turn();
    link.write("POST /x HTTP/1.1\r\nHost:\r\nTransfer-Encoding: chunked\r\n\r\n00002;ext=\"a;b\"\r\nab\r\n0\r\nX-Check: y\r\n\r\n");
    link.read_answer("POST").expect_ok(Hash::of(b"ab"));
}

#[test]
fn a_request_cut_short_is_never_whole() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let _device = forwarder(&raw, &local, &["--links", "2..8"]);
    for bytes in [
        "POST /hash HTTP/1.1\r\nHost:\r\nContent-Length: 10\r\n\r\nhello",
        "POST /hash HTTP/1.1\r\nHost:\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let mut link = raw.turn();
        link.write(bytes);
        link.finish_writing();
        link.deadline = Duration::from_secs(5);
        if let Some(head) = link.try_read_head() {
            assert!(head.status() >= 400, "{}", head.text());
        }
        link.expect_no_more();
    }
    raw.turn().ask(&get("/")).expect_ok("hello\n");
}
