//! Claims, take-overs, links, polls and waiting callers, one operation after the other.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use super::*;
use crate::engine::slab::Slab;
use crate::gateway::name_owners::NameOwners;
use crate::limits::REPLACED_MAX;
use crate::proto::turn::Encoding;

fn registry(change: impl FnOnce(&mut Limits)) -> Registry {
    let mut limits = Limits::default();
    change(&mut limits);
    Registry::alone(Arc::new(limits), false)
}
fn owner(session: Option<u8>) -> Owner {
    Owner {
        credential: None,
        session: session.map(|n| [n; 16]),
        token: None,
        certificate: None,
        airplay: false,
    }
}
#[test]
fn a_name_that_is_granted_twice_counts_once() {
    let mut registry = Registry::alone(Arc::new(Limits::default()), false);
    let names = ["a", "b", "a"].map(str::to_owned);
    let claimed = registry.claim(&names, &owner(None), Transport::Turn, Instant::now());
    let registration = claimed.unwrap().registration;
    assert_eq!(registration.names().map(|name| &**name).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(registry.connected(), 2);
    registry.lease_ends(&registration, Instant::now());
    assert_eq!(registry.connected(), 0);
}

/// A token with many names is one device's share of memory, whatever becomes of its names.
#[test]
fn names_of_one_credential_have_one_share_of_memory() {
    let mut registry = Registry::alone(Arc::new(Limits::default()), false);
    let now = Instant::now();
    for (name, credential) in
        [("a", Some("one")), ("b", Some("one")), ("c", Some("two")), ("d", None)]
    {
        let other = Owner { credential: credential.map(Into::into), ..owner(None) };
        assert!(registry.claim(&[name.to_owned()], &other, Transport::Turn, now).is_ok());
    }
    let [a, b, c, d, e] = ["a", "b", "c", "d", "nobody"].map(|name| registry.messages(name));
    assert!(Arc::ptr_eq(&a, &b) && Arc::ptr_eq(&e, &registry.messages("nobody")));
    for (n, other) in [&c, &d, &e].into_iter().enumerate() {
        assert!(!Arc::ptr_eq(&a, other), "{n}");
    }
    drop((a, b, c, d, e));
    for n in 0..1000 {
        registry.messages(&format!("name-{n}"));
    }
    let parts = registry.home.owners.parts();
    assert!(parts < 200, "what nobody holds is swept: {parts}");
}

fn lamp() -> Vec<String> {
    vec!["lamp".to_owned()]
}
fn next(registry: &mut Registry, name: &str) -> Option<Id> {
    registry.next_idle(name, Instant::now()).map(|(id, _)| id)
}
fn ids(n: usize) -> Vec<Id> {
    let mut slab = Slab::new();
    (0..n).map(|_| slab.insert(())).collect()
}

#[test]
fn the_newest_idle_link_is_asked_first() {
    let (mut registry, now, ids) = (registry(|_| ()), Instant::now(), ids(2));
    for id in &ids {
        let claimed = registry.claim(&lamp(), &owner(Some(1)), Transport::Turn, now).unwrap();
        registry.place(&claimed.registration, *id);
        registry.set_idle(&claimed.registration, *id, None);
    }
    assert_eq!(next(&mut registry, "lamp"), Some(ids[1]));
    assert_eq!((registry.links("lamp"), registry.connected()), ((2, 2), 1));
}

#[test]
fn a_new_session_takes_the_name_and_the_old_one_does_not_fight() {
    let (mut registry, now, ids) = (registry(|_| ()), Instant::now(), ids(3));
    let old = registry.claim(&lamp(), &owner(Some(1)), Transport::Turn, now).unwrap();
    assert_eq!(old.up.len(), 1);
    registry.place(&old.registration, ids[0]);
    registry.set_idle(&old.registration, ids[0], None);
    let busy = registry.claim(&lamp(), &owner(Some(1)), Transport::Turn, now).unwrap();
    assert!(
        Arc::ptr_eq(&busy.registration, &old.registration),
        "links of one registration share it"
    );
    registry.place(&busy.registration, ids[1]);

    let new = registry.claim(&lamp(), &owner(Some(2)), Transport::Turn, now).unwrap();
    assert_eq!(
        (new.idle.as_slice(), new.busy.as_slice(), new.replaced.len(), new.up.len()),
        (&ids[..1], &ids[1..2], 1, 0)
    );
    assert!(!registry.in_force(&old.registration) && registry.in_force(&new.registration));
    let denied = registry.claim(&lamp(), &owner(Some(1)), Transport::Turn, now).unwrap_err();
    let retry_after = match &denied {
        Unclaimed::Denied(denied) => denied.retry_after,
        Unclaimed::Elsewhere(_) => None,
    };
    assert_eq!((denied.status(), retry_after), (409, Some(60)));

    // A link of the old epoch that ends later changes nothing.
    assert_eq!(registry.leave(&old.registration, ids[1], now), Left::default());
    // When the successor is gone, the old session may come back.
    assert_eq!(registry.lease_ends(&new.registration, now).down.len(), 1);
    assert!(registry.claim(&lamp(), &owner(Some(1)), Transport::Turn, now).is_ok());
}

#[test]
fn offers_without_a_session_join_and_are_replaced_like_one() {
    let (mut registry, now, ids) = (registry(|_| ()), Instant::now(), ids(2));
    for id in &ids {
        let claimed = registry.claim(&lamp(), &owner(None), Transport::Turn, now).unwrap();
        registry.place(&claimed.registration, *id);
    }
    assert_eq!(registry.links("lamp").0, 2);
    let claimed = registry.claim(&lamp(), &owner(Some(1)), Transport::Turn, now).unwrap();
    assert_eq!(claimed.busy.len(), 2);
    let claimed = registry.claim(&lamp(), &owner(None), Transport::Turn, now).unwrap();
    assert_eq!(claimed.replaced.len(), 1, "an offer without a session replaces a session");
}

#[test]
fn devices_that_share_a_name_are_asked_in_turn() {
    let (now, ids) = (Instant::now(), ids(4));
    let mut registry = Registry::alone(Arc::new(Limits::default()), true);
    let mut links = Vec::new();
    for (id, session) in ids.iter().zip([1, 1, 2, 3]) {
        let claimed = registry.claim(&lamp(), &owner(Some(session)), Transport::Turn, now).unwrap();
        assert!(claimed.replaced.is_empty());
        registry.place(&claimed.registration, *id);
        registry.set_idle(&claimed.registration, *id, None);
        links.push(claimed.registration);
    }
    assert_eq!(registry.links("lamp"), (4, 4));
    let turns: Vec<Id> = (0..6).map(|_| next(&mut registry, "lamp").unwrap()).collect();
    assert_eq!(
        turns,
        [ids[1], ids[2], ids[3], ids[1], ids[2], ids[3]],
        "the newest link of each device in turn"
    );
    // One goes: the others go on.
    registry.leave(&links[2], ids[2], now);
    let turns: Vec<Id> = (0..3).map(|_| next(&mut registry, "lamp").unwrap()).collect();
    assert_eq!(turns, [ids[1], ids[3], ids[1]]);
    // Another credential is still another one.
    let other = Owner {
        credential: Some("other".into()),
        session: Some([4; 16]),
        token: None,
        certificate: None,
        airplay: false,
    };
    assert_eq!(registry.claim(&lamp(), &other, Transport::Turn, now).unwrap_err().status(), 409);
}

#[test]
fn requests_in_flight_are_bounded_per_device() {
    let (mut registry, now, ids) =
        (registry(|l| l.in_flight_per_device_max = 1), Instant::now(), ids(2));
    let mut registration = None;
    for id in &ids {
        let claimed = registry.claim(&lamp(), &owner(Some(1)), Transport::Turn, now).unwrap();
        registry.place(&claimed.registration, *id);
        registry.set_idle(&claimed.registration, *id, None);
        registration = Some(claimed.registration);
    }
    let registration = registration.unwrap();
    let id = next(&mut registry, "lamp").unwrap();
    registry.set_busy(&registration, id);
    assert_eq!(next(&mut registry, "lamp"), None, "one is in flight");
    assert!(registry.enqueue("lamp", Waiter::Caller(1)));
    assert_eq!(registry.next_waiter(&registration, true), None, "a poll would be a second one");
    assert_eq!(
        registry.next_waiter(&registration, false),
        Some(Waiter::Caller(1)),
        "the link that is free now serves the next one"
    );
    registry.set_idle(&registration, id, None);
    assert!(next(&mut registry, "lamp").is_some());
}

#[test]
fn a_name_has_one_alarm_for_its_mailboxes_end_however_often_it_is_taken_over() {
    let (mut registry, now, ids) = (registry(|_| ()), Instant::now(), ids(100));
    let mut alarms = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        let claimed = registry
            .claim(&lamp(), &owner(Some(n as u8)), Transport::Comet(Encoding::Json), now)
            .unwrap();
        assert!(registry.park(
            &claimed.registration,
            *id,
            Encoding::Json,
            Some([n as u8; 16]),
            now
        ));
        alarms.extend(registry.unpark(&claimed.registration, *id, now));
    }
    assert_eq!(alarms.len(), 1);
    let (gap, lamp) = (Limits::default().poll_gap, alarms.pop().unwrap());
    assert_eq!(registry.poll_gap(&lamp, now), Gap::In(gap));
    assert!(
        matches!(registry.poll_gap(&lamp, now + gap), Gap::Over(left, 0) if left.down.len() == 1)
    );
    // The next mailbox has its own again.
    let claimed = registry
        .claim(&[lamp.to_string()], &owner(None), Transport::Comet(Encoding::Json), now)
        .unwrap();
    registry.park(&claimed.registration, ids[0], Encoding::Json, None, now);
    assert_eq!(registry.unpark(&claimed.registration, ids[0], now).len(), 1);
}

