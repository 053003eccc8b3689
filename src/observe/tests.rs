//! Counting, remembering and forgetting.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use super::*;
use crate::close_reason::CloseCause;
use crate::limits::Limits;
use crate::limits::OBSERVED_AWAY_MAX;
use crate::observe::exchanged::Exchanged;
use crate::observe::row::{CHANGES_MAX, Done, OfferSeen, RECENT_MAX, Row};
use crate::observe::table::{Bounds, SPARE_MAX};
use crate::observe::texts::{PATH_BYTES_MAX, REASON_BYTES_MAX};
use crate::proto::head;
use crate::proto::turn::Transport;

fn up(observer: &Observer, name: &str) {
    observer.changed(name, "up", "PTTH/1.0", Some(Transport::Turn), None);
}

fn down(observer: &Observer, name: &str) {
    observer.changed(name, "down", "closed", None, Some(CloseCause::Closed));
}

fn offered(observer: &Observer, name: &str, credential: &str) {
    let offer = OfferSeen { agent: "ptth/0.1.0".into(), ..OfferSeen::default() };
    observer.offered(name, offer, &Some(credential.into()));
}

fn asked(observer: &Observer, name: &str, target: &str) -> Observed {
    let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = head::request(text.as_bytes(), &Limits::default(), head::LineEnds::Crlf);
    observer.request(name, &head.unwrap().unwrap(), &Visit::default())
}

#[test]
fn an_exchange_is_counted_where_it_ends_however_it_ends() {
    let observer = Observer::on(Bounds { names: 10, bytes: 1 << 20, records: 1 << 20 });
    up(&observer, "lamp");
    let mut fine = asked(&observer, "lamp", "/status?token=secret");
    fine.attached(Some(1));
    fine.answered(200);
    fine.received(7);
    assert_eq!(observer.table().unwrap().get("lamp").unwrap().in_progress, 1);
    drop(fine);
    let mut late = asked(&observer, "lamp", "/on");
    late.sent(3);
    late.failed("late", 504);
    late.failed("stopped", 0);
    drop(late);
    drop(asked(&observer, "nobody", "/"));
    let table = observer.table().unwrap();
    let row = table.get("lamp").unwrap();
    assert_eq!((row.counts.requests, row.counts.errors, row.in_progress), (2, 1, 0));
    assert_eq!((row.counts.statuses[1], row.counts.statuses[4]), (1, 1));
    assert_eq!((row.counts.bytes_from_devices, row.counts.bytes_to_devices), (7, 3));
    assert_eq!(row.counts.failures, [("late", 1)]);
    assert_eq!(&*row.recent[0].path, "/status");
    assert_eq!((table.totals.counts.requests, table.totals.in_progress), (3, 0));
    assert!(table.get("nobody").is_none());
}

/// The memory of a finished exchange is used again, but nothing that it said.
#[test]
fn nothing_of_a_finished_exchange_is_in_the_next_one() {
    let observer = Observer::on(Bounds { names: 10, bytes: 1 << 20, records: 1 << 20 });
    up(&observer, "lamp");
    let mut first = asked(&observer, "lamp", "/a/long/path");
    first.attached(Some(1));
    first.answered(503);
    first.sent(1);
    first.received(2);
    first.failed("late", 504);
    drop(first);
    drop(asked(&observer, "lamp", "/b"));
    drop(asked(&observer, "nobody", "/c"));
    let mut table = observer.table().unwrap();
    let row = table.get("lamp").unwrap();
    let recent: Vec<_> = row.recent.iter().map(|done| (&*done.path, done.status)).collect();
    assert_eq!(recent, [("/a/long/path", 504), ("/b", 0)]);
    assert_eq!((row.recent[1].failure, row.counts.errors), (None, 1));
    assert_eq!((row.counts.bytes_to_devices, row.counts.bytes_from_devices), (1, 2));
    let next = table.begin("lamp", Instant::now());
    assert!(next.attached.is_none() && next.first_byte.is_none() && next.path.is_empty());
}

#[test]
fn so_many_finished_exchanges_are_kept_for_the_next_ones() {
    let observer = Observer::on(Bounds { names: 10, bytes: 1 << 20, records: 1 << 20 });
    up(&observer, "lamp");
    let path = format!("/{}", "x".repeat(1_000));
    let all: Vec<Observed> = (0..3 * SPARE_MAX).map(|_| asked(&observer, "lamp", &path)).collect();
    drop(all);
    let table = observer.table().unwrap();
    assert_eq!(table.spare.len(), SPARE_MAX);
    let bytes = |spare: &Exchanged| size_of::<Exchanged>() + spare.path.capacity();
    let kept: usize = table.spare.iter().map(|spare| bytes(spare)).sum();
    assert!(kept <= 20 * 1024, "{kept}");
}

