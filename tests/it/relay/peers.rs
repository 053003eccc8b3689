//! The relay among real programs: server-sent events as they come, pages of headless Chromium, wrk
//! as a crowd of visitors.
//!
//! A peer that is not installed is skipped loudly; under CI (`CI=true`) that is a failure.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crate::support::local::Conversation;
use crate::support::{
    Gateway, LocalServer, Process, Ptth, RawPeer, need, program, repository, say, skipped,
};

/// A device for `local`, over links or over polls.
fn forwarder(gateway: &Gateway, local: &str, polls: bool) -> Process {
    if !polls {
        return Ptth::device(gateway, "lamp", &["--to", local]);
    }
    let url = gateway.device_url("lamp");
    let device = Ptth::start(&[
        "device",
        &url,
        "--backoff",
        "10ms..200ms",
        "--fallback",
        "only",
        "--comet",
        "message",
        "--to",
        local,
    ]);
    assert_eq!(
        device.line(),
        format!("connected lamp via {url} (COMET message/http)"),
        "{}",
        device.stderr()
    );
    device
}

// ── Always flush ──

const EVENTS: usize = 50;

/// What a server of events and its visitor tell each other.
struct Pace {
    /// When each event was written.
    written: Sender<Instant>,
    /// Each event that has arrived: only then, and 20 ms later, the next one is written.
    arrived: Mutex<Receiver<()>>,
}

