//! What other threads ask of a device's event loop.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::close_reason::CloseReason;
use crate::device::link::Link;
use crate::device::lookups::Found;
use crate::stream::Connector;
use crate::stream::Stream;

/// What other threads ask of the device's loop.
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
    /// A leased link has had its last message, and is closed gently.
    Ends {
        number: u64,
        back: Box<(Stream, Vec<u8>, Link)>,
        why: CloseReason,
    },
    /// A leased link is told to go, and its answer waits until another one is dialled.
    Goaway {
        number: u64,
        link: Link,
        dialled: Sender<()>,
    },
    TopUp,
    /// The gateway said to a worker, or to a program, that so many callers wait.
    CallersWait(usize),
    /// Dial now, whatever the back-off says.
    Retry,
    /// What the next dials go by.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    SetTls(Arc<Connector>),
    /// The same of the next connections to the local server.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    SetLocalTls(Arc<Connector>),
    /// Take no new request; exchanges in progress may finish within this time.
    Drain(Duration),
    /// Whether the loop turns.
    Ping(crossbeam_channel::Sender<()>),
}
