//! Poll slots: one of the polls in parallel, with the event that it has in hand.

use std::sync::Arc;
use std::time::Instant;

use crate::device::answer::Work;
use crate::device::gateways::GatewayTarget;
use crate::device::url::Url;
use crate::engine::connections::Id;
use crate::engine::slab::Key;

/// One of the polls in parallel.
pub(crate) struct Slot {
    /// Where it polls: the configured gateway, or where that sent it.
    pub(super) url: Arc<Url>,
    /// The configured gateway that led there.
    pub(super) gateway: Arc<GatewayTarget>,
    pub(super) conn: Conn,
    /// It wants a connection, not before this.
    pub(super) redial: Option<Instant>,
    /// Its last attempt was answered by the fallback.
    pub(super) connected: bool,
    /// It is there because nothing comes over the links: it offers no turn, and its failures are
    /// nobody's.
    pub(super) beside: bool,
    /// Its next request goes without `Upgrade`, whatever the time says: the last one with it was
    /// not understood.
    pub(super) plain: bool,
    /// Something on the way refused that one with this status, perhaps for its `Upgrade`: what
    /// answers the next tells.
    pub(super) doubt: Option<u16>,
    /// Replies of nothing that came at once, in a row.
    pub(super) quick: usize,
    /// Our end of its virtual link.
    pub(super) bridge: Option<Id>,
    /// The event in its hand.
    pub(super) work: Option<Box<Work>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conn {
    None,
    /// Its gateway's name is being looked up.
    Resolving,
    /// The addresses are tried.
    Racing(Key),
    Open(Id),
}
