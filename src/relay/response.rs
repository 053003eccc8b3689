//! The response on its way from the upstream to the downstream connection. Interim responses are
//! counted and passed on. A 101 makes a tunnel, or is refused if the request did not offer an
//! upgrade.

use std::time::Instant;

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::connection::{Connection, Fetched};
use crate::http_date::{DateText, date_now};
use crate::observe::Observed;
use crate::proto::body::{self, Decoder, Framing, Piece};
use crate::proto::bound_login;
use crate::proto::edits::FieldEdits;
use crate::proto::forward::{self, ResponseRules};
use crate::proto::head::{self, ResponseHead};
use crate::proto::peer::{self, Miss};
use crate::relay::exchange::Exchange;
use crate::relay::failure::{ExchangeError, lost_by, malformed, refuses_certificate};
use crate::relay::phase::{Phase, Receiving, Upstream};
use crate::relay::request::{Content, Invitation, send_piece};
use crate::relay::rules::Rules;
use crate::relay::tunnel::Tunnel;

/// The circumstances of a step.
pub(super) struct Context<'a> {
    pub(super) rules: &'a Rules,
    pub(super) now: Instant,
}

impl Exchange {
    /// Moves the part of the response that has arrived. `downstream` is the connection to which it
    /// goes, unless the client has left. Returns true if bytes moved.
    pub(super) fn pump_response<T>(
        &mut self,
        downstream: Option<&mut Connection<T>>,
        link: &mut Connection<T>,
        scratch: &mut [u8],
        context: &Context<'_>,
    ) -> Result<bool, ExchangeError> {
        let ahead = downstream.as_deref().map_or(0, Connection::pending);
        let most_ahead = context.rules.limits.read_ahead_bytes_max.min(scratch.len());
        if self.phase.is_whole() || ahead >= most_ahead {
            return Ok(false);
        }
        if self.phase.enclosing().is_some() {
            return self.pump_enclosed(downstream, link, scratch, context);
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
            Err(e) if self.is_hop() && !self.beginning.has_begun && refuses_certificate(&e) => {
                self.hop.alert = e.to_string().into();
                return Err(ExchangeError::Missed(Miss::Untrusted));
            }
            Err(e) => return Err(self.lost(lost_by(&e, "lost the connection"))),
        };
        let stray = self.beginning.take_stray(&scratch[..filled]);
        let lone_cr = stray == 0 && !self.beginning.has_begun && scratch[..filled] == *b"\r";
        if stray == filled || lone_cr {
            link.keep(&scratch[stray..filled]); // the LF of a CR may still follow
            return Ok(true);
        }
        self.beginning.has_begun = true;
        self.beginning.is_early = !self.request.body.is_done() || link.pending() > 0;
        let used = stray + self.take_response(&scratch[stray..filled], downstream, context)?;
        if !(self.phase.is_whole() && head::are_line_ends(&scratch[used..filled])) {
            link.keep(&scratch[used..filled]);
        }
        Ok(true)
    }

    /// The same for a response that is the body of a POST: the POST's framing is removed first.
    fn pump_enclosed<T>(
        &mut self,
        mut downstream: Option<&mut Connection<T>>,
        link: &mut Connection<T>,
        scratch: &mut [u8],
        context: &Context<'_>,
    ) -> Result<bool, ExchangeError> {
        self.beginning.has_begun = true;
        let first =
            self.phase.enclosing().map_or(Vec::new(), |post| std::mem::take(&mut post.first));
        if !first.is_empty() {
            self.take_enclosed(&first, downstream, context)?;
            return self.ends_with_post().map(|()| true);
        }
        if !link.has_input() {
            return Ok(false);
        }
        let filled = match link.fetch(scratch, scratch.len()) {
            Ok(Fetched::Bytes(n)) => n,
            Ok(Fetched::Nothing) => return Ok(false),
            Ok(Fetched::End) => {
                return Err(ExchangeError::Upstream(
                    CloseCause::Cut.because("closed the connection in the middle of its answer"),
                ));
            }
            Err(e) => {
                let told = "lost the connection in the middle of its answer";
                return Err(ExchangeError::Upstream(lost_by(&e, told)));
            }
        };
        let mut used = 0;
        while let Some(post) = self.phase.enclosing() {
            let (n, piece) = post.decoder.decode(&scratch[used..filled]).map_err(malformed)?;
            used += n;
            match piece {
                Piece::Data(data) => {
                    self.take_enclosed(data, downstream.as_deref_mut(), context)?;
                }
                Piece::More => return Ok(true),
                Piece::End => {
                    let behind = &scratch[used..filled];
                    if !head::are_line_ends(behind) {
                        link.keep(behind);
                    }
                    return self.ends_with_post().map(|()| true);
                }
            }
        }
        Ok(true)
    }

