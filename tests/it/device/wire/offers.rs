//! What is offered, and what turns.

use std::time::Duration;

use super::{QUICK, SEED_TEXT, forwarder, is_offer, seeds_answer, text_device};
use crate::support::{
    Head, LocalServer, Ptth, RawGateway, RawPeer, SWITCH, each_row, eventually, vector,
};

// ── Offers ──

#[test]
fn the_offer_is_the_same_on_every_link_and_nothing_follows_it() {
    let raw = RawGateway::start();
    let _device = text_device(&raw, &["--links", "3..3"]);
    let mut offers: Vec<(RawPeer, Head)> = (0..3).map(|_| raw.offer()).collect();
    offers.iter().for_each(|(_, head)| is_offer(head, &raw, "PTTH/1.0"));
    assert!(
        offers.windows(2).all(|w| w[0].1.bytes == w[1].1.bytes),
        "one run, one session, one offer"
    );
    offers.iter_mut().for_each(|(peer, _)| peer.expect_quiet(Duration::from_millis(100)));
    assert!(raw.try_accept().is_none(), "a fourth link");
    let other = RawGateway::start();
    let _second = text_device(&other, &[]);
    assert_ne!(
        other.offer().1.get("ptth-session"),
        offers[0].1.get("ptth-session"),
        "each run has a session of its own"
    );
}

#[test]
fn path_and_query_of_the_url_are_the_offers_target() {
    for (path, target) in [
        ("", "/"),
        ("/", "/"),
        ("/lamp", "/lamp"),
        ("/lamp?id=iamsam&x=%20", "/lamp?id=iamsam&x=%20"),
        ("/lamp/more", "/lamp/more"),
    ] {
        let raw = RawGateway::start();
        let device = Ptth::start(&["device", &format!("http://{}{path}", raw.addr), "--text", "x"]);
        let (mut peer, head) = raw.offer();
        assert_eq!(head.target(), target);
        peer.write(SWITCH);
        let name = if target == "/" { "default" } else { "lamp" };
        let line = device.line();
        assert!(
            line.starts_with(&format!("connected {name} via http://{}", raw.addr))
                && line.ends_with(" (PTTH/1.0 turn)"),
            "{line}"
        );
    }
}

#[test]
fn the_dialect_option_chooses_the_dialect() {
    let raw = RawGateway::start();
    let device = text_device(&raw, &["--dialect", "PTTH/0.9"]);
    let (mut peer, head) = raw.offer();
    is_offer(&head, &raw, "PTTH/0.9");
    peer.write(vector("seed-2-switch"));
    assert_eq!(device.line(), format!("connected lamp via {} (PTTH/0.9 turn)", raw.url("lamp")));

    let raw = RawGateway::start();
    let device = Ptth::start(&[
        "device",
        &format!("http://{}", raw.addr),
        "--dialect",
        "ptth",
        "--origin",
        "https://backend.example.com",
        "--text",
        SEED_TEXT,
    ]);
    let (mut peer, head) = raw.offer();
    assert_eq!(head.start, "GET /.well-known/ptth/https%3A%2F%2Fbackend.example.com/ HTTP/1.1");
    assert_eq!(head.get("upgrade"), Some("ptth"));
    assert_eq!(head.get("alpn"), Some("http%2F1.1"));
    assert_eq!(head.get("content-length"), None, "{}", head.text());
    assert_eq!(head.get("host"), Some(raw.addr.to_string().as_str()));
    assert_eq!(head.get("connection").map(str::to_lowercase).as_deref(), Some("upgrade"));
    peer.write(vector("ietf-2-switch"));
    peer.write("GET / HTTP/1.1\r\nHost: backend.example.com\r\n\r\n");
    seeds_answer(&mut peer);
    let line = device.line();
    assert!(
        line.starts_with("connected https://backend.example.com via ")
            && line.ends_with(" (ptth turn)"),
        "{line}"
    );
}

// ── The turn ──

#[test]
fn the_seeds_gateway_gets_what_seed_4_shows() {
    let raw = RawGateway::start();
    let device = text_device(&raw, &["--dialect", "PTTH/0.9"]);
    let (mut peer, _) = raw.offer();
    peer.write(vector("seed-2-switch"));
    peer.write(vector("seed-3-request"));
    seeds_answer(&mut peer);
    peer.write(vector("seed-3-request")); // persistence: the link goes on
    seeds_answer(&mut peer);
    assert!(device.line().starts_with("connected lamp via "));
}

