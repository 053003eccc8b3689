//! Lookups of names in progress, and the attempts that wait for them.

use std::net::SocketAddr;
use std::time::Instant;

use crate::device::dial_stages::Dial;
use crate::engine::slab::Key;
use crate::engine::workers::Workers;
use crate::limits::Limits;

/// The most threads for one name: one that hangs, and a second one beside it.
const PER_NAME: usize = 2;

/// The most addresses of one name that are tried.
pub(super) const ADDRESSES_MAX: usize = 64;

/// The addresses, in the resolver's order, or why there are none.
pub(crate) type Found = Result<Vec<SocketAddr>, String>;

/// The waiter for a name's addresses, and then for a connection to one of them.
pub(crate) enum Waiter {
    Dial(Box<Dial>),
    /// An exchange that needs a connection to the local server.
    Local(Key),
    /// An exchange that needs a connection to a TCP target, and the index of the target.
    Tcp {
        key: Key,
        target: usize,
    },
}

pub(super) struct Lookup {
    pub(super) number: u64,
    pub(super) host: String,
    pub(super) port: u16,
    /// Attempts wait until this time. Without waiters the lookup was given up.
    pub(super) until: Instant,
    pub(super) waiters: Vec<Waiter>,
}

/// The lookups of one event loop.
pub(super) struct Lookups {
    pub(super) running: Vec<Lookup>,
    pub(super) numbers: u64,
    pub(super) threads: Workers,
    /// An alarm is set already.
    pub(super) alarmed: bool,
}

impl Lookups {
    pub(super) fn new(limits: &Limits) -> Self {
        let threads =
            Workers::new("ptth-resolve", limits.helpers_max, 0, limits.worker_idle_timeout);
        Lookups { running: Vec::new(), numbers: 0, threads, alarmed: false }
    }

    /// Adds this waiter to a lookup of the same name that is in time, or is the last that may run.
    /// `Err` if a new lookup is needed.
    pub(super) fn join(
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
            lookup.until = until; // both lookups hang; if this one returns after all, its answer is used
        }
        lookup.waiters.push(waiter);
        Ok(())
    }

    /// The waiters whose time has expired, with their host.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(String, Waiter)> {
        let late = self.running.iter_mut().filter(|lookup| lookup.until <= now);
        late.flat_map(|lookup| {
            lookup.waiters.drain(..).map(|waiter| (lookup.host.clone(), waiter)).collect::<Vec<_>>()
        })
        .collect()
    }

    pub(super) fn next_end(&self) -> Option<Instant> {
        self.running
            .iter()
            .filter(|lookup| !lookup.waiters.is_empty())
            .map(|lookup| lookup.until)
            .min()
    }
}
