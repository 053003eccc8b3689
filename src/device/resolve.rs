//! Looking names up without waiting for it: `getaddrinfo` on threads of its own, since it can
//! neither be polled nor be called off.
//!
//! A name is looked up anew for every attempt; attempts that come while its look-up runs share it.
//! One that takes longer than `resolve_timeout` is given up by those who waited, and its thread
//! hangs until the resolver returns: at most [`PER_NAME`] for one name, at most
//! [`Limits::helpers_max`](crate::Limits::helpers_max) in all.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Instant;

use crate::device::role::{Command, DeviceRole, Dial, LOOKUP, State};
use crate::engine::connections::Connections;
use crate::engine::slab::Key;
use crate::engine::workers::Workers;
use crate::limits::Limits;

/// Threads that may be at work on one name: one that hangs, and one that is tried beside it.
const PER_NAME: usize = 2;
/// Addresses of one name that are tried; a resolver that knows more is not tried to the end.
const ADDRESSES_MAX: usize = 64;

/// The addresses, in the resolver's order, or why there are none.
pub(crate) type Found = Result<Vec<SocketAddr>, String>;

/// Who waits for a name's addresses.
pub(crate) enum Waiter {
    Dial(Box<Dial>),
    /// An exchange that needs a connection to the local server.
    Local(Key),
}

struct Lookup {
    number: u64,
    host: String,
    port: u16,
    /// Until then those who wait do wait. Nobody waits any more: it was given up.
    until: Instant,
    waiters: Vec<Waiter>,
}

/// The look-ups of one event loop.
pub(super) struct Lookups {
    running: Vec<Lookup>,
    numbers: u64,
    threads: Workers,
    /// An alarm is set already.
    alarmed: bool,
}

impl Lookups {
    pub(super) fn new(limits: &Limits) -> Self {
        let threads =
            Workers::new("ptth-resolve", limits.helpers_max, 0, limits.worker_idle_timeout);
        Lookups { running: Vec::new(), numbers: 0, threads, alarmed: false }
    }

    /// One that this waiter may share: of the same name, and in time, or the last that may run.
    /// `Err`: there has to be a new one.
    fn join(
        &mut self,
        host: &str,
        port: u16,
        until: Instant,
        waiter: Waiter,
    ) -> Result<(), Waiter> {
        let same = |lookup: &&mut Lookup| lookup.host == host && lookup.port == port;
        let many = self.running.iter_mut().filter(same).count() >= PER_NAME;
        let Some(lookup) = self.running.iter_mut().rfind(same) else { return Err(waiter) };
        if lookup.waiters.is_empty() && !many {
            return Err(waiter);
        }
        if lookup.waiters.is_empty() {
            lookup.until = until; // it hangs, and so does the other; should it return after all, its answer is good
        }
        lookup.waiters.push(waiter);
        Ok(())
    }

    /// Those whose time is over, with the host they waited for.
    fn expire(&mut self, now: Instant) -> Vec<(String, Waiter)> {
        let late = self.running.iter_mut().filter(|lookup| lookup.until <= now);
        late.flat_map(|lookup| {
            lookup.waiters.drain(..).map(|waiter| (lookup.host.clone(), waiter)).collect::<Vec<_>>()
        })
        .collect()
    }

    fn next_end(&self) -> Option<Instant> {
        self.running
            .iter()
            .filter(|lookup| !lookup.waiters.is_empty())
            .map(|lookup| lookup.until)
            .min()
    }
}

impl DeviceRole {
    /// Has a name looked up; `waiter` is served by [`found`](Self::found), now or later.
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
                "as many look-ups as helpers_max allows hang already, or no thread can be started"
                    .to_owned();
            return self.found(cx, waiter, host, Err(why));
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
    pub(super) fn resolved(&mut self, cx: &mut Connections<State>, number: u64, found: &Found) {
        let Some(at) = self.lookups.running.iter().position(|lookup| lookup.number == number)
        else {
            return;
        };
        let lookup = self.lookups.running.remove(at);
        for waiter in lookup.waiters {
            self.found(cx, waiter, &lookup.host, found.clone());
        }
    }

    pub(super) fn lookups_are_late(&mut self, cx: &mut Connections<State>) {
        self.lookups.alarmed = false;
        let time = self.limits.resolve_timeout.as_secs_f32();
        for (host, waiter) in self.lookups.expire(cx.now()) {
            let why = format!(
                "the resolver did not answer within resolve_timeout ({time} s); check the name servers of this machine"
            );
            self.found(cx, waiter, &host, Err(why));
        }
        self.watch_lookups(cx);
    }

    fn watch_lookups(&mut self, cx: &mut Connections<State>) {
        if let Some(at) = self.lookups.next_end().filter(|_| !self.lookups.alarmed) {
            self.lookups.alarmed = true;
            cx.alarm(at, LOOKUP);
        }
    }

    fn found(&mut self, cx: &mut Connections<State>, waiter: Waiter, host: &str, found: Found) {
        let found = match found {
            Ok(addresses) if addresses.is_empty() => Err(format!("{host} has no address")),
            Ok(addresses) => Ok(addresses),
            Err(why) => Err(format!("{host} cannot be looked up: {why}")),
        };
        match waiter {
            Waiter::Dial(dial) => self.dial_found(cx, dial, host, found),
            Waiter::Local(key) => self.local_found(cx, key, host, found),
        }
    }
}
