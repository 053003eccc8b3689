//! Whoever is not a role: visitors who ask and check what they get, and servers behind
//! devices that count what ran.

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::net::{Shutdown, SocketAddr};

use crate::gateway::simulated as gateways;
use crate::limits::Limits;
use crate::proto::body::{self, Decoder, Framing, Piece};
use crate::proto::head::{self, LineEnds};
use crate::sim::net::{self, Happening, MILLI, Micros, Rng, SECOND, Socket, tell};
use crate::sim::tunnels::TARGET;

/// An answer that nobody asked for bears this number; no visitor may ever see it.
pub(super) const BOGUS: u64 = 999_999_999;

/// What became of every request.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) requests: BTreeMap<u64, Entry>,
    pub(super) violations: Vec<String>,
    pub(super) good: usize,
    pub(super) failed: usize,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) method: &'static str,
    pub(super) ran: u32,
    /// Its server's answer ends with the connection: a cut is invisible there.
    open_ended: bool,
    pub(super) outcome: Option<String>,
}

impl Ledger {
    pub(super) fn violation(&mut self, what: String) {
        tell(|| format!("VIOLATION: {what}"));
        self.violations.push(what);
    }

    /// A request has reached whoever answers it.
    fn ran(&mut self, nonce: u64, whose: &str) {
        let Some(entry) = self.requests.get_mut(&nonce) else {
            return self.violation(format!("{whose} was asked {nonce}, which nobody asked"));
        };
        entry.ran += 1;
        tell(|| format!("{whose}: {} {nonce} runs, for the {}. time", entry.method, entry.ran));
        // GET and HEAD may be sent once more by the gateway and once more by the device, and handed
        // out once more.
        let most = if entry.method == "POST" { 1 } else { 6 };
        if entry.ran > most {
            let what = format!("{} {nonce} ran {} times", entry.method, entry.ran);
            self.violation(what);
        }
    }

    pub(super) fn outcome(&mut self, nonce: u64, outcome: String) {
        tell(|| format!("request {nonce}: {outcome}"));
        if let Some(entry) = self.requests.get_mut(&nonce) {
            entry.outcome.get_or_insert(outcome);
        }
    }
}

/// What an actor has at hand in a step.
pub(super) struct Cx<'w> {
    pub(super) node: usize,
    pub(super) now: Micros,
    pub(super) rng: &'w mut Rng,
    pub(super) ledger: &'w mut Ledger,
    /// Failures are over.
    pub(super) calm: bool,
    /// The gateway that runs now, for programs of its process.
    pub(super) gateway: &'w gateways::Loops<gateways::Command>,
    pub(super) gateway_nodes: &'w [usize],
}

impl Cx<'_> {
    /// A loop of the gateway has a command to look at.
    pub(super) fn wake_gateway(&self) {
        net::with(|net| self.gateway_nodes.iter().for_each(|node| net.wants_turn(*node)));
    }

    pub(super) fn wake(&self, at: Micros) {
        net::with(|net| net.at(at, Happening::Wake(self.node, 0)));
    }
}

