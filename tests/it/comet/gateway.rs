//! The COMET fallback at `ptth gateway` (protocol.md 2), played from outside: raw devices that poll
//! on one port, raw visitors on the other.
//!
//! A device's events are read here with code that shares nothing with the crate: `serde_json`, and
//! the reader of [`raw`](crate::support::raw).
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::gateway::wire::{WRONG_CODINGS, WRONG_LENGTHS};
use crate::engine::scale::affordable;
use crate::support::process::{get, offer};
use crate::support::raw::find;
use crate::support::{
    Answer, DEADLINE, Gateway, Hash, Head, RawPeer, SWITCH, each_row, eventually, pattern, say,
    vector,
};

/// How events and answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Json,
    Text,
}
use Kind::{Json, Text};

const BOTH: [Kind; 2] = [Json, Text];

impl Kind {
    fn media_type(self) -> &'static str {
        match self {
            Json => "application/json",
            Text => "message/http",
        }
    }

    fn accept(self) -> String {
        format!("Accept: {}\r\n", self.media_type())
    }
}

/// What has to come at once must not need longer than this; what must not come is looked for as
/// long.
const MOMENT: Duration = Duration::from_millis(150);

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// A poll without a body; `fields` are further lines, each with its CRLF.
fn poll(name: &str, fields: &str) -> String {
    format!("POST /{name} HTTP/1.1\r\nHost: gw.example\r\nContent-Length: 0\r\n{fields}\r\n")
}

