//! Early answers.

use std::sync::Arc;
#[cfg(target_os = "linux")]
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use http::Request;
use reverse_http::Body;
#[cfg(target_os = "linux")]
use reverse_http::{Gateway as LibGateway, Limits};

use super::library;
use super::{EARLY, LARGE, answers_early, link, upload};
use crate::support::pki::TlsPeer;
use crate::support::process::get;
use crate::support::{Authority, Gateway, Ptth, pattern};
#[cfg(target_os = "linux")]
use crate::support::{RawPeer, fence};

// ── Early answers ──

#[test]
fn an_early_answer_is_delivered_though_its_link_was_reset_behind_it() {
    let gateway = Gateway::start(&[]);
    let body = pattern(LARGE);
    for chunked in [false, true] {
        for n in 0..40 {
            let mut link = gateway.link("lamp");
            let device = std::thread::spawn(move || {
                link.read_head();
                link.write(EARLY);
                link.reset();
            });
            let mut visitor = gateway.visitor();
            let head = if chunked {
                format!(
                    "POST /lamp/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{LARGE:x}\r\n"
                )
            } else {
                upload("/lamp/", LARGE)
            };
            visitor.write(head);
            visitor.write(&body);
            if chunked {
                visitor.write("\r\n0\r\n\r\n");
            }
            let answer = visitor.read_answer("POST");
            assert_eq!(
                (answer.status(), answer.text().as_str()),
                (413, "too much"),
                "try {n}: {}",
                answer.head.text()
            );
            device.join().unwrap();
        }
    }
}

#[test]
fn a_local_servers_early_answer_is_delivered_over_links_and_over_polls() {
    if cfg!(not(feature = "comet")) {
        return; // some of it polls in JSON
    }
    let local = answers_early(EARLY);
    let body = pattern(LARGE / 4); // within what a device that polls may be sent
    for fallback in ["never", "only"] {
        let gateway = Gateway::start(&[]);
        let url = gateway.device_url("lamp");
        let to = format!("http://{local}");
        let device = Ptth::start(&[
            "device",
            &url,
            "--backoff",
            "10ms..200ms",
            "--to",
            &to,
            "--fallback",
            fallback,
        ]);
        device.line_like("connected");
        for n in 0..40 {
            let mut visitor = gateway.visitor();
            visitor.write(upload("/lamp/", body.len()));
            visitor.write(&body);
            let answer = visitor.read_answer("POST");
            let text = answer.text();
            assert_eq!(
                (answer.status(), text.as_str()),
                (413, "too much"),
                "{fallback}, try {n}: {}",
                answer.head.text()
            );
        }
    }
}

#[test]
fn a_handlers_early_answer_is_delivered_over_tls_too() {
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
    let url = format!("https://localhost:{}/lamp", gateway.devices.port());
    let device = Ptth::start(&[
        "device",
        &url,
        "--ca",
        authority.ca(),
        "--text",
        "x",
        "--backoff",
        "10ms..200ms",
    ]);
    device.line_like("connected");
    let client = Arc::new(authority.client(None));
    let body = pattern(LARGE / 2);
    for n in 0..20 {
        let mut visitor = TlsPeer::connect(gateway.visitors, client.clone());
        visitor.write(upload("/lamp/", body.len()));
        visitor.write(&body);
        let head = visitor.read_head();
        assert_eq!(head.status(), 200, "try {n}: {}", head.text());
    }
}

#[test]
fn a_program_gets_the_early_answer_to_its_own_upload() {
    let (gateway, _) = library(|_| ());
    for n in 0..40 {
        let mut link = link(&gateway, "lamp");
        let device = std::thread::spawn(move || {
            link.read_head();
            link.write(EARLY);
            link.reset();
        });
        let request = Request::post("/").body(Body::from(vec![7; LARGE])).unwrap();
        let mut response =
            gateway.device("lamp").send(request).unwrap_or_else(|e| panic!("try {n}: {e}"));
        assert_eq!(response.status(), 413, "try {n}");
        assert_eq!(response.body_mut().read_to_text(100).unwrap(), "too much", "try {n}");
        device.join().unwrap();
    }
}

#[test]
fn an_early_answer_that_a_reset_cut_short_is_not_taken_for_whole() {
    let gateway = Gateway::start(&[]);
    let body = pattern(LARGE);
    // With a length, in chunks, and to the end of the connection, where nothing but the reset
    // tells.
    for framing in [
        "Content-Length: 100\r\n\r\nshort",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        "\r\nshort",
    ] {
        for n in 0..10 {
            let mut link = gateway.link("lamp");
            let device = std::thread::spawn(move || {
                link.read_head();
                link.write(format!("HTTP/1.1 413 Content Too Large\r\n{framing}"));
                link.reset();
            });
            let mut visitor = gateway.visitor();
            visitor.write(upload("/lamp/", body.len()));
            let _ = visitor.try_write(&body); // it may be cut in the middle
            if let Ok(answer) = visitor.read_answer_or_cut("POST") {
                panic!("{framing:?}, try {n}: {}{}", answer.head.text(), answer.text());
            }
            device.join().unwrap();
        }
    }
}

