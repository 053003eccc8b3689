//! Several event loops of one gateway: connections are moved to the loop of their device, and nobody
//! notices.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use http::{Request, Response};
use reverse_http::{
    Body, Bound, Device, DeviceHandle, Fallback, Gateway, GatewayEventKind, Grant, Limits, Routes,
    Tokens, TurnMode,
};

use crate::support::process::get;
use crate::support::{Ptth, RawPeer, eventually, eventually_within, say};

const LOOPS: usize = 3;

fn device(gateway: &Gateway, name: &str) -> DeviceHandle {
    device_with(gateway, name, name, Fallback::Auto)
}

/// A device that says who it is and what it was asked.
fn device_with(gateway: &Gateway, name: &str, who: &str, fallback: Fallback) -> DeviceHandle {
    let (url, who) = (format!("http://{}/{name}", gateway.devices_addr()), who.to_owned());
    Device::builder(url)
        .links(1..=4)
        .polls(2..=4)
        .bearer_token(format!("token-of-{name}"))
        .fallback(fallback)
        .backoff(Duration::from_millis(5)..Duration::from_millis(50))
        .build()
        .unwrap()
        .spawn(move |request| Response::new(Body::from(format!("{who}{}", request.uri()))))
        .unwrap()
}

fn ask(gateway: &Gateway, name: &str) -> String {
    let request = Request::get("/x").body(Body::empty()).unwrap();
    gateway.device(name).send(request).unwrap().into_body().read_to_text(1000).unwrap()
}

fn tokens<'n>(names: impl IntoIterator<Item = &'n str>) -> Tokens {
    let lines = names
        .into_iter()
        .map(|name| Tokens::line(&format!("token-of-{name}"), name).unwrap())
        .collect::<Vec<_>>();
    Tokens::parse(&lines.join("\n")).unwrap()
}

/// Devices whose visitors get every answer, by links and by polls.
const STABLE: [&str; 6] = ["one", "two", "three", "four", "five", "six"];
/// Its sessions replace each other.
const TAKEN: &str = "taken";
/// Its token comes and goes.
const REVOKED: &str = "revoked";

/// A visitor whose one connection asks one device after the other, always another one. Every answer
/// has to be its own; only of the two restless devices it may be an error.
fn wander(visitors: SocketAddr, number: usize, stop: &AtomicBool, answers: &AtomicUsize) {
    let mut peer = RawPeer::connect(visitors);
    peer.deadline = Duration::from_secs(30);
    for n in 0.. {
        if stop.load(Relaxed) {
            break;
        }
        let name = match n % 32 {
            7 | 23 => TAKEN,
            15 => REVOKED,
            n => STABLE[(number + n * (1 + 4 * (number % 2))) % STABLE.len()],
        };
        let nonce = format!("/{number}-{n}");
        // What is pipelined after it is moved with it.
        let pipelined = n % 5 == 0;
        let next = STABLE[n % STABLE.len()];
        peer.write(get(&format!("/{name}{nonce}")));
        if pipelined {
            peer.write(get(&format!("/{next}{nonce}-next")));
        }
        let answer = peer.read_answer("GET");
        let closes = answer.head.closes();
        match answer.head.status() {
            200 => answer.expect_ok(format!("{name}{nonce}")),
            status => assert!(
                matches!(status, 401..=404 | 502..=504) && !STABLE.contains(&name),
                "{name} {nonce}: {}",
                answer.head.text()
            ),
        }
        answers.fetch_add(1, Relaxed);
        if closes {
            peer = RawPeer::connect(visitors);
            peer.deadline = Duration::from_secs(30);
        } else if pipelined {
            peer.read_answer("GET").expect_ok(format!("{next}{nonce}-next"));
            answers.fetch_add(1, Relaxed);
        }
    }
}

