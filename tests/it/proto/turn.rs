//! The handshake: every row of protocol.md §1.2 to §1.4 that bytes alone decide, and threats T8,
//! T9, T22, T23.

use std::time::Duration;

use reverse_http::proto::dialect::{Dialect, Naming};
use reverse_http::proto::head::{LineEnds, request};
use reverse_http::proto::turn::{
    Decision, Encoding, Name, Offer, OfferPlan, OfferRules, decide, ietf_target, is_marked,
    write_offer, write_switch,
};
use reverse_http::proto::verdict::{Verdict, check};

use super::{answered, asked, framed, limits, sample, show, status};

fn rules() -> OfferRules {
    OfferRules::default()
}

fn label(text: &str) -> Name {
    Name::Label(text.to_owned())
}

fn decided(bytes: &str, rules: &OfferRules) -> Result<Decision, u16> {
    status(decide(&framed(bytes), rules))
}

#[track_caller]
fn offered(bytes: &[u8], rules: &OfferRules) -> Offer {
    match decide(&framed(bytes), rules) {
        Ok(Decision::Turn(offer)) => *offer,
        other => panic!("{}: {other:?}", show(bytes)),
    }
}

/// The name that a poll registers; `None`: it is no poll.
fn polled(decision: Result<Decision, u16>) -> Option<Name> {
    match decision {
        Ok(Decision::Poll(poll)) if poll.is_poll() && poll.names.len() == 1 => {
            poll.names.into_iter().next()
        }
        _ => None,
    }
}

#[test]
fn the_samples_are_decided_as_their_authors_meant() {
    let ietf = Name::origin("https://backend.example.com").unwrap();
    for (sample_name, name, token, row) in [
        ("draft-1-offer", label("message-queue"), "PTTH/1.0", 0),
        ("seed-1-offer", label("default"), "PTTH/0.9", 1),
        ("ietf-1-offer", ietf, "ptth", 2),
    ] {
        let offer = offered(sample(sample_name), &rules());
        assert_eq!(
            (offer.names, offer.token.as_str(), offer.dialect),
            (vec![name], token, row),
            "{sample_name}"
        );
        assert_eq!((offer.session, offer.expects_continue), (None, false));
        assert_eq!(offer.fields.0.len(), asked(sample(sample_name)).fields.len());
    }
    assert_eq!(offered(sample("draft-1-offer"), &rules()).target, "/message-queue?id=iamsam");
    assert_eq!(status(decide(&framed(sample("ietf-x-offer-without-http11")), &rules())), Err(400));
    assert_eq!(
        polled(status(decide(&framed(sample("comet-1-poll")), &rules()))),
        Some(label("default"))
    );
    assert_eq!(
        polled(status(decide(&framed(sample("comet-3-answer")), &rules()))),
        Some(label("default"))
    );

    let mut apple = rules();
    assert_eq!(status(decide(&framed(sample("airplay-1-offer")), &apple)), Err(400), "no Host");
    apple.missing_host = true;
    assert_eq!(offered(sample("airplay-1-offer"), &apple).names, [label("reverse")]);

    let mut strict = rules();
    strict.strict_connection = true;
    assert_eq!(
        status(decide(&framed(sample("seed-1-offer")), &strict)),
        Err(400),
        "the seed omits Connection"
    );
    assert_eq!(offered(sample("draft-1-offer"), &strict).names, [label("message-queue")]);
}

/// What decides, besides the fields that a right offer has.
fn offer(method: &str, path: &str, version: &str, lines: &str) -> String {
    format!("{method} {path} HTTP/{version}\r\nHost: gw.example:9999\r\n{lines}\r\n")
}

const TURN: &str = "Upgrade: PTTH/1.0\r\nConnection: Upgrade\r\n";

