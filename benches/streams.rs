//! What streams cost small requests beside them: `cargo bench --features cli --bench streams`. About
//! a minute.
//!
//! Two visitors ask one small request after the other while four others read 1 GiB at 1 MB/s and two
//! at 100 MB/s each, all from the same device, which forwards to a server of this process. The same
//! through nginx as a plain proxy, where it is installed, in rounds that take turns: what else
//! happens on the machine hits both. Printed: median and 99th percentile of the small requests, and
//! how fast the quick readers read.
//!
//! Fails when the 99th percentile (median of the rounds) is above twice nginx's.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on has failed"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_secs(2);
const STREAM: usize = 1 << 30;
/// Bytes per second of each reader.
const READERS: [u64; 6] = [1_000_000, 1_000_000, 1_000_000, 1_000_000, 100_000_000, 100_000_000];
const QUICK: u64 = 100_000_000;
const VISITORS: usize = 2;

/// A program, ended with this value.
struct Program {
    child: Child,
    directory: Option<std::path::PathBuf>,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill(); // by its own id, which is not free before `wait`
        let _ = self.child.wait();
        self.directory.iter().for_each(|path| drop(std::fs::remove_dir_all(path)));
    }
}

/// `ptth`, and the first lines that it says.
fn ptth(arguments: &[&str], lines: usize) -> (Program, Vec<String>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ptth"));
    let command = command.args(arguments).env("RUST_LOG", "error").stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let said = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = said.take(lines).map(|line| line.unwrap()).collect();
    (Program { child, directory: None }, said)
}

/// Reads byte by byte to the end of a head, so that nothing behind it is taken.
fn read_head(stream: &mut TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// The local server: `/small` at once, `/stream` for as long as somebody reads.
fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    at
}

fn answer(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let piece = vec![b'x'; 64 * 1024];
    while let Some(head) = read_head(&mut stream) {
        let length = if head.starts_with("GET /stream") { STREAM } else { 2 };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        let whole = [head.as_bytes(), b"ok"].concat();
        let sent = match length {
            STREAM => stream.write_all(head.as_bytes()),
            _ => stream.write_all(&whole),
        };
        let pieces = if length == STREAM { STREAM / piece.len() } else { 0 };
        if sent.is_err() || (0..pieces).any(|_| stream.write_all(&piece).is_err()) {
            return;
        }
    }
}

/// A proxy in front of the local server, by the prefix of its paths.
struct Proxy {
    name: &'static str,
    at: SocketAddr,
    prefix: &'static str,
    _programs: Vec<Program>,
}

impl Proxy {
    fn ptth(local: SocketAddr) -> Proxy {
        let (gateway, said) =
            ptth(&["gateway", "--devices", "127.0.0.1:0", "--visitors", "127.0.0.1:0"], 2);
        let device = format!("{}/lamp", said[0].strip_prefix("devices ").unwrap());
        let at = said[1].strip_prefix("visitors http://").unwrap().parse().unwrap();
        let (device, _) = ptth(&["device", &device, "--to", &format!("http://{local}")], 1);
        Proxy { name: "ptth", at, prefix: "/lamp", _programs: vec![gateway, device] }
    }

    /// `None`: there is no nginx here.
    fn nginx(local: SocketAddr) -> Option<Proxy> {
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let directory = std::env::temp_dir().join(format!("ptth-streams-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let config = format!(
            "daemon off; master_process off; error_log stderr crit; pid {0}/pid;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; client_body_temp_path {0}; proxy_temp_path {0}; fastcgi_temp_path {0};\n\
             uwsgi_temp_path {0}; scgi_temp_path {0}; upstream local {{ server {local}; keepalive 64; }}\n\
             server {{ listen {at}; location / {{ proxy_pass http://local; proxy_http_version 1.1;\n\
             proxy_set_header Connection \"\"; proxy_max_temp_file_size 0; }} }} }}",
            directory.display()
        );
        let file = directory.join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        let mut nginx = Command::new("nginx");
        let child = nginx.arg("-c").arg(&file).arg("-p").arg(&directory).spawn().ok()?;
        let program = Program { child, directory: Some(directory) };
        let end = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(at).is_err() {
            assert!(Instant::now() < end, "nginx does not listen");
            thread::yield_now();
        }
        Some(Proxy { name: "nginx", at, prefix: "", _programs: vec![program] })
    }

    fn ask(&self, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.at).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        self.ask_on(&mut stream, path);
        stream
    }

