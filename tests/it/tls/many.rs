//! Many connections, many handshakes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{device, secure_gateway};
use crate::engine::scale::affordable;
use crate::support::pki::TlsPeer;
use crate::support::process::{get, offer};
use crate::support::{Authority, LocalServer, eventually, say};

// ── many ──

/// Idle links over TLS, then handshakes that are never finished: neither costs a thread, and those
/// are reaped.
#[test]
fn idle_links_and_unfinished_handshakes_cost_no_thread() {
    let authority = Authority::new();
    let (gateway, _) = secure_gateway(
        &authority,
        &[
            "--heartbeat",
            "0s",
            "--handshake",
            "3s",
            "--trusted-proxies",
            "127.0.0.1",
            "--unauthenticated",
            "9999",
        ],
    );
    let config = Arc::new(authority.client(None));
    let idle = |name: &str| {
        let mut link = TlsPeer::connect(gateway.devices, config.clone());
        link.write(offer(name, ""));
        assert_eq!(link.read_head().status(), 101);
        link.0.sock
    };
    let first: Vec<TcpStream> = (0..10).map(|n| idle(&format!("few-{n}"))).collect();
    let before = gateway.process.resident_kib();
    let wish = affordable(1_000);
    let links: Vec<TcpStream> = (0..wish).map(|n| idle(&format!("many-{n}"))).collect();
    let each = (gateway.process.resident_kib().saturating_sub(before) * 1024) as f64 / wish as f64;
    say(&format!(
        "idle links over TLS: {wish} links, {} threads: {each:.0} bytes of resident memory each",
        gateway.process.threads()
    ));
    assert!(each < 24_576.0, "{each:.0} bytes for each idle link");
    drop((first, links));
    let threads = gateway.process.threads();
    let wish = affordable(5_000);
    let mut half = Vec::new();
    rustls::ClientConnection::new(config.clone(), "localhost".try_into().unwrap())
        .unwrap()
        .write_tls(&mut half)
        .unwrap();
    half.truncate(half.len() - 1);
    let began = Instant::now();
    let waiting: Vec<TcpStream> = (0..wish)
        .map(|n| {
            let mut peer = TcpStream::connect(gateway.visitors).unwrap();
            peer.write_all(&half[..half.len() * (n % 2)]).unwrap(); // nothing, or all but a byte
            peer
        })
        .collect();
    let (head, _) = TlsPeer::connect(gateway.visitors, config).ask(&get("/nobody/"));
    assert_eq!(head.status(), 404, "others get through meanwhile");
    assert!(
        gateway.process.threads() <= threads,
        "{} threads, {threads} before",
        gateway.process.threads()
    );
    say(&format!("unfinished handshakes: {wish} were there after {:?}", began.elapsed()));
    eventually("all are reaped", || (gateway.process.descriptors() < 200).then_some(()));
    drop(waiting);
}

/// A fleet that comes back at once: what visitors of others wait meanwhile is printed.
#[test]
fn a_storm_of_handshakes_does_not_stop_those_that_are_served() {
    let (authority, local) = (Authority::new(), LocalServer::start());
    // However slow the machine is, the storm's last handshake has its turn.
    let patience = Duration::from_secs(120);
    let (gateway, _) = secure_gateway(&authority, &["--heartbeat", "0s", "--handshake", "120s"]);
    let _device =
        device(&authority, &gateway, "lamp", &["--to", &format!("http://{}", local.addr)]);
    let mut visitor = TlsPeer::connect(gateway.visitors, Arc::new(authority.client(None)));
    let mut times = |while_: &dyn Fn(usize) -> bool| {
        let mut times = Vec::new();
        while while_(times.len()) {
            let began = Instant::now();
            assert_eq!(visitor.ask(&get("/lamp/x")).0.status(), 200);
            times.push(began.elapsed());
        }
        times.sort_unstable();
        (times[times.len() / 2], times[times.len() * 99 / 100], times.len())
    };
    let quiet = times(&|n| n < 300);
    let wish = affordable(2_000);
    // Hellos made beforehand: the arithmetic of this test's own end must not be in the way.
    let config = Arc::new(authority.client(None));
    let mut hellos = (0..wish).map(|_| {
        let mut hello = Vec::new();
        rustls::ClientConnection::new(config.clone(), "localhost".try_into().unwrap())
            .unwrap()
            .write_tls(&mut hello)
            .unwrap();
        hello
    });
    let hellos: Vec<Vec<u8>> = hellos.by_ref().collect();
    let (began, devices) = (Instant::now(), gateway.devices);
    let storm = std::thread::spawn(move || {
        let mut peers: Vec<TcpStream> = hellos
            .iter()
            .map(|hello| {
                let mut peer = TcpStream::connect(devices).unwrap();
                peer.write_all(hello).unwrap();
                peer
            })
            .collect();
        for peer in &mut peers {
            peer.set_read_timeout(Some(patience)).unwrap();
            peer.read_exact(&mut [0; 64]).unwrap(); // the gateway's part of the arithmetic is done
        }
        began.elapsed()
    });
    let stormy = times(&|n| n < 50 || !storm.is_finished());
    let took = storm.join().unwrap();
    say(&format!(
        "storm: {wish} handshakes in {took:?}; quick requests meanwhile: {} with p50 {:?}, p99 {:?} (without: {:?}, {:?})",
        stormy.2, stormy.0, stormy.1, quiet.0, quiet.1
    ));
    // Connected devices do not wait for the end of the storm.
    assert!(
        stormy.1 < took.max(Duration::from_secs(1)),
        "{:?}, and the storm took {took:?}",
        stormy.1
    );
}
