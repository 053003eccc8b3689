//! Events that devices have: answered, late, sent again, or forgotten.

use std::sync::Arc;

use crate::close_reason::CloseCause;
use crate::engine::budget::Held;
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::error::Refusal;
use crate::gateway::alarms::Alarm;
use crate::gateway::polls::deliveries::{Due, Handed, MessageId, Outgoing, id_text};
use crate::gateway::polls::reply::{PollReply, write_reply};
use crate::gateway::registry::{Owner, Waiter};
use crate::gateway::state::{Asking, Device, GatewayRole, State, States};

impl GatewayRole {
    /// The device closed a connection that it should have kept, and on which it had received this
    /// event. So it probably no longer works on the event.
    pub(in crate::gateway) fn event_deserted(&mut self, event: &MessageId) {
        if let Some(name) = self.events.desert(event) {
            self.registry.event_deserted(name);
        }
    }

    /// An event was not completely written to its poll. `began` means that a part of it may have
    /// been.
    pub(in crate::gateway) fn event_not_told(
        &mut self,
        cx: &mut Connections<State>,
        event: MessageId,
        began: bool,
    ) {
        let Some(handed) = self.events.get(&event) else { return };
        let (key, downstream, told, until) =
            (handed.key, handed.downstream, handed.told, handed.until);
        if began && !self.may_repeat(handed) {
            self.answered(cx, &event);
            return self.end_exchange(
                cx,
                key,
                CloseCause::Cut,
                "the device's connection ended while the request was written, and it may not be sent twice",
            );
        }
        if !self.hand_out(cx, key) && !told {
            let at = cx.after(self.waits(key).link.time).min(until);
            cx.set_deadline(downstream, Some(at));
        }
    }

    /// Returns true if an event may be delivered again: a device with a session remembers its id;
    /// otherwise the method has to be idempotent.
    fn may_repeat(&self, handed: &Handed) -> bool {
        handed.owner.session.is_some()
            || self.exchanges.get(handed.key).is_some_and(|e| e.is_idempotent())
    }

    /// Events that were sent `redeliver_after` ago and are not answered are sent again with the
    /// next poll.
    pub(in crate::gateway) fn redeliver(&mut self, cx: &mut Connections<State>) {
        let (now, after) = (cx.now(), self.settings.limits.redeliver_after);
        self.events.alarm_over();
        loop {
            let event = match self.events.next_due(now, after) {
                Due::Never => return,
                Due::Now(event) => event,
                Due::In(rest) => {
                    let at = cx.after(rest);
                    return self.set_alarm(cx, at, Alarm::Redeliver);
                }
            };
            let handed = self.events.get(&event).filter(|handed| self.may_repeat(handed));
            let Some(Handed { key, name, .. }) = handed else { continue };
            let key = *key;
            log_names!(
                Debug,
                "{name}: an event is handed out once more, after {} s without an answer",
                after.as_secs_f32()
            );
            self.events.repeat(&event);
            self.hand_out(cx, key);
        }
    }

    /// The caller of an event no longer waits.
    pub(in crate::gateway) fn forget_event(&mut self, cx: &mut Connections<State>, downstream: Id) {
        let Some(Asking { event: Some(event), .. }) = cx.asking(downstream) else {
            return;
        };
        let event = *event;
        self.answered(cx, &event);
    }

    /// Fails the events of the old session of these names.
    pub(in crate::gateway) fn fail_events_of(
        &mut self,
        cx: &mut Connections<State>,
        names: &[Arc<str>],
        now_owned_by: &Owner,
    ) {
        let replaced = |handed: &Handed| {
            handed.owner != *now_owned_by && names.iter().any(|name| **name == *handed.name)
        };
        let failed = self.events.those(replaced);
        self.fail_events(
            cx,
            failed,
            CloseCause::Replaced,
            "the device's session was replaced before it answered",
        );
    }