#[test]
fn which_upgrades_count() {
    let poll = || Some(label("lamp"));
    let turns = |lines: &str| match decided(&offer("POST", "/lamp", "1.1", lines), &rules()) {
        Ok(Decision::Turn(offer)) => Ok(Some(offer.token)),
        Ok(Decision::Poll(_)) => Ok(None),
        Err(status) => Err(status),
    };
    for (upgrade, token) in [
        ("PTTH/1.0", Some("PTTH/1.0")),
        ("ptth/1.0", Some("ptth/1.0")),
        ("pTTh/0.9", Some("pTTh/0.9")),
        ("PTTH/0.9, PTTH/1.0", Some("PTTH/0.9")),
        ("h2c, websocket, PTTH/1.0", Some("PTTH/1.0")),
        ("PTTH/1.1", None),
        ("PTTH/1.00", None),
        ("PTTH/", None),
        ("PTTH/2.0", None),
        ("XPTTH/1.0", None),
        ("PTTH/1.0 x", None),
        ("DPTTH/1.0", None),
        ("websocket", None),
        ("h2c", None),
        ("", None),
    ] {
        assert_eq!(
            turns(&format!("Upgrade: {upgrade}\r\nConnection: upgrade\r\n")),
            Ok(token.map(str::to_owned)),
            "{upgrade}"
        );
    }
    assert_eq!(
        turns("Upgrade: x/1\r\nUpgrade: PTTH/1.0\r\nConnection: a\r\nConnection: b, UPGRADE\r\n"),
        Ok(Some("PTTH/1.0".to_owned()))
    );
    for token in ["ptth", "PTTH"] {
        let lines = format!("Upgrade: {token}\r\nConnection: Upgrade\r\nALPN: http%2F1.1\r\n");
        assert_eq!(
            turns(&lines),
            Err(400),
            "without a version it is the IETF token, whose method is GET"
        );
    }

    // Without an upgrade that counts: POST polls, others go.
    assert_eq!(
        polled(decided(&offer("POST", "/lamp", "1.0", TURN), &rules())),
        poll(),
        "Upgrade in HTTP/1.0 is ignored"
    );
    assert_eq!(polled(decided(&offer("POST", "/lamp", "1.1", ""), &rules())), poll());
    for method in ["GET", "PUT", "HEAD", "OPTIONS", "CONNECT", "post"] {
        assert_eq!(decided(&offer(method, "/lamp", "1.1", ""), &rules()), Err(405), "{method}");
        assert_eq!(decided(&offer(method, "/lamp", "1.0", TURN), &rules()), Err(405), "{method}");
        assert_eq!(
            decided(
                &offer(method, "/lamp", "1.1", "Upgrade: h2c\r\nConnection: Upgrade\r\n"),
                &rules()
            ),
            Err(405),
            "{method}"
        );
        // A classic offer may have any method.
        assert!(
            matches!(
                decided(&offer(method, "/lamp", "1.1", TURN), &rules()),
                Ok(Decision::Turn(_))
            ),
            "{method}"
        );
    }
    let mut none = rules();
    none.dialects.clear();
    assert_eq!(polled(decided(&offer("POST", "/lamp", "1.1", TURN), &none)), poll());
}

#[test]
fn connection_lists_upgrade_unless_it_is_the_seeds_form() {
    let mut strict = rules();
    strict.strict_connection = true;
    for (lines, default, when_strict) in [
        ("Connection: Upgrade\r\n", true, true),
        ("Connection: keep-alive, uPGRADE\r\n", true, true),
        ("Connection: keep-alive\r\nConnection: upgrade\r\nVia: 1.1 x\r\n", true, true),
        ("", true, false),
        ("Connection: keep-alive\r\n", true, false),
        ("Connection: upgraded\r\n", true, false),
        ("Via: 1.1 proxy\r\n", false, false),
        ("Forwarded: for=1.2.3.4\r\n", false, false),
        ("X-Forwarded-For: 1.2.3.4\r\n", false, false),
        ("Connection: close\r\nVia:\r\n", false, false),
    ] {
        for (rules, right) in [(rules(), default), (strict.clone(), when_strict)] {
            let bytes = offer("POST", "/", "1.1", &format!("Upgrade: PTTH/1.0\r\n{lines}"));
            let decided = decided(&bytes, &rules);
            let is = match (right, rules.strict_connection) {
                (true, _) => matches!(decided, Ok(Decision::Turn(_))),
                (false, true) => decided == Err(400),
                (false, false) => matches!(decided, Ok(Decision::Poll(_))), // the field was meant for another hop
            };
            assert!(is, "{bytes} {decided:?}");
        }
    }
}

