//! Two parsers in a row: of each stream of bytes that a relay writes, the next reader and
//! llhttp (with h11) see the same messages.
//!
//! A visitor's connection goes through `ptth gateway`, a tap, `ptth device --to`, to a local
//! server. The tap keeps what went over the links; the local server keeps what it was asked, as it
//! framed it. What the device made of each message on a link shows in its answer there and in what
//! it asked the local server; what the gateway made of each answer shows at the visitor. A request
//! carries a nonce, and says how it is to be answered, so that a byte that strays from one message
//! into another is found wherever it ends up.
//!
//! With polls the device's POSTs and the gateway's replies are the streams, and the events in them
//! are messages of their own.

mod wire;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::cases::{self, Random};
use super::readers::{End, Fields, Message, Reader, Reading};
use super::{equal, head_of, known, latin1, shown, variable, visit};
use crate::support::process::Ptth;
use crate::support::{Gateway, Process, say};
use wire::{Asked, Local, Tap, Wire};

/// The request that shows that everything before it has gone through.
const FENCE: &str = "GET /fence HTTP/1.1\r\nHost: lamp.devices.example\r\nX-Nonce: fence\r\nX-Plan: length 5\r\n\r\n";

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a request is to be answered: `X-Plan: KIND LENGTH`.
#[derive(Clone, Debug)]
struct Plan {
    kind: String,
    length: usize,
    nonce: String,
    head: bool,
}

const PLANS: [&str; 9] =
    ["length", "chunked", "trailers", "close", "old", "empty", "204", "304", "interim"];

impl Plan {
    fn of(request: &[u8]) -> Plan {
        let (head, _) = head_of(request).unwrap_or_default();
        let field = |name: &str| {
            head.split("\r\n")
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or_default()
                .to_owned()
        };
        let plan = field("X-Plan: ");
        let (kind, length) = plan.split_once(' ').unwrap_or(("length", "3"));
        Plan {
            kind: kind.to_owned(),
            length: length.parse().unwrap_or(3),
            nonce: field("X-Nonce: "),
            head: head.starts_with("HEAD "),
        }
    }

    /// Looks like whatever a parser that lost its place would take for a message.
    fn body(&self) -> Vec<u8> {
        let pattern = format!(
            "HTTP/1.1 200 OK\r\nX-Nonce: stray\r\nContent-Length: 3\r\n\r\n{} 0\r\n\r\n",
            self.nonce
        );
        match self.kind.as_str() {
            "empty" | "204" | "304" => Vec::new(),
            _ => pattern.bytes().cycle().take(self.length).collect(),
        }
    }

    fn closes(&self) -> bool {
        matches!(self.kind.as_str(), "close" | "old")
    }

    /// The status and the body that a visitor has to get.
    fn expected(&self) -> (u16, Vec<u8>) {
        let status = match self.kind.as_str() {
            "204" => 204,
            "304" => 304,
            _ => 200,
        };
        (status, if self.head { Vec::new() } else { self.body() })
    }

    fn bytes(&self) -> Vec<u8> {
        let (nonce, body) = (&self.nonce, self.body());
        let n = body.len();
        let head = match self.kind.as_str() {
            "chunked" | "trailers" => {
                format!("HTTP/1.1 200 OK\r\nX-Nonce: {nonce}\r\nTransfer-Encoding: chunked\r\n\r\n")
            }
            "close" => format!("HTTP/1.1 200 OK\r\nX-Nonce: {nonce}\r\nConnection: close\r\n\r\n"),
            "old" => format!("HTTP/1.0 200 OK\r\nX-Nonce: {nonce}\r\n\r\n"),
            "204" => format!("HTTP/1.1 204 No Content\r\nX-Nonce: {nonce}\r\n\r\n"),
            "304" => format!(
                "HTTP/1.1 304 Not Modified\r\nX-Nonce: {nonce}\r\nContent-Length: 77\r\n\r\n"
            ),
            "interim" => {
                format!(
                    "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nX-Nonce: {nonce}\r\nContent-Length: {n}\r\n\r\n"
                )
            }
            _ => format!("HTTP/1.1 200 OK\r\nX-Nonce: {nonce}\r\nContent-Length: {n}\r\n\r\n"),
        };
        let mut bytes = head.into_bytes();
        if self.head {
            return bytes;
        }
        if !matches!(self.kind.as_str(), "chunked" | "trailers") {
            bytes.extend(body);
            return bytes;
        }
        for piece in body.chunks(1 + n / 3) {
            bytes.extend(
                format!("{:x}\r\n", piece.len())
                    .bytes()
                    .chain(piece.iter().copied())
                    .chain(*b"\r\n"),
            );
        }
        bytes.extend(if self.kind == "trailers" {
            b"0\r\nX-Sum: 5\r\n\r\n".as_slice()
        } else {
            b"0\r\n\r\n"
        });
        bytes
    }
}

