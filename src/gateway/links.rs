//! A link's life: it is turned or held, given out, watched while it idles, told to go, and ends.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::connection::Fetched;
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::gateway::alarms::Alarm;
use crate::gateway::leases::{Handle, LeasedLink, Ticket};
use crate::gateway::refusals::{EARLY, REPLACED};
use crate::gateway::registry::{Registration, Waiter};
use crate::gateway::state::{Command, Device, GatewayRole, HEAD, Hold, State, States};
use crate::link::{CutError, GatewayLink};
use crate::observe::Observed;
use crate::proto::forward::waiting_line;
use crate::proto::head;
use crate::proto::heartbeat;
use crate::proto::turn::STOPPING;
use crate::relay::{self, Exchange, LocalAnswer};

/// Why a link never came to be.
pub(super) const UNTURNED: CloseReason =
    CloseCause::Cut.because("it was closed before the 101 was written");
const UNASKED: &str = "bytes came that nobody asked for";

impl GatewayRole {
    /// Gives the idle link of `name` out whose turn it is, busy; a held offer is turned with it.
    pub(super) fn take_link(&mut self, cx: &mut Connections<State>, name: &str) -> Option<Id> {
        let id = self.registry.next_idle(name)?;
        let registration = cx.registration(id)?;
        self.registry.set_busy(&registration, id);
        self.switch_held(cx, id);
        Some(id)
    }

    pub(super) fn switch_held(&mut self, cx: &mut Connections<State>, id: Id) {
        cx.set_deadline(id, None);
        let Some(peer) = cx.get_mut(id) else { return };
        if let State::Device(Device::Held { registration, hold: Hold::Offer(switch) }) =
            &mut peer.state
        {
            let (registration, switch) = (registration.clone(), std::mem::take(switch));
            peer.state = State::Device(Device::link(registration));
            peer.output().extend_from_slice(&switch);
        }
    }

    /// Gives a busy link to whoever waited.
    pub(super) fn serve(&mut self, cx: &mut Connections<State>, id: Id, waiter: Waiter) {
        match waiter {
            Waiter::Exchange(key) => match self
                .exchanges
                .get(key)
                .filter(|e| e.is_waiting())
                .map(|e| (e.downstream(), e.is_idempotent()))
            {
                None => self.link_free(cx, id, Ok(())), // its visitor has gone
                Some((Some(downstream), _)) if self.has_idle_pin(cx, downstream) => {
                    // It was in line for its turn alone.
                    if !peer_flush(cx, id) {
                        self.drop_link(cx, id, UNTURNED);
                    } else if let Some(registration) = cx.registration(id) {
                        self.registry.set_idle(&registration, id);
                        self.watch_idle(cx, id);
                    }
                    self.find_link(cx, downstream, key);
                }
                Some((_, true)) => self.assign(cx, key, id),
                Some((_, false)) if self.is_alive(cx, id) => self.assign(cx, key, id),
                Some((Some(downstream), false)) => self.find_link(cx, downstream, key), // the link is gone; it lines up again
                Some((None, false)) => {}
            },
            Waiter::Caller(number) => {
                if !peer_flush(cx, id) {
                    self.drop_link(cx, id, UNTURNED);
                } else if !self.lend(cx, number, id) {
                    self.link_free(cx, id, Ok(()));
                }
            }
        }
    }

    /// Ties a busy link to an exchange.
    pub(super) fn assign(&mut self, cx: &mut Connections<State>, key: Key, id: Id) {
        self.assign_with(cx, key, id, b"");
    }

