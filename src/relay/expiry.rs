//! The consequences of a deadline of an exchange that has passed.

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::budget::Held;
use crate::engine::connections::Connections;
use crate::engine::slab::Key;
use crate::relay::caller::Caller;
use crate::relay::deadlines::Backlog;
use crate::relay::driver::advance;
use crate::relay::endings::{abort, answer_instead};
use crate::relay::local_answer::LocalAnswer;
use crate::relay::relaying::Relaying;
use crate::relay::timeouts::Wait;
use crate::relay::tunnel::Tunnel;

/// The deadline of an exchange's connection has passed.
pub(crate) fn expired<R: Relaying>(role: &mut R, cx: &mut Connections<R::State>, key: Key) {
    let (rules, now) = (role.rules(), cx.now());
    let Some(exchange) = role.exchanges().get_mut(key) else { return };
    // A socket reports room only when a third of its buffer is free, so it is tried before a side
    // is considered slow.
    for id in [exchange.downstream(), exchange.upstream()].into_iter().flatten() {
        if let Some(connection) = cx.get_mut(id).filter(|p| p.pending() > 0) {
            connection.try_to_write();
            let _ = connection.flush(); // a failure is reported by the step below
        }
    }
    exchange.note_progress(cx);
    let backlog = Backlog::of(exchange, cx);
    let wait = exchange.allowed_silence(&rules.limits, backlog);
    let silence = now.saturating_duration_since(exchange.clocks.progress);
    if wait.is_bounded() && silence >= wait.time {
        return silent_for(role, cx, key, wait, backlog);
    }
    if let Some(reason) = exchange.late_head(now, &rules) {
        let answer = LocalAnswer {
            error: Some("http_response_timeout"),
            keep: true,
            ..LocalAnswer::new(504, &reason)
        };
        let why = CloseReason::new(CloseCause::Late, reason.clone());
        return answer_instead(role, cx, key, why, &answer);
    }
    match judge(role, cx, key) {
        Some(unfair) => end_for_others(role, cx, key, unfair),
        None => advance(role, cx, key),
    }
}

/// No byte has moved for the allowed time.
fn silent_for<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    wait: Wait,
    backlog: Backlog,
) {
    let Some(exchange) = role.exchanges().get_mut(key) else { return };
    if exchange.awaits_rest() {
        exchange.caller.client_mut().into_iter().for_each(|client| client.keeps = false);
        return advance(role, cx, key); // the answer remains valid; its connection is closed gently
    }
    let not_whole =
        |cause| CloseReason::new(cause, format!("the answer was not whole within {wait}"));
    let why = match exchange.caller {
        Caller::Probe => not_whole(CloseCause::HeartbeatMissed),
        Caller::Gone { .. } => not_whole(CloseCause::CallerGone),
        Caller::Client(_) if exchange.caller.has_ended() => {
            CloseCause::CallerGone.because("the client has gone")
        }
        Caller::Client(_) if exchange.phase.tunnel().is_some_and(Tunnel::is_given_up) => {
            CloseCause::Reset.because("its tunnel broke")
        }
        Caller::Client(_) if exchange.is_answered() => {
            let what = match exchange.is_tunnel() {
                true => "nothing moved on its tunnel for",
                false => "nothing moved for",
            };
            log_names!(Info, "an exchange was cut: {what} {wait}");
            CloseReason::new(CloseCause::Late, format!("{what} {wait}"))
        }
        Caller::Client(_) => return answer_late(role, cx, key, wait, backlog),
    };
    abort(role, cx, key, why);
}

/// Answers the client before any response, and names the side that was too slow.
fn answer_late<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    wait: Wait,
    backlog: Backlog,
) {
    let rules = role.rules();
    let Some(exchange) = role.exchanges().get(key) else { return };
    let (upstream, is_whole) = (exchange.upstream_name(&rules), exchange.is_whole());
    let (status, error, reason) = if backlog.request {
        (504, "connection_timeout", format!("{upstream} took nothing of the request for {wait}"))
    } else if is_whole {
        (
            504,
            "http_response_timeout",
            format!("{upstream} did not begin its response within {wait}"),
        )
    } else {
        (408, "http_request_error", format!("nothing of the request's body arrived for {wait}"))
    };
    let cause = if status == 408 { CloseCause::CallerGone } else { CloseCause::Late };
    let answer =
        LocalAnswer { error: Some(error), keep: true, ..LocalAnswer::new(status, &reason) };
    answer_instead(role, cx, key, CloseReason::new(cause, reason.clone()), &answer);
}

/// Why an exchange is ended in favour of callers that wait for its link.
enum Unfair {
    SlowReader,
    SlowSender,
    HasLeft,
}

/// Decides whether an exchange has to end because others wait for its link while its downstream
/// side does not use it.
fn judge<R: Relaying>(role: &mut R, cx: &Connections<R::State>, key: Key) -> Option<Unfair> {
    let (now, rules) = (cx.now(), role.rules());
    let exchange = role.exchanges().get_mut(key)?;
    let downstream = exchange.downstream().and_then(|id| cx.get(id));
    let (written, received, left) =
        downstream.map_or((0, 0, false), |a| (a.written(), a.received(), a.pending() > 0));
    let slow = exchange.is_slow_to_take(written, left, now, &rules.limits);
    let slow_to_send = exchange.is_slow_to_send(received, now, &rules.limits);
    let has_left = exchange.has_left(now, &rules.limits);
    let fills = exchange.held().is_some_and(Held::is_wanted);
    let link = exchange.upstream();
    if !(slow || slow_to_send || has_left) {
        return None;
    }
    let wanted = link.is_some_and(|link| role.callers_wait(cx, link));
    match () {
        () if slow && (fills || wanted) => Some(Unfair::SlowReader),
        () if slow_to_send && wanted => Some(Unfair::SlowSender),
        () if has_left && wanted => Some(Unfair::HasLeft),
        () => None,
    }
}

fn end_for_others<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    unfair: Unfair,
) {
    let (why, status, reason) = match unfair {
        Unfair::SlowReader => {
            log_names!(
                Info,
                "an answer was ended: its reader takes less than min_rate_bytes_per_s while others wait for what it holds"
            );
            return abort(
                role,
                cx,
                key,
                CloseCause::SlowReader
                    .because("slower than min_rate_bytes_per_s while callers waited"),
            );
        }
        Unfair::SlowSender => {
            log_names!(
                Info,
                "an upload was ended: it comes slower than min_rate_bytes_per_s while others wait for its device"
            );
            let reason = "the request's body came slower than min_rate_bytes_per_s while others waited for the device; send it faster, or later";
            (
                CloseCause::SlowSender
                    .because("slower than min_rate_bytes_per_s while callers waited"),
                408,
                reason,
            )
        }
        Unfair::HasLeft => {
            let reason = "others waited for the device, and the visitor had ended its direction of the connection (half_close_timeout)";
            (
                CloseCause::CallerGone
                    .because("its visitor had ended its direction, and callers waited"),
                503,
                reason,
            )
        }
    };
    if role
        .exchanges()
        .get(key)
        .is_some_and(|exchange| exchange.is_answered() || exchange.downstream().is_none())
    {
        return abort(role, cx, key, why);
    }
    let error = if status == 408 { "http_request_error" } else { "connection_limit_reached" };
    let retry_after = (status == 503).then_some(1);
    answer_instead(
        role,
        cx,
        key,
        why,
        &LocalAnswer { error: Some(error), retry_after, ..LocalAnswer::new(status, reason) },
    );
}
