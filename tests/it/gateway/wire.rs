//! The devices' port of `ptth gateway`, played by raw devices: the vectors, every rule of
//! protocol.md 1.2, 1.3 and 1.5, and what has to be refused.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use crate::support::process::{get, offer};
use crate::support::raw::find;
use crate::support::{Gateway, Head, LocalServer, RawPeer, SWITCH, each_row, eventually, vector};

const SESSION_A: &str = "PTTH-Session: 0123456789abcdef0123456789abcdef\r\n";
const SESSION_B: &str = "PTTH-Session: fedcba9876543210fedcba9876543210\r\n";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads a 101 and fails where it has a field that it must not have.
#[track_caller]
fn read_switch(device: &mut RawPeer, token: &str) -> Head {
    let head = device.read_head();
    assert_eq!(head.status(), 101, "{}", head.text());
    assert_eq!(head.start, "HTTP/1.1 101 Switching Protocols");
    assert_eq!(head.get("upgrade"), Some(token), "{}", head.text());
    assert_eq!(head.get("connection"), Some("Upgrade"), "{}", head.text());
    head
}

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

// ── What turns, what does not ──

/// What a row of bytes on the devices' port gets.
enum Verdict {
    /// 101 with this token, and the link answers visitors of this name.
    Turn(&'static str, &'static str),
    /// One of these statuses with a reason, then the close; no turn.
    Refused(&'static [u16]),
    /// The connection is closed; an answer may come first, but no 101.
    Closed,
}
use Verdict::{Closed, Refused, Turn};

struct Row {
    name: String,
    bytes: Vec<u8>,
    verdict: Verdict,
}

fn row(name: impl Into<String>, bytes: impl AsRef<[u8]>, verdict: Verdict) -> Row {
    Row { name: name.into(), bytes: bytes.as_ref().to_vec(), verdict }
}

/// An offer for `/lamp` with these lines in place of `Content-Length: 0`.
fn framed(lines: &str) -> String {
    format!(
        "POST /lamp HTTP/1.1\r\nHost: gw\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n{lines}\r\n"
    )
}

fn offers_that_turn() -> Vec<Row> {
    let connection = |lines: &str| {
        format!("POST /lamp HTTP/1.1\r\nHost: gw\r\nUpgrade: PTTH/1.0\r\n{lines}\r\n")
    };
    let upgrade = |value: &str| {
        format!(
            "POST /lamp HTTP/1.1\r\nHost: gw\r\nUpgrade: {value}\r\nConnection: Upgrade\r\n\r\n"
        )
    };
    let path = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: gw\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n"
        )
    };
    let long = format!("/{}", "a".repeat(63));
    let lamp = |name: &str, bytes: String| row(name, bytes, Turn("PTTH/1.0", "lamp"));
    vec![
        lamp("Connection: keep-alive, Upgrade", connection("Connection: keep-alive, Upgrade\r\n")),
        lamp("Connection on two lines", connection("Connection: keep-alive\r\nConnection: upgrade\r\n")),
        lamp("Connection: UPGRADE", connection("Connection: UPGRADE\r\n")),
        lamp("Connection with empty members", connection("Connection: , ,Upgrade,\r\n")),
        lamp("no Connection, nothing on the way", connection("")),
        row("token's name in another case", upgrade("ptth/1.0"), Turn("ptth/1.0", "lamp")),
        row("0.9", upgrade("PTTH/0.9"), Turn("PTTH/0.9", "lamp")),
        lamp("a list with others", upgrade("websocket, PTTH/1.0")),
        lamp("a list with h2c, which is never honoured", upgrade("h2c, PTTH/1.0")),
        lamp("a GET", "GET /lamp HTTP/1.1\r\nHost: gw\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n".into()),
        lamp("a PUT", "PUT /lamp HTTP/1.1\r\nHost: gw\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n".into()),
        lamp("an empty line before it", format!("\r\n{}", offer("lamp", ""))),
        lamp("more of the path", path("/lamp/more/segments")),
        lamp("a query", path("/lamp?id=iamsam")),
        lamp("a query with a slash", path("/lamp?to=/other")),
        lamp("a session", offer("lamp", SESSION_A)),
        lamp("equal Content-Lengths", framed("Content-Length: 0\r\nContent-Length: 0\r\n")),
        // A body that is a message of the fallback (protocol.md 1.3): it says nothing, or answers
        // what nobody asked.
        lamp("a body that says nothing", framed("Content-Type: application/json\r\nContent-Length: 2\r\n") + "{}"),
        lamp("null", framed("Content-Type: application/json\r\nContent-Length: 4\r\n") + "null"),
        lamp("an empty chunked body", framed("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n"),
        lamp(
            "an answer to an event that is not known",
            framed("Content-Type: application/json\r\nContent-Length: 36\r\n") + "{\"message-id\": \"xxx\", \"status\": 200}",
        ),
        lamp("unknown fields", offer("lamp", "X-Relay-Security: transport\r\nAuthorization: Bearer x\r\nCookie: a=b\r\n")),
        row("/", path("/"), Turn("PTTH/1.0", "default")),
        row("/?query", path("/?x"), Turn("PTTH/1.0", "default")),
        row("a name of 63 bytes", path(&long), Turn("PTTH/1.0", Box::leak("a".repeat(63).into_boxed_str()))),
        row("a name of digits and a hyphen", path("/4-2"), Turn("PTTH/1.0", "4-2")),
    ]
}

