//! Why an exchange fails, by the side whose fault it is.

use std::borrow::Cow;

use crate::close_reason::{CloseCause, CloseReason};
use crate::error::Refusal;
use crate::proto::peer::Miss;

/// Why an exchange failed.
#[derive(Debug)]
pub(super) enum ExchangeError {
    /// The client has left, or cut its request short.
    ClientGone,
    /// The client's bytes are malformed.
    Refused(Refusal),
    /// The upstream side failed before any byte of a response.
    Silent(CloseReason),
    /// The upstream side failed in the middle of its response, or broke the protocol.
    Upstream(CloseReason),
    /// The other gateway that was asked does not have the device, and has not handled the request.
    Missed(Miss),
}

impl ExchangeError {
    /// The upstream side broke the protocol.
    pub(super) fn violation(text: impl Into<Cow<'static, str>>) -> Self {
        ExchangeError::Upstream(CloseReason::new(CloseCause::ProtocolError, text))
    }
}

/// Visitors get `told`; the system's own error is only logged (T58).
pub(super) fn lost_by(error: &std::io::Error, told: &'static str) -> CloseReason {
    log_names!(Debug, "an upstream connection failed: {error}");
    CloseReason::new(CloseCause::of_io(error), told)
}

/// Returns true if a gateway refused this one's certificate, which in TLS 1.3 is reported only
/// after the handshake. The operating system has no such error.
pub(super) fn refuses_certificate(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::PermissionDenied && error.raw_os_error().is_none()
}

/// The upstream side sent bytes that cannot be parsed, or not be passed on.
pub(super) fn malformed(refusal: Refusal) -> ExchangeError {
    ExchangeError::Upstream(CloseReason::new(
        CloseCause::ProtocolError,
        format!("sent a malformed response: {}", refusal.reason),
    ))
}
