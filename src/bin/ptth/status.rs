//! `ptth status` and `ptth health`: the answers of a gateway's admin listener, in a terminal.

use std::fmt::{Display, Write as _};
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use clap::Args;
use reverse_http::text::{counted, misleads};
use serde_json::Value;

use crate::arguments::{number_up_to, some_time};
use crate::config::duration;
use crate::output::print_line;
use crate::wire::{Part, Wire, looked_up};
use crate::{Failure, failed, usage};

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Longest line of a refusal that is shown, in characters.
const LINE_CHARS_MAX: usize = 400;
/// Longest cell of a table, in characters: each row is as wide as the longest cells.
const CELL_CHARS_MAX: usize = 400;
/// The most rows of a table, whatever the other side sends.
const ROWS_MAX: usize = 1_000;
/// The most other gateways that are listed.
const OTHERS_MAX: usize = 32;
/// The most devices in the table.
const LIMIT_MAX: u64 = ROWS_MAX as u64;
/// The interval of `--watch`.
const PERIOD: Duration = Duration::from_secs(2);
/// The most refused offers above the table of devices, and their maximum age.
const REFUSED: usize = 5;
const REFUSED_LATELY: Duration = Duration::from_secs(600);

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
    /// How long an answer may take, in all
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = some_time, env = "PTTH_ADMIN_TIMEOUT")]
    admin_timeout: Duration,
}

#[derive(Args)]
pub(crate) struct StatusArgs {
    /// One device, with its latest requests and connection changes (default: a table of all
    /// devices)
    name: Option<String>,
    #[command(flatten)]
    at: AdminAt,
    /// Print the listener's JSON (docs/admin.md)
    #[arg(long)]
    json: bool,
    /// Repeat every two seconds, until interrupted; a gateway that is away meanwhile is told on
    /// standard error
    #[arg(long)]
    watch: bool,
    /// Only devices that were silent for this time
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    silent_for: Option<Duration>,
    /// The order: name, state, links, idle, busy, waiting, silent, since, ups, requests, errors, p50, p99,
    /// bytes or address, falling with - before it
    #[arg(long, value_name = "KEY", default_value = "name", allow_hyphen_values = true, value_parser = sort_key)]
    sort: String,
    /// Devices in the table, at most
    #[arg(long, value_name = "N", default_value_t = LIMIT_MAX, value_parser = limit)]
    limit: u64,
}

/// The keys by which the admin listener sorts devices (docs/admin.md).
const SORT_KEYS: [&str; 15] = [
    "name", "state", "links", "idle", "busy", "waiting", "silent", "since", "ups", "requests",
    "errors", "p50", "p99", "bytes", "address",
];

fn sort_key(text: &str) -> Result<String, String> {
    match SORT_KEYS.contains(&text.strip_prefix('-').unwrap_or(text)) {
        true => Ok(text.to_owned()),
        false => Err(format!("write one of {}, falling with - before it", SORT_KEYS.join(", "))),
    }
}

fn limit(text: &str) -> Result<u64, String> {
    number_up_to(text, LIMIT_MAX)
}

#[derive(Args)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    at: AdminAt,
    /// Check whether the gateway is alive (/healthz), not whether it serves (/readyz)
    #[arg(long)]
    live: bool,
}

impl AdminAt {
    fn connect(&self, until: Instant) -> io::Result<(Wire, String)> {
        if let Some(path) = self.admin.strip_prefix("unix:") {
            return Ok((Wire::to_unix(path, until)?, "localhost".to_owned()));
        }
        let host = self.admin.strip_prefix("http://").unwrap_or(&self.admin).trim_end_matches('/');
        let found = looked_up(host.to_owned(), until).map_err(io::Error::other)?;
        Ok((Wire::dial(&found, until)?, host.to_owned()))
    }

