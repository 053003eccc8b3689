//! The command line's contract (design.md, "Command line"): ready lines, exit codes, help, errors
//! that say what to do, signals.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use crate::support::process::{Process, get};
use crate::support::raw::find;
use crate::support::{
    Gateway, LocalServer, Ptth, RawGateway, SWITCH, each_row, eventually, slack, vector,
};

const GATEWAY_OPTIONS: &[&str] = &[
    "--admin",
    "--admin-tokens",
    "--metrics-per-device",
    "--access-log",
    "--access-log-format",
    "--devices",
    "--visitors",
    "--route",
    "--rewrite-paths",
    "--sign-in",
    "--sign-in-key",
    "--rate",
    "--rate-per-token",
    "--burst",
    "--turn",
    "--dialect",
    "--missing-host",
    "--strict-connection",
    "--insecure-anyone-may-register",
    "--wait-for-link",
    "--first-byte",
    "--fallback",
    "--cors-origin",
    "--min-rate",
    "--half-close",
    "--heartbeat",
    "--heartbeat-timeout",
    "--poll-hold",
    "--head",
    "--idle-visitor",
    "--request-write",
    "--body-silence",
    "--exchange",
    "--tunnel-silence",
    "--in-flight",
    "--waiting",
    "--shared-names",
    "--fallback",
    "--cors-origin",
    "--drain-timeout",
    "--drain-notice",
    "--drain-to",
    "--health-path",
    "--keep-underscore",
    "--trusted-proxies",
    "--forwarded",
    "--via",
    "--config",
    "--tokens",
    "--visitor-tokens",
    "--peers",
    "--advertise",
    "--directory",
    "--peer-secret",
    "--peers-cert",
    "--peers-key",
    "--peers-client-ca",
    "--peers-ca",
    "--devices-allow",
    "--visitors-allow",
    "--loops",
    "--connections",
    "--connections-per-address",
    "--unauthenticated",
    "--log-format",
];
const DEVICE_OPTIONS: &[&str] = &[
    "--config",
    "--log-format",
    "--status",
    "--to",
    "--text",
    "--dir",
    "--links",
    "--dialect",
    "--silence",
    "--doubt-after",
    "--origin",
    "--host-header",
    "--map-origin",
    "--to-silence",
    "--strip-prefix",
    "--set-field",
    "--remove-field",
    "--set-response-field",
    "--remove-response-field",
    "--backoff",
    "--gateway",
    "--failover",
    "--proxy",
    "--max-retries",
    "--resolve-timeout",
    "--connect-timeout",
    "--proxy-timeout",
    "--first-byte",
];

#[test]
fn the_gateway_prints_one_ready_line_per_listener() {
    let process =
        Ptth::start(&["gateway", "--devices", "127.0.0.1:0", "--visitors", "127.0.0.1:0"]);
    let ports: Vec<u16> = ["devices http://127.0.0.1:", "visitors http://127.0.0.1:"]
        .map(|prefix| {
            let line = process.line();
            let port = line
                .strip_prefix(prefix)
                .unwrap_or_else(|| panic!("{line:?} where {prefix}PORT was expected"));
            port.parse().unwrap_or_else(|_| panic!("no port in {line:?}"))
        })
        .to_vec();
    assert!(ports.iter().all(|p| *p != 0) && ports[0] != ports[1], "{ports:?}");
    assert_eq!(process.line_within(Duration::from_millis(200)), None, "two listeners, two lines");
}

#[test]
fn help_names_every_option_and_exits_with_0() {
    let (code, out, _) = Ptth::run(&["--help"]);
    assert_eq!(code, 0);
    for word in ["gateway", "device", "token", "status", "health", "demo"] {
        assert!(out.contains(word), "{word} is not in:\n{out}");
    }
    for (command, options) in [("gateway", GATEWAY_OPTIONS), ("device", DEVICE_OPTIONS)] {
        let (code, out, _) = Ptth::run(&[command, "--help"]);
        assert_eq!(code, 0);
        for option in options {
            assert!(out.contains(option), "{option} is not in the help of {command}:\n{out}");
            let variable =
                format!("PTTH_{}", option.trim_start_matches('-').replace('-', "_").to_uppercase());
            assert!(out.contains(&variable), "{variable} is not in the help of {command}:\n{out}");
        }
    }
    for command in ["gateway", "device", "status", "health"] {
        // Every list of processes would show it.
        assert!(
            !Ptth::run(&[command, "--help"]).1.contains("token <TOKEN>")
                && !Ptth::run(&[command, "--help"]).1.contains("--token "),
            "{command} takes a secret as an argument"
        );
    }
}

