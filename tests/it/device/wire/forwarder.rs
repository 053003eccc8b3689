//! The forwarder (`--to`).

use super::{SEED_TEXT, forwarder, text_device};
use crate::support::process::get;
use crate::support::{Hash, Head, LocalServer, Ptth, RawGateway, RawPeer, each_row};

// ── The forwarder (`--to`) ──

#[test]
fn the_forwarder_keeps_the_request_as_it_is() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let _device = forwarder(&raw, &local, &["--links", "1..1"]);
    let mut link = raw.turn();
    link.write("PUT /echo/a%2Fb?c=d&e HTTP/1.1\r\nHost: visitors.example\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Prefix: /lamp\r\nAccept: a\r\nACCEPT: b\r\nContent-Length: 5\r\n\r\nhello");
    let answer = link.read_answer("PUT");
    assert_eq!(answer.status(), 200);
    let (head, body) = Head::split(&answer.body);
    assert_eq!(head.start, "PUT /echo/a%2Fb?c=d&e HTTP/1.1");
    assert_eq!(head.get("host"), Some("visitors.example"));
    assert_eq!(head.get("x-forwarded-for"), Some("192.0.2.1"), "a device trusts its gateway");
    assert_eq!(head.get("x-forwarded-prefix"), Some("/lamp"));
    assert_eq!(head.all("accept"), ["a", "b"]);
    assert!(
        head.fields.iter().any(|(n, _)| n == "ACCEPT"),
        "names keep their spelling: {}",
        head.text()
    );
    assert_eq!(body, b"hello");
    assert!(answer.head.get("date").is_some(), "a device adds a Date: {}", answer.head.text());
}

#[test]
fn the_forwarders_target_is_fixed() {
    // T25: neither Host nor absolute form nor a redirect chooses another server.
    let elsewhere = LocalServer::start();
    let raw = RawGateway::start();
    let local = LocalServer::with({
        let there = elsewhere.url();
        move |c| match c.head.target().ends_with("/away") {
            true => c.answer("302 Found", &format!("Location: {there}/stolen\r\n"), ""),
            false => crate::support::local::routes(c),
        }
    });
    let _device = forwarder(&raw, &local, &["--links", "1..1"]);
    let mut link = raw.turn();
    link.ask(&format!("GET /x HTTP/1.1\r\nHost: {}\r\n\r\n", elsewhere.addr)).expect_ok("hello\n");
    let answer = link.ask("GET /away HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        (answer.status(), answer.head.get("location")),
        (302, Some(format!("{}/stolen", elsewhere.url()).as_str())),
        "a redirect is the visitor's business"
    );
    let asked = local.count();
    let _ = link.try_write(format!(
        "GET {}/x HTTP/1.1\r\nHost: {}\r\n\r\n",
        elsewhere.url(),
        elsewhere.addr
    ));
    let answer = link.read_answer("GET");
    assert!(
        answer.status() == 400 || local.count() == asked + 1,
        "absolute form: {}",
        answer.head.text()
    );
    assert_eq!(elsewhere.count(), 0);
}

#[test]
fn host_header_replaces_the_host() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let _device =
        forwarder(&raw, &local, &["--links", "1..1", "--host-header", "app.internal:3000"]);
    let mut link = raw.turn();
    for host in ["Host: visitors.example\r\n", "Host:\r\n", ""] {
        let answer = link.ask(&format!("GET /echo HTTP/1.1\r\n{host}\r\n"));
        assert_eq!(Head::split(&answer.body).0.get("host"), Some("app.internal:3000"));
    }
}

#[test]
fn a_local_server_always_gets_a_host() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let _device = forwarder(&raw, &local, &["--links", "1..1"]);
    let mut link = raw.turn();
    for host in ["Host:\r\n", ""] {
        let answer = link.ask(&format!("GET /echo HTTP/1.1\r\n{host}\r\n"));
        let (head, _) = Head::split(&answer.body);
        assert_eq!(head.all("host").len(), 1, "{}", head.text());
    }
}

#[test]
fn a_local_server_that_is_down_gives_502_with_a_reason() {
    let raw = RawGateway::start();
    let port = crate::support::free_port();
    let device = Ptth::start(&[
        "device",
        &raw.url("lamp"),
        "--to",
        &format!("http://127.0.0.1:{port}"),
        "--links",
        "1..1",
    ]);
    let mut link = raw.turn();
    for _ in 0..2 {
        link.ask(&get("/x")).expect_refusal(502);
    }
    device.expect_stderr(&port.to_string());
    // It comes up later, on the same port.
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let server = std::thread::spawn(move || {
        let mut peer = RawPeer::adopt(listener.accept().unwrap().0, "late server");
        peer.read_head();
        peer.write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate");
    });
    link.ask(&get("/x")).expect_ok("late");
    server.join().unwrap();
}

