//! Who is believed (`--trusted-proxies`, `--forwarded`).

use std::net::{Ipv4Addr, SocketAddr};

use super::ask_host;
use crate::support::local::routes;
use crate::support::process::Process;
use crate::support::{
    Answer, DEADLINE, Gateway, Head, LocalServer, Ptth, RawPeer, each_row, vector,
};

/// The head that the device saw, from an answer of `/echo`.
#[track_caller]
fn echoed(answer: &Answer) -> Head {
    assert_eq!(answer.status(), 200, "{}{}", answer.head.text(), answer.text());
    Head::split(&answer.body).0
}

/// A visitor whose address is 127.0.0.`last`.
#[track_caller]
fn visitor_from(gateway: &Gateway, last: u8) -> RawPeer {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)).into()).unwrap();
    socket.connect_timeout(&gateway.visitors.into(), DEADLINE).unwrap();
    RawPeer::adopt(socket.into(), &format!("visitor at 127.0.0.{last}"))
}

// ── Who is believed ──

const CLAIMS: &str = "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\nX-Forwarded-Port: 443\r\n\
                      X-Forwarded-Prefix: /outer\r\nForwarded: for=203.0.113.7\r\nX-Forwarded-Ssl: on\r\nX_Forwarded_For: 6.6.6.6\r\n";

/// X-Forwarded-For, -Proto, -Host, -Port, -Prefix, Forwarded.
type Told<'h> = [Option<&'h str>; 6];

#[track_caller]
fn told(head: &Head) -> Told<'_> {
    assert!(
        !head.text().to_lowercase().contains("x-forwarded-ssl") && !head.text().contains("6.6.6.6"),
        "{}",
        head.text()
    );
    [
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-prefix",
        "forwarded",
    ]
    .map(|n| head.get(n))
}

/// What the device is told of a visitor at 127.0.0.`last`, where nothing was said or nothing
/// believed.
fn own_word(last: u8) -> [String; 2] {
    [format!("127.0.0.{last}"), format!("for=127.0.0.{last};host=a.example;proto=http")]
}

#[test]
fn forwarding_fields_are_believed_from_trusted_proxies_alone() {
    // The option, and which of 127.0.0.1 and 127.0.0.2 it trusts.
    let rows: &[(&[&str], [bool; 2])] = &[
        (&[], [false, false]),
        (&["--trusted-proxies", "127.0.0.1"], [true, false]),
        (&["--trusted-proxies", "127.0.0.2/32"], [false, true]),
        (&["--trusted-proxies", "127.0.0.0/8"], [true, true]),
        (&["--trusted-proxies", "0.0.0.0/0"], [true, true]),
        (&["--trusted-proxies", "127.0.0.0/31,10.0.0.0/8"], [true, false]),
        (&["--trusted-proxies", "10.0.0.0/8,::/0,126.255.255.255,127.0.0.3"], [false, false]),
        (
            &["--trusted-proxies", "10.0.0.0/8", "--trusted-proxies", "::ffff:127.0.0.2"],
            [false, true],
        ),
    ];
    each_row(
        rows,
        |row| row.0.join(" "),
        |(options, trusted)| {
            let gateway = Gateway::start(options);
            let _device = LocalServer::device(&gateway, "lamp", 1, routes);
            for (last, trusted) in [(1, trusted[0]), (2, trusted[1])] {
                let mut visitor = visitor_from(&gateway, last);
                let head = echoed(&visitor.ask(&ask_host("a.example", "/lamp/echo", CLAIMS)));
                let [own, _] = own_word(last);
                let chain = format!("203.0.113.7, {own}");
                let expected = match trusted {
                    true => [
                        Some(&*chain),
                        Some("https"),
                        Some("shop.example"),
                        Some("443"),
                        Some("/outer/lamp"),
                        Some("for=203.0.113.7"),
                    ],
                    false => {
                        [Some(&*own), Some("http"), Some("a.example"), None, Some("/lamp"), None]
                    }
                };
                assert_eq!(told(&head), expected, "127.0.0.{last}: {}", head.text());
                assert_eq!(
                    head.get("host"),
                    Some("a.example"),
                    "Host is the one that was routed on"
                );
                // Where nothing is said there is nothing to believe, on the same connection.
                let head = echoed(&visitor.ask(&ask_host("a.example", "/lamp/echo", "")));
                assert_eq!(
                    told(&head),
                    [Some(&*own), Some("http"), Some("a.example"), None, Some("/lamp"), None]
                );
            }
        },
    );
}

