//! What only the crate itself uses of a link: owned exchanges, lingering, heartbeats one by one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use http::{Request, Response};

use crate::body::Body;
use crate::limits::Limits;
use crate::link::{CutError, DeviceLink, GatewayLink, Lingered, Next, NothingArrived, Owned};

fn limits() -> Arc<Limits> {
    Arc::new(Limits::default())
}

fn get() -> Request<Body> {
    Request::get("/").body(Body::empty()).unwrap()
}

type Told = mpsc::Receiver<Option<(UnixStream, Vec<u8>)>>;

/// Asks over one end of a pair; the other end has said `answer` already, and says no more where
/// `ends`.
fn ask(
    request: Request<Body>,
    answer: &[u8],
    ends: bool,
) -> (Result<Response<Body>, (crate::Error, NothingArrived)>, Told, UnixStream) {
    let (a, mut b) = UnixStream::pair().unwrap();
    b.write_all(answer).unwrap();
    if ends {
        b.shutdown(std::net::Shutdown::Write).unwrap();
    }
    let (tell, told) = mpsc::channel();
    let done = Box::new(move |link: Result<_, _>| tell.send(link.ok()).unwrap());
    let first = Some(Instant::now() + Duration::from_millis(50));
    let owned = Owned { first, waiting: 0, whole: None, cut_error: CutError::default(), done };
    let asked = GatewayLink::new(a, Vec::new(), limits()).ask_owned(request, owned);
    (asked.map(|asked| asked.response), told, b)
}

#[test]
fn a_whole_response_gives_the_stream_back_at_once() {
    for answer in
        [&b"HTTP/1.1 204 No Content\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"]
    {
        let (response, told, _b) = ask(get(), answer, false);
        let (_, unread) = told.try_recv().unwrap().expect("reusable");
        assert!(unread.is_empty());
        let body = response.unwrap().into_body().read_to_vec(2).unwrap();
        assert!(body.is_empty() || body == b"hi");
        assert!(told.recv().is_err(), "told once");
    }
}

#[test]
fn a_streamed_response_gives_the_stream_back_at_its_end() {
    let (response, told, mut b) =
        ask(get(), b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab", false);
    let mut body = response.unwrap().into_body();
    body.read_exact(&mut [0; 2]).unwrap();
    assert!(told.try_recv().is_err());
    b.write_all(b"cd").unwrap();
    body.read_exact(&mut [0; 2]).unwrap();
    assert!(
        told.try_recv().unwrap().is_some(),
        "the last byte is enough; nobody need read the end"
    );
    assert_eq!(body.read(&mut [0; 2]).unwrap(), 0);
    drop(body);
    assert!(told.recv().is_err(), "told once");
}

#[test]
fn what_cannot_be_used_again_is_closed() {
    let close = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let twice = b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
    for answer in [&close[..], twice] {
        let (response, told, mut b) = ask(get(), answer, false);
        response.unwrap();
        assert!(told.try_recv().unwrap().is_none());
        b.read_to_end(&mut Vec::new()).unwrap();
    }
    let (response, told, _b) = ask(get(), b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut", true);
    response.unwrap().into_body().read_to_vec(9).unwrap_err();
    assert!(told.try_recv().unwrap().is_none());
}

#[test]
fn a_response_dropped_half_read_never_blocks() {
    let (response, told, _b) =
        ask(get(), b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", false);
    drop(response.unwrap());
    assert!(told.try_recv().unwrap().is_none());
    // Bytes that are here already may be dropped without waiting, and then the stream is as good as
    // new.
    let (response, told, _b) = ask(
        get(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        false,
    );
    drop(response.unwrap());
    assert!(told.try_recv().unwrap().is_some());
}

#[test]
fn failures_tell_whether_anything_arrived() {
    for (answer, ends, nothing, is_timeout) in [
        (&b""[..], false, true, true),
        (b"", true, true, false),
        (b"HTTP/1.1 2", true, false, false),
        (b"garbage\r\n\r\n", true, false, false),
    ] {
        let (result, told, _b) = ask(get(), answer, ends);
        let (error, NothingArrived(arrived_nothing)) = result.unwrap_err();
        assert_eq!((arrived_nothing, error.is_timeout()), (nothing, is_timeout), "{error}");
        assert!(told.try_recv().unwrap().is_none());
    }
    // A request that cannot be written leaves the stream as it was.
    let (result, told, _b) = ask(Request::get("*").body(Body::empty()).unwrap(), b"", false);
    assert!(result.unwrap_err().0.is_usage());
    assert!(told.try_recv().unwrap().is_some());
}

#[test]
fn a_panicking_request_body_still_tells() {
    struct Panicking;
    impl Read for Panicking {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            panic!("a caller's reader")
        }
    }
    let (a, _b) = UnixStream::pair().unwrap();
    let (tell, told) = mpsc::channel();
    let request = Request::post("/").body(Body::from_reader(Panicking)).unwrap();
    let link = GatewayLink::new(a, Vec::new(), limits());
    let done = Box::new(move |link: Result<_, _>| tell.send(link.is_ok()).unwrap());
    let owned =
        Owned { first: None, waiting: 0, whole: None, cut_error: CutError::default(), done };
    assert!(
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| link.ask_owned(request, owned)))
            .is_err()
    );
    assert!(!told.recv().unwrap());
}

#[test]
fn a_worker_lingers_for_the_next_request_only_so_long() {
    let (a, mut b) = UnixStream::pair().unwrap();
    let mut link = DeviceLink::new(a, b"GET /1 HTTP/1.1\r\nHost:\r\n\r\n".to_vec(), limits());
    assert_eq!(link.linger(Duration::from_millis(1)), Lingered::Ready);
    link.next_request().unwrap().unwrap();
    link.respond(Response::new(Body::empty())).unwrap();
    assert_eq!(link.linger(Duration::from_millis(1)), Lingered::Quiet);
    assert!(link.is_reusable());
    b.write_all(b"\r\n").unwrap();
    assert_eq!(link.linger(Duration::from_millis(1)), Lingered::Quiet);
    b.write_all(b"GET /2 HTTP/1.1\r\nHost:\r\n\r\n").unwrap();
    assert_eq!(link.linger(Duration::from_millis(100)), Lingered::Ready);
    assert_eq!(link.next_request().unwrap().unwrap().uri(), "/2");
    link.respond(Response::new(Body::empty())).unwrap();
    assert!(!link.has_seen_heartbeat());
    b.write_all(b"OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n").unwrap();
    assert!(matches!(link.next_head().unwrap(), Next::Heartbeat));
    assert!(link.has_seen_heartbeat());
    drop(b);
    assert_eq!(link.linger(Duration::from_millis(100)), Lingered::Closed);
    assert!(matches!(link.next_head().unwrap(), Next::Closed));
}

#[test]
fn lingering_gives_unread_bytes_on() {
    let (a, mut b) = UnixStream::pair().unwrap();
    let mut link = DeviceLink::new(a, Vec::new(), limits());
    b.write_all(b"GET /half").unwrap();
    assert_eq!(link.linger(Duration::from_millis(100)), Lingered::Ready);
    let (_, unread) = link.into_parts();
    assert_eq!(unread, b"GET /half");
}
