//! The admin listener: who may ask, what it says in JSON, metrics and HTML, and what it does.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod access_log;
mod bounds;
mod bounds_reached;
mod hostile;
mod monitoring;
mod operators;
mod refused;
mod refused_offers;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::process::get;
use crate::support::raw::Answer;
use crate::support::{
    DEADLINE, Gateway, Ptth, RawPeer, TempDir, eventually, free_port, need, program, repository,
    skipped,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A gateway and the address of its operators.
struct Observed {
    gateway: Gateway,
    admin: SocketAddr,
}

impl Observed {
    #[track_caller]
    fn start(more: &[&str]) -> Observed {
        let gateway = Gateway::start(&[&["--admin", "127.0.0.1:0"], more].concat());
        let line = gateway.process.line_like("admin http://");
        let admin = line.strip_prefix("admin http://").unwrap_or_else(|| panic!("{line:?}"));
        let admin = admin.parse().unwrap();
        Observed { gateway, admin }
    }

    #[track_caller]
    fn ask(&self, head: &str) -> Answer {
        let mut peer = RawPeer::connect(self.admin);
        peer.write(head.replace("HOST", &self.admin.to_string()));
        peer.read_answer(head.split(' ').next().unwrap())
    }

    #[track_caller]
    fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: HOST\r\n\r\n"))
    }

    #[track_caller]
    fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status(), 200, "{path}: {}", answer.text());
        assert_eq!(answer.head.get("content-type"), Some("application/json"));
        serde_json::from_slice(&answer.body).unwrap()
    }

    #[track_caller]
    fn post(&self, path: &str) -> Answer {
        self.ask(&format!("POST {path} HTTP/1.1\r\nHost: HOST\r\nX-Ptth-Admin: 1\r\n\r\n"))
    }

    /// One device as its page in JSON has it, once it is like this.
    #[track_caller]
    fn device(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("{name}: {what}"), || {
            let answer = self.get(&format!("/api/v1/devices/{name}"));
            let value: Value = serde_json::from_slice(&answer.body).ok()?;
            is(&value).then_some(value)
        })
    }
}

/// A request through `link`, answered.
#[track_caller]
fn exchange(gateway: &Gateway, link: &mut RawPeer, target: &str) {
    let mut visitor = gateway.visitor();
    visitor.write(get(target));
    link.read_head();
    link.write(OK);
    visitor.read_answer("GET").expect_ok("ok");
}

// ── Who may ask ──

#[test]
fn nothing_of_it_is_reachable_on_the_other_ports() {
    let observed = Observed::start(&[]);
    let without = Gateway::start(&[]);
    assert_eq!(without.process.line_within(Duration::from_millis(100)), None);
    for path in ["/", "/api/v1/devices", "/metrics/", "/healthz/", "/devices/lamp"] {
        for gateway in [&observed.gateway, &without] {
            gateway.get(path).expect_refusal(404);
            let mut device = gateway.dial();
            device.write(get(path));
            device.read_answer("GET").expect_refusal(405);
        }
    }
}

#[test]
fn beyond_loopback_it_wants_tokens_and_says_both_remedies() {
    let common = ["gateway", "--devices", "127.0.0.1:0", "--visitors", "127.0.0.1:0"];
    let (code, out, error) = Ptth::run(&[&common[..], &["--admin", "0.0.0.0:0"]].concat());
    assert_eq!((code, out.as_str()), (2, ""), "{error}");
    for remedy in ["127.0.0.1:9990", "unix:", "--admin-tokens FILE"] {
        assert!(error.contains(remedy), "{error}");
    }
    for (options, told) in [
        (["--admin-tokens", "/dev/null"], "--admin-tokens goes with --admin"),
        (["--metrics-per-device", "3"], "--metrics-per-device goes with --admin"),
        (["--access-log-format", "json"], "--access-log-format goes with --access-log"),
    ] {
        let (code, _, error) = Ptth::run(&[&common[..], &options].concat());
        assert!(code == 2 && error.contains(told), "{error}");
    }
}

