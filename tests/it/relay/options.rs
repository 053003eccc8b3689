//! Each wait and each bound of the relay has an option that changes what it says (T24), and its
//! error names it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::support::process::get;
use crate::support::{Gateway, LocalServer, Ptth, RawPeer, eventually, slack};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Fails unless what began with this took about `wait`: at least that, and hardly longer. `began` is
/// read before the write that the wait follows: the gateway may see that before the test goes on.
#[track_caller]
fn took_about(began: Instant, wait: Duration) {
    let took = began.elapsed();
    assert!(took >= wait && took < wait + slack(), "{took:?} where {wait:?} is configured");
}

const WAIT: Duration = Duration::from_millis(300);

/// Fails unless this is a refusal with this status, whose text and Proxy-Status name the wait.
#[track_caller]
fn names(answer: &crate::support::Answer, status: u16, wait: &str) {
    answer.expect_refusal(status);
    assert!(answer.text().contains(wait), "{}", answer.text());
    if let Some(proxy) = answer.head.get("proxy-status") {
        assert!(proxy.contains(wait), "{proxy}");
    }
}

#[test]
fn a_head_has_its_time_from_the_first_byte() {
    let gateway = Gateway::start(&["--head", "300ms"]);
    let began = Instant::now();
    let mut visitor = gateway.visitor();
    visitor.write("GET /lamp/x HTT");
    names(&visitor.read_answer("GET"), 408, "head_timeout");
    took_about(began, WAIT);
    // Also of the second request on a connection, however slowly it drips.
    let mut visitor = gateway.visitor();
    visitor.ask(&get("/nobody/")).expect_refusal(404);
    let began = Instant::now();
    let mut dripped = 0;
    while !visitor.stirs_within(Duration::from_millis(20))
        && began.elapsed() < Duration::from_secs(5)
    {
        let _ = visitor.try_write([b"GET / HTTP/1.1\r\nHost: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"[dripped]]);
        dripped += 1;
    }
    names(&visitor.read_answer("GET"), 408, "head_timeout");
    took_about(began, WAIT);
}

#[test]
fn an_idle_visitor_has_its_time() {
    let gateway = Gateway::start(&["--idle-visitor", "300ms"]);
    let mut visitor = gateway.visitor();
    let began = Instant::now();
    visitor.ask(&get("/nobody/")).expect_refusal(404);
    visitor.expect_end();
    took_about(began, WAIT);
}

#[test]
fn a_device_that_takes_nothing_of_a_request_has_its_time() {
    let gateway = Gateway::start(&["--request-write", "300ms"]);
    let _link = gateway.link("lamp"); // it reads nothing
    let mut visitor = gateway.visitor();
    visitor.write("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n");
    visitor.deadline = Duration::from_millis(500);
    let piece = vec![b'x'; 1 << 20];
    let began = Instant::now();
    while visitor.try_write(&piece).is_ok() && began.elapsed() < Duration::from_secs(5) {}
    visitor.deadline = Duration::from_secs(10);
    names(&visitor.read_answer("POST"), 504, "request_write_timeout");
}

