//! Events and answers in JSON, both directions: what is taken is one whole HTTP message with the
//! meaning that a JSON reader of its own sees, and goes round.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reverse_http::Limits;
use reverse_http::proto::comet::{
    answer_from_json, answer_length, answer_start, answer_to_json, check_id, event_from_json,
    event_from_text, event_to_json,
};
use reverse_http::proto::head::{LineEnds, request, response};
use reverse_http_fuzz::{all, check_fields, check_refusal, choices, limits, wide};
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    let Some((bytes, [mode, head, fields])) = choices::<3>(input) else { return };
    let limits = limits([head, fields]);
    let id = if mode & 1 == 0 { None } else { Some("0123") };
    match mode >> 1 & 3 {
        0 => event(bytes, id, &limits),
        1 => answer(bytes, id, mode & 8 != 0, &limits),
        2 => event_of_text(bytes, &limits),
        _ => answer_of_text(bytes, mode & 8 != 0, &limits),
    }
});

fn event(bytes: &[u8], id: Option<&str>, limits: &Limits) {
    let event = match event_from_json(bytes, id, limits) {
        Ok(Some(event)) => event,
        Ok(None) => return says_nothing(bytes, id),
        Err(refusal) => return check_refusal(&refusal, &[400, 414, 431, 501]),
    };
    assert!(check_id(event.id.as_bytes()).is_ok() && id.is_none_or(|id| id == event.id));
    let seen = message(bytes);
    let own = event_from_text(&event.id, event.text.clone(), limits)
        .expect("an event is one whole request, within the same bounds");
    assert_eq!((own.text, own.is_head), (event.text.clone(), event.is_head));
    let head = request(&event.text, limits, LineEnds::Crlf).unwrap().unwrap();
    assert_eq!(Some(head.method), seen["method"].as_str());
    assert_eq!(Some(head.target), seen["request-uri"].as_str());
    check_fields(&head.fields);
    assert!(
        ["connection", "keep-alive", "proxy-connection", "upgrade", "te", "expect"]
            .iter()
            .all(|name| all(&head.fields, name).is_empty())
    );
    if seen.get("body-encoding").is_none() && seen.get("trailers").is_none() {
        let body = seen.get("body").and_then(Value::as_str).unwrap_or_default();
        assert_eq!(&event.text[head.len..], body.as_bytes(), "the body is the message's");
    }
    let mut json = Vec::new();
    event_to_json(&mut json, &event.id, &event.text, limits).expect("what was read can be written");
    let again = event_from_json(&json, None, limits)
        .expect("what was written can be read")
        .expect("and is an event");
    assert_eq!(
        (again.id, again.text, again.is_head),
        (event.id, event.text, event.is_head),
        "an event goes round"
    );
}

fn answer(bytes: &[u8], id: Option<&str>, is_head: bool, limits: &Limits) {
    let answer = match answer_from_json(bytes, id, limits) {
        Ok(Some(answer)) => answer,
        Ok(None) => return says_nothing(bytes, id),
        Err(refusal) => return check_refusal(&refusal, &[400, 431]),
    };
    let seen = message(bytes);
    let (id, text) = (answer.id.clone(), answer.into_text(is_head));
    assert!(check_id(id.as_bytes()).is_ok());
    assert_eq!(
        answer_start(&text, is_head, limits),
        Ok(Some(0)),
        "an answer is a response that tells its end, within the same bounds"
    );
    let head = response(&text, limits, LineEnds::Crlf).unwrap().unwrap();
    let status =
        seen.get("status").map(|status| status.as_u64().or_else(|| status.as_str()?.parse().ok()));
    assert_eq!(status.unwrap_or(Some(200)), Some(u64::from(head.status)));
    if let Some(length) = answer_length(&text, is_head, limits) {
        let bodiless = is_head || matches!(head.status, 204 | 304);
        assert_eq!(
            length,
            text.len() as u64,
            "the length is the text's own (bodiless: {bodiless})"
        );
    }
    let mut json = Vec::new();
    answer_to_json(&mut json, &id, "PTTH/1.0", &text, is_head, &wide())
        .expect("what was read can be written");
    let again = answer_from_json(&json, None, &wide())
        .expect("what was written can be read")
        .expect("and is an answer");
    assert_eq!((again.id.clone(), again.into_text(is_head)), (id, text), "an answer goes round");
}

/// The message as another reader of JSON sees it.
fn message(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("what is taken is JSON")
}

fn says_nothing(bytes: &[u8], id: Option<&str>) {
    assert!(id.is_none());
    let nothing = bytes.is_empty()
        || matches!(message(bytes), Value::Null)
        || message(bytes).as_object().is_some_and(|o| o.is_empty());
    assert!(nothing, "a message was taken for none");
}

fn event_of_text(text: &[u8], limits: &Limits) {
    let mut json = b"before".to_vec();
    if event_to_json(&mut json, "id", text, limits).is_err() {
        return assert_eq!(json, b"before");
    }
    let head = request(text, limits, LineEnds::Crlf).unwrap().unwrap();
    let event = event_from_json(&json[6..], Some("id"), &wide())
        .expect("what was written can be read")
        .expect("and is an event");
    let back = request(&event.text, &wide(), LineEnds::Crlf).unwrap().unwrap();
    assert_eq!((back.method, back.target), (head.method, head.target));
    let kept = |head: &reverse_http::proto::head::RequestHead<'_>| {
        let own = [
            "connection",
            "keep-alive",
            "proxy-connection",
            "upgrade",
            "te",
            "expect",
            "content-length",
            "transfer-encoding",
        ];
        let fields = head
            .fields
            .iter()
            .filter(|field| !own.iter().any(|own| field.name.eq_ignore_ascii_case(own)));
        fields.map(|field| (field.name.to_owned(), field.value.to_vec())).collect::<Vec<_>>()
    };
    // Fields that `Connection` names may be left out; nothing else may.
    let named: Vec<Vec<u8>> = (head.fields.iter())
        .filter(|field| field.name.eq_ignore_ascii_case("connection"))
        .flat_map(|field| field.value.split(|byte| *byte == b','))
        .map(|name| name.trim_ascii().to_ascii_lowercase())
        .collect();
    let is_left_out = |name: &str| {
        named.iter().any(|named| named.eq_ignore_ascii_case(name.as_bytes()))
            && all(&back.fields, name).is_empty()
    };
    let mut travel = kept(&head);
    travel.retain(|(name, _)| !is_left_out(name));
    assert_eq!(kept(&back), travel, "fields travel in their order, byte for byte");
}

fn answer_of_text(text: &[u8], is_head: bool, limits: &Limits) {
    let mut json = b"before".to_vec();
    if answer_to_json(&mut json, "id", "PTTH/1.0", text, is_head, limits).is_err() {
        return assert_eq!(json, b"before");
    }
    let head = response(text, limits, LineEnds::Crlf).unwrap().unwrap();
    match answer_from_json(&json[6..], Some("id"), &wide()) {
        Ok(answer) => {
            let back = answer.expect("it is an answer").into_text(is_head);
            let back = response(&back, &wide(), LineEnds::Crlf).unwrap().unwrap();
            assert_eq!((back.status, back.reason), (head.status, head.reason));
        }
        Err(refusal) => {
            assert!(head.status < 200, "only interim responses do not travel: {refusal}")
        }
    }
}
