//! Bodies that nobody reads, deadlines, bounds, and the end.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Response, header};
use reverse_http::{Body, DeviceLink, Limits};

use super::super::{Script, Step, drip, limits, splits};
use super::{answer_to, hello, serve, with_status};

#[test]
fn continue_goes_out_at_the_first_read_and_only_then() {
    let head =
        b"POST / HTTP/1.1\r\nHost:\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n".to_vec();
    let go = b"HTTP/1.1 100 Continue\r\n\r\n".to_vec();
    let (script, seen) = Script::new([
        Step::Give(head.clone()),
        Step::Written(go.clone()),
        Step::Give(b"body".to_vec()),
    ]);
    let (served, end) = serve(script, |request| {
        assert_eq!(request.into_body().read_to_text(4).unwrap(), "body");
        with_status(200, "")
    });
    end.unwrap();
    assert_eq!((served, seen.text().matches("100 Continue").count()), (1, 1));

    // Echo: the body is read while the response is being written, but the 100 has to come before
    // its head.
    let (script, seen) =
        Script::new([Step::Give(head.clone()), Step::Written(go), Step::Give(b"body".to_vec())]);
    serve(script, |request| Response::new(request.into_body())).1.unwrap();
    assert!(
        seen.text().starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"),
        "{}",
        seen.text()
    );
    assert!(seen.text().ends_with("\r\n\r\nbody"));

    // Body there already, body refused, HTTP/1.0: no 100.
    let text =
        answer_to(&[&head[..], b"body"].concat(), |request| Response::new(request.into_body()));
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("body"), "{text}");
    let text = answer_to(&head, |_| with_status(413, ""));
    assert!(text.starts_with("HTTP/1.1 413") && text.contains("Connection: close"), "{text}");
    let (script, seen) = Script::new([
        Step::Give(
            b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n".to_vec(),
        ),
        Step::Written(Vec::new()),
        Step::Give(b"body".to_vec()),
    ]);
    serve(script, |request| Response::new(request.into_body().read_to_vec(4).unwrap().into()))
        .1
        .unwrap();
    assert!(seen.text().starts_with("HTTP/1.1 200"), "{}", seen.text());
}

#[test]
fn unread_request_bodies_are_drained_or_end_the_link() {
    let next = "GET /next HTTP/1.1\r\nHost:\r\n\r\n";
    let evil = "GET /evil HTTP/1.1\r\nHost:\r\n\r\n";
    let length = |n: usize| format!("POST / HTTP/1.1\r\nHost:\r\nContent-Length: {n}\r\n\r\n");
    // (first segment, what comes after the first answer, whether the link goes on)
    let cases: [(String, String, bool); 6] = [
        (format!("{}{evil}", length(evil.len())), next.into(), true),
        (length(evil.len()), format!("{evil}{next}"), true),
        (
            length(60_000),
            format!("{}{next}", evil.repeat(60_000 / evil.len() + 1).get(..60_000).unwrap()),
            true,
        ),
        (length(70_000), evil.repeat(3000), false),
        (
            format!(
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{evil}\r\n0\r\n\r\n",
                evil.len()
            ),
            next.into(),
            true,
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            format!("{:x}\r\n{evil}\r\n0\r\n\r\n{next}", evil.len()),
            false,
        ),
    ];
    for (i, (first, later, goes_on)) in cases.into_iter().enumerate() {
        let steps = [
            Step::Give(first.into_bytes()),
            Step::WrittenTail(b"no\n".to_vec()),
            Step::Give(later.into_bytes()),
        ];
        let (script, seen) = Script::new(steps);
        let mut paths = Vec::new();
        let (_, end) = serve(script, |request| {
            paths.push(request.uri().path().to_owned());
            with_status(403, "no\n")
        });
        end.unwrap();
        assert_eq!(paths, if goes_on { vec!["/", "/next"] } else { vec!["/"] }, "case {i}");
        assert_eq!(seen.text().contains("Connection: close"), !goes_on, "case {i}");
    }
}

