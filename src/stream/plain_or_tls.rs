//! A connected socket, with a TLS session over it (feature `tls`) or without.
//!
//! It does not speak HTTP, and waits only for its own socket.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
#[cfg(feature = "test-clock")]
use std::sync::Weak;
use std::time::Duration;
#[cfg(feature = "tls")]
use std::time::Instant;

use crate::clock::Clock;
use crate::stream::handshake::Shaken;
use crate::stream::socket::Socket;
#[cfg(feature = "test-clock")]
use crate::stream::socket::{End, Within};
use crate::stream::timed::{TimedStream, arrived, timed_transport};
#[cfg(not(feature = "tls"))]
use crate::stream::tls_session::Shown;
use crate::stream::tls_session::TlsSession;
#[cfg(feature = "tls")]
use crate::tls::Shown;

/// A connected socket of one of the kinds that a gateway or a device can own, and the TLS session
/// over it, if there is one.
///
/// ```
/// use std::net::{TcpListener, TcpStream};
/// use reverse_http::stream::Stream;
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let stream = Stream::from(TcpStream::connect(listener.local_addr()?)?);
/// assert!(stream.remote_ip().is_some_and(|address| address.is_loopback()));
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Stream {
    socket: Socket,
    session: Option<Arc<TlsSession>>,
    /// The address of the other end, if a load balancer has named it.
    named: Option<Box<SocketAddr>>,
}

#[cfg(test)]
impl From<crate::sim::net::Socket> for Stream {
    fn from(socket: crate::sim::net::Socket) -> Self {
        Socket::Sim(socket).into()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("kind", &self.socket)
            .field("tls", &self.session.is_some())
            .finish()
    }
}

impl From<Socket> for Stream {
    fn from(socket: Socket) -> Self {
        Stream { socket, session: None, named: None }
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Socket::Tcp(stream).into()
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Socket::Unix(stream).into()
    }
}

/// The last stream over a session sends its end (close_notify).
impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(session) = &self.session {
            session.leave(&self.socket);
        }
    }
}

impl Stream {
    /// Begins a TCP connection without waiting for it. It is non-blocking and tuned.
    ///
    /// # Errors
    /// No descriptor is left, or the address is known at once to be unreachable.
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
                    && e.raw_os_error() != Some(libc::EINPROGRESS) =>
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
    /// There is no listener, or its backlog is full.
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

    /// The same on a test's clock, which is used for deadlines if they are read through
    /// [`Shared`](crate::stream::Shared).
    ///
    /// # Errors
    /// No descriptor is left.
    #[cfg(feature = "test-clock")]
    pub(crate) fn pair_on(clock: &Clock) -> io::Result<[(Stream, Weak<End>); 2]> {
        Ok(Within::pair(clock)?.map(|within| {
            let weak = Arc::downgrade(&within.end);
            (Socket::Within(within).into(), weak)
        }))
    }

    /// The clock of its deadlines, if it is a test's.
    pub(super) fn clock(&self) -> Option<&Clock> {
        if let Socket::Within(within) = &self.socket { Some(&within.end.clock) } else { None }
    }

