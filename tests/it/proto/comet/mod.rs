//! The fallback's messages (protocol.md §2): what bytes alone decide of an event, an answer, a POST
//! and its reply. JSON has a file of its own.

#[cfg(feature = "comet")]
mod json;
mod messages;
mod posts;

use proptest::prelude::*;
use reverse_http::proto::body::{Decoder, Piece, of_request};
use reverse_http::proto::comet;
#[cfg(feature = "comet")]
use reverse_http::proto::comet::answer_start;

#[cfg(feature = "comet")]
use super::{answered, sample, small, status};
use super::{asked, limits, show};

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
    /// Without the fields that frame: those each encoding writes again.
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

// ── Requests, written ──

fn written(head: &str, body: &[u8], trailers: &[(String, Vec<u8>)]) -> String {
    let mut out = b"kept ".to_vec();
    comet::write_request(&mut out, &asked(head), body, trailers).unwrap();
    String::from_utf8(out).unwrap().strip_prefix("kept ").unwrap().to_owned()
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