#[test]
fn a_body_that_outlives_its_exchange_is_cut_off() {
    let (script, _) = Script::giving(b"POST / HTTP/1.1\r\nHost:\r\nContent-Length: 30000\r\n\r\n");
    let mut link = DeviceLink::new(script, Vec::new(), limits());
    let mut body = link.next_request().unwrap().unwrap().into_body();
    link.respond(Response::new("early".into())).unwrap();
    assert!(body.read(&mut [0; 10]).is_err());

    let bytes = [
        &b"POST / HTTP/1.1\r\nHost:\r\nContent-Length: 20000\r\n\r\n"[..],
        &[b'a'; 20_000],
        b"GET /two HTTP/1.1\r\nHost:\r\n\r\n",
    ]
    .concat();
    let (script, _) = Script::giving(&bytes);
    let mut link = DeviceLink::new(script, Vec::new(), limits());
    let mut body = link.next_request().unwrap().unwrap().into_body();
    body.read_exact(&mut [0; 10]).unwrap();
    link.respond(Response::new("early".into())).unwrap();
    assert!(link.is_reusable(), "{:?}", link.why_not_reusable());
    let two = link.next_request().unwrap().unwrap();
    assert_eq!(two.uri(), "/two");
    assert!(body.read(&mut [0; 10]).is_err());
}

#[test]
fn deadlines_are_kept_by_phase_and_named() {
    let get = || b"GET / HTTP/1.1\r\n".to_vec();
    // A head that stops: 408.
    let (script, seen) = Script::new([Step::Give(get()), Step::Timeout]);
    let error = serve(script, hello).1.unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("head_timeout"), "{error}");
    assert!(seen.text().starts_with("HTTP/1.1 408 "), "{}", seen.text());
    let waits = seen.read_limits();
    assert_eq!(waits[0], None, "the wait for a first byte has no end on a link without heartbeats");
    assert!(
        waits[1].unwrap() <= Duration::from_secs(10) && waits[1].unwrap() > Duration::from_secs(8)
    );

    // A body that stops.
    let (script, seen) = Script::new([
        Step::Give(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc".to_vec()),
        Step::Timeout,
    ]);
    let (_, end) = serve(script, |request| {
        let error = request.into_body().read_to_vec(9).unwrap_err();
        assert!(
            error.is_timeout() && error.to_string().contains("body_silence_timeout"),
            "{error}"
        );
        with_status(408, "")
    });
    end.unwrap();
    assert!(seen.read_limits().contains(&Some(Duration::from_secs(60))));
    assert!(seen.text().contains("Connection: close"));

    // Silence after a heartbeat.
    let (script, seen) =
        Script::new([Step::Give(b"OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n".to_vec()), Step::Timeout]);
    let error = serve(script, hello).1.unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("silence"), "{error}");
    assert!(seen.read_limits().contains(&Some(Duration::from_secs(120))));

    // A gateway that takes nothing.
    let (script, _) = Script::giving(b"GET / HTTP/1.1\r\nHost:\r\n\r\n");
    let error = serve(script.write_fails(10, io::ErrorKind::WouldBlock), hello).1.unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("body_silence_timeout"), "{error}");
}

#[test]
fn a_dripping_head_has_a_deadline_in_all() {
    let mut limits = Limits::default();
    limits.head_timeout = Duration::from_millis(30);
    struct Slow(Script);
    impl Read for Slow {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            // Each byte takes a while, but never as long as the deadline: only a total catches
            // this.
            let until = std::time::Instant::now() + Duration::from_millis(5);
            while std::time::Instant::now() < until {
                std::thread::yield_now();
            }
            self.0.read(buf)
        }
    }
    impl io::Write for Slow {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.write(buf)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    impl reverse_http::stream::TimedStream for Slow {
        fn limit_read(&mut self, _: Option<Duration>) -> io::Result<()> {
            Ok(())
        }
        fn limit_write(&mut self, _: Option<Duration>) -> io::Result<()> {
            Ok(())
        }
    }
    let (script, seen) =
        Script::new(drip(&[&b"GET / HTTP/1.1\r\nX: "[..], &[b'a'; 1000]].concat()));
    let mut link = DeviceLink::new(Slow(script), Vec::new(), Arc::new(limits));
    assert!(link.next_request().unwrap_err().is_timeout());
    assert!(seen.text().starts_with("HTTP/1.1 408 "));
}

#[test]
fn too_large_heads_are_refused_in_bounded_memory() {
    // What comes after the refusal is read and dropped, so that it is not lost to a reset.
    let begins = [Step::Give(b"GET / HTTP/1.1\r\nX: ".to_vec())];
    let (script, seen) =
        Script::new(begins.into_iter().chain((0..1000).map(|_| Step::Give(vec![b'a'; 1000]))));
    assert!(serve(script, hello).1.is_err());
    assert!(seen.text().starts_with("HTTP/1.1 431 "), "{}", seen.text());
    let head = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(21_000));
    let (script, seen) = Script::giving(head.as_bytes());
    assert!(serve(script, hello).1.is_err());
    assert!(seen.text().starts_with("HTTP/1.1 431 "), "{}", seen.text());
}

