//! Reverse HTTP (PTTH).
#![allow(missing_docs)]
#[cfg(not(unix))]
compile_error!("reverse-http works on Unix only: its event loop registers raw descriptors");

pub mod limits;
pub mod error;
pub mod proto;
pub mod stream;
pub mod message;
pub mod link;

pub use error::{Error, Fault, Refusal};
pub use limits::Limits;
