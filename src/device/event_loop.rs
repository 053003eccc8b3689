//! Dispatches the events, deadlines and commands of a device's event loop.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::close_reason::{CloseCause, CloseReason};
use crate::device::command::Command;
#[cfg(test)]
use crate::device::counters::Counters;
use crate::device::dial_stages::{DIAL, DOUBT, LOCALS, LOOKUP, PART, STOP, Stage};
use crate::device::follow_ups::FollowUp;
use crate::device::link::Link;
use crate::device::links::STOPS;
use crate::device::local_pool::Local;
use crate::device::lookups::{Found, Waiter};
use crate::device::role::DeviceRole;
use crate::device::state::{State, States, find_lingering, flush};
use crate::device::stopping::is_offered;
use crate::device::target::Unreached;
use crate::engine::Role;
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::{Key, Slab};
use crate::relay;
use crate::relay::{Exchange, LocalAnswer, Relaying, Rules};
use crate::stream::{HandshakeError, Stream};

impl DeviceRole {
    pub(super) fn drain(&mut self, cx: &mut Connections<State>, time: Duration) {
        self.draining = true;
        self.shared.stopping.store(true, Relaxed);
        self.shared.upgrades.stop(true);
        let at = cx.after(time);
        cx.alarm(at, STOP);
        self.drain_slots(cx);
        let parts = self.say_goodbye(cx, time);
        let dials = self.call_off_dials(cx);
        self.shared.dialing.fetch_sub(dials, Relaxed);
        for id in cx.ids() {
            match cx.state(id) {
                // The gateway may have accepted it, and sent a request.
                Some(State::Dial(_)) if parts && is_offered(cx, id) => {}
                Some(State::Dial(dial)) if dial.slot.is_none() => {
                    cx.close(id);
                    self.shared.dialing.fetch_sub(1, Relaxed);
                }
                Some(State::Link(Link { exchange: None, slot: None, .. })) if parts => {}
                Some(State::Link(Link { exchange: None, slot, .. })) if !self.works(*slot) => {
                    self.link_gone(cx, id, STOPS)
                }
                Some(State::Local(Local::Idle { .. })) => cx.close(id),
                Some(State::Lingering(_)) => {
                    relay::hurry_lingering(cx, id, &self.limits, find_lingering)
                }
                Some(State::Link(Link { exchange: Some(key), slot, .. })) => {
                    let (key, is_real) = (*key, slot.is_none());
                    if let Some(exchange) = self.exchanges.get_mut(key) {
                        exchange.hurry();
                    }
                    if is_real {
                        self.last_of_link(key);
                    }
                    cx.reschedule(id); // its deadline may be nearer now
                }
                _ => {}
            }
        }
        self.update_transport(cx, "", Some(&STOPS));
        self.top_up(cx); // an answer may wait for a dial that has just ended
    }

    pub(super) fn stop(&mut self, cx: &mut Connections<State>) {
        self.stopped = true;
        self.shared.stopped.store(true, Relaxed);
        for key in self.slots.keys() {
            self.say_last(cx, key);
            self.drop_slot(cx, key, "the device stops");
        }
        for stream in self.leases.values().filter_map(Weak::upgrade) {
            if let Err(e) = stream.shutdown(std::net::Shutdown::Both) {
                log_names!(Debug, "a leased link was already closed: {e}");
            }
        }
        for id in cx.ids() {
            cx.close(id);
        }
    }

    pub(super) fn dial_ready(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(conn) = cx.get_mut(id) else { return };
        let State::Dial(dial) = &conn.state else { return };
        match dial.stage {
            Stage::Tunnelling { .. } => self.read_tunnel(cx, id),
            Stage::Connecting | Stage::Securing => {}
            Stage::Offered { .. } => {
                if let Some(key) = dial.slot {
                    flush(cx, id); // then there may be room for more bytes of an answer
                    self.pump(cx, key);
                }
                self.read_verdict(cx, id);
            }
            Stage::Reading(_) => self.read_reply(cx, id),
            Stage::Pausing { .. } | Stage::Resting => {
                if !cx.is_quiet(id, false) {
                    self.spoke_unasked(cx, id);
                }
            }
        }
    }
}

