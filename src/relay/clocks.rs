//! The deadlines of an exchange: which one runs, what counts as progress, and who is too slow.

use std::time::{Duration, Instant};

use crate::engine::connections::{Connection, Connections, Id};
use crate::limits::Limits;
use crate::relay::exchange::Exchange;
use crate::relay::rules::Rules;
use crate::relay::waits::Wait;

impl Exchange {
    /// Whether something has moved since the last look. What is read of a request only to be
    /// dropped does not count.
    pub(super) fn note_progress<T>(&mut self, cx: &Connections<T>) {
        let traffic = |id: Option<Id>| id.and_then(|id| cx.get(id)).map_or(0, Connection::traffic);
        let downstream = match self.downstream.and_then(|id| cx.get(id)) {
            Some(downstream) if self.request_cut => downstream.written(),
            _ => traffic(self.downstream),
        };
        let moved = downstream + traffic(self.upstream);
        if self.seen != moved && self.whole_within.is_none() {
            (self.seen, self.progress) = (moved, cx.now());
        }
    }

    /// When this exchange is next to be looked at, if nothing happens before. Counted from the last
    /// progress, not from the last event: events that move nothing postpone nothing.
    pub(super) fn left(
        &self,
        now: Instant,
        limits: &Limits,
        writing: bool,
        answer_waits: bool,
    ) -> Option<Duration> {
        let left = |from, time: Duration| time.saturating_sub(now.saturating_duration_since(from));
        let patience = self.patience(limits, writing, answer_waits);
        let silent = patience.is_bounded().then(|| left(self.progress, patience.time));
        let head = self.head_since.map(|from| left(from, self.head_wait(limits).time));
        let look =
            self.half_closed.map(|from| left(from.max(self.progress), limits.half_close_timeout));
        let windows = [self.rate_from, self.send_from]
            .map(|window| window.map(|(from, _)| left(from, limits.min_rate_window)));
        [silent, head, look].into_iter().chain(windows).flatten().min()
    }

    /// How long a response's head may take, from its first byte to its last: one that drips in must
    /// not hold a connection for longer than silence may.
    pub(super) fn head_wait(&self, limits: &Limits) -> Wait {
        let whole = Wait { time: limits.head_timeout, name: "head_timeout" };
        Some(self.waits.first_byte)
            .filter(|first| first.is_bounded() && first.time < whole.time)
            .unwrap_or(whole)
    }

    /// Why the head of its response is waited for no longer, where that is so.
    pub(super) fn late_head(&self, now: Instant, rules: &Rules) -> Option<String> {
        let wait = self.head_wait(&rules.limits);
        let late = now.saturating_duration_since(self.head_since?) >= wait.time;
        late.then(|| {
            format!(
                "{} began its response, and its head was not whole within {wait}",
                rules.upstream_name
            )
        })
    }

    /// Notes what the next deadline depends on: who keeps whom waiting, and who has left.
    /// `downstream`: the downstream connection; `writing`: the answering side has not taken all
    /// that there is of the request.
    pub(super) fn note_turns<T>(
        &mut self,
        downstream: Option<&mut Connection<T>>,
        writing: bool,
        now: Instant,
        rules: &Rules,
    ) {
        let limits = &rules.limits;
        if let Some(tunnel) =
            self.tunnel.as_mut().filter(|tunnel| tunnel.is_half_ended() && !tunnel.half_seen)
        {
            (tunnel.half_seen, self.progress) = (true, now);
        }
        let Some(downstream) = downstream else { return };
        if self.request.is_done() && self.tunnel.is_none() {
            downstream.look_for_end();
        }
        match downstream.is_ending() {
            true if !rules.downstream_may_half_close && !self.downstream_ended => {
                (self.downstream_ended, self.progress) = (true, now)
            }
            true if rules.downstream_may_half_close
                && self.tunnel.is_none()
                && !limits.half_close_timeout.is_zero() =>
            {
                self.half_closed.get_or_insert(now);
            }
            _ => {}
        }
        let rated = limits.min_rate_bytes_per_s > 0 && self.tunnel.is_none();
        let holds = self.upstream.is_some();
        let reads = rated && downstream.pending() > 0 && (holds || self.held.is_some());
        self.rate_from = reads.then(|| self.rate_from.unwrap_or((now, downstream.written())));
        // Who waits for a 100 is not slow, nor is who sends what the upstream side does not take.
        let invited = !self.expects_continue || self.informational > 0 || self.body_moved;
        let sends =
            rated && holds && !writing && invited && !self.request.is_done() && !self.request_cut;
        self.send_from = sends.then(|| self.send_from.unwrap_or((now, downstream.received())));
    }

