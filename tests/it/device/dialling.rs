//! What a device dials and when, and how it judges what comes of it: a pool after an outage, offers
//! that are held, links that carry nothing, dialects.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use http::Response;
use reverse_http::{Body, Device, Limits};

use crate::support::process::{Process, get, offer};
use crate::support::{Gateway, Ptth, RawGateway, RawPeer, SWITCH, eventually, vector};

/// A gateway of ours says so (without its mark a middlebox might).
const BUSY: &str =
    "HTTP/1.1 503 Service Unavailable\r\nProxy-Status: ptth\r\nContent-Length: 0\r\n\r\n";
const NOTHING_YET: &str = "HTTP/1.1 204 No Content\r\n\r\n";
/// Nothing, as a mailbox says it.
const NO_EVENT: &str = "HTTP/1.1 204 No Content\r\nContent-Type: message/http\r\n\r\n";
const HEARTBEAT: &str = "OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n";
const GOAWAY: &str = "OPTIONS * HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n";
/// Whether a log has a warning, but for that of a machine which gave the process no time.
fn warns(log: &str) -> bool {
    log.lines().any(|line| line.contains(" WARN ") && !line.contains("stood still"))
}

/// How long nothing has to happen before it is taken that nothing will.
const QUIET: Duration = Duration::from_millis(100);

#[track_caller]
fn device(url: &str, more: &[&str]) -> Process {
    Ptth::start(&[&["device", url, "--text", "x", "--backoff", "5ms..20ms"], more].concat())
}

#[track_caller]
fn serves(peer: &mut RawPeer) {
    peer.write(get("/"));
    assert_eq!(peer.read_answer("GET").text(), "x");
}

#[track_caller]
fn nobody_dials(raw: &RawGateway) {
    std::thread::sleep(QUIET); // that something does not happen cannot be waited for otherwise
    assert!(raw.try_accept().is_none(), "one dials too many");
}

// ── The pool after an outage ──

/// One attempt at a time while the gateway does not answer; after its first 101 all that are
/// wanted at once, though none of them is answered.
#[test]
fn after_an_outage_the_pool_comes_back_in_parallel_behind_the_first_answer() {
    let raw = RawGateway::start();
    let _device = device(&raw.url("lamp"), &["--links", "8..8"]);
    (0..8).map(|_| raw.offer().0).collect::<Vec<_>>().iter_mut().for_each(|peer| peer.write(BUSY)); // the outage
    let (mut first, _) = raw.offer();
    nobody_dials(&raw);
    first.write(SWITCH);
    let others: Vec<_> = (0..7).map(|_| raw.offer()).collect(); // a round trip for all of them, and not for each
    nobody_dials(&raw);
    drop(others);
}

/// Where links end as soon as they are turned a 101 proves nothing: then they are tried one by one.
#[test]
fn behind_links_that_ended_at_once_the_pool_comes_back_one_by_one() {
    let raw = RawGateway::start();
    let _device = device(&raw.url("lamp"), &["--links", "4..4"]);
    // One is turned and dropped, the only link; the others are refused.
    raw.turn();
    (0..3).for_each(|_| raw.offer().0.write(BUSY));
    let mut offers: Vec<RawPeer> = Vec::new();
    let mut busy = |peer: &mut RawPeer| {
        peer.try_read_head(); // what is unread would make a reset of its end
        let _ = peer.try_write(BUSY);
    };
    let mut first = eventually("one alone is dialled", || {
        offers.iter_mut().for_each(&mut busy);
        offers.clear();
        let (mut first, _) = raw.offer();
        std::thread::sleep(QUIET);
        // What was dialled before the device saw the end.
        offers.extend(std::iter::from_fn(|| raw.try_accept()));
        if offers.is_empty() {
            return Some(first);
        }
        busy(&mut first);
        None
    });
    first.write(SWITCH);
    let (mut second, _) = raw.offer();
    nobody_dials(&raw);
    // A request is proof.
    serves(&mut first);
    second.write(SWITCH);
    let _others: Vec<_> = (0..2).map(|_| raw.offer()).collect();
}

// ── Offers that are held (Yaler's relay, --turn on-demand) ──

