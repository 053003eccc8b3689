//! TLS (feature `tls`): how a device verifies its gateway, and which certificates a gateway presents
//! and accepts.
//!
//! rustls with the `ring` provider, TLS 1.2 and 1.3, ALPN `http/1.1`. Early data (0-RTT) stays off.
//! There is no option that trusts every gateway: if its certificate is not from a known CA, pin its
//! key ([`DeviceTls::pin`]). For a local server there is one ([`LocalTls::insecure`]).

// The order of files: each names only those above it.
//
// | file | contents |
// |---|---|
// | `setup.rs` | what both sides set up alike |
// | `certificate.rs` | certificates and roots: names, dates, trust |
// | `identity.rs` | a certificate chain with its key |
// | `by_name.rs` | which identity a gateway shows for a host name |
// | `failure.rs` | why a handshake failed, in words |
// | `device.rs` | how a device checks its gateway, and local servers |
// | `gateway.rs` | a gateway's certificates, and its demands on devices' |

mod by_name;
mod certificate;
mod device;
mod failure;
mod gateway;
mod identity;
mod setup;

pub(crate) use device::Connector;
pub use device::{DeviceTls, LocalTls};
pub(crate) use failure::{Side, explained, is_of_certificate};
pub use gateway::{ClientCertificates, GatewayTls};
pub(crate) use gateway::{Shown, ShownKey};
pub use identity::Identity;
