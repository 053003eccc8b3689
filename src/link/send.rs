//! A message on its way out, for both sides, and the [`Body`] that reads a message coming in.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;

use crate::close_reason::CloseReason;
use crate::error::{Error, Fault};
use crate::link::line::Line;
use crate::link::upload::{EARLY, Step, Upload};
use crate::link::wire::{Expectation, Wire};
use crate::message::{Body, STEP, Streamed, from_io, trailers_to_send};
use crate::proto::body::{Framing, last_chunk, open_chunk};
use crate::stream::TimedStream;

/// Bodies in memory up to this go out in one buffer with their head; copying them costs less than a
/// second slice.
pub(super) const COPY_MAX: usize = 16 * 1024;
/// Most bytes of one write, so that the lock is not held for ever.
const WRITE_MAX: usize = 256 * 1024;
/// Room before a piece for the line that opens its chunk.
const CHUNK_LINE_MAX: usize = 20;
/// The buffer: that line, the piece, and the CRLF behind it.
const BULK: usize = CHUNK_LINE_MAX + STEP + 2;

/// Buffers that a link reuses from message to message.
#[derive(Default)]
pub(super) struct WriteBuffers {
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

impl WriteBuffers {
    /// Writes what stands in `out` (the head), and the body behind it as `framing` says.
    /// `read_first`: the head waits for the body's first bytes.
    pub(super) fn send<S: TimedStream + 'static>(
        &mut self,
        line: &Line<S>,
        body: &mut Body,
        framing: Framing,
        read_first: bool,
    ) -> Result<(), SendFault> {
        match (framing, body.in_memory()) {
            (Framing::Empty, _) => self.flush_out(line),
            (Framing::Length(_), Some(bytes)) if bytes.len() <= COPY_MAX => {
                self.out.extend_from_slice(bytes);
                self.flush_out(line)
            }
            (Framing::Length(_), Some(bytes)) => {
                for piece in bytes.chunks(WRITE_MAX) {
                    write(line, &self.out, piece)?;
                    self.out.clear();
                }
                Ok(())
            }
            _ => self.stream(line, body, framing, read_first),
        }
    }

    fn stream<S: TimedStream + 'static>(
        &mut self,
        line: &Line<S>,
        body: &mut Body,
        framing: Framing,
        read_first: bool,
    ) -> Result<(), SendFault> {
        if body.may_wait() && !read_first {
            self.flush_out(line)?;
        }
        let mut promised = if let Framing::Length(length) = framing { Some(length) } else { None };
        let mut ended = false;
        while !ended {
            let piece;
            (piece, ended) = self.next_piece(body, framing, &mut promised)?;
            write(line, &self.out, &self.bulk[piece])?;
            self.out.clear();
        }
        Ok(())
    }

    /// Reads the next piece of a body and puts the coding around it; whether it is the last.
    /// `promised`: what of a known length is still to come.
    pub(super) fn next_piece(
        &mut self,
        body: &mut Body,
        framing: Framing,
        promised: &mut Option<u64>,
    ) -> Result<(Range<usize>, bool), SendFault> {
        self.bulk.resize(BULK, 0);
        let room = promised.map_or(STEP, |left| left.min(STEP as u64) as usize);
        let n = read(body, &mut self.bulk[CHUNK_LINE_MAX..CHUNK_LINE_MAX + room])?;
        // What is known to be the last piece goes out with the end behind it.
        let mut ended = n == 0 || body.length() == Some(0);
        if let Some(left) = promised {
            if n == 0 {
                let text = format!("reading a body: it ended {left} bytes before its length");
                return Err(SendFault::Body(Error::closed(Fault::Caller, text).of_body()));
            }
            *left -= n as u64;
            ended = *left == 0;
        }
        Ok((self.frame(body, framing, n, ended)?, ended))
    }

    /// Bytes of the last piece.
    pub(super) fn piece(&self, range: Range<usize>) -> &[u8] {
        &self.bulk[range]
    }

    /// Puts the coding around the `n` bytes in `bulk`; where in it the piece to be written stands.
    fn frame(
        &mut self,
        body: &Body,
        framing: Framing,
        n: usize,
        ended: bool,
    ) -> Result<Range<usize>, SendFault> {
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
            last_chunk(&mut self.bulk, &trailers).map_err(|refusal| {
                SendFault::Body(Error::usage(format!(
                    "writing a body's trailers: {}",
                    refusal.reason
                )))
            })?;
            end = self.bulk.len();
        }
        Ok(start..end)
    }

    fn flush_out<S: TimedStream + 'static>(&mut self, line: &Line<S>) -> Result<(), SendFault> {
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
            Err(error) => {
                let error = from_io(Fault::Caller, "reading a body that was to be sent", error);
                return Err(SendFault::Body(error.of_body()));
            }
        }
    }
}

