//! Reads the files of the command line, bounded in size and in time, and never on the thread that
//! waits for signals.
//!
//! A file may hang (a FIFO, a network file system), never end (a device), vanish, or be written
//! while it is read. Each read runs on a separate thread, which is abandoned if it hangs. At the
//! start, a file is a regular one, or an inherited descriptor (`/dev/stdin`, `<(command)`), or
//! `/dev/null`: opening another FIFO would block. A file that is reloaded while the process serves
//! has to be a regular one that was not written to for a moment.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

/// When a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// At the start: it may be a pipe of the shell (`<(command)`), whose writer may take a while.
    First,
    /// While the process serves.
    Again,
}

const FIRST: Duration = Duration::from_secs(60);
pub(crate) const AGAIN: Duration = Duration::from_secs(5);
/// A file that was written to within this time may be incomplete.
const REST: Duration = Duration::from_millis(200);
/// The most reads at once, including those that hang.
const READINGS_MAX: usize = 16;

/// The most that `--token-file -` reads, in bytes.
const LINE_MAX: usize = 64 * 1024;

static READINGS: AtomicUsize = AtomicUsize::new(0);

/// Counts a read in progress.
struct Counted;

impl Drop for Counted {
    fn drop(&mut self) {
        READINGS.fetch_sub(1, SeqCst);
    }
}

/// How long a read may take.
pub(crate) fn within(reading: Reading) -> Duration {
    if reading == Reading::First { FIRST } else { AGAIN }
}

/// The bytes of a file, at most `most`, without a byte order mark.
///
/// # Errors
/// The fault, without the file's name.
pub(crate) fn read(file: &Path, most: u64, reading: Reading) -> Result<Vec<u8>, String> {
    let file = PathBuf::from(file);
    let bytes = on_a_thread(within(reading), move || match reading {
        Reading::First => bounded(opened_first(&file)?, most),
        Reading::Again => at_rest(&file, most),
    });
    bytes.and_then(without_mark)
}

pub(crate) fn text(
    (option, file): (&str, &Path),
    most: u64,
    reading: Reading,
) -> Result<String, String> {
    let bytes =
        read(file, most, reading).map_err(|what| format!("{option} {}: {what}", file.display()))?;
    String::from_utf8(bytes)
        .map_err(|_| format!("{option} {}: there are bytes that are no UTF-8", file.display()))
}

/// Opens a file, without waiting for the writer of a FIFO.
fn opened(file: &Path) -> Result<(File, Metadata), String> {
    let without_waiting = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(without_waiting)
        .open(file)
        .map_err(|e| e.to_string())?;
    let data = opened.metadata().map_err(|e| e.to_string())?;
    Ok((opened, data))
}

fn opened_first(file: &Path) -> Result<File, String> {
    if is_descriptor(file) {
        return File::open(file).map_err(|e| e.to_string());
    }
    match opened(file)? {
        (_, data) if data.is_dir() => Err("it is a directory".to_owned()),
        (opened, data) if data.is_file() || file == Path::new("/dev/null") => Ok(opened),
        _ => Err(
            "it is not a regular file; of others only /dev/stdin, /dev/fd/N and /dev/null are read"
                .to_owned(),
        ),
    }
}

/// Returns true for an inherited descriptor, as shells name those of `<(command)`.
fn is_descriptor(file: &Path) -> bool {
    file == Path::new("/dev/stdin")
        || file.starts_with("/dev/fd")
        || file.starts_with("/proc/self/fd")
}

/// Removes the byte order mark that Windows programs write before UTF-8, and refuses UTF-16.
fn without_mark(mut bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    match bytes.as_slice() {
        [0xEF, 0xBB, 0xBF, ..] => {
            bytes.drain(..3);
            Ok(bytes)
        }
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => {
            Err("it is UTF-16; save it as UTF-8 (PowerShell: Out-File -Encoding utf8)".to_owned())
        }
        _ => Ok(bytes),
    }
}

