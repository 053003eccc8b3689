//! The device's way out: several gateways, failover, an end of retries, a pool that never
//! overshoots, goaways. Against scripted gateways and real ones.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use http::{Request, Response};
use reverse_http::{Body, Device, DeviceEventKind, Transport};

use crate::support::process::{Process, get};
use crate::support::{
    Gateway, LocalServer, Ptth, RawGateway, RawPeer, SWITCH, eventually, free_port, say, slack,
};

const QUICK: &[&str] = &["--text", "x", "--backoff", "5ms..20ms"];

#[track_caller]
fn start(url: &str, more: &[&str]) -> Process {
    // One link, unless a test says otherwise: a spare one would meet what is meant for the next.
    let mut command = Ptth::command(&[&["device", url], QUICK, more].concat());
    Process::start(command.env("PTTH_LINKS", "1..1"))
}

/// Fails unless the link is served.
#[track_caller]
fn serves(peer: &mut RawPeer) {
    peer.write(get("/"));
    assert_eq!(peer.read_answer("GET").text(), "x");
}

fn connected(url: &str) -> String {
    format!("connected lamp via {url} (PTTH/1.0 turn)")
}

// ── Several gateways ──

#[test]
fn a_device_has_links_to_all_its_gateways_at_once_each_with_its_own_ups_and_downs() {
    let gateways =
        [Gateway::start(&[]), Gateway::start(&["--fallback", "only"]), Gateway::start(&[])];
    let urls: Vec<String> = gateways.iter().map(|g| g.device_url("lamp")).collect();
    let mut device =
        start(&urls[0], &["--gateway", &urls[1], "--gateway", &urls[2], "--links", "2..3"]);
    let lines: BTreeSet<String> = (0..3).map(|_| device.line()).collect();
    let polls = format!("connected lamp via {} (COMET message/http)", urls[1]);
    assert_eq!(
        lines,
        BTreeSet::from([connected(&urls[0]), polls, connected(&urls[2])]),
        "one polls, two turn"
    );
    for gateway in &gateways {
        gateway.get("/lamp/x").expect_ok("x");
    }
    // One goes without a word: the others do not notice, and each line names its own.
    let [first, second, third] = gateways;
    let addr = first.devices;
    drop(first);
    device.expect_stderr(&format!("disconnected lamp from {}", urls[0]));
    (0..20).for_each(|_| {
        second.get("/lamp/x").expect_ok("x");
        third.get("/lamp/x").expect_ok("x");
    });
    assert!(
        !device.stderr().contains(&format!("disconnected lamp from {}", urls[2])),
        "{}",
        device.stderr()
    );
    // It comes back, in the same place.
    let mut back = RawGateway::at(addr).turn();
    assert_eq!(device.line(), connected(&urls[0]));
    serves(&mut back);
    device.signal("TERM");
    assert_eq!(device.exit_code(), 0);
}

#[test]
fn gateways_may_be_a_list_in_the_environment_and_each_has_its_own_name() {
    let (one, two, three) = (RawGateway::start(), RawGateway::start(), RawGateway::start());
    let mut command = Ptth::command(&[&["device", &one.url("lamp")], QUICK].concat());
    let device = Process::start(
        command.env("PTTH_GATEWAY", format!("{},{}", two.url("other"), three.url("third"))),
    );
    let offers = [&one, &two, &three].map(|raw| raw.offer());
    assert_eq!(
        offers.each_ref().map(|(_, head)| head.target().to_owned()),
        ["/lamp", "/other", "/third"]
    );
    let sessions: BTreeSet<_> =
        offers.iter().map(|(_, head)| head.get("ptth-session").unwrap().to_owned()).collect();
    assert_eq!(sessions.len(), 1, "one run, one session");
    for ((mut peer, _), (raw, name)) in
        offers.into_iter().zip([(&one, "lamp"), (&two, "other"), (&three, "third")])
    {
        peer.write(SWITCH);
        assert_eq!(
            device.line(),
            format!("connected {name} via {} (PTTH/1.0 turn)", raw.url(name))
        );
        serves(&mut peer);
    }
}

