//! Where a message ends: the framing decision for both roles, one function each; the decoder and
//! the encoder.
//!
//! The decoder keeps its position within a chunk line as state, not as bytes, so that it accepts
//! input that is split anywhere and needs no buffer; only a trailer section is collected, up to the
//! bound for heads.
//!
//! ```text
//!             ┌───────────────────────── DataLf ◄─ DataCr ◄─┐
//!             ▼                                             │
//!   Chunked: Size ─► (Extension) ─► SizeLf ─► Data ─────────┘
//!                                     └ 0 ─► TrailerStart ─► (Trailer | TrailerLf) ─► Done
//! ```
//! In an answer ([`LineEnds::CrlfOrLf`]) a lone LF ends each of these lines, too, and blanks may
//! precede a line's end: small servers write both, and nginx accepts both. Requests are read
//! strictly, since a server after us may read them in another way.
//!
//! It reads a chunk size neither with `from_str_radix` (which accepts `+5`) nor with
//! `httparse::parse_chunk_size` (which accepts an empty size, an LF in an extension, and 2^64-1).
use crate::error::Refusal;
use crate::limits::Limits;
use crate::proto::digits::decimal;
use crate::proto::fields::{Fields, begins, is_ambiguous, same_name, trim};
use crate::proto::head::{LineEnds, Part, RequestHead, ResponseHead, is_token, section};
use crate::proto::head_writer::write_field;

/// How the end of a body is found (RFC 9112 §6.3).
///
/// ```
/// use reverse_http::Limits;
/// use reverse_http::proto::body::{self, Framing};
/// use reverse_http::proto::head::{self, LineEnds};
///
/// let head = b"POST /status HTTP/1.1\r\nHost: lamp\r\nContent-Length: 2\r\n\r\n";
/// let head = head::request(head, &Limits::default(), LineEnds::Crlf)?.expect("it is whole");
/// assert_eq!(body::of_request(&head)?, Framing::Length(2));
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    Empty,
    /// This number of bytes (never 0: that is `Empty`).
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// A response that ends with the connection.
    UntilClose,
}

/// Framing of a request (protocol.md §3).
///
/// # Errors
/// 400 or 501 with the reason; the connection has to be closed.
pub fn of_request(head: &RequestHead<'_>) -> Result<Framing, Refusal> {
    Ok(stated(head.minor, &head.fields)?.unwrap_or(Framing::Empty))
}

/// Framing of the response to a request of `method`.
///
/// # Errors
/// 502 with the reason; the link has to be closed.
pub fn of_response(head: &ResponseHead<'_>, method: &str) -> Result<Framing, Refusal> {
    if head.status == 101 {
        return Ok(Framing::Empty); // protocol.md §1.4: framing fields in a 101 are ignored (the seed's has Content-Length)
    }
    let stated =
        stated(head.minor, &head.fields).map_err(|refusal| Refusal { status: 502, ..refusal })?;
    if method == "HEAD" || matches!(head.status, 100..=199 | 204 | 304) {
        return Ok(Framing::Empty);
    }
    Ok(stated.unwrap_or(Framing::UntilClose))
}

/// The framing that the fields announce, the same in both roles. `None`: there are no such fields.
fn stated(minor: u8, fields: &Fields<'_>) -> Result<Option<Framing>, Refusal> {
    // One pass over the fields, by length first: this runs for every message.
    let (mut lengths, mut codings) = (0, 0);
    for field in fields {
        match field.name.len() {
            14 => lengths += usize::from(same_name(field.name, "content-length")),
            17 => codings += usize::from(same_name(field.name, "transfer-encoding")),
            _ => {}
        }
    }
    if codings > 0 {
        if lengths > 0 {
            return Err(Refusal::new(400, "Content-Length and Transfer-Encoding came together"));
        }
        return coding(minor, fields).map(Some);
    }
    Ok(content_length(fields)?
        .map(|length| if length == 0 { Framing::Empty } else { Framing::Length(length) }))
}