#[test]
fn answers_of_a_local_server_arrive_whole_by_every_framing() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let _device = forwarder(&raw, &local, &["--links", "1..1"]);
    let mut link = raw.turn();
    let expected = Hash::of_pattern(300_000);
    for kind in ["big", "chunked", "until-close"] {
        let answer = link.ask(&get(&format!("/{kind}?n=300000")));
        assert_eq!((answer.status(), Hash::of(&answer.body)), (200, expected.clone()), "/{kind}");
    }
    for status in [204, 304] {
        let answer = link.ask(&get(&format!("/status/{status}")));
        assert_eq!((answer.status(), answer.body.len()), (status, 0));
    }
    let answer = link.ask("HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        (answer.status(), answer.head.get("content-length"), answer.body.len()),
        (200, Some("6"), 0)
    );
    link.ask(&get("/x")).expect_ok("hello\n");
}

#[test]
fn a_local_servers_broken_answers_are_502_or_cut_and_never_whole() {
    let rows: &[(&str, &[u8])] = &[
        ("no HTTP", b"hello\r\n\r\n"),
        ("both framing fields", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
        ("an unknown coding", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello"),
        ("a head without end", b"HTTP/1.1 200 OK\r\nX: y"),
        ("a switch nobody asked for", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
        ("nothing at all", b""),
    ];
    each_row(
        rows,
        |r| r.0.to_owned(),
        |(_, bytes)| {
            let bytes = bytes.to_vec();
            let local = LocalServer::with(move |c| {
                c.raw(&bytes);
                c.close = true;
            });
            let raw = RawGateway::start();
            let _device = forwarder(&raw, &local, &["--links", "1..1"]);
            let mut link = raw.turn();
            link.write("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
            link.read_answer("POST").expect_refusal(502);
            assert_eq!(local.count(), 1, "a POST is asked once");
        },
    );
    for (name, bytes) in [
        ("short by length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"),
        ("no last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
    ] {
        let local = LocalServer::with(move |c| {
            c.raw(bytes);
            c.close = true;
        });
        let raw = RawGateway::start();
        let _device = forwarder(&raw, &local, &["--links", "1..1"]);
        let mut link = raw.turn();
        link.write(get("/x"));
        match link.read_answer_or_cut("GET") {
            Ok(answer) => answer.expect_refusal(502), // it was known before the head had gone on
            Err(cut) => {
                assert!(b"hello".starts_with(&cut.body), "{name}: {:?}", cut.body);
                assert!(
                    cut.head.is_some(),
                    "{name}: closed without a byte: neither what came of the answer nor a 502"
                );
            }
        }
    }
}

#[test]
fn the_forwarder_streams_both_ways() {
    let raw = RawGateway::start();
    let (said, saying) = std::sync::mpsc::channel::<&'static str>();
    let (heard, hearing) = std::sync::mpsc::channel::<Vec<u8>>();
    let (saying, heard) = (std::sync::Mutex::new(saying), std::sync::Mutex::new(heard));
    let local = LocalServer::with(move |c| {
        let (heard, saying) = (heard.lock().unwrap().clone(), saying.lock().unwrap());
        c.each_piece(|piece| heard.send(piece.to_vec()).unwrap());
        c.raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        while let Ok(line) = saying.recv_timeout(crate::support::DEADLINE) {
            c.raw(format!("{:x}\r\n{line}\r\n", line.len()));
            if line == "last" {
                break;
            }
        }
        c.raw("0\r\n\r\n");
    });
    let _device = forwarder(&raw, &local, &["--links", "1..1"]);
    let mut link = raw.turn();
    link.write("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for piece in ["one", "two"] {
        link.write(format!("{:x}\r\n{piece}\r\n", piece.len()));
        assert_eq!(
            hearing.recv_timeout(crate::support::DEADLINE).unwrap(),
            piece.as_bytes(),
            "a piece arrives before the next is sent"
        );
    }
    link.write("0\r\n\r\n");
    let head = link.read_head();
    assert_eq!(head.status(), 200);
    for line in ["data: 1\n\n", "data: 2\n\n", "last"] {
        said.send(line).unwrap();
        assert_eq!(link.read_chunk(), line.as_bytes(), "an event arrives before the next is sent");
    }
    assert!(link.read_chunk().is_empty());
}

#[test]
fn expect_100_continue_goes_through_to_the_local_server() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let _device = forwarder(&raw, &local, &["--links", "1..1"]);
    let mut link = raw.turn();
    link.write(
        "POST /hash HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    );
    assert_eq!(link.read_head().status(), 100);
    link.write("hello");
    link.read_answer("POST").expect_ok(Hash::of(b"hello"));
    // With --text the device has nothing to wait for: the answer comes, before or after a 100.
    let raw = RawGateway::start();
    let _device = text_device(&raw, &["--links", "1..1"]);
    let mut link = raw.turn();
    link.write("POST /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let head = link.read_head();
    let final_head = if head.status() == 100 {
        link.write("hello");
        link.read_head()
    } else {
        head
    };
    assert_eq!(final_head.status(), 200);
    assert_eq!(link.read_exact(15), SEED_TEXT.as_bytes());
}

#[test]
fn a_visitor_who_leaves_ends_the_local_servers_work_on_that_link_only() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let _device = forwarder(&raw, &local, &["--links", "2..8"]);
    let mut gone = raw.turn();
    gone.write(get("/big?n=50000000"));
    gone.read_head();
    drop(gone);
    let mut link = raw.turn();
    for _ in 0..3 {
        link.ask(&get("/x")).expect_ok("hello\n");
    }
}
