//! Framing in both roles (protocol.md §3, threats T1 to T3), and the decoder against every
//! malformed chunk (T5), cut at every byte.

use Framing::{Chunked, Empty, Length, UntilClose};
use proptest::prelude::*;
use reverse_http::Limits;
use reverse_http::proto::body::{
    Decoder, Framing, Piece, last_chunk, may_trail, of_request, of_response, open_chunk,
};
use reverse_http::proto::head::LineEnds;

use super::{REQUESTS, RESPONSES, answered, asked, get, limits, show, small, status};

/// Field lines, and what they mean in a request; in a response every refusal is 502 and `Empty`
/// without fields is `UntilClose`.
const STATED: [(&str, Result<Framing, u16>); 48] = [
    ("Content-Length: 5\r\n", Ok(Length(5))),
    ("content-LENGTH:5\r\n", Ok(Length(5))),
    ("Content-Length: 0\r\n", Ok(Empty)),
    ("Content-Length: 007\r\n", Ok(Length(7))),
    ("Content-Length: 9223372036854775807\r\n", Ok(Length(i64::MAX as u64))),
    ("Content-Length: 9223372036854775808\r\n", Err(400)),
    ("Content-Length: 18446744073709551615\r\n", Err(400)),
    ("Content-Length: 18446744073709551621\r\n", Err(400)),
    ("Content-Length: 99999999999999999999\r\n", Err(400)),
    ("Content-Length: 00000000000000000005\r\n", Err(400)),
    ("Content-Length: 5\r\nContent-Length: 5\r\n", Ok(Length(5))),
    ("Content-Length: 5, 5\r\n", Ok(Length(5))),
    ("Content-Length: 5,5\r\nContent-Length: 5\r\n", Ok(Length(5))),
    ("Content-Length: 5\r\nContent-Length: 6\r\n", Err(400)),
    ("Content-Length: 0\r\nContent-Length: 6\r\n", Err(400)),
    ("Content-Length: 5,6\r\n", Err(400)),
    ("Content-Length: 5,\r\n", Err(400)),
    ("Content-Length: ,5\r\n", Err(400)),
    ("Content-Length: 5 5\r\n", Err(400)),
    ("Content-Length: +5\r\n", Err(400)),
    ("Content-Length: -1\r\n", Err(400)),
    ("Content-Length: 0x5\r\n", Err(400)),
    ("Content-Length: 1_0\r\n", Err(400)),
    ("Content-Length: 5.0\r\n", Err(400)),
    ("Content-Length: \"5\"\r\n", Err(400)),
    ("Content-Length: \u{663}\r\n", Err(400)),
    ("Content-Length:\r\n", Err(400)),
    ("Content-Length: 5\r\nContent-Length:\r\n", Err(400)),
    ("Transfer-Encoding: chunked\r\n", Ok(Chunked)),
    ("transfer-encoding:CHUNKED\r\n", Ok(Chunked)),
    ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Err(400)),
    ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Err(400)),
    ("Content-Length: 0\r\nTransfer-Encoding: identity\r\n", Err(400)),
    ("Transfer-Encoding: xchunked\r\n", Err(501)),
    ("Transfer-Encoding: gzip, chunked\r\n", Err(501)),
    ("Transfer-Encoding: chunked, gzip\r\n", Err(400)), // RFC 9112 §6.3: chunked is not the last
    ("Transfer-Encoding: gzip, chunked, gzip\r\n", Err(400)),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n", Err(400)),
    ("Transfer-Encoding: gzip\r\n", Err(501)),
    ("Transfer-Encoding: identity\r\n", Err(501)),
    ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", Err(501)),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(400)),
    ("Transfer-Encoding: chunked, chunked\r\n", Err(400)),
    ("Transfer-Encoding: chunked,\r\n", Err(400)),
    ("Transfer-Encoding: \"chunked\"\r\n", Err(400)),
    ("Transfer-Encoding: chunked;q=1\r\n", Err(400)),
    ("Transfer-Encoding: ch\u{17F}nked\r\n", Err(400)),
    ("Transfer-Encoding:\r\n", Err(400)),
];

