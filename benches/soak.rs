//! A mixed life, and whether anything of it is left behind: `cargo bench --features cli --bench
//! soak [-- 20m]` (default 60 s, and 50 s around it).
//!
//! Visitors ask over kept and fresh connections, upload, download, follow event streams, open
//! tunnels, and leave in the middle, at devices that turn, that poll in either encoding, that are
//! restarted by SIGTERM and SIGKILL, whose connections are cut, and whose name is taken over; the
//! gateway reads its routes again now and then. Every answer is checked against its nonce. At the
//! devices that nothing happens to, a refusal is a failure; at the others it has to say why, and
//! come in time.
//!
//! Before and after all that the same devices are connected and nobody asks. After a warm-up, in
//! which pools and allocators grow to their size, the descriptors and threads of gateway and
//! devices have to be what they were (connections to the local server are kept for a second, as
//! many as were busy at once), and resident memory at most an eighth and 3 MiB more. So small a
//! tolerance needs an allocator that gives back what is freed: glibc's keeps heaps for threads, and
//! blocks of up to 32 MiB in them once one of that size was freed, which hides a leak behind tens
//! of MiB of nothing. Here it is told not to (`MALLOC_...`); PTTH_SOAK_MALLOC=default leaves it as
//! it is, and memory unjudged.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on has failed"
)]

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ptth_test_support as support;
use support::process::get;
use support::storm::cuts::{Cutter, From};
use support::{
    Gateway, Hash, Process, Ptth, RawPeer, TempDir, eventually_within, fill_pattern, pattern,
};

const VISITORS: usize = 8;
const WARM: Duration = Duration::from_secs(15);
/// Longer than a worker without work lives (10 s), and than a device's pause after a refusal in
/// this bench.
const SETTLE: Duration = Duration::from_secs(13);
/// No answer may take longer: 5 s for a link, and what a busy machine adds.
const ANSWER: Duration = Duration::from_secs(20);

/// Names at the gateway, whether a refusal there is a failure, and whether tunnels go through.
const NAMES: [(&str, bool, bool); 7] = [
    ("steady", true, true),
    ("alias", true, true), // the steady one by a route of the file
    ("json", true, false),
    ("message", true, false),
    ("churn", false, true),
    ("cut", false, true),
    ("taken", false, true),
];

// --- the local server ---

fn local_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // It ends with this process; its connections end with the devices'.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut peer = RawPeer::adopt(stream, "local server");
                peer.deadline = Duration::from_secs(24 * 3600);
                while serve(&mut peer).is_some() {}
            });
        }
    });
    addr
}

/// One request; `None` when the connection is of no more use.
fn serve(peer: &mut RawPeer) -> Option<()> {
    let head = peer.read_message_head()?;
    let target = head.target().to_owned();
    let (kind, rest) = target.trim_start_matches('/').split_once('/')?;
    match kind {
        "up" => {
            let (mut hash, length) = (
                Hash::default(),
                head.get("content-length").and_then(|n| n.parse().ok()).unwrap_or(0),
            );
            peer.read_some_through(length, |piece| hash.update(piece))?;
            respond(peer, &format!("{rest} {}", hash.finish()))
        }
        "down" => {
            let length: usize = rest.parse().ok()?;
            peer.try_write(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")).ok()?;
            let (mut sent, mut block) = (0, vec![0; 48_000]);
            while sent < length {
                let n = block.len().min(length - sent);
                fill_pattern(sent as u64, &mut block[..n]);
                peer.try_write(&block[..n]).ok()?;
                sent += n;
            }
            Some(())
        }
        "events" => {
            peer.try_write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").ok()?;
            for n in 0..5 {
                let event = format!("data: {rest} {n}\n\n");
                peer.try_write(format!("{:x}\r\n{event}\r\n", event.len())).ok()?;
                std::thread::sleep(Duration::from_millis(5)); // events come one by one
            }
            peer.try_write("0\r\n\r\n").ok()
        }
        "tunnel" => {
            peer.try_write(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
            )
            .ok()?;
            loop {
                let bytes = peer.read_any()?;
                peer.try_write(bytes).ok()?;
            }
        }
        _ => respond(peer, rest),
    }
}

fn respond(peer: &mut RawPeer, body: &str) -> Option<()> {
    peer.try_write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())).ok()
}

// --- visitors ---

#[derive(Default)]
struct Tally {
    right: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
    left: AtomicU64,
    /// Microseconds.
    slowest: AtomicU64,
}

struct Visitor {
    visitors: SocketAddr,
    tally: Arc<Tally>,
    dice: u64,
    asked: u64,
}

