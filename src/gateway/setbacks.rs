//! Gateways that recently failed to serve a request. If several have a device, the others are asked
//! first: a gateway that was killed keeps its claims until they expire. Pure data, no clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::limits::{PEER_SETBACK, PEER_SETBACKS_MAX};

/// What a gateway failed to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Setback {
    /// It could not be reached.
    Unreached,
    /// It did not have this device.
    Missed(Arc<str>),
}

/// What was noted, by the URLs of the gateways.
#[derive(Default)]
pub(crate) struct Setbacks(HashMap<(Arc<str>, Setback), Instant>);

impl Setbacks {
    pub(crate) fn note(&mut self, url: &Arc<str>, setback: Setback, now: Instant) {
        if self.0.len() >= PEER_SETBACKS_MAX {
            self.0.retain(|_, at| now.saturating_duration_since(*at) < PEER_SETBACK);
            if self.0.len() >= PEER_SETBACKS_MAX {
                self.0.clear();
            }
        }
        self.0.insert((url.clone(), setback), now);
    }

    /// Returns true if another gateway should be asked for this device first.
    pub(crate) fn has(&self, url: &Arc<str>, name: &str, now: Instant) -> bool {
        let is_recent = |setback| {
            let at = self.0.get(&(url.clone(), setback));
            at.is_some_and(|at| now.saturating_duration_since(*at) < PEER_SETBACK)
        };
        !self.0.is_empty()
            && (is_recent(Setback::Unreached) || is_recent(Setback::Missed(name.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setback_counts_for_a_while_and_there_are_never_too_many() {
        let (mut setbacks, now) = (Setbacks::default(), Instant::now());
        let (one, other): (Arc<str>, Arc<str>) = ("http://a:1".into(), "http://b:1".into());
        assert!(!setbacks.has(&one, "lamp", now));
        setbacks.note(&one, Setback::Missed("lamp".into()), now);
        assert!(setbacks.has(&one, "lamp", now));
        assert!(!setbacks.has(&one, "door", now) && !setbacks.has(&other, "lamp", now));
        assert!(!setbacks.has(&one, "lamp", now + PEER_SETBACK));
        setbacks.note(&other, Setback::Unreached, now);
        assert!(setbacks.has(&other, "door", now));
        (0..3 * PEER_SETBACKS_MAX)
            .for_each(|n| setbacks.note(&one, Setback::Missed(format!("n{n}").into()), now));
        assert!(setbacks.0.len() <= PEER_SETBACKS_MAX);
    }
}
