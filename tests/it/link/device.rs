//! The device's side: what a gateway, right or hostile, gets for its bytes.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use reverse_http::{Body, DeviceLink, Error, Limits};

use super::{Script, Step, drip, limits, splits, vector, without_date};

const HELLO: &str = "!dlrow ,olleH\r\n";

/// Plays `steps` to a device that answers each request by `handler`; how often it did, and how the
/// link ended.
fn serve_with(
    limits: Arc<Limits>,
    script: Script,
    mut handler: impl FnMut(Request<Body>) -> Response<Body>,
) -> (usize, Result<(), Error>) {
    let mut link = DeviceLink::new(script, Vec::new(), limits);
    let mut served = 0;
    let end = loop {
        match link.next_request() {
            Ok(Some(request)) => {
                served += 1;
                if let Err(error) = link.respond(handler(request)) {
                    break Err(error);
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    (served, end)
}

fn serve(
    script: Script,
    handler: impl FnMut(Request<Body>) -> Response<Body>,
) -> (usize, Result<(), Error>) {
    serve_with(limits(), script, handler)
}

fn hello(_: Request<Body>) -> Response<Body> {
    let mut response = Response::new(Body::from(HELLO));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn with_status(status: u16, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// What the device wrote for `bytes`, answered by `handler`.
fn answer_to(bytes: &[u8], handler: impl FnMut(Request<Body>) -> Response<Body>) -> String {
    let (script, seen) = Script::giving(bytes);
    serve(script, handler).1.unwrap();
    seen.text()
}

#[test]
fn answers_the_seeds_request_as_the_seed_shows() {
    let wanted = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 15\r\n\r\n!dlrow ,olleH\r\n";
    for name in ["seed-3-request", "draft-3-request"] {
        for steps in splits(&vector(name)).chain([drip(&vector(name))]) {
            let (script, seen) = Script::new(steps);
            let (served, end) = serve(script, hello);
            end.unwrap();
            assert_eq!(served, 1);
            assert_eq!(without_date(&seen.text()), wanted);
        }
    }
}

#[test]
fn bytes_behind_the_101_are_the_first_request_and_it_is_served_once() {
    let request = vector("seed-3-request");
    for at in 0..=request.len() {
        let (script, seen) = Script::giving(&request[at..]);
        let mut link = DeviceLink::new(script, request[..at].to_vec(), limits());
        let got = link.next_request().unwrap().unwrap();
        assert_eq!(got.uri(), "/");
        assert_eq!(got.headers()["accept"], "text/plain;q=1,*/*;q=0");
        link.respond(hello(got)).unwrap();
        assert!(link.next_request().unwrap().is_none());
        assert_eq!(seen.text().matches("200 OK").count(), 1);
    }
}

#[test]
fn pipelined_requests_are_answered_in_turn() {
    let mut bytes = Vec::new();
    for i in 0..20 {
        bytes.extend_from_slice(
            format!("POST /{i} HTTP/1.1\r\nHost:\r\nContent-Length: 3\r\n\r\nabc").as_bytes(),
        );
    }
    let (script, seen) = Script::giving(&bytes);
    let (served, end) = serve(script, |r| Response::new(r.uri().path().to_owned().into()));
    end.unwrap();
    assert_eq!(served, 20);
    let bodies: Vec<String> = seen
        .text()
        .split("\r\n\r\n")
        .skip(1)
        .map(|rest| rest.split("HTTP/1.1").next().unwrap().to_owned())
        .collect();
    assert_eq!(bodies, (0..20).map(|i| format!("/{i}")).collect::<Vec<_>>());
}

#[test]
fn a_small_exchange_costs_one_read_and_one_write_and_no_deadline() {
    let requests =
        (0..4).flat_map(|_| [Step::Give(b"GET /status HTTP/1.1\r\nHost:\r\n\r\n".to_vec())]);
    let (script, seen) = Script::new(requests);
    let mut link = DeviceLink::new(script, Vec::new(), limits());
    let request = link.next_request().unwrap().unwrap();
    link.respond(hello(request)).unwrap();
    seen.calls();
    for _ in 0..3 {
        let request = link.next_request().unwrap().unwrap();
        link.respond(hello(request)).unwrap();
        assert_eq!(seen.calls(), (1, 1, 0));
    }
}

#[test]
fn a_small_body_comes_and_goes_with_its_head() {
    let (script, seen) =
        Script::giving(b"POST / HTTP/1.1\r\nHost:\r\nContent-Length: 5\r\n\r\nhello");
    let mut link = DeviceLink::new(script, Vec::new(), limits());
    let request = link.next_request().unwrap().unwrap();
    seen.calls();
    link.respond(Response::new(request.into_body())).unwrap();
    let (reads, writes, _) = seen.calls();
    assert_eq!((reads, writes), (0, 1));
    assert!(seen.text().ends_with("Content-Length: 5\r\n\r\nhello"));
}

#[test]
fn short_writes_and_signals_change_nothing() {
    let steps = [
        Step::Interrupted,
        Step::Give(b"GET / HTTP/1.1\r\nHos".to_vec()),
        Step::Interrupted,
        Step::Give(b"t:\r\n\r\n".to_vec()),
    ];
    for max in [1, 2, 7, 100] {
        let (script, seen) = Script::new(steps.clone());
        let (served, end) =
            serve(script.write_max(max), |_| Response::new(Body::from(vec![b'x'; 40_000])));
        end.unwrap();
        assert_eq!(served, 1);
        let text = seen.text();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("Content-Length: 40000"));
        assert_eq!(body, "x".repeat(40_000));
    }
}

#[test]
fn one_stray_line_end_is_skipped() {
    let bytes = b"\r\nGET /a HTTP/1.1\r\nHost:\r\n\r\n\r\nGET /b HTTP/1.1\r\nHost:\r\n\r\n\r\n";
    for steps in splits(bytes).chain([drip(bytes)]) {
        let (script, _) = Script::new(steps);
        let (served, end) = serve(script, hello);
        end.unwrap();
        assert_eq!(served, 2);
    }
}

#[test]
fn host_may_be_missing_or_empty_but_not_twice() {
    for (head, status) in [
        ("", "200"),
        ("Host:\r\n", "200"),
        ("Host: any.example:1\r\n", "200"),
        ("Host: a\r\nHost: a\r\n", "400"),
        ("Host: u@a/b, c\r\n", "400"),
    ] {
        let (script, seen) = Script::giving(format!("GET / HTTP/1.1\r\n{head}\r\n").as_bytes());
        let (served, end) = serve(script, hello);
        assert_eq!(seen.text().split(' ').nth(1), Some(status), "{head:?}");
        assert_eq!((served, end.is_ok()), if status == "200" { (1, true) } else { (0, false) });
    }
}

#[test]
fn malformed_requests_are_refused_with_a_reason_and_never_shown() {
    let bad: [(&[u8], &str); 9] = [
        (b"GET / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nContent-Length: +5\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", "501"),
        (b"GET / HTTP/1.1\nHost:\n\n", "400"),
        (b"GET / HTTP/1.2\r\nHost:\r\n\r\n", "505"),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "400"),
        (b"GET /#x HTTP/1.1\r\nHost:\r\n\r\n", "400"),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "501"),
        (b"GET * HTTP/1.1\r\nHost:\r\n\r\n", "400"),
    ];
    for (bytes, status) in bad {
        let (script, seen) = Script::giving(bytes);
        let (served, end) = serve(script, hello);
        let text = seen.text();
        assert_eq!(served, 0, "{text}");
        assert!(end.unwrap_err().is_malformed());
        assert_eq!(text.split(' ').nth(1), Some(status), "{text}");
        assert!(
            text.contains("Connection: close\r\n") && text.contains("Content-Type: text/plain"),
            "{text}"
        );
        assert!(
            text.split("\r\n\r\n")
                .nth(1)
                .is_some_and(|reason| reason.len() > 5 && reason.ends_with('\n')),
            "{text}"
        );
    }
}

#[test]
fn other_protocols_get_no_answer_and_the_error_names_them() {
    for (bytes, name) in [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), "HTTP/2"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), "TLS"),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "SSH"),
    ] {
        let (script, seen) = Script::giving(&bytes);
        let (served, end) = serve(script, hello);
        assert_eq!((served, seen.text().as_str()), (0, ""));
        assert!(end.unwrap_err().to_string().contains(name));
    }
}

