//! The answers in JSON (docs/admin.md, docs/admin.schema.json): stable names, times in seconds
//! since 1970, durations in milliseconds.

use std::cmp::Ordering;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value, json};

use crate::admin::event::{transport_name, unix_seconds};
use crate::admin::request::OperatorRequest;
use crate::admin::view::{ClusterView, Elsewhere, Snapshot, View};
use crate::gateway::peer_table::PeerRow;
use crate::gateway::questions::{DeviceHistory, DeviceRow, LinkRow, Process};
use crate::gateway::{BoundCounts, ClusterGateway};
use crate::observe::refusals::Refused;
use crate::observe::row::{Change, Counts, Done, Minute};
use crate::text::counted;

/// The default number of devices of a page.
const PAGE: usize = 100;
pub(super) const PAGE_MAX: usize = 1_000;

/// The keys of `sort`.
pub(super) const SORT_KEYS: [&str; 15] = [
    "name", "state", "links", "idle", "busy", "waiting", "silent", "since", "ups", "requests",
    "errors", "p50", "p99", "bytes", "address",
];

/// The parameters of a list: which devices, in which order, and which page.
pub(super) struct Wanted {
    pub(super) text: String,
    pub(super) state: String,
    pub(super) silent_for: Option<Duration>,
    pub(super) sort: String,
    pub(super) page: usize,
    pub(super) limit: usize,
}

impl Wanted {
    pub(super) fn of(asked: &OperatorRequest<'_>) -> Wanted {
        Wanted {
            text: asked.parameter("q").to_lowercase(),
            state: asked.parameter("state"),
            silent_for: asked.time("silent_for"),
            sort: asked.parameter("sort"),
            page: asked.number("page").unwrap_or(1).max(1),
            limit: asked.number("limit").unwrap_or(PAGE).clamp(1, PAGE_MAX),
        }
    }

    fn takes(&self, snapshot: &Snapshot, row: &DeviceRow) -> bool {
        let is_state = match self.state.as_str() {
            "up" => row.transport.is_some(),
            "down" => row.transport.is_none(),
            _ => true,
        };
        let is_silent = self.silent_for.is_none_or(|time| snapshot.silence(row) >= time);
        is_state && is_silent && (self.text.is_empty() || self.names(row))
    }

    fn names(&self, row: &DeviceRow) -> bool {
        let offer = &row.offer;
        let texts = [&*row.name, &*offer.agent, &*offer.protocol];
        let more = [offer.token.as_deref(), offer.certificate.as_deref()];
        texts
            .into_iter()
            .chain(more.into_iter().flatten())
            .any(|text| text.to_lowercase().contains(&self.text))
            || offer.address.is_some_and(|address| address.to_string().contains(&self.text))
    }

    /// The number of matching devices, and those of the requested page, in order.
    pub(super) fn find<'s>(&self, snapshot: &'s Snapshot) -> (usize, Vec<&'s DeviceRow>) {
        let mut found: Vec<&DeviceRow> =
            snapshot.devices.iter().filter(|row| self.takes(snapshot, row)).collect();
        let (falls, key) = match self.sort.strip_prefix('-') {
            Some(key) => (true, key),
            None => (false, self.sort.as_str()),
        };
        found.sort_unstable_by(|a, b| {
            let order = compare(key, a, b);
            let order = if falls { order.reverse() } else { order };
            order.then_with(|| a.name.cmp(&b.name)) // so that pages do not overlap
        });
        let skipped = (self.page - 1).saturating_mul(self.limit);
        (found.len(), found.into_iter().skip(skipped).take(self.limit).collect())
    }
}

fn compare(key: &str, a: &DeviceRow, b: &DeviceRow) -> Ordering {
    let number = |of: fn(&DeviceRow) -> u64| of(a).cmp(&of(b));
    match key {
        "state" => a.transport.is_none().cmp(&b.transport.is_none()),
        "links" => number(|row| (row.idle() + row.busy()) as u64),
        "idle" => number(|row| row.idle() as u64),
        "busy" => number(|row| row.busy() as u64),
        "waiting" => number(|row| row.load.waiting as u64),
        "requests" => number(|row| row.counts.requests),
        "errors" => number(|row| row.counts.errors),
        "p50" => a.p50.cmp(&b.p50),
        "p99" => a.p99.cmp(&b.p99),
        "bytes" => number(|row| row.counts.bytes_from_devices + row.counts.bytes_to_devices),
        "silent" => b.last_seen.cmp(&a.last_seen),
        "since" => a.since.cmp(&b.since),
        "ups" => number(|row| row.ups),
        "address" => a.offer.address.cmp(&b.offer.address),
        _ => a.name.cmp(&b.name),
    }
}

