//! Requests against an independent parser (milo): whatever we accept from a visitor it accepts,
//! with the same method, target, fields, body and end, but for the rows of [`STRICTER`]; and
//! whatever we forward it accepts with the meaning that we gave it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reverse_http::Limits;
use reverse_http::proto::body::Framing;
use reverse_http::proto::forward::{Forwarded, RequestRules, destination, request as forward};
use reverse_http::proto::framed::FramedRequest;
use reverse_http::proto::head::{LineEnds, RequestHead, request};
use reverse_http_fuzz::oracle::{self, Reading};
use reverse_http_fuzz::{Body, End, all, decode, frame_anew, pairs, trim};

/// What milo does not read and we do: how its complaint begins, when we expect it, and the row of
/// protocol.md §3 or of an RFC that is ours.
type Row = (&'static str, fn(&RequestHead<'_>) -> bool, &'static str);

const STRICTER: [Row; 6] = [
    (
        "UNEXPECTED_CHARACTER: Request line too short",
        |head| head.method.len() + head.target.len() < 4,
        "a method is any token (RFC 9110 §9.1)",
    ),
    ("UNSUPPORTED_HTTP_VERSION: PRI", |head| head.method == "PRI", "the same: PRI is a token"),
    (
        "UNEXPECTED_CHARACTER: Invalid URL character",
        |_| true,
        "a target is any visible ASCII; what it means is the device's business",
    ),
    (
        "UNEXPECTED_CONTENT: ",
        |head| matches!(head.method, "GET" | "HEAD"),
        "a GET may have a body (RFC 9110 §9.3.1)",
    ),
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

/// The same of what visitors send, and we never forward so.
const STRICTER_WITH_VISITORS: [Row; 8] = [
    (
        "INVALID_CONTENT_LENGTH: ",
        lengths_repeat,
        "equal repeats of Content-Length are accepted as one",
    ),
    ("UNEXPECTED_CONTENT_LENGTH: ", lengths_repeat, "the same, over several lines"),
    ("UNEXPECTED_CHARACTER: Invalid protocol", |head| head.minor == 0, "HTTP/1.0 is served"),
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
        "Upgrade alone asks for nothing, and goes (RFC 9110 §7.8)",
    ),
    ("UNEXPECTED_CHARACTER: Expected Upgrade", has_upgrade, "the same"),
    ("MISSING_CONNECTION_UPGRADE: ", has_upgrade, "the same"),
];

fn has_connection(head: &RequestHead<'_>) -> bool {
    !all(&head.fields, "connection").is_empty()
}

fn has_upgrade(head: &RequestHead<'_>) -> bool {
    !all(&head.fields, "upgrade").is_empty()
}

fn lengths_repeat(head: &RequestHead<'_>) -> bool {
    let lengths = all(&head.fields, "content-length");
    lengths.len() > 1 || lengths.iter().any(|line| line.contains(&b','))
}

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits::default();
    let Ok(Some(head)) = request(bytes, &limits, LineEnds::Crlf) else { return };
    let Ok(head) = FramedRequest::of(head) else { return };
    let (framing, Ok(found)) = (head.framing(), destination(&head)) else { return };
    let body = decode(framing, &limits, [&bytes[head.len..]].into_iter());
    if body.end == End::Refused {
        return;
    }
    let rows: Vec<Row> = STRICTER.into_iter().chain(STRICTER_WITH_VISITORS).collect();
    // Of chunk extensions milo has its own opinion, and 0.9.0 miscounts some; llhttp and h11 are
    // asked about those (tests/it/relay/differential/).
    if framing != Framing::Chunked || !bytes[head.len..].contains(&b';') {
        agree(&oracle::request(bytes), &head, &body, head.len, &rows);
    }

    // What goes on to the device.
    let mut wire = Vec::new();
    let mut forwarded = Forwarded::default();
    (forwarded.proto, forwarded.host) = ("http", found.authority);
    let rules = RequestRules {
        drop_authorization: false,
        target: found.target,
        host: found.authority,
        prefix: None,
        forwarded: Some(forwarded),
        via: Some("ptth"),
        keep_underscore: false,
        upgrade: false,
        request_id: None,
        edits: None,
        alias: None,
        own_cookie: None,
    };
    if forward(&mut wire, &head, framing, &rules).is_err() {
        return;
    }
    let head_bytes = wire.clone();
    let Ok(Some(sent)) = request(&head_bytes, &limits, LineEnds::Crlf) else { return }; // with our own fields it may have too many
    let sent_body = frame_anew(&mut wire, framing, &body);
    agree(&oracle::request(&wire), &sent, &sent_body, sent.len, &STRICTER);
});

fn agree(theirs: &Reading, head: &RequestHead<'_>, body: &Body, head_len: usize, rows: &[Row]) {
    if let Some(complaint) = &theirs.error {
        let row = rows.iter().find(|(begins, when, _)| complaint.starts_with(begins) && when(head));
        assert!(row.is_some(), "only we read this: {complaint}: {head:?}");
        return;
    }
    assert!(theirs.head_whole, "only we see the end of this head: {head:?}");
    assert_eq!(
        (&theirs.method[..], &theirs.target[..]),
        (head.method.as_bytes(), head.target.as_bytes())
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
    // Of the trailers we keep some, in their order.
    let mut came = theirs.trailers().into_iter();
    assert!(
        body.trailers
            .iter()
            .all(|(name, value)| came.any(|(n, v)| n == name.as_bytes() && trim(&v) == value)),
        "trailers that came"
    );
}
