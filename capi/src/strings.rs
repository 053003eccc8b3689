//! Strings that come from C.

use std::ffi::{CStr, c_char};

use crate::outcome::Failure;

/// The text of a caller's string; `what` names the argument in an error.
///
/// # Safety
/// `text` is NULL, or points to a NUL-terminated string that does not change during the call.
pub(crate) unsafe fn text<'t>(text: *const c_char, what: &str) -> Result<&'t str, Failure> {
    if text.is_null() {
        return Err(Failure::usage(format!("{what} is NULL")));
    }
    // SAFETY: not NULL, and NUL-terminated by the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| Failure::usage(format!("{what} is not UTF-8")))
}

/// The same, but NULL means "none".
///
/// # Safety
/// That of [`text`].
pub(crate) unsafe fn text_or_none<'t>(
    given: *const c_char,
    what: &str,
) -> Result<Option<&'t str>, Failure> {
    match given.is_null() {
        true => Ok(None),
        // SAFETY: the caller's promise.
        false => unsafe { text(given, what) }.map(Some),
    }
}

/// The bytes of a caller. NULL with length 0 is empty.
///
/// # Safety
/// `bytes` is NULL, or points to `length` bytes that do not change during the call.
pub(crate) unsafe fn bytes<'b>(
    bytes: *const u8,
    length: usize,
    what: &str,
) -> Result<&'b [u8], Failure> {
    match (bytes.is_null(), length) {
        (true, 0) => Ok(&[]),
        (true, _) => Err(Failure::usage(format!("{what} is NULL, and its length {length}"))),
        (_, length) if length > isize::MAX as usize => {
            Err(Failure::usage(format!("{what} is longer than memory")))
        }
        // SAFETY: not NULL, and `length` bytes long by the caller's promise.
        _ => Ok(unsafe { std::slice::from_raw_parts(bytes, length) }),
    }
}
