//! Writes a request's body in steps that never wait long, so that a response that begins meanwhile
//! can be read.
//!
//! A device that echoes stops reading when its output is not read. If the gateway wrote the whole
//! request before reading, the two would wait for each other until a deadline. Over a transport
//! without deadlines ([`Untimed`](crate::stream::Untimed)) this still happens.

use std::io;
use std::ops::Range;
use std::time::Duration;

use crate::body::Body;
use crate::error::{Error, Fault};
use crate::link::send::{SendFault, WriteBuffers};
use crate::link::wire::{Wire, is_timeout};
use crate::proto::body::Framing;
use crate::stream::TimedStream;

/// Why a link is not reusable while the response is being read and the request is still being
/// written.
pub(super) const EARLY: &str = "the response began before the request was sent whole";

/// A device that takes no byte for this long may be answering already.
const STALL: Duration = Duration::from_millis(100);
/// In that case: the time of one step of writing or reading before the other. It doubles up to
/// [`STALL`] while neither makes progress.
const TURN: Duration = Duration::from_millis(2);

pub(super) struct Upload {
    buffers: WriteBuffers,
    body: Body,
    framing: Framing,
    promised: Option<u64>,
    /// The number of bytes of the head that were written.
    head: usize,
    /// The head is written before the body is first read.
    head_alone: bool,
    /// The part of the buffered piece that is not written yet.
    piece: Range<usize>,
    ended: bool,
    /// How long the next step may wait, and the value after progress.
    pause: Duration,
    pause_min: Duration,
    /// The time without progress, as the sum of the waits, so that no clock is needed.
    silent: Duration,
}

/// The result of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Moved,
    Nothing,
    /// The other end closed its direction.
    End,
}

impl Upload {
    /// The buffers hold the head.
    pub(super) fn new(buffers: WriteBuffers, body: Body, framing: Framing) -> Self {
        let promised = if let Framing::Length(length) = framing { Some(length) } else { None };
        let head_alone = body.may_wait();
        Upload {
            buffers,
            body,
            framing,
            promised,
            head: 0,
            head_alone,
            piece: 0..0,
            ended: false,
            pause: STALL,
            pause_min: STALL,
            silent: Duration::ZERO,
        }
    }

    /// The buffers, for the next message.
    pub(super) fn into_buffers(self) -> WriteBuffers {
        self.buffers
    }

    /// From here on, reading the response alternates with writing.
    pub(super) fn take_turns(&mut self) {
        self.pause = TURN;
        self.pause_min = TURN;
    }

    /// Returns true if everything is known to be written, without reading from the body.
    pub(super) fn is_done(&self) -> bool {
        self.ended && self.piece.is_empty() && self.head == self.buffers.out.len()
    }

    /// Prepares the next piece; this may wait for the body's reader. Returns false if everything is
    /// written.
    pub(super) fn load(&mut self) -> Result<bool, SendFault> {
        let head_left = self.head < self.buffers.out.len();
        if !self.piece.is_empty() || (head_left && self.head_alone) {
            return Ok(true);
        }
        if !self.ended {
            (self.piece, self.ended) =
                self.buffers.next_piece(&mut self.body, self.framing, &mut self.promised)?;
        }
        Ok(head_left || !self.piece.is_empty())
    }

    /// Writes a part of the prepared piece.
    pub(super) fn write<S: TimedStream + 'static>(
        &mut self,
        wire: &mut Wire<S>,
    ) -> Result<Step, SendFault> {
        let (out, piece) = (&self.buffers.out[self.head..], self.buffers.piece(self.piece.clone()));
        match wire.write_some(out, piece, self.pause) {
            Ok(0) => Err(SendFault::Wire(
                wire.write_failed("writing a request", io::ErrorKind::WriteZero.into()),
            )),
            Ok(n) => {
                let of_head = n.min(out.len());
                self.head += of_head;
                self.piece.start = (self.piece.start + n - of_head).min(self.piece.end);
                Ok(self.moved())
            }
            Err(error) if is_timeout(&error) => self.waited(wire, self.pause),
            Err(error) => Err(SendFault::Wire(wire.write_failed("writing a request", error))),
        }
    }

    /// Reads bytes that have arrived, with a very short wait.
    pub(super) fn look<S: TimedStream + 'static>(
        &mut self,
        wire: &mut Wire<S>,
    ) -> Result<Step, SendFault> {
        let wait = self.pause.min(TURN * 5);
        match wire.fill(Some(wait), crate::body::STEP) {
            Ok(0) => Ok(Step::End),
            Ok(_) => Ok(self.moved()),
            Err(error) if is_timeout(&error) => self.waited(wire, wait),
            Err(error) => {
                wire.spoil("reading from the connection failed");
                Err(SendFault::Wire(Error::io(
                    Fault::Network,
                    "reading while a request is being written",
                    error,
                )))
            }
        }
    }

    fn moved(&mut self) -> Step {
        self.silent = Duration::ZERO;
        self.pause = self.pause_min;
        Step::Moved
    }

    fn waited<S: TimedStream + 'static>(
        &mut self,
        wire: &mut Wire<S>,
        time: Duration,
    ) -> Result<Step, SendFault> {
        self.silent += time;
        self.pause = (self.pause * 2).min(STALL);
        if self.silent >= wire.limits.body_silence_timeout || wire.is_overdue() {
            return Err(SendFault::Wire(
                wire.write_failed("writing a request", io::ErrorKind::TimedOut.into()),
            ));
        }
        Ok(Step::Nothing)
    }
}
