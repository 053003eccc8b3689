//! Writes messages, for both sides.

use std::io::{self, Read};
use std::ops::Range;

use crate::body::{Body, STEP, from_io};
use crate::error::{Error, Fault};
use crate::link::line::Line;
use crate::link::wire::Expectation;
use crate::message::trailers_to_send;
use crate::proto::body::{Framing, last_chunk, open_chunk};
use crate::stream::TimedStream;

/// Bodies in memory up to this length are copied after their head; copying costs less than a
/// second slice.
pub(super) const COPY_MAX: usize = 16 * 1024;
/// The most bytes of one write, so that the lock is not held for ever.
const WRITE_MAX: usize = 256 * 1024;
/// Room before a piece for its chunk line.
const CHUNK_LINE_MAX: usize = 20;
/// The size of the buffer: chunk line, piece, and CRLF.
const BULK: usize = CHUNK_LINE_MAX + STEP + 2;

/// Buffers that a link reuses from message to message.
#[derive(Default)]
pub(super) struct WriteBuffers {
    /// The head, and perhaps a small body.
    pub(super) out: Vec<u8>,
    /// The next piece of a streamed body; allocated with the first one.
    bulk: Vec<u8>,
}

/// Why a message was not written completely.
pub(super) enum SendFault {
    /// The body could not be read.
    Body(Error),
    /// The connection failed.
    Wire(Error),
}

impl WriteBuffers {
    /// Writes `out` (the head), and then the body with `framing`. With `read_first` the head waits
    /// for the body's first bytes.
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

    /// Reads the next piece of a body and adds the coding. Returns true if it is the last.
    /// `promised` is the rest of a known length.
    pub(super) fn next_piece(
        &mut self,
        body: &mut Body,
        framing: Framing,
        promised: &mut Option<u64>,
    ) -> Result<(Range<usize>, bool), SendFault> {
        self.bulk.resize(BULK, 0);
        let room = promised.map_or(STEP, |left| left.min(STEP as u64) as usize);
        let n = read(body, &mut self.bulk[CHUNK_LINE_MAX..CHUNK_LINE_MAX + room])?;
        // If a piece is known to be the last, the end is written with it.
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

    /// Adds the coding around the `n` bytes in `bulk`, and returns the range to be written.
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
    // After a final message has begun, a 100 would be in the middle of it.
    if wire.expectation == Expectation::Waiting {
        wire.expectation = Expectation::Disappointed;
    }
    wire.write_all(first, second)
        .map_err(|e| SendFault::Wire(wire.write_failed("writing a message", e)))
}
