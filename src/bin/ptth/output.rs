//! Standard output and standard error.
//!
//! Lines of a serving process ([`say`]) never wait for their reader: a separate thread writes them,
//! so a full disk, a closed pipe, a paused terminal or a log collector that hangs costs lines, and
//! delays no request. The output of other commands ([`print()`]) is written completely, or the
//! command fails.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::{Failure, failed};

/// The most lines that wait to be written, for each output. Further ones are lost, and their number
/// is reported when writing continues.
const LINES_MAX: usize = 1024;
/// How long the end of the process waits for lines that are not written yet.
const FINISH: Duration = Duration::from_secs(1);

static STDOUT: OnceLock<Output> = OnceLock::new();
static STDERR: OnceLock<Output> = OnceLock::new();

/// One of the two outputs. Clones write to the same one.
#[derive(Clone)]
pub(crate) struct Output {
    lines: SyncSender<Vec<u8>>,
    unwritten: Arc<AtomicUsize>,
    lost: Arc<AtomicUsize>,
}

impl Output {
    /// `tell` makes the report of lost lines.
    fn start(
        name: &'static str,
        to: impl Write + Send + 'static,
        tell: fn(&mut dyn Write, &str),
    ) -> io::Result<Output> {
        let (lines, queue) = sync_channel(LINES_MAX);
        let output = Output { lines, unwritten: Arc::default(), lost: Arc::default() };
        let (unwritten, lost) = (output.unwritten.clone(), output.lost.clone());
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || write_lines(to, &queue, (&unwritten, &lost), tell))?;
        Ok(output)
    }

    /// One or more whole lines.
    fn put(&self, lines: Vec<u8>) {
        self.unwritten.fetch_add(1, SeqCst);
        if let Err(TrySendError::Full(lines) | TrySendError::Disconnected(lines)) =
            self.lines.try_send(lines)
        {
            self.unwritten.fetch_sub(1, SeqCst);
            let number = lines.iter().filter(|byte| **byte == b'\n').count();
            self.lost.fetch_add(number, SeqCst);
        }
    }
}

/// Lines that cannot be written are lost: there is no place to report it.
fn write_lines(
    mut to: impl Write,
    queue: &Receiver<Vec<u8>>,
    (unwritten, lost): (&AtomicUsize, &AtomicUsize),
    tell: fn(&mut dyn Write, &str),
) {
    for line in queue {
        let missed = lost.swap(0, SeqCst);
        if missed > 0 {
            tell(
                &mut to,
                &format!(
                    "{missed} lines were lost: they could not be written as fast as they came"
                ),
            );
        }
        let _ = to.write_all(&line).and_then(|()| to.flush());
        unwritten.fetch_sub(1, SeqCst);
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes.to_vec());
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts both threads; bytes that are written to the result go to standard error.
///
/// # Errors
/// No thread could be started.
pub(crate) fn start() -> io::Result<Output> {
    // Standard output may be an access log, in which a notice must not appear.
    let out = Output::start("ptth-stdout", io::stdout(), |_, what| {
        log::warn!("standard output: {what}");
    })?;
    let err = Output::start("ptth-stderr", io::stderr(), |stderr, what| {
        let _ = writeln!(stderr, "ptth: {what}");
    })?;
    let errors = STDERR.get_or_init(|| err).clone();
    let _ = STDOUT.set(out);
    Ok(errors)
}

/// A line for the process that started us.
pub(crate) fn say(line: impl Display) {
    if let Some(out) = STDOUT.get() {
        out.put(format!("{line}\n").into_bytes());
    }
}

/// Whole lines for the process that started us.
pub(crate) fn say_lines(lines: &[u8]) {
    if let Some(out) = STDOUT.get() {
        out.put(lines.to_vec());
    }
}

/// Writes the output of a command before this returns; a slow reader delays nothing else.
///
/// # Errors
/// It could not be written. If the reader has left, there is no message.
pub(crate) fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => failed(""),
        _ => failed(format_args!("standard output: {e}")),
    })
}

/// The same for a line.
///
/// # Errors
/// Those of [`print()`].
pub(crate) fn print_line(line: impl Display) -> Result<(), Failure> {
    print(format!("{line}\n").as_bytes())
}

/// An error line for the user.
pub(crate) fn complain(line: impl Display) {
    if let Some(err) = STDERR.get() {
        err.put(format!("{line}\n").into_bytes());
    }
}

/// Waits for a bounded time until everything is written.
pub(crate) fn finish() {
    let end = Instant::now() + FINISH;
    let waits = || {
        [&STDOUT, &STDERR]
            .into_iter()
            .filter_map(OnceLock::get)
            .any(|output| output.unwritten.load(SeqCst) > 0)
    };
    while waits() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
}
