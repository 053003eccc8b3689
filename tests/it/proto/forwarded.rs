//! What trusted proxies say: networks, `X-Forwarded-*` and `Forwarded` (RFC 7239), bytes in and
//! bytes out (T10, T12).

use std::net::IpAddr;

use proptest::prelude::*;
use reverse_http::proto::body::Framing;
use reverse_http::proto::forward::{Forwarded, RequestRules, request};
use reverse_http::proto::forwarded::{Network, ProxyClaims};

use super::asked;

fn network(text: &str) -> Result<Network, String> {
    text.parse().map_err(|refusal: reverse_http::Refusal| refusal.reason.into_owned())
}

#[test]
fn networks_have_whole_addresses_and_no_bits_behind_their_prefix() {
    for (text, shown) in [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("192.0.2.7/32", "192.0.2.7/32"),
        ("192.0.2.7", "192.0.2.7/32"),
        ("255.255.255.254/31", "255.255.255.254/31"),
        ("::/0", "::/0"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("2001:DB8::7/128", "2001:db8::7/128"),
        ("::1", "::1/128"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.0.0.7", "10.0.0.7/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
    ] {
        assert_eq!(network(text).map(|n| n.to_string()).as_deref(), Ok(shown), "{text}");
    }
    for text in [
        "",
        "/",
        "/8",
        "10.0.0.0/",
        "10.0.0.0/33",
        "::/129",
        "10.0.0.0/+8",
        "10.0.0.0/08",
        "10.0.0.0/-1",
        "10.0.0.0/8/8",
        "10.0.0.0/ 8",
        " 10.0.0.0/8",
        "10.0.0/8",
        "10.0.0.0.0",
        "010.0.0.0/8",
        "256.0.0.0/8",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/99999999999999999999",
        "[::1]",
        "[::1]/128",
        "fe80::1%eth0",
        "localhost",
        "unix",
        "*",
        "10.0.0.0/8,",
    ] {
        assert!(network(text).is_err(), "{text:?}");
    }
    for (text, right) in [
        ("10.0.0.1/8", "10.0.0.0/8"),
        ("255.255.255.255/31", "255.255.255.254/31"),
        ("1.0.0.0/0", "0.0.0.0/0"),
        ("2001:db8::1/64", "2001:db8::/64"),
        ("::1/127", "::/127"),
        ("::ffff:10.0.0.1/104", "10.0.0.0/8"),
    ] {
        assert!(
            network(text).unwrap_err().ends_with(&format!("write {right}")),
            "{text}: {:?}",
            network(text)
        );
    }
}

#[test]
fn a_network_has_its_first_and_its_last_address_and_none_beside() {
    for (text, within, beside) in [
        (
            "10.0.0.0/8",
            &["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"][..],
            &["9.255.255.255", "11.0.0.0", "::10.1.2.3", "::1"][..],
        ),
        ("192.0.2.7", &["192.0.2.7", "::ffff:192.0.2.7"], &["192.0.2.6", "192.0.2.8"]),
        ("192.0.2.6/31", &["192.0.2.6", "192.0.2.7"], &["192.0.2.5", "192.0.2.8"]),
        ("0.0.0.0/0", &["0.0.0.0", "255.255.255.255", "::ffff:1.2.3.4"], &["::", "2001:db8::1"]),
        (
            "::/0",
            &["::", "::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
            &["1.2.3.4", "::ffff:1.2.3.4"],
        ),
        (
            "2001:db8::/33",
            &["2001:db8::", "2001:db8:7fff:ffff:ffff:ffff:ffff:ffff"],
            &["2001:db8:8000::", "2001:db7:ffff::"],
        ),
        ("2001:db8::7", &["2001:db8::7"], &["2001:db8::6", "2001:db8::8"]),
        ("::ffff:10.0.0.0/104", &["10.9.8.7", "::ffff:10.9.8.7"], &["11.0.0.0", "::"]),
    ] {
        let network = network(text).unwrap();
        let has = |address: &&str| network.contains(address.parse::<IpAddr>().unwrap());
        assert!(within.iter().all(has), "{text}");
        assert!(!beside.iter().any(has), "{text}");
    }
}

/// The forwarding fields that go on where `lines` came from a trusted proxy at 127.0.0.1.
#[track_caller]
fn told(lines: &str, prefix: Option<&str>, element: bool) -> Vec<String> {
    let bytes = format!("GET /lamp/x HTTP/1.1\r\nHost: gw.example:8080\r\n{lines}\r\n");
    let head = asked(&bytes);
    let said = ProxyClaims::read(&head.fields);
    let remote_ip = Some("::ffff:127.0.0.1".parse::<IpAddr>().unwrap());
    let forwarded = Some(Forwarded {
        remote_ip,
        proto: "http",
        host: "gw.example:8080",
        claims: Some(&said),
        element,
    });
    let rules = RequestRules {
        target: "/x",
        host: "x",
        prefix,
        forwarded,
        via: None,
        keep_underscore: false,
        drop_authorization: false,
        upgrade: false,
        request_id: None,
        edits: None,
        alias: None,
        own_cookie: None,
    };
    let mut out = Vec::new();
    request(&mut out, &head, Framing::Empty, &rules).unwrap();
    let text = String::from_utf8(out).unwrap();
    text.strip_suffix("\r\n\r\n")
        .expect("a whole head")
        .split("\r\n")
        .skip(2)
        .map(str::to_owned)
        .collect()
}

/// The value of one of them.
#[track_caller]
fn value(lines: &str, name: &str) -> Option<String> {
    let told = told(lines, None, false);
    let mut values = told.iter().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let value = values.next().map(str::to_owned);
    assert!(values.next().is_none(), "{told:?}");
    value
}

#[test]
fn a_chain_goes_on_in_one_line_with_the_proxys_own_address_behind_it() {
    let list = |n: usize| (1..=n).map(|i| format!("192.0.2.{i}")).collect::<Vec<_>>().join(", ");
    let (many, last) = (list(33), list(33).split_once(", ").unwrap().1.to_owned());
    for (came, expected) in [
        (&["203.0.113.7"][..], "203.0.113.7, 127.0.0.1"),
        (&["203.0.113.7,198.51.100.1"], "203.0.113.7, 198.51.100.1, 127.0.0.1"),
        (
            &["203.0.113.7", " 198.51.100.1 ,, 2001:DB8::1\t"],
            "203.0.113.7, 198.51.100.1, 2001:db8::1, 127.0.0.1",
        ),
        (&["unknown, Unknown, 203.0.113.7"], "unknown, unknown, 203.0.113.7, 127.0.0.1"),
        (
            &["203.0.113.7:1234, [2001:db8::1]:80, [2001:db8::2]"],
            "203.0.113.7, 2001:db8::1, 2001:db8::2, 127.0.0.1",
        ),
        (&["::ffff:203.0.113.7, [::ffff:203.0.113.8]"], "203.0.113.7, 203.0.113.8, 127.0.0.1"),
        // What stands before a member that is not understood was vouched for by nobody.
        (&["10.0.0.1, evil\" <b>, 203.0.113.7"], "203.0.113.7, 127.0.0.1"),
        (&["10.0.0.1", "10.0.0.999", "203.0.113.7"], "203.0.113.7, 127.0.0.1"),
        (&["\"10.0.0.1, 203.0.113.7"], "203.0.113.7, 127.0.0.1"),
        (&["10.0.0.1, \"203.0.113.7\""], "127.0.0.1"),
        (&["10.0.0.1 10.0.0.2"], "127.0.0.1"),
        (&["203.0.113.7:"], "127.0.0.1"),
        (&["203.0.113.7:99999"], "127.0.0.1"),
        (&["2001:db8::1:x"], "127.0.0.1"),
        (&["[203.0.113.7]"], "127.0.0.1"),
        (&["_hidden"], "127.0.0.1"),
        (&["203.0.113.7\u{e9}"], "127.0.0.1"),
        (&[""], "127.0.0.1"),
        (&[], "127.0.0.1"),
        (&[&many], &format!("{last}, 127.0.0.1")),
    ] {
        let lines: String =
            came.iter().map(|line| format!("X-Forwarded-For: {line}\r\n")).collect();
        assert_eq!(value(&lines, "X-Forwarded-For").as_deref(), Some(expected), "{came:?}");
    }
}

#[test]
fn one_valid_value_is_kept_and_any_other_is_set() {
    for (lines, name, expected) in [
        ("X-Forwarded-Proto: https\r\n", "X-Forwarded-Proto", Some("https")),
        ("x-forwarded-proto: HTTPS\r\n", "X-Forwarded-Proto", Some("https")),
        ("X-Forwarded-Proto: wss\r\n", "X-Forwarded-Proto", Some("wss")),
        ("X-Forwarded-Proto: https, http\r\n", "X-Forwarded-Proto", Some("http")),
        (
            "X-Forwarded-Proto: https\r\nX-Forwarded-Proto: https\r\n",
            "X-Forwarded-Proto",
            Some("http"),
        ),
        ("X-Forwarded-Proto: https://\r\n", "X-Forwarded-Proto", Some("http")),
        ("X-Forwarded-Proto: 1https\r\n", "X-Forwarded-Proto", Some("http")),
        ("X-Forwarded-Proto: abcdefghijklmnopq\r\n", "X-Forwarded-Proto", Some("http")),
        ("X-Forwarded-Proto:\r\n", "X-Forwarded-Proto", Some("http")),
        ("X-Forwarded-Host: Shop.example:443\r\n", "X-Forwarded-Host", Some("Shop.example:443")),
        ("X-Forwarded-Host: [2001:db8::1]\r\n", "X-Forwarded-Host", Some("[2001:db8::1]")),
        ("X-Forwarded-Host: a, b\r\n", "X-Forwarded-Host", Some("gw.example:8080")),
        ("X-Forwarded-Host: u@a\r\n", "X-Forwarded-Host", Some("gw.example:8080")),
        ("X-Forwarded-Host: a/b\r\n", "X-Forwarded-Host", Some("gw.example:8080")),
        ("X-Forwarded-Host:\r\n", "X-Forwarded-Host", Some("gw.example:8080")),
        (
            "X-Forwarded-Host: a\r\nX-Forwarded-Host: b\r\n",
            "X-Forwarded-Host",
            Some("gw.example:8080"),
        ),
        ("X-Forwarded-Port: 443\r\n", "X-Forwarded-Port", Some("443")),
        ("X-Forwarded-Port: 0\r\n", "X-Forwarded-Port", None),
        ("X-Forwarded-Port: +443\r\n", "X-Forwarded-Port", None),
        ("X-Forwarded-Port: 65536\r\n", "X-Forwarded-Port", None),
        ("X-Forwarded-Port: 80, 443\r\n", "X-Forwarded-Port", None),
        ("", "X-Forwarded-Port", None),
        ("X-Forwarded-Server: evil\r\n", "X-Forwarded-Server", None),
        ("X-Forwarded-Proto-: x\r\n", "X-Forwarded-Proto-", None),
    ] {
        assert_eq!(value(lines, name).as_deref(), expected, "{lines:?}");
    }
}

#[test]
fn an_outer_prefix_stands_before_ours() {
    for (came, ours, expected) in [
        ("/outer", Some("/lamp"), Some("/outer/lamp")),
        ("/outer/", Some("/lamp"), Some("/outer/lamp")),
        ("/a/b~c;d=e/%2F", Some("/lamp"), Some("/a/b~c;d=e/%2F/lamp")),
        ("/outer", None, Some("/outer")),
        ("/", Some("/lamp"), Some("/lamp")),
        ("/", None, None),
        ("outer", Some("/lamp"), Some("/lamp")),
        ("//evil.example", Some("/lamp"), Some("/lamp")),
        ("/a//b", Some("/lamp"), Some("/lamp")),
        ("/../a", None, None),
        ("/%2e%2e/a", None, None),
        ("/a, /b", None, None),
        ("/a,/b", None, None),
        ("/a?b", None, None),
        ("/a#b", None, None),
        ("/a\\b", None, None),
        ("/\"><script>", None, None),
        ("https://evil.example", None, None),
        ("", None, None),
    ] {
        let told = told(&format!("X-Forwarded-Prefix: {came}\r\n"), ours, false);
        let values: Vec<&str> =
            told.iter().filter_map(|line| line.strip_prefix("X-Forwarded-Prefix: ")).collect();
        assert_eq!(values, expected.into_iter().collect::<Vec<_>>(), "{came}");
    }
    assert_eq!(
        value("X-Forwarded-Prefix: /a\r\nX-Forwarded-Prefix: /b\r\n", "X-Forwarded-Prefix"),
        None
    );
}

#[test]
fn elements_are_written_anew_as_they_were_understood() {
    let many: String = (1..=33).map(|i| format!("for=192.0.2.{i},")).collect();
    let last = (2..=33).map(|i| format!("for=192.0.2.{i}")).collect::<Vec<_>>().join(", ");
    for (came, expected) in [
        (&["for=192.0.2.43"][..], Some("for=192.0.2.43")),
        (
            &["For=\"192.0.2.43\";PROTO=HTTPS;by=203.0.113.43;Host=a.example"],
            Some("for=192.0.2.43;proto=https;by=203.0.113.43;host=a.example"),
        ),
        (
            &["for=192.0.2.43, for=\"[2001:DB8:cafe::17]:4711\""],
            Some("for=192.0.2.43, for=\"[2001:db8:cafe::17]:4711\""),
        ),
        (
            &["for=192.0.2.43", "for=\"192.0.2.44:80\""],
            Some("for=192.0.2.43, for=\"192.0.2.44:80\""),
        ),
        (
            &["for=unknown;by=_gw.1-x", "for=\"_a:_b\";by=\"unknown:80\""],
            Some("for=unknown;by=_gw.1-x, for=\"_a:_b\";by=\"unknown:80\""),
        ),
        (&["for=Unknown;by=_gw.1-x"], Some("for=unknown;by=_gw.1-x")),
        (&["for=\"192.0.2.1:_port\""], Some("for=\"192.0.2.1:_port\"")),
        (
            &["for=192.0.2.43; proto=http ;host=\"a.example:80\" , for=unknown"],
            Some("for=192.0.2.43;proto=http;host=\"a.example:80\", for=unknown"),
        ),
        (&["host=a", ",,", "proto=http"], Some("host=a, proto=http")),
        (&[";for=192.0.2.1;"], Some("for=192.0.2.1")),
        (&["secret=\"a \\\"b\\\\ c\";x=tok"], Some("secret=\"a \\\"b\\\\ c\";x=tok")),
        (&["x=\"\\t\\o\\k\""], Some("x=tok")),
        (&["x=\"\""], Some("x=\"\"")),
        (&[""], None),
        (&[], None),
        (&[&many], Some(&last)),
    ] {
        let lines: String = came.iter().map(|line| format!("Forwarded: {line}\r\n")).collect();
        assert_eq!(value(&lines, "Forwarded").as_deref(), expected, "{came:?}");
    }
}

#[test]
fn a_malformed_element_hides_itself_and_what_stands_before_it() {
    for malformed in [
        "for",
        "for=",
        "=x",
        "for = 192.0.2.1",
        "for=192.0.2.1:80",
        "for=[2001:db8::1]",
        "for=2001:db8::1",
        "for=\"2001:db8::1\"",
        "for=\"[2001:db8::1\"",
        "for=\"[192.0.2.1]\"",
        "for=192.0.2.999",
        "for=a.example",
        "for=\"192.0.2.1:0\"",
        "for=\"192.0.2.1:x\"",
        "for=\"192.0.2.1:_\"",
        "for=\"192.0.2.1\"x",
        "for=\"192.0.2.1",
        "for=\"192.0.2.1\\",
        "for=_",
        "for=192.0.2.1;for=192.0.2.2",
        "for=192.0.2.1 proto=http",
        "proto=\"a b\"",
        "host=\"a b\"",
        "host=\"u@a\"",
        "host=\"\"",
        "x=\"a\tb\"",
        "x=\"\u{e9}\"",
        "192.0.2.1",
        "f(r=x",
    ] {
        let line = |text: &str| format!("Forwarded: {text}\r\n");
        assert_eq!(
            value(&line(malformed), "Forwarded").as_deref(),
            Some("for=unknown"),
            "{malformed}"
        );
        assert_eq!(
            value(&line(&format!("for=192.0.2.1, {malformed}, for=192.0.2.2")), "Forwarded")
                .as_deref(),
            Some("for=unknown")
        );
        let lines = [line("for=192.0.2.1"), line(malformed), line("for=192.0.2.2")].concat();
        assert_eq!(
            value(&lines, "Forwarded").as_deref(),
            Some("for=unknown, for=192.0.2.2"),
            "{malformed}"
        );
    }
}

#[test]
fn our_own_element_names_the_client_the_host_and_the_scheme() {
    let own = |client: Option<&str>, host: &str, said: Option<&ProxyClaims<'_>>| {
        let remote_ip = client.map(|text| text.parse::<IpAddr>().unwrap());
        let forwarded =
            Some(Forwarded { remote_ip, proto: "http", host, claims: said, element: true });
        let rules = RequestRules {
            target: "/",
            host: "x",
            prefix: None,
            forwarded,
            via: None,
            keep_underscore: false,
            drop_authorization: false,
            upgrade: false,
            request_id: None,
            edits: None,
            alias: None,
            own_cookie: None,
        };
        let bytes = "GET / HTTP/1.1\r\nHost: x\r\nForwarded: for=6.6.6.6\r\n\r\n";
        let mut out = Vec::new();
        request(&mut out, &asked(bytes), Framing::Empty, &rules).unwrap();
        let text = String::from_utf8(out).unwrap();
        let values: Vec<String> = text
            .split("\r\n")
            .filter_map(|line| line.strip_prefix("Forwarded: "))
            .map(str::to_owned)
            .collect();
        values
    };
    for (peer, host, expected) in [
        (Some("192.0.2.7"), "a.example", "for=192.0.2.7;host=a.example;proto=http"),
        (
            Some("::ffff:192.0.2.7"),
            "a.example:80",
            "for=192.0.2.7;host=\"a.example:80\";proto=http",
        ),
        (Some("2001:db8::7"), "[::1]:80", "for=\"[2001:db8::7]\";host=\"[::1]:80\";proto=http"),
        (Some("2001:db8::7"), "", "for=\"[2001:db8::7]\";proto=http"),
        (None, "a", "for=unknown;host=a;proto=http"),
    ] {
        assert_eq!(
            own(peer, host, None),
            [expected],
            "an untrusted visitor's own field is replaced"
        );
    }
    let (some, none, wrong) = (
        "Forwarded: for=1.1.1.1;proto=https\r\n",
        "X-Forwarded-Proto: https\r\n",
        "Forwarded: for=\"\r\n",
    );
    for (lines, expected) in [
        (some, "for=1.1.1.1;proto=https, for=127.0.0.1;host=\"gw.example:8080\";proto=http"),
        (none, "for=127.0.0.1;host=\"gw.example:8080\";proto=http"),
        (wrong, "for=unknown, for=127.0.0.1;host=\"gw.example:8080\";proto=http"),
    ] {
        assert!(
            told(lines, None, true).contains(&format!("Forwarded: {expected}")),
            "{:?}",
            told(lines, None, true)
        );
    }
}

#[test]
fn all_of_it_in_order_and_nothing_else() {
    let lines = "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Ssl: on\r\nForwarded: for=203.0.113.7\r\nX-Forwarded-Prefix: /outer\r\n\
                 X-Forwarded-Host: shop.example\r\nX-Forwarded-Port: 443\r\nX-Forwarded-Proto: https\r\nX-Other: 1\r\n\
                 Connection: X-Forwarded-For, Forwarded\r\n";
    let expected = [
        "X-Other: 1",
        "X-Forwarded-For: 203.0.113.7, 127.0.0.1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: shop.example",
        "X-Forwarded-Port: 443",
        "X-Forwarded-Prefix: /outer/lamp",
        "Forwarded: for=203.0.113.7",
    ];
    assert_eq!(told(lines, Some("/lamp"), false), expected);
}

#[test]
fn a_scheme_is_known_where_it_is_https() {
    let scheme = |lines: &str| {
        ProxyClaims::read(&asked(&format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n")).fields)
            .scheme()
    };
    for (value, expected) in [
        ("https", Some("https")),
        ("HTTP", Some("http")),
        ("wss", Some("https")),
        ("ws", Some("http")),
        ("gopher", None),
        ("https,http", None),
    ] {
        assert_eq!(scheme(&format!("X-Forwarded-Proto: {value}\r\n")), expected, "{value}");
    }
    assert_eq!(scheme(""), None);
}

proptest! {
    /// Whatever a proxy passes on: what is written is understood by the next one, as the same.
    #[test]
    fn what_is_written_is_understood_as_it_was(
        lines in prop::collection::vec(prop::collection::vec(prop::sample::select(vec![
            "for", "=", "\"", "\\", ";", ",", " ", "\t", "[", "]", ":", "::1", "192.0.2.1", "unknown", "_x", "80", "proto=https", "host=a", "x", "\u{e9}",
            "for=192.0.2.1", "for=\"[::1]:80\"",
        ]), 0..8), 0..4)
    ) {
        for (name, own) in [("Forwarded", ""), ("X-Forwarded-For", ", 127.0.0.1")] {
            let field = |value: &str| format!("{name}: {value}\r\n");
            let came: String = lines.iter().map(|line| field(&line.concat())).collect();
            if let Some(written) = value(&came, name) {
                prop_assert!(written.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{written:?}");
                let again = value(&field(written.strip_suffix(own).unwrap_or_default()), name);
                prop_assert_eq!(again.as_deref(), Some(written.as_str()));
            }
        }
    }
}

#[test]
fn a_peer_without_an_address_passes_on_what_it_said_and_adds_none() {
    for (lines, expected) in [
        (
            "X-Forwarded-For: 192.0.2.1, 192.0.2.2\r\n",
            Some("X-Forwarded-For: 192.0.2.1, 192.0.2.2\r\n"),
        ),
        ("X-Forwarded-For: x\r\n", None),
        ("", None),
    ] {
        let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let head = asked(&bytes);
        let said = ProxyClaims::read(&head.fields);
        let forwarded =
            Forwarded { proto: "http", host: "a", claims: Some(&said), ..Forwarded::default() };
        let rules = RequestRules {
            drop_authorization: false,
            target: "/",
            host: "a",
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
        request(&mut out, &head, Framing::Empty, &rules).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.contains("X-Forwarded-For"), expected.is_some(), "{text}");
        assert!(expected.is_none_or(|line| text.contains(line)), "{text}");
    }
}
