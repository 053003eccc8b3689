//! Storms, at the size of a test; `benches/storm.rs` plays the same scenes at full size.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use crate::support::storm::cuts;
use crate::support::storm::group::{self, LoopGroup};
use crate::support::storm::scenes::{self, Pace};
use crate::support::{Ptth, RawGateway, RawPeer, SWITCH, say};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn a_fleet_is_back_soon_after_its_gateway_was_killed() {
    // Away for longer than the longest pause: every device has backed off as far as it goes.
    group::killed_and_started_again(
        &LoopGroup {
            processes: 4,
            links_each: 60,
            singles: 40,
            backoff: (ms(50), ms(2_500)),
            away: ms(3_000),
            within: ms(5_000),
        },
        false,
    );
}

#[test]
fn many_links_lost_together_are_one_failure() {
    // The first pauses after a loss are short, however many links were lost: that each of them
    // fails to be dialled again is one outage.
    group::killed_and_started_again(
        &LoopGroup {
            processes: 4,
            links_each: 60,
            singles: 0,
            backoff: (ms(50), ms(60_000)),
            away: ms(500),
            within: ms(3_000),
        },
        false,
    );
}

#[test]
fn many_links_are_dialled_some_at_a_time() {
    // Accept queues are short: at most 64 dials wait for their answers, or that many more in each
    // second in which none comes.
    const LINKS: usize = 600;
    const UNANSWERED: usize = 100;
    const PER_SECOND: usize = 64;
    let raw = RawGateway::start();
    let began = Instant::now();
    let _device = Ptth::start(&[
        "device",
        &raw.url("lamp"),
        "--text",
        "on",
        "--links",
        &format!("{LINKS}..{LINKS}"),
    ]);
    let mut unanswered = vec![raw.accept()];
    while unanswered.len() < UNANSWERED {
        unanswered.push(raw.accept());
        let seconds = began.elapsed().as_secs() as usize;
        assert!(
            unanswered.len() <= (seconds + 1) * PER_SECOND,
            "{} dials within {:?}",
            unanswered.len(),
            began.elapsed()
        );
    }
    let began = Instant::now();
    for dial in &mut unanswered {
        dial.read_head();
        dial.write(SWITCH);
    }
    let links: Vec<RawPeer> = (UNANSWERED..LINKS).map(|_| raw.turn()).collect();
    let took = began.elapsed();
    say(&format!("{} links were dialled and turned within {took:.2?}", links.len()));
    assert!(
        took.as_secs() < (links.len() / PER_SECOND) as u64,
        "where each is answered the next is dialled at once, not so many a second"
    );
}

#[test]
fn a_visitor_never_gets_a_wrong_answer_from_a_name_that_is_taken_over_a_thousand_times() {
    scenes::take_overs(1_000, scenes::Transport::Links);
}

#[test]
fn nor_from_one_whose_devices_poll() {
    scenes::take_overs(1_000, scenes::Transport::Polls);
}

#[test]
fn a_device_that_stands_still_delays_nobody_else_and_is_back_by_itself() {
    scenes::stopped_device(ms(3_000), Pace { heartbeat: "500ms", deadline: ms(1_000) });
}

#[test]
fn a_gateway_that_stood_still_takes_it_out_on_nobody() {
    scenes::stopped_gateway(ms(3_000), ms(2_000));
}

#[test]
fn a_gateway_at_its_limit_of_descriptors_serves_the_links_it_has() {
    scenes::gateway_at_its_limit(500);
}

#[test]
fn a_device_at_its_limit_of_descriptors_fails_single_exchanges_and_recovers() {
    scenes::device_at_its_limit(60);
}

#[test]
fn offers_that_are_never_finished_are_reaped_and_cost_no_thread() {
    scenes::half_offers(crate::engine::scale::affordable(2_000), ms(2_000));
}

#[cfg(feature = "comet")]
#[test]
fn polls_that_are_cut_anywhere_lose_no_answer_and_run_no_handler_twice() {
    cuts::of_polls(3);
}

#[test]
fn links_that_are_cut_anywhere_give_no_wrong_answer_and_run_nothing_unsafe_twice() {
    cuts::of_links(1);
}
