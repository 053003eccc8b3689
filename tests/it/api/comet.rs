//! The fallback as a program uses it: the same handlers and the same `send()` as over links, both
//! ends in this process.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode};
use reverse_http::device::DeviceBuilder;
use reverse_http::gateway::GatewayBuilder;
use reverse_http::{
    Body, Device, Encoding, Fallback, Gateway, GatewayEventKind, Limits, Reject, Transport,
};

const PATIENCE: Duration = Duration::from_secs(10);

fn gateway(change: impl FnOnce(GatewayBuilder) -> GatewayBuilder) -> Gateway {
    change(crate::support::gateway().listen("127.0.0.1:0")).start().unwrap()
}

/// A device that polls.
fn poller(gateway: &Gateway, name: &str, encoding: Encoding) -> DeviceBuilder {
    let url = format!("http://{}/{name}", gateway.devices_addr());
    Device::builder(url)
        .fallback(Fallback::Only)
        .poll_encoding(encoding)
        .backoff(Duration::from_millis(5)..Duration::from_millis(50))
}

const ENCODINGS: &[Encoding] = if cfg!(feature = "comet") {
    &[Encoding::Message, Encoding::Json]
} else {
    &[Encoding::Message]
};

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

fn ask(gateway: &Gateway, name: &str, request: Request<Body>) -> (StatusCode, Vec<u8>) {
    let response = gateway.device(name).send(request).unwrap();
    (response.status(), response.into_body().read_to_vec(64 << 20).unwrap())
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8).collect()
}

#[test]
fn a_program_asks_a_device_that_polls() {
    for encoding in ENCODINGS {
        let gateway = gateway(|b| b);
        let events = gateway.events();
        let device = poller(&gateway, "lamp", *encoding).build().unwrap();
        let told = device.events();
        let handle = device
            .spawn(|request| {
                Response::new(Body::from(format!("{} {}", request.method(), request.uri())))
            })
            .unwrap();
        let lamp = gateway.device("lamp");
        lamp.wait_connected(PATIENCE).unwrap();
        for n in 0..20 {
            assert_eq!(
                ask(&gateway, "lamp", get(&format!("/{n}?x"))),
                (StatusCode::OK, format!("GET /{n}?x").into_bytes())
            );
        }
        assert_eq!(lamp.transport().unwrap(), Some(Transport::Comet(*encoding)));
        assert_eq!(lamp.links().unwrap().total(), 0);
        until("the polls are held again", || gateway.stats().polls == 2);
        let stats = gateway.stats();
        assert_eq!((stats.devices, stats.turns, stats.events, stats.exchanges), (1, 0, 20, 20));
        assert_eq!(
            (handle.stats().links, handle.stats().polls, handle.stats().exchanges),
            (0, 2, 20)
        );
        assert_eq!(handle.stats().transport, Some(Transport::Comet(*encoding)));
        let up = events.recv_timeout(PATIENCE).unwrap();
        assert_eq!(
            (up.kind, up.transport, up.detail),
            (GatewayEventKind::Up, Some(Transport::Comet(*encoding)), encoding.to_string())
        );
        let connected = told.recv_timeout(PATIENCE).unwrap();
        assert_eq!(
            (connected.transport, connected.detail),
            (Some(Transport::Comet(*encoding)), encoding.to_string())
        );
        handle.stop();
        let down = events.recv_timeout(PATIENCE).unwrap(); // poll_gap later
        assert_eq!((down.kind, down.transport), (GatewayEventKind::Down, None));
        assert_eq!(lamp.transport().unwrap(), None);
    }
}

#[test]
fn bodies_go_both_ways_whatever_they_are() {
    for encoding in ENCODINGS {
        let gateway = gateway(|b| b);
        let handle = poller(&gateway, "echo", *encoding)
            .build()
            .unwrap()
            .spawn(|request| Response::new(request.into_body()))
            .unwrap();
        gateway.device("echo").wait_connected(PATIENCE).unwrap();
        for sent in [
            Vec::new(),
            b"text".to_vec(),
            "grüße \u{1F4A1} \0".as_bytes().to_vec(),
            pattern(100_000),
            pattern(3_000_000),
        ] {
            for body in
                [Body::from(sent.clone()), Body::from_reader(std::io::Cursor::new(sent.clone()))]
            {
                let (status, got) = ask(&gateway, "echo", Request::post("/").body(body).unwrap());
                assert!(
                    status == 200 && got == sent,
                    "{status}: {} bytes came back of {}",
                    got.len(),
                    sent.len()
                );
            }
        }
        handle.stop();
    }
}

