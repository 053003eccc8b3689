//! A device whose gateway says that callers wait (protocol.md §1.6), against raw gateways: how many
//! links or polls it dials, who sees the field, and what goes back when it is not needed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use http::{Request, Response};
use reverse_http::device::{DeviceBuilder, DeviceHandle};
use reverse_http::{Body, Device, Encoding, Fallback, Limits};

use crate::support::{DEADLINE, LocalServer, RawGateway, RawPeer, SWITCH, each_row, eventually};

const HEARTBEAT: &str = "OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n";
/// What is not one line of one to four digits, and says nothing.
const MALFORMED: [&str; 11] = [
    "",
    "-1",
    "+5",
    "5 5",
    "5,5",
    "12345",
    "00005",
    "0x5",
    "five",
    "5;q=1",
    "5\r\nPTTH-Waiting: 5",
];

fn device(raw: &RawGateway, links: RangeInclusive<usize>) -> DeviceBuilder {
    Device::builder(raw.url("lamp"))
        .links(links)
        .backoff(Duration::from_millis(5)..Duration::from_millis(20))
}

fn poller(raw: &RawGateway, polls: RangeInclusive<usize>, encoding: Encoding) -> DeviceBuilder {
    device(raw, 1..=1).fallback(Fallback::Only).polls(polls).poll_encoding(encoding)
}

fn asks(path: &str, waiting: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nPTTH-Waiting: {waiting}\r\nX-After: 1\r\n\r\n")
}

/// Fails unless the device, which is asked for a sign of life first, has begun no other dial.
#[track_caller]
fn nobody_dials(raw: &RawGateway, idle: &mut RawPeer) {
    idle.write(HEARTBEAT);
    assert_eq!(idle.read_answer("OPTIONS").status(), 204);
    assert!(raw.try_accept().is_none(), "a dial too many");
}

/// A local server whose answers wait for the test, and the paths that it was asked for.
fn gated() -> (LocalServer, Receiver<String>, crossbeam_channel::Sender<()>) {
    let (asked, paths) = mpsc::channel();
    let (open, gate) = crossbeam_channel::unbounded::<()>();
    let asked = std::sync::Mutex::new(asked);
    let local = LocalServer::with(move |c| {
        let _ = asked.lock().unwrap().send(c.head.target().to_owned());
        let _ = gate.recv_timeout(DEADLINE);
        c.text("done");
    });
    (local, paths, open)
}

// ── Links ──

#[test]
fn as_many_links_are_dialled_as_callers_wait() {
    let rows = [
        (1..=128, "5", 5),
        (1..=128, "0031", 31),
        (1..=4, "9", 3),
        (1..=4, "9999", 3),
        (1..=1, "7", 0),
        (1..=8, "0", 1), // MIN idle ones are wanted
    ];
    each_row(
        &rows,
        |row| format!("{row:?}"),
        |(links, waiting, dials)| {
            let raw = RawGateway::start();
            let (local, paths, open) = gated();
            let handle = device(&raw, links.clone()).build().unwrap();
            let handle = handle.spawn_forward(local.url()).unwrap();
            let mut first = raw.turn();
            first.write(asks("/first", waiting));
            assert_eq!(paths.recv_timeout(DEADLINE).unwrap(), "/first");
            let mut more: Vec<RawPeer> = (0..*dials).map(|_| raw.turn()).collect();
            match more.first_mut() {
                Some(idle) => nobody_dials(&raw, idle),
                None => assert!(raw.try_accept().is_none()),
            }
            open.send(()).unwrap();
            first.read_answer("GET").expect_ok("done");
            let seen = local.last();
            assert_eq!((seen.get("ptth-waiting"), seen.get("x-after")), (None, Some("1")));
            handle.stop();
        },
    );
}

