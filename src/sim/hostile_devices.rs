//! Devices that violate the protocol, over links and by polls.

use std::net::SocketAddr;

use crate::limits::Limits;
use crate::proto::head::{self, LineEnds};
use crate::sim::actors::{Actor, BOGUS, Cx, read_all};
use crate::sim::net::{self, MILLI, Micros, SECOND, Socket, tell};
use crate::sim::origin::{Ends, ReceivedRequest, answer, run, take_body, take_head};

/// Dials like a device, and answers arbitrarily.
pub(super) struct Hostile {
    pub(super) label: String,
    pub(super) gateway: SocketAddr,
    pub(super) name: String,
    pub(super) links: usize,
    conns: Vec<Link>,
    next_dial: Micros,
    limits: Limits,
    gone: bool,
}

struct Link {
    socket: Socket,
    input: Vec<u8>,
    turned: bool,
    asked: Option<ReceivedRequest>,
    /// Why the link must not be used again: no further request may arrive.
    odd: Option<&'static str>,
    /// When it sends which bytes; `true`: it then closes.
    later: Option<(Micros, Vec<u8>, bool)>,
    offered: bool,
}

impl Hostile {
    pub(super) fn new(label: String, gateway: SocketAddr, name: String, links: usize) -> Self {
        Hostile {
            label,
            gateway,
            name,
            links,
            conns: Vec::new(),
            next_dial: 0,
            limits: Limits::default().for_own_heads(),
            gone: false,
        }
    }

    fn bogus() -> Vec<u8> {
        format!("HTTP/1.1 200 OK\r\nX-Nonce: {BOGUS}\r\nX-Len: 3\r\nContent-Length: 3\r\n\r\nno!")
            .into_bytes()
    }

    /// Returns false if the connection is over.
    fn link(label: &str, name: &str, limits: &Limits, link: &mut Link, cx: &mut Cx<'_>) -> bool {
        if !link.offered {
            if !link.socket.is_connected() {
                return link.socket.take_error().is_none();
            }
            link.offered = true;
            let offer = format!(
                "POST /{name} HTTP/1.1\r\nHost: gw\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nContent-Length: 0\r\nPTTH-Session: {:032x}\r\n\r\n",
                0xABCD
            );
            if link.socket.write_whole(offer.as_bytes()).is_err() {
                return false;
            }
        }
        if let Some((at, out, close)) = link.later.take() {
            if at > cx.now {
                link.later = Some((at, out, close));
            } else if link.socket.write_whole(&out).is_err() || close {
                return false;
            }
        }
        let ended = read_all(&link.socket, &mut link.input, usize::MAX).is_err();
        if !link.turned {
            match head::response(&link.input, limits, LineEnds::Crlf) {
                Ok(Some(response)) if response.status == 101 => {
                    let used = response.len;
                    link.input.drain(..used);
                    link.turned = true;
                }
                Ok(None) => return !ended,
                _ => return false,
            }
        }
        loop {
            if link.asked.is_none() {
                match take_head(&mut link.input, limits) {
                    Err(why) => {
                        cx.tally.violation(format!(
                            "{label} received bytes that are not a request: {why}"
                        ));
                        return false;
                    }
                    Ok(None) => return !ended,
                    Ok(asked) => link.asked = asked,
                }
                if let Some(odd) = link.odd {
                    cx.tally.violation(format!(
                        "{label}: link #{} was used again behind {odd}",
                        link.socket.number()
                    ));
                    return false;
                }
            }
            let Some(asked) = &mut link.asked else { return !ended };
            match take_body(asked, &mut link.input) {
                Err(why) => {
                    cx.tally.violation(format!("{label} received a malformed body: {why}"));
                    return false;
                }
                Ok(false) => return !ended,
                Ok(true) => {}
            }
            let Some(asked) = link.asked.take() else { return false };
            run(cx, &asked, label);
            if !Self::misbehave(label, link, &asked, cx) {
                return false;
            }
        }
    }

