//! Claims: what a table that several gateways share says of a name. A claim is one gateway's, with
//! the credential and the session of the device that is connected there. It expires unless the
//! gateway renews it.
//!
//! The rules, which the table applies in one step, are those of the [registry](super::registry)
//! within one gateway: a name is one credential's (else 409); the newest session replaces the others;
//! a session that was replaced does not come back while a newer one is connected (409); gateways
//! with the same session, or with shared names, have the name together.

#![cfg_attr(not(feature = "redis"), allow(dead_code, reason = "no table is shared"))]

use std::sync::Arc;
use std::time::Duration;

use crate::gateway::registry::{Owner, Session};

/// Whatever keeps a table or a program's directory from answering.
pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

/// A device as the table knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claimant {
    /// A digest of its credential; empty: it has none.
    pub(crate) credential: Arc<str>,
    /// In hexadecimal digits; empty: it has none.
    pub(crate) session: Arc<str>,
}

impl Claimant {
    /// What a table is told of an owner. The credential itself, which may be a secret of the
    /// program's, stays here.
    pub(crate) fn of(owner: &Owner) -> Self {
        use sha2::{Digest as _, Sha256};
        let digest = |credential: &Arc<str>| hex(&Sha256::digest(credential.as_bytes())[..12]);
        let credential = owner.credential.as_ref().map(digest).unwrap_or_default();
        let session = owner.session.as_ref().map(|s: &Session| hex(s)).unwrap_or_default();
        Claimant { credential: credential.into(), session: session.into() }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a table says to a new claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All names are this gateway's. A later claim has a larger epoch.
    Granted { epoch: u64 },
    /// Another credential has one of them, at another gateway.
    Held,
    /// A newer session of the same device has one of them.
    Newer,
}

/// A claim that is to last longer.
#[derive(Clone, Debug)]
pub(crate) struct Renewal {
    pub(crate) name: Arc<str>,
    /// 0: the table did not answer when the device came, so it knows nothing of it.
    pub(crate) epoch: u64,
    pub(crate) claimant: Claimant,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewed {
    /// It lasts, with this epoch.
    Kept { epoch: u64 },
    /// A newer session is connected to another gateway.
    Newer,
    /// Another credential has the name, at another gateway.
    Held,
}

/// A name has another owner than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) name: Arc<str>,
    pub(crate) epoch: u64,
    /// The gateway that has it now.
    pub(crate) gateway: Box<str>,
    pub(crate) session: Box<str>,
}

/// A table that gateways share. Its methods block, for a bounded time, on threads of their own.
pub(crate) trait SharedTable: Send + Sync {
    /// For each name, in the same order, the gateways that have it.
    fn find(&self, names: &[&str]) -> Result<Vec<Vec<String>>, Failed>;

    /// Claims all of these names for a gateway, or none.
    fn claim(&self, by: &str, names: &[String], claimant: &Claimant) -> Result<Verdict, Failed>;

    /// Renews claims of a gateway; an answer for each, in the same order.
    fn renew(&self, by: &str, claims: &[Renewal]) -> Result<Vec<Renewed>, Failed>;

    /// Gives up a gateway's claims that still have these epochs.
    fn release(&self, by: &str, claims: &[(Arc<str>, u64)]) -> Result<(), Failed>;

    /// Notes that this gateway is there, or that it leaves.
    fn announce(&self, by: &str, is_there: bool) -> Result<bool, Failed>;

    /// Tells of changes until `tell` returns false, which it is asked at least once a second, also
    /// without any. The first call says that listening has begun.
    fn listen(&self, tell: &mut dyn FnMut(Option<Change>) -> bool) -> Result<(), Failed>;

    /// How long a claim lasts.
    fn claim_time(&self) -> Duration;
}
