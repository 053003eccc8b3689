//! `reverse_http::testing`: what a program's tests use instead of sockets keeps what sockets keep.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{self, Read, Write};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use reverse_http::stream::TimedStream;
use reverse_http::testing::{self, TestDevice};
use reverse_http::{Body, Limits, upgrade};

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

#[test]
fn bodies_stream_both_ways_at_once_and_trailers_pass() {
    let device = TestDevice::new(|request: Request<Body>| {
        let trailers = HeaderMap::from_iter([(
            header::HeaderName::from_static("x-sum"),
            HeaderValue::from_static("7"),
        )]);
        Response::new(request.into_body().with_trailers(trailers))
    });
    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let body = Body::from_reader(io::Cursor::new(sent.clone()));
    let mut response = device.send(Request::post("/").body(body).unwrap()).unwrap();
    assert!(response.body_mut().read_to_vec(2_000_000).unwrap() == sent);
    assert_eq!(response.body().trailers().unwrap()["x-sum"], "7");
}

#[test]
fn one_device_is_asked_by_many_threads() {
    let device = TestDevice::new(|request: Request<Body>| request.uri().path().to_owned());
    thread::scope(|scope| {
        for n in 0..8 {
            let device = &device;
            scope.spawn(move || {
                let path = format!("/{n}");
                let response = device.send(get(&path)).unwrap();
                assert_eq!(response.into_body().read_to_text(10).unwrap(), path);
            });
        }
    });
}

#[test]
fn deadlines_and_failures_are_those_of_a_link() {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let slow = TestDevice::new(move |_| {
        let _ = held.lock().unwrap().recv();
        "late"
    });
    let mut limits = Limits::default();
    limits.first_byte_timeout = Duration::from_millis(50);
    let late = slow.limits(limits).unwrap().send(get("/")).unwrap_err();
    assert!(late.is_timeout() && late.to_string().contains("first_byte_timeout"), "{late}");
    drop(release);
    let device = TestDevice::new(move |request: Request<Body>| match request.uri().path() {
        "/panic" => panic!("on purpose"),
        "/upgrade" => upgrade("x", drop),
        _ => Response::new(Body::from_reader_with_length(&b"short"[..], 10)),
    });
    assert_eq!(device.send(get("/panic")).unwrap().status(), StatusCode::INTERNAL_SERVER_ERROR);
    let offer = Request::get("/upgrade").header("Upgrade", "x").body(Body::empty()).unwrap();
    assert_eq!(device.send(offer).unwrap().status(), StatusCode::NOT_IMPLEMENTED);
    let cut = device.send(get("/short")).unwrap().body_mut().read_to_vec(100).unwrap_err();
    assert!(cut.is_closed(), "{cut:?}");
    let mut unusable = Limits::default();
    unusable.head_bytes_max = 0;
    assert!(TestDevice::new(|_| "on").limits(unusable).unwrap_err().is_usage());
}

#[test]
fn a_pipe_is_bounded_and_tells_its_end() {
    let (mut one, mut other) = testing::pipe();
    let none = Some(Duration::from_millis(10));
    one.limit_write(none).unwrap();
    let mut written = 0;
    let full = loop {
        match one.write(&[7; 1000]) {
            Ok(n) => written += n,
            Err(full) => break full,
        }
    };
    assert_eq!((written, full.kind()), (64 * 1024, io::ErrorKind::TimedOut));
    let mut buf = vec![0; written];
    other.read_exact(&mut buf[1..]).unwrap();
    assert_eq!(other.read_arrived(&mut buf).unwrap().unwrap(), 1);
    assert!(other.read_arrived(&mut buf).is_none());
    other.limit_read(none).unwrap();
    assert_eq!(other.read(&mut buf).unwrap_err().kind(), io::ErrorKind::TimedOut);

    one.write_all(b"last").unwrap();
    assert!(one.half_close());
    assert_eq!(one.write(b"more").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    let mut text = String::new();
    other.read_to_string(&mut text).unwrap();
    assert_eq!(text, "last");
    other.write_all(b"answer").unwrap();
    drop(other);
    text.clear();
    one.read_to_string(&mut text).unwrap();
    assert_eq!(text, "answer");
    let (mut alone, other) = testing::pipe();
    drop(other);
    assert_eq!(alone.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(alone.read(&mut buf).unwrap(), 0);
}
