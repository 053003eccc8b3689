//! What a relay changes: hop-by-hop fields, framing, forwarding fields (T12), host and target (T9,
//! T11).

use std::net::IpAddr;

use reverse_http::proto::body::{Framing, of_request, of_response};
use reverse_http::proto::forward::{
    Destination, FirstSegment, Forwarded, RequestRules, ResponseRules, destination, host_of,
    origin_form, request, response, split_first_segment,
};

use super::{answered, asked, framed, show, status};

const RULES: RequestRules<'_> = RequestRules {
    target: "/status",
    host: "gw.example",
    prefix: None,
    forwarded: None,
    via: None,
    keep_underscore: false,
    drop_authorization: false,
    upgrade: false,
    request_id: None,
    edits: None,
    alias: None,
    own_cookie: None,
};

/// The field lines of `bytes`, forwarded by `rules`.
#[track_caller]
fn forwarded(bytes: &str, rules: &RequestRules<'_>) -> Vec<String> {
    let head = asked(bytes);
    let mut out = b"before".to_vec();
    request(&mut out, &head, of_request(&head).unwrap(), rules).unwrap();
    let text = String::from_utf8(out).unwrap();
    let lines = text
        .strip_prefix("before")
        .unwrap()
        .strip_suffix("\r\n\r\n")
        .expect("a whole head")
        .split("\r\n");
    let lines: Vec<String> = lines.map(str::to_owned).collect();
    assert!(lines.iter().all(|line| !line.is_empty()));
    let (method, _) = bytes.split_once(' ').unwrap();
    assert_eq!(lines[0], format!("{method} {} HTTP/1.1", rules.target));
    assert!(lines[1].starts_with("Host:"), "Host is first: {lines:?}");
    lines[2..].to_vec()
}

#[test]
fn an_offer_of_another_protocol_goes_on_where_it_is_to_and_never_h2c() {
    let upgrading = RequestRules { upgrade: true, ..RULES };
    for (lines, expected) in [
        (
            "Upgrade: websocket\r\nConnection: Upgrade\r\n",
            &["Upgrade: websocket", "Connection: Upgrade"][..],
        ),
        (
            "Upgrade: h2c, websocket\r\nUpgrade: x/1, H2C\r\nConnection: upgrade\r\n",
            &["Upgrade: websocket, x/1", "Connection: Upgrade"],
        ),
        ("Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AA\r\n", &[]),
        ("Connection: upgrade\r\n", &[]),
        // A quote hides nothing from the next parser.
        (
            "Upgrade: websocket, a\"b, h2c\r\nConnection: Upgrade\r\n",
            &["Upgrade: websocket", "Connection: Upgrade"],
        ),
        ("Upgrade: \"h2c\", a b, /1, x/, x/1/2\r\nConnection: Upgrade\r\n", &[]),
    ] {
        let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        assert_eq!(forwarded(&bytes, &upgrading), expected, "{lines:?}");
        assert_eq!(forwarded(&bytes, &RULES), [""; 0], "{lines:?}");
    }
}

#[test]
fn fields_as_long_as_hop_by_hop_ones_are_other_fields() {
    let others = [
        "DN: 1",
        "Pink: 2",
        "Example: 3",
        "X-Dotted9: 4",
        "Cinnection: 5",
        "Keep-Along: 6",
        "Content-Depth1: 7",
        "HTTP2-Sittings: 8",
    ];
    let lines: String = others.iter().map(|line| format!("{line}\r\n")).collect();
    assert_eq!(relayed(&lines), others);
}

#[test]
fn a_prefix_that_was_taken_off_is_told_once() {
    let taken = RequestRules { prefix: Some("/lamp"), ..RULES };
    let bytes = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Prefix: /evil\r\nX-Forwarded-For: 192.0.2.1\r\nX-Other: 1\r\n\r\n";
    assert_eq!(
        forwarded(bytes, &taken),
        ["X-Forwarded-For: 192.0.2.1", "X-Other: 1", "X-Forwarded-Prefix: /lamp"]
    );
    assert_eq!(
        forwarded(bytes, &RULES),
        ["X-Forwarded-Prefix: /evil", "X-Forwarded-For: 192.0.2.1", "X-Other: 1"]
    );
}

