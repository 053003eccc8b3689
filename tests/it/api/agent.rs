//! `Gateway::agent()`: ureq against devices, over links and polls.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use http::{Request, Response, StatusCode, header};
use reverse_http::{
    Body, Device, DeviceHandle, ErrorKind, Fallback, Gateway, GatewayEventKind, IntoResponse,
    Limits,
};

use crate::support::DEADLINE;

fn start(loops: usize, change: impl FnOnce(&mut Limits)) -> Gateway {
    let mut limits = Limits::default();
    change(&mut limits);
    Gateway::builder().loops(loops).listen("127.0.0.1:0").limits(limits).start().unwrap()
}

fn device<R: IntoResponse>(
    gateway: &Gateway,
    name: &str,
    fallback: Fallback,
    handler: impl Fn(Request<Body>) -> R + Send + Sync + 'static,
) -> DeviceHandle {
    let handle = Device::builder(format!("http://{}/{name}", gateway.devices_addr()))
        .links(1..=1)
        .fallback(fallback)
        .backoff(Duration::from_millis(5)..Duration::from_millis(50))
        .build()
        .unwrap()
        .spawn(handler)
        .unwrap();
    gateway.device(name).wait_connected(DEADLINE).unwrap();
    handle
}

/// ureq sends a body whole before it reads, so an echo has to take it whole, too.
fn echo(mut request: Request<Body>) -> Response<Body> {
    match request.uri().path() {
        "/echo" => match request.body_mut().read_to_vec(8 << 20) {
            Ok(bytes) => bytes.into_response(),
            Err(_) => StatusCode::BAD_REQUEST.into_response(),
        },
        "/none" => StatusCode::NOT_FOUND.into_response(),
        path => format!("{} {path}", request.method()).into_response(),
    }
}

fn text(response: Result<http::Response<ureq::Body>, ureq::Error>) -> String {
    response.unwrap().body_mut().read_to_string().unwrap()
}

/// Our error inside of ureq's.
fn ours(error: ureq::Error) -> ErrorKind {
    let ureq::Error::Io(error) = error else { panic!("{error:?}") };
    error.get_ref().unwrap().downcast_ref::<reverse_http::Error>().unwrap().kind()
}

#[test]
fn an_agent_asks_devices_over_links_and_polls() {
    for (fallback, loops) in [(Fallback::Never, 1), (Fallback::Only, 1), (Fallback::Never, 3)] {
        let gateway = start(loops, |_| ());
        let lamp = device(&gateway, "lamp", fallback, echo);
        let agent = gateway.agent();
        assert_eq!(text(agent.get("http://lamp/a?b=c").call()), "GET /a");
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        let mut whole = agent.post("http://lamp/echo").send(&sent[..]).unwrap();
        assert!(whole.body_mut().read_to_vec().unwrap() == sent);
        let reader = io::Cursor::new(sent.clone());
        let streamed = ureq::SendBody::from_owned_reader(reader);
        let mut streamed = agent.put("http://lamp/echo").send(streamed).unwrap();
        assert!(streamed.body_mut().read_to_vec().unwrap() == sent);
        let expecting = agent.post("http://lamp/echo").header(header::EXPECT, "100-continue");
        assert_eq!(text(expecting.send("abc")), "abc");
        let head = agent.head("http://lamp/a").call().unwrap();
        assert_eq!(head.headers()[header::CONTENT_LENGTH], "7");
        let none = agent.get("http://lamp/none").call().unwrap_err();
        assert!(matches!(none, ureq::Error::StatusCode(404)), "{none:?}");
        lamp.stop();
    }
}

/// Hosts have no case, and devices' names are in lower case.
#[test]
fn a_name_in_capitals_is_the_same_device() {
    let gateway = start(1, |_| ());
    let lamp = device(&gateway, "lamp", Fallback::Never, |request: Request<Body>| {
        match request.uri().path() {
            "/there" => Response::builder().status(302).header("Location", "http://lamp/here"),
            _ => Response::builder(),
        }
        .body(request.uri().path().to_owned())
        .unwrap()
    });
    let mut response = gateway.agent().get("http://LAMP/there").call().unwrap();
    assert_eq!(response.body_mut().read_to_string().unwrap(), "/here");
    lamp.stop();
}

