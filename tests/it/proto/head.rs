//! Heads: every prefix of every sample, every refusal of protocol.md §3 and threats T10, T13 as
//! early as its bytes allow.

use proptest::prelude::*;
use reverse_http::proto::framed::FramedRequest;
use reverse_http::proto::head::{
    LineEnds, foreign_protocol, is_idempotent, is_token, keeps_alive, request, response,
};
use reverse_http::proto::head_writer::{
    reason_phrase, title_case, write_field, write_request_line, write_status_line,
};

use super::{
    REQUESTS, RESPONSES, answered, asked, framed, get, limits, sample, show, small, status,
};

/// Length of the head in a sample: to its first empty line.
fn head_len(bytes: &[u8]) -> usize {
    bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("samples have an empty line") + 4
}

#[test]
fn every_strict_prefix_is_not_yet_and_the_whole_is_done() {
    for (name, bytes) in REQUESTS {
        let len = head_len(bytes);
        for ends in [LineEnds::Crlf, LineEnds::CrlfOrLf] {
            for cut in 0..len {
                assert!(
                    matches!(request(&bytes[..cut], &limits(), ends), Ok(None)),
                    "{name} cut at {cut}"
                );
            }
            for behind in [&b""[..], b"\0\r\n\xFF", b"GET / HTTP/1.1\r\n\r\n"] {
                let given = [&bytes[..len], behind].concat();
                assert_eq!(request(&given, &limits(), ends).unwrap().unwrap().len, len, "{name}");
            }
        }
    }
    for (name, bytes) in RESPONSES {
        let len = head_len(bytes);
        for ends in [LineEnds::Crlf, LineEnds::CrlfOrLf] {
            for cut in 0..len {
                assert!(
                    matches!(response(&bytes[..cut], &limits(), ends), Ok(None)),
                    "{name} cut at {cut}"
                );
            }
            for behind in [&b""[..], b"\0\r\n\xFF", b"GET / HTTP/1.1\r\n\r\n"] {
                let given = [&bytes[..len], behind].concat();
                assert_eq!(response(&given, &limits(), ends).unwrap().unwrap().len, len, "{name}");
            }
        }
    }
}

#[test]
fn a_head_keeps_bytes_order_and_spelling() {
    let bytes = b"PATCH /a?b=%20c HTTP/1.0\r\nHOST: x\r\nx-a:1\r\nX-A: \t 2 \t\r\nEmpty:\r\nBlank: \t \r\nLatin: caf\xE9\r\n\r\n";
    let head = asked(bytes);
    assert_eq!(
        (head.method, head.target, head.minor, head.len),
        ("PATCH", "/a?b=%20c", 0, bytes.len())
    );
    let fields: Vec<_> = head.fields.iter().map(|f| (f.name, f.value)).collect();
    let expected: [(&str, &[u8]); 6] = [
        ("HOST", b"x"),
        ("x-a", b"1"),
        ("X-A", b"2"),
        ("Empty", b""),
        ("Blank", b""),
        ("Latin", b"caf\xE9"),
    ];
    assert_eq!(fields, expected);
    assert_eq!(head.fields.get("x-A"), Some(&b"1"[..]));
    assert_eq!(head.fields.get("x-"), None);
    assert_eq!(head.fields.all("X-a").collect::<Vec<_>>(), [b"1", b"2"]);

    let head = answered("HTTP/1.1 418 I'm a \t teapot\r\nA: b\r\n\r\n");
    assert_eq!(
        (head.status, head.minor, head.reason, head.fields.len()),
        (418, 1, &b"I'm a \t teapot"[..], 1)
    );
    assert_eq!(answered(b"HTTP/1.0 200 caf\xE9\r\n\r\n").reason, b"caf\xE9");
}

#[test]
fn yalers_answers_have_no_reason_phrase() {
    for bytes in ["HTTP/1.1 204 \r\n\r\n", "HTTP/1.1 204\r\n\r\n"] {
        let head = answered(bytes);
        assert_eq!((head.status, head.reason, head.len), (204, &b""[..], bytes.len()));
        for cut in 0..bytes.len() {
            assert!(
                matches!(response(&bytes.as_bytes()[..cut], &limits(), LineEnds::Crlf), Ok(None)),
                "cut at {cut}"
            );
        }
    }
    assert_eq!((sample("yaler-2-switch").len(), answered(sample("yaler-2-switch")).len), (57, 57));
}

