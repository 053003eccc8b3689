//! The life of a link in the event loop: idle, leased or relayed, and ended.
//!
//! ```text
//!   offer ─► Link (idle ⇄ at a worker, or relayed to the local server) ─► gone ─► dialled again
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam_channel::TrySendError;

use crate::close_reason::{CloseCause, CloseReason};
use crate::device::backoff::random;
use crate::device::dial_stages::{PACE, QUICK_MAX};
use crate::device::events::DeviceEventKind;
use crate::device::findings::Parting;
use crate::device::follow_ups::FollowUp;
use crate::device::lease::{Lease, LeaseGuard};
use crate::device::link::Link;
use crate::device::plan::Service;
use crate::device::role::DeviceRole;
use crate::device::state::{State, States, find_lingering};
use crate::device::transport::BRIEF_MAX;
use crate::device::worker::answer_with;
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::proto::turn::Transport;
use crate::relay;
use crate::relay::LocalAnswer;
use crate::stream::Stream;

pub(super) const STOPS: CloseReason = CloseCause::Drained.because("the device stops");

/// A link that lived shorter than this counts as a failed attempt, so that a gateway that accepts
/// offers and closes the links is not dialled in a loop.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// Links that live shorter than this are brief.
const BRIEF_LIFE: Duration = Duration::from_secs(10);

impl DeviceRole {
    /// A connection has become a link. With `held` the offer was not answered at once.
    pub(super) fn turned(&mut self, cx: &mut Connections<State>, id: Id, held: bool) {
        let now = cx.now();
        let Some(conn) = cx.get_mut(id) else { return };
        let State::Dial(dial) = &conn.state else { return };
        let (url, gateway, slot) = (dial.url.clone(), dial.gateway.clone(), dial.slot);
        let asked = conn.kept() > 0; // an immediate 101 without a request comes from a gateway that does not hold offers
        if !self.takes(&gateway) {
            let Some(key) = slot else {
                cx.close(id);
                return self.undialed();
            };
            return self.drop_slot(
                cx,
                key,
                "the device is connected through another gateway of the list",
            );
        }
        if let (Some(key), true) = (slot, self.shared.links.load(Relaxed) >= self.shared.max()) {
            self.mode.decide(false);
            return self.drop_slot(
                cx,
                key,
                "its connection was upgraded, and there are as many links as are allowed",
            ); // this also closes it
        }
        self.signs.holds = held || (self.signs.holds && asked);
        conn.state = State::Link(Link { held, ..Link::new(None, now) });
        cx.set_deadline(id, None);
        self.shared.links.fetch_add(1, Relaxed);
        self.mode.decide(false);
        (self.signs.welcomed, self.tries.answered, self.troubled) = (true, !self.tries.doubtful, 0);
        if !matches!(self.service, Service::Listen(_)) {
            self.doubt.since.get_or_insert(now); // the loop does not see the links of `listen()`
        }
        self.update_transport(cx, &url.text, None);
        match slot {
            None => {
                self.shared.dialing.fetch_sub(1, Relaxed);
                self.burst.answered();
            }
            Some(key) => {
                self.has_no_connection(slot); // it belongs to the link now
                self.drop_slot(cx, key, "its connection turned");
            }
        }
        self.signs.waiting = false;
        self.doubt_links(cx);
        self.top_up(cx);
        if self.draining && self.parting == Parting::No {
            return self.link_gone(cx, id, STOPS);
        }
        match &self.service {
            Service::Listen(_) => self.lease(cx, id, &[]),
            _ => {
                self.link_idle(cx, id);
                // The request that came with the 101 is handled before another link is accepted:
                // its number of waiting callers was counted while those dials were in progress.
                if asked {
                    self.follow_ups.push_back(FollowUp::Step(id));
                }
            }
        }
    }

    /// Limits the log lines about a gateway that ends its links after a request or two.
    fn note_brief(&mut self, cx: &Connections<State>, link: &Link, why: &CloseReason) {
        let as_wanted = why.cause.is_usual()
            || matches!(why.cause, CloseCause::Closed | CloseCause::Reset | CloseCause::Drained);
        if !as_wanted || cx.now().saturating_duration_since(link.since) >= BRIEF_LIFE {
            self.tries.brief = 0;
            return;
        }
        self.tries.brief = self.tries.brief.saturating_add(1);
        if self.tries.brief == BRIEF_MAX + 1 && !self.signs.holds {
            let url = &self.current_gateway().url.text;
            log_names!(
                Info,
                "{url} ends its links after a few seconds or requests; from now on this is logged only if no other link follows"
            );
        }
    }