/// Arguments, and a word that the message has to have.
type Usage = (Vec<&'static str>, &'static str);

fn wrong_usage_of_gateways() -> Vec<Usage> {
    let gateway = |more: &[&'static str]| {
        [&["gateway", "--devices", "127.0.0.1:0", "--visitors", "127.0.0.1:0"], more].concat()
    };
    vec![
        (vec![], "gateway"),
        (vec!["bogus"], "bogus"),
        (vec!["gateway", "--no-such-option"], "no-such-option"),
        (vec!["gateway", "--device", "127.0.0.1:0"], "--devices"),
        (vec!["gateway", "--devices", "nonsense"], "nonsense"),
        (vec!["gateway", "--devices", "127.0.0.1:70000"], "70000"),
        (
            vec!["gateway", "--devices", "127.0.0.1:18999", "--visitors", "127.0.0.1:18999"],
            "127.0.0.1:18999",
        ),
        (
            vec!["gateway", "--devices", "0.0.0.0:0", "--visitors", "127.0.0.1:0"],
            "--insecure-anyone-may-register",
        ),
        (
            vec!["gateway", "--devices", "[::]:0", "--visitors", "127.0.0.1:0"],
            "--insecure-anyone-may-register",
        ),
        (vec!["gateway", "--devices", "0.0.0.0:0", "--visitors", "127.0.0.1:0"], "--tokens"),
        (gateway(&["--route", "sideways"]), "sideways"),
        (gateway(&["--route", "host="]), "host"),
        (gateway(&["--route", "host=two words"]), "two words"),
        (gateway(&["--route", "none=x"]), "none"),
        (gateway(&["--trusted-proxies", "10.0.0.0/40"]), "10.0.0.0/40"),
        (gateway(&["--tokens", "/nowhere/at/all"]), "--tokens /nowhere/at/all"),
        (gateway(&["--visitor-tokens", "/nowhere/at/all"]), "--visitor-tokens /nowhere/at/all"),
        (gateway(&["--devices-allow", "10.0.0.0/40"]), "10.0.0.0/40"),
        (gateway(&["--visitors-allow", "10.0.0.1/8"]), "10.0.0.1/8"),
        (gateway(&["--connections", "0"]), "--connections"),
        (gateway(&["--connections-per-address", "many"]), "many"),
        (gateway(&["--unauthenticated", "0"]), "--unauthenticated"),
        (vec!["token"], "NAMES"),
        (vec!["token", "Lamp"], "Lamp"),
        (vec!["token", "lamp,"], "comma"),
        (gateway(&["--config", "/nowhere/at/all.toml"]), "/nowhere/at/all.toml"),
        (gateway(&["--turn", "never"]), "never"),
        (gateway(&["--fallback", "sideways"]), "sideways"),
        (gateway(&["--turn", "on-demand", "--fallback", "only"]), "on-demand"),
        (gateway(&["--cors-origin", "nonsense"]), "nonsense"),
        (gateway(&["--cors-origin", "https://a.example/path"]), "https://a.example/path"),
        (gateway(&["--heartbeat", "banana"]), "banana"),
        (gateway(&["--heartbeat", "25"]), "25"),
        (gateway(&["--poll-hold", "-1s"]), "-1"),
        (gateway(&["--wait-for-link", "5 s"]), "5 s"),
        (gateway(&["--min-rate", "slow"]), "slow"),
    ]
}