/// The first non-blank line of standard input, which need not be closed.
///
/// # Errors
/// The fault.
pub(crate) fn line_of_stdin() -> Result<String, String> {
    on_a_thread(FIRST, || {
        let (mut line, mut byte) = (Vec::new(), [0]);
        let mut stdin = io::stdin().lock();
        while stdin.read(&mut byte).map_err(|e| e.to_string())? > 0 {
            match byte[0] {
                b'\n' if line.trim_ascii().is_empty() => line.clear(),
                b'\n' => break,
                _ if line.len() == LINE_MAX => {
                    return Err(format!("its first line is longer than {} KiB", LINE_MAX >> 10));
                }
                byte => line.push(byte),
            }
        }
        without_mark(line).and_then(|line| {
            String::from_utf8(line).map_err(|_| "there are bytes that are not UTF-8".to_owned())
        })
    })
}

/// Runs a job that may hang on a separate thread, which is abandoned if it does.
///
/// # Errors
/// The job's own; it took too long; too many hang.
pub(crate) fn on_a_thread<T: Send + 'static>(
    within: Duration,
    job: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let before = READINGS.fetch_add(1, SeqCst);
    let counted = Counted;
    if before >= READINGS_MAX {
        return Err(
            "it was not opened: earlier files still hang; mend those files, or restart".to_owned()
        );
    }
    let (tell, told) = sync_channel(1);
    let job = move || {
        let _counted = counted;
        let _ = tell.send(job()); // after the timeout the receiver is gone
    };
    std::thread::Builder::new()
        .name("ptth-read".to_owned())
        .spawn(job)
        .map_err(|e| format!("it was not opened: no thread: {e}"))?;
    told.recv_timeout(within).unwrap_or_else(|_| Err(format!("it took longer than {within:?}")))
}

fn bounded(from: impl Read, most: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    from.take(most + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    match bytes.len() as u64 > most {
        true => Err(format!("it is longer than {} KiB", most >> 10)),
        false => Ok(bytes),
    }
}

/// A value that distinguishes states of a file. A symbolic link is followed, so moving it counts as
/// a change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    file: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(file: &Path) -> io::Result<Stamp> {
        std::fs::metadata(file).map(|data| Stamp::from(&data))
    }
}

impl From<&Metadata> for Stamp {
    fn from(data: &Metadata) -> Self {
        Stamp {
            file: (data.dev(), data.ino()),
            length: data.len(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        }
    }
}

/// Reads a regular file that was not written to recently.
fn at_rest(file: &Path, most: u64) -> Result<Vec<u8>, String> {
    let end = Instant::now() + AGAIN - AGAIN / 5; // the caller gets the error within its time
    loop {
        let (opened, data) = opened(file)?;
        if !data.is_file() {
            return Err("it is not a regular file, and only those are read again".to_owned());
        }
        let bytes = bounded(opened, most)?;
        let rests = Stamp::of(file).is_ok_and(|now| now == Stamp::from(&data)) && !is_recent(&data);
        if rests {
            return Ok(bytes);
        }
        if Instant::now() > end {
            return Err("it is being written to all the time".to_owned());
        }
        std::thread::sleep(REST / 4);
    }
}

/// A time in the future is ignored, because the clocks of file servers differ.
fn is_recent(data: &Metadata) -> bool {
    let age =
        data.modified().ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
    age.is_some_and(|age| age < REST)
}

/// Tries again, for a while, when files that belong together are replaced one after the other.
///
/// # Errors
/// Those of the last try.
pub(crate) fn together<T>(
    reading: Reading,
    read: impl Fn() -> Result<T, String>,
) -> Result<T, String> {
    const WHILE: Duration = Duration::from_secs(2);
    let end = Instant::now() + WHILE;
    loop {
        match read() {
            Err(_) if reading == Reading::Again && Instant::now() < end => std::thread::sleep(REST),
            read => return read,
        }
    }
}

/// A thread that repeats a job on request. Several requests during a run cause one more run.
pub(crate) struct Again(SyncSender<()>);

impl Again {
    /// # Errors
    /// There is no thread for it.
    pub(crate) fn start(name: &str, job: impl Fn() + Send + 'static) -> io::Result<Again> {
        let (ask, asked) = sync_channel(1);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || asked.iter().for_each(|()| job()))?;
        Ok(Again(ask))
    }

