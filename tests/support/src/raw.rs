//! Raw peers: bytes out, bytes in, each wait with a deadline; heads and bodies read by an HTTP
//! reader of their own.
//!
//! This reader shares no code with the crate, so that a mistake there is not repeated here.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::{DEADLINE, eventually_within};

/// A message head as it came.
#[derive(Clone, Debug)]
pub struct Head {
    /// Request line or status line.
    pub start: String,
    /// Names and values in their order; bytes above 0x7F as ISO-8859-1.
    pub fields: Vec<(String, String)>,
    /// All bytes to the end of the empty line.
    pub bytes: Vec<u8>,
}

/// So many bytes of a body are shown where a test fails.
const SHOWN: usize = 400;

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|o| char::from(*o)).collect()
}

impl Head {
    /// Reads a head that is whole; every line has to end CRLF.
    #[track_caller]
    pub fn parse(bytes: &[u8]) -> Head {
        let text = latin1(bytes);
        let lines = text
            .strip_suffix("\r\n\r\n")
            .unwrap_or_else(|| panic!("no head with its empty line: {text:?}"));
        let mut lines = lines.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let fields = lines.map(|line| {
            assert!(
                !line.contains(['\r', '\n', '\0']),
                "a stray CR, LF or NUL in a head: {text:?}"
            );
            let (name, value) = line
                .split_once(':')
                .unwrap_or_else(|| panic!("a field without a colon: {line:?} in {text:?}"));
            assert!(
                !name.is_empty() && !name.contains([' ', '\t']),
                "a field's name is wrong: {line:?} in {text:?}"
            );
            (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())
        });
        Head { fields: fields.collect(), start: start.clone(), bytes: bytes.to_owned() }
    }

    /// The head that a body starts with (what [`LocalServer`](super::LocalServer) echoes), and what
    /// follows.
    #[track_caller]
    pub fn split(body: &[u8]) -> (Head, &[u8]) {
        let end =
            find(body, b"\r\n\r\n").unwrap_or_else(|| panic!("no head in {:?}", latin1(body))) + 4;
        (Head::parse(&body[..end]), &body[end..])
    }

    #[track_caller]
    pub fn status(&self) -> u16 {
        let word = self.start.split(' ').nth(1).unwrap_or_default();
        assert!(
            self.start.starts_with("HTTP/1.1 ") && word.len() == 3,
            "no status line: {:?}",
            self.start
        );
        word.parse().unwrap_or_else(|_| panic!("no status line: {:?}", self.start))
    }

    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or_default()
    }

    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
            .collect()
    }

    /// The one value of this field; several lines of it are a failure.
    #[track_caller]
    pub fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} stands {} times in {}", all.len(), self.text());
        all.first().copied()
    }

    pub fn text(&self) -> String {
        latin1(&self.bytes)
    }

    fn lists(&self, name: &str, token: &str) -> bool {
        self.all(name)
            .iter()
            .flat_map(|v| v.split(','))
            .any(|t| t.trim().eq_ignore_ascii_case(token))
    }

    /// `Connection: close`.
    pub fn closes(&self) -> bool {
        self.lists("connection", "close")
    }
}

pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}

