//! What happens to a visitor's request: the result of reading and routing it.

use std::net::IpAddr;
use std::sync::Arc;

use crate::error::Refusal;
use crate::gateway::loops::MOVED_TOO_OFTEN;
use crate::gateway::rates::TooMany;
use crate::gateway::routes::Reply;
use crate::gateway::sign_in_requests::SignInAnswer;
use crate::gateway::tokens::Digest;
use crate::proto::peer::Miss;
use crate::relay::Exchange;

/// What happens to a visitor's request.
pub(super) enum Decision {
    /// The head, or the form, is incomplete.
    NotYet,
    Closed,
    Refused {
        refusal: Refusal,
        to_head: bool,
        keep: bool,
    },
    /// A redirect, or a local answer of a route.
    Reply {
        reply: Reply,
        to_head: bool,
        keep: bool,
    },
    /// A load balancer's health check.
    Health {
        allowed: bool,
        to_head: bool,
        keep: bool,
    },
    /// Its address or token has sent too many requests recently.
    TooMany {
        too_many: TooMany,
        to_head: bool,
        keep: bool,
    },
    /// A page of the gateway itself, or the result of its form.
    SignIn {
        answer: Box<SignInAnswer>,
        to_head: bool,
        keep: bool,
    },
    /// `OPTIONS *`, which is about this gateway itself. On a link it would be a heartbeat, so no
    /// device ever gets it.
    Server {
        /// Another gateway asks: whether a device is connected here.
        has: Option<&'static str>,
        keep: bool,
    },
    /// Another gateway asks for a device that is not connected here.
    Missed {
        miss: Miss,
        /// The request looks like a device's offer or poll.
        of_device: bool,
        to_head: bool,
        keep: bool,
    },
    Forward(Forwarding),
    /// Its device belongs to the event loop with this number.
    Elsewhere(usize),
}

impl Decision {
    /// Returns true if the visitor was admitted: its request goes to a device, or would go there if
    /// it were connected.
    pub(super) fn is_admitted(&self) -> bool {
        match self {
            Decision::Forward(_) | Decision::Elsewhere(_) | Decision::Server { .. } => true,
            Decision::Missed { miss, .. } => *miss != Miss::Stranger,
            _ => false,
        }
    }
}

/// A request that goes to a device.
pub(super) struct Forwarding {
    pub(super) exchange: Box<Exchange>,
    pub(super) name: Arc<str>,
    pub(super) token: Option<Digest>,
    /// The visitor's address; `None` for a program.
    pub(super) visitor: Option<IpAddr>,
}

/// A device has changed its loop too often.
pub(super) fn moved_too_often(to_head: bool) -> Decision {
    Decision::Refused { refusal: Refusal::new(503, MOVED_TOO_OFTEN), to_head, keep: false }
}
