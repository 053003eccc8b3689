//! What may befall a process: killed, stopped and continued, nowhere to write to, a root that is
//! read-only (T40).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::process::get;
use crate::support::{
    DEADLINE, Gateway, LocalServer, Process, Ptth, RawGateway, RawPeer, eventually,
    eventually_within, free_port, say, skipped,
};

/// A process whose outputs are not the test's.
struct Bare(Child);

impl Bare {
    fn start(command: &mut Command, out: Stdio, err: Stdio) -> Bare {
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        // Another test's copy of a program may be busy for a moment.
        Bare(eventually("it starts", || command.spawn().ok()))
    }

    #[track_caller]
    fn ends_on_sigterm(&mut self) {
        Command::new("sh").args(["-c", &format!("kill -TERM {}", self.0.id())]).status().unwrap();
        let status = eventually("it ends on SIGTERM", || self.0.try_wait().unwrap());
        assert_eq!(status.code(), Some(0), "{status}");
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A gateway with these addresses that says where it is to nobody.
fn gateway_command(more: &[&str]) -> (Command, SocketAddr, SocketAddr) {
    let (devices, visitors) =
        (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let arguments = [
        &[
            "gateway",
            "--devices",
            &devices,
            "--visitors",
            &visitors,
            "--drain-notice",
            "0s",
            "--drain-timeout",
            "1s",
        ],
        more,
    ]
    .concat();
    (Ptth::command(&arguments), devices.parse().unwrap(), visitors.parse().unwrap())
}

#[track_caller]
fn listens(at: SocketAddr) {
    eventually("it listens", || TcpStream::connect(at).ok());
}

#[track_caller]
fn serves(visitors: SocketAddr, target: &str, body: &str) {
    eventually(&format!("{target} is served"), || {
        let answer = RawPeer::connect(visitors).ask(&get(target));
        (answer.status() == 200 && answer.text() == body).then_some(())
    });
}

#[test]
fn outputs_that_take_nothing_stop_neither_side() {
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let (mut command, devices, visitors) = gateway_command(&[]);
    let mut gateway = Bare::start(command.env("RUST_LOG", "debug"), full(), full());
    listens(visitors);
    let url = format!("http://{devices}/lamp");
    let mut command = Ptth::command(&["device", &url, "--text", "on", "--backoff", "10ms..50ms"]);
    let mut device = Bare::start(command.env("RUST_LOG", "debug"), full(), full());
    serves(visitors, "/lamp/x", "on");
    device.ends_on_sigterm();
    gateway.ends_on_sigterm();
    // A failure keeps its exit code.
    let mut wrong =
        Bare::start(&mut Ptth::command(&["device", "nonsense", "--text", "on"]), full(), full());
    assert_eq!(eventually("it ends", || wrong.0.try_wait().unwrap()).code(), Some(2));
}

/// A pipe that nobody empties is worse than one that is closed: every writer waits.
#[test]
fn a_log_that_nobody_reads_stops_neither_side() {
    let (mut command, devices, visitors) = gateway_command(&[]);
    let mut gateway = Bare::start(command.env("RUST_LOG", "trace"), Stdio::piped(), Stdio::piped());
    listens(visitors);
    let url = format!("http://{devices}/lamp");
    let mut command = Ptth::command(&[
        "device",
        &url,
        "--text",
        "on",
        "--backoff",
        "1ms..5ms",
        "--links",
        "1..4",
    ]);
    let mut device = Bare::start(command.env("RUST_LOG", "trace"), Stdio::piped(), Stdio::piped());
    serves(visitors, "/lamp/x", "on");
    // Each refusal is a line; a pipe holds 64 KiB, and as many lines as wait for it are held
    // besides.
    let mut visitor = RawPeer::connect(visitors);
    for _ in 0..3_000 {
        visitor.ask(&get("/-/")).expect_refusal(400);
        visitor = RawPeer::connect(visitors);
    }
    serves(visitors, "/lamp/x", "on");
    device.ends_on_sigterm();
    gateway.ends_on_sigterm();
}

#[test]
fn either_side_may_be_killed() {
    let (devices, visitors) =
        (format!("127.0.0.1:{}", free_port()), format!("127.0.0.1:{}", free_port()));
    let start = || {
        let gateway = Ptth::start(&[
            "gateway",
            "--devices",
            &devices,
            "--visitors",
            &visitors,
            "--drain-notice",
            "0s",
        ]);
        gateway.line();
        gateway
    };
    let mut gateway = start();
    let url = format!("http://{devices}/lamp");
    let dial = || Ptth::start(&["device", &url, "--text", "on", "--backoff", "10ms..100ms"]);
    let mut device = dial();
    let at: SocketAddr = visitors.parse().unwrap();
    serves(at, "/lamp/x", "on");
    // The gateway: its device comes back by itself.
    gateway.signal("KILL");
    eventually("it is dead", || gateway.has_ended().then_some(()));
    let then = Instant::now();
    let gateway = start();
    serves(at, "/lamp/x", "on");
    say(&format!(
        "after a killed gateway was started again its device answered within {:?}",
        then.elapsed()
    ));
    assert!(!device.has_ended());
    // The device: its successor has the name at once.
    device.signal("KILL");
    eventually("it is dead", || device.has_ended().then_some(()));
    let then = Instant::now();
    let _device = dial();
    serves(at, "/lamp/x", "on");
    say(&format!(
        "after a killed device was started again it answered within {:?}",
        then.elapsed()
    ));
    drop(gateway);
}

/// Longer than every deadline that is configured.
const STOPPED: Duration = Duration::from_secs(5);

#[test]
fn a_gateway_that_was_stopped_and_goes_on_has_ended_nothing() {
    let (release, hold) = std::sync::mpsc::channel::<()>();
    let hold = std::sync::Mutex::new(hold);
    let local = LocalServer::with(move |c| {
        if c.head.target() == "/slow" {
            let _ = hold.lock().unwrap().recv_timeout(Duration::from_secs(60));
        }
        c.text("on");
    });
    let gateway = Gateway::start(&[
        "--head",
        "2s",
        "--idle-visitor",
        "3s",
        "--first-byte",
        "3s",
        "--body-silence",
        "3s",
        "--heartbeat",
        "2s",
        "--heartbeat-timeout",
        "2s",
        "--poll-hold",
        "2s",
        "--exchange",
        "4s",
    ]);
    let device = Ptth::device(&gateway, "lamp", &["--to", &local.url(), "--links", "2..4"]);
    let url = gateway.device_url("poller");
    let poller = Ptth::start(&["device", &url, "--text", "polled", "--fallback", "only"]);
    assert!(poller.line().starts_with("connected poller"));
    let (mut idle, mut waiting, mut half) =
        (gateway.visitor(), gateway.visitor(), gateway.visitor());
    idle.ask(&get("/lamp/x")).expect_ok("on");
    waiting.write(get("/lamp/slow"));
    eventually("the local server was asked", || (local.count() == 2).then_some(()));
    half.write("GET /lamp/x HTTP/1.1\r\nHost: a");
    gateway.get("/nobody/").expect_refusal(404); // what was written before has been read
    gateway.process.signal("STOP");
    std::thread::sleep(STOPPED); // how long it is stopped
    gateway.process.signal("CONT");
    idle.ask(&get("/lamp/x")).expect_ok("on");
    half.write("\r\n\r\n");
    half.read_answer("GET").expect_ok("on");
    release.send(()).unwrap();
    waiting.read_answer("GET").expect_ok("on");
    gateway.get("/poller/x").expect_ok("polled");
    gateway.process.expect_stderr("the event loop stood still for");
    for process in [&device, &poller] {
        assert!(!process.stderr().contains("disconnected"), "{}", process.stderr());
    }
    assert!(!gateway.process.stderr().contains("down"), "{}", gateway.process.stderr());
}

#[test]
fn a_device_that_was_stopped_comes_back_by_itself() {
    let gateway = Gateway::start(&[
        "--heartbeat",
        "500ms",
        "--heartbeat-timeout",
        "500ms",
        "--first-byte",
        "500ms",
        "--wait-for-link",
        "10ms",
    ]);
    let device = Ptth::device(&gateway, "lamp", &["--text", "on"]);
    device.signal("STOP");
    // The gateway notices: nobody waits for it longer than is configured.
    eventually("the gateway misses it", || (gateway.get("/lamp/x").status() == 503).then_some(()));
    device.signal("CONT");
    serves(gateway.visitors, "/lamp/x", "on");
}

/// It waits for nothing but its gateway, which has given up its link when it goes on.
#[test]
fn a_device_that_was_frozen_while_it_idled_says_so() {
    let gateway = RawGateway::start();
    let device = Ptth::start(&["device", &gateway.url("lamp"), "--text", "on"]);
    let link = gateway.turn();
    device.line_like("connected");
    assert!(!device.stderr().contains("stood still"), "{}", device.stderr());
    device.signal("STOP");
    std::thread::sleep(Duration::from_millis(6_500)); // how long it is frozen: longer than a loop sleeps
    drop(link);
    device.signal("CONT");
    device.expect_stderr("the event loop stood still for");
    gateway.turn();
}

/// Whether this process may make a mount namespace, and what is in it read-only.
fn read_only_root() -> Option<Vec<String>> {
    let made: Vec<String> = [
        "unshare",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        "mount -o remount,bind,ro / && ! touch /tmp/ptth-read-only && exec \"$@\"",
        "sh",
    ]
    .map(str::to_owned)
    .into();
    let works = Command::new(&made[0])
        .args(&made[1..])
        .arg("true")
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    works.then_some(made)
}

#[test]
fn a_read_only_root_is_enough() {
    let Some(made) = read_only_root() else {
        skipped("mount namespaces (root is needed)");
        return;
    };
    let inside = |arguments: &[&str]| {
        let mut command = Command::new(&made[0]);
        command.args(&made[1..]).arg(env!("CARGO_BIN_EXE_ptth")).args(arguments);
        Process::start(&mut command)
    };
    let mut gateway = inside(&[
        "gateway",
        "--devices",
        "127.0.0.1:0",
        "--visitors",
        "127.0.0.1:0",
        "--drain-notice",
        "0s",
        "--drain-timeout",
        "1s",
    ]);
    let devices = gateway.line().replace("devices ", "");
    let visitors: SocketAddr = gateway.line().replace("visitors http://", "").parse().unwrap();
    let mut device = inside(&["device", &format!("{devices}/lamp"), "--text", "on"]);
    assert!(device.line_within(DEADLINE).is_some(), "{}", device.stderr());
    serves(visitors, "/lamp/x", "on");
    for process in [&mut device, &mut gateway] {
        process.signal("TERM");
        eventually_within(DEADLINE, "it ends", || process.has_ended().then_some(()));
        assert_eq!(process.exit_code(), 0, "{}", process.stderr());
    }
}
