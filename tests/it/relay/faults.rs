//! Requests that fail through no fault of the link: the link goes on, the device dials as ever, and
//! other visitors notice nothing (T48). And what a hop adds to a message, which the next hop takes
//! (T49).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use reverse_http::{Body, Device, Limits};

use crate::support::process::get;
use crate::support::{
    Gateway, LocalServer, Ptth, RawGateway, RawPeer, each_row, eventually, slack,
};

/// A pause between two dials that no test waits out: a device that paused at all fails.
const LONG_BACKOFF: [&str; 2] = ["--backoff", "60s..60s"];

fn post_chunked(body: &str) -> String {
    format!("POST /lamp/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}

// ── Nothing went out (S2) ──

#[test]
fn a_link_that_nothing_was_written_to_serves_the_next_request() {
    let trailers = "X: y\r\n".repeat(101);
    let rows = [
        ("a chunk size that is none", "zz".to_owned(), 400),
        ("0x before a size", "0x5\r\n".to_owned(), 400),
        ("101 trailer fields", format!("0\r\n{trailers}\r\n"), 400),
    ];
    for turn in ["now", "on-demand"] {
        let gateway = Gateway::start(&["--turn", turn]);
        let mut link = if turn == "now" { gateway.link("lamp") } else { on_demand(&gateway) };
        each_row(
            &rows,
            |row| format!("{turn}: {}", row.0),
            |(_, body, status)| {
                let mut visitor = gateway.visitor();
                visitor.write(post_chunked(body));
                visitor.read_answer("POST").expect_refusal(*status);
                visitor.expect_closed();
            },
        );
        // The one link was never used: what comes on it first is the next request.
        let mut visitor = gateway.visitor();
        visitor.write(get("/lamp/right"));
        if turn == "on-demand" {
            let switch = link.read_head();
            assert_eq!(switch.status(), 101, "{}", switch.text());
        }
        assert_eq!(link.read_head().target(), "/right");
        link.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        visitor.read_answer("GET").expect_ok("ok");
    }
}

#[test]
fn a_visitor_that_ends_its_request_while_it_waits_costs_no_link() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    drop(gateway.link("lamp")); // so that the name is known
    gateway.process.expect_stderr("lamp: down");
    let mut visitor = gateway.visitor();
    visitor.ask(&get("/nobody/x")).expect_refusal(404); // from here on the gateway hears of the end before it hears of a new link
    visitor.write(post_chunked("5\r\nhel"));
    visitor.finish_writing();
    let mut other = gateway.visitor();
    other.write(get("/lamp/right"));
    let mut link = gateway.link("lamp");
    assert_eq!(link.read_head().target(), "/right");
    link.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    other.read_answer("GET").expect_ok("ok");
    visitor.expect_closed();
}

/// A device whose offer is held.
fn on_demand(gateway: &Gateway) -> RawPeer {
    let mut device = gateway.dial();
    device.write(crate::support::process::offer("lamp", ""));
    eventually("the offer is held", || gateway.process.stderr().contains("lamp: up").then_some(()));
    device
}

#[test]
fn malformed_bodies_cost_a_device_neither_its_link_nor_a_pause() {
    // With one link at most, and pauses of a minute between dials, the next request would wait.
    for service in ["--text", "--to"] {
        let gateway = Gateway::start(&[]);
        let local = LocalServer::start();
        let value = if service == "--to" { local.url() } else { "hello\n".to_owned() };
        let url = gateway.device_url("lamp");
        let device = Ptth::start(
            &[&["device", &url, service, &value, "--links", "1..1"], &LONG_BACKOFF[..]].concat(),
        );
        device.line_like("connected ");
        for body in ["zz", "0x5\r\n", "5\r\nhelloX", "5\r\nhel"] {
            let mut visitor = gateway.visitor();
            visitor.write(post_chunked(body));
            if body.ends_with("hel") {
                drop(visitor); // it goes in the middle of its body
            } else {
                visitor.read_answer("POST").expect_refusal(400);
            }
            gateway.get("/lamp/x").expect_ok("hello\n");
        }
        assert!(!device.stderr().contains("next attempt"), "{}", device.stderr());
    }
}

// ── A refused request is no failed dial (S2, S3) ──

#[test]
fn a_link_closed_behind_a_refused_request_is_no_failed_dial() {
    let rows = [
        (
            "200 fields",
            format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(200)),
            true,
        ),
        (
            "a head that is too long",
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(30_000)),
            true,
        ),
        ("a field that is none", "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n".to_owned(), true),
        ("a head that ends half-way", "GET / HTTP/1.1\r\nHost: a\r\nX: ".to_owned(), false),
        (
            "a body that ends half-way",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel".to_owned(),
            false,
        ),
        (
            "a chunk that is none",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_owned(),
            true,
        ),
    ];
    for service in ["--text", "--to"] {
        let raw = RawGateway::start();
        let local = LocalServer::start();
        let value = if service == "--to" { local.url() } else { "hello\n".to_owned() };
        let device = Ptth::start(
            &[&["device", &raw.url("lamp"), service, &value, "--links", "1..1"], &LONG_BACKOFF[..]]
                .concat(),
        );
        each_row(
            &rows,
            |row| format!("{service}: {}", row.0),
            |(_, request, answered)| {
                let mut link = raw.turn(); // within DEADLINE, a sixth of the pause
                let _ = link.try_write(request); // it may be refused before all is written
                if *answered {
                    let _ = link.read_to_any_end();
                }
            },
        );
        raw.turn().ask(&get("/")).expect_ok("hello\n");
        assert!(!device.stderr().contains("next attempt"), "{}", device.stderr());
    }
}