#[test]
fn a_refusal_ends_the_device_only_where_no_gateway_is_left() {
    let (one, two) = (RawGateway::start(), RawGateway::start());
    let refuse = |raw: &RawGateway, status: &str| {
        raw.offer()
            .0
            .write(format!("HTTP/1.1 {status}\r\nProxy-Status: ptth\r\nContent-Length: 0\r\n\r\n"))
    };
    let mut device = start(&one.url("lamp"), &["--gateway", &two.url("lamp")]);
    refuse(&one, "403 Forbidden");
    device.expect_stderr("403");
    let mut peer = two.turn();
    assert_eq!(device.line(), connected(&two.url("lamp")));
    serves(&mut peer);
    assert!(!device.has_ended() && one.try_accept().is_none());
    drop(device);
    // All refuse.
    let two = RawGateway::start(); // the other may hear that the device stops
    let mut device = start(&one.url("lamp"), &["--gateway", &two.url("lamp")]);
    refuse(&one, "401 Unauthorized");
    device.expect_stderr("401");
    refuse(&two, "404 Not Found");
    assert_eq!(device.exit_code(), 3);
    // With failover it goes on to the next, and never back.
    let mut device = start(&one.url("lamp"), &["--gateway", &two.url("lamp"), "--failover"]);
    refuse(&one, "403 Forbidden");
    drop(two.offer());
    let (mut again, _) = two.offer();
    assert!(one.try_accept().is_none(), "it had refused for good");
    again.write("HTTP/1.1 403 Forbidden\r\nProxy-Status: ptth\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(device.exit_code(), 3);
}

#[test]
fn a_spawned_device_has_several_gateways() {
    let gateways = [0, 1].map(|_| crate::support::gateway().listen("127.0.0.1:0").start().unwrap());
    let build = |name: &str| {
        let [one, two] = gateways.each_ref().map(|g| format!("http://{}/{name}", g.devices_addr()));
        Device::builder(one)
            .gateway(two)
            .links(1..=2)
            .backoff(Duration::from_millis(5)..Duration::from_millis(50))
            .build()
            .unwrap()
    };
    let ask = |g: &reverse_http::Gateway, name: &str| {
        let response =
            g.device(name).send(Request::get("/x").body(Body::empty()).unwrap()).unwrap();
        response.into_body().read_to_text(100).unwrap()
    };
    // spawn, events, stats, drain
    let device = build("spawned");
    let events = device.events();
    let handle = device.spawn(|_| Response::new(Body::from("spawned"))).unwrap();
    let urls: BTreeSet<String> = (0..2)
        .map(|_| events.recv_timeout(Duration::from_secs(10)).unwrap())
        .map(|e| {
            assert_eq!((e.kind, e.transport), (DeviceEventKind::Connected, Some(Transport::Turn)));
            e.url
        })
        .collect();
    assert_eq!(urls.len(), 2);
    gateways.iter().for_each(|g| assert_eq!(ask(g, "spawned"), "spawned"));
    eventually("both are counted", || {
        (handle.stats().links >= 2 && handle.stats().exchanges == 2).then_some(())
    });
    handle.retry_now();
    handle.drain(Duration::from_secs(1));
    assert_eq!(handle.wait().map_err(|e| e.to_string()), Ok(()));
    eventually("both see it go", || {
        gateways
            .iter()
            .all(|g| g.device("spawned").links().is_ok_and(|links| links.total() == 0))
            .then_some(())
    });
}

#[test]
fn receiving_listening_and_forwarding_work_with_several_gateways() {
    let gateways = [0, 1].map(|_| crate::support::gateway().listen("127.0.0.1:0").start().unwrap());
    let build = |name: &str| {
        let [one, two] = gateways.each_ref().map(|g| format!("http://{}/{name}", g.devices_addr()));
        Device::builder(one)
            .gateway(two)
            .links(1..=2)
            .backoff(Duration::from_millis(5)..Duration::from_millis(50))
            .build()
            .unwrap()
    };
    let wait = |name: &str| {
        gateways
            .iter()
            .for_each(|g| g.device(name).wait_connected(Duration::from_secs(10)).unwrap())
    };
    let ask = |g: &reverse_http::Gateway, name: &str| {
        let response =
            g.device(name).send(Request::get("/x").body(Body::empty()).unwrap()).unwrap();
        response.into_body().read_to_text(100).unwrap()
    };
    // recv
    let device = build("received");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2 {
                device.recv().unwrap().respond(Response::new(Body::from("received"))).unwrap();
            }
        });
        wait("received");
        gateways.iter().for_each(|g| assert_eq!(ask(g, "received"), "received"));
    });
    drop(device);
    // listen, and stop
    let device = build("listened");
    let listener = device.listen().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while let Ok(mut link) = listener.accept() {
                scope.spawn(move || {
                    while let Ok(Some(_)) = link.next_request() {
                        link.respond(Response::new(Body::from("listened"))).unwrap();
                    }
                });
            }
        });
        wait("listened");
        gateways.iter().for_each(|g| assert_eq!(ask(g, "listened"), "listened"));
        listener.stop();
    });
    // forward_to
    let local = LocalServer::start();
    let handle = build("forwarded").spawn_forward(local.url()).unwrap();
    wait("forwarded");
    gateways.iter().for_each(|g| assert_eq!(ask(g, "forwarded"), "hello\n"));
    handle.stop();
}