    /// Answers validly or not. Returns false if it closes.
    fn misbehave(label: &str, link: &mut Link, asked: &ReceivedRequest, cx: &mut Cx<'_>) -> bool {
        let (good, ends) = answer(cx, asked, false);
        let is_head = asked.method == "HEAD";
        let choice = if cx.calm { 99 } else { cx.rng.range(0, 40) };
        let surplus = |odd: &'static str, more: &[u8]| (Some(odd), [&good, more].concat());
        let (odd, out) = match choice {
            0 => surplus("an answer given twice", &good),
            1 => surplus("an answer nobody asked for", &Self::bogus()),
            2 => surplus("bytes behind an answer", b"x"),
            3 if is_head => surplus("a body behind HEAD", b"body"),
            4 => (Some("both framings"), b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec()),
            5 => (Some("what is no answer"), b"NOTHTTP\r\n\r\n".to_vec()),
            6 => (Some("nine interim answers"), b"HTTP/1.1 102 Processing\r\n\r\n".repeat(9)),
            7 => (
                Some("a switch nobody asked for"),
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n".to_vec(),
            ),
            8 => {
                let short = good.len() / 2;
                tell(|| format!("{label}: half an answer on #{}, then the end", link.socket.number()));
                let _ = link.socket.write_whole(&good[..short]);
                return false;
            }
            9 => return false,
            10 => {
                let at = cx.now + cx.rng.range(55, 70) * SECOND;
                link.later = Some((at, good, false));
                cx.wake(at);
                return true;
            }
            11 => {
                let _ = link.socket.write_whole(&good);
                let _ = link.socket.abort();
                return false;
            }
            12 => return true, // never
            13 => {
                // Unrequested bytes, a moment after the response: the link is idle then, or they
                // spoil its next response.
                let at = cx.now + cx.rng.skewed(SECOND);
                link.later = Some((at, b"XYZZY".to_vec(), false));
                cx.wake(at);
                (None, good)
            }
            14 => surplus("stray line ends and an answer", &[b"\r\n".as_slice(), &Self::bogus()].concat()),
            _ => (None, good),
        };
        if let Some(odd) = odd {
            tell(|| format!("{label}: {odd} on #{}", link.socket.number()));
            link.odd = Some(odd);
        }
        link.socket.write_whole(&out).is_ok() && ends == Ends::Keep
    }
}

impl Actor for Hostile {
    fn step(&mut self, cx: &mut Cx<'_>) {
        if self.gone {
            return;
        }
        let mut n = 0;
        while n < self.conns.len() {
            match Self::link(&self.label, &self.name, &self.limits, &mut self.conns[n], cx) {
                true => n += 1,
                false => drop(self.conns.remove(n)),
            }
        }
        if self.conns.len() >= self.links {
            return;
        }
        if cx.now < self.next_dial {
            return cx.wake(self.next_dial);
        }
        self.next_dial = cx.now + cx.rng.range(100 * MILLI, 2 * SECOND);
        cx.wake(self.next_dial);
        let Some(socket) = net::connect(self.gateway) else { return };
        let _ = socket.watch(Some((cx.node, 0)));
        self.conns.push(Link {
            socket,
            input: Vec::new(),
            turned: false,
            asked: None,
            odd: None,
            later: None,
            offered: false,
        });
    }

    fn leave(&mut self) {
        self.gone = true;
        self.conns.clear();
    }
}

// --- a polling device that violates the protocol ---

/// Polls like a device, in `message/http`, and answers arbitrarily.
pub(super) struct HostilePoller {
    pub(super) label: String,
    pub(super) gateway: SocketAddr,
    pub(super) name: String,
    conns: Vec<Poll>,
    next_dial: Micros,
    limits: Limits,
    gone: bool,
    /// The last event, and its response.
    last: Option<(String, Vec<u8>)>,
    /// Ids of answered events: a copy is not executed again.
    seen: Vec<String>,
}

struct Poll {
    socket: Socket,
    input: Vec<u8>,
    out: Option<Vec<u8>>,
}

impl HostilePoller {
    pub(super) fn new(label: String, gateway: SocketAddr, name: String) -> Self {
        let limits = Limits::default().for_own_heads();
        HostilePoller {
            label,
            gateway,
            name,
            conns: Vec::new(),
            next_dial: 0,
            limits,
            gone: false,
            last: None,
            seen: Vec::new(),
        }
    }

    fn post(name: &str, brought: Option<(&str, &[u8])>, length: Option<usize>) -> Vec<u8> {
        let mut out =
            format!("POST /{name} HTTP/1.1\r\nHost: gw\r\nAccept: message/http\r\nPTTH-Session: {:032x}\r\n", 0xFEED).into_bytes();
        match brought {
            None => out.extend_from_slice(b"Content-Length: 0\r\n\r\n"),
            Some((id, text)) => {
                let length = length.unwrap_or(text.len());
                out.extend_from_slice(
                    format!("Content-Type: message/http\r\nPTTH-Message-ID: {id}\r\nContent-Length: {length}\r\n\r\n").as_bytes(),
                );
                out.extend_from_slice(text);
            }
        }
        out
    }