#[test]
fn trusted_proxies_come_from_the_environment_too() {
    let mut command =
        Ptth::command(&["gateway", "--devices", "127.0.0.1:0", "--visitors", "127.0.0.1:0"]);
    command.envs([("PTTH_TRUSTED_PROXIES", "10.0.0.0/8,127.0.0.1"), ("PTTH_FORWARDED", "true")]);
    let process = Process::start(&mut command);
    let addr = |prefix: &str| -> SocketAddr {
        process.line().strip_prefix(prefix).unwrap().parse().unwrap()
    };
    let (devices, visitors) = (addr("devices http://"), addr("visitors http://"));
    let gateway = Gateway { process, devices, visitors, other: None };
    let _device = LocalServer::device(&gateway, "lamp", 1, routes);
    let head = echoed(&gateway.visitor().ask(&ask_host("a.example", "/lamp/echo", CLAIMS)));
    assert_eq!(head.get("x-forwarded-for"), Some("203.0.113.7, 127.0.0.1"));
    assert_eq!(
        head.get("forwarded"),
        Some("for=203.0.113.7, for=127.0.0.1;host=a.example;proto=http")
    );
}

#[test]
fn what_a_trusted_proxy_says_is_written_anew_and_malformed_is_kept_out() {
    let gateway = Gateway::start(&["--trusted-proxies", "127.0.0.1"]);
    let device = LocalServer::device(&gateway, "lamp", 1, routes);
    let own: Told = [Some("127.0.0.1"), Some("http"), Some("a.example"), None, Some("/lamp"), None];
    let with = |at: usize, value: &'static str| {
        let mut told = own;
        told[at] = Some(value);
        told
    };
    let rows: &[(&str, Told)] = &[
        (
            "X-Forwarded-For: 203.0.113.7\r\nx-forwarded-for: 198.51.100.2,[::1]:80",
            with(0, "203.0.113.7, 198.51.100.2, ::1, 127.0.0.1"),
        ),
        ("X-Forwarded-For: 10.0.0.1, <script>, 203.0.113.7", with(0, "203.0.113.7, 127.0.0.1")),
        ("X-Forwarded-For: \", 203.0.113.7", with(0, "203.0.113.7, 127.0.0.1")),
        ("X-Forwarded-For: 203.0.113.7, x", own),
        ("X-Forwarded-Proto: https, http", own),
        ("X-Forwarded-Proto: https\r\nX-Forwarded-Proto: https", own),
        ("X-Forwarded-Host: evil.example, shop.example", own),
        ("X-Forwarded-Host: evil.example/path", own),
        ("X-Forwarded-Port: 80x", own),
        ("X-Forwarded-Prefix: //evil.example", own),
        ("X-Forwarded-Prefix: /a/../b", own),
        ("X-Forwarded-Prefix: /outer/", with(4, "/outer/lamp")),
        ("Forwarded: For=\"203.0.113.7\" ; proto=HTTPS", with(5, "for=203.0.113.7;proto=https")),
        ("Forwarded: for=\", for=203.0.113.7", with(5, "for=unknown")),
        (
            "Connection: x-forwarded-for, forwarded\r\nX-Forwarded-For: 203.0.113.7",
            with(0, "203.0.113.7, 127.0.0.1"),
        ),
    ];
    each_row(
        rows,
        |row| row.0.replace("\r\n", " | "),
        |(lines, expected)| {
            let head = echoed(&gateway.visitor().ask(&ask_host(
                "a.example",
                "/lamp/echo",
                &format!("{lines}\r\n"),
            )));
            assert_eq!(told(&head), *expected, "{}", head.text());
        },
    );
    assert_eq!(device.count(), rows.len(), "malformed fields are no reason to refuse a request");
}

#[test]
fn the_chain_keeps_the_nearest_32_of_a_head_full_of_it() {
    let gateway = Gateway::start(&["--trusted-proxies", "127.0.0.1", "--forwarded"]);
    let _device = LocalServer::device(&gateway, "lamp", 1, routes);
    let chain: Vec<String> = (0..600).map(|n| format!("10.1.{}.{}", n / 200, n % 200)).collect();
    let fields = format!(
        "X-Forwarded-For: {}\r\nForwarded: for={}\r\n",
        chain.join(","),
        chain[..200].join(",for=")
    );
    let head = echoed(&gateway.visitor().ask(&ask_host("a.example", "/lamp/echo", &fields)));
    assert_eq!(
        head.get("x-forwarded-for").unwrap(),
        format!("{}, 127.0.0.1", chain[600 - 32..].join(", "))
    );
    assert_eq!(head.get("forwarded").unwrap().matches("for=").count(), 33);
}

#[test]
fn the_slash_that_is_added_stands_behind_the_proxys_prefix() {
    let gateway = Gateway::start(&["--trusted-proxies", "127.0.0.1"]);
    let _device = LocalServer::device(&gateway, "lamp", 1, routes);
    for (last, prefix, location) in [
        (1, "/outer", "/outer/lamp/?q"),
        (1, "//evil.example", "/lamp/?q"),
        (1, "https://evil.example", "/lamp/?q"),
        (2, "/outer", "/lamp/?q"),
    ] {
        let answer = visitor_from(&gateway, last).ask(&ask_host(
            "a",
            "/lamp?q",
            &format!("X-Forwarded-Prefix: {prefix}\r\n"),
        ));
        assert_eq!(
            (answer.status(), answer.head.get("location")),
            (308, Some(location)),
            "{prefix}"
        );
    }
}

