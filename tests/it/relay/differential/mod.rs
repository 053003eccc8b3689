//! The relay against independent parsers: what reaches the device is what llhttp and h11 read in
//! the visitor's bytes, and the other way round.
//!
//! Generated connections, legal and mutated, go through `ptth gateway` to a raw link that keeps
//! every byte it gets. The same bytes go to both parsers, and so does what came out at the other
//! end. Where the relay is stricter than a parser, that is fine; where it reads on and a parser
//! does not, a row of protocol.md §3 has to say so ([`LAXER`]). A case depends on the seed and its
//! number alone: `PTTH_DIFFERENTIAL_SEED`, `PTTH_DIFFERENTIAL_CASES` (how many) and
//! `PTTH_DIFFERENTIAL_FIRST` (the first number) repeat or widen a run.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cases;
mod chain;
mod readers;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use self::cases::Case;
use self::readers::{End, Fields, Message, Reader, Reading};
use crate::support::process::offer;
use crate::support::raw::find;
use crate::support::{DEADLINE, Gateway, SWITCH, say};

/// What one of the parsers does not read and the relay does.
struct Laxer {
    parser: &'static str,
    /// How its complaint begins.
    complaint: &'static str,
    /// The other parser has to read it, and to agree.
    needs_other: bool,
    /// Why that is so, in protocol.md §3 or above it.
    _row: &'static str,
}

const fn laxer(
    parser: &'static str,
    complaint: &'static str,
    needs_other: bool,
    row: &'static str,
) -> Laxer {
    Laxer { parser, complaint, needs_other, _row: row }
}

const LAXER: [Laxer; 10] = [
    laxer(
        "llhttp",
        "HPE_INVALID_METHOD",
        false,
        "RFC 9110 §9.1: a method is any token; it has a list",
    ),
    laxer(
        "llhttp",
        "HPE_INVALID_VERSION Expected HTTP/2 Connection Preface",
        false,
        "the same: PRI is a token",
    ),
    laxer(
        "llhttp",
        "HPE_INVALID_CONSTANT Expected SOURCE method",
        false,
        "the same: SOURCE is a token",
    ),
    laxer(
        "llhttp",
        "HPE_STRICT Invalid character in chunk extensions",
        false,
        "extensions are ignored",
    ),
    laxer("llhttp", "UNTOLD", true, "one of these, in the body of an offer of another protocol"),
    laxer(
        "llhttp",
        "HPE_UNEXPECTED_CONTENT_LENGTH Duplicate Content-Length",
        true,
        "equal repeats are accepted as one",
    ),
    laxer(
        "llhttp",
        "HPE_INVALID_CONTENT_LENGTH Content-Length can't be present with Transfer-Encoding",
        true,
        "a trailer that is dropped (T5)",
    ),
    laxer("llhttp", "HPE_INVALID_TRANSFER_ENCODING", true, "the same"),
    laxer("h11", "Only Transfer-Encoding: chunked is supported", true, "the same"),
    laxer(
        "llhttp",
        "HPE_INVALID_CONTENT_LENGTH Invalid character in Content-Length",
        true,
        "the same, on one line: 5, 5",
    ),
];

fn known(parser: &str, why: &str, device: bool) -> Option<&'static Laxer> {
    let more = if device { LAXER_WITH_DEVICES.as_slice() } else { &[] };
    LAXER.iter().chain(more).find(|row| row.parser == parser && why.starts_with(row.complaint))
}

/// The question that shows that everything before it has arrived.
const FENCE: &str = "GET /lamp/fence HTTP/1.1\r\nHost: fence.example\r\n\r\n";

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| {
        value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number"))
    })
}

// ── The device ──

/// What a link brought since the last fence.
#[derive(Clone, Debug, Default)]
struct Stream {
    bytes: Vec<u8>,
    /// The gateway has closed it.
    closed: bool,
}

/// What the device answers to whatever is asked before the next fence.
#[derive(Clone, Debug)]
struct Script {
    pieces: Vec<Vec<u8>>,
    then_end: bool,
}

/// A device on one raw link at a time, which it renews when it is closed. It answers with the
/// script, or counts its answers in `X-Nth`.
struct RawDevice {
    streams: Receiver<Vec<Stream>>,
    script: Arc<Mutex<Option<Script>>>,
}

impl RawDevice {
    fn start(gateway: &Gateway) -> RawDevice {
        let (to, streams) = channel();
        let script = Arc::new(Mutex::new(None));
        let (devices, scripted) = (gateway.devices, script.clone());
        let (up, is_up) = channel();
        // It ends with its gateway, which then refuses the connection.
        std::thread::spawn(move || {
            let mut past = vec![Stream::default()];
            let mut nth = 0;
            while let Some(mut link) = turned(devices) {
                let _ = up.send(()); // only the first is waited for
                serve(&mut link, &mut past, &mut nth, &scripted, &to);
                past.last_mut().unwrap().closed = true;
                past.push(Stream::default());
            }
        });
        is_up.recv_timeout(DEADLINE).expect("the device is connected");
        RawDevice { streams, script }
    }