#[test]
fn hosts_of_offers_and_polls() {
    let mut lax = rules();
    lax.missing_host = true;
    for (hosts, default, when_lax) in [
        ("Host: gw\r\n", true, true),
        ("Host: gw.example:9999\r\n", true, true),
        ("Host: [::1]:80\r\n", true, true),
        ("", false, true),
        ("Host:\r\n", false, true),
        ("Host: a\r\nHost: a\r\n", false, false),
        ("Host: a, b\r\n", false, false),
        ("Host: user@gw\r\n", false, false),
        ("Host: gw:x\r\n", false, false),
        ("Host: gw/\r\n", false, false),
        ("Host: [gw, b\r\n", false, false),
    ] {
        for (rules, right) in [(rules(), default), (lax.clone(), when_lax)] {
            for lines in [TURN, ""] {
                let decided =
                    decided(&format!("POST /lamp HTTP/1.1\r\n{hosts}{lines}\r\n"), &rules);
                assert_eq!(
                    decided.as_ref().err(),
                    if right { None } else { Some(&400) },
                    "{hosts:?} {lines:?}"
                );
            }
        }
    }
    assert_eq!(
        polled(decided("POST /lamp HTTP/1.0\r\n\r\n", &rules())),
        Some(label("lamp")),
        "HTTP/1.0 pollers have none"
    );
}

#[test]
fn names_are_the_first_segment_of_the_path() {
    let long = "a".repeat(63);
    for (path, name) in [
        ("/", "default"),
        ("/?x=/y", "default"),
        ("/lamp", "lamp"),
        ("/lamp/", "lamp"),
        ("/lamp?a/b", "lamp"),
        ("/lamp/deep/%41?q", "lamp"),
        ("/0-9", "0-9"),
        (&format!("/{long}"), &long),
    ] {
        assert_eq!(
            polled(decided(&offer("POST", path, "1.1", ""), &rules())),
            Some(label(name)),
            "{path}"
        );
        assert_eq!(
            offered(offer("POST", path, "1.1", TURN).as_bytes(), &rules()).names,
            [label(name)],
            "{path}"
        );
    }
    let too_long = format!("/{long}a");
    for path in [
        "/Lamp",
        "/l%61mp",
        "/%00",
        "/..",
        "/.",
        "/../x",
        "//",
        "//lamp",
        "/-lamp",
        "/lamp-",
        "/la_mp",
        "/la.mp",
        "/lamp#x",
        "/lamp/#",
        "/a:b",
        "/a\\b",
        "/.well-known/ptth/x/",
        "*",
        "http://gw.example/lamp",
        "lamp",
        "gw.example:80",
        &too_long,
    ] {
        assert_eq!(decided(&offer("POST", path, "1.1", ""), &rules()), Err(400), "{path}");
        assert_eq!(decided(&offer("POST", path, "1.1", TURN), &rules()), Err(400), "{path}");
    }
}

#[test]
fn labels_and_origins() {
    for text in [
        "",
        "A",
        "ä",
        "a b",
        "a/b",
        "a\0",
        "%61",
        "xn--\u{fc}",
        &"x".repeat(64),
        &"x".repeat(65536),
    ] {
        assert_eq!(status(Name::label(text)), Err(400), "{text:?}");
    }
    assert_eq!(Name::label("xn--bcher-kva"), Ok(label("xn--bcher-kva")));
    for (text, shown) in [
        ("https://backend.example.com", "https://backend.example.com"),
        ("https://backend.example.com:443", "https://backend.example.com"),
        ("http://a:80", "http://a"),
        ("http://a:443", "http://a:443"),
        ("https://a:8443", "https://a:8443"),
        ("https://[::1]:8443", "https://[::1]:8443"),
        ("https://a:", "https://a"), // an empty port is the default port
        ("http://192.0.2.1", "http://192.0.2.1"),
    ] {
        assert_eq!(Name::origin(text).unwrap().to_string(), shown);
    }
    for text in [
        "",
        "null",
        "https://",
        "https:/a",
        "a",
        "ftp://a",
        "HTTPS://a",
        "https://A",
        "https://a/",
        "https://a/b",
        "https://u@a",
        "https://a::",
        "https://a:x",
        "https://a:99999",
        "https://a.",
        "https://a?x",
        "https://a#x",
        "https://[::1",
        "https://[",
        "https://[a/b",
        "https://[x]",
        "https://ä",
        " https://a",
        "https://a https://b",
    ] {
        assert_eq!(status(Name::origin(text)), Err(400), "{text:?}");
    }
    assert_eq!(label("lamp").to_string(), "lamp");
}

