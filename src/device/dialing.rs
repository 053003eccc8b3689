//! Dialling: the number of links or polls, the time of each attempt, and the consequences of a
//! failed one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::close_reason::{CloseCause, CloseReason};
use crate::device::dial_stages::{DIAL, Dial};
use crate::device::events::DeviceEventKind;
use crate::device::follow_ups::FollowUp;
use crate::device::gateways::GatewayTarget;
use crate::device::lookups::{Found, Waiter};
use crate::device::role::DeviceRole;
use crate::device::state::{State, States};
use crate::device::url::Reach;
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;

impl DeviceRole {
    /// Dials the wanted number of links or polls, one at a time until the gateway answers. Answers
    /// that wait to be posted come first.
    pub(super) fn top_up(&mut self, cx: &mut Connections<State>) {
        self.shared.asked.store(false, Relaxed);
        self.give_up_late_answers(cx);
        let now = cx.now();
        if self.not_before.is_some_and(|at| at > now) {
            return;
        }
        self.not_before = None;
        if !self.has_time(cx) {
            return;
        }
        // A dial may fail at once (no route). Its consequences are handled first; they set
        // `not_before` again, and the rest waits.
        while self.not_before.is_none()
            && (!self.is_failing() || self.tries.answered || self.attempts() == 0)
        {
            if self.follow_ups.iter().any(FollowUp::is_failed_dial) {
                return self.follow_ups.push_back(FollowUp::TopUp);
            }
            if let Some(key) = self.slot_to_dial(now) {
                if let Some(dial) = self.begin_dial(key) {
                    self.resolve(cx, dial);
                }
            } else if self.draining {
                return;
            } else if self.is_polling(now) {
                let polls = self.slots.len() + self.shared.dialing.load(Relaxed);
                // If every poll carries an event, the gateway cannot even report waiting callers.
                let more = self.demand.is_pending() || self.working() >= polls;
                let wanted =
                    polls < *self.plan.polls.start() || (polls < *self.plan.polls.end() && more);
                if !wanted {
                    return self.demand.forget();
                }
                self.demand.dialled(now);
                let gateway = self.current_gateway();
                let key = self.new_slot(gateway.url.clone(), gateway, false);
                if let Some(dial) = self.begin_dial(key) {
                    self.resolve(cx, dial);
                }
            } else if self.shared.is_short() || self.is_asked_for_links() {
                if !self.burst.takes(now, self.is_asked_for_links()) {
                    if !std::mem::replace(&mut self.burst.alarmed, true) {
                        cx.alarm(self.burst.ends, DIAL);
                    }
                    return;
                }
                self.demand.dialled(now);
                self.shared.dialing.fetch_add(1, Relaxed);
                let gateway = self.current_gateway();
                self.resolve(cx, Box::new(Dial::new(gateway.url.clone(), gateway, 0, None)));
            } else {
                return self.demand.forget();
            }
        }
    }

    /// Returns true if the gateway has reported waiting callers and there is room for links.
    fn is_asked_for_links(&self) -> bool {
        self.shared.room() > 0 && self.demand.is_pending()
    }

    /// Looks up the addresses of the gateway, or of the proxy on the way to it, and dials them one
    /// after another.
    pub(super) fn resolve(&mut self, cx: &mut Connections<State>, mut dial: Box<Dial>) {
        if let Some(why) = dial.url.too_near(Reach::of_host(&dial.url.host)) {
            return self.cannot_reach(cx, &dial, &why);
        }
        if let Some(network) = self.plan.network.clone() {
            dial.begun = Some(cx.now());
            return self.race_within(cx, Waiter::Dial(dial), &network);
        }
        let (host, port) = match self.proxy_to(&dial.url) {
            Some(proxy) => (proxy.host.clone(), proxy.port),
            None => (dial.url.host.clone(), dial.url.port),
        };
        dial.begun = Some(cx.now());
        match host.parse::<IpAddr>() {
            Ok(ip) => self.race(cx, Waiter::Dial(dial), &host, vec![SocketAddr::new(ip, port)]),
            Err(_) => self.look_up(cx, &host, port, Waiter::Dial(dial)),
        }
    }

    /// The lookup for a dial has ended.
    pub(super) fn dial_found(
        &mut self,
        cx: &mut Connections<State>,
        mut dial: Box<Dial>,
        host: &str,
        found: Found,
    ) {
        match found {
            _ if self.draining && dial.slot.is_none() => self.undialed(),
            _ if dial.slot.is_some_and(|key| self.slots.get(key).is_none()) => {} // given up meanwhile
            Ok(mut addresses) => {
                let nearest = addresses.iter().map(|address| Reach::of(address.ip())).min();
                if self.proxy_to(&dial.url).is_none() {
                    addresses.retain(|address| Reach::of(address.ip()) >= dial.url.nearest); // regardless of the name server's answer
                }
                if let (true, Some(why)) =
                    (addresses.is_empty(), nearest.and_then(|nearest| dial.url.too_near(nearest)))
                {
                    return self.cannot_reach(cx, &dial, &why);
                }
                dial.begun = Some(cx.now());
                self.race(cx, Waiter::Dial(dial), host, addresses);
            }
            Err(why) => self.cannot_reach(cx, &dial, &why),
        }
    }

    pub(super) fn cannot_reach(&mut self, cx: &mut Connections<State>, dial: &Dial, why: &str) {
        let why = match self.proxy_to(&dial.url) {
            Some(proxy) => format!(
                "proxy {} on the way to gateway {} cannot be reached: {why}",
                proxy.text, dial.url.text
            ),
            None => format!("gateway {} cannot be reached: {why}", dial.url.text),
        };
        self.dial_failed(cx, &dial.gateway, dial.slot, &why, None);
    }

    pub(super) fn end_dial(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        why: &str,
        retry_after: Option<Duration>,
    ) {
        let Some(dial) = cx.dial(id) else { return };
        let (url, gateway, slot) = (dial.url.clone(), dial.gateway.clone(), dial.slot);
        cx.close(id);
        self.dial_failed(cx, &gateway, slot, &format!("{}: {why}", url.text), retry_after);
    }

    /// Handles a failed attempt to offer or poll at `gateway`; its connection is closed.
    pub(super) fn dial_failed(
        &mut self,
        cx: &mut Connections<State>,
        gateway: &Arc<GatewayTarget>,
        slot: Option<Key>,
        why: &str,
        retry_after: Option<Duration>,
    ) {
        if let Some(key) = slot.filter(|key| self.is_beside(*key)) {
            return self.doubt_refused(cx, key, why);
        }
        self.attempt_over(cx, slot, why);
        if self.draining && (slot.is_none() || self.slots.len() == 0) {
            return;
        }
        self.tell(DeviceEventKind::Failed, gateway, &gateway.url.text, why.to_owned());
        self.failed_at(cx, gateway, why, retry_after);
    }

    pub(super) fn attempt_over(
        &mut self,
        cx: &mut Connections<State>,
        slot: Option<Key>,
        why: &str,
    ) {
        match slot {
            Some(key) => self.poll_failed(cx, key, why),
            None => {
                self.undialed();
                self.update_transport(
                    cx,
                    "",
                    Some(&CloseReason::new(CloseCause::Cut, why.to_owned())),
                ); // it may have been the last held offer
            }
        }
    }

    /// A poll beside the links failed: the gateway does not accept polls, and the links are kept.
    pub(super) fn doubt_refused(&mut self, cx: &mut Connections<State>, key: Key, why: &str) {
        log_names!(Debug, "a poll beside the links came to nothing: {why}");
        self.doubt_later(cx.now());
        self.drop_slot(cx, key, why);
    }
}
