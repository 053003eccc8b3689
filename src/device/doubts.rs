//! Links over which nothing ever came: polls beside them, and what these prove.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::close_reason::CloseCause;
use crate::close_reason::CloseReason;
use crate::device::dial::DOUBT;
use crate::device::role::DeviceRole;
use crate::device::state::State;
use crate::engine::connections::Connections;
use crate::engine::slab::Key;
use crate::proto::turn::Fallback;

impl DeviceRole {
    /// Turned connections carry something: a request or a heartbeat came over one.
    pub(super) fn carries(&mut self) {
        (self.doubt.since, self.doubt.tries, self.doubt.again) = (None, 0, false);
    }

    /// Polls beside links that have not carried anything for `doubt_after`.
    pub(super) fn doubt_links(&mut self, cx: &mut Connections<State>) {
        let (now, patience) = (cx.now(), self.limits.doubt_after);
        let Some(since) = self
            .doubt
            .since
            .filter(|_| !patience.is_zero() && self.plan.fallback == Fallback::Auto)
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
        let patience =
            if self.doubt.again && self.doubt.tries == 0 { Duration::ZERO } else { patience };
        let left = patience
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
        let home = self.home();
        if self.doubt.tries == 0 {
            log_names!(
                Info,
                "nothing has come over the links to {} yet; polling beside them, in case it is swallowed on the way",
                home.url.text
            );
        }
        let key = self.new_slot(home.url.clone(), home, true);
        self.dial_slot(cx, key);
    }

    /// A poll beside the links came to nothing: whoever answers there takes none, and the links
    /// stay as they are.
    pub(super) fn doubt_refused(&mut self, cx: &mut Connections<State>, key: Key, why: &str) {
        log_names!(Debug, "a poll beside the links came to nothing: {why}");
        self.doubt_later(cx.now());
        self.drop_slot(cx, key, why);
    }

    /// The next poll beside the links waits twice as long, counted from now: counted from the
    /// first, no wait would be left after a while.
    pub(super) fn doubt_later(&mut self, now: Instant) {
        self.doubt.tries = self.doubt.tries.saturating_add(1);
        self.doubt.since = self.doubt.since.map(|_| now);
    }

    /// What polls bring, or that links end without use where polls are answered, says that turned
    /// connections carry nothing: they are given up.
    pub(super) fn give_up_links(&mut self, cx: &mut Connections<State>) {
        const WHY: CloseReason =
            CloseCause::Silent.because("nothing ever came over it, where polls are answered");
        (self.doubt.since, self.doubt.tries, self.doubt.again) = (None, 0, true);
        self.mode.swallow();
        self.poll_alone();
        let url = self.home().url.clone();
        log_names!(
            Warn,
            "connections to {} turn, and nothing comes over them: polling without Upgrade until the way in is lost",
            url.text
        );
        for id in cx.ids() {
            match cx.get_mut(id).map(|p| &mut p.state) {
                Some(State::Link(link)) if link.slot.is_none() && link.exchange.is_none() => {
                    link.used = true; // that it ends is no failure to dial
                    self.link_gone(cx, id, WHY);
                }
                Some(State::Dial(dial)) if dial.slot.is_none() => {
                    cx.close(id);
                    self.undialed();
                }
                _ => {}
            }
        }
    }
}