    /// What arrived since the last fence, which has been answered.
    #[track_caller]
    fn streams(&self) -> Vec<Stream> {
        let mut streams =
            self.streams.recv_timeout(DEADLINE).expect("the device reached its fence");
        streams.extend(self.streams.try_iter().flatten());
        streams.retain(|stream| !stream.bytes.is_empty());
        streams
    }
}

fn turned(gateway: SocketAddr) -> Option<TcpStream> {
    let mut link = TcpStream::connect(gateway).ok()?;
    link.set_nodelay(true).ok()?;
    link.write_all(offer("lamp", "").as_bytes()).ok()?;
    let mut switch = [0; SWITCH.len()];
    link.read_exact(&mut switch).ok()?;
    assert_eq!(switch, SWITCH);
    Some(link)
}

/// Answers on a link until it is closed.
fn serve(
    link: &mut TcpStream,
    past: &mut Vec<Stream>,
    nth: &mut usize,
    script: &Mutex<Option<Script>>,
    to: &Sender<Vec<Stream>>,
) {
    let mut buffer = [0; 1 << 16];
    let (mut done, mut continued) = (0, false);
    loop {
        let bytes = &past.last().unwrap().bytes;
        let unread = &bytes[done..];
        match whole(unread) {
            Some(_) if unread.starts_with(b"GET /fence ") => {
                past.last_mut().unwrap().bytes.truncate(done);
                let _ = to.send(std::mem::take(past)); // the test may be over
                past.push(Stream::default());
                (*nth, done) = (0, 0);
                if link
                    .write_all(b"HTTP/1.1 200 OK\r\nX-Fence: 1\r\nContent-Length: 0\r\n\r\n")
                    .is_err()
                {
                    return;
                }
                continue;
            }
            Some(len) => {
                done += len;
                continued = false;
                // What cannot be written any more is read all the same: the link's end comes there.
                let _ = match script.lock().unwrap().clone() {
                    Some(script) => {
                        let written =
                            script.pieces.iter().try_for_each(|piece| link.write_all(piece));
                        written.and_then(|()| {
                            if script.then_end { link.shutdown(Shutdown::Write) } else { Ok(()) }
                        })
                    }
                    None => link.write_all(
                        format!("HTTP/1.1 200 OK\r\nX-Nth: {nth}\r\nContent-Length: 0\r\n\r\n")
                            .as_bytes(),
                    ),
                };
                *nth += 1;
                continue;
            }
            None if !continued
                && head_of(unread).is_some_and(|(head, _)| {
                    head.to_ascii_lowercase().contains("\r\nexpect: 100-continue")
                }) =>
            {
                continued = true;
                let _ = link.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            None => {}
        }
        match link.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(n) => past.last_mut().unwrap().bytes.extend_from_slice(&buffer[..n]),
        }
    }
}

/// For a failure's text; what is long repeats itself.
fn shown(bytes: &[u8]) -> String {
    let text = bytes.escape_ascii().to_string();
    let (front, back) = (2_500.min(text.len()), text.len().saturating_sub(1_500));
    if text.len() < 4_500 { text } else { format!("{} … {}", &text[..front], &text[back..]) }
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|o| char::from(*o)).collect()
}

/// The head at the front as text, and its bytes.
fn head_of(bytes: &[u8]) -> Option<(String, usize)> {
    find(bytes, b"\r\n\r\n").map(|at| (latin1(&bytes[..at + 4]), at + 4))
}

/// Bytes of the message at the front, when it is whole: what the relay writes is framed in one of
/// two ways.
fn whole(bytes: &[u8]) -> Option<usize> {
    let (head, head_len) = head_of(bytes)?;
    let lower = head.to_ascii_lowercase();
    let field = |name: &str| {
        lower.split("\r\n").skip(1).find_map(|line| line.strip_prefix(name).map(str::to_owned))
    };
    if field("transfer-encoding: ").is_some() {
        let mut at = head_len;
        loop {
            let line = find(&bytes[at..], b"\r\n")?;
            let size = usize::from_str_radix(&latin1(&bytes[at..at + line]), 16)
                .expect("a chunk size that the relay wrote");
            at += line + 2;
            if size == 0 {
                let rest = &bytes[at..];
                return if rest.starts_with(b"\r\n") {
                    Some(at + 2)
                } else {
                    find(rest, b"\r\n\r\n").map(|end| at + end + 4)
                };
            }
            at += size + 2;
            if at > bytes.len() {
                return None;
            }
        }
    }
    let length = field("content-length: ")
        .map_or(0, |value| value.parse::<usize>().expect("a length that the relay wrote"));
    (bytes.len() >= head_len + length).then_some(head_len + length)
}

// ── The visitor ──

/// What a visitor got to the end of its connection.
#[derive(Debug)]
struct Got {
    bytes: Vec<u8>,
    reset: bool,
}

