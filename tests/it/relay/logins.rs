//! Logins that belong to a connection (NTLM, Negotiate) belong to one visitor's connection, all the
//! way to the local server (T50).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::support::process::get;
use crate::support::{Gateway, Process, Ptth, RawGateway, RawPeer, each_row, eventually, slack};

/// A server whose users belong to connections. `NTLM 1 NAME` is answered with a challenge, and
/// `NTLM 3 NAME` after it, on the same connection, makes that connection the user's; `Negotiate
/// NAME` does so at once. A request without a login is its connection's user's, or is refused.
struct Server {
    address: SocketAddr,
    /// Connections there are now, and there were in all.
    open: Arc<AtomicUsize>,
    all: Arc<AtomicUsize>,
}

impl Server {
    fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server {
            address: listener.local_addr().unwrap(),
            open: Arc::default(),
            all: Arc::default(),
        };
        let (open, all) = (server.open.clone(), server.all.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (open, number) = (open.clone(), all.fetch_add(1, SeqCst) + 1);
                open.fetch_add(1, SeqCst);
                std::thread::spawn(move || {
                    serve(RawPeer::adopt(stream, "login server"), number);
                    open.fetch_sub(1, SeqCst);
                });
            }
        });
        server
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn serve(mut peer: RawPeer, number: usize) {
    peer.deadline = Duration::from_secs(120);
    let (mut user, mut challenged): (Option<String>, Option<String>) = (None, None);
    while let Some(head) = peer.try_read_head() {
        assert!(
            head.get("ptth-same-visitor").is_none(),
            "what gateway and device say to each other: {}",
            head.text()
        );
        let login = head.get("authorization").unwrap_or_default().to_owned();
        let words: Vec<&str> = login.split(' ').collect();
        let mut challenge = "WWW-Authenticate: Negotiate\r\nWWW-Authenticate: NTLM\r\n".to_owned();
        match words[..] {
            ["NTLM", "1", name] => {
                challenged = Some(name.to_owned());
                user = None;
                challenge = format!("WWW-Authenticate: NTLM 2-{name}\r\n");
            }
            ["NTLM", "3", name] => user = challenged.take().filter(|known| known == name),
            ["Negotiate", name] => user = Some(name.to_owned()),
            _ => {}
        }
        let (status, fields, body) = match &user {
            Some(user) => ("200 OK", String::new(), format!("{user} on {number}")),
            None => ("401 Unauthorized", challenge, format!("nobody on {number}")),
        };
        if peer
            .try_write(format!(
                "HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{body}",
                body.len()
            ))
            .is_err()
        {
            return;
        }
    }
}

fn with_login(target: &str, login: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\nAuthorization: {login}\r\n\r\n")
}

/// The three legs of NTLM on one connection, from a request that knows nothing of a login; the last
/// answer.
#[track_caller]
fn log_in(visitor: &mut RawPeer, target: &str, name: &str) -> String {
    assert_eq!(visitor.ask(&get(target)).status(), 401);
    let challenge = visitor.ask(&with_login(target, &format!("NTLM 1 {name}")));
    assert_eq!(
        (challenge.status(), challenge.head.get("www-authenticate")),
        (401, Some(format!("NTLM 2-{name}").as_str()))
    );
    let answer = visitor.ask(&with_login(target, &format!("NTLM 3 {name}")));
    assert_eq!(answer.status(), 200, "{}", answer.text());
    answer.text()
}

#[track_caller]
fn is_nobody(visitor: &mut RawPeer, target: &str) {
    let answer = visitor.ask(&get(target));
    assert!(
        answer.status() == 401 && answer.text().starts_with("nobody on "),
        "served as another: {}",
        answer.text()
    );
}

#[track_caller]
fn forwarder(gateway: &Gateway, server: &Server, more: &[&str]) -> Process {
    Ptth::device(gateway, "lamp", &[&["--to", &server.url()], more].concat())
}

