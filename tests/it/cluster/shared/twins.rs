//! Two gateways by one URL, as a copied configuration makes them.

use std::time::Duration;

use reverse_http::{Gateway, Peers, RedisDirectory};

use super::Redis;
use crate::support::{eventually, eventually_within};

/// A directory in which gateways announce themselves once a second.
fn directory(redis: &Redis) -> RedisDirectory {
    RedisDirectory::new(&redis.url()).unwrap().claim_time(Duration::from_secs(3)).unwrap()
}

fn at(redis: &Redis, url: &str) -> Gateway {
    let peers = Peers::shared_in(directory(redis)).advertise(url).unwrap();
    crate::support::gateway().peers(peers).listen("127.0.0.1:0").start().unwrap()
}

fn is_shared(gateway: &Gateway) -> bool {
    gateway.directory_status().unwrap().url_is_shared
}

fn is_listed(redis: &Redis, url: &str) -> bool {
    redis.ask(&["ZRANGE", "ptth:gateways", "0", "-1"]).contains(url)
}

/// When the gateway of this URL last announced itself.
fn announced(redis: &Redis, url: &str) -> String {
    redis.ask(&["ZSCORE", "ptth:gateways", url])
}

#[test]
fn a_second_gateway_by_the_same_url_is_told_and_takes_nothing_with_it() {
    let Some(redis) = Redis::start(&[]) else { return };
    let (url, other) = ("http://gw1.example:9997", "http://gw2.example:9997");
    let (first, alone) = (at(&redis, url), at(&redis, other));
    eventually("they are listed", || {
        (is_listed(&redis, url) && is_listed(&redis, other)).then_some(())
    });
    let copy = at(&redis, url);
    let long = Duration::from_secs(60);
    eventually_within(long, "the copy is told", || is_shared(&copy).then_some(()));
    // So is an operator who looks.
    let report = || directory(&redis).examine(Duration::from_secs(10)).unwrap();
    let told = eventually_within(long, "the check tells", || {
        let urls = report().shared_urls;
        (!urls.is_empty()).then_some(urls)
    });
    assert_eq!(told, [url]);
    // The first one is still there when the copy has gone.
    copy.drain(Duration::from_secs(10));
    assert!(is_listed(&redis, url));
    eventually_within(long, "it is over", || report().shared_urls.is_empty().then_some(()));
    assert!(!is_shared(&first) && !is_shared(&alone));
    first.drain(Duration::from_secs(10));
    assert!(!is_listed(&redis, url) && is_listed(&redis, other));
}

#[test]
fn a_gateway_that_was_killed_and_started_again_shares_its_url_with_nobody() {
    let Some(redis) = Redis::start(&[]) else { return };
    let url = "http://gw1.example:9997";
    // What the killed one has left.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    redis.ask(&["HSET", "ptth:processes", url, &format!("00ff {}", now.as_millis())]);
    let again = at(&redis, url);
    for _ in 0..3 {
        let last = announced(&redis, url);
        eventually_within(Duration::from_secs(60), "it announces itself", || {
            (announced(&redis, url) != last).then_some(())
        });
        assert!(!is_shared(&again));
    }
    // One from the future counts for nothing.
    redis.ask(&["HSET", "ptth:processes", url, "00ff 9000000000000"]);
    eventually_within(Duration::from_secs(60), "it is written over", || {
        (!redis.ask(&["HGET", "ptth:processes", url]).starts_with("00ff")).then_some(())
    });
    // Rubbish in the server's keys stops nobody.
    redis.ask(&["SET", "ptth:processes", "rubbish"]);
    let last = announced(&redis, url);
    eventually_within(Duration::from_secs(60), "it announces itself", || {
        (announced(&redis, url) != last).then_some(())
    });
    assert!(again.directory_status().unwrap().away.is_none());
}