// ── What is sent ──

const HOST: &str = "lamp.devices.example";

/// A body that would be a message, whole or half, for a reader that loses its position.
fn body(random: &mut Random) -> Vec<u8> {
    let chosen = format!("GET /chosen HTTP/1.1\r\nHost: {HOST}\r\nX-Nonce: stray\r\n");
    let text = match random.below(6) {
        0 => format!("{chosen}X: "),
        1 => format!("{chosen}\r\n"),
        2 => format!("0\r\n\r\n{chosen}\r\n"),
        3 => "\r\n".to_owned(),
        4 => "OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n".to_owned(),
        _ => "x".repeat(1 + random.below(9_000)),
    };
    text.into_bytes()
}

/// A request in one of the target's forms, with a body in one of the framings, and how it is to be
/// answered.
fn request(random: &mut Random, nonce: &str) -> Vec<u8> {
    const METHODS: [&str; 14] = [
        "GET",
        "GET",
        "HEAD",
        "POST",
        "POST",
        "PUT",
        "DELETE",
        "OPTIONS",
        "OPTIONS",
        "PATCH",
        "TRACE",
        "PROPFIND",
        "BREW",
        "X!#$%&'*+-.^_`|~",
    ];
    let (mut method, mut target) = (
        random.pick(&METHODS).to_owned(),
        random.pick(&["/", "/a/b?q=%20", "/a//b/", "/?", "/fence/x"]).to_owned(),
    );
    match random.below(12) {
        0..=2 => (method, target) = ("OPTIONS".to_owned(), "*".to_owned()),
        3 => target = format!("http://{HOST}{target}"),
        4 => (method, target) = ("OPTIONS".to_owned(), format!("http://{HOST}")),
        5 if random.chance(20) => target = "*".to_owned(),
        5 if random.chance(40) => (method, target) = ("CONNECT".to_owned(), format!("{HOST}:80")),
        5 if random.chance(20) => target = format!("{HOST}:80"),
        _ => {}
    }
    let plan = format!("{} {}", random.pick(&PLANS), random.below(6_000));
    let mut bytes = format!(
        "{method} {target} HTTP/1.1\r\nHost: {HOST}\r\nX-Nonce: {nonce}\r\nX-Plan: {plan}\r\n"
    )
    .into_bytes();
    match random.below(8) {
        0 | 1 => bytes.extend(b"\r\n"),
        2 => bytes.extend(b"Content-Length: 0\r\n\r\n"),
        3 => bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        4 | 5 => {
            let body = body(random);
            bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes().chain(body));
        }
        more => {
            let body = body(random);
            bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            for piece in body.chunks(1 + random.below(body.len())) {
                bytes.extend(
                    format!("{:x}\r\n", piece.len())
                        .bytes()
                        .chain(piece.iter().copied())
                        .chain(*b"\r\n"),
                );
            }
            bytes.extend(if more == 6 {
                b"0\r\nX-Sum: 1\r\n\r\n".as_slice()
            } else {
                b"0\r\n\r\n"
            });
        }
    }
    bytes
}

/// A visitor's connection: its bytes in the pieces in which they are written.
struct Sent {
    pieces: Vec<Vec<u8>>,
    /// The requests, all of them legal; none where the bytes are mutated.
    requests: Vec<Vec<u8>>,
}

impl Sent {
    fn bytes(&self) -> Vec<u8> {
        self.pieces.concat()
    }

    fn legal(&self) -> bool {
        !self.requests.is_empty()
    }
}

/// Up to five requests of ours, or (one case in three) a mutated connection of the other tests.
fn sent(seed: u64, number: u64) -> Sent {
    if number % 3 == 2 {
        let case = cases::requests(seed, number);
        return Sent { pieces: case.pieces().map(<[u8]>::to_vec).collect(), requests: Vec::new() };
    }
    let mut random = Random::of(seed ^ 0x0063_6861_696e, number);
    let requests: Vec<Vec<u8>> =
        (0..1 + random.below(5)).map(|i| request(&mut random, &format!("n{number}-{i}"))).collect();
    let bytes = requests.concat();
    let mut cuts: Vec<usize> =
        (0..random.below(4)).map(|_| random.below(bytes.len())).chain([0, bytes.len()]).collect();
    cuts.sort_unstable();
    Sent {
        pieces: cuts.windows(2).map(|ends| bytes[ends[0]..ends[1]].to_vec()).collect(),
        requests,
    }
}

