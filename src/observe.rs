//! What a gateway knows of its devices and their exchanges, for whoever operates it: counters,
//! histograms, the last requests, the last ups and downs.
//!
//! Only the event loop's thread writes and reads here, so the lock is never waited for; other
//! threads ask the loop. An exchange carries its own [`Observed`], which reports when it is dropped,
//! so that no end is forgotten. Off unless a gateway was started with it: then every call is one
//! test of an `Option`.
//!
//! Memory of one device is bounded: 1.8 KiB of histogram, 60 minutes of 24 bytes, [`RECENT_MAX`]
//! requests of at most 220 bytes, [`CHANGES_MAX`] changes of at most 230 bytes and 600 bytes of its
//! offer: less than 16 KiB, about 1 KiB for a device that nobody asks. All of it is counted, and has
//! a bound ([`OBSERVED_PART`](crate::limits::OBSERVED_PART)).

#![cfg_attr(not(feature = "admin"), allow(dead_code, reason = "nobody turns it on"))]

pub(crate) mod histogram;
pub(crate) mod records;

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::mem::size_of;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Sender;

use crate::close_reason::CloseCause;
use crate::engine::departed::{Departed, Stamp};
use crate::limits::{Limits, OBSERVED_AWAY_MAX, OBSERVED_PART, RECORDS_PART};
use crate::observe::histogram::{Fixed, Recent};
use crate::observe::records::{Detail, ExchangeRecord, Records, Seen, Taken};
use crate::proto::head::RequestHead;
use crate::proto::turn::Transport;
use crate::subscription::Charged;
use crate::text::misleads;

/// Requests of one device that are remembered.
pub(crate) const RECENT_MAX: usize = 32;
/// Ups, downs and ends of links of one device that are remembered.
pub(crate) const CHANGES_MAX: usize = 16;
/// Minutes of one device's history.
pub(crate) const MINUTES_MAX: usize = 60;
/// Longest path that is remembered, in bytes; the query never is, since it may hold secrets.
const PATH_BYTES_MAX: usize = 96;
/// Longest reason of a change that is remembered, in bytes.
const REASON_BYTES_MAX: usize = 160;
/// Longest text out of an offer that is remembered, in bytes.
pub(crate) const OFFER_TEXT_MAX: usize = 128;

/// The handle of a gateway's loop; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Observer(Option<Shared>);

#[derive(Clone)]
struct Shared {
    table: Arc<Mutex<Table>>,
    /// Apart from the table, so that it is read wherever memory is looked at.
    bytes: Arc<AtomicUsize>,
    records: Taken,
}

/// Bounds of an observer: names, and bytes of memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) names: usize,
    pub(crate) bytes: usize,
    /// Those of records that wait to be read.
    pub(crate) records: usize,
}

impl Bounds {
    /// Those of a gateway with these limits.
    pub(crate) fn of(limits: &Limits) -> Self {
        Bounds {
            names: limits.devices_max.saturating_add(limits.remembered_max),
            bytes: limits.memory_bytes_max / OBSERVED_PART,
            records: limits.memory_bytes_max / RECORDS_PART,
        }
    }
}