#[test]
fn forwarded_is_written_where_it_is_asked_for() {
    for (options, trusted, element) in [
        (&[][..], false, false),
        (&["--forwarded"], false, true),
        (&["--trusted-proxies", "127.0.0.0/8"], true, false),
        (&["--forwarded", "--trusted-proxies", "127.0.0.0/8"], true, true),
    ] {
        let gateway = Gateway::start(options);
        let _device = LocalServer::device(&gateway, "lamp", 1, routes);
        let [_, own] = own_word(2);
        for (came, kept) in [
            ("", None),
            ("Forwarded: for=6.6.6.6;host=evil.example\r\n", Some("for=6.6.6.6;host=evil.example")),
            (
                "Forwarded: for=6.6.6.6\r\nForwarded: for=\"[::1]\"\r\n",
                Some("for=6.6.6.6, for=\"[::1]\""),
            ),
            ("Forwarded: nonsense\r\n", Some("for=unknown")),
        ] {
            let parts: Vec<&str> = [kept.filter(|_| trusted), element.then_some(own.as_str())]
                .into_iter()
                .flatten()
                .collect();
            let expected = (!parts.is_empty()).then(|| parts.join(", "));
            let head =
                echoed(&visitor_from(&gateway, 2).ask(&ask_host("a.example", "/lamp/echo", came)));
            assert_eq!(head.get("forwarded"), expected.as_deref(), "{options:?} {came:?}");
        }
        let head =
            echoed(&visitor_from(&gateway, 2).ask(&ask_host("a.example:8080", "/lamp/echo", "")));
        assert_eq!(
            head.get("forwarded"),
            element.then_some("for=127.0.0.2;host=\"a.example:8080\";proto=http")
        );
    }
}

#[test]
fn an_origin_is_compared_with_the_scheme_that_a_trusted_proxy_tells() {
    let gateway = Gateway::start(&["--trusted-proxies", "127.0.0.1"]);
    let register = |origin: &str| {
        let mut device = gateway.dial();
        device.write(format!(
            "GET /.well-known/ptth/{origin}/ HTTP/1.1\r\nHost: gw\r\nConnection: upgrade\r\nUpgrade: ptth\r\nALPN: http%2F1.1\r\n\r\n"
        ));
        assert_eq!(device.read_head().status(), 101);
        device
    };
    let names = [
        "http%3A%2F%2Fa.example",
        "https%3A%2F%2Fa.example",
        "https%3A%2F%2Fb.example",
        "https%3A%2F%2Fa.example%3A8443",
    ];
    let mut devices = names.map(register);
    let own = format!("b.example:{}", gateway.visitors.port());
    // The visitor, its Host, what it says of the scheme, and which device is reached.
    let rows: &[(u8, &str, &str, Option<usize>)] = &[
        (1, "a.example", "http", Some(0)),
        (1, "a.example", "https", Some(1)),
        (1, "a.example", "WSS", Some(1)),
        (1, "a.example:80", "http", Some(0)),
        (1, "a.example:443", "https", Some(1)),
        (1, "a.example:443", "http", None),
        (1, "a.example:80", "https", None),
        (1, "a.example:8443", "https", Some(3)),
        (1, "a.example:8443", "http", None),
        (1, "b.example", "https", Some(2)),
        (1, &own, "https", Some(2)),
        (1, &own, "http", None),
        (1, "b.example", "http", None),
        (1, "b.example", "gopher", Some(2)), // of no use: the host decides
        (1, "b.example", "http, https", Some(2)),
        (2, "b.example", "http", Some(2)), // not believed
        (2, "b.example:80", "https", Some(2)),
    ];
    each_row(
        rows,
        |row| format!("127.0.0.{} {} {}", row.0, row.1, row.2),
        |(last, host, scheme, expected)| {
            let mut visitor = visitor_from(&gateway, *last);
            visitor.write(ask_host(host, "/x/", &format!("X-Forwarded-Proto: {scheme}\r\n")));
            if let Some(device) = expected {
                assert_eq!(devices[*device].read_head().get("host"), Some(*host));
                devices[*device].write(vector("draft-4-response"));
                return visitor.read_answer("GET").expect_ok("Good");
            }
            visitor.read_answer("GET").expect_refusal(404);
        },
    );
}

#[test]
fn a_network_that_is_none_is_wrong_usage() {
    for (value, word) in [
        ("10.0.0.0/33", "10.0.0.0/33"),
        ("10.0.0.1/8", "write 10.0.0.0/8"),
        ("proxy.example", "proxy.example"),
        ("127.0.0.1,", "no address"),
        ("unix", "unix"),
    ] {
        let (code, out, err) = Ptth::run(&[
            "gateway",
            "--devices",
            "127.0.0.1:0",
            "--visitors",
            "127.0.0.1:0",
            "--trusted-proxies",
            value,
        ]);
        assert_eq!((code, out.as_str()), (2, ""), "{value}: {err}");
        assert!(err.contains(word) && err.contains("trusted proxies"), "{value}: {err}");
    }
}
