//! The connections to each local server, and the requests that wait for one.

use std::collections::VecDeque;
use std::time::Duration;
use std::time::Instant;

use crate::engine::connections::Id;
use crate::engine::permits::Permit;
use crate::engine::permits::Permits;
use crate::engine::slab::Key;

/// Connections that idle for the next request of one server; more are closed when they become free.
pub(super) const POOL_MAX: usize = 256;

/// How long a request is in line before an idle bound connection goes for it: long enough for the
/// next leg of its login.
pub(super) const BOUND_GRACE: Duration = Duration::from_secs(1);

/// The place of a local server in the list of its device.
pub(crate) type ServerId = usize;

/// All connections to local servers.
pub(super) struct Locals {
    /// One of each server, in their order.
    pools: Vec<Pool>,
    pub(super) alarmed: bool,
}

/// The connections to one local server.
#[derive(Default)]
pub(super) struct Pool {
    /// Idle ones that are anybody's, newest last.
    pub(super) idle: Vec<Id>,
    /// How many there are in all, those that are being opened included.
    pub(super) open: Permits,
    /// The places of those, by their exchanges.
    pub(super) opening: Vec<(Key, Permit)>,
    /// Requests that wait for one, in their order: one of each link and poll at most.
    pub(super) waiting: VecDeque<Key>,
    /// Most connections; 0: as many as there are requests.
    pub(super) most: usize,
    /// How often it was said anew how the server is known.
    pub(super) known: u32,
}

impl Pool {
    /// Returns true if another request can have a connection now.
    pub(super) fn has_room(&self) -> bool {
        !self.idle.is_empty() || self.most == 0 || self.open.unseen() < self.most
    }
}

impl Locals {
    /// One pool for each of these most connections.
    pub(super) fn new(most: impl Iterator<Item = usize>) -> Self {
        Locals {
            pools: most.map(|most| Pool { most, ..Pool::default() }).collect(),
            alarmed: false,
        }
    }

    /// The pool of a server. An exchange and a connection name none but those of the list.
    pub(super) fn pool(&mut self, server: ServerId) -> &mut Pool {
        &mut self.pools[server]
    }

    pub(super) fn pools(&mut self) -> impl Iterator<Item = &mut Pool> {
        self.pools.iter_mut()
    }

    /// The servers that there are.
    pub(super) fn servers(&self) -> std::ops::Range<ServerId> {
        0..self.pools.len()
    }

    /// Returns true if requests wait for a connection to any server.
    pub(super) fn has_line(&self) -> bool {
        self.pools.iter().any(|pool| !pool.waiting.is_empty())
    }

    /// What an exchange wanted to be opened is open, or will not be.
    pub(super) fn opened(&mut self, key: Key) -> Option<Permit> {
        self.pools.iter_mut().find_map(|pool| {
            let at = pool.opening.iter().position(|(opening, _)| *opening == key)?;
            Some(pool.opening.swap_remove(at).1)
        })
    }
}

/// A connection to a local server.
pub(crate) enum Local {
    /// Its TLS handshake is in progress, for this exchange.
    Securing { key: Key, made: Made },
    /// `bound`: a login that belongs to this connection went over it (NTLM, Negotiate).
    Busy { key: Key, bound: bool, made: Made },
    /// To a TCP target: this exchange's alone.
    Tunnel { key: Key },
    /// Anybody's.
    Idle { server: ServerId },
    /// Idle, and this link's alone, since then.
    Bound { server: ServerId, link: Id, since: Instant },
}

/// For which server a connection was made, and [`Pool::known`] at that time.
#[derive(Clone, Copy)]
pub(crate) struct Made {
    pub(super) server: ServerId,
    pub(super) known: u32,
}
