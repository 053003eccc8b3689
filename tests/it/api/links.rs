//! Gateway and device as a program uses them: no binary, no raw bytes, both ends in this process.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use http::{Method, Request, Response, StatusCode};
use reverse_http::link::{self, Offered};
use reverse_http::proto::dialect::Dialect;
use reverse_http::proto::turn::{OfferPlan, OfferRules};
use reverse_http::{
    Body, Bound, Device, DeviceEventKind, DeviceHandle, Gateway, GatewayEventKind, Grant, Limits,
    Offer, OnRefusal, Reject, Route, Routes, TurnMode,
};

const PATIENCE: Duration = Duration::from_secs(10);

fn gateway(change: impl FnOnce(&mut Limits)) -> Gateway {
    let mut limits = Limits::default();
    change(&mut limits);
    crate::support::gateway().listen("127.0.0.1:0").limits(limits).start().unwrap()
}

fn device(gateway: &Gateway, name: &str, links: std::ops::RangeInclusive<usize>) -> Device {
    let url = format!("http://{}/{name}", gateway.devices_addr());
    Device::builder(url)
        .links(links)
        .backoff(Duration::from_millis(5)..Duration::from_millis(50))
        .build()
        .unwrap()
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

fn ask(gateway: &Gateway, name: &str, request: Request<Body>) -> (StatusCode, String) {
    let response = gateway.device(name).send(request).unwrap();
    (response.status(), response.into_body().read_to_text(1 << 20).unwrap())
}

/// Polls a condition that nothing announces.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::yield_now();
    }
}

/// A device that says what it was asked.
fn parrot(gateway: &Gateway, name: &str, links: std::ops::RangeInclusive<usize>) -> DeviceHandle {
    let handle = device(gateway, name, links)
        .spawn(|request| {
            Response::new(Body::from(format!("{} {}", request.method(), request.uri())))
        })
        .unwrap();
    gateway.device(name).wait_connected(PATIENCE).unwrap();
    handle
}

#[test]
fn a_program_asks_a_device() {
    let gateway = gateway(|_| ());
    let handle = parrot(&gateway, "lamp", 1..=4);
    for n in 0..20 {
        assert_eq!(
            ask(&gateway, "lamp", get(&format!("/{n}"))),
            (StatusCode::OK, format!("GET /{n}"))
        );
    }
    assert!(handle.stats().exchanges >= 20 && gateway.stats().devices == 1);
    handle.stop();
    until("the gateway sees the device go", || gateway.stats().devices == 0);
}

#[test]
fn bodies_stream_both_ways() {
    let gateway = gateway(|_| ());
    let handle = device(&gateway, "echo", 1..=2)
        .spawn(|request| Response::new(request.into_body()))
        .unwrap();
    gateway.device("echo").wait_connected(PATIENCE).unwrap();
    let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    for body in [Body::from(sent.clone()), Body::from_reader(std::io::Cursor::new(sent.clone()))] {
        let request = Request::post("/").body(body).unwrap();
        let mut response = gateway.device("echo").send(request).unwrap();
        assert!(response.body_mut().read_to_vec(4_000_000).unwrap() == sent);
    }
    handle.stop();
}