impl Role for DeviceRole {
    type State = State;
    type Command = Command;

    fn accepted(&mut self, _: &mut Connections<State>, _: usize, _: Stream, from: SocketAddr) {
        log::error!("a device has no listener, yet {from} was accepted"); // cannot happen: it has none
    }

    fn secured(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        outcome: Result<(), HandshakeError>,
    ) {
        self.handle_secured(cx, id, outcome);
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

    fn alarm(&mut self, cx: &mut Connections<State>, key: u64) {
        self.handle_alarm(cx, key);
        self.follow_up(cx);
    }

    fn command(&mut self, cx: &mut Connections<State>, command: Command) {
        self.handle_command(cx, command);
        self.follow_up(cx);
    }

    fn finished(&self, cx: &Connections<State>) -> bool {
        self.stopped
            || (self.draining && cx.len() == 0 && self.slots.len() == 0 && self.leases.is_empty())
    }
}

impl DeviceRole {
    /// Runs the follow-ups of a step, and their follow-ups.
    fn follow_up(&mut self, cx: &mut Connections<State>) {
        while let Some(next) = self.follow_ups.pop_front() {
            match next {
                FollowUp::Step(id) => self.step(cx, id),
                FollowUp::CloseIdle => self.close_idle(cx),
                FollowUp::TopUp => self.top_up(cx),
                FollowUp::Resolve(dial) => self.resolve(cx, dial),
                FollowUp::EndDial { id, why } => self.end_dial(cx, id, &why, None),
                FollowUp::Found { waiter, host, found } => self.found(cx, waiter, &host, found),
                FollowUp::Reached { waiter, id } => self.reached_by(cx, waiter, id),
                FollowUp::Unreached { waiter, failed } => self.unreached(cx, waiter, failed),
            }
        }
    }

    /// The lookup for a waiter has ended.
    fn found(&mut self, cx: &mut Connections<State>, waiter: Waiter, host: &str, found: Found) {
        match waiter {
            Waiter::Dial(dial) => self.dial_found(cx, dial, host, found),
            Waiter::Local(key) => self.local_found(cx, key, host, found),
            Waiter::Tcp { key, target } => self.tcp_found(cx, (key, target), host, found),
        }
    }

    /// The connection for a waiter is established.
    fn reached_by(&mut self, cx: &mut Connections<State>, waiter: Waiter, id: Id) {
        match waiter {
            Waiter::Dial(dial) => {
                self.has_connection(dial.slot, id);
                if let Some(conn) = cx.get_mut(id) {
                    conn.state = State::Dial(dial);
                }
                self.connected(cx, id);
            }
            Waiter::Local(key) => self.local_reached(cx, key, id),
            Waiter::Tcp { key, .. } => self.tcp_opened(cx, key, id),
        }
    }

    /// No connection could be established for a waiter.
    fn unreached(
        &mut self,
        cx: &mut Connections<State>,
        waiter: Waiter,
        failed: Option<std::io::Error>,
    ) {
        let no_address = || "it has no address".to_owned();
        let why = |failed: Option<std::io::Error>| {
            failed.map_or_else(|| Unreached::unknown(no_address()), Unreached::from)
        };
        match waiter {
            Waiter::Dial(dial) => {
                self.cannot_reach(cx, &dial, &failed.map_or_else(no_address, |e| e.to_string()))
            }
            Waiter::Local(key) => self.local_failed(cx, key, &why(failed)),
            Waiter::Tcp { key, target } => self.tcp_failed(cx, (key, target), &why(failed)),
        }
    }

    /// A TLS handshake has ended.
    fn handle_secured(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        outcome: Result<(), HandshakeError>,
    ) {
        if let Some(State::Local(Local::Securing { key, .. })) = cx.state(id) {
            return self.local_secured(cx, (*key, id), outcome);
        }
        match outcome {
            Ok(()) => self.offer(cx, id),
            Err(broken) => {
                self.end_dial(cx, id, &format!("no TLS with the gateway: {}", broken.text), None)
            }
        }
    }