fn write<S: TimedStream + 'static>(
    line: &Line<S>,
    first: &[u8],
    second: &[u8],
) -> Result<(), SendFault> {
    let mut wire = line.lock();
    // Once a final message has begun, a 100 would stand in the middle of it.
    if wire.expectation == Expectation::Waiting {
        wire.expectation = Expectation::Disappointed;
    }
    wire.write_all(first, second)
        .map_err(|e| SendFault::Wire(wire.write_failed("writing a message", e)))
}

/// What gets the stream back when an exchange is over, or, where it was closed, learns which error
/// closed it.
pub(crate) type Done<S> = Box<dyn FnOnce(Result<(S, Vec<u8>), Option<CloseReason>>) + Send>;

/// Where whoever cuts a connection in the middle of an exchange leaves the error of that exchange.
pub(crate) type CutError = Arc<Mutex<Option<Error>>>;

/// Calls a [`Done`] exactly once, whatever happens.
pub(crate) struct Settlement<S> {
    done: Option<Done<S>>,
    cut_error: CutError,
}

impl<S> Settlement<S> {
    pub(super) fn new(done: Done<S>, cut_error: CutError) -> Self {
        Settlement { done: Some(done), cut_error }
    }

    /// Why this side has cut the connection, if it has.
    pub(super) fn cut_error(&self) -> Option<Error> {
        self.cut_error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(crate) fn settle(mut self, stream: Result<(S, Vec<u8>), Option<CloseReason>>) {
        if let Some(done) = self.done.take() {
            done(stream);
        }
    }
}

impl<S> Drop for Settlement<S> {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done(Err(None));
        }
    }
}

/// A message's body as it comes in: shares the wire with its link, or owns it together with a
/// [`Settlement`].
pub(super) struct WireBody<S: TimedStream + 'static> {
    /// `None` when the body is whole: then it keeps no connection open.
    line: Option<Arc<Line<S>>>,
    exchange: u64,
    fault: Fault,
    /// A read failed: what comes after it is not this body's, and not an end.
    failed: bool,
    remaining: Option<u64>,
    trailers: Option<HeaderMap>,
    settlement: Option<Settlement<S>>,
    /// What is left of the request, where the response began before it was written whole.
    upload: Option<Box<Upload>>,
}

