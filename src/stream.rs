//! The byte stream under a link: TCP or a Unix socket (TLS comes as a feature), and what a blocking link needs of one.
//!
//! Never speaks HTTP, never waits for anything but its own socket.

use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// What a blocking [`link`](crate::link) needs of a byte stream: `Read`, `Write`, and a deadline for each.
///
/// Implemented for [`Stream`], `TcpStream` and `UnixStream`; wrap anything else (a serial line, a test pipe) in [`Untimed`].
pub trait Transport: Read + Write + Send {
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
    /// The socket under it, where there is one: then a link can look without waiting, half-close, and reset.
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Any `Read + Write` as a [`Transport`] without deadlines: its reads and writes block as long as they like.
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

impl<T: Read + Write + Send> Transport for Untimed<T> {
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

/// A connected socket of one of the kinds that a gateway or a device can own.
#[derive(Debug)]
pub struct Stream(Kind);

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
        Stream(Kind::Sim(socket))
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Stream(Kind::Tcp(stream))
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Stream(Kind::Unix(stream))
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
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address.into()) {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock && e.raw_os_error() != Some(EINPROGRESS) => return Err(e),
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

    #[cfg(test)]
    pub(crate) fn simulated(&self) -> &crate::sim::net::Socket {
        match &self.0 {
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
        if let Kind::Sim(socket) = &self.0 {
            return Ok(socket.is_connected());
        }
        let Kind::Tcp(stream) = &self.0 else { return Ok(true) };
        match stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Sets what every leg has: `TCP_NODELAY`, keepalive 30 s / 10 s / 3, `TCP_USER_TIMEOUT` 60 s (Linux). Nothing on a Unix socket.
    ///
    /// # Errors
    /// The operating system refused.
    pub fn tune(&self) -> io::Result<()> {
        let Kind::Tcp(stream) = &self.0 else { return Ok(()) };
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(30));
        #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd", target_os = "netbsd", target_vendor = "apple"))]
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
        match &self.0 {
            Kind::Tcp(s) => s.set_nonblocking(nonblocking),
            Kind::Unix(s) => s.set_nonblocking(nonblocking),
            #[cfg(test)]
            Kind::Sim(_) => Ok(()), // it never blocks
        }
    }

    /// Ends one or both directions; a thread that is blocked on the socket wakes up.
    ///
    /// # Errors
    /// The socket was not connected any more.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match &self.0 {
            Kind::Tcp(s) => s.shutdown(how),
            Kind::Unix(s) => s.shutdown(how),
            #[cfg(test)]
            Kind::Sim(s) => s.shutdown(how),
        }
    }

    /// Closes the connection with a reset (TCP): what the other side has not read yet is lost, and it can tell.
    ///
    /// # Errors
    /// The operating system refused.
    pub fn abort(self) -> io::Result<()> {
        match &self.0 {
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
        Ok(Stream(match &self.0 {
            Kind::Tcp(s) => Kind::Tcp(s.try_clone()?),
            Kind::Unix(s) => Kind::Unix(s.try_clone()?),
            #[cfg(test)]
            Kind::Sim(s) => Kind::Sim(s.try_clone()),
        }))
    }

    /// The error the socket holds, as after a failed non-blocking connect.
    ///
    /// # Errors
    /// The operating system would not say.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        match &self.0 {
            Kind::Tcp(s) => s.take_error(),
            Kind::Unix(s) => s.take_error(),
            #[cfg(test)]
            Kind::Sim(s) => Ok(s.take_error()),
        }
    }

    /// Address of the other end; `None` on a Unix socket.
    pub fn peer_ip(&self) -> Option<IpAddr> {
        match &self.0 {
            Kind::Tcp(s) => s.peer_addr().ok().map(|a| a.ip().to_canonical()),
            Kind::Unix(_) => None,
            #[cfg(test)]
            Kind::Sim(s) => s.peer_ip(),
        }
    }

    /// The other end for logs: `203.0.113.7:40112` or `unix socket`.
    pub fn peer_label(&self) -> String {
        match &self.0 {
            Kind::Tcp(s) => s.peer_addr().map_or_else(|_| "unconnected".to_owned(), |a| a.to_string()),
            Kind::Unix(_) => "unix socket".to_owned(),
            #[cfg(test)]
            Kind::Sim(s) => s.label(),
        }
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        match &self.0 {
            Kind::Tcp(s) => s.as_raw_fd(),
            Kind::Unix(s) => s.as_raw_fd(),
            #[cfg(test)]
            Kind::Sim(s) => s.descriptor(),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Kind::Tcp(s) => s.as_fd(),
            Kind::Unix(s) => s.as_fd(),
            #[cfg(test)]
            Kind::Sim(s) => s.descriptor(),
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &self.0 {
            Kind::Tcp(s) => (&*s).read(buf),
            Kind::Unix(s) => (&*s).read(buf),
            #[cfg(test)]
            Kind::Sim(s) => s.read(buf),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &self.0 {
            Kind::Tcp(s) => (&*s).write(buf),
            Kind::Unix(s) => (&*s).write(buf),
            #[cfg(test)]
            Kind::Sim(s) => s.write(buf),
        }
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.0 {
            Kind::Tcp(s) => (&*s).write_vectored(bufs),
            Kind::Unix(s) => (&*s).write_vectored(bufs),
            #[cfg(test)]
            Kind::Sim(s) => s.write_vectored(bufs),
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
        impl Transport for $type {
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
        match &self.0 {
            Kind::Tcp(s) => s.set_read_timeout(time),
            Kind::Unix(s) => s.set_read_timeout(time),
            #[cfg(test)]
            Kind::Sim(s) => s.descriptor(),
        }
    }
    pub(crate) fn set_write_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        match &self.0 {
            Kind::Tcp(s) => s.set_write_timeout(time),
            Kind::Unix(s) => s.set_write_timeout(time),
            #[cfg(test)]
            Kind::Sim(s) => s.descriptor(),
        }
    }
}

impl Transport for Stream {
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

/// A stream that two own: the thread that uses it and, weakly, the loop that may have to end it.
#[derive(Debug)]
pub(crate) struct Shared(std::sync::Arc<Stream>);

impl Shared {
    pub(crate) fn new(stream: std::sync::Arc<Stream>) -> Self {
        Shared(stream)
    }
    pub(crate) fn stream(&self) -> &Stream {
        &self.0
    }
    /// The stream itself; `None` while somebody looks at it through a weak handle.
    pub(crate) fn into_inner(self) -> Option<Stream> {
        std::sync::Arc::into_inner(self.0)
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

impl Transport for Shared {
    fn limit_read(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(time)
    }
    fn limit_write(&mut self, time: Option<Duration>) -> io::Result<()> {
        self.0.set_write_timeout(time)
    }
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}