#[test]
fn of_names_that_are_away_the_longest_away_is_forgotten_first() {
    let observer = Observer::on(Bounds { names: 3, bytes: 1 << 20, records: 1 << 20 });
    for name in ["a", "b", "c"] {
        up(&observer, name);
    }
    down(&observer, "b");
    down(&observer, "a");
    let orphan = asked(&observer, "b", "/");
    up(&observer, "d");
    assert!(observer.table().unwrap().get("b").is_none());
    drop(orphan); // its row is another's now
    assert_eq!(observer.table().unwrap().get("d").unwrap().counts.requests, 0);
    up(&observer, "a");
    up(&observer, "e"); // nobody is away: the registry bounds the connected names
    let mut table = observer.table().unwrap();
    assert_eq!(table.rows(0, 100, Instant::now()).0.count(), 4);
    assert_eq!(table.get("a").unwrap().ups, 2);
}

#[test]
fn what_is_remembered_of_a_device_is_bounded() {
    let observer = Observer::on(Bounds { names: 3, bytes: 1 << 20, records: 1 << 20 });
    up(&observer, "lamp");
    let path = format!("/{}", "x".repeat(1000));
    for _ in 0..100 {
        drop(asked(&observer, "lamp", &path));
        observer.changed("lamp", "ended", &"y".repeat(1000), Some(Transport::Turn), None);
    }
    let table = observer.table().unwrap();
    let row = table.get("lamp").unwrap();
    assert_eq!((row.recent.len(), row.changes.len()), (RECENT_MAX, CHANGES_MAX));
    assert!(row.recent.iter().all(|done| done.path.len() <= PATH_BYTES_MAX));
    assert!(row.changes.iter().all(|change| change.reason.len() <= REASON_BYTES_MAX));
    assert!(row.minutes.len() <= 2);
    assert!(row.bytes() < 14 * 1024, "{}", row.bytes());
    assert!(size_of::<Row>() < 768 && size_of::<Done>() <= 136, "{}", size_of::<Row>());
}

#[test]
fn what_is_remembered_is_counted_and_gone_when_it_is_forgotten() {
    let observer = Observer::on(Bounds { names: 3, bytes: 1 << 20, records: 1 << 20 });
    assert_eq!(observer.bytes(), 0);
    up(&observer, "lamp");
    offered(&observer, "lamp", "mine");
    let idle = observer.bytes();
    assert!((300..1_536).contains(&idle), "{idle}");
    (0..40).for_each(|_| drop(asked(&observer, "lamp", "/a/path")));
    down(&observer, "lamp");
    let busy = observer.bytes();
    assert!(busy > idle + 2_048, "{busy}");
    let began = Instant::now();
    observer.tick(began + OBSERVED_AWAY_MAX - Duration::from_secs(60));
    assert_eq!(observer.bytes(), busy);
    observer.tick(began + OBSERVED_AWAY_MAX + Duration::from_secs(60));
    assert!(observer.table().unwrap().get("lamp").is_none());
    assert_eq!((observer.bytes(), observer.table().unwrap().bytes_away), (0, 0));
}

#[test]
fn of_names_that_are_away_the_credential_with_most_loses_its_oldest() {
    let observer = Observer::on(Bounds { names: 4, bytes: 1 << 20, records: 1 << 20 });
    let comes_and_goes = |name: &str, credential: &str| {
        up(&observer, name);
        offered(&observer, name, credential);
        down(&observer, name);
    };
    comes_and_goes("lamp", "mine");
    (0..100).for_each(|n| comes_and_goes(&format!("n{n}"), "other"));
    let has = |name: &str| observer.table().unwrap().get(name).is_some();
    assert!(has("lamp") && has("n99") && !has("n0"));
    assert_eq!(observer.table().unwrap().names.len(), 4);
}

#[test]
fn memory_has_a_bound_and_histories_stay_as_they_are_behind_it() {
    let bytes_max = 32 * 1024;
    let observer = Observer::on(Bounds { names: 1_000, bytes: bytes_max, records: 1 << 20 });
    for n in 0..100 {
        let name = format!("n{n}");
        up(&observer, &name);
        down(&observer, &name);
    }
    assert!(observer.bytes() <= bytes_max / 2 + 1_024, "{}", observer.bytes());
    assert!(observer.table().unwrap().get("n99").is_some(), "the latest are there");
    for n in 0..8 {
        up(&observer, &format!("busy{n}"));
    }
    let path = format!("/{}", "x".repeat(90));
    for n in 0..800 {
        drop(asked(&observer, &format!("busy{}", n % 8), &path));
    }
    let bytes = observer.bytes();
    assert!(bytes < bytes_max + 4 * 1_024, "{bytes}");
    let table = observer.table().unwrap();
    let row = table.get("busy7").unwrap();
    assert!(row.counts.requests == 100 && !row.recent.is_empty(), "the latest are there");
    let rows = table.rows.iter().flatten();
    assert_eq!(rows.map(|row| row.bytes()).sum::<usize>(), observer.bytes(), "none is lost");
}

#[test]
fn an_observer_that_is_off_remembers_nothing() {
    let observer = Observer::default();
    up(&observer, "lamp");
    let observed = asked(&observer, "lamp", "/");
    assert!(observed.in_progress(Instant::now()).is_none() && observer.table().is_none());
}