// ── What has to hold ──

/// What the parsers read that take all of these bytes; they have to agree. A parser that knows
/// fewer methods than there are stands aside.
fn agreed(
    what: &str,
    bytes: &[u8],
    readers: &mut [Reader; 2],
    ask: impl Fn(&mut Reader),
) -> Result<Reading, String> {
    readers.iter_mut().for_each(ask);
    let all: Vec<(&str, Reading)> =
        readers.iter_mut().map(|reader| (reader.name, reader.reading())).collect();
    let takes = |(name, reading): &&(&str, Reading)| !matches!(&reading.end, End::Refused(why) if known(name, why, true).is_some());
    let taken: Vec<_> = all.iter().filter(takes).collect();
    let tell = |why: String| format!("{what}: {why}\n    {}", shown(bytes));
    for (name, reading) in &taken {
        if let End::Refused(why) = &reading.end {
            return Err(tell(format!("{name} refuses it: {why}")));
        }
    }
    let (_, first) = taken.first().ok_or_else(|| tell(format!("no parser reads it: {all:?}")))?;
    if let Some((_, second)) = taken.get(1) {
        equal("what llhttp and h11 read", &first.messages.len(), &second.messages.len())
            .map_err(tell)?;
        for (one, other) in first.messages.iter().zip(&second.messages) {
            equal("what llhttp and h11 read", &essence(one), &essence(other)).map_err(tell)?;
        }
    }
    Ok(first.clone())
}

/// Method, target, status, nonce, body, trailers: what has to be the same on both sides of a hop.
type Essence = (String, String, u16, String, String, Fields);

fn essence(message: &Message) -> Essence {
    let nonce = latin1(message.get("x-nonce").unwrap_or_default());
    (
        message.method.clone(),
        message.target.clone(),
        message.status,
        nonce,
        latin1(&message.body),
        message.trailers.clone(),
    )
}

/// What went over a turned link: requests as the parsers read them, each with its answer.
struct Exchanges {
    requests: Vec<Message>,
    answers: Vec<Message>,
}

/// The messages of one link, if both its streams are what the parsers read; no more answers than
/// requests, and fewer only where it has ended.
fn exchanges(wire: &Wire, readers: &mut [Reader; 2]) -> Result<Exchanges, String> {
    let asked = agreed("from the gateway to the device", &wire.gateway, readers, |reader| {
        reader.ask_requests(&wire.gateway)
    })?;
    let methods: Vec<&str> = asked.messages.iter().map(|message| message.method.as_str()).collect();
    let over = wire.device_ended || wire.gateway_ended;
    let end = wire.device_ended;
    let told = match methods.as_slice() {
        _ if wire.device.is_empty() => Reading { messages: Vec::new(), end: End::Clean },
        [] => {
            return Err(format!("the device answered what nobody asked: {}", shown(&wire.device)));
        }
        methods => agreed("from the device to the gateway", &wire.device, readers, |reader| {
            reader.ask_responses(methods, end, &wire.device)
        })?,
    };
    let answers: Vec<Message> =
        told.messages.into_iter().filter(|message| !message.is_interim()).collect();
    let whole = asked.messages.iter().filter(|message| message.whole).count();
    let tell = |why: &str| {
        Err(format!(
            "{why}\n    asked: {}\n    answered: {}",
            shown(&wire.gateway),
            shown(&wire.device)
        ))
    };
    if answers.len() > asked.messages.len() {
        return tell(&format!(
            "the device gave {} answers to {} requests",
            answers.len(),
            asked.messages.len()
        ));
    }
    if !over
        && (answers.len() < whole
            || whole < asked.messages.len()
            || answers.iter().any(|answer| !answer.whole))
    {
        return tell(&format!(
            "the device gave {} answers to {} requests on a link that goes on",
            answers.len(),
            asked.messages.len()
        ));
    }
    Ok(Exchanges { requests: asked.messages, answers })
}