#[test]
fn a_panic_costs_one_exchange_and_no_link() {
    let gateway = gateway(|_| ());
    let handle = device(&gateway, "lamp", 1..=1)
        .spawn(|request| {
            assert!(request.uri() != "/panic", "on purpose");
            Response::new(Body::from("fine"))
        })
        .unwrap();
    gateway.device("lamp").wait_connected(PATIENCE).unwrap();
    assert_eq!(ask(&gateway, "lamp", get("/panic")).0, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(ask(&gateway, "lamp", get("/")).1, "fine");
    assert_eq!(gateway.stats().turns, 1, "the link lived on");
    handle.stop();
}

#[test]
fn slow_handlers_take_links_of_their_own_up_to_max() {
    let gateway = gateway(|l| l.wait_for_link = Duration::from_millis(100));
    let (release, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let at_once = Arc::new(AtomicUsize::new(0));
    let counted = at_once.clone();
    let handle = device(&gateway, "slow", 1..=3)
        .spawn(move |_| {
            counted.fetch_add(1, SeqCst);
            let _ = gate.lock().unwrap().recv();
            Response::new(Body::from("done"))
        })
        .unwrap();
    gateway.device("slow").wait_connected(PATIENCE).unwrap();
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| gateway.device("slow").send(get("/")).map(|r| r.status())))
            .collect();
        // One handler holds the lock and waits, the others wait for the lock: three links are busy.
        until("three links", || handle.stats().busy == 3);
        let error = gateway.device("slow").send(get("/")).unwrap_err();
        assert!(error.is_busy() && error.status_hint() == Some(503), "{error:?}");
        assert!(error.to_string().contains("3 links"), "{error}");
        drop(release);
        for caller in callers {
            assert_eq!(caller.join().unwrap().unwrap(), StatusCode::OK);
        }
    });
    assert_eq!(at_once.load(SeqCst), 3);
    assert_eq!(handle.stats().links, 3, "MAX is not passed");
    handle.stop();
}

#[test]
fn errors_tell_what_is_missing() {
    let gateway = gateway(|_| ());
    let unknown = gateway.device("nobody").send(get("/")).unwrap_err();
    assert!(unknown.is_not_connected() && unknown.status_hint() == Some(404), "{unknown:?}");
    let late = gateway.device("nobody").wait_connected(Duration::from_millis(20)).unwrap_err();
    assert!(late.is_not_connected(), "{late:?}");
    gateway.drain(Duration::from_secs(1));
    assert!(gateway.device("nobody").send(get("/")).unwrap_err().is_stopped());
    assert!(gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap_err().is_stopped());
}

#[test]
fn a_device_that_does_not_answer_in_time_is_a_504() {
    let gateway = gateway(|l| l.first_byte_timeout = Duration::from_millis(100));
    let (release, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let handle = device(&gateway, "late", 1..=1)
        .spawn(move |_| {
            let _ = gate.lock().unwrap().recv();
            Response::new(Body::empty())
        })
        .unwrap();
    gateway.device("late").wait_connected(PATIENCE).unwrap();
    let error = gateway.device("late").send(get("/")).unwrap_err();
    assert!(
        error.is_timeout()
            && error.status_hint() == Some(504)
            && error.to_string().contains("first_byte"),
        "{error:?}"
    );
    drop(release);
    handle.stop();
}

#[test]
fn a_program_may_keep_the_loop_itself() {
    let gateway = gateway(|_| ());
    let device = device(&gateway, "lamp", 1..=2);
    assert!(device.recv_timeout(Duration::from_millis(10)).unwrap().is_none());
    gateway.device("lamp").wait_connected(PATIENCE).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..3 {
                let exchange = device.recv().unwrap();
                let text = format!("got {}", exchange.request().uri());
                exchange.respond(Response::new(Body::from(text))).unwrap();
            }
            drop(device.recv().unwrap()); // unanswered: its link is closed
        });
        for n in 0..3 {
            assert_eq!(ask(&gateway, "lamp", get(&format!("/{n}"))).1, format!("got /{n}"));
        }
        let error = gateway
            .device("lamp")
            .send(Request::post("/").body(Body::empty()).unwrap())
            .unwrap_err();
        assert!(error.is_closed(), "{error:?}");
    });
    let twice = device.spawn(|_| Response::new(Body::empty())).unwrap_err();
    assert!(twice.is_usage(), "{twice:?}");
}

