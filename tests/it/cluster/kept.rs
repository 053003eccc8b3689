//! A gateway has some of a request's body, and then does not have the device: what it got in vain
//! goes to the next one.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Request;
use reverse_http::{Body, Device, DeviceHandle, Fallback, Gateway, Limits, Peers, Routes};

use crate::support::{RawPeer, eventually};

const MISS: &str = "HTTP/1.1 404 Not Found\r\nPTTH-Peer-Served: 1\r\nPTTH-Peer-Miss: unknown\r\nContent-Length: 0\r\n\r\n";

fn closing() -> String {
    MISS.replace("Content", "Connection: close\r\nContent")
}

/// It had the device, and expects it back.
fn away() -> String {
    closing().replace("unknown", "away")
}

/// A gateway that asks one in the hands of the test, until its directory says otherwise.
struct Scene {
    gateway: Gateway,
    visitors: SocketAddr,
    lost: TcpListener,
    directory: Arc<Mutex<String>>,
}

impl Scene {
    fn new(limits: Limits) -> Scene {
        let lost = TcpListener::bind("127.0.0.1:0").unwrap();
        lost.set_nonblocking(true).unwrap();
        let directory = Arc::new(Mutex::new(format!("http://{}", lost.local_addr().unwrap())));
        let says = directory.clone();
        let peers = Peers::found_by(move |_| Ok(Some(says.lock().unwrap().clone())));
        let gateway = crate::support::gateway().loops(1).limits(limits).peers(peers);
        let gateway = gateway.listen("127.0.0.1:0").start().unwrap();
        let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
        Scene { gateway, visitors, lost, directory }
    }

    /// The next request to the gateway in the hands of the test, whose head was read.
    fn hop(&self) -> RawPeer {
        let (socket, _) = eventually("a hop", || self.lost.accept().ok());
        let mut hop = RawPeer::adopt(socket, "a hop");
        hop.read_head();
        hop
    }

    /// A visitor's request whose first part the gateway in the hands of the test has read, as it
    /// was `sent` to it.
    fn sent(&self, first: &str, sent: &str) -> (RawPeer, RawPeer) {
        let mut visitor = RawPeer::connect(self.visitors);
        visitor.write(first);
        let mut hop = self.hop();
        assert_eq!(String::from_utf8(hop.read_exact(sent.len())).unwrap(), sent);
        (visitor, hop)
    }
}

/// A device that says what came.
fn device(gateway: &Gateway, fallback: Fallback) -> DeviceHandle {
    let url = format!("http://{}/lamp", gateway.devices_addr());
    let device = Device::builder(url).fallback(fallback).build().unwrap();
    let device = device.spawn(|request: Request<Body>| {
        let (parts, mut body) = request.into_parts();
        let text = body.read_to_text(1 << 20).unwrap();
        let trailer = body.trailers().and_then(|all| all.get("x-sum").cloned());
        let trailer = trailer.as_ref().map_or("", |sum| sum.to_str().unwrap());
        format!("{} {text} {trailer}", parts.method)
    });
    let device = device.unwrap();
    gateway.device("lamp").wait_connected(Duration::from_secs(20)).unwrap();
    device
}

const LENGTH: &str = "POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n";
const CHUNKED: &str =
    "POST /lamp/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n";

/// Head and first part, as it goes on, the rest, and what the device says then.
fn requests() -> Vec<(String, &'static str, &'static str, &'static str)> {
    vec![
        (format!("{LENGTH}hello world"), "hello world", "", "POST hello world "),
        (format!("{LENGTH}hello"), "hello", " world", "POST hello world "),
        (LENGTH.replace("POST", "PUT") + "hel", "hel", "lo world", "PUT hello world "),
        (
            format!("{CHUNKED}2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\nX-Sum: 5\r\n\r\n"),
            "2\r\nhe\r\n3\r\nllo\r\n0\r\nX-Sum: 5\r\n\r\n",
            "",
            "POST hello 5",
        ),
        (
            format!("{CHUNKED}2\r\nhe\r\n3\r\nl"),
            "2\r\nhe\r\n1\r\nl\r\n",
            "lo\r\n0\r\nX-Sum: 5\r\n\r\n",
            "POST hello 5",
        ),
        (format!("{CHUNKED}0\r\n\r\n"), "0\r\n\r\n", "", "POST  "),
    ]
}

