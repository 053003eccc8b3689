//! What is written: responses, their framing, heartbeats.

use std::io::{self, Read};

use http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header};
use reverse_http::{Body, DeviceLink};

use super::super::{Script, limits, splits, without_date};
use super::{answer_to, hello, serve, with_status};

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
        trailers.insert("content-language", HeaderValue::from_static("de"));
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
