//! Connections to the local server: who gets which, who waits for one, and how long one idles.
//!
//! ```text
//!   request ─┬─ its link's own ─► busy ─┬─► idle, anybody's ─► closed after local_keep_alive
//!            ├─ an idle one ────►       └─► bound: a login that belongs to the connection went over it (NTLM, Negotiate)
//!            ├─ a new one ──────►           └─► its link's, for requests of the same visitor's connection; closed by any other, and with the link
//!            └─ none may be opened: in line, at most local_wait_timeout
//! ```
//! A device sees links, and a gateway sends many visitors over one. So a bound connection is used
//! again only for a request that says, in words that no visitor knows
//! ([`SAME_VISITOR`](crate::proto::forward::SAME_VISITOR)), that it comes from the same visitor's
//! connection as the one before: with a gateway that does not say so, and over polls, it is never
//! used twice. There a login of one leg (Kerberos) works still, and one of several (NTLM) fails as
//! if its first leg had not been; it could not be refused instead, since the two look alike.

use crate::close_reason::CloseReason;
use crate::device::dial::LOCALS;
use crate::device::link::Link;
use crate::device::pool::BOUND_GRACE;
use crate::device::pool::Local;
use crate::device::pool::POOL_MAX;
use crate::device::role::DeviceRole;
use crate::device::state::State;
use crate::engine::connections::Connections;
use crate::engine::connections::Id;
use crate::engine::permits::Permit;
use crate::engine::slab::Key;
use crate::proto::turn::hex;
use crate::relay;
use crate::relay::Exchange;
use crate::relay::LocalAnswer;

impl DeviceRole {
    /// Gives an exchange a connection to the local server: its link's own, an idle one, or a new
    /// one; or lines it up for one.
    pub(super) fn find_local(&mut self, cx: &mut Connections<State>, key: Key) {
        let Some(exchange) = self.exchanges.get(key) else { return };
        let (downstream, same, unsafe_twice) =
            (exchange.downstream(), self.is_same_visitor(exchange), !exchange.is_idempotent());
        if let Some(id) = downstream.and_then(|link| self.unbind(cx, link)) {
            if same && cx.is_quiet(id, unsafe_twice) {
                return self.use_local(cx, key, id, true);
            }
            cx.close(id);
            self.wake_locals(cx);
        }
        match self.locals.waiting.is_empty() && (!self.locals.idle.is_empty() || self.may_open()) {
            true => self.give_local(cx, key),
            false => self.await_local(cx, key),
        }
    }

    /// Whether a request says, as its gateway alone can, that it comes from the same visitor's
    /// connection as the one before it on its link.
    fn is_same_visitor(&self, exchange: &Exchange) -> bool {
        let session = self.plan.offer.session.as_ref().map(hex);
        exchange.same_visitor().is_some()
            && exchange.same_visitor() == session.as_ref().map(|hex| &hex[..])
    }

    fn may_open(&self) -> bool {
        let most = self.limits.local_connections_max;
        most == 0 || self.locals.open.unseen() < most
    }

    fn give_local(&mut self, cx: &mut Connections<State>, key: Key) {
        let unsafe_twice = self.exchanges.get(key).is_some_and(|e| !e.is_idempotent());
        while let Some(id) = self.locals.idle.pop() {
            // What is unsafe to repeat must not go to a server that has hung up.
            if cx.is_quiet(id, unsafe_twice) {
                return self.use_local(cx, key, id, false);
            }
            cx.close(id);
        }
        self.locals.opening.push((key, Permit::one(&self.locals.open)));
        self.open_local(cx, key);
    }

    /// A new connection for an exchange stands, unless nobody wants it any more.
    pub(super) fn local_opened(&mut self, cx: &mut Connections<State>, key: Key, id: Id) {
        let place = self.locals.opened(key);
        if self.exchanges.get(key).is_none_or(|exchange| exchange.downstream().is_none()) {
            self.exchanges.remove(key); // its link is gone
            cx.close(id);
            return self.wake_locals(cx);
        }
        cx.set_permit(id, place);
        self.use_local(cx, key, id, false);
    }

    fn use_local(&mut self, cx: &mut Connections<State>, key: Key, id: Id, bound: bool) {
        cx.set_deadline(id, None);
        if let Some(peer) = cx.get_mut(id) {
            let known = match &peer.state {
                State::Local(Local::Securing { known, .. }) => *known,
                _ => self.locals.known,
            };
            peer.state = State::Local(Local::Busy { key, bound, known });
        }
        relay::attach(self, cx, key, id);
    }

    fn await_local(&mut self, cx: &mut Connections<State>, key: Key) {
        let Some(downstream) = self.exchanges.get(key).and_then(|e| e.downstream()) else { return };
        self.locals.waiting.push_back(key);
        let at = cx.after(self.limits.local_wait_timeout);
        cx.set_deadline(downstream, Some(at));
        self.watch_locals(cx);
    }

    fn watch_locals(&mut self, cx: &mut Connections<State>) {
        if !self.locals.waiting.is_empty() && !std::mem::replace(&mut self.locals.alarmed, true) {
            let at = cx.after(BOUND_GRACE);
            cx.alarm(at, LOCALS);
        }
    }