fn offers_refused() -> Vec<Row> {
    let without_connection = |lines: &str| {
        format!("POST /lamp HTTP/1.1\r\nHost: gw\r\nUpgrade: PTTH/1.0\r\n{lines}\r\n")
    };
    let ietf = |path: &str, lines: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: gw\r\nUpgrade: ptth\r\nConnection: upgrade\r\n{lines}\r\n"
        )
    };
    let session = |value: &str| offer("lamp", &format!("PTTH-Session: {value}\r\n"));
    let mut rows = vec![
        row(
            "no Host",
            "POST /lamp HTTP/1.1\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n",
            Refused(&[400]),
        ),
        row("two Hosts", offer("lamp", "Host: other\r\n"), Refused(&[400])),
        row(
            "no Connection behind a proxy (Via), and no POST",
            without_connection("Via: 1.1 proxy\r\n").replacen("POST", "GET", 1),
            Refused(&[400]),
        ),
        row(
            "the IETF's offer without http/1.1",
            vector("ietf-x-offer-without-http11"),
            Refused(&[400]),
        ),
        row(
            "the IETF's offer without ALPN",
            ietf("/.well-known/ptth/https%3A%2F%2Fa.example/", ""),
            Refused(&[400]),
        ),
        row(
            "origin null",
            ietf("/.well-known/ptth/null/", "ALPN: http%2F1.1\r\n"),
            Refused(&[400]),
        ),
        row(
            "origin with a path",
            ietf("/.well-known/ptth/https%3A%2F%2Fa.example%2Fx/", "ALPN: http%2F1.1\r\n"),
            Refused(&[400]),
        ),
        row(
            "origin with userinfo",
            ietf("/.well-known/ptth/https%3A%2F%2Fu%40a.example/", "ALPN: http%2F1.1\r\n"),
            Refused(&[400]),
        ),
        row(
            "origin of another scheme",
            ietf("/.well-known/ptth/ftp%3A%2F%2Fa.example/", "ALPN: http%2F1.1\r\n"),
            Refused(&[400]),
        ),
        row("no origin", ietf("/.well-known/ptth//", "ALPN: http%2F1.1\r\n"), Refused(&[400])),
        row(
            "the IETF's token with a method that is not its own",
            framed("").replace("PTTH/1.0", "ptth"),
            Refused(&[400]),
        ),
        row("a session too short", session("0123456789abcdef"), Refused(&[400])),
        row(
            "a session that is no hex",
            session("0123456789abcdef0123456789abcdeg"),
            Refused(&[400]),
        ),
        row("a session too long", session("0123456789abcdef0123456789abcdef0"), Refused(&[400])),
        row("two sessions", offer("lamp", &format!("{SESSION_A}{SESSION_B}")), Refused(&[400])),
        // T6, and protocol.md 1.3: a body that is no message of the fallback
        row("a body", framed("Content-Length: 5\r\n") + "hello", Refused(&[400, 415])),
        row(
            "a body that is no JSON",
            framed("Content-Type: application/json\r\nContent-Length: 5\r\n") + "hello",
            Refused(&[400]),
        ),
        row(
            "JSON without an id",
            framed("Content-Type: application/json\r\nContent-Length: 15\r\n")
                + "{\"status\": 200}",
            Refused(&[400]),
        ),
        row(
            "a body of another type",
            framed("Content-Type: text/html\r\nContent-Length: 5\r\n") + "hello",
            Refused(&[400, 415]),
        ),
        row(
            "a chunked body",
            framed("Transfer-Encoding: chunked\r\n") + "5\r\nhello\r\n0\r\n\r\n",
            Refused(&[400, 415]),
        ),
        row(
            "bytes behind it",
            offer("lamp", "") + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            Refused(&[400]),
        ),
        row("one byte behind it", offer("lamp", "") + "X", Refused(&[400])),
        row("a second offer behind it", offer("lamp", "") + &offer("lamp", ""), Refused(&[400])),
        // T46
        row("an Origin", offer("lamp", "Origin: https://evil.example\r\n"), Refused(&[403])),
        row("an Origin that is null", offer("lamp", "Origin: null\r\n"), Refused(&[403])),
        row(
            "a page's POST",
            "POST /lamp HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: https://evil.example\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}",
            Refused(&[403]),
        ),
        row(
            "a page's preflight",
            "OPTIONS /lamp HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n\r\n",
            Refused(&[403]),
        ),
        row(
            "a page's GET",
            "GET /lamp HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: https://evil.example\r\n\r\n",
            Refused(&[403]),
        ),
    ];
    // No offer and no poll: this is no port for such a method.
    for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH", "TRACE", "BREW"] {
        rows.push(row(
            format!("{method} without an offer"),
            format!("{method} /lamp HTTP/1.1\r\nHost: gw\r\n\r\n"),
            Refused(&[405]),
        ));
    }
    rows.push(row(
        "GET with Upgrade: websocket",
        "GET /lamp HTTP/1.1\r\nHost: gw\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        Refused(&[405]),
    ));
    rows.push(row(
        "CONNECT",
        "CONNECT gw:80 HTTP/1.1\r\nHost: gw:80\r\n\r\n",
        Refused(&[400, 405]),
    ));
    // T22
    let names = [
        "Lamp",
        "LAMP",
        "%6camp",
        "lamp%00",
        "..",
        ".",
        "a.b",
        "a_b",
        "-a",
        "a-",
        "a b",
        "l\u{e4}mp",
        "/lamp",
        "lamp;x",
        "lamp:1",
        "*",
        "~",
        "la\\mp",
        "xn--\u{1F4A1}",
    ];
    for name in names.map(str::to_owned).into_iter().chain(["a".repeat(64), "a".repeat(7000)]) {
        let shown = name.chars().take(20).collect::<String>();
        rows.push(row(
            format!("name {shown:?} of {} bytes", name.len()),
            offer(&name, ""),
            Refused(&[400]),
        ));
    }
    rows.push(row("a name of 64 KiB", offer(&"a".repeat(65_536), ""), Refused(&[414, 431])));
    rows.push(row("NUL in the name", offer("la\0mp", ""), Refused(&[400])));
    rows
}

