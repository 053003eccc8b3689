//! The pointer that a program passes with a callback.

use std::ffi::c_void;

/// Called once, when the library no longer uses `user`.
#[allow(non_camel_case_types)]
pub type ptth_release_callback = Option<unsafe extern "C" fn(user: *mut c_void)>;

/// A pointer of the program's, which is released when nothing uses it any more.
pub(crate) struct User {
    pub(crate) pointer: *mut c_void,
    release: ptth_release_callback,
}

impl User {
    pub(crate) fn new(pointer: *mut c_void, release: ptth_release_callback) -> Self {
        User { pointer, release }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if let Some(release) = self.release {
            // SAFETY: the promise of the caller who passed it (ptth.h); the pointer is not used
            // afterwards.
            unsafe { release(self.pointer) };
        }
    }
}