#[test]
fn calls_in_the_wrong_order_are_usage_errors_and_harm_nothing() {
    let (script, _) =
        Script::giving(b"GET /1 HTTP/1.1\r\nHost:\r\n\r\nGET /2 HTTP/1.1\r\nHost:\r\n\r\n");
    let mut link = DeviceLink::new(script, Vec::new(), limits());
    assert!(link.respond(Response::new(Body::empty())).unwrap_err().is_usage());
    link.next_request().unwrap().unwrap();
    assert!(link.next_request().unwrap_err().is_usage());
    link.respond(Response::new(Body::empty())).unwrap();
    assert!(link.respond(Response::new(Body::empty())).unwrap_err().is_usage());
    assert_eq!(link.next_request().unwrap().unwrap().uri(), "/2");
}

#[test]
fn informational_responses_precede_the_final_one() {
    let (script, seen) = Script::giving(b"GET / HTTP/1.1\r\nHost:\r\n\r\n");
    let mut link = DeviceLink::new(script, Vec::new(), limits());
    link.next_request().unwrap().unwrap();
    let mut hints = with_status(103, "dropped");
    hints.headers_mut().insert("link", HeaderValue::from_static("</a>; rel=preload"));
    hints.headers_mut().insert("content-length", HeaderValue::from_static("7"));
    link.respond(hints).unwrap();
    assert_eq!(seen.text(), "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n");
    assert!(link.respond(with_status(101, "")).unwrap_err().is_usage(), "nobody offered to switch");
    link.respond(Response::new(Body::empty())).unwrap();
    assert!(link.is_reusable());
}

#[test]
fn a_101_hands_the_stream_over() {
    let bytes = b"GET /chat HTTP/1.1\r\nHost:\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05hello";
    for steps in splits(bytes) {
        let (script, seen) = Script::new(steps);
        let mut link = DeviceLink::new(script, Vec::new(), limits());
        link.next_request().unwrap().unwrap();
        let mut switch = with_status(101, "");
        switch.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        link.respond(switch).unwrap();
        assert_eq!(
            seen.text(),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        );
        assert!(!link.is_reusable());
        let (mut stream, mut unread) = link.into_parts();
        stream.read_to_end(&mut unread).unwrap();
        assert_eq!(unread, b"\x81\x05hello");
    }
}

#[test]
fn parts_can_be_taken_at_every_phase() {
    let bytes = b"POST / HTTP/1.1\r\nHost:\r\nContent-Length: 9000\r\n\r\n".to_vec();
    let all = [&bytes[..], &[b'b'; 9000], b"GET /next"].concat();
    for phase in 0..4 {
        let (script, _) = Script::giving(&all);
        let mut link = DeviceLink::new(script, Vec::new(), limits());
        let mut body = None;
        let mut used = 0;
        if phase > 0 {
            body = Some(link.next_request().unwrap().unwrap().into_body());
            used = bytes.len();
        }
        if phase > 1 {
            body.as_mut().unwrap().read_exact(&mut [0; 100]).unwrap();
            used += 100;
        }
        if phase > 2 {
            link.respond(Response::new("ok".into())).unwrap();
            used = bytes.len() + 9000;
        }
        let (mut stream, mut unread) = link.into_parts();
        stream.read_to_end(&mut unread).unwrap();
        assert!(
            unread == all[used..],
            "phase {phase}: {} bytes, not {}",
            unread.len(),
            all.len() - used
        );
        if let Some(mut body) = body {
            assert!(body.read(&mut [0; 10]).is_err());
        }
    }
}

#[test]
fn a_poisoned_lock_and_a_panicking_body_do_not_spread() {
    struct Panicking;
    impl Read for Panicking {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("a handler's reader")
        }
    }
    let (script, _) = Script::giving(b"GET / HTTP/1.1\r\nHost:\r\n\r\n");
    let mut link = DeviceLink::new(script, Vec::new(), limits());
    link.next_request().unwrap().unwrap();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        link.respond(Response::new(Body::from_reader(Panicking)))
    }));
    assert!(caught.is_err());
    let (_, unread) = link.into_parts();
    assert!(unread.is_empty());
}

#[test]
fn a_connection_that_fails_between_requests_is_an_error_of_the_network() {
    let (script, _) = Script::new([
        Step::Give(b"GET / HTTP/1.1\r\nHost:\r\n\r\n".to_vec()),
        Step::Fail(io::ErrorKind::ConnectionReset),
    ]);
    let (served, end) = serve(script, hello);
    let error = end.unwrap_err();
    assert_eq!((served, error.fault()), (1, reverse_http::Fault::Network));
    assert!(error.is_closed(), "{error}");
}
