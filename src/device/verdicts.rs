//! The offer on a connection, the verdict on it, and the consequences of each verdict.

use std::sync::Arc;

use crate::device::backoff::{random, retry_after};
use crate::device::dial_stages::{Dial, PACE, QUICK_MAX, Stage};
use crate::device::events::DeviceEventKind;
use crate::device::group::Standing;
use crate::device::plan::OnRefusal;
use crate::device::reply::ReplyHead;
use crate::device::role::DeviceRole;
use crate::device::state::{State, States, dial_stage, printable};
use crate::device::url::Reach;
use crate::engine::connection::Fetched;
use crate::engine::connections::{Connections, Id};
use crate::error::{Error, Fault};
use crate::proto::body::Framing;
use crate::proto::fields;
use crate::proto::head::{LineEnds, ResponseHead};
use crate::proto::turn::Fallback;
use crate::proto::verdict::Verdict;
use crate::proto::{body, comet, head, turn, verdict};
use crate::setting::{BEARER_TOKEN, DIALECT, FALLBACK};

/// Added to a refusal without the mark of our gateways.
const UNMARKED: &str = "the answer is not marked as the gateway's own (Proxy-Status: ptth); it may come from a load balancer or proxy in front of it, or this is not a gateway";

/// An offer without a complete answer. `silent` means that no byte of one arrived.
struct Unanswered {
    silent: bool,
    pub(super) why: String,
}

impl From<String> for Unanswered {
    fn from(why: String) -> Self {
        Unanswered { silent: false, why }
    }
}

/// `sent` means that the whole request was written; `behind` are the bytes after the head.
fn reply_head(response: &ResponseHead<'_>, sent: bool, behind: &[u8]) -> ReplyHead {
    const SAID_MAX: u64 = 200;
    let framing = body::of_response(response, "POST");
    let said = match framing {
        Ok(Framing::Length(n)) if n <= SAID_MAX && behind.len() as u64 >= n => {
            &behind[..n as usize]
        }
        _ => &[],
    };
    let keep = sent
        && framing != Ok(Framing::UntilClose)
        && head::keeps_alive(response.minor, &response.fields);
    let fields = &response.fields;
    let wants_token = response.status == 401
        && fields.list("www-authenticate").any(|challenge| first_word(challenge, b"Bearer"));
    ReplyHead {
        marked: turn::is_marked(fields) || wants_token,
        details: turn::details(fields).filter(|_| turn::is_marked(fields)).map(str::to_owned),
        coding: fields::coding(fields).map(printable),
        retry_after: retry_after(fields),
        status: response.status,
        keep,
        sent,
        framing,
        id: comet::id_of(&response.fields).map(|id| id.map(str::to_owned)),
        said: printable(said),
    }
}

/// Returns true if a challenge is of this scheme.
fn first_word(challenge: &[u8], scheme: &[u8]) -> bool {
    challenge
        .split(|&byte| byte == b' ')
        .next()
        .is_some_and(|word| word.eq_ignore_ascii_case(scheme))
}

impl DeviceRole {
    /// The gateway sent bytes or closed although there was no request: this connection cannot be
    /// used.
    pub(super) fn spoke_unasked(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(dial) = cx.dial(id) else { return };
        match dial.slot {
            Some(key) => self.lost_between(cx, key),
            None => dial_stage(cx, id, Stage::Pausing { keep: false }), // its pause continues
        }
    }

    /// The pause of an offer has expired.
    pub(super) fn paused(&mut self, cx: &mut Connections<State>, id: Id, keep: bool) {
        if keep {
            return self.offer(cx, id);
        }
        let Some((_, _, State::Dial(dial))) = cx.remove(id) else { return };
        let next =
            Dial { quick: dial.quick, ..Dial::new(dial.url, dial.gateway, dial.redirects, None) };
        self.resolve(cx, Box::new(next));
    }

    pub(super) fn read_verdict(&mut self, cx: &mut Connections<State>, id: Id) {
        let mut scratch = cx.take_scratch();
        let verdict = self.next_verdict(cx, id, &mut scratch);
        cx.put_scratch(scratch);
        match verdict {
            Ok(None) => {}
            Ok(Some((verdict, reply))) => self.handle_verdict(cx, id, verdict, reply),
            Err(Unanswered { silent: true, .. }) if self.was_let_go(cx, id) => {}
            Err(Unanswered { silent: true, .. }) if self.was_held(cx, id) => {
                if let Some(key) = cx.get(id).and_then(|conn| {
                    if let State::Dial(dial) = &conn.state { dial.slot } else { None }
                }) {
                    self.pause_poll(cx, key);
                }
            }
            Err(Unanswered { silent: true, .. }) if self.dislikes_upgrade(cx, id) => {
                self.poll_instead(cx, id, "connections end without an answer to the offer");
            }
            Err(Unanswered { why, .. }) => self.end_dial(cx, id, &why, None),
        }
    }