#[test]
fn a_head_cut_at_any_byte_is_an_error_and_no_request() {
    let request = vector("seed-3-request");
    for at in 1..request.len() {
        let (script, seen) = Script::giving(&request[..at]);
        let (served, end) = serve(script, hello);
        assert_eq!(served, 0);
        assert!(end.unwrap_err().is_closed());
        assert_eq!(seen.text(), "");
    }
}

#[test]
fn a_body_cut_at_any_byte_is_an_error_at_every_read() {
    let head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = b"4\r\nwiki\r\n5;x=y\r\npedia\r\n0\r\nX-T: 1\r\n\r\n";
    for at in 0..body.len() {
        let (script, seen) = Script::giving(&[head, &body[..at]].concat());
        let (_, end) = serve(script, |request| {
            let mut body = request.into_body();
            let mut bytes = Vec::new();
            assert!(body.read_to_end(&mut bytes).is_err(), "cut at {at}");
            assert!(body.read(&mut [0; 10]).is_err(), "an error must not turn into an end");
            assert!(body.trailers().is_none());
            with_status(400, "")
        });
        end.unwrap();
        assert!(seen.text().contains("Connection: close\r\n"));
    }
    for steps in splits(&[&head[..], body].concat()).chain([drip(&[&head[..], body].concat())]) {
        let (script, _) = Script::new(steps);
        let (served, end) = serve(script, |request| {
            let mut body = request.into_body();
            assert_eq!(body.length(), None);
            assert_eq!(body.read_to_text(9).unwrap(), "wikipedia");
            assert_eq!(body.trailers().unwrap()["x-t"], "1");
            with_status(204, "")
        });
        assert_eq!(served, 1);
        end.unwrap();
    }
}

