//! Who may come in before a word is said (`--devices-allow`, `--visitors-allow`), how many may
//! (`--connections…`, `--unauthenticated`), and what of it all is logged (T32).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use reverse_http::Limits;

use crate::support::process::{get, offer};
use crate::support::{Gateway, Process, Ptth, RawPeer, SWITCH, eventually, say};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Fails unless the connection is closed without a word; a reset counts, too.
#[track_caller]
fn is_dropped(mut peer: RawPeer) {
    let (bytes, _) = peer.read_to_any_end();
    assert_eq!(String::from_utf8_lossy(&bytes), "");
}

#[test]
fn devices_come_from_allowed_networks_alone() {
    let gateway = Gateway::start(&["--devices-allow", "10.0.0.0/8,2001:db8::/32"]);
    for _ in 0..3 {
        is_dropped(gateway.dial());
    }
    gateway.process.expect_stderr("--devices-allow");
    gateway.get("/lamp/").expect_refusal(404); // visitors are others
    let gateway = Gateway::start_with_env(&[], &[("PTTH_DEVICES_ALLOW", "10.0.0.0/8,127.0.0.0/8")]);
    drop(gateway.link("lamp"));
}

#[test]
fn visitors_come_from_allowed_networks_alone() {
    let gateway = Gateway::start(&["--visitors-allow", "10.0.0.0/8"]);
    let _link = gateway.link("lamp");
    let mut told = None;
    for request in [
        "GET /lamp/x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n",
        "GET /nobody/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let mut visitor = gateway.visitor();
        let _ = visitor.try_write(request); // it may be answered already
        let answer = visitor.read_answer("GET");
        answer.expect_refusal(403);
        assert!(answer.head.closes(), "{}", answer.head.text());
        visitor.expect_end();
        assert_eq!(told.get_or_insert(answer.text()), &answer.text());
    }
    // A proxy's word does not count, not even a trusted one's: the address of the connection decides.
    let gateway =
        Gateway::start(&["--visitors-allow", "10.0.0.0/8", "--trusted-proxies", "127.0.0.1"]);
    gateway.visitor().read_answer("GET").expect_refusal(403);
    let gateway = Gateway::start_with_env(&[], &[("PTTH_VISITORS_ALLOW", "127.0.0.1")]);
    gateway.get("/lamp/").expect_refusal(404);
}

#[test]
fn one_address_has_so_many_connections() {
    let gateway = Gateway::start(&["--connections-per-address", "2", "--wait-for-link", "9s"]);
    let (mut link, idle) = (gateway.link("lamp"), gateway.link("lamp"));
    let (mut visitor, mut second) = (gateway.visitor(), gateway.visitor());
    visitor.ask(&get("/nobody/")).expect_refusal(404);
    second.ask(&get("/nobody/")).expect_refusal(404);
    is_dropped(gateway.visitor());
    is_dropped(gateway.dial());
    gateway.process.expect_stderr("connections_per_address_max");
    // Those that are in are served.
    drop(idle);
    visitor.write(get("/lamp/x"));
    link.read_head();
    link.write(OK);
    visitor.read_answer("GET").expect_ok("ok");
    // A place that was left is free again, as often as one likes.
    drop(second);
    for _ in 0..20 {
        eventually("there is a place", || {
            let mut next = gateway.visitor();
            next.try_write(get("/nobody/")).ok()?;
            (next.try_read_head()?.status() == 404).then_some(())
        });
    }
    // Trusted proxies bring many.
    let gateway =
        Gateway::start(&["--connections-per-address", "1", "--trusted-proxies", "127.0.0.1"]);
    let many: Vec<RawPeer> = (0..10).map(|_| gateway.visitor()).collect();
    for mut visitor in many {
        visitor.ask(&get("/nobody/")).expect_refusal(404);
    }
}