/// A response with its body.
#[derive(Clone, Debug)]
pub struct Answer {
    pub head: Head,
    /// 1xx before it.
    pub interim: Vec<Head>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Answer {
    #[track_caller]
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    pub fn text(&self) -> String {
        latin1(&self.body)
    }

    /// Fails unless this is `status` with a short `text/plain` reason.
    #[track_caller]
    pub fn expect_refusal(&self, status: u16) {
        assert_eq!(self.status(), status, "{}{}", self.head.text(), self.text());
        let kind = self.head.get("content-type").unwrap_or_default();
        assert!(
            kind.starts_with("text/plain"),
            "a refusal's reason is text/plain: {}{}",
            self.head.text(),
            self.text()
        );
        let length = self.body.len();
        assert!(
            (3..1000).contains(&length),
            "a refusal says why, shortly, not in {length} bytes: {}{}",
            self.head.text(),
            self.text()
        );
    }

    /// Fails unless it is one of `statuses`, with a reason.
    #[track_caller]
    pub fn expect_refusal_among(&self, statuses: &[u16]) {
        assert!(
            statuses.contains(&self.status()),
            "not one of {statuses:?}: {}{}",
            self.head.text(),
            self.text()
        );
        self.expect_refusal(self.status());
    }

    /// Fails unless this is 200 with this body.
    #[track_caller]
    pub fn expect_ok(&self, body: impl AsRef<[u8]>) {
        assert_eq!(self.status(), 200, "{}{}", self.head.text(), self.text());
        assert_eq!(self.text(), latin1(body.as_ref()), "{}", self.head.text());
    }
}

/// A response that ended before its message did.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Of the final response, where its head came.
    pub head: Option<Head>,
    pub body: Vec<u8>,
}

/// What reading to the deadline gave.
enum More {
    Bytes,
    End,
    Reset,
}

/// One end of a TCP connection, spoken byte by byte.
pub struct RawPeer {
    stream: TcpStream,
    unread: Vec<u8>,
    pub who: String,
    /// For every single wait.
    pub deadline: Duration,
}

impl RawPeer {
    #[track_caller]
    pub fn connect(to: SocketAddr) -> RawPeer {
        let stream = TcpStream::connect_timeout(&to, DEADLINE)
            .unwrap_or_else(|e| panic!("connecting to {to}: {e}"));
        RawPeer::adopt(stream, &format!("peer of {to}"))
    }

