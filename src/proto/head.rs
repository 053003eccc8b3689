//! Request and response heads: parsed by httparse after our own strict pass over the line ends, raw octets kept.
use crate::error::Refusal;
use crate::limits::Limits;

/// How strictly line ends are read (protocol.md §3: a lone LF ends a line only in heads on a link from a device).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEnds {
    /// CRLF and nothing else.
    Crlf,
    /// CRLF or a lone LF.
    CrlfOrLf,
}

/// One field: name as it came, value without surrounding white space.
pub type Field<'a> = httparse::Header<'a>;

/// The fields of a head in their order, duplicates and spelling kept.
#[derive(Clone, Debug, Default)]
pub struct Fields<'a>(Vec<Field<'a>>);

impl<'a> Fields<'a> {
    /// All fields in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Field<'a>> { self.0.iter() }
    /// How many lines.
    pub fn len(&self) -> usize { self.0.len() }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool { self.0.is_empty() }
    /// Value of the first line of this name (compared without case).
    pub fn get(&self, name: &str) -> Option<&'a [u8]> { let _ = name; todo!() }
    /// Values of all lines of this name.
    pub fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'a [u8]> + 's { let _ = name; std::iter::empty() }
    /// Members of the comma list over all lines of this name, trimmed, empty ones left out. Quoted strings are not split.
    pub fn list<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'a [u8]> + 's { let _ = name; std::iter::empty() }
    /// Whether that list has this token (compared without case).
    pub fn lists(&self, name: &str, token: &str) -> bool { let _ = (name, token); todo!() }
}

/// A request head. Borrowed from the octets it was read from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RequestHead<'a> {
    /// Method as it came; a token, case-sensitive.
    pub method: &'a str,
    /// Target as it came.
    pub target: &'a str,
    /// 0 or 1: HTTP/1.0 or HTTP/1.1.
    pub minor: u8,
    /// The fields.
    pub fields: Fields<'a>,
    /// Octets of the head, from the first of what was given (a skipped empty line included) to the end of its empty line.
    pub len: usize,
}

/// A response head. Borrowed from the octets it was read from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResponseHead<'a> {
    /// 0 or 1: HTTP/1.0 or HTTP/1.1.
    pub minor: u8,
    /// 100 to 999.
    pub status: u16,
    /// As it came; may be empty.
    pub reason: &'a [u8],
    /// The fields.
    pub fields: Fields<'a>,
    /// Octets of the head to the end of its empty line.
    pub len: usize,
}

/// Reads a request head from the front of `octets`. `Ok(None)`: not whole yet.
///
/// # Errors
/// 400, 414, 431, 501 or 505, as soon as the octets at hand cannot become a right head.
pub fn request<'a>(octets: &'a [u8], limits: &Limits, ends: LineEnds) -> Result<Option<RequestHead<'a>>, Refusal> {
    let _ = (octets, limits, ends);
    todo!()
}

/// Reads a response head from the front of `octets`. `Ok(None)`: not whole yet.
///
/// # Errors
/// As soon as the octets at hand cannot become a right head; the status is 502.
pub fn response<'a>(octets: &'a [u8], limits: &Limits, ends: LineEnds) -> Result<Option<ResponseHead<'a>>, Refusal> {
    let _ = (octets, limits, ends);
    todo!()
}

/// Appends `Name: value CRLF`, the one function through which every field we build goes (T10).
///
/// # Errors
/// A name that is no token, or CR, LF, NUL or another control octet (but HTAB) in the value. Nothing is appended then.
pub fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) -> Result<(), Refusal> {
    let _ = (out, name, value);
    todo!()
}

/// Appends `METHOD target HTTP/1.1 CRLF`.
///
/// # Errors
/// A method that is no token; a target that is empty or has octets outside 0x21 to 0x7E.
pub fn write_request_line(out: &mut Vec<u8>, method: &str, target: &str) -> Result<(), Refusal> {
    let _ = (out, method, target);
    todo!()
}

/// Appends `HTTP/1.1 status reason CRLF`.
///
/// # Errors
/// A status outside 100 to 999; a reason with control octets.
pub fn write_status_line(out: &mut Vec<u8>, status: u16, reason: &[u8]) -> Result<(), Refusal> {
    let _ = (out, status, reason);
    todo!()
}

/// `content-type` as `Content-Type`: how the names of heads we build are written (heads we relay keep theirs).
pub fn title_case(name: &str, out: &mut Vec<u8>) { let _ = (name, out); todo!() }

/// The registered reason phrase of a status, or "".
pub fn reason_phrase(status: u16) -> &'static str { let _ = status; todo!() }

/// Whether the connection may carry another exchange after this message, as far as its head says (RFC 9112 §9.3):
/// HTTP/1.1 without `Connection: close`, or HTTP/1.0 with `keep-alive`.
pub fn keeps_alive(minor: u8, fields: &Fields<'_>) -> bool { let _ = (minor, fields); todo!() }

/// Whether a request of this method may be sent again unasked (RFC 9110 §9.2.2).
pub fn is_idempotent(method: &str) -> bool { let _ = method; todo!() }

/// Whether every octet is a `tchar` and there is at least one (RFC 9110 §5.6.2).
pub fn is_token(octets: &[u8]) -> bool { let _ = octets; todo!() }