impl Observer {
    /// An observer with these bounds.
    pub(crate) fn on(bounds: Bounds) -> Self {
        let (bytes, records) = (Arc::<AtomicUsize>::default(), Taken::default());
        let table = Table::new(bounds, (bytes.clone(), records.clone()), Instant::now());
        Observer(Some(Shared { table: Arc::new(Mutex::new(table)), bytes, records }))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The table, where there is one.
    pub(crate) fn table(&self) -> Option<MutexGuard<'_, Table>> {
        self.0.as_ref().map(|shared| shared.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Other bounds; what is beyond them goes when something changes.
    pub(crate) fn set_bounds(&self, limits: &Limits) {
        if let Some(mut table) = self.table() {
            table.set_bounds(Bounds::of(limits));
        }
    }

    /// Bytes of memory that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |shared| shared.bytes.load(Relaxed) + shared.records.bytes())
    }

    /// Called now and then, so that names that are away are forgotten in time.
    pub(crate) fn tick(&self, now: Instant) {
        if let Some(mut table) = self.table() {
            table.forget(now);
        }
    }

    /// A request for this device has begun.
    pub(crate) fn request(&self, name: &str, head: &RequestHead<'_>, visit: &Visit) -> Observed {
        let path = head.target.split(['?', '#']).next().unwrap_or_default();
        let seen = Seen::from(head);
        let detail = self.table().and_then(|table| table.records.begin(name, &seen, visit));
        self.begin(name, (head.method, path), visit.from, detail)
    }

    /// A program has taken a link of this device for an exchange.
    pub(crate) fn lease(&self, name: &str) -> Observed {
        self.begin(name, ("", "(program)"), None, None)
    }

    fn begin(
        &self,
        name: &str,
        (name_of_method, path): (&str, &str),
        from: Option<IpAddr>,
        detail: Option<Box<Detail>>,
    ) -> Observed {
        let Some(Shared { table, .. }) = &self.0 else { return Observed::default() };
        let device = self.table().and_then(|mut table| table.begin(name));
        Observed(Some(Box::new(Exchanged {
            table: table.clone(),
            device,
            method: method(name_of_method),
            path: cut(path, PATH_BYTES_MAX),
            from,
            began: Instant::now(),
            attached: None,
            first_byte: None,
            status: 0,
            to_device: 0,
            from_device: 0,
            failure: None,
            detail,
        })))
    }

    /// A request that no device gets was answered. `failure`: why it was refused, where it was.
    pub(crate) fn answered(
        &self,
        seen: &Seen<'_>,
        visit: &Visit,
        status: u16,
        failure: Option<&'static str>,
    ) {
        let Some(mut table) = self.table() else { return };
        table.totals.counts.count(status, failure);
        if let Some(detail) = table.records.begin("", seen, visit) {
            table.records.tell(ExchangeRecord { status, failure, ..detail.into_record() });
        }
    }

    /// Whether somebody reads records.
    pub(crate) fn records(&self) -> bool {
        self.table().is_some_and(|table| table.records.are_read())
    }

    /// Sends a record of each request there.
    pub(crate) fn record(&self, to: Sender<Charged<ExchangeRecord>>, readers: Weak<()>) {
        if let Some(mut table) = self.table() {
            table.records.send_to(to, readers);
        }
    }

    /// What is counted of records.
    pub(crate) fn taken_by_records(&self) -> Taken {
        self.0.as_ref().map(|shared| shared.records.clone()).unwrap_or_default()
    }

    /// A device of this name gave a sign of life.
    pub(crate) fn seen(&self, name: &str) {
        if let Some(mut table) = self.table() {
            table.seen(name);
        }
    }

    /// Something happened to a name. `kind`: in the words of the events.
    pub(crate) fn changed(
        &self,
        name: &str,
        kind: &'static str,
        reason: &str,
        transport: Option<Transport>,
        cause: Option<CloseCause>,
    ) {
        if let Some(mut table) = self.table() {
            let change =
                Change { at: Instant::now(), kind, reason: cut(reason, REASON_BYTES_MAX), cause };
            table.changed(name, change, transport);
        }
    }

    /// What the latest offer under a name said, and whose it was.
    pub(crate) fn offered(&self, name: &str, offer: OfferSeen, credential: &Option<Arc<str>>) {
        if let Some(mut table) = self.table() {
            table.offered(name, offer, credential);
        }
    }
}

/// So many bytes of a text, or a few less.
fn beginning(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The beginning of a text, with nothing that [misleads].
pub(crate) fn cut(text: &str, most: usize) -> Box<str> {
    let text = beginning(text, most);
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.into(); // nearly always, and much faster
    }
    text.chars().map(|c| if misleads(c) { '?' } else { c }).collect()
}

/// A method; those in use need no memory of their own.
fn method(text: &str) -> Cow<'static, str> {
    const USUAL: [&str; 8] = ["GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS", ""];
    match USUAL.iter().find(|usual| **usual == text) {
        Some(usual) => Cow::Borrowed(usual),
        None => Cow::Owned(cut(text, 16).into()),
    }
}