/// `Transfer-Encoding` is exactly one `chunked`, in one line, in HTTP/1.1 (RFC 9112 §6.1).
fn coding(minor: u8, fields: &Fields<'_>) -> Result<Framing, Refusal> {
    if minor == 0 {
        return Err(Refusal::new(400, "Transfer-Encoding came in HTTP/1.0"));
    }
    let mut lines = fields.all("transfer-encoding");
    if let (Some(only), None) = (lines.next(), lines.next()) {
        if only.eq_ignore_ascii_case(b"chunked") {
            return Ok(Framing::Chunked);
        }
    }
    let is_chunked = |member: &[u8]| member.eq_ignore_ascii_case(b"chunked");
    let (mut unknown, mut misplaced, mut ended) = (false, false, false);
    for member in fields.list("transfer-encoding") {
        misplaced |= ended; // RFC 9112 §6.3: if chunked is not the last coding, the end of the body is unknown
        ended |= is_chunked(member);
        unknown |= is_token(member) && !is_chunked(member);
    }
    if unknown && !misplaced {
        return Err(Refusal::new(501, "Transfer-Encoding names a coding other than chunked"));
    }
    Err(Refusal::new(
        400,
        "Transfer-Encoding has to be chunked, once, as the last coding and the only one",
    ))
}

/// Bytes that one `Content-Length` or chunk may announce: the largest signed 64-bit number, since
/// most peers use one.
const LENGTH_MAX: u64 = i64::MAX as u64;

/// The value of `Content-Length`; equal values count as one (RFC 9110 §8.6).
///
/// # Errors
/// 400: anything but digits, a number above 2^63-1, values that differ.
pub(crate) fn content_length(fields: &Fields<'_>) -> Result<Option<u64>, Refusal> {
    let mut length = None;
    for line in fields.all("content-length") {
        // Not `list`, which skips empty members: an empty one is as invalid as a word.
        for member in line.split(|&byte| byte == b',') {
            let Some(value) = number(trim(member)) else {
                return Err(Refusal::new(
                    400,
                    "Content-Length is not a number in digits, up to 2^63-1",
                ));
            };
            if length.is_some_and(|length| length != value) {
                return Err(Refusal::new(400, "Content-Length came with different values"));
            }
            length = Some(value);
        }
    }
    Ok(length)
}

/// Reads up to 19 digits and nothing else.
fn number(digits: &[u8]) -> Option<u64> {
    decimal(digits).filter(|value| digits.len() <= 19 && *value <= LENGTH_MAX)
}

/// What [`Decoder::decode`] found at the front of its input.
///
/// ```
/// use reverse_http::Limits;
/// use reverse_http::proto::body::{Decoder, Framing, Piece};
///
/// let mut decoder = Decoder::new(Framing::Length(2), &Limits::default());
/// assert_eq!(decoder.decode(b"o")?, (1, Piece::Data(b"o")));
/// assert_eq!(decoder.decode(b"")?, (0, Piece::More));
/// assert_eq!(decoder.decode(b"nGET /")?, (1, Piece::Data(b"n")));
/// assert_eq!(decoder.decode(b"GET /")?, (0, Piece::End));
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes of the body, not empty.
    Data(&'a [u8]),
    /// All input was consumed; more is needed.
    More,
    /// The body is complete.
    End,
}

/// Finds the bytes of a body in the bytes that are received. It never allocates by a length that a
/// peer announced.
///
/// ```
/// use reverse_http::Limits;
/// use reverse_http::proto::body::{self, Decoder, Framing, Piece};
/// use reverse_http::proto::head::{self, LineEnds};
///
/// let limits = Limits::default();
/// let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\non\r\n0\r\n\r\n";
/// let head = head::response(bytes, &limits, LineEnds::Crlf)?.expect("it is whole");
/// let framing = body::of_response(&head, "GET")?;
/// assert_eq!(framing, Framing::Chunked);
///
/// let mut decoder = Decoder::new(framing, &limits);
/// let (mut rest, mut text) = (&bytes[head.len..], Vec::new());
/// loop {
///     let (used, piece) = decoder.decode(rest)?;
///     match piece {
///         Piece::Data(data) => text.extend_from_slice(data),
///         Piece::More => unreachable!("all of it is here"),
///         Piece::End => break,
///     }
///     rest = &rest[used..];
/// }
/// assert_eq!(text, b"on");
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// Bytes that chunk extensions may still have, over the whole body.
    extension_left: usize,
    head_bytes_max: usize,
    fields_max: usize,
    /// Used only while a trailer section that is not empty arrives.
    section: Vec<u8>,
    trailers: Vec<(String, Vec<u8>)>,
    /// How lines between chunks end.
    ends: LineEnds,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// This number of bytes of a `Length` body is still to come; never 0.
    Length(u64),
    UntilClose,
    /// In the digits of a chunk size.
    Size {
        size: u64,
        digits: u8,
    },
    /// After the digits of a chunk size, before the end of its line.
    Extension {
        size: u64,
        at: Extension,
    },
    /// After the CR of a chunk line.
    SizeLf {
        size: u64,
    },
    /// This number of bytes of a chunk is still to come; never 0.
    Data(u64),
    DataCr,
    DataLf,
    /// At the start of the first line after the last chunk.
    TrailerStart,
    /// After a CR there: the section is empty.
    TrailerLf,
    Trailer,
    Done,
    /// An error occurred; every further call fails.
    Broken,
}

