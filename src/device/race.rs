//! One connection out of the addresses of a name (RFC 8305, Happy Eyeballs): for the gateway, the
//! proxy on the way to it, and the local server alike.
//!
//! ```text
//!   addresses ─► in order ─► the first ─ address_delay ─► the next beside it ─ address_delay ─► …      the first that stands is taken, the others are closed
//!                                └─ refused: the next at once
//! ```
//! The families take turns, beginning with the resolver's first. What was taken is remembered, and
//! is the first of the next race.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Instant;

use crate::device::forward::Unreached;
use crate::device::resolve::Waiter;
use crate::device::role::{DeviceRole, State};
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::{Key, Slab};
use crate::stream::Stream;

/// Addresses that are tried at a time.
const RUNNING_MAX: usize = 8;
/// Places whose last address is remembered: a device has a few gateways, a proxy and a local
/// server.
const REMEMBERED_MAX: usize = 32;

/// Addresses of one place, of which one is to be connected to.
struct Race {
    /// Whose connection it will be.
    waiter: Waiter,
    host: String,
    /// Not tried yet.
    rest: VecDeque<SocketAddr>,
    running: Vec<Id>,
    failed: Option<io::Error>,
}

/// A connection that takes part in a race.
#[derive(Clone, Copy)]
pub(crate) struct Racer {
    race: Key,
    /// `None`: a Unix socket.
    address: Option<SocketAddr>,
    /// Then it is too late.
    until: Instant,
}

/// The races of one event loop.
pub(super) struct Races {
    running: Slab<Race>,
    /// Newest last.
    remembered: VecDeque<(String, SocketAddr)>,
}

impl Races {
    pub(super) fn new() -> Self {
        Races { running: Slab::new(), remembered: VecDeque::new() }
    }

    fn remember(&mut self, host: String, address: SocketAddr) {
        self.remembered.retain(|(known, at)| *known != host || at.port() != address.port());
        self.remembered.push_back((host, address));
        if self.remembered.len() > REMEMBERED_MAX {
            self.remembered.pop_front();
        }
    }

    fn remembered(&self, host: &str, port: u16) -> Option<SocketAddr> {
        self.remembered
            .iter()
            .find(|(known, at)| known == host && at.port() == port)
            .map(|(_, address)| *address)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.running.len()
    }
}

/// The order in which addresses are tried: each once, the families in turn; before them the one
/// that was taken last time, if it is among them.
fn in_order(addresses: Vec<SocketAddr>, last: Option<SocketAddr>) -> VecDeque<SocketAddr> {
    let is_4 = |address: &SocketAddr| matches!(address.ip().to_canonical(), IpAddr::V4(_));
    let first_is_4 = addresses.first().is_some_and(is_4);
    let (mut first, mut second): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(|address| is_4(address) == first_is_4);
    let mut ordered = VecDeque::with_capacity(first.len() + second.len());
    while let Some(address) = first.pop_front().or_else(|| second.pop_front()) {
        if !ordered.contains(&address) {
            ordered.push_back(address);
        }
        if !second.is_empty() {
            std::mem::swap(&mut first, &mut second);
        }
    }
    if let Some(at) = last.and_then(|last| ordered.iter().position(|address| *address == last)) {
        let last = ordered.remove(at);
        last.into_iter().for_each(|last| ordered.push_front(last));
    }
    ordered
}

impl DeviceRole {
    /// Begins to connect to one of these addresses of `host`. The waiter gets the connection, or
    /// hears why there is none.
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
        let key = self.enter(waiter, "", VecDeque::new());
        match Stream::connect_unix(path).and_then(|stream| self.start(cx, key, stream, None)) {
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

    fn start(
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

    /// Tries the next address that can be tried at all; without one, and with none that is being
    /// tried, the race is over.
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
            self.race_lost(cx, key);
        }
    }

    fn race_lost(&mut self, cx: &mut Connections<State>, key: Key) {
        let Some(Race { waiter, failed, .. }) = self.races.running.remove(key) else { return };
        let no_address = || "it has no address".to_owned();
        match waiter {
            Waiter::Dial(dial) => {
                self.cannot_reach(cx, &dial, &failed.map_or_else(no_address, |e| e.to_string()))
            }
            Waiter::Local(key) => {
                let why = failed.map_or_else(|| Unreached::unknown(no_address()), Unreached::from);
                self.local_failed(cx, key, &why);
            }
        }
    }