#[test]
fn a_program_may_accept_links_like_connections() {
    let gateway = gateway(|_| ());
    let listener = device(&gateway, "lamp", 1..=1).listen().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut link = listener.accept().unwrap();
            while let Some(request) = link.next_request().unwrap() {
                link.respond(Response::new(Body::from(request.uri().to_string()))).unwrap();
            }
        });
        gateway.device("lamp").wait_connected(PATIENCE).unwrap();
        assert_eq!(ask(&gateway, "lamp", get("/a")).1, "/a");
        assert_eq!(ask(&gateway, "lamp", get("/b")).1, "/b");
        gateway.drain(Duration::from_secs(5));
    });
    listener.stop();
}

#[test]
fn each_link_may_have_a_handler_at_the_gateway() {
    let (tell, told) = mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let gateway = crate::support::gateway()
        .listen("127.0.0.1:0")
        .on_link(move |mut link| {
            assert_eq!(link.name(), Some("lamp"));
            let mut answers = Vec::new();
            for n in 0..3 {
                answers.push(
                    link.ask(get(&format!("/{n}"))).unwrap().into_body().read_to_text(100).unwrap(),
                );
            }
            tell.lock().unwrap().send(answers).unwrap();
        })
        .start()
        .unwrap();
    let handle = device(&gateway, "lamp", 1..=1)
        .spawn(|request| Response::new(Body::from(request.uri().to_string())))
        .unwrap();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), ["/0", "/1", "/2"]);
    assert_eq!(
        told.recv_timeout(PATIENCE).unwrap(),
        ["/0", "/1", "/2"],
        "the device dials again when the handler returns"
    );
    assert!(gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap_err().is_usage());
    assert!(gateway.device("lamp").send(get("/")).unwrap_err().is_usage());
    handle.stop();
    let both = crate::support::gateway()
        .listen("127.0.0.1:0")
        .on_link(|_| ())
        .turn(TurnMode::OnDemand)
        .start();
    assert!(both.unwrap_err().is_usage());
}

#[test]
fn beyond_on_link_max_an_offer_is_503() {
    let mut limits = Limits::default();
    limits.on_link_max = 1;
    let (entered, inside) = mpsc::channel();
    let entered = std::sync::Mutex::new(entered);
    let (release, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let gateway = crate::support::gateway()
        .listen("127.0.0.1:0")
        .limits(limits)
        .on_link(move |_| {
            entered.lock().unwrap().send(()).unwrap();
            let _ = gate.lock().unwrap().recv();
        })
        .start()
        .unwrap();
    let first = parked(&gateway, "one");
    assert!(matches!(first, Offered::Turned(_)));
    inside.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(
        parked(&gateway, "two"),
        Offered::Answered { status: StatusCode::SERVICE_UNAVAILABLE, .. }
    ));
    let reached = gateway.stats().bounds_reached;
    assert_eq!((reached.of(Bound::OnLink), reached.total()), (1, 1), "{reached:?}");
    drop(release);
}