#[test]
fn visitors_go_from_loop_to_loop_under_load_and_every_answer_is_their_own() {
    let moves = if cfg!(debug_assertions) { 1_000 } else { 10_000 };
    let all = || STABLE.into_iter().chain([TAKEN, REVOKED]);
    let mut limits = Limits::default();
    limits.take_over_grace = Duration::from_millis(100);
    limits.wait_for_link = Duration::from_secs(5);
    let builder = Gateway::builder().loops(LOOPS).limits(limits).tokens(tokens(all()));
    let gateway = builder.listen("127.0.0.1:0").start().unwrap();
    let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
    let running: Vec<DeviceHandle> = all()
        .enumerate()
        .map(|(n, name)| {
            let fallback = if n % 3 == 2 { Fallback::Only } else { Fallback::Auto };
            device_with(&gateway, name, name, fallback)
        })
        .collect();
    for name in all() {
        gateway.device(name).wait_connected(Duration::from_secs(20)).unwrap();
    }
    let (stop, answers, then) = (AtomicBool::new(false), AtomicUsize::new(0), Instant::now());
    let ended = thread::scope(|scope| {
        let wanderers: Vec<_> = (0..4)
            .map(|number| {
                let (stop, answers) = (&stop, &answers);
                scope.spawn(move || wander(visitors, number, stop, answers))
            })
            .collect();
        let mut second = Some(device(&gateway, TAKEN));
        let mut rounds = 0;
        // As a SIGHUP does it, and more often.
        while gateway.stats().moved < moves
            && then.elapsed() < Duration::from_secs(120)
            && wanderers.iter().all(|wanderer| !wanderer.is_finished())
        {
            gateway.set_tokens(tokens(STABLE.into_iter().chain([TAKEN]))).unwrap();
            gateway.set_routes(visitors, Routes::path()).unwrap();
            thread::yield_now();
            gateway.set_tokens(tokens(all())).unwrap();
            if rounds % 8 == 7 {
                second = Some(device(&gateway, TAKEN)); // the previous one is dropped
            }
            rounds += 1;
            gateway.ping(Duration::from_secs(20)).unwrap();
        }
        stop.store(true, Relaxed);
        drop(second);
        wanderers.into_iter().map(|wanderer| wanderer.join()).collect::<Vec<_>>()
    });
    assert!(ended.into_iter().all(|ended| ended.is_ok()), "a visitor got a wrong answer");
    let stats = gateway.stats();
    say(&format!(
        "event loops: {} moves, {} answers, in {:.1} s",
        stats.moved,
        answers.into_inner(),
        then.elapsed().as_secs_f32()
    ));
    assert!(stats.moved >= moves, "{stats:?}");
    running.iter().for_each(DeviceHandle::stop);
    gateway.drain(Duration::from_secs(10));
}

#[test]
fn programs_reach_devices_of_every_loop_and_wait_for_those_that_come() {
    let gateway = Gateway::builder().loops(LOOPS).listen("127.0.0.1:0").start().unwrap();
    assert_eq!(gateway.loops(), LOOPS);
    let events = gateway.events();
    let names: Vec<String> = (0..12).map(|n| format!("d{n}")).collect();
    thread::scope(|scope| {
        let waiting: Vec<_> = names
            .iter()
            .map(|name| {
                let gateway = &gateway;
                scope.spawn(move || gateway.device(name).wait_connected(Duration::from_secs(20)))
            })
            .collect();
        let devices: Vec<DeviceHandle> = names.iter().map(|name| device(&gateway, name)).collect();
        for waiting in waiting {
            waiting.join().unwrap().unwrap();
        }
        for name in &names {
            assert_eq!(ask(&gateway, name), format!("{name}/x"));
            assert!(gateway.device(name).transport().unwrap().is_some());
        }
        assert_eq!(gateway.stats().devices, names.len());
        devices.iter().for_each(DeviceHandle::stop);
    });
    eventually("nobody is connected", || (gateway.stats().devices == 0).then_some(()));
    // Of each device in order: up, then its links end, then down.
    let mut of_device = std::collections::HashMap::<String, Vec<GatewayEventKind>>::new();
    let mut down = 0;
    while down < names.len() {
        let event = events.recv_timeout(Duration::from_secs(20)).unwrap();
        down += usize::from(event.kind == GatewayEventKind::Down);
        of_device.entry(event.name).or_default().push(event.kind);
    }
    for name in &names {
        let kinds = &of_device[name];
        let ends = (kinds.first(), kinds.last());
        assert_eq!(
            ends,
            (Some(&GatewayEventKind::Up), Some(&GatewayEventKind::Down)),
            "{name}: {kinds:?}"
        );
    }
    assert!(gateway.device("nobody").send(Request::get("/").body(Body::empty()).unwrap()).is_err());
    gateway.drain(Duration::from_secs(10));
    assert!(!gateway.is_running());
}

