//! Face l: what a hostile gateway or local server may not say.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use http::Response;
use reverse_http::{Body, DeviceHandle};

use super::{WHOLE, forwarder, handler};
use crate::engine::scale::affordable;
use crate::gateway::visitors::WRONG_LINES;
use crate::gateway::wire::{FOREIGN, VERSIONS, WRONG_CODINGS, WRONG_LENGTHS};
use crate::support::process::{Process, get};
use crate::support::{DEADLINE, LocalServer, Ptth, RawGateway, RawPeer, each_row, eventually, say};

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

/// What gateways may not say: its name, the request, and the statuses of which one is right.
fn wrong_requests() -> Vec<(String, Vec<u8>, &'static [u16])> {
    let with = |lines: &str| format!("POST /x HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes();
    let mut rows: Vec<(String, Vec<u8>, &'static [u16])> = Vec::new();
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
    rows
}

#[test]
fn what_gateways_may_not_say_is_refused_and_nobody_is_asked() {
    let rows = wrong_requests();
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