#[test]
fn silence_within_a_body_has_its_time() {
    let gateway = Gateway::start(&["--body-silence", "300ms"]);
    // Of an upload.
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    let began = Instant::now();
    visitor.write("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    link.read_head();
    names(&visitor.read_answer("POST"), 408, "body_silence_timeout");
    took_about(began, WAIT);
    // Of an answer: it is cut, not ended.
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    link.read_head();
    let began = Instant::now();
    link.write("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
    assert_eq!(visitor.read_answer_or_cut("GET").unwrap_err().body, b"hello");
    took_about(began, WAIT);
    link.expect_closed();
    // Bytes that come postpone it.
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    link.read_head();
    link.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
    for byte in b"hello" {
        link.expect_quiet(Duration::from_millis(70));
        link.write([*byte]);
    }
    visitor.read_answer("GET").expect_ok("hello");
}

#[test]
fn a_whole_exchange_has_its_time_where_it_is_given_one() {
    let gateway = Gateway::start(&["--exchange", "300ms", "--wait-for-link", "9s"]);
    // Without an answer, and the visitor's connection goes on.
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    let began = Instant::now();
    visitor.write(get("/lamp/x"));
    link.read_head();
    names(&visitor.read_answer("GET"), 504, "exchange_timeout");
    took_about(began, WAIT);
    link.expect_closed();
    // In line for a link.
    let began = Instant::now();
    names(&visitor.ask(&get("/lamp/x")), 504, "exchange_timeout");
    took_about(began, WAIT);
    // In the middle of an answer that comes and comes.
    let mut link = gateway.link("lamp");
    let began = Instant::now();
    visitor.write(get("/lamp/x"));
    link.read_head();
    link.write("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
    while link.try_write("x").is_ok() && began.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(20)); // the pace of the sender
    }
    took_about(began, WAIT);
    assert!(visitor.read_answer_or_cut("GET").is_err());
    // In a mailbox.
    let url = gateway.device_url("poller");
    let device = Ptth::start(&["device", &url, "--text", "late", "--fallback", "only"]);
    assert!(device.line().starts_with("connected poller"));
    let began = Instant::now();
    let mut visitor = gateway.visitor();
    visitor.write("POST /poller/x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    names(&visitor.read_answer("POST"), 504, "exchange_timeout");
    took_about(began, WAIT);
    // Off by default, and what is in time is in time.
    eventually("it serves", || (gateway.get("/poller/x").status() == 200).then_some(()));
}

#[test]
fn a_silent_tunnel_has_its_time() {
    let gateway = Gateway::start(&["--tunnel-silence", "1s", "--exchange", "100ms"]);
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor
        .write("GET /lamp/x HTTP/1.1\r\nHost: a\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n");
    link.read_head();
    link.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n");
    assert_eq!(visitor.read_head().status(), 101);
    let mut began = Instant::now();
    for _ in 0..4 {
        link.expect_quiet(Duration::from_millis(300));
        began = Instant::now();
        link.write("x");
        visitor.read_exact(1);
    }
    visitor.expect_closed();
    took_about(began, Duration::from_secs(1));
    link.expect_closed();
}

#[test]
fn requests_in_flight_and_in_line_have_their_bounds() {
    let gateway = Gateway::start(&["--in-flight", "1", "--waiting", "2", "--wait-for-link", "9s"]);
    let (mut first, mut second) = (gateway.link("lamp"), gateway.link("lamp"));
    let mut visitors: Vec<RawPeer> = (0..3).map(|_| gateway.visitor()).collect();
    visitors[0].write(get("/lamp/0"));
    let served = |link: &mut RawPeer, n: usize| {
        assert_eq!(link.read_head().target(), format!("/{n}"));
    };
    served(&mut second, 0); // the newest link is asked first
    visitors[1].write(get("/lamp/1"));
    gateway.get("/nobody/").expect_refusal(404); // what was written before has been read
    visitors[2].write(get("/lamp/2"));
    gateway.get("/nobody/").expect_refusal(404);
    // Two wait, although a link is idle; a third may not.
    first.expect_quiet(Duration::from_millis(100));
    let refused = gateway.get("/lamp/3");
    names(&refused, 503, "waiting_per_device_max");
    assert_eq!(refused.head.get("retry-after"), Some("1"));
    for (n, visitor) in visitors.iter_mut().enumerate() {
        if n > 0 {
            served(&mut second, n);
        }
        second.write(OK);
        visitor.read_answer("GET").expect_ok("ok");
    }
    first.expect_quiet(Duration::from_millis(50));
}

/// How many requests are ever at once at a device with four polls. Each is held until another is
/// beside it, or for 100 ms.
fn most_at_once(in_flight: &str) -> usize {
    let gateway = Gateway::start(&["--in-flight", in_flight, "--wait-for-link", "9s"]);
    let state = Arc::new((Mutex::new((0, 0)), Condvar::new())); // now, and at most so far
    let inside = state.clone();
    let local = LocalServer::with(move |c| {
        let (state, changed) = &*inside;
        let mut now = state.lock().unwrap();
        now.0 += 1;
        now.1 = now.1.max(now.0);
        changed.notify_all();
        let (mut now, _) =
            changed.wait_timeout_while(now, Duration::from_millis(100), |now| now.0 < 2).unwrap();
        now.0 -= 1;
        drop(now);
        c.text("on");
    });
    let device = Ptth::start(&[
        "device",
        &gateway.device_url("lamp"),
        "--to",
        &local.url(),
        "--fallback",
        "only",
        "--polls",
        "4",
    ]);
    assert!(device.line().starts_with("connected lamp"));
    let visitors = gateway.visitors;
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(move || {
                let mut visitor = RawPeer::connect(visitors);
                (0..4).for_each(|_| visitor.ask(&get("/lamp/x")).expect_ok("on"));
            });
        }
    });
    state.0.lock().unwrap().1
}

#[test]
fn polls_have_the_same_bound_of_requests_in_flight() {
    assert_eq!(most_at_once("1"), 1);
    assert_eq!(most_at_once("2"), 2); // it was not the polls that made them wait
}

#[test]
fn devices_that_share_a_name_are_asked_in_turn() {
    let gateway = Gateway::start(&["--shared-names", "--wait-for-link", "9s"]);
    let devices: Vec<_> =
        ["a", "b", "c"].map(|text| Ptth::device(&gateway, "lamp", &["--text", text])).into();
    let ask = |n: usize| -> Vec<String> {
        let mut visitor = gateway.visitor();
        (0..n).map(|_| visitor.ask(&get("/lamp/x")).text()).collect()
    };
    let mut seen = ask(3);
    assert_eq!(ask(3), seen, "the same order again");
    seen.sort();
    assert_eq!(seen, ["a", "b", "c"]);
    // One goes: nobody notices.
    let mut devices = devices.into_iter();
    drop(devices.next());
    let mut seen = ask(10);
    seen.sort();
    seen.dedup();
    assert_eq!(seen, ["b", "c"]);
    assert!(!gateway.process.stderr().contains("replaced"), "{}", gateway.process.stderr());
    // Without the option the second one takes the name.
    let gateway = Gateway::start(&[]);
    let _first = Ptth::device(&gateway, "lamp", &["--text", "a"]);
    let _second = Ptth::device(&gateway, "lamp", &["--text", "b"]);
    gateway.process.expect_stderr("replaced");
    let mut visitor = gateway.visitor();
    (0..5).for_each(|_| visitor.ask(&get("/lamp/x")).expect_ok("b"));
}

#[test]
fn a_shared_name_is_retried_on_another_device() {
    let gateway = Gateway::start(&["--shared-names"]);
    let session = |n: u8| format!("PTTH-Session: {}\r\n", format!("{n:02x}").repeat(16));
    let (mut first, mut second) =
        (gateway.link_with("lamp", &session(1)), gateway.link_with("lamp", &session(2)));
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    assert_eq!(first.read_head().target(), "/x");
    drop(first); // without a word: a GET may be asked again
    assert_eq!(second.read_head().target(), "/x");
    second.write(OK);
    visitor.read_answer("GET").expect_ok("ok");
}