#[test]
fn gateways_that_cannot_be_are_wrong_usage() {
    let url = "http://127.0.0.1:9/lamp";
    for (arguments, word) in [
        (vec!["--gateway", url], "twice"),
        (vec!["--gateway", "http://127.0.0.1:9999/Up_Per"], "Up_Per"),
        (vec!["--gateway", "http://me:hunter2@gw.test/lamp"], "PTTH_TOKEN"),
        (vec!["--gateway", "gw.test/lamp"], "http://"),
        (vec!["--failover"], "--gateway"),
        (vec!["--max-retries", "0"], "--max-retries"),
        (vec!["--max-retries", "some"], "--max-retries"),
        (vec!["--proxy", "http://me:hunter2@127.0.0.1:1"], "127.0.0.1:1"),
        (vec!["--proxy=http://me:hunter2@127.0.0.1:1"], "127.0.0.1:1"),
        (vec!["--proxy", "socks5://127.0.0.1:1"], "http://"),
        (vec!["--proxy", "127.0.0.1:1"], "http://"),
        (vec!["--resolve-timeout", "0s"], "--resolve-timeout"),
        (vec!["--connect-timeout", "0s"], "--connect-timeout"),
        (vec!["--proxy-timeout", "0s"], "--proxy-timeout"),
    ] {
        let (code, out, err) =
            Ptth::run(&[vec!["device", url, "--text", "x"], arguments.clone()].concat());
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {err}");
        assert!(err.contains(word) && !err.contains("hunter2"), "{arguments:?}: {err}");
    }
    let many: Vec<String> = (10..26).map(|n| format!("http://127.0.0.1:{n}/lamp")).collect();
    let (code, _, err) = Ptth::run(&["device", url, "--text", "x", "--gateway", &many.join(",")]);
    assert!(code == 2 && err.contains("gateways"), "{err}");
}

// ── Failover ──

#[test]
fn with_failover_one_gateway_is_used_at_a_time_in_their_order() {
    let (down, first, second) = (free_port(), RawGateway::start(), RawGateway::start());
    let down = format!("http://127.0.0.1:{down}/lamp");
    let began = Instant::now();
    let device = Ptth::start(&[
        "device",
        &down,
        "--gateway",
        &first.url("lamp"),
        "--gateway",
        &second.url("lamp"),
        "--failover",
        "--text",
        "x",
        "--backoff",
        "30s..60s",
    ]);
    // The first is down: the second at once, without the pause of its back-off.
    let mut peer = first.turn();
    assert!(began.elapsed() < Duration::from_secs(2) + slack(), "{:?}", began.elapsed());
    assert_eq!(device.line(), connected(&first.url("lamp")));
    device.expect_stderr(&format!("gateway {down} cannot be reached"));
    device.expect_stderr(&format!("next is {}", first.url("lamp")));
    serves(&mut peer);
    assert!(second.try_accept().is_none(), "one at a time");
}