impl Visitor {
    fn roll(&mut self, sides: u64) -> u64 {
        self.dice = self
            .dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) % sides
    }

    fn nonce(&mut self) -> String {
        self.asked += 1;
        format!("nonce-{:x}-{}", self.dice >> 40, self.asked)
    }

    fn connect(&self) -> RawPeer {
        let mut peer = RawPeer::connect(self.visitors);
        peer.deadline = ANSWER;
        peer
    }

    /// One request; whether the connection goes on.
    fn ask(&mut self, peer: &mut RawPeer, strict: bool, request: &[u8], right: &[u8]) -> bool {
        let began = Instant::now();
        let written = peer.try_write(request); // a refusal may come before the body was taken
        let method = if request.starts_with(b"POST") { "POST" } else { "GET" };
        let answer = peer.read_answer_or_cut(method);
        self.tally.slowest.fetch_max(began.elapsed().as_micros() as u64, Relaxed);
        let line = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        match answer {
            Ok(answer) if answer.status() == 200 => {
                assert!(
                    answer.body == right,
                    "a wrong answer to {line:?}: {:?}",
                    &answer.text()[..answer.body.len().min(200)]
                );
                self.tally.right.fetch_add(1, Relaxed);
                written.is_ok() && !answer.head.closes()
            }
            Ok(answer) => {
                assert!(!strict, "{line:?} was refused: {}{}", answer.head.text(), answer.text());
                answer.expect_refusal_among(&[502, 503, 504]);
                assert!(
                    answer.head.get("proxy-status").is_some(),
                    "no reason in {}",
                    answer.head.text()
                );
                self.tally.refused.fetch_add(1, Relaxed);
                written.is_ok() && !answer.head.closes()
            }
            Err(cut) => {
                assert!(!strict, "the answer to {line:?} was cut after {} bytes", cut.body.len());
                assert!(
                    right.starts_with(&cut.body),
                    "a wrong answer to {line:?}, which was cut after {} bytes",
                    cut.body.len()
                );
                self.tally.cut.fetch_add(1, Relaxed);
                false
            }
        }
    }

    fn some_life(&mut self) {
        let (name, strict, tunnels) = NAMES[self.roll(NAMES.len() as u64) as usize];
        let nonce = self.nonce();
        match self.roll(10) {
            0..4 => {
                let mut peer = self.connect();
                for _ in 0..=self.roll(20) {
                    let nonce = self.nonce();
                    if !self.ask(
                        &mut peer,
                        strict,
                        get(&format!("/{name}/n/{nonce}")).as_bytes(),
                        nonce.as_bytes(),
                    ) {
                        return;
                    }
                }
            }
            4 | 5 => {
                let body = pattern(self.roll(200_000) as usize);
                let head = format!(
                    "POST /{name}/up/{nonce} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                let right = format!("{nonce} {}", Hash::of(&body));
                self.ask(
                    &mut self.connect(),
                    strict,
                    &[head.as_bytes(), &body].concat(),
                    right.as_bytes(),
                );
            }
            6 => {
                let length = self.roll(1_000_000) as usize;
                self.ask(
                    &mut self.connect(),
                    strict,
                    get(&format!("/{name}/down/{length}")).as_bytes(),
                    &pattern(length),
                );
            }
            7 => {
                let right: String = (0..5).map(|n| format!("data: {nonce} {n}\n\n")).collect();
                self.ask(
                    &mut self.connect(),
                    strict,
                    get(&format!("/{name}/events/{nonce}")).as_bytes(),
                    right.as_bytes(),
                );
            }
            8 if tunnels => self.tunnel(name, strict, &nonce),
            _ => self.leave(name, &nonce),
        }
    }

    fn tunnel(&mut self, name: &str, strict: bool, nonce: &str) {
        let mut peer = self.connect();
        peer.write(format!("GET /{name}/tunnel/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"));
        if peer.read_message_head().is_none_or(|head| head.status() != 101) {
            assert!(!strict, "no tunnel to {name}");
            self.tally.refused.fetch_add(1, Relaxed);
            return;
        }
        for n in 0..10 {
            let said = format!("{nonce} {n};");
            let mut echoed = Vec::new();
            let sent = peer.try_write(&said).is_ok();
            while sent && echoed.len() < said.len() {
                let Some(bytes) = peer.read_any() else { break };
                echoed.extend(bytes);
            }
            if echoed.len() < said.len() {
                assert!(!strict, "a tunnel to {name} was cut");
                self.tally.cut.fetch_add(1, Relaxed);
                return;
            }
            assert_eq!(String::from_utf8_lossy(&echoed), said, "another tunnel's bytes");
        }
        self.tally.right.fetch_add(1, Relaxed);
    }

    /// Asks and leaves: within the request, before the answer, or within it.
    fn leave(&mut self, name: &str, nonce: &str) {
        let mut peer = self.connect();
        let body = pattern(30_000);
        let head = format!(
            "POST /{name}/up/{nonce} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let upload = [head.as_bytes(), &body].concat();
        match self.roll(3) {
            0 => _ = peer.try_write(&upload[..self.roll(upload.len() as u64) as usize]),
            1 => peer.write(get(&format!("/{name}/n/{nonce}"))),
            _ => {
                peer.write(get(&format!("/{name}/down/5000000")));
                let _ = peer.read_any();
            }
        }
        if self.roll(2) == 0 {
            peer.reset();
        }
        self.tally.left.fetch_add(1, Relaxed);
    }
}

// --- what happens meanwhile ---

/// One heap, and blocks of their own from 64 KiB on.
const MALLOC: [(&str, &str); 3] = [
    ("MALLOC_ARENA_MAX", "1"),
    ("MALLOC_MMAP_THRESHOLD_", "65536"),
    ("MALLOC_TRIM_THRESHOLD_", "131072"),
];

/// Whether the allocator is told to give back what is freed.
fn tells_the_allocator() -> bool {
    std::env::var_os("PTTH_SOAK_MALLOC").is_none_or(|how| how != "default")
}

/// What the programs under test are started with.
fn environment() -> Vec<(&'static str, &'static str)> {
    let malloc = MALLOC.into_iter().filter(|_| tells_the_allocator());
    malloc.chain([("RUST_LOG", "error")]).collect()
}

struct House {
    gateway: Gateway,
    cutter: Cutter,
    local: String,
    routes: std::path::PathBuf,
    reloads: AtomicU64,
}

impl House {
    fn device(&self, name: &str, more: &[&str]) -> Process {
        let url = if name == "cut" {
            format!("http://{}/cut", self.cutter.addr)
        } else {
            self.gateway.device_url(name)
        };
        let mut arguments = vec![
            "device",
            &url,
            "--to",
            &self.local,
            "--links",
            "8..8",
            "--polls",
            "8",
            "--backoff",
            "10ms..500ms",
            "--to-keep-alive",
            "1s",
        ];
        arguments.extend(more);
        let device = Process::start(Ptth::command(&arguments).envs(environment()));
        device.line();
        device
    }

    /// The routes change around the one that is used, and are read again.
    fn reload(&self) {
        let others: String = (0..self.reloads.fetch_add(1, Relaxed) % 50)
            .map(|n| format!("[[route]]\npath = \"/other-{n}\"\ndevice = \"other\"\n"))
            .collect();
        let written = self.routes.with_extension("new");
        std::fs::write(
            &written,
            format!("[[route]]\npath = \"/alias\"\ndevice = \"steady\"\n{others}"),
        )
        .unwrap();
        std::fs::rename(&written, &self.routes).unwrap();
        self.gateway.process.signal("HUP");
    }

    /// Restarts, cuts, take-overs and reloads, until it is stopped; the two devices are there again
    /// then.
    fn trouble(&self, stop: &AtomicBool, churn: &mut Process, taken: &mut Process) {
        for n in 0_u64.. {
            if stop.load(Relaxed) {
                break;
            }
            let ways = [From::Device, From::Gateway];
            self.cutter.arm(ways[n as usize % 2], (n * 7_919 % 60_000) as usize);
            match n % 8 {
                1 | 5 => {
                    churn.signal(if n % 8 == 1 { "TERM" } else { "KILL" });
                    eventually_within(ANSWER, "a device ends", || churn.has_ended().then_some(()));
                    *churn = self.device("churn", &[]);
                }
                3 => std::mem::replace(taken, self.device("taken", &[])).signal("KILL"),
                7 => self.reload(),
                _ => {}
            }
            std::thread::sleep(Duration::from_millis(400)); // trouble comes about twice a second
        }
    }
}

#[derive(Clone, Copy)]
struct Weight {
    descriptors: usize,
    threads: u64,
    resident_kib: u64,
}

fn weigh(process: &Process) -> Weight {
    Weight {
        descriptors: process.descriptors(),
        threads: process.threads(),
        resident_kib: process.resident_kib(),
    }
}

/// Visitors and trouble for `time`, and a line every 10 s.
fn live(
    house: &House,
    time: Duration,
    seed: u64,
    churn: &mut Process,
    taken: &mut Process,
    steady: &Process,
) {
    let (stop, tally) = (AtomicBool::new(false), Arc::new(Tally::default()));
    let began = Instant::now();
    std::thread::scope(|threads| {
        threads.spawn(|| house.trouble(&stop, churn, taken));
        let visitors: Vec<_> = (0..VISITORS as u64)
            .map(|n| {
                let mut visitor = Visitor {
                    visitors: house.gateway.visitors,
                    tally: tally.clone(),
                    dice: seed + n * 0x9E37_79B9,
                    asked: 0,
                };
                let stop = &stop;
                threads.spawn(move || {
                    while !stop.load(Relaxed) {
                        visitor.some_life();
                    }
                })
            })
            .collect();
        let mut told = 0;
        while began.elapsed() < time && visitors.iter().all(|visitor| !visitor.is_finished()) {
            std::thread::sleep(Duration::from_millis(100));
            let tens = began.elapsed().as_secs() / 10;
            if tens > told {
                told = tens;
                say_how_it_goes(tens * 10, &tally, &house.gateway.process, steady);
            }
        }
        stop.store(true, Relaxed);
        // A visitor that failed has ended; the scope ends with its panic.
    });
}

fn say_how_it_goes(seconds: u64, tally: &Tally, gateway: &Process, steady: &Process) {
    let (g, s) = (weigh(gateway), weigh(steady));
    println!(
        "{seconds:>6} s: {} right, {} refused, {} cut, {} left; slowest {:.2} s; gateway {} descriptors, {} threads, {} KiB; steady device {}, {}, {} KiB",
        tally.right.load(Relaxed),
        tally.refused.load(Relaxed),
        tally.cut.load(Relaxed),
        tally.left.load(Relaxed),
        tally.slowest.swap(0, Relaxed) as f64 / 1e6,
        g.descriptors,
        g.threads,
        g.resident_kib,
        s.descriptors,
        s.threads,
        s.resident_kib
    );
    let _ = std::io::stdout().flush();
}

/// `90s`, `20m`, `2h`.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.len().checked_sub(1)?);
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    number.parse().ok().map(|n: u64| Duration::from_secs(n * unit))
}