#[test]
fn a_caller_who_is_dialled_for_is_not_dialled_for_again() {
    let raw = RawGateway::start();
    let (local, paths, open) = gated();
    let handle = device(&raw, 1..=128).build().unwrap();
    let handle = handle.spawn_forward(local.url()).unwrap();
    let mut first = raw.turn();
    first.write(asks("/first", "5"));
    assert_eq!(paths.recv_timeout(DEADLINE).unwrap(), "/first");
    let mut dials: Vec<RawPeer> = (0..5).map(|_| raw.offer().0).collect();
    // One turns, and brings a request; four callers wait for the four that are on their way.
    dials[0].write(SWITCH);
    dials[0].write(asks("/second", "4"));
    assert_eq!(paths.recv_timeout(DEADLINE).unwrap(), "/second");
    assert!(raw.try_accept().is_none());
    // Two more than those on their way.
    dials[1].write(SWITCH);
    dials[1].write(asks("/third", "5"));
    assert_eq!(paths.recv_timeout(DEADLINE).unwrap(), "/third");
    let mut more: Vec<RawPeer> = (0..2).map(|_| raw.turn()).collect();
    nobody_dials(&raw, &mut more[0]);
    for _ in 0..3 {
        open.send(()).unwrap();
    }
    first.read_answer("GET").expect_ok("done");
    handle.stop();
}

#[test]
fn the_defaults_of_the_command_follow_demand() {
    let raw = RawGateway::start();
    let _device = crate::support::Ptth::start(&["device", &raw.url("lamp"), "--text", "x"]);
    let mut first = raw.turn();
    first.write(asks("/", "200"));
    first.read_answer("GET").expect_ok("x");
    let _links: Vec<RawPeer> = (1..128).map(|_| raw.turn()).collect();
    nobody_dials(&raw, &mut first);
}

#[test]
fn a_polling_command_follows_demand_up_to_64_by_default() {
    let raw = RawGateway::start();
    let _device = crate::support::Ptth::start(&[
        "device",
        &raw.url("lamp"),
        "--text",
        "x",
        "--fallback",
        "only",
    ]);
    let mut first = poll(&raw);
    first.write(event(Encoding::Message, "e1", "9999"));
    let mut others: Vec<RawPeer> = (1..64).map(|_| poll(&raw)).collect();
    others[0].write(NOTHING);
    others[0].read_head(); // it polls again, so the loop has made a turn
    assert!(raw.try_accept().is_none(), "a poll too many");
}

#[test]
fn a_malformed_number_of_callers_says_nothing() {
    each_row(
        &MALFORMED,
        |value| format!("{value:?}"),
        |value| {
            let raw = RawGateway::start();
            let (local, paths, open) = gated();
            let device = device(&raw, 1..=8).build().unwrap();
            let handle = device.spawn_forward(local.url()).unwrap();
            let mut first = raw.turn();
            first.write(asks("/", value));
            paths.recv_timeout(DEADLINE).unwrap();
            let mut spare = raw.turn(); // MIN idle ones are wanted
            nobody_dials(&raw, &mut spare);
            open.send(()).unwrap();
            first.read_answer("GET").expect_ok("done");
            assert!(local.last().all("ptth-waiting").is_empty());
            handle.stop();
        },
    );
}

#[test]
fn a_heartbeat_is_answered_when_the_dials_have_begun() {
    let raw = RawGateway::start();
    let handle = device(&raw, 1..=8).build().unwrap();
    let handle = handle.spawn(|_| Response::new(Body::from("x"))).unwrap();
    let mut link = raw.turn();
    link.write("OPTIONS * HTTP/1.1\r\nHost:\r\nPTTH-Waiting: 3\r\n\r\n");
    let answer = link.read_answer("OPTIONS");
    assert_eq!((answer.status(), answer.head.closes()), (204, false));
    let mut dialled: Vec<RawPeer> = (0..3)
        .map(|_| raw.try_accept().expect("it is dialled before the heartbeat is answered"))
        .collect();
    for peer in &mut dialled {
        peer.read_head();
        peer.write(SWITCH);
    }
    nobody_dials(&raw, &mut link);
    handle.stop();
}

/// Dials that are on their way count against MAX alone: who waits longer is counted again.
#[test]
fn dials_in_progress_leave_less_room() {
    let raw = RawGateway::start();
    let (local, paths, open) = gated();
    let device = device(&raw, 2..=8).build().unwrap();
    let handle = device.spawn_forward(local.url()).unwrap();
    let mut links: Vec<RawPeer> = (0..2).map(|_| raw.turn()).collect();
    links.iter_mut().for_each(|link| nobody_dials(&raw, link)); // both have turned there
    links[0].write(asks("/0", "4"));
    paths.recv_timeout(DEADLINE).unwrap();
    let mut held: Vec<RawPeer> = (0..4).map(|_| raw.offer().0).collect();
    links[1].write(asks("/1", "9")); // four of the nine have their dials, three have no room
    paths.recv_timeout(DEADLINE).unwrap();
    held.extend((0..2).map(|_| raw.offer().0));
    held[0].write(SWITCH);
    nobody_dials(&raw, &mut held[0]);
    for _ in &links {
        open.send(()).unwrap();
    }
    for link in &mut links {
        link.read_answer("GET").expect_ok("done");
    }
    handle.stop();
}

