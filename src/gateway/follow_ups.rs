//! The work that a step defers until it has ended. `role.rs` does it before the loop goes on, in
//! the same order, so that no step begins in the middle of another one.

use std::sync::Arc;

use crate::close_reason::CloseReason;
use crate::engine::connections::Id;
use crate::engine::slab::Key;
use crate::gateway::peer_table::PeerId;
use crate::gateway::polls::deliveries::MessageId;
use crate::gateway::registry::Registration;

pub(super) enum FollowUp {
    /// Steps a connection with a new state: the first bytes have often arrived already.
    Step(Id),
    /// A visitor's request needs a link or a poll, or another one.
    FindLink { visitor: Id, key: Key },
    /// Idle links of these names may serve waiting requests.
    ServeInLine(Arc<Registration>),
    /// A leased link was returned.
    LinkFree { link: Id, reusable: Result<(), CloseReason> },
    /// Another gateway has answered a liveness check, or has not answered in time.
    PeerProbed { peer: PeerId, lives: bool },
    /// The caller of an event no longer waits.
    EventOver(MessageId),
    /// An event was not completely written to its poll. `began` means that a part of it may have
    /// been.
    EventNotTold { event: MessageId, began: bool },
}
