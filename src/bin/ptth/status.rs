//! `ptth status` and `ptth health`: what a gateway's admin listener says, in a terminal.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use crate::arguments::some_time;
use crate::config::duration;
use crate::output::print_line;
use crate::{Failure, failed, usage};

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// How often `--watch` looks.
const PERIOD: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(crate) struct AdminAt {
    /// The gateway's admin listener, as its --admin says it: 127.0.0.1:9990 or unix:/run/ptth.sock
    #[arg(
        long,
        value_name = "ADDR|unix:PATH",
        default_value = "127.0.0.1:9990",
        env = "PTTH_ADMIN"
    )]
    admin: String,
    /// A file with an operator's token, where the listener wants one (`-`: standard input); or set
    /// PTTH_ADMIN_TOKEN
    #[arg(long, value_name = "FILE|-", env = "PTTH_ADMIN_TOKEN_FILE")]
    admin_token_file: Option<String>,
    /// How long the answer may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = some_time, env = "PTTH_ADMIN_TIMEOUT")]
    admin_timeout: Duration,
}

#[derive(Args)]
pub(crate) struct StatusArgs {
    /// One device, with its last requests, ups and downs; without: a table of devices
    name: Option<String>,
    #[command(flatten)]
    at: AdminAt,
    /// What the listener says, in JSON (docs/admin.md)
    #[arg(long)]
    json: bool,
    /// Look again every two seconds, until interrupted
    #[arg(long)]
    watch: bool,
    /// Only devices of which nothing was heard for so long
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    silent_for: Option<Duration>,
    /// The order: name, state, links, busy, waiting, silent, since, ups, requests, errors, p50, p99,
    /// bytes or address, falling with - before it
    #[arg(long, value_name = "KEY", default_value = "name", allow_hyphen_values = true)]
    sort: String,
    /// Most devices of the table
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    limit: u64,
}

#[derive(Args)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    at: AdminAt,
    /// Ask whether the gateway lives (/healthz), not whether it serves (/readyz)
    #[arg(long)]
    live: bool,
}

/// Anything that is read and written with deadlines.
trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

impl AdminAt {
    fn connect(&self) -> io::Result<(Box<dyn Wire>, String)> {
        let time = Some(self.admin_timeout);
        if let Some(path) = self.admin.strip_prefix("unix:") {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(time)?;
            stream.set_write_timeout(time)?;
            return Ok((Box::new(stream), "localhost".to_owned()));
        }
        let host = self.admin.strip_prefix("http://").unwrap_or(&self.admin).trim_end_matches('/');
        let mut last = io::Error::new(io::ErrorKind::NotFound, "it names no address");
        for address in host.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, self.admin_timeout) {
                Ok(stream) => {
                    stream.set_read_timeout(time)?;
                    stream.set_write_timeout(time)?;
                    return Ok((Box::new(stream), host.to_owned()));
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// Status and body of one GET.
    fn ask(&self, path: &str, token: Option<&str>) -> Result<(u16, String), Failure> {
        let doing = |e: io::Error| {
            let hint = match e.kind() {
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
                    "; is the gateway running with --admin, and is this its address?"
                }
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => " (--admin-timeout)",
                _ => "",
            };
            failed(format_args!("asking {}: {e}{hint}", self.admin))
        };
        let (mut wire, host) = self.connect().map_err(doing)?;
        let token = match token {
            Some(token) => format!("Authorization: Bearer {token}\r\n"),
            None => String::new(),
        };
        write!(wire, "GET {path} HTTP/1.0\r\nHost: {host}\r\n{token}\r\n").map_err(doing)?;
        let mut bytes = Vec::new();
        wire.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).map_err(doing)?;
        let text = String::from_utf8_lossy(&bytes);
        let answer = text.split_once("\r\n\r\n").and_then(|(head, body)| {
            let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
            Some((status, body.to_owned()))
        });
        answer.ok_or_else(|| {
            failed(format_args!("{} does not speak as an admin listener does", self.admin))
        })
    }

    fn token(&self) -> Result<Option<String>, Failure> {
        let token = crate::device::token(
            self.admin_token_file.as_deref(),
            "--admin-token-file",
            "PTTH_ADMIN_TOKEN",
        )?;
        match &token {
            Some(text) if !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Err(usage("the operator's token has bytes that no token has"))
            }
            _ => Ok(token),
        }
    }

    fn json(&self, path: &str, token: Option<&str>) -> Result<Value, Failure> {
        match self.ask(path, token)? {
            (200, body) => serde_json::from_str(&body)
                .map_err(|e| failed(format_args!("{} gave no JSON: {e}", self.admin))),
            (401, _) => Err(usage(
                "this admin listener wants a token; set PTTH_ADMIN_TOKEN, or give --admin-token-file",
            )),
            (status, body) => Err(failed(format_args!("{}: {status} {}", self.admin, body.trim()))),
        }
    }
}

pub(crate) fn health(args: &HealthArgs) -> Result<(), Failure> {
    let (status, body) = args.at.ask(if args.live { "/healthz" } else { "/readyz" }, None)?;
    match status {
        200 => print_line(body.trim()),
        status => Err(failed(format_args!("{status} {}", body.trim()))),
    }
}