/// The position in `*( BWS ";" BWS name [ BWS "=" BWS value ] )` of a chunk line (RFC 9112 §7.1.1).
/// The content of an extension is ignored, but two parsers may read different lines from an invalid
/// one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    /// In blanks: `;` has to follow, or, in an answer, the end of the line.
    Blank,
    /// After `;`.
    Start,
    Name,
    /// In blanks after a name: `=` may follow, too.
    NameBlank,
    /// After `=`.
    ValueStart,
    Value,
    Quoted,
    /// After a backslash in a quoted value.
    Escaped,
    /// After the quote that ends a value.
    Unquoted,
}

impl Extension {
    /// The state after this byte, which does not end the line; `None`: it is not allowed here.
    fn next(self, byte: u8) -> Option<Self> {
        use Extension::*;
        let blank = matches!(byte, b' ' | b'\t');
        let text = blank || matches!(byte, 0x21..=0x7E | 0x80..);
        Some(match (self, byte) {
            (Quoted, b'"') => Unquoted,
            (Quoted, b'\\') => Escaped,
            (Quoted | Escaped, _) => return text.then_some(Quoted),
            (Start | ValueStart, _) if blank => self,
            (Start | Name, _) if is_token(&[byte]) => Name,
            (ValueStart | Value, _) if is_token(&[byte]) => Value,
            (ValueStart, b'"') => Quoted,
            (Name | NameBlank, _) if blank => NameBlank,
            (Name | NameBlank, b'=') => ValueStart,
            (Name | NameBlank | Value | Unquoted | Blank, b';') => Start,
            (Value | Unquoted | Blank, _) if blank => Blank,
            _ => return None,
        })
    }

    /// Returns true if the line may end here. `lenient`: also after blanks.
    fn may_end(self, lenient: bool) -> bool {
        match self {
            Extension::Name | Extension::Value | Extension::Unquoted => true,
            Extension::Blank | Extension::NameBlank => lenient,
            Extension::Start | Extension::ValueStart | Extension::Quoted | Extension::Escaped => {
                false
            }
        }
    }
}

const NEXT_CHUNK: State = State::Size { size: 0, digits: 0 };

/// Most digits of a chunk size: those of 2^64-1. More could only be leading zeros, which no peer
/// sends.
const SIZE_DIGITS_MAX: u8 = 16;

/// The state after a chunk line: the chunk's data, or the trailer section.
fn behind_size(size: u64) -> State {
    if size == 0 { State::TrailerStart } else { State::Data(size) }
}

fn malformed(reason: &'static str) -> Refusal {
    Refusal::new(400, reason)
}

