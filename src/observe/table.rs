//! All connected device names, and the last disconnected ones, in bounded memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::engine::departed::{Departed, Stamp};
use crate::limits::{Limits, OBSERVED_AWAY_MAX, OBSERVED_PART, RECORDS_PART};
use crate::observe::exchanged::Exchanged;
use crate::observe::records::{Records, Taken};
use crate::observe::refusals::Refusals;
use crate::observe::row::{Change, Done, OfferSeen, Row, Totals};
use crate::proto::turn::Transport;

/// Bounds of an observer: names, and bytes of memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) names: usize,
    pub(crate) bytes: usize,
    /// The bound for records that wait to be read.
    pub(crate) records: usize,
}

impl Bounds {
    /// The bounds for a gateway with these limits.
    pub(crate) fn of(limits: &Limits) -> Self {
        Bounds {
            names: limits.devices_max.saturating_add(limits.remembered_max),
            bytes: limits.memory_bytes_max / OBSERVED_PART,
            records: limits.memory_bytes_max / RECORDS_PART,
        }
    }
}

/// The most names that are forgotten in one step.
pub(super) const FORGOTTEN_AT_ONCE: usize = 64;

/// The most finished exchanges whose memory is kept for the next ones: 20 KiB.
pub(super) const SPARE_MAX: usize = 64;
const MINUTE: Duration = Duration::from_secs(60);

/// All connected names, and those that were disconnected last.
pub(crate) struct Table {
    pub(super) names: HashMap<Arc<str>, usize>,
    pub(super) rows: Vec<Option<Box<Row>>>,
    free: Vec<usize>,
    /// Names that are not connected.
    departed: Departed,
    names_max: usize,
    /// Bytes of all rows, and of the rows of disconnected names.
    bytes: Arc<AtomicUsize>,
    pub(super) bytes_away: usize,
    bytes_max: usize,
    generations: u64,
    /// The number of the current minute, and its end.
    minute: (u32, Instant),
    #[allow(clippy::vec_box, reason = "their boxes are used again, too")]
    pub(super) spare: Vec<Box<Exchanged>>,
    pub(crate) totals: Totals,
    pub(crate) refusals: Refusals,
    pub(crate) start: Instant,
    pub(super) records: Records,
}

impl Table {
    pub(super) fn new(
        bounds: Bounds,
        (bytes, records): (Arc<AtomicUsize>, Taken),
        now: Instant,
    ) -> Self {
        Table {
            names: HashMap::new(),
            rows: Vec::new(),
            free: Vec::new(),
            departed: Departed::default(),
            names_max: bounds.names.max(1),
            bytes,
            bytes_away: 0,
            bytes_max: bounds.bytes,
            generations: 0,
            minute: (0, now + MINUTE),
            spare: Vec::new(),
            totals: Totals::default(),
            refusals: Refusals::default(),
            start: now,
            records: Records::new(records, bounds.records),
        }
    }

    pub(super) fn set_bounds(&mut self, bounds: Bounds) {
        self.names_max = bounds.names.max(1);
        self.bytes_max = bounds.bytes;
        self.records.bytes_max = bounds.records;
    }