    /// With the smallest receive buffer that the kernel allows, so that what is not read stays with
    /// the sender.
    #[track_caller]
    pub fn connect_narrow(to: SocketAddr) -> RawPeer {
        let socket =
            socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)
                .unwrap();
        socket.set_recv_buffer_size(1).unwrap();
        socket
            .connect_timeout(&to.into(), DEADLINE)
            .unwrap_or_else(|e| panic!("connecting to {to}: {e}"));
        RawPeer::adopt(socket.into(), &format!("slow peer of {to}"))
    }

    /// From another address of this machine.
    #[track_caller]
    pub fn connect_from(ip: [u8; 4], to: SocketAddr) -> RawPeer {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
        socket
            .connect_timeout(&to.into(), DEADLINE)
            .unwrap_or_else(|e| panic!("connecting from {ip:?} to {to}: {e}"));
        RawPeer::adopt(socket.into(), &format!("peer of {to} from {ip:?}"))
    }

    /// The other end's address.
    pub fn peer_addr(&self) -> SocketAddr {
        self.stream.peer_addr().unwrap()
    }

    pub fn adopt(stream: TcpStream, who: &str) -> RawPeer {
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(false).unwrap();
        RawPeer { stream, unread: Vec::new(), who: who.to_owned(), deadline: DEADLINE }
    }

    #[track_caller]
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_write(bytes).unwrap_or_else(|e| panic!("{}: writing: {e}", self.who));
    }

    /// For peers that may close in the middle of it.
    pub fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.set_write_timeout(Some(self.deadline))?;
        self.stream.write_all(bytes.as_ref())
    }

    /// How many of the written bytes the other end has not acknowledged (proc(5), `net/tcp`).
    #[cfg(target_os = "linux")]
    pub fn unacknowledged(&self) -> usize {
        let ports = [self.stream.local_addr(), self.stream.peer_addr()];
        let [here, there] = ports.map(|addr| format!(":{:04X}", addr.unwrap().port()));
        let sockets = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
        let is_ours =
            |columns: &Vec<&str>| columns[1].ends_with(&here) && columns[2].ends_with(&there);
        let ours = sockets.lines().map(|line| line.split(' ').filter(|c| !c.is_empty()).collect());
        let ours = ours.filter(|columns: &Vec<&str>| columns.len() > 4).find(is_ours);
        let queues = ours.unwrap_or_else(|| panic!("{}: it has no socket", self.who))[4];
        usize::from_str_radix(queues.split(':').next().unwrap(), 16).unwrap()
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// No more bytes from here; reading goes on.
    pub fn finish_writing(&self) {
        let _ = self.stream.shutdown(Shutdown::Write); // the other side may have closed already
    }

    #[track_caller]
    fn more(&mut self, by: Instant, doing: &str) -> More {
        let mut buffer = [0; 64 * 1024];
        let left = by.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left)).unwrap();
        match self.stream.read(&mut buffer) {
            Ok(0) => More::End,
            Ok(n) => {
                self.unread.extend_from_slice(&buffer[..n]);
                More::Bytes
            }
            // A read with a time-out is not taken up again after the machine stood still.
            Err(e) if e.kind() == ErrorKind::Interrupted => self.more(by, doing),
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::ConnectionReset
                        | ErrorKind::BrokenPipe
                        | ErrorKind::ConnectionAborted
                ) =>
            {
                More::Reset
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!(
                    "{}: {doing}: nothing for {:?}; so far {:?}",
                    self.who,
                    self.deadline,
                    latin1(&self.unread[..self.unread.len().min(2000)])
                )
            }
            Err(e) => panic!("{}: {doing}: {e}", self.who),
        }
    }

    /// Reads until `done` finds what it looks for; `Err` says how the connection ended before that.
    #[track_caller]
    fn until<T>(
        &mut self,
        doing: &str,
        mut done: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<T, &'static str> {
        let by = Instant::now() + self.deadline;
        loop {
            if let Some(found) = done(&self.unread) {
                return Ok(found);
            }
            match self.more(by, doing) {
                More::Bytes => {}
                More::End => return Err("end of stream"),
                More::Reset => return Err("reset"),
            }
        }
    }

    /// What a single `read` brings, at the latest at the deadline.
    #[track_caller]
    pub fn read_once(&mut self) -> Vec<u8> {
        if self.unread.is_empty() {
            let by = Instant::now() + self.deadline;
            self.more(by, "one read");
        }
        std::mem::take(&mut self.unread)
    }

    /// One byte, and no more is taken from the socket.
    #[track_caller]
    pub fn read_byte(&mut self) -> u8 {
        if !self.unread.is_empty() {
            return self.unread.remove(0);
        }
        let mut byte = [0];
        self.stream.set_read_timeout(Some(self.deadline)).unwrap();
        self.stream
            .read_exact(&mut byte)
            .unwrap_or_else(|e| panic!("{}: reading a byte: {e}", self.who));
        byte[0]
    }

    /// The next head; `None` when the connection ended before its first byte.
    #[track_caller]
    pub fn try_read_head(&mut self) -> Option<Head> {
        match self.until("reading a head", |o| find(o, b"\r\n\r\n").map(|at| at + 4)) {
            Ok(len) => {
                let bytes: Vec<u8> = self.unread.drain(..len).collect();
                Some(Head::parse(&bytes))
            }
            Err(_) if self.unread.is_empty() => None,
            Err(how) => panic!("{}: {how} within a head: {:?}", self.who, latin1(&self.unread)),
        }
    }

    #[track_caller]
    pub fn read_head(&mut self) -> Head {
        self.try_read_head().unwrap_or_else(|| {
            panic!("{}: the connection was closed where a head was expected", self.who)
        })
    }

    /// The rest of a head whose first bytes (`taken`) were read before.
    #[track_caller]
    pub fn read_head_after(&mut self, taken: &str) -> Head {
        self.unread.splice(..0, taken.bytes());
        self.read_head()
    }

    #[track_caller]
    pub fn read_exact(&mut self, n: usize) -> Vec<u8> {
        match self.until("reading bytes", |o| (o.len() >= n).then_some(())) {
            Ok(()) => self.unread.drain(..n).collect(),
            Err(how) => panic!(
                "{}: {how} after {} of {n} bytes: {:?}",
                self.who,
                self.unread.len(),
                latin1(&self.unread[..self.unread.len().min(SHOWN)])
            ),
        }
    }

    /// To the end of a line, without its CRLF; `Err` says how the connection ended before that.
    #[track_caller]
    fn read_line(&mut self) -> Result<String, &'static str> {
        let len = self.until("reading a line", |o| find(o, b"\r\n"))?;
        let line: Vec<u8> = self.unread.drain(..len + 2).collect();
        Ok(latin1(&line[..len]))
    }

    /// Everything to the end of the stream. A reset is a failure: an answer may have been lost to
    /// it.
    #[track_caller]
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let Err(how) = self.until("reading to the end", |_| None::<()>) else {
            unreachable!("the condition never holds")
        };
        assert_eq!(how, "end of stream", "{}: after {:?}", self.who, latin1(&self.unread));
        std::mem::take(&mut self.unread)
    }

    /// Everything to the end, and whether that was a reset.
    #[track_caller]
    pub fn read_to_any_end(&mut self) -> (Vec<u8>, bool) {
        let Err(how) = self.until("reading to the end", |_| None::<()>) else {
            unreachable!("the condition never holds")
        };
        (std::mem::take(&mut self.unread), how == "reset")
    }

    /// Fails unless the other side closes without another byte. A reset is a close.
    #[track_caller]
    pub fn expect_closed(&mut self) {
        let _ = self.until("waiting for the close", |o| (!o.is_empty()).then_some(()));
        assert!(
            self.unread.is_empty(),
            "{}: bytes where a close was expected: {:?}",
            self.who,
            latin1(&self.unread)
        );
    }

    /// Fails unless the other side ends the stream without another byte and without a reset.
    #[track_caller]
    pub fn expect_end(&mut self) {
        let ended =
            self.until("waiting for the end of the stream", |o| (!o.is_empty()).then_some(()));
        assert!(
            self.unread.is_empty(),
            "{}: bytes where the end was expected: {:?}",
            self.who,
            latin1(&self.unread)
        );
        assert_eq!(ended, Err("end of stream"), "{}: an answer can be lost to a reset", self.who);
    }

    /// Drops what still comes until the other side closes.
    #[track_caller]
    pub fn expect_no_more(&mut self) {
        let _ = self.until("waiting for the end", |_| None::<()>); // ends with the stream or a reset
        self.unread.clear();
    }

    /// Fails when anything comes, the end of the stream too, within `time`. Only for what must
    /// never come.
    #[track_caller]
    pub fn expect_quiet(&mut self, time: Duration) {
        assert!(
            self.unread.is_empty(),
            "{}: bytes where none may be: {:?}",
            self.who,
            latin1(&self.unread)
        );
        self.stream.set_read_timeout(Some(time)).unwrap();
        let mut bytes = [0; 1024];
        match self.stream.read(&mut bytes) {
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Ok(n) => panic!("{}: {:?} where nothing may come", self.who, latin1(&bytes[..n])),
            Err(e) => panic!("{}: {e} where nothing may come", self.who),
        }
    }

    /// Whether bytes (or the end) have arrived already or arrive within `time`.
    pub fn stirs_within(&mut self, time: Duration) -> bool {
        if !self.unread.is_empty() {
            return true;
        }
        self.stream.set_read_timeout(Some(time)).unwrap();
        !matches!(self.stream.peek(&mut [0]), Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
    }

    /// Whether bytes, or an end, are here now.
    pub fn stirs(&mut self) -> bool {
        if !self.unread.is_empty() {
            return true;
        }
        self.stream.set_nonblocking(true).unwrap();
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).unwrap();
        !matches!(peeked, Err(e) if e.kind() == ErrorKind::WouldBlock)
    }

    /// Reads exactly `n` bytes of a body piece by piece, without keeping them.
    #[track_caller]
    pub fn read_through(&mut self, mut n: u64, mut take: impl FnMut(&[u8])) {
        while n > 0 {
            if self.unread.is_empty() {
                self.until("reading a body", |o| (!o.is_empty()).then_some(()))
                    .unwrap_or_else(|how| panic!("{}: {how}, {n} bytes before the end", self.who));
            }
            let now = (self.unread.len() as u64).min(n) as usize;
            take(&self.unread[..now]);
            self.unread.drain(..now);
            n -= now as u64;
        }
    }

    /// The next response to a request of `method`, whole; 1xx before it are kept apart.
    #[track_caller]
    pub fn read_answer(&mut self, method: &str) -> Answer {
        match self.read_answer_or_cut(method) {
            Ok(answer) => answer,
            Err(cut) => panic!(
                "{}: the answer is not whole: {} and {} bytes of body",
                self.who,
                cut.head.map_or("no head".to_owned(), |h| h.text()),
                cut.body.len()
            ),
        }
    }

    /// The next response, or what there was of it when the connection ended.
    #[track_caller]
    pub fn read_answer_or_cut(&mut self, method: &str) -> Result<Answer, Cut> {
        let mut interim = Vec::new();
        let head = loop {
            let Some(head) = self.try_read_head() else {
                return Err(Cut { head: None, body: Vec::new() });
            };
            match head.status() {
                100 | 102..=199 => interim.push(head),
                _ => break head,
            }
        };
        let status = head.status();
        let chunked = head.lists("transfer-encoding", "chunked");
        let length = head
            .get("content-length")
            .map(|v| v.parse::<usize>().unwrap_or_else(|_| panic!("Content-Length {v:?}")));
        assert!(!chunked || length.is_none(), "both framing fields in {}", head.text());
        if status < 200 || status == 204 {
            assert!(!chunked && length.is_none(), "framing fields in a {status}: {}", head.text());
        }
        let mut answer = Answer { head, interim, body: Vec::new(), trailers: Vec::new() };
        if method == "HEAD" || status < 200 || matches!(status, 204 | 304) {
            return Ok(answer);
        }
        let whole = match (chunked, length) {
            (true, _) => self.read_chunks(&mut answer.body, &mut answer.trailers),
            (_, Some(n)) => self.read_some(&mut answer.body, n),
            (_, None) => {
                answer.body = self.read_to_end();
                Ok(())
            }
        };
        match whole {
            Ok(()) => Ok(answer),
            Err(_) => Err(Cut { head: Some(answer.head), body: answer.body }),
        }
    }

    #[track_caller]
    fn read_some(&mut self, body: &mut Vec<u8>, n: usize) -> Result<(), &'static str> {
        let end = body.len() + n;
        while body.len() < end {
            self.until("reading a body", |o| (!o.is_empty()).then_some(()))?;
            let now = self.unread.len().min(end - body.len());
            body.extend(self.unread.drain(..now));
        }
        Ok(())
    }

    #[track_caller]
    fn read_chunks(
        &mut self,
        body: &mut Vec<u8>,
        trailers: &mut Vec<(String, String)>,
    ) -> Result<(), &'static str> {
        loop {
            let line = self.read_line()?;
            let size = line.split(';').next().unwrap_or_default();
            assert!(
                !size.is_empty() && size.len() <= 16 && size.bytes().all(|o| o.is_ascii_hexdigit()),
                "{}: chunk size {line:?}",
                self.who
            );
            let size = usize::from_str_radix(size, 16).unwrap();
            if size == 0 {
                break;
            }
            self.read_some(body, size)?;
            let end = self.read_line()?;
            assert!(end.is_empty(), "{}: {end:?} behind a chunk's data", self.who);
        }
        loop {
            let line = self.read_line()?;
            if line.is_empty() {
                return Ok(());
            }
            let (name, value) = line
                .split_once(':')
                .unwrap_or_else(|| panic!("a trailer without a colon: {line:?}"));
            trailers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// The data of the next chunk; empty at the end of the body, after its trailers.
    #[track_caller]
    pub fn read_chunk(&mut self) -> Vec<u8> {
        let line = self
            .read_line()
            .unwrap_or_else(|how| panic!("{}: {how} where a chunk was expected", self.who));
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16)
            .unwrap_or_else(|_| panic!("chunk size {line:?}"));
        let data = self.read_exact(size);
        loop {
            let line =
                self.read_line().unwrap_or_else(|how| panic!("{}: {how} behind a chunk", self.who));
            assert!(size == 0 || line.is_empty(), "{}: {line:?} behind a chunk's data", self.who);
            if line.is_empty() {
                return data;
            }
        }
    }

    /// One request, one answer.
    #[track_caller]
    pub fn ask(&mut self, request: &str) -> Answer {
        self.write(request);
        self.read_answer(request.split(' ').next().unwrap_or_default())
    }
}

