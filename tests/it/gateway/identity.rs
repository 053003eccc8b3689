//! Who is who on the devices' port: names (T22), pages (T46), take-overs (T21), on every face; and
//! secrets that nobody sees (T23).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use reverse_http::{Body, Device, Error, Grant, Limits, Reject, Tokens};

use crate::gateway::tokens::{FACES, TokenFile, VisitorListener, basic, bearer, ietf, session};
use crate::support::process::{get, offer};
use crate::support::{Gateway, LocalServer, Process, Ptth, RawPeer, each_row, eventually};

const SECRET: &str = "c2VjcmV0LXRva2VuLTEyMzQ1Njc4OTA";

/// The status that this request gets on the devices' port; `None`: it is closed without one.
fn status(gateway: &Gateway, request: impl AsRef<[u8]>) -> Option<u16> {
    let mut peer = gateway.dial();
    let _ = peer.try_write(request); // what is too long is answered before it is whole
    peer.try_read_head().map(|head| head.status())
}

#[test]
fn names_that_are_none_get_400_on_every_face() {
    let file = TokenFile::new(&[("any", "*,https://*.example")]);
    let long = "a".repeat(64);
    let longer = "a".repeat(7_000);
    let names = [
        "Lamp",
        "LAMP",
        "lämp",
        "lamp%20",
        "%6camp",
        "la.mp",
        "lamp_1",
        "-lamp",
        "lamp-",
        "..",
        ".",
        "%2e%2e",
        "%00",
        "~",
        "la:mp",
        "*",
        "@",
        "lamp;x",
        long.as_str(),
        longer.as_str(),
        ".well-known",
        "/lamp",
    ];
    for arguments in [&["--tokens", file.path()][..], &[]] {
        let gateway = Gateway::start(arguments);
        for face in FACES {
            each_row(
                &names,
                |name| format!("{face:?}: {name:.40}"),
                |name| assert_eq!(status(&gateway, face.request(name, &bearer("any"))), Some(400)),
            );
            // NUL, and more than any head may have.
            assert_eq!(
                status(&gateway, face.request("la\0mp", &bearer("any"))),
                Some(400),
                "{face:?}"
            );
            let endless = status(&gateway, face.request(&"a".repeat(64 << 10), &bearer("any")));
            assert!(matches!(endless, Some(414 | 431)), "{face:?}: {endless:?}");
        }
        for origin in [
            "https://A.example",
            "null",
            "https://a.example/x",
            "ftp://a.example",
            "https://",
            "https://a.example.",
            "https://u@a.example",
            "",
            "https://*.example",
        ] {
            assert_eq!(status(&gateway, ietf(origin, &bearer("any"))), Some(400), "{origin}");
        }
        // None of it has made a name known.
        gateway.get("/lamp/").expect_refusal(404);
        assert!(!gateway.process.stderr().contains(": up"), "{}", gateway.process.stderr());
    }
}