#[test]
fn each_session_is_answered_at_once_once_however_many_share_the_name() {
    let (now, ids) = (Instant::now(), ids(1));
    let mut registry =
        Registry::alone(Arc::new(Limits { links_per_device_max: 2, ..Limits::default() }), true);
    let mut is_first = |session: u8| {
        let claimed = registry
            .claim(&lamp(), &owner(Some(session)), Transport::Comet(Encoding::Json), now)
            .unwrap();
        let first =
            registry.park(&claimed.registration, ids[0], Encoding::Json, Some([session; 16]), now);
        registry.unpark(&claimed.registration, ids[0], now);
        first
    };
    assert_eq!([1, 2, 1, 2, 1].map(&mut is_first), [true, true, false, false, false]);
    assert_eq!([3, 2, 1].map(is_first), [true, false, true], "only the latest are remembered");
}

#[test]
fn an_event_goes_again_to_the_session_that_was_given_it_whatever_is_in_flight() {
    let (now, ids, events) = (Instant::now(), ids(3), ids(2));
    let limits = Limits { in_flight_per_device_max: 1, ..Limits::default() };
    let mut registry = Registry::alone(Arc::new(limits), true);
    let park = |registry: &mut Registry, id, session| {
        let claimed = registry
            .claim(&lamp(), &owner(Some(session)), Transport::Comet(Encoding::Json), now)
            .unwrap();
        registry.park(&claimed.registration, id, Encoding::Json, Some([session; 16]), now);
        claimed.registration
    };
    let (one, _) = (park(&mut registry, ids[0], 1), park(&mut registry, ids[1], 2));
    registry.event_begins("lamp", now + Duration::from_secs(60)); // in the hand of session 1, whose poll carried it
    registry.unpark(&one, ids[0], now);
    assert_eq!(registry.next_poll("lamp"), None, "one is in flight");
    assert_eq!(registry.poll_again("lamp", Some([1; 16])), None, "session 2 knows nothing of it");
    registry.requeue("lamp", events[0], Some([1; 16]));
    let two = park(&mut registry, ids[2], 2);
    assert_eq!(registry.next_again(&two), None);
    let one = park(&mut registry, ids[0], 1);
    assert_eq!((registry.next_again(&one), registry.next_again(&one)), (Some(events[0]), None));
    assert_eq!(
        registry.poll_again("lamp", Some([1; 16])),
        Some(ids[0]),
        "it is the one that is in flight"
    );
    registry.requeue("lamp", events[1], Some([1; 16]));
    registry.cancel_wait("lamp", Waiter::Exchange(events[1]));
    assert_eq!(registry.next_again(&one), None);
}

