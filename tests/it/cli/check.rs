//! `ptth check`: each way in which a device may not reach its gateway, what is said about it, and
//! the exit code.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::comet::peers::{NGINX_PASSES_UPGRADES, Proxy};
use crate::support::{Authority, Gateway, Ptth, RawGateway, RawPeer, SWITCH, TempDir, need};

/// Exit code and output of a check.
fn check(url: &str, more: &[&str]) -> (i32, String) {
    let (code, out, err) = Ptth::run(&[&["check", url], more].concat());
    (code, format!("{out}\n{err}"))
}

/// Fails unless a check ends so, with all of these words.
#[track_caller]
fn says(told: &(i32, String), code: i32, words: &[&str]) {
    assert_eq!(told.0, code, "{}", told.1);
    for word in words {
        assert!(told.1.contains(word), "{word:?} is not in:\n{}", told.1);
    }
}

/// The connection with the offer; before it come those that only look whether the port is open.
fn offer_of(raw: &RawGateway) -> RawPeer {
    loop {
        let mut peer = raw.accept();
        if peer.try_read_head().is_some() {
            return peer;
        }
    }
}

/// A check of a gateway that the test plays.
fn against(answer: impl FnOnce(&RawGateway), more: &[&str]) -> (i32, String) {
    let raw = RawGateway::start();
    let url = raw.url("lamp");
    let mut process = Ptth::start(&[&["check", &url], more].concat());
    answer(&raw);
    let code = process.exit_code();
    let lines = process.all_lines().join("\n");
    (code, format!("{lines}\n{}", process.stderr()))
}

#[test]
fn a_gateway_that_turns_is_usable_and_keeps_its_device() {
    let gateway = Gateway::start(&["--heartbeat", "100ms"]);
    let device = Ptth::device(&gateway, "lamp", &["--text", "here"]);
    let told = check(&gateway.device_url("lamp"), &[]);
    says(&told, 0, &["IPv4", "IPv6", "TCP", "101", "heartbeat  it came", "usable", "upgrade"]);
    gateway.get("/lamp/").expect_ok("here");
    assert!(!gateway.process.stderr().contains("replaced"), "{}", gateway.process.stderr());
    assert!(!device.stderr().contains("ended"), "{}", device.stderr());
    // Without a heartbeat in its time the link is nevertheless open.
    let told = check(&gateway.device_url("lamp"), &["--heartbeat", "0s"]);
    says(&told, 0, &["usable"]);
    assert!(!told.1.contains("heartbeat"), "{}", told.1);
    // The name itself, where that is wanted.
    let told = check(&gateway.device_url("lamp"), &["--heartbeat", "0s", "--take-over"]);
    says(&told, 0, &["name", "usable"]);
    gateway.process.expect_stderr("replaced");
}

