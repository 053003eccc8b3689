//! How a stopping device ends its links. If it closed an idle link itself, a request might be on
//! its way and would be lost. So it asks the gateway for goaways, with a POST that announces the
//! stop (`PTTH-Last`, protocol.md §2.1). Until the goaways arrive, requests are answered.
//!
//! ```text
//!   No ─► Asks (the POST is on its way) ─► Heard (each idle link gets a goaway) ─► No (the rest is closed)
//!              └───────────── it failed ────────────────────────────────────────────┘
//! ```

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::device::dial_stages::{PART, Stage};
use crate::device::findings::Parting;
use crate::device::links::STOPS;
use crate::device::plan::Service;
use crate::device::role::DeviceRole;
use crate::device::state::{State, States};
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::proto::turn::Fallback;

impl DeviceRole {
    /// Asks the gateway for goaways, if there are links, or offers that it may just accept. Returns
    /// true if the links are kept meanwhile.
    pub(super) fn say_goodbye(&mut self, cx: &mut Connections<State>, time: Duration) -> bool {
        // A program itself ends the links that it has accepted.
        let may_ask = !time.is_zero()
            && self.plan.fallback != Fallback::Never
            && !matches!(self.service, Service::Listen(_));
        let has_links = self.shared.links.load(Relaxed) > 0;
        if !may_ask || !(has_links || cx.ids().iter().any(|id| is_offered(cx, *id))) {
            return false;
        }
        let gateway = self.current_gateway();
        let key = self.new_slot(gateway.url.clone(), gateway, false);
        self.parting = Parting::Asks(key);
        let at = cx.after(time.min(self.limits.abandoned_timeout));
        cx.alarm(at, PART);
        self.dial_slot(key);
        true
    }

    /// The gateway took the POST of this slot: its goaways will follow.
    pub(super) fn goodbye_heard(&mut self, slot: Option<Key>) {
        if slot.is_some_and(|key| self.parting == Parting::Asks(key)) {
            self.parting = Parting::Heard;
        }
    }

    /// The time has expired.
    pub(super) fn part(&mut self, cx: &mut Connections<State>) {
        match self.parting {
            Parting::Asks(key) => {
                self.drop_slot(cx, key, "the gateway did not hear that the device stops")
            }
            Parting::Heard => self.close_idle(cx),
            Parting::No => {}
        }
    }

    /// Closes connections without a request in progress.
    pub(super) fn close_idle(&mut self, cx: &mut Connections<State>) {
        self.parting = Parting::No;
        for id in cx.ids() {
            match cx.state(id) {
                Some(State::Dial(dial)) if dial.slot.is_none() => {
                    cx.close(id);
                    self.shared.dialing.fetch_sub(1, Relaxed);
                }
                Some(_) if is_idle_link(cx, id) => self.link_gone(cx, id, STOPS),
                _ => {}
            }
        }
        self.update_transport(cx, "", Some(&STOPS));
    }
}

/// Returns true if an offer was sent that its gateway may have accepted already.
pub(super) fn is_offered(cx: &Connections<State>, id: Id) -> bool {
    cx.dial(id)
        .is_some_and(|dial| dial.slot.is_none() && matches!(dial.stage, Stage::Offered { .. }))
}

fn is_idle_link(cx: &Connections<State>, id: Id) -> bool {
    cx.link(id).is_some_and(|link| link.exchange.is_none() && link.slot.is_none())
}
