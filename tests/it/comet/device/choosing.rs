//! Whether a device polls or offers (protocol.md §1.4, §2.3), and its options.

use std::time::{Duration, Instant};

use http::Response;
use reverse_http::{Body, Limits};

use super::BUSY;
use super::text_device;
use super::{
    NOTHING, QUICK, TEXT, answer, event, expect_answer, expect_poll, fall_back, is_poll,
    patient_device, quick, read_body, read_post,
};
use crate::support::process::{Process, get};
use crate::support::{
    LocalServer, Ptth, RawGateway, RawPeer, SWITCH, each_row, eventually, pattern,
};

// ── Choosing (§1.4, §2.3) ──

#[test]
fn what_does_not_turn_is_polled_without_upgrade_and_at_once() {
    let rows: &[(&str, &str)] = &[
        ("405", "HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\nContent-Length: 0\r\n\r\n"),
        ("501", "HTTP/1.1 501 Not Implemented\r\nConnection: close\r\n\r\n"),
        (
            "200 of a web server",
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n",
        ),
        ("202", "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"),
        ("417", "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n"),
    ];
    each_row(
        rows,
        |r| r.0.to_owned(),
        |(_, answered)| {
            let raw = RawGateway::start();
            let device = patient_device(&raw);
            let (mut peer, head) = raw.offer();
            is_poll(&head, true);
            peer.write(answered);
            let (mut peer, head) = raw.offer();
            is_poll(&head, false);
            peer.write("HTTP/1.1 204 No Content\r\n\r\n"); // plain: here it is the fallback's nothing
            is_poll(&peer.read_head(), false);
            assert_eq!(
                device.line(),
                format!("connected lamp via {} (COMET message/http)", raw.url("lamp"))
            );
            peer.write(event("e", get("/")));
            let (head, _) = read_post(&mut peer);
            assert_eq!((head.get("ptth-message-id"), head.get("upgrade")), (Some("e"), None));
            device.expect_stderr("without Upgrade");
        },
    );
}

#[test]
fn offers_that_are_hung_up_on_twice_become_polls() {
    for reset in [false, true] {
        let raw = RawGateway::start();
        let device = text_device(&raw, &[]);
        for _ in 0..2 {
            let (peer, head) = raw.offer();
            is_poll(&head, true);
            if reset {
                peer.reset();
            }
        }
        let (mut peer, head) = raw.offer();
        is_poll(&head, false);
        peer.write(NOTHING);
        is_poll(&peer.read_head(), false);
        assert!(device.line().ends_with(" (COMET json)"));
    }
    // A gateway that takes no polls says so: it had hung up for another reason.
    let raw = RawGateway::start();
    let _device = text_device(&raw, &[]);
    (0..2).for_each(|_| is_poll(&raw.offer().1, true));
    let (mut peer, head) = raw.offer();
    is_poll(&head, false);
    peer.write("HTTP/1.1 426 Upgrade Required\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n");
    is_poll(&raw.offer().1, true);
    // An answer between them, of whatever kind, breaks the row; so does a 1xx.
    let raw = RawGateway::start();
    let _device = text_device(&raw, &[]);
    for answered in ["", BUSY, "", "HTTP/1.1 102 Processing\r\n\r\n", "HTTP/1.1 5"] {
        let (mut peer, head) = raw.offer();
        is_poll(&head, true);
        peer.write(answered);
    }
    is_poll(&raw.offer().1, true);
}

