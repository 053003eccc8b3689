//! Responses as they are forwarded: our own parser reads back the same meaning and framing, no
//! field passes that must not, and nothing splits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reverse_http::proto::body::{Framing, of_response};
use reverse_http::proto::forward::{ResponseRules, response as forward};
use reverse_http::proto::head::{LineEnds, response};
use reverse_http_fuzz::{all, check_fields, check_refusal, choices, forwarded, same, wide};

fuzz_target!(|input: &[u8]| {
    let Some((bytes, [framing, length, flags])) = choices::<3>(input) else { return };
    let Ok(Some(head)) = response(bytes, &forwarded(), LineEnds::CrlfOrLf) else { return };
    let method = if flags & 1 == 0 { "GET" } else { "HEAD" };
    // As the relay does: framed as it came, but where no length is known (to be sent on in chunks,
    // or until close).
    let Ok(stated) = of_response(&head, method) else { return };
    let framing = match (stated, framing & 3) {
        (Framing::Empty, _) => Framing::Empty,
        (_, 0) => Framing::Length(1 + u64::from(length)),
        (_, 1) => Framing::Chunked,
        (_, 2) => Framing::UntilClose,
        (stated, _) => stated,
    };
    let rules = ResponseRules {
        via: (flags & 2 != 0).then_some("ptth"),
        close: flags & 4 != 0,
        keep_alive: flags & 8 != 0,
        date: (flags & 16 != 0).then_some("Sun, 06 Nov 1994 08:49:37 GMT"),
        upgrade: flags & 32 != 0 && head.status == 101,
        edits: None,
        alias: None,
        own_cookie: None,
    };
    let mut wire = b"before".to_vec();
    if let Err(refusal) = forward(&mut wire, &head, framing, method, &rules) {
        check_refusal(&refusal, &[502]);
        return assert_eq!(wire, b"before", "what cannot be written leaves nothing behind");
    }
    let wire = &wire[6..];
    let sent = response(wire, &wide(), LineEnds::Crlf)
        .expect("what is forwarded can be read")
        .expect("and is whole");
    assert_eq!(sent.len, wire.len(), "nothing splits");
    assert_eq!((sent.status, sent.reason, sent.minor), (head.status, head.reason, 1));
    assert_eq!(of_response(&sent, method), Ok(framing), "framed as it was understood");
    check_fields(&sent.fields);
    let (lengths, codings) =
        (all(&sent.fields, "content-length"), all(&sent.fields, "transfer-encoding"));
    assert!(lengths.len() + codings.len() <= 1, "one framing field at most");
    assert!(
        !matches!(head.status, 100..=199 | 204) || lengths.len() + codings.len() == 0,
        "RFC 9110 §8.6"
    );
    for gone in ["keep-alive", "proxy-connection", "http2-settings", "te"] {
        assert!(all(&sent.fields, gone).is_empty(), "{gone} went on");
    }
    let connection = all(&sent.fields, "connection");
    assert!(connection.len() <= usize::from(rules.upgrade || rules.close || rules.keep_alive));
    assert!(
        connection.iter().all(|value| [&b"Upgrade"[..], b"close", b"keep-alive"].contains(value))
    );
    assert!(rules.upgrade || all(&sent.fields, "upgrade").is_empty());
    for name in [
        "set-cookie",
        "www-authenticate",
        "location",
        "cache-control",
        "etag",
        "vary",
        "content-type",
    ] {
        assert_eq!(
            all(&sent.fields, name),
            all(&head.fields, name),
            "{name} survives, as often as it came"
        );
    }
    let named = all(&head.fields, "date").len();
    assert_eq!(
        all(&sent.fields, "date").len(),
        named + usize::from(named == 0 && rules.date.is_some() && head.status >= 200)
    );
    let ours = ["connection", "upgrade", "content-length", "transfer-encoding", "via", "date"];
    let mut came = head.fields.iter();
    for field in &sent.fields {
        let is_ours = ours.iter().any(|ours| same(field.name, ours));
        assert!(
            is_ours || came.any(|one| one.name == field.name && one.value == field.value),
            "{} did not come",
            field.name
        );
    }
});
