//! Many at once: what waits costs no thread and little memory. Counts shrink to what the limit on
//! descriptors allows, and say so.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::idle::IdleDevices;
use crate::support::local::routes;
use crate::support::process::{get, offer};
use crate::support::{
    DEADLINE, Gateway, Hash, LocalServer, Process, Ptth, RawPeer, SWITCH, eventually,
    eventually_within, say, vector,
};

/// Connections of this process that a test may open: the wish, or what its limit leaves beside the
/// other tests.
pub fn affordable(wish: usize) -> usize {
    let text = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let soft = text
        .lines()
        .find_map(|l| {
            l.strip_prefix("Max open files")?.split_whitespace().next()?.parse::<usize>().ok()
        })
        .unwrap_or(1024);
    let most = soft.saturating_sub(600) / 2;
    if most < wish {
        say(&format!(
            "SCALED DOWN: {most} connections instead of {wish}, for the limit on open files is {soft}"
        ));
    }
    wish.min(most)
}

/// A turned link that this process keeps for the price of its descriptor.
fn bare_link(gateway: &Gateway, name: &str) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.devices).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(offer(name, "").as_bytes()).unwrap();
    let mut switch = vec![0; SWITCH.len()];
    stream.read_exact(&mut switch).unwrap_or_else(|e| panic!("link {name}: {e}"));
    assert_eq!(switch, SWITCH, "{}", String::from_utf8_lossy(&switch));
    stream
}

/// Fails unless a program with many connections has the threads that it had `before`. A few may
/// have come up late: a program says that it is there before the last of its own threads is.
#[track_caller]
fn no_thread_each(process: &Process, before: u64, what: &str) {
    let now = process.threads();
    assert!(now <= before + 4, "{now} threads with {what}, {before} without");
}

fn descriptors(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.process.id())).unwrap().count()
}

#[test]
fn idle_links_idle_visitors_and_half_heads_cost_no_thread() {
    let wish = affordable(5_000);
    // No heartbeat: these devices do not answer, and what is counted are idle links.
    let gateway = Gateway::start(&[
        "--heartbeat",
        "0s",
        "--wait-for-link",
        "100ms",
        "--trusted-proxies",
        "127.0.0.1",
    ]);
    let few: Vec<TcpStream> = (0..5).map(|i| bare_link(&gateway, &format!("few-{i}"))).collect();
    gateway.get("/nobody/").expect_refusal(404);
    let (threads, memory, open) = eventually("the gateway is at rest", || {
        Some((gateway.process.threads(), gateway.process.resident_kib(), descriptors(&gateway)))
    });

    let links: Vec<TcpStream> =
        (0..wish).map(|i| bare_link(&gateway, &format!("many-{i}"))).collect();
    let with_links = (gateway.process.threads(), gateway.process.resident_kib());
    no_thread_each(&gateway.process, threads, &format!("{wish} idle links"));
    let each = (with_links.1.saturating_sub(memory) * 1024) as f64 / wish as f64;
    say(&format!(
        "idle links: {wish} links, {} threads (5 links: {threads}), resident {} KiB (5 links: {memory} KiB): {each:.0} bytes each",
        with_links.0, with_links.1
    ));
    assert!(each < 4096.0, "{each:.0} bytes of resident memory for each idle link");

    let others = wish / 5;
    let visitors: Vec<RawPeer> = (0..others)
        .map(|_| {
            let mut visitor = gateway.visitor();
            visitor.ask(&get("/nobody/")).expect_refusal(404);
            visitor
        })
        .collect();
    let halves: Vec<RawPeer> = (0..others)
        .map(|i| {
            let mut half = if i % 2 == 0 { gateway.dial() } else { gateway.visitor() };
            half.write("POST /lamp HTTP/1.1\r\nHost: a\r\nUpgr");
            half
        })
        .collect();
    no_thread_each(
        &gateway.process,
        threads,
        &format!("{others} idle visitors and {others} half heads"),
    );

    // Every link is one that works.
    for i in [0, wish / 2, wish - 1] {
        let mut visitor = gateway.visitor();
        visitor.write(get(&format!("/many-{i}/x")));
        let mut link = RawPeer::adopt(links[i].try_clone().unwrap(), "device");
        assert_eq!(link.read_head().target(), "/x");
        link.write(vector("draft-4-response"));
        visitor.read_answer("GET").expect_ok("Good");
    }
    drop((links, visitors, halves));
    eventually_within(Duration::from_secs(30), "the descriptors are given back", || {
        (descriptors(&gateway) <= open).then_some(())
    });
    no_thread_each(&gateway.process, threads, "none of them left");
    drop(few);
}

