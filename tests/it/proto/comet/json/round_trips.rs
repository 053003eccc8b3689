//! Round trips.

use proptest::prelude::*;
use reverse_http::proto::comet::{
    answer_from_json, answer_to_json, event_from_json, event_from_text, event_json_length,
    event_to_json,
};
use serde_json::{Value, json};

use super::super::{Parts, fields, limits, pair, request_parts, show, trailers};
use super::{body, event, framed, response_parts, values};

/// Text, or any bytes.
fn a_body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<String>().prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..60)
    ]
}

/// Fields, and among them some that do not travel.
fn mixed_fields() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let hop = prop_oneof![
        Just(pair("Connection", "close")),
        Just(pair("keep-alive", "timeout=5")),
        Just(pair("Proxy-Connection", "x")),
        Just(pair("UPGRADE", "h2c")),
        Just(pair("TE", "trailers")),
        Just(pair("Expect", "100-continue")),
    ];
    (fields(), proptest::collection::vec(hop, 0..3), any::<proptest::sample::Index>()).prop_map(
        |(mut fields, hops, at)| {
            let at = at.index(fields.len() + 1);
            fields.splice(at..at, hops);
            fields
        },
    )
}

fn travelling(fields: &[(String, Vec<u8>)]) -> Vec<(String, Vec<u8>)> {
    let never = ["connection", "keep-alive", "proxy-connection", "upgrade", "te", "expect"];
    fields
        .iter()
        .filter(|(name, _)| !never.contains(&name.to_lowercase().as_str()))
        .cloned()
        .collect()
}

/// A member's name and a value, right or not.
fn a_member() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just("message-id"),
        Just("method"),
        Just("request-uri"),
        Just("http-version"),
        Just("status"),
        Just("reason"),
        Just("headers"),
        Just("trailers"),
        Just("body"),
        Just("body-encoding"),
        Just("unknown"),
    ];
    let value = prop_oneof![
        any::<String>().prop_map(|text| json!(text).to_string()),
        "[A-Z]{1,4}".prop_map(|text| json!(text).to_string()),
        "/[!-~]{0,8}".prop_map(|text| json!(text).to_string()),
        (100u16..1000).prop_map(|status| status.to_string()),
        proptest::collection::vec(("[A-Za-z-]{1,14}", "[ -\u{17f}]{0,8}"), 0..4)
            .prop_map(|pairs| json!(pairs).to_string()),
        Just("[[\"Content-Length\", \"3\"], [\"Transfer-Encoding\", \"chunked\"]]".to_owned()),
        Just("\"base64\"".to_owned()),
        Just("\"AAEC/w==\"".to_owned()),
        Just("null".to_owned()),
        Just("-1.5e3".to_owned()),
        Just("{\"a\": [true]}".to_owned()),
    ];
    (name, value).prop_map(|(name, value)| format!("\"{name}\": {value}"))
}

