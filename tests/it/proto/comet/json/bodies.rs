//! Bodies.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reverse_http::proto::comet::{answer_to_json, event_to_json};
use serde_json::{Value, json};

use super::super::{limits, request_parts, show, status};
use super::{answer, both_refuse, event, event_with, response_parts, text, with};

// ── Bodies ──

#[test]
fn text_is_text_and_anything_else_is_base64() {
    let response = |body: &[u8]| {
        [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(), body]
            .concat()
    };
    for (body, encoded) in [
        (&b""[..], false),
        (b"hello", false),
        (b"\0\x01\r\n\"\\\x7F", false),
        ("ä €\u{1F4A1} \u{FEFF}\u{2028}\u{FFFF}\u{10FFFF}".as_bytes(), false),
        (b"\xFF", true),
        (b"\xC3", true),
        (b"hello\x80", true),
        (b"\xED\xA0\x80", true), // a surrogate
        (b"\xC0\xAF", true),     // an overlong slash
        (b"\xF5\x80\x80\x80", true),
    ] {
        let (mut out, text) = (Vec::new(), response(body));
        answer_to_json(&mut out, "xxx", "PTTH/1.0", &text, false, &limits()).unwrap();
        let members: Value = serde_json::from_slice(&out).unwrap();
        if encoded {
            assert_eq!(
                (&members["body"], &members["body-encoding"]),
                (&json!(STANDARD.encode(body)), &json!("base64"))
            );
        } else {
            let text = std::str::from_utf8(body).unwrap();
            assert_eq!((&members["body"], members.get("body-encoding")), (&json!(text), None));
        }
        assert_eq!(show(&answer(&out).into_text(false)), show(&text));
    }
}

#[test]
fn base64_is_rfc_4648s_and_nothing_else() {
    for (text, bytes) in [
        ("", &b""[..]),
        ("AA==", b"\0"),
        ("/+8=", b"\xFF\xEF"),
        ("aGVsbG8=", b"hello"),
        ("aGVs", b"hel"),
    ] {
        let members = format!("\"body\": \"{text}\", \"body-encoding\": \"base64\"");
        assert_eq!(
            response_parts(&answer(with(&members)).into_text(false), false).body,
            bytes,
            "{text}"
        );
        assert_eq!(request_parts(&event(event_with(&members)).text).body, bytes, "{text}");
        // The order of the two means nothing.
        let members = format!("\"body-encoding\": \"base64\", \"body\": \"{text}\"");
        assert_eq!(
            response_parts(&answer(with(&members)).into_text(false), false).body,
            bytes,
            "{text}"
        );
    }
    for text in [
        "A",
        "AA",
        "AA=",
        "AAA",
        "A===",
        "====",
        "=",
        "AA==AA==",
        "AA== ",
        " AA==",
        "AA\\n==",
        "AAAA\\r\\nAAAA",
        "_-8=",
        "AB==",
        "AAB=",
        "A!==",
        "AA==\\u0000",
        "\\u00e4",
        "aGVsbG8",
    ] {
        both_refuse(&format!("\"body\": \"{text}\", \"body-encoding\": \"base64\""));
    }
    for encoding in
        ["", "BASE64", "Base64", "base64url", "base64 ", "hex", "identity", "utf-8", "text", "gzip"]
    {
        both_refuse(&format!("\"body\": \"\", \"body-encoding\": \"{encoding}\""));
    }
}

#[test]
fn trailers_travel_as_trailers() {
    let trailers = "\"trailers\": [[\"X-Sum\", \"1\"], [\"x-sum\", \"2\"]]";
    let chunked =
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\n";
    let members = format!("\"body\": \"hello\", {trailers}");
    assert_eq!(text(with(&members)), format!("HTTP/1.1 200 OK\r\n{chunked}"));
    assert_eq!(
        show(&event(event_with(&members)).text),
        show(format!("GET / HTTP/1.1\r\n{chunked}").as_bytes())
    );
    for (text, is_event) in [
        (format!("HTTP/1.1 200 OK\r\n{chunked}"), false),
        (format!("GET / HTTP/1.1\r\n{chunked}"), true),
    ] {
        let mut out = Vec::new();
        if is_event {
            event_to_json(&mut out, "xxx", text.as_bytes(), &limits()).unwrap();
        } else {
            answer_to_json(&mut out, "xxx", "PTTH/1.0", text.as_bytes(), false, &limits()).unwrap();
        }
        let members: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(members["trailers"], json!([["X-Sum", "1"], ["x-sum", "2"]]), "{members}");
    }
    // Blanks around a value are no part of it, as they are none of a header's.
    assert_eq!(
        text(with(&members.replace("\"1\"", "\" 1\\t\""))),
        format!("HTTP/1.1 200 OK\r\n{chunked}")
    );
    // Without a body there are none, and what must not trail does not.
    assert_eq!(show(&answer(with(trailers)).into_text(true)), show(b"HTTP/1.1 200 OK\r\n\r\n"));
    let forbidden = json!([
        ["Content-Length", "5"],
        ["Transfer-Encoding", "x"],
        ["Host", "x"],
        ["Set-Cookie", "x"],
        ["Authorization", "x"]
    ]);
    assert_eq!(
        text(with(&format!("\"trailers\": {forbidden}"))),
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    );
}

#[test]
fn what_is_no_whole_message_is_not_written() {
    let event =
        |text: &str| status(event_to_json(&mut Vec::new(), "xxx", text.as_bytes(), &limits()));
    let answer = |text: &str| {
        status(answer_to_json(
            &mut Vec::new(),
            "xxx",
            "PTTH/1.0",
            text.as_bytes(),
            false,
            &limits(),
        ))
    };
    assert_eq!(event("GET / HTTP/1.1\r\n\r\n"), Ok(()));
    for text in [
        "",
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\n\r\nx",
        "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhell",
        "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello!",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nx",
        "HTTP/1.1 200 OK\r\n\r\n",
    ] {
        assert_eq!(event(text), Err(400), "{text:?}");
    }
    assert_eq!(answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Ok(()));
    for text in [
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello!",
        "HTTP/1.1 204 No Content\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "GET / HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(answer(text), Err(502), "{text:?}");
    }
}
