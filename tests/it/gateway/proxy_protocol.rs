//! The PROXY protocol on both ports (`--devices-proxy-protocol`, `--visitors-proxy-protocol`): whose
//! word is taken, what it counts for, and what becomes of connections without it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reverse_http::{Device, Grant, Routes};

use crate::support::pki::TlsPeer;
use crate::support::process::{get, offer};
use crate::support::{
    Authority, DEADLINE, Gateway, LocalServer, Process, Ptth, RawPeer, SWITCH, TempDir, each_row,
    eventually, free_port, local, need, program,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Of version 1.
fn text(from: &str) -> Vec<u8> {
    let family = if from.contains(':') { "TCP6" } else { "TCP4" };
    let to = if from.contains(':') { "2001:db8::1" } else { "192.0.2.1" };
    format!("PROXY {family} {from} {to} 40112 443\r\n").into_bytes()
}

/// Of version 2, with an extension after the addresses.
fn binary(from: &str) -> Vec<u8> {
    let from: Ipv4Addr = from.parse().unwrap();
    let addresses = [&from.octets()[..], &[192, 0, 2, 1, 0x9c, 0xb0, 1, 0xbb]].concat();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x13"[..], &addresses, b"\x02\x00\x04test"].concat()
}

/// Of version 2, from the balancer itself.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";

/// Fails unless the connection is closed without a word; a reset counts, too.
#[track_caller]
fn is_dropped(mut peer: RawPeer) {
    let (bytes, _) = peer.read_to_any_end();
    assert_eq!(String::from_utf8_lossy(&bytes), "");
}

fn with(header: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    [header.as_ref(), bytes.as_ref()].concat()
}

const BALANCERS: [&str; 4] =
    ["--visitors-proxy-protocol", "127.0.0.0/8", "--devices-proxy-protocol", "10.0.0.7,127.0.0.1"];

#[test]
fn the_peer_that_a_balancer_names_counts_everywhere() {
    let networks = "203.0.113.0/24,2001:db8::/32";
    let allowed = ["--devices-allow", networks, "--visitors-allow", networks];
    let more = ["--forwarded", "--connections-per-address", "3"];
    let gateway = Gateway::start(&[&BALANCERS[..], &allowed, &more].concat());
    let mut link = gateway.dial();
    link.write(with(binary("203.0.113.5"), offer("lamp", "")));
    assert_eq!(link.read_exact(SWITCH.len()), SWITCH);
    for (header, forwarded) in [
        (text("203.0.113.7"), "203.0.113.7"),
        (binary("203.0.113.8"), "203.0.113.8"),
        (text("2001:db8::7"), "2001:db8::7"),
    ] {
        let mut visitor = gateway.visitor();
        visitor.write(with(&header, get("/lamp/x")));
        let request = link.read_head();
        assert_eq!(request.all("x-forwarded-for"), [forwarded]);
        assert!(request.get("forwarded").unwrap().contains(forwarded), "{}", request.text());
        link.write(OK);
        visitor.read_answer("GET").expect_ok("ok");
        // The next request on the connection begins without one.
        visitor.write(get("/lamp/y"));
        assert_eq!(link.read_head().all("x-forwarded-for"), [forwarded]);
        link.write(OK);
        visitor.read_answer("GET").expect_ok("ok");
    }
    // An address outside the allowed networks is not admitted, nor is the balancer itself.
    for header in [text("198.51.100.1"), binary("198.51.100.1"), LOCAL.to_vec(), text("10.0.0.7")] {
        let mut visitor = gateway.visitor();
        visitor.write(with(&header, get("/lamp/x")));
        visitor.read_answer("GET").expect_refusal(403);
        let mut device = gateway.dial();
        let _ = device.try_write(with(&header, offer("other", "")));
        is_dropped(device);
    }
    gateway.process.expect_stderr("198.51.100.1:40112 to the devices' port was closed");
    gateway.process.expect_stderr("a visitor from 198.51.100.1:40112 got 403");
    // Each address has its share, however many come through one balancer.
    let come = |header: Vec<u8>| {
        let mut visitor = gateway.visitor();
        let _ = visitor.try_write(with(header, get("/nobody/")));
        visitor
    };
    let held = [(); 3].map(|()| {
        let mut visitor = come(text("203.0.113.20"));
        visitor.read_answer("GET").expect_refusal(404); // it has been counted, and stays open
        visitor
    });
    is_dropped(come(binary("203.0.113.20")));
    come(binary("203.0.113.21")).read_answer("GET").expect_refusal(404);
    for mut visitor in held {
        visitor.write(get("/nobody/"));
        visitor.read_answer("GET").expect_refusal(404);
    }
    gateway.process.expect_stderr("203.0.113.20:40112 was closed: its address has as many");
    // The balancer itself has its share, too.
    let gateway = Gateway::start(&[&BALANCERS[..], &["--connections-per-address", "1"]].concat());
    let mut own = gateway.visitor();
    own.write(with(LOCAL, get("/nobody/")));
    own.read_answer("GET").expect_refusal(404);
    let mut more = gateway.visitor();
    let _ = more.try_write(with(LOCAL, get("/nobody/")));
    is_dropped(more);
    let mut link = gateway.dial();
    link.write(with(LOCAL, offer("lamp", "")));
    assert_eq!(link.read_exact(SWITCH.len()), SWITCH);
}

#[test]
fn a_header_is_read_wherever_it_is_cut() {
    let gateway = Gateway::start(&BALANCERS);
    for header in [text("203.0.113.7"), binary("203.0.113.7"), LOCAL.to_vec()] {
        let mut link = gateway.dial();
        let mut visitor = gateway.visitor();
        for byte in &header {
            link.write([*byte]);
            visitor.write([*byte]);
        }
        link.write(offer("lamp", ""));
        assert_eq!(link.read_exact(SWITCH.len()), SWITCH);
        visitor.write(get("/lamp/x"));
        link.read_head();
        link.write(OK);
        visitor.read_answer("GET").expect_ok("ok");
    }
}

#[test]
fn nobody_but_a_balancer_names_its_peer() {
    let elsewhere = ["--visitors-proxy-protocol", "10.0.0.7", "--devices-proxy-protocol", "::1"];
    let allowed = ["--visitors-allow", "203.0.113.0/24"];
    for (options, status) in [(&[][..], 400), (&allowed[..], 403)] {
        let gateway = Gateway::start(&[&elsewhere[..], options].concat());
        for header in [text("203.0.113.7"), binary("203.0.113.7"), LOCAL.to_vec()] {
            let mut visitor = gateway.visitor();
            let _ = visitor.try_write(with(&header, get("/lamp/x")));
            visitor.read_answer("GET").expect_refusal(status);
            let mut device = gateway.dial();
            device.write(with(&header, offer("lamp", "")));
            device.read_answer("POST").expect_refusal(400);
        }
        drop(gateway.link("lamp")); // without one
    }
}

#[test]
fn a_balancers_connection_without_a_right_header_is_closed() {
    let gateway = Gateway::start(&BALANCERS);
    let longer = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[0; 5_000]].concat();
    let rows: [(&str, Vec<u8>); 9] = [
        ("a request", get("/lamp/x").into()),
        ("an offer", offer("lamp", "").into()),
        ("a hello of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("an address that is none", with(text("203.0.113.256"), get("/lamp/x"))),
        ("a line without an end", [b'P', b'R', b'O', b'X', b'Y', b' '].repeat(40)),
        ("no stream", b"\r\n\r\n\0\r\nQUIT\n\x21\x12\x00\x0c............".to_vec()),
        ("too long", longer),
        ("twice", with(text("203.0.113.7"), with(text("203.0.113.7"), ""))),
        ("a bare line feed", b"PROXY TCP4 203.0.113.7 192.0.2.1 1 2\n".to_vec()),
    ];
    each_row(
        &rows,
        |(what, _)| (*what).to_owned(),
        |(what, bytes)| {
            for mut peer in [gateway.visitor(), gateway.dial()] {
                let _ = peer.try_write(bytes);
                match *what {
                    // The second one is a request, and none that is understood.
                    "twice" => peer.read_answer("GET").expect_refusal(400),
                    _ => is_dropped(peer),
                }
            }
        },
    );
    gateway.process.expect_stderr("from which a PROXY header is wanted, was closed: no PROXY header begins with its first bytes");
    // Half a header, and the end; nothing at all, and the end.
    for bytes in [&b"PROXY TCP4 203"[..], &LOCAL[..13]] {
        for peer in [gateway.visitor(), gateway.dial()] {
            let mut peer = peer;
            peer.write(bytes);
            peer.finish_writing();
            is_dropped(peer);
        }
    }
    gateway.process.expect_stderr("was closed: it ended before its header was whole");
    let peer = gateway.visitor();
    peer.finish_writing();
    is_dropped(peer);
    let mut visitor = gateway.visitor();
    visitor.write(with(LOCAL, get("/lamp/x")));
    visitor.read_answer("GET").expect_refusal(404); // others are served
}

#[test]
fn a_header_that_is_not_whole_in_time_is_closed() {
    let gateway = Gateway::start(
        &[&BALANCERS[..], &["--handshake", "300ms", "--head", "10m", "--unauthenticated", "4"]]
            .concat(),
    );
    for bytes in [&b""[..], b"PROXY TCP4 203.0.113.7 ", &LOCAL[..15]] {
        for mut peer in [gateway.visitor(), gateway.dial()] {
            peer.write(bytes);
            is_dropped(peer);
        }
    }
    gateway.process.expect_stderr("was closed: it was not whole within handshake_timeout");
    // Those of devices are among the unauthenticated ones, of which there are only so many. Which
    // of them is the oldest is certain only where one loop accepts them all.
    let more = ["--handshake", "10m", "--unauthenticated", "4", "--loops", "1"];
    let gateway = Gateway::start(&[&BALANCERS[..], &more].concat());
    let mut silent: Vec<RawPeer> = (0..6).map(|_| gateway.dial()).collect();
    silent.drain(..2).for_each(is_dropped);
    for mut peer in silent {
        peer.write(with(text("203.0.113.7"), offer("lamp", "")));
        assert_eq!(peer.read_exact(SWITCH.len()), SWITCH);
    }
}

#[test]
fn the_header_comes_before_tls() {
    let authority = Authority::new();
    let pair = authority.server("gateway");
    let files =
        ["-cert", "-key"].map(|end| [format!("--visitors{end}"), format!("--devices{end}")]);
    let [certificates, keys] = &files;
    let mut options = BALANCERS.to_vec();
    options.extend(certificates.iter().flat_map(|option| [&option[..], pair.certificate()]));
    options.extend(keys.iter().flat_map(|option| [&option[..], pair.key()]));
    let gateway = Gateway::start(&options);
    let config = Arc::new(authority.client(None));
    let connect = |to: SocketAddr, header: Vec<u8>| {
        use std::io::Write as _;
        let mut socket = TcpStream::connect(to).unwrap();
        socket.write_all(&header).unwrap();
        TlsPeer::over(socket, config.clone(), "localhost")
    };
    let mut link = connect(gateway.devices, binary("203.0.113.5"));
    link.write(offer("lamp", ""));
    assert_eq!(link.read_head().status(), 101);
    for header in [text("203.0.113.7"), binary("203.0.113.7")] {
        let mut visitor = connect(gateway.visitors, header);
        visitor.write(get("/lamp/x"));
        assert_eq!(link.read_head().all("x-forwarded-for"), ["203.0.113.7"]);
        link.write(OK);
        assert_eq!(visitor.read_head().status(), 200);
    }
}

/// `Offer::remote_ip`, and what is counted.
#[test]
fn a_program_sees_the_peer_and_what_was_refused() {
    let peers = Arc::new(Mutex::new(Vec::new()));
    let seen = peers.clone();
    let gateway = crate::support::gateway()
        .listen("127.0.0.1:0")
        .devices_proxy_protocol(["127.0.0.1"])
        .visitors_proxy_protocol(["127.0.0.0/8"])
        .authorize(move |offer| {
            seen.lock().unwrap().push(offer.remote_ip().unwrap().to_string());
            Ok(Grant::offered())
        })
        .start()
        .unwrap();
    let visitors = gateway.listen_visitors("127.0.0.1:0", Routes::path()).unwrap();
    for (header, peer) in [(text("203.0.113.7"), "203.0.113.7"), (LOCAL.to_vec(), "127.0.0.1")] {
        let mut link = RawPeer::connect(gateway.devices_addr());
        link.write(with(header, offer("lamp", "")));
        assert_eq!(link.read_exact(SWITCH.len()), SWITCH);
        assert_eq!(peers.lock().unwrap().pop().as_deref(), Some(peer));
    }
    assert_eq!(gateway.stats().proxy_headers_refused, 0);
    for at in [visitors, gateway.devices_addr()] {
        let mut peer = RawPeer::connect(at);
        let _ = peer.try_write(get("/lamp/x"));
        is_dropped(peer);
    }
    assert_eq!(gateway.stats().proxy_headers_refused, 2);
    // A device that dials by itself sends none.
    let url = format!("http://{}/lamp", gateway.devices_addr());
    let device = Device::builder(url).max_retries(1).build().unwrap();
    let running = device.spawn(|_| "").unwrap();
    assert!(running.wait().is_err());
}

#[test]
fn networks_of_balancers_are_validated() {
    for option in ["--devices-proxy-protocol", "--visitors-proxy-protocol"] {
        for (given, code) in [("10.0.0.0/8,::1", 0), ("10.0.0.1/8", 2), ("lb.example", 2)] {
            let (ended, _, told) = Ptth::run(&["gateway", "--check", option, given]);
            assert_eq!(ended, code, "{told}");
            assert_eq!(told.contains("balancers before the"), code == 2, "{told}");
        }
    }
    let folder = TempDir::new("balancers");
    let file = folder.0.join("ptth.toml");
    std::fs::write(&file, "[gateway]\nvisitors_proxy_protocol = [\"127.0.0.0/8\"]\n").unwrap();
    let gateway = Gateway::start(&["--config", file.to_str().unwrap()]);
    let mut visitor = gateway.visitor();
    visitor.write(with(LOCAL, get("/nobody/")));
    visitor.read_answer("GET").expect_refusal(404);
    drop(gateway.link("lamp")); // the other port has none
    // It counts from the next start on.
    std::fs::write(&file, "[gateway]\nvisitors_proxy_protocol = [\"10.0.0.7\"]\n").unwrap();
    gateway.process.signal("HUP");
    gateway
        .process
        .expect_stderr("count from the next start on: 1 changed (visitors-proxy-protocol)");
    let mut visitor = gateway.visitor();
    visitor.write(with(LOCAL, get("/nobody/")));
    visitor.read_answer("GET").expect_refusal(404);
}

// ── real peers ──

/// HAProxy before both ports of a gateway; its own connections come from 127.0.0.77.
fn haproxy(gateway: &Gateway, how: &str) -> (Process, TempDir, [u16; 2]) {
    eventually("HAProxy listens on free ports", || {
        let (dir, ports) = (TempDir::new("balancer"), [free_port(), free_port()]);
        let listen = |name: &str, port: u16, to: SocketAddr| {
            format!(
                "listen {name}\n bind 127.0.0.1:{port}\n server gateway {to} source 127.0.0.77 {how} check inter 100ms\n"
            )
        };
        let config = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 2m\n timeout server 2m\n{}{}",
            listen("devices", ports[0], gateway.devices),
            listen("visitors", ports[1], gateway.visitors),
        );
        let path = dir.0.join("haproxy.cfg");
        std::fs::write(&path, config).unwrap();
        let mut process =
            Process::start(Command::new(program("haproxy")).arg("-db").arg("-f").arg(path));
        let is_up = |port: &u16| TcpStream::connect(("127.0.0.1", *port)).is_ok();
        eventually("it is ready or has ended", || {
            (process.has_ended() || ports.iter().all(is_up)).then_some(())
        });
        (!process.has_ended()).then_some((process, dir, ports))
    })
}

