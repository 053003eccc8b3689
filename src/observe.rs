//! What a gateway knows of its devices and their exchanges, for whoever operates it: counters,
//! histograms, the last requests, the last ups and downs.
//!
//! Only the event loop's thread writes and reads here, so the lock is never waited for; other
//! threads ask the loop. An exchange carries its own [`Observed`], which reports when it is dropped,
//! so that no end is forgotten. Off unless a gateway was started with it: then every call is one
//! test of an `Option`.
//!
//! Memory of one device is bounded: 848 bytes of histogram, 60 minutes of 24 bytes,
//! [`RECENT_MAX`] requests of at most 200 bytes, [`CHANGES_MAX`] changes of at most 230 bytes and
//! 600 bytes of its offer: less than 14 KiB, about 2 KiB for a device that nobody asks.

#![cfg_attr(not(feature = "admin"), allow(dead_code, reason = "nobody turns it on"))]

pub(crate) mod histogram;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Sender, TrySendError};

use crate::close_reason::CloseCause;
use crate::observe::histogram::{Fixed, Recent};
use crate::proto::head::RequestHead;
use crate::proto::turn::Transport;

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
pub(crate) struct Observer(Option<Arc<Mutex<Table>>>);

impl Observer {
    /// An observer that remembers so many names.
    pub(crate) fn on(names_max: usize) -> Self {
        Observer(Some(Arc::new(Mutex::new(Table::new(names_max, Instant::now())))))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The table, where there is one.
    pub(crate) fn table(&self) -> Option<MutexGuard<'_, Table>> {
        self.0.as_ref().map(|table| table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A request for this device has begun.
    pub(crate) fn request(&self, name: &str, head: &RequestHead<'_>, visit: &Visit) -> Observed {
        let path = head.target.split(['?', '#']).next().unwrap_or_default();
        let detail = self.records().then(|| Detail::of(name, head, visit));
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
        let Some(table) = &self.0 else { return Observed::default() };
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

    /// A request that no device gets was answered.
    pub(crate) fn refused(&self, head: &RequestHead<'_>, visit: &Visit, status: u16) {
        let Some(mut table) = self.table() else { return };
        let mut record = Detail::of("", head, visit).record;
        record.status = status;
        table.tell(record);
    }

    /// Whether somebody reads records.
    pub(crate) fn records(&self) -> bool {
        self.table().is_some_and(|table| table.records.is_some())
    }

    /// Sends a record of each request there.
    pub(crate) fn record(&self, to: Sender<ExchangeRecord>) {
        if let Some(mut table) = self.table() {
            (table.records, table.missed) = (Some(to), 0);
        }
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

    /// What the latest offer under a name said.
    pub(crate) fn offered(&self, name: &str, offer: OfferSeen) {
        if let Some(mut table) = self.table() {
            table.offered(name, offer);
        }
    }
}

/// The beginning of a text, with nothing that a terminal obeys.
pub(crate) fn cut(text: &str, most: usize) -> Box<str> {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = &text[..end];
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return text.into(); // nearly always, and much faster
    }
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
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
    /// The label of its token, or its line in the file.
    pub(crate) token: Option<Box<str>>,
    pub(crate) certificate: Option<Box<str>>,
}

/// Who asks, and how the request is called in logs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Visit {
    pub(crate) from: Option<IpAddr>,
    pub(crate) request_id: Option<String>,
}

/// A request that is over, for an access log.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ExchangeRecord {
    /// When it was over.
    pub at: SystemTime,
    /// The device that it was for; empty where it was for none.
    pub device: String,
    /// Who asked, behind trusted proxies; `None`: a program.
    pub visitor: Option<IpAddr>,
    /// Its method, as it came.
    pub method: String,
    /// Its target, as it came: with its query.
    pub target: String,
    /// The minor version: HTTP/1.`minor`.
    pub minor: u8,
    /// Its `Host`; empty where there is none.
    pub host: String,
    /// Its `Referer`, where there is one.
    pub referer: Option<String>,
    /// Its `User-Agent`, where there is one.
    pub user_agent: Option<String>,
    /// Its `X-Request-Id`, a trusted proxy's or made here, as the device got it.
    pub request_id: Option<String>,
    /// What it was answered; 0: nothing.
    pub status: u16,
    /// Bytes of its body, and of a tunnel to the device.
    pub to_device: u64,
    /// Bytes of its answer's body, and of a tunnel from the device.
    pub from_device: u64,
    /// How long it waited for a link or a poll.
    pub waited: Duration,
    /// From the link to the head of the device's response; `None`: there was none.
    pub first_byte: Option<Duration>,
    /// In all.
    pub took: Duration,
    /// The number of its link; `None`: it had none, or a poll took it.
    pub link: Option<u64>,
    /// It was sent again on another link.
    pub retried: bool,
    /// Why it failed: a [`CloseCause`], or an error type of RFC 9209.
    pub failure: Option<&'static str>,
    /// Records that were lost before this one because nobody read them in time.
    pub missed: u64,
}

/// What is kept of a request for its record.
struct Detail {
    record: ExchangeRecord,
}

impl Detail {
    fn of(device: &str, head: &RequestHead<'_>, visit: &Visit) -> Box<Detail> {
        let text = |name| {
            let value = head.fields.get(name)?;
            Some(String::from_utf8_lossy(value).into_owned())
        };
        let record = ExchangeRecord {
            at: SystemTime::now(),
            device: device.to_owned(),
            visitor: visit.from,
            method: head.method.to_owned(),
            target: head.target.to_owned(),
            minor: head.minor,
            host: text("Host").unwrap_or_default(),
            referer: text("Referer"),
            user_agent: text("User-Agent"),
            request_id: visit.request_id.clone(),
            status: 0,
            to_device: 0,
            from_device: 0,
            waited: Duration::ZERO,
            first_byte: None,
            took: Duration::ZERO,
            link: None,
            retried: false,
            failure: None,
            missed: 0,
        };
        Box::new(Detail { record })
    }
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
    /// Requests that failed or were answered with 500 or more.
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
        self.requests += 1;
        self.bytes_to_devices += exchange.to_device;
        self.bytes_from_devices += exchange.from_device;
        if exchange.is_error() {
            self.errors += 1;
        }
        if let Some(class) =
            self.statuses.get_mut(usize::from(exchange.status / 100).wrapping_sub(1))
        {
            *class += 1;
        }
        let Some(reason) = exchange.failure else { return };
        match self.failures.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => self.failures.push((reason, 1)),
        }
    }
}

