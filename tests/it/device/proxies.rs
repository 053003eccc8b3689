//! CONNECT proxies on the device's way out: scripted ones, a small real one, and which of them the
//! environment names.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::process::{Process, get};
use crate::support::{
    Gateway, Head, Ptth, RawGateway, RawPeer, SWITCH, TempDir, each_row, eventually, free_port,
    need, program, slack,
};

const GATEWAY: &str = "http://gw.example:9999/lamp"; // no name server knows it: only a proxy could
const ESTABLISHED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

fn proxy_url(proxy: &RawGateway) -> String {
    format!("http://{}", proxy.addr)
}

#[track_caller]
fn start(proxy: &RawGateway, more: &[&str]) -> Process {
    let fixed =
        ["device", GATEWAY, "--proxy", &proxy_url(proxy), "--text", "x", "--backoff", "5ms..20ms"];
    let mut command = Ptth::command(&[&fixed[..], more].concat());
    Process::start(command.env("PTTH_LINKS", "1..1")) // a spare link would meet what is meant for the next
}

/// The next connection, which asks for a tunnel to the gateway and says nothing before it has one.
#[track_caller]
fn asked(proxy: &RawGateway) -> RawPeer {
    let (mut peer, head) = proxy.offer();
    assert_eq!(head.start, "CONNECT gw.example:9999 HTTP/1.1");
    assert_eq!(head.all("host"), ["gw.example:9999"]);
    assert_eq!(
        head.get("user-agent"),
        Some(concat!("ptth/", env!("CARGO_PKG_VERSION"))),
        "some proxies want to know"
    );
    for never in ["authorization", "upgrade", "ptth-session", "proxy-authorization"] {
        assert_eq!(
            head.get(never),
            None,
            "the proxy is told no more than it needs: {}",
            head.text()
        );
    }
    peer.expect_quiet(Duration::from_millis(30));
    peer
}

#[track_caller]
fn serves(peer: &mut RawPeer) {
    peer.write(get("/"));
    assert_eq!(peer.read_answer("GET").text(), "x");
}

#[test]
fn behind_the_tunnel_the_offer_goes_as_ever() {
    let proxy = RawGateway::start();
    let device = start(&proxy, &[]);
    let mut peer = asked(&proxy);
    // Interim responses are skipped, also one byte at a time; framing fields of a 2xx mean nothing.
    for byte in b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.0 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" {
        peer.write([*byte]);
    }
    let head = peer.read_head();
    assert_eq!(
        (head.start.as_str(), head.get("host")),
        ("POST /lamp HTTP/1.1", Some("gw.example:9999"))
    );
    assert_eq!(head.get("upgrade"), Some("PTTH/1.0"));
    peer.write(SWITCH);
    assert_eq!(device.line(), format!("connected lamp via {GATEWAY} (PTTH/1.0 turn)"));
    serves(&mut peer);
}

#[test]
fn bytes_behind_the_200_are_the_gateways() {
    let proxy = RawGateway::start();
    let device = start(&proxy, &[]);
    let mut peer = asked(&proxy);
    peer.write([ESTABLISHED.as_bytes(), SWITCH, get("/").as_bytes()].concat());
    assert_eq!(peer.read_head().target(), "/lamp");
    assert_eq!(peer.read_answer("GET").text(), "x");
    assert_eq!(device.line(), format!("connected lamp via {GATEWAY} (PTTH/1.0 turn)"));
}

