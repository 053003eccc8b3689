//! A gateway that tells devices with a session how many callers wait (protocol.md §1.6), against raw
//! devices: over links and by both encodings of the fallback, for visitors and for a program's
//! `send()`, with heartbeats; and nobody else's word for it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use http::Request;
use reverse_http::{Body, Routes};
use serde_json::Value;

use crate::support::process::{get, offer};
use crate::support::{Gateway, Head, RawPeer, SWITCH, each_row, eventually};

const SESSION: &str = "PTTH-Session: 0123456789abcdef0123456789abcdef\r\n";

/// How a raw device is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Face {
    Link,
    Json,
    Text,
}

const FACES: [Face; 3] = [Face::Link, Face::Json, Face::Text];

/// One connection of a raw device `lamp`.
struct Device {
    peer: RawPeer,
    face: Face,
    /// Further lines of its offer or polls.
    fields: String,
}

/// A request in a device's hand.
struct Asked {
    target: String,
    /// Values of `PTTH-Waiting`.
    waiting: Vec<String>,
    /// The event's id.
    id: String,
}

impl Asked {
    #[track_caller]
    fn waiting(&self) -> usize {
        match &self.waiting[..] {
            [] => 0,
            [value] => {
                let digits = value.bytes().all(|byte| byte.is_ascii_digit());
                assert!(digits && matches!(value.len(), 1..=4), "{value:?}");
                assert!(!value.starts_with('0'), "nobody waits, and it is said: {value:?}");
                value.parse().unwrap()
            }
            several => panic!("several lines: {several:?}"),
        }
    }
}

impl Device {
    #[track_caller]
    fn connect(devices: SocketAddr, face: Face, session: &str) -> Device {
        let mut peer = RawPeer::connect(devices);
        peer.who = format!("device ({face:?})");
        let accept = match face {
            Face::Link => "",
            Face::Json => "Accept: application/json\r\n",
            Face::Text => "Accept: message/http\r\n",
        };
        let mut device = Device { peer, face, fields: format!("{accept}{session}") };
        if face == Face::Link {
            device.peer.write(offer("lamp", &device.fields));
            assert_eq!(device.peer.read_exact(SWITCH.len()), SWITCH);
        } else {
            device.poll("", "", b"");
            if !session.is_empty() {
                let nothing = device.peer.read_answer("POST"); // the first of a session
                assert!(matches!(nothing.text().as_str(), "" | "{}"), "{}", nothing.text());
                device.poll("", "", b"");
            }
        }
        device
    }

    fn poll(&mut self, content_type: &str, more: &str, body: &[u8]) {
        let kind = match content_type {
            "" => String::new(),
            kind => format!("Content-Type: {kind}\r\n"),
        };
        let (fields, length) = (&self.fields, body.len());
        let head = format!(
            "POST /lamp HTTP/1.1\r\nHost: gw.example\r\n{fields}{kind}{more}Content-Length: {length}\r\n\r\n"
        );
        self.peer.write([head.as_bytes(), body].concat());
    }

    #[track_caller]
    fn asked(&mut self) -> Asked {
        let of_head = |head: &Head, id: &str| Asked {
            target: head.target().to_owned(),
            waiting: head.all("ptth-waiting").iter().map(|value| (*value).to_owned()).collect(),
            id: id.to_owned(),
        };
        if self.face == Face::Link {
            return of_head(&self.peer.read_head(), "");
        }
        let reply = self.peer.read_answer("POST");
        assert_eq!(reply.status(), 200, "{}", reply.head.text());
        if self.face == Face::Text {
            let (head, _) = Head::split(&reply.body);
            return of_head(&head, reply.head.get("ptth-message-id").unwrap());
        }
        let event: Value = serde_json::from_slice(&reply.body).unwrap();
        let fields = event["headers"].as_array().unwrap().iter();
        let waiting =
            fields.filter(|field| field[0].as_str().unwrap().eq_ignore_ascii_case("ptth-waiting"));
        Asked {
            target: event["request-uri"].as_str().unwrap().to_owned(),
            waiting: waiting.map(|field| field[1].as_str().unwrap().to_owned()).collect(),
            id: event["message-id"].as_str().unwrap().to_owned(),
        }
    }