impl Decoder {
    /// A decoder for a body with this framing. `limits` bounds chunk lines and trailers
    /// (`head_bytes_max`, `fields_max`).
    #[must_use]
    pub fn new(framing: Framing, limits: &Limits) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => NEXT_CHUNK,
            Framing::UntilClose => State::UntilClose,
        };
        Decoder {
            state,
            extension_left: limits.head_bytes_max,
            head_bytes_max: limits.head_bytes_max,
            fields_max: limits.fields_max,
            section: Vec::new(),
            trailers: Vec::new(),
            ends: LineEnds::Crlf,
        }
    }

    /// Sets how the lines of the body end. [`LineEnds::CrlfOrLf`], for answers, also accepts blanks
    /// at the end of a chunk line.
    #[must_use]
    pub fn line_ends(self, ends: LineEnds) -> Self {
        Decoder { ends, ..self }
    }

    /// Decodes the front of `input`, and returns how many bytes were consumed (the piece's own
    /// bytes included), and the piece. With `Data` or `End` there may be more in the rest of
    /// `input`; after `More` every byte of `input` was consumed, and need not be passed again.
    /// After `End`, it always returns `(0, End)`.
    ///
    /// # Errors
    /// 400: a malformed chunk line, data without its CRLF, a trailer section that is malformed or
    /// too large. Then always.
    pub fn decode<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Piece<'a>), Refusal> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            match self.state {
                State::Done => return Ok((used, Piece::End)),
                State::Broken => return Err(malformed("the body was malformed before")),
                _ if rest.is_empty() => return Ok((used, Piece::More)),
                State::UntilClose => return Ok((input.len(), Piece::Data(rest))),
                State::Length(left) | State::Data(left) => {
                    // Both are at most `rest.len()`, so the casts lose nothing.
                    let taken = left.min(rest.len() as u64);
                    self.moved(taken);
                    return Ok((used + taken as usize, Piece::Data(&rest[..taken as usize])));
                }
                State::Trailer => {
                    used += self.trailer_line(rest).inspect_err(|_| self.state = State::Broken)?
                }
                _ => {
                    self.state =
                        self.chunk_byte(rest[0]).inspect_err(|_| self.state = State::Broken)?;
                    used += usize::from(self.state != State::Trailer); // its first byte is read again, as part of the section
                }
            }
        }
    }

    /// Counts `n` bytes of data of a `Length` body or a chunk.
    fn moved(&mut self, n: u64) {
        self.state = match self.state {
            State::Length(left) if left > n => State::Length(left - n),
            State::Data(left) if left > n => State::Data(left - n),
            State::Length(_) => State::Done,
            State::Data(_) => State::DataCr,
            state => state,
        };
    }

    /// One byte between the data of two chunks: the grammar of RFC 9112 §7.1, with bounds.
    fn chunk_byte(&mut self, byte: u8) -> Result<State, Refusal> {
        let lenient = self.ends == LineEnds::CrlfOrLf;
        match (self.state, byte) {
            (State::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit =
                    if byte.is_ascii_digit() { byte - b'0' } else { (byte | 0x20) - b'a' + 10 };
                if digits == SIZE_DIGITS_MAX || size > LENGTH_MAX >> 4 {
                    return Err(malformed(
                        "a chunk size has more than 16 digits or is above 2^63-1",
                    ));
                }
                Ok(State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 })
            }
            (State::Size { digits: 0, .. }, _) => {
                Err(malformed("a chunk does not begin with its size in hex digits"))
            }
            (State::Size { size, .. }, b'\r') => Ok(State::SizeLf { size }),
            (State::Size { size, .. }, b'\n') if lenient => Ok(behind_size(size)),
            (State::Extension { size, at }, b'\r') if at.may_end(lenient) => {
                Ok(State::SizeLf { size })
            }
            (State::Extension { size, at }, b'\n') if lenient && at.may_end(true) => {
                Ok(behind_size(size))
            }
            (State::Size { size, .. }, _) => self.extension(size, Extension::Blank, byte),
            (State::Extension { size, at }, _) => self.extension(size, at, byte),
            (State::SizeLf { size }, b'\n') => Ok(behind_size(size)),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataCr, b'\n') if lenient => Ok(NEXT_CHUNK),
            (State::DataLf, b'\n') => Ok(NEXT_CHUNK),
            (State::DataCr | State::DataLf, _) => {
                Err(malformed("the data of a chunk is not followed by CRLF: its size is wrong"))
            }
            (State::TrailerStart, b'\r') => Ok(State::TrailerLf),
            (State::TrailerStart, b'\n') if lenient => Ok(State::Done),
            (State::TrailerStart, _) => Ok(State::Trailer),
            (State::TrailerLf, b'\n') => Ok(State::Done),
            (State::SizeLf { .. } | State::TrailerLf, _) => {
                Err(malformed("a CR is not followed by an LF"))
            }
            (state, _) => Ok(state), // those with data, which decode() has handled
        }
    }

    /// Reads one byte after a chunk size that does not end its line.
    fn extension(&mut self, size: u64, at: Extension, byte: u8) -> Result<State, Refusal> {
        let wrong = || {
            malformed(
                "a chunk line has an invalid byte: only extensions (;name=value) may follow the size",
            )
        };
        let at = at.next(byte).ok_or_else(wrong)?;
        let left = self.extension_left.checked_sub(1);
        self.extension_left = left
            .ok_or_else(|| malformed("chunk extensions are longer than head_bytes_max allows"))?;
        Ok(State::Extension { size, at })
    }

    /// Collects up to the end of one line, and parses the section when it is complete. Returns how
    /// many bytes were consumed.
    fn trailer_line(&mut self, rest: &[u8]) -> Result<usize, Refusal> {
        let line = rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |lf| lf + 1);
        if self.section.len() + line > self.head_bytes_max {
            return Err(malformed("the trailer section is longer than head_bytes_max allows"));
        }
        self.section.extend_from_slice(&rest[..line]);
        let Some((fields, _)) = section(&self.section, self.fields_max, self.ends, Part::Trailers)?
        else {
            return Ok(line);
        };
        let allowed = fields.iter().filter(|field| may_trail(field.name));
        self.trailers =
            allowed.map(|field| (field.name.to_owned(), field.value.to_vec())).collect();
        self.section = Vec::new();
        self.state = State::Done;
        Ok(line)
    }

    /// The peer has ended the connection here. This is correct only for `UntilClose`, or if the
    /// body was complete.
    ///
    /// # Errors
    /// The message is incomplete, and has to be treated as failed (RFC 9112 §8).
    pub fn finish_at_eof(&mut self) -> Result<(), Refusal> {
        match self.state {
            State::UntilClose | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(malformed("the connection ended in the middle of the body")),
        }
    }

    /// Returns true if the body is complete.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes still to come, if the framing gives a length.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// Trailer fields of a chunked body, after its end; framing, routing and forbidden ones are
    /// left out (RFC 9110 §6.5.1).
    #[must_use]
    pub fn trailers(&self) -> &[(String, Vec<u8>)] {
        &self.trailers
    }

    /// Drops the trailers whose names are not forwarded.
    pub(crate) fn retain_trailers(&mut self, goes_on: impl Fn(&str) -> bool) {
        self.trailers.retain(|(name, _)| goes_on(name));
    }

    /// Counts `n` bytes of a `Length` body that the caller moved itself, without `decode`. For a
    /// complete body, `n` has to be 0; for one that lasts until close it may be any number.
    ///
    /// # Panics
    /// Fewer than `n` bytes were left, or the framing is `Chunked`: a defect of the caller.
    pub fn advance(&mut self, n: u64) {
        match self.state {
            State::Length(left) => {
                assert!(n <= left, "the caller moved {n} bytes of a body that had {left} left")
            }
            State::Done => assert!(n == 0, "the caller moved {n} bytes of a body that was whole"),
            State::UntilClose => {}
            _ => panic!("the caller moved bytes of a body whose ends it cannot know"),
        }
        if n > 0 {
            self.moved(n);
        }
    }
}