/// The device made of each message on its links what the parsers read there: it asked the local
/// server the same, or answered it itself.
fn device_saw_the_same(
    wires: &[Wire],
    asked: &Asked,
    legal: bool,
    readers: &mut [Reader; 2],
) -> Result<usize, String> {
    let local = agreed("from the device to the local server", &asked.bytes, readers, |reader| {
        reader.ask_requests(&asked.bytes)
    })?;
    equal("requests at the local server", &asked.count, &local.messages.len())?;
    let mut local: VecDeque<&Message> = local.messages.iter().collect();
    let mut seen = 0;
    for wire in wires {
        let Exchanges { requests, answers } = exchanges(wire, readers)?;
        for (i, request) in requests.iter().enumerate() {
            let answer = answers.get(i);
            let heartbeat = request.method == "OPTIONS" && request.target == "*";
            let by_device = answer.is_some_and(|answer| answer.get("x-nonce").is_none());
            if heartbeat {
                let (empty, own) = (request.body.is_empty(), request.get("x-nonce").is_none());
                equal(
                    "a heartbeat is the gateway's own, and has no body",
                    &(true, true),
                    &(empty, own),
                )?;
                equal("a heartbeat's answer", &Some(204), &answer.map(|answer| answer.status))?;
            } else if by_device || answer.is_none() {
                // A legal request is answered by the local server; what ended half-way may have
                // reached it or not.
                if legal && request.whole {
                    return Err(format!(
                        "a request had no answer of the local server, but {:?}: {:?}",
                        answer.map(essence),
                        essence(request)
                    ));
                }
                local.pop_front_if_same(request);
            } else {
                let Some(got) = local.pop_front() else {
                    return Err(format!("the local server was not asked {:?}", essence(request)));
                };
                equal("what the device asked the local server", &essence(request), &essence(got))?;
                seen += 1;
            }
        }
    }
    match local.front() {
        Some(stray) => Err(format!(
            "the local server was asked what was no message on a link: {:?}",
            essence(stray)
        )),
        None if legal && !asked.cut.is_empty() => {
            Err(format!("the local server got a part of a request: {}", shown(&asked.cut)))
        }
        None => Ok(seen),
    }
}

trait PopIfSame {
    fn pop_front_if_same(&mut self, request: &Message);
}

impl PopIfSame for VecDeque<&Message> {
    fn pop_front_if_same(&mut self, request: &Message) {
        if self.front().is_some_and(|got| essence(got) == essence(request)) {
            self.pop_front();
        }
    }
}

/// The visitor reads one answer to each of its requests, each to its own, to the first that closes.
fn visitor_saw_the_same(
    requests: &[Vec<u8>],
    got: &[u8],
    readers: &mut [Reader; 2],
) -> Result<(), String> {
    let methods: Vec<String> = requests
        .iter()
        .map(|request| latin1(request.split(|o| *o == b' ').next().unwrap_or_default()))
        .collect();
    let methods: Vec<&str> = methods.iter().map(String::as_str).collect();
    let told = agreed("from the gateway to the visitor", got, readers, |reader| {
        reader.ask_responses(&methods, true, got)
    })?;
    let answers: Vec<&Message> =
        told.messages.iter().filter(|message| !message.is_interim()).collect();
    let closes = answers.last().is_some_and(|answer| answer.lists("connection", "close"));
    if answers.len() > methods.len() || (answers.len() < methods.len() && !closes) {
        return Err(format!(
            "the visitor got {} answers to {} requests\n    {}",
            answers.len(),
            methods.len(),
            shown(got)
        ));
    }
    for (request, answer) in requests.iter().zip(answers) {
        let Some(nonce) = answer.get("x-nonce") else { continue }; // the gateway's own
        let plan = Plan::of(request);
        equal("whose answer it is", &plan.nonce, &latin1(nonce))?;
        let (status, body) = plan.expected();
        equal("the answer", &(status, latin1(&body)), &(answer.status, latin1(&answer.body)))?;
        equal("the answer is whole", &true, &answer.whole)?;
    }
    Ok(())
}

// ── The chain ──

struct Chain {
    gateway: Gateway,
    _device: Process,
    tap: Tap,
    local: Local,
}

impl Chain {
    /// With one link (or one poll) at a time, so that all that passes has an order.
    fn start(more: &[&str]) -> Chain {
        let gateway = Gateway::start(&["--route", "host=devices.example", "--route", "path"]);
        let (tap, local) = (Tap::start(gateway.devices), Local::start());
        let (url, to) = (format!("http://{}/lamp", tap.addr), format!("http://{}", local.addr));
        let device = Ptth::start(
            &[&["device", &url, "--to", &to, "--backoff", "10ms..200ms"], more].concat(),
        );
        assert!(device.line().starts_with("connected lamp"), "{}", device.stderr());
        Chain { gateway, _device: device, tap, local }
    }