    /// The loop watches the link, and reads bytes that have arrived already.
    pub(super) fn link_idle(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(conn) = cx.get_mut(id) else { return };
        let State::Link(link) = &mut conn.state else { return };
        (link.exchange, link.began) = (None, false);
        let silence = self.limits.silence;
        let watched = self.signs.beaten && link.slot.is_none() && !silence.is_zero();
        conn.free_buffers();
        let (more, waits) = (conn.has_input(), conn.pending() > 0);
        let at = match waits {
            true => Some(cx.after(self.limits.body_silence_timeout)),
            false => watched.then(|| cx.after(silence)),
        };
        cx.set_deadline(id, at);
        if more {
            cx.reschedule(id);
        }
    }

    /// A request was answered; the link is kept if both sides allow it.
    pub(super) fn request_over(&mut self, cx: &mut Connections<State>, downstream: Id, keep: bool) {
        self.relayed(cx, downstream);
        match keep && (!self.draining || self.parting != Parting::No) {
            true => self.link_idle(cx, downstream),
            false => self.link_ends(
                cx,
                downstream,
                CloseCause::LastMessage.because("its last message said so"),
            ),
        }
    }

    pub(super) fn link_gone(&mut self, cx: &mut Connections<State>, id: Id, why: CloseReason) {
        let Some((_, _, State::Link(link))) = cx.remove(id) else { return };
        self.count_out(cx, &link, why);
    }

    /// A link has ended: its reason is logged in one line, reported as an event, and counted.
    pub(super) fn count_out(&mut self, cx: &mut Connections<State>, link: &Link, why: CloseReason) {
        self.end_bound(cx, link);
        if link.slot.is_some() {
            return log_names!(Debug, "a virtual link ended: {why}"); // its slot notices the end at the bridge
        }
        let gateway = self.current_gateway();
        let last = self.shared.links.fetch_sub(1, Relaxed) == 1 && self.polls_with().is_none();
        self.note_brief(cx, link, &why);
        let quiet = self.comes_and_goes();
        match (last, why.cause.is_usual() || quiet) {
            (true, _) if !quiet => {} // the line about the connection reports it
            (_, true) => log_names!(Debug, "a link to {} ended: {why}", gateway.url.text),
            (_, false) => log_names!(Info, "a link to {} ended: {why}", gateway.url.text),
        }
        self.shared.closed.count(why.cause);
        self.publish(
            DeviceEventKind::Ended,
            &gateway,
            &gateway.url.text,
            why.text.to_string(),
            Some(why.cause),
        );
        let in_vain = !link.used
            && !link.beaten
            && self.doubt.since.is_some()
            && !self.draining
            && self.polls_beside();
        if in_vain {
            self.give_up_links(cx);
        }
        let short = !link.used
            && !link.held
            && !in_vain
            && cx.now().saturating_duration_since(link.since) < SHORT_LIFE;
        if quiet && !short && !self.draining {
            self.top_up(cx); // the next offer replaces the link
        }
        self.update_transport(cx, "", Some(&why));
        if !short {
            self.tries.quick_ends = 0;
            self.succeeded();
        }
        if self.draining {
            return;
        }
        // Some gateways close a link because a visitor's request failed, without writing to it
        // (T48). If other links live, that is tolerated, within limits.
        self.tries.quick_ends += u32::from(short);
        let faulty = why.cause == CloseCause::ProtocolError
            && cx.now().saturating_duration_since(link.since) < SHORT_LIFE;
        self.tries.quick_faults =
            if faulty { self.tries.quick_faults.saturating_add(1) } else { 0 };
        if self.tries.quick_faults > BRIEF_MAX && last {
            self.dial_later(cx, PACE.mul_f64(0.5 + random())); // this is no failed attempt, but links must not be dialled in a loop
        }
        let forgiven =
            self.transport == Some(Transport::Turn) && self.tries.quick_ends <= QUICK_MAX as u32;
        if short && !forgiven {
            if self.transport.is_none() {
                self.plan.gateways.choose(&gateway);
            }
            self.tries.doubtful = true;
            self.failed_at(
                cx,
                &gateway,
                &format!("{}: a link ended right after its 101: {why}", gateway.url.text),
                None,
            );
        }
        self.top_up(cx);
    }

