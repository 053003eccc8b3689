//! Bad input, face L: hostile devices.

use std::time::Duration;

use super::has_proxy_status;
use crate::gateway::wire::{WRONG_CODINGS, WRONG_LENGTHS};
use crate::support::process::get;
use crate::support::{Gateway, each_row, eventually};

// ── Bad input, face L: hostile devices ──

/// What the visitor of a hostile device gets.
enum Told {
    /// 502 with a reason.
    BadGateway,
    /// The head of 200, and a message that ends before its end (or 502, where it was known early
    /// enough).
    Cut,
    /// The answer is right and whole; what came after it is nobody's.
    Whole(&'static str),
}

/// Its name, the method, the answer, and what the visitor gets.
type Hostile = (String, &'static str, Vec<u8>, Told);

fn with(lines: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n{lines}\r\n{body}").into_bytes()
}

fn hostile_heads() -> Vec<Hostile> {
    use Told::BadGateway;
    let mut rows: Vec<Hostile> = Vec::new();
    for (name, bytes) in [
        ("T1 length, then coding", with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        ("T1 coding, then length", with("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n")),
        ("T2 two lines", with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        ("T2 on HTTP/1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec()),
        ("T3 two lengths", with("Content-Length: 2\r\nContent-Length: 5\r\n", "hello")),
        ("T10 NUL in a value", with("X: a\0b\r\nContent-Length: 0\r\n", "")),
        ("T10 CR in a value", with("X: a\rb\r\nContent-Length: 0\r\n", "")),
        ("T10 space before a colon", with("Content-Length : 0\r\n", "")),
        ("T10 obs-fold", with("X: a\r\n b\r\nContent-Length: 0\r\n", "")),
        ("T10 an empty name", with(": a\r\nContent-Length: 0\r\n", "")),
        ("T10 a line without a colon", with("no colon\r\nContent-Length: 0\r\n", "")),
        ("T10 a name that is no token", with("X Y: a\r\nContent-Length: 0\r\n", "")),
        ("T10 NUL in the reason", b"HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("T13 HTTP/2.0", b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("T13 EVENT/1.0", b"EVENT/1.0 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("T13 status 99", b"HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("T13 status 1000", b"HTTP/1.1 1000 Odd\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("T13 status of two digits", b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("T13 status with a letter", b"HTTP/1.1 2oo OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("T13 a truncated status line", b"HTTP/1.1 400 Bad Request".to_vec()),
        ("T13 garbage", b"<3<3<3\r\n\r\n".to_vec()),
        ("T13 a request", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("more fields than a device may add to a hundred", with(&"X: y\r\n".repeat(120), "")),
        ("a head of more than 20 KiB", with(&format!("X: {}\r\n", "y".repeat(21_000)), "")),
        ("T18 nine 1xx", "HTTP/1.1 102 Processing\r\n\r\n".repeat(9).into_bytes()),
        ("T18 1xx without end", "HTTP/1.1 102 Processing\r\n\r\n".repeat(5_000).into_bytes()),
        ("a switch nobody asked for", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n".to_vec()),
        ("a head cut in the middle", b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
    ] {
        rows.push((name.into(), "POST", bytes, BadGateway));
    }
    rows
}

fn hostile_bodies() -> Vec<Hostile> {
    use Told::{BadGateway, Cut};
    let mut rows: Vec<Hostile> = Vec::new();
    for value in WRONG_CODINGS {
        rows.push((
            format!("T2 {value:?}"),
            "POST",
            with(&format!("Transfer-Encoding: {value}\r\n"), "0\r\n\r\n"),
            BadGateway,
        ));
    }
    for value in WRONG_LENGTHS {
        rows.push((
            format!("T3 {value:?}"),
            "POST",
            with(&format!("Content-Length: {value}\r\n"), "hello"),
            BadGateway,
        ));
    }
    for (name, body) in [
        ("0x before a size", "0x2\r\nab\r\n0\r\n\r\n"),
        ("LF after an extension", "2;\nab\r\n0\r\n\r\n"),
        ("space before a size", " 2\r\nab\r\n0\r\n\r\n"),
        ("17 hex digits", "00000000000000002\r\nab\r\n0\r\n\r\n"),
        ("an empty size", "\r\nab\r\n0\r\n\r\n"),
        ("no CRLF behind the data", "2\r\nabX0\r\n\r\n"),
        ("a trailer that is no field", "2\r\nab\r\n0\r\nno colon\r\n\r\n"),
        ("no last chunk", "2\r\nab\r\n"),
        ("half a chunk", "5\r\nab"),
    ] {
        rows.push((format!("T5 {name}"), "GET", with("Transfer-Encoding: chunked\r\n", body), Cut));
    }
    rows
}

fn hostile_ends() -> Vec<Hostile> {
    use Told::{Cut, Whole};
    let mut rows: Vec<Hostile> =
        vec![("T17 short by length".into(), "GET", with("Content-Length: 10\r\n", "hello"), Cut)];
    rows.push((
        "T16 two answers".into(),
        "GET",
        [with("Content-Length: 2\r\n", "ok"), with("Content-Length: 6\r\n", "forged")].concat(),
        Whole("ok"),
    ));
    rows.push((
        "T16 bytes behind a chunked answer".into(),
        "GET",
        with("Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\nX"),
        Whole("ok"),
    ));
    rows.push((
        "T19 a body after HEAD".into(),
        "HEAD",
        with("Content-Length: 6\r\n", "forged"),
        Whole(""),
    ));
    rows.push((
        "T19 a body after 204".into(),
        "GET",
        b"HTTP/1.1 204 No Content\r\n\r\nforged".to_vec(),
        Whole(""),
    ));
    rows.push((
        "T19 a body after 304".into(),
        "GET",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\nforged".to_vec(),
        Whole(""),
    ));
    rows.push((
        "an answer in HTTP/1.0".into(),
        "GET",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(),
        Whole("ok"),
    ));
    rows
}

#[test]
fn hostile_devices_are_502_or_cut_and_lose_their_link() {
    use Told::{BadGateway, Cut, Whole};
    let rows: Vec<Hostile> =
        hostile_heads().into_iter().chain(hostile_bodies()).chain(hostile_ends()).collect();
    let gateway = Gateway::start(&["--wait-for-link", "20ms"]);
    each_row(
        &rows,
        |r| r.0.clone(),
        |(_, method, bytes, told)| {
            let mut device = gateway.link("lamp");
            let mut visitor = gateway.visitor();
            let body = if *method == "POST" { "Content-Length: 0\r\n" } else { "" };
            visitor.write(format!("{method} /lamp/x HTTP/1.1\r\nHost: a\r\n{body}\r\n"));
            device.read_head();
            let _ = device.try_write(bytes); // its link may be closed in the middle of it
            device.finish_writing();
            match told {
                BadGateway => {
                    let answer = visitor.read_answer(method);
                    answer.expect_refusal(502);
                    has_proxy_status(&answer);
                }
                Cut => match visitor.read_answer_or_cut(method) {
                    Ok(answer) => answer.expect_refusal(502),
                    Err(cut) => {
                        assert!(cut.body.len() <= 5, "{:?}", cut.body);
                        assert!(
                            cut.head.is_some(),
                            "closed without a byte: neither what came of the answer nor a 502"
                        );
                    }
                },
                Whole(said) => assert_eq!(visitor.read_answer(method).text(), *said),
            }
            device.expect_no_more();
            let late = gateway.get("/lamp/next");
            late.expect_refusal(503);
        },
    );
}

#[test]
fn a_link_with_bytes_behind_its_answer_is_closed_by_the_gateway() {
    // As above, but the device keeps its end open.
    let gateway = Gateway::start(&["--wait-for-link", "100ms"]);
    for (method, bytes) in [
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged",
        ),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\nforged"),
        ("GET", "HTTP/1.1 304 Not Modified\r\n\r\nforged"),
        ("GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ] {
        let mut device = gateway.link("lamp");
        let mut visitor = gateway.visitor();
        visitor.write(format!("{method} /lamp/x HTTP/1.1\r\nHost: a\r\n\r\n"));
        device.read_head();
        device.write(bytes);
        visitor.read_answer(method);
        device.expect_closed();
        gateway.get("/lamp/next").expect_refusal(503);
    }
}

#[test]
fn an_answer_before_the_whole_request_ends_well_for_both() {
    // T4: the device refuses an upload early.
    let gateway = Gateway::start(&["--wait-for-link", "100ms"]);
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\nsome");
    device.read_head();
    assert_eq!(device.read_exact(4), b"some");
    device.write(
        "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbig\n",
    );
    let answer = visitor.read_answer("POST");
    assert_eq!((answer.status(), answer.text().as_str()), (413, "big\n"));
    // The rest of the upload is never the next request.
    for _ in 0..3 {
        if visitor.try_write(get("/lamp/smuggled").repeat(50)).is_err() {
            break;
        }
    }
    device.expect_no_more();
    let mut next = gateway.link("lamp");
    let mut fresh = gateway.visitor();
    fresh.write(get("/lamp/fence"));
    assert_eq!(next.read_head().target(), "/fence");
}

#[test]
fn a_request_body_nobody_reads_is_never_the_next_request() {
    // T4 with a small body: the visitor's connection goes on, or says that it does not.
    let gateway = Gateway::start(&["--wait-for-link", "50ms"]);
    let _known = gateway.link("lamp");
    drop(_known);
    eventually("the gateway noticed", || (gateway.get("/lamp/").status() == 503).then_some(()));
    let mut visitor = gateway.visitor();
    let smuggled = get("/lamp/smuggled");
    visitor.write(format!(
        "POST /desk/x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{smuggled}",
        smuggled.len()
    ));
    let answer = visitor.read_answer("POST");
    answer.expect_refusal(404);
    if answer.head.closes() {
        visitor.expect_closed();
    } else {
        visitor.expect_quiet(Duration::from_millis(100));
    }
}
