//! Events and answers as text: one whole HTTP/1.1 message, which is what `message/http` carries.

use std::borrow::Cow;

use crate::error::Refusal;
use crate::limits::Limits;
use crate::proto::body::{
    Decoder, Framing, Piece, last_chunk, of_request, of_response, open_chunk,
};
use crate::proto::fields::{Fields, same_name};
use crate::proto::head::{self, LineEnds, RequestHead};
use crate::proto::head_writer::{push_field, write_request_line};
use crate::proto::interim::InterimCount;

/// The protocol tag of our events (`http-version` in JSON); a device echoes what its event said.
pub const PROTOCOL: &str = "PTTH/1.0";

/// Longest message id that is read, in bytes. Ours have 32; others' are opaque.
pub const ID_BYTES_MAX: usize = 256;

/// An event as a device reads it.
///
/// ```
/// use reverse_http::{Limits, proto::comet};
///
/// let text = b"GET /status HTTP/1.1\r\nHost: lamp\r\n\r\n".to_vec();
/// let event = comet::event_from_text("6f1c", text, &Limits::default())?;
/// assert_eq!((&*event.id, event.is_head), ("6f1c", false));
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// Names it; to be echoed in its answer.
    pub id: String,
    /// The protocol tag; to be echoed in an answer in JSON.
    pub protocol: String,
    /// The request: one whole HTTP/1.1 message.
    pub text: Vec<u8>,
    /// The request is HEAD: its answer has no body.
    pub is_head: bool,
}

/// An answer in JSON as a gateway reads it.
///
/// ```
/// # #[cfg(feature = "comet")] {
/// use reverse_http::{Limits, proto::comet};
///
/// let json = br#"{"message-id": "6f1c", "status": 200, "body": "on"}"#;
/// let answer = comet::answer_from_json(json, None, &Limits::default())?.expect("it is an answer");
/// assert_eq!(answer.id, "6f1c");
/// assert!(answer.into_text(false).ends_with(b"\r\n\r\non"));
/// # }
/// # Ok::<(), reverse_http::Refusal>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answer {
    /// The event it answers.
    pub id: String,
    /// Final, 200 to 999.
    pub(super) status: u16,
    /// Status line and fields, without those that frame, and without the empty line.
    pub(super) head: Vec<u8>,
    /// `Content-Length` as it stood among the fields: metadata for HEAD and 304.
    pub(super) stated: Option<u64>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Vec<(String, Vec<u8>)>,
}

impl Answer {
    /// The answer as one whole HTTP/1.1 message, framed by us. `is_head`: to a HEAD request.
    #[must_use]
    pub fn into_text(self, is_head: bool) -> Vec<u8> {
        let Answer { mut head, .. } = self;
        let bodiless = is_head || matches!(self.status, 204 | 304);
        let length = match self.status {
            204 => None,
            _ if bodiless => self.stated,
            _ => Some(self.body.len() as u64),
        };
        if !self.trailers.is_empty() && !bodiless {
            end_chunked(&mut head, &self.body, &self.trailers);
            return head;
        }
        if let Some(length) = length {
            push_field(&mut head, "Content-Length", length.to_string().as_bytes());
        }
        head.extend_from_slice(b"\r\n");
        if !bodiless {
            head.extend_from_slice(&self.body);
        }
        head
    }
}

/// Appends framing, end of head, body and trailers in the chunked coding.
fn end_chunked(out: &mut Vec<u8>, body: &[u8], trailers: &[(String, Vec<u8>)]) {
    out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
    if !body.is_empty() {
        open_chunk(out, body.len());
        out.extend_from_slice(body);
        out.extend_from_slice(b"\r\n");
    }
    if last_chunk(out, trailers).is_err() {
        out.extend_from_slice(b"0\r\n\r\n"); // trailers come from a decoder or from `json`, which let none through that cannot be written
    }
}

/// An id as in a `PTTH-Message-ID` field or in JSON.
///
/// # Errors
/// 400: empty, longer than [`ID_BYTES_MAX`], or with other bytes than visible ASCII.
pub fn check_id(id: &[u8]) -> Result<&str, Refusal> {
    let text = std::str::from_utf8(id).ok().filter(|text| is_short_and_visible(text));
    text.ok_or_else(|| Refusal::new(400, "a message id has 1 to 256 bytes of visible ASCII"))
}

/// Ids and protocol tags are echoed, so they have 1 to [`ID_BYTES_MAX`] bytes of visible ASCII.
pub(super) fn is_short_and_visible(text: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(|o| o.is_ascii_graphic())
}

/// The one `PTTH-Message-ID` of a head.
///
/// # Errors
/// 400: more than one, or none that is right.
pub fn id_of<'a>(fields: &Fields<'a>) -> Result<Option<&'a str>, Refusal> {
    let mut ids = fields.all(crate::proto::turn::MESSAGE_ID);
    match (ids.next(), ids.next()) {
        (None, _) => Ok(None),
        (Some(id), None) => check_id(id).map(Some),
        _ => Err(Refusal::new(400, "there is more than one PTTH-Message-ID")),
    }
}

/// Appends a request as one whole message: the head's lines but those that frame it and `Expect`,
/// our own framing, the body.
///
/// # Errors
/// 400 where a line cannot be written.
pub fn write_request(
    out: &mut Vec<u8>,
    head: &RequestHead<'_>,
    body: &[u8],
    trailers: &[(String, Vec<u8>)],
) -> Result<(), Refusal> {
    if trailers.is_empty() {
        write_request_head(out, head, body.len())?;
        out.extend_from_slice(body);
    } else {
        write_request_lines(out, head)?;
        end_chunked(out, body, trailers);
    }
    Ok(())
}

