//! The life of a link: it is assigned to an exchange, gets heartbeats while it is idle, is asked to
//! leave (the goaway), and ends.

use std::time::Duration;

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::connection::{Fetched, STRAYS_MAX};
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::gateway::alarms::Alarm;
use crate::gateway::follow_ups::FollowUp;
use crate::gateway::refusals::EARLY;
use crate::gateway::state::{Device, GatewayRole, HEAD, Hold, State, States};
use crate::proto::forward::waiting_line;
use crate::proto::head;
use crate::relay;

/// Why a connection never became a link.
pub(super) const UNTURNED: CloseReason =
    CloseCause::Cut.because("it was closed before the 101 was written");
pub(super) const UNASKED: &str = "unrequested bytes arrived";
const EMPTY_LINES: &str = "more than 64 bytes of empty lines came between two messages";

impl GatewayRole {
    /// Takes the next idle link of `name`, which is busy from now on; a held offer gets its 101. The
    /// time, if there is one, is how long to hold a visitor's request back on it.
    pub(super) fn take_link(
        &mut self,
        cx: &mut Connections<State>,
        name: &str,
    ) -> Option<(Id, Option<Duration>)> {
        let (id, hold) = self.registry.next_idle(name, cx.now())?;
        let registration = cx.registration(id)?;
        self.registry.set_busy(&registration, id);
        self.switch_held(cx, id);
        Some((id, hold))
    }

    pub(super) fn switch_held(&mut self, cx: &mut Connections<State>, id: Id) {
        cx.set_deadline(id, None);
        let Some(conn) = cx.get_mut(id) else { return };
        if let State::Device(Device::Held { registration, hold: Hold::Offer(switch) }) =
            &mut conn.state
        {
            let (registration, switch) = (registration.clone(), std::mem::take(switch));
            conn.state = State::Device(Device::link(registration));
            conn.output().extend_from_slice(&switch);
        }
    }

    /// Assigns a busy link to an exchange.
    pub(super) fn assign(&mut self, cx: &mut Connections<State>, key: Key, id: Id) {
        self.assign_with(cx, key, id, b"");
    }

    /// The same, with an additional line in the request's head.
    pub(super) fn assign_with(
        &mut self,
        cx: &mut Connections<State>,
        key: Key,
        id: Id,
        line: &[u8],
    ) {
        let now = cx.now();
        if let Some(link) = cx.link_mut(id) {
            (link.exchange, link.asked) = (Some(key), Some(now));
            if let Some(exchange) = self.exchanges.get_mut(key) {
                // Devices of this crate have a session, and frame strictly.
                exchange.upstream_reads_on(link.registration.session().is_some());
                if link.registration.is_airplay() {
                    exchange.takes_event_version();
                }
            }
        }
        let demand = cx.registration(id).map_or(0, |link| self.registry.demand(&link, 0));
        let lines = [line, &waiting_line(demand)].concat();
        relay::attach_with(self, cx, key, id, &lines);
    }

    /// Something happened on an idle link: its end, stray line ends, or unexpected bytes.
    pub(super) fn idle_ready(&mut self, cx: &mut Connections<State>, id: Id) {
        if let Err(why) = self.is_quiet(cx, id) {
            self.drop_link(cx, id, why);
        }
    }

    pub(super) fn is_quiet(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
    ) -> Result<(), CloseReason> {
        let mut scratch = cx.take_scratch();
        let most = usize::from(STRAYS_MAX) + 1;
        let quiet = cx.get_mut(id).map_or(Ok(()), |conn| match conn.fetch(&mut scratch, most) {
            Ok(Fetched::Nothing) if conn.is_broken() => {
                Err(CloseCause::Reset.because("while it idled"))
            }
            Ok(Fetched::Nothing) => Ok(()),
            Ok(Fetched::Bytes(n)) if conn.ignores(&scratch[..n]) => Ok(()),
            Ok(Fetched::Bytes(n)) if head::are_line_ends(&scratch[..n]) => {
                Err(CloseCause::ProtocolError.because(EMPTY_LINES))
            }
            Ok(Fetched::Bytes(_)) => Err(CloseCause::ProtocolError.because(UNASKED)),
            Ok(Fetched::End) => Err(CloseCause::Closed.because("by the device, while it idled")),
            Err(e) => Err(CloseReason::new(CloseCause::of_io(&e), format!("while it idled: {e}"))),
        });
        cx.put_scratch(scratch);
        if quiet.is_ok() && cx.get(id).is_some_and(|p| p.has_input()) {
            cx.reschedule(id);
        }
        quiet
    }

