//! One connection to the server. The crate `redis` writes the commands and parses the values. This
//! file reads the answers, and bounds their size ([`frame`](super::frame)) and their time: a
//! command and its answer have one deadline, even if bytes arrive one by one.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use redis::{Cmd, ConnectionLike, ErrorKind, RedisError, RedisResult, Value};
use socket2::{Domain, SockAddr, Type};

use crate::gateway::redis::frame::Frame;

/// Bytes that are read at once.
const CHUNK: usize = 16 << 10;

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A socket whose reads and writes have one deadline.
struct Timed {
    socket: Socket,
    until: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = self.left()?;
        match &mut self.socket {
            Socket::Tcp(tcp) => tcp.set_read_timeout(left).and_then(|()| tcp.read(bytes)),
            Socket::Unix(unix) => unix.set_read_timeout(left).and_then(|()| unix.read(bytes)),
        }
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.left()?;
        match &mut self.socket {
            Socket::Tcp(tcp) => tcp.set_write_timeout(left).and_then(|()| tcp.write(bytes)),
            Socket::Unix(unix) => unix.set_write_timeout(left).and_then(|()| unix.write(bytes)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Stream {
    Plain(Timed),
    #[cfg(feature = "tls")]
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, Timed>>),
}

impl Stream {
    fn timed(&mut self) -> &mut Timed {
        match self {
            Stream::Plain(timed) => timed,
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => &mut tls.sock,
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(timed) => timed.read(bytes),
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.read(bytes),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Plain(timed) => timed.write_all(bytes),
            #[cfg(feature = "tls")]
            Stream::Tls(tls) => tls.write_all(bytes).and_then(|()| tls.flush()),
        }
    }
}

pub(super) struct Wire {
    stream: Stream,
    /// How long a command and its answer may take.
    wait: Duration,
    /// Bytes that were received and not used yet.
    unread: Vec<u8>,
    /// The progress of the answer in them.
    frame: Frame,
}

impl Wire {
    fn over(socket: Socket, until: Instant, wait: Duration) -> Self {
        let stream = Stream::Plain(Timed { socket, until });
        Wire { stream, wait, unread: Vec::new(), frame: Frame::default() }
    }

    /// Connects to the first address of a host that accepts. Looking it up takes as long as the
    /// system's resolver.
    pub(super) fn to(host: &str, port: u16, wait: Duration) -> io::Result<Self> {
        let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
        let until = Instant::now() + wait;
        let mut last = io::Error::other("the host has no address");
        for (n, address) in addresses.iter().enumerate() {
            let left = until.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - n).unwrap_or(u32::MAX);
            match TcpStream::connect_timeout(address, share.max(Duration::from_millis(1))) {
                Ok(tcp) => {
                    tcp.set_nodelay(true)?;
                    return Ok(Wire::over(Socket::Tcp(tcp), until, wait));
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    pub(super) fn to_socket(path: &Path, wait: Duration) -> io::Result<Self> {
        let until = Instant::now() + wait;
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // So long `connect` waits for a server whose backlog is full.
        socket.set_write_timeout(Some(wait.max(Duration::from_millis(1))))?;
        socket.connect(&SockAddr::unix(path)?)?;
        let socket = UnixStream::from(OwnedFd::from(socket));
        Ok(Wire::over(Socket::Unix(socket), until, wait))
    }

    /// Starts TLS, within the rest of the time to connect. `ca`: instead of the system's.
    #[cfg(feature = "tls")]
    pub(super) fn secure(self, host: &str, ca: Option<&[u8]>) -> io::Result<Self> {
        let Stream::Plain(mut timed) = self.stream else { return Ok(self) };
        let tls = crate::tls::DeviceTls::new();
        let tls = match ca {
            Some(pem) => tls.ca(pem).map_err(io::Error::other)?,
            None => tls,
        };
        let mut config = (*tls.into_rustls().map_err(io::Error::other)?).clone();
        config.alpn_protocols.clear(); // those are of HTTP
        let config = std::sync::Arc::new(config);
        let name = rustls::pki_types::ServerName::try_from(host.to_owned());
        let name = name.map_err(io::Error::other)?;
        let mut session = rustls::ClientConnection::new(config, name).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut timed)?;
        }
        let stream = Stream::Tls(Box::new(rustls::StreamOwned::new(session, timed)));
        Ok(Wire { stream, ..self })
    }

    #[cfg(not(feature = "tls"))]
    pub(super) fn secure(self, _: &str, _: Option<&[u8]>) -> io::Result<Self> {
        Err(io::Error::other("this build has no TLS"))
    }

    /// Sends a command; its answer is [`next`](Self::next).
    pub(super) fn send(&mut self, command: &[u8]) -> RedisResult<()> {
        self.stream.timed().until = Instant::now() + self.wait;
        Ok(self.stream.write_all(command)?)
    }

    /// The next answer or message; `None`: there was none within this time.
    pub(super) fn next(&mut self, within: Duration) -> RedisResult<Option<Value>> {
        self.stream.timed().until = Instant::now() + within;
        match self.answer() {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.is_timeout() => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn answer(&mut self) -> RedisResult<Value> {
        loop {
            let length = self.frame.advance(&self.unread).map_err(|wrong| {
                RedisError::from((ErrorKind::Parse, "no answer", wrong.to_string()))
            })?;
            if let Some(length) = length {
                let value = redis::parse_redis_value(&self.unread[..length]);
                self.unread.drain(..length);
                self.frame = Frame::default();
                return value;
            }
            let mut chunk = [0; CHUNK];
            match self.stream.read(&mut chunk)? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                count => self.unread.extend_from_slice(&chunk[..count]),
            }
        }
    }
}

impl ConnectionLike for Wire {
    fn req_packed_command(&mut self, command: &[u8]) -> RedisResult<Value> {
        self.send(command)?;
        self.answer() // within the time that began with the command
    }

    /// Pipelines are not used.
    fn req_packed_commands(&mut self, _: &[u8], _: usize, _: usize) -> RedisResult<Vec<Value>> {
        Err((ErrorKind::Client, "pipelines are not used here").into())
    }

    fn get_db(&self) -> i64 {
        0
    }

    fn check_connection(&mut self) -> bool {
        self.req_command(&redis::cmd("PING")).is_ok()
    }

    fn is_open(&self) -> bool {
        true
    }

    fn req_command(&mut self, command: &Cmd) -> RedisResult<Value> {
        self.req_packed_command(&command.get_packed_command())
    }
}