#[test]
fn framing_fields_mean_the_same_in_both_roles() {
    for (lines, expected) in STATED {
        for method in ["GET", "POST", "HEAD", "DELETE"] {
            let bytes = format!("{method} / HTTP/1.1\r\n{lines}\r\n");
            assert_eq!(status(of_request(&asked(&bytes))), expected, "{bytes}");
        }
        let bytes = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
        assert_eq!(
            status(of_response(&answered(&bytes), "GET")),
            expected.map_err(|_| 502),
            "{bytes}"
        );
    }
    assert_eq!(
        of_request(&asked("POST / HTTP/1.1\r\n\r\n")),
        Ok(Empty),
        "neither field: no body, also with POST"
    );
    assert_eq!(of_response(&answered("HTTP/1.1 200 OK\r\n\r\n"), "POST"), Ok(UntilClose));
    for code in [200, 205, 299, 301, 404, 500, 999] {
        assert_eq!(
            of_response(&answered(&format!("HTTP/1.0 {code} \r\n\r\n")), "GET"),
            Ok(UntilClose),
            "{code}"
        );
    }
}

#[test]
fn transfer_encoding_in_http_1_0_is_refused() {
    assert_eq!(
        status(of_request(&asked("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"))),
        Err(400)
    );
    assert_eq!(
        status(of_response(
            &answered("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            "GET"
        )),
        Err(502)
    );
    assert_eq!(of_request(&asked("POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\n")), Ok(Length(5)));
}

#[test]
fn head_1xx_204_and_304_have_no_body_whatever_the_fields_say() {
    let no_body = [
        ("GET", 100),
        ("GET", 103),
        ("GET", 199),
        ("POST", 204),
        ("GET", 304),
        ("HEAD", 200),
        ("HEAD", 404),
    ];
    for (method, code) in no_body {
        for (lines, right) in
            [("", true), ("Content-Length: 5\r\n", true), ("Transfer-Encoding: chunked\r\n", true)]
                .into_iter()
                .chain([
                    ("Content-Length: x\r\n", false),
                    ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", false),
                ])
        {
            let bytes = format!("HTTP/1.1 {code} \r\n{lines}\r\n");
            let expected = if right { Ok(Empty) } else { Err(502) };
            assert_eq!(
                status(of_response(&answered(&bytes), method)),
                expected,
                "{method}: {bytes}"
            );
        }
    }
    for lines in [
        "Content-Length: 0\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: x\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: x\r\n",
    ] {
        assert_eq!(
            of_response(&answered(&format!("HTTP/1.1 101 \r\n{lines}\r\n")), "POST"),
            Ok(Empty),
            "a 101's are ignored: {lines}"
        );
    }
}

#[test]
fn samples_are_framed_as_their_bodies_are_long() {
    for (name, bytes) in REQUESTS {
        let head = asked(bytes);
        let body = (bytes.len() - head.len) as u64;
        assert_eq!(
            of_request(&head).unwrap(),
            if body == 0 { Empty } else { Length(body) },
            "{name}"
        );
    }
    for (name, bytes) in RESPONSES {
        let head = answered(bytes);
        let body = (bytes.len() - head.len) as u64;
        assert_eq!(
            of_response(&head, "GET").unwrap(),
            if body == 0 { Empty } else { Length(body) },
            "{name}"
        );
    }
}

type Trailers = Vec<(String, Vec<u8>)>;
type Decoded = (Vec<u8>, usize, Trailers);

/// Decodes `bytes`, given in steps of these sizes (the last one again and again). Body, bytes used,
/// trailers; `None`: more is needed.
fn decode(
    framing: Framing,
    bytes: &[u8],
    steps: &[usize],
    limits: &Limits,
) -> Result<Option<Decoded>, u16> {
    decode_with(Decoder::new(framing, limits), framing, bytes, steps)
}

fn decode_with(
    mut decoder: Decoder,
    framing: Framing,
    bytes: &[u8],
    steps: &[usize],
) -> Result<Option<Decoded>, u16> {
    let (mut body, mut used, mut given) = (Vec::new(), 0, 0usize);
    let mut steps =
        steps.iter().copied().chain(std::iter::repeat(steps.last().copied().unwrap_or(usize::MAX)));
    loop {
        given = bytes.len().min(given.saturating_add(steps.next().unwrap_or(1).max(1)));
        loop {
            let (n, piece) = status(decoder.decode(&bytes[used..given]))?;
            used += n;
            match piece {
                Piece::Data(data) => {
                    assert!(!data.is_empty(), "Data is never empty");
                    body.extend_from_slice(data);
                }
                Piece::More => {
                    assert_eq!(used, given, "after More all of the input was consumed");
                    assert!(!decoder.is_done());
                    break;
                }
                Piece::End => {
                    assert!(decoder.is_done() && decoder.finish_at_eof().is_ok());
                    assert_eq!(
                        decoder.decode(&bytes[used..]),
                        Ok((0, Piece::End)),
                        "after End, always (0, End)"
                    );
                    assert_eq!(decoder.remaining(), Some(0));
                    return Ok(Some((body, used, decoder.trailers().to_vec())));
                }
            }
        }
        if given == bytes.len() {
            assert_eq!(
                decoder.finish_at_eof().is_ok(),
                framing == UntilClose,
                "a cut is never a clean end"
            );
            return Ok(if framing == UntilClose { Some((body, used, Vec::new())) } else { None });
        }
    }
}

fn pair(name: &str, value: &str) -> (String, Vec<u8>) {
    (name.to_owned(), value.as_bytes().to_vec())
}

#[test]
fn chunked_bodies_cut_anywhere() {
    let x_digest = || vec![pair("Digest", "abc"), pair("X-Two", "")];
    let table: [(&str, &str, Trailers); 12] = [
        ("0\r\n\r\n", "", vec![]),
        ("5\r\nhello\r\n0\r\n\r\n", "hello", vec![]),
        ("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", "hello world", vec![]),
        ("a\r\n0123456789\r\nA\r\n0123456789\r\n000\r\n\r\n", "01234567890123456789", vec![]),
        ("0000000000000002\r\nhi\r\n0\r\n\r\n", "hi", vec![]),
        ("2;a\r\nhi\r\n2;a=b;c=\"d\t\"\r\nho\r\n0;last\r\n\r\n", "hiho", vec![]),
        (
            "2 ;a=b\r\nhi\r\n2\t ; a\t=\t\"b\\\"c;\u{e9}\" ;d;e = f\r\nho\r\n0 ;z\r\n\r\n",
            "hiho",
            vec![],
        ),
        ("5 ;a=b\r\nhello\r\n0\r\n\r\n", "hello", vec![]),
        ("2\r\n\r\n\r\n0\r\n\r\n", "\r\n", vec![]),
        ("0\r\nDigest: abc\r\nX-Two:\r\n\r\n", "", x_digest()),
        (
            "1\r\nx\r\n0\r\nContent-Length: 5\r\nDigest: abc\r\nHost: evil\r\nX-Two:\r\nx_y: 1\r\n\r\n",
            "x",
            x_digest(),
        ),
        ("0\r\nTransfer-Encoding: chunked\r\n\r\n", "", vec![]),
    ];
    for (wire, body, trailers) in table {
        let wire = wire.as_bytes();
        let expected = Ok(Some((body.as_bytes().to_vec(), wire.len(), trailers)));
        let followed = [wire, b"GET / HTTP/1.1\r\n"].concat();
        assert_eq!(decode(Chunked, &followed, &[], &limits()), expected, "{}", show(wire));
        assert_eq!(
            decode(Chunked, &followed, &[1], &limits()),
            expected,
            "byte by byte: {}",
            show(wire)
        );
        for cut in 0..wire.len() {
            assert_eq!(
                decode(Chunked, &followed, &[cut, usize::MAX], &limits()),
                expected,
                "cut at {cut}: {}",
                show(wire)
            );
            assert_eq!(
                decode(Chunked, &wire[..cut], &[], &limits()),
                Ok(None),
                "only {cut} bytes of {}",
                show(wire)
            );
        }
    }
}

/// Bytes of which the last is wrong.
const MALFORMED_CHUNKS: &[&str] = &[
    "\r",
    "\n",
    ";",
    " ",
    "\t",
    "x",
    "+",
    "-",
    "0x",
    "0X",
    "g",
    "_",
    "\0",
    "\u{660}",
    "2 \r",
    "2\t\r",
    "2 2",
    "2 a",
    "2,",
    "2x",
    "2\n",
    "2\r2",
    "2\r\r",
    "2\0",
    "1_",
    "2;\n",
    "2;\r",
    "2; \r",
    "2;;",
    "2;=",
    "2;[",
    "2;a[",
    "2;bad[",
    "2;a b",
    "2;a \r",
    "2;a=\r",
    "2;a=;",
    "2;a= \r",
    "2;a=[",
    "2;a=b[",
    "2;a=b\"",
    "2;a=b \r",
    "2;a=b c",
    "2;a=b=",
    "2;a=\"\r",
    "2;a=\"\\\r",
    "2;a=\"b\"c",
    "2;a=\"b\" \r",
    "2;a\rb",
    "2;a\0",
    "2;a\x1B",
    "2;a\x7F",
    "2;a\r\r",
    "00000000000000002",
    "11112222333344445",
    "8000000000000000",
    "8000000000000000\r",
    "ffffffffffffffff",
    "2\r\nhix",
    "2\r\nhi\n",
    "2\r\nhi\rx",
    "2\r\nhi\r\n\r",
    "2\r\nhi\r\n2 \r",
    "0\r\n\n",
    "0\r\n\rx",
    "0\r\n ",
    "0\r\n:",
    "0\r\nA ",
    "0\r\nA\r",
    "0\r\nA: b\n",
    "0\r\nA: b\0",
    "0\r\nA: b\r\n ",
    "0\r\nA: b\r\n\rx",
];

#[test]
fn a_malformed_chunk_is_refused_at_its_first_wrong_byte() {
    for wire in MALFORMED_CHUNKS {
        let wire = wire.as_bytes();
        for given in [wire.to_vec(), [wire, b"\r\n\r\n"].concat()] {
            assert_eq!(decode(Chunked, &given, &[], &limits()), Err(400), "{}", show(&given));
            assert_eq!(decode(Chunked, &given, &[1], &limits()), Err(400), "{}", show(&given));
        }
    }
    // What stands before the wrong byte is right.
    for wire in [
        "7fffffffffffffff\r\n",
        "7FFFFFFFFFFFFFFF;x\r\n",
        "0000000000000000",
        "2 ",
        "2\t ;",
        "2;a=\"\\\"",
        "2;a = ",
    ] {
        assert_eq!(decode(Chunked, wire.as_bytes(), &[], &limits()), Ok(None), "{wire:?}");
    }
}

/// As nginx and HAProxy take answers: blanks after a chunk size, and a lone LF at the end of any
/// line between chunks. Requests are read strictly.
#[test]
fn chunks_of_an_answer_may_have_blanks_and_lone_lfs() {
    let trailers = || vec![pair("Digest", "abc")];
    for (wire, body, trailers) in [
        ("5  \r\nhello\r\n0  \r\n\r\n", "hello", vec![]),
        ("5\t\r\nhello\r\n0\r\n\r\n", "hello", vec![]),
        ("5\nhello\r\n0\r\n\r\n", "hello", vec![]),
        ("5\r\nhello\n0\r\n\r\n", "hello", vec![]),
        ("5\r\nhello\r\n0\n\r\n", "hello", vec![]),
        ("5\r\nhello\r\n0\r\n\n", "hello", vec![]),
        ("5\nhello\n0\n\n", "hello", vec![]),
        ("5 \nhello\n1;a \n!\n0\nDigest: abc\n\n", "hello!", trailers()),
        ("5;a=\"b\" \r\nhello\r\n0\r\nDigest: abc\n\r\n", "hello", trailers()),
    ] {
        let wire = wire.as_bytes();
        let followed = [wire, b"HTTP/1.1 200 OK\r\n"].concat();
        let lenient = || Decoder::new(Chunked, &limits()).line_ends(LineEnds::CrlfOrLf);
        let expected = Ok(Some((body.as_bytes().to_vec(), wire.len(), trailers)));
        for cut in 0..=wire.len() {
            assert_eq!(
                decode_with(lenient(), Chunked, &followed, &[cut, usize::MAX]),
                expected,
                "cut at {cut}: {}",
                show(wire)
            );
        }
        assert_eq!(
            decode_with(lenient(), Chunked, &followed, &[1]),
            expected,
            "byte by byte: {}",
            show(wire)
        );
        assert_eq!(decode(Chunked, wire, &[], &limits()), Err(400), "as a request: {}", show(wire));
    }
    for wrong in
        ["5;\n", "5;a=\n", "5 5", " 5", "5\rh", "\n", "5\nhello!", "5\nhello\rx", "0\n x", "0\n\rx"]
    {
        let lenient = Decoder::new(Chunked, &limits()).line_ends(LineEnds::CrlfOrLf);
        assert_eq!(decode_with(lenient, Chunked, wrong.as_bytes(), &[]), Err(400), "{wrong:?}");
    }
}

#[test]
fn wrong_once_is_wrong_for_ever() {
    let mut decoder = Decoder::new(Chunked, &limits());
    assert!(decoder.decode(b"zz").is_err());
    assert!(
        decoder.decode(b"0\r\n\r\n").is_err()
            && decoder.decode(b"").is_err()
            && decoder.finish_at_eof().is_err()
            && !decoder.is_done()
    );
}

#[test]
fn extensions_and_trailers_are_bounded() {
    let l = small(256, 4, 256);
    let line = |bytes: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(bytes - 1));
    for steps in [&[][..], &[1]] {
        let read =
            |wire: &str| decode(Chunked, wire.as_bytes(), steps, &l).map(|done| done.is_some());
        assert_eq!(
            (read(&line(255)), read(&line(256)), read(&line(257))),
            (Ok(true), Ok(true), Err(400))
        );
        // Over all chunks of the body together: 64 × 4 bytes, and one more.
        let many = |n: usize| format!("{}0\r\n\r\n", "1;ext\r\nx\r\n".repeat(n));
        assert_eq!((read(&many(64)), read(&many(65))), (Ok(true), Err(400)));

        let section = |bytes: usize| format!("0\r\nA: {}\r\n\r\n", "v".repeat(bytes - 7));
        assert_eq!(
            (read(&section(255)), read(&section(256)), read(&section(257))),
            (Ok(true), Ok(true), Err(400))
        );
        let fields = |n: usize| format!("0\r\n{}\r\n", "A: b\r\n".repeat(n));
        assert_eq!((read(&fields(4)), read(&fields(5))), (Ok(true), Err(400)));
        // Without end: refused when the bound is full, not when the line ends.
        assert_eq!(read(&format!("0\r\nA: {}", "v".repeat(300))), Err(400));
        assert_eq!(read(&format!("1;{}", "e".repeat(300))), Err(400));
    }
}