    /// Records how many links were busy at once.
    pub(super) fn note_busy(&mut self, now: Instant) {
        self.demand.note_links(now, self.shared.take_peak());
    }

    /// If the device is stopping, the answer to this exchange announces the end of the link,
    /// because further requests on it would be lost.
    pub(super) fn last_of_link(&mut self, key: Key) {
        if let Some(exchange) = self.exchanges.get_mut(key).filter(|_| self.draining) {
            exchange.last_of_caller();
        }
    }

    /// Counts a link that got a goaway as ended, and dials another one.
    pub(super) fn replace(&mut self, cx: &mut Connections<State>, mut link: Link) {
        const WHY: CloseReason = CloseCause::Drained.because("the gateway sent a goaway");
        let now = cx.now();
        let of_use = link.used || now.saturating_duration_since(link.since) >= SHORT_LIFE;
        let is_new = self.tries.last_goaway.is_none_or(|last| link.since > last);
        link.used = true;
        self.shared.upgrades.stop(false); // this gives its tunnels a grace period, too
        let why = if self.draining { STOPS } else { WHY };
        self.carries();
        if of_use {
            self.tries.quick_goaways = 0;
        } else if is_new {
            self.tries.last_goaway = Some(now);
            self.tries.quick_goaways += 1;
            if self.tries.quick_goaways > QUICK_MAX {
                self.dial_later(cx, PACE.mul_f64(0.5 + random()));
            }
        }
        self.count_out(cx, &link, why);
    }

    /// Closes a link gently; another may be dialled at once.
    pub(super) fn link_ends(&mut self, cx: &mut Connections<State>, id: Id, why: CloseReason) {
        let Some(conn) = cx.get_mut(id) else { return };
        let State::Link(link) = conn.state else { return };
        self.linger(cx, id);
        self.count_out(cx, &link, why);
    }

    pub(super) fn linger(&mut self, cx: &mut Connections<State>, id: Id) {
        relay::linger(cx, id, &self.limits, self.draining, State::Lingering);
        self.step_lingering(cx, id);
    }

    pub(super) fn step_lingering(&mut self, cx: &mut Connections<State>, id: Id) {
        relay::step_lingering(cx, id, find_lingering);
    }

    pub(super) fn answer_link(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        answer: &LocalAnswer<'_>,
    ) {
        let date = cx.date().to_owned();
        let Some(conn) = cx.get_mut(id) else { return };
        answer.write(conn.output(), &date);
        let sent = conn.flush();
        match (answer.keep, sent) {
            (true, Ok(true)) => self.request_over(cx, id, true),
            _ => {
                self.relayed(cx, id);
                let end = if matches!(answer.status, 400..=499 | 501 | 505) {
                    CloseCause::ProtocolError
                } else {
                    CloseCause::LastMessage
                };
                let text = format!(
                    "its request was answered {} by this device, which closes it: {}",
                    answer.status, answer.reason
                );
                self.link_ends(cx, id, CloseReason::new(end, text));
            }
        }
    }

    /// An exchange that this loop relayed has ended.
    pub(super) fn relayed(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(link) = cx.link_mut(id) else { return };
        if link.exchange.take().is_some() && link.slot.is_none() {
            self.shared.busy.fetch_sub(1, Relaxed);
            self.note_busy(cx.now());
        }
    }

    pub(super) fn relaying(&mut self, cx: &mut Connections<State>, id: Id, key: Key) {
        if let Some(link) = cx.link_mut(id) {
            (link.exchange, link.used) = (Some(key), true);
            let is_real = link.slot.is_none();
            self.succeeded();
            if is_real {
                self.shared.link_is_busy();
                self.carries();
                self.last_of_link(key);
            }
            self.shared.exchanges.fetch_add(1, Relaxed);
        }
        if self.is_wanting() {
            self.top_up(cx);
        }
    }

