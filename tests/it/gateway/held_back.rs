//! The request that takes the last idle link of a far device, which is held back for a moment
//! (protocol.md §1.6), on a clock that the test moves: until then it is not sent, and whatever happens
//! meanwhile, it is answered once, and the link serves others.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use http::Request;
use reverse_http::testing::{self, Pair};
use reverse_http::{Body, Device, Limits, Routes};

use crate::support::process::{get, offer};
use crate::support::{RawPeer, SWITCH, each_row, eventually, fence, own_address};

const MS: Duration = Duration::from_millis(1);
/// The time in which the device answers, and the part of it for which a request is held back.
const FAR: Duration = Duration::from_millis(48);
const PERIOD: Duration = Duration::from_millis(3);
const OLD: &str = "PTTH-Session: 0123456789abcdef0123456789abcdef\r\n";
const NEW: &str = "PTTH-Session: fedcba9876543210fedcba9876543210\r\n";

/// A gateway, and the one link of a raw device `lamp` that has answered after [`FAR`].
struct Far {
    pair: Pair,
    devices: SocketAddr,
    visitors: SocketAddr,
    link: RawPeer,
}

impl Far {
    #[track_caller]
    fn start() -> Far {
        Far::limited(|_| ())
    }

    #[track_caller]
    fn limited(change: impl FnOnce(&mut Limits)) -> Far {
        Far::answering(FAR, change)
    }

    #[track_caller]
    fn answering(after: Duration, change: impl FnOnce(&mut Limits)) -> Far {
        let mut limits = Limits::default();
        change(&mut limits);
        let own = own_address();
        let builder =
            crate::support::gateway().listen(format!("{own}:0")).limits(limits).observe(true);
        // The clock needs a device of its own.
        let other = Device::builder("http://gateway/other").build().unwrap();
        let pair = testing::pair(builder, &other, |_: Request<Body>| "").unwrap();
        let visitors = pair.gateway.listen_visitors(&format!("{own}:0"), Routes::path()).unwrap();
        let devices = pair.gateway.devices_addr();
        let mut far = Far { pair, devices, visitors, link: connect(devices, OLD) };
        let mut first = far.visitor("/first");
        assert_eq!(asked(&mut far.link), ("/first".to_owned(), 0));
        far.pair.advance(after);
        answer(&mut far.link, "/first");
        first.read_answer("GET").expect_ok("/first");
        fence(visitors);
        far
    }

    /// A visitor whose request the gateway has read.
    #[track_caller]
    fn visitor(&self, path: &str) -> RawPeer {
        let mut visitor = RawPeer::connect(self.visitors);
        visitor.write(get(&format!("/lamp{path}")));
        fence(self.visitors);
        visitor
    }

    /// The same, whose request is held back.
    #[track_caller]
    fn held(&mut self, path: &str) -> RawPeer {
        let visitor = self.visitor(path);
        self.pair.advance(PERIOD - MS);
        assert!(!self.link.stirs(), "it was sent");
        visitor
    }
}

#[track_caller]
fn connect(devices: SocketAddr, session: &str) -> RawPeer {
    let mut link = RawPeer::connect(devices);
    link.write(offer("lamp", session));
    assert_eq!(link.read_exact(SWITCH.len()), SWITCH);
    link
}

/// The target of the request that came over a link, and how many callers wait.
#[track_caller]
fn asked(link: &mut RawPeer) -> (String, usize) {
    let head = link.read_head();
    let waiting = head.all("ptth-waiting").first().map_or(0, |value| value.parse().unwrap());
    (head.target().to_owned(), waiting)
}

#[track_caller]
fn answer(link: &mut RawPeer, target: &str) {
    link.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len()));
}

/// The request comes over this link, and its visitor is served.
#[track_caller]
fn serves(link: &mut RawPeer, visitor: &mut RawPeer, path: &str) {
    assert_eq!(asked(link).0, path);
    answer(link, path);
    visitor.read_answer("GET").expect_ok(path);
}

