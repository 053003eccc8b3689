//! The [`Body`](crate::Body) of an incoming message: it reads from the wire, and returns the stream
//! at its end.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;

use crate::body::Streamed;
use crate::close_reason::CloseReason;
use crate::error::{Error, Fault};
use crate::link::line::Line;
use crate::link::send::SendFault;
use crate::link::upload::{EARLY, Step, Upload};
use crate::link::wire::Wire;
use crate::proto::body::Framing;
use crate::stream::TimedStream;

/// Takes the stream back when an exchange has ended, or the error with which it was closed.
pub(crate) type Done<S> = Box<dyn FnOnce(Result<(S, Vec<u8>), Option<CloseReason>>) + Send>;

/// The slot for the error of an exchange whose connection is cut from this side.
pub(crate) type CutError = Arc<Mutex<Option<Error>>>;

/// Calls a [`Done`] exactly once in every case.
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

/// The body of an incoming message: shares the wire with its link, or owns it together with a
/// [`Settlement`].
pub(super) struct WireBody<S: TimedStream + 'static> {
    /// `None` when the body is complete, so that it keeps no connection open.
    line: Option<Arc<Line<S>>>,
    exchange: u64,
    fault: Fault,
    /// A read failed: further bytes do not belong to this body, and there is no valid end.
    failed: bool,
    remaining: Option<u64>,
    trailers: Option<HeaderMap>,
    settlement: Option<Settlement<S>>,
    /// The rest of the request, if the response began before it was completely written.
    upload: Option<Box<Upload>>,
}

impl<S: TimedStream + 'static> WireBody<S> {
    /// The body of the exchange in progress.
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

    /// Adds the rest of the request, which is written while this is read.
    pub(super) fn with_upload(mut self, upload: Option<Box<Upload>>) -> Self {
        self.upload = upload;
        self
    }

    fn step(&mut self, line: &Line<S>, buf: &mut [u8]) -> Result<usize, Error> {
        // Checked before and after waiting for the lock: its holder may be ending this exchange.
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

    /// A step while the request is still being written: alternates between writing and reading.
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
                    // The answer is complete before the request was sent: the device is told that
                    // no more bytes follow.
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
                // The device takes no more bytes, but its answer may be complete.
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
            "reading a body: its exchange has ended; read a body before the next message",
        ))
    }

    /// Releases the line: returns an owned stream if it can be reused, or drops it, and reports the
    /// end. `error` is the reason for the end of the exchange.
    fn settle(&mut self, line: &Line<S>, error: Option<&Error>) {
        line.release(self.exchange);
        if let Some(settlement) = self.settlement.take() {
            let mut wire = line.lock();
            wire.whole = None;
            let stream = wire.take_reusable();
            drop(wire);
            settlement.settle(stream.map_err(|last| error.map(CloseReason::of_exchange).or(last)));
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
            // This is the only owner of the wire, so the lock is free. Only bytes that have arrived
            // are drained, so there is no wait.
            let mut wire = line.lock();
            let mut left = wire.limits.drain_bytes_max;
            if let Err(error) = wire.drain_inbox(&mut left) {
                log::debug!("a response that was dropped half-read: {error}");
            }
        }
        self.settle(&line, None);
    }
}
