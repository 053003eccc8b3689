//! Many devices in one thread that do nothing but answer heartbeats. Also a part of
//! benches/liveness.rs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use mio::{Events, Interest, Poll, Token};

const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n";

/// Idle devices, and what they have answered.
pub struct IdleDevices {
    poll: Poll,
    events: Events,
    links: Vec<mio::net::TcpStream>,
    pub answered: u64,
}

impl Default for IdleDevices {
    fn default() -> Self {
        Self::new()
    }
}

impl IdleDevices {
    pub fn new() -> IdleDevices {
        IdleDevices {
            poll: Poll::new().unwrap(),
            events: Events::with_capacity(1024),
            links: Vec::new(),
            answered: 0,
        }
    }

    pub fn count(&self) -> usize {
        self.links.len()
    }

    /// One device more, with one link.
    pub fn connect(&mut self, to: SocketAddr) {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.set_nodelay(true).unwrap();
        let number = self.links.len();
        write!(
            stream,
            "POST /device-{number} HTTP/1.1\r\nHost: a\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n"
        )
        .unwrap();
        let mut switch = [0; SWITCH.len()];
        stream.read_exact(&mut switch).unwrap();
        assert_eq!(switch, SWITCH, "{}", String::from_utf8_lossy(&switch));
        stream.set_nonblocking(true).unwrap();
        let mut stream = mio::net::TcpStream::from_std(stream);
        self.poll.registry().register(&mut stream, Token(number), Interest::READABLE).unwrap();
        self.links.push(stream);
    }

    /// Answers what has come, and waits at most so long for it. Anything but a heartbeat is a
    /// failure, and so is an end.
    pub fn answer(&mut self, wait: Duration) {
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(e) if e.kind() == ErrorKind::Interrupted => return,
            other => other.unwrap(),
        }
        let mut bytes = [0; 4096];
        for event in &self.events {
            let link = &mut self.links[event.token().0];
            loop {
                match link.read(&mut bytes) {
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(e) => panic!("a link was lost: {e}"),
                    Ok(0) => panic!(
                        "a link was closed by its gateway: no answer within heartbeat_timeout?"
                    ),
                    Ok(n) => {
                        let head = String::from_utf8_lossy(&bytes[..n]);
                        assert!(
                            head.starts_with("OPTIONS * ") && head.ends_with("\r\n\r\n"),
                            "no heartbeat: {head:?}"
                        );
                        link.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
                        self.answered += 1;
                    }
                }
            }
        }
    }
}