#[test]
fn at_most_one_empty_line_before_a_request_and_none_before_a_response() {
    let one = b"\r\nGET / HTTP/1.1\r\n\r\n";
    for cut in 0..one.len() {
        assert!(
            matches!(request(&one[..cut], &limits(), LineEnds::Crlf), Ok(None)),
            "cut at {cut}"
        );
    }
    assert_eq!(asked(one).len, one.len());
    for (bytes, ends) in [
        (&b"\r\n\r\n"[..], LineEnds::Crlf),
        (b"\r\n\r", LineEnds::Crlf),
        (b"\n", LineEnds::Crlf),
        (b"\n\n", LineEnds::CrlfOrLf),
    ] {
        assert_eq!(status(request(bytes, &limits(), ends)).unwrap_err(), 400, "{}", show(bytes));
    }
    assert_eq!(
        request(b"\nGET / HTTP/1.1\n\n", &limits(), LineEnds::CrlfOrLf).unwrap().unwrap().len,
        17
    );
    for bytes in [&b"\r\n"[..], b"\r", b"\n", b"\r\nHTTP/1.1 200 OK\r\n\r\n"] {
        assert_eq!(
            status(response(bytes, &limits(), LineEnds::CrlfOrLf)).unwrap_err(),
            502,
            "{}",
            show(bytes)
        );
    }
}

#[test]
fn a_lone_lf_ends_a_line_only_where_that_is_allowed() {
    // As the gem net-ptth writes: lines end with LF, the head with CRLF; and with nothing but LF.
    for bytes in [
        &b"HTTP/1.1 404 OK\nContent-Type: a/b\n\r\n"[..],
        b"HTTP/1.1 404 OK\nContent-Type: a/b\n\n",
        b"HTTP/1.1 404 OK\r\nContent-Type: a/b\n\n",
    ] {
        for cut in 0..bytes.len() {
            assert!(
                matches!(response(&bytes[..cut], &limits(), LineEnds::CrlfOrLf), Ok(None)),
                "{} cut at {cut}",
                show(bytes)
            );
        }
        let head = response(bytes, &limits(), LineEnds::CrlfOrLf).unwrap().unwrap();
        assert_eq!(
            (head.status, head.fields.get("content-type"), head.len),
            (404, Some(&b"a/b"[..]), bytes.len())
        );
        assert_eq!(status(response(bytes, &limits(), LineEnds::Crlf)).unwrap_err(), 502);
    }
    for bytes in
        [&b"GET / HTTP/1.1\n"[..], b"GET / HTTP/1.1\r\nA: b\n", b"GET / HTTP/1.1\r\nA: b\r\n\n"]
    {
        assert_eq!(
            status(request(bytes, &limits(), LineEnds::Crlf)).unwrap_err(),
            400,
            "{}",
            show(bytes)
        );
        assert!(request(bytes, &limits(), LineEnds::CrlfOrLf).is_ok(), "{}", show(bytes));
    }
}