/// POSTs that offer nothing that could be turned; with these fields.
fn polls(fields: &str) -> Vec<(&'static str, String)> {
    let upgrade = |value: &str| {
        format!(
            "POST /lamp HTTP/1.1\r\nHost: gw\r\nUpgrade: {value}\r\nConnection: Upgrade\r\nContent-Length: 0\r\n{fields}\r\n"
        )
    };
    vec![
        ("a poll", format!("POST /lamp HTTP/1.1\r\nHost: gw\r\n{fields}\r\n")),
        (
            "a poll with a length",
            format!("POST /lamp HTTP/1.1\r\nHost: gw\r\nContent-Length: 0\r\n{fields}\r\n"),
        ),
        ("another version", upgrade("PTTH/2.0")),
        ("version with white space", upgrade("PTTH / 1.0")),
        ("h2c", upgrade("h2c")),
        ("websocket", upgrade("websocket")),
        ("an empty Upgrade", upgrade("")),
        // A balancer removed Connection and left Upgrade, which was meant for it (RFC 9110 §7.6.1).
        (
            "Upgrade alone, and Via",
            upgrade("PTTH/1.0").replace("Connection: Upgrade", "Via: 1.1 proxy"),
        ),
        (
            "Upgrade alone, and Forwarded",
            upgrade("PTTH/1.0").replace("Connection: Upgrade", "Forwarded: for=192.0.2.1"),
        ),
        (
            "Upgrade alone, and X-Forwarded-For",
            upgrade("PTTH/1.0").replace("Connection: Upgrade", "X-Forwarded-For: 192.0.2.1"),
        ),
        (
            "another Connection, and Via",
            upgrade("PTTH/1.0")
                .replace("Connection: Upgrade", "Connection: keep-alive\r\nVia: 1.1 proxy"),
        ),
        (
            "HTTP/1.0",
            format!(
                "POST /lamp HTTP/1.0\r\nHost: gw\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nContent-Length: 0\r\n{fields}\r\n"
            ),
        ),
    ]
}

#[test]
fn what_offers_nothing_that_is_known_is_a_poll() {
    if cfg!(not(feature = "comet")) {
        return; // some of it polls in JSON
    }
    // The first poll of a session is answered at once, and not with a 101.
    let gateway = Gateway::start(&["--wait-for-link", "100ms"]);
    for number in 0..polls("").len() {
        let (name, bytes) = polls(&format!("PTTH-Session: {number:032x}\r\n")).swap_remove(number);
        let mut device = gateway.dial();
        device.write(bytes);
        let reply = device.read_answer("POST");
        assert_eq!(
            (reply.status(), reply.text().as_str()),
            (200, "{}"),
            "{name}: {}",
            reply.head.text()
        );
        gateway.get("/lamp/").expect_refusal(503); // known, and not connected
    }
}

#[test]
fn where_only_a_turn_will_do_a_poll_hears_so() {
    let gateway = Gateway::start(&["--fallback", "never", "--wait-for-link", "100ms"]);
    let rows: Vec<Row> = ["", SESSION_A]
        .iter()
        .flat_map(|fields| polls(fields))
        .map(|(name, bytes)| row(name, bytes, Refused(&[426])))
        .collect();
    each_row(&rows, |r| r.name.clone(), |r| check(&gateway, r));
    gateway.get("/lamp/").expect_refusal(404);
}