#[test]
fn operators_show_a_token_where_there_are_some() {
    let folder = TempDir::new("admin-tokens");
    let file = folder.0.join("tokens");
    let draw = || {
        let (_, out, _) = Ptth::run(&["token", "*"]);
        let mut lines = out.lines().map(str::to_owned);
        (lines.next().unwrap(), lines.next().unwrap())
    };
    let ((token, line), (other, next)) = (draw(), draw());
    std::fs::write(&file, line).unwrap();
    let observed = Observed::start(&["--admin-tokens", file.to_str().unwrap()]);
    let with = |token: &str| {
        let fields = format!("Host: gw.example\r\nAuthorization: Bearer {token}");
        observed.ask(&format!("GET /api/v1/status HTTP/1.1\r\n{fields}\r\n\r\n")).status()
    };
    let none = observed.get("/");
    assert_eq!(none.status(), 401);
    assert_eq!(none.head.all("www-authenticate").len(), 2, "a browser asks for a password");
    assert_eq!(
        (with(&other), with(&token)),
        (401, 200),
        "whatever its Host: nobody rebinds a token"
    );
    assert_eq!(observed.get("/healthz").status(), 200);
    // Without a token there is one answer for a connection, with one there are many.
    let (host, shown) = ("Host: localhost\r\n", format!("Authorization: Bearer {token}\r\n"));
    for first in ["GET /healthz", "GET /", "PUT /"] {
        let mut peer = RawPeer::connect(observed.admin);
        peer.write(format!("{first} HTTP/1.1\r\n{host}\r\n"));
        assert_eq!(peer.read_answer("GET").head.get("connection"), Some("close"), "{first}");
        peer.expect_end();
    }
    let mut peer = RawPeer::connect(observed.admin);
    for _ in 0..2 {
        peer.write(format!("GET /healthz HTTP/1.1\r\n{host}{shown}\r\n"));
        assert_eq!(peer.read_answer("GET").head.get("connection"), Some("keep-alive"));
    }
    let mut follower = RawPeer::connect(observed.admin);
    let accept = "Accept: text/event-stream\r\n";
    follower.write(format!("GET /api/v1/events HTTP/1.1\r\n{host}{accept}{shown}\r\n"));
    assert_eq!(follower.read_head().status(), 200);
    std::fs::write(&file, next).unwrap();
    observed.gateway.process.signal("HUP");
    eventually("the other token counts", || (with(&other) == 200).then_some(()));
    assert_eq!(with(&token), 401);
    follower.read_to_end(); // it goes on for nobody whose token has gone
    let log = observed.gateway.process.stderr();
    assert!(!log.contains(&token) && !log.contains(&other), "{log}");
}

#[test]
fn pages_of_other_sites_can_neither_read_nor_act() {
    let observed = Observed::start(&[]);
    let ask = |method: &str, path: &str, fields: &str| {
        observed.ask(&format!("{method} {path} HTTP/1.1\r\n{fields}\r\n\r\n"))
    };
    // DNS rebinding: a name that leads to loopback.
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example"] {
        let refused = ask("GET", "/api/v1/devices", &format!("Host: {host}"));
        assert_eq!((refused.status(), refused.head.closes()), (421, true), "{host}");
    }
    for host in ["localhost", "localhost:1", "127.0.0.1", "[::1]:7"] {
        assert_eq!(ask("GET", "/api/v1/devices", &format!("Host: {host}")).status(), 200, "{host}");
    }
    // The host of an absolute form replaces Host (RFC 9112 §3.2.2).
    for (target, host, status) in [
        ("http://localhost/api/v1/limits", "localhost", 200),
        ("http://127.0.0.1:9/api/v1/limits", "evil.example", 200),
        ("http://evil.example/api/v1/limits", "localhost", 421),
        ("http://localhost", "localhost", 200),
        ("http://u@localhost/", "localhost", 400),
    ] {
        assert_eq!(ask("GET", target, &format!("Host: {host}")).status(), status, "{target}");
    }
    // CSRF: what a form can send, and the question before what a script would.
    let path = "/api/v1/devices/lamp/disconnect";
    assert_eq!(ask("POST", path, "Host: localhost").status(), 403);
    assert_eq!(
        ask("OPTIONS", path, "Host: localhost\r\nOrigin: http://evil.example").status(),
        405
    );
    let answer = ask("GET", "/", "Host: localhost\r\nOrigin: http://evil.example");
    assert!(answer.head.all("access-control-allow-origin").is_empty());
    let policy = answer.head.get("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'nonce-"), "{policy}");
    assert_eq!(answer.head.get("x-frame-options"), Some("DENY"));
}

