//! Every end of a link has one reason of the closed list, in one event, one counter, and one line
//! of the log.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use http::Response;
use reverse_http::{
    Body, CloseCause, Device, DeviceEventKind, Gateway, GatewayEventKind, Limits, Routes,
};

const PATIENCE: Duration = Duration::from_secs(10);
const SESSIONS: [&str; 2] =
    ["00000000000000000000000000000001", "00000000000000000000000000000002"];

fn connect(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads one head, byte for byte.
fn head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut one = [0];
        match stream.read(&mut one) {
            Ok(1) => bytes.push(one[0]),
            other => panic!("{other:?} behind {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// A turned connection of the device `lamp`.
fn turned(gateway: &Gateway, session: &str) -> TcpStream {
    let mut stream = connect(gateway.devices_addr());
    let offer = format!(
        "POST /lamp HTTP/1.1\r\nHost: gw\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nPTTH-Session: {session}\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(offer.as_bytes()).unwrap();
    assert!(head(&mut stream).starts_with("HTTP/1.1 101 "));
    stream
}

fn gateway(change: impl FnOnce(&mut Limits)) -> (Gateway, SocketAddr) {
    let mut limits = Limits::default();
    change(&mut limits);
    let gateway = crate::support::gateway().listen("127.0.0.1:0").limits(limits).start().unwrap();
    let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
    (gateway, visitors)
}

/// The device's link has a visitor's request.
fn asked(device: &mut TcpStream, visitors: SocketAddr) -> TcpStream {
    let mut visitor = connect(visitors);
    visitor.write_all(b"GET /lamp/ HTTP/1.1\r\nHost: v\r\n\r\n").unwrap();
    assert!(head(device).starts_with("GET / "));
    visitor
}

fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// A program's request is answered with this after the status line and `Connection: close`; so much
/// of the body is read.
fn answers_program(gateway: &Gateway, mut device: TcpStream, rest: &str, read: usize) -> TcpStream {
    let lamp = gateway.device("lamp");
    let asking = std::thread::spawn(move || {
        let request = http::Request::get("/").body(Body::empty()).unwrap();
        let mut body = lamp.send(request).unwrap().into_body();
        body.read_exact(&mut vec![0; read]).unwrap();
        if body.length().is_none_or(|length| length < 10) {
            body.read_to_end(&mut Vec::new()).unwrap();
        }
    });
    assert!(head(&mut device).starts_with("GET / "));
    let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{rest}");
    device.write_all(answer.as_bytes()).unwrap();
    asking.join().unwrap();
    device
}

type Play = fn(&Gateway, SocketAddr, TcpStream) -> Option<TcpStream>;

/// How a link ends, and what that is called. What a play returns stays open until the end was seen.
const GATEWAY: &[(&str, CloseCause, Play)] = &[
    ("closed while it idles", CloseCause::Closed, |_, _, _| None),
    ("its last message, to a program", CloseCause::LastMessage, |gateway, _, device| {
        Some(answers_program(gateway, device, "Content-Length: 2\r\n\r\non", 2))
    }),
    ("its last message, in chunks", CloseCause::LastMessage, |gateway, _, device| {
        let chunks = "Transfer-Encoding: chunked\r\n\r\n2\r\non\r\n0\r\n\r\n";
        Some(answers_program(gateway, device, chunks, 2))
    }),
    ("a program that reads half of it", CloseCause::Program, |gateway, _, device| {
        Some(answers_program(gateway, device, "Content-Length: 900000\r\n\r\non", 2))
    }),
    ("reset while it idles", CloseCause::Reset, |_, _, device| {
        reset(device);
        None
    }),
    ("bytes that nobody asked for", CloseCause::ProtocolError, |_, _, mut device| {
        device.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        Some(device)
    }),
    ("closed in the middle of an exchange", CloseCause::Cut, |_, visitors, mut device| {
        Some(asked(&mut device, visitors))
    }),
    ("reset in the middle of an exchange", CloseCause::Reset, |_, visitors, mut device| {
        let visitor = asked(&mut device, visitors);
        device.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab").unwrap();
        head(&mut visitor.try_clone().unwrap());
        reset(device);
        Some(visitor)
    }),
    ("a malformed response", CloseCause::ProtocolError, |_, visitors, mut device| {
        let _visitor = asked(&mut device, visitors);
        device.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n").unwrap();
        Some(device)
    }),
    ("a response that says close", CloseCause::LastMessage, |_, visitors, mut device| {
        let visitor = asked(&mut device, visitors);
        device
            .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        Some(visitor)
    }),
    ("no response in time", CloseCause::Late, |_, visitors, mut device| {
        let mut visitor = asked(&mut device, visitors);
        assert!(head(&mut visitor).starts_with("HTTP/1.1 504 "));
        Some(device)
    }),
    ("a caller that gives up", CloseCause::CallerGone, |_, visitors, mut device| {
        let visitor = asked(&mut device, visitors);
        device.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nab").unwrap();
        reset(visitor);
        Some(device)
    }),
    ("a newer session", CloseCause::Replaced, |gateway, _, mut device| {
        let newer = turned(gateway, SESSIONS[1]);
        assert!(head(&mut device).starts_with("OPTIONS * "));
        device.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").unwrap();
        Some(newer)
    }),
    ("no answer to a heartbeat", CloseCause::HeartbeatMissed, |_, _, mut device| {
        assert!(head(&mut device).starts_with("OPTIONS * "));
        Some(device)
    }),
    ("a gateway that drains", CloseCause::Drained, |gateway, _, mut device| {
        std::thread::scope(|scope| {
            scope.spawn(|| gateway.drain(PATIENCE));
            assert!(head(&mut device).starts_with("OPTIONS * "));
            device.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").unwrap();
        });
        Some(device)
    }),
];

#[test]
fn every_end_of_a_link_has_its_reason_in_one_event_and_one_counter() {
    for (what, end, play) in GATEWAY {
        let (gateway, visitors) = gateway(|limits| {
            (limits.heartbeat, limits.heartbeat_timeout) =
                (Duration::ZERO, Duration::from_millis(200));
            if *end == CloseCause::HeartbeatMissed {
                limits.heartbeat = Duration::from_millis(50);
            }
            limits.first_byte_timeout =
                if *end == CloseCause::Late { Duration::from_millis(100) } else { PATIENCE };
        });
        let events = gateway.events();
        let device = turned(&gateway, SESSIONS[0]);
        assert_eq!(events.recv_timeout(PATIENCE).unwrap().kind, GatewayEventKind::Up, "{what}");
        let held = play(&gateway, visitors, device);
        let ended = loop {
            let event = events.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("{what}: {e}"));
            match event.kind {
                GatewayEventKind::Ended => break event,
                GatewayEventKind::Replaced => {}
                other => panic!("{what}: {other} came before the link's end"),
            }
        };
        assert_eq!(
            (ended.cause, ended.name.as_str()),
            (Some(*end), "lamp"),
            "{what}: {}",
            ended.detail
        );
        if *end != CloseCause::Replaced {
            let down = events.recv_timeout(PATIENCE).unwrap();
            assert_eq!(
                (down.kind, down.cause, down.transport),
                (GatewayEventKind::Down, Some(*end), None),
                "{what}"
            );
            assert_eq!(
                (gateway.stats().closed.of(*end), gateway.stats().closed.total()),
                (1, 1),
                "{what}: {:?}",
                gateway.stats().closed
            );
        }
        drop(held);
    }
}

/// A gateway of the test's own that turns each offer.
fn turns(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    head(&mut stream);
    stream
        .write_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n",
        )
        .unwrap();
    stream
}

type Served = fn(&mut TcpStream);

const DEVICE: &[(&str, CloseCause, Served)] = &[
    ("closed while it idles", CloseCause::Closed, |_| ()),
    ("nothing behind a heartbeat", CloseCause::Silent, |stream| {
        stream.write_all(b"OPTIONS * HTTP/1.1\r\nHost: \r\n\r\n").unwrap();
        assert!(head(stream).starts_with("HTTP/1.1 204 "));
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "the device closes it");
    }),
    ("a goaway", CloseCause::Drained, |stream| {
        stream.write_all(b"OPTIONS * HTTP/1.1\r\nHost: \r\nConnection: close\r\n\r\n").unwrap();
        assert!(head(stream).starts_with("HTTP/1.1 204 "));
    }),
    ("no request", CloseCause::ProtocolError, |stream| {
        stream.write_all(b"GET / HTTP/9.9\r\n\r\n").unwrap();
        assert!(head(stream).contains("505 "));
    }),
    ("closed in the middle of a request", CloseCause::Cut, |stream| {
        stream.write_all(b"GET / HTTP/1.1\r\nHo").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }),
];

#[test]
fn a_device_tells_why_its_links_ended() {
    for (what, end, play) in DEVICE {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut limits = Limits::default();
        limits.silence = Duration::from_millis(100);
        let url = format!("http://{}/lamp", listener.local_addr().unwrap());
        let device = Device::builder(url).limits(limits).build().unwrap();
        let events = device.events();
        let running = device.spawn(|_| Response::new(Body::empty())).unwrap();
        play(&mut turns(&listener));
        let mut seen = Vec::new();
        while seen.last().is_none_or(|(kind, _)| *kind != DeviceEventKind::Disconnected) {
            let event = events
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|e| panic!("{what}: {e}, after {seen:?}"));
            seen.push((event.kind, event.cause));
        }
        let expected = [
            (DeviceEventKind::Connected, None),
            (DeviceEventKind::Ended, Some(*end)),
            (DeviceEventKind::Disconnected, Some(*end)),
        ];
        assert_eq!(seen, expected, "{what}");
        assert_eq!(
            (running.stats().closed.of(*end), running.stats().closed.total()),
            (1, 1),
            "{what}"
        );
        running.stop();
    }
}