fn relayed(lines: &str) -> Vec<String> {
    forwarded(&format!("GET /lamp/status HTTP/1.1\r\nHost: old\r\n{lines}\r\n"), &RULES)
}

#[test]
fn end_to_end_fields_keep_order_spelling_and_bytes() {
    let lines =
        "ACCEPT: a, b\r\nx-a:1\r\ncookie: a=b\r\nX-A: \"q\"\r\nExpect: 100-continue\r\nEmpty:\r\n";
    assert_eq!(
        relayed(lines),
        ["ACCEPT: a, b", "x-a: 1", "cookie: a=b", "X-A: \"q\"", "Expect: 100-continue", "Empty:"]
    );
    let bytes = b"GET / HTTP/1.1\r\nHost: x\r\nA: caf\xE9\r\n\r\n";
    let mut out = Vec::new();
    request(&mut out, &asked(bytes), Framing::Empty, &RULES).unwrap();
    assert_eq!(show(&out), show(b"GET /status HTTP/1.1\r\nHost: gw.example\r\nA: caf\xE9\r\n\r\n"));
}

#[test]
fn hop_by_hop_fields_go() {
    let gone = "Connection: keep-alive, x-mine, X-Other\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\nUpgrade: h2c\r\n\
                HTTP2-Settings: AAMAAABk\r\nX-Mine: 1\r\nx-OTHER: 2\r\nHost_: x\r\nx_y: z\r\nProxy: a:1\r\n";
    assert_eq!(relayed(&format!("{gone}X-Kept: 3\r\n")), ["X-Kept: 3"]);
    assert_eq!(relayed("TE: trailers, gzip;q=0.5\r\nConnection: TE\r\n"), ["TE: trailers"]);
    assert_eq!(relayed("te: gzip\r\nTE: Trailers\r\n"), ["TE: trailers"]);
    assert_eq!(relayed("TE: trailers;q=0\r\n"), Vec::<String>::new());

    let keeping = RequestRules { keep_underscore: true, ..RULES };
    for byte in "_.!#$%&'*+^`|~".chars() {
        let field = format!("x{byte}y: z");
        let bytes = format!("GET / HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n");
        assert_eq!((forwarded(&bytes, &keeping), forwarded(&bytes, &RULES)), (vec![field], vec![]));
    }
}

#[test]
fn connection_cannot_strip_end_to_end_fields() {
    let names = "Authorization, Host, Content-Length, X-Forwarded-For, Forwarded, Via, Cookie, Content-Type, Cache-Control, Range, If-Match, Expect";
    let kept = [
        "Authorization: a",
        "X-Forwarded-For: b",
        "Forwarded: c",
        "Via: d",
        "Cookie: e",
        "Content-Type: f",
        "Cache-Control: g",
        "Range: h",
        "If-Match: i",
        "Expect: 100-continue",
    ];
    let lines = format!(
        "POST /lamp HTTP/1.1\r\nHost: old\r\nConnection: {names}\r\nContent-Length: 3\r\n{}\r\n\r\n",
        kept.join("\r\n")
    );
    let mut expected = kept.map(str::to_owned).to_vec();
    expected.push("Content-Length: 3".to_owned());
    assert_eq!(forwarded(&lines, &RULES), expected);
}

#[test]
fn connection_may_name_sixteen_fields() {
    let with = |n: usize| {
        let named: String = (0..n).map(|i| format!("X-{i}, close,")).collect();
        let bytes = format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: {named}\r\nX-15: y\r\n\r\n");
        let mut out = b"kept".to_vec();
        let result = status(request(&mut out, &asked(&bytes), Framing::Empty, &RULES));
        (result, out.len() > 4)
    };
    assert_eq!(with(16), (Ok(()), true));
    assert_eq!(with(17), (Err(400), false));
    let bytes = format!(
        "HTTP/1.1 200 OK\r\nConnection: {}\r\n\r\n",
        (0..17).map(|i| format!("x{i},")).collect::<String>()
    );
    let rules = ResponseRules {
        via: None,
        close: false,
        keep_alive: false,
        date: None,
        upgrade: false,
        edits: None,
        alias: None,
        own_cookie: None,
    };
    assert_eq!(
        status(response(&mut Vec::new(), &answered(&bytes), Framing::Empty, "GET", &rules)),
        Err(502)
    );
}

