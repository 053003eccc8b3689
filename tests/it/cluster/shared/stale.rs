//! What the table says is none of ours, of a gateway that has gone, or older than what is connected.

use std::time::Duration;

use reverse_http::{Limits, RedisDirectory};

use super::{One, Redis};
use crate::support::process::{get, offer};
use crate::support::{RawPeer, eventually};

fn short(redis: &Redis) -> One {
    let directory = RedisDirectory::new(&redis.url()).unwrap();
    One::with(Limits::default(), directory.claim_time(Duration::from_secs(3)).unwrap())
}

#[test]
fn keys_with_what_is_none_of_ours_keep_no_device_out() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (first, second) = (short(&redis), short(&redis));
    let _lamp = first.device("lamp", "a lamp");
    first.is_noted(1);
    for key in ["ptth:n:lamp", "ptth:n:desk", "ptth:epoch", "ptth:gateways"] {
        redis.ask(&["DEL", key]);
        redis.ask(&["SET", key, "words"]);
    }
    for key in ["ptth:n:nobody", "ptth:n:door"] {
        redis.ask(&["HSET", key, "~0f", "words", "http://127.0.0.1:1", "words", "more", ""]);
        let large = format!("{0} {0} - -", "9".repeat(400));
        redis.ask(&["HSET", key, "http://127.0.0.1:2", &large]);
    }
    redis.ask(&["PUBLISH", "ptth:changes", "words"]);
    let _door = first.device("door", "a door");
    let _desk = first.device("desk", "a desk");
    first.is_noted(3);
    eventually("what was claimed is there again", || {
        let all = ["lamp", "door", "desk"].map(|name| redis.owners(name));
        all.iter().all(|of| *of == [first.url.clone()]).then_some(())
    });
    eventually("both gateways are there", || {
        (redis.ask(&["ZCARD", "ptth:gateways"]) == "2").then_some(())
    });
    for (name, says) in [("lamp", "a lamp"), ("door", "a door"), ("desk", "a desk")] {
        second.ask(get(&format!("/{name}/x"))).expect_ok(says);
    }
    second.ask(get("/nobody/x")).expect_refusal(404);
    assert!(redis.ask(&["GET", "ptth:epoch"]).parse::<u64>().unwrap() > 1_000_000);
    let status = first.gateway.directory_status().unwrap();
    assert!(status.away.is_none() && status.lost == 0, "{status:?}");
}

#[test]
fn claims_that_the_server_has_lost_come_back_and_nobody_is_told() {
    let Some(redis) = Redis::start(&[]) else { return };
    let first = short(&redis);
    let _lamp = first.device("lamp", "a lamp");
    first.is_noted(1);
    redis.ask(&["CONFIG", "RESETSTAT"]);
    redis.ask(&["FLUSHALL"]);
    eventually("it is there again", || {
        (redis.owners("lamp") == std::slice::from_ref(&first.url)).then_some(())
    });
    let calls = redis.ask(&["INFO", "commandstats"]);
    assert!(calls.contains("cmdstat_hset") && !calls.contains("cmdstat_publish"), "{calls}");
    // One that is new is told of.
    let _door = first.device("door", "a door");
    assert!(redis.ask(&["INFO", "commandstats"]).contains("cmdstat_publish:calls=1,"));
}

#[test]
fn a_server_that_has_lost_everything_gives_no_smaller_epochs() {
    let Some(redis) = Redis::start(&[]) else { return };
    let [first, second] = [(); 2].map(|()| One::of(&redis));
    let epoch = || redis.ask(&["GET", "ptth:epoch"]).parse::<u64>().unwrap();
    let _old = first.device("lamp", "old");
    let before = epoch();
    redis.ask(&["FLUSHALL"]);
    // Else the older session, when it is renewed, would take the name back.
    let _new = second.device("lamp", "new");
    assert!(epoch() > before, "{} behind {before}", epoch());
    eventually("the older one is told", || {
        (first.gateway.directory_status().unwrap().lost == 1).then_some(())
    });
    assert_eq!(redis.owners("lamp"), std::slice::from_ref(&second.url));
    first.ask(get("/lamp/x")).expect_ok("new");
}