/// A POST with a body of this type and its length.
fn post(name: &str, fields: &str, content_type: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let length = body.len();
    let head = format!(
        "POST /{name} HTTP/1.1\r\nHost: gw.example\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{fields}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// A session that no other test has.
fn session() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    format!("PTTH-Session: {:032x}\r\n", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// An answer as a device means it, before it is written in either way.
#[derive(Clone)]
struct Reply {
    status: u16,
    reason: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    trailers: Vec<(String, String)>,
}

fn reply(status: u16, reason: &str, fields: &[(&str, &str)], body: impl AsRef<[u8]>) -> Reply {
    let fields =
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Reply {
        status,
        reason: reason.to_owned(),
        fields,
        body: body.as_ref().to_vec(),
        trailers: Vec::new(),
    }
}

fn ok(body: impl AsRef<[u8]>) -> Reply {
    reply(200, "OK", &[("Content-Type", "text/plain")], body)
}

/// The answer to this event, as JSON.
fn answer_json(event: &Event, reply: &Reply) -> Vec<u8> {
    let mut members = json!({
        "message-id": event.id, "http-version": "PTTH/1.0", "status": reply.status, "reason": reply.reason, "headers": reply.fields,
    });
    match std::str::from_utf8(&reply.body) {
        Ok(text) => members["body"] = json!(text),
        Err(_) => {
            members["body"] = json!(STANDARD.encode(&reply.body));
            members["body-encoding"] = json!("base64");
        }
    }
    if !reply.trailers.is_empty() {
        members["trailers"] = json!(reply.trailers);
    }
    members.to_string().into_bytes()
}

/// The answer as HTTP/1.1 text; `is_head`: without its body.
fn answer_text(reply: &Reply, is_head: bool) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {} {}\r\n", reply.status, reply.reason).into_bytes();
    for (name, value) in &reply.fields {
        out.extend(
            format!("{name}: {value}\r\n")
                .chars()
                .map(|c| u8::try_from(u32::from(c)).expect("ISO-8859-1")),
        );
    }
    if is_head || matches!(reply.status, 204 | 304) {
        out.extend_from_slice(b"\r\n");
    } else if reply.trailers.is_empty() {
        out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", reply.body.len()).as_bytes());
        out.extend_from_slice(&reply.body);
    } else {
        out.extend_from_slice(
            format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", reply.body.len()).as_bytes(),
        );
        out.extend_from_slice(&reply.body);
        out.extend_from_slice(b"\r\n0\r\n");
        reply.trailers.iter().for_each(|(name, value)| {
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes())
        });
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// What a visitor asked, as it came out of a reply.
#[derive(Clone, Debug)]
struct Event {
    kind: Kind,
    id: String,
    method: String,
    target: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    trailers: Vec<(String, String)>,
    /// The body of the reply, as it came.
    bytes: Vec<u8>,
}

impl Event {
    fn all(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    #[track_caller]
    fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} stands {} times in {:?}", all.len(), self.fields);
        all.first().copied()
    }

    /// Takes the reply apart and fails where it is not what section 2 says of events.
    #[track_caller]
    fn of(reply: Answer) -> Event {
        assert_eq!(reply.status(), 200, "{}{}", reply.head.text(), reply.text());
        let shown =
            format!("{}{}", reply.head.text(), reply.text().chars().take(2000).collect::<String>());
        assert_eq!(reply.head.get("cache-control"), Some("no-store, no-transform"), "{shown}");
        assert_eq!(
            reply.head.get("proxy-status"),
            Some("ptth"),
            "a device knows its gateway by it: {shown}"
        );
        assert!(reply.head.get("content-length").is_some(), "a reply has its length: {shown}");
        let event = match reply.head.get("content-type") {
            Some("application/json") => Event::of_json(reply.body, &shown),
            Some("message/http") => {
                Event::of_text(reply.body, reply.head.get("ptth-message-id"), &shown)
            }
            _ => panic!("no type of the fallback: {shown}"),
        };
        let id = &event.id;
        assert!(
            id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
            "the id is not 32 hex digits: {shown}"
        );
        event
    }

    #[track_caller]
    fn of_json(bytes: Vec<u8>, shown: &str) -> Event {
        let members: Map<String, Value> =
            serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{e}: {shown}"));
        let known = [
            "message-id",
            "method",
            "request-uri",
            "http-version",
            "headers",
            "body",
            "body-encoding",
            "trailers",
        ];
        assert!(members.keys().all(|name| known.contains(&name.as_str())), "{shown}");
        let text = |name: &str| {
            members
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_else(|| panic!("no text {name} in {shown}"))
                .to_owned()
        };
        assert_eq!(text("http-version"), "PTTH/1.0", "{shown}");
        let body = match members.get("body-encoding").map(|encoding| encoding.as_str()) {
            None => text("body").into_bytes(),
            Some(Some("base64")) => {
                STANDARD.decode(text("body")).unwrap_or_else(|e| panic!("{e}: {shown}"))
            }
            Some(other) => panic!("body-encoding {other:?} in {shown}"),
        };
        let pairs = |name: &str| -> Vec<(String, String)> {
            members.get(name).map_or(Vec::new(), |pairs| {
                serde_json::from_value(pairs.clone()).unwrap_or_else(|e| panic!("{e}: {shown}"))
            })
        };
        assert!(members.contains_key("headers"), "{shown}");
        let event = Event {
            kind: Json,
            id: text("message-id"),
            method: text("method"),
            target: text("request-uri"),
            fields: pairs("headers"),
            body,
            trailers: pairs("trailers"),
            bytes,
        };
        for name in [
            "content-length",
            "transfer-encoding",
            "connection",
            "keep-alive",
            "upgrade",
            "te",
            "expect",
        ] {
            assert!(event.all(name).is_empty(), "{name} does not travel in JSON: {shown}");
        }
        event
    }

    #[track_caller]
    fn of_text(bytes: Vec<u8>, id: Option<&str>, shown: &str) -> Event {
        let (head, rest) = Head::split(&bytes);
        assert!(head.start.ends_with(" HTTP/1.1"), "{shown}");
        let (body, trailers) = match (head.get("transfer-encoding"), head.get("content-length")) {
            (Some("chunked"), None) => unchunked(rest),
            (None, length) => {
                assert_eq!(
                    rest.len().to_string(),
                    length.unwrap_or("0"),
                    "inner and outer length differ: {shown}"
                );
                (rest.to_vec(), Vec::new())
            }
            other => panic!("framing {other:?} in {shown}"),
        };
        for name in ["connection", "keep-alive", "upgrade", "expect"] {
            assert!(head.all(name).is_empty(), "{name} is of one connection: {shown}");
        }
        let id = id.unwrap_or_else(|| panic!("no PTTH-Message-ID: {shown}")).to_owned();
        let (method, target) = (head.method().to_owned(), head.target().to_owned());
        Event { kind: Text, id, method, target, fields: head.fields, body, trailers, bytes }
    }
}

/// Body and trailers of bytes that are chunked to the last one.
#[track_caller]
fn unchunked(mut bytes: &[u8]) -> (Vec<u8>, Vec<(String, String)>) {
    let line = |bytes: &mut &[u8]| {
        let end =
            find(bytes, b"\r\n").unwrap_or_else(|| panic!("no line end in {:?}", latin1(bytes)));
        let line = latin1(&bytes[..end]);
        *bytes = &bytes[end + 2..];
        line
    };
    let mut body = Vec::new();
    loop {
        let size = usize::from_str_radix(&line(&mut bytes), 16).unwrap();
        if size == 0 {
            break;
        }
        body.extend_from_slice(&bytes[..size]);
        bytes = &bytes[size..];
        assert_eq!(line(&mut bytes), "");
    }
    let mut trailers = Vec::new();
    loop {
        let line = line(&mut bytes);
        if line.is_empty() {
            assert!(bytes.is_empty(), "behind the chunks: {:?}", latin1(bytes));
            return (body, trailers);
        }
        let (name, value) = line.split_once(':').unwrap();
        trailers.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// Fails unless this is what `kind` says where there is nothing.
#[track_caller]
fn is_nothing(reply: &Answer, kind: Kind) {
    let shown = format!("{}{}", reply.head.text(), reply.text());
    let (status, body) = if kind == Json { (200, "{}") } else { (204, "") };
    assert_eq!((reply.status(), reply.text().as_str()), (status, body), "{shown}");
    assert_eq!(reply.head.get("content-type"), Some(kind.media_type()), "{shown}");
    assert_eq!(reply.head.get("cache-control"), Some("no-store, no-transform"), "{shown}");
    assert_eq!(
        reply.head.get("proxy-status"),
        Some("ptth"),
        "a device knows its gateway by it: {shown}"
    );
    assert!(reply.head.all("transfer-encoding").is_empty(), "{shown}");
}

/// Fails unless the POST was refused with one of these, a reason, and `no-store`.
#[track_caller]
fn is_refused(reply: &Answer, statuses: &[u16]) {
    reply.expect_refusal_among(statuses);
    assert_eq!(reply.head.get("cache-control"), Some("no-store"), "{}", reply.head.text());
    let mark = reply.head.get("proxy-status").unwrap_or_default();
    assert!(
        mark.starts_with("ptth; details=\""),
        "a device knows its gateway by it: {}",
        reply.head.text()
    );
}

/// One connection of a device that polls.
struct Device {
    peer: RawPeer,
    at: SocketAddr,
    name: String,
    kind: Kind,
    /// Further lines of all its POSTs: `Accept`, its session.
    fields: String,
}

impl Device {
    /// A new session, whose first poll was answered at once: the device is known, and does not poll
    /// now.
    #[track_caller]
    fn known(gateway: &Gateway, name: &str, kind: Kind) -> Device {
        let mut device = Device::with(gateway, name, kind, &session());
        device.poll();
        device.nothing();
        device
    }

    /// The same, and its poll is on the way.
    #[track_caller]
    fn polling(gateway: &Gateway, name: &str, kind: Kind) -> Device {
        let mut device = Device::known(gateway, name, kind);
        device.poll();
        device
    }

    /// A device without a session, known and polling. There is no other sign of that than a visitor
    /// who is served.
    #[track_caller]
    fn nameless(gateway: &Gateway, name: &str, kind: Kind) -> Device {
        let mut device = Device::with(gateway, name, kind, "");
        device.poll();
        let mut downstream = None;
        let mut visitor = eventually("the poll is known", || {
            let visitor = downstream
                .get_or_insert_with(|| asks(gateway, get(&format!("/{name}/is-it-known"))));
            if device.peer.stirs_within(Duration::from_millis(5)) {
                return downstream.take();
            }
            if visitor.stirs_within(Duration::from_millis(1)) {
                downstream = None; // 404: it came too early
            }
            None
        });
        let event = device.event();
        device.answer(&event, &ok("it is"));
        visitor.read_answer("GET").expect_ok("it is");
        device
    }

    /// A connection that has said nothing yet.
    #[track_caller]
    fn with(gateway: &Gateway, name: &str, kind: Kind, fields: &str) -> Device {
        let fields = format!("{}{fields}", kind.accept());
        Device { peer: gateway.dial(), at: gateway.devices, name: name.to_owned(), kind, fields }
    }

    /// Another connection of the same device.
    #[track_caller]
    fn again(&self) -> Device {
        let mut peer = RawPeer::connect(self.at);
        peer.who = format!("device {}", self.name);
        Device {
            peer,
            at: self.at,
            name: self.name.clone(),
            kind: self.kind,
            fields: self.fields.clone(),
        }
    }

    fn poll(&mut self) {
        self.peer.write(poll(&self.name, &self.fields));
    }

    /// The next reply, which is an event in this device's encoding.
    #[track_caller]
    fn event(&mut self) -> Event {
        let event = Event::of(self.peer.read_answer("POST"));
        assert_eq!(event.kind, self.kind, "{}", latin1(&event.bytes));
        event
    }

    #[track_caller]
    fn nothing(&mut self) {
        is_nothing(&self.peer.read_answer("POST"), self.kind);
    }

    #[track_caller]
    fn refused(&mut self, statuses: &[u16]) -> Answer {
        let reply = self.peer.read_answer("POST");
        is_refused(&reply, statuses);
        reply
    }

    #[track_caller]
    fn quiet(&mut self) {
        self.peer.expect_quiet(MOMENT);
    }

    /// A POST with this body.
    fn post(&mut self, content_type: &str, fields: &str, body: impl AsRef<[u8]>) {
        self.peer.write(post(&self.name, &format!("{}{fields}", self.fields), content_type, body));
    }

    /// Posts the answer to an event, in the event's encoding. It is a poll too.
    fn answer(&mut self, event: &Event, reply: &Reply) {
        match event.kind {
            Json => self.post("application/json", "", answer_json(event, reply)),
            Text => {
                let text = answer_text(reply, event.method == "HEAD");
                self.post("message/http", &format!("PTTH-Message-ID: {}\r\n", event.id), text);
            }
        }
    }

    /// One visitor's GET, served through this connection, whose poll is on the way before and
    /// behind.
    #[track_caller]
    fn serves(&mut self, gateway: &Gateway, path: &str) {
        let mut visitor = asks(gateway, get(&format!("/{}/{path}", self.name)));
        let event = self.event();
        assert_eq!(event.target, format!("/{path}"));
        self.answer(&event, &ok(path));
        visitor.read_answer("GET").expect_ok(path);
    }
}

/// A visitor who has written this request.
#[track_caller]
fn asks(gateway: &Gateway, request: impl AsRef<[u8]>) -> RawPeer {
    let mut visitor = gateway.visitor();
    visitor.write(request);
    visitor
}

/// The gateway's loop has seen what was written before: it takes what comes in the order in which
/// it comes.
#[track_caller]
fn fence(gateway: &Gateway) {
    gateway.get("/nobody-has-this-name/").expect_refusal(404);
}

/// A visitor who waits for `device`, and the event in its hand.
#[track_caller]
fn in_hand(gateway: &Gateway, device: &mut Device) -> (RawPeer, Event) {
    let visitor = asks(gateway, get(&format!("/{}/x", device.name)));
    (visitor, device.event())
}

// ── The seed's transcript ──

#[test]
fn the_seeds_device_is_served_as_its_transcript_prints_it() {
    let gateway = Gateway::start(&["--poll-hold", "1s", "--wait-for-link", "9s"]);
    let mut device = gateway.dial();
    // comet-1: held, since it has no session; then comet-4.
    let then = Instant::now();
    device.write(vector("comet-1-poll"));
    let nothing = device.read_answer("POST");
    assert!(then.elapsed() >= Duration::from_millis(900), "it was not held");
    let comet_4 = vector("comet-4-nothing");
    assert_eq!(nothing.body, Head::split(&comet_4).1);
    assert_eq!(
        (nothing.head.get("content-type"), nothing.head.get("content-length")),
        (Some("application/json"), Some("2"))
    );
    is_nothing(&nothing, Json);
    // comet-2: what a visitor asked.
    let mut visitor = asks(
        &gateway,
        "GET /default/ HTTP/1.1\r\nHost: 127.0.0.1:65331\r\nAccept-Encoding: identity\r\nAccept: text/plain;q=1,*/*;q=0\r\n\r\n",
    );
    device.write(vector("comet-1-poll"));
    let event = Event::of(device.read_answer("POST"));
    assert_eq!(
        (event.kind, event.method.as_str(), event.target.as_str(), event.body.as_slice()),
        (Json, "GET", "/", &b""[..])
    );
    assert_eq!(event.get("host"), Some("127.0.0.1:65331"));
    assert_eq!(event.get("accept-encoding"), Some("identity"));
    assert_eq!(event.get("accept"), Some("text/plain;q=1,*/*;q=0"));
    let opening = format!(
        "{{\"message-id\": \"{}\", \"method\": \"GET\", \"request-uri\": \"/\", \"http-version\": \"PTTH/1.0\", \"headers\": [[\"Host\", \"127.0.0.1:65331\"], ",
        event.id
    );
    assert!(
        event.bytes.starts_with(opening.as_bytes()),
        "the seed's order and spacing: {}",
        latin1(&event.bytes)
    );
    // comet-3, with the id that it was given, on the same connection.
    device.write(seeds_answer(&event.id));
    let answer = visitor.read_answer("GET");
    answer.expect_ok("!dlrow ,olleH");
    assert_eq!(answer.head.start, "HTTP/1.1 200 OK");
    assert_eq!(answer.head.get("content-type"), Some("text/plain"));
    assert_eq!(answer.head.get("date"), Some("Tue, 13 May 2008 20:14:45 GMT"));
    assert_eq!(answer.head.get("content-length"), Some("13"));
    // comet-4 once more: nothing came.
    is_nothing(&device.read_answer("POST"), Json);
}

/// comet-3 with this id in place of `xxx`.
fn seeds_answer(id: &str) -> Vec<u8> {
    let (head, body) = (vector("comet-3-answer"), vector("comet-3-answer"));
    let (head, body) = (
        Head::split(&head).0.text(),
        latin1(Head::split(&body).1).replace("\"xxx\"", &format!("\"{id}\"")),
    );
    (head.replace("Content-length: 193", &format!("Content-length: {}", body.len())) + &body)
        .into_bytes()
}

#[test]
fn the_seeds_device_is_served_by_other_polls_and_connections_too() {
    let gateway = Gateway::start(&[]);
    let mut device = Device::nameless(&gateway, "default", Json);
    for _ in 0..3 {
        let mut visitor = asks(&gateway, get("/default/x"));
        let event = device.event();
        let mut other = gateway.dial();
        other.write(seeds_answer(&event.id));
        visitor.read_answer("GET").expect_ok("!dlrow ,olleH");
        // The answer is a poll; that one is used up here, so that the next event comes to the
        // device.
        let mut visitor = asks(&gateway, get("/default/y"));
        let event = Event::of(other.read_answer("POST"));
        assert_eq!(event.target, "/y");
        device.answer(&event, &ok("y"));
        visitor.read_answer("GET").expect_ok("y");
    }
}

// ── Polls and what they are answered ──

#[test]
fn the_first_poll_of_a_session_is_answered_at_once_and_the_next_is_held() {
    let gateway = Gateway::start(&[]);
    for kind in BOTH {
        let mut device = Device::with(&gateway, "lamp", kind, &session());
        let then = Instant::now();
        device.poll();
        device.nothing();
        assert!(then.elapsed() < Duration::from_secs(5), "it was held");
        device.poll();
        device.quiet();
        device.serves(&gateway, "held");
        device.quiet();
        // Another connection of the same session is no new session.
        let mut other = device.again();
        other.poll();
        other.quiet();
        // Without a session it is held from the first one on.
        let mut nameless = Device::with(&gateway, "desk", kind, "");
        nameless.poll();
        nameless.quiet();
    }
}

#[test]
fn a_visitor_who_waits_already_is_the_answer_to_a_sessions_first_poll() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    for kind in BOTH {
        drop(Device::known(&gateway, "lamp", kind));
        let mut visitor = asks(&gateway, get("/lamp/early"));
        fence(&gateway);
        let mut device = Device::with(&gateway, "lamp", kind, &session());
        device.poll();
        let event = device.event();
        assert_eq!(event.target, "/early");
        device.answer(&event, &ok("at last"));
        visitor.read_answer("GET").expect_ok("at last");
    }
}

#[test]
fn a_poll_is_held_for_its_time_and_the_next_comes_on_the_same_connection() {
    let gateway = Gateway::start(&["--poll-hold", "300ms"]);
    for kind in BOTH {
        let mut device = Device::known(&gateway, "lamp", kind);
        for _ in 0..3 {
            let then = Instant::now();
            device.poll();
            let reply = device.peer.read_answer("POST");
            is_nothing(&reply, kind);
            assert!(!reply.head.closes(), "{}", reply.head.text());
            let held = then.elapsed();
            assert!(
                held >= Duration::from_millis(250) && held < Duration::from_secs(5),
                "it was held for {held:?}"
            );
        }
        device.peer.write(poll("lamp", &format!("{}Connection: close\r\n", device.fields)));
        let reply = device.peer.read_answer("POST");
        is_nothing(&reply, kind);
        assert!(reply.head.closes(), "{}", reply.head.text());
        device.peer.expect_closed();
    }
}

#[test]
fn pollers_of_http_1_0_are_served() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let upgrade = "Upgrade: PTTH/1.0\r\nConnection: Upgrade\r\n";
    for (number, fields) in ["", upgrade, "Connection: close\r\n"].into_iter().enumerate() {
        let name = format!("v{number}");
        // Known, and not polling: it has an event in hand.
        let mut known = Device::nameless(&gateway, &name, Json);
        let (mut first, first_event) = in_hand(&gateway, &mut known);
        let mut curl = gateway.dial();
        curl.write(format!(
            "POST /{name} HTTP/1.0\r\nHost: 127.0.0.1:9999\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 0\r\n{fields}\r\n"
        ));
        let mut visitor = asks(&gateway, get(&format!("/{name}/x")));
        let event = Event::of(curl.read_answer("POST"));
        assert_eq!((event.kind, event.target.as_str()), (Json, "/x"));
        curl.expect_closed();
        // The answer, in HTTP/1.0 too, is the next poll.
        let body = answer_json(&event, &ok("done"));
        let head = format!(
            "POST /{name} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut curl = gateway.dial();
        curl.write([head.as_bytes(), &body].concat());
        visitor.read_answer("GET").expect_ok("done");
        curl.expect_quiet(MOMENT);
        let mut visitor = asks(&gateway, get(&format!("/{name}/y")));
        let event = Event::of(curl.read_answer("POST"));
        curl.expect_closed();
        known.answer(&event, &ok("y"));
        visitor.read_answer("GET").expect_ok("y");
        let mut other = known.again();
        other.answer(&first_event, &ok("first"));
        first.read_answer("GET").expect_ok("first");
    }
    // Kept where that was asked for.
    let gateway = Gateway::start(&["--poll-hold", "100ms"]);
    let mut device = gateway.dial();
    for _ in 0..3 {
        device.write("POST /lamp HTTP/1.0\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n");
        let reply = device.read_answer("POST");
        is_nothing(&reply, Json);
        assert_eq!(
            reply.head.get("connection").map(str::to_lowercase).as_deref(),
            Some("keep-alive"),
            "{}",
            reply.head.text()
        );
    }
}

#[test]
fn accept_chooses_the_encoding() {
    let gateway = Gateway::start(&[]);
    let rows = [
        ("", Json),
        ("Accept: */*\r\n", Json),
        ("Accept: application/json\r\n", Json),
        ("Accept: message/http\r\n", Text),
        ("Accept: message/http, application/json\r\n", Text),
        ("Accept: application/json, message/http\r\n", Json),
        ("Accept: message/http;q=0.1, application/json;q=1\r\n", Text),
        ("Accept: message/http;q=0, application/json\r\n", Json),
        ("Accept: application/json;q=0, message/http\r\n", Text),
        ("Accept: message/http;q=0\r\n", Json),
        ("Accept: text/html, */*;q=0.8\r\nAccept: MESSAGE/HTTP\r\n", Text),
        ("Accept: text/plain\r\n", Json),
    ];
    each_row(
        &rows,
        |(fields, _)| (*fields).to_owned(),
        |(fields, kind)| {
            let mut device = gateway.dial();
            device.write(poll("lamp", &format!("{fields}{}", session())));
            is_nothing(&device.read_answer("POST"), *kind);
        },
    );
    // The encoding is each poll's own.
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let mut device = Device::polling(&gateway, "lamp", Json);
    for kind in [Text, Json, Text] {
        let (mut visitor, event) = in_hand(&gateway, &mut device);
        let mut other = device.again();
        other.kind = kind;
        other.fields = other.fields.replace(device.kind.media_type(), kind.media_type());
        other.answer(&event, &ok("x"));
        visitor.read_answer("GET").expect_ok("x");
        device = other;
    }
}

// ── What an event is, and what becomes of its answer ──

#[test]
fn an_event_is_the_request_that_a_link_would_have_had() {
    let gateway = Gateway::start(&[]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        let mut visitor = asks(
            &gateway,
            b"OPTIONS /lamp/a%2Fb//c?x=1&y=%00 HTTP/1.1\r\nHost: a.example:8080\r\nx-first: 1\r\nX-Second: caf\xE9\r\nX-FIRST: 2\r\nCookie: a=\"b\\\"\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: gzip\r\nX_Under: 1\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Prefix: /evil\r\nForwarded: for=6.6.6.6\r\n\r\n",
        );
        let event = device.event();
        assert_eq!(
            (event.method.as_str(), event.target.as_str()),
            ("OPTIONS", "/a%2Fb//c?x=1&y=%00")
        );
        assert_eq!(event.get("host"), Some("a.example:8080"));
        assert_eq!(
            event.get("x-second"),
            Some("caf\u{e9}"),
            "bytes above 0x7F are those of ISO-8859-1"
        );
        assert_eq!(event.get("cookie"), Some("a=\"b\\\""));
        let spelled: Vec<&str> = event
            .fields
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|n| n.starts_with(['x', 'X']))
            .collect();
        assert_eq!(
            spelled[..3],
            ["x-first", "X-Second", "X-FIRST"],
            "order and spelling are kept: {:?}",
            event.fields
        );
        assert_eq!(event.all("x-first"), ["1", "2"]);
        assert_eq!(event.get("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(event.get("x-forwarded-proto"), Some("http"));
        assert_eq!(event.get("x-forwarded-host"), Some("a.example:8080"));
        assert_eq!(event.get("x-forwarded-prefix"), Some("/lamp"));
        assert!(event.all("via").iter().any(|via| via.contains("ptth")), "{:?}", event.fields);
        for name in ["x-hop", "x_under", "te", "forwarded", "keep-alive", "connection"] {
            assert!(event.all(name).is_empty(), "{name} was forwarded: {:?}", event.fields);
        }
        device.answer(&event, &ok(""));
        visitor.read_answer("OPTIONS").expect_ok("");
        // The last that fits: 99 fields beside its Host, a target of 7,994 bytes behind the name.
        for request in [
            format!("GET /lamp/x HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(99)),
            format!("GET /lamp/{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(7_994)),
        ] {
            let mut visitor = asks(&gateway, &request);
            let event = device.event();
            assert_eq!(event.all("x").len(), request.matches("X: y").count());
            device.answer(&event, &ok("fits"));
            visitor.read_answer("GET").expect_ok("fits");
        }
    }
}

#[test]
fn an_answer_reaches_its_visitor_as_over_a_link() {
    let gateway = Gateway::start(&[]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        let (mut visitor, event) = in_hand(&gateway, &mut device);
        let fields = [
            ("Set-Cookie", "a=1"),
            ("x-lower", "caf\u{e9}\u{ff}"),
            ("set-cookie", "b=2"),
            ("Server", "it"),
            ("Connection", "close"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "x"),
            ("Upgrade", "h2c"),
        ];
        device.answer(&event, &reply(299, "Rather Unusual", &fields, "\u{e4}\u{20ac}\u{1F4A1}\0"));
        let answer = visitor.read_answer("GET");
        assert_eq!(answer.head.start, "HTTP/1.1 299 Rather Unusual", "{kind:?}");
        assert_eq!(answer.body, "\u{e4}\u{20ac}\u{1F4A1}\0".as_bytes(), "{kind:?}");
        assert_eq!(answer.head.all("set-cookie"), ["a=1", "b=2"]);
        assert_eq!(
            (answer.head.get("x-lower"), answer.head.get("server")),
            (Some("caf\u{e9}\u{ff}"), Some("it"))
        );
        for name in ["keep-alive", "proxy-connection", "upgrade", "ptth-message-id"] {
            assert!(answer.head.all(name).is_empty(), "{name} in {}", answer.head.text());
        }
        assert!(!answer.head.closes(), "{}", answer.head.text());
        // The visitor's connection goes on, and so does the device's. Bytes that are no text:
        let bytes: Vec<u8> = (0..=255).collect();
        visitor.write(get("/lamp/bytes"));
        let event = device.event();
        device.answer(&event, &ok(&bytes));
        assert_eq!(visitor.read_answer("GET").body, bytes, "{kind:?}");
        // An empty reason phrase is legal.
        visitor.write(get("/lamp/reason"));
        let event = device.event();
        device.answer(&event, &reply(500, "", &[], ""));
        let answer = visitor.read_answer("GET");
        assert_eq!(
            (answer.status(), answer.body.len(), answer.head.get("content-length")),
            (500, 0, Some("0"))
        );
    }
}

#[test]
fn answers_without_a_body_keep_the_length_they_speak_of() {
    let gateway = Gateway::start(&[]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        let mut visitor = gateway.visitor();
        for (method, status, length) in [
            ("HEAD", 200, Some("1234")),
            ("HEAD", 200, None),
            ("GET", 304, Some("1234")),
            ("GET", 304, None),
            ("GET", 204, None),
            ("HEAD", 204, None),
        ] {
            visitor.write(format!("{method} /lamp/x HTTP/1.1\r\nHost: a\r\n\r\n"));
            let event = device.event();
            assert_eq!(event.method, method);
            let fields: Vec<(&str, &str)> = length
                .map(|length| ("Content-Length", length))
                .into_iter()
                .chain([("ETag", "\"a\"")])
                .collect();
            device.answer(&event, &reply(status, "Fine", &fields, ""));
            let answer = visitor.read_answer(method);
            assert_eq!(
                (answer.status(), answer.head.get("etag")),
                (status, Some("\"a\"")),
                "{kind:?}"
            );
            if length.is_some() || status == 204 {
                assert_eq!(
                    answer.head.get("content-length"),
                    length,
                    "{kind:?} {method} {status}: {}",
                    answer.head.text()
                );
            }
            assert!(!answer.head.closes(), "{}", answer.head.text());
        }
    }
    // In JSON, what may not be there is left out, and a length that is wrong counts for nothing.
    let mut device = Device::polling(&gateway, "lamp", Json);
    let mut visitor = gateway.visitor();
    for (method, status, fields, body) in [
        ("HEAD", 200, json!([["Content-Length", "5"]]), "hello"),
        ("GET", 204, json!([["Content-Length", "5"]]), "hello"),
        ("GET", 304, json!([]), "hello"),
        ("GET", 200, json!([["Content-Length", "999"], ["Transfer-Encoding", "chunked"]]), "hello"),
    ] {
        visitor.write(format!("{method} /lamp/x HTTP/1.1\r\nHost: a\r\n\r\n"));
        let event = device.event();
        device.post(
            "application/json",
            "",
            json!({"message-id": event.id, "status": status, "headers": fields, "body": body})
                .to_string(),
        );
        let answer = visitor.read_answer(method);
        assert_eq!(answer.status(), status);
        assert_eq!(
            answer.text(),
            if method == "GET" && status == 200 { "hello" } else { "" },
            "{}",
            answer.head.text()
        );
    }
    // And what an answer may leave out is made up for.
    visitor.write(get("/lamp/x"));
    let event = device.event();
    device.post(
        "application/json; charset=utf-8",
        "",
        json!({"message-id": event.id, "unknown": [1, {}]}).to_string(),
    );
    let answer = visitor.read_answer("GET");
    assert_eq!(answer.head.start, "HTTP/1.1 200 OK");
    answer.expect_ok("");
}

#[test]
fn text_plain_stands_for_message_http_from_seed_style_peers() {
    let gateway = Gateway::start(&[]);
    let mut device = Device::polling(&gateway, "lamp", Text);
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    let id = format!("PTTH-Message-ID: {}\r\n", event.id);
    device.post(
        "text/plain; charset=us-ascii",
        &id,
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    );
    visitor.read_answer("GET").expect_ok("ok");
    // Interim responses are dropped.
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    let id = format!("PTTH-Message-ID: {}\r\n", event.id);
    let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    device.post("message/http;msgtype=response", &id, text);
    let answer = visitor.read_answer("GET");
    answer.expect_ok("ok");
    assert!(answer.interim.is_empty(), "1xx through a mailbox");
}

#[test]
fn trailers_travel_both_ways() {
    let gateway = Gateway::start(&[]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        let mut visitor = asks(
            &gateway,
            "POST /lamp/x HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX-Sum: 1\r\nx-sum: 2\r\nContent-Length: 7\r\n\r\n",
        );
        let event = device.event();
        assert_eq!(
            (event.body.as_slice(), event.method.as_str()),
            (&b"hello"[..], "POST"),
            "{kind:?}"
        );
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(event.trailers, [pair("X-Sum", "1"), pair("x-sum", "2")], "{kind:?}");
        device.answer(
            &event,
            &Reply {
                trailers: vec![pair("X-Digest", "abc"), pair("Set-Cookie", "a=b")],
                ..ok("hello")
            },
        );
        let answer = visitor.read_answer("POST");
        answer.expect_ok("hello");
        assert_eq!(answer.trailers, [pair("X-Digest", "abc")], "{kind:?}: {}", answer.head.text());
    }
}

// ── Uploads ──

#[test]
fn uploads_arrive_whole_in_both_encodings() {
    let gateway = Gateway::start(&[]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        let mut visitor = gateway.visitor();
        let bytes = pattern(300_000);
        let chunked: Vec<u8> = bytes
            .chunks(7_001)
            .flat_map(|piece| {
                [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()
            })
            .collect();
        for (framing, wire, body) in [
            ("Content-Length: 0", vec![], vec![]),
            (
                "Content-Length: 11",
                b"hell\xC3\xB6\r\n\r\n\0".to_vec(),
                b"hell\xC3\xB6\r\n\r\n\0".to_vec(),
            ),
            ("Content-Length: 300000", bytes.clone(), bytes.clone()),
            (
                "Transfer-Encoding: chunked",
                [chunked.as_slice(), b"0\r\n\r\n"].concat(),
                bytes.clone(),
            ),
            ("Transfer-Encoding: chunked", b"0\r\n\r\n".to_vec(), vec![]),
        ] {
            visitor.write(format!(
                "PUT /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Type: a/b\r\n{framing}\r\n\r\n"
            ));
            visitor.write(&wire);
            let event = device.event();
            assert_eq!((event.method.as_str(), event.get("content-type")), ("PUT", Some("a/b")));
            assert_eq!(Hash::of(&event.body), Hash::of(&body), "{kind:?} {framing}");
            if kind == Json {
                let members: Value = serde_json::from_slice(&event.bytes).unwrap();
                assert_eq!(
                    members.get("body-encoding").is_some(),
                    std::str::from_utf8(&body).is_err()
                );
            }
            device.answer(&event, &ok("thanks"));
            visitor.read_answer("PUT").expect_ok("thanks");
        }
    }
}

#[test]
fn a_visitor_who_expects_a_100_gets_it_from_the_gateway() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    for (kind, framing, body) in [
        (Json, "Content-Length: 5", "hello"),
        (Text, "Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
    ] {
        let mut device = Device::polling(&gateway, "lamp", kind);
        let mut visitor = asks(
            &gateway,
            format!(
                "POST /lamp/x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n{framing}\r\n\r\n"
            ),
        );
        assert_eq!(visitor.read_head().start, "HTTP/1.1 100 Continue");
        device.quiet(); // it gets the whole of it or nothing
        visitor.write(body);
        let event = device.event();
        assert_eq!(event.body, b"hello");
        device.answer(&event, &ok("ok"));
        visitor.read_answer("POST").expect_ok("ok");
    }
}

#[test]
fn an_upload_that_is_cut_never_reaches_the_device() {
    let gateway = Gateway::start(&[]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        for (framing, body) in [
            ("Content-Length: 6", "hello"),
            ("Transfer-Encoding: chunked", "5\r\nhello\r\n"),
            ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n"),
            ("Transfer-Encoding: chunked", "5\r\nhello!\r\n0\r\n\r\n"),
        ] {
            let mut visitor = asks(
                &gateway,
                format!("POST /lamp/cut HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}"),
            );
            visitor.finish_writing();
            if let Some(head) = visitor.try_read_head() {
                assert_eq!(head.status(), 400, "{}", head.text());
            }
            device.serves(&gateway, "behind-it"); // fails where the cut one is the event
        }
    }
}

const BOUND: usize = 8 * 1024 * 1024;

#[test]
fn an_upload_at_the_bound_passes_and_one_above_it_is_413() {
    let gateway = Gateway::start(&["--wait-for-link", "9s", "--poll-hold", "80s"]); // 8 MiB may take their time
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        device.peer.deadline = Duration::from_secs(60);
        let bytes = pattern(BOUND);
        let mut visitor = asks(
            &gateway,
            format!("POST /lamp/x HTTP/1.1\r\nHost: a\r\nContent-Length: {BOUND}\r\n\r\n"),
        );
        visitor.deadline = Duration::from_secs(60);
        visitor.write(&bytes);
        let event = device.event();
        assert_eq!(Hash::of(&event.body), Hash::of(&bytes), "{kind:?}");
        device.answer(&event, &ok("all of it"));
        visitor.read_answer("POST").expect_ok("all of it");
        // One byte more, announced.
        for expect in ["", "Expect: 100-continue\r\n"] {
            let mut visitor = asks(
                &gateway,
                format!(
                    "POST /lamp/x HTTP/1.1\r\nHost: a\r\n{expect}Content-Length: {}\r\n\r\n",
                    BOUND + 1
                ),
            );
            let answer = visitor.read_answer("POST");
            answer.expect_refusal(413);
            assert!(answer.interim.is_empty(), "a 100 for what is refused");
        }
        // And not announced.
        let mut visitor = asks(
            &gateway,
            "POST /lamp/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        visitor.deadline = Duration::from_secs(60);
        visitor.write(chunk(vec![b'x'; BOUND]));
        visitor.write(chunk("x")); // and no more, so that the answer is not lost to a reset
        visitor.read_answer("POST").expect_refusal(413);
        device.serves(&gateway, "behind-it");
    }
}

#[test]
fn an_answer_in_json_above_the_bound_is_413_and_502() {
    let gateway = Gateway::start(&["--wait-for-link", "9s", "--poll-hold", "80s"]);
    let mut device = Device::polling(&gateway, "lamp", Json);
    device.peer.deadline = Duration::from_secs(60);
    // At the bound it passes.
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    visitor.deadline = Duration::from_secs(60);
    let rest = answer_json(&event, &ok("")).len();
    let body = "x".repeat(BOUND - rest);
    let whole = answer_json(&event, &ok(&body));
    assert_eq!(whole.len(), BOUND);
    device.post("application/json", "", whole);
    assert_eq!(visitor.read_answer("GET").body.len(), body.len());
    // Above it: the field says whose answer it is, so the visitor need not wait.
    for framing in
        [format!("Content-Length: {}", BOUND + 1), "Transfer-Encoding: chunked".to_owned()]
    {
        let (mut visitor, event) = in_hand(&gateway, &mut device);
        let mut other = device.again();
        other.peer.write(format!(
            "POST /lamp HTTP/1.1\r\nHost: gw\r\nContent-Type: application/json\r\nPTTH-Message-ID: {}\r\n{framing}\r\n{}\r\n",
            event.id, other.fields
        ));
        if framing.starts_with('T') {
            other.peer.deadline = Duration::from_secs(60);
            other.peer.write(chunk(vec![b' '; BOUND]));
            other.peer.write(chunk(" "));
        }
        other.refused(&[413]);
        visitor.read_answer("GET").expect_refusal(502);
        device.poll();
    }
    // Without it nobody knows whose it was: the event can still be answered.
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    let mut other = device.again();
    let head = format!(
        "POST /lamp HTTP/1.1\r\nHost: gw\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
        BOUND + 1
    );
    other.peer.write(format!("{head}{}\r\n", other.fields));
    other.refused(&[413]);
    device.answer(&event, &ok("small"));
    visitor.read_answer("GET").expect_ok("small");
    device.serves(&gateway, "behind-it");
}

// ── Answers that stream ──

/// The head of a POST that brings an answer in `message/http`, chunked.
fn streamed(device: &Device, event: &Event) -> String {
    format!(
        "POST /{} HTTP/1.1\r\nHost: gw\r\nContent-Type: message/http\r\nPTTH-Message-ID: {}\r\nTransfer-Encoding: chunked\r\n{}\r\n",
        device.name, event.id, device.fields
    )
}

fn chunk(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

#[test]
fn an_answer_in_message_http_streams() {
    let gateway = Gateway::start(&[]);
    let mut device = Device::polling(&gateway, "lamp", Text);
    // Inner length, outer chunks.
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    device.peer.write(streamed(&device, &event));
    device.peer.write(chunk("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nConte"));
    device.peer.write(chunk("nt-Length: 10\r\n\r\n01234"));
    let head = visitor.read_head();
    assert_eq!((head.status(), head.get("content-length")), (200, Some("10")), "{}", head.text());
    assert_eq!(visitor.read_exact(5), b"01234", "the POST is not finished");
    device.peer.write(chunk("5678"));
    assert_eq!(visitor.read_exact(4), b"5678");
    device.peer.write([chunk("9"), b"0\r\n\r\n".to_vec()].concat());
    assert_eq!(visitor.read_exact(1), b"9");
    device.serves(&gateway, "the-post-is-a-poll");
    // Inner chunks in outer chunks, cut where they like.
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    device.peer.write(streamed(&device, &event));
    let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\nX-Sum: 1\r\n\r\n";
    for piece in text.as_bytes().chunks(3) {
        device.peer.write(chunk(piece));
    }
    device.peer.write("0\r\n\r\n");
    let answer = visitor.read_answer("GET");
    answer.expect_ok("hello!");
    assert_eq!(answer.trailers, [("X-Sum".to_owned(), "1".to_owned())]);
    device.serves(&gateway, "the-post-is-a-poll");
    // Inner chunks in a POST with its length, byte by byte.
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    let whole = post(
        "lamp",
        &format!("{}PTTH-Message-ID: {}\r\n", device.fields, event.id),
        "message/http",
        text,
    );
    for byte in whole {
        device.peer.write([byte]);
    }
    visitor.read_answer("GET").expect_ok("hello!");
    device.serves(&gateway, "the-post-is-a-poll");
}

#[test]
fn a_large_answer_in_message_http_has_no_bound_and_needs_no_memory() {
    const LARGE: usize = 64 << 20;
    let gateway = Gateway::start(&[]);
    let mut device = Device::polling(&gateway, "lamp", Text);
    device.serves(&gateway, "warm");
    let before = gateway.process.resident_kib();
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
    let fields = format!("{}PTTH-Message-ID: {}\r\n", device.fields, event.id);
    let length = head.len() + LARGE;
    let writer = std::thread::spawn(move || {
        device.peer.write(format!(
            "POST /lamp HTTP/1.1\r\nHost: gw\r\nContent-Type: message/http\r\nContent-Length: {length}\r\n{fields}\r\n{head}"
        ));
        pattern(LARGE).chunks(1 << 20).for_each(|piece| device.peer.write(piece));
        device
    });
    assert_eq!(visitor.read_head().status(), 200);
    let mut hash = Hash::default();
    visitor.read_through(LARGE as u64, |piece| hash.update(piece));
    assert_eq!(hash.finish(), Hash::of_pattern(LARGE as u64));
    let grown = gateway.process.resident_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "the gateway grew by {grown} KiB");
    writer.join().unwrap().serves(&gateway, "behind-it");
}

#[test]
fn an_answer_that_is_cut_is_an_aborted_message() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let mut device = Device::polling(&gateway, "lamp", Text);
    for (name, text) in [
        ("within a body with a length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"),
        (
            "within an inner chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhello",
        ),
        (
            "before the last inner chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        ),
        (
            "within the last inner chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        ),
    ] {
        let (mut visitor, event) = in_hand(&gateway, &mut device);
        let mut other = device.again();
        other.peer.write(streamed(&device, &event));
        other.peer.write(chunk(text));
        assert!(visitor.stirs_within(DEADLINE), "{name}: nothing went on");
        drop(other);
        match visitor.read_answer_or_cut("GET") {
            Ok(answer) => panic!(
                "{name}: the visitor got a whole message: {}{}",
                answer.head.text(),
                answer.text()
            ),
            Err(cut) => assert_eq!(cut.head.map(|head| head.status()), Some(200), "{name}"),
        }
        device.poll();
    }
    // Cut before anything of it went on: it can still be answered.
    for start in ["", "HTTP/1.1 200 OK\r\nContent-Len"] {
        let (mut visitor, event) = in_hand(&gateway, &mut device);
        let mut other = device.again();
        other.peer.write(streamed(&device, &event));
        if !start.is_empty() {
            other.peer.write(chunk(start));
        }
        drop(other);
        fence(&gateway);
        device.answer(&event, &ok("after all"));
        visitor.read_answer("GET").expect_ok("after all");
    }
}

/// The rest of a short answer is read for the sake of the connection, as on a link, and not for
/// ever.
#[test]
fn an_answer_whose_visitor_has_left_is_given_up_when_it_stalls() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let mut device = Device::polling(&gateway, "lamp", Text);
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    let text = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello";
    let fields = format!("{}PTTH-Message-ID: {}\r\n", device.fields, event.id);
    let whole = post("lamp", &fields, "message/http", [text.as_bytes(), &[b'x'; 95]].concat());
    device.peer.write(&whole[..whole.len() - 95]);
    assert!(visitor.stirs_within(DEADLINE));
    visitor.reset();
    let reply = device.refused(&[400]);
    assert!(
        reply.text().contains("was not taken to its end"),
        "the exchange did not end with its POST: {}",
        reply.text()
    );
}

/// A device that has one poll answers nobody else while it streams: its reader is held to the rate
/// as the reader of a link is.
#[test]
fn a_visitor_below_the_least_rate_loses_a_poll_that_others_wait_for() {
    let gateway = Gateway::start(&["--min-rate", "1024", "--wait-for-link", "28s"]);
    let mut device = Device::polling(&gateway, "lamp", Text);
    let mut slow = RawPeer::connect_narrow(gateway.visitors);
    slow.write(get("/lamp/x"));
    let event = device.event();
    device.peer.write(streamed(&device, &event));
    device.peer.write(chunk("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"));
    let mut waiting = asks(&gateway, get("/lamp/y"));
    waiting.deadline = Duration::from_secs(25);
    let then = Instant::now();
    device.peer.deadline = Duration::from_secs(60);
    // Who posts is told by an early reply, and its connection is read from for a while.
    while !device.peer.stirs_within(Duration::from_millis(1))
        && device.peer.try_write(chunk([b'x'; 50_000])).is_ok()
    {}
    let took = then.elapsed();
    assert!(
        (8..25).contains(&took.as_secs()),
        "the rate is taken over 10 s, and it was ended after {took:?}"
    );
    let mut fresh = device.again();
    fresh.poll();
    let event = fresh.event();
    fresh.answer(&event, &ok("y"));
    waiting.read_answer("GET").expect_ok("y");
    drop(slow);
}

/// After an answer that was refused: its visitor saw a message cut, or nothing of it, and a right
/// answer reaches them. `device` polls behind it.
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

#[test]
fn an_answer_in_json_that_is_wrong_is_refused_and_a_right_one_still_taken() {
    // T14, T10. In the rows, ID is the event's.
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let deep = format!("{{\"message-id\": \"ID\", \"unknown\": {}", "[".repeat(100_000));
    let members = |rest: &str| format!("{{\"message-id\": \"ID\", {rest}}}");
    let rows: Vec<(&str, Vec<u8>)> = vec![
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
    ];
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

#[test]
fn what_is_neither_poll_nor_answer_is_refused_and_costs_no_event() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let mut rows: Vec<(String, Vec<u8>, &[u16])> = [
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
    let raw = |lines: &str, body: &str| {
        format!("POST /NAME HTTP/1.1\r\nHost: gw\r\n{lines}FIELDS\r\n\r\n{body}").into_bytes()
    };
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

// ── Several at once, and waiting ──

#[test]
fn several_polls_are_several_exchanges_and_answers_come_in_any_order() {
    const MANY: usize = 16;
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    for kind in BOTH {
        let first = Device::known(&gateway, "lamp", kind);
        let mut devices: Vec<Device> = (0..MANY).map(|_| first.again()).collect();
        devices.iter_mut().for_each(Device::poll);
        let mut visitors: Vec<RawPeer> =
            (0..MANY).map(|i| asks(&gateway, get(&format!("/lamp/{i}")))).collect();
        let mut events: Vec<Event> = devices.iter_mut().map(Device::event).collect();
        let targets: BTreeSet<String> = events.iter().map(|event| event.target.clone()).collect();
        let ids: BTreeSet<&str> = events.iter().map(|event| event.id.as_str()).collect();
        assert_eq!(
            (targets.len(), ids.len()),
            (MANY, MANY),
            "each poll takes one event: {targets:?}"
        );
        // A shuffle, each on another connection than it came on.
        for round in 0..MANY {
            let event = events.remove(round * 7 % events.len());
            devices[(round * 5 + 3) % MANY].answer(&event, &ok(&event.target));
            let number: usize = event.target[1..].parse().unwrap();
            visitors[number].read_answer("GET").expect_ok(format!("/{number}"));
        }
    }
}

#[test]
fn events_go_out_in_the_order_in_which_they_came() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    for kind in BOTH {
        let mut device = Device::known(&gateway, "lamp", kind);
        let mut visitors: Vec<RawPeer> = (0..8)
            .map(|i| {
                let visitor = asks(&gateway, get(&format!("/lamp/{i}")));
                fence(&gateway);
                visitor
            })
            .collect();
        // Any poll takes the oldest; one connection may have several events in hand.
        let mut other = device.again();
        let mut events = Vec::new();
        for i in 0..8 {
            let poller = if i % 3 == 0 { &mut other } else { &mut device };
            poller.poll();
            let event = poller.event();
            assert_eq!(event.target, format!("/{i}"), "{kind:?}");
            events.push(event);
        }
        let mut posts = Vec::new();
        for (event, visitor) in events.iter().zip(&mut visitors).rev() {
            let mut post = device.again();
            post.answer(event, &ok(&event.target));
            visitor.read_answer("GET").expect_ok(&event.target);
            posts.push(post);
        }
    }
}

#[test]
fn nobody_knows_this_device_404_and_a_known_one_that_does_not_poll_503() {
    let gateway = Gateway::start(&["--wait-for-link", "300ms"]);
    gateway.get("/lamp/x").expect_refusal(404);
    for kind in BOTH {
        drop(Device::known(&gateway, "lamp", kind));
        let then = Instant::now();
        let answer = gateway.get("/lamp/x");
        answer.expect_refusal(503);
        assert!(then.elapsed() >= Duration::from_millis(250), "it was not waited for");
        assert_eq!(answer.head.get("retry-after"), Some("1"), "{}", answer.head.text());
        // What was given up is not handed out later.
        let mut device = Device::known(&gateway, "lamp", kind);
        device.poll();
        device.quiet();
        device.serves(&gateway, "later");
    }
    gateway.get("/desk/x").expect_refusal(404);
}

#[test]
fn a_device_that_stopped_polling_is_known_and_not_connected() {
    // Presence ends 5 s after the last poll. Before and behind, nobody hangs and nobody hears 404.
    let gateway = Gateway::start(&["--wait-for-link", "100ms", "--poll-hold", "100ms"]);
    let device = Device::polling(&gateway, "lamp", Json);
    drop(device);
    let then = Instant::now();
    while then.elapsed() < Duration::from_millis(6_500) {
        let answer = gateway.get("/lamp/x");
        answer.expect_refusal(503);
        assert!(answer.head.get("retry-after").is_some(), "{}", answer.head.text());
    }
    Device::known(&gateway, "lamp", Json); // it may come back
}

#[test]
fn handed_out_and_unanswered_is_504_and_a_late_answer_is_dropped() {
    let gateway = Gateway::start(&["--first-byte", "1s", "--wait-for-link", "9s"]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        let (mut visitor, event) = in_hand(&gateway, &mut device);
        let then = Instant::now();
        visitor.read_answer("GET").expect_refusal(504);
        assert!(
            then.elapsed() >= Duration::from_millis(900) && then.elapsed() < Duration::from_secs(8)
        );
        device.answer(&event, &ok("late"));
        device.quiet();
        // It is nobody's answer.
        let mut visitor = asks(&gateway, get("/lamp/next"));
        let next = device.event();
        assert_ne!(next.id, event.id);
        device.answer(&next, &ok("next"));
        visitor.read_answer("GET").expect_ok("next");
        device.serves(&gateway, "goes-on");
    }
}

#[test]
fn a_visitor_who_leaves_shifts_nobodys_answer() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        for round in 0..5 {
            let (visitor, event) = in_hand(&gateway, &mut device);
            drop(visitor);
            fence(&gateway);
            device.answer(&event, &ok("for nobody"));
            device.serves(&gateway, &format!("for-somebody-{round}"));
        }
        // Gone before it was handed out: it is not, or its answer goes nowhere.
        let mut device = Device::known(&gateway, "lamp", kind);
        drop(asks(&gateway, get("/lamp/gone")));
        fence(&gateway);
        let mut visitor = asks(&gateway, get("/lamp/there"));
        device.poll();
        let mut event = device.event();
        if event.target == "/gone" {
            device.answer(&event, &ok("for nobody"));
            event = device.event();
        }
        assert_eq!(event.target, "/there");
        device.answer(&event, &ok("there"));
        visitor.read_answer("GET").expect_ok("there");
    }
}

// ── Re-delivery (T43) ──

#[test]
fn a_poll_that_dies_before_the_event_loses_none() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        device.quiet();
        let mut next = device.again();
        drop(device);
        fence(&gateway);
        let mut visitor = asks(&gateway, get("/lamp/x"));
        next.poll();
        let event = next.event();
        assert_eq!(event.target, "/x");
        next.answer(&event, &ok("x"));
        visitor.read_answer("GET").expect_ok("x");
    }
}

/// A visitor's upload of 8 MiB, of whose event the device reads only the start before its
/// connection dies. The event's id.
#[track_caller]
fn cut_within_an_event(gateway: &Gateway, device: &Device, method: &str) -> (RawPeer, String) {
    let mut poller = device.again();
    poller.peer = RawPeer::connect_narrow(device.at);
    poller.poll();
    let mut visitor = asks(
        gateway,
        format!(
            "{method} /{}/x HTTP/1.1\r\nHost: a\r\nContent-Length: {BOUND}\r\n\r\n",
            device.name
        ),
    );
    visitor.deadline = Duration::from_secs(60);
    visitor.write(vec![b'x'; BOUND]);
    poller.peer.deadline = Duration::from_secs(60);
    let head = poller.peer.read_head();
    assert_eq!(head.status(), 200, "{}", head.text());
    let id = match device.kind {
        Text => head.get("ptth-message-id").unwrap().to_owned(),
        Json => latin1(&poller.peer.read_exact(64)).split('"').nth(3).unwrap().to_owned(),
    };
    (visitor, id)
}

#[test]
fn an_event_that_was_not_written_whole_goes_to_the_next_poll_with_its_id() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    for kind in BOTH {
        // With a session any method, without one those that are idempotent.
        for (name, method) in [("lamp", "POST"), ("lamp", "PUT"), ("desk", "PUT")] {
            let mut device = if name == "lamp" {
                Device::known(&gateway, name, kind)
            } else {
                Device::nameless(&gateway, name, kind)
            };
            if name == "desk" {
                // Its poll goes with its connection.
                let fresh = device.again();
                drop(std::mem::replace(&mut device, fresh));
                fence(&gateway);
            }
            let (mut visitor, id) = cut_within_an_event(&gateway, &device, method);
            device.peer.deadline = Duration::from_secs(60);
            device.poll();
            let event = device.event();
            assert_eq!(
                (event.id.as_str(), event.method.as_str(), event.body.len()),
                (id.as_str(), method, BOUND),
                "{kind:?} {name}"
            );
            device.answer(&event, &ok("once"));
            visitor.read_answer(method).expect_ok("once");
            device.quiet(); // and not a third time
        }
    }
}

#[test]
fn an_unsafe_event_of_a_device_without_a_session_is_not_written_twice() {
    let gateway = Gateway::start(&["--wait-for-link", "9s", "--head", "60s"]);
    for kind in BOTH {
        let device = Device::nameless(&gateway, "lamp", kind);
        let mut next = device.again();
        drop(device);
        fence(&gateway);
        let (mut visitor, id) = cut_within_an_event(&gateway, &next, "POST");
        next.poll();
        visitor.read_answer("POST").expect_refusal(502);
        next.quiet();
        let mut visitor = asks(&gateway, get("/lamp/next"));
        let event = next.event();
        assert_eq!(event.target, "/next");
        assert_ne!(event.id, id);
        next.answer(&event, &ok("next"));
        visitor.read_answer("GET").expect_ok("next");
    }
}

#[test]
fn an_event_without_an_answer_comes_once_more_after_ten_seconds() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    // Name, session, request.
    let upload = |name: &str| {
        format!("POST /{name}/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
    };
    let mut rows: Vec<(Device, RawPeer, Event, bool)> = Vec::new();
    for (name, kind, has_session, request, again) in [
        ("a", Json, true, get("/a/x"), true),
        ("b", Text, true, upload("b"), true),
        ("c", Json, true, upload("c"), true),
        ("e", Text, false, upload("e"), false),
    ] {
        let mut device = if has_session {
            Device::polling(&gateway, name, kind)
        } else {
            Device::nameless(&gateway, name, kind)
        };
        let mut visitor = asks(&gateway, request);
        visitor.deadline = Duration::from_secs(20);
        let event = device.event();
        device.peer.deadline = Duration::from_secs(20);
        rows.push((device, visitor, event, again));
    }
    let then = Instant::now();
    for (device, ..) in &mut rows {
        device.poll();
    }
    for (device, visitor, event, again) in &mut rows {
        if !*again {
            device.peer.expect_quiet(Duration::from_millis(500));
            // Its visitor still waits, or was told; the answer that comes now is not lost where
            // somebody waits for it.
            if visitor.stirs_within(Duration::from_millis(1)) {
                visitor.read_answer("POST").expect_refusal(502);
            } else {
                let mut other = device.again();
                other.answer(event, &ok("late, and whole"));
                visitor.read_answer("POST").expect_ok("late, and whole");
            }
            continue;
        }
        let copy = device.event();
        let took = then.elapsed();
        assert!(
            took > Duration::from_secs(8) && took < Duration::from_secs(13),
            "{}: it came again after {took:?}",
            device.name
        );
        assert_eq!(
            (&copy.id, &copy.target, latin1(&copy.body)),
            (&event.id, &event.target, latin1(&event.body))
        );
        device.answer(event, &ok("once"));
        visitor.read_answer(&event.method).expect_ok("once");
    }
    // Answered: none of them comes a third time.
    for (device, ..) in rows.iter_mut().filter(|row| row.3) {
        device.quiet();
        device.serves(&gateway, "the-next");
    }
}

// ── Sessions, groups, links ──

#[test]
fn a_new_session_replaces_the_old_one() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    for kind in BOTH {
        let mut old = Device::polling(&gateway, "lamp", kind);
        let (mut visitor, event) = in_hand(&gateway, &mut old);
        let mut held = old.again();
        held.poll();
        held.quiet();
        let mut new = Device::known(&gateway, "lamp", kind);
        let reply = held.refused(&[409]);
        assert_eq!(reply.head.get("retry-after"), Some("60"), "{}", reply.head.text());
        visitor.read_answer("GET").expect_refusal(502);
        // Neither its answers nor its polls count while the new one is there.
        old.answer(&event, &ok("too late"));
        assert_eq!(old.refused(&[409]).head.get("retry-after"), Some("60"));
        let mut third = old.again();
        third.poll();
        third.refused(&[409]);
        new.poll();
        new.serves(&gateway, "the-new-one");
        // Another name is another matter.
        let mut desk =
            Device::with(&gateway, "desk", kind, old.fields.split_once("\r\n").unwrap().1);
        desk.poll();
        desk.nothing();
    }
}

/// The old one need not be connected still when the new one comes: its request was handed out, and
/// may have been obeyed.
#[test]
fn what_an_old_session_had_in_hand_goes_to_no_other_one_after_it_has_gone() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let mut old = Device::polling(&gateway, "lamp", Json);
    let mut visitor =
        asks(&gateway, "POST /lamp/order HTTP/1.1\r\nHost: v\r\nContent-Length: 3\r\n\r\none");
    old.event();
    drop(old);
    gateway.process.expect_stderr("lamp: down");
    let mut new = Device::polling(&gateway, "lamp", Json);
    visitor.read_answer("POST").expect_refusal(502);
    new.serves(&gateway, "the-new-one");
}

#[test]
fn a_device_that_leaves_behind_a_long_answer_is_gone_after_poll_gap() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let mut device = Device::polling(&gateway, "lamp", Json);
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    let body = vec![b'x'; 4_000_000]; // parsed on another thread, while the end of the connection comes
    device.answer(&event, &ok(&body));
    drop(device);
    visitor.read_answer("GET").expect_ok(&body);
    gateway.process.expect_stderr("lamp: down"); // 5 s later, not poll_hold and 5 s
}

