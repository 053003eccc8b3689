//! Revocation (T59): connections that a certificate or a token has admitted end with it, within
//! `take_over_grace`: links, polls, streams, tunnels, links lent to programs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::Request;
use reverse_http::tls::{ClientCertificates, GatewayTls, Identity};
use reverse_http::{Body, Device, Limits, Routes, Tokens};
use rustls::HandshakeKind;

use crate::gateway::tokens::{VisitorListener, bearer};
use crate::support::pki::TlsPeer;
use crate::support::process::{get, offer};
use crate::support::{Authority, DEADLINE, Head, Pair, RawPeer, eventually, say, slack};

const GRACE: Duration = Duration::from_millis(300);

/// A gateway of this process with certificates and tokens.
struct World {
    server: Pair,
    gateway: reverse_http::Gateway,
    visitors: SocketAddr,
    roots: Authority,
}

fn tls(server: &Pair, ca: &str) -> GatewayTls {
    let identity = Identity::from_pem(&server.certificate_pem, &server.key_pem).unwrap();
    GatewayTls::new(identity).unwrap().client_ca(ca, ClientCertificates::Required).unwrap()
}

impl World {
    fn new(ca: &str, visitors: Option<&[(&str, &str)]>) -> World {
        let roots = Authority::new();
        let server = roots.server("gateway");
        let mut limits = Limits::default();
        (limits.take_over_grace, limits.heartbeat) = (GRACE, Duration::ZERO);
        let mut builder =
            crate::support::gateway().listen_tls("127.0.0.1:0", tls(&server, ca)).limits(limits);
        if let Some(lines) = visitors {
            builder = builder.visitor_tokens(table(lines));
        }
        let gateway = builder.start().unwrap();
        let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
        World { server, gateway, visitors, roots }
    }

    fn dial(&self, own: &Pair) -> TlsPeer {
        TlsPeer::connect(self.gateway.devices_addr(), Arc::new(self.roots.client(Some(own))))
    }

    /// A turned link of the device `name`.
    fn link(&self, own: &Pair, name: &str) -> TlsPeer {
        let mut link = self.dial(own);
        link.write(offer(name, ""));
        assert_eq!(link.read_head().status(), 101);
        link
    }

    fn visitor(&self) -> RawPeer {
        RawPeer::connect(self.visitors)
    }

    /// A visitor whose request the link has.
    fn asks(&self, link: &mut TlsPeer, request: &str) -> RawPeer {
        let mut visitor = self.visitor();
        visitor.write(request);
        link.read_head();
        visitor
    }

    fn replace_ca(&self, ca: &str) {
        self.gateway.set_tls(self.gateway.devices_addr(), tls(&self.server, ca)).unwrap();
    }
}

fn table(lines: &[(&str, &str)]) -> Tokens {
    let lines: Vec<String> =
        lines.iter().map(|(token, names)| Tokens::line(token, names).unwrap()).collect();
    Tokens::parse(&lines.join("\n")).unwrap()
}

/// Reads to the end of a connection, however it ends.
fn to_the_end(peer: &mut TlsPeer) {
    let mut rest = Vec::new();
    let ended = peer.0.read_to_end(&mut rest);
    assert!(!ended.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock), "it goes on");
}

#[track_caller]
fn within_grace(began: Instant) {
    let took = began.elapsed();
    assert!(took < GRACE + slack(), "{took:?}");
}

const UPGRADE: &str = "Upgrade: echo\r\nConnection: Upgrade\r\n";
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n";

/// An idle link gets a goaway.
fn is_told_to_go(link: &mut TlsPeer) {
    let told: Head = link.read_head();
    assert!(told.start == "OPTIONS * HTTP/1.1" && told.closes(), "{}", told.text());
    link.write("HTTP/1.1 204 No Content\r\n\r\n");
    to_the_end(link);
}

/// A poll of a device with a session, whose first is answered at once; its connection goes on.
fn poller(world: &World, own: &Pair, name: &str, session: &str) -> (TlsPeer, String) {
    let mut poller = world.dial(own);
    let poll = VisitorListener::PollMessage
        .request(name, &format!("PTTH-Session: {}\r\n", session.repeat(16)));
    poller.write(&poll);
    assert_eq!(poller.read_head().status(), 204);
    (poller, poll)
}