    /// Status and body of one GET, within --admin-timeout in all.
    fn ask(&self, path: &str, token: Option<&str>) -> Result<(u16, String), Failure> {
        let until = Instant::now() + self.admin_timeout;
        let doing =
            |e: &dyn Display, hint| failed(format_args!("asking {}: {e}{hint}", self.admin));
        let (mut wire, host) = self.connect(until).map_err(|e| match e.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
                doing(&e, "; is the gateway running with --admin, and is this its address?")
            }
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => doing(&e, " (--admin-timeout)"),
            _ => doing(&e, ""),
        })?;
        let token = match token {
            Some(token) => format!("Authorization: Bearer {token}\r\n"),
            None => String::new(),
        };
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{token}\r\n");
        wire.send(request.as_bytes()).map_err(|e| doing(&e, ""))?;
        let mut body = Vec::new();
        let answered = wire.answer("GET", ANSWER_BYTES_MAX, |_, part| {
            if let Part::Body(data) = part {
                body.extend_from_slice(data);
            }
            Ok(())
        });
        let status = answered.map_err(|failure| doing(&failure.text, ""))?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
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
        self.read(self.ask(path, token)?, token)
    }

    /// The same for a path that only some gateways have.
    fn json_if_there(&self, path: &str, token: Option<&str>) -> Result<Option<Value>, Failure> {
        match self.ask(path, token)? {
            (404, _) => Ok(None),
            answer => self.read(answer, token).map(Some),
        }
    }

    fn read(&self, answer: (u16, String), token: Option<&str>) -> Result<Value, Failure> {
        match answer {
            (200, body) => serde_json::from_str(&body)
                .map_err(|e| failed(format_args!("{} gave no JSON: {e}", self.admin))),
            (401, _) if token.is_some() => Err(usage(
                "this admin listener does not know the token that was given; it has to be in its --admin-tokens",
            )),
            (401, _) => Err(usage(
                "this admin listener wants a token; set PTTH_ADMIN_TOKEN, or give --admin-token-file",
            )),
            (status, body) => Err(failed(format_args!("{}: {}", self.admin, told(status, &body)))),
        }
    }
}

pub(crate) fn health(args: &HealthArgs) -> Result<(), Failure> {
    let (status, body) = args.at.ask(if args.live { "/healthz" } else { "/readyz" }, None)?;
    match status {
        200 => print_line(shown(body.trim())),
        status => Err(failed(told(status, &body))),
    }
}

/// The text of a refusal.
fn told(status: u16, body: &str) -> String {
    let line = body.trim().lines().next().unwrap_or_default();
    format!("{status} {}", shown(&line.chars().take(LINE_CHARS_MAX).collect::<String>()))
}

/// Removes control characters: the answering program may not be a gateway.
fn shown(text: &str) -> String {
    text.chars().map(|c| if misleads(c) { '?' } else { c }).collect()
}

pub(crate) fn status(args: &StatusArgs) -> Result<(), Failure> {
    let token = args.at.token()?;
    let mut has_shown = false;
    loop {
        let began = Instant::now();
        let shown = match show(args, token.as_deref()) {
            Ok(shown) => shown,
            // A gateway that answered before may be restarting.
            Err(failure) if args.watch && has_shown && failure.code == 1 => {
                log::warn!("{}", failure.text);
                std::thread::sleep(PERIOD.saturating_sub(began.elapsed()));
                continue;
            }
            Err(failure) => return Err(failure),
        };
        has_shown = true;
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
        return Ok(if args.json { json(&device) } else { one(&device) });
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
        return Ok(json(&list));
    }
    let totals = args.at.json("/api/v1/status", token)?;
    let cluster = args.at.json_if_there("/api/v1/cluster", token)?;
    let cluster = cluster.map(|cluster| format!("\n{}", others(&cluster))).unwrap_or_default();
    let bounds = bounds(&totals["bounds_reached"]);
    let refused = refused(&totals["refused_offers"]);
    Ok(format!("{}{cluster}{bounds}{refused}\n{}", summary(&totals, &list), table(&rows_of(&list))))
}

/// A line with the bounds that have kept something out, if there are any.
fn bounds(reached: &Value) -> String {
    let reached = reached.as_object().into_iter().flatten();
    let words: Vec<String> =
        reached.map(|(bound, count)| format!("{} ({})", shown(bound), plain(count))).collect();
    match words.is_empty() {
        true => String::new(),
        false => format!("\nbounds reached so far: {}", words.join(", ")),
    }
}

