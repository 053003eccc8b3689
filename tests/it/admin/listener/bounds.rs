//! Silent clients cannot keep out operators or health checks.

use std::time::Duration;

use super::Observed;
use super::operators::Tokens;
use crate::support::{Ptth, RawPeer, TempDir, eventually, hung_unix_listener};

/// As many connections as the listener serves at once.
const CONNECTIONS: usize = 64;

fn silent(observed: &Observed, number: usize) -> Vec<RawPeer> {
    (0..number).map(|_| RawPeer::connect(observed.admin)).collect()
}

#[test]
fn silent_connections_give_way_to_health_checks_and_operators() {
    let folder = TempDir::new("admin-bounds");
    let tokens = Tokens::draw(&folder, &["", "shop"]);
    let observed = Observed::start(&["--admin-tokens", tokens.file()]);
    let shown = format!(
        "GET /api/v1/limits HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n",
        tokens.tokens[0]
    );
    // An operator, whose connection idles when the others come.
    let mut operator = RawPeer::connect(observed.admin);
    assert_eq!(operator.ask(&shown).status(), 200);
    let mut held = silent(&observed, CONNECTIONS - 1);
    observed.get("/healthz").expect_ok("ok\n");
    held[0].expect_end();
    observed.get("/readyz").expect_ok("ok\n");
    assert_eq!(observed.ask(&shown).status(), 200);
    // However many come.
    held.extend(silent(&observed, 3 * CONNECTIONS));
    observed.get("/healthz").expect_ok("ok\n");
    assert_eq!(operator.ask(&shown).status(), 200, "an operator's connection stays");
    // The latest is there still, and is answered when it asks.
    held.last_mut().unwrap().ask("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").expect_ok("ok\n");
}

#[test]
fn without_tokens_one_that_idles_gives_way_and_nobody_who_is_answered() {
    let observed = Observed::start(&[]);
    let mut follower = RawPeer::connect(observed.admin);
    follower.write(
        "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n",
    );
    assert_eq!(follower.read_head().status(), 200);
    let health = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut asked = silent(&observed, CONNECTIONS - 1);
    for peer in &mut asked {
        peer.ask(health).expect_ok("ok\n");
    }
    let mut late = RawPeer::connect(observed.admin);
    late.ask(health).expect_ok("ok\n");
    // Which of them has waited longest is for their threads to say: each begins to wait after its
    // answer.
    let ended = eventually("one of them gives way", || {
        asked.iter_mut().position(|peer| peer.stirs_within(Duration::from_millis(1)))
    });
    asked[ended].expect_end();
    late.ask(health).expect_ok("ok\n");
    super::read_events(&mut follower, "event: totals");
}

#[test]
fn silent_connections_do_not_keep_others_out_of_a_unix_socket() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    let folder = TempDir::new("admin-bounds-unix");
    let path = folder.0.join("admin.sock");
    let address = format!("unix:{}", path.display());
    let gateway = crate::support::Gateway::start(&["--admin", &address]);
    assert_eq!(gateway.process.line(), format!("admin {address}"));
    let connect = || {
        let stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
        stream
    };
    let mut held: Vec<UnixStream> = (0..CONNECTIONS).map(|_| connect()).collect();
    let mut late = connect();
    late.write_all(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    late.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(held[0].read(&mut [0]).unwrap(), 0);
}

/// Whether a socket is left over is seen without waiting for the process behind it.
#[test]
fn a_socket_of_a_process_that_hangs_is_refused_at_once() {
    let folder = TempDir::new("admin-hung");
    let path = folder.0.join("admin.sock");
    let _listener = hung_unix_listener(&path);
    let address = format!("unix:{}", path.display());
    let ports = ["gateway", "--devices", "127.0.0.1:0", "--visitors", "127.0.0.1:0"];
    let (code, _, error) = Ptth::run(&[&ports[..], &["--admin", &address]].concat());
    assert!(code == 1 && error.contains(&address) && path.exists(), "{code} {error}");
}
