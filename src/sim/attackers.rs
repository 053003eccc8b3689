//! Attackers from outside: visitors that try to harm others, and a gateway that violates the protocol
//! towards its devices.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::error::Refusal;
use crate::limits::Limits;
use crate::proto::body::{self, Decoder, Framing, Piece};
use crate::proto::head::{self, LineEnds};
use crate::sim::actors::{Actor, BOGUS, Cx, Entry, pattern, read_all, write_some};
use crate::sim::net::{self, MILLI, Micros, SECOND, Socket, tell};
use crate::sim::origin::{take_body, take_head};

/// A smuggled request, which no visitor sends. It is incomplete, so that the bytes after it on a
/// connection become part of it.
fn smuggled(host: &str) -> String {
    format!("GET /r?n={BOGUS}&len=0 HTTP/1.1\r\nHost: {host}\r\nX: ")
}

/// A message with a smuggled request as its body, in either framing.
fn with_body(head: &str, host: &str, chunked: bool) -> Vec<u8> {
    let text = smuggled(host);
    match chunked {
        false => format!("{head}Content-Length: {}\r\n\r\n{text}", text.len()).into_bytes(),
        true => format!(
            "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n0\r\n\r\n",
            text.len()
        )
        .into_bytes(),
    }
}

/// A wake-up that is requested once, however often the actor runs before it.
#[derive(Default)]
struct Alarm(Option<Micros>);

impl Alarm {
    fn set(&mut self, cx: &Cx<'_>, at: Option<Micros>) {
        let Some(at) = at else { return };
        if self.0.is_none_or(|set| set <= cx.now || at < set) {
            self.0 = Some(at);
            cx.wake(at);
        }
    }
}

// --- visitors ---

/// An attacking visitor: each connection carries one attack, and ends.
pub(super) struct Attacker {
    to: SocketAddr,
    names: Vec<String>,
    /// It attacks only with what it sends, and not by being slow.
    polite: bool,
    left: usize,
    /// The one attack that it repeats in quick succession.
    theme: Option<u64>,
    next: Micros,
    conns: Vec<Attack>,
    alarm: Alarm,
}

struct Attack {
    socket: Socket,
    out: Vec<u8>,
    goes_at: Micros,
    resets: bool,
}

impl Attacker {
    pub(super) fn new(
        to: SocketAddr,
        names: Vec<String>,
        polite: bool,
        attacks: usize,
        theme: Option<u64>,
    ) -> Self {
        Attacker {
            to,
            names,
            polite,
            left: attacks,
            theme,
            next: 0,
            conns: Vec::new(),
            alarm: Alarm::default(),
        }
    }

    fn attack(&self, cx: &mut Cx<'_>) -> Vec<u8> {
        let name = &self.names[cx.rng.size(0, self.names.len() - 1)];
        let host = format!("{name}.sim.example");
        let post = format!("POST /{name}/r HTTP/1.1\r\nHost: gw.example\r\n");
        let chunks =
            |text: &str| format!("{post}Transfer-Encoding: chunked\r\n\r\n{text}").into_bytes();
        let chunked = cx.rng.permille(500);
        let any = cx.rng.range(0, if self.polite { 11 } else { 14 });
        match self.theme.unwrap_or(any) {
            0 => with_body(&format!("OPTIONS * HTTP/1.1\r\nHost: {host}\r\n"), &host, chunked),
            1 => with_body(&format!("OPTIONS http://{host} HTTP/1.1\r\nHost: {host}\r\n"), &host, chunked),
            2 => with_body(&format!("OPTIONS * HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"), &host, chunked),
            3 => with_body(&format!("GET /r HTTP/1.1\r\nHost: {host}\r\n"), &host, chunked),
            4 => chunks("0x5\r\nhello\r\n0\r\n\r\n"),
            5 => chunks("zz\r\n"),
            6 => chunks(&format!("0\r\n{}\r\n", "T: x\r\n".repeat(101))),
            7 => {
                let fields: String = (0..cx.rng.size(90, 100)).map(|n| format!("X-{n}: 1\r\n")).collect();
                format!("GET /{name}/r HTTP/1.1\r\nHost: gw.example\r\n{fields}\r\n").into_bytes()
            }
            8 => {
                let long = "x".repeat(cx.rng.size(16_200, 16_360));
                format!("GET /{name}/r HTTP/1.1\r\nHost: gw.example\r\nX: {long}\r\n\r\n").into_bytes()
            }
            9 => format!("{post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n{}", smuggled(&host)).into_bytes(),
            10 => format!("GET /{name}/r HTTP/1.1\r\nHost: gw.example\r\n\r\n{}", "\r\n".repeat(3)).into_bytes(),
            11 => format!("GET /{name}/r HTTP/1.1\r\nHost: gw.example\r\nUpgrade: none\r\nConnection: Upgrade\r\n\r\nXYZ").into_bytes(),
            12 => format!("{post}Content-Length: 100000\r\n\r\nslow").into_bytes(),
            13 => format!("{post}Content-Length: 5\r\nExpect: 100-continue\r\n\r\n").into_bytes(),
            _ => format!("{post}Content-Le").into_bytes(),
        }
    }
}

