//! What slow and stalled peers cost those beside them: `cargo bench --features cli --bench beside`.
//! About a minute.
//!
//! A quick visitor of a quick device asks one request after the other while, in turn, nothing else
//! happens, 5,000 exchanges with slow peers are in progress (uploads that stand still, answers that
//! nobody reads, event streams), and 500 visitors wait for a device that is stalled. Printed:
//! median and 99th percentile of the quick requests, the ratio to the quiet rounds beside them, and
//! what each slow exchange takes of the gateway's memory and threads. The gateway is a process of
//! its own; the peers are this one, on few threads.
//!
//! Fails when a 99th percentile is above twice the quiet one (median of the rounds), or a slow
//! exchange takes more than 48 KiB.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on has failed"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_secs(2);
const SLOW: usize = 5_000;
const STALLED: usize = 500;

struct Gateway {
    child: Child,
    devices: SocketAddr,
    visitors: SocketAddr,
}

impl Gateway {
    fn start() -> Gateway {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ptth"));
        command.args([
            "gateway",
            "--devices",
            "127.0.0.1:0",
            "--visitors",
            "127.0.0.1:0",
            "--wait-for-link",
            "60s",
            "--heartbeat",
            "0s",
        ]);
        let mut child = command.env("RUST_LOG", "error").stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = |prefix: &str| {
            lines.next().unwrap().unwrap().strip_prefix(prefix).unwrap().parse().unwrap()
        };
        let (devices, visitors) = (address("devices http://"), address("visitors http://"));
        Gateway { child, devices, visitors }
    }

    fn number(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line =
            status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    fn link(&self, name: &str) -> TcpStream {
        let mut link = TcpStream::connect(self.devices).unwrap();
        write!(link, "POST /{name} HTTP/1.1\r\nHost: b\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n").unwrap();
        read_head(&mut link);
        link
    }

    fn visitor(&self) -> TcpStream {
        let visitor = TcpStream::connect(self.visitors).unwrap();
        visitor.set_nodelay(true).unwrap();
        visitor
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill(); // by its own id, which is not free before `wait`
        let _ = self.child.wait();
    }
}

/// Reads byte by byte to the end of a head, so that nothing behind it is taken.
fn read_head(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    head
}

/// A device on a thread: answers each request at once.
fn quick_device(gateway: &Gateway) {
    let mut link = gateway.link("quick");
    link.set_nodelay(true).unwrap();
    std::thread::spawn(move || {
        let (mut bytes, mut head) = ([0; 4096], Vec::new());
        link.set_read_timeout(None).unwrap();
        while let Ok(n @ 1..) = link.read(&mut bytes) {
            head.extend_from_slice(&bytes[..n]);
            if head.ends_with(b"\r\n\r\n") {
                head.clear();
                if link.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                    return;
                }
            }
        }
    });
}

/// Median and 99th percentile of quick requests, in microseconds.
fn quick(gateway: &Gateway) -> (f64, f64) {
    let mut visitor = gateway.visitor();
    let mut times = Vec::new();
    let end = Instant::now() + TIME;
    while Instant::now() < end {
        let began = Instant::now();
        visitor.write_all(b"GET /quick/x HTTP/1.1\r\nHost: b\r\n\r\n").unwrap();
        read_head(&mut visitor);
        visitor.read_exact(&mut [0; 2]).unwrap();
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// Exchanges in progress whose peers do not move: a third each of uploads, of answers that nobody
/// reads, and of event streams. Every device of them has 50 links.
fn slow(gateway: &Gateway) -> Vec<TcpStream> {
    let mut held = Vec::with_capacity(2 * SLOW);
    for n in 0..SLOW {
        let name = format!("slow-{}", n / 50);
        let mut link = gateway.link(&name);
        let mut visitor = gateway.visitor();
        match n % 3 {
            0 => {
                write!(
                    visitor,
                    "POST /{name}/up HTTP/1.1\r\nHost: b\r\nContent-Length: 1000000\r\n\r\n"
                )
                .unwrap();
                visitor.write_all(&[b'x'; 20_000]).unwrap();
                read_head(&mut link); // and no more
            }
            1 => {
                write!(visitor, "GET /{name}/down HTTP/1.1\r\nHost: b\r\n\r\n").unwrap();
                read_head(&mut link);
                link.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n").unwrap();
                // As much as whoever is in between takes.
                link.set_nonblocking(true).unwrap();
                let piece = [b'x'; 64 * 1024];
                while link.write(&piece).is_ok_and(|n| n > 0) {}
            }
            _ => {
                write!(visitor, "GET /{name}/events HTTP/1.1\r\nHost: b\r\n\r\n").unwrap();
                read_head(&mut link);
                link.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n",
                )
                .unwrap();
                read_head(&mut visitor);
            }
        }
        held.extend([link, visitor]);
    }
    held
}

/// A device that took one request and does nothing, and visitors that wait for it.
fn stalled(gateway: &Gateway) -> Vec<TcpStream> {
    let mut held = vec![gateway.link("stalled")];
    for _ in 0..STALLED {
        let mut visitor = gateway.visitor();
        visitor.write_all(b"GET /stalled/x HTTP/1.1\r\nHost: b\r\n\r\n").unwrap();
        held.push(visitor);
    }
    held
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> ExitCode {
    let _ = rlimit::increase_nofile_limit(u64::MAX); // where that fails, opening the sockets does, and says so
    let gateway = Gateway::start();
    quick_device(&gateway);
    quick(&gateway); // warm
    let mut failed = false;
    println!("{:<44} {:>10} {:>10} {:>14}", "quick requests", "median", "p99", "p99 / quiet");
    for (what, load) in [
        (
            format!("beside {SLOW} exchanges with slow peers"),
            slow as fn(&Gateway) -> Vec<TcpStream>,
        ),
        (format!("beside {STALLED} visitors of a stalled device"), stalled),
    ] {
        // Quiet and loaded rounds come in turn: what else happens on the machine hits both.
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let (_, quiet) = quick(&gateway);
            let (threads, memory) = (gateway.number("Threads"), gateway.number("VmRSS"));
            let held = load(&gateway);
            let (half, most) = quick(&gateway);
            let each =
                gateway.number("VmRSS").saturating_sub(memory) as f64 / (held.len() / 2) as f64;
            rounds.push([
                half,
                most,
                most / quiet,
                each,
                gateway.number("Threads") as f64 - threads as f64,
            ]);
            drop(held);
        }
        let [half, most, ratio, _, threads] =
            std::array::from_fn(|i| median(rounds.iter().map(|row: &[f64; 5]| row[i]).collect()));
        let each = rounds[0][3]; // later rounds find the memory of the first
        println!("{what:<44} {half:>7.0} us {most:>7.0} us {ratio:>14.2}");
        println!("    {each:.1} KiB and {threads} threads more for each of them");
        failed |= ratio > 2.0 || each > 48.0 || threads > 0.0;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
