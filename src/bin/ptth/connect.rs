//! `ptth connect`: bytes to a TCP target of a device and back (protocol.md §4), between standard
//! input and output (as `ProxyCommand` of ssh), or for each connection to a port of this machine.
//!
//! Blocking code with two threads for each connection. Each direction ends separately. A failure is
//! visible at the other end: a reset, without close_notify.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use clap::Args;
use crossbeam_channel::{Receiver, bounded};
use reverse_http::Limits;
use reverse_http::proto::head::{self, LineEnds};
use reverse_http::proto::head_writer::reason_phrase;
use reverse_http::proto::interim::InterimCount;
use reverse_http::proto::tcp;
use reverse_http::stream::{Stream, TimedStream};
use reverse_http::text::spelled_out;

use crate::arguments::some_time;
use crate::certificates::DeviceFiles;
use crate::config::digits;
use crate::device::token;
use crate::output::say;
use crate::proxy::{self, ProxyServer};
use crate::visitors::Visitors;
use crate::wire::{self, TEXT_MAX};
use crate::{Failure, failed, usage};

/// The most connections of -L at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// Bytes of one read.
const PIECE: usize = 64 * 1024;
/// How long one direction may take to notice that the other one broke, before both are ended.
const NOTICE: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(crate) struct ConnectArgs {
    /// The target, as visitors reach its device: https://gw.example/lamp/ssh, where the device was
    /// started with --tcp ssh=127.0.0.1:22
    url: String,
    /// Listen here, and connect each connection to the target, instead of standard input and output
    #[arg(long, short = 'L', value_name = "[ADDR:]PORT", value_parser = listener)]
    listen: Option<String>,
    /// A file with a visitor's token (`-`: standard input, with -L); or set PTTH_VISITOR_TOKEN
    #[arg(long, value_name = "FILE|-")]
    token_file: Option<String>,
    #[command(flatten)]
    tls: DeviceFiles,
    /// Go through this proxy, by CONNECT: http://HOST:PORT; or none. Else the environment counts,
    /// as for ptth device
    #[arg(long, value_name = "URL|none", env = "PTTH_PROXY", hide_env_values = true)]
    proxy: Option<String>,
    /// How long it may take until the target is connected, in all
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = some_time)]
    timeout: Duration,
}

/// `2222`, `127.0.0.1:2222`, `[::1]:2222`.
fn listener(text: &str) -> Result<String, String> {
    let wrong = || "write a port, or ADDR:PORT, like 127.0.0.1:2222".to_owned();
    let (address, port) = text.rsplit_once(':').unwrap_or(("127.0.0.1", text));
    digits(port).and_then(|port| port.parse::<u16>().ok()).ok_or_else(wrong)?;
    match address {
        "" => Err(wrong()),
        _ => Ok(format!("{address}:{port}")),
    }
}

/// Connects. Exit codes: 0 both directions have ended, 1 it failed or broke, 2 wrong usage, 3
/// refused (401, 403, 404).
pub(crate) fn run(args: ConnectArgs) -> Result<(), Failure> {
    if args.token_file.as_deref() == Some("-") && args.listen.is_none() {
        return Err(usage("--token-file - goes with -L: standard input is the target's"));
    }
    let to = Visitors::of(&args.url, &args.tls, "", "https://gw.example/lamp/ssh")?;
    if to.path.is_empty() {
        return Err(usage(format!(
            "{}: its path names the device and its target, like https://gw.example/lamp/ssh",
            args.url
        )));
    }
    let proxy = proxy::server_for(args.proxy.as_deref(), &args.url)?;
    let token = token(args.token_file.as_deref(), "--token-file", "PTTH_VISITOR_TOKEN")?;
    let mut request = Vec::new();
    tcp::write_request(&mut request, &to.path, &to.authority, token.as_deref())
        .map_err(|e| usage(format!("the request cannot be written: {}", e.reason)))?;
    let target = Target { to, proxy, request, timeout: args.timeout };
    match &args.listen {
        Some(at) => serve(at, target),
        None => serve_stdio(&target),
    }
}

/// A device's target, and how to reach it.
struct Target {
    to: Visitors,
    proxy: Option<ProxyServer>,
    request: Vec<u8>,
    timeout: Duration,
}

