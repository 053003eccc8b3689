//! Events and answers in JSON (RFC 8259; protocol.md §2.1): written by hand in the seed's order,
//! read strictly.
//!
//! Refused: a member twice, a wrong type, a lone surrogate, nesting deeper than serde_json's 128,
//! bytes after the message, a header that would split a line. Header bytes above 0x7F travel as
//! the ISO-8859-1 characters of the same number.
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::Refusal;
use crate::limits::{FIELDS_CEILING, Limits};
use crate::proto::body::{may_trail, of_request, of_response};
use crate::proto::comet::text::{
    Answer, Event, PROTOCOL, check_id, frames, is_short_and_visible, method, whole_body,
    write_request,
};
use crate::proto::digits::decimal;
use crate::proto::fields;
use crate::proto::fields::{Fields, same_name, trim};
use crate::proto::head::{self, LineEnds, RequestHead};
use crate::proto::head_writer;
use crate::proto::head_writer::{reason_phrase, write_field, write_status_line};
use crate::proto::hop_by_hop::{Named, TOO_MANY_NAMED, is_of_connection};

/// Appends an event: the request that `text` is.
///
/// # Errors
/// 400 where the text is not one whole request.
pub fn event_to_json(
    out: &mut Vec<u8>,
    id: &str,
    text: &[u8],
    limits: &Limits,
) -> Result<(), Refusal> {
    write_event(out, id, text, limits, |_| Ok(()))
}

/// The same. `take`: is told how much memory it takes at most, before it takes any, and may refuse.
pub(crate) fn write_event(
    out: &mut Vec<u8>,
    id: &str,
    text: &[u8],
    limits: &Limits,
    take: impl FnOnce(usize) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let request = WholeRequest::read(text, limits)?;
    let named = named_in(&request.head.fields, 400)?;
    take(request.event_length(id))?;
    let WholeRequest { head, body, trailers } = request;
    reserve(out, &body, 6 * head.len + 8 * head.fields.len());
    push(out, "{\"message-id\": ", id);
    push(out, ", \"method\": ", head.method);
    push(out, ", \"request-uri\": ", head.target);
    push(out, ", \"http-version\": ", PROTOCOL);
    push_fields(
        out,
        ", \"headers\": ",
        head.fields
            .iter()
            .filter(|field| is_carried(field.name, &named))
            .map(|field| (field.name, field.value)),
    );
    push_rest(out, &body, &trailers);
    Ok(())
}

/// How much memory [`event_to_json`] takes at most for this text, before it takes any. The body's
/// length in JSON is exact: an escape has up to six bytes for one, base64 four for three.
///
/// # Errors
/// 400 where the text is not one whole request.
pub fn event_json_length(id: &str, text: &[u8], limits: &Limits) -> Result<usize, Refusal> {
    Ok(WholeRequest::read(text, limits)?.event_length(id))
}

/// A request whose text is whole.
struct WholeRequest<'t> {
    head: RequestHead<'t>,
    body: Cow<'t, [u8]>,
    trailers: Vec<(String, Vec<u8>)>,
}

impl<'t> WholeRequest<'t> {
    fn read(text: &'t [u8], limits: &Limits) -> Result<Self, Refusal> {
        let head = head::request(text, limits, LineEnds::Crlf)?
            .ok_or_else(|| Refusal::new(400, "the text ends within the request's head"))?;
        let (body, trailers) = whole_body(&text[head.len..], of_request(&head)?, limits)?;
        Ok(WholeRequest { head, body, trailers })
    }

    /// How much memory it takes at most as an event.
    fn event_length(&self, id: &str) -> usize {
        let WholeRequest { head, body, trailers } = self;
        let written = match std::str::from_utf8(body) {
            Ok(_) => body.iter().map(|byte| escaped_length(*byte)).sum(),
            Err(_) => base64_length(body.len()),
        };
        // Of a chunked body there is a second copy meanwhile.
        let copied = if matches!(body, Cow::Owned(_)) { body.len() } else { 0 };
        let trailing: usize =
            trailers.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
        written
            + copied
            + AROUND_BODY
            + 6 * (id.len() + head.len + trailing)
            + 8 * head.fields.len()
    }
}

