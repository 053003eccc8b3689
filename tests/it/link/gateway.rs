//! The gateway's side: what it writes, and what a device, right or hostile, can do to it.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, StatusCode, Version, header};
use reverse_http::{Body, Fault, GatewayLink, Limits};

use super::{Script, Step, drip, limits, splits, vector};

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

fn link(script: Script) -> GatewayLink<Script> {
    GatewayLink::new(script, Vec::new(), limits())
}

/// What is written for a request; the device answers 204.
fn written(request: Request<Body>) -> String {
    let (script, seen) = Script::giving(b"HTTP/1.1 204 No Content\r\n\r\n");
    let mut link = link(script);
    link.ask(request).unwrap();
    assert!(link.is_reusable() || seen.text().contains("Connection: close"));
    seen.text()
}

#[test]
fn the_samples_are_understood_however_they_are_split() {
    for (name, body) in [("seed-4-response", "!dlrow ,olleH\r\n"), ("draft-4-response", "Good")] {
        for steps in splits(&vector(name)).chain([drip(&vector(name))]) {
            let (script, seen) = Script::new(steps);
            let mut link = link(script);
            let response = link.ask(get("/status")).unwrap();
            assert_eq!(seen.text(), "GET /status HTTP/1.1\r\nHost:\r\n\r\n");
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["content-type"], "text/plain");
            let mut bytes = response.into_body();
            assert_eq!(bytes.length(), Some(body.len() as u64));
            assert_eq!(bytes.read_to_text(100).unwrap(), body);
            assert!(link.is_reusable(), "{:?}", link.why_not_reusable());
            assert!(link.response_began());
        }
    }
}

#[test]
fn requests_have_a_host_a_path_and_our_framing() {
    assert_eq!(written(get("/")), "GET / HTTP/1.1\r\nHost:\r\n\r\n");
    assert_eq!(
        written(get("http://user:pw@lamp.example:81/a?b=c")),
        "GET /a?b=c HTTP/1.1\r\nHost: lamp.example:81\r\n\r\n"
    );
    assert_eq!(
        written(get("http://lamp.example?q")),
        "GET /?q HTTP/1.1\r\nHost: lamp.example\r\n\r\n"
    );
    let own_host = Request::get("http://a/")
        .header("host", "b")
        .header("x-y", "z")
        .body(Body::empty())
        .unwrap();
    assert_eq!(written(own_host), "GET / HTTP/1.1\r\nHost: b\r\nX-Y: z\r\n\r\n");
    let options = Request::options("*").body(Body::empty()).unwrap();
    assert_eq!(written(options), "OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n");
    for method in ["POST", "PUT", "PATCH"] {
        let request = Request::builder().method(method).uri("/").body(Body::empty()).unwrap();
        assert_eq!(
            written(request),
            format!("{method} / HTTP/1.1\r\nHost:\r\nContent-Length: 0\r\n\r\n")
        );
    }
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "TRACE"] {
        let request = Request::builder().method(method).uri("/").body(Body::empty()).unwrap();
        assert_eq!(written(request), format!("{method} / HTTP/1.1\r\nHost:\r\n\r\n"));
    }
    let request = Request::post("/")
        .header("content-length", "3")
        .header("transfer-encoding", "chunked")
        .header("te", "gzip");
    let request = request
        .header("connection", "x-hop, close")
        .header("upgrade", "h2c")
        .header("trailer", "x")
        .header("keep-alive", "1");
    assert_eq!(
        written(request.body("12345".into()).unwrap()),
        "POST / HTTP/1.1\r\nHost:\r\nContent-Length: 5\r\nConnection: close\r\n\r\n12345"
    );
    let request = Request::put("/").body(Body::from_reader(io::Cursor::new("abc"))).unwrap();
    assert_eq!(
        written(request),
        "PUT / HTTP/1.1\r\nHost:\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    );
}

