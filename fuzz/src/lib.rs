//! What the fuzz targets share: bounds and cuts out of an input's last bytes, and the readings that
//! two ways of parsing have to agree on.
//!
//! A target's input is a message followed by a few bytes of choices, so that a seed is a message as
//! it goes over the wire, and a mutation of the message leaves the choices alone.

pub mod oracle;

use reverse_http::proto::body::{Decoder, Framing, Piece, last_chunk, open_chunk};
use reverse_http::proto::head::{Fields, LineEnds, is_token};
use reverse_http::{Limits, Refusal};

/// The message and the `N` bytes of choices behind it.
pub fn choices<const N: usize>(input: &[u8]) -> Option<(&[u8], [u8; N])> {
    input.split_last_chunk::<N>().map(|(message, choices)| (message, *choices))
}

/// Bounds from two bytes: the defaults where both are 0, else small ones, so that short inputs
/// reach them.
pub fn limits(choice: [u8; 2]) -> Limits {
    let mut limits = Limits::default();
    if choice != [0, 0] {
        limits.head_bytes_max = 256 + 8 * usize::from(choice[0]);
        limits.fields_max = 8 + usize::from(choice[1] & 0x0F);
        limits.target_bytes_max = 1 + 4 * usize::from(choice[1] >> 4);
        limits.informational_max = usize::from(choice[0] & 0x07);
    }
    limits
}

/// Bounds that no fuzzed input reaches, for reading what was written here.
pub fn wide() -> Limits {
    let mut limits = Limits::default();
    (limits.head_bytes_max, limits.fields_max, limits.target_bytes_max) =
        (128 * 1024, 256, 128 * 1024);
    limits
}

/// Limits of a head that is forwarded: [`wide`] ones, with room for the fields that a hop adds.
pub fn forwarded() -> Limits {
    let mut limits = wide();
    limits.fields_max -= 16;
    limits
}

/// How lines end, from one bit.
pub fn line_ends(choice: u8) -> LineEnds {
    if choice & 1 == 0 { LineEnds::Crlf } else { LineEnds::CrlfOrLf }
}

/// Lengths of prefixes to try: all of a short input, else those around its ends and some between.
pub fn cuts(len: usize) -> Vec<usize> {
    if len <= 160 {
        return (0..=len).collect();
    }
    let step = len / 48;
    (0..=len).filter(|cut| *cut < 16 || len - *cut < 16 || cut % step == 0).collect()
}

/// Cuts an input into pieces whose lengths a small generator draws from `seed`; empty pieces, too.
pub struct Pieces<'a> {
    rest: &'a [u8],
    seed: u32,
}

impl<'a> Pieces<'a> {
    /// The pieces of `bytes`.
    pub fn of(bytes: &'a [u8], seed: u16) -> Self {
        Pieces { rest: bytes, seed: u32::from(seed) | 0x1_0000 }
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let drawn = (self.seed >> 16) as usize;
        let len = if drawn & 0x80 == 0 { drawn & 0x07 } else { drawn & 0x7F };
        let (piece, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        Some(piece)
    }
}

/// How a body ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It is whole; so many bytes of the input are its own.
    Whole(usize),
    /// More is needed.
    More,
    /// It is malformed.
    Refused,
}

/// A body as the decoder read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// The data.
    pub data: Vec<u8>,
    /// The trailers that are kept.
    pub trailers: Vec<(String, Vec<u8>)>,
    /// Its end.
    pub end: End,
}

