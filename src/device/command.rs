//! What other threads ask of a device's event loop.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::close_reason::CloseReason;
use crate::device::link::Link;
use crate::device::lookups::Found;
use crate::stream::Connector;
use crate::stream::Stream;

/// A request of another thread to the device's event loop.
pub(crate) enum Command {
    Resolved {
        number: u64,
        found: Found,
    },
    Back {
        number: u64,
        back: Box<(Stream, Vec<u8>, Link)>,
    },
    Gone {
        number: u64,
        link: Link,
        why: CloseReason,
    },
    /// A leased link has carried its last message, and is closed gently.
    Ends {
        number: u64,
        back: Box<(Stream, Vec<u8>, Link)>,
        why: CloseReason,
    },
    /// A goaway arrived on a leased link; it is answered when another link is being dialled.
    Goaway {
        number: u64,
        link: Link,
        dialled: Sender<()>,
    },
    TopUp,
    /// The gateway reported this number of waiting callers to a worker or a program.
    CallersWait(usize),
    /// Dials now, regardless of the back-off.
    Retry,
    /// Sets the verification for the next dials.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    SetTls(Arc<Connector>),
    /// Sets the verification for the next connections to local servers.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    SetLocalTls(Arc<Connector>),
    /// Takes no new requests; exchanges in progress may finish within this time.
    Drain(Duration),
    /// Checks that the loop turns.
    Ping(crossbeam_channel::Sender<()>),
}