#[test]
fn one_byte_chunks_of_a_long_body_cost_no_memory_of_their_own() {
    let wire = "1\r\nx\r\n".repeat(100_000) + "0\r\n\r\n";
    let (body, used, _) = decode(Chunked, wire.as_bytes(), &[8192], &limits()).unwrap().unwrap();
    assert_eq!((body.len(), used), (100_000, wire.len()));
}

#[test]
fn trailers_that_must_not_trail() {
    for name in [
        "Transfer-Encoding",
        "content-length",
        "HOST",
        "Connection",
        "Upgrade",
        "TE",
        "Trailer",
        "Authorization",
        "Proxy-Authorization",
        "PTTH-Authorization",
        "ptth-same-visitor",
        "Proxy-Connection",
        "Set-Cookie",
        "Cookie",
        "Cache-Control",
        "Expect",
        "Range",
        "Max-Forwards",
        "Pragma",
        "Content-Encoding",
        "Content-Type",
        "Content-Range",
        "Age",
        "Expires",
        "Date",
        "Location",
        "Retry-After",
        "Vary",
        "Warning",
        "Via",
        "Forwarded",
        "X-Forwarded-For",
        "x-forwarded-anything",
        "Keep-Alive",
        "with_underscore",
        "If-Match",
        "WWW-Authenticate",
        "HTTP2-Settings",
    ] {
        assert!(!may_trail(name), "{name}");
    }
    for name in [
        "Digest",
        "Server-Timing",
        "ETag",
        "grpc-status",
        "X-Checksum",
        "Content-Digest",
        "Hosts",
        "Contents",
    ] {
        assert!(may_trail(name), "{name}");
    }
}

