//! Answers that stream.

use std::time::{Duration, Instant};

use super::Kind::Text;
use super::{Device, asks, chunk, fence, in_hand, ok, post, streamed};
use crate::support::process::get;
use crate::support::{DEADLINE, Gateway, Hash, RawPeer, pattern};

#[test]
fn an_answer_in_message_http_streams() {
    let gateway = Gateway::start(&[]);
    let mut device = Device::polling(&gateway, "lamp", Text);
    // Inner length, outer chunks.
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    device.peer.write(streamed(&device, &event));
    device.peer.write(chunk("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nConte"));
    device.peer.write(chunk("nt-Length: 10\r\n\r\n01234"));
    let head = visitor.read_head();
    assert_eq!((head.status(), head.get("content-length")), (200, Some("10")), "{}", head.text());
    assert_eq!(visitor.read_exact(5), b"01234", "the POST is not finished");
    device.peer.write(chunk("5678"));
    assert_eq!(visitor.read_exact(4), b"5678");
    device.peer.write([chunk("9"), b"0\r\n\r\n".to_vec()].concat());
    assert_eq!(visitor.read_exact(1), b"9");
    device.serves(&gateway, "the-post-is-a-poll");
    // Inner chunks in outer chunks, cut where they like.
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    device.peer.write(streamed(&device, &event));
    let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\nX-Sum: 1\r\n\r\n";
    for piece in text.as_bytes().chunks(3) {
        device.peer.write(chunk(piece));
    }
    device.peer.write("0\r\n\r\n");
    let answer = visitor.read_answer("GET");
    answer.expect_ok("hello!");
    assert_eq!(answer.trailers, [("X-Sum".to_owned(), "1".to_owned())]);
    device.serves(&gateway, "the-post-is-a-poll");
    // Inner chunks in a POST with its length, byte by byte.
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    let whole = post(
        "lamp",
        &format!("{}PTTH-Message-ID: {}\r\n", device.fields, event.id),
        "message/http",
        text,
    );
    for byte in whole {
        device.peer.write([byte]);
    }
    visitor.read_answer("GET").expect_ok("hello!");
    device.serves(&gateway, "the-post-is-a-poll");
}

#[test]
fn a_large_answer_in_message_http_has_no_bound_and_needs_no_memory() {
    const LARGE: usize = 64 << 20;
    let gateway = Gateway::start(&[]);
    let mut device = Device::polling(&gateway, "lamp", Text);
    device.serves(&gateway, "warm");
    let before = gateway.process.resident_kib();
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
    let fields = format!("{}PTTH-Message-ID: {}\r\n", device.fields, event.id);
    let length = head.len() + LARGE;
    let writer = std::thread::spawn(move || {
        device.peer.write(format!(
            "POST /lamp HTTP/1.1\r\nHost: gw\r\nContent-Type: message/http\r\nContent-Length: {length}\r\n{fields}\r\n{head}"
        ));
        pattern(LARGE).chunks(1 << 20).for_each(|piece| device.peer.write(piece));
        device
    });
    assert_eq!(visitor.read_head().status(), 200);
    let mut hash = Hash::default();
    visitor.read_through(LARGE as u64, |piece| hash.update(piece));
    assert_eq!(hash.finish(), Hash::of_pattern(LARGE as u64));
    let grown = gateway.process.resident_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "the gateway grew by {grown} KiB");
    writer.join().unwrap().serves(&gateway, "behind-it");
}

#[test]
fn an_answer_that_is_cut_is_an_aborted_message() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let mut device = Device::polling(&gateway, "lamp", Text);
    for (name, text) in [
        ("within a body with a length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"),
        (
            "within an inner chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhello",
        ),
        (
            "before the last inner chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        ),
        (
            "within the last inner chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        ),
    ] {
        let (mut visitor, event) = in_hand(&gateway, &mut device);
        let mut other = device.again();
        other.peer.write(streamed(&device, &event));
        other.peer.write(chunk(text));
        assert!(visitor.stirs_within(DEADLINE), "{name}: nothing went on");
        drop(other);
        match visitor.read_answer_or_cut("GET") {
            Ok(answer) => panic!(
                "{name}: the visitor got a whole message: {}{}",
                answer.head.text(),
                answer.text()
            ),
            Err(cut) => assert_eq!(cut.head.map(|head| head.status()), Some(200), "{name}"),
        }
        device.poll();
    }
    // Cut before anything of it went on: it can still be answered.
    for start in ["", "HTTP/1.1 200 OK\r\nContent-Len"] {
        let (mut visitor, event) = in_hand(&gateway, &mut device);
        let mut other = device.again();
        other.peer.write(streamed(&device, &event));
        if !start.is_empty() {
            other.peer.write(chunk(start));
        }
        drop(other);
        fence(&gateway);
        device.answer(&event, &ok("after all"));
        visitor.read_answer("GET").expect_ok("after all");
    }
}

/// The rest of a short answer is read for the sake of the connection, as on a link, and not for
/// ever.
#[test]
fn an_answer_whose_visitor_has_left_is_given_up_when_it_stalls() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let mut device = Device::polling(&gateway, "lamp", Text);
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    let text = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello";
    let fields = format!("{}PTTH-Message-ID: {}\r\n", device.fields, event.id);
    let whole = post("lamp", &fields, "message/http", [text.as_bytes(), &[b'x'; 95]].concat());
    device.peer.write(&whole[..whole.len() - 95]);
    assert!(visitor.stirs_within(DEADLINE));
    visitor.reset();
    let reply = device.refused(&[400]);
    assert!(
        reply.text().contains("was not taken to its end"),
        "the exchange did not end with its POST: {}",
        reply.text()
    );
}

/// A device that has one poll answers nobody else while it streams: its reader is held to the rate
/// as the reader of a link is.
#[test]
fn a_visitor_below_the_least_rate_loses_a_poll_that_others_wait_for() {
    let gateway = Gateway::start(&["--min-rate", "1024", "--wait-for-link", "28s"]);
    let mut device = Device::polling(&gateway, "lamp", Text);
    let mut slow = RawPeer::connect_narrow(gateway.visitors);
    slow.write(get("/lamp/x"));
    let event = device.event();
    device.peer.write(streamed(&device, &event));
    device.peer.write(chunk("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"));
    let mut waiting = asks(&gateway, get("/lamp/y"));
    waiting.deadline = Duration::from_secs(25);
    let then = Instant::now();
    device.peer.deadline = Duration::from_secs(60);
    // Who posts is told by an early reply, and its connection is read from for a while.
    while !device.peer.stirs_within(Duration::from_millis(1))
        && device.peer.try_write(chunk([b'x'; 50_000])).is_ok()
    {}
    let took = then.elapsed();
    assert!(
        (8..25).contains(&took.as_secs()),
        "the rate is taken over 10 s, and it was ended after {took:?}"
    );
    let mut fresh = device.again();
    fresh.poll();
    let event = fresh.event();
    fresh.answer(&event, &ok("y"));
    waiting.read_answer("GET").expect_ok("y");
    drop(slow);
}