#[test]
fn with_failover_a_way_in_that_holds_is_kept_and_when_it_is_lost_the_first_is_tried_first() {
    let (first, second) = (RawGateway::start(), RawGateway::start());
    let mut device = start(
        &first.url("lamp"),
        &["--gateway", &second.url("lamp"), "--failover", "--links", "1..1"],
    );
    // The first is full for an hour: it is left alone for so long.
    let (mut refused, _) = first.offer();
    refused.write(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n",
    );
    let mut peer = second.turn();
    assert_eq!(device.line(), connected(&second.url("lamp")));
    serves(&mut peer);
    drop(peer);
    let mut peer = second.turn();
    assert_eq!(device.line(), connected(&second.url("lamp")));
    serves(&mut peer);
    peer.expect_quiet(Duration::from_millis(100));
    assert!(first.try_accept().is_none(), "it said when");
    // SIGHUP: whatever they said. The way in holds, so nothing is dialled; lost, it is the first's
    // turn again.
    device.signal("HUP");
    device.expect_stderr("SIGHUP");
    serves(&mut peer);
    assert!(first.try_accept().is_none(), "a way in that holds is kept");
    drop(peer);
    let mut peer = first.turn();
    assert_eq!(device.line(), connected(&first.url("lamp")));
    serves(&mut peer);
    // Both fail, again and again: in turn, and never one alone.
    drop(peer);
    for _ in 0..3 {
        drop(first.offer());
        drop(second.offer());
    }
    assert!(!device.has_ended());
}

#[test]
fn with_failover_a_gateway_that_turns_and_closes_is_passed_over() {
    let (first, second) = (RawGateway::start(), RawGateway::start());
    let device = start(&first.url("lamp"), &["--gateway", &second.url("lamp"), "--failover"]);
    drop(first.turn());
    let mut peer = second.turn();
    assert_eq!(device.line(), connected(&first.url("lamp")));
    assert_eq!(device.line(), connected(&second.url("lamp")));
    serves(&mut peer);
}

#[test]
fn with_failover_polls_move_on_too_and_bring_nothing_of_their_mode_along() {
    let (first, second) = (RawGateway::start(), RawGateway::start());
    let device = start(
        &first.url("lamp"),
        &["--gateway", &second.url("lamp"), "--failover", "--polls", "1"],
    );
    let (mut peer, _) = first.offer();
    peer.write("HTTP/1.1 200 OK\r\nContent-Type: message/http\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(
        device.line(),
        format!("connected lamp via {} (COMET message/http)", first.url("lamp"))
    );
    peer.read_head();
    drop(first);
    drop(peer);
    let (mut peer, head) = second.offer();
    assert_eq!(head.get("upgrade"), Some("PTTH/1.0"));
    peer.write(SWITCH);
    assert_eq!(device.line(), connected(&second.url("lamp")));
    serves(&mut peer);
}

// ── Retries ──

#[test]
fn after_max_retries_the_device_ends_with_1_and_says_why() {
    let raw = RawGateway::start();
    let mut device = start(&raw.url("lamp"), &["--max-retries", "3", "--links", "1..1"]);
    // A success in between: the count begins again.
    for _ in 0..2 {
        let (mut peer, _) = raw.offer();
        peer.write(
            "HTTP/1.1 503 Service Unavailable\r\nProxy-Status: ptth\r\nContent-Length: 0\r\n\r\n",
        );
    }
    let mut peer = raw.turn();
    serves(&mut peer);
    drop(peer);
    for n in 0..3 {
        assert!(!device.has_ended(), "after {n}");
        let (mut peer, _) = raw.offer();
        peer.write(
            "HTTP/1.1 503 Service Unavailable\r\nProxy-Status: ptth\r\nContent-Length: 0\r\n\r\n",
        );
    }
    assert_eq!(device.exit_code(), 1);
    assert!(raw.try_accept().is_none());
    device.expect_stderr("gave up after 3 failed attempts in a row (DeviceBuilder::max_retries, or --max-retries); the last one: ");
    // Nobody is there at all; and two that are not there.
    let (one, two) = (
        format!("http://127.0.0.1:{}/lamp", free_port()),
        format!("http://127.0.0.1:{}/lamp", free_port()),
    );
    for more in [vec![], vec!["--gateway", &two], vec!["--gateway", &two, "--failover"]] {
        let mut device = start(&one, &[&["--max-retries", "4"], more.as_slice()].concat());
        assert_eq!(device.exit_code(), 1, "{more:?}");
        device.expect_stderr("gave up after 4");
    }
}

