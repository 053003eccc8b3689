//! Heartbeats and goaways that arrive on idle links, and their answers (protocol.md §1.5).

use std::sync::atomic::Ordering::Relaxed;

use crate::close_reason::{CloseCause, CloseReason};
use crate::device::role::DeviceRole;
use crate::device::state::{State, States};
use crate::engine::connections::{Connections, Id};
use crate::proto::heartbeat::{self, Heartbeat};

impl DeviceRole {
    /// Returns true if the device's own answers (to heartbeats) are written. No further bytes are
    /// read before: a gateway that does not take the answers would fill the memory with them.
    pub(super) fn answers_are_out(&mut self, cx: &mut Connections<State>, id: Id) -> bool {
        let Some(conn) = cx.get_mut(id) else { return false };
        let waits = conn.pending();
        if waits == 0 {
            return true;
        }
        match conn.flush() {
            Ok(true) => self.link_idle(cx, id), // which requests the step that continues to read
            Ok(false) if conn.is_broken() => {
                self.link_gone(cx, id, CloseCause::Reset.because("it broke under a heartbeat"))
            }
            Ok(false) if conn.pending() < waits => {
                let at = cx.after(self.limits.body_silence_timeout);
                cx.set_deadline(id, Some(at));
            }
            Ok(false) => {}
            Err(e) => self.link_gone(
                cx,
                id,
                CloseReason::new(CloseCause::of_io(&e), format!("it broke under a heartbeat: {e}")),
            ),
        }
        false
    }

    /// The gateway has taken no byte of an answer for `body_silence_timeout`, unless its socket has
    /// room and did not report it.
    pub(super) fn answer_expired(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(conn) = cx.get_mut(id) else { return };
        let waits = conn.pending();
        conn.try_to_write();
        if !self.answers_are_out(cx, id) && cx.get(id).is_some_and(|conn| conn.pending() == waits) {
            self.link_gone(
                cx,
                id,
                CloseCause::Late
                    .because("the gateway took nothing of an answer for body_silence_timeout"),
            );
        }
    }

    /// Answers a heartbeat, after dialling further links if callers wait. A link that the last
    /// minute did not need ends with this answer: the gateway sends no request before it has the
    /// answer, so none can be lost.
    pub(super) fn heartbeat(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        heartbeat: Heartbeat,
        callers: usize,
    ) {
        if self.demand.is_pending() {
            self.top_up(cx);
        }
        match heartbeat {
            Heartbeat::Goaway => self.goaway(cx, id),
            Heartbeat::Alive if callers == 0 && self.is_surplus(cx, id) => self.end_surplus(cx, id),
            Heartbeat::Alive => self.answer_heartbeat(cx, id),
        }
    }

    /// Returns true if the last minute did not need this idle link. While dials are in progress,
    /// all links are needed.
    fn is_surplus(&mut self, cx: &Connections<State>, id: Id) -> bool {
        let Some(link) = cx.link(id) else { return false };
        // A link with a visitor's login is reserved for that visitor.
        let may_go = link.slot.is_none() && link.bound.is_none();
        self.note_busy(cx.now());
        let (links, dialing) = (self.shared.links.load(Relaxed), self.shared.dialing.load(Relaxed));
        may_go && dialing == 0 && self.demand.has_surplus_link(links, &self.shared.wanted)
    }

    fn end_surplus(&mut self, cx: &mut Connections<State>, id: Id) {
        const WHY: CloseReason =
            CloseCause::Surplus.because("more links than the last minute needed");
        let date = cx.date().to_owned();
        let Some(conn) = cx.get_mut(id) else { return };
        let State::Link(link) = &mut conn.state else { return };
        (link.beaten, link.used) = (true, true); // its end is not a failed dial
        heartbeat::write_answer(conn.output(), &date, true);
        let _ = conn.flush(); // the rest is written while it lingers
        self.signs.beaten = true;
        self.carries();
        self.link_ends(cx, id, WHY);
    }

    fn answer_heartbeat(&mut self, cx: &mut Connections<State>, id: Id) {
        let date = cx.date().to_owned();
        let Some(conn) = cx.get_mut(id) else { return };
        heartbeat::write_answer(conn.output(), &date, false);
        let sent = conn.flush().is_ok();
        if let State::Link(link) = &mut conn.state {
            link.beaten = true;
        }
        self.signs.beaten = true;
        self.carries();
        match sent {
            true => self.link_idle(cx, id),
            false => {
                self.link_ends(cx, id, CloseCause::Reset.because("it broke under a heartbeat"))
            }
        }
    }

    /// A goaway arrived on a link: its replacement is dialled first, then the goaway is answered
    /// and the link closed. That is no failed attempt, but a gateway that sends a goaway on every
    /// new link, before any request, is not dialled in a loop.
    fn goaway(&mut self, cx: &mut Connections<State>, id: Id) {
        let date = cx.date().to_owned();
        let Some(link) = cx.link(id) else { return };
        self.replace(cx, *link);
        let Some(conn) = cx.get_mut(id) else { return };
        heartbeat::write_answer(conn.output(), &date, true);
        let _ = conn.flush(); // the rest is written while it lingers
        self.linger(cx, id);
    }
}
