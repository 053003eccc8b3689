//! Events and their answers: a request goes over the virtual link to the handler or the local
//! server, and its response goes back in a POST.
//!
//! An event is one request, and its answer one response. The socket pair carries both as a link
//! would, so the code above a link serves polls unchanged.

use std::borrow::Cow;

use crate::device::answer::Work;
use crate::device::dial_stages::STEPS_MAX;
use crate::device::dial_stages::Stage;
use crate::device::link::Link;
use crate::device::plan::Service;
use crate::device::reply::ReplyHead;
use crate::device::role::DeviceRole;
use crate::device::slots::Conn;
use crate::device::state::{State, States, flush};
use crate::engine::budget::Held;
use crate::engine::connection::{Connection, Fetched};
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::proto::comet::Event;
use crate::proto::turn::Encoding;
use crate::proto::verdict::Verdict;
use crate::relay::LocalAnswer;
use crate::stream::Stream;

/// A handler's response that cannot be completed: the error type for the visitor's `Proxy-Status`,
/// and the reason.
#[derive(PartialEq)]
struct Broken {
    error: &'static str,
    why: Cow<'static, str>,
}

impl Broken {
    fn cut(why: &'static str) -> Self {
        Broken { error: "connection_terminated", why: why.into() }
    }

    fn malformed(why: impl Into<Cow<'static, str>>) -> Self {
        Broken { error: "http_protocol_error", why: why.into() }
    }
}

/// The size of one read from a virtual link.
const PIECE: usize = 64 * 1024;

/// The answer to an event that arrives while the device stops, and is not run.
const STOPPING: LocalAnswer<'_> = LocalAnswer {
    error: Some("destination_unavailable"),
    retry_after: Some(1),
    keep: true,
    ..LocalAnswer::new(503, "the device stops; try again later")
};

/// The answer to an event whose response was not complete in time.
const STOPPED: LocalAnswer<'_> = LocalAnswer {
    error: Some("connection_terminated"),
    keep: true,
    ..LocalAnswer::new(502, "the device was stopped before it had answered")
};

/// Makes an event's request HTTP/1.1, so that any response can be framed.
fn speak_1_1(text: &mut [u8]) {
    let line = text.iter().position(|&byte| byte == b'\r').unwrap_or(0);
    if let Some(minor @ b'0') = text[..line].last_mut() {
        *minor = b'1';
    }
}

impl DeviceRole {
    /// Takes an event. If it is in progress, this is a copy; if it was answered, it is not run
    /// again.
    pub(super) fn take_event(
        &mut self,
        cx: &mut Connections<State>,
        key: Key,
        (event, held): (Event, Held),
        encoding: Option<Encoding>,
        (keep, quick): (bool, bool),
    ) {
        let Some(from) = self.slots.get(key).map(|slot| slot.url.clone()) else { return };
        if self.is_beside(key) && self.doubt.since.is_some() && !self.draining() {
            self.give_up_links(cx); // a gateway uses an idle link first, if it has one
        }
        let is_copy = |work: &Work| work.id == event.id && work.from.same_origin(&from);
        if self.slots.keys().into_iter().any(|key| {
            self.slots
                .get(key)
                .and_then(|slot| slot.work.as_ref())
                .is_some_and(|work| is_copy(work))
        }) {
            log_names!(Debug, "event {} came again while it is in progress", event.id);
            return self.nothing(cx, key, keep, quick);
        }
        if !keep {
            self.close_connection(cx, key);
        }
        let encoding = encoding.unwrap_or(Encoding::Message);
        let past = self.past.recall(&event.id, &from, encoding);
        let (is_new, is_kept) = (past.is_none(), past.is_some_and(|text| text.is_some()));
        let work = match past.flatten() {
            Some(text) => Work::repeated(&event, encoding, from, text.to_vec()),
            None => Work::new(&event, encoding, from),
        };
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.work = Some(Box::new(work));
        if is_new {
            slot.quick = 0;
        }
        self.note_working(cx.now());
        match (is_new, is_kept) {
            (false, true) => self.deliver(cx, key),
            (false, false) => self.answer_502(
                cx,
                key,
                "connection_terminated",
                "the device answered this event before, and did not keep its answer",
            ),
            (true, _) if self.draining() => {
                log_names!(Info, "event {} came while the device stops; it is not run", event.id);
                self.answer_itself(cx, key, &STOPPING);
            }
            (true, _) => {
                if let Some(work) = self.slots.get_mut(key).and_then(|slot| slot.work.as_mut()) {
                    work.held = Some(held);
                }
                self.hand_over(cx, key, event.text);
                self.note_handed_over(cx, key);
                if self.working() >= self.slots.len() {
                    self.top_up(cx); // one more poll, for other callers
                }
            }
        }
    }