#[test]
fn lengths_and_closes() {
    for steps in [&[][..], &[1], &[3]] {
        assert_eq!(
            decode(Length(5), b"hello more", steps, &limits()),
            Ok(Some((b"hello".to_vec(), 5, vec![])))
        );
        assert_eq!(decode(Length(5), b"hell", steps, &limits()), Ok(None));
        assert_eq!(decode(Empty, b"more", steps, &limits()), Ok(Some((vec![], 0, vec![]))));
        assert_eq!(decode(Length(0), b"more", steps, &limits()), Ok(Some((vec![], 0, vec![]))));
        assert_eq!(
            decode(UntilClose, b"all of it", steps, &limits()),
            Ok(Some((b"all of it".to_vec(), 9, vec![])))
        );
    }
    let mut decoder = Decoder::new(UntilClose, &limits());
    assert_eq!(decoder.decode(b""), Ok((0, Piece::More)));
    assert!(
        !decoder.is_done()
            && decoder.remaining().is_none()
            && decoder.finish_at_eof().is_ok()
            && decoder.is_done()
    );
    assert_eq!(decoder.decode(b"late"), Ok((0, Piece::End)));
}

#[test]
fn what_the_caller_moves_itself_is_counted() {
    let mut decoder = Decoder::new(Length(10), &limits());
    decoder.advance(0);
    decoder.advance(4);
    assert_eq!((decoder.remaining(), decoder.is_done()), (Some(6), false));
    assert_eq!(decoder.decode(b"56"), Ok((2, Piece::Data(b"56"))));
    decoder.advance(4);
    assert!(decoder.is_done());
    decoder.advance(0);
    for (framing, n) in [(Length(3), 4), (Empty, 1), (Chunked, 1), (Chunked, 0)] {
        let moved = std::panic::catch_unwind(|| Decoder::new(framing, &limits()).advance(n));
        assert!(moved.is_err(), "{framing:?} {n}");
    }
    assert!(std::panic::catch_unwind(|| Decoder::new(UntilClose, &limits()).advance(9)).is_ok());
}

