//! The byte stream under a link: TCP or a Unix socket, with TLS over it (feature `tls`) or without,
//! and what a blocking link needs of one.
//!
//! Never speaks HTTP, never waits for anything but its own socket.

#[cfg_attr(not(feature = "tls"), path = "stream/no_channel.rs")]
mod channel;

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;
#[cfg(feature = "tls")]
use std::time::Instant;

use socket2::{SockRef, TcpKeepalive};

#[cfg(feature = "tls")]
pub(crate) use crate::tls::{Connector, GatewayTls, Shown, ShownKey};
pub(crate) use channel::{Channel, HandshakeError, Shaken};
#[cfg(not(feature = "tls"))]
pub(crate) use channel::{Connector, GatewayTls, Shown, ShownKey};

/// What a blocking [`link`](crate::link) needs of a byte stream: `Read`, `Write`, and a deadline
/// for each.
///
/// Implemented for [`Stream`], `TcpStream` and `UnixStream`; wrap anything else (a serial line, a
/// test pipe) in [`Untimed`].
///
/// ```
/// use std::io::{self, Read, Write};
/// use std::time::Duration;
/// use reverse_http::stream::TimedStream;
///
/// /// A serial line, whose driver has deadlines of its own kind.
/// # struct Serial;
/// # impl Serial { fn deadline(&mut self, _: Option<Duration>) -> io::Result<()> { Ok(()) } }
/// # impl Read for Serial { fn read(&mut self, _: &mut [u8]) -> io::Result<usize> { Ok(0) } }
/// # impl Write for Serial {
/// #     fn write(&mut self, bytes: &[u8]) -> io::Result<usize> { Ok(bytes.len()) }
/// #     fn flush(&mut self) -> io::Result<()> { Ok(()) }
/// # }
/// impl TimedStream for Serial {
///     fn limit_read(&mut self, time: Option<Duration>) -> io::Result<()> {
///         self.deadline(time)
///     }
///     fn limit_write(&mut self, time: Option<Duration>) -> io::Result<()> {
///         self.deadline(time)
///     }
/// }
/// ```
pub trait TimedStream: Read + Write + Send {
    /// Longest time one `read` may block; `None`: for ever.
    ///
    /// # Errors
    /// The operating system refused.
    fn limit_read(&mut self, time: Option<Duration>) -> io::Result<()>;
    /// Longest time one `write` may block; `None`: for ever.
    ///
    /// # Errors
    /// The operating system refused.
    fn limit_write(&mut self, time: Option<Duration>) -> io::Result<()>;
    /// The socket under it, where there is one: then a link can look without waiting, half-close,
    /// and reset.
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// Reads what has arrived, without waiting. `None`: nothing has, or the transport cannot tell.
    /// `Some(Ok(0))`: the peer closed. As it is, it reads from [`socket`](Self::socket); what
    /// stands between link and socket (TLS, say) has a way of its own, as for the next two.
    fn read_arrived(&mut self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        let fd = self.socket()?;
        let socket = SockRef::from(&fd);
        if let Err(error) = socket.set_nonblocking(true) {
            return Some(Err(error));
        }
        let got = (&*socket).read(buf);
        if let Err(error) = socket.set_nonblocking(false) {
            return Some(Err(error));
        }
        arrived(got)
    }
    /// The peer, a gateway, has told this link to go (a heartbeat with `Connection: close`), and is
    /// answered when this returns: a device that dials links may dial another one first. Nothing,
    /// as it is.
    fn before_goaway(&mut self) {}
    /// The peer, a gateway, says that so many callers wait for this device while none of its links
    /// is free: a device that dials links may dial more. The default does nothing.
    fn callers_wait(&mut self, _callers: usize) {}
    /// Tells the peer that nothing more will come, while what it still sends can be read. Whether
    /// that was possible.
    fn half_close(&self) -> bool {
        self.socket().is_some_and(|fd| SockRef::from(&fd).shutdown(Shutdown::Write).is_ok())
    }
    /// Makes the drop of the stream a reset (TCP): the end of a body that ends with the connection
    /// must not look clean.
    fn reset_when_dropped(&self) {
        let Some(fd) = self.socket() else { return };
        if let Err(error) = SockRef::from(&fd).set_linger(Some(Duration::ZERO)) {
            log::debug!("a connection will end with FIN instead of RST: {error}");
        }
    }
}

