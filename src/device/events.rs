//! The events of a device for the program.

use crate::close_reason::CloseCause;
use crate::proto::turn::Transport;

/// The kind of a [`DeviceEvent`].
///
/// ```
/// # fn shown(event: &reverse_http::DeviceEvent) -> String {
/// use reverse_http::DeviceEventKind;
/// match event.kind {
///     DeviceEventKind::Connected => format!("reached over {}", event.detail),
///     DeviceEventKind::Refused { status } => format!("refused with {status}"),
///     _ => event.detail.clone(), // more may be added
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceEventKind {
    /// The device is connected to the gateway, or its transport has changed; `detail` says how
    /// (`PTTH/1.0 turn`, `COMET json`).
    Connected,
    /// The gateway holds the offer (204); it is upgraded when there is a request.
    Waiting,
    /// The last link or poll is gone, and no gateway is known to hold an offer; `detail` says why.
    /// The device dials again.
    Disconnected,
    /// An attempt failed; `detail` says why. The device tries again after its back-off.
    Failed,
    /// A link ended; the device dials another if it needs one. After the last one, `Disconnected`
    /// follows.
    Ended,
    /// The gateway refused with this status.
    Refused {
        /// 401, 403, 404 or 410.
        status: u16,
    },
}

/// Something happened between a device and its gateway.
///
/// ```
/// use std::time::Duration;
/// use reverse_http::{Body, Device, DeviceEventKind, Gateway, Transport};
///
/// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
/// let device = Device::builder(format!("http://{}/lamp", gateway.devices_addr())).build()?;
/// let events = device.events();
/// let running = device.spawn(|_| http::Response::new(Body::empty()))?;
/// let event = events.recv_timeout(Duration::from_secs(5))?;
/// assert_eq!((event.kind, event.transport), (DeviceEventKind::Connected, Some(Transport::Turn)));
/// # running.stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceEvent {
    /// What happened.
    pub kind: DeviceEventKind,
    /// The name the device registers.
    pub name: String,
    /// The URL of the gateway concerned.
    pub url: String,
    /// Details, in words.
    pub detail: String,
    /// The transport, with [`Connected`](DeviceEventKind::Connected).
    pub transport: Option<Transport>,
    /// The reason, from a closed list, with [`Ended`](DeviceEventKind::Ended) and
    /// [`Disconnected`](DeviceEventKind::Disconnected).
    pub cause: Option<CloseCause>,
}