#[test]
fn ietf_offers_register_every_origin_of_their_list() {
    let ietf = |target: &str, lines: &str| {
        offer("GET", target, "1.1", &format!("Upgrade: ptth\r\nConnection: upgrade\r\n{lines}"))
    };
    let alpn = "ALPN: http%2F1.1\r\n";
    let names =
        |texts: &[&str]| texts.iter().map(|text| Name::origin(text).unwrap()).collect::<Vec<_>>();
    for (list, origins) in [
        ("https%3A%2F%2Fa.example", &["https://a.example"][..]),
        ("https%3a%2f%2fa.example,http%3A%2F%2Fb%3A8080", &["http://b:8080", "https://a.example"]),
        ("https://a.example", &["https://a.example"]),
        ("https%3A%2F%2Fa,https%3A%2F%2Fa%3A443", &["https://a"]),
    ] {
        let bytes = ietf(&format!("/.well-known/ptth/{list}/"), alpn);
        assert_eq!(offered(bytes.as_bytes(), &rules()).names, names(origins), "{list}");
    }
    for target in [
        "/.well-known/ptth//",
        "/.well-known/ptth/",
        "/.well-known/ptth",
        "/.well-known/ptth/null/",
        "/.well-known/ptth/lamp/",
        "/.well-known/ptth/https%3A%2F%2Fa",
        "/.well-known/ptth/https%3A%2F%2Fa/?x",
        "/.well-known/ptth/https%3A%2F%2Fa,/",
        "/.well-known/ptth/https%3A%2F%2Fa%/",
        "/.well-known/ptth/https%3A%2F%2F%ff/",
        "/.well-known/ptth/https%3A%2F%2Fa%2C/",
        "/lamp",
        "/",
    ] {
        assert_eq!(decided(&ietf(target, alpn), &rules()), Err(400), "{target}");
    }
    let target = ietf_target(&names(&["https://a.example", "http://b:8080"]));
    assert_eq!(target, "/.well-known/ptth/https%3A%2F%2Fa.example,http%3A%2F%2Fb%3A8080/");
    assert_eq!(
        offered(ietf(&target, alpn).as_bytes(), &rules()).names,
        names(&["http://b:8080", "https://a.example"])
    );

    for (alpn, right) in [
        ("ALPN: http%2F1.1\r\n", true),
        ("ALPN: http%2f1.1\r\n", true),
        ("ALPN: http/1.1\r\n", true),
        ("ALPN: h2\r\nALPN: h3qx, http%2F1.1\r\n", true),
        ("", false),
        ("ALPN:\r\n", false),
        ("ALPN: h2, h3qx\r\n", false),
        ("ALPN: HTTP%2F1.1\r\n", false),
        ("ALPN: http%2F1.0\r\n", false),
        ("ALPN: http%2\r\n", false),
    ] {
        assert_eq!(
            decided(&ietf("/.well-known/ptth/https%3A%2F%2Fa/", alpn), &rules()).is_ok(),
            right,
            "{alpn}"
        );
    }
}