#[test]
fn one_offer_takes_names_over_that_several_loops_have() {
    const NAMES: [&str; 8] = ["n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7"];
    for mode in [TurnMode::Now, TurnMode::OnDemand] {
        let builder = Gateway::builder().loops(LOOPS).turn(mode).authorize(|offer| {
            let name = offer.names()[0].to_string();
            let names = if name == "all" { &NAMES[..] } else { &[name.as_str()][..] };
            Ok(Grant::names(names).unwrap().to("their owner"))
        });
        let gateway = builder.listen("127.0.0.1:0").start().unwrap();
        let single: Vec<DeviceHandle> = NAMES.iter().map(|name| device(&gateway, name)).collect();
        for name in NAMES {
            gateway.device(name).wait_connected(Duration::from_secs(20)).unwrap();
            assert_eq!(ask(&gateway, name), format!("{name}/x"));
        }
        let all = device(&gateway, "all");
        eventually_within(Duration::from_secs(20), "the last offer has them", || {
            NAMES.iter().all(|name| ask_or_none(&gateway, name) == "all/x").then_some(())
        });
        // Those that were replaced do not come back.
        for name in NAMES {
            assert_eq!(ask(&gateway, name), "all/x", "{name}");
        }
        single.iter().chain([&all]).for_each(DeviceHandle::stop);
        gateway.drain(Duration::from_secs(10));
    }
}

/// What a device answers, or nothing while its name changes hands.
fn ask_or_none(gateway: &Gateway, name: &str) -> String {
    let request = Request::get("/x").body(Body::empty()).unwrap();
    let answered = gateway.device(name).send(request);
    answered.and_then(|response| response.into_body().read_to_text(1000)).unwrap_or_default()
}

#[test]
fn another_credential_is_refused_whichever_loop_it_comes_to() {
    let gateway = Gateway::builder()
        .loops(LOOPS)
        .authorize(|offer| {
            let owner = offer.bearer_token().unwrap_or_default().to_owned();
            Ok(Grant::names(["lamp", "door"]).unwrap().to(owner))
        })
        .listen("127.0.0.1:0")
        .start()
        .unwrap();
    let dial = |name: &str| {
        let mut peer = RawPeer::connect(gateway.devices_addr());
        let field = format!("Authorization: Bearer {name}\r\n");
        peer.write(crate::support::process::offer(name, &field));
        (peer.read_head().status(), peer)
    };
    let (status, _link) = dial("mine");
    assert_eq!(status, 101);
    for n in 0..16 {
        assert_eq!(dial("theirs").0, 409, "{n}");
    }
    let links = gateway.device("door").links().unwrap();
    assert_eq!((links.total(), links.idle), (1, 1));
}

/// A gateway whose devices get the names in the first name that they offer; their token is their owner.
fn granting() -> Gateway {
    let builder = Gateway::builder().loops(LOOPS).authorize(|offer| {
        let owner = offer.bearer_token().unwrap_or_default().to_owned();
        let names = offer.names()[0].to_string();
        Ok(Grant::names(names.split('-')).unwrap().to(owner))
    });
    builder.listen("127.0.0.1:0").start().unwrap()
}

fn offers(gateway: &Gateway, names: &str, owner: &str) -> (u16, RawPeer) {
    let mut peer = RawPeer::connect(gateway.devices_addr());
    let field = format!("Authorization: Bearer {owner}\r\n");
    peer.write(crate::support::process::offer(names, &field));
    (peer.read_head().status(), peer)
}

/// One of its names is another owner's: no loop gives a name up for it.
#[test]
fn a_refused_offer_ends_no_link_in_any_loop() {
    let gateway = granting();
    let own: Vec<String> = (0..6).map(|n| format!("own{n}")).collect();
    let others: Vec<String> = (0..6).map(|n| format!("other{n}")).collect();
    let mut links = Vec::new();
    for (names, owner) in [(&own, "mine"), (&others, "theirs")] {
        for name in names {
            let (status, link) = offers(&gateway, name, owner);
            assert_eq!(status, 101);
            links.push(link);
        }
    }
    for name in &own {
        for other in &others {
            assert_eq!(offers(&gateway, &format!("{name}-{other}"), "mine").0, 409);
            let there = gateway.device(name).links().unwrap();
            assert_eq!((there.total(), there.idle), (1, 1), "{name} after {other}");
        }
    }
    let (status, _all) = offers(&gateway, &own.join("-"), "mine");
    assert_eq!(status, 101);
    for name in &own {
        gateway.device(name).wait_connected(Duration::from_secs(20)).unwrap();
    }
}

