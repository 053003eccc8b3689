//! What monitoring reads.

use std::time::Duration;

use serde_json::Value;

use super::{Observed, exchange};
use crate::support::pki::Authority;
use crate::support::{TempDir, eventually, free_port, repository};

// ── What monitoring reads ──

/// Words of a text that may be names of metrics.
fn metrics_in(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let mut names: Vec<String> =
        words.filter(|word| word.starts_with("ptth_")).map(str::to_owned).collect();
    names.sort();
    names.dedup();
    names
}

/// What gateways say that have others beside them. Neither those nor Redis need to be there.
#[track_caller]
fn metrics_of_a_cluster() -> Vec<String> {
    let folder = TempDir::new("metrics");
    let file = folder.0.join("directory");
    std::fs::write(&file, format!("lamp http://127.0.0.1:{}\n", free_port())).unwrap();
    let directory = format!("file:{}", file.display());
    let told = Observed::start(&["--directory", &directory, "--wait-for-link", "0s"]);
    told.gateway.get("/lamp/").expect_refusal(503);
    let mut said = eventually("metrics of another gateway", || {
        let text = told.get("/metrics").text();
        text.contains("ptth_peer_failures_total{").then_some(metrics_in(&text))
    });
    let away = format!("redis://127.0.0.1:{}", free_port());
    let shared = Observed::start(&["--directory", &away]);
    said.extend(metrics_in(&shared.get("/metrics").text()));
    said
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_metrics_that_there_are() {
    let observed = Observed::start(&["--metrics-per-device", "1"]);
    let mut link = observed.gateway.link("lamp");
    exchange(&observed.gateway, &mut link, "/lamp/");
    observed.device("lamp", "one request", |device| device["requests"] == 1);
    let mut said = eventually("fresh metrics", || {
        let text = observed.get("/metrics").text();
        text.contains("ptth_device_latency_seconds{").then_some(metrics_in(&text))
    });
    said.extend(metrics_of_a_cluster());
    let read = |file: &str| {
        std::fs::read_to_string(repository(&format!("examples/monitoring/{file}"))).unwrap()
    };
    let dashboard = read("dashboard.json");
    let board: Value = serde_json::from_str(&dashboard).unwrap();
    assert!(board["panels"].as_array().is_some_and(|panels| panels.len() > 10));
    for file in [dashboard, read("alerts.yml")] {
        let asked = metrics_in(&file);
        assert!(asked.len() > 5);
        let missing: Vec<&String> = asked.iter().filter(|name| !said.contains(name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

#[test]
fn the_days_of_the_gateways_own_certificates_are_told() {
    const DAY: u64 = 86_400;
    let authority = Authority::new();
    let long = authority.issue_for("long", &["localhost"], Duration::from_secs(90 * DAY));
    let short = authority.issue_for("short", &["localhost"], Duration::from_secs(9 * DAY));
    let observed = Observed::start(&[
        "--visitors-cert",
        long.certificate(),
        "--visitors-key",
        long.key(),
        "--devices-cert",
        short.certificate(),
        "--devices-key",
        short.key(),
    ]);
    let told = observed.json("/api/v1/status")["certificates"].clone();
    let days: Vec<_> = told.as_array().unwrap().iter().map(|one| &one["days_left"]).collect();
    assert_eq!(days, [8, 89], "{told}");
    assert_eq!(
        (&told[0]["listener"], &told[1]["listener"]),
        (&"devices".into(), &"visitors".into())
    );
    let metrics = observed.get("/metrics").text();
    for (one, whose) in told.as_array().unwrap().iter().zip(["devices", "visitors"]) {
        let address = one["address"].as_str().unwrap();
        let labels = format!("{{listener=\"{whose}\",address=\"{address}\"}}");
        let line = format!("ptth_certificate_expires_seconds{labels} ");
        let line = metrics.lines().find_map(|found| found.strip_prefix(&line));
        let at: f64 = line.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap();
        assert_eq!(at, one["expires"].as_f64().unwrap());
    }
    assert!(observed.get("/").text().contains("<b>8 d</b><span>left of the first certificate"));
    let plain = Observed::start(&[]);
    assert_eq!(plain.json("/api/v1/status")["certificates"], Value::from(Vec::<Value>::new()));
    assert!(!plain.get("/").text().contains("of the first certificate"));
}
