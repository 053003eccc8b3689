//! What an event is, what becomes of its answer, and uploads.

use std::time::Duration;

use serde_json::{Value, json};

use super::Kind::{Json, Text};
use super::{BOTH, BOUND, Device, Reply, answer_json, asks, chunk, in_hand, ok, reply};
use crate::support::process::get;
use crate::support::{Gateway, Hash, pattern};

// ── What an event is, and what becomes of its answer ──

#[test]
fn an_event_is_the_request_that_a_link_would_have_had() {
    let gateway = Gateway::start(&[]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        let mut visitor = asks(
            &gateway,
            b"OPTIONS /lamp/a%2Fb//c?x=1&y=%00 HTTP/1.1\r\nHost: a.example:8080\r\nx-first: 1\r\nX-Second: caf\xE9\r\nX-FIRST: 2\r\nCookie: a=\"b\\\"\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: gzip\r\nX_Under: 1\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Prefix: /evil\r\nForwarded: for=6.6.6.6\r\n\r\n",
        );
        let event = device.event();
        assert_eq!(
            (event.method.as_str(), event.target.as_str()),
            ("OPTIONS", "/a%2Fb//c?x=1&y=%00")
        );
        assert_eq!(event.get("host"), Some("a.example:8080"));
        assert_eq!(
            event.get("x-second"),
            Some("caf\u{e9}"),
            "bytes above 0x7F are those of ISO-8859-1"
        );
        assert_eq!(event.get("cookie"), Some("a=\"b\\\""));
        let spelled: Vec<&str> = event
            .fields
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|n| n.starts_with(['x', 'X']))
            .collect();
        assert_eq!(
            spelled[..3],
            ["x-first", "X-Second", "X-FIRST"],
            "order and spelling are kept: {:?}",
            event.fields
        );
        assert_eq!(event.all("x-first"), ["1", "2"]);
        assert_eq!(event.get("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(event.get("x-forwarded-proto"), Some("http"));
        assert_eq!(event.get("x-forwarded-host"), Some("a.example:8080"));
        assert_eq!(event.get("x-forwarded-prefix"), Some("/lamp"));
        assert!(event.all("via").iter().any(|via| via.contains("ptth")), "{:?}", event.fields);
        for name in ["x-hop", "x_under", "te", "forwarded", "keep-alive", "connection"] {
            assert!(event.all(name).is_empty(), "{name} was forwarded: {:?}", event.fields);
        }
        device.answer(&event, &ok(""));
        visitor.read_answer("OPTIONS").expect_ok("");
        // The last that fits: 99 fields beside its Host, a target of 7,994 bytes after the name.
        for request in [
            format!("GET /lamp/x HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(99)),
            format!("GET /lamp/{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(7_994)),
        ] {
            let mut visitor = asks(&gateway, &request);
            let event = device.event();
            assert_eq!(event.all("x").len(), request.matches("X: y").count());
            device.answer(&event, &ok("fits"));
            visitor.read_answer("GET").expect_ok("fits");
        }
    }
}

#[test]
fn an_answer_reaches_its_visitor_as_over_a_link() {
    let gateway = Gateway::start(&[]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        let (mut visitor, event) = in_hand(&gateway, &mut device);
        let fields = [
            ("Set-Cookie", "a=1"),
            ("x-lower", "caf\u{e9}\u{ff}"),
            ("set-cookie", "b=2"),
            ("Server", "it"),
            ("Connection", "close"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "x"),
            ("Upgrade", "h2c"),
        ];
        device.answer(&event, &reply(299, "Rather Unusual", &fields, "\u{e4}\u{20ac}\u{1F4A1}\0"));
        let answer = visitor.read_answer("GET");
        assert_eq!(answer.head.start, "HTTP/1.1 299 Rather Unusual", "{kind:?}");
        assert_eq!(answer.body, "\u{e4}\u{20ac}\u{1F4A1}\0".as_bytes(), "{kind:?}");
        assert_eq!(answer.head.all("set-cookie"), ["a=1", "b=2"]);
        assert_eq!(
            (answer.head.get("x-lower"), answer.head.get("server")),
            (Some("caf\u{e9}\u{ff}"), Some("it"))
        );
        for name in ["keep-alive", "proxy-connection", "upgrade", "ptth-message-id"] {
            assert!(answer.head.all(name).is_empty(), "{name} in {}", answer.head.text());
        }
        assert!(!answer.head.closes(), "{}", answer.head.text());
        // The visitor's connection goes on, and so does the device's. Bytes that are no text:
        let bytes: Vec<u8> = (0..=255).collect();
        visitor.write(get("/lamp/bytes"));
        let event = device.event();
        device.answer(&event, &ok(&bytes));
        assert_eq!(visitor.read_answer("GET").body, bytes, "{kind:?}");
        // An empty reason phrase is legal.
        visitor.write(get("/lamp/reason"));
        let event = device.event();
        device.answer(&event, &reply(500, "", &[], ""));
        let answer = visitor.read_answer("GET");
        assert_eq!(
            (answer.status(), answer.body.len(), answer.head.get("content-length")),
            (500, 0, Some("0"))
        );
    }
}

#[test]
fn answers_without_a_body_keep_the_length_they_speak_of() {
    let gateway = Gateway::start(&[]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        let mut visitor = gateway.visitor();
        for (method, status, length) in [
            ("HEAD", 200, Some("1234")),
            ("HEAD", 200, None),
            ("GET", 304, Some("1234")),
            ("GET", 304, None),
            ("GET", 204, None),
            ("HEAD", 204, None),
        ] {
            visitor.write(format!("{method} /lamp/x HTTP/1.1\r\nHost: a\r\n\r\n"));
            let event = device.event();
            assert_eq!(event.method, method);
            let fields: Vec<(&str, &str)> = length
                .map(|length| ("Content-Length", length))
                .into_iter()
                .chain([("ETag", "\"a\"")])
                .collect();
            device.answer(&event, &reply(status, "Fine", &fields, ""));
            let answer = visitor.read_answer(method);
            assert_eq!(
                (answer.status(), answer.head.get("etag")),
                (status, Some("\"a\"")),
                "{kind:?}"
            );
            if length.is_some() || status == 204 {
                assert_eq!(
                    answer.head.get("content-length"),
                    length,
                    "{kind:?} {method} {status}: {}",
                    answer.head.text()
                );
            }
            assert!(!answer.head.closes(), "{}", answer.head.text());
        }
    }
}

#[test]
fn in_json_what_may_not_be_there_is_left_out_and_what_is_left_out_is_made_up_for() {
    let gateway = Gateway::start(&[]);
    // In JSON, what may not be there is left out, and a length that is wrong counts for nothing.
    let mut device = Device::polling(&gateway, "lamp", Json);
    let mut visitor = gateway.visitor();
    for (method, status, fields, body) in [
        ("HEAD", 200, json!([["Content-Length", "5"]]), "hello"),
        ("GET", 204, json!([["Content-Length", "5"]]), "hello"),
        ("GET", 304, json!([]), "hello"),
        ("GET", 200, json!([["Content-Length", "999"], ["Transfer-Encoding", "chunked"]]), "hello"),
    ] {
        visitor.write(format!("{method} /lamp/x HTTP/1.1\r\nHost: a\r\n\r\n"));
        let event = device.event();
        device.post(
            "application/json",
            "",
            json!({"message-id": event.id, "status": status, "headers": fields, "body": body})
                .to_string(),
        );
        let answer = visitor.read_answer(method);
        assert_eq!(answer.status(), status);
        assert_eq!(
            answer.text(),
            if method == "GET" && status == 200 { "hello" } else { "" },
            "{}",
            answer.head.text()
        );
    }
    // And what an answer may leave out is made up for.
    visitor.write(get("/lamp/x"));
    let event = device.event();
    device.post(
        "application/json; charset=utf-8",
        "",
        json!({"message-id": event.id, "unknown": [1, {}]}).to_string(),
    );
    let answer = visitor.read_answer("GET");
    assert_eq!(answer.head.start, "HTTP/1.1 200 OK");
    answer.expect_ok("");
}

#[test]
fn text_plain_stands_for_message_http_from_seed_style_peers() {
    let gateway = Gateway::start(&[]);
    let mut device = Device::polling(&gateway, "lamp", Text);
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    let id = format!("PTTH-Message-ID: {}\r\n", event.id);
    device.post(
        "text/plain; charset=us-ascii",
        &id,
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    );
    visitor.read_answer("GET").expect_ok("ok");
    // Interim responses are dropped.
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    let id = format!("PTTH-Message-ID: {}\r\n", event.id);
    let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    device.post("message/http;msgtype=response", &id, text);
    let answer = visitor.read_answer("GET");
    answer.expect_ok("ok");
    assert!(answer.interim.is_empty(), "1xx through a mailbox");
}

#[test]
fn trailers_travel_both_ways() {
    let gateway = Gateway::start(&[]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        let mut visitor = asks(
            &gateway,
            "POST /lamp/x HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX-Sum: 1\r\nx-sum: 2\r\nContent-Length: 7\r\n\r\n",
        );
        let event = device.event();
        assert_eq!(
            (event.body.as_slice(), event.method.as_str()),
            (&b"hello"[..], "POST"),
            "{kind:?}"
        );
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(event.trailers, [pair("X-Sum", "1"), pair("x-sum", "2")], "{kind:?}");
        device.answer(
            &event,
            &Reply {
                trailers: vec![pair("X-Digest", "abc"), pair("Set-Cookie", "a=b")],
                ..ok("hello")
            },
        );
        let answer = visitor.read_answer("POST");
        answer.expect_ok("hello");
        assert_eq!(answer.trailers, [pair("X-Digest", "abc")], "{kind:?}: {}", answer.head.text());
    }
}

// ── Uploads ──

#[test]
fn uploads_arrive_whole_in_both_encodings() {
    let gateway = Gateway::start(&[]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        let mut visitor = gateway.visitor();
        let bytes = pattern(300_000);
        let chunked: Vec<u8> = bytes
            .chunks(7_001)
            .flat_map(|piece| {
                [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()
            })
            .collect();
        for (framing, wire, body) in [
            ("Content-Length: 0", vec![], vec![]),
            (
                "Content-Length: 11",
                b"hell\xC3\xB6\r\n\r\n\0".to_vec(),
                b"hell\xC3\xB6\r\n\r\n\0".to_vec(),
            ),
            ("Content-Length: 300000", bytes.clone(), bytes.clone()),
            (
                "Transfer-Encoding: chunked",
                [chunked.as_slice(), b"0\r\n\r\n"].concat(),
                bytes.clone(),
            ),
            ("Transfer-Encoding: chunked", b"0\r\n\r\n".to_vec(), vec![]),
        ] {
            visitor.write(format!(
                "PUT /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Type: a/b\r\n{framing}\r\n\r\n"
            ));
            visitor.write(&wire);
            let event = device.event();
            assert_eq!((event.method.as_str(), event.get("content-type")), ("PUT", Some("a/b")));
            assert_eq!(Hash::of(&event.body), Hash::of(&body), "{kind:?} {framing}");
            if kind == Json {
                let members: Value = serde_json::from_slice(&event.bytes).unwrap();
                assert_eq!(
                    members.get("body-encoding").is_some(),
                    std::str::from_utf8(&body).is_err()
                );
            }
            device.answer(&event, &ok("thanks"));
            visitor.read_answer("PUT").expect_ok("thanks");
        }
    }
}

#[test]
fn a_visitor_who_expects_a_100_gets_it_from_the_gateway() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    for (kind, framing, body) in [
        (Json, "Content-Length: 5", "hello"),
        (Text, "Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
    ] {
        let mut device = Device::polling(&gateway, "lamp", kind);
        let mut visitor = asks(
            &gateway,
            format!(
                "POST /lamp/x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n{framing}\r\n\r\n"
            ),
        );
        assert_eq!(visitor.read_head().start, "HTTP/1.1 100 Continue");
        device.quiet(); // it gets the whole of it or nothing
        visitor.write(body);
        let event = device.event();
        assert_eq!(event.body, b"hello");
        device.answer(&event, &ok("ok"));
        visitor.read_answer("POST").expect_ok("ok");
    }
}

#[test]
fn an_upload_that_is_cut_never_reaches_the_device() {
    let gateway = Gateway::start(&[]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        for (framing, body) in [
            ("Content-Length: 6", "hello"),
            ("Transfer-Encoding: chunked", "5\r\nhello\r\n"),
            ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n"),
            ("Transfer-Encoding: chunked", "5\r\nhello!\r\n0\r\n\r\n"),
        ] {
            let mut visitor = asks(
                &gateway,
                format!("POST /lamp/cut HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}"),
            );
            visitor.finish_writing();
            if let Some(head) = visitor.try_read_head() {
                assert_eq!(head.status(), 400, "{}", head.text());
            }
            device.serves(&gateway, "behind-it"); // fails where the cut one is the event
        }
    }
}

#[test]
fn an_upload_at_the_bound_passes_and_one_above_it_is_413() {
    let gateway = Gateway::start(&["--wait-for-link", "9s", "--poll-hold", "80s"]); // 8 MiB may take their time
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        device.peer.deadline = Duration::from_secs(60);
        let bytes = pattern(BOUND);
        let mut visitor = asks(
            &gateway,
            format!("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: {BOUND}\r\n\r\n"),
        );
        visitor.deadline = Duration::from_secs(60);
        visitor.write(&bytes);
        let event = device.event();
        assert_eq!(Hash::of(&event.body), Hash::of(&bytes), "{kind:?}");
        device.answer(&event, &ok("all of it"));
        visitor.read_answer("POST").expect_ok("all of it");
        // One byte more, announced.
        for expect in ["", "Expect: 100-continue\r\n"] {
            let mut visitor = asks(
                &gateway,
                format!(
                    "POST /lamp/x HTTP/1.1\r\nHost: a\r\n{expect}Content-Length: {}\r\n\r\n",
                    BOUND + 1
                ),
            );
            let answer = visitor.read_answer("POST");
            answer.expect_refusal(413);
            assert!(answer.interim.is_empty(), "a 100 for what is refused");
        }
        // And not announced.
        let mut visitor = asks(
            &gateway,
            "POST /lamp/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        visitor.deadline = Duration::from_secs(60);
        visitor.write(chunk(vec![b'x'; BOUND]));
        visitor.write(chunk("x")); // and no more, so that the answer is not lost to a reset
        visitor.read_answer("POST").expect_refusal(413);
        device.serves(&gateway, "behind-it");
    }
}

#[test]
fn an_answer_in_json_above_the_bound_is_413_and_502() {
    let gateway = Gateway::start(&["--wait-for-link", "9s", "--poll-hold", "80s"]);
    let mut device = Device::polling(&gateway, "lamp", Json);
    device.peer.deadline = Duration::from_secs(60);
    // At the bound it passes.
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    visitor.deadline = Duration::from_secs(60);
    let rest = answer_json(&event, &ok("")).len();
    let body = "x".repeat(BOUND - rest);
    let whole = answer_json(&event, &ok(&body));
    assert_eq!(whole.len(), BOUND);
    device.post("application/json", "", whole);
    assert_eq!(visitor.read_answer("GET").body.len(), body.len());
    // Above it: the field says whose answer it is, so the visitor need not wait.
    for framing in
        [format!("Content-Length: {}", BOUND + 1), "Transfer-Encoding: chunked".to_owned()]
    {
        let (mut visitor, event) = in_hand(&gateway, &mut device);
        let mut other = device.again();
        other.peer.write(format!(
            "POST /lamp HTTP/1.1\r\nHost: gw\r\nContent-Type: application/json\r\nPTTH-Message-ID: {}\r\n{framing}\r\n{}\r\n",
            event.id, other.fields
        ));
        if framing.starts_with('T') {
            other.peer.deadline = Duration::from_secs(60);
            other.peer.write(chunk(vec![b' '; BOUND]));
            other.peer.write(chunk(" "));
        }
        other.refused(&[413]);
        visitor.read_answer("GET").expect_refusal(502);
        device.poll();
    }
    // Without it nobody knows whose it was: the event can still be answered.
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    let mut other = device.again();
    let head = format!(
        "POST /lamp HTTP/1.1\r\nHost: gw\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
        BOUND + 1
    );
    other.peer.write(format!("{head}{}\r\n", other.fields));
    other.refused(&[413]);
    device.answer(&event, &ok("small"));
    visitor.read_answer("GET").expect_ok("small");
    device.serves(&gateway, "behind-it");
}
