//! The table does not answer, refuses, or has lost what it knew: devices of the gateway itself are
//! served as ever, and what was missed is made up for.

use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use reverse_http::{GatewayEventKind, Grant, Limits, RedisDirectory, Reject};

use super::{One, Redis, dial};
use crate::support::process::get;
use crate::support::{
    RawPeer, TempDir, eventually, eventually_within, free_port, hung_unix_listener,
};

/// The status, and why.
fn away(of: &One) -> Option<String> {
    of.gateway.directory_status().unwrap().away.map(|(why, _)| why)
}

#[test]
fn a_server_that_hangs_keeps_nobody_waiting() {
    let Some(redis) = Redis::start(&[]) else { return };
    let mut limits = Limits::default();
    limits.directory_timeout = Duration::from_secs(1);
    let with = || One::with(limits.clone(), RedisDirectory::new(&redis.url()).unwrap());
    let (first, second) = (with(), with());
    let _lamp = first.device("lamp", "a lamp");
    second.ask(get("/lamp/x")).expect_ok("a lamp");
    redis.process.signal("STOP");
    // What was known is known still; what was not cannot be found, which is said in time.
    first.ask(get("/lamp/x")).expect_ok("a lamp");
    second.ask(get("/lamp/x")).expect_ok("a lamp");
    let began = Instant::now();
    let refused = second.ask(get("/door/x"));
    refused.expect_refusal(503);
    assert!(refused.text().contains("directory"), "{}", refused.text());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(refused.head.get("retry-after"), Some("1"));
    // Behind that one nobody waits: eight would take half of that time each.
    let began = Instant::now();
    for n in 0..8 {
        second.ask(get(&format!("/door{n}/x"))).expect_refusal(503);
    }
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    // A device is admitted nevertheless, and served here.
    let _door = first.device("door", "a door");
    first.ask(get("/door/x")).expect_ok("a door");
    assert_eq!(first.gateway.directory_status().unwrap().unclaimed, 1);
    eventually("the state is told", || away(&first).filter(|why| why.contains("in time")));
    redis.process.signal("CONT");
    first.is_noted(2);
    eventually("the door is found", || {
        (second.ask(get("/door/x")).text() == "a door").then_some(())
    });
}

/// A Unix socket of a server that hangs takes as many connections as its backlog has room for.
#[test]
fn a_socket_without_room_keeps_nobody_waiting_and_no_gateway_from_ending() {
    let folder = TempDir::new("hung");
    let path = folder.0.join("redis.sock");
    let _listener = hung_unix_listener(&path);
    let mut limits = Limits::default();
    limits.directory_timeout = Duration::from_millis(500);
    let url = format!("redis+unix://{}", path.display());
    let first = One::with(limits, RedisDirectory::new(&url).unwrap());
    eventually("the state is told", || away(&first).filter(|why| why.contains("in time")));
    let began = Instant::now();
    first.ask(get("/door/x")).expect_refusal(503);
    let _lamp = first.device("lamp", "a lamp");
    first.ask(get("/lamp/x")).expect_ok("a lamp");
    drop(first);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// The connection that hears of changes shows it, long before the next renewal.
#[test]
fn a_server_that_nobody_asks_is_missed_when_it_goes_and_when_it_hangs() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let mut limits = Limits::default();
    limits.directory_timeout = Duration::from_secs(1);
    let directory = RedisDirectory::new(&redis.url()).unwrap();
    let directory = directory.claim_time(Duration::from_secs(600)).unwrap();
    let first = One::with(limits, directory);
    let listens = |redis: &Redis| {
        eventually("it listens", || (!redis.ask(&["PUBSUB", "CHANNELS"]).is_empty()).then_some(()));
        assert_eq!(away(&first), None);
    };
    listens(&redis);
    redis.process.signal("STOP");
    eventually("it hangs", || away(&first).filter(|why| why.contains("in time")));
    redis.process.signal("CONT");
    eventually("it answers again", || away(&first).is_none().then_some(()));
    listens(&redis);
    redis.process.signal("KILL");
    eventually("it is gone", || away(&first));
    redis.restart();
    eventually("it is used again", || away(&first).is_none().then_some(()));
}