#[test]
fn framing_is_written_anew() {
    for (bytes, expected) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", None),
        ("DELETE / HTTP/1.1\r\nHost: x\r\n\r\n", None),
        ("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", Some("Content-Length: 0")),
        ("POST / HTTP/1.1\r\nHost: x\r\n\r\n", Some("Content-Length: 0")),
        ("PUT / HTTP/1.1\r\nHost: x\r\n\r\n", Some("Content-Length: 0")),
        (
            "POST / HTTP/1.1\r\nHost: x\r\ncontent-length: 5\r\nContent-Length: 05, 5\r\n\r\n",
            Some("Content-Length: 5"),
        ),
        (
            "POST / HTTP/1.1\r\nHost: x\r\ntransfer-encoding: CHUNKED\r\n\r\n",
            Some("Transfer-Encoding: chunked"),
        ),
        (
            "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 9223372036854775807\r\n\r\n",
            Some("Content-Length: 9223372036854775807"),
        ),
    ] {
        assert_eq!(forwarded(bytes, &RULES), expected.into_iter().collect::<Vec<_>>(), "{bytes}");
    }
}

#[test]
fn forwarding_fields_are_overwritten_for_visitors_and_kept_for_the_forwarder() {
    let bytes = "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 6.6.6.6\r\nx-forwarded-proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-: x\r\nX-Forwarded-Prefix: /evil\r\n\
                  X-Forwarded-Port: 1\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 7.7.7.7\r\nVia: 1.1 theirs\r\n\r\n";
    let peer = |text: &str| Some(text.parse::<IpAddr>().unwrap());
    let by = |remote_ip| {
        Some(Forwarded { remote_ip, proto: "http", host: "gw.example:80", ..Forwarded::default() })
    };
    let rules = RequestRules {
        prefix: Some("/lamp"),
        forwarded: by(peer("192.0.2.7")),
        via: Some("ptth"),
        ..RULES
    };
    let expected = [
        "X-Real-IP: 7.7.7.7",
        "Via: 1.1 theirs",
        "X-Forwarded-For: 192.0.2.7",
        "X-Forwarded-Proto: http",
        "X-Forwarded-Host: gw.example:80",
        "X-Forwarded-Prefix: /lamp",
        "Via: 1.1 ptth",
    ];
    assert_eq!(forwarded(bytes, &rules), expected);
    let rules = RequestRules { forwarded: by(peer("::ffff:192.0.2.7")), ..RULES };
    let lines = forwarded(bytes, &rules);
    assert!(
        lines.contains(&"X-Forwarded-For: 192.0.2.7".to_owned())
            && !lines.iter().any(|l| l.contains("Prefix")),
        "{lines:?}"
    );
    let lines = forwarded(bytes, &RequestRules { forwarded: by(peer("2001:db8::1")), ..RULES });
    assert!(lines.contains(&"X-Forwarded-For: 2001:db8::1".to_owned()));
    let lines = forwarded(bytes, &RequestRules { forwarded: by(None), ..RULES });
    assert!(
        !lines.iter().any(|line| line.starts_with("X-Forwarded-For")),
        "of a peer without an address: {lines:?}"
    );

    let untouched = forwarded(bytes, &RULES);
    assert_eq!(untouched.len(), 9, "{untouched:?}");
    let old = forwarded("GET / HTTP/1.0\r\n\r\n", &RequestRules { via: Some("ptth"), ..RULES });
    assert_eq!(old, ["Via: 1.0 ptth"], "RFC 9110 §7.6.3: the version that was received");
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_nothing() {
    let bytes = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let forwarded = |host| Some(Forwarded { proto: "http", host, ..Forwarded::default() });
    for rules in [
        RequestRules { target: "", ..RULES },
        RequestRules { target: "/a b", ..RULES },
        RequestRules { target: "/\r\nX: y", ..RULES },
        RequestRules { host: "a\r\nX: y", ..RULES },
        RequestRules { prefix: Some("/\n"), ..RULES },
        RequestRules { via: Some("a b"), ..RULES },
        RequestRules { forwarded: forwarded("a\0"), ..RULES },
    ] {
        let mut out = b"kept".to_vec();
        assert_eq!(
            status(request(&mut out, &asked(bytes), Framing::Empty, &rules)),
            Err(400),
            "{rules:?}"
        );
        assert_eq!(out, b"kept");
    }
}

const PLAIN: ResponseRules<'_> = ResponseRules {
    via: None,
    close: false,
    keep_alive: false,
    date: None,
    upgrade: false,
    edits: None,
    alias: None,
    own_cookie: None,
};

