//! What an exchange costs in instructions, counted by valgrind: `cargo bench --features cli --bench
//! account`. About a minute; needs `valgrind`.
//!
//! Each path is played twice, with a different number of exchanges, and the difference is divided
//! by theirs: start and end cancel out. One request is in progress at a time, the loop does not
//! spin, nothing beats, and only threads of this crate are counted, not the one that plays the
//! peers. So the count does not depend on the machine's load or on its clock, and two runs agree
//! within a few thousandths. It depends on the compiler and, where the C library picks its copying
//! functions by processor, a little on the processor.
//!
//! ```text
//!   visitor   a visitor's request through the gateway's loop, over a device's link
//!   observed  the same at a gateway that observes its devices for the status page and the metrics
//!   local     a link's request through a device's loop, to a local server
//!   poll      a visitor's request as an event in JSON; the answer's POST is the next poll
//!   send      send() of a program at the gateway, to a handler at the device: all four threads
//! ```
//!
//! Fails when a path costs over 3 % more than `benches/account.txt` says. Recording new figures,
//! with the reason, which the file keeps:
//!
//! ```text
//!   cargo bench --features cli --bench account -- record "Heads are written in one piece"
//!   cargo bench --features cli --bench account -- profile visitor    where the instructions go
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on has failed"
)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use reverse_http::gateway::{GatewayBuilder, Routes};
use reverse_http::{Body, Device, Fallback, Gateway, Limits};

/// Exchanges of the shorter and of the longer run.
const EXCHANGES: [usize; 2] = [500, 2_500];
/// How much dearer than recorded a path may be, in percent.
const TOLERANCE: f64 = 3.0;
const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/account.txt");

/// No `rep movsb` and no `rep stosb`, however much is copied or cleared.
const STRING_INSTRUCTIONS: &str =
    "glibc.cpu.x86_rep_movsb_threshold=1073741824:glibc.cpu.x86_rep_stosb_threshold=1073741824";

/// A path's name and what plays it so many times.
type Play = fn(usize);
const PATHS: [(&str, Play); 5] = [
    ("visitor", visitor),
    ("observed", observed),
    ("local", local),
    ("poll", poll),
    ("send", send),
];

/// As a browser asks.
const FIELDS: &str = "Host: lamp.example\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
    Content-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!";

/// No wait ends while a path is played, however slow valgrind and the machine are.
fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.spin = Duration::ZERO;
    limits.worker_linger = Duration::from_secs(600);
    limits.heartbeat = Duration::ZERO;
    limits.silence = Duration::ZERO;
    limits
}

fn gateway() -> Gateway {
    builder().start().unwrap()
}

fn builder() -> GatewayBuilder {
    Gateway::builder().listen("127.0.0.1:0").limits(limits())
}

/// One end of a connection that the player holds.
struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Peer {
    fn new(stream: TcpStream) -> Peer {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        Peer { stream, buffer: vec![0; 64 * 1024] }
    }

    fn connect(to: SocketAddr) -> Peer {
        Peer::new(TcpStream::connect(to).unwrap())
    }

    fn accept(listener: &TcpListener) -> Peer {
        Peer::new(listener.accept().unwrap().0)
    }

    fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// One message: a head, and a body where it tells its length.
    fn hear(&mut self) -> String {
        let mut filled = 0;
        loop {
            let n = self.stream.read(&mut self.buffer[filled..]).unwrap();
            assert!(n > 0, "a connection was closed");
            filled += n;
            let text = String::from_utf8_lossy(&self.buffer[..filled]);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            if length.map_or(0, |length| length.parse().unwrap()) == body.len() {
                return text.into_owned();
            }
        }
    }
}

fn visitor(exchanges: usize) {
    visit(&gateway(), exchanges);
}

fn observed(exchanges: usize) {
    visit(&builder().observe(true).start().unwrap(), exchanges);
}

fn visit(gateway: &Gateway, exchanges: usize) {
    let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
    let mut link = Peer::connect(gateway.devices_addr());
    link.say("POST /lamp HTTP/1.1\r\nHost: gw\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n");
    assert!(link.hear().starts_with("HTTP/1.1 101 "));
    let mut visitor = Peer::connect(visitors);
    for _ in 0..exchanges {
        visitor.say(&format!("GET /lamp/status HTTP/1.1\r\n{FIELDS}"));
        link.hear();
        link.say(ANSWER);
        assert!(visitor.hear().ends_with("\r\n\r\nHello, world!"));
    }
}

fn local(exchanges: usize) {
    let [gateway, local] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [way_in, target] =
        [&gateway, &local].map(|listener| format!("http://{}", listener.local_addr().unwrap()));
    let device = Device::builder(format!("{way_in}/lamp")).limits(limits()).links(1..=1);
    let device = device.fallback(Fallback::Never).build().unwrap();
    let running = device.spawn_forward(&target).unwrap();
    let mut link = Peer::accept(&gateway);
    link.hear();
    link.say(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n",
    );
    let mut server = None;
    for _ in 0..exchanges {
        link.say(&format!("GET /status HTTP/1.1\r\n{FIELDS}"));
        let server = server.get_or_insert_with(|| Peer::accept(&local));
        server.hear();
        server.say(ANSWER);
        assert!(link.hear().ends_with("\r\n\r\nHello, world!"));
    }
    running.stop();
}