#[test]
fn visits_through_held_offers_are_told_once_and_their_end_when_no_offer_is_held() {
    for links in ["1..1", "1..8"] {
        let raw = RawGateway::start();
        let device = device(&raw.url("lamp"), &["--links", links]);
        let (mut held, _) = raw.offer();
        held.write(NOTHING_YET);
        held.read_head();
        assert!(device.line().starts_with("waiting lamp via "));
        for _ in 0..4 {
            held.write([SWITCH, get("/").as_bytes()].concat());
            assert_eq!(held.read_answer("GET").text(), "x");
            drop(held); // one visit a connection
            (held, _) = raw.offer();
        }
        // One that was turned for a visitor who left without a word is no failure either.
        held.write(NOTHING_YET);
        held.read_head();
        assert!(device.line().starts_with("connected lamp via "));
        assert_eq!(device.line_within(QUIET), None, "{links}: connected is told once");
        let log = device.stderr();
        assert!(!log.contains("disconnected") && !warns(&log), "{links}: {log}");
        let addr = raw.addr;
        drop(raw); // first, so that nothing is dialled into a listener that is about to go
        drop(held);
        device.expect_stderr("disconnected lamp from ");
        let raw = RawGateway::at(addr);
        let (mut back, head) = raw.offer();
        assert_eq!(head.get("upgrade"), Some("PTTH/1.0"), "{}", head.text());
        back.write(SWITCH);
        assert!(device.line().starts_with("connected lamp via "));
        serves(&mut back);
    }
}

#[test]
fn a_gateway_that_closes_behind_every_204_is_asked_in_its_pace_and_not_complained_of() {
    let raw = RawGateway::start();
    let device = device(&raw.url("lamp"), &["--links", "1..1"]);
    for _ in 0..6 {
        let (mut peer, _) = raw.offer();
        peer.write("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"); // and is dropped
    }
    assert!(device.line().starts_with("waiting lamp via "));
    assert_eq!(device.line_within(Duration::ZERO), None, "waiting is told once");
    assert!(!warns(&device.stderr()), "{}", device.stderr());
    nobody_dials(&raw); // it came at once four times: now there is a second between
    serves(&mut raw.turn());
}

#[test]
fn a_gateway_whose_links_bring_what_none_may_send_is_not_dialled_in_a_circle() {
    let raw = RawGateway::start();
    let mut device = device(&raw.url("lamp"), &["--links", "1..1"]);
    for _ in 0..12 {
        let mut peer = raw.turn();
        peer.write("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n");
        peer.read_answer("GET").expect_refusal(400);
        assert!(!device.has_ended());
    }
    nobody_dials(&raw);
    serves(&mut raw.turn()); // within a second or two
    assert!(device.stderr().contains("Content-Length"));
}

/// It is dialled as often as it asks, and its ways do not fill the log.
#[test]
fn a_gateway_that_ends_each_link_behind_its_answer_is_told_of_only_so_often() {
    for links in ["1..1", "1..8"] {
        let raw = RawGateway::start();
        let device = device(&raw.url("lamp"), &["--links", links]);
        let visit = || {
            let (mut peer, _) = raw.offer();
            peer.write([SWITCH, get("/").as_bytes()].concat());
            assert_eq!(peer.read_answer("GET").text(), "x");
        };
        (0..40).for_each(|_| visit());
        device.expect_stderr("ends its links after a few seconds or requests");
        let told = |device: &Process| device.stderr().matches("disconnected lamp from ").count();
        (0..20).for_each(|_| visit());
        let before = told(&device); // a line may be read late, so there is a bound alone
        assert!(before <= 10, "{links}: {}", device.stderr());
        // That no other one comes is news.
        drop(raw);
        eventually("the end of the way in", || (told(&device) > before).then_some(()));
    }
}

// ── Links that carry nothing ──

/// A box on the way that lets offers and their 101 pass, and nothing after it. It passes polls.
fn swallowing_box(gateway: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((device, _)) = listener.accept() {
            let Ok(gateway) = TcpStream::connect(gateway) else { return };
            let (mut up, mut down) =
                ((device.try_clone().unwrap(), gateway.try_clone().unwrap()), (gateway, device));
            std::thread::spawn(move || std::io::copy(&mut up.0, &mut up.1));
            std::thread::spawn(move || {
                let (mut buffer, mut swallows) = ([0; 4096], false);
                while let Ok(n @ 1..) = down.0.read(&mut buffer) {
                    let _ = if swallows { Ok(()) } else { down.1.write_all(&buffer[..n]) };
                    swallows |= buffer[..n].starts_with(b"HTTP/1.1 101 ");
                }
                if swallows {
                    std::thread::park(); // not even its end gets through
                }
            });
        }
    });
    at
}