#[test]
fn a_malformed_chunk_fails_the_body_and_ends_the_link() {
    for chunks in [
        "0x2\r\nab\r\n0\r\n\r\n",
        "2\r\nabX",
        "+2\r\nab\r\n0\r\n\r\n",
        "2 \r\nab\r\n0\r\n\r\n",
        "fffffffffffffffff\r\n",
    ] {
        let next = "GET /evil HTTP/1.1\r\nHost:\r\n\r\n";
        let (script, seen) = Script::giving(
            format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{next}")
                .as_bytes(),
        );
        let (served, end) = serve(script, |request| {
            let error = request.into_body().read_to_vec(100).unwrap_err();
            assert!(error.is_malformed(), "{error}");
            with_status(400, "")
        });
        end.unwrap();
        assert_eq!(served, 1, "{chunks:?}");
        assert!(seen.text().contains("Connection: close\r\n"));
    }
}

#[test]
fn the_handlers_own_framing_fields_are_overridden() {
    let text = answer_to(b"GET / HTTP/1.1\r\nHost:\r\n\r\n", |_| {
        let mut response = Response::new(Body::from("four"));
        for (name, value) in [
            ("content-length", "99"),
            ("transfer-encoding", "gzip, chunked"),
            ("connection", "upgrade, x-secret"),
            ("upgrade", "h2c"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("x-my-own-field", "kept"),
        ] {
            response.headers_mut().append(name, HeaderValue::from_static(value));
        }
        response
    });
    assert_eq!(
        without_date(&text),
        "HTTP/1.1 200 OK\r\nX-My-Own-Field: kept\r\nContent-Length: 4\r\n\r\nfour"
    );
}

#[test]
fn a_handler_may_close_and_may_set_its_own_date() {
    let text =
        answer_to(b"GET / HTTP/1.1\r\nHost:\r\n\r\nGET /next HTTP/1.1\r\nHost:\r\n\r\n", |_| {
            let mut response = Response::new(Body::empty());
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("x, Close"));
            response
                .headers_mut()
                .insert(header::DATE, HeaderValue::from_static("Tue, 13 May 2008 20:14:45 GMT"));
            response
        });
    assert_eq!(
        text,
        "HTTP/1.1 200 OK\r\nDate: Tue, 13 May 2008 20:14:45 GMT\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
}

#[test]
fn nothing_a_handler_says_splits_a_head() {
    // `http` refuses CR, LF and NUL in values; what it takes (a tab, obs-text) goes out as it is.
    for value in ["a\r\nx: y", "a\nb", "a\0b", "a\x07b"] {
        assert!(HeaderValue::from_str(value).is_err(), "{value:?}");
    }
    let text = answer_to(b"GET / HTTP/1.1\r\nHost:\r\n\r\n", |_| {
        let mut response = Response::new(Body::empty());
        response.headers_mut().insert("x-tab", HeaderValue::from_bytes(b"a\tb").unwrap());
        response
    });
    assert_eq!(text.matches("\r\n").count(), 5, "{text:?}");
}

#[test]
fn statuses_without_a_body_have_none_and_no_framing() {
    for (status, framing) in [(204, ""), (304, ""), (205, "Content-Length: 0\r\n")] {
        for body in [Body::from("dropped"), Body::empty(), Body::from_reader(io::repeat(b'x'))] {
            let mut body = Some(body);
            let text = answer_to(b"GET / HTTP/1.1\r\nHost:\r\n\r\n", |_| {
                let mut response = with_status(status, body.take().unwrap());
                response
                    .headers_mut()
                    .insert(header::CONTENT_LENGTH, HeaderValue::from_static("7"));
                response
            });
            let reason = StatusCode::from_u16(status).unwrap();
            assert_eq!(
                without_date(&text),
                format!(
                    "HTTP/1.1 {status} {}\r\n{framing}\r\n",
                    reason.canonical_reason().unwrap()
                )
            );
        }
    }
}

#[test]
fn head_gets_the_length_and_no_body() {
    let head = b"HEAD / HTTP/1.1\r\nHost:\r\n\r\n";
    let text = answer_to(head, hello);
    assert!(text.ends_with("Content-Length: 15\r\n\r\n"), "{text}");
    let text = answer_to(head, |_| Response::new(Body::from_reader(io::repeat(b'x'))));
    assert!(
        !text.contains("Content-Length")
            && !text.contains("Transfer-Encoding")
            && text.ends_with("\r\n\r\n"),
        "{text}"
    );
    // Metadata that a handler passes on, where it has no body; a body of its own says better.
    let with_length = |body: &'static str| {
        answer_to(head, move |_| {
            let mut response = Response::new(Body::from(body));
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("1234"));
            response
        })
    };
    assert!(with_length("").ends_with("Content-Length: 1234\r\n\r\n"));
    assert!(with_length("four").ends_with("Content-Length: 4\r\n\r\n"));
}

