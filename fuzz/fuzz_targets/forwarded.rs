//! What proxies say: lists come out as addresses and elements that are understood, at most 32, and
//! reading what was written changes nothing.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use reverse_http::proto::body::Framing;
use reverse_http::proto::forward::{Forwarded, RequestRules, request as forward};
use reverse_http::proto::forwarded::{Network, ProxyClaims};
use reverse_http::proto::head::{LineEnds, RequestHead, request};
use reverse_http_fuzz::{all, wide};

const FIELDS: [&str; 6] = [
    "X-Forwarded-For",
    "Forwarded",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
];

fuzz_target!(|input: &[u8]| {
    if let Some(text) = input.strip_prefix(b"=") {
        return network(&String::from_utf8_lossy(text));
    }
    // Each line is a value; its first byte says of which field.
    let mut wire = b"GET / HTTP/1.1\r\nHost: lamp\r\n".to_vec();
    for line in input.split(|byte| *byte == b'\n') {
        let Some((which, value)) = line.split_first() else { continue };
        wire.extend_from_slice(FIELDS[usize::from(*which) % FIELDS.len()].as_bytes());
        wire.extend([b": ", value, b"\r\n"].concat());
    }
    wire.extend_from_slice(b"\r\n");
    let Ok(Some(head)) = request(&wire, &wide(), LineEnds::Crlf) else { return };
    let once = written(&head);
    let sent =
        request(&once, &wide(), LineEnds::Crlf).expect("what is written can be read").unwrap();
    assert_eq!(sent.len, once.len());
    check(&sent);
    let said = ProxyClaims::read(&sent.fields);
    let came = ProxyClaims::read(&head.fields);
    assert_eq!((said.prefix(), said.scheme()), (came.prefix(), came.scheme().or(said.scheme())));
    assert_eq!(
        String::from_utf8_lossy(&written(&sent)),
        String::from_utf8_lossy(&once),
        "read and written again it is the same"
    );
});

/// The request with what was said, and nothing of ours but a scheme and a host where none was said.
fn written(head: &RequestHead<'_>) -> Vec<u8> {
    let said = ProxyClaims::read(&head.fields);
    let mut forwarded = Forwarded::default();
    (forwarded.proto, forwarded.host, forwarded.claims) = ("http", "lamp", Some(&said));
    let rules = RequestRules {
        drop_authorization: false,
        target: "/",
        host: "lamp",
        prefix: None,
        forwarded: Some(forwarded),
        via: None,
        keep_underscore: false,
        upgrade: false,
        request_id: None,
        edits: None,
        alias: None,
        own_cookie: None,
    };
    let mut out = Vec::new();
    forward(&mut out, head, Framing::Empty, &rules).expect("what is understood can be written");
    out
}

fn check(sent: &RequestHead<'_>) {
    let one = |name| {
        let lines = all(&sent.fields, name);
        assert!(lines.len() <= 1, "{name} is one line");
        lines.first().map(|line| std::str::from_utf8(line).expect("only ASCII is written"))
    };
    let hops: Vec<&str> =
        one("x-forwarded-for").map_or(Vec::new(), |line| line.split(", ").collect());
    assert!(
        hops.len() <= 32
            && hops.iter().all(|hop| *hop == "unknown" || hop.parse::<IpAddr>().is_ok()),
        "{hops:?}"
    );
    if let Some(line) = one("forwarded") {
        assert!(
            line.is_ascii() && elements(line).is_some_and(|elements| (1..=32).contains(&elements)),
            "{line}"
        );
    }
    assert!(
        one("x-forwarded-port").is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
    );
    let plain = |path: &str| {
        path.starts_with('/')
            && !path.ends_with('/')
            && !path.contains("//")
            && !path.contains("/../")
    };
    assert!(one("x-forwarded-prefix").is_none_or(plain));
    assert!(one("x-forwarded-proto").is_some_and(
        |proto| proto.len() <= 16 && !proto.bytes().any(|byte| byte.is_ascii_uppercase())
    ));
    assert!(one("x-forwarded-host").is_some_and(|host| !host.contains([' ', ',', '@', '/'])));
}

/// How many elements a `Forwarded` line of ours has; `None`: a quote is open, or an element has no
/// pair.
fn elements(line: &str) -> Option<usize> {
    let (mut count, mut quoted, mut escaped, mut pair) = (1, false, false, false);
    for c in line.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '=' if !quoted => pair = true,
            ',' if !quoted => {
                if !std::mem::take(&mut pair) {
                    return None;
                }
                count += 1;
            }
            _ => {}
        }
    }
    (!quoted && pair).then_some(count)
}

fn network(text: &str) {
    let Ok(network) = text.parse::<Network>() else { return };
    let shown = network.to_string();
    assert_eq!(
        shown.parse::<Network>(),
        Ok(network),
        "a network that is shown is read as the same"
    );
    let base: IpAddr = shown.split('/').next().unwrap().parse().unwrap();
    assert!(network.contains(base));
    // The other family is never in it.
    let other: IpAddr =
        if base.is_ipv4() { "2001:db8::1".parse().unwrap() } else { "192.0.2.1".parse().unwrap() };
    assert!(!network.contains(other));
}