#[test]
fn what_cannot_be_written_is_not_sent_and_costs_nothing() {
    let bad = [
        Request::builder().method(Method::CONNECT).uri("a:1").body(Body::empty()).unwrap(),
        Request::get("*").body(Body::empty()).unwrap(),
        Request::get("/\u{fc}").body(Body::empty()).unwrap(),
    ];
    let (script, seen) = Script::giving(b"HTTP/1.1 204 No Content\r\n\r\n");
    let mut link = link(script);
    for request in bad {
        assert!(link.ask(request).unwrap_err().is_usage());
        assert!(link.is_reusable());
        assert_eq!(seen.text(), "");
    }
    link.ask(get("/")).unwrap();
}

#[test]
fn exchanges_follow_each_other_on_one_link() {
    let answers = (0..5).flat_map(|i| {
        let body = format!("answer {i}");
        [Step::Give(
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes(),
        )]
    });
    let (script, seen) = Script::new(answers);
    let mut link = link(script);
    for i in 0..5 {
        let response = link.ask(get(&format!("/{i}"))).unwrap();
        assert_eq!(response.into_body().read_to_text(100).unwrap(), format!("answer {i}"));
        let (reads, writes, limits) = seen.calls();
        assert_eq!((reads, writes), (1, 1));
        assert!(limits == 0 || i == 0, "deadlines are set once");
    }
}

#[test]
fn bodies_cut_at_every_byte_are_aborted_never_clean() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwiki\r\n5\r\npedia\r\n0\r\nX: y\r\n\r\n";
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nwikipedia";
    for whole in [chunked, length] {
        let head = whole.find("\r\n\r\n").unwrap() + 4;
        for at in 0..whole.len() {
            let (script, _) = Script::giving(&whole.as_bytes()[..at]);
            let mut link = link(script);
            match link.ask(get("/")) {
                Err(error) => {
                    assert!(at < head && error.is_closed(), "{error}");
                    assert_eq!(link.response_began(), at > 0);
                }
                Ok(response) => {
                    assert!(at >= head);
                    let mut body = response.into_body();
                    let mut bytes = Vec::new();
                    let error = body.read_to_end(&mut bytes).unwrap_err();
                    assert!(
                        error
                            .get_ref()
                            .unwrap()
                            .downcast_ref::<reverse_http::Error>()
                            .unwrap()
                            .is_closed(),
                        "{error}"
                    );
                    assert!(body.read(&mut [0; 9]).is_err() && body.trailers().is_none());
                    assert!("wikipedia".as_bytes().starts_with(&bytes));
                }
            }
            assert!(!link.is_reusable());
            assert!(link.ask(get("/")).unwrap_err().is_closed());
        }
        for steps in splits(whole.as_bytes()).chain([drip(whole.as_bytes())]) {
            let (script, _) = Script::new(steps);
            let mut link = link(script);
            let mut body = link.ask(get("/")).unwrap().into_body();
            assert_eq!(body.read_to_text(9).unwrap(), "wikipedia");
            assert_eq!(body.trailers().is_some(), whole == chunked);
            assert!(link.is_reusable(), "{:?}", link.why_not_reusable());
        }
    }
}

#[test]
fn a_body_until_close_ends_with_the_link() {
    let (script, _) = Script::giving(b"HTTP/1.1 200 OK\r\n\r\nuntil the end");
    let mut link = link(script);
    let mut body = link.ask(get("/")).unwrap().into_body();
    assert_eq!(body.length(), None);
    assert_eq!(body.read_to_text(100).unwrap(), "until the end");
    assert!(!link.is_reusable());
}

#[test]
fn what_ends_a_link_is_named() {
    let cases: [(&[u8], &str); 3] = [
        (
            b"HTTP/1.1 200 OK\r\nConnection: x, CLOSE\r\nContent-Length: 0\r\n\r\n",
            "Connection: close",
        ),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", "HTTP/1.0"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            "after the response",
        ),
    ];
    for (bytes, reason) in cases {
        let (script, _) = Script::giving(bytes);
        let mut link = link(script);
        let response = link.ask(get("/")).unwrap();
        assert_eq!(
            response.version(),
            if reason == "HTTP/1.0" { Version::HTTP_10 } else { Version::HTTP_11 }
        );
        assert!(
            link.why_not_reusable().iter().any(|why| why.contains(reason)),
            "{:?}",
            link.why_not_reusable()
        );
        let error = link.ask(get("/")).unwrap_err();
        assert!(error.is_closed() && error.to_string().contains(reason), "{error}");
    }
}

