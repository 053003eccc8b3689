//! Leases links and polls to programs, takes them back, and ends waits for them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::cancel::Cancel;
use crate::close_reason::{CloseCause, CloseReason};
use crate::engine::connections::{Connections, Id};
use crate::error::Error;
use crate::gateway::alarms::Alarm;
use crate::gateway::callers::{Caller, LeaseReply, NameReply};
use crate::gateway::credentials::REVOKED;
use crate::gateway::follow_ups::FollowUp;
use crate::gateway::leases::{Handle, Lease, LeaseId, Leased, LeasedLink};
use crate::gateway::links::{UNTURNED, peer_flush};
use crate::gateway::loops::MOVED_TOO_OFTEN;
use crate::gateway::registry::{Registration, Waiter};
use crate::gateway::state::{
    Borrow, Command, Device, GatewayRole, SHORT_OF_MEMORY, State, States, Visitor, VisitorSource,
};
use crate::limits::MOVES_MAX;
use crate::link::CutError;
use crate::relay::Wait;
use crate::setting::LINKS;
use crate::stream::Stream;

impl GatewayRole {
    /// Leases a busy link to a program's thread. Returns false if that thread has left, so that the
    /// link is free.
    pub(super) fn lease(&mut self, cx: &mut Connections<State>, caller: u64, id: Id) -> bool {
        let Some((_, reply)) = self.callers.take_for_link(caller) else { return false };
        self.lease_to(cx, &reply, id)
    }

    fn lease_to(&mut self, cx: &mut Connections<State>, reply: &LeaseReply, id: Id) -> bool {
        let Some(registration) = cx.registration(id) else { return true };
        let permit = cx.take_permit(id);
        let Some((stream, unread, _)) = cx.remove(id) else { return true };
        let stream = Arc::new(stream);
        let airplay = registration.is_airplay();
        let observed = self.observe_lease(&registration);
        self.registry.lease(&registration, id);
        let waiting = self.registry.demand(&registration, 0);
        let cut_error = CutError::default();
        let lease_id = self.leases.add(LeasedLink {
            registration,
            handle: Handle::Weak(Arc::downgrade(&stream)),
            cut_error: cut_error.clone(),
            observed,
            permit,
        });
        cx.set_leases(self.leases.len());
        self.stats.exchanges.fetch_add(1, Relaxed);
        let lease =
            Lease { stream, unread, of: Leased::Link(lease_id), cut_error, airplay, waiting };
        if let Err(unsent) = reply.send(Ok(lease)) {
            let Ok(Lease { stream, unread, .. }) = unsent.0 else { return true };
            let stream = Arc::into_inner(stream).map(|stream| (stream, unread));
            self.take_back(
                cx,
                lease_id,
                stream.ok_or(CloseCause::Failed.because("its caller went while it was leased")),
            );
        }
        true
    }

    /// Gives a program's thread one end of a socket pair, if its device polls, or is not connected
    /// here. The loop handles requests from the other end like a visitor's.
    pub(super) fn lease_mailbox(&mut self, cx: &mut Connections<State>, caller: u64) {
        if let Some((name, reply)) = self.callers.take_for_link(caller) {
            self.lease_mailbox_to(cx, &name, &reply);
        }
    }

    /// The same for a program that speaks HTTP itself, for links and polls.
    #[cfg(feature = "ureq")]
    pub(super) fn open(&mut self, cx: &mut Connections<State>, name: &str, reply: &LeaseReply) {
        if self.lifecycle.is_draining() {
            let stopping = Error::stopped("this gateway is stopping; nothing new is sent");
            let _ = reply.send(Err(stopping)); // the caller may have gone
            return;
        }
        self.lease_mailbox_to(cx, name, reply);
    }

    fn lease_mailbox_to(&mut self, cx: &mut Connections<State>, name: &str, reply: &LeaseReply) {
        let cut_error = CutError::default();
        let opened = Stream::pair().and_then(|(ours, theirs)| {
            ours.set_nonblocking(true)?;
            let id = cx.insert(
                ours,
                &[],
                State::Visitor(Visitor::fresh(VisitorSource::program(name, cut_error.clone()))),
            )?;
            Ok((id, theirs))
        });
        let answer = match opened {
            Ok((id, theirs)) => {
                let at = cx.after(self.settings.limits.head_timeout);
                cx.set_deadline(id, Some(at));
                Ok(Lease {
                    stream: Arc::new(theirs),
                    unread: Vec::new(),
                    of: Leased::Pair,
                    cut_error,
                    airplay: false,
                    waiting: 0, // the event contains it
                })
            }
            Err(e) => Err(Error::io(
                crate::Fault::Gateway,
                format_args!("opening a connection to device {name}"),
                e,
            )),
        };
        let _ = reply.send(answer); // if the caller has left, its end is dropped here, and the loop notices that
    }