fn wrong_usage_of_devices() -> Vec<Usage> {
    let device = |more: &[&'static str]| [&["device", "http://127.0.0.1:9/lamp"], more].concat();
    vec![
        (vec!["device"], "URL"),
        (device(&[]), "--text"),
        (device(&["--to", "http://127.0.0.1:1", "--text", "x"]), "--text"),
        (device(&["--to", "http://127.0.0.1:1", "--dir", "/"]), "--dir"),
        (device(&["--dir", "/", "--text", "x"]), "--dir"),
        (device(&["--dir", "/no/such/directory"]), "/no/such/directory"),
        (device(&["--dir", "/dev/null"]), "/dev/null"),
        (device(&["--dir", ""]), "--dir"),
        (device(&["--dir", "/", "--host-header", "a"]), "--host-header"),
        (device(&["--to", "ftp://127.0.0.1:1"]), "ftp"),
        (device(&["--text", "x", "--links", "3"]), "--links"),
        (device(&["--text", "x", "--links", "5..2"]), "5..2"),
        (device(&["--text", "x", "--links", "0..0"]), "0..0"),
        (device(&["--text", "x", "--links", "a..b"]), "a..b"),
        (device(&["--text", "x", "--links", "1..99999999999999999999"]), "99999999999999999999"),
        (device(&["--text", "x", "--dialect", "PTTH/3.0"]), "PTTH/3.0"),
        (device(&["--text", "x", "--dialect", "websocket"]), "websocket"),
        (device(&["--text", "x", "--dialect", "ptth"]), "--origin"),
        (device(&["--text", "x", "--dialect", "ptth", "--origin", "null"]), "null"),
        (
            device(&["--text", "x", "--dialect", "ptth", "--origin", "ftp://a.example"]),
            "ftp://a.example",
        ),
        (device(&["--text", "x", "--backoff", "5s..1s"]), "5s..1s"),
        (device(&["--text", "x", "--backoff", "soon"]), "soon"),
        (device(&["--text", "x", "--silence", "quiet"]), "quiet"),
        (device(&["--to", "http://127.0.0.1:1", "--host-header", "a b"]), "host"),
        (vec!["device", "127.0.0.1:9/lamp", "--text", "x"], "http://"),
        (vec!["device", "ws://127.0.0.1:9/lamp", "--text", "x"], "ws"),
        (vec!["device", "http://", "--text", "x"], "http://"),
        (vec!["demo", "--bogus"], "--bogus"),
    ]
}

#[test]
fn wrong_usage_exits_with_2_and_says_what_is_wrong() {
    let rows = [wrong_usage_of_gateways(), wrong_usage_of_devices()].concat();
    each_row(
        &rows,
        |(arguments, _)| arguments.join(" "),
        |(arguments, word)| {
            let (code, out, err) = Ptth::run(arguments);
            assert_eq!(code, 2, "standard output: {out}; standard error: {err}");
            assert!(err.contains(word), "{word:?} is not in the message: {err}");
            assert!(!out.contains("http://127.0.0.1"), "a ready line before the refusal: {out}");
            assert!(!err.contains("panicked"), "{err}");
        },
    );
}

#[test]
fn userinfo_in_a_url_is_refused_and_never_repeated() {
    for arguments in [
        ["device", "http://user:hunter2@127.0.0.1:9/lamp", "--text", "x"],
        ["device", "http://127.0.0.1:9/lamp", "--to", "http://user:hunter2@127.0.0.1:1"],
    ] {
        let (code, out, err) = Ptth::run(&arguments);
        assert_eq!(code, 2, "{arguments:?}: {err}");
        assert!(
            !out.contains("hunter2") && !err.contains("hunter2"),
            "the password stands in the message: {out}{err}"
        );
        assert!(
            err.contains("secret") || err.contains("user"),
            "the message does not say what is wrong: {err}"
        );
    }
}

#[test]
fn a_port_that_is_taken_ends_the_gateway_with_1_and_the_address() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    for listeners in [
        ["--devices", &addr, "--visitors", "127.0.0.1:0"],
        ["--devices", "127.0.0.1:0", "--visitors", &addr],
    ] {
        let (code, out, err) = Ptth::run(&[&["gateway"], &listeners[..]].concat());
        assert_eq!(code, 1, "{err}");
        assert!(err.contains(&addr), "the message does not name {addr}: {err}");
        assert!(
            err.to_lowercase().contains("use"),
            "the message does not say that the port is in use: {err}"
        );
        assert!(!out.contains(&addr), "a ready line for a port it has not: {out}");
    }
}