    /// One visitor's connection, and the fence after it: what went where meanwhile, and what the
    /// visitor got.
    fn pass(&self, sent: &Sent) -> Result<(Vec<Wire>, Asked, Vec<u8>), String> {
        let got = visit(self.gateway.visitors, sent.pieces.iter().map(Vec::as_slice))?;
        let fence = visit(self.gateway.visitors, [FENCE.as_bytes()].into_iter())?;
        let (wires, asked) = (self.tap.take(), self.local.take());
        if !latin1(&fence.bytes).contains("\r\nX-Nonce: fence\r\n") {
            return Err(format!(
                "the next visitor got {}\n    the local server was asked {}",
                shown(&fence.bytes),
                shown(&asked.bytes)
            ));
        }
        Ok((wires, asked, got.bytes))
    }
}

/// A link's streams after the turn: the offer and the 101 belong to the code that turned it.
fn turned(mut wire: Wire) -> Wire {
    if wire.device.starts_with(b"POST /lamp HTTP/1.1\r\n") {
        let end = |bytes: &[u8]| head_of(bytes).map_or(bytes.len(), |(_, len)| len);
        wire.device.drain(..end(&wire.device));
        wire.gateway.drain(..end(&wire.gateway));
    }
    wire
}

fn link_case(chain: &Chain, sent: &Sent, readers: &mut [Reader; 2]) -> Result<usize, String> {
    let (wires, asked, got) = chain.pass(sent)?;
    let wires: Vec<Wire> = wires.into_iter().map(turned).collect();
    let seen = device_saw_the_same(&wires, &asked, sent.legal(), readers)?;
    if sent.legal() {
        visitor_saw_the_same(&sent.requests, &got, readers)?;
    }
    Ok(seen)
}

/// Each reply of the gateway answers one POST, and each event is one request, which the local
/// server was asked.
fn poll_case(chain: &Chain, sent: &Sent, readers: &mut [Reader; 2]) -> Result<usize, String> {
    let (wires, asked, got) = chain.pass(sent)?;
    let local = agreed("from the device to the local server", &asked.bytes, readers, |reader| {
        reader.ask_requests(&asked.bytes)
    })?;
    equal("requests at the local server", &asked.count, &local.messages.len())?;
    let mut local: VecDeque<&Message> = local.messages.iter().collect();
    let mut seen = 0;
    for wire in &wires {
        let posts = agreed("from the device to the gateway", &wire.device, readers, |reader| {
            reader.ask_requests(&wire.device)
        })?;
        // The poll that the case found held, whose reply comes first.
        let methods: Vec<&str> = std::iter::repeat_n("POST", posts.messages.len() + 1).collect();
        let (end, bytes) = (wire.gateway_ended, &wire.gateway);
        let replies = agreed("from the gateway to the device", bytes, readers, |reader| {
            reader.ask_responses(&methods, end, bytes)
        })?;
        for reply in replies.messages.iter().filter(|reply| reply.status == 200) {
            let event = agreed("an event", &reply.body, readers, |reader| {
                reader.ask_requests(&reply.body)
            })?;
            let [event] = event.messages.as_slice() else {
                return Err(format!("an event is one request: {}", shown(&reply.body)));
            };
            equal("an event is whole", &true, &event.whole)?;
            if local.front().is_some_and(|got| essence(got) == essence(event)) {
                local.pop_front();
                seen += 1;
            } else if sent.legal() {
                return Err(format!(
                    "the local server was asked {:?}, and the event was {:?}",
                    local.front().map(|got| essence(got)),
                    essence(event)
                ));
            }
        }
    }
    if let Some(stray) = local.front() {
        return Err(format!("the local server was asked what was no event: {:?}", essence(stray)));
    }
    if sent.legal() {
        visitor_saw_the_same(&sent.requests, &got, readers)?;
    }
    Ok(seen)
}

type Check = fn(&Chain, &Sent, &mut [Reader; 2]) -> Result<usize, String>;