    pub(super) fn take_back(
        &mut self,
        cx: &mut Connections<State>,
        lease: LeaseId,
        stream: Result<(Stream, Vec<u8>), CloseReason>,
    ) {
        let Some(LeasedLink { registration, permit, mut observed, .. }) = self.leases.take(lease)
        else {
            return;
        };
        if let Some(why) = stream.as_ref().err().filter(|why| !why.cause.is_usual()) {
            observed.failed(why.cause.as_str(), 0);
        }
        drop(observed);
        cx.set_leases(self.leases.len());
        let device = Device::link(registration.clone());
        let inserted = stream.and_then(|(stream, unread)| {
            let inserted = cx.insert(stream, &unread, State::Device(device));
            inserted.map_err(|e| {
                CloseReason::new(
                    CloseCause::Failed,
                    format!("it could not come back to the event loop: {e}"),
                )
            })
        });
        match inserted {
            Ok(id) => {
                cx.set_permit(id, permit);
                self.registry.place(&registration, id);
                let revoked = if self.credentials.is_revoked(&registration) {
                    Err(CloseCause::Revoked.because(REVOKED))
                } else {
                    Ok(())
                };
                self.follow_ups.push_back(FollowUp::LinkFree { link: id, reusable: revoked });
            }
            Err(why) => self.lease_ended(cx, &registration, &why),
        }
    }

    /// A leased or reserved link has ended.
    pub(super) fn lease_ended(
        &mut self,
        cx: &Connections<State>,
        registration: &Arc<Registration>,
        why: &CloseReason,
    ) {
        let left = self.registry.lease_ends(registration, cx.now());
        self.link_ended(registration, &left, why);
        self.follow_ups.push_back(FollowUp::ServeInLine(registration.clone())); // another request may be in flight
    }

    pub(super) fn borrow(&mut self, cx: &mut Connections<State>, wanted: Borrow) {
        let Borrow { name, wait, moves, cancel, reply } = wanted;
        if cancel.as_ref().is_some_and(Cancel::is_cancelled) {
            let _ = reply.send(Err(Error::cancelled()));
            return;
        }
        if let Some(to) = self.elsewhere(&name, cx.now()) {
            if moves >= MOVES_MAX {
                let _ = reply.send(Err(Error::full(MOVED_TOO_OFTEN)));
                return;
            }
            // If that loop has ended, it drops the reply, which ends the caller's wait.
            let wanted = Borrow { name, wait, moves: moves + 1, cancel, reply };
            self.loops.send(to, Command::Borrow(wanted));
            return;
        }
        if self.lifecycle.is_draining() {
            let _ =
                reply.send(Err(Error::stopped("this gateway is stopping; nothing new is sent")));
            return;
        }
        if self.is_short_of_memory(cx) {
            let _ = reply.send(Err(Error::full(SHORT_OF_MEMORY)));
            return;
        }
        while let Some((link, _)) = self.take_link(cx, &name) {
            if !self.is_alive(cx, link) {
                continue;
            }
            if !peer_flush(cx, link) {
                self.drop_link(cx, link, UNTURNED);
                continue;
            }
            self.lease_to(cx, &reply, link);
            return;
        }
        // If another gateway may have the device, requests are sent there, like a visitor's.
        let is_sought = self.peers.is_some() && !self.registry.is_connected_anywhere(&name);
        if is_sought || self.registry.is_polling(&name) {
            return self.lease_mailbox_to(cx, &name, &reply);
        }
        if !self.is_known(cx, &name) {
            let _ = reply.send(Err(Error::unknown(format!(
                "no device {name} is connected, or was recently, to this gateway"
            ))));
            return;
        }
        let number = self.callers.next();
        if !self.registry.enqueue(&name, Waiter::Caller(number)) {
            let _ = reply.send(Err(Error::full(format!(
                "as many callers wait for {name} as waiting_per_device_max allows; try again later"
            ))));
            return;
        }
        self.ease_pins_after(cx, &name, wait.time / 2);
        self.callers.add(number, Caller::Link { name, wait, cancel, reply });
        let at = cx.after(wait.time);
        self.set_alarm(cx, at, Alarm::Caller(number));
    }

