//! One step of an exchange: bytes move as far as both connections allow.

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::connection::{Connection, Fetched};
use crate::engine::event_loop::SHARE;
use crate::relay::exchange::Exchange;
use crate::relay::failure::ExchangeError;
use crate::relay::phase::{Phase, Upstream};
use crate::relay::request::Upload;
use crate::relay::response::Context;

/// Steps of one `advance` before the other connections of the loop get their turn, unless
/// [`SHARE`] is used up earlier.
const STEPS_MAX: usize = 4;

/// The result of a step.
#[derive(Debug)]
pub(super) enum Step {
    /// It waits for one of its connections.
    Pending,
    /// It could go on, but other connections have their turn first.
    Again,
    /// The response was read to its end; `Err` says why the upstream connection cannot be used
    /// again.
    LinkDone(Result<(), CloseReason>),
    /// The downstream side has the whole response.
    Finished,
    /// A tunnel has ended, in both directions or by a failure.
    TunnelEnds(CloseReason),
}

/// The connections that an exchange has now.
pub(super) struct Ends<'a, T> {
    pub(super) downstream: Option<&'a mut Connection<T>>,
    pub(super) upstream: Option<&'a mut Connection<T>>,
}

impl<T> Ends<'_, T> {
    /// Returns true if the last read of one of them stopped before the end of its input.
    fn have_paused(&self) -> bool {
        let ends = [&self.downstream, &self.upstream];
        ends.into_iter().flatten().any(|connection| connection.has_paused())
    }

    /// The number of bytes that both have moved so far.
    fn traffic(&self) -> u64 {
        let ends = [&self.downstream, &self.upstream];
        ends.into_iter().flatten().map(|connection| connection.traffic()).sum()
    }
}

impl Exchange {
    pub(super) fn step<T>(
        &mut self,
        mut ends: Ends<'_, T>,
        scratch: &mut [u8],
        context: &Context<'_>,
    ) -> Result<Step, ExchangeError> {
        let end = ends.traffic() + 2 * SHARE as u64; // each byte counts twice: read and written
        for _ in 0..STEPS_MAX {
            let left = match self.is_tunnel() {
                true => self.move_tunnel(&mut ends, scratch, context),
                false => {
                    let moved = self.move_messages(&mut ends, scratch, context)?;
                    self.conclude(&mut ends, moved, scratch)
                }
            };
            match left {
                Some(step) => return Ok(step),
                None if ends.have_paused() || ends.traffic() >= end => break,
                None => {}
            }
        }
        Ok(Step::Again)
    }

    /// `None`: bytes moved, and there may be more.
    fn move_tunnel<T>(
        &mut self,
        ends: &mut Ends<'_, T>,
        scratch: &mut [u8],
        context: &Context<'_>,
    ) -> Option<Step> {
        let (Phase::Tunnel { tunnel, .. }, Some(downstream), Some(link)) =
            (&mut self.phase, ends.downstream.as_deref_mut(), ends.upstream.as_deref_mut())
        else {
            return Some(Step::Pending);
        };
        let written = (link.written(), downstream.written());
        let stepped = tunnel.step(downstream, link, scratch, context.rules);
        self.observed.sent((link.written() - written.0) as usize);
        self.observed.received((downstream.written() - written.1) as usize);
        match stepped {
            Ok(true) => None,
            Ok(false) => {
                Some(tunnel.end(link, context.rules).map_or(Step::Pending, Step::TunnelEnds))
            }
            Err(why) => Some(Step::TunnelEnds(why)),
        }
    }

    /// Moves the bytes of request and response that are there. Returns true if bytes moved.
    fn move_messages<T>(
        &mut self,
        ends: &mut Ends<'_, T>,
        scratch: &mut [u8],
        context: &Context<'_>,
    ) -> Result<bool, ExchangeError> {
        let mut moved = false;
        let is_deaf = self.caller.client().is_some_and(|client| client.is_deaf);
        if let Some(link) = ends.upstream.as_deref_mut() {
            match ends.downstream.as_deref_mut() {
                Some(downstream) => {
                    let (before, answered) = (self.phase.before(), self.is_answered());
                    let passed = self.request.passed;
                    let pumped = self.request.pump(downstream, link, scratch, before, answered);
                    self.observed.sent(self.request.passed - passed);
                    moved |= pumped?;
                }
                None if link.flush().is_err() => self.request.cut(link),
                None => {}
            }
            let reader = ends.downstream.as_deref_mut().filter(|_| !is_deaf);
            moved |= self.pump_response(reader, link, scratch, context)?;
        }
        if let Some(downstream) = ends.downstream.as_deref_mut() {
            let written = downstream.written();
            if downstream.is_broken() || downstream.flush().is_err() {
                self.client_is_deaf(downstream)?;
            }
            moved |= downstream.written() != written;
        }
        Ok(moved)
    }

