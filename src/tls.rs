//! TLS (feature `tls`): what a device wants of its gateway's certificate, and what a gateway shows
//! and wants. Values only; how bytes move is [`stream`](crate::stream)'s business.
//!
//! rustls with the `ring` provider, TLS 1.2 and 1.3, ALPN `http/1.1`. Early data (0-RTT) stays off.
//! There is no switch that trusts every gateway: who cannot have a certificate of a known CA pins the
//! gateway's key ([`DeviceTls::pin`]). For a local server there is one ([`LocalTls::insecure`]).

mod by_name;
mod certificate;
mod device;
mod failure;
mod gateway;
mod identity;

use std::fmt;

use crate::error::Error;

pub(crate) use device::Connector;
pub use device::{DeviceTls, LocalTls};
pub(crate) use failure::{Side, explained};
pub use gateway::{ClientCertificates, GatewayTls};
pub(crate) use gateway::{Shown, ShownKey};
pub use identity::Identity;

const ALPN: &[u8] = b"http/1.1";

fn unusable(e: impl fmt::Display) -> Error {
    Error::usage(format!("TLS cannot be set up: {e}"))
}
