//! Records of finished requests, for an access log.
//!
//! They wait in a queue that is bounded in number and in bytes, so that a reader that hangs costs
//! records, but neither requests nor memory. Queued records and those of requests in progress count
//! as memory of the gateway.

use std::mem::size_of;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use crossbeam_channel::Sender;

use crate::atomic::AtomicU64;
use crate::observe::texts::beginning;
use crate::proto::head::{Fields, RequestHead};
use crate::subscription::{Charge, Charged};

/// The longest target of a record, and the longest other text, in bytes: many records may wait.
const TARGET_BYTES_MAX: usize = 4_096;
const TEXT_BYTES_MAX: usize = 1_024;

/// A completed request, for an access log.
///
/// ```
/// # #[cfg(feature = "admin")] {
/// use reverse_http::Gateway;
/// let gateway = Gateway::builder().listen("127.0.0.1:0").observe(true).start()?;
/// let records = gateway.records(1_000)?;
/// std::thread::spawn(move || {
///     for record in records {
///         println!("{record:?}"); // until the gateway ends
///     }
/// });
/// # }
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
#[cfg_attr(not(feature = "admin"), allow(unreachable_pub, reason = "admin makes it public"))]
pub struct ExchangeRecord {
    /// When it was completed.
    pub at: SystemTime,
    /// The device that it was for; empty if there was none.
    pub device: String,
    /// The client behind trusted proxies; `None`: a program.
    pub visitor: Option<IpAddr>,
    /// The label of the visitor's token, or its line in the file; `None`: there was no valid token,
    /// or visitors need none.
    pub token: Option<String>,
    /// Its method, as it came; empty if its first line could not be read.
    pub method: String,
    /// Its target, as it came, with its query, but at most 4,096 bytes; the texts below have at
    /// most 1,024. If its first line could not be read, the bytes that arrived of it.
    pub target: String,
    /// The minor version: HTTP/1.`minor`.
    pub minor: u8,
    /// Its `Host`; empty if there is none.
    pub host: String,
    /// Its `Referer`, if there is one.
    pub referer: Option<String>,
    /// Its `User-Agent`, if there is one.
    pub user_agent: Option<String>,
    /// Its `X-Request-Id`, from a trusted proxy or made here, as the device got it.
    pub request_id: Option<String>,
    /// The status of the response; 0: none was sent.
    pub status: u16,
    /// Bytes of its body, and of a tunnel to the device.
    pub to_device: u64,
    /// Bytes of the response's body, and of a tunnel from the device.
    pub from_device: u64,
    /// How long it waited for a link or a poll.
    pub waited: Duration,
    /// From the link to the head of the device's response; `None`: there was none.
    pub first_byte: Option<Duration>,
    /// How long it took in total.
    pub took: Duration,
    /// The number of its link; `None`: it had none, or a poll took it.
    pub link: Option<u64>,
    /// It was repeated on another link.
    pub retried: bool,
    /// The URL of the gateway that it was sent to, over a hop; `None`: a device of this gateway
    /// answered it, or none did.
    pub gateway: Option<Arc<str>>,
    /// It came from another gateway, on behalf of that gateway's visitor.
    pub from_gateway: bool,
    /// Why it failed: a [`CloseCause`](crate::CloseCause), or an error type of RFC 9209.
    pub failure: Option<&'static str>,
    /// How many records were lost before this one because they were not read in time.
    pub missed: u64,
}

impl ExchangeRecord {
    /// Bytes of memory that it takes.
    fn bytes(&self) -> usize {
        let texts = [&self.device, &self.method, &self.target, &self.host];
        let more = [&self.referer, &self.user_agent, &self.request_id, &self.token];
        let texts = texts.into_iter().chain(more.into_iter().flatten());
        size_of::<ExchangeRecord>() + texts.map(String::len).sum::<usize>()
    }
}

/// The parts of a request's head that are recorded.
pub(crate) struct Seen<'h> {
    /// Empty if the request line is invalid; its bytes are then in `target`.
    pub(crate) method: &'h str,
    pub(crate) target: &'h str,
    pub(crate) minor: u8,
    fields: Option<&'h Fields<'h>>,
}

impl<'h> From<&'h RequestHead<'h>> for Seen<'h> {
    fn from(head: &'h RequestHead<'h>) -> Self {
        Seen {
            method: head.method,
            target: head.target,
            minor: head.minor,
            fields: Some(&head.fields),
        }
    }
}