/// The last byte of each is the first that cannot be right; without it the verdict is "not yet".
const WRONG_REQUESTS: [(&[u8], u16); 49] = [
    // HTTP/0.9, other versions, other protocols (T13)
    (b"GET /\r", 400),
    (b"GET /\n", 400),
    (b"GET / \r", 400),
    (b"GET / HTTP/1.2", 505),
    (b"GET / HTTP/1.9", 505),
    (b"GET / HTTP/2.", 505),
    (b"GET / HTTP/0.", 505),
    (b"GET / HTTP/3.", 505),
    (b"GET / HTTP/01", 400),
    (b"GET / HTTP/2 ", 400),
    (b"GET / HTTP/1.x", 400),
    (b"GET / HTTP/1.10", 400),
    (b"GET / HTTP/1.1 ", 400),
    (b"GET / HTTP/11", 400),
    (b"GET / HTTPS", 400),
    (b"GET / h", 400),
    (b"GET / R", 400),
    (b"GET / E", 400),
    (b"PRI * HTTP/2.", 505),
    (b"\x16", 400),
    (b"<", 400),
    (b" ", 400),
    (b"\t", 400),
    (b":", 400),
    (b"GET\t", 400),
    (b"GET\r", 400),
    (b"GET\0", 400),
    (b"G\xC3", 400),
    (b"GET  ", 400),
    // targets: 0x21 to 0x7E
    (b"GET /\0", 400),
    (b"GET /\t", 400),
    (b"GET /\x7F", 400),
    (b"GET /\x80", 400),
    (b"GET /caf\xC3", 400),
    (b"GET /a HTTP/1.1\r\r", 400),
    // fields
    (b"GET / HTTP/1.1\r\n ", 400),
    (b"GET / HTTP/1.1\r\n\t", 400),
    (b"GET / HTTP/1.1\r\n:", 400),
    (b"GET / HTTP/1.1\r\nA ", 400),
    (b"GET / HTTP/1.1\r\nA\t", 400),
    (b"GET / HTTP/1.1\r\nA\r", 400),
    (b"GET / HTTP/1.1\r\nA(", 400),
    (b"GET / HTTP/1.1\r\nA\x80", 400),
    (b"GET / HTTP/1.1\r\nA: b\r\n ", 400),
    (b"GET / HTTP/1.1\r\nA: b\r\n\t", 400),
    (b"GET / HTTP/1.1\r\nA: b\0", 400),
    (b"GET / HTTP/1.1\r\nA: b\x7F", 400),
    (b"GET / HTTP/1.1\r\nA: b\x0B", 400),
    (b"GET / HTTP/1.1\r\nA: b\r\n\rG", 400),
];

#[test]
fn a_wrong_request_is_refused_at_its_first_wrong_byte() {
    for ends in [LineEnds::Crlf, LineEnds::CrlfOrLf] {
        for (bytes, expected) in WRONG_REQUESTS {
            let (_, before) = bytes.split_last().unwrap();
            assert!(
                matches!(request(before, &limits(), ends), Ok(None)),
                "{} is not wrong yet",
                show(before)
            );
            for behind in [&b""[..], b"\r\n\r\n", b" x: y\r\n\r\n"] {
                let given = [bytes, behind].concat();
                assert_eq!(
                    status(request(&given, &limits(), ends)).unwrap_err(),
                    expected,
                    "{}",
                    show(&given)
                );
            }
        }
    }
    // A lone CR is seen with the byte after it.
    for bytes in [
        &b"GET / HTTP/1.1\rA"[..],
        b"GET / HTTP/1.1\r\nA: b\rC",
        b"GET / HTTP/1.1\r\nA: b\r\r",
        b"GET / HTTP/1.1\r\nA: b\r\n\r\r",
    ] {
        let (_, before) = bytes.split_last().unwrap();
        assert!(
            matches!(request(before, &limits(), LineEnds::CrlfOrLf), Ok(None)),
            "{}",
            show(before)
        );
        assert_eq!(
            status(request(bytes, &limits(), LineEnds::CrlfOrLf)).unwrap_err(),
            400,
            "{}",
            show(bytes)
        );
    }
}

#[test]
fn what_is_odd_but_right_is_taken() {
    for bytes in [
        "get / HTTP/1.1\r\n\r\n",
        "M!#$%&'*+-.^_`|~9 * HTTP/1.1\r\n\r\n",
        "GET anything-visible-~|\"<>{} HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\n!#$%&'*+-.^_`|~9: x\r\n\r\n",
        "GET / HTTP/1.1\r\nA: b\tc\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n",
    ] {
        assert_eq!(asked(bytes).len, bytes.len());
    }
}

const WRONG_RESPONSES: [&[u8]; 24] = [
    b"HTTP/1.2",
    b"HTTP/2.",
    b"HTTP/01",
    b"HTTP/x",
    b"HTTPS",
    b"E",
    b"R",
    b"h",
    b"<",
    b" ",
    b"HTTP/1.1\t",
    b"HTTP/1.1  ",
    b"HTTP/1.10",
    b"HTTP/1.1 0",
    b"HTTP/1.1 2x",
    b"HTTP/1.1 20\r",
    b"HTTP/1.1 +",
    b"HTTP/1.1 2000",
    b"HTTP/1.1 200\t",
    b"HTTP/1.1 200 O\0",
    b"HTTP/1.1 200 O\x7F",
    b"HTTP/1.1 200 OK\r\nA ",
    b"HTTP/1.1 200 OK\r\n ",
    b"HTTP/1.1 200 OK\r\nA: b\r\n ",
];

