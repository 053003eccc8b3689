//! The gateway's events with numbers, so that a reader can continue where it stopped.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::admin::event;
use crate::gateway::GatewayEvent;
use crate::subscription::Subscription;

/// Events that are kept for followers that reconnect.
const EVENTS_MAX: usize = 1_024;

/// The latest events as JSON.
#[derive(Default)]
pub(super) struct Feed {
    ring: Mutex<Ring>,
    grown: Condvar,
    /// The gateway, or the listener, has ended.
    over: AtomicBool,
}

#[derive(Default)]
struct Ring {
    last: u64,
    events: VecDeque<(u64, Arc<str>)>,
}

impl Feed {
    /// Starts a feed, which a separate thread fills until the gateway stops or the feed is dropped.
    ///
    /// # Errors
    /// No thread could be started.
    pub(super) fn start(events: Subscription<GatewayEvent>) -> Arc<Feed> {
        let feed = Arc::new(Feed::default());
        let weak = Arc::downgrade(&feed);
        let spawned =
            std::thread::Builder::new().name("ptth-admin-feed".to_owned()).spawn(move || {
                loop {
                    let event = events.recv_timeout(Duration::from_secs(1));
                    let Some(feed) = weak.upgrade() else { return };
                    match event {
                        Ok(event) => feed.push(&event),
                        Err(RecvTimeoutError::Timeout) => {}
                        Err(RecvTimeoutError::Disconnected) => return feed.end(),
                    }
                }
            });
        if let Err(e) = spawned {
            log::error!("the admin listener shows no events: no thread could be started: {e}");
        }
        feed
    }

    fn push(&self, event: &GatewayEvent) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.last += 1;
        let id = ring.last;
        let json = event::event(id, event).to_string();
        if ring.events.len() >= EVENTS_MAX {
            ring.events.pop_front();
        }
        ring.events.push_back((id, json.into()));
        drop(ring);
        self.grown.notify_all();
    }

    /// Ends all waits for events.
    pub(super) fn end(&self) {
        let _ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner); // a waiting thread has checked `over`, or checks it again
        self.over.store(true, SeqCst);
        self.grown.notify_all();
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }

    /// The number of the latest event.
    pub(super) fn last(&self) -> u64 {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner).last
    }

    /// The events after this number; if there are none, those that arrive within `wait`.
    pub(super) fn after(&self, after: u64, wait: Duration) -> Found {
        let end = Instant::now() + wait;
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            // A number from before a restart of the gateway is unknown here.
            let after = if after > ring.last { 0 } else { after };
            let left = end.saturating_duration_since(Instant::now());
            if after < ring.last || left.is_zero() || self.is_over() {
                let events = ring.events.iter().filter(|(id, _)| *id > after).cloned().collect();
                return Found { events, last: ring.last };
            }
            ring = self.grown.wait_timeout(ring, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Events, and the number of the latest one when they were looked for.
pub(super) struct Found {
    pub(super) events: Vec<(u64, Arc<str>)>,
    pub(super) last: u64,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_events_of_a_feed_that_has_ended() {
        let (_events, received) = crossbeam_channel::unbounded();
        let feed = Feed::start(Subscription::new(received));
        let shared = feed.clone();
        let waiter = std::thread::spawn(move || shared.after(0, Duration::from_secs(3_600)));
        feed.end();
        assert!(waiter.join().unwrap().events.is_empty());
    }
}
