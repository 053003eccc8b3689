//! A stream with two owners: the thread that uses it, and (weakly) the loop that may have to end
//! it.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::clock::{Clock, SLICE};
use crate::stream::plain_or_tls::Stream;
use crate::stream::timed::TimedStream;

/// The indices of the limits.
const READ: usize = 0;
const WRITE: usize = 1;

/// A stream with two owners: the thread that uses it, and (weakly) the loop that may have to end
/// it.
#[derive(Debug)]
pub(crate) struct Shared {
    stream: Arc<Stream>,
    /// With a test's clock: the longest time that a read and a write may block.
    limits: [Option<Duration>; 2],
}

impl Shared {
    pub(crate) fn new(stream: Arc<Stream>) -> Self {
        Shared { stream, limits: [None; 2] }
    }
    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }
    pub(crate) fn downgrade(&self) -> Weak<Stream> {
        Arc::downgrade(&self.stream)
    }
    /// Returns true if it is being used through a weak handle.
    pub(crate) fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.stream) > 1
    }
    /// How long the socket may block at once for a read or write that may take `time`.
    fn slice(&mut self, of: usize, time: Option<Duration>) -> Option<Duration> {
        if self.stream.clock().is_none() {
            return time;
        }
        self.limits[of] = time;
        Some(SLICE)
    }
    /// The stream itself. `None` while it is being used through a weak handle.
    pub(crate) fn into_inner(self) -> Option<Stream> {
        Arc::into_inner(self.stream)
    }
}

impl Read for Shared {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let (mut stream, limit) = (&*self.stream, self.limits[READ]);
        match stream.clock() {
            None => stream.read(buf),
            Some(clock) => clock.block(limit, || stream.read(buf)),
        }
    }
}

impl Write for Shared {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let (mut stream, limit) = (&*self.stream, self.limits[WRITE]);
        match stream.clock() {
            None => stream.write(buf),
            Some(clock) => clock.block(limit, || stream.write(buf)),
        }
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let (mut stream, limit) = (&*self.stream, self.limits[WRITE]);
        match stream.clock() {
            None => stream.write_vectored(bufs),
            Some(clock) => clock.block(limit, || stream.write_vectored(bufs)),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TimedStream for Shared {
    fn limit_read(&mut self, time: Option<Duration>) -> io::Result<()> {
        let time = self.slice(READ, time);
        self.stream.set_read_timeout(time)
    }
    fn limit_write(&mut self, time: Option<Duration>) -> io::Result<()> {
        let time = self.slice(WRITE, time);
        self.stream.set_write_timeout(time)
    }
    fn now(&self) -> Instant {
        self.stream.clock().map_or_else(Instant::now, Clock::now)
    }
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.stream.as_fd())
    }
    fn read_arrived(&mut self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        self.stream.read_what_arrived(buf)
    }
    fn half_close(&self) -> bool {
        self.stream.shutdown(Shutdown::Write).is_ok()
    }
    fn reset_when_dropped(&self) {
        self.stream.will_reset();
    }
}
