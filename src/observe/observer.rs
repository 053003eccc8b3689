//! The handle with which a gateway's loop reports.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use crossbeam_channel::Sender;

use crate::close_reason::CloseCause;
use crate::engine::time;
use crate::limits::Limits;
use crate::observe::observed::Observed;
use crate::observe::records::{Detail, ExchangeRecord, Seen, Taken, Visit};
use crate::observe::row::{Change, OfferSeen};
use crate::observe::table::{Bounds, Table};
use crate::observe::texts::{PATH_BYTES_MAX, REASON_BYTES_MAX, cut, cut_into, method};
use crate::proto::head::RequestHead;
use crate::proto::turn::Transport;
use crate::subscription::Charged;

/// The handle of a gateway's loop; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Observer(Option<Shared>);

#[derive(Clone)]
struct Shared {
    table: Arc<Mutex<Table>>,
    /// Outside of the table, so that it can be read without the lock.
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

    /// The table, if there is one.
    pub(crate) fn table(&self) -> Option<MutexGuard<'_, Table>> {
        self.0.as_ref().map(|shared| shared.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets other bounds; entries beyond them are dropped with the next change.
    pub(crate) fn set_bounds(&self, limits: &Limits) {
        if let Some(mut table) = self.table() {
            table.set_bounds(Bounds::of(limits));
        }
    }

    /// Bytes of memory that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |shared| shared.bytes.load(Relaxed) + shared.records.bytes())
    }

    /// Called regularly, so that disconnected names are forgotten in time.
    pub(crate) fn tick(&self, now: Instant) {
        if let Some(mut table) = self.table() {
            table.forget(now);
        }
    }

    /// A request for this device has begun.
    pub(crate) fn request(&self, name: &str, head: &RequestHead<'_>, visit: &Visit) -> Observed {
        if !self.is_on() {
            return Observed::default();
        }
        let end = head.target.bytes().position(|byte| matches!(byte, b'?' | b'#'));
        let path = &head.target[..end.unwrap_or(head.target.len())];
        let detail = match self.records() {
            true => self.table().and_then(|table| table.records.begin(name, &head.into(), visit)),
            false => None,
        };
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
        let mut exchange =
            table.lock().unwrap_or_else(PoisonError::into_inner).begin(name, time::of_turn());
        exchange.method = method(name_of_method);
        cut_into(&mut exchange.path, path, PATH_BYTES_MAX);
        (exchange.from, exchange.detail) = (from, detail);
        Observed::on(table.clone(), exchange)
    }

    /// A request was answered without a device. `failure` is the reason if it was refused.
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
        self.0.as_ref().is_some_and(|shared| shared.records.are_read())
    }

    /// Sends a record of each request there.
    pub(crate) fn record(&self, to: Sender<Charged<ExchangeRecord>>, readers: Weak<()>) {
        if let Some(mut table) = self.table() {
            table.records.send_to(to, readers);
        }
    }

    /// The counters of records.
    pub(crate) fn taken_by_records(&self) -> Taken {
        self.0.as_ref().map(|shared| shared.records.clone()).unwrap_or_default()
    }

    /// A device of this name gave a sign of life.
    pub(crate) fn seen(&self, name: &str) {
        if let Some(mut table) = self.table() {
            table.seen(name);
        }
    }

    /// A change of a name. `kind` is that of the event.
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

    /// An offer or poll was refused.
    pub(crate) fn refused<'n>(
        &self,
        names: impl Iterator<Item = &'n str>,
        address: Option<IpAddr>,
        answer: (u16, &str),
    ) {
        if let Some(mut table) = self.table() {
            table.refusals.note(names, address, answer, Instant::now());
        }
    }

    /// The properties of the latest offer under a name, and its owner.
    pub(crate) fn offered(&self, name: &str, offer: OfferSeen, credential: &Option<Arc<str>>) {
        if let Some(mut table) = self.table() {
            table.offered(name, offer, credential);
        }
    }
}