#[test]
fn what_is_no_tunnel_is_a_failed_attempt_with_words_of_its_own() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(20_000));
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(9);
    let rows: Vec<(&str, &str)> = vec![
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
            "it wants credentials",
        ),
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n",
            "407 (Negotiate, NTLM): it wants credentials in a way that is not spoken here",
        ),
        (
            "HTTP/1.1 407 No\r\nProxy-Authenticate: Digest realm=\"a, b\", nonce=x, Basic realm=\"c\"\r\nContent-Length: 0\r\n\r\n",
            "it wants credentials; give them",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
            "captive portal",
        ),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\nContent-Length: 0\r\n\r\n",
            "captive portal",
        ),
        ("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "cannot reach the gateway"),
        (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
            "cannot reach the gateway",
        ),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "is it a proxy?"),
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "is it a proxy?"),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\nHTTP/1.1 404 No\r\n\r\n",
            "is it a proxy?",
        ),
        ("SSH-2.0-x\r\n\r\n", "an invalid answer"),
        ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "an invalid answer"),
        (&long, "an invalid answer"),
        (&interim, "informational_max"),
        ("", "closed the connection instead of answering CONNECT"),
        ("HTTP/1.1 200 O", "in the middle"),
    ];
    each_row(
        &rows,
        |(answer, _)| answer.chars().take(40).collect(),
        |(answer, word)| {
            let proxy = RawGateway::start();
            let mut device = start(&proxy, &[]);
            let mut peer = asked(&proxy);
            peer.write(answer);
            peer.finish_writing();
            let mut peer = asked(&proxy); // the next attempt
            device.expect_stderr(word);
            let text = device.stderr();
            assert!(
                text.contains(&format!("proxy {}", proxy.addr)) && text.contains(GATEWAY),
                "{text}"
            );
            peer.write(ESTABLISHED);
            assert_eq!(peer.read_head().target(), "/lamp");
            assert!(!device.has_ended(), "a proxy's 401 or 403 is not the gateway's: {text}");
        },
    );
}