pub(super) fn devices(asked: &OperatorRequest<'_>, snapshot: &Snapshot) -> Value {
    let wanted = Wanted::of(asked);
    let (found, rows) = wanted.find(snapshot);
    let devices: Vec<Value> = rows.into_iter().map(|row| row_json(snapshot, row)).collect();
    json!({
        "at": snapshot.unix(snapshot.at),
        "known": snapshot.devices.len(),
        "found": found,
        "page": wanted.page,
        "limit": wanted.limit,
        "devices": devices,
    })
}

/// A device at the time of the snapshot, which may be now for a device with its history.
fn row_json(snapshot: &Snapshot, row: &DeviceRow) -> Value {
    device_json(row, snapshot.at, &|at| snapshot.unix(at))
}

fn device_json(row: &DeviceRow, now: Instant, unix: &dyn Fn(Instant) -> f64) -> Value {
    let silence = now.saturating_duration_since(row.last_seen);
    json!({
        "name": &*row.name,
        "state": if row.transport.is_some() { "up" } else { "down" },
        "transport": row.transport.map(transport_name),
        "tls": row.transport.map(|_| row.offer.secure),
        "since": unix(row.since),
        "cause": row.cause.map(|cause| cause.as_str()),
        "last_seen": unix(row.last_seen),
        "silent_ms": millis(silence),
        "times_up": row.ups,
        "links": { "idle": row.load.idle, "busy": row.load.busy },
        "polls": row.load.polls,
        "events_in_hand": row.load.events,
        "waiting": row.load.waiting,
        "in_progress": row.in_progress,
        "requests": row.counts.requests,
        "errors": row.counts.errors,
        "responses": responses(&row.counts),
        "failures": failures(&row.counts),
        "latency_ms": { "p50": row.p50.map(millis), "p99": row.p99.map(millis) },
        "bytes": { "to_device": row.counts.bytes_to_devices, "from_device": row.counts.bytes_from_devices },
        "offer": {
            "protocol": text(&row.offer.protocol),
            "user_agent": text(&row.offer.agent),
            "address": row.offer.address.map(|address| address.to_string()),
            "token": row.offer.token.as_deref(),
            "certificate": row.offer.certificate.as_deref(),
            "certificate_expires": row.offer.certificate_expires.map(unix_seconds),
        },
    })
}