/// One is being decided, and one waits for that.
#[test]
fn beyond_authorize_queue_max_an_offer_is_503() {
    let mut limits = Limits::default();
    (limits.helpers_max, limits.authorize_queue_max) = (1, 1);
    let (entered, inside) = mpsc::channel();
    let entered = std::sync::Mutex::new(entered);
    let (release, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let builder = crate::support::gateway().listen("127.0.0.1:0").limits(limits);
    let builder = builder.authorize(move |_| {
        entered.lock().unwrap().send(()).unwrap();
        let _ = gate.lock().unwrap().recv();
        Ok(Grant::offered())
    });
    let gateway = builder.start().unwrap();
    let offer = |name: &str| {
        let mut peer = crate::support::RawPeer::connect(gateway.devices_addr());
        peer.write(crate::support::process::offer(name, ""));
        peer
    };
    let mut peers = vec![offer("one")];
    inside.recv_timeout(PATIENCE).unwrap();
    peers.extend(["two", "three", "four"].map(offer));
    let reached = || gateway.stats().bounds_reached;
    crate::support::eventually("two are refused", || {
        (reached().of(Bound::AuthorizeQueue) == 2).then_some(())
    });
    assert_eq!(reached().total(), 2, "{:?}", reached());
    drop(release);
    let mut answers: Vec<u16> = peers.iter_mut().map(|peer| peer.read_head().status()).collect();
    assert_eq!(answers[0], 101);
    answers.sort_unstable();
    assert_eq!(answers, [101, 101, 503, 503]);
}

fn parked(gateway: &Gateway, name: &str) -> Offered<TcpStream> {
    let stream = TcpStream::connect(gateway.devices_addr()).unwrap();
    let plan =
        OfferPlan::new(gateway.devices_addr().to_string(), format!("/{name}"), Dialect::classic());
    link::offer(stream, &plan, Arc::new(Limits::default())).unwrap()
}

#[test]
fn another_server_may_do_the_101() {
    let gateway = crate::support::gateway().start().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/lamp", listener.local_addr().unwrap());
    let handle = Device::builder(url)
        .links(1..=1)
        .build()
        .unwrap()
        .spawn(|_| Response::new(Body::from("adopted")))
        .unwrap();
    let (stream, _) = listener.accept().unwrap();
    let (link, offer) =
        link::accept(stream, &OfferRules::default(), Arc::new(Limits::default())).unwrap();
    let (stream, unread) = link.into_parts();
    gateway.adopt(stream, unread, Offer::from_wire(offer, None), Grant::offered()).unwrap();
    assert_eq!(ask(&gateway, "lamp", get("/")).1, "adopted");
    handle.stop();
}

#[test]
fn events_tell_up_replaced_and_down() {
    let gateway = gateway(|_| ());
    let events = gateway.events();
    let next = || loop {
        let event = events.recv_timeout(PATIENCE).unwrap();
        if event.kind != GatewayEventKind::Ended {
            break (event.kind, event.name);
        }
    };
    let first = parrot(&gateway, "lamp", 1..=1);
    assert_eq!(next(), (GatewayEventKind::Up, "lamp".to_owned()));
    let second = device(&gateway, "lamp", 1..=1);
    let second_events = second.events();
    let second = second.spawn(|_| Response::new(Body::from("second"))).unwrap();
    assert_eq!(next(), (GatewayEventKind::Replaced, "lamp".to_owned()));
    let connected = second_events.recv_timeout(PATIENCE).unwrap();
    assert_eq!(
        (connected.kind, connected.detail.as_str()),
        (DeviceEventKind::Connected, "PTTH/1.0 turn")
    );
    assert_eq!(ask(&gateway, "lamp", get("/")).1, "second", "the newest session answers");
    first.stop();
    second.stop();
    assert_eq!(next(), (GatewayEventKind::Down, "lamp".to_owned()));
}

#[test]
fn authorize_names_rejects_and_redirects() {
    let elsewhere = gateway(|_| ());
    let there = format!("http://{}/lamp", elsewhere.devices_addr());
    let gateway = crate::support::gateway()
        .listen("127.0.0.1:0")
        .authorize(move |offer| {
            match (offer.names()[0].to_string().as_str(), offer.bearer_token()) {
                ("lamp", _) => Err(Reject::elsewhere(there.clone())),
                (_, None) => Err(Reject::new(401, "show a token")),
                (_, Some("right")) => Ok(Grant::names(["renamed"]).unwrap().to("somebody")),
                ("panic", _) => panic!("on purpose"),
                _ => Err(Reject::new(403, "not for this name")),
            }
        })
        .start()
        .unwrap();
    let build = |name: &str, token: Option<&str>| {
        let builder = Device::builder(format!("http://{}/{name}", gateway.devices_addr()))
            .on_refusal(OnRefusal::Stop);
        token
            .map_or(builder.field("X-Colour", "blue"), |t| {
                Device::builder(format!("http://{}/{name}", gateway.devices_addr()))
                    .on_refusal(OnRefusal::Stop)
                    .bearer_token(t)
            })
            .build()
            .unwrap()
    };
    for (name, token, status) in [("door", None, 401), ("door", Some("hunter2"), 403)] {
        let error = build(name, token).serve(|_| Response::new(Body::empty())).unwrap_err();
        assert!(error.is_refused() && error.status_hint() == Some(status), "{error:?}");
        assert!(!format!("{error:?}").contains("hunter2"), "no token in an error: {error:?}");
    }
    let named = build("door", Some("right")).spawn(|_| Response::new(Body::from("named"))).unwrap();
    gateway.device("renamed").wait_connected(PATIENCE).unwrap();
    assert_eq!(ask(&gateway, "renamed", get("/")).1, "named");
    let redirected =
        build("lamp", None).spawn(|_| Response::new(Body::from("over there"))).unwrap();
    elsewhere.device("lamp").wait_connected(PATIENCE).unwrap();
    assert_eq!(ask(&elsewhere, "lamp", get("/")).1, "over there");
    assert!(
        matches!(
            parked_with(&gateway, "panic", "any"),
            Offered::Answered { status: StatusCode::INTERNAL_SERVER_ERROR, .. }
        ),
        "a panic refuses"
    );
    named.stop();
    redirected.stop();
}

#[test]
fn the_token_of_an_offer_is_that_of_its_only_authorization_field() {
    let gateway = crate::support::gateway()
        .listen("127.0.0.1:0")
        .authorize(|offer| match offer.bearer_token() {
            Some("right") => Ok(Grant::offered()),
            _ => Err(Reject::new(401, "show a token")),
        })
        .start()
        .unwrap();
    let refused = |credentials: &[&str]| {
        let offered = parked_showing(&gateway, "lamp", credentials);
        matches!(offered, Offered::Answered { status: StatusCode::UNAUTHORIZED, .. })
    };
    assert!(refused(&["Bearer right", "Bearer right"]));
    assert!(refused(&["Bearer right", "Bearer wrong"]));
    assert!(refused(&["Bearer right wrong"]));
    assert!(refused(&[]));
    assert!(matches!(parked_showing(&gateway, "lamp", &["Bearer right"]), Offered::Turned(_)));
}

fn parked_with(gateway: &Gateway, name: &str, token: &str) -> Offered<TcpStream> {
    parked_showing(gateway, name, &[&format!("Bearer {token}")])
}

fn parked_showing(gateway: &Gateway, name: &str, credentials: &[&str]) -> Offered<TcpStream> {
    let stream = TcpStream::connect(gateway.devices_addr()).unwrap();
    let mut plan =
        OfferPlan::new(gateway.devices_addr().to_string(), format!("/{name}"), Dialect::classic());
    let fields = credentials.iter().map(|value| ("Authorization".to_owned(), (*value).to_owned()));
    plan.fields.extend(fields);
    link::offer(stream, &plan, Arc::new(Limits::default())).unwrap()
}

#[test]
fn another_credential_does_not_take_a_name_and_the_same_one_does() {
    let gateway = crate::support::gateway()
        .listen("127.0.0.1:0")
        .authorize(|offer| Ok(Grant::offered().to(offer.bearer_token().unwrap_or("nobody"))))
        .start()
        .unwrap();
    let held = parked_with(&gateway, "lamp", "a");
    assert!(matches!(held, Offered::Turned(_)));
    assert!(matches!(
        parked_with(&gateway, "lamp", "b"),
        Offered::Answered { status: StatusCode::CONFLICT, .. }
    ));
    assert!(matches!(parked_with(&gateway, "lamp", "a"), Offered::Turned(_)));
}

#[test]
fn a_device_and_a_gateway_end_with_the_last_of_their_handles() {
    let gateway = gateway(|_| ());
    let lamp = gateway.device("lamp");
    let device = parrot(&gateway, "lamp", 1..=1);
    let another = device.clone();
    drop(device);
    assert_eq!(ask(&gateway, "lamp", get("/a")).1, "GET /a", "a handle is left");
    drop(another);
    until("its links have ended with it", || lamp.links().unwrap().total() == 0);

    let devices = gateway.devices_addr();
    let other = gateway.clone();
    drop(gateway);
    assert!(other.is_running());
    drop(other);
    assert!(TcpStream::connect(devices).is_ok(), "one of its devices is a handle, too");
    drop(lamp);
    assert!(TcpStream::connect(devices).is_err(), "nothing listens any more");
}

#[test]
fn a_handler_may_own_the_last_handle_of_its_own_device() {
    let gateway = gateway(|_| ());
    let slot = Arc::new(std::sync::Mutex::new(None::<DeviceHandle>));
    let own = slot.clone();
    let handle = device(&gateway, "lamp", 1..=1)
        .spawn(move |_| {
            let held = own.lock().unwrap().is_some();
            Response::new(Body::from(format!("{held}")))
        })
        .unwrap();
    *slot.lock().unwrap() = Some(handle);
    gateway.device("lamp").wait_connected(PATIENCE).unwrap();
    assert_eq!(ask(&gateway, "lamp", get("/")).1, "true");
    let handle = slot.lock().unwrap().clone().unwrap();
    drop(slot); // the handler keeps the other one, and is dropped by the event loop
    handle.stop();
    drop(handle);
    until("its link has ended", || gateway.device("lamp").links().unwrap().total() == 0);
}

#[test]
fn stopping_lets_what_is_in_progress_finish_and_cuts_what_does_not() {
    for (time, finishes) in [(PATIENCE, true), (Duration::from_millis(50), false)] {
        let gateway = gateway(|_| ());
        let (entered, inside) = mpsc::channel();
        let entered = std::sync::Mutex::new(entered);
        let (release, gate) = mpsc::channel::<()>();
        let gate = std::sync::Mutex::new(gate);
        let handle = device(&gateway, "slow", 1..=1)
            .spawn(move |_| {
                entered.lock().unwrap().send(()).unwrap();
                let _ = gate.lock().unwrap().recv();
                Response::new(Body::from("done"))
            })
            .unwrap();
        gateway.device("slow").wait_connected(PATIENCE).unwrap();
        std::thread::scope(|scope| {
            let caller = scope.spawn(|| gateway.device("slow").send(get("/")).map(|r| r.status()));
            inside.recv_timeout(PATIENCE).unwrap();
            let stopping = scope.spawn(|| gateway.drain(time));
            if finishes {
                release.send(()).unwrap();
            }
            assert_eq!(caller.join().unwrap().ok(), finishes.then_some(StatusCode::OK));
            stopping.join().unwrap();
        });
        drop(release);
        handle.stop();
    }
}

#[test]
fn a_lost_link_is_replaced_and_an_idempotent_request_survives_it() {
    let gateway = gateway(|_| ());
    // A link that looks idle and is closed by the device just as the gateway uses it: each exchange
    // is the last on its link.
    let handle = device(&gateway, "lamp", 1..=2)
        .spawn(|_| {
            Response::builder().header("Connection", "close").body(Body::from("once")).unwrap()
        })
        .unwrap();
    gateway.device("lamp").wait_connected(PATIENCE).unwrap();
    for _ in 0..50 {
        assert_eq!(ask(&gateway, "lamp", get("/")).1, "once");
    }
    handle.stop();
}

#[test]
fn visitors_and_programs_share_the_links() {
    let gateway = gateway(|_| ());
    let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
    let handle = parrot(&gateway, "lamp", 1..=1);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let gateway = &gateway;
            scope.spawn(move || {
                for _ in 0..25 {
                    let request = Request::builder()
                        .method(Method::PUT)
                        .uri(format!("/{n}"))
                        .body(Body::from("x"))
                        .unwrap();
                    assert_eq!(ask(gateway, "lamp", request).1, format!("PUT /{n}"));
                }
            });
            scope.spawn(move || {
                let mut visitor = TcpStream::connect(visitors).unwrap();
                for _ in 0..25 {
                    write!(visitor, "GET /lamp/v{n} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
                    let answer = read_answer(&mut visitor);
                    assert!(answer.ends_with(&format!("GET /v{n}")), "{answer}");
                }
            });
        }
    });
    handle.stop();
}