#[test]
fn what_a_replaced_ca_let_in_ends_within_the_grace_and_the_rest_stays() {
    let (old, new) = (Authority::new(), Authority::new());
    let world = World::new(&format!("{}{}", old.pem, new.pem), None);
    let device = |authority: &Authority, name: &str| authority.device(name, &[name]);
    let (lamp, door, hall) = (device(&old, "lamp"), device(&old, "door"), device(&old, "hall"));
    let (porch, cellar, stays) =
        (device(&old, "porch"), device(&old, "cellar"), device(&new, "stays"));
    let mut idle = world.link(&lamp, "lamp");
    let mut streams = world.link(&door, "door");
    let mut tunnels = world.link(&hall, "hall");
    let (mut held, poll) = poller(&world, &porch, "porch", "ab");
    held.write(&poll);
    let (mut between, later) = poller(&world, &cellar, "cellar", "cd");
    // Two answers that do not go on: one is collected whole, one has no whole head yet.
    let half = |content: &str, body: &str| {
        let mut posts = world.dial(&cellar);
        let length = format!("{content}\r\nContent-Length: 1000\r\n");
        posts.write(later.replacen("Content-Length: 0\r\n", &length, 1));
        posts.write(body);
        posts
    };
    let head = "Content-Type: message/http\r\nPTTH-Message-ID: 1";
    let mut posts = [
        half("Content-Type: application/json", "{\"message-id\""),
        half(head, "HTTP/1.1 200 OK\r\n"),
    ];
    let mut other = world.link(&stays, "stays");
    // An answer without end, a tunnel, a request that has no answer yet, and a program's.
    let mut stream = world.asks(&mut streams, &get("/door/x"));
    streams.write("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome");
    stream.read_head();
    let mut tunnel = world
        .asks(&mut tunnels, &get("/hall/x").replacen("\r\n\r\n", &format!("\r\n{UPGRADE}\r\n"), 1));
    tunnels.write(SWITCHED);
    assert_eq!(tunnel.read_head().status(), 101);
    let mut second = world.link(&hall, "hall");
    let mut waits = world.asks(&mut second, &get("/hall/y"));
    let mut third = world.link(&door, "door");
    let handshake = RawPeer::connect(world.gateway.devices_addr());
    std::thread::scope(|scope| {
        let leases = scope.spawn(|| {
            world
                .gateway
                .device("door")
                .send(Request::post("/z").body(Body::empty()).unwrap())
                .map(drop)
        });
        third.read_head();
        let began = Instant::now();
        world.replace_ca(&new.pem);
        is_told_to_go(&mut idle);
        assert_eq!(held.read_head().status(), 401);
        between.write(&later);
        assert_eq!(between.read_head().status(), 401, "a connection that it let in is of no use");
        let mut handshake = handshake;
        handshake.expect_closed();
        assert!(leases.join().unwrap().is_err());
        assert!(stream.read_to_any_end().0.len() < 1000);
        tunnel.read_to_any_end();
        for post in &mut posts {
            assert_eq!(post.read_head().status(), 401);
        }
        waits.read_answer("GET").expect_refusal(502);
        [&mut streams, &mut tunnels, &mut second, &mut third].into_iter().for_each(to_the_end);
        within_grace(began);
    });
    the_old_ca_is_out_and_the_new_one_in(&world, &lamp, &device(&new, "lamp"), &mut other);
}

/// The old CA's device is not admitted again, the new CA's has not noticed anything, and a renewed
/// one takes its place.
fn the_old_ca_is_out_and_the_new_one_in(
    world: &World,
    lamp: &Pair,
    again: &Pair,
    other: &mut TlsPeer,
) {
    let mut refused = world.dial(lamp);
    let _ = refused.0.conn.complete_io(&mut refused.0.sock); // in TLS 1.3 the refusal comes after the handshake
    let mut byte = [0];
    assert!(refused.0.read(&mut byte).is_err());
    let mut visitor = world.asks(other, &get("/stays/x"));
    other.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    visitor.read_answer("GET").expect_ok("ok");
    let mut renewed = world.link(again, "lamp");
    let mut visitor = world.asks(&mut renewed, &get("/lamp/x"));
    renewed.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    visitor.read_answer("GET").expect_ok("ok");
}

