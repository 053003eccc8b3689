//! Real peers: curl, nginx, npm `reverse-http`, Python's http.client and http.server, the `floor`
//! program, examples/device.py.
//!
//! A peer that is not installed is skipped loudly; under CI (`CI=true`) that is a failure.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::local::routes;
use crate::support::process::get;
use crate::support::raw::find;
use crate::support::{
    Gateway, Hash, Head, LocalServer, Process, Ptth, RawPeer, TempDir, eventually, free_port, need,
    pattern, program, repository, skipped,
};

/// The whole way of a real request: visitor, gateway, device, local server.
struct Transport {
    gateway: Gateway,
    local: LocalServer,
    _device: Process,
}

fn transport() -> Transport {
    let gateway = Gateway::start(&[]);
    let local = LocalServer::start();
    let device = Ptth::device(&gateway, "lamp", &["--to", &local.url()]);
    Transport { gateway, local, _device: device }
}

// ── curl ──

/// Runs curl to its end: exit code, what it got, and what it complained of.
#[track_caller]
fn curl(arguments: &[&str]) -> (i32, Vec<u8>, String) {
    let output = Command::new("curl")
        .args(["-sS", "--noproxy", "*", "--max-time", "20"])
        .args(arguments)
        .output()
        .unwrap();
    (
        output.status.code().unwrap(),
        output.stdout,
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[track_caller]
fn curl_ok(arguments: &[&str]) -> Vec<u8> {
    let (code, got, complaint) = curl(arguments);
    assert_eq!(code, 0, "curl {arguments:?}: {complaint}");
    got
}

#[test]
fn curl_is_served_as_a_visitor() {
    if !need("curl") {
        return;
    }
    let transport = transport();
    let url = |path: &str| format!("http://{}{path}", transport.gateway.visitors);
    let said = curl_ok(&["-i", &url("/lamp/anything")]);
    let (head, body) = Head::split(&said);
    assert_eq!((head.status(), body), (200, b"hello\n".as_slice()));
    assert_eq!(transport.local.last().target(), "/anything");

    let said = curl_ok(&["-I", &url("/lamp/x")]);
    assert_eq!(Head::parse(&said).get("content-length"), Some("6"));
    assert_eq!(curl_ok(&["-L", &url("/lamp")]), b"hello\n", "308, then the slash");
    assert_eq!(
        curl_ok(&["-X", "DELETE", "-o", "/dev/null", "-w", "%{http_code}", &url("/lamp/x")]),
        b"200"
    );
    assert_eq!(curl_ok(&["-o", "/dev/null", "-w", "%{http_code}", &url("/nobody/x")]), b"404");
    assert_eq!(curl_ok(&["--http1.0", &url("/lamp/x")]), b"hello\n");
    // curl offers h2c here; neither side may take it up.
    let said = curl_ok(&["--http2", "-i", &url("/lamp/echo")]);
    let (head, body) = Head::split(&said);
    assert_eq!((head.status(), head.get("upgrade")), (200, None));
    assert!(
        !String::from_utf8_lossy(body).to_lowercase().contains("h2c"),
        "{}",
        String::from_utf8_lossy(body)
    );
    // Several on one connection.
    let said =
        curl_ok(&["-w", "%{num_connects}", &url("/lamp/1"), &url("/lamp/2"), &url("/lamp/3")]);
    assert_eq!(said, b"hello\n1hello\n0hello\n0");
    // Twenty at once.
    let urls = url("/lamp/[1-20]");
    let said = curl_ok(&["-Z", "--parallel-max", "20", &urls]);
    assert_eq!(said, b"hello\n".repeat(20));
}

#[test]
fn curls_uploads_and_downloads_arrive_whole() {
    if !need("curl") {
        return;
    }
    let transport = transport();
    let url = |path: &str| format!("http://{}{path}", transport.gateway.visitors);
    let dir = TempDir::new("curl");
    let (up, down) = (dir.0.join("up"), dir.0.join("down"));
    let bytes = pattern(5_000_000);
    std::fs::write(&up, &bytes).unwrap();
    let (up, hash) = (up.to_str().unwrap(), Hash::of(&bytes));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    assert_eq!(text(curl_ok(&["-T", up, &url("/lamp/hash")])), hash, "PUT with a length");
    assert_eq!(
        text(curl_ok(&["-T", up, "-H", "Transfer-Encoding: chunked", &url("/lamp/hash")])),
        hash,
        "PUT in chunks"
    );
    assert_eq!(
        text(curl_ok(&[
            "--data-binary",
            &format!("@{up}"),
            "-H",
            "Expect: 100-continue",
            &url("/lamp/hash")
        ])),
        hash,
        "POST with Expect"
    );
    assert!(
        transport.local.last().get("expect").is_some(),
        "curl sent no Expect, so nothing was tried"
    );
    for kind in ["big", "chunked", "until-close"] {
        curl_ok(&["-o", down.to_str().unwrap(), &url(&format!("/lamp/{kind}?n=5000000"))]);
        assert_eq!(Hash::of(&std::fs::read(&down).unwrap()), hash, "/{kind}");
    }
}

#[test]
fn curl_sees_a_cut_answer_as_an_error() {
    if !need("curl") {
        return;
    }
    let gateway = Gateway::start(&[]);
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let mut link = gateway.link("lamp");
        let url = format!("http://{}/lamp/x", gateway.visitors);
        let visitor = std::thread::spawn(move || curl(&["-f", &url]));
        link.read_head();
        link.write(answer);
        drop(link);
        let (code, _, complaint) = visitor.join().unwrap();
        // 18: partial file; 56: failure in receiving; 22: a 502 that was known early enough. Not
        // 52, an empty reply.
        assert!(matches!(code, 18 | 56 | 22), "{code}: {complaint}");
    }
}

#[test]
fn curl_gets_events_as_they_come() {
    if !need("curl") {
        return;
    }
    let gateway = Gateway::start(&[]);
    let mut link = gateway.link("lamp");
    let mut command = Command::new("curl");
    command.args([
        "-sS",
        "-N",
        "--noproxy",
        "*",
        "--max-time",
        "20",
        &format!("http://{}/lamp/events", gateway.visitors),
    ]);
    let visitor = Process::start(&mut command);
    assert_eq!(link.read_head().target(), "/events");
    link.write(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    for event in ["data: 1\n", "data: 2\n"] {
        link.write(format!("{:x}\r\n{event}\r\n", event.len()));
        assert_eq!(visitor.line(), event.trim_end(), "it arrives before the next is sent");
    }
    link.write("0\r\n\r\n");
}

// ── nginx ──

#[test]
fn nginx_is_the_local_server_behind_a_device() {
    if !need("nginx") {
        return;
    }
    let dir = TempDir::new("nginx");
    let bytes = pattern(1_000_000);
    std::fs::write(dir.0.join("file"), &bytes).unwrap();
    std::fs::write(dir.0.join("hello"), "hello from nginx\n").unwrap();
    let (_nginx, port) = eventually("nginx listens on a free port", || start_nginx(&dir.0));
    let gateway = Gateway::start(&[]);
    let _device = Ptth::device(&gateway, "lamp", &["--to", &format!("http://127.0.0.1:{port}")]);
    let mut visitor = gateway.visitor();
    for _ in 0..20 {
        visitor.ask(&get("/lamp/hello")).expect_ok("hello from nginx\n");
    }
    let answer = visitor.ask(&get("/lamp/file"));
    assert_eq!((answer.status(), Hash::of(&answer.body)), (200, Hash::of(&bytes)));
    let tag = answer.head.get("etag").unwrap().to_owned();
    let answer =
        visitor.ask(&format!("GET /lamp/file HTTP/1.1\r\nHost: a\r\nIf-None-Match: {tag}\r\n\r\n"));
    assert_eq!((answer.status(), answer.body.len()), (304, 0));
    let answer =
        visitor.ask("GET /lamp/file HTTP/1.1\r\nHost: a\r\nRange: bytes=1000-1999\r\n\r\n");
    assert_eq!((answer.status(), answer.body.as_slice()), (206, &bytes[1000..2000]));
    assert_eq!(answer.head.get("content-range"), Some("bytes 1000-1999/1000000"));
    let answer =
        visitor.ask("GET /lamp/file HTTP/1.1\r\nHost: a\r\nRange: bytes=0-9,20-29\r\n\r\n");
    assert_eq!(answer.status(), 206);
    assert!(answer.head.get("content-type").unwrap().starts_with("multipart/byteranges"));
    let answer = visitor.ask("HEAD /lamp/file HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        (answer.status(), answer.head.get("content-length"), answer.body.len()),
        (200, Some("1000000"), 0)
    );
    assert_eq!(visitor.ask(&get("/lamp/none")).status(), 404);
    assert_eq!(
        visitor.ask("POST /lamp/hello HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").status(),
        405
    );
    // nginx refuses this upload while it comes (client_max_body_size 1k).
    visitor.write("POST /lamp/hello HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n");
    let _ = visitor.try_write(vec![b'x'; 300_000]); // it may be closed in the middle of it
    assert_eq!(visitor.read_answer("POST").status(), 413);
    gateway.get("/lamp/hello").expect_ok("hello from nginx\n");
}

/// nginx cannot tell the port it got, so it gets one that was free a moment ago; `None` when
/// somebody was quicker.
fn start_nginx(dir: &Path) -> Option<(Process, u16)> {
    let (port, here) = (free_port(), dir.display());
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|n| format!("{n}_temp_path {here}/{n};"))
        .join(" ");
    let user = if std::fs::metadata("/proc/self")
        .is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
    {
        "user root;"
    } else {
        ""
    };
    let config = format!(
        "daemon off; {user} worker_processes 1; pid {here}/pid; error_log {here}/error.log;\nevents {{ worker_connections 256; }}\n\
         http {{ access_log off; {temporary} default_type text/plain; client_max_body_size 1k;\n server {{ listen 127.0.0.1:{port}; root {here}; }} }}\n"
    );
    let path = dir.join("nginx.conf");
    std::fs::write(&path, config).unwrap();
    let binary = program("nginx");
    let mut process = Process::start(
        Command::new(binary)
            .arg("-p")
            .arg(dir)
            .arg("-c")
            .arg(&path)
            .arg("-e")
            .arg(dir.join("error.log")),
    );
    eventually("nginx is ready or has ended", || {
        (process.has_ended() || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())
            .then_some(())
    });
    if process.has_ended() {
        let log = std::fs::read_to_string(dir.join("error.log")).unwrap_or_default();
        assert!(
            log.contains("already in use") || log.contains("bind()"),
            "nginx ended: {log}{}",
            process.stderr()
        );
        return None;
    }
    Some((process, port))
}

// ── npm reverse-http ──

#[test]
fn npms_reverse_http_is_a_device_on_our_gateway() {
    if !need("node") {
        return;
    }
    if !repository("tests/peers/node_modules/reverse-http/package.json").exists() {
        skipped("reverse-http (from npm)");
        return;
    }
    let gateway = Gateway::at_localhost(&["--wait-for-link", "9s", "--heartbeat", "300ms"]);
    let mut command = Command::new("node");
    command.arg(repository("tests/peers/npm_device.js")).args([
        "127.0.0.1",
        &gateway.devices.port().to_string(),
        "/npm",
    ]);
    let device = Process::start(&mut command);
    eventually("the device is connected", || {
        (gateway.get("/npm/first").status() == 200).then_some(())
    });
    let mut visitor = gateway.visitor();
    for i in 0..10 {
        visitor.ask(&get(&format!("/npm/{i}"))).expect_ok("hello from npm");
    }
    visitor.write("POST /npm/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    visitor.read_answer("POST").expect_ok("hello");
    visitor.write("POST /npm/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n");
    visitor.read_answer("POST").expect_ok("hello");
    let answer = visitor.ask("HEAD /npm/x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((answer.status(), answer.body.len()), (200, 0));
    // It ends the connection and dials again, and the gateway takes it back.
    for _ in 0..3 {
        visitor.ask(&get("/npm/drop")).expect_ok("hello from npm");
        visitor.ask(&get("/npm/after")).expect_ok("hello from npm");
    }
    // It answered heartbeats as any server answers OPTIONS; after several of them the link is still
    // there.
    eventually("two heartbeats", || device.line().contains("OPTIONS *").then_some(()));
    eventually("two heartbeats", || device.line().contains("OPTIONS *").then_some(()));
    visitor.ask(&get("/npm/last")).expect_ok("hello from npm");
    assert_eq!(device.stderr(), "");
}

// ── Python ──

#[test]
fn pythons_http_client_is_served_as_a_visitor() {
    if !need("python3") {
        return;
    }
    let gateway = Gateway::at_localhost(&[]);
    let local = LocalServer::with(|c| match c.head.target() {
        "/hello" => c.text("hello\n"),
        _ => routes(c),
    });
    let _device = Ptth::device(&gateway, "lamp", &["--to", &local.url()]);
    let mut command = Command::new("python3");
    command
        .arg(repository("tests/peers/visitor.py"))
        .args([&gateway.visitors.port().to_string(), "/lamp"]);
    let (code, out, err) = Ptth::finish(&mut command);
    assert_eq!((code, out.as_str()), (0, "ok"), "{err}");
}

#[test]
fn pythons_http_server_is_the_local_server_behind_a_device() {
    if !need("python3") {
        return;
    }
    let dir = TempDir::new("python");
    let bytes = pattern(300_000);
    std::fs::write(dir.0.join("file"), &bytes).unwrap();
    std::fs::create_dir(dir.0.join("folder")).unwrap();
    for protocol in ["HTTP/1.0", "HTTP/1.1"] {
        let script = format!(
            "import functools, http.server as h\nH = h.SimpleHTTPRequestHandler\nH.protocol_version = '{protocol}'\n\
             s = h.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(H, directory={:?}))\nprint(s.server_port, flush=True)\ns.serve_forever()",
            dir.0
        );
        let server = Process::start(Command::new("python3").args(["-c", &script]));
        let port = server.line();
        let gateway = Gateway::start(&[]);
        let _device =
            Ptth::device(&gateway, "lamp", &["--to", &format!("http://127.0.0.1:{port}")]);
        let mut visitor = gateway.visitor();
        for _ in 0..5 {
            let answer = visitor.ask(&get("/lamp/file"));
            assert_eq!(
                (answer.status(), Hash::of(&answer.body)),
                (200, Hash::of(&bytes)),
                "{protocol}"
            );
        }
        assert_eq!(visitor.ask(&get("/lamp/none")).status(), 404);
        assert_eq!(visitor.ask(&get("/lamp/folder")).status(), 301);
        let answer = visitor.ask("HEAD /lamp/file HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(
            (answer.status(), answer.head.get("content-length"), answer.body.len()),
            (200, Some("300000"), 0)
        );
        assert_eq!(
            visitor
                .ask("POST /lamp/file HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi")
                .status(),
            501
        );
        let listing = gateway.get("/lamp/");
        assert!(
            listing.status() == 200 && listing.text().contains("folder/"),
            "{}",
            listing.text()
        );
    }
}

#[test]
fn the_python_example_is_a_device_on_our_gateway() {
    if !need("python3") {
        return;
    }
    let text = std::fs::read_to_string(repository("examples/device.py")).unwrap();
    assert!(text.lines().count() < 40, "the example is to stay under forty lines");
    let gateway = Gateway::at_localhost(&["--heartbeat", "100ms", "--wait-for-link", "9s"]);
    let start = |gateway: &Gateway| {
        let mut command = Command::new("python3");
        command.arg(repository("examples/device.py")).args([
            "127.0.0.1",
            &gateway.devices.port().to_string(),
            "lamp",
        ]);
        Process::start(&mut command)
    };
    let mut device = start(&gateway);
    assert_eq!(device.line(), "connected lamp");
    let mut visitor = gateway.visitor();
    for i in 0..5 {
        visitor.ask(&get(&format!("/lamp/{i}"))).expect_ok(format!("lamp was asked GET /{i}\n"));
    }
    visitor.write("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    visitor.read_answer("POST").expect_ok("lamp was asked POST /x\n");
    let answer = visitor.ask("HEAD /lamp/x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        (answer.status(), answer.head.get("content-length"), answer.body.len()),
        (200, Some("23"), 0)
    );
    visitor.expect_quiet(Duration::from_millis(350)); // some heartbeats go by
    visitor.ask(&get("/lamp/still")).expect_ok("lamp was asked GET /still\n");
    assert!(!device.has_ended(), "{}", device.stderr());
    // The on-demand turn: 101 and request in one segment.
    let gateway = Gateway::at_localhost(&["--turn", "on-demand"]);
    let _device = start(&gateway);
    eventually("it serves", || (gateway.get("/lamp/now").status() == 200).then_some(()));
}

// ── floor: a foreign, minimal implementation of both ends ──

/// The program, where .ci/peers (or another script) has built it.
fn floor() -> Option<PathBuf> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository("target"), PathBuf::from);
    let places = [
        std::env::var_os("PTTH_FLOOR").map(PathBuf::from),
        Some(target.join("floor/release/floor")),
        Some(repository("target/floor/release/floor")),
    ];
    let found = places.into_iter().flatten().find(|p| p.is_file());
    if found.is_none() {
        skipped("floor (tests/peers/floor)");
    }
    found
}

#[test]
fn floor_is_a_device_on_our_gateway() {
    let Some(floor) = floor() else { return };
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let _device = Process::start(Command::new(floor).args([
        "device",
        &gateway.devices.to_string(),
        "/lamp",
        "4",
    ]));
    eventually("it is connected", || (gateway.get("/lamp/hello").status() == 200).then_some(()));
    let mut visitor = gateway.visitor();
    for _ in 0..50 {
        visitor.ask(&get("/lamp/hello")).expect_ok("Hello, world!");
    }
    let answer = visitor.ask(&get("/lamp/big?n=5000000"));
    assert_eq!(answer.body.len(), 5_000_000);
    assert!(answer.body.iter().all(|o| *o == 0));
    visitor.write("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    visitor.read_answer("POST").expect_ok("Hello, world!");
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let visitors = gateway.visitors;
            std::thread::spawn(move || {
                let mut visitor = RawPeer::connect(visitors);
                (0..100).for_each(|_| visitor.ask(&get("/lamp/hello")).expect_ok("Hello, world!"));
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
}

#[test]
fn floor_is_a_gateway_for_our_device() {
    let Some(floor) = floor() else { return };
    let (visitors, devices): (SocketAddr, SocketAddr) =
        (([127, 0, 0, 1], free_port()).into(), ([127, 0, 0, 1], free_port()).into());
    let _gateway = Process::start(Command::new(floor).args([
        "gateway",
        &visitors.to_string(),
        &devices.to_string(),
    ]));
    let local = LocalServer::start();
    let url = format!("http://{devices}/lamp");
    let device = Ptth::start(&[
        "device",
        &url,
        "--to",
        &local.url(),
        "--backoff",
        "20ms..100ms",
        "--links",
        "2..8",
    ]);
    assert_eq!(device.line(), format!("connected lamp via {url} (PTTH/1.0 turn)"));
    let mut visitor = RawPeer::connect(visitors);
    for _ in 0..50 {
        visitor.ask(&get("/x")).expect_ok("hello\n");
    }
    let answer = visitor.ask(&get("/big?n=3000000"));
    assert_eq!(Hash::of(&answer.body), Hash::of_pattern(3_000_000));
    visitor.write("POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    visitor.read_answer("POST").expect_ok(Hash::of(b"hello"));
    let head = visitor.ask(&get("/echo"));
    assert!(find(&head.body, b"GET /echo HTTP/1.1\r\n").is_some());
}
