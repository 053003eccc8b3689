//! Gateways that hang: their connections stand, and nothing comes.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use reverse_http::{Gateway, Limits, Peers, Routes};

use crate::cluster::{Cluster, SECRET, device};
use crate::support::process::get;
use crate::support::{LocalServer, RawPeer, eventually};

/// A gateway of this process that asks the one at this URL, and the address of its visitors.
fn asks(url: &str, peer_timeout: Duration) -> (Gateway, SocketAddr) {
    let mut limits = Limits::default();
    (limits.peer_timeout, limits.wait_for_link) = (peer_timeout, Duration::from_millis(300));
    let url = url.to_owned();
    let peers = Peers::found_by(move |_| Ok(Some(url.clone()))).secrets([SECRET]).unwrap();
    let gateway = crate::support::gateway().limits(limits).peers(peers);
    let gateway = gateway.listen("127.0.0.1:0").start().unwrap();
    let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
    (gateway, visitors)
}

#[test]
fn a_gateway_that_hangs_is_found_out_long_before_its_device_would_be_late() {
    let cluster = Cluster::new();
    let (second, url) = cluster.gateway("second", &[]);
    let local = LocalServer::start();
    let _device = device(&second, "lamp", &local.url());
    let (first, visitors) = asks(&url, Duration::from_millis(500));
    let ask = || {
        let mut visitor = RawPeer::connect(visitors);
        visitor.deadline = Duration::from_secs(30); // first_byte_timeout is 60 s
        visitor.write(get("/lamp/x"));
        visitor.read_answer("GET")
    };
    eventually("the device is there", || (ask().status() == 200).then_some(()));
    // Over an idle connection first, then over new ones, which its system still accepts.
    second.process.signal("STOP");
    let refused = ask();
    refused.expect_refusal(504);
    assert!(refused.text().contains("hangs"), "{}", refused.text());
    // Nobody waits for it again, and nobody has to ask for it to be found alive.
    let refused = ask();
    refused.expect_refusal(503);
    assert!(refused.text().contains("cannot be reached"), "{}", refused.text());
    second.process.signal("CONT");
    eventually("it is asked again", || (ask().status() == 200).then_some(()));
    drop(first);
}

/// Whatever was sent to it while it was asked for a sign of life would wait as long as a device may.
#[test]
fn requests_that_came_while_a_gateway_was_asked_are_given_up_with_it() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", other.local_addr().unwrap());
    let (first, visitors) = asks(&url, Duration::from_secs(5));
    let ask = |path: &str| {
        let mut visitor = RawPeer::connect(visitors);
        visitor.deadline = Duration::from_secs(30); // first_byte_timeout is 60 s
        visitor.write(get(path));
        visitor
    };
    let accept = |target: &str| {
        let mut peer = RawPeer::adopt(other.accept().unwrap().0, "a gateway");
        peer.deadline = Duration::from_secs(20);
        assert_eq!(peer.read_head().target(), target);
        peer
    };
    let mut early = ask("/lamp/early");
    let _held = accept("/early");
    let _probed = accept("*");
    early.expect_quiet(Duration::from_secs(1)); // well within the time of the question
    let mut late = ask("/lamp/late");
    let _held_too = accept("/late");
    for visitor in [&mut early, &mut late] {
        let refused = visitor.read_answer("GET");
        refused.expect_refusal(504);
        assert!(refused.text().contains("hangs"), "{}", refused.text());
    }
    drop(first);
}

/// A device may take its time: its gateway says that it lives.
#[test]
fn a_gateway_that_waits_for_a_slow_device_lives() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", other.local_addr().unwrap());
    let (first, visitors) = asks(&url, Duration::from_secs(2));
    let mut visitor = RawPeer::connect(visitors);
    visitor.deadline = Duration::from_secs(50);
    visitor.write(get("/lamp/x"));
    let accept = || {
        let mut peer = RawPeer::adopt(other.accept().unwrap().0, "a gateway");
        peer.deadline = Duration::from_secs(20);
        peer
    };
    let mut request = accept();
    assert_eq!(request.read_head().target(), "/x");
    // It is asked on a connection of its own, which is kept.
    let mut probed = accept();
    for _ in 0..3 {
        let head = probed.read_head();
        assert_eq!(head.start, "OPTIONS * HTTP/1.1");
        assert_eq!(head.get("ptth-peer-secret"), Some(SECRET));
        probed.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    }
    request.write("HTTP/1.1 200 OK\r\nPTTH-Peer-Served: 1\r\nContent-Length: 4\r\n\r\nslow");
    visitor.read_answer("GET").expect_ok("slow");
    drop(first);
}

/// What refuses a connection does not hang: a gateway that stops finishes what it has begun.
#[test]
fn a_gateway_that_takes_no_new_connection_finishes_what_it_has() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = other.local_addr().unwrap();
    let (first, visitors) = asks(&format!("http://{at}"), Duration::from_millis(200));
    let mut visitor = RawPeer::connect(visitors);
    visitor.deadline = Duration::from_secs(50);
    visitor.write(get("/lamp/x"));
    let mut request = RawPeer::adopt(other.accept().unwrap().0, "a gateway");
    assert_eq!(request.read_head().target(), "/x");
    drop(other);
    visitor.expect_quiet(Duration::from_secs(1)); // several looks at it
    request.write("HTTP/1.1 200 OK\r\nPTTH-Peer-Served: 1\r\nContent-Length: 4\r\n\r\ndone");
    visitor.read_answer("GET").expect_ok("done");
    drop(first);
}