#[test]
fn a_unix_socket_is_its_owners_alone_and_gone_with_the_gateway() {
    let folder = TempDir::new("admin-unix");
    let path = folder.0.join("admin.sock");
    let address = format!("unix:{}", path.display());
    // Left over from a run that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let mut gateway = Gateway::start(&["--admin", &address, "--drain-timeout", "100ms"]);
    assert_eq!(gateway.process.line(), format!("admin {address}"));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"),
        "{answer}"
    );
    // Not another's that somebody listens on.
    let common = ["gateway", "--devices", "127.0.0.1:0", "--visitors", "127.0.0.1:0", "--admin"];
    let (code, _, error) = Ptth::run(&[&common[..], &[&address]].concat());
    assert!(code == 1 && error.contains("unix:"), "{code} {error}");
    // Nor a file that is not a socket, whether named or linked to.
    let (file, link) = (folder.0.join("ptth.toml"), folder.0.join("link"));
    std::fs::write(&file, "[gateway]").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    for path in [&file, &link] {
        let address = format!("unix:{}", path.display());
        let (code, _, error) = Ptth::run(&[&common[..], &[&address]].concat());
        assert!(code == 1 && error.contains(&address), "{code} {error}");
        assert!(error.contains("not a socket"), "{error}");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "[gateway]");
    }
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit_code(), 0);
    assert!(!path.exists());
}

// ── What it says ──