#[test]
fn the_turn_is_offered_again_after_turn_retry() {
    let raw = RawGateway::start();
    let device = text_device(&raw, &["--turn-retry", "300ms"]);
    let (mut peer, _) = raw.offer();
    let then = Instant::now();
    peer.write("HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n");
    let (mut peer, head) = raw.offer();
    is_poll(&head, false);
    eventually("turn_retry goes by", || {
        (then.elapsed() >= Duration::from_millis(310)).then_some(())
    });
    peer.write(NOTHING);
    expect_poll(&mut peer);
    peer.write(SWITCH);
    peer.ask(&get("/")).expect_ok(TEXT);
    assert!(device.line().ends_with(" (COMET json)"));
    assert!(device.line().ends_with(" (PTTH/1.0 turn)"));
    // Zero: one poll, then the turn again.
    let raw = RawGateway::start();
    let _device = text_device(&raw, &["--turn-retry", "0s"]);
    for _ in 0..2 {
        let (mut peer, head) = raw.offer();
        is_poll(&head, true);
        peer.write("HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\n\r\n");
        let (mut peer, head) = raw.offer();
        is_poll(&head, false);
        peer.write(NOTHING.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"));
    }
}

#[test]
fn where_no_gateway_is_polls_back_off() {
    let raw = RawGateway::start();
    let device = text_device(&raw, &[]);
    let (mut peer, _) = raw.offer();
    peer.write("HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n");
    for _ in 0..3 {
        let (mut peer, head) = raw.offer();
        is_poll(&head, false);
        peer.write("HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n");
    }
    device.expect_stderr("no gateway answers here: status 405; check the URL");
    assert_eq!(device.line_within(Duration::ZERO), None);
}

#[test]
fn a_101_turns_a_poll_and_an_answers_post() {
    let raw = RawGateway::start();
    let device = text_device(&raw, &[]);
    let mut peer = fall_back(&raw);
    peer.write([SWITCH, get("/").as_bytes()].concat());
    peer.read_answer("GET").expect_ok(TEXT);
    peer.ask(&get("/")).expect_ok(TEXT);
    assert_eq!(device.line(), format!("connected lamp via {} (COMET json)", raw.url("lamp")));
    assert_eq!(device.line(), format!("connected lamp via {} (PTTH/1.0 turn)", raw.url("lamp")));
    assert!(raw.try_accept().is_none(), "one link is enough");
    drop(peer); // the link ends: an offer comes, whatever answers it
    let mut peer = fall_back(&raw);
    assert_eq!(device.line(), format!("connected lamp via {} (COMET json)", raw.url("lamp")));
    peer.write(event("e", get("/")));
    expect_answer(&mut peer, "e", TEXT);
    assert_eq!(
        device.line(),
        format!("connected lamp via {} (COMET message/http)", raw.url("lamp"))
    );
    peer.write(SWITCH);
    peer.ask(&get("/")).expect_ok(TEXT);
    assert_eq!(device.line(), format!("connected lamp via {} (PTTH/1.0 turn)", raw.url("lamp")));
}

#[test]
fn polls_end_when_links_are_there_and_never_more_than_max_turn() {
    let raw = RawGateway::start();
    let device = Ptth::start(
        &[&["device", &raw.url("lamp"), "--text", TEXT, "--polls", "3"], QUICK].concat(),
    );
    let mut first = fall_back(&raw);
    let (mut second, _) = raw.offer();
    let (mut third, _) = raw.offer();
    first.write(SWITCH);
    first.ask(&get("/")).expect_ok(TEXT);
    second.write(SWITCH); // a second link, and one is the most
    second.expect_closed();
    third.write(NOTHING);
    third.expect_closed();
    first.ask(&get("/")).expect_ok(TEXT);
    assert!(raw.try_accept().is_none());
    assert!(device.line().ends_with(" (COMET json)"));
    assert!(device.line().ends_with(" (PTTH/1.0 turn)"));
    assert_eq!(device.line_within(Duration::from_millis(50)), None);
}

#[test]
fn an_event_on_an_offer_beyond_the_polls_is_served_all_the_same() {
    let raw = RawGateway::start();
    let _device = Ptth::start(&[
        "device",
        &raw.url("lamp"),
        "--text",
        TEXT,
        "--polls",
        "1",
        "--links",
        "3..3",
        "--backoff",
        "5ms..20ms",
    ]);
    let mut offers: Vec<RawPeer> = (0..3).map(|_| raw.offer().0).collect();
    offers[0].write(NOTHING);
    expect_poll(&mut offers[0]);
    offers[1].write(event("e", get("/")));
    expect_answer(&mut offers[1], "e", TEXT);
    offers[1].write(NOTHING);
    offers[1].expect_closed();
    offers[2].write(NOTHING);
    offers[2].expect_closed();
    assert!(raw.try_accept().is_none(), "one poll is wanted");
    offers[0].write(event("f", get("/")));
    expect_answer(&mut offers[0], "f", TEXT);
}

#[test]
fn time_outs_of_proxies_are_no_failures() {
    let raw = RawGateway::start();
    let device = patient_device(&raw);
    let mut peer = fall_back(&raw);
    for status in ["504 Gateway Time-out", "502 Bad Gateway"] {
        let then = Instant::now();
        eventually("a proxy's time goes by", || {
            (then.elapsed() > Duration::from_millis(1100)).then_some(())
        });
        peer.write(format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>"
        ));
        let head;
        (peer, head) = raw.offer(); // after about a second
        is_poll(&head, true);
    }
    assert!(device.line().ends_with(" (COMET json)"));
    assert_eq!(device.line_within(Duration::ZERO), None, "it stayed connected");
    assert!(!device.stderr().contains("disconnected"), "{}", device.stderr());
    peer.write(NOTHING);
    expect_poll(&mut peer);
    let away = "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"; // at once
    peer.write(away);
    let (mut peer, head) = raw.offer();
    is_poll(&head, false); // perhaps it was the Upgrade
    peer.write(away);
    device.expect_stderr("disconnected");
}