pub(super) trait Actor {
    /// Something is there for it, or it is time.
    fn step(&mut self, cx: &mut Cx<'_>);
    /// It has nothing more to do.
    fn is_done(&self) -> bool {
        true
    }
    /// The run is over: it closes what it has.
    fn leave(&mut self) {}
}

/// Letters that tell whose body it is, and where in it they stand.
pub(super) fn pattern(kind: char, nonce: u64, length: usize) -> Vec<u8> {
    let mut bytes = format!("{kind}{nonce};").into_bytes();
    bytes.truncate(length);
    for n in bytes.len()..length {
        bytes.push(b'a' + ((nonce.wrapping_mul(7) + n as u64 * 31) % 26) as u8);
    }
    bytes
}

/// Reads all there is. `Err`: the connection is over, with the error if there was one.
pub(super) fn read_all(
    socket: &Socket,
    into: &mut Vec<u8>,
    most: usize,
) -> Result<(), Option<ErrorKind>> {
    let mut buffer = [0; 4096];
    let mut left = most;
    while left > 0 {
        let room = left.min(buffer.len());
        match socket.read(&mut buffer[..room]) {
            Ok(0) => return Err(None),
            Ok(n) => {
                into.extend_from_slice(&buffer[..n]);
                left -= n;
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(Some(e.kind())),
        }
    }
    Ok(())
}

/// Writes what it can. `Err`: nobody takes it.
pub(super) fn write_some(socket: &Socket, out: &mut Vec<u8>, most: usize) -> Result<usize, ()> {
    let mut sent = 0;
    while sent < out.len().min(most) {
        match socket.write(&out[sent..out.len().min(most)]) {
            Ok(n) => sent += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(_) => return Err(()),
        }
    }
    out.drain(..sent);
    Ok(sent)
}

// --- visitors ---

/// A request that a visitor will make.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) nonce: u64,
    pub(super) device: String,
    pub(super) method: &'static str,
    pub(super) length: usize,
    pub(super) chunked: bool,
    pub(super) minor: u8,
    pub(super) pause: Micros,
    /// On a connection of its own.
    pub(super) fresh: bool,
    /// Sent before the answer to the one before is here.
    pub(super) pipelined: bool,
    /// The visitor goes when it has read so many bytes of the answer, or (`usize::MAX`) none that
    /// it could name.
    pub(super) abandon: Option<usize>,
    /// The visitor goes when it has written so many bytes.
    pub(super) stop_at: Option<usize>,
    pub(super) half_close: bool,
}

impl Request {
    /// As a visitor writes it.
    fn write(&self, out: &mut Vec<u8>) {
        self.write_to(out, &format!("/{}", self.device));
    }

    /// As it is asked on a link.
    pub(super) fn write_for_device(&self, out: &mut Vec<u8>) {
        self.write_to(out, "");
    }

    fn write_to(&self, out: &mut Vec<u8>, prefix: &str) {
        let Request { nonce, method, length, chunked, minor, .. } = self;
        let head = format!(
            "{method} {prefix}/r?n={nonce}&len={length} HTTP/1.{minor}\r\nHost: gw.example\r\n"
        );
        out.extend_from_slice(head.as_bytes());
        let keep = if *minor == 0 { "Connection: keep-alive\r\n" } else { "" };
        out.extend_from_slice(keep.as_bytes());
        let bytes = pattern('q', *nonce, *length);
        if *method != "POST" {
            return out.extend_from_slice(b"\r\n");
        }
        if !*chunked {
            out.extend_from_slice(format!("Content-Length: {length}\r\n\r\n").as_bytes());
            return out.extend_from_slice(&bytes);
        }
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
        for piece in bytes.chunks(1 + *nonce as usize % 700) {
            body::open_chunk(out, piece.len());
            out.extend_from_slice(piece);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"0\r\n\r\n");
    }
}

pub(super) struct Visitor {
    pub(super) to: SocketAddr,
    pub(super) plan: VecDeque<Request>,
    /// Reads so many bytes at most, and then not for so long.
    pub(super) pace: Option<(usize, Micros)>,
    pub(super) starts: Micros,
    pub(super) must_succeed: bool,
    next_read: Micros,
    not_before: Option<Micros>,
    conn: Option<Asking>,
    limits: Limits,
}

struct Asking {
    socket: Socket,
    out: Vec<u8>,
    input: Vec<u8>,
    asked: VecDeque<Request>,
    reading: Option<Reading>,
    read: usize,
    written: usize,
    shut: bool,
}

pub(super) struct Reading {
    status: u16,
    nonce: Option<u64>,
    pub(super) keeps: bool,
    until_close: bool,
    length: Option<usize>,
    decoder: Decoder,
    body: Vec<u8>,
}

impl Visitor {
    pub(super) fn new(
        to: SocketAddr,
        plan: VecDeque<Request>,
        pace: Option<(usize, Micros)>,
        starts: Micros,
        must_succeed: bool,
    ) -> Self {
        Visitor {
            to,
            plan,
            pace,
            starts,
            must_succeed,
            next_read: 0,
            not_before: None,
            conn: None,
            limits: Limits::default(),
        }
    }

