//! Whose a name is, across gateways: the rules of one gateway, applied in the table.

use std::time::Duration;

use http::Request;
use reverse_http::{Body, Device, GatewayEventKind, Grant, RedisDirectory, Reject};

use super::{One, Redis, built};
use crate::cluster::{Cluster, peers_of};
use crate::support::process::{get, offer};
use crate::support::{Gateway, Ptth, RawPeer, eventually};

#[test]
fn a_device_is_found_whichever_gateway_it_is_connected_to() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (first, second, third) = (One::of(&redis), One::of(&redis), One::of(&redis));
    let (_lamp, _door) = (first.device("lamp", "a lamp"), second.device("door", "a door"));
    for gateway in [&first, &second, &third] {
        gateway.ask(get("/lamp/x")).expect_ok("a lamp");
        gateway.ask(get("/door/x")).expect_ok("a door");
        gateway.ask(get("/nobody/x")).expect_refusal(404);
        // A program asks in the same way.
        let request = Request::get("/x").body(Body::empty()).unwrap();
        let answer = gateway.gateway.device("lamp").send(request).unwrap();
        assert_eq!(answer.into_body().read_to_text(100).unwrap(), "a lamp");
    }
    assert_eq!(redis.owners("lamp"), std::slice::from_ref(&first.url));
    eventually("all gateways are there", || {
        let there = redis.ask(&["ZRANGE", "ptth:gateways", "0", "-1"]);
        [&first.url, &second.url, &third.url].iter().all(|url| there.contains(*url)).then_some(())
    });
    // A gateway that stops takes its claims with it.
    first.gateway.drain(Duration::from_secs(10));
    assert!(redis.owners("lamp").is_empty());
    assert!(!redis.ask(&["ZRANGE", "ptth:gateways", "0", "-1"]).contains(&first.url));
}

#[test]
fn the_newest_session_has_the_name_wherever_it_comes() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (first, second, third) = (One::of(&redis), One::of(&redis), One::of(&redis));
    let events = first.gateway.events();
    let old = built(&first.device_url("lamp"));
    let told = old.events();
    let _old = old.spawn(|_| http::Response::new(Body::from("old"))).unwrap();
    first.gateway.device("lamp").wait_connected(Duration::from_secs(20)).unwrap();
    third.ask(get("/lamp/x")).expect_ok("old");
    let new = second.device("lamp", "new");
    // The old one's links end at once, and what others knew counts no more.
    let down = eventually("it is down", || {
        events.try_iter().find(|event| event.kind == GatewayEventKind::Down)
    });
    assert!(down.detail.contains("at another gateway"), "{}", down.detail);
    eventually("everybody asks the new one", || {
        let all = [&first, &second, &third];
        all.iter().all(|gateway| gateway.ask(get("/lamp/x")).text() == "new").then_some(())
    });
    // The old session does not come back while the new one is there, at whichever gateway.
    eventually("the old one is told", || {
        told.try_iter().any(|event| event.detail.contains("409")).then_some(())
    });
    assert_eq!(first.gateway.directory_status().unwrap().lost, 1);
    assert_eq!(redis.owners("lamp"), std::slice::from_ref(&second.url));
    new.drain(Duration::from_secs(10));
    eventually("the claim is released", || redis.owners("lamp").is_empty().then_some(()));
}