/// The text around ids, heads and bodies in an event or an answer.
const AROUND_BODY: usize = 256;

/// Bytes that serde_json writes for one of a string.
fn escaped_length(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0C => 2,
        0..=0x1F => 6,
        _ => 1,
    }
}

fn base64_length(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

/// Appends an answer: the response that `text` is. `protocol`: the tag of its event, echoed.
/// `is_head`: the event was a HEAD request.
///
/// # Errors
/// 502 where the text is not one whole response, or its body does not tell its end.
pub fn answer_to_json(
    out: &mut Vec<u8>,
    id: &str,
    protocol: &str,
    text: &[u8],
    is_head: bool,
    limits: &Limits,
) -> Result<(), Refusal> {
    let head = head::response(text, limits, LineEnds::Crlf)?
        .ok_or_else(|| Refusal::new(502, "the text ends within the response's head"))?;
    let framing = of_response(&head, method(is_head))?;
    let named = named_in(&head.fields, 502)?;
    let (body, trailers) =
        whole_body(&text[head.len..], framing, limits).map_err(|e| Refusal { status: 502, ..e })?;
    reserve(out, &body, 6 * head.len + 8 * head.fields.len());
    push(out, "{\"message-id\": ", id);
    push(out, ", \"http-version\": ", protocol);
    out.extend_from_slice(b", \"status\": ");
    head_writer::push_decimal(out, u64::from(head.status));
    push(out, ", \"reason\": ", &latin1(head.reason));
    // The length of what HEAD or a 304 leaves out is said nowhere else.
    let metadata = is_head || head.status == 304;
    let fields = head.fields.iter().filter(|field| {
        is_carried(field.name, &named) || (metadata && same_name(field.name, "content-length"))
    });
    push_fields(out, ", \"headers\": ", fields.map(|field| (field.name, field.value)));
    push_rest(out, &body, &trailers);
    Ok(())
}

/// Makes room for a body at once: a long buffer that grows by doubling takes twice what it holds.
fn reserve(out: &mut Vec<u8>, body: &[u8], head: usize) {
    let written = match std::str::from_utf8(body) {
        Ok(_) => body.iter().map(|byte| escaped_length(*byte)).sum(),
        Err(_) => base64_length(body.len()),
    };
    out.reserve_exact(written + head + AROUND_BODY);
}

fn push_rest(out: &mut Vec<u8>, body: &[u8], trailers: &[(String, Vec<u8>)]) {
    match std::str::from_utf8(body) {
        Ok(text) => push(out, ", \"body\": ", text),
        Err(_) => {
            out.extend_from_slice(b", \"body\": \"");
            let start = out.len();
            out.resize(start + base64_length(body.len()), b'=');
            // There is just the room that it needs.
            let _ = STANDARD.encode_slice(body, &mut out[start..]);
            out.push(b'"');
            push(out, ", \"body-encoding\": ", "base64");
        }
    }
    if !trailers.is_empty() {
        push_fields(
            out,
            ", \"trailers\": ",
            trailers.iter().map(|(name, value)| (name.as_str(), value.as_slice())),
        );
    }
    out.push(b'}');
}

/// Appends a member's opening and its string.
fn push(out: &mut Vec<u8>, opening: &str, text: &str) {
    out.extend_from_slice(opening.as_bytes());
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        return out.push(b'"');
    }
    // Writing to a Vec cannot fail, and a string always is JSON.
    let _ = serde_json::to_writer(out, text);
}

fn push_fields<'f>(
    out: &mut Vec<u8>,
    opening: &str,
    fields: impl Iterator<Item = (&'f str, &'f [u8])>,
) {
    out.extend_from_slice(opening.as_bytes());
    out.push(b'[');
    for (i, (name, value)) in fields.enumerate() {
        push(out, if i == 0 { "[" } else { ", [" }, name);
        push(out, ", ", &latin1(value));
        out.push(b']');
    }
    out.push(b']');
}

