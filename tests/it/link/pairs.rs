//! Links over Unix socket pairs: what only a real, blocking stream can show.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use http::{Request, Response};
use reverse_http::link::{self, Offered};
use reverse_http::proto::dialect::Dialect;
use reverse_http::proto::turn::{OfferPlan, OfferRules};
use reverse_http::stream::Untimed;
use reverse_http::{Body, DeviceLink, Error, GatewayLink, Limits};

use super::limits;

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

/// A device on its own thread that answers by `handler` until the link ends.
fn device(
    stream: UnixStream,
    handler: impl Fn(Request<Body>) -> Response<Body> + Send + 'static,
) -> thread::JoinHandle<Result<usize, Error>> {
    thread::spawn(move || {
        let mut link = DeviceLink::new(stream, Vec::new(), limits());
        let mut served = 0;
        while let Some(request) = link.next_request()? {
            link.respond(handler(request))?;
            served += 1;
        }
        link.close();
        Ok(served)
    })
}

fn echo(request: Request<Body>) -> Response<Body> {
    Response::new(request.into_body())
}

/// Bytes that repeat only after a prime number of them.
fn pattern(len: usize) -> impl Read + Send + 'static {
    io::Cursor::new((0..len).map(|i| (i % 251) as u8).collect::<Vec<_>>())
}

fn check_pattern(mut body: impl Read, len: usize) {
    let mut seen = 0;
    let mut buf = vec![0; 10_007];
    loop {
        let n = body.read(&mut buf).unwrap();
        if n == 0 {
            break;
        }
        for (i, byte) in buf[..n].iter().enumerate() {
            assert_eq!(*byte, ((seen + i) % 251) as u8, "byte {}", seen + i);
        }
        seen += n;
    }
    assert_eq!(seen, len);
}

#[test]
fn turn_and_exchange_with_both_functions() {
    let (a, b) = UnixStream::pair().unwrap();
    let gateway = thread::spawn(move || {
        let (mut link, offer) = link::accept(a, &OfferRules::default(), limits()).unwrap();
        assert_eq!(offer.names[0].to_string(), "lamp");
        let response = link.ask(get("/status")).unwrap();
        response.into_body().read_to_text(100).unwrap()
    });
    let plan = OfferPlan::new("gw.example", "/lamp", Dialect::classic());
    let Offered::Turned(mut link) = link::offer(b, &plan, limits()).unwrap() else { panic!() };
    let request = link.next_request().unwrap().unwrap();
    assert_eq!(request.uri(), "/status");
    link.respond(Response::new("on".into())).unwrap();
    assert_eq!(gateway.join().unwrap(), "on");
    assert!(link.next_request().unwrap().is_none());
}

#[test]
fn ten_mebibytes_are_echoed_in_chunks_by_a_peer_that_reads_and_writes_at_once() {
    const LEN: usize = 10 * 1024 * 1024;
    let (a, b) = UnixStream::pair().unwrap();
    let device = device(b, echo);
    let mut writer = a.try_clone().unwrap();
    let sender = thread::spawn(move || {
        writer.write_all(b"POST /echo HTTP/1.1\r\nHost:\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n").unwrap();
        let mut body = pattern(LEN);
        let mut buf = vec![0; 54_321];
        loop {
            let n = body.read(&mut buf).unwrap();
            write!(writer, "{n:x}\r\n").unwrap();
            writer.write_all(&buf[..n]).unwrap();
            writer.write_all(b"\r\n").unwrap();
            if n == 0 {
                break;
            }
        }
    });
    // A gateway's link that has asked already reads the answer.
    let mut head = Vec::new();
    let mut reader = a;
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.contains("Transfer-Encoding: chunked\r\n"), "{head}");
    check_pattern(dechunked(reader), LEN);
    sender.join().unwrap();
    assert_eq!(device.join().unwrap().unwrap(), 1);
}

#[test]
fn ten_mebibytes_are_echoed_to_a_link_that_asks() {
    const LEN: usize = 10 * 1024 * 1024;
    let (a, b) = UnixStream::pair().unwrap();
    let device = device(b, echo);
    let mut link = GatewayLink::new(a, Vec::new(), limits());
    let mut bytes = Vec::new();
    pattern(LEN).read_to_end(&mut bytes).unwrap();
    let bodies = [
        Body::from_reader(pattern(LEN)),
        Body::from_reader_with_length(pattern(LEN), LEN as u64),
        Body::from(bytes),
    ];
    for body in bodies {
        let response = link.ask(Request::post("/echo").body(body).unwrap()).unwrap();
        check_pattern(response.into_body(), LEN);
        assert!(link.is_reusable(), "{:?}", link.why_not_reusable());
    }
    drop(link);
    assert_eq!(device.join().unwrap().unwrap(), 3);
}