    #[cfg(test)]
    pub(crate) fn get(&self, name: &str) -> Option<&Row> {
        self.rows.get(*self.names.get(name)?)?.as_deref()
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut Row> {
        self.rows.get_mut(*self.names.get(name)?)?.as_deref_mut()
    }

    /// A row with current percentiles.
    pub(crate) fn aged(&mut self, name: &str, now: Instant) -> Option<&Row> {
        let at = *self.names.get(name)?;
        self.update(at, |row, _| row.times.age(now));
        self.rows.get(at)?.as_deref()
    }

    /// Up to `most` such rows from this position, and the position for the next piece.
    pub(crate) fn rows(
        &mut self,
        from: usize,
        most: usize,
        now: Instant,
    ) -> (impl Iterator<Item = &Row>, Option<usize>) {
        let from = from.min(self.rows.len());
        let end = from.saturating_add(most).min(self.rows.len());
        for at in from..end {
            self.update(at, |row, _| row.times.age(now));
        }
        let next = (end < self.rows.len()).then_some(end);
        (self.rows[from..end].iter().filter_map(Option::as_deref), next)
    }

    /// Changes a row, and counts its memory; `change` gets whether memory is tight.
    fn update<T>(&mut self, at: usize, change: impl FnOnce(&mut Row, bool) -> T) -> Option<T> {
        let bytes = self.bytes.load(Relaxed);
        let is_tight = bytes >= self.bytes_max;
        let row = self.rows.get_mut(at)?.as_deref_mut()?;
        let changed = change(row, is_tight);
        let (before, after) = (row.counted, row.bytes());
        row.counted = after;
        self.bytes.store(bytes - before + after, Relaxed);
        if row.departed.is_some() {
            self.bytes_away = self.bytes_away - before + after;
        }
        Some(changed)
    }

    /// The number of the current minute.
    pub(crate) fn minute(&mut self, now: Instant) -> u32 {
        if now >= self.minute.1 {
            let over = now.saturating_duration_since(self.minute.1);
            self.minute.0 += 1 + (over.as_secs() / MINUTE.as_secs()) as u32;
            self.minute.1 = self.start + MINUTE * (self.minute.0 + 1);
        }
        self.minute.0
    }

    /// An exchange with the device of this name begins.
    pub(super) fn begin(&mut self, name: &str, now: Instant) -> Box<Exchanged> {
        self.totals.in_progress += 1;
        let mut exchange = match self.spare.pop() {
            Some(mut spare) => {
                spare.reset(now);
                spare
            }
            None => Box::new(Exchanged::at(now)),
        };
        exchange.device = self.names.get(name).and_then(|at| {
            let row = self.rows.get_mut(*at)?.as_deref_mut()?;
            row.in_progress += 1;
            Some((*at, row.generation))
        });
        exchange
    }

    /// An exchange has ended.
    pub(super) fn finish(&mut self, mut exchange: Box<Exchanged>, now: Instant) {
        let times = exchange.times(now);
        if let Some(detail) = exchange.detail.take() {
            self.records.tell(exchange.complete(detail.into_record(), times));
        }
        self.count(&mut exchange, times, now);
        if self.spare.len() < SPARE_MAX {
            self.spare.push(exchange);
        }
    }

    fn count(
        &mut self,
        exchange: &mut Exchanged,
        (took, waited, first_byte): (Duration, Duration, Option<Duration>),
        now: Instant,
    ) {
        let minute = self.minute(now);
        let totals = &mut self.totals;
        totals.in_progress = totals.in_progress.saturating_sub(1);
        totals.counts.add(exchange);
        totals.took.add(took);
        totals.waited.add(waited);
        first_byte.into_iter().for_each(|time| totals.first_byte.add(time));
        let Some((at, generation)) = exchange.device else { return };
        self.update(at, |row, is_tight| {
            if row.generation != generation {
                return;
            }
            row.in_progress = row.in_progress.saturating_sub(1);
            row.counts.add(exchange);
            // For a program's own exchange, only its end is known.
            if exchange.first_byte.is_some() || exchange.failure.is_none() {
                row.last_seen = now;
                row.times.add(took, now);
            }
            row.tick(minute, took, exchange.is_error(), is_tight);
            let done = Done {
                at: now,
                method: std::mem::take(&mut exchange.method),
                path: std::mem::take(&mut exchange.path),
                from: exchange.from,
                status: exchange.status,
                took,
                waited,
                failure: exchange.failure,
            };
            // The path of the replaced request is the memory for that of another one.
            exchange.path = row.remember(done, is_tight).map(|old| old.path).unwrap_or_default();
        });
    }

    pub(super) fn seen(&mut self, name: &str) {
        if let Some(row) = self.get_mut(name) {
            row.last_seen = Instant::now();
        }
    }

    pub(super) fn offered(&mut self, name: &str, offer: OfferSeen, credential: &Option<Arc<str>>) {
        let Some(at) = self.names.get(name).copied() else { return };
        self.update(at, |row, _| {
            row.texts = row.texts - row.offer.text_bytes() + offer.text_bytes();
            (row.offer, row.last_seen) = (offer, Instant::now());
            if row.credential != *credential {
                row.credential.clone_from(credential);
            }
        });
    }

    pub(super) fn changed(&mut self, name: &str, change: Change, transport: Option<Transport>) {
        let now = change.at;
        let at = match self.names.get(name) {
            Some(at) => *at,
            None if transport.is_some() => self.insert(name, now),
            None => return,
        };
        self.update(at, |row, is_tight| row.note(change, is_tight));
        let Some(row) = self.rows.get_mut(at).and_then(Option::as_deref_mut) else { return };
        match (row.transport.is_some(), transport.is_some()) {
            (false, true) => {
                if let Some(stamp) = row.departed.take() {
                    self.departed.remove(stamp);
                    self.bytes_away -= row.counted;
                }
                (row.since, row.last_seen) = (now, now);
                row.ups += 1;
            }
            (true, false) => {
                row.since = now;
                let stamp = self.departed.insert(row.name.clone(), &row.credential, now);
                row.departed = Some(stamp);
                self.bytes_away += row.counted;
            }
            _ => {}
        }
        row.transport = transport;
        self.forget(now);
    }

    fn insert(&mut self, name: &str, now: Instant) -> usize {
        if self.names.len() >= self.names_max {
            self.departed.first_of_most().into_iter().for_each(|stamp| self.remove(stamp));
        }
        self.generations += 1;
        let mut row = Box::new(Row::new(name, self.generations, now));
        let key = row.name.clone();
        row.counted = row.bytes();
        self.bytes.fetch_add(row.counted, Relaxed);
        let at = match self.free.pop() {
            Some(at) => {
                self.rows[at] = Some(row);
                at
            }
            None => {
                self.rows.push(Some(row));
                self.rows.len() - 1
            }
        };
        self.names.insert(key, at);
        at
    }

    /// Forgets names that have been disconnected for too long, or for which there is no room.
    /// Connected ones are bounded by the registry.
    pub(super) fn forget(&mut self, now: Instant) {
        for _ in 0..FORGOTTEN_AT_ONCE {
            let has_no_room = self.bytes_away > self.bytes_max / 2;
            let is_old =
                |stamp: &Stamp| now.saturating_duration_since(stamp.at()) >= OBSERVED_AWAY_MAX;
            let stamp = match has_no_room {
                true => self.departed.first_of_most(),
                false => self.departed.first().filter(is_old),
            };
            let Some(stamp) = stamp else { return };
            self.remove(stamp);
        }
    }

    fn remove(&mut self, stamp: Stamp) {
        let Some(name) = self.departed.remove(stamp) else { return };
        let Some(at) = self.names.remove(&name) else { return };
        if let Some(row) = self.rows.get_mut(at).and_then(Option::take) {
            self.bytes.fetch_sub(row.counted, Relaxed);
            self.bytes_away -= row.counted;
            self.free.push(at);
        }
    }
}