/// An empty socket has brought nothing.
fn arrived(got: io::Result<usize>) -> Option<io::Result<usize>> {
    match got {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        got => Some(got),
    }
}

/// Any `Read + Write` as a [`TimedStream`] without deadlines: its reads and writes block as long as
/// they like.
///
/// ```
/// use std::sync::Arc;
/// use reverse_http::{DeviceLink, Limits, stream::Untimed};
///
/// let bytes = std::io::Cursor::new(b"GET /status HTTP/1.1\r\nHost: lamp\r\n\r\n".to_vec());
/// let mut link = DeviceLink::new(Untimed(bytes), Vec::new(), Arc::new(Limits::default()));
/// assert!(link.next_request()?.is_some_and(|request| request.uri() == "/status"));
/// # Ok::<(), reverse_http::Error>(())
/// ```
#[derive(Debug)]
pub struct Untimed<T>(pub T);

impl<T: Read> Read for Untimed<T> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<T: Write> Write for Untimed<T> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(bufs)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<T: Read + Write + Send> TimedStream for Untimed<T> {
    fn limit_read(&mut self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
    fn limit_write(&mut self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
const EINPROGRESS: i32 = 115;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const EINPROGRESS: i32 = 36;

/// A connected socket of one of the kinds that a gateway or a device can own, and the TLS session
/// over it, if there is one.
///
/// ```
/// use std::net::{TcpListener, TcpStream};
/// use reverse_http::stream::Stream;
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let stream = Stream::from(TcpStream::connect(listener.local_addr()?)?);
/// assert!(stream.peer_ip().is_some_and(|address| address.is_loopback()));
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Stream {
    kind: Kind,
    channel: Option<Arc<Channel>>,
    /// The other end, where a balancer before this one has named it.
    named: Option<Box<SocketAddr>>,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpStream),
    Unix(UnixStream),
    #[cfg(test)]
    Sim(crate::sim::net::Socket),
}

#[cfg(test)]
impl From<crate::sim::net::Socket> for Stream {
    fn from(socket: crate::sim::net::Socket) -> Self {
        Kind::Sim(socket).into()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("kind", &self.kind)
            .field("tls", &self.channel.is_some())
            .finish()
    }
}

impl From<Kind> for Stream {
    fn from(kind: Kind) -> Self {
        Stream { kind, channel: None, named: None }
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Kind::Tcp(stream).into()
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Kind::Unix(stream).into()
    }
}

/// A session's end is told with the last stream over it (close_notify).
impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(channel) = &self.channel {
            channel.leave(&self.kind);
        }
    }
}

