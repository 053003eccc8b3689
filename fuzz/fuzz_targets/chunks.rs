//! The decoder of bodies: cut anywhere it reads the same, it takes nothing behind the end, and what
//! the encoder wrote comes back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reverse_http::proto::body::{Framing, last_chunk, may_trail, open_chunk};
use reverse_http_fuzz::{Body, End, Pieces, choices, cuts, decode, limits};

fuzz_target!(|input: &[u8]| {
    let Some((bytes, [framing, length, a, b, head, fields])) = choices::<6>(input) else { return };
    let limits = limits([head, fields]);
    let framing = match framing & 7 {
        0 => Framing::Empty,
        1 if length > 0 => Framing::Length(u64::from(length)),
        2 => Framing::UntilClose,
        _ => Framing::Chunked,
    };
    let whole = decode(framing, &limits, [bytes].into_iter());
    let seed = u16::from_le_bytes([a, b]);
    assert_eq!(decode(framing, &limits, Pieces::of(bytes, seed)), whole, "cut in pieces");
    assert_eq!(decode(framing, &limits, bytes.chunks(1)), whole, "one byte at a time");
    match framing {
        Framing::Empty => assert_eq!(whole.end, End::Whole(0)),
        Framing::Length(length) => {
            let taken = bytes.len().min(length as usize);
            assert_eq!(whole.data, &bytes[..taken]);
            assert_eq!(
                whole.end,
                if taken == length as usize { End::Whole(taken) } else { End::More }
            );
        }
        Framing::UntilClose => assert_eq!((&whole.data[..], &whole.end), (bytes, &End::More)),
        Framing::Chunked => {
            chunked_ends_once(bytes, &whole, |part| decode(framing, &limits, [part].into_iter()));
            if let End::Whole(end) = whole.end {
                assert_eq!(
                    slowly(bytes),
                    Some((whole.data.clone(), end)),
                    "a slow reading of the same"
                );
            }
        }
    }
    encoded_comes_back(bytes, seed);
});

/// No shorter prefix is whole, and nothing behind the end changes it.
fn chunked_ends_once(bytes: &[u8], whole: &Body, decode: impl Fn(&[u8]) -> Body) {
    let End::Whole(end) = whole.end else { return };
    assert_eq!(decode(&bytes[..end]), *whole);
    for cut in cuts(end).into_iter().filter(|cut| *cut < end) {
        assert_eq!(decode(&bytes[..cut]).end, End::More, "cut at {cut}");
    }
    assert!(
        whole.trailers.iter().all(|(name, value)| may_trail(name)
            && !value.iter().any(|o| matches!(o, b'\r' | b'\n' | 0)))
    );
}

/// RFC 9112 §7.1 with its whole input at hand: data and length where the body is whole. Laxer than
/// the decoder (bounds, bytes of extensions, trailers), so it is asked only about what that took.
fn slowly(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let line_len = bytes[at..].windows(2).position(|pair| pair == b"\r\n")?;
        let line = &bytes[at..at + line_len];
        let digits = match line.iter().position(|byte| *byte == b';') {
            Some(at) => line[..at].trim_ascii_end(), // blanks may stand before an extension
            None => line,
        };
        if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let size = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        at += line_len + 2;
        if size == 0 {
            break;
        }
        let size = usize::try_from(size).ok()?;
        data.extend_from_slice(bytes.get(at..at.checked_add(size)?)?);
        at += size;
        bytes[at..].starts_with(b"\r\n").then_some(())?;
        at += 2;
    }
    if bytes[at..].starts_with(b"\r\n") {
        return Some((data, at + 2));
    }
    let section = bytes[at..].windows(4).position(|four| four == b"\r\n\r\n")?;
    Some((data, at + section + 4))
}

fn encoded_comes_back(bytes: &[u8], seed: u16) {
    let mut wire = Vec::new();
    for piece in Pieces::of(bytes, seed).filter(|piece| !piece.is_empty()) {
        open_chunk(&mut wire, piece.len());
        wire.extend_from_slice(piece);
        wire.extend_from_slice(b"\r\n");
    }
    let value: Vec<u8> =
        bytes.iter().copied().filter(|byte| !matches!(byte, 0..=32 | 127)).take(40).collect();
    let trailers = if seed & 1 == 0 { vec![("X-Sum".to_owned(), value)] } else { Vec::new() };
    last_chunk(&mut wire, &trailers).expect("these trailers can be written");
    let end = wire.len();
    wire.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    let limits = reverse_http::Limits::default();
    let back = decode(Framing::Chunked, &limits, Pieces::of(&wire, seed));
    assert_eq!(back, Body { data: bytes.to_vec(), trailers, end: End::Whole(end) });
    // A value that would split a line is never written.
    let mut out = b"kept".to_vec();
    let splits = bytes.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127));
    assert_eq!(last_chunk(&mut out, &[("X-Sum".to_owned(), bytes.to_vec())]).is_err(), splits);
    assert!(!splits || out == b"kept");
}