#[test]
fn a_name_is_one_credentials_across_gateways() {
    let Some(redis) = Redis::start(&[]) else { return };
    let directory = || RedisDirectory::new(&redis.url()).unwrap();
    let gateway = || {
        let builder = crate::support::gateway().authorize(|offer| match offer.bearer_token() {
            Some(token) => Ok(Grant::offered().to(token)),
            None => Err(Reject::new(401, "no token")),
        });
        One::built(builder, directory())
    };
    let (first, second) = (gateway(), gateway());
    let device = |gateway: &One, token: &str| {
        let mut device = RawPeer::connect(gateway.gateway.devices_addr());
        device.write(format!(
            "POST /lamp HTTP/1.1\r\nHost: a\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        ));
        let answer = device.read_answer("POST");
        (device, answer)
    };
    let (kept, answer) = device(&first, "mine");
    assert_eq!(answer.status(), 101);
    let (_, refused) = device(&second, "theirs");
    refused.expect_refusal(409);
    assert!(refused.text().contains("at another gateway"), "{}", refused.text());
    assert_eq!(refused.head.get("retry-after"), Some("60"));
    // The same credential may, here without sessions: both have it.
    let (_both, answer) = device(&second, "mine");
    assert_eq!(answer.status(), 101);
    let mut owners = redis.owners("lamp");
    owners.sort();
    let mut all = [first.url.clone(), second.url.clone()];
    all.sort();
    assert_eq!(owners, all);
    // The secret itself is not there.
    assert!(!redis.ask(&["HGETALL", "ptth:n:lamp"]).contains("mine"));
    drop(kept);
}

/// A refused client does not learn where; the operator does.
#[test]
fn the_log_says_at_which_gateway_a_name_is_held() {
    let Some(redis) = Redis::start(&[]) else { return };
    let cluster = Cluster::new();
    let tokens = cluster.path("tokens");
    let drawn = ["one", "two"].map(|_| Ptth::run(&["token", "*"]).1);
    let pairs = drawn.each_ref().map(|drawn| drawn.trim_end().split_once('\n').unwrap());
    std::fs::write(&tokens, pairs.map(|(_, line)| line.to_owned() + "\n").concat()).unwrap();
    let (directory, secret) = (redis.url(), cluster.path("secret"));
    let options = ["--peers", "127.0.0.1:0", "--directory", &directory, "--peer-secret", &secret];
    let start = || Gateway::start(&[&options[..], &["--tokens", &tokens]].concat());
    let (first, second) = (start(), start());
    let (at, _) = (peers_of(&first.process), peers_of(&second.process));
    let [one, two] = pairs.map(|(token, _)| format!("Authorization: Bearer {token}\r\n"));
    let _held = first.link_with("lamp", &one);
    eventually("it is claimed", || (redis.owners("lamp").len() == 1).then_some(()));
    let mut device = second.dial();
    device.write(offer("lamp", &two));
    let refused = device.read_answer("POST");
    refused.expect_refusal(409);
    assert!(!refused.text().contains(&at), "{}", refused.text());
    let held = format!("another credential holds this name, at another gateway (it is at {at})");
    second.process.expect_stderr(&held);
}

#[test]
fn one_session_may_be_connected_to_two_gateways() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (first, second, third) = (One::of(&redis), One::of(&redis), One::of(&redis));
    let device = Device::builder(first.device_url("lamp"))
        .gateway(second.device_url("lamp"))
        .backoff(Duration::from_millis(5)..Duration::from_millis(50))
        .build()
        .unwrap()
        .spawn(|_| http::Response::new(Body::from("both")))
        .unwrap();
    for gateway in [&first, &second] {
        gateway.gateway.device("lamp").wait_connected(Duration::from_secs(20)).unwrap();
        gateway.is_noted(1);
    }
    assert_eq!(redis.owners("lamp").len(), 2);
    for _ in 0..8 {
        third.ask(get("/lamp/x")).expect_ok("both");
    }
    // One of them goes: the other one is asked.
    first.gateway.drain(Duration::from_secs(10));
    eventually("the other one is asked", || {
        (third.ask(get("/lamp/x")).text() == "both").then_some(())
    });
    assert_eq!(redis.owners("lamp"), std::slice::from_ref(&second.url));
    device.stop();
}

#[test]
fn devices_that_share_a_name_share_it_across_gateways() {
    let Some(redis) = Redis::start(&[]) else { return };
    let directory = || RedisDirectory::new(&redis.url()).unwrap();
    let shared = || One::built(crate::support::gateway().shared_names(true), directory());
    let (first, second, third) = (shared(), shared(), shared());
    let (_one, _two) = (first.device("lamp", "one"), second.device("lamp", "two"));
    assert_eq!(redis.owners("lamp").len(), 2);
    first.ask(get("/lamp/x")).expect_ok("one");
    second.ask(get("/lamp/x")).expect_ok("two");
    let text = third.ask(get("/lamp/x")).text();
    assert!(text == "one" || text == "two", "{text}");
    assert_eq!(first.gateway.directory_status().unwrap().lost, 0);
}

#[test]
fn a_device_that_is_refused_behind_its_claim_leaves_none() {
    let Some(redis) = Redis::start(&[]) else { return };
    let mut limits = reverse_http::Limits::default();
    limits.devices_max = 1;
    let first = One::with(limits, RedisDirectory::new(&redis.url()).unwrap());
    let _lamp = first.device("lamp", "lamp");
    let refused = built(&first.device_url("door"));
    let events = refused.events();
    let refused = refused.spawn(|_| http::Response::new(Body::from("door"))).unwrap();
    eventually("it is refused", || {
        events.try_iter().any(|event| event.detail.contains("503")).then_some(())
    });
    refused.stop();
    eventually("its claim is released", || redis.owners("door").is_empty().then_some(()));
    assert_eq!(redis.owners("lamp"), std::slice::from_ref(&first.url));
}
