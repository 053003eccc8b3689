//! `/metrics` in Prometheus' text format, version 0.0.4, as the crate prometheus-client writes it.
//!
//! The loop has counters already, so there is no second registry: a [`Collector`] encodes a
//! snapshot at each scrape. Label sets are bounded: reasons come from closed lists, and the number
//! of devices with labels is an option.

use std::collections::HashMap;
use std::fmt;
use std::iter::once;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use crate::admin::view::{ClusterView, Snapshot, View};
use crate::gateway::ClusterGateway;
use crate::gateway::peer_table::PeerRow;
use crate::gateway::questions::DeviceRow;
use crate::observe::histogram::{BOUNDS_MS, Fixed};

pub(super) const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// # Errors
/// The crate refuses a value. Writing to a string never fails.
pub(super) fn text(snapshot: Arc<Snapshot>, view: &View) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Told {
        snapshot,
        connections_max: view.limits().connections_max,
        memory_max: view.limits().memory_bytes_max,
        listed: view.metrics_per_device,
    }));
    let mut text = String::with_capacity(8 * 1024);
    prometheus_text::encode(&mut text, &registry)?;
    Ok(text)
}

/// The collector that encodes a snapshot.
struct Told {
    snapshot: Arc<Snapshot>,
    connections_max: usize,
    memory_max: usize,
    /// The number of devices with separate series.
    listed: usize,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told").finish_non_exhaustive()
    }
}

impl Collector for Told {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        page.gauges("ptth_build_info", "The version of this gateway.", once((version, 1)))?;
        self.state(&mut page)?;
        self.exchanges(&mut page)?;
        if let Some(cluster) = &self.snapshot.cluster {
            self.hops(&mut page, cluster)?;
        }
        match self.listed {
            0 => Ok(()),
            most => {
                devices(&mut page, &self.snapshot.devices[..most.min(self.snapshot.devices.len())])
            }
        }
    }
}

/// A page of metrics that is being written. The names of counters have no `_total` here: the crate
/// adds it.
struct Page<'e>(DescriptorEncoder<'e>);

/// The labels of a sample, and its value.
type Sample<'l, const N: usize, V> = ([(&'l str, &'l str); N], V);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: usize) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        metric.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX))
    }

    fn gauges<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<'l, N, usize>>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        samples.into_iter().try_for_each(|(labels, value)| {
            metric.encode_family(&labels)?.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX))
        })
    }

    /// In seconds.
    fn times<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<'l, N, f64>>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        samples
            .into_iter()
            .try_for_each(|(labels, value)| metric.encode_family(&labels)?.encode_gauge(&value))
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter(&value, NO_EXEMPLAR)
    }

    fn counters<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<'l, 1, u64>>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        samples.into_iter().try_for_each(|(labels, value)| {
            metric.encode_family(&labels)?.encode_counter(&value, NO_EXEMPLAR)
        })
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Fixed) -> fmt::Result {
        let bounds = BOUNDS_MS.iter().map(|ms| Duration::from_millis(*ms).as_secs_f64());
        let bounds = bounds.chain(once(f64::MAX)); // the crate's representation of infinity
        let buckets: Vec<(f64, u64)> = bounds.zip(histogram.counts).collect();
        let total = histogram.counts.iter().sum();
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        let exemplars = None::<&HashMap<usize, Exemplar<NoLabelSet, f64>>>;
        metric.encode_histogram(histogram.sum.as_secs_f64(), total, &buckets, exemplars)
    }
}

const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, f64>> = None;

/// Samples that differ in one label.
fn by<'l, V>(
    label: &'l str,
    values: impl IntoIterator<Item = (&'l str, V)>,
) -> impl Iterator<Item = Sample<'l, 1, V>> {
    values.into_iter().map(move |(text, value)| ([(label, text)], value))
}

