//! What a program meets around its own code: deadlines of its own, kinds of errors, bodies that
//! fail, and what a handler may return.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Read;
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode};
use reverse_http::{
    Body, Device, DeviceHandle, ErrorKind, Fallback, Gateway, IntoResponse, Limits,
};

use crate::support::{DEADLINE, eventually};

fn gateway(change: impl FnOnce(&mut Limits)) -> Gateway {
    let mut limits = Limits::default();
    change(&mut limits);
    crate::support::gateway().listen("127.0.0.1:0").limits(limits).start().unwrap()
}

fn device<R: IntoResponse>(
    gateway: &Gateway,
    (links, fallback): (usize, Fallback),
    handler: impl Fn(Request<Body>) -> R + Send + Sync + 'static,
) -> DeviceHandle {
    let handle = Device::builder(format!("http://{}/lamp", gateway.devices_addr()))
        .links(1..=links)
        .fallback(fallback)
        .backoff(Duration::from_millis(5)..Duration::from_millis(50))
        .build()
        .unwrap()
        .spawn(handler)
        .unwrap();
    gateway.device("lamp").wait_connected(DEADLINE).unwrap();
    handle
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

#[test]
fn a_deadline_of_a_program_ends_one_exchange_and_no_other() {
    for fallback in [Fallback::Never, Fallback::Only] {
        let gateway = gateway(|_| ());
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let device = device(&gateway, (1, fallback), move |request| {
            if request.uri().path() == "/slow" {
                let _ = held.lock().unwrap().recv(); // until the test is over
            }
            "done"
        });
        let lamp = gateway.device("lamp");
        let hasty = lamp.clone().timeout(Duration::from_millis(400));
        assert_eq!(hasty.send(get("/quick")).unwrap().status(), StatusCode::OK);
        let error = hasty.send(get("/slow")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
        assert!(error.to_string().contains("DeviceRef::timeout"), "{error}");
        // Neither does it hold for other handles, nor for this one's next exchange.
        drop(release);
        assert_eq!(lamp.send(get("/slow")).unwrap().status(), StatusCode::OK);
        assert_eq!(hasty.send(get("/quick")).unwrap().status(), StatusCode::OK);
        device.stop();
    }
}

#[test]
fn the_deadline_holds_for_the_responses_body_and_the_limit_where_it_is_shorter() {
    let gateway = gateway(|limits| limits.exchange_timeout = Duration::from_secs(1));
    let (_open, silence) = mpsc::channel::<()>();
    let silence = std::sync::Arc::new(Mutex::new(silence));
    let device = device(&gateway, (3, Fallback::Never), move |_| {
        Response::new(Body::from_reader(Silent(true, silence.clone())))
    });
    let lamp = gateway.device("lamp");
    for (time, named) in [
        (Duration::from_millis(300), "DeviceRef::timeout"),
        (Duration::from_secs(60), "exchange_timeout"),
        (Duration::ZERO, "exchange_timeout"),
    ] {
        let began = Instant::now();
        let mut body = lamp.clone().timeout(time).send(get("/")).unwrap().into_body();
        let error = body.read_to_vec(100).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
        assert!(error.to_string().contains(named), "{error}");
        assert!(began.elapsed() < DEADLINE);
    }
    device.stop();
}

/// One byte, and then none until the sender is dropped.
struct Silent(bool, std::sync::Arc<Mutex<mpsc::Receiver<()>>>);

impl Read for Silent {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if std::mem::take(&mut self.0) {
            buf[0] = b'x';
            return Ok(1);
        }
        let _ = self.1.lock().unwrap().recv();
        Ok(0)
    }
}

#[test]
fn unknown_away_and_busy_are_told_apart() {
    let gateway = gateway(|limits| limits.wait_for_link = Duration::from_millis(100));
    let lamp = gateway.device("lamp");
    let unknown = lamp.send(get("/")).unwrap_err();
    assert_eq!((unknown.kind(), unknown.status_hint()), (ErrorKind::Unknown, Some(404)));
    assert!(unknown.is_not_connected() && !unknown.is_busy());
    let brief = Duration::from_millis(1);
    assert_eq!(lamp.wait_connected(brief).unwrap_err().kind(), ErrorKind::Unknown);

    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let running = device(&gateway, (1, Fallback::Never), move |_| {
        let _ = held.lock().unwrap().recv();
        "done"
    });
    std::thread::scope(|scope| {
        let first = scope.spawn(|| lamp.send(get("/")).map(|response| response.status()));
        eventually("its only link is busy", || (running.stats().busy == 1).then_some(()));
        let busy = lamp.send(get("/")).unwrap_err();
        assert_eq!((busy.kind(), busy.status_hint()), (ErrorKind::Busy, Some(503)), "{busy:?}");
        assert!(busy.is_busy() && !busy.is_not_connected() && busy.retry_after().is_some());
        drop(release);
        assert_eq!(first.join().unwrap().unwrap(), StatusCode::OK);
    });

    running.stop();
    eventually("it has left", || (lamp.links().unwrap().total() == 0).then_some(()));
    let away = lamp.send(get("/")).unwrap_err();
    assert_eq!((away.kind(), away.status_hint()), (ErrorKind::Away, Some(503)), "{away:?}");
    assert!(away.is_not_connected() && away.retry_after().is_some());
    assert_eq!(lamp.wait_connected(brief).unwrap_err().kind(), ErrorKind::Away);
}

/// Fails after one byte.
struct Broken(bool);

impl Read for Broken {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if std::mem::take(&mut self.0) {
            buf[0] = b'x';
            return Ok(1);
        }
        Err(std::io::Error::other("the card was pulled"))
    }
}

#[test]
fn a_programs_own_body_that_fails_is_its_own_failure() {
    let gateway = gateway(|_| ());
    let device = device(&gateway, (1, Fallback::Never), |mut request: Request<Body>| {
        let _ = request.body_mut().read_to_vec(1000);
        "done"
    });
    let lamp = gateway.device("lamp");
    let post = |body: Body| lamp.send(Request::post("/").body(body).unwrap());
    for body in [
        Body::from_reader(Broken(true)),
        Body::from_reader_with_length(Broken(true), 10),
        Body::from_reader_with_length(&b"short"[..], 10),
    ] {
        let error = post(body).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Body, "{error:?}");
    }
    assert_eq!(post(Body::from("right")).unwrap().status(), StatusCode::OK);
    device.stop();
}

#[test]
fn bodies_are_shared_between_threads() {
    fn is_shared<T: Send + Sync + 'static>() {}
    is_shared::<Body>();
    is_shared::<Gateway>();
    is_shared::<reverse_http::DeviceRef>();
    is_shared::<DeviceHandle>();
}

#[test]
fn a_handler_returns_what_becomes_a_response() {
    fn answer(request: Request<Body>) -> Result<(StatusCode, String), StatusCode> {
        match request.uri().path() {
            "/made" => Ok((StatusCode::CREATED, "new".to_owned())),
            _ => Err(StatusCode::NOT_FOUND),
        }
    }
    let gateway = gateway(|_| ());
    let device = device(&gateway, (1, Fallback::Never), answer);
    let ask = |path: &str| {
        let (parts, mut body) = gateway.device("lamp").send(get(path)).unwrap().into_parts();
        (parts.status.as_u16(), body.read_to_text(100).unwrap())
    };
    assert_eq!(ask("/made"), (201, "new".to_owned()));
    assert_eq!(ask("/missing"), (404, String::new()));
    device.stop();
}
