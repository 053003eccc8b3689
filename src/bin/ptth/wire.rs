//! One connection of `ptth check` or `ptth call`: plain or secured, each read and write with what is left of its time.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reverse_http::Limits;
use reverse_http::proto::head::{self, LineEnds, ResponseHead};
use reverse_http::proto::turn::{self, Verdict};
use reverse_http::tls::DeviceTls;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// Longest text of an answer that is shown, in bytes.
const TEXT_MAX: usize = 1024;

/// A socket whose reads and writes end at an instant.
pub(crate) struct Timed {
    socket: TcpStream,
    until: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        self.socket.read(bytes).map_err(late)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        self.socket.write(bytes).map_err(late)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A time-out of a socket is one of two kinds, by the system.
fn late(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

enum Stream {
    Plain(Timed),
    Tls(Box<StreamOwned<ClientConnection, Timed>>),
}

pub(crate) struct Wire {
    stream: Stream,
    /// Read and not used yet.
    unread: Vec<u8>,
}

/// What came back to an offer or a CONNECT.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) reason: String,
    pub(crate) verdict: Verdict,
    /// A gateway of this project answered, and not somebody on the way.
    pub(crate) marked: bool,
    /// A short text, as it came but for control characters.
    pub(crate) text: String,
}

/// The token that a check offers.
const TOKEN: &str = "PTTH/1.0";

impl Wire {
    /// A connection that has to be done within this time.
    pub(crate) fn new(socket: TcpStream, within: Duration) -> Self {
        let timed = Timed { socket, until: Instant::now() + within };
        Wire { stream: Stream::Plain(timed), unread: Vec::new() }
    }

    /// Its time begins anew.
    pub(crate) fn extend(&mut self, within: Duration) {
        let until = Instant::now() + within;
        match &mut self.stream {
            Stream::Plain(timed) => timed.until = until,
            Stream::Tls(tls) => tls.sock.until = until,
        }
    }

    /// Finishes a TLS handshake.
    pub(crate) fn secure(self, config: Arc<ClientConfig>, host: &str) -> Result<Wire, String> {
        let Stream::Plain(timed) = self.stream else {
            return Err("it is secured already".to_owned());
        };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("{host} is no name for a certificate"))?;
        let client = ClientConnection::new(config, name).map_err(|e| e.to_string())?;
        let mut tls = StreamOwned::new(client, timed);
        while tls.conn.is_handshaking() {
            if let Err(e) = tls.conn.complete_io(&mut tls.sock) {
                return Err(handshake_failure(&e));
            }
        }
        Ok(Wire { stream: Stream::Tls(Box::new(tls)), unread: Vec::new() })
    }

    /// The certificates that the other side has shown, the leaf first.
    pub(crate) fn certificates(&self) -> Vec<Vec<u8>> {
        let Stream::Tls(tls) = &self.stream else { return Vec::new() };
        let shown = tls.conn.peer_certificates().unwrap_or_default();
        shown.iter().map(|certificate| certificate.to_vec()).collect()
    }

    pub(crate) fn version(&self) -> String {
        match &self.stream {
            Stream::Tls(tls) => tls
                .conn
                .protocol_version()
                .and_then(|version| version.as_str().map(|name| name.replace('_', ".")))
                .unwrap_or_default(),
            Stream::Plain(_) => "no TLS".to_owned(),
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let sent = match &mut self.stream {
            Stream::Plain(timed) => timed.write_all(bytes),
            Stream::Tls(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
        };
        sent.map_err(|e| format!("the connection broke while the request was written ({e})"))
    }

    /// What was read and not taken yet.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.unread
    }

    /// These bytes in front were used.
    pub(crate) fn take(&mut self, n: usize) {
        self.unread.drain(..n.min(self.unread.len()));
    }

    /// Reads more; returns false if the other side has ended the connection.
    pub(crate) fn fill(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 4096];
        let n = match &mut self.stream {
            Stream::Plain(timed) => timed.read(&mut bytes)?,
            Stream::Tls(tls) => match tls.read(&mut bytes) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => 0, // without close_notify
                read => read?,
            },
        };
        self.unread.extend_from_slice(&bytes[..n]);
        Ok(n > 0)
    }

    /// The final answer, or the 101.
    pub(crate) fn reply(&mut self) -> Result<Reply, String> {
        let limits = Limits::default();
        for _ in 0..=limits.informational_max {
            let (mut reply, taken, length) = loop {
                match head::response(&self.unread, &limits, LineEnds::CrlfOrLf) {
                    Err(refusal) => {
                        return Err(format!("what came back is no HTTP: {}", refusal.reason));
                    }
                    Ok(Some(head)) => break (Reply::of(&head), head.len, text_length(&head)),
                    Ok(None) => {}
                }
                match self.fill() {
                    Ok(true) => {}
                    Ok(false) => {
                        return Err("the connection was closed without an answer".to_owned());
                    }
                    Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                        return Err("no answer came in time".to_owned());
                    }
                    Err(e) => return Err(format!("the connection broke before an answer ({e})")),
                }
            };
            self.unread.drain(..taken);
            if reply.verdict == Verdict::Informational {
                continue;
            }
            while self.unread.len() < length && self.fill().is_ok_and(|more| more) {}
            let text = &self.unread[..length.min(self.unread.len())];
            reply.text = String::from_utf8_lossy(text).trim().escape_debug().to_string();
            return Ok(reply);
        }
        Err("more than eight preliminary answers (1xx) came".to_owned())
    }

    /// Waits for a heartbeat and answers it. `false`: none came, and the connection is open.
    pub(crate) fn heartbeat(&mut self) -> Result<bool, String> {
        loop {
            match head::request(&self.unread, &Limits::default(), LineEnds::Crlf) {
                Ok(Some(_)) => break,
                Ok(None) => {}
                Err(refusal) => return Err(refusal.reason.into_owned()),
            }
            match self.fill() {
                Ok(true) => {}
                Ok(false) => return Err("it was closed".to_owned()),
                Err(e) if e.kind() == io::ErrorKind::TimedOut => return Ok(false),
                Err(e) => return Err(e.to_string()),
            }
        }
        self.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        Ok(true)
    }
}

impl Reply {
    fn of(head: &ResponseHead<'_>) -> Self {
        Reply {
            status: head.status,
            reason: String::from_utf8_lossy(head.reason).escape_debug().to_string(),
            verdict: turn::check(head, TOKEN),
            marked: turn::is_marked(&head.fields),
            text: String::new(),
        }
    }
}

/// How much of a plain text is read: a page of HTML explains nothing on a terminal.
fn text_length(head: &ResponseHead<'_>) -> usize {
    let plain = head.fields.get("content-type").is_some_and(|kind| kind.starts_with(b"text/plain"));
    let length = head.fields.get("content-length").and_then(|n| std::str::from_utf8(n).ok());
    let length = length.and_then(|n| n.parse().ok()).unwrap_or(0);
    if plain && head.status >= 300 { TEXT_MAX.min(length) } else { 0 }
}

/// What the library makes of a mistake of TLS, which comes wrapped.
fn handshake_failure(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(tls) => DeviceTls::explained(tls),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the connection was closed within the handshake: does the other side speak TLS at this port?".to_owned()
        }
        None if error.kind() == io::ErrorKind::TimedOut => {
            "the handshake was not finished in time: does the other side speak TLS at this port?".to_owned()
        }
        None => error.to_string(),
    }
}