/// Writes the pieces, ends its direction, and reads to the end.
fn visit<'p>(visitors: SocketAddr, pieces: impl Iterator<Item = &'p [u8]>) -> Result<Got, String> {
    let mut visitor =
        TcpStream::connect_timeout(&visitors, DEADLINE).map_err(|e| format!("connecting: {e}"))?;
    visitor.set_nodelay(true).unwrap();
    visitor.set_read_timeout(Some(DEADLINE)).unwrap();
    visitor.set_write_timeout(Some(DEADLINE)).unwrap();
    let mut reset = false;
    for piece in pieces {
        if let Err(e) = visitor.write_all(piece) {
            reset = e.kind() == std::io::ErrorKind::ConnectionReset; // it is told once, and reading ends in silence then
            break;
        }
    }
    let _ = visitor.shutdown(Shutdown::Write); // it may be closed already; the answer says why
    let mut bytes = Vec::new();
    match visitor.read_to_end(&mut bytes) {
        Ok(_) => Ok(Got { bytes, reset }),
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Ok(Got { bytes, reset: true }),
        Err(e) => Err(format!("the connection was not closed ({e}), after {:?}", latin1(&bytes))),
    }
}

/// One answer as the visitor of a request sees it.
#[derive(Debug)]
struct Answer {
    status: u16,
    /// Which of the device's answers it is; `None`: the gateway's own.
    nth: Option<usize>,
    closes: bool,
}

/// The answers that the gateway gave, one to each request; those of the device have no body.
fn answers(bytes: &[u8], methods: &[&str]) -> Result<Vec<Answer>, String> {
    let mut answers: Vec<Answer> = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (head, head_len) = head_of(rest)
            .ok_or_else(|| format!("no head where an answer was to begin: {:?}", latin1(rest)))?;
        let lower = head.to_ascii_lowercase();
        let field = |name: &str| {
            lower.split("\r\n").find_map(|line| line.strip_prefix(name).map(str::to_owned))
        };
        let status = head
            .get(9..12)
            .and_then(|s| s.parse().ok())
            .ok_or_else(|| format!("no status in {head:?}"))?;
        rest = &rest[head_len..];
        if (100..200).contains(&status) {
            continue;
        }
        let nth = field("x-nth: ").map(|n| n.parse().unwrap());
        let length = field("content-length: ").map_or(0, |n| n.parse::<usize>().unwrap());
        let closes = field("connection: ").is_some_and(|value| value.contains("close"));
        // Where a head is refused, nobody may say that it was a HEAD.
        let to_head = methods.get(answers.len()).is_some_and(|method| *method == "HEAD");
        let no_body = nth.is_some() || if closes { rest.is_empty() } else { to_head };
        if !no_body {
            rest = rest.get(length..).ok_or_else(|| format!("an answer's body is cut: {head}"))?;
        }
        answers.push(Answer { status, nth, closes });
    }
    Ok(answers)
}

// ── Requests ──

/// What became of the cases.
#[derive(Debug, Default)]
struct Tally {
    cases: usize,
    legal: usize,
    forwarded: usize,
    refused: usize,
    cut: usize,
    silent: usize,
    /// By complaint, of both parsers together.
    laxer: BTreeMap<&'static str, usize>,
}

/// What one parser has to say about a case: how many requests it confirms, or what is wrong.
fn compare(
    name: &str,
    case: &Case,
    read: &Reading,
    arrived: &[(Reading, bool)],
    answers: &[Answer],
) -> Result<usize, String> {
    let mut device = arrived.iter().flat_map(|(reading, _)| &reading.messages);
    let mut seen = 0;
    for (i, answer) in answers.iter().enumerate() {
        let request = read.messages.get(i);
        let Some(nth) = answer.nth else {
            if !(answer.status == 308 || (400..600).contains(&answer.status)) {
                return Err(format!("answer {i} is the gateway's own {}", answer.status));
            }
            if answer.closes && i + 1 < answers.len() {
                return Err(format!("answer {i} closes, and {} follow", answers.len() - i - 1));
            }
            if !answer.closes && request.is_none() {
                return Err(went_on(name, i, read));
            }
            // An HTTP/1.0 visitor takes an answer that does not say keep-alive as the last.
            if !answer.closes
                && !request.is_some_and(|r| r.whole && r.body.is_empty() && r.minor == 1)
            {
                return Err(format!(
                    "the gateway's own {} goes on behind what {name} reads as {request:?}",
                    answer.status
                ));
            }
            continue;
        };
        if nth != seen {
            return Err(format!("answer {i} is the device's {nth}, not its {seen}"));
        }
        seen += 1;
        let Some(request) = request.filter(|request| request.whole) else {
            return Err(went_on(name, i, read));
        };
        let Some(got) = device.next().filter(|message| message.whole) else {
            return Err(format!(
                "the device answered, and {name} reads no request number {nth} in what it got: {arrived:?}"
            ));
        };
        same_request(request, got).map_err(|e| format!("request {i}: {e}"))?;
    }
    // What the device has beyond its answers is a request that was cut.
    if let Some(partial) = device.next() {
        let last_refused = answers.last().is_some_and(|a| a.nth.is_none() && a.closes);
        let k = answers.len() - usize::from(last_refused);
        if partial.whole {
            return Err(format!("the device got a request that nobody was answered: {partial:?}"));
        }
        let Some(request) = read.messages.get(k) else { return Err(went_on(name, k, read)) };
        let Some(body) = request.body.get(..partial.body.len()) else {
            return Err(went_on(name, k, read));
        };
        let cut = Message { body: body.to_vec(), trailers: Vec::new(), ..request.clone() };
        same_request(&cut, partial).map_err(|e| format!("request {k}, which was cut: {e}"))?;
    }
    if device.next().is_some() {
        return Err("the device got more than one request that was not answered".to_owned());
    }
    for (reading, closed) in arrived {
        match &reading.end {
            End::Refused(why) if known(name, why, false).is_none() => {
                return Err(format!("{name} refuses what the device got: {why}"));
            }
            End::Within if !closed => {
                return Err("the device got a part of a request, and its link goes on".to_owned());
            }
            _ => {}
        }
    }
    // It may end where the request says so, and says that it does.
    let may_close = |request: &Message| {
        request.lists("connection", "close")
            || request.minor == 0 && !request.lists("connection", "keep-alive")
    };
    let last = answers
        .len()
        .checked_sub(1)
        .and_then(|last| Some((&answers[last], read.messages.get(last)?)));
    let ended = answers.last().is_some_and(|a| a.closes && a.nth.is_none())
        || last.is_some_and(|(a, r)| a.closes && may_close(r));
    if answers.len() < read.whole() && !ended {
        return Err(format!(
            "{} answers to the {} requests that {name} reads",
            answers.len(),
            read.whole()
        ));
    }
    if let (End::Refused(why), true) = (&read.end, answers.is_empty()) {
        if !case.mutations.contains(&"cut short") && known(name, why, false).is_none() {
            return Err(format!("{name} refuses it ({why}), and the visitor heard nothing"));
        }
    }
    Ok(seen)
}

