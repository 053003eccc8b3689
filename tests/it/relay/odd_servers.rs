//! Local servers and devices that do not write HTTP as its authors meant: what they send is served
//! where others serve it, and refused where it cannot be told what it is.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::support::process::get;
use crate::support::{
    Gateway, LocalServer, Process, Ptth, RawGateway, RawPeer, each_row, eventually, slack, vector,
};

/// A device that forwards to `local`, on one link.
#[track_caller]
fn forwarder(raw: &RawGateway, local: &LocalServer, more: &[&str]) -> Process {
    Ptth::start(
        &[
            &[
                "device",
                &raw.url("lamp"),
                "--to",
                &local.url(),
                "--backoff",
                "5ms..20ms",
                "--links",
                "1..1",
            ],
            more,
        ]
        .concat(),
    )
}

/// Answers that nginx 1.22 and HAProxy 2.6 serve as `hello` (and we do, too).
const TAKEN: &[(&str, &str)] = &[
    ("LF in the head", "HTTP/1.1 200 OK\r\nContent-type: text/plain\n\nhello"),
    ("nothing but LF", "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"),
    ("HTTP/1.0, nothing but LF, to the end", "HTTP/1.0 200 OK\nServer: lwIP\n\nhello"),
    ("no reason", "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello"),
    ("a reason in UTF-8", "HTTP/1.1 200 d'accord \u{e9}\r\nContent-Length: 5\r\n\r\nhello"),
    ("the length twice", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    ("the length as a list", "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello"),
    ("an empty line before it", "\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    (
        "blanks behind chunk sizes",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5  \r\nhello\r\n0  \r\n\r\n",
    ),
    (
        "LF behind chunk sizes",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
    ),
    (
        "LF behind a chunk",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n",
    ),
    ("nothing but LF in chunks", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nhello\n0\n\n"),
    (
        "a chunk extension behind a blank",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5 ;a=b\r\nhello\r\n0\r\n\r\n",
    ),
];

/// Answers that are 502, or are cut.
const REFUSED: &[(&str, &str)] = &[
    (
        "a blank before a chunk size",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "an empty chunk extension",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "a chunk extension that is none",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;bad[=x\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "a bare CR behind a chunk size",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\rhello\r\n0\r\n\r\n",
    ),
    ("no version", "HTTP/01.01 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    (
        "chunked, then gzip",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    ("a CR without LF in the head", "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 5\r\n\r\nhello"),
    ("another protocol's version", "EVENT/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    (
        "empty lines for ever",
        "\r\n\r\n\r\n\r\n\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ),
];

/// Asks for `/x` by `ask`: the whole body, or `None` where it was refused or cut.
fn body_of(peer: &mut RawPeer, request: &str) -> Option<String> {
    peer.write(request);
    match peer.read_answer_or_cut("GET") {
        Ok(answer) if answer.status() == 200 => Some(answer.text()),
        Ok(answer) => {
            answer.expect_refusal(502);
            None
        }
        Err(_) => None,
    }
}

#[test]
fn what_others_take_from_odd_local_servers_is_taken_here_and_no_more() {
    let check = |answer: &'static str, right: bool| {
        let local = LocalServer::with(move |c| {
            c.raw(answer);
            c.close = true;
        });
        let raw = RawGateway::start();
        let _device = forwarder(&raw, &local, &[]);
        let whole = body_of(&mut raw.turn(), &get("/x"));
        assert_eq!(whole.as_deref(), right.then_some("hello"));
    };
    each_row(TAKEN, |r| r.0.to_owned(), |(_, answer)| check(answer, true));
    each_row(REFUSED, |r| r.0.to_owned(), |(_, answer)| check(answer, false));
}

#[test]
fn the_same_is_taken_from_odd_devices() {
    let gateway = Gateway::start(&[]);
    let check = |answer: &'static str, right: bool| {
        let mut link = gateway.link("lamp");
        let mut visitor = gateway.visitor();
        let device = std::thread::spawn(move || {
            link.read_head();
            link.write(answer);
        });
        let whole = body_of(&mut visitor, &get("/lamp/x"));
        device.join().unwrap();
        assert_eq!(whole.as_deref(), right.then_some("hello"));
    };
    each_row(TAKEN, |r| r.0.to_owned(), |(_, answer)| check(answer, true));
    each_row(REFUSED, |r| r.0.to_owned(), |(_, answer)| check(answer, false));
}

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n\r\n";

/// Its name, the request of a visitor, and its status.
fn strict_rows() -> [(&'static str, String, u16); 11] {
    [
        ("a version that is none", "GET /lamp/x HTTP/01.01\r\nHost: a\r\n\r\n".to_owned(), 400),
        ("another version", "GET /lamp/x HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(), 505),
        (
            "chunked, then gzip",
            "POST /lamp/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n"
                .to_owned(),
            400,
        ),
        (
            "gzip, then chunked",
            "POST /lamp/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"
                .to_owned(),
            501,
        ),
        (
            "an empty extension",
            format!("POST /lamp/x HTTP/1.1\r\nHost: a\r\n{CHUNKED}5;\r\nhello\r\n0\r\n\r\n"),
            400,
        ),
        (
            "an extension that is none",
            format!("POST /lamp/x HTTP/1.1\r\nHost: a\r\n{CHUNKED}5;bad[=x\r\nhello\r\n0\r\n\r\n"),
            400,
        ),
        (
            "blanks behind a size",
            format!("POST /lamp/x HTTP/1.1\r\nHost: a\r\n{CHUNKED}5  \r\nhello\r\n0\r\n\r\n"),
            400,
        ),
        (
            "LF behind a size",
            format!("POST /lamp/x HTTP/1.1\r\nHost: a\r\n{CHUNKED}5\nhello\r\n0\r\n\r\n"),
            400,
        ),
        (
            "LF behind a chunk",
            format!("POST /lamp/x HTTP/1.1\r\nHost: a\r\n{CHUNKED}5\r\nhello\n0\r\n\r\n"),
            400,
        ),
        ("LF in the head", "GET /lamp/x HTTP/1.1\nHost: a\n\n".to_owned(), 400),
        (
            "a legal extension",
            format!("POST /lamp/x HTTP/1.1\r\nHost: a\r\n{CHUNKED}5 ;a=b\r\nhello\r\n0\r\n\r\n"),
            200,
        ),
    ]
}

#[test]
fn requests_stay_strict_on_every_face() {
    if cfg!(not(feature = "comet")) {
        return; // some of it polls in JSON
    }
    let rows = strict_rows();
    let local = LocalServer::with(|c| {
        let body = c.body();
        c.text(body);
    });
    let gateway = Gateway::start(&[]);
    let _device = Ptth::device(&gateway, "lamp", &["--to", &local.url(), "--links", "2..8"]);
    each_row(
        &rows,
        |r| format!("visitor: {}", r.0),
        |(_, bytes, status)| {
            let mut visitor = gateway.visitor();
            visitor.write(bytes);
            assert_eq!(visitor.read_answer("POST").status(), *status);
        },
    );
    // On the devices' port each is an offer, or a poll with an answer in it, of that name.
    each_row(
        &rows[..10],
        |r| format!("offer: {}", r.0),
        |(_, bytes, status)| {
            let mut device = gateway.dial();
            device.write(
                bytes
                    .replace("GET", "POST")
                    .replace("\r\n\r\n", "\r\nContent-Type: application/json\r\n\r\n")
                    .replacen("/lamp/x", "/other", 1),
            );
            device.read_answer("POST").expect_refusal(*status);
        },
    );
    for service in [["--to", &local.url()], ["--text", "on"]] {
        let raw = RawGateway::start();
        let _device = Ptth::start(
            &[
                &["device", &raw.url("lamp"), "--backoff", "5ms..20ms", "--links", "2..8"],
                &service[..],
            ]
            .concat(),
        );
        each_row(
            &rows,
            |r| format!("link, {}: {}", service[0], r.0),
            |(_, bytes, status)| {
                let mut link = raw.turn();
                link.write(bytes);
                let answer = link.read_answer("POST");
                // A handler that does not read the body has answered before its chunks are looked
                // at; then the link ends after that.
                assert!(
                    answer.status() == *status
                        || (service[0] == "--text" && bytes.contains(CHUNKED)),
                    "{}",
                    answer.head.text()
                );
                assert!(*status == 200 || answer.head.closes(), "{}", answer.head.text());
            },
        );
    }
}

/// K19: with the answer in one segment, as well as later; where the answer ends the connection
/// anyway there is nothing to see.
#[test]
fn a_line_end_behind_an_answer_is_nothing() {
    let stray = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello\r\n";
    // From a local server, on its connection.
    let connections = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, counted) = (listener.local_addr().unwrap(), connections.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            counted.fetch_add(1, SeqCst);
            let mut peer = RawPeer::adopt(stream.unwrap(), "local server");
            std::thread::spawn(move || {
                while peer.try_read_head().is_some() {
                    peer.write(stray);
                }
            });
        }
    });
    let raw = RawGateway::start();
    let _device = Ptth::start(&[
        "device",
        &raw.url("lamp"),
        "--to",
        &format!("http://{address}"),
        "--links",
        "1..1",
    ]);
    let mut link = raw.turn();
    for request in [
        get("/x"),
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".to_owned(),
        get("/x"),
    ] {
        link.ask(&request).expect_ok("hello");
    }
    assert_eq!(connections.load(SeqCst), 1, "the connection goes on");
    // From a device, on its link; and once more, cut between CR and LF, the LF with the next
    // answer.
    let gateway = Gateway::start(&[]);
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    for answer in [
        stray,
        &stray[..stray.len() - 1],
        "\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello\r\n",
        stray,
    ] {
        visitor.write(get("/lamp/x"));
        link.read_head();
        link.write(answer);
        visitor.read_answer("GET").expect_ok("hello");
    }
    // Anything else after an answer ends its link.
    visitor.write(get("/lamp/x"));
    link.read_head();
    link.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello\r\n!");
    visitor.read_answer("GET").expect_ok("hello");
    link.expect_closed();
}

#[test]
fn a_line_end_behind_a_polls_message_is_nothing() {
    if cfg!(not(feature = "comet")) {
        return; // some of it polls in JSON
    }
    // Behind the gateway's reply: the device polls on the same connection.
    let raw = RawGateway::start();
    let _device = Ptth::start(&[
        "device",
        &raw.url("lamp"),
        "--text",
        "on",
        "--fallback",
        "only",
        "--polls",
        "1",
    ]);
    let (mut poll, _) = raw.offer();
    for _ in 0..3 {
        poll.write(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}\r\n",
        );
        assert_eq!(poll.read_head().method(), "POST");
    }
    // Behind a device's answer: its POST is a poll, too, and goes on.
    let gateway = Gateway::start(&["--poll-hold", "200ms"]);
    let mut poll = gateway.dial();
    let json =
        "POST /lamp HTTP/1.1\r\nHost: a\r\nAccept: message/http\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(poll.ask(json).status(), 204);
    let mut visitor = gateway.visitor();
    poll.write(json);
    visitor.write(get("/lamp/x"));
    let event = poll.read_answer("POST");
    let id = event.head.get("ptth-message-id").expect("an event has an id").to_owned();
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    poll.write(format!(
        "POST /lamp HTTP/1.1\r\nHost: a\r\nAccept: message/http\r\nContent-Type: message/http\r\nPTTH-Message-ID: {id}\r\nContent-Length: {}\r\n\r\n{answer}\r\n",
        answer.len()
    ));
    visitor.read_answer("GET").expect_ok("hello");
    assert_eq!(poll.read_answer("POST").status(), 204);
}

/// K20: AirPlay senders may write `EVENT/1.0` where others write `HTTP/1.1`.
#[test]
fn the_version_of_airplay_senders_is_taken_from_them_alone() {
    let gateway = Gateway::start(&["--missing-host"]);
    let mut device = gateway.dial();
    device.write(vector("airplay-1-offer"));
    assert_eq!(device.read_head().status(), 101);
    let mut visitor = gateway.visitor();
    for answer in [
        "EVENT/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        visitor
            .write("POST /reverse/event HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n<plist>");
        device.read_head();
        device.read_exact(7);
        for piece in [&answer[..4], &answer[4..9], &answer[9..]] {
            device.write(piece);
        }
        let answer = visitor.read_answer("POST");
        answer.expect_ok("ok");
        assert!(answer.head.start.starts_with("HTTP/1.1 200"), "{}", answer.head.start);
    }
    visitor.write("POST /reverse/event HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    device.read_head();
    device.write("EVENT/2.0 200 OK\r\nContent-Length: 0\r\n\r\n");
    visitor.read_answer("POST").expect_refusal(502);
}

/// K12, RFC 3986 §3.2.3.
#[test]
fn an_empty_port_is_the_default_port_wherever_an_authority_is_read() {
    let local = LocalServer::start();
    let gateway = Gateway::at_localhost(&["--route", "path,host=devices.example"]);
    let _device =
        Ptth::device(&gateway, "lamp", &["--to", &local.url(), "--host-header", "app.example:"]);
    let mut visitor = gateway.visitor();
    visitor.ask("GET /x HTTP/1.1\r\nHost: lamp.devices.example:\r\n\r\n").expect_ok("hello\n");
    visitor
        .ask("GET http://lamp.devices.example:/x HTTP/1.1\r\nHost: lamp.devices.example:\r\n\r\n")
        .expect_ok("hello\n");
    assert_eq!(local.last().get("host"), Some("app.example"));
    assert_eq!(local.last().get("x-forwarded-host"), Some("lamp.devices.example"));
    visitor.ask("GET /x HTTP/1.1\r\nHost: lamp.devices.example::\r\n\r\n").expect_refusal(400);
    // URLs of the command: nothing listens on port 80, and that is where it goes.
    for (url, to) in
        [("http://127.0.0.1:/lamp", "http://127.0.0.1:9"), ("http://[::1]:/lamp", "unix:/nowhere")]
    {
        let device = Ptth::start(&["device", url, "--to", to, "--max-retries", "1"]);
        device.expect_stderr("gateway");
        assert!(!device.stderr().contains("not valid"), "{}", device.stderr());
    }
    let raw = RawGateway::at_localhost();
    let device =
        Ptth::start(&["device", &raw.url("lamp"), "--to", "http://127.0.0.1:/", "--links", "1..1"]);
    let answer = raw.turn().ask(&get("/x"));
    assert!(answer.status() == 502 || answer.status() == 200, "{}", answer.head.text());
    assert!(device.line().starts_with("connected"), "it was no wrong usage");
    // A redirect, and an origin.
    let (mut dial, _) = raw.offer(); // the link was dropped above
    dial.write("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:/lamp\r\nContent-Length: 0\r\n\r\n");
    device.expect_stderr("redirects to http://127.0.0.1:/lamp");
    eventually("the device with a Host of its own is still there", || {
        (gateway.get("/lamp/x").status() == 200).then_some(())
    });
}

/// S17: the local server and a handler see the host that the target names, and none that is
/// invalid.
#[test]
fn the_targets_host_wins_on_a_link_and_an_invalid_host_is_refused() {
    let local = LocalServer::start();
    let dir = crate::support::TempDir::new("host");
    std::fs::write(dir.0.join("p"), "file").unwrap();
    let place = dir.0.to_str().unwrap();
    for service in [["--to", &local.url()], ["--text", "on"], ["--dir", place]] {
        let raw = RawGateway::start();
        let _device = Ptth::start(
            &[
                &["device", &raw.url("lamp"), "--backoff", "5ms..20ms", "--links", "1..1"],
                &service[..],
            ]
            .concat(),
        );
        let mut link = raw.turn();
        assert_eq!(
            link.ask("GET http://other.example/p HTTP/1.1\r\nHost: a\r\n\r\n").status(),
            200,
            "{service:?}"
        );
        link.ask("GET http://other.example/p HTTP/1.1\r\nHost: u@a/b, c\r\n\r\n")
            .expect_refusal(400);
        let mut link = raw.turn();
        link.ask("GET /p HTTP/1.1\r\nHost: u@a/b, c\r\n\r\n").expect_refusal(400);
        assert_eq!(
            raw.turn().ask("GET /p HTTP/1.1\r\nHost: a\r\n\r\n").status(),
            200,
            "{service:?}"
        );
    }
    let hosts: Vec<_> =
        local.requests().iter().map(|head| head.get("host").map(str::to_owned)).collect();
    assert_eq!(hosts, [Some("other.example".to_owned()), Some("a".to_owned())]);
}

/// A server that serves one connection at a time and keeps it alive, as small ones do: connections
/// and answers so far.
fn single() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, connections) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = connections.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            counted.fetch_add(1, SeqCst);
            let mut peer = RawPeer::adopt(stream, "single server");
            peer.deadline = Duration::from_secs(60);
            while peer.try_read_head().is_some() {
                if peer.try_write("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n").is_err() {
                    break;
                }
            }
        }
    });
    (address, connections)
}

