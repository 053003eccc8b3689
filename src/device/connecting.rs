//! Connects to one of the addresses of a name (RFC 8305, Happy Eyeballs), for gateways, proxies and
//! local servers alike.
//!
//! ```text
//!   addresses ─► in order ─► the first ─ address_delay ─► the next beside it ─ address_delay ─► …      the first that is established is taken, the others are closed
//!                                └─ refused: the next at once
//! ```
//! IPv4 and IPv6 addresses alternate, beginning with the resolver's first one. The address of the
//! established connection is remembered, and tried first in the next race.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use crate::device::address_race::{RUNNING_MAX, Race, Racer, in_order};
use crate::device::follow_ups::FollowUp;
use crate::device::lookups::Waiter;
use crate::device::role::DeviceRole;
use crate::device::state::{State, States};
use crate::engine::connections::{Connections, Id};
use crate::engine::pair_network::PairNetwork;
use crate::engine::slab::Key;
use crate::stream::Stream;

impl DeviceRole {
    /// Begins to connect to one of these addresses of `host`. The waiter gets the connection, or
    /// the reason why there is none.
    pub(super) fn race(
        &mut self,
        cx: &mut Connections<State>,
        waiter: Waiter,
        host: &str,
        addresses: Vec<SocketAddr>,
    ) {
        let last =
            addresses.first().and_then(|address| self.races.remembered(host, address.port()));
        let key = self.enter(waiter, host, in_order(addresses, last));
        self.try_next(cx, key);
    }

    /// The same to a Unix socket.
    pub(super) fn race_to(&mut self, cx: &mut Connections<State>, waiter: Waiter, path: &Path) {
        let connected = Stream::connect_unix(path);
        self.race_alone(cx, waiter, connected);
    }

    /// The same to a gateway within this process.
    pub(super) fn race_within(
        &mut self,
        cx: &mut Connections<State>,
        waiter: Waiter,
        network: &PairNetwork,
    ) {
        let connected = network.connect();
        self.race_alone(cx, waiter, connected);
    }

    fn race_alone(
        &mut self,
        cx: &mut Connections<State>,
        waiter: Waiter,
        connected: io::Result<Stream>,
    ) {
        let key = self.enter(waiter, "", VecDeque::new());
        match connected.and_then(|stream| self.start(cx, key, stream, None)) {
            Ok(()) => {}
            Err(e) => {
                if let Some(race) = self.races.running.get_mut(key) {
                    race.failed = Some(e);
                }
                self.try_next(cx, key);
            }
        }
    }

    fn enter(&mut self, waiter: Waiter, host: &str, rest: VecDeque<SocketAddr>) -> Key {
        let slot = if let Waiter::Dial(dial) = &waiter { dial.slot } else { None };
        let key = self.races.running.insert(Race {
            waiter,
            host: host.to_owned(),
            rest,
            running: Vec::new(),
            failed: None,
        });
        self.is_racing(slot, key);
        key
    }

    pub(super) fn start(
        &mut self,
        cx: &mut Connections<State>,
        key: Key,
        stream: Stream,
        address: Option<SocketAddr>,
    ) -> io::Result<()> {
        let until = cx.after(self.limits.connect_timeout);
        let id =
            cx.insert_connecting(stream, State::Racing(Racer { race: key, address, until }))?;
        let Some(race) = self.races.running.get_mut(key) else { return Ok(()) };
        race.running.push(id);
        let is_last = race.rest.is_empty() || race.running.len() >= RUNNING_MAX;
        let at = if is_last { until } else { cx.after(self.limits.address_delay).min(until) };
        cx.set_deadline(id, Some(at));
        Ok(())
    }

    /// Tries the next address. If there is none, and no attempt is in progress, the race ends.
    fn try_next(&mut self, cx: &mut Connections<State>, key: Key) {
        loop {
            let Some(race) = self.races.running.get_mut(key) else { return };
            if race.running.len() >= RUNNING_MAX {
                return;
            }
            let Some(address) = race.rest.pop_front() else { break };
            match Stream::connect_tcp(address)
                .and_then(|stream| self.start(cx, key, stream, Some(address)))
            {
                Ok(()) => return,
                Err(e) => {
                    if let Some(race) = self.races.running.get_mut(key) {
                        race.failed = Some(e);
                    }
                }
            }
        }
        if self.races.running.get(key).is_some_and(|race| race.running.is_empty()) {
            self.race_lost(key);
        }
    }

    fn race_lost(&mut self, key: Key) {
        let Some(Race { waiter, failed, .. }) = self.races.running.remove(key) else { return };
        self.follow_ups.push_back(FollowUp::Unreached { waiter, failed });
    }

    pub(super) fn racer_ready(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(conn) = cx.get(id) else { return };
        match conn.stream().connected() {
            Ok(false) => {}
            Ok(true) => self.race_won(cx, id),
            Err(e) => self.racer_failed(cx, id, e),
        }
    }

    /// An attempt has taken longer than `address_delay`: tries the next address beside it, or ends
    /// the race if it is too late.
    pub(super) fn racer_expired(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(racer) = cx.racer(id) else { return };
        let racer = *racer;
        if cx.now() >= racer.until {
            let late = io::Error::new(
                io::ErrorKind::TimedOut,
                "it did not accept the connection within connect_timeout",
            );
            return self.racer_failed(cx, id, late);
        }
        cx.set_deadline(id, Some(racer.until));
        self.try_next(cx, racer.race);
    }

    fn racer_failed(&mut self, cx: &mut Connections<State>, id: Id, failed: io::Error) {
        let Some((_, _, State::Racing(racer))) = cx.remove(id) else { return };
        let Some(race) = self.races.running.get_mut(racer.race) else { return };
        race.running.retain(|running| *running != id);
        race.failed = Some(failed);
        self.try_next(cx, racer.race);
    }

    fn race_won(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(racer) = cx.racer(id) else { return };
        let racer = *racer;
        let Some(Race { waiter, host, running, .. }) = self.races.running.remove(racer.race) else {
            return cx.close(id);
        };
        running.into_iter().filter(|other| *other != id).for_each(|other| cx.close(other));
        if let Some(address) = racer.address {
            self.races.remember(host, address);
        }
        cx.set_deadline(id, None); // its next owner sets another one
        self.follow_ups.push_back(FollowUp::Reached { waiter, id });
    }

    /// Ends a race whose connection is no longer needed.
    pub(super) fn call_off_race(&mut self, cx: &mut Connections<State>, key: Key) {
        let Some(race) = self.races.running.remove(key) else { return };
        race.running.into_iter().for_each(|id| cx.close(id));
    }

    /// Ends the race for an exchange whose caller has left.
    pub(super) fn call_off_races_for(&mut self, cx: &mut Connections<State>, exchange: Key) {
        for key in self.races.running.keys() {
            let waiter = self.races.running.get(key).map(|race| &race.waiter);
            if matches!(waiter, Some(Waiter::Local(own) | Waiter::Tcp { key: own, .. }) if *own == exchange)
            {
                self.call_off_race(cx, key);
            }
        }
    }

    /// Ends the races for new links. Returns how many there were.
    pub(super) fn call_off_dials(&mut self, cx: &mut Connections<State>) -> usize {
        let keys = self.races.running.keys().into_iter();
        let is_links = |key: &Key| matches!(self.races.running.get(*key).map(|race| &race.waiter), Some(Waiter::Dial(dial)) if dial.slot.is_none());
        let links: Vec<Key> = keys.filter(is_links).collect();
        links.iter().for_each(|key| self.call_off_race(cx, *key));
        links.len()
    }
}
