//! The C interface of the device side: `ptth.h` is written from this (see `tests/header.rs`).
//!
//! Each function converts its arguments, calls the Rust library, and converts the result; the
//! library makes all decisions. `outcome.rs` keeps panics and errors on the Rust side.

mod callback;
mod device;
mod logging;
mod options;
mod outcome;
mod request;
mod strings;
mod tls;
mod words;

pub use callback::*;
pub use device::*;
pub use logging::*;
pub use options::*;
pub use outcome::*;
pub use request::*;
