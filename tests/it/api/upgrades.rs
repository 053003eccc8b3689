//! A gateway's program switches a link to another protocol: through `send()`, and on a link of its
//! own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{self, Read, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use http::{Request, Response, StatusCode, header};
use reverse_http::{
    Body, Cancel, CloseCause, Device, DeviceHandle, ErrorKind, Fallback, Gateway, GatewayEventKind,
    Limits, Upgraded, upgrade,
};
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

use crate::support::DEADLINE;

fn gateway() -> Gateway {
    crate::support::gateway().listen("127.0.0.1:0").start().unwrap()
}

fn device(
    gateway: &Gateway,
    fallback: Fallback,
    handler: impl Fn(Request<Body>) -> Response<Body> + Send + Sync + 'static,
) -> DeviceHandle {
    let handle = Device::builder(format!("http://{}/lamp", gateway.devices_addr()))
        .links(1..=2)
        .fallback(fallback)
        .backoff(Duration::from_millis(5)..Duration::from_millis(50))
        .build()
        .unwrap()
        .spawn(handler)
        .unwrap();
    gateway.device("lamp").wait_connected(DEADLINE).unwrap();
    handle
}

fn offer(protocol: &'static str) -> Request<Body> {
    Request::get("/").header(header::UPGRADE, protocol).body(Body::empty()).unwrap()
}

/// Says hello at once, then what it hears; other requests are answered plainly.
fn lines(request: Request<Body>) -> Response<Body> {
    if request.headers().get(header::UPGRADE).is_none_or(|protocol| protocol != "lines") {
        return Response::new(Body::from("plain"));
    }
    upgrade("lines", |mut stream| {
        let mut writer = stream.writer();
        writer.write_all(b"hello\n").unwrap();
        let _ = io::copy(&mut stream, &mut writer);
    })
}

#[test]
fn a_program_opens_a_web_socket_to_a_device() {
    let gateway = gateway();
    let device = device(&gateway, Fallback::Never, |request| {
        let Some(key) = request.headers().get("sec-websocket-key") else {
            return Response::new(Body::from("plain"));
        };
        let accept = derive_accept_key(key.as_bytes());
        let mut response = upgrade("websocket", |stream| {
            let mut socket = WebSocket::from_raw_socket(stream, Role::Server, None);
            while let Ok(message) = socket.read() {
                if message.is_text() && socket.send(message).is_err() {
                    break;
                }
            }
        });
        response.headers_mut().insert("sec-websocket-accept", accept.parse().unwrap());
        response
    });
    let lamp = gateway.device("lamp");
    let key = generate_key();
    for round in 0..2 {
        let request = Request::get("/")
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", &key)
            .body(Body::empty())
            .unwrap();
        let mut response = lamp.send(request).unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        let accept = response.headers()["sec-websocket-accept"].to_str().unwrap();
        assert_eq!(accept, derive_accept_key(key.as_bytes()));
        let stream = Upgraded::from_response(&mut response).unwrap();
        assert!(Upgraded::from_response(&mut response).is_none(), "there is one");
        let mut socket = WebSocket::from_raw_socket(stream, Role::Client, None);
        for n in 0..100 {
            let text = format!("{round} {n} {}", "x".repeat(n * 100));
            socket.send(Message::text(text.clone())).unwrap();
            assert_eq!(socket.read().unwrap(), Message::text(text));
        }
        socket.close(None).unwrap();
        while socket.read().is_ok() {}
    }
    let plain = Request::get("/").body(Body::empty()).unwrap();
    let mut response = lamp.send(plain).unwrap();
    assert_eq!(response.body_mut().read_to_text(10).unwrap(), "plain");
    device.stop();
}

#[test]
fn what_comes_right_behind_the_101_is_read_and_the_end_has_its_reason() {
    let gateway = gateway();
    let events = gateway.events();
    let device = device(&gateway, Fallback::Never, lines);
    let lamp = gateway.device("lamp").timeout(Duration::from_secs(60));
    let mut response = lamp.send(offer("h2c, lines")).unwrap();
    assert_eq!(response.headers()[header::UPGRADE], "lines");
    let mut stream = Upgraded::from_response(&mut response).unwrap();
    let mut hello = [0; 6];
    stream.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello\n");
    stream.write_all(b"echo").unwrap();
    stream.read_exact(&mut hello[..4]).unwrap();
    assert_eq!(&hello[..4], b"echo");
    assert_eq!(gateway.devices().unwrap()[0].busy, 1, "it is a busy link");
    drop(stream);
    let ended = events.iter().find(|event| event.kind == GatewayEventKind::Ended).unwrap();
    assert_eq!(ended.cause, Some(CloseCause::Tunnel), "{ended:?}");
    device.stop();
}

#[test]
fn where_the_device_does_not_switch_the_link_is_used_again() {
    let gateway = gateway();
    let device = device(&gateway, Fallback::Never, lines);
    let (lamp, events) = (gateway.device("lamp"), gateway.events());
    // Not its protocol; one that never passes; an offer with a body, which does not count.
    let with_body = offer("lines").map(|_| Body::from("body"));
    for request in [offer("other"), offer("h2c"), with_body] {
        let mut response = lamp.send(request).unwrap();
        assert!(Upgraded::from_response(&mut response).is_none());
        assert_eq!(response.body_mut().read_to_text(10).unwrap(), "plain");
    }
    assert!(events.try_iter().all(|event| event.kind != GatewayEventKind::Ended));
    device.stop();
}

#[test]
fn a_device_that_polls_is_never_offered_one() {
    let gateway = gateway();
    let device = device(&gateway, Fallback::Only, lines);
    let error = gateway.device("lamp").send(offer("lines")).unwrap_err();
    assert_eq!((error.kind(), error.status_hint()), (ErrorKind::Refused, Some(501)), "{error:?}");
    device.stop();
}