#[test]
fn of_those_who_have_shown_nothing_the_oldest_goes() {
    let gateway = Gateway::start(&["--unauthenticated", "3"]);
    let mut links: Vec<RawPeer> = (0..10).map(|n| gateway.link(&format!("lamp-{n}"))).collect(); // they were admitted
    let open = gateway.process.descriptors();
    let mut waiting: Vec<RawPeer> = (1..=3)
        .map(|n| {
            let mut peer = gateway.dial();
            peer.write("POST /slow HTTP/1.1\r\nHo");
            // Each is accepted by a loop of its own: they come in one after the other.
            eventually("it is accepted", || {
                (gateway.process.descriptors() == open + n).then_some(())
            });
            peer
        })
        .collect();
    waiting[0].expect_quiet(Duration::from_millis(100));
    // Clients that present a credential are admitted, while slow ones still wait.
    for n in 0..20 {
        drop(gateway.link(&format!("door-{n}")));
    }
    is_dropped(waiting.remove(0)); // it made room for the first of them, and the others for nobody
    let more: Vec<RawPeer> = (0..3).map(|_| gateway.dial()).collect();
    waiting.into_iter().for_each(is_dropped);
    drop(more);
    // Admitted ones stay connected, the oldest of all, too.
    for (n, link) in links.iter_mut().enumerate() {
        let mut visitor = gateway.visitor();
        visitor.write(get(&format!("/lamp-{n}/x")));
        link.read_head();
        link.write(OK);
        visitor.read_answer("GET").expect_ok("ok");
    }
    gateway.process.expect_stderr("unauthenticated_max");
}

#[test]
fn connections_have_a_bound_in_all() {
    // Which connection is one too many is certain only where one loop accepts them all.
    let gateway = Gateway::start(&[
        "--loops",
        "1",
        "--connections",
        "4",
        "--trusted-proxies",
        "127.0.0.1",
        "--wait-for-link",
        "60s",
        "--head",
        "120s",
    ]);
    let mut link = gateway.link("lamp");
    let mut visitors: Vec<RawPeer> = (0..3).map(|_| gateway.visitor()).collect();
    visitors[1..].iter_mut().for_each(|visitor| visitor.write("GET /lamp/x HTTP/1.1\r\n")); // half a head is no idle connection
    visitors[0].write(get("/lamp/0")); // when it has come through, the halves have been read
    assert_eq!(link.read_head().target(), "/0");
    let mut waits = gateway.visitor();
    waits.write(get("/nobody/"));
    waits.expect_quiet(Duration::from_millis(300));
    gateway.process.expect_stderr("pauses until a connection closes");
    // What is in is served meanwhile, and the next one comes in when one goes.
    link.write(OK);
    visitors[0].read_answer("GET").expect_ok("ok");
    drop(visitors.pop());
    waits.read_answer("GET").expect_refusal(404);
}

/// Of connections that are kept alive and idle the oldest gives way before a new one waits (as
/// nginx does).
#[test]
fn idle_visitors_give_way_the_oldest_first() {
    // Six of them are visitors'. Of several loops each has its own oldest give way.
    let gateway =
        Gateway::start(&["--loops", "1", "--connections", "8", "--trusted-proxies", "127.0.0.1"]);
    let asks = |visitor: &mut RawPeer| visitor.ask(&get("/nobody/")).expect_refusal(404);
    let mut visitors: Vec<RawPeer> = (0..6).map(|_| gateway.visitor()).collect();
    visitors.iter_mut().for_each(asks);
    asks(&mut visitors[0]); // it idles for the shortest time now
    let mut more: Vec<RawPeer> = (0..3).map(|_| gateway.visitor()).collect();
    more.iter_mut().for_each(asks);
    visitors.drain(1..4).for_each(|mut oldest| oldest.expect_end());
    visitors.iter_mut().chain(&mut more).for_each(asks);
    gateway.process.expect_stderr("idle connection was closed");
}

#[test]
fn links_in_other_hands_count() {
    let mut limits = Limits::default();
    limits.connections_max = 4;
    let (hold, held) = mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let gateway = crate::support::gateway()
        .listen("127.0.0.1:0")
        .limits(limits)
        .trusted_proxies(["127.0.0.1"])
        .on_link(move |link| {
            let _ = held.lock().unwrap().recv(); // until the test says so, or is over
            drop(link);
        })
        .start()
        .unwrap();
    let dial = |name: &str| {
        let mut peer = RawPeer::connect(gateway.devices_addr());
        peer.write(offer(name, ""));
        peer
    };
    let _links = [0, 1, 2, 3].map(|n| {
        let mut link = dial(&format!("lamp-{n}"));
        assert_eq!(link.read_exact(SWITCH.len()), SWITCH);
        link
    });
    let mut fifth = dial("door");
    fifth.expect_quiet(Duration::from_millis(300));
    hold.send(()).unwrap();
    assert_eq!(fifth.read_exact(SWITCH.len()), SWITCH);
    drop(hold);
}

