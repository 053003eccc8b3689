//! CONNECT as a stage of the dial.
//!
//! ```text
//!   connected ─► CONNECT gw.example:9999 ─► 1xx* ─► 2xx ─► offer, as ever      anything else: a failed attempt
//!                                                └─► 403, 405 ─► POST http://gw.example:9999/lamp: polls, where the gateway is http://
//! ```

use std::time::Duration;
use std::time::Instant;

use crate::device::dial::Stage;
use crate::device::proxy::Proxy;
use crate::device::proxy::Refused;
use crate::device::proxy::proxy_answer;
use crate::device::role::DeviceRole;
use crate::device::state::State;
use crate::device::state::dial_stage;
use crate::device::state::flush;
use crate::device::url::Url;
use crate::engine::connections::Connections;
use crate::engine::connections::Id;
use crate::proto::interim::InterimCount;
use crate::proto::turn::Fallback;

impl DeviceRole {
    /// The proxy through which this gateway is dialled, if any.
    pub(super) fn proxy_to(&self, url: &Url) -> Option<&Proxy> {
        self.plan.proxy.as_ref().filter(|proxy| proxy.serves(url))
    }

    /// The connection stands: to the gateway, which gets its offer, or to a proxy, which is asked
    /// for a tunnel first.
    pub(super) fn connected(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(State::Dial(dial)) = cx.get(id).map(|p| &p.state) else { return };
        let url = dial.url.clone();
        let Some(proxy) = self.proxy_to(&url).filter(|_| !self.polls_through_proxy(&url, cx.now()))
        else {
            return self.reached(cx, id);
        };
        let Some(peer) = cx.get_mut(id) else { return };
        proxy.write_connect(peer.output(), &url);
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
                if cx.get(id).is_some_and(|peer| peer.has_input()) {
                    cx.again(id); // what came behind the 200 is the gateway's
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

    /// Whether requests for this gateway go to its proxy in absolute form (RFC 9112 §3.2.2), since
    /// that opens no tunnel to such ports.
    pub(super) fn polls_through_proxy(&self, url: &Url, now: Instant) -> bool {
        !url.secure
            && self.no_tunnel_until.is_some_and(|until| now < until)
            && self.proxy_to(url).is_some()
    }

    /// The target of a request that goes through a proxy without a tunnel, and what the proxy has
    /// to see beside it.
    pub(super) fn through_proxy(&self, url: &Url) -> (String, Option<(String, String)>) {
        let authorization = self.proxy_to(url).and_then(|proxy| proxy.authorization.clone());
        (
            format!("http://{}{}", url.authority, url.target),
            authorization.map(|value| ("Proxy-Authorization".to_owned(), value)),
        )
    }

    fn may_poll_through_proxy(&self, cx: &Connections<State>, id: Id) -> bool {
        let Some(State::Dial(dial)) = cx.get(id).map(|p| &p.state) else { return false };
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

/// Where `turn_retry` is zero: how long a proxy's refusal counts, at least.
const PROXY_RETRY_MIN: Duration = Duration::from_secs(60);
