//! The COMET fallback among real programs: nginx and HAProxy on the way, curl and a shell as
//! devices, a tab of headless Chromium.
//!
//! A peer that is not installed is skipped loudly; under CI (`CI=true`) that is a failure.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::process::get;
use crate::support::{
    Gateway, Hash, LocalServer, Process, Ptth, RawPeer, TempDir, eventually, free_port, need,
    program, repository, skipped,
};

/// A proxy on the way from a device to its gateway.
pub(crate) struct Proxy {
    process: Process,
    port: u16,
    dir: TempDir,
}

impl Proxy {
    /// nginx with what a `location` block has besides `proxy_pass`.
    pub(crate) fn nginx(gateway: &Gateway, directives: &str) -> Proxy {
        eventually("nginx listens on a free port", || {
            let (dir, port) = (TempDir::new("nginx-way"), free_port());
            let path = write_nginx(&dir.0, port, gateway, directives);
            let mut command = Command::new(program("nginx"));
            command
                .arg("-p")
                .arg(&dir.0)
                .arg("-c")
                .arg(path)
                .arg("-e")
                .arg(dir.0.join("error.log"));
            Proxy::start(&mut command, dir, port)
        })
    }

    /// HAProxy in its usual mode, with further lines of its only frontend.
    fn haproxy(gateway: &Gateway, lines: &str) -> Proxy {
        eventually("HAProxy listens on a free port", || {
            let (dir, port) = (TempDir::new("haproxy-way"), free_port());
            let config = format!(
                "defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n timeout tunnel 1h\n\
                 frontend in\n bind 127.0.0.1:{port}\n{lines}\n default_backend gateway\n\
                 backend gateway\n server one {}\n",
                gateway.devices
            );
            let path = dir.0.join("haproxy.cfg");
            std::fs::write(&path, config).unwrap();
            Proxy::start(Command::new(program("haproxy")).arg("-db").arg("-f").arg(path), dir, port)
        })
    }

    /// `None`: somebody else was quicker to take the port.
    fn start(command: &mut Command, dir: TempDir, port: u16) -> Option<Proxy> {
        let mut process = Process::start(command);
        eventually("the proxy is ready or has ended", || {
            (process.has_ended() || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())
                .then_some(())
        });
        if process.has_ended() {
            let log = std::fs::read_to_string(dir.0.join("error.log")).unwrap_or_default()
                + &process.stderr();
            assert!(log.contains("in use") || log.contains("bind"), "the proxy ended: {log}");
            return None;
        }
        Some(Proxy { process, port, dir })
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}", self.port)
    }

    /// A device that goes through this proxy.
    fn device(&self, more: &[&str]) -> Process {
        Ptth::start(&[&["device", &self.url("lamp"), "--backoff", "10ms..200ms"], more].concat())
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(self.dir.0.join("error.log")).unwrap_or_default()
    }
}

fn write_nginx(dir: &Path, port: u16, gateway: &Gateway, directives: &str) -> PathBuf {
    let here = dir.display();
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
         http {{ access_log off; {temporary}\n map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}\n\
         server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{}; {directives} }} }} }}\n",
        gateway.devices
    );
    let path = dir.join("nginx.conf");
    std::fs::write(&path, config).unwrap();
    path
}

/// What nginx's own documentation says an upgrade needs.
pub(crate) const NGINX_PASSES_UPGRADES: &str = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;";

fn connected(url: &str, transport: &str) -> String {
    format!("connected lamp via {url} ({transport})")
}

/// The same for every way: a page, a large answer, an upload, in parallel.
#[track_caller]
fn is_served(gateway: &Gateway) {
    let mut visitor = gateway.visitor();
    for _ in 0..5 {
        visitor.ask(&get("/lamp/x")).expect_ok("hello\n");
    }
    let answer = visitor.ask(&get("/lamp/big?n=3000000"));
    assert_eq!(
        (answer.status(), Hash::of(&answer.body)),
        (200, Hash::of_pattern(3_000_000)),
        "{}",
        answer.head.text()
    );
    let body = vec![b'x'; 200_000];
    visitor.write(format!(
        "POST /lamp/hash HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    visitor.write(&body);
    visitor.read_answer("POST").expect_ok(Hash::of(&body));
    let head = visitor.ask("HEAD /lamp/x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((head.status(), head.body.len()), (200, 0));
    let visitors = gateway.visitors;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(move || {
                RawPeer::connect(visitors).ask(&get("/lamp/x")).expect_ok("hello\n")
            });
        }
    });
}

