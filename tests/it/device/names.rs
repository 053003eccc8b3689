//! Names, played for real (T37): the binary in a mount namespace whose resolv.conf points to a name
//! server of the test's own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::process::{Process, get};
use crate::support::{
    LocalServer, Ptth, RawGateway, RawPeer, SWITCH, TempDir, eventually, need, repository, say,
    skipped, slack,
};

/// What is asked, by name, and what is answered; a name that is not there gets no answer at all.
#[derive(Clone, Default)]
struct Zone {
    addresses: Arc<Mutex<HashMap<String, Vec<Ipv4Addr>>>>,
    asked: Arc<Mutex<HashMap<String, usize>>>,
}

impl Zone {
    fn set(&self, name: &str, addresses: &[Ipv4Addr]) {
        self.addresses.lock().unwrap().insert(name.to_owned(), addresses.to_vec());
    }

    /// How often the A records of this name were asked for.
    fn asked(&self, name: &str) -> usize {
        self.asked.lock().unwrap().get(name).copied().unwrap_or(0)
    }
}

/// A name server, and a binary that asks it.
struct Names {
    zone: Zone,
    dir: TempDir,
    /// Loopback addresses that nobody else in this run uses.
    net: [u8; 2],
}

impl Names {
    /// `None`: no mount namespace may be made here.
    fn start() -> Option<Names> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !need("unshare") {
            return None;
        }
        if !Command::new("unshare")
            .args(["-m", "true"])
            .status()
            .is_ok_and(|status| status.success())
        {
            skipped("mount namespaces (root is needed)");
            return None;
        }
        // Name servers have port 53, so each has an address of its own; parallel runs of the tests
        // differ by their process.
        let (zone, dir) = (Zone::default(), TempDir::new("names"));
        let (socket, net) = eventually("an address for a name server", || {
            let n = std::process::id().wrapping_mul(31).wrapping_add(NUMBER.fetch_add(1, Relaxed));
            let net = [64 + (n % 128) as u8, (n / 128 % 256) as u8];
            UdpSocket::bind((Ipv4Addr::new(127, net[0], net[1], 53), 53))
                .ok()
                .map(|socket| (socket, net))
        });
        std::fs::write(
            dir.0.join("resolv.conf"),
            format!(
                "nameserver {}\noptions timeout:2 attempts:5\n",
                socket.local_addr().unwrap().ip()
            ),
        )
        .unwrap();
        std::fs::write(
            dir.0.join("hosts"),
            "127.0.0.1 localhost\n::1 both.test\n127.0.0.1 both.test\n",
        )
        .unwrap();
        let answers = zone.clone();
        std::thread::spawn(move || serve(&socket, &answers)); // to the end of the tests
        Some(Names { zone, dir, net })
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.net[0], self.net[1], last)
    }

    /// The binary, which asks this name server.
    fn start_device(&self, arguments: &[&str]) -> Process {
        let binary = Ptth::command::<&str>(&[]);
        let script = "mount --bind \"$1/resolv.conf\" /etc/resolv.conf && mount --bind \"$1/hosts\" /etc/hosts && shift && exec \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c", script, "sh"])
            .arg(&self.dir.0)
            .arg(binary.get_program())
            .arg("device")
            .args(arguments);
        for (name, value) in binary.get_envs() {
            assert!(value.is_none());
            command.env_remove(name);
        }
        command.env("PTTH_LINKS", "1..1"); // a spare link would meet what is meant for the next
        Process::start(command.current_dir(repository(".")))
    }
}

