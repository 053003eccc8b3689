//! The suite about itself: what is skipped is said once, and never under CI.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::{Command, Output};

use crate::support::{Hash, need, pattern};

/// Set for the tests of this file when they are to be skipped, for want of a peer that nobody has.
const SKIPS: &str = "PTTH_TEST_SKIPS";

/// Runs the tests of this file in a process of their own, where both are skipped.
fn skipping(ci: Option<&str>) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["suite::", "--test-threads", "2"]).env(SKIPS, "1").env_remove("CI");
    if let Some(ci) = ci {
        command.env("CI", ci);
    }
    command.output().unwrap()
}

fn is_skipped() -> bool {
    std::env::var_os(SKIPS).is_some() && !need("a-peer-that-nobody-has")
}

#[test]
fn a_missing_peer_is_said_once_at_the_end_with_the_command_that_installs_it() {
    if is_skipped() {
        return;
    }
    let output = skipping(None);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}");
    let told = "SKIPPED 2 tests for want of: a-peer-that-nobody-has. To install what is missing: bash .ci/peers";
    assert_eq!(errors.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>(), [told]);
}

#[test]
fn under_ci_a_missing_peer_fails_the_test() {
    if is_skipped() {
        return;
    }
    let output = skipping(Some("true"));
    let (out, errors) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(101), "{out}{errors}");
    assert!(
        out.contains("2 failed")
            && out.contains("a-peer-that-nobody-has is missing, and under CI no test is skipped"),
        "{out}"
    );
    assert!(!errors.contains("SKIPPED"), "{errors}");
}

#[test]
fn the_check_sum_does_not_depend_on_how_bytes_are_cut() {
    let bytes = pattern(70_003);
    let whole = Hash::of(&bytes);
    assert_eq!(whole, Hash::of_pattern(70_003));
    for step in [1, 3, 7, 8, 13, 4096] {
        let mut hash = Hash::default();
        bytes.chunks(step).for_each(|piece| hash.update(piece));
        assert_eq!(hash.finish(), whole, "in steps of {step}");
    }
    let mut changed = bytes;
    changed.swap(5_000, 5_001);
    assert_ne!(Hash::of(&changed), whole);
}
