//! Offers and polls that were refused: how many, and the last ones, in bounded memory whoever sends
//! them.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use crate::observe::texts::{REASON_BYTES_MAX, cut};

/// Refusals that are remembered, those of one device, address and status as one.
const LATEST_MAX: usize = 32;
/// Of one address, so that a stranger who tries names does not push out the others.
const LATEST_OF_ADDRESS_MAX: usize = 8;
/// Names of one offer that are remembered.
const NAMES_MAX: usize = 4;
/// Longest name that is remembered, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// Offers that were refused with one status, of one name from one address.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    /// Empty: what came named none, or could not be read.
    pub(crate) name: Box<str>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) status: u16,
    /// Of the last one.
    pub(crate) reason: Box<str>,
    pub(crate) count: u64,
    pub(crate) at: Instant,
}

/// What was refused so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusals {
    pub(crate) count: u64,
    /// The oldest first.
    pub(crate) latest: VecDeque<Refused>,
}

impl Refusals {
    /// One offer more, under these names.
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

    fn make_room(&mut self, address: Option<IpAddr>) {
        let is_theirs = |known: &Refused| known.address == address;
        if self.latest.iter().filter(|known| is_theirs(known)).count() >= LATEST_OF_ADDRESS_MAX {
            let oldest = self.latest.iter().position(is_theirs);
            oldest.and_then(|at| self.latest.remove(at));
        }
        if self.latest.len() >= LATEST_MAX {
            self.latest.pop_front();
        }
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
}