impl<'h> Seen<'h> {
    /// The beginning of a malformed or incomplete head.
    pub(crate) fn first_line(bytes: &'h [u8]) -> Self {
        let line = bytes.trim_ascii_start();
        let end = line.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
        let line = &line[..end.unwrap_or(line.len()).min(TARGET_BYTES_MAX)];
        let text = match std::str::from_utf8(line) {
            Ok(text) => text,
            Err(e) => std::str::from_utf8(&line[..e.valid_up_to()]).unwrap_or_default(),
        };
        let words: Vec<&str> = text.split(' ').collect();
        let minor = |version: &str| version.strip_prefix("HTTP/1.")?.parse().ok();
        match words[..] {
            [method, target, version] if !method.is_empty() => match minor(version) {
                Some(minor) => Seen { method, target, minor, fields: None },
                None => Seen { method: "", target: text, minor: 1, fields: None },
            },
            _ => Seen { method: "", target: text, minor: 1, fields: None },
        }
    }
}

/// The record of a request in progress.
pub(crate) struct Detail {
    pub(crate) record: ExchangeRecord,
    /// The gateway that it is sent to next.
    pub(crate) hop: Option<Arc<str>>,
    _charge: Charge,
}

impl Detail {
    pub(crate) fn into_record(self) -> ExchangeRecord {
        self.record
    }

    fn of(device: &str, seen: &Seen<'_>, visit: &Visit, of: &Arc<AtomicUsize>) -> Box<Detail> {
        let text = |name| {
            let value = seen.fields?.get(name)?;
            let value = &value[..value.len().min(TEXT_BYTES_MAX)];
            Some(beginning(&String::from_utf8_lossy(value), TEXT_BYTES_MAX).to_owned())
        };
        let record = ExchangeRecord {
            at: SystemTime::now(),
            device: device.to_owned(),
            visitor: visit.from,
            method: beginning(seen.method, TEXT_BYTES_MAX).to_owned(),
            target: beginning(seen.target, TARGET_BYTES_MAX).to_owned(),
            minor: seen.minor,
            host: text("Host").unwrap_or_default(),
            referer: text("Referer"),
            user_agent: text("User-Agent"),
            request_id: visit.request_id.clone(),
            token: visit.token.as_deref().map(str::to_owned),
            status: 0,
            to_device: 0,
            from_device: 0,
            waited: Duration::ZERO,
            first_byte: None,
            took: Duration::ZERO,
            link: None,
            retried: false,
            gateway: None,
            from_gateway: visit.from_gateway,
            failure: None,
            missed: 0,
        };
        let _charge = Charge::new(record.bytes(), of);
        Box::new(Detail { record, hop: None, _charge })
    }
}

/// Whether records are read, and their counters, readable without the table's lock; clones share
/// them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken {
    are_read: Arc<AtomicBool>,
    in_progress: Arc<AtomicUsize>,
    waiting: Arc<AtomicUsize>,
    lost: Arc<AtomicU64>,
}

impl Taken {
    /// Returns true if somebody reads records.
    pub(crate) fn are_read(&self) -> bool {
        self.are_read.load(Relaxed)
    }

    /// Bytes of memory of queued records, and of those of requests in progress.
    pub(crate) fn bytes(&self) -> usize {
        self.waiting.load(Relaxed) + self.in_progress.load(Relaxed)
    }

    /// How many were lost because they were not read in time.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}

/// Where records are sent.
struct Reader {
    to: Sender<Charged<ExchangeRecord>>,
    /// Dropped with the last reader.
    readers: Weak<()>,
    /// How many were lost since the last sent one.
    missed: u64,
}

/// The records of a gateway.
pub(crate) struct Records {
    reader: Option<Reader>,
    taken: Taken,
    pub(crate) bytes_max: usize,
}

impl Records {
    pub(crate) fn new(taken: Taken, bytes_max: usize) -> Self {
        Records { reader: None, taken, bytes_max }
    }

    /// Sends a record of each request there.
    pub(crate) fn send_to(&mut self, to: Sender<Charged<ExchangeRecord>>, readers: Weak<()>) {
        self.reader = Some(Reader { to, readers, missed: 0 });
        self.taken.are_read.store(true, Relaxed);
    }