#[test]
fn nobody_gives_way_where_nobody_waits() {
    // Devices may have seven of the eight connections.
    let bounds = ["--connections", "8", "--unauthenticated", "4"];
    let others = ["--loops", "3", "--trusted-proxies", "127.0.0.1"];
    for round in 0..5 {
        let gateway = Gateway::start(&[bounds, others].concat());
        let mut links = [0, 1, 2, 3, 4, 5].map(|n| Some(gateway.link(&format!("lamp-{n}"))));
        let visitors = [0, 1].map(|n| {
            let mut visitor = gateway.visitor();
            visitor.write(get(&format!("/lamp-{n}/")));
            links[n].as_mut().unwrap().read_head(); // it waits for its answer, and does not idle
            visitor
        });
        let mut silent = gateway.dial();
        silent.expect_quiet(Duration::from_millis(30)); // each loop has found that it is full
        links[5] = None;
        // One of them has it now. The others find that it is full, and nobody waits any more.
        silent.expect_quiet(Duration::from_millis(300));
        silent.write(offer("door", ""));
        assert_eq!(silent.read_exact(SWITCH.len()), SWITCH, "round {round}");
        drop((links, visitors)); // up to here
    }
}

/// `ptth gateway` that may open this many files.
pub fn with_files(files: u32, more: &str) -> Process {
    let arguments = format!("gateway --devices 127.0.0.1:0 --visitors 127.0.0.1:0 {more}");
    let script = format!("ulimit -n {files}; exec {} {arguments}", env!("CARGO_BIN_EXE_ptth"));
    Process::start(Command::new("sh").args(["-c", &script]).env_remove("RUST_LOG"))
}

#[test]
fn the_limit_of_open_files_lowers_the_bound_of_connections() {
    let gateway = Gateway::of(with_files(256, "--trusted-proxies 127.0.0.1 --head 120s"));
    gateway.process.expect_stderr("limit of open files");
    assert_eq!(
        gateway.process.stderr().matches("limit of open files").count(),
        1,
        "{}",
        gateway.process.stderr()
    );
    // 256 less 64 are 192, of which visitors can take three quarters.
    let mut visitors: Vec<RawPeer> = (0..144).map(|_| gateway.visitor()).collect();
    visitors.iter_mut().for_each(|visitor| visitor.write("GET /nobody/ HTTP/1.1\r\nHost: a\r\n"));
    // What was written before this was read before this is answered: none of them is idle.
    gateway.dial().ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect_refusal(405);
    let mut waits = gateway.visitor();
    waits.write(get("/nobody/"));
    waits.expect_quiet(Duration::from_millis(200));
    let _link = gateway.link("lamp"); // the rest is left to devices
    visitors.truncate(143);
    waits.read_answer("GET").expect_refusal(404);
    for visitor in &mut visitors {
        visitor.ask("\r\n").expect_refusal(404);
    }
    let err = gateway.process.stderr();
    assert!(err.contains("connections_max") && !err.contains("(os error 24)"), "{err}");
    let mut process = with_files(18, "");
    assert_eq!(process.exit_code(), 1);
    assert!(process.stderr().contains("ulimit"), "{}", process.stderr());
}

// ── Logs (T32) ──

#[test]
fn nothing_that_a_terminal_obeys_gets_into_the_log() {
    let gateway = Gateway::start_with_env(
        &["--cors-origin", "https://app.example"],
        &[("RUST_LOG", "trace")],
    );
    let _link = gateway.link("lamp");
    for evil in [
        "\x1b[31m\x1b]0;owned\x07",
        "\u{9b}2J",
        "\u{202e}evil",
        "\x08\x08\x08",
        "\x7f",
        "%1b[2J",
        "%0d%0aforged",
    ] {
        for (devices, request) in [
            (true, offer(evil, "")),
            (true, offer("lamp", &format!("X-{evil}: {evil}\r\n"))),
            (true, offer("lamp", &format!("PTTH-Session: {evil}\r\n"))),
            (true, offer("lamp", &format!("Origin: {evil}\r\n"))),
            (true, offer("lamp", "").replace("POST", evil)),
            (true, offer("lamp", "").replace("PTTH/1.0", evil)),
            (
                true,
                format!(
                    "POST /lamp HTTP/1.1\r\nHost: a\r\nPTTH-Message-ID: {evil}\r\nContent-Type: message/http\r\nContent-Length: 2\r\n\r\n{{}}"
                ),
            ),
            (
                true,
                format!(
                    "POST /lamp HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{{\"message-id\":\"{evil:>30}\"}}"
                ),
            ),
            (false, get(&format!("/lamp/{evil}"))),
            (false, get(&format!("/{evil}/"))),
            (false, get("/lamp/").replace("visitors.example", evil)),
            (
                false,
                get("/lamp/").replace(
                    "HTTP/1.1\r\n",
                    &format!("HTTP/1.1\r\nCookie: {evil}\r\n{evil}: x\r\n"),
                ),
            ),
        ] {
            let mut peer = if devices { gateway.dial() } else { gateway.visitor() };
            peer.deadline = Duration::from_millis(100); // some of it is right, and waits
            let _ = peer.try_write(request);
            let _ = peer.try_write("\r\n\r\n");
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| peer.try_read_head())).ok();
        }
    }
    gateway.get("/nobody/").expect_refusal(404);
    let err = gateway.process.stderr();
    let bad: Vec<char> =
        err.chars().filter(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}').collect();
    assert!(bad.is_empty(), "{bad:?} in {err:?}");
    assert!(!err.lines().any(|line| line.starts_with("forged") || line.is_empty()), "{err}");
    assert!(err.lines().count() > 10, "nothing was logged: {err}");
}

