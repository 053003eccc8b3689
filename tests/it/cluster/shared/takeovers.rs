//! A thousand take-overs of one name between two gateways, while others ask for it at a third one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use http::Response;
use reverse_http::{Body, GatewayEventKind, Limits, RedisDirectory};

use super::{One, Redis, built};
use crate::support::process::{get, offer};
use crate::support::{DEADLINE, Over, RawPeer, eventually, say};

const TAKE_OVERS: usize = 1_000;
/// No more are begun after that.
const TIME: Duration = Duration::from_secs(12);

/// What visitors are told, and when.
#[derive(Default)]
struct Seen {
    answers: usize,
    refusals: usize,
    /// The last session that had ended when an answer's request began.
    faults: Vec<String>,
    /// How far an answer was behind the newest session that was connected when its request began.
    late: usize,
}

/// Asks with nonces until it is to stop. `connected`: the newest session that is; `ended`: the newest
/// one whose links have ended.
fn visit(
    of: &One,
    who: usize,
    connected: &AtomicUsize,
    ended: &AtomicUsize,
    stop: &AtomicBool,
) -> Seen {
    let (mut seen, mut number) = (Seen::default(), 0);
    let mut visitor: Option<RawPeer> = None;
    while !stop.load(SeqCst) {
        number += 1;
        let (newest, gone) = (connected.load(SeqCst), ended.load(SeqCst));
        let mut peer = visitor.take().unwrap_or_else(|| {
            let mut peer = RawPeer::connect(of.visitors);
            peer.deadline = Duration::from_secs(30);
            peer
        });
        peer.write(get(&format!("/lamp/{who}-{number}")));
        let answer = peer.read_answer("GET");
        if answer.status() != 200 {
            seen.refusals += 1;
            if ![404, 502, 503].contains(&answer.status()) {
                seen.faults.push(answer.head.text());
            }
        } else {
            seen.answers += 1;
            let text = answer.text();
            let (nonce, session) = text.split_once(' ').unwrap();
            let session: usize = session.parse().unwrap();
            if nonce != format!("/{who}-{number}") || session < gone || session == gone && gone > 0
            {
                seen.faults.push(format!("{who}-{number}: {text}, and {gone} had ended"));
            }
            seen.late += usize::from(session < newest);
        }
        visitor = Some(peer).filter(|_| !answer.head.closes());
    }
    seen
}

#[test]
fn a_thousand_take_overs_between_two_gateways_give_no_wrong_answer() {
    let Some(redis) = Redis::start(&[]) else { return };
    let [first, second, third] =
        [(); 3].map(|()| One::with(Limits::default(), RedisDirectory::new(&redis.url()).unwrap()));
    let both = [&first, &second];
    let (connected, ended, stop) =
        (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let began = Instant::now();
    let (mut count, slowest) = (0, Mutex::new(Duration::ZERO));
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let (third, connected, ended, stop) = (&third, &connected, &ended, &stop);
        let _over = Over(stop);
        let visitors: Vec<_> = (0..2)
            .map(|who| scope.spawn(move || visit(third, who, connected, ended, stop)))
            .collect();
        let mut last = None;
        let events = both.map(|gateway| gateway.gateway.events());
        while count < TAKE_OVERS && began.elapsed() < TIME {
            count += 1;
            let (session, to) = (count, both[count % 2]);
            let device = built(&to.device_url("lamp"))
                .spawn(move |request: http::Request<Body>| {
                    Response::new(Body::from(format!("{} {session}", request.uri().path())))
                })
                .unwrap();
            to.gateway.device("lamp").wait_connected(Duration::from_secs(20)).unwrap();
            let here = Instant::now();
            connected.store(session, SeqCst);
            // The older one's links end.
            if session > 1 {
                let down =
                    |event: &reverse_http::GatewayEvent| event.kind == GatewayEventKind::Down;
                let events = &events[(count + 1) % 2];
                let mut told = std::iter::from_fn(|| events.recv_timeout(DEADLINE).ok());
                assert!(told.any(|event| down(&event)), "it was not told of {session}");
                ended.store(session - 1, SeqCst);
                let mut most = slowest.lock().unwrap();
                *most = here.elapsed().max(*most);
            }
            last.replace(device).inspect(|old: &reverse_http::DeviceHandle| old.stop());
        }
        stop.store(true, SeqCst);
        let seen = visitors.into_iter().map(|visitor| visitor.join().unwrap()).collect();
        let owner = both[count % 2];
        eventually("there is one owner", || {
            (redis.owners("lamp") == std::slice::from_ref(&owner.url)).then_some(())
        });
        let answer = third.ask(get("/lamp/last"));
        answer.expect_ok(format!("/last {count}"));
        seen
    });
    let sum = |of: fn(&Seen) -> usize| seen.iter().map(of).sum::<usize>();
    say(&format!(
        "{count} take-overs in {:.1} s: {} answers, {} refusals; {} requests began when a newer session was connected already; an older one ended {:?} later at most",
        began.elapsed().as_secs_f64(),
        sum(|of| of.answers),
        sum(|of| of.refusals),
        sum(|of| of.late),
        slowest.lock().unwrap(),
    ));
    let faults: Vec<&String> = seen.iter().flat_map(|of| &of.faults).collect();
    assert!(faults.is_empty(), "{faults:?}");
    assert!(count > 100 && sum(|of| of.answers) > count, "{count} take-overs say little");
}

/// Its link is busy, and a newer session comes to another gateway: a program's request, which waits in
/// line, goes there as a visitor's does.
#[test]
fn what_waits_in_line_goes_where_the_device_goes() {
    let Some(redis) = Redis::start(&[]) else { return };
    let [first, second] = [(); 2].map(|()| One::of(&redis));
    let mut old = RawPeer::connect(first.gateway.devices_addr());
    old.write(offer("lamp", &format!("PTTH-Session: {}\r\n", "a".repeat(32))));
    assert_eq!(old.read_answer("POST").status(), 101);
    first.is_noted(1);
    let mut busy = RawPeer::connect(first.visitors);
    busy.write(get("/lamp/busy"));
    assert_eq!(old.read_head().target(), "/busy");
    std::thread::scope(|scope| {
        let visitor = scope.spawn(|| first.ask(get("/lamp/visitor")));
        let program = scope.spawn(|| {
            let request = http::Request::get("/program").body(Body::empty()).unwrap();
            first
                .gateway
                .device("lamp")
                .send(request)
                .map(|answer| answer.into_body().read_to_text(100).unwrap())
        });
        eventually("both wait in line", || {
            (first.gateway.devices().unwrap().first()?.waiting == 2).then_some(())
        });
        let _new = second.device("lamp", "new");
        visitor.join().unwrap().expect_ok("new");
        assert_eq!(program.join().unwrap().unwrap(), "new");
    });
}