/// The latest refused offers, a line for each.
fn refused(offers: &Value) -> String {
    let is_late = |refused: &&Value| age(&refused["at"]).is_some_and(|age| age < REFUSED_LATELY);
    let latest: Vec<&Value> =
        offers["latest"].as_array().into_iter().flatten().filter(is_late).take(REFUSED).collect();
    if latest.is_empty() {
        return String::new();
    }
    let lines = latest.into_iter().map(|refused| format!("\n  {}", refusal(refused)));
    format!(
        "\n{} refused so far, of late:{}",
        counted(offers["count"].as_u64().unwrap_or(0), "offer"),
        lines.collect::<String>()
    )
}

fn refusal(refused: &Value) -> String {
    let name = refused["name"].as_str().map_or_else(|| "(no name)".to_owned(), shown);
    format!(
        "{name} from {}: {}, {}, {} ago: {}",
        plain(&refused["address"]),
        plain(&refused["status"]),
        counted(refused["count"].as_u64().unwrap_or(0), "time"),
        ago(&refused["at"]),
        plain(&refused["reason"]),
    )
}

/// Where the directory of gateways has a device that is not connected here.
fn elsewhere(found: &Value) -> String {
    let gateways: Vec<String> =
        found["gateways"].as_array().into_iter().flatten().map(plain).collect();
    match found["error"].as_str() {
        _ if found.is_null() => String::new(),
        Some(why) => {
            format!("\nthe directory of gateways cannot say where it is: {}", shown(why))
        }
        None if gateways.is_empty() => "\nthe directory of gateways knows none that has it".into(),
        None => format!("\nthe directory of gateways has it at {}", gateways.join(", ")),
    }
}

/// Other gateways, and the directory of all.
fn others(cluster: &Value) -> String {
    let directory = &cluster["directory"];
    let mut text = format!("directory ({}): ", plain(&directory["kind"]));
    let away = &directory["away"];
    let _ = match away.is_null() {
        true => write!(text, "answers"),
        false => write!(text, "away for {}: {}", ago(&away["since"]), plain(&away["reason"])),
    }; // writing to a String never fails, here and below
    let names = &directory["names"];
    if !names.is_null() {
        let of = |key| plain(&names[key]);
        let (claimed, unclaimed) = (of("claimed"), of("unclaimed"));
        let _ = write!(text, "; {claimed} claimed, {unclaimed} unclaimed, {} lost", of("lost"));
        if names["restoring"].as_u64() > Some(0) {
            let _ = write!(text, "; {} not yet claimed again", of("restoring"));
        }
    }
    let known = cluster["gateways"].as_array().map(Vec::as_slice).unwrap_or_default();
    for known in known.iter().take(OTHERS_MAX) {
        let _ = write!(text, "\n  {}", announced(known));
    }
    if known.len() > OTHERS_MAX {
        let _ = write!(text, "\n  and {} more", known.len() - OTHERS_MAX);
    }
    let peers = cluster["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let hops = &cluster["hops"];
    let _ = write!(
        text,
        "\nother gateways: {}; hops: {} sent, {} served",
        peers.len(),
        plain(&hops["sent"]),
        plain(&hops["served"])
    );
    for peer in peers.iter().take(OTHERS_MAX) {
        let _ = write!(text, "\n  {}", other(peer));
    }
    if peers.len() > OTHERS_MAX {
        let _ = write!(text, "\n  and {} more", peers.len() - OTHERS_MAX);
    }
    text
}

/// A gateway that was asked, or has asked.
fn other(peer: &Value) -> String {
    let of = |key: &str| plain(&peer[key]);
    let (url, state, failure) = (of("url"), of("state"), &peer["last_failure"]);
    let reached = match state.as_str() {
        "fails" | "hangs" => {
            let hangs = if state == "hangs" { " hangs, and" } else { "" };
            format!(
                "{url}{hangs} failed {} ago: {}",
                ago(&failure["at"]),
                plain(&failure["reason"])
            )
        }
        "unused" => format!("{url}: not asked"),
        _ => format!("{url}: {state}"),
    };
    let (sent, failures, served) = (of("requests"), of("failures"), of("served"));
    format!("{reached}; {sent} sent, {served} served, {failures} failed")
}

/// What a gateway says of itself in the directory.
fn announced(known: &Value) -> String {
    let own = if known["own"] == true { ", this one" } else { "" };
    let names = match known["names"].as_u64() {
        Some(names) => format!("{}, ", counted(names, "name")),
        None => String::new(),
    };
    let silent = if known["lives"] == false { ": it was killed, or is cut off" } else { "" };
    let (url, ago) = (plain(&known["url"]), ago(&known["announced"]));
    format!("{url}{own}: {names}announced {ago} ago{silent}")
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
        "{stopping}{} connected, {} known, {} shown; {} ({}), {} in progress, {} waiting",
        counted(number("/devices/connected"), "device"),
        number("/devices/known"),
        list["devices"].as_array().map_or(0, Vec::len),
        counted(number("/requests"), "request"),
        counted(number("/errors"), "error"),
        number("/in_progress"),
        number("/waiting"),
    )
}

