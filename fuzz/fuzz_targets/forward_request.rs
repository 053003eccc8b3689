//! Requests as they are forwarded: our own parser reads back the same meaning, no field passes that
//! must not, and nothing splits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use reverse_http::proto::body::{Framing, of_request};
use reverse_http::proto::forward::{Forwarded, RequestRules, destination, request as forward};
use reverse_http::proto::forwarded::ProxyClaims;
use reverse_http::proto::framed::FramedRequest;
use reverse_http::proto::head::{LineEnds, RequestHead, request};
use reverse_http_fuzz::{all, check_fields, check_refusal, choices, forwarded, same, wide};

fuzz_target!(|input: &[u8]| {
    let Some((bytes, [framing, length, flags, more])) = choices::<4>(input) else { return };
    let Ok(Some(head)) = request(bytes, &forwarded(), LineEnds::Crlf) else { return };
    let framing = match framing & 3 {
        0 => Framing::Empty,
        1 => Framing::Length(1 + u64::from(length) * 0x0101_0101_0101),
        2 => Framing::Chunked,
        _ => match of_request(&head) {
            Ok(framing) => framing,
            Err(_) => return,
        },
    };
    // As a gateway forwards it, or, where it has no destination, with what a program might give.
    let framed = FramedRequest::of(head.clone());
    let found = framed.as_ref().ok().and_then(|framed| destination(framed).ok());
    let (host, target) = match &found {
        Some(found) if more & 1 == 0 => (found.authority, found.target),
        _ => (
            std::str::from_utf8(all(&head.fields, "x-host").first().unwrap_or(&&b"lamp"[..]))
                .unwrap_or("lamp"),
            head.target,
        ),
    };
    let said = (flags & 1 != 0).then(|| ProxyClaims::read(&head.fields));
    let mut forwarded = Forwarded::default();
    forwarded.remote_ip = match more >> 6 {
        0 => None,
        1 => Some([192, 0, 2, length].into()),
        _ => Some([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(length)].into()),
    };
    (forwarded.proto, forwarded.host, forwarded.claims, forwarded.element) =
        ("http", host, said.as_ref(), flags & 2 != 0);
    let rules = RequestRules {
        drop_authorization: false,
        target,
        host,
        prefix: (more & 2 != 0).then_some("/lamp"),
        forwarded: (flags & 4 != 0).then_some(forwarded),
        via: (flags & 8 != 0).then_some("ptth"),
        keep_underscore: flags & 16 != 0,
        upgrade: flags & 32 != 0,
        request_id: None,
        edits: None,
        alias: None,
        own_cookie: None,
    };
    let mut wire = b"before".to_vec();
    match forward(&mut wire, &head, framing, &rules) {
        Ok(()) => check(&wire[6..], &head, framing, &rules),
        Err(refusal) => {
            check_refusal(&refusal, &[400]);
            assert_eq!(wire, b"before", "what cannot be written leaves nothing behind");
        }
    }
});

fn check(wire: &[u8], head: &RequestHead<'_>, framing: Framing, rules: &RequestRules<'_>) {
    let sent = request(wire, &wide(), LineEnds::Crlf)
        .expect("what is forwarded can be read")
        .expect("and is whole");
    assert_eq!(sent.len, wire.len(), "nothing splits");
    assert_eq!((sent.method, sent.target, sent.minor), (head.method, rules.target, 1));
    assert_eq!(
        all(&sent.fields, "host"),
        [rules.host.trim_matches([' ', '\t']).as_bytes()],
        "one Host, the one it was routed by"
    );
    assert_eq!(of_request(&sent), Ok(framing), "framed as it was understood");
    check_fields(&sent.fields);
    for gone in ["keep-alive", "proxy-connection", "http2-settings"] {
        assert!(all(&sent.fields, gone).is_empty(), "{gone} went on");
    }
    assert!(all(&sent.fields, "te").iter().all(|te| te == b"trailers"));
    assert!(
        all(&sent.fields, "connection").iter().all(|value| rules.upgrade && value == b"Upgrade")
    );
    let upgrades = all(&sent.fields, "upgrade");
    assert!(upgrades.is_empty() || (rules.upgrade && upgrades.len() == 1));
    assert!(!upgrades.iter().any(|line| {
        line.to_ascii_lowercase().split(|o| *o == b',').any(|token| token.trim_ascii() == b"h2c")
    }));
    assert!(rules.keep_underscore || sent.fields.iter().all(|field| !field.name.contains('_')));
    if let Some(forwarded) = &rules.forwarded {
        ours_alone(&sent, forwarded.claims.is_some(), forwarded.element);
    }
    end_to_end_survives(&sent, head, rules);
    // What is forwarded once more, by a device that trusts its gateway, says the same.
    let mut again = Vec::new();
    let onwards =
        RequestRules { forwarded: None, prefix: None, via: None, keep_underscore: true, ..*rules };
    if forward(&mut again, &sent, framing, &onwards).is_ok() {
        let read = request(&again, &wide(), LineEnds::Crlf).unwrap().unwrap();
        assert_eq!(
            (read.method, read.target, of_request(&read)),
            (sent.method, sent.target, Ok(framing))
        );
    }
}

/// Of the forwarding fields there is what we say, each once.
fn ours_alone(sent: &RequestHead<'_>, believed: bool, element: bool) {
    let known = [
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-prefix",
        "forwarded",
    ];
    for field in &sent.fields {
        let name = field.name.to_ascii_lowercase();
        assert!(
            !name.starts_with("x-forwarded-") || known.contains(&name.as_str()),
            "{name} is not ours"
        );
    }
    for name in known {
        assert!(all(&sent.fields, name).len() <= 1, "{name} came twice");
    }
    if !believed {
        assert!(all(&sent.fields, "x-forwarded-port").is_empty());
        assert!(element || all(&sent.fields, "forwarded").is_empty());
        assert!(
            all(&sent.fields, "x-forwarded-for").iter().all(|value| !value.contains(&b',')),
            "a visitor's word went on"
        );
    }
}

/// T12: what no `Connection` may take away is there, as often as it came and in its order.
fn end_to_end_survives(sent: &RequestHead<'_>, head: &RequestHead<'_>, rules: &RequestRules<'_>) {
    for name in [
        "authorization",
        "cookie",
        "cache-control",
        "origin",
        "expect",
        "range",
        "x-real-ip",
        "if-none-match",
        "content-type",
    ] {
        assert_eq!(all(&sent.fields, name), all(&head.fields, name), "{name}");
    }
    let via = all(&sent.fields, "via").len();
    assert_eq!(via, all(&head.fields, "via").len() + usize::from(rules.via.is_some()));
    // Whatever went on that is not ours came: bytes and order are kept.
    let ours = [
        "host",
        "te",
        "connection",
        "upgrade",
        "content-length",
        "transfer-encoding",
        "via",
        "forwarded",
    ];
    let mut came = head.fields.iter();
    for field in &sent.fields {
        let is_ours = ours.iter().any(|ours| same(field.name, ours))
            || field.name.to_ascii_lowercase().starts_with("x-forwarded-");
        assert!(
            is_ours || came.any(|one| one.name == field.name && one.value == field.value),
            "{} did not come",
            field.name
        );
    }
}