/// What a device that polls is told when its gateway stops, and when it is full.
#[test]
fn a_device_that_polls_tells_a_gateway_that_stops_from_one_that_is_full() {
    for (details, end) in [
        ("this gateway is stopping; dial again", CloseCause::Drained),
        ("as many links are served as on_link_max allows", CloseCause::Cut),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/lamp", listener.local_addr().unwrap());
        let device = Device::builder(url).polls(1..=1).build().unwrap();
        let events = device.events();
        let running = device.spawn(|_| Response::new(Body::empty())).unwrap();
        let (mut poll, _) = listener.accept().unwrap();
        poll.set_read_timeout(Some(PATIENCE)).unwrap();
        head(&mut poll);
        let nothing = "HTTP/1.1 204 No Content\r\nContent-Type: message/http\r\n\r\n";
        poll.write_all(nothing.as_bytes()).unwrap();
        head(&mut poll);
        let refusal = format!(
            "HTTP/1.1 503 Service Unavailable\r\nProxy-Status: ptth; details=\"{details}\"\r\nContent-Length: 0\r\n\r\n"
        );
        poll.write_all(refusal.as_bytes()).unwrap();
        let ended = loop {
            let event = events.recv_timeout(PATIENCE).unwrap();
            if event.kind == DeviceEventKind::Disconnected {
                break event.cause;
            }
        };
        assert_eq!(ended, Some(end), "{details}");
        running.stop();
    }
}