#[test]
fn every_dialects_switch_turns() {
    // Options, 101 (with what may come before it), request.
    let ietf: &[&str] = &["--dialect", "ptth", "--origin", "https://backend.example.com"];
    let rows: Vec<(&str, &[&str], Vec<u8>)> = vec![
        ("seed", &["--dialect", "PTTH/0.9"], vector("seed-2-switch")),
        ("draft", &[], vector("draft-2-switch")),
        ("ietf", ietf, vector("ietf-2-switch")),
        ("yaler, with an empty reason phrase", &[], vector("yaler-2-switch")),
        ("a version that was not offered", &["--dialect", "PTTH/0.9"], vector("draft-2-switch")),
        ("the other way round", &[], vector("seed-2-switch")),
        ("no Connection", &[], b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\n\r\n".to_vec()),
        (
            "XBMC's second Connection line",
            &[],
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nConnection: keep-alive\r\n\r\n".to_vec(),
        ),
        ("token in another case", &[], b"HTTP/1.1 101 Switching Protocols\r\nupgrade: ptth/1.0\r\nconnection: upgrade\r\n\r\n".to_vec()),
        (
            "framing fields, which a 101 has not (T8)",
            &[],
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nContent-Length: 5\r\n\r\n".to_vec(),
        ),
        (
            "chunked, which a 101 is not",
            &[],
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
        ),
        ("a 100 before it (T8)", &[], [b"HTTP/1.1 100 Continue\r\n\r\n", SWITCH].concat()),
        ("a 103 with fields before it", &[], [b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", SWITCH].concat()),
        ("eight 1xx before it", &[], [b"HTTP/1.1 102 Processing\r\n\r\n".repeat(8).as_slice(), SWITCH].concat()),
    ];
    each_row(
        &rows,
        |r| r.0.to_owned(),
        |(_, options, switch)| {
            for together in [true, false] {
                let raw = RawGateway::start();
                // An IETF offer's path is made from its origins.
                let url = if options.contains(&"ptth") {
                    format!("http://{}", raw.addr)
                } else {
                    raw.url("lamp")
                };
                let _device =
                    Ptth::start(&[&["device", &url, "--text", SEED_TEXT], QUICK, options].concat());
                let (mut peer, _) = raw.offer();
                if together {
                    peer.write([switch.as_slice(), &vector("draft-3-request")].concat());
                } else {
                    peer.write(switch);
                    peer.write(vector("draft-3-request"));
                }
                seeds_answer(&mut peer);
                peer.expect_quiet(Duration::from_millis(20));
            }
        },
    );
}

#[test]
fn a_missing_connection_in_the_101_is_tolerated_with_a_warning() {
    let raw = RawGateway::start();
    let device = text_device(&raw, &[]);
    let (mut peer, _) = raw.offer();
    peer.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\n\r\n");
    assert!(device.line().starts_with("connected "));
    device.expect_stderr("Connection");
}

#[test]
fn switch_and_first_request_are_served_exactly_once_wherever_they_are_cut() {
    // T7. The links are held open so that the device has no reason to wait between them.
    let bytes = [vector("draft-2-switch"), vector("draft-3-request")].concat();
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let _device = forwarder(&raw, &local, &["--links", "4..8"]);
    for at in 1..bytes.len() {
        let (mut peer, _) = raw.offer();
        peer.write(&bytes[..at]);
        peer.write(&bytes[at..]);
        peer.read_answer("GET").expect_ok("hello\n");
        assert_eq!(local.count(), at, "cut at {at}");
    }
}

/// Whichever side has the link when it is closed, a worker that lingers on it or the event loop: an
/// operator reads the same reason.
#[test]
fn a_link_closed_behind_an_answer_is_put_down_to_the_gateway() {
    let raw = RawGateway::start();
    let device = text_device(&raw, &[]);
    for closed in 1..=8 {
        let mut peer = raw.turn();
        peer.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        seeds_answer(&mut peer);
        drop(peer);
        let said = || device.stderr().matches("disconnected lamp from ").count() == closed;
        eventually("the end of a link on standard error", || said().then_some(()));
    }
    let log = device.stderr();
    let ends: Vec<_> =
        log.lines().filter(|line| line.contains("disconnected lamp from ")).collect();
    assert!(ends.iter().all(|line| line.ends_with(": closed: by the gateway")), "{ends:#?}");
}

#[test]
fn only_a_right_101_turns_and_no_request_is_answered_before_it() {
    // T8: each of these, with a request after it, on the first connection; the local server must
    // not be asked.
    let rows: Vec<(&str, Vec<u8>)> = vec![
        ("101 without Upgrade", b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n".to_vec()),
        ("101 websocket", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n".to_vec()),
        ("101 h2c", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n".to_vec()),
        ("101 with an empty Upgrade", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade:\r\nConnection: Upgrade\r\n\r\n".to_vec()),
        ("101 of a longer name", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTHX/1.0\r\nConnection: Upgrade\r\n\r\n".to_vec()),
        ("nine 1xx", [b"HTTP/1.1 102 Processing\r\n\r\n".repeat(9).as_slice(), SWITCH].concat()),
        ("200", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("200 with the 101 as its body", [b"HTTP/1.1 200 OK\r\nContent-Length: 76\r\n\r\n", SWITCH].concat()),
        ("HTTP/1.0 101", b"HTTP/1.0 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n".to_vec()),
        ("HTTPS/1.1 101", b"HTTPS/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n".to_vec()),
        ("status 1O1", b"HTTP/1.1 1O1 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n".to_vec()),
        ("space before a colon", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade : PTTH/1.0\r\nConnection: Upgrade\r\n\r\n".to_vec()),
        ("no status line", b"GET /status HTTP/1.1\r\nHost:\r\n\r\n".to_vec()),
        ("a head without end", [b"HTTP/1.1 101 Switching Protocols\r\nX: ", b"x".repeat(20_000).as_slice(), b"\r\n\r\n"].concat()),
    ];
    each_row(
        &rows,
        |r| r.0.to_owned(),
        |(_, bytes)| {
            let raw = RawGateway::start();
            let local = LocalServer::start();
            let mut device = forwarder(&raw, &local, &[]);
            let (mut peer, _) = raw.offer();
            let _ = peer.try_write([bytes.as_slice(), &vector("draft-3-request")].concat()); // it may close in the middle
            // Either it closes and dials again, or it offers again here: in no case does an answer
            // come.
            let later = eventually("the device goes on", || {
                if let Some(mut fresh) = raw.try_accept() {
                    return Some(fresh.read_head().method().to_owned());
                }
                let again = peer
                    .stirs_within(Duration::from_millis(5))
                    .then(|| peer.try_read_head())
                    .flatten();
                again.map(|head| head.start)
            });
            assert!(!later.starts_with("HTTP"), "it answered: {later}");
            assert_eq!(local.count(), 0, "the local server was asked");
            assert_eq!(device.line_within(Duration::ZERO), None, "it says that it is connected");
            assert!(!device.has_ended(), "{}", device.stderr());
        },
    );
}