impl Target {
    /// Opens a connection to the target. Also returns the bytes that have arrived already.
    fn open(&self) -> Result<(Arc<Stream>, Vec<u8>), Failure> {
        let until = Instant::now() + self.timeout;
        let left = || until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let socket = self.to.reach(self.proxy.as_ref(), until)?;
        let limit = |socket: &TcpStream, time: Option<Duration>| {
            socket.set_read_timeout(time).and_then(|()| socket.set_write_timeout(time))
        };
        let waits = socket.try_clone().map_err(failed)?;
        limit(&socket, Some(left())).map_err(failed)?;
        let mut stream = Stream::from(socket);
        stream.tune().map_err(failed)?;
        if let Some(tls) = &self.to.tls {
            stream = stream.secured(tls.clone(), &self.to.host).map_err(failed)?;
        }
        stream.write_all(&self.request).map_err(failed)?;
        let (mut bytes, mut interim) = (Vec::new(), InterimCount::default());
        let length = loop {
            if let Some(length) = self.switched(&mut bytes, &mut interim, &mut stream, until)? {
                break length;
            }
            if fill(&mut stream, &mut bytes, until)? == 0 {
                return Err(failed("the connection was closed without an answer"));
            }
        };
        limit(&waits, None).and_then(|()| stream.limit_read(None)).map_err(failed)?;
        Ok((Arc::new(stream), bytes.split_off(length)))
    }

    /// The length of the 101 when it has arrived; any other answer is reported.
    fn switched(
        &self,
        bytes: &mut Vec<u8>,
        interim: &mut InterimCount,
        stream: &mut Stream,
        until: Instant,
    ) -> Result<Option<usize>, Failure> {
        let limits = Limits::default();
        loop {
            let read = head::response(bytes, &limits, LineEnds::CrlfOrLf);
            let read =
                read.map_err(|e| failed(format_args!("the answer is not HTTP: {}", e.reason)))?;
            let Some(head) = read else { return Ok(None) };
            let (status, length) = (head.status, head.len);
            if tcp::is_switched(&head) {
                return Ok(Some(length));
            }
            if (100..200).contains(&status) && status != 101 {
                let counted = interim.count(&limits);
                counted.map_err(|e| failed(format_args!("the other end {}", e.reason)))?;
                bytes.drain(..length);
                continue;
            }
            let text = length + wire::text_length(&head).min(TEXT_MAX);
            // A slow text is reported as far as it has arrived in time.
            while bytes.len() < text && fill(stream, bytes, until).is_ok_and(|n| n > 0) {}
            let text = bytes.get(length..text.min(bytes.len())).unwrap_or_default();
            return Err(refusal(status, &String::from_utf8_lossy(text)));
        }
    }
}

/// Reads more bytes until the deadline; the caller bounds the head.
fn fill(stream: &mut Stream, bytes: &mut Vec<u8>, until: Instant) -> Result<usize, Failure> {
    let late = || failed("the target was not connected in time (--timeout)");
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(late());
    }
    stream.limit_read(Some(left)).map_err(failed)?;
    let mut piece = [0; 4096];
    match stream.read(&mut piece) {
        Ok(n) => {
            bytes.extend_from_slice(&piece[..n]);
            Ok(n)
        }
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Err(late())
        }
        Err(e) => Err(failed(format_args!("the connection broke before an answer ({e})"))),
    }
}

/// Why the target is not connected, in the words of the other side.
fn refusal(status: u16, text: &str) -> Failure {
    let remedy = match status {
        401 => "; a visitor's token is given by --token-file, or PTTH_VISITOR_TOKEN",
        501 => {
            "; TCP needs connections that turn: something between device and gateway lets no upgrade through"
        }
        101 | 200..=399 | 426 => {
            "; this is no TCP target (ptth device --tcp), or something on the way removed Upgrade"
        }
        _ => "",
    };
    let text = spelled_out(text.trim());
    let text = if text.is_empty() { text } else { format!(": {text}") };
    let text = format!("{status} {}{text}{remedy}", reason_phrase(status));
    Failure { text, code: if matches!(status, 401 | 403 | 404) { 3 } else { 1 } }
}

