//! In a program.

use std::sync::{Arc, Mutex, mpsc};

use http::Response;
use reverse_http::device::DeviceBuilder;
use reverse_http::proto::dialect::Dialect;
use reverse_http::{Body, Device, DeviceEventKind, Encoding, Fallback, Limits, Transport};

use super::{
    NOTHING, answer, event, expect_answer, expect_poll, fall_back, json_event, quick, read_post,
    reply,
};
use crate::support::process::get;
use crate::support::{DEADLINE, LocalServer, RawGateway, RawPeer};

/// Three events over one poll, each answered with its own target.
#[track_caller]
fn ask_three(peer: &mut RawPeer) {
    for n in 0..3 {
        peer.write(event(&format!("id{n}"), get(&format!("/{n}"))));
        expect_answer(peer, &format!("id{n}"), format!("/{n}"));
    }
    peer.write(NOTHING);
    expect_poll(peer);
}

#[test]
fn handlers_serve_polls_as_they_serve_links() {
    let raw = RawGateway::start();
    let device = quick(&raw).build().unwrap();
    let events = device.events();
    let running = device
        .spawn(|request| match request.uri().path() {
            "/panic" => panic!("on purpose"),
            "/stop" => Response::builder()
                .header("Connection", "close")
                .body(Body::from("closed"))
                .unwrap(),
            path => Response::new(Body::from(path.to_owned())),
        })
        .unwrap();
    let mut peer = fall_back(&raw);
    ask_three(&mut peer);
    let stats = running.stats();
    assert_eq!(
        (stats.links, stats.busy, stats.dialing, stats.polls, stats.exchanges),
        (0, 0, 0, 1, 3)
    );
    assert_eq!(stats.transport, Some(Transport::Comet(Encoding::Json)), "as the last reply");
    peer.write(event("panic", get("/panic")));
    assert_eq!(answer(&mut peer, "panic").0, "HTTP/1.1 500 Internal Server Error");
    for id in ["closing", "closing2"] {
        peer.write(event(id, get("/stop"))); // ends the virtual link; the next event gets another
        expect_answer(&mut peer, id, "closed");
    }
    peer.write(event("after", get("/after")));
    expect_answer(&mut peer, "after", "/after");
    peer.write(event(
        "expect",
        "POST /e HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    ));
    expect_answer(&mut peer, "expect", "/e");
    peer.write(event("beat", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(answer(&mut peer, "beat").0, "HTTP/1.1 204 No Content");
    running.stop();
    let ways: Vec<_> = events
        .try_iter()
        .filter(|e| e.kind == DeviceEventKind::Connected)
        .map(|e| (e.transport, e.detail))
        .collect();
    let comet = |encoding: Encoding| (Some(Transport::Comet(encoding)), encoding.to_string());
    assert_eq!(
        ways,
        [Encoding::Json, Encoding::Message, Encoding::Json, Encoding::Message].map(comet)
    );
    assert_eq!((running.stats().polls, running.stats().transport), (0, None));
}

#[test]
fn an_event_that_is_a_heartbeat_with_a_body_is_refused_whole() {
    let raw = RawGateway::start();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let paths = seen.clone();
    let device = quick(&raw).build().unwrap();
    let running = device
        .spawn(move |request| {
            paths.lock().unwrap().push(request.uri().path().to_owned());
            Response::new(Body::from("yes"))
        })
        .unwrap();
    let mut peer = fall_back(&raw);
    let body = "GET /chosen HTTP/1.1\r\nHost: a\r\nX: ";
    let bytes =
        format!("OPTIONS * HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    peer.write(event("beat", bytes));
    assert_eq!(answer(&mut peer, "beat").0, "HTTP/1.1 400 Bad Request");
    peer.write(event("after", get("/after")));
    assert_eq!(answer(&mut peer, "after").1, b"yes");
    running.stop();
    assert_eq!(*seen.lock().unwrap(), ["/after"], "nothing of the body was a request");
}

#[test]
fn a_program_receives_events_itself() {
    let raw = RawGateway::start();
    let device = quick(&raw).build().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3 {
                let exchange = device.recv().unwrap();
                let path = exchange.request().uri().path().to_owned();
                exchange.respond(Response::new(Body::from(path))).unwrap();
            }
            drop(device.recv().unwrap()); // dropped unanswered
        });
        let mut peer = fall_back(&raw);
        ask_three(&mut peer);
        peer.write(event("dropped", get("/")));
        assert_eq!(answer(&mut peer, "dropped").0, "HTTP/1.1 502 Bad Gateway");
    });
}

#[test]
fn a_program_accepts_virtual_links() {
    let raw = RawGateway::start();
    let device = quick(&raw).build().unwrap();
    let listener = device.listen().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for requests in [3, 1] {
                let mut link = listener.accept().unwrap();
                for _ in 0..requests {
                    let request = link.next_request().unwrap().unwrap();
                    link.respond(Response::new(Body::from(request.uri().path().to_owned())))
                        .unwrap();
                }
            }
        });
        let mut peer = fall_back(&raw);
        ask_three(&mut peer);
        peer.write(event("second", get("/second"))); // over another link
        expect_answer(&mut peer, "second", "/second");
    });
}