#[test]
fn a_pages_request_gets_403_before_a_mailbox_is_touched() {
    if cfg!(not(feature = "comet")) {
        return; // some of it polls in JSON
    }
    let file = TokenFile::new(&[("right", "lamp")]);
    let gateway =
        Gateway::start(&["--tokens", file.path(), "--cors-origin", "https://app.example"]);
    let mut link = gateway.link_with("lamp", &bearer("right"));
    for origin in [
        "https://evil.example",
        "null",
        "http://127.0.0.1",
        "https://app.example.evil.example",
        "https://app.example:443",
        "",
    ] {
        for face in FACES {
            for content in ["", "Content-Type: text/plain\r\n"] {
                if !content.is_empty()
                    && matches!(face, VisitorListener::AnswerJson | VisitorListener::AnswerMessage)
                {
                    continue; // it has a type of its own
                }
                let fields =
                    format!("{}{}{content}Origin: {origin}\r\n", bearer("right"), session());
                assert_eq!(
                    status(&gateway, face.request("lamp", &fields)),
                    Some(403),
                    "{face:?} {origin}"
                );
            }
        }
        let fields = format!("{}Origin: {origin}\r\n", bearer("right"));
        assert_eq!(status(&gateway, ietf("https://lamp.example", &fields)), Some(403), "{origin}");
        // With no token neither is told of the other.
        assert_eq!(
            status(&gateway, offer("lamp", &format!("Origin: {origin}\r\n"))),
            Some(403),
            "{origin}"
        );
    }
    // The listed page needs a token as anybody does, and may read why it was refused.
    let mut page = gateway.dial();
    page.write(VisitorListener::PollJson.request("lamp", "Origin: https://app.example\r\n"));
    let refused = page.read_answer("POST");
    refused.expect_refusal(401);
    assert_eq!(
        refused.head.get("access-control-allow-origin"),
        Some("https://app.example"),
        "{}",
        refused.head.text()
    );
    // The name is still whose it was.
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    link.read_head();
    link.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    visitor.read_answer("GET").expect_ok("ok");
}

#[test]
fn a_name_goes_to_the_newest_session_of_its_credential_and_to_no_other() {
    if cfg!(not(feature = "comet")) {
        return; // some of it polls in JSON
    }
    let file = TokenFile::new(&[("mine", "lamp"), ("theirs", "*")]);
    let gateway = Gateway::start(&["--tokens", file.path()]);
    for owner in [VisitorListener::Offer, VisitorListener::PollMessage, VisitorListener::PollJson] {
        let mut first = gateway.dial();
        let old = session() + &bearer("mine");
        first.write(owner.request("lamp", &old));
        let status_of =
            |face: VisitorListener, fields: &str| status(&gateway, face.request("lamp", fields));
        assert!(matches!(first.read_head().status(), 101 | 200 | 204));
        for face in FACES {
            assert_eq!(
                status_of(face, &(session() + &bearer("theirs"))),
                Some(409),
                "{face:?} where {owner:?} has it"
            );
            assert_eq!(status_of(face, &bearer("theirs")), Some(409), "{face:?} without a session");
        }
        // The newest of the same credential has it, in any way, and the replaced one does not get
        // it back.
        for face in FACES {
            let mut newest = gateway.dial();
            newest.write(face.request("lamp", &(session() + &bearer("mine"))));
            let head = newest.read_head();
            assert!(matches!(head.status(), 101 | 200 | 204), "{face:?}: {}", head.text());
            assert_eq!(status_of(face, &old), Some(409), "{face:?}");
        }
        drop(first);
        // A thousand take-overs cost neither memory nor the name.
        if owner == VisitorListener::Offer {
            let memory = gateway.process.resident_kib();
            for _ in 0..1_000 {
                drop(gateway.link_with("lamp", &(session() + &bearer("mine"))));
            }
            let grown = gateway.process.resident_kib().saturating_sub(memory);
            assert!(grown < 8 * 1024, "{grown} KiB");
        }
        eventually("a dead owner's name is anybody's who may have it", || {
            (status(&gateway, offer("lamp", &(session() + &bearer("theirs")))) == Some(101))
                .then_some(())
        });
        eventually("and its own again", || {
            (status(&gateway, offer("lamp", &(session() + &bearer("mine")))) == Some(101))
                .then_some(())
        });
    }
}

/// Fails if the secret, in any of the forms in which it travels, stands in the text.
#[track_caller]
fn is_not_in(text: &str, place: &str) {
    for form in [SECRET, &basic("me", SECRET)["Authorization: Basic ".len()..].trim_end()[4..]] {
        assert!(!text.contains(form), "the token stands in {place}: {text}");
    }
}

fn with_token(arguments: &[&str]) -> Process {
    Process::start(Ptth::command(arguments).env("PTTH_TOKEN", SECRET).env("RUST_LOG", "trace"))
}