    fn take_enclosed<T>(
        &mut self,
        bytes: &[u8],
        downstream: Option<&mut Connection<T>>,
        context: &Context<'_>,
    ) -> Result<(), ExchangeError> {
        match self.take_response(bytes, downstream, context)? {
            used if used == bytes.len() => Ok(()),
            _ => Err(ExchangeError::violation("posted more bytes than its response has")),
        }
    }

    /// The POST has ended; checks that its response has, too.
    fn ends_with_post(&mut self) -> Result<(), ExchangeError> {
        let post_is_done = self.phase.enclosing().is_none_or(|post| post.is_done());
        match post_is_done && !self.phase.is_whole() {
            true => Err(ExchangeError::violation("posted fewer bytes than its response has")),
            false => Ok(()),
        }
    }

    /// The upstream connection is lost.
    fn lost(&self, why: CloseReason) -> ExchangeError {
        if self.beginning.has_begun {
            ExchangeError::Upstream(why)
        } else if self.request.is_cut() {
            ExchangeError::Silent(
                CloseCause::Cut.because("closed the connection while the request was written"),
            )
        } else {
            ExchangeError::Silent(why)
        }
    }

    fn response_ended<T>(
        &mut self,
        downstream: Option<&mut Connection<T>>,
    ) -> Result<(), ExchangeError> {
        let Some(response) = self.phase.receiving_mut() else {
            return Err(
                self.lost(CloseCause::Cut.because("closed the connection before it answered"))
            );
        };
        response.body.finish_at_eof().map_err(|_| {
            ExchangeError::Upstream(
                CloseCause::Cut.because("closed the connection in the middle of its response"),
            )
        })?;
        match downstream {
            Some(downstream) if response.framing == Framing::Chunked => {
                body::last_chunk(downstream.output(), &[]).map_err(malformed)
            }
            _ => Ok(()),
        }
    }

    /// Processes bytes of a response; returns how many of them belong to it.
    pub(super) fn take_response<T>(
        &mut self,
        bytes: &[u8],
        mut downstream: Option<&mut Connection<T>>,
        context: &Context<'_>,
    ) -> Result<usize, ExchangeError> {
        let rules = context.rules;
        let mut used = 0;
        while !self.phase.has_head() {
            let beginning = &mut self.beginning;
            let read = if beginning.takes_events { head::event_response } else { head::response };
            let parsed =
                read(&bytes[used..], &rules.answer_limits, rules.ends).map_err(malformed)?;
            let Some(response) = parsed else {
                let is_half = used < bytes.len();
                beginning.half_since = is_half.then(|| beginning.half_since.unwrap_or(context.now));
                return Ok(used);
            };
            beginning.half_since = None;
            used += response.len;
            self.take_head(&response, downstream.as_deref_mut(), context)?;
        }
        match self.phase.receiving_mut() {
            Some(response) => {
                let drain_most = rules.limits.drain_bytes_max;
                let (body, edits) = (&bytes[used..], self.edits.as_deref());
                let observed = &mut self.observed;
                Ok(used + response.pass_on(body, downstream, drain_most, observed, edits)?)
            }
            None => Ok(used), // the following bytes belong to another protocol
        }
    }

