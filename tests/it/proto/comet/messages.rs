//! Ids, requests and answers in message/http.

use proptest::prelude::*;
use reverse_http::Limits;
use reverse_http::proto::comet::{
    self, ID_BYTES_MAX, answer_start, check_id, event_from_text, id_of,
};
use reverse_http::proto::head::{LineEnds, request, response};

use super::super::{asked, get, limits, show, small, status};
use super::{Parts, fields, hostile_heads, pair, request_parts, trailers, write_lines, written};

// ── Ids ──

#[test]
fn ids_are_visible_ascii_of_some_length() {
    let longest = "x".repeat(ID_BYTES_MAX);
    for id in
        ["x", "xxx", "0123456789abcdef0123456789abcdef", "!~", "a\"b\\c", "<script>", &longest]
    {
        assert_eq!(check_id(id.as_bytes()), Ok(id));
    }
    let too_long = "x".repeat(ID_BYTES_MAX + 1);
    for id in ["", " ", "a b", "a\r\nb", "a\0", "\t", "a\x7F", "ä", "a\u{2028}", &too_long] {
        assert_eq!(status(check_id(id.as_bytes())), Err(400), "{id:?}");
    }
    assert_eq!(status(check_id(b"\xFF")), Err(400));
}

#[test]
fn a_message_has_at_most_one_id_field() {
    let id =
        |lines: &str| status(id_of(&asked(&get(lines)).fields).map(|id| id.map(str::to_owned)));
    assert_eq!(id(""), Ok(None));
    assert_eq!(id("PTTH-Message-ID: xxx\r\n"), Ok(Some("xxx".to_owned())));
    assert_eq!(id("ptth-message-id:\t xxx \r\n"), Ok(Some("xxx".to_owned())));
    for lines in [
        "PTTH-Message-ID:\r\n",
        "PTTH-Message-ID: a b\r\n",
        "PTTH-Message-ID: \u{e4}\r\n",
        "PTTH-Message-ID: a\r\nPTTH-Message-ID: b\r\n",
        "PTTH-Message-ID: a\r\nptth-message-id: a\r\n",
        "PTTH-Message-ID:\r\nPTTH-Message-ID: a\r\n",
    ] {
        assert_eq!(id(lines), Err(400), "{lines}");
    }
    assert_eq!(id(&format!("PTTH-Message-ID: {}\r\n", "x".repeat(ID_BYTES_MAX + 1))), Err(400));
}

#[cfg(not(feature = "comet"))]
#[test]
fn a_build_without_json_says_so() {
    use comet::{answer_from_json, answer_to_json, event_from_json, event_to_json};
    assert_eq!(status(answer_from_json(b"{}", None, &limits())), Err(415));
    assert_eq!(status(event_from_json(b"{}", None, &limits())), Err(415));
    assert_eq!(
        status(event_to_json(&mut Vec::new(), "x", b"GET / HTTP/1.1\r\n\r\n", &limits())),
        Err(415)
    );
    assert_eq!(
        status(answer_to_json(
            &mut Vec::new(),
            "x",
            "PTTH/1.0",
            b"HTTP/1.1 204 \r\n\r\n",
            false,
            &limits()
        )),
        Err(415)
    );
}

#[test]
fn a_request_is_written_whole_with_a_framing_of_its_own() {
    // Head, body, what is written. Spelling, order and repeats stay; what frames and `Expect` go.
    for (lines, body, framed) in [
        ("", "", ""),
        ("", "hello", "Content-Length: 5\r\n"),
        ("Content-Length: 0\r\n", "", "Content-Length: 0\r\n"),
        ("content-length: 7\r\n", "hello", "Content-Length: 5\r\n"),
        ("Transfer-Encoding: chunked\r\n", "hello", "Content-Length: 5\r\n"),
        ("Transfer-Encoding: chunked\r\n", "", "Content-Length: 0\r\n"),
        ("Expect: 100-continue\r\nContent-Length: 5\r\n", "hello", "Content-Length: 5\r\n"),
    ] {
        let head = format!(
            "PUT /a?b=%20 HTTP/1.1\r\nHost: x\r\n{lines}x-a: 1\r\nX-A: 2\r\nX-Empty:\r\n\r\n"
        );
        let expected = format!(
            "PUT /a?b=%20 HTTP/1.1\r\nHost: x\r\nx-a: 1\r\nX-A: 2\r\nX-Empty:\r\n{framed}\r\n{body}"
        );
        assert_eq!(written(&head, body.as_bytes(), &[]), expected);
    }
}

#[test]
fn trailers_make_a_request_chunked() {
    let trailers = [pair("X-Sum", "1"), pair("x-sum", "2")];
    let head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n";
    let chunked = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(
        written(head, b"hello", &trailers),
        format!("{chunked}5\r\nhello\r\n0\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\n")
    );
    assert_eq!(
        written(head, b"", &trailers),
        format!("{chunked}0\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\n")
    );
    let long = "x".repeat(0x1234);
    assert!(
        written(head, long.as_bytes(), &trailers).starts_with(&format!("{chunked}1234\r\nxxx"))
    );
}