#[test]
fn it_is_sent_after_a_sixteenth_of_the_round_trip() {
    let mut far = Far::start();
    let mut visitor = far.held("/held");
    far.pair.advance(MS);
    assert_eq!(asked(&mut far.link).0, "/held");
    far.pair.advance(FAR);
    answer(&mut far.link, "/held");
    visitor.read_answer("GET").expect_ok("/held");
    fence(far.visitors);
    // Nobody came meanwhile, so the next one is sent at once; after a second it is held again.
    let mut visitor = far.visitor("/next");
    assert_eq!(asked(&mut far.link).0, "/next");
    far.pair.advance(FAR);
    answer(&mut far.link, "/next");
    visitor.read_answer("GET").expect_ok("/next");
    far.pair.advance(Duration::from_secs(1));
    let mut visitor = far.held("/later");
    far.pair.advance(MS);
    serves(&mut far.link, &mut visitor, "/later");
}

#[test]
fn the_request_of_a_near_device_is_sent_at_once() {
    let mut far = Far::answering(Duration::from_millis(31), |_| ());
    let mut visitor = far.visitor("/near");
    serves(&mut far.link, &mut visitor, "/near");
}

#[test]
fn it_tells_of_all_who_came_behind_it() {
    let mut far = Far::start();
    let mut visitor = far.held("/held");
    let _behind = [far.visitor("/a"), far.visitor("/b"), far.visitor("/c")];
    far.pair.advance(MS);
    assert!(!far.link.stirs(), "further callers came: it is held for another period");
    far.pair.advance(PERIOD);
    assert_eq!(asked(&mut far.link), ("/held".to_owned(), 3));
    answer(&mut far.link, "/held");
    visitor.read_answer("GET").expect_ok("/held");
    assert_eq!(asked(&mut far.link), ("/a".to_owned(), 2));
}

#[test]
fn it_is_held_for_four_periods_at_most() {
    let mut far = Far::start();
    let mut visitor = far.visitor("/held");
    let mut behind = Vec::new();
    for period in 1..=4 {
        behind.push(far.visitor("/behind"));
        assert!(!far.link.stirs(), "it was sent before period {period} was over");
        far.pair.advance(PERIOD);
    }
    assert_eq!(asked(&mut far.link), ("/held".to_owned(), 4));
    answer(&mut far.link, "/held");
    visitor.read_answer("GET").expect_ok("/held");
}

/// It has its link, so it is not refused however little it may wait, and takes no place in the line.
#[test]
fn it_is_not_one_that_waits() {
    let mut far = Far::limited(|limits| limits.wait_for_link = Duration::ZERO);
    let mut visitor = far.held("/held");
    far.visitor("/behind").read_answer("GET").expect_refusal(503);
    far.pair.advance(PERIOD);
    serves(&mut far.link, &mut visitor, "/held");

    let mut far = Far::limited(|limits| limits.waiting_per_device_max = 1);
    let (mut visitor, mut second) = (far.held("/held"), far.visitor("/second"));
    far.visitor("/third").read_answer("GET").expect_refusal(503);
    far.pair.advance(2 * PERIOD);
    serves(&mut far.link, &mut visitor, "/held");
    serves(&mut far.link, &mut second, "/second");
}

#[test]
fn a_drain_lets_it_be_answered() {
    let mut far = Far::start();
    let mut visitor = far.held("/held");
    let gateway = far.pair.gateway.clone();
    let drained = thread::spawn(move || gateway.drain(Duration::from_secs(10)));
    eventually("it takes no new visitors", || TcpStream::connect(far.visitors).err());
    far.pair.advance(MS);
    serves(&mut far.link, &mut visitor, "/held");
    assert_eq!(asked(&mut far.link).0, "*", "then it is asked to leave");
    far.link.write("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    far.link.expect_closed();
    while !drained.is_finished() {
        far.pair.advance(MS);
    }
    drained.join().unwrap();
}

#[test]
fn a_device_that_leaves_answers_it() {
    let mut far = Far::start();
    let mut visitor = far.held("/held");
    let mut last = RawPeer::connect(far.devices);
    let head = "POST /lamp HTTP/1.1\r\nHost: gw.example\r\nContent-Length: 0\r\n";
    last.write(format!("{head}{OLD}PTTH-Last: 1\r\n\r\n"));
    last.read_answer("POST");
    far.pair.advance(MS);
    serves(&mut far.link, &mut visitor, "/held");
}

/// What happens to the link while a request is held back.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Ends,
    BringsBytes,
    IsReplaced,
}