    /// Leases a link to program code: a handler on a worker, or a queue that the program reads.
    pub(super) fn lease(&mut self, cx: &mut Connections<State>, id: Id, bytes: &[u8]) {
        let Some((stream, kept, State::Link(mut link))) = cx.remove(id) else { return };
        if !bytes.is_empty() {
            link.used = true;
            self.succeeded(); // the gateway also sends requests
            if link.slot.is_none() {
                self.carries();
            }
        }
        if let Err(e) = stream.set_nonblocking(false) {
            return self.count_out(
                cx,
                &link,
                CloseReason::new(CloseCause::Failed, format!("it cannot be made blocking: {e}")),
            );
        }
        self.numbers += 1;
        let stream = Arc::new(stream);
        self.leases.insert(self.numbers, Arc::downgrade(&stream));
        let (why, shared) =
            (CloseCause::Program.because("its exchange ended it"), self.shared.clone());
        let guard =
            LeaseGuard { remote: self.remote.clone(), number: self.numbers, link, why, shared };
        let unread = if bytes.is_empty() { kept } else { bytes.to_vec() };
        let busy = (!matches!(self.service, Service::Listen(_))).then(|| guard.occupy());
        let lease = Lease { stream, unread, busy, guard };
        // If the link cannot be leased, it is dropped, and its guard tells the loop.
        match &self.service {
            Service::Handler(handler) => {
                let (handler, limits, workers) =
                    (handler.clone(), self.link_limits.clone(), self.workers.clone());
                let since = Instant::now();
                let lingers = self.plan.tcp.is_empty(); // with targets, the loop has to see each request
                let answer =
                    move || answer_with(&handler, lease, &limits, &workers, lingers, since);
                let submitted = match self.plan.network.as_ref().map(|network| network.clock.work())
                {
                    None => self.workers.submit(answer),
                    Some(work) => self.workers.submit(move || work.run(answer)),
                };
                if !submitted {
                    log::error!(
                        "a request gets no handler: no thread could be started, or handlers_max is reached and the queue is full; its link is closed"
                    );
                }
            }
            Service::Receive(queue) | Service::Listen(queue) => {
                match queue.try_send(lease) {
                    Ok(()) => {}
                    Err(TrySendError::Full(_)) => log::error!("more links than MAX; one is closed"),
                    Err(TrySendError::Disconnected(_)) => self.stopped = true, // the program has dropped the device
                }
            }
            Service::Forward(_) => {}
        }
    }

    /// Program code has written the last message of a link.
    pub(super) fn end_leased(
        &mut self,
        cx: &mut Connections<State>,
        (stream, unread): (Stream, Vec<u8>),
        link: Link,
        why: CloseReason,
    ) {
        match cx.insert(stream, &unread, State::Link(link)) {
            Ok(id) => self.link_ends(cx, id, why),
            Err(_) => self.count_out(cx, &link, why), // then it is closed at once
        }
    }

    pub(super) fn back(
        &mut self,
        cx: &mut Connections<State>,
        number: u64,
        stream: Stream,
        unread: &[u8],
        link: Link,
    ) {
        self.leases.remove(&number);
        self.note_busy(cx.now());
        self.signs.beaten |= link.beaten;
        if link.beaten && link.slot.is_none() {
            self.carries();
        }
        if self.draining && self.parting == Parting::No {
            return self.count_out(cx, &link, STOPS);
        }
        match cx.insert(stream, unread, State::Link(link)) {
            Ok(id) => self.link_idle(cx, id),
            Err(e) => self.count_out(
                cx,
                &link,
                CloseReason::new(
                    CloseCause::Failed,
                    format!("it could not come back to the event loop: {e}"),
                ),
            ),
        }
    }

    /// Gives up links, after an event by a poll, or an unused link that ended beside answered
    /// polls, has shown that links carry no bytes.
    pub(super) fn give_up_links(&mut self, cx: &mut Connections<State>) {
        const WHY: CloseReason =
            CloseCause::Silent.because("nothing ever came over it, where polls are answered");
        (self.doubt.since, self.doubt.tries, self.doubt.again) = (None, 0, true);
        self.mode.swallow();
        self.poll_alone();
        let url = self.current_gateway().url.clone();
        log_names!(
            Warn,
            "links to {} carry no bytes: polling without Upgrade until the device is disconnected",
            url.text
        );
        for id in cx.ids() {
            match cx.state_mut(id) {
                Some(State::Link(link)) if link.slot.is_none() && link.exchange.is_none() => {
                    link.used = true; // its end is not a failed dial
                    self.link_gone(cx, id, WHY);
                }
                Some(State::Dial(dial)) if dial.slot.is_none() => {
                    cx.close(id);
                    self.undialed();
                }
                _ => {}
            }
        }
    }
}
