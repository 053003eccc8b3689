//! Two gateways behind HAProxy are restarted in turn, ten times, under load, and no request fails
//! (T39). The configuration is that of docs/rolling-restarts.md.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::support::{
    Hash, LocalServer, Process, Ptth, RawPeer, TempDir, eventually, free_port, need, pattern,
    program, repository, say,
};

pub const DEVICES: [&str; 3] = ["lamp", "desk", "door"];
const RESTARTS: usize = 10;
pub const VISITORS: usize = 10;
/// Each visitor's pace: 500 requests/s in all.
const PACE: Duration = Duration::from_millis(20);

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A gateway that comes back at the same addresses. They are its own, so that no other test gets
/// its ports meanwhile.
struct Seat {
    devices: String,
    visitors: String,
    config: String,
    process: Process,
}

impl Seat {
    fn new(n: usize, config: &str) -> Seat {
        let (devices, visitors) =
            (format!("127.39.0.{n}:{}", free_port()), format!("127.39.1.{n}:{}", free_port()));
        let process = Seat::start(&devices, &visitors, config);
        Seat { devices, visitors, config: config.to_owned(), process }
    }

    fn start(devices: &str, visitors: &str, config: &str) -> Process {
        let process = Ptth::start(&[
            "gateway",
            "--devices",
            devices,
            "--visitors",
            visitors,
            "--config",
            config,
            "--health-path",
            "/ptth-health",
            "--drain-notice",
            "2s",
            "--drain-timeout",
            "5s",
        ]);
        process.line();
        process.line();
        process
    }

    /// How long the old process took to end.
    fn restart(&mut self) -> Duration {
        let then = Instant::now();
        self.process.signal("TERM");
        assert_eq!(
            self.process.exit_code_within(Duration::from_secs(20)),
            0,
            "{}",
            self.process.stderr()
        );
        let took = then.elapsed();
        self.process = Seat::start(&self.devices, &self.visitors, &self.config);
        took
    }
}