proptest! {
    #[test]
    fn a_request_goes_through_json_unchanged(
        method in "(GET|HEAD|POST|[A-Z!#$%&'*+.^_`|~-]{1,8})",
        target in "/[!-~]{0,20}",
        fields in mixed_fields(),
        body in a_body(),
        trailers in trailers(),
        chunked: bool,
        in_field: bool,
    ) {
        let text = framed(&format!("{method} {target} HTTP/1.1"), &fields, &body, &trailers, chunked);
        let mut out = Vec::new();
        event_to_json(&mut out, "xxx", &text, &limits()).unwrap();
        let members: Value = serde_json::from_slice(&out).unwrap();
        prop_assert_eq!(members.get("body-encoding").is_some(), std::str::from_utf8(&body).is_err());
        prop_assert_eq!(members.get("trailers").is_some(), !trailers.is_empty());
        let event = event_from_json(&out, in_field.then_some("xxx"), &limits()).unwrap().unwrap();
        prop_assert_eq!((event.id.as_str(), event.protocol.as_str(), event.is_head), ("xxx", "PTTH/1.0", method == "HEAD"));
        let parts = request_parts(&event.text);
        prop_assert!(values(&parts, "content-length").len() + values(&parts, "transfer-encoding").len() <= 1);
        let expected = Parts { start: vec![method, target], fields: travelling(&fields), body, trailers };
        prop_assert_eq!(parts.unframed(), expected);
        prop_assert!(event_from_text("xxx", event.text.clone(), &limits()).is_ok());
        // And what was read is written as it was.
        let mut again = Vec::new();
        event_to_json(&mut again, "xxx", &event.text, &limits()).unwrap();
        prop_assert_eq!(show(&again), show(&out));
    }

    #[test]
    fn a_response_goes_through_json_unchanged(
        code in prop_oneof![Just(200u16), Just(204), Just(304), 200u16..1000],
        reason in "[ -~\u{a0}-\u{ff}\t]{0,12}",
        fields in mixed_fields(),
        body in a_body(),
        trailers in trailers(),
        chunked: bool,
        is_head: bool,
    ) {
        let bodiless = is_head || matches!(code, 204 | 304);
        let reason: Vec<u8> = reason.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        let mut text = format!("HTTP/1.1 {code} ").into_bytes();
        text.extend_from_slice(&reason);
        text.extend_from_slice(b"\r\n");
        let (none, end) = (Vec::new(), framed("", &fields, &body, &trailers, chunked));
        text.extend_from_slice(&end[2..]); // without its empty first line
        let (body, trailers) = if bodiless { (&none, vec![]) } else { (&body, trailers) };
        if bodiless {
            text.truncate(text.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4);
        }
        let stated = bodiless && code != 204 && !text.windows(7).any(|w| w == b"chunked");
        let length = super::super::answered(&text).fields.get("content-length").map(<[u8]>::to_vec);

        let mut out = Vec::new();
        answer_to_json(&mut out, "xxx", "PTTH/0.9", &text, is_head, &limits()).unwrap();
        let members: Value = serde_json::from_slice(&out).unwrap();
        prop_assert_eq!(members["http-version"].as_str(), Some("PTTH/0.9"));
        let answer = answer_from_json(&out, None, &limits()).unwrap().unwrap();
        prop_assert_eq!(&answer.id, "xxx");
        let read = answer.into_text(is_head);
        let parts = response_parts(&read, is_head);
        prop_assert!(values(&parts, "content-length").len() + values(&parts, "transfer-encoding").len() <= 1);
        if stated {
            prop_assert_eq!(values(&parts, "content-length").first().copied(), length.as_deref());
        }
        let reason: String = reason.iter().map(|byte| char::from(*byte)).collect();
        let expected = Parts { start: vec![code.to_string(), reason], fields: travelling(&fields), body: body.clone(), trailers };
        prop_assert_eq!(parts.unframed(), expected);
        prop_assert_eq!(super::super::answer_start(&read, is_head, &limits()), Ok(Some(0)));
        let mut again = Vec::new();
        answer_to_json(&mut again, "xxx", "PTTH/0.9", &read, is_head, &limits()).unwrap();
        // Metadata stands after the other fields when it was moved once.
        let (again, out): (Value, Value) = (serde_json::from_slice(&again).unwrap(), serde_json::from_slice(&out).unwrap());
        for member in ["status", "reason", "body", "body-encoding", "trailers"] {
            prop_assert_eq!(&again[member], &out[member]);
        }
    }

    /// Members in any order and of any kind: refused with 400, or a text that can be read to its
    /// last byte.
    #[test]
    fn what_is_taken_is_a_message(members in proptest::collection::vec(a_member(), 0..8), id: bool) {
        let bytes = format!("{{{}}}", members.join(", "));
        let id = id.then_some("xxx");
        match answer_from_json(bytes.as_bytes(), id, &limits()) {
            Ok(None) => prop_assert!(members.is_empty()),
            Ok(Some(answer)) => {
                for is_head in [false, true] {
                    response_parts(&answer.clone().into_text(is_head), is_head);
                }
            }
            Err(refusal) => prop_assert_eq!(refusal.status, 400),
        }
        match event_from_json(bytes.as_bytes(), id, &limits()) {
            Ok(None) => prop_assert!(members.is_empty()),
            Ok(Some(event)) => {
                request_parts(&event.text);
            }
            Err(refusal) => prop_assert_eq!(refusal.status, 400),
        }
    }

    /// A sample with some bytes changed, taken out or put in: never a panic, never a text that
    /// cannot be read.
    #[test]
    fn damaged_samples_are_refused_or_readable(
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0u8..3), 1..4),
        is_event: bool,
    ) {
        let mut bytes = body(if is_event { "comet-2-event" } else { "comet-3-answer" }).to_vec();
        for (at, byte, how) in edits {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        match answer_from_json(&bytes, None, &limits()) {
            Ok(Some(answer)) => drop(response_parts(&answer.into_text(false), false)),
            Ok(None) => {}
            Err(refusal) => prop_assert_eq!(refusal.status, 400, "{}", show(&bytes)),
        }
        match event_from_json(&bytes, None, &limits()) {
            Ok(Some(event)) => drop(request_parts(&event.text)),
            Ok(None) => {}
            Err(refusal) => prop_assert_eq!(refusal.status, 400, "{}", show(&bytes)),
        }
    }
}

/// Its room is taken before an event is written, so it may not be longer; nor does it take twice
/// its length by growing.
#[test]
fn the_length_of_an_event_is_known_before_it_is_written() {
    let every: Vec<u8> = (0..=255).collect();
    let ascii: Vec<u8> = (0..=127).collect();
    for body in [
        &every[..],
        &ascii,
        b"plain",
        &[1; 1000],
        &[b'"'; 1000],
        "é\u{2028}😀".as_bytes(),
        &[0xFF; 1001],
        b"",
    ] {
        for fields in ["", "X: \"\\é\r\n", "A: 1\r\nB: 2\r\nC: 3\r\n"] {
            for chunked in [false, true] {
                let framing = if chunked {
                    "Transfer-Encoding: chunked\r\n".to_owned()
                } else {
                    format!("Content-Length: {}\r\n", body.len())
                };
                let mut text =
                    format!("POST /a\"b HTTP/1.1\r\nHost: a\r\n{framing}{fields}\r\n").into_bytes();
                if chunked {
                    text.extend_from_slice(format!("{:x}\r\n", body.len().max(1)).as_bytes());
                    text.extend_from_slice(if body.is_empty() { b"x" } else { body });
                    text.extend_from_slice(b"\r\n0\r\nT: \"1\"\r\n\r\n");
                } else {
                    text.extend_from_slice(body);
                }
                let (length, mut out) =
                    (event_json_length("id", &text, &limits()).unwrap(), Vec::new());
                event_to_json(&mut out, "id", &text, &limits()).unwrap();
                assert!(
                    out.len() <= length && out.capacity() <= length,
                    "{} and {} of {length}: {}",
                    out.len(),
                    out.capacity(),
                    show(&text)
                );
                event(&out);
            }
        }
    }
}
