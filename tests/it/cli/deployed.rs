//! The files of deploy/: each is validated, and where its program is installed, run.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::pki::NOW;
use crate::support::{
    Authority, Gateway, LocalServer, Pair, Process, Ptth, TempDir, eventually, free_port, need,
    program, repository,
};

fn file(name: &str) -> String {
    std::fs::read_to_string(repository("deploy").join(name)).unwrap()
}

/// Writes a file of deploy/ with other words in some places, each of which it has.
fn adapted(name: &str, to: &Path, changes: &[(&str, &str)]) -> PathBuf {
    let mut text = file(name);
    for (there, here) in changes {
        assert!(text.contains(there), "{name} has no {there}");
        text = text.replace(there, here);
    }
    let path = to.join(Path::new(name).file_name().unwrap());
    std::fs::write(&path, text).unwrap();
    path
}

/// Runs a program to its end: whether it was content, and all that it said.
fn run(command: &mut Command) -> (bool, String) {
    let out = command.output().unwrap();
    let said = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[track_caller]
fn succeeds(command: &mut Command) -> String {
    let (content, said) = run(command);
    assert!(content, "{command:?}: {said}");
    said
}

// ── nginx, HAProxy, Caddy ──

/// A proxy before both ports of a gateway, at one port of its own for each of two hosts: localhost
/// for devices, devices.example for visitors.
struct Front<'a> {
    gateway: &'a Gateway,
    pair: &'a Pair,
    dir: TempDir,
    port: u16,
}

impl Front<'_> {
    /// With what stands in the files for what is here; `listen`: how they say their port.
    fn config(&self, name: &str, more: &[(&str, String)]) -> PathBuf {
        let (visitors, devices) =
            (self.gateway.visitors.to_string(), self.gateway.devices.to_string());
        let mut changes = vec![
            ("127.0.0.1:8080", &*visitors),
            ("127.0.0.1:9999", &*devices),
            ("gw.example", "localhost"),
        ];
        changes.extend(more.iter().map(|(there, here)| (*there, here.as_str())));
        adapted(name, &self.dir.0, &changes)
    }

    fn nginx(&self) -> Command {
        let here = self.dir.0.display();
        let listen = format!("listen 127.0.0.1:{} ssl", self.port);
        let own = self.config(
            "proxies/nginx.conf",
            &[
                ("listen 443 ssl", listen),
                ("/etc/nginx/devices.crt", self.pair.certificate().to_owned()),
                ("/etc/nginx/devices.key", self.pair.key().to_owned()),
                ("/etc/nginx/gw.crt", self.pair.certificate().to_owned()),
                ("/etc/nginx/gw.key", self.pair.key().to_owned()),
            ],
        );
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|n| format!("{n}_temp_path {here}/{n};"))
            .join(" ");
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|m| m.uid() == 0);
        let user = if is_root { "user root;" } else { "" };
        let config = format!(
            "daemon off; {user} worker_processes 1; pid {here}/pid; error_log {here}/error.log;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; {temporary} include {}; }}\n",
            own.display()
        );
        let path = self.dir.0.join("main.conf");
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new(program("nginx"));
        command.arg("-p").arg(&self.dir.0).arg("-c").arg(path);
        command.arg("-e").arg(self.dir.0.join("error.log"));
        command
    }

    fn haproxy(&self) -> Command {
        let both = self.dir.0.join("both.pem");
        std::fs::write(&both, [&*self.pair.certificate_pem, &self.pair.key_pem].concat()).unwrap();
        let config = self.config(
            "proxies/haproxy.cfg",
            &[
                ("bind :443", format!("bind 127.0.0.1:{}", self.port)),
                ("/etc/haproxy/certs/", both.display().to_string()),
            ],
        );
        let mut command = Command::new(program("haproxy"));
        command.arg("-db").arg("-f").arg(config);
        command
    }

    fn caddy(&self) -> Command {
        let tls =
            format!("bind 127.0.0.1\n\ttls {} {}\n", self.pair.certificate(), self.pair.key());
        let config = self.config(
            "proxies/Caddyfile",
            &[
                (
                    "devices.example {\n",
                    format!("https://devices.example:{} {{\n\t{tls}", self.port),
                ),
                ("localhost {\n", format!("https://localhost:{} {{\n\t{tls}", self.port)),
            ],
        );
        let global = "{\n\tadmin off\n\tauto_https off\n\tskip_install_trust\n}\n";
        let text = global.to_owned() + &std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(program("caddy"));
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(config);
        command.env("HOME", &self.dir.0).env("XDG_DATA_HOME", &self.dir.0);
        command
    }

    /// `None`: somebody else was quicker to take the port.
    fn start(command: &mut Command, front: &Front<'_>) -> Option<Process> {
        let mut process = Process::start(command);
        eventually("the proxy is ready or has ended", || {
            let listens = std::net::TcpStream::connect(("127.0.0.1", front.port)).is_ok();
            (process.has_ended() || listens).then_some(())
        });
        if process.has_ended() {
            let log = std::fs::read_to_string(front.dir.0.join("error.log")).unwrap_or_default()
                + &process.stderr();
            assert!(log.contains("in use") || log.contains("bind"), "the proxy ended: {log}");
            return None;
        }
        Some(process)
    }
}

