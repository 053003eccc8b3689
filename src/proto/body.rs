//! Where a message ends: the framing decision for both roles, one function each; the decoder and the encoder.
use crate::error::Refusal;
use crate::limits::Limits;
use crate::proto::head::{RequestHead, ResponseHead};

/// How the end of a body is found (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    Empty,
    /// So many octets (never 0: that is `Empty`).
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
pub fn of_request(head: &RequestHead<'_>) -> Result<Framing, Refusal> { let _ = head; todo!() }

/// Framing of the response to a request of `method`.
///
/// # Errors
/// 502 with the reason; the link has to be closed.
pub fn of_response(head: &ResponseHead<'_>, method: &str) -> Result<Framing, Refusal> { let _ = (head, method); todo!() }

/// What [`Decoder::decode`] found at the front of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Octets of the body, not empty.
    Data(&'a [u8]),
    /// All that was given is used or kept by the caller as unconsumed; more is needed.
    More,
    /// The body is whole.
    End,
}

/// Finds the octets of a body in what comes from the wire. Never allocates by what the wire says.
#[derive(Debug)]
pub struct Decoder { _p: () }

impl Decoder {
    /// A decoder for a body with this framing. `limits` bounds chunk lines and trailers (`head_bytes_max`, `fields_max`).
    pub fn new(framing: Framing, limits: &Limits) -> Self { let _ = (framing, limits); todo!() }
    /// Takes from the front of `input`: how many octets were consumed (the piece's own octets included), and the piece.
    /// With `Data` or `End` there may be more in what is left of `input`; after `More` every octet of `input` was consumed
    /// (the decoder keeps its own state across chunk lines; it needs no octets back). After `End`, always `(0, End)`.
    ///
    /// # Errors
    /// 400: a malformed chunk line, data without its CRLF, a trailer section that is malformed or too large.
    pub fn decode<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Piece<'a>), Refusal> { let _ = input; todo!() }
    /// The peer ended the connection here. Right only for `UntilClose` (or when the body was whole).
    ///
    /// # Errors
    /// The message is incomplete, and has to be treated as failed (RFC 9112 §8).
    pub fn finish_at_eof(&mut self) -> Result<(), Refusal> { todo!() }
    /// Whether the body is whole.
    pub fn is_done(&self) -> bool { todo!() }
    /// Octets still to come, where the framing tells.
    pub fn remaining(&self) -> Option<u64> { todo!() }
    /// Trailer fields of a chunked body, after its end; framing, routing and forbidden ones are left out (RFC 9110 §6.5.1).
    pub fn trailers(&self) -> &[(String, Vec<u8>)] { todo!() }
    /// For a `Length` body: counts `n` octets that the caller moved itself without `decode`.
    ///
    /// # Panics
    /// When fewer than `n` octets were left, or the framing is `Chunked`: a caller's defect.
    pub fn advance(&mut self, n: u64) { let _ = n; todo!() }
}

/// Appends the line that opens a chunk of `len` octets. After the data comes CRLF. `len` must not be 0.
pub fn open_chunk(out: &mut Vec<u8>, len: usize) { let _ = (out, len); todo!() }

/// Appends the last chunk, trailers, and the empty line.
///
/// # Errors
/// Those of [`write_field`](super::head::write_field).
pub fn last_chunk(out: &mut Vec<u8>, trailers: &[(String, Vec<u8>)]) -> Result<(), Refusal> { let _ = (out, trailers); todo!() }
