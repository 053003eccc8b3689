//! What a gateway knows of its devices and their exchanges, for its operator: counters, histograms,
//! the last requests, the last ups and downs.
//!
//! Only the event loop's thread writes and reads here, so the lock is never waited for; other
//! threads ask the loop. An exchange carries its own [`Observed`], which reports when it is dropped,
//! so that no end is forgotten. Off unless a gateway was started with it: then every call is one
//! test of an `Option`.
//!
//! Memory of one device is bounded: 1.8 KiB of histogram, 60 minutes of 24 bytes, [`RECENT_MAX`](row::RECENT_MAX)
//! requests of at most 220 bytes, [`CHANGES_MAX`](row::CHANGES_MAX) changes of at most 230 bytes and 600 bytes of its
//! offer: less than 16 KiB, about 1 KiB for a device that nobody asks. All of it is counted, and has
//! a bound ([`OBSERVED_PART`](crate::limits::OBSERVED_PART)).

#![cfg_attr(not(feature = "admin"), allow(dead_code, reason = "nobody turns it on"))]

pub(crate) mod histogram;
pub(crate) mod records;
pub(crate) mod row;
pub(crate) mod table;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Sender;

use crate::close_reason::CloseCause;
use crate::limits::Limits;
use crate::observe::records::{Detail, ExchangeRecord, Seen, Taken};
use crate::observe::row::{Change, OfferSeen, is_error};
use crate::observe::table::{Bounds, Table};
use crate::proto::head::RequestHead;
use crate::proto::turn::Transport;
use crate::subscription::Charged;
use crate::text::misleads;

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

    /// Returns true if somebody reads records.
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

/// The client, and the name of its request in logs.
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
    /// Returns true if its end will be counted.
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
