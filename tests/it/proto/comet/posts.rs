//! What a POST asks for, and what a device makes of its reply.

use reverse_http::proto::body::of_request;
use reverse_http::proto::comet::id_of;
use reverse_http::proto::dialect::Dialect;
use reverse_http::proto::turn::{
    Brought, Decision, Encoding, MESSAGE_ID, OfferPlan, OfferRules, decide, write_offer, write_post,
};
use reverse_http::proto::verdict::{Verdict, check};

use super::super::{answered, asked, framed, get, sample, show, status};

// ── What a POST asks for, and what it brings ──

#[test]
fn accept_names_the_encoding_and_without_it_that_is_json() {
    let accepted = |lines: &str| Encoding::accepted(&asked(&get(lines)).fields);
    for (lines, encoding) in [
        ("", Encoding::Json),
        ("Accept:\r\n", Encoding::Json),
        ("Accept: application/json\r\n", Encoding::Json),
        ("Accept: message/http\r\n", Encoding::Message),
        ("Accept: Message/HTTP\r\n", Encoding::Message),
        ("aCCept: message/http;q=0.5;x=y\r\n", Encoding::Message),
        // The first of the two counts, not the larger q.
        ("Accept: message/http, application/json\r\n", Encoding::Message),
        ("Accept: application/json, message/http\r\n", Encoding::Json),
        ("Accept: message/http;q=0.1, application/json;q=1\r\n", Encoding::Message),
        ("Accept: text/html, message/http, */*\r\n", Encoding::Message),
        (
            "Accept: text/html\r\nAccept: message/http\r\nAccept: application/json\r\n",
            Encoding::Message,
        ),
        // With a q of 0 it is refused.
        ("Accept: message/http;q=0, application/json\r\n", Encoding::Json),
        ("Accept: message/http; Q=0.000, application/json\r\n", Encoding::Json),
        ("Accept: application/json;q=0, message/http\r\n", Encoding::Message),
        ("Accept: application/json;q=0.0, message/http;q=0.001\r\n", Encoding::Message),
        ("Accept: message/http;q=0\r\n", Encoding::Json),
        ("Accept: application/json;x=0;q=0, message/http\r\n", Encoding::Message),
        // Neither is named.
        ("Accept: */*\r\n", Encoding::Json),
        ("Accept: message/*\r\n", Encoding::Json),
        ("Accept: text/plain\r\n", Encoding::Json),
        ("Accept: text/plain;q=1,*/*;q=0\r\n", Encoding::Json),
        ("Accept: message/httpx, xmessage/http, message /http\r\n", Encoding::Json),
        ("Accept: x/y;a=\"message/http, message/http\"\r\n", Encoding::Json),
    ] {
        assert_eq!(accepted(lines), encoding, "{lines}");
    }
    for name in ["comet-1-poll", "comet-3-answer"] {
        assert_eq!(Encoding::accepted(&asked(sample(name)).fields), Encoding::Json, "{name}");
    }
}

#[test]
fn content_type_names_the_encoding_of_what_is_there() {
    for (content_type, encoding) in [
        ("application/json", Some(Encoding::Json)),
        ("APPLICATION/Json;charset=utf-8", Some(Encoding::Json)),
        ("application/json \t; x", Some(Encoding::Json)),
        (" application/json", Some(Encoding::Json)),
        ("message/http", Some(Encoding::Message)),
        ("Message/HTTP; version=1.1; msgtype=response", Some(Encoding::Message)),
        ("text/plain", Some(Encoding::Message)),
        ("text/plain; charset=us-ascii", Some(Encoding::Message)),
        ("", None),
        (";", None),
        ("application/jsonx", None),
        ("xapplication/json", None),
        ("application/json, text/plain", None),
        ("application/problem+json", None),
        ("text/json", None),
        ("text/html", None),
        ("message/rfc822", None),
        ("application/http", None),
        ("application/x-www-form-urlencoded", None),
        ("multipart/form-data", None),
        ("application / json", None),
        ("*/*", None),
    ] {
        assert_eq!(Encoding::of_type(content_type.as_bytes()), encoding, "{content_type:?}");
    }
    assert_eq!(Encoding::of_type(b"application/json\xA0"), None);
    for encoding in [Encoding::Json, Encoding::Message] {
        assert_eq!(Encoding::of_type(encoding.media_type().as_bytes()), Some(encoding));
    }
    assert_eq!(
        (Encoding::Json.to_string(), Encoding::Message.to_string()),
        ("COMET json".to_owned(), "COMET message/http".to_owned())
    );
}