/// Returns true if a field travels: those that frame, and those of one connection, do not.
fn is_carried(name: &str, named: &Named<'_>) -> bool {
    !frames(name) && !is_of_connection(name) && !same_name(name, "expect") && !named.drops(name)
}

/// What `Connection` names in a head; `status`: of the refusal where that is too much.
fn named_in<'f>(fields: &Fields<'f>, status: u16) -> Result<Named<'f>, Refusal> {
    Named::of(fields.list("connection")).ok_or_else(|| Refusal::new(status, TOO_MANY_NAMED))
}

fn latin1(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.is_ascii() => text.into(),
        _ => bytes.iter().map(|&byte| char::from(byte)).collect::<String>().into(),
    }
}

/// The bytes of a header's characters.
fn bytes(text: &str) -> Result<Vec<u8>, Refusal> {
    let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
    bytes.ok_or_else(|| {
        Refusal::new(
            400,
            "a header has a character above U+00FF; header bytes are written as ISO-8859-1",
        )
    })
}

/// Reads an event. `Ok(None)`: there is none (`{}`, `null`, nothing at all). `id`: of the
/// `PTTH-Message-ID` field.
///
/// # Errors
/// 400 and the rule that it breaks.
pub fn event_from_json(
    bytes: &[u8],
    id: Option<&str>,
    limits: &Limits,
) -> Result<Option<Event>, Refusal> {
    let Some((id, members)) = read(bytes, id)? else { return Ok(None) };
    let method =
        members.method.as_deref().ok_or_else(|| Refusal::new(400, "the event has no method"))?;
    let target =
        members.uri.as_deref().ok_or_else(|| Refusal::new(400, "the event has no request-uri"))?;
    if !members.version.as_deref().is_none_or(is_short_and_visible) {
        return Err(Refusal::new(
            400,
            "the event's http-version has more than 256 bytes, none, or others than visible ASCII",
        ));
    }
    let mut lines = Vec::new();
    head_writer::write_request_line(&mut lines, method, target)?;
    write_lines(&mut lines, &members.headers)?;
    lines.extend_from_slice(b"\r\n");
    let head = head::request(&lines, limits, LineEnds::Crlf)?
        .ok_or_else(|| Refusal::new(400, "the event is no request"))?;
    let is_head = method == "HEAD";
    let (body, trailers) = (members.body()?, members.trailers(limits)?);
    let mut text = Vec::with_capacity(lines.len() + body.len() + 64);
    write_request(&mut text, &head, &body, &trailers)?;
    head::request(&text, limits, LineEnds::Crlf)?; // our framing counts too: an accepted event has to be readable under the same bounds
    Ok(Some(Event {
        id,
        protocol: members.version.unwrap_or_else(|| PROTOCOL.to_owned()),
        text,
        is_head,
    }))
}

/// Reads an answer. `Ok(None)`: it is a poll (`{}`, `null`, nothing at all). `id`: of the
/// `PTTH-Message-ID` field.
///
/// # Errors
/// 400 and the rule that it breaks.
pub fn answer_from_json(
    bytes: &[u8],
    id: Option<&str>,
    limits: &Limits,
) -> Result<Option<Answer>, Refusal> {
    let Some((id, members)) = read(bytes, id)? else { return Ok(None) };
    let status = members.status.unwrap_or(200);
    if !(200..=999).contains(&status) {
        return Err(Refusal::new(400, "the answer's status is not a final one, from 200 to 999"));
    }
    let reason = match &members.reason {
        Some(reason) => self::bytes(reason)?,
        None => reason_phrase(status).as_bytes().to_vec(),
    };
    let mut head = Vec::new();
    write_status_line(&mut head, status, &reason).map_err(|e| Refusal { status: 400, ..e })?;
    write_lines(&mut head, &members.headers)?;
    let (len, stated) = (head.len(), stated_length(&members.headers));
    // With the longest line that into_text() adds: an accepted answer has to be readable under the
    // same bounds.
    head.extend_from_slice(b"Content-Length: 999999999999999999\r\n\r\n");
    match head::response(&head, limits, LineEnds::Crlf) {
        Ok(Some(read)) if read.len == head.len() => {}
        Ok(_) => return Err(Refusal::new(400, "the answer's fields are not one response head")),
        Err(e) => return Err(Refusal { status: 400, ..e }),
    }
    head.truncate(len);
    let (body, trailers) = (members.body()?, members.trailers(limits)?);
    Ok(Some(Answer { id, status, head, stated, body, trailers }))
}