    /// Answers with the target; a poll asks for the next event with it.
    fn answer(&mut self, asked: &Asked) {
        let (target, length) = (&asked.target, asked.target.len());
        let response = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{target}");
        match self.face {
            Face::Link => self.peer.write(response),
            Face::Text => {
                let id = format!("PTTH-Message-ID: {}\r\n", asked.id);
                self.poll("message/http", &id, response.as_bytes());
            }
            Face::Json => {
                let answer = serde_json::json!({
                    "message-id": asked.id, "http-version": "PTTH/1.0", "status": 200,
                    "reason": "OK", "headers": [], "body": target,
                });
                self.poll("application/json", "", answer.to_string().as_bytes());
            }
        }
    }
}

/// A visitor who has written this request, which the gateway has read.
#[track_caller]
fn visitor(visitors: SocketAddr, request: &str) -> RawPeer {
    let mut visitor = RawPeer::connect(visitors);
    visitor.write(request);
    crate::support::fence(visitors);
    visitor
}

/// A device at work for a first visitor, so that the next visitors wait.
#[track_caller]
fn busy(gateway: &Gateway, face: Face, session: &str) -> (Device, RawPeer, Asked) {
    let mut device = Device::connect(gateway.devices, face, session);
    // Without a session nothing says that a poll is known by now: it is asked until it is.
    let first = eventually("the device is known", || {
        let mut first = RawPeer::connect(gateway.visitors);
        first.write(get("/lamp/first"));
        let known = eventually("it is asked, or its visitor refused", || {
            if device.peer.stirs_within(Duration::from_millis(5)) {
                return Some(true);
            }
            first.stirs_within(Duration::from_millis(1)).then_some(false)
        });
        known.then_some(first)
    });
    let asked = device.asked();
    assert_eq!((asked.target.as_str(), asked.waiting()), ("/first", 0));
    (device, first, asked)
}

#[test]
fn each_request_says_how_many_callers_wait_behind_it() {
    each_row(
        &FACES,
        |face| format!("{face:?}"),
        |face| {
            let gateway = Gateway::start(&[]);
            let (mut device, mut first, mut asked) = busy(&gateway, *face, SESSION);
            let paths = ["/a", "/b", "/c"];
            let mut waiting: VecDeque<RawPeer> = paths
                .iter()
                .map(|path| visitor(gateway.visitors, &get(&format!("/lamp{path}"))))
                .collect();
            device.answer(&asked);
            first.read_answer("GET").expect_ok("/first");
            for path in paths {
                asked = device.asked();
                let mut served = waiting.pop_front().unwrap();
                assert_eq!((asked.target.as_str(), asked.waiting()), (path, waiting.len()));
                device.answer(&asked);
                served.read_answer("GET").expect_ok(path);
            }
        },
    );
}

#[test]
fn a_device_without_a_session_is_told_nothing() {
    each_row(
        &FACES,
        |face| format!("{face:?}"),
        |face| {
            let gateway = Gateway::start(&[]);
            let (mut device, _first, asked) = busy(&gateway, *face, "");
            let _waiting = [
                visitor(gateway.visitors, &get("/lamp/a")),
                visitor(gateway.visitors, &get("/lamp/b")),
            ];
            device.answer(&asked);
            let asked = device.asked();
            assert_eq!((asked.target.as_str(), asked.waiting()), ("/a", 0));
        },
    );
}

#[test]
fn a_visitors_own_word_for_it_goes_nowhere() {
    let own = "PTTH-Waiting: 7\r\nptth-waiting: 8\r\n";
    let asks = |path: &str| format!("GET /lamp{path} HTTP/1.1\r\nHost: a\r\n{own}\r\n");
    each_row(
        &[
            (Face::Link, ""),
            (Face::Link, SESSION),
            (Face::Json, SESSION),
            (Face::Text, SESSION),
            (Face::Text, ""),
        ],
        |row| format!("{row:?}"),
        |(face, session)| {
            let gateway = Gateway::start(&[]);
            let (mut device, _first, asked) = busy(&gateway, *face, session);
            let _waiting =
                [visitor(gateway.visitors, &asks("/a")), visitor(gateway.visitors, &asks("/b"))];
            device.answer(&asked);
            let asked = device.asked();
            let told = usize::from(!session.is_empty());
            assert_eq!((asked.target.as_str(), asked.waiting()), ("/a", told));
            device.answer(&asked);
            let asked = device.asked();
            assert_eq!((asked.target.as_str(), asked.waiting()), ("/b", 0));
        },
    );
}

