//! Responses against an independent parser (milo): whatever we accept from a device it accepts,
//! with the same status, fields, body and end, but for the rows of [`STRICTER`]; and whatever we
//! forward it accepts with the meaning that we gave it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reverse_http::Limits;
use reverse_http::proto::body::{Framing, of_response};
use reverse_http::proto::forward::{ResponseRules, response as forward};
use reverse_http::proto::head::{LineEnds, ResponseHead, response};
use reverse_http_fuzz::oracle::{self, Reading};
use reverse_http_fuzz::{Body, End, all, choices, decode, frame_anew, pairs, trim};

/// What milo does not read and we do: how its complaint begins, when we expect it, and the row of
/// protocol.md §3 or of an RFC that is ours.
type Row = (&'static str, fn(&ResponseHead<'_>) -> bool, &'static str);

const STRICTER: [Row; 2] = [
    (
        "UNEXPECTED_CHARACTER: Expected Trailer",
        |head| !all(&head.fields, "trailer").is_empty(),
        "the same: an empty list",
    ),
    (
        "UNEXPECTED_TRAILERS: ",
        |head| !all(&head.fields, "trailer").is_empty(),
        "Trailer announces, it does not frame (RFC 9110 §6.6.2)",
    ),
];

/// The same of what devices send, and we never forward so.
const STRICTER_WITH_DEVICES: [Row; 13] = [
    (
        "UNEXPECTED_TRANSFER_ENCODING: ",
        has_no_body,
        "1xx, 204 and 304 have no body, whatever the fields say",
    ),
    ("UNEXPECTED_CONTENT_LENGTH: ", has_no_body, "the same"),
    (
        "UNEXPECTED_CHARACTER: Status line too short",
        |head| head.reason.is_empty(),
        "the space behind the status may be missing",
    ),
    ("INVALID_STATUS: ", |head| head.reason.is_empty(), "the same"),
    (
        "INVALID_CONTENT_LENGTH: ",
        lengths_repeat,
        "equal repeats of Content-Length are accepted as one",
    ),
    ("UNEXPECTED_CONTENT_LENGTH: ", lengths_repeat, "the same, over several lines"),
    ("UNSUPPORTED_HTTP_VERSION", |head| head.minor == 0, "a device's HTTP/1.0 answer is taken"),
    ("UNEXPECTED_CHARACTER: Invalid protocol", |head| head.minor == 0, "the same"),
    (
        "UNEXPECTED_CHARACTER: Invalid Connection",
        has_connection,
        "members of Connection that are no tokens name no field",
    ),
    (
        "UNEXPECTED_CHARACTER: Expected Connection",
        has_connection,
        "an empty member of a list is none (RFC 9110 §5.6.1)",
    ),
    (
        "UNEXPECTED_CHARACTER: Invalid Upgrade",
        has_upgrade,
        "Upgrade alone says what is possible, and goes (RFC 9110 §7.8)",
    ),
    ("UNEXPECTED_CHARACTER: Expected Upgrade", has_upgrade, "the same"),
    ("MISSING_CONNECTION_UPGRADE: ", has_upgrade, "the same"),
];

fn has_connection(head: &ResponseHead<'_>) -> bool {
    !all(&head.fields, "connection").is_empty()
}

fn has_upgrade(head: &ResponseHead<'_>) -> bool {
    !all(&head.fields, "upgrade").is_empty()
}

fn has_no_body(head: &ResponseHead<'_>) -> bool {
    matches!(head.status, 100..=199 | 204 | 304)
}

fn lengths_repeat(head: &ResponseHead<'_>) -> bool {
    let lengths = all(&head.fields, "content-length");
    lengths.len() > 1 || lengths.iter().any(|line| line.contains(&b','))
}

fuzz_target!(|input: &[u8]| {
    let Some((bytes, [flags])) = choices::<1>(input) else { return };
    let (limits, is_head) = (Limits::default(), flags & 1 != 0);
    let method = if is_head { "HEAD" } else { "GET" };
    let Ok(Some(head)) = response(bytes, &limits, LineEnds::Crlf) else { return };
    let Ok(framing) = of_response(&head, method) else { return };
    // Behind a 101 comes another protocol. A 205 has no body for milo; RFC 9112 §6.3 frames it like
    // any other, and so do we.
    if matches!(head.status, 101 | 205) {
        return;
    }
    let body = decode(framing, &limits, [&bytes[head.len..]].into_iter());
    if body.end == End::Refused {
        return;
    }
    let rows: Vec<Row> = STRICTER.into_iter().chain(STRICTER_WITH_DEVICES).collect();
    // Of chunk extensions milo has its own opinion, and 0.9.0 miscounts some; llhttp and h11 are
    // asked about those (tests/it/relay/differential/).
    if framing != Framing::Chunked || !bytes[head.len..].contains(&b';') {
        agree(&oracle::response(bytes, is_head), &head, &body, head.len, &rows);
    }

    // What goes on to the visitor.
    let mut wire = Vec::new();
    let rules = ResponseRules {
        via: Some("ptth"),
        close: flags & 2 != 0,
        keep_alive: false,
        date: Some("Sun, 06 Nov 1994 08:49:37 GMT"),
        upgrade: false,
        edits: None,
        alias: None,
        own_cookie: None,
    };
    if forward(&mut wire, &head, framing, method, &rules).is_err() {
        return;
    }
    let head_bytes = wire.clone();
    let Ok(Some(sent)) = response(&head_bytes, &limits, LineEnds::Crlf) else { return }; // with our own fields it may have too many
    let sent_body = frame_anew(&mut wire, framing, &body);
    agree(&oracle::response(&wire, is_head), &sent, &sent_body, sent.len, &STRICTER);
});

fn agree(theirs: &Reading, head: &ResponseHead<'_>, body: &Body, head_len: usize, rows: &[Row]) {
    if let Some(complaint) = &theirs.error {
        let row = rows.iter().find(|(begins, when, _)| complaint.starts_with(begins) && when(head));
        assert!(row.is_some(), "only we read this: {complaint}: {head:?}");
        return;
    }
    assert!(theirs.head_whole, "only we see the end of this head: {head:?}");
    assert_eq!(
        (&theirs.status[..], &theirs.reason[..]),
        (head.status.to_string().as_bytes(), head.reason)
    );
    let fields: Vec<_> =
        theirs.fields().into_iter().map(|(name, value)| (name, trim(&value).to_vec())).collect();
    let ours: Vec<_> =
        pairs(&head.fields).into_iter().map(|(name, value)| (name.into_bytes(), value)).collect();
    assert_eq!(fields, ours, "the same fields");
    assert_eq!(theirs.body, body.data, "the same body");
    match body.end {
        End::Whole(end) => assert_eq!(theirs.end, Some(head_len + end), "the same end"),
        _ => assert_eq!(theirs.end, None, "no end for both"),
    }
}