#[test]
fn an_answer_nobody_asked_for_is_never_an_answer() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    // Before the first request.
    let (script, seen) = Script::giving(b"");
    let mut link_ = GatewayLink::new(script, answer.to_vec(), limits());
    assert!(link_.ask(get("/")).unwrap_err().is_malformed());
    assert_eq!(seen.text(), "");
    // Twice in one segment, split at every byte.
    let twice = [&answer[..], answer].concat();
    for steps in splits(&twice) {
        let second_later = matches!(&steps[0], Step::Give(first) if first.len() == answer.len());
        let (script, _) = Script::new(steps);
        let mut link = link(script);
        let mut body = link.ask(get("/")).unwrap().into_body();
        assert_eq!(body.read_to_text(2).unwrap(), "hi");
        assert_eq!(
            link.is_reusable(),
            second_later,
            "where it has not arrived yet, only a socket can tell (pairs.rs)"
        );
    }
    // A stray line end is no answer and does no harm.
    let (script, _) = Script::giving(&[&answer[..], b"\r\n", answer].concat());
    let mut link_ = link(script);
    let mut body = link_.ask(get("/")).unwrap().into_body();
    assert_eq!(body.read_to_text(2).unwrap(), "hi");
    assert!(!link_.is_reusable(), "a whole answer stands behind the line end");
    let (script, _) =
        Script::new([Step::Give([&answer[..], b"\r\n"].concat()), Step::Give(answer.to_vec())]);
    let mut link_ = link(script);
    for _ in 0..2 {
        assert_eq!(link_.ask(get("/")).unwrap().into_body().read_to_text(2).unwrap(), "hi");
    }
}