impl Exchanged {
    fn complete(&self, detail: Detail, took: Duration, waited: Duration) -> ExchangeRecord {
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
            ..detail.record
        }
    }

    fn is_error(&self) -> bool {
        self.failure.is_some() || self.status >= 500
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

    fn remember(&mut self, done: Done) {
        if self.recent.len() >= RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(done);
    }

    fn tick(&mut self, number: u32, took: Duration, is_error: bool) {
        if self.minutes.back().is_none_or(|minute| minute.number != number) {
            if self.minutes.len() >= MINUTES_MAX {
                self.minutes.pop_front();
            }
            self.minutes.push_back(Minute { number, ..Minute::default() });
        }
        let Some(minute) = self.minutes.back_mut() else { return };
        let millis = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
        minute.requests = minute.requests.saturating_add(1);
        minute.errors = minute.errors.saturating_add(u32::from(is_error));
        minute.longest_ms = minute.longest_ms.max(millis);
        minute.total_ms += u64::from(millis);
    }
}

/// All names that are connected, and of the others those that were connected last.
pub(crate) struct Table {
    names: HashMap<Arc<str>, usize>,
    rows: Vec<Option<Box<Row>>>,
    free: Vec<usize>,
    /// Rows of names that are not connected, by when that began.
    departed: BTreeSet<(Instant, usize)>,
    names_max: usize,
    generations: u64,
    pub(crate) totals: Totals,
    pub(crate) start: Instant,
    records: Option<Sender<ExchangeRecord>>,
    missed: u64,
}

