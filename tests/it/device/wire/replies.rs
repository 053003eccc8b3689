//! Other answers to an offer than 101.

use std::time::{Duration, Instant};

use super::{SEED_TEXT, forwarder, is_offer, seeds_answer, text_device};
use crate::support::process::get;
use crate::support::{
    LocalServer, Ptth, RawGateway, RawPeer, SWITCH, each_row, eventually, vector,
};

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
        // What names the device's run is no other origin's to know, not on another port either.
        let theirs = head.get("ptth-session").map(str::to_owned);
        assert_ne!(theirs.as_deref(), first.get("ptth-session"));
        peer.write(SWITCH);
        let line = device.line();
        assert!(line.starts_with("connected lamp via http://"), "{line}");
        peer.ask(&get("/")).expect_ok(SEED_TEXT);
        // To each it is always the same.
        drop(peer);
        let (mut peer, again) = raw.offer();
        assert_eq!(again.get("ptth-session"), first.get("ptth-session"));
        peer.write(format!("HTTP/1.1 {status}\r\nLocation: http://{}/lamp\r\n\r\n", there.addr));
        assert_eq!(there.offer().1.get("ptth-session"), theirs.as_deref());
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
