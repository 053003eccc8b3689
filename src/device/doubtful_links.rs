//! Links that never carried a byte: the polls beside them, and the conclusions from these polls.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::device::dial_stages::DOUBT;
use crate::device::role::DeviceRole;
use crate::device::state::State;
use crate::engine::connections::Connections;
use crate::proto::turn::Fallback;

impl DeviceRole {
    /// Links work: a request or a heartbeat arrived over one.
    pub(super) fn carries(&mut self) {
        (self.doubt.since, self.doubt.tries, self.doubt.again) = (None, 0, false);
    }

    /// Polls beside links that have carried no byte for `doubt_after`.
    pub(super) fn doubt_links(&mut self, cx: &mut Connections<State>) {
        let (now, timeout) = (cx.now(), self.limits.doubt_after);
        let Some(since) =
            self.doubt.since.filter(|_| !timeout.is_zero() && self.plan.fallback == Fallback::Auto)
        else {
            return;
        };
        if self.draining
            || self.slots.len() > 0
            || self.is_polling(now)
            || self.shared.links.load(Relaxed) == 0
        {
            return;
        }
        let timeout =
            if self.doubt.again && self.doubt.tries == 0 { Duration::ZERO } else { timeout };
        let left = timeout
            .saturating_mul(1 << self.doubt.tries.min(6))
            .saturating_sub(now.saturating_duration_since(since));
        if !left.is_zero() {
            let at = cx.after(left);
            if self.doubt.alarm.is_none_or(|set| at < set) {
                self.doubt.alarm = Some(at);
                cx.alarm(at, DOUBT);
            }
            return;
        }
        let gateway = self.current_gateway();
        if self.doubt.tries == 0 {
            log_names!(
                Info,
                "no byte has arrived over the links to {} yet; polling beside them, in case an intermediary drops their data",
                gateway.url.text
            );
        }
        let key = self.new_slot(gateway.url.clone(), gateway, true);
        self.dial_slot(key);
    }

    /// The next poll beside the links waits twice as long, counted from now. Counted from the first
    /// poll, there would be no wait after a while.
    pub(super) fn doubt_later(&mut self, now: Instant) {
        self.doubt.tries = self.doubt.tries.saturating_add(1);
        self.doubt.since = self.doubt.since.map(|_| now);
    }
}
