//! Tunnels, and handlers behind a 101.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderValue;
use reverse_http::{Device, DeviceHandle, Limits, upgrade};

use crate::relay::upgrades::tunnel;
use crate::support::pki::TlsPeer;
use crate::support::{Authority, DEADLINE, Gateway, Ptth, RawGateway, RawPeer, eventually, slack};

// ── Tunnels ──

#[test]
fn after_a_half_close_a_quiet_tunnel_has_its_time_from_there() {
    let gateway = Gateway::start(&["--body-silence", "1s"]);
    let (mut visitor, mut device) = tunnel(&gateway);
    visitor.expect_quiet(Duration::from_millis(1300));
    visitor.finish_writing();
    device.expect_end();
    visitor.expect_quiet(Duration::from_millis(300));
    device.write("the last word");
    assert_eq!(visitor.read_exact(13), b"the last word");
    // And no longer.
    let began = Instant::now();
    visitor.expect_no_more();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(1) + slack(), "{took:?}");
}

#[test]
fn a_tunnel_that_one_side_resets_is_reset_on_the_other() {
    let gateway = Gateway::start(&[]);
    let (visitor, mut device) = tunnel(&gateway);
    visitor.reset();
    assert_eq!(device.read_to_any_end(), (Vec::new(), true));
    let (mut visitor, device) = tunnel(&gateway);
    device.reset();
    assert_eq!(visitor.read_to_any_end(), (Vec::new(), true));
    // A clean end is one, on both sides.
    let (mut visitor, device) = tunnel(&gateway);
    drop(device);
    visitor.expect_end();
    // What the gateway cuts itself is no end either.
    let gateway = Gateway::start(&["--tunnel-silence", "300ms"]);
    let (mut visitor, mut device) = tunnel(&gateway);
    assert!(visitor.read_to_any_end().1 && device.read_to_any_end().1);
}

#[test]
fn through_a_forwarder_and_over_tls_a_reset_is_no_clean_end() {
    let authority = Authority::new();
    let pair = authority.server("gateway");
    let files = [
        "--devices-cert",
        pair.certificate(),
        "--devices-key",
        pair.key(),
        "--visitors-cert",
        pair.certificate(),
    ];
    let gateway = Gateway::start(&[&files[..], &["--visitors-key", pair.key()]].concat());
    let local = RawGateway::start(); // a listener
    let url = format!("https://localhost:{}/chat", gateway.devices.port());
    let to = format!("http://{}", local.addr);
    let device = Ptth::start(&[
        "device",
        &url,
        "--ca",
        authority.ca(),
        "--to",
        &to,
        "--backoff",
        "10ms..200ms",
    ]);
    device.line_like("connected");
    let client = Arc::new(authority.client(None));
    let opened = || {
        let mut visitor = TlsPeer::connect(gateway.visitors, client.clone());
        visitor.write(
            "GET /chat/x HTTP/1.1\r\nHost: a\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n",
        );
        let (mut server, _) = local.offer();
        server.write(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n",
        );
        assert_eq!(visitor.read_head().status(), 101);
        (visitor, server)
    };
    let (mut visitor, server) = opened();
    server.reset();
    let end = visitor.0.read(&mut [0; 10]);
    assert!(
        end.as_ref().is_err_and(|e| matches!(
            e.kind(),
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
        )),
        "{end:?}"
    );
    let (visitor, mut server) = opened();
    RawPeer::adopt(visitor.0.sock.try_clone().unwrap(), "visitor").reset();
    drop(visitor);
    assert_eq!(server.read_to_any_end(), (Vec::new(), true));
    let (mut visitor, server) = opened();
    drop(server);
    assert_eq!(visitor.0.read(&mut [0; 10]).unwrap(), 0, "a clean end is told by close_notify");
}

/// As after a WebSocket's close frame: the side that ends a tunnel says so, and does not wait for what
/// the other side is still writing.
#[test]
fn the_last_word_of_a_tunnel_arrives_though_the_other_side_was_still_writing() {
    let gateway = Gateway::start(&[]);
    for n in 0..20 {
        let (mut visitor, mut device) = tunnel(&gateway);
        visitor.write(vec![b'x'; 100_000]);
        device.write("goodbye");
        if n % 2 == 0 {
            device.finish_writing();
            drop(device);
        } else {
            device.reset();
        }
        let _ = visitor.try_write(vec![b'x'; 1_000_000]); // it may be cut in the middle
        let (last, _) = visitor.read_to_any_end();
        assert_eq!(String::from_utf8_lossy(&last), "goodbye", "try {n}");
    }
}