#[test]
fn a_server_of_one_connection_at_a_time_serves_all_who_ask_at_once() {
    for options in [
        &["--to-connections", "1"][..],
        &["--to-keep-alive", "0s"],
        &["--to-connections", "1", "--fallback", "only", "--polls", "4"],
    ] {
        let (address, connections) = single();
        let gateway = Gateway::start(&["--wait-for-link", "9s"]);
        let (url, to) = (gateway.device_url("lamp"), format!("http://{address}"));
        let device =
            Ptth::start(&[&["device", &url, "--to", &to, "--links", "1..8"], options].concat());
        assert!(device.line().starts_with("connected lamp"));
        let visitors = gateway.visitors;
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(move || {
                    let mut visitor = RawPeer::connect(visitors);
                    for request in [
                        get("/lamp/x"),
                        "POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".to_owned(),
                        get("/lamp/x"),
                    ] {
                        visitor.ask(&request).expect_ok("hello\n");
                    }
                });
            }
        });
        let made = connections.load(SeqCst);
        match options[0] {
            "--to-connections" => assert_eq!(made, 1, "{options:?}"),
            _ => assert_eq!(made, 24, "{options:?}: each answer closes its own"),
        }
    }
}

#[test]
fn idle_local_connections_are_closed_in_their_time() {
    let raw = RawGateway::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("http://{}", listener.local_addr().unwrap());
    let _device = Ptth::start(&[
        "device",
        &raw.url("lamp"),
        "--to",
        &to,
        "--links",
        "1..1",
        "--to-keep-alive",
        "300ms",
    ]);
    let mut link = raw.turn();
    link.write(get("/x"));
    let mut local = RawPeer::adopt(listener.accept().unwrap().0, "local server");
    for n in 0..3 {
        local.read_head();
        local.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        link.read_answer("GET").expect_ok("ok");
        if n < 2 {
            link.write(get("/x")); // within its time it is used again
        }
    }
    let began = Instant::now();
    local.expect_end();
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(250) && took < Duration::from_millis(300) + slack(),
        "{took:?}"
    );
}