    /// Writes the request into the virtual link, which is made if there is none.
    fn hand_over(&mut self, cx: &mut Connections<State>, key: Key, mut text: Vec<u8>) {
        speak_1_1(&mut text);
        let bridge = self.slots.get(key).and_then(|slot| slot.bridge);
        if let Some(id) = bridge.filter(|id| cx.is_quiet(*id, true)) {
            if let Some(conn) = cx.get_mut(id) {
                conn.output().extend_from_slice(&text);
            }
            return flush(cx, id);
        }
        self.close_bridge(cx, key);
        if let Err(e) = self.bridge_over(cx, key, &text) {
            let reason = format!("the device has no room for another request: {e}");
            self.answer_502(cx, key, "proxy_internal_error", &reason);
        }
    }

    /// Frees the memory of a request that the virtual link has taken completely.
    fn note_handed_over(&mut self, cx: &mut Connections<State>, key: Key) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let waits = slot.bridge.and_then(|id| cx.get(id)).is_some_and(|conn| conn.pending() > 0);
        if let (Some(work), false) = (&mut slot.work, waits) {
            work.held = None;
        }
    }

    fn bridge_over(
        &mut self,
        cx: &mut Connections<State>,
        key: Key,
        text: &[u8],
    ) -> std::io::Result<()> {
        let (near, far) = Stream::pair()?;
        near.set_nonblocking(true)?;
        far.set_nonblocking(true)?;
        let id = cx.insert(near, &[], State::Bridge(key))?;
        if let Some(slot) = self.slots.get_mut(key) {
            slot.bridge = Some(id);
        }
        if let Some(conn) = cx.get_mut(id) {
            conn.output().extend_from_slice(text);
        }
        flush(cx, id);
        let link = cx.insert(far, &[], State::Link(Link::new(Some(key), cx.now())))?;
        match &self.service {
            Service::Listen(_) => self.lease(cx, link, &[]),
            _ => self.link_idle(cx, link),
        }
        Ok(())
    }

    pub(super) fn bridge_ready(&mut self, cx: &mut Connections<State>, key: Key, id: Id) {
        if self.works(Some(key)) {
            flush(cx, id);
            self.note_handed_over(cx, key);
            return self.pump(cx, key);
        }
        if !cx.is_quiet(id, false) {
            self.close_bridge(cx, key); // the link ended between two events; the next event gets a new pair
        }
    }

    /// Moves bytes of the response to the gateway, as far as it takes them.
    pub(super) fn pump(&mut self, cx: &mut Connections<State>, key: Key) {
        let mut scratch = cx.take_scratch();
        let mut moved = Ok(true);
        for _ in 0..STEPS_MAX {
            moved = self.read_response(cx, key, &mut scratch);
            if moved != Ok(true) {
                break;
            }
            self.pass_on(cx, key, &mut scratch);
        }
        cx.put_scratch(scratch);
        match moved {
            Ok(true) => {
                if let Some(id) = self.slots.get(key).and_then(|slot| slot.bridge) {
                    cx.reschedule(id); // other connections first
                }
            }
            Ok(false) => {}
            Err(broken) => self.response_broke(cx, key, &broken),
        }
        self.set_post_deadline(cx, key);
    }

    /// Returns true if bytes of the response were read.
    fn read_response(
        &mut self,
        cx: &mut Connections<State>,
        key: Key,
        scratch: &mut [u8],
    ) -> Result<bool, Broken> {
        let Some(slot) = self.slots.get_mut(key) else { return Ok(false) };
        let (Some(work), Some(bridge)) = (&mut slot.work, slot.bridge) else { return Ok(false) };
        let waiting = match slot.conn {
            Conn::Open(id) if work.post.is_some() => cx.get(id).map_or(0, Connection::pending),
            _ => 0,
        };
        let room = match work.post {
            Some(_) if waiting > self.limits.read_ahead_bytes_max => 0,
            Some(_) => PIECE,
            None => work.room(&self.limits).min(PIECE),
        };
        if work.is_read() {
            return Ok(false);
        }
        if room == 0 && work.again.needs_length {
            return Err(Broken::malformed(
                "answered more than is kept, and a proxy on the way wants to know the length first (411)",
            ));
        }
        let Some(conn) = cx.get_mut(bridge).filter(|conn| room > 0 && conn.has_input()) else {
            return Ok(false);
        };
        let kept = conn.kept();
        let filled = match conn.fetch(scratch, kept + room) {
            Ok(Fetched::Nothing) => return Ok(false),
            Ok(Fetched::Bytes(n)) if n > kept => n,
            Ok(Fetched::Bytes(n)) => {
                conn.keep(&scratch[..n]);
                return if conn.is_over() {
                    Err(Broken::cut("closed its link in the middle of its answer"))
                } else {
                    Ok(false)
                };
            }
            Ok(Fetched::End) | Err(_) => {
                return Err(Broken::cut("closed its link without a whole answer"));
            }
        };
        let used = work
            .take(&scratch[..filled], &self.link_limits)
            .map_err(|e| Broken::malformed(e.reason))?;
        conn.keep(&scratch[used..filled]);
        if work.is_read() {
            conn.free_buffers(); // an idle pair has no buffer
            if !work.keeps_link() || used < filled || conn.pending() > 0 {
                self.close_bridge(cx, key);
            }
        }
        Ok(true)
    }

    /// Passes bytes of the response on at once, in the current POST or in a new one.
    fn pass_on(&mut self, cx: &mut Connections<State>, key: Key, scratch: &mut Vec<u8>) {
        let Some(work) = self.slots.get(key).and_then(|slot| slot.work.as_ref()) else { return };
        if work.post.is_some() {
            self.feed(cx, key);
        } else if work.is_ready() {
            cx.put_scratch(std::mem::take(scratch)); // the connection's step needs it
            self.deliver(cx, key);
            *scratch = cx.take_scratch();
        }
    }

    /// The response cannot be completed.
    fn response_broke(&mut self, cx: &mut Connections<State>, key: Key, broken: &Broken) {
        let why = &*broken.why;
        let Some(slot) = self.slots.get(key) else { return };
        let Some(work) = &slot.work else { return };
        if work.post.is_none() {
            log_names!(Info, "an event is answered with 502: the device {why}");
            return self.answer_502(cx, key, broken.error, &format!("the device {why}"));
        }
        // The gateway has a part of it, and has to see that the rest is missing, as on a link.
        if let Conn::Open(id) = slot.conn {
            cx.reset(id);
            self.has_no_connection(Some(key));
        }
        self.give_up(cx, key, why);
        self.poll_on(cx, key, false);
    }

    /// Posts an answer that is ready, on the slot's connection if that can be used, else at once on
    /// a new one.
    fn deliver(&mut self, cx: &mut Connections<State>, key: Key) {
        let Some(slot) = self.slots.get(key) else { return };
        match slot.conn {
            _ if slot.redial.is_some() => {} // it failed before and waits for its next attempt
            Conn::Resolving | Conn::Racing(_) => {}
            Conn::None => self.dial_at_once(cx, key),
            Conn::Open(id) => {
                let resting = cx.dial(id).is_some_and(|dial| matches!(dial.stage, Stage::Resting));
                if !resting {
                    return; // still connecting
                }
                if cx.is_quiet(id, true) {
                    return self.offer(cx, id);
                }
                self.close_connection(cx, key);
                self.dial_at_once(cx, key);
            }
        }
    }
}