    fn take_head<T>(
        &mut self,
        response: &ResponseHead<'_>,
        downstream: Option<&mut Connection<T>>,
        context: &Context<'_>,
    ) -> Result<(), ExchangeError> {
        let is_last = response.status == 101 || response.status >= 200;
        let miss =
            (self.is_hop() && is_last).then(|| peer::miss(response.status, &response.fields));
        if let Some(miss) = miss.flatten() {
            return Err(ExchangeError::Missed(miss));
        }
        match response.status {
            101 => self.switch(response, downstream, context.rules),
            ..200 => self.take_interim(response, downstream, context.rules),
            _ => self.take_final(response, downstream, context),
        }
    }

    fn take_interim<T>(
        &mut self,
        response: &ResponseHead<'_>,
        downstream: Option<&mut Connection<T>>,
        rules: &Rules,
    ) -> Result<(), ExchangeError> {
        let counted = self.beginning.interim.count(&rules.limits);
        counted.map_err(|e| ExchangeError::violation(e.reason))?;
        let framing = body::of_response(response, self.request.method()).map_err(malformed)?;
        if response.status == 100 && self.request.invitation == Invitation::Awaited {
            self.request.invitation = Invitation::Over;
        }
        // RFC 9110 §15.2: an HTTP/1.0 client is never sent a 1xx.
        let Some(downstream) = downstream.filter(|_| !self.caller.is_old()) else { return Ok(()) };
        if self.is_hop() && !peer::is_served(&response.fields) {
            return Ok(()); // a gateway would not send this
        }
        let own_cookie = self.own_cookie;
        let edits = self.edits.as_deref().filter(|edits| edits.are_own());
        let head_rules = ResponseRules { own_cookie, edits, ..interim_rules(rules) };
        self.write_head(downstream, response, framing, &head_rules)
    }

    fn take_final<T>(
        &mut self,
        response: &ResponseHead<'_>,
        downstream: Option<&mut Connection<T>>,
        context: &Context<'_>,
    ) -> Result<(), ExchangeError> {
        let rules = context.rules;
        let framing = body::of_response(response, self.request.method()).map_err(malformed)?;
        let is_old = self.caller.is_old();
        let outgoing = match framing {
            Framing::Chunked | Framing::UntilClose if is_old => Framing::UntilClose,
            Framing::UntilClose => Framing::Chunked,
            other => other,
        };
        self.observed.answered(response.status);
        self.request.kept = None;
        self.is_challenged = bound_login::has_bound_login(&response.fields);
        self.may_leave_body = match self.request.content {
            Content::Absent => false,
            Content::Expected => !(200..300).contains(&response.status),
            Content::Unexpected => true,
        };
        let goes_on = outgoing != Framing::UntilClose && self.request.rest_is_short(&rules.limits);
        let keeps = self.caller.client_mut().is_none_or(|client| {
            client.keeps &= goes_on;
            client.keeps
        });
        self.phase.receive(Receiving {
            from: None,
            body: Decoder::new(framing, &rules.answer_limits).line_ends(rules.ends),
            framing: outgoing,
            is_told: false,
            is_delivered: false,
            link_ends: self.why_link_ends(response, framing, rules),
            drained: 0,
            held: None,
        });
        let Some(downstream) = downstream else { return Ok(()) };
        let lacks_date = rules.add_date && response.fields.get("date").is_none();
        let date = if lacks_date { date_now() } else { None };
        let head_rules = ResponseRules {
            close: !keeps,
            keep_alive: is_old && keeps,
            date: date.as_ref().map(DateText::as_str),
            edits: self.edits.as_deref(),
            alias: self.alias.as_deref(),
            own_cookie: self.own_cookie,
            ..interim_rules(rules)
        };
        self.write_head(downstream, response, outgoing, &head_rules)?;
        self.phase.receiving_mut().into_iter().for_each(|response| response.is_told = true);
        Ok(())
    }

