//! How an exchange ends: completely, with a local answer, by a cut, or by a retry.

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::connection::Connection;
use crate::engine::connections::Connections;
use crate::engine::slab::Key;
use crate::error::Refusal;
use crate::limits::Limits;
use crate::proto::peer::Miss;
use crate::relay::caller::Caller;
use crate::relay::exchange::Exchange;
use crate::relay::failure::ExchangeError;
use crate::relay::local_answer::LocalAnswer;
use crate::relay::phase::{Beginning, Upstream};
use crate::relay::relaying::Relaying;
use crate::relay::request::{Retry, Upload};
use crate::relay::timeouts::Wait;
use crate::relay::tunnel::{Direction, Tunnel};

/// Ends an exchange whose response has not begun: frees its link and answers the downstream side.
/// With `answer.keep` its connection is kept if possible.
pub(crate) fn answer_instead<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    why: CloseReason,
    answer: &LocalAnswer<'_>,
) {
    let Some(mut exchange) = role.exchanges().remove(key) else { return };
    exchange.observed.failed(why.cause.as_str(), answer.status);
    let (to_head, keep) = (exchange.is_head(), answer.keep && exchange.may_keep_caller());
    let_go(role, cx, &exchange, why);
    if let Some(downstream) = exchange.downstream() {
        role.answer(cx, downstream, &LocalAnswer { to_head, keep, ..answer.clone() });
    }
}

/// Ends an exchange at once, in both directions, so that the downstream side can see that its
/// response is incomplete. In a tunnel, each side to which no clean end was sent sees a reset
/// without close_notify, because nothing else distinguishes a cut from an end; so does an upstream
/// side whose own direction is open.
pub(crate) fn abort<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    why: CloseReason,
) {
    let Some(mut exchange) = role.exchanges().remove(key) else { return };
    if why.cause != CloseCause::Tunnel && !exchange.is_delivered() {
        exchange.observed.failed(why.cause.as_str(), 0);
    }
    let is_cut = |direction: fn(&Tunnel) -> Direction| {
        why.cause != CloseCause::Tunnel
            && exchange.phase.tunnel().is_some_and(|tunnel| direction(tunnel) != Direction::Shut)
    };
    let cuts_downstream = is_cut(|tunnel| tunnel.to_downstream);
    let cuts_upstream = is_cut(|tunnel| tunnel.to_upstream);
    let tunnel_link = exchange.upstream().filter(|_| exchange.is_tunnel());
    // A side that received an end, but has not ended itself, would not notice that the whole tunnel
    // is over: a close after a FIN is silent.
    let cuts_upstream = cuts_upstream
        || tunnel_link.and_then(|link| cx.get(link)).is_some_and(|link| !link.is_over());
    if let Some(connection) = tunnel_link.and_then(|link| cx.get_mut(link)) {
        let _ = connection.flush(); // as below
    }
    if let Some(downstream) = exchange.downstream() {
        let _ = cx.get_mut(downstream).map(Connection::flush); // the bytes of the answer are written before the cut
        // A plain end would look like the end of the body.
        let reset = exchange.ends_with_connection() || cuts_downstream;
        role.downstream_gone(cx, downstream, &why, reset);
    }
    if let Some(connection) = tunnel_link.filter(|_| cuts_upstream).and_then(|link| cx.get(link)) {
        connection.stream().will_reset();
    }
    let_go(role, cx, &exchange, why);
}

/// Frees the upstream connection of an exchange that failed. If the downstream side failed before a
/// byte of its request was sent, the connection is still good: one visitor's fault must not cost
/// others a link (T48).
fn let_go<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    exchange: &Exchange,
    why: CloseReason,
) {
    let Some(link) = exchange.upstream() else { return };
    let is_clients_fault = matches!(why.cause, CloseCause::CallerGone | CloseCause::SlowSender);
    let is_untouched = match exchange.phase.upstream() {
        Some(Upstream::Link { mark, .. }) if is_clients_fault && !exchange.request.is_cut() => {
            cx.get_mut(link).is_some_and(|connection| {
                !connection.is_over() && !connection.is_broken() && connection.take_back(*mark)
            })
        }
        _ => false,
    };
    role.free(cx, link, if is_untouched { Ok(()) } else { Err(why) });
}

/// Ends an exchange whose downstream side has the whole response.
pub(super) fn finish<R: Relaying>(role: &mut R, cx: &mut Connections<R::State>, key: Key) {
    let Some(exchange) = role.exchanges().remove(key) else { return };
    if let Some(client) = exchange.caller.client() {
        cx.set_deadline(client.id, None);
        role.next(cx, client.id, client.keeps && exchange.request.body.is_done());
    }
}