    /// A connection can be read or written.
    fn step(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(conn) = cx.get(id) else { return };
        match &conn.state {
            State::Racing(_) => self.racer_ready(cx, id),
            State::Dial(_) => self.dial_ready(cx, id),
            State::Link(Link { exchange: Some(key), .. }) => {
                let key = *key;
                if self.locals.has_line() {
                    self.serve_locals(cx);
                }
                relay::advance(self, cx, key);
            }
            State::Link(_) => self.link_ready(cx, id),
            State::Bridge(slot) => self.bridge_ready(cx, *slot, id),
            State::Local(_) => self.local_ready(cx, id),
            State::Lingering(_) => self.step_lingering(cx, id),
        }
    }

    /// A connection's deadline has passed.
    fn handle_deadline(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(conn) = cx.get(id) else { return };
        match &conn.state {
            State::Racing(_) => self.racer_expired(cx, id),
            State::Dial(dial) => match dial.stage {
                Stage::Connecting => self.end_dial(cx, id, "nothing was written to it", None), // cannot happen: its owner writes at once
                Stage::Tunnelling { .. } => self.tunnel_is_late(cx, id),
                Stage::Securing => self.end_dial(
                    cx,
                    id,
                    "the TLS handshake did not end within handshake_timeout",
                    None,
                ),
                Stage::Offered { .. } => self.reply_is_late(cx, id),
                Stage::Reading(_) => self.end_dial(
                    cx,
                    id,
                    "the gateway's reply stopped half-way for body_silence_timeout",
                    None,
                ),
                Stage::Pausing { keep } => self.paused(cx, id, keep),
                Stage::Resting => {}
            },
            State::Link(Link { exchange: Some(key), .. }) => {
                let key = *key;
                let in_line = self
                    .exchanges
                    .get(key)
                    .is_some_and(|exchange| exchange.is_waiting() && !exchange.has_lost_caller());
                match in_line {
                    true => self.local_queue_waited(cx, key), // the race for its connection has its own deadline
                    false => relay::expired(self, cx, key),
                }
            }
            State::Link(Link { began: true, .. }) => self.answer_link(
                cx,
                id,
                &LocalAnswer::new(408, "the request head was not whole within head_timeout"),
            ),
            State::Link(_) if conn.pending() > 0 => self.answer_expired(cx, id),
            State::Link(_) => self.link_gone(
                cx,
                id,
                CloseCause::Silent.because("nothing came for as long as silence allows"),
            ),
            State::Bridge(_) => {}
            // The caller has left, so the deadline of the exchange is on this connection.
            State::Local(Local::Busy { key, .. } | Local::Tunnel { key }) => {
                let key = *key;
                relay::expired(self, cx, key);
            }
            State::Local(Local::Securing { key, .. }) => {
                let key = *key;
                cx.close(id);
                self.local_failed(cx, key, &Unreached::handshake_is_late());
            }
            State::Local(_) => self.close_local(cx, id),
            State::Lingering(_) => cx.close(id),
        }
    }

    /// An alarm went off.
    fn handle_alarm(&mut self, cx: &mut Connections<State>, key: u64) {
        match key {
            DIAL => self.top_up(cx),
            LOOKUP => self.lookups_are_late(cx),
            DOUBT => {
                self.doubt.alarm = self.doubt.alarm.filter(|at| *at > cx.now());
                self.doubt_links(cx);
            }
            LOCALS => self.locals_are_late(cx),
            PART => self.part(cx),
            _ => self.stop(cx),
        }
    }

