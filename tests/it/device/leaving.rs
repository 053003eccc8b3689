//! Links that end while a request of theirs waits for its local server or TCP target, which are
//! silent: their places are free long before the time for that is over.

use std::net::Ipv4Addr;

use super::names::silent_at;
use crate::support::process::get;
use crate::support::{LocalServer, Ptth, RawGateway, RawPeer, free_port};

/// How a gateway leaves.
const WAYS: [fn(RawPeer); 2] = [drop, RawPeer::reset];

#[test]
fn a_link_that_ends_while_its_target_is_dialled_is_replaced() {
    let port = free_port();
    let _silent = silent_at(Ipv4Addr::LOCALHOST, port);
    let raw = RawGateway::start();
    let (to, tcp) = (format!("http://127.0.0.1:{port}"), format!("db=127.0.0.1:{port}"));
    let _device = Ptth::start(&[
        "device",
        &raw.url("lamp"),
        "--to",
        &to,
        "--tcp",
        &tcp,
        "--connect-timeout",
        "60s",
        "--links",
        "1..1",
        "--backoff",
        "5ms..20ms",
    ]);
    let tunnel =
        "GET /db HTTP/1.1\r\nHost: v\r\nConnection: Upgrade\r\nUpgrade: ptth-tcp/1\r\n\r\n";
    for request in [get("/"), tunnel.to_owned()] {
        for leave in WAYS {
            let mut link = raw.turn();
            link.write(&request);
            leave(link); // the only one: another is dialled when it is gone
        }
    }
    drop(raw.turn());
}

/// So is the place among the connections to the local server.
#[test]
fn a_connection_that_nobody_waits_for_any_more_is_not_made() {
    let port = free_port();
    let silent = silent_at(Ipv4Addr::LOCALHOST, port);
    let raw = RawGateway::start();
    let to = format!("http://127.0.0.1:{port}");
    let _device = Ptth::start(&[
        "device",
        &raw.url("lamp"),
        "--to",
        &to,
        "--to-connections",
        "1",
        "--connect-timeout",
        "60s",
        "--links",
        "2..2",
        "--backoff",
        "5ms..20ms",
    ]);
    let (mut first, mut second) = (raw.turn(), raw.turn());
    first.write(get("/first"));
    drop(first);
    let _third = raw.turn(); // the first one's place as a link
    drop(silent);
    let local = LocalServer::start_at(Ipv4Addr::LOCALHOST, port);
    second.write(get("/second"));
    second.read_answer("GET").expect_ok("hello\n");
    assert_eq!(local.count(), 1, "nobody asked for the first one any more");
}
