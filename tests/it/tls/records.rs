//! Records of one byte (T56), and what TLS says for itself.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::StreamOwned;

use super::{Api, device, echo, link, named_link, post, secure_gateway};
use crate::support::pki::{self, TlsPeer};
use crate::support::process::get;
use crate::support::{Authority, DEADLINE, Hash, LocalServer, Ptth, RawPeer, SWITCH, pattern, say};

// ── fairness: records of one byte (T56) ──

/// A message in records of one byte each, as one stretch of cipher text.
fn in_small_records(conn: &mut rustls::Connection, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for byte in message {
        conn.writer().write_all(&[*byte]).unwrap();
        while conn.wants_write() {
            conn.write_tls(&mut bytes).unwrap();
        }
    }
    bytes
}

/// The longest that a visitor waited for its answer, of those who asked while `work` ran.
fn longest_wait(
    visitors: SocketAddr,
    config: Arc<rustls::ClientConfig>,
    work: impl FnOnce(),
) -> Duration {
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asks = scope.spawn(|| {
            let (mut visitor, mut longest) = (TlsPeer::connect(visitors, config), Duration::ZERO);
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let began = Instant::now();
                assert_eq!(visitor.ask(&get("/quick/x")).1, "on");
                longest = longest.max(began.elapsed());
            }
            longest
        });
        work();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        asks.join().unwrap()
    })
}

#[test]
fn records_of_one_byte_arrive_whole_and_keep_nobody_waiting() {
    const MANY: usize = 60_000;
    let (authority, local) = (Authority::new(), LocalServer::start());
    let (gateway, _) = secure_gateway(&authority, &[]);
    let _lamp = device(&authority, &gateway, "lamp", &["--to", &format!("http://{}", local.addr)]);
    let _quick = device(&authority, &gateway, "quick", &["--text", "on"]);
    let config = Arc::new(authority.client(None));
    let connect = || {
        let mut peer = TlsPeer::connect(gateway.visitors, config.clone());
        peer.ask(&get("/nobody/")); // the handshake is over
        peer
    };
    let quiet = longest_wait(gateway.visitors, config.clone(), || {
        std::thread::sleep(Duration::from_millis(300))
    });
    // A visitor's upload.
    let mut visitor = connect();
    let request = format!("POST /lamp/hash HTTP/1.1\r\nHost: a\r\nContent-Length: {MANY}\r\n\r\n");
    visitor.write(&request);
    let mut connection = rustls::Connection::Client(visitor.0.conn);
    let bytes = in_small_records(&mut connection, &pattern(MANY));
    let rustls::Connection::Client(conn) = connection else { panic!() };
    visitor = TlsPeer(StreamOwned::new(conn, visitor.0.sock));
    let upload = longest_wait(gateway.visitors, config.clone(), || {
        visitor.0.sock.write_all(&bytes).unwrap();
        let head = visitor.read_head();
        let mut hash = vec![0; head.get("content-length").unwrap().parse().unwrap()];
        visitor.0.read_exact(&mut hash).unwrap();
        assert_eq!(hash, Hash::of_pattern(MANY as u64).into_bytes());
    });
    // A device's answer.
    let mut link = named_link(&authority, &gateway, "hall");
    let mut visitor = connect();
    visitor.write(get("/hall/x"));
    link.read_head();
    link.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {MANY}\r\n\r\n"));
    let mut connection = rustls::Connection::Client(link.0.conn);
    let bytes = in_small_records(&mut connection, &pattern(MANY));
    let mut socket = link.0.sock;
    let answer = longest_wait(gateway.visitors, config.clone(), || {
        std::thread::scope(|scope| {
            scope.spawn(|| socket.write_all(&bytes).unwrap());
            assert_eq!(visitor.read_head().status(), 200);
            let mut body = vec![0; MANY];
            visitor.0.read_exact(&mut body).unwrap();
            assert!(body == pattern(MANY));
        });
    });
    say(&format!(
        "{MANY} records of one byte: another visitor waited {upload:?} beside an upload, {answer:?} beside an answer, {quiet:?} when all is quiet"
    ));
}

