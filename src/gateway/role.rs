//! The gateway on its event loop. This file only dispatches: each event goes to the file that
//! handles it.

use std::net::SocketAddr;
#[cfg(test)]
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::Role;
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::{Key, Slab};
use crate::gateway::alarms::Alarm;
use crate::gateway::bounds::Bound;
use crate::gateway::follow_ups::FollowUp;
use crate::gateway::registry::Waiter;
use crate::gateway::state::{
    Asking, Command, Device, GatewayRole, Hold, Journey, STOPPED, State, States, TICK, Visitor,
};
use crate::gateway::stats::LinkCounts;
use crate::gateway::tokens::Whose;
use crate::relay::{self, Exchange, LocalAnswer, Relaying, Rules};
use crate::stream::{HandshakeError, Stream};

impl Role for GatewayRole {
    type State = State;
    type Command = Command;

    fn admits(&mut self, cx: &mut Connections<State>, listener: usize) -> Result<(), &'static str> {
        let room = self.has_room(cx, self.listeners.side(listener).unwrap_or(Whose::Devices));
        self.follow_up(cx);
        room
    }

    fn crowded(&mut self, cx: &mut Connections<State>, listener: usize) {
        let side = self.listeners.side(listener).unwrap_or(Whose::Devices);
        self.stats.reached(self.scarce(cx, side));
        self.ask_others_for_room(side);
    }

    fn spares(&mut self, cx: &mut Connections<State>) -> bool {
        let spared = self.spare_idle(cx);
        if !spared {
            self.stats.reached(Bound::Descriptors);
        }
        self.follow_up(cx);
        spared
    }

    fn accepted(
        &mut self,
        cx: &mut Connections<State>,
        listener: usize,
        stream: Stream,
        from: SocketAddr,
    ) {
        self.accept(cx, listener, stream, from);
        self.follow_up(cx);
    }

    fn secured(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        outcome: Result<(), HandshakeError>,
    ) {
        match cx.state(id) {
            Some(State::Peer(_)) => self.peer_secured(cx, id, outcome),
            _ => self.handshake_over(cx, id, outcome),
        }
        self.follow_up(cx);
    }

    fn ready(&mut self, cx: &mut Connections<State>, id: Id) {
        self.step(cx, id);
        self.follow_up(cx);
    }

    fn expired(&mut self, cx: &mut Connections<State>, id: Id) {
        self.handle_deadline(cx, id);
        self.follow_up(cx);
    }

    fn alarm(&mut self, cx: &mut Connections<State>, number: u64) {
        self.handle_alarm(cx, number);
        self.follow_up(cx);
    }

    fn command(&mut self, cx: &mut Connections<State>, command: Command) {
        self.handle_command(cx, command);
        self.follow_up(cx);
    }

    fn finished(&self, cx: &Connections<State>) -> bool {
        self.lifecycle.is_stopped()
            || (self.lifecycle.is_draining() && !cx.is_listening() && cx.is_group_idle())
    }

    fn ended(&mut self) {
        let why = CloseCause::Drained.because(STOPPED);
        for name in self.registry.connected_names() {
            self.tell_down(&name, &why);
        }
    }
}

impl GatewayRole {
    /// Runs the follow-ups of a step, and their follow-ups.
    fn follow_up(&mut self, cx: &mut Connections<State>) {
        while let Some(next) = self.follow_ups.pop_front() {
            match next {
                FollowUp::Step(id) => self.step(cx, id),
                FollowUp::FindLink { visitor, key } => {
                    let waiting = self.exchanges.get(key).filter(|exchange| exchange.is_waiting());
                    if waiting.and_then(|exchange| exchange.downstream()) == Some(visitor) {
                        self.find_link(cx, visitor, key);
                    }
                }
                FollowUp::ServeInLine(registration) => self.serve_by_idle(cx, &registration),
                FollowUp::LinkFree { link, reusable } => self.link_free(cx, link, reusable),
                FollowUp::PeerProbed { peer, lives } => self.peer_probed(cx, peer, lives),
                FollowUp::EventOver(event) => drop(self.answered(cx, &event)),
                FollowUp::EventNotTold { event, began } => self.event_not_told(cx, event, began),
            }
        }
    }

