//! Where a device is: what the directory says, what becomes of a wrong word, and of none.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use http::Response;
use reverse_http::{Body, Bound, Device, DeviceHandle, Gateway, Limits, Peers, Routes};

use crate::cluster::{Cluster, device};
use crate::support::process::get;
use crate::support::{LocalServer, Over, Ptth, RawPeer, eventually};

/// A gateway in this process.
pub struct One {
    pub gateway: Gateway,
    pub visitors: SocketAddr,
    pub url: String,
}

impl One {
    pub fn with(limits: Limits, peers: Peers) -> One {
        let builder = crate::support::gateway().limits(limits).peers(peers);
        let gateway = builder.listen("127.0.0.1:0").start().unwrap();
        let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
        let url = format!("http://{}", gateway.listen_peers("127.0.0.1:0").unwrap());
        One { gateway, visitors, url }
    }

    /// One that knows no others.
    fn alone() -> One {
        One::with(Limits::default(), Peers::found_by(|_| Ok(None)))
    }

    pub fn device(&self, name: &str, who: &'static str) -> DeviceHandle {
        let url = format!("http://{}/{name}", self.gateway.devices_addr());
        let device = Device::builder(url)
            .backoff(Duration::from_millis(5)..Duration::from_millis(50))
            .build()
            .unwrap()
            .spawn(move |_| Response::new(Body::from(who)))
            .unwrap();
        self.gateway.device(name).wait_connected(Duration::from_secs(20)).unwrap();
        device
    }

    fn ask(&self, request: impl AsRef<[u8]>) -> crate::support::Answer {
        let mut visitor = RawPeer::connect(self.visitors);
        visitor.deadline = Duration::from_secs(30);
        visitor.write(request);
        visitor.read_answer("GET")
    }
}

/// A directory that can be changed, and how often it was asked.
#[derive(Clone, Default)]
struct Table {
    names: Arc<Mutex<HashMap<String, String>>>,
    asked: Arc<AtomicUsize>,
}

impl Table {
    fn say(&self, name: &str, url: &str) {
        self.names.lock().unwrap().insert(name.to_owned(), url.to_owned());
    }

    fn peers(&self) -> Peers {
        let table = self.clone();
        Peers::found_by(move |name| {
            table.asked.fetch_add(1, SeqCst);
            Ok(table.names.lock().unwrap().get(name).cloned())
        })
    }
}

fn patient() -> Limits {
    let mut limits = Limits::default();
    limits.wait_for_link = Duration::from_secs(20);
    limits
}