/// The same at a device, whose gateway asks so.
#[test]
fn a_device_reads_records_of_one_byte_to_their_end() {
    const MANY: usize = 20_000;
    let (authority, local) = (Authority::new(), LocalServer::start());
    let config = Arc::new(pki::server(&authority.server("gateway")));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}/lamp", listener.local_addr().unwrap().port());
    let to = format!("http://{}", local.addr);
    let device =
        Ptth::start(&["device", &url, "--ca", authority.ca(), "--to", &to, "--links", "1..1"]);
    let (socket, _) = listener.accept().unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut stream = StreamOwned::new(rustls::ServerConnection::new(config).unwrap(), socket);
    let read_head = |stream: &mut StreamOwned<rustls::ServerConnection, TcpStream>| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend_from_slice(&byte);
        }
        crate::support::Head::parse(&head)
    };
    read_head(&mut stream);
    stream.write_all(SWITCH).unwrap();
    assert!(device.line().starts_with("connected lamp"));
    let mut request =
        format!("POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: {MANY}\r\n\r\n").into_bytes();
    request.extend_from_slice(&pattern(MANY));
    let mut connection = rustls::Connection::Server(stream.conn);
    let bytes = in_small_records(&mut connection, &request);
    let rustls::Connection::Server(conn) = connection else { panic!() };
    let mut stream = StreamOwned::new(conn, stream.sock);
    stream.sock.write_all(&bytes).unwrap();
    let head = read_head(&mut stream);
    let mut hash = vec![0; head.get("content-length").unwrap().parse().unwrap()];
    stream.read_exact(&mut hash).unwrap();
    assert_eq!(hash, Hash::of_pattern(MANY as u64).into_bytes());
}

#[test]
fn more_handshakes_than_may_be_are_closed_at_once() {
    let mut limits = reverse_http::Limits::default();
    limits.handshakes_max = 2;
    let api = Api::new(|builder| builder.limits(limits));
    let waiting: Vec<RawPeer> =
        (0..2).map(|_| RawPeer::connect(api.gateway.devices_addr())).collect();
    let began = Instant::now();
    RawPeer::connect(api.gateway.devices_addr()).expect_closed();
    assert!(began.elapsed() < Duration::from_secs(5), "long before handshake_timeout");
    let reached = api.gateway.stats().bounds_reached;
    assert_eq!(
        (reached.of(reverse_http::Bound::Handshakes), reached.total()),
        (1, 1),
        "{reached:?}"
    );
    drop(waiting); // and with them their places
    let device = api.device("lamp").spawn(echo).unwrap();
    assert_eq!(api.ask(post(pattern(10))), (200, pattern(10)));
    device.stop();
}

#[test]
fn a_body_that_ends_with_the_connection_needs_the_end_of_tls() {
    let authority = Authority::new();
    let (gateway, _) = secure_gateway(&authority, &[]);
    for (told, whole) in [(true, true), (false, false)] {
        let mut link = link(&authority, &gateway);
        let mut visitor = TlsPeer::connect(gateway.visitors, Arc::new(authority.client(None)));
        visitor.write("GET /lamp/x HTTP/1.0\r\n\r\n");
        link.read_head();
        link.write("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf");
        visitor.read_head();
        if told {
            link.0.conn.send_close_notify();
            link.0.flush().unwrap();
        }
        drop(link); // FIN either way
        let mut body = Vec::new();
        let ended = visitor.0.read_to_end(&mut body);
        assert_eq!(
            (ended.is_ok(), body.as_slice()),
            (whole, &b"half"[..]),
            "close_notify: {told}; {ended:?}"
        );
    }
}

/// A new session's ticket, or a change of keys, is nothing that a device says.
#[test]
fn what_tls_says_for_itself_leaves_an_idle_link_alone() {
    let authority = Authority::new();
    let (gateway, _) = secure_gateway(&authority, &["--heartbeat", "0s"]);
    let mut link = link(&authority, &gateway);
    for _ in 0..5 {
        link.0.conn.refresh_traffic_keys().unwrap();
        link.0.flush().unwrap();
        let mut visitor = TlsPeer::connect(gateway.visitors, Arc::new(authority.client(None)));
        visitor.write("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        link.read_head();
        link.write("HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(visitor.read_head().status(), 204);
    }
}