    /// Begins a record, if records are read.
    pub(crate) fn begin(
        &self,
        device: &str,
        seen: &Seen<'_>,
        visit: &Visit,
    ) -> Option<Box<Detail>> {
        self.taken.are_read().then(|| Detail::of(device, seen, visit, &self.taken.in_progress))
    }

    /// Queues a record, without waiting for a reader.
    pub(crate) fn tell(&mut self, record: ExchangeRecord) {
        let Some(Reader { to, readers, missed }) = &mut self.reader else { return };
        if readers.strong_count() == 0 {
            self.taken.are_read.store(false, Relaxed);
            return self.reader = None;
        }
        let (bytes, before) = (record.bytes(), self.taken.waiting.load(Relaxed));
        // A single record always has room.
        let has_room = before == 0 || before + bytes <= self.bytes_max;
        let sent = has_room && {
            let charge = Charge::new(bytes, &self.taken.waiting);
            let item = ExchangeRecord { missed: *missed, ..record };
            to.try_send(Charged::new(item, charge)).is_ok()
        };
        match sent {
            true => *missed = 0,
            false => {
                *missed += 1;
                self.taken.lost.fetch_add(1, Relaxed);
            }
        }
    }
}

/// The client, and the name of its request in logs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Visit {
    pub(crate) from: Option<IpAddr>,
    pub(crate) request_id: Option<String>,
    /// The label of its token, if there is an access log.
    pub(crate) token: Option<Box<str>>,
    /// Another gateway sends its request.
    pub(crate) from_gateway: bool,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::subscription::Subscription;

    #[test]
    fn a_first_line_is_told_as_far_as_it_can_be_read() {
        for (bytes, method, target, minor) in [
            (&b"GET /a?b HTTP/1.0\r\nHost : a\r\n"[..], "GET", "/a?b", 0),
            (b"\r\nGET /a HTTP/1.1", "GET", "/a", 1),
            (b"GET /a", "", "GET /a", 1),
            (b"GET /a HTTP/2.0\r\n", "", "GET /a HTTP/2.0", 1),
            (b"GET  /a HTTP/1.1\r\n", "", "GET  /a HTTP/1.1", 1),
            (b" / HTTP/1.1\n", "", "/ HTTP/1.1", 1),
            (b"\x16\x03\x01\xff\n", "", "\u{16}\u{3}\u{1}", 1),
            (b"", "", "", 1),
        ] {
            let seen = Seen::first_line(bytes);
            assert_eq!((seen.method, seen.target, seen.minor), (method, target, minor));
        }
        let long = vec![b'x'; 2 * TARGET_BYTES_MAX];
        assert_eq!(Seen::first_line(&long).target.len(), TARGET_BYTES_MAX);
    }

    #[test]
    fn what_waits_has_a_bound_in_bytes_and_what_is_lost_is_counted() {
        let taken = Taken::default();
        let mut records = Records::new(taken.clone(), 16 * 1024);
        let target = "x".repeat(8_000);
        let seen = Seen { method: "GET", target: &target, minor: 1, fields: None };
        assert!(records.begin("lamp", &seen, &Visit::default()).is_none(), "nobody reads");
        let (to, from) = crossbeam_channel::bounded(100);
        let from = Subscription::charged(from);
        records.send_to(to, from.readers());
        for _ in 0..10 {
            let before = taken.bytes();
            let detail = records.begin("lamp", &seen, &Visit::default()).unwrap();
            assert!(taken.bytes() > before + TARGET_BYTES_MAX, "a request in progress counts");
            records.tell(detail.record.clone());
        }
        assert_eq!(taken.lost(), 7);
        assert!((3 * TARGET_BYTES_MAX..=16 * 1024).contains(&taken.bytes()));
        assert_eq!(from.try_iter().count(), 3);
        assert_eq!(taken.bytes(), 0);
        let detail = records.begin("lamp", &seen, &Visit::default()).unwrap();
        records.tell(detail.record.clone());
        assert_eq!(from.try_recv().unwrap().missed, 7);
        // A record larger than the bound passes alone.
        records.bytes_max = 1;
        records.tell(detail.record.clone());
        records.tell(detail.record.clone());
        assert_eq!(taken.lost(), 8);
        // Queued records go with their reader.
        drop(from);
        records.tell(detail.record.clone());
        assert!(!taken.are_read());
        drop(detail);
        assert_eq!(taken.bytes(), 0);
    }
}