impl DeviceRole {
    /// Handles a reply for the answer of its POST. Returns the verdict if it still has to be
    /// handled.
    pub(super) fn judge_answer(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        verdict: Verdict,
        reply: &ReplyHead,
    ) -> Option<Verdict> {
        let dial = cx.dial(id)?;
        let Some(key) = dial.slot else { return Some(verdict) };
        let Some(work) = self.slots.get(key).and_then(|slot| slot.work.as_ref()) else {
            return Some(verdict);
        };
        let Some(chunked) = work.post.as_ref().map(|post| post.chunked) else {
            return Some(verdict);
        };
        let said =
            if reply.said.is_empty() { String::new() } else { format!(": {}", reply.said.trim()) };
        match verdict {
            Verdict::Turned { .. } | Verdict::Nothing | Verdict::FellBack(_) => {
                self.acknowledge(cx, key);
                if matches!(verdict, Verdict::Turned { .. }) && !reply.sent {
                    return Some(Verdict::Wrong(
                        "the gateway answered 101 before it had the whole answer of an event"
                            .to_owned(),
                    ));
                }
                Some(verdict)
            }
            Verdict::NoTurn(413) if !work.again.replaced => {
                self.answer_otherwise(cx, key, "the device's answer is too large for the gateway, or for a proxy before it (413)");
                None
            }
            Verdict::NoTurn(411) if chunked && !work.again.lost => {
                self.wait_for_length(cx, key);
                None
            }
            Verdict::NoTurn(411) if !work.again.replaced => {
                self.answer_otherwise(cx, key, "the device's answer is too long for a proxy that wants to know its length first (411)");
                None
            }
            Verdict::Later { status: 409 | 426, .. } | Verdict::Refused(_) => {
                self.give_up(cx, key, &format!("the gateway answered {}{said}", reply.status));
                Some(verdict)
            }
            // 405 and 501 concern the Upgrade, if there was one; a 2xx of another type is not from
            // a gateway.
            Verdict::NoTurn(405 | 501 | 200..=299) => Some(verdict),
            Verdict::Later { status: 400, .. } | Verdict::NoTurn(_) => {
                self.give_up(cx, key, &format!("the gateway answered {}{said}", reply.status));
                self.nothing(cx, key, false, true); // not in a loop: the gateway may send the event again
                None
            }
            other => Some(other), // the answer was not taken: a redirect, 408, 429, 5xx
        }
    }

