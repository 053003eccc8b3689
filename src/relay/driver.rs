//! What moves exchanges: connections that can be read or written again, and those that are new.

use crate::close_reason::CloseCause;
use crate::engine::budget::Held;
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::message::{DateText, date_now};
use crate::proto::body::Decoder;
use crate::relay::endings::{abort, fail, finish};
use crate::relay::exchange::Enclosing;
use crate::relay::failure::ExchangeError;
use crate::relay::relaying::Relaying;
use crate::relay::rules::Rules;
use crate::relay::step::Step;

/// What all exchanges of a loop may read at once without each being held to `read_ahead_bytes_max`:
/// a few fast ones move large pieces, thousands of slow ones keep little.
const READ_BUDGET: usize = 16 * 1024 * 1024;

/// Each exchange may read this much however little memory is left, so that what is in progress goes
/// on.
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

/// The same, with one line more in the head, which is for this connection alone: should the request
/// be sent again on another one, it goes without.
pub(crate) fn attach_with<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    link: Id,
    line: &[u8],
) {
    let now = cx.now();
    let Some(exchange) = role.exchanges().get_mut(key) else { return };
    exchange.upstream = Some(link);
    exchange.progress = now;
    exchange.observed.attached();
    if let Some(peer) = cx.get_mut(link) {
        (exchange.mark, exchange.before) = (Some(peer.mark()), peer.pending());
        let request = exchange.request();
        let start = request
            .windows(2)
            .position(|end| end == b"\r\n")
            .filter(|_| !line.is_empty())
            .map_or(0, |end| end + 2);
        let (first, rest) = request.split_at(start);
        let out = peer.output();
        [first, line, rest].iter().for_each(|part| out.extend_from_slice(part));
    }
    advance(role, cx, key);
}

/// Gives an exchange the connection whose POST brings its response. `decoder`: of the POST's body;
/// `first`: what was taken out of it already, from the final response's first byte on, its whole
/// head included.
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
    exchange.upstream = Some(post);
    exchange.enclosing = Some(Enclosing { decoder, first });
    exchange.progress = now;
    exchange.forget_request();
    cx.set_deadline(post, None); // the exchange keeps the time
    advance(role, cx, key);
}

/// Gives an exchange its whole response, which no connection holds any more. `held`: its share of
/// the budget, until the downstream side has taken it.
pub(crate) fn deliver<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    text: &[u8],
    held: Held,
) {
    let rules = role.rules();
    let date = date_now().filter(|_| rules.add_date);
    let date = date.as_ref().map_or("", DateText::as_str);
    let now = cx.now();
    let Some(exchange) = role.exchanges().get_mut(key) else { return };
    exchange.forget_request();
    (exchange.held, exchange.began, exchange.progress) = (Some(held), true, now);
    let downstream = exchange.downstream.and_then(|downstream| cx.get_mut(downstream));
    let taken = match exchange.take_response(text, downstream, &rules, date) {
        Ok(_) if exchange.response_is_whole() => Ok(()),
        Ok(_) => Err(ExchangeError::HandshakeError(
            CloseCause::ProtocolError.because("gave an answer that is not whole"),
        )),
        Err(lost) => Err(lost),
    };
    match taken {
        Ok(()) => advance(role, cx, key),
        Err(lost) => drop(fail(role, cx, key, lost)),
    }
}

/// Moves an exchange as far as its connections allow.
pub(crate) fn advance<R: Relaying>(role: &mut R, cx: &mut Connections<R::State>, key: Key) {
    loop {
        let rules = role.rules();
        let in_progress = role.exchanges().len().max(1);
        // Together they read no more than there is memory left: exchanges that were begun while
        // there was plenty may all be answered at once.
        let left = role.memory_left(cx) / in_progress;
        let Some(exchange) = role.exchanges().get_mut(key) else { return };
        let now = date_now().filter(|_| rules.add_date);
        let date = now.as_ref().map_or("", DateText::as_str);
        let mut buffer = cx.take_scratch();
        let piece = (READ_BUDGET / in_progress)
            .clamp(rules.limits.read_ahead_bytes_max.min(buffer.len()), buffer.len());
        let least = if exchange.response.is_none() {
            rules.limits.head_bytes_max + READ_LEAST
        } else {
            READ_LEAST
        }; // a head is read in one piece
        let piece = piece.min(left.max(least));
        let scratch = &mut buffer[..piece];
        let step = match (exchange.downstream, exchange.upstream) {
            (Some(a), Some(l)) => match cx.pair_mut(a, l) {
                Some((a, l)) => exchange.step(Some(a), Some(l), scratch, &rules, date),
                None => Err(ExchangeError::HandshakeError(CloseCause::Failed.because("is gone"))),
            },
            (Some(a), None) => exchange.step(cx.get_mut(a), None, scratch, &rules, date),
            (None, Some(l)) => exchange.step(None, cx.get_mut(l), scratch, &rules, date),
            (None, None) => Ok(Step::Finished),
        };
        cx.put_scratch(buffer);
        let both = [exchange.downstream, exchange.upstream];
        both.into_iter().flatten().for_each(|id| cx.resume(id));
        match step {
            Ok(Step::Pending) => return wait(role, cx, key, &rules),
            Ok(Step::Again) => {
                if let Some(id) = exchange.downstream.or(exchange.upstream) {
                    cx.again(id);
                }
                return wait(role, cx, key, &rules);
            }
            Ok(Step::LinkDone(reusable)) => {
                if let Some(link) = exchange.upstream.take() {
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

fn wait<R: Relaying>(role: &mut R, cx: &mut Connections<R::State>, key: Key, rules: &Rules) {
    let Some(exchange) = role.exchanges().get_mut(key) else { return };
    [exchange.downstream, exchange.upstream].into_iter().flatten().for_each(|id| cx.tally(id)); // a step of one moves bytes to the other
    let now = cx.now();
    if exchange.downstream.is_some() && exchange.is_waiting() {
        return; // it waits for a connection; the role has set that deadline
    }
    let (downstream, upstream) = (exchange.downstream, exchange.upstream);
    exchange.note_progress(cx);
    let writing = upstream.and_then(|l| cx.get(l)).is_some_and(|l| l.pending() > 0);
    exchange.note_turns(downstream.and_then(|a| cx.get_mut(a)), writing, now, rules);
    if exchange.awaits_rest() && exchange.whole_within.is_none() {
        (exchange.whole_within, exchange.progress) = (Some(rules.limits.abandoned_timeout), now);
    }
    exchange.head_since = if exchange.half_head { exchange.head_since.or(Some(now)) } else { None };
    let answer_waits = downstream.and_then(|a| cx.get(a)).is_some_and(|a| a.pending() > 0);
    let at = exchange.left(now, &rules.limits, writing, answer_waits).map(|left| cx.after(left));
    if let Some(owner) = downstream.or(upstream) {
        cx.set_deadline(owner, at);
    }
}
