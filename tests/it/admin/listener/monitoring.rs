//! What monitoring reads.

use serde_json::Value;

use super::{Observed, exchange};
use crate::support::{eventually, repository};

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

#[test]
fn the_dashboard_and_the_alerts_ask_for_metrics_that_there_are() {
    let observed = Observed::start(&["--metrics-per-device", "1"]);
    let mut link = observed.gateway.link("lamp");
    exchange(&observed.gateway, &mut link, "/lamp/");
    observed.device("lamp", "one request", |device| device["requests"] == 1);
    let said = eventually("fresh metrics", || {
        let text = observed.get("/metrics").text();
        text.contains("ptth_device_latency_seconds{").then_some(metrics_in(&text))
    });
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