    fn ask_on(&self, stream: &mut TcpStream, path: &str) {
        let prefix = self.prefix;
        stream
            .write_all(format!("GET {prefix}{path} HTTP/1.1\r\nHost: b\r\n\r\n").as_bytes())
            .unwrap();
        let head = read_head(stream).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }

    /// Small requests for a while: how long each took, in microseconds.
    fn small(&self) -> Vec<f64> {
        let mut stream = self.ask("/small");
        stream.read_exact(&mut [0; 2]).unwrap();
        let (mut times, end) = (Vec::new(), Instant::now() + TIME);
        while Instant::now() < end {
            let began = Instant::now();
            self.ask_on(&mut stream, "/small");
            stream.read_exact(&mut [0; 2]).unwrap();
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
        times
    }

    /// Median and 99th percentile of the small requests, and the quick readers' bytes per second.
    fn round(&self, beside: bool) -> [f64; 3] {
        let (over, quick) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut times: Vec<f64> = thread::scope(|scope| {
            let readers = READERS.iter().filter(|_| beside);
            readers.for_each(|rate| drop(scope.spawn(|| self.read(*rate, &over, &quick))));
            if beside {
                thread::sleep(Duration::from_millis(300)); // they have filled their buffers
            }
            let visitors: Vec<_> = (0..VISITORS).map(|_| scope.spawn(|| self.small())).collect();
            let times = visitors.into_iter().flat_map(|visitor| visitor.join().unwrap()).collect();
            over.store(true, Relaxed);
            times
        });
        times.sort_by(f64::total_cmp);
        let rate = quick.load(Relaxed) as f64 / (TIME.as_secs_f64() + 0.3);
        [times[times.len() / 2], times[times.len() * 99 / 100], rate]
    }

    fn read(&self, rate: u64, over: &AtomicBool, quick: &AtomicU64) {
        let mut stream = self.ask("/stream");
        let (mut piece, mut had, began) = (vec![0; 64 * 1024], 0, Instant::now());
        while !over.load(Relaxed) {
            let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
            if had >= due {
                thread::sleep(Duration::from_millis(2));
                continue;
            }
            let most = piece.len().min((due - had) as usize);
            let n = stream.read(&mut piece[..most]).unwrap();
            assert!(n > 0, "a stream ended");
            had += n as u64;
        }
        if rate == QUICK {
            quick.fetch_add(had, Relaxed);
        }
    }
}

fn median(rows: &[[f64; 3]], column: usize) -> f64 {
    let mut values: Vec<f64> = rows.iter().map(|row| row[column]).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> ExitCode {
    let local = serve();
    let proxies: Vec<Proxy> =
        [Some(Proxy::ptth(local)), Proxy::nginx(local)].into_iter().flatten().collect();
    let mut rows = vec![[Vec::new(), Vec::new()]; proxies.len()];
    for _ in 0..ROUNDS {
        for (proxy, rows) in proxies.iter().zip(&mut rows) {
            for (rows, beside) in rows.iter_mut().zip([false, true]) {
                rows.push(proxy.round(beside));
            }
        }
    }
    println!("{:<24} {:>10} {:>10} {:>16}", "small requests", "median", "p99", "quick readers");
    for (proxy, rows) in proxies.iter().zip(&rows) {
        for (rows, what) in rows.iter().zip(["quiet", "beside streams"]) {
            let [half, most, rate] = [0, 1, 2].map(|column| median(rows, column));
            let what = format!("{} {what}", proxy.name);
            println!("{what:<24} {half:>7.0} us {most:>7.0} us {:>11.0} MB/s", rate / 1e6);
        }
    }
    let most: Vec<f64> = rows.iter().map(|[_, beside]| median(beside, 1)).collect();
    match most[..] {
        [ours, theirs] if ours > 2.0 * theirs => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}