#[track_caller]
fn relayed_response(
    bytes: &str,
    method: &str,
    framing: Option<Framing>,
    rules: &ResponseRules<'_>,
) -> Vec<String> {
    let head = answered(bytes);
    let mut out = Vec::new();
    let framing = framing.unwrap_or_else(|| of_response(&head, method).unwrap());
    response(&mut out, &head, framing, method, rules).unwrap();
    let text = String::from_utf8(out).unwrap();
    text.strip_suffix("\r\n\r\n").expect("a whole head").split("\r\n").map(str::to_owned).collect()
}

#[test]
fn responses_are_framed_once() {
    let ok = "HTTP/1.1 200 OK";
    for (bytes, method, framing, expected) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            "GET",
            None,
            &[ok, "Content-Length: 5"][..],
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\ncontent-length: 5\r\n\r\n",
            "GET",
            None,
            &[ok, "Content-Length: 5"],
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "GET", None, &[ok, "Content-Length: 0"]),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n",
            "GET",
            None,
            &[ok, "Transfer-Encoding: chunked"],
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET",
            Some(Framing::UntilClose),
            &[ok],
        ),
        ("HTTP/1.1 200 OK\r\n\r\n", "GET", None, &[ok]),
        (
            "HTTP/1.0 200 OK\r\n\r\n",
            "GET",
            Some(Framing::Chunked),
            &[ok, "Transfer-Encoding: chunked"],
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD", None, &[ok, "Content-Length: 5"]),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HEAD", None, &[ok]),
        (
            "HTTP/1.1 304 \r\nContent-Length: 5\r\nETag: x\r\n\r\n",
            "GET",
            None,
            &["HTTP/1.1 304 ", "ETag: x", "Content-Length: 5"],
        ),
        ("HTTP/1.1 204 \r\nContent-Length: 0\r\n\r\n", "GET", None, &["HTTP/1.1 204 "]),
        (
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\nContent-Length: 5\r\n\r\n",
            "GET",
            None,
            &["HTTP/1.1 103 Early Hints", "Link: x"],
        ),
        (
            "HTTP/1.1 205 \r\n\r\n",
            "GET",
            Some(Framing::Empty),
            &["HTTP/1.1 205 ", "Content-Length: 0"],
        ),
    ] {
        assert_eq!(relayed_response(bytes, method, framing, &PLAIN), expected, "{method} {bytes}");
    }
}

