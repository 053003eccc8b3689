//! The deadlines of an exchange: which one runs, what counts as progress, and which side is too
//! slow.

use std::time::{Duration, Instant};

use crate::engine::connection::Connection;
use crate::engine::connections::{Connections, Id};
use crate::limits::Limits;
use crate::relay::caller::Sending;
use crate::relay::clocks::{Window, left};
use crate::relay::exchange::Exchange;
use crate::relay::phase::Phase;
use crate::relay::request::Invitation;
use crate::relay::rules::Rules;
use crate::relay::timeouts::Wait;

/// Whether bytes wait to be written to either side; the deadlines depend on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backlog {
    /// Bytes of the request wait for the upstream side.
    pub(super) request: bool,
    /// Bytes of the response wait for the downstream side. A gateway may allow a local server to be
    /// silent for any time, but it has to read the response, or its link ends.
    pub(super) response: bool,
}

impl Backlog {
    pub(super) fn of<T>(exchange: &Exchange, cx: &Connections<T>) -> Self {
        let waits =
            |id: Option<Id>| id.and_then(|id| cx.get(id)).is_some_and(|peer| peer.pending() > 0);
        Backlog { request: waits(exchange.upstream()), response: waits(exchange.downstream()) }
    }
}

impl Exchange {
    /// Notes whether bytes have moved since the last call. Bytes of a request that are read only to
    /// be dropped do not count.
    pub(super) fn note_progress<T>(&mut self, cx: &Connections<T>) {
        let find = |id: Option<Id>| id.and_then(|id| cx.get(id));
        let of_downstream =
            if self.request.is_cut() { Connection::written } else { Connection::traffic };
        let moved = find(self.downstream()).map_or(0, of_downstream)
            + find(self.upstream()).map_or(0, Connection::traffic);
        if self.clocks.seen != moved && self.clocks.whole_within.is_none() {
            (self.clocks.seen, self.clocks.progress) = (moved, cx.now());
        }
    }

    /// The time until the next deadline of this exchange, if nothing happens before. It counts from
    /// the last progress, not from the last event: an event without progress does not postpone a
    /// deadline.
    pub(super) fn time_left(
        &mut self,
        now: Instant,
        limits: &Limits,
        backlog: Backlog,
    ) -> Option<Duration> {
        let (wait, progress) = (self.allowed_silence(limits, backlog), self.clocks.progress);
        let silent = wait.is_bounded().then(|| left(progress, wait.time, now));
        let head = self.half_head_since().map(|from| left(from, self.head_wait(limits).time, now));
        let look = self
            .caller
            .absent_since()
            .map(|looked| left((*looked).max(progress), limits.half_close_timeout, now));
        let windows = [self.clocks.taking, self.clocks.sending]
            .map(|window| window.map(|window| window.left(now, limits)));
        [silent, head, look].into_iter().chain(windows).flatten().min()
    }

    /// When the first byte of an incomplete response head arrived. A response that is drained has a
    /// deadline for the whole response instead.
    fn half_head_since(&self) -> Option<Instant> {
        self.beginning.half_since.filter(|_| self.downstream().is_some())
    }

    /// How long a response's head may take, from its first byte to its last: a slow head must not
    /// occupy a connection for longer than silence is allowed to.
    fn head_wait(&self, limits: &Limits) -> Wait {
        let whole = Wait { time: limits.head_timeout, name: "head_timeout" };
        Some(self.waits.first_byte)
            .filter(|first| first.is_bounded() && first.time < whole.time)
            .unwrap_or(whole)
    }

    /// The reason to stop waiting for the head of the response, if it is overdue.
    pub(super) fn late_head(&self, now: Instant, rules: &Rules) -> Option<String> {
        let wait = self.head_wait(&rules.limits);
        let late = now.saturating_duration_since(self.half_head_since()?) >= wait.time;
        late.then(|| {
            format!(
                "{} began its response, and its head was not whole within {wait}",
                self.upstream_name(rules)
            )
        })
    }

    /// Records the facts on which the next deadline depends: which side waits for the other, and
    /// which has left.
    pub(super) fn note_turns<T>(
        &mut self,
        downstream: Option<&mut Connection<T>>,
        backlog: Backlog,
        now: Instant,
        rules: &Rules,
    ) {
        if let Phase::Tunnel { tunnel, .. } = &mut self.phase {
            if tunnel.is_half_ended() && !tunnel.half_seen {
                (tunnel.half_seen, self.clocks.progress) = (true, now);
            }
        }
        let Some(downstream) = downstream else { return };
        if self.request.body.is_done() && !self.is_tunnel() {
            downstream.look_for_end();
        }
        if downstream.is_ending() {
            self.note_end(now, rules);
        }
        self.open_windows(downstream, backlog, now, &rules.limits);
    }

    /// How much longer an exchange may wait for an upstream connection after its downstream side
    /// has ended its direction, and has most likely left.
    pub(super) fn time_without_caller<T>(
        &mut self,
        downstream: Option<&mut Connection<T>>,
        now: Instant,
        rules: &Rules,
    ) -> Option<Duration> {
        let downstream = downstream.filter(|_| !rules.downstream_may_half_close)?;
        if self.is_whole() {
            downstream.look_for_end();
        }
        if !downstream.is_ending() {
            return None;
        }
        self.note_end(now, rules);
        Some(left(self.clocks.progress, rules.limits.abandoned_timeout, now))
    }