#[test]
fn an_upload_has_its_bound_and_its_error() {
    let mut limits = Limits::default();
    (limits.message_bytes_max, limits.messages_bytes_max) = (10_000, 10_000);
    let gateway = gateway(|b| b.limits(limits));
    let handle = poller(&gateway, "lamp", Encoding::Message)
        .build()
        .unwrap()
        .spawn(|request| Response::new(request.into_body()))
        .unwrap();
    gateway.device("lamp").wait_connected(PATIENCE).unwrap();
    let post = |bytes: usize| {
        gateway.device("lamp").send(Request::post("/").body(Body::from(pattern(bytes))).unwrap())
    };
    assert_eq!(post(10_000).unwrap().status(), 200);
    let error = post(10_001).unwrap_err();
    assert_eq!((error.status_hint(), error.is_too_large()), (Some(413), true), "{error:?}");
    assert!(error.to_string().contains("message_bytes_max"), "{error}");
    assert_eq!(post(5).unwrap().status(), 200);
    handle.stop();
}

/// What is written as an event is longer than what was uploaded: by its head, by escapes, by
/// base64.
#[test]
fn an_upload_at_the_bound_reaches_a_device_with_the_same_bound() {
    let mut limits = Limits::default();
    (limits.message_bytes_max, limits.messages_bytes_max) = (1_000_000, 32_000_000);
    for encoding in ENCODINGS {
        let gateway = gateway(|b| b.limits(limits.clone()));
        let device = poller(&gateway, "lamp", *encoding).limits(limits.clone()).build().unwrap();
        let handle = device.spawn(|request| {
            Response::new(Body::from(
                request.into_body().read_to_vec(2_000_000).unwrap().len().to_string(),
            ))
        });
        let handle = handle.unwrap();
        gateway.device("lamp").wait_connected(PATIENCE).unwrap();
        for byte in [b'x', b'"', b'\n', 0x01, 0xFF] {
            let request = Request::post("/").body(Body::from(vec![byte; 1_000_000])).unwrap();
            assert_eq!(
                ask(&gateway, "lamp", request),
                (StatusCode::OK, b"1000000".to_vec()),
                "{encoding}, byte {byte:#x}"
            );
        }
        handle.stop();
    }
}

/// What lies whole in memory takes its share of what all devices of the gateway have, until its
/// visitor has read it.
#[cfg(feature = "comet")]
#[test]
fn a_visitor_who_does_not_read_keeps_no_room_that_others_want() {
    let mut limits = Limits::default();
    (limits.message_bytes_max, limits.messages_bytes_max) = (12_000_000, 12_000_000);
    limits.min_rate_window = Duration::from_secs(2); // the first upload has to find it there
    let gateway = gateway(|b| b.limits(limits));
    let at = gateway.listen_visitors("127.0.0.1:0", reverse_http::Routes::path()).unwrap();
    // More than any socket takes.
    let lamp = poller(&gateway, "lamp", Encoding::Json)
        .build()
        .unwrap()
        .spawn(|_| Response::new(Body::from(vec![b'x'; 8_000_000])))
        .unwrap();
    let echo = poller(&gateway, "echo", Encoding::Json)
        .build()
        .unwrap()
        .spawn(|request| Response::new(request.into_body()))
        .unwrap();
    gateway.device("lamp").wait_connected(PATIENCE).unwrap();
    gateway.device("echo").wait_connected(PATIENCE).unwrap();
    let slow = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    slow.set_recv_buffer_size(4096).unwrap();
    slow.connect(&at.into()).unwrap();
    let asked = Instant::now();
    slow.send(b"GET /lamp/ HTTP/1.1\r\nHost: v\r\n\r\n").unwrap();
    let mut first = [std::mem::MaybeUninit::uninit(); 1];
    slow.recv(&mut first).unwrap(); // its answer is there
    let upload = || {
        gateway
            .device("echo")
            .send(Request::post("/").body(Body::from(pattern(5_000_000))).unwrap())
    };
    until("the slow visitor's room is free", || match upload() {
        Ok(response) => {
            // Its reader may be slow for one window before it is judged, and not for longer.
            assert!(asked.elapsed() >= Duration::from_millis(300), "there was room all the time");
            response.status() == 200
        }
        Err(e) => {
            assert!(e.is_full(), "{e:?}");
            std::thread::sleep(Duration::from_millis(50));
            false
        }
    });
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut slow, mut rest) = (std::net::TcpStream::from(slow), Vec::new());
    let _ = slow.read_to_end(&mut rest); // a reset is an end, too
    assert!(rest.len() < 8_000_000, "the slow visitor got all of its answer");
    lamp.stop();
    echo.stop();
}

