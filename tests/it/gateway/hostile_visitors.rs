//! The threats as tables, face V: what visitors try at the gateway's port beyond `visitors/`, and
//! what one of them must never get of another's.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::engine::scale::affordable;
use crate::gateway::wire::FOREIGN;
use crate::relay::hostile::{is_cheap, spent};
use crate::support::local::routes;
use crate::support::process::get;
use crate::support::{
    Gateway, Hash, Head, LocalServer, Ptth, RawPeer, each_row, eventually, fill_pattern, say,
};

// ── Refused before anybody is asked ──

/// Threat and what it is; bytes; the statuses that refuse it.
type Row = (&'static str, String, &'static [u16]);

fn refused() -> Vec<Row> {
    let get_with = |lines: &str| format!("GET /lamp/x HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    let at = |target: &str, hosts: &str| format!("GET {target} HTTP/1.1\r\n{hosts}\r\n");
    vec![
        ("T1 both, in lines of another case", get_with("CONTENT-LENGTH: 0\r\ntransfer-encoding: chunked\r\n") + "0\r\n\r\n", &[400]),
        (
            "T1 both, with a length of 0 between two codings",
            get_with("Transfer-Encoding: chunked\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
            &[400],
        ),
        (
            "T2 on HTTP/1.0, behind keep-alive",
            "POST /lamp/x HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            &[400],
        ),
        ("T9 CONNECT in absolute form", "CONNECT http://lamp:80/ HTTP/1.1\r\nHost: lamp:80\r\n\r\n".into(), &[501]),
        ("T9 CONNECT with a body", "CONNECT lamp:80 HTTP/1.1\r\nHost: lamp:80\r\nContent-Length: 5\r\n\r\nhello".into(), &[501]),
        ("T10 NUL in the method", "GE\0T /lamp/x HTTP/1.1\r\nHost: a\r\n\r\n".into(), &[400]),
        ("T10 CR in the method", "GE\rT /lamp/x HTTP/1.1\r\nHost: a\r\n\r\n".into(), &[400]),
        ("T10 LF in the method", "GE\nT /lamp/x HTTP/1.1\r\nHost: a\r\n\r\n".into(), &[400]),
        ("T10 LF in the target", at("/lamp/\nx", "Host: a\r\n"), &[400]),
        ("T10 CRLF in the target", at("/lamp/\r\nx", "Host: a\r\n"), &[400]),
        ("T10 DEL in the target", at("/lamp/\x7f", "Host: a\r\n"), &[400]),
        ("T10 NUL in the Host", at("/lamp/x", "Host: a\0b\r\n"), &[400]),
        ("T10 a CR at the end of a value", get_with("X: a\r\r\n"), &[400]),
        ("T11 a list of Hosts in two spellings", at("/lamp/x", "Host: a\r\nHOST: a\r\n"), &[400]),
        ("T11 Host with a comma and no space", at("/lamp/x", "Host: a,b\r\n"), &[400]),
        ("T11 Host with two trailing dots", at("/lamp/x", "Host: a..\r\n"), &[400]),
        ("T11 a dot alone as Host", at("/lamp/x", "Host: .\r\n"), &[400]),
        ("T11 Host with an encoded dot", at("/lamp/x", "Host: lamp%2edevices.example\r\n"), &[400]),
        ("T11 Host with a backslash", at("/lamp/x", "Host: a\\b\r\n"), &[400]),
        ("T11 Host with a query", at("/lamp/x", "Host: a?b\r\n"), &[400]),
        ("T11 Host with bytes above 0x7F", at("/lamp/x", "Host: \u{e4}\r\n"), &[400]),
        ("T11 Host with an empty port and userinfo", at("/lamp/x", "Host: a:@b\r\n"), &[400]),
        ("T11 Host with a signed port", at("/lamp/x", "Host: a:+80\r\n"), &[400]),
        ("T11 Host with a zone", at("/lamp/x", "Host: [fe80::1%25eth0]\r\n"), &[400]),
        ("T11 absolute form, another port", at("http://a:81/lamp/x", "Host: a:80\r\n"), &[400]),
        ("T11 absolute form, no Host", at("http://a/lamp/x", ""), &[400]),
        ("T11 absolute form, no host in it", at("http:///lamp/x", "Host: a\r\n"), &[400]),
        ("T11 absolute form, a backslash", at("http://a\\b/lamp/x", "Host: a\r\n"), &[400]),
        ("T11 a scheme without slashes", at("http:/lamp/x", "Host: a\r\n"), &[400]),
        ("T11 ..;", at("/lamp/..\\..;/x", "Host: a\r\n"), &[400]),
        ("T11 one encoded dot of two", at("/lamp/.%2e/x", "Host: a\r\n"), &[400]),
        ("T11 an encoded dot segment at the end", at("/lamp/x/%2e%2e?q", "Host: a\r\n"), &[400]),
        ("T11 an encoded NUL", at("/lamp/x%00.html", "Host: a\r\n"), &[400]),
        ("T11 half an escape", at("/lamp/x%2", "Host: a\r\n"), &[400]),
        ("T11 an escape that is none", at("/lamp/x%zz", "Host: a\r\n"), &[400]),
        ("T11 an encoded slash before the name", at("/%2flamp/x", "Host: a\r\n"), &[400]),
        ("T11 a trailing dot in the name", at("/lamp./x", "Host: a\r\n"), &[400]),
        ("T11 a matrix parameter in the name", at("/lamp;a=b/x", "Host: a\r\n"), &[400]),
        (
            "T12 Connection names seventeen fields",
            get_with(&format!("Connection: {}\r\n", (0..17).map(|i| format!("x{i}")).collect::<Vec<_>>().join(", "))),
            &[400],
        ),
        ("T13 HTTP/1.1 in another case, behind a right target", "GET /lamp/x HtTP/1.1\r\nHost: a\r\n\r\n".into(), &[400]),
        ("T13 a version with a sign", "GET /lamp/x HTTP/+1.1\r\nHost: a\r\n\r\n".into(), &[400, 505]),
        ("T13 two versions", "GET /lamp/x HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n".into(), &[400]),
        ("T13 a tab before the version", "GET /lamp/x\tHTTP/1.1\r\nHost: a\r\n\r\n".into(), &[400]),
    ]
}

#[test]
fn what_visitors_may_not_say_is_refused_and_closed_and_no_device_hears_of_it() {
    let gateway = Gateway::start(&["--wait-for-link", "100ms"]);
    let device = LocalServer::device(&gateway, "lamp", 1, routes);
    each_row(
        &refused(),
        |r| r.0.to_owned(),
        |(_, bytes, statuses)| {
            let before = device.count();
            let mut visitor = gateway.visitor();
            visitor.write(format!("{bytes}{}", get("/lamp/smuggled"))); // what follows a refused request is no request
            let answer = visitor.read_answer("GET");
            answer.expect_refusal_among(statuses);
            assert!(answer.head.closes(), "no Connection: close in {}", answer.head.text());
            visitor.expect_end();
            gateway.get("/lamp/fence").expect_ok("hello\n");
            assert_eq!(
                device.count(),
                before + 1,
                "the device was asked: {}",
                device.requests()[before].text()
            );
        },
    );
}

#[test]
fn foreign_protocols_are_refused_at_once_and_fill_no_log() {
    // T13: at the default level a stranger writes no line of the log; with RUST_LOG=debug one each.
    for (level, lines) in [("info", 0), ("reverse_http=debug", FOREIGN.len())] {
        let gateway = Gateway::start_with_env(&[], &[("RUST_LOG", level)]);
        each_row(
            FOREIGN,
            |r| r.0.to_owned(),
            |(_, bytes)| {
                let mut visitor = gateway.visitor();
                visitor.write(bytes);
                let answer = visitor.read_answer("GET"); // without an end of the stream from this side
                answer.expect_refusal_among(&[400, 501, 505]);
                visitor.expect_end();
            },
        );
        gateway.get("/nobody/").expect_refusal(404);
        eventually("the lines are written", || {
            (gateway.process.stderr().matches("was refused").count() >= lines).then_some(())
        });
        let said = gateway.process.stderr();
        let ours = said
            .lines()
            .filter(|l| !l.contains("no device nobody") && !l.contains("event loop"))
            .count();
        assert!(ours <= lines, "{} strangers at level {level}: {said}", FOREIGN.len());
    }
}

// ── One routing decision, and the request carries the value that it was made on ──

#[test]
fn the_request_carries_the_host_that_it_was_routed_on() {
    // T11, T12: target and Host as they come; the device that is reached, target, Host and
    // X-Forwarded-Host as it sees them.
    let rows = [
        ("/echo", "lamp.devices.example", "lamp", "/echo", "lamp.devices.example"),
        ("/echo", "LAMP.DEVICES.example", "lamp", "/echo", "LAMP.DEVICES.example"),
        ("/echo", "desk.devices.example.", "desk", "/echo", "desk.devices.example."),
        (
            "/echo/lamp/",
            "desk.devices.example:81",
            "desk",
            "/echo/lamp/",
            "desk.devices.example:81",
        ),
        (
            "http://lamp.devices.example/echo",
            "LAMP.devices.example",
            "lamp",
            "/echo",
            "lamp.devices.example",
        ),
        (
            "http://lamp.devices.example:80/echo",
            "lamp.devices.example",
            "lamp",
            "/echo",
            "lamp.devices.example:80",
        ),
        (
            "HTTP://lamp.devices.example./echo",
            "lamp.devices.example",
            "lamp",
            "/echo",
            "lamp.devices.example.",
        ),
        (
            "http://other.example/desk/echo?a=//b",
            "other.example",
            "desk",
            "/echo?a=//b",
            "other.example",
        ),
        ("/desk/echo/%2e%2e%2fx", "a", "desk", "/echo/%2e%2e%2fx", "a"),
        ("/desk/echo/%252e%252e/x", "a", "desk", "/echo/%252e%252e/x", "a"),
        ("/desk/echo//lamp", "a", "desk", "/echo//lamp", "a"),
        ("/desk/echo/...", "a", "desk", "/echo/...", "a"),
        ("/desk/echo?/../lamp\\x", "a", "desk", "/echo?/../lamp\\x", "a"),
        ("/desk/echo/%2F%5c", "a", "desk", "/echo/%2F%5c", "a"),
    ];
    let gateway = Gateway::start(&["--route", "path", "--route", "host=devices.example"]);
    let [lamp, desk] = ["lamp", "desk"].map(|name| LocalServer::device(&gateway, name, 1, routes));
    each_row(
        &rows,
        |r| format!("{} at {}", r.0, r.1),
        |(target, host, name, seen, forwarded)| {
            let before = (lamp.count(), desk.count());
            let answer = gateway.visitor().ask(&format!(
                "GET {target} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Host: evil\r\n\r\n"
            ));
            assert_eq!(answer.status(), 200, "{}", answer.text());
            let (head, _) = Head::split(&answer.body);
            let reached = (lamp.count() - before.0, desk.count() - before.1);
            assert_eq!(reached, if *name == "lamp" { (1, 0) } else { (0, 1) });
            assert_eq!(
                (head.target(), head.get("host"), head.get("x-forwarded-host")),
                (*seen, Some(*forwarded), Some(*forwarded))
            );
        },
    );
}

#[test]
fn connection_strips_what_is_its_own_and_nothing_else() {
    // T12: each name alone, in a case of its own. `true`: the field arrives nevertheless.
    let rows = [
        ("Host", "a", true),
        ("content-LENGTH", "5", true),
        ("Authorization", "Bearer x", true),
        ("Cookie", "a=b", true),
        ("X-Forwarded-For", "127.0.0.1", true),
        ("X-Forwarded-Proto", "http", true),
        ("X-Forwarded-Prefix", "/lamp", true),
        ("Via", "1.1 ptth", true),
        ("Content-Type", "text/x", true),
        ("If-Match", "\"x\"", true),
        ("Range", "bytes=0-1", true),
        ("Cache-Control", "no-store", true),
        ("X-Hop", "1", false),
        ("Keep-Alive", "timeout=5", false),
        ("Proxy-Connection", "keep-alive", false),
        ("TE", "gzip", false),
        ("Trailers", "x", false),
    ];
    let gateway = Gateway::start(&["--via", "ptth"]);
    let _device = LocalServer::device(&gateway, "lamp", 1, routes);
    each_row(
        &rows,
        |r| r.0.to_owned(),
        |(name, value, arrives)| {
            let own = [
                "Host",
                "content-LENGTH",
                "X-Forwarded-Proto",
                "X-Forwarded-Prefix",
                "X-Forwarded-For",
                "Via",
            ]
            .contains(name);
            let line = if own { String::new() } else { format!("{name}: {value}\r\n") };
            let mut visitor = gateway.visitor();
            visitor.write(format!(
                "POST /lamp/echo HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, {name}\r\n{line}Content-Length: 5\r\n\r\nhello"
            ));
            let answer = visitor.read_answer("POST");
            let (head, body) = Head::split(&answer.body);
            assert_eq!(head.get(name), arrives.then_some(*value), "{}", head.text());
            assert_eq!(body, b"hello");
            visitor.ask(&get("/lamp/x")).expect_ok("hello\n");
        },
    );
    // A coding that Connection names is a coding nevertheless.
    let mut visitor = gateway.visitor();
    visitor.write(
        "POST /lamp/hash HTTP/1.1\r\nHost: a\r\nConnection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    );
    visitor.read_answer("POST").expect_ok(Hash::of(b"hello"));
    // Via says where a request came through already; ours comes after it.
    let answer = visitor.ask("GET /lamp/echo HTTP/1.1\r\nHost: a\r\nVia: 1.0 before\r\n\r\n");
    assert_eq!(Head::split(&answer.body).0.all("via"), ["1.0 before", "1.1 ptth"]);
    // Names that some servers read as framing, routing or forwarding fields.
    let answer = visitor.ask("GET /lamp/echo HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\nTransfer_Encoding: chunked\r\nX_Forwarded_For: 6.6.6.6\r\n_Host: b\r\nHost_: b\r\n\r\n");
    let (head, _) = Head::split(&answer.body);
    assert!(!head.fields.iter().any(|(name, _)| name.contains('_')), "{}", head.text());
}

#[test]
fn a_coming_protocol_is_never_asked_for_with_a_body() {
    // T9: the bytes after the head are a body, whatever Upgrade says; HTTP2-Settings goes also
    // where it stands alone.
    let gateway = Gateway::start(&[]);
    let device = LocalServer::device(&gateway, "lamp", 1, routes);
    let rows = [
        (
            "h2c in capitals",
            "Upgrade: H2C\r\nConnection: upgrade, http2-settings\r\nHTTP2-Settings: AAMAAABk\r\n",
            "",
        ),
        ("HTTP2-Settings alone", "HTTP2-Settings: AAMAAABk\r\n", ""),
        (
            "a chunked body",
            "Upgrade: chat\r\nConnection: Upgrade\r\nTransfer-Encoding: chunked\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            "a body by its length",
            "Upgrade: chat\r\nConnection: Upgrade\r\nContent-Length: 5\r\n",
            "hello",
        ),
        ("two lines of h2c", "Upgrade: h2c\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n", ""),
    ];
    each_row(
        &rows,
        |r| r.0.to_owned(),
        |(_, lines, body)| {
            let mut visitor = gateway.visitor();
            visitor.write(format!("POST /lamp/echo HTTP/1.1\r\nHost: a\r\n{lines}\r\n{body}"));
            let answer = visitor.read_answer("POST");
            let (head, came) = Head::split(&answer.body);
            for name in ["upgrade", "connection", "http2-settings"] {
                assert_eq!(head.get(name), None, "{}", head.text());
            }
            assert_eq!(came, if body.is_empty() { b"".as_slice() } else { b"hello" });
            visitor.ask(&get("/lamp/x")).expect_ok("hello\n");
        },
    );
    assert_eq!(device.count(), 2 * rows.len());
}

// ── T4: a body that nobody reads ──

#[test]
fn bytes_of_a_refused_requests_body_are_never_a_request() {
    let gateway = Gateway::start(&["--wait-for-link", "50ms"]);
    let lamp = LocalServer::device(&gateway, "lamp", 1, routes);
    drop(gateway.link("away"));
    eventually("the gateway noticed", || (gateway.get("/away/").status() == 503).then_some(()));
    let smuggled = get("/lamp/smuggled");
    let chunk = format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
    let rows: Vec<(&str, u16, String, String)> =
        [("/desk/x", 404), ("/away/x", 503), ("/lamp/../x", 400)]
            .into_iter()
            .flat_map(|(target, status)| {
                let by_length = |n: usize| {
                    (
                        target,
                        status,
                        format!("Content-Length: {}\r\n", n * smuggled.len()),
                        smuggled.repeat(n),
                    )
                };
                [
                    by_length(1),
                    by_length(1_000),
                    by_length(20_000),
                    (target, status, "Transfer-Encoding: chunked\r\n".to_owned(), chunk.clone()),
                ]
            })
            .collect();
    each_row(
        &rows,
        |r| format!("{} with {} bytes behind {}", r.0, r.3.len(), r.2),
        |(target, status, framing, body)| {
            let before = lamp.count();
            let mut visitor = gateway.visitor();
            let _ = visitor
                .try_write(format!("POST {target} HTTP/1.1\r\nHost: a\r\n{framing}\r\n{body}")); // it may not take all of it
            let answer = visitor.read_answer("POST");
            answer.expect_refusal(*status);
            match answer.head.closes() {
                true => visitor.expect_closed(),
                false => visitor.ask(&get("/lamp/x")).expect_ok("hello\n"), // and no other answer before this one
            }
            gateway.get("/lamp/fence").expect_ok("hello\n");
            assert!(
                lamp.requests()[before..].iter().all(|r| r.target() != "/smuggled"),
                "a body became a request"
            );
        },
    );
}

// ── T15: callers that vanish between callers that check ──

#[test]
fn callers_that_vanish_at_any_byte_of_their_request_or_answer_shift_nobodys_answer() {
    let request = |nonce: &str| {
        format!(
            "POST /lamp/x HTTP/1.1\r\nHost: a\r\nX-Nonce: {nonce}\r\nContent-Length: 12\r\n\r\nhello, world"
        )
    };
    let gateway = Gateway::start(&["--wait-for-link", "20s"]);
    let local = LocalServer::with(|c| {
        let nonce = c.head.get("x-nonce").unwrap_or_default().repeat(20);
        c.text(nonce);
    });
    let _device = Ptth::device(&gateway, "lamp", &["--to", &local.url(), "--links", "1..3"]);
    let vanishing = request("vanishing");
    let mut kept = gateway.visitor(); // one that is there all the time, beside fresh ones
    kept.deadline = Duration::from_secs(20);
    for k in 0..vanishing.len() + 100 {
        let mut gone = gateway.visitor();
        gone.write(&vanishing[..k.min(vanishing.len())]);
        if k > vanishing.len() {
            gone.read_exact(k - vanishing.len());
        }
        if k % 2 == 0 {
            drop(gone)
        } else {
            gone.reset()
        }
        let nonce = format!("<{k}>");
        kept.write(request(&nonce));
        kept.read_answer("POST").expect_ok(nonce.repeat(20));
        if k % 8 == 0 {
            let nonce = format!("<fresh {k}>");
            let mut fresh = gateway.visitor();
            fresh.write(request(&nonce));
            fresh.read_answer("POST").expect_ok(nonce.repeat(20));
        }
    }
}

// ── T29: exhaustion ──

#[test]
fn a_thousand_callers_of_a_stalled_device_cost_little_and_leave_nothing_behind() {
    const CALLERS: usize = 1_000;
    if affordable(CALLERS + 50) < CALLERS + 50 {
        return;
    }
    let gateway = Gateway::start(&["--wait-for-link", "500ms"]);
    let mut link = gateway.link("lamp");
    let mut stalled = gateway.visitor();
    stalled.write(get("/lamp/stalled"));
    link.read_head();
    gateway.get("/nobody/").expect_refusal(404);
    let before = (gateway.process.resident_kib(), gateway.process.threads());
    for round in 0..3 {
        let mut callers: Vec<RawPeer> = (0..CALLERS)
            .map(|_| {
                let mut caller = gateway.visitor();
                caller.write(get("/lamp/x"));
                caller
            })
            .collect();
        for caller in &mut callers {
            let answer = caller.read_answer("GET");
            answer.expect_refusal(503);
            assert_eq!(answer.head.get("retry-after"), Some("1"));
        }
        let grown = gateway.process.resident_kib().saturating_sub(before.0);
        say(&format!(
            "stalled device: {CALLERS} callers, round {round}: {grown} KiB more resident memory"
        ));
        assert!(grown < 8 * 1024, "{grown} KiB for {CALLERS} callers in round {round}");
        assert_eq!(gateway.process.threads(), before.1);
    }
    link.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    stalled.read_answer("GET").expect_ok("ok");
}

#[test]
fn a_large_body_to_a_slow_reader_keeps_memory_flat_at_both_ends() {
    const TOTAL: u64 = 256 << 20;
    let gateway = Gateway::start(&[]);
    let local = LocalServer::start();
    let device = Ptth::device(&gateway, "lamp", &["--to", &local.url()]);
    gateway.get("/lamp/x").expect_ok("hello\n");
    let before = (gateway.process.resident_kib(), device.resident_kib());
    // A small window, and a reader that checks every byte: it is what everybody waits for.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    socket.connect(&gateway.visitors.into()).unwrap();
    let mut slow = RawPeer::adopt(socket.into(), "slow visitor");
    slow.deadline = Duration::from_secs(30);
    slow.write(get(&format!("/lamp/big?n={TOTAL}")));
    assert_eq!(slow.read_head().status(), 200);
    let (mut expected, mut at, mut most) = (vec![0; 1 << 16], 0u64, (0, 0));
    let mut right = true;
    slow.read_through(TOTAL, |piece| {
        for part in piece.chunks(expected.len()) {
            fill_pattern(at, &mut expected[..part.len()]);
            right &= part == &expected[..part.len()];
            if at >> 24 != (at + part.len() as u64) >> 24 {
                most =
                    (gateway.process.resident_kib().max(most.0), device.resident_kib().max(most.1));
            }
            at += part.len() as u64;
        }
    });
    assert!(right, "the bytes are others");
    let grown = (most.0.saturating_sub(before.0), most.1.saturating_sub(before.1));
    say(&format!(
        "slow reader of {} MiB: the gateway grew by {} KiB, the device by {} KiB",
        TOTAL >> 20,
        grown.0,
        grown.1
    ));
    assert!(grown.0 < 4 * 1024 && grown.1 < 4 * 1024, "{grown:?} KiB more, gateway and device");
}

// ── T31 through a local server ──

#[test]
fn a_local_server_that_never_answers_costs_504s_and_its_pool_recovers() {
    let gateway = Gateway::start(&["--first-byte", "1500ms", "--wait-for-link", "9s"]);
    let hung = Arc::new(AtomicUsize::new(0));
    let (release, gate) = crossbeam_channel::bounded::<()>(0);
    let local = LocalServer::with({
        let hung = hung.clone();
        move |c| {
            if c.head.target() == "/hang" {
                hung.fetch_add(1, SeqCst);
                let _ = gate.recv_timeout(Duration::from_secs(30)); // closed when the test lets them go
            }
            c.text("done");
        }
    });
    let device = Ptth::device(&gateway, "lamp", &["--to", &local.url(), "--links", "1..2"]);
    for round in 0..2 {
        let mut hanging: Vec<RawPeer> = (0..2).map(|_| gateway.visitor()).collect();
        hanging.iter_mut().for_each(|v| v.write(get("/lamp/hang")));
        for visitor in &mut hanging {
            visitor.read_answer("GET").expect_refusal(504);
            visitor.ask(&get("/lamp/x")).expect_ok("done"); // on a link that came instead
        }
        assert!(hung.load(SeqCst) >= 2 * (round + 1));
    }
    drop(release);
    gateway.get("/lamp/x").expect_ok("done");
    assert!(!device.stderr().contains("panicked"), "{}", device.stderr());
}

// ── T5, from a visitor ──

#[test]
fn a_body_in_chunks_of_one_byte_arrives_in_time_and_flat_memory() {
    let gateway = Gateway::start(&[]);
    let (sum, sums) = mpsc::channel::<usize>();
    let _device = LocalServer::device(&gateway, "lamp", 1, move |c| {
        let mut n = 0;
        c.each_piece(|piece| n += piece.len());
        let _ = sum.send(n); // the test may be over
        c.text("read");
    });
    gateway.get("/lamp/x").expect_ok("read");
    sums.recv_timeout(Duration::from_secs(1)).unwrap();
    let before = spent(&gateway.process);
    let mut visitor = gateway.visitor();
    visitor.deadline = Duration::from_secs(60);
    visitor.write("POST /lamp/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let block = "1\r\nx\r\n".repeat(ONE_BYTE_CHUNKS / 100);
    for _ in 0..100 {
        visitor.write(&block);
    }
    visitor.write("0\r\n\r\n");
    visitor.read_answer("POST").expect_ok("read");
    assert_eq!(sums.recv_timeout(Duration::from_secs(1)), Ok(ONE_BYTE_CHUNKS));
    is_cheap("a request, at the gateway", &gateway.process, before);
}

/// 10 MB of them; fewer where nothing is optimised.
pub const ONE_BYTE_CHUNKS: usize = if cfg!(debug_assertions) { 300_000 } else { 10_000_000 };

#[test]
fn extensions_and_trailers_have_an_end_wherever_the_limit_falls() {
    // T5: small extensions count over the whole body, trailers by their number and their bytes.
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let whole = Arc::new(AtomicUsize::new(0));
    let counted = whole.clone();
    let device = LocalServer::device(&gateway, "lamp", 0, move |c| {
        let body = c.body(); // a body that is cut ends this thread
        counted.fetch_add(1, SeqCst);
        c.text(Hash::of(&body));
    });
    let trailers = |n: usize| format!("0\r\n{}\r\n", "X: y\r\n".repeat(n));
    let rows = [
        ("an extension on every chunk", "1;a=b\r\nx\r\n".repeat(20_000) + "0\r\n\r\n", None),
        ("few extensions", "1;a=b\r\nx\r\n".repeat(100) + "0\r\n\r\n", Some(vec![b'x'; 100])),
        ("101 trailers", trailers(101), None),
        ("100 trailers", trailers(100), Some(Vec::new())),
        (
            "trailers of 20 KiB",
            format!("0\r\n{}\r\n", format!("X: {}\r\n", "y".repeat(400)).repeat(50)),
            None,
        ),
        ("an obs-fold in a trailer", "0\r\nX: a\r\n b\r\n\r\n".to_owned(), None),
        ("a CR in a trailer", "0\r\nX: a\rb\r\n\r\n".to_owned(), None),
        ("a lone LF behind a trailer", "0\r\nX: a\n\r\n".to_owned(), None),
    ];
    let mut served = 0;
    each_row(
        &rows,
        |r| r.0.to_owned(),
        |(_, body, arrives)| {
            device.answer_on(gateway.link("lamp"));
            let mut visitor = gateway.visitor();
            let _ = visitor.try_write(format!(
                "POST /lamp/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
            ));
            match arrives {
                Some(bytes) => {
                    visitor.read_answer("POST").expect_ok(Hash::of(bytes));
                    served += 1;
                }
                None => {
                    if let Some(head) = visitor.try_read_head() {
                        assert!(matches!(head.status(), 400 | 431), "{}", head.text());
                    }
                }
            }
            assert_eq!(whole.load(SeqCst), served, "the device got it as a whole body");
        },
    );
    // What a row's device counts late shows here at the latest: another request has gone through
    // after it.
    device.answer_on(gateway.link("lamp"));
    let mut visitor = gateway.visitor();
    visitor.write("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    visitor.read_answer("POST").expect_ok(Hash::of(b""));
    assert_eq!(whole.load(SeqCst), served + 1, "a device got a body as whole that was none");
}