#[test]
fn it_does_not_pass_as_a_trailer_either() {
    let gateway = Gateway::start(&[]);
    let mut device = Device::connect(gateway.devices, Face::Link, SESSION);
    let _visitor = visitor(
        gateway.visitors,
        "POST /lamp/up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, PTTH-Waiting\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 1\r\nPTTH-Waiting: 7\r\n\r\n",
    );
    assert_eq!(device.asked().waiting(), 0);
    let end = "0\r\nX-Sum: 1\r\n\r\n";
    let body = device.peer.read_exact("2\r\nhi\r\n".len() + end.len());
    assert_eq!(String::from_utf8_lossy(&body), format!("2\r\nhi\r\n{end}"));
}

#[test]
fn while_a_link_is_free_nobody_is_said_to_wait_and_the_newest_link_is_asked() {
    let gateway = Gateway::start(&[]);
    let mut surplus = Device::connect(gateway.devices, Face::Link, SESSION);
    let mut newest = Device::connect(gateway.devices, Face::Link, SESSION);
    for path in ["/a", "/b", "/c"] {
        let mut visitor = visitor(gateway.visitors, &get(&format!("/lamp{path}")));
        let asked = newest.asked();
        assert_eq!((asked.target.as_str(), asked.waiting()), (path, 0));
        newest.answer(&asked);
        visitor.read_answer("GET").expect_ok(path);
    }
    assert!(!surplus.peer.stirs_within(Duration::from_millis(1)), "the older link stays idle");
}

/// The one link is a visitor's own, because of a login, and idles; others wait.
#[test]
fn a_heartbeat_says_it_too() {
    let gateway = Gateway::start(&["--heartbeat", "200ms"]);
    let mut device = Device::connect(gateway.devices, Face::Link, SESSION);
    let login = "GET /lamp/login HTTP/1.1\r\nHost: a\r\nAuthorization: Negotiate abc\r\n\r\n";
    let mut owner = visitor(gateway.visitors, login);
    let asked = device.asked();
    device.answer(&asked);
    owner.read_answer("GET").expect_ok("/login");
    let _others =
        [visitor(gateway.visitors, &get("/lamp/a")), visitor(gateway.visitors, &get("/lamp/b"))];
    let told = eventually("a heartbeat with the field", || {
        let asked = device.asked();
        assert_eq!(asked.target, "*");
        device.peer.write("HTTP/1.1 204 No Content\r\n\r\n");
        (asked.waiting() > 0).then(|| asked.waiting())
    });
    assert!(matches!(told, 1 | 2), "{told}"); // the first heartbeat may be older than the second visitor
}

#[test]
fn a_programs_request_says_how_many_wait_and_its_own_word_is_dropped() {
    each_row(
        &FACES,
        |face| format!("{face:?}"),
        |face| {
            let own = crate::support::own_address();
            let gateway = crate::support::gateway().listen(format!("{own}:0")).start().unwrap();
            let visitors = gateway.listen_visitors(&format!("{own}:0"), Routes::path()).unwrap();
            let mut device = Device::connect(gateway.devices_addr(), *face, SESSION);
            let mut in_line = VecDeque::from([visitor(visitors, &get("/lamp/0"))]);
            let mut asked = device.asked();
            thread::scope(|scope| {
                let program = scope.spawn(|| {
                    let request = Request::get("/program")
                        .header("PTTH-Waiting", "77")
                        .body(Body::empty())
                        .unwrap();
                    let mut response = gateway.device("lamp").send(request).unwrap();
                    response.body_mut().read_to_text(100).unwrap()
                });
                // Wherever the program is in the queue, a visitor is after it.
                for n in 1.. {
                    in_line.push_back(visitor(visitors, &get(&format!("/lamp/{n}"))));
                    device.answer(&asked);
                    if asked.target == "/program" {
                        break;
                    }
                    in_line.pop_front().unwrap().read_answer("GET").expect_ok(&asked.target);
                    asked = device.asked();
                    if asked.target == "/program" {
                        assert_eq!(asked.waiting(), in_line.len());
                        assert!(asked.waiting() > 0);
                    }
                }
                assert_eq!(program.join().unwrap(), "/program");
            });
        },
    );
}