#[test]
fn the_encoder_writes_what_the_decoder_reads() {
    let mut out = Vec::new();
    for len in [1, 9, 10, 15, 16, 0xABCDEF, usize::MAX] {
        out.clear();
        open_chunk(&mut out, len);
        assert_eq!(out, format!("{len:x}\r\n").as_bytes());
    }
    out.clear();
    last_chunk(&mut out, &[pair("Digest", "abc"), pair("Empty", "")]).unwrap();
    assert_eq!(out, b"0\r\nDigest: abc\r\nEmpty:\r\n\r\n");
    for wrong in [pair("a b", "c"), pair("a", "b\r\nc: d"), pair("", "")] {
        assert!(last_chunk(&mut out, &[pair("Digest", "abc"), wrong]).is_err());
    }
    assert_eq!(out, b"0\r\nDigest: abc\r\nEmpty:\r\n\r\n", "nothing is appended with an error");
}

#[test]
fn a_request_head_and_its_chunks_in_one_segment() {
    let wire = [get("Transfer-Encoding: chunked\r\n"), b"3\r\nabc\r\n0\r\n\r\n".to_vec()].concat();
    let head = asked(&wire);
    let (body, used, _) =
        decode(of_request(&head).unwrap(), &wire[head.len..], &[2], &limits()).unwrap().unwrap();
    assert_eq!((body.as_slice(), head.len + used), (&b"abc"[..], wire.len()));
}