fn went_on(name: &str, i: usize, read: &Reading) -> String {
    format!("the relay went on with request {i}, and {name} says: {:?}", read.end)
}

/// Where the request names what it wants: authority and path.
fn destination(request: &Message) -> (Vec<u8>, String) {
    let host = request.get("host").unwrap_or_default().to_vec();
    match request.target.find("://") {
        Some(at) => {
            let rest = &request.target[at + 3..];
            let end = rest.find('/').unwrap_or(rest.len());
            (
                rest.as_bytes()[..end].to_vec(),
                if end == rest.len() { "/".to_owned() } else { rest[end..].to_owned() },
            )
        }
        None => (host, request.target.clone()),
    }
}

/// Fields that no proxy passes on, or that this one writes itself, by their names alone.
const OWN: [&str; 10] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "content-length",
    "upgrade",
    "http2-settings",
    "forwarded",
];

/// What `Connection` may name and cannot remove: end-to-end fields, and these.
fn is_end_to_end(name: &str) -> bool {
    const KEPT: [&str; 17] = [
        "authorization",
        "proxy-authorization",
        "www-authenticate",
        "cookie",
        "set-cookie",
        "cache-control",
        "via",
        "origin",
        "date",
        "expect",
        "range",
        "location",
        "retry-after",
        "vary",
        "etag",
        "x-real-ip",
        "trailer",
    ];
    KEPT.contains(&name) || name.starts_with("content-") || name.starts_with("if-")
}

/// The fields that go on.
fn end_to_end(message: &Message, request: bool) -> Fields {
    let named = message.list("connection");
    let stays = |name: &str| {
        let name = name.to_ascii_lowercase();
        let own = match request {
            true => {
                OWN.contains(&name.as_str())
                    || name.starts_with("x-forwarded-")
                    || name.contains('_')
            }
            false => OWN.contains(&name.as_str()) && name != "host" && name != "forwarded",
        };
        !own && (is_end_to_end(&name) || !named.contains(&name))
    };
    message.fields.iter().filter(|(name, _)| stays(name)).cloned().collect()
}