#[test]
fn where_a_proxy_opens_no_tunnel_polls_go_through_it_in_absolute_form() {
    for refusal in ["403 Forbidden", "405 Method Not Allowed"] {
        let proxy = RawGateway::start();
        let mut command = Ptth::command(&[
            "device",
            GATEWAY,
            "--text",
            "x",
            "--backoff",
            "5ms..20ms",
            "--polls",
            "1",
            "--turn-retry",
            "1h",
        ]);
        command
            .env("PTTH_LINKS", "1..1")
            .env("http_proxy", format!("http://me:hunter2@{}", proxy.addr))
            .env("PTTH_TOKEN", "s3cret");
        let device = Process::start(&mut command);
        let (mut peer, head) = proxy.offer();
        assert_eq!(head.method(), "CONNECT");
        peer.write(format!("HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n"));
        let (mut peer, head) = proxy.offer(); // at once
        assert_eq!(head.start, format!("POST {GATEWAY} HTTP/1.1"));
        assert_eq!(
            (head.get("host"), head.get("upgrade"), head.get("connection")),
            (Some("gw.example:9999"), None, None)
        );
        assert_eq!(head.get("proxy-authorization"), Some("Basic bWU6aHVudGVyMg=="));
        assert_eq!(head.get("authorization"), Some("Bearer s3cret"));
        device.expect_stderr("port 443");
        let text = get("/");
        let fields = "Content-Type: message/http\r\nPTTH-Message-ID: e\r\nConnection: close";
        peer.write(format!(
            "HTTP/1.1 200 OK\r\nVia: 1.1 squid\r\n{fields}\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        ));
        assert_eq!(device.line(), format!("connected lamp via {GATEWAY} (COMET message/http)"));
        let (_peer, head) = proxy.offer(); // one request a connection, as squid has it with such answers
        assert_eq!(
            (head.start.as_str(), head.get("ptth-message-id")),
            (format!("POST {GATEWAY} HTTP/1.1").as_str(), Some("e"))
        );
        let said = device.stderr();
        assert!(!said.contains("hunter2") && !said.contains("bWU6"), "{said}");
    }
}

#[test]
fn without_polls_a_proxy_that_opens_no_tunnel_is_a_failed_attempt() {
    // TLS would be the proxy's to read, and the turn the proxy's to understand.
    for (refusal, word) in [
        ("403 Forbidden", "does not let this device go there"),
        ("405 Method Not Allowed", "allow CONNECT"),
    ] {
        for more in [&["--fallback", "never"][..], &["https://gw.example/lamp"]] {
            let proxy = RawGateway::start();
            let url = if more.len() == 1 { more[0] } else { GATEWAY };
            let fixed = [
                "device",
                url,
                "--proxy",
                &proxy_url(&proxy),
                "--text",
                "x",
                "--backoff",
                "5ms..20ms",
                "--links",
                "1..1",
            ];
            let device =
                Ptth::start(&[&fixed[..], if more.len() == 1 { &[] } else { more }].concat());
            for _ in 0..2 {
                let (mut peer, head) = proxy.offer();
                assert_eq!(head.method(), "CONNECT");
                peer.write(format!("HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n"));
            }
            device.expect_stderr(word);
        }
    }
}

#[test]
fn a_redirect_through_a_proxy_leads_to_no_other_host_and_not_to_this_machine() {
    // Location, what may be redirected to, whether the device goes there.
    let rows = [
        ("http://gw.example:9998/lamp", "", true),
        ("http://gw.example/lamp", "", true),
        ("http://gw.example:22/lamp", "", false),
        ("http://gw.example:22/lamp", "gw.example:22", true),
        ("http://other.example/lamp", "", false),
        ("http://other.example/lamp", "*.example", true),
        ("http://127.0.0.1:9999/lamp", "", false),
        ("http://127.0.0.1:9999/lamp", "*", false),
        ("http://localhost:9999/lamp", "*", false),
        ("http://169.254.169.254/latest", "*", false),
        ("http://[::1]/lamp", "*", false),
        ("http://[::ffff:7f00:1]/lamp", "*", false),
        ("http://10.1.2.3/lamp", "10.0.0.0/8", true),
    ];
    each_row(
        &rows,
        |row| format!("{} {:?}", row.0, row.1),
        |(location, hosts, goes)| {
            // Offers and polls alike.
            for fallback in ["auto", "only"] {
                let proxy = RawGateway::start();
                let hosts: &[&str] =
                    if hosts.is_empty() { &[] } else { &["--redirect-hosts", hosts] };
                let _device =
                    start(&proxy, &[hosts, &["--fallback", fallback, "--polls", "1"]].concat());
                let mut peer = asked(&proxy);
                peer.write(ESTABLISHED);
                peer.read_head();
                peer.write(format!("HTTP/1.1 308 Permanent Redirect\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"));
                let (_peer, head) = proxy.offer();
                assert_eq!(head.target() != "gw.example:9999", *goes, "{}", head.start);
            }
        },
    );
    for wrong in ["a b", "http://gw.example", "gw.example:0"] {
        let (code, _, stderr) =
            Ptth::run(&["device", GATEWAY, "--text", "x", "--redirect-hosts", wrong]);
        assert!(code == 2 && stderr.contains("redirect host"), "{wrong}: {code} {stderr}");
    }
}

#[test]
fn a_proxys_retry_after_is_obeyed() {
    let proxy = RawGateway::start();
    let _device = start(&proxy, &[]);
    let mut peer = asked(&proxy);
    let began = Instant::now();
    peer.write("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n");
    let _next = proxy.offer();
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[test]
fn a_silent_proxy_has_its_time() {
    let proxy = RawGateway::start();
    let device = start(&proxy, &["--proxy-timeout", "300ms"]);
    let _silent = asked(&proxy);
    let began = Instant::now();
    let _next = proxy.offer();
    assert!(began.elapsed() < Duration::from_millis(300) + slack(), "{:?}", began.elapsed());
    device.expect_stderr("did not answer CONNECT within proxy_timeout");
    // Nobody at all is told apart from a gateway that is not there.
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let device = Ptth::start(&[
        "device",
        GATEWAY,
        "--proxy",
        &nobody,
        "--text",
        "x",
        "--backoff",
        "5ms..20ms",
    ]);
    device.expect_stderr(&format!(
        "proxy {} on the way to gateway {GATEWAY} cannot be reached",
        nobody.trim_start_matches("http://")
    ));
}

/// A proxy that opens the tunnels it is asked for, and keeps what it was asked.
struct Forwarding {
    addr: SocketAddr,
    heads: Arc<Mutex<Vec<Head>>>,
}

fn forwarding() -> Forwarding {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let forwarding = Forwarding { addr: listener.local_addr().unwrap(), heads: Arc::default() };
    let heads = forwarding.heads.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let heads = heads.clone();
            std::thread::spawn(move || tunnel(stream, &heads));
        }
    });
    forwarding
}