#[test]
fn behind_a_box_that_swallows_what_follows_the_101_polls_take_the_links_place() {
    let gateway = Gateway::start(&[
        "--heartbeat",
        "200ms",
        "--heartbeat-timeout",
        "200ms",
        "--first-byte",
        "500ms",
    ]);
    let transport = swallowing_box(gateway.devices);
    let device = device(&format!("http://{transport}/lamp"), &["--doubt-after", "300ms"]);
    assert!(device.line().ends_with(" (PTTH/1.0 turn)"));
    eventually("polls take over", || (gateway.get("/lamp/").head.status() == 200).then_some(()));
    assert!(device.line().ends_with(" (COMET message/http)"));
    for _ in 0..3 {
        gateway.get("/lamp/").expect_ok("x");
    }
    device.expect_stderr("carry no bytes: polling without Upgrade");
    assert_eq!(device.line_within(QUIET), None, "and it stays so");
}

#[test]
fn a_poll_beside_silent_links_decides_by_what_it_brings() {
    let raw = RawGateway::start();
    let device = device(&raw.url("lamp"), &["--doubt-after", "200ms", "--links", "1..1"]);
    let mut link = raw.turn();
    assert!(device.line().ends_with(" (PTTH/1.0 turn)"));
    let (mut poll, head) = raw.offer();
    assert_eq!((head.method(), head.get("upgrade")), ("POST", None), "{}", head.text());
    poll.write(NO_EVENT);
    assert_eq!(poll.read_head().get("upgrade"), None);
    link.expect_quiet(QUIET); // that a mailbox answers proves nothing against the link
    assert_eq!(device.line_within(Duration::ZERO), None);
    // A gateway asks over an idle link, if it has one.
    let request = get("/");
    poll.write(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: message/http\r\nPTTH-Message-ID: e\r\nContent-Length: {}\r\n\r\n{request}",
        request.len()
    ));
    link.expect_closed();
    let answer = poll.read_head();
    assert_eq!(
        (answer.get("ptth-message-id"), answer.get("upgrade")),
        (Some("e"), None),
        "{}",
        answer.text()
    );
    assert!(device.line().ends_with(" (COMET message/http)"));
    // As many polls as are wanted, and no more offers.
    let (_second, head) = raw.offer();
    assert_eq!(head.get("upgrade"), None, "{}", head.text());
    nobody_dials(&raw);
}

#[test]
fn a_link_that_ends_without_use_beside_a_mailbox_makes_polls_of_it() {
    let raw = RawGateway::start();
    let device = device(&raw.url("lamp"), &["--doubt-after", "200ms", "--links", "1..1"]);
    let link = raw.turn();
    assert!(device.line().ends_with(" (PTTH/1.0 turn)"));
    let (mut poll, _) = raw.offer();
    poll.write(NO_EVENT);
    poll.read_head();
    drop(link);
    assert!(device.line().ends_with(" (COMET message/http)"));
    let (_second, head) = raw.offer();
    assert_eq!(head.get("upgrade"), None, "{}", head.text());
    // Another way in, another judgement: it turns again, and is doubted at once.
    drop((poll, _second));
    let (mut fresh, _) = eventually("an offer of a turn", || {
        let (mut peer, head) = raw.offer();
        if head.get("upgrade").is_some() {
            return Some((peer, head));
        }
        peer.write(BUSY);
        None
    });
    fresh.write(SWITCH);
    let (_poll, head) = raw.offer();
    assert_eq!(head.get("upgrade"), None, "{}", head.text());
}

#[test]
fn a_foreign_gateway_that_is_merely_idle_keeps_its_links() {
    for no in [
        "HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n",
        BUSY,
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi",
        "", // closed
    ] {
        let raw = RawGateway::start();
        let device = device(
            &raw.url("lamp"),
            &["--doubt-after", "100ms", "--links", "1..1", "--max-retries", "1"],
        );
        let mut link = raw.turn();
        assert!(device.line().ends_with(" (PTTH/1.0 turn)"));
        for _ in 0..3 {
            let (mut poll, head) = raw.offer();
            assert_eq!(head.get("upgrade"), None, "{}", head.text());
            poll.write(no);
        }
        serves(&mut link);
        assert_eq!(device.line_within(QUIET), None, "{no}");
        let log = device.stderr();
        assert!(!log.contains("disconnected") && !warns(&log), "{no}: {log}");
        assert_eq!(log.matches("polling beside them").count(), 1, "{log}");
        // What has carried something is not doubted; a poll may have been on its way.
        std::thread::sleep(QUIET);
        while raw.try_accept().is_some() {}
        nobody_dials(&raw);
        nobody_dials(&raw);
        nobody_dials(&raw);
    }
}