fn plan(change: impl FnOnce(&mut OfferPlan)) -> OfferPlan {
    let mut plan = OfferPlan::new("gw.example:9999", "/lamp", Dialect::classic());
    change(&mut plan);
    plan
}

fn posted(plan: &OfferPlan, brought: Option<&Brought<'_>>) -> String {
    let mut out = Vec::new();
    write_post(&mut out, plan, brought).unwrap();
    String::from_utf8(out).unwrap()
}

const BROUGHT: Brought<'static> =
    Brought { encoding: Encoding::Json, id: "xxx", length: Some(193) };

#[test]
fn a_post_is_written_as_protocol_md_says() {
    let start = "POST /lamp HTTP/1.1\r\nHost: gw.example:9999\r\n";
    let turn = "Upgrade: PTTH/1.0\r\nConnection: Upgrade\r\n";
    let offer = plan(|_| ());
    let poll = plan(|plan| plan.upgrade = false);
    assert_eq!(posted(&poll, None), format!("{start}Content-Length: 0\r\n\r\n"));
    assert_eq!(posted(&offer, None), format!("{start}{turn}Content-Length: 0\r\n\r\n"));
    let mut out = Vec::new();
    write_offer(&mut out, &offer).unwrap();
    assert_eq!(
        show(&out),
        show(posted(&offer, None).as_bytes()),
        "an offer is a POST that brings nothing"
    );

    let json = "Content-Type: application/json\r\nPTTH-Message-ID: xxx\r\nContent-Length: 193\r\n";
    assert_eq!(posted(&poll, Some(&BROUGHT)), format!("{start}{json}\r\n"));
    assert_eq!(posted(&offer, Some(&BROUGHT)), format!("{start}{turn}{json}\r\n"));
    let streamed = Brought { encoding: Encoding::Message, id: "xxx", length: None };
    let chunked =
        "Content-Type: message/http\r\nPTTH-Message-ID: xxx\r\nTransfer-Encoding: chunked\r\n";
    assert_eq!(posted(&poll, Some(&streamed)), format!("{start}{chunked}\r\n"));

    let full = plan(|plan| {
        plan.upgrade = false;
        plan.accept = Some("message/http, application/json".into());
        plan.session = Some([0xA5; 16]);
        plan.fields = vec![("Authorization".to_owned(), "Bearer s3cret".to_owned())];
    });
    let accept = "Accept: message/http, application/json\r\nAccept-Encoding: identity\r\n";
    let rest = format!(
        "{accept}PTTH-Session: a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5\r\nAuthorization: Bearer s3cret\r\n"
    );
    assert_eq!(posted(&full, None), format!("{start}Content-Length: 0\r\n{rest}\r\n"));
    assert_eq!(posted(&full, Some(&streamed)), format!("{start}{chunked}{rest}\r\n"));
}