/// Fails unless `got` is `sent` as a relay has to forward it.
fn same_request(sent: &Message, got: &Message) -> Result<(), String> {
    let (authority, path) = destination(sent);
    let rest =
        path.strip_prefix("/lamp").ok_or_else(|| format!("{path:?} is not for this device"))?;
    let target = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    equal("method", &sent.method, &got.method)?;
    equal("target", &target, &got.target)?;
    equal("version", &1, &got.minor)?;
    equal(
        "Host, first",
        &Some(("Host".to_owned(), authority.clone())),
        &got.fields.first().cloned(),
    )?;
    let bytes = |text: &str| text.as_bytes().to_vec();
    let mut own = end_to_end(sent, true);
    own.push(("Via".to_owned(), format!("1.{} ptth", sent.minor).into_bytes()));
    equal("end-to-end fields", &own, &end_to_end(got, true))?;
    for (name, value) in [
        ("X-Forwarded-For", bytes("127.0.0.1")),
        ("X-Forwarded-Proto", bytes("http")),
        ("X-Forwarded-Host", authority),
        ("X-Forwarded-Prefix", bytes("/lamp")),
    ] {
        equal(name, &vec![value.as_slice()], &got.all(name))?;
    }
    for name in ["keep-alive", "proxy-connection", "http2-settings", "forwarded"] {
        equal(name, &Vec::<&[u8]>::new(), &got.all(name))?;
    }
    let forwarding =
        got.fields.iter().filter(|(name, _)| name.to_lowercase().starts_with("x-forwarded-"));
    equal("forwarding fields", &4, &forwarding.count())?;
    equal("TE", &sent.lists("te", "trailers").then_some(b"trailers".as_slice()), &got.get("te"))?;
    let offers: Vec<String> =
        sent.list("upgrade").into_iter().filter(|token| token != "h2c").collect();
    let no_body = got.whole && sent.body.is_empty() && sent.all("transfer-encoding").is_empty();
    let upgrades = no_body && sent.minor == 1 && sent.lists("connection", "upgrade");
    equal("Upgrade", &if upgrades { offers.clone() } else { Vec::new() }, &got.list("upgrade"))?;
    let connection =
        if upgrades && !offers.is_empty() { vec!["upgrade".to_owned()] } else { Vec::new() };
    equal("Connection", &connection, &got.list("connection"))?;
    let chunked = !sent.all("transfer-encoding").is_empty();
    equal(
        "Transfer-Encoding",
        &if chunked { vec![b"chunked".as_slice()] } else { Vec::new() },
        &got.all("transfer-encoding"),
    )?;
    equal("body", &latin1(&sent.body), &latin1(&got.body))?;
    let length = sent.body.len().to_string();
    let says = !chunked
        && (!sent.all("content-length").is_empty()
            || matches!(sent.method.as_str(), "POST" | "PUT" | "PATCH"));
    if got.whole {
        equal(
            "Content-Length",
            &if says { vec![length.as_bytes()] } else { Vec::new() },
            &got.all("content-length"),
        )?;
        same_trailers(sent, got)?;
    }
    Ok(())
}

