//! Visitors that switch to another protocol: an echo. The server ends it after a number of bytes,
//! or cuts it; a visitor that sees a clean end must have seen all of it.

use std::net::SocketAddr;

use crate::limits::Limits;
use crate::proto::head::{self, LineEnds};
use crate::sim::actors::{Actor, Cx, pattern, read_all, write_some};
use crate::sim::net::{self, Micros, Socket, tell};

/// One tunnel, from its visitor's side.
pub(super) struct Tunnelling {
    to: SocketAddr,
    device: String,
    nonce: u64,
    /// The number of bytes after which the server ends the tunnel.
    length: usize,
    starts: Micros,
    /// No failures are injected: after a clean end, all bytes must have arrived.
    fair: bool,
    conn: Option<Conn>,
    done: bool,
}

struct Conn {
    socket: Socket,
    out: Vec<u8>,
    input: Vec<u8>,
    head: bool,
}

/// The request for a tunnel.
pub(super) const TARGET: &str = "/echo";

impl Tunnelling {
    pub(super) fn new(
        to: SocketAddr,
        device: String,
        nonce: u64,
        length: usize,
        starts: Micros,
        fair: bool,
    ) -> Self {
        Tunnelling { to, device, nonce, length, starts, fair, conn: None, done: false }
    }

    fn over(&mut self, cx: &mut Cx<'_>, what: String) {
        cx.tally.outcome(self.nonce, what);
        (self.conn, self.done) = (None, true);
    }

    fn connect(&self, cx: &Cx<'_>) -> Option<Conn> {
        let socket = net::connect(self.to)?;
        let _ = socket.watch(Some((cx.node, 0)));
        let Tunnelling { device, nonce, length, .. } = self;
        let ask = format!(
            "GET /{device}{TARGET}?n={nonce}&len={length} HTTP/1.1\r\nHost: gw.example\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"
        );
        tell(|| format!("a visitor opens tunnel {nonce} to {device} on #{}", socket.number()));
        Some(Conn { socket, out: ask.into_bytes(), input: Vec::new(), head: true })
    }
}

impl Actor for Tunnelling {
    fn step(&mut self, cx: &mut Cx<'_>) {
        if self.done {
            return;
        }
        if cx.now < self.starts {
            return cx.wake(self.starts);
        }
        let Some(mut conn) = self.conn.take().or_else(|| self.connect(cx)) else { return };
        let wrote = write_some(&conn.socket, &mut conn.out, usize::MAX);
        let ended = read_all(&conn.socket, &mut conn.input, usize::MAX);
        if conn.head {
            match head::response(&conn.input, &Limits::default(), LineEnds::Crlf) {
                Ok(Some(response)) if response.status == 101 => {
                    let used = response.len;
                    conn.input.drain(..used);
                    conn.head = false;
                    conn.out = pattern('t', self.nonce, self.length);
                    cx.wake(cx.now + 1);
                }
                Ok(Some(response)) if response.status >= 200 => {
                    let status = response.status;
                    return self.over(cx, format!("no tunnel: {status}"));
                }
                Ok(Some(response)) => {
                    let used = response.len;
                    conn.input.drain(..used);
                    cx.wake(cx.now + 1);
                }
                Ok(None) if ended.is_err() => return self.over(cx, "no tunnel: closed".to_owned()),
                Ok(None) => {}
                Err(refusal) => cx.tally.violation(format!(
                    "tunnel {} was answered by what is no answer: {refusal}",
                    self.nonce
                )),
            }
            self.conn = Some(conn);
            return;
        }
        let expected = pattern('t', self.nonce, self.length);
        if !expected.starts_with(&conn.input) {
            cx.tally.violation(format!(
                "tunnel {}: what came back is not what was sent: {} bytes",
                self.nonce,
                conn.input.len()
            ));
            return self.over(cx, "wrong bytes".to_owned());
        }
        let got = conn.input.len();
        match ended {
            Err(None) if self.fair && got < self.length => {
                cx.tally.violation(format!(
                    "tunnel {} ended cleanly after {got} of {} bytes",
                    self.nonce, self.length
                ));
                self.over(cx, "cut, and not told so".to_owned());
            }
            Err(None) => self.over(cx, format!("ended after {got} of {}", self.length)),
            Err(Some(kind)) => {
                self.over(cx, format!("cut after {got} of {}: {kind:?}", self.length))
            }
            Ok(()) if wrote.is_err() && got == 0 => self.over(cx, "cut".to_owned()),
            Ok(()) => self.conn = Some(conn),
        }
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn leave(&mut self) {
        (self.conn, self.done) = (None, true);
    }
}