impl Actor for Attacker {
    fn step(&mut self, cx: &mut Cx<'_>) {
        self.conns.retain_mut(|attack| {
            let mut read = Vec::new();
            let broken = write_some(&attack.socket, &mut attack.out, usize::MAX).is_err();
            let over = read_all(&attack.socket, &mut read, usize::MAX).is_err();
            let goes = attack.goes_at <= cx.now;
            if goes && attack.resets {
                let _ = attack.socket.abort();
            }
            !(broken || over || goes)
        });
        self.begin(cx);
        let goes = self.conns.iter().map(|attack| attack.goes_at);
        let next =
            goes.chain((self.left > 0).then_some(self.next)).min().map(|at| at.max(cx.now + 1));
        self.alarm.set(cx, next);
    }

    fn is_done(&self) -> bool {
        self.left == 0
    }

    fn leave(&mut self) {
        self.left = 0;
        self.conns.clear();
    }
}

impl Attacker {
    fn begin(&mut self, cx: &mut Cx<'_>) {
        if self.left == 0 || cx.now < self.next {
            return;
        }
        self.left -= 1;
        self.next =
            cx.now + cx.rng.skewed(if self.theme.is_some() { 300 * MILLI } else { 2 * SECOND });
        let out = self.attack(cx);
        let Some(socket) = net::connect(self.to) else { return };
        let _ = socket.watch(Some((cx.node, 0)));
        let stays = if self.polite { 2 * SECOND } else { cx.rng.skewed(30 * SECOND) };
        tell(|| {
            format!(
                "an attacker writes on #{}: {}",
                socket.number(),
                String::from_utf8_lossy(&out[..out.len().min(120)])
            )
        });
        self.conns.push(Attack {
            socket,
            out,
            goes_at: cx.now + stays,
            resets: cx.rng.permille(300),
        });
    }
}

// --- a gateway that violates the protocol ---

/// Answers offers and polls arbitrarily, and sends arbitrary requests.
pub(super) struct HostileGateway {
    label: String,
    conns: Vec<Turned>,
    limits: Limits,
    /// The number of its last request.
    next_nonce: u64,
    gone: bool,
    alarm: Alarm,
}

struct Turned {
    socket: Socket,
    input: Vec<u8>,
    out: Vec<u8>,
    offered: bool,
    turned: bool,
    /// Requests without a response yet.
    asked: VecDeque<(u64, &'static str)>,
    answer: Option<(u64, Decoder)>,
    /// The bytes of heartbeats left to write, while nothing is read.
    floods: Option<usize>,
    next: Micros,
    close_at: Option<Micros>,
}

/// The bytes of a flood: many times what a device may hold for it.
const FLOOD: usize = 3 << 20;

impl HostileGateway {
    /// `from`: the first number of its requests.
    pub(super) fn new(label: String, from: u64) -> Self {
        HostileGateway {
            label,
            conns: Vec::new(),
            limits: Limits::default().for_own_heads(),
            next_nonce: from,
            gone: false,
            alarm: Alarm::default(),
        }
    }

    /// Returns false if the connection is over.
    fn serve(&mut self, conn: &mut Turned, cx: &mut Cx<'_>) -> bool {
        if conn.close_at.is_some_and(|at| at <= cx.now) {
            return false;
        }
        if let Some(left) = &mut conn.floods {
            const BEATS: &[u8] = b"OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n";
            while *left > 0 {
                if conn.out.is_empty() {
                    conn.out = BEATS.repeat(256);
                }
                match write_some(&conn.socket, &mut conn.out, usize::MAX) {
                    Err(()) => return false,
                    Ok(0) => return true, // the device has stopped reading, as it should
                    Ok(n) => *left = left.saturating_sub(n),
                }
            }
            return true;
        }
        if write_some(&conn.socket, &mut conn.out, usize::MAX).is_err() {
            return false;
        }
        let ended = read_all(&conn.socket, &mut conn.input, usize::MAX).is_err();
        if !conn.turned && !self.offer(conn, cx) {
            return false;
        }
        if conn.turned && !self.read_answers(conn, cx) {
            return false;
        }
        if conn.turned && conn.out.is_empty() && conn.close_at.is_none() && conn.next <= cx.now {
            self.ask(conn, cx);
        }
        if write_some(&conn.socket, &mut conn.out, usize::MAX).is_err() {
            return false;
        }
        !ended
    }

