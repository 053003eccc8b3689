//! Started programs: their lines of output with a deadline, their end by SIGTERM and, where that
//! does not help, by SIGKILL.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::raw::{Answer, RawPeer};
use super::{DEADLINE, START, SWITCH, eventually, eventually_within};

/// A program that runs until the test is over.
pub struct Process {
    child: Child,
    name: String,
    /// Behind a lock, so that threads may share the process.
    lines: Mutex<Receiver<String>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    /// Reads standard error.
    reader: std::thread::JoinHandle<()>,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts it with both outputs captured and no input.
    #[track_caller]
    pub fn start(command: &mut Command) -> Process {
        let name = format!("{command:?}");
        let mut child = spawn(command, &name);
        let stdout = child.stdout.take().unwrap();
        Process::watch(child, name, Some(stdout))
    }

    /// The same with a standard output that nobody reads and whose other end is closed.
    #[track_caller]
    pub fn start_deaf(command: &mut Command) -> Process {
        let name = format!("{command:?}");
        let mut child = spawn(command, &name);
        drop(child.stdout.take());
        Process::watch(child, name, None)
    }

    fn watch(mut child: Child, name: String, stdout: Option<ChildStdout>) -> Process {
        let mut errors = child.stderr.take().unwrap();
        let (send, lines) = channel();
        std::thread::spawn(move || {
            let Some(stdout) = stdout else { return };
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let kept = stderr.clone();
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = errors.read(&mut buffer) {
                let mut kept = kept.lock().unwrap();
                if kept.len() < 1 << 20 {
                    kept.extend_from_slice(&buffer[..n]);
                }
            }
        });
        Process { child, name, lines: Mutex::new(lines), stderr, reader, ended: None }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().unwrap()).into_owned()
    }

    /// The next line on standard output; `None` when it closed its output, or wrote none within
    /// `time`.
    pub fn line_within(&self, time: Duration) -> Option<String> {
        self.lines.lock().unwrap().recv_timeout(time).ok()
    }

    /// The next line on standard output.
    #[track_caller]
    pub fn line(&self) -> String {
        self.line_within(START).unwrap_or_else(|| {
            panic!("{}: no line on standard output; standard error:\n{}", self.name, self.stderr())
        })
    }

    /// The next line that begins like this.
    #[track_caller]
    pub fn line_like(&self, prefix: &str) -> String {
        loop {
            let line = self.line();
            if line.starts_with(prefix) {
                return line;
            }
        }
    }

    /// Every line to the end of its output.
    #[track_caller]
    pub fn all_lines(&self) -> Vec<String> {
        std::iter::from_fn(|| self.line_within(DEADLINE)).collect()
    }

    /// Waits until standard error has `text` (compared without case).
    #[track_caller]
    pub fn expect_stderr(&self, text: &str) {
        eventually(
            &format!("{}: {text:?} on standard error; there is:\n{}", self.name, self.stderr()),
            || self.stderr().to_lowercase().contains(&text.to_lowercase()).then_some(()),
        );
    }

    /// Sends a signal by name (`TERM`, `INT`, `HUP`). After `STOP` none of its threads runs.
    #[track_caller]
    pub fn signal(&self, name: &str) {
        let status = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", self.id())])
            .stderr(Stdio::null())
            .status()
            .unwrap();
        let _ = status; // it may have ended by itself
        if name == "STOP" {
            eventually(&format!("{} stands still", self.name), || {
                self.has_no_running_thread().then_some(())
            });
        }
    }

    /// The signal stops a thread when it next leaves the kernel. Elsewhere than on Linux nothing
    /// tells.
    fn has_no_running_thread(&self) -> bool {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", self.id())) else {
            return true;
        };
        threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // The name of the program, in parentheses, comes before the state.
            let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
            !matches!(state, Some('R' | 'S' | 'D'))
        })
    }

    pub fn has_ended(&mut self) -> bool {
        self.poll().is_some()
    }

    fn poll(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap();
        }
        self.ended
    }

    /// Its exit code; an end by a signal is a failure, and so is no end by `time`.
    #[track_caller]
    pub fn exit_code_within(&mut self, time: Duration) -> i32 {
        let name = self.name.clone();
        let status = eventually_within(
            time,
            &format!("{name} ends; standard error:\n{}", self.stderr()),
            || self.poll(),
        );
        // What it wrote last may still be in the pipe. A process that it started may hold that open.
        let end = Instant::now() + Duration::from_secs(2);
        while !self.reader.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        status.code().unwrap_or_else(|| {
            panic!("{name} ended by a signal: {status}; standard error:\n{}", self.stderr())
        })
    }

    #[track_caller]
    pub fn exit_code(&mut self) -> i32 {
        self.exit_code_within(DEADLINE)
    }

    /// A number from /proc/PID/status: `Threads`, `VmRSS` (KiB).
    #[track_caller]
    pub fn status_number(&self, field: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.id()))
            .unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
        line.and_then(|l| l.split_whitespace().next()?.parse().ok())
            .unwrap_or_else(|| panic!("no {field} in {text}"))
    }

    pub fn threads(&self) -> u64 {
        self.status_number("Threads")
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id()))
            .unwrap_or_else(|e| panic!("{}: {e}", self.name))
            .count()
    }

    /// Sets how many descriptors it may have open.
    #[track_caller]
    pub fn limit_descriptors(&self, most: usize) {
        let (of, most) = (self.id().to_string(), format!("--nofile={most}:"));
        let status = Command::new("prlimit").args(["--pid", &of, &most]).status();
        assert!(status.expect("prlimit comes with util-linux").success(), "{}", self.name);
    }

    /// Waits until it has told this at least twice more for a search (`RUST_LOG=debug`), and expects a
    /// single warning.
    #[track_caller]
    pub fn expect_one_warning(&self, text: &str) {
        let told = |level: &str| {
            let lines = self.stderr();
            lines.lines().filter(|line| line.contains(level) && line.contains(text)).count()
        };
        let name = &self.name;
        eventually(&format!("{name}: {text:?} again"), || (told(" DEBUG ") >= 2).then_some(()));
        assert_eq!(told(" WARN "), 1, "{}", self.stderr());
    }

    /// User and system time in hundredths of a second.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id()))
            .unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.status_number("VmRSS")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- standard error of {}:\n{}", self.name, self.stderr());
        }
        if self.poll().is_some() {
            return;
        }
        self.signal("TERM");
        for _ in 0..30 {
            if self.poll().is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill(); // by its own id, which is not free before `wait`
        let _ = self.child.wait();
    }
}