    /// Requests a run, without waiting.
    pub(crate) fn ask(&self) {
        match self.0.try_send(()) {
            Ok(()) | Err(TrySendError::Full(())) => {}
            Err(TrySendError::Disconnected(())) => {
                log::error!("nothing is read again: the thread for it has ended")
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn what_never_ends_is_refused_and_what_is_no_file_is_not_read_again() {
        for reading in [Reading::First, Reading::Again] {
            let what = read(Path::new("/dev/zero"), 1 << 20, reading).unwrap_err();
            assert!(what.contains("not a regular file"), "{what}");
            assert!(
                read(Path::new("/nowhere/at/all"), 1, reading)
                    .unwrap_err()
                    .contains("No such file")
            );
        }
    }

    #[test]
    fn a_descriptor_and_nothing_else_that_is_no_file_is_read_at_the_start() {
        let mut writer = std::process::Command::new("printf");
        let mut writer = writer.arg("text").stdout(std::process::Stdio::piped()).spawn().unwrap();
        let ours = writer.stdout.take().unwrap();
        let mut path = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&ours));
        let most = "text".len() as u64;
        let longer = bounded(io::repeat(b'x'), most).unwrap_err();
        assert!(longer.contains("longer than"), "{longer}");
        assert_eq!(read(Path::new(&path), most, Reading::First).unwrap(), b"text");
        writer.wait().unwrap();
        let again = read(Path::new(&path), most, Reading::Again).unwrap_err();
        assert!(again.contains("only those are read again"), "{again}");
        assert_eq!(read(Path::new("/dev/null"), most, Reading::First).unwrap(), b"");
        path = std::env::temp_dir().to_str().unwrap().to_owned();
        assert_eq!(read(Path::new(&path), most, Reading::First).unwrap_err(), "it is a directory");
    }

    #[test]
    fn a_byte_order_mark_is_not_a_part_of_the_text() {
        for (bytes, text) in [
            (&b"\xEF\xBB\xBFtext"[..], "text"),
            (b"\xEF\xBB\xBF", ""),
            (b"text\xEF\xBB\xBF", "text\u{feff}"),
            (b"", ""),
        ] {
            assert_eq!(without_mark(bytes.to_vec()).unwrap(), text.as_bytes());
        }
        for bytes in [b"\xFF\xFEt\0", b"\xFE\xFF\0t"] {
            assert!(without_mark(bytes.to_vec()).unwrap_err().contains("UTF-8"));
        }
    }

    #[test]
    fn a_file_rests_a_while_after_it_was_written() {
        let file = std::env::temp_dir().join(format!("ptth-rest-{}", std::process::id()));
        std::fs::write(&file, "whole").unwrap();
        let written = |at: SystemTime| {
            File::options().write(true).open(&file).unwrap().set_modified(at).unwrap();
            is_recent(&std::fs::metadata(&file).unwrap())
        };
        let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
        assert!(
            !written(now - hour) && !written(now + hour),
            "the clock of a file server may differ"
        );
        let before = Stamp::of(&file).unwrap();
        assert_eq!(read(&file, 5, Reading::Again).unwrap(), b"whole");
        assert!(read(&file, 4, Reading::Again).unwrap_err().contains("longer than"));
        // It was just written, so it is read later.
        std::fs::write(&file, "other").unwrap();
        assert!(Stamp::of(&file).unwrap() != before);
        assert_eq!(read(&file, 5, Reading::Again).unwrap(), b"other");
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn files_that_belong_together_are_tried_again_only_while_the_process_serves() {
        let tries = std::cell::Cell::new(0);
        let second = || {
            tries.set(tries.get() + 1);
            if tries.get() > 1 { Ok(()) } else { Err("no pair".to_owned()) }
        };
        assert!(together(Reading::First, second).is_err());
        tries.set(0);
        assert!(together(Reading::Again, second).is_ok());
    }
}
