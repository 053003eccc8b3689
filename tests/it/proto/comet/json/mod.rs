//! The fallback in JSON (protocol.md §2.1): every row that bytes decide, what must never be taken
//! (T10, T14), and round trips.

mod bodies;
mod fields;
mod malformed;
mod members;
mod round_trips;

use reverse_http::proto::body::{Decoder, of_response};
use reverse_http::proto::comet::{Answer, Event, answer_from_json, event_from_json};

use super::{Parts, body_of, limits, sample, show, status};

#[track_caller]
fn response_parts(text: &[u8], is_head: bool) -> Parts {
    let head = super::answered(text);
    let framing = of_response(&head, if is_head { "HEAD" } else { "GET" }).unwrap();
    let (body, trailers) = body_of(Decoder::new(framing, &limits()), &text[head.len..]);
    let fields =
        head.fields.iter().map(|field| (field.name.to_owned(), field.value.to_vec())).collect();
    let reason = head.reason.iter().map(|byte| char::from(*byte)).collect();
    Parts { start: vec![head.status.to_string(), reason], fields, body, trailers }
}

fn values<'p>(parts: &'p Parts, name: &str) -> Vec<&'p [u8]> {
    parts
        .fields
        .iter()
        .filter(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_slice())
        .collect()
}

/// The body of a sample message.
fn body(name: &str) -> &'static [u8] {
    let bytes = sample(name);
    &bytes[bytes.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4..]
}

#[track_caller]
fn event(bytes: impl AsRef<[u8]>) -> Event {
    match event_from_json(bytes.as_ref(), None, &limits()) {
        Ok(Some(event)) => event,
        other => panic!("{}: {other:?}", show(bytes.as_ref())),
    }
}

#[track_caller]
fn answer(bytes: impl AsRef<[u8]>) -> Answer {
    match answer_from_json(bytes.as_ref(), None, &limits()) {
        Ok(Some(answer)) => answer,
        other => panic!("{}: {other:?}", show(bytes.as_ref())),
    }
}

/// The text of an answer to a GET.
#[track_caller]
fn text(bytes: impl AsRef<[u8]>) -> String {
    String::from_utf8(answer(bytes).into_text(false)).unwrap()
}

/// Whether both readers refuse it with 400 and one short line; if not, what they did.
fn is_refused(bytes: &[u8]) -> Result<(), String> {
    for result in [
        answer_from_json(bytes, None, &limits()).map(|_| ()),
        event_from_json(bytes, None, &limits()).map(|_| ()),
    ] {
        let right = result.as_ref().is_err_and(|refusal| {
            let reason = &refusal.reason;
            refusal.status == 400
                && (1..400).contains(&reason.len())
                && !reason.contains(|c: char| c.is_control())
        });
        if !right {
            return Err(format!("{}: {result:?}", show(&bytes[..bytes.len().min(300)])));
        }
    }
    Ok(())
}

#[track_caller]
fn refused(bytes: impl AsRef<[u8]>) {
    assert_eq!(is_refused(bytes.as_ref()), Ok(()));
}

/// A right answer (and no event), with these members after its id.
fn with(members: &str) -> String {
    format!("{{\"message-id\": \"xxx\"{}{members}}}", if members.is_empty() { "" } else { ", " })
}

/// A right event with these members after the others.
fn event_with(members: &str) -> String {
    let comma = if members.is_empty() { "" } else { ", " };
    format!(
        "{{\"message-id\": \"xxx\", \"method\": \"GET\", \"request-uri\": \"/\"{comma}{members}}}"
    )
}

/// Members that are wrong in an answer and in an event alike, each beside nothing else.
#[track_caller]
fn both_refuse(members: &str) {
    refused(with(members));
    assert_eq!(
        status(event_from_json(event_with(members).as_bytes(), None, &limits())),
        Err(400),
        "{members}"
    );
}

// ── Round trips ──

/// Chunked, in pieces of three, or with a length; chunked where there are trailers.
fn framed(
    start: &str,
    fields: &[(String, Vec<u8>)],
    body: &[u8],
    trailers: &[(String, Vec<u8>)],
    chunked: bool,
) -> Vec<u8> {
    let mut out = Vec::new();
    super::write_lines(&mut out, start, fields, "\r\n");
    if !chunked && trailers.is_empty() {
        out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
        out.extend_from_slice(body);
        return out;
    }
    out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
    for piece in body.chunks(3) {
        out.extend_from_slice(
            &[format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat(),
        );
    }
    super::write_lines(&mut out, "0", trailers, "\r\n");
    out.extend_from_slice(b"\r\n");
    out
}
