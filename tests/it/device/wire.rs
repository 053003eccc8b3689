//! `ptth device` against raw gateways: what it offers, what it accepts (protocol.md 1.4), how it
//! answers on a turned link, and what a hostile gateway gets.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use crate::gateway::wire::{WRONG_CODINGS, WRONG_LENGTHS};
use crate::support::process::{Process, get};
use crate::support::raw::find;
use crate::support::{
    Hash, Head, LocalServer, Ptth, RawGateway, RawPeer, SWITCH, each_row, eventually, vector,
};

const SEED_TEXT: &str = "!dlrow ,olleH\r\n";
const QUICK: &[&str] = &["--backoff", "5ms..20ms"];

/// A device with `--text` at this gateway.
#[track_caller]
fn text_device(raw: &RawGateway, more: &[&str]) -> Process {
    Ptth::start(&[&["device", &raw.url("lamp"), "--text", SEED_TEXT], QUICK, more].concat())
}

#[track_caller]
fn forwarder(raw: &RawGateway, local: &LocalServer, more: &[&str]) -> Process {
    Ptth::start(&[&["device", &raw.url("lamp"), "--to", &local.url()], QUICK, more].concat())
}

/// Fails unless `head` is the offer of a classic device.
#[track_caller]
fn is_offer(head: &Head, raw: &RawGateway, token: &str) {
    assert_eq!(head.start, "POST /lamp HTTP/1.1");
    assert_eq!(head.get("host"), Some(raw.addr.to_string().as_str()));
    assert_eq!(head.get("upgrade"), Some(token));
    assert!(
        head.fields.contains(&("Connection".to_owned(), "Upgrade".to_owned())),
        "some peers compare byte for byte: {}",
        head.text()
    );
    assert!(
        head.fields.contains(&("Content-Length".to_owned(), "0".to_owned())),
        "{}",
        head.text()
    );
    assert_eq!(head.all("connection").len(), 1, "{}", head.text());
    let accept =
        if cfg!(feature = "comet") { "message/http, application/json" } else { "message/http" };
    assert_eq!(
        head.get("accept"),
        Some(accept),
        "an event may come in the answer: {}",
        head.text()
    );
    let session =
        head.get("ptth-session").unwrap_or_else(|| panic!("no session in {}", head.text()));
    assert!(session.len() == 32 && session.bytes().all(|o| o.is_ascii_hexdigit()), "{session}");
    for name in ["transfer-encoding", "alpn", "authorization", "origin", "expect"] {
        assert_eq!(head.get(name), None, "{}", head.text());
    }
}

/// Fails unless the next answer is what seed-4 shows.
#[track_caller]
fn seeds_answer(peer: &mut RawPeer) {
    let answer = peer.read_answer("GET");
    assert_eq!(answer.head.start, "HTTP/1.1 200 OK");
    assert_eq!(answer.head.get("content-length"), Some("15"));
    assert_eq!(answer.head.get("content-type").map(|v| v.starts_with("text/plain")), Some(true));
    let date =
        answer.head.get("date").unwrap_or_else(|| panic!("no Date in {}", answer.head.text()));
    assert!(date.len() == 29 && date.ends_with(" GMT"), "no IMF-fixdate: {date}");
    assert_eq!(answer.text(), SEED_TEXT);
}

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

/// Whoever has the link when it is closed, a worker that lingers on it or the event loop: an
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
    // T8: each of these, with a request behind it, on the first connection; the local server must
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

// ── Other answers to an offer ──

#[test]
fn a_reset_in_the_middle_of_a_head_makes_the_device_dial_again_at_once() {
    let raw = RawGateway::start();
    let _device = text_device(&raw, &["--links", "1..1"]);
    let soon = Duration::from_secs(3); // an answer to an offer may take 90 s, a request's head 10 s
    let (mut peer, _) = raw.offer();
    peer.write(&SWITCH[..40]);
    peer.reset();
    let mut link = raw.accept_within(soon);
    link.read_head();
    link.write(SWITCH);
    link.write("GET / HTTP/1.1\r\nHo");
    link.reset();
    raw.accept_within(soon);
}

