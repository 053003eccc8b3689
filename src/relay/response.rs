//! The response on its way from the upstream to the downstream connection.

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::connections::{Connection, Fetched};
use crate::limits::Limits;
use crate::proto::body::{self, Decoder, Framing, Piece};
use crate::proto::forward::{self, ResponseRules};
use crate::proto::head::{self, ResponseHead};
use crate::relay::exchange::{Enclosing, Exchange};
use crate::relay::failure::{ExchangeError, lost_by, malformed};
use crate::relay::request::send_piece;
use crate::relay::rules::Rules;
use crate::relay::tunnel::Tunnel;

impl Exchange {
    pub(super) fn pump_response<T>(
        &mut self,
        downstream: Option<&mut Connection<T>>,
        link: &mut Connection<T>,
        scratch: &mut [u8],
        rules: &Rules,
        date: &str,
    ) -> Result<bool, ExchangeError> {
        let ahead = downstream.as_deref().map_or(0, Connection::pending);
        if self.response_is_whole() || ahead >= rules.limits.read_ahead_bytes_max.min(scratch.len())
        {
            return Ok(false);
        }
        if let Some(mut enclosing) = self.enclosing.take() {
            let pumped = self.pump_enclosed(&mut enclosing, downstream, link, scratch, rules, date);
            self.enclosing = Some(enclosing);
            return pumped;
        }
        if !link.has_input() {
            return Ok(false);
        }
        let kept = link.kept();
        let filled = match link.fetch(scratch, scratch.len()) {
            Ok(Fetched::Bytes(n)) if n > kept => n,
            Ok(Fetched::Bytes(n)) => {
                link.keep(&scratch[..n]);
                return match (link.at_end_of_stream(), link.has_failed()) {
                    (true, _) => self.response_ended(downstream).map(|()| true),
                    (_, true) => Err(self.lost(CloseCause::Reset.because("reset the connection"))),
                    _ => Ok(false),
                };
            }
            Ok(Fetched::Nothing) => return Ok(false),
            Ok(Fetched::End) => return self.response_ended(downstream).map(|()| true),
            Err(e) => return Err(self.lost(lost_by(&e, "lost the connection"))),
        };
        let stray = self.take_stray(&scratch[..filled]);
        if stray == filled || (stray == 0 && !self.began && scratch[..filled] == *b"\r") {
            link.keep(&scratch[stray..filled]); // a CR may have its LF yet
            return Ok(true);
        }
        self.began = true;
        self.unsent = !self.request.is_done() || link.pending() > 0;
        let used = stray + self.take_response(&scratch[stray..filled], downstream, rules, date)?;
        if !(self.tunnel.is_none()
            && self.response_is_whole()
            && head::are_line_ends(&scratch[used..filled]))
        {
            link.keep(&scratch[used..filled]);
        }
        Ok(true)
    }

    /// One line end before a response is nothing: it belongs to the one before it, and came late.
    pub(super) fn take_stray(&mut self, bytes: &[u8]) -> usize {
        let stray = match bytes {
            _ if self.began || self.strayed => 0,
            [b'\r', b'\n', ..] => 2,
            [b'\n', ..] => 1,
            _ => 0,
        };
        self.strayed |= stray > 0;
        stray
    }

    /// The same for a response that is the body of a POST: its framing comes off first.
    pub(super) fn pump_enclosed<T>(
        &mut self,
        enclosing: &mut Enclosing,
        mut downstream: Option<&mut Connection<T>>,
        link: &mut Connection<T>,
        scratch: &mut [u8],
        rules: &Rules,
        date: &str,
    ) -> Result<bool, ExchangeError> {
        self.began = true;
        if !enclosing.first.is_empty() {
            let first = std::mem::take(&mut enclosing.first);
            self.take_enclosed(&first, downstream, rules, date)?;
            return self.ends_with(enclosing).map(|()| true);
        }
        if !link.has_input() {
            return Ok(false);
        }
        let filled = match link.fetch(scratch, scratch.len()) {
            Ok(Fetched::Bytes(n)) => n,
            Ok(Fetched::Nothing) => return Ok(false),
            Ok(Fetched::End) => {
                return Err(ExchangeError::HandshakeError(
                    CloseCause::Cut.because("closed the connection in the middle of its answer"),
                ));
            }
            Err(e) => {
                return Err(ExchangeError::HandshakeError(lost_by(
                    &e,
                    "lost the connection in the middle of its answer",
                )));
            }
        };
        let mut used = 0;
        loop {
            let (n, piece) = enclosing.decoder.decode(&scratch[used..filled]).map_err(malformed)?;
            used += n;
            match piece {
                Piece::Data(data) => {
                    self.take_enclosed(data, downstream.as_deref_mut(), rules, date)?
                }
                Piece::More => return Ok(true),
                Piece::End => {
                    let behind = &scratch[used..filled];
                    if !head::are_line_ends(behind) {
                        link.keep(behind);
                    }
                    return self.ends_with(enclosing).map(|()| true);
                }
            }
        }
    }

