//! Dialling: what is wanted, when, and what follows when an attempt fails.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

use crate::close_reason::CloseCause;
use crate::close_reason::CloseReason;
use crate::device::backoff::RETRY_AFTER_MAX;
use crate::device::backoff::random;
use crate::device::dial::DIAL;
use crate::device::dial::Dial;
use crate::device::events::DeviceEventKind;
use crate::device::gateways::GatewayTarget;
use crate::device::group::Standing;
use crate::device::lookups::Found;
use crate::device::lookups::Waiter;
use crate::device::role::DeviceRole;
use crate::device::state::State;
use crate::device::url::Reach;
use crate::engine::connections::Connections;
use crate::engine::connections::Id;
use crate::engine::slab::Key;
use crate::error::Error;

/// How often a device without a clock looks whether it has one.
const CLOCK_LOOK: Duration = Duration::from_secs(2);

impl DeviceRole {
    /// Dials as many links or polls as are wanted; one at a time until the gateway answers. Answers
    /// that wait to be posted come first.
    pub(super) fn top_up(&mut self, cx: &mut Connections<State>) {
        self.shared.asked.store(false, Relaxed);
        self.give_up_late_answers(cx);
        let now = cx.now();
        if self.not_before.is_some_and(|at| at > now) {
            return;
        }
        self.not_before = None;
        if !self.has_time(cx) {
            return;
        }
        // A dial may fail at once (no route): then `not_before` is set again, and the rest waits.
        while self.not_before.is_none()
            && (!self.is_failing() || self.tries.answered || self.attempts() == 0)
        {
            if let Some(key) = self.slot_to_dial(now) {
                self.dial_slot(cx, key);
            } else if self.draining {
                return;
            } else if self.is_polling(now) {
                let polls = self.slots.len() + self.shared.dialing.load(Relaxed);
                // Where all have an event in hand, the gateway could not even say who waits.
                let more = self.demand.is_pending() || self.working() >= polls;
                let wanted =
                    polls < *self.plan.polls.start() || (polls < *self.plan.polls.end() && more);
                if !wanted {
                    return self.demand.forget();
                }
                self.demand.dialled(now);
                let home = self.home();
                let key = self.new_slot(home.url.clone(), home, false);
                self.dial_slot(cx, key);
            } else if self.shared.is_short() || (self.shared.room() > 0 && self.demand.is_pending())
            {
                if !self.burst.takes(now) {
                    if !std::mem::replace(&mut self.burst.alarmed, true) {
                        cx.alarm(self.burst.ends, DIAL);
                    }
                    return;
                }
                self.demand.dialled(now);
                self.shared.dialing.fetch_add(1, Relaxed);
                let home = self.home();
                self.resolve(cx, Box::new(Dial::new(home.url.clone(), home, 0, None)));
            } else {
                return self.demand.forget();
            }
        }
    }

    /// The gateway says that so many callers wait while none of this device's links is free. The
    /// next [`top_up`](Self::top_up) dials.
    pub(super) fn callers_wait(&mut self, now: Instant, callers: usize) {
        let pauses = self.not_before.is_some_and(|at| at > now);
        if self.draining || callers == 0 || pauses {
            return;
        }
        let dialing = self.shared.dialing.load(Relaxed);
        let (in_progress, room) = match self.is_polling(now) {
            true => {
                self.demand.note_polls(now, self.working() + callers);
                let room = self.plan.polls.end().saturating_sub(self.slots.len() + dialing);
                (self.attempts(), room)
            }
            false => {
                self.demand.note_links(now, self.shared.take_peak() + callers);
                (dialing, self.shared.room())
            }
        };
        self.demand.callers_wait(now, callers, in_progress, room);
    }

    /// Returns true if another link or poll is to be dialled.
    pub(super) fn is_wanting(&self) -> bool {
        self.demand.is_pending() || self.shared.is_short()
    }