#[test]
fn heartbeats_of_many_idle_links_are_answered_and_counted() {
    // What they cost is measured by benches/liveness.rs, with more links over a longer time.
    let links = affordable(2_000);
    let interval = Duration::from_secs(2);
    let gateway = Gateway::start(&["--heartbeat", "2s", "--heartbeat-timeout", "5s"]);
    let mut devices = IdleDevices::new();
    let began = Instant::now();
    while devices.count() < links {
        devices.connect(gateway.devices);
        devices.answer(Duration::ZERO);
    }
    let connected = began.elapsed();
    let (ticks, answered, began) = (gateway.process.cpu_ticks(), devices.answered, Instant::now());
    while devices.answered < answered + 2 * links as u64 {
        assert!(
            began.elapsed() < 2 * interval + connected + DEADLINE,
            "{} heartbeats of {links} links",
            devices.answered - answered
        );
        devices.answer(Duration::from_millis(100));
    }
    let (ticks, time) = (gateway.process.cpu_ticks() - ticks, began.elapsed());
    // No link is asked before it was idle for as long as is configured.
    assert!(time >= interval, "two heartbeats of {links} links in {time:?}");
    let beats = devices.answered - answered;
    say(&format!(
        "heartbeats: {links} idle links, {beats} heartbeats in {:.1} s, {:.1} % of a core at the gateway, {:.0} µs each (unoptimised)",
        time.as_secs_f64(),
        ticks as f64 / time.as_secs_f64(),
        ticks as f64 * 10_000.0 / beats as f64
    ));
    let log = gateway.process.stderr();
    assert!(!log.contains(": down") && !log.contains("a link ended"), "{log}");
}

#[test]
fn slow_visitors_of_small_answers_cost_no_thread_and_hold_no_link() {
    const ANSWER: u64 = 32_000;
    let wish = affordable(2_000);
    let gateway = Gateway::start(&[]);
    let device = LocalServer::device(&gateway, "lamp", 4, routes);
    gateway.get("/lamp/x").expect_ok("hello\n");
    let (threads, memory) = (gateway.process.threads(), gateway.process.resident_kib());

    let request = get(&format!("/lamp/big?n={ANSWER}"));
    // Fewer on a slow machine: TCP ends who leaves its window closed for a minute
    // (`TCP_USER_TIMEOUT`), and by then the test has to be over.
    let (began, mut slow) = (Instant::now(), Vec::<RawPeer>::new());
    while slow.len() < wish && (slow.len() < 100 || began.elapsed() < Duration::from_secs(15)) {
        let mut visitor = RawPeer::connect_narrow(gateway.visitors);
        visitor.write(&request);
        assert_eq!(visitor.read_byte(), b'H'); // one at a time: no more than four wait for a link
        slow.push(visitor);
    }
    let count = slow.len();
    assert_eq!(
        device.count(),
        count + 1,
        "four links carried all the answers, and none of them has been read"
    );
    let quick = |number: usize| {
        let mut visitor = gateway.visitor();
        for _ in 0..number {
            visitor.ask(&get("/lamp/x")).expect_ok("hello\n");
        }
    };
    quick(50);
    for expected in *b"TTP/1" {
        // Once a second or so, each of them takes a byte.
        std::thread::sleep(Duration::from_millis(200));
        slow.iter_mut().for_each(|v| assert_eq!(v.read_byte(), expected));
        quick(50);
        no_thread_each(&gateway.process, threads, &format!("{count} slow visitors"));
    }
    let grown = gateway.process.resident_kib().saturating_sub(memory);
    say(&format!(
        "slow visitors: {count} with {ANSWER} bytes each, {} threads (none: {threads}), {:.1} KiB of resident memory each",
        gateway.process.threads(),
        grown as f64 / count as f64
    ));
    assert!(grown as usize <= count * 48, "{grown} KiB for {count} slow visitors");
    // What they were promised is what they get.
    for visitor in slow.iter_mut().step_by(100) {
        visitor.read_head_after("HTTP/1");
        assert_eq!(Hash::of(&visitor.read_exact(ANSWER as usize)), Hash::of_pattern(ANSWER));
    }
    drop(slow);
    quick(10);
}

