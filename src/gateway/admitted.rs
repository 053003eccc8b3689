//! The next state of an admitted connection: a link, a held offer or poll, or a link of a program.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::close_reason::CloseCause;
use crate::engine::connections::{Connections, Id};
use crate::gateway::bounds::Bound;
use crate::gateway::credentials::REVOKED;
use crate::gateway::device_head::{Admitted, DeviceHead};
use crate::gateway::leases::{Handle, LeaseId, LeasedLink};
use crate::gateway::links::UNTURNED;
use crate::gateway::links::peer_flush;
use crate::gateway::refusals::REPLACED;
use crate::gateway::registry::Registration;
use crate::gateway::state::{Command, Device, GatewayRole, Hold, State, States};
use crate::link::{CutError, GatewayLink, LinkedDevice};
use crate::observe::Observed;
use crate::proto::turn::{STOPPING, Transport};
use crate::relay::LocalAnswer;

impl GatewayRole {
    /// Upgrades a connection, or takes it for a poll.
    pub(super) fn begin_admitted(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        head: DeviceHead,
        admitted: Admitted,
        switch: Option<Vec<u8>>,
    ) {
        let registration = admitted.registration.clone();
        match switch {
            _ if self.credentials.is_revoked(&registration) => {
                let left = self.registry.lease_ends(&registration, cx.now());
                self.gone(&left, &CloseCause::Revoked.because(REVOKED));
                self.deny_credential(
                    cx,
                    id,
                    head.origin.as_deref(),
                    &LocalAnswer::new(401, REVOKED),
                );
            }
            // Its answer was accepted; it gets no event.
            _ if head.last => self.device_leaves(cx, id, &registration, &head),
            // Waiting callers are served first, as by a link.
            _ if self.lifecycle.is_draining() && !self.registry.callers_wait(&registration) => {
                let left = self.registry.lease_ends(&registration, cx.now());
                self.gone(&left, &CloseCause::Drained.because("this gateway stops"));
                let origin = head.origin.as_deref();
                self.deny(
                    cx,
                    id,
                    origin,
                    &LocalAnswer { retry_after: Some(5), ..LocalAnswer::new(503, STOPPING) },
                );
            }
            Some(switch) => self.upgrade(cx, id, switch, registration),
            // Its session was replaced while its answer was read.
            None if !self.registry.in_force(&registration) => {
                let origin = head.origin.as_deref();
                self.deny(
                    cx,
                    id,
                    origin,
                    &LocalAnswer { retry_after: Some(60), ..LocalAnswer::new(409, REPLACED) },
                );
            }
            None => self.park(cx, id, admitted, head),
        }
    }

    /// A device stops. Between two requests its links end without loss only if this side ends them.
    fn device_leaves(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        registration: &Registration,
        head: &DeviceHead,
    ) {
        let idle = self.registry.idle_links(registration);
        let left = self.registry.lease_ends(registration, cx.now());
        self.gone(&left, &CloseCause::Drained.because("the device stops"));
        for link in idle {
            match cx.device(link) {
                Some(Device::Held { .. }) => self.hold_expired(cx, link),
                _ => self.part(cx, link),
            }
        }
        self.tell_nothing(cx, id, head);
    }

    pub(super) fn upgrade(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        switch: Vec<u8>,
        registration: Arc<Registration>,
    ) {
        self.stats.turns.fetch_add(1, Relaxed);
        if self.settings.on_link.is_some() {
            return self.hand_to_worker(cx, id, registration, &switch);
        }
        let Some(conn) = cx.get_mut(id) else { return };
        if self.settings.turns.hold(registration.names()) {
            conn.state = State::Device(Device::Held {
                registration: registration.clone(),
                hold: Hold::Offer(switch),
            });
            self.registry.place(&registration, id);
            let at = cx.after(self.settings.limits.poll_hold);
            match self.registry.next_waiter(&registration, false) {
                Some(waiter) => {
                    self.switch_held(cx, id);
                    self.serve(cx, id, waiter);
                }
                None => {
                    self.registry.set_idle(&registration, id, None);
                    cx.set_deadline(id, Some(at));
                }
            }
            return;
        }
        conn.output().extend_from_slice(&switch);
        conn.state = State::Device(Device::link(registration.clone()));
        self.registry.place(&registration, id);
        // A waiting request follows in the same write; without one the 101 is sent alone.
        match self.registry.next_waiter(&registration, false) {
            Some(waiter) => self.serve(cx, id, waiter),
            None if peer_flush(cx, id) => self.link_free(cx, id, Ok(())),
            None => self.drop_link(cx, id, UNTURNED),
        }
    }