/// A program that was copied a moment ago may be *busy*: another thread's child had the copy's
/// descriptor until it was executed.
#[track_caller]
fn spawn(command: &mut Command, name: &str) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    eventually("the program is not busy", || match command.spawn() {
        Ok(child) => Some(child),
        Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => None,
        Err(e) => panic!("starting {name}: {e}"),
    })
}

/// The binary under test.
pub struct Ptth;

impl Ptth {
    /// `ptth` with these arguments, without anything of this process's environment that would
    /// change it.
    pub fn command<S: AsRef<OsStr>>(arguments: &[S]) -> Command {
        let mut command = Command::new(super::ptth());
        let ours = std::env::vars_os().map(|(name, _)| name).filter(|name| {
            let name = name.to_string_lossy();
            name.starts_with("PTTH_")
                || name == "RUST_LOG"
                || name.to_lowercase().ends_with("_proxy")
        });
        ours.for_each(|name| {
            command.env_remove(name);
        });
        command.args(arguments);
        if arguments.first().is_some_and(|first| first.as_ref() == "gateway") {
            command.env("PTTH_LOOPS", super::loops().to_string());
        }
        command
    }

    #[track_caller]
    pub fn start<S: AsRef<OsStr>>(arguments: &[S]) -> Process {
        Process::start(&mut Ptth::command(arguments))
    }

    /// A gateway whose stop has no notice.
    #[track_caller]
    fn start_quick<S: AsRef<OsStr>>(arguments: &[S]) -> Process {
        Process::start(Ptth::command(arguments).env("PTTH_DRAIN_NOTICE", "0s"))
    }

    /// Runs it to its end: exit code, standard output, standard error.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(arguments: &[S]) -> (i32, String, String) {
        Ptth::finish(&mut Ptth::command(arguments))
    }

    #[track_caller]
    pub fn finish(command: &mut Command) -> (i32, String, String) {
        let mut process = Process::start(command);
        let code = process.exit_code();
        let stdout = process.all_lines().join("\n");
        // The reader thread may still be on its way to the end of the pipe.
        let mut stderr = process.stderr();
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(1));
            let now = process.stderr();
            if !now.is_empty() && now == stderr {
                break;
            }
            stderr = now;
        }
        (code, stdout, stderr)
    }

    /// `ptth device` for `gateway`, with a short back-off; returns when it says `connected`.
    #[track_caller]
    pub fn device(gateway: &Gateway, name: &str, more: &[&str]) -> Process {
        let url = gateway.device_url(name);
        let process = Ptth::start(&[&["device", &url, "--backoff", "10ms..200ms"], more].concat());
        assert_eq!(
            process.line(),
            format!("connected {name} via {url} (PTTH/1.0 turn)"),
            "{}",
            process.stderr()
        );
        process
    }
}

/// `ptth gateway` on ports of its own.
pub struct Gateway {
    pub process: Process,
    pub devices: SocketAddr,
    pub visitors: SocketAddr,
    /// The one that devices come to, where that is another process.
    pub other: Option<Process>,
}

impl Gateway {
    #[track_caller]
    pub fn start(more: &[&str]) -> Gateway {
        Gateway::start_with_env(more, &[])
    }