#[test]
fn a_way_in_through_one_gateway_keeps_the_device_alive() {
    let raw = RawGateway::start();
    let dead = format!("http://127.0.0.1:{}/lamp", free_port());
    let mut device = start(&dead, &["--gateway", &raw.url("lamp"), "--max-retries", "2"]);
    let mut peer = raw.turn();
    eventually("the dead one was tried often", || {
        (device.stderr().matches("cannot be reached").count() > 6).then_some(())
    });
    serves(&mut peer);
    assert!(!device.has_ended());
    drop((peer, raw));
    assert_eq!(device.exit_code(), 1);
}

#[test]
fn sighup_means_dial_now() {
    let raw = RawGateway::start();
    let device = start(&raw.url("lamp"), &[]);
    let (mut peer, _) = raw.offer();
    peer.write(
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n",
    );
    device.expect_stderr("next attempt in 36");
    assert!(raw.try_accept().is_none());
    let began = Instant::now();
    device.signal("HUP");
    let mut peer = raw.turn();
    say(&format!("SIGHUP to the next offer: {} ms", began.elapsed().as_millis()));
    serves(&mut peer);
}

#[test]
fn no_dial_comes_before_retry_after() {
    // Twenty devices, told the same second: none before it, and not all at the same time.
    let raw = RawGateway::start();
    let devices: Vec<Process> = (0..20)
        .map(|n| {
            Ptth::start(&[
                "device",
                &raw.url(&format!("lamp{n}")),
                "--text",
                "x",
                "--backoff",
                "1s..60s",
            ])
        })
        .collect();
    let mut told = std::collections::HashMap::new();
    for _ in &devices {
        let (mut peer, head) = raw.offer();
        let at = Instant::now();
        peer.write(
            "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n",
        );
        told.insert(head.target().to_owned(), at);
    }
    let mut waited: Vec<u128> = (0..20)
        .map(|_| {
            let (_, head) = raw.offer();
            told[head.target()].elapsed().as_millis()
        })
        .collect();
    waited.sort_unstable();
    say(&format!(
        "Retry-After: 2 with a back-off of 1s..60s, 20 devices: {} to {} ms",
        waited[0], waited[19]
    ));
    assert!(waited[0] >= 2000 && waited[19] < 4000, "{waited:?}");
    assert!(waited[19] - waited[0] >= 300, "they come together: {waited:?}");
}

// ── The pool ──

