//! Answers polls: writes their replies, and continues with the connection.

use crate::engine::connections::{Connections, Id};
use crate::gateway::alarms::Alarm;
use crate::gateway::device_head::DeviceHead;
use crate::gateway::follow_ups::FollowUp;
use crate::gateway::polls::deliveries::MessageId;
use crate::gateway::polls::reply::{PollReply, cors_fields, write_head, write_reply};
use crate::gateway::state::{BETWEEN_POLLS, Device, GatewayRole, State, States};
use crate::proto::turn;

impl GatewayRole {
    /// A poll was held for its whole time without a request.
    pub(in crate::gateway) fn poll_expired(&mut self, cx: &mut Connections<State>, id: Id) {
        if let Some(parked) = self.take_poll(cx, id) {
            self.tell_nothing(cx, id, &parked.head);
        }
    }

    pub(in crate::gateway) fn tell_nothing(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        head: &DeviceHead,
    ) {
        let date = cx.date().to_owned();
        let Some(conn) = cx.get_mut(id) else { return };
        let written = conn.written();
        write_reply(conn.output(), head, None, &date);
        conn.state = State::Device(Device::PollReply(PollReply::small(head.keep, written)));
        let sent = conn.flush();
        self.told(cx, id, sent);
    }

    /// Answers a CORS preflight of a listed page.
    pub(in crate::gateway) fn answer_preflight(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        origin: &str,
        keep: bool,
    ) {
        let date = cx.date().to_owned();
        let Some(conn) = cx.get_mut(id) else { return };
        let written = conn.written();
        let mut fields = vec![
            ("Date", date.as_str()),
            ("Access-Control-Allow-Methods", "POST"),
            (
                "Access-Control-Allow-Headers",
                "Accept, Authorization, Content-Type, PTTH-Last, PTTH-Message-ID, PTTH-Session",
            ),
            ("Access-Control-Allow-Private-Network", "true"),
            ("Access-Control-Max-Age", "600"),
            ("Cache-Control", "no-store"),
            turn::MARK,
        ];
        fields.extend(cors_fields(Some(origin)));
        fields.extend((!keep).then_some(("Connection", "close")));
        write_head(conn.output(), 204, &fields);
        conn.state = State::Device(Device::PollReply(PollReply::small(keep, written)));
        let sent = conn.flush();
        self.told(cx, id, sent);
    }

    /// Continues to write a reply.
    pub(in crate::gateway) fn tell_ready(&mut self, cx: &mut Connections<State>, id: Id) {
        let is_unwritten = cx.poll_reply(id).is_some_and(PollReply::is_unwritten);
        let Some(conn) = cx.get_mut(id) else { return };
        let sent = match conn.is_broken() {
            true => Err(std::io::ErrorKind::BrokenPipe.into()),
            false if is_unwritten => return, // there is nothing to write yet
            false => conn.flush(),
        };
        self.told(cx, id, sent);
    }

    pub(in crate::gateway) fn tell_expired(&mut self, cx: &mut Connections<State>, id: Id) {
        if cx.poll_reply(id).is_some_and(PollReply::is_unwritten) {
            return self.told(cx, id, Err(std::io::ErrorKind::TimedOut.into()));
        }
        let Some(conn) = cx.get_mut(id) else { return };
        conn.try_to_write(); // a socket reports late that it has room
        let before = conn.written();
        let sent = match conn.flush() {
            Ok(false) if conn.written() == before => Err(std::io::ErrorKind::TimedOut.into()),
            sent => sent,
        };
        self.told(cx, id, sent);
    }

    /// Handles the progress of writing a reply.
    pub(in crate::gateway) fn told(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        sent: std::io::Result<bool>,
    ) {
        let Some(conn) = cx.get_mut(id) else { return };
        let written = conn.written();
        let Some(reply) = cx.poll_reply_mut(id) else { return };
        let (event, keep, began) = (reply.event, reply.keep, written > reply.written);
        match sent {
            Ok(false) if !reply.has_moved(written) => {}
            Ok(false) => {
                let at = cx.after(self.settings.limits.body_silence_timeout);
                cx.set_deadline(id, Some(at));
            }
            Ok(true) => {
                self.go_on(cx, id, keep);
                if let Some(Device::Head { told, .. }) = cx.device_mut(id) {
                    *told = event;
                }
                if let Some(event) = event {
                    self.event_told(cx, event);
                }
            }
            Err(e) => {
                log_names!(Debug, "a poll could not be answered: {e}");
                cx.close(id);
                if let Some(event) = event {
                    self.follow_ups.push_back(FollowUp::EventNotTold { event, began });
                }
            }
        }
    }

    /// Continues with a device's connection after a reply.
    fn go_on(&mut self, cx: &mut Connections<State>, id: Id, keep: bool) {
        if !keep || (self.lifecycle.is_draining() && !self.events.are_in_hand()) {
            return self.linger(cx, id);
        }
        let Some(conn) = cx.get_mut(id) else { return };
        conn.state = BETWEEN_POLLS;
        self.await_request(cx, id);
    }

    pub(in crate::gateway) fn event_told(&mut self, cx: &mut Connections<State>, event: MessageId) {
        let after = self.settings.limits.redeliver_after;
        if self.events.written(event, cx.now(), !after.is_zero()) {
            let at = cx.after(after);
            self.set_alarm(cx, at, Alarm::Redeliver);
        }
    }
}
