//! `ptth call`, `--log-format` and `ptth device --status`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::support::{
    Authority, Gateway, LocalServer, Process, Ptth, RawGateway, RawPeer, TempDir, eventually,
};

#[test]
fn a_device_is_called_as_by_a_visitor() {
    let gateway = Gateway::start(&["--wait-for-link", "300ms"]);
    let local = LocalServer::with(|c| {
        if c.head.target() == "/echo" {
            let body = c.body();
            c.answer("200 OK", "X-Kind: echo\r\n", body);
        } else {
            c.answer("404 Not Found", "", "nothing here");
        }
    });
    let _device = Ptth::device(&gateway, "lamp", &["--to", &local.url()]);
    let visitors = format!("http://{}", gateway.visitors);
    let call = |more: &[&str]| Ptth::run(&[&["call", "--visitors", &visitors], more].concat());
    let echoed = call(&["lamp", "POST", "/echo", "--data", "a text", "-H", "X-Of: a caller"]);
    assert_eq!((echoed.0, echoed.1.as_str()), (0, "a text"), "{}", echoed.2);
    assert_eq!(local.last().get("x-of"), Some("a caller"));
    assert_eq!(local.last().method(), "POST");
    let folder = TempDir::new("call");
    let file = folder.0.join("body");
    std::fs::write(&file, "of a file").unwrap();
    let data = format!("@{}", file.display());
    let included = call(&["lamp", "PUT", "/echo", "-i", "--data", &data]);
    assert!(included.1.starts_with("HTTP/1.1 200 OK"), "{}", included.1);
    assert!(included.1.to_lowercase().contains("x-kind: echo"), "{}", included.1);
    assert!(included.1.ends_with("of a file"), "{}", included.1);
    let missing = call(&["lamp", "GET", "/nothing?x=1"]);
    assert_eq!((missing.0, missing.1.as_str()), (1, "nothing here"));
    assert!(missing.2.contains("404"), "{}", missing.2);
    assert_eq!(local.last().target(), "/nothing?x=1");
    let nobody = call(&["door", "GET", "/"]);
    assert!(nobody.0 == 1 && nobody.2.contains("404"), "{}", nobody.2);
    for (more, word) in [
        (&["lamp", "GET", "status"][..], "status"),
        (&["lamp", "G T", "/"], "method"),
        (&["lamp", "GET", "/", "-H", "nothing"], "NAME: VALUE"),
        (&["lamp", "GET", "/", "-H", "Host: a"], "Host"),
        (&["lamp", "GET", "/", "--pin", "sha256/x"], "--pin"),
        (&["lamp", "GET", "/", "--data", "@/nowhere"], "/nowhere"),
    ] {
        let (code, _, err) = call(more);
        assert!(code == 2 && err.contains(word), "{more:?}: {code} {err}");
    }
    let raw = RawGateway::start();
    let url = format!("http://{}", raw.addr);
    let mut process = Ptth::start(&["call", "lamp", "GET", "/", "--visitors", &url]);
    let (mut peer, head) = raw.offer();
    assert_eq!(head.target(), "/lamp/");
    peer.write("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
    drop(peer);
    assert_eq!(process.exit_code(), 1);
    process.expect_stderr("cut off");
    let late = ["call", "lamp", "GET", "/", "--visitors", &url, "--timeout", "100ms"];
    assert_eq!(Ptth::run(&late).0, 1);
}

#[test]
fn a_call_shows_a_token_and_checks_certificates() {
    let authority = Authority::new();
    let pair = authority.server("gateway");
    let folder = TempDir::new("call-token");
    let (_, made, _) = Ptth::run(&["token", "lamp"]);
    let (token, line) = made.split_once('\n').unwrap();
    let tokens = folder.0.join("tokens");
    std::fs::write(&tokens, line).unwrap();
    let gateway = Gateway::start(&[
        "--visitors-cert",
        pair.certificate(),
        "--visitors-key",
        pair.key(),
        "--visitor-tokens",
        tokens.to_str().unwrap(),
    ]);
    let _device = Ptth::device(&gateway, "lamp", &["--text", "here"]);
    let visitors = format!("https://localhost:{}", gateway.visitors.port());
    let call = |more: &[&str], token: Option<&str>| {
        let arguments = [&["call", "lamp", "GET", "/", "--visitors", &visitors], more].concat();
        let mut command = Ptth::command(&arguments);
        token.iter().for_each(|token| {
            command.env("PTTH_VISITOR_TOKEN", token);
        });
        Ptth::finish(&mut command)
    };
    let ca = ["--ca", authority.ca()];
    let right = call(&ca, Some(token));
    assert_eq!((right.0, right.1.as_str()), (0, "here"), "{}", right.2);
    assert!(call(&ca, None).2.contains("401"));
    let other = Authority::new();
    let (code, _, err) = call(&["--ca", other.ca()], Some(token));
    assert!(code == 1 && err.contains("no CA that is trusted here"), "{err}");
}

#[test]
fn the_log_is_text_or_json() {
    let raw = RawGateway::start();
    let url = raw.url("lamp");
    drop(raw);
    let run = |more: &[&str], variable: Option<&str>| {
        let device =
            ["device", &url, "--text", "x", "--max-retries", "2", "--backoff", "10ms..20ms"];
        let mut command = Ptth::command(&[&device[..], more].concat());
        variable.iter().for_each(|format| {
            command.env("PTTH_LOG_FORMAT", format);
        });
        let (code, _, err) = Ptth::finish(&mut command);
        assert_eq!(code, 1, "{err}");
        err
    };
    let is_json = |text: &str| {
        let parsed: Vec<Option<serde_json::Value>> =
            text.lines().map(|line| serde_json::from_str(line).ok()).collect();
        assert!(!parsed.is_empty(), "there are no lines");
        parsed.iter().all(|line| {
            line.as_ref().is_some_and(|line| {
                ["level", "target", "message"].iter().all(|key| line[key].is_string())
            })
        })
    };
    assert!(run(&[], None).contains("WARN"));
    for json in [run(&["--log-format", "json"], None), run(&[], Some("json"))] {
        assert!(is_json(&json) && json.contains("\"time\":\""), "{json}");
    }
    let text = run(&["--log-format", "text"], Some("json"));
    assert!(text.contains("ptth: ") && !is_json(&text), "{text}");
    let mut gateway = Gateway::start(&["--log-format", "json"]);
    gateway.process.signal("USR1");
    gateway.process.expect_stderr("\"message\":\"state: ");
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit_code(), 0);
    assert!(is_json(&gateway.process.stderr()), "{}", gateway.process.stderr());
}