/// A device turns through it, and a visitor is told to the local server as who it is, whatever it
/// says of itself.
fn carries_both(name: &str, command: impl Fn(&Front<'_>) -> Command) {
    if !need(name) || !need("curl") {
        return;
    }
    let authority = Authority::new();
    let pair = authority.issue("proxy", &["localhost", "devices.example"], NOW);
    let gateway =
        Gateway::start(&["--trusted-proxies", "127.0.0.1", "--health-path", "/ptth-health"]);
    let local = LocalServer::start();
    let (front, _proxy) = eventually("the proxy has a port", || {
        let (dir, port) = (TempDir::new(name), free_port());
        let front = Front { gateway: &gateway, pair: &pair, dir, port };
        let process = Front::start(&mut command(&front), &front)?;
        Some((front, process))
    });
    let url = format!("https://localhost:{}/lamp", front.port);
    let device = Ptth::start(&[
        "device",
        &url,
        "--ca",
        authority.ca(),
        "--to",
        &local.url(),
        "--backoff",
        "10ms..200ms",
    ]);
    assert_eq!(device.line(), format!("connected lamp via {url} (PTTH/1.0 turn)"));
    let at = format!("devices.example:{}", front.port);
    let ask = |target: &str, more: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--http1.1", "--noproxy", "*", "--max-time", "30"]);
        curl.args(["--cacert", authority.ca()]);
        curl.args(["--resolve", &format!("{at}:127.0.0.1")]).args(more);
        curl.arg(format!("https://{at}{target}"));
        eventually("the proxy finds the gateway up", || {
            let said = succeeds(&mut curl);
            (!said.contains("503 Service Unavailable")).then_some(said)
        })
    };
    let forged = [
        "-H",
        "X-Forwarded-For: 198.51.100.6",
        "-H",
        "X-Forwarded-Proto: gopher",
        "-H",
        "X-Forwarded-Host: forged.example",
        "-H",
        "Forwarded: for=198.51.100.6",
    ];
    let head = ask("/lamp/echo", &forged).to_lowercase();
    for field in [
        "get /echo http/1.1".to_owned(),
        "x-forwarded-for: 127.0.0.1, 127.0.0.1\r\n".to_owned(),
        "x-forwarded-proto: https\r\n".to_owned(),
        format!("x-forwarded-host: {at}\r\n"),
    ] {
        assert!(head.contains(&field), "no {field:?} in {head}");
    }
    for lie in ["198.51.100.6", "gopher", "forged.example"] {
        assert!(!head.contains(lie), "{lie} in {head}");
    }
    let size = ["-o", "/dev/null", "-w", "%{size_download}"];
    assert_eq!(ask("/lamp/big?n=3000000", &size), "3000000");
    let upload = front.dir.0.join("upload");
    std::fs::write(&upload, vec![b'x'; 3_000_000]).unwrap();
    let data = format!("@{}", upload.display());
    let told = ask("/lamp/hash", &["--data-binary", &data]);
    assert!(told.starts_with("3000000"), "{told}");
}

#[test]
fn nginx_carries_visitors_and_devices() {
    carries_both("nginx", |front| front.nginx());
}

#[test]
fn haproxy_carries_visitors_and_devices() {
    carries_both("haproxy", |front| front.haproxy());
}