#[test]
fn a_204_means_offer_again_on_the_same_connection() {
    let raw = RawGateway::start();
    let device = text_device(&raw, &["--links", "1..1"]);
    let (mut peer, first) = raw.offer();
    for answer in [
        vector("yaler-2-nothing"),
        b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        vector("yaler-2-nothing"),
    ] {
        peer.write(answer);
        assert_eq!(peer.read_head().text(), first.text(), "the identical offer");
    }
    assert_eq!(device.line(), format!("waiting lamp via {}", raw.url("lamp")));
    assert_eq!(device.line_within(Duration::from_millis(50)), None, "waiting is said once");
    peer.write([vector("yaler-2-switch"), vector("draft-3-request")].concat());
    seeds_answer(&mut peer);
    assert_eq!(device.line(), format!("connected lamp via {} (PTTH/1.0 turn)", raw.url("lamp")));
    assert!(raw.try_accept().is_none(), "it dialled a second time");
}

#[test]
fn a_busy_on_demand_link_is_replaced_by_a_new_offer() {
    let (release, hold) = std::sync::mpsc::channel::<()>();
    let hold = std::sync::Mutex::new(hold);
    let local = LocalServer::with(move |c| {
        let _ = hold.lock().unwrap().recv_timeout(crate::support::DEADLINE);
        c.text("done");
    });
    let raw = RawGateway::start();
    let _device = forwarder(&raw, &local, &["--links", "1..2"]);
    let (mut first, _) = raw.offer();
    first.write([vector("yaler-2-switch"), vector("draft-3-request")].concat());
    // One link is busy, one idle is wanted, two are allowed.
    let (mut second, head) = raw.offer();
    is_offer(&head, &raw, "PTTH/1.0");
    second.write([vector("yaler-2-switch"), vector("draft-3-request")].concat());
    eventually("both are in the local server's hands", || (local.count() == 2).then_some(()));
    assert!(raw.try_accept().is_none(), "a third link, and two are the most");
    release.send(()).unwrap();
    release.send(()).unwrap();
    first.read_answer("GET").expect_ok("done");
    second.read_answer("GET").expect_ok("done");
}

#[test]
fn redirects_are_followed_to_another_gateway() {
    for status in ["307 Temporary Redirect", "308 Permanent Redirect", "307 "] {
        let (raw, there) = (RawGateway::at_localhost(), RawGateway::at_localhost());
        let device = text_device(&raw, &["--links", "1..1"]);
        let (mut peer, first) = raw.offer();
        peer.write(format!("HTTP/1.1 {status}\r\nLocation: http://{}/lamp\r\n\r\n", there.addr));
        let (mut peer, head) = there.offer();
        is_offer(&head, &there, "PTTH/1.0");
        assert_eq!(head.get("ptth-session"), first.get("ptth-session"));
        peer.write(SWITCH);
        let line = device.line();
        assert!(line.starts_with("connected lamp via http://"), "{line}");
        peer.ask(&get("/")).expect_ok(SEED_TEXT);
    }
}

#[test]
fn a_redirect_without_an_absolute_url_stays_on_the_same_gateway() {
    let raw = RawGateway::start();
    let _device = text_device(&raw, &["--links", "1..1"]);
    let (mut peer, _) = raw.offer();
    peer.write(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: /lamp/elsewhere\r\nContent-Length: 0\r\n\r\n",
    );
    // On the same connection or on a fresh one: the target is what counts.
    let target = eventually("it offers again", || match raw.try_accept() {
        Some(mut fresh) => Some(fresh.read_head().target().to_owned()),
        None if peer.stirs_within(Duration::from_millis(5)) => {
            peer.try_read_head().map(|h| h.target().to_owned())
        }
        None => None,
    });
    assert_eq!(target, "/lamp/elsewhere");
}