#[test]
fn a_drain_is_told_and_what_does_not_end_is_cut() {
    let gateway = gateway();
    let device = device(&gateway, Fallback::Never, lines);
    let open = || {
        let mut response = gateway.device("lamp").send(offer("lines")).unwrap();
        Upgraded::from_response(&mut response).unwrap()
    };
    let (polite, mut stubborn) = (open(), open());
    assert!(!polite.stopping().is_stopping());
    let (ended, ends) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            assert!(polite.stopping().wait(), "it is told");
            drop(polite);
            ended.send(()).unwrap();
        });
        scope.spawn(|| {
            let mut all = Vec::new();
            let _ = stubborn.read_to_end(&mut all); // until it is cut
            assert_eq!(all, b"hello\n");
        });
        gateway.drain(Duration::from_millis(500));
    });
    ends.try_recv().expect("the drain waited for it");
    device.stop();
}

#[test]
fn a_cancellation_ends_it() {
    let gateway = gateway();
    let device = device(&gateway, Fallback::Never, lines);
    let cancel = Cancel::new();
    let lamp = gateway.device("lamp").cancel_with(&cancel);
    let mut stream = Upgraded::from_response(&mut lamp.send(offer("lines")).unwrap()).unwrap();
    let reader = thread::spawn(move || {
        let read = io::copy(&mut stream, &mut io::sink());
        (read, stream.read(&mut [0]))
    });
    cancel.cancel();
    let (read, again) = reader.join().unwrap();
    assert_eq!(ours(&read.unwrap_err()), ErrorKind::Cancelled, "no end of the device's");
    assert!(again.is_err());
    device.stop();
}

/// Our error inside of the system's.
fn ours(error: &io::Error) -> ErrorKind {
    error.get_ref().unwrap().downcast_ref::<reverse_http::Error>().unwrap().kind()
}

#[test]
fn its_end_ends_its_writers() {
    let gateway = gateway();
    let (tell, told) = mpsc::channel();
    let device = device(&gateway, Fallback::Never, move |_| {
        let tell = tell.clone();
        upgrade("lines", move |mut stream| {
            let read = io::copy(&mut stream, &mut io::sink());
            tell.send(read.map_err(|e| e.kind())).unwrap();
        })
    });
    let lamp = gateway.device("lamp");
    let open = || Upgraded::from_response(&mut lamp.send(offer("lines")).unwrap()).unwrap();
    let (stream, gone) = (open(), open());
    let (mut writer, mut of_gone) = (stream.writer(), gone.writer());
    writer.write_all(b"hello").unwrap();
    drop(stream);
    assert_eq!(told.recv_timeout(DEADLINE), Ok(Ok(5)), "the writer keeps no connection");
    assert_eq!(writer.write(b"late").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    gone.abort();
    assert_eq!(told.recv_timeout(DEADLINE), Ok(Err(io::ErrorKind::ConnectionReset)));
    assert_eq!(of_gone.write(b"late").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    // A thread that is blocked in a write is woken.
    let stream = open();
    let mut writer = stream.writer();
    let blocked = thread::spawn(move || io::copy(&mut io::repeat(1).take(1 << 40), &mut writer));
    drop(stream);
    assert!(blocked.join().unwrap().is_err());
    device.stop();
}

#[test]
fn a_gateway_that_stops_is_no_end_of_the_devices() {
    let gateway = gateway();
    let device = device(&gateway, Fallback::Never, lines);
    let lamp = gateway.device("lamp");
    let mut stream = Upgraded::from_response(&mut lamp.send(offer("lines")).unwrap()).unwrap();
    let reader = thread::spawn(move || io::copy(&mut stream, &mut io::sink()));
    gateway.stop();
    assert_eq!(ours(&reader.join().unwrap().unwrap_err()), ErrorKind::Stopped);
    device.stop();
}

#[test]
fn a_link_of_a_programs_own_is_taken_apart_behind_the_101() {
    let (tell, told) = mpsc::channel();
    let gateway = crate::support::gateway()
        .listen("127.0.0.1:0")
        .limits(Limits::default())
        .on_link(move |mut link| {
            let response = link.ask(offer("lines")).unwrap();
            assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
            assert!(!link.is_reusable());
            assert!(link.ask(offer("lines")).is_err());
            let (mut stream, unread) = link.into_parts();
            let mut all = unread;
            while all.len() < 6 {
                let mut buf = [0; 6];
                let n = stream.read(&mut buf).unwrap();
                assert!(n > 0);
                all.extend_from_slice(&buf[..n]);
            }
            let _ = tell.send(all);
        })
        .start()
        .unwrap();
    let device = Device::builder(format!("http://{}/lamp", gateway.devices_addr()))
        .build()
        .unwrap()
        .spawn(lines)
        .unwrap();
    assert_eq!(told.recv_timeout(DEADLINE).unwrap(), b"hello\n");
    device.stop();
}

#[test]
fn a_protocol_that_no_field_can_hold_is_answered_500() {
    let gateway = gateway();
    let device = device(&gateway, Fallback::Never, |request| {
        let protocol = if request.uri().path() == "/wrong" { "two\nlines" } else { "lines" };
        upgrade(protocol, drop)
    });
    let lamp = gateway.device("lamp");
    let mut wrong = offer("lines");
    *wrong.uri_mut() = "/wrong".parse().unwrap();
    assert_eq!(lamp.send(wrong).unwrap().status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(lamp.send(offer("lines")).unwrap().status(), StatusCode::SWITCHING_PROTOCOLS);
    device.stop();
}