fn messages_that_are_wrong() -> Vec<Row> {
    let mut rows = Vec::new();
    // T1
    rows.push(row(
        "T1 length, then coding",
        framed("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n",
        Refused(&[400]),
    ));
    rows.push(row(
        "T1 coding, then length",
        framed("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n") + "0\r\n\r\n",
        Refused(&[400]),
    ));
    // T2
    for value in WRONG_CODINGS {
        rows.push(row(
            format!("T2 {value:?}"),
            framed(&format!("Transfer-Encoding: {value}\r\n")) + "0\r\n\r\n",
            Refused(&[400, 501]),
        ));
    }
    rows.push(row(
        "T2 two lines",
        framed("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n",
        Refused(&[400, 501]),
    ));
    rows.push(row(
        "T2 obs-text",
        [
            framed("").trim_end_matches("\r\n").as_bytes(),
            b"\r\nTransfer-Encoding: chunked\xA0\r\n\r\n0\r\n\r\n",
        ]
        .concat(),
        Refused(&[400, 501]),
    ));
    rows.push(row(
        "T2 on HTTP/1.0",
        "POST /lamp HTTP/1.0\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused(&[400]),
    ));
    // T3
    for value in WRONG_LENGTHS {
        rows.push(row(
            format!("T3 {value:?}"),
            framed(&format!("Content-Length: {value}\r\n")),
            Refused(&[400]),
        ));
    }
    rows.push(row(
        "T3 two lengths",
        framed("Content-Length: 0\r\nContent-Length: 5\r\n"),
        Refused(&[400]),
    ));
    // T10
    for (name, line) in [
        ("NUL in a value", "X: a\0b\r\n"),
        ("CR in a value", "X: a\rb\r\n"),
        ("control byte in a value", "X: a\x01b\r\n"),
        ("space before the colon", "X : a\r\n"),
        ("tab before the colon", "X\t: a\r\n"),
        ("an empty name", ": a\r\n"),
        ("a name that is no token", "X(Y): a\r\n"),
        ("a line without a colon", "no colon\r\n"),
        ("obs-fold", "X: a\r\n b\r\n"),
        ("a lone LF inside a value", "X: a\nY: b\r\n"),
    ] {
        rows.push(row(format!("T10 {name}"), offer("lamp", line), Refused(&[400])));
    }
    rows.push(row(
        "space after the start line",
        "POST /lamp HTTP/1.1\r\n Host: gw\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n",
        Refused(&[400]),
    ));
    rows.push(row(
        "control byte in the target",
        "POST /la\x01mp HTTP/1.1\r\nHost: gw\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n",
        Refused(&[400]),
    ));
    rows.push(row(
        "two spaces in the request line",
        "POST  /lamp HTTP/1.1\r\nHost: gw\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n",
        Refused(&[400]),
    ));
    rows.push(row(
        "a method that is no token",
        "PO(ST /lamp HTTP/1.1\r\nHost: gw\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n",
        Refused(&[400]),
    ));
    rows.push(row(
        "two empty lines before it",
        format!("\r\n\r\n{}", offer("lamp", "")),
        Refused(&[400]),
    ));
    // Limits
    rows.push(row("101 fields", offer("lamp", &"X: y\r\n".repeat(97)), Refused(&[431])));
    rows.push(row(
        "a head of 20 KiB",
        offer("lamp", &format!("X: {}\r\n", "y".repeat(20_000))),
        Refused(&[431]),
    ));
    rows.push(row(
        "a target of 8,001 bytes",
        offer(&format!("lamp?{}", "y".repeat(7_995)), ""),
        Refused(&[414]),
    ));
    // T13
    for (name, bytes) in FOREIGN {
        rows.push(row(format!("T13 {name}"), bytes, Closed));
    }
    for (version, statuses) in VERSIONS {
        rows.push(row(
            format!("T13 {version}"),
            format!("POST /lamp {version}\r\nHost: gw\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n"),
            Refused(statuses),
        ));
    }
    rows
}

/// T2, as a value of `Transfer-Encoding`.
pub const WRONG_CODINGS: &[&str] = &[
    "xchunked",
    "chunked, gzip",
    "gzip, chunked",
    "gzip",
    "identity",
    "\"chunked\"",
    "'chunked'",
    "chunked\x0b",
    "\x0cchunked",
    "\tchunked",
    "chunked\t",
    "chunked,",
    ", chunked",
    "chunked chunked",
    "chunked;q=1",
    "chunked, chunked",
    "chunked,identity",
    "",
    " ",
    "chun ked",
];
/// T3, as a value of `Content-Length`.
pub const WRONG_LENGTHS: &[&str] = &[
    "+0",
    "+5",
    "-1",
    "0x0",
    "0x5",
    "0,5",
    "5,6",
    "0 0",
    "0,",
    ",0",
    "\t0",
    "0\t",
    "1_0",
    "",
    " ",
    "00000000000000000000000000000000000000a",
    "9223372036854775808",
    "18446744073709551616",
    "99999999999999999999",
    "0;",
    "0.0",
    "٠",
];
/// T13: what is no HTTP/1 at all.
pub const FOREIGN: &[(&str, &[u8])] = &[
    ("HTTP/0.9", b"GET /lamp\r\n"),
    ("an HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
    (
        "a TLS hello",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\0\x01\x02\x03\x04\x05\x06\x07\r\n\r\n",
    ),
    ("an SSH banner", b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"),
    ("garbage", b"\x00\xff\x01\xfe\r\n\r\n"),
    ("words", b"hello gateway, how are you\r\n\r\n"),
];
/// T13: version words, and what they get.
pub const VERSIONS: &[(&str, &[u16])] = &[
    ("HTTP/1.2", &[505]),
    ("HTTP/1.9", &[505]),
    ("HTTP/2.0", &[505, 400]),
    ("HTTP/3", &[505, 400]),
    ("HTTP/01.1", &[400, 505]),
    ("HTTP/1.10", &[400, 505]),
    ("HTTP/1.", &[400]),
    ("http/1.1", &[400]),
    ("HTTPS/1.1", &[400]),
    ("PTTH/1.0", &[400]),
    ("HTTP/1.1 x", &[400]),
];

fn check(gateway: &Gateway, row: &Row) {
    let mut device = gateway.dial();
    match row.verdict {
        Turn(token, name) => {
            device.write(&row.bytes);
            let head = read_switch(&mut device, token);
            assert_eq!(head.fields.len(), 2, "{}", head.text());
            let mut visitor = gateway.visitor();
            visitor.write(get(&format!("/{name}/fence")));
            assert_eq!(device.read_head().target(), "/fence");
            device.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
            visitor.read_answer("GET").expect_ok("ok");
            device.expect_closed();
        }
        Refused(statuses) => {
            let _ = device.try_write(&row.bytes); // refused half-way, it may be closed before all is written
            let answer = if row.bytes.starts_with(b"HEAD") {
                device.read_answer("HEAD")
            } else {
                device.read_answer("POST")
            };
            if row.bytes.starts_with(b"HEAD") {
                assert!(statuses.contains(&answer.status()), "{}", answer.head.text());
            } else {
                answer.expect_refusal_among(statuses);
            }
            match answer.status() {
                405 => {
                    assert_eq!(answer.head.get("allow"), Some("POST"), "{}", answer.head.text());
                    let said = answer.text().to_lowercase();
                    assert!(
                        row.bytes.starts_with(b"HEAD") || said.contains("device"),
                        "the body does not say what this port is: {said}"
                    );
                }
                426 => {
                    assert_eq!(
                        answer.head.get("upgrade"),
                        Some("PTTH/1.0"),
                        "{}",
                        answer.head.text()
                    );
                    assert!(
                        answer
                            .head
                            .all("connection")
                            .iter()
                            .any(|v| v.to_lowercase().contains("upgrade")),
                        "RFC 9110 §7.8: {}",
                        answer.head.text()
                    );
                }
                _ => {}
            }
        }
        Closed => {
            let _ = device.try_write(&row.bytes);
            if let Some(head) = device.try_read_head() {
                assert!(matches!(head.status(), 400 | 405 | 501 | 505), "{}", head.text());
            }
        }
    }
}

/// Runs the rows, then looks whether a link of this name exists that no row may have made.
fn check_all(rows: &[Row]) {
    let gateway = Gateway::start(&["--wait-for-link", "100ms"]);
    each_row(rows, |r| r.name.clone(), |r| check(&gateway, r));
    if rows.iter().all(|r| !matches!(r.verdict, Turn(..))) {
        for name in ["lamp", "default", "well-known"] {
            gateway.get(&format!("/{name}/")).expect_refusal(404);
        }
    }
}

#[test]
fn offers_in_every_right_spelling_turn() {
    if cfg!(not(feature = "comet")) {
        return; // some of it polls in JSON
    }
    check_all(&offers_that_turn());
}

#[test]
fn offers_that_are_no_offers_are_refused_and_register_nothing() {
    if cfg!(not(feature = "comet")) {
        return; // some of it polls in JSON
    }
    check_all(&offers_refused());
}

#[test]
fn malformed_messages_on_the_devices_port_cost_their_connection_and_nothing_else() {
    check_all(&messages_that_are_wrong());
}

#[test]
fn refusals_that_are_malformed_end_the_connection() {
    let gateway = Gateway::start(&[]);
    let rows: Vec<Row> = offers_refused()
        .into_iter()
        .chain(messages_that_are_wrong())
        .filter(|r| matches!(r.verdict, Refused([400])))
        .collect();
    assert!(rows.len() > 50, "the filter is wrong");
    each_row(
        &rows,
        |r| r.name.clone(),
        |r| {
            let mut device = gateway.dial();
            let _ = device.try_write(&r.bytes); // it may be closed before all is written
            let answer = device.read_answer("POST");
            assert!(answer.head.closes(), "no Connection: close in {}", answer.head.text());
            device.expect_end();
        },
    );
}

#[test]
fn strict_connection_refuses_the_seeds_form_and_only_that() {
    let gateway = Gateway::start(&["--strict-connection"]);
    let mut device = gateway.dial();
    device.write(vector("seed-1-offer"));
    device.read_answer("POST").expect_refusal(400);
    gateway.get("/default/").expect_refusal(404);
    let mut device = gateway.dial();
    device.write(
        vector("seed-1-offer")
            .strip_suffix(b"\r\n")
            .map(|lines| [lines, b"Via: 1.1 proxy\r\n\r\n"].concat())
            .unwrap(),
    );
    device.read_answer("POST").expect_refusal(400);
    gateway.link("lamp");
}

#[test]
fn expect_100_continue_gets_its_100_before_the_101() {
    let gateway = Gateway::start(&[]);
    let mut device = gateway.dial();
    device.write(offer("lamp", "Expect: 100-continue\r\n"));
    assert_eq!(device.read_head().start, "HTTP/1.1 100 Continue");
    assert_eq!(text(&device.read_exact(SWITCH.len())), text(SWITCH));
}

#[test]
fn a_refused_offer_whose_message_is_whole_may_be_followed_by_a_right_one() {
    // 426 ends no connection where the message was well-formed: RFC 9931, the connection stays
    // usable. A close is right too.
    let gateway = Gateway::start(&["--fallback", "never"]);
    let mut device = gateway.dial();
    device.write("POST /lamp HTTP/1.1\r\nHost: gw\r\nContent-Length: 0\r\n\r\n");
    let answer = device.read_answer("POST");
    answer.expect_refusal(426);
    if answer.head.closes() {
        device.expect_closed();
    } else {
        device.write(offer("lamp", ""));
        assert_eq!(device.read_head().status(), 101);
    }
}

#[test]
fn half_heads_end_within_their_time_on_both_ports() {
    // head_timeout is 10 s in all, however slowly bytes come.
    let gateway = Gateway::start(&[]);
    let then = Instant::now();
    let mut peers: Vec<RawPeer> = Vec::new();
    for start in
        ["", "P", "POST /lamp HTTP/1.1\r\nHost: gw\r\nUpgrade: PTT", "POST /lamp HTTP/1.1\r\n"]
    {
        for mut peer in [gateway.dial(), gateway.visitor()] {
            peer.write(start);
            peer.deadline = Duration::from_secs(20);
            peers.push(peer);
        }
    }
    // One keeps sending: the time is a total, not a silence.
    let mut drip = gateway.visitor();
    drip.write("GET /lamp HTTP/1.1\r\nX: ");
    while then.elapsed() < Duration::from_secs(15) && !drip.stirs_within(Duration::from_millis(250))
    {
        let _ = drip.try_write("x");
    }
    peers.push(drip);
    for mut peer in peers {
        match peer.try_read_head() {
            Some(head) => assert_eq!(head.status(), 408, "{}", head.text()),
            None => peer.expect_closed(),
        }
    }
    let took = then.elapsed();
    assert!(
        took > Duration::from_secs(8) && took < Duration::from_secs(16),
        "they ended after {took:?}"
    );
}

// ── On-demand turn ──

#[test]
fn on_demand_holds_the_offer_and_turns_it_with_the_request_in_one_write() {
    let gateway = Gateway::start(&["--turn", "on-demand"]);
    let mut device = gateway.dial();
    device.write(offer("lamp", ""));
    device.expect_quiet(Duration::from_millis(150));
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/now"));
    let both = device.read_once();
    assert!(both.starts_with(SWITCH), "{:?}", text(&both));
    let request = Head::parse(&both[SWITCH.len()..]);
    assert_eq!(request.start, "GET /now HTTP/1.1", "101 and request come in one segment");
    device.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
    // A turned link is a link like any other.
    visitor.write(get("/lamp/again"));
    assert_eq!(device.read_head().target(), "/again");
    device.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
}

#[test]
fn on_demand_answers_204_when_nobody_asked_and_the_device_offers_again_on_the_same_connection() {
    let gateway = Gateway::start(&["--turn", "on-demand", "--poll-hold", "300ms"]);
    let mut device = gateway.dial();
    for _ in 0..3 {
        let then = Instant::now();
        device.write(offer("lamp", ""));
        let head = device.read_head();
        assert_eq!(head.status(), 204, "{}", head.text());
        assert_eq!(
            (head.get("content-length"), head.get("transfer-encoding")),
            (None, None),
            "{}",
            head.text()
        );
        assert!(!head.closes(), "{}", head.text());
        assert!(then.elapsed() >= Duration::from_millis(250), "it was not held");
    }
    device.write(offer("lamp", ""));
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/now"));
    // The visitor may have come before the offer or after a further 204: both are right, once.
    let mut head = device.read_head();
    if head.status() == 204 {
        device.write(offer("lamp", ""));
        head = device.read_head();
    }
    assert_eq!(head.status(), 101);
    assert_eq!(device.read_head().target(), "/now");
    device.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
    // An operator reads once that it came, and once that it went.
    let said = |what: &str| gateway.process.stderr().matches(what).count();
    assert_eq!((said("lamp: up"), said("lamp: down")), (1, 0), "{}", gateway.process.stderr());
    drop(device);
    gateway.process.expect_stderr("lamp: down: closed: ");
}

#[test]
fn on_demand_serves_a_visitor_who_came_first() {
    let gateway =
        Gateway::start(&["--turn", "on-demand", "--poll-hold", "200ms", "--wait-for-link", "8s"]);
    let mut device = gateway.dial();
    device.write(offer("lamp", ""));
    assert_eq!(device.read_head().status(), 204);
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/first"));
    visitor.expect_quiet(Duration::from_millis(100));
    device.write(offer("lamp", ""));
    let both = device.read_once();
    assert!(
        both.starts_with(SWITCH) && find(&both, b"GET /first HTTP/1.1\r\n").is_some(),
        "{:?}",
        text(&both)
    );
    device.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
}

#[test]
fn bytes_behind_a_held_offer_are_refused() {
    let gateway = Gateway::start(&["--turn", "on-demand", "--wait-for-link", "50ms"]);
    for late in ["X", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", &offer("lamp", "")] {
        let mut device = gateway.dial();
        device.write(offer("lamp", ""));
        device.expect_quiet(Duration::from_millis(50));
        device.write(late);
        device.read_answer("POST").expect_refusal(400);
        device.expect_closed();
        gateway.get("/lamp/").expect_refusal(503);
    }
}

#[test]
fn a_device_that_leaves_while_its_offer_is_held_is_not_asked() {
    let gateway = Gateway::start(&["--turn", "on-demand", "--wait-for-link", "100ms"]);
    let mut device = gateway.dial();
    device.write(offer("lamp", ""));
    device.expect_quiet(Duration::from_millis(50));
    drop(device);
    eventually("the gateway noticed", || (gateway.get("/lamp/").status() == 503).then_some(()));
    // Nor is one that leaves where it should offer again.
    let gateway = Gateway::start(&[
        "--turn",
        "on-demand",
        "--poll-hold",
        "100ms",
        "--wait-for-link",
        "100ms",
    ]);
    let mut device = gateway.dial();
    device.write(offer("lamp", ""));
    assert_eq!(device.read_head().status(), 204);
    drop(device);
    gateway.process.expect_stderr("lamp: down: absent: ");
}

// ── Two devices, one name ──

/// Asks for /NAME/x, and fails unless `device` is asked and its answer arrives.
#[track_caller]
fn answers(gateway: &Gateway, name: &str, device: &mut RawPeer) {
    let mut visitor = gateway.visitor();
    visitor.write(get(&format!("/{name}/x")));
    assert_eq!(device.read_head().target(), "/x");
    device.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
}

/// Fails unless `device` is told to go: `OPTIONS *` with `Connection: close`, then the close.
#[track_caller]
fn is_told_to_go(device: &mut RawPeer) {
    let head = device.read_head();
    assert_eq!(head.start, "OPTIONS * HTTP/1.1");
    assert!(head.closes(), "{}", head.text());
    assert!(head.get("host").is_some(), "a reversed request always has a Host: {}", head.text());
    device.write("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    device.expect_closed();
}

#[track_caller]
fn is_conflict(gateway: &Gateway, fields: &str) {
    let mut late = gateway.dial();
    late.write(offer("lamp", fields));
    let answer = late.read_answer("POST");
    answer.expect_refusal(409);
    assert_eq!(answer.head.get("retry-after"), Some("60"), "{}", answer.head.text());
}

#[test]
fn the_newest_session_takes_the_name_over_and_the_replaced_one_does_not_get_it_back() {
    let gateway = Gateway::start(&["--wait-for-link", "100ms"]);
    let mut old = gateway.link_with("lamp", SESSION_A);
    answers(&gateway, "lamp", &mut old);
    let mut new = gateway.link_with("lamp", SESSION_B);
    is_told_to_go(&mut old);
    answers(&gateway, "lamp", &mut new);
    for _ in 0..3 {
        is_conflict(&gateway, SESSION_A);
    }
    answers(&gateway, "lamp", &mut new);
    // Another name is another matter.
    let mut other = gateway.link_with("desk", SESSION_A);
    answers(&gateway, "desk", &mut other);
    // When the successor has gone, the old session may come back.
    drop(new);
    let mut back = eventually("the old session gets the name again", || {
        let mut device = gateway.dial();
        device.write(offer("lamp", SESSION_A));
        (device.read_head().status() == 101).then_some(device)
    });
    answers(&gateway, "lamp", &mut back);
}

#[test]
fn links_of_one_session_join_one_pool() {
    let gateway = Gateway::start(&[]);
    let (mut one, mut two) =
        (gateway.link_with("lamp", SESSION_A), gateway.link_with("lamp", SESSION_A));
    let (mut first, mut second) = (gateway.visitor(), gateway.visitor());
    first.write(get("/lamp/x"));
    second.write(get("/lamp/x"));
    for device in [&mut one, &mut two] {
        assert_eq!(device.read_head().target(), "/x");
    }
    one.write(vector("draft-4-response"));
    two.write(vector("draft-4-response"));
    first.read_answer("GET").expect_ok("Good");
    second.read_answer("GET").expect_ok("Good");
}

#[test]
fn a_busy_link_of_a_replaced_session_finishes_its_answer() {
    let gateway = Gateway::start(&[]);
    let mut old = gateway.link_with("lamp", SESSION_A);
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/slow"));
    assert_eq!(old.read_head().target(), "/slow");
    let mut new = gateway.link_with("lamp", SESSION_B);
    answers(&gateway, "lamp", &mut new);
    old.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
    // Now it is idle, and has to go.
    is_told_to_go_or_closed(&mut old);
    answers(&gateway, "lamp", &mut new);
}

#[track_caller]
fn is_told_to_go_or_closed(device: &mut RawPeer) {
    if let Some(head) = device.try_read_head() {
        assert_eq!(head.start, "OPTIONS * HTTP/1.1");
        assert!(head.closes(), "{}", head.text());
        device.write("HTTP/1.1 204 No Content\r\n\r\n");
    }
    device.expect_closed();
}

#[test]
fn a_busy_link_of_a_replaced_session_that_never_answers_ends_in_502_after_the_grace() {
    let gateway = Gateway::start(&[]);
    let mut old = gateway.link_with("lamp", SESSION_A);
    let mut visitor = gateway.visitor();
    visitor.deadline = Duration::from_secs(20);
    visitor.write(get("/lamp/slow"));
    assert_eq!(old.read_head().target(), "/slow");
    let then = Instant::now();
    let _new = gateway.link_with("lamp", SESSION_B);
    visitor.read_answer("GET").expect_refusal(502);
    let took = then.elapsed();
    assert!(
        took > Duration::from_secs(8) && took < Duration::from_secs(15),
        "the grace is 10 s, not {took:?}"
    );
    old.expect_closed();
}

#[test]
fn devices_without_a_session_form_one_group_asked_newest_first() {
    let gateway = Gateway::start(&[]);
    let mut links: Vec<RawPeer> = (0..3).map(|_| gateway.link("lamp")).collect();
    // All three serve at once, the newest first.
    let mut visitors: Vec<RawPeer> = Vec::new();
    for device in links.iter_mut().rev() {
        let mut visitor = gateway.visitor();
        visitor.write(get("/lamp/x"));
        assert_eq!(device.read_head().target(), "/x", "the newest idle link is asked");
        visitors.push(visitor);
    }
    for (device, visitor) in links.iter_mut().rev().zip(&mut visitors) {
        device.write(vector("draft-4-response"));
        visitor.read_answer("GET").expect_ok("Good");
    }
}

#[test]
fn a_session_replaces_a_group_and_a_group_replaces_a_session() {
    let gateway = Gateway::start(&[]);
    let (mut one, mut two) = (gateway.link("lamp"), gateway.link("lamp"));
    let mut sessioned = gateway.link_with("lamp", SESSION_A);
    is_told_to_go(&mut one);
    is_told_to_go(&mut two);
    answers(&gateway, "lamp", &mut sessioned);
    let mut foreign = gateway.link("lamp");
    is_told_to_go(&mut sessioned);
    answers(&gateway, "lamp", &mut foreign);
    is_conflict(&gateway, SESSION_A);
    answers(&gateway, "lamp", &mut foreign);
}

#[test]
fn a_held_offer_of_a_replaced_session_gets_409() {
    let gateway = Gateway::start(&["--turn", "on-demand"]);
    let mut old = gateway.dial();
    old.write(offer("lamp", SESSION_A));
    old.expect_quiet(Duration::from_millis(50));
    let mut new = gateway.dial();
    new.write(offer("lamp", SESSION_B));
    let answer = old.read_answer("POST");
    answer.expect_refusal(409);
    assert_eq!(answer.head.get("retry-after"), Some("60"));
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    assert_eq!(new.read_head().status(), 101);
    assert_eq!(new.read_head().target(), "/x");
}

#[test]
fn a_thousand_take_overs_leave_one_link_that_answers() {
    let gateway = Gateway::start(&[]);
    let take_over = |number: usize| {
        drop(gateway.link_with("lamp", &format!("PTTH-Session: {number:032x}\r\n")))
    };
    (0..100).for_each(take_over);
    let threads = gateway.process.threads(); // not before: one of them starts behind the line that says where it listens
    (100..1000).for_each(take_over);
    let mut last = gateway.link_with("lamp", SESSION_A);
    answers(&gateway, "lamp", &mut last);
    assert_eq!(gateway.process.threads(), threads);
}

// ── The life of a link ──

#[test]
fn an_idle_link_gets_a_heartbeat_and_any_complete_answer_proves_life() {
    let gateway = Gateway::start(&["--heartbeat", "150ms", "--heartbeat-timeout", "5s"]);
    let mut device = gateway.link("lamp");
    for answer in [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n",
        "HTTP/1.1 501 Not Implemented\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    ] {
        let head = device.read_head();
        assert_eq!(head.start, "OPTIONS * HTTP/1.1");
        assert!(head.get("host").is_some(), "{}", head.text());
        assert!(!head.closes(), "{}", head.text());
        assert_eq!(head.get("content-length").unwrap_or("0"), "0");
        device.write(answer);
    }
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    let mut head = device.read_head();
    if head.method() == "OPTIONS" {
        device.write("HTTP/1.1 204 No Content\r\n\r\n");
        head = device.read_head();
    }
    assert_eq!(head.target(), "/x");
    device.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
}

#[test]
fn a_heartbeat_without_an_answer_closes_the_link() {
    let gateway = Gateway::start(&[
        "--heartbeat",
        "100ms",
        "--heartbeat-timeout",
        "200ms",
        "--wait-for-link",
        "50ms",
    ]);
    let mut silent = gateway.link("lamp");
    assert_eq!(silent.read_head().method(), "OPTIONS");
    silent.expect_closed();
    gateway.get("/lamp/").expect_refusal(503);
    // An answer that is not whole is none.
    let mut half = gateway.link("lamp");
    assert_eq!(half.read_head().method(), "OPTIONS");
    half.write("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel");
    half.expect_closed();
}

#[test]
fn heartbeats_can_be_turned_off() {
    let gateway = Gateway::start(&["--heartbeat", "0s"]);
    gateway.link("lamp").expect_quiet(Duration::from_millis(500));
}

#[test]
fn unasked_bytes_on_an_idle_link_close_it_and_are_never_an_answer() {
    let gateway = Gateway::start(&["--wait-for-link", "100ms"]);
    let forged = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";
    for bytes in [forged, "X", "<3", "\r\nHTTP/1.1 200 OK\r\n\r\n", "\0"] {
        let mut device = gateway.link("lamp");
        device.write(bytes);
        device.expect_closed();
        gateway.get("/lamp/").expect_refusal(503);
    }
    // A stray line end is tolerated (RFC 9112 §9.2).
    let mut device = gateway.link("lamp");
    for _ in 0..3 {
        device.write("\r\n");
        answers(&gateway, "lamp", &mut device);
    }
}

#[test]
fn connection_close_in_an_answer_ends_the_link_after_it() {
    let gateway = Gateway::start(&["--wait-for-link", "50ms"]);
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    device.read_head();
    device.write("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    let answer = visitor.read_answer("GET");
    answer.expect_ok("ok");
    assert!(
        !answer.head.closes(),
        "the device's Connection is the link's own, not the visitor's: {}",
        answer.head.text()
    );
    device.expect_closed();
    visitor.ask(&get("/lamp/y")).expect_refusal(503);
}

#[test]
fn a_link_that_the_device_closes_is_known_to_be_gone() {
    let gateway = Gateway::start(&["--wait-for-link", "50ms"]);
    let device = gateway.link("lamp");
    drop(device);
    eventually("the gateway noticed", || (gateway.get("/lamp/").status() == 503).then_some(()));
    let device = gateway.link("lamp");
    device.finish_writing();
    eventually("the gateway noticed the half-close", || {
        (gateway.get("/lamp/").status() == 503).then_some(())
    });
}

#[test]
fn many_devices_beside_each_other_are_not_confused() {
    let gateway = Gateway::start(&[]);
    let devices: Vec<(String, LocalServer)> = (0..30)
        .map(|i| {
            let name = format!("d{i}");
            let said = name.clone();
            (name.clone(), LocalServer::device(&gateway, &name, 2, move |c| c.text(&said)))
        })
        .collect();
    let mut visitor = gateway.visitor();
    for round in 0..3 {
        for (name, _) in &devices {
            visitor.ask(&get(&format!("/{name}/{round}"))).expect_ok(name);
        }
    }
    assert!(devices.iter().all(|(_, d)| d.count() == 3));
}