pub(crate) fn status(args: &StatusArgs) -> Result<(), Failure> {
    let token = args.at.token()?;
    loop {
        let began = Instant::now();
        let shown = show(args, token.as_deref())?;
        if args.watch && io::stdout().is_terminal() {
            print_line(format_args!("\x1b[H\x1b[2J{shown}"))?;
        } else {
            print_line(shown)?;
        }
        if !args.watch {
            return Ok(());
        }
        std::thread::sleep(PERIOD.saturating_sub(began.elapsed()));
    }
}

fn show(args: &StatusArgs, token: Option<&str>) -> Result<String, Failure> {
    if let Some(name) = &args.name {
        let device = args.at.json(&format!("/api/v1/devices/{}", encoded(name)), token)?;
        return Ok(if args.json { device.to_string() } else { one(&device) });
    }
    let silent = args.silent_for.map(|time| format!("&silent_for={}s", time.as_secs()));
    let path = format!(
        "/api/v1/devices?sort={}&limit={}{}",
        encoded(&args.sort),
        args.limit,
        silent.unwrap_or_default()
    );
    let list = args.at.json(&path, token)?;
    if args.json {
        return Ok(list.to_string());
    }
    let totals = args.at.json("/api/v1/status", token)?;
    Ok(format!("{}\n{}", summary(&totals, &list), table(&rows_of(&list))))
}

/// Everything but unreserved characters as `%` and two digits.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
        encoded
    })
}

fn summary(totals: &Value, list: &Value) -> String {
    let number = |path: &str| totals.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let stopping = if totals["stopping"] == true { "stopping; " } else { "" };
    format!(
        "{stopping}{} devices connected, {} known, {} shown; {} requests ({} errors), {} in progress, {} waiting",
        number("/devices/connected"),
        number("/devices/known"),
        list["devices"].as_array().map_or(0, Vec::len),
        number("/requests"),
        number("/errors"),
        number("/in_progress"),
        number("/waiting"),
    )
}

/// A text, or a number, as it stands; `-` for null.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Milliseconds as people say them.
fn time(value: &Value) -> String {
    match value.as_f64() {
        None => "-".to_owned(),
        Some(ms) if ms < 1_000.0 => format!("{ms:.0} ms"),
        Some(ms) if ms < 120_000.0 => format!("{:.1} s", ms / 1_000.0),
        Some(ms) if ms < 7_200_000.0 => format!("{:.0} m", ms / 60_000.0),
        Some(ms) => format!("{:.0} h", ms / 3_600_000.0),
    }
}

/// How long ago a moment in seconds since 1970 was.
fn ago(value: &Value) -> String {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let since = value.as_f64().map(|at| (now.as_secs_f64() - at).max(0.0) * 1_000.0);
    since.map_or_else(|| "-".to_owned(), |ms| time(&Value::from(ms)))
}

fn rows_of(list: &Value) -> Vec<Vec<String>> {
    let head = [
        "name",
        "state",
        "transport",
        "idle",
        "busy",
        "waiting",
        "silent",
        "requests",
        "errors",
        "p50",
        "p99",
        "address",
        "token",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for device in list["devices"].as_array().into_iter().flatten() {
        let state = match device["cause"].as_str() {
            Some(cause) => format!("down ({cause})"),
            None => plain(&device["state"]),
        };
        rows.push(vec![
            plain(&device["name"]),
            state,
            plain(&device["transport"]),
            plain(&device["links"]["idle"]),
            plain(&device["links"]["busy"]),
            plain(&device["waiting"]),
            time(&device["silent_ms"]),
            plain(&device["requests"]),
            plain(&device["errors"]),
            time(&device["latency_ms"]["p50"]),
            time(&device["latency_ms"]["p99"]),
            plain(&device["offer"]["address"]),
            plain(&device["offer"]["token"]),
        ]);
    }
    rows
}

/// Columns as wide as their longest cell.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |n: usize| rows.iter().filter_map(|row| row.get(n)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|n| width(n).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn one(device: &Value) -> String {
    let list = Value::from_iter([("devices", Value::from(vec![device.clone()]))]);
    let mut text = table(&rows_of(&list));
    let _ = write!(
        text,
        "\n{} for {}, {} times up",
        plain(&device["state"]),
        ago(&device["since"]),
        plain(&device["times_up"])
    ); // a String takes all
    if let Some(failures) = device["failures"].as_object().filter(|failures| !failures.is_empty()) {
        let told = failures.iter().map(|(reason, count)| format!("{reason} {count}"));
        let _ = write!(text, "; failures: {}", told.collect::<Vec<_>>().join(", "));
    }
    let section = |title: &str, list: &Value, of: &dyn Fn(&Value) -> Vec<String>| {
        let rows: Vec<Vec<String>> = list.as_array().into_iter().flatten().map(of).collect();
        if rows.is_empty() { String::new() } else { format!("\n\n{title}\n{}", table(&rows)) }
    };
    text.push_str(&section("requests", &device["recent_requests"], &|done| {
        vec![
            format!("{} ago", ago(&done["at"])),
            plain(&done["method"]),
            plain(&done["status"]),
            time(&done["took_ms"]),
            format!("waited {}", time(&done["waited_ms"])),
            plain(&done["path"]),
            done["failure"].as_str().unwrap_or_default().to_owned(),
        ]
    }));
    text.push_str(&section("ups and downs", &device["recent_changes"], &|change| {
        vec![
            format!("{} ago", ago(&change["at"])),
            plain(&change["kind"]),
            change["cause"].as_str().unwrap_or_default().to_owned(),
            plain(&change["reason"]),
        ]
    }));
    text
}