#[test]
fn behind_nginx_as_it_is_a_device_falls_back_by_itself() {
    if cfg!(not(feature = "comet")) {
        return; // some of it polls in JSON
    }
    if !need("nginx") {
        return;
    }
    let (gateway, local) = (Gateway::start(&[]), LocalServer::start());
    // An answer of more than 1 MiB is one that nginx would refuse (client_max_body_size).
    let proxy = Proxy::nginx(&gateway, "client_max_body_size 0;");
    let device = proxy.device(&["--to", &local.url()]);
    assert_eq!(
        device.line(),
        connected(&proxy.url("lamp"), "COMET message/http"),
        "{}",
        device.stderr()
    );
    is_served(&gateway);
    drop(device);
    let device = proxy.device(&["--to", &local.url(), "--comet", "json"]);
    assert_eq!(device.line(), connected(&proxy.url("lamp"), "COMET json"), "{}", device.stderr());
    is_served(&gateway);
}

#[test]
fn what_nginx_refuses_to_carry_is_told_to_the_visitor() {
    if !need("nginx") {
        return;
    }
    let (gateway, local) = (Gateway::start(&[]), LocalServer::start());
    let proxy = Proxy::nginx(&gateway, "");
    let device = proxy.device(&["--to", &local.url()]);
    assert_eq!(device.line(), connected(&proxy.url("lamp"), "COMET message/http"));
    let answer = gateway.get("/lamp/big?n=3000000");
    assert_eq!(answer.status(), 502, "{}{}", answer.head.text(), answer.text());
    assert!(answer.text().contains("413"), "{}", answer.text());
    gateway.get("/lamp/x").expect_ok("hello\n");
}

#[test]
fn a_poll_is_held_for_its_25_seconds_behind_nginx() {
    if !need("nginx") {
        return;
    }
    let (gateway, local) = (Gateway::start(&[]), LocalServer::start());
    let proxy = Proxy::nginx(&gateway, "");
    let device = proxy.device(&["--to", &local.url()]);
    assert_eq!(device.line(), connected(&proxy.url("lamp"), "COMET message/http"));
    // Nothing may happen for longer than a poll is held; then the next one is there.
    assert_eq!(device.line_within(Duration::from_secs(28)), None, "{}", device.stderr());
    gateway.get("/lamp/x").expect_ok("hello\n");
    assert!(!proxy.errors().contains("timed out"), "{}", proxy.errors());
    assert!(!device.stderr().contains("WARN"), "{}", device.stderr());
}

#[test]
fn an_nginx_that_begins_to_pass_upgrades_is_noticed() {
    if !need("nginx") {
        return;
    }
    let (gateway, local) = (Gateway::start(&["--poll-hold", "300ms"]), LocalServer::start());
    let proxy = Proxy::nginx(&gateway, "");
    let device = proxy.device(&["--to", &local.url()]);
    let url = proxy.url("lamp");
    assert_eq!(device.line(), connected(&url, "COMET message/http"));
    write_nginx(&proxy.dir.0, proxy.port, &gateway, NGINX_PASSES_UPGRADES);
    proxy.process.signal("HUP");
    assert_eq!(device.line(), connected(&url, "PTTH/1.0 turn"), "{}", device.stderr());
    is_served(&gateway);
    // And back: the links live on until nginx's old worker is gone.
    write_nginx(&proxy.dir.0, proxy.port, &gateway, "client_max_body_size 0;");
    proxy.process.signal("HUP");
    is_served(&gateway);
    drop(proxy);
    eventually("the gateway sees the device go", || {
        gateway.process.stderr().contains("lamp: down").then_some(())
    });
}

#[test]
fn behind_haproxy_it_is_the_same() {
    if !need("haproxy") {
        return;
    }
    let (gateway, local) = (Gateway::start(&["--poll-hold", "300ms"]), LocalServer::start());
    let proxy = Proxy::haproxy(&gateway, " http-request del-header Upgrade");
    let device = proxy.device(&["--to", &local.url()]);
    assert_eq!(
        device.line(),
        connected(&proxy.url("lamp"), "COMET message/http"),
        "{}",
        device.stderr()
    );
    is_served(&gateway);
    drop((device, proxy));
    // As it comes, HAProxy passes an upgrade.
    let proxy = Proxy::haproxy(&gateway, "");
    let device = proxy.device(&["--to", &local.url()]);
    assert_eq!(
        device.line(),
        connected(&proxy.url("lamp"), "PTTH/1.0 turn"),
        "{}",
        device.stderr()
    );
    is_served(&gateway);
}

