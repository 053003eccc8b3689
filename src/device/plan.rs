//! What one event loop of a device goes by, and what answers its requests.

use std::ops::RangeInclusive;
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::device::OnRefusal;
use crate::device::gateways::GatewayList;
use crate::device::lease::Lease;
use crate::device::proxy::Proxy;
use crate::device::redirects::RedirectHosts;
use crate::device::target::Target;
use crate::device::worker::Handler;
use crate::proto::turn::Encoding;
use crate::proto::turn::Fallback;
use crate::proto::turn::OfferPlan;
use crate::stream::Connector;

/// Who answers what comes over the links.
#[derive(Clone)]
pub(crate) enum Service {
    Handler(Handler),
    /// `recv()`: exchanges wait in a channel.
    Receive(Sender<Lease>),
    /// `accept()`: links wait in a channel.
    Listen(Sender<Lease>),
    Forward(Target),
}

/// What one event loop goes by.
pub(crate) struct Plan {
    /// The gateway; with failover all of them.
    pub(crate) homes: GatewayList,
    /// For URLs with `https`.
    pub(crate) tls: Option<Arc<Connector>>,
    pub(crate) offer: OfferPlan,
    /// Fields that go only to a configured gateway's origin.
    pub(crate) secrets: Vec<(String, String)>,
    pub(crate) on_refusal: OnRefusal,
    /// Where gateways may send the device.
    pub(crate) redirects: RedirectHosts,
    pub(crate) proxy: Option<Proxy>,
    /// Failed attempts in a row, without a way in, after which the device ends.
    pub(crate) max_retries: Option<u32>,
    pub(crate) fallback: Fallback,
    /// Poll slots wanted while the gateway falls back, and poll slots in all.
    pub(crate) polls: RangeInclusive<usize>,
    /// The encoding of the fallback that is asked for first.
    pub(crate) encoding: Encoding,
}
