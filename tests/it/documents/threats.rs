//! The page of threats is true: every row has tests, and they exist. What has no better place
//! stands here, too.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Gateway, LocalServer, Ptth, local, need, process, program, repository, say};

/// The text of all tests, those in the crate included.
fn sources(dir: &Path, out: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}

fn all_tests() -> String {
    let mut text = String::new();
    ["tests/it", "src", "capi"].iter().for_each(|dir| sources(&repository(dir), &mut text));
    text
}

#[test]
fn every_threat_has_its_tests() {
    let (page, tests) =
        (std::fs::read_to_string(repository("docs/threats.md")).unwrap(), all_tests());
    let mut rows = BTreeSet::new();
    for row in page.lines().filter(|line| line.starts_with("| T")) {
        let number: u32 = row[3..].split(' ').next().unwrap().parse().unwrap();
        let named: Vec<&str> =
            row.split('`').skip(1).step_by(2).filter(|word| word.contains('_')).collect();
        assert!(rows.insert(number) && !named.is_empty(), "{row}");
        for name in named {
            assert!(tests.contains(&format!("fn {name}() {{\n")), "T{number}: no test {name}");
        }
    }
    let expected: BTreeSet<u32> = (1..=65).filter(|n| ![33, 34, 44, 45].contains(n)).collect();
    assert!(rows.is_superset(&expected), "{:?} have no row", expected.difference(&rows));
}

/// T24, as far as a test can see it: each option of the command occurs in a test.
#[test]
fn every_option_is_tested_somewhere() {
    let tests = all_tests();
    let mut untested = Vec::new();
    for command in ["gateway", "device"] {
        let help =
            Command::new(env!("CARGO_BIN_EXE_ptth")).args([command, "--help"]).output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        let options = help.lines().filter_map(|line| {
            line.trim_start().strip_prefix("--")?.split([' ', '\n', '=']).next()
        });
        let options: BTreeSet<&str> = options.collect();
        assert!(options.len() > 10, "{help}");
        untested.extend(
            options
                .into_iter()
                .filter(|option| !tests.contains(&format!("--{option}\"")))
                .map(|option| format!("{command} --{option}")),
        );
    }
    assert!(untested.is_empty(), "no test uses {untested:?}");
}

/// Asks for so long, one request after the other; all are answered. The 99th percentile.
fn probe(gateway: &Gateway, time: Duration) -> Duration {
    let mut took = Vec::new();
    let (began, mut visitor) = (Instant::now(), gateway.visitor());
    while began.elapsed() < time {
        let then = Instant::now();
        visitor.ask(&process::get("/quick/x")).expect_ok("on");
        took.push(then.elapsed());
        std::thread::sleep(Duration::from_millis(2));
    }
    took.sort();
    took[took.len() * 99 / 100]
}

#[test]
fn slowhttptest_slows_nobody_else_down() {
    if !need("slowhttptest") {
        return;
    }
    let local = LocalServer::with(local::routes);
    let gateway = Gateway::start(&["--connections-per-address", "20000"]);
    let _quick = Ptth::device(&gateway, "quick", &["--text", "on"]);
    let _slow = Ptth::device(&gateway, "lamp", &["--to", &local.url(), "--links", "1..8"]);
    let quiet = probe(&gateway, Duration::from_secs(3));
    let base = format!("http://{}/lamp", gateway.visitors);
    for (what, options, path) in [
        ("slow heads (-H)", &["-H", "-i", "2", "-t", "GET"][..], "/x"),
        ("slow bodies (-B)", &["-B", "-i", "2", "-t", "POST", "-s", "8192", "-x", "10"], "/hash"),
        (
            "slow readers (-X)",
            &["-X", "-t", "GET", "-w", "512", "-y", "1024", "-n", "5", "-z", "32", "-k", "3"],
            "/big?n=200000",
        ),
    ] {
        let mut attack = Command::new(program("slowhttptest"));
        attack
            .args(["-c", "1000", "-r", "500", "-p", "3", "-l", "7"])
            .args(options)
            .arg("-u")
            .arg(format!("{base}{path}"));
        let mut attack = attack
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let meanwhile = probe(&gateway, Duration::from_secs(6));
        attack.wait().unwrap();
        say(&format!(
            "slowhttptest, {what}, 1,000 connections: p99 of quick requests {meanwhile:?}, {quiet:?} when all is quiet"
        ));
    }
    let log = gateway.process.stderr();
    assert!(!log.contains("quick: down") && !log.contains("panicked"), "{log}");
}
