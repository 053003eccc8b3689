//! `--access-log`: a line for each request, written by a separate thread.
//!
//! A slow disk costs lines and delays no request; the log reports how many lines were lost. The
//! file is reopened on SIGHUP, as logrotate requires.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::RecvTimeoutError;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use clap::{Args, ValueEnum};
use reverse_http::gateway::ExchangeRecord;
use reverse_http::{Gateway, Subscription};
use serde_json::json;

use crate::{Failure, failed, files, output, usage};

/// The most records that wait to be written, within the gateway's bound in bytes. Further ones are
/// lost, and their number is reported.
const RECORDS_MAX: usize = 8_192;
/// Bytes that are written at once.
const BATCH: usize = 64 * 1024;
/// How often lost records are reported.
const NOTICE_PERIOD: Duration = Duration::from_secs(10);
/// How long the end of the process waits for lines that are not written yet.
const FINISH: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(crate) struct AccessLogArgs {
    /// Write a line for each request to this file (`-`: standard output); reopened on SIGHUP
    #[arg(long, value_name = "FILE|-", env = "PTTH_ACCESS_LOG")]
    access_log: Option<PathBuf>,
    /// The form of its lines: Common Log Format, the same with referer and user agent, or JSON with
    /// everything
    /// [default: combined]
    #[arg(long, value_enum, env = "PTTH_ACCESS_LOG_FORMAT")]
    access_log_format: Option<Format>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Common,
    Combined,
    Json,
}

impl AccessLogArgs {
    pub(crate) fn is_on(&self) -> bool {
        self.access_log.is_some()
    }

    /// Returns true if it is a file, which SIGHUP reopens.
    pub(crate) fn is_file(&self) -> bool {
        self.access_log.as_ref().is_some_and(|path| path.as_os_str() != "-")
    }

    /// Opens the file. This may hang for a while, so it must not be called while signals have to be
    /// handled.
    ///
    /// # Errors
    /// The file cannot be opened, or not in time.
    pub(crate) fn open(&self) -> Result<Option<Opened>, Failure> {
        self.check_format()?;
        let Some(path) = self.access_log.clone() else { return Ok(None) };
        let to = match path.as_os_str() == "-" {
            true => Target::Output,
            false => Target::File {
                file: open(&path, true).map_err(|e| usage(told(&path, e)))?,
                path,
                failing: false,
            },
        };
        Ok(Some(Opened { to, format: self.access_log_format.unwrap_or(Format::Combined) }))
    }

    fn check_format(&self) -> Result<(), Failure> {
        match (&self.access_log, self.access_log_format) {
            (None, Some(_)) => Err(usage("--access-log-format goes with --access-log")),
            _ => Ok(()),
        }
    }

    /// Checks whether the file can be written, without creating it.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.check_format()?;
        let Some(path) = self.access_log.as_ref().filter(|path| path.as_os_str() != "-") else {
            return Ok(());
        };
        let folder = match path.parent() {
            Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
            Some(folder) => folder,
            None => path,
        };
        match path.try_exists() {
            Ok(false) if folder.is_dir() => Ok(()),
            _ => open(path, false).map(drop).map_err(|e| usage(told(path, e))),
        }
    }
}

/// An opened log, before its first line.
pub(crate) struct Opened {
    to: Target,
    format: Format,
}

impl Opened {
    /// Starts to write.
    pub(crate) fn start(self, gateway: &Gateway) -> Result<AccessLog, Failure> {
        let records = gateway.records(RECORDS_MAX)?;
        let again = Arc::new(AtomicBool::new(false));
        let asked = again.clone();
        let thread = std::thread::Builder::new()
            .name("ptth-access-log".to_owned())
            .spawn(move || write_all(self.to, &records, self.format, &asked))
            .map_err(failed)?;
        Ok(AccessLog { again, thread, lost: Lost::default() })
    }
}

/// The log's thread.
pub(crate) struct AccessLog {
    again: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    lost: Lost,
}

impl AccessLog {
    /// The flag that makes the next line reopen the file.
    pub(crate) fn reopen_flag(&self) -> Arc<AtomicBool> {
        self.again.clone()
    }

    /// Logs the number of lost lines from time to time. Has to be called regularly, on a thread
    /// that does not write.
    pub(crate) fn tell_lost(&mut self, gateway: &Gateway) {
        let lost = gateway.stats().records_lost;
        if let Some(number) = self.lost.due(lost, Instant::now()) {
            tell_lost(number);
        }
    }

