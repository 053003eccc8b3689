//! Face L: what a hostile device may not say; T16 and T17.

use std::sync::mpsc;
use std::time::Duration;

use super::{WHOLE, answer, chunks, forwarder, is_cheap, spent};
use crate::gateway::hostile_visitors::ONE_BYTE_CHUNKS;
use crate::gateway::visitors::{WRONG_CHUNKS, WRONG_LINES};
use crate::gateway::wire::{FOREIGN, VERSIONS};
use crate::support::process::get;
use crate::support::{DEADLINE, Gateway, LocalServer, RawGateway, RawPeer, each_row};

fn malformed_answers() -> Vec<(String, Vec<u8>)> {
    let mut rows: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, line) in WRONG_LINES.iter().filter(|(name, _)| *name != "a lone LF") {
        rows.push((format!("T10 {name}"), answer(&format!("{line}Content-Length: 0\r\n"), "")));
    }
    for (version, _) in VERSIONS {
        rows.push((
            format!("T13 {version}"),
            format!("{version} 200 OK\r\nContent-Length: 0\r\n\r\n").into(),
        ));
    }
    for (name, bytes) in FOREIGN {
        rows.push((format!("T13 {name}"), bytes.to_vec()));
    }
    // A status without a body has no framing to be confused by, yet what is wrong is wrong.
    for head in ["HTTP/1.1 204 No Content", "HTTP/1.1 304 Not Modified", "HTTP/1.1 103 Early Hints"]
    {
        rows.push((
            format!("T1 {head}"),
            format!("{head}\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n").into(),
        ));
        rows.push((format!("T3 {head}"), format!("{head}\r\nContent-Length: +5\r\n\r\n").into()));
        rows.push((
            format!("T2 {head}"),
            format!("{head}\r\nTransfer-Encoding: gzip\r\n\r\n").into(),
        ));
    }
    rows.push((
        "T2 obs-text".into(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\xA0\r\n\r\n0\r\n\r\n".to_vec(),
    ));
    rows.push(("T3 a list of two lengths".into(), answer("Content-Length: 2, 5\r\n", "hello")));
    rows.push((
        "T10 CR in the reason".into(),
        b"HTTP/1.1 200 O\rK\r\nContent-Length: 0\r\n\r\n".to_vec(),
    ));
    rows.push((
        "T10 DEL in the reason".into(),
        b"HTTP/1.1 200 O\x7fK\r\nContent-Length: 0\r\n\r\n".to_vec(),
    ));
    rows.push((
        "T10 a status line that is folded".into(),
        b"HTTP/1.1 200 OK\r\n more\r\nContent-Length: 0\r\n\r\n".to_vec(),
    ));
    rows.push((
        "T12 Connection names seventeen fields".into(),
        answer(&format!("Connection: {}\r\nContent-Length: 0\r\n", ["x"; 17].join(",")), ""),
    ));
    rows.push((
        "T18 eight 1xx, then what is none".into(),
        ["HTTP/1.1 102 Processing\r\n\r\n".repeat(8).as_str(), "HTTP/1.1 0\r\n\r\n"]
            .concat()
            .into(),
    ));
    rows.push((
        "an empty line before the answer, and another".into(),
        [b"\r\n\r\n".to_vec(), answer("Content-Length: 0\r\n", "")].concat(),
    ));
    rows
}