#[test]
fn a_wrong_response_is_refused_at_its_first_wrong_byte() {
    for bytes in WRONG_RESPONSES {
        let (_, before) = bytes.split_last().unwrap();
        for ends in [LineEnds::Crlf, LineEnds::CrlfOrLf] {
            assert!(
                matches!(response(before, &limits(), ends), Ok(None)),
                "{} is not wrong yet",
                show(before)
            );
            for behind in [&b""[..], b"\r\n\r\n"] {
                let given = [bytes, behind].concat();
                assert_eq!(
                    status(response(&given, &limits(), ends)).unwrap_err(),
                    502,
                    "{}",
                    show(&given)
                );
            }
        }
    }
    assert_eq!(
        status(response(b"HTTP/1.1 200 OK\rX", &limits(), LineEnds::CrlfOrLf)).unwrap_err(),
        502
    );
    for code in [100, 101, 200, 599, 600, 999] {
        assert_eq!(answered(&format!("HTTP/1.1 {code} \r\n\r\n")).status, code);
    }
    // A web demo's refusal: 24 bytes and no line end, then FIN. Not yet, and never more.
    assert!(matches!(
        response(b"HTTP/1.1 400 Bad Request", &limits(), LineEnds::CrlfOrLf),
        Ok(None)
    ));
}

#[test]
fn a_tab_around_a_framing_value_is_refused() {
    for line in [
        "Content-Length:\t5",
        "Content-Length: 5\t",
        "transfer-encoding:\tchunked",
        "Transfer-Encoding: chunked\t",
    ] {
        assert_eq!(
            status(request(&get(&format!("{line}\r\n")), &limits(), LineEnds::Crlf)).unwrap_err(),
            400,
            "{line}"
        );
        let answer = format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n");
        assert_eq!(
            status(response(answer.as_bytes(), &limits(), LineEnds::Crlf)).unwrap_err(),
            502,
            "{line}"
        );
    }
    for line in [
        "Content-Length:  5 ",
        "Transfer-Encoding:chunked",
        "Cookie:\ta=b",
        "Content-Lengths:\t5",
        "Trailer:\ta",
    ] {
        assert_eq!(asked(&get(&format!("{line}\r\n"))).fields.len(), 1, "{line}");
    }
}

#[test]
fn bounds_at_n_minus_1_n_and_n_plus_1() {
    let bytes = b"GET /12345678 HTTP/1.1\r\nHost: x\r\nA: b\r\n\r\n";
    let n = bytes.len();
    let read = |l| status(request(bytes, &l, LineEnds::Crlf).map(|head| head.map(|h| h.len)));
    for head_bytes_max in [n, n + 1] {
        assert_eq!(read(small(head_bytes_max, 2, 9)), Ok(Some(n)));
    }
    assert_eq!(read(small(n - 1, 2, 9)), Err(431));
    assert_eq!((read(small(n, 1, 9)), read(small(n, 3, 9))), (Err(431), Ok(Some(n))));
    assert_eq!((read(small(n, 2, 8)), read(small(n, 2, 10))), (Err(414), Ok(Some(n))));

    // As early: one byte short of the bound is not yet, at the bound it is too long, whatever part
    // it is in.
    let l = small(300, 2, 200);
    for filler in [&b"GET /1 HTTP/1.1\r\nA: "[..], b"GET /1 HTTP/1.1\r\nA"] {
        let mut bytes = filler.to_vec();
        bytes.resize(300, b'x');
        assert!(matches!(request(&bytes[..299], &l, LineEnds::Crlf), Ok(None)));
        assert_eq!(status(request(&bytes, &l, LineEnds::Crlf)).unwrap_err(), 431);
    }
    let target = [&b"GET /"[..], &[b'x'; 200]].concat();
    assert!(matches!(request(&target[..204], &l, LineEnds::Crlf), Ok(None)));
    assert_eq!(status(request(&target, &l, LineEnds::Crlf)).unwrap_err(), 414);
    assert!(matches!(request(&[b'M'; 64], &l, LineEnds::Crlf), Ok(None)));
    assert_eq!(status(request(&[b'M'; 65], &l, LineEnds::Crlf)).unwrap_err(), 501);
    let third = b"GET / HTTP/1.1\r\nA:\r\nB:\r\nC:\r\n";
    assert!(matches!(request(&third[..third.len() - 1], &l, LineEnds::Crlf), Ok(None)));
    assert_eq!(status(request(third, &l, LineEnds::Crlf)).unwrap_err(), 431);

    let bytes = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n";
    let n = bytes.len();
    let read = |l| status(response(bytes, &l, LineEnds::Crlf).map(|head| head.map(|h| h.len)));
    assert_eq!(
        (read(small(n, 1, 1)), read(small(n - 1, 1, 1)), read(small(n, 0, 1))),
        (Ok(Some(n)), Err(502), Err(502))
    );
}