/// A text or a number unchanged; `-` for null.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => shown(text),
        other => shown(&other.to_string()),
    }
}

/// The value in JSON. What a terminal would obey is escaped, which means the same to a parser: such
/// characters occur within strings alone.
fn json(value: &Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        match misleads(c) {
            true => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                let _ = write!(out, "\\u{unit:04x}"); // writing to a String never fails
            }),
            false => out.push(c),
        }
    }
    out
}

/// Milliseconds in words.
fn time(value: &Value) -> String {
    match value.as_f64() {
        None => "-".to_owned(),
        Some(ms) if ms < 1_000.0 => format!("{ms:.0} ms"),
        Some(ms) if ms < 120_000.0 => format!("{:.1} s", ms / 1_000.0),
        Some(ms) if ms < 7_200_000.0 => format!("{:.0} m", ms / 60_000.0),
        Some(ms) => format!("{:.0} h", ms / 3_600_000.0),
    }
}

/// The age of a time in seconds since 1970, in words.
fn ago(value: &Value) -> String {
    let ms = age(value).map(|age| age.as_secs_f64() * 1_000.0);
    ms.map_or_else(|| "-".to_owned(), |ms| time(&Value::from(ms)))
}

fn age(value: &Value) -> Option<Duration> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = (now.unwrap_or_default().as_secs_f64() - value.as_f64()?).max(0.0);
    Duration::try_from_secs_f64(seconds).ok()
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
    for device in list["devices"].as_array().into_iter().flatten().take(ROWS_MAX) {
        let state = match device["cause"].as_str() {
            Some(cause) => format!("down ({})", shown(cause)),
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

/// A cell, with an ellipsis in place of what is too long.
fn cut(cell: &str) -> String {
    match cell.char_indices().nth(CELL_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &cell[..end]),
        None => cell.to_owned(),
    }
}

/// Columns as wide as their longest cell.
fn table(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| cut(cell)).collect()).collect();
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
    ); // writing to a String never fails
    if let Some(failures) = device["failures"].as_object().filter(|failures| !failures.is_empty()) {
        let told = failures.iter().map(|(reason, count)| format!("{} {count}", shown(reason)));
        let _ = write!(text, "; failures: {}", told.collect::<Vec<_>>().join(", "));
    }
    text.push_str(&elsewhere(&device["elsewhere"]));
    let offers = device["refused_offers"].as_array().into_iter().flatten();
    offers.for_each(|refused| text.push_str(&format!("\nrefused: {}", refusal(refused))));
    let section = |title: &str, list: &Value, of: &dyn Fn(&Value) -> Vec<String>| {
        let rows: Vec<Vec<String>> =
            list.as_array().into_iter().flatten().take(ROWS_MAX).map(of).collect();
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
            shown(done["failure"].as_str().unwrap_or_default()),
        ]
    }));
    text.push_str(&section("ups and downs", &device["recent_changes"], &|change| {
        vec![
            format!("{} ago", ago(&change["at"])),
            plain(&change["kind"]),
            shown(change["cause"].as_str().unwrap_or_default()),
            plain(&change["reason"]),
        ]
    }));
    text
}