#[test]
fn sessions_are_32_hex_digits_or_none() {
    let with =
        |lines: &str| decided(&offer("POST", "/", "1.1", &format!("{TURN}{lines}")), &rules());
    for (value, session) in
        [("00112233445566778899aabbccddeeff", 0xFF), ("00112233445566778899AABBCCDDEE0A", 0x0A)]
    {
        let Ok(Decision::Turn(offer)) = with(&format!("PTTH-Session: {value}\r\n")) else {
            panic!("{value}")
        };
        let bytes = offer.session.unwrap();
        assert_eq!((bytes[0], bytes[1], bytes[15]), (0, 0x11, session));
    }
    for lines in [
        "PTTH-Session:\r\n",
        "PTTH-Session: 00112233445566778899aabbccddeef\r\n",
        "PTTH-Session: 00112233445566778899aabbccddeeff0\r\n",
        "PTTH-Session: 00112233445566778899aabbccddeefg\r\n",
        "PTTH-Session: +0112233445566778899aabbccddeeff\r\n",
        "PTTH-Session: 00112233445566778899aabbccddeeff\r\nPTTH-Session: 00112233445566778899aabbccddeeff\r\n",
    ] {
        assert_eq!(with(lines), Err(400), "{lines}");
    }
    let Ok(Decision::Turn(offer)) = with("Expect: 100-Continue\r\n") else { panic!() };
    assert!(offer.expects_continue && offer.session.is_none());
}

