//! Polls, answers, and what is neither.

use super::Kind::{Json, Text};
use super::{BOTH, Device, answer_json, answer_text, asks, fence, in_hand, latin1, ok, poll, post};
use crate::gateway::wire::{WRONG_CODINGS, WRONG_LENGTHS};
use crate::support::process::get;
use crate::support::{Gateway, each_row};

// ── Polls, answers, and what is neither ──

#[test]
fn a_poll_has_no_body_or_one_that_says_nothing() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let head = |lines: &str| format!("POST /NAME HTTP/1.1\r\nHost: gw\r\nFIELDS\r\n{lines}\r\n");
    let json = "Content-Type: application/json\r\n";
    let rows: Vec<(&str, String)> = vec![
        ("neither length nor type", head("")),
        ("a length of 0", head("Content-Length: 0\r\n")),
        ("a length of 0 and a type", head(&format!("{json}Content-Length: 0\r\n"))),
        ("no bytes of message/http", head("Content-Type: message/http\r\nContent-Length: 0\r\n")),
        (
            "no bytes of something else",
            head("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 0\r\n"),
        ),
        ("no bytes in chunks", head("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n"),
        ("{}", head(&format!("{json}Content-Length: 2\r\n")) + "{}"),
        ("{} with white space", head(&format!("{json}Content-Length: 6\r\n")) + " { }\r\n"),
        (
            "{} in chunks",
            head(&format!("{json}Transfer-Encoding: chunked\r\n"))
                + "1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        ),
        (
            "{} of a type with a parameter",
            head("Content-Type: Application/JSON;charset=UTF-8\r\nContent-Length: 2\r\n") + "{}",
        ),
        ("null", head(&format!("{json}Content-Length: 4\r\n")) + "null"),
    ];
    let numbers: Vec<usize> = (0..rows.len()).collect();
    each_row(
        &numbers,
        |i| rows[*i].0.to_owned(),
        |i| {
            let name = format!("d{i}");
            let mut device = Device::known(&gateway, &name, Json);
            let mut visitor = asks(&gateway, get(&format!("/{name}/x")));
            fence(&gateway);
            device
                .peer
                .write(rows[*i].1.replace("NAME", &name).replace("FIELDS\r\n", &device.fields));
            let event = device.event();
            assert_eq!(event.target, "/x");
            device.answer(&event, &ok("x"));
            visitor.read_answer("GET").expect_ok("x");
        },
    );
}

/// Its name, the POST, and the statuses of which one is right.
type Neither = (String, Vec<u8>, &'static [u16]);

fn raw(lines: &str, body: &str) -> Vec<u8> {
    format!("POST /NAME HTTP/1.1\r\nHost: gw\r\n{lines}FIELDS\r\n\r\n{body}").into_bytes()
}

fn wrong_types() -> Vec<Neither> {
    let mut rows: Vec<Neither> = [
        ("a page's form", "application/x-www-form-urlencoded", "a=b"),
        ("multipart", "multipart/form-data; boundary=x", "--x--"),
        ("HTML", "text/html", "<p>"),
        ("JSON of another type", "application/problem+json", "{}"),
        ("bytes", "application/octet-stream", "{}"),
        ("a request", "message/http", "GET / HTTP/1.1\r\n\r\n"),
        ("text without an id", "text/plain", "hello"),
        ("an empty type", "", "{}"),
        ("two types in one", "application/json, text/plain", "{}"),
        ("no JSON", "application/json", "hello"),
        ("white space", "application/json", " "),
        ("an array", "application/json", "[]"),
        ("a number", "application/json", "0"),
        ("an answer without an id", "application/json", "{\"status\": 200}"),
        ("two messages", "application/json", "{}{}"),
    ]
    .map(|(name, content_type, body)| {
        (name.to_owned(), post("NAME", "FIELDS\r\n", content_type, body), &[400, 415][..])
    })
    .into();
    rows.push((
        "a body without a type".to_owned(),
        raw("Content-Length: 2\r\n", "hi"),
        &[400, 415],
    ));
    let two =
        "Content-Type: application/json\r\nContent-Type: message/http\r\nContent-Length: 2\r\n";
    rows.push(("two types".to_owned(), raw(two, "{}"), &[400, 415]));
    rows.push((
        "an encoded body".to_owned(),
        raw(
            "Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n",
            "\x1f\u{b}",
        ),
        &[400, 415],
    ));
    rows
}

fn wrong_framing() -> Vec<Neither> {
    let mut rows: Vec<Neither> = Vec::new();
    // T1 to T3 on a POST of the fallback.
    let json = "Content-Type: application/json\r\n";
    rows.push((
        "T1".to_owned(),
        raw(
            &format!("{json}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n"),
            "2\r\n{}\r\n0\r\n\r\n",
        ),
        &[400],
    ));
    rows.push((
        "T1 the other way".to_owned(),
        raw(
            &format!("{json}Transfer-Encoding: chunked\r\nContent-Length: 2\r\n"),
            "2\r\n{}\r\n0\r\n\r\n",
        ),
        &[400],
    ));
    rows.push((
        "T3 two lengths".to_owned(),
        raw(&format!("{json}Content-Length: 2\r\nContent-Length: 3\r\n"), "{}"),
        &[400],
    ));
    for value in WRONG_LENGTHS {
        rows.push((
            format!("T3 {value:?}"),
            raw(&format!("{json}Content-Length: {value}\r\n"), "{}"),
            &[400],
        ));
    }
    for value in WRONG_CODINGS {
        rows.push((
            format!("T2 {value:?}"),
            raw(&format!("{json}Transfer-Encoding: {value}\r\n"), "2\r\n{}\r\n0\r\n\r\n"),
            &[400, 501],
        ));
    }
    // T5
    for (name, chunks) in [
        ("0x", "0x2\r\n{}\r\n0\r\n\r\n"),
        ("a plus", "+2\r\n{}\r\n0\r\n\r\n"),
        ("white space", " 2\r\n{}\r\n0\r\n\r\n"),
        ("no CRLF behind the data", "2\r\n{}X\r\n0\r\n\r\n"),
        ("17 digits", "00000000000000002\r\n{}\r\n0\r\n\r\n"),
        ("a bare CR", "2\r{}\r\n0\r\n\r\n"),
        ("an LF in an extension", "2;a\nb\r\n{}\r\n0\r\n\r\n"),
    ] {
        rows.push((
            format!("T5 {name}"),
            raw(&format!("{json}Transfer-Encoding: chunked\r\n"), chunks),
            &[400],
        ));
    }
    rows
}

#[test]
fn what_is_neither_poll_nor_answer_is_refused_and_costs_no_event() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let rows = [wrong_types(), wrong_framing()].concat();
    let numbers: Vec<usize> = (0..rows.len()).collect();
    each_row(
        &numbers,
        |i| rows[*i].0.clone(),
        |i| {
            let (_, bytes, statuses) = &rows[*i];
            let name = format!("d{i}");
            let mut device = Device::known(&gateway, &name, Json);
            let mut visitor = asks(&gateway, get(&format!("/{name}/x")));
            fence(&gateway);
            let text = latin1(bytes).replace("NAME", &name).replace("FIELDS\r\n", &device.fields);
            let bytes: Vec<u8> =
                text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
            let mut other = device.again();
            let _ = other.peer.try_write(bytes); // it may be closed before all is written
            other.refused(statuses);
            device.poll();
            let event = device.event();
            assert_eq!(event.target, "/x");
            device.answer(&event, &ok("not lost"));
            visitor.read_answer("GET").expect_ok("not lost");
        },
    );
}

#[test]
fn bytes_behind_a_poll_are_refused() {
    // T6. In the same segment, and while it is held.
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let mut device = Device::polling(&gateway, "lamp", Json);
    for late in
        ["X", "{}", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", &poll("lamp", &device.fields)]
    {
        let mut other = device.again();
        other.peer.write(poll("lamp", &device.fields) + late);
        other.refused(&[400]);
        other.peer.expect_closed();
        let mut other = device.again();
        other.poll();
        other.quiet();
        other.peer.write(late);
        other.refused(&[400]);
        other.peer.expect_closed();
    }
    device.serves(&gateway, "behind-them");
}

#[test]
fn a_post_that_expects_a_100_gets_it() {
    let gateway = Gateway::start(&[]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        let (mut visitor, event) = in_hand(&gateway, &mut device);
        let body = match kind {
            Json => answer_json(&event, &ok("x")),
            Text => answer_text(&ok("x"), false),
        };
        let fields =
            format!("{}PTTH-Message-ID: {}\r\nExpect: 100-continue\r\n", device.fields, event.id);
        let whole = post("lamp", &fields, kind.media_type(), &body);
        let (head, body) = whole.split_at(whole.len() - body.len());
        device.peer.write(head);
        assert_eq!(device.peer.read_head().start, "HTTP/1.1 100 Continue");
        device.peer.write(body);
        visitor.read_answer("GET").expect_ok("x");
        device.serves(&gateway, "it-is-a-poll");
    }
}
