//! The ledger with a table that always fails, or that answers as the test says.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

/// A table that does not answer.
struct Unreachable;

impl SharedTable for Unreachable {
    fn find(&self, _: &[&str]) -> Result<Vec<Vec<String>>, Failed> {
        Err("away".into())
    }
    fn claim(&self, _: &str, _: &[String], _: &Claimant) -> Result<Verdict, Failed> {
        Err("away".into())
    }
    fn renew(&self, _: &str, _: &[Renewal]) -> Result<Vec<Renewed>, Failed> {
        Err("away".into())
    }
    fn release(&self, _: &str, _: &[(Arc<str>, u64)]) -> Result<(), Failed> {
        Err("away".into())
    }
    fn announce(&self, _: &str, _: Option<usize>, _: bool) -> Result<Announced, Failed> {
        Err("away".into())
    }
    fn listen(&self, _: &mut dyn FnMut(Option<Change>) -> bool) -> Result<(), Failed> {
        Err("away".into())
    }
    fn claim_time(&self) -> Duration {
        Duration::from_secs(30)
    }
}

#[test]
fn devices_that_come_and_go_while_the_table_does_not_answer_use_bounded_memory() {
    let ledger = Ledger::new(Arc::new(Unreachable));
    let claimant = Claimant { credential: "".into(), session: "01".into() };
    let names: Vec<Arc<str>> = (0..10).map(|n| format!("lamp{n}").into()).collect();
    for n in 0..100_000 {
        let name = &names[n % names.len()];
        ledger.hold(name, 0, &claimant);
        if n % 3 == 0 {
            ledger.let_go(name);
        }
    }
    let state = ledger.lock();
    assert!(state.due.len() <= 2 * names.len() + BATCH, "{}", state.due.len());
    assert!(state.releases.is_empty());
    let is_due = |name: &Arc<str>| {
        let turn = state.held.get(name).map(|held| held.turn);
        state.due.iter().any(|Reverse((_, due, of))| of == name && Some(*due) == turn)
    };
    assert!(state.held.keys().all(is_due));
}

#[test]
fn a_table_that_failed_a_lookup_is_tried_at_once() {
    let ledger = Ledger::new(Arc::new(Unreachable));
    let now = Instant::now();
    let next = |failed_at| ledger.lock().next_step(failed_at, now);
    assert_eq!(next(None), now + RECHECK);
    assert!(ledger.find(&["lamp"]).is_err());
    assert_eq!(next(None), now);
    // There is a pause after an attempt that failed, and after one that succeeded.
    assert_eq!(next(Some(now)), now + RETRY);
    ledger.lock().back = Some(now);
    assert_eq!(next(None), now + RECHECK);
}

#[test]
fn a_renewal_is_checked_soon_if_its_device_was_replaced_meanwhile() {
    let ledger = Ledger::new(Arc::new(Unreachable));
    let session = |text: &str| Claimant { credential: "".into(), session: text.into() };
    let lamp: Arc<str> = "lamp".into();
    let tell: Tell = Arc::new(|_| {});
    for (asked, kept, holds) in [(5, 5, "01"), (0, 5, "01"), (5, 7, "01"), (5, 5, "02")] {
        *ledger.lock() = State::default();
        ledger.hold(&lamp, 5, &session(holds));
        let renewal = Renewal { name: lamp.clone(), epoch: asked, claimant: session("01") };
        ledger.renewed(&[renewal], &[Renewed::Kept { epoch: kept }], &tell);
        let state = ledger.lock();
        let turn = state.held[&lamp].turn;
        let due = state.due.iter().find(|Reverse((_, due, _))| *due == turn).unwrap();
        let is_soon = due.0.0 <= Instant::now() + RECHECK;
        assert_eq!(is_soon, kept == 7 || holds == "02", "{asked} {kept} {holds}");
    }
}

/// The device is still connected when its claim is renewed again.
#[test]
fn a_claim_is_lost_once_until_another_device_is_admitted() {
    let ledger = Ledger::new(Arc::new(Unreachable));
    let claimant = Claimant { credential: "".into(), session: "01".into() };
    let lamp: Arc<str> = "lamp".into();
    let told = Arc::new(AtomicUsize::new(0));
    let counter = told.clone();
    let tell: Tell = Arc::new(move |told| {
        assert!(matches!(told, Told::Lost { epoch: 5, .. }));
        counter.fetch_add(1, Relaxed);
    });
    let renewal = [Renewal { name: lamp.clone(), epoch: 5, claimant: claimant.clone() }];
    for admitted in 1..=2 {
        ledger.hold(&lamp, 5, &claimant);
        for answer in [Renewed::Held, Renewed::Newer, Renewed::Held] {
            ledger.renewed(&renewal, &[answer], &tell);
            assert_eq!((ledger.status().lost, told.load(Relaxed)), (admitted, admitted));
        }
    }
}

#[test]
fn the_more_gateways_there_are_the_less_often_each_asks_for_the_list() {
    let mut state = State::default();
    assert!(state.lists());
    let gateway =
        |n: u32| ClusterGateway::read(format!("http://a{n}:1"), false, Duration::ZERO, "7 30000");
    let now = Instant::now();
    for (count, ago, lists) in
        [(0, 0, true), (3, 10, true), (100, 9, false), (100, 10, true), (1000, 60, false)]
    {
        state.gateways = (0..count).filter_map(gateway).collect();
        state.listed_at = now.checked_sub(Duration::from_secs(ago));
        assert_eq!(state.lists(), lists, "{count} gateways, {ago} s");
    }
}