    /// Reads an offer or a poll, and answers it with a random response.
    fn offer(&mut self, conn: &mut Turned, cx: &mut Cx<'_>) -> bool {
        let Ok(found) = take_head(&mut conn.input, &self.limits) else {
            cx.tally.violation(format!("{} received bytes that are not an offer", self.label));
            return false;
        };
        let Some(mut post) = found else { return true };
        if !matches!(take_body(&mut post, &mut conn.input), Ok(true)) {
            return false;
        }
        if conn.offered {
            return false;
        }
        let choice = if cx.calm { 0 } else { cx.rng.range(0, 29) };
        const TURN: &[u8] =
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n";
        let out: Vec<u8> = match choice {
            20 => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            21 => b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n".to_vec(),
            22 => b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /x1\r\nContent-Length: 0\r\n\r\n".to_vec(),
            23 => b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\n<html".to_vec(),
            24 => b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n".to_vec(),
            25 => b"HTTP/1.1 100 Continue\r\n\r\n".repeat(9),
            26 => b"NOTHTTP\r\n\r\n".to_vec(),
            27 => return false,
            28 => [TURN, b"garbage\r\n\r\n"].concat(),
            29 => b"HTTP/1.1 200 OK\r\nContent-Type: message/http\r\nPTTH-Message-ID: zz\r\nContent-Length: 9\r\n\r\nnot whole".to_vec(),
            _ => TURN.to_vec(),
        };
        conn.turned = choice < 20 || choice == 28;
        if choice == 28 {
            conn.asked.push_back((0, "GET")); // bytes after the 101 are refused like a request
        }
        conn.offered = true;
        conn.out.extend_from_slice(&out);
        conn.next = cx.now + cx.rng.skewed(SECOND);
        if !conn.turned || choice == 28 {
            conn.close_at = Some(cx.now + SECOND);
        }
        true
    }

    /// Checks that responses arrive in order, each to its own request.
    fn read_answers(&mut self, conn: &mut Turned, cx: &mut Cx<'_>) -> bool {
        loop {
            if conn.answer.is_none() {
                let response = match head::response(&conn.input, &self.limits, LineEnds::Crlf) {
                    Ok(Some(response)) => response,
                    Ok(None) => return true,
                    Err(refusal) => {
                        cx.tally.violation(format!(
                            "{} received bytes that are not a response: {refusal}",
                            self.label
                        ));
                        return false;
                    }
                };
                let used = response.len;
                if response.status >= 200 {
                    let Some((nonce, method)) = conn.asked.pop_front() else {
                        cx.tally.violation(format!(
                            "{} received a response {} without a request",
                            self.label, response.status
                        ));
                        return false;
                    };
                    let told = response
                        .fields
                        .get("X-Nonce")
                        .and_then(|v| std::str::from_utf8(v).ok())
                        .and_then(|v| v.parse().ok());
                    if told.is_some_and(|told: u64| told != nonce) {
                        cx.tally.violation(format!(
                            "{} received the response to {told:?} for {nonce}",
                            self.label
                        ));
                    }
                    let Ok(framing) = body::of_response(&response, method) else { return false };
                    if framing == Framing::UntilClose
                        || !head::keeps_alive(response.minor, &response.fields)
                    {
                        return false;
                    }
                    conn.answer = Some((nonce, Decoder::new(framing, &self.limits)));
                }
                conn.input.drain(..used);
                continue;
            }
            let Some((_, decoder)) = &mut conn.answer else { return true };
            let whole = match take_answer(decoder, &mut conn.input) {
                Ok(whole) => whole,
                Err(refusal) => {
                    cx.tally
                        .violation(format!("{} received a malformed body: {refusal}", self.label));
                    return false;
                }
            };
            if !whole {
                return true;
            }
            conn.answer = None;
        }
    }

    /// Sends a valid request.
    fn send_valid_request(&mut self, conn: &mut Turned, cx: &mut Cx<'_>) {
        self.next_nonce += 1;
        let (nonce, post) = (self.next_nonce, cx.rng.permille(400));
        let method = if post { "POST" } else { "GET" };
        let length = if post { cx.rng.skewed(4000) as usize } else { 0 };
        cx.tally.requests.insert(nonce, Entry::new(method));
        cx.tally.outcome(nonce, format!("sent by {}", self.label));
        let head = format!(
            "{method} /r?n={nonce}&len={length} HTTP/1.1\r\nHost: any\r\nContent-Length: {length}\r\n\r\n"
        );
        conn.out.extend_from_slice(head.as_bytes());
        conn.out.extend_from_slice(&pattern('q', nonce, length));
        conn.asked.push_back((nonce, method));
    }