#[test]
fn a_local_server_is_forwarded_to() {
    let raw = RawGateway::start();
    let local = LocalServer::with(|c| {
        let target = c.head.target().to_owned();
        c.text(target);
    });
    let device = quick(&raw).build().unwrap();
    let running = device.spawn_forward(local.url()).unwrap();
    let mut peer = fall_back(&raw);
    ask_three(&mut peer);
    assert_eq!(local.count(), 3);
    running.stop();
}

#[test]
fn an_answer_in_json_has_a_bound() {
    let raw = RawGateway::start();
    let mut limits = Limits::default();
    limits.message_bytes_max = 100_000;
    let device = quick(&raw).limits(limits).poll_encoding(Encoding::Json).build().unwrap();
    let running = device
        .spawn(|request| {
            Response::new(Body::from("x".repeat(request.uri().path()[1..].parse().unwrap())))
        })
        .unwrap();
    let (mut peer, _) = raw.offer();
    for (length, status) in [(90_000, 200), (100_000, 502), (5_000_000, 502), (10, 200)] {
        peer.write(json_event(&length.to_string(), "GET", &format!("/{length}"), ""));
        let (head, body) = read_post(&mut peer);
        assert_eq!(head.get("ptth-message-id"), Some(length.to_string().as_str()));
        let body = String::from_utf8(body).unwrap();
        assert!(
            body.contains(&format!("\"status\": {status}")),
            "{length}: {}",
            &body[..200.min(body.len())]
        );
    }
    let long = reply("application/json", "", format!("{{\"x\": \"{}\"}}", "x".repeat(100_000)));
    let _ = peer.try_write(long);
    peer.expect_closed(); // an event beyond the bound is none
    running.stop();
}

#[test]
fn events_in_hand_have_a_bound_together() {
    const LENGTH: usize = 3 << 20;
    let raw = RawGateway::start();
    let mut limits = Limits::default();
    (limits.message_bytes_max, limits.messages_bytes_max) = (4 << 20, 4 << 20);
    let device = quick(&raw).polls(2..=2).limits(limits).build().unwrap();
    let (asked, asks) = mpsc::channel();
    let (release, hold) = mpsc::channel::<()>();
    let hold = Mutex::new(hold);
    let running = device
        .spawn(move |request| {
            asked.send(request.uri().path().to_owned()).unwrap();
            let _ = hold.lock().unwrap().recv_timeout(DEADLINE);
            let body = request.into_body().read_to_vec(LENGTH).unwrap();
            Response::new(Body::from(body.len().to_string()))
        })
        .unwrap();
    let upload = |id: &str| {
        let head = format!("POST /{id} HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n");
        event(id, [head.as_bytes(), &[b'x'; LENGTH]].concat())
    };
    let mut first = fall_back(&raw);
    let (mut second, _) = raw.offer();
    first.write(upload("one"));
    // Its handler reads nothing yet: what the event takes is this device's still.
    assert_eq!(asks.recv_timeout(DEADLINE).unwrap(), "/one");
    let _ = second.try_write(upload("two"));
    second.expect_closed();
    // Beside it, what fits is taken.
    let (mut second, _) = raw.offer();
    second.write(event("small", get("/small")));
    assert_eq!(asks.recv_timeout(DEADLINE).unwrap(), "/small");
    (0..2).for_each(|_| release.send(()).unwrap());
    expect_answer(&mut second, "small", "0");
    expect_answer(&mut first, "one", LENGTH.to_string());
    // What was handed over is given back.
    second.write(upload("three"));
    assert_eq!(asks.recv_timeout(DEADLINE).unwrap(), "/three");
    release.send(()).unwrap();
    expect_answer(&mut second, "three", LENGTH.to_string());
    running.stop();
}

#[test]
fn what_cannot_work_is_a_usage_error() {
    let build = |change: fn(DeviceBuilder) -> DeviceBuilder| {
        change(Device::builder("http://gw.example/lamp")).build()
    };
    for polls in [0, 65] {
        assert!(
            Device::builder("http://gw.example/lamp")
                .polls(polls..=polls)
                .build()
                .unwrap_err()
                .is_usage()
        );
    }
    let ietf = || {
        Device::builder("http://gw.example").dialect(Dialect::ietf()).origin("https://a.example")
    };
    assert!(ietf().fallback(Fallback::Only).build().unwrap_err().is_usage());
    assert!(ietf().build().is_ok());
    assert!(
        build(|b| b.field("Accept", "text/html")).unwrap_err().is_usage(),
        "it would ask for no fallback"
    );
    assert!(build(|b| b.field("Accept", "text/html").fallback(Fallback::Never)).is_ok());
    assert!(build(|b| b.poll_encoding(Encoding::Message).fallback(Fallback::Only)).is_ok());
    assert_eq!(
        (Transport::Turn.to_string(), Transport::Comet(Encoding::Json).to_string()),
        ("turn".to_owned(), "COMET json".to_owned())
    );
}