    /// These names are connected to this loop.
    pub(super) fn announce(&mut self, names: &[Arc<str>]) {
        self.callers.announce(names);
        if self.loops.are_several() && !names.is_empty() && self.callers.are_anywhere() {
            let names: Arc<[Arc<str>]> = names.into();
            self.loops.send_others(self.number, || Command::Announce { names: names.clone() });
        }
    }

    /// The device for which a program waits is connected to another loop.
    pub(super) fn caller_moved(&mut self, number: u64) {
        if let Some((_, reply)) = self.callers.take_for_link(number) {
            let _ = reply.send(Err(Error::busy(MOVED_TOO_OFTEN)));
        }
    }

    pub(super) fn await_name(
        &mut self,
        cx: &mut Connections<State>,
        name: String,
        time: Duration,
        cancel: Option<Cancel>,
        reply: NameReply,
    ) {
        if cancel.as_ref().is_some_and(Cancel::is_cancelled) {
            let _ = reply.send(Err(Error::cancelled()));
            return;
        }
        let number = self.callers.next();
        self.callers.add(number, Caller::Name { name: name.clone(), cancel, reply });
        if self.registry.is_connected_anywhere(&name) {
            return self.callers.announce(&[name.into()]);
        }
        let at = cx.after(time);
        self.set_alarm(cx, at, Alarm::Caller(number));
    }

    /// Answers the threads that wait and were cancelled.
    pub(super) fn end_cancelled(&mut self) {
        for (number, caller) in self.callers.take_cancelled() {
            match caller {
                Caller::Link { name, reply, .. } => {
                    self.registry.cancel_wait(&name, Waiter::Caller(number));
                    let _ = reply.send(Err(Error::cancelled())); // the thread waits for this
                }
                Caller::Name { reply, .. } => drop(reply.send(Err(Error::cancelled()))),
            }
        }
    }

    pub(super) fn caller_expired(&mut self, cx: &Connections<State>, number: u64) {
        let now = cx.now();
        match self.callers.take(number) {
            None => {}
            Some(Caller::Link { name, wait, reply, .. }) => {
                self.registry.cancel_wait(&name, Waiter::Caller(number));
                let text = self.waited_in_vain(&name, wait, now);
                let is_connected = self.registry.is_connected_anywhere(&name);
                let error = if is_connected { Error::busy(text) } else { Error::away(text) };
                let _ = reply.send(Err(error));
            }
            Some(Caller::Name { name, reply, .. }) => {
                let error = if self.is_known(cx, &name) {
                    Error::away(format!("device {name} did not connect in the time given"))
                } else {
                    Error::unknown(format!(
                        "no device {name} connected in the time given, and none was connected recently"
                    ))
                };
                let _ = reply.send(Err(error));
            }
        }
    }

    /// Explains why a wait for `name` timed out, in the words of the log.
    pub(super) fn waited_in_vain(&self, name: &str, wait: Wait, now: Instant) -> String {
        let (links, _) = self.registry.links(name);
        if links > 0 {
            let which = match links {
                1 => "the one link".to_owned(),
                _ => format!("all {links} links"),
            };
            return format!(
                "{which} of device {name} stayed busy for {wait}; let the device dial more ({LINKS}), or ask later"
            );
        }
        if self.registry.is_polling(name) {
            return format!("device {name} polls, and did not take this request within {wait}");
        }
        match self.registry.last_end(name) {
            Some((end, at)) => {
                let ago = now.saturating_duration_since(at).as_secs();
                format!(
                    "device {name} is not connected; its last connection ended {ago} s ago ({end}), and it did not connect again within {wait}"
                )
            }
            None => {
                let last = match self.last_elsewhere(name, now) {
                    // Visitors do not learn which one.
                    Some(ago) => format!("another gateway had it {} s ago", ago.as_secs()),
                    None => "and was not recently".to_owned(),
                };
                format!("device {name} is not connected, {last}; it did not connect within {wait}")
            }
        }
    }
}