#[test]
fn a_body_that_a_gateway_got_in_vain_goes_to_a_device_that_came_here() {
    for fallback in [Fallback::Never, Fallback::Only] {
        for (first, sent, rest, says) in requests() {
            let scene = Scene::new(Limits::default());
            let (mut visitor, mut hop) = scene.sent(&first, sent);
            let _device = device(&scene.gateway, fallback);
            hop.write(MISS);
            visitor.write(rest);
            visitor.read_answer("POST").expect_ok(says);
        }
    }
}

#[test]
fn a_body_that_a_gateway_got_in_vain_goes_to_another_one() {
    let second = crate::support::gateway().peers(Peers::found_by(|_| Ok(None)));
    let second = second.listen("127.0.0.1:0").start().unwrap();
    let url = format!("http://{}", second.listen_peers("127.0.0.1:0").unwrap());
    let _device = device(&second, Fallback::Auto);
    for (first, sent, rest, says) in requests() {
        let scene = Scene::new(Limits::default());
        let (mut visitor, mut hop) = scene.sent(&first, sent);
        *scene.directory.lock().unwrap() = url.clone();
        // It closes, too, with part of the body unread, as one that stops may.
        hop.write(closing());
        drop(hop);
        visitor.write(rest);
        visitor.read_answer("POST").expect_ok(says);
    }
}

#[test]
fn a_body_goes_from_gateway_to_gateway_until_one_has_the_device() {
    let scene = Scene::new(Limits::default());
    let (mut visitor, mut hop) = scene.sent(&format!("{LENGTH}hello"), "hello");
    for _ in 0..2 {
        hop.write(away());
        hop = scene.hop();
        assert_eq!(hop.read_exact(5), b"hello");
    }
    let _device = device(&scene.gateway, Fallback::Never);
    hop.write(away());
    visitor.write(" world");
    visitor.read_answer("POST").expect_ok("POST hello world ");
}

#[test]
fn of_a_long_body_nothing_is_kept_and_of_none_what_others_need() {
    let long = "x".repeat(64 * 1024);
    let head = |length: usize| {
        format!("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
    };
    let mut small = Limits::default();
    (small.message_bytes_max, small.messages_bytes_max) = (100 * 1024, 100 * 1024);
    for (limits, sent, length, status) in [
        (Limits::default(), &long[..], long.len(), 200),
        (Limits::default(), &long[..5], long.len() + 1, 503),
        (small.clone(), &long[..1024], long.len(), 200),
        (small, &long[..], long.len(), 503),
    ] {
        let scene = Scene::new(limits);
        let (mut visitor, mut hop) = scene.sent(&(head(length) + sent), sent);
        let _device = device(&scene.gateway, Fallback::Never);
        hop.write(MISS);
        visitor.write(&long[sent.len()..]);
        visitor.write("x".repeat(length.saturating_sub(long.len())));
        let answer = visitor.read_answer("POST");
        assert_eq!(answer.status(), status, "{length}: {}", answer.text());
        assert!(status == 200 || answer.text().contains("64 KiB"), "{}", answer.text());
    }
}

/// It may have carried the request out.
#[test]
fn a_gateway_that_is_gone_without_a_word_is_asked_once_more_for_what_is_idempotent_alone() {
    for (method, status) in [("POST", 502), ("PUT", 200)] {
        let scene = Scene::new(Limits::default());
        let first = LENGTH.replace("POST", method) + "hello";
        let (mut visitor, hop) = scene.sent(&first, "hello");
        let _device = device(&scene.gateway, Fallback::Never);
        drop(hop);
        visitor.write(" world");
        let answer = visitor.read_answer(method);
        assert_eq!(answer.status(), status, "{}", answer.text());
    }
}
