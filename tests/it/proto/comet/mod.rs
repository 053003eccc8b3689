//! The fallback's messages (protocol.md §2): what bytes alone decide of an event, an answer, a POST
//! and its reply. JSON has a file of its own.

use proptest::prelude::*;
use reverse_http::Limits;
use reverse_http::proto::body::{Decoder, Piece, of_request};
use reverse_http::proto::comet::{
    self, ID_BYTES_MAX, answer_start, check_id, event_from_text, id_of,
};
use reverse_http::proto::head::{LineEnds, request, response};
use reverse_http::proto::turn::{
    Brought, Decision, Dialect, Encoding, MESSAGE_ID, OfferPlan, OfferRules, Verdict, check,
    decide, write_offer, write_post,
};

use super::{answered, asked, framed, get, limits, sample, show, small, status};

#[cfg(feature = "comet")]
mod json;

/// A whole message, taken apart with the readers of heads and bodies.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    /// Request line or status line, without its version.
    start: Vec<String>,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
}

impl Parts {
    /// Without the fields that frame: those each encoding writes anew.
    fn unframed(mut self) -> Parts {
        self.fields.retain(|(name, _)| {
            !["content-length", "transfer-encoding"].contains(&name.to_lowercase().as_str())
        });
        self
    }
}

#[track_caller]
fn body_of(mut decoder: Decoder, bytes: &[u8]) -> (Vec<u8>, Vec<(String, Vec<u8>)>) {
    let (mut body, mut used) = (Vec::new(), 0);
    loop {
        let (n, piece) = decoder.decode(&bytes[used..]).unwrap();
        used += n;
        match piece {
            Piece::Data(data) => body.extend_from_slice(data),
            Piece::More => panic!("the body is not whole: {}", show(bytes)),
            Piece::End => break,
        }
    }
    assert_eq!(used, bytes.len(), "bytes behind the message: {}", show(bytes));
    (body, decoder.trailers().to_vec())
}

#[track_caller]
fn request_parts(text: &[u8]) -> Parts {
    let head = asked(text);
    let (body, trailers) =
        body_of(Decoder::new(of_request(&head).unwrap(), &limits()), &text[head.len..]);
    let fields =
        head.fields.iter().map(|field| (field.name.to_owned(), field.value.to_vec())).collect();
    Parts { start: vec![head.method.to_owned(), head.target.to_owned()], fields, body, trailers }
}

fn pair(name: &str, value: impl AsRef<[u8]>) -> (String, Vec<u8>) {
    (name.to_owned(), value.as_ref().to_vec())
}

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

// ── Requests, written ──

fn written(head: &str, body: &[u8], trailers: &[(String, Vec<u8>)]) -> String {
    let mut out = b"kept ".to_vec();
    comet::write_request(&mut out, &asked(head), body, trailers).unwrap();
    String::from_utf8(out).unwrap().strip_prefix("kept ").unwrap().to_owned()
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
                // With anything behind it, it is another text, and no event.
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

fn write_lines(out: &mut Vec<u8>, start: &str, fields: &[(String, Vec<u8>)], end: &str) {
    out.extend_from_slice(start.as_bytes());
    out.extend_from_slice(end.as_bytes());
    for (name, value) in fields {
        out.extend_from_slice(&[name.as_bytes(), b": ", value, end.as_bytes()].concat());
    }
}

/// Bytes that a value may have, white space not at its ends.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let inner =
        prop_oneof![8 => 0x21u8..0x7F, 1 => Just(b' '), 1 => Just(b'\t'), 2 => 0x80u8..=0xFF];
    proptest::collection::vec(inner, 0..16).prop_map(|mut bytes| {
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        while bytes.last().is_some_and(blank) {
            bytes.pop();
        }
        let first = bytes.iter().take_while(|byte| blank(byte)).count();
        bytes.split_off(first)
    })
}

/// Fields that travel, repeats among them.
fn fields() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    proptest::collection::vec(
        ("(X-[A-Za-z0-9]{1,4}|x-same|Host|Via|[!#$%&'*+.^_`|~]{1,3})", value()),
        0..6,
    )
}