#[test]
fn tokens_are_told_apart() {
    let folder = TempDir::new("check-tokens");
    let file = |name: &str, text: &str| {
        let path = folder.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (_, made, _) = Ptth::run(&["token", "lamp"]);
    let (token, line) = made.split_once('\n').unwrap();
    let (right, wrong) = (file("right", token), file("wrong", "guessed"));
    let tokens = file("tokens", line);
    let gateway = Gateway::start(&["--tokens", &tokens]);
    let (lamp, door) = (gateway.device_url("lamp"), gateway.device_url("door"));
    says(&check(&lamp, &[]), 3, &["401", "--token-file", "refused by the gateway"]);
    says(&check(&lamp, &["--token-file", &wrong]), 3, &["401"]);
    let known = check(&lamp, &["--token-file", &right]);
    says(&known, 0, &["the gateway knows it", "--take-over", "Upgrade reaches", "usable"]);
    let taken = check(&lamp, &["--token-file", &right, "--take-over"]);
    says(&taken, 0, &["lets the device have its name"]);
    let other = check(&door, &["--token-file", &right, "--take-over"]);
    says(&other, 3, &["it is not for this name"]);
    assert!(!known.1.contains(token), "a check shows no token");
}

#[test]
fn what_is_no_gateway_is_named() {
    let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nhello";
    let told = against(|raw| offer_of(raw).write(page), &[]);
    says(&told, 1, &["captive portal", "not usable"]);
    let told = against(|raw| offer_of(raw).write("SSH-2.0-OpenSSH_9.7\r\n"), &[]);
    says(&told, 1, &["is not HTTP"]);
    let told = against(|raw| drop(offer_of(raw)), &[]);
    says(&told, 1, &["closed without an answer"]);
    let unavailable =
        "HTTP/1.1 503 Busy\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\n\x1b[31mlater";
    let told = against(|raw| offer_of(raw).write(unavailable), &[]);
    says(&told, 1, &["503", "no gateway of ours", "\\u{1b}[31mla"]);
    let told =
        against(|raw| offer_of(raw).write("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"), &[]);
    says(&told, 3, &["404", "URL"]);
}

/// So it does at the ports of other gateways and of operators, where its token is not looked at.
#[test]
fn at_every_other_port_a_device_is_told_of_the_devices_port() {
    let folder = TempDir::new("check-other-ports");
    let secret = folder.0.join("secret");
    std::fs::write(&secret, "the-secret-of-this-cluster\n").unwrap();
    let (_, made, _) = Ptth::run(&["token", "lamp"]);
    let operators = folder.0.join("operators");
    std::fs::write(&operators, made.split_once('\n').unwrap().1).unwrap();
    let peers = ["--peers", "127.0.0.1:0"];
    let guarded = ["--peer-secret", secret.to_str().unwrap()];
    let admin = ["--admin", "127.0.0.1:0", "--admin-tokens", operators.to_str().unwrap()];
    for more in [&[&peers[..], &guarded, &admin].concat(), &[&peers[..], &admin[..2]].concat()] {
        let gateway = Gateway::start(more);
        let ready = |name: &str| {
            let line = gateway.process.line();
            line.strip_prefix(name).unwrap_or_else(|| panic!("{line}")).to_owned()
        };
        let ports = [ready("peers "), ready("admin ")];
        for (port, whose) in [(&ports[0], "other gateways"), (&ports[1], "operators")] {
            let told = check(&format!("{port}/lamp"), &["--token-file", guarded[1]]);
            let remedy =
                "devices connect to the devices' port (GatewayBuilder::listen, or --devices)";
            says(&told, 3, &["404", whose, remedy]);
        }
        let log = gateway.process.stderr();
        assert!(!log.contains("an operator's token"), "{log}");
    }
}

/// A device that takes the visitors' port for its own learns which port is its, whatever that port
/// would tell a visitor. Its offer, with its token, goes to no device; one for a gateway behind a
/// device goes on as any upgrade does.
#[test]
fn at_the_visitors_port_a_device_is_told_of_the_devices_port() {
    let folder = TempDir::new("check-visitors-port");
    let (_, made, _) = Ptth::run(&["token", "lamp"]);
    let (token, line) = made.split_once('\n').unwrap();
    let tokens = folder.0.join("tokens");
    std::fs::write(&tokens, line).unwrap();
    let tokens = tokens.to_str().unwrap();
    const REMEDY: &str =
        "devices connect to the devices' port (GatewayBuilder::listen, or --devices)";
    let gateway = Gateway::start(&["--wait-for-link", "100ms", "--tokens", tokens]);
    let at_visitors = |gateway: &Gateway| format!("http://{}/lamp", gateway.visitors);
    let told = check(&format!("http://{}/x/", gateway.visitors), &[]);
    says(
        &told,
        3,
        &[
            "404",
            "this port is for visitors, and a device's offer is not a request for check-",
            REMEDY,
        ],
    );
    let offer = "POST /lamp/ HTTP/1.1\r\nHost: a\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n";
    let poll = "POST /nobody/ HTTP/1.1\r\nHost: a\r\nPTTH-Session: 00112233445566778899aabbccddeeff\r\nContent-Length: 0\r\n\r\n";
    let behind = offer.replace("/lamp/", "/lamp/inner");
    for (request, status, why) in [
        (offer, 404, "not a request for lamp"),
        (poll, 404, "not a request for nobody"),
        (&behind, 503, "no device lamp"), // it may come
    ] {
        let answer = gateway.visitor().ask(request);
        answer.expect_refusal(status);
        assert!(answer.text().contains(REMEDY) && answer.text().contains(why), "{}", answer.text());
    }
    // A visitor's request reads what it has ever read.
    let post = "POST /nobody/ HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n";
    for request in [post, "GET /nobody/ HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let answer = gateway.visitor().ask(request);
        answer.expect_refusal(404);
        assert!(
            answer.text().contains("no device nobody is connected, or was recently"),
            "{}",
            answer.text()
        );
    }
    // The device itself says so, too.
    let url = at_visitors(&gateway);
    let device = Ptth::start(&["device", &url, "--to", "http://127.0.0.1:1"]);
    device.expect_stderr(REMEDY);
    // Where visitors show a token, and where no route is the device's.
    let with_tokens = Gateway::start(&["--visitor-tokens", tokens]);
    says(&check(&at_visitors(&with_tokens), &[]), 3, &["401", "who show a token", REMEDY]);
    let with_route = Gateway::start(&["--route", "host=devices.example"]);
    says(&check(&at_visitors(&with_route), &[]), 3, &["404", "has no such route", REMEDY]);
    // The device is there: its local server gets neither offer nor poll, nor the token in them.
    let mut link = gateway.link_with("lamp", &format!("Authorization: Bearer {token}\r\n"));
    let old = offer.replace("HTTP/1.1", "HTTP/1.0");
    let newer = offer.replace("PTTH/1.0", "ptth/2.0");
    for request in [offer, &old, &newer, &poll.replace("nobody/", "lamp")] {
        let answer = gateway.visitor().ask(request);
        answer.expect_refusal(404);
        assert!(answer.text().contains("not a request for lamp"), "{}", answer.text());
    }
    // What is for a gateway behind it goes there.
    let mut visitor = gateway.visitor();
    visitor.write(behind);
    let head = link.read_head();
    assert_eq!((head.get("upgrade"), head.target()), (Some("PTTH/1.0"), "/inner"));
    link.write(SWITCH);
    assert_eq!(visitor.read_head().status(), 101);
}

#[test]
fn an_idle_link_that_is_cut_is_told() {
    let cut = |raw: &RawGateway| offer_of(raw).write(SWITCH);
    says(&against(cut, &[]), 1, &["101", "the idle link ended", "--heartbeat"]);
    // A gateway that says nothing is no fault; one that asks gets its answer.
    let quiet = |raw: &RawGateway| {
        let mut peer = offer_of(raw);
        peer.write(SWITCH);
        peer.expect_end();
    };
    says(&against(quiet, &["--heartbeat", "200ms"]), 0, &["none within 200ms", "usable"]);
    let asks = |raw: &RawGateway| {
        let mut peer = offer_of(raw);
        peer.write([SWITCH, b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
        assert_eq!(peer.read_answer("OPTIONS").status(), 200);
    };
    says(&against(asks, &[]), 0, &["heartbeat  it came", "usable"]);
}

#[test]
fn a_port_that_refuses_and_a_name_that_is_not_there_are_told() {
    let raw = RawGateway::start();
    let url = raw.url("lamp");
    drop(raw);
    says(&check(&url, &[]), 1, &["nothing listens", "firewall"]);
    let missing = check("http://no-such-gateway.invalid/lamp", &["--timeout", "5s"]);
    says(&missing, 1, &["DNS", "no-such-gateway.invalid has no address"]);
    says(&check("ftp://a.example/lamp", &[]), 2, &["ftp://a.example"]);
    says(&check("http://a.example/lamp", &["--pin", "sha256/AAAA"]), 2, &["--pin"]);
}

#[test]
fn the_chain_is_explained() {
    let (authority, other) = (Authority::new(), Authority::new());
    let pair = authority.server("gateway");
    let gateway = Gateway::start(&[
        "--devices-cert",
        pair.certificate(),
        "--devices-key",
        pair.key(),
        "--heartbeat",
        "100ms",
    ]);
    let port = gateway.devices.port();
    let url = format!("https://localhost:{port}/lamp");
    let chain = ["for localhost", "issued by \"an authority of these tests\"", "to 2090-01-01"];
    let right = check(&url, &["--ca", authority.ca()]);
    says(&right, 0, &["TLSv1.3", "usable"]);
    says(&right, 0, &chain);
    let wrong = check(&url, &["--ca", other.ca()]);
    says(&wrong, 1, &["no CA that is trusted here has issued the gateway's certificate", "--pin"]);
    says(&wrong, 1, &chain);
    let plain = check(&format!("http://localhost:{port}/lamp"), &["--timeout", "2s"]);
    says(&plain, 1, &["wrong  offer      400: this port speaks TLS; write https:// in the URL"]);
    assert!(!plain.1.contains("does not serve"), "{}", plain.1);
    let raw = RawGateway::at_localhost();
    let secure = format!("https://localhost:{}/lamp", raw.addr.port());
    let mut process = Ptth::start(&["check", &secure]);
    drop(raw.accept()); // whether the port is open
    let mut peer = raw.accept();
    assert!(peer.stirs_within(std::time::Duration::from_secs(5)));
    peer.write("HTTP/1.1 400 Bad Request\r\n\r\n");
    assert_eq!(process.exit_code(), 1);
    let told = process.all_lines().join("\n");
    assert!(told.contains("what came is plain HTTP; write http:// in the URL"), "{told}");
}

#[test]
fn a_proxy_that_removes_upgrade_is_told_from_one_that_passes_it() {
    if !need("nginx") {
        return;
    }
    let gateway = Gateway::start(&["--poll-hold", "200ms", "--heartbeat", "100ms"]);
    let proxy = Proxy::nginx(&gateway, "");
    let told = check(&proxy.url("lamp"), &[]);
    says(&told, 0, &["removed Upgrade", "COMET will be used", "usable"]);
    let proxy = Proxy::nginx(&gateway, NGINX_PASSES_UPGRADES);
    says(&check(&proxy.url("lamp"), &[]), 0, &["101", "heartbeat  it came", "upgrade"]);
    // With a token whose name is not the check's, too.
    let folder = TempDir::new("check-nginx");
    let (token, tokens) = (folder.0.join("token"), folder.0.join("tokens"));
    let (_, made, _) = Ptth::run(&["token", "lamp"]);
    let (secret, line) = made.split_once('\n').unwrap();
    std::fs::write(&token, secret).unwrap();
    std::fs::write(&tokens, line).unwrap();
    let gateway = Gateway::start(&["--tokens", tokens.to_str().unwrap()]);
    let more = ["--token-file", token.to_str().unwrap()];
    let proxy = Proxy::nginx(&gateway, "");
    says(&check(&proxy.url("lamp"), &more), 0, &["removed Upgrade", "COMET will be used"]);
    let proxy = Proxy::nginx(&gateway, NGINX_PASSES_UPGRADES);
    says(&check(&proxy.url("lamp"), &more), 0, &["Upgrade reaches the gateway"]);
}

#[test]
fn the_proxy_of_the_environment_is_used() {
    let gateway = Gateway::start(&["--heartbeat", "100ms"]);
    let raw = RawGateway::start();
    let url = gateway.device_url("lamp");
    let through = |answer: &'static [u8]| {
        let mut command = Ptth::command(&["check", &url]);
        command.env("http_proxy", format!("http://me:hunter2@{}", raw.addr));
        let mut process = crate::support::Process::start(&mut command);
        let mut peer = loop {
            let mut peer = raw.accept();
            if let Some(head) = peer.try_read_head() {
                assert_eq!(head.method(), "CONNECT");
                assert_eq!(head.get("proxy-authorization"), Some("Basic bWU6aHVudGVyMg=="));
                break peer;
            }
        };
        peer.write(answer);
        let code = process.exit_code();
        let lines = process.all_lines().join("\n");
        assert!(!lines.contains("hunter2"), "{lines}");
        (code, lines)
    };
    let told = through(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n");
    says(&told, 1, &["proxy", "http_proxy", "no tunnel", "poll through it"]);
    let told = through(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n");
    says(&told, 1, &["407", "credentials"]);
    // One of the command line is as strict as a device's.
    for given in ["http://me:hunter2@127.0.0.1:1", "socks5://127.0.0.1:1", "127.0.0.1:1"] {
        let (code, out, error) = Ptth::run(&["check", &url, "--proxy", given]);
        assert!(code == 2 && out.is_empty() && !error.contains("hunter2"), "{given}: {error}");
    }
    // One that is not spoken to is left out, as a device leaves it.
    let mut command = Ptth::command(&["check", &url, "--heartbeat", "0s"]);
    let (code, out, error) = Ptth::finish(command.env("all_proxy", "socks5://127.0.0.1:1"));
    assert!(error.contains("all_proxy: this kind of proxy is not supported"), "{error}");
    assert!(code == 0 && out.contains("usable"), "{out}");
    gateway.get("/nobody/").expect_refusal(404);
}