    /// The client has ended its direction.
    fn note_end(&mut self, now: Instant, rules: &Rules) {
        let (is_tunnel, wait) = (self.is_tunnel(), rules.limits.half_close_timeout);
        let Some(client) = self.caller.client_mut().filter(|c| c.sending == Sending::Open) else {
            return;
        };
        if !rules.downstream_may_half_close {
            (client.sending, self.clocks.progress) = (Sending::Ended, now);
        } else if !is_tunnel && !wait.is_zero() {
            client.sending = Sending::HalfClosed(now);
        }
    }

    /// A client that has ended its direction may have left. If its request is at another gateway,
    /// that gateway is told, because other callers may wait for the device there.
    pub(super) fn tell_end<T>(&mut self, upstream: Option<&mut Connection<T>>) {
        let has_ended = self.is_hop()
            && !self.hop.is_ended
            && !self.is_tunnel()
            && self.request.body.is_done()
            && self.caller.absent_since().is_some();
        let Some(upstream) = upstream.filter(|upstream| has_ended && upstream.pending() == 0)
        else {
            return;
        };
        self.hop.is_ended = upstream.end_output().unwrap_or(true); // a failure is reported by the next step
    }

    /// Begins the windows of the minimum rate for the side that should move bytes now, and ends the
    /// others.
    fn open_windows<T>(
        &mut self,
        downstream: &Connection<T>,
        backlog: Backlog,
        now: Instant,
        limits: &Limits,
    ) {
        let is_rated = limits.min_rate_bytes_per_s > 0 && !self.is_tunnel();
        let has_link = self.upstream().is_some();
        let takes = is_rated && downstream.pending() > 0 && (has_link || self.held().is_some());
        // A client is not slow if it waits for a 100, or if the upstream side does not read its
        // bytes.
        let is_invited =
            self.request.invitation != Invitation::Awaited || !self.beginning.interim.is_zero();
        let sends = is_rated
            && has_link
            && !backlog.request
            && is_invited
            && !self.request.body.is_done()
            && !self.request.is_cut();
        let clocks = &mut self.clocks;
        clocks.taking =
            takes.then(|| clocks.taking.unwrap_or(Window::new(now, downstream.written())));
        clocks.sending =
            sends.then(|| clocks.sending.unwrap_or(Window::new(now, downstream.received())));
    }

    /// Returns true if the downstream side, which has `unread` bytes waiting for it, took too
    /// little during a whole window of the minimum rate. The next window begins when as much as
    /// possible has been written: room in its socket does not show that it reads.
    pub(super) fn is_slow_to_take(
        &mut self,
        written: u64,
        unread: bool,
        now: Instant,
        limits: &Limits,
    ) -> bool {
        let Some(window) = self.clocks.taking.filter(|window| window.is_over(now, limits)) else {
            return false;
        };
        self.clocks.taking = None;
        unread && window.is_slow(written, now, limits)
    }

    /// Returns true if the downstream side sent too little during a whole window of the minimum
    /// rate, and begins the next window. `received` is the total so far.
    pub(super) fn is_slow_to_send(&mut self, received: u64, now: Instant, limits: &Limits) -> bool {
        let Some(window) = self.clocks.sending.filter(|window| window.is_over(now, limits)) else {
            return false;
        };
        self.clocks.sending = Some(Window::new(now, received));
        window.is_slow(received, now, limits)
    }

    /// Returns true if the downstream side has ended its direction, or is gone, and no byte has
    /// moved for so long that waiting callers take precedence. The next check is due after the same
    /// time.
    pub(super) fn has_left(&mut self, now: Instant, limits: &Limits) -> bool {
        let progress = self.clocks.progress;
        let Some(looked) = self.caller.absent_since() else { return false };
        let is_due = left((*looked).max(progress), limits.half_close_timeout, now).is_zero();
        if is_due {
            *looked = now;
        }
        is_due
    }

    /// The silence that is allowed now.
    pub(super) fn allowed_silence(&self, limits: &Limits, backlog: Backlog) -> Wait {
        let abandoned = Wait::abandoned(limits);
        if let Some(wait) = self.clocks.whole_within {
            return wait;
        }
        let wait = match self.phase.tunnel() {
            Some(tunnel) if tunnel.is_given_up() => return abandoned,
            Some(tunnel) if tunnel.is_half_ended() && self.clocks.is_hurried => return abandoned,
            Some(tunnel) if tunnel.is_half_ended() => return self.waits.half_tunnel,
            Some(_) => return self.waits.tunnel,
            None if backlog.request => self.waits.write,
            None if backlog.response && !self.waits.body_silence.is_bounded() => {
                Wait { time: limits.body_silence_timeout, name: "body_silence_timeout" }
            }
            None if self.request.body.is_done() && !self.phase.has_head() => self.waits.first_byte,
            None if self.request.body.is_done() => self.waits.response_silence,
            None => self.waits.body_silence,
        };
        let is_shorter = !wait.is_bounded() || limits.abandoned_timeout < wait.time;
        if self.caller.has_ended() && is_shorter { abandoned } else { wait }
    }
}
