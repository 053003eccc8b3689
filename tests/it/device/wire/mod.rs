//! `ptth device` against raw gateways: what it offers, what it accepts (protocol.md 1.4), how it
//! answers on a turned link, and what a hostile gateway gets.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod forwarder;
mod links;
mod offers;
mod process;
mod replies;

use crate::support::process::Process;
use crate::support::{Head, LocalServer, Ptth, RawGateway, RawPeer};

const SEED_TEXT: &str = "!dlrow ,olleH\r\n";

const QUICK: &[&str] = &["--backoff", "5ms..20ms"];

/// A device with `--text` at this gateway.
#[track_caller]
fn text_device(raw: &RawGateway, more: &[&str]) -> Process {
    Ptth::start(&[&["device", &raw.url("lamp"), "--text", SEED_TEXT], QUICK, more].concat())
}

#[track_caller]
fn forwarder(raw: &RawGateway, local: &LocalServer, more: &[&str]) -> Process {
    Ptth::start(&[&["device", &raw.url("lamp"), "--to", &local.url()], QUICK, more].concat())
}

/// Fails unless `head` is the offer of a classic device.
#[track_caller]
fn is_offer(head: &Head, raw: &RawGateway, token: &str) {
    assert_eq!(head.start, "POST /lamp HTTP/1.1");
    assert_eq!(head.get("host"), Some(raw.addr.to_string().as_str()));
    assert_eq!(head.get("upgrade"), Some(token));
    assert!(
        head.fields.contains(&("Connection".to_owned(), "Upgrade".to_owned())),
        "some peers compare byte for byte: {}",
        head.text()
    );
    assert!(
        head.fields.contains(&("Content-Length".to_owned(), "0".to_owned())),
        "{}",
        head.text()
    );
    assert_eq!(head.all("connection").len(), 1, "{}", head.text());
    let accept =
        if cfg!(feature = "comet") { "message/http, application/json" } else { "message/http" };
    assert_eq!(
        head.get("accept"),
        Some(accept),
        "an event may come in the answer: {}",
        head.text()
    );
    let session =
        head.get("ptth-session").unwrap_or_else(|| panic!("no session in {}", head.text()));
    assert!(session.len() == 32 && session.bytes().all(|o| o.is_ascii_hexdigit()), "{session}");
    for name in ["transfer-encoding", "alpn", "authorization", "origin", "expect"] {
        assert_eq!(head.get(name), None, "{}", head.text());
    }
}

/// Fails unless the next answer is what seed-4 shows.
#[track_caller]
fn seeds_answer(peer: &mut RawPeer) {
    let answer = peer.read_answer("GET");
    assert_eq!(answer.head.start, "HTTP/1.1 200 OK");
    assert_eq!(answer.head.get("content-length"), Some("15"));
    assert_eq!(answer.head.get("content-type").map(|v| v.starts_with("text/plain")), Some(true));
    let date =
        answer.head.get("date").unwrap_or_else(|| panic!("no Date in {}", answer.head.text()));
    assert!(date.len() == 29 && date.ends_with(" GMT"), "no IMF-fixdate: {date}");
    assert_eq!(answer.text(), SEED_TEXT);
}
