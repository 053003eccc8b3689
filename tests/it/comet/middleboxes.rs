//! Balancers, proxies and portals between a device and its gateway (protocol.md §1.7): whose word
//! an answer is, and what the device does then.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::support::process::{Process, get};
use crate::support::raw::find;
use crate::support::{Gateway, Head, Ptth, RawGateway, RawPeer, SWITCH, each_row, eventually};

const NOTHING: &str = "HTTP/1.1 200 OK\r\nProxy-Status: ptth\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

#[track_caller]
fn device(raw: &RawGateway, more: &[&str]) -> Process {
    let fixed = [
        "device",
        &raw.url("lamp"),
        "--text",
        "on",
        "--polls",
        "1",
        "--links",
        "1..1",
        "--backoff",
        "5ms..20ms",
    ];
    Ptth::start(&[&fixed[..], more].concat())
}

/// The next connection, whose request offers the turn, or does not.
#[track_caller]
fn asked(raw: &RawGateway, upgrade: bool) -> RawPeer {
    let (peer, head) = raw.offer();
    assert_eq!(head.get("upgrade"), upgrade.then_some("PTTH/1.0"), "{}", head.text());
    peer
}

fn bare(status: &str, fields: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{fields}Content-Length: 0\r\n\r\n")
}

/// What boxes say to an `Upgrade` that they do not know: Envoy 403, Google's front end 400, others
/// whatever.
const BOXES: [&str; 7] = [
    "400 Bad Request",
    "403 Forbidden",
    "404 Not Found",
    "500 Oops",
    "502 Bad Gateway",
    "503 Service Unavailable",
    "505 No",
];

#[test]
fn what_a_box_says_to_an_upgrade_is_tried_without_one_and_that_answer_counts() {
    each_row(
        &BOXES,
        |status| (*status).to_owned(),
        |status| {
            let raw = RawGateway::start();
            let device = device(&raw, &[]);
            asked(&raw, true).write(bare(status, ""));
            let mut poll = asked(&raw, false); // at once, on a connection of its own
            poll.write(NOTHING);
            assert_eq!(
                device.line(),
                format!("connected lamp via {} (COMET json)", raw.url("lamp"))
            );
            // One poll may have passed since the gateway started between the two: the next one
            // offers the turn again.
            let head = poll.read_head();
            assert_eq!(head.get("upgrade"), Some("PTTH/1.0"));
            poll.write(bare(status, ""));
            let mut poll = asked(&raw, false);
            poll.write(NOTHING);
            // Now it is known, for as long as turn_retry says.
            assert_eq!(poll.read_head().get("upgrade"), None);
            device.expect_stderr(&format!("refuses offers with {}", &status[..3]));
            poll.write(NOTHING);
            assert_eq!(poll.read_head().get("upgrade"), None);
            assert_eq!(device.line_within(Duration::ZERO), None, "it stayed connected");
        },
    );
}

#[test]
fn an_event_is_answered_through_a_box_that_refuses_upgrades() {
    let raw = RawGateway::start();
    let _device = device(&raw, &[]);
    asked(&raw, true).write(bare("403 Forbidden", ""));
    let mut poll = asked(&raw, false);
    let text = get("/");
    let head = "HTTP/1.1 200 OK\r\nProxy-Status: ptth\r\nContent-Type: message/http\r\nPTTH-Message-ID: e\r\n";
    poll.write(format!("{head}Content-Length: {}\r\n\r\n{text}", text.len()));
    let answered = |peer: &mut RawPeer, head: &Head| {
        assert_eq!(head.get("ptth-message-id"), Some("e"), "{}", head.text());
        peer.read_exact(head.get("content-length").unwrap().parse().unwrap())
    };
    // Its answer offers the turn again, is refused for that, and is posted once more without.
    let head = poll.read_head();
    assert_eq!(head.get("upgrade"), Some("PTTH/1.0"));
    let first = answered(&mut poll, &head);
    poll.write(bare("403 Forbidden", ""));
    let (mut poll, head) = raw.offer();
    assert_eq!(head.get("upgrade"), None);
    assert_eq!(answered(&mut poll, &head), first);
    assert!(find(&first, b"\r\n\r\non").is_some());
    poll.write(NOTHING);
    assert_eq!(poll.read_head().get("ptth-message-id"), None);
}