/// For servers whose callers may leave at any byte.
#[allow(dead_code, reason = "the soak uses it")]
impl RawPeer {
    /// The next head; `None` when there is none, for whatever reason: what peers that are cut short
    /// look like to a server.
    pub fn read_message_head(&mut self) -> Option<Head> {
        let len = self.until("reading a head", |o| find(o, b"\r\n\r\n").map(|at| at + 4)).ok()?;
        let bytes: Vec<u8> = self.unread.drain(..len).collect();
        Some(Head::parse(&bytes))
    }

    /// Hands `n` bytes of a body on; `None` when they end before.
    pub fn read_some_through(&mut self, mut n: usize, mut take: impl FnMut(&[u8])) -> Option<()> {
        while n > 0 {
            self.until("reading a body", |o| (!o.is_empty()).then_some(())).ok()?;
            let now = self.unread.len().min(n);
            take(&self.unread[..now]);
            self.unread.drain(..now);
            n -= now;
        }
        Some(())
    }

    /// What there is, as soon as there is some; `None` at the end.
    pub fn read_any(&mut self) -> Option<Vec<u8>> {
        self.until("reading", |o| (!o.is_empty()).then_some(())).ok()?;
        Some(std::mem::take(&mut self.unread))
    }
}

/// A gateway played by the test: a listener and the devices that dial it.
pub struct RawGateway {
    listener: TcpListener,
    pub addr: SocketAddr,
}