impl Stream {
    /// Begins a TCP connection without waiting for it. Not blocking; tuned.
    ///
    /// # Errors
    /// No descriptor is left, or the address can be seen at once to be unreachable.
    pub(crate) fn connect_tcp(address: SocketAddr) -> io::Result<Stream> {
        #[cfg(test)]
        if let Some(socket) = crate::sim::net::connect(address) {
            return Ok(Stream::from(socket));
        }
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            None,
        )?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address.into()) {
            Err(e)
                if e.kind() != io::ErrorKind::WouldBlock
                    && e.raw_os_error() != Some(EINPROGRESS) =>
            {
                return Err(e);
            }
            _ => {}
        }
        let stream = Stream::from(TcpStream::from(socket));
        stream.tune()?;
        Ok(stream)
    }

    /// Connects to a Unix socket. Not blocking.
    ///
    /// # Errors
    /// Nobody listens there, or its backlog is full.
    pub(crate) fn connect_unix(path: &Path) -> io::Result<Stream> {
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&socket2::SockAddr::unix(path)?)?;
        Ok(Stream::from(UnixStream::from(OwnedFd::from(socket))))
    }

    /// Two ends of a connection within this process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn pair() -> io::Result<(Stream, Stream)> {
        #[cfg(test)]
        if let Some((one, other)) = crate::sim::net::pair() {
            return Ok((Stream::from(one), Stream::from(other)));
        }
        let (one, other) = UnixStream::pair()?;
        Ok((Stream::from(one), Stream::from(other)))
    }

    /// Begins TLS on a connected socket that blocks, as a device does with the gateway at this host.
    /// From here on bytes go through the session; one thread may read while another writes. The
    /// socket's time-out for reads is that of the whole handshake, too.
    ///
    /// # Errors
    /// The other side is not who it has to be, does not speak TLS, or takes longer than the socket's
    /// time-outs allow; a system without root certificates.
    #[cfg(feature = "tls")]
    pub fn secured(
        mut self,
        tls: crate::tls::DeviceTls,
        host: &str,
    ) -> Result<Self, crate::error::Error> {
        use crate::error::{Error, Fault};
        let failed = |e| Error::io(Fault::Network, "beginning TLS", e);
        let late = || Error::timeout(Fault::Gateway, "the TLS handshake took longer than it may");
        let channel = Channel::to_server(&tls.connector()?, host)?;
        channel
            .set_nonblocking(false)
            .and_then(|()| self.set_nonblocking(false))
            .map_err(failed)?;
        let time = self.kind.read_timeout().map_err(failed)?;
        let until = time.and_then(|time| Instant::now().checked_add(time));
        channel.compute();
        loop {
            let (_, before) = channel.moved();
            match self.shake(&channel) {
                Shaken::Done => break,
                Shaken::Compute => channel.compute(),
                Shaken::Waiting if channel.moved().1 == before => return Err(late()),
                Shaken::Waiting => {}
                Shaken::Failed(broken) => {
                    let text = format!("no TLS with {host}: {}", broken.text);
                    return Err(Error::closed(Fault::Gateway, text));
                }
            }
            // What comes byte by byte has no more time.
            let Some(until) = until else { continue };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(late());
            }
            self.kind.set_read_timeout(Some(left)).map_err(failed)?;
        }
        self.kind.set_read_timeout(time).map_err(failed)?;
        self.secure(channel);
        Ok(self)
    }

    #[cfg(test)]
    pub(crate) fn simulated(&self) -> &crate::sim::net::Socket {
        match &self.kind {
            Kind::Sim(socket) => socket,
            _ => panic!("a real socket in a simulated loop"),
        }
    }

    /// After an event on a connecting socket: whether it is connected now.
    ///
    /// # Errors
    /// The connect failed.
    pub(crate) fn connected(&self) -> io::Result<bool> {
        if let Some(e) = self.take_error()? {
            return Err(e);
        }
        #[cfg(test)]
        if let Kind::Sim(socket) = &self.kind {
            return Ok(socket.is_connected());
        }
        let Kind::Tcp(stream) = &self.kind else { return Ok(true) };
        match stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Sets what every leg has: `TCP_NODELAY`, keepalive 30 s / 10 s / 3, `TCP_USER_TIMEOUT` 60 s
    /// (Linux). Nothing on a Unix socket.
    ///
    /// # Errors
    /// The operating system refused.
    pub fn tune(&self) -> io::Result<()> {
        let Kind::Tcp(stream) = &self.kind else { return Ok(()) };
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(30));
        #[cfg(any(
            target_os = "linux",
            target_os = "android",
            target_os = "freebsd",
            target_os = "netbsd",
            target_vendor = "apple"
        ))]
        let keepalive = keepalive.with_interval(Duration::from_secs(10)).with_retries(3);
        socket.set_tcp_keepalive(&keepalive)?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        socket.set_tcp_user_timeout(Some(Duration::from_secs(60)))?;
        Ok(())
    }

    /// Switches between the event loop's way (true) and a worker's (false).
    ///
    /// # Errors
    /// The operating system refused.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        if let Some(channel) = &self.channel {
            channel.set_nonblocking(nonblocking)?;
        }
        self.kind.set_nonblocking(nonblocking)
    }

    /// Ends one or both directions; a thread that is blocked on the socket wakes up. Over TLS the
    /// end of the writing direction alone is told to the peer (close_notify); to end both at once
    /// is to break off.
    ///
    /// # Errors
    /// The socket was not connected any more; `WouldBlock`: it has no room for what tells the end,
    /// try again when it has.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match (&self.channel, how) {
            (Some(channel), Shutdown::Write) => channel.end(&self.kind)?,
            (Some(channel), Shutdown::Both) => channel.forsake(),
            _ => {}
        }
        let shut = match &self.kind {
            Kind::Tcp(s) => s.shutdown(how),
            Kind::Unix(s) => s.shutdown(how),
            #[cfg(test)]
            Kind::Sim(s) => s.shutdown(how),
        };
        match shut {
            // Whoever has been told the end may have closed the connection by now.
            Err(e)
                if self.channel.is_some()
                    && how == Shutdown::Write
                    && e.kind() == io::ErrorKind::NotConnected =>
            {
                Ok(())
            }
            shut => shut,
        }
    }

    /// Ends both directions, under threads that use them. The peer is told the end where that needs
    /// no waiting (over TLS a thread may be in the middle of a record).
    ///
    /// # Errors
    /// The socket was not connected any more.
    pub(crate) fn finish(&self) -> io::Result<()> {
        if let Some(channel) = &self.channel {
            channel.end_at_once(&self.kind);
        }
        self.shutdown(Shutdown::Both)
    }

    /// Ends both directions under a thread that uses them; with the last handle the connection is
    /// reset. Behind such a shutdown the operating system announces no more room, so a peer that
    /// waits for room to send would not hear of a FIN.
    pub(crate) fn cut(&self) -> io::Result<()> {
        self.will_reset();
        self.shutdown(Shutdown::Both)
    }

    /// Closes the connection with a reset (TCP): what the other side has not read yet is lost, and
    /// it can tell.
    ///
    /// # Errors
    /// The operating system refused.
    pub fn abort(self) -> io::Result<()> {
        if let Some(channel) = &self.channel {
            channel.forsake();
        }
        match &self.kind {
            Kind::Tcp(s) => SockRef::from(s).set_linger(Some(Duration::ZERO)),
            Kind::Unix(_) => Ok(()),
            #[cfg(test)]
            Kind::Sim(s) => s.abort(),
        }
    }

    /// A second handle on the same socket.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> io::Result<Stream> {
        let kind = match &self.kind {
            Kind::Tcp(s) => Kind::Tcp(s.try_clone()?),
            Kind::Unix(s) => Kind::Unix(s.try_clone()?),
            #[cfg(test)]
            Kind::Sim(s) => Kind::Sim(s.try_clone()),
        };
        let channel = self.channel.as_ref().map(Channel::share);
        Ok(Stream { kind, channel, named: self.named.clone() })
    }

    /// One step of a handshake, as far as it needs no arithmetic.
    pub(crate) fn shake(&self, channel: &Channel) -> Shaken {
        channel.shake(&self.kind)
    }

    /// From here on bytes go through this session, whose handshake is over.
    pub(crate) fn secure(&mut self, channel: Arc<Channel>) {
        self.channel = Some(channel);
    }

    /// Bytes that the socket took and brought, where they are not those that were written and read.
    pub(crate) fn moved(&self) -> Option<(u64, u64)> {
        self.channel.as_deref().map(Channel::moved)
    }

    /// Memory that its TLS session takes.
    pub(crate) fn held(&self) -> usize {
        self.channel.as_deref().map_or(0, Channel::held)
    }

    /// Returns true if bytes went into its TLS session that a write has not told to be taken.
    pub(crate) fn owes(&self) -> bool {
        self.channel.as_deref().is_some_and(Channel::owes)
    }

    /// Returns true if a read tells an end or a failure although the socket brings nothing more.
    pub(crate) fn holds_end(&self) -> bool {
        self.channel.as_deref().is_some_and(Channel::holds_end)
    }

    /// Returns true if the last read stopped although more has arrived: the next one goes on
    /// without an event.
    pub(crate) fn is_paused(&self) -> bool {
        self.channel.as_deref().is_some_and(Channel::is_paused)
    }

    /// Returns true if TLS is spoken over it.
    pub(crate) fn is_secure(&self) -> bool {
        self.channel.is_some()
    }

    /// The certificate that a gateway's peer showed in TLS; `None`: it showed none.
    pub(crate) fn certificate(&self) -> Option<Arc<Shown>> {
        self.channel.as_deref()?.shown()
    }

    /// The error the socket holds, as after a failed non-blocking connect.
    ///
    /// # Errors
    /// The operating system would not say.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        match &self.kind {
            Kind::Tcp(s) => s.take_error(),
            Kind::Unix(s) => s.take_error(),
            #[cfg(test)]
            Kind::Sim(s) => Ok(s.take_error()),
        }
    }

    /// Reads what has arrived on the socket itself, and leaves it there. Without waiting, where the
    /// socket does not block.
    ///
    /// # Errors
    /// Nothing has arrived (`WouldBlock`); the connection failed; it is no TCP connection.
    pub(crate) fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        match &self.kind {
            Kind::Tcp(s) => s.peek(buf),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// A balancer has named the other end.
    pub(crate) fn set_peer(&mut self, peer: SocketAddr) {
        self.named = Some(Box::new(peer));
    }

    /// Address of the other end, behind a balancer that names it (PROXY protocol) the one that it
    /// names; `None` on a Unix socket.
    #[must_use]
    pub fn peer_ip(&self) -> Option<IpAddr> {
        if let Some(named) = &self.named {
            return Some(named.ip().to_canonical());
        }
        match &self.kind {
            Kind::Tcp(s) => s.peer_addr().ok().map(|a| a.ip().to_canonical()),
            Kind::Unix(_) => None,
            #[cfg(test)]
            Kind::Sim(s) => s.peer_ip(),
        }
    }

    /// The other end for logs: `203.0.113.7:40112` or `unix socket`.
    #[must_use]
    pub fn peer_label(&self) -> String {
        if let Some(named) = &self.named {
            return named.to_string();
        }
        match &self.kind {
            Kind::Tcp(s) => {
                s.peer_addr().map_or_else(|_| "unconnected".to_owned(), |a| a.to_string())
            }
            Kind::Unix(_) => "unix socket".to_owned(),
            #[cfg(test)]
            Kind::Sim(s) => s.label(),
        }
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        match &self.kind {
            Kind::Tcp(s) => s.as_raw_fd(),
            Kind::Unix(s) => s.as_raw_fd(),
            #[cfg(test)]
            Kind::Sim(s) => s.descriptor(),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Tcp(s) => s.as_fd(),
            Kind::Unix(s) => s.as_fd(),
            #[cfg(test)]
            Kind::Sim(s) => s.descriptor(),
        }
    }
}