#[test]
fn caddy_carries_visitors_and_devices() {
    carries_both("caddy", |front| front.caddy());
}

// ── Files of options ──

#[test]
fn the_files_of_options_are_valid() {
    let dir = TempDir::new("deployed-etc");
    let here = dir.0.to_str().unwrap();
    let token = reverse_http::Tokens::generate().unwrap();
    std::fs::write(dir.0.join("tokens"), reverse_http::Tokens::line(&token, "lamp").unwrap())
        .unwrap();
    std::fs::write(dir.0.join("lamp.token"), token).unwrap();
    for (role, name) in [("gateway", "etc/gateway.toml"), ("device", "etc/device.toml")] {
        let mut changes = vec![("/etc/ptth", here)];
        if role == "gateway" {
            changes.push(("/var/log/ptth", here));
        }
        let path = adapted(name, &dir.0, &changes);
        let (code, _, said) = Ptth::run(&[role, "--check", "--config", path.to_str().unwrap()]);
        assert_eq!((code, said.contains("WARN")), (0, false), "{name}: {said}");
    }
}

// ── systemd ──

/// Validates the units, and holds `systemd-analyze security` to what docs/deployment.md says.
#[test]
fn the_units_are_valid_and_confined() {
    if !need("systemd-analyze") {
        return;
    }
    let root = TempDir::new("deployed-units");
    let units = root.0.join("usr/lib/systemd/system");
    for folder in ["usr/bin", "bin", "etc"] {
        std::fs::create_dir_all(root.0.join(folder)).unwrap();
    }
    std::fs::create_dir_all(&units).unwrap();
    succeeds(Command::new("sh").args(["-c", "cp -a /usr/lib/systemd/system/. \"$0\""]).arg(&units));
    for unit in ["ptth-gateway.service", "ptth-device@.service"] {
        adapted(&format!("systemd/{unit}"), &units, &[("/usr/bin/ptth", "/usr/bin/ptth")]);
    }
    for program in ["usr/bin/ptth", "bin/kill"] {
        std::fs::copy("/bin/true", root.0.join(program)).unwrap(); // only that it is there matters
    }
    std::fs::write(root.0.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nptth:x:990:990::/:/bin/sh\n")
        .unwrap();
    std::fs::write(root.0.join("etc/group"), "root:x:0:\nptth:x:990:\n").unwrap();
    for (unit, tenths) in [("ptth-gateway.service", 14), ("ptth-device@lamp.service", 12)] {
        let option = format!("--root={}", root.0.display());
        let (valid, said) = run(Command::new("systemd-analyze").args(["verify", &option, unit]));
        assert!(valid && !said.contains("ptth"), "{said}");
        let threshold = format!("--threshold={tenths}");
        let (confined, said) = run(Command::new("systemd-analyze").args([
            "security",
            "--offline=yes",
            &threshold,
            &option,
            unit,
        ]));
        assert!(confined, "{said}");
    }
}

// ── logrotate ──

#[test]
fn logrotate_moves_the_access_log_away_and_loses_no_line() {
    if !need("logrotate") {
        return;
    }
    let dir = TempDir::new("deployed-logs");
    let log = dir.0.join("access.log");
    let gateway = Gateway::start(&["--access-log", log.to_str().unwrap()]);
    let has = |name: &str, target: &str| {
        eventually("the line is there", || {
            let text = std::fs::read_to_string(dir.0.join(name)).unwrap_or_default();
            text.contains(target).then_some(text)
        })
    };
    assert_eq!(gateway.get("/before/x").status(), 404);
    has("access.log", "/before/x");
    let here = dir.0.to_str().unwrap();
    let reload = format!("kill -HUP {}", gateway.process.id());
    let me = std::fs::metadata(&dir.0).unwrap();
    let name = |command: &str, number: u32| {
        let entry = succeeds(Command::new("getent").args([command, &number.to_string()]));
        entry.split(':').next().unwrap().to_owned()
    };
    let owner = format!("{} {}", name("passwd", me.uid()), name("group", me.gid()));
    let rotation = adapted(
        "logrotate",
        &dir.0,
        &[
            ("/var/log/ptth", here),
            ("systemctl reload ptth-gateway.service", &reload),
            ("ptth ptth", &owner),
        ],
    );
    let state = dir.0.join("state");
    succeeds(
        Command::new(program("logrotate")).args(["--force", "--state"]).arg(state).arg(rotation),
    );
    // Its old file has every line until the new one is open.
    eventually("the gateway has the new file", || {
        assert_eq!(gateway.get("/after/x").status(), 404);
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("/after")).then_some(())
    });
    assert!(has("access.log.1", "/before/x").contains("/before/x"));
    assert!(!std::fs::read_to_string(&log).unwrap().contains("/before/x"));
}