#[test]
fn a_gateway_that_starts_between_an_offer_and_its_poll_still_gets_links() {
    let raw = RawGateway::start();
    let device = device(&raw, &[]);
    asked(&raw, true).write(bare("502 Bad Gateway", ""));
    let mut poll = asked(&raw, false);
    poll.write(NOTHING);
    assert_eq!(poll.read_head().get("upgrade"), Some("PTTH/1.0"));
    poll.write(SWITCH);
    poll.ask(&get("/")).expect_ok("on");
    assert!(device.line().ends_with("(COMET json)"));
    assert!(device.line().ends_with("(PTTH/1.0 turn)"));
}

#[test]
fn the_gateways_own_refusal_is_not_tried_another_way() {
    each_row(
        &BOXES,
        |status| (*status).to_owned(),
        |status| {
            // Nor is a wish to be left alone, from whomever.
            for fields in ["Proxy-Status: ptth; details=\"no\"\r\n", "Retry-After: 0\r\n"] {
                let raw = RawGateway::start();
                let mut device = device(&raw, &["--on-refusal", "retry"]);
                asked(&raw, true).write(bare(status, fields));
                asked(&raw, true).write(SWITCH);
                assert!(device.line().ends_with("(PTTH/1.0 turn)"));
                assert!(!device.has_ended());
            }
        },
    );
}

#[test]
fn whose_refusal_it_is_decides_whether_it_ends_the_device() {
    let marked = "Proxy-Status: ptth; details=\"no\"\r\n";
    let bearer = "WWW-Authenticate: Basic realm=\"x\", Bearer\r\n";
    // Status, fields, and what it does by default, with exit, with retry: whether it ends the
    // device.
    let rows = [
        ("401 Unauthorized", marked, [true, true, false]),
        ("401 Unauthorized", bearer, [true, true, false]),
        ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"portal\"\r\n", [false, true, false]),
        ("403 Forbidden", marked, [true, true, false]),
        ("403 Forbidden", "", [false, true, false]),
        ("403 Forbidden", "Proxy-Status: squid; details=\"ptth\"\r\n", [false, true, false]),
        ("404 Not Found", marked, [true, true, false]),
        ("404 Not Found", "Server: ingress\r\n", [false, true, false]),
        ("410 Gone", marked, [true, true, false]),
        ("410 Gone", "", [false, true, false]),
    ];
    each_row(
        &rows,
        |row| format!("{} {}", row.0, row.1.trim()),
        |(status, fields, ends)| {
            for (option, ends) in [&[][..], &["--on-refusal", "exit"], &["--on-refusal", "retry"]]
                .into_iter()
                .zip(ends)
            {
                let raw = RawGateway::start();
                let mut device = device(&raw, option);
                // An offer, and where that is not the gateway's word a poll without Upgrade.
                let probed = !fields.starts_with("Proxy-Status: ptth")
                    && matches!(&status[..3], "403" | "404");
                for upgrade in if probed { &[true, false][..] } else { &[true] } {
                    asked(&raw, *upgrade).write(bare(status, fields));
                }
                if *ends {
                    assert_eq!(device.exit_code(), 3, "{option:?}: {}", device.stderr());
                    continue;
                }
                asked(&raw, true).write(SWITCH);
                assert!(device.line().ends_with("(PTTH/1.0 turn)"), "{option:?}");
                device.expect_stderr(&status[..3]);
            }
        },
    );
}

#[test]
fn a_captive_portal_is_one_line_and_no_fallback() {
    let rows = [
        ("200 with HTML", "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 6\r\n\r\n<html>".to_owned()),
        ("302", bare("302 Found", "Location: http://portal.example/login\r\n")),
        ("303", bare("303 See Other", "Location: http://portal.example/login\r\n")),
        ("307 to another host", bare("307 Temporary Redirect", "Location: http://portal.example/log-in\r\n")),
        ("511", bare("511 Network Authentication Required", "Content-Type: text/html\r\n")),
    ];
    each_row(
        &rows,
        |row| row.0.to_owned(),
        |(_, answered)| {
            for upgrade in [true, false] {
                let raw = RawGateway::start();
                let mut device =
                    device(&raw, &["--fallback", if upgrade { "auto" } else { "only" }]);
                for _ in 0..2 {
                    asked(&raw, upgrade).write(answered); // each time as before: nothing is learnt of a portal
                }
                let mut peer = asked(&raw, upgrade);
                let told = || device.stderr().matches("log-in").count();
                eventually("both are told", || (told() >= 2).then_some(()));
                assert_eq!(told(), 2, "{}", device.stderr());
                assert_eq!(device.line_within(Duration::ZERO), None);
                peer.write(if upgrade { SWITCH } else { NOTHING.as_bytes() });
                device.line();
                assert!(!device.has_ended());
            }
        },
    );
}

