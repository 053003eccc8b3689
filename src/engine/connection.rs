//! One connection of the loop: readiness flags, unused input, pending output.
//!
//! mio is edge-triggered: a flag stays set until a system call clears it, so a step may stop at any
//! point and go on when the other side is ready. On epoll and kqueue a read or write shorter than
//! asked means "no more for now" (epoll(7), question 9), which saves the call that would only
//! return `WouldBlock`.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Instant;

use crate::engine::handshakes::Handshake;
use crate::engine::permits::Permit;
use crate::proto::head::are_line_ends;
use crate::stream::Stream;

/// The capacity that a first write reserves: a head and a small body.
const FIRST_OUTPUT: usize = 1024;

/// Line ends that are ignored between two messages, in bytes. Some peers end a body with one that
/// is not counted; nobody has a use for many, and each costs a turn of the loop.
pub(crate) const STRAYS_MAX: u8 = 64;

/// The readiness that an event reports for a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The other side ended its direction.
    pub(crate) closing: bool,
    /// The connection is broken in both directions.
    pub(crate) broken: bool,
}

impl From<&mio::event::Event> for Readiness {
    fn from(event: &mio::event::Event) -> Self {
        let error = event.is_error();
        Readiness {
            readable: event.is_readable() || error,
            writable: event.is_writable() || error,
            closing: event.is_read_closed() || error,
            broken: event.is_write_closed() || error,
        }
    }
}

/// The result of a connection's last read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// This many bytes are at the front of the scratch buffer (kept ones first).
    Bytes(usize),
    /// No bytes, and none before the next event.
    Nothing,
    /// No bytes, and no more will arrive.
    End,
}

/// The known state of a connection's end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ending {
    /// The other side ended its direction; reading goes on until that end is reached.
    pub(super) closing: bool,
    /// The connection is broken in both directions (reset, or an error).
    pub(super) broken: bool,
    pub(super) ended: bool,
    /// A write reported a reset. The kernel reports it once: a later read would take the end of the
    /// input for a clean end.
    was_reset: bool,
}

/// One connection that the loop owns.
pub(crate) struct Connection<T> {
    pub(crate) state: T,
    pub(super) stream: Stream,
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) ending: Ending,
    /// Reading failed after bytes that were still delivered; the next fetch reports it.
    failed: Option<io::ErrorKind>,
    pub(super) queued: bool,
    /// The last fetch stopped before the end of the input; reading goes on without an event.
    pub(super) paused: bool,
    /// Unused input: an incomplete head, or pipelined bytes after a message.
    pub(super) input: Vec<u8>,
    pub(super) output: Vec<u8>,
    /// The number of bytes of `output` that were written.
    sent: usize,
    written: u64,
    read: u64,
    /// Line ends that came since the last byte was written.
    strays: u8,
    pub(super) deadline: Option<Instant>,
    pub(super) wake_up: Option<Instant>,
    /// Counts the connection in its bounds while it exists.
    pub(super) permit: Option<Permit>,
    /// The size with which its buffers were last counted.
    pub(super) charged: usize,
    /// Its TLS handshake is in progress; nothing is read or written here meanwhile.
    pub(super) handshake: Option<Handshake>,
    /// Its number among the connections that are being closed gently.
    pub(super) lingers: Option<u64>,
}