    /// A listener has accepted a connection, for this loop or for another one.
    fn accept(
        &mut self,
        cx: &mut Connections<State>,
        listener: usize,
        stream: Stream,
        from: SocketAddr,
    ) {
        let Some(dealt) = &mut self.dealt else {
            return self.arrive(cx, listener, stream, from);
        };
        let to = *dealt % self.loops.len();
        *dealt = to + 1;
        match to == self.number {
            true => self.arrive(cx, listener, stream, from),
            false => drop(self.loops.send(to, Command::Accepted { listener, stream, from })),
        }
    }

    /// A connection can be read or written.
    fn step(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(state) = cx.state(id) else { return };
        match state {
            State::Unnamed { .. } => self.proxy_header(cx, id),
            State::Securing { .. } => {}
            State::Visitor(Visitor::Head { .. }) => self.visitor_head(cx, id),
            State::Visitor(Visitor::Asking(Asking { key, .. })) => {
                let key = *key;
                match self.exchanges.get(key).is_some_and(|exchange| exchange.is_collecting()) {
                    true => self.collect(cx, id, key),
                    false => relay::advance(self, cx, key),
                }
            }
            State::Device(Device::Link(link)) => match link.exchange {
                Some(key) => relay::advance(self, cx, key),
                None => self.idle_ready(cx, id),
            },
            State::Device(Device::Head { .. }) => self.device_head(cx, id),
            State::Device(Device::Deciding(_) | Device::Held { .. }) => self.early_bytes(cx, id),
            State::Device(Device::PostedAnswer(_)) => self.post_ready(cx, id),
            State::Device(Device::PollReply(_)) => self.tell_ready(cx, id),
            State::Peer(_) => self.peer_ready(cx, id),
            State::Lingering(_) => self.step_lingering(cx, id),
        }
    }

    /// A connection's deadline has passed.
    fn handle_deadline(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(state) = cx.state(id) else { return };
        match state {
            State::Unnamed { from, .. } => {
                let from = *from;
                self.refuse_proxy_header(cx, id, from, "it was not whole within handshake_timeout");
            }
            State::Securing { from, .. } => {
                log::debug!("the TLS handshake with {from} did not end within handshake_timeout");
                cx.close(id);
            }
            State::Visitor(Visitor::Head { .. }) => self.visitor_head_expired(cx, id),
            State::Visitor(Visitor::Asking(Asking { key, event, .. })) => {
                let (key, event) = (*key, *event);
                match (self.exchanges.get(key), event) {
                    (Some(exchange), _) if exchange.is_collecting() => {
                        self.collect_expired(cx, id, key)
                    }
                    (Some(exchange), None) if exchange.is_waiting() => {
                        self.seek_expired(cx, id, key)
                    }
                    (Some(exchange), Some(event)) if exchange.is_waiting() => {
                        self.event_expired(cx, id, key, event)
                    }
                    _ => relay::expired(self, cx, key),
                }
            }
            State::Device(Device::Link(link)) => match link.exchange {
                Some(key) => relay::expired(self, cx, key),
                None => self.beat(cx, id),
            },
            State::Device(Device::Head { .. }) => self.device_head_expired(cx, id),
            State::Device(Device::Deciding(_)) if self.claiming.contains_key(&id) => {
                self.offer_claimed(cx, id, None); // the names are claimed later
            }
            State::Device(Device::Deciding(_)) => {
                self.deny_device(cx, id, 503, "the offer was not decided in time", Some(10))
            }
            State::Device(Device::Held { hold: Hold::Offer(_), .. }) => self.hold_expired(cx, id),
            State::Device(Device::Held { hold: Hold::Poll(_), .. }) => self.poll_expired(cx, id),
            State::Device(Device::PostedAnswer(_)) => self.post_expired(cx, id),
            State::Device(Device::PollReply(_)) => self.tell_expired(cx, id),
            State::Peer(_) => self.peer_expired(cx, id),
            State::Lingering(_) => cx.close(id),
        }
    }