/// What the latest offer of a device said of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct OfferSeen {
    pub(crate) agent: Box<str>,
    pub(crate) protocol: Box<str>,
    pub(crate) address: Option<IpAddr>,
    /// It came over TLS.
    pub(crate) secure: bool,
    /// The label of its token, or its line in the file.
    pub(crate) token: Option<Box<str>>,
    pub(crate) certificate: Option<Box<str>>,
    pub(crate) certificate_expires: Option<SystemTime>,
}

impl OfferSeen {
    fn text_bytes(&self) -> usize {
        let more = [&self.token, &self.certificate];
        let more = more.into_iter().flatten().map(|text| text.len());
        self.agent.len() + self.protocol.len() + more.sum::<usize>()
    }
}

/// Who asks, and how the request is called in logs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Visit {
    pub(crate) from: Option<IpAddr>,
    pub(crate) request_id: Option<String>,
    /// What operators call its token, where there is an access log.
    pub(crate) token: Option<Box<str>>,
}

/// Method, path and age of a request in progress.
pub(crate) type Asked = (Cow<'static, str>, Box<str>, Duration);

/// An exchange that is watched, or not.
#[derive(Default)]
pub(crate) struct Observed(Option<Box<Exchanged>>);

struct Exchanged {
    table: Arc<Mutex<Table>>,
    /// Its device's row and that row's generation; `None`: no such device was ever here.
    device: Option<(usize, u64)>,
    method: Cow<'static, str>,
    path: Box<str>,
    from: Option<IpAddr>,
    began: Instant,
    attached: Option<Instant>,
    first_byte: Option<Instant>,
    status: u16,
    to_device: u64,
    from_device: u64,
    failure: Option<&'static str>,
    detail: Option<Box<Detail>>,
}

impl Observed {
    /// Whether its end will be counted.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A link or a poll has taken the request.
    pub(crate) fn attached(&mut self, link: Option<u64>) {
        let Some(exchange) = &mut self.0 else { return };
        if let Some(detail) = &mut exchange.detail {
            detail.record.retried |= exchange.attached.is_some() && detail.record.link != link;
            detail.record.link = link;
        }
        exchange.attached.get_or_insert_with(Instant::now);
    }

    /// The head of the device's response is here.
    pub(crate) fn answered(&mut self, status: u16) {
        if let Some(exchange) = &mut self.0 {
            exchange.status = status;
            exchange.first_byte.get_or_insert_with(Instant::now);
        }
    }

    /// So many bytes of a body or a tunnel went to the device.
    pub(crate) fn sent(&mut self, bytes: usize) {
        if let Some(exchange) = &mut self.0 {
            exchange.to_device += bytes as u64;
        }
    }

    /// So many bytes of a body or a tunnel came from the device.
    pub(crate) fn received(&mut self, bytes: usize) {
        if let Some(exchange) = &mut self.0 {
            exchange.from_device += bytes as u64;
        }
    }

    /// It has failed: why, and what its visitor is answered instead (0: nothing any more). The first
    /// reason counts.
    pub(crate) fn failed(&mut self, reason: &'static str, status: u16) {
        if let Some(exchange) = &mut self.0 {
            exchange.failure.get_or_insert(reason);
            if status != 0 {
                exchange.status = status;
            }
        }
    }

    /// What it is, while it is in progress: method, path, age.
    pub(crate) fn in_progress(&self, now: Instant) -> Option<Asked> {
        let exchange = self.0.as_ref()?;
        let age = now.saturating_duration_since(exchange.began);
        Some((exchange.method.clone(), exchange.path.clone(), age))
    }
}

impl Drop for Exchanged {
    fn drop(&mut self) {
        let table = self.table.clone();
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        table.finish(self, Instant::now());
    }
}

/// A request that is over.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) at: Instant,
    pub(crate) method: Cow<'static, str>,
    pub(crate) path: Box<str>,
    pub(crate) from: Option<IpAddr>,
    /// 0: none was sent.
    pub(crate) status: u16,
    pub(crate) took: Duration,
    pub(crate) waited: Duration,
    pub(crate) failure: Option<&'static str>,
}