impl<S: TimedStream + 'static> WireBody<S> {
    /// Of the exchange in progress.
    pub(super) fn new(
        line: &Arc<Line<S>>,
        wire: &Wire<S>,
        settlement: Option<Settlement<S>>,
    ) -> Self {
        WireBody {
            exchange: line.hold(),
            line: Some(line.clone()),
            fault: wire.side.peer(),
            failed: false,
            remaining: wire.body_remaining(),
            trailers: None,
            settlement,
            upload: None,
        }
    }

    /// With the rest of the request, which is written while this is read.
    pub(super) fn with_upload(mut self, upload: Option<Box<Upload>>) -> Self {
        self.upload = upload;
        self
    }

    fn step(&mut self, line: &Line<S>, buf: &mut [u8]) -> Result<usize, Error> {
        // Asked before and after waiting for the lock: whoever holds it may be ending this
        // exchange.
        self.check_current(line)?;
        let mut wire = line.lock();
        self.check_current(line)?;
        let n = match self.upload.take() {
            Some(upload) => self.step_both(upload, &mut wire, buf)?,
            None => wire.read_body(buf, &mut self.trailers)?,
        };
        self.remaining = if wire.is_body_unread() { wire.body_remaining() } else { Some(0) };
        Ok(n)
    }

    /// A step while the request is still being written: writes and reads in turns.
    fn step_both(
        &mut self,
        mut upload: Box<Upload>,
        wire: &mut Wire<S>,
        buf: &mut [u8],
    ) -> Result<usize, Error> {
        loop {
            let copied = wire.decode_into(buf, &mut self.trailers)?;
            if copied > 0 || !wire.is_body_unread() {
                if wire.is_body_unread() {
                    self.upload = Some(upload);
                } else if upload.is_done() {
                    wire.forgive(EARLY);
                } else {
                    // The answer is whole before the request was: the device is told that no more
                    // will come.
                    wire.abort(Framing::Chunked);
                }
                return Ok(copied);
            }
            let looked = match upload.load() {
                Ok(false) => {
                    wire.forgive(EARLY);
                    return wire.read_body(buf, &mut self.trailers);
                }
                Ok(true) => upload.write(wire).and_then(|_| upload.look(wire)),
                Err(fault) => Err(fault),
            };
            match looked {
                Ok(Step::End) => return wire.eof_in_body().map(|()| 0),
                Ok(Step::Moved | Step::Nothing) => {}
                // The device takes no more, yet what it answers may be whole.
                Err(SendFault::Wire(_)) => return wire.read_body(buf, &mut self.trailers),
                Err(SendFault::Body(error)) => {
                    wire.abort(Framing::Chunked);
                    return Err(error);
                }
            }
        }
    }

    fn check_current(&self, line: &Line<S>) -> Result<(), Error> {
        if line.exchange() == self.exchange {
            return Ok(());
        }
        Err(Error::usage(
            "reading a body: the exchange it belonged to is over; read a body before the next message",
        ))
    }

    /// Lets go of the line: gives an owned stream back (where it can be used again) or drops it,
    /// and tells. `error`: what ended the exchange.
    fn settle(&mut self, line: &Line<S>, error: Option<&Error>) {
        line.release(self.exchange);
        if let Some(settlement) = self.settlement.take() {
            let mut wire = line.lock();
            wire.whole = None;
            let stream = wire.take_reusable();
            drop(wire);
            settlement.settle(stream.ok_or_else(|| error.map(CloseReason::of_exchange)));
        }
    }
}

impl<S: TimedStream + 'static> Streamed for WireBody<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.failed {
            return Err(
                Error::closed(self.fault, "reading a body: an earlier read of it failed").into()
            );
        }
        if buf.is_empty() {
            return Ok(0);
        }
        let Some(line) = self.line.take() else { return Ok(0) };
        let cut_error = |body: &Self| body.settlement.as_ref().and_then(Settlement::cut_error);
        let got = self.step(&line, buf).map_err(|error| cut_error(self).unwrap_or(error));
        self.failed = got.is_err();
        if self.failed || self.remaining == Some(0) {
            self.settle(&line, got.as_ref().err());
        } else {
            self.line = Some(line);
        }
        got.map_err(io::Error::from)
    }

    fn remaining(&self) -> Option<u64> {
        self.remaining
    }

    fn trailers(&self) -> Option<HeaderMap> {
        self.trailers.clone().filter(|_| self.line.is_none() && !self.failed)
    }

    fn may_wait(&self) -> bool {
        self.line
            .as_ref()
            .is_some_and(|line| line.try_lock().is_none_or(|wire| wire.inbox.is_empty()))
    }

    fn fault(&self) -> Fault {
        self.fault
    }
}

impl<S: TimedStream + 'static> Drop for WireBody<S> {
    fn drop(&mut self) {
        let Some(line) = self.line.take() else { return };
        if self.settlement.is_some() {
            // Nobody else has this wire, so the lock is free, and only what has arrived already is
            // drained: no waiting.
            let mut wire = line.lock();
            let mut left = wire.limits.drain_bytes_max;
            if let Err(error) = wire.drain_inbox(&mut left) {
                log::debug!("a response that was dropped half-read: {error}");
            }
        }
        self.settle(&line, None);
    }
}