#[test]
fn a_device_whose_held_offer_lapsed_is_there_for_as_long_as_one_that_polls() {
    let (mut registry, now, ids) = (registry(|_| ()), Instant::now(), ids(2));
    let gap = Limits::default().poll_gap;
    let held = |registry: &mut Registry, id| {
        let claimed = registry.claim(&lamp(), &owner(Some(1)), Transport::Turn, now).unwrap();
        registry.place(&claimed.registration, id);
        registry.set_idle(&claimed.registration, id, None);
        (claimed.registration, claimed.up.len())
    };
    let (first, up) = held(&mut registry, ids[0]);
    let alarms = registry.lapse(&first, ids[0], now);
    assert_eq!((up, alarms.len(), registry.connected(), registry.links("lamp")), (1, 1, 1, (0, 0)));
    assert_eq!(registry.poll_gap(&alarms[0], now), Gap::In(gap));
    let (second, up) = held(&mut registry, ids[1]);
    assert_eq!((up, Arc::ptr_eq(&first, &second)), (0, true), "nobody was told that it went");
    assert_eq!(registry.poll_gap(&alarms[0], now + gap), Gap::None);
    registry.lapse(&second, ids[1], now);
    assert!(
        matches!(registry.poll_gap(&alarms[0], now + gap), Gap::Over(left, 0) if left.down.len() == 1)
    );
    assert_eq!((registry.connected(), registry.transport("lamp")), (0, None));
}