/// Trailers: none but those that came, in their order; every harmless one, and none that has a
/// meaning in a head.
fn same_trailers(sent: &Message, got: &Message) -> Result<(), String> {
    let name = |(name, _): &(String, Vec<u8>)| name.to_ascii_lowercase();
    let harmless = |field: &&(String, Vec<u8>)| {
        let name = name(field);
        (name.starts_with("x-") && !name.starts_with("x-forwarded-") && !name.contains('_'))
            || name == "server-timing"
    };
    let harmful = |field: &(String, Vec<u8>)| {
        let name = name(field);
        let never = [
            "host",
            "authorization",
            "connection",
            "set-cookie",
            "cookie",
            "te",
            "trailer",
            "via",
            "transfer-encoding",
        ];
        never.contains(&name.as_str())
            || name.starts_with("content-")
            || name.starts_with("x-forwarded-")
    };
    let mut from = sent.trailers.iter();
    if !got.trailers.iter().all(|field| from.any(|sent| sent == field)) {
        return Err(format!("trailers {:?} came as {:?}", sent.trailers, got.trailers));
    }
    let kept: Vec<_> = sent.trailers.iter().filter(harmless).collect();
    equal("harmless trailers", &kept, &got.trailers.iter().filter(harmless).collect())?;
    match got.trailers.iter().find(|field| harmful(field)) {
        Some(field) => Err(format!("the trailer {field:?} went through")),
        None => Ok(()),
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: &T,
    found: &T,
) -> Result<(), String> {
    if expected == found {
        Ok(())
    } else {
        Err(format!("{what}: {expected:?} was sent, {found:?} came"))
    }
}

/// One connection's worth of requests.
fn request_case(
    case: &Case,
    gateway: &Gateway,
    device: &RawDevice,
    readers: &mut [Reader; 2],
    tally: &mut Tally,
) -> Result<(), String> {
    readers.iter_mut().for_each(|reader| reader.ask_requests(&case.bytes));
    let got = visit(gateway.visitors, case.pieces());
    let fence = visit(gateway.visitors, [FENCE.as_bytes()].into_iter());
    let readings: Vec<Reading> = readers.iter_mut().map(Reader::reading).collect();
    let (got, fence) = (got?, fence?);
    if !latin1(&fence.bytes).contains("X-Fence: 1") {
        return Err(format!("the next visitor got {:?}", latin1(&fence.bytes)));
    }
    let streams = device.streams();
    let mut confirmed = 0;
    let mut complaints = Vec::new();
    let most = readings.iter().max_by_key(|read| read.messages.len()).unwrap();
    let methods: Vec<&str> = most.messages.iter().map(|message| message.method.as_str()).collect();
    let answers = answers(&got.bytes, &methods)?;
    for (reader, read) in readers.iter_mut().zip(&readings) {
        streams.iter().for_each(|stream| reader.ask_requests(&stream.bytes));
        let arrived: Vec<(Reading, bool)> =
            streams.iter().map(|stream| (reader.reading(), stream.closed)).collect();
        let outcome = compare(reader.name, case, read, &arrived, &answers);
        let refused = answers.iter().any(|a| a.nth.is_none() && a.status >= 400 && a.status != 404);
        match outcome {
            Ok(n) => {
                confirmed += 1;
                tally.forwarded += n;
                tally.refused += usize::from(refused);
                tally.cut +=
                    usize::from(arrived.iter().any(|(reading, _)| reading.end == End::Within));
                tally.silent += usize::from(answers.is_empty());
                let unread = match &read.end {
                    End::Refused(why) => known(reader.name, why, false).is_none(),
                    End::Within => true,
                    End::Clean | End::Closed => false,
                };
                if case.mutations.is_empty() && (refused || unread) {
                    return Err(format!(
                        "a legal case: {answers:?}, and {} ends {:?}",
                        reader.name, read.end
                    ));
                }
            }
            Err(complaint) => {
                let End::Refused(why) = &read.end else {
                    return Err(format!("{}: {complaint}", reader.name));
                };
                let Some(row) = known(reader.name, why, false)
                    .filter(|_| complaint.starts_with("the relay went on"))
                else {
                    return Err(format!("{}: {complaint}", reader.name));
                };
                *tally.laxer.entry(row.complaint).or_default() += 1;
                if row.needs_other {
                    complaints.push(complaint);
                }
            }
        }
    }
    if got.reset && got.bytes.is_empty() && readings.iter().any(|read| read.whole() > 0) {
        return Err("the visitor got nothing but a reset".to_owned());
    }
    if confirmed == 0 && !complaints.is_empty() {
        Err(format!("no parser reads it: {complaints:?}"))
    } else {
        Ok(())
    }
}

// ── Responses ──

/// Who asks in a case of responses.
const ASKERS: [(&str, &str, bool); 8] = [
    ("GET", "GET /lamp/case HTTP/1.1\r\nHost: a\r\n\r\n", true),
    ("GET", "GET /lamp/case HTTP/1.1\r\nHost: a\r\n\r\n", true),
    ("HEAD", "HEAD /lamp/case HTTP/1.1\r\nHost: a\r\n\r\n", true),
    ("POST", "POST /lamp/case HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", true),
    ("GET", "GET /lamp/case HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", false),
    ("GET", "GET /lamp/case HTTP/1.0\r\n\r\n", false),
    (
        "POST",
        "POST /lamp/case HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
        true,
    ),
    (
        "GET",
        "GET /lamp/case HTTP/1.1\r\nHost: a\r\nUpgrade: chat\r\nConnection: Upgrade\r\n\r\n",
        true,
    ),
];

/// What a parser does not read of a device's response and the relay does, besides [`LAXER`].
const LAXER_WITH_DEVICES: [Laxer; 8] = [
    laxer(
        "llhttp",
        "HPE_CR_EXPECTED Missing expected CR",
        false,
        "a lone LF ends a line on a link from a device, in heads",
    ),
    laxer(
        "llhttp",
        "HPE_INVALID_HEADER_TOKEN",
        true,
        "the same, behind an empty value or an empty line",
    ),
    laxer("llhttp", "HPE_INVALID_STATUS", true, "the same, behind a status without a reason"),
    laxer(
        "llhttp",
        "HPE_INVALID_CHUNK_SIZE",
        false,
        "blanks behind a chunk size, and LF alone, as nginx and HAProxy take them",
    ),
    laxer("h11", "illegal chunk header", false, "the same"),
    laxer("h11", "malformed chunk footer: bytearray(b'\\n", false, "the same"),
    laxer(
        "h11",
        "illegal status line: bytearray(b'')",
        false,
        "one line end before a response belongs to the one before it",
    ),
    laxer("h11", "no response line received", false, "the same"),
];

/// One response of a device, and behind it, where the visitor's connection goes on, the answer to a
/// fence.
fn response_case(
    case: &Case,
    number: u64,
    gateway: &Gateway,
    device: &RawDevice,
    readers: &mut [Reader; 2],
    tally: &mut Tally,
) -> Result<(), String> {
    let (method, request, goes_on) = ASKERS[(number % ASKERS.len() as u64) as usize];
    readers.iter_mut().for_each(|reader| reader.ask_responses(&[method], false, &case.bytes));
    let open: Vec<Reading> = readers.iter_mut().map(Reader::reading).collect();
    // The device ends its stream but where both parsers see a whole response without that; and then
    // sometimes.
    let then_end = number % 3 == 0
        || open.iter().any(|read| !read.response().0.is_some_and(|message| message.whole));
    readers.iter_mut().for_each(|reader| reader.ask_responses(&[method], then_end, &case.bytes));
    let readings: Vec<Reading> = readers.iter_mut().map(Reader::reading).collect();
    // What comes behind a whole response has to come with it: nobody can tell it from the next
    // answer once the next request is out.
    let behind = |read: &Reading| {
        let whole = read.messages.iter().position(|message| message.whole && !message.is_interim());
        whole.is_some_and(|at| at + 1 < read.messages.len() || matches!(read.end, End::Refused(_)))
    };
    let pieces = match open.iter().any(behind) {
        true => vec![case.bytes.clone()],
        false => case.pieces().map(<[u8]>::to_vec).collect(),
    };
    *device.script.lock().unwrap() = Some(Script { pieces, then_end });
    let got = visit(
        gateway.visitors,
        [request.as_bytes(), if goes_on { FENCE.as_bytes() } else { b"" }].into_iter(),
    );
    *device.script.lock().unwrap() = None;
    let (got, fence) = (got?, visit(gateway.visitors, [FENCE.as_bytes()].into_iter())?);
    if !latin1(&fence.bytes).contains("X-Fence: 1") {
        return Err(format!("the next visitor got {:?}", latin1(&fence.bytes)));
    }
    device.streams();
    let mut read_by = 0;
    let mut complaints = Vec::new();
    for (reader, read) in readers.iter_mut().zip(&readings) {
        reader.ask_responses(&[method, "GET"], !got.reset, &got.bytes);
        let seen = reader.reading();
        let tell = |why: String| {
            format!(
                "{}: {why}\n    to {request:?}, {then_end}; the visitor got {}",
                reader.name,
                shown(&got.bytes)
            )
        };
        match same_response(case, read, &seen, goes_on, request.contains("HTTP/1.0")) {
            Ok(Outcome::Forwarded) => {
                (tally.forwarded, read_by) = (tally.forwarded + 1, read_by + 1)
            }
            Ok(Outcome::Cut) => (tally.cut, read_by) = (tally.cut + 1, read_by + 1),
            Ok(Outcome::Refused) => {
                (tally.refused, read_by) = (tally.refused + 1, read_by + 1);
            }
            Err(complaint) => {
                let End::Refused(why) = &read.end else { return Err(tell(complaint)) };
                let Some(row) = known(reader.name, why, true)
                    .filter(|_| complaint.starts_with("the relay went on"))
                else {
                    return Err(tell(complaint));
                };
                *tally.laxer.entry(row.complaint).or_default() += 1;
                if row.needs_other {
                    complaints.push(tell(complaint));
                }
            }
        }
    }
    if read_by == 0 && !complaints.is_empty() {
        Err(format!("no parser reads it: {complaints:?}"))
    } else {
        Ok(())
    }
}

enum Outcome {
    Forwarded,
    /// The visitor sees that its end is missing.
    Cut,
    /// 502.
    Refused,
}

fn same_response(
    case: &Case,
    read: &Reading,
    seen: &Reading,
    goes_on: bool,
    old: bool,
) -> Result<Outcome, String> {
    let (sent, sent_interim) = read.response();
    let (got, got_interim) = seen.response();
    if let End::Refused(why) = &seen.end {
        return Err(format!("the visitor's bytes are refused: {why}"));
    }
    let interim: Vec<Message> = if old {
        Vec::new()
    } else {
        sent_interim.iter().map(|message| without_framing(message)).collect()
    };
    let came: Vec<Message> = got_interim.iter().map(|message| without_framing(message)).collect();
    let same = came.iter().zip(&interim).all(|(came, sent)| came == sent);
    if same && came.len() > interim.len() && !sent.is_some_and(|sent| sent.whole) {
        return Err(went_on("the parser", interim.len(), read));
    }
    if !same || came.len() > interim.len() {
        return Err(format!("interim responses {interim:?} came as {came:?}"));
    }
    let Some(got) = got else {
        // A reset that was quicker than the head, or no answer at all.
        return if sent.is_none_or(|sent| !sent.whole) {
            Ok(Outcome::Cut)
        } else {
            Err("the visitor got no answer".to_owned())
        };
    };
    let behind = seen.messages.iter().filter(|message| !message.is_interim()).nth(1);
    let closes = got.lists("connection", "close") || old && !got.lists("connection", "keep-alive");
    match behind {
        Some(fence) if fence.get("x-fence").is_none() => {
            return Err(format!("behind it comes {fence:?}"));
        }
        Some(_) if !goes_on || closes => return Err("more comes behind the last answer".to_owned()),
        None if goes_on && !closes && got.whole => {
            return Err("the next answer is missing".to_owned());
        }
        _ => {}
    }
    if got.get("proxy-status").is_some() {
        let legal = case.mutations.is_empty();
        return match got.status {
            502 if !legal && got.whole => Ok(Outcome::Refused),
            status => Err(format!("the relay refused with {status}: {}", latin1(&got.body))),
        };
    }
    let Some(sent) = sent else { return Err(went_on("the parser", 0, read)) };
    equal("interim responses", &interim.len(), &came.len())?;
    let head = Message { body: Vec::new(), trailers: Vec::new(), whole: true, ..got.clone() };
    let (expected, mut came) = (without_framing(sent), without_framing(&head));
    if sent.get("date").is_none() {
        // RFC 9110 §6.6.1: whoever forwards a response without one adds it.
        let added = came.fields.iter().rposition(|(name, value)| {
            name == "Date" && value.len() == 29 && value.ends_with(b" GMT")
        });
        came.fields.remove(added.ok_or("there is no Date")?);
    }
    equal("head", &expected, &came)?;
    if got.body.len() > sent.body.len() {
        return Err(went_on("the parser", 0, read));
    }
    equal("body", &latin1(&sent.body[..got.body.len()]), &latin1(&got.body))?;
    match (sent.whole, got.whole) {
        (true, true) => {
            equal("body", &sent.body.len(), &got.body.len())?;
            if !old {
                same_trailers(sent, got)?;
            }
            Ok(Outcome::Forwarded)
        }
        (false, true) => Err(went_on("the parser", 0, read)),
        (true, false) if case.mutations.is_empty() => Err("a whole response came cut".to_owned()),
        (_, false) => Ok(Outcome::Cut),
    }
}

/// What of a response's head goes from end to end.
fn without_framing(message: &Message) -> Message {
    let mut fields = end_to_end(message, false);
    // The relay's own mark is the last Via.
    if let Some(at) =
        fields.iter().rposition(|(name, value)| name == "Via" && value.ends_with(b" ptth"))
    {
        fields.remove(at);
    }
    Message { status: message.status, reason: message.reason.clone(), fields, ..Message::default() }
}

/// Runs cases on two threads, each with a gateway, a device and parsers of its own, and fails with
/// the first ones that fail.
fn run(kind: &str, default: u64, generate: fn(u64, u64) -> Case, check: Check) -> Option<Tally> {
    let seed = variable("PTTH_DIFFERENTIAL_SEED", 20_080_513);
    let first = variable("PTTH_DIFFERENTIAL_FIRST", 0);
    let count = variable("PTTH_DIFFERENTIAL_CASES", default);
    let then = Instant::now();
    let mut readers = vec![Reader::both()?, Reader::both()?];
    let (next, failures, tally) =
        (AtomicU64::new(first), Mutex::new(Vec::new()), Mutex::new(Tally::default()));
    std::thread::scope(|scope| {
        for mut readers in readers.drain(..) {
            let (next, failures, tally) = (&next, &failures, &tally);
            scope.spawn(move || {
                let gateway = Gateway::start(&["--via", "ptth"]);
                let device = RawDevice::start(&gateway);
                let mut own = Tally::default();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let enough = failures.lock().unwrap().len() >= 12;
                    if number >= first + count || enough {
                        break;
                    }
                    let case = generate(seed, number);
                    own.cases += 1;
                    own.legal += usize::from(case.mutations.is_empty());
                    if let Err(complaint) =
                        check(&case, number, &gateway, &device, &mut readers, &mut own)
                    {
                        let (bytes, mutations) = (shown(&case.bytes), &case.mutations);
                        let text = format!(
                            "case {number} of seed {seed} {mutations:?}: {complaint}\n    {bytes}"
                        );
                        failures.lock().unwrap().push(text);
                    }
                }
                tally.lock().unwrap().add(own);
            });
        }
    });
    let (failures, tally) = (failures.into_inner().unwrap(), tally.into_inner().unwrap());
    assert!(
        failures.is_empty(),
        "{} {kind} were read in different ways:\n{}",
        failures.len(),
        failures.join("\n")
    );
    say(&format!(
        "differential, {kind}: {} in {:.1} s",
        tally.told(),
        then.elapsed().as_secs_f32()
    ));
    Some(tally)
}

