//! One connection of the loop: readiness flags, unused input, pending output.
//!
//! mio is edge-triggered: a flag stays set until a system call said otherwise, so a step may stop
//! at any point and go on when the other side is ready. On epoll and kqueue a read or write shorter
//! than asked means "no more for now" (epoll(7), question 9), which saves the call that would only
//! return `WouldBlock`.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Instant;

use crate::engine::handshakes::Handshake;
use crate::engine::permits::Permit;
use crate::stream::Stream;

/// What a first write reserves: a head and a small body.
const FIRST_OUTPUT: usize = 1024;

/// What an event says of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The other side ended its direction.
    pub(crate) closing: bool,
    /// The connection is gone in both directions.
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

/// What a connection's last read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// So many bytes lie at the front of the scratch buffer (kept ones first).
    Bytes(usize),
    /// None, and none will come before the next event.
    Nothing,
    /// None, and none will ever come.
    End,
}

/// The known state of a connection's end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ending {
    /// The other side ended its direction; reading goes on until that end is reached.
    pub(super) closing: bool,
    /// The connection is gone in both directions (reset, or an error).
    pub(super) broken: bool,
    pub(super) ended: bool,
    /// A write was told of a reset. The kernel says so once: a later read would take the end of
    /// what has arrived for a clean end.
    was_reset: bool,
}