// ── OpenWrt ──

/// What procd would be told, by functions that write their arguments down, in BusyBox's shell where
/// it is installed. As on a router, `config_load` needs `append`, which is there before the script.
const PROCD: &str = r#"
append() { eval "$1=\"\${$1:+\$$1 }$2\""; }
config() { append "sections_$1" "$2"; }
config_load() { [ "$1" = ptth ] && config device lamp && config device off && config device empty && config gateway main; }
config_foreach() { local section; for section in $(eval echo "\$sections_$2"); do "$1" "$section"; done; }
config_get() { eval "$1=\${$2_$3:-$4}"; }
config_get_bool() { config_get "$@"; }
config_list_foreach() { local section=$1 list=$2 function=$3 value; shift 3; for value in $(eval echo "\$$(echo "${section}_$list")"); do "$function" "$value" "$@"; done; }
procd_open_instance() { echo "instance $1"; }
procd_set_param() { echo "$@"; }
procd_append_param() { echo "$@"; }
procd_close_instance() { echo end; }
logger() { echo "logged: $*"; }
lamp_enabled=1; lamp_url=http://gw.example/lamp; lamp_to="http://127.0.0.1:80 /api=http://127.0.0.1:81"
lamp_to_connections=1; lamp_tcp=ssh=127.0.0.1:22
off_enabled=0; off_url=http://gw.example/off
empty_enabled=1
main_enabled=1
"#;

#[test]
fn openwrts_script_starts_what_its_sections_say() {
    let script = repository("deploy/openwrt/ptth.init");
    let mut busybox = Command::new("busybox");
    busybox.arg("sh");
    let shells =
        if need("busybox") { vec![busybox, Command::new("sh")] } else { vec![Command::new("sh")] };
    for mut shell in shells {
        let text = format!("{PROCD}. {}\nstart_service", script.display());
        let said = succeeds(shell.arg("-c").arg(text));
        let words = |from: &str| {
            let part = said.split(from).nth(1).unwrap().split("\nend").next().unwrap().to_owned();
            let lines = part.lines().filter_map(|line| line.strip_prefix("command "));
            lines.flat_map(|line| line.split(' ').map(str::to_owned)).collect::<Vec<_>>()
        };
        let lamp = words("instance lamp\n");
        assert_eq!(lamp[0], "/usr/bin/ptth");
        let lamp: Vec<&str> = lamp[1..].iter().map(String::as_str).collect();
        assert_eq!(
            lamp.join(" "),
            "device http://gw.example/lamp --on-refusal retry --to-connections 1 \
             --to http://127.0.0.1:80 --to /api=http://127.0.0.1:81 --tcp ssh=127.0.0.1:22"
        );
        let (code, _, error) = Ptth::run(&[&lamp[..], &["--check"]].concat());
        assert_eq!(code, 0, "{error}");
        assert!(said.contains("user nobody\nno_new_privs 1"), "{said}");
        assert!(!said.contains("instance off") && said.contains("logged: -t ptth section empty"));
        assert_eq!(
            words("instance main\n").join(" "),
            "/usr/bin/ptth gateway --config /etc/ptth/gateway.toml --drain-notice 0s"
        );
    }
    // Every option that a section may have is one of the command.
    let known = Ptth::run(&["device", "--help"]).1;
    for line in file("openwrt/ptth.init").lines().map(str::trim) {
        if let Some(option) = line.strip_prefix("add \"$1\" ") {
            assert!(known.contains(&format!("--{} ", option.replace('_', "-"))), "{option}");
        }
    }
    if need("shellcheck") {
        succeeds(
            Command::new("shellcheck").args(["-s", "dash", "-e", "SC2034,SC3043"]).arg(script),
        );
    }
}