#[test]
fn what_was_never_handed_out_goes_to_the_new_session() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let _old = Device::known(&gateway, "lamp", Json);
    let mut visitor = asks(&gateway, get("/lamp/x"));
    fence(&gateway);
    let mut new = Device::with(&gateway, "lamp", Json, &session());
    new.poll();
    let event = new.event();
    new.answer(&event, &ok("new"));
    visitor.read_answer("GET").expect_ok("new");
}

#[test]
fn polls_without_a_session_form_one_group_that_replaces_and_is_replaced() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let mut one = Device::nameless(&gateway, "lamp", Json);
    let mut two = one.again();
    two.poll();
    two.quiet();
    one.quiet(); // it was not replaced
    let mut sessioned = Device::polling(&gateway, "lamp", Json);
    one.refused(&[409]);
    two.refused(&[409]);
    sessioned.serves(&gateway, "a-session");
    let mut foreign = Device::with(&gateway, "lamp", Json, "");
    foreign.poll();
    assert_eq!(sessioned.refused(&[409]).head.get("retry-after"), Some("60"));
    foreign.serves(&gateway, "a-group");
}

#[test]
fn polls_and_links_of_one_session_belong_together_and_others_replace_them() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let (ours, others) = (session(), session());
    let mut link = gateway.link_with("lamp", &ours);
    let mut mailbox = Device::with(&gateway, "lamp", Json, &ours);
    mailbox.poll();
    // Its link made the session known; the first poll may be held or answered at once.
    if mailbox.peer.stirs_within(MOMENT) {
        mailbox.nothing();
        mailbox.poll();
    }
    // The idle link is preferred.
    for _ in 0..3 {
        let mut visitor = asks(&gateway, get("/lamp/link"));
        assert_eq!(link.read_head().target(), "/link");
        link.write(vector("draft-4-response"));
        visitor.read_answer("GET").expect_ok("Good");
    }
    // With the link busy the poll is used.
    let mut busy = asks(&gateway, get("/lamp/busy"));
    assert_eq!(link.read_head().target(), "/busy");
    mailbox.serves(&gateway, "poll");
    mailbox.serves(&gateway, "poll-again");
    link.write(vector("draft-4-response"));
    busy.read_answer("GET").expect_ok("Good");
    let mut visitor = asks(&gateway, get("/lamp/link"));
    assert_eq!(link.read_head().target(), "/link");
    link.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
    // A poll of another session replaces both.
    let mut new = Device::with(&gateway, "lamp", Json, &others);
    new.poll();
    new.nothing();
    mailbox.refused(&[409]);
    let head = link.read_head();
    assert_eq!(head.start, "OPTIONS * HTTP/1.1");
    assert!(head.closes(), "{}", head.text());
    link.write("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    link.expect_closed();
    new.poll();
    new.serves(&gateway, "the-new-one");
    // And a link of yet another session replaces polls.
    let mut link = gateway.link_with("lamp", &session());
    new.refused(&[409]);
    let mut visitor = asks(&gateway, get("/lamp/link"));
    assert_eq!(link.read_head().target(), "/link");
    link.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
}

