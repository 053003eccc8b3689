//! Resumed sessions, renewed certificates, hostile peers.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{HandshakeKind, StreamOwned};

use super::{VERSIONS, device, secure_gateway};
use crate::support::pki::{self, NOW, TlsPeer};
use crate::support::process::get;
use crate::support::{Authority, DEADLINE, Hash, LocalServer, Ptth, RawPeer, SWITCH, eventually};

// ── sessions ──

#[test]
fn sessions_are_resumed_in_both_versions() {
    let authority = Authority::new();
    let (gateway, _) = secure_gateway(&authority, &[]);
    for version in VERSIONS {
        let config = Arc::new(authority.client_of(version));
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let mut visitor = TlsPeer::connect(gateway.visitors, config.clone());
            visitor.ask(&get("/nobody/"));
            assert_eq!(visitor.0.conn.handshake_kind(), Some(kind), "{version:?}");
        }
    }
}

/// A whole offer, to which nothing was said after the first flight: a round trip for the handshake,
/// and one for what the offer is answered.
fn offered_in_the_second_flight(socket: &mut TcpStream, tls: &mut rustls::ServerConnection) {
    let (mut flights, mut offer) = (0, Vec::new());
    while !offer.ends_with(b"\r\n\r\n") {
        assert!(tls.read_tls(socket).unwrap() > 0, "the device closed the connection");
        tls.process_new_packets().unwrap();
        if flights == 0 && tls.wants_write() {
            while tls.wants_write() {
                tls.write_tls(socket).unwrap();
            }
            flights = 1; // and not its tickets, which come after the client's end of the handshake
        }
        match tls.reader().read_to_end(&mut offer) {
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
            Ok(_) => panic!("the device ended its session"),
        }
    }
    assert!(offer.starts_with(b"POST /lamp "), "{}", String::from_utf8_lossy(&offer));
}

#[test]
fn further_links_resume_the_first_ones_session_and_cost_two_round_trips() {
    let authority = Authority::new();
    let config = Arc::new(pki::server(&authority.server("gateway")));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}/lamp", listener.local_addr().unwrap().port());
    let arguments = ["device", &url, "--ca", authority.ca(), "--text", "hi", "--links", "1..3"];
    let _device = Ptth::start(&arguments);
    let accept = || {
        let (socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        (socket, rustls::ServerConnection::new(config.clone()).unwrap())
    };
    let (mut socket, mut tls) = accept();
    offered_in_the_second_flight(&mut socket, &mut tls);
    assert_eq!(tls.handshake_kind(), Some(HandshakeKind::Full));
    let mut first = StreamOwned::new(tls, socket);
    first.write_all(SWITCH).unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nPTTH-Waiting: 2\r\n\r\n").unwrap();
    for _ in 0..2 {
        let (mut socket, mut tls) = accept();
        offered_in_the_second_flight(&mut socket, &mut tls);
        assert_eq!(tls.handshake_kind(), Some(HandshakeKind::Resumed));
    }
}

#[test]
fn a_device_resumes_its_session() {
    let authority = Authority::new();
    let config = Arc::new(pki::server(&authority.server("gateway")));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}/lamp", listener.local_addr().unwrap().port());
    let device = Ptth::start(&[
        "device",
        &url,
        "--ca",
        authority.ca(),
        "--text",
        "hi",
        "--backoff",
        "1ms..5ms",
        "--links",
        "1..1",
    ]);
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let (socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut stream =
            StreamOwned::new(rustls::ServerConnection::new(config.clone()).unwrap(), socket);
        let mut offered = Vec::new();
        while !offered.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            offered.extend_from_slice(&byte);
        }
        assert_eq!((stream.conn.handshake_kind(), stream.conn.alpn_protocol()), (Some(kind), None));
        stream
            .write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    }
    drop(device);
}

#[test]
fn new_certificates_count_from_the_next_handshake_on() {
    let authority = Authority::new();
    let (gateway, pair) = secure_gateway(&authority, &[]);
    let device = device(&authority, &gateway, "lamp", &["--text", "hi"]);
    let config = Arc::new(authority.client(None));
    let shown = |peer: &TlsPeer| peer.0.conn.peer_certificates().unwrap()[0].to_vec();
    let mut old = TlsPeer::connect(gateway.visitors, config.clone());
    assert_eq!(old.ask(&get("/lamp/")).1, "hi");
    let before = shown(&old);
    authority.issue("gateway", &["127.0.0.1", "localhost"], NOW);
    gateway.process.signal("HUP");
    gateway.process.expect_stderr("the certificates for visitors were read again");
    let mut new = TlsPeer::connect(gateway.visitors, config.clone());
    assert_eq!(new.ask(&get("/lamp/")).1, "hi");
    assert_ne!(shown(&new), before, "and no session of before is resumed");
    assert_eq!(old.ask(&get("/lamp/")).1, "hi", "what is connected stays");
    // Files that cannot be read leave it as it was.
    std::fs::write(&pair.key, "").unwrap();
    gateway.process.signal("HUP");
    gateway.process.expect_stderr("the certificates for visitors stay as they were");
    let mut again = TlsPeer::connect(gateway.visitors, config);
    assert_eq!((again.ask(&get("/lamp/")).1.as_str(), shown(&again)), ("hi", shown(&new)));
    assert!(device.line_within(Duration::from_millis(50)).is_none(), "the device kept its link");
}

