//! Writes offers and polls, and gives polls a slot.

use crate::close_reason::{CloseCause, CloseReason};
use crate::device::dial_stages::Stage;
use crate::device::follow_ups::FollowUp;
use crate::device::role::DeviceRole;
use crate::device::state::{State, States, dial_stage, flush};
use crate::engine::connections::{Connections, Id};
use crate::engine::slab::Key;
use crate::proto::interim::InterimCount;
use crate::proto::turn;
use crate::stream::TlsSession;

impl DeviceRole {
    /// The connection to the gateway is established: begins the TLS handshake, or writes the offer.
    pub(super) fn reached(&mut self, cx: &mut Connections<State>, id: Id) {
        let Some(dial) = cx.dial(id) else { return };
        if !dial.url.secure {
            return self.offer(cx, id);
        }
        let begun = match &self.plan.tls {
            Some(connector) => TlsSession::to_server(connector, &dial.url.host).map_err(|e| e.to_string()),
            None => {
                Err("it was redirected to from http://, where anybody could have said so; give this device the https:// URL itself"
                    .to_owned())
            }
        };
        let why = match begun {
            Ok(channel) => {
                dial_stage(cx, id, Stage::Securing);
                let at = cx.after(self.limits.handshake_timeout);
                cx.set_deadline(id, Some(at));
                if cx.secure(id, channel, false) {
                    return;
                }
                "as many TLS handshakes are in progress as handshakes_max allows".to_owned()
            }
            Err(why) => why,
        };
        self.follow_ups.push_back(FollowUp::EndDial { id, why });
    }

    /// Writes the offer or the poll, and begins the answer in it. Secrets and the session are sent
    /// only to configured origins; each other origin has a separate session.
    pub(super) fn offer(&mut self, cx: &mut Connections<State>, id: Id) {
        let now = cx.now();
        let Some(dial) = cx.dial(id) else { return };
        let (url, mut slot) = (dial.url.clone(), dial.slot);
        let through = self.polls_through_proxy(&url, now).then(|| self.through_proxy(&url));
        let last = self.draining();
        let upgrade = !last && through.is_none() && self.offers_turn(slot, now);
        if !upgrade && slot.is_none() {
            slot = self.adopt(cx, id, false);
            if slot.is_none() {
                return; // there are enough polls
            }
        }
        let mut plan = self.plan.offer.clone();
        (plan.upgrade, plan.last) = (upgrade, last);
        plan.authority.clone_from(&url.authority);
        plan.target.clone_from(&url.target);
        if let Some((target, authorization)) = through {
            plan.target = target;
            plan.fields.extend(authorization);
        }
        if self.plan.gateways.any_has_origin(&url) {
            plan.fields.extend(self.plan.secrets.iter().cloned());
            plan.session = self.sessions.own();
        } else {
            plan.session = self.sessions.of(&url);
        }
        let brought = self.brought(slot);
        let Some(conn) = cx.get_mut(id) else { return };
        let written = turn::write_post(conn.output(), &plan, brought.as_ref());
        let posts = brought.is_some();
        if let State::Dial(dial) = &mut conn.state {
            dial.stage = Stage::Offered { at: now, upgrade, interim: InterimCount::default() };
        }
        if let Err(refusal) = written {
            let why = format!("the offer cannot be written: {}", refusal.reason);
            return self.follow_ups.push_back(FollowUp::EndDial { id, why });
        }
        match slot {
            Some(key) if posts => self.begin_post(cx, key),
            _ => {
                flush(cx, id);
                let at = cx.after(self.limits.offer_timeout);
                cx.set_deadline(id, Some(at));
            }
        }
    }

    /// The slot of a connection: its current one, or a new one. Without `force` the connection is
    /// closed if there are enough slots.
    pub(super) fn adopt(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        force: bool,
    ) -> Option<Key> {
        let dial = cx.dial(id)?;
        if dial.slot.is_some() {
            return dial.slot;
        }
        let (url, gateway) = (dial.url.clone(), dial.gateway.clone());
        self.undialed();
        if !force && self.slots.len() >= *self.plan.polls.start() {
            cx.close(id);
            self.polls_ended(cx, "there are as many polls as are allowed");
            return None;
        }
        let key = self.new_slot(url, gateway, false);
        self.has_connection(Some(key), id);
        if let Some(dial) = cx.dial_mut(id) {
            dial.slot = Some(key);
        }
        Some(key)
    }

    /// A poll slot ended, or lost its connection: the device may be disconnected now.
    pub(super) fn polls_ended(&mut self, cx: &mut Connections<State>, why: &str) {
        let stops = self.draining() || self.tries.stopping;
        let end = if stops { CloseCause::Drained } else { CloseCause::Cut };
        self.update_transport(cx, "", Some(&CloseReason::new(end, why.to_owned())));
    }
}
