//! Refused offers and polls: their number, and the last ones, in bounded memory.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use crate::engine::permits::household;
use crate::observe::texts::{REASON_BYTES_MAX, cut};

/// The most refusals that are remembered; those of one device, address and status count as one.
const LATEST_MAX: usize = 32;
/// The most for one address (IPv6: one /64), so that a stranger who tries names does not push out
/// others.
const LATEST_OF_ADDRESS_MAX: usize = 8;
/// The most names of one offer that are remembered.
const NAMES_MAX: usize = 4;
/// Longest name that is remembered, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// Offers that were refused with one status, of one name from one address.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    /// Empty if the request had no name, or could not be parsed.
    pub(crate) name: Box<str>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) status: u16,
    /// The reason of the last one.
    pub(crate) reason: Box<str>,
    pub(crate) count: u64,
    pub(crate) at: Instant,
}

/// The refusals so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusals {
    pub(crate) count: u64,
    /// The oldest first.
    pub(crate) latest: VecDeque<Refused>,
}

impl Refusals {
    /// Adds a refused offer under these names.
    pub(super) fn note<'n>(
        &mut self,
        names: impl Iterator<Item = &'n str>,
        address: Option<IpAddr>,
        (status, reason): (u16, &str),
        at: Instant,
    ) {
        self.count += 1;
        let mut names = names.take(NAMES_MAX).peekable();
        let none = names.peek().is_none().then_some("");
        for name in names.chain(none) {
            let (name, reason) = (cut(name, NAME_BYTES_MAX), cut(reason, REASON_BYTES_MAX));
            let is_same = |known: &Refused| {
                (&known.name, known.address, known.status) == (&name, address, status)
            };
            let known = self.latest.iter().position(is_same).and_then(|at| self.latest.remove(at));
            let count = known.map_or(0, |known| known.count) + 1;
            self.make_room(address);
            self.latest.push_back(Refused { name, address, status, reason, count, at });
        }
    }

    /// At the bound, the address with the most entries loses its oldest: a stranger with several
    /// addresses pushes out his own entries before those of an address with one.
    fn make_room(&mut self, address: Option<IpAddr>) {
        let of_whom = |known: &Refused| known.address.map(household);
        let mut counts: HashMap<Option<IpAddr>, usize> = HashMap::new();
        for known in &self.latest {
            *counts.entry(of_whom(known)).or_default() += 1;
        }
        let theirs = address.map(household);
        let count = |whose: &Option<IpAddr>| counts.get(whose).copied().unwrap_or(0);
        let goes = if count(&theirs) >= LATEST_OF_ADDRESS_MAX {
            self.latest.iter().position(|known| of_whom(known) == theirs)
        } else if self.latest.len() >= LATEST_MAX {
            let most = counts.values().copied().max();
            self.latest.iter().position(|known| Some(count(&of_whom(known))) == most)
        } else {
            None
        };
        goes.and_then(|at| self.latest.remove(at));
    }

    /// The last ones under this name, the newest first.
    pub(crate) fn of(&self, name: &str) -> impl Iterator<Item = &Refused> {
        self.latest.iter().rev().filter(move |known| *known.name == *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_refusals_are_remembered_and_one_address_does_not_push_out_the_others() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        let ip = |n: u8| Some(IpAddr::from([192, 0, 2, n]));
        for _ in 0..3 {
            refusals.note(["lamp"].into_iter(), ip(1), (401, "unknown"), now);
        }
        refusals.note(["lamp", "door"].into_iter(), ip(1), (409, "held"), now);
        refusals.note([].into_iter(), ip(1), (405, "GET"), now);
        let told = |of: &Refused| (of.status, of.count);
        assert_eq!(refusals.of("lamp").map(told).collect::<Vec<_>>(), [(409, 1), (401, 3)]);
        assert_eq!((refusals.of("door").count(), refusals.of("").count()), (1, 1));
        assert_eq!(refusals.count, 5);
        let long = "n".repeat(1000);
        for n in 0..1000 {
            refusals.note([&*format!("{n}{long}")].into_iter(), ip(2), (403, &long), now);
        }
        assert_eq!(refusals.latest.len(), 4 + LATEST_OF_ADDRESS_MAX);
        assert_eq!(refusals.of("lamp").count(), 2, "they are there still");
        assert!(refusals.latest.iter().all(|of| of.name.len() + of.reason.len() < 300));
        (0..=255).for_each(|n| refusals.note(["x"].into_iter(), ip(n), (403, "no"), now));
        assert_eq!((refusals.latest.len(), refusals.count), (LATEST_MAX, 1261));
    }

    #[test]
    fn several_addresses_of_one_who_tries_names_push_out_nobody_else() {
        let now = Instant::now();
        let v4 = |n: u16| Some(IpAddr::from([192, 0, 2, n as u8]));
        let v6 = |n: u16| Some(IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, n]));
        for (address, addresses) in [(v4 as fn(u16) -> _, 10), (v6, 1000)] {
            let mut refusals = Refusals::default();
            refusals.note(["lamp"].into_iter(), ip_of_lamp(), (401, "unknown"), now);
            for n in 0..10_000 {
                let name = format!("n{n}");
                let from = address(n % addresses);
                refusals.note([&*name].into_iter(), from, (401, "unknown"), now);
            }
            assert_eq!(refusals.of("lamp").count(), 1, "{addresses} addresses");
            assert!(refusals.latest.len() <= LATEST_MAX);
        }
    }

    fn ip_of_lamp() -> Option<IpAddr> {
        Some(IpAddr::from([198, 51, 100, 1]))
    }
}