// ── hostile peers ──

#[test]
fn what_is_not_tls_ends_alone() {
    let authority = Authority::new();
    let (gateway, _) = secure_gateway(&authority, &["--handshake", "1s"]);
    let hello = {
        let mut client = rustls::ClientConnection::new(
            Arc::new(authority.client(None)),
            "localhost".try_into().unwrap(),
        )
        .unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    };
    let pieces: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("half a hello", hello[..hello.len() / 2].to_vec()),
        ("garbage", (0..=255).cycle().take(4096).collect()),
        ("an oversized record", [&[22, 3, 1, 0xff, 0xff][..], &[0; 70_000]].concat()),
        ("an empty record", vec![22, 3, 1, 0, 0]),
        ("many empty records", [22, 3, 1, 0, 0].repeat(5_000)),
        ("an alert", vec![21, 3, 3, 0, 2, 2, 40]),
        ("many warnings", [21, 3, 3, 0, 2, 1, 90].repeat(5_000)),
        ("application data at once", [&[23, 3, 3, 0, 32][..], &[7; 32]].concat()),
        ("a hello, then garbage", [&hello[..], &[0xff; 3_000]].concat()),
        ("a hello, twice", hello.repeat(2)),
        (
            "a long handshake message",
            [
                &[22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..],
                &[1; 16_380],
                &[22, 3, 1, 0x40, 0],
                &[1; 16_384],
            ]
            .concat(),
        ),
    ];
    for port in [gateway.visitors, gateway.devices] {
        for (what, bytes) in &pieces {
            for waits in [false, true] {
                let mut peer = RawPeer::connect(port);
                peer.who = format!("{what}, waits: {waits}");
                let _ = peer.try_write(bytes); // it may be closed in the middle of it
                if !waits {
                    peer.finish_writing();
                }
                peer.read_to_any_end();
            }
        }
        let mut plain = RawPeer::connect(port);
        let answer = plain.ask(&get("/lamp/"));
        answer.expect_refusal(400);
        assert!(answer.text().contains("https://"), "{}", answer.text());
    }
    gateway.process.expect_stderr("plain HTTP");
    let (head, _) =
        TlsPeer::connect(gateway.visitors, Arc::new(authority.client(None))).ask(&get("/nobody/"));
    assert_eq!(head.status(), 404);
    assert!(!gateway.process.stderr().contains("panic"), "{}", gateway.process.stderr());
}

/// Balancers and monitors look so whether a port is open.
#[test]
fn who_connects_and_closes_is_no_line_of_the_log() {
    let authority = Authority::new();
    let (gateway, _) = secure_gateway(&authority, &[]);
    for port in [gateway.visitors, gateway.devices] {
        let mut peer = RawPeer::connect(port);
        peer.finish_writing();
        peer.expect_closed();
        let mut garbage = RawPeer::connect(port);
        garbage.write([0; 10]);
        garbage.read_to_any_end();
    }
    eventually("both that said something are told", || {
        (gateway.process.stderr().matches("the TLS handshake with").count() == 2).then_some(())
    });
    assert!(!gateway.process.stderr().contains("without a byte"), "{}", gateway.process.stderr());
}

/// A whole record of a request, and a little, in one segment with the end of the handshake.
#[test]
fn much_that_comes_behind_a_handshake_is_read_when_its_turn_comes() {
    let (authority, local) = (Authority::new(), LocalServer::start());
    let (gateway, _) = secure_gateway(&authority, &[]);
    let _device =
        device(&authority, &gateway, "lamp", &["--to", &format!("http://{}", local.addr)]);
    for version in VERSIONS {
        let mut visitor =
            TlsPeer::connect(gateway.visitors, Arc::new(authority.client_of(version)));
        let StreamOwned { conn, sock } = &mut visitor.0;
        while conn.is_handshaking() {
            while conn.wants_write() && conn.is_handshaking() {
                conn.write_tls(sock).unwrap();
            }
            if conn.is_handshaking() {
                conn.read_tls(sock).unwrap();
                conn.process_new_packets().unwrap();
            }
        }
        let body = "x".repeat(16_500);
        let request = format!(
            "POST /lamp/hash HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        conn.set_buffer_limit(None);
        conn.writer().write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        while conn.wants_write() {
            conn.write_tls(&mut bytes).unwrap();
        }
        sock.write_all(&bytes).unwrap();
        let head = visitor.read_head();
        let mut hash = vec![0; head.get("content-length").unwrap().parse().unwrap()];
        visitor.0.read_exact(&mut hash).unwrap();
        assert_eq!(
            (head.status(), hash),
            (200, Hash::of(body.as_bytes()).into_bytes()),
            "{version:?}"
        );
    }
}