impl Done {
    fn text_bytes(&self) -> usize {
        self.path.len() + if let Cow::Owned(method) = &self.method { method.capacity() } else { 0 }
    }
}

/// Something that happened to a name.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) at: Instant,
    pub(crate) kind: &'static str,
    pub(crate) reason: Box<str>,
    pub(crate) cause: Option<CloseCause>,
}

/// One minute of a device.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Minute {
    /// Minutes since the table's start.
    pub(crate) number: u32,
    pub(crate) requests: u32,
    pub(crate) errors: u32,
    pub(crate) longest_ms: u32,
    pub(crate) total_ms: u64,
}

/// Numbers of one device, or of all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    /// Requests that were answered with 500 or more, or failed and were not answered with 4xx.
    pub(crate) errors: u64,
    /// Responses by their first digit, 1 to 5.
    pub(crate) statuses: [u64; 5],
    /// Failed requests by reason. The reasons are constants of this program, so there are few.
    pub(crate) failures: Vec<(&'static str, u64)>,
    pub(crate) bytes_to_devices: u64,
    pub(crate) bytes_from_devices: u64,
}

impl Counts {
    fn add(&mut self, exchange: &Exchanged) {
        self.bytes_to_devices += exchange.to_device;
        self.bytes_from_devices += exchange.from_device;
        self.count(exchange.status, exchange.failure);
    }

    /// One request more, which was answered with this status (0: with none).
    fn count(&mut self, status: u16, failure: Option<&'static str>) {
        self.requests += 1;
        self.errors += u64::from(is_error(status, failure));
        if let Some(class) = self.statuses.get_mut(usize::from(status / 100).wrapping_sub(1)) {
            *class += 1;
        }
        let Some(reason) = failure else { return };
        match self.failures.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => self.failures.push((reason, 1)),
        }
    }
}

/// A visitor's mistake that was answered is no error.
fn is_error(status: u16, failure: Option<&'static str>) -> bool {
    status >= 500 || (failure.is_some() && !(400..500).contains(&status))
}

impl Exchanged {
    fn complete(&self, record: ExchangeRecord, took: Duration, waited: Duration) -> ExchangeRecord {
        let attached = self.attached.unwrap_or(self.began);
        ExchangeRecord {
            at: SystemTime::now(),
            status: self.status,
            to_device: self.to_device,
            from_device: self.from_device,
            waited,
            first_byte: self.first_byte.map(|first| first.saturating_duration_since(attached)),
            took,
            failure: self.failure,
            ..record
        }
    }

    fn is_error(&self) -> bool {
        is_error(self.status, self.failure)
    }
}

/// What is known of all exchanges.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) counts: Counts,
    pub(crate) in_progress: u64,
    pub(crate) took: Fixed,
    pub(crate) waited: Fixed,
    pub(crate) first_byte: Fixed,
}

/// What is known of one device name.
pub(crate) struct Row {
    pub(crate) name: Arc<str>,
    generation: u64,
    /// Whose it is; `None`: nobody said.
    credential: Option<Arc<str>>,
    /// Its place among the names that are away.
    departed: Option<Stamp>,
    /// Bytes of the texts in `offer`, `changes` and `recent`.
    texts: usize,
    pub(crate) counts: Counts,
    pub(crate) in_progress: u64,
    pub(crate) times: Recent,
    pub(crate) transport: Option<Transport>,
    /// When it was connected, or was not any more.
    pub(crate) since: Instant,
    pub(crate) last_seen: Instant,
    /// How often it was connected.
    pub(crate) ups: u64,
    pub(crate) offer: OfferSeen,
    pub(crate) changes: VecDeque<Change>,
    pub(crate) recent: VecDeque<Done>,
    pub(crate) minutes: VecDeque<Minute>,
}

