//! Other protocols over a link (WebSocket and whatever else `Upgrade` names): bytes in, bytes out,
//! through handlers, through the forwarder, and with real peers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use http::{Request, Response};
use reverse_http::{Body, Device, Limits, Routes, upgrade};

use crate::support::process::get;
use crate::support::{
    Gateway, LocalServer, Process, Ptth, RawPeer, each_row, eventually, need, repository, say,
    skipped,
};

const OFFER: &str =
    "GET /lamp/chat HTTP/1.1\r\nHost: a\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n";
const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n";

/// A visitor and a device's raw link that have been switched.
pub fn tunnel(gateway: &Gateway) -> (RawPeer, RawPeer) {
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(OFFER);
    let request = link.read_head();
    assert_eq!(
        (request.get("upgrade"), request.get("connection")),
        (Some("chat"), Some("Upgrade")),
        "{}",
        request.text()
    );
    link.write(SWITCH);
    let head = visitor.read_head();
    assert_eq!(
        (head.status(), head.get("upgrade"), head.get("connection")),
        (101, Some("chat"), Some("Upgrade")),
        "{}",
        head.text()
    );
    for name in ["content-length", "transfer-encoding", "date"] {
        assert_eq!(head.get(name), None, "{}", head.text());
    }
    (visitor, link)
}

#[test]
fn bytes_pass_both_ways_and_each_direction_ends_by_itself() {
    let gateway = Gateway::start(&["--heartbeat", "100ms"]);
    let (mut visitor, mut link) = tunnel(&gateway);
    for n in 0..20 {
        link.write(format!("from the device {n}\n"));
        assert_eq!(
            visitor.read_exact(format!("from the device {n}\n").len()),
            format!("from the device {n}\n").as_bytes()
        );
        visitor.write(format!("from the visitor {n}\n"));
        assert_eq!(
            link.read_exact(format!("from the visitor {n}\n").len()),
            format!("from the visitor {n}\n").as_bytes()
        );
    }
    // No heartbeat disturbs it.
    link.expect_quiet(Duration::from_millis(350));
    visitor.finish_writing();
    link.expect_end();
    link.write("the last word");
    link.finish_writing();
    assert_eq!(visitor.read_to_end(), b"the last word");
    // The link is gone with its tunnel, and nothing else.
    gateway.get("/lamp/x").expect_refusal(503);
}

#[test]
fn bytes_behind_either_head_are_not_lost() {
    let gateway = Gateway::start(&[]);
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(format!("{OFFER}early bird"));
    link.read_head();
    link.write(format!("{SWITCH}first"));
    assert_eq!(visitor.read_head().status(), 101);
    assert_eq!(visitor.read_exact(5), b"first");
    assert_eq!(link.read_exact(10), b"early bird");
}

#[test]
fn a_101_cut_at_every_byte_switches_once() {
    let gateway = Gateway::start(&[]);
    for at in 1..SWITCH.len() {
        let mut link = gateway.link("lamp");
        let mut visitor = gateway.visitor();
        visitor.write(OFFER);
        link.read_head();
        link.write(&SWITCH[..at]);
        link.write(format!("{}x", &SWITCH[at..]));
        assert_eq!(visitor.read_head().status(), 101, "cut at {at}");
        assert_eq!(visitor.read_exact(1), b"x");
    }
}

#[test]
fn a_device_may_decline_and_the_link_goes_on() {
    let gateway = Gateway::start(&[]);
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    for _ in 0..3 {
        visitor.write(OFFER);
        link.read_head();
        link.write("HTTP/1.1 426 Upgrade Required\r\nUpgrade: other\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nno");
        let answer = visitor.read_answer("GET");
        assert_eq!((answer.status(), answer.text().as_str()), (426, "no"));
    }
}