/// The same for those who send slowly what has to be whole: a visitor's upload, a device's answer
/// in JSON.
#[cfg(feature = "comet")]
#[test]
fn a_slow_sender_keeps_no_room_that_others_want() {
    use std::io::Write;
    use std::net::TcpStream;
    let mut limits = Limits::default();
    (limits.message_bytes_max, limits.messages_bytes_max) = (8_000_000, 14_100_000); // an upload of 6 MB takes 8 MB more as base64
    limits.min_rate_window = Duration::from_millis(300);
    let gateway = gateway(|b| b.limits(limits));
    let visitors = gateway.listen_visitors("127.0.0.1:0", reverse_http::Routes::path()).unwrap();
    let echo = poller(&gateway, "echo", Encoding::Json)
        .build()
        .unwrap()
        .spawn(|_| Response::new(Body::from("taken")))
        .unwrap();
    gateway.device("echo").wait_connected(PATIENCE).unwrap();
    let upload = |bytes| {
        gateway.device("echo").send(Request::post("/").body(Body::from(pattern(bytes))).unwrap())
    };
    let upload_head = "POST /echo/ HTTP/1.1\r\nHost: v\r\nContent-Length: 8000000\r\n\r\n";
    let answer_head = "POST /lamp HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: 8000000\r\n\r\n";
    for (at, head) in [(visitors, upload_head), (gateway.devices_addr(), answer_head)] {
        let mut slow = TcpStream::connect(at).unwrap();
        slow.write_all(head.as_bytes()).unwrap();
        slow.write_all(&vec![b' '; 5_000_000]).unwrap();
        // Nobody wants its room: half of it is free. Another byte now and then is enough.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(1000) {
            assert_eq!(upload(1000).unwrap().status(), 200);
            slow.write_all(b" ").unwrap();
            std::thread::sleep(Duration::from_millis(20));
        }
        slow.write_all(&vec![b' '; 2_100_000]).unwrap();
        // Now others want more than is left: it gets a goaway, though it is never silent, and they
        // get their room.
        slow.set_nonblocking(true).unwrap();
        let (mut answer, mut n) = ([0; 1024], 0);
        until("the slow sender gets a goaway", || {
            if let Err(e) = upload(6_000_000) {
                assert!(e.is_full(), "{e:?}");
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = slow.write_all(b" ");
            n = slow.read(&mut answer).unwrap_or(0);
            n > 0
        });
        until("there is room", || upload(6_000_000).is_ok_and(|response| response.status() == 200));
        let answer = String::from_utf8_lossy(&answer[..n]);
        assert!(
            answer.starts_with("HTTP/1.1 408 ") && answer.contains("min_rate_bytes_per_s"),
            "{answer}"
        );
    }
    echo.stop();
}