#[test]
fn a_device_with_an_event_in_hand_is_there_until_that_has_to_be_answered() {
    let (mut registry, now, ids) = (registry(|_| ()), Instant::now(), ids(2));
    let (gap, late) = (Limits::default().poll_gap, Duration::from_secs(12));
    let park = |registry: &mut Registry, id| {
        let claimed = registry
            .claim(&lamp(), &owner(Some(1)), Transport::Comet(Encoding::Json), now)
            .unwrap();
        registry.park(&claimed.registration, id, Encoding::Json, Some([1; 16]), now);
        claimed.registration
    };
    let registration = park(&mut registry, ids[0]);
    registry.event_begins("lamp", now + late);
    let alarm = registry.unpark(&registration, ids[0], now).remove(0);
    assert_eq!(registry.poll_gap(&alarm, now), Gap::In(gap));
    assert_eq!(
        registry.poll_gap(&alarm, now + gap),
        Gap::In(gap),
        "looked at again in between, in case the event ends"
    );
    assert_eq!(registry.poll_gap(&alarm, now + late - gap / 5), Gap::In(gap / 5));
    assert!(registry.is_polling("lamp") && registry.connected() == 1);
    assert!(
        matches!(registry.poll_gap(&alarm, now + late), Gap::Over(left, 1) if left.down.len() == 1)
    );
    assert_eq!(registry.connected(), 0);
    // Once it is answered, or given up, or its connection closed, the usual time holds.
    registry.event_ends("lamp", true);
    let registration = park(&mut registry, ids[1]);
    registry.event_begins("lamp", now + late);
    let alarm = registry.unpark(&registration, ids[1], now).remove(0);
    registry.event_deserted("lamp");
    assert!(
        matches!(registry.poll_gap(&alarm, now + gap), Gap::Over(left, 1) if left.down.len() == 1)
    );
}

#[test]
fn another_credential_is_refused_while_the_name_is_held() {
    let (mut registry, now) = (registry(|_| ()), Instant::now());
    let mine = Owner {
        credential: Some("mine".into()),
        session: None,
        token: None,
        certificate: None,
        airplay: false,
    };
    let other = Owner {
        credential: Some("other".into()),
        session: None,
        token: None,
        certificate: None,
        airplay: false,
    };
    let claimed = registry.claim(&lamp(), &mine, Transport::Turn, now).unwrap();
    assert_eq!(registry.claim(&lamp(), &other, Transport::Turn, now).unwrap_err().status(), 409);
    registry.lease_ends(&claimed.registration, now);
    assert!(registry.claim(&lamp(), &other, Transport::Turn, now).is_ok());
}