fn tunnel(mut from: TcpStream, heads: &Mutex<Vec<Head>>) {
    let (mut bytes, mut one) = (Vec::new(), [0]);
    while !bytes.ends_with(b"\r\n\r\n") {
        match from.read(&mut one) {
            Ok(1) => bytes.push(one[0]),
            _ => return,
        }
    }
    let head = Head::parse(&bytes);
    let to = TcpStream::connect(head.target());
    heads.lock().unwrap().push(head);
    let Ok(mut to) = to else {
        let _ = from.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n");
        return;
    };
    let _ = from.write_all(ESTABLISHED.as_bytes());
    let (mut back, mut forth) = (to.try_clone().unwrap(), from.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut back, &mut forth);
        let _ = forth.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

#[test]
fn links_and_polls_reach_a_real_gateway_through_a_proxy() {
    let proxy = forwarding();
    let gateway = Gateway::start(&[]);
    let url = format!("http://{}", proxy.addr);
    let _turned =
        Ptth::device(&gateway, "turned", &["--text", "on", "--proxy", &url, "--links", "2..4"]);
    let polling = Ptth::start(&[
        "device",
        &gateway.device_url("polled"),
        "--text",
        "on",
        "--proxy",
        &url,
        "--fallback",
        "only",
    ]);
    assert!(polling.line().starts_with("connected polled via "));
    for _ in 0..10 {
        gateway.get("/turned/x").expect_ok("on");
        gateway.get("/polled/x").expect_ok("on");
    }
    let heads = proxy.heads.lock().unwrap();
    assert!(heads.len() >= 4, "{}", heads.len()); // two links, two polls
    assert!(heads.iter().all(|head| head.start == format!("CONNECT {} HTTP/1.1", gateway.devices)));
}

#[test]
fn tinyproxy_opens_tunnels_for_who_has_the_password() {
    if !need("tinyproxy") {
        return;
    }
    let gateway = Gateway::start(&[]);
    let (dir, port) = (TempDir::new("tinyproxy"), free_port());
    let file = dir.0.join("tinyproxy.conf");
    // It runs as who started it; CONNECT to any port.
    std::fs::write(&file, format!("Port {port}\nListen 127.0.0.1\nTimeout 60\nAllow 127.0.0.1\nBasicAuth me hunter2\nLogLevel Warning\n"))
        .unwrap();
    let _proxy = Process::start(Command::new(program("tinyproxy")).arg("-d").arg("-c").arg(&file));
    eventually("tinyproxy listens", || TcpStream::connect(("127.0.0.1", port)).ok());
    let device = |name: &str, credentials: &str, more: &[&str]| {
        let url = gateway.device_url(name);
        let mut command = Ptth::command(
            &[&["device", &url, "--text", "on", "--backoff", "10ms..200ms"], more].concat(),
        );
        Process::start(command.env("http_proxy", format!("http://{credentials}127.0.0.1:{port}")))
    };
    let turned = device("turned", "me:hunter2@", &[]);
    assert!(turned.line().ends_with("(PTTH/1.0 turn)"));
    let polled = device("polled", "me:hunter2@", &["--fallback", "only"]);
    assert!(polled.line().contains("(COMET "));
    for _ in 0..5 {
        gateway.get("/turned/x").expect_ok("on");
        gateway.get("/polled/x").expect_ok("on");
    }
    device("none", "", &[]).expect_stderr("it wants credentials");
    device("wrong", "me:wrong@", &[]).expect_stderr("answered CONNECT with 4");
}

#[test]
fn the_environment_names_a_proxy_as_for_curl() {
    let (proxy, other, direct) =
        (RawGateway::at_localhost(), RawGateway::at_localhost(), RawGateway::at_localhost());
    let (p, o) = (proxy_url(&proxy), proxy_url(&other));
    let (secret, bare) = (format!("http://me:hunt%65r2@{}/", proxy.addr), proxy.addr.to_string());
    // Variables, arguments, who is dialled.
    type Row<'a> = (Vec<(&'a str, &'a str)>, Vec<&'a str>, &'a RawGateway);
    let rows: Vec<Row<'_>> = vec![
        (vec![("http_proxy", &p)], vec![], &proxy),
        (vec![("http_proxy", &bare)], vec![], &proxy),
        (vec![("http_proxy", &secret)], vec![], &proxy),
        (vec![("PTTH_PROXY", &secret)], vec![], &proxy),
        (vec![("HTTP_PROXY", &p)], vec![], &direct),
        (vec![("https_proxy", &p), ("HTTPS_PROXY", &p)], vec![], &direct),
        (vec![("all_proxy", &p), ("ALL_PROXY", &o)], vec![], &proxy),
        (vec![("ALL_PROXY", &p)], vec![], &proxy),
        (vec![("http_proxy", &p), ("all_proxy", &o)], vec![], &proxy),
        (vec![("http_proxy", ""), ("all_proxy", &p)], vec![], &proxy),
        (vec![("http_proxy", &p), ("no_proxy", "*")], vec![], &direct),
        (vec![("http_proxy", &p), ("no_proxy", "10.0.0.0/8,127.0.0.0/8")], vec![], &direct),
        (vec![("http_proxy", &p), ("NO_PROXY", "127.0.0.1")], vec![], &direct),
        (vec![("http_proxy", &p), ("no_proxy", "example.com"), ("NO_PROXY", "*")], vec![], &proxy),
        (vec![("http_proxy", &o), ("no_proxy", "*")], vec!["--proxy", &p], &proxy),
        (vec![("http_proxy", &o)], vec!["--proxy", "none"], &direct),
        (vec![("http_proxy", &o), ("PTTH_PROXY", "none")], vec![], &direct),
        (vec![], vec![], &direct),
        // What is not spoken is looked at only where it would be used.
        (vec![("all_proxy", "socks://127.0.0.1:1"), ("no_proxy", "127.0.0.1")], vec![], &direct),
        (
            vec![("http_proxy", "socks5h://127.0.0.1:1"), ("no_proxy", "127.0.0.0/8")],
            vec![],
            &direct,
        ),
        (vec![("http_proxy", "https://127.0.0.1:1"), ("no_proxy", "*")], vec![], &direct),
        (vec![("all_proxy", "socks5://127.0.0.1:1")], vec![], &direct),
        (vec![("ALL_PROXY", "socks5://127.0.0.1:1"), ("no_proxy", "gw.example")], vec![], &direct),
        (vec![("http_proxy", &p), ("all_proxy", "socks5://127.0.0.1:1")], vec![], &proxy),
        (vec![("all_proxy", "socks5://127.0.0.1:1")], vec!["--proxy", &p], &proxy),
    ];
    let url = direct.url("lamp");
    each_row(
        &rows,
        |(variables, arguments, _)| format!("{variables:?} {arguments:?}"),
        |(variables, arguments, dialled)| {
            let mut command = Ptth::command(
                &[&["device", url.as_str(), "--text", "x"], arguments.as_slice()].concat(),
            );
            let device =
                Process::start(command.envs(variables.iter().copied()).env("RUST_LOG", "trace"));
            let (_peer, head) = dialled.offer();
            let method = if std::ptr::eq(*dialled, &direct) { "POST" } else { "CONNECT" };
            assert_eq!(head.method(), method);
            let has_secret = variables.iter().any(|(_, value)| *value == secret);
            let basic = "Basic bWU6aHVudGVyMg=="; // me:hunter2
            assert_eq!(
                head.get("proxy-authorization"),
                has_secret.then_some(basic),
                "{}",
                head.text()
            );
            drop(device);
            [&proxy, &other, &direct].iter().for_each(|raw| while raw.try_accept().is_some() {});
        },
    );
}

