//! An exchange that is watched: it reports to the table when it is dropped, so that no end is
//! forgotten.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::time;
use crate::observe::exchanged::Exchanged;
use crate::observe::table::Table;

/// Method, path and age of a request in progress.
pub(crate) type InProgress = (Cow<'static, str>, Box<str>, Duration);

/// An exchange that is watched, or not.
#[derive(Default)]
pub(crate) struct Observed(Option<Watched>);

struct Watched {
    table: Arc<Mutex<Table>>,
    exchange: Box<Exchanged>,
}

impl Drop for Observed {
    fn drop(&mut self) {
        if let Some(Watched { table, exchange }) = self.0.take() {
            table.lock().unwrap_or_else(PoisonError::into_inner).finish(exchange, time::of_turn());
        }
    }
}

impl Observed {
    /// Reports to this table.
    pub(super) fn on(table: Arc<Mutex<Table>>, exchange: Box<Exchanged>) -> Self {
        Observed(Some(Watched { table, exchange }))
    }

    fn exchange(&mut self) -> Option<&mut Exchanged> {
        self.0.as_mut().map(|watched| &mut *watched.exchange)
    }

    /// Returns true if its end will be counted.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A link or a poll has taken the request.
    pub(crate) fn attached(&mut self, link: Option<u64>) {
        let Some(exchange) = self.exchange() else { return };
        if let Some(detail) = &mut exchange.detail {
            detail.record.retried |= exchange.attached.is_some() && detail.record.link != link;
            detail.record.link = link;
            detail.record.gateway = detail.hop.take();
        }
        exchange.attached.get_or_insert_with(time::of_turn);
    }

    /// The link that takes it next is a connection to this gateway.
    pub(crate) fn hops_to(&mut self, gateway: Option<&Arc<str>>) {
        let detail = self.exchange().and_then(|exchange| exchange.detail.as_mut());
        detail.into_iter().for_each(|detail| detail.hop = gateway.cloned());
    }

    /// The head of the device's response has arrived.
    pub(crate) fn answered(&mut self, status: u16) {
        if let Some(exchange) = self.exchange() {
            exchange.status = status;
            exchange.first_byte.get_or_insert_with(time::of_turn);
        }
    }

    /// This many bytes of a body or a tunnel were sent to the device.
    pub(crate) fn sent(&mut self, bytes: usize) {
        if let Some(exchange) = self.exchange() {
            exchange.to_device += bytes as u64;
        }
    }

    /// This many bytes of a body or a tunnel came from the device.
    pub(crate) fn received(&mut self, bytes: usize) {
        if let Some(exchange) = self.exchange() {
            exchange.from_device += bytes as u64;
        }
    }

    /// It has failed, for this reason; `status` is the answer to its visitor (0 for none). The
    /// first reason counts.
    pub(crate) fn failed(&mut self, reason: &'static str, status: u16) {
        if let Some(exchange) = self.exchange() {
            exchange.failure.get_or_insert(reason);
            if status != 0 {
                exchange.status = status;
            }
        }
    }

    /// Method, path and age of an exchange in progress.
    pub(crate) fn in_progress(&self, now: Instant) -> Option<InProgress> {
        let exchange = &self.0.as_ref()?.exchange;
        let age = now.saturating_duration_since(exchange.began);
        Some((exchange.method.clone(), (*exchange.path).into(), age))
    }
}