    pub(super) fn take_enclosed<T>(
        &mut self,
        bytes: &[u8],
        downstream: Option<&mut Connection<T>>,
        rules: &Rules,
        date: &str,
    ) -> Result<(), ExchangeError> {
        match self.take_response(bytes, downstream, rules, date)? {
            used if used == bytes.len() => Ok(()),
            _ => Err(ExchangeError::HandshakeError(
                CloseCause::ProtocolError.because("posted more bytes than its response has"),
            )),
        }
    }

    /// A POST that is whole has brought a whole response.
    pub(super) fn ends_with(&self, enclosing: &Enclosing) -> Result<(), ExchangeError> {
        match enclosing.is_done() && !self.response.as_ref().is_some_and(Decoder::is_done) {
            true => Err(ExchangeError::HandshakeError(
                CloseCause::ProtocolError.because("posted fewer bytes than its response has"),
            )),
            false => Ok(()),
        }
    }

    pub(super) fn lost(&self, why: CloseReason) -> ExchangeError {
        match (self.began, self.request_cut) {
            (true, _) => ExchangeError::HandshakeError(why),
            (false, true) => ExchangeError::Silent(
                CloseCause::Cut.because("closed the connection while the request was written"),
            ),
            (false, false) => ExchangeError::Silent(why),
        }
    }

