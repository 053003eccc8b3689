//! A message on its way out, for both sides, and the [`Body`] that reads a message coming in.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use http::HeaderMap;

use crate::error::{Error, Fault};
use crate::link::wire::{Expectation, Line, Wire};
use crate::message::{Body, STEP, Streamed, from_io, trailers_to_send};
use crate::proto::body::{Framing, last_chunk, open_chunk};
use crate::stream::Transport;

/// Bodies in memory up to this go out in one buffer with their head; copying them costs less than a second slice.
const COPY_MAX: usize = 16 * 1024;
/// Most octets of one write, so that the lock is not held for ever.
const WRITE_MAX: usize = 256 * 1024;
/// Room before a piece for the line that opens its chunk.
const CHUNK_LINE_MAX: usize = 20;
/// The buffer: that line, the piece, and the CRLF behind it.
const BULK: usize = CHUNK_LINE_MAX + STEP + 2;

/// Buffers that a link reuses from message to message.
#[derive(Default)]
pub(super) struct Pen {
    /// The head, and a small body behind it.
    pub(super) out: Vec<u8>,
    /// The piece of a streamed body that goes out next; allocated when the first one does.
    bulk: Vec<u8>,
}

/// Why a message did not go out whole.
pub(super) enum SendFault {
    /// The body could not be read.
    Body(Error),
    /// The connection did not take it.
    Wire(Error),
}

impl Pen {
    /// Writes what stands in `out` (the head), and the body behind it as `framing` says. `read_first`: the head waits for the body's first octets.
    pub(super) fn send<S: Transport + 'static>(
        &mut self,
        line: &Line<S>,
        body: &mut Body,
        framing: Framing,
        read_first: bool,
    ) -> Result<(), SendFault> {
        match (framing, body.in_memory()) {
            (Framing::Empty, _) => self.flush_out(line),
            (Framing::Length(_), Some(octets)) if octets.len() <= COPY_MAX => {
                self.out.extend_from_slice(octets);
                self.flush_out(line)
            }
            (Framing::Length(_), Some(octets)) => {
                for piece in octets.chunks(WRITE_MAX) {
                    write(line, &self.out, piece)?;
                    self.out.clear();
                }
                Ok(())
            }
            _ => self.stream(line, body, framing, read_first),
        }
    }

    fn stream<S: Transport + 'static>(
        &mut self,
        line: &Line<S>,
        body: &mut Body,
        framing: Framing,
        read_first: bool,
    ) -> Result<(), SendFault> {
        if body.may_wait() && !read_first {
            self.flush_out(line)?;
        }
        self.bulk.resize(BULK, 0);
        let mut promised = if let Framing::Length(length) = framing { Some(length) } else { None };
        let mut ended = false;
        while !ended && promised != Some(0) {
            let room = promised.map_or(STEP, |left| left.min(STEP as u64) as usize);
            let n = read(body, &mut self.bulk[CHUNK_LINE_MAX..CHUNK_LINE_MAX + room])?;
            // What is known to be the last piece goes out with the end behind it.
            ended = n == 0 || body.length() == Some(0);
            if let Some(left) = &mut promised {
                *left -= n as u64;
                if n == 0 {
                    let text = format!("reading a body: it ended {left} octets before its length");
                    return Err(SendFault::Body(Error::closed(Fault::Caller, text)));
                }
            }
            let piece = self.frame(body, framing, n, ended)?;
            write(line, &self.out, &self.bulk[piece])?;
            self.out.clear();
        }
        Ok(())
    }

    /// Puts the coding around the `n` octets in `bulk`; where in it the piece to be written stands.
    fn frame(&mut self, body: &Body, framing: Framing, n: usize, ended: bool) -> Result<Range<usize>, SendFault> {
        let (mut start, mut end) = (CHUNK_LINE_MAX, CHUNK_LINE_MAX + n);
        if framing != Framing::Chunked {
            return Ok(start..end);
        }
        if n > 0 {
            let mut opening = Vec::with_capacity(CHUNK_LINE_MAX);
            open_chunk(&mut opening, n);
            start -= opening.len();
            self.bulk[start..CHUNK_LINE_MAX].copy_from_slice(&opening);
            self.bulk[end..end + 2].copy_from_slice(b"\r\n");
            end += 2;
        }
        if ended {
            self.bulk.truncate(end);
            let trailers = body.trailers().map(|map| trailers_to_send(&map)).unwrap_or_default();
            last_chunk(&mut self.bulk, &trailers)
                .map_err(|refusal| SendFault::Body(Error::usage(format!("writing a body's trailers: {}", refusal.reason))))?;
            end = self.bulk.len();
        }
        Ok(start..end)
    }

    fn flush_out<S: Transport + 'static>(&mut self, line: &Line<S>) -> Result<(), SendFault> {
        write(line, &self.out, &[])?;
        self.out.clear();
        Ok(())
    }
}

