//! Who is believed and where a request goes: `--trusted-proxies`, `--forwarded`, `--config` with
//! its table, and SIGHUP, from outside.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::local::routes;
use crate::support::process::{Process, get};
use crate::support::{
    Answer, DEADLINE, Gateway, Head, LocalServer, Ptth, RawPeer, TempDir, each_row, eventually,
    vector,
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

fn ask_host(host: &str, target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n")
}

/// The reason of a refusal, which its body and `Proxy-Status` have to tell alike.
#[track_caller]
fn reason(answer: &Answer, status: u16, error: &str) -> String {
    answer.expect_refusal(status);
    let reason = answer.text().trim_end().to_owned();
    let expected = format!("ptth; error={error}; details=\"{reason}\"");
    assert_eq!(answer.head.get("proxy-status"), Some(expected.as_str()), "{}", answer.head.text());
    reason
}

/// A file of routes that a test writes and changes.
struct Config {
    dir: TempDir,
}

impl Config {
    fn new(text: &str) -> Config {
        let config = Config { dir: TempDir::new("routes") };
        config.write(text);
        config
    }
    fn path(&self) -> PathBuf {
        self.dir.0.join("routes.toml")
    }
    fn write(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }
    #[track_caller]
    fn gateway(&self, more: &[&str]) -> Gateway {
        Gateway::start(&[&["--config", self.path().to_str().unwrap()], more].concat())
    }
    /// Writes another table and waits until `gateway` has read it, or has said why it does not.
    #[track_caller]
    fn reload(&self, gateway: &Gateway, text: &str) {
        self.write(text);
        hang_up(gateway);
    }
}

/// SIGHUP, and its line in the log.
#[track_caller]
fn hang_up(gateway: &Gateway) {
    let lines = || {
        let said = ["were read from", "the routes stay as they were", "nothing to read again"];
        gateway
            .process
            .stderr()
            .lines()
            .filter(|line| said.iter().any(|said| line.contains(said)))
            .count()
    };
    let before = lines();
    gateway.process.signal("HUP");
    eventually("the gateway says what became of SIGHUP", || (lines() > before).then_some(()));
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
    let gateway = Gateway { process, devices, visitors };
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

// ── The table ──

const TABLE: &str = r#"
# Comments and blank lines are TOML's.
[[route]]
host = "lamp.example"
device = "lamp"

[[route]]
host = "lamp.example"
path = "/desk"
device = "desk"

[[route]]
host = "*.devices.example"

[[route]]
path = "/api"
device = "lamp"

[[route]]
path = "/api/raw"
device = "desk"
strip = false

[[route]]
path = "/lamp"
device = "door"
"#;

#[test]
fn requests_go_where_the_table_says_and_then_where_the_other_routes_do() {
    let config = Config::new(TABLE);
    let gateway =
        config.gateway(&["--route", "path,host=other.example", "--wait-for-link", "50ms"]);
    let _devices = ["lamp", "desk", "door"].map(|name| {
        LocalServer::device(&gateway, name, 1, move |c| {
            let prefix = c.head.get("x-forwarded-prefix").unwrap_or("-").to_owned();
            let text = format!(
                "{name} {} {prefix} {}",
                c.head.target(),
                c.head.get("host").unwrap_or_default()
            );
            c.text(text);
        })
    });
    let mut ietf = gateway.dial();
    ietf.write("GET /.well-known/ptth/https%3A%2F%2Forigin.devices.example/ HTTP/1.1\r\nHost: gw\r\nConnection: upgrade\r\nUpgrade: ptth\r\nALPN: http%2F1.1\r\n\r\n");
    assert_eq!(ietf.read_head().status(), 101);
    let rows: &[(&str, &str, Result<&str, u16>)] = &[
        ("lamp.example", "/x?y", Ok("lamp /x?y -")),
        ("LAMP.example.:8080", "/api/x", Ok("lamp /api/x -")),
        ("lamp.example", "/desk/x", Ok("desk /x /desk")),
        ("lamp.example", "/desktop", Ok("lamp /desktop -")),
        ("desk.devices.example", "/api/x", Ok("desk /api/x -")),
        ("a.desk.devices.example", "/q/", Err(404)),
        ("nobody.devices.example", "/q", Err(404)),
        ("any.example", "/api", Ok("lamp / /api")),
        ("any.example", "/api?q", Ok("lamp /?q /api")),
        ("any.example", "/api/", Ok("lamp / /api")),
        ("any.example", "/api/x//y", Ok("lamp /x//y /api")),
        ("any.example", "/api/raw/x", Ok("desk /api/raw/x -")),
        ("any.example", "/api/rawer", Ok("lamp /rawer /api")),
        ("any.example", "/apix/", Err(404)),
        ("any.example", "/%61pi/x", Err(400)),
        ("any.example", "/api%2Fx", Err(400)),
        ("any.example", "/api/../x", Err(400)),
        ("desk.other.example", "/x", Ok("desk /x -")),
        ("desk.other.example", "/api/x", Ok("lamp /x /api")), // the table stands before suffixes
        ("any.example", "/lamp/x", Ok("door /x /lamp")),      // and before paths
        ("any.example", "/desk/x", Ok("desk /x /desk")),
        ("any.example", "/", Err(404)),
    ];
    each_row(
        rows,
        |row| format!("{}{}", row.0, row.1),
        |(host, target, expected)| {
            let answer = gateway.visitor().ask(&ask_host(host, target, ""));
            match expected {
                Ok(text) => answer.expect_ok(format!("{text} {host}")),
                Err(status) => answer.expect_refusal(*status),
            }
        },
    );
    // Origins stand before everything.
    let mut visitor = gateway.visitor();
    visitor.write(ask_host("origin.devices.example", "/api/x", ""));
    assert_eq!(ietf.read_head().target(), "/api/x");
    ietf.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
}

#[test]
fn the_table_can_be_all_there_is() {
    let config = Config::new("[[route]]\npath = \"/api\"\ndevice = \"lamp\"\n");
    let gateway = config.gateway(&["--route", "none"]);
    let _device = LocalServer::device(&gateway, "lamp", 1, routes);
    gateway.get("/api/x").expect_ok("hello\n");
    let answer = gateway.get("/lamp/x");
    assert_eq!(reason(&answer, 404, "destination_not_found"), "no route has this host and path");
    config.reload(&gateway, "");
    gateway.get("/api/x").expect_refusal(404);
}

#[test]
fn a_device_that_a_route_names_is_known_before_it_was_ever_there() {
    let config = Config::new(
        "[[route]]\nhost = \"lamp.example\"\ndevice = \"lamp\"\n[[route]]\nhost = \"*.devices.example\"\n",
    );
    let gateway = config.gateway(&["--wait-for-link", "300ms"]);
    for (host, target) in
        [("lamp.example", "/x"), ("lamp.devices.example", "/x"), ("any.example", "/lamp/x")]
    {
        let then = Instant::now();
        let answer = gateway.visitor().ask(&ask_host(host, target, ""));
        let reason = reason(&answer, 503, "destination_unavailable");
        assert!(then.elapsed() >= Duration::from_millis(250), "{host}: it did not wait");
        assert_eq!(
            reason,
            "device lamp is not connected, and was not lately; it did not come within 0.3 s (wait_for_link)"
        );
        assert_eq!(answer.head.get("retry-after"), Some("1"));
    }
    // A label that a visitor made up is not.
    gateway.visitor().ask(&ask_host("desk.devices.example", "/x", "")).expect_refusal(404);
    // Whoever waits gets the link that comes.
    let config = Config::new(
        "[[route]]\nhost = \"lamp.example\"\ndevice = \"lamp\"\nwait_for_link = \"9s\"\n",
    );
    let gateway = config.gateway(&["--wait-for-link", "1ms"]);
    let mut visitor = gateway.visitor();
    visitor.write(ask_host("lamp.example", "/x", ""));
    visitor.expect_quiet(Duration::from_millis(100));
    let _device = LocalServer::device(&gateway, "lamp", 1, routes);
    visitor.read_answer("GET").expect_ok("hello\n");
}

#[test]
fn a_route_has_its_own_waits_and_errors_say_so() {
    let config = Config::new(
        "[[route]]\npath = \"/slow\"\ndevice = \"lamp\"\nfirst_byte = \"200ms\"\nbody_silence = \"150ms\"\nwait_for_link = \"100ms\"\n\
         [[route]]\npath = \"/usual\"\ndevice = \"lamp\"\n",
    );
    let gateway = config.gateway(&["--first-byte", "1h", "--wait-for-link", "1h"]);
    let answer = gateway.get("/slow/x");
    let text = reason(&answer, 503, "destination_unavailable");
    assert_eq!(
        text,
        "device lamp is not connected, and was not lately; it did not come within 0.1 s (wait_for_link of its route)"
    );

    let mut device = gateway.link("lamp");
    let mut usual = gateway.visitor();
    usual.write(get("/usual/x"));
    device.read_head();
    let answer = gateway.get("/slow/x");
    let text = reason(&answer, 503, "connection_limit_reached");
    assert_eq!(
        text,
        "all 1 links of device lamp stayed busy for 0.1 s (wait_for_link of its route); let it dial more links or ask later"
    );
    usual.expect_quiet(Duration::from_millis(300)); // longer than any wait of the other route
    device.write(vector("draft-4-response"));
    usual.read_answer("GET").expect_ok("Good");

    let mut visitor = gateway.visitor();
    visitor.write(get("/slow/x"));
    device.read_head();
    let text = reason(&visitor.read_answer("GET"), 504, "http_response_timeout");
    assert_eq!(
        text,
        "the device did not begin its response within 0.2 s (first_byte of its route)"
    );
    device.expect_closed();

    let _device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write("POST /slow/x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf");
    let text = reason(&visitor.read_answer("POST"), 408, "http_request_error");
    assert_eq!(
        text,
        "nothing of the request's body arrived for 0.15 s (body_silence of its route)"
    );
}

#[test]
fn a_route_has_its_own_time_for_the_whole_exchange() {
    let config = Config::new(
        "[[route]]\npath = \"/short\"\ndevice = \"lamp\"\nexchange = \"200ms\"\n\
         [[route]]\npath = \"/free\"\ndevice = \"lamp\"\nexchange = \"0s\"\n\
         [[route]]\npath = \"/usual\"\ndevice = \"lamp\"\n",
    );
    let gateway = config.gateway(&["--exchange", "300ms"]);
    for (target, text) in [
        ("/short/x", "the exchange was not over within 0.2 s (exchange of its route)"),
        ("/usual/x", "the exchange was not over within 0.3 s (exchange_timeout)"),
    ] {
        let mut device = gateway.link("lamp");
        let mut visitor = gateway.visitor();
        visitor.write(get(target));
        device.read_head();
        assert_eq!(reason(&visitor.read_answer("GET"), 504, "http_response_timeout"), text);
        device.expect_closed();
    }
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/free/x"));
    device.read_head();
    visitor.expect_quiet(Duration::from_millis(600)); // twice what any other may take
    device.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
}

#[test]
fn a_polling_device_is_waited_for_as_its_route_says() {
    let config = Config::new(
        "[[route]]\npath = \"/slow\"\ndevice = \"lamp\"\nfirst_byte = \"200ms\"\nbody_silence = \"150ms\"\n",
    );
    let gateway = config.gateway(&["--first-byte", "1h", "--poll-hold", "1h"]);
    let mut device = gateway.dial();
    device.write(
        "POST /lamp HTTP/1.1\r\nHost: gw\r\nAccept: message/http\r\nContent-Length: 0\r\n\r\n",
    );
    eventually("the poll is held", || gateway.process.stderr().contains("lamp: up").then_some(()));
    let mut visitor = gateway.visitor();
    visitor.write("POST /slow/x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf");
    let answer = visitor.read_answer("POST");
    answer.expect_refusal(408);
    assert!(answer.text().contains("0.15 s (body_silence of its route)"), "{}", answer.text());
    let mut visitor = gateway.visitor();
    visitor.write(get("/slow/x"));
    assert_eq!(device.read_head().status(), 200);
    let text = reason(&visitor.read_answer("GET"), 504, "http_response_timeout");
    assert_eq!(
        text,
        "the device took the request and did not answer it within 0.2 s (first_byte of its route)"
    );
}

#[test]
fn a_route_lets_so_many_requests_in_and_no_more() {
    let config = Config::new(
        "[[route]]\npath = \"/few\"\ndevice = \"lamp\"\nin_flight = 2\nwait_for_link = \"9s\"\n[[route]]\npath = \"/many\"\ndevice = \"lamp\"\n",
    );
    let gateway = config.gateway(&[]);
    let mut links = [gateway.link("lamp")];
    let mut inside = [gateway.visitor(), gateway.visitor()];
    inside[0].write(get("/few/0"));
    assert_eq!(links[0].read_head().target(), "/0");
    inside[1].write(get("/few/1")); // it waits for the link, and counts
    inside[1].expect_quiet(Duration::from_millis(100));
    let mut outside = gateway.visitor();
    for target in ["/few/2", "/few", "/few/3"] {
        let answer = outside.ask(&get(target));
        assert_eq!(
            reason(&answer, 503, "connection_limit_reached"),
            "as many requests of route /few are in flight as its in_flight allows: 2"
        );
        assert_eq!(
            (answer.head.get("retry-after"), answer.head.closes()),
            (Some("1"), false),
            "{}",
            answer.head.text()
        );
    }
    // A body that nobody reads is never the next request.
    let mut posted = gateway.visitor();
    posted.write("POST /few/x HTTP/1.1\r\nHost: a\r\nContent-Length: 26\r\n\r\nGET /few/never HTTP/1.1\r\n\r\n");
    posted.read_answer("POST").expect_refusal(503);
    posted.expect_closed();
    // Another route of the same device goes on.
    let mut other = gateway.visitor();
    other.write(get("/many/x"));
    for (visitor, target) in inside.iter_mut().zip(["/1", "/x"]) {
        links[0].write(vector("draft-4-response"));
        visitor.read_answer("GET").expect_ok("Good");
        assert_eq!(links[0].read_head().target(), target);
    }
    links[0].write(vector("draft-4-response"));
    other.read_answer("GET").expect_ok("Good");
    // What is over counts no longer, whichever way it ended: answered, cut by the device, left by
    // the visitor.
    for _ in 0..3 {
        outside.write(get("/few/x"));
        links[0].read_head();
        links[0].write(vector("draft-4-response"));
        outside.read_answer("GET").expect_ok("Good");
    }
    drop(links);
    for _ in 0..3 {
        let mut link = gateway.link("lamp");
        outside.write("PATCH /few/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        link.read_head();
        drop(link);
        outside.read_answer("PATCH").expect_refusal(502);
        let mut link = gateway.link("lamp");
        let mut gone = gateway.visitor();
        gone.write("POST /few/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nha");
        link.read_head();
        gone.reset();
        link.read_exact(2);
        link.expect_closed();
    }
    let _device = LocalServer::device(&gateway, "lamp", 1, routes);
    outside.ask(&get("/few/x")).expect_ok("hello\n");
}

#[test]
fn a_tunnel_is_in_flight_until_it_ends_and_a_reload_does_not_touch_it() {
    let text =
        "[[route]]\npath = \"/ws\"\ndevice = \"lamp\"\nin_flight = 1\nfirst_byte = \"100ms\"\n";
    let config = Config::new(text);
    let gateway = config.gateway(&[]);
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(
        "GET /ws/chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert_eq!(device.read_head().target(), "/chat");
    device.write(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert_eq!(visitor.read_head().status(), 101);
    gateway.get("/ws/x").expect_refusal(503);
    config.reload(&gateway, &text.replace("lamp", "desk"));
    gateway.get("/ws/x").expect_refusal(503);
    visitor.expect_quiet(Duration::from_millis(200)); // longer than the route's first_byte
    visitor.write("ping");
    assert_eq!(device.read_exact(4), b"ping");
    drop((visitor, device));
    let _desk = LocalServer::device(&gateway, "desk", 1, routes);
    eventually("the tunnel's place is free", || {
        (gateway.get("/ws/x").status() == 200).then_some(())
    });
}

#[test]
fn a_hundred_routes_each_lead_to_their_device() {
    let text: String = (0..100)
        .map(|n| {
            let key = if n % 2 == 0 {
                format!("path = \"/p/{n}\"")
            } else {
                format!("host = \"h{n}.example\"\npath = \"/p\"")
            };
            format!("[[route]]\n{key}\ndevice = \"device-{n}\"\n\n")
        })
        .collect();
    let config = Config::new(&text);
    let gateway = config.gateway(&["--route", "none"]);
    let _devices: Vec<LocalServer> = (0..100)
        .map(|n| {
            LocalServer::device(&gateway, &format!("device-{n}"), 1, move |c| {
                let target = c.head.target().to_owned();
                c.text(format!("{n} {target}"));
            })
        })
        .collect();
    let mut visitor = gateway.visitor();
    for n in 0..100 {
        let request = match n % 2 {
            0 => get(&format!("/p/{n}/x")),
            _ => ask_host(&format!("h{n}.example"), "/p/x", ""),
        };
        visitor.ask(&request).expect_ok(format!("{n} /x"));
    }
    visitor.ask(&get("/p/100/x")).expect_refusal(404);
}

// ── The file ──

#[test]
fn a_mistake_is_told_with_its_line_and_what_is_right() {
    // The file, the line of its mistake, and words that the message has to have.
    let rows: &[(&str, usize, &[&str])] = &[
        ("[[route]\n", 1, &[]),
        ("\n\nroute = [\n", 3, &[]),
        ("[[route]]\nhost = lamp\n", 2, &[]),
        ("[[route]]\nhost = \"a.example\"\nhost = \"b.example\"\n", 3, &["duplicate"]),
        (
            "[[route]]\nhost = \"a.example\"\ndevice = \"lamp\"\nhots = \"b\"\n",
            4,
            &["hots", "host, path, device"],
        ),
        ("# one\n[[routes]]\nhost = \"a.example\"\n", 2, &["routes", "[[route]]"]),
        ("listen = \"127.0.0.1:80\"\n", 1, &["listen", "[[route]]"]),
        ("[route]\nhost = \"a.example\"\n", 1, &["two brackets"]),
        ("route = [1]\n", 1, &["[[route]]"]),
        (
            "[[route]]\nhost = \"a.example:80\"\ndevice = \"lamp\"\n",
            2,
            &["a.example:80", "lamp.example"],
        ),
        ("[[route]]\nhost = \"*\"\ndevice = \"lamp\"\n", 2, &["*.devices.example"]),
        ("[[route]]\nhost = 5\n", 2, &["host", "quotes"]),
        ("[[route]]\n\npath = \"api\"\n", 3, &["api", "begins with /"]),
        ("[[route]]\npath = \"/a/../b\"\n", 2, &["/a/../b"]),
        ("[[route]]\npath = \"/api\"\ndevice = \"Lamp\"\n", 3, &["Lamp", "lower case"]),
        (
            "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nstrip = \"no\"\n",
            4,
            &["strip", "true or false"],
        ),
        (
            "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nfirst_byte = 120\n",
            4,
            &["first_byte", "\"10s\""],
        ),
        (
            "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nfirst_byte = \"120\"\n",
            4,
            &["first_byte", "unit"],
        ),
        (
            "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nfirst_byte = \"0s\"\n",
            4,
            &["first_byte", "greater than zero"],
        ),
        (
            "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nbody_silence = \"0ms\"\n",
            4,
            &["body_silence", "greater than zero"],
        ),
        (
            "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nwait_for_link = \"soon\"\n",
            4,
            &["wait_for_link", "whole number"],
        ),
        ("[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nin_flight = 0\n", 4, &["in_flight", "1"]),
        (
            "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nin_flight = -1\n",
            4,
            &["in_flight", "whole number"],
        ),
        (
            "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nin_flight = 1.5\n",
            4,
            &["in_flight", "whole number"],
        ),
        (
            "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nin_flight = 99999999999999999999\n",
            4,
            &["in_flight", "whole number"],
        ),
        ("# a\n[[route]]\ndevice = \"lamp\"\n", 2, &["a host, a path, or both"]),
        (
            "# a\n# b\n[[route]]\nhost = \"a.example\"\n",
            3,
            &["a.example names no device", "*.devices.example"],
        ),
        (
            "[[route]]\nhost = \"a.example\"\npath = \"/x\"\ndevice = \"lamp\"\n\n[[route]]\ndevice = \"desk\"\npath = \"/x/\"\nhost = \"A.example\"\n",
            6,
            &["another route a.example/x"],
        ),
    ];
    each_row(
        rows,
        |row| row.0.replace('\n', " | "),
        |(text, line, words)| {
            let config = Config::new(text);
            let file = config.path().to_str().unwrap().to_owned();
            let (code, out, err) = Ptth::run(&[
                "gateway",
                "--devices",
                "127.0.0.1:0",
                "--visitors",
                "127.0.0.1:0",
                "--config",
                &file,
            ]);
            assert_eq!((code, out.as_str()), (2, ""), "{err}");
            assert!(err.contains(&format!("{file}, line {line}, column ")), "{err}");
            assert!(
                words.iter().all(|word| err.contains(word)) && !err.contains("panicked"),
                "{words:?}: {err}"
            );
            assert_eq!(err.trim_end().lines().count(), 1, "one line says it: {err}");
        },
    );
}

#[test]
fn a_file_that_is_not_there_is_wrong_usage_and_an_empty_one_has_no_routes() {
    let (code, _, err) = Ptth::run(&[
        "gateway",
        "--devices",
        "127.0.0.1:0",
        "--visitors",
        "127.0.0.1:0",
        "--config",
        "/nowhere/routes.toml",
    ]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("/nowhere/routes.toml"), "{err}");
    let config = Config::new("");
    std::fs::write(config.path(), b"# \xff\n").unwrap();
    let (code, _, err) = Ptth::run(&["gateway", "--config", config.path().to_str().unwrap()]);
    assert_eq!(code, 2, "{err}");
    config.write("");
    let gateway = config.gateway(&[]);
    let _device = LocalServer::device(&gateway, "lamp", 1, routes);
    gateway.get("/lamp/x").expect_ok("hello\n");
}

// ── SIGHUP ──

#[test]
fn a_reload_touches_no_connection_and_what_is_in_flight_keeps_its_route() {
    let one = "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\nfirst_byte = \"9s\"\nin_flight = 1\n";
    let other = "[[route]]\npath = \"/api\"\ndevice = \"desk\"\nfirst_byte = \"50ms\"\nin_flight = 2\n[[route]]\npath = \"/new\"\ndevice = \"lamp\"\n";
    let config = Config::new(one);
    let gateway = config.gateway(&["--route", "none"]);
    let (mut lamp, mut desk) = (gateway.link("lamp"), gateway.link("desk"));
    let (mut kept, mut busy) = (gateway.visitor(), gateway.visitor());
    kept.write(get("/api/before"));
    assert_eq!(lamp.read_head().target(), "/before");
    lamp.write(vector("draft-4-response"));
    kept.read_answer("GET").expect_ok("Good");
    busy.write(get("/api/during"));
    assert_eq!(lamp.read_head().target(), "/during");

    config.reload(&gateway, other);
    gateway.process.expect_stderr("2 routes were read from");
    // The kept connection finds the new table: another device, a shorter wait, and a bound of two
    // of which one is taken.
    kept.write(get("/api/after"));
    assert_eq!(desk.read_head().target(), "/after");
    gateway.get("/api/third").expect_refusal(503);
    let text = reason(&kept.read_answer("GET"), 504, "http_response_timeout");
    assert!(text.ends_with("0.05 s (first_byte of its route)"), "{text}");
    // What was in flight keeps its device and its patience, long after the new route's would be
    // over.
    busy.expect_quiet(Duration::from_millis(200));
    lamp.write(vector("draft-4-response"));
    busy.read_answer("GET").expect_ok("Good");
    for visitor in [&mut kept, &mut busy] {
        visitor.write(get("/new/x"));
        assert_eq!(lamp.read_head().target(), "/x");
        lamp.write(vector("draft-4-response"));
        visitor.read_answer("GET").expect_ok("Good");
    }
}

#[test]
fn a_broken_file_on_reload_leaves_the_routes_as_they_were() {
    let right = "[[route]]\npath = \"/api\"\ndevice = \"lamp\"\n";
    let config = Config::new(right);
    let mut gateway = config.gateway(&["--route", "none"]);
    let _device = LocalServer::device(&gateway, "lamp", 1, routes);
    let mut visitor = gateway.visitor();
    let file = config.path().display().to_string();
    for (text, line) in [
        ("[[route]]\npath = \"/other\"\ndevise = \"lamp\"\n", 3),
        ("[[route]]\npath = \"/api\"\ndevice = \"lamp", 3),
    ] {
        config.reload(&gateway, text);
        gateway.process.expect_stderr(&format!("{file}, line {line}, column "));
        visitor.ask(&get("/api/x")).expect_ok("hello\n");
        visitor.ask(&get("/other/x")).expect_refusal(404);
    }
    std::fs::remove_file(config.path()).unwrap();
    hang_up(&gateway);
    visitor.ask(&get("/api/x")).expect_ok("hello\n");
    config.reload(&gateway, &right.replace("api", "other"));
    visitor.ask(&get("/other/x")).expect_ok("hello\n");
    visitor.ask(&get("/api/x")).expect_refusal(404);
    assert!(!gateway.process.has_ended());
}

#[test]
fn sighup_ends_no_gateway_neither_without_a_file_nor_while_it_stops() {
    let mut gateway = Gateway::start(&["--drain-timeout", "60s"]);
    hang_up(&gateway);
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/slow"));
    link.read_head();
    gateway.process.signal("TERM");
    gateway.process.expect_stderr("stopping");
    for _ in 0..3 {
        gateway.process.signal("HUP");
    }
    visitor.expect_quiet(Duration::from_millis(100));
    link.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
    drop(link);
    assert_eq!(
        gateway.process.exit_code_within(Duration::from_secs(5)),
        0,
        "{}",
        gateway.process.stderr()
    );
}
