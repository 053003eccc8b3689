//! Methods for any exchange: its timeouts, its memory, its early end, and the closing of a
//! connection after an answer.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::budget::Held;
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::error::{Error, Fault};
use crate::gateway::alarms::Alarm;
use crate::gateway::registry::Waiter;
use crate::gateway::state::{Asking, GatewayRole, State, States};
use crate::gateway::tokens::Whose;
use crate::relay::{self, Lingering, LocalAnswer, Waits};

impl GatewayRole {
    /// Ends an exchange: with a 502 if its answer has not begun, else by cutting the answer.
    pub(super) fn end_exchange(
        &mut self,
        cx: &mut Connections<State>,
        key: Key,
        end: CloseCause,
        why: &'static str,
    ) {
        let answer =
            LocalAnswer { error: Some("connection_terminated"), ..LocalAnswer::new(502, why) };
        self.end_exchange_with(cx, key, end.because(why), &answer);
    }

    pub(super) fn end_exchange_with(
        &mut self,
        cx: &mut Connections<State>,
        key: Key,
        why: CloseReason,
        answer: &LocalAnswer<'_>,
    ) {
        let Some(exchange) = self.exchanges.get(key) else { return };
        match (exchange.downstream(), exchange.is_answered()) {
            (Some(downstream), false) => {
                if let Some(Asking { name, .. }) = cx.asking(downstream) {
                    self.registry.cancel_wait(name, Waiter::Exchange(key));
                }
                relay::answer_instead(self, cx, key, why, answer);
            }
            (Some(downstream), true) => {
                if let Some(visitor) = cx.visitor(downstream) {
                    visitor.source().leave_error(|| program_error(answer));
                }
                relay::abort(self, cx, key, why);
            }
            (None, _) => relay::abort(self, cx, key, why),
        }
    }

    /// Bytes of memory that all loops hold: connections with their buffers and sessions, heads of
    /// requests, whole messages, records about devices.
    pub(super) fn memory(&self, cx: &Connections<State>) -> usize {
        cx.held_by_all() + self.heads.taken() + self.budget.taken() + self.observer.bytes()
    }

    /// Returns true if so much memory is in use that no new request is begun.
    pub(super) fn is_short_of_memory(&self, cx: &Connections<State>) -> bool {
        self.memory(cx) > self.settings.limits.memory_bytes_max / 10 * 9
    }

    /// Returns true if all of it is in use, so that a new visitor is admitted only if another
    /// connection is closed.
    pub(super) fn is_out_of_memory(&self, cx: &Connections<State>) -> bool {
        self.memory(cx) > self.settings.limits.memory_bytes_max
    }

    /// A share of the budget of whole messages for a message from, or to, the device of this name.
    pub(super) fn messages_of(&mut self, name: &str) -> Held {
        self.budget.share_of(self.registry.messages(name))
    }

    /// The same for visitors' requests to it: up to a quarter is left to the device's answers.
    pub(super) fn uploads_of(&mut self, name: &str) -> Held {
        let limits = &self.settings.limits;
        let whole = limits.messages_of_device();
        let three = limits.message_bytes_max.saturating_mul(3);
        let spare = whole.saturating_sub(three).min(whole / 4);
        self.budget.share_but(self.registry.messages(name), spare)
    }

    /// Sets the deadline of the whole exchange.
    pub(super) fn ends_by(&mut self, cx: &mut Connections<State>, key: Key, at: Instant) {
        self.deadlines.add(key, at, &self.exchanges);
        self.set_overdue_alarm(cx);
    }

    pub(super) fn end_overdue(&mut self, cx: &mut Connections<State>) {
        while let Some(key) = self.deadlines.pop_due(cx.now()) {
            self.overdue(cx, key);
        }
        self.set_overdue_alarm(cx);
    }

    fn set_overdue_alarm(&mut self, cx: &mut Connections<State>) {
        if let Some(alarm) = self.deadlines.next_alarm(cx.now(), &self.exchanges) {
            self.set_alarm(cx, alarm, Alarm::Overdue);
        }
    }

    /// `exchange_timeout` expired; tunnels are exempt.
    fn overdue(&mut self, cx: &mut Connections<State>, key: Key) {
        if self.exchanges.get(key).is_none_or(|exchange| exchange.is_tunnel()) {
            return;
        }
        let reason = format!("the exchange did not end within {}", self.waits(key).exchange);
        let answer = LocalAnswer {
            error: Some("http_response_timeout"),
            keep: true,
            ..LocalAnswer::new(504, &reason)
        };
        self.end_exchange_with(
            cx,
            key,
            CloseReason::new(CloseCause::Late, reason.clone()),
            &answer,
        );
    }

    /// Answers on a connection, and then closes it gently.
    pub(super) fn refuse(&mut self, cx: &mut Connections<State>, id: Id, answer: &LocalAnswer<'_>) {
        let date = cx.date().to_owned();
        self.stats.refused.fetch_add(1, Relaxed);
        let mark = match cx.state(id) {
            Some(State::Device(_)) => true,
            Some(State::Securing { listener, .. }) => {
                self.listeners.side(*listener) != Some(Whose::Visitors)
            }
            _ => false,
        };
        let to_gateway = is_gateway(cx, id);
        let Some(conn) = cx.get_mut(id) else { return };
        LocalAnswer { mark, to_gateway, ..answer.clone() }.write(conn.output(), &date);
        self.linger(cx, id);
    }

    pub(super) fn linger(&mut self, cx: &mut Connections<State>, id: Id) {
        relay::linger(
            cx,
            id,
            &self.settings.limits,
            self.lifecycle.is_draining(),
            State::Lingering,
        );
        self.step_lingering(cx, id);
    }

    pub(super) fn step_lingering(&mut self, cx: &mut Connections<State>, id: Id) {
        relay::step_lingering(cx, id, find_lingering);
    }

    /// The timeouts of an exchange.
    pub(super) fn waits(&self, key: Key) -> Waits {
        self.exchanges
            .get(key)
            .map_or_else(|| Waits::of(&self.settings.limits), |exchange| exchange.waits)
    }
}

/// Returns true if this connection comes from another gateway.
pub(super) fn is_gateway(cx: &Connections<State>, id: Id) -> bool {
    cx.visitor(id).is_some_and(|visitor| visitor.source().is_peer())
}

pub(super) fn find_lingering(state: &mut State) -> Option<&mut Lingering> {
    if let State::Lingering(lingering) = state { Some(lingering) } else { None }
}

/// The response that a visitor would get, as `send()` returns it.
pub(super) fn program_error(answer: &LocalAnswer<'_>) -> Error {
    let text = answer.reason.to_owned();
    match answer.status {
        503 if answer.error == Some("destination_unavailable") => Error::away(text),
        503 if answer.error == Some("connection_limit_reached") => Error::busy(text),
        503 => Error::full(text),
        504 => Error::timeout(Fault::Device, text),
        404 => Error::unknown(text),
        408 => Error::timeout(Fault::Caller, text),
        413 => Error::too_large(Fault::Caller, 413, text),
        502 if answer.error == Some("connection_terminated") => Error::closed(Fault::Device, text),
        502 => Error::malformed(Fault::Device, 502, text),
        status => Error::refused(Fault::Gateway, status, text, None),
    }
}
