//! Races for one connection out of the addresses of a name (RFC 8305, Happy Eyeballs).
//!
//! The state of races: the order of addresses, and the remembered ones.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Instant;

use crate::device::lookups::Waiter;
use crate::engine::connections::Id;
use crate::engine::slab::Key;
use crate::engine::slab::Slab;

/// The most addresses that are tried at a time.
pub(super) const RUNNING_MAX: usize = 8;

/// The most endpoints whose last address is remembered: a device has a few gateways, a proxy and a
/// few local servers.
const REMEMBERED_MAX: usize = 32;

/// The addresses of one endpoint, of which one has to be reached.
pub(super) struct Race {
    /// The waiter for the connection.
    pub(super) waiter: Waiter,
    pub(super) host: String,
    /// Addresses that were not tried yet.
    pub(super) rest: VecDeque<SocketAddr>,
    pub(super) running: Vec<Id>,
    pub(super) failed: Option<io::Error>,
}

/// A connection that takes part in a race.
#[derive(Clone, Copy)]
pub(crate) struct Racer {
    pub(super) race: Key,
    /// `None` for a Unix socket.
    pub(super) address: Option<SocketAddr>,
    /// The deadline of the race.
    pub(super) until: Instant,
}

/// The races of one event loop.
pub(super) struct Races {
    pub(super) running: Slab<Race>,
    /// Newest last.
    pub(super) remembered: VecDeque<(String, SocketAddr)>,
}

impl Races {
    pub(super) fn new() -> Self {
        Races { running: Slab::new(), remembered: VecDeque::new() }
    }

    pub(super) fn remember(&mut self, host: String, address: SocketAddr) {
        self.remembered.retain(|(known, at)| *known != host || at.port() != address.port());
        self.remembered.push_back((host, address));
        if self.remembered.len() > REMEMBERED_MAX {
            self.remembered.pop_front();
        }
    }

    pub(super) fn remembered(&self, host: &str, port: u16) -> Option<SocketAddr> {
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

/// The order in which addresses are tried: each once, with alternating families; the one that was
/// used last time comes first, if it is among them.
pub(super) fn in_order(
    addresses: Vec<SocketAddr>,
    last: Option<SocketAddr>,
) -> VecDeque<SocketAddr> {
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