impl Told {
    fn state(&self, page: &mut Page<'_>) -> fmt::Result {
        let (process, stats) = (&self.snapshot.process, &self.snapshot.stats);
        let sum = |of: fn(&DeviceRow) -> usize| self.snapshot.devices.iter().map(of).sum::<usize>();
        let start = self.snapshot.unix(process.start);
        page.times("ptth_start_time_seconds", "When this gateway was started.", once(([], start)))?;
        page.gauge("ptth_stopping", "1 while this gateway stops.", process.is_stopping.into())?;
        page.gauge("ptth_devices_connected", "Device names that are connected.", stats.devices)?;
        let known = self.snapshot.devices.len();
        page.gauge("ptth_devices_known", "Device names that are connected or remembered.", known)?;
        let links = [("idle", sum(|row| row.load.idle)), ("busy", sum(|row| row.load.busy))];
        page.gauges("ptth_links", "Links of devices by state.", by("state", links))?;
        page.gauge("ptth_polls_held", "Polls that are held.", stats.polls)?;
        let waiting = sum(|row| row.load.waiting);
        page.gauge("ptth_callers_waiting", "Requests that wait for a link or a poll.", waiting)?;
        page.gauge("ptth_connections", "Connections of the event loop.", process.connections)?;
        page.gauge("ptth_connections_max", "Their bound.", self.connections_max)?;
        page.gauge("ptth_memory_bytes", "Memory that limits count.", process.memory)?;
        page.gauge("ptth_memory_max_bytes", "Its bound.", self.memory_max)?;
        let certificates: Vec<_> = process
            .certificates
            .iter()
            .map(|(whose, at, expires)| {
                let end = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                (whose.as_str(), at.to_string(), end.as_secs_f64())
            })
            .collect();
        page.times(
            "ptth_certificate_expires_seconds",
            "When the first certificate of a listener expires, in seconds since 1970.",
            certificates
                .iter()
                .map(|(whose, at, end)| ([("listener", *whose), ("address", at.as_str())], *end)),
        )?;
        page.counter("ptth_turns", "Offers that were answered with 101.", stats.turns)?;
        page.counter(
            "ptth_poll_events",
            "Requests that were sent as replies to polls.",
            stats.events,
        )?;
        page.counter(
            "ptth_refusals",
            "Requests and offers that the gateway answered itself.",
            stats.refused,
        )?;
        let bounds = stats.bounds_reached.iter().map(|(bound, count)| (bound.as_str(), count));
        page.counters(
            "ptth_bound_reached",
            "How often a bound has kept a connection, an offer or a request out.",
            by("bound", bounds),
        )?;
        page.counter(
            "ptth_proxy_headers_refused",
            "Connections of balancers without a valid PROXY header.",
            stats.proxy_headers_refused,
        )?;
        page.counter(
            "ptth_access_log_lost",
            "Requests that the access log lacks because it was not written in time.",
            stats.records_lost,
        )?;
        let ends = stats.closed.iter().map(|(cause, count)| (cause.as_str(), count));
        page.counters("ptth_link_ends", "Links that ended, by cause.", by("cause", ends))
    }

    fn exchanges(&self, page: &mut Page<'_>) -> fmt::Result {
        let totals = &self.snapshot.process.totals;
        let counts = &totals.counts;
        let in_progress = usize::try_from(totals.in_progress).unwrap_or(usize::MAX);
        page.gauge("ptth_requests_in_progress", "Requests in progress.", in_progress)?;
        page.counter("ptth_requests", "Finished requests.", counts.requests)?;
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(counts.statuses);
        page.counters(
            "ptth_responses",
            "Responses to visitors, by class of status.",
            by("class", classes),
        )?;
        page.counters(
            "ptth_request_failures",
            "Requests that failed or were refused, by reason.",
            by("reason", counts.failures.iter().copied()),
        )?;
        let bytes =
            [("to_devices", counts.bytes_to_devices), ("from_devices", counts.bytes_from_devices)];
        page.counters("ptth_body_bytes", "Bytes of bodies and tunnels.", by("direction", bytes))?;
        page.histogram(
            "ptth_exchange_duration_seconds",
            "Requests from their head to the last byte of their answer.",
            &totals.took,
        )?;
        page.histogram(
            "ptth_wait_duration_seconds",
            "How long requests waited for a link or a poll.",
            &totals.waited,
        )?;
        page.histogram(
            "ptth_first_byte_duration_seconds",
            "From the link to the head of the device's response.",
            &totals.first_byte,
        )
    }
}