fn text(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// Milliseconds with three decimal places.
pub(super) fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

fn responses(counts: &Counts) -> Value {
    let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(counts.statuses);
    Value::Object(classes.map(|(class, count)| (class.to_owned(), json!(count))).collect())
}

fn failures(counts: &Counts) -> Value {
    let pairs = counts.failures.iter();
    Value::Object(pairs.map(|(reason, count)| ((*reason).to_owned(), json!(count))).collect())
}

pub(super) fn device(
    history: &DeviceHistory,
    links: &[LinkRow],
    elsewhere: Option<&Elsewhere>,
) -> Value {
    let (now, wall) = (Instant::now(), SystemTime::now());
    let unix = |at: Instant| {
        let ago = now.saturating_duration_since(at);
        unix_seconds(wall.checked_sub(ago).unwrap_or(wall))
    };
    let minutes = history.minutes.iter().map(|minute| minute_json(minute, history.minute));
    let mut device = device_json(&history.row, now, &unix);
    if let Value::Object(fields) = &mut device {
        fields.insert("links_one_by_one".to_owned(), links.iter().map(link_json).collect());
        let requests = history.recent.iter().rev().map(|done| done_json(done, &unix));
        fields.insert("recent_requests".to_owned(), requests.collect());
        let changes = history.changes.iter().rev().map(|change| change_json(change, &unix));
        fields.insert("recent_changes".to_owned(), changes.collect());
        fields.insert("minutes".to_owned(), minutes.collect());
        let refused = history.refused.iter().map(|refused| refused_json(refused, &unix));
        fields.insert("refused_offers".to_owned(), refused.collect());
        let elsewhere = elsewhere.map(|found| {
            json!({
                "gateways": found.as_deref().unwrap_or_default(),
                "error": found.as_ref().err(),
            })
        });
        fields.insert("elsewhere".to_owned(), json!(elsewhere));
    }
    device
}

fn minute_json(minute: &Minute, now: u32) -> Value {
    let mean = minute.total_ms as f64 / f64::from(minute.requests.max(1));
    json!({
        "minutes_ago": now.saturating_sub(minute.number),
        "requests": minute.requests,
        "errors": minute.errors,
        "mean_ms": (mean * 10.0).round() / 10.0,
        "longest_ms": minute.longest_ms,
    })
}

fn done_json(done: &Done, unix: &dyn Fn(Instant) -> f64) -> Value {
    json!({
        "at": unix(done.at),
        "method": text(&done.method),
        "path": &*done.path,
        "visitor": done.from.map(|address| address.to_string()),
        "status": Some(done.status).filter(|status| *status != 0),
        "took_ms": millis(done.took),
        "waited_ms": millis(done.waited),
        "failure": done.failure,
    })
}

fn change_json(change: &Change, unix: &dyn Fn(Instant) -> f64) -> Value {
    json!({
        "at": unix(change.at),
        "kind": change.kind,
        "reason": &*change.reason,
        "cause": change.cause.map(|cause| cause.as_str()),
    })
}

/// Refused offers of one name, address and status.
fn refused_json(refused: &Refused, unix: &dyn Fn(Instant) -> f64) -> Value {
    json!({
        "name": text(&refused.name),
        "address": refused.address.map(|address| address.to_string()),
        "status": refused.status,
        "reason": &*refused.reason,
        "count": refused.count,
        "at": unix(refused.at),
    })
}

/// Where the directory has a device, in words.
pub(super) fn whereabouts(elsewhere: &Elsewhere) -> String {
    match elsewhere.as_deref() {
        Ok([]) => "the directory of gateways knows none that has it".to_owned(),
        Ok(urls) => format!("the directory of gateways has it at {}", urls.join(", ")),
        Err(why) => format!("the directory of gateways cannot say where it is: {why}"),
    }
}

/// A refused offer, in words.
pub(super) fn refusal(refused: &Refused, now: Instant) -> String {
    let Refused { address, status, reason, count, at, .. } = refused;
    let from = address.map(|address| format!(" from {address}")).unwrap_or_default();
    let ago = now.saturating_duration_since(*at).as_secs();
    let offers = counted(*count, "offer");
    format!("{offers} for it{from} refused with {status}, the last {ago} s ago: {reason}")
}

fn link_json(link: &LinkRow) -> Value {
    let exchange = link.exchange.as_ref().map(|(method, path, age)| {
        json!({ "method": text(method), "path": &**path, "age_ms": millis(*age) })
    });
    json!({
        "id": link.id,
        "device": &*link.device,
        "state": link.state,
        "address": link.remote_ip.map(|address| address.to_string()),
        "bytes": { "to_device": link.written, "from_device": link.received },
        "exchange": exchange,
    })
}

pub(super) fn links(links: &[LinkRow]) -> Value {
    json!({ "links": links.iter().map(link_json).collect::<Vec<_>>() })
}

/// Other gateways, and the directory of all.
pub(super) fn cluster(snapshot: &Snapshot, cluster: &ClusterView) -> Value {
    let (directory, stats) = (&cluster.directory, &snapshot.stats);
    let peer = |row: &PeerRow| {
        json!({
            "url": &*row.url,
            "connections": { "open": row.open, "idle": row.idle },
            "state": row.state(),
            "requests": row.sent,
            "answered": row.answered,
            "failures": row.failures,
            "last_answer": row.last_answer.map(|ago| snapshot.unix_ago(ago)),
            "last_failure": row.last_failure.as_ref().map(|(ago, why)| {
                json!({ "at": snapshot.unix_ago(*ago), "reason": &**why })
            }),
            "served": row.served,
            "last_served": row.last_served.map(|ago| snapshot.unix_ago(ago)),
        })
    };
    json!({
        "at": snapshot.unix(snapshot.at),
        "url": cluster.own.as_deref(),
        "directory": {
            "kind": directory.kind,
            "state": if directory.away.is_some() { "away" } else { "answers" },
            "away": directory.away.as_ref().map(|(why, ago)| {
                json!({ "since": snapshot.unix_ago(*ago), "reason": why })
            }),
            "url_is_shared": directory.claims.as_ref().map(|claims| claims.url_is_shared),
            "names": directory.claims.as_ref().map(|claims| {
                json!({
                    "claimed": claims.claimed,
                    "unclaimed": claims.unclaimed,
                    "lost": claims.lost,
                    "restoring": claims.restoring,
                })
            }),
        },
        "gateways": directory.claims.as_ref().map(|claims| {
            claims.gateways.iter().map(|known| announced(snapshot, known)).collect::<Value>()
        }),
        "hops": { "sent": stats.hops, "served": stats.hops_served },
        "peers": cluster.peers.iter().map(peer).collect::<Value>(),
    })
}

/// What a gateway says of itself in the directory.
fn announced(snapshot: &Snapshot, known: &ClusterGateway) -> Value {
    json!({
        "url": known.url,
        "own": known.is_own,
        "announced": snapshot.unix_ago(known.announced),
        "lives": known.lives,
        "names": known.names,
        "claim_time_ms": known.claim_time.map(millis),
    })
}

/// Each limit as `Debug` shows it, so that none can be forgotten.
pub(super) fn limits(view: &View, process: &Process) -> Value {
    let shown = format!("{:?}", view.limits());
    let inner = shown.split_once("{ ").and_then(|(_, rest)| rest.strip_suffix(" }"));
    let pairs = inner.unwrap_or_default().split(", ").filter_map(|pair| pair.split_once(": "));
    let limits: Map<String, Value> =
        pairs.map(|(name, value)| (name.to_owned(), json!(value))).collect();
    json!({
        "limits": limits,
        "use": {
            "connections": process.connections,
            "memory_bytes": process.memory,
            "messages_bytes": process.messages,
            "exchanges": process.exchanges,
            "leases": process.leases,
        },
    })
}

/// The gateway as a whole.
pub(super) fn totals(snapshot: &Snapshot, view: &View) -> Value {
    let (process, stats) = (&snapshot.process, &snapshot.stats);
    let ends = stats.closed.iter().filter(|(_, count)| *count > 0);
    let ends: Map<String, Value> =
        ends.map(|(cause, count)| (cause.as_str().to_owned(), json!(count))).collect();
    let sum = |of: fn(&DeviceRow) -> usize| snapshot.devices.iter().map(of).sum::<usize>();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "at": snapshot.unix(snapshot.at),
        "since": snapshot.unix(process.start),
        "stopping": process.is_stopping,
        "configuration": view.configuration().map(|configuration| {
            json!({ "read": unix_seconds(configuration.read), "told": configuration.told })
        }),
        "certificates": process.certificates.iter().map(|(whose, at, expires)| {
            json!({
                "listener": whose.as_str(),
                "address": at.to_string(),
                "expires": unix_seconds(*expires),
                "days_left": days_left(*expires, snapshot.wall),
            })
        }).collect::<Value>(),
        "devices": { "connected": stats.devices, "known": snapshot.devices.len() },
        "links": { "idle": sum(|row| row.load.idle), "busy": sum(|row| row.load.busy) },
        "polls": stats.polls,
        "waiting": sum(|row| row.load.waiting),
        "in_progress": process.totals.in_progress,
        "requests": process.totals.counts.requests,
        "errors": process.totals.counts.errors,
        "responses": responses(&process.totals.counts),
        "failures": failures(&process.totals.counts),
        "refused": stats.refused,
        "bounds_reached": reached(&stats.bounds_reached)
            .map(|(bound, count)| (bound.to_owned(), json!(count)))
            .collect::<Map<String, Value>>(),
        "refused_offers": {
            "count": process.refusals.count,
            "latest": process.refusals.latest.iter().rev()
                .map(|refused| refused_json(refused, &|at| snapshot.unix(at)))
                .collect::<Value>(),
        },
        "turns": stats.turns,
        "bytes": {
            "to_devices": process.totals.counts.bytes_to_devices,
            "from_devices": process.totals.counts.bytes_from_devices,
        },
        "ends": ends,
        "connections": { "now": process.connections, "max": view.limits().connections_max },
        "memory_bytes": { "now": process.memory, "max": view.limits().memory_bytes_max },
    })
}

/// The bounds that have kept something out, and how often.
pub(super) fn reached(counts: &BoundCounts) -> impl Iterator<Item = (&'static str, u64)> + '_ {
    counts.iter().filter(|(_, count)| *count > 0).map(|(bound, count)| (bound.as_str(), count))
}

/// Whole days until this time; negative after it.
pub(super) fn days_left(end: SystemTime, now: SystemTime) -> i64 {
    const DAY: f64 = 86_400.0;
    match end.duration_since(now) {
        Ok(left) => (left.as_secs_f64() / DAY).floor() as i64,
        Err(over) => -((over.duration().as_secs_f64() / DAY).ceil() as i64),
    }
}