    /// The same, with one line more in the request's head.
    pub(super) fn assign_with(
        &mut self,
        cx: &mut Connections<State>,
        key: Key,
        id: Id,
        line: &[u8],
    ) {
        if let Some(link) = cx.link_mut(id) {
            link.exchange = Some(key);
            if let Some(exchange) = self.exchanges.get_mut(key) {
                // A session is what devices of this crate have, and they frame strictly.
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

    pub(super) fn link_free(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        reusable: Result<(), CloseReason>,
    ) {
        let Some(peer) = cx.get_mut(id) else { return };
        let State::Device(Device::Link(link)) = &mut peer.state else { return };
        let exchange = link.exchange.take().and_then(|key| self.exchanges.get(key));
        let bound = link.pinned.is_some() || exchange.is_some_and(|exchange| exchange.is_bound());
        let is_counted = exchange.is_some_and(|exchange| exchange.observed.is_on());
        let downstream = exchange.and_then(|exchange| exchange.downstream());
        let (registration, leaving) = (link.registration.clone(), link.leaving);
        if leaving {
            let end = match () {
                () if self.credentials.is_revoked(&registration) => CloseCause::Revoked,
                () if self.registry.in_force(&registration) => CloseCause::Drained,
                () => CloseCause::Replaced,
            };
            return self.drop_link(cx, id, end.because("it was told to go"));
        }
        if let Err(why) = reusable {
            return self.drop_link(cx, id, why);
        }
        // The 101 of a held offer may still wait, where the request that was to follow it was taken
        // back.
        if peer.pending() > 0 && !peer_flush(cx, id) {
            return self.drop_link(cx, id, UNTURNED);
        }
        if !is_counted {
            self.observer.seen(registration.name()); // a heartbeat was answered
        }
        if !self.registry.in_force(&registration) {
            return self.part(cx, id);
        }
        // Bytes sent before they were asked for must not become the next caller's answer.
        if cx.get(id).is_some_and(|p| p.has_input()) {
            let quiet = self.is_quiet(cx, id);
            if quiet.is_err() || cx.get(id).is_some_and(|p| p.has_input()) {
                return self.drop_link(
                    cx,
                    id,
                    quiet.err().unwrap_or(CloseCause::ProtocolError.because(UNASKED)),
                );
            }
        }
        if bound {
            return self.keep_for(cx, id, downstream);
        }
        if let Some(waiter) = self.registry.next_waiter(&registration, false) {
            return self.serve(cx, id, waiter);
        }
        if self.lifecycle.is_draining() {
            return self.part(cx, id);
        }
        self.registry.set_idle(&registration, id);
        self.watch_idle(cx, id);
    }

    /// An idle link has its next heartbeat, and no buffers.
    pub(super) fn watch_idle(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(peer) = cx.get_mut(id) else { return };
        peer.settle();
        let heartbeat = self.settings.limits.heartbeat;
        let at = (!heartbeat.is_zero()).then(|| cx.after_about(heartbeat));
        cx.set_deadline(id, at);
    }

    /// Something happened on an idle link: its end, stray line ends, or bytes nobody asked for.
    pub(super) fn idle_ready(&mut self, cx: &mut Connections<State>, id: Id) {
        if let Err(why) = self.is_quiet(cx, id) {
            self.drop_link(cx, id, why);
        }
    }

    fn is_quiet(&mut self, cx: &mut Connections<State>, id: Id) -> Result<(), CloseReason> {
        let mut scratch = cx.take_scratch();
        let quiet = cx.get_mut(id).map_or(Ok(()), |peer| match peer.fetch(&mut scratch, 64) {
            Ok(Fetched::Nothing) if peer.is_broken() => {
                Err(CloseCause::Reset.because("while it idled"))
            }
            Ok(Fetched::Nothing) => Ok(()),
            Ok(Fetched::Bytes(n)) if head::are_line_ends(&scratch[..n]) => Ok(()),
            Ok(Fetched::Bytes(_)) => Err(CloseCause::ProtocolError.because(UNASKED)),
            Ok(Fetched::End) => Err(CloseCause::Closed.because("by the device, while it idled")),
            Err(e) => Err(CloseReason::new(CloseCause::of_io(&e), format!("while it idled: {e}"))),
        });
        cx.put_scratch(scratch);
        if quiet.is_ok() && cx.get(id).is_some_and(|p| p.has_input()) {
            cx.again(id);
        }
        quiet
    }

    /// Looks once more whether a link that is to carry an unsafe request is still there: such a
    /// request is not sent twice. One that has gone is dropped; whoever was to have it looks for
    /// another, so nobody else in line gets one for it.
    pub(super) fn is_alive(&mut self, cx: &mut Connections<State>, id: Id) -> bool {
        if let Some(peer) = cx.get_mut(id) {
            peer.look_again();
        }
        match self.is_quiet(cx, id) {
            Ok(()) => true,
            Err(why) => {
                self.end_link(cx, id, &why);
                false
            }
        }
    }

    /// The idle time of a link is over: ask for a sign of life (protocol.md §1.5).
    pub(super) fn beat(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(registration) = cx.registration(id) else { return };
        self.registry.set_busy(&registration, id);
        self.ask_options(cx, id, heartbeat::REQUEST);
    }

    /// Tells a link to go: replaced, or the gateway stops. An offer that is held is refused.
    pub(super) fn part(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(registration) = cx.registration(id) else { return };
        let Some(peer) = cx.get_mut(id) else { return };
        match &mut peer.state {
            State::Device(Device::Link(link)) if link.leaving || link.exchange.is_some() => {}
            State::Device(Device::Link(link)) => {
                link.leaving = true;
                self.registry.set_busy(&registration, id);
                self.ask_options(cx, id, heartbeat::FAREWELL);
            }
            State::Device(Device::Held { .. }) => {
                let (end, reason) = if self.lifecycle.is_draining() {
                    (CloseCause::Drained, STOPPING)
                } else {
                    (CloseCause::Replaced, REPLACED)
                };
                self.unhold(cx, id, &end.because(reason));
                match self.lifecycle.is_draining() {
                    true => self.send_away(cx, id),
                    false => self.deny_device(cx, id, 409, REPLACED, Some(60)),
                }
            }
            _ => {}
        }
    }

    fn ask_options(&mut self, cx: &mut Connections<State>, id: Id, request: &'static [u8]) {
        let Some(registration) = cx.registration(id) else { return };
        let demand = self.registry.demand(&registration, 0);
        let exchange = Exchange::heartbeat(
            request.to_vec(),
            self.settings.limits.heartbeat_timeout,
            &self.settings.limits,
            cx.now(),
        );
        let key = self.exchanges.insert(Box::new(exchange));
        if let Some(link) = cx.link_mut(id) {
            link.exchange = Some(key);
        }
        relay::attach_with(self, cx, key, id, &waiting_line(demand));
    }

    pub(super) fn drop_link(&mut self, cx: &mut Connections<State>, id: Id, why: CloseReason) {
        let Some(registration) = cx.registration(id) else { return };
        self.end_link(cx, id, &why);
        self.serve_by_idle(cx, &registration);
    }

    /// Closes a link. The request that it would have carried next looks for another one.
    fn end_link(&mut self, cx: &mut Connections<State>, id: Id, why: &CloseReason) {
        let Some(registration) = cx.registration(id) else { return };
        let left = self.registry.leave(&registration, id, cx.now());
        let wanted = self.take_wanted(cx, id);
        cx.close(id);
        self.link_ended(&registration, &left, why);
        if let Some((visitor, key)) = wanted {
            self.find_link(cx, visitor, key);
        }
    }

    /// A held connection is held no longer.
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

    /// Bytes, or the end, where neither may be: while the offer is decided, or it or a poll is
    /// held.
    pub(super) fn early_bytes(&mut self, cx: &mut Connections<State>, id: Id) {
        // What a POST brings stays where it is until its sender is known.
        if let Some(peer) = cx.get(id) {
            if matches!(&peer.state, State::Device(Device::Deciding(head)) if head.has_body()) {
                if peer.is_broken() {
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

    /// Nobody asked for a held offer: 204, and the device offers again on the same connection.
    pub(super) fn hold_expired(&mut self, cx: &mut Connections<State>, id: Id) {
        if cx.parked(id).is_some() {
            return self.poll_expired(cx, id);
        }
        if let Some(registration) = cx.registration(id) {
            for name in self.registry.lapse(&registration, id, cx.now()) {
                let at = cx.after(self.settings.limits.poll_gap);
                self.set_alarm(cx, at, Alarm::PollGap(name));
            }
        }
        let Some(peer) = cx.get_mut(id) else { return };
        peer.output().extend_from_slice(b"HTTP/1.1 204 No Content\r\nProxy-Status: ptth\r\n\r\n");
        peer.state = HEAD;
        let sent = peer.flush().is_ok();
        let at = cx.after(self.settings.limits.head_timeout);
        cx.set_deadline(id, Some(at));
        if !sent {
            cx.close(id);
        }
    }

    /// `on_link`: the worker was reserved by the count of leased links; the link is its own until the
    /// handler returns.
    fn hand_to_worker(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        registration: Arc<Registration>,
        switch: &[u8],
    ) {
        let Some(handler) = self.settings.on_link.clone() else { return };
        let give_up = |role: &mut Self, cx: &mut Connections<State>| {
            role.lent_ended(
                cx,
                &registration,
                &CloseCause::Limit.because("no worker for its link"),
            );
        };
        // Its worker is reserved before the 101, and counted for all loops.
        cx.set_leases(self.leases.len() + 1);
        if cx.lent() > self.settings.limits.on_link_max {
            cx.set_leases(self.leases.len());
            give_up(self, cx);
            return self.refuse(
                cx,
                id,
                &LocalAnswer {
                    retry_after: Some(10),
                    ..LocalAnswer::new(503, "as many links are served as on_link_max allows")
                },
            );
        }
        if let Some(peer) = cx.get_mut(id) {
            peer.output().extend_from_slice(switch);
        }
        let turned = peer_flush(cx, id);
        let place = cx.unseat(id);
        let Some((stream, unread, _)) = cx.remove(id).filter(|_| turned) else {
            cx.set_leases(self.leases.len());
            return give_up(self, cx);
        };
        let handle = stream.try_clone().map_or(Handle::None, Handle::Own);
        let ticket = self.leases.add(LeasedLink {
            registration: registration.clone(),
            handle,
            cut_error: CutError::default(),
            observed: Observed::default(),
            place,
        });
        cx.set_leases(self.leases.len());
        let (limits, remote) = (self.settings.link_limits.clone(), self.remote.clone());
        let (name, airplay) = (registration.name().clone(), registration.is_airplay());
        let submitted = self.link_workers.submit(move || {
            let _back = Returning { remote, ticket };
            match stream.set_nonblocking(false) {
                Ok(()) => handler(
                    GatewayLink::within(stream, unread, limits)
                        .taking_events(airplay)
                        .of_device(name),
                ),
                Err(e) => log::error!("a turned connection cannot be made blocking: {e}"),
            }
        });
        if !submitted {
            self.leases.take(ticket);
            cx.set_leases(self.leases.len());
            give_up(self, cx);
        }
    }

    pub(super) fn upgrade(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        switch: Vec<u8>,
        registration: Arc<Registration>,
    ) {
        self.stats.turns.fetch_add(1, Relaxed);
        if self.settings.on_link.is_some() {
            return self.hand_to_worker(cx, id, registration, &switch);
        }
        let Some(peer) = cx.get_mut(id) else { return };
        if self.settings.turns.hold(registration.names()) {
            peer.state = State::Device(Device::Held {
                registration: registration.clone(),
                hold: Hold::Offer(switch),
            });
            self.registry.place(&registration, id);
            let at = cx.after(self.settings.limits.poll_hold);
            match self.registry.next_waiter(&registration, false) {
                Some(waiter) => {
                    self.switch_held(cx, id);
                    self.serve(cx, id, waiter);
                }
                None => {
                    self.registry.set_idle(&registration, id);
                    cx.set_deadline(id, Some(at));
                }
            }
            return;
        }
        peer.output().extend_from_slice(&switch);
        peer.state = State::Device(Device::link(registration.clone()));
        self.registry.place(&registration, id);
        // A waiting request follows in the same write; with none the 101 goes out alone.
        match self.registry.next_waiter(&registration, false) {
            Some(waiter) => self.serve(cx, id, waiter),
            None if peer_flush(cx, id) => self.link_free(cx, id, Ok(())),
            None => self.drop_link(cx, id, UNTURNED),
        }
    }
}

pub(super) fn peer_flush(cx: &mut Connections<State>, id: Id) -> bool {
    cx.get_mut(id).is_some_and(|peer| matches!(peer.flush(), Ok(true)))
}

/// Tells the loop, also when the handler panics, that an `on_link` worker is done.
struct Returning {
    remote: crate::engine::event_loop::Remote<Command>,
    ticket: Ticket,
}

impl Drop for Returning {
    fn drop(&mut self) {
        self.remote.send(Command::Return {
            ticket: self.ticket,
            stream: Err(CloseCause::Program.because("its handler is done with it")),
        });
    }
}