#[test]
fn a_flood_is_logged_in_few_lines_and_counted() {
    let gateway = Gateway::start(&[]);
    let began = Instant::now();
    let mut peers = 0;
    while peers < 3_000 {
        let mut peer = gateway.dial();
        peer.write("GET /lamp HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(peer.read_head().status(), 405);
        peers += 1;
    }
    let seconds = began.elapsed().as_secs() + 1;
    let lines = || {
        gateway.process.stderr().lines().filter(|line| line.contains("was refused")).count() as u64
    };
    eventually("a line", || (lines() > 0).then_some(()));
    say(&format!("{peers} refused offers in {seconds} s are {} lines of log", lines()));
    assert!(lines() <= 50 * (seconds + 1) && lines() < peers, "{} lines", lines());
    // The next one of the kind, a second later, says how many there were: nobody is lost from the
    // count.
    let counted = |line: &str| {
        line.split("… and ").nth(1)?.split(' ').next()?.replace(',', "").parse::<u64>().ok()
    };
    eventually("the count", || {
        let mut peer = gateway.dial();
        peer.write("GET /lamp HTTP/1.1\r\nHost: a\r\n\r\n");
        peer.read_head();
        let more: u64 = gateway.process.stderr().lines().filter_map(counted).sum();
        (more + lines() >= peers).then_some(())
    });
}

/// Requests that wait for their device fill the memory that is allowed, and no more; who comes then
/// is told so, and served again when there is room.
#[test]
fn memory_has_a_bound_in_all_and_new_requests_wait_for_room() {
    const ALLOWED: usize = 4_000_000;
    const HEAD: usize = 16_200;
    let options = [
        "--memory",
        &ALLOWED.to_string(),
        "--wait-for-link",
        "60s",
        "--trusted-proxies",
        "127.0.0.1",
    ];
    let gateway = Gateway::start_with_env(&options, &[("MALLOC_ARENA_MAX", "1")]);
    let _quick = Ptth::device(&gateway, "quick", &["--text", "on"]);
    drop(gateway.link("away"));
    let waits = format!("GET /away/ HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(HEAD - 60));
    let before = gateway.process.resident_kib();
    let mut waiting = Vec::new();
    let refused = loop {
        assert!(waiting.len() * HEAD < 2 * ALLOWED, "nothing is counted");
        let mut visitor = gateway.visitor();
        visitor.write(&waits);
        waiting.push(visitor);
        let answer = gateway.get("/quick/x");
        if answer.status() != 200 {
            break answer;
        }
    };
    refused.expect_refusal(503);
    assert!(
        refused.text().contains("memory_bytes_max") && refused.head.get("retry-after") == Some("1"),
        "{}",
        refused.text()
    );
    let grown = gateway.process.resident_kib().saturating_sub(before) * 1024;
    say(&format!(
        "memory: {} waiting heads of {HEAD} bytes take {} KB of {} KB",
        waiting.len(),
        grown / 1000,
        ALLOWED / 1000
    ));
    let held = waiting.len() * HEAD;
    assert!(
        held <= ALLOWED && held > ALLOWED / 2,
        "{held} bytes are held when the first one is refused"
    );
    waiting.into_iter().for_each(RawPeer::reset); // an end alone would not say that they want no answer
    eventually("there is room again", || (gateway.get("/quick/x").status() == 200).then_some(()));
}