#[test]
fn a_compressed_reply_is_named_and_none_is_asked_for() {
    let raw = RawGateway::start();
    let device = device(&raw, &["--fallback", "only"]);
    let (mut peer, head) = raw.offer();
    assert_eq!(head.get("accept-encoding"), Some("identity"));
    let gzip =
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff\xab\xae\x05\x00\x43\xbf\xa6\xa3\x02\x00\x00\x00";
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
        gzip.len()
    );
    peer.write([head.as_bytes(), gzip].concat());
    let (mut peer, _) = raw.offer();
    device.expect_stderr("Content-Encoding: gzip");
    assert_eq!(device.line_within(Duration::ZERO), None);
    peer.write(NOTHING.replacen("\r\n\r\n", "\r\nContent-Encoding: identity\r\n\r\n", 1));
    assert!(device.line().ends_with("(COMET json)"));
}

#[test]
fn a_date_in_retry_after_counts_from_the_answers_own() {
    // Each form of a date (RFC 9110 §5.6.7), a second after the answer's, whose clock is years
    // after ours.
    for date in [
        "Sun, 06 Nov 1994 08:49:38 GMT",
        "Sunday, 06-Nov-94 08:49:38 GMT",
        "Sun Nov  6 08:49:38 1994",
    ] {
        let raw = RawGateway::start();
        let _device = device(&raw, &[]);
        let mut peer = asked(&raw, true);
        let then = Instant::now();
        peer.write(bare(
            "503 Busy",
            &format!("Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: {date}\r\n"),
        ));
        let _next = asked(&raw, true);
        assert!(then.elapsed() >= Duration::from_millis(990), "{date}: {:?}", then.elapsed());
    }
    // One that is over, and what is no date, are no reason to wait.
    for date in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994", "soon"] {
        let raw = RawGateway::start();
        let _device = device(&raw, &[]);
        asked(&raw, true).write(bare("429 Slow", &format!("Retry-After: {date}\r\n")));
        asked(&raw, true).write(SWITCH);
    }
}

#[test]
fn the_spellings_of_boxes_turn_all_the_same() {
    for switch in [
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: PTTH/1.0\r\nconnection: upgrade\r\nserver: envoy\r\ndate: x\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: keep-alive, Upgrade\r\nUpgrade: PTTH/1.0\r\nVia: 1.1 x\r\n\r\n",
        "HTTP/1.1 101 Web Socket\r\nUpgrade: PTTH/1.0\r\nConnection: upgrade\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 101 \r\nUpgrade: ptth/1.0\r\nContent-Length: 0\r\nConnection: upgrade\r\nContent-Encoding: gzip\r\n\r\n",
    ] {
        let raw = RawGateway::start();
        let device = device(&raw, &[]);
        let mut peer = asked(&raw, true);
        peer.write(switch);
        assert!(device.line().ends_with("(PTTH/1.0 turn)"), "{switch}");
        peer.ask(&get("/")).expect_ok("on");
    }
}

/// A box before a gateway: the first head of each connection passes as `change` makes it,
/// everything else as it is.
fn balancer(
    to: SocketAddr,
    change: impl Fn(String) -> String + Send + Clone + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for from in listener.incoming().flatten() {
            let change = change.clone();
            std::thread::spawn(move || pass(from, to, change));
        }
    });
    addr
}