#[test]
fn a_login_of_three_legs_is_its_visitors_and_nobody_elses() {
    for links in ["1..1", "1..2", "1..8", "8..8"] {
        let (server, gateway) = (Server::start(), Gateway::start(&["--wait-for-link", "9s"]));
        let _device = forwarder(&gateway, &server, &["--links", links]);
        let mut bob = gateway.visitor();
        is_nobody(&mut bob, "/lamp/x");
        let mut alice = gateway.visitor();
        let first = log_in(&mut alice, "/lamp/x", "alice");
        assert!(first.starts_with("alice on "), "{first}");
        // What follows without a login is hers, on the same connection, as a browser asks it.
        (0..3)
            .for_each(|_| assert_eq!(alice.ask(&get("/lamp/x")).text(), first, "--links {links}"));
        // Bob, on his connection and on new ones, is nobody, no matter who was served in between.
        for _ in 0..3 {
            is_nobody(&mut bob, "/lamp/x");
            is_nobody(&mut gateway.visitor(), "/lamp/x");
            let again = alice.ask(&get("/lamp/x"));
            // With one link hers may have been taken from her; then she is nobody again, and never
            // Bob.
            assert!(
                again.text() == first || (links == "1..1" && again.status() == 401),
                "{}",
                again.text()
            );
        }
        let mut carol = gateway.visitor();
        assert!(log_in(&mut carol, "/lamp/x", "carol").starts_with("carol on "));
        is_nobody(&mut bob, "/lamp/x");
    }
}

#[test]
fn many_visitors_at_once_are_each_themselves_or_nobody() {
    for links in ["1..1", "1..8"] {
        let (server, gateway) = (Server::start(), Gateway::start(&["--wait-for-link", "30s"]));
        let _device = forwarder(&gateway, &server, &["--links", links]);
        let visitors = gateway.visitors;
        std::thread::scope(|scope| {
            for n in 0..6 {
                scope.spawn(move || {
                    let mut visitor = RawPeer::connect(visitors);
                    visitor.deadline = Duration::from_secs(60);
                    let name = format!("user{n}");
                    for leg in ["NTLM 1", "NTLM 3", "", "", "NTLM 1", "NTLM 3", "", ""] {
                        let request = if leg.is_empty() {
                            get("/lamp/x")
                        } else {
                            with_login("/lamp/x", &format!("{leg} {name}"))
                        };
                        let answer = visitor.ask(&request).text();
                        assert!(
                            answer.starts_with(&format!("{name} on "))
                                || answer.starts_with("nobody on "),
                            "{name} is {answer}"
                        );
                    }
                    // Who knows nothing of logins is nobody.
                    is_nobody(&mut RawPeer::connect(visitors), "/lamp/x");
                });
            }
        });
    }
}

#[test]
fn what_was_logged_in_ends_with_its_visitors_connection() {
    let (server, gateway) = (Server::start(), Gateway::start(&[]));
    let device = forwarder(&gateway, &server, &["--links", "1..4"]);
    for _ in 0..3 {
        let mut alice = gateway.visitor();
        log_in(&mut alice, "/lamp/x", "alice");
        drop(alice);
        eventually("her local connection is closed", || {
            (server.open.load(SeqCst) == 0).then_some(())
        });
    }
    // One that asks, and leaves before it is answered, leaves nothing behind either.
    let mut alice = gateway.visitor();
    alice.write(with_login("/lamp/x", "NTLM 1 alice"));
    drop(alice);
    eventually("it is closed, too", || (server.open.load(SeqCst) == 0).then_some(()));
    is_nobody(&mut gateway.visitor(), "/lamp/x");
    assert!(!device.stderr().contains("panicked"), "{}", device.stderr());
}

#[test]
fn over_polls_no_local_connection_that_a_login_went_over_is_used_twice() {
    for comet in ["message", "json"] {
        let (server, gateway) = (Server::start(), Gateway::start(&[]));
        let url = gateway.device_url("lamp");
        let device = Ptth::start(&[
            "device",
            &url,
            "--to",
            &server.url(),
            "--fallback",
            "only",
            "--polls",
            "1",
            "--comet",
            comet,
        ]);
        assert!(device.line().starts_with("connected lamp"));
        // A login of one leg works for the request that brings it.
        let mut alice = gateway.visitor();
        assert!(
            alice.ask(&with_login("/lamp/x", "Negotiate alice")).text().starts_with("alice on ")
        );
        is_nobody(&mut gateway.visitor(), "/lamp/x");
        is_nobody(&mut alice, "/lamp/x");
        // One of several legs does not get further than its second.
        assert_eq!(alice.ask(&with_login("/lamp/x", "NTLM 1 alice")).status(), 401);
        let last = alice.ask(&with_login("/lamp/x", "NTLM 3 alice"));
        assert_eq!(last.status(), 401, "{}", last.text());
        is_nobody(&mut gateway.visitor(), "/lamp/x");
        // Connections without a login are kept as ever.
        eventually("only idle connections are left", || {
            (server.open.load(SeqCst) <= 1).then_some(())
        });
    }
}