/// The first of two requests is read by the loop, the second perhaps by the worker that has
/// answered the first.
#[test]
fn a_worker_that_lingers_passes_the_number_on() {
    let raw = RawGateway::start();
    let mut limits = Limits::default();
    limits.worker_linger = Duration::from_secs(5);
    let device = device(&raw, 1..=8).limits(limits).build().unwrap();
    let handle = device
        .spawn(|request| {
            assert!(!request.headers().contains_key("ptth-waiting"));
            Response::new(Body::from("x"))
        })
        .unwrap();
    let mut link = raw.turn();
    link.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    link.read_answer("GET").expect_ok("x");
    let mut spare = raw.turn();
    link.write(asks("/", "4"));
    link.read_answer("GET").expect_ok("x");
    let _dialled: Vec<RawPeer> = (0..4).map(|_| raw.turn()).collect();
    nobody_dials(&raw, &mut spare);
    handle.stop();
}

#[test]
fn programs_that_receive_or_accept_do_not_see_the_field() {
    let check = |request: &Request<Body>| {
        assert!(!request.headers().contains_key("ptth-waiting"));
        assert_eq!(request.headers()["x-after"], "1");
    };
    let raw = RawGateway::start();
    let receiver = device(&raw, 1..=8).build().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let exchange = receiver.recv().unwrap();
            check(exchange.request());
            exchange.respond(Response::new(Body::from("received"))).unwrap();
            receiver.recv_timeout(Duration::from_millis(1)).unwrap();
        });
        let mut link = raw.turn();
        link.write(asks("/", "3"));
        link.read_answer("GET").expect_ok("received");
        let _dialled: Vec<RawPeer> = (0..3).map(|_| raw.turn()).collect();
        nobody_dials(&raw, &mut link);
    });

    let raw = RawGateway::start();
    let listener = device(&raw, 1..=8).build().unwrap().listen().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut link = listener.accept().unwrap();
            check(&link.next_request().unwrap().unwrap());
            link.respond(Response::new(Body::from("accepted"))).unwrap();
            assert!(link.next_request().unwrap().is_none());
        });
        let mut link = raw.turn();
        // The link counts as busy while the program has it, so another one is dialled. Without an
        // answer this dial is in progress, and is for one of the three callers.
        let _spare = raw.accept();
        link.write(asks("/", "3"));
        link.read_answer("GET").expect_ok("accepted");
        let _dialled: Vec<RawPeer> = (0..2).map(|_| raw.turn()).collect();
        nobody_dials(&raw, &mut link);
        drop(link);
    });
    listener.stop();
}

// ── Threads ──