#[test]
fn no_log_and_no_list_of_processes_has_a_token() {
    let (devices, visitors) = (
        TokenFile::new(&[(SECRET, "lamp,door"), ("o", "*")]),
        TokenFile::new(&[(SECRET, "lamp,door")]),
    );
    let arguments = ["--tokens", devices.path(), "--visitor-tokens", visitors.path()];
    let gateway = Gateway::start_with_env(&arguments, &[("RUST_LOG", "trace")]);
    let local = LocalServer::start();
    let token_file = TokenFile::new(&[]);
    token_file.write(SECRET);
    let (lamp, door, refused) =
        (gateway.device_url("lamp"), gateway.device_url("door"), gateway.device_url("window"));
    let turning = with_token(&["device", &lamp, "--to", &local.url()]);
    let polling = Process::start(
        Ptth::command(&[
            "device",
            &door,
            "--text",
            "on",
            "--fallback",
            "only",
            "--token-file",
            token_file.path(),
        ])
        .env("RUST_LOG", "trace"),
    );
    let mut forbidden = with_token(&["device", &refused, "--text", "x"]);
    assert_eq!(forbidden.exit_code(), 3, "{}", forbidden.stderr());
    assert!(turning.line().starts_with("connected") && polling.line().starts_with("connected"));
    for target in ["/lamp/x", "/door/x", "/window/x"] {
        for fields in [bearer(SECRET), basic("me", SECRET)] {
            let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            let answer = gateway.visitor().ask(&request);
            is_not_in(&answer.head.text(), "an answer");
            is_not_in(&answer.text(), "an answer");
            assert!(
                matches!((target, answer.status()), ("/window/x", 403) | (_, 200)),
                "{target}: {}",
                answer.head.text()
            );
        }
    }
    refused_on_every_face(&gateway);
    gateway.process.signal("HUP");
    gateway.process.expect_stderr(" read from ");
    devices.write(format!("{SECRET} lamp\n"));
    gateway.process.signal("HUP");
    gateway.process.expect_stderr("stay as they were");
    for (name, process) in [
        ("gateway", &gateway.process),
        ("turning", &turning),
        ("polling", &polling),
        ("forbidden", &forbidden),
    ] {
        is_not_in(&process.stderr(), name);
        assert!(process.stderr().lines().count() > 1, "{name} logs nothing");
    }
    for process in [&gateway.process, &turning, &polling] {
        is_not_in(
            &std::fs::read_to_string(format!("/proc/{}/cmdline", process.id())).unwrap(),
            "a command line",
        );
    }
}

/// Refused in every way, on every face; half of it malformed.
fn refused_on_every_face(gateway: &Gateway) {
    for face in FACES {
        for fields in [
            bearer(SECRET),
            basic("me", SECRET),
            format!("{}{}", bearer(SECRET), bearer(SECRET)),
            format!("Authorization: {SECRET}\r\n"),
        ] {
            let mut peer = gateway.dial();
            peer.write(face.request("window", &fields));
            is_not_in(&peer.read_head().text(), "a refusal");
            let mut peer = gateway.dial();
            peer.write(face.request("WINDOW", &fields));
            is_not_in(&peer.read_head().text(), "a refusal");
        }
    }
}