#[test]
fn what_a_certificate_let_in_ends_when_it_expires() {
    let authority = Authority::new();
    let world = World::new(&authority.pem, None);
    let life = Duration::from_secs(6);
    let began = Instant::now();
    let short = authority.issue_for("short", &["lamp", "porch"], life);
    let long = authority.device("long", &["door"]);
    let config = Arc::new(world.roots.client(Some(&short)));
    let offers = || {
        let mut link = TlsPeer::connect(world.gateway.devices_addr(), config.clone());
        link.write(offer("lamp", ""));
        (link.read_head().status(), link.0.conn.handshake_kind())
    };
    assert_eq!(offers(), (101, Some(HandshakeKind::Full)));
    let mut idle = world.link(&short, "lamp");
    let mut busy = world.link(&short, "lamp");
    let mut other = world.link(&long, "door");
    let (mut held, poll) = poller(&world, &short, "porch", "ab");
    held.write(&poll);
    let mut tunnel = world
        .asks(&mut busy, &get("/lamp/x").replacen("\r\n\r\n", &format!("\r\n{UPGRADE}\r\n"), 1));
    busy.write(SWITCHED);
    assert_eq!(tunnel.read_head().status(), 101, "set up after {:?}", began.elapsed());
    is_told_to_go(&mut idle);
    assert!(began.elapsed() >= life - Duration::from_secs(1), "not before it expires");
    assert_eq!(held.read_head().status(), 401);
    tunnel.read_to_any_end();
    to_the_end(&mut busy);
    // A session of before is resumed, in which no certificate is verified.
    assert_eq!(offers(), (401, Some(HandshakeKind::Resumed)));
    say(&format!(
        "a certificate of {life:?}: what it let in had ended after {:?}",
        began.elapsed()
    ));
    let mut visitor = world.asks(&mut other, &get("/door/x"));
    other.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    visitor.read_answer("GET").expect_ok("ok");
}

/// Returns false if the connection has ended.
fn is_served(visitor: &mut TlsPeer, name: &str) -> bool {
    let mut answer = Vec::new();
    let asked = visitor.0.write_all(get(&format!("/{name}/x")).as_bytes());
    while asked.is_ok() && !answer.ends_with(b"~") {
        let mut some = [0; 512];
        match visitor.0.read(&mut some) {
            Ok(n) if n > 0 => answer.extend_from_slice(&some[..n]),
            _ => break,
        }
    }
    answer.ends_with(b"~")
}

/// A connection may be on its way from one event loop to another when the loops are asked for what
/// they have.
#[test]
fn a_replaced_ca_ends_connections_that_are_being_moved() {
    let (old, new, roots) = (Authority::new(), Authority::new(), Authority::new());
    let server = roots.server("gateway");
    let builder = reverse_http::Gateway::builder().loops(2).listen("127.0.0.1:0");
    let gateway = builder.start().unwrap();
    let both = tls(&server, &format!("{}{}", old.pem, new.pem));
    let visitors =
        gateway.listen_visitors_tls("127.0.0.1:0", Routes::path(), both.clone()).unwrap();
    let own: Vec<_> = (0..8).map(|n| old.device(&format!("v{n}"), &["visitor"])).collect();
    // Two devices of different loops: a visitor who goes from one to the other is always moved.
    // Their own links may be moved, too, but these are fewer.
    const WALK: usize = 20;
    let mut devices = Vec::new();
    let mut add = |name: &str| {
        let device = Device::builder(format!("http://{}/{name}", gateway.devices_addr()));
        let device = device.links(1..=8).build().unwrap();
        devices.push(device.spawn(|_| http::Response::new(Body::from("~"))).unwrap());
        gateway.device(name).wait_connected(DEADLINE).unwrap();
    };
    let mut visitor = TlsPeer::connect(visitors, Arc::new(roots.client(Some(&own[0]))));
    let mut is_in_another_loop = |name: &String| {
        add(name);
        let moved = gateway.stats().moved;
        let walk = ["first", name].into_iter().cycle().take(WALK + 1);
        walk.for_each(|name| assert!(is_served(&mut visitor, name)));
        gateway.stats().moved >= moved + WALK as u64
    };
    is_in_another_loop(&"first".to_owned());
    let (first, last) = ("first", (0..).map(|n| format!("d{n}")).find(is_in_another_loop).unwrap());
    for round in 0..20 {
        gateway.set_tls(visitors, both.clone()).unwrap();
        let moved = gateway.stats().moved;
        let is_changed = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for own in &own {
                let (is_changed, last) = (&is_changed, &last);
                let config = Arc::new(roots.client(Some(own)));
                scope.spawn(move || {
                    let (mut visitor, mut after) = (TlsPeer::connect(visitors, config), 0);
                    let mut names = [first, last].into_iter().cycle().take(50_000);
                    while names.next().is_some_and(|name| is_served(&mut visitor, name)) {
                        after += usize::from(is_changed.load(Relaxed));
                        // What is in progress then is answered.
                        assert!(after <= 2, "it goes on, in round {round}");
                    }
                });
            }
            eventually("they go from loop to loop", || {
                (gateway.stats().moved > moved + 100).then_some(())
            });
            gateway.set_tls(visitors, tls(&server, &new.pem)).unwrap();
            is_changed.store(true, Relaxed);
        });
    }
    devices.iter().for_each(reverse_http::DeviceHandle::stop);
}

