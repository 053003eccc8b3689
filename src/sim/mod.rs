//! A deterministic simulation: gateways (one or two, each with one event loop or two) and devices in
//! one thread, on a network and a clock that a seed decides.
//!
//! ```text
//!   visitors ─► net ─► GatewayRole ◄─ net ◄─ DeviceRole ─► net ─► servers that count what ran
//!                        ▲   ▲                                     one `again`, events, accepts, commands, timers: a turn as in event_loop.rs
//!                        │   ├── devices and polls that break the protocol      a hostile gateway ◄─ net ◄─ DeviceRole
//!                        │   └── attackers among the visitors, tunnels, programs that borrow links
//!                        └── net ─► another GatewayRole, and a directory that both ask: late, away, forgetful; it reports changes twice
//! ```
//! Invariants, checked on every run: each caller gets its own answer or an error; a link with
//! an unexpected byte is not reused; a POST runs at most once at its server; without injected
//! failures every request is answered, no device counts a failure, although attackers are active, and
//! a tunnel that was cut never ends cleanly; the memory that a device uses for its gateway is bounded;
//! both roles stop when asked to; tables end empty; of the gateways that share a table, at most one
//! has a name, and it is the one in the table; a gateway that stops leaves no claim behind.
//!
//! `cargo test --lib sim` runs a few seconds of seeds. To run more seeds, or to print one
//! seed's story:
//!
//! ```text
//! PTTH_SIM_SEEDS=100000 cargo test --profile sim --lib --all-features sim::runs -- --nocapture
//! PTTH_SIM_SEED=4711 cargo test --profile sim --lib --all-features sim::runs -- --nocapture
//! ```
//! `PTTH_SIM_FROM` is the first seed of many (default 0). A seed means the same run for the same
//! sources and features only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests alone; a simulation that cannot go on has failed

mod actors;
mod attackers;
mod hostile_devices;
pub(crate) mod net;
mod origin;
mod programs;
pub(crate) mod rng;
mod table;
mod tunnels;
mod visitor;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use world::Outcome;

/// Runs one seed. A panic is a violation like any other.
fn run(seed: u64, told: bool) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| world::run(seed, told))).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        let net = net::install(None);
        let (story, fingerprint) =
            net.map_or((Vec::new(), 0), |net| (net.story.unwrap_or_default(), net.fingerprint));
        let violations = vec![format!("panic: {}", text.unwrap_or_default())];
        Outcome { violations, fingerprint, good: 0, failed: 0, turns: 0, story }
    })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

fn tell_story(seed: u64) -> Outcome {
    let outcome = run(seed, true);
    for line in &outcome.story {
        println!("{line}");
    }
    println!(
        "seed {seed}: {} good answers, {} errors, {} turns; violations: {:#?}",
        outcome.good, outcome.failed, outcome.turns, outcome.violations
    );
    outcome
}

/// The time for the seeds of a usual test run.
const USUAL: Duration = Duration::from_secs(5);

#[test]
fn runs_keep_every_promise() {
    if let Some(seed) = number("PTTH_SIM_SEED") {
        assert!(tell_story(seed).violations.is_empty(), "seed {seed} fails");
        return;
    }
    let (from, many) = (number("PTTH_SIM_FROM").unwrap_or(0), number("PTTH_SIM_SEEDS"));
    let (began, mut seeds, mut good, mut errors, mut turns) = (Instant::now(), 0, 0, 0, 0);
    let mut failed = Vec::new();
    while many.map_or(began.elapsed() < USUAL, |many| seeds < many) {
        let seed = from + seeds;
        let outcome = run(seed, false);
        seeds += 1;
        (good, errors, turns) =
            (good + outcome.good, errors + outcome.failed, turns + outcome.turns);
        if !outcome.violations.is_empty() {
            println!("seed {seed}: {:?}", outcome.violations);
            failed.push(seed);
            if failed.len() >= 20 {
                break;
            }
        }
    }
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    println!(
        "{seeds} seeds, {:.0} a minute; {good} good answers, {errors} errors, {turns} turns; failed: {failed:?}",
        seeds as f64 / minutes
    );
    if let Some(seed) = failed.first() {
        tell_story(*seed);
        panic!("seeds {failed:?} fail; replay one with PTTH_SIM_SEED={seed} (src/sim/mod.rs)");
    }
    assert!(good > 0, "no request was answered at all");
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    for seed in 0..40 {
        let (once, twice) = (run(seed, true), run(seed, true));
        assert!(once.story.len() > 10 && once == twice, "seed {seed}");
        assert_eq!(
            run(seed, false).fingerprint,
            once.fingerprint,
            "seed {seed} depends on whether it is told"
        );
    }
    assert_ne!(run(0, false).fingerprint, run(1, false).fingerprint);
}
