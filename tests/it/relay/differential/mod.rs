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
mod requests;
mod responses;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use self::cases::Case;
use self::readers::{Fields, Message, Reader, Reading};
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
                // What cannot be written any more is read nevertheless: the link's end comes there.
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

fn went_on(name: &str, i: usize, read: &Reading) -> String {
    format!("the relay went on with request {i}, and {name} says: {:?}", read.end)
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

/// Returns true if CGI may read the name as another one.
fn is_ambiguous(name: &str) -> bool {
    name.contains(|c: char| c != '-' && !c.is_ascii_alphanumeric())
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
                    || name == "proxy"
                    || is_ambiguous(&name)
            }
            false => OWN.contains(&name.as_str()) && name != "host" && name != "forwarded",
        };
        !own && (is_end_to_end(&name) || !named.contains(&name))
    };
    message.fields.iter().filter(|(name, _)| stays(name)).cloned().collect()
}

/// Trailers: none but those that came, in their order; every harmless one, and none that has a
/// meaning in a head.
fn same_trailers(sent: &Message, got: &Message) -> Result<(), String> {
    let name = |(name, _): &(String, Vec<u8>)| name.to_ascii_lowercase();
    let harmless = |field: &&(String, Vec<u8>)| {
        let name = name(field);
        (name.starts_with("x-") && !name.starts_with("x-forwarded-") && !is_ambiguous(&name))
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
