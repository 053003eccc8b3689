//! What turns, what does not, and messages that are wrong.

use std::time::{Duration, Instant};

use self::Verdict::{Closed, Refused, Turn};
use super::{
    FOREIGN, SESSION_A, SESSION_B, VERSIONS, WRONG_CODINGS, WRONG_LENGTHS, read_switch, text,
};
use crate::support::process::{get, offer};
use crate::support::{Gateway, RawPeer, SWITCH, each_row, vector};

// ── What turns, what does not ──

/// What a row of bytes on the devices' port gets.
#[derive(Clone)]
enum Verdict {
    /// 101 with this token, and the link answers visitors of this name.
    Turn(&'static str, &'static str),
    /// One of these statuses with a reason, then the close; no turn.
    Refused(&'static [u16]),
    /// The connection is closed; an answer may come first, but no 101.
    Closed,
}

#[derive(Clone)]
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
    [offers_with_wrong_heads(), offers_with_bodies(), wrong_methods(), wrong_names()].concat()
}

fn offers_with_wrong_heads() -> Vec<Row> {
    let without_connection = |lines: &str| {
        format!("POST /lamp HTTP/1.1\r\nHost: gw\r\nUpgrade: PTTH/1.0\r\n{lines}\r\n")
    };
    let ietf = |path: &str, lines: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: gw\r\nUpgrade: ptth\r\nConnection: upgrade\r\n{lines}\r\n"
        )
    };
    let session = |value: &str| offer("lamp", &format!("PTTH-Session: {value}\r\n"));
    vec![
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
    ]
}

fn offers_with_bodies() -> Vec<Row> {
    vec![
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
    ]
}

fn wrong_methods() -> Vec<Row> {
    let mut rows = Vec::new();
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
    rows
}

fn wrong_names() -> Vec<Row> {
    let mut rows = Vec::new();
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
    [wrong_framing(), wrong_lines(), wrong_sizes_and_versions()].concat()
}

fn wrong_framing() -> Vec<Row> {
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
    rows
}

fn wrong_lines() -> Vec<Row> {
    let mut rows = Vec::new();
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
    rows
}

fn wrong_sizes_and_versions() -> Vec<Row> {
    let mut rows = Vec::new();
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
