//! Poll slots: each is one of the parallel polls, with its event in progress.

use std::sync::Arc;
use std::time::Instant;

use crate::device::answer::Work;
use crate::device::gateways::GatewayTarget;
use crate::device::url::Url;
use crate::engine::connections::Id;
use crate::engine::slab::Key;

/// One of the parallel polls.
pub(crate) struct Slot {
    /// The URL that it polls: the configured gateway, or the location of its redirect.
    pub(super) url: Arc<Url>,
    /// The configured gateway with which it began.
    pub(super) gateway: Arc<GatewayTarget>,
    pub(super) conn: Conn,
    /// It needs a connection, at this time or later.
    pub(super) redial: Option<Instant>,
    /// Its last attempt was answered with the fallback.
    pub(super) connected: bool,
    /// It polls beside links that carry no bytes: it offers no upgrade, and its failures do not
    /// count.
    pub(super) beside: bool,
    /// Its next request is sent without `Upgrade` in any case, because the last one with it was not
    /// understood.
    pub(super) plain: bool,
    /// An intermediary refused that request with this status, perhaps because of its `Upgrade`; the
    /// answer to the next request will show it.
    pub(super) doubt: Option<u16>,
    /// Consecutive replies without an event that came at once.
    pub(super) quick: usize,
    /// The loop's end of its virtual link.
    pub(super) bridge: Option<Id>,
    /// The event in progress.
    pub(super) work: Option<Box<Work>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conn {
    None,
    /// Its gateway's name is being looked up.
    Resolving,
    /// Its addresses are tried.
    Racing(Key),
    Open(Id),
}