#[test]
fn polls_that_something_cuts_after_a_while_come_again_and_are_no_failures() {
    let raw = RawGateway::start();
    let device = patient_device(&raw);
    let mut peer = fall_back(&raw);
    for reset in [false, true, false] {
        let then = Instant::now();
        eventually("an impatient box's time goes by", || {
            (then.elapsed() > Duration::from_millis(1100)).then_some(())
        });
        if reset {
            peer.reset()
        } else {
            drop(peer)
        }
        let head;
        (peer, head) = raw.offer(); // after about a second
        is_poll(&head, true);
    }
    peer.write(event("e", get("/")));
    expect_answer(&mut peer, "e", TEXT);
    assert!(device.line().ends_with(" (COMET json)"));
    assert!(
        !device.stderr().contains("disconnected") && !device.stderr().contains("next attempt"),
        "{}",
        device.stderr()
    );
    // One that is cut at once tells of a gateway that is away.
    peer.write(NOTHING);
    expect_poll(&mut peer);
    drop(peer);
    device.expect_stderr("disconnected");
}

#[test]
fn refusals_are_for_polls_what_they_are_for_offers() {
    for status in [401, 403, 404, 410] {
        let raw = RawGateway::start();
        let mut device = text_device(&raw, &["--fallback", "only"]);
        let (mut peer, head) = raw.offer();
        is_poll(&head, false);
        peer.write(format!(
            "HTTP/1.1 {status} No\r\nProxy-Status: ptth\r\nContent-Length: 0\r\n\r\n"
        ));
        assert_eq!(device.exit_code(), 3, "{}", device.stderr());
    }
    // After a success they are weather.
    let raw = RawGateway::start();
    let mut device = text_device(&raw, &[]);
    let mut peer = fall_back(&raw);
    peer.write("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
    let _peer = fall_back(&raw);
    assert!(!device.has_ended());
}

#[test]
fn the_fallback_option_decides_what_is_asked() {
    let raw = RawGateway::start();
    let device = text_device(&raw, &["--fallback", "never"]);
    for _ in 0..2 {
        let (mut peer, head) = raw.offer();
        assert_eq!(
            (head.get("upgrade"), head.get("accept")),
            (Some("PTTH/1.0"), None),
            "{}",
            head.text()
        );
        peer.write(NOTHING);
    }
    device.expect_stderr("may not poll (DeviceBuilder::fallback, or --fallback)");
    let (mut peer, head) = raw.offer();
    assert_eq!(head.get("upgrade"), Some("PTTH/1.0"));
    peer.write("HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(raw.offer().1.get("upgrade"), Some("PTTH/1.0"));
    assert_eq!(device.line_within(Duration::ZERO), None);

    let raw = RawGateway::start();
    let device = text_device(&raw, &["--fallback", "only"]);
    let (mut peer, head) = raw.offer();
    is_poll(&head, false);
    peer.write(NOTHING);
    is_poll(&peer.read_head(), false);
    peer.write(SWITCH); // nobody asked for that
    let (mut peer, head) = raw.offer();
    is_poll(&head, false);
    peer.write("HTTP/1.1 426 Upgrade Required\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n");
    device.expect_stderr("allow both (DeviceBuilder::fallback, or --fallback)");
}

#[test]
fn the_comet_option_changes_accept() {
    for (option, accept) in [("json", "application/json"), ("message", "message/http")] {
        let raw = RawGateway::start();
        let device = text_device(&raw, &["--comet", option]);
        let (mut peer, head) = raw.offer();
        assert_eq!(head.get("accept"), Some(accept));
        peer.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(peer.read_head().get("accept"), Some(accept));
        assert!(
            device
                .line()
                .ends_with(&format!(" (COMET {})", if option == "json" { "json" } else { accept }))
        );
    }
}

#[test]
fn options_come_from_the_environment_and_wrong_ones_are_named() {
    let raw = RawGateway::start();
    let mut command = Ptth::command(&["device", &raw.url("lamp"), "--text", "x"]);
    command.envs([
        ("PTTH_FALLBACK", "only"),
        ("PTTH_COMET", "json"),
        ("PTTH_POLLS", "3"),
        ("PTTH_TURN_RETRY", "5s"),
    ]);
    let _device = Process::start(&mut command);
    for _ in 0..3 {
        let (_, head) = raw.offer();
        assert_eq!((head.get("upgrade"), head.get("accept")), (None, Some("application/json")));
    }
    for wrong in [
        &["--polls", "0"][..],
        &["--polls", "65"],
        &["--fallback", "sometimes"],
        &["--comet", "xml"],
        &["--turn-retry", "soon"],
    ] {
        let (code, _, stderr) =
            Ptth::run(&[&["device", "http://127.0.0.1:1/lamp", "--text", "x"], wrong].concat());
        assert!(code == 2 && stderr.contains(wrong[1]), "{wrong:?}: {code} {stderr}");
    }
    let ietf = [
        "device",
        "http://127.0.0.1:1",
        "--dialect",
        "ptth",
        "--origin",
        "https://a.example",
        "--text",
        "x",
        "--fallback",
        "only",
    ];
    let (code, _, stderr) = Ptth::run(&ietf);
    assert!(code == 2 && stderr.contains("cannot poll"), "{code} {stderr}");
}

#[test]
fn an_ietf_offer_asks_for_no_fallback() {
    let raw = RawGateway::start();
    let url = format!("http://{}", raw.addr);
    let device = Ptth::start(&[
        "device",
        &url,
        "--dialect",
        "ptth",
        "--origin",
        "https://a.example",
        "--text",
        "x",
        "--backoff",
        "5ms..20ms",
    ]);
    for answered in [NOTHING, "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n"] {
        let (mut peer, head) = raw.offer();
        assert_eq!(
            (head.method(), head.get("upgrade"), head.get("accept")),
            ("GET", Some("ptth"), None)
        );
        peer.write(answered);
    }
    assert_eq!(raw.offer().1.method(), "GET");
    device.expect_stderr("may not poll");
}

#[test]
fn secrets_and_answers_stay_with_their_origin() {
    let (raw, there) = (RawGateway::at_localhost(), RawGateway::at_localhost());
    let local = LocalServer::start();
    let url = raw.url("lamp");
    let mut command =
        Ptth::command(&[&["device", &url, "--to", &local.url(), "--polls", "1"], QUICK].concat());
    let device = Process::start(command.env("PTTH_TOKEN", "hunter2"));
    let (mut peer, head) = raw.offer();
    assert_eq!(head.get("authorization"), Some("Bearer hunter2"));
    peer.write(event("e", get("/x")));
    let (head, first) = read_post(&mut peer);
    assert_eq!(head.get("authorization"), Some("Bearer hunter2"), "every poll has it");
    // To the same origin the answer comes along.
    peer.write("HTTP/1.1 307 Temporary Redirect\r\nLocation: /lamp/2\r\nContent-Length: 0\r\n\r\n");
    let (mut peer, head) = raw.offer();
    assert_eq!((head.target(), head.get("ptth-message-id")), ("/lamp/2", Some("e")));
    assert_eq!(read_body(&mut peer, &head), first);
    // To another it does not, and neither does the secret.
    peer.write(format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n",
        there.url("lamp")
    ));
    let (mut peer, head) = there.offer();
    is_poll(&head, true);
    assert_eq!(head.get("authorization"), None);
    device.expect_stderr("the answer to event e is dropped");
    peer.write(event("f", get("/x")));
    assert_eq!(read_post(&mut peer).0.get("authorization"), None);
    // The other gateway asks for what the first one got: it is run for it.
    let asked = local.count();
    peer.write(event("e", get("/x")));
    expect_answer(&mut peer, "e", "hello\n");
    assert_eq!(local.count(), asked + 1);
    assert!(!device.stderr().contains("hunter2"));
}

#[test]
fn retry_after_is_obeyed_for_answers_too() {
    let raw = RawGateway::start();
    let _device = text_device(&raw, &[]);
    let mut peer = fall_back(&raw);
    peer.write(event("e", get("/")));
    read_post(&mut peer);
    let then = Instant::now();
    peer.write("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n");
    let (mut peer, head) = raw.offer();
    assert!(then.elapsed() >= Duration::from_millis(990), "{:?}", then.elapsed());
    assert_eq!(head.get("ptth-message-id"), Some("e"));
    read_body(&mut peer, &head);
}

#[test]
fn a_gateway_that_goes_and_comes_is_told_apart() {
    let raw = RawGateway::start();
    let device = text_device(&raw, &[]);
    drop(fall_back(&raw));
    device.expect_stderr("disconnected");
    let mut peer = fall_back(&raw);
    peer.write(NOTHING);
    expect_poll(&mut peer);
    let line = format!("connected lamp via {} (COMET json)", raw.url("lamp"));
    assert_eq!((device.line(), device.line()), (line.clone(), line));
    assert_eq!(device.line_within(Duration::ZERO), None);
}

#[test]
fn every_wait_has_its_end_but_the_handlers() {
    let raw = RawGateway::start();
    let mut limits = Limits::default();
    (limits.offer_timeout, limits.body_silence_timeout) =
        (Duration::from_millis(200), Duration::from_millis(200));
    let device = quick(&raw).limits(limits).build().unwrap();
    let running = device
        .spawn(|request| match request.uri().path() {
            "/late" => {
                std::thread::sleep(Duration::from_millis(600)); // the work of a handler
                Response::new(Body::from("late"))
            }
            _ => Response::new(Body::from(pattern(30_000_000))),
        })
        .unwrap();
    let mut unanswered = fall_back(&raw);
    let (mut stuck, head) = raw.offer(); // no reply within offer_timeout
    is_poll(&head, true);
    unanswered.expect_closed();
    stuck.write(&event("e", get("/"))[..100]);
    let (mut peer, head) = raw.offer(); // no end of the reply within body_silence_timeout
    is_poll(&head, true);
    stuck.expect_closed();
    peer.write(event("late", get("/late")));
    expect_answer(&mut peer, "late", "late");
    peer.write(event("big", get("/big")));
    peer.read_head();
    peer.read_through(2 << 20, |_| {}); // more than is kept to be posted again, however little a socket holds
    let (mut again, head) = raw.offer(); // nobody took the answer for body_silence_timeout
    is_poll(&head, true);
    again.write(event("big", get("/big")));
    assert_eq!(answer(&mut again, "big").0, "HTTP/1.1 502 Bad Gateway");
    running.stop();
}
