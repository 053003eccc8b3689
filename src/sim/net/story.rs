//! The story of a run, told line by line, and its fingerprint.

use std::net::SocketAddr;

use super::{Conn, Event, Net, SECOND, shown};

impl Net {
    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(story) = &mut self.story {
            story.push(format!("{:>12.6} {}", now as f64 / SECOND as f64, line()));
        }
    }

    pub(super) fn note(&mut self, what: &Event) {
        let word = match what {
            Event::Segment { conn, to, bytes } => {
                (*conn as u64) << 32 | (*to as u64) << 31 | bytes.len() as u64
            }
            Event::Fin { conn, to } => 1 << 60 | (*conn as u64) << 1 | *to as u64,
            Event::Reset { conn, to, .. } => 2 << 60 | (*conn as u64) << 1 | *to as u64,
            Event::Room { conn, side } => 3 << 60 | (*conn as u64) << 1 | *side as u64,
            Event::Syn { conn } => 4 << 60 | *conn as u64,
            Event::Refuse { conn } => 5 << 60 | *conn as u64,
            Event::Turn(node) => 6 << 60 | *node as u64,
            Event::Wake(node, word) => 7 << 60 | (*node as u64) << 40 | *word,
            Event::Job(number) => 8 << 60 | *number,
            Event::Held(_) => 0,
        };
        for part in [self.now, word] {
            self.fingerprint =
                (self.fingerprint ^ part).wrapping_mul(0x0100_0000_01B3).rotate_left(23);
        }
        if self.story.is_some() {
            let line = match what {
                Event::Turn(_) | Event::Held(_) => return,
                Event::Room { conn, side } => {
                    format!("{}: room again", self.transport(*conn, 1 - side))
                }
                Event::Segment { conn, to, bytes } => {
                    format!(
                        "{}: {} bytes: {}",
                        self.transport(*conn, *to),
                        bytes.len(),
                        shown(bytes)
                    )
                }
                Event::Fin { conn, to } => format!("{}: end", self.transport(*conn, *to)),
                Event::Reset { conn, to, kind } => {
                    format!("{}: {kind:?}", self.transport(*conn, *to))
                }
                Event::Syn { conn } => format!("{}: connects", self.transport(*conn, 1)),
                Event::Refuse { conn } => format!("{}: refused", self.transport(*conn, 1)),
                Event::Job(number) => format!("job {number} is done"),
                Event::Wake(node, word) => format!("{} wakes ({word})", self.label(*node)),
            };
            self.tell(|| line);
        }
    }

    /// A connection and a direction for the story: `#12 lamp -> gateway`.
    pub(super) fn transport(&self, conn: usize, to: usize) -> String {
        let Conn { from, to: target, local, .. } = &self.conns[conn];
        let whose = |address: &SocketAddr| {
            let found = self.nodes.iter().find(|node| node.address == Some(address.ip()));
            found.map_or_else(
                || address.to_string(),
                |node| format!("{}:{}", node.label, address.port()),
            )
        };
        match (local, to) {
            (true, _) => format!("#{conn} pair -> {to}"),
            (_, 1) => format!("#{conn} {} -> {}", whose(from), whose(target)),
            _ => format!("#{conn} {} -> {}", whose(target), whose(from)),
        }
    }
}