#[test]
fn a_burst_of_busy_links_at_a_slow_gateway_never_overshoots_max() {
    const MAX: usize = 6;
    let raw = RawGateway::start();
    let local = LocalServer::with(|c| {
        let _ = c.peer.stirs_within(Duration::from_secs(30)); // busy as long as its link lives
        c.close = true;
    });
    let _device = Ptth::start(&[
        "device",
        &raw.url("lamp"),
        "--to",
        &local.url(),
        "--links",
        "3..6",
        "--backoff",
        "5ms..20ms",
    ]);
    let mut links: Vec<RawPeer> = (0..3).map(|_| raw.turn()).collect();
    // All get busy at the same instant; the gateway takes its time with the offers that follow.
    for round in 0..2 {
        links.iter_mut().for_each(|link| link.write(get("/x")));
        let mut slow = Vec::new();
        eventually("the device dials up to MAX", || {
            slow.extend(raw.try_accept());
            (links.len() + slow.len() == MAX).then_some(())
        });
        let quiet = Instant::now();
        while quiet.elapsed() < Duration::from_millis(300) {
            assert!(
                raw.try_accept().is_none(),
                "round {round}: a connection beyond MAX while {} are not answered",
                slow.len()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        // Turned one by one, each busy as soon as it is turned: still none beyond.
        for mut peer in slow {
            peer.read_head();
            peer.write([SWITCH, get("/x").as_bytes()].concat());
            assert!(!peer.stirs_within(Duration::from_millis(30)), "its local server is busy");
            assert!(raw.try_accept().is_none(), "round {round}: a connection beyond MAX");
            links.push(peer);
        }
        assert_eq!(links.len(), MAX);
        // Half of them end at the same instant: they are replaced, by no more.
        links.truncate(MAX - 3);
        let replaced: Vec<RawPeer> = (0..3).map(|_| raw.offer().0).collect();
        assert!(raw.try_accept().is_none());
        links.truncate(0);
        links.extend(replaced);
        links.iter_mut().for_each(|link| link.write(SWITCH));
    }
}

#[test]
fn only_a_link_that_lived_is_replaced_at_once() {
    let raw = RawGateway::start();
    let backoff = ["--backoff", "5s..60s"];
    // Used: at once.
    let mut command =
        Ptth::command(&[&["device", &raw.url("lamp"), "--text", "x"], &backoff[..]].concat());
    let device = Process::start(command.env("RUST_LOG", "debug"));
    let mut peer = raw.turn();
    serves(&mut peer);
    drop(peer);
    let began = Instant::now();
    let mut peer = raw.turn();
    let used = began.elapsed();
    // Lived for a second: at once.
    peer.expect_quiet(Duration::from_millis(1050));
    drop(peer);
    let began = Instant::now();
    let peer = raw.turn();
    say(&format!(
        "redial after a used link: {} ms, after one that lived 1 s: {} ms",
        used.as_millis(),
        began.elapsed().as_millis()
    ));
    assert!(used < slack() && began.elapsed() < slack());
    // Neither: a failed attempt, and its back-off.
    drop(peer);
    device.expect_stderr("ended right after its 101");
}

// ── Goaways ──

const GOAWAY: &str = "OPTIONS * HTTP/1.1\r\nHost: gw.example\r\nConnection: close\r\n\r\n";

#[test]
fn a_goaways_replacement_is_dialled_before_the_goaway_is_answered() {
    let raw = RawGateway::start();
    let mut device = Ptth::start(&[
        "device",
        &raw.url("lamp"),
        "--text",
        "x",
        "--links",
        "1..1",
        "--max-retries",
        "1",
        "--backoff",
        "30s..60s",
    ]);
    let mut peer = raw.turn();
    for _ in 0..3 {
        let mut old = peer;
        old.write(GOAWAY);
        // As soon as the answer is here, the replacement's connection is, too: it was begun before.
        let head = old.read_head();
        assert!(head.status() == 204 && head.closes(), "{}", head.text());
        let mut next =
            raw.try_accept().expect("the replacement is dialled before the goaway is answered");
        old.expect_closed();
        next.read_head();
        next.write(SWITCH);
        serves(&mut next);
        peer = next;
    }
    assert!(
        !device.has_ended() && !device.stderr().contains("next attempt"),
        "a goaway is no failed attempt: {}",
        device.stderr()
    );
}

/// A gateway may end each link after one request: what was of use is replaced at once.
#[test]
fn goaways_behind_a_request_are_not_paced() {
    let raw = RawGateway::start();
    let _device = Ptth::start(&["device", &raw.url("lamp"), "--text", "x", "--links", "1..1"]);
    let began = Instant::now();
    for _ in 0..40 {
        let mut link = raw.turn();
        link.write(get("/"));
        link.read_answer("GET").expect_ok("x");
        link.write(GOAWAY);
        link.read_answer("OPTIONS");
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(15), "40 links took {took:?}; a pause has 0.5 s and more");
}

#[test]
fn goaways_on_every_new_link_are_paced() {
    let raw = RawGateway::start();
    let mut device = start(&raw.url("lamp"), &["--links", "1..1", "--max-retries", "1"]);
    let began = Instant::now();
    let mut goaways = 0;
    while began.elapsed() < Duration::from_millis(1500) {
        if let Some(mut peer) = raw.try_accept() {
            peer.read_head();
            peer.write([SWITCH, GOAWAY.as_bytes()].concat());
            assert_eq!(peer.read_head().status(), 204);
            goaways += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    say(&format!("{goaways} goaways in 1.5 s to a device whose gateway says nothing else"));
    assert!((4..=7).contains(&goaways), "{goaways}");
    assert!(!device.has_ended(), "{}", device.stderr());
}