#[test]
fn credentials_are_sent_to_the_proxy_alone_and_shown_nowhere() {
    let proxy = RawGateway::start();
    let mut command = Ptth::command(&["device", GATEWAY, "--text", "x", "--backoff", "5ms..20ms"]);
    command.env("all_proxy", format!("http://me:hunter2@{}", proxy.addr)).env("RUST_LOG", "trace");
    let device = Process::start(&mut command);
    let (mut peer, head) = proxy.offer();
    assert_eq!(head.get("proxy-authorization"), Some("Basic bWU6aHVudGVyMg=="));
    peer.write("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
    let (mut peer, _) = proxy.offer();
    device.expect_stderr("it does not take these credentials");
    peer.write(ESTABLISHED);
    let offer = peer.read_head();
    assert_eq!(offer.get("proxy-authorization"), None, "the gateway is not told: {}", offer.text());
    peer.write(SWITCH);
    serves(&mut peer);
    let text = device.stderr();
    assert!(!text.contains("hunter2") && !text.contains("bWU6aHVudGVyMg"), "{text}");
    // Where the environment cannot be obeyed, that is said without it.
    for value in [
        "socks5://me:hunter2@127.0.0.1:1",
        "https://me:hunter2@127.0.0.1:1",
        "http://me:hunter2@",
        "http://me:%0ahunter2@127.0.0.1:1",
    ] {
        let (code, _, err) = Ptth::finish(
            Ptth::command(&["device", GATEWAY, "--text", "x"]).env("http_proxy", value),
        );
        assert!(code == 2 && !err.contains("hunter2") && err.contains("proxy"), "{value}: {err}");
    }
    // Nor where it is obeyed by going without.
    let value = "socks5://me:hunter2@127.0.0.1:1";
    let direct = RawGateway::start();
    let mut command = Ptth::command(&["device", &direct.url("lamp"), "--text", "x"]);
    let device = Process::start(command.env("all_proxy", value));
    assert_eq!(direct.offer().1.method(), "POST");
    device.expect_stderr("all_proxy: this kind of proxy is not supported");
    assert!(!device.stderr().contains("hunter2"), "{}", device.stderr());
    for variable in ["http_proxy", "PTTH_PROXY"] {
        let (code, _, err) =
            Ptth::finish(Ptth::command(&["device", GATEWAY, "--text", "x"]).env(variable, value));
        assert!(code == 2 && err.contains(variable), "{code} {err}");
    }
    let (code, out, _) = Ptth::finish(
        Ptth::command(&["device", "--help"]).env("PTTH_PROXY", "http://me:hunter2@127.0.0.1:1"),
    );
    assert!(code == 0 && !out.contains("hunter2"));
}

#[test]
fn a_redirect_from_behind_a_proxy_goes_through_it_again() {
    let proxy = RawGateway::start();
    let device = start(&proxy, &["--redirect-hosts", "gw2.example"]);
    let mut peer = asked(&proxy);
    peer.write(ESTABLISHED);
    peer.read_head();
    peer.write("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://gw2.example/lamp\r\nContent-Length: 0\r\n\r\n");
    let (mut peer, head) = proxy.offer();
    assert_eq!(head.start, "CONNECT gw2.example:80 HTTP/1.1");
    peer.write(ESTABLISHED);
    assert_eq!(peer.read_head().get("host"), Some("gw2.example"));
    peer.write(SWITCH);
    assert_eq!(device.line(), "connected lamp via http://gw2.example/lamp (PTTH/1.0 turn)");
    eventually("it is served", || {
        serves(&mut peer);
        Some(())
    });
}
