//! Fields.

use reverse_http::proto::body::{Decoder, of_request, of_response};
use reverse_http::proto::comet::{
    answer_from_json, answer_to_json, event_from_json, event_from_text, event_to_json,
};
use serde_json::{Value, json};

use super::super::{limits, show, small, status};
use super::{answer, both_refuse, event, event_with, refused, text, with};

#[track_caller]
fn both_take(members: &str) {
    answer(with(members));
    event(event_with(members));
}

// ── Fields ──

#[test]
fn order_repeats_and_spelling_of_fields_are_kept() {
    let headers = "\"headers\": [[\"X-B\", \"1\"], [\"x-a\", \"\"], [\"X-B\", \" 2\\t\"], [\"x-b\", \"3, 4\"], [\"Set-Cookie\", \"a=b\"]]";
    let lines = "X-B: 1\r\nx-a:\r\nX-B: 2\r\nx-b: 3, 4\r\nSet-Cookie: a=b\r\n";
    assert_eq!(text(with(headers)), format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 0\r\n\r\n"));
    assert_eq!(
        show(&event(event_with(headers)).text),
        show(format!("GET / HTTP/1.1\r\n{lines}\r\n").as_bytes())
    );
}

#[test]
fn what_is_no_list_of_pairs_is_no_headers() {
    for value in [
        "{}",
        "{\"A\": \"b\"}",
        "[{\"A\": \"b\"}]",
        "[\"A\", \"b\"]",
        "[[]]",
        "[[\"A\"]]",
        "[[\"A\", \"b\", \"c\"]]",
        "[[\"A\", [\"b\"]]]",
        "[[\"A\", null]]",
        "[[\"A\", 1]]",
        "[[null, \"b\"]]",
        "[[\"A\", \"b\"], null]",
        "[[\"A\", \"b\"],]",
        "[[\"A\", \"b\",]]",
        "[[\"A\" \"b\"]]",
        "[[\"A\": \"b\"]]",
        "\"A: b\"",
        "null",
    ] {
        both_refuse(&format!("\"headers\": {value}"));
        both_refuse(&format!("\"trailers\": {value}"));
    }
    both_take("\"headers\": [[\"A\", \"b\"]]");
    both_take("\"trailers\": [[\"A\", \"b\"]]");
}

#[test]
fn nothing_in_json_splits_a_line() {
    // T10. NUL to 0x1F and 0x7F, but HTAB within a value; each beside a text that passes.
    let controls = (0u32..0x20).chain([0x7F]);
    for byte in controls.clone() {
        let (name, value) = (format!("\"a\\u{byte:04x}b\""), format!("\"c\\u{byte:04x}d\""));
        for list in ["headers", "trailers"] {
            both_refuse(&format!("\"{list}\": [[{name}, \"v\"]]"));
            let members = format!("\"{list}\": [[\"n\", {value}]]");
            if byte == 9 {
                both_take(&members)
            } else {
                both_refuse(&members)
            }
            // Also in what is left out in the end.
            for dropped in ["Connection", "Transfer-Encoding", "Content-Length", "Host"] {
                let members = format!("\"{list}\": [[\"{dropped}\", {value}]]");
                if byte == 9 { both_take(&members) } else { both_refuse(&members) }
            }
        }
        let reason =
            answer_from_json(with(&format!("\"reason\": {value}")).as_bytes(), None, &limits());
        assert_eq!(reason.is_ok(), byte == 9, "reason with {byte:#x}");
        for (method, target) in [(value.as_str(), "\"/\""), ("\"GET\"", value.as_str())] {
            let bytes = format!(
                "{{\"message-id\": \"xxx\", \"method\": {method}, \"request-uri\": {target}}}"
            );
            assert_eq!(
                status(event_from_json(bytes.as_bytes(), None, &limits())),
                Err(400),
                "{bytes}"
            );
        }
        let id = format!("{{\"message-id\": {value}}}");
        refused(&id);
    }
    for split in [
        "\\r\\nX: y",
        "\\nX: y",
        "\\rX: y",
        "\\r\\n\\r\\nHTTP/1.1 200 OK\\r\\n\\r\\n",
        "\\u000d\\u000aX: y",
        "\\u010a",
        "\\u560a",
    ] {
        for list in ["headers", "trailers"] {
            both_refuse(&format!("\"{list}\": [[\"X\", \"a{split}\"]]"));
            both_refuse(&format!("\"{list}\": [[\"X{split}\", \"a\"]]"));
        }
        refused(with(&format!("\"reason\": \"OK{split}\"")));
    }
}

#[test]
fn names_methods_and_targets_are_what_a_head_takes() {
    for name in [
        "", " ", "A:", "A b", " A", "A ", "A\\\"", "(A)", "A/b", "A,b", "\\u00e4", "\\u00c4",
        "\\u212a", "A\\u00a0",
    ] {
        both_refuse(&format!("\"headers\": [[\"{name}\", \"v\"]]"));
        both_refuse(&format!("\"trailers\": [[\"{name}\", \"v\"]]"));
    }
    let event = |method: &str, target: &str| {
        let bytes =
            json!({"message-id": "xxx", "method": method, "request-uri": target}).to_string();
        status(event_from_json(bytes.as_bytes(), None, &limits())).map(|event| event.unwrap().text)
    };
    for method in ["GET", "M-SEARCH", "get", "!#$%&'*+-.^_`|~"] {
        assert_eq!(
            event(method, "/").map(|text| show(&text)),
            Ok(show(format!("{method} / HTTP/1.1\r\n\r\n").as_bytes()))
        );
    }
    for method in ["", " ", "G T", " GET", "GET ", "GET / HTTP/1.1", "GÄT", "G\"T", "G/T", "(GET)"]
    {
        assert_eq!(event(method, "/"), Err(400), "{method:?}");
    }
    for target in ["/", "*", "/a?b=c&d#e", "http://a/b", "//x", "/%00", "/{|}"] {
        assert_eq!(
            event("GET", target).map(|text| show(&text)),
            Ok(show(format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes()))
        );
    }
    for target in [
        "",
        " ",
        "/a b",
        " /",
        "/ ",
        "/ HTTP/1.1",
        "/ä",
        "/\u{e4}",
        "/\u{120}",
        "/\u{7f}",
        "/\u{1F4A1}",
    ] {
        assert_eq!(event("GET", target), Err(400), "{target:?}");
    }
}

#[test]
fn bytes_above_0x7f_travel_as_iso_8859_1() {
    // Every byte that a value may have, there and back.
    let value: Vec<u8> = (0x21..=0xFFu8).filter(|byte| *byte != 0x7F).collect();
    let head = [b"HTTP/1.1 200 caf\xE9\r\nX: ", value.as_slice(), b"\r\nContent-Length: 0\r\n\r\n"]
        .concat();
    let mut out = Vec::new();
    answer_to_json(&mut out, "xxx", "PTTH/1.0", &head, false, &limits()).unwrap();
    let members: Value = serde_json::from_slice(&out).unwrap();
    let latin: String = value.iter().map(|byte| char::from(*byte)).collect();
    assert_eq!(
        (members["headers"][0][1].as_str(), members["reason"].as_str()),
        (Some(latin.as_str()), Some("caf\u{e9}"))
    );
    assert_eq!(show(&answer(&out).into_text(false)), show(&head));
    let request = [b"GET / HTTP/1.1\r\nX: ", value.as_slice(), b"\r\n\r\n"].concat();
    let mut out = Vec::new();
    event_to_json(&mut out, "xxx", &request, &limits()).unwrap();
    assert_eq!(show(&event(&out).text), show(&request));
    // UTF-8 in a header is its bytes, not its characters.
    let mut out = Vec::new();
    event_to_json(&mut out, "xxx", "GET / HTTP/1.1\r\nX: ä\r\n\r\n".as_bytes(), &limits()).unwrap();
    let members: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(members["headers"][0][1].as_str(), Some("\u{c3}\u{a4}"));

    for character in ["\\u0100", "\\u20ac", "\\ud83d\\ude00", "\u{100}", "\\uffff"] {
        both_refuse(&format!("\"headers\": [[\"X\", \"{character}\"]]"));
        both_refuse(&format!("\"trailers\": [[\"X\", \"{character}\"]]"));
        refused(with(&format!("\"reason\": \"{character}\"")));
    }
    both_take("\"headers\": [[\"X\", \"\\u00ff\"]]");
    assert_eq!(
        answer(with("\"reason\": \"\\u00ff\"")).into_text(false),
        b"HTTP/1.1 200 \xFF\r\nContent-Length: 0\r\n\r\n"
    );
}

#[test]
fn fields_that_frame_or_belong_to_one_connection_do_not_travel() {
    let dropped = [
        "Transfer-Encoding: chunked",
        "Connection: close, X-Hop, Cache-Control",
        "connection: keep-alive, x-late",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: close",
        "Upgrade: websocket",
        "TE: trailers",
        "Expect: 100-continue",
        // Named by Connection, before it and after it.
        "X-Hop: 1",
        "X-Late: 2",
    ];
    // End-to-end fields stay, though they are named (RFC 9110 §7.6.1).
    let lines = format!("X-late: 3\r\n{}\r\nCache-Control: no-store", dropped.join("\r\n"));
    let (request, response) = (
        format!("POST / HTTP/1.1\r\n{lines}\r\nX: y\r\n\r\n0\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\n{lines}\r\nX: y\r\n\r\n0\r\n\r\n"),
    );
    for is_event in [true, false] {
        let mut out = Vec::new();
        if is_event {
            event_to_json(&mut out, "xxx", request.as_bytes(), &limits()).unwrap();
        } else {
            answer_to_json(&mut out, "xxx", "PTTH/1.0", response.as_bytes(), false, &limits())
                .unwrap();
        }
        let members: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            members["headers"],
            json!([["Cache-Control", "no-store"], ["X", "y"]]),
            "{members}"
        );
    }
    // And where a peer wrote them into its JSON.
    let pairs: Vec<[&str; 2]> =
        dropped.iter().map(|line| line.split_once(": ").unwrap().into()).collect();
    let headers = json!(pairs).to_string();
    let bytes = with(&format!("\"body\": \"hello\", \"headers\": {headers}"));
    assert_eq!(text(bytes), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    let bytes = event_with(&format!("\"body\": \"hello\", \"headers\": {headers}"));
    assert_eq!(show(&event(bytes).text), show(b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"));
    // As many as a link takes, and no more.
    for (many, taken) in [(16, true), (17, false)] {
        let names: Vec<String> = (0..many).map(|n| format!("x-{n}")).collect();
        let connection = names.join(", ");
        let headers = json!([["Connection", connection], ["X-0", "1"]]).to_string();
        let members = format!("\"headers\": {headers}");
        if taken {
            assert_eq!(text(with(&members)), "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        } else {
            both_refuse(&members);
        }
        let response = format!(
            "HTTP/1.1 200 OK\r\nConnection: {connection}\r\nX-0: 1\r\nContent-Length: 0\r\n\r\n"
        );
        let written =
            answer_to_json(&mut Vec::new(), "x", "PTTH/1.0", response.as_bytes(), false, &limits());
        assert_eq!(
            written.map_err(|refusal| refusal.status),
            if taken { Ok(()) } else { Err(502) }
        );
    }
}

#[test]
fn the_length_is_what_the_body_has() {
    for stated in ["5", "4", "999999", "0", "+5", "x", "", "-1", "5, 6", "18446744073709551616"] {
        let headers =
            json!([["Content-Length", stated], ["X", "y"], ["content-length", "7"]]).to_string();
        let bytes = with(&format!("\"headers\": {headers}, \"body\": \"hell\\u00f6\""));
        assert_eq!(
            text(bytes),
            "HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 6\r\n\r\nhellö",
            "{stated:?}"
        );
        let bytes = event_with(&format!("\"headers\": {headers}, \"body\": \"hello\""));
        assert_eq!(
            show(&event(bytes).text),
            show(b"GET / HTTP/1.1\r\nX: y\r\nContent-Length: 5\r\n\r\nhello"),
            "{stated:?}"
        );
    }
    // On its way out it is left out too: it would only say the same once more.
    let mut out = Vec::new();
    event_to_json(&mut out, "xxx", b"POST / HTTP/1.1\r\ncontent-LENGTH: 5\r\n\r\nhello", &limits())
        .unwrap();
    let members: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!((&members["headers"], &members["body"]), (&json!([]), &json!("hello")));
}

#[test]
fn the_length_of_what_head_and_304_leave_out_is_kept() {
    let response = "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nX: y\r\n\r\n";
    let mut out = Vec::new();
    answer_to_json(&mut out, "xxx", "PTTH/1.0", response.as_bytes(), true, &limits()).unwrap();
    let members: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(members["headers"], json!([["Content-Length", "1234"], ["X", "y"]]));
    let kept = "HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 1234\r\n\r\n";
    assert_eq!(show(&answer(&out).into_text(true)), show(kept.as_bytes()));
    // To a GET there has to be a body, and its length is its own.
    assert_eq!(
        show(&answer(&out).into_text(false)),
        show(b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 0\r\n\r\n")
    );

    let mut out = Vec::new();
    answer_to_json(
        &mut out,
        "xxx",
        "PTTH/1.0",
        b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 9\r\n\r\n",
        false,
        &limits(),
    )
    .unwrap();
    for is_head in [false, true] {
        let text = answer(&out).into_text(is_head);
        assert_eq!(
            show(&text),
            show(b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 9\r\n\r\n")
        );
    }
    // A body where none may be is left out; 204 has no length at all.
    let bytes = |status: u16| {
        with(&format!(
            "\"status\": {status}, \"headers\": [[\"Content-Length\", \"7\"]], \"body\": \"hello\""
        ))
    };
    for (status, is_head, text) in [
        (204, false, "HTTP/1.1 204 No Content\r\n\r\n"),
        (204, true, "HTTP/1.1 204 No Content\r\n\r\n"),
        (304, false, "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"),
        (200, true, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"),
    ] {
        assert_eq!(show(&answer(bytes(status)).into_text(is_head)), show(text.as_bytes()));
    }
    // What is no one number is no metadata.
    for headers in [
        json!([]),
        json!([["Content-Length", "+7"]]),
        json!([["Content-Length", "7x"]]),
        json!([["Content-Length", ""]]),
        json!([["Content-Length", "7, 8"]]),
        json!([["Content-Length", "7"], ["content-length", "8"]]),
        json!([["Content-Length", "99999999999999999999"]]),
    ] {
        let bytes = json!({"message-id": "xxx", "headers": headers}).to_string();
        assert_eq!(
            show(&answer(bytes).into_text(true)),
            show(b"HTTP/1.1 200 OK\r\n\r\n"),
            "{headers}"
        );
    }
}

#[test]
fn a_head_has_its_bounds_in_json_too() {
    let limits = small(512, 8, 64);
    let answer = |members: &str| {
        let read = answer_from_json(with(members).as_bytes(), None, &limits);
        status(read).map(|answer| answer.unwrap().into_text(false))
    };
    let event = |members: &str| {
        status(event_from_json(event_with(members).as_bytes(), None, &limits))
            .map(|event| event.unwrap().text)
    };
    let headers =
        |n: usize| format!("\"body\": \"hello\", \"headers\": {}", json!(vec![["X", "y"]; n]));
    assert!(
        answer(&headers(7)).is_ok() && event(&headers(7)).is_ok(),
        "with the length there are eight"
    );
    assert_eq!(answer(&headers(9)), Err(400));
    assert!(matches!(event(&headers(9)), Err(400 | 431)));
    let long =
        |n: usize| format!("\"body\": \"hello\", \"headers\": {}", json!([["X", "y".repeat(n)]]));
    assert!(answer(&long(300)).is_ok() && event(&long(300)).is_ok());
    assert_eq!(answer(&long(600)), Err(400));
    assert!(matches!(event(&long(600)), Err(400 | 431)));
    let target = json!({"message-id": "xxx", "method": "GET", "request-uri": format!("/{}", "y".repeat(64))}).to_string();
    assert!(matches!(status(event_from_json(target.as_bytes(), None, &limits)), Err(400 | 414)));

    // Whatever is taken can be read again under the same bounds, at each side of each bound.
    for n in 0..10 {
        for framed in [
            "",
            "\"body\": \"hello\", ",
            "\"trailers\": [[\"X-Sum\", \"1\"]], ",
            "\"status\": 304, ",
        ] {
            let members = format!("{framed}\"headers\": {}", json!(vec![["X", "y"]; n]));
            readable(&members, &limits);
        }
        readable(&format!("\"trailers\": {}", json!(vec![["X", "y"]; n])), &limits);
    }
    for n in 400..512 {
        readable(&long(n), &limits);
        readable(&format!("\"trailers\": {}", json!([["X", "y".repeat(n)]])), &limits);
        readable(
            &format!(
                "\"trailers\": {}",
                json!([["X", "y".repeat(n - 260)], ["Y", "z".repeat(250)]])
            ),
            &limits,
        );
        readable(&format!("\"reason\": \"{}\"", "y".repeat(n)), &limits);
    }
}

/// Fails where these members are taken, and their text cannot be read under the same bounds.
#[track_caller]
fn readable(members: &str, limits: &reverse_http::Limits) {
    use reverse_http::proto::head::{LineEnds, request, response};
    if let Ok(answer) = answer_from_json(with(members).as_bytes(), None, limits) {
        for is_head in [false, true] {
            let text = answer.clone().unwrap().into_text(is_head);
            let head = response(&text, limits, LineEnds::Crlf)
                .unwrap_or_else(|e| panic!("answer {members}: {e}"))
                .unwrap();
            let mut decoder = Decoder::new(
                of_response(&head, if is_head { "HEAD" } else { "GET" }).unwrap(),
                limits,
            );
            let mut rest = &text[head.len..];
            while !decoder.is_done() {
                let (n, _) =
                    decoder.decode(rest).unwrap_or_else(|e| panic!("answer {members}: {e}"));
                rest = &rest[n..];
            }
        }
    }
    if let Ok(event) = event_from_json(event_with(members).as_bytes(), None, limits) {
        let text = event.unwrap().text;
        let head = request(&text, limits, LineEnds::Crlf)
            .unwrap_or_else(|e| panic!("event {members}: {e}"))
            .unwrap();
        of_request(&head).unwrap();
        event_from_text("xxx", text, limits).unwrap_or_else(|e| panic!("event {members}: {e}"));
    }
}
