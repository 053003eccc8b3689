//! The connections to each local server, and the requests that wait for one.

use std::collections::VecDeque;
use std::time::Duration;
use std::time::Instant;

use crate::engine::connections::Id;
use crate::engine::permits::Permit;
use crate::engine::permits::Permits;
use crate::engine::slab::Key;

/// The most idle connections of one server; further ones are closed when they become free.
pub(super) const POOL_MAX: usize = 256;

/// How long a request waits before an idle bound connection is closed for it: long enough for the
/// next request of that login.
pub(super) const BOUND_GRACE: Duration = Duration::from_secs(1);

/// The index of a local server in the list of its device.
pub(crate) type ServerId = usize;

/// All connections to local servers.
pub(super) struct Locals {
    /// One for each server, in their order.
    pools: Vec<Pool>,
    pub(super) alarmed: bool,
}

/// The connections to one local server.
#[derive(Default)]
pub(super) struct Pool {
    /// Idle connections for any request, the newest last.
    pub(super) idle: Vec<Id>,
    /// Counts all connections, including those that are being opened.
    pub(super) open: Permits,
    /// The permits of connections that are being opened, by exchange.
    pub(super) opening: Vec<(Key, Permit)>,
    /// Requests that wait for a connection, in order: at most one for each link and poll.
    pub(super) waiting: VecDeque<Key>,
    /// The most connections; 0 means as many as there are requests.
    pub(super) most: usize,
    /// How often the server's verification was replaced.
    pub(super) known: u32,
}

impl Pool {
    /// Returns true if another request can have a connection now.
    pub(super) fn has_room(&self) -> bool {
        !self.idle.is_empty() || self.most == 0 || self.open.unseen() < self.most
    }
}

impl Locals {
    /// One pool for each of these maxima.
    pub(super) fn new(most: impl Iterator<Item = usize>) -> Self {
        Locals {
            pools: most.map(|most| Pool { most, ..Pool::default() }).collect(),
            alarmed: false,
        }
    }

    /// The pool of a server. Exchanges and connections have only servers of the list.
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

    /// The connection for an exchange is open, or could not be opened.
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
    /// A connection to a TCP target, for this exchange only.
    Tunnel { key: Key },
    /// Idle, for any request.
    Idle { server: ServerId },
    /// Idle since this time, and reserved for this link.
    Bound { server: ServerId, link: Id, since: Instant },
}

/// The server of a connection, and [`Pool::known`] when it was made.
#[derive(Clone, Copy)]
pub(crate) struct Made {
    pub(super) server: ServerId,
    pub(super) known: u32,
}