    /// Handles a reply. Returns the next POST; `None`: the connection is closed instead.
    fn replied(&mut self, id: Option<String>, event: Vec<u8>, cx: &mut Cx<'_>) -> Option<Vec<u8>> {
        let Some(id) = id else { return Some(Self::post(&self.name, None, None)) };
        let mut event = event;
        let asked = take_head(&mut event, &self.limits).ok().flatten();
        let Some(mut asked) = asked else {
            cx.tally.violation(format!("{} received a reply that is not an event", self.label));
            return None;
        };
        if !matches!(take_body(&mut asked, &mut event), Ok(true)) {
            cx.tally.violation(format!("{} received an incomplete event", self.label));
            return None;
        }
        if !self.seen.contains(&id) {
            self.seen.push(id.clone());
            run(cx, &asked, &self.label);
        }
        let (good, _) = answer(cx, &asked, false);
        let old = self.last.replace((id.clone(), good.clone()));
        let choice = if cx.calm { 99 } else { cx.rng.range(0, 20) };
        let post = |id: &str, text: &[u8]| Some(Self::post(&self.name, Some((id, text)), None));
        match (choice, old) {
            (0, _) => post(&"0f".repeat(16), &Hostile::bogus()),
            (1, Some((old, text))) => post(&old, &text), // usually it was answered before
            (2, _) => post(&id, &[&good, b"x".as_slice()].concat()),
            (3, _) => post(&id, &good[..good.len() / 2]),
            (4, _) => Some(Self::post(&self.name, Some((&id, &good)), Some(good.len() + 7))), // and waits
            (5, _) => None,
            (6, _) => Some(Self::post(&self.name, None, None)), // no answer
            (7, _) => post(&id, b"NOTHTTP\r\n\r\n"),
            (8, _) => Some(
                [
                    Self::post(&self.name, Some((&id, &good)), None),
                    Self::post(&self.name, None, None),
                ]
                .concat(),
            ), // pipelined
            _ => post(&id, &good),
        }
    }
}

impl Actor for HostilePoller {
    fn step(&mut self, cx: &mut Cx<'_>) {
        if self.gone {
            return;
        }
        for mut poll in std::mem::take(&mut self.conns) {
            if let Some(out) = poll.out.take() {
                if !poll.socket.is_connected() {
                    if poll.socket.take_error().is_none() {
                        poll.out = Some(out);
                        self.conns.push(poll);
                    }
                    continue;
                }
                if poll.socket.write_whole(&out).is_err() {
                    continue;
                }
            }
            let ended = read_all(&poll.socket, &mut poll.input, usize::MAX).is_err();
            let parsed = head::response(&poll.input, &self.limits, LineEnds::Crlf);
            let Ok(parsed) = parsed else { continue };
            let Some(response) = parsed else {
                if !ended {
                    self.conns.push(poll);
                }
                continue;
            };
            let length = response
                .fields
                .get("Content-Length")
                .and_then(|v| std::str::from_utf8(v).ok())
                .and_then(|v| v.parse().ok())
                .unwrap_or(0);
            let id = response
                .fields
                .get("PTTH-Message-ID")
                .map(|v| String::from_utf8_lossy(v).into_owned());
            let (used, keep) = (
                response.len,
                head::keeps_alive(response.minor, &response.fields) && response.status < 300,
            );
            if poll.input.len() < used + length {
                if !ended {
                    self.conns.push(poll);
                }
                continue;
            }
            let event = poll.input[used..used + length].to_vec();
            poll.input.drain(..used + length);
            poll.out = self.replied(id, event, cx);
            if poll.out.is_some() && keep && !ended {
                self.conns.push(poll);
                cx.wake(cx.now + 1);
            }
        }
        if self.conns.len() >= 2 {
            return;
        }
        if cx.now < self.next_dial {
            return cx.wake(self.next_dial);
        }
        self.next_dial = cx.now + cx.rng.range(100 * MILLI, 2 * SECOND);
        cx.wake(self.next_dial);
        let Some(socket) = net::connect(self.gateway) else { return };
        let _ = socket.watch(Some((cx.node, 0)));
        self.conns.push(Poll {
            socket,
            input: Vec::new(),
            out: Some(Self::post(&self.name, None, None)),
        });
    }

    fn leave(&mut self) {
        self.gone = true;
        self.conns.clear();
    }
}