/// The request goes to another link, and nothing of it to this one.
#[test]
fn a_link_that_is_of_no_use_any_more_does_not_get_it() {
    each_row(
        &[Fate::Ends, Fate::BringsBytes, Fate::IsReplaced],
        |fate| format!("{fate:?}"),
        |fate| {
            let mut far = Far::start();
            let mut visitor = far.held("/held");
            let mut new = match fate {
                Fate::IsReplaced => Some(connect(far.devices, NEW)),
                _ => None,
            };
            match fate {
                Fate::Ends => far.link.finish_writing(),
                Fate::BringsBytes => {
                    far.link.write("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n!")
                }
                Fate::IsReplaced => {}
            }
            fence(far.visitors);
            far.pair.advance(MS);
            let new = new.get_or_insert_with(|| connect(far.devices, OLD));
            serves(new, &mut visitor, "/held");
            match fate {
                Fate::IsReplaced => assert_eq!(asked(&mut far.link).0, "*"),
                Fate::Ends | Fate::BringsBytes => far.link.expect_closed(),
            }
        },
    );
}

#[cfg(feature = "admin")]
#[test]
fn an_operators_disconnect_ends_the_link_and_the_request() {
    let mut far = Far::start();
    let mut visitor = far.held("/held");
    let admin = far.pair.gateway.admin("127.0.0.1:0", reverse_http::admin::Admin::new()).unwrap();
    let at = admin.url().strip_prefix("http://").unwrap();
    let mut operator = RawPeer::connect(at.parse().unwrap());
    operator.write(format!(
        "POST /api/v1/devices/lamp/disconnect HTTP/1.1\r\nHost: {at}\r\nX-Ptth-Admin: 1\r\n\r\n"
    ));
    assert_eq!(operator.read_answer("POST").status(), 200);
    visitor.read_answer("GET").expect_refusal(502);
    far.link.expect_closed();
}

#[test]
fn a_visitor_who_leaves_meanwhile_leaves_the_link_to_the_next_one() {
    let mut far = Far::start();
    far.held("/left").reset();
    let mut next = far.visitor("/next");
    far.pair.advance(MS);
    serves(&mut far.link, &mut next, "/next");
}

/// A request that is withdrawn before a byte of it was sent does not make the device near.
#[test]
fn a_withdrawn_request_is_no_answer() {
    let mut far = Far::start();
    far.pair.advance(Duration::from_secs(1));
    let mut bad = RawPeer::connect(far.visitors);
    bad.write("POST /lamp/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz");
    fence(far.visitors);
    far.pair.advance(PERIOD);
    bad.read_answer("POST").expect_refusal(400);
    far.pair.advance(Duration::from_secs(1));
    let mut visitor = far.held("/held");
    far.pair.advance(MS);
    serves(&mut far.link, &mut visitor, "/held");
}

/// A program's lease that ends with an error makes room under the bound of requests in flight.
#[test]
fn the_end_of_a_lease_serves_who_waited_for_it() {
    let mut far = Far::limited(|limits| limits.in_flight_per_device_max = 1);
    let mut second = connect(far.devices, OLD);
    let gateway = far.pair.gateway.clone();
    let asking = thread::spawn(move || {
        let request = Request::get("/program").body(Body::empty()).unwrap();
        gateway.device("lamp").send(request).unwrap()
    });
    assert_eq!(asked(&mut second).0, "/program", "the newest link");
    second.write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart");
    let response = asking.join().unwrap();
    let mut visitor = far.visitor("/waits");
    assert!(!far.link.stirs(), "one is in flight");
    drop(response);
    serves(&mut far.link, &mut visitor, "/waits");
}