#[test]
fn bounds_are_met_exactly() {
    let (mut registry, now) = (
        registry(|l| {
            (l.links_per_device_max, l.devices_max, l.waiting_per_device_max) = (2, 1, 1);
        }),
        Instant::now(),
    );
    assert!(registry.claim(&lamp(), &owner(None), Transport::Turn, now).is_ok());
    assert!(registry.claim(&lamp(), &owner(None), Transport::Turn, now).is_ok());
    assert_eq!(
        registry.claim(&lamp(), &owner(None), Transport::Turn, now).unwrap_err().status(),
        503
    );
    assert_eq!(
        registry
            .claim(&["door".to_owned()], &owner(None), Transport::Turn, now)
            .unwrap_err()
            .status(),
        503
    );
    assert!(registry.enqueue("lamp", Waiter::Caller(1)));
    assert!(!registry.enqueue("lamp", Waiter::Caller(2)));
    registry.cancel_wait("lamp", Waiter::Caller(1));
    assert!(registry.enqueue("lamp", Waiter::Caller(2)));
    assert!(!registry.enqueue("door", Waiter::Caller(3)), "nobody knows it");
}

fn comes_and_goes(registry: &mut Registry, name: &str, credential: Option<&str>, now: Instant) {
    let owner = Owner {
        credential: credential.map(Into::into),
        session: Some([1; 16]),
        token: None,
        certificate: None,
        airplay: false,
    };
    let claimed = registry.claim(&[name.to_owned()], &owner, Transport::Turn, now).unwrap();
    registry.lease_ends(&claimed.registration, now);
}

#[test]
fn names_that_flap_evict_nobody_and_a_credential_with_many_names_evicts_its_own() {
    let (mut registry, now) = (registry(|l| l.remembered_max = 40), Instant::now());
    comes_and_goes(&mut registry, "lamp", Some("mine"), now);
    for n in 0..1_000 {
        comes_and_goes(&mut registry, &format!("flaps-{}", n % 32), Some("flapping"), now);
    }
    assert!(registry.knows("lamp"));
    assert_eq!((registry.known(), registry.departed.len()), (33, 33));
    for n in 0..1_000 {
        comes_and_goes(&mut registry, &format!("many-{n}"), Some("many"), now);
    }
    registry.tick(now);
    assert!(registry.knows("lamp") && registry.knows("many-999") && !registry.knows("many-0"));
    assert_eq!((registry.known(), registry.departed.len()), (40, 40));
    registry.tick(now + Duration::from_secs(600));
    assert_eq!((registry.known(), registry.departed.len()), (0, 0));
}

#[test]
fn sessions_that_replace_each_other_on_one_name_evict_no_other_names() {
    let (mut registry, now) = (registry(|l| l.remembered_max = 40), Instant::now());
    let session = |n: u32| Owner {
        credential: None,
        session: Some(u128::from(n).to_be_bytes()),
        token: None,
        certificate: None,
        airplay: false,
    };
    let claim = |registry: &mut Registry, name: &str, n| {
        registry.claim(&[name.to_owned()], &session(n), Transport::Turn, now).map(drop)
    };
    assert!(claim(&mut registry, "door", 1).is_ok() && claim(&mut registry, "door", 2).is_ok());
    for n in 1..10_000 {
        assert!(claim(&mut registry, "lamp", n).is_ok());
    }
    assert_eq!(
        claim(&mut registry, "door", 1).unwrap_err().status(),
        409,
        "it was replaced, and that is known still"
    );
    assert_eq!(claim(&mut registry, "lamp", 9_998).unwrap_err().status(), 409);
    let known = registry.entries.iter().map(|(_, e)| e.replaced.len()).sum::<usize>();
    assert_eq!(known, REPLACED_MAX + 1);
    let later = now + Duration::from_secs(600);
    assert!(
        registry.claim(&["door".to_owned()], &session(1), Transport::Turn, later).is_ok(),
        "after `remember` it may come back"
    );
}