#[test]
fn bodies_of_head_204_and_304_are_unasked_bytes() {
    for (method, head) in [
        (Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"),
        (Method::GET, "HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n"),
        (Method::GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n"),
    ] {
        for (body, reusable) in [("", true), ("evil", false)] {
            let (script, _) = Script::giving(format!("{head}{body}").as_bytes());
            let mut link = link(script);
            let request =
                Request::builder().method(method.clone()).uri("/").body(Body::empty()).unwrap();
            let response = link.ask(request).unwrap();
            assert_eq!(response.headers()[header::CONTENT_LENGTH], "4");
            assert_eq!(response.into_body().read_to_vec(0).unwrap(), b"");
            assert_eq!(link.is_reusable(), reusable, "{head}{body}");
        }
    }
}

#[test]
fn informational_responses_are_skipped_but_not_for_ever() {
    let interim = |n: usize| {
        "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(n)
            + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    };
    let (script, _) = Script::giving(interim(8).as_bytes());
    assert_eq!(link(script).ask(get("/")).unwrap().status(), 200);
    let (script, _) = Script::giving(interim(9).as_bytes());
    let mut link_ = link(script);
    let error = link_.ask(get("/")).unwrap_err();
    assert!(error.is_malformed() && error.to_string().contains("informational_max"), "{error}");
    assert!(!link_.is_reusable());
    let (script, _) = Script::giving(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n");
    assert!(link(script).ask(get("/")).unwrap_err().is_malformed());
}

#[test]
fn a_switch_is_to_a_protocol_that_may_pass_or_none() {
    let offer = || Request::get("/").header(header::UPGRADE, "x").body(Body::empty()).unwrap();
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x/1\r\nConnection: Upgrade\r\n\r\n";
    assert_eq!(link(Script::giving(switch).0).ask(offer()).unwrap().status(), 101);
    for (bad, why) in [
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "to which"),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n", "did not offer"),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: y\r\n\r\n", "did not offer"),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: \"x\"\r\n\r\n", "did not offer"),
        ("HTTP/1.0 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "in HTTP/1.0"),
    ] {
        let mut link = link(Script::giving(bad.as_bytes()).0);
        let error = link.ask(offer()).unwrap_err();
        assert!(error.is_malformed() && error.to_string().contains(why), "{bad}: {error}");
        assert!(!link.is_reusable());
    }
}

#[test]
fn malformed_responses_close_the_link_and_are_the_devices_fault() {
    for bytes in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"garbage garbage garbage\r\n\r\n",
    ] {
        let (script, _) = Script::giving(bytes);
        let mut link = link(script);
        let error = link.ask(get("/")).unwrap_err();
        assert!(error.is_malformed(), "{error}");
        assert_eq!((error.fault(), error.status_hint()), (Fault::Device, Some(502)));
        assert!(!link.is_reusable());
    }
    // Lone LF is taken from devices, in heads.
    let (script, _) = Script::giving(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok");
    assert_eq!(link(script).ask(get("/")).unwrap().into_body().read_to_text(2).unwrap(), "ok");
}

#[test]
fn a_half_read_response_is_drained_or_ends_the_link() {
    let two = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo";
    for (length, goes_on) in
        [(30_000, true), (65_536 + 10, true), (65_536 + 11, false), (1 << 30, false)]
    {
        let body = "x".repeat(length.min(200_000));
        let first = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}{two}");
        let (script, seen) = Script::new([Step::Give(first.into_bytes()), Step::Timeout]);
        // The second answer comes before it is asked for, but after a body whose end nobody has
        // seen yet.
        let mut link = link(script);
        let mut body = link.ask(get("/1")).unwrap().into_body();
        body.read_exact(&mut [0; 10]).unwrap();
        drop(body);
        assert!(!link.is_reusable());
        let error = link.ask(get("/2")).unwrap_err();
        // Drained: then the bytes after it are found to be unasked. Not drained: closed. Never the
        // wrong answer.
        assert!(
            error.to_string().contains(if goes_on {
                "after the response's end"
            } else {
                "drain_bytes_max"
            }),
            "{length}: {error}"
        );
        assert!(!seen.text().contains("/2"));
    }
    let first = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7530\r\n{}\r\n0\r\n\r\n",
        "x".repeat(30_000)
    );
    let (script, _) = Script::new([
        Step::Give(first.into_bytes()),
        Step::WrittenTail(b"GET /2 HTTP/1.1\r\nHost:\r\n\r\n".to_vec()),
        Step::Give(two.into()),
    ]);
    // Scripts give what is asked of them in one read; the drain must stop at the body's end.
    let mut link_ = link(script);
    drop(link_.ask(get("/1")).unwrap());
    assert_eq!(link_.ask(get("/2")).unwrap().into_body().read_to_text(3).unwrap(), "two");
}

#[test]
fn a_body_held_over_the_next_exchange_is_cut_off() {
    let one = format!("HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n{}", "1".repeat(20_000));
    let two = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let (script, _) = Script::new([
        Step::Give(one.into()),
        Step::WrittenTail(b"GET /2 HTTP/1.1\r\nHost:\r\n\r\n".to_vec()),
        Step::Give(two.into()),
        Step::Give(b"22222".to_vec()),
    ]);
    let mut link = link(script);
    let mut old = link.ask(get("/1")).unwrap().into_body();
    old.read_exact(&mut [0; 5]).unwrap();
    let mut new = link.ask(get("/2")).unwrap().into_body();
    assert!(old.read(&mut [0; 5]).is_err());
    assert_eq!(new.read_to_text(5).unwrap(), "22222");
    assert!(old.read(&mut [0; 5]).is_err());
}

#[test]
fn deadlines_are_kept_by_phase_and_named() {
    let cases: [(&[u8], &str); 3] = [
        (b"", "first_byte_timeout"),
        (b"HTTP/1.1 200 OK\r\nConte", "head_timeout"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "body_silence_timeout"),
    ];
    for (bytes, name) in cases {
        let (script, seen) = Script::new([Step::Give(bytes.to_vec()), Step::Timeout]);
        let mut link = link(script);
        let error = link
            .ask(get("/"))
            .and_then(|response| response.into_body().read_to_vec(100))
            .unwrap_err();
        assert!(error.is_timeout() && error.to_string().contains(name), "{error}");
        assert_eq!((error.fault(), error.status_hint()), (Fault::Device, Some(504)));
        assert!(!link.is_reusable());
        assert_eq!(seen.read_limits()[0], Some(Duration::from_secs(60)));
    }
}