    /// `Ok(None)` if the answer is incomplete. Bytes after the answer are kept: after a 101 they
    /// are the first request.
    fn next_verdict(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        scratch: &mut [u8],
    ) -> Result<Option<(Verdict, ReplyHead)>, Unanswered> {
        let Some(conn) = cx.get_mut(id) else { return Ok(None) };
        let State::Dial(dial) = &conn.state else { return Ok(None) };
        let Stage::Offered { mut interim, .. } = dial.stage else { return Ok(None) };
        let _ = conn.flush(); // a failure shows in the next read
        let fetched = conn.fetch(scratch, self.limits.head_bytes_max + 1024);
        let silent = interim.is_zero();
        let filled = match fetched {
            Ok(Fetched::Bytes(n)) => n,
            Ok(Fetched::Nothing) => return Ok(None),
            Ok(Fetched::End) => {
                return Err(Unanswered {
                    silent,
                    why: "the gateway closed the connection instead of answering the offer"
                        .to_owned(),
                });
            }
            Err(e) => {
                return Err(Unanswered {
                    // A failed TLS session says nothing about offers.
                    silent: silent && e.kind() != std::io::ErrorKind::InvalidData,
                    why: format!(
                        "the connection to the gateway broke before the offer was answered: {e}"
                    ),
                });
            }
        };
        let bytes = &scratch[..filled];
        let mut used = 0;
        loop {
            let parsed =
                head::response(&bytes[used..], &self.limits, LineEnds::CrlfOrLf).map_err(|e| {
                    Unanswered::from(format!("this is not a gateway's answer: {}", e.reason))
                })?;
            let Some(response) = parsed else {
                if conn.is_over() {
                    return Err("the gateway closed the connection in the middle of its answer to the offer".to_owned().into());
                }
                conn.keep(&bytes[used..]);
                return Ok(None);
            };
            used += response.len;
            let verdict = verdict::check(&response, &self.plan.offer.dialect.token);
            if verdict != Verdict::Informational {
                conn.keep(&bytes[used..]);
                let sent = conn.pending() == 0 && self.has_posted(conn);
                return Ok(Some((verdict, reply_head(&response, sent, &bytes[used..]))));
            }
            interim.count(&self.limits).map_err(|e| format!("the gateway {}", e.reason))?;
            let State::Dial(dial) = &mut conn.state else { return Ok(None) };
            if let Stage::Offered { interim: counted, .. } = &mut dial.stage {
                *counted = interim;
            }
        }
    }