#[test]
fn what_may_not_pass_is_stripped_or_refused() {
    let gateway = Gateway::start(&[]);
    // Offers that reach the device as plain requests.
    let rows = [
        (
            "h2c",
            "GET /lamp/x HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
            "",
        ),
        ("no Connection", "GET /lamp/x HTTP/1.1\r\nHost: a\r\nUpgrade: chat\r\n\r\n", ""),
        (
            "HTTP/1.0",
            "GET /lamp/x HTTP/1.0\r\nHost: a\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n",
            "",
        ),
        (
            "a body",
            "POST /lamp/x HTTP/1.1\r\nHost: a\r\nUpgrade: chat\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nhi",
            "hi",
        ),
        (
            "an empty Upgrade",
            "GET /lamp/x HTTP/1.1\r\nHost: a\r\nUpgrade: \r\nConnection: Upgrade\r\n\r\n",
            "",
        ),
    ];
    each_row(
        &rows,
        |(name, ..)| (*name).to_owned(),
        |(_, request, body)| {
            let mut link = gateway.link("lamp");
            let mut visitor = gateway.visitor();
            visitor.write(request);
            let head = link.read_head();
            assert_eq!(
                (head.get("upgrade"), head.get("connection"), head.get("http2-settings")),
                (None, None, None),
                "{}",
                head.text()
            );
            assert_eq!(link.read_exact(body.len()), body.as_bytes());
            // A 101 that nobody asked for is a broken answer.
            link.write(SWITCH);
            assert_eq!(visitor.read_head().start.split(' ').nth(1), Some("502"));
            link.expect_closed();
        },
    );
    // Of a list, what may pass does.
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write("GET /lamp/x HTTP/1.1\r\nHost: a\r\nUpgrade: h2c, chat/2, websocket\r\nConnection: keep-alive, Upgrade\r\n\r\n");
    let head = link.read_head();
    assert_eq!(
        (head.get("upgrade"), head.get("connection")),
        (Some("chat/2, websocket"), Some("Upgrade")),
        "{}",
        head.text()
    );
    // CONNECT is no way in.
    let mut visitor = gateway.visitor();
    visitor.write("CONNECT lamp:80 HTTP/1.1\r\nHost: lamp:80\r\n\r\n");
    visitor.read_answer("GET").expect_refusal(501);
}

/// What visitors offer, what a 101 switches to, and whether that is right (RFC 9110 §7.8).
const SWITCHES: [(&str, &str, bool); 14] = [
    ("websocket", "websocket", true),
    ("websocket", "WebSocket", true),
    ("foo, websocket", "websocket", true),
    ("foo, websocket", "websocket, foo", true),
    ("PTTH/0.9", "PTTH/1.0", true),
    ("TLS/1.2", "TLS/1.2, HTTP/1.1", true),
    ("websocket", "foo", false),
    ("websocket", "websocket, foo", false),
    ("websocket", "websockets", false),
    ("h2c, websocket", "h2c", false),
    ("h2c, websocket", "websocket, h2c", false),
    ("websocket", "HTTP/1.1", false),
    ("a", "a, a, a, a, a, a, a, a", true),
    ("a", "a, a, a, a, a, a, a, a, a", false),
];

fn offer_of(protocols: &str, target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: a\r\nUpgrade: {protocols}\r\nConnection: Upgrade\r\n\r\n"
    )
}

fn switch_to(protocols: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: {protocols}\r\nConnection: Upgrade\r\n\r\nhello"
    )
}

/// A part of the text that refuses a wrong switch to these protocols.
fn why_wrong(protocols: &str) -> &'static str {
    if protocols.split(',').count() > 8 { "more than 8 protocols" } else { "did not offer" }
}

fn expect_switch(visitor: &mut RawPeer, protocols: &str, right: bool) {
    if right {
        let head = visitor.read_head();
        assert_eq!((head.status(), head.get("upgrade")), (101, Some(protocols)), "{}", head.text());
        assert_eq!(visitor.read_exact(5), b"hello");
        return;
    }
    let answer = visitor.read_answer("GET");
    answer.expect_refusal(502);
    assert!(answer.text().contains(why_wrong(protocols)), "{}", answer.text());
}

