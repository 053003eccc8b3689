//! What it costs a gateway to know that idle devices are there: `cargo bench --features cli --bench
//! liveness`. About 80 seconds.
//!
//! 19,000 devices with one idle link each, which come over one interval of heartbeats, so that
//! these are spread as evenly as they would be after a while. This process is all the devices. Then
//! nothing happens but heartbeats (25 s, the default), for two intervals, and the gateway's
//! processor time is read from /proc. It has to stay under 2 % of one core.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on has failed"
)]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use ptth_test_support::idle::IdleDevices;

const LINKS: usize = 19_000;
/// `--heartbeat`'s default.
const INTERVAL: Duration = Duration::from_secs(25);
const MEASURED: Duration = Duration::from_secs(50);
const MOST: f64 = 2.0;

struct Gateway {
    child: Child,
    _output: BufReader<ChildStdout>,
    devices: SocketAddr,
}

impl Gateway {
    fn start() -> Gateway {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ptth"));
        command
            .args(["gateway", "--devices", "127.0.0.1:0", "--visitors", "127.0.0.1:0"])
            .env("RUST_LOG", "error");
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let devices = line.trim_end().strip_prefix("devices http://").unwrap().parse().unwrap();
        Gateway { child, _output: output, devices }
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    /// User and system time so far; Linux counts it in hundredths of a second.
    fn cpu(&self) -> (Duration, Duration) {
        let stat = self.proc("stat");
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks = |n: usize| Duration::from_millis(10 * fields[n].parse::<u64>().unwrap());
        (ticks(11), ticks(12))
    }

    fn resident_kib(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill(); // by its own id, which is not free before `wait`
        let _ = self.child.wait();
    }
}

fn main() {
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap() as usize;
    let links = LINKS.min(limit.saturating_sub(200));
    if links < LINKS {
        println!(
            "SCALED DOWN: {links} links instead of {LINKS}, for the limit on open files is {limit}"
        );
    }
    let gateway = Gateway::start();
    let bare = gateway.resident_kib();
    let mut devices = IdleDevices::new();
    let began = Instant::now();
    while devices.count() < links {
        let due = (links as f64 * began.elapsed().as_secs_f64() / INTERVAL.as_secs_f64()) as usize;
        // Not all that are due at once: those that are there have to answer meanwhile.
        for _ in devices.count()..due.min(links).min(devices.count() + 50) {
            devices.connect(gateway.devices);
        }
        devices.answer(Duration::from_millis(1));
    }
    println!(
        "{links} idle links after {:.1} s; {} KiB of resident memory, {bare} KiB before",
        began.elapsed().as_secs_f64(),
        gateway.resident_kib()
    );

    let (before, answered, began) = (gateway.cpu(), devices.answered, Instant::now());
    while began.elapsed() < MEASURED {
        devices.answer(Duration::from_millis(100));
    }
    let (after, time) = (gateway.cpu(), began.elapsed().as_secs_f64());
    let (user, system) = ((after.0 - before.0).as_secs_f64(), (after.1 - before.1).as_secs_f64());
    let beats = devices.answered - answered;
    let percent = 100.0 * (user + system) / time;
    println!(
        "{beats} heartbeats in {time:.1} s ({:.0}/s): {percent:.2} % of a core ({:.2} % user, {:.2} % system), {:.1} µs each",
        beats as f64 / time,
        100.0 * user / time,
        100.0 * system / time,
        1e6 * (user + system) / beats as f64
    );
    let expected = links as f64 * time / INTERVAL.as_secs_f64();
    assert!(beats as f64 > 0.95 * expected, "{beats} heartbeats where {expected:.0} were due");
    assert!(
        percent < MOST * links as f64 / LINKS as f64,
        "{percent:.2} % of a core for {links} idle links"
    );
}