#[test]
fn a_trailer_that_cannot_be_written_splits_nothing() {
    // T10
    for trailer in [pair("X", "a\r\nY: b"), pair("X: y\r\nY", "b"), pair("", "a"), pair("X", "a\0")]
    {
        let mut out = Vec::new();
        let result = comet::write_request(
            &mut out,
            &asked("POST / HTTP/1.1\r\nHost: x\r\n\r\n"),
            b"hello",
            &[trailer],
        );
        if result.is_ok() {
            let parts = request_parts(&out);
            assert_eq!((parts.body, parts.trailers), (b"hello".to_vec(), vec![]), "{}", show(&out));
        }
    }
}

// ── Events in message/http ──

/// Requests that are whole, each as its own framing says.
const WHOLE_REQUESTS: [&str; 9] = [
    "GET / HTTP/1.1\r\n\r\n",
    "HEAD /x?y HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n",
    "GET /old HTTP/1.0\r\nHost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n\r\n\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nX-Sum: 1\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n",
];

#[test]
fn an_event_is_exactly_one_request_to_its_last_byte() {
    for text in WHOLE_REQUESTS {
        let event = event_from_text("xxx", text.into(), &limits()).unwrap();
        assert_eq!(
            (event.id.as_str(), event.protocol.as_str(), event.is_head),
            ("xxx", comet::PROTOCOL, text.starts_with("HEAD "))
        );
        assert_eq!(show(&event.text), show(text.as_bytes()), "the text is kept byte for byte");
        for cut in 0..text.len() {
            assert_eq!(
                status(event_from_text("xxx", text[..cut].into(), &limits())),
                Err(400),
                "{text:?} cut at {cut}"
            );
        }
        for behind in ["\r\n", "\n", "\0", "x", text] {
            assert_eq!(
                status(event_from_text("xxx", format!("{text}{behind}").into(), &limits())),
                Err(400),
                "{text:?} and {behind:?}"
            );
        }
    }
}

#[test]
fn events_that_are_no_requests_are_refused() {
    for text in [
        "HTTP/1.1 200 OK\r\n\r\n",
        "GET / HTTP/1.1\n\n",
        "GET /\r\n\r\n",
        "GET / PTTH/1.0\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "GET  / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nA : b\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\0\r\n\r\n",
        "GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\nx",
        "GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        "GET / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        "GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n+0\r\n\r\n",
        "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA : b\r\n\r\n",
        "{\"message-id\": \"xxx\"}",
        "",
    ] {
        let refused = event_from_text("xxx", text.into(), &limits());
        assert!(matches!(status(refused), Err(400 | 501 | 505)), "{text:?}");
    }
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(20_000));
    assert_eq!(status(event_from_text("xxx", long.into(), &limits())), Err(431));
}

// ── Answers in message/http ──

#[test]
fn an_answer_begins_behind_its_interim_responses() {
    for (bytes, is_head, start) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, 0),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", false, 0),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, 0),
        ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", false, 0),
        ("HTTP/1.1 204 \r\n\r\n", false, 0),
        ("HTTP/1.1 304 \r\nContent-Length: 5\r\n\r\n", false, 0),
        ("HTTP/1.1 200 OK\r\n\r\n", true, 0),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, 0),
        // As the gem net-ptth writes its heads.
        ("HTTP/1.1 200 OK\nContent-Length: 0\n\n", false, 0),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, 25),
        (
            "HTTP/1.1 103 \r\nLink: </a>\r\n\r\nHTTP/1.1 102 \r\n\r\nHTTP/1.1 204 \r\n\r\n",
            false,
            46,
        ),
        // What a 1xx says of framing means nothing.
        ("HTTP/1.1 100 \r\nContent-Length: 5\r\n\r\nHTTP/1.1 204 \r\n\r\n", false, 36),
    ] {
        assert_eq!(
            answer_start(bytes.as_bytes(), is_head, &limits()),
            Ok(Some(start)),
            "{bytes:?}"
        );
    }
}

#[test]
fn an_answer_that_cannot_be_one_is_refused_with_400() {
    for (bytes, is_head) in [
        // Its end is not to be seen.
        ("HTTP/1.1 200 OK\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", false),
        ("HTTP/1.1 100 \r\n\r\nHTTP/1.1 200 OK\r\n\r\n", false),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", false),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nContent-Length: 0\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", false),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false),
        ("HTTP/1.1 99 No\r\n\r\n", false),
        ("HTTP/1.1 1000 No\r\n\r\n", false),
        ("HTTP/1.1 +20 No\r\n\r\n", false),
        ("HTTP/2 200\r\n\r\n", false),
        ("PTTH/1.0 200 OK\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n", false),
        ("HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", false),
        ("HTTP/1.1 200 O\x01K\r\n", false),
        ("GET / HTTP/1.1\r\n\r\n", false),
        ("\r\nHTTP/1.1 204 \r\n\r\n", false),
        ("{}", false),
    ] {
        assert_eq!(
            status(answer_start(bytes.as_bytes(), is_head, &limits())),
            Err(400),
            "{bytes:?}"
        );
    }
    for lines in [format!("X: {}\r\n", "y".repeat(20_000)), "X: y\r\n".repeat(101)] {
        let bytes = format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 0\r\n\r\n");
        assert_eq!(status(answer_start(bytes.as_bytes(), false, &limits())), Err(400));
    }
}

