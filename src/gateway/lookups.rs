//! The queue of lookups in the directory of gateways, for all loops. Any visitor can invent names,
//! so each address has its own queue, the queues take turns, and when there is no more room, the
//! longest queue loses its last entry. Pure data, no clock.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::engine::permits::household;

/// The key of lookups for programs, which have no address.
const PROGRAMS: Option<IpAddr> = None;

#[derive(Debug)]
struct Lines<T> {
    of: HashMap<Option<IpAddr>, VecDeque<T>>,
    /// The addresses that have a queue, in the order of their turns.
    turns: VecDeque<Option<IpAddr>>,
    len: usize,
    /// Threads that ask the directory, or are about to.
    askers: usize,
}

/// The pending lookups, up to a bound.
#[derive(Debug)]
pub(super) struct Lookups<T> {
    lines: Mutex<Lines<T>>,
    most: usize,
    askers_max: usize,
}

/// The result of adding a lookup.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pushed<T> {
    /// It waits. `asker` means that a further thread may ask.
    Waits { asker: bool },
    /// It waits, and replaces this one.
    InPlaceOf(T),
    /// There is no room, and its queue is as long as any.
    Refused(T),
}

impl<T> Lookups<T> {
    pub(super) fn new(most: usize, askers_max: usize) -> Self {
        let lines = Lines { of: HashMap::new(), turns: VecDeque::new(), len: 0, askers: 0 };
        Lookups { lines: Mutex::new(lines), most, askers_max }
    }

    /// The most lookups that may wait.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    fn lock(&self) -> MutexGuard<'_, Lines<T>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a lookup. `from` is the visitor's address.
    pub(super) fn push(&self, from: Option<IpAddr>, wanted: T) -> Pushed<T> {
        let from = from.map_or(PROGRAMS, |from| Some(household(from)));
        let mut lines = self.lock();
        let evicted = match lines.len < self.most {
            true => None,
            false => match lines.evict_for(from) {
                Some(evicted) => Some(evicted),
                None => return Pushed::Refused(wanted),
            },
        };
        lines.add(from, wanted);
        match evicted {
            Some(evicted) => Pushed::InPlaceOf(evicted),
            None => {
                let asker = lines.askers < self.askers_max;
                lines.askers += usize::from(asker);
                Pushed::Waits { asker }
            }
        }
    }

    /// Takes at most this many lookups, in turn. If there are none, the calling thread no longer
    /// counts as asking.
    pub(super) fn take(&self, most: usize) -> Vec<T> {
        let mut lines = self.lock();
        let taken: Vec<T> = std::iter::from_fn(|| lines.next()).take(most).collect();
        lines.askers -= usize::from(taken.is_empty());
        taken
    }

    /// A thread could not be started. Returns the lookups that no thread will make.
    pub(super) fn lacks_asker(&self) -> Vec<T> {
        let mut lines = self.lock();
        lines.askers -= 1;
        match lines.askers {
            0 => std::iter::from_fn(|| lines.next()).collect(),
            _ => Vec::new(),
        }
    }
}

impl<T> Lines<T> {
    fn add(&mut self, from: Option<IpAddr>, wanted: T) {
        let line = self.of.entry(from).or_default();
        if line.is_empty() {
            self.turns.push_back(from);
        }
        line.push_back(wanted);
        self.len += 1;
    }

    fn next(&mut self) -> Option<T> {
        let from = self.turns.pop_front()?;
        let line = self.of.get_mut(&from)?;
        let next = line.pop_front();
        match line.is_empty() {
            true => drop(self.of.remove(&from)),
            false => self.turns.push_back(from),
        }
        self.len -= usize::from(next.is_some());
        next
    }

    /// Removes the last entry of the longest queue, if that is longer than this address's would be.
    fn evict_for(&mut self, from: Option<IpAddr>) -> Option<T> {
        let own = self.of.get(&from).map_or(0, VecDeque::len);
        let (_, longest) = self.of.iter_mut().max_by_key(|(_, line)| line.len())?;
        if longest.len() <= own + 1 {
            return None;
        }
        self.len -= 1;
        longest.pop_back()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn ip(n: u8) -> Option<IpAddr> {
        Some(IpAddr::from([192, 0, 2, n]))
    }

    #[test]
    fn addresses_have_turns_and_the_longest_line_loses_its_last() {
        let lookups = Lookups::new(8, 2);
        let askers: Vec<_> = (0..8).map(|n| lookups.push(ip(1), (1, n))).collect();
        assert_eq!(askers[..3], [true, true, false].map(|asker| Pushed::Waits { asker }));
        assert_eq!(lookups.push(ip(1), (1, 8)), Pushed::Refused((1, 8)));
        assert_eq!(lookups.push(ip(2), (2, 0)), Pushed::InPlaceOf((1, 7)));
        assert_eq!(lookups.push(PROGRAMS, (0, 0)), Pushed::InPlaceOf((1, 6)));
        assert_eq!(lookups.push(ip(2), (2, 1)), Pushed::InPlaceOf((1, 5)));
        assert_eq!(lookups.take(5), [(1, 0), (2, 0), (0, 0), (1, 1), (2, 1)]);
        assert_eq!(lookups.take(5), [(1, 2), (1, 3), (1, 4)]);
        assert!(lookups.take(5).is_empty() && lookups.take(5).is_empty());
        assert_eq!(lookups.lock().askers, 0);
        assert!(lookups.lock().of.is_empty() && lookups.lock().len == 0);
    }

    #[test]
    fn one_subscribers_addresses_are_one() {
        let lookups = Lookups::new(4, 1);
        let of = |n: u16| Some(IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, n]));
        assert!((0..4).all(|n| matches!(lookups.push(of(n), n), Pushed::Waits { .. })));
        assert_eq!(lookups.push(of(4), 4), Pushed::Refused(4));
        assert_eq!(lookups.push(ip(1), 5), Pushed::InPlaceOf(3));
    }

    #[test]
    fn what_nobody_would_ask_for_comes_back() {
        let lookups = Lookups::new(4, 2);
        assert_eq!(lookups.push(ip(1), 1), Pushed::Waits { asker: true });
        assert_eq!(lookups.push(ip(1), 2), Pushed::Waits { asker: true });
        assert!(lookups.lacks_asker().is_empty(), "the other one asks");
        assert_eq!(lookups.lacks_asker(), [1, 2]);
        assert_eq!(lookups.push(ip(1), 3), Pushed::Waits { asker: true });
    }
}
