//! The work that a step defers until it has ended. `event_loop.rs` does it before the loop goes on,
//! in the same order.

use std::io;

use crate::device::dial_stages::Dial;
use crate::device::lookups::Found;
use crate::device::lookups::Waiter;
use crate::engine::connections::Id;

pub(super) enum FollowUp {
    /// Closes links without a request: the device no longer waits for the gateway's goaways.
    CloseIdle,
    /// Steps a connection with a new state, to read bytes that have arrived already.
    Step(Id),
    /// Dials the wanted number of links or polls.
    TopUp,
    /// Begins a slot's dial.
    Resolve(Box<Dial>),
    /// Ends a dial whose connection cannot be used.
    EndDial { id: Id, why: String },
    /// A lookup has ended.
    Found { waiter: Waiter, host: String, found: Found },
    /// A connection is established.
    Reached { waiter: Waiter, id: Id },
    /// None of the addresses could be reached. `None` if there were no addresses.
    Unreached { waiter: Waiter, failed: Option<io::Error> },
}

impl FollowUp {
    /// Returns true if this is a failed dial.
    pub(super) fn is_failed_dial(&self) -> bool {
        matches!(
            self,
            FollowUp::Unreached { waiter: Waiter::Dial(_), .. }
                | FollowUp::Found { waiter: Waiter::Dial(_), found: Err(_), .. }
        )
    }
}