/// Runs cases on two threads, each with a chain and parsers of its own, and fails with the first
/// that fail.
fn run(kind: &str, default: u64, more: &[&str], check: Check) {
    let seed = variable("PTTH_DIFFERENTIAL_SEED", 20_080_513);
    let first = variable("PTTH_DIFFERENTIAL_FIRST", 0);
    let count = variable("PTTH_DIFFERENTIAL_CASES", default);
    let then = Instant::now();
    let (Some(one), Some(two)) = (Reader::both(), Reader::both()) else { return };
    let (next, seen, failures) = (AtomicU64::new(first), AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for mut readers in [one, two] {
            let (next, seen, failures) = (&next, &seen, &failures);
            scope.spawn(move || {
                let chain = Chain::start(more);
                while lock(failures).len() < 6 {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= first + count {
                        break;
                    }
                    let sent = sent(seed, number);
                    match check(&chain, &sent, &mut readers) {
                        Ok(n) => drop(seen.fetch_add(n as u64, Ordering::Relaxed)),
                        Err(why) => lock(failures).push(format!(
                            "case {number} of seed {seed}: {why}\n    {}",
                            shown(&sent.bytes())
                        )),
                    }
                }
            });
        }
    });
    let (failures, seen) = (lock(&failures), seen.load(Ordering::Relaxed));
    assert!(
        failures.is_empty(),
        "{kind}: {} connections were read in different ways:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(
        seen >= count,
        "{seen} requests of {count} connections went the whole way, with their fences"
    );
    say(&format!(
        "differential, {kind}: {count} connections, {seen} requests went the whole way, in {:.1} s",
        then.elapsed().as_secs_f32()
    ));
}

#[test]
fn every_stream_on_links_is_read_alike_by_the_next_hop_and_by_independent_parsers() {
    run("streams on links", 900, &["--links", "1..1"], link_case);
}

#[test]
fn every_stream_of_polls_is_read_alike_by_the_next_hop_and_by_independent_parsers() {
    run(
        "streams of polls",
        450,
        &["--fallback", "only", "--polls", "1", "--comet", "message"],
        poll_case,
    );
}

/// The check itself: what a device did that took `OPTIONS *` for a heartbeat before it knew where
/// its body ended.
#[test]
fn a_boundary_that_the_device_sees_elsewhere_is_found() {
    let Some(mut readers) = Reader::both() else { return };
    let heartbeat = "HTTP/1.1 204 No Content\r\n\r\n";
    let hello = "HTTP/1.1 200 OK\r\nX-Nonce: n\r\nContent-Length: 0\r\n\r\n";
    let next = "GET /next HTTP/1.1\r\nHost: a\r\nX-Nonce: n\r\n\r\n";
    let wire = |gateway: String, device: String| Wire {
        gateway: gateway.into(),
        device: device.into(),
        ..Wire::default()
    };
    let with_body = |body: &str| {
        format!("OPTIONS * HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let asked = |bytes: &str, count| Asked { bytes: bytes.into(), count, cut: Vec::new() };
    let mut check =
        |wire: Wire, asked: Asked| device_saw_the_same(&[wire], &asked, true, &mut readers);

    // A request after a heartbeat without a body is what both see.
    let bare = "OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n".to_owned();
    assert_eq!(check(wire(bare + next, format!("{heartbeat}{hello}")), asked(next, 1)), Ok(1));
    // The body is half a head: the next visitor's request became a part of it.
    let half = "GET /chosen HTTP/1.1\r\nHost: a\r\nX: ";
    let swallowed = format!("{half}{next}");
    check(wire(with_body(half) + next, format!("{heartbeat}{hello}")), asked(&swallowed, 1))
        .unwrap_err();
    // The body is a whole request, which was answered.
    let chosen = "GET /chosen HTTP/1.1\r\nHost: a\r\nX-Nonce: n\r\n\r\n";
    let both = format!("{chosen}{next}");
    let why = check(
        wire(with_body(chosen) + next, format!("{heartbeat}{hello}{hello}")),
        asked(&both, 2),
    )
    .unwrap_err();
    assert!(why.contains("bytes behind the response"), "{why}");
    // The same without a heartbeat: a body that was left in the link.
    let post = format!(
        "POST /x HTTP/1.1\r\nHost: a\r\nX-Nonce: n\r\nContent-Length: {}\r\n\r\n{chosen}",
        chosen.len()
    );
    assert_eq!(check(wire(post.clone(), hello.to_owned()), asked(&post, 1)), Ok(1));
    check(
        wire(post.clone(), format!("{hello}{hello}")),
        asked(&format!("POST /x HTTP/1.1\r\nHost: a\r\nX-Nonce: n\r\n\r\n{chosen}"), 2),
    )
    .unwrap_err();
}