#[test]
fn what_is_no_request_is_still_a_failed_dial() {
    let raw = RawGateway::start();
    let device = Ptth::start(
        &[&["device", &raw.url("lamp"), "--text", "x", "--links", "1..1"], &LONG_BACKOFF[..]]
            .concat(),
    );
    raw.turn().write("hello device, how are you\r\n\r\n");
    device.expect_stderr("ended right after its 101");
}

#[test]
fn one_link_of_several_that_ends_at_once_is_forgiven_three_times() {
    let raw = RawGateway::start();
    let device = Ptth::start(
        &[&["device", &raw.url("lamp"), "--text", "x", "--links", "2..2"], &LONG_BACKOFF[..]]
            .concat(),
    );
    let mut kept = raw.turn();
    for _ in 0..4 {
        drop(raw.turn());
    }
    device.expect_stderr("ended right after its 101");
    kept.ask(&get("/")).expect_ok("x");
}

// ── What a hop adds (S3, K21) ──

/// A head of this many fields, its Host included.
fn fields_head(n: usize) -> String {
    format!("GET /lamp/x HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(n - 1))
}

/// A head of this many bytes.
fn long_head(n: usize) -> String {
    let head = "GET /lamp/x HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";
    head.replace("X: ", &format!("X: {}", "y".repeat(n - head.len())))
}

#[test]
fn what_a_gateway_takes_from_visitors_a_device_takes_from_it() {
    if cfg!(not(feature = "comet")) {
        return; // some of it polls in JSON
    }
    let gateway = Gateway::start(&["--forwarded", "--trusted-proxies", "127.0.0.0/8"]);
    let local = LocalServer::start();
    let services = [("to", "--to", local.url()), ("te", "--text", "hello\n".to_owned())];
    let ways: [(&str, &[&str]); 3] = [
        ("-t", &[]),
        ("-j", &["--fallback", "only", "--comet", "json"]),
        ("-m", &["--fallback", "only", "--comet", "message"]),
    ];
    let mut devices = Vec::new();
    for (device, service, value) in &services {
        for (transport, options) in ways {
            let name = format!("{device}{transport}"); // as long as `lamp`
            let url = gateway.device_url(&name);
            let common =
                ["device", &url, service, value, "--links", "1..1", "--backoff", "60s..60s"];
            let process = Ptth::start(&[&common, options].concat());
            process.line_like("connected ");
            devices.push((name, process));
        }
    }
    for (name, device) in &devices {
        for (request, status) in [
            (fields_head(93), 200),
            (fields_head(96), 200),
            (fields_head(100), 200),
            (fields_head(101), 431),
            (long_head(16_300), 200),
            (long_head(16_384), 200),
            (long_head(16_385), 431),
        ] {
            let answer = gateway.visitor().ask(&request.replace("/lamp/", &format!("/{name}/")));
            assert_eq!(
                answer.status(),
                status,
                "{name}: {} bytes: {}",
                request.len(),
                answer.text()
            );
        }
        assert!(
            !device.stderr().contains("next attempt") && !device.stderr().contains("a link to"),
            "{name}: {}",
            device.stderr()
        );
    }
    assert!(
        local.requests().iter().all(|request| request.fields.len() <= 116),
        "a gateway adds at most 16 fields"
    );
}

#[test]
fn what_a_device_takes_from_its_local_server_a_gateway_takes_from_it() {
    if cfg!(not(feature = "comet")) {
        return; // some of it polls in JSON
    }
    // K21: neither server says a Date, so each hop adds some fields to as many as may be.
    let local = LocalServer::with(|c| {
        let n = c.head.target().split_once("?n=").map_or(0, |(_, n)| n.parse().unwrap());
        let (fields, long) = ("X: y\r\n".repeat(n), "y".repeat(n.saturating_sub(200)));
        match c.head.target().split('?').next().unwrap_or_default() {
            "/length" => {
                c.raw(format!("HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\nok", &fields[6..]))
            }
            "/close" => {
                c.raw(format!("HTTP/1.1 200 OK\r\n{fields}\r\nok"));
                c.close = true;
            }
            _ => c.raw(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: {long}\r\n\r\nok")),
        }
    });
    let gateway = Gateway::start(&[]);
    let ways: [&[&str]; 3] = [
        &[],
        &["--fallback", "only", "--comet", "json"],
        &["--fallback", "only", "--comet", "message"],
    ];
    for (name, transport) in ["lamp", "desk", "door"].iter().zip(ways) {
        let url = gateway.device_url(name);
        let device = Ptth::start(
            &[
                &["device", &url, "--to", &local.url(), "--links", "1..1"],
                transport,
                &LONG_BACKOFF[..],
            ]
            .concat(),
        );
        device.line_like("connected ");
        for target in ["length?n=99", "length?n=100", "close?n=99", "close?n=100", "long?n=16500"] {
            gateway.get(&format!("/{name}/{target}")).expect_ok("ok");
        }
        // The device answers for what its own server does wrong, and its link goes on.
        for target in ["length?n=101", "close?n=101", "long?n=16700"] {
            gateway.get(&format!("/{name}/{target}")).expect_refusal(502);
        }
        gateway.get(&format!("/{name}/length?n=1")).expect_ok("ok");
        assert!(!device.stderr().contains("next attempt"), "{}", device.stderr());
        assert!(
            !gateway.process.stderr().contains(&format!("{name}: a link ended")),
            "{}",
            gateway.process.stderr()
        );
        assert!(
            !gateway.process.stderr().contains(&format!("{name}: down")),
            "{}",
            gateway.process.stderr()
        );
    }
}

// ── Heads of responses have a time in all (S14) ──

/// A wait of these tests, and the pause between the bytes of who drips.
const WAIT: Duration = Duration::from_millis(500);
const DRIP: Duration = Duration::from_millis(100);

/// Writes one byte per [`DRIP`], for as long as the other side takes them.
fn drip(peer: &mut RawPeer, bytes: &[u8]) {
    for byte in bytes.iter().cycle() {
        if peer.try_write([*byte]).is_err() || peer.stirs_within(DRIP) {
            return;
        }
    }
}

/// `first_byte` until the head begins, as much again until it is whole, and a second for a busy
/// machine.
#[track_caller]
fn took_at_most_two_waits(began: Instant) {
    assert!(began.elapsed() < 2 * WAIT + slack(), "{:?}", began.elapsed());
}

const DRIPPED: [(&str, &str); 3] = [
    (
        "a field",
        "HTTP/1.1 200 OK\r\nX: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
    ),
    (
        "many fields",
        "HTTP/1.1 200 OK\r\nX: y\r\nX: y\r\nX: y\r\nX: y\r\nX: y\r\nX: y\r\nX: y\r\nX: y\r\nX: y\r\nX: y\r\nX: y\r\n",
    ),
    (
        "an interim head",
        "HTTP/1.1 103 Early Hints\r\nLink: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
    ),
];

#[test]
fn a_device_that_drips_the_head_of_its_response_is_given_up() {
    let gateway = Gateway::start(&["--first-byte", "500ms"]);
    each_row(
        &DRIPPED,
        |row| row.0.to_owned(),
        |(_, head)| {
            let mut link = gateway.link("lamp");
            let mut visitor = gateway.visitor();
            visitor.write(get("/lamp/x"));
            link.read_head();
            let began = Instant::now();
            drip(&mut link, head.as_bytes());
            visitor.read_answer("GET").expect_refusal(504);
            took_at_most_two_waits(began);
            link.expect_closed();
        },
    );
    // Beside it: a head in two pieces within its time, and interim ones that each have theirs.
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    link.read_head();
    for piece in [
        "HTTP/1.1 103 Early",
        " Hints\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1",
        " 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        link.write(piece);
        link.expect_quiet(DRIP);
    }
    visitor.read_answer("GET").expect_ok("ok");
}

#[test]
fn a_local_server_that_drips_the_head_of_its_response_is_given_up() {
    let local = LocalServer::with(|c| {
        let (_, head) = DRIPPED[c.head.target()[1..].parse::<usize>().unwrap()];
        drip(c.peer, head.as_bytes());
        c.close = true;
    });
    let gateway = Gateway::start(&[]);
    let device = Ptth::device(
        &gateway,
        "lamp",
        &["--to", &local.url(), "--first-byte", "500ms", "--links", "1..1"],
    );
    for n in 0..DRIPPED.len() {
        let began = Instant::now();
        gateway.get(&format!("/lamp/{n}")).expect_refusal(504);
        took_at_most_two_waits(began);
    }
    assert!(
        !gateway.process.stderr().contains("lamp: down"),
        "the link goes on: {}",
        device.stderr()
    );
}

#[test]
fn a_program_waits_no_longer_for_a_device_that_drips() {
    let mut limits = Limits::default();
    limits.first_byte_timeout = WAIT;
    let gateway = crate::support::gateway().listen("127.0.0.1:0").limits(limits).start().unwrap();
    let empty_lines = ("empty lines", "\r\n");
    each_row(
        &[&DRIPPED[..], &[empty_lines]].concat(),
        |row| row.0.to_owned(),
        |(_, head)| {
            let mut link = RawPeer::connect(gateway.devices_addr());
            link.write(crate::support::process::offer("lamp", ""));
            link.read_head();
            std::thread::scope(|scope| {
                let downstream = scope.spawn(|| {
                    let began = Instant::now();
                    let request = http::Request::get("/").body(Body::empty()).unwrap();
                    (gateway.device("lamp").send(request), began)
                });
                link.read_head();
                drip(&mut link, head.as_bytes());
                let (answer, began) = downstream.join().unwrap();
                let error = answer.unwrap_err();
                assert!(error.is_timeout() || error.is_malformed(), "{error}");
                took_at_most_two_waits(began);
            });
        },
    );
}

// ── The gateway's waits are the device's (K3) ──

#[test]
fn a_device_that_forwards_waits_as_long_as_its_gateway() {
    // All waits of the device are shorter than what its local server takes; none of them is the
    // forwarder's.
    let short = Duration::from_millis(200);
    let mut limits = Limits::default();
    (
        limits.first_byte_timeout,
        limits.body_silence_timeout,
        limits.request_write_timeout,
        limits.exchange_timeout,
    ) = (short, short, short, short);
    let pausing = move || std::thread::sleep(4 * short); // how slow this server is
    let local = LocalServer::with(move |c| {
        pausing();
        c.raw("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsl");
        pausing();
        c.raw("ow");
    });
    let gateway = Gateway::start(&[]);
    let device =
        Device::builder(gateway.device_url("lamp")).links(1..=1).limits(limits).build().unwrap();
    let running = device.spawn_forward(local.url()).unwrap();
    eventually("it is connected", || gateway.process.stderr().contains("lamp: up").then_some(()));
    let mut visitor = gateway.visitor();
    visitor.write("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nsl");
    visitor.expect_quiet(4 * short);
    visitor.write("ow");
    visitor.read_answer("POST").expect_ok("slow");
    running.stop();
}

#[test]
fn a_device_notices_that_its_gateway_gave_up_and_frees_its_local_connection() {
    let (ended, end) = std::sync::mpsc::channel();
    let local = LocalServer::with(move |c| {
        c.peer.expect_end(); // the request's body is empty, so this is the connection's end
        ended.send(()).unwrap();
        c.close = true;
    });
    let gateway = Gateway::start(&["--first-byte", "500ms"]);
    let _device = Ptth::device(&gateway, "lamp", &["--to", &local.url(), "--links", "1..1"]);
    gateway.get("/lamp/x").expect_refusal(504);
    // Nothing else would end it: a device that forwards has no wait of its own (K3).
    end.recv_timeout(crate::support::DEADLINE).unwrap();
}

#[test]
fn an_option_bounds_the_local_server() {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let local = LocalServer::with(move |c| {
        let _ = released.lock().unwrap().recv(); // until the test ends
        c.close = true;
    });
    for more in [&[][..], &["--fallback", "only"]] {
        let gateway = Gateway::start(&[]);
        let url = gateway.device_url("lamp");
        let device = Ptth::start(
            &[&["device", &url, "--to", &local.url(), "--first-byte", "300ms"], more].concat(),
        );
        device.line_like("connected ");
        let answer = gateway.get("/lamp/x");
        answer.expect_refusal(504);
        assert!(
            answer.text().contains("300")
                || answer.text().contains("0.3 s (local_first_byte_timeout)"),
            "{}",
            answer.text()
        );
    }
    drop(release);
}

// ── Requests that go round in a circle ──

#[test]
fn two_gateways_in_a_row_serve_and_in_a_circle_answer_508() {
    let request = "GET /x HTTP/1.1\r\nHost: lamp.devices.example\r\n\r\n";
    let both = || Gateway::start(&["--route", "host=devices.example"]);
    let (first, second) = (both(), both());
    let local = LocalServer::start();
    let to = |gateway: &Gateway, target: &str| {
        let url = gateway.device_url("lamp");
        let device = Ptth::start(&["device", &url, "--to", target, "--links", "1..2"]);
        device.line_like("connected ");
        device
    };
    let _to_second = to(&first, &format!("http://{}", second.visitors));
    {
        let mut device = to(&second, &local.url());
        first.visitor().ask(request).expect_ok("hello\n");
        let via = local.last();
        let [outer, inner] = via.all("via")[..] else { panic!("{}", via.text()) };
        assert!(
            outer != inner && outer.starts_with("1.1 ptth-") && inner.starts_with("1.1 ptth-"),
            "{}",
            via.text()
        );
        device.signal("TERM");
        device.exit_code();
    }
    let _to_first = to(&second, &format!("http://{}", first.visitors));
    for gateway in [&first, &second] {
        let answer = gateway.visitor().ask(request);
        answer.expect_refusal(508);
        assert!(
            answer
                .head
                .all("proxy-status")
                .iter()
                .any(|value| value.contains("proxy_loop_detected")),
            "{}",
            answer.head.text()
        );
    }
}

#[test]
fn a_gateway_knows_itself_by_the_name_that_it_was_given() {
    let gateway = Gateway::start(&["--via", "gw-1.example"]);
    let device = LocalServer::device(&gateway, "lamp", 1, crate::support::local::routes);
    for (via, status) in [
        ("1.1 gw-1.example", 508),
        ("1.1 other, HTTP/1.1\t GW-1.EXAMPLE (ours)", 508),
        ("1.0 a\r\nVia: 2 gw-1.example", 508),
        ("1.1 gw-1.example:80", 200),
        ("1.1 gw-1", 200),
        ("gw-1.example 1.1", 200),
        ("1.1 other (1.1 gw-1.example)", 200),
        ("", 200),
    ] {
        let mut visitor = gateway.visitor();
        let answer = visitor.ask(&format!("GET /lamp/x HTTP/1.1\r\nHost: a\r\nVia: {via}\r\n\r\n"));
        assert_eq!(answer.status(), status, "{via:?}: {}", answer.text());
        visitor.ask(&get("/lamp/x")).expect_ok("hello\n"); // the connection goes on
    }
    assert_eq!(device.last().all("via"), ["1.1 gw-1.example"]);
    for wrong in ["", "a b", "a:80", &"x".repeat(65)] {
        let (code, _, error) = Ptth::run(&["gateway", "--devices", "127.0.0.1:0", "--via", wrong]);
        assert!(code == 2 && error.contains("via"), "{wrong:?}: {code}, {error}");
    }
}

// ── A response before its request is whole (K9) ──

/// A request whose body has not come when it is answered; what is left of it; whether the response
/// ends the connection.
const EARLY: [(&str, &str, &str, bool); 5] = [
    ("a body that waits for a 100", "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", "", true),
    ("a body that is too long to be read", "Content-Length: 10000000\r\n\r\nhel", "", true),
    (
        "a body that does not say its length",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n",
        "",
        true,
    ),
    ("a short rest", "Content-Length: 5\r\n\r\nhel", "lo", false),
    ("a short body of which nothing came", "Content-Length: 5\r\n\r\n", "hello", false),
];

/// Answers 401 before it reads a body, and keeps its connection.
fn answers_before_it_reads() -> LocalServer {
    LocalServer::with(|c| {
        if c.head.method() == "GET" {
            return c.text("hello\n");
        }
        c.peer.write(
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
        );
        // A body that was not asked for may not come.
        c.close = c.head.get("expect").is_some();
        if !c.close {
            c.body();
        }
    })
}

#[test]
fn an_early_response_says_that_its_connection_ends_or_the_rest_is_read() {
    let local = answers_before_it_reads();
    let gateway = Gateway::start(&[]);
    let _forwarder = Ptth::device(&gateway, "lamp", &["--to", &local.url(), "--links", "1..1"]);
    each_row(
        &EARLY,
        |row| row.0.to_owned(),
        |(_, head, rest, closes)| {
            let mut visitor = gateway.visitor();
            visitor.write(format!("PUT /lamp/x HTTP/1.1\r\nHost: a\r\n{head}"));
            let answer = visitor.read_answer("PUT");
            assert_eq!(
                (answer.status(), answer.head.closes()),
                (401, *closes),
                "{}",
                answer.head.text()
            );
            if *closes {
                visitor.expect_closed();
            } else {
                visitor.write(rest);
                visitor.ask(&get("/lamp/x")).expect_ok("hello\n");
            }
            gateway.get("/lamp/x").expect_ok("hello\n");
        },
    );
}

#[test]
fn a_device_says_so_on_its_link_too() {
    let local = answers_before_it_reads();
    for (service, value, status) in
        [("--to", local.url(), 401), ("--text", "hello\n".to_owned(), 200)]
    {
        let raw = RawGateway::start();
        let device = Ptth::start(
            &[&["device", &raw.url("lamp"), service, &value, "--links", "1..1"], &LONG_BACKOFF[..]]
                .concat(),
        );
        each_row(
            &EARLY,
            |row| format!("{service}: {}", row.0),
            |(_, head, rest, closes)| {
                let mut link = raw.turn();
                link.write(format!("PUT /x HTTP/1.1\r\nHost: a\r\n{head}"));
                let answer = link.read_answer("PUT");
                assert_eq!(
                    (answer.status(), answer.head.closes()),
                    (status, *closes),
                    "{}",
                    answer.head.text()
                );
                if !closes {
                    link.write(rest);
                    link.ask(&get("/x")).expect_ok("hello\n");
                }
            },
        );
        assert!(!device.stderr().contains("next attempt"), "{}", device.stderr());
    }
}

#[test]
fn a_rest_that_does_not_come_is_not_waited_for_long() {
    let local = answers_before_it_reads();
    let gateway = Gateway::start(&[]);
    let _device = Ptth::device(&gateway, "lamp", &["--to", &local.url(), "--links", "1..1"]);
    let mut visitor = gateway.visitor();
    visitor.write("PUT /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel");
    assert_eq!(visitor.read_answer("PUT").status(), 401);
    let began = Instant::now();
    visitor.expect_end();
    assert!(
        began.elapsed() < Limits::default().abandoned_timeout + slack(),
        "{:?}",
        began.elapsed()
    );
    gateway.get("/lamp/x").expect_ok("hello\n");
}
