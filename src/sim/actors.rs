//! All nodes but the roles: visitors that check their answers, and servers behind devices that
//! count the requests that ran.

use std::collections::BTreeMap;
use std::io::ErrorKind;

use crate::sim::net::{self, Happening, Micros, Socket, tell};
use crate::sim::rng::Rng;
use crate::sim::world::Member;

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
    pub(super) open_ended: bool,
    pub(super) outcome: Option<String>,
}

impl Ledger {
    pub(super) fn violation(&mut self, what: String) {
        tell(|| format!("VIOLATION: {what}"));
        self.violations.push(what);
    }

    /// A request has reached the code that answers it.
    pub(super) fn ran(&mut self, nonce: u64, whose: &str) {
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
    /// The gateways that run now, for programs of their processes.
    pub(super) gateways: &'w [Member],
}

impl Cx<'_> {
    /// A loop of the gateway has a command to look at.
    pub(super) fn wake_gateway(&self, number: usize) {
        net::with(|net| self.gateways[number].nodes.iter().for_each(|node| net.wants_turn(*node)));
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

impl Entry {
    pub(super) fn new(method: &'static str) -> Self {
        Entry { method, ran: 0, open_ended: false, outcome: None }
    }
}