#[test]
fn anyone_may_register_where_the_operator_says_so() {
    let process = Ptth::start(&[
        "gateway",
        "--devices",
        "0.0.0.0:0",
        "--visitors",
        "127.0.0.1:0",
        "--insecure-anyone-may-register",
    ]);
    assert!(process.line().starts_with("devices http://0.0.0.0:"));
    assert!(process.line().starts_with("visitors http://127.0.0.1:"));
}

#[test]
fn options_come_from_the_environment_too() {
    let mut command = Ptth::command(&["gateway"]);
    command.envs([
        ("PTTH_DEVICES", "127.0.0.1:0"),
        ("PTTH_VISITORS", "127.0.0.1:0"),
        ("PTTH_TURN", "on-demand"),
        ("PTTH_POLL_HOLD", "100ms"),
        ("PTTH_MISSING_HOST", "true"),
        ("PTTH_ROUTE", "host=devices.example"),
        ("PTTH_WAIT_FOR_LINK", "50ms"),
        ("PTTH_CONFIG", "/dev/null"),
    ]);
    let process = Process::start(&mut command);
    let addr = |prefix: &str| -> SocketAddr {
        process.line().strip_prefix(prefix).unwrap().parse().unwrap()
    };
    let gateway = (addr("devices http://"), addr("visitors http://"));

    let mut device = crate::support::RawPeer::connect(gateway.0);
    device.write(vector("airplay-1-offer"));
    assert_eq!(
        device.read_head().status(),
        204,
        "PTTH_TURN, PTTH_POLL_HOLD and PTTH_MISSING_HOST are obeyed"
    );
    let mut visitor = crate::support::RawPeer::connect(gateway.1);
    let then = Instant::now();
    let answer = visitor.ask("GET / HTTP/1.1\r\nHost: reverse.devices.example\r\n\r\n");
    answer.expect_refusal(503);
    assert!(then.elapsed() < Duration::from_secs(3) + slack(), "PTTH_WAIT_FOR_LINK is not obeyed");

    let raw = RawGateway::start();
    let mut command = Ptth::command(&["device", &raw.url("lamp")]);
    command.envs([
        ("PTTH_TEXT", "from the environment"),
        ("PTTH_DIALECT", "PTTH/0.9"),
        ("PTTH_LINKS", "2..2"),
        ("PTTH_BACKOFF", "10ms..20ms"),
    ]);
    let _device = Process::start(&mut command);
    let (mut first, head) = raw.offer();
    assert_eq!(head.get("upgrade"), Some("PTTH/0.9"));
    let (_second, _) = raw.offer();
    first.write(vector("seed-2-switch"));
    first.ask(&get("/")).expect_ok("from the environment");
}

#[test]
fn an_option_on_the_command_line_beats_the_environment() {
    let raw = RawGateway::start();
    let mut command =
        Ptth::command(&["device", &raw.url("lamp"), "--text", "said", "--dialect", "PTTH/1.0"]);
    command.env("PTTH_DIALECT", "PTTH/0.9");
    let _device = Process::start(&mut command);
    assert_eq!(raw.offer().1.get("upgrade"), Some("PTTH/1.0"));
}

#[test]
fn an_environment_variable_that_cannot_be_right_is_wrong_usage() {
    let mut command = Ptth::command(&["gateway"]);
    command.envs([
        ("PTTH_DEVICES", "127.0.0.1:0"),
        ("PTTH_VISITORS", "127.0.0.1:0"),
        ("PTTH_HEARTBEAT", "banana"),
    ]);
    let (code, _, err) = Ptth::finish(&mut command);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("banana") && err.contains("PTTH_HEARTBEAT"), "{err}");
    for (variable, value) in [
        ("PTTH_FORWARDED", "maybe"),
        ("PTTH_SHARED_NAMES", "2"),
        ("PTTH_TURN", "later"),
        ("PTTH_FALLBACK", "often"),
    ] {
        let (code, _, err) = Ptth::finish(Ptth::command(&["gateway"]).env(variable, value));
        assert_eq!(code, 2, "{err}");
        assert!(err.contains(variable) && err.contains(value), "{err}");
    }
    // An argument's mistake is the argument's.
    let (code, _, err) =
        Ptth::finish(Ptth::command(&["gateway", "--heartbeat=apple"]).env("PTTH_HEARTBEAT", "5s"));
    assert!(code == 2 && err.contains("--heartbeat") && !err.contains("PTTH_HEARTBEAT"), "{err}");
}

