//! `/metrics` in Prometheus' text format, version 0.0.4.
//!
//! Written here and not by a client crate: those keep registries of counters of their own, which a
//! loop that counts already would have to copy into. Label sets are bounded: reasons come from
//! closed lists, devices have a label only up to the number that the operator gave.

use std::fmt::Write;
use std::time::Duration;

use crate::admin::view::{Snapshot, View};
use crate::gateway::questions::DeviceRow;
use crate::observe::histogram::{BOUNDS_MS, Fixed};

/// A page of metrics in the making.
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n"); // a String takes all
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (n, (label, text)) in labels.iter().enumerate() {
            self.0.push(if n == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"");
            for c in text.chars() {
                match c {
                    '"' => self.0.push_str("\\\""),
                    '\\' => self.0.push_str("\\\\"),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    fn gauge(&mut self, name: &str, help: &str, value: usize) {
        self.one(name, "gauge", help, value as f64);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.one(name, "counter", help, value as f64);
    }

    fn labelled<'l>(
        &mut self,
        (name, kind, help): (&str, &str, &str),
        label: &str,
        values: impl IntoIterator<Item = (&'l str, u64)>,
    ) {
        self.family(name, kind, help);
        for (text, value) in values {
            self.sample(name, &[(label, text)], value as f64);
        }
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Fixed) {
        self.family(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        let mut total = 0;
        for (n, count) in histogram.counts.iter().enumerate() {
            total += count;
            let bound = BOUNDS_MS.get(n).map(|ms| Duration::from_millis(*ms).as_secs_f64());
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| bound.to_string());
            self.sample(&bucket, &[("le", &bound)], total as f64);
        }
        self.sample(&format!("{name}_sum"), &[], histogram.sum.as_secs_f64());
        self.sample(&format!("{name}_count"), &[], total as f64);
    }
}

pub(super) fn text(snapshot: &Snapshot, view: &View) -> String {
    let mut page = Page(String::with_capacity(8 * 1024));
    page.family("ptth_build_info", "gauge", "The version of this gateway.");
    page.sample("ptth_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    of_state(&mut page, snapshot, view);
    of_exchanges(&mut page, snapshot);
    let listed = snapshot.devices.iter().take(view.metrics_per_device);
    of_devices(&mut page, &listed.collect::<Vec<_>>());
    page.0
}

fn of_state(page: &mut Page, snapshot: &Snapshot, view: &View) {
    let (process, stats) = (&snapshot.process, &snapshot.stats);
    let sum = |of: fn(&DeviceRow) -> usize| snapshot.devices.iter().map(of).sum::<usize>();
    let start = snapshot.unix(process.start);
    page.one("ptth_start_time_seconds", "gauge", "When this gateway was started.", start);
    page.gauge("ptth_stopping", "1 while this gateway stops.", process.is_stopping.into());
    page.gauge("ptth_devices_connected", "Device names that are connected.", stats.devices);
    page.gauge(
        "ptth_devices_known",
        "Device names that are connected or remembered.",
        snapshot.devices.len(),
    );
    let links =
        [("idle", sum(|row| row.load.idle) as u64), ("busy", sum(|row| row.load.busy) as u64)];
    page.labelled(("ptth_links", "gauge", "Links of devices by state."), "state", links);
    page.gauge("ptth_polls_held", "Polls that are held.", stats.polls);
    page.gauge(
        "ptth_callers_waiting",
        "Requests in line for a link or a poll.",
        sum(|row| row.load.waiting),
    );
    page.gauge("ptth_connections", "Connections of the event loop.", process.connections);
    page.gauge("ptth_connections_max", "Their bound.", view.limits.connections_max);
    page.gauge("ptth_memory_bytes", "Memory that is counted.", process.memory);
    page.gauge("ptth_memory_max_bytes", "Its bound.", view.limits.memory_bytes_max);
    page.counter("ptth_turns_total", "Offers that were turned.", stats.turns);
    page.counter("ptth_poll_events_total", "Requests that were handed to polls.", stats.events);
    page.counter(
        "ptth_refusals_total",
        "Requests and offers that the gateway answered itself.",
        stats.refused,
    );
    let ends = stats.ends.iter().map(|(cause, count)| (cause.as_str(), count));
    page.labelled(
        ("ptth_link_ends_total", "counter", "Links that ended, by cause."),
        "cause",
        ends,
    );
}

fn of_exchanges(page: &mut Page, snapshot: &Snapshot) {
    let totals = &snapshot.process.totals;
    let counts = &totals.counts;
    page.gauge(
        "ptth_requests_in_progress",
        "Requests in progress.",
        usize::try_from(totals.in_progress).unwrap_or(usize::MAX),
    );
    page.counter("ptth_requests_total", "Requests that are over.", counts.requests);
    let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(counts.statuses);
    page.labelled(
        ("ptth_responses_total", "counter", "Responses to visitors, by class of status."),
        "class",
        classes,
    );
    page.labelled(
        ("ptth_request_failures_total", "counter", "Requests that failed, by reason."),
        "reason",
        counts.failures.iter().copied(),
    );
    let bytes =
        [("to_devices", counts.bytes_to_devices), ("from_devices", counts.bytes_from_devices)];
    page.labelled(
        ("ptth_body_bytes_total", "counter", "Bytes of bodies and tunnels."),
        "direction",
        bytes,
    );
    page.histogram(
        "ptth_exchange_duration_seconds",
        "Requests from their head to the last byte of their answer.",
        &totals.took,
    );
    page.histogram(
        "ptth_wait_duration_seconds",
        "How long requests waited for a link or a poll.",
        &totals.waited,
    );
    page.histogram(
        "ptth_first_byte_duration_seconds",
        "From the link to the head of the device's response.",
        &totals.first_byte,
    );
}

fn of_devices(page: &mut Page, rows: &[&DeviceRow]) {
    if rows.is_empty() {
        return;
    }
    let mut each = |name: &str, kind: &str, help: &str, of: &dyn Fn(&DeviceRow) -> u64| {
        let values = rows.iter().map(|row| (&*row.name, of(row)));
        page.labelled((name, kind, help), "device", values);
    };
    each("ptth_device_up", "gauge", "Whether the device is connected.", &|row| {
        row.transport.is_some().into()
    });
    each("ptth_device_requests_total", "counter", "Its requests that are over.", &|row| {
        row.counts.requests
    });
    each(
        "ptth_device_errors_total",
        "counter",
        "Those that failed, or were answered 5xx.",
        &|row| row.counts.errors,
    );
    each("ptth_device_waiting", "gauge", "Requests in line for it.", &|row| {
        row.load.waiting as u64
    });
    const NAME: &str = "ptth_device_latency_seconds";
    page.family(NAME, "gauge", "Percentiles of its exchanges in the last minutes.");
    for row in rows {
        for (quantile, time) in [("0.5", row.p50), ("0.99", row.p99)] {
            if let Some(time) = time {
                let labels = [("device", &*row.name), ("quantile", quantile)];
                page.sample(NAME, &labels, time.as_secs_f64());
            }
        }
    }
}