#[test]
fn routes_of_a_running_listener_are_replaced() {
    let gateway = gateway(|l| l.wait_for_link = Duration::from_millis(50));
    let api = |device: &str| {
        Routes::table([Route::new().path("/api").unwrap().device(device).unwrap()]).unwrap()
    };
    let visitors = gateway.listen_visitors("127.0.0.1:0", api("lamp")).unwrap();
    let others = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
    let lamp = parrot(&gateway, "lamp", 1..=1);
    let mut visitor = TcpStream::connect(visitors).unwrap();
    let mut ask = |target: &str, status: &str| {
        write!(visitor, "GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let answer = read_answer(&mut visitor);
        assert!(answer.starts_with(status) && answer.ends_with("GET /v1"), "{answer}");
    };
    ask("/api/v1", "HTTP/1.1 200");
    let second = Route::new().path("/second").unwrap().device("lamp").unwrap();
    gateway.set_routes(visitors, api("desk").and_route(second).unwrap()).unwrap();
    ask("/second/v1", "HTTP/1.1 200");
    let mut visitor = TcpStream::connect(others).unwrap();
    write!(visitor, "GET /lamp/v1 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert!(read_answer(&mut visitor).ends_with("GET /v1"), "another listener keeps its own");

    // A device that a route names is known to programs, too.
    let send = |name: &str| {
        gateway
            .device(name)
            .send(Request::get("/").body(Body::empty()).unwrap())
            .unwrap_err()
            .status_hint()
    };
    assert_eq!((send("desk"), send("nobody")), (Some(503), Some(404)));
    let nobody = gateway.set_routes(gateway.devices_addr(), Routes::path()).unwrap_err();
    assert!(nobody.is_usage() && nobody.to_string().contains("listen_visitors()"), "{nobody}");
    lamp.stop();
    gateway.stop();
    assert!(gateway.set_routes(visitors, Routes::path()).unwrap_err().is_stopped());
}

#[test]
fn a_trusted_proxy_is_an_address_or_a_network() {
    let right = crate::support::gateway().trusted_proxies(["127.0.0.1", "2001:db8::/32"]);
    assert!(right.check().is_ok());
    let error = crate::support::gateway()
        .trusted_proxies(["127.0.0.1".to_owned(), "10.0.0.1/8".to_owned()])
        .via("it is not told, since it is not the first")
        .start()
        .unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("write 10.0.0.0/8"), "{error}");
}

/// Reads a response whose body is as long as `GET /vN`.
fn read_answer(visitor: &mut TcpStream) -> String {
    use std::io::Read;
    visitor.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut one = [0];
        visitor.read_exact(&mut one).unwrap();
        bytes.push(one[0]);
    }
    let mut body = [0; 7];
    visitor.read_exact(&mut body).unwrap();
    bytes.extend_from_slice(&body);
    String::from_utf8(bytes).unwrap()
}

