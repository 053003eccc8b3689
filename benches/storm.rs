//! Storms at full size: `cargo bench --features cli --bench storm [-- SCENE...]`. About six
//! minutes; the scenes are
//!
//! ```text
//!   fleet       a gateway with 10,000 links is killed: 99 of 100 are back within 30 s when it was away for 3 s, within twice the longest pause
//!               when it was away for longer; no accept queue overflows; the gateway weighs what it did
//!   take-overs  1,000 of one name in a row, over links and over polls, asked for without pause
//!   stopped     a device, then the gateway, stand still for 30 s
//!   limits      64 descriptors for a gateway with 500 visitors, 32 for a device
//!   offers      5,000 connections that never finish their offer
//!   cuts        a cut behind every byte of an exchange, over links and over polls
//! ```
//!
//! The scenes are those of `tests/it/outages/storm.rs`, which plays them smaller. As root they run in a
//! network namespace of their own, whose counters of overflows are theirs alone. Fails with the
//! first figure that is not as it has to be.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on has failed"
)]

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use ptth_test_support as support;
use support::storm::cuts;
use support::storm::group::{self, LoopGroup};
use support::storm::scenes::{self, Pace, Transport};

const ALONE: &str = "PTTH_STORM_ALONE";

/// Goes on in a network namespace of its own. Returns where that is not allowed.
fn go_alone() {
    let allowed = Command::new("unshare")
        .args(["--net", "true"])
        .stderr(std::process::Stdio::null())
        .status();
    if !allowed.is_ok_and(|status| status.success()) {
        return println!(
            "not in a network namespace of its own: overflows are printed, not judged"
        );
    }
    let us = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
        .arg(us)
        .args(std::env::args_os().skip(1));
    panic!("going into a network namespace: {}", command.env(ALONE, "1").exec());
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn fleets() {
    let alone = std::env::var_os(ALONE).is_some();
    let group = LoopGroup {
        processes: 10,
        links_each: 970,
        singles: 300,
        backoff: (s(1), s(60)),
        away: s(3),
        within: s(30),
    };
    group::killed_and_started_again(&group, alone);
    group::killed_and_started_again(
        &LoopGroup { backoff: (s(1), s(10)), away: s(20), within: s(20), ..group },
        alone,
    );
}

fn take_overs() {
    scenes::take_overs(1_000, Transport::Links);
    scenes::take_overs(1_000, Transport::Polls);
}

fn stopped() {
    scenes::stopped_device(s(30), Pace { heartbeat: "5s", deadline: s(2) });
    scenes::stopped_gateway(s(30), s(10));
}

fn limits() {
    scenes::gateway_at_its_limit(500);
    scenes::device_at_its_limit(60);
}

fn offers() {
    scenes::half_offers(5_000, s(10));
}

fn cuts() {
    cuts::of_links(1);
    cuts::of_polls(1);
}

fn main() -> ExitCode {
    let _ = rlimit::increase_nofile_limit(u64::MAX); // where that fails, opening the sockets does, and says so
    if std::env::var_os(ALONE).is_none() {
        go_alone();
    }
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect(); // which cargo adds
    let all: [(&str, fn()); 6] = [
        ("fleet", fleets),
        ("take-overs", take_overs),
        ("stopped", stopped),
        ("limits", limits),
        ("offers", offers),
        ("cuts", cuts),
    ];
    if let Some(unknown) = wanted.iter().find(|wanted| !all.iter().any(|(name, _)| name == wanted))
    {
        eprintln!(
            "there is no scene {unknown}; there are {}",
            all.map(|(name, _)| name).join(", ")
        );
        return ExitCode::from(2);
    }
    for (name, scene) in all
        .into_iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name))
    {
        let began = Instant::now();
        scene();
        println!("-- {name}: {:.0} s", began.elapsed().as_secs_f64());
    }
    ExitCode::SUCCESS
}
