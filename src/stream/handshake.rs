//! What a step of a TLS handshake came to. Without the feature `tls` there are no such steps.

#![cfg_attr(not(feature = "tls"), allow(dead_code, reason = "there are no handshakes"))]

/// The result of a step of a TLS handshake.
pub(crate) enum Shaken {
    /// It waits for the next event.
    Waiting,
    /// A step has to be computed, with [`TlsSession::compute`](crate::stream::TlsSession::compute).
    Compute,
    Done,
    Failed(HandshakeError),
}

/// Why a handshake failed.
pub(crate) struct HandshakeError {
    pub(crate) text: String,
    /// The client sent a request in plain HTTP.
    pub(crate) plain: bool,
    /// The client sent no byte: a port scan, or a load balancer's check.
    pub(crate) silent: bool,
    /// This side does not accept the other side's certificate.
    pub(crate) untrusted: bool,
}

impl HandshakeError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        HandshakeError { text: text.into(), plain: false, silent: false, untrusted: false }
    }
}
