//! A connection on its way to be a link, or one that polls: its stages, and the alarms of a device.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::device::gateways::GatewayTarget;
use crate::device::reply::Reply;
use crate::device::url::Url;
use crate::engine::slab::Key;
use crate::proto::interim::InterimCount;

/// Steps of one event loop's turn for one connection or virtual link.
pub(super) const STEPS_MAX: usize = 4;

/// A connection on its way to be a link, or one that polls.
pub(crate) struct Dial {
    pub(super) url: Arc<Url>,
    /// The configured gateway that it began with.
    pub(super) gateway: Arc<GatewayTarget>,
    pub(super) redirects: usize,
    pub(super) stage: Stage,
    /// The poll slot whose connection it is.
    pub(super) slot: Option<Key>,
    /// Replies of nothing that came at once, in a row.
    pub(super) quick: usize,
    /// Nothing has been answered on this connection yet.
    pub(super) fresh: bool,
    /// Its writing direction is ended: the device stops, and nothing more is asked on it.
    pub(super) last: bool,
    /// When the connection was begun.
    pub(super) begun: Option<Instant>,
}

impl Dial {
    pub(super) fn new(
        url: Arc<Url>,
        gateway: Arc<GatewayTarget>,
        redirects: usize,
        slot: Option<Key>,
    ) -> Self {
        Dial {
            url,
            gateway,
            redirects,
            stage: Stage::Connecting,
            slot,
            quick: 0,
            fresh: true,
            last: false,
            begun: None,
        }
    }
}

pub(super) enum Stage {
    /// It has no connection yet.
    Connecting,
    /// A proxy was asked for a tunnel.
    Tunnelling { interim: InterimCount },
    /// Its TLS handshake is in progress.
    Securing,
    /// The offer or poll was written then, with `Upgrade` or without.
    Offered { at: Instant, upgrade: bool, interim: InterimCount },
    /// The body of a reply of the fallback is on its way.
    Reading(Box<Reply>),
    /// A gateway that answers at once that there is nothing is not asked again at once. `keep`:
    /// then on this connection.
    Pausing { keep: bool },
    /// Its slot works on an event; nothing is asked meanwhile.
    Resting,
}

/// Alarms of the device.
pub(super) const DIAL: u64 = 1;
pub(super) const STOP: u64 = 2;
pub(super) const LOOKUP: u64 = 3;
pub(super) const DOUBT: u64 = 4;
pub(super) const LOCALS: u64 = 5;

pub(super) const PART: u64 = 6;

/// 204 answers, or goaways, that may come at once before the next offer is paced.
pub(super) const QUICK_MAX: usize = 3;
pub(super) const PACE: Duration = Duration::from_secs(1);
