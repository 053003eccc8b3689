//! `Body::with_progress` on its way: uploads and downloads, at both ends, over a link and over polls.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Cursor, Read};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use reverse_http::testing::TestDevice;
use reverse_http::{Body, Device, DeviceHandle, Fallback, Gateway, Limits, Progress};

use crate::support::DEADLINE;

/// Larger than every buffer on its way.
const WHOLE: usize = 3_000_000;

fn image() -> Vec<u8> {
    (0..WHOLE).map(|n| (n % 251) as u8).collect()
}

/// What is read at once of a body that is sent.
const PIECE: u64 = 64 * 1024;

/// What a body told.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Progress>>>);

impl Log {
    fn watch(&self, body: Body) -> Body {
        let log = self.0.clone();
        body.with_progress(move |now| log.lock().unwrap().push(now))
    }

    /// Forward from piece to piece, and complete once: at the end.
    /// `most`: bytes from one call to the next.
    fn is_of(&self, whole: usize, total: Option<u64>, most: u64) {
        let all = std::mem::take(&mut *self.0.lock().unwrap());
        let (last, before) = all.split_last().expect("something was told");
        assert_eq!((last.bytes, last.total), (whole as u64, Some(whole as u64)));
        for (earlier, later) in all.iter().zip(&all[1..]) {
            assert!(earlier.bytes < later.bytes || later.is_complete(), "{earlier:?}, {later:?}");
            assert!(later.bytes - earlier.bytes <= most, "{earlier:?}, {later:?}");
        }
        for now in before {
            assert!(now.total == total && !now.is_complete(), "{now:?}");
        }
    }
}

/// Answers with what it was sent: of known length where it was told one.
fn device(gateway: &Gateway, fallback: Fallback, taken: Log, given: Log) -> DeviceHandle {
    let handler = move |request: Request<Body>| {
        let is_chunked = !request.headers().contains_key(header::CONTENT_LENGTH);
        let mut bytes = Vec::new();
        match taken.watch(request.into_body()).read_to_end(&mut bytes) {
            Ok(_) if is_chunked => {
                Response::new(given.watch(Body::from_reader(Cursor::new(bytes))))
            }
            Ok(_) => Response::new(given.watch(bytes.into())),
            Err(e) => Response::new(Body::from(e.to_string())),
        }
    };
    let url = format!("http://{}/lamp", gateway.devices_addr());
    let handle = Device::builder(url).fallback(fallback).build().unwrap().spawn(handler).unwrap();
    gateway.device("lamp").wait_connected(DEADLINE).unwrap();
    handle
}

#[test]
fn uploads_and_downloads_tell_at_both_ends_how_far_they_are() {
    for fallback in [Fallback::Never, Fallback::Only] {
        let gateway = crate::support::gateway().listen("127.0.0.1:0").start().unwrap();
        let (sent, taken, given, got) =
            (Log::default(), Log::default(), Log::default(), Log::default());
        let device = device(&gateway, fallback, taken.clone(), given.clone());
        for known in [Some(WHOLE as u64), None] {
            let body = match known {
                Some(_) => Body::from(image()),
                None => Body::from_reader(Cursor::new(image())),
            };
            let request = Request::put("/").body(sent.watch(body)).unwrap();
            let response = gateway.device("lamp").send(request).unwrap();
            // Held whole on its way to a device that polls, so its length is known there.
            let at_device = known.or((fallback == Fallback::Only).then_some(WHOLE as u64));
            sent.is_of(WHOLE, known, PIECE);
            taken.is_of(WHOLE, at_device, WHOLE as u64);
            let told = response.body().length();
            let mut bytes = Vec::new();
            got.watch(response.into_body()).read_to_end(&mut bytes).unwrap();
            assert!(bytes == image());
            given.is_of(WHOLE, at_device, PIECE);
            got.is_of(WHOLE, told, WHOLE as u64);
        }
        device.stop();
    }
}

#[test]
fn a_watched_body_keeps_its_length_and_its_trailers() {
    let trailers = HeaderMap::from_iter([(
        header::HeaderName::from_static("x-sum"),
        HeaderValue::from_static("7"),
    )]);
    let log = Log::default();
    let watched = log.clone();
    let device = TestDevice::new(move |request: Request<Body>| {
        let body = watched.watch(request.into_body());
        match body.length() {
            Some(0) => Response::new(watched.watch("short".into())),
            _ => Response::new(body.with_trailers(trailers.clone())),
        }
    });
    let response = device.send(Request::get("/").body(Body::empty()).unwrap()).unwrap();
    assert_eq!(response.headers()[header::CONTENT_LENGTH], "5");
    assert_eq!(response.into_body().read_to_text(10).unwrap(), "short");
    log.is_of(5, Some(5), PIECE);
    let watched = Log::default();
    let body = watched.watch(Body::from("echoed")).with_trailers(HeaderMap::new());
    let request = Request::put("/").body(body).unwrap();
    assert_eq!(request.body().length(), Some(6));
    let mut response = device.send(request).unwrap();
    assert_eq!(response.body_mut().read_to_text(10).unwrap(), "echoed");
    assert_eq!(response.body().trailers().unwrap()["x-sum"], "7");
    watched.is_of(6, Some(6), PIECE);
    log.is_of(6, Some(6), PIECE);
    // Nothing is told of a body that is not sent.
    let head = Request::head("/").body(Body::empty()).unwrap();
    assert_eq!(device.send(head).unwrap().status(), StatusCode::OK);
    assert!(log.0.lock().unwrap().is_empty());
}

#[test]
fn an_upload_that_is_cut_never_was_complete() {
    let (told, progress) = mpsc::channel();
    let device = TestDevice::new(|mut request: Request<Body>| {
        request.body_mut().read_exact(&mut [0; 1000]).unwrap();
        StatusCode::SERVICE_UNAVAILABLE // and the rest is not wanted
    });
    let mut limits = Limits::default();
    limits.linger_total_timeout = Duration::from_millis(100); // it takes the rest for so long
    let device = device.limits(limits).unwrap();
    let body = Body::from_reader_with_length(std::io::repeat(b'x'), 1 << 40);
    let body = body.with_progress(move |now| told.send(now).unwrap());
    match device.send(Request::put("/").body(body).unwrap()) {
        Ok(response) => assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE),
        Err(e) => assert!(e.is_closed(), "{e:?}"),
    }
    let all: Vec<_> = progress.iter().collect();
    assert!(!all.is_empty() && all.iter().all(|now| !now.is_complete()), "{:?}", all.last());
}