#[test]
fn switches_in_the_environment_are_on_or_off() {
    let insecure = |value: &str| {
        let mut command =
            Ptth::command(&["gateway", "--devices", "0.0.0.0:0", "--visitors", "127.0.0.1:0"]);
        command.env("PTTH_INSECURE_ANYONE_MAY_REGISTER", value);
        command
    };
    for off in ["0", "no", "False", ""] {
        let (code, _, err) = Ptth::finish(&mut insecure(off));
        assert!(code == 2 && err.contains("--insecure-anyone-may-register"), "{off}: {err}");
    }
    for on in ["1", "TRUE", "yes"] {
        assert!(
            Process::start(&mut insecure(on)).line().starts_with("devices http://0.0.0.0:"),
            "{on}"
        );
    }
}

#[test]
fn a_variable_that_nothing_reads_is_told_with_the_nearest_one() {
    let variables = [
        ("PTTH_FORWARED", "1"),
        ("PTTH_SOMETHING_ELSE", "1"),
        ("PTTH_TOKEN", "t"),
        ("PTTH_VISITOR_TOKEN", "t"),
        ("PTTH_SERVICE_HOST", "10.0.0.1"),
        ("PTTH_TEXT", "x"),
    ];
    let gateway = Gateway::start_with_env(&[], &variables);
    gateway
        .process
        .expect_stderr("PTTH_FORWARED, which nothing reads; did you mean PTTH_FORWARDED?");
    gateway.process.expect_stderr("PTTH_SOMETHING_ELSE, which nothing reads; ptth gateway --help");
    let log = gateway.process.stderr();
    assert_eq!(log.matches("nothing reads").count(), 2, "{log}");
}

#[test]
fn the_demo_prints_the_seeds_transcript_and_exits_with_0() {
    let (code, out, err) = Ptth::run(&["demo"]);
    assert_eq!(code, 0, "{err}");
    for part in
        ["POST /", "101 Switching Protocols", "Upgrade: PTTH/", "GET /", "200 OK", "!dlrow ,olleH"]
    {
        assert!(out.contains(part), "{part:?} is not in the demo's output:\n{out}");
    }
    let at = |part: &str| find(out.as_bytes(), part.as_bytes()).unwrap();
    assert!(
        at("101 Switching") < at("200 OK") && at("200 OK") < at("!dlrow"),
        "the transcript is not in its order:\n{out}"
    );
}

#[test]
fn the_device_says_connected_once_and_again_after_the_gateway_was_away() {
    let gateway = Gateway::start(&[]);
    let addr = gateway.devices.to_string();
    let device = Ptth::device(&gateway, "lamp", &["--text", "on", "--links", "3..4"]);
    gateway.get("/lamp/").expect_ok("on");
    gateway.get("/lamp/").expect_ok("on");
    assert_eq!(
        device.line_within(Duration::from_millis(300)),
        None,
        "three links are one connection to say once"
    );
    drop(gateway);
    let _again = eventually("the port is free again", || {
        let mut process =
            Ptth::start(&["gateway", "--devices", &addr, "--visitors", "127.0.0.1:0"]);
        eventually("it is ready or ended", || {
            (process.line_within(Duration::from_millis(20)).is_some() || process.has_ended())
                .then_some(())
        });
        (!process.has_ended()).then_some(process)
    });
    assert_eq!(device.line(), format!("connected lamp via http://{addr}/lamp (PTTH/1.0 turn)"));
}

