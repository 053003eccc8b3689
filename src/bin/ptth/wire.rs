//! One connection of `ptth check`, `ptth call` or `ptth status`: plain or secured. The lookup of
//! the name, all reads and all writes share one timeout.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use reverse_http::Limits;
use reverse_http::proto::body::{self, Decoder, Piece};
use reverse_http::proto::head::{self, LineEnds, ResponseHead};
use reverse_http::proto::interim::InterimCount;
use reverse_http::proto::turn::{self};
use reverse_http::proto::verdict;
use reverse_http::proto::verdict::Verdict;
use reverse_http::text::spelled_out;
use reverse_http::tls::DeviceTls;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::{Failure, failed, files};

/// The minimum time for each address to accept a connection.
const SHARE_MIN: Duration = Duration::from_millis(1);

/// Longest text of an answer that is shown, in bytes.
pub(crate) const TEXT_MAX: usize = 1024;

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A socket whose reads and writes end at an instant.
pub(crate) struct Timed {
    socket: Socket,
    until: Instant,
    /// The first bytes that arrived, to recognise a protocol other than TLS.
    first: Vec<u8>,
}

impl Timed {
    fn left(&self) -> io::Result<Duration> {
        left_until(self.until).ok_or_else(|| io::ErrorKind::TimedOut.into())
    }
}

fn left_until(until: Instant) -> Option<Duration> {
    Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
}

