//! Held polls that are used for an event, end, or are missing for too long.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::connections::{Connections, Id};
use crate::gateway::alarms::Alarm;
use crate::gateway::polls::reply::Parked;
use crate::gateway::registry::{Gap, Registration};
use crate::gateway::state::{BETWEEN_POLLS, Device, GatewayRole, Hold, State};

impl GatewayRole {
    /// Removes a held poll from the registry; the caller answers it.
    pub(in crate::gateway) fn take_poll(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
    ) -> Option<Box<Parked>> {
        let conn = cx.get_mut(id)?;
        let registration = match &conn.state {
            State::Device(Device::Held { registration, hold: Hold::Poll(_) }) => {
                registration.clone()
            }
            _ => return None,
        };
        let taken = std::mem::replace(&mut conn.state, BETWEEN_POLLS);
        self.unpark(cx, id, &registration);
        match taken {
            State::Device(Device::Held { hold: Hold::Poll(parked), .. }) => Some(parked),
            _ => None,
        }
    }

    pub(in crate::gateway) fn unpark(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        registration: &Registration,
    ) {
        self.stats.polls.fetch_sub(1, Relaxed);
        for name in self.registry.unpark(registration, id, cx.now()) {
            let at = cx.after(self.settings.limits.poll_gap);
            self.set_alarm(cx, at, Alarm::PollGap(name));
        }
    }

    /// A mailbox may have been without a poll for too long.
    pub(in crate::gateway) fn poll_gap(&mut self, cx: &mut Connections<State>, name: Arc<str>) {
        match self.registry.poll_gap(&name, cx.now()) {
            Gap::None => {}
            Gap::In(rest) => {
                let at = cx.after(rest);
                self.set_alarm(cx, at, Alarm::PollGap(name));
            }
            Gap::Over(left, 0) => self
                .gone(&left, &CloseCause::Absent.because("it did not come again within poll_gap")),
            // All its polls may be busy for longer than any caller waits; this is logged.
            Gap::Over(left, n) => {
                let text =
                    format!("it did not come again within poll_gap; requests in progress: {n}");
                self.gone(&left, &CloseReason::new(CloseCause::Absent, text));
            }
        }
    }
}