#[test]
fn a_device_keeps_trying_a_gateway_that_is_not_there_and_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let mut device = Ptth::start(&[
        "device",
        &format!("http://{addr}/lamp"),
        "--text",
        "on",
        "--backoff",
        "10ms..50ms",
    ]);
    device.expect_stderr(&addr.to_string());
    device.expect_stderr("refused");
    assert!(!device.has_ended(), "it gave up: {}", device.stderr());
    let mut gateway =
        Ptth::start(&["gateway", "--devices", &addr.to_string(), "--visitors", "127.0.0.1:0"]);
    assert_eq!(gateway.line(), format!("devices http://{addr}"), "{}", gateway.stderr());
    assert_eq!(device.line(), format!("connected lamp via http://{addr}/lamp (PTTH/1.0 turn)"));
    assert!(!gateway.has_ended());
}

#[test]
fn a_device_says_when_the_other_side_is_no_gateway() {
    // What the other side says first or answers, and a word that the message has to have.
    let rows: &[(&str, &[u8], &str)] = &[
        ("an SSH server", b"SSH-2.0-OpenSSH_9.2p1\r\n", "ssh"),
        ("a TLS server", b"\x15\x03\x01\x00\x02\x02\x46", "tls"),
        (
            "an HTTP/2 server",
            b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64",
            "http",
        ),
        (
            "a web server",
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nhello",
            "200",
        ),
        (
            "a static web server",
            b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\nContent-Length: 0\r\n\r\n",
            "405",
        ),
        (
            "a server that redirects",
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            "307",
        ),
        ("garbage", b"\x00\x01\x02\x03 hello\r\n\r\n", "127.0.0.1"),
    ];
    each_row(
        rows,
        |r| r.0.to_owned(),
        |(_, bytes, word)| {
            let raw = RawGateway::at_localhost();
            let mut device = Ptth::start(&[
                "device",
                &raw.url("lamp"),
                "--text",
                "on",
                "--backoff",
                "10ms..50ms",
            ]);
            let (mut peer, _) = raw.offer();
            peer.write(bytes);
            peer.finish_writing();
            device.expect_stderr(word);
            assert!(!device.has_ended(), "it gave up: {}", device.stderr());
            assert!(!device.stderr().contains("panicked"), "{}", device.stderr());
            assert_eq!(device.line_within(Duration::ZERO), None, "it says that it is connected");
        },
    );
}

#[test]
fn refusals_of_the_first_offer_end_the_device_with_3() {
    for status in ["401 Unauthorized", "403 Forbidden", "404 Not Found", "410 Gone"] {
        let raw = RawGateway::start();
        let mut device =
            Ptth::start(&["device", &raw.url("lamp"), "--text", "on", "--backoff", "10ms..50ms"]);
        let (mut peer, _) = raw.offer();
        peer.write(format!(
            "HTTP/1.1 {status}\r\nProxy-Status: ptth\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n\r\nthe key, no\n"
        ));
        assert_eq!(device.exit_code(), 3, "{status}: {}", device.stderr());
        device.expect_stderr(&status[..3]);
        assert!(raw.try_accept().is_none(), "{status}: it dialled once more");
    }
}

#[test]
fn a_gateway_asked_to_stop_exits_with_0() {
    for signal in ["TERM", "INT"] {
        let mut gateway = Gateway::start(&["--drain-timeout", "1s"]);
        let _link_that_never_answers = gateway.link("lamp");
        let _visitor = gateway.visitor();
        gateway.process.signal(signal);
        assert_eq!(
            gateway.process.exit_code_within(Duration::from_secs(5)),
            0,
            "SIG{signal}: {}",
            gateway.process.stderr()
        );
    }
}

#[test]
fn a_gateway_that_drains_finishes_what_is_in_progress() {
    let mut gateway = Gateway::start(&["--drain-timeout", "60s"]);
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/slow"));
    assert_eq!(link.read_head().target(), "/slow");
    gateway.process.signal("TERM");
    gateway_refuses_new_ones(&gateway);
    link.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
    // Then the link gets a goaway, and nothing is left to wait for.
    if let Some(head) = link.try_read_head() {
        assert!(head.start == "OPTIONS * HTTP/1.1" && head.closes(), "{}", head.text());
        link.write("HTTP/1.1 204 No Content\r\n\r\n");
    }
    assert_eq!(
        gateway.process.exit_code_within(Duration::from_secs(5)),
        0,
        "{}",
        gateway.process.stderr()
    );
}

