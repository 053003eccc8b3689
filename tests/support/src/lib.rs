//! What the black-box tests share: started programs, raw peers with deadlines, a small local HTTP
//! server.
//!
//! Nothing here waits without a deadline, and nothing is waited for by sleeping: a condition is
//! polled, or bytes are read.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod idle;
pub mod local;
#[cfg(target_os = "linux")]
pub mod netns;
pub mod pki;
pub mod process;
pub mod raw;
pub mod storm;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use local::LocalServer;
pub use pki::{Authority, Pair};
pub use process::{Gateway, Process, Ptth};
pub use raw::{Answer, Head, RawGateway, RawPeer};

/// How long anything that should happen may take. What takes longer counts as failed.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// How long a program may take until it says something: Node and browsers are slow to start on a
/// busy machine.
pub const START: Duration = Duration::from_secs(60);

/// How many event loops the gateways of these tests have: `PTTH_TEST_LOOPS`, else one.
pub fn loops() -> usize {
    let told = std::env::var("PTTH_TEST_LOOPS").ok();
    told.map_or(1, |told| told.parse().expect("PTTH_TEST_LOOPS is a number"))
}

/// A gateway of this process, with as many event loops as these tests have.
pub fn gateway() -> reverse_http::gateway::GatewayBuilder {
    reverse_http::Gateway::builder().loops(loops())
}

/// Returns when every loop of a gateway has seen what was written before, and what one loop had
/// another do for that: a loop takes what comes in the order in which it comes.
#[track_caller]
pub fn fence(visitors: std::net::SocketAddr) {
    // Which loop a connection comes to chance decides; so many come to all of them.
    let (rounds, connections) = if loops() == 1 { (1, 1) } else { (3, 12 * loops()) };
    for _ in 0..rounds {
        let asked: Vec<RawPeer> = (0..connections)
            .map(|_| {
                let mut peer = RawPeer::connect(visitors);
                peer.write(process::get("/nobody-has-this-name/"));
                peer
            })
            .collect();
        asked.into_iter().for_each(|mut peer| peer.read_answer("GET").expect_refusal(404));
    }
}

/// How much later than configured something may be noticed: a second, and more on a machine on
/// which programs wait for a core.
pub fn slack() -> Duration {
    // Of the last ten seconds, the share in which some program was ready and had no core.
    let pressure = std::fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
    let share = pressure
        .split("avg10=")
        .nth(1)
        .and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    // Not every kernel counts that; all have the number of programs that want to run.
    let load =
        || std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse::<f64>().ok();
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let busy = share.map_or_else(|| load().is_none_or(|load| load > cores), |share| share > 25.0);
    Duration::from_secs(if busy { 6 } else { 1 })
}

/// The draft's 101, byte for byte what the gateway has to send for `PTTH/1.0`.
pub const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n";

/// A file of this repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(path)
}

/// The command under test: cargo puts it beside the folder of the test's or bench's own binary.
pub fn ptth() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(2).unwrap().join("ptth")
}

/// A sample message of tests/vectors.
pub fn vector(name: &str) -> Vec<u8> {
    let path = repository("tests/vectors").join(format!("{name}.http"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Says that all is over when it is dropped, also where a test has failed: the threads of a scope that
/// go on until then would keep it from ending.
pub struct Over<'o>(pub &'o AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Polls `condition` until it gives something, at most for [`DEADLINE`].
#[track_caller]
pub fn eventually<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    eventually_within(DEADLINE, what, condition)
}

/// Polls `condition` until it gives something, at most for `time`.
#[track_caller]
pub fn eventually_within<T>(
    time: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + time;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "not within {time:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Where `name` is installed: on the PATH, or where servers are and users' PATHs are not.
fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    places.map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// The path of a program that is [`need`]ed; its bare name where it is not installed.
pub fn program(name: &str) -> PathBuf {
    installed(name).unwrap_or_else(|| name.into())
}

/// Returns true if `program` is installed. Where it is not, the test is skipped; under CI it fails.
pub fn need(program: &str) -> bool {
    installed(program).is_some() || skipped(program)
}

/// Reports that a test is skipped because `what` is missing here; always returns false. Under CI
/// that is a failure.
///
/// All that is missing is said once, in one line, when the test binary has ended. No code of ours
/// runs that late, so a shell does it: it collects the names from a pipe, which the kernel closes
/// when this process ends.
pub fn skipped(what: &str) -> bool {
    static COLLECTOR: Mutex<Option<ChildStdin>> = Mutex::new(None);
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{what} is missing, and under CI no test is skipped. To install it: {INSTALL}"
    );
    let mut collector = COLLECTOR.lock().unwrap_or_else(PoisonError::into_inner);
    if collector.is_none() {
        let shell = Command::new("/bin/sh")
            .args(["-c", COLLECT, INSTALL])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        *collector = shell.ok().and_then(|mut child| child.stdin.take());
    }
    let is_told = collector.as_mut().is_some_and(|pipe| writeln!(pipe, "{what}").is_ok());
    if !is_told {
        say(&format!("SKIPPED for want of {what}. To install it: {INSTALL}"));
    }
    false
}

/// Installs every peer that is absent.
const INSTALL: &str = "bash .ci/peers";

/// Built-in commands alone: a test may run without a PATH. A Ctrl-C is for the tests; the line
/// comes nevertheless.
const COLLECT: &str = r#"
trap '' INT TERM HUP
count=0 names=
while IFS= read -r name; do
    count=$((count + 1))
    case ", $names," in *", $name,"*) ;; *) names="${names:+$names, }$name" ;; esac