/// Ends an exchange that failed, or sends its request again. Returns true if the exchange goes on
/// (its client has left, and the rest of a small response is drained).
pub(super) fn fail<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    lost: ExchangeError,
) -> bool {
    let why = match lost {
        ExchangeError::ClientGone => return client_left(role, cx, key),
        ExchangeError::Refused(refusal) => {
            refuse(role, cx, key, &refusal);
            return false;
        }
        ExchangeError::Silent(why) => {
            if role.exchanges().get(key).is_some_and(|exchange| exchange.may_retry()) {
                retry(role, cx, key, why);
                return false;
            }
            why
        }
        ExchangeError::Upstream(why) => why,
        ExchangeError::Missed(miss) => {
            missed(role, cx, key, miss);
            return false;
        }
    };
    let rules = role.rules();
    let Some(exchange) = role.exchanges().get(key) else { return false };
    let text = format!("{} {}", exchange.upstream_name(&rules), why.text);
    match exchange.is_probe() {
        true => log_names!(Info, "a sign of life was asked for: the other side {}", why.text),
        false => log_names!(Info, "an exchange failed: {text}"),
    }
    if exchange.downstream().is_none() || exchange.is_answered() {
        abort(role, cx, key, why);
        return false;
    }
    let has_begun = exchange.beginning.has_begun;
    let error = if has_begun { "http_protocol_error" } else { "connection_terminated" };
    let answer = LocalAnswer { error: Some(error), keep: true, ..LocalAnswer::new(502, &text) };
    answer_instead(role, cx, key, why, &answer);
    false
}

/// The client's bytes are malformed.
fn refuse<R: Relaying>(role: &mut R, cx: &mut Connections<R::State>, key: Key, refusal: &Refusal) {
    let why = CloseCause::CallerGone.because("its request broke the protocol half-way");
    match role.exchanges().get(key).is_some_and(|exchange| exchange.is_answered()) {
        true => abort(role, cx, key, why),
        false => {
            let answer = LocalAnswer::new(refusal.status, &refusal.reason);
            answer_instead(role, cx, key, why, &answer);
        }
    }
}

/// Sends the request on another connection.
fn retry<R: Relaying>(role: &mut R, cx: &mut Connections<R::State>, key: Key, why: CloseReason) {
    let rules = role.rules();
    let Some(exchange) = role.exchanges().get_mut(key) else { return };
    (exchange.request.retry, exchange.request.upload) = (Retry::Spent, Upload::Forwarded);
    let link = exchange.phase.detach();
    log_names!(
        Debug,
        "{} {}; the request is sent on another connection",
        exchange.upstream_name(&rules),
        why.text
    );
    exchange.ends_hop();
    if let Some(link) = link {
        role.free(cx, link, Err(why));
    }
    role.retry(cx, key);
}

/// Another gateway does not have the device. The role knows where to look next.
fn missed<R: Relaying>(role: &mut R, cx: &mut Connections<R::State>, key: Key, miss: Miss) {
    let why = CloseCause::LastMessage.because("it does not have the device any more");
    let Some(exchange) = role.exchanges().get_mut(key) else { return };
    if exchange.caller.client().is_none() {
        return abort(role, cx, key, why);
    }
    exchange.hop.misses = exchange.hop.misses.saturating_add(1);
    exchange.beginning = Beginning::default();
    exchange.hop.missed = Some(miss);
    if exchange.is_unspent() {
        exchange.request.upload = Upload::Forwarded;
    }
    exchange.ends_hop();
    let link = exchange.phase.detach();
    if let Some(link) = link {
        role.free(cx, link, Err(why));
    }
    role.retry(cx, key);
}

/// The client has left. If its request is complete, the response is drained, within bounds, to save
/// the link; else the link ends. Returns true if the exchange goes on.
fn client_left<R: Relaying>(role: &mut R, cx: &mut Connections<R::State>, key: Key) -> bool {
    let (rules, now) = (role.rules(), cx.now());
    let Some(exchange) = role.exchanges().get_mut(key) else { return false };
    let drains = is_worth_draining(exchange, cx, &rules.limits);
    let looked = (!rules.limits.half_close_timeout.is_zero()).then_some(now);
    let left = std::mem::replace(&mut exchange.caller, Caller::Gone { looked });
    if drains {
        if !exchange.is_delivered() {
            exchange.observed.failed(CloseCause::CallerGone.as_str(), 0);
        }
        // A slow stream without a reader must not occupy the link.
        exchange.clocks.restart_within(Wait::abandoned(&rules.limits), now);
        (exchange.clocks.taking, exchange.clocks.sending) = (None, None);
    }
    let why = CloseCause::CallerGone.because("its caller gave up half-way");
    if let Caller::Client(client) = left {
        role.downstream_gone(cx, client.id, &why, false);
    }
    if !drains {
        abort(role, cx, key, why);
    }
    drains
}

/// Returns true if the rest of a response is worth reading although its client has left, so that
/// its link can be used again.
fn is_worth_draining<T>(exchange: &Exchange, cx: &Connections<T>, limits: &Limits) -> bool {
    // A request of which nothing was sent is taken back instead (`let_go`).
    let mark = match exchange.phase.upstream() {
        Some(Upstream::Link { mark, .. }) => *mark,
        _ => u64::MAX,
    };
    let link = exchange.upstream().and_then(|link| cx.get(link));
    let is_under_way = link.is_some_and(|link| link.pending() == 0 || link.has_sent_since(mark));
    let is_long = exchange.phase.receiving().is_some_and(|response| {
        response.body.remaining().is_some_and(|left| left > limits.drain_bytes_max as u64)
            || exchange.ends_with_connection()
    });
    exchange.request.body.is_done()
        && !exchange.request.is_cut()
        && is_under_way
        && !is_long
        && !exchange.is_tunnel()
}