/// Answers A queries from the zone, and says of every other type that there is none.
fn serve(socket: &UdpSocket, zone: &Zone) {
    let mut query = [0; 512];
    while let Ok((n, from)) = socket.recv_from(&mut query) {
        let query = &query[..n];
        let (mut name, mut at) = (Vec::new(), 12);
        while query[at] > 0 {
            let label = &query[at + 1..=at + usize::from(query[at])];
            name.push(String::from_utf8_lossy(label).into_owned());
            at += 1 + label.len();
        }
        let (name, is_a, end) = (name.join("."), query[at + 1..at + 3] == [0, 1], at + 5);
        if is_a {
            *zone.asked.lock().unwrap().entry(name.clone()).or_default() += 1;
        }
        let Some(addresses) = zone.addresses.lock().unwrap().get(&name).cloned() else { continue };
        let addresses = if is_a { addresses } else { Vec::new() };
        let mut answer = [
            &query[..2],
            &[0x81, 0x80, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0],
            &query[12..end],
        ]
        .concat();
        for address in addresses {
            answer.extend_from_slice(&[0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
            answer.extend_from_slice(&address.octets());
        }
        let _ = socket.send_to(&answer, from); // the client may be gone
    }
}

/// A port that is free at this address, and a gateway there.
fn gateway_at(address: Ipv4Addr, port: u16) -> RawGateway {
    RawGateway::at(SocketAddr::new(address.into(), port))
}

#[test]
fn an_answer_that_changes_is_followed_at_the_next_attempt() {
    let Some(names) = Names::start() else { return };
    let first = gateway_at(names.address(1), 0);
    let port = first.addr.port();
    names.zone.set("gw.test", &[names.address(1)]);
    let device = names.start_device(&[
        &format!("http://gw.test:{port}/lamp"),
        "--text",
        "x",
        "--backoff",
        "5ms..50ms",
    ]);
    let (mut peer, head) = first.offer();
    assert_eq!(head.get("host"), Some(format!("gw.test:{port}").as_str()));
    peer.write(SWITCH);
    assert_eq!(
        device.line(),
        format!("connected lamp via http://gw.test:{port}/lamp (PTTH/1.0 turn)")
    );
    let second = gateway_at(names.address(2), port);
    names.zone.set("gw.test", &[names.address(2)]);
    drop((first, peer));
    let mut peer = second.turn();
    peer.write(get("/"));
    assert_eq!(peer.read_answer("GET").text(), "x");
    assert!(names.zone.asked("gw.test") >= 2);
}

/// A listener whose backlog is full: the kernel drops what comes, and a connect hangs.
pub(super) fn silent_at(address: Ipv4Addr, port: u16) -> (socket2::Socket, Vec<socket2::Socket>) {
    let socket =
        || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let at = SocketAddr::new(address.into(), port).into();
    let listener = socket();
    listener.bind(&at).unwrap();
    listener.listen(0).unwrap();
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let peer = socket();
        let full = peer.connect_timeout(&at, Duration::from_millis(200)).is_err();
        waiting.push(peer);
        if full {
            return (listener, waiting);
        }
    }
    panic!("a backlog of nothing holds four connections");
}

/// Far below `connect_timeout`, which each silent address would cost.
const A_MOMENT: Duration = Duration::from_secs(5);

#[test]
fn the_next_address_is_tried_beside_a_silent_one_and_what_was_taken_is_the_next_dials_first() {
    let Some(names) = Names::start() else { return };
    // The first refuses, the second is silent, the third is there.
    let third = gateway_at(names.address(3), 0);
    let port = third.addr.port();
    let _second = silent_at(names.address(2), port);
    names.zone.set("gw.test", &[names.address(1), names.address(2), names.address(3)]);
    let url = format!("http://gw.test:{port}/lamp");
    let began = Instant::now();
    let device =
        names.start_device(&[&url, "--text", "x", "--links", "1..1", "--backoff", "5ms..20ms"]);
    let mut peer = third.turn();
    let took = began.elapsed();
    say(&format!("two dead addresses before a live one: {} ms", took.as_millis()));
    assert!(took < A_MOMENT, "{took:?}");
    assert_eq!(device.line(), format!("connected lamp via {url} (PTTH/1.0 turn)"));
    peer.write(get("/"));
    assert_eq!(peer.read_answer("GET").text(), "x");
    assert!(!device.stderr().contains("next attempt"), "one attempt: {}", device.stderr());
    // The first of the list is there now, too; the one that was taken before goes before it.
    let first = gateway_at(names.address(1), port);
    drop(peer);
    let peer = third.turn();
    assert!(first.try_accept().is_none());
    // It is gone: the list's own order.
    drop((third, peer));
    drop(first.turn());
    // None is there: the last one's reason, and the next attempt.
    drop(first);
    names.zone.set("gw.test", &[names.address(1), names.address(4)]);
    device.expect_stderr("refused");
}

#[test]
fn a_silent_address_costs_a_moment_wherever_a_name_is_dialled() {
    let Some(names) = Names::start() else { return };
    let place = |name: &str| {
        let there = gateway_at(names.address(2), 0);
        names.zone.set(name, &[names.address(1), names.address(2)]);
        (silent_at(names.address(1), there.addr.port()), there)
    };
    let moment = |what: &str, began: Instant| {
        say(&format!("{what} behind a silent address: {} ms", began.elapsed().as_millis()));
        assert!(began.elapsed() < A_MOMENT, "{what}: {:?}", began.elapsed());
    };
    // A poll, and the connection after the one that was taken.
    let (_silent, gateway) = place("poll.test");
    let url = format!("http://poll.test:{}/lamp", gateway.addr.port());
    let began = Instant::now();
    let _polling = names.start_device(&[&url, "--text", "x", "--fallback", "only", "--polls", "1"]);
    gateway.offer();
    moment("a poll", began);
    // A proxy.
    let (_silent, proxy) = place("proxy.test");
    let url = format!("http://proxy.test:{}", proxy.addr.port());
    let began = Instant::now();
    let _proxied = names.start_device(&["http://gw.example/lamp", "--proxy", &url, "--text", "x"]);
    assert_eq!(proxy.offer().1.method(), "CONNECT");
    moment("a proxy", began);
    // The local server.
    let gateway = RawGateway::start();
    let local = LocalServer::start_at(names.address(2), 0);
    names.zone.set("app.test", &[names.address(1), names.address(2)]);
    let _silent = silent_at(names.address(1), local.addr.port());
    let to = format!("http://app.test:{}", local.addr.port());
    let _device = names.start_device(&[&gateway.url("lamp"), "--to", &to]);
    let mut link = gateway.turn();
    let began = Instant::now();
    link.ask(&get("/x")).expect_ok("hello\n");
    moment("a local server", began);
}

#[test]
fn silent_addresses_alone_fail_after_their_time_and_hold_up_no_end() {
    let Some(names) = Names::start() else { return };
    let (_one, port) = {
        let free = gateway_at(names.address(1), 0).addr.port();
        (silent_at(names.address(1), free), free)
    };
    let _two = silent_at(names.address(2), port);
    names.zone.set("gw.test", &[names.address(1), names.address(2)]);
    let url = format!("http://gw.test:{port}/lamp");
    let device = names.start_device(&[
        &url,
        "--text",
        "x",
        "--connect-timeout",
        "400ms",
        "--backoff",
        "5ms..20ms",
    ]);
    device.expect_stderr("did not accept the connection within connect_timeout");
    drop(device);
    // While they are being tried, SIGTERM does not wait for them.
    for fallback in ["auto", "only"] {
        let before = names.zone.asked("gw.test");
        let mut device = names.start_device(&[&url, "--text", "x", "--fallback", fallback]);
        eventually("its name is looked up", || {
            (names.zone.asked("gw.test") > before).then_some(())
        });
        let began = Instant::now();
        device.signal("TERM");
        assert_eq!(device.exit_code(), 0);
        assert!(began.elapsed() < A_MOMENT, "{:?}", began.elapsed());
    }
}

#[test]
fn ipv6_and_ipv4_addresses_of_one_name_are_both_tried() {
    let Some(names) = Names::start() else { return };
    // /etc/hosts has ::1 before 127.0.0.1, and nobody listens on ::1 there.
    let gateway = RawGateway::at_localhost();
    let url = format!("http://both.test:{}/lamp", gateway.addr.port());
    let device = names.start_device(&[&url, "--text", "x"]);
    let _peer = gateway.turn();
    assert_eq!(device.line(), format!("connected lamp via {url} (PTTH/1.0 turn)"));
}

#[test]
fn a_resolver_that_hangs_holds_nobody_up_and_no_thread_for_each_attempt() {
    let Some(names) = Names::start() else { return };
    let (good, other) = (gateway_at(names.address(1), 0), RawGateway::start());
    names.zone.set("good.test", &[names.address(1)]);
    let good_url = format!("http://good.test:{}/lamp", good.addr.port());
    let hang_url = format!("http://hang.test:{}/lamp", good.addr.port());
    let device = names.start_device(&[
        &hang_url,
        "--gateway",
        &good_url,
        "--gateway",
        &other.url("lamp"),
        "--text",
        "x",
        "--resolve-timeout",
        "200ms",
        "--backoff",
        "5ms..20ms",
    ]);
    let (mut good_peer, mut other_peer) = (good.turn(), other.turn());
    let attempts = |device: &Process| device.stderr().matches("resolve_timeout (0.2 s)").count();
    eventually("the hanging lookup fails again and again", || {
        (attempts(&device) >= 8).then_some(())
    });
    let text = device.stderr();
    assert!(
        text.contains(
            "hang.test cannot be looked up: the resolver did not answer within resolve_timeout"
        ),
        "{text}"
    );
    let threads = device.threads();
    say(&format!(
        "{} lookups hung one after the other: {threads} threads in all",
        attempts(&device)
    ));
    // main, reporter, signals, a loop for each of three gateways, two lookups that hang, handlers
    // and resolvers that idle.
    assert!(threads <= 12, "{threads} threads");
    assert!(
        names.zone.asked("hang.test") <= 2 * 5,
        "each lookup is tried again by the resolver itself, and two are there at once"
    );
    for peer in [&mut good_peer, &mut other_peer] {
        peer.write(get("/"));
        assert_eq!(peer.read_answer("GET").text(), "x");
    }
    // The resolver comes back: what hung is of use.
    names.zone.set("hang.test", &[names.address(1)]);
    let mut peer = good.turn();
    peer.write(get("/"));
    assert_eq!(peer.read_answer("GET").text(), "x");
    // SIGTERM does not wait for a lookup.
    names.zone.addresses.lock().unwrap().remove("good.test");
    drop((good_peer, good));
    let mut device = device;
    let began = Instant::now();
    device.signal("TERM");
    assert_eq!(device.exit_code(), 0);
    assert!(began.elapsed() < Duration::from_secs(2) + slack(), "{:?}", began.elapsed());
}

#[test]
fn the_local_servers_name_is_looked_up_for_each_connection_and_never_in_the_loop() {
    let Some(names) = Names::start() else { return };
    let gateway = RawGateway::start();
    let (first, second) = (LocalServer::start_at(names.address(1), 0), names.address(2));
    let port = first.addr.port();
    let local = format!("http://app.test:{port}");
    // It starts although nobody answers yet; the request gets a 502 that says why.
    let device = names.start_device(&[
        &gateway.url("lamp"),
        "--to",
        &local,
        "--resolve-timeout",
        "4s",
        "--links",
        "2..2",
    ]);
    let (mut one, mut two) = (gateway.turn(), gateway.turn());
    assert!(device.line().starts_with("connected lamp"));
    one.write(get("/x"));
    // Meanwhile the loop answers on the other link.
    let began = Instant::now();
    two.write("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(two.read_answer("OPTIONS").status(), 204);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let answer = one.read_answer("GET");
    answer.expect_refusal(502);
    assert!(
        !answer.text().contains("app.test"),
        "a visitor learns what failed, and no name: {}",
        answer.text()
    );
    device.expect_stderr("app.test cannot be looked up");
    device.expect_stderr("resolve_timeout");
    // It is answered now, with a dead address before the living one.
    names.zone.set("app.test", &[names.address(9), names.address(1)]);
    eventually("the name is found", || {
        one.write(get("/x"));
        (one.read_answer("GET").status() == 200).then_some(())
    });
    let asked = names.zone.asked("app.test");
    one.write(get("/x"));
    one.read_answer("GET").expect_ok("hello\n");
    assert_eq!(names.zone.asked("app.test"), asked, "the connection is kept, and needs no lookup");
    // The answer changes: so does the next connection.
    names.zone.set("app.test", &[second]);
    let moved = LocalServer::start_at(second, port);
    let ask = |link: &mut RawPeer| {
        link.write("GET /x HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
        link.read_answer("GET").status()
    };
    // Two at once need two connections: the kept one, and a new one.
    one.write("POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
    eventually("the first is in the old server's hands", || (first.count() >= 3).then_some(()));
    assert_eq!(ask(&mut two), 200);
    assert_eq!(moved.count(), 1);
}