#[test]
fn an_early_answer_is_found_when_writing_fails() {
    let answer =
        b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n";
    for kind in
        [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset, io::ErrorKind::WouldBlock]
    {
        let (script, _) = Script::giving(answer);
        let mut link_ = link(script.write_fails(100_000, kind));
        let request = Request::post("/").body(Body::from(vec![0; 1_000_000])).unwrap();
        let response = link_.ask(request).unwrap();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(response.into_body().read_to_text(3).unwrap(), "no\n");
        assert!(!link_.is_reusable());
        let (script, _) = Script::new(vec![Step::Timeout; 2000]);
        let mut link_ = link(script.write_fails(100_000, kind));
        let request = Request::post("/").body(Body::from(vec![0; 1_000_000])).unwrap();
        let error = link_.ask(request).unwrap_err();
        assert_eq!(error.is_timeout(), kind == io::ErrorKind::WouldBlock, "{error}");
        assert_eq!(
            error.to_string().contains("body_silence_timeout"),
            kind == io::ErrorKind::WouldBlock,
            "{error}"
        );
        assert!(!link_.response_began());
    }
}

#[test]
fn informational_responses_to_a_stalled_upload_do_not_end_it() {
    let interim = b"HTTP/1.1 102 Processing\r\n\r\n";
    for flood in [8, 9] {
        let (script, _) = Script::new([
            Step::Give(interim.repeat(flood)),
            Step::Give(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()),
        ]);
        let mut link = link(script.write_fails(100_000, io::ErrorKind::WouldBlock));
        let result = link.ask(Request::post("/").body(Body::from(vec![0; 1_000_000])).unwrap());
        assert_eq!(result.is_ok(), flood == 8, "{result:?}");
        assert!(!link.is_reusable());
    }
}

#[test]
fn a_request_body_that_fails_aborts_the_exchange() {
    let (script, seen) = Script::giving(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let mut link = link(script);
    let request =
        Request::post("/").body(Body::from_reader_with_length(io::Cursor::new("abc"), 10)).unwrap();
    let error = link.ask(request).unwrap_err();
    assert_eq!(error.fault(), Fault::Caller);
    assert!(!link.is_reusable());
    assert!(seen.text().ends_with("abc"), "{}", seen.text());
}

#[test]
fn parts_can_be_taken_at_every_phase() {
    let answer = [&b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n"[..], &[b'b'; 9000]].concat();
    for phase in 0..3 {
        let (script, _) = Script::giving(&answer);
        let mut link = link(script);
        let mut used = 0;
        let mut body = None;
        if phase > 0 {
            body = Some(link.ask(get("/")).unwrap().into_body());
            used = answer.len() - 9000;
        }
        if phase > 1 {
            body.as_mut().unwrap().read_exact(&mut [0; 4000]).unwrap();
            used += 4000;
        }
        let (mut stream, mut unread) = link.into_parts();
        stream.read_to_end(&mut unread).unwrap();
        assert!(unread == answer[used..], "phase {phase}");
        if let Some(mut body) = body {
            assert!(body.read(&mut [0; 10]).is_err());
        }
    }
}

#[test]
fn limits_bound_what_a_device_can_send() {
    let mut small = Limits::default();
    small.head_bytes_max = 300;
    let (script, _) = Script::new(
        (0..10_000)
            .map(|_| Step::Give(b"X-Filler: aaaaaaaaaaaaaaaaaaaa\r\n".to_vec()))
            .collect::<Vec<_>>(),
    );
    let mut link = GatewayLink::new(script, Vec::new(), Arc::new(small));
    assert!(link.ask(get("/")).unwrap_err().is_malformed());
    let response =
        http::Response::builder().header("x", HeaderValue::from_static("y")).body(()).unwrap();
    assert_eq!(response.headers().len(), 1);
}
