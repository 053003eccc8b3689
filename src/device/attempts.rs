//! The results of attempts: when the next one is due, and at which gateway.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::device::backoff::{RETRY_AFTER_MAX, random};
use crate::device::dial_stages::DIAL;
use crate::device::events::DeviceEventKind;
use crate::device::gateways::GatewayTarget;
use crate::device::group::Standing;
use crate::device::role::DeviceRole;
use crate::device::state::State;
use crate::engine::connections::Connections;
use crate::error::Error;
use crate::setting::{CLOCK_FLOOR, MAX_RETRIES};

/// How often a device whose clock is not set checks it again.
const CLOCK_LOOK: Duration = Duration::from_secs(2);

impl DeviceRole {
    /// An attempt succeeded, or a link carried a request.
    pub(super) fn succeeded(&mut self) {
        self.backoff.succeed();
        (self.tries.doubtful, self.tries.stopping) = (false, false);
        if std::mem::take(&mut self.tries.failed) > 0 {
            self.group.hopes(self.member);
        }
    }

    pub(super) fn is_failing(&self) -> bool {
        self.backoff.failures() > 0
    }

    /// Returns true if another link or poll should be dialled.
    pub(super) fn is_wanting(&self) -> bool {
        self.demand.is_pending() || self.shared.is_short()
    }

    /// Returns true if a connection through `gateway` can be used: no gateway is connected, or this
    /// one is.
    pub(super) fn takes(&mut self, gateway: &Arc<GatewayTarget>) -> bool {
        if self.transport.is_none() {
            self.plan.gateways.choose(gateway);
        }
        self.plan.gateways.is_current(gateway)
    }

    /// Returns true if a failure at `gateway` makes a failover try the next gateway: it is the
    /// current one, and no gateway is connected.
    pub(super) fn may_go_on(&self, gateway: &Arc<GatewayTarget>) -> bool {
        self.plan.gateways.is_list()
            && self.transport.is_none()
            && self.plan.gateways.is_current(gateway)
    }

    /// Counts a failed attempt. At `max_retries` while not connected, this gateway is given up.
    /// Returns true if it was the last one, and the device ends.
    pub(super) fn gives_up(&mut self, why: &str) -> bool {
        self.tries.failed = self.tries.failed.saturating_add(1);
        let Some(max) = self
            .plan
            .max_retries
            .filter(|max| self.tries.failed >= *max && self.transport.is_none())
        else {
            return false;
        };
        let text = match max {
            1 => format!("gave up after 1 failed attempt ({MAX_RETRIES}): {why}"),
            _ => format!(
                "gave up after {max} failed attempts in a row ({MAX_RETRIES}); the last one: {why}"
            ),
        };
        self.stopped |= self.group.report(self.member, Standing::GaveUp, Error::gave_up(text));
        self.stopped
    }

    /// A dial has ended without a link. If it was the last one, no offer is held any more.
    pub(super) fn undialed(&mut self) {
        if self.shared.dialing.fetch_sub(1, Relaxed) == 1 {
            self.signs.waiting = false;
        }
    }

    /// Schedules the next attempt after one that failed: with failover at the next gateway at once;
    /// else at this one, or at the first again, after a pause.
    pub(super) fn failed_at(
        &mut self,
        cx: &mut Connections<State>,
        gateway: &Arc<GatewayTarget>,
        why: &str,
        asked: Option<Duration>,
    ) {
        let asked = asked.map(|asked| asked.min(RETRY_AFTER_MAX));
        let together = self.not_before.is_some_and(|at| at > cx.now());
        self.tries.answered = false;
        self.demand.forget();
        if !together && self.gives_up(why) {
            return; // the device's error reports it
        }
        if self.may_go_on(gateway) {
            self.plan.gateways.rest(gateway, asked.map(|asked| cx.after(asked)), false);
            if self.plan.gateways.advance(cx.now()) {
                log_names!(Warn, "{why}; next is {}", self.current_gateway().url.text);
                self.dial_later(cx, Duration::ZERO);
            } else {
                let pause = self.backoff.fail(random(), None);
                let at = self.plan.gateways.start_over(cx.after(pause));
                log_names!(
                    Warn,
                    "{why}; next attempt in {:.1} s",
                    at.saturating_duration_since(cx.now()).as_secs_f32()
                );
                self.dial_at(cx, at);
            }
            self.forget_mode();
        } else {
            let pause = self.back_off(cx, asked);
            let text = format!("{why}; next attempt in {:.1} s", pause.as_secs_f32());
            match together {
                true => log_names!(Debug, "{text}"), // the first of them was logged
                false => log_names!(Warn, "{text}"),
            }
        }
    }

    /// Forgets the findings about one gateway, which do not apply to the next.
    fn forget_mode(&mut self) {
        self.mode.reset();
        self.demand.forget();
        (self.encoding, self.hung_up, self.signs.beaten) = (None, None, false);
        (self.troubled, self.no_tunnel_until) = (0, None);
        (self.signs.holds, self.tries.brief, self.doubt.since, self.doubt.again) =
            (false, 0, None, false);
    }

    /// Sets the pause after a failure. Attempts that fail together are one failure; otherwise a
    /// device that lost many links at once would wait for about the longest pause, at the same time
    /// as every other such device.
    fn back_off(&mut self, cx: &mut Connections<State>, retry_after: Option<Duration>) -> Duration {
        let left =
            self.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(cx.now()));
        let pause = match retry_after {
            _ if left.is_zero() => self.backoff.fail(random(), retry_after),
            Some(asked) if asked > left => self.backoff.after_retry_after(random(), asked),
            _ => return left,
        };
        self.dial_later(cx, pause);
        pause
    }

    pub(super) fn dial_later(&mut self, cx: &mut Connections<State>, pause: Duration) {
        let at = cx.after(pause);
        self.dial_at(cx, at);
    }

    fn dial_at(&mut self, cx: &mut Connections<State>, at: Instant) {
        if self.not_before.is_none_or(|before| before < at) {
            self.not_before = Some(at);
            cx.alarm(at, DIAL);
        }
    }

    /// The connection to the gateway is lost: a failover begins again with its first gateway.
    pub(super) fn begin_again(&mut self, cx: &mut Connections<State>) {
        if self.plan.gateways.is_list() && !self.draining {
            let now = cx.now();
            let at = self.plan.gateways.start_over(now);
            self.forget_mode();
            if at > now {
                self.dial_at(cx, at);
            }
        }
    }

    /// Returns true if the gateway's certificate can be checked now. A device whose clock is not
    /// set checks again later, and logs this once.
    pub(super) fn has_time(&mut self, cx: &mut Connections<State>) -> bool {
        let has_time = self.plan.tls.as_ref().is_none_or(|connector| connector.has_time());
        if !has_time {
            if !std::mem::replace(&mut self.waits_for_clock, true) {
                let why = format!(
                    "the clock shows a time before 2026, with which no certificate can be checked; waiting for a correct one \
                     (set the clock, or give an earliest time: {CLOCK_FLOOR})"
                );
                log::warn!("{why}");
                let gateway = self.current_gateway();
                self.tell(DeviceEventKind::Failed, &gateway, &gateway.url.text, why);
            }
            self.dial_later(cx, CLOCK_LOOK);
        } else if std::mem::take(&mut self.waits_for_clock) {
            log::info!("the clock is set; dialling");
        }
        has_time
    }
}
