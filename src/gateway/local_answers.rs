//! Local answers to visitors and programs, and the next request on their connections.

use std::sync::atomic::Ordering::Relaxed;

use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::gateway::exchanges::{is_gateway, program_error};
use crate::gateway::follow_ups::FollowUp;
use crate::gateway::state::{Asking, GatewayRole, State, States, Visitor, VisitorSource};
use crate::relay::LocalAnswer;

impl GatewayRole {
    /// Ends an exchange that never had a link.
    pub(super) fn give_up(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        key: Key,
        answer: &LocalAnswer<'_>,
    ) {
        if let Some(Asking { event: Some(event), .. }) = cx.asking(id) {
            self.follow_ups.push_back(FollowUp::EventOver(*event));
        }
        let Some(mut exchange) = self.exchanges.remove(key) else { return };
        exchange.observed.failed(answer.error.unwrap_or("refused"), answer.status);
        let is_away =
            matches!(answer.error, Some("destination_unavailable" | "destination_not_found"));
        let page = exchange.offline.take().filter(|_| is_away);
        let answer = LocalAnswer {
            page: page.as_ref(),
            to_head: exchange.is_head(),
            keep: exchange.may_keep_caller() && !self.lifecycle.is_ending(),
            ..answer.clone()
        };
        self.answer_visitor(cx, id, &answer);
    }

    /// Answers a visitor; its connection is kept if the answer says so. A program gets an error.
    pub(super) fn answer_visitor(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        answer: &LocalAnswer<'_>,
    ) {
        if let Some(visitor) = cx.visitor(id) {
            if let VisitorSource::Program { .. } = visitor.source() {
                visitor.source().leave_error(|| program_error(answer));
                return cx.close(id);
            }
        }
        if !answer.keep {
            return self.refuse(cx, id, answer);
        }
        self.stats.refused.fetch_add(1, Relaxed);
        let (date, to_gateway) = (cx.date().to_owned(), is_gateway(cx, id));
        let Some(conn) = cx.get_mut(id) else { return };
        LocalAnswer { to_gateway, ..answer.clone() }.write(conn.output(), &date);
        match conn.flush() {
            Ok(_) => self.visitor_next(cx, id, true),
            Err(_) => cx.close(id),
        }
    }

    /// Returns true if the last answer on a visitor's connection was written to its end. A client
    /// that reads slowly is asked for nothing further until then.
    pub(super) fn is_answered(&mut self, cx: &mut Connections<State>, id: Id) -> bool {
        let at = cx.after(self.settings.limits.idle_visitor_timeout);
        let Some(conn) = cx.get_mut(id).filter(|conn| conn.pending() > 0) else { return true };
        match conn.flush() {
            Ok(true) => {
                cx.set_deadline(id, Some(at));
                return true;
            }
            Ok(false) if !conn.is_broken() => {
                if self.lifecycle.is_draining() {
                    self.linger(cx, id);
                }
            }
            Ok(false) | Err(_) => cx.close(id),
        }
        false
    }

    pub(super) fn visitor_next(&mut self, cx: &mut Connections<State>, id: Id, keep: bool) {
        let Some(conn) = cx.get_mut(id) else { return };
        let State::Visitor(visitor) = &conn.state else { return };
        let source = visitor.source().clone();
        if !keep || self.lifecycle.is_draining() {
            return self.linger(cx, id);
        }
        conn.state = State::Visitor(Visitor::Head { began: false, first: false, moves: 0, source });
        self.await_request(cx, id);
    }

    /// A connection waits for its next request; pipelined bytes are read soon.
    pub(super) fn await_request(&self, cx: &mut Connections<State>, id: Id) {
        let at = cx.after(self.settings.limits.idle_visitor_timeout);
        let Some(conn) = cx.get_mut(id) else { return };
        conn.free_buffers();
        let more = conn.has_input();
        cx.set_deadline(id, Some(at));
        if more {
            cx.reschedule(id);
        }
    }
}
