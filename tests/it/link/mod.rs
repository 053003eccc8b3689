//! Layer 2 from outside: links over scripted transports (every byte and every deadline decided by
//! the test) and over Unix socket pairs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod body;
mod device;
mod gateway;
mod pairs;
mod turn;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reverse_http::Limits;
use reverse_http::stream::TimedStream;

/// One step of a [`Script`]'s reads.
#[derive(Clone, Debug)]
pub enum Step {
    /// These bytes, as many as fit into one read.
    Give(Vec<u8>),
    /// What a socket says when its read deadline passes.
    Timeout,
    /// A signal.
    Interrupted,
    /// Only once the link has written this, and nothing else since the last such step; then the
    /// next step at once.
    Written(Vec<u8>),
    /// Only once what the link has written ends like this.
    WrittenTail(Vec<u8>),
    Fail(io::ErrorKind),
}

/// What a [`Script`] saw, to be looked at while the link holds the transport.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<Mutex<Record>>);

#[derive(Debug, Default)]
struct Record {
    written: Vec<u8>,
    checked: usize,
    reads: usize,
    writes: usize,
    read_limits: Vec<Option<Duration>>,
    write_limits: Vec<Option<Duration>>,
}

impl Seen {
    pub fn written(&self) -> Vec<u8> {
        self.0.lock().unwrap().written.clone()
    }
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.written()).into_owned()
    }
    /// Calls since the last time this was asked: reads, writes, and how often a deadline was set.
    pub fn calls(&self) -> (usize, usize, usize) {
        let mut record = self.0.lock().unwrap();
        let limits = record.read_limits.len() + record.write_limits.len();
        record.read_limits.clear();
        record.write_limits.clear();
        (std::mem::take(&mut record.reads), std::mem::take(&mut record.writes), limits)
    }
    pub fn read_limits(&self) -> Vec<Option<Duration>> {
        self.0.lock().unwrap().read_limits.clone()
    }
}

/// A transport that follows a script. When the script is over, the peer has closed.
#[derive(Debug)]
pub struct Script {
    steps: VecDeque<Step>,
    seen: Seen,
    /// Most bytes one write takes.
    write_max: usize,
    /// Bytes taken in all before writing fails so.
    write_fails: Option<(usize, io::ErrorKind)>,
}

impl Script {
    pub fn new(steps: impl IntoIterator<Item = Step>) -> (Script, Seen) {
        let seen = Seen::default();
        (
            Script {
                steps: steps.into_iter().collect(),
                seen: seen.clone(),
                write_max: usize::MAX,
                write_fails: None,
            },
            seen,
        )
    }
    pub fn giving(bytes: &[u8]) -> (Script, Seen) {
        Script::new([Step::Give(bytes.to_vec())])
    }
    pub fn write_max(mut self, bytes: usize) -> Self {
        self.write_max = bytes;
        self
    }
    pub fn write_fails(mut self, after: usize, kind: io::ErrorKind) -> Self {
        self.write_fails = Some((after, kind));
        self
    }
}

impl Read for Script {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut record = self.seen.0.lock().unwrap();
        record.reads += 1;
        loop {
            match self.steps.pop_front() {
                None => return Ok(0),
                Some(Step::Give(bytes)) if bytes.is_empty() => {}
                Some(Step::Give(mut bytes)) => {
                    let n = bytes.len().min(buf.len());
                    buf[..n].copy_from_slice(&bytes[..n]);
                    let rest = bytes.split_off(n);
                    if !rest.is_empty() {
                        self.steps.push_front(Step::Give(rest));
                    }
                    return Ok(n);
                }
                Some(Step::Timeout) => return Err(io::ErrorKind::WouldBlock.into()),
                Some(Step::Interrupted) => return Err(io::ErrorKind::Interrupted.into()),
                Some(Step::Fail(kind)) => return Err(kind.into()),
                Some(Step::Written(wanted)) => {
                    let new = record.written[record.checked..].to_vec();
                    assert_eq!(String::from_utf8_lossy(&new), String::from_utf8_lossy(&wanted));
                    record.checked += new.len();
                }
                Some(Step::WrittenTail(wanted)) => {
                    let text = String::from_utf8_lossy(&record.written).into_owned();
                    assert!(
                        record.written.ends_with(&wanted),
                        "{text:?} does not end with {:?}",
                        String::from_utf8_lossy(&wanted)
                    );
                }
            }
        }
    }
}

impl Write for Script {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut record = self.seen.0.lock().unwrap();
        record.writes += 1;
        let mut n = buf.len().min(self.write_max);
        if let Some((after, kind)) = self.write_fails {
            let room = after.saturating_sub(record.written.len());
            if room == 0 {
                return Err(kind.into());
            }
            n = n.min(room);
        }
        record.written.extend_from_slice(&buf[..n]);
        Ok(n)
    }
    fn write_vectored(&mut self, bufs: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let all: Vec<u8> = bufs.iter().flat_map(|b| b.iter().copied()).collect();
        self.write(&all)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TimedStream for Script {
    fn limit_read(&mut self, time: Option<Duration>) -> io::Result<()> {
        assert_ne!(time, Some(Duration::ZERO), "a socket takes no zero");
        self.seen.0.lock().unwrap().read_limits.push(time);
        Ok(())
    }
    fn limit_write(&mut self, time: Option<Duration>) -> io::Result<()> {
        assert_ne!(time, Some(Duration::ZERO), "a socket takes no zero");
        self.seen.0.lock().unwrap().write_limits.push(time);
        Ok(())
    }
}

pub fn limits() -> Arc<Limits> {
    Arc::new(Limits::default())
}

/// A sample message of tests/vectors.
pub fn vector(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(format!("{name}.http"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every way to cut bytes into two reads, the uncut one included.
pub fn splits(bytes: &[u8]) -> impl Iterator<Item = Vec<Step>> + '_ {
    (0..=bytes.len())
        .map(|at| vec![Step::Give(bytes[..at].to_vec()), Step::Give(bytes[at..].to_vec())])
}

/// One byte per read.
pub fn drip(bytes: &[u8]) -> Vec<Step> {
    bytes.iter().map(|&byte| Step::Give(vec![byte])).collect()
}

/// `message` without its `Date` line; panics where it has none or more than one, or one that is no
/// IMF-fixdate.
pub fn without_date(message: &str) -> String {
    let dates: Vec<&str> = message.lines().filter(|line| line.starts_with("Date: ")).collect();
    assert_eq!(dates.len(), 1, "{message}");
    assert!(httpdate_is_fixdate(dates[0].trim_start_matches("Date: ")), "{message}");
    message.replacen(&format!("{}\r\n", dates[0]), "", 1)
}

fn httpdate_is_fixdate(date: &str) -> bool {
    date.len() == 29 && date.ends_with(" GMT") && date.as_bytes()[3] == b','
}