/// The fields that travel; others are left out, whatever they say.
fn write_lines(out: &mut Vec<u8>, fields: &[(String, String)]) -> Result<(), Refusal> {
    let connection = fields.iter().filter(|(name, _)| same_name(name, "connection"));
    let options = connection.flat_map(|(_, value)| fields::members(value.as_bytes()));
    let named = Named::of(options).ok_or_else(|| Refusal::new(400, TOO_MANY_NAMED))?;
    for (name, value) in fields {
        let value = bytes(value)?;
        // A field that is left out has to be valid, too: nothing splits, and nothing passes unread.
        let start = out.len();
        write_field(out, name, trim(&value))?;
        if !is_carried(name, &named) {
            out.truncate(start);
        }
    }
    Ok(())
}

fn stated_length(fields: &[(String, String)]) -> Option<u64> {
    let mut values = fields
        .iter()
        .filter(|(name, _)| frames(name) && same_name(name, "content-length"))
        .map(|(_, value)| value.trim());
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    decimal(value.as_bytes()).filter(|_| value.len() <= 18)
}

/// The members that mean something, as they came.
#[derive(Default)]
struct Members {
    id: Option<String>,
    method: Option<String>,
    uri: Option<String>,
    version: Option<String>,
    status: Option<u16>,
    reason: Option<String>,
    headers: Vec<(String, String)>,
    body: Option<String>,
    body_encoding: Option<String>,
    trailers: Vec<(String, String)>,
    any: bool,
}

impl Members {
    fn body(&self) -> Result<Vec<u8>, Refusal> {
        let body = self.body.as_deref().unwrap_or_default();
        match self.body_encoding.as_deref() {
            None => Ok(body.as_bytes().to_vec()),
            Some("base64") => STANDARD
                .decode(body)
                .map_err(|_| Refusal::new(400, "the body is not base64 (RFC 4648 §4)")),
            Some(_) => Err(Refusal::new(
                400,
                "the only body-encoding is base64; without it the body is text",
            )),
        }
    }

    fn trailers(&self, limits: &Limits) -> Result<Vec<(String, Vec<u8>)>, Refusal> {
        let (mut trailers, mut lines) = (Vec::new(), Vec::new());
        for (name, value) in &self.trailers {
            let value = bytes(value)?;
            let value = trim(&value);
            write_field(&mut lines, name, value)?;
            if may_trail(name) {
                trailers.push((name.clone(), value.to_vec()));
            }
        }
        // As the decoder of the chunked coding bounds them, the empty line included.
        if self.trailers.len() > limits.fields_max || lines.len() + 2 > limits.head_bytes_max {
            return Err(Refusal::new(
                400,
                "there are more trailers, or longer ones, than fields_max and head_bytes_max allow",
            ));
        }
        Ok(trailers)
    }
}

