//! The vectors.

use super::{read_switch, text};
use crate::support::process::get;
use crate::support::{Gateway, SWITCH, vector};

// ── The vectors ──

#[test]
fn the_seeds_device_gets_its_turn_and_the_visitors_request() {
    let gateway = Gateway::start(&[]);
    let mut device = gateway.dial();
    device.write(vector("seed-1-offer"));
    let head = read_switch(&mut device, "PTTH/0.9");
    assert_eq!(
        head.fields.len(),
        2,
        "a 101 has Upgrade and Connection, nothing else: {}",
        head.text()
    );
    let mut visitor = gateway.visitor();
    visitor.write("GET /default/status?x=1 HTTP/1.1\r\nHost: 127.0.0.1:65331\r\nAccept: text/plain;q=1,*/*;q=0\r\n\r\n");
    let request = device.read_head();
    assert_eq!(request.start, "GET /status?x=1 HTTP/1.1");
    assert_eq!(request.get("host"), Some("127.0.0.1:65331"));
    assert_eq!(request.get("accept"), Some("text/plain;q=1,*/*;q=0"));
    device.write(vector("seed-4-response"));
    let answer = visitor.read_answer("GET");
    answer.expect_ok("!dlrow ,olleH\r\n");
    assert_eq!(answer.head.get("content-length"), Some("15"));
    assert_eq!(answer.head.get("content-type"), Some("text/plain"));
    assert_eq!(answer.head.get("date"), Some("Tue, 13 May 2008 20:14:45 GMT"));
    // And once more on the same link, which has to be there still.
    visitor.write(get("/default/again"));
    assert_eq!(device.read_head().target(), "/again");
    device.write(vector("seed-4-response"));
    visitor.read_answer("GET").expect_ok("!dlrow ,olleH\r\n");
}

#[test]
fn the_drafts_device_gets_the_drafts_101_byte_for_byte() {
    let gateway = Gateway::start(&[]);
    let mut device = gateway.dial();
    device.write(vector("draft-1-offer"));
    assert_eq!(text(&device.read_exact(76)), text(&vector("draft-2-switch")));
    let mut visitor = gateway.visitor();
    visitor.write(get("/message-queue/status"));
    let request = device.read_head();
    assert_eq!(request.start, "GET /status HTTP/1.1");
    assert_eq!(request.get("x-forwarded-prefix"), Some("/message-queue"));
    device.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
}

#[test]
fn the_ietf_device_gets_its_turn_and_is_reached_by_its_origins_host() {
    let gateway = Gateway::start(&["--wait-for-link", "100ms"]);
    let mut device = gateway.dial();
    device.write(vector("ietf-1-offer"));
    let head = read_switch(&mut device, "ptth");
    assert_eq!(head.get("alpn"), Some("http%2F1.1"), "{}", head.text());
    assert_eq!(head.fields.len(), 3, "{}", head.text());
    let port = gateway.visitors.port();
    for host in [
        "backend.example.com",
        "BACKEND.example.com",
        "backend.example.com:443",
        "backend.example.com:80",
        &format!("backend.example.com:{port}"),
    ] {
        let mut visitor = gateway.visitor();
        visitor.write(format!("GET /status?q HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let request = device.read_head();
        assert_eq!(request.start, "GET /status?q HTTP/1.1", "for {host}");
        assert_eq!(request.get("x-forwarded-prefix"), None);
        device.write(vector("draft-4-response"));
        visitor.read_answer("GET").expect_ok("Good");
    }
    for host in ["other.example.com", "backend.example.com:8443", "xbackend.example.com"] {
        let answer =
            gateway.visitor().ask(&format!("GET /status/x HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        answer.expect_refusal(404);
    }
}

#[test]
fn an_ietf_offer_registers_every_origin_of_its_list() {
    let gateway = Gateway::start(&[]);
    let mut device = gateway.dial();
    device.write(
        "GET /.well-known/ptth/https%3A%2F%2Fa.example,http%3A%2F%2Fb.example%3A8081/ HTTP/1.1\r\nHost: gw.example\r\nConnection: upgrade\r\nUpgrade: ptth\r\nALPN: http%2F1.1\r\n\r\n",
    );
    read_switch(&mut device, "ptth");
    for host in ["a.example", "b.example:8081"] {
        let mut visitor = gateway.visitor();
        visitor.write(format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(device.read_head().get("host"), Some(host));
        device.write(vector("draft-4-response"));
        visitor.read_answer("GET").expect_ok("Good");
    }
}

#[test]
fn airplays_device_needs_the_switch_for_its_missing_host() {
    let gateway = Gateway::start(&[]);
    let mut device = gateway.dial();
    device.write(vector("airplay-1-offer"));
    device.read_answer("POST").expect_refusal(400);
    device.expect_closed();
    gateway.get("/reverse/").expect_refusal(404);

    let gateway = Gateway::start(&["--missing-host"]);
    let mut device = gateway.dial();
    device.write(vector("airplay-1-offer"));
    assert_eq!(text(&device.read_exact(76)), text(SWITCH));
    let mut visitor = gateway.visitor();
    visitor.write("POST /reverse/event HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n<plist>");
    let request = device.read_head();
    assert_eq!(request.start, "POST /event HTTP/1.1");
    assert_eq!(device.read_exact(7), b"<plist>");
    device.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    visitor.read_answer("POST").expect_ok("");
}

#[test]
fn a_vector_turns_wherever_it_is_cut() {
    let gateway = Gateway::start(&[]);
    for name in ["seed-1-offer", "draft-1-offer", "ietf-1-offer"] {
        let bytes = vector(name);
        for at in (1..bytes.len()).step_by(7) {
            let mut device = gateway.dial();
            device.write(&bytes[..at]);
            device.write(&bytes[at..]);
            assert_eq!(device.read_head().status(), 101, "{name} cut at {at}");
        }
    }
}