    /// Whether the gateway's certificate can be checked now. A device that has no clock yet looks
    /// again, and says so once.
    fn has_time(&mut self, cx: &mut Connections<State>) -> bool {
        let has_time = self.plan.tls.as_ref().is_none_or(|connector| connector.has_time());
        if !has_time {
            if !std::mem::replace(&mut self.waits_for_clock, true) {
                let why = "the clock shows a time before 2026, with which no certificate can be checked; waiting for a right one \
                           (set the clock, or give --clock-floor)";
                log::warn!("{why}");
                let home = self.home();
                self.tell(DeviceEventKind::Failed, &home, &home.url.text, why.to_owned());
            }
            self.dial_later(cx, CLOCK_LOOK);
        } else if std::mem::take(&mut self.waits_for_clock) {
            log::info!("the clock is set; dialling");
        }
        has_time
    }

    /// Finds the addresses of the gateway, or of the proxy on the way to it, and dials them one by
    /// one.
    pub(super) fn resolve(&mut self, cx: &mut Connections<State>, mut dial: Box<Dial>) {
        if let Some(why) = dial.url.too_near(Reach::of_host(&dial.url.host)) {
            return self.cannot_reach(cx, &dial, &why);
        }
        let (host, port) = match self.proxy_to(&dial.url) {
            Some(proxy) => (proxy.host.clone(), proxy.port),
            None => (dial.url.host.clone(), dial.url.port),
        };
        dial.begun = Some(cx.now());
        match host.parse::<IpAddr>() {
            Ok(ip) => self.race(cx, Waiter::Dial(dial), &host, vec![SocketAddr::new(ip, port)]),
            Err(_) => self.look_up(cx, &host, port, Waiter::Dial(dial)),
        }
    }

    /// The addresses of a dial are found, or there are none.
    pub(super) fn dial_found(
        &mut self,
        cx: &mut Connections<State>,
        mut dial: Box<Dial>,
        host: &str,
        found: Found,
    ) {
        match found {
            _ if self.draining && dial.slot.is_none() => self.undialed(),
            _ if dial.slot.is_some_and(|key| self.slots.get(key).is_none()) => {} // given up meanwhile
            Ok(mut addresses) => {
                let nearest = addresses.iter().map(|address| Reach::of(address.ip())).min();
                if self.proxy_to(&dial.url).is_none() {
                    addresses.retain(|address| Reach::of(address.ip()) >= dial.url.nearest); // whatever the name server says
                }
                if let (true, Some(why)) =
                    (addresses.is_empty(), nearest.and_then(|nearest| dial.url.too_near(nearest)))
                {
                    return self.cannot_reach(cx, &dial, &why);
                }
                dial.begun = Some(cx.now());
                self.race(cx, Waiter::Dial(dial), host, addresses);
            }
            Err(why) => self.cannot_reach(cx, &dial, &why),
        }
    }

    pub(super) fn cannot_reach(&mut self, cx: &mut Connections<State>, dial: &Dial, why: &str) {
        let why = match self.proxy_to(&dial.url) {
            Some(proxy) => format!(
                "proxy {} on the way to gateway {} cannot be reached: {why}",
                proxy.text, dial.url.text
            ),
            None => format!("gateway {} cannot be reached: {why}", dial.url.text),
        };
        self.dial_failed(cx, &dial.home, dial.slot, &why, None);
    }

    pub(super) fn end_dial(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        why: &str,
        retry_after: Option<Duration>,
    ) {
        let Some(State::Dial(dial)) = cx.get(id).map(|p| &p.state) else { return };
        let (url, home, slot) = (dial.url.clone(), dial.home.clone(), dial.slot);
        cx.close(id);
        self.dial_failed(cx, &home, slot, &format!("{}: {why}", url.text), retry_after);
    }

    /// An attempt to offer or poll at `home` failed, and its connection is closed.
    pub(super) fn dial_failed(
        &mut self,
        cx: &mut Connections<State>,
        home: &Arc<GatewayTarget>,
        slot: Option<Key>,
        why: &str,
        retry_after: Option<Duration>,
    ) {
        if let Some(key) = slot.filter(|key| self.is_beside(*key)) {
            return self.doubt_refused(cx, key, why);
        }
        self.attempt_over(cx, slot, why);
        if self.draining && self.slots.len() == 0 {
            return;
        }
        self.tell(DeviceEventKind::Failed, home, &home.url.text, why.to_owned());
        self.failed_at(cx, home, why, retry_after);
    }

