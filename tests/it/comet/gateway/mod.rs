//! The COMET fallback at `ptth gateway` (protocol.md 2), played from outside: raw devices that poll
//! on one port, raw visitors on the other.
//!
//! A device's events are read here with code that shares nothing with the crate: `serde_json`, and
//! the reader of [`raw`](crate::support::raw).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod ending;
mod events;
mod neither;
mod pages;
mod polls;
mod sessions;
mod streams;
mod waiting;
mod wrong_answers;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::support::process::get;
use crate::support::raw::find;
use crate::support::{Answer, Gateway, Head, RawPeer, eventually};
use Kind::{Json, Text};

/// How events and answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Json,
    Text,
}

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

/// The gateway's loops have seen what was written before.
#[track_caller]
fn fence(gateway: &Gateway) {
    crate::support::fence(gateway.visitors);
}

/// A visitor who waits for `device`, and the event in its hand.
#[track_caller]
fn in_hand(gateway: &Gateway, device: &mut Device) -> (RawPeer, Event) {
    let visitor = asks(gateway, get(&format!("/{}/x", device.name)));
    (visitor, device.event())
}

const BOUND: usize = 8 * 1024 * 1024;

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
