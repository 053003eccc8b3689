//! A visitor: it sends requests, splits its bytes arbitrarily, and checks the responses.

use std::collections::VecDeque;
use std::net::{Shutdown, SocketAddr};

use crate::limits::Limits;
use crate::proto::body::{self, Decoder, Framing, Piece};
use crate::proto::head::{self, LineEnds};
use crate::sim::actors::{Actor, Cx, pattern, read_all, write_some};
use crate::sim::net::{self, Micros, Socket, tell};

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
    /// On a separate connection.
    pub(super) fresh: bool,
    /// Pipelined: sent before the response to the previous one.
    pub(super) pipelined: bool,
    /// The visitor leaves after it has read this number of bytes of the response.
    pub(super) abandon: Option<usize>,
    /// The visitor leaves after it has written this number of bytes.
    pub(super) stop_at: Option<usize>,
    pub(super) half_close: bool,
}

impl Request {
    /// The request as a visitor writes it.
    fn write(&self, out: &mut Vec<u8>) {
        self.write_to(out, &format!("/{}", self.device));
    }

    /// The request as it is sent on a link.
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
    /// Reads at most this number of bytes at a time, and then pauses for this time.
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

    /// Sends the requests that are due.
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
            cx.tally.outcome(request.nonce, why.to_owned());
            cx.tally.failed += 1;
            if self.must_succeed {
                cx.tally.violation(format!(
                    "request {} ended without an answer, and no failures were injected: {why}",
                    request.nonce
                ));
            }
        }
    }

    /// Returns true if the connection can be reused.
    fn read(&mut self, cx: &mut Cx<'_>) -> Result<(), String> {
        let Some(conn) = &mut self.conn else { return Ok(()) };
        if conn.asked.is_empty() && conn.input.is_empty() {
            let mut stray = Vec::new();
            let ended = read_all(&conn.socket, &mut stray, 64);
            if !stray.is_empty() && !stray.starts_with(b"HTTP/1.1 408") {
                cx.tally.violation(format!(
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

/// Continues to read the response to `request`.
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

/// Checks that a complete response belongs to its request.
pub(super) fn check(cx: &mut Cx<'_>, request: &Request, answer: &Reading, must_succeed: bool) {
    let nonce = request.nonce;
    let ours = answer.nonce.is_some();
    cx.tally.outcome(
        nonce,
        format!("{}{}", answer.status, if ours { "" } else { " of the gateway or the device" }),
    );
    *if ours { &mut cx.tally.good } else { &mut cx.tally.failed } += 1;
    if must_succeed && !ours {
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        return cx.tally.violation(format!(
            "request {nonce} was answered {}, and no failures were injected: {text}",
            answer.status
        ));
    }
    let Some(entry) = cx.tally.requests.get(&nonce) else { return };
    let (open_ended, ran) = (entry.open_ended || answer.until_close, entry.ran);
    if !ours {
        if answer.status < 300 {
            cx.tally
                .violation(format!("request {nonce} got {} that no server gave", answer.status));
        }
        return;
    }
    if answer.nonce != Some(nonce) {
        return cx.tally.violation(format!("request {nonce} got the answer to {:?}", answer.nonce));
    }
    if ran == 0 {
        cx.tally.violation(format!("request {nonce} was answered and never ran"));
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
        cx.tally.violation(format!(
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
                    cx.tally.violation(format!(
                        "a visitor received bytes that are not a response: {why}"
                    ));
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