#[test]
fn interim_responses_are_counted() {
    let most = limits().informational_max;
    let answer = |n: usize| format!("{}HTTP/1.1 204 \r\n\r\n", "HTTP/1.1 102 \r\n\r\n".repeat(n));
    assert_eq!(answer_start(answer(most).as_bytes(), false, &limits()), Ok(Some(17 * most)));
    assert_eq!(status(answer_start(answer(most + 1).as_bytes(), false, &limits())), Err(400));
    let mut none = Limits::default();
    none.informational_max = 0;
    assert_eq!(answer_start(answer(0).as_bytes(), false, &none), Ok(Some(0)));
    assert_eq!(status(answer_start(answer(1).as_bytes(), false, &none)), Err(400));
}

proptest! {
    /// However far an answer has arrived: not yet, until its final head is whole; from then on
    /// always the same start.
    #[test]
    fn an_answers_start_does_not_depend_on_how_it_was_cut(
        interims in proptest::collection::vec((102u16..200, "[ -~]{0,10}", fields()), 0..8),
        code in 200u16..1000,
        fields in fields(),
        body in proptest::collection::vec(any::<u8>(), 0..40),
        chunked: bool,
        is_head: bool,
        lf: bool,
    ) {
        let end = if lf { "\n" } else { "\r\n" };
        let mut bytes = Vec::new();
        for (status, reason, fields) in &interims {
            write_lines(&mut bytes, &format!("HTTP/1.1 {status} {reason}"), fields, end);
            bytes.extend_from_slice(end.as_bytes());
        }
        let start = bytes.len();
        write_lines(&mut bytes, &format!("HTTP/1.1 {code} x"), &fields, end);
        let framing = if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {}", body.len()) };
        bytes.extend_from_slice(format!("{framing}{end}{end}").as_bytes());
        let head_end = bytes.len();
        bytes.extend_from_slice(&body);
        for cut in 0..=bytes.len() {
            let expected = if cut < head_end { None } else { Some(start) };
            prop_assert_eq!(answer_start(&bytes[..cut], is_head, &limits()), Ok(expected), "cut at {}", cut);
        }
    }

    /// Whatever comes: no panic, and a start that was found once is not taken back when more comes.
    #[test]
    fn what_is_no_answer_stays_none(bytes in hostile_heads(), is_head: bool) {
        let l = small(96, 4, 64);
        let mut before = Ok(None);
        for cut in 0..=bytes.len() {
            let now = status(answer_start(&bytes[..cut], is_head, &l));
            prop_assert!(before == Ok(None) || now == before, "{:?} became {:?} at {} of {}", before, now, cut, show(&bytes));
            if let Ok(Some(start)) = now {
                prop_assert!(start < cut && matches!(response(&bytes[start..cut], &l, LineEnds::CrlfOrLf), Ok(Some(_))));
            }
            before = now;
        }
    }

    /// An event in message/http is whole or refused; its text is what the reader of requests takes
    /// to the last byte.
    #[test]
    fn an_events_text_is_whole_or_refused(bytes in hostile_heads()) {
        for cut in 0..=bytes.len() {
            if let Ok(event) = event_from_text("xxx", bytes[..cut].to_vec(), &limits()) {
                prop_assert_eq!(&event.text, &bytes[..cut]);
                let head = request(&event.text, &limits(), LineEnds::Crlf).unwrap().unwrap();
                prop_assert_eq!(event.is_head, head.method == "HEAD");
                request_parts(&event.text); // fails where the body is not whole
                // With anything after it, it is another text, and no event.
                prop_assert!(event_from_text("xxx", [&bytes[..cut], b"\0"].concat(), &limits()).is_err());
            }
        }
    }

    /// Any request that is written is read as it was, and no prefix of it is one.
    #[test]
    fn requests_that_are_written_are_events(
        method in "[A-Z!#$%&'*+.^_`|~-]{1,12}",
        target in "/[!-~]{0,20}",
        fields in fields(),
        body in proptest::collection::vec(any::<u8>(), 0..60),
        trailers in trailers(),
    ) {
        let mut head = Vec::new();
        write_lines(&mut head, &format!("{method} {target} HTTP/1.1"), &fields, "\r\n");
        head.extend_from_slice(b"\r\n");
        let mut text = Vec::new();
        comet::write_request(&mut text, &asked(&head), &body, &trailers).unwrap();
        let parts = request_parts(&text);
        prop_assert_eq!(&parts.clone().unframed(), &Parts { start: vec![method, target], fields, body, trailers });
        prop_assert!(event_from_text("xxx", text.clone(), &limits()).is_ok());
        // A message without a framing field ends with its head; any other is longer than that.
        for cut in 0..text.len() {
            prop_assert_eq!(status(event_from_text("xxx", text[..cut].to_vec(), &limits())), Err(400), "cut at {}", cut);
        }
    }
}
