//! The story of a run, told line by line, and its fingerprint.

use std::net::SocketAddr;

use super::{Conn, Happening, Net, SECOND, shown};

impl Net {
    pub(crate) fn tell(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(story) = &mut self.story {
            story.push(format!("{:>12.6} {}", now as f64 / SECOND as f64, line()));
        }
    }

    pub(super) fn note(&mut self, what: &Happening) {
        let word = match what {
            Happening::Segment { conn, to, bytes } => {
                (*conn as u64) << 32 | (*to as u64) << 31 | bytes.len() as u64
            }
            Happening::Fin { conn, to } => 1 << 60 | (*conn as u64) << 1 | *to as u64,
            Happening::Reset { conn, to, .. } => 2 << 60 | (*conn as u64) << 1 | *to as u64,
            Happening::Room { conn, side } => 3 << 60 | (*conn as u64) << 1 | *side as u64,
            Happening::Syn { conn } => 4 << 60 | *conn as u64,
            Happening::Refuse { conn } => 5 << 60 | *conn as u64,
            Happening::Turn(node) => 6 << 60 | *node as u64,
            Happening::Wake(node, word) => 7 << 60 | (*node as u64) << 40 | *word,
            Happening::Job(number) => 8 << 60 | *number,
            Happening::Held(_) => 0,
        };
        for part in [self.now, word] {
            self.fingerprint =
                (self.fingerprint ^ part).wrapping_mul(0x0100_0000_01B3).rotate_left(23);
        }
        if self.story.is_some() {
            let line = match what {
                Happening::Turn(_) | Happening::Held(_) => return,
                Happening::Room { conn, side } => {
                    format!("{}: room again", self.transport(*conn, 1 - side))
                }
                Happening::Segment { conn, to, bytes } => {
                    format!(
                        "{}: {} bytes: {}",
                        self.transport(*conn, *to),
                        bytes.len(),
                        shown(bytes)
                    )
                }
                Happening::Fin { conn, to } => format!("{}: end", self.transport(*conn, *to)),
                Happening::Reset { conn, to, kind } => {
                    format!("{}: {kind:?}", self.transport(*conn, *to))
                }
                Happening::Syn { conn } => format!("{}: connects", self.transport(*conn, 1)),
                Happening::Refuse { conn } => format!("{}: refused", self.transport(*conn, 1)),
                Happening::Job(number) => format!("job {number} is done"),
                Happening::Wake(node, word) => format!("{} wakes ({word})", self.label(*node)),
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
