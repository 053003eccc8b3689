//! Requests that a program cancels from another thread: what waits ends at once, what is over stays
//! as it is.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{self, Read};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use http::{Request, StatusCode};
use reverse_http::{
    Body, Cancel, Device, DeviceHandle, ErrorKind, Fallback, Gateway, IntoResponse, Limits,
};

use crate::support::{DEADLINE, eventually};

fn gateway() -> Gateway {
    let mut limits = Limits::default();
    // What is not cancelled would take as long as this, and fail by another error.
    limits.wait_for_link = 6 * DEADLINE;
    limits.first_byte_timeout = 6 * DEADLINE;
    limits.body_silence_timeout = 6 * DEADLINE;
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

/// A handler that holds `/slow` until the sender is dropped, and says when it has it.
fn holding() -> (mpsc::Sender<()>, mpsc::Receiver<()>, impl Fn(Request<Body>) -> &'static str) {
    let (release, held) = mpsc::channel::<()>();
    let (begun, begins) = mpsc::channel();
    let (held, begun) = (Mutex::new(held), Mutex::new(begun));
    let handler = move |request: Request<Body>| {
        if request.uri().path() == "/slow" {
            begun.lock().unwrap().send(()).unwrap();
            let _ = held.lock().unwrap().recv();
        }
        "done"
    };
    (release, begins, handler)
}

#[test]
fn a_request_that_waits_for_its_response_ends_at_once_and_no_other_does() {
    for fallback in [Fallback::Never, Fallback::Only] {
        let gateway = gateway();
        let (release, begins, handler) = holding();
        let device = device(&gateway, (4, fallback), handler);
        let cancel = Cancel::new();
        let lamp = gateway.device("lamp");
        let cancelled = lamp.clone().cancel_with(&cancel);
        thread::scope(|scope| {
            let asking = scope.spawn(|| cancelled.send(get("/slow")).unwrap_err());
            begins.recv_timeout(DEADLINE).unwrap();
            let other = scope.spawn(|| lamp.send(get("/slow")).unwrap());
            cancel.cancel();
            let error = asking.join().unwrap();
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{error:?}");
            assert!(error.status_hint().is_none() && !error.is_closed());
            begins.recv_timeout(DEADLINE).unwrap();
            drop(release);
            assert_eq!(other.join().unwrap().status(), StatusCode::OK);
        });
        // It stays cancelled; the handle it was made from is free.
        assert_eq!(cancelled.send(get("/")).unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(cancelled.wait_connected(DEADLINE).unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(lamp.send(get("/")).unwrap().status(), StatusCode::OK);
        device.stop();
    }
}

#[test]
fn those_that_wait_for_a_link_or_for_the_device_end_at_once() {
    let gateway = gateway();
    let (release, begins, handler) = holding();
    let device = device(&gateway, (1, Fallback::Never), handler);
    let (cancel, lamp) = (Cancel::new(), gateway.device("lamp"));
    let cancelled = lamp.clone().cancel_with(&cancel);
    thread::scope(|scope| {
        let first = scope.spawn(|| lamp.send(get("/slow")).unwrap());
        begins.recv_timeout(DEADLINE).unwrap();
        let asking: Vec<_> = (0..8).map(|_| scope.spawn(|| cancelled.send(get("/")))).collect();
        let nobody = gateway.device("nobody").cancel_with(&cancel);
        let waiting = scope.spawn(move || nobody.wait_connected(6 * DEADLINE));
        let waits = || gateway.devices().unwrap()[0].waiting;
        eventually("all wait for its only link", || (waits() == 8).then_some(()));
        cancel.cancel();
        for asking in asking {
            assert_eq!(asking.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        }
        assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(waits(), 0, "none of them is in line any more");
        drop(release);
        assert_eq!(first.join().unwrap().status(), StatusCode::OK);
    });
    device.stop();
}

/// A body without end, which says when it is dropped.
struct Endless(Arc<Mutex<mpsc::Sender<()>>>);

impl Read for Endless {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        buf.fill(b'x');
        Ok(buf.len())
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        let _ = self.0.lock().unwrap().send(());
    }
}

#[test]
fn a_body_that_is_being_read_ends_and_the_device_learns_of_it() {
    for fallback in [Fallback::Never, Fallback::Only] {
        let gateway = gateway();
        let (dropped, drops) = mpsc::channel();
        let dropped = Arc::new(Mutex::new(dropped));
        let device =
            device(&gateway, (2, fallback), move |_| Body::from_reader(Endless(dropped.clone())));
        let cancel = Cancel::new();
        let lamp = gateway.device("lamp").cancel_with(&cancel);
        let mut body = lamp.send(get("/")).unwrap().into_body();
        let mut buf = [0; 1000];
        body.read_exact(&mut buf).unwrap();
        cancel.cancel();
        let error = loop {
            match body.read(&mut buf) {
                Ok(n) => assert!(n > 0, "it never ends well"),
                Err(error) => break error,
            }
        };
        let error = error.get_ref().unwrap().downcast_ref::<reverse_http::Error>().unwrap();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error:?}");
        drop(body); // and its connection with it
        let ends = drops.recv_timeout(DEADLINE);
        assert!(ends.is_ok(), "{fallback:?}: the device still sends");
        device.stop();
    }
}

#[test]
fn what_is_over_stays_as_it_is_and_its_link_is_used_again() {
    let gateway = gateway();
    let device = device(&gateway, (1, Fallback::Never), |_| "done");
    for _ in 0..20 {
        let cancel = Cancel::new();
        let lamp = gateway.device("lamp").cancel_with(&cancel);
        let mut response = lamp.send(get("/")).unwrap();
        assert_eq!(response.body_mut().read_to_text(10).unwrap(), "done");
        cancel.cancel();
    }
    assert_eq!(gateway.stats().turns, 1, "the link lived on");
    device.stop();
}

/// Whenever the cancellation comes: the answer is whole, or it is the error; and nobody else's.
#[test]
fn a_cancellation_at_any_moment_harms_nobody_else() {
    let gateway = gateway();
    let device = device(&gateway, (3, Fallback::Never), |request: Request<Body>| {
        request.uri().path().to_owned()
    });
    thread::scope(|scope| {
        let gateway = &gateway;
        let steady = scope.spawn(move || {
            for n in 0..200 {
                let path = format!("/steady-{n}");
                let mut response = gateway.device("lamp").send(get(&path)).unwrap();
                assert_eq!(response.body_mut().read_to_text(100).unwrap(), path);
            }
        });
        let mut kinds = [0, 0];
        for n in 0..200_u32 {
            let cancel = Cancel::new();
            let lamp = gateway.device("lamp").cancel_with(&cancel);
            let asking = scope.spawn(move || {
                let path = format!("/{n}");
                let text = lamp.send(get(&path))?.into_body().read_to_text(100)?;
                assert_eq!(text, path);
                Ok::<(), reverse_http::Error>(())
            });
            for _ in 0..n * 50 {
                std::hint::spin_loop();
            }
            cancel.cancel();
            match asking.join().unwrap() {
                Ok(()) => kinds[0] += 1,
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Cancelled, "{e:?}");
                    kinds[1] += 1;
                }
            }
        }
        assert_eq!(kinds[0] + kinds[1], 200);
        steady.join().unwrap();
    });
    device.stop();
}
