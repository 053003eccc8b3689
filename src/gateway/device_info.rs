//! A connected device as a program sees it in a list.

use std::net::IpAddr;
use std::time::SystemTime;

use crate::proto::turn::Transport;

/// A device that is connected, as [`Gateway::devices`](crate::Gateway::devices) lists it.
///
/// ```
/// let gateway = reverse_http::Gateway::builder().listen("127.0.0.1:0").start()?;
/// for device in gateway.devices()? {
///     println!("{} over {}, {} idle", device.name, device.transport, device.idle);
/// }
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Its name, or an origin it registered; [`Gateway::device`](crate::Gateway::device) takes it.
    pub name: String,
    /// How it is connected: over links, or by polls in one of two encodings.
    pub transport: Transport,
    /// Since when it has been connected without a break.
    pub since: SystemTime,
    /// Links and held polls that wait for a request.
    pub idle: usize,
    /// Links with a request, and requests that polls took along. Links that
    /// [`on_link`](crate::GatewayBuilder::on_link) has are among them.
    pub busy: usize,
    /// Callers that wait until one of them is free.
    pub waiting: usize,
    /// The address of one of its connections, a proxy's where there is one. `None`: a Unix socket,
    /// or all of them are in the hands of this program.
    pub address: Option<IpAddr>,
    /// The label of the [token](crate::GatewayBuilder::tokens) that let it in, or `line 7` for one
    /// without.
    pub token: Option<String>,
}