    /// Checks that a link for a non-idempotent request is still alive, because such a request is
    /// not sent twice. A dead link is dropped; its caller then looks for another one itself, so no
    /// other waiting caller gets one instead.
    pub(super) fn is_alive(&mut self, cx: &mut Connections<State>, id: Id) -> bool {
        if let Some(conn) = cx.get_mut(id) {
            conn.look_again();
        }
        match self.is_quiet(cx, id) {
            Ok(()) => true,
            Err(why) => {
                self.end_link(cx, id, &why);
                false
            }
        }
    }

    pub(super) fn drop_link(&mut self, cx: &mut Connections<State>, id: Id, why: CloseReason) {
        let Some(registration) = cx.registration(id) else { return };
        self.end_link(cx, id, &why);
        self.follow_ups.push_back(FollowUp::ServeInLine(registration));
    }

    /// Closes a link. The request that it would have carried next looks for another one.
    fn end_link(&mut self, cx: &mut Connections<State>, id: Id, why: &CloseReason) {
        let Some(registration) = cx.registration(id) else { return };
        let left = self.registry.leave(&registration, id, cx.now());
        let wanted = self.take_wanted(cx, id);
        cx.close(id);
        self.link_ended(&registration, &left, why);
        if let Some((visitor, key)) = wanted {
            self.follow_ups.push_back(FollowUp::FindLink { visitor, key });
        }
    }

    /// Removes a held connection from the registry.
    pub(super) fn unhold(&mut self, cx: &mut Connections<State>, id: Id, why: &CloseReason) {
        match cx.device(id) {
            Some(Device::Held { registration, hold: Hold::Offer(_) }) => {
                let left = self.registry.leave(&registration.clone(), id, cx.now());
                self.gone(&left, why);
            }
            Some(Device::Held { registration, hold: Hold::Poll(_) }) => {
                self.unpark(cx, id, &registration.clone())
            }
            _ => {}
        }
    }

    /// Bytes, or the end, when neither is expected: while an offer is decided about, or an offer or
    /// poll is held.
    pub(super) fn early_bytes(&mut self, cx: &mut Connections<State>, id: Id) {
        // The body of a POST stays in the socket until its sender is known.
        if let Some(conn) = cx.get(id) {
            if matches!(&conn.state, State::Device(Device::Deciding(head)) if head.has_body()) {
                if conn.is_broken() {
                    cx.close(id);
                }
                return;
            }
        }
        let Err(why) = self.is_quiet(cx, id) else { return };
        self.unhold(cx, id, &why);
        match why.cause {
            CloseCause::Closed | CloseCause::Reset | CloseCause::Unreachable => cx.close(id),
            _ => self.deny_device(cx, id, 400, EARLY, None),
        }
    }

    /// There was no request for a held offer: it gets 204, and the device offers again on the same
    /// connection.
    pub(super) fn hold_expired(&mut self, cx: &mut Connections<State>, id: Id) {
        if let Some(registration) = cx.registration(id) {
            for name in self.registry.lapse(&registration, id, cx.now()) {
                let at = cx.after(self.settings.limits.poll_gap);
                self.set_alarm(cx, at, Alarm::PollGap(name));
            }
        }
        let Some(conn) = cx.get_mut(id) else { return };
        conn.output().extend_from_slice(b"HTTP/1.1 204 No Content\r\nProxy-Status: ptth\r\n\r\n");
        conn.state = HEAD;
        let sent = conn.flush().is_ok();
        let at = cx.after(self.settings.limits.head_timeout);
        cx.set_deadline(id, Some(at));
        if !sent {
            cx.close(id);
        }
    }

    /// Takes the request that waits until this link is free, and its visitor.
    pub(super) fn take_wanted(&self, cx: &mut Connections<State>, id: Id) -> Option<(Id, Key)> {
        let link = cx.link_mut(id)?;
        let key = link.wanted.take()?;
        let exchange = self.exchanges.get(key).filter(|exchange| exchange.is_waiting())?;
        Some((exchange.downstream()?, key))
    }
}

pub(super) fn peer_flush(cx: &mut Connections<State>, id: Id) -> bool {
    cx.get_mut(id).is_some_and(|conn| matches!(conn.flush(), Ok(true)))
}