impl Kind {
    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Kind::Tcp(s) => s.set_nonblocking(nonblocking),
            Kind::Unix(s) => s.set_nonblocking(nonblocking),
            #[cfg(test)]
            Kind::Sim(_) => Ok(()), // it never blocks
        }
    }
    fn set_read_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        match self {
            Kind::Tcp(s) => s.set_read_timeout(time),
            Kind::Unix(s) => s.set_read_timeout(time),
            #[cfg(test)]
            Kind::Sim(s) => s.descriptor(),
        }
    }
    #[cfg(feature = "tls")]
    fn read_timeout(&self) -> io::Result<Option<Duration>> {
        match self {
            Kind::Tcp(s) => s.read_timeout(),
            Kind::Unix(s) => s.read_timeout(),
            #[cfg(test)]
            Kind::Sim(s) => s.descriptor(),
        }
    }
}

impl Read for &Kind {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Kind::Tcp(s) => (&*s).read(buf),
            Kind::Unix(s) => (&*s).read(buf),
            #[cfg(test)]
            Kind::Sim(s) => s.read(buf),
        }
    }
}

/// A write to a connection that the peer has closed is an error, and no SIGPIPE: a program that is not
/// Rust's own (capi/) has not told the operating system to ignore that signal.
#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd"
))]
const NO_SIGNAL: libc::c_int = libc::MSG_NOSIGNAL;
/// Elsewhere the standard library has set `SO_NOSIGPIPE`.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd"
)))]
const NO_SIGNAL: libc::c_int = 0;

