//! A connected device as a program sees it in a list.

use std::net::IpAddr;
use std::time::SystemTime;

use crate::proto::turn::Transport;

/// A connected device, as listed by [`Gateway::devices`](crate::Gateway::devices).
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
    /// Its name, or an origin that it registered, for [`Gateway::device`](crate::Gateway::device).
    pub name: String,
    /// How it is connected: over links, or by polls in one of two encodings.
    pub transport: Transport,
    /// Since when it has been connected without a break.
    pub since: SystemTime,
    /// Links and held polls that wait for a request.
    pub idle: usize,
    /// Links with a request in progress, and requests delivered by polls. Links in the hands of
    /// [`on_link`](crate::GatewayBuilder::on_link) are included.
    pub busy: usize,
    /// Callers that wait for a free link or poll.
    pub waiting: usize,
    /// The address of one of its connections, or of the proxy before it. `None`: it is a Unix
    /// socket, or all connections are in the hands of this program.
    pub address: Option<IpAddr>,
    /// The label of the [token](crate::GatewayBuilder::tokens) that admitted it, or `line 7` if
    /// that token has none.
    pub token: Option<String>,
}