/// A gateway that sends anybody's requests over one link, and says nothing, or what it cannot know.
#[test]
fn a_gateway_that_does_not_keep_visitors_apart_gets_no_logged_in_connection_twice() {
    let server = Server::start();
    let rows = [
        "",
        "PTTH-Same-Visitor: 1\r\n",
        "PTTH-Same-Visitor: 00000000000000000000000000000000\r\n",
        "PTTH-Same-Visitor:\r\n",
    ];
    each_row(
        &rows,
        |row| format!("{row:?}"),
        |row| {
            let raw = RawGateway::start();
            let _device = Ptth::start(&[
                "device",
                &raw.url("lamp"),
                "--to",
                &server.url(),
                "--links",
                "1..1",
            ]);
            let mut link = raw.turn();
            assert!(link.ask(&with_login("/x", "Negotiate alice")).text().starts_with("alice on "));
            let answer = link.ask(&format!("GET /x HTTP/1.1\r\nHost: a\r\n{row}\r\n"));
            assert_eq!(answer.status(), 401, "{}", answer.text());
        },
    );
    // Our own gateway proves that it keeps them apart by the session, which no visitor knows.
    let raw = RawGateway::start();
    let _device =
        Ptth::start(&["device", &raw.url("lamp"), "--to", &server.url(), "--links", "1..1"]);
    let (mut link, offer) = raw.offer();
    link.write(crate::support::SWITCH);
    let session = offer.get("ptth-session").unwrap().to_owned();
    let first = link.ask(&with_login("/x", "Negotiate alice")).text();
    let same = |session: &str| {
        format!("GET /x HTTP/1.1\r\nHost: a\r\nPTTH-Same-Visitor: {session}\r\n\r\n")
    };
    assert_eq!(link.ask(&same(&session)).text(), first);
    assert_eq!(link.ask(&get("/x")).status(), 401, "another visitor's");
    assert_eq!(link.ask(&same(&session)).status(), 401, "and what was hers is gone");
}

/// Devices that are not ours may have one local connection for each link, so the gateway keeps
/// links apart, too.
#[test]
fn a_link_that_a_login_went_over_serves_its_visitor_alone_and_ends_with_it() {
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    const CHALLENGE: &str = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"a, b\", ntlm\r\nContent-Length: 0\r\n\r\n";
    for (request, answer) in [
        (with_login("/lamp/x", "NTLM TlRMTVNTUAADA"), OK),
        (with_login("/lamp/x", "negotiate YII"), OK),
        (get("/lamp/x").replace("Host", "Proxy-Authorization: NTLM x\r\nHost"), OK),
        (with_login("/lamp/x", "Digest x, NTLM TlRMTVNTUAADA"), CHALLENGE),
    ] {
        let gateway = Gateway::start(&["--wait-for-link", "9s"]);
        let (mut first, mut second) = (gateway.link("lamp"), gateway.link("lamp"));
        let (mut alice, mut bob) = (gateway.visitor(), gateway.visitor());
        alice.write(request);
        let head = second.read_head(); // the newest is asked first
        assert_eq!(head.get("ptth-same-visitor"), None, "{}", head.text());
        second.write(answer);
        alice.read_answer("GET");
        for _ in 0..2 {
            bob.write(get("/lamp/b"));
            assert_eq!(first.read_head().target(), "/b");
            first.write(OK);
            bob.read_answer("GET").expect_ok("ok");
            alice.write(get("/lamp/a").replace("Host", "PTTH-Same-Visitor: forged\r\nHost"));
            let head = second.read_head();
            assert_eq!(
                (head.target(), head.get("ptth-same-visitor")),
                ("/a", None),
                "a device without a session is told nothing"
            );
            second.write(OK);
            alice.read_answer("GET").expect_ok("ok");
        }
        drop(alice);
        second.expect_closed();
        bob.write(get("/lamp/b"));
        first.read_head();
        first.write(OK);
        bob.read_answer("GET").expect_ok("ok");
    }
    // Other logins pin nothing, and a challenge alone does not: the newest link serves everybody.
    let gateway = Gateway::start(&[]);
    let (_first, mut second) = (gateway.link("lamp"), gateway.link("lamp"));
    for login in
        ["Basic bnRsbTpuZWdv", "Bearer ntlm", "Digest username=\"ntlm\", uri=\"/x\"", "ntl"]
    {
        let mut visitor = gateway.visitor();
        visitor.write(with_login("/lamp/x", login));
        assert_eq!(second.read_head().get("authorization"), Some(login));
        second.write(CHALLENGE);
        assert_eq!(visitor.read_answer("GET").status(), 401);
    }
    second.expect_quiet(Duration::from_millis(50));
}

