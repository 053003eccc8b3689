//! One device name: its counters, its last requests and changes, and their memory.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::mem::size_of;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::close_reason::CloseCause;
use crate::engine::departed::Stamp;
use crate::observe::exchanged::{Exchanged, is_error};
use crate::observe::histogram::{Fixed, Recent};
use crate::proto::turn::Transport;

/// Requests of one device that are remembered.
pub(crate) const RECENT_MAX: usize = 32;

/// Ups, downs and ends of links of one device that are remembered.
pub(crate) const CHANGES_MAX: usize = 16;

/// Minutes of one device's history.
pub(crate) const MINUTES_MAX: usize = 60;

/// The properties of a device from its latest offer.
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
    pub(super) fn text_bytes(&self) -> usize {
        let more = [&self.token, &self.certificate];
        let more = more.into_iter().flatten().map(|text| text.len());
        self.agent.len() + self.protocol.len() + more.sum::<usize>()
    }
}

/// A finished request.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) at: Instant,
    pub(crate) method: Cow<'static, str>,
    pub(crate) path: String,
    pub(crate) from: Option<IpAddr>,
    /// 0: none was sent.
    pub(crate) status: u16,
    pub(crate) took: Duration,
    pub(crate) waited: Duration,
    pub(crate) failure: Option<&'static str>,
}

impl Done {
    fn text_bytes(&self) -> usize {
        self.path.capacity()
            + if let Cow::Owned(method) = &self.method { method.capacity() } else { 0 }
    }
}

/// A change of a name.
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
    /// Requests that were answered with 500 or above, or failed without a 4xx answer.
    pub(crate) errors: u64,
    /// Responses by their first digit, 1 to 5.
    pub(crate) statuses: [u64; 5],
    /// Failed requests by reason. The reasons are constants of this program, so there are few.
    pub(crate) failures: Vec<(&'static str, u64)>,
    pub(crate) bytes_to_devices: u64,
    pub(crate) bytes_from_devices: u64,
}

impl Counts {
    pub(super) fn add(&mut self, exchange: &Exchanged) {
        self.bytes_to_devices += exchange.to_device;
        self.bytes_from_devices += exchange.from_device;
        self.count(exchange.status, exchange.failure);
    }

    /// Counts a request that was answered with this status (0 for none).
    pub(super) fn count(&mut self, status: u16, failure: Option<&'static str>) {
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

/// Counters and histograms of all exchanges.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) counts: Counts,
    pub(crate) in_progress: u64,
    pub(crate) took: Fixed,
    pub(crate) waited: Fixed,
    pub(crate) first_byte: Fixed,
}

/// The counters and history of one device name.
pub(crate) struct Row {
    pub(crate) name: Arc<str>,
    pub(super) generation: u64,
    /// Its owner, if there are credentials.
    pub(super) credential: Option<Arc<str>>,
    /// Its key among the disconnected names.
    pub(super) departed: Option<Stamp>,
    /// Bytes of the texts in `offer`, `changes` and `recent`.
    pub(super) texts: usize,
    /// The bytes of it that the table has counted.
    pub(super) counted: usize,
    pub(crate) counts: Counts,
    pub(crate) in_progress: u64,
    pub(crate) times: Recent,
    pub(crate) transport: Option<Transport>,
    /// When it was connected or disconnected.
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
    pub(super) fn new(name: &str, generation: u64, now: Instant) -> Self {
        Row {
            name: name.into(),
            generation,
            credential: None,
            departed: None,
            texts: 0,
            counted: 0,
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
    pub(super) fn bytes(&self) -> usize {
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

    /// Returns the request that it replaces.
    pub(super) fn remember(&mut self, done: Done, is_tight: bool) -> Option<Done> {
        self.texts += done.text_bytes();
        let old = push(&mut self.recent, done, RECENT_MAX, is_tight)?;
        self.texts -= old.text_bytes();
        Some(old)
    }

    pub(super) fn note(&mut self, change: Change, is_tight: bool) {
        self.texts += change.reason.len();
        if let Some(old) = push(&mut self.changes, change, CHANGES_MAX, is_tight) {
            self.texts -= old.reason.len();
        }
    }

    pub(super) fn tick(&mut self, number: u32, took: Duration, is_error: bool, is_tight: bool) {
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

/// Adds the newest. Beyond `most`, or if memory is tight, the oldest is dropped.
pub(super) fn push<T>(list: &mut VecDeque<T>, newest: T, most: usize, is_tight: bool) -> Option<T> {
    let is_full = list.len() >= most || is_tight;
    let oldest = if is_full { list.pop_front() } else { None };
    list.push_back(newest);
    oldest
}

/// The memory of a row's entries in the other tables, in bytes.
pub(super) const ENTRY_BYTES: usize = 160;
