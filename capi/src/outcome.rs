//! The status that functions return, and the last error of a thread.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use reverse_http::{Error, ErrorKind};

use crate::words::in_c;

/// The result of a call. `ptth_last_error()` has the details.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum ptth_status {
    /// The call succeeded.
    PTTH_OK = 0,
    /// The call cannot work: an argument, an option, or their combination is wrong.
    PTTH_USAGE = 1,
    /// The time has passed without a result.
    PTTH_TIMEOUT = 2,
    /// The device has ended: it was stopped.
    PTTH_STOPPED = 3,
    /// The gateway refused the device.
    PTTH_REFUSED = 4,
    /// The connection of this request has ended, or its bytes violate the protocol.
    PTTH_CLOSED = 5,
    /// A bound was reached, or the message is too large.
    PTTH_FULL = 6,
    /// The operating system failed: threads, descriptors, files.
    PTTH_SYSTEM = 7,
    /// A defect of the library; please report it. The object may only be freed.
    PTTH_PANIC = 8,
    /// Anything else.
    PTTH_FAILED = 9,
}

use ptth_status::*;

/// A result other than success.
pub(crate) struct Failure {
    status: ptth_status,
    text: String,
}

impl Failure {
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Failure { status: PTTH_USAGE, text: text.into() }
    }

    pub(crate) fn new(status: ptth_status, text: impl Into<String>) -> Self {
        Failure { status, text: text.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            ErrorKind::Usage => PTTH_USAGE,
            ErrorKind::Timeout => PTTH_TIMEOUT,
            ErrorKind::Stopped => PTTH_STOPPED,
            ErrorKind::Refused => PTTH_REFUSED,
            ErrorKind::Closed | ErrorKind::Malformed => PTTH_CLOSED,
            ErrorKind::Full | ErrorKind::TooLarge => PTTH_FULL,
            ErrorKind::Io => PTTH_SYSTEM,
            _ => PTTH_FAILED,
        };
        Failure { status, text: in_c(error.to_string()) }
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

fn remember(text: String) {
    let text = CString::new(text.replace('\0', "\\0")).unwrap_or_default();
    // A thread that ends no longer has one.
    let _ = LAST.try_with(|last| last.replace(text));
}

/// Runs the body of a function: an error is remembered, and a panic ends here.
pub(crate) fn guarded<T>(body: impl FnOnce() -> Result<T, Failure>) -> Result<T, ptth_status> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(Failure { status, text })) => {
            remember(text);
            Err(status)
        }
        Err(_) => {
            remember("the library panicked; please report it".to_owned());
            Err(PTTH_PANIC)
        }
    }
}

/// The same for functions that return nothing but their status.
pub(crate) fn status(body: impl FnOnce() -> Result<(), Failure>) -> ptth_status {
    guarded(body).err().unwrap_or(PTTH_OK)
}

/// Why the last failed call of this thread has failed: the operation, the fault, and the remedy.
/// Empty if none has failed. Valid until the next call that fails on this thread.
#[unsafe(no_mangle)]
pub extern "C" fn ptth_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// The version of the library, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn ptth_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}
