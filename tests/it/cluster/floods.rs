//! Many at once: changes of the directory, and visitors who wait for what it says.

use std::io::Read;
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use reverse_http::{Bound, Limits, Peers, Routes};

use crate::cluster::directory::One;
use crate::support::process::get;
use crate::support::{RawPeer, eventually};

/// A directory that says that nobody has a device, as long as it is open.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar, AtomicUsize)>);

impl Gate {
    fn set_closed(&self, is_closed: bool) {
        *self.0.0.lock().unwrap() = is_closed;
        self.0.1.notify_all();
    }

    fn asked(&self) -> usize {
        self.0.2.load(SeqCst)
    }

    fn peers(&self) -> Peers {
        let gate = self.clone();
        Peers::found_by(move |_| {
            gate.0.2.fetch_add(1, SeqCst);
            let closed = gate.0.0.lock().unwrap();
            drop(gate.0.1.wait_while(closed, |closed| *closed).unwrap());
            Ok(None)
        })
    }
}

/// So many visitors in line for a device that was here.
fn in_line(first: &One, visitors: usize) -> Vec<RawPeer> {
    first.device("lamp", "first").drain(Duration::from_secs(10));
    let before = first.gateway.stats().exchanges;
    let visitor = |_| {
        let mut visitor = RawPeer::connect(first.visitors);
        visitor.deadline = Duration::from_secs(60);
        visitor.write(get("/lamp/x"));
        visitor
    };
    let waiting: Vec<RawPeer> = (0..visitors).map(visitor).collect();
    eventually("all have begun", || {
        (first.gateway.stats().exchanges == before + visitors as u64).then_some(())
    });
    waiting
}

#[test]
fn changes_that_come_faster_than_they_are_heard_keep_nobody_waiting() {
    let mut limits = Limits::default();
    limits.wait_for_link = Duration::from_secs(60);
    let first = One::with(limits, Gate::default().peers());
    let mut waiting = in_line(&first, 400);
    // Each of them wakes all who are in line, if it is heard apart from the others.
    for _ in 0..50_000 {
        first.gateway.forget_peers(Some("lamp"));
    }
    first.gateway.ping(Duration::from_secs(5)).expect("what came behind them has its turn");
    let _here = first.device("lamp", "here");
    waiting.iter_mut().for_each(|visitor| visitor.read_answer("GET").expect_ok("here"));
}

#[test]
fn whoever_waits_for_what_the_directory_says_counts_once() {
    let (gate, mut limits) = (Gate::default(), Limits::default());
    (limits.wait_for_link, limits.directory_timeout) =
        (Duration::from_secs(60), Duration::from_secs(60));
    limits.waiting_per_device_max = 8;
    let first = One::with(limits, gate.peers());
    let mut waiting = in_line(&first, 5);
    gate.set_closed(true);
    let asked = gate.asked();
    eventually("the directory is asked and says nothing", || {
        first.gateway.forget_peers(Some("lamp"));
        (gate.asked() > asked).then_some(())
    });
    for _ in 0..3 {
        first.gateway.forget_peers(Some("lamp"));
        first.gateway.ping(Duration::from_secs(20)).unwrap();
    }
    let mut one_more = RawPeer::connect(first.visitors);
    one_more.deadline = Duration::from_secs(60);
    one_more.write(get("/lamp/x"));
    one_more.expect_quiet(Duration::from_millis(100));
    gate.set_closed(false);
    let _here = first.device("lamp", "here");
    waiting.push(one_more);
    waiting.iter_mut().for_each(|visitor| visitor.read_answer("GET").expect_ok("here"));
}