/// One connection that the loop owns.
pub(crate) struct Connection<T> {
    pub(crate) state: T,
    pub(super) stream: Stream,
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) ending: Ending,
    /// Reading failed behind bytes that were still delivered; the next fetch says so.
    failed: Option<io::ErrorKind>,
    pub(super) queued: bool,
    /// The last fetch stopped although there was more: it goes on without an event.
    pub(super) paused: bool,
    /// Read and not used: a half-read head, or pipelined bytes behind it.
    pub(super) input: Vec<u8>,
    pub(super) output: Vec<u8>,
    /// Bytes of `output` that are written already.
    sent: usize,
    written: u64,
    read: u64,
    pub(super) deadline: Option<Instant>,
    pub(super) wake_up: Option<Instant>,
    /// Counted as long as it is here.
    pub(super) permit: Option<Permit>,
    /// What its buffers were last counted with.
    pub(super) charged: usize,
    /// Its TLS session is being made; nothing is read or written here meanwhile.
    pub(super) handshake: Option<Handshake>,
    /// Its place among those that are being closed.
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
                        break; // there is more, for the next step: others first
                    }
                    if filled < most && !self.ending.closing && !self.stream.holds_end() {
                        self.readable = false; // a short read; where the end is known to be near, it is read up to it
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && self.stream.is_paused() => {
                    self.paused = true;
                    break;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(e) if filled > 0 => {
                    self.failed = Some(e.kind()); // a whole answer may stand before a reset
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

    /// Copies what has arrived to the front of `scratch` and leaves it where it is: for what stands
    /// before the stream's own first bytes. Nothing was fetched before.
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

    /// Drops so many bytes that were peeked at, at most as many as `scratch` has room for.
    pub(crate) fn skip(&mut self, length: usize, scratch: &mut [u8]) -> io::Result<()> {
        let bytes = scratch.get_mut(..length).ok_or(io::ErrorKind::InvalidInput)?;
        (&self.stream).read_exact(bytes)?; // they are here, so it does not wait
        self.read += length as u64;
        Ok(())
    }

    /// A balancer has named the other end.
    pub(crate) fn set_peer(&mut self, peer: SocketAddr) {
        self.stream.set_peer(peer);
    }

    /// Keeps bytes that were fetched and not used, for the next [`fetch`](Self::fetch).
    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        if self.input.is_empty() {
            self.input.extend_from_slice(bytes);
        } else {
            self.input.splice(..0, bytes.iter().copied());
        }
    }

    /// Returns true if a fetch can bring anything: bytes, or word of the end.
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

    /// Returns true if the last fetch stopped although there was more, since others are to have
    /// their turn.
    pub(crate) fn has_paused(&self) -> bool {
        self.paused
    }

    /// Returns true if the other side has ended its direction (kept bytes aside).
    pub(crate) fn at_end_of_stream(&self) -> bool {
        self.ending.ended
    }

    /// Returns true if the other side has ended its direction, as far as is known: earlier bytes of
    /// it may not be read yet.
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
    /// before it says so.
    pub(crate) fn try_to_write(&mut self) {
        self.writable = true;
    }

    /// Bytes moved in both directions so far: tells progress from silence.
    pub(crate) fn traffic(&self) -> u64 {
        self.stream.moved().map_or(self.written + self.read, |(written, read)| written + read)
    }

    /// Returns true if it is gone in both directions: nobody will read further output.
    pub(crate) fn is_broken(&self) -> bool {
        self.ending.broken
    }

    /// What a head is written to; [`flush`](Self::flush) sends it.
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

    /// Takes back the output since `mark`. Returns false if some of it has gone out, and nothing is
    /// taken back.
    pub(crate) fn take_back(&mut self, mark: u64) -> bool {
        // As a difference this fits: the bytes before the mark that have not gone out are in
        // `output`.
        let Some(before) = mark.checked_sub(self.written) else { return false };
        // What a TLS session has encrypted goes out, whatever is taken back here.
        if self.stream.owes() {
            return false;
        }
        self.output.truncate(self.sent + before as usize);
        true
    }

    /// Bytes that wait to be written.
    pub(crate) fn pending(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Bytes the operating system has taken in all.
    pub(crate) fn written(&self) -> u64 {
        self.stream.moved().map_or(self.written, |(written, _)| written)
    }

    /// Bytes that the operating system has brought in all.
    pub(crate) fn received(&self) -> u64 {
        self.stream.moved().map_or(self.read, |(_, read)| read)
    }

    /// Over TLS an end is told in the stream itself: at most one byte is read, and kept, to see it.
    /// Where nothing was sent behind the request that is the end.
    pub(crate) fn look_for_end(&mut self) {
        if self.stream.moved().is_none() || !self.readable || !self.input.is_empty() {
            return;
        }
        let mut byte = [0];
        match self.fetch(&mut byte, 1) {
            Ok(Fetched::Bytes(n)) => self.keep(&byte[..n]),
            Ok(Fetched::Nothing | Fetched::End) => {}
            Err(e) => self.failed = Some(e.kind()),
        }
    }

    /// Ends the writing direction, behind everything that was flushed. Returns false if the socket
    /// has no room for what tells the end; try again when it has.
    pub(crate) fn end_output(&mut self) -> io::Result<bool> {
        match self.stream.shutdown(Shutdown::Write) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                Ok(false)
            }
            other => other.map(|()| true),
        }
    }

    /// Drops what waits to be written: nobody will read it.
    pub(crate) fn drop_output(&mut self) {
        (self.output, self.sent) = (Vec::new(), 0);
    }

    /// Writes what waits and then `bytes`, without copying what can go at once; the rest waits.
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

    /// The same for a long message that is not needed elsewhere: what the socket does not take now
    /// waits where it is.
    pub(crate) fn send_whole(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        self.flush()?;
        if self.pending() > 0 {
            return self.send(&bytes);
        }
        (self.output, self.sent) = (bytes, 0);
        self.flush().map(drop)
    }

    /// Writes what waits, as far as the socket takes it. Returns true if nothing waits any more.
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

    /// Gives the memory of empty buffers back: what idles has none.
    pub(crate) fn free_buffers(&mut self) {
        if self.output.is_empty() && self.output.capacity() > 0 {
            self.output = Vec::new();
        }
        if self.input.is_empty() && self.input.capacity() > 0 {
            self.input = Vec::new();
        }
    }
}