/// The wait before the next poll beside the links doubles up to 64 times `--doubt-after`, and counts
/// from the poll before.
#[test]
fn polls_beside_doubted_links_become_rare_and_stay_so() {
    let raw = RawGateway::start();
    let _device = device(&raw.url("lamp"), &["--doubt-after", "5ms", "--links", "1..1"]);
    let mut link = raw.turn();
    let mut since = Instant::now();
    for n in 1..=10 {
        let (mut poll, head) = raw.offer();
        assert_eq!(head.get("upgrade"), None, "{}", head.text());
        let waited = since.elapsed();
        assert!(n < 8 || waited >= Duration::from_millis(300), "poll {n} after {waited:?}");
        since = Instant::now();
        poll.write(BUSY);
    }
    serves(&mut link);
}

#[test]
fn a_heartbeat_ends_the_doubt() {
    let raw = RawGateway::start();
    let device = device(&raw.url("lamp"), &["--doubt-after", "200ms", "--links", "1..1"]);
    let mut link = raw.turn();
    let (mut poll, _) = raw.offer();
    link.write(HEARTBEAT);
    assert_eq!(link.read_answer("OPTIONS").head.status(), 204);
    poll.write(NO_EVENT);
    poll.expect_closed(); // links are there instead
    serves(&mut link);
    assert!(device.line().ends_with(" (PTTH/1.0 turn)"));
    assert_eq!(device.line_within(QUIET), None);
    nobody_dials(&raw);
}

#[test]
fn without_doubt_or_without_a_fallback_nothing_polls_beside_links() {
    for more in [["--doubt-after", "0s"], ["--fallback", "never"]] {
        let raw = RawGateway::start();
        let _device = device(&raw.url("lamp"), &[&["--links", "1..1"], &more[..]].concat());
        let _link = raw.turn();
        nobody_dials(&raw);
    }
}

// ── Goaways ──

/// A program that accepts links one by one dials the replacement first, too: it is there when the answer is
/// read.
#[test]
fn a_program_that_listens_dials_the_replacement_before_a_goaway_is_answered() {
    let raw = RawGateway::start();
    let program = Device::builder(raw.url("lamp")).links(1..=1).build().unwrap();
    let listener = program.listen().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while let Ok(mut link) = listener.accept() {
                while let Ok(Some(_)) = link.next_request() {
                    link.respond(Response::new(Body::from("x"))).unwrap();
                }
            }
        });
        let mut link = raw.turn();
        serves(&mut link);
        for _ in 0..3 {
            link.write(GOAWAY);
            let answer = link.read_answer("OPTIONS");
            assert_eq!(
                (answer.head.status(), answer.head.closes()),
                (204, true),
                "{}",
                answer.head.text()
            );
            let next = raw
                .try_accept()
                .expect("the replacement is on its way before the goaway is answered");
            link.expect_closed();
            link = next; // the old one is closed here, too, and the program goes on to this
            link.read_head();
            link.write(SWITCH);
            serves(&mut link);
            nobody_dials(&raw);
        }
        listener.stop();
    });
}

/// A link whose last message is written is replaced at once, however long its gateway keeps it
/// open: it serves nobody any more.
#[test]
fn a_link_that_was_ended_here_is_replaced_at_once() {
    let raw = RawGateway::start();
    let mut limits = Limits::default();
    (limits.linger_timeout, limits.linger_total_timeout) =
        (Duration::from_secs(60), Duration::from_secs(60));
    let device = Device::builder(raw.url("lamp")).links(1..=1).limits(limits).build().unwrap();
    let running = device.spawn(|_| Response::new(Body::from("x"))).unwrap();
    let mut kept = Vec::new();
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: u@a/b, c\r\n\r\n", 400),
    ] {
        let mut link = raw.turn();
        link.write(request);
        assert_eq!(link.read_answer("GET").status(), status);
        kept.push(link);
    }
    serves(&mut raw.turn());
    running.stop();
}