/// The same for a body of this length that the caller already has after it in the same buffer:
/// without a second one.
///
/// # Errors
/// 400 where a line cannot be written.
pub fn write_request_head(
    out: &mut Vec<u8>,
    head: &RequestHead<'_>,
    length: usize,
) -> Result<(), Refusal> {
    write_request_lines(out, head)?;
    if length > 0 || head.fields.iter().any(|field| frames(field.name)) {
        push_field(out, "Content-Length", length.to_string().as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

fn write_request_lines(out: &mut Vec<u8>, head: &RequestHead<'_>) -> Result<(), Refusal> {
    write_request_line(out, head.method, head.target)?;
    for field in
        head.fields.iter().filter(|field| !frames(field.name) && !same_name(field.name, "expect"))
    {
        push_field(out, field.name, field.value);
    }
    Ok(())
}

/// Reads an event in `message/http`: the text has to be exactly one request.
///
/// # Errors
/// The request is malformed, or the text is shorter or longer than it.
pub fn event_from_text(id: &str, text: Vec<u8>, limits: &Limits) -> Result<Event, Refusal> {
    let head = head::request(&text, limits, LineEnds::Crlf)?
        .ok_or_else(|| Refusal::new(400, "the text ends within the request's head"))?;
    let is_head = head.method == "HEAD";
    whole_body(&text[head.len..], of_request(&head)?, limits)?;
    Ok(Event { id: id.to_owned(), protocol: PROTOCOL.to_owned(), text, is_head })
}

/// Where, in the first bytes of an answer in `message/http`, its final response begins: interim
/// ones before it are skipped, at most `informational_max`. `Ok(None)`: its head is not whole yet.
///
/// # Errors
/// 400: no response, a 101, or one whose framing does not tell its end.
pub fn answer_start(
    bytes: &[u8],
    is_head: bool,
    limits: &Limits,
) -> Result<Option<usize>, Refusal> {
    let (mut start, mut interim) = (0, InterimCount::default());
    loop {
        let read = head::response(&bytes[start..], limits, LineEnds::CrlfOrLf)
            .map_err(|e| Refusal { status: 400, ..e })?;
        let Some(response) = read else { return Ok(None) };
        if (100..200).contains(&response.status) && response.status != 101 {
            interim
                .count(limits)
                .map_err(|e| Refusal::new(400, format!("the device {}", e.reason)))?;
            start += response.len;
            continue;
        }
        if response.status == 101 {
            return Err(Refusal::new(400, "an answer of the fallback cannot switch protocols"));
        }
        let framing =
            of_response(&response, method(is_head)).map_err(|e| Refusal { status: 400, ..e })?;
        if framing == Framing::UntilClose {
            return Err(Refusal::new(
                400,
                "the response in an answer needs a Content-Length or the chunked coding: its end has to be seen",
            ));
        }
        return Ok(Some(start));
    }
}

/// How long the whole final response at the front of `bytes` is by its own framing; `None`: its
/// framing does not tell before its end, or it is no whole head.
#[must_use]
pub fn answer_length(bytes: &[u8], is_head: bool, limits: &Limits) -> Option<u64> {
    let response = head::response(bytes, limits, LineEnds::CrlfOrLf).ok()??;
    match of_response(&response, method(is_head)).ok()? {
        Framing::Empty => Some(response.len as u64),
        Framing::Length(length) => Some(response.len as u64 + length),
        Framing::Chunked | Framing::UntilClose => None,
    }
}

/// All that framing wants to know of a method.
pub(super) fn method(is_head: bool) -> &'static str {
    if is_head { "HEAD" } else { "GET" }
}

/// Fields that frame a message.
pub(super) fn frames(name: &str) -> bool {
    same_name(name, "content-length") || same_name(name, "transfer-encoding")
}

/// A body that lies whole in memory, and its trailers.
pub(super) type Whole<'t> = (Cow<'t, [u8]>, Vec<(String, Vec<u8>)>);

/// The body that `bytes` are to the last one.
pub(super) fn whole_body<'t>(
    bytes: &'t [u8],
    framing: Framing,
    limits: &Limits,
) -> Result<Whole<'t>, Refusal> {
    let disagree =
        || Refusal::new(400, "the message is shorter or longer than its own framing says");
    match framing {
        Framing::Length(length) if length == bytes.len() as u64 => {
            return Ok((bytes.into(), Vec::new()));
        }
        Framing::Empty if bytes.is_empty() => return Ok((bytes.into(), Vec::new())),
        Framing::Chunked => {}
        Framing::UntilClose => {
            return Err(Refusal::new(400, "the message does not say where it ends"));
        }
        _ => return Err(disagree()),
    }
    let mut decoder = Decoder::new(framing, limits);
    let (mut body, mut used) = (Vec::new(), 0);
    loop {
        let (n, piece) = decoder.decode(&bytes[used..])?;
        used += n;
        match piece {
            Piece::Data(data) => body.extend_from_slice(data),
            Piece::More => return Err(disagree()),
            Piece::End if used < bytes.len() => return Err(disagree()),
            Piece::End => return Ok((body.into(), decoder.trailers().to_vec())),
        }
    }
}