#[test]
fn a_device_is_told_with_its_requests_and_its_end() {
    let observed = Observed::start(&["--first-byte", "200ms"]);
    let gateway = &observed.gateway;
    assert_eq!(observed.json("/api/v1/devices")["found"], 0);
    let mut link = gateway.link_with("lamp", "User-Agent: <lamp>/1\r\n");
    exchange(gateway, &mut link, "/lamp/status?token=secret");
    let device = observed.device("lamp", "one request", |device| device["requests"] == 1);
    assert_eq!(device["state"], "up");
    assert_eq!(device["transport"], "upgrade");
    assert_eq!(device["links"]["idle"], 1);
    assert_eq!(device["offer"]["user_agent"], "<lamp>/1");
    assert_eq!(device["bytes"]["from_device"], 2);
    assert!(device["latency_ms"]["p99"].as_f64().unwrap() > 0.0);
    let request = &device["recent_requests"][0];
    assert_eq!((&request["path"], &request["status"]), (&"/lamp/status".into(), &200.into()));
    assert!(!observed.get("/devices/lamp").text().contains("<lamp>"), "markup of others is text");
    // One in progress, which then is late.
    let mut visitor = gateway.visitor();
    visitor.write("POST /lamp/slow HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    link.read_head();
    observed.device("lamp", "a request in progress", |device| {
        device["in_progress"] == 1
            && device["links_one_by_one"][0]["exchange"]["path"] == "/lamp/slow"
    });
    visitor.read_answer("POST").expect_refusal(504);
    let device = observed.device("lamp", "down", |device| device["state"] == "down");
    assert_eq!(device["failures"]["late"], 1);
    assert_eq!((&device["errors"], &device["responses"]["5xx"]), (&1.into(), &1.into()));
    assert_eq!(device["cause"], "late");
    assert_eq!(device["bytes"]["to_device"], 5);
    let kinds: Vec<_> =
        device["recent_changes"].as_array().unwrap().iter().map(|change| &change["kind"]).collect();
    assert_eq!(kinds, ["down", "ended", "up"]);
    let listed = eventually("a fresh list", || {
        let listed = observed.json("/api/v1/devices?state=down&q=LAMP");
        (listed["found"] == 1).then_some(listed)
    });
    assert_eq!(listed["devices"][0]["name"], "lamp");
    assert_eq!(observed.json("/api/v1/devices?state=up")["found"], 0);
    assert_eq!(observed.json("/api/v1/devices?silent_for=1h")["found"], 0);
    assert_eq!(observed.json("/api/v1/devices?q=nobody")["found"], 0);
}

#[test]
fn a_list_has_an_order_and_pages() {
    let observed = Observed::start(&[]);
    let mut links: Vec<RawPeer> =
        ["c", "a", "b"].iter().map(|name| observed.gateway.link(name)).collect();
    exchange(&observed.gateway, &mut links[2], "/b/");
    observed.device("b", "one request", |device| device["requests"] == 1);
    let names = |query: &str| -> Vec<String> {
        let listed = eventually("a fresh list", || {
            let listed = observed.json(&format!("/api/v1/devices?{query}"));
            (listed["known"] == 3).then_some(listed)
        });
        let devices = listed["devices"].as_array().unwrap();
        devices.iter().map(|device| device["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(""), ["a", "b", "c"]);
    assert_eq!(names("sort=-name"), ["c", "b", "a"]);
    assert_eq!(names("sort=-busy"), ["a", "b", "c"], "equals by name");
    let mut visitor = observed.gateway.visitor();
    visitor.write(get("/c/"));
    links[0].read_head();
    eventually("the busiest first", || (names("sort=-busy")[0] == "c").then_some(()));
    links[0].write(OK);
    visitor.read_answer("GET").expect_ok("ok");
    eventually("the busiest first", || (names("sort=-requests")[0] == "b").then_some(()));
    assert_eq!(names("limit=2&page=2"), ["c"]);
    assert!(names("page=9").is_empty());
    assert_eq!(names("page=1&limit=1").len(), 1);
}

#[test]
fn polls_and_programs_are_told_too() {
    let observed = Observed::start(&[]);
    let url = observed.gateway.device_url("poller");
    let device = Ptth::start(&["device", &url, "--text", "hello", "--fallback", "only"]);
    assert!(device.line().starts_with("connected poller"));
    observed.gateway.get("/poller/x").expect_ok("hello");
    let told = observed.device("poller", "one request", |device| device["requests"] == 1);
    assert!(told["transport"].as_str().unwrap().starts_with("comet-"), "{told}");
    assert_eq!(told["responses"]["2xx"], 1);
    let agent = concat!("ptth/", env!("CARGO_PKG_VERSION"));
    assert_eq!((&told["tls"], &told["offer"]["user_agent"]), (&false.into(), &agent.into()));
    assert!(told["recent_requests"][0]["waited_ms"].as_f64().is_some());
    // A program's own exchange, of which no more is known than its time.
    let gateway = reverse_http::Gateway::builder().listen("127.0.0.1:0").observe(true);
    let gateway = gateway.start().unwrap();
    let admin = gateway.admin("127.0.0.1:0", reverse_http::admin::Admin::new()).unwrap();
    let url = format!("http://{}/lamp", gateway.devices_addr());
    let device = reverse_http::Device::builder(url).build().unwrap();
    let running = device.spawn(|_| http::Response::new(reverse_http::Body::from("hello"))).unwrap();
    let lamp = gateway.device("lamp");
    lamp.wait_connected(DEADLINE).unwrap();
    let request = http::Request::get("/secret?x=1").body(reverse_http::Body::empty()).unwrap();
    let response = lamp.send(request).unwrap();
    assert_eq!(response.into_body().read_to_text(100).unwrap(), "hello");
    let admin = admin.url().strip_prefix("http://").unwrap().parse::<SocketAddr>().unwrap();
    let told = eventually("one request of a program", || {
        let mut peer = RawPeer::connect(admin);
        peer.write(format!("GET /api/v1/devices/lamp HTTP/1.1\r\nHost: {admin}\r\n\r\n"));
        let told: Value = serde_json::from_slice(&peer.read_answer("GET").body).ok()?;
        (told["requests"] == 1 && told["in_progress"] == 0).then_some(told)
    });
    assert_eq!(told["recent_requests"][0]["path"], "(program)", "{told}");
    assert!(!told.to_string().contains("secret"), "{told}");
    running.stop();
}

#[test]
fn events_are_followed_and_found_again() {
    let observed = Observed::start(&[]);
    let mut stream = RawPeer::connect(observed.admin);
    stream.write(
        "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n",
    );
    assert_eq!(stream.read_head().get("content-type"), Some("text/event-stream"));
    let link = observed.gateway.link("lamp");
    let mut lines = read_events(&mut stream, "\"kind\":\"up\"");
    assert!(
        lines.contains("event: totals\n") && lines.contains("id: 1\nevent: device\n"),
        "{lines}"
    );
    drop(link);
    lines = read_events(&mut stream, "\"kind\":\"down\"");
    assert!(lines.contains("\"cause\":\"closed\""), "{lines}");
    // To HEAD there is no stream.
    let mut peer = RawPeer::connect(observed.admin);
    peer.write(
        "HEAD /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n",
    );
    assert_eq!(peer.read_head().get("content-type"), Some("text/event-stream"));
    peer.expect_end();
    // By long poll, from where one was.
    let all = observed.json("/api/v1/events");
    let last = all["last"].as_u64().unwrap();
    assert_eq!(all["events"].as_array().unwrap().len() as u64, last);
    assert_eq!(
        observed.json(&format!("/api/v1/events?after={last}"))["events"].as_array().unwrap().len(),
        0
    );
    let waiting = {
        let mut peer = RawPeer::connect(observed.admin);
        peer.write(format!(
            "GET /api/v1/events?after={last}&wait=20s HTTP/1.1\r\nHost: localhost\r\n\r\n"
        ));
        peer
    };
    let _again = observed.gateway.link("lamp");
    let mut waiting = waiting;
    let told: Value = serde_json::from_slice(&waiting.read_answer("GET").body).unwrap();
    assert_eq!(
        (&told["events"][0]["kind"], &told["events"][0]["id"]),
        (&"up".into(), &(last + 1).into())
    );
    // A number of an earlier run of the gateway: everything.
    assert_eq!(observed.json("/api/v1/events?after=99999")["events"][0]["id"], 1);
}

/// Reads a stream up to this text.
#[track_caller]
fn read_events(stream: &mut RawPeer, until: &str) -> String {
    let mut text = String::new();
    while !text.contains(until) {
        text.push_str(&String::from_utf8(stream.read_once()).unwrap());
    }
    text
}

#[test]
fn readiness_ends_with_the_notice_of_a_stop() {
    let mut observed = Observed::start(&["--drain-notice", "20s", "--drain-timeout", "100ms"]);
    for path in ["/healthz", "/readyz"] {
        observed.get(path).expect_ok("ok\n");
    }
    observed.gateway.process.signal("TERM");
    eventually("it is not ready", || (observed.get("/readyz").status() == 503).then_some(()));
    assert_eq!(observed.get("/healthz").status(), 200);
    assert_eq!(observed.json("/api/v1/status")["stopping"], true);
    observed.gateway.process.signal("INT"); // ends the notice
    assert_eq!(observed.gateway.process.exit_code(), 0);
}

#[test]
fn metrics_count_and_their_labels_are_bounded() {
    let observed = Observed::start(&["--metrics-per-device", "2"]);
    let mut links: Vec<RawPeer> =
        ["a", "b", "c"].iter().map(|name| observed.gateway.link(name)).collect();
    exchange(&observed.gateway, &mut links[0], "/a/");
    observed.gateway.get("/nobody/").expect_refusal(404);
    let has = |lines: &[&str]| {
        let text = observed.get("/metrics").text();
        lines.iter().all(|line| text.lines().any(|other| other == *line))
    };
    eventually("the counters", || {
        has(&[
            "ptth_devices_connected 3",
            "ptth_requests_total 2",
            "ptth_responses_total{class=\"2xx\"} 1",
            "ptth_request_failures_total{reason=\"destination_not_found\"} 1",
            "ptth_exchange_duration_seconds_count 2",
            "ptth_device_requests_total{device=\"a\"} 1",
            "ptth_device_up{device=\"b\"} 1",
        ])
        .then_some(())
    });
    assert!(!observed.get("/metrics").text().contains("device=\"c\""), "two devices have series");
    observed.gateway.get("/nobody/").expect_refusal(404);
}

/// What a reader in Python says of an answer: Prometheus' own parser, and the schema.
#[track_caller]
fn read(arguments: &[&str], bytes: &[u8]) -> String {
    let mut reader = Command::new(program("python3"))
        .arg(repository("tests/peers/admin_reader.py"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    reader.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = reader.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(bytes));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn prometheus_parser_and_the_schema_take_every_answer() {
    if !need("python3") || !repository("tests/peers/python_modules/prometheus_client").exists() {
        skipped("prometheus-client (.ci/peers)");
        return;
    }
    let observed = Observed::start(&["--metrics-per-device", "10", "--first-byte", "100ms"]);
    let mut link = observed.gateway.link("lamp");
    exchange(&observed.gateway, &mut link, "/lamp/");
    let _door = observed.gateway.link("door");
    let mut probe = observed.gateway.dial();
    probe.write(get("/"));
    probe.read_answer("GET").expect_refusal(405);
    observed.gateway.get("/lamp/late").expect_refusal(504);
    observed.device("lamp", "two requests", |device| device["requests"] == 2);
    for (name, path) in [
        ("devices", "/api/v1/devices"),
        ("device", "/api/v1/devices/lamp"),
        ("links", "/api/v1/links?device=door"),
        ("routes", "/api/v1/routes"),
        ("limits", "/api/v1/limits"),
        ("events", "/api/v1/events"),
        ("status", "/api/v1/status"),
        ("log-level", "/api/v1/log-level"),
    ] {
        assert_eq!(read(&["json", name], &observed.get(path).body), "right\n", "{path}");
    }
    let folder = TempDir::new("schema");
    let file = folder.0.join("directory");
    std::fs::write(&file, format!("lamp http://127.0.0.1:{}\n", free_port())).unwrap();
    let directory = format!("file:{}", file.display());
    let clustered = Observed::start(&["--directory", &directory, "--wait-for-link", "0s"]);
    let cluster = || clustered.get("/api/v1/cluster").body;
    assert_eq!(read(&["json", "cluster"], &cluster()), "right\n");
    clustered.gateway.get("/lamp/").expect_refusal(503);
    let failed = eventually("a failure", || {
        let told: Value = serde_json::from_slice(&cluster()).unwrap();
        told["peers"][0]["last_failure"].is_object().then(|| told.to_string())
    });
    assert_eq!(read(&["json", "cluster"], failed.as_bytes()), "right\n");
    drop(clustered.gateway.link("lamp"));
    let lamp = clustered.device("lamp", "it is away", |lamp| lamp["elsewhere"].is_object());
    assert_eq!(read(&["json", "device"], lamp.to_string().as_bytes()), "right\n");
    let away = format!("redis://127.0.0.1:{}", free_port());
    let shared = Observed::start(&["--directory", &away]);
    let told = shared.get("/api/v1/cluster");
    assert_eq!(read(&["json", "cluster"], &told.body), "right\n", "{}", told.text());
    #[cfg(feature = "redis")]
    if let Some(redis) = crate::cluster::shared::Redis::start(&[]) {
        let url = redis.url();
        let shared = Observed::start(&["--directory", &url, "--peers", "127.0.0.1:0"]);
        let told = eventually("it has announced itself", || {
            let told: Value = serde_json::from_slice(&shared.get("/api/v1/cluster").body).unwrap();
            told["gateways"][0].is_object().then(|| told.to_string())
        });
        assert_eq!(read(&["json", "cluster"], told.as_bytes()), "right\n", "{told}");
    }
    let action = observed.post("/api/v1/devices/door/drain");
    assert_eq!(read(&["json", "action"], &action.body), "right\n");
    let samples = read(&["metrics"], &observed.get("/metrics").body);
    for sample in ["ptth_requests_total{} 2", "ptth_device_requests_total{device=lamp} 2"] {
        assert!(samples.lines().any(|line| line == sample), "{sample} in\n{samples}");
    }
}

#[test]
fn every_path_of_the_listener_is_in_its_page_of_documentation() {
    let page = std::fs::read_to_string(repository("docs/admin.md")).unwrap();
    let source = std::fs::read_to_string(repository("src/admin/answers.rs")).unwrap();
    let paths = source
        .split('"')
        .filter(|text| text.starts_with('/') && text.len() > 1 && !text.contains([' ', '\n', ':']));
    let missing: Vec<&str> = paths.filter(|path| !page.contains(path)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

// ── What it does ──

#[test]
fn a_device_is_disconnected_or_drained() {
    let observed = Observed::start(&[]);
    let gateway = &observed.gateway;
    // Drained: the idle link gets a goaway, the busy one after its response.
    let mut links = [gateway.link("lamp"), gateway.link("lamp")];
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    links[1].read_head(); // the newest idle link is asked
    assert_eq!(observed.post("/api/v1/devices/lamp/drain").status(), 200);
    assert_eq!(links[0].read_head().get("connection"), Some("close"));
    links[1].write(OK);
    visitor.read_answer("GET").expect_ok("ok");
    links[1].expect_end();
    // Disconnected: at once, whatever it has in hand.
    let mut link = gateway.link("door");
    let mut visitor = gateway.visitor();
    visitor.write(get("/door/x"));
    link.read_head();
    let answer = observed.post("/api/v1/devices/door/disconnect");
    assert_eq!(answer.status(), 200, "{}", answer.text());
    link.expect_end();
    let refused = visitor.read_answer("GET");
    refused.expect_refusal(502);
    assert!(refused.text().contains("operator"), "{}", refused.text());
    let device = observed.device("door", "down", |device| device["state"] == "down");
    assert_eq!(device["cause"], "operator");
    assert_eq!(observed.post("/api/v1/devices/door/explode").status(), 404);
    let none: Value =
        serde_json::from_slice(&observed.post("/api/v1/devices/nobody/drain").body).unwrap();
    assert_eq!(none["connections"], 0);
    gateway.process.expect_stderr("an operator asked for disconnect of door");
}

#[test]
fn a_tunnel_and_the_configuration_are_told() {
    let observed = Observed::start(&[]);
    let mut link = observed.gateway.link("lamp");
    let mut visitor = observed.gateway.visitor();
    let upgrade = "Upgrade: websocket\r\nConnection: upgrade\r\n";
    visitor.write(format!("GET /lamp/ws HTTP/1.1\r\nHost: a\r\n{upgrade}\r\n"));
    link.read_head();
    link.write(format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\n"));
    assert_eq!(visitor.read_head().status(), 101);
    let links = eventually("the tunnel", || {
        let links = observed.json("/api/v1/links?device=lamp");
        (links["links"][0]["state"] == "tunnel").then_some(links)
    });
    assert_eq!(links["links"][0]["exchange"]["path"], "/lamp/ws");
    assert_eq!(observed.json("/api/v1/status")["configuration"]["told"], "read at the start");
    observed.gateway.process.signal("HUP");
    eventually("it was read again", || {
        let told = observed.json("/api/v1/status");
        (told["configuration"]["told"] == "read again, and in force").then_some(())
    });
    assert!(observed.get("/").text().contains("read again, and in force"));
}

#[test]
fn what_a_polling_device_has_in_hand_is_cut_with_it() {
    let observed = Observed::start(&[]);
    let poll = "POST /poller HTTP/1.1\r\nHost: gw.example\r\nAccept: message/http\r\nContent-Length: 0\r\n\r\n";
    let mut polls = [observed.gateway.dial(), observed.gateway.dial()];
    polls.iter_mut().for_each(|peer| peer.write(poll));
    observed.device("poller", "both polls", |device| device["polls"] == 2);
    let mut visitor = observed.gateway.visitor();
    visitor.write(get("/poller/x"));
    observed.device("poller", "a request in hand", |device| device["events_in_hand"] == 1);
    assert_eq!(observed.post("/api/v1/devices/poller/disconnect").status(), 200);
    let refused = visitor.read_answer("GET");
    refused.expect_refusal(502);
    assert!(refused.text().contains("operator"), "{}", refused.text());
    let told = observed.device("poller", "nothing in hand", |device| device["events_in_hand"] == 0);
    assert_eq!((&told["polls"], &told["failures"]["operator"]), (&0.into(), &1.into()), "{told}");
}

#[test]
fn the_level_of_the_log_is_changed_while_it_runs() {
    let observed = Observed::start(&[]);
    assert_eq!(observed.json("/api/v1/log-level")["level"], "info");
    assert_eq!(observed.post("/api/v1/log-level?level=loud").status(), 400);
    assert_eq!(observed.post("/api/v1/log-level?level=debug").status(), 200);
    observed.gateway.get("/nobody/").expect_refusal(404);
    let mut refused = observed.gateway.visitor();
    refused.write("GET /a HTTP/1.1\r\n\r\n");
    refused.read_answer("GET").expect_refusal(400);
    observed.gateway.process.expect_stderr("a visitor's request was refused");
    assert_eq!(observed.post("/api/v1/log-level?level=error").status(), 200);
    let _link = observed.gateway.link("quiet");
    observed.device("quiet", "up", |device| device["state"] == "up");
    assert!(!observed.gateway.process.stderr().contains("quiet: up"));
}

// ── The page ──

#[test]
fn chromium_sees_a_device_come_work_and_go() {
    let playwright = repository("tests/peers/node_modules/playwright-core");
    if !(need("node") && need("chromium") && (playwright.exists() || skipped("playwright-core"))) {
        return;
    }
    let observed = Observed::start(&[]);
    let gateway = &observed.gateway;
    let shots = std::env::var("PTTH_SHOTS").ok();
    let folder = TempDir::new("admin-page");
    let shots = shots.unwrap_or_else(|| folder.0.to_str().unwrap().to_owned());
    let mut browser = Command::new(program("node"))
        .arg(repository("tests/peers/admin_page.js"))
        .args([
            program("chromium").to_str().unwrap(),
            &format!("http://{}", observed.admin),
            &shots,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, output) = (browser.stdin.take().unwrap(), browser.stdout.take().unwrap());
    let mut output = BufReader::new(output).lines();
    let mut step = |step: &str| {
        writeln!(input, "{step}").unwrap();
        let line = output.next().and_then(Result::ok);
        assert_eq!(line.as_deref(), Some(format!("done {step}").as_str()));
    };
    step("open /");
    step("see 0 of 0 devices");
    let mut lamp = gateway.link_with("lamp", "User-Agent: lamp/1.2\r\n");
    let crowd: Vec<RawPeer> = (0..120).map(|n| gateway.link(&format!("sensor-{n}"))).collect();
    step("see 121 of 121 devices");
    step("see lamp/1.2");
    step("see page 1 of 2");
    for n in 0..5 {
        exchange(gateway, &mut lamp, &format!("/lamp/request-{n}"));
    }
    step("shoot devices 1400");
    step("shoot devices-dark 1400 dark");
    step("find sensor-11");
    step("see 11 of 121 devices"); // sensor-11 and sensor-110 to 119
    step("shoot phone 360");
    step("plain /?q=lamp lamp/1.2");
    step("open /devices/lamp");
    step("see /lamp/request-4");
    step("shoot device 1400");
    step("click disconnect");
    step("see operator");
    step("shoot device-phone 360");
    step("open /?state=down");
    step("see 1 of 121 devices");
    drop(crowd);
    step("see 121 of 121 devices");
    drop(input);
    assert_eq!(output.next().and_then(Result::ok).as_deref(), Some("ok"));
    assert!(browser.wait().unwrap().success());
}

// ── Commands ──

#[test]
fn status_and_health_say_in_a_terminal_what_the_listener_says() {
    let observed = Observed::start(&[]);
    let mut link = observed.gateway.link("lamp");
    let _door = observed.gateway.link("door");
    exchange(&observed.gateway, &mut link, "/lamp/x");
    observed.device("lamp", "one request", |device| device["requests"] == 1);
    let at = observed.admin.to_string();
    let run = |arguments: &[&str]| Ptth::run(&[arguments, &["--admin", &at]].concat());
    let (code, out, _) = eventually("a fresh list", || {
        let run = run(&["status", "--sort=-requests"]);
        run.1
            .starts_with("2 devices connected, 2 known, 2 shown; 1 request (0 errors)")
            .then_some(run)
    });
    let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((code, lines[1][0], lines[2][0], lines[3][0]), (0, "name", "lamp", "door"), "{out}");
    assert_eq!(lines[2][1..4], ["up", "upgrade", "1"]);
    let (code, out, _) = run(&["status", "lamp"]);
    assert!(code == 0 && out.contains("/lamp/x") && out.contains("ups and downs"), "{out}");
    let (code, out, _) = run(&["status", "--json", "--limit", "1", "--silent-for", "0s"]);
    let listed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &listed["found"], &listed["limit"]), (0, &2.into(), &1.into()));
    let (code, _, error) = run(&["status", "nobody"]);
    assert!(code == 1 && error.contains("no device of this name"), "{error}");
    assert_eq!(run(&["health"]).0, 0);
    assert_eq!(run(&["health", "--live"]).1, "ok");
    let watched = Ptth::start(&["status", "--watch", "--json", "--admin", &at]);
    for _ in 0..2 {
        assert!(watched.line().starts_with("{\"at\":"));
    }
    drop(observed);
    let (code, _, error) = run(&["health"]);
    assert!(code == 1 && error.contains("is the gateway running with --admin"), "{error}");
    // One that watches goes on, and sees it come back.
    watched.expect_stderr("is the gateway running with --admin");
    let _again = Gateway::start(&["--admin", &at]);
    while !watched.line().contains("\"found\":0") {}
}

#[test]
fn commands_show_a_token_from_a_file_or_the_environment() {
    let folder = TempDir::new("admin-command");
    let (lines, file) = (folder.0.join("tokens"), folder.0.join("token"));
    let (_, out, _) = Ptth::run(&["token", "*"]);
    let (token, line) = out.split_once('\n').unwrap();
    std::fs::write(&lines, line).unwrap();
    std::fs::write(&file, token).unwrap();
    let observed = Observed::start(&["--admin-tokens", lines.to_str().unwrap()]);
    let at = observed.admin.to_string();
    let (code, _, error) = Ptth::run(&["status", "--admin", &at]);
    assert!(code == 2 && error.contains("--admin-token-file"), "{error}");
    let file = file.to_str().unwrap();
    assert_eq!(Ptth::run(&["status", "--admin", &at, "--admin-token-file", file]).0, 0);
    let mut command = Ptth::command(&["status"]);
    let (code, _, error) =
        Ptth::finish(command.env("PTTH_ADMIN", &at).env("PTTH_ADMIN_TOKEN", token));
    assert_eq!(code, 0, "{error}");
    assert_eq!(Ptth::run(&["health", "--admin", &at]).0, 0, "health needs none");
}
