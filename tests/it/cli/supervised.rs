//! What a supervisor hears (sd_notify): a Unix datagram socket plays systemd.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use crate::support::process::get;
use crate::support::{DEADLINE, Gateway, Process, Ptth, TempDir, say};

struct Supervisor(UnixDatagram);

impl Supervisor {
    fn at(dir: &TempDir) -> (Supervisor, String) {
        let path = dir.0.join("notify");
        (Supervisor(UnixDatagram::bind(&path).unwrap()), path.to_str().unwrap().to_owned())
    }

    /// The next message, as it came.
    fn hear_within(&self, time: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(time)).unwrap();
        let mut message = [0; 4096];
        match self.0.recv(&mut message) {
            Ok(n) => Some(String::from_utf8(message[..n].to_vec()).unwrap()),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(e) => panic!("{e}"),
        }
    }

    /// The next message that is no sign of life; it has to have this line.
    #[track_caller]
    fn expect(&self, line: &str) -> String {
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end {
            match self.hear_within(DEADLINE) {
                Some(message) if message == "WATCHDOG=1" => {}
                Some(message) => {
                    assert!(
                        message.lines().any(|l| l == line),
                        "{message:?} where {line} was expected"
                    );
                    return message;
                }
                None => break,
            }
        }
        panic!("{line} was not heard");
    }
}

#[test]
fn a_gateway_tells_its_supervisor_how_it_stands() {
    let dir = TempDir::new("supervised-gateway");
    let (supervisor, path) = Supervisor::at(&dir);
    let mut gateway = Gateway::start_with_env(
        &["--drain-notice", "60s"],
        &[("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "400000"), ("WATCHDOG_PID", "1")],
    );
    let ready = supervisor.expect("READY=1");
    assert!(
        ready.contains(&format!("MAINPID={}", gateway.process.id()))
            && ready.contains(&format!("visitors http://{}", gateway.visitors))
    );
    assert_eq!(
        supervisor.hear_within(Duration::from_millis(500)),
        None,
        "the watchdog is for another process"
    );
    let clock = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
    };
    let before = clock();
    gateway.process.signal("HUP");
    let reloading = supervisor.expect("RELOADING=1");
    let told: u64 =
        reloading.lines().find_map(|l| l.strip_prefix("MONOTONIC_USEC=")).unwrap().parse().unwrap();
    assert!((before..=clock()).contains(&told), "{told} µs where systemd's clock said {before}");
    supervisor.expect("READY=1");
    gateway.process.signal("TERM");
    assert!(supervisor.expect("STOPPING=1").contains("STATUS=stopping"));
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit_code(), 0, "{}", gateway.process.stderr());
}

/// Signs of life within `time`.
fn signs(supervisor: &Supervisor, time: Duration) -> usize {
    let (end, mut heard) = (Instant::now() + time, 0);
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    {
        if let Some(message) = supervisor.hear_within(left) {
            assert_eq!(message, "WATCHDOG=1");
            heard += 1;
        }
    }
    heard
}

/// At half of 400 ms while it runs, none while it is stopped, and again when it goes on.
fn gives_signs_of_life(supervisor: &Supervisor, process: &Process) {
    let goes_on = || {
        (0..4).for_each(|_| {
            assert_eq!(supervisor.hear_within(DEADLINE).as_deref(), Some("WATCHDOG=1"))
        })
    };
    goes_on();
    let running = signs(supervisor, Duration::from_secs(2));
    process.signal("STOP");
    signs(supervisor, Duration::from_millis(50)); // what was under way
    let stopped = signs(supervisor, Duration::from_secs(1));
    process.signal("CONT");
    goes_on();
    let again = signs(supervisor, Duration::from_secs(2));
    say(&format!(
        "signs of life at 200 ms: {running} in 2 s, {stopped} in 1 s while stopped, {again} in 2 s afterwards"
    ));
    // A machine with other work has fewer of them.
    assert!(
        (1..=11).contains(&running) && stopped == 0 && (1..=11).contains(&again),
        "{running}, {stopped}, {again}"
    );
}

#[test]
fn signs_of_life_come_at_half_the_watchdogs_time_and_only_from_a_process_that_runs() {
    let dir = TempDir::new("watched-gateway");
    let (supervisor, path) = Supervisor::at(&dir);
    let gateway = Gateway::start_with_env(
        &[],
        &[("NOTIFY_SOCKET", path.as_str()), ("WATCHDOG_USEC", "400000")],
    );
    supervisor.expect("READY=1");
    gives_signs_of_life(&supervisor, &gateway.process);
    gateway.get("/nobody/").expect_refusal(404);
}

#[test]
fn a_device_tells_its_supervisor_how_it_stands() {
    let dir = TempDir::new("supervised-device");
    let (supervisor, path) = Supervisor::at(&dir);
    let gateway = Gateway::start(&[]);
    let url = gateway.device_url("lamp");
    let mut command = Ptth::command(&["device", &url, "--text", "on", "--backoff", "10ms..50ms"]);
    let mut device =
        Process::start(command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000"));
    assert!(supervisor.expect("READY=1").contains(&format!("STATUS=connecting to {url}")));
    supervisor.expect(&format!("STATUS=connected lamp via {url}"));
    gives_signs_of_life(&supervisor, &device);
    device.signal("HUP");
    supervisor.expect("RELOADING=1");
    supervisor.expect("READY=1");
    gateway.get("/lamp/x").expect_ok("on");
    device.signal("TERM");
    supervisor.expect("STOPPING=1");
    assert_eq!(device.exit_code(), 0, "{}", device.stderr());
    // Ready does not wait for a gateway.
    let mut command = Ptth::command(&["device", "http://127.0.0.1:9/lamp", "--text", "on"]);
    let _device = Process::start(command.env("NOTIFY_SOCKET", &path));
    supervisor.expect("READY=1");
}

#[cfg(target_os = "linux")]
#[test]
fn an_abstract_socket_is_a_supervisor_too_and_none_is_no_reason_to_stop() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    let name = format!("ptth-test-{}", std::process::id());
    let supervisor = Supervisor(
        UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(),
    );
    let gateway = Gateway::start_with_env(&[], &[("NOTIFY_SOCKET", format!("@{name}").as_str())]);
    supervisor.expect("READY=1");
    gateway.get("/nobody/").expect_refusal(404);
    for nowhere in ["/nowhere/notify", "relative", "@", "vsock:1:2"] {
        let mut gateway =
            Gateway::start_with_env(&[], &[("NOTIFY_SOCKET", nowhere), ("WATCHDOG_USEC", "20000")]);
        gateway.process.expect_stderr("supervisor");
        gateway.visitor().ask(&get("/nobody/")).expect_refusal(404);
        gateway.process.signal("TERM");
        assert_eq!(gateway.process.exit_code(), 0, "{nowhere}: {}", gateway.process.stderr());
    }
}
