//! A program's own exchanges.

use std::io::Read;
use std::time::{Duration, Instant};

use http::{Request, Response};
use reverse_http::{
    Body, CloseCause, Device, DeviceHandle, Fallback, Gateway as LibGateway, GatewayEventKind,
    Limits,
};

use super::library;
use super::{STREAM, WINDOW, link};
use crate::support::{DEADLINE, each_row, eventually, slack};

// ── A program's own exchanges ──

fn program_device(
    gateway: &LibGateway,
    polls: bool,
    handler: impl Fn() -> Response<Body> + Send + Sync + 'static,
) -> DeviceHandle {
    let url = format!("http://{}/lamp", gateway.devices_addr());
    let fallback = if polls { Fallback::Only } else { Fallback::Never };
    let device = Device::builder(url)
        .fallback(fallback)
        .backoff(Duration::from_millis(5)..Duration::from_millis(50))
        .build()
        .unwrap();
    let handle = device.spawn(move |_| handler()).unwrap();
    gateway.device("lamp").wait_connected(DEADLINE).unwrap();
    handle
}

/// A body that comes byte by byte, for ever.
struct Drips(Duration);

impl Read for Drips {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        std::thread::sleep(self.0); // the pace of a slow handler
        buf[0] = b'x';
        Ok(1)
    }
}

const WHOLE: Duration = Duration::from_secs(2);

#[test]
fn the_exchange_timeout_holds_for_programs_and_their_bodies() {
    for polls in [false, true] {
        let (gateway, _) = library(|limits| limits.exchange_timeout = WHOLE);
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = std::sync::Mutex::new(held);
        let device = program_device(&gateway, polls, move || {
            let _ = held.lock().unwrap().recv(); // until the test is over
            Response::new(Body::empty())
        });
        let began = Instant::now();
        let error = gateway
            .device("lamp")
            .send(Request::get("/").body(Body::empty()).unwrap())
            .unwrap_err();
        let took = began.elapsed();
        assert!(error.is_timeout() && error.to_string().contains("exchange_timeout"), "{error}");
        assert!(took >= WHOLE * 7 / 8 && took < WHOLE + slack(), "{took:?}");
        drop(release);
        drop(device);
        let (gateway, _) = library(|limits| limits.exchange_timeout = WHOLE);
        let device = program_device(&gateway, polls, || {
            Response::new(Body::from_reader(Drips(Duration::from_millis(20))))
        });
        let began = Instant::now();
        let response =
            gateway.device("lamp").send(Request::get("/").body(Body::empty()).unwrap()).unwrap();
        let error = response.into_body().read_to_vec(1 << 20).unwrap_err();
        let took = began.elapsed();
        assert!(error.is_timeout() && error.to_string().contains("exchange_timeout"), "{error}");
        assert!(took >= WHOLE * 7 / 8 && took < WHOLE + slack(), "{took:?}");
        drop(device);
        // What is over in time is not touched, nor is the next exchange on the same link.
        let (gateway, _) = library(|limits| limits.exchange_timeout = WHOLE);
        let _device = program_device(&gateway, polls, || Response::new(Body::from("quick")));
        let began = Instant::now();
        while began.elapsed() < WHOLE * 5 / 4 {
            let response = gateway
                .device("lamp")
                .send(Request::get("/").body(Body::empty()).unwrap())
                .unwrap();
            assert_eq!(response.into_body().read_to_text(10).unwrap(), "quick");
        }
    }
}

#[test]
fn a_wait_that_runs_out_in_a_programs_exchange_is_late_in_events_and_counters() {
    type Change = fn(&mut Limits);
    let rows: [(&str, &'static str, Change); 3] = [
        ("first_byte_timeout", "", |limits| limits.first_byte_timeout = WINDOW),
        ("body_silence_timeout", STREAM, |limits| limits.body_silence_timeout = WINDOW),
        ("exchange_timeout", STREAM, |limits| limits.exchange_timeout = WINDOW),
    ];
    each_row(
        &rows,
        |(name, ..)| (*name).to_owned(),
        |(name, answer, change)| {
            let (gateway, _) = library(change);
            let events = gateway.events();
            let (mut device, answer) = (link(&gateway, "lamp"), *answer);
            let answers = std::thread::spawn(move || {
                device.read_head();
                device.write(answer);
                device
            });
            let sent = gateway.device("lamp").send(Request::get("/").body(Body::empty()).unwrap());
            let error = sent
                .and_then(|response| response.into_body().read_to_vec(100).map(drop))
                .unwrap_err();
            assert!(error.is_timeout() && error.to_string().contains(name), "{error}");
            let ended = eventually("its end is told", || {
                events.try_iter().find(|event| event.kind == GatewayEventKind::Ended)
            });
            assert_eq!(ended.cause, Some(CloseCause::Late), "{}", ended.detail);
            assert_eq!(ended.detail, error.to_string());
            assert_eq!(gateway.stats().closed.of(CloseCause::Late), 1);
            answers.join().unwrap().expect_no_more();
        },
    );
}

#[test]
fn a_gateway_that_stops_says_so_to_a_program_that_reads_a_body() {
    for polls in [false, true] {
        let (gateway, _) = library(|_| ());
        let _device = program_device(&gateway, polls, || {
            Response::new(Body::from_reader(Drips(Duration::from_millis(20))))
        });
        let response =
            gateway.device("lamp").send(Request::get("/").body(Body::empty()).unwrap()).unwrap();
        let reads = std::thread::spawn(move || response.into_body().read_to_vec(1 << 20));
        gateway.drain(Duration::from_millis(300));
        let error = reads.join().unwrap().unwrap_err();
        assert!(error.is_stopped(), "polls: {polls}: {error:?}");
    }
}