    fn ask(&mut self, conn: &mut Turned, cx: &mut Cx<'_>) {
        conn.next = cx.now + cx.rng.skewed(3 * SECOND).max(1);
        if conn.asked.len() > 3 {
            return;
        }
        let choice = if cx.calm { 0 } else { cx.rng.range(0, 19) };
        let close_soon = |conn: &mut Turned| conn.close_at = Some(cx.now + 500 * MILLI);
        match choice {
            0..=7 => {
                self.send_valid_request(conn, cx);
            }
            8 | 9 => {
                conn.out.extend_from_slice(b"OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n");
                conn.asked.push_back((0, "OPTIONS"));
            }
            10..=12 => {
                // Recognised as a heartbeat by its head, but with a body: it must never become a
                // request, and the link ends.
                let close = if cx.rng.permille(500) { "Connection: close\r\n" } else { "" };
                conn.out.extend_from_slice(&with_body(
                    &format!("OPTIONS * HTTP/1.1\r\nHost:\r\n{close}"),
                    "any",
                    choice == 12,
                ));
                conn.asked.push_back((0, "OPTIONS"));
                close_soon(conn);
            }
            13 => {
                tell(|| format!("{}: floods #{}", self.label, conn.socket.number()));
                conn.floods = Some(FLOOD);
            }
            14 => {
                conn.out.extend_from_slice(b"\r\nOPTIONS * HTTP/1.1\r\nHost:\r\n\r\n"); // one empty line is ignored
                conn.asked.push_back((0, "OPTIONS"));
            }
            15 => {
                conn.out.extend_from_slice(
                    format!("GET http://u@x/r?n={BOGUS} HTTP/1.1\r\nHost: a, b\r\n\r\n").as_bytes(),
                );
                conn.asked.push_back((0, "GET"));
                close_soon(conn);
            }
            16 => {
                conn.out.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                conn.asked.push_back((0, "GET"));
                close_soon(conn);
            }
            17 => {
                conn.out
                    .extend_from_slice(format!("GET /r?n={BOGUS}&len=0 HTTP/1.1\r\nHo").as_bytes());
                close_soon(conn);
            }
            18 => {
                let text = format!(
                    "POST /r HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\n{}",
                    smuggled("a")
                );
                conn.out.extend_from_slice(text.as_bytes());
                conn.asked.push_back((0, "POST"));
                close_soon(conn);
            }
            _ => close_soon(conn),
        }
    }

    /// Requests one wake-up for the earliest deadline.
    fn sleep(&mut self, cx: &Cx<'_>) {
        let due = |conn: &Turned| {
            let begins = conn.floods == Some(FLOOD) && conn.out.is_empty();
            let asks = (conn.turned
                && conn.out.is_empty()
                && conn.floods.is_none()
                && conn.close_at.is_none())
            .then_some(conn.next);
            [conn.close_at, asks, begins.then_some(cx.now + 1)].into_iter().flatten().min()
        };
        let next = self.conns.iter().filter_map(due).min().map(|at| at.max(cx.now + 1));
        self.alarm.set(cx, next);
    }
}

impl Actor for HostileGateway {
    fn step(&mut self, cx: &mut Cx<'_>) {
        while let Some((_, socket, _)) = net::with(|net| net.accept(cx.node)) {
            if self.gone {
                continue;
            }
            let _ = socket.watch(Some((cx.node, 0)));
            self.conns.push(Turned {
                socket,
                input: Vec::new(),
                out: Vec::new(),
                offered: false,
                turned: false,
                asked: VecDeque::new(),
                answer: None,
                floods: None,
                next: 0,
                close_at: None,
            });
        }
        for mut conn in std::mem::take(&mut self.conns) {
            if self.serve(&mut conn, cx) {
                self.conns.push(conn);
            }
        }
        self.sleep(cx);
    }

    fn leave(&mut self) {
        self.gone = true;
        self.conns.clear();
    }
}

/// Continues to read a response's body; returns true at its end.
fn take_answer(decoder: &mut Decoder, input: &mut Vec<u8>) -> Result<bool, Refusal> {
    let mut used = 0;
    let whole = loop {
        let (n, piece) = decoder.decode(&input[used..])?;
        used += n;
        match piece {
            Piece::Data(_) => {}
            Piece::More => break false,
            Piece::End => break true,
        }
    };
    input.drain(..used);
    Ok(whole)
}
