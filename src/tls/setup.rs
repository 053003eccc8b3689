//! Settings that both sides share.

use std::fmt;

use crate::error::Error;

pub(super) const ALPN: &[u8] = b"http/1.1";

pub(super) fn unusable(e: impl fmt::Display) -> Error {
    Error::usage(format!("TLS cannot be set up: {e}"))
}