done
printf '\nSKIPPED %s tests for want of: %s. To install what is missing: %s\n' "$count" "$names" "$0" >&2
"#;

/// Writes a line to the real standard error, which the test harness does not capture: figures.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "\n{line}"); // a closed standard error is no reason to fail
}

/// Runs every row of a table, then fails with all rows that failed, not only the first.
#[track_caller]
pub fn each_row<R>(rows: &[R], name: impl Fn(&R) -> String, mut check: impl FnMut(&R)) {
    let mut failures = String::new();
    let mut failed = 0;
    for row in rows {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(row))) {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("a panic without a text");
            failed += 1;
            let _ = writeln!(failures, "- {}: {text}", name(row)); // writing to a String cannot fail
        }
    }
    assert!(failed == 0, "{failed} of {} rows failed:\n{failures}", rows.len());
}

/// A Unix listener that accepts nobody, with a full backlog: who connects has to wait. It ends when
/// the sockets are dropped.
pub fn hung_unix_listener(path: &std::path::Path) -> Vec<socket2::Socket> {
    let socket = || socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None);
    let address = socket2::SockAddr::unix(path).unwrap();
    let listener = socket().unwrap();
    listener.bind(&address).unwrap();
    listener.listen(0).unwrap();
    let mut all = vec![listener];
    for _ in 0..100 {
        let client = socket().unwrap();
        client.set_nonblocking(true).unwrap();
        if client.connect(&address).is_err() {
            return all;
        }
        all.push(client);
    }
    panic!("{} takes any number of connections", path.display());
}

/// A loopback address that no other server of this test run gets, where the system has all of
/// 127.0.0.0/8 (Linux).
///
/// The ports of one address are soon given out again: a device that outlives its test by a moment
/// would dial the next test's server.
pub fn own_address() -> Ipv4Addr {
    static NUMBER: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    if !cfg!(target_os = "linux") {
        return Ipv4Addr::LOCALHOST;
    }
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    // Another binary that runs at the same time begins elsewhere.
    let block = 1 + (std::process::id() % 250) as u8;
    Ipv4Addr::new(127, block, (number >> 8) as u8, (number % 256) as u8)
}

/// A port of 127.0.0.1 on which nothing listens at this moment. Only for programs that cannot tell
/// the port they got.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A directory of its own under the system's temporary one, removed when dropped.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new(name: &str) -> TempDir {
        static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("ptth-test-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0); // what is left behind in /tmp harms nobody
    }
}

/// `len` bytes that repeat with an odd period, so that a lost, repeated or exchanged block changes
/// their hash.
pub fn pattern(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fill_pattern(0, &mut bytes);
    bytes
}

/// The bytes of the pattern from `offset` on.
pub fn fill_pattern(offset: u64, bytes: &mut [u8]) {
    const PERIOD: usize = 65_521;
    static BLOCK: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    let block = BLOCK.get_or_init(|| {
        (0..PERIOD as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
    });
    let mut from = (offset % PERIOD as u64) as usize;
    let mut filled = 0;
    while filled < bytes.len() {
        let n = (PERIOD - from).min(bytes.len() - filled);
        bytes[filled..filled + n].copy_from_slice(&block[from..from + n]);
        (filled, from) = (filled + n, 0);
    }
}

/// FNV-1a over words of eight bytes, with the position of every byte: a streaming check sum for
/// bodies.
#[derive(Clone)]
pub struct Hash {
    state: u64,
    word: u64,
    pub len: u64,
}

impl Default for Hash {
    fn default() -> Self {
        Hash { state: 0xcbf2_9ce4_8422_2325, word: 0, len: 0 }
    }
}

impl Hash {
    pub fn of(bytes: &[u8]) -> String {
        let mut hash = Hash::default();
        hash.update(bytes);
        hash.finish()
    }

    /// The hash of the first `len` bytes of the pattern.
    pub fn of_pattern(len: u64) -> String {
        let (mut hash, mut block) = (Hash::default(), vec![0; 1 << 16]);
        while hash.len < len {
            let n = (block.len() as u64).min(len - hash.len) as usize;
            fill_pattern(hash.len, &mut block[..n]);
            hash.update(&block[..n]);
        }
        hash.finish()
    }

    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.len % 8 == 0 && bytes.len() >= 8 {
                let (words, rest) = bytes.split_at(bytes.len() / 8 * 8);
                for word in words.chunks_exact(8) {
                    self.mix(u64::from_le_bytes(word.try_into().unwrap()));
                }
                self.len += words.len() as u64;
                bytes = rest;
                continue;
            }
            self.word = self.word << 8 | u64::from(bytes[0]);
            self.len += 1;
            bytes = &bytes[1..];
            if self.len % 8 == 0 {
                self.mix(self.word.swap_bytes());
                self.word = 0;
            }
        }
    }

    fn mix(&mut self, word: u64) {
        self.state = (self.state ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    /// Length and hash, as one word.
    pub fn finish(mut self) -> String {
        self.mix(self.word);
        self.mix(self.len);
        format!("{}-{:016x}", self.len, self.state)
    }
}