    /// Hands a link to `on_link`. The worker was reserved by the count of leased links, and owns
    /// the link until the handler returns.
    fn hand_to_worker(
        &mut self,
        cx: &mut Connections<State>,
        id: Id,
        registration: Arc<Registration>,
        switch: &[u8],
    ) {
        let Some(handler) = self.settings.on_link.clone() else { return };
        let give_up = |role: &mut Self, cx: &mut Connections<State>| {
            role.lease_ended(
                cx,
                &registration,
                &CloseCause::Limit.because("no worker for its link"),
            );
        };
        // Its worker is reserved before the 101, and counted for all loops.
        cx.set_leases(self.leases.len() + 1);
        if cx.leased() > self.settings.limits.on_link_max {
            cx.set_leases(self.leases.len());
            self.stats.reached(Bound::OnLink);
            give_up(self, cx);
            return self.refuse(
                cx,
                id,
                &LocalAnswer {
                    retry_after: Some(10),
                    ..LocalAnswer::new(503, "as many links are served as on_link_max allows")
                },
            );
        }
        if let Some(conn) = cx.get_mut(id) {
            conn.output().extend_from_slice(switch);
        }
        let turned = peer_flush(cx, id);
        let permit = cx.take_permit(id);
        let device = self.linked_device(cx, id, &registration);
        let Some((stream, unread, _)) = cx.remove(id).filter(|_| turned) else {
            cx.set_leases(self.leases.len());
            return give_up(self, cx);
        };
        let handle = stream.try_clone().map_or(Handle::None, Handle::Own);
        let lease = self.leases.add(LeasedLink {
            registration: registration.clone(),
            handle,
            cut_error: CutError::default(),
            observed: Observed::default(),
            permit,
        });
        cx.set_leases(self.leases.len());
        let (limits, remote) = (self.settings.link_limits.clone(), self.remote.clone());
        let airplay = registration.is_airplay();
        let submitted = self.link_workers.submit(move || {
            let _back = Returning { remote, lease };
            match stream.set_nonblocking(false) {
                Ok(()) => handler(
                    GatewayLink::within(stream, unread, limits)
                        .taking_events(airplay)
                        .of_device(device),
                ),
                Err(e) => log::error!("a turned connection cannot be made blocking: {e}"),
            }
        });
        if !submitted {
            self.leases.take(lease);
            cx.set_leases(self.leases.len());
            give_up(self, cx);
        }
    }

    /// The description of a link's device for the program.
    fn linked_device(
        &self,
        cx: &Connections<State>,
        id: Id,
        registration: &Registration,
    ) -> LinkedDevice {
        LinkedDevice {
            name: registration.name().clone(),
            remote_ip: cx.get(id).and_then(|connection| connection.stream().remote_ip()),
            transport: Transport::Turn,
            token: registration.token().and_then(|digest| self.credentials.label(digest)),
        }
    }
}

/// Tells the loop, also when the handler panics, that an `on_link` worker is done.
struct Returning {
    remote: crate::engine::event_loop::Remote<Command>,
    lease: LeaseId,
}

impl Drop for Returning {
    fn drop(&mut self) {
        self.remote.send(Command::Return {
            lease: self.lease,
            stream: Err(CloseCause::Program.because("its handler has finished")),
        });
    }
}