#[test]
fn several_threads_may_receive_from_one_device_and_its_drop_ends_it() {
    let gateway = gateway(|_| ());
    let device = device(&gateway, "lamp", 2..=4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    device
                        .recv()
                        .unwrap()
                        .respond(Response::new(Body::from("one of four")))
                        .unwrap();
                }
            });
        }
        until("the device is known", || {
            gateway.device("lamp").wait_connected(Duration::from_millis(100)).is_ok()
        });
        for _ in 0..20 {
            assert_eq!(ask(&gateway, "lamp", get("/")).1, "one of four");
        }
    });
    assert!(device.listen().unwrap_err().is_usage(), "it is used with recv()");
    drop(device);
    until("the gateway sees the device go", || gateway.stats().devices == 0);
}

#[test]
fn an_interim_status_is_no_response_of_a_program() {
    let gateway = gateway(|_| ());
    let handle = device(&gateway, "lamp", 1..=1)
        .spawn(|_| Response::builder().status(103).body(Body::empty()).unwrap())
        .unwrap();
    gateway.device("lamp").wait_connected(PATIENCE).unwrap();
    assert_eq!(ask(&gateway, "lamp", get("/")).0, StatusCode::INTERNAL_SERVER_ERROR);
    handle.stop();
}

#[test]
fn a_gateway_that_turns_and_closes_is_not_dialled_in_a_circle() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/lamp", listener.local_addr().unwrap());
    let device = Device::builder(url)
        .links(1..=1)
        .backoff(Duration::from_millis(1)..Duration::from_secs(60))
        .build()
        .unwrap();
    let handle = device.spawn(|_| Response::new(Body::empty())).unwrap();
    // The pauses are random up to 1, 2, 4 … ms: after 20 of them they are of the order of minutes.
    let mut turns = 0;
    listener.set_nonblocking(true).unwrap();
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        let Ok((stream, _)) = listener.accept() else { continue };
        stream.set_nonblocking(false).unwrap();
        drop(link::accept(stream, &OfferRules::default(), Arc::new(Limits::default())).unwrap());
        turns += 1;
    }
    assert!((2..60).contains(&turns), "{turns} dials in a second");
    handle.stop();
}

