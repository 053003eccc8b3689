//! A gateway and a device on a clock that the test drives (`testing::pair`): nothing happens before its
//! time, and everything at it, without a pause in the test.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use http::Request;
use reverse_http::testing::{self, Pair};
use reverse_http::{
    Body, CloseCause, Device, DeviceEventKind, DeviceRef, Error, ErrorKind, Fallback, Gateway,
    Limits, Routes, Transport,
};

use crate::support::RawPeer;

const SECOND: Duration = Duration::from_secs(1);

fn lamp() -> reverse_http::device::DeviceBuilder {
    Device::builder("http://gateway/lamp").links(1..=1)
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

fn on(_: Request<Body>) -> &'static str {
    "on"
}

/// The text of an answer, or what went wrong, from a thread that asks.
fn asking(device: DeviceRef) -> JoinHandle<Result<String, Error>> {
    spawn(move || device.send(get("/"))?.into_body().read_to_text(100))
}

/// A handler that says that it has begun, and waits until it is released.
struct Hanging {
    begins: Receiver<()>,
    release: Sender<()>,
}

fn hanging() -> (impl Fn(Request<Body>) -> &'static str + Send + Sync + 'static, Hanging) {
    let ((begun, begins), (release, released)) = (channel(), channel());
    let (begun, released) = (Mutex::new(begun), Mutex::new(released));
    let handler = move |_: Request<Body>| {
        begun.lock().unwrap().send(()).unwrap();
        let _ = released.lock().unwrap().recv(); // or the test is over
        "done"
    };
    (handler, Hanging { begins, release })
}

#[test]
fn a_pair_needs_no_address_and_lives_through_a_day() {
    let began = Instant::now();
    let device = lamp().build().unwrap();
    let pair = testing::pair(Gateway::builder(), &device, on).unwrap();
    assert_eq!(pair.gateway.stats().devices, 1, "it is connected at once");
    for hour in 1..=24 {
        pair.advance(3600 * SECOND);
        assert_eq!(pair.elapsed(), hour * 3600 * SECOND);
        let answer = pair.gateway.device("lamp").send(get("/")).unwrap();
        assert_eq!(answer.into_body().read_to_text(100).unwrap(), "on");
    }
    assert_eq!(pair.gateway.stats().turns, 1, "the one link had its heartbeats");
    assert!(began.elapsed() < 3600 * SECOND, "a day passes as its clock is moved");
}

#[test]
fn what_is_lost_is_noticed_by_heartbeat_and_by_silence() {
    let device = lamp().build().unwrap();
    let events = device.events();
    let pair = testing::pair(Gateway::builder(), &device, on).unwrap();
    pair.advance(26 * SECOND); // a first heartbeat, after 25 s
    pair.stall().unwrap();
    pair.advance(33 * SECOND); // the next is after 50 s, and its answer is late after 60
    assert_eq!(pair.gateway.stats().devices, 1);
    pair.advance(2 * SECOND);
    assert_eq!(pair.gateway.stats().closed.of(CloseCause::HeartbeatMissed), 1);
    assert!(pair.gateway.devices().unwrap().is_empty());
    let kinds = || events.try_iter().map(|event| event.kind).collect::<Vec<_>>();
    assert_eq!(kinds(), [DeviceEventKind::Connected], "the device heard nothing of it");
    pair.advance(83 * SECOND);
    assert_eq!(pair.device.stats().closed.total(), 0, "it last heard something 119 s ago");
    pair.advance(3 * SECOND);
    assert_eq!(pair.device.stats().closed.of(CloseCause::Silent), 1);
    pair.advance(60 * SECOND);
    assert!(kinds().contains(&DeviceEventKind::Connected), "and is back");
    assert_eq!(pair.gateway.devices().unwrap().len(), 1);
}

#[test]
fn a_device_that_cannot_connect_tries_again_after_its_pauses() {
    let device = lamp().backoff(10 * SECOND..20 * SECOND).build().unwrap();
    let events = device.events();
    let pair = testing::pair(Gateway::builder(), &device, on).unwrap();
    let failures = || events.try_iter().filter(|e| e.kind == DeviceEventKind::Failed).count();
    pair.set_reachable(false);
    pair.disconnect();
    assert!(pair.gateway.devices().unwrap().is_empty());
    pair.advance(600 * SECOND);
    let in_ten_minutes = failures();
    assert!((30..=600).contains(&in_ten_minutes), "{in_ten_minutes} attempts");
    pair.set_reachable(true);
    assert!(pair.gateway.devices().unwrap().is_empty(), "its pause is not over");
    pair.advance(20 * SECOND);
    assert_eq!(pair.gateway.devices().unwrap().len(), 1);
}