#[test]
fn what_is_posted_is_read_as_it_was_meant() {
    let streamed = Brought { encoding: Encoding::Message, id: "yyy", length: None };
    for upgrade in [false, true] {
        for brought in [None, Some(&BROUGHT), Some(&streamed)] {
            let plan = plan(|plan| {
                plan.upgrade = upgrade;
                plan.accept = Some("application/json".into());
                plan.session = Some([7; 16]);
            });
            let bytes = posted(&plan, brought);
            let head = framed(&bytes);
            let offer = match decide(&head, &OfferRules::default()) {
                Ok(Decision::Turn(offer)) if upgrade => offer,
                Ok(Decision::Poll(offer)) if !upgrade => offer,
                other => panic!("{bytes}: {other:?}"),
            };
            assert_eq!((offer.is_poll(), offer.session), (!upgrade, Some([7; 16])), "{bytes}");
            assert_eq!(id_of(&head.fields), Ok(brought.map(|brought| brought.id)));
            assert_eq!(Encoding::accepted(&head.fields), Encoding::Json);
            let content_type =
                head.fields.get("content-type").map(|value| Encoding::of_type(value).unwrap());
            assert_eq!(content_type, brought.map(|brought| brought.encoding));
            of_request(&head).unwrap();
        }
    }
}

#[test]
fn a_poll_of_an_ietf_plan_is_a_post_without_alpn() {
    let ietf = OfferPlan::new("gw", "/.well-known/ptth/https%3A%2F%2Fa.example/", Dialect::ietf());
    let mut poll = ietf.clone();
    poll.upgrade = false;
    let bytes = posted(&poll, Some(&BROUGHT));
    assert!(
        bytes.starts_with("POST /.well-known/ptth/")
            && !bytes.contains("ALPN")
            && !bytes.contains("Upgrade"),
        "{bytes}"
    );
    // The offer itself is a GET, and can bring nothing.
    assert!(posted(&ietf, None).starts_with("GET "));
    let mut out = b"kept".to_vec();
    assert_eq!(status(write_post(&mut out, &ietf, Some(&BROUGHT))), Err(400));
    assert_eq!(out, b"kept");
}

#[test]
fn a_post_that_would_split_or_say_a_thing_twice_is_not_written() {
    let with_field = |name: &str, value: &str| {
        plan(|plan| {
            plan.accept = Some("application/json".into());
            plan.fields = vec![(name.to_owned(), value.to_owned())];
        })
    };
    for plan in [
        plan(|plan| plan.accept = Some("a\r\nX: y".into())),
        plan(|plan| plan.accept = Some("a\0".into())),
        plan(|plan| plan.target = "/ HTTP/1.1\r\n\r\n".to_owned()),
        plan(|plan| plan.authority = "a\nb".to_owned()),
        with_field("PTTH-Message-ID", "x"),
        with_field("ptth-message-id", "x"),
        with_field("Content-Type", "x"),
        with_field("Content-Length", "5"),
        with_field("Transfer-Encoding", "chunked"),
        with_field("Accept", "x"),
        with_field("ALPN", "x"),
        with_field("PTTH-Session", "x"),
        with_field("Connection", "x"),
        with_field("X", "a\r\nb"),
        with_field("X:", "a"),
    ] {
        for upgrade in [true, false] {
            let mut plan = plan.clone();
            plan.upgrade = upgrade;
            for brought in [None, Some(&BROUGHT)] {
                let mut out = b"kept".to_vec();
                assert!(write_post(&mut out, &plan, brought).is_err(), "{plan:?}");
                assert_eq!(out, b"kept");
            }
        }
    }
    for id in ["a\r\nX: y", "a\0b", "a\x7F"] {
        let mut out = b"kept".to_vec();
        assert!(
            write_post(&mut out, &plan(|_| ()), Some(&Brought { id, ..BROUGHT })).is_err(),
            "{id:?}"
        );
        assert_eq!(out, b"kept");
    }
    // Where it takes no fallback and says nothing of it, a program's own Accept is its own.
    assert!(
        posted(&plan(|plan| plan.fields = vec![("Accept".to_owned(), "x/y".to_owned())]), None)
            .contains("Accept: x/y\r\n")
    );
}

// ── What a device makes of the reply ──