#[test]
fn an_unknown_length_is_chunked_or_until_close() {
    let body = || Body::from_reader(io::Cursor::new("streamed"));
    let text = answer_to(b"GET / HTTP/1.1\r\nHost:\r\n\r\n", |_| Response::new(body()));
    assert_eq!(
        without_date(&text),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nstreamed\r\n0\r\n\r\n"
    );
    let (script, seen) = Script::giving(b"GET / HTTP/1.0\r\n\r\nGET /never HTTP/1.0\r\n\r\n");
    let (served, end) = serve(script, |request| {
        assert_eq!(request.version(), Version::HTTP_10);
        Response::new(body())
    });
    end.unwrap();
    assert_eq!(served, 1);
    assert_eq!(without_date(&seen.text()), "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nstreamed");
    let text = answer_to(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", hello);
    assert!(text.contains("Content-Length: 15\r\nConnection: close\r\n"), "{text}");
}

#[test]
fn trailers_follow_a_chunked_body() {
    let body = || {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", HeaderValue::from_static("abc"));
        trailers.insert("content-length", HeaderValue::from_static("5"));
        trailers.insert("host", HeaderValue::from_static("evil"));
        Body::from("data").with_trailers(trailers)
    };
    let text = answer_to(b"GET / HTTP/1.1\r\nHost:\r\n\r\n", |_| Response::new(body()));
    assert!(
        text.ends_with(
            "Transfer-Encoding: chunked\r\n\r\n4\r\ndata\r\n0\r\nX-Checksum: abc\r\n\r\n"
        ),
        "{text}"
    );
    let text = answer_to(b"GET / HTTP/1.0\r\n\r\n", |_| Response::new(body()));
    assert!(text.ends_with("Content-Length: 4\r\nConnection: close\r\n\r\ndata"), "{text}");
}

#[test]
fn a_reader_that_fails_half_way_never_ends_its_message() {
    struct Failing(usize);
    impl Read for Failing {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::Error::other("the disk is gone"));
            }
            self.0 -= 1;
            buf[..4].copy_from_slice(b"good");
            Ok(4)
        }
    }
    let bodies: [fn() -> Body; 3] = [
        || Body::from_reader(Failing(2)),
        || Body::from_reader_with_length(Failing(2), 100),
        || Body::from_reader_with_length(io::Cursor::new("goodgood"), 100),
    ];
    for body in bodies {
        let (script, seen) =
            Script::giving(b"GET / HTTP/1.1\r\nHost:\r\n\r\nGET /next HTTP/1.1\r\nHost:\r\n\r\n");
        let mut link = DeviceLink::new(script, Vec::new(), limits());
        link.next_request().unwrap().unwrap();
        let error = link.respond(Response::new(body())).unwrap_err();
        assert!(error.to_string().contains("body"), "{error}");
        assert!(!seen.text().ends_with("0\r\n\r\n"), "{}", seen.text());
        assert!(!link.is_reusable());
        assert!(link.next_request().unwrap().is_none());
    }
}

#[test]
fn heartbeats_are_answered_and_never_shown() {
    let bytes = "OPTIONS * HTTP/1.1\r\nHost:\r\n\r\nOPTIONS * HTTP/1.1\r\nHost: gw\r\nX: y\r\nContent-Length: 0\r\n\r\nGET /real HTTP/1.1\r\nHost:\r\n\r\n\
                  OPTIONS /real HTTP/1.1\r\nHost:\r\n\r\nOPTIONS * HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\nGET /late HTTP/1.1\r\nHost:\r\n\r\n";
    for steps in splits(bytes.as_bytes()) {
        let (script, seen) = Script::new(steps);
        let mut shown = Vec::new();
        let (_, end) = serve(script, |request| {
            shown.push(format!("{} {}", request.method(), request.uri()));
            with_status(404, "")
        });
        end.unwrap();
        assert_eq!(shown, ["GET /real", "OPTIONS /real"]);
        let text = seen.text();
        assert_eq!(text.matches("HTTP/1.1 204 No Content\r\nDate: ").count(), 3, "{text}");
        assert!(text.ends_with("Connection: close\r\n\r\n"), "{text}");
    }
}

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
    // What comes behind the refusal is read and dropped, so that it is not lost to a reset.
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
