//! Chunked bodies on their way through: what is decoded in pieces and framed anew is read as the
//! same body, ends where it has to, and never says more.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reverse_http::Limits;
use reverse_http::proto::body::{Decoder, Framing, Piece, last_chunk, open_chunk};
use reverse_http_fuzz::{End, Pieces, choices, decode, limits};

fuzz_target!(|input: &[u8]| {
    let Some((bytes, [a, b, head, fields])) = choices::<4>(input) else { return };
    let limits = limits([head, fields]);
    let came = decode(Framing::Chunked, &limits, [bytes].into_iter());
    let sent = relayed(bytes, u16::from_le_bytes([a, b]), &limits);
    let read = decode(Framing::Chunked, &Limits::default(), [&sent[..]].into_iter());
    match came.end {
        End::Whole(_) => assert_eq!(
            read.end,
            End::Whole(sent.len()),
            "a whole body goes on whole, and nothing behind it"
        ),
        // Cut or broken: the next one sees a body that has not ended, never a shorter whole one.
        End::More | End::Refused => assert_eq!(read.end, End::More),
    }
    assert_eq!(read.data, came.data);
    assert_eq!(read.trailers, came.trailers);
    // A second relay behind the first changes nothing.
    let again = decode(
        Framing::Chunked,
        &Limits::default(),
        [&relayed(&sent, u16::from_le_bytes([b, a]), &Limits::default())[..]].into_iter(),
    );
    assert_eq!((again.data, again.trailers), (read.data, read.trailers));
    let reference = reverse_http_fuzz::oracle::request(
        &[b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", &sent[..]].concat(),
    );
    if let End::Whole(_) = came.end {
        assert_eq!(
            (&reference.error, &reference.body),
            (&None, &came.data),
            "an independent parser reads the same body"
        );
        assert!(reference.end.is_some());
    } else {
        assert_eq!(reference.end, None, "an independent parser sees no end either");
    }
});

/// What a relay sends for bytes that arrive in pieces: each piece a chunk, trailers behind the
/// last.
fn relayed(bytes: &[u8], seed: u16, limits: &Limits) -> Vec<u8> {
    let (mut decoder, mut out) = (Decoder::new(Framing::Chunked, limits), Vec::new());
    for piece in Pieces::of(bytes, seed) {
        let mut at = 0;
        loop {
            let Ok((n, read)) = decoder.decode(&piece[at..]) else { return out };
            at += n;
            match read {
                Piece::Data(data) => {
                    open_chunk(&mut out, data.len());
                    out.extend_from_slice(data);
                    out.extend_from_slice(b"\r\n");
                }
                Piece::More => break,
                Piece::End => {
                    last_chunk(&mut out, decoder.trailers())
                        .expect("trailers that were read can be written");
                    return out;
                }
            }
        }
    }
    out
}
