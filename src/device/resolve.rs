//! Looks up names without blocking the loop: `getaddrinfo` runs on separate threads, because it can
//! neither be polled nor cancelled.
//!
//! A name is looked up for every attempt; attempts that begin during a lookup share it.
//! If it takes longer than `resolve_timeout`, the waiting attempts give up, and its thread hangs
//! until the resolver returns: at most [`PER_NAME`] for one name, at most
//! [`Limits::helpers_max`](crate::Limits::helpers_max) in all.

use crate::device::command::Command;
use crate::device::dial_stages::LOOKUP;
use crate::device::follow_ups::FollowUp;
use crate::device::lookups::{ADDRESSES_MAX, Found, Lookup, Waiter};
use crate::device::role::DeviceRole;
use crate::device::state::State;
use crate::engine::connections::Connections;
use std::net::ToSocketAddrs;

impl DeviceRole {
    /// Begins to look up a name; `waiter` gets the result in [`FollowUp::Found`].
    pub(super) fn look_up(
        &mut self,
        cx: &mut Connections<State>,
        host: &str,
        port: u16,
        waiter: Waiter,
    ) {
        let until = cx.after(self.limits.resolve_timeout);
        let Err(waiter) = self.lookups.join(host, port, until, waiter) else {
            return self.watch_lookups(cx);
        };
        self.lookups.numbers += 1;
        let (remote, number, name) = (self.remote(), self.lookups.numbers, host.to_owned());
        let submitted = self.lookups.threads.submit(move || {
            let found = (name.as_str(), port).to_socket_addrs();
            let found =
                found.map(|all| all.take(ADDRESSES_MAX).collect()).map_err(|e| e.to_string());
            remote.send(Command::Resolved { number, found });
        });
        if !submitted {
            let why =
                "as many lookups as helpers_max allows hang already, or no thread can be started"
                    .to_owned();
            return self.looked_up(waiter, host, Err(why));
        }
        self.lookups.running.push(Lookup {
            number,
            host: host.to_owned(),
            port,
            until,
            waiters: vec![waiter],
        });
        self.watch_lookups(cx);
    }

    /// The resolver has returned.
    pub(super) fn resolved(&mut self, number: u64, found: &Found) {
        let Some(at) = self.lookups.running.iter().position(|lookup| lookup.number == number)
        else {
            return;
        };
        let lookup = self.lookups.running.remove(at);
        for waiter in lookup.waiters {
            self.looked_up(waiter, &lookup.host, found.clone());
        }
    }

    pub(super) fn lookups_are_late(&mut self, cx: &mut Connections<State>) {
        self.lookups.alarmed = false;
        let time = self.limits.resolve_timeout.as_secs_f32();
        for (host, waiter) in self.lookups.expire(cx.now()) {
            let why = format!(
                "the resolver did not answer within resolve_timeout ({time} s); check the name servers of this machine"
            );
            self.looked_up(waiter, &host, Err(why));
        }
        self.watch_lookups(cx);
    }

    fn watch_lookups(&mut self, cx: &mut Connections<State>) {
        if let Some(at) = self.lookups.next_end().filter(|_| !self.lookups.alarmed) {
            self.lookups.alarmed = true;
            cx.alarm(at, LOOKUP);
        }
    }

    fn looked_up(&mut self, waiter: Waiter, host: &str, found: Found) {
        let found = match found {
            Ok(addresses) if addresses.is_empty() => Err(format!("{host} has no address")),
            Ok(addresses) => Ok(addresses),
            Err(why) => Err(format!("{host} cannot be looked up: {why}")),
        };
        self.follow_ups.push_back(FollowUp::Found { waiter, host: host.to_owned(), found });
    }
}
