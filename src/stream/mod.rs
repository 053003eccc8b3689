//! The byte stream below a link: TCP or a Unix socket, with or without TLS (feature `tls`), and the
//! trait that a blocking link needs of a stream.

// The order of files: each names only those above it.
//
// | file | contents |
// |---|---|
// | `timed.rs` | the trait that a link needs: reads and writes with deadlines |
// | `socket.rs` | a TCP or Unix socket |
// | `handshake.rs` | what a step of a TLS handshake came to |
// | `tls_session.rs` | a TLS session over a socket |
// | `no_tls_session.rs` | in its place without the feature `tls` |
// | `plain_or_tls.rs` | `Stream`: a socket, with a session over it or without |
// | `shared.rs` | a stream that a worker uses and the loop can end |

mod handshake;
mod plain_or_tls;
mod shared;
mod socket;
mod timed;
#[cfg_attr(not(feature = "tls"), path = "no_tls_session.rs")]
mod tls_session;

#[cfg(feature = "tls")]
pub(crate) use crate::tls::{Connector, GatewayTls, Shown, ShownKey};
pub(crate) use handshake::{HandshakeError, Shaken};
pub use plain_or_tls::Stream;
pub(crate) use shared::Shared;
#[cfg(feature = "test-clock")]
pub(crate) use socket::End;
pub(crate) use socket::is_exhausted;
pub use timed::{TimedStream, Untimed};
pub(crate) use tls_session::TlsSession;
#[cfg(not(feature = "tls"))]
pub(crate) use tls_session::{Connector, GatewayTls, Shown, ShownKey};
