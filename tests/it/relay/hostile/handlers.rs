//! Handlers that misbehave (T20, T31), and links that survive what is right.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use reverse_http::{Body, Device, Limits, Routes};

use super::forwarder;
use crate::support::process::get;
use crate::support::{DEADLINE, Hash, LocalServer, RawGateway, RawPeer, each_row, eventually};

// ── T20: what a handler says, through both ends ──

/// A body that ends, or fails, before what it promised.
struct Short(&'static [u8], bool);

impl Read for Short {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() && self.1 {
            return Err(io::Error::other("the disk is gone"));
        }
        self.0.read(buf)
    }
}

/// What a visitor has to see of a handler's response.
enum Seen {
    /// Status and body, and an end of its own.
    Whole(u16, &'static str),
    /// No clean end.
    Aborted,
}

type Answering =
    (&'static str, &'static str, u16, &'static [(&'static str, &'static str)], fn() -> Body, Seen);

const FOUR: fn() -> Body = || Body::from("four");
const STREAMED: fn() -> Body = || Body::from_reader(&b"four"[..]);

/// What frames an answer is the link's own word, whatever the handler says.
const FRAMING: &[Answering] = &[
    ("a longer length", "GET", 200, &[("content-length", "99")], FOUR, Seen::Whole(200, "four")),
    ("a shorter length", "GET", 200, &[("content-length", "2")], FOUR, Seen::Whole(200, "four")),
    (
        "a length that is none",
        "GET",
        200,
        &[("content-length", "+4")],
        FOUR,
        Seen::Whole(200, "four"),
    ),
    (
        "two lengths",
        "GET",
        200,
        &[("content-length", "4"), ("content-length", "5")],
        FOUR,
        Seen::Whole(200, "four"),
    ),
    ("a coding", "GET", 200, &[("transfer-encoding", "chunked")], FOUR, Seen::Whole(200, "four")),
    (
        "an unknown coding",
        "GET",
        200,
        &[("transfer-encoding", "gzip")],
        FOUR,
        Seen::Whole(200, "four"),
    ),
    (
        "both",
        "GET",
        200,
        &[("transfer-encoding", "chunked"), ("content-length", "4")],
        FOUR,
        Seen::Whole(200, "four"),
    ),
    (
        "a length for a stream",
        "GET",
        200,
        &[("content-length", "2")],
        STREAMED,
        Seen::Whole(200, "four"),
    ),
    (
        "a coding for a stream",
        "GET",
        200,
        &[("transfer-encoding", "identity")],
        STREAMED,
        Seen::Whole(200, "four"),
    ),
    (
        "fields of the hop",
        "GET",
        200,
        &[
            ("connection", "upgrade, content-length"),
            ("upgrade", "h2c"),
            ("te", "x"),
            ("keep-alive", "x"),
        ],
        FOUR,
        Seen::Whole(200, "four"),
    ),
];

/// Answers that have no body, or not the one that they promise.
const BODIES: &[Answering] = &[
    ("a length in a HEAD", "HEAD", 200, &[("content-length", "+7")], FOUR, Seen::Whole(200, "")),
    ("a body on HEAD", "HEAD", 200, &[], STREAMED, Seen::Whole(200, "")),
    ("a body on 204", "GET", 204, &[("content-length", "4")], FOUR, Seen::Whole(204, "")),
    (
        "a stream on 204",
        "GET",
        204,
        &[("transfer-encoding", "chunked")],
        STREAMED,
        Seen::Whole(204, ""),
    ),
    ("a body on 205", "GET", 205, &[], FOUR, Seen::Whole(205, "")),
    ("a body on 304", "GET", 304, &[("content-length", "4")], FOUR, Seen::Whole(304, "")),
    ("an interim status", "GET", 102, &[], FOUR, Seen::Whole(500, "")),
    (
        "a switch that nobody asked for",
        "GET",
        101,
        &[("upgrade", "websocket"), ("connection", "upgrade")],
        FOUR,
        Seen::Whole(500, ""),
    ),
    (
        "fewer bytes than promised",
        "GET",
        200,
        &[],
        || Body::from_reader_with_length(Short(b"four", false), 10),
        Seen::Aborted,
    ),
    (
        "more bytes than promised",
        "GET",
        200,
        &[],
        || Body::from_reader_with_length(&b"four and more"[..], 4),
        Seen::Whole(200, "four"),
    ),
    (
        "a reader that fails",
        "GET",
        200,
        &[],
        || Body::from_reader(Short(b"four", true)),
        Seen::Aborted,
    ),
    ("trailers that frame", "GET", 200, &[], framing_trailers, Seen::Whole(200, "four")),
];

#[test]
fn what_a_handler_says_of_framing_never_reaches_a_visitor() {
    use Seen::{Aborted, Whole};
    let rows: Vec<&Answering> = FRAMING.iter().chain(BODIES).collect();
    let gateway = crate::support::gateway().listen("127.0.0.1:0").start().unwrap();
    let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
    let said: Vec<_> =
        rows.iter().map(|(_, _, status, fields, body, _)| (*status, *fields, *body)).collect();
    let device = Device::builder(format!("http://{}/lamp", gateway.devices_addr()))
        .links(1..=4)
        .build()
        .unwrap();
    let device = device.spawn(move |request| {
        match request.uri().path().trim_start_matches('/').parse::<usize>() {
            Err(_) => Response::new(Body::from("fence")),
            Ok(row) => {
                let (status, fields, body) = said[row];
                let mut response = Response::new(body());
                *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
                for (name, value) in fields {
                    response
                        .headers_mut()
                        .append(HeaderName::from_static(name), HeaderValue::from_static(value));
                }
                response
            }
        }
    });
    let device = device.unwrap();
    gateway.device("lamp").wait_connected(DEADLINE).unwrap();
    let numbered: Vec<(usize, &Answering)> = rows.into_iter().enumerate().collect();
    each_row(
        &numbered,
        |(_, row)| row.0.to_owned(),
        |(number, (_, method, _, _, _, seen))| {
            let mut visitor = RawPeer::connect(visitors);
            visitor.write(format!("{method} /lamp/{number} HTTP/1.1\r\nHost: a\r\n\r\n"));
            match (seen, visitor.read_answer_or_cut(method)) {
                (Whole(500, _), Ok(answer)) => answer.expect_refusal(500),
                (Whole(status, body), Ok(answer)) => {
                    assert_eq!(
                        (answer.status(), answer.text().as_str()),
                        (*status, *body),
                        "{}",
                        answer.head.text()
                    );
                    for name in ["upgrade", "te", "keep-alive"] {
                        assert_eq!(answer.head.get(name), None, "{}", answer.head.text());
                    }
                    assert!(
                        answer.trailers.iter().all(|(name, _)| name == "X-Check"),
                        "{:?}",
                        answer.trailers
                    );
                    visitor.ask(&get("/lamp/fence")).expect_ok("fence"); // nothing is left over
                }
                (Aborted, Err(_)) => {}
                (_, Ok(answer)) => panic!("{}{}", answer.head.text(), answer.text()),
                (_, Err(cut)) => panic!("{cut:?}"),
            }
            RawPeer::connect(visitors).ask(&get("/lamp/fence")).expect_ok("fence");
        },
    );
    device.stop();
}

fn framing_trailers() -> Body {
    let mut trailers = HeaderMap::new();
    for (name, value) in
        [("content-length", "7"), ("transfer-encoding", "gzip"), ("host", "evil"), ("x-check", "1")]
    {
        trailers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    Body::from("four").with_trailers(trailers)
}

// ── T31: handlers that sleep, panic, never return ──

#[test]
fn handlers_that_sleep_panic_or_never_return_cost_themselves_alone() {
    let mut limits = Limits::default();
    limits.first_byte_timeout = Duration::from_secs(2);
    limits.wait_for_link = Duration::from_secs(9);
    let gateway = crate::support::gateway().listen("127.0.0.1:0").limits(limits).start().unwrap();
    let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
    let released = Arc::new(AtomicBool::new(false));
    let (release, gate) = crossbeam_channel::bounded::<()>(0);
    let back = released.clone();
    let device = Device::builder(format!("http://{}/lamp", gateway.devices_addr()))
        .links(1..=3)
        .backoff(Duration::from_millis(5)..Duration::from_millis(20))
        .build()
        .unwrap()
        .spawn(move |request| match request.uri().path() {
            "/never" => {
                let _ = gate.recv(); // until the test lets it go
                back.store(true, SeqCst);
                Response::new(Body::from("late"))
            }
            "/panic" => panic!("on purpose"),
            "/sleep" => {
                std::thread::sleep(Duration::from_millis(50)); // what is tested: a handler that takes its time
                Response::new(Body::from("slept"))
            }
            _ => Response::new(Body::from("fine")),
        })
        .unwrap();
    gateway.device("lamp").wait_connected(DEADLINE).unwrap();
    let ask = |path: &str| RawPeer::connect(visitors).ask(&get(&format!("/lamp{path}")));
    // Two of three links go to handlers that never return, one after the other; each caller is told
    // in time, and the rest goes on.
    for _ in 0..2 {
        ask("/never").expect_refusal(504);
        ask("/").expect_ok("fine");
        ask("/panic").expect_refusal(500);
    }
    std::thread::scope(|scope| {
        let sleeping: Vec<_> = (0..2).map(|_| scope.spawn(|| ask("/sleep"))).collect();
        sleeping.into_iter().for_each(|s| s.join().unwrap().expect_ok("slept"));
    });
    ask("/").expect_ok("fine");
    assert!(!released.load(SeqCst) && gateway.is_running());
    drop(release);
    eventually("the pool has its threads and links back", || {
        (device.stats().busy == 0 && ask("/").status() == 200).then_some(())
    });
    for _ in 0..3 {
        ask("/sleep").expect_ok("slept");
    }
    assert!(released.load(SeqCst));
    device.stop();
}

#[test]
fn a_program_beyond_the_bound_of_a_devices_line_is_told_at_once() {
    // T29 for callers that are program code: one is being served, two wait, the next hears that the
    // line is full.
    let mut limits = Limits::default();
    limits.waiting_per_device_max = 2;
    limits.wait_for_link = Duration::from_secs(30);
    let gateway = crate::support::gateway().listen("127.0.0.1:0").limits(limits).start().unwrap();
    let raw = RawPeer::connect(gateway.devices_addr());
    let mut link = raw;
    link.write(crate::support::process::offer("lamp", ""));
    link.read_exact(crate::support::SWITCH.len());
    let send = || gateway.device("lamp").send(Request::get("/x").body(Body::empty()).unwrap());
    std::thread::scope(|scope| {
        let (done, ends) = mpsc::channel();
        let callers: Vec<_> = (0..4)
            .map(|_| {
                let done = done.clone();
                scope.spawn(move || {
                    let sent = send();
                    let full = sent.as_ref().is_err_and(reverse_http::Error::is_full);
                    done.send(full).unwrap();
                    sent.map(|response| response.status().as_u16())
                })
            })
            .collect();
        assert_eq!(
            ends.recv_timeout(DEADLINE),
            Ok(true),
            "the fourth of them is told, whichever that is"
        );
        for _ in 0..3 {
            assert_eq!(link.read_head().target(), "/x");
            link.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
        let statuses: Vec<_> = callers.into_iter().map(|c| c.join().unwrap()).collect();
        assert_eq!(statuses.iter().filter(|s| matches!(s, Ok(200))).count(), 3, "{statuses:?}");
    });
}

/// The same answer on every connection: what arrives has to be it, whatever came before on the
/// link.
#[test]
fn a_link_survives_everything_that_is_right() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let _device = forwarder(&raw, &local, &["--links", "1..1"]);
    let mut link = raw.turn();
    for (request, body) in [
        (
            "POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            Hash::of(b"hello"),
        ),
        (
            "POST /hash HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n0005;a=\"b\"\r\nhello\r\n000\r\n\r\n",
            Hash::of(b"hello"),
        ),
        ("GET /x?a=%00&b=\\ HTTP/1.1\r\n\r\n", "hello\n".to_owned()),
    ] {
        link.write(request);
        link.read_answer("POST").expect_ok(body);
    }
}
