//! What a step leaves to be done when it is over. `event_loop.rs` does it before the loop goes on, in
//! the order in which it was left.

use std::io;

use crate::device::dial::Dial;
use crate::device::lookups::Found;
use crate::device::lookups::Waiter;
use crate::engine::connections::Id;

pub(super) enum FollowUp {
    /// Links without a request are closed: nobody waits any longer for the gateway to let them go.
    CloseIdle,
    /// A connection is in a new state: what has come on it already is read.
    Step(Id),
    /// As many links or polls as are wanted are dialled.
    TopUp,
    /// A slot's dial begins.
    Resolve(Box<Dial>),
    /// The connection of a dial is of no use.
    EndDial { id: Id, why: String },
    /// A look-up is over.
    Found { waiter: Waiter, host: String, found: Found },
    /// A connection stands.
    Reached { waiter: Waiter, id: Id },
    /// None of the addresses could be connected to. `None`: there was none.
    Unreached { waiter: Waiter, failed: Option<io::Error> },
}

impl FollowUp {
    /// Whether a dial has failed.
    pub(super) fn is_failed_dial(&self) -> bool {
        matches!(
            self,
            FollowUp::Unreached { waiter: Waiter::Dial(_), .. }
                | FollowUp::Found { waiter: Waiter::Dial(_), found: Err(_), .. }
        )
    }
}