#[test]
fn responses_lose_hop_by_hop_fields_and_gain_what_the_rules_say() {
    let bytes = "HTTP/1.1 200 OK\r\nserver: x\r\nConnection: close, X-Hop\r\nKeep-Alive: 1\r\nX-Hop: 1\r\nUpgrade: a\r\nProxy-Connection: b\r\n\
                  Set-Cookie: a=1\r\nset-cookie: b=2\r\nx_y: kept\r\nVia: 1.1 a\r\nContent-Length: 2\r\n\r\n";
    let kept = [
        "HTTP/1.1 200 OK",
        "server: x",
        "Set-Cookie: a=1",
        "set-cookie: b=2",
        "x_y: kept",
        "Via: 1.1 a",
        "Content-Length: 2",
    ];
    assert_eq!(relayed_response(bytes, "GET", None, &PLAIN), kept);
    let rules = ResponseRules {
        via: Some("ptth"),
        close: true,
        keep_alive: true,
        date: Some("Tue, 13 May 2008 20:14:45 GMT"),
        upgrade: false,
        edits: None,
        alias: None,
        own_cookie: None,
    };
    let added = ["Date: Tue, 13 May 2008 20:14:45 GMT", "Connection: close", "Via: 1.1 ptth"];
    assert_eq!(relayed_response(bytes, "GET", None, &rules), [&kept[..], &added].concat());

    let bytes = "HTTP/1.0 200 OK\r\ndate: yesterday\r\nContent-Length: 0\r\n\r\n";
    let rules = ResponseRules { close: false, ..rules };
    let expected = [
        "HTTP/1.1 200 OK",
        "date: yesterday",
        "Content-Length: 0",
        "Connection: keep-alive",
        "Via: 1.0 ptth",
    ];
    assert_eq!(relayed_response(bytes, "GET", None, &rules), expected);
    assert_eq!(
        relayed_response(
            "HTTP/1.1 100 \r\n\r\n",
            "GET",
            None,
            &ResponseRules { via: None, keep_alive: false, ..rules }
        ),
        ["HTTP/1.1 100 "]
    );
    let mut out = b"kept".to_vec();
    let wrong = ResponseRules { date: Some("a\r\nb"), ..PLAIN };
    assert_eq!(
        status(response(
            &mut out,
            &answered("HTTP/1.1 200 OK\r\n\r\n"),
            Framing::Empty,
            "GET",
            &wrong
        )),
        Err(502)
    );
    assert_eq!(out, b"kept");
}

fn to<'a>(
    host: &str,
    port: Option<u16>,
    authority: &'a str,
    target: &'a str,
) -> Result<Destination<'a>, u16> {
    Ok(Destination { host: host.to_owned(), port, authority, target })
}

/// As with the result, but owned, so that a table can be built from formatted heads.
fn goes(
    method: &str,
    target: &str,
    version: &str,
    hosts: &str,
) -> Result<(String, Option<u16>, String, String), u16> {
    let bytes = format!("{method} {target} HTTP/{version}\r\n{hosts}\r\n");
    status(destination(&framed(&bytes)))
        .map(|d| (d.host, d.port, d.authority.to_owned(), d.target.to_owned()))
}

/// What is no host.
const NO_HOSTS: &[&str] = &[
    "",
    ".",
    "..",
    "a..b",
    ".a",
    "a..",
    "a, b",
    "a b",
    "a,b",
    "u@a",
    "u:p@a",
    "@",
    ":",
    "a::",
    "a:80:",
    "::1:",
    "a:x",
    "a:+1",
    "a:65536",
    "a:000080",
    "a:80:80",
    ":80",
    "a/b",
    "a?b",
    "a#b",
    "a\\b",
    "%61",
    "a%00",
    "[::1",
    "[",
    "[a",
    "[a:80",
    "[a, b",
    "[a/../b",
    "[::1]x",
    "[::1]::",
    "[1.2.3.4]",
    "[fe80::1%25eth0]",
    "[]",
    "::1",
    "ä",
    "\"a\"",
    "a;b",
    "http://a",
];