#[test]
fn an_echo_dropped_half_way_ends_the_link() {
    let (a, b) = UnixStream::pair().unwrap();
    let device = device(b, echo);
    let mut link = GatewayLink::new(a, Vec::new(), limits());
    let mut body = link
        .ask(Request::post("/").body(Body::from_reader(pattern(10_000_000))).unwrap())
        .unwrap()
        .into_body();
    body.read_exact(&mut [0; 1000]).unwrap();
    drop(body);
    assert!(!link.is_reusable());
    assert!(link.ask(get("/")).is_err());
    drop(link);
    assert!(device.join().unwrap().is_err());
}

/// The least that undoes the chunked coding of a peer we trust.
fn dechunked(stream: UnixStream) -> impl Read {
    struct Dechunked(io::BufReader<UnixStream>, usize);
    impl Read for Dechunked {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            use std::io::BufRead;
            if self.1 == 0 {
                let mut line = String::new();
                self.0.read_line(&mut line)?;
                self.1 = usize::from_str_radix(line.trim(), 16).unwrap();
                if self.1 == 0 {
                    return Ok(0);
                }
            }
            let room = buf.len().min(self.1);
            let n = self.0.read(&mut buf[..room])?;
            assert_ne!(n, 0, "cut");
            self.1 -= n;
            if self.1 == 0 {
                self.0.read_exact(&mut [0; 2])?;
            }
            Ok(n)
        }
    }
    Dechunked(io::BufReader::new(stream), 0)
}

#[test]
fn large_bodies_go_both_ways_one_after_the_other() {
    const LEN: usize = 3_000_000;
    let (a, b) = UnixStream::pair().unwrap();
    let device = device(b, |request| {
        let known = request.uri().path() == "/known";
        check_pattern(request.into_body(), LEN);
        Response::new(if known {
            Body::from_reader_with_length(pattern(LEN), LEN as u64)
        } else {
            Body::from_reader(pattern(LEN))
        })
    });
    let mut link = GatewayLink::new(a, Vec::new(), limits());
    let mut bytes = Vec::new();
    pattern(LEN).read_to_end(&mut bytes).unwrap();
    for (path, body) in [
        ("/known", Body::from(bytes.clone())),
        ("/unknown", Body::from_reader(pattern(LEN))),
        ("/known", Body::from_reader_with_length(pattern(LEN), LEN as u64)),
    ] {
        let response = link.ask(Request::post(path).body(body).unwrap()).unwrap();
        assert_eq!(response.headers().contains_key("content-length"), path == "/known");
        check_pattern(response.into_body(), LEN);
        assert!(link.is_reusable(), "{:?}", link.why_not_reusable());
    }
    drop(link);
    assert_eq!(device.join().unwrap().unwrap(), 3);
}

#[test]
fn a_handler_may_read_its_body_on_another_thread() {
    let (a, b) = UnixStream::pair().unwrap();
    let device = device(b, |request| {
        let reader =
            thread::spawn(move || request.into_body().read_to_vec(1_000_000).unwrap().len());
        Response::new(reader.join().unwrap().to_string().into())
    });
    let mut link = GatewayLink::new(a, Vec::new(), limits());
    let response = link.ask(Request::post("/").body(vec![7; 500_000].into()).unwrap()).unwrap();
    assert_eq!(response.into_body().read_to_text(10).unwrap(), "500000");
    drop(link);
    device.join().unwrap().unwrap();
}

#[test]
fn a_response_arrives_as_it_is_made() {
    let (a, b) = UnixStream::pair().unwrap();
    let (feed, events) = mpsc::channel::<&'static str>();
    struct Events(mpsc::Receiver<&'static str>);
    impl Read for Events {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let Ok(event) = self.0.recv() else { return Ok(0) };
            buf[..event.len()].copy_from_slice(event.as_bytes());
            Ok(event.len())
        }
    }
    let body = std::sync::Mutex::new(Some(Body::from_reader(Events(events))));
    let device = device(b, move |_| Response::new(body.lock().unwrap().take().unwrap()));
    let mut link = GatewayLink::new(a, Vec::new(), limits());
    // The head is here before there is any event.
    let mut body = link.ask(get("/events")).unwrap().into_body();
    for event in ["one", "two", "three"] {
        feed.send(event).unwrap();
        let mut buf = [0; 100];
        let n = body.read(&mut buf).unwrap();
        assert_eq!(&buf[..n], event.as_bytes());
    }
    drop(feed);
    assert_eq!(body.read(&mut [0; 10]).unwrap(), 0);
    assert!(link.is_reusable());
    drop(link);
    device.join().unwrap().unwrap();
}

