//! What the fallback costs beside a turned link: `cargo bench --features cli --bench comet`. About
//! 20 seconds.
//!
//! Gateway and device are processes of their own; this one is the visitors and, for the large
//! answer, the local server behind the device. In each round every way is measured once, in turn,
//! and medians over the rounds are printed: on a shared machine only the columns of one run
//! compare.
//!
//! ```text
//!   exchanges/s   16 visitors, 16 polls or links, an answer of 13 bytes
//!   latency       one visitor, one poll or link: median and 99th percentile
//!   100 MiB       one answer, from a local server behind the device; and what the two processes grew by meanwhile
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on has failed"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 3;
const TIME: Duration = Duration::from_secs(1);
const LARGE: usize = 100 << 20;

/// A way and the device's options for it.
const WAYS: [(&str, &[&str]); 3] = [
    ("turned link", &["--fallback", "never"]),
    ("COMET message/http", &["--fallback", "only", "--comet", "message"]),
    ("COMET json", &["--fallback", "only", "--comet", "json"]),
];

struct Program {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Program {
    fn start(arguments: &[&str]) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ptth"));
        let mut child = command
            .args(arguments)
            .env("RUST_LOG", "error")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Program { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "a program ended");
        line.trim_end().to_owned()
    }

    /// Its largest resident memory so far, in KiB.
    fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill(); // by its own id, which is not free before `wait`
        let _ = self.child.wait();
    }
}

/// A gateway and one device that is connected.
struct Pair {
    gateway: Program,
    device: Program,
    visitors: SocketAddr,
}

fn start(transport: &[&str], at_once: usize, service: &[&str]) -> Pair {
    let mut gateway =
        Program::start(&["gateway", "--devices", "127.0.0.1:0", "--visitors", "127.0.0.1:0"]);
    let url = format!("{}/lamp", gateway.line().strip_prefix("devices ").unwrap());
    let visitors = gateway.line().strip_prefix("visitors http://").unwrap().parse().unwrap();
    let (links, polls) = (format!("{at_once}..{at_once}"), at_once.to_string());
    let mut device = Program::start(
        &[&["device", &url, "--links", &links, "--polls", &polls], transport, service].concat(),
    );
    assert!(device.line().starts_with("connected lamp "));
    let pair = Pair { gateway, device, visitors };
    Visitor::new(pair.visitors).ask("/lamp/first");
    pair
}

/// A keep-alive connection that asks, and reads answers of known length.
struct Visitor {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Visitor {
    fn new(to: SocketAddr) -> Visitor {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Visitor { stream, buffer: vec![0; 256 << 10] }
    }

    /// Bytes of the body.
    fn ask(&mut self, target: &str) -> usize {
        write!(self.stream, "GET {target} HTTP/1.1\r\nHost: bench\r\n\r\n").unwrap();
        let mut filled = 0;
        let (body, length) = loop {
            let n = self.stream.read(&mut self.buffer[filled..]).unwrap();
            assert!(n > 0, "the gateway closed the connection");
            filled += n;
            let head = &self.buffer[..filled];
            let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let text = std::str::from_utf8(&head[..end]).unwrap();
            assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
            let length = text
                .lines()
                .find_map(|line| line.strip_prefix("Content-Length: "))
                .expect("an answer of known length");
            break (filled - end - 4, length.parse::<usize>().unwrap());
        };
        let mut got = body;
        while got < length {
            let n = self.stream.read(&mut self.buffer).unwrap();
            assert!(n > 0, "the answer was cut");
            got += n;
        }
        got
    }
}

fn exchanges_per_second(transport: &[&str]) -> f64 {
    const VISITORS: usize = 16;
    let pair = start(transport, VISITORS, &["--text", "Hello, world!"]);
    let end = Instant::now() + TIME;
    let counts: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..VISITORS)
            .map(|_| {
                scope.spawn(|| {
                    let mut visitor = Visitor::new(pair.visitors);
                    (0..)
                        .take_while(|_| Instant::now() < end)
                        .map(|_| visitor.ask("/lamp/x"))
                        .count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    counts as f64 / TIME.as_secs_f64()
}

/// Median and 99th percentile in microseconds.
fn latency(transport: &[&str]) -> (f64, f64) {
    let pair = start(transport, 1, &["--text", "Hello, world!"]);
    let mut visitor = Visitor::new(pair.visitors);
    let end = Instant::now() + TIME;
    let mut times = Vec::new();
    while Instant::now() < end {
        let began = Instant::now();
        visitor.ask("/lamp/x");
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// MB/s, and by how many MiB the two processes grew.
fn large(transport: &[&str], server: SocketAddr) -> (f64, f64) {
    let pair = start(transport, 1, &["--to", &format!("http://{server}")]);
    let peak = |pair: &Pair| pair.gateway.peak_kib() + pair.device.peak_kib();
    let before = peak(&pair);
    let began = Instant::now();
    let got = Visitor::new(pair.visitors).ask("/lamp/large");
    assert_eq!(got, LARGE);
    (LARGE as f64 / 1e6 / began.elapsed().as_secs_f64(), (peak(&pair) - before) as f64 / 1024.0)
}

/// Answers `/large` with [`LARGE`] zeros, everything else with one byte.
fn serve(listener: TcpListener) {
    for stream in listener.incoming() {
        std::thread::spawn(move || {
            let mut stream = stream.unwrap();
            let (mut head, mut bytes, piece) = (Vec::new(), [0; 4096], vec![0; 256 << 10]);
            while let Ok(n @ 1..) = stream.read(&mut bytes) {
                head.extend_from_slice(&bytes[..n]);
                if !head.ends_with(b"\r\n\r\n") {
                    continue;
                }
                let length = if head.starts_with(b"GET /large ") { LARGE } else { 1 };
                head.clear();
                let mut left = length;
                let mut wrote =
                    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                while left > 0 && wrote.is_ok() {
                    let now = left.min(piece.len());
                    wrote = stream.write_all(&piece[..now]);
                    left -= now;
                }
                if wrote.is_err() {
                    return; // whoever asked has gone
                }
            }
        });
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    std::thread::spawn(move || serve(listener));
    let mut figures = vec![Vec::new(); WAYS.len()];
    for _ in 0..ROUNDS {
        for (figures, (name, transport)) in figures.iter_mut().zip(WAYS) {
            let (half, most) = latency(transport);
            // JSON holds a message whole, up to 8 MiB: there is no such answer in it.
            let (speed, grown) = if name.ends_with("json") {
                (f64::NAN, f64::NAN)
            } else {
                large(transport, server)
            };
            figures.push([exchanges_per_second(transport), half, most, speed, grown]);
        }
    }
    println!(
        "{:<20} {:>14} {:>16} {:>12} {:>14} {:>14}",
        "", "exchanges/s", "latency, median", "p99", "100 MiB", "grown by"
    );
    for (figures, (name, _)) in figures.iter().zip(WAYS) {
        let [rate, half, most, speed, grown] =
            std::array::from_fn(|i| median(figures.iter().map(|row: &[f64; 5]| row[i]).collect()));
        print!("{name:<20} {rate:>14.0} {half:>13.0} us {most:>9.0} us");
        if speed.is_nan() {
            println!(" {:>14} {:>14}", "-", "-")
        } else {
            println!(" {speed:>9.0} MB/s {grown:>10.1} MiB")
        }
    }
}