#[test]
fn haproxy_names_the_peers_of_both_ports() {
    if !need("haproxy") {
        return;
    }
    for how in [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2-ssl-cn",
        "send-proxy-v2 proxy-v2-options unique-id,crc32c",
    ] {
        let gateway = Gateway::at_localhost(&[
            "--visitors-proxy-protocol",
            "127.0.0.77",
            "--devices-proxy-protocol",
            "127.0.0.77",
            "--visitors-allow",
            "127.0.0.9,127.0.0.77",
        ]);
        let (process, _dir, [devices, visitors]) = haproxy(&gateway, how);
        let server = LocalServer::with(local::routes);
        let url = format!("http://127.0.0.1:{devices}/lamp");
        let device = Ptth::start(&["device", &url, "--to", &server.url()]);
        assert!(device.line().starts_with("connected lamp"));
        let ask = |from: &str| {
            let to = format!("http://127.0.0.1:{visitors}/lamp/x");
            let options = ["-sS", "--max-time", "30", "-w", " %{http_code}", "--interface", from];
            let output = Command::new("curl").args(options).arg(to).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(ask("127.0.0.9"), "hello\n 200", "{how}");
        assert_eq!(server.last().all("x-forwarded-for"), ["127.0.0.9"], "{how}");
        assert!(ask("127.0.0.8").ends_with(" 403"), "{how}");
        assert!(!process.stderr().contains("is DOWN"), "{}", process.stderr());
        // Who does not come through it is not asked for a header.
        gateway.visitor().read_answer("GET").expect_refusal(403);
        let mut direct = gateway.link("direct");
        direct.deadline = Duration::from_millis(1);
    }
}

#[test]
fn curl_names_its_peer() {
    let gateway = Gateway::start(&BALANCERS);
    let mut link = gateway.dial();
    link.write(with(LOCAL, offer("lamp", "")));
    assert_eq!(link.read_exact(SWITCH.len()), SWITCH);
    let url = format!("http://{}/lamp/x", gateway.visitors);
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "30", "--haproxy-protocol", &url]);
    let curl = std::thread::spawn(move || command.output().unwrap());
    link.deadline = DEADLINE;
    assert!(link.read_head().get("x-forwarded-for").unwrap().starts_with("127."));
    link.write(OK);
    let output = curl.join().unwrap();
    assert_eq!(output.stdout, b"ok", "{}", String::from_utf8_lossy(&output.stderr));
}
