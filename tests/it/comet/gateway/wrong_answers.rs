//! Answers that are wrong, cut or for another event, and ids.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::Kind::{Json, Text};
use super::{
    BOTH, Device, Event, MOMENT, answer_json, answer_text, asks, chunk, fence, in_hand, ok, post,
    streamed,
};
use crate::gateway::wire::{WRONG_CODINGS, WRONG_LENGTHS};
use crate::support::process::get;
use crate::support::raw::find;
use crate::support::{Gateway, RawPeer, each_row};

/// After an answer that was refused: its visitor saw a message cut, or nothing of it, and a right
/// answer reaches them. `device` polls after it.
#[track_caller]
fn cut_or_answerable(gateway: &Gateway, device: &mut Device, visitor: &mut RawPeer, event: &Event) {
    fence(gateway);
    if visitor.stirs_within(MOMENT) {
        match visitor.read_answer_or_cut("GET") {
            Ok(answer) => {
                panic!("the visitor got a whole message: {}{}", answer.head.text(), answer.text())
            }
            Err(cut) => {
                assert!(cut.head.is_some(), "the visitor's connection was closed without an answer")
            }
        }
        device.poll();
    } else {
        device.answer(event, &ok("right"));
        visitor.read_answer("GET").expect_ok("right");
    }
}