/// The block of the page, for the addresses of this test.
fn haproxy_config(dir: &Path, front: SocketAddr, seats: &[Seat]) -> String {
    let page = std::fs::read_to_string(repository("docs/rolling-restarts.md")).unwrap();
    let block = page
        .split("```haproxy\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("a block of HAProxy's configuration");
    let mut config =
        format!("global\n    stats socket {}/stats level operator\n\n{block}", dir.display());
    for (there, here) in [
        ("bind :80", format!("bind {front}")),
        ("10.0.0.1:8080", seats[0].visitors.clone()),
        ("10.0.0.2:8080", seats[1].visitors.clone()),
    ] {
        assert_eq!(config.matches(there).count(), 1, "{there} in:\n{config}");
        config = config.replace(there, &here);
    }
    config
}

/// A field of HAProxy's statistics for one server of the backend.
pub fn statistic(dir: &Path, server: &str, field: &str) -> Option<String> {
    let mut socket = UnixStream::connect(dir.join("stats")).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.write_all(b"show stat\n").ok()?;
    let mut text = String::new();
    socket.read_to_string(&mut text).ok()?;
    let mut lines = text.lines();
    let at = lines.next()?.trim_start_matches("# ").split(',').position(|name| name == field)?;
    let row = lines.find(|line| line.starts_with(&format!("gateways,{server},")))?;
    row.split(',').nth(at).map(str::to_owned)
}

#[derive(Default)]
pub struct Tally {
    pub requests: usize,
    pub failures: Vec<String>,
    pub slowest: Duration,
}

/// One visitor: keeps its connection, or takes a new one for each request.
pub fn visit(front: SocketAddr, number: usize, stop: &AtomicBool) -> Tally {
    let (body, keeps) = (pattern(20_000), number % 3 != 0);
    let mut tally = Tally::default();
    let mut kept: Option<RawPeer> = None;
    let mut next = Instant::now();
    while !stop.load(Relaxed) {
        let then = Instant::now();
        let name = DEVICES[(number + tally.requests) % DEVICES.len()];
        let close = if keeps { "" } else { "Connection: close\r\n" };
        let (method, target, expected) = match tally.requests % 4 {
            0 => ("POST", format!("/{name}/hash"), Hash::of(&body)),
            1 => ("GET", format!("/{name}/big?n=50000"), Hash::of_pattern(50_000)),
            _ => ("GET", format!("/{name}/x"), Hash::of(b"hello\n")),
        };
        let asked = catch_unwind(AssertUnwindSafe(|| {
            let mut peer = kept.take().unwrap_or_else(|| RawPeer::connect(front));
            let length = if method == "POST" {
                format!("Content-Length: {}\r\n", body.len())
            } else {
                String::new()
            };
            let mut request = format!(
                "{method} {target} HTTP/1.1\r\nHost: visitors.example\r\n{close}{length}\r\n"
            )
            .into_bytes();
            if method == "POST" {
                request.extend_from_slice(&body);
            }
            peer.write(request);
            let answer = peer.read_answer_or_cut(method).map_err(|cut| {
                format!("cut after {:?} and {} bytes", cut.head.map(|h| h.text()), cut.body.len())
            })?;
            let came = if method == "POST" { answer.text() } else { Hash::of(&answer.body) };
            match answer.status() == 200 && came == expected {
                true if keeps && !answer.head.closes() => Ok(Some(peer)),
                true => Ok(None),
                false => Err(format!("{} {}", answer.head.text(), answer.text())),
            }
        }));
        tally.requests += 1;
        match asked {
            Ok(Ok(peer)) => kept = peer,
            Ok(Err(why)) => tally.failures.push(format!("{method} {target}: {why}")),
            Err(_) => tally
                .failures
                .push(format!("{method} {target}: no answer; the reason is printed above")),
        }
        tally.slowest = tally.slowest.max(then.elapsed());
        next = (next + PACE).max(Instant::now() - PACE * 10); // what a slow machine missed is not made up for in one burst
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    tally
}

/// Each is connected to both gateways.
fn start_devices(seats: &[Seat; 2], local: &LocalServer) -> Vec<Process> {
    let devices = DEVICES.map(|name| {
        let [a, b] = [0, 1].map(|n| format!("http://{}/{name}", seats[n].devices));
        Ptth::start(&[
            "device",
            &a,
            "--gateway",
            &b,
            "--to",
            &local.url(),
            "--links",
            "2..8",
            "--backoff",
            "10ms..200ms",
        ])
    });
    for device in &devices {
        let lines = [device.line(), device.line()];
        assert!(
            lines.iter().all(|line| line.starts_with("connected")),
            "{lines:?}; {}",
            device.stderr()
        );
    }
    devices.into()
}

/// No request failed; how many there were.
fn verdict(tallies: &[Tally], ends: &[Duration], time: Duration) -> usize {
    let requests: usize = tallies.iter().map(|tally| tally.requests).sum();
    let failures: Vec<&String> = tallies.iter().flat_map(|tally| &tally.failures).collect();
    let slowest = tallies.iter().map(|tally| tally.slowest).max().unwrap();
    say(&format!(
        "rolling restarts: {RESTARTS} in {:.1} s, {requests} requests ({:.0}/s), {} failed, slowest {slowest:?}; a gateway took {:?} to end at most",
        time.as_secs_f64(),
        requests as f64 / time.as_secs_f64(),
        failures.len(),
        ends.iter().max().unwrap(),
    ));
    assert!(
        failures.is_empty(),
        "{} failed, the first of them:\n{}",
        failures.len(),
        failures[..failures.len().min(5)].iter().map(|f| f.as_str()).collect::<Vec<_>>().join("\n")
    );
    assert!(requests > RESTARTS * VISITORS * 5, "only {requests} requests in {time:?} say little");
    requests
}

#[test]
fn ten_rolling_restarts_of_two_gateways_fail_no_request() {
    if !need("haproxy") {
        return;
    }
    let (dir, local) = (TempDir::new("rolling"), LocalServer::start());
    let routes: String = DEVICES
        .iter()
        .map(|name| format!("[[route]]\npath = \"/{name}\"\ndevice = \"{name}\"\n"))
        .collect();
    let config = write(&dir.0, "routes.toml", &routes);
    let mut seats = [Seat::new(1, &config), Seat::new(2, &config)];
    let _devices = start_devices(&seats, &local);
    let front: SocketAddr = format!("127.39.2.1:{}", free_port()).parse().unwrap();
    let file = write(&dir.0, "haproxy.cfg", &haproxy_config(&dir.0, front, &seats));
    let balancer = Process::start(Command::new(program("haproxy")).arg("-db").arg("-f").arg(file));
    let is_up = |server: &str| {
        eventually(&format!("{server} is up; {}", balancer.stderr()), || {
            (statistic(&dir.0, server, "status")? == "UP").then_some(())
        })
    };
    ["a", "b"].iter().for_each(|server| is_up(server));

    let (stop, began) = (AtomicBool::new(false), Instant::now());
    let mut ends = Vec::new();
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let stop = &stop;
        let visitors: Vec<_> =
            (0..VISITORS).map(|number| scope.spawn(move || visit(front, number, stop))).collect();
        let restarted = catch_unwind(AssertUnwindSafe(|| {
            for n in 0..RESTARTS {
                let (seat, server) = (n % 2, ["a", "b"][n % 2]);
                ends.push(seats[seat].restart());
                eventually("HAProxy saw it go", || {
                    (statistic(&dir.0, server, "chkdown")?.parse::<usize>().ok()? > n / 2)
                        .then_some(())
                });
                is_up(server);
            }
        }));
        stop.store(true, Relaxed);
        let tallies = visitors.into_iter().map(|visitor| visitor.join().unwrap()).collect();
        if let Err(panic) = restarted {
            std::panic::resume_unwind(panic);
        }
        tallies
    });
    let requests = verdict(&tallies, &ends, began.elapsed());
    for server in ["a", "b"] {
        let served: usize = statistic(&dir.0, server, "stot").unwrap().parse().unwrap();
        assert!(served > requests / 10, "{server} served {served} of {requests}");
    }
}
