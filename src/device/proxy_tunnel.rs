//! CONNECT through a proxy, as a stage of a dial.
//!
//! ```text
//!   connected ─► CONNECT gw.example:9999 ─► 1xx* ─► 2xx ─► offer, as ever      anything else: a failed attempt
//!                                                └─► 403, 405 ─► POST http://gw.example:9999/lamp: polls, where the gateway is http://
//! ```

use std::time::Duration;

use crate::device::dial_stages::Stage;
use crate::device::proxy::{Refused, proxy_answer};
use crate::device::role::DeviceRole;
use crate::device::state::{State, States, dial_stage, flush};
use crate::engine::connections::{Connections, Id};
use crate::proto::interim::InterimCount;
use crate::proto::turn::Fallback;

impl DeviceRole {
    /// A connection is established: to the gateway, which gets the offer, or to a proxy, which gets
    /// a CONNECT first.
    pub(super) fn connected(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(dial) = cx.dial(id) else { return };
        let url = dial.url.clone();
        let Some(proxy) = self.proxy_to(&url).filter(|_| !self.polls_through_proxy(&url, cx.now()))
        else {
            return self.reached(cx, id);
        };
        let Some(conn) = cx.get_mut(id) else { return };
        proxy.write_connect(conn.output(), &url);
        dial_stage(cx, id, Stage::Tunnelling { interim: InterimCount::default() });
        flush(cx, id);
        let at = cx.after(self.limits.proxy_timeout);
        cx.set_deadline(id, Some(at));
    }

    pub(super) fn tunnel_is_late(&mut self, cx: &mut Connections<State>, id: Id) {
        let proxy = self.plan.proxy.as_ref().map_or("", |proxy| &proxy.text);
        let why = format!("proxy {proxy} did not answer CONNECT within proxy_timeout");
        self.end_dial(cx, id, &why, None);
    }

    pub(super) fn read_tunnel(&mut self, cx: &mut Connections<State>, id: Id) {
        let mut scratch = cx.take_scratch();
        let answer = self
            .plan
            .proxy
            .as_ref()
            .map(|proxy| proxy_answer(cx, id, proxy, &self.limits, &mut scratch));
        cx.put_scratch(scratch);
        match answer {
            Some(Ok(true)) => {
                self.reached(cx, id);
                if cx.get(id).is_some_and(|conn| conn.has_input()) {
                    cx.reschedule(id); // bytes after the 200 come from the gateway
                }
            }
            Some(Ok(false)) | None => {}
            Some(Err(Refused { why, no_connect: true, .. }))
                if self.may_poll_through_proxy(cx, id) =>
            {
                self.poll_through_proxy(cx, id, &why)
            }
            Some(Err(Refused { why, retry_after, .. })) => self.end_dial(cx, id, &why, retry_after),
        }
    }

    fn may_poll_through_proxy(&self, cx: &Connections<State>, id: Id) -> bool {
        let Some(dial) = cx.dial(id) else { return false };
        !dial.url.secure
            && self.plan.fallback != Fallback::Never
            && !(self.draining() && dial.slot.is_none())
    }

    fn poll_through_proxy(&mut self, cx: &mut Connections<State>, id: Id, why: &str) {
        let time = self.limits.turn_retry.max(PROXY_RETRY_MIN);
        log_names!(
            Warn,
            "{why}. Polling through it without a tunnel for {} s (turn_retry); a gateway on port 443 (https) would most likely get one",
            time.as_secs_f32()
        );
        self.no_tunnel_until = Some(cx.after(time));
        self.ask_without_upgrade(cx, id, None);
    }
}

/// The minimum time for which a proxy's refusal counts, if `turn_retry` is zero.
const PROXY_RETRY_MIN: Duration = Duration::from_secs(60);
