//! The entry points that move exchanges, for new connections and for those that can be read or
//! written again.

use std::sync::Arc;

use crate::close_reason::CloseCause;
use crate::engine::budget::Held;
use crate::engine::connections::{Connections, Id};
use crate::engine::event_loop::SHARE;
use crate::engine::slab::Key;
use crate::proto::body::Decoder;
use crate::proto::forward;
use crate::relay::deadlines::Backlog;
use crate::relay::endings::{abort, fail, finish};
use crate::relay::exchange::Exchange;
use crate::relay::failure::ExchangeError;
use crate::relay::phase::{Enclosing, Phase, Upstream};
use crate::relay::relaying::Relaying;
use crate::relay::response::Context;
use crate::relay::rules::Rules;
use crate::relay::step::{Ends, Step};
use crate::relay::timeouts::Wait;
use crate::relay::tunnel::Tunnel;

/// The total that all exchanges of a loop may read at once before `read_ahead_bytes_max` limits
/// each of them. So a few fast exchanges move large pieces, and thousands of slow ones keep little
/// in memory.
const READ_BUDGET: usize = 16 * 1024 * 1024;

/// Each exchange may read this much even if no memory is left, so that exchanges in progress
/// continue.
const READ_LEAST: usize = 4 * 1024;

/// Gives an exchange its upstream connection and sends the request's head on it.
pub(crate) fn attach<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    link: Id,
) {
    attach_with(role, cx, key, link, b"");
}

/// Like [`attach`], with an additional line in the head for this connection only: if the request is
/// sent again on another one, that line is not repeated.
pub(crate) fn attach_with<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    link: Id,
    line: &[u8],
) {
    let now = cx.now();
    let Some(exchange) = role.exchanges().get_mut(key) else { return };
    exchange.clocks.progress = now;
    exchange.observed.attached(Some(link.bits() as u64));
    let (mark, before) =
        cx.get(link).map_or((0, 0), |connection| (connection.mark(), connection.pending()));
    let before = before + line.len();
    exchange.phase = Phase::Sending(Upstream::Link { id: link, mark, before });
    let so_far = match exchange.request.body_so_far(exchange.is_hop()) {
        Ok(so_far) => so_far,
        Err(refusal) => {
            let _ = fail(role, cx, key, ExchangeError::Refused(refusal));
            return;
        }
    };
    let before = before + so_far.len();
    exchange.phase = Phase::Sending(Upstream::Link { id: link, mark, before });
    if let Some(connection) = cx.get_mut(link) {
        let request = exchange.request();
        let start = if line.is_empty() { 0 } else { forward::behind_first_line(request) };
        let (first, rest) = request.split_at(start);
        let out = connection.output();
        [first, line, rest, &so_far].iter().for_each(|part| out.extend_from_slice(part));
    }
    advance(role, cx, key);
}

/// Gives an exchange the connection whose POST contains its response. `decoder` decodes the POST's
/// body; `first` are the bytes that were already taken out of it: they begin with the final
/// response and contain its whole head.
pub(crate) fn attach_enclosed<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    post: Id,
    decoder: Decoder,
    first: Vec<u8>,
) {
    let now = cx.now();
    let Some(exchange) = role.exchanges().get_mut(key) else { return };
    let enclosing = Enclosing { decoder, first };
    exchange.phase = Phase::Sending(Upstream::Post { id: post, enclosing });
    exchange.clocks.progress = now;
    exchange.request.forget();
    cx.set_deadline(post, None); // the exchange keeps the time
    advance(role, cx, key);
}

/// Gives an exchange a connection that speaks another protocol. `head` is the 101 of this end,
/// after which bytes go both ways.
pub(crate) fn attach_tunnel<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    link: Id,
    head: &[u8],
) {
    let now = cx.now();
    let Some(exchange) = role.exchanges().get_mut(key) else { return };
    exchange.clocks.progress = now;
    exchange.phase = Phase::Tunnel { link, tunnel: Tunnel::default() };
    exchange.request.forget();
    exchange.observed.attached(Some(link.bits() as u64));
    exchange.observed.answered(101);
    cx.set_deadline(link, None); // the exchange keeps the time
    let downstream = exchange.downstream().and_then(|downstream| cx.get_mut(downstream));
    downstream.into_iter().for_each(|peer| peer.output().extend_from_slice(head));
    advance(role, cx, key);
}

/// Gives an exchange its whole response, which is no longer on any connection. `held` is its share
/// of the budget until the downstream side has taken it.
pub(crate) fn deliver<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    text: &[u8],
    held: Held,
) {
    let rules = role.rules();
    let context = Context { rules: &rules, now: cx.now() };
    let Some(exchange) = role.exchanges().get_mut(key) else { return };
    exchange.request.forget();
    exchange.beginning.has_begun = true;
    exchange.clocks.progress = context.now;
    let downstream = exchange.downstream().and_then(|downstream| cx.get_mut(downstream));
    let taken = exchange.take_response(text, downstream, &context);
    let taken = taken.and_then(|_| match exchange.phase.receiving_mut() {
        Some(response) if response.is_whole() => {
            response.held = Some(held);
            Ok(())
        }
        _ => Err(ExchangeError::violation("gave an answer that is not whole")),
    });
    match taken {
        Ok(()) => advance(role, cx, key),
        Err(lost) => drop(fail(role, cx, key, lost)),
    }
}