    /// Begins TLS on a connected socket that blocks, as a device does with the gateway at this
    /// host. From here on bytes go through the session; one thread may read while another writes.
    /// The socket's timeout for reads is also that of the whole handshake.
    ///
    /// # Errors
    /// The other side's certificate is not trusted, it does not speak TLS, or it takes longer than
    /// the socket's timeouts allow; the system has no root certificates.
    #[cfg(feature = "tls")]
    pub fn secured(
        mut self,
        tls: crate::tls::DeviceTls,
        host: &str,
    ) -> Result<Self, crate::error::Error> {
        use crate::error::{Error, Fault};
        let failed = |e| Error::io(Fault::Network, "beginning TLS", e);
        let late = || Error::timeout(Fault::Gateway, "the TLS handshake took longer than it may");
        let session = TlsSession::to_server(&tls.connector()?, host)?;
        session
            .set_nonblocking(false)
            .and_then(|()| self.set_nonblocking(false))
            .map_err(failed)?;
        let time = self.socket.read_timeout().map_err(failed)?;
        let until = time.and_then(|time| Instant::now().checked_add(time));
        session.compute();
        loop {
            let (_, before) = session.moved();
            match self.shake(&session) {
                Shaken::Done => break,
                Shaken::Compute => session.compute(),
                Shaken::Waiting if session.moved().1 == before => return Err(late()),
                Shaken::Waiting => {}
                Shaken::Failed(broken) => {
                    let text = format!("no TLS with {host}: {}", broken.text);
                    return Err(Error::closed(Fault::Gateway, text));
                }
            }
            // Bytes that arrive one by one do not extend the time.
            let Some(until) = until else { continue };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(late());
            }
            self.socket.set_read_timeout(Some(left)).map_err(failed)?;
        }
        self.socket.set_read_timeout(time).map_err(failed)?;
        self.secure(session);
        Ok(self)
    }

    #[cfg(test)]
    pub(crate) fn simulated(&self) -> &crate::sim::net::Socket {
        match &self.socket {
            Socket::Sim(socket) => socket,
            _ => panic!("a real socket in a simulated loop"),
        }
    }

    /// Returns true if a connecting socket is connected now; call it after an event.
    ///
    /// # Errors
    /// The connect failed.
    pub(crate) fn connected(&self) -> io::Result<bool> {
        if let Some(e) = self.take_error()? {
            return Err(e);
        }
        #[cfg(test)]
        if let Socket::Sim(socket) = &self.socket {
            return Ok(socket.is_connected());
        }
        let Socket::Tcp(stream) = &self.socket else { return Ok(true) };
        match stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Sets the options of every connection: `TCP_NODELAY`, keepalive 30 s / 10 s / 3,
    /// `TCP_USER_TIMEOUT` 60 s (Linux). Nothing on a Unix socket.
    ///
    /// # Errors
    /// The operating system refused.
    pub fn tune(&self) -> io::Result<()> {
        self.socket.tune()
    }

    /// Switches between the event loop's way (true) and a worker's (false).
    ///
    /// # Errors
    /// The operating system refused.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        if let Some(session) = &self.session {
            session.set_nonblocking(nonblocking)?;
        }
        self.socket.set_nonblocking(nonblocking)
    }

    /// Ends one or both directions; a thread that is blocked on the socket wakes up. Over TLS,
    /// ending only the writing direction sends close_notify; ending both at once breaks the
    /// connection off.
    ///
    /// # Errors
    /// The socket is no longer connected. `WouldBlock`: it has no room for close_notify; try again
    /// when it has.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match (&self.session, how) {
            (Some(session), Shutdown::Write) => session.end(&self.socket)?,
            (Some(session), Shutdown::Both) => session.forsake(),
            _ => {}
        }
        match self.socket.shutdown(how) {
            // The other end has received the end, and may have closed the connection.
            Err(e)
                if self.session.is_some()
                    && how == Shutdown::Write
                    && e.kind() == io::ErrorKind::NotConnected =>
            {
                Ok(())
            }
            shut => shut,
        }
    }

    /// Ends both directions while threads may be using them. The end is sent if that needs no
    /// waiting (over TLS a thread may be in the middle of a record).
    ///
    /// # Errors
    /// The socket is no longer connected.
    pub(crate) fn finish(&self) -> io::Result<()> {
        if let Some(session) = &self.session {
            session.end_at_once(&self.socket);
        }
        self.shutdown(Shutdown::Both)
    }

    /// Ends both directions while a thread may be using them; the connection is reset with the last
    /// handle. After such a shutdown the operating system announces no more room, so the other end
    /// would not notice a FIN while it waits for room to send.
    pub(crate) fn cut(&self) -> io::Result<()> {
        self.will_reset();
        self.shutdown(Shutdown::Both)
    }

    /// Closes the connection with a reset (TCP): bytes that the other side has not read are lost,
    /// and it notices that.
    ///
    /// # Errors
    /// The operating system refused.
    pub fn abort(self) -> io::Result<()> {
        if let Some(session) = &self.session {
            session.forsake();
        }
        self.socket.reset_when_closed()
    }

    /// A second handle on the same socket.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> io::Result<Stream> {
        let socket = self.socket.try_clone()?;
        let session = self.session.as_ref().map(TlsSession::share);
        Ok(Stream { socket, session, named: self.named.clone() })
    }

    /// One step of a handshake, without computation.
    pub(crate) fn shake(&self, session: &TlsSession) -> Shaken {
        session.shake(&self.socket)
    }

    /// From here on bytes go through this session, whose handshake is complete.
    pub(crate) fn secure(&mut self, session: Arc<TlsSession>) {
        self.session = Some(session);
    }

    /// The bytes that the socket has written and read, if they differ from the stream's.
    pub(crate) fn moved(&self) -> Option<(u64, u64)> {
        self.session.as_deref().map(TlsSession::moved)
    }

    /// The memory of its TLS session.
    pub(crate) fn held(&self) -> usize {
        self.session.as_deref().map_or(0, TlsSession::held)
    }

    /// Returns true if its TLS session has bytes that no write has reported as written.
    pub(crate) fn owes(&self) -> bool {
        self.session.as_deref().is_some_and(TlsSession::owes)
    }

    /// Returns true if a read will report an end or a failure although the socket has no more
    /// bytes.
    pub(crate) fn holds_end(&self) -> bool {
        self.session.as_deref().is_some_and(TlsSession::holds_end)
    }

    /// Returns true if the last read stopped before the end of the input: the next one needs no
    /// event.
    pub(crate) fn is_paused(&self) -> bool {
        self.session.as_deref().is_some_and(TlsSession::is_paused)
    }

    /// Returns true if it uses TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.session.is_some()
    }

    /// The client's certificate at a gateway's TLS listener, if there is one.
    pub(crate) fn certificate(&self) -> Option<Arc<Shown>> {
        self.session.as_deref()?.shown()
    }

    /// The error the socket holds, as after a failed non-blocking connect.
    ///
    /// # Errors
    /// The operating system would not say.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.socket.take_error()
    }

    /// Copies bytes that have arrived on the socket, and leaves them there. It does not wait if the
    /// socket is non-blocking.
    ///
    /// # Errors
    /// No byte has arrived (`WouldBlock`); the connection failed; it is not a TCP connection.
    pub(crate) fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        match &self.socket {
            Socket::Tcp(s) => s.peek(buf),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Sets the address of the other end that a load balancer has named.
    pub(crate) fn set_remote(&mut self, remote: SocketAddr) {
        self.named = Some(Box::new(remote));
    }

    /// IP address of the other end; if a load balancer has named the client (PROXY protocol), the
    /// client's. `None` on a Unix socket.
    #[must_use]
    pub fn remote_ip(&self) -> Option<IpAddr> {
        if let Some(named) = &self.named {
            return Some(named.ip().to_canonical());
        }
        match &self.socket {
            Socket::Tcp(s) => s.peer_addr().ok().map(|a| a.ip().to_canonical()),
            Socket::Unix(_) | Socket::Within(_) => None,
            #[cfg(test)]
            Socket::Sim(s) => s.remote_ip(),
        }
    }

    /// The other end for logs: `203.0.113.7:40112` or `unix socket`.
    #[must_use]
    pub fn remote_label(&self) -> String {
        if let Some(named) = &self.named {
            return named.to_string();
        }
        match &self.socket {
            Socket::Tcp(s) => {
                s.peer_addr().map_or_else(|_| "unconnected".to_owned(), |a| a.to_string())
            }
            Socket::Unix(_) | Socket::Within(_) => "unix socket".to_owned(),
            #[cfg(test)]
            Socket::Sim(s) => s.label(),
        }
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Read for &Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &self.session {
            None => (&self.socket).read(buf),
            Some(session) => session.read(&self.socket, buf),
        }
    }
}

/// Written bytes were taken by the operating system. Over TLS, after a write that failed for want
/// of room or time (`WouldBlock`) the next one has to begin with the same bytes.
impl Write for &Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &self.session {
            None => (&self.socket).write(buf),
            Some(session) => session.write(&self.socket, &[IoSlice::new(buf)]),
        }
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.session {
            None => (&self.socket).write_vectored(bufs),
            Some(session) => session.write(&self.socket, bufs),
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

impl Stream {
    pub(crate) fn set_read_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        if let Some(session) = &self.session {
            session.limit_read(time);
        }
        self.socket.set_read_timeout(time)
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
        if let Some(session) = &self.session {
            session.forsake();
        }
        if let Err(error) = self.socket.reset_when_closed() {
            log::debug!("a connection will end with FIN instead of RST: {error}");
        }
    }
    pub(crate) fn set_write_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        self.socket.set_write_timeout(time)
    }
}

timed_transport! { Stream {
    fn read_arrived(&mut self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        self.read_what_arrived(buf)
    }
    fn half_close(&self) -> bool {
        self.shutdown(Shutdown::Write).is_ok()
    }
    fn reset_when_dropped(&self) {
        self.will_reset();
    }
} }