    /// Sends what is due.
    fn ask(&mut self, cx: &mut Cx<'_>) {
        while let Some(next) = self.plan.front() {
            let busy = self.conn.as_ref().is_some_and(|conn| !conn.asked.is_empty());
            if busy
                && (!next.pipelined || self.conn.as_ref().is_some_and(|conn| conn.asked.len() > 2))
            {
                return;
            }
            if !busy {
                let at = *self.not_before.get_or_insert(cx.now + next.pause);
                if at > cx.now {
                    return cx.wake(at);
                }
                if next.fresh {
                    self.conn = None;
                }
            }
            self.not_before = None;
            let Some(next) = self.plan.pop_front() else { return };
            let conn = self.conn.get_or_insert_with(|| {
                let socket = net::connect(self.to).expect("a network");
                let _ = socket.watch(Some((cx.node, 0)));
                Asking {
                    socket,
                    out: Vec::new(),
                    input: Vec::new(),
                    asked: VecDeque::new(),
                    reading: None,
                    read: 0,
                    written: 0,
                    shut: false,
                }
            });
            tell(|| {
                format!(
                    "a visitor asks {} {} of {} on #{}",
                    next.method,
                    next.nonce,
                    next.device,
                    conn.socket.number()
                )
            });
            (conn.read, conn.written) = (0, 0);
            next.write(&mut conn.out);
            conn.asked.push_back(next);
        }
    }

    fn over(&mut self, cx: &mut Cx<'_>, why: &str) {
        let Some(conn) = self.conn.take() else { return };
        for request in conn.asked {
            cx.ledger.outcome(request.nonce, why.to_owned());
            cx.ledger.failed += 1;
            if self.must_succeed {
                cx.ledger.violation(format!(
                    "request {} ended without an answer in fair weather: {why}",
                    request.nonce
                ));
            }
        }
    }