#[test]
fn requests_beyond_the_handlers_wait_and_none_is_lost() {
    let raw = RawGateway::start();
    let mut limits = Limits::default();
    limits.handlers_max = 2;
    let (open, gate) = crossbeam_channel::unbounded::<()>();
    let (asked, paths) = crossbeam_channel::unbounded();
    let device = device(&raw, 1..=6).limits(limits).build().unwrap();
    let handle = device
        .spawn(move |request| {
            asked.send(request.uri().path().to_owned()).unwrap();
            gate.recv_timeout(DEADLINE).unwrap();
            Response::new(Body::from(request.uri().path().to_owned()))
        })
        .unwrap();
    // The last one is spare until it is asked.
    let mut links: Vec<RawPeer> = Vec::new();
    for n in 0..6 {
        let mut link = raw.turn();
        link.write(format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"));
        links.push(link);
    }
    let running: Vec<String> = (0..2).map(|_| paths.recv_timeout(DEADLINE).unwrap()).collect();
    assert_eq!(running, ["/0", "/1"]);
    eventually("all are busy, also those that wait for a thread", || {
        (handle.stats().busy == 6).then_some(())
    });
    assert!(paths.try_recv().is_err(), "a third handler runs");
    for _ in 0..6 {
        open.send(()).unwrap();
    }
    for (n, link) in links.iter_mut().enumerate() {
        link.read_answer("GET").expect_ok(format!("/{n}"));
    }
    handle.stop();
}

/// Two links of a device with one thread for handlers: its handler runs for the first, and the
/// request of the second waits for the thread.
fn one_runs_one_waits(
    raw: &RawGateway,
) -> (DeviceHandle, [RawPeer; 2], crossbeam_channel::Receiver<String>, Opener) {
    let mut limits = Limits::default();
    limits.handlers_max = 1;
    let (open, gate) = crossbeam_channel::unbounded::<()>();
    let (asked, paths) = crossbeam_channel::unbounded();
    let device = device(raw, 1..=4).limits(limits).build().unwrap();
    let handle = device
        .spawn(move |request| {
            asked.send(request.uri().path().to_owned()).unwrap();
            gate.recv_timeout(DEADLINE).unwrap();
            Response::new(Body::from("done"))
        })
        .unwrap();
    let links = ["/runs", "/waits"].map(|path| {
        let mut link = raw.turn();
        link.write(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        link
    });
    assert_eq!(paths.recv_timeout(DEADLINE).unwrap(), "/runs");
    eventually("the other waits", || (handle.stats().busy == 2).then_some(()));
    (handle, links, paths, open)
}

#[test]
fn a_request_whose_link_ended_while_it_waited_is_not_run() {
    let raw = RawGateway::start();
    let (handle, [mut first, second], paths, open) = one_runs_one_waits(&raw);
    drop(second);
    std::thread::sleep(Duration::from_millis(1_200)); // what waits for less is run at once
    open.send(()).unwrap();
    first.read_answer("GET").expect_ok("done");
    first.write("GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(paths.recv_timeout(DEADLINE).unwrap(), "/next");
    open.send(()).unwrap();
    first.read_answer("GET").expect_ok("done");
    handle.stop();
}

#[test]
fn a_request_that_waits_when_the_device_stops_is_not_run() {
    let raw = RawGateway::start();
    let (handle, links, paths, open) = one_runs_one_waits(&raw);
    handle.stop();
    open.send(()).unwrap();
    drop(open);
    for mut link in links {
        link.read_to_any_end();
    }
    assert!(paths.iter().next().is_none(), "the handler has gone, and was not run again");
}

// ── Surplus ──

/// Links that were asked at once, with their answers read.
fn busy_links(
    raw: &RawGateway,
    paths: &Receiver<String>,
    open: &Opener,
    busy: usize,
) -> Vec<RawPeer> {
    let mut links = vec![raw.turn()];
    links[0].write(asks("/", &(busy - 1).to_string()));
    paths.recv_timeout(DEADLINE).unwrap();
    for n in 1..busy {
        links.push(raw.turn());
        links[n].write(asks("/", "0"));
        paths.recv_timeout(DEADLINE).unwrap();
    }
    let spare = raw.turn();
    for _ in &links {
        open.send(()).unwrap();
    }
    for link in &mut links {
        link.read_answer("GET").expect_ok("done");
    }
    links.push(spare);
    links
}

type Opener = crossbeam_channel::Sender<()>;

/// Whether the link goes on after a heartbeat.
fn goes_on(link: &mut RawPeer) -> bool {
    link.write(HEARTBEAT);
    let answer = link.read_answer("OPTIONS");
    assert_eq!(answer.status(), 204);
    if answer.head.closes() {
        link.expect_end();
    }
    !answer.head.closes()
}

#[test]
fn links_that_the_last_minute_needed_stay() {
    let raw = RawGateway::start();
    let (local, paths, open) = gated();
    let device = device(&raw, 1..=8).build().unwrap();
    let handle = device.spawn_forward(local.url()).unwrap();
    let mut links = busy_links(&raw, &paths, &open, 4);
    for _ in 0..2 {
        assert!(links.iter_mut().all(goes_on), "four were busy, and one is to be idle");
    }
    handle.stop();
}

/// A link that a visitor is logged in on is that visitor's, however many others idle.
#[test]
fn a_link_that_is_one_visitors_is_never_surplus() {
    let raw = RawGateway::start();
    let (local, paths, open) = gated();
    let mut limits = Limits::default();
    limits.demand_window = Duration::from_millis(300);
    let device = device(&raw, 1..=8).limits(limits).build().unwrap();
    let handle = device.spawn_forward(local.url()).unwrap();
    let mut links = busy_links(&raw, &paths, &open, 5);
    let session = "ab".repeat(16);
    links[0].write(format!(
        "GET /mine HTTP/1.1\r\nHost: a\r\nAuthorization: NTLM eA==\r\nPTTH-Same-Visitor: {session}\r\n\r\n"
    ));
    paths.recv_timeout(DEADLINE).unwrap();
    open.send(()).unwrap();
    links[0].read_answer("GET").expect_ok("done");
    let mut mine = links.remove(0);
    let end = Instant::now() + DEADLINE;
    while links.len() > 1 {
        assert!(Instant::now() < end, "{} links are left", links.len());
        links.retain_mut(goes_on);
        assert!(goes_on(&mut mine));
    }
    handle.stop();
}

#[test]
fn surplus_links_end_with_the_answer_to_a_heartbeat() {
    let raw = RawGateway::start();
    let (local, paths, open) = gated();
    let mut limits = Limits::default();
    limits.demand_window = Duration::from_millis(300);
    let device = device(&raw, 1..=8).limits(limits).build().unwrap();
    let handle = device.spawn_forward(local.url()).unwrap();
    let mut links = busy_links(&raw, &paths, &open, 5);
    assert_eq!(links.len(), 6);
    let end = Instant::now() + DEADLINE;
    while links.len() > 2 {
        assert!(Instant::now() < end, "{} links are left", links.len());
        links.retain_mut(goes_on);
    }
    assert_eq!(links.len(), 2, "as many as one request needs, and MIN");
    for _ in 0..3 {
        assert!(links.iter_mut().all(goes_on));
    }
    assert!(raw.try_accept().is_none(), "nothing is dialled in their place");
    eventually("they are counted", || (handle.stats().links == 2).then_some(()));
    // A heartbeat that tells of callers ends nothing.
    links[0].write(asks("/", "4"));
    paths.recv_timeout(DEADLINE).unwrap();
    links.extend((0..4).map(|_| raw.turn()));
    open.send(()).unwrap();
    links[0].read_answer("GET").expect_ok("done");
    handle.stop();
}

// ── Polls ──

/// A poll's connection, with its head read.
fn poll(raw: &RawGateway) -> RawPeer {
    let (peer, head) = raw.offer();
    assert_eq!((head.method(), head.get("content-length")), ("POST", Some("0")));
    peer
}

fn event(encoding: Encoding, id: &str, waiting: &str) -> Vec<u8> {
    let (kind, body) = match encoding {
        Encoding::Json => (
            "application/json",
            format!(
                "{{\"message-id\": \"{id}\", \"method\": \"GET\", \"request-uri\": \"/{id}\", \
                 \"http-version\": \"PTTH/1.0\", \
                 \"headers\": [[\"Host\", \"a\"], [\"PTTH-Waiting\", \"{waiting}\"], [\"X-After\", \"1\"]]}}"
            ),
        ),
        _ => ("message/http", asks(&format!("/{id}"), waiting)),
    };
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nPTTH-Message-ID: {id}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

const NOTHING: &str = "HTTP/1.1 204 No Content\r\nContent-Type: message/http\r\n\r\n";

/// The POST with the answer of an event.
#[track_caller]
fn expect_answer(peer: &mut RawPeer, id: &str) {
    let head = peer.read_head();
    let length: usize = head.get("content-length").map_or(0, |n| n.parse().unwrap());
    let body = match head.get("transfer-encoding") {
        None => peer.read_exact(length),
        Some(_) => {
            let chunks = std::iter::from_fn(|| Some(peer.read_chunk()).filter(|c| !c.is_empty()));
            chunks.flatten().collect()
        }
    };
    let text = String::from_utf8_lossy(&body).into_owned();
    let told = head.get("ptth-message-id").unwrap_or_default().to_owned() + &text;
    assert!(told.contains(id) && text.contains("done"), "{} {text}", head.text());
}

#[test]
fn as_many_polls_are_opened_as_callers_wait() {
    let encodings: &[Encoding] = match cfg!(feature = "comet") {
        true => &[Encoding::Message, Encoding::Json],
        false => &[Encoding::Message],
    };
    for encoding in encodings {
        for (polls, waiting, opened) in [
            (1..=64, "5", 5),
            (2..=4, "9", 2),
            (3..=3, "9", 0),
            // One is always free to hear who waits.
            (1..=64, "05x", 1),
            (1..=64, "", 1),
            (2..=64, "", 0),
            (1..=1, "", 0),
        ] {
            let name = format!("{encoding:?} {polls:?} {waiting:?}");
            let raw = RawGateway::start();
            let (local, paths, open) = gated();
            let device = poller(&raw, polls.clone(), *encoding).build().unwrap();
            let handle = device.spawn_forward(local.url()).unwrap();
            let mut first = poll(&raw);
            first.write(event(*encoding, "e1", waiting));
            // What MIN wants is dialled after the first answer.
            let mut others: Vec<RawPeer> =
                (1..*polls.start() + opened).map(|_| poll(&raw)).collect();
            assert_eq!(paths.recv_timeout(DEADLINE).unwrap(), "/e1", "{name}");
            if let Some(other) = others.first_mut() {
                other.write(NOTHING);
                other.read_head(); // it polls again, so the loop has made a turn
            }
            open.send(()).unwrap();
            expect_answer(&mut first, "e1");
            assert!(raw.try_accept().is_none(), "a poll too many: {name}");
            let seen = local.last();
            assert_eq!(
                (seen.get("ptth-waiting"), seen.get("x-after")),
                (None, Some("1")),
                "{name}"
            );
            handle.stop();
        }
    }
}

#[test]
fn surplus_polls_end_with_a_reply_that_brings_nothing() {
    let raw = RawGateway::start();
    let (local, paths, open) = gated();
    let mut limits = Limits::default();
    limits.demand_window = Duration::from_millis(300);
    let device = poller(&raw, 2..=8, Encoding::Message).limits(limits).build().unwrap();
    let handle = device.spawn_forward(local.url()).unwrap();
    let mut first = poll(&raw);
    first.write(event(Encoding::Message, "e0", "5")); // MIN's second poll is on its way to one
    paths.recv_timeout(DEADLINE).unwrap();
    let mut polls: Vec<RawPeer> = (0..5).map(|_| poll(&raw)).collect();
    for (n, peer) in polls.iter_mut().enumerate() {
        peer.write(event(Encoding::Message, &format!("e{}", n + 1), "0"));
        paths.recv_timeout(DEADLINE).unwrap();
    }
    polls.insert(0, first);
    let free = poll(&raw); // all have an event in hand, and somebody has to hear of the next
    for _ in &polls {
        open.send(()).unwrap();
    }
    for (n, peer) in polls.iter_mut().enumerate() {
        expect_answer(peer, &format!("e{n}"));
    }
    polls.push(free);
    let end = Instant::now() + DEADLINE;
    // The six were busy, so that all stay; then those go that idle.
    while polls.len() > 3 {
        assert!(Instant::now() < end, "{} polls are left", polls.len());
        polls.retain_mut(|peer| {
            peer.write(NOTHING);
            peer.try_read_head().is_some()
        });
    }
    assert_eq!((polls.len(), handle.stats().polls), (3, 3), "as many as one event needs, and MIN");
    for peer in &mut polls {
        peer.write(NOTHING);
        peer.read_head();
    }
    assert!(raw.try_accept().is_none());
    handle.stop();
}

/// What is asked for is not kept for later: a gateway says again who still waits.
#[test]
fn a_dial_that_fails_ends_the_demand() {
    let raw = RawGateway::start();
    let (local, paths, open) = gated();
    let device = device(&raw, 1..=8).build().unwrap();
    let local = Arc::new(local);
    let handle = device.spawn_forward(local.url()).unwrap();
    let mut first = raw.turn();
    first.write(asks("/", "4"));
    paths.recv_timeout(DEADLINE).unwrap();
    for _ in 0..4 {
        raw.offer().0.write(
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nProxy-Status: ptth\r\n\r\n",
        );
    }
    let mut spare = raw.turn(); // MIN idle ones are wanted, and no more
    nobody_dials(&raw, &mut spare);
    open.send(()).unwrap();
    first.read_answer("GET").expect_ok("done");
    handle.stop();
}