fn events(c: &mut Conversation<'_>, pace: &Pace) {
    c.raw(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    for n in 0..EVENTS {
        std::thread::sleep(Duration::from_millis(20)); // the pace of the sender
        let event = format!("data: {n}\n\n");
        pace.written.send(Instant::now()).unwrap();
        c.raw(format!("{:x}\r\n{event}\r\n", event.len()));
        if pace.arrived.lock().unwrap().recv_timeout(Duration::from_secs(5)).is_err() {
            c.close = true; // it is held back somewhere, and the visitor sees a stream that is cut
            return;
        }
    }
    c.raw("0\r\n\r\n");
}

/// How long after it was written each event arrived, sorted. Each arrives before the next is
/// written, or this fails.
fn delays(
    addr: SocketAddr,
    target: &str,
    written: &Receiver<Instant>,
    arrived: &Sender<()>,
) -> Vec<Duration> {
    let mut visitor = RawPeer::connect(addr);
    visitor.write(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(visitor.read_head().get("content-type"), Some("text/event-stream"));
    let mut delays: Vec<Duration> = (0..EVENTS)
        .map(|n| {
            assert_eq!(
                String::from_utf8_lossy(&visitor.read_chunk()),
                format!("data: {n}\n\n"),
                "one event, one chunk"
            );
            let now = Instant::now();
            arrived.send(()).unwrap();
            now.saturating_duration_since(written.recv_timeout(Duration::from_secs(1)).unwrap())
        })
        .collect();
    assert!(visitor.read_chunk().is_empty());
    delays.sort_unstable();
    delays
}

/// Median and 99th percentile.
fn told(sorted: &[Duration]) -> String {
    let millis = |d: Duration| d.as_secs_f64() * 1e3;
    format!(
        "median {:.2} ms, p99 {:.2} ms",
        millis(sorted[sorted.len() / 2]),
        millis(sorted[sorted.len() * 99 / 100])
    )
}

#[test]
fn server_sent_events_are_not_held_back() {
    let ((send, written), (arrived, receive)) = (channel(), channel());
    let pace = Pace { written: send, arrived: Mutex::new(receive) };
    let local = LocalServer::with(move |c| events(c, &pace));
    let direct = delays(local.addr, "/events", &written, &arrived);
    let mut lines = vec![format!("server-sent events: asked directly {}", told(&direct))];
    for (transport, polls) in [("over a link", false), ("over polls", true)] {
        let gateway = Gateway::start(&[]);
        let _device = forwarder(&gateway, &local.url(), polls);
        let relayed = delays(gateway.visitors, "/lamp/events", &written, &arrived);
        let added = relayed[EVENTS / 2].saturating_sub(direct[EVENTS / 2]);
        lines.push(format!(
            "{transport} {} (added to the median: {:.2} ms; 1 ms is wanted)",
            told(&relayed),
            added.as_secs_f64() * 1e3
        ));
    }
    say(&lines.join("; "));
}

#[test]
fn an_upload_in_chunks_arrives_as_it_is_sent() {
    let (send, pieces) = channel();
    let local = LocalServer::with(move |c| {
        c.each_piece(|piece| send.send(piece.to_vec()).unwrap());
        c.text("done");
    });
    let gateway = Gateway::start(&[]);
    let _device = forwarder(&gateway, &local.url(), false);
    let mut visitor = gateway.visitor();
    for framing in ["Transfer-Encoding: chunked", "Content-Length: 50"] {
        let chunked = framing.starts_with('T');
        visitor.write(format!("POST /lamp/up HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
        for n in 10..20 {
            let piece = format!("no {n}");
            visitor.write(if chunked { format!("5\r\n{piece}\r\n") } else { piece.clone() });
            let came = pieces
                .recv_timeout(Duration::from_secs(5))
                .expect("it arrives before the next is sent");
            assert_eq!(String::from_utf8_lossy(&came), piece);
        }
        if chunked {
            visitor.write("0\r\n\r\n");
        }
        visitor.read_answer("POST").expect_ok("done");
    }
}

// ── Chromium ──

#[test]
fn a_page_of_chromium_behind_the_relay_has_all_it_needs() {
    if !need("chromium") || !need("node") {
        return;
    }
    if !["playwright-core", "ws"].iter().all(|package| {
        repository("tests/peers/node_modules").join(package).join("package.json").exists()
    }) {
        skipped("playwright-core and ws (from npm)");
        return;
    }
    let script = repository("tests/peers/relay_page.js");
    let server = Process::start(Command::new("node").arg(&script).arg("server"));
    let local = format!("http://127.0.0.1:{}", server.line());
    let gateway = Gateway::at_localhost(&["--route", "path", "--route", "host=localhost"]);
    let _device = forwarder(&gateway, &local, false);
    let port = gateway.visitors.port();
    let pages =
        [format!("http://127.0.0.1:{port}/lamp/"), format!("http://lamp.localhost:{port}/")];
    let mut driver = Process::start(
        Command::new("node").arg(&script).arg("visit").arg(program("chromium")).args(pages),
    );
    let code = driver.exit_code_within(Duration::from_secs(180));
    assert_eq!(
        (code, driver.all_lines().join(" ")),
        (0, "path host ok".to_owned()),
        "{}{}",
        driver.stderr(),
        server.stderr()
    );
}

// ── wrk ──

#[test]
fn wrk_sees_no_error() {
    if !need("wrk") {
        return;
    }
    let gateway = Gateway::start(&["--wait-for-link", "10s"]);
    let local = LocalServer::with(|c| c.text("hello\n"));
    let _device = Ptth::device(&gateway, "lamp", &["--to", &local.url(), "--links", "8..64"]);
    let url = format!("http://{}/lamp/x", gateway.visitors);
    let mut wrk = Process::start(Command::new("wrk").args([
        "--threads",
        "1",
        "--connections",
        "64",
        "--duration",
        "2s",
        "--timeout",
        "9s",
        &url,
    ]));
    assert_eq!(wrk.exit_code(), 0, "{}", wrk.stderr());
    let said = wrk.all_lines();
    let number =
        |line: &str| line.split_whitespace().last().and_then(|word| word.parse::<f64>().ok());
    let rate = said
        .iter()
        .find(|line| line.contains("Requests/sec"))
        .and_then(|line| number(line))
        .unwrap_or(0.0);
    assert!(
        rate > 0.0
            && !said.iter().any(|line| line.contains("Socket errors") || line.contains("Non-2xx")),
        "{}",
        said.join("\n")
    );
    say(&format!(
        "wrk: {rate:.0} requests/s over 64 connections to a local server of threads, no error"
    ));
}