/// Returns true if a field of this name is allowed in a trailer section: not those of framing,
/// routing, authentication, request modifiers, control data or content (RFC 9110 §6.5.1), nor those
/// of a proxy or of this protocol, nor names with a character besides
/// letters, digits and `-`, such as `_`. `Content-Digest` is allowed, as in RFC 9530.
#[must_use]
pub fn may_trail(name: &str) -> bool {
    const NEVER: [&str; 32] = [
        "transfer-encoding",
        "host",
        "connection",
        "keep-alive",
        "upgrade",
        "te",
        "trailer",
        "authorization",
        "www-authenticate",
        "set-cookie",
        "cookie",
        "cache-control",
        "expect",
        "range",
        "max-forwards",
        "pragma",
        "if-match",
        "if-none-match",
        "if-modified-since",
        "if-unmodified-since",
        "if-range",
        "age",
        "expires",
        "date",
        "location",
        "retry-after",
        "vary",
        "warning",
        "via",
        "proxy",
        "forwarded",
        "http2-settings",
    ];
    const NEVER_BEGINS: [&str; 4] = ["content-", "proxy-", "ptth-", "x-forwarded-"];
    let named = NEVER.iter().any(|never| same_name(name, never)) || is_ambiguous(name);
    let begun = NEVER_BEGINS.iter().any(|prefix| begins(name, prefix))
        && !same_name(name, "content-digest");
    !named && !begun
}

/// Appends the line that opens a chunk of `len` bytes. After the data comes CRLF. `len` must not be
/// 0.
pub fn open_chunk(out: &mut Vec<u8>, len: usize) {
    debug_assert!(len > 0, "a chunk of no bytes ends the body");
    let mut digits = [0; size_of::<usize>() * 2];
    let mut first = digits.len();
    let mut left = len;
    while left > 0 {
        first -= 1;
        digits[first] = b"0123456789abcdef"[left & 0xF];
        left >>= 4;
    }
    out.extend_from_slice(&digits[first..]);
    out.extend_from_slice(b"\r\n");
}

/// Appends the last chunk, trailers, and the empty line.
///
/// # Errors
/// Those of [`write_field`]. Nothing is appended then.
pub fn last_chunk(out: &mut Vec<u8>, trailers: &[(String, Vec<u8>)]) -> Result<(), Refusal> {
    let start = out.len();
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        write_field(out, name, value).inspect_err(|_| out.truncate(start))?;
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}