    pub(super) fn response_ended<T>(
        &mut self,
        downstream: Option<&mut Connection<T>>,
    ) -> Result<(), ExchangeError> {
        let Some(decoder) = &mut self.response else {
            return Err(
                self.lost(CloseCause::Cut.because("closed the connection before it answered"))
            );
        };
        decoder.finish_at_eof().map_err(|_| {
            ExchangeError::HandshakeError(
                CloseCause::Cut.because("closed the connection in the middle of its response"),
            )
        })?;
        match downstream {
            Some(downstream) if self.response_chunked => {
                body::last_chunk(downstream.output(), &[]).map_err(malformed)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn take_response<T>(
        &mut self,
        bytes: &[u8],
        mut downstream: Option<&mut Connection<T>>,
        rules: &Rules,
        date: &str,
    ) -> Result<usize, ExchangeError> {
        let mut used = 0;
        while self.response.is_none() {
            let read = if self.takes_events { head::event_response } else { head::response };
            let parsed =
                read(&bytes[used..], &rules.answer_limits, rules.ends).map_err(malformed)?;
            let Some(response) = parsed else {
                self.half_head = used < bytes.len();
                return Ok(used);
            };
            (self.half_head, self.head_since) = (false, None);
            used += response.len;
            self.take_head(&response, downstream.as_deref_mut(), rules, date)?;
        }
        if self.tunnel.is_some() {
            return Ok(used); // what follows is another protocol's
        }
        let Some(decoder) = &mut self.response else { return Ok(used) };
        loop {
            let (n, piece) = decoder.decode(&bytes[used..]).map_err(malformed)?;
            used += n;
            match (piece, downstream.as_deref_mut()) {
                (Piece::More, _) => return Ok(used),
                (Piece::Data(data), Some(downstream)) => {
                    self.observed.received(data.len());
                    send_piece(downstream, data, self.response_chunked)
                        .map_err(|_| ExchangeError::Asker)?
                }
                (Piece::Data(data), None) => {
                    self.drained += data.len();
                    if self.drained > rules.limits.drain_bytes_max {
                        return Err(ExchangeError::HandshakeError(
                            CloseCause::AskerGone
                                .because("had more of an abandoned response than is drained"),
                        ));
                    }
                }
                (Piece::End, downstream) => {
                    if let (true, Some(downstream)) = (self.response_chunked, downstream) {
                        let trailers = decoder.trailers();
                        body::last_chunk(downstream.output(), trailers).map_err(malformed)?;
                    }
                    return Ok(used);
                }
            }
        }
    }

    pub(super) fn take_head<T>(
        &mut self,
        response: &ResponseHead<'_>,
        downstream: Option<&mut Connection<T>>,
        rules: &Rules,
        date: &str,
    ) -> Result<(), ExchangeError> {
        if response.status == 101 {
            return self.switch(response, downstream, rules);
        }
        let interim = response.status < 200;
        if interim {
            self.informational += 1;
            if self.informational > rules.limits.informational_max {
                return Err(ExchangeError::HandshakeError(
                    CloseCause::ProtocolError
                        .because("sent more interim responses than informational_max"),
                ));
            }
        }
        let framing = body::of_response(response, self.method()).map_err(malformed)?;
        let old_asker = self.downstream_minor == 0;
        self.continued |= response.status == 100;
        if interim && (old_asker || downstream.is_none()) {
            return Ok(()); // RFC 9110 §15.2: an HTTP/1.0 client is never sent a 1xx
        }
        let outgoing = match framing {
            Framing::Chunked | Framing::UntilClose if old_asker => Framing::UntilClose,
            Framing::UntilClose => Framing::Chunked,
            other => other,
        };
        if !interim {
            self.observed.answered(response.status);
            self.challenged = head::has_bound_login(&response.fields);
            // An HTTP/1.0 answer ends the link, whatever it says (protocol.md §3). So does one
            // before the request was out: a server that reads no body takes the rest of it for its
            // next request, and answers that to whoever comes next.
            self.upstream_keeps = response.minor > 0
                && (self.upstream_reads_on || !self.unsent)
                && head::keeps_alive(response.minor, &response.fields)
                && framing != Framing::UntilClose;
            self.downstream_keeps &=
                outgoing != Framing::UntilClose && self.rest_is_short(&rules.limits);
            self.response_chunked = outgoing == Framing::Chunked;
            self.response_until_close = outgoing == Framing::UntilClose;
            self.response = Some(Decoder::new(framing, &rules.answer_limits).line_ends(rules.ends));
        }
        let Some(downstream) = downstream else { return Ok(()) };
        let location =
            self.alias.as_ref().and_then(|alias| alias.undo(response.fields.get("location")?));
        let renamed =
            location.as_ref().map(|location| response.with_value("location", location.as_bytes()));
        let response = renamed.as_ref().unwrap_or(response);
        let rules = ResponseRules {
            via: rules.via.as_deref(),
            close: !interim && !self.downstream_keeps,
            keep_alive: !interim && old_asker && self.downstream_keeps,
            date: Some(date).filter(|date| !interim && !date.is_empty()),
            upgrade: false,
        };
        forward::response(downstream.output(), response, outgoing, self.method(), &rules)
            .map_err(malformed)?;
        self.answered |= !interim;
        Ok(())
    }

    /// Returns true if what is still to come of the request can be read though its response is
    /// here; else the response says that the connection ends (RFC 9110 §10.1.1, RFC 9112 §9.6).
    /// Whether who waits for a 100 will send its body, nobody can tell.
    pub(super) fn rest_is_short(&self, limits: &Limits) -> bool {
        let invited = !self.expects_continue || self.continued || self.body_moved;
        self.request.is_done()
            || (invited
                && self
                    .request
                    .remaining()
                    .is_some_and(|left| left <= limits.drain_bytes_max as u64))
    }

    /// 101: from here on the bytes are another protocol's, both ways.
    pub(super) fn switch<T>(
        &mut self,
        response: &ResponseHead<'_>,
        downstream: Option<&mut Connection<T>>,
        rules: &Rules,
    ) -> Result<(), ExchangeError> {
        let Some(downstream) =
            downstream.filter(|_| self.wants_upgrade && self.enclosing.is_none())
        else {
            return Err(ExchangeError::HandshakeError(
                CloseCause::ProtocolError.because("switched protocols without being asked"),
            ));
        };
        if response.minor == 0 || response.fields.get("Upgrade").is_none() {
            return Err(ExchangeError::HandshakeError(
                CloseCause::ProtocolError.because("switched protocols without saying to which"),
            ));
        }
        let rules = ResponseRules {
            via: rules.via.as_deref(),
            close: false,
            keep_alive: false,
            date: None,
            upgrade: true,
        };
        forward::response(downstream.output(), response, Framing::Empty, self.method(), &rules)
            .map_err(malformed)?;
        (self.answered, self.tunnel) = (true, Some(Tunnel::default()));
        self.observed.answered(response.status);
        self.response = Some(Decoder::new(Framing::Empty, &Limits::default()));
        self.forget_request();
        Ok(())
    }
}