/// A device, or a local server, that switches to another protocol than its visitor knows would have
/// bytes taken for what they are not.
#[test]
fn a_switch_to_what_nobody_offered_is_502() {
    let gateway = Gateway::start(&[]);
    let local = LocalServer::with(|c| {
        let protocols = c.head.get("x-switch-to").unwrap_or_default().to_owned();
        c.raw(switch_to(&protocols));
        c.close = true;
    });
    let _device = Ptth::device(&gateway, "heater", &["--to", &local.url()]);
    each_row(
        &SWITCHES,
        |(offered, switched, _)| format!("{switched} to {offered}"),
        |(offered, switched, right)| {
            let mut link = gateway.link("lamp");
            let mut visitor = gateway.visitor();
            visitor.write(offer_of(offered, "/lamp/x"));
            link.read_head();
            link.write(switch_to(switched));
            expect_switch(&mut visitor, switched, *right);
            if !right {
                link.expect_closed();
            }
            // The same at the device, which asks its local server.
            let mut visitor = gateway.visitor();
            let wish = format!("HTTP/1.1\r\nX-Switch-To: {switched}\r\n");
            visitor.write(offer_of(offered, "/heater/x").replacen("HTTP/1.1\r\n", &wish, 1));
            expect_switch(&mut visitor, switched, *right);
        },
    );
}

/// The same for a device's handler, and for a program that asks.
#[test]
fn a_handler_switches_to_what_was_offered() {
    let gateway = crate::support::gateway().listen("127.0.0.1:0").start().unwrap();
    let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
    let url = format!("http://{}/heater", gateway.devices_addr());
    let device = Device::builder(url).build().unwrap();
    let handle = device
        .spawn(|request: Request<Body>| {
            let protocols = request.headers()["x-switch-to"].clone();
            upgrade(protocols, |mut stream| stream.write_all(b"hello").unwrap())
        })
        .unwrap();
    gateway.device("heater").wait_connected(Duration::from_secs(10)).unwrap();
    each_row(
        &SWITCHES,
        |(offered, switched, _)| format!("{switched} to {offered}"),
        |(offered, switched, right)| {
            let mut visitor = RawPeer::connect(visitors);
            let wish = format!("HTTP/1.1\r\nX-Switch-To: {switched}\r\n");
            visitor.write(offer_of(offered, "/heater/x").replacen("HTTP/1.1\r\n", &wish, 1));
            match right {
                true => expect_switch(&mut visitor, switched, true),
                false => assert_eq!(visitor.read_answer("GET").status(), 500),
            }
        },
    );
    handle.stop();
    each_row(
        &SWITCHES,
        |(offered, switched, _)| format!("{switched} to {offered}"),
        |(offered, switched, right)| {
            let mut link = RawPeer::connect(gateway.devices_addr());
            link.write("POST /lamp HTTP/1.1\r\nHost: a\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n");
            assert_eq!(link.read_head().status(), 101);
            let request = Request::get("/x").header("upgrade", *offered).body(Body::empty());
            std::thread::scope(|scope| {
                let asked = scope.spawn(|| gateway.device("lamp").send(request.unwrap()));
                link.read_head();
                link.write(switch_to(switched));
                let asked = asked.join().unwrap();
                assert_eq!(asked.as_ref().is_ok_and(|answer| answer.status() == 101), *right);
                if let Err(error) = asked {
                    assert!(error.to_string().contains(why_wrong(switched)), "{error}");
                }
            });
        },
    );
}

#[test]
fn a_tunnel_that_breaks_ends_on_the_other_side() {
    let gateway = Gateway::start(&[]);
    let (visitor, mut link) = tunnel(&gateway);
    drop(visitor);
    link.expect_closed();
    let (mut visitor, link) = tunnel(&gateway);
    drop(link);
    visitor.expect_closed();
}

