//! A stream with two owners: the thread that uses it and, weakly, the loop that may have to end it.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::stream::plain_or_tls::Stream;
use crate::stream::timed::TimedStream;

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