/// Id and members of a message; `None`: it says nothing.
fn read(bytes: &[u8], id: Option<&str>) -> Result<Option<(String, Members)>, Refusal> {
    if bytes.is_empty() {
        return match id {
            None => Ok(None),
            Some(_) => Err(Refusal::new(400, "there is a PTTH-Message-ID, but no message")),
        };
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let members: Option<Members> = Option::deserialize(&mut reader)
        .and_then(|members| reader.end().map(|()| members))
        .map_err(|e| {
            Refusal::new(400, format!("this is no JSON message: {}", without_value(&e.to_string())))
        })?;
    let (own, members) = match members {
        Some(mut members) if members.any => (members.id.take(), members),
        _ if id.is_some() => {
            return Err(Refusal::new(400, "there is a PTTH-Message-ID, but no message"));
        }
        _ => return Ok(None),
    };
    let id = match (own, id) {
        (Some(own), Some(id)) if own != id => {
            return Err(Refusal::new(400, "message-id and PTTH-Message-ID differ"));
        }
        (Some(own), _) => own,
        (None, Some(id)) => id.to_owned(),
        (None, None) => return Err(Refusal::new(400, "the message has no message-id")),
    };
    check_id(id.as_bytes())?;
    Ok(Some((id, members)))
}

/// An error's text without the string that it quotes: contents of messages do not belong in a log
/// (T23), and may be long.
fn without_value(text: &str) -> String {
    let (start, end) = text
        .find('"')
        .zip(text.rfind('"'))
        .map_or((text.len(), text.len()), |(first, last)| (first, last + 1));
    let plain =
        |part: &str| part.chars().filter(|c| matches!(c, ' '..='~')).take(120).collect::<String>();
    format!(
        "{}{}{}",
        plain(&text[..start]),
        if start < end { "(not shown)" } else { "" },
        plain(&text[end..])
    )
}

/// More members than this no message has.
const MEMBERS_MAX: usize = 64;

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with message-id")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let (mut members, mut seen) = (Members::default(), BTreeSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    members.any = true;
                    match name.as_str() {
                        "message-id" => members.id = Some(map.next_value()?),
                        "method" => members.method = Some(map.next_value()?),
                        "request-uri" => members.uri = Some(map.next_value()?),
                        "http-version" => members.version = Some(map.next_value()?),
                        "status" => members.status = Some(map.next_value::<Status>()?.0),
                        "reason" => members.reason = Some(map.next_value()?),
                        "headers" => members.headers = map.next_value::<Pairs>()?.0,
                        "body" => members.body = map.next_value()?,
                        "body-encoding" => members.body_encoding = Some(map.next_value()?),
                        "trailers" => members.trailers = map.next_value::<Pairs>()?.0,
                        _ => {
                            map.next_value::<Skipped>()?;
                        }
                    }
                    if seen.len() == MEMBERS_MAX {
                        return Err(de::Error::custom("more members than any message has"));
                    }
                    if !seen.insert(name) {
                        return Err(de::Error::custom("a member occurs twice"));
                    }
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Names and values, at most as many as any head may have: a list without end would take many times
/// its bytes before it is counted.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of [name, value]")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = seq.next_element()? {
                    if pairs.len() == FIELDS_CEILING {
                        return Err(de::Error::custom("more fields than any head has"));
                    }
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// A number, or its digits in a string.
struct Status(u16);

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Status;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a status: three digits")
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Status, E> {
                u16::try_from(number)
                    .map(Status)
                    .map_err(|_| E::custom("a status has three digits"))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Status, E> {
                decimal(text.as_bytes())
                    .filter(|_| text.len() == 3)
                    .and_then(|number| number.try_into().ok())
                    .map(Status)
                    .ok_or_else(|| E::custom("a status has three digits"))
            }
        }
        deserializer.deserialize_any(Number)
    }
}

/// A value that means nothing to us: checked like any other (depth, surrogates), and dropped as it
/// is read.
struct Skipped;

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Anything;
        impl<'de> Visitor<'de> for Anything {
            type Value = Skipped;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_bool<E: de::Error>(self, _: bool) -> Result<Skipped, E> {
                Ok(Skipped)
            }
            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Skipped, E> {
                Ok(Skipped)
            }
            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Skipped, E> {
                Ok(Skipped)
            }
            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Skipped, E> {
                Ok(Skipped)
            }
            fn visit_str<E: de::Error>(self, _: &str) -> Result<Skipped, E> {
                Ok(Skipped)
            }
            fn visit_unit<E: de::Error>(self) -> Result<Skipped, E> {
                Ok(Skipped)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Skipped, A::Error> {
                while seq.next_element::<Skipped>()?.is_some() {}
                Ok(Skipped)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Skipped, A::Error> {
                while map.next_entry::<Skipped, Skipped>()?.is_some() {}
                Ok(Skipped)
            }
        }
        deserializer.deserialize_any(Anything)
    }
}
