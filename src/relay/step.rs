//! One step of an exchange: bytes move as far as both connections allow.

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::connections::Connection;
use crate::relay::exchange::Exchange;
use crate::relay::failure::ExchangeError;
use crate::relay::rules::Rules;

/// Steps of one `advance` before the other connections of the loop get their turn.
const STEPS_MAX: usize = 4;

/// How a step left an exchange.
pub(super) enum Step {
    /// It waits for one of its connections.
    Pending,
    /// It could go on; others first.
    Again,
    /// The response was read to its end; `Err` says why the upstream connection cannot be used
    /// again.
    LinkDone(Result<(), CloseReason>),
    /// The downstream side has everything.
    Finished,
    /// A tunnel has ended, in both directions or by a failure.
    TunnelEnds(CloseReason),
}

impl Exchange {
    pub(super) fn step<T>(
        &mut self,
        mut downstream: Option<&mut Connection<T>>,
        mut upstream: Option<&mut Connection<T>>,
        scratch: &mut [u8],
        rules: &Rules,
        date: &str,
    ) -> Result<Step, ExchangeError> {
        for _ in 0..STEPS_MAX {
            let mut moved = false;
            if let (Some(tunnel), Some(downstream), Some(link)) =
                (&mut self.tunnel, downstream.as_deref_mut(), upstream.as_deref_mut())
            {
                let before = (link.written(), downstream.written());
                let stepped = tunnel.step(downstream, link, scratch, rules);
                self.observed.sent((link.written() - before.0) as usize);
                self.observed.received((downstream.written() - before.1) as usize);
                match stepped {
                    Ok(true) if downstream.has_paused() || link.has_paused() => {
                        return Ok(Step::Again);
                    }
                    Ok(true) => continue,
                    Ok(false) => return Ok(tunnel.end().map_or(Step::Pending, Step::TunnelEnds)),
                    Err(why) => return Ok(Step::TunnelEnds(why)),
                }
            }
            if let Some(link) = upstream.as_deref_mut() {
                match downstream.as_deref_mut() {
                    Some(downstream) => moved |= self.pump_request(downstream, link, scratch)?,
                    None if link.flush().is_err() => self.cut_request(link),
                    None => {}
                }
                let reader = downstream.as_deref_mut().filter(|_| !self.downstream_deaf);
                moved |= self.pump_response(reader, link, scratch, rules, date)?;
            }
            if let Some(downstream) = downstream.as_deref_mut() {
                let written = downstream.written();
                if downstream.is_broken() || downstream.flush().is_err() {
                    self.asker_is_deaf(downstream)?;
                }
                moved |= downstream.written() != written;
            }
            if self.tunnel.is_some() {
                continue;
            }
            if self.response_is_whole() {
                let sends_rest = self.awaits_rest() && self.upstream_keeps && !self.request_cut;
                match (upstream.as_deref(), downstream.as_deref_mut()) {
                    (Some(link), _) if !sends_rest => {
                        return Ok(Step::LinkDone(self.reusable(link)));
                    }
                    (None, Some(downstream)) if self.awaits_rest() => {
                        moved |= self.drop_rest(downstream, scratch)
                    }
                    _ => {}
                }
                match moved {
                    _ if !self.awaits_rest() && upstream.is_none() => {}
                    true => continue,
                    false => return Ok(Step::Pending),
                }
                if downstream.is_none_or(|downstream| downstream.pending() == 0) {
                    return Ok(Step::Finished);
                }
                return Ok(Step::Pending);
            }
            if !moved {
                return Ok(Step::Pending);
            }
            if [&downstream, &upstream].into_iter().flatten().any(|peer| peer.has_paused()) {
                break;
            }
        }
        Ok(Step::Again)
    }

    pub(super) fn reusable<T>(&self, link: &Connection<T>) -> Result<(), CloseReason> {
        if self.enclosing.is_some() {
            return Ok(()); // the POST is whole; what its connection is good for is said in its own head
        }
        if !self.upstream_keeps {
            let early = self.unsent && !self.upstream_reads_on;
            Err(CloseCause::LastMessage.because(match early {
                true => "it answered before it had the whole request",
                false => "its response said so",
            }))
        } else if !self.request.is_done() || self.request_cut {
            Err(CloseCause::LastMessage.because("it answered before it had the whole request"))
        } else if link.at_end_of_stream() || link.is_broken() || link.has_failed() {
            Err(CloseCause::Closed.because("behind its response"))
        } else if link.kept() > 0 {
            Err(CloseCause::ProtocolError.because("bytes came after a complete response"))
        } else if link.pending() > 0 {
            Err(CloseCause::LastMessage
                .because("it answered before it had taken the whole request"))
        } else {
            Ok(())
        }
    }

    /// Returns true while a short rest of a request is read whose response is whole: its response
    /// did not say that its connection ends.
    pub(super) fn awaits_rest(&self) -> bool {
        self.downstream_keeps
            && self.downstream.is_some()
            && self.tunnel.is_none()
            && !self.request.is_done()
            && self.response_is_whole()
    }
}