    /// Waits for a bounded time until everything is written. The gateway has stopped.
    pub(crate) fn finish(self, gateway: &Gateway) {
        let end = Instant::now() + FINISH;
        while !self.thread.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        let lost = gateway.stats().records_lost - self.lost.number;
        if lost > 0 {
            tell_lost(lost);
        }
    }
}

fn tell_lost(number: u64) {
    log::warn!(
        "{number} requests are not in the access log: it could not be written as fast as they came"
    );
}

/// The lost requests that were reported.
#[derive(Default)]
struct Lost {
    number: u64,
    told: Option<Instant>,
}

impl Lost {
    /// The number of lost lines to report, if a report is due: an overloaded process must not be
    /// flooded by reports.
    fn due(&mut self, all: u64, now: Instant) -> Option<u64> {
        let is_due =
            self.told.is_none_or(|told| now.saturating_duration_since(told) >= NOTICE_PERIOD);
        let new = all.saturating_sub(self.number);
        (is_due && new > 0).then(|| {
            *self = Lost { number: all, told: Some(now) };
            new
        })
    }
}

fn told(path: &Path, error: impl Display) -> String {
    format!("--access-log {}: {error}", path.display())
}

/// Opens the file in non-blocking mode: a FIFO without a reader would block, and a network file
/// system may hang.
fn open(path: &Path, create: bool) -> Result<File, String> {
    let path = path.to_owned();
    files::on_a_thread(files::AGAIN, move || {
        let opened = OpenOptions::new().create(create).append(true).open(path);
        opened.map_err(|e| e.to_string())
    })
}

enum Target {
    Output,
    /// With `failing` it was already reported that the file cannot be written.
    File {
        file: File,
        path: PathBuf,
        failing: bool,
    },
}

impl Target {
    fn open_again(&mut self) {
        let Target::File { file, path, .. } = self else { return };
        match open(path, true) {
            Ok(new) => {
                *file = new;
                log::info!("the access log {} was reopened", path.display());
            }
            Err(e) => log::error!("{}; the file that was open stays", told(path, e)),
        }
    }

    fn write(&mut self, lines: &[u8]) {
        match self {
            Target::Output => output::say_lines(lines),
            Target::File { file, path, failing } => match file.write_all(lines) {
                Ok(()) => *failing = false,
                Err(_) if *failing => {}
                Err(e) => {
                    *failing = true;
                    log::error!("{}; lines are lost", told(path, &e));
                }
            },
        }
    }
}

fn write_all(
    mut to: Target,
    records: &Subscription<ExchangeRecord>,
    format: Format,
    again: &AtomicBool,
) {
    let mut lines = Vec::with_capacity(BATCH);
    loop {
        let first = records.recv_timeout(Duration::from_millis(500));
        if again.swap(false, SeqCst) {
            to.open_again();
        }
        let first = match first {
            Ok(record) => record,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        lines.clear();
        for record in std::iter::once(first).chain(records.try_iter()) {
            write_line(&mut lines, &record, format);
            if lines.len() >= BATCH {
                break;
            }
        }
        to.write(&lines);
    }
}

fn write_line(lines: &mut Vec<u8>, record: &ExchangeRecord, format: Format) {
    let written = match format {
        Format::Json => write!(lines, "{}", in_ascii(&as_json(record).to_string())).is_ok(),
        Format::Common => common(lines, record).is_ok(),
        Format::Combined => common(lines, record)
            .and_then(|()| {
                write!(
                    lines,
                    " {} {}",
                    quoted(record.referer.as_deref().unwrap_or("-")),
                    quoted(record.user_agent.as_deref().unwrap_or("-"))
                )
            })
            .is_ok(),
    };
    if written {
        lines.push(b'\n');
    }
}

/// `HOST - TOKEN [DATE] "REQUEST" STATUS BYTES`, with the token's label instead of a user.
fn common(lines: &mut Vec<u8>, record: &ExchangeRecord) -> io::Result<()> {
    let visitor = record.visitor.map_or_else(|| "-".to_owned(), |address| address.to_string());
    let token = record.token.as_deref().map_or_else(|| "-".to_owned(), word);
    let [day, month, year, time] = date(record.at);
    let request = match (&*record.method, &*record.target) {
        ("", "") => "-".to_owned(),
        ("", line) => line.to_owned(), // the bytes of an invalid request line
        (method, target) => format!("{method} {target} HTTP/1.{}", record.minor),
    };
    let bytes = match record.from_device {
        0 => "-".to_owned(),
        bytes => bytes.to_string(),
    };
    let status = match record.status {
        0 => "-".to_owned(), // the visitor left before
        status => status.to_string(),
    };
    write!(
        lines,
        "{visitor} - {token} [{day}/{month}/{year}:{time} +0000] {} {status} {bytes}",
        quoted(&request)
    )
}

/// A label as one word: separators and control characters are escaped as in strings.
fn word(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' | b'[' | b']' => safe.push_str(&format!("\\x{byte:02X}")),
            b'!'..=b'~' => safe.push(char::from(byte)),
            _ => safe.push_str(&format!("\\x{byte:02X}")),
        }
    }
    safe
}