impl Row {
    fn new(name: &str, generation: u64, now: Instant) -> Self {
        Row {
            name: name.into(),
            generation,
            credential: None,
            departed: None,
            texts: 0,
            counts: Counts::default(),
            in_progress: 0,
            times: Recent::new(now),
            transport: None,
            since: now,
            last_seen: now,
            ups: 0,
            offer: OfferSeen::default(),
            changes: VecDeque::new(),
            recent: VecDeque::new(),
            minutes: VecDeque::new(),
        }
    }

    /// Bytes of memory that it takes.
    fn bytes(&self) -> usize {
        size_of::<Row>()
            + ENTRY_BYTES
            + self.name.len()
            + self.texts
            + self.times.bytes()
            + self.changes.capacity() * size_of::<Change>()
            + self.recent.capacity() * size_of::<Done>()
            + self.minutes.capacity() * size_of::<Minute>()
            + self.counts.failures.capacity() * size_of::<(&str, u64)>()
    }

    fn remember(&mut self, done: Done, is_tight: bool) {
        self.texts += done.text_bytes();
        if let Some(old) = push(&mut self.recent, done, RECENT_MAX, is_tight) {
            self.texts -= old.text_bytes();
        }
    }

    fn note(&mut self, change: Change, is_tight: bool) {
        self.texts += change.reason.len();
        if let Some(old) = push(&mut self.changes, change, CHANGES_MAX, is_tight) {
            self.texts -= old.reason.len();
        }
    }

    fn tick(&mut self, number: u32, took: Duration, is_error: bool, is_tight: bool) {
        if self.minutes.back().is_none_or(|minute| minute.number != number) {
            let minute = Minute { number, ..Minute::default() };
            push(&mut self.minutes, minute, MINUTES_MAX, is_tight);
        }
        let Some(minute) = self.minutes.back_mut() else { return };
        let millis = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
        minute.requests = minute.requests.saturating_add(1);
        minute.errors = minute.errors.saturating_add(u32::from(is_error));
        minute.longest_ms = minute.longest_ms.max(millis);
        minute.total_ms += u64::from(millis);
    }
}

/// Adds the newest. Beyond `most`, and wherever memory is tight, the oldest goes.
fn push<T>(list: &mut VecDeque<T>, newest: T, most: usize, is_tight: bool) -> Option<T> {
    let is_full = list.len() >= most || is_tight;
    let oldest = if is_full { list.pop_front() } else { None };
    list.push_back(newest);
    oldest
}

/// What a row takes in the tables beside itself, in bytes: the names, the places, those away.
const ENTRY_BYTES: usize = 160;

/// Names that are forgotten in one step.
const FORGOTTEN_AT_ONCE: usize = 64;

/// All names that are connected, and of the others those that were connected last.
pub(crate) struct Table {
    names: HashMap<Arc<str>, usize>,
    rows: Vec<Option<Box<Row>>>,
    free: Vec<usize>,
    /// Names that are not connected.
    departed: Departed,
    names_max: usize,
    /// Bytes of all rows, and of those of names that are away.
    bytes: Arc<AtomicUsize>,
    bytes_away: usize,
    bytes_max: usize,
    generations: u64,
    pub(crate) totals: Totals,
    pub(crate) start: Instant,
    records: Records,
}