/// Each byte is an answer in time for a client that waits for one byte.
#[test]
fn a_server_that_answers_byte_for_byte_keeps_no_device_waiting() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = server.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in server.incoming() {
            let mut connection = connection.unwrap();
            std::thread::spawn(move || {
                let mut rest = b"$100000\r\n".to_vec();
                while connection.write_all(&rest).is_ok() {
                    rest = b"x".to_vec();
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
        }
    });
    let mut limits = Limits::default();
    limits.directory_timeout = Duration::from_millis(500);
    let first = One::with(limits, RedisDirectory::new(&format!("redis://{at}")).unwrap());
    let began = Instant::now();
    // More than there are threads that claim.
    let doors: Vec<_> = (0..10).map(|n| dial(&first.device_url(&format!("d{n}")), "d")).collect();
    for n in 0..10 {
        let door = first.gateway.device(&format!("d{n}"));
        door.wait_connected(Duration::from_secs(5)).expect("it is let in");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    first.ask(get("/d9/x")).expect_ok("d");
    let began = Instant::now();
    drop(first);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    drop(doors);
}

#[test]
fn a_server_that_was_restarted_empty_learns_everything_again() {
    let Some(mut redis) = Redis::start(&[]) else { return };
    let (first, second) = (One::of(&redis), One::of(&redis));
    let (_lamp, _door) = (first.device("lamp", "a lamp"), second.device("door", "a door"));
    first.is_noted(1);
    let epoch = |redis: &Redis| redis.ask(&["GET", "ptth:epoch"]).parse::<u64>().unwrap();
    let before = epoch(&redis);
    // Behind the second look, so that no renewal is due soon.
    let claims = || {
        [("lamp", &first), ("door", &second)]
            .map(|(name, of)| redis.ask(&["HGET", &format!("ptth:n:{name}"), &of.url]))
    };
    let new = claims();
    eventually("both are renewed", || {
        std::iter::zip(claims(), &new).all(|(now, new)| now != *new).then_some(())
    });
    redis.restart();
    eventually_within(Duration::from_secs(5), "all names are there", || {
        let found = (redis.owners("lamp"), redis.owners("door"));
        (found == (vec![first.url.clone()], vec![second.url.clone()])).then_some(())
    });
    eventually("they are found", || {
        let texts = (first.ask(get("/door/x")).text(), second.ask(get("/lamp/x")).text());
        (texts == ("a door".to_owned(), "a lamp".to_owned())).then_some(())
    });
    // Epochs go on where they were, so that a newer session is newer.
    let _new = second.device("lamp", "a new lamp");
    assert!(epoch(&redis) > before);
    eventually("it has the name", || {
        (first.ask(get("/lamp/x")).text() == "a new lamp").then_some(())
    });
    assert_eq!(redis.owners("lamp"), std::slice::from_ref(&second.url));
}

#[test]
fn a_gateway_starts_without_the_server_and_finds_it_later() {
    let Some(other) = Redis::start(&[]) else { return };
    let port = free_port();
    let first = One::with(
        Limits::default(),
        RedisDirectory::new(&format!("redis://127.0.0.1:{port}")).unwrap(),
    );
    let _lamp = first.device("lamp", "a lamp");
    first.ask(get("/lamp/x")).expect_ok("a lamp");
    first.ask(get("/door/x")).expect_refusal(503);
    eventually("the state is told", || away(&first).filter(|why| why.contains("refused")));
    drop(other);
    let folder = crate::support::TempDir::new("redis-late");
    let _late = super::run(port, &folder, &[]);
    first.is_noted(1);
    first.ask(get("/door/x")).expect_refusal(404);
}

#[test]
fn a_server_that_takes_no_writes_is_said_so() {
    for (options, refuse, back, said) in [
        // It has become a replica of one that is not there.
        (&[][..], ["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"], "replica"),
        (&[], ["CONFIG SET", "maxmemory", "1"], ["CONFIG SET", "maxmemory", "0"], "memory"),
    ] {
        let Some(redis) = Redis::start(options) else { return };
        let ask = |words: [&str; 3]| {
            let words: Vec<&str> = words.iter().flat_map(|word| word.split(' ')).collect();
            assert_eq!(redis.ask(&words), "OK");
        };
        let (first, second) = (One::of(&redis), One::of(&redis));
        let _lamp = first.device("lamp", "a lamp");
        second.ask(get("/lamp/x")).expect_ok("a lamp");
        ask(refuse);
        let _door = first.device("door", "a door");
        first.ask(get("/door/x")).expect_ok("a door");
        eventually("why is told", || away(&first).filter(|why| why.to_lowercase().contains(said)));
        assert_eq!(first.gateway.directory_status().unwrap().unclaimed, 1);
        ask(back);
        first.is_noted(2);
        eventually("the door is found", || {
            (second.ask(get("/door/x")).text() == "a door").then_some(())
        });
    }
}

#[test]
fn a_claim_that_nobody_renews_expires() {
    let Some(redis) = Redis::start(&[]) else { return };
    let short = || {
        let directory = RedisDirectory::new(&redis.url()).unwrap();
        directory.claim_time(Duration::from_secs(3)).unwrap()
    };
    let first = One::with(Limits::default(), short());
    let _lamp = first.device("lamp", "a lamp");
    let left = redis.ask(&["PTTL", "ptth:n:lamp"]).parse::<i64>().unwrap();
    assert!((1..=3_000).contains(&left), "{left}");
    // It is renewed while the device is there.
    let value = || redis.ask(&["HGET", "ptth:n:lamp", &first.url]);
    let before = value();
    eventually("it is renewed", || (value() != before).then_some(()));
    // Of one that was killed nothing is left behind that time.
    let claim = "1 1 - - ";
    redis.ask(&["HSET", "ptth:n:ghost", "http://127.0.0.1:1", claim.trim_end()]);
    first.ask(get("/ghost/x")).expect_refusal(404);
    let refused = dial(&first.device_url("ghost"), "here");
    first.gateway.device("ghost").wait_connected(Duration::from_secs(20)).unwrap();
    eventually("it has gone", || {
        (redis.owners("ghost") == std::slice::from_ref(&first.url)).then_some(())
    });
    refused.stop();
}

#[test]
fn two_credentials_that_came_while_the_server_was_away_leave_one_owner() {
    let Some(redis) = Redis::start(&[]) else { return };
    let mut limits = Limits::default();
    limits.directory_timeout = Duration::from_secs(1);
    let with = || {
        let builder = crate::support::gateway().limits(limits.clone()).authorize(|offer| {
            let token = offer.bearer_token().ok_or(Reject::new(401, "no token"))?;
            Ok(Grant::offered().to(token))
        });
        One::built(builder, RedisDirectory::new(&redis.url()).unwrap())
    };
    let (first, second) = (with(), with());
    redis.process.signal("STOP");
    let events = [first.gateway.events(), second.gateway.events()];
    let offer = |gateway: &One, token: &str| {
        let mut device = RawPeer::connect(gateway.gateway.devices_addr());
        let authorization = format!("Authorization: Bearer {token}\r\n");
        device.write(crate::support::process::offer("lamp", &authorization));
        assert_eq!(device.read_answer("POST").status(), 101);
        device
    };
    let _devices = [offer(&first, "mine"), offer(&second, "theirs")];
    redis.process.signal("CONT");
    let told = eventually("one of them has lost", || {
        let mut told = events.iter().flat_map(|events| events.try_iter());
        told.find(|event| event.kind == GatewayEventKind::Down)
    });
    assert!(told.detail.contains("another credential holds"), "{}", told.detail);
    let lost = [&first, &second].map(|one| one.gateway.directory_status().unwrap().lost);
    assert_eq!(lost.iter().sum::<usize>(), 1);
    assert_eq!(redis.owners("lamp").len(), 1);
}