    /// A reply acknowledged the answer, which is remembered in case its event arrives again.
    pub(super) fn acknowledge(&mut self, cx: &mut Connections<State>, key: Key) {
        let Some(work) = self.slots.get_mut(key).and_then(|slot| slot.work.take()) else { return };
        if !work.is_read() {
            self.close_bridge(cx, key); // the rest is not needed
        }
        self.past.remember(*work, true, &self.limits);
    }

    /// Posts a 502 for the same event instead, on a new connection, because the reply's body was
    /// not read.
    fn answer_otherwise(&mut self, cx: &mut Connections<State>, key: Key, reason: &str) {
        log_names!(Warn, "{reason}; a 502 is posted instead");
        self.close_connection(cx, key);
        self.answer_502(cx, key, "http_protocol_error", reason);
    }

    /// Answers with a 502 of the device itself, with this error type in `Proxy-Status`.
    fn answer_502(
        &mut self,
        cx: &mut Connections<State>,
        key: Key,
        error: &'static str,
        reason: &str,
    ) {
        let answer = LocalAnswer { error: Some(error), ..LocalAnswer::new(502, reason) };
        self.answer_itself(cx, key, &answer);
    }

    /// Posts an answer of the device itself instead of the handler's.
    fn answer_itself(&mut self, cx: &mut Connections<State>, key: Key, answer: &LocalAnswer<'_>) {
        let date = cx.date().to_owned();
        let Some(work) = self.slots.get_mut(key).and_then(|slot| slot.work.as_mut()) else {
            return;
        };
        let link_ends = !work.keeps_link();
        work.replace(answer, &date, &self.limits);
        if link_ends {
            self.close_bridge(cx, key);
        }
        self.deliver(cx, key);
    }

    /// The device ends with an event in progress in this slot. Its caller gets an answer if the
    /// connection takes it at once; there is no time left to wait.
    pub(super) fn say_last(&mut self, cx: &mut Connections<State>, key: Key) {
        let Some(slot) = self.slots.get(key) else { return };
        let unposted = slot.work.as_ref().is_some_and(|work| work.post.is_none());
        let is_open = matches!(slot.conn, Conn::Open(_)) && slot.redial.is_none();
        if unposted && is_open {
            self.answer_itself(cx, key, &STOPPED);
        }
    }

    fn wait_for_length(&mut self, cx: &mut Connections<State>, key: Key) {
        self.close_connection(cx, key);
        if let Some(work) = self.slots.get_mut(key).and_then(|slot| slot.work.as_mut()) {
            (work.post, work.again.needs_length) = (None, true);
            if work.is_ready() {
                return self.deliver(cx, key);
            }
        }
        self.pump(cx, key);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn requests_reach_the_link_as_http_1_1() {
        for (text, is) in [
            ("GET / HTTP/1.0\r\nA: HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nA: HTTP/1.0\r\n\r\n"),
            ("GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"),
        ] {
            let mut bytes = text.as_bytes().to_vec();
            speak_1_1(&mut bytes);
            assert_eq!(bytes, is.as_bytes());
        }
    }
}