/// Runs curl to its end: head and body of what it got.
fn curl(arguments: &[&str]) -> std::process::Child {
    let mut command = Command::new("curl");
    command.args(["-sS", "-i", "--noproxy", "*", "--max-time", "20"]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn output(child: std::process::Child) -> String {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn curl_is_a_device_in_both_versions_and_encodings() {
    if cfg!(not(feature = "comet")) {
        return; // some of it polls in JSON
    }
    if !need("curl") {
        return;
    }
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let url = gateway.device_url("lamp");
    // A first poll makes the name known; the requests wait for the next ones.
    let mut device = curl(&["-X", "POST", "-H", "Accept: message/http", &url]);
    eventually("the gateway knows the device", || {
        gateway.process.stderr().contains("lamp: up").then_some(())
    });
    for (version, accept) in [
        ("--http1.0", "message/http"),
        ("--http1.1", "application/json"),
        ("--http1.0", "application/json"),
    ] {
        let visitors = gateway.visitors;
        let visitor =
            std::thread::spawn(move || RawPeer::connect(visitors).ask(&get("/lamp/status")));
        let event = output(device);
        let (content_type, answer, id) = if event.contains("Content-Type: message/http") {
            let id = event
                .lines()
                .find_map(|line| line.strip_prefix("PTTH-Message-ID: "))
                .unwrap()
                .trim()
                .to_owned();
            assert!(event.contains("\r\nGET /status HTTP/1.1\r\n"), "{event}");
            ("message/http", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\non".to_owned(), id)
        } else {
            let id = event.split("\"message-id\": \"").nth(1).unwrap()[..32].to_owned();
            assert!(event.contains("\"request-uri\": \"/status\""), "{event}");
            (
                "application/json",
                format!(
                    "{{\"message-id\": \"{id}\", \"status\": 200, \"headers\": [], \"body\": \"on\"}}"
                ),
                id,
            )
        };
        // The answer's POST asks for the next request, in another version and encoding.
        let fields = [
            format!("Content-Type: {content_type}"),
            format!("PTTH-Message-ID: {id}"),
            format!("Accept: {accept}"),
        ];
        let fields: Vec<&str> = fields.iter().flat_map(|field| ["-H", field]).collect();
        device = curl(&[&[version, "--data-binary", &answer, &url], fields.as_slice()].concat());
        visitor.join().unwrap().expect_ok("on");
    }
    device.kill().unwrap();
    device.wait().unwrap();
}

#[test]
fn the_shell_example_is_a_device() {
    if !need("curl") {
        return;
    }
    let script = repository("examples/device.sh");
    assert!(
        std::fs::read_to_string(&script).unwrap().lines().count() < 30,
        "the example is to stay under thirty lines"
    );
    let gateway = Gateway::start(&["--poll-hold", "500ms", "--wait-for-link", "9s"]);
    let mut device =
        Process::start(Command::new("sh").arg(&script).arg(gateway.device_url("shell")));
    eventually("the gateway knows the device", || {
        gateway.process.stderr().contains("shell: up").then_some(())
    });
    let mut visitor = gateway.visitor();
    for path in ["/uptime", "/again?x=1"] {
        let answer = visitor.ask(&get(&format!("/shell{path}")));
        assert!(
            answer.text().starts_with(&format!("you asked the shell for {path}\n")),
            "{}{}",
            answer.head.text(),
            answer.text()
        );
    }
    let head = visitor.ask("HEAD /shell/x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((head.status(), head.body.len()), (200, 0));
    visitor.write("POST /shell/post HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(visitor.read_answer("POST").status(), 200);
    // Several at once wait for their turn; polls that bring nothing go by in between.
    let visitors = gateway.visitors;
    std::thread::scope(|scope| {
        for n in 0..5 {
            scope.spawn(move || {
                assert_eq!(
                    RawPeer::connect(visitors).ask(&get(&format!("/shell/{n}"))).status(),
                    200
                )
            });
        }
    });
    assert!(!device.has_ended(), "{}", device.stderr());
}

#[test]
fn a_tab_of_chromium_is_a_device() {
    if cfg!(not(feature = "comet")) {
        return; // some of it polls in JSON
    }
    if !need("chromium") || !need("node") {
        return;
    }
    if !repository("tests/peers/node_modules/playwright-core/package.json").exists() {
        skipped("playwright-core (from npm)");
        return;
    }
    let example = Path::new(env!("CARGO_BIN_EXE_ptth")).with_file_name("examples").join("browser");
    if !example.exists() {
        skipped("the example `browser` (cargo build --all-features --examples)");
        return;
    }
    let (devices, visitors) =
        (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let gateway = Process::start(Command::new(example).args([&devices, &visitors, "120"]));
    assert!(gateway.line().contains(&format!("http://{visitors}/page/")), "{}", gateway.stderr());
    let screenshot = TempDir::new("chromium");
    let picture = screenshot.0.join("tab.png");
    let urls = [
        format!("http://{visitors}/page/"),
        format!("http://{devices}"),
        format!("http://{visitors}"),
    ];
    let mut driver = Process::start(
        Command::new("node")
            .arg(repository("tests/peers/browser.js"))
            .arg(program("chromium"))
            .args(urls)
            .arg(&picture),
    );
    let code = driver.exit_code_within(Duration::from_secs(180));
    assert_eq!(
        (code, driver.all_lines().join(" ")),
        (0, "connected answered refused ok".to_owned()),
        "{}",
        driver.stderr()
    );
    let png = std::fs::read(picture).unwrap();
    assert!(
        png.starts_with(b"\x89PNG") && png.len() > 5_000,
        "a screenshot of {} bytes",
        png.len()
    );
}
