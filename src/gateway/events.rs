//! Events of device names, for subscribers.

use std::fmt;
use std::sync::Weak;
use std::time::SystemTime;

use crossbeam_channel::{Sender, TrySendError, bounded};

use crate::close_reason::CloseCause;
use crate::limits::Limits;
use crate::proto::turn::Transport;
use crate::subscription::Subscription;

/// The kind of a [`GatewayEvent`].
///
/// ```
/// use reverse_http::GatewayEventKind;
/// assert_eq!(GatewayEventKind::Up.to_string(), "up");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GatewayEventKind {
    /// The name is connected: its first link, or its first poll.
    Up,
    /// The name is no longer connected: its last link is gone, and it has not polled for
    /// `poll_gap`.
    Down,
    /// The transport of the name has changed, from polls to links or back.
    Moved,
    /// A newer session took the name over.
    Replaced,
    /// One of its links ended. After the last one, `Down` follows.
    Ended,
}

impl GatewayEventKind {
    /// Its name in logs: `up`, `down`, `moved`, `replaced`, `ended`.
    #[must_use]
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
///
/// ```
/// use std::time::Duration;
/// use reverse_http::{Body, CloseCause, Device, Gateway, GatewayEventKind};
///
/// let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
/// let events = gateway.events();
/// let device = Device::builder(format!("http://{}/lamp", gateway.devices_addr())).build()?;
/// let running = device.spawn(|_| http::Response::new(Body::empty()))?;
/// let event = events.recv_timeout(Duration::from_secs(5))?;
/// assert_eq!((event.kind, &*event.name, event.cause), (GatewayEventKind::Up, "lamp", None));
///
/// running.stop();
/// let down = events.iter().find(|event| event.kind == GatewayEventKind::Down).expect("it comes");
/// assert!(down.cause.is_some_and(|cause| CloseCause::ALL.contains(&cause)), "{}", down.detail);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatewayEvent {
    /// What happened.
    pub kind: GatewayEventKind,
    /// The device's name.
    pub name: String,
    /// When it happened.
    pub at: SystemTime,
    /// The reason, in words; for `Up` and `Moved`, the upgrade token, or the encoding of the polls.
    pub detail: String,
    /// The transport; `None` if the name is no longer connected.
    pub transport: Option<Transport>,
    /// The reason, from a closed list, with `Ended` and `Down`.
    pub cause: Option<CloseCause>,
    /// How many events this subscriber lost before this one, because it did not read them in time.
    pub missed: u64,
}

/// One subscriber.
pub(crate) struct Subscriber {
    to: Sender<GatewayEvent>,
    readers: Weak<()>,
    /// Events that it has missed since its last one.
    missed: u64,
}

/// All subscribers.
#[derive(Default)]
pub(super) struct Subscribers(Vec<Subscriber>);

impl Subscribers {
    pub(super) fn add(&mut self, subscriber: Subscriber) {
        // Ended subscriptions make room, also without events.
        if self.0.len() == self.0.capacity() {
            self.0.retain(|known| known.readers.strong_count() > 0);
        }
        self.0.push(subscriber);
    }

    /// Sends an event to all of them. A subscriber that does not read in time misses it; an ended
    /// subscription is removed.
    pub(super) fn publish(&mut self, event: &GatewayEvent) {
        self.0.retain_mut(|Subscriber { to, missed, .. }| {
            match to.try_send(GatewayEvent { missed: *missed, ..event.clone() }) {
                Ok(()) => *missed = 0,
                Err(TrySendError::Full(_)) => *missed += 1,
                Err(TrySendError::Disconnected(_)) => return false,
            }
            true
        });
    }
}

/// The two ends of a subscription.
pub(super) fn subscription(limits: &Limits) -> (Subscriber, Subscription<GatewayEvent>) {
    let (to, events) = bounded(limits.events_max);
    let events = Subscription::new(events);
    (Subscriber { to, readers: events.readers(), missed: 0 }, events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscribers_that_are_gone_make_room_while_nothing_happens() {
        let (limits, mut all) = (Limits::default(), Subscribers::default());
        let (kept, _events) = subscription(&limits);
        all.add(kept);
        for _ in 0..1_000 {
            all.add(subscription(&limits).0);
        }
        assert!(all.0.len() < 10, "{} are kept", all.0.len());
        assert!(all.0[0].readers.strong_count() == 1);
    }
}