#[test]
fn a_visitor_who_waits_takes_whatever_comes_first() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let ours = session();
    let mut device = Device::with(&gateway, "lamp", Json, &ours);
    device.poll();
    device.nothing();
    // A link comes.
    let mut visitor = asks(&gateway, get("/lamp/x"));
    fence(&gateway);
    let mut link = gateway.link_with("lamp", &ours);
    assert_eq!(link.read_head().target(), "/x");
    // It is busy, and a poll comes.
    let mut second = asks(&gateway, get("/lamp/y"));
    fence(&gateway);
    device.poll();
    let event = device.event();
    assert_eq!(event.target, "/y");
    device.answer(&event, &ok("y"));
    second.read_answer("GET").expect_ok("y");
    link.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
}

// ── Offers that bring an answer ──

/// An offer that brings this body.
fn offer_with(
    device: &Device,
    content_type: &str,
    fields: &str,
    body: impl AsRef<[u8]>,
) -> Vec<u8> {
    post(
        &device.name,
        &format!("Upgrade: PTTH/1.0\r\nConnection: Upgrade\r\n{}{fields}", device.fields),
        content_type,
        body,
    )
}

#[test]
fn an_offer_that_brings_an_answer_is_handled_and_then_turns() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    for kind in BOTH {
        for expects in [false, true] {
            let mut device = Device::polling(&gateway, "lamp", kind);
            let (mut visitor, event) = in_hand(&gateway, &mut device);
            let body = match kind {
                Json => answer_json(&event, &ok("brought")),
                Text => answer_text(&ok("brought"), false),
            };
            let expect = if expects { "Expect: 100-continue\r\n" } else { "" };
            let fields = format!("PTTH-Message-ID: {}\r\n{expect}", event.id);
            let whole = offer_with(&device, kind.media_type(), &fields, &body);
            let (head, body) = whole.split_at(whole.len() - body.len());
            device.peer.write(head);
            if expects {
                assert_eq!(device.peer.read_head().start, "HTTP/1.1 100 Continue");
            }
            device.peer.write(body);
            assert_eq!(latin1(&device.peer.read_exact(SWITCH.len())), latin1(SWITCH), "{kind:?}");
            visitor.read_answer("GET").expect_ok("brought");
            // It is a link now.
            let mut visitor = asks(&gateway, get("/lamp/link"));
            assert_eq!(device.peer.read_head().target(), "/link");
            device.peer.write(vector("draft-4-response"));
            visitor.read_answer("GET").expect_ok("Good");
        }
    }
}