fn read(body: &mut Body, buf: &mut [u8]) -> Result<usize, SendFault> {
    loop {
        match body.read(buf) {
            Ok(n) => return Ok(n.min(buf.len())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(SendFault::Body(from_io(Fault::Caller, "reading a body that was to be sent", error))),
        }
    }
}

fn write<S: Transport + 'static>(line: &Line<S>, first: &[u8], second: &[u8]) -> Result<(), SendFault> {
    let mut wire = line.lock();
    // Once a final message has begun, a 100 would stand in the middle of it.
    if wire.expectation == Expectation::Waiting {
        wire.expectation = Expectation::Disappointed;
    }
    wire.write_all(first, second).map_err(|e| SendFault::Wire(wire.write_failed("writing a message", e)))
}

/// What gets the stream back when an exchange is over; `None`: it was closed.
pub(super) type Done<S> = Box<dyn FnOnce(Option<(S, Vec<u8>)>) + Send>;

/// Calls a [`Done`] exactly once, whatever happens.
pub(super) struct Settlement<S>(Option<Done<S>>);

impl<S> Settlement<S> {
    pub(super) fn new(done: Done<S>) -> Self {
        Settlement(Some(done))
    }

    pub(super) fn settle(mut self, stream: Option<(S, Vec<u8>)>) {
        if let Some(done) = self.0.take() {
            done(stream);
        }
    }
}

impl<S> Drop for Settlement<S> {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(None);
        }
    }
}

/// A message's body as it comes in: shares the wire with its link, or owns it together with a [`Settlement`].
pub(super) struct WireBody<S: Transport + 'static> {
    line: Arc<Line<S>>,
    exchange: u64,
    fault: Fault,
    ended: bool,
    /// A read failed: what comes after it is not this body's, and not an end.
    failed: bool,
    remaining: Option<u64>,
    trailers: Option<HeaderMap>,
    settlement: Option<Settlement<S>>,
}

impl<S: Transport + 'static> WireBody<S> {
    /// Of the exchange in progress.
    pub(super) fn new(line: &Arc<Line<S>>, wire: &Wire<S>, settlement: Option<Settlement<S>>) -> Self {
        let (fault, remaining) = (wire.side.peer(), wire.body_remaining());
        WireBody { line: line.clone(), exchange: line.hold(), fault, ended: false, failed: false, remaining, trailers: None, settlement }
    }

    fn step(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        // Asked before and after waiting for the lock: whoever holds it may be ending this exchange.
        self.check_current()?;
        let line = self.line.clone();
        let mut wire = line.lock();
        self.check_current()?;
        let n = wire.read_body(buf, &mut self.trailers)?;
        self.ended = !wire.is_body_unread();
        self.remaining = if self.ended { Some(0) } else { wire.body_remaining() };
        Ok(n)
    }

    fn check_current(&self) -> Result<(), Error> {
        if self.line.exchange() == self.exchange {
            return Ok(());
        }
        Err(Error::usage("reading a body: the exchange it belonged to is over; read a body before the next message"))
    }

    /// Gives an owned stream back (where it can be used again), or drops it; then tells.
    fn settle(&mut self) {
        let Some(settlement) = self.settlement.take() else { return };
        let stream = self.line.lock().take_reusable();
        settlement.settle(stream);
    }
}

impl<S: Transport + 'static> Streamed for WireBody<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.ended || buf.is_empty() {
            return Ok(0);
        }
        if self.failed {
            return Err(Error::closed(self.fault, "reading a body: an earlier read of it failed").into());
        }
        let got = self.step(buf);
        self.failed = got.is_err();
        if self.ended || self.failed {
            self.settle();
        }
        got.map_err(io::Error::from)
    }

    fn remaining(&self) -> Option<u64> {
        self.remaining
    }

    fn trailers(&self) -> Option<HeaderMap> {
        self.trailers.clone().filter(|_| self.ended)
    }

    fn may_wait(&self) -> bool {
        self.line.try_lock().is_none_or(|wire| wire.inbox.is_empty())
    }

    fn fault(&self) -> Fault {
        self.fault
    }
}

impl<S: Transport + 'static> Drop for WireBody<S> {
    fn drop(&mut self) {
        self.line.release(self.exchange);
        if self.settlement.is_some() {
            // Nobody else has this wire, so the lock is free, and only what has arrived already is drained: no waiting.
            let mut wire = self.line.lock();
            let mut left = wire.limits.drain_bytes_max;
            // A failure is among the wire's reasons then, and the stream is closed.
            let _ = wire.drain_inbox(&mut left);
            drop(wire);
            self.settle();
        }
    }
}