#[test]
fn a_reply_of_the_fallback_is_told_from_any_web_servers() {
    let verdict = |bytes: &str| check(&answered(bytes), "PTTH/1.0");
    let id = "PTTH-Message-ID: xxx\r\n";
    for (status, lines, encoding) in [
        (
            200,
            "Content-Type: application/json\r\nContent-Length: 2\r\n".to_owned(),
            Some(Encoding::Json),
        ),
        (200, "content-type: APPLICATION/JSON;charset=utf-8\r\n".to_owned(), Some(Encoding::Json)),
        (
            200,
            "Content-Type: application/json\r\nContent-Length: 0\r\n".to_owned(),
            Some(Encoding::Json),
        ),
        (
            200,
            format!("Content-Type: message/http\r\n{id}Content-Length: 9\r\n"),
            Some(Encoding::Message),
        ),
        (
            200,
            "Content-Type: message/http\r\nTransfer-Encoding: chunked\r\n".to_owned(),
            Some(Encoding::Message),
        ),
        (
            200,
            format!("Content-Type: text/plain\r\n{id}Content-Length: 9\r\n"),
            Some(Encoding::Message),
        ),
        (200, "Content-Length: 0\r\n".to_owned(), None),
        (200, "Content-Type: text/html\r\nContent-Length: 0\r\n".to_owned(), None),
        (204, "Content-Type: message/http\r\n".to_owned(), Some(Encoding::Message)),
        (204, "Content-Type: application/json\r\n".to_owned(), Some(Encoding::Json)),
        (204, format!("Content-Type: text/plain\r\n{id}"), Some(Encoding::Message)),
    ] {
        let bytes = format!("HTTP/1.1 {status} OK\r\n{lines}\r\n");
        assert_eq!(verdict(&bytes), Verdict::FellBack(encoding), "{bytes}");
    }
}

#[test]
fn any_other_servers_reply_is_none_of_the_fallback() {
    let verdict = |bytes: &str| check(&answered(bytes), "PTTH/1.0");
    for (bytes, expected) in [
        ("HTTP/1.1 204 \r\n\r\n", Verdict::Nothing),
        ("HTTP/1.1 204 \r\nContent-Type: text/plain\r\n\r\n", Verdict::Nothing),
        ("HTTP/1.1 200 OK\r\n\r\n", Verdict::NoTurn(200)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Verdict::NoTurn(200)),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\n",
            Verdict::NoTurn(200),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nPTTH-Message-ID: xxx\r\nContent-Length: 5\r\n\r\n",
            Verdict::NoTurn(200),
        ),
        (
            "HTTP/1.1 201 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n",
            Verdict::NoTurn(201),
        ),
        ("HTTP/1.1 202 OK\r\nContent-Length: 0\r\n\r\n", Verdict::NoTurn(202)),
        ("HTTP/1.1 413 No\r\nContent-Type: application/json\r\n\r\n", Verdict::NoTurn(413)),
        ("HTTP/1.1 415 No\r\nContent-Length: 0\r\n\r\n", Verdict::NoTurn(415)),
        (
            "HTTP/1.1 502 No\r\nContent-Type: application/json\r\n\r\n",
            Verdict::Later { status: 502, retry_after: None },
        ),
        ("HTTP/1.1 504 No\r\n\r\n", Verdict::Later { status: 504, retry_after: None }),
        (
            "HTTP/1.1 426 No\r\nUpgrade: PTTH/1.0\r\n\r\n",
            Verdict::Later { status: 426, retry_after: None },
        ),
        ("HTTP/1.1 403 No\r\nContent-Type: application/json\r\n\r\n", Verdict::Refused(403)),
    ] {
        assert_eq!(verdict(bytes), expected, "{bytes}");
    }
    for name in ["comet-2-event", "comet-4-nothing"] {
        assert_eq!(
            check(&answered(sample(name)), "PTTH/0.9"),
            Verdict::FellBack(Some(Encoding::Json)),
            "{name}"
        );
    }
    assert_eq!(MESSAGE_ID, "PTTH-Message-ID");
}
