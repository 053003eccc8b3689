//! Makes room for a new connection by closing another one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::engine::connections::FULL;
use crate::engine::connections::{Connections, Id};
use crate::gateway::admission::Port;
use crate::gateway::bounds::Bound;
use crate::gateway::state::{Command, GatewayRole, State, Visitor, VisitorSource};
use crate::gateway::tokens::Whose;
use crate::limits::IDLE_FOUND_MAX;
use crate::relay::LocalAnswer;
use crate::setting::VISITORS_ALLOW;

/// If few connections are idle, the next search for them is due after this time.
const LOOK: Duration = Duration::from_millis(100);

/// `Some` if a visitor's connection waits for a request; the value says whether it would be its
/// first. A connection with unread bytes does not wait, unless its client does not read its last
/// answer.
fn idles(cx: &Connections<State>, id: Id) -> Option<bool> {
    let connection =
        cx.get(id).filter(|connection| connection.pending() > 0 || !connection.has_input())?;
    match &connection.state {
        State::Visitor(Visitor::Head {
            began: false,
            first,
            source: VisitorSource::Visitors { .. } | VisitorSource::Peer,
            ..
        }) => Some(*first),
        _ => None,
    }
}

impl GatewayRole {
    /// Returns true if another connection of this side is admitted. If necessary, closes an idle
    /// one of a visitor, or an unauthenticated one of a device.
    pub(super) fn has_room(
        &mut self,
        cx: &mut Connections<State>,
        side: Whose,
    ) -> Result<(), &'static str> {
        let taken = self.admission.permits.of_side(side as usize);
        let why = match side {
            Whose::Devices if taken >= self.settings.limits.devices_connections() => {
                return Err(
                    "devices have seven eighths of connections_max, the rest is left to visitors",
                );
            }
            Whose::Visitors if taken >= self.settings.limits.visitors_connections() => {
                "visitors have three quarters of connections_max, the rest is left to devices"
            }
            _ if cx.is_full() => FULL,
            Whose::Visitors if self.is_out_of_memory(cx) => "memory_bytes_max is taken",
            _ => return Ok(()),
        };
        let gives_way = (side == Whose::Devices && self.admission.has_unseen(cx, Port::Devices))
            || self.find_idle(cx).is_some()
            || self.admission.has_unseen(cx, Port::Peers);
        if gives_way { Ok(()) } else { Err(why) }
    }

    /// What there is too little of for another connection of this side.
    pub(super) fn scarce(&self, cx: &Connections<State>, side: Whose) -> Bound {
        let taken = self.admission.permits.of_side(side as usize);
        let has_place = side == Whose::Visitors
            && taken < self.settings.limits.visitors_connections()
            && !cx.is_full();
        if has_place && self.is_out_of_memory(cx) { Bound::Memory } else { Bound::Connections }
    }

    /// A connection of this side waits, and this loop has neither room nor a connection to close.
    /// Accepting pauses for as long as the other loops may take.
    pub(super) fn ask_others_for_room(&self, side: Whose) {
        let taken = self.admission.permits.of_side(side as usize);
        if side == Whose::Visitors || taken < self.settings.limits.devices_connections() {
            self.loops.send_others(self.number, || Command::GiveWay { side });
        }
    }

    /// Another loop has no room for a connection of this side, and no connection to close.
    pub(super) fn give_way(&mut self, cx: &mut Connections<State>, side: Whose) {
        let visitors = Whose::Visitors as usize;
        let is_full = cx.is_full()
            || (side == Whose::Visitors
                && (self.is_out_of_memory(cx)
                    || self.admission.permits.of_side(visitors)
                        >= self.settings.limits.visitors_connections()));
        if is_full && !self.spare(cx) && side == Whose::Devices {
            let oldest = self.admission.oldest_here(cx, Port::Devices);
            oldest.into_iter().for_each(|oldest| cx.close(oldest));
        }
    }

    /// Closes the oldest unauthenticated connections to this port while there are too many. Another
    /// loop closes its own. `first`: the one that another loop has found.
    pub(super) fn close_unseen(
        &mut self,
        cx: &mut Connections<State>,
        port: Port,
        first: Option<Id>,
    ) {
        let most = self.unseen_most(port);
        let mut oldest = first.filter(|id| cx.is_unseen(*id)).map(|id| (self.number, id));
        while let Some((of, id)) = oldest.take().or_else(|| self.admission.oldest(cx, port, most)) {
            if of != self.number {
                self.loops.send(of, Command::CloseUnseen { port, id });
                return;
            }
            self.stats.reached(Bound::Unauthenticated);
            match port {
                Port::Devices => log_names!(
                    Warn,
                    "a connection to the devices' port was closed: unauthenticated_max ({most}) others wait after it"
                ),
                Port::Peers => log_names!(
                    Warn,
                    "an unauthenticated connection to the peers' port was closed: as many others as are allowed ({most}, by unauthenticated_max) came after it"
                ),
            }
            cx.close(id);
        }
    }

    fn unseen_most(&self, port: Port) -> usize {
        match port {
            Port::Devices => self.settings.limits.unauthenticated(),
            Port::Peers => self.settings.limits.strangers(),
        }
    }

    /// Makes room for a connection that was already counted. Returns false if that is impossible.
    pub(super) fn make_room(&mut self, cx: &mut Connections<State>, side: Whose) -> bool {
        let visitors = Whose::Visitors as usize;
        if side == Whose::Visitors && self.is_out_of_memory(cx) && !self.spare(cx) {
            return false; // only one is closed: if others hold the memory, closing any number of idle ones would not help
        }
        while cx.is_full()
            || (side == Whose::Visitors
                && self.admission.permits.of_side(visitors)
                    > self.settings.limits.visitors_connections())
        {
            if self.spare(cx) {
                continue;
            }
            let is_device = side == Whose::Devices;
            match is_device.then(|| self.admission.oldest_here(cx, Port::Devices)).flatten() {
                Some(oldest) => cx.close(oldest),
                None => return false,
            }
        }
        true
    }

    /// Closes one connection: an idle one of a visitor, or else the oldest unauthenticated one at
    /// the peers' port. Returns false if there is none.
    fn spare(&mut self, cx: &mut Connections<State>) -> bool {
        if self.spare_idle(cx) {
            return true;
        }
        let Some(oldest) = self.admission.oldest_here(cx, Port::Peers) else { return false };
        log_names!(
            Warn,
            "an unauthenticated connection to the peers' port was closed to make room for another one (connections_max, memory_bytes_max)"
        );
        cx.close(oldest);
        true
    }

    /// Closes one idle connection of a visitor. Returns false if there is none.
    pub(super) fn spare_idle(&mut self, cx: &mut Connections<State>) -> bool {
        let Some(id) = self.find_idle(cx) else { return false };
        self.admission.idle.pop_front();
        log_names!(
            Info,
            "a visitor's idle connection was closed to make room for another one (connections_max, memory_bytes_max)"
        );
        cx.close(id);
        true
    }

    /// The visitor's connection to close first: of those between two requests the longest idle one,
    /// then of those that have not sent their first request. While there is room, this needs no
    /// bookkeeping: one pass over all connections finds many candidates.
    fn find_idle(&mut self, cx: &Connections<State>) -> Option<Id> {
        loop {
            while let Some((deadline, id)) = self.admission.idle.front().copied() {
                if cx.deadline(id) == Some(deadline) && idles(cx, id).is_some() {
                    return Some(id);
                }
                self.admission.idle.pop_front();
            }
            let now = cx.now();
            if self.admission.few.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK)
            {
                return None;
            }
            let idle =
                cx.ids().into_iter().filter_map(|id| Some((idles(cx, id)?, cx.deadline(id)?, id)));
            let mut idle: Vec<(bool, Instant, Id)> = idle.collect();
            if idle.len() > IDLE_FOUND_MAX {
                idle.select_nth_unstable(IDLE_FOUND_MAX);
            }
            self.admission.few = (idle.len() <= IDLE_FOUND_MAX).then_some(now);
            idle.truncate(IDLE_FOUND_MAX);
            idle.sort_unstable();
            self.admission.idle =
                idle.into_iter().map(|(_, deadline, id)| (deadline, id)).collect();
            if self.admission.idle.is_empty() {
                return None;
            }
        }
    }

    /// Returns true if a visitor's address is admitted. Returns false if the connection is being
    /// closed instead.
    pub(super) fn admit_visitor(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        from: SocketAddr,
        secure: bool,
    ) -> bool {
        if self.admission.allows(Whose::Visitors, from.ip()) {
            return true;
        }
        if secure {
            log_names!(
                Info,
                "a visitor from {from} was closed: no allowed network has its address ({VISITORS_ALLOW})"
            );
            cx.close(id); // before the handshake it cannot get an answer
            return false;
        }
        log_names!(
            Info,
            "a visitor from {from} got 403: no allowed network has its address ({VISITORS_ALLOW})"
        );
        let text = format!("this address is not allowed here ({VISITORS_ALLOW})");
        let answer = LocalAnswer::new(403, &text);
        self.refuse(cx, id, &LocalAnswer { error: Some("http_request_denied"), ..answer });
        false
    }

    /// A connection to this port is new: the oldest unauthenticated one gives way if there are too
    /// many.
    pub(super) fn note_newcomer(&mut self, cx: &mut Connections<State>, port: Port, id: Id) {
        let most = self.unseen_most(port);
        self.admission.note_unseen(cx, (port, id), most);
        self.close_unseen(cx, port, None);
    }
}