#[test]
fn hosts_are_normalised_once() {
    let head = framed("GET /a?b HTTP/1.1\r\nHost: Lamp.Example.:8080\r\n\r\n");
    assert_eq!(
        status(destination(&head)),
        to("lamp.example", Some(8080), "Lamp.Example.:8080", "/a?b")
    );
    for (value, host, port) in [
        ("a", "a", None),
        ("a.b-c_d", "a.b-c_d", None),
        ("LAMP.gw.example", "lamp.gw.example", None),
        ("192.0.2.1:1", "192.0.2.1", Some(1)),
        ("[2001:DB8::1]", "[2001:db8::1]", None),
        ("[::1]:65535", "[::1]", Some(65535)),
        ("a.:80", "a", Some(80)),
    ] {
        assert_eq!(
            goes("GET", "/", "1.1", &format!("Host: {value}\r\n")),
            Ok((host.into(), port, value.into(), "/".into())),
            "{value}"
        );
    }
    let longest = "x".repeat(253);
    assert_eq!(
        goes("GET", "/", "1.1", &format!("Host: {longest}\r\n")),
        Ok((longest.clone(), None, longest, "/".into()))
    );
    for value in NO_HOSTS.iter().copied().chain([&*"x".repeat(254)]) {
        assert_eq!(goes("GET", "/", "1.1", &format!("Host: {value}\r\n")), Err(400), "{value}");
    }
    for (version, hosts, right) in [
        ("1.1", "", false),
        ("1.1", "Host: a\r\nHost: a\r\n", false),
        ("1.1", "Host: a\r\nhost: b\r\n", false),
        ("1.0", "Host: a\r\nHost: a\r\n", false),
        ("1.0", "Host: a, b\r\n", false),
        ("1.0", "Host: a\r\n", true),
    ] {
        assert_eq!(goes("GET", "/", version, hosts).is_ok(), right, "{version} {hosts:?}");
    }
    for hosts in ["", "Host:\r\n"] {
        assert_eq!(
            goes("GET", "/", "1.0", hosts),
            Ok((String::new(), None, String::new(), "/".into())),
            "{hosts:?}"
        );
    }
}

#[test]
fn absolute_targets_agree_with_host() {
    for (target, host, expected) in [
        ("http://a/x?y", "a", Some(("a", None, "a", "/x?y"))),
        ("HTTP://A.b:80/x", "a.B.", Some(("a.b", Some(80), "A.b:80", "/x"))),
        ("http://a", "a:80", Some(("a", None, "a", "/"))),
        ("https://a:443//x", "a", Some(("a", Some(443), "a:443", "//x"))),
        ("http://a:8080/", "a:8080", Some(("a", Some(8080), "a:8080", "/"))),
        ("http://a:/x", "a:", Some(("a", None, "a", "/x"))), // RFC 3986 §3.2.3
        ("https://a:/x", "a:443", Some(("a", None, "a", "/x"))),
        ("http://[::1]:/", "[::1]:", Some(("[::1]", None, "[::1]", "/"))),
        ("http://a:/", "a:81", None),
        ("http://a/", "b", None),
        ("http://a:81/", "a", None),
        ("https://a/", "a:80", None),
        ("http://u@a/", "a", None),
        ("http://a@b/", "b", None),
        ("http:///x", "a", None),
        ("http://a?x", "a", None),
        ("http://a#x", "a", None),
        ("http://a\\b/", "a", None),
        ("http://a/../x", "a", None),
        ("http:a/", "a", None),
        ("ftp://a/", "a", None),
    ] {
        let expected = expected.map(|(host, port, authority, target)| {
            (host.to_owned(), port, authority.to_owned(), target.to_owned())
        });
        assert_eq!(
            goes("GET", target, "1.1", &format!("Host: {host}\r\n")).ok(),
            expected,
            "{target} {host}"
        );
    }
    assert_eq!(
        goes("GET", "http://a/", "1.1", ""),
        Err(400),
        "an absolute target does not replace Host"
    );
    assert_eq!(goes("GET", "http://a/", "1.0", "").unwrap().0, "a");
    assert_eq!(goes("OPTIONS", "http://a", "1.1", "Host: a\r\n").unwrap().3, "*");
}

#[test]
fn targets_that_servers_read_differently_are_refused() {
    let target =
        |method: &str, target: &str| goes(method, target, "1.1", "Host: a\r\n").map(|d| d.3);
    for right in [
        "/",
        "//",
        "//x//",
        "/a%2fb",
        "/a%2Fb",
        "/%41",
        "/a.b",
        "/.well-known/x",
        "/...",
        "/a/..b",
        "/%2e%2e%2e",
        "/.a/",
        "/x?..",
        "/x?/../",
        "/x?a\\b",
        "/x?%",
        "/x?%zz",
        "/~|{}^",
        "/?",
        "/;/..;x",
    ] {
        assert_eq!(target("GET", right), Ok(right.to_owned()), "{right}");
    }
    for wrong in [
        "/..", "/.", "/../x", "/a/..", "/a/../b", "/a/./b", "/%2e", "/%2E%2e", "/.%2e/x",
        "/a/%2e./", "/%2E/?q", "/a\\b", "/\\", "/#", "/a#b", "/?a#b", "/%", "/a%2", "/%zz", "/%+1",
        "/%00", "/a%00b", "*", "a", "a/b", "a:80", "?x", "#",
    ] {
        assert_eq!(target("GET", wrong), Err(400), "{wrong}");
    }
    assert_eq!(target("OPTIONS", "*"), Ok("*".to_owned()));
    assert_eq!((target("OPTIONS", "**"), target("options", "*")), (Err(400), Err(400)));
    for t in ["a:443", "/", "*", "http://a/"] {
        assert_eq!(target("CONNECT", t), Err(501), "{t}");
    }
}