    pub(super) fn racer_ready(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(peer) = cx.get(id) else { return };
        match peer.stream().connected() {
            Ok(false) => {}
            Ok(true) => self.race_won(cx, id),
            Err(e) => self.racer_failed(cx, id, e),
        }
    }

    /// It has not stood for `address_delay`, and the next is tried beside it; or it is too late.
    pub(super) fn racer_expired(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(State::Racing(racer)) = cx.get(id).map(|p| &p.state) else { return };
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
        let Some(State::Racing(racer)) = cx.get(id).map(|p| &p.state) else { return };
        let racer = *racer;
        let Some(Race { waiter, host, running, .. }) = self.races.running.remove(racer.race) else {
            return cx.close(id);
        };
        running.into_iter().filter(|other| *other != id).for_each(|other| cx.close(other));
        if let Some(address) = racer.address {
            self.races.remember(host, address);
        }
        cx.set_deadline(id, None); // who takes it sets another
        match waiter {
            Waiter::Dial(dial) => {
                self.has_connection(dial.slot, id);
                if let Some(peer) = cx.get_mut(id) {
                    peer.state = State::Dial(dial);
                }
                self.connected(cx, id);
            }
            Waiter::Local(key) => self.local_opened(cx, key, id),
        }
    }

    /// Nobody wants the connection any more.
    pub(super) fn call_off_race(&mut self, cx: &mut Connections<State>, key: Key) {
        let Some(race) = self.races.running.remove(key) else { return };
        race.running.into_iter().for_each(|id| cx.close(id));
    }

    /// Ends the races for new links; returns how many there were.
    pub(super) fn call_off_dials(&mut self, cx: &mut Connections<State>) -> usize {
        let keys = self.races.running.keys().into_iter();
        let is_links = |key: &Key| matches!(self.races.running.get(*key).map(|race| &race.waiter), Some(Waiter::Dial(dial)) if dial.slot.is_none());
        let links: Vec<Key> = keys.filter(is_links).collect();
        links.iter().for_each(|key| self.call_off_race(cx, *key));
        links.len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_and_the_last_one_taken_is_first() {
        let all = |text: &str| -> Vec<SocketAddr> {
            text.split_whitespace()
                .map(|host| {
                    if host.contains(':') { format!("[{host}]:1") } else { format!("{host}:1") }
                        .parse()
                        .unwrap()
                })
                .collect()
        };
        for (given, last, ordered) in [
            ("", None, ""),
            ("10.0.0.1", None, "10.0.0.1"),
            ("::1 127.0.0.1", None, "::1 127.0.0.1"),
            ("::1 ::2 ::3 10.0.0.1", None, "::1 10.0.0.1 ::2 ::3"),
            ("10.0.0.1 10.0.0.2 10.0.0.3 ::1 ::2", None, "10.0.0.1 ::1 10.0.0.2 ::2 10.0.0.3"),
            ("10.0.0.1 10.0.0.1 ::1", None, "10.0.0.1 ::1"),
            ("::1 10.0.0.1 10.0.0.2", Some("10.0.0.2"), "10.0.0.2 ::1 10.0.0.1"),
            ("::1 10.0.0.1", Some("10.0.0.9"), "::1 10.0.0.1"),
        ] {
            let last = last.map(|last| all(last)[0]);
            assert_eq!(Vec::from(in_order(all(given), last)), all(ordered), "{given}");
        }
    }

    #[test]
    fn what_is_remembered_has_a_bound_and_is_of_one_place() {
        let mut races = Races::new();
        let address = |n: u8, port: u16| SocketAddr::from(([10, 0, 0, n], port));
        for n in 0..100 {
            races.remember(format!("host{n}"), address(n, 1));
        }
        assert_eq!((races.remembered.len(), races.remembered("host0", 1)), (REMEMBERED_MAX, None));
        races.remember("host99".to_owned(), address(7, 1));
        races.remember("host99".to_owned(), address(8, 2));
        assert_eq!(
            (races.remembered("host99", 1), races.remembered("host99", 2)),
            (Some(address(7, 1)), Some(address(8, 2)))
        );
    }
}