impl Table {
    fn new(bounds: Bounds, (bytes, records): (Arc<AtomicUsize>, Taken), now: Instant) -> Self {
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
            totals: Totals::default(),
            start: now,
            records: Records::new(records, bounds.records),
        }
    }

    fn set_bounds(&mut self, bounds: Bounds) {
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

    /// A row whose percentiles are those of now.
    pub(crate) fn aged(&mut self, name: &str, now: Instant) -> Option<&Row> {
        let at = *self.names.get(name)?;
        self.update(at, |row, _| row.times.age(now));
        self.rows.get(at)?.as_deref()
    }

    /// Up to `most` such rows from this place on, and where to go on.
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

    /// Changes a row, and counts what it takes; whether memory is tight is told.
    fn update<T>(&mut self, at: usize, change: impl FnOnce(&mut Row, bool) -> T) -> Option<T> {
        let bytes = self.bytes.load(Relaxed);
        let is_tight = bytes >= self.bytes_max;
        let row = self.rows.get_mut(at)?.as_deref_mut()?;
        let before = row.bytes();
        let changed = change(row, is_tight);
        let after = row.bytes();
        self.bytes.store(bytes - before + after, Relaxed);
        if row.departed.is_some() {
            self.bytes_away = self.bytes_away - before + after;
        }
        Some(changed)
    }

    /// The number of the minute that lasts now.
    pub(crate) fn minute(&self, now: Instant) -> u32 {
        (now.saturating_duration_since(self.start).as_secs() / 60) as u32
    }

    fn begin(&mut self, name: &str) -> Option<(usize, u64)> {
        self.totals.in_progress += 1;
        let at = *self.names.get(name)?;
        let row = self.rows.get_mut(at)?.as_deref_mut()?;
        row.in_progress += 1;
        Some((at, row.generation))
    }

    fn finish(&mut self, exchange: &mut Exchanged, now: Instant) {
        let took = now.saturating_duration_since(exchange.began);
        let waited = exchange.attached.unwrap_or(now).saturating_duration_since(exchange.began);
        let minute = self.minute(now);
        if let Some(detail) = exchange.detail.take() {
            self.records.tell(exchange.complete(detail.into_record(), took, waited));
        }
        let totals = &mut self.totals;
        totals.in_progress = totals.in_progress.saturating_sub(1);
        totals.counts.add(exchange);
        totals.took.add(took);
        totals.waited.add(waited);
        if let Some(first) = exchange.first_byte {
            totals
                .first_byte
                .add(first.saturating_duration_since(exchange.attached.unwrap_or(exchange.began)));
        }
        let Some((at, generation)) = exchange.device else { return };
        self.update(at, |row, is_tight| {
            if row.generation != generation {
                return;
            }
            row.in_progress = row.in_progress.saturating_sub(1);
            row.counts.add(exchange);
            // Of a program's own exchange no more is known than that it was brought to its end.
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
            row.remember(done, is_tight);
        });
    }

    fn seen(&mut self, name: &str) {
        if let Some(row) = self.get_mut(name) {
            row.last_seen = Instant::now();
        }
    }

    fn offered(&mut self, name: &str, offer: OfferSeen, credential: &Option<Arc<str>>) {
        let Some(at) = self.names.get(name).copied() else { return };
        self.update(at, |row, _| {
            row.texts = row.texts - row.offer.text_bytes() + offer.text_bytes();
            (row.offer, row.last_seen) = (offer, Instant::now());
            if row.credential != *credential {
                row.credential.clone_from(credential);
            }
        });
    }

    fn changed(&mut self, name: &str, change: Change, transport: Option<Transport>) {
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
                    self.bytes_away -= row.bytes();
                }
                (row.since, row.last_seen) = (now, now);
                row.ups += 1;
            }
            (true, false) => {
                row.since = now;
                let stamp = self.departed.insert(row.name.clone(), &row.credential, now);
                row.departed = Some(stamp);
                self.bytes_away += row.bytes();
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
        let row = Box::new(Row::new(name, self.generations, now));
        let key = row.name.clone();
        self.bytes.fetch_add(row.bytes(), Relaxed);
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

    /// Forgets names that have been away for too long, or for which there is no room. Connected ones
    /// are bounded by the registry.
    fn forget(&mut self, now: Instant) {
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
            self.bytes.fetch_sub(row.bytes(), Relaxed);
            self.bytes_away -= row.bytes();
            self.free.push(at);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::proto::head;

    fn up(observer: &Observer, name: &str) {
        observer.changed(name, "up", "PTTH/1.0", Some(Transport::Turn), None);
    }

    fn down(observer: &Observer, name: &str) {
        observer.changed(name, "down", "closed", None, Some(CloseCause::Closed));
    }

    fn offered(observer: &Observer, name: &str, credential: &str) {
        let offer = OfferSeen { agent: "ptth/0.1.0".into(), ..OfferSeen::default() };
        observer.offered(name, offer, &Some(credential.into()));
    }

    fn asked(observer: &Observer, name: &str, target: &str) -> Observed {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = head::request(text.as_bytes(), &Limits::default(), head::LineEnds::Crlf);
        observer.request(name, &head.unwrap().unwrap(), &Visit::default())
    }

    #[test]
    fn an_exchange_is_counted_where_it_ends_however_it_ends() {
        let observer = Observer::on(Bounds { names: 10, bytes: 1 << 20, records: 1 << 20 });
        up(&observer, "lamp");
        let mut fine = asked(&observer, "lamp", "/status?token=secret");
        fine.attached(Some(1));
        fine.answered(200);
        fine.received(7);
        assert_eq!(observer.table().unwrap().get("lamp").unwrap().in_progress, 1);
        drop(fine);
        let mut late = asked(&observer, "lamp", "/on");
        late.sent(3);
        late.failed("late", 504);
        late.failed("stopped", 0);
        drop(late);
        drop(asked(&observer, "nobody", "/"));
        let table = observer.table().unwrap();
        let row = table.get("lamp").unwrap();
        assert_eq!((row.counts.requests, row.counts.errors, row.in_progress), (2, 1, 0));
        assert_eq!((row.counts.statuses[1], row.counts.statuses[4]), (1, 1));
        assert_eq!((row.counts.bytes_from_devices, row.counts.bytes_to_devices), (7, 3));
        assert_eq!(row.counts.failures, [("late", 1)]);
        assert_eq!(&*row.recent[0].path, "/status");
        assert_eq!((table.totals.counts.requests, table.totals.in_progress), (3, 0));
        assert!(table.get("nobody").is_none());
    }

    #[test]
    fn of_names_that_are_away_the_longest_away_is_forgotten_first() {
        let observer = Observer::on(Bounds { names: 3, bytes: 1 << 20, records: 1 << 20 });
        for name in ["a", "b", "c"] {
            up(&observer, name);
        }
        down(&observer, "b");
        down(&observer, "a");
        let orphan = asked(&observer, "b", "/");
        up(&observer, "d");
        assert!(observer.table().unwrap().get("b").is_none());
        drop(orphan); // its row is another's now
        assert_eq!(observer.table().unwrap().get("d").unwrap().counts.requests, 0);
        up(&observer, "a");
        up(&observer, "e"); // nobody is away: the registry bounds those who are connected
        let mut table = observer.table().unwrap();
        assert_eq!(table.rows(0, 100, Instant::now()).0.count(), 4);
        assert_eq!(table.get("a").unwrap().ups, 2);
    }

    #[test]
    fn what_is_remembered_of_a_device_is_bounded() {
        let observer = Observer::on(Bounds { names: 3, bytes: 1 << 20, records: 1 << 20 });
        up(&observer, "lamp");
        let path = format!("/{}", "x".repeat(1000));
        for _ in 0..100 {
            drop(asked(&observer, "lamp", &path));
            observer.changed("lamp", "ended", &"y".repeat(1000), Some(Transport::Turn), None);
        }
        let table = observer.table().unwrap();
        let row = table.get("lamp").unwrap();
        assert_eq!((row.recent.len(), row.changes.len()), (RECENT_MAX, CHANGES_MAX));
        assert!(row.recent.iter().all(|done| done.path.len() <= PATH_BYTES_MAX));
        assert!(row.changes.iter().all(|change| change.reason.len() <= REASON_BYTES_MAX));
        assert!(row.minutes.len() <= 2);
        assert!(row.bytes() < 14 * 1024, "{}", row.bytes());
        assert!(size_of::<Row>() < 768 && size_of::<Done>() <= 128, "{}", size_of::<Row>());
    }

    #[test]
    fn what_is_remembered_is_counted_and_gone_when_it_is_forgotten() {
        let observer = Observer::on(Bounds { names: 3, bytes: 1 << 20, records: 1 << 20 });
        assert_eq!(observer.bytes(), 0);
        up(&observer, "lamp");
        offered(&observer, "lamp", "mine");
        let idle = observer.bytes();
        assert!((300..1_536).contains(&idle), "{idle}");
        (0..40).for_each(|_| drop(asked(&observer, "lamp", "/a/path")));
        down(&observer, "lamp");
        let busy = observer.bytes();
        assert!(busy > idle + 2_048, "{busy}");
        let began = Instant::now();
        observer.tick(began + OBSERVED_AWAY_MAX - Duration::from_secs(60));
        assert_eq!(observer.bytes(), busy);
        observer.tick(began + OBSERVED_AWAY_MAX + Duration::from_secs(60));
        assert!(observer.table().unwrap().get("lamp").is_none());
        assert_eq!((observer.bytes(), observer.table().unwrap().bytes_away), (0, 0));
    }

    #[test]
    fn of_names_that_are_away_the_credential_with_most_loses_its_oldest() {
        let observer = Observer::on(Bounds { names: 4, bytes: 1 << 20, records: 1 << 20 });
        let comes_and_goes = |name: &str, credential: &str| {
            up(&observer, name);
            offered(&observer, name, credential);
            down(&observer, name);
        };
        comes_and_goes("lamp", "mine");
        (0..100).for_each(|n| comes_and_goes(&format!("n{n}"), "other"));
        let has = |name: &str| observer.table().unwrap().get(name).is_some();
        assert!(has("lamp") && has("n99") && !has("n0"));
        assert_eq!(observer.table().unwrap().names.len(), 4);
    }

    #[test]
    fn memory_has_a_bound_and_histories_stay_as_they_are_behind_it() {
        let bytes_max = 32 * 1024;
        let observer = Observer::on(Bounds { names: 1_000, bytes: bytes_max, records: 1 << 20 });
        for n in 0..100 {
            let name = format!("n{n}");
            up(&observer, &name);
            down(&observer, &name);
        }
        assert!(observer.bytes() <= bytes_max / 2 + 1_024, "{}", observer.bytes());
        assert!(observer.table().unwrap().get("n99").is_some(), "the latest are there");
        for n in 0..8 {
            up(&observer, &format!("busy{n}"));
        }
        let path = format!("/{}", "x".repeat(90));
        for n in 0..800 {
            drop(asked(&observer, &format!("busy{}", n % 8), &path));
        }
        let bytes = observer.bytes();
        assert!(bytes < bytes_max + 4 * 1_024, "{bytes}");
        let table = observer.table().unwrap();
        let row = table.get("busy7").unwrap();
        assert!(row.counts.requests == 100 && !row.recent.is_empty(), "the latest are there");
        let rows = table.rows.iter().flatten();
        assert_eq!(rows.map(|row| row.bytes()).sum::<usize>(), observer.bytes(), "none is lost");
    }

    #[test]
    fn an_observer_that_is_off_remembers_nothing() {
        let observer = Observer::default();
        up(&observer, "lamp");
        let observed = asked(&observer, "lamp", "/");
        assert!(observed.in_progress(Instant::now()).is_none() && observer.table().is_none());
    }
}