/// A drain tells all links of a device at once, also those that had just been turned. Each is
/// replaced before its goaway is answered: there was one event, and no circle.
#[test]
fn a_drain_of_many_new_links_is_one_goaway() {
    let raw = RawGateway::start();
    let _device = device(&raw.url("lamp"), &["--links", "8..8"]);
    let mut links: Vec<RawPeer> = (0..8).map(|_| raw.turn()).collect();
    let mut replacements = Vec::new();
    for link in &mut links {
        link.write(GOAWAY);
        assert_eq!(link.read_answer("OPTIONS").head.status(), 204);
        replacements.push(raw.try_accept().expect("the replacement is dialled before the answer"));
    }
}

// ── Giving up, and what is said of it ──

#[test]
fn a_device_that_may_try_once_says_one_line() {
    let raw = RawGateway::start();
    let mut device = device(&raw.url("lamp"), &["--max-retries", "1", "--links", "1..1"]);
    raw.offer().0.write(BUSY);
    assert_eq!(device.exit_code(), 1);
    let log = device.stderr();
    assert_eq!(log.matches("answered with 503").count(), 1, "{log}");
    assert!(
        log.contains(
            "gave up after 1 failed attempt (DeviceBuilder::max_retries, or --max-retries): "
        ) && !log.contains("next attempt"),
        "{log}"
    );
}

// ── Names and dialects ──

#[test]
fn a_gateway_url_with_more_than_a_name_is_refused_to_a_program_that_does_not_ask_for_it() {
    for more in ["lamp/x/y", "lamp/", "q?x=1", "?x=1"] {
        let builder = || Device::builder(format!("http://gw.example/{more}"));
        let error = builder().build().unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("whole_target"), "{more}: {error}");
        assert!(builder().whole_target(true).build().is_ok(), "{more}");
    }
    assert!(
        Device::builder("http://gw.example/lamp").build().is_ok()
            && Device::builder("http://gw.example").build().is_ok()
    );
}

#[test]
fn an_ietf_offer_goes_where_the_urls_template_says() {
    let origins: &[&str] =
        &["--dialect", "ptth", "--origin", "https://lamp.example", "--origin", "http://b:8080"];
    for (path, target) in [
        ("", "/.well-known/ptth/https%3A%2F%2Flamp.example,http%3A%2F%2Fb%3A8080/"),
        (
            "/ptth?origin={serialized_origin}",
            "/ptth?origin=https%3A%2F%2Flamp.example,http%3A%2F%2Fb%3A8080",
        ),
        (
            "/ptth{?serialized_origin*}",
            "/ptth?serialized_origin=https%3A%2F%2Flamp.example&serialized_origin=http%3A%2F%2Fb%3A8080",
        ),
    ] {
        let raw = RawGateway::start();
        let device = device(&format!("http://{}{path}", raw.addr), origins);
        let (mut peer, head) = raw.offer();
        assert_eq!(head.start, format!("GET {target} HTTP/1.1"));
        peer.write(vector("ietf-2-switch"));
        assert!(device.line().starts_with("connected https://lamp.example via "));
    }
    for (path, word) in [
        ("/lamp", "{?serialized_origin}"),
        ("/ptth?origin={origin}", "serialized_origin is the only one"),
        ("/ptth/{+serialized_origin}", "operator +"),
        ("/.well-known/ptth/https%3A%2F%2Fother.example/", "other origins"),
    ] {
        let url = format!("http://127.0.0.1:9{path}");
        let (code, _, err) =
            Ptth::run(&[&["device", url.as_str(), "--text", "x"], origins].concat());
        assert!(code == 2 && err.contains(word), "{path}: {code}, {err}");
    }
}

#[test]
fn the_ietf_dialect_needs_its_connection_field() {
    let gateway = Gateway::start(&[]);
    let offer = |connection: &str| {
        let target = "/.well-known/ptth/https%3A%2F%2Flamp.example/";
        let mut peer = gateway.dial();
        peer.write(format!("GET {target} HTTP/1.1\r\nHost: gw\r\nUpgrade: ptth\r\n{connection}ALPN: http%2F1.1\r\n\r\n"));
        peer.read_head().status()
    };
    assert_eq!((offer("Connection: upgrade\r\n"), offer("")), (101, 400));
    // The seed's own form has none.
    let mut seed = gateway.dial();
    seed.write("POST /seed HTTP/1.1\r\nHost: gw\r\nUpgrade: PTTH/0.9\r\n\r\n");
    assert_eq!(seed.read_head().status(), 101);
}

