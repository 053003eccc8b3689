//! What a step of a TLS handshake came to. Without the feature `tls` there are no such steps.

#![cfg_attr(not(feature = "tls"), allow(dead_code, reason = "there are no handshakes"))]

/// What a step of a handshake came to.
pub(crate) enum Shaken {
    /// Nothing before the next event.
    Waiting,
    /// There is something to compute, with [`TlsSession::compute`](crate::stream::TlsSession::compute).
    Compute,
    Done,
    Failed(HandshakeError),
}

/// Why a handshake failed.
pub(crate) struct HandshakeError {
    pub(crate) text: String,
    /// What came is a request in plain HTTP.
    pub(crate) plain: bool,
    /// Nothing came at all: a port scan, a balancer that looks whether the port is open.
    pub(crate) silent: bool,
    /// This side does not accept the certificate that it was shown.
    pub(crate) untrusted: bool,
}

impl HandshakeError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        HandshakeError { text: text.into(), plain: false, silent: false, untrusted: false }
    }
}
