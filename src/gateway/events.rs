//! What happens to names, for those who subscribed.

use std::fmt;
use std::time::SystemTime;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::close_reason::CloseCause;
use crate::limits::Limits;
use crate::proto::turn::Transport;

/// What a [`GatewayEvent`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GatewayEventKind {
    /// The name is connected: its first link, or its first poll.
    Up,
    /// The name is connected no longer: its last link is gone, and it has not polled for
    /// `poll_gap`.
    Down,
    /// The name is connected in another way than before: from polls to links, or back.
    Moved,
    /// A newer session took the name over.
    Replaced,
    /// One of its links ended. With the last one the name goes, too: `Down` follows.
    Ended,
}

impl GatewayEventKind {
    /// Its name: `up`, `down`, `moved`, `replaced`, `ended`.
    pub fn as_str(self) -> &'static str {
        match self {
            GatewayEventKind::Up => "up",
            GatewayEventKind::Down => "down",
            GatewayEventKind::Moved => "moved",
            GatewayEventKind::Replaced => "replaced",
            GatewayEventKind::Ended => "ended",
        }
    }
}

impl fmt::Display for GatewayEventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something happened to a device name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatewayEvent {
    /// What.
    pub kind: GatewayEventKind,
    /// To whom.
    pub name: String,
    /// When.
    pub at: SystemTime,
    /// Why, in words; for `Up` and `Moved` the token that was turned with, or the encoding of the
    /// polls.
    pub detail: String,
    /// How the name is connected; `None` where it is no more.
    pub transport: Option<Transport>,
    /// The reason as one of a closed list, with `Ended` and `Down`.
    pub cause: Option<CloseCause>,
    /// Events this subscriber lost before this one because it did not read them in time.
    pub missed: u64,
}

/// Those who are told what happens, each with how many events it has missed since its last one.
#[derive(Default)]
pub(super) struct Subscribers(Vec<(Sender<GatewayEvent>, u64)>);

impl Subscribers {
    pub(super) fn add(&mut self, subscriber: Sender<GatewayEvent>) {
        self.0.push((subscriber, 0));
    }

    /// Tells all of them. One that does not read in time misses it; one that is gone is forgotten.
    pub(super) fn publish(&mut self, event: &GatewayEvent) {
        self.0.retain_mut(|(subscriber, missed)| {
            match subscriber.try_send(GatewayEvent { missed: *missed, ..event.clone() }) {
                Ok(()) => *missed = 0,
                Err(TrySendError::Full(_)) => *missed += 1,
                Err(TrySendError::Disconnected(_)) => return false,
            }
            true
        });
    }
}

/// A subscriber's two ends.
pub(super) fn subscription(limits: &Limits) -> (Sender<GatewayEvent>, Receiver<GatewayEvent>) {
    bounded(limits.events_max)
}