#[test]
fn a_link_is_held_for_one_exchange_and_used_again() {
    let gateway = start(1, |_| ());
    let lamp = device(&gateway, "lamp", Fallback::Never, echo);
    let (agent, events) = (gateway.agent(), gateway.events());
    thread::scope(|scope| {
        for number in 0..4 {
            let agent = agent.clone();
            scope.spawn(move || {
                for n in 0..25 {
                    let path = format!("/{number}-{n}");
                    let response = agent.get(format!("http://lamp{path}")).call();
                    assert_eq!(text(response), format!("GET {path}"));
                }
            });
        }
    });
    // Others get its only link at once, though the agent lives.
    let request = Request::get("/x").body(Body::empty()).unwrap();
    assert_eq!(gateway.device("lamp").send(request).unwrap().status(), StatusCode::OK);
    assert!(events.try_iter().all(|event| event.kind != GatewayEventKind::Ended));
    assert_eq!(gateway.stats().turns, 1);
    // A body that nobody wants costs a link at most, and no answer of another request.
    let sent = vec![7; 3_000_000];
    drop(agent.post("http://lamp/echo").send(&sent[..]));
    assert_eq!(text(agent.get("http://lamp/next").call()), "GET /next");
    lamp.stop();
}

#[test]
fn redirects_stay_with_their_device() {
    let gateway = start(1, |_| ());
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let safe = device(&gateway, "safe", Fallback::Never, move |_| {
        counted.fetch_add(1, SeqCst);
        "secret"
    });
    let lamp = device(&gateway, "lamp", Fallback::Never, |request: Request<Body>| {
        let to = match request.uri().path() {
            "/relative" => "/here",
            "/absolute" => "http://lamp/here",
            "/device" => "http://safe/",
            "/world" => "http://127.0.0.1:1/",
            _ => return "here".into_response(),
        };
        let mut response = StatusCode::FOUND.into_response();
        response.headers_mut().insert(header::LOCATION, to.parse().unwrap());
        response
    });
    let agent = gateway.agent();
    for path in ["relative", "absolute"] {
        assert_eq!(text(agent.get(format!("http://lamp/{path}")).call()), "here");
    }
    let elsewhere = agent.get("http://lamp/device").call().unwrap_err();
    assert_eq!(ours(elsewhere), ErrorKind::Refused);
    let world = agent.get("http://lamp/world").call().unwrap_err();
    assert!(matches!(world, ureq::Error::BadUri(_)), "{world:?}");
    assert_eq!(asked.load(SeqCst), 0);
    assert_eq!(text(agent.get("http://safe/").call()), "secret", "who asks for it gets it");
    safe.stop();
    lamp.stop();
}

#[test]
fn time_outs_of_ureq_and_of_the_gateway_hold() {
    let gateway = start(1, |limits| limits.first_byte_timeout = Duration::from_millis(600));
    let (release, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let [lamp, meter] = ["lamp", "meter"].map(|name| {
        let held = held.clone();
        device(&gateway, name, Fallback::Never, move |_| {
            let _ = held.lock().unwrap().recv();
            "late"
        })
    });
    let short = Some(Duration::from_millis(100));
    let agent = gateway.agent_with(ureq::Agent::config_builder().timeout_global(short));
    let late = agent.get("http://lamp/").call().unwrap_err();
    assert!(matches!(late, ureq::Error::Timeout(_)), "{late:?}");
    assert_eq!(ours(gateway.agent().get("http://meter/").call().unwrap_err()), ErrorKind::Timeout);
    drop(release);
    lamp.stop();
    meter.stop();
}

#[test]
fn what_cannot_be_asked_says_why() {
    let gateway = start(1, |_| ());
    let agent = gateway.agent();
    let error = |url: &str| agent.get(url).call().unwrap_err();
    assert_eq!(ours(error("http://nobody/")), ErrorKind::Unknown);
    for url in ["https://lamp/", "http://lamp:8080/"] {
        assert!(matches!(error(url), ureq::Error::BadUri(_)), "{url}");
    }
    assert_eq!(ours(error("http://!lamp/")), ErrorKind::Usage);
    gateway.drain(Duration::ZERO);
    assert_eq!(ours(error("http://lamp/")), ErrorKind::Stopped);
    let links = Gateway::builder().listen("127.0.0.1:0").on_link(|_| ()).start().unwrap();
    assert_eq!(ours(links.agent().get("http://lamp/").call().unwrap_err()), ErrorKind::Usage);
}

/// Gives a little, and then waits for ever.
struct Stuck(mpsc::Receiver<()>);

impl Read for Stuck {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        buf[0] = b'x';
        Ok(1)
    }
}

#[test]
fn a_device_that_goes_in_the_middle_is_an_error() {
    let gateway = start(1, |_| ());
    let (go, goes) = mpsc::channel();
    let goes = Mutex::new(Some(goes));
    let lamp = device(&gateway, "lamp", Fallback::Never, move |_| {
        Body::from_reader(Stuck(goes.lock().unwrap().take().unwrap()))
    });
    go.send(()).unwrap();
    let mut response = gateway.agent().get("http://lamp/").call().unwrap();
    let mut reader = response.body_mut().as_reader();
    let mut one = [0];
    reader.read_exact(&mut one).unwrap();
    lamp.stop();
    assert!(reader.read_to_end(&mut Vec::new()).is_err());
    drop(go);
}