proptest! {
    /// Any body, in any chunks, cut anywhere, comes out as it went in, and not a byte of what
    /// follows is touched.
    #[test]
    fn round_trip(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..20),
        steps in proptest::collection::vec(1usize..30, 1..40),
        trailers in proptest::collection::vec(("X-[a-z]{1,8}", "[ -~&&[^ ]]{0,12}"), 0..4),
        behind in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let trailers: Vec<_> = trailers.iter().map(|(name, value)| pair(name, value)).collect();
        let mut wire = Vec::new();
        for chunk in &chunks {
            open_chunk(&mut wire, chunk.len());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        last_chunk(&mut wire, &trailers).unwrap();
        let len = wire.len();
        wire.extend_from_slice(&behind);
        prop_assert_eq!(decode(Chunked, &wire, &steps, &limits()), Ok(Some((chunks.concat(), len, trailers))));
    }

    /// No bytes make the decoder panic, and how they are cut changes nothing about what it says.
    #[test]
    fn cuts_change_nothing(bytes in hostile(), steps in proptest::collection::vec(1usize..10, 1..40)) {
        let l = small(64, 4, 64);
        let whole = decode(Chunked, &bytes, &[], &l);
        prop_assert_eq!(decode(Chunked, &bytes, &steps, &l), whole.clone());
        prop_assert_eq!(decode(Chunked, &bytes, &[1], &l), whole);
    }
}

fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"\r\n".to_vec()),
        Just(b"1".to_vec()),
        Just(b"1\r\nx\r\n".to_vec()),
        Just(b"0\r\n".to_vec()),
        Just(b";e".to_vec()),
        Just(b"0\r\n\r\n".to_vec()),
        Just(b"A: b\r\n".to_vec()),
        Just(b"\r".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..6),
    ];
    proptest::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}