impl Read for Timed {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = Some(self.left()?);
        let read = match &mut self.socket {
            Socket::Tcp(tcp) => tcp.set_read_timeout(left).and_then(|()| tcp.read(bytes)),
            Socket::Unix(unix) => unix.set_read_timeout(left).and_then(|()| unix.read(bytes)),
        };
        let read = read.map_err(late)?;
        let missing = FIRST.len().saturating_sub(self.first.len());
        self.first.extend_from_slice(&bytes[..read.min(missing)]);
        Ok(read)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = Some(self.left()?);
        let written = match &mut self.socket {
            Socket::Tcp(tcp) => tcp.set_write_timeout(left).and_then(|()| tcp.write(bytes)),
            Socket::Unix(unix) => unix.set_write_timeout(left).and_then(|()| unix.write(bytes)),
        };
        written.map_err(late)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket's timeout has one of two error kinds, depending on the system.
fn late(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

/// The beginning of an HTTP answer.
const FIRST: &[u8] = b"HTTP/1.";

/// Explains a TLS failure. `None` if it is not a TLS failure.
pub(crate) type Explain = fn(&io::Error) -> Option<String>;

enum Stream {
    Plain(Timed),
    Tls(Box<StreamOwned<ClientConnection, Timed>>),
}

pub(crate) struct Wire {
    stream: Stream,
    /// Bytes that were read and not used yet.
    unread: Vec<u8>,
    explain: Explain,
}

/// The answer to an offer or a CONNECT.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) reason: String,
    pub(crate) verdict: Verdict,
    /// It comes from a gateway of this project, and not from an intermediary.
    pub(crate) marked: bool,
    /// A short text, without control characters.
    pub(crate) text: String,
}

/// A part of a final answer.
pub(crate) enum Part<'b> {
    /// The head as it came.
    Head(&'b [u8]),
    /// A piece of the body.
    Body(&'b [u8]),
}

/// The addresses of a name. The system's resolver itself has no deadline.
///
/// # Errors
/// There was no answer, or not in time.
pub(crate) fn looked_up<A>(asked: A, until: Instant) -> Result<Vec<SocketAddr>, String>
where
    A: ToSocketAddrs<Iter: Iterator<Item = SocketAddr>> + Send + 'static,
{
    let (tell, told) = sync_channel(1);
    let look = move || {
        let found = asked.to_socket_addrs().map(Vec::from_iter);
        let _ = tell.send(found); // after the timeout the receiver is gone
    };
    std::thread::Builder::new()
        .name("ptth-resolve".to_owned())
        .spawn(look)
        .map_err(|e| format!("no thread: {e}"))?;
    match told.recv_timeout(until.saturating_duration_since(Instant::now())) {
        Ok(Ok(found)) if found.is_empty() => Err("it has no address".to_owned()),
        Ok(found) => found.map_err(|e| e.to_string()),
        Err(_) => Err("no answer of the resolver in time".to_owned()),
    }
}

/// The token that a check offers.
const TOKEN: &str = "PTTH/1.0";

impl Wire {
    /// A connection with this deadline.
    pub(crate) fn new(socket: TcpStream, until: Instant) -> Self {
        Wire::over(Socket::Tcp(socket), until)
    }

    fn over(socket: Socket, until: Instant) -> Self {
        let stream = Stream::Plain(Timed { socket, until, first: Vec::new() });
        Wire { stream, unread: Vec::new(), explain: DeviceTls::explained }
    }

    /// Connects to the first address that accepts; each has a share of the time.
    ///
    /// # Errors
    /// No address accepts.
    pub(crate) fn dial(addresses: &[SocketAddr], until: Instant) -> io::Result<Self> {
        let mut last = io::ErrorKind::TimedOut.into();
        for (n, address) in addresses.iter().enumerate() {
            let others = u32::try_from(addresses.len() - n).unwrap_or(u32::MAX);
            let Some(left) = left_until(until) else { break };
            match TcpStream::connect_timeout(address, (left / others).max(SHARE_MIN)) {
                Ok(socket) => return Ok(Wire::new(socket, until)),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// Connects to a Unix socket, whose listener may be too busy to accept.
    ///
    /// # Errors
    /// There is none, or it does not accept in time.
    pub(crate) fn to_unix(path: &str, until: Instant) -> Result<Self, io::Error> {
        let path = path.to_owned();
        let left = left_until(until).ok_or(io::ErrorKind::TimedOut)?;
        let connected = files::on_a_thread(left, move || Ok(UnixStream::connect(path)));
        let socket = connected.map_err(|_| io::ErrorKind::TimedOut)??;
        Ok(Wire::over(Socket::Unix(socket), until))
    }

    /// Sets a new deadline.
    pub(crate) fn extend(&mut self, within: Duration) {
        let until = Instant::now() + within;
        match &mut self.stream {
            Stream::Plain(timed) => timed.until = until,
            Stream::Tls(tls) => tls.sock.until = until,
        }
    }

    /// Sets the explanations of TLS failures; the default are a device's.
    pub(crate) fn explained(mut self, explain: Explain) -> Self {
        self.explain = explain;
        self
    }

    /// Finishes a TLS handshake.
    pub(crate) fn secure(self, config: Arc<ClientConfig>, host: &str) -> Result<Wire, String> {
        let Wire { stream, explain, .. } = self;
        let Stream::Plain(timed) = stream else {
            return Err("it is secured already".to_owned());
        };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("{host} is no name for a certificate"))?;
        let client = ClientConnection::new(config, name).map_err(|e| e.to_string())?;
        let mut tls = StreamOwned::new(client, timed);
        while tls.conn.is_handshaking() {
            if let Err(e) = tls.conn.complete_io(&mut tls.sock) {
                return Err(match tls.sock.first.starts_with(FIRST) {
                    true => "what came is plain HTTP; write http:// in the URL".to_owned(),
                    false => handshake_failure(&e, explain),
                });
            }
        }
        Ok(Wire { stream: Stream::Tls(Box::new(tls)), unread: Vec::new(), explain })
    }

    /// The socket under it, before any TLS.
    ///
    /// # Errors
    /// There are unused bytes that were read from it.
    pub(crate) fn into_socket(self) -> Result<TcpStream, String> {
        match self.stream {
            Stream::Plain(Timed { socket: Socket::Tcp(socket), .. }) if self.unread.is_empty() => {
                Ok(socket)
            }
            _ => Err("more bytes came than were asked for".to_owned()),
        }
    }

    /// The certificates of the other side, the leaf first.
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

    /// Removes this many bytes from the front.
    fn take(&mut self, n: usize) {
        self.unread.drain(..n.min(self.unread.len()));
    }

    /// Reads more; returns false if the other side has ended the connection.
    fn fill(&mut self) -> io::Result<bool> {
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

    /// Reads the final answer to a request with this method, part by part, and returns its status.
    /// Its body may have at most `most` bytes.
    ///
    /// # Errors
    /// It is malformed, too long, cut off or late; errors of `take`.
    pub(crate) fn answer(
        &mut self,
        method: &str,
        most: usize,
        mut take: impl FnMut(u16, Part<'_>) -> Result<(), Failure>,
    ) -> Result<u16, Failure> {
        let (status, mut decoder) = self.final_head(method, &mut take)?;
        let mut taken = 0;
        while !decoder.is_done() {
            let (used, piece) = decoder.decode(&self.unread).map_err(no_http)?;
            if let Piece::Data(data) = piece {
                taken += data.len();
                if taken > most {
                    return Err(failed(format_args!("the answer is longer than {most} bytes")));
                }
                take(status, Part::Body(data))?;
            }
            self.take(used);
            if used == 0
                && !decoder.is_done()
                && !self.fill().map_err(|e| read_failed(&e, self.explain))?
            {
                decoder.finish_at_eof().map_err(|_| failed("the answer was cut off"))?;
            }
        }
        Ok(status)
    }

    fn final_head(
        &mut self,
        method: &str,
        take: &mut impl FnMut(u16, Part<'_>) -> Result<(), Failure>,
    ) -> Result<(u16, Decoder), Failure> {
        let limits = Limits::default();
        let mut interim = InterimCount::default();
        loop {
            let found = head::response(&self.unread, &limits, LineEnds::CrlfOrLf);
            let Some(head) = found.map_err(no_http)? else {
                if !self.fill().map_err(|e| read_failed(&e, self.explain))? {
                    return Err(failed("the connection was closed without an answer"));
                }
                continue;
            };
            let (status, length) = (head.status, head.len);
            if status >= 200 {
                let framing = body::of_response(&head, method).map_err(no_http)?;
                let decoder = Decoder::new(framing, &limits);
                take(status, Part::Head(&self.unread[..length]))?;
                self.take(length);
                return Ok((status, decoder));
            }
            self.take(length);
            interim
                .count(&limits)
                .map_err(|e| failed(format_args!("the other end {}", e.reason)))?;
        }
    }

    /// The final answer, or the 101.
    pub(crate) fn reply(&mut self) -> Result<Reply, String> {
        let limits = Limits::default();
        let mut interim = InterimCount::default();
        loop {
            let (mut reply, taken, length) = loop {
                match head::response(&self.unread, &limits, LineEnds::CrlfOrLf) {
                    Err(refusal) => {
                        return Err(format!("the answer is not HTTP: {}", refusal.reason));
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
                interim.count(&limits).map_err(|e| format!("the other end {}", e.reason))?;
                continue;
            }
            while self.unread.len() < length && self.fill().is_ok_and(|more| more) {}
            let text = &self.unread[..length.min(self.unread.len())];
            reply.text = spelled_out(String::from_utf8_lossy(text).trim());
            return Ok(reply);
        }
    }

    /// Waits for a heartbeat and answers it. Returns false if none arrived and the connection is
    /// open.
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
            reason: spelled_out(&String::from_utf8_lossy(head.reason)),
            verdict: verdict::check(head, TOKEN),
            marked: turn::is_marked(&head.fields),
            text: String::new(),
        }
    }
}

/// The length of a plain text to read: HTML is not useful on a terminal.
pub(crate) fn text_length(head: &ResponseHead<'_>) -> usize {
    let plain = head.fields.get("content-type").is_some_and(|kind| kind.starts_with(b"text/plain"));
    let length = head.fields.get("content-length").and_then(|n| std::str::from_utf8(n).ok());
    let length = length.and_then(|n| n.parse().ok()).unwrap_or(0);
    if plain && head.status >= 300 { TEXT_MAX.min(length) } else { 0 }
}

fn no_http(refusal: reverse_http::Refusal) -> Failure {
    failed(format_args!("the answer is not HTTP: {}", refusal.reason))
}

fn read_failed(error: &io::Error, explain: Explain) -> Failure {
    if let Some(told) = explain(error) {
        return failed(told);
    }
    match error.kind() {
        io::ErrorKind::TimedOut => failed("the answer did not come in time"),
        _ => failed(format_args!("the connection broke within the answer ({error})")),
    }
}

/// The library's explanation of a TLS failure, which is wrapped.
fn handshake_failure(error: &io::Error, explain: Explain) -> String {
    match explain(error) {
        Some(told) => told,
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the connection was closed within the handshake: does the other side speak TLS at this port?".to_owned()
        }
        None if error.kind() == io::ErrorKind::TimedOut => {
            "the handshake was not finished in time: does the other side speak TLS at this port?".to_owned()
        }
        None => error.to_string(),
    }
}