#[test]
fn devices_that_share_a_name_do_not_run_each_others_events() {
    for encoding in ENCODINGS {
        let mut limits = Limits::default();
        limits.redeliver_after = Duration::from_millis(50);
        let gateway = gateway(|b| b.limits(limits).shared_names(true));
        let runs = Arc::new(AtomicUsize::new(0));
        let handles: Vec<_> = (0..2)
            .map(|_| {
                let runs = runs.clone();
                let device = poller(&gateway, "lamp", *encoding).build().unwrap();
                let handle = device.spawn(move |_| {
                    runs.fetch_add(1, SeqCst);
                    std::thread::sleep(Duration::from_millis(400));
                    Response::new(Body::from("done"))
                });
                handle.unwrap()
            })
            .collect();
        until("both poll", || gateway.stats().polls == 4);
        assert_eq!(
            ask(&gateway, "lamp", Request::post("/order").body(Body::from("one")).unwrap()),
            (StatusCode::OK, b"done".to_vec())
        );
        assert_eq!(
            runs.load(SeqCst),
            1,
            "the event came again while it was in progress, and another device ran it"
        );
        handles.iter().for_each(|handle| handle.stop());
    }
}

#[test]
fn an_answer_streams_in_message_http() {
    let gateway = gateway(|b| b);
    let (release, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(Some(gate));
    let device = poller(&gateway, "lamp", Encoding::Message).build().unwrap();
    struct Slow(mpsc::Receiver<()>, usize);
    impl Read for Slow {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            self.1 += 1;
            match self.1 {
                1 => {
                    buf[..5].copy_from_slice(b"first");
                    Ok(5)
                }
                2 => {
                    let _ = self.0.recv_timeout(PATIENCE);
                    buf[..6].copy_from_slice(b"second");
                    Ok(6)
                }
                _ => Ok(0),
            }
        }
    }
    let handle = device
        .spawn(move |_| {
            Response::new(Body::from_reader(Slow(gate.lock().unwrap().take().unwrap(), 0)))
        })
        .unwrap();
    gateway.device("lamp").wait_connected(PATIENCE).unwrap();
    let mut response = gateway.device("lamp").send(get("/")).unwrap();
    let mut first = [0; 5];
    response.body_mut().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"first", "it is here before the handler has written the rest");
    release.send(()).unwrap();
    assert_eq!(response.into_body().read_to_text(100).unwrap(), "second");
    handle.stop();
}

#[test]
fn every_way_of_using_a_device_works_over_the_fallback() {
    for encoding in ENCODINGS {
        let gateway = gateway(|b| b);
        // recv() and respond()
        let device = Arc::new(poller(&gateway, "received", *encoding).build().unwrap());
        let receiving = device.clone();
        std::thread::spawn(move || {
            while let Ok(exchange) = receiving.recv() {
                let text = format!("received {}", exchange.request().uri());
                exchange.respond(Response::new(Body::from(text))).unwrap();
            }
        });
        // listen() and accept()
        let listening = poller(&gateway, "accepted", *encoding).build().unwrap().listen().unwrap();
        std::thread::spawn(move || {
            while let Ok(mut link) = listening.accept() {
                std::thread::spawn(move || {
                    while let Ok(Some(request)) = link.next_request() {
                        link.respond(Response::new(Body::from(format!(
                            "accepted {}",
                            request.uri()
                        ))))
                        .unwrap();
                    }
                });
            }
        });
        for name in ["received", "accepted"] {
            gateway.device(name).wait_connected(PATIENCE).unwrap();
            for n in 0..5 {
                assert_eq!(
                    ask(&gateway, name, get(&format!("/{n}"))).1,
                    format!("{name} /{n}").into_bytes(),
                    "{encoding}"
                );
            }
        }
    }
}