/// Escapes text as Apache and nginx do: nothing ends the string or the line, or controls a
/// terminal.
fn quoted(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + 2);
    safe.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => safe.extend(['\\', c]),
            c if c.is_control() || !c.is_ascii() => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    safe.push_str(&format!("\\x{byte:02X}"));
                }
            }
            c => safe.push(c),
        }
    }
    safe.push('"');
    safe
}

/// JSON in ASCII, because other characters might control a terminal.
fn in_ascii(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            ' '..='~' => safe.push(c),
            c => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    safe.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    safe
}

/// Day, name of the month, year and time of day, in UTC.
fn date(at: SystemTime) -> [String; 4] {
    let text = httpdate::fmt_http_date(at); // Sun, 06 Nov 1994 08:49:37 GMT
    let mut parts = text.split(' ').skip(1).map(str::to_owned);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

fn rfc_3339(at: SystemTime) -> String {
    let [day, month, year, time] = date(at);
    let months = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let number = months.find(&month).unwrap_or(0) / 3 + 1;
    let millis = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_millis();
    format!("{year}-{number:02}-{day}T{time}.{millis:03}Z")
}

fn as_json(record: &ExchangeRecord) -> serde_json::Value {
    let millis = |time: Duration| time.as_micros() as f64 / 1000.0;
    json!({
        "time": rfc_3339(record.at),
        "device": Some(&record.device).filter(|name| !name.is_empty()),
        "token": record.token,
        "visitor": record.visitor.as_ref().map(IpAddr::to_string),
        "method": Some(&record.method).filter(|method| !method.is_empty()),
        "target": record.target,
        "protocol": format!("HTTP/1.{}", record.minor),
        "host": record.host,
        "status": Some(record.status).filter(|status| *status != 0),
        "bytes_to_device": record.to_device,
        "bytes_from_device": record.from_device,
        "waited_ms": millis(record.waited),
        "first_byte_ms": record.first_byte.map(millis),
        "total_ms": millis(record.took),
        "link": record.link,
        "retried": record.retried,
        "gateway": record.gateway.as_deref(),
        "from_gateway": record.from_gateway,
        "failure": record.failure,
        "request_id": record.request_id,
        "referer": record.referer,
        "user_agent": record.user_agent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_both_ways() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_042);
        assert_eq!(rfc_3339(at), "1994-11-06T08:49:37.042Z");
        assert_eq!(date(at), ["06", "Nov", "1994", "08:49:37"].map(str::to_owned));
    }

    #[test]
    fn what_is_lost_is_told_now_and_then_and_none_of_it_twice() {
        let (mut lost, began) = (Lost::default(), Instant::now());
        assert_eq!(lost.due(0, began), None);
        assert_eq!(lost.due(3, began), Some(3));
        assert_eq!(lost.due(9, began + NOTICE_PERIOD / 2), None);
        assert_eq!(lost.due(9, began + NOTICE_PERIOD), Some(6));
        assert_eq!(lost.due(9, began + 3 * NOTICE_PERIOD), None);
    }

    #[test]
    fn nothing_ends_a_quoted_string() {
        assert_eq!(quoted("a\"b\\c\r\n\u{1b}[2J"), "\"a\\\"b\\\\c\\x0D\\x0A\\x1B[2J\"");
    }
}