type Check =
    fn(&Case, u64, &Gateway, &RawDevice, &mut [Reader; 2], &mut Tally) -> Result<(), String>;

impl Tally {
    fn add(&mut self, other: Tally) {
        self.cases += other.cases;
        self.legal += other.legal;
        self.forwarded += other.forwarded;
        self.refused += other.refused;
        self.cut += other.cut;
        self.silent += other.silent;
        other.laxer.into_iter().for_each(|(what, n)| *self.laxer.entry(what).or_default() += n);
    }

    /// Fails where most cases said nothing: enough of them have to be legal, forwarded (each counts
    /// with both parsers), refused and cut.
    fn is_no_idle_talk(&self) {
        let enough = self.legal * 4 >= self.cases
            && self.forwarded * 2 >= self.cases
            && self.refused * 6 >= self.cases;
        assert!(self.cases < 1_000 || (enough && self.cut > 0), "{self:?}");
    }

    fn told(&self) -> String {
        let Tally { cases, legal, forwarded, refused, cut, silent, laxer } = self;
        format!(
            "{cases} connections, {legal} of them legal; by both parsers' reading {forwarded} messages forwarded, {refused} refused, {cut} cut, \
             {silent} closed without an answer, {} read by one of them alone as a row of the protocol allows",
            laxer.values().sum::<usize>()
        )
    }
}

#[test]
fn the_device_gets_the_requests_that_independent_parsers_read() {
    let check: Check = |case, _, gateway, device, readers, tally| {
        request_case(case, gateway, device, readers, tally)
    };
    if let Some(tally) = run("requests", 4_000, cases::requests, check) {
        tally.is_no_idle_talk();
    }
}

#[test]
fn the_visitor_gets_the_responses_that_independent_parsers_read() {
    if let Some(tally) = run("responses", 3_000, cases::response, response_case) {
        tally.is_no_idle_talk();
    }
}