fn pass(mut from: TcpStream, to: SocketAddr, change: impl Fn(String) -> String) {
    let mut head = Vec::new();
    while find(&head, b"\r\n\r\n").is_none() {
        let mut bytes = [0; 4096];
        match from.read(&mut bytes) {
            Ok(n @ 1..) => head.extend_from_slice(&bytes[..n]),
            _ => return,
        }
    }
    let Ok(mut to) = TcpStream::connect(to) else { return };
    let _ = to.write_all(change(String::from_utf8(head).unwrap()).as_bytes()); // what is missing shows in the answer
    let (mut back, mut forth) = (to.try_clone().unwrap(), from.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut back, &mut forth);
        let _ = forth.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

#[test]
fn a_balancer_that_removes_connection_and_leaves_upgrade_gets_polls() {
    for field in ["X-Forwarded-For: 192.0.2.1", "Via: 1.1 box", "Forwarded: for=192.0.2.1"] {
        let gateway = Gateway::start(&[]);
        let at = balancer(gateway.devices, move |head| head.replace("Connection: Upgrade", field));
        let device = Ptth::start(&[
            "device",
            &format!("http://{at}/lamp"),
            "--text",
            "on",
            "--backoff",
            "10ms..200ms",
        ]);
        assert_eq!(
            device.line(),
            format!("connected lamp via http://{at}/lamp (COMET message/http)")
        );
        for _ in 0..3 {
            gateway.get("/lamp/x").expect_ok("on");
        }
        // A gateway that takes no polls says so.
        let gateway = Gateway::start(&["--fallback", "never"]);
        let at = balancer(gateway.devices, move |head| head.replace("Connection: Upgrade", field));
        let device = Ptth::start(&[
            "device",
            &format!("http://{at}/lamp"),
            "--text",
            "on",
            "--backoff",
            "10ms..200ms",
        ]);
        device.expect_stderr("426");
    }
}

#[test]
fn every_answer_of_the_devices_port_but_the_101_has_the_mark() {
    let gateway = Gateway::start(&[
        "--turn",
        "on-demand",
        "--poll-hold",
        "50ms",
        "--cors-origin",
        "https://page.example",
    ]);
    let answer = |request: &str| {
        let mut peer = gateway.dial();
        peer.write(request);
        peer.read_answer(request.split(' ').next().unwrap()).head
    };
    let offer = "POST /lamp HTTP/1.1\r\nHost: gw\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n";
    for (request, status) in [
        (offer.to_owned(), 204),
        ("POST /lamp HTTP/1.1\r\nHost: gw\r\n\r\n".to_owned(), 200),
        ("POST /lamp HTTP/1.1\r\nHost: gw\r\nAccept: message/http\r\n\r\n".to_owned(), 204),
        ("POST /Lamp HTTP/1.1\r\nHost: gw\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: gw\r\n\r\n".to_owned(), 405),
        (offer.replace("Host: gw", "Host: gw\r\nOrigin: https://evil.example"), 403),
        ("GARBAGE\r\n\r\n".to_owned(), 400),
        (
            "OPTIONS /lamp HTTP/1.1\r\nHost: gw\r\nOrigin: https://page.example\r\nAccess-Control-Request-Method: POST\r\n\r\n".to_owned(),
            204,
        ),
    ] {
        let head = answer(&request);
        let mark = head.get("proxy-status").unwrap_or_default();
        assert!(head.status() == status && mark.starts_with("ptth"), "{request}{}", head.text());
        assert_eq!(status >= 400, mark.starts_with("ptth; details=\""), "{}", head.text());
    }
    // The visitors' port does not: a page that comes through it is not a gateway's refusal.
    assert_eq!(gateway.get("/nobody/").status(), 404);
}

#[test]
fn the_proxy_protocol_is_named_on_either_port() {
    let gateway = Gateway::start(&[]);
    let v1 =
        b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 9999\r\nPOST /lamp HTTP/1.1\r\nHost: gw\r\n\r\n"
            .to_vec();
    let v2 =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\xdc\x04\x27\x0fPOST /lamp HTTP/1.1\r\nHost: gw\r\n\r\n".to_vec();
    for bytes in [v1, v2] {
        for mut peer in [gateway.dial(), gateway.visitor()] {
            peer.write(&bytes);
            let answer = peer.read_answer("POST");
            answer.expect_refusal(400);
            assert!(answer.text().contains("PROXY protocol"), "{}", answer.text());
        }
    }
}