fn gateway_refuses_new_ones(gateway: &Gateway) {
    eventually("no new link any more", || {
        let stream = match std::net::TcpStream::connect(gateway.devices) {
            // Reset: it was in the listener's queue when that was closed.
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset
                ) =>
            {
                return Some(());
            }
            Err(e) => panic!("{e}"),
            Ok(stream) => stream,
        };
        let mut peer = crate::support::RawPeer::adopt(stream, "late device");
        if peer.try_write(crate::support::process::offer("late", "")).is_err() {
            return Some(());
        }
        let first = peer.read_once();
        assert!(find(&first, b" 204 ").is_none(), "{:?}", String::from_utf8_lossy(&first));
        (!first.starts_with(SWITCH)).then_some(())
    });
}

#[test]
fn a_drain_has_an_end_even_when_an_exchange_has_none() {
    let mut gateway = Gateway::start(&["--drain-timeout", "300ms"]);
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/never"));
    link.read_head();
    let then = Instant::now();
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit_code(), 0, "{}", gateway.process.stderr());
    assert!(
        then.elapsed() >= Duration::from_millis(250),
        "it did not wait for the exchange at all"
    );
}

#[test]
fn a_device_asked_to_stop_finishes_what_is_in_progress_and_exits_with_0() {
    let (release, hold) = std::sync::mpsc::channel::<()>();
    let hold = std::sync::Mutex::new(hold);
    let local = LocalServer::with(move |c| {
        let _ = hold.lock().unwrap().recv_timeout(crate::support::DEADLINE);
        c.text("finished");
    });
    let gateway = Gateway::start(&[]);
    let mut device = Ptth::device(&gateway, "lamp", &["--to", &local.url()]);
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/slow"));
    eventually("the local server was asked", || (local.count() == 1).then_some(()));
    device.signal("TERM");
    release.send(()).unwrap();
    visitor.read_answer("GET").expect_ok("finished");
    assert_eq!(
        device.exit_code_within(Duration::from_secs(5)),
        0,
        "nothing was left to wait for: {}",
        device.stderr()
    );
}

#[test]
fn an_idle_device_asked_to_stop_exits_with_0() {
    let gateway = Gateway::start(&["--wait-for-link", "10ms"]);
    for signal in ["TERM", "INT"] {
        let mut device = Ptth::device(&gateway, "lamp", &["--text", "on"]);
        device.signal(signal);
        assert_eq!(device.exit_code(), 0, "SIG{signal}: {}", device.stderr());
        gateway.get("/lamp/").expect_refusal(503);
    }
    // One that never had a gateway stops as willingly.
    let mut device = Ptth::start(&["device", "http://127.0.0.1:9/lamp", "--text", "on"]);
    device.expect_stderr("127.0.0.1:9");
    device.signal("TERM");
    assert_eq!(device.exit_code(), 0, "{}", device.stderr());
}

#[test]
fn a_closed_standard_output_does_not_end_the_gateway() {
    let devices = format!("127.0.0.1:{}", crate::support::free_port());
    let mut command = Ptth::command(&[
        "gateway",
        "--devices",
        &devices,
        "--visitors",
        "127.0.0.1:0",
        "--drain-notice",
        "0s",
        "--drain-timeout",
        "1s",
    ]);
    let mut gateway = Process::start_deaf(&mut command);
    let mut link =
        eventually("the gateway listens", || match std::net::TcpStream::connect(&devices) {
            Ok(stream) => Some(crate::support::RawPeer::adopt(stream, "device")),
            Err(_) => None,
        });
    link.write(vector("draft-1-offer"));
    assert_eq!(link.read_head().status(), 101);
    assert!(!gateway.has_ended());
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code_within(Duration::from_secs(5)), 0, "{}", gateway.stderr());
}
