//! Passes the library's log lines to a callback.

use std::ffi::{CString, c_char, c_int, c_void};
use std::io::{self, Write};

use crate::outcome::{Failure, ptth_status, status};
use crate::words::in_c;

/// The level of logging: lines of this level and of those above it are logged.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum ptth_level {
    /// Something does not work.
    PTTH_LOG_ERROR = 1,
    /// Something may not work.
    PTTH_LOG_WARN = 2,
    /// Connected, disconnected, and why.
    PTTH_LOG_INFO = 3,
    /// Each step.
    PTTH_LOG_DEBUG = 4,
}

use ptth_level::*;

/// Gets one line without its end. It runs on any thread that logs, possibly on several at once, and
/// must neither call the library nor block: the device would block with it.
#[allow(non_camel_case_types)]
pub type ptth_log_callback =
    Option<unsafe extern "C" fn(level: ptth_level, line: *const c_char, user: *mut c_void)>;

struct Logger {
    callback: unsafe extern "C" fn(ptth_level, *const c_char, *mut c_void),
    user: *mut c_void,
}

// SAFETY: the caller of ptth_log promises that its callback may run on any thread with that pointer.
unsafe impl Send for Logger {}
// SAFETY: as above.
unsafe impl Sync for Logger {}

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let level = match record.level() {
            log::Level::Error => PTTH_LOG_ERROR,
            log::Level::Warn => PTTH_LOG_WARN,
            log::Level::Info => PTTH_LOG_INFO,
            log::Level::Debug | log::Level::Trace => PTTH_LOG_DEBUG,
        };
        let line = in_c(record.args().to_string()).replace('\0', "\\0");
        if let Ok(line) = CString::new(line) {
            // SAFETY: the promise of ptth_log's caller; the line lives during the call.
            unsafe { (self.callback)(level, line.as_ptr(), self.user) };
        }
    }

    fn flush(&self) {}
}

/// Lines on standard error.
struct ToStderr;

impl log::Log for ToStderr {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = in_c(format!("{} {}\n", record.level(), record.args()));
        // A failure cannot be reported anywhere else.
        let _ = without_sigpipe(|| io::stderr().write_all(line.as_bytes()));
    }

    fn flush(&self) {}
}

/// If standard error is no longer read, SIGPIPE ends a program in C unless it ignores that signal.
/// Rust's own programs ignore it, and their standard library relies on that.
fn without_sigpipe(write: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let is_pending = |signals: &mut libc::sigset_t| {
        // SAFETY: a set of this function's own, which sigpending fills.
        unsafe { libc::sigpending(signals) == 0 && libc::sigismember(signals, libc::SIGPIPE) == 1 }
    };
    let mut pipe = no_signals();
    let (mut before, mut pending) = (pipe, pipe);
    // SAFETY: sets of this function's own; the mask is this thread's, and is put back below.
    unsafe {
        libc::sigaddset(&mut pipe, libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, &pipe, &mut before);
    }
    let had_one = is_pending(&mut pending);
    let written = write();
    let is_broken = written.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::BrokenPipe);
    if is_broken && !had_one && is_pending(&mut pending) {
        // SAFETY: it is blocked and pending, so this takes it and returns at once.
        unsafe { libc::sigwait(&pipe, &mut 0) };
    }
    // SAFETY: the mask that this thread had.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut()) };
    written
}

fn no_signals() -> libc::sigset_t {
    let mut none = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset fills the set.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        none.assume_init()
    }
}

fn filter(level: c_int) -> Result<log::LevelFilter, Failure> {
    match level {
        1 => Ok(log::LevelFilter::Error),
        2 => Ok(log::LevelFilter::Warn),
        3 => Ok(log::LevelFilter::Info),
        4 => Ok(log::LevelFilter::Debug),
        _ => Err(Failure::usage(format!("{level} is no level of the log"))),
    }
}

fn log_to(logger: Box<dyn log::Log>, most: log::LevelFilter) -> Result<(), Failure> {
    log::set_boxed_logger(logger)
        .map_err(|_| Failure::usage("this process has its log already"))?;
    log::set_max_level(most);
    Ok(())
}

/// Passes the log lines of a level (`ptth_level`) and those above it to a callback, from now until
/// the process ends. `user` is passed to it unchanged. Only once in a process: later calls return
/// PTTH_USAGE. Without it, nothing is logged.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ptth_log(
    level: c_int,
    callback: ptth_log_callback,
    user: *mut c_void,
) -> ptth_status {
    status(|| {
        let most = filter(level)?;
        let callback = callback.ok_or_else(|| Failure::usage("the callback is NULL"))?;
        log_to(Box::new(Logger { callback, user }), most)
    })
}

/// The same without a callback, for languages whose callbacks may not run on any thread: each line
/// is written to standard error, after its level. If that is a pipe, it has to be read, or the
/// device blocks.
#[unsafe(no_mangle)]
pub extern "C" fn ptth_log_to_stderr(level: c_int) -> ptth_status {
    status(|| log_to(Box::new(ToStderr), filter(level)?))
}