#[test]
fn an_on_demand_gateway_turns_for_a_program_too() {
    let gateway =
        crate::support::gateway().listen("127.0.0.1:0").turn(TurnMode::OnDemand).start().unwrap();
    let device = device(&gateway, "lamp", 1..=2);
    let events = device.events();
    let handle =
        device.spawn(|request| Response::new(Body::from(request.method().to_string()))).unwrap();
    gateway.device("lamp").wait_connected(PATIENCE).unwrap();
    for method in [Method::GET, Method::POST] {
        let request =
            Request::builder().method(method.clone()).uri("/").body(Body::empty()).unwrap();
        assert_eq!(ask(&gateway, "lamp", request).1, method.as_str());
    }
    assert_eq!(events.recv_timeout(PATIENCE).unwrap().kind, DeviceEventKind::Connected);
    handle.stop();
}

#[test]
fn a_visitor_that_resets_while_it_waits_costs_no_link() {
    let gateway = gateway(|_| ());
    let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
    let Offered::Turned(mut link) = parked(&gateway, "lamp") else { panic!("no turn") };
    let mut first = TcpStream::connect(visitors).unwrap();
    write!(first, "GET /lamp/v0 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(link.next_request().unwrap().unwrap().uri(), "/v0"); // the only link is busy
    for _ in 0..20 {
        let before = gateway.stats().exchanges;
        let mut gone = TcpStream::connect(visitors).unwrap();
        write!(gone, "GET /lamp/gone HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        until("the request is in line", || gateway.stats().exchanges > before);
        socket2::SockRef::from(&gone).set_linger(Some(Duration::ZERO)).unwrap();
        drop(gone); // with a reset
    }
    let before = gateway.stats().exchanges;
    let mut last = TcpStream::connect(visitors).unwrap();
    write!(last, "GET /lamp/v9 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    until("the last one is in line", || gateway.stats().exchanges > before);
    link.respond(Response::new(Body::from("GET /v0"))).unwrap();
    assert!(read_answer(&mut first).starts_with("HTTP/1.1 200"));
    assert_eq!(
        link.next_request().unwrap().unwrap().uri(),
        "/v9",
        "those that went are asked for no more"
    );
    link.respond(Response::new(Body::from("GET /v9"))).unwrap();
    assert!(read_answer(&mut last).starts_with("HTTP/1.1 200"));
}