/// Each event loop ends what it has: a connection that was moved counts where it is now.
#[test]
fn a_visitors_tunnel_that_was_moved_ends_when_its_certificate_expires() {
    let (authority, roots) = (Authority::new(), Authority::new());
    let mut limits = Limits::default();
    (limits.take_over_grace, limits.heartbeat) = (GRACE, Duration::ZERO);
    let builder = reverse_http::Gateway::builder().loops(2).limits(limits);
    let gateway = builder.listen("127.0.0.1:0").start().unwrap();
    let tls = tls(&roots.server("gateway"), &authority.pem);
    let visitors = gateway.listen_visitors_tls("127.0.0.1:0", Routes::path(), tls).unwrap();
    let dial = |own: &Pair| TlsPeer::connect(visitors, Arc::new(roots.client(Some(own))));
    let life = Duration::from_secs(6);
    let began = Instant::now();
    let mut visitor = dial(&authority.issue_for("short", &["visitor"], life));
    // Until one of them is in another loop than the visitor.
    let mut links = Vec::new();
    while gateway.stats().moved == 0 {
        let name = format!("d{}", links.len());
        let mut link = RawPeer::connect(gateway.devices_addr());
        link.write(offer(&name, ""));
        assert_eq!(link.read_head().status(), 101);
        visitor.write(get(&format!("/{name}/x")));
        link.read_head();
        link.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(visitor.read_head().status(), 200);
        links.push(link);
    }
    let last = links.len() - 1;
    let upgrade =
        get(&format!("/d{last}/x")).replacen("\r\n\r\n", &format!("\r\n{UPGRADE}\r\n"), 1);
    let asks = |visitor: &mut TlsPeer, link: &mut RawPeer| {
        visitor.write(&upgrade);
        link.read_head();
        link.write(SWITCHED);
        assert_eq!(visitor.read_head().status(), 101);
    };
    asks(&mut visitor, &mut links[last]);
    assert!(began.elapsed() < life, "set up after {:?}", began.elapsed());
    let mut link = RawPeer::connect(gateway.devices_addr());
    link.write(offer(&format!("d{last}"), ""));
    assert_eq!(link.read_head().status(), 101);
    let mut stays = dial(&authority.device("long", &["other"]));
    asks(&mut stays, &mut link);
    to_the_end(&mut visitor);
    assert!(began.elapsed() >= life - Duration::from_secs(1), "not before it expires");
    stays.write("ping");
    assert_eq!(link.read_exact(4), b"ping");
}

#[test]
fn what_a_visitor_asked_with_a_revoked_token_ends_within_the_grace_and_the_rest_stays() {
    let authority = Authority::new();
    let world = World::new(
        &authority.pem,
        Some(&[("goes", "lamp"), ("stays", "lamp"), ("less", "lamp,door")]),
    );
    let own = authority.device("lamp", &["lamp"]);
    let ask = |token: &str, more: &str| {
        format!("GET /lamp/x HTTP/1.1\r\nHost: a\r\n{}{more}\r\n", bearer(token))
    };
    // Each on a link of its own: a tunnel, a stream, a request without an answer; and a tunnel of a
    // token that stays.
    let mut links: Vec<TlsPeer> = (0..4).map(|_| world.link(&own, "lamp")).collect();
    let mut visitors = Vec::new();
    for (token, more, answer) in [
        ("goes", UPGRADE, SWITCHED),
        ("less", "", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome"),
        ("goes", "", ""),
        ("stays", UPGRADE, SWITCHED),
    ] {
        let mut link = links.pop().unwrap(); // the newest idle one is asked first
        let mut visitor = world.asks(&mut link, &ask(token, more));
        if !answer.is_empty() {
            link.write(answer);
            visitor.read_head();
        }
        visitors.push((visitor, link));
    }
    let mut line = world.visitor();
    line.write(ask("goes", "")); // no link is left for it
    let began = Instant::now();
    world.gateway.set_visitor_tokens(table(&[("stays", "lamp"), ("less", "door")])).unwrap();
    let [(tunnel, tunnel_link), (stream, stream_link), (waits, _waits_link), (kept, kept_link)] =
        &mut visitors[..]
    else {
        panic!()
    };
    tunnel.read_to_any_end();
    assert!(stream.read_to_any_end().0.len() < 1000);
    waits.read_answer("GET").expect_refusal(401);
    line.read_answer("GET").expect_refusal(401);
    to_the_end(tunnel_link);
    to_the_end(stream_link);
    within_grace(began);
    kept.write("ping");
    let mut ping = [0; 4];
    kept_link.0.read_exact(&mut ping).unwrap();
    kept_link.write("pong");
    assert_eq!(kept.read_exact(4), b"pong");
    eventually("the rest of its links are gone", || {
        (world.gateway.device("lamp").links().unwrap().total() == 1).then_some(())
    });
    assert!(began.elapsed() < DEADLINE);
}
