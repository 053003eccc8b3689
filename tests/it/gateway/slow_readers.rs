//! Visitors who pipeline requests that the gateway answers itself, and do not read the answers: the
//! next request waits for them, and their connection does not wait for ever.

use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use http::Request;
use reverse_http::testing::{self, Pair};
use reverse_http::{Body, Device, Gateway, Limits, Routes};

use crate::support::process::{get, offer};
use crate::support::{RawPeer, SWITCH, eventually, fence, own_address};

const MISSED: &str = "HTTP/1.1 404 ";
/// More than all buffers between both hold.
const FLOOD: usize = 24_000_000;

/// A gateway on a clock that stands still, and a visitor that has written requests until no more were
/// taken, and read nothing.
fn stalled(limits: Limits) -> (Pair, std::net::SocketAddr, RawPeer) {
    let own = own_address();
    // One loop accepts connections in the order in which they come.
    let builder = Gateway::builder().loops(1).listen(format!("{own}:0")).limits(limits);
    let builder = builder.trusted_proxies(["127.0.0.1"]); // it has the addresses of all clients
    let other = Device::builder("http://gateway/other").build().unwrap();
    let pair = testing::pair(builder, &other, |_: Request<Body>| "").unwrap();
    let visitors = pair.gateway.listen_visitors(&format!("{own}:0"), Routes::path()).unwrap();
    let mut visitor = RawPeer::connect_narrow(visitors);
    let piece = get("/nobody/").repeat(1000);
    visitor.deadline = Duration::from_secs(1); // without a byte taken
    let taken = (0..FLOOD / piece.len()).take_while(|_| visitor.try_write(&piece).is_ok()).count();
    assert!(taken > 0 && taken < FLOOD / piece.len(), "{taken} pieces were taken");
    visitor.deadline = Duration::from_secs(10);
    (pair, visitors, visitor)
}

/// Reads to the end: whole answers to requests alone, and of the last one perhaps a part.
#[track_caller]
fn reads_answers(visitor: &mut RawPeer) -> usize {
    let (bytes, _) = visitor.read_to_any_end();
    let text = String::from_utf8_lossy(&bytes);
    let statuses = text.matches("HTTP/1.1 ").count();
    let missed = text.matches(MISSED).count();
    assert!(missed > 0 && statuses == missed, "{missed} of {statuses} are answers to requests");
    missed
}

#[test]
fn one_who_never_reads_is_closed_when_it_counts_as_idle() {
    let (pair, visitors, mut visitor) = stalled(Limits::default());
    pair.advance(Limits::default().idle_visitor_timeout - Duration::from_secs(1));
    fence(visitors);
    assert!(visitor.try_write(b"").is_ok());
    pair.advance(Duration::from_secs(2));
    reads_answers(&mut visitor); // and no 408 for what was not read
}

#[test]
fn a_drain_writes_the_last_answer_and_no_further_one() {
    let (pair, visitors, mut visitor) = stalled(Limits::default());
    let gateway = pair.gateway.clone();
    let drained = thread::spawn(move || gateway.drain(Duration::from_secs(10)));
    eventually("it takes no new visitors", || TcpStream::connect(visitors).err());
    let bytes = visitor.read_to_end(); // an end, no reset
    assert!(bytes.ends_with(b"\n"), "{:?}", String::from_utf8_lossy(&bytes[bytes.len() - 40..]));
    while !drained.is_finished() {
        pair.advance(Duration::from_millis(10));
    }
    drained.join().unwrap();
}

#[test]
fn one_who_does_not_read_gives_way_to_another() {
    let mut limits = Limits::default();
    limits.connections_max = 12; // nine for visitors
    let (pair, visitors, mut visitor) = stalled(limits);
    let mut link = RawPeer::connect(pair.gateway.devices_addr());
    link.write(offer("lamp", ""));
    assert_eq!(link.read_exact(SWITCH.len()), SWITCH);
    let mut others: Vec<RawPeer> = (0..8)
        .map(|n| {
            let mut other = RawPeer::connect(visitors);
            other.write(get(&format!("/lamp/{n}")));
            other
        })
        .collect();
    let head = link.read_head();
    assert!(head.target().starts_with('/'));
    let mut another = RawPeer::connect(visitors);
    another.write(get("/nobody/"));
    // If nobody gives way yet, the gateway looks again after 200 ms of its clock.
    eventually("another is served", || {
        pair.advance(Duration::from_millis(10));
        another.stirs().then_some(())
    });
    another.read_answer("GET").expect_refusal(404);
    reads_answers(&mut visitor);
    assert!(others.iter_mut().all(|other| !other.stirs()), "they wait for the link");
}