    /// Whether the downstream side sent too little over a whole window of the least rate; begins
    /// the next window. `received`: in all.
    pub(super) fn is_slow_to_send(&mut self, received: u64, now: Instant, limits: &Limits) -> bool {
        let Some((from, had)) = self.send_from else { return false };
        let window = now.saturating_duration_since(from);
        if window < limits.min_rate_window {
            return false;
        }
        self.send_from = Some((now, received));
        ((received - had) as f64) < limits.min_rate_bytes_per_s as f64 * window.as_secs_f64()
    }

    /// Whether the downstream side has ended its direction, or is gone, and nothing has moved for
    /// so long that it does not count while callers wait. It is asked again as much later.
    pub(super) fn has_left(&mut self, now: Instant, limits: &Limits) -> bool {
        let Some(looked) = self.half_closed else { return false };
        let due =
            now.saturating_duration_since(looked.max(self.progress)) >= limits.half_close_timeout;
        if due {
            self.half_closed = Some(now);
        }
        due
    }

    /// Whether the downstream side, which has `unread` bytes waiting for it, took too little over a
    /// whole window of the minimum rate. The next window begins when all has been written that can
    /// be: what its socket had room for is no sign of reading.
    pub(super) fn is_slow(
        &mut self,
        written: u64,
        unread: bool,
        now: Instant,
        limits: &Limits,
    ) -> bool {
        let Some((from, taken)) = self.rate_from else { return false };
        let window = now.saturating_duration_since(from);
        if window < limits.min_rate_window {
            return false;
        }
        self.rate_from = None;
        unread
            && ((written - taken) as f64)
                < limits.min_rate_bytes_per_s as f64 * window.as_secs_f64()
    }

    /// `writing`: the upstream side has not taken all that there is of the request. `answer_waits`:
    /// the downstream side has not taken all that there is of the response; however long a gateway
    /// lets a local server be silent, it takes what it asked for, or its link ends.
    pub(super) fn patience(&self, limits: &Limits, writing: bool, answer_waits: bool) -> Wait {
        if let Some(time) = self.whole_within {
            return Wait {
                time,
                name: if self.is_probe { "heartbeat_timeout" } else { "abandoned_timeout" },
            };
        }
        let wait = match &self.tunnel {
            Some(tunnel) if tunnel.is_half_ended() && self.hurried => {
                return Wait { time: limits.abandoned_timeout, name: "abandoned_timeout" };
            }
            Some(tunnel) if tunnel.is_half_ended() => return self.waits.half_tunnel,
            Some(_) => return self.waits.tunnel,
            None if writing => self.waits.write,
            None if answer_waits && !self.waits.body_silence.is_bounded() => {
                Wait { time: limits.body_silence_timeout, name: "body_silence_timeout" }
            }
            None if self.request.is_done() && self.response.is_none() => self.waits.first_byte,
            None => self.waits.body_silence,
        };
        let shorter = !wait.is_bounded() || limits.abandoned_timeout < wait.time;
        if self.downstream_ended && shorter {
            Wait { time: limits.abandoned_timeout, name: "abandoned_timeout" }
        } else {
            wait
        }
    }
}