#[test]
fn who_waits_for_a_local_connection_in_vain_is_told_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("http://{}", listener.local_addr().unwrap());
    let raw = RawGateway::start();
    let mut limits = reverse_http::Limits::default();
    (limits.local_connections_max, limits.local_wait_timeout) = (1, Duration::from_millis(300));
    let device =
        reverse_http::Device::builder(raw.url("lamp")).limits(limits).links(2..=2).build().unwrap();
    let handle = device.spawn_forward(&to).unwrap();
    let (mut first, mut second) = (raw.turn(), raw.turn());
    first.write(get("/slow"));
    let mut local = RawPeer::adopt(listener.accept().unwrap().0, "local server");
    assert_eq!(local.read_head().target(), "/slow");
    let began = Instant::now();
    let refused = second.ask(&get("/x"));
    refused.expect_refusal(503);
    assert!(
        began.elapsed() >= Duration::from_millis(300)
            && began.elapsed() < Duration::from_millis(300) + slack(),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(refused.head.get("retry-after"), Some("1"));
    assert!(
        refused.head.get("proxy-status").unwrap().contains("error=connection_limit_reached"),
        "{}",
        refused.head.text()
    );
    // One that leaves the line is not missed, and the next one is served as soon as there is a
    // connection.
    second.write(get("/y"));
    local.write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow");
    first.read_answer("GET").expect_ok("slow");
    assert_eq!(local.read_head().target(), "/y");
    local.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    second.read_answer("GET").expect_ok("ok");
    handle.stop();
}

