//! What a step leaves to be done when it is over. `role.rs` does it before the loop goes on, in the
//! order in which it was left, so that no step begins in the middle of another one.

use std::sync::Arc;

use crate::close_reason::CloseReason;
use crate::engine::connections::Id;
use crate::engine::slab::Key;
use crate::gateway::peer_table::PeerId;
use crate::gateway::polls::deliveries::MessageId;
use crate::gateway::registry::Registration;

pub(super) enum FollowUp {
    /// A connection is in a new state: the first bytes of what follows often are there already.
    Step(Id),
    /// A visitor's request looks for a link or a poll, or for another one.
    FindLink { visitor: Id, key: Key },
    /// Idle links under these names may serve waiting requests.
    ServeInLine(Arc<Registration>),
    /// A link that was leased is back.
    LinkFree { link: Id, reusable: Result<(), CloseReason> },
    /// A gateway has given the sign of life that it was asked for, or has not in time.
    PeerProbed { peer: PeerId, lives: bool },
    /// Nobody waits for the answer to an event any more.
    EventOver(MessageId),
    /// An event did not reach its poll whole. `began`: some of it may have.
    EventNotTold { event: MessageId, began: bool },
}