#[test]
fn a_pinned_link_goes_for_others_who_wait_and_never_to_them() {
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let mut only = gateway.link("lamp");
    let (mut alice, mut bob) = (gateway.visitor(), gateway.visitor());
    alice.write(with_login("/lamp/a", "NTLM 3 alice"));
    only.read_head();
    only.write(OK);
    alice.read_answer("GET").expect_ok("ok");
    let began = Instant::now();
    bob.write(get("/lamp/b"));
    // It gets a goaway, and none of his requests.
    let goaway = only.read_head();
    assert!(goaway.start == "OPTIONS * HTTP/1.1" && goaway.closes(), "{}", goaway.text());
    let waited = began.elapsed();
    assert!(waited < Duration::from_secs(2), "{waited:?}");
    only.write("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    only.expect_closed();
    let mut next = gateway.link("lamp");
    assert_eq!(next.read_head().target(), "/b");
    next.write(OK);
    bob.read_answer("GET").expect_ok("ok");
    // Hers is another one now.
    alice.write(get("/lamp/a"));
    assert_eq!(next.read_head().target(), "/a");
    next.write(OK);
    alice.read_answer("GET").expect_ok("ok");
}

#[test]
fn one_visitor_pins_no_more_than_a_share_and_starves_nobody() {
    let (server, gateway) = (Server::start(), Gateway::start(&["--wait-for-link", "9s"]));
    let device = forwarder(&gateway, &server, &["--links", "1..8"]);
    // One address with sixteen connections, each logged in, and kept busy.
    let mut greedy: Vec<RawPeer> = (0..16).map(|_| gateway.visitor()).collect();
    for round in 0..2 {
        for visitor in &mut greedy {
            assert_eq!(
                visitor.ask(&with_login("/lamp/x", "Negotiate eve")).status(),
                200,
                "round {round}"
            );
        }
        for _ in 0..2 {
            let began = Instant::now();
            is_nobody(&mut gateway.visitor(), "/lamp/x");
            let took = began.elapsed();
            assert!(took < Duration::from_secs(2) + slack(), "others wait for {took:?}");
        }
    }
    assert!(server.open.load(SeqCst) <= 9, "{} local connections", server.open.load(SeqCst));
    assert!(!device.stderr().contains("panicked"), "{}", device.stderr());
}

#[test]
fn heartbeats_on_a_pinned_link_lose_nobodys_login() {
    let (server, gateway) = (Server::start(), Gateway::start(&["--heartbeat", "50ms"]));
    let _device = forwarder(&gateway, &server, &["--links", "2..4"]);
    let mut alice = gateway.visitor();
    let first = log_in(&mut alice, "/lamp/x", "alice");
    for pause in [0, 5, 49, 50, 51, 60, 120] {
        alice.expect_quiet(Duration::from_millis(pause.max(1)));
        assert_eq!(alice.ask(&get("/lamp/x")).text(), first, "{pause} ms later");
    }
}

/// The bound of requests in flight holds for pinned links, and a request that waits for it alone
/// keeps its own.
#[test]
fn a_pinned_link_is_kept_while_its_visitor_waits_for_its_turn() {
    let (server, gateway) =
        (Server::start(), Gateway::start(&["--in-flight", "1", "--wait-for-link", "9s"]));
    let _device = forwarder(&gateway, &server, &["--links", "4..8"]);
    let mut alice = gateway.visitor();
    let first = log_in(&mut alice, "/lamp/x", "alice");
    let visitors = gateway.visitors;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(move || {
                let mut bob = RawPeer::connect(visitors);
                (0..20).for_each(|_| is_nobody(&mut bob, "/lamp/x"));
            });
        }
        for _ in 0..20 {
            assert_eq!(alice.ask(&get("/lamp/x")).text(), first);
        }
    });
}