    pub(super) fn attempt_over(
        &mut self,
        cx: &mut Connections<State>,
        slot: Option<Key>,
        why: &str,
    ) {
        match slot {
            Some(key) => self.poll_failed(cx, key, why),
            None => {
                self.undialed();
                self.settle_transport(
                    cx,
                    "",
                    Some(&CloseReason::new(CloseCause::Cut, why.to_owned())),
                ); // it may have been the last offer that was held
            }
        }
    }

    /// A dial is over without a link; with the last one goes what a held offer had told.
    pub(super) fn undialed(&mut self) {
        if self.shared.dialing.fetch_sub(1, Relaxed) == 1 {
            self.signs.waiting = false;
        }
    }

    /// Sets the next attempt after one that failed: with failover at the next gateway at once, else
    /// here, or at the first again, after a pause.
    pub(super) fn failed_at(
        &mut self,
        cx: &mut Connections<State>,
        home: &Arc<GatewayTarget>,
        why: &str,
        asked: Option<Duration>,
    ) {
        let asked = asked.map(|asked| asked.min(RETRY_AFTER_MAX));
        let together = self.not_before.is_some_and(|at| at > cx.now());
        self.tries.answered = false;
        self.demand.forget();
        if !together && self.gives_up(why) {
            return; // the device's error says it all
        }
        if self.may_go_on(home) {
            self.plan.homes.rest(home, asked.map(|asked| cx.after(asked)), false);
            if self.plan.homes.advance(cx.now()) {
                log_names!(Warn, "{why}; next is {}", self.home().url.text);
                self.dial_later(cx, Duration::ZERO);
            } else {
                let pause = self.backoff.fail(random(), None);
                let at = self.plan.homes.start_over(cx.after(pause));
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
                true => log_names!(Debug, "{text}"), // the first of them was told
                false => log_names!(Warn, "{text}"),
            }
        }
    }

    /// Whether a failure at `home` moves a failover's list on: it is the one whose turn it is, and
    /// there is no way in.
    pub(super) fn may_go_on(&self, home: &Arc<GatewayTarget>) -> bool {
        self.plan.homes.is_list() && self.transport.is_none() && self.plan.homes.is_current(home)
    }

    /// One failed attempt more; with as many as may be, and no way in, this gateway is given up,
    /// and with the last one the device (true).
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
            1 => format!("gave up after 1 failed attempt (max_retries): {why}"),
            _ => format!(
                "gave up after {max} failed attempts in a row (max_retries); the last one: {why}"
            ),
        };
        self.stopped |= self.group.report(self.member, Standing::GaveUp, Error::gave_up(text));
        self.stopped
    }

    /// An attempt came to something, or a link was of use.
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

    /// What was found out about one gateway says nothing of the next.
    fn forget_mode(&mut self) {
        self.mode.reset();
        self.demand.forget();
        (self.encoding, self.hung_up, self.signs.beaten) = (None, None, false);
        (self.troubled, self.no_tunnel_until) = (0, None);
        (self.signs.holds, self.tries.brief, self.doubt.since, self.doubt.again) =
            (false, 0, None, false);
    }

    /// How long nothing is dialled after a failure. Attempts that fail together are one failure,
    /// else a device that lost many links at once would wait for the longest of as many pauses:
    /// about the cap, and at the same time as every other such device.
    fn back_off(&mut self, cx: &mut Connections<State>, retry_after: Option<Duration>) -> Duration {
        let left =
            self.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(cx.now()));
        let pause = match retry_after {
            _ if left.is_zero() => self.backoff.fail(random(), retry_after),
            Some(asked) if asked > left => self.backoff.obey(random(), asked),
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

    /// The way in is lost: a failover's list begins again with its first.
    pub(super) fn begin_again(&mut self, cx: &mut Connections<State>) {
        if self.plan.homes.is_list() && !self.draining {
            let now = cx.now();
            let at = self.plan.homes.start_over(now);
            self.forget_mode();
            if at > now {
                self.dial_at(cx, at);
            }
        }
    }

    /// Whether what came through `home` may be the way in: there is none, or that is the one.
    pub(super) fn takes(&mut self, home: &Arc<GatewayTarget>) -> bool {
        if self.transport.is_none() {
            self.plan.homes.settle_on(home);
        }
        self.plan.homes.is_current(home)
    }
}