    /// Whether the connection can be used on.
    fn read(&mut self, cx: &mut Cx<'_>) -> Result<(), String> {
        let Some(conn) = &mut self.conn else { return Ok(()) };
        if conn.asked.is_empty() && conn.input.is_empty() {
            let mut stray = Vec::new();
            let ended = read_all(&conn.socket, &mut stray, 64);
            if !stray.is_empty() && !stray.starts_with(b"HTTP/1.1 408") {
                cx.ledger.violation(format!(
                    "bytes behind all answers: {}",
                    String::from_utf8_lossy(&stray)
                ));
            }
            return ended.map_err(|_| "closed while it idled".to_owned());
        }
        let most = match self.pace {
            Some(_) if cx.now < self.next_read => return Ok(()),
            Some((most, pause)) => {
                self.next_read = cx.now + pause;
                cx.wake(self.next_read);
                most
            }
            None => usize::MAX,
        };
        let before = conn.input.len();
        let ended = read_all(&conn.socket, &mut conn.input, most);
        conn.read += conn.input.len() - before;
        while let Some(request) = conn.asked.front() {
            let went = take_answer(
                conn.reading.take(),
                &mut conn.input,
                request,
                &self.limits,
                ended.is_err() && ended != Err(None),
                ended.is_err(),
            );
            match went? {
                Answer::NotYet(reading) => {
                    conn.reading = reading;
                    break;
                }
                Answer::Whole(reading) => {
                    let Some(request) = conn.asked.pop_front() else { break };
                    check(cx, &request, &reading, self.must_succeed);
                    if !reading.keeps {
                        return Err(format!("closed behind an answer {}", reading.status));
                    }
                }
            }
        }
        let abandons = conn
            .asked
            .front()
            .and_then(|request| request.abandon)
            .is_some_and(|at| conn.read >= at);
        match ended {
            Err(None) => Err("closed".to_owned()),
            Err(Some(kind)) => Err(format!("failed: {kind:?}")),
            Ok(()) if abandons => Err("abandoned by its visitor".to_owned()),
            Ok(()) => Ok(()),
        }
    }
}

pub(super) enum Answer {
    NotYet(Option<Reading>),
    Whole(Reading),
}

/// Reads on in the answer to `request`.
pub(super) fn take_answer(
    mut reading: Option<Reading>,
    input: &mut Vec<u8>,
    request: &Request,
    limits: &Limits,
    failed: bool,
    ended: bool,
) -> Result<Answer, String> {
    while reading.is_none() {
        let own = limits.for_own_heads();
        let response =
            head::response(input, &own, LineEnds::Crlf).map_err(|e| format!("MALFORMED: {e}"))?;
        let Some(response) = response else { return Ok(Answer::NotYet(None)) };
        let used = response.len;
        if response.status >= 200 {
            let framing = body::of_response(&response, request.method)
                .map_err(|e| format!("MALFORMED: {e}"))?;
            let number = |name| {
                response
                    .fields
                    .get(name)
                    .and_then(|v| std::str::from_utf8(v).ok())
                    .and_then(|v| v.parse().ok())
            };
            reading = Some(Reading {
                status: response.status,
                nonce: number("X-Nonce"),
                length: number("X-Len").map(|n| n as usize),
                keeps: head::keeps_alive(response.minor, &response.fields)
                    && framing != Framing::UntilClose,
                until_close: framing == Framing::UntilClose,
                decoder: Decoder::new(framing, limits),
                body: Vec::new(),
            });
        }
        input.drain(..used);
    }
    let Some(mut reading) = reading else { return Ok(Answer::NotYet(None)) };
    let mut used = 0;
    let whole = loop {
        let (n, piece) =
            reading.decoder.decode(&input[used..]).map_err(|e| format!("MALFORMED: {e}"))?;
        used += n;
        match piece {
            Piece::Data(data) => reading.body.extend_from_slice(data),
            Piece::More => break false,
            Piece::End => break true,
        }
    };
    input.drain(..used);
    if whole || (reading.until_close && ended && !failed) {
        return Ok(Answer::Whole(reading));
    }
    Ok(Answer::NotYet(Some(reading)))
}

/// Whether a whole answer is the one that was asked for.
pub(super) fn check(cx: &mut Cx<'_>, request: &Request, answer: &Reading, must_succeed: bool) {
    let nonce = request.nonce;
    let ours = answer.nonce.is_some();
    cx.ledger.outcome(
        nonce,
        format!("{}{}", answer.status, if ours { "" } else { " of the gateway or the device" }),
    );
    *if ours { &mut cx.ledger.good } else { &mut cx.ledger.failed } += 1;
    if must_succeed && !ours {
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        return cx.ledger.violation(format!(
            "request {nonce} was answered {} in fair weather: {text}",
            answer.status
        ));
    }
    let Some(entry) = cx.ledger.requests.get(&nonce) else { return };
    let (open_ended, ran) = (entry.open_ended || answer.until_close, entry.ran);
    if !ours {
        if answer.status < 300 {
            cx.ledger
                .violation(format!("request {nonce} got {} that no server gave", answer.status));
        }
        return;
    }
    if answer.nonce != Some(nonce) {
        return cx
            .ledger
            .violation(format!("request {nonce} got the answer to {:?}", answer.nonce));
    }
    if ran == 0 {
        cx.ledger.violation(format!("request {nonce} was answered and never ran"));
    }
    let length = answer.length.unwrap_or(0);
    let expected = if request.method == "HEAD" || answer.status == 204 {
        Vec::new()
    } else {
        pattern('n', nonce, length)
    };
    let right =
        if open_ended { expected.starts_with(&answer.body) } else { expected == answer.body };
    if !right {
        let (got, of) = (answer.body.len(), expected.len());
        cx.ledger.violation(format!(
            "request {nonce} got a body that is not its own, or not whole: {got} of {of} bytes"
        ));
    }
}

impl Actor for Visitor {
    fn step(&mut self, cx: &mut Cx<'_>) {
        if cx.now < self.starts {
            return;
        }
        for _ in 0..8 {
            self.ask(cx);
            let Some(conn) = &mut self.conn else { return };
            let stops = conn.asked.front().and_then(|request| request.stop_at);
            let most = stops.map_or(usize::MAX, |at| at.saturating_sub(conn.written));
            let wrote = write_some(&conn.socket, &mut conn.out, most);
            conn.written += wrote.unwrap_or(0);
            if stops.is_some_and(|at| conn.written >= at) {
                self.over(cx, "abandoned by its visitor half-way");
                continue;
            }
            let halves = conn.asked.front().is_some_and(|request| request.half_close)
                && conn.out.is_empty()
                && !conn.shut;
            if halves
                && conn.socket.is_connected()
                && conn.asked.len() == 1
                && self.plan.front().is_none_or(|next| !next.pipelined)
            {
                conn.shut = true;
                let _ = conn.socket.shutdown(Shutdown::Write);
            }
            let shut = conn.shut;
            let before = conn.asked.len();
            if let Err(why) = self.read(cx) {
                if why.starts_with("MALFORMED") {
                    cx.ledger.violation(format!("a visitor was sent what is no answer: {why}"));
                }
                self.over(cx, &why);
                continue;
            }
            let after = self.conn.as_ref().map_or(0, |conn| conn.asked.len());
            if shut && after == 0 {
                self.conn = None;
            } else if before == after {
                return;
            }
        }
        cx.wake(cx.now + 1);
    }