#[test]
fn a_handler_that_panics_costs_one_exchange() {
    let gateway = gateway(|b| b);
    let handle = poller(&gateway, "lamp", Encoding::Message)
        .build()
        .unwrap()
        .spawn(|request| {
            assert!(request.uri() != "/panic", "on purpose");
            Response::new(Body::from("fine"))
        })
        .unwrap();
    gateway.device("lamp").wait_connected(PATIENCE).unwrap();
    for _ in 0..3 {
        assert_eq!(ask(&gateway, "lamp", get("/panic")).0, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(ask(&gateway, "lamp", get("/")).1, b"fine");
    }
    handle.stop();
}

#[test]
fn as_many_requests_are_in_hand_as_there_are_polls() {
    let gateway = gateway(|b| b);
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (release, gate) = crossbeam_channel::unbounded::<()>();
    let counted = (running.clone(), most.clone());
    let handle = poller(&gateway, "lamp", Encoding::Message)
        .polls(3..=3)
        .build()
        .unwrap()
        .spawn(move |_| {
            counted.1.fetch_max(counted.0.fetch_add(1, SeqCst) + 1, SeqCst);
            let _ = gate.recv_timeout(PATIENCE);
            counted.0.fetch_sub(1, SeqCst);
            Response::new(Body::from("done"))
        })
        .unwrap();
    gateway.device("lamp").wait_connected(PATIENCE).unwrap();
    until("three polls are held", || gateway.stats().polls == 3);
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| gateway.device("lamp").send(get("/")).map(|r| r.status())))
            .collect();
        until("three run", || running.load(SeqCst) == 3);
        for _ in 0..6 {
            release.send(()).unwrap();
        }
        for caller in callers {
            assert_eq!(caller.join().unwrap().unwrap(), StatusCode::OK);
        }
    });
    assert_eq!(most.load(SeqCst), 3);
    handle.stop();
}

#[test]
fn a_device_whose_polls_are_all_at_work_is_there_until_its_answer_is_late() {
    let mut limits = Limits::default();
    (limits.poll_gap, limits.first_byte_timeout) =
        (Duration::from_millis(50), Duration::from_secs(2));
    let gateway = gateway(|b| b.limits(limits));
    let events = gateway.events();
    let device = poller(&gateway, "lamp", Encoding::Message).polls(1..=1).build().unwrap();
    let (release, work) = crossbeam_channel::unbounded::<()>();
    let handle = device
        .spawn(move |_| {
            let _ = work.recv_timeout(PATIENCE);
            Response::new(Body::from("done"))
        })
        .unwrap();
    gateway.device("lamp").wait_connected(PATIENCE).unwrap();
    assert_eq!(events.recv_timeout(PATIENCE).unwrap().kind, GatewayEventKind::Up);
    std::thread::scope(|scope| {
        let downstream = scope.spawn(|| ask(&gateway, "lamp", get("/")).1);
        let quiet = events.recv_timeout(Duration::from_millis(500)); // ten times poll_gap
        assert!(
            quiet.is_err() && gateway.device("lamp").transport().unwrap().is_some(),
            "{quiet:?}"
        );
        release.send(()).unwrap();
        assert_eq!(downstream.join().unwrap(), b"done");
    });
    assert!(events.try_recv().is_err());
    // One that never answers is there as long as somebody waits for it, and no longer.
    assert!(gateway.device("lamp").send(get("/")).unwrap_err().is_timeout());
    let down = events.recv_timeout(PATIENCE).unwrap();
    assert_eq!(
        (down.kind, down.cause),
        (GatewayEventKind::Down, Some(reverse_http::CloseCause::Absent)),
        "{down:?}"
    );
    drop(release);
    handle.stop();
}

#[test]
fn the_errors_of_send_say_what_happened() {
    let mut limits = Limits::default();
    (limits.first_byte_timeout, limits.wait_for_link, limits.poll_gap) =
        (Duration::from_millis(300), Duration::from_millis(100), Duration::from_millis(50));
    let gateway = gateway(|b| b.limits(limits));
    let (release, gate) = crossbeam_channel::unbounded::<()>();
    let handle = poller(&gateway, "slow", Encoding::Message)
        .polls(1..=1)
        .build()
        .unwrap()
        .spawn(move |_| {
            let _ = gate.recv_timeout(PATIENCE);
            Response::new(Body::empty())
        })
        .unwrap();
    let slow = gateway.device("slow");
    slow.wait_connected(PATIENCE).unwrap();
    let error = slow.send(get("/")).unwrap_err();
    assert!(error.is_timeout() && error.status_hint() == Some(504), "{error:?}");
    // The only poll is busy, and so nobody is there to take another request.
    let error = slow.send(get("/")).unwrap_err();
    assert_eq!(error.status_hint(), Some(503), "{error:?}");
    let error = gateway.device("nobody").send(get("/")).unwrap_err();
    assert_eq!(error.status_hint(), Some(404), "{error:?}");
    drop(release);
    handle.stop();
}

