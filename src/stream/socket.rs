//! A connected socket of one of the kinds that a gateway or a device can own.

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use socket2::SockRef;

#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    #[cfg(test)]
    Sim(crate::sim::net::Socket),
}

impl Socket {
    pub(super) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Socket::Tcp(s) => s.set_nonblocking(nonblocking),
            Socket::Unix(s) => s.set_nonblocking(nonblocking),
            #[cfg(test)]
            Socket::Sim(_) => Ok(()), // it never blocks
        }
    }
    pub(super) fn set_read_timeout(&self, time: Option<Duration>) -> io::Result<()> {
        match self {
            Socket::Tcp(s) => s.set_read_timeout(time),
            Socket::Unix(s) => s.set_read_timeout(time),
            #[cfg(test)]
            Socket::Sim(s) => s.descriptor(),
        }
    }
    #[cfg(feature = "tls")]
    pub(super) fn read_timeout(&self) -> io::Result<Option<Duration>> {
        match self {
            Socket::Tcp(s) => s.read_timeout(),
            Socket::Unix(s) => s.read_timeout(),
            #[cfg(test)]
            Socket::Sim(s) => s.descriptor(),
        }
    }
}

impl Read for &Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(s) => (&*s).read(buf),
            Socket::Unix(s) => (&*s).read(buf),
            #[cfg(test)]
            Socket::Sim(s) => s.read(buf),
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

impl Write for &Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(s) => (&*s).write(buf), // it asks for no signal, as below
            Socket::Unix(s) => SockRef::from(s).send_with_flags(buf, NO_SIGNAL),
            #[cfg(test)]
            Socket::Sim(s) => s.write(buf),
        }
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Socket::Tcp(s) => SockRef::from(s).send_vectored_with_flags(bufs, NO_SIGNAL),
            Socket::Unix(s) => SockRef::from(s).send_vectored_with_flags(bufs, NO_SIGNAL),
            #[cfg(test)]
            Socket::Sim(s) => s.write_vectored(bufs),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