impl Table {
    fn new(names_max: usize, now: Instant) -> Self {
        Table {
            names: HashMap::new(),
            rows: Vec::new(),
            free: Vec::new(),
            departed: BTreeSet::new(),
            names_max: names_max.max(1),
            generations: 0,
            totals: Totals::default(),
            start: now,
            records: None,
            missed: 0,
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Row> {
        self.rows.get(*self.names.get(name)?)?.as_deref()
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut Row> {
        self.rows.get_mut(*self.names.get(name)?)?.as_deref_mut()
    }

    /// Up to `most` rows from this place on, and where to go on.
    pub(crate) fn rows(
        &self,
        from: usize,
        most: usize,
    ) -> (impl Iterator<Item = &Row>, Option<usize>) {
        let from = from.min(self.rows.len());
        let end = from.saturating_add(most).min(self.rows.len());
        let next = (end < self.rows.len()).then_some(end);
        (self.rows[from..end].iter().filter_map(Option::as_deref), next)
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
            self.tell(exchange.complete(*detail, took, waited));
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
        let Some(row) = self.rows.get_mut(at).and_then(Option::as_deref_mut) else { return };
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
        row.tick(minute, took, exchange.is_error());
        row.remember(Done {
            at: now,
            method: std::mem::take(&mut exchange.method),
            path: std::mem::take(&mut exchange.path),
            from: exchange.from,
            status: exchange.status,
            took,
            waited,
            failure: exchange.failure,
        });
    }

    /// Nobody is waited for who does not read.
    fn tell(&mut self, record: ExchangeRecord) {
        let Some(records) = &self.records else { return };
        match records.try_send(ExchangeRecord { missed: self.missed, ..record }) {
            Ok(()) => self.missed = 0,
            Err(TrySendError::Full(_)) => self.missed += 1,
            Err(TrySendError::Disconnected(_)) => self.records = None,
        }
    }

    fn seen(&mut self, name: &str) {
        if let Some(row) = self.get_mut(name) {
            row.last_seen = Instant::now();
        }
    }

    fn offered(&mut self, name: &str, offer: OfferSeen) {
        if let Some(row) = self.get_mut(name) {
            row.offer = offer;
            row.last_seen = Instant::now();
        }
    }

    fn changed(&mut self, name: &str, change: Change, transport: Option<Transport>) {
        let now = change.at;
        let at = match self.names.get(name) {
            Some(at) => *at,
            None if transport.is_some() => self.insert(name, now),
            None => return,
        };
        let Some(row) = self.rows.get_mut(at).and_then(Option::as_deref_mut) else { return };
        match (row.transport.is_some(), transport.is_some()) {
            (false, true) => {
                self.departed.remove(&(row.since, at));
                (row.since, row.last_seen) = (now, now);
                row.ups += 1;
            }
            (true, false) => {
                row.since = now;
                self.departed.insert((now, at));
            }
            _ => {}
        }
        row.transport = transport;
        if row.changes.len() >= CHANGES_MAX {
            row.changes.pop_front();
        }
        row.changes.push_back(change);
    }

    fn insert(&mut self, name: &str, now: Instant) -> usize {
        if self.names.len() >= self.names_max {
            self.forget_one();
        }
        self.generations += 1;
        let row = Box::new(Row::new(name, self.generations, now));
        let key = row.name.clone();
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

    /// Forgets the name that has been away for longest. Connected ones are bounded by the registry.
    fn forget_one(&mut self) {
        let Some((_, at)) = self.departed.pop_first() else { return };
        if let Some(row) = self.rows.get_mut(at).and_then(Option::take) {
            self.names.remove(&row.name);
            self.free.push(at);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use crate::proto::head;

    fn up(observer: &Observer, name: &str) {
        observer.changed(name, "up", "PTTH/1.0", Some(Transport::Turn), None);
    }

    fn down(observer: &Observer, name: &str) {
        observer.changed(name, "down", "closed", None, Some(CloseCause::Closed));
    }

    fn asked(observer: &Observer, name: &str, target: &str) -> Observed {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = head::request(text.as_bytes(), &Limits::default(), head::LineEnds::Crlf);
        observer.request(name, &head.unwrap().unwrap(), &Visit::default())
    }

    #[test]
    fn an_exchange_is_counted_where_it_ends_however_it_ends() {
        let observer = Observer::on(10);
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
        let observer = Observer::on(3);
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
        let table = observer.table().unwrap();
        assert_eq!(table.rows(0, 100).0.count(), 4);
        assert_eq!(table.get("a").unwrap().ups, 2);
    }

    #[test]
    fn what_is_remembered_of_a_device_is_bounded() {
        let observer = Observer::on(3);
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
        let sizes = (std::mem::size_of::<Row>(), std::mem::size_of::<Done>());
        assert!(sizes.0 < 1_536 && sizes.1 <= 128, "{sizes:?}");
    }

    #[test]
    fn an_observer_that_is_off_remembers_nothing() {
        let observer = Observer::default();
        up(&observer, "lamp");
        let observed = asked(&observer, "lamp", "/");
        assert!(observed.in_progress(Instant::now()).is_none() && observer.table().is_none());
    }
}
