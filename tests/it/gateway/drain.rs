//! A gateway that stops: the health path, the notice and what is served in it, where devices go,
//! and the end (T39).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use crate::support::process::{get, offer};
use crate::support::{DEADLINE, Gateway, LocalServer, Ptth, RawPeer, eventually, slack};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A gateway that was asked to stop and gives a notice of a minute.
#[track_caller]
fn give_notice(gateway: &Gateway) {
    gateway.process.signal("TERM");
    // Each of its loops.
    eventually("the health path says that it stops", || {
        (0..20).all(|_| gateway.get("/health").status() == 503).then_some(())
    });
}

/// One that may be asked to.
fn start(more: &[&str]) -> Gateway {
    Gateway::start(&[&["--health-path", "/health", "--drain-notice", "60s"], more].concat())
}

#[track_caller]
fn ends_well(mut gateway: Gateway) {
    assert_eq!(
        gateway.process.exit_code_within(Duration::from_secs(5)),
        0,
        "{}",
        gateway.process.stderr()
    );
}

/// A load balancer has no token, and is told no more than it asks for.
#[test]
fn the_health_path_needs_no_token_and_tells_nothing_else() {
    let tokens = crate::gateway::tokens::TokenFile::new(&[("secret", "lamp")]);
    let gateway = start(&["--visitor-tokens", tokens.path()]);
    let mut visitor = gateway.visitor();
    visitor.ask(&get("/health")).expect_ok("ok\n");
    visitor.write("HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(visitor.read_answer("HEAD").status(), 200);
    for request in [
        "POST /health",
        "DELETE /health",
        "OPTIONS /health",
        "GET /healthy",
        "GET /health/",
        "GET /lamp/",
        "GET /",
    ] {
        let text = format!("{request} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        gateway.visitor().ask(&text).expect_refusal(401);
    }
    // Who may ask is told how.
    let text = format!(
        "POST /health HTTP/1.1\r\nHost: a\r\n{}Content-Length: 0\r\n\r\n",
        crate::gateway::tokens::bearer("secret")
    );
    gateway.visitor().ask(&text).expect_refusal(405);
    // Framing first: what stands in a body is no request.
    let mut visitor = gateway.visitor();
    let inner = get("/health");
    visitor.write(format!(
        "GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{inner}",
        inner.len()
    ));
    visitor.read_answer("GET").expect_ok("ok\n");
    visitor.expect_end();
    let mut visitor = gateway.visitor();
    visitor.ask("GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n").expect_refusal(400);
}

#[test]
fn the_health_path_is_the_gateways_own() {
    let gateway = start(&[]);
    let _device = Ptth::device(&gateway, "health", &["--text", "a device's"]);
    let mut visitor = gateway.visitor();
    for _ in 0..2 {
        visitor.ask(&get("/health")).expect_ok("ok\n");
        visitor.ask(&get("/health?from=balancer")).expect_ok("ok\n");
    }
    visitor.write("HEAD /health HTTP/1.1\r\nHost: any.example\r\n\r\n");
    let head = visitor.read_answer("HEAD");
    assert_eq!(
        (head.status(), head.body.len(), head.head.get("cache-control")),
        (200, 0, Some("no-store"))
    );
    visitor.write("POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    let refused = visitor.read_answer("POST");
    assert_eq!((refused.status(), refused.head.get("allow")), (405, Some("GET, HEAD")));
    let old = gateway.visitor().ask("GET /health HTTP/1.0\r\n\r\n");
    old.expect_ok("ok\n");
    // Exactly this path.
    for target in ["/health/", "/health/x"] {
        gateway.get(target).expect_ok("a device's");
    }
    gateway.get("/healthy/").expect_refusal(404);
    assert!(
        !gateway.process.stderr().contains("ask with GET"),
        "nothing is logged for each request"
    );

    let mut kept = gateway.visitor();
    kept.ask(&get("/health")).expect_ok("ok\n");
    give_notice(&gateway);
    let stopping = kept.ask(&get("/health"));
    assert_eq!(stopping.status(), 503, "{}", stopping.text());
    assert!(stopping.head.closes());
    kept.expect_end();
    assert_eq!(gateway.get("/health").status(), 503);
    gateway.get("/health/").expect_ok("a device's");
    gateway.process.signal("TERM");
    ends_well(gateway);

    // Without the option it is a path like any other.
    let gateway = Gateway::start(&[]);
    let _device = Ptth::device(&gateway, "health", &["--text", "a device's"]);
    gateway.get("/health/").expect_ok("a device's");
    assert_eq!(gateway.get("/health").status(), 308);
    let (code, _, stderr) = Ptth::run(&[
        "gateway",
        "--devices",
        "127.0.0.1:0",
        "--visitors",
        "127.0.0.1:0",
        "--health-path",
        "health",
    ]);
    assert!(
        code == 2 && stderr.contains("health path") && stderr.contains("/health"),
        "{code}: {stderr}"
    );
}

#[test]
fn within_the_notice_everything_is_served_and_every_answer_is_its_connections_last() {
    let gateway = start(&[]);
    let mut link = gateway.link("lamp");
    let serve = |link: &mut RawPeer| {
        link.read_head();
        link.write(OK);
    };
    let mut ask = |visitor: &mut RawPeer| {
        visitor.write(get("/lamp/x"));
        serve(&mut link);
        visitor.read_answer("GET")
    };
    let (mut idle, mut silent, mut begun, mut waiting) =
        (gateway.visitor(), gateway.visitor(), gateway.visitor(), gateway.visitor());
    for visitor in [&mut idle, &mut silent] {
        assert!(!ask(visitor).head.closes());
    }
    let mut other = gateway.link("desk");
    begun.write(get("/desk/x"));
    other.read_head();
    other.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
    assert!(begun.stirs_within(DEADLINE));
    waiting.write(get("/lamp/x"));
    give_notice(&gateway);
    serve(&mut link);
    assert!(waiting.read_answer("GET").head.closes(), "in progress when the notice began");
    waiting.expect_end();
    // Its head had gone out before; so its next answer says it.
    other.write("k");
    let rest = begun.read_answer("GET");
    assert!(!rest.head.closes() && rest.body == b"ok", "{}", rest.text());
    let mut ask = |visitor: &mut RawPeer| {
        visitor.write(get("/lamp/x"));
        serve(&mut link);
        visitor.read_answer("GET")
    };
    for visitor in [&mut idle, &mut begun, &mut gateway.visitor()] {
        let answer = ask(visitor);
        answer.expect_ok("ok");
        assert!(answer.head.closes());
        visitor.expect_end();
    }
    let refused = gateway.get("/nobody/");
    assert!(refused.status() == 404 && refused.head.closes());
    silent.expect_quiet(Duration::from_millis(100));
    // A second signal ends the notice.
    let then = Instant::now();
    gateway.process.signal("TERM");
    silent.expect_end();
    let goaway = link.read_head();
    assert!(goaway.start == "OPTIONS * HTTP/1.1" && goaway.closes(), "{}", goaway.text());
    drop((link, other));
    ends_well(gateway);
    assert!(then.elapsed() < Duration::from_secs(2) + slack(), "{:?}", then.elapsed());
}

#[test]
fn the_notice_has_its_time_and_sigint_needs_none() {
    let gateway = Gateway::start(&["--drain-notice", "400ms"]);
    let then = Instant::now();
    gateway.process.signal("TERM");
    ends_well(gateway);
    let took = then.elapsed();
    assert!(
        took >= Duration::from_millis(400) && took < Duration::from_millis(400) + slack(),
        "{took:?}"
    );
    let gateway = start(&[]);
    gateway.process.signal("INT");
    ends_well(gateway);
    // Five seconds by default.
    let mut command =
        Ptth::command(&["gateway", "--devices", "127.0.0.1:0", "--visitors", "127.0.0.1:0"]);
    let mut process = crate::support::Process::start(&mut command);
    process.line();
    process.signal("TERM");
    process.expect_stderr("it serves on for 5s");
    process.signal("TERM");
    process.expect_stderr("without further notice");
    assert_eq!(process.exit_code_within(Duration::from_secs(4)), 0);
}

#[test]
fn within_the_notice_new_devices_are_sent_away_and_those_that_poll_go_on() {
    let gateway = start(&["--wait-for-link", "9s"]);
    let url = gateway.device_url("poller");
    let poller = Ptth::start(&["device", &url, "--text", "polled", "--fallback", "only"]);
    assert!(poller.line().starts_with("connected poller"));
    give_notice(&gateway);
    let mut late = gateway.dial();
    late.write(offer("late", ""));
    let refused = late.read_answer("POST");
    refused.expect_refusal(503);
    let away: u64 = refused.head.get("retry-after").unwrap().parse().unwrap();
    assert!((50..=61).contains(&away), "until the notice is over: {away}");
    let mut late = gateway.dial();
    late.write(
        "POST /late HTTP/1.1\r\nHost: gw\r\nAccept: message/http\r\nContent-Length: 0\r\n\r\n",
    );
    late.read_answer("POST").expect_refusal(503);
    for _ in 0..5 {
        gateway.get("/poller/x").expect_ok("polled");
    }
    gateway.process.signal("TERM");
    ends_well(gateway);
}

#[test]
fn devices_go_where_the_operator_says() {
    let other = Gateway::at_localhost(&[]);
    let origin = format!("http://{}", other.devices);
    let gateway = Gateway::at_localhost(&[
        "--health-path",
        "/health",
        "--drain-notice",
        "60s",
        "--drain-to",
        &origin,
        "--loops",
        "1", // which has heard of the notice for certain
    ]);
    let linked = Ptth::device(&gateway, "lamp", &["--text", "linked"]);
    let url = gateway.device_url("poller");
    let poller = Ptth::start(&[
        "device",
        &url,
        "--text",
        "polled",
        "--fallback",
        "only",
        "--backoff",
        "10ms..200ms",
    ]);
    assert!(poller.line().starts_with("connected poller"));
    give_notice(&gateway);
    for request in [
        offer("late/more?x=1", ""),
        "POST /late/more?x=1 HTTP/1.1\r\nHost: gw\r\nAccept: message/http\r\nContent-Length: 0\r\n\r\n".to_owned(),
    ] {
        let mut late = gateway.dial();
        late.write(&request);
        let sent = late.read_answer("POST");
        assert_eq!((sent.status(), sent.head.get("location")), (307, Some(format!("{origin}/late/more?x=1").as_str())), "{}", sent.text());
    }
    let url = gateway.device_url("desk");
    let desk = Ptth::start(&["device", &url, "--text", "new", "--backoff", "10ms..200ms"]);
    assert!(desk.line().starts_with("connected desk"), "{}", desk.stderr());
    other.get("/desk/x").expect_ok("new");
    // Those that are here stay until the notice is over, and then hear the same.
    gateway.get("/lamp/x").expect_ok("linked");
    gateway.get("/poller/x").expect_ok("polled");
    gateway.process.signal("TERM");
    for (device, text) in [(&linked, "linked"), (&poller, "polled")] {
        let name = if text == "linked" { "lamp" } else { "poller" };
        eventually(&format!("{name} is at the other gateway; {}", device.stderr()), || {
            (other.get(&format!("/{name}/x")).status() == 200).then_some(())
        });
        other.get(&format!("/{name}/x")).expect_ok(text);
    }
    ends_well(gateway);
    for wrong in
        ["b.example:9999", "http://b.example/path", "ftp://b.example", "http://user@b.example"]
    {
        let (code, _, stderr) = Ptth::run(&[
            "gateway",
            "--devices",
            "127.0.0.1:0",
            "--visitors",
            "127.0.0.1:0",
            "--drain-to",
            wrong,
        ]);
        assert!(code == 2 && stderr.contains("http://b.example:9999"), "{wrong}: {code}: {stderr}");
    }
}

#[test]
fn what_is_left_at_the_end_is_told_so_and_tunnels_are_closed() {
    let gateway = Gateway::start(&["--drain-timeout", "500ms"]);
    let (mut link, mut other) = (gateway.link("lamp"), gateway.link("chat"));
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/never"));
    link.read_head();
    let mut tunnel = gateway.visitor();
    tunnel.write("GET /chat/x HTTP/1.1\r\nHost: a\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n");
    other.read_head();
    other.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n");
    assert_eq!(tunnel.read_head().status(), 101);
    let then = Instant::now();
    gateway.process.signal("TERM");
    gateway.process.expect_stderr("stopping");
    other.write("still here");
    assert_eq!(tunnel.read_exact(10), b"still here");
    let answer = visitor.read_answer("GET");
    answer.expect_refusal(502);
    assert!(answer.text().contains("stopped"), "{}", answer.text());
    tunnel.expect_closed();
    other.expect_closed();
    let took = then.elapsed();
    assert!(
        took >= Duration::from_millis(500) && took < Duration::from_millis(500) + slack(),
        "{took:?}"
    );
    ends_well(gateway);
}

#[test]
fn an_upgrade_within_the_notice_is_a_tunnel_still() {
    let gateway = start(&[]);
    let mut link = gateway.link("chat");
    give_notice(&gateway);
    let mut tunnel = gateway.visitor();
    tunnel.write("GET /chat/x HTTP/1.1\r\nHost: a\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n");
    link.read_head();
    link.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n");
    let head = tunnel.read_head();
    assert!(head.status() == 101 && !head.closes(), "{}", head.text());
    tunnel.write("x");
    assert_eq!(link.read_exact(1), b"x");
}

#[test]
fn a_device_that_stops_takes_nothing_new_and_has_its_time() {
    let (release, hold) = std::sync::mpsc::channel::<()>();
    let hold = std::sync::Mutex::new(hold);
    let local = LocalServer::with(move |c| {
        if c.head.target().ends_with("slow") {
            let _ = hold.lock().unwrap().recv_timeout(DEADLINE);
        }
        c.text("finished");
    });
    let gateway = Gateway::start(&["--wait-for-link", "10ms"]);
    let mut device =
        Ptth::device(&gateway, "lamp", &["--to", &local.url(), "--drain-timeout", "60s"]);
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/slow"));
    eventually("the local server was asked", || (local.count() == 1).then_some(()));
    device.signal("TERM");
    // Until it has heard the signal it takes some.
    eventually("nothing new reaches the device", || {
        (gateway.get("/lamp/other").status() == 503).then_some(())
    });
    let asked = local.count();
    for _ in 0..10 {
        gateway.get("/lamp/other").expect_refusal(503);
    }
    assert_eq!(local.count(), asked, "it took something new");
    release.send(()).unwrap();
    visitor.read_answer("GET").expect_ok("finished");
    assert_eq!(device.exit_code_within(Duration::from_secs(5)), 0, "{}", device.stderr());
    // What takes longer is cut, and the exit code is the same.
    let mut device =
        Ptth::device(&gateway, "lamp", &["--to", &local.url(), "--drain-timeout", "300ms"]);
    let mut visitor = gateway.visitor();
    visitor.write("POST /lamp/slow HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    eventually("the local server was asked", || (local.count() == asked + 1).then_some(()));
    let then = Instant::now();
    device.signal("TERM");
    visitor.read_answer("POST").expect_refusal(502);
    assert_eq!(device.exit_code_within(Duration::from_secs(5)), 0, "{}", device.stderr());
    let took = then.elapsed();
    assert!(
        took >= Duration::from_millis(300) && took < Duration::from_millis(300) + slack(),
        "{took:?}"
    );
}