fn poll(exchanges: usize) {
    let gateway = gateway();
    let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
    let mut device = Peer::connect(gateway.devices_addr());
    let session = "PTTH-Session: 0123456789abcdef0123456789abcdef\r\n";
    let post = |body: &str| {
        format!(
            "POST /lamp HTTP/1.1\r\nHost: gw\r\nAccept: application/json\r\n{session}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    device.say(&post("{}"));
    device.hear(); // where it stands
    device.say(&post("{}"));
    let mut visitor = Peer::connect(visitors);
    for _ in 0..exchanges {
        visitor.say(&format!("GET /lamp/status HTTP/1.1\r\n{FIELDS}"));
        let event = device.hear();
        let id = event.split_once("\"message-id\": \"").unwrap().1.split('"').next().unwrap();
        let answer = format!(
            r#"{{"message-id":"{id}","http-version":"PTTH/1.0","status":200,"reason":"OK","headers":[["Content-Type","text/plain"]],"body":"Hello, world!"}}"#
        );
        device.say(&post(&answer));
        assert!(visitor.hear().ends_with("\r\n\r\nHello, world!"));
    }
}

fn send(exchanges: usize) {
    let gateway = gateway();
    let way_in = format!("http://{}/lamp", gateway.devices_addr());
    let device = Device::builder(way_in).limits(limits()).links(1..=1);
    let device = device.fallback(Fallback::Never).build().unwrap();
    let running =
        device.spawn(|_| http::Response::new(Body::from("Hello, world!".to_owned()))).unwrap();
    // On a thread of its own, since the player's is not counted.
    let program = std::thread::spawn(move || {
        let lamp = gateway.device("lamp");
        lamp.wait_connected(Duration::from_secs(120)).unwrap();
        for _ in 0..exchanges {
            let response =
                lamp.send(http::Request::get("/status").body(Body::empty()).unwrap()).unwrap();
            assert_eq!(response.into_body().read_to_text(100).unwrap(), "Hello, world!");
        }
    });
    program.join().unwrap();
    running.stop();
}

/// Instructions of all threads but the player's, while `path` is played.
fn count(path: &str, exchanges: usize, directory: &Path) -> u64 {
    let _ = std::fs::remove_dir_all(directory);
    std::fs::create_dir_all(directory).unwrap();
    let status = Command::new("valgrind")
        // Valgrind counts each byte of such an instruction.
        .env("GLIBC_TUNABLES", STRING_INSTRUCTIONS)
        .args(["--tool=callgrind", "--separate-threads=yes", "--quiet"])
        .arg(format!("--callgrind-out-file={}/out", directory.display()))
        .arg(std::env::current_exe().unwrap())
        .args(["play", path, &exchanges.to_string()])
        .stdin(Stdio::null())
        .status();
    let status = status.expect("valgrind is needed: apt-get install valgrind");
    assert!(status.success(), "{path}: {status}");
    let mut counted = 0;
    for file in std::fs::read_dir(directory).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let number = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            line.trim().parse::<u64>().ok()
        };
        if number("thread:").is_some_and(|thread| thread > 1) {
            counted += number("totals:").unwrap();
        }
    }
    assert!(counted > 0, "{path}: callgrind has written no counts");
    counted
}

/// Instructions of one exchange.
fn measure(path: &str) -> u64 {
    let directory = std::env::temp_dir().join(format!("ptth-account-{}", std::process::id()));
    let [short, long] = EXCHANGES.map(|exchanges| count(path, exchanges, &directory));
    let _ = std::fs::remove_dir_all(&directory);
    long.saturating_sub(short) / (EXCHANGES[1] - EXCHANGES[0]) as u64
}

/// The last figure of each path: lines of path, instructions and reason; the last one counts.
fn recorded() -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(RECORD).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let figure = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    };
    lines.filter_map(figure).collect()
}

fn record(figures: &[(&str, u64)], reason: &str) {
    let mut file = std::fs::OpenOptions::new().append(true).open(RECORD).unwrap();
    for (path, instructions) in figures {
        writeln!(file, "{path:<8} {instructions:>7}  {reason}").unwrap();
    }
}

/// Plays a path once under valgrind and says which functions of its loop cost most.
fn profile(path: &str) {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("account");
    count(path, EXCHANGES[1], &directory);
    println!("callgrind_annotate reads {}/out-*", directory.display());
}

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let reason = match *words.as_slice() {
        ["play", path, exchanges] => {
            let play = PATHS.iter().find(|(name, _)| *name == path).unwrap().1;
            play(exchanges.parse().unwrap());
            return ExitCode::SUCCESS;
        }
        ["profile", path] => {
            profile(path);
            return ExitCode::SUCCESS;
        }
        ["record", reason] if !reason.trim().is_empty() => Some(reason),
        [] => None,
        _ => {
            eprintln!("usage: account [record REASON | profile PATH]");
            return ExitCode::FAILURE;
        }
    };
    let (before, mut changed, mut failed) = (recorded(), Vec::new(), false);
    println!("instructions of one exchange {:>12} {:>12}", "recorded", "now");
    for (path, _) in PATHS {
        let was = before.get(path).copied();
        let dearer =
            |now: u64| was.map_or(f64::INFINITY, |was| 100.0 * (now as f64 / was as f64 - 1.0));
        let mut now = measure(path);
        // Whether the threads of `send` wait for one another is the scheduler's choice, and a wait
        // costs instructions: the least is the path's own.
        for _ in 0..2 {
            if was.is_some() && dearer(now) > TOLERANCE / 2.0 {
                now = now.min(measure(path));
            }
        }
        let percent = dearer(now);
        println!("{path:<28} {:>12} {now:>12} {percent:>+7.2} %", was.unwrap_or(0));
        failed |= percent > TOLERANCE;
        if percent.abs() > TOLERANCE / 10.0 {
            changed.push((path, now));
        }
    }
    match reason {
        Some(reason) => record(&changed, reason),
        None if failed => {
            println!(
                "dearer than recorded by more than {TOLERANCE} %: make it cheaper, or record it \
                 with its reason (benches/account.rs says how)"
            );
            return ExitCode::FAILURE;
        }
        None => {}
    }
    ExitCode::SUCCESS
}
