//! The deadlines of whole exchanges (`exchange_timeout`).

use std::collections::BTreeSet;
use std::time::Instant;

use crate::engine::slab::{Key, Slab};
use crate::relay::Exchange;

/// The deadlines of whole exchanges. It has about as many entries as there are exchanges: entries
/// of ended exchanges are removed when it grows, and an alarm is set only if no earlier one is. So
/// a busy connection with a long deadline does not leave an entry and an alarm for each of its
/// requests.
#[derive(Default)]
pub(super) struct ExchangeDeadlines {
    at: BTreeSet<(Instant, Key)>,
    alarms: BTreeSet<Instant>,
}

impl ExchangeDeadlines {
    pub(super) fn add(&mut self, key: Key, at: Instant, living: &Slab<Box<Exchange>>) {
        const SPARE: usize = 64;
        if self.at.len() > 2 * living.len() + SPARE {
            self.at.retain(|(_, key)| living.get(*key).is_some());
        }
        self.at.insert((at, key));
    }

    /// Removes one that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Key> {
        self.at.first().filter(|(at, _)| *at <= now)?;
        self.at.pop_first().map(|(_, key)| key)
    }

    /// The alarm to set, if no earlier one is set.
    pub(super) fn next_alarm(
        &mut self,
        now: Instant,
        living: &Slab<Box<Exchange>>,
    ) -> Option<Instant> {
        self.alarms.retain(|alarm| *alarm > now);
        while self.at.first().is_some_and(|(_, key)| living.get(*key).is_none()) {
            self.at.pop_first();
        }
        let (first, _) = *self.at.first()?;
        let covered = self.alarms.first().is_some_and(|alarm| *alarm <= first);
        (!covered && self.alarms.insert(first)).then_some(first)
    }

    #[cfg(test)]
    pub(super) fn living(&self, living: &Slab<Box<Exchange>>) -> usize {
        self.at.iter().filter(|(_, key)| living.get(*key).is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limits::Limits;

    fn exchange(now: Instant) -> Box<Exchange> {
        Box::new(Exchange::heartbeat(Vec::new(), Duration::ZERO, &Limits::default(), now))
    }

    #[test]
    fn a_hundred_thousand_short_exchanges_leave_few_ends_and_one_alarm() {
        let (mut ends, mut living, now) =
            (ExchangeDeadlines::default(), Slab::new(), Instant::now());
        let (mut most, mut alarms) = (0, 0);
        for n in 0..100_000 {
            let key = living.insert(exchange(now));
            ends.add(key, now + Duration::from_secs(60) + Duration::from_micros(n), &living);
            alarms += usize::from(ends.next_alarm(now, &living).is_some());
            living.remove(key);
            most = most.max(ends.at.len());
        }
        assert!(most <= 70 && alarms == 1, "{most} entries, {alarms} alarms");
    }

    #[test]
    fn every_exchange_is_found_when_its_time_is_up_whatever_the_order() {
        let (mut ends, mut living, now) =
            (ExchangeDeadlines::default(), Slab::new(), Instant::now());
        let at = |second| now + Duration::from_secs(second);
        let mut alarms = BTreeSet::new();
        for second in [10, 3, 7, 3, 20, 1] {
            let key = living.insert(exchange(now));
            ends.add(key, at(second), &living);
            alarms.extend(ends.next_alarm(now, &living));
        }
        let mut found = Vec::new();
        while let Some(alarm) = alarms.pop_first() {
            while let Some(key) = ends.pop_due(alarm) {
                living.remove(key);
                found.push(alarm);
            }
            alarms.extend(ends.next_alarm(alarm, &living));
        }
        assert_eq!(found, [1, 3, 3, 7, 10, 20].map(at));
        assert!(ends.alarms.is_empty() && ends.at.is_empty());
    }
}
