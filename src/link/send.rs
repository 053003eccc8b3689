//! A message on its way out, for both sides.

use std::io::{self, Read};
use std::ops::Range;

use crate::body::{Body, STEP, from_io};
use crate::error::{Error, Fault};
use crate::link::line::Line;
use crate::link::wire::Expectation;
use crate::message::trailers_to_send;
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
        // A piece that is known to be the last goes out with the end behind it.
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
