//! The threats as tables on an established link: hostile devices (face L), hostile gateways (face
//! l) and local servers, handlers that misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use reverse_http::{Body, Device, DeviceHandle, Gateway as LibGateway, Limits, Routes};

use crate::gateway::wire::{FOREIGN, VERSIONS, WRONG_CODINGS, WRONG_LENGTHS};
use crate::engine::scale::affordable;
use crate::support::process::{Process, get};
use crate::support::{
    DEADLINE, Gateway, Hash, LocalServer, Ptth, RawGateway, RawPeer, each_row, eventually, say,
};
use crate::gateway::hostile_visitors::ONE_BYTE_CHUNKS;
use crate::gateway::visitors::{WRONG_CHUNKS, WRONG_LINES};

// ── Face L: what a hostile device may not say ──

/// An answer with these lines (each with its CRLF) and this body.
fn answer(lines: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n{lines}\r\n{body}").into_bytes()
}

/// What WRONG_CHUNKS stand for: the bytes, and whether the stream ends behind them.
fn chunks(body: &str) -> (String, bool) {
    let body = body.replace("LONG", &"1".repeat(40_000));
    body.strip_suffix("END").map_or((body.clone(), false), |b| (b.to_owned(), true))
}

#[test]
fn no_answer_that_is_malformed_reaches_a_visitor() {
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
    // Blanks behind a size, and LF alone, are taken in answers, as nginx and HAProxy take them.
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

/// What a process has spent so far: CPU time in hundredths of a second, and its resident memory in
/// KiB.
pub fn spent(process: &Process) -> (u64, u64) {
    (process.cpu_ticks(), process.resident_kib())
}

/// Fails unless chunks of one byte cost a bounded time each, whatever else this machine is doing,
/// and no memory.
#[track_caller]
pub fn is_cheap(what: &str, process: &Process, before: (u64, u64)) {
    let now = spent(process);
    let (ticks, grown) = (now.0 - before.0, now.1.saturating_sub(before.1));
    say(&format!(
        "{ONE_BYTE_CHUNKS} chunks of one byte in {what}: {ticks} hundredths of CPU seconds, {grown} KiB more resident memory"
    ));
    assert!(
        ticks < 2_000 && grown < 8 * 1024,
        "{what}: {ticks} hundredths of CPU seconds, {grown} KiB"
    );
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
fn what_a_local_server_says_too_much_is_never_the_next_callers_answer() {
    // T16, T18, T19 behind a device: its pool of local connections is a place for desync, too.
    let forged = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";
    let rows = [
        (
            "GET",
            "twice",
            format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{forged}"),
            200,
            "ok",
        ),
        (
            "GET",
            "one byte too many",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!".to_owned(),
            200,
            "ok",
        ),
        ("GET", "a body behind 204", format!("HTTP/1.1 204 No Content\r\n\r\n{forged}"), 204, ""),
        (
            "GET",
            "a body behind 304",
            format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n{forged}"),
            304,
            "",
        ),
        ("HEAD", "a body behind HEAD", forged.to_owned(), 200, ""),
        (
            "GET",
            "a chunked one, and more",
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{forged}"
            ),
            200,
            "ok",
        ),
        ("GET", "nine 1xx", "HTTP/1.1 102 Processing\r\n\r\n".repeat(9) + forged, 502, ""),
        ("GET", "1xx without end", "HTTP/1.1 102 Processing\r\n\r\n".repeat(5_000), 502, ""),
    ];
    let told: Vec<String> = rows.iter().map(|r| r.2.clone()).collect();
    let local = LocalServer::with(move |c| {
        match c.head.target().trim_start_matches('/').parse::<usize>() {
            Ok(row) => c.raw(&told[row]), // and the connection stays open
            Err(_) => c.text("fence"),
        }
    });
    let raw = RawGateway::start();
    let _device = forwarder(&raw, &local, &["--links", "1..1"]);
    let mut link = raw.turn();
    let numbered: Vec<_> = rows.iter().enumerate().collect();
    each_row(
        &numbered,
        |(_, r)| r.1.to_owned(),
        |(row, (method, _, _, status, said))| {
            let answer = link.ask(&format!("{method} /{row} HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert_eq!(answer.status(), *status, "{}", answer.text());
            assert!(*status == 502 || answer.text() == *said, "{}", answer.text());
            for _ in 0..3 {
                link.ask(&get("/fence")).expect_ok("fence"); // the link is a good one
            }
        },
    );
}

// ── T17: cut at every byte ──

const WHOLE: [&str; 3] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n5;x=y\r\n56789\r\n0\r\nX-T: 1\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789",
];

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

#[test]
fn a_local_servers_answer_cut_at_any_byte_is_an_abort_for_its_gateway() {
    let local = LocalServer::with(|c| {
        let mut numbers =
            c.head.target().trim_start_matches('/').split('/').map(|n| n.parse::<usize>().unwrap());
        let (which, k) = (numbers.next().unwrap(), numbers.next().unwrap());
        c.raw(&WHOLE[which][..k]);
        c.close = true;
    });
    let raw = RawGateway::start();
    let _device = forwarder(&raw, &local, &["--links", "2..8"]);
    let cuts: Vec<(usize, usize)> = WHOLE
        .iter()
        .enumerate()
        .flat_map(|(which, whole)| (0..whole.len()).map(move |k| (which, k)))
        .collect();
    let mut link = None;
    each_row(
        &cuts,
        |(which, k)| format!("{:?}", &WHOLE[*which][..*k]),
        |(which, k)| {
            let mut at = link.take().unwrap_or_else(|| raw.turn());
            at.write(format!("POST /{which}/{k} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"));
            match at.read_answer_or_cut("POST") {
                Ok(answer) => {
                    answer.expect_refusal(502);
                    link = Some(at); // nothing was begun: the link goes on
                }
                Err(cut) => {
                    assert!(cut.head.is_some() && b"0123456789".starts_with(&cut.body), "{cut:?}")
                }
            }
        },
    );
}

// ── Face l: what a hostile gateway may not say ──

#[track_caller]
fn forwarder(raw: &RawGateway, local: &LocalServer, more: &[&str]) -> Process {
    Ptth::start(
        &[&["device", &raw.url("lamp"), "--to", &local.url(), "--backoff", "5ms..20ms"], more]
            .concat(),
    )
}

/// A device with a handler in this process, at a gateway played by the test.
fn handler(
    raw: &RawGateway,
    handle: impl Fn(Request<Body>) -> Response<Body> + Send + Sync + 'static,
) -> DeviceHandle {
    let backoff = Duration::from_millis(5)..Duration::from_millis(20);
    Device::builder(raw.url("lamp"))
        .links(2..=8)
        .backoff(backoff)
        .build()
        .unwrap()
        .spawn(handle)
        .unwrap()
}

#[test]
fn what_gateways_may_not_say_is_refused_and_nobody_is_asked() {
    let with = |lines: &str| format!("POST /x HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes();
    let mut rows: Vec<(String, Vec<u8>, &[u16])> = Vec::new();
    for (name, line) in WRONG_LINES {
        rows.push((format!("T10 {name}"), with(line), &[400]));
    }
    for value in WRONG_CODINGS {
        rows.push((
            format!("T2 {value:?}"),
            [with(&format!("Transfer-Encoding: {value}\r\n")), b"0\r\n\r\n".to_vec()].concat(),
            &[400, 501],
        ));
    }
    for value in WRONG_LENGTHS {
        rows.push((format!("T3 {value:?}"), with(&format!("Content-Length: {value}\r\n")), &[400]));
    }
    for (version, statuses) in VERSIONS {
        rows.push((
            format!("T13 {version}"),
            format!("GET /x {version}\r\nHost: a\r\n\r\n").into(),
            statuses,
        ));
    }
    for (name, bytes, statuses) in [
        (
            "T1 both",
            "POST /x HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            &[400][..],
        ),
        (
            "T2 on HTTP/1.0",
            "POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            &[400],
        ),
        (
            "T3 two lengths",
            "POST /x HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n",
            &[400],
        ),
        ("T10 NUL in the method", "GE\0T /x HTTP/1.1\r\n\r\n", &[400]),
        ("T10 LF in the method", "GE\nT /x HTTP/1.1\r\n\r\n", &[400]),
        ("T10 NUL in the target", "GET /\0x HTTP/1.1\r\n\r\n", &[400]),
        ("T10 CR in the target", "GET /\rx HTTP/1.1\r\n\r\n", &[400]),
        ("T10 LF in the target", "GET /\nx HTTP/1.1\r\n\r\n", &[400]),
        ("T10 a tab in the target", "GET /\tx HTTP/1.1\r\n\r\n", &[400]),
        ("T10 lone LFs", "GET /x HTTP/1.1\nHost: a\n\n", &[400]),
        ("T10 space before the first field", "GET /x HTTP/1.1\r\n Host: a\r\n\r\n", &[400]),
        ("T13 two empty lines", "\r\n\r\nGET /x HTTP/1.1\r\n\r\n", &[400]),
        ("T11 two Hosts", "GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", &[400]),
        ("a fragment", "GET /x#y HTTP/1.1\r\n\r\n", &[400]),
    ] {
        rows.push((name.into(), bytes.into(), statuses));
    }
    let asked = Arc::new(AtomicUsize::new(0));
    for kind in ["a handler", "a local server"] {
        let raw = RawGateway::start();
        let local = LocalServer::with(|c| c.text("fence"));
        let counted = asked.clone();
        let _device: (Option<DeviceHandle>, Option<Process>) = match kind {
            "a handler" => {
                let handle = handler(&raw, move |_| {
                    counted.fetch_add(1, SeqCst);
                    Response::new(Body::from("fence"))
                });
                (Some(handle), None)
            }
            _ => (None, Some(forwarder(&raw, &local, &["--links", "2..8"]))),
        };
        each_row(
            &rows,
            |r| format!("{kind}: {}", r.0),
            |(_, bytes, statuses)| {
                let before = (asked.load(SeqCst), local.count());
                let mut link = raw.turn();
                link.write([bytes.as_slice(), get("/smuggled").as_bytes()].concat());
                let answer = link.read_answer("POST");
                answer.expect_refusal_among(statuses);
                assert!(answer.head.closes(), "{}", answer.head.text());
                link.expect_end();
                assert_eq!((asked.load(SeqCst), local.count()), before, "it was asked");
            },
        );
        // Other protocols: closed, with a status or without one.
        each_row(
            FOREIGN,
            |r| format!("{kind}: T13 {}", r.0),
            |(_, bytes)| {
                let before = (asked.load(SeqCst), local.count());
                let mut link = raw.turn();
                link.write(bytes);
                if let Some(head) = link.try_read_head() {
                    assert!(matches!(head.status(), 400 | 501 | 505), "{}", head.text());
                }
                link.expect_no_more();
                assert_eq!((asked.load(SeqCst), local.count()), before, "it was asked");
            },
        );
        raw.turn().ask(&get("/")).expect_ok("fence");
    }
    assert_eq!(asked.load(SeqCst), 1);
}

#[test]
fn a_foreign_protocol_on_a_link_is_one_line_of_the_log() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let device = forwarder(&raw, &local, &["--links", "1..1"]);
    for (_, bytes) in FOREIGN {
        let mut link = raw.turn();
        link.write(bytes);
        link.expect_no_more();
    }
    drop(raw.offer()); // by now every line about the links before is written
    let said = device.stderr();
    assert_eq!(said.matches("disconnected lamp from").count(), FOREIGN.len(), "{said}");
    assert!(said.lines().count() <= 2 * FOREIGN.len() + 2, "{said}"); // and at most one about the next attempt
}

#[test]
fn bytes_of_a_body_that_nobody_reads_are_never_a_request() {
    // T4: the handler looks at nothing, the local server answers before it has read.
    let smuggled = get("/smuggled");
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let (at_handler, at_server) = (RawGateway::start(), RawGateway::start());
    let _handler = handler(&at_handler, move |request| {
        counted.fetch_add(usize::from(request.uri() == "/smuggled"), SeqCst);
        Response::new(Body::from("early"))
    });
    let local = LocalServer::with(|c| {
        assert_ne!(c.head.target(), "/smuggled");
        // Not Conversation::text(), which reads the body first.
        let _ = c
            .peer
            .try_write("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nearly");
        c.close = true;
        let _ = c.peer.read_to_any_end(); // no reset before the answer is read
    });
    let _forwarder = forwarder(&at_server, &local, &["--links", "2..8"]);
    let by_length =
        |n: usize| (format!("Content-Length: {}\r\n", n * smuggled.len()), smuggled.repeat(n));
    let chunked = (
        "Transfer-Encoding: chunked\r\n".to_owned(),
        format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len()),
    );
    for raw in [&at_handler, &at_server] {
        for (framing, body) in [by_length(1), by_length(1_000), by_length(20_000), chunked.clone()]
        {
            let mut link = raw.turn();
            let _ = link.try_write(format!("POST /x HTTP/1.1\r\nHost: a\r\n{framing}\r\n{body}")); // it may not take all of it
            link.read_answer("POST").expect_ok("early");
            if link.try_write(get("/next")).is_ok() {
                if let Ok(answer) = link.read_answer_or_cut("GET") {
                    answer.expect_ok("early");
                }
            }
            link.finish_writing();
            link.expect_no_more();
        }
    }
    assert_eq!(asked.load(SeqCst), 0, "a body became a request");
    assert!(local.requests().iter().all(|r| r.target() != "/smuggled"), "a body became a request");
}

#[test]
fn trailers_of_a_gateway_arrive_without_those_that_frame_or_route() {
    let raw = RawGateway::start();
    let (keep, kept) = mpsc::channel::<String>();
    let local = LocalServer::with(move |c| {
        assert_eq!(c.peer.read_exact(7), b"2\r\nab\r\n");
        let mut rest = Vec::new();
        while !rest.ends_with(b"\r\n\r\n") {
            rest.extend(c.peer.read_exact(1));
        }
        let _ = keep.send(String::from_utf8_lossy(&rest).to_lowercase()); // the test may be over
        let _ =
            c.peer.try_write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        c.close = true;
        let _ = c.peer.read_to_any_end();
    });
    let _device = forwarder(&raw, &local, &["--links", "1..1"]);
    let mut link = raw.turn();
    link.write("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nContent-Length: 7\r\nTransfer-Encoding: gzip\r\nHost: evil\r\nAuthorization: x\r\nX-Check: 1\r\n\r\n");
    link.read_answer("POST").expect_ok("ok");
    let rest = kept.recv_timeout(DEADLINE).unwrap();
    assert_eq!(rest, "0\r\nx-check: 1\r\n\r\n");
}

#[test]
fn a_gateway_that_has_gone_holds_neither_a_link_nor_the_local_server() {
    let raw = RawGateway::start();
    let (tell, told) = mpsc::channel::<bool>();
    let local = LocalServer::with(move |c| {
        if c.head.target() != "/hang" {
            return c.text("done");
        }
        c.peer.deadline = Duration::from_secs(30);
        c.peer.read_to_any_end(); // no answer: what comes is the end that the device makes
        let _ = tell.send(true); // the test may be over
        c.close = true;
    });
    let _device = forwarder(&raw, &local, &["--links", "1..1"]);
    let mut link = raw.turn();
    link.write(get("/hang"));
    eventually("the local server has the request", || (local.count() == 1).then_some(()));
    drop(link); // as a gateway does whose visitor has gone, or whose deadline has passed
    told.recv_timeout(DEADLINE).expect("the local server is let go");
    let mut link = raw.turn(); // the one link that there may be
    // One that ends its own direction alone, and stays for its answer, gets it.
    link.write(get("/x"));
    link.finish_writing();
    link.read_answer("GET").expect_ok("done");
}

#[test]
fn idle_links_cost_a_device_little() {
    // T30, the device's end: what a link keeps while nobody asks.
    let count = affordable(1_000);
    let start = |links: usize| {
        let raw = RawGateway::start();
        let device = Ptth::start(&[
            "device",
            &raw.url("lamp"),
            "--text",
            "x",
            "--links",
            &format!("{links}..{links}"),
        ]);
        let held: Vec<RawPeer> = (0..links).map(|_| raw.turn()).collect();
        (device, held)
    };
    let (few, mut held_few) = start(10);
    let (many, mut held) = start(count);
    for link in [&mut held_few[9], &mut held[count - 1]] {
        link.ask(&get("/")).expect_ok("x"); // by now each has its worker, and all its links are turned
    }
    let each = (many.resident_kib().saturating_sub(few.resident_kib()) * 1024) as f64
        / (count - 10) as f64;
    say(&format!("idle links of a device: {count}, {each:.0} bytes of resident memory each"));
    assert!(each < 1536.0, "{each:.0} bytes for each idle link");
}

// ── T20: what a handler says, through both ends ──

/// A body that ends, or fails, before what it promised.
struct Short(&'static [u8], bool);

impl Read for Short {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() && self.1 {
            return Err(io::Error::other("the disk is gone"));
        }
        self.0.read(buf)
    }
}

/// What a visitor has to see of a handler's response.
enum Seen {
    /// Status and body, and an end of its own.
    Whole(u16, &'static str),
    /// No clean end.
    Aborted,
}

type Answering =
    (&'static str, &'static str, u16, &'static [(&'static str, &'static str)], fn() -> Body, Seen);

#[test]
fn what_a_handler_says_of_framing_never_reaches_a_visitor() {
    use Seen::{Aborted, Whole};
    let four: fn() -> Body = || Body::from("four");
    let streamed: fn() -> Body = || Body::from_reader(&b"four"[..]);
    let rows: &[Answering] = &[
        ("a longer length", "GET", 200, &[("content-length", "99")], four, Whole(200, "four")),
        ("a shorter length", "GET", 200, &[("content-length", "2")], four, Whole(200, "four")),
        (
            "a length that is none",
            "GET",
            200,
            &[("content-length", "+4")],
            four,
            Whole(200, "four"),
        ),
        (
            "two lengths",
            "GET",
            200,
            &[("content-length", "4"), ("content-length", "5")],
            four,
            Whole(200, "four"),
        ),
        ("a coding", "GET", 200, &[("transfer-encoding", "chunked")], four, Whole(200, "four")),
        (
            "an unknown coding",
            "GET",
            200,
            &[("transfer-encoding", "gzip")],
            four,
            Whole(200, "four"),
        ),
        (
            "both",
            "GET",
            200,
            &[("transfer-encoding", "chunked"), ("content-length", "4")],
            four,
            Whole(200, "four"),
        ),
        (
            "a length for a stream",
            "GET",
            200,
            &[("content-length", "2")],
            streamed,
            Whole(200, "four"),
        ),
        (
            "a coding for a stream",
            "GET",
            200,
            &[("transfer-encoding", "identity")],
            streamed,
            Whole(200, "four"),
        ),
        (
            "fields of the hop",
            "GET",
            200,
            &[
                ("connection", "upgrade, content-length"),
                ("upgrade", "h2c"),
                ("te", "x"),
                ("keep-alive", "x"),
            ],
            four,
            Whole(200, "four"),
        ),
        ("a length in a HEAD", "HEAD", 200, &[("content-length", "+7")], four, Whole(200, "")),
        ("a body on HEAD", "HEAD", 200, &[], streamed, Whole(200, "")),
        ("a body on 204", "GET", 204, &[("content-length", "4")], four, Whole(204, "")),
        (
            "a stream on 204",
            "GET",
            204,
            &[("transfer-encoding", "chunked")],
            streamed,
            Whole(204, ""),
        ),
        ("a body on 205", "GET", 205, &[], four, Whole(205, "")),
        ("a body on 304", "GET", 304, &[("content-length", "4")], four, Whole(304, "")),
        ("an interim status", "GET", 102, &[], four, Whole(500, "")),
        (
            "a switch that nobody asked for",
            "GET",
            101,
            &[("upgrade", "websocket"), ("connection", "upgrade")],
            four,
            Whole(500, ""),
        ),
        (
            "fewer bytes than promised",
            "GET",
            200,
            &[],
            || Body::from_reader_with_length(Short(b"four", false), 10),
            Aborted,
        ),
        (
            "more bytes than promised",
            "GET",
            200,
            &[],
            || Body::from_reader_with_length(&b"four and more"[..], 4),
            Whole(200, "four"),
        ),
        (
            "a reader that fails",
            "GET",
            200,
            &[],
            || Body::from_reader(Short(b"four", true)),
            Aborted,
        ),
        ("trailers that frame", "GET", 200, &[], framing_trailers, Whole(200, "four")),
    ];
    let gateway = LibGateway::builder().listen("127.0.0.1:0").start().unwrap();
    let visitors = gateway.relay("127.0.0.1:0", Routes::path()).unwrap();
    let said: Vec<_> =
        rows.iter().map(|(_, _, status, fields, body, _)| (*status, *fields, *body)).collect();
    let device = Device::builder(format!("http://{}/lamp", gateway.devices_addr()))
        .links(1..=4)
        .build()
        .unwrap();
    let device = device.spawn(move |request| {
        match request.uri().path().trim_start_matches('/').parse::<usize>() {
            Err(_) => Response::new(Body::from("fence")),
            Ok(row) => {
                let (status, fields, body) = said[row];
                let mut response = Response::new(body());
                *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
                for (name, value) in fields {
                    response
                        .headers_mut()
                        .append(HeaderName::from_static(name), HeaderValue::from_static(value));
                }
                response
            }
        }
    });
    let device = device.unwrap();
    gateway.device("lamp").wait(DEADLINE).unwrap();
    let numbered: Vec<(usize, &Answering)> = rows.iter().enumerate().collect();
    each_row(
        &numbered,
        |(_, row)| row.0.to_owned(),
        |(number, (_, method, _, _, _, seen))| {
            let mut visitor = RawPeer::connect(visitors);
            visitor.write(format!("{method} /lamp/{number} HTTP/1.1\r\nHost: a\r\n\r\n"));
            match (seen, visitor.read_answer_or_cut(method)) {
                (Whole(500, _), Ok(answer)) => answer.expect_refusal(500),
                (Whole(status, body), Ok(answer)) => {
                    assert_eq!(
                        (answer.status(), answer.text().as_str()),
                        (*status, *body),
                        "{}",
                        answer.head.text()
                    );
                    for name in ["upgrade", "te", "keep-alive"] {
                        assert_eq!(answer.head.get(name), None, "{}", answer.head.text());
                    }
                    assert!(
                        answer.trailers.iter().all(|(name, _)| name == "X-Check"),
                        "{:?}",
                        answer.trailers
                    );
                    visitor.ask(&get("/lamp/fence")).expect_ok("fence"); // nothing is left over
                }
                (Aborted, Err(_)) => {}
                (_, Ok(answer)) => panic!("{}{}", answer.head.text(), answer.text()),
                (_, Err(cut)) => panic!("{cut:?}"),
            }
            RawPeer::connect(visitors).ask(&get("/lamp/fence")).expect_ok("fence");
        },
    );
    device.stop();
}

fn framing_trailers() -> Body {
    let mut trailers = HeaderMap::new();
    for (name, value) in
        [("content-length", "7"), ("transfer-encoding", "gzip"), ("host", "evil"), ("x-check", "1")]
    {
        trailers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    Body::from("four").with_trailers(trailers)
}

// ── T31: handlers that sleep, panic, never return ──

#[test]
fn handlers_that_sleep_panic_or_never_return_cost_themselves_alone() {
    let mut limits = Limits::default();
    limits.first_byte_timeout = Duration::from_secs(2);
    limits.wait_for_link = Duration::from_secs(9);
    let gateway = LibGateway::builder().listen("127.0.0.1:0").limits(limits).start().unwrap();
    let visitors = gateway.relay("127.0.0.1:0", Routes::path()).unwrap();
    let released = Arc::new(AtomicBool::new(false));
    let (release, gate) = crossbeam_channel::bounded::<()>(0);
    let back = released.clone();
    let device = Device::builder(format!("http://{}/lamp", gateway.devices_addr()))
        .links(1..=3)
        .backoff(Duration::from_millis(5)..Duration::from_millis(20))
        .build()
        .unwrap()
        .spawn(move |request| match request.uri().path() {
            "/never" => {
                let _ = gate.recv(); // until the test lets it go
                back.store(true, SeqCst);
                Response::new(Body::from("late"))
            }
            "/panic" => panic!("on purpose"),
            "/sleep" => {
                std::thread::sleep(Duration::from_millis(50)); // what is tested: a handler that takes its time
                Response::new(Body::from("slept"))
            }
            _ => Response::new(Body::from("fine")),
        })
        .unwrap();
    gateway.device("lamp").wait(DEADLINE).unwrap();
    let ask = |path: &str| RawPeer::connect(visitors).ask(&get(&format!("/lamp{path}")));
    // Two of three links go to handlers that never return, one after the other; each caller is told
    // in time, and the rest goes on.
    for _ in 0..2 {
        ask("/never").expect_refusal(504);
        ask("/").expect_ok("fine");
        ask("/panic").expect_refusal(500);
    }
    std::thread::scope(|scope| {
        let sleeping: Vec<_> = (0..2).map(|_| scope.spawn(|| ask("/sleep"))).collect();
        sleeping.into_iter().for_each(|s| s.join().unwrap().expect_ok("slept"));
    });
    ask("/").expect_ok("fine");
    assert!(!released.load(SeqCst) && gateway.is_running());
    drop(release);
    eventually("the pool has its threads and links back", || {
        (device.stats().busy == 0 && ask("/").status() == 200).then_some(())
    });
    for _ in 0..3 {
        ask("/sleep").expect_ok("slept");
    }
    assert!(released.load(SeqCst));
    device.stop();
}

#[test]
fn a_program_beyond_the_bound_of_a_devices_line_is_told_at_once() {
    // T29 for callers that are program code: one is being served, two wait, the next hears that the
    // line is full.
    let mut limits = Limits::default();
    limits.waiting_per_device_max = 2;
    limits.wait_for_link = Duration::from_secs(30);
    let gateway = LibGateway::builder().listen("127.0.0.1:0").limits(limits).start().unwrap();
    let raw = RawPeer::connect(gateway.devices_addr());
    let mut link = raw;
    link.write(crate::support::process::offer("lamp", ""));
    link.read_exact(crate::support::SWITCH.len());
    let send = || gateway.device("lamp").send(Request::get("/x").body(Body::empty()).unwrap());
    std::thread::scope(|scope| {
        let (done, ends) = mpsc::channel();
        let callers: Vec<_> = (0..4)
            .map(|_| {
                let done = done.clone();
                scope.spawn(move || {
                    let sent = send();
                    let full = sent.as_ref().is_err_and(reverse_http::Error::is_full);
                    done.send(full).unwrap();
                    sent.map(|response| response.status().as_u16())
                })
            })
            .collect();
        assert_eq!(
            ends.recv_timeout(DEADLINE),
            Ok(true),
            "the fourth of them is told, whichever that is"
        );
        for _ in 0..3 {
            assert_eq!(link.read_head().target(), "/x");
            link.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
        let statuses: Vec<_> = callers.into_iter().map(|c| c.join().unwrap()).collect();
        assert_eq!(statuses.iter().filter(|s| matches!(s, Ok(200))).count(), 3, "{statuses:?}");
    });
}

/// The same answer on every connection: what arrives has to be it, whatever came before on the
/// link.
#[test]
fn a_link_survives_everything_that_is_right() {
    let raw = RawGateway::start();
    let local = LocalServer::start();
    let _device = forwarder(&raw, &local, &["--links", "1..1"]);
    let mut link = raw.turn();
    for (request, body) in [
        (
            "POST /hash HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            Hash::of(b"hello"),
        ),
        (
            "POST /hash HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n0005;a=\"b\"\r\nhello\r\n000\r\n\r\n",
            Hash::of(b"hello"),
        ),
        ("GET /x?a=%00&b=\\ HTTP/1.1\r\n\r\n", "hello\n".to_owned()),
    ] {
        link.write(request);
        link.read_answer("POST").expect_ok(body);
    }
}
