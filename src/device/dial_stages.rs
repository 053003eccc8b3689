//! A connection on its way to be a link, or one that polls: its stages, and the alarms of a device.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::device::gateways::GatewayTarget;
use crate::device::reply::Reply;
use crate::device::url::Url;
use crate::engine::slab::Key;
use crate::proto::interim::InterimCount;

/// The most steps of a connection or virtual link in one turn of the loop.
pub(super) const STEPS_MAX: usize = 4;

/// A connection that is to become a link, or that polls.
pub(crate) struct Dial {
    pub(super) url: Arc<Url>,
    /// The configured gateway with which it began.
    pub(super) gateway: Arc<GatewayTarget>,
    pub(super) redirects: usize,
    pub(super) stage: Stage,
    /// The poll slot to which it belongs.
    pub(super) slot: Option<Key>,
    /// Consecutive replies without an event that came at once.
    pub(super) quick: usize,
    /// No request was answered on this connection yet.
    pub(super) fresh: bool,
    /// Its writing direction has ended: the device stops, and sends no more requests on it.
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
    /// A CONNECT was sent to a proxy.
    Tunnelling { interim: InterimCount },
    /// Its TLS handshake is in progress.
    Securing,
    /// The offer or poll was written at this time, with `Upgrade` or without.
    Offered { at: Instant, upgrade: bool, interim: InterimCount },
    /// The body of a reply of the fallback is being received.
    Reading(Box<Reply>),
    /// A pause, because the gateway replied at once without an event. With `keep` the connection is
    /// used again.
    Pausing { keep: bool },
    /// Its slot has an event in progress; no request is sent meanwhile.
    Resting,
}

/// Alarms of the device.
pub(super) const DIAL: u64 = 1;
pub(super) const STOP: u64 = 2;
pub(super) const LOOKUP: u64 = 3;
pub(super) const DOUBT: u64 = 4;
pub(super) const LOCALS: u64 = 5;

pub(super) const PART: u64 = 6;

/// The number of immediate 204 answers or goaways before offers are paced.
pub(super) const QUICK_MAX: usize = 3;
pub(super) const PACE: Duration = Duration::from_secs(1);