#[test]
fn the_table_is_data() {
    let mut apple = Dialect::custom("Acme-Turn/2").unwrap();
    apple.method = Some("PUT".into());
    apple.answer_fields = vec![
        ("X-Acme".into(), "1".into()),
        ("Content-Length".into(), "5".into()),
        ("X-Bad".into(), "a\r\nb".into()),
    ];
    let mut rules = rules();
    rules.dialects.push(apple.clone());
    let lines = "Upgrade: acme-turn/2\r\nConnection: Upgrade\r\n";
    let offer_ = offered(offer("PUT", "/lamp", "1.1", lines).as_bytes(), &rules);
    assert_eq!((offer_.dialect, offer_.token.as_str()), (3, "acme-turn/2"));
    assert_eq!(decided(&offer("POST", "/lamp", "1.1", lines), &rules), Err(400));
    let mut out = Vec::new();
    write_switch(&mut out, &offer_.token, &rules.dialects[offer_.dialect]);
    assert_eq!(show(&out), show(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: acme-turn/2\r\nConnection: Upgrade\r\nX-Acme: 1\r\n\r\n"));

    for token in [
        "h2c",
        "H2C",
        "HTTP/2.0",
        "http",
        "TLS/1.0",
        "websocket",
        "WebSocket",
        "",
        "/",
        "/1",
        "a/",
        "a b",
        "a/b/c",
        "a,b",
        "a\r\n",
    ] {
        assert_eq!(status(Dialect::custom(token)), Err(400), "{token:?}");
    }
    assert_eq!(Dialect::table(), [Dialect::classic(), Dialect::classic_0_9(), Dialect::ietf()]);
    assert_eq!(Dialect::ietf().naming, Naming::Origins);
}

#[test]
fn the_101_is_the_drafts_to_the_byte() {
    let mut out = Vec::new();
    write_switch(&mut out, "PTTH/1.0", &Dialect::classic());
    assert_eq!((show(&out), out.len()), (show(sample("draft-2-switch")), 76));
    out.clear();
    write_switch(&mut out, "Ptth", &Dialect::ietf());
    assert_eq!(show(&out), show(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: Ptth\r\nConnection: Upgrade\r\nALPN: http%2F1.1\r\n\r\n"));
}

#[test]
fn offers_are_written_as_protocol_md_pictures_them() {
    let mut out = Vec::new();
    write_offer(&mut out, &OfferPlan::new("gw.example:9999", "/lamp", Dialect::classic())).unwrap();
    let pictured = "POST /lamp HTTP/1.1\r\nHost: gw.example:9999\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(show(&out), show(pictured.as_bytes()));

    let mut plan = OfferPlan::new("gw", "/lamp", Dialect::classic_0_9());
    plan.session = Some([0xA5; 16]);
    plan.fields = vec![
        ("Authorization".to_owned(), "Bearer s3cret".to_owned()),
        ("X-Relay".to_owned(), "1".to_owned()),
    ];
    out.clear();
    write_offer(&mut out, &plan).unwrap();
    let expected = "POST /lamp HTTP/1.1\r\nHost: gw\r\nUpgrade: PTTH/0.9\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\
                    PTTH-Session: a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5\r\nAuthorization: Bearer s3cret\r\nX-Relay: 1\r\n\r\n";
    assert_eq!(show(&out), show(expected.as_bytes()));
    let offer = offered(&out, &rules());
    assert_eq!((offer.session, offer.names), (Some([0xA5; 16]), vec![label("lamp")]));

    let origins = [Name::origin("https://backend.example.com").unwrap()];
    out.clear();
    write_offer(&mut out, &OfferPlan::new("gw", ietf_target(&origins), Dialect::ietf())).unwrap();
    let expected = "GET /.well-known/ptth/https%3A%2F%2Fbackend.example.com/ HTTP/1.1\r\nHost: gw\r\nUpgrade: ptth\r\nConnection: Upgrade\r\n\
                    ALPN: http%2F1.1\r\n\r\n";
    assert_eq!(show(&out), show(expected.as_bytes()));
    assert_eq!(offered(&out, &rules()).names, origins);
}

#[test]
fn an_offer_that_would_split_is_not_written() {
    let plan = |change: fn(&mut OfferPlan)| {
        let mut plan = OfferPlan::new("gw", "/lamp", Dialect::classic());
        change(&mut plan);
        plan
    };
    let field = |name: &str, value: &str| {
        let mut plan = OfferPlan::new("gw", "/lamp", Dialect::classic());
        plan.fields.push((name.to_owned(), value.to_owned()));
        plan
    };
    let plans = [
        plan(|p| p.authority = "gw\r\nX: y".to_owned()),
        plan(|p| p.target = "/ HTTP/1.1\r\n\r\n".to_owned()),
        plan(|p| p.target = String::new()),
        plan(|p| p.dialect.token = "a\r\nb".into()),
        plan(|p| p.dialect.method = Some("P T".into())),
        field("A", "b\nc"),
        field("A b", "c"),
        field("Content-Length", "5"),
        field("transfer-encoding", "chunked"),
        field("Upgrade", "x"),
        field("Host", "x"),
        field("PTTH-Session", "x"),
    ];
    for plan in plans {
        let mut out = b"kept".to_vec();
        assert!(write_offer(&mut out, &plan).is_err(), "{plan:?}");
        assert_eq!(out, b"kept");
    }
}

fn verdict(bytes: &str, token: &str) -> Verdict {
    check(&answered(bytes), token)
}

const TURNED: Verdict = Verdict::Turned { warning: None };

#[test]
fn a_right_101_turns() {
    for (name, token) in [
        ("draft-2-switch", "PTTH/1.0"),
        ("draft-2-switch", "ptth/1.0"),
        ("yaler-2-switch", "PTTH/1.0"),
        ("ietf-2-switch", "ptth"),
    ] {
        assert_eq!(check(&answered(sample(name)), token), TURNED, "{name}");
    }
    let warned = |bytes: &str, token| match verdict(bytes, token) {
        Verdict::Turned { warning } => warning,
        other => panic!("{bytes}: {other:?}"),
    };
    assert!(
        matches!(check(&answered(sample("seed-2-switch")), "PTTH/0.9"), Verdict::Turned { warning: Some(w) } if w.contains("Connection"))
    );
    let plain = "HTTP/1.1 101 X\r\nConnection: upgrade\r\n";
    assert!(
        warned(&format!("{plain}Upgrade: PTTH/1.0\r\n\r\n"), "PTTH/0.9")
            .unwrap()
            .contains("version")
    );
    assert!(
        warned(&format!("{plain}Upgrade: ptth\r\n\r\n"), "PTTH/0.9").unwrap().contains("version")
    );
    assert!(warned(&format!("{plain}Upgrade: ptth\r\n\r\n"), "ptth").unwrap().contains("ALPN"));
    for lines in [
        "Content-Length: 5\r\n",
        "Content-Length: x\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
        "Connection: keep-alive\r\n",
        "CSeq: 1\r\n",
    ] {
        assert_eq!(
            warned(&format!("{plain}Upgrade: Ptth/1.0\r\n{lines}\r\n"), "PTTH/1.0"),
            None,
            "{lines}"
        );
    }
}

#[test]
fn a_wrong_101_does_not() {
    for (bytes, token) in [
        ("HTTP/1.1 101 X\r\n\r\n", "PTTH/1.0"),
        ("HTTP/1.1 101 X\r\nConnection: Upgrade\r\n\r\n", "PTTH/1.0"),
        ("HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "PTTH/1.0"),
        ("HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: PTTHX/1.0\r\n\r\n", "PTTH/1.0"),
        ("HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade:\r\n\r\n", "PTTH/1.0"),
        ("HTTP/1.0 101 X\r\nConnection: Upgrade\r\nUpgrade: PTTH/1.0\r\n\r\n", "PTTH/1.0"),
        ("HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: ptth\r\nALPN: h2\r\n\r\n", "ptth"),
        ("HTTP/1.1 301 X\r\nLocation: http://x/\r\n\r\n", "PTTH/1.0"),
        ("HTTP/1.1 302 X\r\nLocation: http://x/\r\n\r\n", "PTTH/1.0"),
        ("HTTP/1.1 303 X\r\nLocation: http://x/\r\n\r\n", "PTTH/1.0"),
        ("HTTP/1.1 300 X\r\n\r\n", "PTTH/1.0"),
        ("HTTP/1.1 304 X\r\n\r\n", "PTTH/1.0"),
        ("HTTP/1.1 307 X\r\n\r\n", "PTTH/1.0"),
        ("HTTP/1.1 307 X\r\nLocation:\r\n\r\n", "PTTH/1.0"),
        ("HTTP/1.1 308 X\r\nLocation: http://x/\r\nLocation: http://y/\r\n\r\n", "PTTH/1.0"),
    ] {
        let Verdict::Wrong(sentence) = verdict(bytes, token) else { panic!("{bytes}") };
        assert!(!sentence.contains(['\r', '\n', '\x1B']), "{sentence}");
        if (301..=303).contains(&answered(bytes).status) {
            assert!(sentence.contains("307"), "{sentence}");
        }
    }
}

#[test]
fn other_answers_are_judged_by_status() {
    let bare = |status: u16| verdict(&format!("HTTP/1.1 {status} \r\n\r\n"), "PTTH/1.0");
    for status in [100, 102, 103, 199] {
        assert_eq!(bare(status), Verdict::Informational, "{status}");
    }
    assert_eq!(bare(204), Verdict::Nothing);
    for status in [401, 403, 404, 410] {
        assert_eq!(bare(status), Verdict::Refused(status));
    }
    for status in [400, 408, 409, 426, 429, 500, 502, 503, 504, 510, 512, 599, 600, 999] {
        assert_eq!(bare(status), Verdict::Later { status, retry_after: None });
    }
    for status in [200, 201, 202, 205, 299, 402, 405, 406, 411, 412, 418, 451, 499, 501] {
        assert_eq!(bare(status), Verdict::NoTurn(status));
    }
    for status in [307, 308] {
        let bytes = format!("HTTP/1.1 {status} \r\nLocation: https://b.example/\r\n\r\n");
        assert_eq!(verdict(&bytes, "PTTH/1.0"), Verdict::Redirect("https://b.example/".to_owned()));
    }
    assert_eq!(
        check(&answered(sample("comet-2-event")), "PTTH/1.0"),
        Verdict::FellBack(Some(Encoding::Json))
    );
    for (content_type, expected) in [
        ("application/json", Verdict::FellBack(Some(Encoding::Json))),
        ("Application/JSON ; charset=utf-8", Verdict::FellBack(Some(Encoding::Json))),
        ("message/http", Verdict::FellBack(Some(Encoding::Message))),
        ("image/png", Verdict::NoTurn(200)),
        ("application/jsonx", Verdict::NoTurn(200)),
        ("", Verdict::NoTurn(200)),
    ] {
        assert_eq!(
            verdict(
                &format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\r\n"),
                "PTTH/1.0"
            ),
            expected,
            "{content_type}"
        );
    }
    assert_eq!(
        verdict("HTTP/1.1 201 OK\r\nContent-Type: application/json\r\n\r\n", "PTTH/1.0"),
        Verdict::NoTurn(201)
    );
    // What a captive portal says is neither a fallback nor a reason to try without Upgrade.
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n",
        "HTTP/1.1 203 OK\r\ncontent-type: Text/HTML; charset=utf-8\r\nContent-Length: 7\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: application/xhtml+xml\r\nPTTH-Message-ID: xxx\r\n\r\n",
        "HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\n\r\n",
        "HTTP/1.1 511 Network Authentication Required\r\n\r\n",
    ] {
        assert!(
            matches!(verdict(bytes, "PTTH/1.0"), Verdict::Wrong(why) if why.contains("log-in")),
            "{bytes}"
        );
    }
}

#[test]
fn the_mark_is_the_name_of_who_stands_nearest_to_the_origin() {
    for (value, is) in [
        ("ptth", true),
        ("ptth; details=\"no\"", true),
        (" ptth ;error=http_request_denied, squid", true),
        ("ptth, squid", true),
        ("squid, ptth", false),
        ("ptthx", false),
        ("squid; details=\"ptth\"", false),
        ("\"ptth\"", false),
        ("", false),
    ] {
        let bytes = format!("HTTP/1.1 403 \r\nProxy-Status: {value}\r\n\r\n");
        assert_eq!(is_marked(&answered(&bytes).fields), is, "{value}");
    }
    assert!(is_marked(
        &answered("HTTP/1.1 403 \r\nPROXY-status: ptth\r\nProxy-Status: squid\r\n\r\n").fields
    ));
    assert!(!is_marked(&answered("HTTP/1.1 403 \r\nVia: ptth\r\n\r\n").fields));
}

#[test]
fn retry_after_is_seconds_and_at_most_an_hour() {
    for (value, seconds) in [
        ("0", Some(0)),
        ("60", Some(60)),
        ("3600", Some(3600)),
        ("3601", Some(3600)),
        ("99999999999999999999999999", Some(3600)),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("Fri, 31 Dec 1999 23:59:59 GMT", None),
    ] {
        let bytes = format!("HTTP/1.1 503 \r\nRetry-After: {value}\r\n\r\n");
        let expected =
            Verdict::Later { status: 503, retry_after: seconds.map(Duration::from_secs) };
        assert_eq!(verdict(&bytes, "PTTH/1.0"), expected, "{value}");
    }
}

#[test]
fn debug_shows_no_credentials() {
    let bytes = offer(
        "POST",
        "/",
        "1.1",
        &format!(
            "{TURN}authorization: s3cret\r\nProxy-Authorization: s3cret\r\nCookie: s3cret\r\nX: shown\r\n"
        ),
    );
    let offer = offered(bytes.as_bytes(), &rules());
    assert_eq!(
        offer.fields.0.iter().filter(|(_, value)| value == b"s3cret").count(),
        3,
        "authorize sees them"
    );
    let debug = format!("{offer:?}");
    assert!(!debug.contains("s3cret") && debug.contains("shown"), "{debug}");
    let mut plan = OfferPlan::new("gw", "/", Dialect::classic());
    plan.fields.push(("AUTHORIZATION".to_owned(), "s3cret".to_owned()));
    let debug = format!("{plan:?}");
    assert!(
        !debug.contains("s3cret") && debug.contains("AUTHORIZATION") && debug.contains("PTTH/1.0"),
        "{debug}"
    );
}

#[test]
fn what_netptth_keeps_alive_with_is_no_request() {
    assert_eq!(status(request(b"<3", &limits(), LineEnds::Crlf)).unwrap_err(), 400);
}