fn trailers() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    proptest::collection::vec(("X-[a-zA-Z]{1,8}", value()), 0..4)
}

fn hostile_heads() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"HTTP/1.1 200 OK\r\n".to_vec()),
        Just(b"HTTP/1.1 100 \r\n\r\n".to_vec()),
        Just(b"HTTP/1.1 204 \r\n\r\n".to_vec()),
        Just(b"HTTP/1.1 101 \r\n".to_vec()),
        Just(b"GET / HTTP/1.1\r\n".to_vec()),
        Just(b"HEAD /a HTTP/1.1\r\n".to_vec()),
        Just(b"Content-Length: 1\r\n".to_vec()),
        Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
        Just(b"A: b\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"1\r\nx\r\n".to_vec()),
        Just(b"0\r\n\r\n".to_vec()),
        Just(b"x".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..6),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

// ── What a POST asks for, and what it brings ──

#[test]
fn accept_names_the_encoding_and_without_it_that_is_json() {
    let accepted = |lines: &str| Encoding::accepted(&asked(&get(lines)).fields);
    for (lines, encoding) in [
        ("", Encoding::Json),
        ("Accept:\r\n", Encoding::Json),
        ("Accept: application/json\r\n", Encoding::Json),
        ("Accept: message/http\r\n", Encoding::Message),
        ("Accept: Message/HTTP\r\n", Encoding::Message),
        ("aCCept: message/http;q=0.5;x=y\r\n", Encoding::Message),
        // The first of the two counts, not the larger q.
        ("Accept: message/http, application/json\r\n", Encoding::Message),
        ("Accept: application/json, message/http\r\n", Encoding::Json),
        ("Accept: message/http;q=0.1, application/json;q=1\r\n", Encoding::Message),
        ("Accept: text/html, message/http, */*\r\n", Encoding::Message),
        (
            "Accept: text/html\r\nAccept: message/http\r\nAccept: application/json\r\n",
            Encoding::Message,
        ),
        // With a q of 0 it is refused.
        ("Accept: message/http;q=0, application/json\r\n", Encoding::Json),
        ("Accept: message/http; Q=0.000, application/json\r\n", Encoding::Json),
        ("Accept: application/json;q=0, message/http\r\n", Encoding::Message),
        ("Accept: application/json;q=0.0, message/http;q=0.001\r\n", Encoding::Message),
        ("Accept: message/http;q=0\r\n", Encoding::Json),
        ("Accept: application/json;x=0;q=0, message/http\r\n", Encoding::Message),
        // Neither is named.
        ("Accept: */*\r\n", Encoding::Json),
        ("Accept: message/*\r\n", Encoding::Json),
        ("Accept: text/plain\r\n", Encoding::Json),
        ("Accept: text/plain;q=1,*/*;q=0\r\n", Encoding::Json),
        ("Accept: message/httpx, xmessage/http, message /http\r\n", Encoding::Json),
        ("Accept: x/y;a=\"message/http, message/http\"\r\n", Encoding::Json),
    ] {
        assert_eq!(accepted(lines), encoding, "{lines}");
    }
    for name in ["comet-1-poll", "comet-3-answer"] {
        assert_eq!(Encoding::accepted(&asked(sample(name)).fields), Encoding::Json, "{name}");
    }
}

#[test]
fn content_type_names_the_encoding_of_what_is_there() {
    for (content_type, encoding) in [
        ("application/json", Some(Encoding::Json)),
        ("APPLICATION/Json;charset=utf-8", Some(Encoding::Json)),
        ("application/json \t; x", Some(Encoding::Json)),
        (" application/json", Some(Encoding::Json)),
        ("message/http", Some(Encoding::Message)),
        ("Message/HTTP; version=1.1; msgtype=response", Some(Encoding::Message)),
        ("text/plain", Some(Encoding::Message)),
        ("text/plain; charset=us-ascii", Some(Encoding::Message)),
        ("", None),
        (";", None),
        ("application/jsonx", None),
        ("xapplication/json", None),
        ("application/json, text/plain", None),
        ("application/problem+json", None),
        ("text/json", None),
        ("text/html", None),
        ("message/rfc822", None),
        ("application/http", None),
        ("application/x-www-form-urlencoded", None),
        ("multipart/form-data", None),
        ("application / json", None),
        ("*/*", None),
    ] {
        assert_eq!(Encoding::of_type(content_type.as_bytes()), encoding, "{content_type:?}");
    }
    assert_eq!(Encoding::of_type(b"application/json\xA0"), None);
    for encoding in [Encoding::Json, Encoding::Message] {
        assert_eq!(Encoding::of_type(encoding.media_type().as_bytes()), Some(encoding));
    }
    assert_eq!(
        (Encoding::Json.to_string(), Encoding::Message.to_string()),
        ("COMET json".to_owned(), "COMET message/http".to_owned())
    );
}

fn plan(change: impl FnOnce(&mut OfferPlan)) -> OfferPlan {
    let mut plan = OfferPlan::new("gw.example:9999", "/lamp", Dialect::classic());
    change(&mut plan);
    plan
}

fn posted(plan: &OfferPlan, brought: Option<&Brought<'_>>) -> String {
    let mut out = Vec::new();
    write_post(&mut out, plan, brought).unwrap();
    String::from_utf8(out).unwrap()
}

const BROUGHT: Brought<'static> =
    Brought { encoding: Encoding::Json, id: "xxx", length: Some(193) };

#[test]
fn a_post_is_written_as_protocol_md_says() {
    let start = "POST /lamp HTTP/1.1\r\nHost: gw.example:9999\r\n";
    let turn = "Upgrade: PTTH/1.0\r\nConnection: Upgrade\r\n";
    let offer = plan(|_| ());
    let poll = plan(|plan| plan.upgrade = false);
    assert_eq!(posted(&poll, None), format!("{start}Content-Length: 0\r\n\r\n"));
    assert_eq!(posted(&offer, None), format!("{start}{turn}Content-Length: 0\r\n\r\n"));
    let mut out = Vec::new();
    write_offer(&mut out, &offer).unwrap();
    assert_eq!(
        show(&out),
        show(posted(&offer, None).as_bytes()),
        "an offer is a POST that brings nothing"
    );

    let json = "Content-Type: application/json\r\nPTTH-Message-ID: xxx\r\nContent-Length: 193\r\n";
    assert_eq!(posted(&poll, Some(&BROUGHT)), format!("{start}{json}\r\n"));
    assert_eq!(posted(&offer, Some(&BROUGHT)), format!("{start}{turn}{json}\r\n"));
    let streamed = Brought { encoding: Encoding::Message, id: "xxx", length: None };
    let chunked =
        "Content-Type: message/http\r\nPTTH-Message-ID: xxx\r\nTransfer-Encoding: chunked\r\n";
    assert_eq!(posted(&poll, Some(&streamed)), format!("{start}{chunked}\r\n"));

    let full = plan(|plan| {
        plan.upgrade = false;
        plan.accept = Some("message/http, application/json".into());
        plan.session = Some([0xA5; 16]);
        plan.fields = vec![("Authorization".to_owned(), "Bearer s3cret".to_owned())];
    });
    let accept = "Accept: message/http, application/json\r\nAccept-Encoding: identity\r\n";
    let rest = format!(
        "{accept}PTTH-Session: a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5\r\nAuthorization: Bearer s3cret\r\n"
    );
    assert_eq!(posted(&full, None), format!("{start}Content-Length: 0\r\n{rest}\r\n"));
    assert_eq!(posted(&full, Some(&streamed)), format!("{start}{chunked}{rest}\r\n"));
}

#[test]
fn what_is_posted_is_read_as_it_was_meant() {
    let streamed = Brought { encoding: Encoding::Message, id: "yyy", length: None };
    for upgrade in [false, true] {
        for brought in [None, Some(&BROUGHT), Some(&streamed)] {
            let plan = plan(|plan| {
                plan.upgrade = upgrade;
                plan.accept = Some("application/json".into());
                plan.session = Some([7; 16]);
            });
            let bytes = posted(&plan, brought);
            let head = framed(&bytes);
            let offer = match decide(&head, &OfferRules::default()) {
                Ok(Decision::Turn(offer)) if upgrade => offer,
                Ok(Decision::Poll(offer)) if !upgrade => offer,
                other => panic!("{bytes}: {other:?}"),
            };
            assert_eq!((offer.is_poll(), offer.session), (!upgrade, Some([7; 16])), "{bytes}");
            assert_eq!(id_of(&head.fields), Ok(brought.map(|brought| brought.id)));
            assert_eq!(Encoding::accepted(&head.fields), Encoding::Json);
            let content_type =
                head.fields.get("content-type").map(|value| Encoding::of_type(value).unwrap());
            assert_eq!(content_type, brought.map(|brought| brought.encoding));
            of_request(&head).unwrap();
        }
    }
}

#[test]
fn a_poll_of_an_ietf_plan_is_a_post_without_alpn() {
    let ietf = OfferPlan::new("gw", "/.well-known/ptth/https%3A%2F%2Fa.example/", Dialect::ietf());
    let mut poll = ietf.clone();
    poll.upgrade = false;
    let bytes = posted(&poll, Some(&BROUGHT));
    assert!(
        bytes.starts_with("POST /.well-known/ptth/")
            && !bytes.contains("ALPN")
            && !bytes.contains("Upgrade"),
        "{bytes}"
    );
    // The offer itself is a GET, and can bring nothing.
    assert!(posted(&ietf, None).starts_with("GET "));
    let mut out = b"kept".to_vec();
    assert_eq!(status(write_post(&mut out, &ietf, Some(&BROUGHT))), Err(400));
    assert_eq!(out, b"kept");
}

#[test]
fn a_post_that_would_split_or_say_a_thing_twice_is_not_written() {
    let with_field = |name: &str, value: &str| {
        plan(|plan| {
            plan.accept = Some("application/json".into());
            plan.fields = vec![(name.to_owned(), value.to_owned())];
        })
    };
    for plan in [
        plan(|plan| plan.accept = Some("a\r\nX: y".into())),
        plan(|plan| plan.accept = Some("a\0".into())),
        plan(|plan| plan.target = "/ HTTP/1.1\r\n\r\n".to_owned()),
        plan(|plan| plan.authority = "a\nb".to_owned()),
        with_field("PTTH-Message-ID", "x"),
        with_field("ptth-message-id", "x"),
        with_field("Content-Type", "x"),
        with_field("Content-Length", "5"),
        with_field("Transfer-Encoding", "chunked"),
        with_field("Accept", "x"),
        with_field("ALPN", "x"),
        with_field("PTTH-Session", "x"),
        with_field("Connection", "x"),
        with_field("X", "a\r\nb"),
        with_field("X:", "a"),
    ] {
        for upgrade in [true, false] {
            let mut plan = plan.clone();
            plan.upgrade = upgrade;
            for brought in [None, Some(&BROUGHT)] {
                let mut out = b"kept".to_vec();
                assert!(write_post(&mut out, &plan, brought).is_err(), "{plan:?}");
                assert_eq!(out, b"kept");
            }
        }
    }
    for id in ["a\r\nX: y", "a\0b", "a\x7F"] {
        let mut out = b"kept".to_vec();
        assert!(
            write_post(&mut out, &plan(|_| ()), Some(&Brought { id, ..BROUGHT })).is_err(),
            "{id:?}"
        );
        assert_eq!(out, b"kept");
    }
    // Where it takes no fallback and says nothing of it, a program's own Accept is its own.
    assert!(
        posted(&plan(|plan| plan.fields = vec![("Accept".to_owned(), "x/y".to_owned())]), None)
            .contains("Accept: x/y\r\n")
    );
}

// ── What a device makes of the reply ──

#[test]
fn a_reply_of_the_fallback_is_told_from_any_web_servers() {
    let verdict = |bytes: &str| check(&answered(bytes), "PTTH/1.0");
    let id = "PTTH-Message-ID: xxx\r\n";
    for (status, lines, encoding) in [
        (
            200,
            "Content-Type: application/json\r\nContent-Length: 2\r\n".to_owned(),
            Some(Encoding::Json),
        ),
        (200, "content-type: APPLICATION/JSON;charset=utf-8\r\n".to_owned(), Some(Encoding::Json)),
        (
            200,
            "Content-Type: application/json\r\nContent-Length: 0\r\n".to_owned(),
            Some(Encoding::Json),
        ),
        (
            200,
            format!("Content-Type: message/http\r\n{id}Content-Length: 9\r\n"),
            Some(Encoding::Message),
        ),
        (
            200,
            "Content-Type: message/http\r\nTransfer-Encoding: chunked\r\n".to_owned(),
            Some(Encoding::Message),
        ),
        (
            200,
            format!("Content-Type: text/plain\r\n{id}Content-Length: 9\r\n"),
            Some(Encoding::Message),
        ),
        (200, "Content-Length: 0\r\n".to_owned(), None),
        (200, "Content-Type: text/html\r\nContent-Length: 0\r\n".to_owned(), None),
        (204, "Content-Type: message/http\r\n".to_owned(), Some(Encoding::Message)),
        (204, "Content-Type: application/json\r\n".to_owned(), Some(Encoding::Json)),
        (204, format!("Content-Type: text/plain\r\n{id}"), Some(Encoding::Message)),
    ] {
        let bytes = format!("HTTP/1.1 {status} OK\r\n{lines}\r\n");
        assert_eq!(verdict(&bytes), Verdict::FellBack(encoding), "{bytes}");
    }
    for (bytes, expected) in [
        ("HTTP/1.1 204 \r\n\r\n", Verdict::Nothing),
        ("HTTP/1.1 204 \r\nContent-Type: text/plain\r\n\r\n", Verdict::Nothing),
        ("HTTP/1.1 200 OK\r\n\r\n", Verdict::NoTurn(200)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Verdict::NoTurn(200)),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\n",
            Verdict::NoTurn(200),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nPTTH-Message-ID: xxx\r\nContent-Length: 5\r\n\r\n",
            Verdict::NoTurn(200),
        ),
        (
            "HTTP/1.1 201 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n",
            Verdict::NoTurn(201),
        ),
        ("HTTP/1.1 202 OK\r\nContent-Length: 0\r\n\r\n", Verdict::NoTurn(202)),
        ("HTTP/1.1 413 No\r\nContent-Type: application/json\r\n\r\n", Verdict::NoTurn(413)),
        ("HTTP/1.1 415 No\r\nContent-Length: 0\r\n\r\n", Verdict::NoTurn(415)),
        (
            "HTTP/1.1 502 No\r\nContent-Type: application/json\r\n\r\n",
            Verdict::Later { status: 502, retry_after: None },
        ),
        ("HTTP/1.1 504 No\r\n\r\n", Verdict::Later { status: 504, retry_after: None }),
        (
            "HTTP/1.1 426 No\r\nUpgrade: PTTH/1.0\r\n\r\n",
            Verdict::Later { status: 426, retry_after: None },
        ),
        ("HTTP/1.1 403 No\r\nContent-Type: application/json\r\n\r\n", Verdict::Refused(403)),
    ] {
        assert_eq!(verdict(bytes), expected, "{bytes}");
    }
    for name in ["comet-2-event", "comet-4-nothing"] {
        assert_eq!(
            check(&answered(sample(name)), "PTTH/0.9"),
            Verdict::FellBack(Some(Encoding::Json)),
            "{name}"
        );
    }
    assert_eq!(MESSAGE_ID, "PTTH-Message-ID");
}