#[test]
fn a_link_that_is_reset_without_an_answer_is_a_502_and_an_idempotent_request_without_body_is_sent_again()
 {
    let gateway = Gateway::start(&[]);
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(upload("/lamp/", LARGE));
    visitor.write(&pattern(LARGE)[..100_000]);
    link.read_head(); // a link that is reset while it idles would be none to the request
    link.reset();
    visitor.read_answer("POST").expect_refusal(502);
    let (first, mut second) = (gateway.link("lamp"), gateway.link("lamp"));
    first.reset();
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/again"));
    assert_eq!(second.read_head().target(), "/again");
    second.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    visitor.read_answer("GET").expect_ok("ok");
}

/// A visitor that stops in the middle of its upload because it has seen the answer.
#[test]
fn a_visitor_that_ends_its_upload_behind_an_early_answers_head_gets_the_rest() {
    let gateway = Gateway::start(&[]);
    let (mut link, mut visitor) = (gateway.link("lamp"), gateway.visitor());
    visitor.write(upload("/lamp/", 1000));
    visitor.write("some");
    link.read_head();
    assert_eq!(link.read_exact(4), b"some");
    link.write("HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\n\r\n");
    assert_eq!(visitor.read_head().status(), 413);
    visitor.finish_writing();
    link.expect_end(); // the device learns that no more will come
    link.write("too much");
    assert_eq!(visitor.read_to_end(), b"too much");
    // Without an answer, an upload that ends short ends its link.
    let (mut link, mut visitor) = (gateway.link("lamp"), gateway.visitor());
    visitor.write(upload("/lamp/", 1000));
    visitor.write("some");
    link.read_head();
    assert_eq!(link.read_exact(4), b"some");
    visitor.finish_writing();
    link.expect_closed();
    visitor.expect_closed();
}

/// A link, and a visitor whose upload of this size was begun: the device has read its head.
#[cfg(target_os = "linux")]
fn uploading(gateway: &LibGateway, visitors: SocketAddr, size: usize) -> (RawPeer, RawPeer) {
    let (mut link, mut visitor) = (link(gateway, "lamp"), RawPeer::connect(visitors));
    visitor.write(upload("/lamp/", size));
    link.read_head();
    // What it is answered on its way makes the gateway write to it.
    link.write("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    (link, visitor)
}

/// How many bytes of an upload are on their way behind the visitor, at most, while the device does
/// not read. It depends on the machine's buffers.
#[cfg(target_os = "linux")]
fn bytes_on_their_way(gateway: &LibGateway, visitors: SocketAddr) -> usize {
    const PIECE: usize = 4_000;
    let (_link, mut visitor) = uploading(gateway, visitors, 1 << 30);
    visitor.deadline = Duration::from_millis(300); // without a byte taken
    let taken = (0..).take_while(|_| visitor.try_write(pattern(PIECE)).is_ok()).count() * PIECE;
    taken - visitor.unacknowledged() - PIECE
}

/// Returns false if a part of it stays here.
#[cfg(target_os = "linux")]
fn is_sent_whole(visitor: &mut RawPeer, body: &[u8]) -> bool {
    const WAIT: Duration = Duration::from_millis(700);
    visitor.deadline = WAIT;
    let is_taken = visitor.try_write(body).is_ok();
    let end = Instant::now() + WAIT;
    while is_taken && visitor.unacknowledged() > 0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(2));
    }
    is_taken && visitor.unacknowledged() == 0
}

#[test]
#[cfg(target_os = "linux")]
fn an_upload_that_was_sent_whole_arrives_though_its_visitor_reset_the_connection() {
    let patient = |limits: &mut Limits| limits.abandoned_timeout = Duration::from_secs(30);
    let (gateway, visitors) = library(patient);
    let most = bytes_on_their_way(&gateway, visitors);
    // The end of the longest ones is in the socket where the gateway reads, and that of shorter
    // ones in its own buffer. Where buffers grow, they are not equally large every time.
    let close = (0..20).map(|n| most.saturating_sub(n * 8_192));
    let far = (1..8).map(|n| most - most / 8 * n);
    let tried = close.chain(far).filter(|&size| {
        let body = pattern(size);
        let (mut link, mut visitor) = uploading(&gateway, visitors, body.len());
        if !is_sent_whole(&mut visitor, &body) {
            return false; // the buffers are smaller this time
        }
        visitor.reset();
        fence(visitors);
        link.write("HTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\n");
        assert!(link.read_exact(body.len()) == body, "{size} of {most} bytes");
        // The exchange is over for nobody, and the link is saved.
        link.write("HTTP/1.1 204 No Content\r\n\r\n");
        let mut next = RawPeer::connect(visitors);
        next.write(get("/lamp/next"));
        assert_eq!(link.read_head().target(), "/next", "{size} of {most} bytes");
        link.write("HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(next.read_answer("GET").status(), 204);
        true
    });
    assert!(tried.count() >= 4);
}