    /// An alarm went off.
    fn handle_alarm(&mut self, cx: &mut Connections<State>, number: u64) {
        let Some(alarm) = self.alarms.take(number) else { return };
        match alarm {
            Alarm::Caller(caller) => self.caller_expired(cx, caller),
            Alarm::Evict { links, leases } => self.evict(cx, links, leases),
            Alarm::EvictVisitors(exchanges) => self.evict_visitors(cx, exchanges),
            Alarm::Expiry => self.end_expired(cx),
            Alarm::PollGap(name) => self.poll_gap(cx, name),
            Alarm::Redeliver => self.redeliver(cx),
            Alarm::Overdue => self.end_overdue(cx),
            Alarm::CheckPeer(peer) => self.check_peer(cx, peer),
            Alarm::EasePins(name) => self.ease_pins(cx, &name),
            Alarm::HeldBack(held) => self.look_at_held_back(cx, held),
            Alarm::Drain(time) => self.drain(cx, time),
            Alarm::DrainOn => self.drain_on(cx),
            Alarm::StopListening => self.stop_listening(cx),
            Alarm::Stop => self.stop(cx),
            Alarm::Tick => {
                self.registry.tick(cx.now());
                self.observer.tick(std::time::Instant::now());
                self.end_expired(cx);
                crate::logs::report_left_out();
                let at = cx.after(TICK);
                self.set_alarm(cx, at, Alarm::Tick);
            }
        }
    }

    /// Another thread sent a command.
    fn handle_command(&mut self, cx: &mut Connections<State>, command: Command) {
        match command {
            Command::Borrow(wanted) => self.borrow(cx, wanted),
            #[cfg(feature = "ureq")]
            Command::Open { name, reply } => self.open(cx, &name, &reply),
            Command::Return { lease, stream } => self.take_back(cx, lease, stream),
            Command::Wait { name, time, cancel, reply } => {
                self.await_name(cx, name, time, cancel, reply)
            }
            Command::Cancelled => self.end_cancelled(),
            Command::Links { name, reply } => {
                let (total, idle) = self.registry.links(&name);
                let links = LinkCounts::new(total, idle);
                let _ = reply.send((links, self.registry.transport(&name)));
            }
            Command::Devices { names, reply } => drop(reply.send(self.device_infos(cx, &names))),
            Command::Parsed { id, answer, held } => self.parsed(cx, id, *answer, held),
            Command::Encoded { poll, event, json } => self.encoded(cx, poll, event, json),
            Command::Decided { id, offer, verdict } => {
                self.decided(cx, id, *offer, verdict, Journey::default())
            }
            Command::Adopt { stream, unread, offer, grant, reply } => {
                let adopted = self.adopt(cx, stream, &unread, &offer, &grant);
                let _ = reply.send(adopted);
            }
            Command::Listen { listener, at, side, tls, reply } => {
                let _ = reply.send(self.listen(cx, listener, at, (side, tls.map(|tls| *tls))));
            }
            Command::Unlisten { at, reply } => {
                let _ = reply.send(self.unlisten(cx, at));
            }
            Command::SetLimits { limits, reply } => {
                self.set_limits(cx, *limits);
                let _ = reply.send(());
            }
            Command::SetTls { at, tls, reply } => {
                let _ = reply.send(self.set_tls(cx, at, tls));
            }
            Command::RefuseCertificates { listener, refused, reply } => {
                let _ = reply.send(self.refuse_certificates(cx, listener, refused));
            }
            Command::SetRoutes { at, table, reply } => {
                let _ = reply.send(self.listeners.set_routes(at, table));
            }
            Command::SetTokens { whose, tokens, reply } => {
                let _ = reply.send(self.set_tokens(cx, whose, tokens));
            }
            Command::Subscribe { subscriber, reply } => {
                let mut all = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
                all.add(subscriber);
                drop(all);
                let _ = reply.send(());
            }
            Command::Moved { parcel, errand } => self.moved_in(cx, *parcel, errand),
            Command::Accepted { listener, stream, from } => self.arrive(cx, listener, stream, from),
            Command::Announce { names } => self.callers.announce(&names),
            Command::GiveWay { side } => self.give_way(cx, side),
            Command::CloseUnseen { port, id } => self.close_unseen(cx, port, Some(id)),
            Command::Observe(question) => self.observe(cx, question),
            Command::Unpin { link } => self.unpin(cx, link),
            Command::Drain { notice, time } => self.give_notice(cx, notice, time),
            Command::Located { name, found } => self.located(cx, &name, found),
            Command::ForgetPeers => self.forget_peers(cx),
            Command::Claimed { id, number, claimed } => {
                self.claim_answered(cx, id, number, claimed)
            }
            Command::LostName { name, epoch, to } => self.lost_name(cx, &name, epoch, to),
            Command::Ping { reply } => drop(reply.send(())), // the caller may have given up
        }
    }
}