    /// Why the upstream connection is not used again after this response. A response in HTTP/1.0
    /// always ends the link (protocol.md §3). So does one that came before the whole request was
    /// sent: a server that does not read the body takes the rest of it for its next request, and
    /// its answer to that would go to the next visitor. The same may happen with a complete body if
    /// requests of this method usually have none.
    fn why_link_ends(
        &self,
        response: &ResponseHead<'_>,
        framing: Framing,
        rules: &Rules,
    ) -> Option<&'static str> {
        if self.beginning.is_early && !self.upstream_reads_on {
            return Some("it answered before it had the whole request");
        }
        let is_unexpected = self.request.content == Content::Unexpected;
        if is_unexpected && rules.upstream_is_link && !self.upstream_reads_on {
            return Some("it may have left the body of such a request unread");
        }
        let keeps = response.minor > 0
            && head::keeps_alive(response.minor, &response.fields)
            && framing != Framing::UntilClose;
        (!keeps).then_some("its response said so")
    }

    /// 101: from here on the bytes in both directions belong to another protocol.
    fn switch<T>(
        &mut self,
        response: &ResponseHead<'_>,
        downstream: Option<&mut Connection<T>>,
        rules: &Rules,
    ) -> Result<(), ExchangeError> {
        let link = match self.phase.upstream() {
            Some(Upstream::Link { id, .. }) => Some(*id),
            _ => None,
        };
        let (Some(downstream), Some(link), Some(offered)) =
            (downstream, link, &self.request.offered)
        else {
            return Err(ExchangeError::violation("switched protocols without being asked"));
        };
        if response.minor == 0 {
            return Err(ExchangeError::violation("switched protocols in HTTP/1.0"));
        }
        offered.check_switch(response.fields.list("upgrade")).map_err(ExchangeError::violation)?;
        let head_rules = ResponseRules {
            upgrade: true,
            edits: self.edits.as_deref(),
            alias: self.alias.as_deref(),
            own_cookie: self.own_cookie,
            ..interim_rules(rules)
        };
        self.write_head(downstream, response, Framing::Empty, &head_rules)?;
        self.phase = Phase::Tunnel { link, tunnel: Tunnel::default() };
        self.observed.answered(response.status);
        self.request.forget();
        Ok(())
    }

    /// Writes a forwarded head.
    fn write_head<T>(
        &self,
        downstream: &mut Connection<T>,
        response: &ResponseHead<'_>,
        framing: Framing,
        rules: &ResponseRules<'_>,
    ) -> Result<(), ExchangeError> {
        forward::response(downstream.output(), response, framing, self.request.method(), rules)
            .map_err(malformed)
    }
}

impl Receiving {
    /// Passes on the part of the body in `bytes`, reframed, without edited trailers. Returns how
    /// many of the bytes belong to the body.
    fn pass_on<T>(
        &mut self,
        bytes: &[u8],
        mut downstream: Option<&mut Connection<T>>,
        drain_most: usize,
        observed: &mut Observed,
        edits: Option<&FieldEdits>,
    ) -> Result<usize, ExchangeError> {
        let mut used = 0;
        loop {
            let (n, piece) = self.body.decode(&bytes[used..]).map_err(malformed)?;
            used += n;
            match (piece, downstream.as_deref_mut()) {
                (Piece::More, _) => return Ok(used),
                (Piece::Data(data), Some(downstream)) => {
                    observed.received(data.len());
                    send_piece(downstream, data, self.framing)
                        .map_err(|_| ExchangeError::ClientGone)?;
                }
                (Piece::Data(data), None) => {
                    self.drained += data.len();
                    if self.drained > drain_most {
                        return Err(ExchangeError::Upstream(
                            CloseCause::CallerGone
                                .because("had more of an abandoned response than is drained"),
                        ));
                    }
                }
                (Piece::End, downstream) => {
                    if let (Framing::Chunked, Some(downstream)) = (self.framing, downstream) {
                        edits.into_iter().for_each(|edits| edits.drop_trailers(&mut self.body));
                        body::last_chunk(downstream.output(), self.body.trailers())
                            .map_err(malformed)?;
                    }
                    return Ok(used);
                }
            }
        }
    }
}

/// The changes to the head of every response. An interim response has no others.
fn interim_rules<'a>(rules: &'a Rules) -> ResponseRules<'a> {
    ResponseRules {
        via: rules.via.as_deref(),
        close: false,
        keep_alive: false,
        date: None,
        upgrade: false,
        edits: None,
        alias: None,
        own_cookie: None,
    }
}