#[test]
fn an_offer_that_brings_nothing_or_an_answer_to_nothing_turns() {
    let gateway = Gateway::start(&[]);
    let unknown = json!({"message-id": "0".repeat(32), "status": 200, "body": "x"}).to_string();
    for (number, body) in ["{}", "null", &unknown].into_iter().enumerate() {
        let mut device = Device::with(&gateway, &format!("d{number}"), Json, &session());
        device.peer.write(offer_with(&device, "application/json", "", body));
        assert_eq!(latin1(&device.peer.read_exact(SWITCH.len())), latin1(SWITCH), "{body}");
        let mut visitor = asks(&gateway, get(&format!("/d{number}/x")));
        assert_eq!(device.peer.read_head().target(), "/x");
        device.peer.write(vector("draft-4-response"));
        visitor.read_answer("GET").expect_ok("Good");
    }
}

/// A gateway that was started anew gets the answer that the one before it had asked for; the device
/// must not wait a hold long to learn that it is connected again.
#[test]
fn a_first_post_with_an_old_answer_is_told_at_once_and_the_next_poll_is_held() {
    let gateway = Gateway::start(&[]);
    let mut device = Device::with(&gateway, "lamp", Json, &session());
    let old = json!({"message-id": "0".repeat(32), "status": 200, "body": "x"}).to_string();
    device.post("application/json", "", old);
    device.nothing();
    device.poll();
    device.peer.expect_quiet(Duration::from_millis(50));
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    device.post("application/json", "", latin1(&answer_json(&event, &ok("right"))));
    visitor.read_answer("GET").expect_ok("right");
    device.peer.expect_quiet(Duration::from_millis(50));
}