/// Moves bytes until there are no more.
fn pour(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => to.write_all(&piece[..n])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Ends one direction. An error means that the other end has left.
fn end(stream: &Stream) -> io::Result<()> {
    match stream.shutdown(Shutdown::Write) {
        Err(e) if e.kind() != io::ErrorKind::NotConnected => Err(e),
        _ => Ok(()),
    }
}

// --- standard input and output ---

fn serve_stdio(target: &Target) -> Result<(), Failure> {
    let (gateway, first) = target.open()?;
    let up = gateway.clone();
    let upwards = std::thread::Builder::new().name("ptth-stdin".to_owned()).spawn(move || {
        let stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        pour(stdin, &*up).and_then(|()| end(&up)).inspect_err(|_| {
            up.reset_when_dropped();
            let _ = up.shutdown(Shutdown::Both); // this wakes the other direction
        })
    });
    let upwards = upwards.map_err(failed)?;
    let downwards = || {
        let mut stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        stdout.write_all(&first)?;
        pour(&*gateway, &stdout)?;
        // Its reader sees the end when its last descriptor is closed.
        rustix::stdio::dup2_stdout(File::options().write(true).open("/dev/null")?)?;
        Ok::<(), io::Error>(())
    };
    let broken = |e: io::Error| {
        gateway.reset_when_dropped();
        failed(format_args!("the connection broke: {e}"))
    };
    downwards().map_err(broken)?;
    match upwards.join() {
        Ok(done) => done.map_err(broken),
        Err(_) => Err(failed("a thread panicked; please report it")),
    }
}

// --- a port of this machine ---

fn serve(at: &str, target: Target) -> Result<(), Failure> {
    let listener = TcpListener::bind(at).map_err(|e| failed(format_args!("-L {at}: {e}")))?;
    let address = listener.local_addr().map_err(failed)?;
    if !address.ip().is_loopback() {
        log::warn!("-L {address}: every client that reaches this port reaches the target");
    }
    say(format_args!("listening {address}"));
    let target = Arc::new(target);
    let (permits, taken) = bounded(CONNECTIONS_MAX);
    let mut has_failed = false;
    for near in listener.incoming() {
        let near = match near {
            Ok(near) => near,
            Err(e) => {
                // One warning until it works again. Most likely no descriptor is free.
                let level = if has_failed { log::Level::Debug } else { log::Level::Warn };
                log::log!(level, "-L {address} cannot accept: {e}; trying again every 100 ms");
                has_failed = true;
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        has_failed = false;
        let _ = permits.send(()); // waits for a permit; the other end is below
        let (permit, target) = (Permit(taken.clone()), target.clone());
        let spawned =
            std::thread::Builder::new().name("ptth-connection".to_owned()).spawn(move || {
                let _permit = permit;
                if let Err(failure) = carry(near, &target) {
                    log::warn!("{}", failure.text);
                }
            });
        if let Err(e) = spawned {
            log::warn!("a connection is closed: there is no thread for it: {e}");
        }
    }
    Ok(())
}

/// The permit of one of the connections.
struct Permit(Receiver<()>);

impl Drop for Permit {
    fn drop(&mut self) {
        let _ = self.0.try_recv(); // there is one for each
    }
}

fn carry(near: TcpStream, target: &Target) -> Result<(), Failure> {
    let near = Stream::from(near);
    near.tune().map_err(failed)?;
    let (gateway, first) = target.open().inspect_err(|_| near.reset_when_dropped())?;
    let pair = Arc::new(Pair {
        near,
        gateway,
        broken: AtomicBool::new(false),
        ended: AtomicUsize::new(0),
    });
    let up = pair.clone();
    let upwards = std::thread::Builder::new()
        .name("ptth-upwards".to_owned())
        .spawn(move || up.pass(&up.near, &up.gateway, &[]));
    let upwards = upwards.inspect_err(|_| pair.break_off()).map_err(failed)?;
    let downwards = pair.pass(&pair.gateway, &pair.near, &first);
    let upwards = upwards.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
    downwards.and(upwards).map_err(|e| failed(format_args!("a connection broke: {e}")))
}

/// A connection of this machine, and the one to its target.
struct Pair {
    near: Stream,
    gateway: Arc<Stream>,
    /// One direction failed, so an end of the other one has no meaning.
    broken: AtomicBool,
    /// The number of directions that have ended or failed.
    ended: AtomicUsize,
}

impl Pair {
    /// Passes on one direction to its end.
    fn pass(&self, from: &Stream, to: &Stream, first: &[u8]) -> io::Result<()> {
        let mut writer = to;
        let passed = writer.write_all(first).and_then(|()| pour(from, writer));
        let passed = passed.and_then(|()| match self.broken.load(SeqCst) {
            true => Ok(()),
            false => end(to),
        });
        self.ended.fetch_add(1, SeqCst);
        if passed.is_err() {
            self.break_off();
        }
        passed
    }

    /// Wakes the other direction, and makes both ends resets.
    fn break_off(&self) {
        self.broken.store(true, SeqCst);
        let both = [&self.near, &*self.gateway];
        for stream in both {
            stream.reset_when_dropped();
            let _ = stream.shutdown(Shutdown::Read); // the other end does not notice this
        }
        let until = Instant::now() + NOTICE;
        while self.ended.load(SeqCst) < 2 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.ended.load(SeqCst) < 2 {
            both.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both))); // it is stuck in a write
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_on_loopback() {
        for (text, at) in [
            ("2222", Some("127.0.0.1:2222")),
            ("0.0.0.0:22", Some("0.0.0.0:22")),
            ("[::1]:22", Some("[::1]:22")),
            ("localhost:0", Some("localhost:0")),
            (":22", None),
            ("", None),
            ("ssh", None),
            ("127.0.0.1:65536", None),
        ] {
            assert_eq!(listener(text).ok().as_deref(), at, "{text}");
        }
    }
}
