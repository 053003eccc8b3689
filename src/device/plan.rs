//! The settings of one event loop of a device, and the code that answers its requests.

use std::ops::RangeInclusive;
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::device::gateways::GatewayList;
use crate::device::lease::Lease;
use crate::device::proxy::Proxy;
use crate::device::redirects::RedirectHosts;
use crate::device::servers::Servers;
use crate::device::tcp_target::TcpTarget;
use crate::device::worker::Handler;
use crate::engine::pair_network::PairNetwork;
use crate::proto::turn::Encoding;
use crate::proto::turn::Fallback;
use crate::proto::turn::OfferPlan;
use crate::stream::Connector;

/// What a device does when its very first offer is answered with 401, 403, 404 or 410. Our gateway
/// marks its answers (`Proxy-Status: ptth`); one without the mark may come from a balancer or proxy
/// that is not ready yet. A 401 with `WWW-Authenticate: Bearer` counts as marked.
///
/// ```
/// use reverse_http::{Device, OnRefusal};
/// let device = Device::builder("http://gw.example:9999/lamp").on_refusal(OnRefusal::Stop).build()?;
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnRefusal {
    /// Try again later, after about the longest back-off: the operator of the gateway may still be
    /// setting things up.
    #[default]
    Retry,
    /// Stop, with the refusal as the error, if the gateway itself refused; otherwise try again
    /// after the usual pauses.
    Stop,
    /// Stop at any refusal, even by an intermediary. This is for gateways that do not mark their
    /// answers.
    StopOnAny,
}

/// The code that answers requests.
#[derive(Clone)]
pub(crate) enum Service {
    Handler(Handler),
    /// `recv()`: exchanges wait in a channel.
    Receive(Sender<Lease>),
    /// `accept()`: links wait in a channel.
    Listen(Sender<Lease>),
    Forward(Servers),
}

/// The settings of one event loop.
pub(crate) struct Plan {
    /// One gateway, or with failover all.
    pub(crate) gateways: GatewayList,
    /// For URLs with `https`.
    pub(crate) tls: Option<Arc<Connector>>,
    pub(crate) offer: OfferPlan,
    /// Fields that are sent only to a configured gateway's origin.
    pub(crate) secrets: Vec<(String, String)>,
    pub(crate) on_refusal: OnRefusal,
    /// The hosts to which gateways may redirect the device.
    pub(crate) redirects: RedirectHosts,
    pub(crate) proxy: Option<Proxy>,
    /// The number of consecutive failed attempts while disconnected after which the device ends.
    pub(crate) max_retries: Option<u32>,
    /// The TCP targets.
    pub(crate) tcp: Arc<[TcpTarget]>,
    pub(crate) fallback: Fallback,
    /// The wanted number of poll slots in the fallback, and the most of them.
    pub(crate) polls: RangeInclusive<usize>,
    /// The preferred encoding of the fallback.
    pub(crate) encoding: Encoding,
    /// The connection to a gateway within this process; if set, the only one.
    pub(crate) network: Option<PairNetwork>,
}