fn main() -> ExitCode {
    let wanted = std::env::args().skip(1).find(|argument| argument != "--bench"); // which cargo adds
    let Some(time) = duration(wanted.as_deref().unwrap_or("60s")) else {
        eprintln!("how long? like 60s, 20m or 2h");
        return ExitCode::from(2);
    };
    let folder = TempDir::new("soak");
    let routes = folder.0.join("routes.toml");
    std::fs::write(&routes, "[[route]]\npath = \"/alias\"\ndevice = \"steady\"\n").unwrap();
    let gateway = Gateway::start_with_env(&["--config", &routes.to_string_lossy()], &environment());
    let cutter = Cutter::start(gateway.devices);
    let house = House {
        gateway,
        cutter,
        local: format!("http://{}", local_server()),
        routes,
        reloads: AtomicU64::new(0),
    };
    let steady = house.device("steady", &[]);
    let json = house.device("json", &["--fallback", "only", "--comet", "json"]);
    let message = house.device("message", &["--fallback", "only", "--comet", "message"]);
    let cut = house.device("cut", &[]);
    let (mut churn, mut taken) = (house.device("churn", &[]), house.device("taken", &[]));
    let watched = [
        ("gateway", &house.gateway.process, 0),
        ("steady device", &steady, 8),
        ("polls, json", &json, 8),
        ("polls, message", &message, 8),
        ("cut device", &cut, 8),
    ];

    println!("warm-up of {WARM:?}, then {time:?}; {VISITORS} visitors");
    live(&house, WARM, 1, &mut churn, &mut taken, &steady);
    std::thread::sleep(SETTLE);
    let before = watched.map(|(_, process, _)| weigh(process));
    live(&house, time, 2, &mut churn, &mut taken, &steady);
    std::thread::sleep(SETTLE);

    let mut failed = false;
    println!(
        "{:<16} {:>16} {:>12} {:>20}",
        "before, after", "descriptors", "threads", "resident KiB"
    );
    for ((name, process, pool), before) in watched.into_iter().zip(before) {
        let after = weigh(process);
        let fits = after.descriptors <= before.descriptors + pool
            && after.threads <= before.threads
            && (!tells_the_allocator()
                || after.resident_kib <= before.resident_kib + before.resident_kib / 8 + 3 * 1024);
        println!(
            "{name:<16} {:>7} {:>8} {:>5} {:>6} {:>10} {:>9} {}",
            before.descriptors,
            after.descriptors,
            before.threads,
            after.threads,
            before.resident_kib,
            after.resident_kib,
            if fits { "" } else { "  grew" }
        );
        failed |= !fits;
    }
    println!(
        "{}",
        if failed {
            "FAILED: something was left behind"
        } else {
            "passed: every answer was right, and nothing was left behind"
        }
    );
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