#[test]
fn as_many_fields_as_the_ceiling_are_read() {
    let lines: String = (0..256).map(|i| format!("F{i}: {i}\r\n")).collect();
    let mut l = limits();
    l.fields_max = 256;
    let bytes = get(&lines);
    let head = request(&bytes, &l, LineEnds::Crlf).unwrap().unwrap();
    assert_eq!((head.fields.len(), head.fields.get("f255")), (256, Some(&b"255"[..])));
    assert_eq!(status(request(&bytes, &limits(), LineEnds::Crlf)).unwrap_err(), 431);
}

#[test]
fn lists_run_over_all_lines_and_do_not_split_quoted_strings() {
    let bytes =
        get("L: a, b ,,\t\r\nX: y\r\nl: \"c, d\\\", e\", f\r\nL:\r\nL: ,\r\nQ: \"open, close\r\n");
    let head = asked(&bytes);
    let list: Vec<_> = head.fields.list("L").map(|m| m.escape_ascii().to_string()).collect();
    assert_eq!(list, ["a", "b", r#"\"c, d\\\", e\""#, "f"]);
    assert!(head.fields.lists("l", "B") && head.fields.lists("l", "f"));
    assert!(
        !head.fields.lists("l", "c")
            && !head.fields.lists("l", "clos")
            && !head.fields.lists("none", "a")
            && !head.fields.lists("q", "close")
    );
}

#[test]
fn persistence() {
    for (minor, connection, expected) in [
        (1, "", true),
        (1, "Connection: Close\r\n", false),
        (1, "Connection: upgrade, close\r\n", false),
        (1, "Connection: upgrade\r\nConnection: close\r\n", false),
        (1, "Connection: closed\r\n", true),
        (0, "", false),
        (0, "Connection: Keep-Alive\r\n", true),
        (0, "Connection: keep-alive, close\r\n", false),
    ] {
        let bytes = get(connection);
        assert_eq!(keeps_alive(minor, &asked(&bytes).fields), expected, "1.{minor} {connection}");
    }
    for (method, expected) in [
        ("GET", true),
        ("HEAD", true),
        ("PUT", true),
        ("DELETE", true),
        ("OPTIONS", true),
        ("TRACE", true),
    ]
    .into_iter()
    .chain([
        ("POST", false),
        ("PATCH", false),
        ("get", false),
        ("CONNECT", false),
        ("", false),
    ]) {
        assert_eq!(is_idempotent(method), expected, "{method}");
    }
}

#[test]
fn nothing_that_splits_is_written() {
    let mut out = b"before".to_vec();
    for (name, value) in [
        ("", "v"),
        ("a b", "v"),
        ("a:", "v"),
        ("a\r\n", "v"),
        ("é", "v"),
        ("a", "x\r\ny: z"),
        ("a", "x\n"),
        ("a", "\r"),
        ("a", "\0"),
        ("a", "\x7F"),
        ("a", "\x1B"),
    ] {
        assert!(write_field(&mut out, name, value.as_bytes()).is_err(), "{name:?}: {value:?}");
    }
    for (method, target) in [
        ("", "/"),
        ("G T", "/"),
        ("GET\r\n", "/"),
        ("GET", ""),
        ("GET", "/ "),
        ("GET", "/\r\n"),
        ("GET", "/é"),
        ("GET", "/\0"),
        ("GET", "/\x7F"),
    ] {
        assert!(write_request_line(&mut out, method, target).is_err(), "{method:?} {target:?}");
    }
    for (status, reason) in
        [(99, ""), (0, ""), (1000, ""), (200, "a\r\nb"), (200, "\n"), (200, "\0")]
    {
        assert!(
            write_status_line(&mut out, status, reason.as_bytes()).is_err(),
            "{status} {reason:?}"
        );
    }
    assert_eq!(out, b"before", "a refused line leaves nothing behind");

    out.clear();
    write_request_line(&mut out, "GET", "/x").unwrap();
    write_field(&mut out, "Host", b"").unwrap();
    write_field(&mut out, "A", b"b\tc \xE9").unwrap();
    write_status_line(&mut out, 204, b"").unwrap();
    write_status_line(&mut out, 999, b"My \xE9").unwrap();
    assert_eq!(
        out,
        b"GET /x HTTP/1.1\r\nHost:\r\nA: b\tc \xE9\r\nHTTP/1.1 204 \r\nHTTP/1.1 999 My \xE9\r\n"
    );
}

#[test]
fn names_and_phrases() {
    for (given, expected) in [
        ("content-type", "Content-Type"),
        ("ETag", "ETag"),
        ("x", "X"),
        ("", ""),
        ("x--y-1a", "X--Y-1a"),
    ] {
        let mut out = Vec::new();
        title_case(given, &mut out);
        assert_eq!(out, expected.as_bytes());
    }
    assert_eq!(
        (reason_phrase(200), reason_phrase(431), reason_phrase(299)),
        ("OK", "Request Header Fields Too Large", "")
    );
    for (bytes, expected) in [
        ("GET", true),
        ("~!", true),
        ("", false),
        ("a b", false),
        ("a,b", false),
        ("a/b", false),
        ("a\"", false),
        ("\u{80}", false),
    ] {
        assert_eq!(is_token(bytes.as_bytes()), expected, "{bytes:?}");
    }
}

/// The registry of RFC 9110 §16.2.1, with what is registered since.
#[test]
fn reason_phrases_are_the_registered_ones() {
    let registration = "100 Continue|101 Switching Protocols|102 Processing|103 Early Hints|104 Upload Resumption Supported|200 OK|201 Created|\
        202 Accepted|203 Non-Authoritative Information|204 No Content|205 Reset Content|206 Partial Content|207 Multi-Status|\
        208 Already Reported|226 IM Used|300 Multiple Choices|301 Moved Permanently|302 Found|303 See Other|304 Not Modified|305 Use Proxy|\
        307 Temporary Redirect|308 Permanent Redirect|400 Bad Request|401 Unauthorized|402 Payment Required|403 Forbidden|404 Not Found|\
        405 Method Not Allowed|406 Not Acceptable|407 Proxy Authentication Required|408 Request Timeout|409 Conflict|410 Gone|\
        411 Length Required|412 Precondition Failed|413 Content Too Large|414 URI Too Long|415 Unsupported Media Type|\
        416 Range Not Satisfiable|417 Expectation Failed|421 Misdirected Request|422 Unprocessable Content|423 Locked|\
        424 Failed Dependency|425 Too Early|426 Upgrade Required|428 Precondition Required|429 Too Many Requests|\
        431 Request Header Fields Too Large|451 Unavailable For Legal Reasons|500 Internal Server Error|501 Not Implemented|502 Bad Gateway|\
        503 Service Unavailable|504 Gateway Timeout|505 HTTP Version Not Supported|506 Variant Also Negotiates|507 Insufficient Storage|\
        508 Loop Detected|511 Network Authentication Required";
    let ours: Vec<String> = (0..1000)
        .filter(|s| !reason_phrase(*s).is_empty())
        .map(|s| format!("{s} {}", reason_phrase(s)))
        .collect();
    assert_eq!(ours.join("|"), registration);
}

#[test]
fn a_refusal_says_which_rule_the_fields_break() {
    for (lines, words) in [
        ("A b: 1\r\n", "a field name is empty or no token"),
        (": 1\r\n", "a field name is empty or no token"),
        (" a: 1\r\n", "a field name is empty or no token"),
        ("A: 1\u{0}\r\n", "a field value has"),
        ("A: 1\rb\r\n", "a field value has"),
        ("A: 1\n", "an LF has no CR before it"),
        ("Content-Length:\t1\r\n", "Content-Length or Transfer-Encoding contains a tab"),
    ] {
        let refusal = request(&get(lines), &limits(), LineEnds::Crlf).unwrap_err();
        assert!(refusal.status == 400 && refusal.reason.starts_with(words), "{lines:?}: {refusal}");
    }
    assert!(
        asked("GET / HTTP/1.1\r\n\r\n").fields.is_empty()
            && !asked("GET / HTTP/1.1\r\nA: b\r\n\r\n").fields.is_empty()
    );
}

#[test]
fn a_heartbeat_is_known_and_answered_in_one_way() {
    use reverse_http::proto::heartbeat::{GOAWAY, Heartbeat, REQUEST, recognise, write_answer};

    for (bytes, means) in [(REQUEST, Heartbeat::Alive), (GOAWAY, Heartbeat::Goaway)] {
        let request = framed(bytes);
        assert_eq!((recognise(&request), request.len), (Ok(Some(means)), bytes.len()));
    }
    for other in [
        "OPTIONS /* HTTP/1.1\r\n\r\n",
        "GET * HTTP/1.1\r\n\r\n",
        "OPTIONS /* HTTP/1.1\r\nContent-Length: 1\r\n\r\n",
    ] {
        assert_eq!(recognise(&framed(other)), Ok(None), "{other:?}");
    }
    for close in [false, true] {
        let mut out = Vec::new();
        write_answer(&mut out, "Sun, 06 Nov 1994 08:49:37 GMT", close);
        let head = answered(&out);
        assert_eq!(
            (head.status, head.len, head.fields.get("date")),
            (204, out.len(), Some(&b"Sun, 06 Nov 1994 08:49:37 GMT"[..]))
        );
        assert_eq!(keeps_alive(1, &head.fields), !close);
    }
}

#[test]
fn no_head_with_a_body_asks_the_server() {
    use reverse_http::proto::forward::{RequestRules, request as forwarded};
    use reverse_http::proto::heartbeat::{Heartbeat, recognise};

    let rules = RequestRules {
        target: "*",
        host: "a",
        prefix: None,
        forwarded: None,
        via: None,
        keep_underscore: false,
        drop_authorization: false,
        upgrade: false,
        request_id: None,
        edits: None,
        alias: None,
        own_cookie: None,
    };
    for (lines, right) in [
        ("", true),
        ("Content-Length: 0\r\n", true),
        ("Content-Length: 0\r\nContent-Length: 0\r\n", true),
        ("Content-Length: 1\r\n", false),
        ("Transfer-Encoding: chunked\r\n", false),
        ("Transfer-Encoding: chunked\r\nConnection: close\r\n", false),
        ("Expect: 100-continue\r\nContent-Length: 1\r\n", false),
    ] {
        let bytes = format!("OPTIONS * HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let request = framed(&bytes);
        let expected = if right { Ok(Some(Heartbeat::Alive)) } else { Err(400) };
        assert_eq!(status(recognise(&request)), expected, "{lines:?}");
        let mut out = Vec::new();
        let goes_on = status(forwarded(&mut out, &request, request.framing(), &rules));
        assert_eq!(goes_on, if right { Ok(()) } else { Err(400) }, "{lines:?}");
        assert!(right || out.is_empty(), "nothing of it is written");
    }
    // What cannot be framed never becomes a request that something could be decided about.
    for lines in [
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: +1\r\n",
        "Content-Length: 1\r\nContent-Length: 2\r\n",
    ] {
        let bytes = format!("OPTIONS * HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        assert_eq!(status(FramedRequest::of(asked(&bytes))).map(|_| ()), Err(400), "{lines:?}");
    }
}

#[test]
fn other_protocols_are_named() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0";
    let hello = b"\x16\x03\x01\x02\0\x01\0\x01\xFC\x03\x03";
    let ssh = b"SSH-2.0-OpenSSH_9.6\r\n";
    for (bytes, what, to_request) in
        [(&preface[..], "HTTP/2 preface", 505), (hello, "TLS hello", 400), (ssh, "SSH banner", 400)]
    {
        assert!(foreign_protocol(bytes).unwrap().contains(what));
        let refusal = request(bytes, &limits(), LineEnds::Crlf).unwrap_err();
        assert_eq!(refusal.status, to_request);
        assert!(refusal.reason.contains(what), "{refusal}");
        let refusal = response(bytes, &limits(), LineEnds::Crlf).unwrap_err();
        assert_eq!(refusal.status, 502);
        assert!(refusal.reason.contains(what), "{refusal}");
    }
    assert_eq!(foreign_protocol(b"\x15\x03\x03\0\x02\x02\x28"), Some("a TLS alert"));
    assert_eq!(foreign_protocol(b"\0\0\x12\x04\0\0\0\0\0"), Some("HTTP/2 frames"));
    for bytes in [
        &b""[..],
        b"P",
        b"PRI",
        b"PRI * HTTP/",
        b"GET / HTTP/1.1",
        b"HTTP/1.1 200",
        b"S",
        b"SSH",
        b"\x17\x03",
        b"\0",
    ] {
        assert_eq!(foreign_protocol(bytes), None, "{}", show(bytes));
    }
}

#[test]
fn debug_shows_no_credentials() {
    let bytes = get(
        "Authorization: Bearer s3cret\r\nPROXY-authorization: s3cret\r\nPTTH-Authorization: s3cret\r\nPTTH-Peer-Secret: s3cret\r\nCookie: s3cret\r\nAccept: shown\r\n",
    );
    let debug = format!("{:?}", asked(&bytes));
    assert!(
        !debug.contains("s3cret") && debug.contains("shown") && debug.contains("Cookie"),
        "{debug}"
    );
    let debug = format!("{:?}", answered("HTTP/1.1 200 OK\r\nSet-Cookie: s3cret\r\n\r\n"));
    assert!(!debug.contains("s3cret"), "{debug}");
}

proptest! {
    /// No bytes make a parser panic, and a verdict on a prefix is never taken back: what is wrong
    /// stays wrong, what is done stays done.
    #[test]
    fn verdicts_only_grow(bytes in hostile()) {
        for ends in [LineEnds::Crlf, LineEnds::CrlfOrLf] {
            let l = small(256, 8, 64);
            let mut before = (None, None);
            for end in 0..=bytes.len() {
                let asked = request(&bytes[..end], &l, ends).map(|h| h.map(|h| h.len));
                let answered = response(&bytes[..end], &l, ends).map(|h| h.map(|h| h.len));
                match before {
                    (Some(true), _) => prop_assert!(asked.is_err()),
                    (Some(false), _) => prop_assert!(matches!(asked, Ok(Some(_)))),
                    _ => {}
                }
                match before {
                    (_, Some(true)) => prop_assert!(answered.is_err()),
                    (_, Some(false)) => prop_assert!(matches!(answered, Ok(Some(_)))),
                    _ => {}
                }
                let verdict = |r: &Result<Option<usize>, _>| match r { Ok(None) => None, Ok(Some(_)) => Some(false), Err(_) => Some(true) };
                before = (verdict(&asked), verdict(&answered));
            }
        }
    }
}

/// Bytes that look like heads often enough to get deep.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"GET ".to_vec()),
        Just(b"/x?y ".to_vec()),
        Just(b"HTTP/1.1".to_vec()),
        Just(b"HTTP/1.0".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\n".to_vec()),
        Just(b"\r".to_vec()),
        Just(b"Host: x".to_vec()),
        Just(b"Content-Length:\t1".to_vec()),
        Just(b": ".to_vec()),
        Just(b" 200 OK".to_vec()),
        Just(b"\r\n\r\n".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..40),
    ];
    proptest::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
}