    /// The same at 127.0.0.1, for programs that know no other address of this machine.
    #[track_caller]
    pub fn at_localhost(more: &[&str]) -> Gateway {
        Gateway::start_at("127.0.0.1:0", "127.0.0.1:0", more)
    }

    /// The same with variables of the environment.
    #[track_caller]
    pub fn start_with_env(more: &[&str], variables: &[(&str, &str)]) -> Gateway {
        // Certificates of the tests name 127.0.0.1.
        let tls = more.iter().any(|option| option.ends_with("-cert") || option.ends_with("-certs"))
            || variables.iter().any(|(name, _)| name.ends_with("_CERT"));
        let address = format!("{}:0", if tls { Ipv4Addr::LOCALHOST } else { super::own_address() });
        let mut command = Ptth::command(
            &[&["gateway", "--devices", &address, "--visitors", &address], more].concat(),
        );
        // Most tests that stop a gateway are about what happens after the notice.
        command.env("PTTH_DRAIN_NOTICE", "0s");
        Gateway::of(Process::start(command.envs(variables.iter().copied())))
    }

    /// Two gateways: visitors come to the one, every device to the other. Options are both's.
    #[track_caller]
    pub fn across(more: &[&str]) -> Gateway {
        let to = format!("{}:0", Ipv4Addr::LOCALHOST);
        let both = ["gateway", "--devices", &to, "--visitors", &to];
        let with_peers = ["--peers", &to];
        let other = Ptth::start_quick(&[&both[..], &with_peers, more].concat());
        let (devices, _) = (other.line(), other.line());
        let devices = listener(&devices, "devices http://");
        let url = other.line().replacen("peers ", "", 1);
        let folder = super::TempDir::new("directory");
        let file = folder.0.join("gateways");
        std::fs::write(&file, format!("* {url}\n")).unwrap();
        let directory = format!("file:{}", file.display());
        let from = ["--directory", &directory];
        let first = Ptth::start_quick(&[&both[..], &from, more].concat());
        let mut gateway = Gateway::of(first);
        (gateway.devices, gateway.other) = (devices, Some(other));
        gateway
    }

    /// `ptth gateway` on these addresses: those of one that was there before.
    #[track_caller]
    pub fn start_at(devices: &str, visitors: &str, more: &[&str]) -> Gateway {
        let mut command = Ptth::command(
            &[&["gateway", "--devices", devices, "--visitors", visitors], more].concat(),
        );
        Gateway::of(Process::start(command.env("PTTH_DRAIN_NOTICE", "0s")))
    }

    /// One that was started in another way, when it says where it listens.
    #[track_caller]
    pub fn of(process: Process) -> Gateway {
        let (devices, visitors) = (process.line(), process.line());
        let devices = listener(&devices.replacen("https:", "http:", 1), "devices http://");
        let visitors = listener(&visitors.replacen("https:", "http:", 1), "visitors http://");
        Gateway { process, devices, visitors, other: None }
    }

    pub fn device_url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.devices)
    }

    /// A raw connection to the visitors' port.
    #[track_caller]
    pub fn visitor(&self) -> RawPeer {
        let mut peer = RawPeer::connect(self.visitors);
        peer.who = "visitor".to_owned();
        peer
    }

    /// A raw connection to the devices' port.
    #[track_caller]
    pub fn dial(&self) -> RawPeer {
        let mut peer = RawPeer::connect(self.devices);
        peer.who = "device".to_owned();
        peer
    }

    /// A turned link of a device without a session.
    #[track_caller]
    pub fn link(&self, name: &str) -> RawPeer {
        self.link_with(name, "")
    }

    /// A turned link; `fields` are further lines of the offer, each with its CRLF.
    #[track_caller]
    pub fn link_with(&self, name: &str, fields: &str) -> RawPeer {
        let mut peer = self.dial();
        peer.who = format!("device {name}");
        peer.write(offer(name, fields));
        assert_eq!(
            String::from_utf8_lossy(&peer.read_exact(SWITCH.len())),
            String::from_utf8_lossy(SWITCH)
        );
        peer
    }

    /// One GET on a connection of its own.
    #[track_caller]
    pub fn get(&self, target: &str) -> Answer {
        self.visitor().ask(&get(target))
    }
}

/// The offer of the draft's kind, `Content-Length: 0` included.
pub fn offer(name: &str, fields: &str) -> String {
    format!(
        "POST /{name} HTTP/1.1\r\nHost: gw.example\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nContent-Length: 0\r\n{fields}\r\n"
    )
}

/// A plain request.
pub fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: visitors.example\r\n\r\n")
}

#[track_caller]
fn listener(line: &str, prefix: &str) -> SocketAddr {
    let addr = line
        .strip_prefix(prefix)
        .unwrap_or_else(|| panic!("{line:?} where a line {prefix}ADDR was expected"));
    addr.parse().unwrap_or_else(|_| panic!("no address in {line:?}"))
}