impl Write for &Kind {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Kind::Tcp(s) => (&*s).write(buf), // it asks for no signal, as below
            Kind::Unix(s) => SockRef::from(s).send_with_flags(buf, NO_SIGNAL),
            #[cfg(test)]
            Kind::Sim(s) => s.write(buf),
        }
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Kind::Tcp(s) => SockRef::from(s).send_vectored_with_flags(bufs, NO_SIGNAL),
            Kind::Unix(s) => SockRef::from(s).send_vectored_with_flags(bufs, NO_SIGNAL),
            #[cfg(test)]
            Kind::Sim(s) => s.write_vectored(bufs),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for &Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &self.channel {
            None => (&self.kind).read(buf),
            Some(channel) => channel.read(&self.kind, buf),
        }
    }
}

/// What is written was taken by the operating system. Over TLS, after a write that failed for want
/// of room or time (`WouldBlock`) the next one has to begin with the same bytes.
impl Write for &Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &self.channel {
            None => (&self.kind).write(buf),
            Some(channel) => channel.write(&self.kind, &[IoSlice::new(buf)]),
        }
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.channel {
            None => (&self.kind).write_vectored(bufs),
            Some(channel) => channel.write(&self.kind, bufs),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buf)
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self).write(buf)
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(bufs)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

macro_rules! timed_transport {
    ($($type:ty),*) => { $(
        impl TimedStream for $type {
            fn limit_read(&mut self, time: Option<Duration>) -> io::Result<()> {
                self.set_read_timeout(time)
            }
            fn limit_write(&mut self, time: Option<Duration>) -> io::Result<()> {
                self.set_write_timeout(time)
            }
            fn socket(&self) -> Option<BorrowedFd<'_>> {
                Some(self.as_fd())
            }
        }
    )* };
}
timed_transport!(TcpStream, UnixStream);