#[test]
fn a_name_is_known_for_ten_minutes_after_its_last_link() {
    let (mut registry, now) = (registry(|_| ()), Instant::now());
    let claimed = registry.claim(&lamp(), &owner(None), Transport::Turn, now).unwrap();
    registry.lease_ends(&claimed.registration, now);
    registry.tick(now + Duration::from_secs(599));
    assert!(registry.knows("lamp"));
    registry.tick(now + Duration::from_secs(600));
    assert!(!registry.knows("lamp"));
}

#[test]
fn a_registration_of_a_forgotten_name_does_not_reach_the_name_in_its_place() {
    let (mut registry, now, ids) = (registry(|_| ()), Instant::now(), ids(2));
    let old = registry.claim(&lamp(), &owner(None), Transport::Turn, now).unwrap().registration;
    registry.place(&old, ids[0]);
    registry.leave(&old, ids[0], now);
    let later = now + Duration::from_secs(600);
    registry.tick(later);
    assert!(!registry.knows("lamp"));
    let door = ["door".to_owned()];
    let new = registry.claim(&door, &owner(None), Transport::Turn, later).unwrap().registration;
    registry.place(&new, ids[1]);
    assert!(registry.in_force(&new) && !registry.in_force(&old));
    registry.set_idle(&old, ids[0], None);
    assert_eq!(registry.links("door"), (1, 0));
    registry.set_idle(&new, ids[1], None);
    assert_eq!(registry.leave(&old, ids[1], later), Left::default());
    assert_eq!(registry.links("door"), (1, 1));
    assert_eq!(next(&mut registry, "door"), Some(ids[1]));
}

#[test]
fn a_registration_is_of_no_use_in_another_loop() {
    let owners = Arc::<NameOwners>::default();
    let of_loop = |number| {
        let home = Home { owners: owners.clone(), number };
        Registry::new(Arc::new(Limits::default()), false, home)
    };
    let (mut one, mut two, now, ids) = (of_loop(0), of_loop(1), Instant::now(), ids(1));
    let lamp = one.claim(&lamp(), &owner(None), Transport::Turn, now).unwrap().registration;
    let door = ["door".to_owned()];
    let door = two.claim(&door, &owner(None), Transport::Turn, now).unwrap().registration;
    assert!(one.in_force(&lamp) && two.in_force(&door));
    assert!(!one.in_force(&door) && !two.in_force(&lamp));
    two.set_idle(&lamp, ids[0], None);
    assert_eq!(two.links("door"), (1, 0));
}

#[test]
fn a_name_that_is_expected_is_known_for_as_long_and_anybody_may_claim_it() {
    let (mut registry, now) = (registry(|_| ()), Instant::now());
    assert!(!registry.enqueue("lamp", Waiter::Caller(1)));
    assert!(registry.expect("lamp", now).is_ok());
    assert!(registry.knows("lamp") && registry.enqueue("lamp", Waiter::Caller(1)));
    assert_eq!(
        (registry.links("lamp"), registry.transport("lamp"), registry.connected()),
        ((0, 0), None, 0)
    );
    registry.tick(now + Duration::from_secs(600));
    assert!(registry.knows("lamp"), "somebody waits");
    registry.cancel_wait("lamp", Waiter::Caller(1));
    registry.tick(now + Duration::from_secs(1200));
    assert!(!registry.knows("lamp"));

    assert!(registry.expect("lamp", now).is_ok());
    registry.enqueue("lamp", Waiter::Caller(2));
    let mine = Owner {
        credential: Some("mine".into()),
        session: Some([7; 16]),
        token: None,
        certificate: None,
        airplay: false,
    };
    let claimed = registry.claim(&lamp(), &mine, Transport::Turn, now).unwrap();
    assert_eq!((claimed.up.len(), claimed.replaced.len(), registry.connected()), (1, 0, 1));
    assert_eq!(registry.next_waiter(&claimed.registration, false), Some(Waiter::Caller(2)));
    registry.tick(now + Duration::from_secs(600));
    assert!(registry.knows("lamp"), "it is connected");
}