#[test]
fn no_debug_and_no_error_shows_a_token() {
    let seen = Arc::new(Mutex::new(String::new()));
    let note = seen.clone();
    let tokens = Tokens::parse(&Tokens::line(SECRET, "lamp").unwrap()).unwrap();
    let builder = crate::support::gateway().listen("127.0.0.1:0").tokens(tokens.clone()).authorize(
        move |offer| {
            note.lock().unwrap().push_str(&format!("{offer:?} {offer:#?}"));
            assert_eq!(offer.bearer_token(), Some(SECRET), "a program may look at it");
            Ok(Grant::offered())
        },
    );
    let gateway = builder.start().unwrap();
    let url = format!("http://{}/lamp", gateway.devices_addr());
    let builder = Device::builder(&url).bearer_token(SECRET);
    seen.lock().unwrap().push_str(&format!("{builder:?} {tokens:?}"));
    let device = builder.build().unwrap();
    seen.lock().unwrap().push_str(&format!("{device:?} {device:#?}"));
    let running = device.spawn(|_| http::Response::new(Body::from("on"))).unwrap();
    gateway.device("lamp").wait_connected(Duration::from_secs(5)).unwrap();
    seen.lock().unwrap().push_str(&format!("{running:?} {gateway:?} {:?}", gateway.device("lamp")));
    running.stop();
    let mistakes: [Error; 4] = [
        Tokens::parse(&format!("{SECRET} lamp")).unwrap_err(),
        Tokens::line(SECRET, "Lamp").unwrap_err(),
        Device::builder(&url).bearer_token(format!("{SECRET}\r\n")).build().unwrap_err(),
        Device::builder(format!("http://me:{SECRET}@127.0.0.1:1/lamp")).build().unwrap_err(),
    ];
    for mistake in mistakes {
        seen.lock().unwrap().push_str(&format!("{mistake} {mistake:?}"));
    }
    let seen = seen.lock().unwrap();
    assert!(seen.contains("lamp") && seen.len() > 500, "{seen}");
    is_not_in(&seen, "a Debug or an error");
}

#[test]
fn tokens_and_authorize_have_to_agree() {
    let tokens = |lines: &[(&str, &str)]| {
        let lines: Vec<String> =
            lines.iter().map(|(token, names)| Tokens::line(token, names).unwrap()).collect();
        Tokens::parse(&lines.join("\n")).unwrap()
    };
    let mut limits = Limits::default();
    limits.take_over_grace = Duration::from_millis(300);
    let gateway = crate::support::gateway()
        .listen("127.0.0.1:0")
        .limits(limits)
        .tokens(tokens(&[("a", "lamp,hall"), ("b", "lamp"), ("c", "door,window")]))
        .authorize(|offer| match offer.names()[0].to_string().as_str() {
            "hall" => Err(Reject::new(403, "not today")),
            "door" => Grant::names(["window"]).map_err(|e| Reject::new(500, e.to_string())),
            "window" => Grant::names(["lamp"]).map_err(|e| Reject::new(500, e.to_string())),
            _ => Ok(Grant::offered().to("the lamp's owner")),
        })
        .start()
        .unwrap();
    let dial = |name: &str, fields: &str| {
        let mut peer = RawPeer::connect(gateway.devices_addr());
        peer.write(offer(name, fields));
        let status = peer.read_head().status();
        (peer, status)
    };
    let rows = [
        ("lamp", "x", 401),
        ("hall", "b", 403),
        ("hall", "a", 403),
        ("door", "c", 101),
        ("window", "c", 403),
    ];
    for (name, token, expected) in rows {
        assert_eq!(dial(name, &bearer(token)).1, expected, "{name} {token}");
    }
    // One owner with two tokens: the identity is authorize's, so the second takes over.
    let (mut old, _) = dial("lamp", &(session() + &bearer("a")));
    let (mut link, status) = dial("lamp", &(session() + &bearer("b")));
    assert_eq!((status, old.read_head().start.as_str()), (101, "OPTIONS * HTTP/1.1"));
    // What is in progress over a link whose token goes is cut when the grace is over; the program
    // is told.
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            gateway.device("lamp").send(http::Request::get("/x").body(Body::empty()).unwrap())
        });
        assert_eq!(link.read_head().target(), "/x");
        gateway.set_tokens(tokens(&[("a", "lamp")])).unwrap();
        assert!(asked.join().unwrap().is_err());
    });
    link.expect_closed();
    assert_eq!((dial("lamp", &bearer("b")).1, dial("lamp", &bearer("a")).1), (401, 101));
    // Tokens are replaced, not begun with.
    assert!(gateway.set_visitor_tokens(tokens(&[])).unwrap_err().is_usage());
}