impl Stream {
    pub(crate) fn set_read_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        if let Some(channel) = &self.channel {
            channel.limit_read(time);
        }
        self.kind.set_read_timeout(time)
    }
    /// [`TimedStream::read_arrived`].
    pub(crate) fn read_what_arrived(&self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        if let Err(error) = self.set_nonblocking(true) {
            return Some(Err(error));
        }
        let got = (&mut &*self).read(buf);
        if let Err(error) = self.set_nonblocking(false) {
            return Some(Err(error));
        }
        arrived(got)
    }
    /// [`TimedStream::reset_when_dropped`].
    pub(crate) fn will_reset(&self) {
        if let Some(channel) = &self.channel {
            channel.forsake();
        }
        #[cfg(test)]
        if let Kind::Sim(socket) = &self.kind {
            let _ = socket.abort(); // always works
            return;
        }
        if let Err(error) = SockRef::from(self).set_linger(Some(Duration::ZERO)) {
            log::debug!("a connection will end with FIN instead of RST: {error}");
        }
    }
    pub(crate) fn set_write_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        match &self.kind {
            Kind::Tcp(s) => s.set_write_timeout(time),
            Kind::Unix(s) => s.set_write_timeout(time),
            #[cfg(test)]
            Kind::Sim(s) => s.descriptor(),
        }
    }
}

impl TimedStream for Stream {
    fn limit_read(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(time)
    }
    fn limit_write(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.set_write_timeout(time)
    }
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
    fn read_arrived(&mut self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        self.read_what_arrived(buf)
    }
    fn half_close(&self) -> bool {
        self.shutdown(Shutdown::Write).is_ok()
    }
    fn reset_when_dropped(&self) {
        self.will_reset();
    }
}

/// A stream that two own: the thread that uses it and, weakly, the loop that may have to end it.
#[derive(Debug)]
pub(crate) struct Shared(Arc<Stream>);

impl Shared {
    pub(crate) fn new(stream: Arc<Stream>) -> Self {
        Shared(stream)
    }
    pub(crate) fn stream(&self) -> &Stream {
        &self.0
    }
    pub(crate) fn downgrade(&self) -> Weak<Stream> {
        Arc::downgrade(&self.0)
    }
    /// Returns true if somebody uses it through a weak handle.
    pub(crate) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
    /// The stream itself; `None` while somebody looks at it through a weak handle.
    pub(crate) fn into_inner(self) -> Option<Stream> {
        Arc::into_inner(self.0)
    }
}

impl Read for Shared {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buf)
    }
}

impl Write for Shared {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self.0).write(buf)
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self.0).write_vectored(bufs)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TimedStream for Shared {
    fn limit_read(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(time)
    }
    fn limit_write(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.0.set_write_timeout(time)
    }
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
    fn read_arrived(&mut self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        self.0.read_what_arrived(buf)
    }
    fn half_close(&self) -> bool {
        self.0.shutdown(Shutdown::Write).is_ok()
    }
    fn reset_when_dropped(&self) {
        self.0.will_reset();
    }
}