/// A connection to a TCP target that both sides have ended was not cut.
#[test]
fn a_tunnel_that_ended_in_both_directions_is_no_cut() {
    let (gateway, target) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let url = format!("http://{}/lamp", gateway.local_addr().unwrap());
    let device = Device::builder(url)
        .links(1..=1)
        .tcp("echo", target.local_addr().unwrap().to_string())
        .build()
        .unwrap();
    let events = device.events();
    let running = device.spawn(|_| Response::new(Body::empty())).unwrap();
    let mut ends = Vec::new();
    for is_cut in [false, true] {
        let mut link = turns(&gateway);
        link.write_all(
            b"GET /echo HTTP/1.1\r\nHost: v\r\nConnection: Upgrade\r\nUpgrade: ptth-tcp/1\r\n\r\n",
        )
        .unwrap();
        assert!(head(&mut link).starts_with("HTTP/1.1 101 "));
        let (server, _) = target.accept().unwrap();
        if is_cut {
            reset(server);
        } else {
            link.shutdown(std::net::Shutdown::Write).unwrap();
            drop(server);
            assert_eq!(link.read(&mut [0; 1]).unwrap(), 0);
        }
        ends.push(loop {
            let event = events.recv_timeout(PATIENCE).unwrap();
            if event.kind == DeviceEventKind::Ended {
                break event.cause.unwrap();
            }
        });
    }
    assert_eq!(ends, [CloseCause::Tunnel, CloseCause::Cut]);
    running.stop();
}

#[test]
fn the_operators_page_explains_every_reason() {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reasons.md")).unwrap();
    let explained: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let reasons: Vec<&str> = CloseCause::ALL.iter().map(|end| end.as_str()).collect();
    assert_eq!(explained, reasons);
}

/// What operators read: one line for each link.
#[cfg(feature = "cli")]
#[test]
fn the_log_says_each_end_once() {
    use crate::support::Gateway;

    let gateway = Gateway::start(&["--heartbeat", "0s", "--wait-for-link", "100ms"]);
    let at = gateway.devices;
    let open = |session: &str| {
        let mut stream = connect(at);
        let offer = format!(
            "POST /lamp HTTP/1.1\r\nHost: gw\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nPTTH-Session: {session}\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(offer.as_bytes()).unwrap();
        head(&mut stream);
        stream
    };
    let (first, mut second) = (open(SESSIONS[0]), open(SESSIONS[0]));
    drop(first);
    gateway.process.expect_stderr("lamp: a link ended: closed: ");
    second.write_all(b"?").unwrap();
    gateway.process.expect_stderr("lamp: down: protocol-error: ");
    let log = gateway.process.stderr();
    let lines = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!((lines("ended: "), lines("down: ")), (1, 1), "{log}");
    // A request for the device fails with the same reason.
    let mut visitor = connect(gateway.visitors);
    visitor.write_all(b"GET /lamp/ HTTP/1.1\r\nHost: v\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    visitor.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 503 ")
            && answer.contains("ago (protocol-error), and it did not connect"),
        "{answer}"
    );
}
