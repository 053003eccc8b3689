//! How an exchange ends: with a response of this end's own, by a cut, by a retry, or as it should.

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::connections::{Connection, Connections, Id};
use crate::engine::slab::Key;
use crate::relay::exchange::Exchange;
use crate::relay::failure::ExchangeError;
use crate::relay::local_answer::LocalAnswer;
use crate::relay::relaying::Relaying;
use crate::relay::tunnel::{Direction, Tunnel};

/// Ends an exchange whose response has not begun: its link is freed, the downstream side told.
/// `answer.keep`: where the downstream side may go on, it does.
pub(crate) fn answer_instead<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    why: CloseReason,
    answer: &LocalAnswer<'_>,
) {
    let Some(mut exchange) = role.exchanges().remove(key) else { return };
    exchange.observed.failed(why.end.as_str(), answer.status);
    let (to_head, keep) = (exchange.is_head, answer.keep && exchange.may_keep_asker());
    let_go(role, cx, &exchange, why);
    if let Some(downstream) = exchange.downstream {
        role.answer(cx, downstream, &LocalAnswer { to_head, keep, ..answer.clone() });
    }
}

fn detach<R: Relaying>(role: &mut R, key: Key) -> Option<Id> {
    role.exchanges().get_mut(key).and_then(|exchange| exchange.upstream.take())
}

/// Ends an exchange at once, both ways: what the downstream side has of its answer is seen to be
/// incomplete. Of a tunnel each side that was not told a clean end sees a reset, and no
/// close_notify, for nothing else tells it from an end.
pub(crate) fn abort<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    why: CloseReason,
) {
    let Some(mut exchange) = role.exchanges().remove(key) else { return };
    if why.end != CloseCause::Tunnel {
        exchange.observed.failed(why.end.as_str(), 0);
    }
    let cut = |direction: fn(&Tunnel) -> Direction| {
        exchange.tunnel.as_ref().is_some_and(|tunnel| {
            why.end != CloseCause::Tunnel && direction(tunnel) != Direction::Shut
        })
    };
    let (cut_asking, cut_answering) =
        (cut(|tunnel| tunnel.to_downstream), cut(|tunnel| tunnel.to_upstream));
    if let Some(peer) =
        exchange.upstream.filter(|_| exchange.tunnel.is_some()).and_then(|link| cx.get_mut(link))
    {
        let _ = peer.flush(); // as below
    }
    if let Some(downstream) = exchange.downstream {
        let _ = cx.get_mut(downstream).map(Connection::flush); // what was read of the answer goes out before its cut is seen
        // A plain end would look like the end of the body.
        role.downstream_gone(cx, downstream, exchange.response_until_close || cut_asking);
    }
    if let Some(peer) = exchange.upstream.filter(|_| cut_answering).and_then(|link| cx.get(link)) {
        peer.stream().will_reset();
    }
    let_go(role, cx, &exchange, why);
}

/// Frees the upstream connection of an exchange that failed. Where the downstream side failed
/// before a byte of its request went out, the connection is as good as before: one visitor's fault
/// must not cost others a link (T48).
fn let_go<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    exchange: &Exchange,
    why: CloseReason,
) {
    let Some(link) = exchange.upstream else { return };
    let untouched = matches!(why.end, CloseCause::AskerGone | CloseCause::SlowSender)
        && !exchange.request_cut
        && cx.get_mut(link).zip(exchange.mark).is_some_and(|(peer, mark)| {
            !peer.is_over() && !peer.is_broken() && peer.take_back(mark)
        });
    role.free(cx, link, if untouched { Ok(()) } else { Err(why) });
}

pub(super) fn finish<R: Relaying>(role: &mut R, cx: &mut Connections<R::State>, key: Key) {
    let Some(exchange) = role.exchanges().remove(key) else { return };
    if let Some(downstream) = exchange.downstream {
        cx.set_deadline(downstream, None);
        role.next(cx, downstream, exchange.downstream_keeps && exchange.request.is_done());
    }
}

/// True: the exchange goes on (its asker is gone, the rest of a small response is drained).
pub(super) fn fail<R: Relaying>(
    role: &mut R,
    cx: &mut Connections<R::State>,
    key: Key,
    lost: ExchangeError,
) -> bool {
    let rules = role.rules();
    let Some(exchange) = role.exchanges().get_mut(key) else { return false };
    let why = match lost {
        ExchangeError::Asker => return asker_left(role, cx, key),
        ExchangeError::Refused(refusal) => {
            let why = CloseCause::AskerGone.because("its request broke the protocol half-way");
            match exchange.answered {
                true => abort(role, cx, key, why),
                false => answer_instead(
                    role,
                    cx,
                    key,
                    why,
                    &LocalAnswer::new(refusal.status, &refusal.reason),
                ),
            }
            return false;
        }
        ExchangeError::Silent(why) if exchange.may_retry() => {
            exchange.retried = true;
            exchange.request_cut = false;
            log_names!(
                Debug,
                "{} {}; the request is sent on another connection",
                rules.upstream_name,
                why.text
            );
            if let Some(link) = detach(role, key) {
                role.free(cx, link, Err(why));
            }
            role.retry(cx, key);
            return false;
        }
        ExchangeError::Silent(why) | ExchangeError::HandshakeError(why) => why,
    };
    let text = format!("{} {}", rules.upstream_name, why.text);
    log_names!(Info, "an exchange failed: {text}");
    if exchange.downstream.is_none() || exchange.answered {
        abort(role, cx, key, why);
        return false;
    }
    let error = if exchange.began { "http_protocol_error" } else { "connection_terminated" };
    answer_instead(
        role,
        cx,
        key,
        why,
        &LocalAnswer { error: Some(error), keep: true, ..LocalAnswer::new(502, &text) },
    );
    false
}

/// The downstream side is gone. A whole request's answer is drained, within bounds, to save the
/// link; else the link ends.
fn asker_left<R: Relaying>(role: &mut R, cx: &mut Connections<R::State>, key: Key) -> bool {
    let rules = role.rules();
    let Some(exchange) = role.exchanges().get_mut(key) else { return false };
    let downstream = exchange.downstream.take();
    let unsent = exchange.upstream.and_then(|l| cx.get(l)).is_none_or(|l| l.pending() > 0);
    let too_long = exchange.response.as_ref().is_some_and(|r| {
        r.remaining().is_some_and(|left| left > rules.limits.drain_bytes_max as u64)
            || exchange.response_until_close
    });
    let drains = exchange.upstream.is_some()
        && exchange.request.is_done()
        && !exchange.request_cut
        && !unsent
        && !too_long;
    if let Some(downstream) = downstream {
        role.downstream_gone(cx, downstream, false);
    }
    if !drains {
        abort(role, cx, key, CloseCause::AskerGone.because("its caller gave up half-way"));
    } else if let Some(exchange) = role.exchanges().get_mut(key) {
        exchange.observed.failed(CloseCause::AskerGone.as_str(), 0);
        // A stream that trickles on must not hold the link for nobody.
        (exchange.whole_within, exchange.progress, exchange.rate_from) =
            (Some(rules.limits.abandoned_timeout), cx.now(), None);
        exchange.half_closed = (!rules.limits.half_close_timeout.is_zero()).then(|| cx.now());
    }
    drains
}