/// Waits until the status says this of being connected.
#[track_caller]
fn status_is(read: impl Fn() -> Option<String>, connected: bool) -> serde_json::Value {
    eventually(&format!("the status says connected: {connected}"), || {
        // A file is replaced whole: whatever is read is JSON.
        let text = read()?;
        let status: serde_json::Value = serde_json::from_str(&text).expect("the status is JSON");
        (status["connected"] == connected).then_some(status)
    })
}

#[test]
fn a_device_tells_its_status_in_a_file() {
    let folder = TempDir::new("status");
    let path = folder.0.join("status.json");
    let read = || std::fs::read_to_string(&path).ok();
    let raw = RawGateway::start();
    let url = raw.url("lamp");
    let status = ["--status", path.to_str().unwrap(), "--backoff", "10ms..20ms"];
    let mut device = Ptth::start(&[&["device", &url, "--text", "x"], &status[..]].concat());
    let (mut peer, _) = raw.offer();
    assert_eq!(status_is(read, false)["last_error"], serde_json::Value::Null);
    peer.write(crate::support::SWITCH);
    let up = status_is(read, true);
    assert_eq!((&up["name"], &up["gateways"][0]["url"]), (&"lamp".into(), &url.as_str().into()));
    assert!(up["via"].as_str().unwrap().contains("PTTH/1.0"), "{up}");
    assert!(up["since"].as_u64().unwrap() > 1_700_000_000, "{up}");
    drop((peer, raw));
    let down = status_is(read, false);
    assert!(down["last_error"]["text"].is_string() && down["stopped"] == false, "{down}");
    device.signal("TERM");
    assert_eq!(device.exit_code(), 0);
    assert_eq!(status_is(read, false)["stopped"], true);
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1, "nothing else is left behind");
    let nowhere = ["device", &url, "--text", "x", "--status", "/nowhere/at/all.json"];
    let (code, _, err) = Ptth::run(&nowhere);
    assert!(code == 2 && err.contains("/nowhere/at/all.json"), "{err}");
}

#[test]
fn a_device_tells_its_status_at_a_listener() {
    let raw = RawGateway::start();
    let device: Process =
        Ptth::start(&["device", &raw.url("lamp"), "--text", "x", "--status", "127.0.0.1:0"]);
    let line = device.line();
    let address = line.strip_prefix("status http://").unwrap().parse().unwrap();
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let ask = || RawPeer::connect(address).ask(request);
    let (mut peer, _) = raw.offer();
    assert_eq!(ask().status(), 503);
    peer.write(crate::support::SWITCH);
    assert!(device.line().starts_with("connected lamp"));
    status_is(|| Some(ask().text()), true);
    assert_eq!(ask().status(), 200);
    // Silent clients keep nobody waiting, however many there are: the oldest is closed.
    let mut idle: Vec<RawPeer> = (0..16).map(|_| RawPeer::connect(address)).collect();
    assert_eq!(ask().status(), 200);
    idle[0].expect_end();
    // A page of another site that was made to ask here (DNS rebinding), and a request without a host.
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: rebound.example\r\n\r\n", 421),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: rebound.example\r\n\r\n", 421),
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n", 200),
        ("HEAD / HTTP/1.1\r\nHost: [::1]\r\n\r\n", 200),
        ("GET / HTTP/1.0\r\n\r\n", 200),
        ("nonsense\r\n\r\n", 400),
    ] {
        assert_eq!(RawPeer::connect(address).ask(request).status(), status, "{request}");
    }
    let beyond = ["device", &raw.url("lamp"), "--text", "x", "--status", "0.0.0.0:0"];
    let (code, _, err) = Ptth::run(&beyond);
    assert!(code == 2 && err.contains("loopback"), "{err}");
}