impl Told {
    fn hops(&self, page: &mut Page<'_>, cluster: &ClusterView) -> fmt::Result {
        let (stats, directory) = (&self.snapshot.stats, &cluster.directory);
        page.counter("ptth_hops", "Requests that were sent to other gateways.", stats.hops)?;
        page.counter(
            "ptth_hops_served",
            "Requests that other gateways sent to this one.",
            stats.hops_served,
        )?;
        page.gauge(
            "ptth_directory_up",
            "1 while the directory of gateways answers.",
            directory.away.is_none().into(),
        )?;
        if let Some(claims) = &directory.claims {
            let names = [("claimed", claims.claimed), ("unclaimed", claims.unclaimed)];
            page.gauges(
                "ptth_directory_names",
                "Names of devices of this gateway, by whether the directory knows them.",
                by("state", names),
            )?;
            page.counter(
                "ptth_directory_names_lost",
                "Names that other gateways have taken over, or had already.",
                claims.lost as u64,
            )?;
            page.gauge(
                "ptth_directory_names_restoring",
                "Names that the directory has lost, and that are not claimed again yet.",
                claims.restoring,
            )?;
            gateways(page, &claims.gateways)?;
        }
        peers(page, &cluster.peers)
    }
}

/// What the gateways say of themselves in the directory, which has a bound on how many there are.
fn gateways(page: &mut Page<'_>, known: &[ClusterGateway]) -> fmt::Result {
    let lives = known.iter().map(|one| (&*one.url, usize::from(one.lives)));
    page.gauges(
        "ptth_cluster_gateway_up",
        "Whether the gateway has announced itself in the directory within a claim time.",
        by("peer", lives),
    )?;
    let names = known.iter().filter_map(|one| Some((&*one.url, one.names?)));
    page.gauges(
        "ptth_cluster_gateway_names",
        "Names of the gateway's connected devices, as it last announced them.",
        by("peer", names),
    )
}

/// The view bounds the number of gateways.
fn peers(page: &mut Page<'_>, rows: &[PeerRow]) -> fmt::Result {
    fn each<V>(
        rows: &[PeerRow],
        of: impl Fn(&PeerRow) -> V,
    ) -> impl Iterator<Item = Sample<'_, 1, V>> {
        by("peer", rows.iter().map(move |row| (&*row.url, of(row))))
    }
    let connections = rows.iter().flat_map(|row| {
        let states = [("idle", row.idle), ("busy", row.open.saturating_sub(row.idle))];
        states.map(|(state, count)| ([("peer", &*row.url), ("state", state)], count))
    });
    let asked = rows.iter().filter(|row| row.state() != "unused");
    let reached = asked.map(|row| (&*row.url, usize::from(row.state() == "answers")));
    page.gauges(
        "ptth_peer_up",
        "Whether the gateway answered when it was last asked.",
        by("peer", reached),
    )?;
    page.counters(
        "ptth_peer_served",
        "Requests that the gateway sent to this one.",
        each(rows, |row| row.served),
    )?;
    page.gauges("ptth_peer_connections", "Connections to other gateways.", connections)?;
    page.counters(
        "ptth_peer_requests",
        "Requests that were sent to the gateway.",
        each(rows, |row| row.sent),
    )?;
    page.counters(
        "ptth_peer_answers",
        "Requests to the gateway that were answered to the end.",
        each(rows, |row| row.answered),
    )?;
    page.counters(
        "ptth_peer_failures",
        "Attempts to reach or ask the gateway that failed, and answers that broke off.",
        each(rows, |row| row.failures),
    )
}

fn devices(page: &mut Page<'_>, rows: &[DeviceRow]) -> fmt::Result {
    fn each<V>(
        rows: &[DeviceRow],
        of: impl Fn(&DeviceRow) -> V,
    ) -> impl Iterator<Item = Sample<'_, 1, V>> {
        by("device", rows.iter().map(move |row| (&*row.name, of(row))))
    }
    page.gauges(
        "ptth_device_up",
        "Whether the device is connected.",
        each(rows, |row| usize::from(row.transport.is_some())),
    )?;
    page.counters(
        "ptth_device_requests",
        "Its finished requests.",
        each(rows, |row| row.counts.requests),
    )?;
    page.counters(
        "ptth_device_errors",
        "Those that failed, or were answered 5xx.",
        each(rows, |row| row.counts.errors),
    )?;
    page.gauges(
        "ptth_device_waiting",
        "Requests that wait for it.",
        each(rows, |r| r.load.waiting),
    )?;
    let percentiles = rows.iter().flat_map(|row| {
        [("0.5", row.p50), ("0.99", row.p99)].into_iter().filter_map(|(quantile, time)| {
            Some(([("device", &*row.name), ("quantile", quantile)], time?.as_secs_f64()))
        })
    });
    page.times(
        "ptth_device_latency_seconds",
        "Percentiles of its exchanges in the last minutes.",
        percentiles,
    )
}
