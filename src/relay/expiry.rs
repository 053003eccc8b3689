//! What follows when a deadline of an exchange passes.

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::budget::Held;
use crate::engine::connections::Connections;
use crate::engine::slab::Key;
use crate::relay::driver::advance;
use crate::relay::endings::{abort, answer_instead};
use crate::relay::local_answer::LocalAnswer;
use crate::relay::relaying::Relaying;

/// The deadline of an exchange's connection passed.
pub(crate) fn expired<R: Relaying>(role: &mut R, cx: &mut Connections<R::State>, key: Key) {
    let rules = role.rules();
    let now = cx.now();
    let Some(exchange) = role.exchanges().get_mut(key) else { return };
    let (downstream, upstream) = (exchange.downstream, exchange.upstream);
    // A socket says that it has room only when a third of its buffer is free: before anybody is
    // called slow, it is tried.
    for id in [downstream, upstream].into_iter().flatten() {
        if let Some(peer) = cx.get_mut(id).filter(|p| p.pending() > 0) {
            peer.try_to_write();
            let _ = peer.flush(); // a failure shows in the step below
        }
    }
    exchange.note_progress(cx);
    let unread = upstream.and_then(|l| cx.get(l)).is_some_and(|l| l.pending() > 0);
    let answer_waits = downstream.and_then(|a| cx.get(a)).is_some_and(|a| a.pending() > 0);
    let patience = exchange.patience(&rules.limits, unread, answer_waits);
    let silent =
        patience.is_bounded() && now.saturating_duration_since(exchange.progress) >= patience.time;
    let late_head = exchange.late_head(now, &rules).filter(|_| downstream.is_some());
    if let (false, Some(reason)) = (silent, late_head) {
        let answer = LocalAnswer {
            error: Some("http_response_timeout"),
            keep: true,
            ..LocalAnswer::new(504, &reason)
        };
        return answer_instead(
            role,
            cx,
            key,
            CloseReason::new(CloseCause::Late, reason.clone()),
            &answer,
        );
    }
    if !silent {
        return match judge(role, cx, key) {
            Some(answer) => end_for_others(role, cx, key, answer),
            None => advance(role, cx, key),
        };
    }
    if exchange.awaits_rest() {
        exchange.downstream_keeps = false; // what was answered stays so; its connection ends gently
        return advance(role, cx, key);
    }
    if exchange.downstream_ended {
        return abort(role, cx, key, CloseCause::AskerGone.because("who asked has gone"));
    }
    let whole = exchange.request.is_done();
    let (answered, heartbeat, tunnel) =
        (exchange.answered, exchange.whole_within.is_some(), exchange.is_tunnel());
    if downstream.is_none() && heartbeat {
        let what =
            if exchange.is_probe { CloseCause::HeartbeatMissed } else { CloseCause::AskerGone };
        return abort(
            role,
            cx,
            key,
            CloseReason::new(what, format!("the answer was not whole within {patience}")),
        );
    }
    if downstream.is_none() || answered {
        let what = if tunnel { "nothing moved on its tunnel for" } else { "nothing moved for" };
        log_names!(Info, "an exchange was cut: {what} {patience}");
        return abort(
            role,
            cx,
            key,
            CloseReason::new(CloseCause::Late, format!("{what} {patience}")),
        );
    }
    let (status, error, reason) = if whole && !unread {
        (
            504,
            "http_response_timeout",
            format!("{} did not begin its response within {patience}", rules.upstream_name),
        )
    } else if unread {
        (
            504,
            "connection_timeout",
            format!("{} took nothing of the request for {patience}", rules.upstream_name),
        )
    } else {
        (408, "http_request_error", format!("nothing of the request's body arrived for {patience}"))
    };
    let end = if status == 408 { CloseCause::AskerGone } else { CloseCause::Late };
    let answer =
        LocalAnswer { error: Some(error), keep: true, ..LocalAnswer::new(status, &reason) };
    answer_instead(role, cx, key, CloseReason::new(end, reason.clone()), &answer);
}

/// Why an exchange is ended for the sake of those who wait for what it holds.
enum Unfair {
    SlowReader,
    SlowSender,
    HasLeft,
}

/// Whether an exchange is to be ended because others wait for what it holds, and its downstream
/// side makes no use of it.
fn judge<R: Relaying>(role: &mut R, cx: &Connections<R::State>, key: Key) -> Option<Unfair> {
    let (now, rules) = (cx.now(), role.rules());
    let exchange = role.exchanges().get_mut(key)?;
    let downstream = exchange.downstream.and_then(|a| cx.get(a));
    let (written, received, left) =
        downstream.map_or((0, 0, false), |a| (a.written(), a.received(), a.pending() > 0));
    let slow = exchange.is_slow(written, left, now, &rules.limits);
    let slow_to_send = exchange.is_slow_to_send(received, now, &rules.limits);
    let has_left = exchange.has_left(now, &rules.limits);
    let fills = exchange.held.as_ref().is_some_and(Held::is_wanted);
    let link = exchange.upstream;
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
                CloseCause::AskerGone
                    .because("its visitor had ended its direction, and callers waited"),
                503,
                reason,
            )
        }
    };
    if role
        .exchanges()
        .get(key)
        .is_some_and(|exchange| exchange.answered || exchange.downstream.is_none())
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