/// Decodes a body that comes in `pieces`.
pub fn decode<'p>(
    framing: Framing,
    limits: &Limits,
    pieces: impl Iterator<Item = &'p [u8]>,
) -> Body {
    let mut decoder = Decoder::new(framing, limits);
    let mut body = Body { data: Vec::new(), trailers: Vec::new(), end: End::More };
    let mut used = 0;
    // Once more with nothing: a body of no bytes is whole at once.
    for piece in pieces.chain([&[][..]]) {
        let mut at = 0;
        loop {
            match decoder.decode(&piece[at..]) {
                Ok((n, read)) => {
                    assert!(n <= piece.len() - at, "the decoder took more than there was");
                    if let Piece::Data(data) = read {
                        assert!(
                            !data.is_empty() && data.len() <= n,
                            "a piece of data is what was consumed"
                        );
                        assert_eq!(
                            data,
                            &piece[at + n - data.len()..at + n],
                            "data is the end of what was consumed"
                        );
                        body.data.extend_from_slice(data);
                    }
                    at += n;
                    used += n;
                    match read {
                        Piece::Data(_) => {}
                        Piece::More => {
                            assert_eq!(at, piece.len(), "after More everything was consumed");
                            break;
                        }
                        Piece::End => {
                            assert!(decoder.is_done() && decoder.remaining() == Some(0));
                            assert_eq!(
                                decoder.decode(b"GET / HTTP/1.1"),
                                Ok((0, Piece::End)),
                                "behind the end nothing is taken"
                            );
                            body.trailers = decoder.trailers().to_vec();
                            body.end = End::Whole(used);
                            return body;
                        }
                    }
                }
                Err(refusal) => {
                    assert_eq!(refusal.status, 400);
                    assert!(
                        decoder.decode(b"0\r\n\r\n").is_err() && !decoder.is_done(),
                        "what was malformed once stays so"
                    );
                    assert!(decoder.finish_at_eof().is_err());
                    body.end = End::Refused;
                    return body;
                }
            }
        }
    }
    assert!(!decoder.is_done());
    assert_eq!(
        decoder.finish_at_eof().is_ok(),
        framing == Framing::UntilClose,
        "only a body until close may end there"
    );
    body
}

/// Appends a body as a relay frames it anew, and tells how it reads there.
pub fn frame_anew(wire: &mut Vec<u8>, framing: Framing, body: &Body) -> Body {
    let start = wire.len();
    if framing == Framing::Chunked {
        if !body.data.is_empty() {
            open_chunk(wire, body.data.len());
            wire.extend([&body.data[..], b"\r\n"].concat());
        }
        if let End::Whole(_) = body.end {
            last_chunk(wire, &body.trailers).expect("trailers that were read can be written");
        }
    } else {
        wire.extend_from_slice(&body.data);
    }
    let end = if let End::Whole(_) = body.end { End::Whole(wire.len() - start) } else { End::More };
    Body { data: body.data.clone(), trailers: body.trailers.clone(), end }
}

/// Names and values, owned.
pub type Pairs = Vec<(String, Vec<u8>)>;

/// The fields of a head.
pub fn pairs(fields: &Fields<'_>) -> Pairs {
    fields.iter().map(|field| (field.name.to_owned(), field.value.to_vec())).collect()
}

/// What every accepted field is, whatever it was read from.
pub fn check_fields(fields: &Fields<'_>) {
    for field in fields {
        assert!(is_token(field.name.as_bytes()), "{:?} is no token", field.name);
        assert!(
            !field.value.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127)),
            "a control byte in {:?}",
            field.name
        );
        let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        assert!(
            !blank(field.value.first()) && !blank(field.value.last()),
            "blanks around the value of {:?}",
            field.name
        );
    }
}

/// The lines of a section by an independent and slow way: split at line ends, then at the first
/// colon. `None`: it has another form.
pub fn split_lines(section: &[u8], ends: LineEnds) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut lines = Vec::new();
    for line in section.split_inclusive(|byte| *byte == b'\n') {
        let line = match (line.strip_suffix(b"\r\n"), ends) {
            (Some(line), _) => line,
            (None, LineEnds::CrlfOrLf) => line.strip_suffix(b"\n")?,
            (None, LineEnds::Crlf) => return None,
        };
        lines.push(line);
    }
    if lines.pop() != Some(&[]) || lines.iter().any(|line| line.is_empty()) {
        return None;
    }
    let split = |line: &[u8]| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((line[..colon].to_vec(), trim(&line[colon + 1..]).to_vec()))
    };
    lines.into_iter().map(split).collect()
}

/// Without blanks at both ends.
pub fn trim(bytes: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = bytes.iter().position(|byte| !is_blank(byte)).unwrap_or(bytes.len());
    let end = bytes.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
    &bytes[start..end]
}

/// Whether names are the same, case aside.
pub fn same(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// The values of a name.
pub fn all<'f>(fields: &'f Fields<'_>, name: &str) -> Vec<&'f [u8]> {
    fields.iter().filter(|field| same(field.name, name)).map(|field| field.value).collect()
}

/// A refusal as every face can send it on: a status of an error, one line of plain text.
pub fn check_refusal(refusal: &Refusal, statuses: &[u16]) {
    assert!(statuses.contains(&refusal.status), "an unexpected status: {refusal}");
    assert!(
        !refusal.reason.is_empty() && !refusal.reason.contains(['\r', '\n', '\0']),
        "a reason is one line: {refusal:?}"
    );
}