#[test]
fn a_reader_that_does_not_read_is_not_read_for() {
    let gateway = Gateway::start(&[]);
    let (visitor, mut link) = tunnel(&gateway);
    let before = gateway.process.resident_kib();
    // The visitor reads nothing; what the sockets and the relay hold fills up, and then the device
    // has to wait.
    link.deadline = Duration::from_millis(300);
    let piece = vec![b'x'; 1 << 20];
    let taken = (0..64).take_while(|_| link.try_write(&piece).is_ok()).count();
    assert!(taken < 64, "64 MiB went to nobody");
    let grown = gateway.process.resident_kib().saturating_sub(before);
    assert!(grown < 2048, "{grown} KiB for a tunnel whose reader does not read");
    drop(visitor);
    link.expect_no_more();
}

#[test]
fn a_handler_gets_the_stream() {
    let gateway = crate::support::gateway().listen("127.0.0.1:0").start().unwrap();
    let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
    // A stream after a 101 is no request in progress: it takes none of the handlers' threads.
    let mut limits = Limits::default();
    limits.handlers_max = 1;
    let url = format!("http://{}/lamp", gateway.devices_addr());
    let device = Device::builder(url).limits(limits).build().unwrap();
    let handle = device
        .spawn(|request: Request<Body>| match request.uri().path() {
            "/chat" => upgrade("chat", |mut stream| {
                let mut writer = stream.writer();
                for line in BufReader::new(&mut stream).lines().map_while(Result::ok) {
                    writeln!(writer, "you said {line}").unwrap();
                }
                writeln!(writer, "bye").unwrap();
            }),
            _ => Response::new(Body::from("plain")),
        })
        .unwrap();
    gateway.device("lamp").wait_connected(Duration::from_secs(10)).unwrap();
    let mut visitor = RawPeer::connect(visitors);
    visitor.write(format!("{OFFER}one\n"));
    assert_eq!(visitor.read_head().status(), 101);
    assert_eq!(visitor.read_exact(13), b"you said one\n");
    visitor.write("two\n");
    assert_eq!(visitor.read_exact(13), b"you said two\n");
    // Others are served meanwhile.
    RawPeer::connect(visitors).ask(&get("/lamp/x")).expect_ok("plain");
    visitor.finish_writing();
    assert_eq!(visitor.read_to_end(), b"bye\n");
    // A 101 that nobody asked for is the handler's mistake.
    assert_eq!(RawPeer::connect(visitors).ask(&get("/lamp/chat")).status(), 500);
    RawPeer::connect(visitors).ask(&get("/lamp/x")).expect_ok("plain");
    handle.stop();

    // The same for a program that keeps the loop itself.
    let device =
        Device::builder(format!("http://{}/lamp", gateway.devices_addr())).build().unwrap();
    let serving = std::thread::spawn(move || {
        let exchange = device.recv().unwrap();
        assert_eq!(exchange.request().headers()["upgrade"], "chat");
        let response =
            Response::builder().status(101).header("Upgrade", "chat").body(Body::empty()).unwrap();
        let mut stream = exchange.upgrade(response).unwrap();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    gateway.device("lamp").wait_connected(Duration::from_secs(10)).unwrap();
    let mut visitor = RawPeer::connect(visitors);
    visitor.write(format!("{OFFER}ping"));
    assert_eq!(visitor.read_head().status(), 101);
    assert_eq!(visitor.read_to_end(), b"ping");
    serving.join().unwrap();
}

#[test]
fn the_forwarder_passes_an_upgrade_to_its_local_server() {
    let gateway = Gateway::start(&[]);
    let local = LocalServer::with(|c| {
        c.raw(SWITCH);
        while let bytes @ [_, ..] = c.peer.read_once().as_slice() {
            let _ = c.peer.try_write(bytes.to_ascii_uppercase());
        }
        c.close = true;
    });
    let _device = Ptth::device(&gateway, "lamp", &["--to", &local.url()]);
    let mut visitor = gateway.visitor();
    visitor.write(OFFER);
    assert_eq!(visitor.read_head().status(), 101);
    for _ in 0..10 {
        visitor.write("hello");
        assert_eq!(visitor.read_exact(5), b"HELLO");
    }
    visitor.finish_writing();
    visitor.expect_end();
}

#[test]
fn through_a_mailbox_there_is_no_upgrade() {
    let gateway = Gateway::start(&[]);
    let local = LocalServer::start();
    let url = gateway.device_url("lamp");
    let device = Ptth::start(&["device", &url, "--to", &local.url(), "--fallback", "only"]);
    assert!(device.line().starts_with("connected lamp"));
    let mut visitor = gateway.visitor();
    visitor.write(OFFER);
    visitor.read_answer("GET").expect_refusal(501);
    gateway.get("/lamp/x").expect_ok("hello\n");
}

// ── WebSocket, with the npm package ws at both ends ──

fn have_ws() -> bool {
    need("node")
        && (repository("tests/peers/node_modules/ws/package.json").exists()
            || skipped("ws (from npm)"))
}

fn websocket(arguments: &[&str]) -> Command {
    let mut command = Command::new("node");
    command.arg(repository("tests/peers/websocket.js")).args(arguments);
    command
}

#[test]
fn websockets_pass() {
    if !have_ws() {
        return;
    }
    let server = Process::start(&mut websocket(&["server"]));
    let local = format!("http://127.0.0.1:{}", server.line());
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let _device = Ptth::device(&gateway, "lamp", &["--to", &local, "--links", "1..64"]);
    let url = format!("ws://{}/lamp", gateway.visitors);
    let mut client = Process::start(&mut websocket(&["client", &url, "20"]));
    assert_eq!(
        (client.exit_code_within(Duration::from_secs(60)), client.line()),
        (0, "ok".to_owned()),
        "{}",
        client.stderr()
    );
}

#[test]
fn two_thousand_idle_websockets_cost_no_thread() {
    if !have_ws() {
        return;
    }
    const DEVICES: usize = 4;
    let each = crate::engine::scale::affordable(2_000) / DEVICES;
    let server = Process::start(&mut websocket(&["server"]));
    let local = format!("http://127.0.0.1:{}", server.line());
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let names: Vec<String> = (0..DEVICES).map(|n| format!("lamp-{n}")).collect();
    let links = format!("1..{}", each + 8);
    let devices: Vec<Process> = names
        .iter()
        .map(|name| Ptth::device(&gateway, name, &["--to", &local, "--links", &links]))
        .collect();
    let threads = |processes: &[Process]| {
        gateway.process.threads() + processes.iter().map(Process::threads).sum::<u64>()
    };
    names.iter().for_each(|name| {
        assert_eq!(gateway.get(&format!("/{name}/x")).status(), 426, "it speaks WebSocket alone")
    });
    let (before, memory) =
        (eventually("all are at rest", || Some(threads(&devices))), gateway.process.resident_kib());

    let mut clients: Vec<std::process::Child> = names
        .iter()
        .map(|name| {
            let url = format!("ws://{}/{name}", gateway.visitors);
            websocket(&["idle", &url, &each.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut outputs: Vec<_> = clients
        .iter_mut()
        .map(|client| BufReader::new(client.stdout.take().unwrap()).lines())
        .collect();
    for output in &mut outputs {
        assert_eq!(output.next().unwrap().unwrap(), "open");
    }
    assert_eq!(
        threads(&devices),
        before,
        "threads with {} WebSockets, and with none",
        each * DEVICES
    );
    let grown =
        gateway.process.resident_kib().saturating_sub(memory) * 1024 / (each * DEVICES) as u64;
    say(&format!(
        "idle WebSockets: {} tunnels, {before} threads in all processes, {grown} bytes each at the gateway",
        each * DEVICES
    ));
    assert!(grown < 8 * 1024, "{grown} bytes of resident memory for each idle tunnel");
    for (client, output) in clients.iter_mut().zip(&mut outputs) {
        drop(client.stdin.take());
        assert_eq!(output.next().unwrap().unwrap(), "ok", "each of them still works");
        assert!(client.wait().unwrap().success());
    }
}