#[test]
fn several_names_share_their_links() {
    let (mut registry, now, ids) = (registry(|_| ()), Instant::now(), ids(1));
    let names = vec!["https://a.example".to_owned(), "https://b.example".to_owned()];
    let claimed = registry.claim(&names, &owner(None), Transport::Turn, now).unwrap();
    registry.place(&claimed.registration, ids[0]);
    registry.set_idle(&claimed.registration, ids[0], None);
    assert_eq!(next(&mut registry, "https://b.example"), Some(ids[0]));
    registry.set_busy(&claimed.registration, ids[0]);
    assert_eq!(next(&mut registry, "https://a.example"), None);
    // One name is taken over; the link lives on under the other.
    registry.claim(&names[..1], &owner(Some(1)), Transport::Turn, now).unwrap();
    assert!(registry.in_force(&claimed.registration));
    assert_eq!(registry.leave(&claimed.registration, ids[0], now).down.len(), 1);
}

#[test]
fn pinned_links_are_nobody_elses_and_go_when_others_wait_or_they_are_too_many() {
    let mut t = Registry::alone(Limits::default().into(), false);
    let now = Instant::now();
    let who = owner(Some(1));
    let mut keys = Slab::new();
    let ids: Vec<Id> = (0..8).map(|n| keys.insert(n)).collect();
    let registration = ids
        .iter()
        .map(|_| t.claim(&["lamp".to_owned()], &who, Transport::Turn, now).unwrap().registration)
        .last()
        .unwrap();
    ids.iter().for_each(|id| t.place(&registration, *id));
    ids.iter().for_each(|id| t.set_idle(&registration, *id, None));
    // One after the other is asked, and pinned.
    for n in 1..=8 {
        let id = next(&mut t, "lamp").unwrap();
        t.set_busy(&registration, id);
        t.set_pinned(&registration, id);
        assert_eq!(
            (t.surplus_pins("lamp").0, t.links("lamp")),
            (n.max(6) - 6, (8, 8 - n)),
            "{n} of 8"
        );
    }
    assert_eq!(next(&mut t, "lamp"), None);
    let (_, longest) = t.surplus_pins("lamp");
    assert_eq!(longest, Some(ids[7]), "the first that was pinned has idled longest");
    // A waiting caller counts more than the share.
    assert!(t.wants_pin_alarm("lamp") && !t.wants_pin_alarm("lamp"), "one alarm at a time");
    for _ in 0..3 {
        assert!(t.enqueue("lamp", Waiter::Caller(1)));
    }
    assert_eq!(t.surplus_pins("lamp").0, 3);
    // A take-over finds them like other idle links.
    let other = t.claim(&["lamp".to_owned()], &owner(Some(2)), Transport::Turn, now).unwrap();
    assert_eq!(other.idle.len(), 8);
    assert_eq!(t.surplus_pins("lamp").0, 0);
}

#[test]
fn callers_that_wait_only_because_enough_is_in_flight_want_no_link() {
    let ids = ids(3);
    let (mut t, registration) = linked(|l| l.in_flight_per_device_max = 1, Some(1), &ids, 1);
    t.set_busy(&registration, ids[0]);
    t.set_pinned(&registration, ids[0]);
    t.set_busy(&registration, ids[1]);
    for number in 0..3 {
        assert!(t.enqueue("lamp", Waiter::Caller(number)));
    }
    assert_eq!(t.surplus_pins("lamp").0, 0, "one is in flight, and one link is idle");
    assert!(t.wants_pin_alarm("lamp"), "it may be needed when the idle link ends");
    t.leave(&registration, ids[2], Instant::now());
    assert_eq!((t.surplus_pins("lamp").0, t.demand(&registration, 0)), (0, 0));
    t.leave(&registration, ids[1], Instant::now());
    assert_eq!((t.surplus_pins("lamp").0, t.demand(&registration, 0)), (1, 1));
}