    /// Another thread sent a command.
    fn handle_command(&mut self, cx: &mut Connections<State>, command: Command) {
        match command {
            Command::TopUp => self.top_up(cx),
            Command::CallersWait(callers) => {
                self.note_callers(cx.now(), callers);
                self.top_up(cx);
            }
            Command::Retry => {
                self.not_before = None;
                self.trusts_upgrades_again();
                self.mode.end_swallowed();
                self.doubt.again = false;
                self.succeeded();
                self.plan.gateways.hurry();
                self.hurry_slots(cx.now());
                self.top_up(cx);
            }
            Command::SetTls(connector) => {
                self.plan.tls = Some(connector);
                self.trusts_upgrades_again();
            }
            Command::SetLocalTls(connector) => self.know_local(cx, &connector),
            Command::Resolved { number, found } => self.resolved(number, &found),
            Command::Back { number, back } => {
                let (stream, unread, link) = *back;
                self.back(cx, number, stream, &unread, link);
            }
            Command::Gone { number, link, why } => {
                if self.leases.remove(&number).is_some() {
                    self.count_out(cx, &link, why);
                }
            }
            Command::Ends { number, back, why } => {
                let (stream, unread, link) = *back;
                if self.leases.remove(&number).is_some() {
                    self.end_leased(cx, (stream, unread), link, why);
                }
            }
            Command::Goaway { number, link, dialled } => {
                if self.leases.remove(&number).is_some() {
                    self.replace(cx, link);
                }
                let _ = dialled.send(()); // the caller may have gone on
            }
            Command::Ping(reply) => drop(reply.send(())), // the caller may have given up
            Command::Drain(time) if !self.draining => self.drain(cx, time),
            Command::Drain(time) => {
                let at = cx.after(time); // the earlier deadline holds
                cx.alarm(at, STOP);
            }
        }
    }
}

impl Relaying for DeviceRole {
    fn exchanges(&mut self) -> &mut Slab<Box<Exchange>> {
        &mut self.exchanges
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.clone()
    }

    fn free(&mut self, cx: &mut Connections<State>, link: Id, reusable: Result<(), CloseReason>) {
        self.local_free(cx, link, reusable);
    }

    fn retry(&mut self, cx: &mut Connections<State>, key: Key) {
        self.find_local(cx, key);
    }

    fn next(&mut self, cx: &mut Connections<State>, downstream: Id, keep: bool) {
        self.request_over(cx, downstream, keep);
    }

    fn answer(&mut self, cx: &mut Connections<State>, downstream: Id, answer: &LocalAnswer<'_>) {
        self.answer_link(cx, downstream, answer);
    }

    fn downstream_gone(
        &mut self,
        cx: &mut Connections<State>,
        downstream: Id,
        why: &CloseReason,
        reset: bool,
    ) {
        if let Some(State::Link(Link { exchange: Some(key), .. })) = cx.state(downstream) {
            self.stop_connecting(cx, *key);
        }
        self.relayed(cx, downstream);
        let Some(link) = cx.link(downstream) else { return };
        let link = *link;
        match reset {
            true => cx.reset(downstream),
            false => cx.close(downstream),
        }
        let why = match why.cause {
            CloseCause::Tunnel => why.clone(),
            _ => CloseCause::Cut.because("an exchange on it failed half-way"),
        };
        self.count_out(cx, &link, why);
    }

    fn memory_left(&self, cx: &Connections<State>) -> usize {
        self.limits.memory_bytes_max.saturating_sub(cx.held())
    }

    fn callers_wait(&self, _: &Connections<State>, _: Id) -> bool {
        false // the pool of local connections has no queue
    }
}

/// For the simulation.
#[cfg(test)]
impl DeviceRole {
    /// Entries that should not be left at the end: `connections` of the loop, and entries of the
    /// tables.
    pub(super) fn leftovers(&self, connections: usize) -> Vec<String> {
        let Counters { links, dialing, busy, polls, .. } = &*self.shared;
        let counted =
            [("links", links), ("dials", dialing), ("busy links", busy), ("polls", polls)];
        let tables = [
            ("connections", connections),
            ("exchanges", self.exchanges.len()),
            ("slots", self.slots.len()),
            ("leases", self.leases.len()),
            ("races", self.races.len()),
        ];
        let counted = counted.iter().map(|(what, n)| (*what, n.load(Relaxed)));
        let left =
            counted.chain(tables).filter(|(_, n)| *n > 0).map(|(what, n)| format!("{what}: {n}"));
        left.chain(self.slots_told()).collect()
    }
}