impl Relaying for GatewayRole {
    fn exchanges(&mut self) -> &mut Slab<Box<Exchange>> {
        &mut self.exchanges
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.clone()
    }

    fn free(&mut self, cx: &mut Connections<State>, link: Id, reusable: Result<(), CloseReason>) {
        match cx.state(link) {
            Some(State::Device(Device::PostedAnswer(_))) => self.post_free(cx, link, reusable),
            Some(State::Peer(_)) => self.peer_free(cx, link, reusable),
            _ => self.link_free(cx, link, reusable),
        }
    }

    fn retry(&mut self, cx: &mut Connections<State>, key: Key) {
        let Some(downstream) = self.exchanges.get(key).and_then(|e| e.downstream()) else { return };
        match self.exchanges.get_mut(key).and_then(|exchange| exchange.take_miss()) {
            Some(miss) => self.peer_missed(cx, downstream, key, miss),
            None => self.find_link(cx, downstream, key),
        }
    }

    fn next(&mut self, cx: &mut Connections<State>, downstream: Id, keep: bool) {
        self.visitor_next(cx, downstream, keep);
    }

    fn answer(&mut self, cx: &mut Connections<State>, downstream: Id, answer: &LocalAnswer<'_>) {
        self.forget_event(cx, downstream);
        self.answer_visitor(cx, downstream, answer);
    }

    fn downstream_gone(
        &mut self,
        cx: &mut Connections<State>,
        downstream: Id,
        _: &CloseReason,
        reset: bool,
    ) {
        self.forget_event(cx, downstream);
        if let Some(Asking { key, name, .. }) = cx.asking(downstream) {
            self.registry.cancel_wait(name, Waiter::Exchange(*key)); // it may have left while it waited
        }
        match reset {
            true => cx.reset(downstream),
            false => cx.close(downstream),
        }
    }

    fn memory_left(&self, cx: &Connections<State>) -> usize {
        self.settings.limits.memory_bytes_max.saturating_sub(self.memory(cx))
    }

    fn callers_wait(&self, cx: &Connections<State>, link: Id) -> bool {
        match cx.posted(link) {
            // The device polls on this connection again only after its answer.
            Some(posted) => self.registry.callers_wait(posted.registration()),
            None => cx
                .registration(link)
                .is_some_and(|registration| self.registry.callers_wait(&registration)),
        }
    }
}

/// For the simulation.
#[cfg(test)]
impl GatewayRole {
    /// The entries that are left in the tables when no connection exists.
    pub(super) fn leftovers(&self, drained: bool, is_last: bool) -> Vec<String> {
        let mut left = Vec::new();
        let mut none = |what: &str, n: usize| {
            if n > 0 {
                left.push(format!("{what}: {n}"));
            }
        };
        none("exchanges", self.exchanges.len());
        none("events handed out", self.events.in_hand());
        none("leases", self.leases.len());
        none("callers", self.callers.len());
        none("follow-ups", self.follow_ups.len());
        if is_last {
            none("bytes of the budget", self.budget.taken());
            none("bytes of heads", self.heads.taken());
            let observed = self.observer.table().map_or(0, |table| table.totals.in_progress);
            none("exchanges observed", observed as usize);
            none("polls counted", self.stats.polls.load(Relaxed));
        }
        if !drained {
            none("names connected", self.registry.connected()); // a drained mailbox still has its poll_gap
            // By now names are forgotten, and only the alarm for forgetting is set.
            none("names known", self.registry.known());
            none("alarms", self.alarms.len());
            none("deadlines of exchanges", self.deadlines.living(&self.exchanges));
        }
        left
    }
}