    /// Something has waited for a while: bound connections that idle go for it, the longest idle
    /// first.
    pub(super) fn locals_are_late(&mut self, cx: &mut Connections<State>) {
        self.locals.alarmed = false;
        self.serve_locals(cx);
        let mut bound: Vec<_> = cx
            .ids()
            .into_iter()
            .filter_map(|id| match cx.get(id).map(|p| &p.state) {
                Some(State::Local(Local::Bound { since, .. })) => Some((*since, id)),
                _ => None,
            })
            .collect();
        bound.sort();
        for (_, id) in bound.into_iter().take(self.locals.waiting.len()) {
            log_names!(
                Info,
                "a local connection that one visitor is logged in on was closed: others wait, and there are as many as local_connections_max allows"
            );
            self.close_local(cx, id);
        }
        self.serve_locals(cx);
        self.watch_locals(cx);
    }

    /// A connection is free, or another may be opened: whoever is first in line gets another step.
    pub(super) fn wake_locals(&mut self, cx: &mut Connections<State>) {
        while let Some(key) = self.locals.waiting.front() {
            match self.exchanges.get(*key).and_then(|e| e.downstream()) {
                Some(downstream) => return cx.again(downstream),
                None => drop(self.locals.waiting.pop_front()), // its link is gone
            }
        }
    }

    /// Serves those in line, as far as there are connections.
    pub(super) fn serve_locals(&mut self, cx: &mut Connections<State>) {
        while let Some(key) = self.locals.waiting.front().copied() {
            if self.exchanges.get(key).is_some_and(|e| e.downstream().is_some()) {
                if self.locals.idle.is_empty() && !self.may_open() {
                    return;
                }
                self.locals.waiting.pop_front();
                self.give_local(cx, key);
            } else {
                self.locals.waiting.pop_front();
            }
        }
    }

    pub(super) fn has_local_line(&self) -> bool {
        !self.locals.waiting.is_empty()
    }

    /// A request has been in line for as long as it may, if it is.
    pub(super) fn local_queue_waited(&mut self, cx: &mut Connections<State>, key: Key) {
        let Some(at) = self.locals.waiting.iter().position(|waiting| *waiting == key) else {
            return;
        };
        self.locals.waiting.remove(at);
        let time = self.limits.local_wait_timeout.as_secs_f32();
        log_names!(
            Warn,
            "a request had no local connection within {time} s (local_wait_timeout): all {} are busy",
            self.locals.open.unseen()
        );
        let reason = "the device's local server is busy with as many requests as it may have at once; try again later";
        let answer = LocalAnswer {
            error: Some("connection_limit_reached"),
            retry_after: Some(1),
            ..LocalAnswer::new(503, reason)
        };
        self.answer_waiting(cx, key, &answer);
    }

    pub(super) fn local_free(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        reusable: Result<(), CloseReason>,
    ) {
        let Some(State::Local(Local::Busy { key, bound, known })) = cx.get(id).map(|p| &p.state)
        else {
            return self.close_local(cx, id);
        };
        let is_of_old = *known != self.locals.known;
        let exchange = self.exchanges.get(*key);
        let bound = *bound || exchange.is_some_and(|exchange| exchange.is_bound());
        let downstream = exchange.and_then(|exchange| exchange.downstream());
        // Nobody is logged in on a connection that was asked for a login, but nobody else needs it
        // either.
        let challenged = exchange.is_some_and(|exchange| exchange.is_challenged());
        let (time, stops) =
            (self.limits.local_keep_alive, self.draining() && self.locals.waiting.is_empty());
        if reusable.is_err() || time.is_zero() || stops || is_of_old {
            return self.close_local(cx, id);
        }
        match downstream.filter(|_| bound) {
            Some(link) if self.bind(cx, id, link) => {}
            None if !bound && !challenged && self.locals.idle.len() < POOL_MAX => {
                let Some(peer) = cx.get_mut(id) else { return };
                peer.state = State::Local(Local::Idle);
                self.locals.idle.push(id);
                self.wake_locals(cx);
            }
            _ => return self.close_local(cx, id),
        }
        if let Some(peer) = cx.get_mut(id) {
            peer.settle();
        }
        let at = cx.after(time);
        cx.set_deadline(id, Some(at));
    }

    /// Closes one, whatever it was.
    pub(super) fn close_local(&mut self, cx: &mut Connections<State>, id: Id) {
        match cx.get(id).map(|p| &p.state) {
            Some(State::Local(Local::Bound { link, .. })) => drop(self.unbind(cx, *link)),
            Some(State::Local(Local::Idle)) => self.locals.idle.retain(|idle| *idle != id),
            _ => {}
        }
        cx.close(id);
        self.wake_locals(cx);
    }

    /// Keeps one for the link whose visitor is logged in on it; the link counts as busy, so that
    /// another is dialled for everybody else. False: it is a poll's, which brings requests of
    /// anybody.
    fn bind(&mut self, cx: &mut Connections<State>, id: Id, link: Id) -> bool {
        let Some(State::Link(Link { slot: None, bound, .. })) =
            cx.get_mut(link).map(|p| &mut p.state)
        else {
            return false;
        };
        *bound = Some(id);
        self.shared.busy.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let since = cx.now();
        if let Some(peer) = cx.get_mut(id) {
            peer.state = State::Local(Local::Bound { link, since });
        }
        true
    }

    /// Takes a link's own connection from it.
    fn unbind(&mut self, cx: &mut Connections<State>, link: Id) -> Option<Id> {
        let Some(State::Link(Link { bound, .. })) = cx.get_mut(link).map(|p| &mut p.state) else {
            return None;
        };
        let id = bound.take()?;
        self.shared.busy.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        Some(id)
    }

    /// A link is gone, and with it goes the connection that was its own.
    pub(super) fn end_bound(&mut self, cx: &mut Connections<State>, link: &Link) {
        if let Some(id) = link.bound {
            self.shared.busy.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            cx.close(id);
            self.wake_locals(cx);
        }
    }
}