    pub(super) fn handle_verdict(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        verdict: Verdict,
        reply: ReplyHead,
    ) {
        let now = cx.now();
        let Some(dial) = cx.dial_mut(id) else { return };
        let Stage::Offered { at, upgrade, .. } = dial.stage else { return };
        dial.fresh = false;
        let (slot, took) = (dial.slot, now.saturating_duration_since(at));
        if upgrade {
            self.hung_up = None;
        }
        let verdict = match verdict {
            Verdict::Turned { .. } if !upgrade => {
                Verdict::Wrong("the gateway answered 101 to a poll that offered no turn".to_owned())
            }
            other => other,
        };
        if upgrade && self.upgrade_may_trouble(&reply, slot.is_some() && took > PACE) {
            return self.poll_once(cx, id, reply.status);
        }
        let Some(verdict) = self.judge_answer(cx, id, verdict, &reply) else { return };
        let may_poll = self.plan.fallback != Fallback::Never;
        match (verdict, slot) {
            (Verdict::Turned { warning }, _) => {
                if let Some(warning) = warning {
                    log_names!(Warn, "the gateway's 101 is tolerated: {warning}");
                }
                self.turned(cx, id, took >= PACE);
            }
            (Verdict::Nothing, Some(_)) if !upgrade => {
                self.fell_back(cx, id, None, reply, took < PACE)
            }
            (Verdict::Nothing, Some(key)) => {
                self.goodbye_heard(Some(key));
                self.signs.welcomed = true;
                self.succeeded();
                self.nothing(cx, key, reply.keep, took < PACE);
            }
            (Verdict::Nothing, None) => self.nothing_yet(cx, id, reply.keep, took < PACE),
            (Verdict::FellBack(encoding), _) if may_poll => {
                self.fell_back(cx, id, encoding, reply, took < PACE)
            }
            (Verdict::FellBack(_), _) => {
                let why = format!(
                    "the gateway, or a proxy on the way, does not turn connections: it fell back to polling, \
                     and this device may not poll ({FALLBACK})"
                );
                self.end_dial(cx, id, &why, None);
            }
            (
                Verdict::Refused(status) | Verdict::Later { status, .. } | Verdict::NoTurn(status),
                Some(key),
            ) if self.is_beside(key) => {
                self.end_dial(cx, id, &format!("it was answered with {status}"), None);
            }
            (Verdict::Redirect(location), _) => self.redirected(cx, id, &location),
            (Verdict::Refused(status), _) => self.refused(cx, id, status, &reply),
            (Verdict::Later { status: 502 | 504, .. }, Some(key)) if took > PACE => {
                self.pause_poll(cx, key)
            }
            (Verdict::Later { status, .. }, _) => {
                if status == 426 && !upgrade {
                    self.mode.end_plain(); // the gateway accepts only offers, so the earlier hang-ups had another cause
                }
                self.later(cx, id, &reply);
            }
            (Verdict::NoTurn(status), _) => self.not_upgraded(cx, id, status, upgrade && may_poll),
            (Verdict::Wrong(why), _) => self.end_dial(cx, id, &why, None),
            (Verdict::Informational, _) => {}
        }
    }

    /// A status that our gateways do not use for offers. `may_poll` means that it was an offer of
    /// the upgrade, and polls without it may work.
    fn not_upgraded(&mut self, cx: &mut Connections<State>, id: Id, status: u16, may_poll: bool) {
        if status == 407 {
            return self.end_dial(cx, id, "a proxy on the way wants credentials: status 407", None);
        }
        if may_poll {
            return self.poll_instead(
                cx,
                id,
                &format!("status {status} answers an offer of a turn"),
            );
        }
        let what = match self.plan.fallback {
            Fallback::Never => "not a gateway",
            _ => "no gateway",
        };
        self.end_dial(
            cx,
            id,
            &format!("{what} answers here: status {status}; check the URL, port included"),
            None,
        );
    }

    fn later(&mut self, cx: &mut Connections<State>, id: Id, reply: &ReplyHead) {
        let status = reply.status;
        self.tries.stopping = reply.details.as_deref() == Some(turn::STOPPING);
        let hint = match status {
            _ if reply.details.is_some() => reply.details.as_deref().unwrap_or_default(),
            400 => "it takes this offer for malformed; check the URL",
            409 => {
                "another device, or a newer run of this one, holds the name; stop it or choose another name"
            }
            426 if self.plan.fallback == Fallback::Only => {
                &format!("it takes no polls, only devices that turn; allow both ({FALLBACK})")
            }
            426 => &format!("it does not turn this protocol; choose another ({DIALECT})"),
            429 | 503 => "it is full or stopping",
            _ => "it cannot take devices just now",
        };
        self.end_dial(
            cx,
            id,
            &format!("the gateway answered with {status}: {hint}"),
            reply.retry_after,
        );
    }

    /// 204: the gateway holds offers until there is a request.
    fn nothing_yet(&mut self, cx: &mut Connections<State>, id: Id, keep: bool, quick: bool) {
        let now = cx.now();
        let Some(conn) = cx.get_mut(id) else { return };
        let State::Dial(dial) = &mut conn.state else { return };
        let (url, gateway) = (dial.url.clone(), dial.gateway.clone());
        dial.quick = if quick { dial.quick + 1 } else { 0 };
        let pauses = dial.quick > QUICK_MAX;
        (self.signs.welcomed, self.signs.holds) = (true, true);
        self.succeeded();
        if !self.signs.waiting && self.transport.is_none() {
            self.signs.waiting = true;
            self.tell(DeviceEventKind::Waiting, &gateway, &url.text, String::new());
        }
        if self.draining {
            return self.end_dial(cx, id, "the device stops", None);
        }
        self.top_up(cx); // after an outage further offers are needed
        match (keep, pauses) {
            (_, true) => {
                dial_stage(cx, id, Stage::Pausing { keep });
                cx.set_deadline(id, Some(now + PACE));
            }
            (_, false) => self.paused(cx, id, keep),
        }
    }

