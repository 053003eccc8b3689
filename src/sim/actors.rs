//! All nodes except the roles: visitors that check their responses, and servers behind devices that
//! count the requests that they execute.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use crate::sim::net::{self, Event, Micros, Socket, tell};
use crate::sim::rng::Rng;
use crate::sim::world::Member;

/// The number in responses that nobody requested; no visitor may ever see it.
pub(super) const BOGUS: u64 = 999_999_999;

/// The outcome of every request.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) requests: BTreeMap<u64, Entry>,
    pub(super) violations: Vec<String>,
    pub(super) good: usize,
    pub(super) failed: usize,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) method: &'static str,
    pub(super) ran: u32,
    /// The server's response ends with the connection, so that a cut cannot be detected.
    pub(super) open_ended: bool,
    pub(super) outcome: Option<String>,
}

impl Tally {
    pub(super) fn violation(&mut self, what: String) {
        tell(|| format!("VIOLATION: {what}"));
        self.violations.push(what);
    }

    /// Notes that a request has reached the code that answers it.
    pub(super) fn ran(&mut self, nonce: u64, whose: &str) {
        let Some(entry) = self.requests.get_mut(&nonce) else {
            return self
                .violation(format!("{whose} received the request {nonce}, which nobody sent"));
        };
        entry.ran += 1;
        tell(|| format!("{whose}: {} {nonce} runs (execution {})", entry.method, entry.ran));
        // GET and HEAD may be repeated once by the gateway, once by the device, and once as an event.
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

/// The context of an actor's step.
pub(super) struct Cx<'w> {
    pub(super) node: usize,
    pub(super) now: Micros,
    pub(super) rng: &'w mut Rng,
    pub(super) tally: &'w mut Tally,
    /// No more failures are injected.
    pub(super) calm: bool,
    /// The running gateways, for programs in their processes.
    pub(super) gateways: &'w [Member],
}

impl Cx<'_> {
    /// Lets the loops of a gateway handle their commands.
    pub(super) fn wake_gateway(&self, number: usize) {
        net::with(|net| self.gateways[number].nodes.iter().for_each(|node| net.wants_turn(*node)));
    }

    pub(super) fn wake(&self, at: Micros) {
        net::with(|net| net.at(at, Event::Wake(self.node, 0)));
    }
}

pub(super) trait Actor {
    /// Handles pending events and expired deadlines.
    fn step(&mut self, cx: &mut Cx<'_>);
    /// Returns true if it has nothing more to do.
    fn is_done(&self) -> bool {
        true
    }
    /// Closes its connections at the end of the run.
    fn leave(&mut self) {}
}

/// A body whose bytes identify its request and their position.
pub(super) fn pattern(kind: char, nonce: u64, length: usize) -> Vec<u8> {
    let mut bytes = format!("{kind}{nonce};").into_bytes();
    bytes.truncate(length);
    for n in bytes.len()..length {
        bytes.push(b'a' + ((nonce.wrapping_mul(7) + n as u64 * 31) % 26) as u8);
    }
    bytes
}

/// Reads all available bytes, at most `most`. `Err`: the connection is over, with the error if there was one.
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

/// Writes as much as the socket accepts. `Err`: the connection is broken.
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

impl Entry {
    pub(super) fn new(method: &'static str) -> Self {
        Entry { method, ran: 0, open_ended: false, outcome: None }
    }
}