#[test]
fn names_that_somebody_makes_up_keep_nobody_elses_lookups_waiting() {
    let second = One::with(Limits::default(), Peers::found_by(|_| Ok(None)));
    let _there = second.device("lamp", "second");
    let (asks, asked) = mpsc::channel();
    let (says, said) = mpsc::channel::<()>();
    let (said, url) = (Mutex::new(said), second.url.clone());
    // A directory that answers when it is told to.
    let peers = Peers::found_by(move |name| {
        asks.send(name.to_owned()).unwrap();
        let _ = said.lock().unwrap().recv();
        Ok((name == "lamp").then(|| url.clone()))
    });
    let mut limits = Limits::default();
    (limits.helpers_max, limits.authorize_queue_max) = (1, 4);
    limits.directory_timeout = Duration::from_secs(60);
    let first = One::with(limits, peers);
    let ask = |from: u8, name: &str| {
        let mut visitor = RawPeer::connect_from([127, 0, 0, from], first.visitors);
        visitor.deadline = Duration::from_secs(60);
        visitor.write(get(&format!("/{name}/x")));
        visitor
    };
    let next = || asked.recv_timeout(Duration::from_secs(20)).expect("it is asked");
    let mut made_up = vec![ask(2, "n0")];
    assert_eq!(next(), "n0");
    for n in 1..=4 {
        made_up.push(ask(2, &format!("n{n}")));
        let begun = n + 1;
        eventually("it has begun", || (first.gateway.stats().exchanges == begun).then_some(()));
    }
    ask(2, "n5").read_answer("GET").expect_refusal(503);
    // Another address: the last of those gives way, and its turn is the next but one.
    let mut lamp = ask(1, "lamp");
    made_up.pop().unwrap().read_answer("GET").expect_refusal(503);
    let reached = first.gateway.stats().bounds_reached;
    assert_eq!((reached.of(Bound::LookUps), reached.total()), (2, 2), "{reached:?}");
    let mut order = Vec::new();
    for _ in 0..4 {
        says.send(()).unwrap();
        order.push(next());
    }
    assert_eq!(order, ["n1", "lamp", "n2", "n3"]);
    drop(says);
    lamp.read_answer("GET").expect_ok("second");
    made_up.iter_mut().for_each(|visitor| visitor.read_answer("GET").expect_refusal(404));
}

#[test]
fn a_gateway_that_hangs_in_handshakes_leaves_places_to_devices() {
    use crate::support::pki::{Authority, TlsPeer};
    use reverse_http::tls::{DeviceTls, GatewayTls, Identity};
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", hangs.local_addr().unwrap());
    // Each connection says hello, or is closed at once since there is no place for its handshake.
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in hangs.incoming() {
            let (mut stream, tell) = (stream.unwrap(), tell.clone());
            std::thread::spawn(move || {
                let _ = tell.send(stream.read(&mut [0]));
                let _ = stream.read_to_end(&mut Vec::new());
            });
        }
    });
    let pki = Authority::new();
    let pair = pki.server("gateway");
    let read = |file: &str| std::fs::read(file).unwrap();
    let ca = DeviceTls::new().ca(read(pki.ca())).unwrap();
    let peers = Peers::found_by(move |_| Ok(Some(url.clone()))).tls(ca).unwrap();
    let identity = Identity::from_pem(read(pair.certificate()), read(pair.key())).unwrap();
    let mut limits = Limits::default();
    limits.handshakes_max = 8;
    (limits.wait_for_link, limits.handshake_timeout) =
        (Duration::from_secs(60), Duration::from_secs(60));
    let gateway = crate::support::gateway().limits(limits).peers(peers);
    let gateway = gateway.listen_tls("127.0.0.1:0", GatewayTls::new(identity).unwrap());
    let gateway = gateway.start().unwrap();
    let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
    let visitor = |n| {
        let mut visitor = RawPeer::connect(visitors);
        visitor.write(get(&format!("/n{n}/x")));
        visitor
    };
    let asking: Vec<RawPeer> = (0..20).map(visitor).collect();
    let (mut all, mut hellos) = (0, 0);
    while all < asking.len() || hellos < 6 {
        let read = told.recv_timeout(Duration::from_secs(20)).expect("it began or was closed");
        (all, hellos) = (all + 1, hellos + usize::from(matches!(read, Ok(1))));
    }
    assert_eq!(hellos, 6, "three quarters");
    let mut device = TlsPeer::connect(gateway.devices_addr(), pki.client(None).into());
    assert_eq!(device.ask(&get("/")).0.status(), 405);
}