#[test]
fn a_socket_tells_of_unasked_bytes_and_of_an_end_before_anything_is_sent() {
    let (a, mut b) = UnixStream::pair().unwrap();
    b.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap();
    let mut link = GatewayLink::new(a, Vec::new(), limits());
    assert!(link.ask(get("/")).unwrap_err().is_malformed());
    b.set_nonblocking(true).unwrap();
    assert_eq!(
        b.read(&mut [0; 10]).unwrap_err().kind(),
        io::ErrorKind::WouldBlock,
        "nothing was sent"
    );

    let (a, b) = UnixStream::pair().unwrap();
    let mut link = GatewayLink::new(a, Vec::new(), limits());
    drop(b);
    let error = link.ask(get("/")).unwrap_err();
    assert!(error.is_closed() && error.to_string().contains("nothing was sent"), "{error}");
    assert!(!link.response_began());
}

#[test]
fn real_deadlines_end_real_waits() {
    let mut short = Limits::default();
    short.first_byte_timeout = Duration::from_millis(30);
    short.body_silence_timeout = Duration::from_millis(30);
    short.head_timeout = Duration::from_millis(30);
    let short = Arc::new(short);
    let (a, mut b) = UnixStream::pair().unwrap();
    let mut link = GatewayLink::new(a, Vec::new(), short.clone());
    let error = link.ask(get("/")).unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("first_byte_timeout"), "{error}");
    b.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap();
    assert!(
        link.ask(get("/")).unwrap_err().is_closed(),
        "an answer after the deadline is nobody's"
    );

    let (a, mut b) = UnixStream::pair().unwrap();
    let mut link = DeviceLink::new(a, Vec::new(), short);
    b.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    assert!(link.next_request().unwrap_err().is_timeout());
    let mut text = String::new();
    b.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{text}");
}

#[test]
fn a_cut_body_is_seen_at_once() {
    struct Failing(bool);
    impl Read for Failing {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if std::mem::replace(&mut self.0, true) {
                return Err(io::Error::other("broken"));
            }
            buf[0] = b'x';
            Ok(1)
        }
    }
    let (a, b) = UnixStream::pair().unwrap();
    let device = device(b, |_| Response::new(Body::from_reader(Failing(false))));
    let mut link = GatewayLink::new(a, Vec::new(), limits());
    let mut body = link.ask(get("/")).unwrap().into_body();
    assert!(body.read_to_vec(10).unwrap_err().is_closed());
    assert!(device.join().unwrap().is_err());
}

#[test]
fn the_answer_to_a_refused_upload_is_not_lost() {
    let (a, b) = UnixStream::pair().unwrap();
    let device = device(b, |_| {
        let mut response = Response::new(Body::from("too much\n"));
        *response.status_mut() = http::StatusCode::PAYLOAD_TOO_LARGE;
        response
    });
    let mut link = GatewayLink::new(a, Vec::new(), limits());
    let response = link.ask(Request::post("/").body(vec![0; 8_000_000].into()).unwrap()).unwrap();
    assert_eq!(response.status(), 413);
    assert_eq!(response.into_body().read_to_text(100).unwrap(), "too much\n");
    assert!(!link.is_reusable());
    drop(link);
    device.join().unwrap().unwrap();
}

#[test]
fn any_read_and_write_will_do() {
    // Two one-way streams, as a child process's pipes are.
    struct Pipe(UnixStream, UnixStream);
    impl Read for Pipe {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.0.read(buf)
        }
    }
    impl Write for Pipe {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.1.write(buf)
        }
        fn flush(&mut self) -> io::Result<()> {
            self.1.flush()
        }
    }
    let ((r1, w1), (r2, w2)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
    let device = thread::spawn(move || {
        let mut link = DeviceLink::new(Untimed(Pipe(r1, w2)), Vec::new(), limits());
        while let Some(request) = link.next_request().unwrap() {
            link.respond(echo(request)).unwrap();
        }
    });
    let mut link = GatewayLink::new(Untimed(Pipe(r2, w1)), Vec::new(), limits());
    for text in ["one", "two"] {
        let response = link.ask(Request::post("/").body(text.into()).unwrap()).unwrap();
        assert_eq!(response.into_body().read_to_text(10).unwrap(), text);
    }
    drop(link);
    device.join().unwrap();
}