#[test]
fn a_forwarder_with_one_place_to_go_wants_the_path_only() {
    for (bytes, expected) in [
        ("GET /x HTTP/1.1\r\n\r\n", Ok("/x")),
        ("GET http://evil:81/x?y HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Ok("/x?y")),
        ("OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n", Ok("*")),
        ("GET /../x HTTP/1.1\r\n\r\n", Err(400)),
        ("CONNECT a:1 HTTP/1.1\r\n\r\n", Err(501)),
    ] {
        assert_eq!(status(origin_form(&framed(bytes))), expected, "{bytes}");
    }
}

#[test]
fn the_target_of_a_request_on_a_link_wins_over_host_and_neither_may_be_invalid() {
    for (bytes, expected) in [
        ("GET /x HTTP/1.1\r\n\r\n", Ok(None)),
        ("GET /x HTTP/1.1\r\nHost:\r\n\r\n", Ok(None)),
        ("GET /x HTTP/1.1\r\nHost: A.b:8080\r\n\r\n", Ok(Some("A.b:8080"))),
        ("GET /x HTTP/1.1\r\nHost: a:\r\n\r\n", Ok(Some("a"))),
        ("GET /x HTTP/1.1\r\nHost: a:99999\r\n\r\n", Ok(Some("a:99999"))),
        ("GET http://other.example/p HTTP/1.1\r\nHost: a\r\n\r\n", Ok(Some("other.example"))),
        ("GET http://other.example:81/p HTTP/1.1\r\n\r\n", Ok(Some("other.example:81"))),
        ("OPTIONS http://other.example HTTP/1.1\r\nHost:\r\n\r\n", Ok(Some("other.example"))),
        ("GET http://other.example/p HTTP/1.1\r\nHost: u@a/b, c\r\n\r\n", Err(400)),
        ("GET http://u@other.example/p HTTP/1.1\r\nHost: a\r\n\r\n", Err(400)),
        ("GET /x HTTP/1.1\r\nHost: u@a/b, c\r\n\r\n", Err(400)),
        ("GET /x HTTP/1.1\r\nHost: a, b\r\n\r\n", Err(400)),
        ("GET /x HTTP/1.1\r\nHost: a:1:99999\r\n\r\n", Err(400)),
        ("GET /x HTTP/1.1\r\nHost: a::99999\r\n\r\n", Err(400)),
        ("GET /x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Err(400)),
    ] {
        assert_eq!(status(host_of(&asked(bytes))), expected, "{bytes}");
    }
}

#[test]
fn first_segments() {
    for (target, segment, rest, query) in [
        ("/lamp/status?x", "lamp", "/status?x", ""),
        ("/lamp?x", "lamp", "", "?x"),
        ("/lamp", "lamp", "", ""),
        ("/lamp/", "lamp", "/", ""),
        ("/lamp//x", "lamp", "//x", ""),
        ("/lamp?x/y", "lamp", "", "?x/y"),
        ("/lamp/?", "lamp", "/?", ""),
        ("/", "", "", ""),
        ("/?x", "", "", "?x"),
        ("//lamp/", "", "/lamp/", ""),
        ("*", "", "", ""),
        ("", "", "", ""),
    ] {
        assert_eq!(split_first_segment(target), FirstSegment { segment, rest, query }, "{target}");
    }
}