#[test]
fn at_most_five_redirects_are_followed_in_a_row() {
    let raw = RawGateway::start();
    let mut device = Ptth::start(&[
        "device",
        &raw.url("0"),
        "--text",
        "x",
        "--links",
        "1..1",
        "--backoff",
        "10ms..20ms",
    ]);
    for hop in 0..6 {
        let (mut peer, head) = raw.offer();
        assert_eq!(head.target(), format!("/{hop}"));
        peer.write(format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{}/{}\r\nContent-Length: 0\r\n\r\n", raw.addr, hop + 1));
    }
    assert_eq!(raw.offer().1.target(), "/0", "after the fifth it starts again at its own URL");
    device.expect_stderr("redirect");
    assert!(!device.has_ended());
}

#[test]
fn redirects_that_lead_nowhere_are_errors_and_not_the_end() {
    let rows = [
        ("no Location", "HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\n\r\n"),
        (
            "another scheme",
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: ftp://127.0.0.1/lamp\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "userinfo",
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://a:b@127.0.0.1:1/lamp\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "no URL",
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: ::::\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "an empty one",
            "HTTP/1.1 307 Temporary Redirect\r\nLocation:\r\nContent-Length: 0\r\n\r\n",
        ),
        (
            "two of them",
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: /a\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n",
        ),
    ];
    each_row(
        &rows,
        |r| r.0.to_owned(),
        |(_, answer)| {
            let raw = RawGateway::start();
            let mut device = text_device(&raw, &["--links", "1..1"]);
            let (mut peer, _) = raw.offer();
            peer.write(answer);
            let (_again, head) = raw.offer();
            is_offer(&head, &raw, "PTTH/1.0");
            eventually("a word on standard error", || (!device.stderr().is_empty()).then_some(()));
            assert!(
                !device.has_ended() && !device.stderr().contains("panicked"),
                "{}",
                device.stderr()
            );
        },
    );
}

#[test]
fn answers_that_mean_later_are_obeyed_and_never_end_the_device() {
    for status in [
        "400 Bad Request",
        "408 Request Timeout",
        "409 Conflict",
        "426 Upgrade Required",
        "429 Too Many Requests",
        "500 Internal Server Error",
        "502 Bad Gateway",
        "503 Service Unavailable",
        "429 ",
    ] {
        let raw = RawGateway::start();
        let mut device = text_device(&raw, &["--links", "1..1"]);
        for _ in 0..3 {
            let (mut peer, head) = raw.offer();
            is_offer(&head, &raw, "PTTH/1.0");
            peer.write(format!("HTTP/1.1 {status}\r\nProxy-Status: ptth\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno\n"));
        }
        let (mut peer, _) = raw.offer();
        peer.write(SWITCH);
        peer.ask(&get("/")).expect_ok(SEED_TEXT);
        device.expect_stderr(&status[..3]);
        assert!(!device.has_ended());
    }
}

#[test]
fn retry_after_is_obeyed() {
    for status in ["429 Too Many Requests", "503 Service Unavailable", "409 Conflict"] {
        let raw = RawGateway::start();
        let _device = text_device(&raw, &["--links", "1..1"]);
        let (mut peer, _) = raw.offer();
        let then = Instant::now();
        peer.write(format!(
            "HTTP/1.1 {status}\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        ));
        let _again = raw.offer();
        let took = then.elapsed();
        assert!(took >= Duration::from_millis(990), "{status}: it came back after {took:?}");
    }
}

#[test]
fn refusals_after_a_success_are_weather() {
    let raw = RawGateway::start();
    let mut device = text_device(&raw, &["--links", "1..1"]);
    drop(raw.turn());
    assert!(device.line().starts_with("connected "));
    for status in ["401 Unauthorized", "403 Forbidden", "404 Not Found", "410 Gone"] {
        let (mut peer, _) = raw.offer();
        peer.write(format!("HTTP/1.1 {status}\r\nProxy-Status: ptth\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"));
    }
    let mut peer = raw.turn();
    peer.ask(&get("/")).expect_ok(SEED_TEXT);
    assert!(!device.has_ended(), "{}", device.stderr());
    assert_eq!(device.line(), format!("connected lamp via {} (PTTH/1.0 turn)", raw.url("lamp")));
}

#[test]
fn yalers_401_with_an_empty_reason_ends_the_device_with_3() {
    let raw = RawGateway::start();
    let mut device = text_device(&raw, &[]);
    let (mut peer, _) = raw.offer();
    peer.write("HTTP/1.1 401 \r\nWWW-Authenticate: Bearer\r\n\r\n");
    assert_eq!(device.exit_code(), 3, "{}", device.stderr());
}

#[test]
fn a_gateway_that_hangs_up_is_dialled_again() {
    let raw = RawGateway::start();
    let mut device = text_device(&raw, &["--links", "1..1"]);
    let (peer, _) = raw.offer();
    drop(peer); // before any byte
    let (mut peer, _) = raw.offer();
    peer.write("HTTP/1.1 101 Switching Pro"); // in the middle of the head
    drop(peer);
    let peer = raw.turn(); // while the link is idle
    drop(peer);
    let mut peer = raw.turn();
    peer.write("GET / HTTP/1.1\r\nHo"); // in the middle of a request
    drop(peer);
    let mut peer = raw.turn();
    peer.ask(&get("/")).expect_ok(SEED_TEXT);
    assert!(!device.has_ended());
    assert!(!device.stderr().contains("panicked"), "{}", device.stderr());
}

#[test]
fn the_backoff_is_what_its_option_says() {
    let raw = RawGateway::start();
    let _device = Ptth::start(&[
        "device",
        &raw.url("lamp"),
        "--text",
        "x",
        "--links",
        "1..1",
        "--backoff",
        "1ms..5ms",
    ]);
    let then = Instant::now();
    for _ in 0..30 {
        let (mut peer, _) = raw.offer();
        peer.write(
            "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        );
    }
    assert!(then.elapsed() < Duration::from_secs(5), "30 attempts took {:?}", then.elapsed());
    // Full jitter between nothing and the pause, which doubles up to its bound: 30 attempts of the
    // default would take minutes.
    let raw = RawGateway::start();
    let _device = Ptth::start(&[
        "device",
        &raw.url("lamp"),
        "--text",
        "x",
        "--links",
        "1..1",
        "--backoff",
        "60m..60m",
    ]);
    drop(raw.offer());
    let then = Instant::now();
    while then.elapsed() < Duration::from_millis(500) {
        assert!(raw.try_accept().is_none(), "it came back at once, with pauses of up to an hour");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_a_gateway_says_is_no_terminal_control() {
    // T32: neither field, reason nor body of a refusal brings an escape sequence to the terminal or
    // a forged log line.
    for answer in [
        "HTTP/1.1 403 Forbidden\r\nProxy-Status: ptth\r\nContent-Type: text/plain\r\nContent-Length: 24\r\n\r\n\x1b]0;evil\x07\x1b[31mred\nline\n\n",
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\u{9b}31m\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 503 \x1b[31mBusy\r\nProxy-Status: ptth\r\nContent-Length: 0\r\n\r\n",
        "\x1b[2J\r\n\r\n",
    ] {
        let raw = RawGateway::start();
        let mut device = text_device(&raw, &["--links", "1..1"]);
        let (mut peer, _) = raw.offer();
        peer.write(answer);
        peer.finish_writing();
        eventually("a word on standard error, or the end", || {
            (!device.stderr().is_empty() || device.has_ended()).then_some(())
        });
        let said = device.stderr();
        assert!(!said.contains(['\x1b', '\x07', '\u{9b}']) && !said.contains("\nline"), "{said:?}");
    }
}

#[test]
fn spare_links_are_dialled_when_one_gets_busy_and_never_more_than_the_most() {
    let (release, hold) = std::sync::mpsc::channel::<()>();
    let hold = std::sync::Mutex::new(hold);
    let local = LocalServer::with(move |c| {
        let _ = hold.lock().unwrap().recv_timeout(crate::support::DEADLINE);
        c.text("done");
    });
    let raw = RawGateway::start();
    let _device = forwarder(&raw, &local, &["--links", "2..4"]);
    let mut links: Vec<RawPeer> = vec![raw.turn(), raw.turn()];
    assert!(raw.try_accept().is_none(), "two idle links are wanted");
    for number in 0..4 {
        links[number].write(get("/slow"));
        if number < 2 {
            links.push(raw.turn());
        }
    }
    eventually("all four are busy", || (local.count() == 4).then_some(()));
    links[0].expect_quiet(Duration::from_millis(100));
    assert!(raw.try_accept().is_none(), "a fifth link, and four are the most");
    for _ in 0..4 {
        release.send(()).unwrap();
    }
    links.iter_mut().for_each(|link| link.read_answer("GET").expect_ok("done"));
}

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

#[test]
fn malformed_requests_on_a_link_are_refused_and_reach_no_local_server() {
    let mut rows: Vec<(String, Vec<u8>, &[u16])> = Vec::new();
    let with = |lines: &str| format!("POST /x HTTP/1.1\r\nHost:\r\n{lines}\r\n");
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

// ── The forwarder (`--to`) ──

#[test]
fn the_forwarder_keeps_the_request_as_it_is() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let _device = forwarder(&raw, &local, &["--links", "1..1"]);
    let mut link = raw.turn();
    link.write("PUT /echo/a%2Fb?c=d&e HTTP/1.1\r\nHost: visitors.example\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Prefix: /lamp\r\nAccept: a\r\nACCEPT: b\r\nContent-Length: 5\r\n\r\nhello");
    let answer = link.read_answer("PUT");
    assert_eq!(answer.status(), 200);
    let (head, body) = Head::split(&answer.body);
    assert_eq!(head.start, "PUT /echo/a%2Fb?c=d&e HTTP/1.1");
    assert_eq!(head.get("host"), Some("visitors.example"));
    assert_eq!(head.get("x-forwarded-for"), Some("192.0.2.1"), "a device trusts its gateway");
    assert_eq!(head.get("x-forwarded-prefix"), Some("/lamp"));
    assert_eq!(head.all("accept"), ["a", "b"]);
    assert!(
        head.fields.iter().any(|(n, _)| n == "ACCEPT"),
        "names keep their spelling: {}",
        head.text()
    );
    assert_eq!(body, b"hello");
    assert!(answer.head.get("date").is_some(), "a device adds a Date: {}", answer.head.text());
}

#[test]
fn the_forwarders_target_is_fixed() {
    // T25: neither Host nor absolute form nor a redirect chooses another server.
    let elsewhere = LocalServer::start();
    let raw = RawGateway::start();
    let local = LocalServer::with({
        let there = elsewhere.url();
        move |c| match c.head.target().ends_with("/away") {
            true => c.answer("302 Found", &format!("Location: {there}/stolen\r\n"), ""),
            false => crate::support::local::routes(c),
        }
    });
    let _device = forwarder(&raw, &local, &["--links", "1..1"]);
    let mut link = raw.turn();
    link.ask(&format!("GET /x HTTP/1.1\r\nHost: {}\r\n\r\n", elsewhere.addr)).expect_ok("hello\n");
    let answer = link.ask("GET /away HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        (answer.status(), answer.head.get("location")),
        (302, Some(format!("{}/stolen", elsewhere.url()).as_str())),
        "a redirect is the visitor's business"
    );
    let asked = local.count();
    let _ = link.try_write(format!(
        "GET {}/x HTTP/1.1\r\nHost: {}\r\n\r\n",
        elsewhere.url(),
        elsewhere.addr
    ));
    let answer = link.read_answer("GET");
    assert!(
        answer.status() == 400 || local.count() == asked + 1,
        "absolute form: {}",
        answer.head.text()
    );
    assert_eq!(elsewhere.count(), 0);
}

#[test]
fn host_header_replaces_the_host() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let _device =
        forwarder(&raw, &local, &["--links", "1..1", "--host-header", "app.internal:3000"]);
    let mut link = raw.turn();
    for host in ["Host: visitors.example\r\n", "Host:\r\n", ""] {
        let answer = link.ask(&format!("GET /echo HTTP/1.1\r\n{host}\r\n"));
        assert_eq!(Head::split(&answer.body).0.get("host"), Some("app.internal:3000"));
    }
}

#[test]
fn a_local_server_always_gets_a_host() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let _device = forwarder(&raw, &local, &["--links", "1..1"]);
    let mut link = raw.turn();
    for host in ["Host:\r\n", ""] {
        let answer = link.ask(&format!("GET /echo HTTP/1.1\r\n{host}\r\n"));
        let (head, _) = Head::split(&answer.body);
        assert_eq!(head.all("host").len(), 1, "{}", head.text());
    }
}

#[test]
fn a_local_server_that_is_down_gives_502_with_a_reason() {
    let raw = RawGateway::start();
    let port = crate::support::free_port();
    let device = Ptth::start(&[
        "device",
        &raw.url("lamp"),
        "--to",
        &format!("http://127.0.0.1:{port}"),
        "--links",
        "1..1",
    ]);
    let mut link = raw.turn();
    for _ in 0..2 {
        link.ask(&get("/x")).expect_refusal(502);
    }
    device.expect_stderr(&port.to_string());
    // It comes up later, on the same port.
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let server = std::thread::spawn(move || {
        let mut peer = RawPeer::adopt(listener.accept().unwrap().0, "late server");
        peer.read_head();
        peer.write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate");
    });
    link.ask(&get("/x")).expect_ok("late");
    server.join().unwrap();
}

#[test]
fn answers_of_a_local_server_arrive_whole_by_every_framing() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let _device = forwarder(&raw, &local, &["--links", "1..1"]);
    let mut link = raw.turn();
    let expected = Hash::of_pattern(300_000);
    for kind in ["big", "chunked", "until-close"] {
        let answer = link.ask(&get(&format!("/{kind}?n=300000")));
        assert_eq!((answer.status(), Hash::of(&answer.body)), (200, expected.clone()), "/{kind}");
    }
    for status in [204, 304] {
        let answer = link.ask(&get(&format!("/status/{status}")));
        assert_eq!((answer.status(), answer.body.len()), (status, 0));
    }
    let answer = link.ask("HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        (answer.status(), answer.head.get("content-length"), answer.body.len()),
        (200, Some("6"), 0)
    );
    link.ask(&get("/x")).expect_ok("hello\n");
}

#[test]
fn a_local_servers_broken_answers_are_502_or_cut_and_never_whole() {
    let rows: &[(&str, &[u8])] = &[
        ("no HTTP", b"hello\r\n\r\n"),
        ("both framing fields", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
        ("an unknown coding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello"),
        ("a head without end", b"HTTP/1.1 200 OK\r\nX: y"),
        ("a switch nobody asked for", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
        ("nothing at all", b""),
    ];
    each_row(
        rows,
        |r| r.0.to_owned(),
        |(_, bytes)| {
            let bytes = bytes.to_vec();
            let local = LocalServer::with(move |c| {
                c.raw(&bytes);
                c.close = true;
            });
            let raw = RawGateway::start();
            let _device = forwarder(&raw, &local, &["--links", "1..1"]);
            let mut link = raw.turn();
            link.write("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
            link.read_answer("POST").expect_refusal(502);
            assert_eq!(local.count(), 1, "a POST is asked once");
        },
    );
    for (name, bytes) in [
        ("short by length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"),
        ("no last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
    ] {
        let local = LocalServer::with(move |c| {
            c.raw(bytes);
            c.close = true;
        });
        let raw = RawGateway::start();
        let _device = forwarder(&raw, &local, &["--links", "1..1"]);
        let mut link = raw.turn();
        link.write(get("/x"));
        match link.read_answer_or_cut("GET") {
            Ok(answer) => answer.expect_refusal(502), // it was known before the head had gone on
            Err(cut) => {
                assert!(b"hello".starts_with(&cut.body), "{name}: {:?}", cut.body);
                assert!(
                    cut.head.is_some(),
                    "{name}: closed without a byte: neither what came of the answer nor a 502"
                );
            }
        }
    }
}

#[test]
fn the_forwarder_streams_both_ways() {
    let raw = RawGateway::start();
    let (said, saying) = std::sync::mpsc::channel::<&'static str>();
    let (heard, hearing) = std::sync::mpsc::channel::<Vec<u8>>();
    let (saying, heard) = (std::sync::Mutex::new(saying), std::sync::Mutex::new(heard));
    let local = LocalServer::with(move |c| {
        let (heard, saying) = (heard.lock().unwrap().clone(), saying.lock().unwrap());
        c.each_piece(|piece| heard.send(piece.to_vec()).unwrap());
        c.raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        while let Ok(line) = saying.recv_timeout(crate::support::DEADLINE) {
            c.raw(format!("{:x}\r\n{line}\r\n", line.len()));
            if line == "last" {
                break;
            }
        }
        c.raw("0\r\n\r\n");
    });
    let _device = forwarder(&raw, &local, &["--links", "1..1"]);
    let mut link = raw.turn();
    link.write("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for piece in ["one", "two"] {
        link.write(format!("{:x}\r\n{piece}\r\n", piece.len()));
        assert_eq!(
            hearing.recv_timeout(crate::support::DEADLINE).unwrap(),
            piece.as_bytes(),
            "a piece arrives before the next is sent"
        );
    }
    link.write("0\r\n\r\n");
    let head = link.read_head();
    assert_eq!(head.status(), 200);
    for line in ["data: 1\n\n", "data: 2\n\n", "last"] {
        said.send(line).unwrap();
        assert_eq!(link.read_chunk(), line.as_bytes(), "an event arrives before the next is sent");
    }
    assert!(link.read_chunk().is_empty());
}

#[test]
fn expect_100_continue_goes_through_to_the_local_server() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let _device = forwarder(&raw, &local, &["--links", "1..1"]);
    let mut link = raw.turn();
    link.write(
        "POST /hash HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    );
    assert_eq!(link.read_head().status(), 100);
    link.write("hello");
    link.read_answer("POST").expect_ok(Hash::of(b"hello"));
    // With --text the device has nothing to wait for: the answer comes, before or after a 100.
    let raw = RawGateway::start();
    let _device = text_device(&raw, &["--links", "1..1"]);
    let mut link = raw.turn();
    link.write("POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let head = link.read_head();
    let final_head = if head.status() == 100 {
        link.write("hello");
        link.read_head()
    } else {
        head
    };
    assert_eq!(final_head.status(), 200);
    assert_eq!(link.read_exact(15), SEED_TEXT.as_bytes());
}

#[test]
fn a_visitor_who_leaves_ends_the_local_servers_work_on_that_link_only() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let _device = forwarder(&raw, &local, &["--links", "2..8"]);
    let mut gone = raw.turn();
    gone.write(get("/big?n=50000000"));
    gone.read_head();
    drop(gone);
    let mut link = raw.turn();
    for _ in 0..3 {
        link.ask(&get("/x")).expect_ok("hello\n");
    }
}

#[test]
fn a_device_that_holds_many_idle_links_has_no_thread_for_each() {
    let raw = RawGateway::start();
    let few = Ptth::start(&["device", &raw.url("few"), "--text", "x", "--links", "5..5"]);
    let links: Vec<RawPeer> = (0..5).map(|_| raw.turn()).collect();
    links.into_iter().enumerate().for_each(|(i, mut l)| {
        assert_eq!(l.ask("OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n").status(), 204, "link {i}")
    });
    let other = RawGateway::start();
    let many = Ptth::start(&["device", &other.url("many"), "--text", "x", "--links", "300..300"]);
    let mut links: Vec<RawPeer> = (0..300).map(|_| other.turn()).collect();
    links
        .iter_mut()
        .for_each(|l| assert_eq!(l.ask("OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n").status(), 204));
    eventually("no more threads than with five links", || {
        (many.threads() <= few.threads()).then_some(())
    });
    assert!(find(links[299].ask(&get("/")).body.as_slice(), b"x").is_some());
}

#[test]
fn a_token_comes_from_a_file_or_the_environment_and_is_never_shown() {
    let raw = RawGateway::start();
    let folder = crate::support::TempDir::new("token");
    let file = folder.0.join("token");
    std::fs::write(&file, "hunter2\n").unwrap();
    let url = raw.url("lamp");
    let mut by_file =
        Ptth::command(&["device", &url, "--text", "x", "--token-file", file.to_str().unwrap()]);
    let mut by_environment = Ptth::command(&["device", &url, "--text", "x"]);
    by_environment.env("PTTH_TOKEN", "hunter2");
    for command in [&mut by_file, &mut by_environment] {
        let mut device = Process::start(command);
        let (mut peer, offer) = raw.offer();
        assert_eq!(offer.get("authorization"), Some("Bearer hunter2"));
        peer.write(
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 0\r\n\r\n",
        );
        assert_eq!(device.exit_code(), 3);
        assert!(!device.stderr().contains("hunter2"), "{}", device.stderr());
    }
    let (code, _, stderr) =
        Ptth::run(&["device", &url, "--text", "x", "--token-file", "/dev/null"]);
    assert!(code == 2 && stderr.contains("token"), "{code}: {stderr}");
}

/// What a gateway says of its refusal reaches whoever reads the device's log; what something on the
/// way says, or what is no plain text, does not.
#[test]
fn a_gateways_own_words_are_in_the_devices_log() {
    for (status, mark, said) in [
        ("400 Bad Request", "ptth; details=\"this port speaks TLS\"", Some("this port speaks TLS")),
        (
            "403 Forbidden",
            "ptth; error=x; details=\"not for this name\"",
            Some("not for this name"),
        ),
        ("429 Full", "nginx; details=\"of another\", ptth", None),
        ("429 Full", "ptth; details=\"of \\\\another\"", None),
        ("429 Full", "ptth; details=\"of another", None),
    ] {
        let raw = RawGateway::start();
        let device = Ptth::start(
            &[&["device", &raw.url("lamp"), "--text", "on"], &["--backoff", "60s..60s"][..]]
                .concat(),
        );
        let (mut peer, _) = raw.offer();
        peer.write(format!("HTTP/1.1 {status}\r\nProxy-Status: {mark}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"));
        match said {
            Some(said) => device.expect_stderr(said),
            None => {
                device.expect_stderr("429");
                assert!(!device.stderr().contains("another"), "{mark}: {}", device.stderr());
            }
        }
    }
}