/// S12: visitors learn the kind of a failure, in the words of RFC 9209; the device's log has the
/// rest.
#[test]
fn visitors_learn_nothing_of_the_inside_of_a_device() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let reset = LocalServer::with(|c| {
        c.close = true; // and what it was sent is not all read, so the end is a reset
    });
    let port = crate::support::free_port();
    let dir = crate::support::TempDir::new("private-socket");
    let socket = dir.0.join("app.sock");
    let rows = [
        ("refused", format!("http://127.0.0.1:{port}"), 502, "connection_refused", "127.0.0.1"),
        (
            "no such socket",
            format!("unix:{}", socket.display()),
            502,
            "destination_unavailable",
            "private-socket",
        ),
        (
            "no such name",
            "http://private-name.invalid:1".to_owned(),
            502,
            "dns_error",
            "private-name",
        ),
        ("hung up", reset.url(), 502, "connection_terminated", "127.0.0.1"),
    ];
    drop(silent);
    each_row(
        &rows,
        |row| row.0.to_owned(),
        |(_, to, status, error, secret)| {
            for transport in [&["--links", "1..1"][..], &["--fallback", "only"]] {
                let gateway = Gateway::start(&[]);
                let device = Ptth::start(
                    &[&["device", &gateway.device_url("lamp"), "--to", to], transport].concat(),
                );
                assert!(device.line().starts_with("connected lamp"));
                let mut visitor = gateway.visitor();
                visitor.write("POST /lamp/x HTTP/1.1\r\nHost: v\r\nContent-Length: 2\r\n\r\nhi");
                let answer = visitor.read_answer("POST");
                answer.expect_refusal(*status);
                let told = answer.head.text() + &answer.text();
                assert!(told.contains(&format!("error={error}")), "{told}");
                for inside in [secret, "os error", "app.sock", "private", &port.to_string()] {
                    assert!(!told.contains(inside), "{inside} in {told}");
                }
                if *error != "connection_terminated" {
                    device.expect_stderr(secret);
                }
            }
        },
    );
}

