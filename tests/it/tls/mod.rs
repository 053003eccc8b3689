//! TLS on both legs, from outside: which devices are admitted, every way over a turned link, bytes split
//! anywhere, hostile and real peers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod credentials;
mod local;
mod many;
mod names;
mod peers;
mod records;
mod sessions;
mod transports;

use std::io::{BufRead, BufReader, Write};
use std::ops::RangeInclusive;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use reverse_http::gateway::GatewayBuilder;
use reverse_http::tls::{DeviceTls, GatewayTls, Identity};
use reverse_http::{Body, Device};

use crate::support::pki::TlsPeer;
use crate::support::process::offer;
use crate::support::{Authority, DEADLINE, Gateway, Pair, Process, Ptth, say};

/// A gateway with TLS on both ports, and what they show.
fn secure_gateway(authority: &Authority, more: &[&str]) -> (Gateway, Pair) {
    let pair = authority.server("gateway");
    let files = [
        "--devices-cert",
        pair.certificate(),
        "--devices-key",
        pair.key(),
        "--visitors-cert",
        pair.certificate(),
    ];
    (Gateway::start(&[&files[..], &["--visitors-key", pair.key()], more].concat()), pair)
}

fn url(gateway: &Gateway, name: &str) -> String {
    format!("https://localhost:{}/{name}", gateway.devices.port())
}

/// `ptth device` over TLS, without waiting for anything.
fn dial(gateway: &Gateway, name: &str, more: &[&str]) -> Process {
    Ptth::start(&[&["device", &url(gateway, name), "--backoff", "10ms..200ms"], more].concat())
}

/// The same, connected.
#[track_caller]
fn device(authority: &Authority, gateway: &Gateway, name: &str, more: &[&str]) -> Process {
    let process = dial(gateway, name, &[&["--ca", authority.ca()], more].concat());
    let line = process.line();
    assert!(line.starts_with(&format!("connected {name} via https://")), "{line}");
    process
}

/// curl on the visitors' port, with the authority's certificate.
fn curl(
    authority: &Authority,
    gateway: &Gateway,
    arguments: &[&str],
    target: &str,
) -> (bool, Vec<u8>) {
    let url = format!("https://localhost:{}{target}", gateway.visitors.port());
    let mut command = Command::new("curl");
    command
        .args(["-sS", "--max-time", "30", "--http1.1", "--cacert", authority.ca()])
        .args(arguments)
        .arg(url);
    let output = command.output().unwrap();
    if !output.status.success() {
        say(&format!("curl: {}", String::from_utf8_lossy(&output.stderr)));
    }
    (output.status.success(), output.stdout)
}

/// Both ends in this process, over TLS.
struct Api {
    authority: Authority,
    gateway: reverse_http::Gateway,
}

impl Api {
    fn new(change: impl FnOnce(GatewayBuilder) -> GatewayBuilder) -> Api {
        let authority = Authority::new();
        let pair = authority.server("gateway");
        let tls =
            GatewayTls::new(Identity::from_pem(&pair.certificate_pem, &pair.key_pem).unwrap())
                .unwrap();
        let gateway =
            change(crate::support::gateway().listen_tls("127.0.0.1:0", tls)).start().unwrap();
        Api { authority, gateway }
    }

    fn device(&self, name: &str) -> Device {
        self.device_with(name, 1..=8)
    }

    fn device_with(&self, name: &str, links: RangeInclusive<usize>) -> Device {
        let url = format!("https://localhost:{}/{name}", self.gateway.devices_addr().port());
        let tls = DeviceTls::new().ca(&self.authority.pem).unwrap();
        Device::builder(url)
            .tls(tls)
            .links(links)
            .backoff(Duration::from_millis(5)..Duration::from_millis(50))
            .build()
            .unwrap()
    }

    fn ask(&self, request: Request<Body>) -> (u16, Vec<u8>) {
        let device = self.gateway.device("lamp");
        device.wait_connected(DEADLINE).unwrap();
        let response = device.send(request).unwrap();
        (response.status().as_u16(), response.into_body().read_to_vec(1 << 30).unwrap())
    }
}

fn echo(request: Request<Body>) -> Response<Body> {
    Response::new(request.into_body())
}

fn post(body: impl Into<Body>) -> Request<Body> {
    Request::post("/echo").body(body.into()).unwrap()
}

/// A turned link over TLS that this test answers on.
fn link(authority: &Authority, gateway: &Gateway) -> TlsPeer {
    named_link(authority, gateway, "lamp")
}

fn named_link(authority: &Authority, gateway: &Gateway, name: &str) -> TlsPeer {
    let mut link = TlsPeer::connect(gateway.devices, Arc::new(authority.client(None)));
    link.write(offer(name, ""));
    assert_eq!(link.read_head().status(), 101);
    link
}

// ── real peers ──

/// Runs openssl with this input, to its end or for so long.
fn openssl(arguments: &[&str], input: &str, lines: usize) -> String {
    let mut command = Command::new("openssl");
    let mut child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    let (send, received) = std::sync::mpsc::channel();
    let stdout = child.stdout.take().unwrap();
    std::thread::spawn(move || {
        BufReader::new(stdout).lines().map_while(Result::ok).for_each(|line| _ = send.send(line))
    });
    let said = (0..lines)
        .map_while(|_| received.recv_timeout(DEADLINE).ok())
        .collect::<Vec<_>>()
        .join("\n");
    let _ = child.kill(); // by its own id; it waits for its input
    let _ = child.wait();
    said
}

const VERSIONS: [&rustls::SupportedProtocolVersion; 2] =
    [&rustls::version::TLS12, &rustls::version::TLS13];
