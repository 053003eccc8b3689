//! The connections to the local server, and the requests that wait for one.

use std::collections::VecDeque;
use std::time::Duration;
use std::time::Instant;

use crate::engine::connections::Id;
use crate::engine::permits::Permit;
use crate::engine::permits::Permits;
use crate::engine::slab::Key;

/// Connections that idle for the next request; more are closed when they become free.
pub(super) const POOL_MAX: usize = 256;

/// How long a request is in line before an idle bound connection goes for it: long enough for the
/// next leg of its login.
pub(super) const BOUND_GRACE: Duration = Duration::from_secs(1);

/// All connections to the local server.
#[derive(Default)]
pub(super) struct Locals {
    /// Idle ones that are anybody's, newest last.
    pub(super) idle: Vec<Id>,
    /// How many there are in all, those that are being opened included.
    pub(super) open: Permits,
    /// The places of those, by their exchanges.
    pub(super) opening: Vec<(Key, Permit)>,
    /// Requests that wait for one, in their order: one of each link and poll at most.
    pub(super) waiting: VecDeque<Key>,
    pub(super) alarmed: bool,
    /// How often it was said anew how the server is known.
    pub(super) known: u32,
}

impl Locals {
    /// What an exchange wanted to be opened is open, or will not be.
    pub(super) fn opened(&mut self, key: Key) -> Option<Permit> {
        let at = self.opening.iter().position(|(opening, _)| *opening == key)?;
        Some(self.opening.swap_remove(at).1)
    }
}

/// A connection to the local server.
pub(crate) enum Local {
    /// Its TLS handshake is in progress, for this exchange. `known`: [`Locals::known`] at its begin.
    Securing { key: Key, known: u32 },
    /// `bound`: a login that belongs to this connection went over it (NTLM, Negotiate).
    Busy { key: Key, bound: bool, known: u32 },
    /// To a TCP target: this exchange's alone.
    Tunnel { key: Key },
    /// Anybody's.
    Idle,
    /// Idle, and this link's alone, since then.
    Bound { link: Id, since: Instant },
}