#[test]
fn demand_is_what_waits_while_nothing_is_free_and_only_of_a_session() {
    let (mut registry, now, ids) = (registry(|_| ()), Instant::now(), ids(2));
    let claimed = registry.claim(&lamp(), &owner(Some(1)), Transport::Turn, now).unwrap();
    let registration = claimed.registration;
    registry.place(&registration, ids[0]);
    for number in 0..3 {
        assert!(registry.enqueue("lamp", Waiter::Caller(number)));
        assert_eq!(registry.demand(&registration, 0), number as usize + 1);
    }
    registry.set_idle(&registration, ids[0], None);
    assert_eq!(registry.demand(&registration, 0), 0, "a link is free");
    registry.set_busy(&registration, ids[0]);
    let encoding = Encoding::Message;
    let poll = registry.claim(&lamp(), &owner(Some(1)), Transport::Comet(encoding), now);
    registry.park(&poll.unwrap().registration, ids[1], encoding, Some([1; 16]), now);
    assert_eq!(registry.demand(&registration, 0), 0, "a poll is free");
    assert_eq!(registry.demand(&registration, 1), 3, "but for the one that is about to go");

    let (mut registry, now) = (self::registry(|_| ()), Instant::now());
    let claimed = registry.claim(&lamp(), &owner(None), Transport::Turn, now).unwrap();
    registry.place(&claimed.registration, ids[0]);
    assert!(registry.enqueue("lamp", Waiter::Caller(1)));
    assert_eq!(registry.demand(&claimed.registration, 0), 0);
}

/// A registry with links of `lamp`, whose device has answered after `took` ms.
fn linked(
    change: impl FnOnce(&mut Limits),
    session: Option<u8>,
    links: &[Id],
    took: u64,
) -> (Registry, Arc<Registration>) {
    let (mut registry, now) = (registry(change), Instant::now());
    let mut of = None;
    for id in links {
        let claimed = registry.claim(&lamp(), &owner(session), Transport::Turn, now).unwrap();
        registry.place(&claimed.registration, *id);
        let took = Some((Duration::from_millis(took), now));
        registry.set_idle(&claimed.registration, *id, took);
        of = Some(claimed.registration);
    }
    (registry, of.unwrap())
}

#[test]
fn the_request_that_takes_the_last_idle_link_of_a_far_device_is_held_back() {
    let (now, ids) = (Instant::now(), ids(2));
    let (mut registry, registration) = linked(|_| (), Some(1), &ids, 48);
    let period = Some(Duration::from_millis(3));
    assert_eq!(registry.next_idle("lamp", now), Some((ids[1], None)), "there are two");
    registry.set_busy(&registration, ids[1]);
    assert_eq!(registry.next_idle("lamp", now), Some((ids[0], period)));
    registry.held_in_vain(&registration, now);
    assert_eq!(registry.next_idle("lamp", now), Some((ids[0], None)), "nobody came");
    let later = now + Duration::from_secs(1);
    assert_eq!(registry.next_idle("lamp", later), Some((ids[0], period)));
    // Another session may be nearer.
    let new = registry.claim(&lamp(), &owner(Some(2)), Transport::Turn, now).unwrap();
    registry.place(&new.registration, ids[1]);
    registry.set_idle(&new.registration, ids[1], None);
    assert_eq!(registry.next_idle("lamp", later), Some((ids[1], None)));
}

#[test]
fn no_request_is_held_back_where_that_is_of_no_use() {
    let (now, ids) = (Instant::now(), ids(1));
    let hold = |change: fn(&mut Limits), session, took| {
        linked(change, session, &ids, took).0.next_idle("lamp", now).unwrap().1.is_some()
    };
    assert!(hold(|_| (), Some(1), 48));
    assert!(!hold(|_| (), Some(1), 31), "it is near");
    assert!(!hold(|_| (), None, 48), "it is told nothing");
    assert!(!hold(|limits| limits.links_per_device_max = 1, Some(1), 48), "it has all its links");
    assert!(hold(|limits| limits.links_per_device_max = 2, Some(1), 48));
    assert!(!hold(|limits| limits.in_flight_per_device_max = 1, Some(1), 48), "no other may go");
    assert!(hold(|limits| limits.in_flight_per_device_max = 2, Some(1), 48));
}