#[test]
fn what_the_directory_said_is_believed_until_a_gateway_says_no() {
    let (second, third, table) = (One::alone(), One::alone(), Table::default());
    table.say("lamp", &second.url);
    let first = One::with(patient(), table.peers());
    let there = second.device("lamp", "second");
    for _ in 0..10 {
        first.ask(get("/lamp/x")).expect_ok("second");
    }
    assert_eq!(table.asked.load(SeqCst), 1, "once for all of them");
    // It goes to the third gateway: one retry, whatever the method.
    there.drain(Duration::from_secs(10));
    let there = third.device("lamp", "third");
    table.say("lamp", &third.url);
    first.ask("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").expect_ok("third");
    assert_eq!(table.asked.load(SeqCst), 2);
    assert_eq!((second.gateway.stats().hops_served, third.gateway.stats().hops_served), (10, 1));
    // It comes here: a link here counts for more than what was said.
    let here = first.device("lamp", "first");
    first.ask(get("/lamp/x")).expect_ok("first");
    here.drain(Duration::from_secs(10));
    first.ask(get("/lamp/x")).expect_ok("third");
    there.drain(Duration::from_secs(10));
    // A program can say that it has changed its directory.
    table.say("lamp", &second.url);
    let _there = second.device("lamp", "second");
    first.gateway.forget_peers(Some("lamp"));
    first.gateway.ping(Duration::from_secs(20)).unwrap();
    first
        .ask("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
        .expect_ok("second");
}

#[test]
fn a_body_that_was_on_its_way_to_the_wrong_gateway_is_sent_again_unless_it_is_long() {
    let (second, third, table) = (One::alone(), One::alone(), Table::default());
    table.say("lamp", &second.url);
    let first = One::with(patient(), table.peers());
    let there = second.device("lamp", "second");
    first.ask(get("/lamp/x")).expect_ok("second");
    there.drain(Duration::from_secs(10));
    let there = third.device("lamp", "third");
    table.say("lamp", &third.url);
    let post = |length: usize| {
        let body = "x".repeat(length);
        format!("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    let refused = first.ask(post(64 * 1024 + 1));
    refused.expect_refusal(503);
    assert_eq!(refused.head.get("retry-after"), Some("1"));
    assert!(refused.text().contains("does not have the device any more"), "{}", refused.text());
    // What it learnt counts for a repeated request.
    eventually("the new owner is known", || (first.ask(post(9)).status() == 200).then_some(()));
    // Of what is kept, nobody is told.
    there.drain(Duration::from_secs(10));
    let _there = second.device("lamp", "second");
    table.say("lamp", &second.url);
    first.ask(post(64 * 1024)).expect_ok("second");
}

#[test]
fn a_device_that_nobody_has_is_unknown_and_one_that_was_there_is_waited_for() {
    let (second, table) = (One::alone(), Table::default());
    let first = One::with(patient(), table.peers());
    let nobody = first.ask(get("/nobody/x"));
    nobody.expect_refusal(404);
    let none = "to this gateway, and the directory of gateways knows none that has it";
    assert!(nobody.text().contains(none), "{}", nobody.text());
    first.ask(get("/nobody/x")).expect_refusal(404);
    assert_eq!(table.asked.load(SeqCst), 1, "that is believed for a second");
    // The directory is wrong, and the other gateway has never heard of it.
    table.say("lamp", &second.url);
    let nobody = first.ask(get("/lamp/x"));
    nobody.expect_refusal(404);
    let both = "no device lamp is connected, or was recently, to this gateway, nor to the one that the directory of gateways names";
    assert!(nobody.text().contains(both), "{}", nobody.text());
    // It was there recently: a request waits for it, whichever gateway it connects to.
    second.device("lamp", "second").drain(Duration::from_secs(10));
    let mut waits = RawPeer::connect(first.visitors);
    waits.deadline = Duration::from_secs(30);
    first.gateway.forget_peers(None);
    first.gateway.ping(Duration::from_secs(20)).unwrap();
    waits.write(get("/lamp/x"));
    waits.expect_quiet(Duration::from_millis(50));
    let _back = second.device("lamp", "back");
    waits.read_answer("GET").expect_ok("back");
}

#[test]
fn a_request_in_line_asks_again_as_soon_as_the_directory_has_changed() {
    let (second, table) = (One::alone(), Table::default());
    let (says, said) = mpsc::channel();
    let (names, last) = (table.clone(), AtomicUsize::new(0));
    let peers = Peers::found_by(move |name| {
        let _ = says.send(last.fetch_add(1, SeqCst));
        Ok(names.names.lock().unwrap().get(name).cloned())
    });
    let first = One::with(patient(), peers);
    first.device("lamp", "first").drain(Duration::from_secs(10)); // it was there, so it is waited for
    let mut waits = RawPeer::connect(first.visitors);
    waits.deadline = Duration::from_secs(30);
    waits.write(get("/lamp/x"));
    let asked = || said.recv_timeout(Duration::from_secs(20)).expect("the directory is asked");
    asked();
    // Once a second without a change: the request would be refused long before the last of these.
    for n in 0..60 {
        let what = if n % 2 == 0 { Some("lamp") } else { None };
        eventually("a change has it asked", || {
            first.gateway.forget_peers(what);
            said.recv_timeout(Duration::from_millis(5)).ok()
        });
    }
    let _there = second.device("lamp", "second");
    table.say("lamp", &second.url);
    first.gateway.forget_peers(Some("lamp"));
    waits.read_answer("GET").expect_ok("second");
}

#[test]
fn what_the_directory_was_asked_before_it_changed_does_not_count() {
    let second = One::alone();
    let _there = second.device("lamp", "second");
    let (asks, asked) = mpsc::channel();
    let (goes_on, go_on) = mpsc::channel::<()>();
    let (go_on, asks, url) = (Mutex::new(go_on), Mutex::new(asks), second.url.clone());
    let first = One::with(
        patient(),
        Peers::found_by(move |_| {
            let is_first = asks.lock().unwrap().send(()).is_ok();
            // The first answer was right when it was asked for.
            let late = is_first && go_on.lock().unwrap().recv().is_ok();
            Ok((!late).then(|| url.clone()))
        }),
    );
    let mut visitor = RawPeer::connect(first.visitors);
    visitor.write(get("/lamp/x"));
    asked.recv_timeout(Duration::from_secs(20)).unwrap();
    drop(asked);
    first.gateway.forget_peers(Some("lamp"));
    first.gateway.ping(Duration::from_secs(20)).unwrap();
    goes_on.send(()).unwrap();
    visitor.read_answer("GET").expect_ok("second");
}

/// A directory that loses its memory, as a server does that is restarted, makes nobody's device
/// unknown that was reached recently.
#[test]
fn a_device_that_another_gateway_had_is_waited_for_when_the_directory_has_forgotten_it() {
    let (second, table) = (One::alone(), Table::default());
    let there = second.device("lamp", "second");
    for (wait, comes_back) in [(100, false), (20_000, true)] {
        table.say("lamp", &second.url);
        let mut limits = Limits::default();
        limits.wait_for_link = Duration::from_millis(wait);
        let first = One::with(limits, table.peers());
        first.ask(get("/lamp/x")).expect_ok("second");
        table.names.lock().unwrap().clear();
        first.gateway.forget_peers(None);
        first.gateway.ping(Duration::from_secs(20)).unwrap();
        let asked = table.asked.load(SeqCst);
        let mut visitor = RawPeer::connect(first.visitors);
        visitor.deadline = Duration::from_secs(30);
        visitor.write(get("/lamp/x"));
        eventually("the directory is asked", || (table.asked.load(SeqCst) > asked).then_some(()));
        if comes_back {
            table.say("lamp", &second.url);
            visitor.read_answer("GET").expect_ok("second");
        } else {
            let refused = visitor.read_answer("GET");
            refused.expect_refusal(503);
            assert!(refused.text().contains("another gateway had it "), "{}", refused.text());
            assert!(!refused.text().contains(&second.url), "that is not for visitors");
        }
        first.ask(get("/other/x")).expect_refusal(404);
    }
    drop(there);
}

#[test]
fn a_gateway_that_cannot_be_reached_is_waited_for_as_a_device_is() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let table = Table::default();
    table.say("lamp", &closed);
    let mut limits = Limits::default();
    limits.wait_for_link = Duration::from_millis(100);
    let first = One::with(limits, table.peers());
    let refused = first.ask(get("/lamp/x"));
    refused.expect_refusal(503);
    assert!(refused.text().contains("cannot be reached"), "{}", refused.text());
    let status = refused.head.get("proxy-status").unwrap();
    assert!(status.contains("error=destination_unavailable"), "{status}");
    assert!(!refused.head.text().contains(&closed["http://".len()..]), "it is nobody's business");
    // It comes here while somebody waits.
    let first = One::with(patient(), table.peers());
    let mut waits = RawPeer::connect(first.visitors);
    waits.deadline = Duration::from_secs(30);
    waits.write(get("/lamp/x"));
    waits.expect_quiet(Duration::from_millis(50));
    let here = first.device("lamp", "here");
    waits.read_answer("GET").expect_ok("here");
    drop(here);
}

#[test]
fn the_directory_has_its_time_and_its_mistakes_are_told() {
    let (hold, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let mut limits = Limits::default();
    limits.directory_timeout = Duration::from_millis(200);
    let peers = Peers::found_by(move |name| match name {
        "hangs" => {
            let _ = held.lock().unwrap().recv(); // until the test is over
            Ok(None)
        }
        "fails" => Err("no database".into()),
        "panics" => panic!("on purpose"),
        "odd" => Ok(Some("gopher://a".to_owned())),
        _ => Ok(None),
    });
    let first = One::with(limits, peers);
    let _here = first.device("lamp", "here");
    for (name, part) in [
        ("hangs", "did not say in time"),
        ("fails", "cannot say"),
        ("panics", "the directory of gateways"), // to tell of it may take a while
        ("odd", "cannot say"),
    ] {
        let refused = first.ask(get(&format!("/{name}/x")));
        refused.expect_refusal(503);
        assert!(refused.text().contains(part), "{name}: {}", refused.text());
        first.ask(get("/lamp/x")).expect_ok("here");
    }
    first.ask(get("/nobody/x")).expect_refusal(404);
    drop(hold);
}

/// A device that was here recently is waited for. A request that waited in vain learns what kept the gateway
/// from finding it elsewhere.
#[test]
fn after_a_wait_it_is_told_that_the_directory_could_not_be_asked() {
    let (hold, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let mut limits = Limits::default();
    limits.directory_timeout = Duration::from_millis(200);
    limits.wait_for_link = Duration::from_millis(300);
    let peers = Peers::found_by(move |name| match name {
        "hangs" => {
            let _ = held.lock().unwrap().recv(); // until the test is over
            Ok(None)
        }
        "fails" => Err("no database".into()),
        _ => Ok(None),
    });
    let first = One::with(limits, peers);
    for (name, part) in
        [("hangs", Some("did not say in time")), ("fails", Some("cannot say")), ("lamp", None)]
    {
        first.device(name, "here").drain(Duration::from_secs(10));
        let refused = first.ask(get(&format!("/{name}/x")));
        refused.expect_refusal(503);
        let text = refused.text();
        assert_eq!(text.contains("the directory of gateways"), part.is_some(), "{name}: {text}");
        assert!(text.contains(part.unwrap_or_default()), "{name}: {text}");
        assert_eq!(refused.head.get("retry-after"), Some("1"));
    }
    drop(hold);
}

#[test]
fn a_connection_that_was_closed_is_no_failure() {
    // In the place of a gateway: it closes each connection after an answer, and does not say so.
    let other = LocalServer::with(|c| {
        c.answer("200 OK", "PTTH-Peer-Served: 1\r\n", "served");
        c.close = true;
    });
    let table = Table::default();
    table.say("lamp", &other.url());
    let first = One::with(patient(), table.peers());
    for n in 0..20 {
        first.ask(get(&format!("/lamp/{n}"))).expect_ok("served");
        let post = "POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
        eventually("an upload finds a connection", || {
            let answer = first.ask(post);
            assert!(matches!(answer.status(), 200 | 502), "{}", answer.head.text());
            (answer.status() == 200).then_some(())
        });
    }
}

/// Its links idle here before the other gateway is given up, so nothing of them would wake a request
/// that lined up then.
#[test]
fn a_device_that_came_here_while_another_gateway_was_tried_is_asked_at_once() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let pki = crate::support::pki::Authority::new();
    let table = Table::default();
    table.say("lamp", &format!("https://{}", silent.local_addr().unwrap()));
    let tls = reverse_http::tls::DeviceTls::new().ca(std::fs::read(pki.ca()).unwrap()).unwrap();
    let mut limits = patient();
    limits.handshake_timeout = Duration::from_secs(2);
    let first = One::with(limits, table.peers().tls(tls).unwrap());
    let mut visitor = RawPeer::connect(first.visitors);
    visitor.deadline = Duration::from_secs(30);
    visitor.write(get("/lamp/x"));
    let _trying = silent.accept().unwrap();
    let _here = first.device("lamp", "first");
    visitor.read_answer("GET").expect_ok("first");
}

/// The same while the directory is asked, and fails.
#[test]
fn a_device_that_came_here_while_the_directory_failed_is_asked_at_once() {
    let (fail, wait) = mpsc::channel::<()>();
    let (asked, is_asked) = mpsc::channel::<()>();
    let (asked, wait) = (Mutex::new(asked), Mutex::new(wait));
    let peers = Peers::found_by(move |_| {
        asked.lock().unwrap().send(()).unwrap();
        wait.lock().unwrap().recv().unwrap();
        Err("it is away".into())
    });
    let mut limits = patient();
    limits.directory_timeout = Duration::from_secs(60);
    let first = One::with(limits, peers);
    let mut visitor = RawPeer::connect(first.visitors);
    visitor.deadline = Duration::from_secs(30);
    visitor.write(get("/lamp/x"));
    is_asked.recv().unwrap();
    let _here = first.device("lamp", "first");
    fail.send(()).unwrap();
    visitor.read_answer("GET").expect_ok("first");
}

#[test]
fn connections_to_another_gateway_are_kept_and_bounded() {
    let table = Table::default();
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let other = LocalServer::with(move |c| {
        if c.head.target() == "/held" {
            wait.lock().unwrap().recv().unwrap();
        }
        c.answer("200 OK", "PTTH-Peer-Served: 1\r\n", "served");
    });
    table.say("lamp", &other.url());
    let mut limits = patient();
    limits.peer_connections_max = 1;
    let builder = Gateway::builder().limits(limits).peers(table.peers());
    let gateway = builder.listen("127.0.0.1:0").start().unwrap();
    let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
    let ask = |target: &str| RawPeer::connect(visitors).ask(&get(target));
    for _ in 0..5 {
        ask("/lamp/x").expect_ok("served");
    }
    let mut held = RawPeer::connect(visitors);
    held.write(get("/lamp/held"));
    eventually("it is there", || (other.count() == 6).then_some(()));
    let full = ask("/lamp/x");
    full.expect_refusal(503);
    assert!(full.text().contains("as many requests as may be"), "{}", full.text());
    let reached = gateway.stats().bounds_reached;
    assert_eq!((reached.of(Bound::PeerConnections), reached.total()), (1, 1), "{reached:?}");
    go.send(()).unwrap();
    held.read_answer("GET").expect_ok("served");
    ask("/lamp/x").expect_ok("served");
    assert_eq!(gateway.stats().hops, 7);
}

#[test]
fn a_gateway_that_is_killed_loses_its_links_and_nothing_else() {
    let cluster = Cluster::new();
    let (second, url) = cluster.gateway("second", &[]);
    cluster.say("first", &format!("lamp {url}\n"));
    let (first, _) = cluster.gateway("first", &["--wait-for-link", "30s"]);
    let local = LocalServer::start();
    let (there, here) = (second.device_url("lamp"), first.device_url("lamp"));
    let options = ["--gateway", &here, "--failover", "--backoff", "10ms..100ms"];
    let device = Ptth::start(&[&["device", &there, "--to", &local.url()], &options[..]].concat());
    device.line_like("connected ");
    first.get("/lamp/x").expect_ok("hello\n");
    let began = Instant::now();
    second.process.signal("KILL");
    let mut visitor = first.visitor();
    visitor.deadline = Duration::from_secs(60);
    // What was on a connection that broke may be lost, and is told; what comes then is served.
    let mut answers = 0;
    eventually("it is served again", || {
        let answer = visitor.ask(&get("/lamp/x"));
        answers += 1;
        assert!(matches!(answer.status(), 200 | 502 | 503), "{}", answer.head.text());
        (answer.status() == 200).then_some(())
    });
    crate::support::say(&format!(
        "kill -9 of the gateway with the device: served again after {} ms, {answers} requests",
        began.elapsed().as_millis()
    ));
    drop(device);
}

#[test]
fn a_gateway_that_stops_sends_its_devices_and_their_visitors_elsewhere() {
    let cluster = Cluster::new();
    let (mut second, url) = cluster.gateway("second", &[]);
    cluster.say("first", &format!("lamp {url}\n"));
    let (first, _) = cluster.gateway("first", &["--wait-for-link", "30s"]);
    let local = LocalServer::start();
    let (there, here) = (second.device_url("lamp"), first.device_url("lamp"));
    let options = ["--gateway", &here, "--failover", "--backoff", "10ms..100ms"];
    let device = Ptth::start(&[&["device", &there, "--to", &local.url()], &options[..]].concat());
    device.line_like("connected ");
    let visitors = first.visitors;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let asked = std::thread::scope(|scope| {
        let _over = Over(&stop);
        let asking = scope.spawn(|| {
            let mut count = 0;
            let mut visitor = RawPeer::connect(visitors);
            visitor.deadline = Duration::from_secs(60);
            while !stop.load(SeqCst) {
                visitor.ask(&get("/lamp/x")).expect_ok("hello\n");
                count += 1;
            }
            count
        });
        second.process.signal("TERM");
        assert_eq!(second.process.exit_code_within(Duration::from_secs(30)), 0);
        device.line_like(&format!("connected lamp via {here}"));
        RawPeer::connect(visitors).ask(&get("/lamp/x")).expect_ok("hello\n");
        stop.store(true, SeqCst);
        asking.join().unwrap()
    });
    crate::support::say(&format!(
        "{asked} requests over the restart of the gateway with the device, none failed"
    ));
}

#[test]
fn several_event_loops_find_devices_of_other_gateways() {
    let cluster = Cluster::new();
    let (second, url) = cluster.gateway("second", &["--loops", "3"]);
    let names = ["one", "two", "three", "four"];
    let lines: String = names.iter().map(|name| format!("{name} {url}\n")).collect();
    cluster.say("first", &lines);
    let (first, _) = cluster.gateway("first", &["--loops", "3"]);
    let local = LocalServer::start();
    let _devices: Vec<_> = names.iter().map(|name| device(&second, name, &local.url())).collect();
    let mut visitor = first.visitor();
    for n in 0..40 {
        let name = names[n % 4];
        let answer = visitor.ask(&get(&format!("/{name}/echo{n}")));
        assert!(answer.text().starts_with(&format!("GET /echo{n} ")), "{}", answer.head.text());
    }
}

#[test]
fn a_gateway_that_accepts_and_says_nothing_is_waited_for_no_longer_than_a_link() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let table = Table::default();
    table.say("lamp", &format!("https://{}", silent.local_addr().unwrap()));
    let mut limits = Limits::default();
    limits.wait_for_link = Duration::from_secs(2);
    let peers = table.peers().tls(reverse_http::tls::DeviceTls::new()).unwrap();
    let first = One::with(limits, peers);
    let began = Instant::now();
    let refused = first.ask(get("/lamp/x"));
    refused.expect_refusal(503);
    assert!(refused.text().contains("cannot be reached"), "{}", refused.text());
    // What it waits, one attempt that began before that was over, and a second.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4) + crate::support::slack(), "{took:?}");
}