/// The pair of a handler that hangs, with its link taken.
fn hung(limits: Limits) -> (Pair, Hanging, JoinHandle<Result<String, Error>>) {
    let (handler, hanging) = hanging();
    let device = lamp().build().unwrap();
    let pair = testing::pair(Gateway::builder().limits(limits), &device, handler).unwrap();
    let first = asking(pair.gateway.device("lamp"));
    hanging.begins.recv().unwrap();
    (pair, hanging, first)
}

#[test]
fn a_program_that_waits_gives_up_when_its_time_is_over_and_not_before() {
    let mut limits = Limits::default();
    limits.first_byte_timeout = 30 * SECOND;
    let (pair, hanging, first) = hung(limits.clone());
    pair.advance(29 * SECOND);
    assert!(!first.is_finished());
    pair.advance(SECOND);
    let late = first.join().unwrap().unwrap_err();
    assert!(late.to_string().contains("first_byte_timeout"), "{late}");
    hanging.release.send(()).unwrap();

    // The other way about: the answer comes in the last second.
    let (pair, hanging, first) = hung(limits);
    pair.advance(29 * SECOND);
    hanging.release.send(()).unwrap();
    assert_eq!(first.join().unwrap().unwrap(), "done");
}

#[test]
fn a_deadline_of_one_handle_and_a_wait_for_a_link_go_by_the_clock() {
    let (pair, hanging, first) = hung(Limits::default());
    // The only link is taken: this one waits for it, and gives up after `wait_for_link` (5 s).
    let lamp = pair.gateway.device("lamp");
    let second = pair.advance_while(SECOND, || lamp.send(get("/")));
    assert_eq!(second.unwrap_err().kind(), ErrorKind::Busy);
    assert!(pair.elapsed() >= 5 * SECOND && !first.is_finished());
    hanging.release.send(()).unwrap();
    assert_eq!(first.join().unwrap().unwrap(), "done");

    let hurried = asking(pair.gateway.device("lamp").timeout(7 * SECOND));
    hanging.begins.recv().unwrap();
    pair.advance(6 * SECOND);
    assert!(!hurried.is_finished());
    pair.advance(SECOND);
    let late = hurried.join().unwrap().unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout, "{late}");
    assert!(late.to_string().contains("7s"), "{late}");
    hanging.release.send(()).unwrap();
}

#[test]
fn a_device_that_polls_does_so_by_the_clock() {
    let device = lamp().fallback(Fallback::Only).build().unwrap();
    let pair = testing::pair(Gateway::builder(), &device, on).unwrap();
    let lamp = pair.gateway.device("lamp");
    for _ in 0..3 {
        assert!(matches!(lamp.transport().unwrap(), Some(Transport::Comet(_))));
        assert_eq!(lamp.send(get("/")).unwrap().into_body().read_to_text(9).unwrap(), "on");
        pair.advance(600 * SECOND);
    }
}

/// The reply to its last answer is held like that to any poll, but the answer has long arrived.
#[test]
fn a_device_that_polls_and_has_nothing_to_do_stops_at_once() {
    let device = lamp().fallback(Fallback::Only).build().unwrap();
    let pair = testing::pair(Gateway::builder(), &device, on).unwrap();
    let answer = pair.gateway.device("lamp").send(get("/")).unwrap();
    assert_eq!(answer.into_body().read_to_text(9).unwrap(), "on");
    pair.advance(5 * SECOND);
    let ((tell, ended), running) = (channel(), pair.device.clone());
    spawn(move || {
        running.drain(10 * SECOND);
        tell.send(())
    });
    ended.recv_timeout(60 * SECOND).expect("it waits for the clock, which stands still");
}

#[test]
fn a_drain_waits_for_its_time_and_no_longer() {
    let (pair, hanging, first) = hung(Limits::default());
    pair.advance_while(SECOND, || pair.gateway.drain(10 * SECOND));
    assert!(pair.elapsed() >= 10 * SECOND, "{:?}", pair.elapsed());
    assert_eq!(first.join().unwrap().unwrap_err().kind(), ErrorKind::Stopped);
    drop(hanging);
}

#[test]
fn a_device_that_was_started_is_not_paired() {
    let device = lamp().build().unwrap();
    let pair = testing::pair(Gateway::builder(), &device, on).unwrap();
    assert!(testing::pair(Gateway::builder(), &device, on).unwrap_err().is_usage());
    assert_eq!(pair.gateway.devices().unwrap().len(), 1, "the first is as it was");
}

#[test]
fn a_pair_may_have_several_loops() {
    let device = Device::builder("http://gateway/lamp").build().unwrap();
    let gateway = Gateway::builder().loops(3).listen("127.0.0.1:0");
    let pair = testing::pair(gateway, &device, |_: Request<Body>| "on").unwrap();
    let visitors = pair.gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
    for _ in 0..24 {
        let mut visitor = RawPeer::connect(visitors); // to any of the loops
        visitor.write(crate::support::process::get("/nobody/"));
        visitor.read_answer("GET").expect_refusal(404);
    }
}