#[test]
fn a_gateway_that_has_claims_and_no_device_costs_no_request() {
    let Some(redis) = Redis::start(&[]) else { return };
    let [first, second, third] = [(); 3].map(|()| One::of(&redis));
    let names: Vec<String> = (0..16).map(|n| format!("lamp{n}")).collect();
    let _devices: Vec<_> = names.iter().map(|name| second.device(name, "a lamp")).collect();
    for name in &names {
        // As of a gateway that was killed, started again, and whose devices went to another one.
        let key = format!("ptth:n:{name}");
        let claim = redis.ask(&["HGET", &key, &second.url]);
        assert_eq!(redis.ask(&["HSET", &key, &third.url, &claim]), "1");
        first.ask(get(&format!("/{name}/x"))).expect_ok("a lamp");
    }
}

/// At once: it is not there to hear of it, and its claim would count for as long as claims do.
#[test]
fn the_claim_of_a_gateway_that_was_killed_gives_way_to_a_newer_session() {
    let Some(redis) = Redis::start(&[]) else { return };
    let [first, second] = [(); 2].map(|()| One::of(&redis));
    let gone = ["HSET", "ptth:n:lamp", "http://127.0.0.1:1", "1 9000000000000 - 0f"];
    assert_eq!(redis.ask(&gone), "1");
    let _lamp = first.device("lamp", "a lamp");
    assert_eq!(redis.owners("lamp"), std::slice::from_ref(&first.url));
    second.ask(get("/lamp/x")).expect_ok("a lamp");
    assert_eq!(second.gateway.stats().hops, 1);
}

#[test]
fn a_session_that_was_replaced_while_the_server_was_away_stays_replaced() {
    let Some(redis) = Redis::start(&[]) else { return };
    let mut limits = Limits::default();
    limits.directory_timeout = Duration::from_millis(500);
    let [first, second] =
        [(); 2].map(|()| One::with(limits.clone(), RedisDirectory::new(&redis.url()).unwrap()));
    let comes = |to: &One, session: char| {
        let mut device = RawPeer::connect(to.gateway.devices_addr());
        let session = format!("PTTH-Session: {}\r\n", session.to_string().repeat(32));
        device.write(offer("lamp", &session));
        let answer = device.read_answer("POST");
        (device, answer)
    };
    let (_old, answer) = comes(&first, 'a');
    assert_eq!(answer.status(), 101);
    first.is_noted(1);
    redis.process.signal("STOP");
    let (_new, answer) = comes(&first, 'b');
    assert_eq!(answer.status(), 101);
    redis.process.signal("CONT");
    first.is_noted(1);
    // Neither here nor there.
    comes(&first, 'a').1.expect_refusal(409);
    comes(&second, 'a').1.expect_refusal(409);
    assert_eq!(comes(&second, 'b').1.status(), 101);
}

#[test]
fn renewals_go_together() {
    let Some(redis) = Redis::start(&[]) else { return };
    let first = short(&redis);
    let _devices: Vec<RawPeer> = (0..60)
        .map(|n| {
            let mut device = RawPeer::connect(first.gateway.devices_addr());
            device.write(offer(&format!("lamp{n}"), ""));
            assert_eq!(device.read_answer("POST").status(), 101);
            device
        })
        .collect();
    first.is_noted(60);
    redis.ask(&["CONFIG", "RESETSTAT"]);
    let calls = |of: &str| {
        let stats = redis.ask(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix(of)?.split(',').next());
        line.map_or(0, |calls| calls.parse::<usize>().unwrap())
    };
    let scripts = eventually("they are renewed four times", || {
        let (names, scripts) = (calls("cmdstat_hset:calls="), calls("cmdstat_evalsha:calls="));
        (names >= 240).then_some(scripts)
    });
    assert!(scripts <= 80, "{scripts} scripts for 240 names");
}