/// Moves an exchange as far as its connections allow.
pub(crate) fn advance<R: Relaying>(role: &mut R, cx: &mut Connections<R::State>, key: Key) {
    loop {
        let rules = role.rules();
        let Some(stepped) = step(role, cx, key, &rules) else { return };
        match stepped {
            Ok(Step::Pending) => return wait(role, cx, key, &rules),
            Ok(Step::Again) => {
                // Both yield: an event of either must not give them another step before others have
                // had theirs.
                let ends = role.exchanges().get(key).map(|e| [e.downstream(), e.upstream()]);
                ends.into_iter().flatten().flatten().for_each(|id| cx.yields(id));
                return wait(role, cx, key, &rules);
            }
            Ok(Step::LinkDone(reusable)) => {
                let link = role.exchanges().get_mut(key).and_then(|e| e.phase.detach());
                if let Some(link) = link {
                    cx.set_deadline(link, None);
                    role.free(cx, link, reusable);
                }
            }
            Ok(Step::Finished) => return finish(role, cx, key),
            Ok(Step::TunnelEnds(why)) => return abort(role, cx, key, why),
            Err(lost) => {
                if !fail(role, cx, key, lost) {
                    return;
                }
            }
        }
    }
}

/// One step of an exchange. `None`: the exchange no longer exists.
fn step<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    rules: &Arc<Rules>,
) -> Option<Result<Step, ExchangeError>> {
    let in_progress = role.exchanges().len().max(1);
    // All exchanges together read no more than the memory that is left: those that began while
    // there was plenty may all be answered at once.
    let left = role.memory_left(cx) / in_progress;
    let exchange = role.exchanges().get_mut(key)?;
    let context = Context { rules, now: cx.now() };
    let mut buffer = cx.take_scratch();
    let piece =
        (READ_BUDGET / in_progress).clamp(rules.limits.read_ahead_bytes_max.min(SHARE), SHARE);
    let piece = piece.min(left.max(least_piece(exchange, rules)));
    let scratch = &mut buffer[..piece];
    let ids = (exchange.downstream(), exchange.upstream());
    let step = match ids {
        (Some(downstream), Some(upstream)) => match cx.pair_mut(downstream, upstream) {
            Some((downstream, upstream)) => {
                let ends = Ends { downstream: Some(downstream), upstream: Some(upstream) };
                exchange.step(ends, scratch, &context)
            }
            None => Err(ExchangeError::Upstream(CloseCause::Failed.because("is gone"))),
        },
        (Some(downstream), None) => {
            let ends = Ends { downstream: cx.get_mut(downstream), upstream: None };
            exchange.step(ends, scratch, &context)
        }
        (None, Some(upstream)) => {
            let ends = Ends { downstream: None, upstream: cx.get_mut(upstream) };
            exchange.step(ends, scratch, &context)
        }
        (None, None) => Ok(Step::Finished),
    };
    cx.put_scratch(buffer);
    [ids.0, ids.1].into_iter().flatten().for_each(|id| cx.resume(id));
    Some(step)
}

/// The minimum that an exchange may read when memory is scarce: a head is read in one piece.
fn least_piece(exchange: &Exchange, rules: &Rules) -> usize {
    match exchange.phase.has_head() {
        true => READ_LEAST,
        false => rules.limits.head_bytes_max + READ_LEAST,
    }
}

/// Sets the deadline of an exchange that waits for one of its connections.
fn wait<R: Relaying>(role: &mut R, cx: &mut Connections<R::State>, key: Key, rules: &Rules) {
    let Some(exchange) = role.exchanges().get_mut(key) else { return };
    let (downstream, upstream) = (exchange.downstream(), exchange.upstream());
    [downstream, upstream].into_iter().flatten().for_each(|id| cx.tally(id)); // a step of one connection moves bytes to the other
    let now = cx.now();
    if let Some(id) = downstream.filter(|_| exchange.is_waiting()) {
        // It waits for a connection. The role has set that deadline, unless the client is gone.
        exchange.note_progress(cx);
        if let Some(left) = exchange.time_without_caller(cx.get_mut(id), now, rules) {
            let at = cx.after(left);
            cx.set_deadline(id, Some(at));
        }
        return;
    }
    // Other callers must not wait for the rest of a request that was already answered.
    let awaits_rest = exchange.awaits_rest();
    if awaits_rest && upstream.is_some_and(|link| role.callers_wait(cx, link)) {
        if let Some(exchange) = role.exchanges().get_mut(key) {
            exchange.caller.client_mut().into_iter().for_each(|client| client.keeps = false);
        }
        return advance(role, cx, key);
    }
    let Some(exchange) = role.exchanges().get_mut(key) else { return };
    exchange.note_progress(cx);
    let backlog = Backlog::of(exchange, cx);
    exchange.note_turns(downstream.and_then(|id| cx.get_mut(id)), backlog, now, rules);
    exchange.tell_end(upstream.and_then(|id| cx.get_mut(id)));
    match exchange.clocks.whole_within {
        None if awaits_rest => {
            exchange.clocks.restart_within(Wait::abandoned(&rules.limits), now);
        }
        // Only the response is left, which the client may read at its own pace.
        Some(_) if !awaits_rest && downstream.is_some() => exchange.clocks.go_on(now),
        _ => {}
    }
    let at = exchange.time_left(now, &rules.limits, backlog).map(|left| cx.after(left));
    if let Some(owner) = downstream.or(upstream) {
        cx.set_deadline(owner, at);
    }
}
