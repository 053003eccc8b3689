//! Why an exchange fails, by the side whose fault it is.

use crate::close_reason::{CloseCause, CloseReason};
use crate::error::Refusal;

/// Why an exchange failed.
pub(super) enum ExchangeError {
    /// The downstream side is gone, or cut its request short.
    Asker,
    /// The downstream side's bytes are malformed.
    Refused(Refusal),
    /// The upstream side failed; nothing of a response had arrived.
    Silent(CloseReason),
    /// The upstream side failed or broke the protocol.
    HandshakeError(CloseReason),
}

/// What is told goes to visitors, and what the system says is not theirs to know (T58): it goes to
/// the log.
pub(super) fn lost_by(error: &std::io::Error, told: &'static str) -> CloseReason {
    log_names!(Debug, "an upstream connection failed: {error}");
    CloseReason::new(CloseCause::of_io(error), told)
}

/// What the upstream side sent cannot be read, or not be passed on.
pub(super) fn malformed(refusal: Refusal) -> ExchangeError {
    ExchangeError::HandshakeError(CloseReason::new(
        CloseCause::ProtocolError,
        format!("sent a malformed response: {}", refusal.reason),
    ))
}