/// The device that has a request ends, and its successor has its name in another loop: the request
/// cannot follow, and is not told that there is no such device.
#[test]
fn a_request_whose_device_went_to_another_loop_is_told_to_come_again() {
    let gateway = granting();
    let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
    let names: Vec<String> = (0..8).map(|n| format!("n{n}")).collect();
    let mut asking = Vec::new();
    for name in &names {
        let (status, mut link) = offers(&gateway, name, "mine");
        assert_eq!(status, 101);
        let mut visitor = RawPeer::connect(visitors);
        visitor.write(get(&format!("/{name}/x")));
        assert_eq!(link.read_head().target(), "/x");
        asking.push((link, visitor));
    }
    let (status, mut all) = offers(&gateway, &names.join("-"), "mine");
    assert_eq!(status, 101);
    for (link, mut visitor) in asking {
        drop(link);
        // If the name has stayed in its loop, the new link gets the request.
        let comes_to_it = eventually("it goes on", || {
            if all.stirs() { Some(true) } else { visitor.stirs().then_some(false) }
        });
        if comes_to_it {
            assert_eq!(all.read_head().target(), "/x");
            all.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            visitor.read_answer("GET").expect_ok("");
        } else {
            let answer = visitor.read_answer("GET");
            answer.expect_refusal(503);
            assert_eq!(answer.head.get("retry-after"), Some("1"));
        }
    }
}

#[test]
fn bounds_hold_for_all_loops_together() {
    let mut limits = Limits::default();
    (limits.devices_max, limits.connections_max) = (3, 24);
    let builder = Gateway::builder().loops(LOOPS).limits(limits).listen("127.0.0.1:0");
    let builder = builder.trusted_proxies(["127.0.0.1"]); // for them an address has no bound
    let gateway = builder.start().unwrap();
    let dial = |n: usize| {
        let mut peer = RawPeer::connect(gateway.devices_addr());
        peer.write(crate::support::process::offer(&format!("d{n}"), ""));
        (peer.read_head().status(), peer)
    };
    let links: Vec<RawPeer> = (0..3)
        .map(|n| {
            let (status, peer) = dial(n);
            assert_eq!(status, 101);
            peer
        })
        .collect();
    for n in 3..12 {
        assert_eq!(dial(n).0, 503, "{n}");
    }
    let reached = gateway.stats().bounds_reached;
    assert_eq!((reached.of(Bound::Devices), reached.total()), (9, 9), "{reached:?}");
    drop(links);
    eventually("they are gone", || (gateway.stats().devices == 0).then_some(()));
    // Connections that say nothing give way, also to one that comes to another loop than they.
    let silent: Vec<RawPeer> = (0..30).map(|_| RawPeer::connect(gateway.devices_addr())).collect();
    for _ in 0..2 {
        gateway.ping(Duration::from_secs(20)).unwrap(); // they have come in
    }
    for n in 12..15 {
        assert_eq!(dial(n).0, 101, "{n}");
    }
    drop(silent);
}

#[test]
fn how_many_loops_there_are_is_said_and_has_a_bound() {
    for loops in [0, 65] {
        let error = Gateway::builder().loops(loops).start().unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("1 to 64"), "{error}");
    }
    let address = format!("{}:0", crate::support::own_address());
    let arguments = ["gateway", "--devices", &address, "--visitors", &address];
    let mut command = Ptth::command(&arguments);
    let first = crate::support::Gateway::of(crate::support::Process::start(
        command.args(["--loops", "2"]).env("RUST_LOG", "info"),
    ));
    eventually("it says so", || first.process.stderr().contains("2 event loops").then_some(()));
    // Its loops share an address with each other, not with another gateway.
    let taken = first.devices.to_string();
    let (code, _, said) =
        Ptth::run(&["gateway", "--devices", &taken, "--visitors", &address, "--loops", "2"]);
    assert!(code == 1 && said.contains("another program has this port"), "{code}: {said}");
    let (code, _, said) = Ptth::run(&["gateway", "--loops", "0"]);
    assert_eq!(code, 2, "{said}");
}