#[test]
fn authorize_sees_every_poll() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    let gateway = gateway(move |b| {
        b.authorize(move |offer| {
            counted.fetch_add(1, SeqCst);
            assert!(offer.is_poll() && offer.upgrade_token().is_empty());
            match offer.bearer_token() {
                Some("right") => Ok(reverse_http::Grant::offered().to("owner")),
                _ => Err(Reject::new(401, "no such token")),
            }
        })
    });
    let thief = poller(&gateway, "lamp", Encoding::Message).bearer_token("wrong").build().unwrap();
    let told = thief.events();
    let thief = thief.spawn(|_| Response::new(Body::from("thief"))).unwrap();
    let refused = told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(refused.kind, reverse_http::DeviceEventKind::Refused { status: 401 });
    thief.stop();
    let before = seen.load(SeqCst);
    let owner = poller(&gateway, "lamp", Encoding::Message).bearer_token("right").build().unwrap();
    let owner = owner.spawn(|_| Response::new(Body::from("owner"))).unwrap();
    gateway.device("lamp").wait_connected(PATIENCE).unwrap();
    for _ in 0..10 {
        assert_eq!(ask(&gateway, "lamp", get("/")).1, b"owner");
    }
    assert!(seen.load(SeqCst) >= before + 10, "each poll is decided anew");
    owner.stop();
}

#[test]
fn a_gateway_or_a_device_may_refuse_the_fallback() {
    let gateway = gateway(|b| b.fallback(Fallback::Never));
    let device = poller(&gateway, "lamp", Encoding::Message).build().unwrap();
    let told = device.events();
    let handle = device.spawn(|_| Response::new(Body::empty())).unwrap();
    let failed = told.recv_timeout(PATIENCE).unwrap();
    assert!(failed.detail.contains("426"), "{failed:?}");
    handle.stop();

    let gateway = self::gateway(|b| b.fallback(Fallback::Only));
    let url = format!("http://{}/lamp", gateway.devices_addr());
    let device = Device::builder(&url).fallback(Fallback::Never).build().unwrap();
    let told = device.events();
    let handle = device.spawn(|_| Response::new(Body::empty())).unwrap();
    let failed = told.recv_timeout(PATIENCE).unwrap();
    // It says nothing of what it takes, which means JSON.
    let said = if cfg!(feature = "comet") { "fallback" } else { "406" };
    assert!(failed.detail.contains(said), "{failed:?}");
    handle.stop();
    // One that may, does by itself.
    let handle =
        Device::builder(&url).build().unwrap().spawn(|_| Response::new(Body::from("on"))).unwrap();
    gateway.device("lamp").wait_connected(PATIENCE).unwrap();
    assert_eq!(ask(&gateway, "lamp", get("/")).1, b"on");
    assert_eq!(
        gateway.device("lamp").transport().unwrap(),
        Some(Transport::Comet(Encoding::Message))
    );
    handle.stop();

    let error =
        crate::support::gateway().on_link(|_| ()).fallback(Fallback::Only).start().unwrap_err();
    assert!(error.is_usage(), "{error:?}");
    for origin in ["*", "https://a.example/", "a.example", "https://A.example", ""] {
        let error = crate::support::gateway().cors_origin(origin).start().unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("origin"), "{origin}: {error:?}");
    }
}

/// A polling device has no connection that could end with the gateway.
#[test]
fn a_gateway_that_stops_tells_the_end_of_devices_that_poll() {
    let gateway = gateway(|builder| builder);
    let handle = poller(&gateway, "lamp", Encoding::Message)
        .build()
        .unwrap()
        .spawn(|_| Response::new(Body::empty()))
        .unwrap();
    gateway.device("lamp").wait_connected(PATIENCE).unwrap();
    let events = gateway.events();
    gateway.stop();
    let down = events.iter().find(|event| event.kind == GatewayEventKind::Down).unwrap();
    assert_eq!((&*down.name, down.cause), ("lamp", Some(reverse_http::CloseCause::Drained)));
    assert!(!gateway.is_running());
    handle.stop();
}