#[test]
fn an_inner_message_that_disagrees_with_its_post_is_refused() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let rows = [
        ("shorter than its length", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello"),
        ("much shorter", "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nhello"),
        ("only a head", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"),
        ("longer than its length", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhello"),
        ("a body behind 204", "HTTP/1.1 204 No Content\r\n\r\nhello"),
        ("a body behind 304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello"),
        (
            "without its last chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        ),
        (
            "within its last chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        ),
        (
            "a malformed chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n+0\r\n\r\n",
        ),
        (
            "a chunk of 17 digits",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n00000000000000000\r\n\r\n",
        ),
    ];
    each_row(
        &rows,
        |(name, _)| (*name).to_owned(),
        |(name, text)| {
            let mut device = Device::polling(
                &gateway,
                &name.to_lowercase().replace(' ', "-").replace("17", "x"),
                Text,
            );
            // As one POST with its length, and as a stream.
            for streams in [false, true] {
                let (mut visitor, event) = in_hand(&gateway, &mut device);
                let mut other = device.again();
                if streams {
                    other.peer.write(
                        [
                            streamed(&device, &event).into_bytes(),
                            chunk(text),
                            b"0\r\n\r\n".to_vec(),
                        ]
                        .concat(),
                    );
                } else {
                    other.post("message/http", &format!("PTTH-Message-ID: {}\r\n", event.id), text);
                }
                other.refused(&[400]);
                // In a stream what is whole may have gone on before more of it came.
                let may_be_whole =
                    streams && (name.starts_with("longer") || name.starts_with("a body"));
                if may_be_whole && visitor.stirs_within(MOMENT) {
                    let _ = visitor.read_answer_or_cut("GET");
                    device.poll();
                } else {
                    cut_or_answerable(&gateway, &mut device, &mut visitor, &event);
                }
            }
            device.serves(&gateway, "behind-it");
        },
    );
}

#[test]
fn an_answer_with_a_wrong_head_is_refused_and_a_right_one_still_taken() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let ok_head = |lines: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
    let mut rows: Vec<(String, Vec<u8>)> = [
        ("until close", ok_head("")),
        ("until close, with a body", ok_head("Connection: close\r\n") + "hello"),
        ("until close in HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nhello".to_owned()),
        (
            "101",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
                .to_owned(),
        ),
        (
            "T18 nine interim ones",
            "HTTP/1.1 102 Processing\r\n\r\n".repeat(9) + &ok_head("Content-Length: 0\r\n"),
        ),
        ("nothing but an interim one", "HTTP/1.1 100 Continue\r\n\r\n".to_owned()),
        ("T1", ok_head("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n") + "hello"),
        (
            "T1 the other way",
            ok_head("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n") + "hello",
        ),
        ("T3 two lengths", ok_head("Content-Length: 5\r\nContent-Length: 6\r\n") + "hello"),
        ("T10 NUL", ok_head("X: a\0b\r\nContent-Length: 0\r\n")),
        ("T10 CR", ok_head("X: a\rb\r\nContent-Length: 0\r\n")),
        ("space before the colon", ok_head("X : a\r\nContent-Length: 0\r\n")),
        ("obs-fold", ok_head("X: a\r\n b\r\nContent-Length: 0\r\n")),
        ("a status below 100", "HTTP/1.1 099 No\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("a status of four digits", "HTTP/1.1 2000 No\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("HTTP/2", "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("a request", "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        ("half a head", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n".to_owned()),
        ("words", "hello gateway".to_owned()),
        ("JSON", "{\"status\": 200}".to_owned()),
        (
            "a head of 21 KiB",
            ok_head(&format!("X: {}\r\nContent-Length: 0\r\n", "y".repeat(21_000))),
        ),
        ("118 fields", ok_head(&("X: y\r\n".repeat(117) + "Content-Length: 0\r\n"))),
        ("116 fields and a length", ok_head(&("X: y\r\n".repeat(116) + "Content-Length: 0\r\n"))),
    ]
    .map(|(name, text)| (name.to_owned(), text.into_bytes()))
    .into();
    for value in WRONG_LENGTHS {
        rows.push((
            format!("T3 {value:?}"),
            ok_head(&format!("Content-Length: {value}\r\n")).into_bytes(),
        ));
    }
    for value in WRONG_CODINGS {
        rows.push((
            format!("T2 {value:?}"),
            (ok_head(&format!("Transfer-Encoding: {value}\r\n")) + "0\r\n\r\n").into_bytes(),
        ));
    }
    let names: Vec<usize> = (0..rows.len()).collect();
    each_row(
        &names,
        |i| rows[*i].0.clone(),
        |i| {
            let mut device = Device::polling(&gateway, &format!("d{i}"), Text);
            let (mut visitor, event) = in_hand(&gateway, &mut device);
            let mut other = device.again();
            other.post("message/http", &format!("PTTH-Message-ID: {}\r\n", event.id), &rows[*i].1);
            other.refused(&[400]);
            visitor.expect_quiet(Duration::from_millis(20));
            device.answer(&event, &ok("right"));
            visitor.read_answer("GET").expect_ok("right");
        },
    );
}

/// An answer in JSON, with `ID` for the event's id.
type Wrong = (&'static str, Vec<u8>);

fn members(rest: &str) -> String {
    format!("{{\"message-id\": \"ID\", {rest}}}")
}

fn wrong_texts() -> Vec<Wrong> {
    vec![
        ("truncated", b"{\"message-id\": \"ID\", \"status\": 200".to_vec()),
        ("truncated within a string", b"{\"message-id\": \"ID\", \"body\": \"hel".to_vec()),
        ("only an opening", b"{".to_vec()),
        (
            "trailing bytes",
            members("\"status\": 200").into_bytes().into_iter().chain(*b"{}").collect(),
        ),
        ("an array", b"[{\"message-id\": \"ID\"}]".to_vec()),
        ("a string", b"\"ID\"".to_vec()),
        ("Python's quotes", b"{'message-id': 'ID', 'status': 200}".to_vec()),
        ("no id", b"{\"status\": 200, \"body\": \"x\"}".to_vec()),
        ("an empty id", b"{\"message-id\": \"\", \"status\": 200}".to_vec()),
        ("an id that is a number", b"{\"message-id\": 1, \"status\": 200}".to_vec()),
        (
            "a byte order mark",
            [b"\xEF\xBB\xBF".as_slice(), members("\"status\": 200").as_bytes()].concat(),
        ),
        ("duplicate members", members("\"status\": 200, \"status\": 200").into_bytes()),
        ("duplicate ids", members("\"message-id\": \"ID\"").into_bytes()),
        ("duplicate unknown members", members("\"x\": 1, \"x\": 1").into_bytes()),
        (
            "too many members",
            members(&(0..70).map(|i| format!("\"m{i}\": 1")).collect::<Vec<_>>().join(", "))
                .into_bytes(),
        ),
    ]
}

fn wrong_members() -> Vec<Wrong> {
    vec![
        ("status 99", members("\"status\": 99").into_bytes()),
        ("status 100", members("\"status\": 100").into_bytes()),
        ("status 101", members("\"status\": 101").into_bytes()),
        ("status 1000", members("\"status\": 1000").into_bytes()),
        ("status 200.0", members("\"status\": 200.0").into_bytes()),
        ("status of another type", members("\"status\": [200]").into_bytes()),
        ("headers of another type", members("\"headers\": {\"A\": \"b\"}").into_bytes()),
        ("a header of three", members("\"headers\": [[\"A\", \"b\", \"c\"]]").into_bytes()),
        ("a body of another type", members("\"body\": [1]").into_bytes()),
        (
            "CRLF in a value",
            members("\"headers\": [[\"X\", \"a\\r\\nSet-Cookie: evil=1\"]]").into_bytes(),
        ),
        ("LF in a name", members("\"headers\": [[\"X\\nY\", \"a\"]]").into_bytes()),
        ("NUL in a value", members("\"headers\": [[\"X\", \"a\\u0000\"]]").into_bytes()),
        ("CRLF in the reason", members("\"reason\": \"OK\\r\\nSet-Cookie: evil=1\"").into_bytes()),
        ("CRLF in a trailer", members("\"trailers\": [[\"X\", \"a\\r\\nb\"]]").into_bytes()),
        (
            "a character that no header has",
            members("\"headers\": [[\"X\", \"\\u20ac\"]]").into_bytes(),
        ),
        ("a lone surrogate", members("\"body\": \"\\ud800\"").into_bytes()),
        (
            "bytes that are no UTF-8",
            [b"{\"message-id\": \"ID\", \"body\": \"".as_slice(), b"\xFF\"}"].concat(),
        ),
    ]
}

fn wrong_bodies_and_sizes() -> Vec<Wrong> {
    let deep = format!("{{\"message-id\": \"ID\", \"unknown\": {}", "[".repeat(100_000));
    vec![
        ("bad base64", members("\"body\": \"A\", \"body-encoding\": \"base64\"").into_bytes()),
        (
            "another body-encoding",
            members("\"body\": \"QQ==\", \"body-encoding\": \"hex\"").into_bytes(),
        ),
        (
            "117 headers",
            members(&format!("\"headers\": {}", json!(vec![["X", "y"]; 117]))).into_bytes(),
        ),
        (
            "116 headers and a length",
            members(&format!("\"body\": \"x\", \"headers\": {}", json!(vec![["X", "y"]; 116])))
                .into_bytes(),
        ),
        (
            "headers of 21 KiB",
            members(&format!("\"headers\": {}", json!([["X", "y".repeat(21_000)]]))).into_bytes(),
        ),
        (
            "117 trailers",
            members(&format!("\"trailers\": {}", json!(vec![["X", "y"]; 117]))).into_bytes(),
        ),
        ("deep nesting", deep.into_bytes()),
        ("another message's field", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec()),
    ]
}

#[test]
fn an_answer_in_json_that_is_wrong_is_refused_and_a_right_one_still_taken() {
    // T14, T10.
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let rows = [wrong_texts(), wrong_members(), wrong_bodies_and_sizes()].concat();
    let mut good = Device::polling(&gateway, "good", Json);
    let names: Vec<usize> = (0..rows.len()).collect();
    each_row(
        &names,
        |i| rows[*i].0.to_owned(),
        |i| {
            let mut device = Device::polling(&gateway, &format!("d{i}"), Json);
            let (mut visitor, event) = in_hand(&gateway, &mut device);
            let bytes = &rows[*i].1;
            let bytes = match find(bytes, b"ID") {
                Some(at) => [&bytes[..at], event.id.as_bytes(), &bytes[at + 2..]].concat(),
                None => bytes.clone(),
            };
            let mut other = device.again();
            other.post("application/json", "", bytes);
            other.refused(&[400]);
            visitor.expect_quiet(Duration::from_millis(20));
            device.answer(&event, &ok("right"));
            visitor.read_answer("GET").expect_ok("right");
        },
    );
    good.serves(&gateway, "untouched");
}

#[test]
fn a_post_that_is_cut_short_answers_nothing() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        let (mut visitor, event) = in_hand(&gateway, &mut device);
        let body = match kind {
            Json => answer_json(&event, &ok("0123456789")),
            Text => answer_text(&ok("0123456789"), false),
        };
        let id = format!("PTTH-Message-ID: {}\r\n", event.id);
        let whole = post("lamp", &format!("{}{id}", device.fields), kind.media_type(), &body);
        let head = whole.len() - body.len();
        for cut in [10, head - 1, head, head + 1, head + 12] {
            let mut other = device.again();
            other.peer.write(&whole[..cut]);
            other.peer.finish_writing();
            if let Some(head) = other.peer.try_read_head() {
                assert_eq!(head.status(), 400, "{}", head.text());
            }
        }
        visitor.expect_quiet(Duration::from_millis(20));
        device.answer(&event, &ok("whole"));
        visitor.read_answer("GET").expect_ok("whole");
    }
}

// ── Ids ──

#[test]
fn ids_may_stand_in_the_field_and_have_to_agree() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let mut device = Device::polling(&gateway, "lamp", Json);
    let field = |id: &str| format!("PTTH-Message-ID: {id}\r\n");
    for in_json in [false, true] {
        let (mut visitor, event) = in_hand(&gateway, &mut device);
        let mut members = json!({"status": 200, "body": "x"});
        if in_json {
            members["message-id"] = json!(event.id);
        }
        device.post("application/json", &field(&event.id), members.to_string());
        visitor.read_answer("GET").expect_ok("x");
    }
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    let whole = answer_json(&event, &ok("wrong"));
    let bare = json!({"status": 200, "body": "wrong"}).to_string().into_bytes();
    let other_id = "0".repeat(32);
    for (fields, body) in [
        (field(&other_id), &whole),
        (field(&event.id.to_uppercase()), &whole),
        (field(&event.id) + &field(&event.id), &whole),
        (field(""), &whole),
        (field("a b"), &whole),
        (field(&"x".repeat(257)), &bare),
        (String::new(), &bare),
        (field(&event.id), &b"{}".to_vec()),
        (field(&event.id), &b"null".to_vec()),
    ] {
        let mut other = device.again();
        other.post("application/json", &fields, body);
        other.refused(&[400]);
    }
    // In message/http it stands nowhere else.
    let mut other = device.again();
    other.post("message/http", "", answer_text(&ok("wrong"), false));
    other.refused(&[400]);
    device.answer(&event, &ok("right"));
    visitor.read_answer("GET").expect_ok("right");
}

#[test]
fn ids_are_unique() {
    let gateway = Gateway::start(&["--poll-hold", "60s"]);
    let mut device = Device::polling(&gateway, "lamp", Json);
    let mut visitor = gateway.visitor();
    let mut ids = BTreeSet::new();
    for _ in 0..200 {
        visitor.write(get("/lamp/x"));
        let event = device.event();
        assert!(ids.insert(event.id.clone()), "{} came twice", event.id);
        device.answer(&event, &ok("x"));
        visitor.read_answer("GET").expect_ok("x");
    }
    // They are no numbers in a row: some digit changes its place between any two.
    let first: BTreeSet<&str> = ids.iter().map(|id| &id[..4]).collect();
    assert!(first.len() > 100, "ids that begin alike can be guessed: {first:?}");
}

const FORGED: usize = 8;

/// Ids that name no event of the mailbox whose event has `id`.
fn forged(id: &str, foreign: &str) -> Vec<(&'static str, String)> {
    let last = if id.ends_with('0') { "1" } else { "0" };
    let ids = vec![
        ("another mailbox's", foreign.to_owned()),
        ("the seed's", "xxx".to_owned()),
        ("as long as may be", "x".repeat(256)),
        ("zeros", "0".repeat(32)),
        ("in upper case, and more", id.to_uppercase() + "A"),
        ("with a digit more", format!("{id}0")),
        ("with a digit less", id[..31].to_owned()),
        ("with another last digit", format!("{}{last}", &id[..31])),
    ];
    assert_eq!(ids.len(), FORGED);
    ids
}

#[test]
fn an_answer_to_no_event_of_this_mailbox_is_dropped_and_polls() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    for kind in BOTH {
        let mut desk = Device::polling(&gateway, "desk", kind);
        let (mut desks_visitor, desks_event) = in_hand(&gateway, &mut desk);
        for number in 0..FORGED {
            let mut device = Device::polling(&gateway, &format!("d{number}"), kind);
            let (mut visitor, event) = in_hand(&gateway, &mut device);
            let (what, id) = forged(&event.id, &desks_event.id).swap_remove(number);
            let mut other = device.again();
            other.answer(&Event { id, ..event.clone() }, &ok("forged"));
            // It polls: the next event is its own.
            let mut second = asks(&gateway, get(&format!("/d{number}/next")));
            let next = other.event();
            assert_eq!(next.target, "/next", "{what}");
            other.answer(&next, &ok("next"));
            second.read_answer("GET").expect_ok("next");
            visitor.expect_quiet(Duration::from_millis(20));
            device.answer(&event, &ok("right"));
            visitor.read_answer("GET").expect_ok("right");
        }
        desks_visitor.expect_quiet(Duration::from_millis(20));
        desk.answer(&desks_event, &ok("desk's"));
        desks_visitor.read_answer("GET").expect_ok("desk's");
    }
}

#[test]
fn the_second_answer_to_an_event_is_dropped_and_polls() {
    let gateway = Gateway::start(&[]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        let (mut visitor, event) = in_hand(&gateway, &mut device);
        device.answer(&event, &ok("first"));
        visitor.read_answer("GET").expect_ok("first");
        // The answer's reply is lost: it is posted again, elsewhere.
        let mut again = device.again();
        drop(device);
        fence(&gateway);
        again.answer(&event, &ok("second"));
        again.quiet();
        visitor.write(get("/lamp/next"));
        let next = again.event();
        assert_eq!(next.target, "/next");
        again.answer(&event, &ok("third")); // and once more, before the next one is answered
        again.quiet();
        visitor.expect_quiet(Duration::from_millis(20));
        let mut other = again.again();
        other.answer(&next, &ok("right"));
        visitor.read_answer("GET").expect_ok("right");
    }
}
