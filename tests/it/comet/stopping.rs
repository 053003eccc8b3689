//! Devices that stop, with polls and with links, among visitors that go on asking.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use crate::support::process::get;
use crate::support::{Gateway, LocalServer, Over, Process, Ptth, RawGateway, RawPeer, eventually};

/// With a device of the same name that stays, nobody waits for one that has gone; what just then
/// was on its way is answered 503, since nothing of it ran.
#[test]
fn no_visitor_waits_for_a_device_that_stops_while_it_polls() {
    visitors_while_devices_stop("only", "COMET", &get("/lamp/x"), &[200, 503]);
}

/// The same with links: a request that nobody may send again fails as little as any other.
#[test]
fn no_request_is_lost_over_the_links_of_a_device_that_stops() {
    let post = "POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    visitors_while_devices_stop("auto", "turn", post, &[200]);
}

fn visitors_while_devices_stop(fallback: &str, way: &str, request: &str, statuses: &[u16]) {
    let gateway =
        Gateway::start(&["--fallback", fallback, "--shared-names", "--wait-for-link", "9s"]);
    let local = LocalServer::start();
    let device = || -> Process {
        let (url, to) = (gateway.device_url("lamp"), local.url());
        let device = Ptth::start(&["device", &url, "--to", &to, "--polls", "2", "--links", "2..9"]);
        assert!(device.line().contains(way));
        device
    };
    let _stays = device();
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut visitor = gateway.visitor();
                while !over.load(SeqCst) {
                    let answer = visitor.ask(request);
                    assert!(statuses.contains(&answer.status()), "{}", answer.text());
                    served.fetch_add(1, SeqCst);
                }
            });
        }
        let _over = Over(&over);
        for _ in 0..5 {
            let mut leaves = device();
            let before = served.load(SeqCst);
            eventually("visitors are served", || (served.load(SeqCst) > before + 20).then_some(()));
            leaves.signal("TERM");
            assert_eq!(leaves.exit_code(), 0, "{}", leaves.stderr());
        }
    });
}

/// What crosses with the stop of a device is answered as ever, its link's last. Its idle links end
/// by the gateway's word, for which a POST asks that says that the device stops.
#[test]
fn idle_links_of_a_device_that_stops_are_sent_home() {
    let (raw_gateway, mut device, mut links) = two_links();
    let [one, two] = &mut links;
    device.signal("TERM");
    let (mut post, head) = raw_gateway.offer();
    assert_eq!((head.get("ptth-last"), head.get("upgrade")), (Some("1"), None), "{}", head.text());
    one.write(get("/crosses"));
    let answer = one.read_answer("GET");
    assert_eq!((answer.status(), answer.head.get("connection")), (200, Some("close")));
    one.expect_closed();
    post.write("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
    post.expect_closed();
    two.write("OPTIONS * HTTP/1.1\r\nHost: \r\nConnection: close\r\n\r\n");
    assert_eq!(two.read_answer("OPTIONS").status(), 204);
    two.expect_closed();
    assert_eq!(device.exit_code(), 0, "{}", device.stderr());
}

/// A gateway that does not know such POSTs, or says nothing, keeps no device from its end.
#[test]
fn links_of_a_device_that_stops_are_closed_where_its_gateway_is_of_no_help() {
    for answer in [Some("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n"), None] {
        let (raw_gateway, mut device, mut links) = two_links();
        device.signal("TERM");
        let (mut post, _) = raw_gateway.offer();
        answer.into_iter().for_each(|answer| post.write(answer));
        links.iter_mut().for_each(|link| link.expect_closed());
        post.expect_closed();
        assert_eq!(device.exit_code(), 0, "{}", device.stderr());
    }
}

/// A device with two links to a gateway of the test's own.
fn two_links() -> (RawGateway, Process, [RawPeer; 2]) {
    let raw = RawGateway::start();
    let args = ["device", &raw.url("lamp"), "--text", "hello", "--links", "2..2"];
    let device = Ptth::start(&args);
    let links = [raw.turn(), raw.turn()];
    // Both are known when both have answered.
    let links = links.map(|mut link| {
        link.write(get("/"));
        link.read_answer("GET").expect_ok("hello");
        link
    });
    (raw, device, links)
}