/// K21: a server that is told to be called otherwise redirects to that; visitors get a path.
#[test]
fn a_location_of_the_host_header_comes_back_as_the_visitors_own() {
    let local = LocalServer::with(|c| {
        let location = c.head.get("x-location").unwrap().to_owned();
        c.answer("302 Found", &format!("Location: {location}\r\n"), "");
    });
    let gateway = Gateway::start(&["--route", "path,host=devices.example"]);
    let _device = Ptth::device(
        &gateway,
        "lamp",
        &["--to", &local.url(), "--host-header", "app.internal:3000"],
    );
    let mut visitor = gateway.visitor();
    for (host, target, location, seen) in [
        ("v", "/lamp/x", "http://app.internal:3000/login?a", "/lamp/login?a"),
        ("lamp.devices.example", "/x", "http://app.internal:3000/login?a", "/login?a"),
        ("v", "/lamp/x", "http://app.internal:3000/lamp/login", "/lamp/login"),
        ("v", "/lamp/x", "http://elsewhere.example/", "http://elsewhere.example/"),
        ("v", "/lamp/x", "relative", "relative"),
    ] {
        let answer = visitor.ask(&format!(
            "GET {target} HTTP/1.1\r\nHost: {host}\r\nX-Location: {location}\r\n\r\n"
        ));
        assert_eq!((answer.status(), answer.head.get("location")), (302, Some(seen)), "{location}");
    }
    assert_eq!(local.last().get("host"), Some("app.internal:3000"));
}

/// K21: `localhost` is two addresses, and servers listen on one of them.
#[test]
fn a_local_server_of_two_addresses_is_found_at_either() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) = TcpListener::bind(address) else { continue }; // a machine without IPv6
        let port = listener.local_addr().unwrap().port();
        if !("localhost", port)
            .to_socket_addrs()
            .unwrap()
            .any(|known| known.ip() == listener.local_addr().unwrap().ip())
        {
            continue; // this machine's localhost has one address alone
        }
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut peer = RawPeer::adopt(stream, "local server");
                peer.read_head();
                peer.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
        });
        let raw = RawGateway::start();
        let _device = Ptth::start(&[
            "device",
            &raw.url("lamp"),
            "--to",
            &format!("http://localhost:{port}"),
            "--links",
            "1..1",
        ]);
        raw.turn().ask(&get("/x")).expect_ok("ok");
    }
}