impl RawGateway {
    pub fn start() -> RawGateway {
        RawGateway::at((super::own_address(), 0).into())
    }

    /// At 127.0.0.1: where names, lists of proxies or redirects are about the address.
    pub fn at_localhost() -> RawGateway {
        RawGateway::at((std::net::Ipv4Addr::LOCALHOST, 0).into())
    }

    /// At this address.
    pub fn at(addr: SocketAddr) -> RawGateway {
        let listener = TcpListener::bind(addr).unwrap_or_else(|e| panic!("{addr}: {e}"));
        listener.set_nonblocking(true).unwrap();
        RawGateway { addr: listener.local_addr().unwrap(), listener }
    }

    /// The next connection.
    #[track_caller]
    pub fn accept(&self) -> RawPeer {
        self.accept_within(DEADLINE)
    }

    #[track_caller]
    pub fn accept_within(&self, time: Duration) -> RawPeer {
        eventually_within(time, "a device dials the raw gateway", || self.try_accept())
    }

    pub fn try_accept(&self) -> Option<RawPeer> {
        match self.listener.accept() {
            Ok((stream, from)) => Some(RawPeer::adopt(stream, &format!("device at {from}"))),
            Err(e) if e.kind() == ErrorKind::WouldBlock => None,
            Err(e) => panic!("accepting: {e}"),
        }
    }

    /// The next connection and the head it opens with.
    #[track_caller]
    pub fn offer(&self) -> (RawPeer, Head) {
        let mut peer = self.accept();
        let head = peer.read_head();
        (peer, head)
    }

    /// The next connection, turned with the draft's 101.
    #[track_caller]
    pub fn turn(&self) -> RawPeer {
        let (mut peer, _) = self.offer();
        peer.write(super::SWITCH);
        peer
    }

    /// The device's URL at this gateway.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.addr)
    }
}