#[test]
fn an_offer_that_brings_anything_else_does_not_turn() {
    let gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let mut device = Device::polling(&gateway, "lamp", Json);
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    let right = latin1(&answer_json(&event, &ok("right")));
    for (content_type, body, behind) in [
        ("text/html", "<p>", ""),
        ("application/x-www-form-urlencoded", "a=b", ""),
        ("application/json", "hello", ""),
        ("application/json", "[]", ""),
        ("application/json", "{\"status\": 200}", ""),
        ("application/json", "{\"message-id\": \"x\", \"message-id\": \"x\"}", ""),
        ("text/plain", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
        // T6: what comes behind the body and before the 101.
        ("application/json", "{}", "X"),
        ("application/json", "{}", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let mut other = device.again();
        other.peer.write([offer_with(&device, content_type, "", body), behind.into()].concat());
        other.refused(&[400, 415]);
        other.peer.expect_closed();
    }
    visitor.expect_quiet(Duration::from_millis(20));
    device.peer.write(offer_with(&device, "application/json", "", right));
    assert_eq!(latin1(&device.peer.read_exact(SWITCH.len())), latin1(SWITCH));
    visitor.read_answer("GET").expect_ok("right");
}

#[test]
fn on_demand_an_answer_that_an_offer_brings_is_handled_before_it_is_held() {
    let gateway = Gateway::start(&["--turn", "on-demand", "--wait-for-link", "9s"]);
    let mut device = Device::polling(&gateway, "lamp", Json);
    let (mut visitor, event) = in_hand(&gateway, &mut device);
    device.peer.write(offer_with(
        &device,
        "application/json",
        "",
        answer_json(&event, &ok("brought")),
    ));
    visitor.read_answer("GET").expect_ok("brought");
    device.quiet();
    let mut visitor = asks(&gateway, get("/lamp/now"));
    let both = device.peer.read_exact(SWITCH.len());
    assert_eq!(latin1(&both), latin1(SWITCH));
    assert_eq!(device.peer.read_head().target(), "/now");
    device.peer.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
}

#[test]
fn a_visitors_upgrade_does_not_go_through_a_mailbox() {
    let gateway = Gateway::start(&[]);
    for kind in BOTH {
        let mut device = Device::polling(&gateway, "lamp", kind);
        let mut visitor = asks(
            &gateway,
            "GET /lamp/socket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        );
        visitor.read_answer("GET").expect_refusal(501);
        device.quiet();
        device.serves(&gateway, "plain");
    }
}

// ── Options ──

#[test]
fn fallback_never_wants_a_turn() {
    let gateway = Gateway::start(&["--fallback", "never"]);
    let fields = session();
    for bytes in [
        poll("lamp", "").into_bytes(),
        poll("lamp", &fields).into_bytes(),
        poll("lamp", "Accept: message/http\r\n").into_bytes(),
        post("lamp", &fields, "application/json", "{}"),
        post(
            "lamp",
            &fields,
            "application/json",
            json!({"message-id": "x", "status": 200}).to_string(),
        ),
        vector("comet-1-poll"),
    ] {
        let mut device = gateway.dial();
        device.write(bytes);
        let reply = device.read_answer("POST");
        reply.expect_refusal(426);
        assert_eq!(reply.head.get("upgrade"), Some("PTTH/1.0"), "{}", reply.head.text());
        assert!(
            reply.head.all("connection").iter().any(|v| v.to_lowercase().contains("upgrade")),
            "{}",
            reply.head.text()
        );
    }
    gateway.get("/lamp/").expect_refusal(404);
    let mut link = gateway.link("lamp");
    let mut visitor = asks(&gateway, get("/lamp/x"));
    assert_eq!(link.read_head().target(), "/x");
    link.write(vector("draft-4-response"));
    visitor.read_answer("GET").expect_ok("Good");
}

#[test]
fn fallback_only_takes_an_offer_for_a_poll() {
    let gateway = Gateway::start(&["--fallback", "only"]);
    for kind in BOTH {
        let mut device = Device::with(&gateway, "lamp", kind, &session());
        let fields = device.fields.clone();
        device.peer.write(offer("lamp", &fields));
        device.nothing();
        device.peer.write(offer("lamp", &fields));
        device.quiet();
        let mut visitor = asks(&gateway, get("/lamp/x"));
        let event = device.event();
        assert_eq!(event.target, "/x");
        // An offer may bring the answer.
        let body = match kind {
            Json => answer_json(&event, &ok("x")),
            Text => answer_text(&ok("x"), false),
        };
        device.peer.write(offer_with(
            &device,
            kind.media_type(),
            &format!("PTTH-Message-ID: {}\r\n", event.id),
            body,
        ));
        visitor.read_answer("GET").expect_ok("x");
        device.serves(&gateway, "a-poll");
    }
    let mut seed = gateway.dial();
    seed.write(vector("seed-1-offer"));
    seed.expect_quiet(MOMENT); // held, since it has no session
}

#[test]
fn polls_and_offers_are_both_taken_by_default() {
    for options in [&[][..], &["--fallback", "auto"]] {
        let gateway = Gateway::start(options);
        Device::polling(&gateway, "lamp", Json).serves(&gateway, "poll");
        let mut link = gateway.link_with("lamp", &session());
        let mut visitor = asks(&gateway, get("/lamp/x"));
        assert_eq!(link.read_head().target(), "/x");
        link.write(vector("draft-4-response"));
        visitor.read_answer("GET").expect_ok("Good");
    }
}

// ── Pages (T46) ──

const APP: &str = "https://app.example";

fn preflight(name: &str, origin: &str) -> String {
    format!(
        "OPTIONS /{name} HTTP/1.1\r\nHost: gw.example\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization, content-type, ptth-message-id, ptth-session\r\n\r\n"
    )
}

/// Whether the comma list of this field has the token, case aside.
fn lists(head: &Head, name: &str, token: &str) -> bool {
    head.all(name)
        .iter()
        .flat_map(|value| value.split(','))
        .any(|member| member.trim().eq_ignore_ascii_case(token))
}

#[track_caller]
fn is_for(head: &Head, origin: &str) {
    assert_eq!(head.get("access-control-allow-origin"), Some(origin), "{}", head.text());
    assert!(lists(head, "vary", "Origin"), "{}", head.text());
}

#[test]
fn a_listed_origin_may_poll() {
    let gateway = Gateway::start(&[
        "--cors-origin",
        APP,
        "--cors-origin",
        "http://localhost:3000",
        "--wait-for-link",
        "9s",
    ]);
    for origin in [APP, "http://localhost:3000"] {
        let mut page = gateway.dial();
        page.write(preflight("lamp", origin));
        let answer = page.read_answer("OPTIONS");
        assert_eq!(answer.status(), 204, "{}{}", answer.head.text(), answer.text());
        is_for(&answer.head, origin);
        assert!(
            lists(&answer.head, "access-control-allow-methods", "POST"),
            "{}",
            answer.head.text()
        );
        for name in ["authorization", "content-type", "ptth-message-id", "ptth-session"] {
            assert!(
                lists(&answer.head, "access-control-allow-headers", name),
                "{name} in {}",
                answer.head.text()
            );
        }
    }
    // A preflight registers nothing.
    gateway.get("/lamp/").expect_refusal(404);
    for kind in BOTH {
        let mut page =
            Device::with(&gateway, "lamp", kind, &format!("{}Origin: {APP}\r\n", session()));
        let readable = |reply: &Answer| {
            is_for(&reply.head, APP);
            assert!(
                lists(&reply.head, "access-control-expose-headers", "PTTH-Message-ID"),
                "{}",
                reply.head.text()
            );
        };
        page.poll();
        let reply = page.peer.read_answer("POST");
        readable(&reply);
        is_nothing(&reply, kind);
        page.poll();
        let mut visitor = asks(&gateway, get("/lamp/x"));
        let reply = page.peer.read_answer("POST");
        readable(&reply);
        let event = Event::of(reply);
        assert!(
            event.all("origin").is_empty(),
            "that is the page's, not the visitor's: {:?}",
            event.fields
        );
        page.answer(&event, &ok("x"));
        let answer = visitor.read_answer("GET");
        answer.expect_ok("x");
        assert!(
            answer.head.all("access-control-allow-origin").is_empty(),
            "that is the device's to say: {}",
            answer.head.text()
        );
        // Refusals can be read too.
        for (content_type, body) in [("application/json", "hello"), ("text/html", "<p>")] {
            let mut other = page.again();
            other.post(content_type, "", body);
            let reply = other.refused(&[400, 415]);
            readable(&reply);
        }
        let mut new =
            Device::with(&gateway, "lamp", kind, &format!("{}Origin: {APP}\r\n", session()));
        new.poll();
        readable(&new.peer.read_answer("POST"));
        readable(&page.refused(&[409]));
    }
    // A device that is no page hears nothing of this.
    let mut device = gateway.dial();
    device.write(poll("lamp", &session()));
    let reply = device.read_answer("POST");
    is_nothing(&reply, Json);
    assert!(reply.head.all("access-control-allow-origin").is_empty(), "{}", reply.head.text());
}

#[test]
fn an_origin_that_is_not_listed_touches_no_mailbox() {
    for options in
        [&["--wait-for-link", "9s"][..], &["--wait-for-link", "9s", "--cors-origin", APP]]
    {
        let gateway = Gateway::start(options);
        let mut device = Device::known(&gateway, "lamp", Json);
        let mut visitor = asks(&gateway, get("/lamp/x"));
        fence(&gateway);
        let known = device.fields.clone();
        for origin in [
            "https://evil.example",
            "null",
            "",
            "https://app.example.evil.example",
            "https://evil-app.example",
            "http://app.example",
            "https://app.example:8443",
            "https://app.example/",
            "https://app.example https://evil.example",
            "*",
        ] {
            for bytes in [
                poll("lamp", &format!("{known}Origin: {origin}\r\n")).into_bytes(),
                poll("lamp", &format!("{}Origin: {origin}\r\n", session())).into_bytes(),
                post("lamp", &format!("Origin: {origin}\r\n"), "text/plain", "{}"),
                preflight("lamp", origin).into_bytes(),
                offer("lamp", &format!("{}Origin: {origin}\r\n", session())).into_bytes(),
            ] {
                let mut page = gateway.dial();
                page.write(&bytes);
                let reply = page.read_answer("POST");
                reply.expect_refusal(403);
                assert!(
                    reply.head.all("access-control-allow-origin").is_empty(),
                    "{}",
                    reply.head.text()
                );
            }
        }
        // Nor does a second Origin beside a listed one.
        let mut page = gateway.dial();
        page.write(poll(
            "lamp",
            &format!("{known}Origin: {APP}\r\nOrigin: https://evil.example\r\n"),
        ));
        page.read_answer("POST").expect_refusal_among(&[400, 403]);
        // The event is there still, and the session was not replaced.
        device.poll();
        let event = device.event();
        assert_eq!(event.target, "/x");
        device.answer(&event, &ok("untouched"));
        visitor.read_answer("GET").expect_ok("untouched");
        gateway.get("/default/").expect_refusal(404);
    }
}

#[test]
fn a_preflight_with_a_body_is_refused_and_its_body_is_no_request() {
    let gateway = Gateway::start(&["--cors-origin", APP]);
    let inner = poll("smuggled", &session());
    let chunked = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    for (framing, body) in [
        (format!("Content-Length: {}\r\n", inner.len()), inner.as_str()),
        ("Transfer-Encoding: chunked\r\n".to_owned(), &chunked),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n".to_owned(), &inner),
    ] {
        let mut page = gateway.dial();
        page.write(preflight("lamp", APP).replacen("\r\n", &format!("\r\n{framing}"), 1) + body);
        let reply = page.read_answer("OPTIONS");
        is_refused(&reply, &[400]);
        is_for(&reply.head, APP);
        page.expect_end();
    }
    gateway.get("/smuggled/").expect_refusal(404);
    // A connection ends where its request says so.
    for (of, is) in
        [("HTTP/1.1\r\n", "HTTP/1.1\r\nConnection: close\r\n"), ("HTTP/1.1\r\n", "HTTP/1.0\r\n")]
    {
        let mut page = gateway.dial();
        page.write(preflight("lamp", APP).replacen(of, is, 1));
        let answer = page.read_answer("OPTIONS");
        assert_eq!((answer.status(), answer.head.closes()), (204, true), "{}", answer.head.text());
        page.expect_end();
    }
}

#[test]
fn other_methods_are_405() {
    let gateway = Gateway::start(&["--cors-origin", APP]);
    for (method, fields) in [
        ("OPTIONS", ""),
        ("GET", ""),
        ("PUT", ""),
        ("DELETE", ""),
        ("GET", "Origin: https://app.example\r\n"),
    ] {
        let mut device = gateway.dial();
        device.write(format!("{method} /lamp HTTP/1.1\r\nHost: gw\r\n{fields}\r\n"));
        let answer = device.read_answer(method);
        answer.expect_refusal(405);
        assert!(lists(&answer.head, "allow", "POST"), "{}", answer.head.text());
    }
    gateway.get("/lamp/").expect_refusal(404);
}

// ── Secrets, scale, the end ──

#[test]
fn no_credential_reaches_the_log() {
    // T23, at the level that says most.
    let mut gateway = Gateway::start_with_env(&["--wait-for-link", "9s"], &[("RUST_LOG", "trace")]);
    let secret = "Authorization: Bearer s3cret-of-the-device\r\nCookie: s3cret=1\r\n";
    for kind in BOTH {
        let mut device = Device::with(&gateway, "lamp", kind, &format!("{}{secret}", session()));
        device.poll();
        device.nothing();
        device.poll();
        let mut visitor = asks(
            &gateway,
            "GET /lamp/x HTTP/1.1\r\nHost: a\r\nAuthorization: Basic s3cret-of-the-visitor\r\nCookie: s3cret=2\r\n\r\n",
        );
        let event = device.event();
        assert_eq!(event.get("authorization"), Some("Basic s3cret-of-the-visitor"));
        for (content_type, body) in [
            ("application/json", "s3cret"),
            ("application/json", "{\"message-id\": \"x\", \"headers\": \"Set-Cookie: s3cret\"}"),
            ("application/json", "{\"message-id\": \"x\", \"status\": \"s3cret\"}"),
            ("text/html", "s3cret"),
            ("message/http", "HTTP/1.1 200 OK\r\nSet-Cookie: s3cret\r\n\r\ns3cret"),
        ] {
            let mut other = device.again();
            other.post(content_type, &format!("PTTH-Message-ID: {}\r\n", event.id), body);
            other.refused(&[400, 415]);
        }
        let mut page = gateway.dial();
        page.write(poll("lamp", &format!("{secret}Origin: https://evil.example\r\n")));
        page.read_answer("POST").expect_refusal(403);
        device.answer(&event, &reply(200, "OK", &[("Set-Cookie", "s3cret=3")], "s3cret"));
        visitor.read_answer("GET").expect_ok("s3cret");
        let mut new = Device::with(&gateway, "lamp", kind, &format!("{}{secret}", session()));
        new.poll();
        new.nothing();
        device.refused(&[409]);
    }
    gateway.process.signal("TERM");
    assert_eq!(gateway.process.exit_code_within(Duration::from_secs(20)), 0);
    let said = gateway.process.stderr();
    assert!(!said.contains("s3cret"), "{said}");
    assert!(!said.is_empty(), "at this level it should have said something");
}

#[test]
fn held_polls_cost_no_thread_and_little_memory() {
    let wish = affordable(1_000);
    let gateway = Gateway::start(&["--poll-hold", "120s"]);
    let mut few: Vec<Device> =
        (0..3).map(|i| Device::polling(&gateway, &format!("few-{i}"), Json)).collect();
    few.iter_mut().for_each(|device| device.serves(&gateway, "warm"));
    let bare = |name: String| {
        let mut stream = TcpStream::connect(gateway.devices).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let fields = session();
        stream.write_all(poll(&name, &fields).as_bytes()).unwrap();
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n{}") {
            let mut byte = [0; 1024];
            let n = stream.read(&mut byte).unwrap_or_else(|e| panic!("poll of {name}: {e}"));
            assert!(n > 0, "poll of {name}: closed behind {}", latin1(&bytes));
            bytes.extend_from_slice(&byte[..n]);
        }
        stream.write_all(poll(&name, &fields).as_bytes()).unwrap();
        (stream, fields)
    };
    fence(&gateway);
    let (threads, memory) = (gateway.process.threads(), gateway.process.resident_kib());
    let held: Vec<(TcpStream, String)> = (0..wish).map(|i| bare(format!("many-{i}"))).collect();
    fence(&gateway);
    let with_polls = (gateway.process.threads(), gateway.process.resident_kib());
    assert_eq!(with_polls.0, threads, "threads with {wish} held polls, and with three");
    let each = (with_polls.1.saturating_sub(memory) * 1024) as f64 / wish as f64;
    say(&format!(
        "held polls: {wish} polls, {} threads (3 polls: {threads}), resident {} KiB (3 polls: {memory} KiB): {each:.0} bytes each",
        with_polls.0, with_polls.1
    ));
    assert!(each < 4096.0, "{each:.0} bytes of resident memory for each held poll");
    // Each of them is one that works.
    for i in [0, wish / 2, wish - 1] {
        let mut visitor = asks(&gateway, get(&format!("/many-{i}/x")));
        let (stream, fields) = &held[i];
        let mut peer = RawPeer::adopt(stream.try_clone().unwrap(), "device");
        let event = Event::of(peer.read_answer("POST"));
        assert_eq!(event.target, "/x");
        peer.write(post(
            &format!("many-{i}"),
            fields,
            "application/json",
            answer_json(&event, &ok("x")),
        ));
        visitor.read_answer("GET").expect_ok("x");
    }
    few.iter_mut().for_each(|device| device.serves(&gateway, "still"));
    drop(held);
}

#[test]
fn sigterm_ends_held_polls_and_lets_exchanges_finish() {
    let mut gateway = Gateway::start(&["--wait-for-link", "9s"]);
    let mut held = Vec::new();
    for (name, kind) in [("a", Json), ("b", Text)] {
        let mut device = Device::polling(&gateway, name, kind);
        device.serves(&gateway, "before");
        held.push(device);
    }
    let mut busy = Vec::new();
    for (name, kind) in [("c", Json), ("d", Text)] {
        let mut device = Device::polling(&gateway, name, kind);
        let (visitor, event) = in_hand(&gateway, &mut device);
        busy.push((device, visitor, event));
    }
    gateway.process.signal("TERM");
    for device in &mut held {
        let reply = device.refused(&[503]);
        assert!(reply.head.get("retry-after").is_some(), "{}", reply.head.text());
    }
    // What is in hand is answered on the connection that is there.
    for (device, visitor, event) in &mut busy {
        device.answer(event, &ok("the last one"));
        visitor.read_answer("GET").expect_ok("the last one");
        let reply = device.refused(&[503]);
        assert!(reply.head.get("retry-after").is_some(), "{}", reply.head.text());
    }
    assert_eq!(gateway.process.exit_code_within(Duration::from_secs(15)), 0);
}

/// However the last event in hand ends: connections that were kept for answers are waited for no
/// longer.
#[test]
fn sigterm_waits_for_no_answer_that_nobody_wants() {
    let mut gateway = Gateway::start(&["--wait-for-link", "9s", "--drain-timeout", "30s"]);
    let mut one = Device::polling(&gateway, "lamp", Json);
    let (mut visitor, event) = in_hand(&gateway, &mut one);
    let mut other = one.again();
    other.poll();
    let (left, _) = in_hand(&gateway, &mut other);
    gateway.process.signal("TERM");
    gateway.process.expect_stderr("stopping");
    left.reset();
    // The other answer is too long to be taken, so its visitor is told, and nothing is in hand any
    // more.
    one.peer.write(format!(
        "POST /lamp HTTP/1.1\r\nHost: gw\r\nContent-Type: application/json\r\nPTTH-Message-ID: {}\r\nContent-Length: 9000000\r\n{}\r\n",
        event.id, one.fields
    ));
    visitor.read_answer("GET").expect_refusal(502);
    one.refused(&[413]);
    other.peer.expect_end();
    assert_eq!(gateway.process.exit_code_within(Duration::from_secs(8)), 0);
}