#[test]
fn no_answer_that_is_malformed_reaches_a_visitor() {
    let rows = malformed_answers();
    let gateway = Gateway::start(&["--wait-for-link", "20ms"]);
    each_row(
        &rows,
        |r| r.0.clone(),
        |(_, bytes)| {
            let mut device = gateway.link("lamp");
            let mut visitor = gateway.visitor();
            visitor.write("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
            device.read_head();
            let _ = device.try_write(bytes); // and the device leaves its end open: nothing but the bytes decides
            let told = visitor.read_answer("POST");
            told.expect_refusal(502);
            assert!(told.text().starts_with("the device sent "), "{}", told.text());
            device.expect_closed();
            // The visitor's connection is as good as before; the link is gone.
            visitor.ask(&get("/lamp/next")).expect_refusal(503);
        },
    );
}

#[test]
fn chunks_of_a_device_that_are_none_never_end_well() {
    let gateway = Gateway::start(&["--wait-for-link", "20ms"]);
    let many = "0\r\n".to_owned() + &"X: y\r\n".repeat(150) + "\r\n";
    let small = "1;a=b\r\nx\r\n".repeat(20_000) + "0\r\n\r\n";
    // Blanks after a size, and LF alone, are taken in answers, as nginx and HAProxy take them.
    let wrong = WRONG_CHUNKS
        .iter()
        .copied()
        .filter(|(name, _)| !["space behind a size", "lone LFs"].contains(name));
    let rows: Vec<(&str, &str)> = wrong
        .chain([("150 trailers", many.as_str()), ("an extension on every chunk", small.as_str())])
        .collect();
    each_row(
        &rows,
        |r| r.0.to_owned(),
        |(_, body)| {
            let (bytes, ends) = chunks(body);
            let mut device = gateway.link("lamp");
            let mut visitor = gateway.visitor();
            visitor.write(get("/lamp/x"));
            device.read_head();
            let _ = device.try_write(answer("Transfer-Encoding: chunked\r\n", &bytes)); // its link may be closed in the middle of it
            if ends {
                device.finish_writing();
            }
            match visitor.read_answer_or_cut("GET") {
                Ok(answer) => answer.expect_refusal(502),
                Err(cut) => {
                    assert!(cut.head.is_some(), "neither what came of the answer nor a 502")
                }
            }
            device.expect_no_more();
            gateway.get("/lamp/next").expect_refusal(503);
        },
    );
}

#[test]
fn trailers_of_a_device_arrive_without_those_that_frame_or_route() {
    let gateway = Gateway::start(&[]);
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    for _ in 0..2 {
        visitor.write("GET /lamp/x HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n");
        assert_eq!(device.read_head().get("te"), Some("trailers"));
        device.write(answer(
            "Transfer-Encoding: chunked\r\nTrailer: X-Check\r\n",
            "2\r\nok\r\n0\r\nContent-Length: 7\r\nTransfer-Encoding: gzip\r\nHost: evil\r\nConnection: close\r\nSet-Cookie: a=b\r\nX-Check: 1\r\n\r\n",
        ));
        let answer = visitor.read_answer("GET");
        answer.expect_ok("ok");
        let names: Vec<&str> = answer.trailers.iter().map(|(name, _)| name.as_str()).collect();
        for never in ["Content-Length", "Transfer-Encoding", "Host", "Connection"] {
            assert!(!names.contains(&never), "{names:?}");
        }
        assert!(names.contains(&"X-Check"), "{names:?}");
    }
}

#[test]
fn an_answer_in_chunks_of_one_byte_arrives_in_time_and_flat_memory() {
    // T5 on both ends of a link: from a device to a visitor, and from a gateway to a local server.
    let block = "1\r\nx\r\n".repeat(ONE_BYTE_CHUNKS / 100);
    let gateway = Gateway::start(&[]);
    let mut device = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.deadline = Duration::from_secs(60);
    visitor.write(get("/lamp/x"));
    device.read_head();
    let before = spent(&gateway.process);
    let writer = std::thread::spawn({
        let block = block.clone();
        move || {
            device.deadline = Duration::from_secs(60);
            device.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            (0..100).for_each(|_| device.write(&block));
            device.write("0\r\n\r\n");
            device
        }
    });
    assert_eq!(visitor.read_head().get("transfer-encoding"), Some("chunked"));
    let mut came = 0;
    loop {
        match visitor.read_chunk().len() {
            0 => break,
            n => came += n,
        }
    }
    assert_eq!(came, ONE_BYTE_CHUNKS);
    let _device = writer.join().unwrap();
    is_cheap("an answer, at the gateway", &gateway.process, before);

    let raw = RawGateway::start();
    let (sum, sums) = mpsc::channel::<usize>();
    let local = LocalServer::with(move |c| {
        let mut n = 0;
        c.each_piece(|piece| n += piece.len());
        let _ = sum.send(n); // the test may be over
        c.text("read");
    });
    let device = forwarder(&raw, &local, &["--links", "1..1"]);
    let mut link = raw.turn();
    link.ask(&get("/x")).expect_ok("read");
    sums.recv_timeout(DEADLINE).unwrap();
    let before = spent(&device);
    link.deadline = Duration::from_secs(60);
    link.write("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    (0..100).for_each(|_| link.write(&block));
    link.write("0\r\n\r\n");
    link.read_answer("POST").expect_ok("read");
    assert_eq!(sums.recv_timeout(DEADLINE), Ok(ONE_BYTE_CHUNKS));
    is_cheap("a request, at the device", &device, before);
}

// ── T16: more answers than questions ──

#[test]
fn what_a_device_says_too_much_is_never_the_next_callers_answer() {
    let forged = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";
    let rows = [
        ("twice", format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{forged}"), "ok"),
        (
            "twice, chunked",
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{forged}"
            ),
            "ok",
        ),
        (
            "a second head alone",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200".to_owned(),
            "ok",
        ),
        (
            "a 100 behind it",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 100 Continue\r\n\r\n"
                .to_owned(),
            "ok",
        ),
        ("a body behind 204", format!("HTTP/1.1 204 No Content\r\n\r\n{forged}"), ""),
        (
            "a body behind 304",
            format!(
                "HTTP/1.1 304 Not Modified\r\nContent-Length: {}\r\n\r\n{forged}",
                forged.len()
            ),
            "",
        ),
        ("one byte too many", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!".to_owned(), "ok"),
    ];
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let numbered: Vec<_> = rows.iter().enumerate().collect();
    each_row(
        &numbered,
        |(_, r)| r.0.to_owned(),
        |(row, (_, bytes, said))| {
            let name = format!("lamp{row}"); // each its own, with no link of the row before
            let mut device = gateway.link(&name);
            let mut first = gateway.visitor();
            first.write(get(&format!("/{name}/first")));
            assert_eq!(device.read_head().target(), "/first");
            // They wait for this very link.
            let mut waiting: Vec<RawPeer> = (0..3).map(|_| gateway.visitor()).collect();
            waiting.iter_mut().for_each(|v| v.write(get(&format!("/{name}/next"))));
            waiting[2].expect_quiet(Duration::from_millis(10));
            device.write(bytes);
            assert_eq!(first.read_answer("GET").text(), *said);
            device.expect_closed(); // and no other request before
            let fresh = LocalServer::device(&gateway, &name, 1, |c| c.text("fresh"));
            waiting.iter_mut().for_each(|v| v.read_answer("GET").expect_ok("fresh"));
            assert_eq!(fresh.count(), 3);
        },
    );
}

#[test]
fn an_answer_after_the_deadline_finds_nobody() {
    let gateway = Gateway::start(&["--first-byte", "200ms", "--wait-for-link", "9s"]);
    for late in
        ["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate", "HTTP/1.1 100 Continue\r\n\r\n"]
    {
        let mut device = gateway.link("lamp");
        let (mut first, mut next) = (gateway.visitor(), gateway.visitor());
        first.write(get("/lamp/first"));
        assert_eq!(device.read_head().target(), "/first");
        next.write(get("/lamp/next"));
        first.read_answer("GET").expect_refusal(504);
        let _ = device.try_write(late); // its link is closed already
        device.expect_no_more();
        let mut fresh = gateway.link("lamp");
        assert_eq!(fresh.read_head().target(), "/next");
        fresh.write(answer("Content-Length: 5\r\n", "fresh"));
        next.read_answer("GET").expect_ok("fresh");
        first.write(get("/lamp/fence"));
        assert_eq!(fresh.read_head().target(), "/fence");
        fresh.write(answer("Content-Length: 5\r\n", "fence"));
        first.read_answer("GET").expect_ok("fence"); // and nothing before it
    }
}

#[test]
fn an_answer_cut_at_any_byte_is_an_abort_for_its_visitor() {
    let gateway = Gateway::start(&["--wait-for-link", "20ms"]);
    let cuts: Vec<(&str, usize, &str, bool)> = WHOLE
        .iter()
        .flat_map(|whole| (0..whole.len()).map(move |k| (*whole, k)))
        .flat_map(|(whole, k)| {
            [("1.1", false), ("1.1", true), ("1.0", false), ("1.0", true)]
                .map(|(version, reset)| (whole, k, version, reset))
        })
        .collect();
    each_row(
        &cuts,
        |(whole, k, version, reset)| {
            format!("HTTP/{version}, {}: {:?}", if *reset { "reset" } else { "end" }, &whole[..*k])
        },
        |(whole, k, version, reset)| {
            let mut device = gateway.link("lamp");
            let mut visitor = gateway.visitor();
            visitor.write(format!(
                "POST /lamp/x HTTP/{version}\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
            ));
            device.read_head();
            device.write(&whole[..*k]);
            if *reset {
                device.reset()
            } else {
                drop(device)
            }
            if *version == "1.1" {
                match visitor.read_answer_or_cut("POST") {
                    Ok(answer) => answer.expect_refusal(502),
                    Err(cut) => assert!(
                        cut.head.is_some() && b"0123456789".starts_with(&cut.body),
                        "{cut:?}"
                    ),
                }
                return;
            }
            // Where the end of the connection is the end of the body, only a reset says that it is
            // not whole.
            let (bytes, was_reset) = visitor.read_to_any_end();
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains("HTTP/1.1 103"), "{text}");
            let short = text.contains("Content-Length: 10") && !text.ends_with("0123456789");
            assert!(
                text.starts_with("HTTP/1.1 502 ") || short || was_reset,
                "a clean end: {text:?}"
            );
        },
    );
    // One that ends with its stream is cut by a reset alone.
    for version in ["1.1", "1.0"] {
        let mut device = gateway.link("lamp");
        let mut visitor = gateway.visitor();
        visitor.write(format!("GET /lamp/x HTTP/{version}\r\nHost: a\r\n\r\n"));
        device.read_head();
        device.write("HTTP/1.1 200 OK\r\n\r\nhalf");
        let head = visitor.read_head();
        device.reset();
        let (bytes, was_reset) = visitor.read_to_any_end();
        assert!(was_reset || !bytes.ends_with(b"0\r\n\r\n"), "{} {bytes:?}", head.text());
        assert!(was_reset || version == "1.1", "a clean end to HTTP/1.0");
    }
}
