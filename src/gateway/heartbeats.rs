//! `OPTIONS *` on idle links: heartbeats, and the goaway, which asks a device to leave
//! (protocol.md §1.5).

use crate::close_reason::CloseCause;
use crate::engine::connections::{Connections, Id};
use crate::gateway::refusals::REPLACED;
use crate::gateway::state::{Device, GatewayRole, State, States};
use crate::proto::forward::waiting_line;
use crate::proto::heartbeat;
use crate::proto::turn::STOPPING;
use crate::relay::{self, Exchange};

impl GatewayRole {
    /// Schedules the next heartbeat of an idle link, and frees its buffers.
    pub(super) fn watch_idle(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(conn) = cx.get_mut(id) else { return };
        conn.free_buffers();
        let heartbeat = self.settings.limits.heartbeat;
        let at = (!heartbeat.is_zero()).then(|| cx.after_about(heartbeat));
        cx.set_deadline(id, at);
    }

    /// A link was idle for long enough: sends a heartbeat (protocol.md §1.5).
    pub(super) fn beat(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(registration) = cx.registration(id) else { return };
        self.registry.set_busy(&registration, id);
        self.ask_options(cx, id, heartbeat::REQUEST);
    }

    /// Sends a goaway, because the link was replaced or the gateway stops. A held offer is refused.
    pub(super) fn part(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(registration) = cx.registration(id) else { return };
        let Some(conn) = cx.get_mut(id) else { return };
        match &mut conn.state {
            State::Device(Device::Link(link)) if link.leaving || link.exchange.is_some() => {}
            State::Device(Device::Link(link)) => {
                link.leaving = true;
                self.registry.set_busy(&registration, id);
                self.ask_options(cx, id, heartbeat::GOAWAY);
            }
            State::Device(Device::Held { .. }) => {
                let (end, reason) = if self.lifecycle.is_draining() {
                    (CloseCause::Drained, STOPPING)
                } else {
                    (CloseCause::Replaced, REPLACED)
                };
                self.unhold(cx, id, &end.because(reason));
                match self.lifecycle.is_draining() {
                    true => self.send_away(cx, id),
                    false => self.deny_device(cx, id, 409, REPLACED, Some(60)),
                }
            }
            _ => {}
        }
    }

    fn ask_options(&mut self, cx: &mut Connections<State>, id: Id, request: &'static [u8]) {
        let Some(registration) = cx.registration(id) else { return };
        let demand = self.registry.demand(&registration, 0);
        let exchange = Exchange::heartbeat(
            request.to_vec(),
            self.settings.limits.heartbeat_timeout,
            &self.settings.limits,
            cx.now(),
        );
        let key = self.exchanges.insert(Box::new(exchange));
        let now = cx.now();
        if let Some(link) = cx.link_mut(id) {
            (link.exchange, link.asked) = (Some(key), Some(now));
        }
        relay::attach_with(self, cx, key, id, &waiting_line(demand));
    }
}