impl<T> Connection<T> {
    pub(super) fn new(stream: Stream, state: T) -> Self {
        Connection {
            state,
            stream,
            readable: true,
            writable: true,
            ending: Ending::default(),
            failed: None,
            queued: false,
            paused: false,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            written: 0,
            read: 0,
            strays: 0,
            deadline: None,
            wake_up: None,
            permit: None,
            charged: 0,
            handshake: None,
            lingers: None,
        }
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Puts kept bytes, then new ones, to the front of `scratch`, at most `most` in all. Give
    /// unused bytes back with [`keep`](Self::keep).
    pub(crate) fn fetch(&mut self, scratch: &mut [u8], most: usize) -> io::Result<Fetched> {
        let kept = self.input.len().min(scratch.len());
        let most = most.max(kept).min(scratch.len());
        scratch[..kept].copy_from_slice(&self.input[..kept]);
        if kept == self.input.len() {
            self.input = Vec::new()
        } else {
            drop(self.input.drain(..kept))
        }
        let mut filled = kept;
        self.paused = false;
        if let (0, Some(kind)) = (filled, self.failed) {
            return Err(kind.into());
        }
        while self.readable
            && !self.ending.ended
            && self.failed.is_none()
            && filled < most
            && self.input.is_empty()
            && self.handshake.is_none()
        {
            let read = match (&self.stream).read(&mut scratch[filled..most]) {
                Ok(0) if self.ending.was_reset => Err(io::ErrorKind::ConnectionReset.into()),
                read => read,
            };
            match read {
                Ok(0) => {
                    self.ending.ended = true;
                    self.readable = false;
                }
                Ok(n) => {
                    filled += n;
                    self.read += n as u64;
                    self.paused = self.stream.is_paused();
                    if self.paused {
                        break; // the rest is read in the next step, after other connections
                    }
                    if filled < most && !self.ending.closing && !self.stream.holds_end() {
                        self.readable = false; // a short read; if the end was announced, reading goes on up to it
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && self.stream.is_paused() => {
                    self.paused = true;
                    break;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(e) if filled > 0 => {
                    self.failed = Some(e.kind()); // a complete answer may precede a reset
                    self.readable = false;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(match filled {
            0 if self.ending.ended => Fetched::End, // `filled` is 0 only when nothing was kept
            0 => Fetched::Nothing,
            n => Fetched::Bytes(n),
        })
    }

    /// Counts bytes that came between two messages. Returns true if they are ignored: they are line
    /// ends, at most [`STRAYS_MAX`] since the last byte was written.
    pub(crate) fn ignores(&mut self, bytes: &[u8]) -> bool {
        let come = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
        self.strays = self.strays.saturating_add(come);
        are_line_ends(bytes) && self.strays <= STRAYS_MAX
    }

    /// Copies the input to the front of `scratch` without removing it from the socket, for a header
    /// that precedes the stream's own bytes. Must not be called after a fetch.
    pub(crate) fn peek(&mut self, scratch: &mut [u8]) -> io::Result<Fetched> {
        loop {
            return match self.stream.peek(scratch) {
                Ok(0) => Ok(Fetched::End),
                Ok(n) => Ok(Fetched::Bytes(n)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    Ok(Fetched::Nothing)
                }
                Err(e) => Err(e),
            };
        }
    }

    /// Drops this many bytes that were peeked at, at most the size of `scratch`.
    pub(crate) fn skip(&mut self, length: usize, scratch: &mut [u8]) -> io::Result<()> {
        let bytes = scratch.get_mut(..length).ok_or(io::ErrorKind::InvalidInput)?;
        (&self.stream).read_exact(bytes)?; // they have arrived, so it does not wait
        self.read += length as u64;
        Ok(())
    }

    /// Sets the address of the other end that a load balancer has named.
    pub(crate) fn set_remote(&mut self, remote: SocketAddr) {
        self.stream.set_remote(remote);
    }

    /// Keeps bytes that were fetched and not used, for the next [`fetch`](Self::fetch).
    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        if self.input.is_empty() {
            self.input.extend_from_slice(bytes);
        } else {
            self.input.splice(..0, bytes.iter().copied());
        }
    }

    /// Returns true if a fetch can return bytes or the end.
    pub(crate) fn has_input(&self) -> bool {
        !self.input.is_empty() || self.readable || self.ending.ended || self.failed.is_some()
    }

    /// Lets the next fetch ask the operating system even without an event.
    pub(crate) fn look_again(&mut self) {
        self.readable = !self.ending.ended;
    }

    /// Bytes that were read and kept.
    pub(crate) fn kept(&self) -> usize {
        self.input.len()
    }

    /// The unused input.
    pub(crate) fn kept_bytes(&self) -> &[u8] {
        &self.input
    }

    /// Returns true if the last fetch stopped before the end of the input, so that other
    /// connections have their turn.
    pub(crate) fn has_paused(&self) -> bool {
        self.paused
    }

    /// Returns true if the other side has ended its direction (kept bytes aside).
    pub(crate) fn at_end_of_stream(&self) -> bool {
        self.ending.ended
    }

    /// Returns true if the other side is known to have ended its direction; earlier bytes may still
    /// be unread.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.closing || self.ending.ended || self.failed.is_some()
    }

    /// Returns true if no more bytes will come, by an end or by a reset (kept bytes aside).
    pub(crate) fn is_over(&self) -> bool {
        self.ending.ended || self.failed.is_some()
    }

    /// Returns true if reading has failed (kept bytes aside).
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Lets the next flush ask the operating system even without an event: a socket has room long
    /// before it reports it.
    pub(crate) fn try_to_write(&mut self) {
        self.writable = true;
    }

    /// The number of bytes moved in both directions so far: distinguishes progress from silence.
    pub(crate) fn traffic(&self) -> u64 {
        self.stream.moved().map_or(self.written + self.read, |(written, read)| written + read)
    }

    /// Returns true if it is broken in both directions: further output will not be read.
    pub(crate) fn is_broken(&self) -> bool {
        self.ending.broken
    }

    /// The buffer for output; [`flush`](Self::flush) sends it.
    pub(crate) fn output(&mut self) -> &mut Vec<u8> {
        if self.sent > 0 && self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
        }
        if self.output.capacity() == 0 {
            self.output.reserve(FIRST_OUTPUT);
        }
        &mut self.output
    }

    /// The position in this connection's output where the next bytes begin.
    pub(crate) fn mark(&self) -> u64 {
        self.written + self.pending() as u64
    }

    /// Returns true if a part of the output since `mark` was written.
    pub(crate) fn has_sent_since(&self, mark: u64) -> bool {
        self.written > mark
    }

    /// Removes the output since `mark`. Returns false, and removes nothing, if some of it was
    /// written.
    pub(crate) fn take_back(&mut self, mark: u64) -> bool {
        // The difference fits: the bytes before the mark that were not written are in `output`.
        let Some(before) = mark.checked_sub(self.written) else { return false };
        // Bytes that a TLS session has encrypted will be written, whatever is removed here.
        if self.stream.owes() {
            return false;
        }
        self.output.truncate(self.sent + before as usize);
        true
    }

    /// The number of bytes that wait to be written.
    pub(crate) fn pending(&self) -> usize {
        self.output.len() - self.sent
    }

    /// The total of bytes that the operating system has taken.
    pub(crate) fn written(&self) -> u64 {
        self.stream.moved().map_or(self.written, |(written, _)| written)
    }

    /// The total of bytes that the operating system has delivered.
    pub(crate) fn received(&self) -> u64 {
        self.stream.moved().map_or(self.read, |(_, read)| read)
    }

    /// Looks for an end over TLS, which is part of the stream: reads, and keeps, at most one byte.
    /// If the other side sent no byte after its request, this finds the end.
    pub(crate) fn look_for_end(&mut self) {
        if self.stream.moved().is_some() {
            self.read_one();
        }
    }

    /// Returns true if the other side has ended its direction by now, even if no event has reported
    /// it yet. Reads, and keeps, at most one byte; an end behind it may stay unknown.
    pub(crate) fn has_left_by_now(&mut self) -> bool {
        self.look_again();
        self.read_one();
        self.is_ending() || self.is_broken()
    }

    fn read_one(&mut self) {
        if !self.readable || !self.input.is_empty() {
            return;
        }
        let mut byte = [0];
        match self.fetch(&mut byte, 1) {
            Ok(Fetched::Bytes(n)) => self.keep(&byte[..n]),
            Ok(Fetched::Nothing | Fetched::End) => {}
            Err(e) => self.failed = Some(e.kind()),
        }
    }

    /// Ends the writing direction, after everything that was flushed. Returns false if the socket
    /// has no room for the end's own bytes; try again when it has.
    pub(crate) fn end_output(&mut self) -> io::Result<bool> {
        match self.stream.shutdown(Shutdown::Write) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                Ok(false)
            }
            other => other.map(|()| true),
        }
    }

    /// Drops the pending output, which will not be read.
    pub(crate) fn drop_output(&mut self) {
        (self.output, self.sent) = (Vec::new(), 0);
    }

    /// Writes the pending output and then `bytes`, without copying the part that the socket takes
    /// at once; the rest is kept.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        const SMALL: usize = 4096;
        if bytes.len() <= SMALL || !self.writable {
            self.output().extend_from_slice(bytes);
            return Ok(());
        }
        let mut bytes = bytes;
        while self.writable && !bytes.is_empty() {
            let waiting = self.output.len() - self.sent;
            let slices = [IoSlice::new(&self.output[self.sent..]), IoSlice::new(bytes)];
            let wrote = if waiting == 0 {
                (&self.stream).write(bytes)
            } else {
                (&self.stream).write_vectored(&slices)
            };
            let Some(n) = self.took(wrote)? else { continue };
            if n < waiting + bytes.len() {
                self.writable = false;
            }
            let of_output = n.min(waiting);
            self.sent += of_output;
            bytes = &bytes[n - of_output..];
        }
        self.output().extend_from_slice(bytes);
        Ok(())
    }

    /// The same for a long message that is not needed elsewhere: the rest stays in its buffer.
    pub(crate) fn send_whole(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        self.flush()?;
        if self.pending() > 0 {
            return self.send(&bytes);
        }
        (self.output, self.sent) = (bytes, 0);
        self.flush().map(drop)
    }

    /// Writes the pending output, as far as the socket takes it. Returns true if none is left.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        while self.writable && self.sent < self.output.len() {
            let wrote = (&self.stream).write(&self.output[self.sent..]);
            let Some(n) = self.took(wrote)? else { continue };
            self.sent += n;
            if self.sent < self.output.len() {
                self.writable = false;
            }
        }
        if self.sent == self.output.len() {
            self.sent = 0;
            if self.output.capacity() > 8 * FIRST_OUTPUT {
                self.output = Vec::new()
            } else {
                self.output.clear()
            }
            return Ok(true);
        }
        if self.sent > 16 * 1024 && self.sent > self.output.len() / 2 {
            self.output.drain(..self.sent);
            self.output.shrink_to_fit();
            self.sent = 0;
        }
        Ok(false)
    }

    fn took(&mut self, wrote: io::Result<usize>) -> io::Result<Option<usize>> {
        match wrote {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                self.written += n as u64;
                self.strays = 0;
                Ok(Some(n))
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                Ok(None)
            }
            Err(e) => {
                self.ending.was_reset |= e.kind() == io::ErrorKind::ConnectionReset;
                Err(e)
            }
        }
    }

    /// Frees the memory of empty buffers: an idle connection has none.
    pub(crate) fn free_buffers(&mut self) {
        if self.output.is_empty() && self.output.capacity() > 0 {
            self.output = Vec::new();
        }
        if self.input.is_empty() && self.input.capacity() > 0 {
            self.input = Vec::new();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn so_many_line_ends_are_ignored_until_something_is_written() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut conn = Connection::new(Stream::from(near), ());
        for _ in 0..3 {
            assert!((0..32).all(|_| conn.ignores(b"\r\n")));
            assert!(!conn.ignores(b"\n") && !conn.ignores(b"\r\n"));
            conn.output().extend_from_slice(b"GET");
            assert!(!conn.ignores(b"\n"), "it is not written yet");
            conn.flush().unwrap();
            far.read_exact(&mut [0; 3]).unwrap();
        }
        assert!(conn.ignores(&[b'\n'; 64]) && !conn.ignores(b"\n"));
        conn.send(b"x").unwrap();
        assert!(!conn.ignores(&[b'\n'; 400]));
        conn.send(b"x").unwrap();
        assert!(!conn.ignores(b"\r\nx") && !conn.ignores(b"H"));
    }
}