    fn is_done(&self) -> bool {
        self.plan.is_empty() && self.conn.as_ref().is_none_or(|conn| conn.asked.is_empty())
    }

    fn leave(&mut self) {
        self.conn = None;
    }
}

// --- whoever answers ---

/// A request as a server reads it.
pub(super) struct Asked {
    /// A tunnel is wanted, which echoes so many bytes.
    pub(super) echo: Option<usize>,
    /// `None`: a heartbeat, or what is nobody's.
    pub(super) nonce: Option<u64>,
    pub(super) method: String,
    pub(super) length: usize,
    pub(super) close: bool,
    pub(super) decoder: Decoder,
    pub(super) body: Vec<u8>,
}

fn query(target: &str, name: &str) -> Option<u64> {
    let (_, query) = target.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// Takes a request's head off `input`.
pub(super) fn take_head(input: &mut Vec<u8>, limits: &Limits) -> Result<Option<Asked>, String> {
    let Some(request) = head::request(input, limits, LineEnds::Crlf).map_err(|e| e.to_string())?
    else {
        return Ok(None);
    };
    let framing = body::of_request(&request).map_err(|e| e.to_string())?;
    let wants_echo =
        request.target.starts_with(TARGET) && request.fields.lists("Connection", "upgrade");
    let length = query(request.target, "len").unwrap_or(0) as usize;
    let asked = Asked {
        echo: wants_echo.then_some(length),
        nonce: query(request.target, "n"),
        method: request.method.to_owned(),
        length,
        close: !head::keeps_alive(request.minor, &request.fields),
        decoder: Decoder::new(framing, limits),
        body: Vec::new(),
    };
    let used = request.len;
    input.drain(..used);
    Ok(Some(asked))
}

/// Takes the body off `input`; whether it is whole.
pub(super) fn take_body(asked: &mut Asked, input: &mut Vec<u8>) -> Result<bool, String> {
    let mut used = 0;
    let whole = loop {
        let (n, piece) = asked.decoder.decode(&input[used..]).map_err(|e| e.to_string())?;
        used += n;
        match piece {
            Piece::Data(data) => asked.body.extend_from_slice(data),
            Piece::More => break false,
            Piece::End => break true,
        }
    };
    input.drain(..used);
    Ok(whole)
}

/// A request is whole: it is counted, and its body compared.
pub(super) fn run(cx: &mut Cx<'_>, asked: &Asked, whose: &str) {
    let Some(nonce) = asked.nonce else { return };
    cx.ledger.ran(nonce, whose);
    if asked.method == "POST" && asked.body != pattern('q', nonce, asked.length) {
        cx.ledger.violation(format!(
            "{whose} got a body of {nonce} that is not what was sent: {} bytes",
            asked.body.len()
        ));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    Keep,
    Close,
}

/// The answer to a request: its bytes, and what becomes of the connection.
pub(super) fn answer(cx: &mut Cx<'_>, asked: &Asked, open_ended_allowed: bool) -> (Vec<u8>, Ends) {
    let Some(nonce) = asked.nonce else {
        return (
            b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            if asked.close { Ends::Close } else { Ends::Keep },
        );
    };
    let rng = &mut *cx.rng;
    let length = rng.skewed(24 * 1024) as usize;
    let (is_head, status) = (asked.method == "HEAD", if rng.permille(60) { 204 } else { 200 });
    let mut out = Vec::new();
    if !cx.calm && rng.permille(60) {
        out.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n");
    }
    let bytes = pattern('n', nonce, length);
    let fields = format!("X-Nonce: {nonce}\r\nX-Len: {length}\r\n");
    let kind = match rng.range(0, 99) {
        _ if status == 204 => 0,
        n if n >= 92 && !open_ended_allowed => 0,
        n => n,
    };
    let says_close = asked.close || rng.permille(50);
    let close = if says_close { "Connection: close\r\n" } else { "" };
    let mut ends = if says_close { Ends::Close } else { Ends::Keep };
    let length_field =
        if status == 204 { String::new() } else { format!("Content-Length: {length}\r\n") };
    match kind {
        0..=49 => {
            out.extend_from_slice(
                format!("HTTP/1.1 {status} OK\r\n{fields}{close}{length_field}\r\n").as_bytes(),
            );
            out.extend_from_slice(if is_head || status == 204 { &[] } else { &bytes });
        }
        50..=91 => {
            out.extend_from_slice(
                format!("HTTP/1.1 200 OK\r\n{fields}{close}Transfer-Encoding: chunked\r\n\r\n")
                    .as_bytes(),
            );
            if !is_head {
                for piece in bytes.chunks(rng.size(1, 4000)) {
                    body::open_chunk(&mut out, piece.len());
                    out.extend_from_slice(piece);
                    out.extend_from_slice(b"\r\n");
                }
                out.extend_from_slice(b"0\r\n\r\n");
            }
        }
        _ => {
            let minor = rng.range(0, 1);
            out.extend_from_slice(
                format!("HTTP/1.{minor} 200 OK\r\n{fields}Connection: close\r\n\r\n").as_bytes(),
            );
            out.extend_from_slice(if is_head { &[] } else { &bytes });
            ends = Ends::Close;
            if let Some(entry) = cx.ledger.requests.get_mut(&nonce) {
                entry.open_ended = true;
            }
        }
    }
    (out, ends)
}

/// A plain server behind a device.
pub(super) struct Origin {
    pub(super) label: String,
    conns: Vec<Serving>,
    limits: Limits,
    /// It closes, fails and sleeps now and then.
    pub(super) rough: bool,
}

struct Serving {
    socket: Socket,
    input: Vec<u8>,
    asked: Option<Asked>,
    out: Vec<u8>,
    /// What was written may go on then.
    until: Micros,
    ends: Option<Ends>,
    /// Closed without a word when it idles so long.
    idle: Option<Micros>,
    /// So many bytes more, then a reset.
    breaks: Option<usize>,
    /// A tunnel: so many bytes more are echoed, then it ends.
    echo: Option<usize>,
}

impl Origin {
    pub(super) fn new(label: String, rough: bool) -> Self {
        Origin { label, conns: Vec::new(), limits: Limits::default().for_own_heads(), rough }
    }

    /// Returns false when the connection is over.
    fn serve(
        label: &str,
        rough: bool,
        limits: &Limits,
        serving: &mut Serving,
        cx: &mut Cx<'_>,
    ) -> bool {
        let rough = rough && !cx.calm;
        loop {
            if serving.until > cx.now {
                return true;
            }
            if let Some(goes_on) = Self::write(rough, serving, cx) {
                return goes_on;
            }
            match Self::read(label, limits, serving, cx) {
                Ok(asked) => Self::respond(label, rough, asked, serving, cx),
                Err(goes_on) => return goes_on,
            }
        }
    }

    /// Writes what is left to write; whether the connection goes on, where no request can be read
    /// now.
    fn write(rough: bool, serving: &mut Serving, cx: &mut Cx<'_>) -> Option<bool> {
        if serving.echo.is_some() && serving.input.is_empty() {
            let ended = read_all(&serving.socket, &mut serving.input, usize::MAX).is_err();
            if ended && serving.input.is_empty() {
                return Some(false);
            }
        }
        if let Some(left) = &mut serving.echo {
            let echoed = serving.input.len().min(*left);
            serving.out.extend(serving.input.drain(..echoed));
            serving.input.clear();
            *left -= echoed;
        }
        if let Some(left) = &mut serving.breaks {
            let wrote = write_some(&serving.socket, &mut serving.out, *left);
            *left -= wrote.unwrap_or(*left);
            if *left == 0 {
                let _ = serving.socket.abort();
                return Some(false);
            }
            return Some(true);
        }
        if write_some(&serving.socket, &mut serving.out, usize::MAX).is_err() {
            return Some(false);
        }
        if !serving.out.is_empty() {
            return Some(true);
        }
        if let Some(left) = serving.echo {
            return Some(left > 0);
        }
        if let Some(ends) = serving.ends.take() {
            if ends == Ends::Close {
                return Some(false);
            }
            if rough && cx.rng.permille(100) {
                let at = cx.now + cx.rng.skewed(20 * SECOND);
                serving.idle = Some(at);
                cx.wake(at);
            }
        }
        let is_idle = serving.asked.is_none() && serving.input.is_empty();
        (is_idle && serving.idle.is_some_and(|at| at <= cx.now)).then_some(false)
    }

    /// Reads a request to its end; otherwise whether the connection goes on.
    fn read(
        label: &str,
        limits: &Limits,
        serving: &mut Serving,
        cx: &mut Cx<'_>,
    ) -> Result<Asked, bool> {
        let ended = read_all(&serving.socket, &mut serving.input, usize::MAX).is_err();
        if serving.asked.is_none() {
            match take_head(&mut serving.input, limits) {
                Err(why) => {
                    cx.ledger.violation(format!("{label} was sent what is no request: {why}"));
                    return Err(false);
                }
                Ok(None) => return Err(!ended),
                Ok(asked) => serving.asked = asked,
            }
        }
        let Some(asked) = &mut serving.asked else { return Err(!ended) };
        match take_body(asked, &mut serving.input) {
            Err(why) => {
                cx.ledger.violation(format!("{label} was sent a malformed body: {why}"));
                return Err(false);
            }
            Ok(false) => return Err(!ended),
            Ok(true) => {}
        }
        serving.asked.take().ok_or(false)
    }

    fn respond(label: &str, rough: bool, asked: Asked, serving: &mut Serving, cx: &mut Cx<'_>) {
        run(cx, &asked, label);
        if asked.echo.is_some() {
            serving.out =
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"
                    .to_vec();
            serving.echo = asked.echo;
            if asked.length > 0 && cx.rng.permille(300) {
                serving.breaks = Some(serving.out.len() + cx.rng.size(0, asked.length - 1));
            }
            return;
        }
        let (out, ends) = answer(cx, &asked, true);
        (serving.out, serving.ends, serving.idle) = (out, Some(ends), None);
        if rough {
            let pause = match cx.rng.range(0, 99) {
                0..=49 => 0,
                50..=89 => cx.rng.skewed(200 * MILLI),
                90..=97 => cx.rng.skewed(8 * SECOND),
                _ => cx.rng.range(50, 100) * SECOND,
            };
            serving.until = cx.now + pause;
            cx.wake(serving.until);
            if cx.rng.permille(60) {
                serving.breaks = Some(cx.rng.size(0, serving.out.len()));
            }
        }
    }
}

impl Actor for Origin {
    fn step(&mut self, cx: &mut Cx<'_>) {
        while let Some((_, socket, _)) = net::with(|net| net.accept(cx.node)) {
            let _ = socket.watch(Some((cx.node, 0)));
            self.conns.push(Serving {
                socket,
                input: Vec::new(),
                asked: None,
                out: Vec::new(),
                until: 0,
                ends: None,
                idle: None,
                breaks: None,
                echo: None,
            });
        }
        let mut n = 0;
        while n < self.conns.len() {
            match Self::serve(&self.label, self.rough, &self.limits, &mut self.conns[n], cx) {
                true => n += 1,
                false => drop(self.conns.remove(n)),
            }
        }
    }

    fn leave(&mut self) {
        self.conns.clear();
    }
}

impl Entry {
    pub(super) fn new(method: &'static str) -> Self {
        Entry { method, ran: 0, open_ended: false, outcome: None }
    }
}
