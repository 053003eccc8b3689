//! Tokens bound to names (`--tokens`, `--visitor-tokens`, `ptth token`), from outside: which devices
//! and visitors are admitted under which name, on every face, and which stay connected.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reverse_http::Tokens;

use crate::support::process::{get, offer};
use crate::support::{
    Answer, Gateway, Ptth, RawPeer, SWITCH, TempDir, each_row, eventually, need, vector,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A file of tokens that a test may replace.
pub struct TokenFile {
    _dir: TempDir,
    pub path: PathBuf,
}

impl TokenFile {
    pub fn new(lines: &[(&str, &str)]) -> TokenFile {
        let dir = TempDir::new("tokens");
        let path = dir.0.join("tokens");
        let file = TokenFile { _dir: dir, path };
        file.set(lines);
        file
    }

    /// Other lines: tokens and their names.
    pub fn set(&self, lines: &[(&str, &str)]) {
        let lines: Vec<String> =
            lines.iter().map(|(token, names)| Tokens::line(token, names).unwrap()).collect();
        self.write(lines.join("\n"));
    }

    pub fn write(&self, text: impl AsRef<[u8]>) {
        std::fs::write(&self.path, text).unwrap();
    }

    pub fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

pub fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

pub fn basic(user: &str, token: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{token}")))
}

/// A kind of request at the devices' port with a device's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VisitorListener {
    Offer,
    OldOffer,
    PollJson,
    PollMessage,
    /// A poll that brings an answer.
    AnswerJson,
    AnswerMessage,
}

pub const FACES: [VisitorListener; 6] = [
    VisitorListener::Offer,
    VisitorListener::OldOffer,
    VisitorListener::PollJson,
    VisitorListener::PollMessage,
    VisitorListener::AnswerJson,
    VisitorListener::AnswerMessage,
];

impl VisitorListener {
    /// The request; `fields` are further lines, each with its CRLF.
    pub fn request(self, name: &str, fields: &str) -> String {
        let post = |more: &str, body: &str| {
            format!(
                "POST /{name} HTTP/1.1\r\nHost: gw.example\r\n{fields}{more}Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let event = "0123456789abcdef".repeat(2);
        match self {
            VisitorListener::Offer => offer(name, fields),
            VisitorListener::OldOffer => offer(name, fields).replace("PTTH/1.0", "PTTH/0.9"),
            VisitorListener::PollJson => post("Accept: application/json\r\n", ""),
            VisitorListener::PollMessage => post("Accept: message/http\r\n", ""),
            VisitorListener::AnswerJson => {
                let answer = format!("{{\"message-id\":\"{event}\",\"status\":200}}");
                post("Accept: application/json\r\nContent-Type: application/json\r\n", &answer)
            }
            VisitorListener::AnswerMessage => {
                let head = format!(
                    "Accept: message/http\r\nContent-Type: message/http\r\nPTTH-Message-ID: {event}\r\n"
                );
                post(&head, "HTTP/1.1 204 No Content\r\n\r\n")
            }
        }
    }

    fn is_offer(self) -> bool {
        matches!(self, VisitorListener::Offer | VisitorListener::OldOffer)
    }
}

/// A session that no other test has.
pub fn session() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    format!("PTTH-Session: {:032x}\r\n", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// An offer of the IETF's kind; origins as they stand in a list.
pub fn ietf(origins: &str, fields: &str) -> String {
    let encoded = origins.replace(':', "%3A").replace('/', "%2F");
    format!(
        "GET /.well-known/ptth/{encoded}/ HTTP/1.1\r\nHost: gw.example\r\nConnection: upgrade\r\nUpgrade: ptth\r\nALPN: http%2F1.1\r\n{fields}\r\n"
    )
}

/// What the devices' port answers: 101 for a turn, else the refusal.
#[track_caller]
fn knock(gateway: &Gateway, request: &str) -> (RawPeer, Answer) {
    let mut peer = gateway.dial();
    peer.write(request);
    let head = peer.try_read_head().unwrap_or_else(|| panic!("no answer to {request}"));
    let answer = Answer { head, interim: Vec::new(), body: Vec::new(), trailers: Vec::new() };
    (peer, answer)
}

#[track_caller]
fn status(gateway: &Gateway, request: &str) -> u16 {
    knock(gateway, request).1.status()
}

/// Without what differs from one answer to the next.
/// What a refusal may say of a token, and of nothing else: that there is none, that it cannot be
/// read, that it is not known. One of these for each request, by what it shows alone.
const SAID: [&str; 3] = ["the request has none", "cannot read the", "does not know the token"];

/// The place in `SAID` of what is to be said of these fields.
fn kind_of(fields: &str, readable: bool) -> usize {
    let mut lines = fields.lines();
    match lines.any(|line| line.to_ascii_lowercase().starts_with("authorization:")) {
        false => 0,
        true if !readable => 1,
        true => 2,
    }
}

/// An answer without its date.
fn timeless(answer: &Answer) -> String {
    let head = answer.head.text();
    let lines = head.lines().filter(|line| !line.starts_with("Date:"));
    lines.chain([&*answer.text()]).collect()
}

#[test]
fn ptth_token_prints_a_token_and_the_line_for_it() {
    let (code, out, err) = Ptth::finish(
        Ptth::command(&["token", "lamp, https://*.example ,*"]).env("RUST_LOG", "trace"),
    );
    assert_eq!(code, 0, "{err}");
    let lines: Vec<&str> = out.lines().collect();
    let [token, line] = lines[..] else { panic!("{out}") };
    assert!(
        token.len() == 43 && token.bytes().all(|o| o.is_ascii_alphanumeric() || b"-_".contains(&o)),
        "{token}"
    );
    let (hash, names) = line.split_once(' ').unwrap();
    assert_eq!(names, "lamp,https://*.example,*");
    assert!(!err.contains(token) && !line.contains(token), "{err}");
    let again = Ptth::run(&["token", "lamp"]).1;
    assert!(!again.contains(token) && !again.contains(hash), "two tokens are alike");
    if need("sha256sum") {
        let mut sum =
            Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut sum.stdin.take().unwrap(), token.as_bytes()).unwrap();
        let summed = String::from_utf8(sum.wait_with_output().unwrap().stdout).unwrap();
        assert_eq!(summed.split(' ').next().unwrap(), hash);
    }
    // And the gateway takes both.
    let file = TokenFile::new(&[]);
    file.write(format!("{line}\r\n"));
    let gateway = Gateway::start(&["--tokens", file.path()]);
    assert_eq!(status(&gateway, &offer("anything", &bearer(token))), 101);
    assert_eq!(status(&gateway, &ietf("https://porch.example", &bearer(token))), 101);
}

/// A line may be right by its form, and be the wrong one for its token. The log says which line it is.
#[test]
fn a_token_whose_line_was_written_wrongly_leads_to_that_line() {
    let bare = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    let file = TokenFile::new(&[]);
    // The token in the place of its digest, as openssl rand -hex 32 makes one; echo without -n.
    let with_end = Tokens::line("echoed\n", "lamp").unwrap();
    file.write(format!("# devices\n{bare} lamp\n{with_end}\n"));
    let gateway = Gateway::start(&["--tokens", file.path(), "--visitor-tokens", file.path()]);
    let told = |text: &str| gateway.process.expect_stderr(text);
    let refused = |token: &str| {
        let answer = gateway.dial().ask(&offer("lamp", &bearer(token)));
        answer.expect_refusal(401);
        assert!(answer.text().contains("see its lines (GatewayBuilder::tokens, or --tokens)"));
    };
    refused("guessed");
    assert!(!gateway.process.stderr().contains("which is wrong"), "of a guess nothing is known");
    refused(bare);
    told(
        "has line 2 (GatewayBuilder::tokens, or --tokens), which is wrong: it is the token itself",
    );
    refused("echoed");
    told("has line 3 (GatewayBuilder::tokens, or --tokens), which is wrong: its SHA-256");
    let visit = format!("GET /lamp/ HTTP/1.1\r\nHost: a\r\n{}\r\n", bearer(bare));
    gateway.visitor().ask(&visit).expect_refusal(401);
    told("has line 2 (GatewayBuilder::visitor_tokens, or --visitor-tokens), which is wrong");
    assert!(!gateway.process.stderr().contains(bare), "no log has a token");
}

#[test]
fn a_wrong_file_ends_the_start_with_its_line_and_its_mistake() {
    let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    // The third line of the file, and a word of the error.
    let rows = [
        (format!("{} lamp", &hash[..63]), "63 hex digits"),
        (format!("{hash}0 lamp"), "65 hex digits"),
        ("hunter2secret lamp".to_owned(), "hex"),
        (format!("{}g lamp", &hash[..63]), "hex"),
        (hash.to_owned(), "no name"),
        (format!("{hash} # lamp"), "no name"),
        (format!("{hash} Lamp"), "Lamp"),
        (format!("{hash} lamp door"), "lamp door"),
        (format!("{hash} lamp,,door"), "comma"),
        (format!("{hash} la*"), "la*"),
        (format!("{hash} *.example"), "*.example"),
        (format!("{hash} https://*"), "https://*"),
        (format!("{hash} https://*."), "https://*."),
        (format!("{hash} https://a.*.example"), "a.*.example"),
        (format!("{hash} https://*.*.example"), "*.*.example"),
        (format!("{hash} https://*x.example"), "*x.example"),
        (format!("{hash} https://a.example/x"), "https://a.example/x"),
        (format!("{hash} ftp://a.example"), "ftp://a.example"),
        (format!("{hash} {}", "a".repeat(64)), "63"),
        (format!("{hash} lamp\n{} door", hash.to_uppercase()), "line 3"),
    ];
    for option in ["--tokens", "--visitor-tokens"] {
        each_row(
            &rows,
            |(line, _)| format!("{option}: {line}"),
            |(line, word)| {
                let file = TokenFile::new(&[]);
                file.write(format!("# devices\r\n\r\n{line}\r\n"));
                let (code, out, err) = Ptth::run(&[
                    "gateway",
                    "--devices",
                    "127.0.0.1:0",
                    "--visitors",
                    "127.0.0.1:0",
                    option,
                    file.path(),
                ]);
                assert_eq!((code, out.as_str()), (2, ""), "{err}");
                let number = if line.contains('\n') { 4 } else { 3 };
                let place = format!("{option} {}, line {number}: ", file.path());
                assert!(
                    err.contains(&place) && err.contains(word),
                    "{place} and {word} are to be in: {err}"
                );
                // A token that was written into the file by mistake is not logged.
                assert!(!err.contains("hunter2") && !err.contains(&hash[..20]), "{err}");
            },
        );
    }
    let file = TokenFile::new(&[]);
    file.write(b"# a\n\xff\n");
    let (code, _, err) = Ptth::run(&[
        "gateway",
        "--devices",
        "127.0.0.1:0",
        "--visitors",
        "127.0.0.1:0",
        "--tokens",
        file.path(),
    ]);
    assert!(code == 2 && err.contains("line 2") && err.contains("UTF-8"), "{err}");
}

/// The rows of `tokens_shown` that have no token in a form that is read.
const UNREADABLE: [&str; 8] = [
    "an empty one",
    "a long one",
    "a list",
    "two fields",
    "another scheme",
    "no scheme",
    "no base64",
    "no colon",
];

/// Fields with their name, and the status for lamp, which exists, and for ghost, which nobody knows.
fn tokens_shown(long: &str) -> Vec<(&'static str, String, u16, u16)> {
    vec![
        ("none", String::new(), 401, 401),
        ("an unknown one", bearer("wrong"), 401, 401),
        ("an empty one", bearer(""), 401, 401),
        ("one in another case", bearer("Right"), 401, 401),
        ("one with more behind it", bearer("right1"), 401, 401),
        (
            "the hash itself",
            bearer(Tokens::line("right", "lamp").unwrap().split(' ').next().unwrap()),
            401,
            401,
        ),
        ("a long one", bearer(long), 401, 401),
        ("a list", bearer("right, other"), 401, 401),
        ("two fields", bearer("right") + &bearer("right"), 401, 401),
        ("another scheme", "Authorization: Digest right\r\n".to_owned(), 401, 401),
        ("no scheme", "Authorization: right\r\n".to_owned(), 401, 401),
        ("no base64", "Authorization: Basic !!!\r\n".to_owned(), 401, 401),
        ("no colon", format!("Authorization: Basic {}\r\n", STANDARD.encode("right")), 401, 401),
        ("as a user", basic("right", "x"), 401, 401),
        ("as a proxy's", "Proxy-Authorization: Bearer right\r\n".to_owned(), 401, 401),
        ("another device's", bearer("other"), 403, 403),
        ("an origin's", bearer("origins"), 403, 403),
        ("another device's as a password", basic("lamp", "other"), 403, 403),
        ("the right one", bearer("right"), 0, 403),
        (
            "the right one, the scheme in capitals",
            "AUTHORIZATION: BEARER right\r\n".to_owned(),
            0,
            403,
        ),
        ("the right one as a password", basic("", "right"), 0, 403),
        ("the right one as anybody's password", basic("whoever", "right"), 0, 403),
    ]
}

#[test]
fn every_face_of_the_devices_port_asks_for_a_token_of_the_name() {
    if cfg!(not(feature = "comet")) {
        return; // some of it polls in JSON
    }
    let file = TokenFile::new(&[
        ("right", "lamp"),
        ("other", "door"),
        ("any", "*"),
        ("origins", "https://lamp.example"),
    ]);
    let gateway = Gateway::start(&["--tokens", file.path()]);
    let long = "x".repeat(2_000);
    let rows = tokens_shown(&long);
    // Its own: a name that is held by one token is in conflict for another.
    let _lamp = gateway.link_with("lamp", &bearer("right"));
    for face in FACES {
        let mut refusals = [const { String::new() }; SAID.len()];
        each_row(
            &rows,
            |(name, ..)| format!("{face:?}: {name}"),
            |(what, fields, lamp, ghost)| {
                for (name, expected) in [("lamp", *lamp), ("ghost", *ghost)] {
                    let expected = match expected {
                        0 if face.is_offer() => 101,
                        0 => 200,
                        status => status,
                    };
                    // Each is a session of its own, whose first poll is answered at once.
                    let (_peer, answer) =
                        knock(&gateway, &face.request(name, &(fields.clone() + &session())));
                    let got = if answer.status() == 204 { 200 } else { answer.status() };
                    assert_eq!(got, expected, "{name}: {}", answer.head.text());
                    let challenge = (expected == 401).then_some("Bearer");
                    assert_eq!(
                        answer.head.get("www-authenticate"),
                        challenge,
                        "{}",
                        answer.head.text()
                    );
                    if expected == 401 {
                        // By what was shown, whoever is asked for: byte for byte the same.
                        let told = timeless(&answer);
                        let kind = kind_of(fields, !UNREADABLE.contains(what));
                        assert!(told.contains(SAID[kind]), "{told}");
                        let before = &mut refusals[kind];
                        assert!(before.is_empty() || *before == told, "{told}\n{before}");
                        *before = told;
                    }
                }
            },
        );
        assert!(refusals.iter().all(|told| !told.is_empty()), "each kind was there");
    }
    let err = gateway.process.stderr();
    assert!(
        !err.contains("right1")
            && !err.contains(&long)
            && !err.contains(&STANDARD.encode("lamp:other")),
        "{err}"
    );
}

#[test]
fn every_origin_of_an_offer_has_to_be_the_tokens() {
    let file = TokenFile::new(&[
        ("two", "https://a.example,http://b.example:8081"),
        ("below", "https://*.c.example"),
        ("any", "*"),
    ]);
    let gateway = Gateway::start(&["--tokens", file.path()]);
    let rows = [
        ("two", "https://a.example", 101),
        ("two", "https://a.example:443", 101),
        ("two", "https://a.example,http://b.example:8081", 101),
        ("two", "https://a.example,https://evil.example", 403),
        ("two", "https://evil.example,https://a.example", 403),
        ("two", "http://a.example", 403),
        ("two", "http://b.example", 403),
        ("below", "https://x.c.example", 101),
        ("below", "https://x.c.example,https://y.c.example", 101),
        ("below", "https://c.example", 403),
        ("below", "https://y.x.c.example", 403),
        ("below", "https://x.c.example:8443", 403),
        ("any", "https://a.example", 403),
        ("wrong", "https://a.example", 401),
    ];
    each_row(
        &rows,
        |(token, origins, _)| format!("{token}: {origins}"),
        |(token, origins, expected)| {
            assert_eq!(status(&gateway, &ietf(origins, &bearer(token))), *expected)
        },
    );
}

#[test]
fn a_name_that_one_token_holds_is_in_conflict_for_another() {
    if cfg!(not(feature = "comet")) {
        return; // some of it polls in JSON
    }
    let file = TokenFile::new(&[("old", "lamp"), ("new", "lamp")]);
    let gateway = Gateway::start(&["--tokens", file.path()]);
    let mut link = gateway.link_with("lamp", &(bearer("old") + &session()));
    for face in FACES {
        let (mut peer, answer) =
            knock(&gateway, &face.request("lamp", &(bearer("new") + &session())));
        assert_eq!(
            (answer.status(), answer.head.get("retry-after")),
            (409, Some("60")),
            "{face:?}: {}",
            answer.head.text()
        );
        drop(peer.read_to_any_end());
    }
    // The same token takes over at once, whichever way it is shown.
    let mut second = gateway.link_with("lamp", &(basic("x", "old") + &session()));
    assert_eq!(link.read_head().start, "OPTIONS * HTTP/1.1");
    // With the old one gone (the device was started again with its new token), the new one gets in.
    second.finish_writing();
    let _link = eventually("the name is free", || {
        let (peer, answer) = knock(&gateway, &offer("lamp", &(bearer("new") + &session())));
        (answer.status() == 101).then_some(peer)
    });
    second.expect_end();
}

#[test]
fn names_of_the_file_are_known_before_they_have_come() {
    let file = TokenFile::new(&[("a", "lamp,https://porch.example"), ("b", "*,https://*.example")]);
    let gateway = Gateway::start(&["--tokens", file.path(), "--wait-for-link", "200ms"]);
    gateway.get("/lamp/").expect_refusal(503);
    gateway.get("/door/").expect_refusal(404); // a wildcard makes nobody known
    let of_host = |host: &str| {
        gateway.visitor().ask(&format!("GET /nobody/ HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    };
    of_host("porch.example").expect_refusal(503);
    of_host("cellar.example").expect_refusal(404);
    // Who waits is served when the device comes.
    let mut visitor = gateway.visitor();
    visitor.write(get("/lamp/x"));
    let mut link = gateway.link_with("lamp", &bearer("a"));
    assert_eq!(link.read_head().target(), "/x");
    link.write(OK);
    visitor.read_answer("GET").expect_ok("ok");
}

/// Has the files read again, until the log says what is expected of it once more.
#[track_caller]
fn reload(gateway: &Gateway, expected: &str) {
    let seen = gateway.process.stderr().matches(expected).count();
    gateway.process.signal("HUP");
    eventually(expected, || {
        (gateway.process.stderr().matches(expected).count() > seen).then_some(())
    });
}

#[test]
fn a_reload_is_in_force_at_once_and_a_bad_file_changes_nothing() {
    if cfg!(not(feature = "comet")) {
        return; // some of it polls in JSON
    }
    let file = TokenFile::new(&[("old", "lamp,porch,hall,cellar"), ("stays", "door")]);
    let gateway = Gateway::start(&["--tokens", file.path()]);
    let reload = |expected: &str| reload(&gateway, expected);
    let mut idle = gateway.link_with("lamp", &bearer("old"));
    let mut door = gateway.link_with("door", &bearer("stays"));
    let mut busy = gateway.link_with("hall", &bearer("old"));
    let mut visitor = gateway.visitor();
    visitor.write(get("/hall/x"));
    busy.read_head();
    let poller = |fields: &str| {
        let mut poller = gateway.dial();
        poller.write(VisitorListener::PollMessage.request("porch", fields));
        assert_eq!(poller.read_answer("POST").status(), 204); // the first poll of a session is answered at once
        poller
    };
    let fields = format!("PTTH-Session: {}\r\n{}", "ab".repeat(16), bearer("old"));
    let (mut held, mut telling) =
        (poller(&fields), poller(&fields.replace("ab", "cd").replace("porch", "cellar")));
    held.write(VisitorListener::PollMessage.request("cellar", &fields));
    held.read_answer("POST"); // greeted there, too
    held.write(VisitorListener::PollMessage.request("cellar", &fields));
    // A mistake, and what was in force stays so.
    file.write("nonsense");
    reload(&format!("{}, line 1: ", file.path()));
    assert_eq!(status(&gateway, &offer("lamp", &bearer("old"))), 101);
    // A poll of a device that works on an event.
    telling.write(VisitorListener::PollMessage.request("porch", &fields.replace("ab", "cd")));
    let mut waiting = gateway.visitor();
    waiting.write(get("/porch/x"));
    assert_eq!(telling.read_head().status(), 200);
    // The old token goes.
    file.set(&[("new", "lamp,porch,hall"), ("stays", "door")]);
    reload("2 tokens were read");
    for face in FACES {
        assert_eq!(status(&gateway, &face.request("lamp", &bearer("old"))), 401, "{face:?}");
    }
    let refused = held.read_answer("POST");
    refused.expect_refusal(401);
    assert_eq!(refused.head.get("www-authenticate"), Some("Bearer"));
    let told = idle.read_head();
    assert!(told.start == "OPTIONS * HTTP/1.1" && told.closes(), "{}", told.text());
    idle.write("HTTP/1.1 204 No Content\r\n\r\n");
    idle.expect_closed();
    waiting.read_answer("GET").expect_refusal(502); // its event's answer would not be taken
    // What is in progress ends by itself, and the link with it.
    busy.write(OK);
    visitor.read_answer("GET").expect_ok("ok");
    busy.expect_closed();
    gateway.process.expect_stderr("no longer valid");
    // The new one gets in, and the one that stayed was not disturbed.
    eventually("lamp is free", || {
        (status(&gateway, &offer("lamp", &bearer("new"))) == 101).then_some(())
    });
    visitor.write(get("/door/x"));
    assert_eq!(door.read_head().target(), "/x");
    door.write(OK);
    visitor.read_answer("GET").expect_ok("ok");
    // A name less is a token less for what came in under it.
    file.set(&[("stays", "window")]);
    reload("1 token was read");
    assert_eq!(door.read_head().start, "OPTIONS * HTTP/1.1");
    assert_eq!(status(&gateway, &offer("door", &bearer("stays"))), 403);
    // An empty file is an accident and changes nothing; one that admits nobody needs a comment.
    // A script whose variable is empty writes a line end.
    for nothing in ["", "\n", " \r\n\n"] {
        file.write(nothing);
        reload("the file is empty");
        assert_eq!(status(&gateway, &offer("window", &bearer("stays"))), 101);
    }
    file.write("# nobody\n");
    reload("no tokens were read");
    assert_eq!(status(&gateway, &offer("window", &bearer("stays"))), 401);
}

#[test]
fn the_devices_of_a_revoked_token_leave_and_come_back_with_the_new_one() {
    let file = TokenFile::new(&[("old", "lamp")]);
    let gateway = Gateway::start(&["--tokens", file.path()]);
    for (fallback, transport) in [("auto", "turn"), ("only", "COMET")] {
        file.set(&[("old", "lamp")]);
        gateway.process.signal("HUP");
        let url = gateway.device_url("lamp");
        let start = |token: &str| {
            let mut command = Ptth::command(&[
                "device",
                &url,
                "--text",
                token,
                "--fallback",
                fallback,
                "--backoff",
                "10ms..50ms",
            ]);
            crate::support::Process::start(command.env("PTTH_TOKEN", token))
        };
        let old = eventually("it gets in", || {
            let old = start("old");
            old.line_within(Duration::from_secs(2))
                .filter(|line| line.contains(transport))
                .map(|_| old)
        });
        gateway.get("/lamp/").expect_ok("old");
        file.set(&[("new", "lamp")]);
        gateway.process.signal("HUP");
        old.expect_stderr("401"); // its log says why, and it goes on trying
        let new = start("new");
        assert!(new.line().starts_with("connected lamp"), "{}", new.stderr());
        (0..5).for_each(|_| gateway.get("/lamp/").expect_ok("new"));
    }
}

#[test]
fn beyond_loopback_there_are_two_remedies() {
    let file = TokenFile::new(&[("right", "lamp")]);
    let arguments = ["gateway", "--devices", "0.0.0.0:0", "--visitors", "127.0.0.1:0"];
    let (code, _, err) = Ptth::run(&arguments);
    assert!(
        code == 2 && err.contains("--tokens") && err.contains("--insecure-anyone-may-register"),
        "{err}"
    );
    let process = Ptth::start(&[&arguments[..], &["--tokens", file.path()]].concat());
    assert!(process.line().starts_with("devices http://0.0.0.0:"), "{}", process.stderr());
    // The variable does what the option does.
    let gateway = Gateway::start_with_env(
        &[],
        &[("PTTH_TOKENS", file.path()), ("PTTH_VISITOR_TOKENS", file.path())],
    );
    assert_eq!(status(&gateway, &offer("lamp", "")), 401);
    gateway.get("/lamp/").expect_refusal(401);
}

// ── Visitors ──

fn ask(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: visitors.example\r\n{fields}\r\n")
}

#[test]
fn visitors_without_a_right_token_learn_nothing() {
    let file = TokenFile::new(&[
        ("right", "lamp,ghost"),
        ("other", "door"),
        ("porch", "https://porch.example"),
    ]);
    let gateway = Gateway::start(&["--visitor-tokens", file.path(), "--wait-for-link", "100ms"]);
    let mut link = gateway.link("lamp");
    let _porch = {
        let mut peer = gateway.dial();
        peer.write(ietf("https://porch.example", ""));
        assert_eq!(peer.read_head().status(), 101);
        peer
    };
    let targets = ["/lamp/x", "/lamp", "/ghost/x", "/Lamp/x", "/", "/nobody", "/a%2fb/"];
    let mut refusals: [Option<String>; 3] = Default::default();
    for (fields, kind) in [
        ("".to_owned(), 0),
        (bearer("wrong"), 2),
        (basic("lamp", "wrong"), 2),
        (bearer("right") + &bearer("right"), 1),
        ("Authorization: x\r\n".to_owned(), 1),
    ] {
        let said =
            ["send it as Authorization", "cannot read the one", "does not know the visitor token"];
        for target in targets {
            for host in ["", "porch.example"] {
                let request = ask(target, &fields);
                let request = if host.is_empty() {
                    request
                } else {
                    request.replace("visitors.example", host)
                };
                let answer = gateway.visitor().ask(&request);
                answer.expect_refusal(401);
                let challenges = answer.head.all("www-authenticate");
                assert!(
                    challenges.len() == 2
                        && challenges[0].starts_with("Basic realm=")
                        && challenges[0].contains("charset=\"UTF-8\"")
                );
                assert!(challenges[1].starts_with("Bearer"), "{}", answer.head.text());
                let this = timeless(&answer);
                assert!(this.contains(said[kind]), "{this}");
                assert_eq!(refusals[kind].get_or_insert(this.clone()), &this, "{request}");
            }
        }
    }
    for (token, target, expected) in [
        ("other", "/lamp/x", 403),
        ("other", "/ghost/x", 403),
        ("other", "/door/x", 404),
        ("right", "/ghost/x", 404),
        ("right", "/door/x", 403),
    ] {
        for fields in [bearer(token), basic("anybody", token)] {
            let answer = gateway.visitor().ask(&ask(target, &fields));
            answer.expect_refusal(expected);
        }
    }
    let porch = |token: &str| {
        gateway
            .visitor()
            .ask(&ask("/", &bearer(token)).replace("visitors.example", "porch.example"))
    };
    porch("right").expect_refusal(403);
    goes_on_behind_refusals(&gateway, &mut link);
}

/// The connection goes on after a refusal, and the right token gets through; it stays here.
fn goes_on_behind_refusals(gateway: &Gateway, link: &mut RawPeer) {
    let mut visitor = gateway.visitor();
    visitor.ask(&ask("/lamp/x", "")).expect_refusal(401);
    visitor.ask(&ask("/lamp/x", &bearer("other"))).expect_refusal(403);
    for fields in [bearer("right"), basic("me", "right")] {
        visitor.write(ask(
            "/lamp/x",
            &format!("{fields}Proxy-Authorization: Basic eDp5\r\nCookie: a=b\r\n"),
        ));
        let head = link.read_head();
        assert_eq!(
            (head.get("authorization"), head.get("cookie")),
            (None, Some("a=b")),
            "{}",
            head.text()
        );
        link.write(vector("draft-4-response"));
        visitor.read_answer("GET").expect_ok("Good");
    }
    // HEAD has no body, a body that comes along ends the connection, and nothing is forwarded of
    // either.
    let head = visitor.ask("HEAD /lamp/x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((head.status(), head.body.len()), (401, 0));
    let mut poster = gateway.visitor();
    let refused = poster.ask("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    refused.expect_refusal(401);
    assert!(refused.head.closes(), "{}", refused.head.text());
    link.expect_quiet(Duration::from_millis(100));
}

#[test]
fn without_visitors_tokens_their_authorization_is_the_devices() {
    let gateway = Gateway::start(&[]);
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(ask("/lamp/x", &bearer("hers")));
    assert_eq!(link.read_head().get("authorization"), Some("Bearer hers"));
    link.write(OK);
    visitor.read_answer("GET").expect_ok("ok");
}

#[test]
fn visitors_tokens_are_read_again() {
    let file = TokenFile::new(&[("old", "lamp")]);
    let gateway = Gateway::start(&["--visitor-tokens", file.path()]);
    let mut link = gateway.link("lamp");
    let mut visitor = gateway.visitor();
    visitor.write(ask("/lamp/x", &bearer("old")));
    link.read_head();
    file.set(&[("new", "lamp")]);
    gateway.process.signal("HUP");
    gateway.process.expect_stderr("1 token was read");
    link.write(OK);
    visitor.read_answer("GET").expect_ok("ok"); // what is in progress goes on
    visitor.ask(&ask("/lamp/x", &bearer("old"))).expect_refusal(401);
    visitor.write(ask("/lamp/x", &bearer("new")));
    link.read_head();
    link.write(OK);
    visitor.read_answer("GET").expect_ok("ok");
}

/// The bytes that a turned link begins with are the same with a token as without.
#[test]
fn a_token_changes_nothing_of_the_turn() {
    let file = TokenFile::new(&[("right", "lamp")]);
    let gateway = Gateway::start(&["--tokens", file.path()]);
    let mut peer = gateway.dial();
    peer.write(offer("lamp", &bearer("right")));
    assert_eq!(peer.read_exact(SWITCH.len()), SWITCH);
    peer.expect_quiet(Duration::from_millis(50));
}