    /// The result when no more bytes can be moved now. `None`: the step goes on.
    fn conclude<T>(
        &mut self,
        ends: &mut Ends<'_, T>,
        moved: bool,
        scratch: &mut [u8],
    ) -> Option<Step> {
        if self.is_tunnel() {
            return None;
        }
        if !self.phase.is_whole() {
            return (!moved).then_some(Step::Pending);
        }
        let is_sent = |ends: &Ends<'_, T>| {
            ends.downstream.as_ref().is_none_or(|downstream| downstream.pending() == 0)
        };
        let reads = self.caller.client().is_some_and(|client| !client.is_deaf);
        let delivered = reads && ends.downstream.is_some() && is_sent(ends);
        let link_keeps = self.phase.receiving_mut().is_some_and(|response| {
            response.is_delivered |= delivered;
            response.link_ends.is_none()
        });
        let sends_rest = self.awaits_rest() && link_keeps && !self.request.is_cut();
        let mut moved = moved;
        match (ends.upstream.as_deref(), ends.downstream.as_deref_mut()) {
            (Some(link), _) if !sends_rest => return Some(Step::LinkDone(self.reusable(link))),
            (None, Some(downstream)) if self.awaits_rest() => {
                moved |= self.drop_rest(downstream, scratch);
            }
            _ => {}
        }
        if self.awaits_rest() || ends.upstream.is_some() {
            return (!moved).then_some(Step::Pending);
        }
        Some(if is_sent(ends) { Step::Finished } else { Step::Pending })
    }

    /// The one place that decides whether the upstream connection can be used for another request.
    fn reusable<T>(&self, link: &Connection<T>) -> Result<(), CloseReason> {
        if matches!(self.phase.upstream(), Some(Upstream::Post { .. })) {
            return Ok(()); // the POST is complete; its own head says whether its connection is kept
        }
        if let Some(why) = self.phase.receiving().and_then(|response| response.link_ends) {
            Err(CloseCause::LastMessage.because(why))
        } else if !self.request.body.is_done() || self.request.is_cut() {
            Err(CloseCause::LastMessage.because("it answered before it had the whole request"))
        } else if self.hop.is_ended {
            Err(CloseCause::LastMessage.because("it was told that its visitor ends"))
        } else if link.at_end_of_stream() || link.is_broken() || link.has_failed() {
            Err(CloseCause::Closed.because("after its response"))
        } else if link.kept() > 0 {
            Err(CloseCause::ProtocolError.because("bytes came after a complete response"))
        } else if link.pending() > 0 {
            Err(CloseCause::LastMessage
                .because("it answered before it had taken the whole request"))
        } else {
            Ok(())
        }
    }

    /// Reads and drops the rest of a request that the upstream connection does not take. Returns
    /// true if bytes were read.
    fn drop_rest<T>(&mut self, downstream: &mut Connection<T>, scratch: &mut [u8]) -> bool {
        let most = self.request.body.remaining().map_or(0, |_| self.request.readable(scratch));
        let filled = match downstream.fetch(scratch, most) {
            Ok(Fetched::Bytes(n)) => n,
            Ok(Fetched::Nothing) => return false,
            Ok(Fetched::End) | Err(_) => {
                self.caller.client_mut().into_iter().for_each(|client| client.keeps = false);
                return true;
            }
        };
        self.request.upload = Upload::Cut;
        let decoded = self.request.body.decode(&scratch[..filled]);
        let dropped = decoded.map_or(filled, |(used, _)| used); // of known length, so one piece
        downstream.keep(&scratch[dropped..filled]);
        true
    }

    /// The downstream side no longer reads. If its request is complete, the exchange goes on.
    fn client_is_deaf<T>(&mut self, downstream: &mut Connection<T>) -> Result<(), ExchangeError> {
        downstream.drop_output();
        let has_link = self.upstream().is_some();
        let is_over = self.request.body.is_done() || self.request.is_cut() || downstream.is_over();
        let Some(client) = self.caller.client_mut().filter(|_| has_link && !is_over) else {
            return Err(ExchangeError::ClientGone);
        };
        if !std::mem::replace(&mut client.is_deaf, true) {
            downstream.look_again();
        }
        Ok(())
    }
}