    fn redirected(&mut self, cx: &mut Connections<State>, id: Id, location: &str) {
        let Some((stream, _, State::Dial(dial))) = cx.remove(id) else { return };
        self.has_no_connection(dial.slot);
        // Through a proxy, only the URL shows how far away the gateway is.
        let from = match (self.proxy_to(&dial.url), stream.remote_ip()) {
            (None, Some(address)) => Reach::of(address),
            _ => Reach::of_host(&dial.url.host),
        };
        if dial.redirects >= self.limits.redirects_max {
            let why = format!(
                "gateway {} redirects in a loop: {} times",
                dial.gateway.url.text, dial.redirects
            );
            return self.dial_failed(cx, &dial.gateway, dial.slot, &why, None);
        }
        match self.plan.redirects.follow(&dial.url, location, from) {
            Err(e) => {
                let why = format!(
                    "gateway {} redirects to a URL that this device may not use: {e}",
                    dial.url.text
                );
                self.dial_failed(cx, &dial.gateway, dial.slot, &why, None);
            }
            Ok(url) => {
                log_names!(Info, "gateway {} redirects to {}", dial.url.text, url.text);
                let url = Arc::new(url);
                self.goes_to(cx, dial.slot, &url);
                self.resolve(
                    cx,
                    Box::new(Dial::new(url, dial.gateway, dial.redirects + 1, dial.slot)),
                );
            }
        }
    }

    /// The text of a refusal, with the gateway's own explanation if there is one.
    fn refusal(&self, url: &str, status: u16, reply: &ReplyHead) -> String {
        if !reply.marked {
            return format!("gateway {url}: the offer was refused with {status}: {UNMARKED}");
        }
        let has_token = self.plan.secrets.iter().any(|(name, _)| name == "Authorization");
        let why = reply.details.as_deref().unwrap_or(match status {
            401 => "it does not take the credential",
            403 => "the credential is not for this name",
            404 => {
                "it knows no such name, or this is the port of its visitors; devices use another (9999 unless changed)"
            }
            _ => "the name is gone for good",
        });
        let remedy = match status {
            401 if has_token => "; check the token",
            401 => &format!("; no token was given ({BEARER_TOKEN})"),
            _ => "",
        };
        format!("gateway {url} refused the offer with {status}: {why}{remedy}")
    }

    /// 401, 403, 404, 410. They are final for the first offer if the user wants that. After a
    /// success, or without the gateway's mark, they count as temporary.
    pub(super) fn refused(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        status: u16,
        reply: &ReplyHead,
    ) {
        let marked = reply.marked;
        let Some(dial) = cx.dial(id) else { return };
        let (slot, gateway) = (dial.slot, dial.gateway.clone());
        let text = self.refusal(&dial.url.text, status, reply);
        cx.close(id);
        self.demand.forget(); // the current callers will not wait that long
        self.attempt_over(cx, slot, &text);
        self.tell(DeviceEventKind::Refused { status }, &gateway, &gateway.url.text, text.clone());
        let for_good = !self.signs.welcomed
            && match self.plan.on_refusal {
                OnRefusal::Retry => false,
                OnRefusal::Stop => marked,
                OnRefusal::StopOnAny => true,
            };
        if for_good {
            self.plan.gateways.rest(&gateway, None, true);
        }
        if for_good && self.plan.gateways.all_refused() {
            let error = Error::refused(Fault::Gateway, status, text.clone(), None);
            if !self.group.report(self.member, Standing::Refused, error) {
                log::warn!("{text}; the device goes on with its other gateways");
            }
            self.stopped = true;
            return;
        }
        if !marked {
            return self.failed_at(cx, &gateway, &text, None); // a load balancer that is not ready will soon be
        }
        if self.may_go_on(&gateway) {
            let long = self.backoff.long(random());
            return self.failed_at(cx, &gateway, &text, Some(long));
        }
        self.tries.answered = false;
        if self.gives_up(&text) {
            return;
        }
        let pause = self.backoff.fail_for_long(random());
        log_names!(Warn, "{text}; next attempt in {:.0} s", pause.as_secs_f32());
        self.dial_later(cx, pause);
    }
}
