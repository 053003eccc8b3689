//! What is read: requests and their bodies.

use std::io::Read;

use http::Response;
use reverse_http::{Body, DeviceLink};

use super::super::{Script, Step, drip, limits, splits, vector, without_date};
use super::{hello, serve, with_status};

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