    /// Fails the events of devices whose token was revoked: their answers will not be accepted.
    pub(in crate::gateway) fn fail_events_of_revoked(&mut self, cx: &mut Connections<State>) {
        let credentials = &self.credentials;
        let failed = self.events.those(|handed| credentials.is_revoked(&handed.registration));
        self.fail_events(
            cx,
            failed,
            CloseCause::Revoked,
            "the device's token or certificate became invalid before it answered",
        );
    }

    /// Fails the events of a device of this name: its connections were cut, or another loop gets
    /// the name.
    pub(in crate::gateway) fn fail_events_of_name(
        &mut self,
        cx: &mut Connections<State>,
        name: &str,
        end: CloseCause,
        why: &'static str,
    ) {
        let theirs = |handed: &Handed| handed.registration.names().any(|own| **own == *name);
        let failed = self.events.those(theirs);
        self.fail_events(cx, failed, end, why);
    }

    fn fail_events(
        &mut self,
        cx: &mut Connections<State>,
        failed: Vec<MessageId>,
        end: CloseCause,
        why: &'static str,
    ) {
        for event in failed {
            if let Some(key) = self.answered(cx, &event) {
                self.end_exchange(cx, key, end, why);
            }
        }
    }

    /// Closes connections that a stopping gateway kept for answers, when no event is in progress
    /// any more.
    pub(in crate::gateway) fn close_idle_devices(&mut self, cx: &mut Connections<State>) {
        if !self.lifecycle.is_draining() || cx.is_listening() || self.events.are_in_hand() {
            return;
        }
        for id in cx.ids() {
            if matches!(cx.device(id), Some(Device::Head { .. })) {
                cx.close(id);
            }
        }
    }

    /// A helper has written an event.
    pub(in crate::gateway) fn encoded(
        &mut self,
        cx: &mut Connections<State>,
        poll: Id,
        event: MessageId,
        json: Result<(Vec<u8>, Held), Refusal>,
    ) {
        let Some(reply) = cx.poll_reply_mut(poll) else {
            return;
        }; // the poll has ended
        if reply.event != Some(event) {
            return;
        }
        let Some(head) = reply.later.take() else { return };
        let (json, held) = match json {
            Ok(written) if self.events.get(&event).is_some() => written,
            Ok(_) => return self.tell_nothing(cx, poll, &head), // its caller no longer waits
            Err(refusal) => {
                self.tell_nothing(cx, poll, &head);
                let handed = self.events.get(&event);
                let handed = handed.map(|handed| (handed.downstream, handed.name.clone()));
                if let (Some((downstream, name)), Some(key)) = (handed, self.answered(cx, &event)) {
                    let outgoing = Outgoing { event, key, downstream, name: &name };
                    self.no_room_for_event(cx, &outgoing, &refusal);
                }
                return;
            }
        };
        let date = cx.date().to_owned();
        let Some(conn) = cx.get_mut(poll) else { return };
        let written = conn.written();
        write_reply(conn.output(), &head, Some((json.len(), &id_text(&event))), &date);
        let sent = conn.send_whole(json).and_then(|()| conn.flush());
        conn.state = State::Device(Device::PollReply(PollReply::with_event(
            event, head.keep, written, held,
        )));
        self.told(cx, poll, sent);
    }

    /// An event was answered: removes it, and returns its exchange, if that still waits.
    pub(in crate::gateway) fn answered(
        &mut self,
        cx: &mut Connections<State>,
        event: &MessageId,
    ) -> Option<Key> {
        let Handed { key, downstream, name, registration, present, .. } =
            self.events.take(event)?;
        self.registry.cancel_wait(&name, Waiter::Exchange(key));
        if let Some(asking) = cx.asking_mut(downstream).filter(|a| a.event == Some(*event)) {
            asking.event = None;
        }
        if self.registry.event_ends(&name, present) {
            self.feed(cx, &registration);
        }
        self.close_idle_devices(cx);
        self.exchanges.get(key).filter(|e| e.is_waiting()).map(|_| key)
    }
}