#[test]
fn a_tunnel_that_its_device_ended_does_not_hold_a_drain() {
    let mut gateway = Gateway::start(&["--drain-timeout", "60s"]);
    let (mut visitor, device) = tunnel(&gateway);
    drop(device);
    visitor.expect_end();
    let (mut other, late) = tunnel(&gateway); // ended during the drain
    let began = Instant::now();
    gateway.process.signal("TERM");
    gateway.process.expect_stderr("stopping");
    drop(late);
    other.expect_end();
    assert_eq!(
        gateway
            .process
            .exit_code_within(Limits::default().abandoned_timeout * 2 + Duration::from_secs(2)),
        0
    );
    eprintln!("it stopped {:?} after its signal", began.elapsed());
}

// ── Handlers after a 101 ──

/// A device whose handler waits for the end of a tunnel, says `bye` when it is to be cut, and
/// leaves; or panics where it is told to.
fn chatting(gateway: &Gateway) -> DeviceHandle {
    let url = gateway.device_url("lamp");
    let device = Device::builder(url)
        .backoff(Duration::from_millis(5)..Duration::from_millis(50))
        .build()
        .unwrap();
    device
        .spawn(|request| {
            let panics = request.uri().path() == "/panics";
            let aborts = request.uri().path() == "/aborts";
            upgrade(HeaderValue::from_static("chat"), move |mut stream| {
                let (stopping, mut writer) = (stream.stopping(), stream.writer());
                let waiter = std::thread::spawn(move || {
                    let stops = stopping.wait();
                    if stops {
                        let _ = writer.write_all(b"bye"); // the test looks
                    }
                    stops
                });
                let ended = stream.read(&mut [0; 10]);
                match () {
                    () if panics => panic!("as it was asked to"),
                    () if aborts => stream.abort(),
                    () => drop((stream, ended)),
                }
                let _ = waiter.join();
            })
        })
        .unwrap()
}

#[track_caller]
fn chat(gateway: &Gateway, target: &str) -> RawPeer {
    eventually("the device is there", || (gateway.get("/lamp/").status() == 500).then_some(()));
    let mut visitor = gateway.visitor();
    visitor.write(format!(
        "GET /lamp{target} HTTP/1.1\r\nHost: a\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n"
    ));
    assert_eq!(visitor.read_head().status(), 101);
    visitor
}

#[test]
fn a_handler_that_holds_a_tunnel_learns_that_its_device_stops() {
    let gateway = Gateway::start(&["--wait-for-link", "10s"]);
    let device = chatting(&gateway);
    let mut visitor = chat(&gateway, "/");
    let began = Instant::now();
    let stops = std::thread::spawn(move || device.drain(Duration::from_secs(60)));
    assert_eq!(visitor.read_exact(3), b"bye");
    visitor.finish_writing();
    visitor.expect_end();
    stops.join().unwrap();
    eprintln!("it stopped within {:?}", began.elapsed());
    assert!(began.elapsed() < DEADLINE);
}

#[test]
fn a_handler_that_holds_a_tunnel_learns_that_its_gateway_stops() {
    let mut gateway = Gateway::start(&["--wait-for-link", "10s", "--drain-timeout", "60s"]);
    let _device = chatting(&gateway);
    let mut visitor = chat(&gateway, "/");
    gateway.process.signal("TERM");
    assert_eq!(visitor.read_exact(3), b"bye");
    visitor.finish_writing();
    visitor.expect_end();
    drop(visitor);
    assert_eq!(gateway.process.exit_code(), 0);
}

#[test]
fn a_handler_that_panics_or_aborts_resets_its_tunnel_and_one_that_leaves_ends_it() {
    let gateway = Gateway::start(&["--wait-for-link", "10s"]);
    let _device = chatting(&gateway);
    for (target, reset) in [("/panics", true), ("/aborts", true), ("/", false)] {
        let mut visitor = chat(&gateway, target);
        visitor.write("x");
        assert_eq!(visitor.read_to_any_end(), (Vec::new(), reset), "{target}");
    }
}