/// As lib/core/util.c of h2o's branch of its reverse tunnel offers and checks.
const H2O_OFFER: &str = "GET /lamp HTTP/1.1\r\nhost: gw\r\nconnection: upgrade\r\nupgrade: reverse\r\nalpn: h2,http%2F1.1\r\n\r\n";

#[test]
fn h2os_reverse_tunnel_is_a_dialect_of_both_commands() {
    let gateway = Gateway::start(&["--dialect", "h2o"]);
    let mut h2o = gateway.dial();
    h2o.write(H2O_OFFER);
    let head = h2o.read_head();
    let fields = (
        head.get("upgrade"),
        head.get("connection").map(str::to_lowercase),
        head.get("selected-alpn"),
    );
    assert_eq!(
        (head.status(), fields),
        (101, (Some("reverse"), Some("upgrade".to_owned()), Some("http%2F1.1")))
    );
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    assert_eq!(h2o.read_head().target(), "/x");
    let mut only_h2 = gateway.dial();
    only_h2.write(H2O_OFFER.replace("h2,http%2F1.1", "h2"));
    only_h2.read_answer("GET").expect_refusal(400);
    // It is a token that others may use otherwise, so nobody takes it unasked.
    let plain = Gateway::start(&[]);
    let mut unasked = plain.dial();
    unasked.write(H2O_OFFER);
    unasked.read_answer("GET").expect_refusal(405);

    let device = self::device(&gateway.device_url("porch"), &["--dialect", "h2o"]);
    assert!(device.line().ends_with(" (reverse turn)"));
    gateway.get("/porch/").expect_ok("x");
    let raw = RawGateway::start();
    let device = self::device(&raw.url("lamp"), &["--dialect", "h2o", "--links", "1..1"]);
    let (mut peer, head) = raw.offer();
    assert_eq!(
        (head.method(), head.get("upgrade"), head.get("alpn")),
        ("GET", Some("reverse"), Some("http%2F1.1"))
    );
    peer.write("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: reverse\r\nSelected-ALPN: h2\r\n\r\n");
    device.expect_stderr("another protocol than the offered http/1.1");
    assert_eq!(device.line_within(Duration::ZERO), None);
}

#[test]
fn a_token_of_ones_own_is_taken_where_the_operator_says_so() {
    let gateway = Gateway::start(&["--dialect", "Acme/2,h2o"]);
    let mut acme = gateway.dial();
    acme.write(offer("lamp", "").replace("PTTH/1.0", "Acme/2"));
    assert_eq!(acme.read_head().get("upgrade"), Some("Acme/2"));
    let (code, _, err) = Ptth::run(&["gateway", "--dialect", "websocket"]);
    assert!(code == 2 && err.contains("--dialect websocket"), "{err}");
}

/// A tunnel that opens a link for every 101 wants its offers held; a device that does not know what
/// a 204 is wants them turned.
#[test]
fn when_an_offer_is_turned_may_be_said_for_each_device() {
    for (turn, held, turned) in
        [("lamp=on-demand", "lamp", "porch"), ("on-demand,porch=now", "lamp", "porch")]
    {
        let gateway = Gateway::start(&["--turn", turn]);
        let mut at_once = gateway.dial();
        at_once.write(offer(turned, ""));
        assert_eq!(at_once.read_head().status(), 101, "{turn}");
        let mut waits = gateway.dial();
        waits.write(offer(held, ""));
        waits.expect_quiet(QUIET);
        let mut visitor = gateway.visitor();
        visitor.write(get(&format!("/{held}/x")));
        assert_eq!(waits.read_head().status(), 101, "{turn}");
        assert_eq!(waits.read_head().target(), "/x");
    }
    for wrong in ["sometimes", "lamp=never", "La_mp=now"] {
        let (code, _, err) = Ptth::run(&[
            "gateway",
            "--devices",
            "127.0.0.1:0",
            "--visitors",
            "127.0.0.1:0",
            "--turn",
            wrong,
        ]);
        assert!(code == 2 && err.contains(wrong.split('=').next().unwrap()), "{wrong}: {err}");
    }
}