#[test]
fn slow_uploads_and_slow_devices_cost_no_thread() {
    let count = affordable(500);
    // These links answer no heartbeat, and a slow machine takes longer than until the first.
    let gateway = Gateway::start(&["--wait-for-link", "30s", "--heartbeat", "0s"]);
    let mut links: Vec<RawPeer> = (0..count).map(|_| gateway.link("lamp")).collect();
    let threads = gateway.process.threads();
    let mut visitors: Vec<RawPeer> = (0..count).map(|_| gateway.visitor()).collect();
    for visitor in &mut visitors {
        visitor.write("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab");
    }
    for link in &mut links {
        assert_eq!(link.read_head().target(), "/x");
        assert_eq!(link.read_exact(2), b"ab");
    }
    no_thread_each(&gateway.process, threads, &format!("{count} uploads in progress"));
    visitors.iter_mut().for_each(|v| v.write("cd"));
    for link in &mut links {
        assert_eq!(link.read_exact(2), b"cd");
        link.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
    }
    for visitor in &mut visitors {
        assert_eq!(visitor.read_head().status(), 200);
        assert_eq!(visitor.read_exact(1), b"o");
    }
    no_thread_each(&gateway.process, threads, &format!("{count} answers in progress"));
    links.iter_mut().for_each(|l| l.write("k"));
    visitors.iter_mut().for_each(|v| assert_eq!(v.read_exact(1), b"k"));
}

#[test]
fn a_device_forwards_many_slow_answers_without_a_thread_for_each() {
    let gateway = Gateway::start(&["--wait-for-link", "30s"]);
    let (release, hold) = crossbeam_channel::bounded::<()>(0);
    let local = LocalServer::with(move |c| {
        let _ = hold.recv_timeout(DEADLINE * 2); // closed when the test lets them go
        c.text("done");
    });
    let device = Ptth::device(&gateway, "lamp", &["--to", &local.url(), "--links", "4..300"]);
    let before = device.threads();
    let mut visitors: Vec<RawPeer> = (0..200).map(|_| gateway.visitor()).collect();
    for visitor in &mut visitors {
        visitor.deadline = Duration::from_secs(30);
        visitor.write(get("/lamp/x"));
    }
    eventually_within(Duration::from_secs(25), "200 requests at the local server", || {
        (local.count() == 200).then_some(())
    });
    no_thread_each(&device, before, "200 requests in progress");
    drop(release);
    visitors.iter_mut().for_each(|v| v.read_answer("GET").expect_ok("done"));
}

#[test]
fn callers_beyond_the_bound_are_told_at_once() {
    // T29: a stalled device; 1,024 may wait for a link of it, later ones are refused.
    const WAITING: usize = 1_024;
    if affordable(WAITING + 50) < WAITING + 50 {
        return;
    }
    let gateway = Gateway::start(&["--wait-for-link", "120s", "--heartbeat", "0s"]);
    let mut link = gateway.link("lamp");
    let mut served = gateway.visitor();
    served.write(get("/lamp/stalled"));
    link.read_head();
    let threads = gateway.process.threads();
    let waiting: Vec<RawPeer> = (0..WAITING + 20)
        .map(|_| {
            let mut visitor = gateway.visitor();
            visitor.write(get("/lamp/x"));
            visitor
        })
        .collect();
    // Only a full queue answers any of them before its two minutes are over.
    let (mut waiting, mut told) = (waiting, Vec::new());
    eventually("those beyond the bound are told", || {
        told.extend(waiting.extract_if(.., |visitor| visitor.stirs()));
        (told.len() >= 20).then_some(())
    });
    assert_eq!((waiting.len(), told.len()), (WAITING, 20));
    for visitor in &mut told {
        let answer = visitor.read_answer("GET");
        answer.expect_refusal(503);
        assert_eq!(answer.head.get("retry-after"), Some("1"));
    }
    no_thread_each(&gateway.process, threads, &format!("{WAITING} waiting callers"));
}

#[test]
fn links_beyond_the_bound_of_a_name_are_refused() {
    const LINKS: usize = 1_024;
    if affordable(LINKS + 50) < LINKS + 50 {
        return;
    }
    let gateway = Gateway::start(&["--heartbeat", "0s"]);
    let links: Vec<TcpStream> = (0..LINKS).map(|_| bare_link(&gateway, "lamp")).collect();
    let mut late = gateway.dial();
    late.write(offer("lamp", ""));
    let answer = late.read_answer("POST");
    answer.expect_refusal(503);
    assert!(answer.head.get("retry-after").is_some(), "{}", answer.head.text());
    bare_link(&gateway, "desk"); // another name is another matter
    drop(links);
    eventually("a place is free again", || {
        let mut device = gateway.dial();
        device.write(offer("lamp", ""));
        (device.read_head().status() == 101).then_some(())
    });
}
